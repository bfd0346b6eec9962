"""What every predictive distribution can do; a concrete one writes the hooks that start with `_`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Generator, Tensor

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.validate import check_bool, check_int, check_real
from foreknow.core.predictive._numerics import as_tensor, check_precision


class Predictive(ABC):
    """A batch of distributions over one target each.

    Parameters are tensors whose leading axes are the batch axes; treat them as immutable. Values `y`
    have the batch shape, or any number of sample axes in front of it, or broadcast to either. The
    precision is float32 or float64 (halves are widened). Gradients reach the parameters through
    `log_prob`, `mean`, `variance` and `ei`, and through `cdf` and `quantile` where a class does not say otherwise.
    """

    _event_axes: int = 0
    """How many axes of the first parameter come after the batch axes."""

    # hooks ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def _tensors(self) -> list[Tensor]:
        """All parameters that have batch axes, batch axes first."""

    @abstractmethod
    def _with(self, tensors: list[Tensor]) -> Self:
        """The same distribution with other such parameters; what they share follows their device and dtype."""

    def _matches(self, other: Predictive) -> bool:
        """Whether `cat` may join the two."""
        return type(self) is type(other)

    @abstractmethod
    def mean(self) -> Tensor:
        """Expectation, shape batch_shape."""

    @abstractmethod
    def variance(self) -> Tensor:
        """Variance, in squared units of y, shape batch_shape."""

    @abstractmethod
    def _log_prob(self, y: Tensor) -> Tensor:
        """Log density at y (*samples, *batch)."""

    @abstractmethod
    def _cdf(self, y: Tensor) -> Tensor:
        """P(Y <= y) at y (*samples, *batch)."""

    @abstractmethod
    def _icdf(self, u: Tensor) -> Tensor:
        """Quantiles at u, float64 in [0, 1], shape (*batch, k); same shape, own dtype."""

    @abstractmethod
    def _ei(self, best: Tensor, maximize: bool) -> Tensor:
        """Expected improvement over finite best (*samples, *batch)."""

    # public --------------------------------------------------------------------------------------------------

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the batch of distributions; `()` for a single one."""
        shape = self._tensors()[0].shape
        return tuple(shape[: len(shape) - self._event_axes])

    @property
    def dtype(self) -> torch.dtype:
        return self._tensors()[0].dtype

    @property
    def device(self) -> torch.device:
        return self._tensors()[0].device

    def log_prob(self, y: Tensor | float) -> Tensor:
        """Log density (log probability for classes) at `y`, in nats; `-inf` outside the support.

        Args:
            y: values of shape (*samples, *batch_shape), or broadcastable to it; no NaN.

        Raises:
            InputError: wrong shape or NaN.
        """
        return self._log_prob(self._values("y", y))

    def cdf(self, y: Tensor | float) -> Tensor:
        """P(Y <= y), for `y` as in `log_prob`."""
        return self._cdf(self._values("y", y))

    def quantile(self, q: float | Tensor) -> Tensor:
        """The value that Y stays below with probability `q`.

        Args:
            q: a level in [0, 1] -> shape batch_shape; or a 1-D tensor of k levels -> (*batch_shape, k).

        Raises:
            ConfigError: levels outside [0, 1] or with more than one axis.
        """
        owner = type(self).__name__
        levels = as_tensor(owner, "q", q).to(device=self.device, dtype=torch.float64)
        if levels.ndim > 1:
            raise ConfigError(f"{owner}: q must be a number or a 1-D tensor, got shape {tuple(levels.shape)}.")
        if not bool(((levels >= 0) & (levels <= 1)).all()):
            raise ConfigError(f"{owner}: q must lie in [0, 1], got {levels.tolist()!r:.80}.")
        values = self._icdf(levels.reshape(-1).expand(*self.batch_shape, levels.numel()))
        return values[..., 0] if levels.ndim == 0 else values

    def interval(self, level: float) -> tuple[Tensor, Tensor]:
        """Central interval `(low, high)` that holds Y with probability `level`, 0 < level < 1."""
        owner = type(self).__name__
        if check_real(owner, "level", level, low=0, high=1, open_low=True) >= 1:
            raise ConfigError(f"{owner}: level must be less than 1, got {level}.", hint="Use 0.9 for 90%.")
        both = self.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64))
        return both[..., 0], both[..., 1]

    def sample(self, n: int, *, generator: Generator) -> Tensor:
        """`n` draws of each distribution, shape (n, *batch_shape), without gradient.

        Args:
            n: number of draws, at least 1.
            generator: the only source of randomness, for instance `torch_stream(seed, "draws")`.
        """
        owner = type(self).__name__
        check_int(owner, "n", n, low=1)
        if not isinstance(generator, Generator):
            raise ConfigError(f"{owner}: generator must be a torch.Generator, got {type(generator).__name__}.")
        with torch.no_grad():
            return self._sample(n, generator)

    def ei(self, best: Tensor | float, *, maximize: bool = True) -> Tensor:
        """Expected improvement over `best`: E[max(Y - best, 0)], or E[max(best - Y, 0)] when minimising.

        Args:
            best: the value to beat, finite; shapes as for `log_prob`.
            maximize: whether larger is better.
        """
        owner = type(self).__name__
        check_bool(owner, "maximize", maximize)
        values = self._values("best", best)
        if not bool(values.isfinite().all()):
            raise InputError(f"{owner}: best must be finite.")
        return self._ei(values, maximize)

    def pi(self, best: Tensor | float, *, maximize: bool = True) -> Tensor:
        """Probability of improvement: P(Y > best), or P(Y < best) when minimising."""
        check_bool(type(self).__name__, "maximize", maximize)
        values = self._values("best", best)
        return self._upper(values) if maximize else self._lower(values)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same distributions on another device or in another precision (float32 or float64)."""
        if dtype is not None:
            check_precision(type(self).__name__, dtype)
        return self._with([tensor.to(device=device, dtype=dtype) for tensor in self._tensors()])

    def __getitem__(self, index: object) -> Self:
        """The distributions at `index` of the batch axes (whatever indexes a tensor: integers, slices, masks)."""
        where = _batch_index(type(self).__name__, index, len(self.batch_shape))
        return self._with([tensor[where] for tensor in self._tensors()])

    @classmethod
    def cat(cls, parts: Sequence[Predictive], axis: int = 0) -> Predictive:
        """Join distributions of one kind along a batch axis.

        Raises:
            InputError: nothing to join, different kinds, or shapes that do not fit.
        """
        parts = list(parts)
        if not parts:
            raise InputError("Predictive.cat: needs at least one distribution, got none.")
        first = parts[0]
        n_axes = len(first.batch_shape)
        check_int("Predictive.cat", "axis", axis, low=-n_axes, high=n_axes - 1)
        for part in parts[1:]:
            if not first._matches(part):
                raise InputError(
                    f"Predictive.cat: cannot join {first!r} with {part!r}: kind or shared parameters differ.",
                    hint="Bars need the same borders; transformed ones the same kinds of base and transform.",
                )
        try:
            return first._with(
                [torch.cat(tensors, axis % n_axes) for tensors in zip(*(part._tensors() for part in parts))]
            )
        except RuntimeError as error:
            raise InputError(f"Predictive.cat: shapes do not fit: {error}.") from None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(batch_shape={self.batch_shape}, dtype={self.dtype}, device={str(self.device)!r})"

    # defaults ------------------------------------------------------------------------------------------------

    def _sample(self, n: int, generator: Generator) -> Tensor:
        """By inversion; uniforms in double precision so that float32 tails are not cut at 5 sigma."""
        u = torch.rand(n, *self.batch_shape, generator=generator, device=generator.device, dtype=torch.float64)
        return self._icdf(u.to(self.device).movedim(0, -1)).movedim(-1, 0).contiguous()

    def _upper(self, y: Tensor) -> Tensor:
        """P(Y > y)."""
        return 1 - self._cdf(y)

    def _lower(self, y: Tensor) -> Tensor:
        """P(Y < y)."""
        return self._cdf(y)

    def _values(self, name: str, y: Tensor | float) -> Tensor:
        """`y` on this device, in this dtype, expanded to (*samples, *batch_shape)."""
        owner, batch = type(self).__name__, self.batch_shape
        values = as_tensor(owner, name, y).to(device=self.device, dtype=self.dtype)
        try:
            shape = tuple(torch.broadcast_shapes(values.shape, batch))  # type: ignore[no-untyped-call]
        except RuntimeError:
            shape = ()
        if len(shape) < len(batch) or shape[len(shape) - len(batch) :] != batch:
            raise InputError(
                f"{owner}: {name} must have shape (*samples, *{batch}), got {tuple(values.shape)}.",
                hint="Sample axes come first, batch axes last.",
            )
        if bool(values.isnan().any()):
            raise InputError(f"{owner}: {name} contains NaN ({int(values.isnan().sum())} value(s)).")
        return values.expand(shape)


def _batch_index(owner: str, index: object, n_axes: int) -> Any:
    """`index` as a tuple that touches batch axes only, `...` written out."""
    given = index if isinstance(index, tuple) else (index,)
    items = [torch.as_tensor(item.copy()) if isinstance(item, np.ndarray) else item for item in given]
    used = 0
    for item in items:
        mask = isinstance(item, Tensor) and item.dtype in (torch.bool, torch.uint8)
        used += item.ndim if mask and isinstance(item, Tensor) else int(item is not None and item is not ...)
    if used > n_axes:
        raise InputError(f"{owner}: {used} batch axes were indexed, but there are {n_axes}.")
    where: list[object] = []
    for item in items:
        where.extend([slice(None)] * (n_axes - used) if item is ... else [item])
    return tuple(where)
