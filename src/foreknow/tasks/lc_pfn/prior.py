"""`CurvePrior`: learning curves as weighted sums of basis curves, seen through Gaussian noise (Adriaensen et al. 2023).

    f(t) = sum_k w_k f_k(t),   w_k ~ U(0, 1) independently,   t = 1..100
    y_t  = f(t) + sigma eps_t, ln sigma ~ N(-4, 1)
    kept only if f(100) > f(1) and 0 <= f(t) <= 1 at every epoch (the noise may leave [0, 1])

The rejection favours small weights: that is part of the prior.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Generator, Tensor

from foreknow.common.errors import ConfigError, ConvergenceError, InputError
from foreknow.common.validate import check_bool, check_int, check_option
from foreknow.core.pictures import Lines
from foreknow.core.prior import Draw, Prior
from foreknow.core.registry import register
from foreknow.tasks.lc_pfn.card import CARD
from foreknow.tasks.lc_pfn.families import FAMILIES, PUBLISHED, WIDE, Parameter

VARIANTS = ("paper", "uniform")
LOG_SIGMA = Parameter("ln sigma", "normal", -4.0, 1.0)
_PROPOSALS = 2**15  # of one round: few enough that their curves stay near the cache
_MOST_PROPOSALS = 2**18  # of one round on an accelerator, which wants few rounds
_LEAST_ACCEPTED = 1e-5


@register(CARD)
@dataclass(frozen=True)
class CurvePrior(Prior):
    """Learning curves that rise, with values in [0, 1].

    Args:
        families: basis curves, names of `foreknow.tasks.lc_pfn.families.FAMILIES`; the paper's three by default.
        variant: "paper", or "uniform": the released code's uninformative parameter priors (the paper's families only).
        n_epochs: epochs of a curve, T.
        shuffled: put the values of each curve in random order. The placebo: values stay, what time says of them goes.
    """

    families: tuple[str, ...] = PUBLISHED
    variant: str = "paper"
    n_epochs: int = 100
    shuffled: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.families, tuple) or not self.families or len({*self.families}) != len(self.families):
            raise ConfigError(f"CurvePrior: families must be a tuple of different names, got {self.families!r}.")
        for name in self.families:
            check_option("CurvePrior", "families", name, FAMILIES)
        check_option("CurvePrior", "variant", self.variant, VARIANTS)
        check_int("CurvePrior", "n_epochs", self.n_epochs, low=2)
        check_bool("CurvePrior", "shuffled", self.shuffled)
        missing = [name for name in self.families if FAMILIES[name].uninformative is None]
        if self.variant == "uniform" and missing:
            raise ConfigError(
                f"CurvePrior: the uniform variant is defined for {', '.join(PUBLISHED)} only, not for {missing}."
            )

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """What a parameter vector holds: weights, the parameters of each family in turn, ln sigma."""
        weights = tuple(Parameter(f"w_{name}", "uniform", 0.0, 1.0) for name in self.families)
        return (*weights, *(p for name in self.families for p in self._of(name)), LOG_SIGMA)

    def sample(
        self,
        n: int,
        *,
        generator: Generator,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Draw:
        """`n` noisy curves, shape (n, n_epochs).

        `info` holds `clean` (the same curves without noise), `theta` (parameter vectors on their raw scales, see
        `parameters`) and `acceptance` (share of the proposals that were kept).
        """
        check_int("CurvePrior", "n", n, low=1)
        dtype = dtype or torch.float32
        thetas, curves, rate = self._accepted(n, generator, dtype)
        sigma = thetas[:, -1:].exp()
        noise = torch.randn(curves.shape, generator=generator, device=generator.device, dtype=dtype)
        noisy = curves + sigma * noise
        if self.shuffled:
            order = torch.rand(noisy.shape, generator=generator, device=generator.device).argsort(dim=1)
            noisy, curves = noisy.gather(1, order), curves.gather(1, order)
        place = device or generator.device
        info = {"clean": curves.to(place), "theta": thetas.to(place), "acceptance": rate}
        return Draw(noisy.to(place), info)

    def curve(self, theta: Tensor, epochs: Tensor) -> Tensor:
        """The noiseless curve of parameter vectors (..., d) at epochs (T,): shape (..., T)."""
        log_t, start = epochs.to(theta).log(), len(self.families)
        total = torch.zeros((), dtype=theta.dtype, device=theta.device)
        for k, name in enumerate(self.families):
            own = self._of(name)
            columns = (p.natural(theta[..., start + i, None]) for i, p in enumerate(own))
            total = total + theta[..., k, None] * FAMILIES[name].formula(tuple(columns), log_t)
            start += len(own)
        return total

    def log_density(self, theta: Tensor) -> Tensor:
        """Log prior density of parameter vectors (..., d), up to the constant that the rejection adds: shape (...)."""
        if theta.shape[-1] != len(self.parameters):
            raise InputError(f"CurvePrior: a parameter vector has {len(self.parameters)} entries, got {theta.shape}.")
        total = torch.stack([p.log_prob(theta[..., i]) for i, p in enumerate(self.parameters)]).sum(0)
        valid = self._valid(self.curve(theta, self._epochs(theta)))
        return torch.where(valid, total, -math.inf)

    def log_likelihood(self, theta: Tensor, epochs: Tensor, values: Tensor) -> Tensor:
        """Log density of values (T,) measured at epochs (T,), given parameter vectors (..., d): shape (...)."""
        z = (values - self.curve(theta, epochs)) * (-theta[..., -1:]).exp()
        return (-0.5 * z.square() - theta[..., -1:] - 0.5 * math.log(2 * math.pi)).sum(-1)

    @classmethod
    def wide(cls) -> CurvePrior:
        """Six families instead of three: those of the paper, and three that can stay flat before they rise."""
        return cls(families=WIDE)

    def off(self) -> Prior:
        """The released code's uninformative parameter priors on the same families."""
        return replace(self, variant="uniform", families=PUBLISHED)

    def describe(self) -> str:
        """One line for people."""
        kind = "uninformative" if self.variant == "uniform" else "published"
        order = ", values in random order" if self.shuffled else ""
        return f"learning curves of {self.n_epochs} epochs: {' + '.join(self.families)}, {kind} parameters{order}"

    def picture(self, n: int, *, generator: Generator) -> Lines:
        """`n` noisy curves."""
        drawn = self.sample(n, generator=generator, device="cpu").value.numpy()
        epochs = torch.arange(1, self.n_epochs + 1).numpy()
        lines: dict[str, Any] = {f"draw {i + 1}": row for i, row in enumerate(drawn)}
        return Lines(epochs, lines, "epoch", "value", title=self.describe())

    @classmethod
    def examples(cls) -> list[Prior]:
        return [cls(), cls(families=("pow4", "mmf", "hill"), n_epochs=30), cls(n_epochs=20, shuffled=True)]

    def _of(self, name: str) -> tuple[Parameter, ...]:
        family = FAMILIES[name]
        chosen = family.uninformative if self.variant == "uniform" else family.parameters
        assert chosen is not None  # checked when the prior was made
        return chosen

    def _epochs(self, like: Tensor) -> Tensor:
        return torch.arange(1, self.n_epochs + 1, dtype=like.dtype, device=like.device)

    def _valid(self, curves: Tensor) -> Tensor:
        """Which curves, shape (..., T), the prior keeps; NaN fails every comparison."""
        return (curves[..., -1] > curves[..., 0]) & ((curves >= 0) & (curves <= 1)).all(-1)

    def _propose(self, n: int, generator: Generator, dtype: torch.dtype) -> Tensor:
        place = generator.device
        theta = torch.empty(n, len(self.parameters), device=place, dtype=dtype)
        for i, p in enumerate(self.parameters):
            if p.kind == "uniform":
                theta[:, i] = torch.rand(n, generator=generator, device=place, dtype=dtype) * (p.b - p.a) + p.a
            else:
                theta[:, i] = torch.randn(n, generator=generator, device=place, dtype=dtype) * p.b + p.a
        return theta

    def _accepted(self, n: int, generator: Generator, dtype: torch.dtype) -> tuple[Tensor, Tensor, float]:
        """`n` parameter vectors and noiseless curves that the prior keeps, and the share of proposals kept."""
        most = _PROPOSALS if generator.device.type == "cpu" else _MOST_PROPOSALS
        thetas: list[Tensor] = []
        curves: list[Tensor] = []
        kept, proposed, rate = 0, 0, 0.2
        while kept < n:
            size = min(most, math.ceil(1.2 * (n - kept) / rate) + 64)
            theta = self._propose(size, generator, dtype)
            epochs = self._epochs(theta)
            theta = theta[self._valid(self.curve(theta, epochs[[0, -1]]))]  # the ends alone refuse most
            curve = self.curve(theta, epochs)
            valid = self._valid(curve)
            thetas.append(theta[valid])
            curves.append(curve[valid])
            kept, proposed = kept + len(thetas[-1]), proposed + size
            rate = max(kept / proposed, _LEAST_ACCEPTED)
            if kept < _LEAST_ACCEPTED * proposed and proposed > 5 / _LEAST_ACCEPTED:
                raise ConvergenceError(
                    f"CurvePrior: of {proposed} curves of {', '.join(self.families)}, {kept} rise inside [0, 1].",
                    hint="Choose other families.",
                    statistics={"proposed": float(proposed), "kept": float(kept)},
                )
        return torch.cat(thetas)[:n], torch.cat(curves)[:n], kept / proposed
