"""The ladder: from what is at hand to bits, by the rung that the regime allows, saying which."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Generator, Tensor

from foreknow.audit.inductive_bias.bits import MIN_DRAWS, Array, Bits, check_eps, check_losses, is_discrete, join
from foreknow.audit.inductive_bias.counting import MIN_COUNT, counting_bits
from foreknow.audit.inductive_bias.parametric import parametric_bits
from foreknow.audit.inductive_bias.splitting import splitting_bits
from foreknow.common.errors import CapabilityError, InputError
from foreknow.common.rng import seed_of
from foreknow.common.validate import check_option, check_real

METHODS = ("auto", "counting", "parametric", "saddlepoint", "splitting")
_N_LOSSES = 10_000
"""Losses drawn from hypotheses that can be sampled, where losses are needed."""


@runtime_checkable
class LatentLaw(Protocol):
    """Hypotheses with a standard normal latent: their loss can be split, whatever it is."""

    n_latent: int

    def loss(self, z: Tensor) -> Tensor: ...


@runtime_checkable
class ExactLaw(Protocol):
    """Hypotheses whose loss has a known law, such as `KernelLaw`."""

    def bits(self, eps: float) -> Bits: ...

    def sample_losses(self, n: int, generator: Generator) -> NDArray[np.float64]: ...


def price_bits(
    hypotheses: ArrayLike | LatentLaw | ExactLaw,
    eps: float | Sequence[float],
    *,
    method: str = "auto",
    noise: float = 0.0,
    rng: np.random.Generator,
) -> list[Bits]:
    """-log2 Pr[L <= eps] of each target loss, by the best estimator that is possible.

    With "auto", exact laws take the saddlepoint formula and latent ones splitting. A sample of losses is counted where
    at least 8 losses reach eps, where there are fewer than 20 of them, and where most are tied (an error rate); else a
    law is fitted, and the result says when it is extrapolated.

    Args:
        hypotheses: losses of sampled hypotheses, shape (n_draws,), or a law of them.
        eps: target losses.
        method: one of `METHODS`.
        noise: the irreducible loss, where it is known; targets at or below it are refused.
        rng: source of randomness.

    Raises:
        InputError: an eps that is not above `noise`, or losses that cannot be used.
        CapabilityError: the hypotheses cannot do what `method` needs.
    """
    owner = "price_bits"
    check_option(owner, "method", method, METHODS)
    check_real(owner, "noise", noise)
    targets = [check_eps(owner, float(value), noise=noise) for value in np.ravel(eps)]
    if not isinstance(hypotheses, LatentLaw | ExactLaw):
        losses = check_losses(owner, hypotheses)
        return [_from_losses(losses, value, method, rng) for value in targets]
    return [_from_law(hypotheses, value, method, rng) for value in targets]


def _from_losses(losses: Array, eps: float, method: str, rng: np.random.Generator) -> Bits:
    if method in ("saddlepoint", "splitting"):
        raise CapabilityError(
            f"price_bits: {method} needs the law of the hypotheses, a sample of losses is not enough.",
            hint="Pass a KernelLaw or an object with loss(z) and n_latent.",
        )
    few, tied = len(losses) < MIN_DRAWS, is_discrete(losses)
    if method == "parametric" or (
        method == "auto" and not few and not tied and losses.min() > 0 and (losses <= eps).sum() < MIN_COUNT
    ):
        return parametric_bits(losses, eps, rng=rng)
    bits = counting_bits(losses, eps)
    reason = f"fewer than {MIN_DRAWS} draws are only counted" if few else "tied losses are only counted" if tied else ""
    return dataclasses.replace(bits, note=join(bits.note, reason))


def _from_law(law: Any, eps: float, method: str, rng: np.random.Generator) -> Bits:
    if method == "auto":
        method = "saddlepoint" if isinstance(law, ExactLaw) else "splitting"
    if method == "splitting":
        if not isinstance(law, LatentLaw):
            raise CapabilityError("price_bits: splitting needs hypotheses with loss(z) and n_latent.")
        return splitting_bits(law.loss, law.n_latent, eps, generator=_generator(rng, law))
    if not isinstance(law, ExactLaw):
        raise CapabilityError(f"price_bits: {method} needs hypotheses with bits(eps) and sample_losses(n, generator).")
    if method == "saddlepoint":
        return law.bits(eps)
    return _from_losses(law.sample_losses(_N_LOSSES, _generator(rng, law)), eps, method, rng)


def median_matched_bits(
    losses_on: ArrayLike,
    losses_off: ArrayLike,
    *,
    hypotheses_off: LatentLaw | ExactLaw | None = None,
    noise: float = 0.0,
    rng: np.random.Generator,
) -> Bits:
    """The price of a prior: bits that the arm without it needs to reach the median loss of the arm with it, minus one.

    eps is the median loss of the on arm, which costs that arm one bit by construction, so equal arms have a price of
    zero. Where the off arm is the better one, the arms are swapped and the price is negative. The interval covers the
    uncertainty of eps (by order statistics of the on arm) and that of the estimate at both ends, so it is wide.

    Both arms must have been scored on the same test data after learning from the same training data under the same
    budget, and must fit it; eps must not have been chosen otherwise.

    Args:
        losses_on, losses_off: test losses of sampled hypotheses, one per draw.
        hypotheses_off: the law of the off arm's hypotheses, if it is known; used where it needs to be the better arm.
        noise: the irreducible loss, where it is known.
        rng: source of randomness.

    Returns:
        Bits; where no off draw reaches eps, a bound with sign ">=" (or "<=" if negative) with the extrapolated figures
        of the fitted laws in `spread`.

    Raises:
        InputError: losses that cannot be used, or a median that is not above `noise`.
    """
    owner = "median_matched_bits"
    on = check_losses(owner, losses_on, name="losses_on")
    off = check_losses(owner, losses_off, name="losses_off")
    swapped = bool(np.median(on) > np.median(off))
    better, worse = (off, on) if swapped else (on, off)
    law = None if swapped else hypotheses_off
    eps = check_eps(owner, float(np.median(better)), noise=noise)
    low_eps, high_eps = _median_interval(better)
    middle = _price(worse, law, eps, rng)
    low = _price(worse, law, high_eps, rng)
    high = _price(worse, law, max(low_eps, noise + 1e-12 * abs(eps)), rng) if low_eps > noise else middle
    value = middle.value - 1
    ends = (low.low - 1, math.nan if high.sign != "=" or middle.sign != "=" else high.high - 1)
    if middle.sign == "=":
        ends = (min(ends[0], value), max(ends[1], value) if math.isfinite(ends[1]) else math.nan)
    sign, spread = middle.sign, {name: bits - 1 for name, bits in middle.spread.items()}
    if swapped:
        value, ends, spread = -value, (-ends[1], -ends[0]), {name: -bits for name, bits in spread.items()}
        sign = {"=": "=", ">=": "<="}[sign]
    return Bits(
        value + 0.0,
        ends[0] + 0.0,
        ends[1] + 0.0,
        middle.rung,
        extrapolated=middle.extrapolated,
        sign=sign,
        note=join(f"eps = {eps:.6g}", "the arms are swapped: off is better" if swapped else "", middle.note),
        spread=spread,
    )


def _price(losses: Array, law: LatentLaw | ExactLaw | None, eps: float, rng: np.random.Generator) -> Bits:
    """Bits by counting where it can be, then by the law, then by fitted laws beside a bound."""
    counted = counting_bits(losses, eps)
    n_reach = int((losses <= eps).sum())
    if n_reach >= MIN_COUNT:
        return counted
    if law is not None:
        return _from_law(law, eps, "auto", rng)
    if n_reach:
        return _from_losses(losses, eps, "auto", rng)
    try:
        fitted = parametric_bits(losses, eps, rng=rng)
    except InputError:  # too few or tied: the bound is all there is
        return counted
    figure = f"off by fitted laws, extrapolated: {fitted.value:.3g} bits [{fitted.low:.3g}, {fitted.high:.3g}]"
    return dataclasses.replace(counted, note=join(counted.note, figure), spread=fitted.spread)


def _median_interval(losses: Array) -> tuple[float, float]:
    """95% interval of the median by order statistics; the extremes where the draws are too few for that."""
    from scipy.stats import binom

    ordered, n = np.sort(losses), len(losses)
    k = max(int(binom.ppf(0.025, n, 0.5)) - 1, 0)
    return float(ordered[k]), float(ordered[n - 1 - k])


def _generator(rng: np.random.Generator, law: Any) -> Generator:
    import torch

    device = law.weights.device if hasattr(law, "weights") else "cpu"
    generator = torch.Generator(device=device)
    generator.manual_seed(seed_of(rng, "price_bits"))
    return generator
