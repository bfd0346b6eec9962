"""Filtering: a belief goes through a motion, is updated by what is seen, and becomes the next prior."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from foreknow.common.errors import ConfigError, ForeknowWarning, InputError
from foreknow.common.rng import torch_stream
from foreknow.common.validate import check_int, check_option, check_real
from foreknow.core.predictive import MultivariateMixture
from foreknow.core.predictive._numerics import as_tensor
from foreknow.tasks.distribution_transformer.beliefs import Belief, MixturePosterior
from foreknow.tasks.distribution_transformer.families import MixtureFamily
from foreknow.tasks.distribution_transformer.observing import HasLikelihood, Observations
from foreknow.tasks.distribution_transformer.supports import from_real
from foreknow.tasks.distribution_transformer.system import DistributionTransformer, warn_of_more_tokens

ANCHORS = ("moments", "none", "resample")


class LinearMotion:
    """x <- A x + shift + e, e ~ N(0, Q): every component of a mixture moves in closed form.

    Args:
        matrix: A, shape (d, d).
        noise: Q, shape (d, d), positive semi-definite.
        shift: shape (d,).
    """

    def __init__(self, matrix: ArrayLike, noise: ArrayLike, shift: ArrayLike | None = None) -> None:
        self.matrix, self.noise = _square("matrix", matrix), _square("noise", noise)
        self.shift = None if shift is None else as_tensor("LinearMotion", "shift", shift).double().reshape(-1)
        if self.matrix.shape != self.noise.shape:
            raise InputError(
                f"LinearMotion: matrix and noise must have one shape, got {tuple(self.matrix.shape)} and "
                f"{tuple(self.noise.shape)}."
            )
        values = torch.linalg.eigvalsh(0.5 * (self.noise + self.noise.mT))
        if float(values.min()) < -1e-9 * max(float(values.max()), 1e-30):
            raise InputError("LinearMotion: noise must be positive semi-definite.")

    @property
    def n_dims(self) -> int:
        return len(self.matrix)

    def predict(self, mix: MultivariateMixture, generator: torch.Generator | None = None) -> MultivariateMixture:
        """The belief one step later."""
        return mix.linear(self.matrix, shift=self.shift, noise=self.noise)

    def move(self, states: Tensor, generator: torch.Generator) -> Tensor:
        """States (..., d) one step later, with noise: for simulations and particles."""
        values, vectors = torch.linalg.eigh(0.5 * (self.noise + self.noise.mT))
        root = vectors * values.clamp(min=0).sqrt()
        z = torch.randn(states.shape, generator=generator, dtype=states.dtype)
        moved: Tensor = states @ self.matrix.to(states).mT + z @ root.to(states).mT
        return moved if self.shift is None else moved + self.shift.to(states)


class NonlinearMotion:
    """x <- f(x) + e, e ~ N(0, Q).

    Args:
        function: f, states (..., d) -> (..., d), in double precision.
        noise: Q, shape (d, d).
        method: "unscented" (2 d + 1 points a component) or "sample" (`n_samples` draws a component).
        n_samples: for "sample".
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        noise: ArrayLike,
        *,
        method: str = "unscented",
        n_samples: int = 200,
    ) -> None:
        self.function, self.noise = function, _square("noise", noise)
        self.method = check_option("NonlinearMotion", "method", method, ("sample", "unscented"))
        self.n_samples = check_int("NonlinearMotion", "n_samples", n_samples, low=4)

    @property
    def n_dims(self) -> int:
        return len(self.noise)

    def predict(self, mix: MultivariateMixture, generator: torch.Generator | None = None) -> MultivariateMixture:
        """The belief one step later: each component's moments are carried through f."""
        d = mix.n_dims
        if self.method == "unscented":  # weights 1/3 at the mean for one number, as for a normal's fourth moment
            spread = math.sqrt(max(3.0, d))
            columns = spread * mix.scale_tril.mT  # (*b, K, d, d): rows are the factor's columns
            middle = mix.means.unsqueeze(-2)
            points = torch.cat([middle, middle + columns, middle - columns], -2)
            centre = 1 - d / spread**2
            weights = torch.tensor([centre, *[0.5 / spread**2] * (2 * d)], dtype=mix.dtype)
        else:
            if generator is None:
                raise ConfigError("NonlinearMotion: method='sample' needs a generator.")
            shape = (*mix.means.shape[:-1], self.n_samples, d)
            z = torch.randn(shape, generator=generator, dtype=mix.dtype)
            points = mix.means.unsqueeze(-2) + z @ mix.scale_tril.mT
            weights = torch.full((self.n_samples,), 1 / self.n_samples, dtype=mix.dtype)
        moved = self.function(points)
        mean = (weights.unsqueeze(-1) * moved).sum(-2)
        away = moved - mean.unsqueeze(-2)
        cov = (weights[:, None, None] * away.unsqueeze(-1) * away.unsqueeze(-2)).sum(-3) + self.noise.to(mean)
        return MultivariateMixture.from_covariances(mix.logits, mean, cov)

    def move(self, states: Tensor, generator: torch.Generator) -> Tensor:
        """States one step later, with noise."""
        values, vectors = torch.linalg.eigh(0.5 * (self.noise + self.noise.mT))
        root = (vectors * values.clamp(min=0).sqrt()).to(states)
        z = torch.randn(states.shape, generator=generator, dtype=states.dtype)
        moved: Tensor = self.function(states) + z @ root.mT
        return moved


Motion = LinearMotion | NonlinearMotion


@dataclass(frozen=True)
class Check:
    """A comparison of the network's posterior with importance sampling from the predicted belief.

    Args:
        distance: of the two means, in standard deviations of the sampled posterior, shape (b,).
        effective: effective number of draws, shape (b,).
        wrong: where they disagree though the draws can tell, shape (b,).
    """

    distance: Tensor
    effective: Tensor
    wrong: Tensor


class DTFilter:
    """A filter whose update is one pass of a `DistributionTransformer`; one series, or a batch of them side by side.

    Args:
        transformer: with a network whose priors are mixtures.
        motion: `LinearMotion` (closed form) or `NonlinearMotion`; it acts on T(x) where a number is not "real".
        start: belief before the first observation.
        anchor: what to do when the moments of an update disagree with importance sampling from the predicted belief:
            "none", "moments" (take the sampled mean and covariance), or "resample" (fit the mixture to the weighted
            draws). Both need `model`.
        model: observation model with `log_likelihood`.
        every: steps from one check to the next.
        n_draws: of a check.
        tolerance: largest distance of the means, in standard deviations.
        least_weight: components lighter than this are given up after each update, and the heaviest is split in their
            place. Their moments matter so little that no training fixes them, and fed back they would run away.
        random_state: seed of the draws.

    Example:
        >>> import numpy as np
        >>> from foreknow.tasks import Belief, DistributionTransformer, DTFilter, LinearMotion
        >>> motion = LinearMotion([[0.98]], [[0.0225]])
        >>> flt = DTFilter(DistributionTransformer(task="volatility"), motion, start=Belief.normal(0.0, 0.5))
        >>> for z in (0.1, -2.5, None):
        ...     belief = flt.step(z)
        >>> belief.mean().shape
        torch.Size([1])
    """

    def __init__(
        self,
        transformer: DistributionTransformer,
        motion: Motion,
        *,
        start: Belief | MixturePosterior | MultivariateMixture,
        anchor: str = "none",
        model: HasLikelihood | None = None,
        every: int = 1,
        n_draws: int = 500,
        tolerance: float = 1.0,
        least_weight: float = 3e-3,
        random_state: int | None = 0,
    ) -> None:
        owner = "DTFilter"
        self.transformer, self.motion, self.model = transformer, motion, model
        self.anchor = check_option(owner, "anchor", anchor, ANCHORS)
        self.every = check_int(owner, "every", every, low=1)
        self.n_draws = check_int(owner, "n_draws", n_draws, low=10)
        self.tolerance = check_real(owner, "tolerance", tolerance, low=0.0, open_low=True)
        self.least_weight = check_real(owner, "least_weight", least_weight, low=0.0, high=0.2)
        trained = transformer._ready()
        if not isinstance(trained.family, MixtureFamily):
            raise ConfigError(
                f"{owner}: the network takes priors of the family {trained.family.name!r}; beliefs are mixtures.",
                hint="Use task='range', 'range-bearing', 'volatility', or train one with a MixtureMeta.",
            )
        if motion.n_dims != trained.family.n_dims:
            raise InputError(f"{owner}: the motion has {motion.n_dims} numbers, the state {trained.family.n_dims}.")
        if self.anchor != "none" and not isinstance(model, HasLikelihood):
            raise ConfigError(f"{owner}: anchor={anchor!r} needs a model with log_likelihood.")
        self._trained = trained
        self.belief: MultivariateMixture = transformer._as_belief(start, trained).as_mixture()
        self.n_steps = 0
        self.n_anchored = 0
        self._generator = torch_stream(random_state, "dt-filter")

    def step(self, observation: ArrayLike | Mapping[str, ArrayLike] | None = None) -> MultivariateMixture:
        """Move the belief on, then update it; the new belief of T(x).

        Args:
            observation: what was seen: a number, tokens as `update` takes them, or a mapping of channels; for a batch
                of b series (b,), (b, c) or (b, m, c). None or NaN: nothing was. If there are more tokens than the
                network was trained with, call `predict` once and then `update` with a few at a time.
        """
        self.predict()
        return self.update(observation)

    def predict(self) -> MultivariateMixture:
        """Move the belief on without an observation."""
        self.belief = self.motion.predict(self.belief, self._generator)
        self.n_steps += 1
        return self.belief

    def update(self, observation: ArrayLike | Mapping[str, ArrayLike] | None) -> MultivariateMixture:
        """Update the belief where it stands."""
        tokens = self._tokens(observation)
        if not tokens:
            return self.belief
        warn_of_more_tokens(self._trained, tokens)
        b = len(next(iter(tokens.values())))
        single = not self.belief.batch_shape
        before = (
            MultivariateMixture(*(t.expand(b, *t.shape) for t in self.belief._tensors())) if single else self.belief
        )
        params = self._trained.family.pack(before)  # type: ignore[attr-defined] # a MixtureFamily
        after = self.transformer._posterior(self._trained, params, tokens)
        if self.anchor != "none" and self.n_steps % self.every == 0:
            after = self._anchored(before, after, tokens)
        after = _where(_seen(tokens), without_light(after, self.least_weight), before)
        self.belief = after[0] if single and b == 1 else after
        return self.belief

    def run(self, series: Iterable[Any]) -> list[MultivariateMixture]:
        """Beliefs after each of a series of observations."""
        return [self.step(observation) for observation in series]

    def check(self, before: MultivariateMixture, after: MultivariateMixture, tokens: Observations) -> Check:
        """Moments of an update against importance sampling."""
        draws, weights = self._weighted(before, tokens)
        return self._compare(after, draws, weights)

    # parts -----------------------------------------------------------------------------------------------------

    def _tokens(self, observation: ArrayLike | Mapping[str, ArrayLike] | None) -> dict[str, Tensor]:
        """Channel -> (b, m, c); empty where nothing was seen."""
        if observation is None:
            return {}
        network = self._trained.network
        if not isinstance(observation, Mapping):
            if len(network.channels) != 1:
                raise InputError(f"DTFilter: name the channels of an observation: {', '.join(network.channels)}.")
            observation = {next(iter(network.channels)): observation}
        batch = self.belief.batch_shape
        found = {}
        for name, value in observation.items():
            if name not in network.channels:
                raise InputError(f"DTFilter: unknown channel {name!r}; known: {', '.join(network.channels)}.")
            c = network.channels[name]
            tensor = as_tensor("DTFilter", name, value).double()
            if bool(tensor.isinf().any()):
                raise InputError(f"DTFilter: channel {name!r} contains infinity.")
            if batch:
                if tensor.shape[:1] != batch:
                    raise InputError(f"DTFilter: {batch[0]} series want as many observations, got {tensor.shape}.")
                tensor = tensor.reshape(batch[0], -1, c)
            else:
                tensor = tensor.reshape(1, -1, c)
            found[name] = tensor
        if all(bool(value.isnan().any(-1).all()) for value in found.values()):
            return {}
        return found

    def _weighted(self, before: MultivariateMixture, tokens: Observations) -> tuple[Tensor, Tensor]:
        """Draws (n, b, d) of T(x) from the predicted belief, and their normalised weights (n, b)."""
        assert self.model is not None
        draws = before.sample(self.n_draws, generator=self._generator)
        states = from_real(draws, self._trained.family.supports)
        return draws, self.model.log_likelihood(states, tokens).softmax(0)

    def _compare(self, after: MultivariateMixture, draws: Tensor, weights: Tensor) -> Check:
        mean, cov = _moments(draws, weights)
        effective = 1 / weights.square().sum(0)
        gap = (after.mean() - mean).unsqueeze(-1)
        distance = (gap.mT @ torch.linalg.solve(cov, gap))[..., 0, 0].clamp(min=0).sqrt()
        noise = 3 * effective.rsqrt()  # of the sampled mean itself
        spread = after.covariance().diagonal(dim1=-2, dim2=-1) / cov.diagonal(dim1=-2, dim2=-1)
        wide = ((spread > 9) | (spread < 1 / 9)).any(-1)
        wrong = (effective > 20) & ((distance > self.tolerance + noise) | wide)
        return Check(distance, effective, wrong)

    def _anchored(
        self, before: MultivariateMixture, after: MultivariateMixture, tokens: Observations
    ) -> MultivariateMixture:
        draws, weights = self._weighted(before, tokens)
        wrong = self._compare(after, draws, weights).wrong
        wrong = wrong & _seen(tokens)
        if not bool(wrong.any()):
            return after
        self.n_anchored += int(wrong.sum())
        if self.n_anchored > 0.5 * self.n_steps * len(wrong) and self.n_steps == 20:
            warnings.warn(
                "DTFilter: more than half of the first 20 updates disagreed with importance sampling; the beliefs "
                "are probably outside what the network was trained on.",
                ForeknowWarning,
                stacklevel=4,
            )
        mean, cov = _moments(draws, weights)
        logits = torch.zeros(len(mean), 1, dtype=mean.dtype)
        better = MultivariateMixture.from_covariances(logits, mean.unsqueeze(1), cov.unsqueeze(1))
        better = better.with_components(after.n_components)
        if self.anchor == "resample":
            better = fit_mixture(draws, weights, better)
        return _where(wrong, better, after)


def _seen(tokens: Observations) -> Tensor:
    """Which series (b,) have a token of any channel."""
    return torch.stack([(~value.isnan().any(-1)).any(-1) for value in tokens.values()]).any(0)


def _where(rows: Tensor, one: MultivariateMixture, other: MultivariateMixture) -> MultivariateMixture:
    """Mixtures (b,): `one` in rows (b,), elsewhere `other`."""
    pairs = zip((one.log_weights, one.means, one.scale_tril), (other.log_weights, other.means, other.scale_tril))
    return MultivariateMixture(*(torch.where(rows.reshape(-1, *[1] * (a.ndim - 1)), a, b.to(a)) for a, b in pairs))


def without_light(mix: MultivariateMixture, least: float) -> MultivariateMixture:
    """Mixtures (b,) whose components below the weight `least` have been given up; the heaviest are split instead.

    A component N(m, S) becomes N(m -+ c f, S - c^2 f f^T), f the first column of its factor, which keeps its moments.
    """
    log_w, means, factor = mix.log_weights, mix.means, mix.scale_tril
    apart = 0.5
    for _ in range(mix.n_components - 1):
        light, poor = log_w.argmin(-1), log_w.amin(-1) < math.log(max(least, 1e-300))
        if not bool(poor.any()):
            break
        rows = poor.nonzero()[:, 0]
        to, of = light[rows], log_w[rows].argmax(-1)
        log_w, means, factor = log_w.clone(), means.clone(), factor.clone()
        step = apart * factor[rows, of][..., 0]
        narrow = factor[rows, of].clone()
        narrow[..., 0] *= math.sqrt(1 - apart**2)
        centre = means[rows, of]
        means[rows, of], means[rows, to] = centre - step, centre + step
        factor[rows, of] = factor[rows, to] = narrow
        log_w[rows, of] = log_w[rows, to] = log_w[rows, of] - math.log(2.0)
        log_w = log_w.log_softmax(-1)
    return MultivariateMixture(log_w, means, factor)


def fit_mixture(draws: Tensor, weights: Tensor, start: MultivariateMixture, n_rounds: int = 10) -> MultivariateMixture:
    """A mixture fitted to weighted draws (n, b, d) by expectation maximisation from `start`, batch (b,)."""
    mix = start
    _, whole = _moments(draws, weights)
    floor = 1e-3 * whole.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None, None]
    eye = torch.eye(mix.n_dims, dtype=mix.dtype)
    for _ in range(n_rounds):
        each = MultivariateMixture(
            torch.zeros(*mix.logits.shape, 1, dtype=mix.dtype), mix.means.unsqueeze(-2), mix.scale_tril.unsqueeze(-3)
        )
        joint = each.log_prob(draws.unsqueeze(-2)) + mix.log_weights  # (n, b, K)
        share = joint.softmax(-1) * weights.unsqueeze(-1)
        mass = share.sum(0).clamp(min=1e-8)  # (b, K)
        means = (share.unsqueeze(-1) * draws.unsqueeze(-2)).sum(0) / mass.unsqueeze(-1)
        away = draws.unsqueeze(-2) - means
        cov = (share[..., None, None] * away.unsqueeze(-1) * away.unsqueeze(-2)).sum(0) / mass[..., None, None]
        mix = MultivariateMixture.from_covariances(mass.log(), means, cov + floor * eye)
    return mix


def _moments(draws: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (b, d) and covariance (b, d, d) of weighted draws (n, b, d), which sum to 1 over n."""
    mean = (weights.unsqueeze(-1) * draws).sum(0)
    away = draws - mean
    cov = (weights[..., None, None] * away.unsqueeze(-1) * away.unsqueeze(-2)).sum(0)
    size = cov.diagonal(dim1=-2, dim2=-1).mean(-1).clamp(min=1e-12)
    return mean, cov + 1e-6 * size[:, None, None] * torch.eye(cov.shape[-1], dtype=cov.dtype)


def _square(name: str, value: ArrayLike) -> Tensor:
    found = as_tensor("Motion", name, value).double()
    found = found.reshape(1, 1) if found.numel() == 1 else found
    if found.ndim != 2 or found.shape[0] != found.shape[1] or not bool(found.isfinite().all()):
        raise InputError(f"{name} must be a finite square matrix, got shape {tuple(found.shape)}.")
    return found
