"""The bar ("Riemann") distribution: a softmax over buckets, made a density.

Mueller, Hollmann, Pineda Arango, Grabocka, Hutter: Transformers Can Do Bayesian Inference, ICLR 2022, section 4.

    log q(y) = log softmax(logits)_k - log(b_{k+1} - b_k)       y in ]b_k, b_{k+1}]     `Bar.log_prob`, `bar_nll`
    borders at quantiles of the prior's y                                               `borders_from_samples`
    half-normal tails in place of the first and last bucket                             `_log_within`
"""

from __future__ import annotations

import math
import warnings
from typing import Self

import torch
from torch import Tensor

from foreknow.common.errors import ConfigError, ForeknowWarning, InputError
from foreknow.common.validate import check_bool, check_int, check_real
from foreknow.core.predictive._numerics import (
    as_tensor,
    check_finite,
    check_logits,
    ndtr,
    ndtri,
    normal_density,
    take,
    together,
)
from foreknow.core.predictive.base import Predictive

_HALF_MEDIAN = 0.6744897501960817
"""Median of the half-normal distribution with scale 1: a tail keeps half its mass inside its bucket."""
_HALF_MEAN = math.sqrt(2 / math.pi)
_LOG_HALF_DENSITY = 0.5 * math.log(2 / math.pi)
_DRAWS_PER_BUCKET = 100


class Bar(Predictive):
    """K buckets with a probability each; uniform inside a bucket.

    With full support the first and the last bucket are half-normals that hang outward from `borders[1]` and
    `borders[-2]`, with scale width / 0.6745, so that half of their mass falls inside the bucket. Cumulative
    probabilities are summed in double precision.

    Expected improvement is the exact expectation of this density. The published code adds
    p_k max((b_{k+1} + max(b_k, f)) / 2 - f, 0) instead, which counts the whole mass of the bucket that holds f (at
    most p_k width_k / 8 too much) and takes tails for buckets; the two meet as buckets get narrow.

    Args:
        logits: unnormalised log probabilities, shape (*batch, K).
        borders: K + 1 increasing borders in units of y, shared by the batch; cast to the precision of the logits.
        bounded: whether there are no tails; then the density is 0 outside the borders. At least 2 buckets otherwise.

    Raises:
        InputError: borders that are not finite and strictly increasing, or do not belong to the logits.
    """

    _event_axes = 1

    def __init__(self, logits: Tensor, borders: Tensor, *, bounded: bool = False) -> None:
        self.bounded = check_bool("Bar", "bounded", bounded)
        (self.logits,) = together("Bar", {"logits": logits})
        check_logits("Bar", self.logits)
        self.borders = as_tensor("Bar", "borders", borders).to(self.logits).contiguous()
        n_buckets = self.logits.shape[-1]
        if tuple(self.borders.shape) != (n_buckets + 1,):
            raise InputError(
                f"Bar: logits {tuple(self.logits.shape)} need borders of shape ({n_buckets + 1},), "
                f"got {tuple(self.borders.shape)}."
            )
        if n_buckets < 2 and not bounded:
            raise InputError("Bar: full support needs at least 2 buckets, got 1.", hint="Use bounded=True.")
        check_finite("Bar", "borders", self.borders)
        widths = self.borders.diff()
        check_finite("Bar", "the widths between borders", widths)
        if not bool((widths > 0).all()):
            first = int((widths <= 0).nonzero()[0])
            raise InputError(
                f"Bar: borders must increase strictly in {self.dtype}, but border {first + 1} "
                f"({float(self.borders[first + 1])}) is not above border {first} ({float(self.borders[first])}).",
                hint="Remove duplicates, as borders_from_samples does.",
            )

    def _tensors(self) -> list[Tensor]:
        return [self.logits]

    def _with(self, tensors: list[Tensor]) -> Self:
        return type(self)(tensors[0], self.borders, bounded=self.bounded)

    def _matches(self, other: Predictive) -> bool:
        return isinstance(other, Bar) and self.bounded == other.bounded and torch.equal(self.borders, other.borders)

    @property
    def probs(self) -> Tensor:
        """Bucket probabilities, shape (*batch, K)."""
        return self.logits.softmax(-1)

    def mean(self) -> Tensor:
        return (self.probs * self._centres()).sum(-1)

    def variance(self) -> Tensor:
        widths = self.borders.diff()
        within = widths.square() / 12
        if not self.bounded:
            within[[0, -1]] = (widths[[0, -1]] / _HALF_MEDIAN).square() * (1 - 2 / math.pi)
        between = (self._centres() - self.mean().unsqueeze(-1)).square()
        return (self.probs * (within + between)).sum(-1)

    def _log_prob(self, y: Tensor) -> Tensor:
        bucket = _bucket_of(y, self.borders)
        return take(self.logits.log_softmax(-1), bucket) + _log_within(y, bucket, self.borders, self.bounded)

    def _cdf(self, y: Tensor) -> Tensor:
        mass, upto = self._cumulative()
        bucket = _bucket_of(y, self.borders)
        borders, value = self.borders.double(), y.double()
        share = ((value - borders[bucket]) / borders.diff()[bucket]).clamp(0, 1)
        if not self.bounded:
            left, right = _tail_distances(value, borders)
            share = torch.where(bucket == 0, torch.special.erfc(left / math.sqrt(2)), share)
            share = torch.where(bucket == mass.shape[-1] - 1, torch.special.erf(right / math.sqrt(2)), share)
        here = take(mass, bucket)
        return (take(upto, bucket) - here * (1 - share)).clamp(0, 1).to(self.dtype)

    def _icdf(self, u: Tensor) -> Tensor:
        mass, upto = self._cumulative()
        # the smallest positive level keeps buckets without mass from being chosen at u = 0
        level = u.clamp(min=torch.finfo(torch.float64).tiny)
        bucket = torch.searchsorted(upto.contiguous(), level.contiguous()).clamp(max=mass.shape[-1] - 1)
        here = mass.gather(-1, bucket)
        before = upto.gather(-1, bucket) - here
        share = ((u - before) / here.clamp(min=torch.finfo(torch.float64).tiny)).clamp(0, 1)
        borders = self.borders.double()
        widths = borders.diff()
        value = borders[bucket] + share * widths[bucket]
        if not self.bounded:
            first, last = bucket == 0, bucket == mass.shape[-1] - 1
            # other buckets get the harmless share 1/2: the slope of ndtri is infinite at 0
            left = ndtri(share.where(first, 0.5) / 2)
            right = ndtri((1 - share.where(last, 0.5)) / 2)
            value = torch.where(first, borders[1] + widths[0] / _HALF_MEDIAN * left, value)
            value = torch.where(last, borders[-2] - widths[-1] / _HALF_MEDIAN * right, value)
        return value.to(self.dtype)

    def _ei(self, best: Tensor, maximize: bool) -> Tensor:
        # Minimising is maximising the mirror image.
        borders = self.borders if maximize else -self.borders.flip(0)
        probs = self.probs if maximize else self.probs.flip(-1)
        goal = (best if maximize else -best).unsqueeze(-1)  # (*samples, *batch, 1)
        low, high = borders[:-1], borders[1:]
        start = torch.maximum(low, goal)
        gain = (high - start).clamp(min=0) / (high - low) * (0.5 * (high + start) - goal)  # (*samples, *batch, K)
        if self.bounded:
            return (probs * gain).sum(-1)
        scale_left, scale_right = ((borders[1] - borders[0]) / _HALF_MEDIAN, (borders[-1] - borders[-2]) / _HALF_MEDIAN)
        # left tail c - s|Z|: s E[(e - |Z|)+] with e = (c - goal) / s;  right tail c + s|Z| with d = (goal - c) / s
        e = ((borders[1] - goal) / scale_left).clamp(min=0)
        left = scale_left * (e * torch.special.erf(e / math.sqrt(2)) + _HALF_MEAN * torch.expm1(-0.5 * e.square()))
        d = (goal - borders[-2]) / scale_right
        beyond = 2 * (normal_density(d) - d * ndtr(-d))
        right = scale_right * torch.where(d > 0, beyond, _HALF_MEAN - d)
        return (probs * torch.cat([left, gain[..., 1:-1], right], -1).clamp(min=0)).sum(-1)

    def _centres(self) -> Tensor:
        """Mean of each bucket, shape (K,)."""
        centres = 0.5 * (self.borders[:-1] + self.borders[1:])
        if not self.bounded:
            widths = self.borders.diff()
            centres[0] = self.borders[1] - widths[0] / _HALF_MEDIAN * _HALF_MEAN
            centres[-1] = self.borders[-2] + widths[-1] / _HALF_MEDIAN * _HALF_MEAN
        return centres

    def _cumulative(self) -> tuple[Tensor, Tensor]:
        """Bucket probabilities and their running sum (ending in exactly 1), float64, both (*batch, K)."""
        mass = self.logits.double().softmax(-1)
        upto = mass.cumsum(-1)
        return mass, upto / upto[..., -1:]


def bar_nll(logits: Tensor, borders: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """The training loss of a bar head with full support: -log q(y), in nats, one value per target.

    The numbers are those of `-Bar(logits, borders).log_prob(y)`. Nothing is read back from the device, so values
    are not checked here: a NaN target gives a NaN loss.

    Args:
        logits: shape (*batch, K), K >= 2; half precision is widened to float32.
        borders: shape (K + 1,), strictly increasing.
        y: targets, shape (*batch).
        label_smoothing: weight in [0, 1) of the mean over all buckets of -(log p_k - log width_k).

    Returns:
        Losses of shape (*batch).

    Raises:
        InputError: shapes that do not belong together.
        ConfigError: `label_smoothing` outside [0, 1).
    """
    if check_real("bar_nll", "label_smoothing", label_smoothing, low=0, high=1) == 1:
        raise ConfigError("bar_nll: label_smoothing must be less than 1.")
    n_buckets = logits.shape[-1]
    if n_buckets < 2 or tuple(borders.shape) != (n_buckets + 1,) or y.shape != logits.shape[:-1]:
        raise InputError(
            f"bar_nll: logits (*batch, K >= 2) need borders (K + 1,) and y (*batch), "
            f"got {tuple(logits.shape)}, {tuple(borders.shape)} and {tuple(y.shape)}."
        )
    dtype = torch.promote_types(logits.dtype, torch.float32)
    logits, borders, y = logits.to(dtype), borders.to(dtype), y.to(dtype)
    bucket = _bucket_of(y, borders)
    loss = torch.nn.functional.cross_entropy(
        logits.reshape(-1, n_buckets), bucket.reshape(-1), reduction="none", label_smoothing=label_smoothing
    ).reshape(y.shape)
    loss = loss - (1 - label_smoothing) * _log_within(y, bucket, borders, bounded=False)
    return loss + label_smoothing * borders.diff().log().mean() if label_smoothing else loss


def borders_from_samples(samples: Tensor, n_buckets: int) -> Tensor:
    """Borders at the quantiles of draws from the prior, so that every bucket is as likely a priori.

    Inner borders are midpoints between neighbouring sorted draws, the outer ones the extreme draws. Equal
    borders (draws with ties) are merged with a warning; the number of buckets is then `len(result) - 1`.

    Args:
        samples: draws of y from the prior, any shape, at least 100 per bucket (a warning below that).
        n_buckets: number of buckets K, at least 2.

    Returns:
        Increasing borders, shape (K + 1,), float32 or the wider type of the draws.

    Raises:
        InputError: draws that are not finite, fewer than buckets, or all equal.
    """
    owner = "borders_from_samples"
    check_int(owner, "n_buckets", n_buckets, low=2)
    (draws,) = together(owner, {"samples": samples})
    check_finite(owner, "samples", draws)
    ordered = draws.detach().reshape(-1).sort().values
    if len(ordered) < n_buckets:
        raise InputError(f"{owner}: {n_buckets} buckets need at least as many draws, got {len(ordered)}.")
    if len(ordered) < _DRAWS_PER_BUCKET * n_buckets:
        warnings.warn(
            f"{owner}: {len(ordered)} draws for {n_buckets} buckets make noisy borders; "
            f"draw at least {_DRAWS_PER_BUCKET * n_buckets}.",
            ForeknowWarning,
            stacklevel=2,
        )
    cuts = torch.arange(1, n_buckets, device=ordered.device) * len(ordered) // n_buckets
    inner = ordered[cuts - 1] + 0.5 * (ordered[cuts] - ordered[cuts - 1])
    borders: Tensor = torch.cat([ordered[:1], inner, ordered[-1:]]).unique_consecutive()  # type: ignore[no-untyped-call]
    if len(borders) < 3:
        raise InputError(f"{owner}: the draws are (nearly) all equal, which leaves {len(borders) - 1} bucket(s).")
    if len(borders) < n_buckets + 1:
        warnings.warn(
            f"{owner}: ties in the draws leave {len(borders) - 1} of {n_buckets} buckets.",
            ForeknowWarning,
            stacklevel=2,
        )
    return borders


def _bucket_of(y: Tensor, borders: Tensor) -> Tensor:
    """Index of the bucket of y: ]b_k, b_{k+1}], and everything outside to the first and last."""
    bucket: Tensor = torch.bucketize(y.detach().contiguous(), borders[1:-1].contiguous())
    return bucket


def _tail_distances(y: Tensor, borders: Tensor) -> tuple[Tensor, Tensor]:
    """How many scales y lies beyond the inner end of the left and the right tail; 0 elsewhere."""
    left = (borders[1] - y).clamp(min=0) / ((borders[1] - borders[0]) / _HALF_MEDIAN)
    right = (y - borders[-2]).clamp(min=0) / ((borders[-1] - borders[-2]) / _HALF_MEDIAN)
    return left, right


def _log_within(y: Tensor, bucket: Tensor, borders: Tensor, bounded: bool) -> Tensor:
    """Log density of y given its bucket."""
    log_widths = borders.diff().log()
    inside = -log_widths[bucket]
    if bounded:
        return inside.masked_fill((y < borders[0]) | (y > borders[-1]), -math.inf)
    # y is beyond one inner end at most, so one of the two distances is 0
    left, right = _tail_distances(y, borders)
    tail = inside + (math.log(_HALF_MEDIAN) + _LOG_HALF_DENSITY) - 0.5 * (left.square() + right.square())
    return torch.where((bucket == 0) | (bucket == len(log_widths) - 1), tail, inside)
