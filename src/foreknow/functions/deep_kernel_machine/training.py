"""Learning a deep kernel machine: first the infinitely wide one's scales, noise and inducing points, then the Grams.

The order matters. Gram matrices are free enough to fit what a noise or a lengthscale that is still too small calls
signal; with those where the infinitely wide network wants them, the matrices move only where it pays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from foreknow.common.errors import ConvergenceError
from foreknow.functions.deep_kernel_machine.machine import DeepKernelNetwork

_PATIENCE = 4
"""Looks at the rows held out without gain after which a try is given up."""
Build = Callable[[float, Tensor], DeepKernelNetwork]
"""(nu, rows) -> a fresh network for them."""
Watch = Callable[[int], bool | None]


@dataclass(frozen=True)
class Budget:
    """Steps of the optimiser.

    Args:
        n_warm: with all R_l = I.
        n_steps: at most, thereafter.
        lr_warm, lr: highest rates of Adam in the two parts; each rises, and falls again to nearly zero.
        batch_size: rows a step; None takes all.
        every: steps between looks at the rows held out.
        optimizer: "adam", or "lbfgs" on all rows.
    """

    n_warm: int
    n_steps: int
    lr_warm: float
    lr: float
    batch_size: int | None = None
    every: int = 20
    optimizer: str = "adam"


def warm(
    network: DeepKernelNetwork, x: Tensor, y: Tensor, budget: Budget, *, generator: Generator
) -> DeepKernelNetwork:
    """Learn all but the Gram matrices, which stay those of the infinitely wide network.

    Args:
        network: changed in place.
        x: rows, shape (T, D).
        y: targets (T, 1) or codes (T,).
        budget: of the steps.
        generator: of batches.
    """
    network.chain.held = True
    _optimise(network, x, y, budget, budget.n_warm, budget.lr_warm, budget.n_warm, generator, None)
    network.chain.held = False
    return network


def train(
    network: DeepKernelNetwork,
    x: Tensor,
    y: Tensor,
    budget: Budget,
    *,
    generator: Generator,
    stop_at: int | None = None,
    watch: Watch | None = None,
) -> DeepKernelNetwork:
    """Make the bound large over everything, and store what predictions need.

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
    last = budget.n_steps if stop_at is None else stop_at
    _optimise(network, x, y, budget, budget.n_steps, budget.lr, last, generator, watch)
    network.settle(x, y)
    return network


def _optimise(
    network: DeepKernelNetwork,
    x: Tensor,
    y: Tensor,
    budget: Budget,
    n_steps: int,
    lr: float,
    last: int,
    generator: Generator,
    watch: Watch | None,
) -> None:
    n = len(x)
    free = [parameter for parameter in network.parameters() if parameter.requires_grad]

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
        optimiser = torch.optim.Adam(free, lr=lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, n_steps))
        for step in range(last):
            closure()
            optimiser.step()
            schedule.step()
            if watch is not None and ((step + 1) % budget.every == 0 or step + 1 == last):
                network.settle(x, y)
                if watch(step + 1):
                    break


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
    build: Build,
    x: Tensor,
    y: Tensor,
    nus: Sequence[float],
    budget: Budget,
    *,
    generator: Generator,
    held: Sequence[Tensor],
    stopping: bool = True,
) -> tuple[float, int, list[dict[str, float]]]:
    """The nu and the number of steps with the least mean loss on rows held out, and all losses that were seen.

    The infinitely wide network is where all tries start from, so it is seen in any case, as nu = inf after no step.
    A choice it is only where `nus` has it, after as many steps as any other nu may have.

    Args:
        build: makes a network for a nu and the rows it learns from.
        x, y: all rows.
        nus: to try.
        budget: of each try.
        generator: of batches.
        held: indices of the rows held out, one tensor for each time that rows are.
        stopping: whether a try may end early; else only what stands after all steps is a choice.
    """
    losses: dict[float, list[dict[int, float]]] = {nu: [] for nu in (math.inf, *nus)}
    for fold in held:
        kept = torch.ones(len(x), dtype=torch.bool, device=x.device)
        kept[fold] = False
        wide = warm(build(math.inf, x[kept]), x[kept], y[kept], budget, generator=generator)
        wide.settle(x[kept], y[kept])
        losses[math.inf].append({0: held_out_loss(wide, x[fold], y[fold])})
        start = wide.state_dict()
        for nu in dict.fromkeys(nus):
            network = build(nu, x[kept])
            network.load_state_dict(start)
            found: dict[int, float] = {}
            watch = _watch(network, x[fold], y[fold], found, stopping)
            train(network, x[kept], y[kept], budget, generator=generator, watch=watch)
            if math.isinf(nu):
                losses[nu][-1] |= found
            else:
                losses[nu].append(found)
    seen = [
        {"nu": nu, "steps": float(step), "loss": sum(found[step] for found in folds) / len(folds)}
        for nu, folds in losses.items()
        for step in folds[0]
        if all(step in found for found in folds)
    ]
    eligible = [entry for entry in seen if math.isfinite(entry["loss"]) and entry["steps"] > 0]
    best = min(eligible, key=lambda entry: entry["loss"], default=None)
    if best is None:
        raise ConvergenceError("no setting gave a finite loss on the rows held out.", hint="Lower lr, or raise jitter.")
    return best["nu"], int(best["steps"]), seen


def _watch(network: DeepKernelNetwork, x: Tensor, y: Tensor, found: dict[int, float], stopping: bool) -> Watch:
    """Notes in `found` the loss on the rows held out, by the number of steps, and ends a training that only loses.

    Without `stopping` it ends none, and notes the last loss alone.
    """

    def look(step: int) -> bool:
        if not stopping:
            found.clear()
        found[step] = held_out_loss(network, x, y)
        return len(found) - 1 - list(found.values()).index(min(found.values())) > _PATIENCE

    return look
