"""A context, conditioned on: predictions at any rows, and samples of whole functions."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreknow.common.errors import ForeknowWarning, InputError
from foreknow.common.rng import torch_stream
from foreknow.common.validate import as_matrix, as_vector, check_bool, check_int
from foreknow.core.predictive import GaussianMixture
from foreknow.tasks.martingale_np.network import ConditionalNP, Normals, Rows
from foreknow.tasks.martingale_np.training import as_tensor

if TYPE_CHECKING:
    from foreknow.tasks.martingale_np.tasks import MartingalePrior
    from foreknow.tasks.martingale_np.training import Collection

Floats = NDArray[np.float64]
_NUMBERS_AT_ONCE = 2**24
_FAR = 0.1  # of the training range, beyond which a query is told to be far
LEAST_TO_STANDARDISE = 3
"""Context rows from which their own mean and spread are trusted."""


@dataclass(frozen=True)
class Scaling:
    """How a user's numbers are brought to the network's scale.

    Args:
        x_shift, x_scale: per column, shape (d,).
        y_shift, y_scale: of the target.
    """

    x_shift: Floats
    x_scale: Floats
    y_shift: float = 0.0
    y_scale: float = 1.0

    @classmethod
    def none(cls, d: int) -> Scaling:
        """Numbers as they are."""
        return cls(np.zeros(d), np.ones(d))

    @classmethod
    def of_context(
        cls, network: ConditionalNP, X: Floats, y: Floats, x_range: tuple[float, float] | None = None
    ) -> Scaling:
        """Inputs to the middle half of the training range, and targets to the training scale.

        Where `x_range` says between which values the inputs lie, it is used, else the range of the context. From three
        rows on the context's own spread is trusted; with fewer the training units are taken to be the user's.
        """
        d, enough = X.shape[1], len(X) >= LEAST_TO_STANDARDISE
        x_shift, x_scale = np.zeros(d), np.ones(d)
        if enough or x_range is not None:
            low, high = (end.double().cpu().numpy() for end in (network.x_low, network.x_high))
            least = X.min(axis=0) if x_range is None else np.full(d, float(x_range[0]))
            width = np.ptp(X, axis=0) if x_range is None else np.full(d, float(x_range[1] - x_range[0]))
            flat = width <= 1e-12 * np.abs(least)
            scale = np.where(flat, 1.0, 2 * width / np.where(high > low, high - low, 1.0))
            x_scale = np.where(scale > 0, scale, 1.0)
            x_shift = least + 0.5 * np.where(flat, 0.0, width) - x_scale * 0.5 * (low + high)
        if not enough:
            return cls(x_shift, x_scale)
        spread, mean = float(y.std()), float(y.mean())
        own = spread / float(network.y_scale) if spread > 1e-12 * abs(mean) else 1.0
        return cls(x_shift, x_scale, mean - own * float(network.y_shift), own)

    @classmethod
    def of_collection(cls, X: Floats, y: Floats) -> Scaling:
        """Mean 0 and standard deviation 1 over all rows of all tasks."""
        scale, spread = X.std(axis=0), float(y.std())
        mean = X.mean(axis=0)
        return cls(
            mean,
            np.where(scale > 1e-12 * np.abs(mean), scale, 1.0),
            float(y.mean()),
            spread if spread > 1e-12 * abs(float(y.mean())) else 1.0,
        )

    def x(self, X: Floats) -> Floats:
        """Inputs on the network's scale."""
        found: Floats = (X - self.x_shift) / self.x_scale
        return found

    def y(self, y: Floats) -> Floats:
        """Targets on the network's scale."""
        found: Floats = (y - self.y_shift) / self.y_scale
        return found


class FunctionPosterior:
    """What is known of a function after a few rows of it: a mixture over draws theta_k, and fresh draws at will.

    Args:
        network: trained.
        context: rows (n, d) and targets (n,) on the network's scale; n may be 0.
        scaling: between the user's numbers and the network's.
        n_samples: draws of the mixture, K.
        n_pseudo: pseudo rows of a draw; None takes the network's, 0 none.
        seed: of the draws.
        source: where the placebo (rule "shuffled") finds other tasks.
    """

    def __init__(
        self,
        network: ConditionalNP,
        context: tuple[Tensor, Tensor],
        scaling: Scaling,
        *,
        n_samples: int = 50,
        n_pseudo: int | None = None,
        seed: int = 0,
        source: MartingalePrior | Collection | None = None,
    ) -> None:
        self.network, self.context, self.scaling = network, context, scaling
        self.n_samples, self.n_pseudo, self.seed, self.source = n_samples, n_pseudo, seed, source
        self.rows = self.draw(n_samples, "mixture")

    @torch.inference_mode()
    def draw(self, n: int, *names: str) -> Rows:
        """Rows of `n` fresh draws theta_k; one where the rule has no randomness."""
        x, y = self.context
        generator = torch_stream(self.seed, "martingale-np", "draws", *names)
        if self.network.rule == "shuffled" and self.n_pseudo != 0 and len(x) and self.source is not None:
            other = self.source.sample(n, n_context=len(x), n_query=1, generator=generator)
            noise = self.network.noise(n, len(x), 1, generator, self.n_pseudo)
            assert noise is not None  # this rule has some
            donor = other.context_x.to(x), other.context_y.to(y)
            return self.network.thetas(x.expand(n, -1, -1), y.expand(n, -1), noise.to(x), donor)
        noise = self.network.noise(1, len(x), n, generator, self.n_pseudo)
        return self.network.thetas(x[None], y[None], None if noise is None else noise.to(x))

    # What is asked of it ------------------------------------------------------------------------------------

    def predict(self, X: Any) -> GaussianMixture:
        """The predictive distribution at every row of X, shape (m, d): the equal mixture over draws."""
        means, sds = self._components(self._inputs(X), self.rows)
        return GaussianMixture(torch.zeros_like(means), means, sds)

    def mean(self, X: Any) -> Floats:
        """Expected target at every row, shape (m,)."""
        return self.predict(X).mean().numpy()

    def functions(self, X: Any) -> tuple[Floats, Floats]:
        """Means and standard deviations under every draw of the mixture, each of shape (k, m)."""
        means, sds = self._components(self._inputs(X), self.rows)
        return means.T.numpy(), sds.T.numpy()

    def sample(self, X: Any, n: int = 1, *, with_noise: bool = True, name: str = "sample") -> Floats:
        """`n` functions at the rows of X, shape (n, m): each a fresh draw theta_k, the same at all rows.

        Args:
            X: rows.
            n: how many.
            with_noise: add the noise of a measurement, independent from row to row.
            name: of the random stream; another name gives other draws.
        """
        check_int("FunctionPosterior.sample", "n", n, low=1)
        check_bool("FunctionPosterior.sample", "with_noise", with_noise)
        means, sds = self._components(self._inputs(X), self.draw(n, name))
        means, sds = means.T.expand(n, -1), sds.T.expand(n, -1)
        if with_noise:
            generator = torch_stream(self.seed, "martingale-np", "targets", name)
            means = means + sds * torch.randn(means.shape, generator=generator, dtype=means.dtype)
        return means.numpy()

    def log_prob(self, X: Any, y: Any, *, joint: bool = True) -> float | Floats:
        """Log density of targets at rows, in nats and in the user's units.

        Args:
            X: rows, shape (m, d).
            y: targets, shape (m,).
            joint: of all targets together, one number: log-mean-exp over draws of the sum over rows. False gives one
                number a row, log-mean-exp over draws each, which ignores that targets belong together.
        """
        check_bool("FunctionPosterior.log_prob", "joint", joint)
        rows = self._inputs(X)
        target = torch.as_tensor(as_vector("FunctionPosterior.log_prob", y, n=len(rows)))
        means, sds = self._components(rows, self.rows)
        normals = Normals(means.T[None], sds.T[None])
        found = normals.joint(target[None]) if joint else normals.marginal(target[None])
        return float(found[0]) if joint else found[0].numpy()

    # How it is computed -------------------------------------------------------------------------------------

    def _inputs(self, X: Any) -> Floats:
        rows = as_matrix("MartingaleNP", X)
        if rows.shape[1] != self.network.n_features:
            raise InputError(
                f"MartingaleNP: X has {rows.shape[1]} columns, this network knows {self.network.n_features}.",
                hint="Train a network on tasks of as many columns.",
            )
        return rows

    def _components(self, X: Floats, rows: Rows) -> tuple[Tensor, Tensor]:
        """Means and standard deviations (m, k) in the user's units and in double precision, on the processor."""
        scaled = self.scaling.x(X)
        low, high = (end.double().cpu().numpy() for end in (self.network.x_low, self.network.x_high))
        margin = _FAR * (high - low)
        far = ((scaled < low - margin) | (scaled > high + margin)).any(axis=1)
        if far.any():
            warnings.warn(
                f"MartingaleNP: {int(far.sum())} of {len(X)} rows lie outside the range of inputs that the network was "
                "trained on; what it says there is worth little.",
                ForeknowWarning,
                stacklevel=4,
            )
        reach = 1e3 * (high - low + 1.0)
        x = as_tensor(np.clip(scaled, low - reach, high + reach), self.network)[None]
        k = len(rows.values)
        size = max(1, _NUMBERS_AT_ONCE // (k * self.network.settings.width))
        means, sds = [], []
        with torch.inference_mode():
            for part in torch.split(x, size, dim=1):
                found = self.network.predict(rows, part)
                means.append(found.mean[0].T.double().cpu())
                sds.append(found.sd[0].T.double().cpu())
        shift, scale = self.scaling.y_shift, self.scaling.y_scale
        return torch.cat(means) * scale + shift, torch.cat(sds) * scale
