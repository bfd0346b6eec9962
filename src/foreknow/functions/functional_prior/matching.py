"""Matching a weight prior to a prior over functions by their Wasserstein distance.

min over psi of  max over 1-Lipschitz phi of  E phi(f_nn(X; psi)) - E phi(f_target(X)).   (equation 15 of the paper)
phi is a perceptron with two hidden layers of softplus units, made anew every outer step; it is kept near Lipschitz 1 by
10 (|grad phi| - 1)^2 at random points between the two kinds of functions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Generator, Tensor
from torch.nn.functional import softplus

from foreknow.common.errors import ConvergenceError, InputError
from foreknow.common.progress import Reporter
from foreknow.common.validate import check_int, check_real
from foreknow.core.records import record
from foreknow.functions.functional_prior.targets import FunctionPrior
from foreknow.nn.bayes import FlatNetwork, WeightPrior

MANY_COLUMNS = 100
"""With more columns than this, uniform points say nothing of the data, and rows only are measured at."""


@record
@dataclass(frozen=True)
class MatchSettings:
    """Sizes and steps of matching; the defaults are those published for tables.

    Args:
        n_outer: steps of the weight prior (RMSprop).
        n_inner: steps of the critic (Adagrad) for each of these, at most.
        n_functions: functions drawn of either kind.
        n_points: rows they are compared at; the critic's input size, hence the same in every step.
        lr, lr_critic: rates.
        penalty: weight of the gradient penalty.
        width: units of the critic's hidden layers.
        stop: the critic stops when the norm of its gradient is smaller.
    """

    n_outer: int = 200
    n_inner: int = 200
    n_functions: int = 128
    n_points: int = 100
    lr: float = 0.05
    lr_critic: float = 0.02
    penalty: float = 10.0
    width: int = 200
    stop: float = 0.01

    def __post_init__(self) -> None:
        for name in ("n_outer", "n_inner", "n_functions", "n_points", "width"):
            check_int("MatchSettings", name, getattr(self, name), low=1)
        for name in ("lr", "lr_critic"):
            check_real("MatchSettings", name, getattr(self, name), low=0, open_low=True)
        for name in ("penalty", "stop"):
            check_real("MatchSettings", name, getattr(self, name), low=0)


@dataclass(frozen=True)
class Measurement:
    """Where functions are compared.

    Args:
        rows: shape (n, d), float32.
        share: of the rows of a step that are taken from `rows`; the others are uniform in their range.
        fixed: take all rows, the same in every step.
    """

    rows: Tensor
    share: float = 0.7
    fixed: bool = False

    @classmethod
    def of_rows(cls, rows: Tensor, share: float = 0.7) -> Measurement:
        """Rows of a table: 70 of 100 points are rows, the others uniform in their range (none with many columns)."""
        if rows.ndim < 2 or not len(rows):
            raise InputError(f"Measurement: expected rows (n, ...), got shape {tuple(rows.shape)}.")
        return cls(rows, share=1.0 if rows.ndim > 2 or rows.shape[1] > MANY_COLUMNS else share)

    @classmethod
    def grid(cls, low: float, high: float, n_points: int) -> Measurement:
        """Evenly spaced points of one column."""
        return cls(torch.linspace(low, high, n_points)[:, None], fixed=True)

    def n_points(self, wanted: int) -> int:
        """How many rows a step has."""
        return len(self.rows) if self.fixed else wanted

    def take(self, wanted: int, generator: Generator) -> Tensor:
        """The rows of one step, shape (n_points(wanted), d)."""
        if self.fixed:
            return self.rows
        n_rows = round(self.share * wanted)
        place = generator.device
        shuffled = [
            torch.randperm(len(self.rows), generator=generator, device=place)
            for _ in range(-(-n_rows // len(self.rows)))
        ]
        parts = [self.rows[torch.cat(shuffled)[:n_rows].to(self.rows.device)]]
        if n_rows < wanted:
            low, high = self.rows.amin(0), self.rows.amax(0)
            u = torch.rand(wanted - n_rows, self.rows.shape[1], generator=generator, device=place).to(self.rows)
            parts.append(low + (high - low) * u)
        return torch.cat(parts)


class Critic:
    """phi for every output: perceptrons n_points -> width -> width -> 1, all outputs at once.

    Args:
        n_outputs: number of perceptrons.
        n_points: inputs of each.
        width: hidden units.
        generator: of the weights, Xavier normal with N(0, 1) biases.
    """

    def __init__(
        self, n_outputs: int, n_points: int, width: int, *, generator: Generator, device: torch.device
    ) -> None:
        sizes = (n_points, width, width, 1)
        self.parameters: list[Tensor] = []
        for fan_in, fan_out in pairwise(sizes):
            matrix = torch.randn(n_outputs, fan_in, fan_out, generator=generator, device=generator.device)
            bias = torch.randn(n_outputs, 1, fan_out, generator=generator, device=generator.device)
            self.parameters += [matrix * math.sqrt(2 / (fan_in + fan_out)), bias]
        self.parameters = [value.to(device).requires_grad_(True) for value in self.parameters]

    def __call__(self, f: Tensor) -> Tensor:
        """Values (n_outputs, n) at functions (n_outputs, n, n_points)."""
        w1, b1, w2, b2, w3, b3 = self.parameters
        h = softplus(torch.baddbmm(b2, softplus(torch.baddbmm(b1, f, w1)), w2))
        return torch.baddbmm(b3, h, w3).squeeze(-1)

    def slope(self, f: Tensor) -> Tensor:
        """Gradient of the value in the function, same shape as `f`, written out: cheaper than differentiating twice."""
        w1, b1, w2, b2, w3, _ = self.parameters
        a1 = torch.baddbmm(b1, f, w1)
        a2 = torch.baddbmm(b2, softplus(a1), w2)
        back = torch.bmm(torch.sigmoid(a2) * w3.transpose(1, 2), w2.transpose(1, 2))
        return torch.bmm(torch.sigmoid(a1) * back, w1.transpose(1, 2))


def train_critic(nn: Tensor, target: Tensor, settings: MatchSettings, *, generator: Generator) -> tuple[Critic, float]:
    """A fresh critic that tells the two bags of functions (n_outputs, n, n_points) apart, and its last objective."""
    n_outputs, n, n_points = nn.shape
    critic = Critic(n_outputs, n_points, settings.width, generator=generator, device=nn.device)
    optimiser = torch.optim.Adagrad(critic.parameters, lr=settings.lr_critic)
    both, objective = torch.cat([nn, target], 1), math.nan
    for _ in range(settings.n_inner):
        share = torch.rand(n_outputs, n, 1, generator=generator, device=generator.device).to(nn)
        value = critic(both)
        gap = value[:, :n].mean(1) - value[:, n:].mean(1)
        norm = critic.slope(share * nn + (1 - share) * target).norm(dim=-1)
        loss = (settings.penalty * (norm - 1).square().mean(1) - gap).sum()
        optimiser.zero_grad()
        loss.backward()
        objective = float(gap.detach().sum())
        squares = [parameter.grad.square().sum() for parameter in critic.parameters if parameter.grad is not None]
        if float(torch.stack(squares).sum().sqrt()) < settings.stop:
            break
        optimiser.step()
    return critic, objective


def target_functions(target: FunctionPrior, x: Tensor, n: int, n_outputs: int, generator: Generator) -> Tensor:
    """Draws of the target, one independent function an output: (n_outputs, n, m), float32."""
    values = target.sample(n * n_outputs, x=x.flatten(1), generator=generator, device=x.device).value
    return values.reshape(n_outputs, n, -1)


def match_weights(
    prior: WeightPrior,
    network: FlatNetwork,
    target: FunctionPrior,
    rows: Measurement,
    settings: MatchSettings,
    *,
    generator: Generator,
    reporter: Reporter | None = None,
) -> list[float]:
    """Tune the parameters of `prior` in place.

    Returns:
        The critic's objective at the end of every outer step.

    Raises:
        ConvergenceError: the prior's parameters are no longer finite.
    """
    optimiser = torch.optim.RMSprop(prior.parameters(), lr=settings.lr)
    history: list[float] = []
    for number in range(settings.n_outer):
        x = rows.take(settings.n_points, generator)
        functions = network(prior.draw(settings.n_functions, generator), x).movedim(-1, 0)  # (out, n, m)
        wanted = target_functions(target, x, settings.n_functions, functions.shape[0], generator)
        critic, objective = train_critic(functions.detach(), wanted, settings, generator=generator)
        gap = (critic(functions).mean(1) - critic(wanted).mean(1)).sum()
        optimiser.zero_grad()
        gap.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        history.append(objective)
        if not all(bool(parameter.isfinite().all()) for parameter in prior.parameters()):
            raise ConvergenceError(
                f"match: parameters of the prior are not finite after {number + 1} steps.", hint="Lower lr."
            )
        if reporter is not None:
            reporter.advance(number + 1, "matching the prior")
    return history
