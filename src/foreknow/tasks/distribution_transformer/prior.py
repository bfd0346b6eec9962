"""Distributions over priors: `ParametricMeta` and `MixtureMeta`, and how to write one.

A subclass of `MetaPrior` names its family and draws parameters; everything else follows:

    @record
    @dataclass(frozen=True)
    class Mine(MetaPrior):  # its settings, if any, are fields with annotations
        @property
        def family(self):
            return FAMILIES["gamma"]

        def draw(self, n, generator):
            return torch.rand(n, 2, generator=generator, dtype=torch.float64) + 0.5
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Generator, Tensor

from foreknow.common.errors import ConfigError
from foreknow.common.validate import check_int, check_option, check_real
from foreknow.core.pictures import Lines
from foreknow.core.prior import Draw, Prior
from foreknow.core.records import record
from foreknow.core.registry import register
from foreknow.tasks.distribution_transformer.card import CARD
from foreknow.tasks.distribution_transformer.families import FAMILIES, Family, MixtureFamily
from foreknow.tasks.distribution_transformer.supports import check_supports

TOLD = ("constant", "parameters", "swapped")
HYPER = ("gamma", "log-uniform", "normal", "uniform")


@record
@dataclass(frozen=True)
class Hyper:
    """The distribution of one parameter of a prior.

    Args:
        kind: "gamma" (concentration a, rate b), "uniform" or "log-uniform" (on [a, b]), "normal" (mean a, sd b).
        a, b: its numbers.
        least: smallest value; smaller draws are raised to it.
    """

    kind: str = "gamma"
    a: float = 1.0
    b: float = 1.0
    least: float | None = None

    def __post_init__(self) -> None:
        owner = "Hyper"
        check_option(owner, "kind", self.kind, HYPER)
        check_real(owner, "a", self.a)
        check_real(owner, "b", self.b)
        positive = self.kind in ("gamma", "log-uniform")
        if (positive and (self.a <= 0 or self.b <= 0)) or (self.kind == "normal" and self.b <= 0):
            raise ConfigError(f"{owner}: the numbers of {self.kind!r} must be positive, got {self.a:g} and {self.b:g}.")
        if "uniform" in self.kind and not self.a < self.b:
            raise ConfigError(f"{owner}: a must be less than b, got {self.a:g} and {self.b:g}.")
        if self.least is not None:
            check_real(owner, "least", self.least)

    def draw(self, n: int, generator: Generator) -> Tensor:
        """`n` values in double precision, shape (n,)."""
        place = {"generator": generator, "device": generator.device, "dtype": torch.float64}
        if self.kind == "gamma":
            shape = torch.full((n,), float(self.a), dtype=torch.float64, device=generator.device)
            value: Tensor = torch._standard_gamma(shape, generator=generator) / self.b
        elif self.kind == "normal":
            value = self.a + self.b * torch.randn(n, **place)  # type: ignore[call-overload]
        else:
            u = torch.rand(n, **place)  # type: ignore[call-overload]
            low, high = (np.log(self.a), np.log(self.b)) if self.kind == "log-uniform" else (self.a, self.b)
            value = low + (high - low) * u
            value = value.exp() if self.kind == "log-uniform" else value
        return value if self.least is None else value.clamp(min=self.least)


@dataclass(frozen=True)
class MetaPrior(Prior):
    """A distribution over priors. A draw is a prior's parameters, and one state of that prior beside it.

    A subclass is a frozen dataclass that writes `family` and `draw`.

    Args:
        told: what a network learns of the parameters: "parameters", "constant" (nothing: the control arm), or "swapped"
            (the placebo: those of another task, when it is used; it is trained with the right ones).
    """

    told: str = field(default="parameters", kw_only=True)

    @property
    @abstractmethod
    def family(self) -> Family:
        """Of the priors that are drawn."""

    @abstractmethod
    def draw(self, n: int, generator: Generator) -> Tensor:
        """Parameters of `n` priors in double precision, shape (n, p), on the generator's device."""

    def sample(
        self,
        n: int,
        *,
        generator: Generator,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Draw:
        """Parameters of `n` priors, shape (n, p); `info["state"]` holds T(x) of a state from each, shape (n, d)."""
        check_int(type(self).__name__, "n", n, low=1)
        params = self.draw(n, generator)
        state = self.family.sample(params, generator)
        place, kind = device or generator.device, dtype or torch.float32
        return Draw(params.to(place, kind), {"state": state.to(place, kind)})

    def off(self) -> Prior:
        """The same priors, of which the network is told nothing."""
        return self._telling("constant")

    def swapped(self) -> Self:
        """The placebo: the network is told the parameters of another task."""
        return self._telling("swapped")

    def _telling(self, told: str) -> Self:
        return replace(self, told=told)

    def describe(self) -> str:
        """One line for people."""
        said = {"parameters": "", "constant": "; the network is told nothing", "swapped": "; told those of another"}
        return f"priors of the family {self.family.name}{said[self.told]}"

    def picture(self, n: int, *, generator: Generator) -> Lines:
        """Densities of `n` priors, of the state's first number."""
        family = self.family
        params = self.draw(n, generator)
        states = family.sample(params.repeat_interleave(400, 0), generator).reshape(n, 400, -1)[..., :1]
        low, high = np.quantile(states.numpy(), [0.02, 0.98])
        t = torch.linspace(float(low), float(high), 300, dtype=torch.float64)
        lines: dict[str, Any] = {}
        for i in range(n):
            lines[f"prior {i + 1}"] = density_of(family, params[i], t).numpy()
        first = family.supports[0]
        label = {"positive": "log of the state", "unit": "log odds of the state", "real": "state"}[first]
        more = " (first number)" if family.n_dims > 1 else ""
        return Lines(t.numpy(), lines, label + more, "density", title=self.describe())


def density_of(family: Family, params: Tensor, t: Tensor) -> Tensor:
    """Density of T(x)'s first number at the values t."""
    if isinstance(family, MixtureFamily):
        return family.mixture(params).marginal(0).log_prob(t).exp()
    if family.n_dims == 1:
        return family.log_prob(params.expand(len(t), -1), t[:, None]).exp()
    z = (t - params[0]) / params[1]
    found: Tensor = torch.exp(-0.5 * z.square()) / (params[1] * np.sqrt(2 * np.pi))
    return found


@register(CARD)
@dataclass(frozen=True)
class ParametricMeta(MetaPrior):
    """Priors of a parametric family whose parameters are drawn independently.

    Args:
        kind: "inverse-gamma", "gamma", "beta" or "gaussian-gamma".
        hyper: the distribution of each parameter, in the family's order.
        told: see `MetaPrior`.
    """

    kind: str = "inverse-gamma"
    hyper: tuple[Hyper, ...] = (Hyper("gamma", 1.0, 1.0), Hyper("gamma", 1.0, 1.0))

    def __post_init__(self) -> None:
        check_option("ParametricMeta", "kind", self.kind, FAMILIES)
        check_option("ParametricMeta", "told", self.told, TOLD)
        names = FAMILIES[self.kind].parameters
        if not isinstance(self.hyper, Sequence) or [type(h) for h in self.hyper] != [Hyper] * len(names):
            raise ConfigError(f"ParametricMeta: hyper must hold a Hyper for each of {names}, got {self.hyper!r:.80}.")

    @property
    def family(self) -> Family:
        return FAMILIES[self.kind]

    def draw(self, n: int, generator: Generator) -> Tensor:
        # below this the state's logarithm leaves the numbers of double precision
        return torch.stack([hyper.draw(n, generator) for hyper in self.hyper], -1).clamp(min=_least(self.kind))

    @classmethod
    def examples(cls) -> list[Prior]:
        return [
            cls(),
            cls("beta", (Hyper("gamma", 4.0, 6.0),) * 2),
            cls("gamma", (Hyper("log-uniform", 0.5, 9.0),) * 2),
        ]


def _least(kind: str) -> Tensor:
    low = {"gaussian-gamma": [-float("inf"), 1e-6, 1e-2, 1e-6]}.get(kind, [1e-2, 1e-6 if "gamma" in kind else 1e-2])
    return torch.tensor(low, dtype=torch.float64)


@register(CARD)
@dataclass(frozen=True)
class MixtureMeta(MetaPrior):
    """Gaussian mixtures around a random centre, from one narrow bump to components far apart.

    Number by number of T(x): the centre is uniform on [low, high]; the components' own standard deviations are
    log-uniform between `narrow` and `wide` times `scales`; their means lie around the centre with a standard deviation
    that is again log-uniform, up to `apart` times `scales`. Correlations come from random rotations; weights are from
    a Dirichlet distribution whose concentration is log-uniform on [0.2, 5].

    Args:
        low, high: of the centres, one number each a dimension.
        scales: typical standard deviations, one a dimension.
        n_components: K.
        narrow, wide, apart: multiples of `scales`.
        supports: of the numbers of the state; all "real" if empty.
        told: see `MetaPrior`.
    """

    low: tuple[float, ...] = (-3.0,)
    high: tuple[float, ...] = (3.0,)
    scales: tuple[float, ...] = (1.0,)
    n_components: int = 4
    narrow: float = 0.1
    wide: float = 2.0
    apart: float = 3.0
    supports: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        owner = "MixtureMeta"
        if not len(self.low) == len(self.high) == len(self.scales) >= 1:
            raise ConfigError(f"{owner}: low, high and scales must be as long as one another.")
        if any(a > b for a, b in zip(self.low, self.high)) or any(s <= 0 for s in self.scales):
            raise ConfigError(f"{owner}: low must not exceed high, and scales must be positive.")
        check_int(owner, "n_components", self.n_components, low=1)
        for name in ("narrow", "wide", "apart"):
            check_real(owner, name, getattr(self, name), low=0.0, open_low=True)
        if self.narrow > self.wide:
            raise ConfigError(f"{owner}: narrow must not exceed wide, got {self.narrow:g} and {self.wide:g}.")
        if self.supports and len(check_supports(owner, self.supports)) != len(self.low):
            raise ConfigError(f"{owner}: supports must name one support a number, got {self.supports!r}.")
        check_option(owner, "told", self.told, TOLD)

    @property
    def family(self) -> MixtureFamily:
        return MixtureFamily(self.n_components, self.supports or ("real",) * len(self.low))

    def draw(self, n: int, generator: Generator) -> Tensor:
        k, d, place = self.n_components, len(self.low), generator.device
        options: Any = {"generator": generator, "device": place, "dtype": torch.float64}
        low, high, scales = (
            torch.tensor(v, dtype=torch.float64, device=place) for v in (self.low, self.high, self.scales)
        )
        centre = low + (high - low) * torch.rand(n, 1, d, **options)
        log_narrow, log_wide = np.log(self.narrow), np.log(self.wide)
        common = log_narrow + (log_wide - log_narrow) * torch.rand(n, 1, 1, **options)
        own = (common + 0.5 * torch.randn(n, k, d, **options)).clamp(log_narrow, log_wide).exp()
        reach = torch.rand(n, 1, 1, **options) * (np.log(self.apart) - log_narrow) + log_narrow
        means = centre + scales * reach.exp() * torch.randn(n, k, d, **options)
        if d == 1:
            factor = (scales * own).unsqueeze(-1)
        else:
            mixing = torch.eye(d, dtype=torch.float64, device=place) + 0.7 * torch.randn(n, k, d, d, **options)
            mixing = mixing / mixing.square().sum(-1, keepdim=True).sqrt()
            root = (scales * own).unsqueeze(-1) * mixing
            cov = root @ root.mT
            ridge = 1e-3 * torch.diag_embed((scales * own).square())
            factor = torch.linalg.cholesky(cov + ridge)
        concentration = torch.exp(np.log(0.2) + np.log(25.0) * torch.rand(n, 1, **options)).expand(n, k)
        logits = torch.log(torch._standard_gamma(concentration, generator=generator).clamp(min=1e-12))
        logits = logits.log_softmax(-1).clamp(min=-12.0).log_softmax(-1)
        low_triangle = torch.tril_indices(d, d)
        return torch.cat([logits, means.flatten(1), factor[..., low_triangle[0], low_triangle[1]].flatten(1)], -1)

    @classmethod
    def examples(cls) -> list[Prior]:
        flat = cls((-1.0, 0.0), (1.0, 2.0), (0.5, 0.2), n_components=2)
        return [cls(), flat, cls(supports=("positive",), n_components=3)]
