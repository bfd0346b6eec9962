"""Learning a deep kernel machine: Adam on the bound, with rows held out to say when to stop and which nu."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from foreknow.common.errors import ConvergenceError
from foreknow.functions.deep_kernel_machine.machine import DeepKernelNetwork

_PATIENCE = 3
"""Looks at the rows held out without gain after which a try is given up."""
Build = Callable[[float, Tensor], DeepKernelNetwork]
"""(nu, rows) -> a fresh network for them."""


@dataclass(frozen=True)
class Budget:
    """Steps of Adam.

    Args:
        n_steps: at most.
        lr: highest rate; it rises, and falls again to nearly zero.
        batch_size: rows a step; None takes all.
        every: steps between looks at the rows held out.
        optimizer: "adam", or "lbfgs" on all rows.
    """

    n_steps: int
    lr: float
    batch_size: int | None = None
    every: int = 20
    optimizer: str = "adam"


def train(
    network: DeepKernelNetwork,
    x: Tensor,
    y: Tensor,
    budget: Budget,
    *,
    generator: Generator,
    stop_at: int | None = None,
    watch: Callable[[int], bool | None] | None = None,
) -> DeepKernelNetwork:
    """Make the bound large, and store what predictions need.

    Args:
        network: changed in place.
        x: rows, shape (T, D).
        y: targets (T, 1) or codes (T,).
        budget: of the steps.
        generator: of batches.
        stop_at: leave off after so many steps of the schedule of `budget`.
        watch: told the number of steps done, every so often; True from it ends the training.

    Raises:
        ConvergenceError: the bound is not a number.
    """
    n = len(x)
    free = [parameter for parameter in network.parameters() if parameter.requires_grad]
    last = budget.n_steps if stop_at is None else stop_at

    def closure() -> Tensor:
        optimiser.zero_grad()
        whole = budget.batch_size is None or budget.batch_size >= n
        rows = slice(None) if whole else torch.randint(n, (budget.batch_size or n,), generator=generator).to(x.device)
        loss = -network.objective(x[rows], y[rows], n)
        if not bool(loss.detach().isfinite()):
            raise ConvergenceError("the bound is not a number.", hint="Lower lr, or raise jitter.")
        torch.autograd.backward(loss)
        return loss

    if budget.optimizer == "lbfgs":
        optimiser: torch.optim.Optimizer = torch.optim.LBFGS(
            free, max_iter=budget.every, line_search_fn="strong_wolfe", history_size=20
        )
        for done in range(0, last, budget.every):
            optimiser.step(closure)  # type: ignore[arg-type]
            if watch is not None:
                network.settle(x, y)
                if watch(done + budget.every):
                    break
    else:
        optimiser = torch.optim.Adam(free, lr=budget.lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, budget.n_steps))
        for step in range(last):
            closure()
            optimiser.step()
            schedule.step()
            if watch is not None and ((step + 1) % budget.every == 0 or step + 1 == last):
                network.settle(x, y)
                if watch(step + 1):
                    break
    network.settle(x, y)
    return network


def _rate(step: int, n_steps: int) -> float:
    """A tenth of the steps up, then down along a cosine."""
    rise = max(1, n_steps // 10)
    if step < rise:
        return (step + 1) / rise
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, n_steps - rise)))


def held_out_loss(network: DeepKernelNetwork, x: Tensor, y: Tensor) -> float:
    """Mean negative log density, or log loss, of rows in nats."""
    with torch.no_grad():
        if network.classes:
            return float(torch.nn.functional.nll_loss(network(x), y))
        mean, variance = network.moments(x)
        total = variance + network.log_noise.exp()
        return float((0.5 * ((y - mean).square() / total + (2 * math.pi * total).log())).mean())


def choose(
    build: Build, x: Tensor, y: Tensor, nus: Sequence[float], budget: Budget, *, generator: Generator, held: Tensor
) -> tuple[float, int, list[dict[str, float]]]:
    """The nu and the number of steps with the least loss on the rows `held`, and all losses that were seen.

    Args:
        build: makes a network for a nu and the rows it learns from.
        x, y: all rows.
        nus: to try.
        budget: of each try.
        generator: of batches.
        held: indices of the rows held out.
    """
    kept = torch.ones(len(x), dtype=torch.bool, device=x.device)
    kept[held] = False
    seen: list[dict[str, float]] = []
    for nu in nus:
        network = build(nu, x[kept])
        losses: list[float] = []

        def look(step: int, network: DeepKernelNetwork = network, nu: float = nu, losses: list[float] = losses) -> bool:
            losses.append(held_out_loss(network, x[held], y[held]))
            seen.append({"nu": nu, "steps": float(step), "loss": losses[-1]})
            return len(losses) - int(np.argmin(losses)) > _PATIENCE

        train(network, x[kept], y[kept], budget, generator=generator, watch=look)
    best = min((entry for entry in seen if math.isfinite(entry["loss"])), key=lambda entry: entry["loss"], default=None)
    if best is None:
        raise ConvergenceError("no setting gave a finite loss on the rows held out.", hint="Lower lr, or raise jitter.")
    return best["nu"], int(best["steps"]), seen
