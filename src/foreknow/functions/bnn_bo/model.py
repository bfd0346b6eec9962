"""Surrogates as BoTorch models. The classes are made on first use, since BoTorch is an extra."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from foreknow.common.errors import InputError
from foreknow.common.rng import seed_of
from foreknow.functions.bnn_bo.base import Draws, Fitted, Process, Surrogate
from foreknow.functions.bnn_bo.extra import bo
from foreknow.functions.bnn_bo.surrogates import as_surrogate

Snap = Callable[[Tensor], Tensor]


@lru_cache(maxsize=1)
def _classes() -> SimpleNamespace:
    """`DrawsModel`, `ProcessModel`, `AllDraws`, once BoTorch is there."""
    models = bo("botorch.models.model")
    ensembles = bo("botorch.models.ensemble")
    posteriors = bo("botorch.posteriors.gpytorch")
    samplers = bo("botorch.sampling.base")
    distributions = bo("gpytorch.distributions")

    class DrawsModel(ensembles.EnsembleModel):  # type: ignore[name-defined, misc]
        """Functions drawn from a posterior; a draw is joint over all points that are asked for.

        Args:
            fitted: the posterior.
            shift, scale: of the outcomes, (m,).
            snap: what is done to points first.
            limit: most draws used.
        """

        def __init__(self, fitted: Draws, shift: Tensor, scale: Tensor, snap: Snap | None, limit: int | None) -> None:
            super().__init__()
            self.fitted, self.shift, self.scale, self.snap, self.limit = fitted, shift, scale, snap, limit
            self._num_outputs = fitted.n_outputs

        @property
        def batch_shape(self) -> torch.Size:
            return torch.Size()

        def forward(self, X: Tensor) -> Tensor:
            """Values (*b, s, q, m) at X (*b, q, d)."""
            points = X.double() if self.snap is None else self.snap(X.double())
            values = self.fitted.functions(points, self.limit).movedim(0, -3)
            return self.shift + self.scale * values

    class ProcessModel(models.Model):  # type: ignore[name-defined, misc]
        """A Gaussian process, independent over outcomes.

        Args:
            fitted: the posterior.
            shift, scale: of the outcomes, (m,).
            snap: what is done to points first.
        """

        def __init__(self, fitted: Process, shift: Tensor, scale: Tensor, snap: Snap | None) -> None:
            super().__init__()
            self.fitted, self.shift, self.scale, self.snap = fitted, shift, scale, snap

        @property
        def num_outputs(self) -> int:
            return self.fitted.n_outputs

        @property
        def batch_shape(self) -> torch.Size:
            return torch.Size()

        def posterior(
            self,
            X: Tensor,
            output_indices: list[int] | None = None,
            observation_noise: bool | Tensor = False,
            posterior_transform: Any = None,
        ) -> Any:
            """The joint posterior at X (*b, q, d)."""
            points = X.double() if self.snap is None else self.snap(X.double())
            mean, covariance = self.fitted.joint(points)
            mean = self.shift + self.scale * mean
            covariance = covariance * self.scale.square()[:, None, None]
            eye = torch.eye(X.shape[-2], dtype=covariance.dtype, device=covariance.device)
            covariance = covariance + 1e-8 * self.scale.square()[:, None, None] * eye
            if observation_noise is True:
                covariance = covariance + (self.fitted.noise * self.scale.square())[:, None, None] * eye
            wanted = range(self.num_outputs) if output_indices is None else output_indices
            parts = [distributions.MultivariateNormal(mean[..., m], covariance[..., m, :, :]) for m in wanted]
            joint = (
                parts[0] if len(parts) == 1 else distributions.MultitaskMultivariateNormal.from_independent_mvns(parts)
            )
            found = posteriors.GPyTorchPosterior(joint)
            return found if posterior_transform is None else posterior_transform(found)

    class AllDraws(samplers.MCSampler):  # type: ignore[name-defined, misc]
        """Takes every draw of a `DrawsModel` once."""

        def __init__(self) -> None:
            super().__init__(sample_shape=torch.Size([1]), seed=0)

        def forward(self, posterior: Any) -> Tensor:
            """Values (s, *b, q, m)."""
            values: Tensor = posterior.values
            return values.movedim(-3, 0)

        def _update_base_samples(self, posterior: Any, base_sampler: Any) -> None:
            """Nothing: there are no base samples."""

    return SimpleNamespace(DrawsModel=DrawsModel, ProcessModel=ProcessModel, AllDraws=AllDraws)


def standardise(y: Tensor) -> tuple[Tensor, Tensor]:
    """Shift and scale (m,) of outcomes (n, m): mean and standard deviation; scale 1 where an outcome is constant."""
    shift = y.mean(0)
    spread = y.std(0) if len(y) > 1 else torch.zeros_like(shift)
    return shift, torch.where(spread > 1e-12 * shift.abs(), spread, torch.ones_like(spread))


def wrap(fitted: Fitted, shift: Tensor, scale: Tensor, *, snap: Snap | None = None, limit: int | None = None) -> Any:
    """A fitted posterior as a BoTorch `Model` in the outcomes' own units."""
    made = _classes()
    if isinstance(fitted, Draws):
        return made.DrawsModel(fitted, shift, scale, snap, limit)
    if isinstance(fitted, Process):
        return made.ProcessModel(fitted, shift, scale, snap)
    raise InputError(f"expected Draws or a Process, got {type(fitted).__name__}.")


def sampler_of(model: Any, n: int, seed: int) -> Any:
    """What draws from the posteriors of `model`: all its functions, or `n` quasi-random normal vectors."""
    made = _classes()
    if isinstance(model, made.DrawsModel):
        return made.AllDraws()
    normal = bo("botorch.sampling.normal")
    return normal.SobolQMCNormalSampler(torch.Size([n]), seed=seed)


def botorch_model(
    surrogate: Surrogate | str,
    train_X: Tensor,
    train_Y: Tensor,
    *,
    preset: str = "small",
    seed: int = 0,
    snap: Snap | None = None,
    limit: int | None = None,
) -> Any:
    """A surrogate fitted to data, as a BoTorch `Model` for loops of your own; it computes in double precision.

    Args:
        surrogate: settings or a name, such as "ibnn".
        train_X: rows (n, d) in the unit cube.
        train_Y: outcomes (n, m), in their own units; larger is better, as everywhere in BoTorch.
        preset: of a surrogate given by name.
        seed: of what is random in the fit.
        snap: what is done to points before they are looked at, such as rounding.
        limit: most weight samples that the model uses.

    Raises:
        InputError: shapes do not fit, or numbers are not finite.
        MissingExtraError: BoTorch is not installed.

    Example:
        >>> import torch
        >>> x = torch.rand(12, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        >>> model = botorch_model("ibnn", x, x.sum(1, keepdim=True))
        >>> model.posterior(x[:5]).mean.shape
        torch.Size([5, 1])
    """
    chosen = as_surrogate("botorch_model", surrogate, preset)
    if chosen.surrogate is None:
        raise InputError(f"botorch_model: {chosen.name!r} is a search without a surrogate.")
    x, y = train_X.detach().double(), train_Y.detach().double()
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or not len(x):
        raise InputError(f"botorch_model: expected (n, d) and (n, m), got {tuple(x.shape)} and {tuple(y.shape)}.")
    if not bool(x.isfinite().all() and y.isfinite().all()):
        raise InputError("botorch_model: rows and outcomes must be finite.", hint="Leave failed trials out.")
    shift, scale = standardise(y)
    rows = x if snap is None else snap(x)
    fitted = chosen.surrogate.fit(rows, (y - shift) / scale, seed=seed_of(seed, "fit"))
    return wrap(fitted, shift, scale, snap=snap, limit=limit)
