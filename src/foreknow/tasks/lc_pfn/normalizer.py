"""Between the user's metric and the prior's: curves that rise within [0, 1] (appendix of Adriaensen et al. 2023).

    u(y) = 2 (y - sl) / (su - sl) - 1
    g(y) = a / (1 + exp(-u(y))) + b,  with a, b such that g maps the hard bounds [lb, ub] to [0, 1]
    z(y) = g(y), or 1 - g(y) where smaller is better

Without a soft range [sl, su], and with finite bounds, g is linear instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreknow.common.errors import ConfigError, InputError
from foreknow.core.predictive import Affine, Bar, Predictive, Transform, Transformed

_HALF_MEDIAN = 0.6744897501960817  # a tail of a bar distribution has this many scales within its bucket


@dataclass(frozen=True)
class Normalizer:
    """The map of a metric to the prior's scale, its inverse and its Jacobian. It never looks at the curve.

    Args:
        bounds: hard bounds (lb, ub) of the metric; either may be infinite.
        soft_bounds: range (sl, su) in which most values are expected; needed if a bound is infinite.
        minimize: whether smaller values are better.

    Raises:
        ConfigError: bounds that are no increasing pairs, or no soft range with an infinite bound.
    """

    bounds: tuple[float, float] = (0.0, 1.0)
    soft_bounds: tuple[float, float] | None = None
    minimize: bool = False

    def __post_init__(self) -> None:
        lb, ub = _pair("bounds", self.bounds)
        object.__setattr__(self, "bounds", (lb, ub))
        if self.soft_bounds is None:
            if math.isinf(lb) or math.isinf(ub):
                raise ConfigError(
                    f"CurveExtrapolator: bounds {self.bounds} are not finite, so soft_bounds must be given.",
                    hint="Give the range most values are expected in, e.g. soft_bounds=(0, 2.3) for the log loss of "
                    "10 classes.",
                )
            return
        low, high = _pair("soft_bounds", self.soft_bounds)
        object.__setattr__(self, "soft_bounds", (low, high))
        if math.isinf(low) or math.isinf(high):
            raise ConfigError(f"CurveExtrapolator: soft_bounds must be finite, got {self.soft_bounds!r}.")
        if not self._ends[1] - self._ends[0] > 1e-9:
            raise ConfigError(
                f"CurveExtrapolator: soft_bounds {self.soft_bounds} lie so far from bounds {self.bounds} that nothing "
                "can be told apart between them."
            )

    @property
    def _ends(self) -> tuple[float, float]:
        """Logistic values of the hard bounds; 0 and 1 where these are infinite or too far away for a float."""
        assert self.soft_bounds is not None  # asked for the logistic map only
        low, high = self.soft_bounds
        first, last = (_logistic(2 * (bound - low) / (high - low) - 1) for bound in self.bounds)
        return first, last

    def check(self, owner: str, values: NDArray[np.float64], name: str = "") -> None:
        """Refuse values outside the hard bounds."""
        lb, ub = self.bounds
        bad = values[(values < lb) | (values > ub)]
        if len(bad):
            raise InputError(
                f"{owner}: {f'curve {name!r}' if name else 'the curve'} has the value {bad[0]:g} outside "
                f"bounds={self.bounds} ({len(bad)} value(s) in all).",
                hint="Set bounds (and soft_bounds where they are infinite) to those of the metric: bounds=(0, 100) for "
                "percent, bounds=(0, inf), soft_bounds=(0, 2.3), minimize=True for a log loss.",
            )

    def normalize(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values of the metric on the prior's scale, [0, 1]."""
        g = self.transform.inverse(torch.as_tensor(values, dtype=torch.float64)).numpy()
        return np.asarray(np.clip(g, 0.0, 1.0))  # rounding only: `check` has refused the rest

    @property
    def transform(self) -> Transform:
        """The increasing map from [0, 1] (mirrored if smaller is better) to the metric, y = g^-1."""
        if self.soft_bounds is None:
            lb, ub = self.bounds
            shift, scale = torch.tensor([lb, ub - lb], dtype=torch.float64)
            return Affine(shift, scale)
        return _Logit(self.soft_bounds, self._ends)

    def to_prior(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values as the network wants them: in [0, 1], better is larger."""
        g = self.normalize(values)
        return 1.0 - g if self.minimize else g

    def to_user(self, bar: Bar) -> Predictive:
        """The network's distribution in the user's units, conditioned on the metric's hard bounds."""
        inside = within_unit(bar)
        if self.minimize:
            inside = Bar(inside.logits.flip(-1), 1.0 - inside.borders.flip(0), bounded=True)
        if self.soft_bounds is None and self.bounds == (0.0, 1.0):
            return inside
        return Transformed(inside, self.transform)


class _Logit(Transform):
    """y = g^-1(z) of the logistic map; z in [0, 1]."""

    def __init__(self, soft: tuple[float, float], ends: tuple[float, float]) -> None:
        self.soft, self.ends = soft, ends

    def forward(self, z: Tensor) -> Tensor:
        low, high = self.soft
        return low + (high - low) * (torch.logit(self._share(z)) + 1) / 2

    def inverse(self, y: Tensor) -> Tensor:
        low, high = self.soft
        first, last = self.ends
        return (torch.sigmoid(2 * (y - low) / (high - low) - 1) - first) / (last - first)

    def log_abs_det(self, z: Tensor) -> Tensor:
        low, high = self.soft
        share = self._share(z)
        return math.log((high - low) / 2 * (self.ends[1] - self.ends[0])) - share.log() - (-share).log1p()

    def _share(self, z: Tensor) -> Tensor:
        """The logistic value s of z = (s - s(lb)) / (s(ub) - s(lb)), kept off 0 and 1, where y is infinite."""
        first, last = self.ends
        tiny = torch.finfo(z.dtype).eps
        return (first + (last - first) * z).clamp(tiny, 1 - tiny)


def within_unit(bar: Bar) -> Bar:
    """`bar` conditioned on [0, 1]: buckets outside go, those that reach over an end keep the part inside."""
    borders, last = bar.borders.double(), bar.borders.numel() - 2
    low = int((borders[1:-1] <= 0).sum())  # the bucket that holds 0
    high = last - int((borders[1:-1] >= 1).sum())
    widths = borders.diff()
    share = torch.zeros(high - low + 1, dtype=torch.float64, device=borders.device)
    share[0] += _log_share(borders[low + 1], widths[low], tail=low == 0)
    share[-1] += _log_share(1 - borders[high], widths[high], tail=high == last)
    ends = borders.new_tensor([0.0, 1.0])
    inner = torch.cat([ends[:1], borders[low + 1 : high + 1], ends[1:]])
    return Bar(bar.logits[..., low : high + 1] + share.to(bar.logits), inner, bounded=True)


def _log_share(inside: Tensor, width: Tensor, *, tail: bool) -> Tensor:
    """Log of the share of a bucket's mass within `inside` of its inner border; a tail is half a normal curve."""
    if tail:
        return torch.erf(inside * _HALF_MEDIAN / width / math.sqrt(2)).log()
    return (inside / width).log()


def _logistic(u: float) -> float:
    return 0.0 if u < -700 else 1.0 / (1.0 + math.exp(-u))


def _pair(name: str, given: object) -> tuple[float, float]:
    try:
        low, high = (float(value) for value in given)  # type: ignore[attr-defined]
    except (TypeError, ValueError):  # no pair, or no numbers
        low = high = math.nan
    if not low < high:
        raise ConfigError(f"CurveExtrapolator: {name} must be two increasing numbers, got {given!r}.")
    return low, high
