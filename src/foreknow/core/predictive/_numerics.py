"""Small shared pieces: parameters as tensors that agree, the standard normal, gathering by bucket."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from foreknow.common.errors import ConfigError, InputError

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
_PRECISIONS = (torch.float32, torch.float64)


def as_tensor(owner: str, name: str, value: object) -> Tensor:
    """`value` as a real tensor (arrays are copied, so that read-only ones are welcome)."""
    try:
        tensor = value if isinstance(value, Tensor) else torch.as_tensor(np.array(value))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{owner}: {name} must hold numbers, got {type(value).__name__} ({error}).") from error
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise InputError(f"{owner}: {name} must hold real numbers, got dtype {tensor.dtype}.")
    return tensor


def together(owner: str, values: Mapping[str, object]) -> list[Tensor]:
    """The parameters on one device in one precision: the widest given, float32 at least.

    Python numbers follow the tensors and arrays beside them.

    Raises:
        InputError: not numbers, on different devices, or NaN.
    """
    tensors = {name: as_tensor(owner, name, value) for name, value in values.items()}
    devices = {value.device for value in values.values() if isinstance(value, Tensor)}
    if len(devices) > 1:
        raise InputError(f"{owner}: {', '.join(values)} are on different devices: {sorted(map(str, devices))}.")
    dtype = torch.float32
    for name, value in values.items():
        if not isinstance(value, int | float) and tensors[name].is_floating_point():
            dtype = torch.promote_types(dtype, tensors[name].dtype)
    device = devices.pop() if devices else torch.device("cpu")
    result = []
    for name, tensor in tensors.items():
        moved = tensor.to(device=device, dtype=dtype)
        if bool(moved.isnan().any()):
            raise InputError(f"{owner}: {name} contains NaN ({int(moved.isnan().sum())} value(s)).")
        result.append(moved)
    return result


def broadcast(owner: str, names: str, tensors: list[Tensor]) -> list[Tensor]:
    """The tensors expanded to one shape."""
    try:
        return [*torch.broadcast_tensors(*tensors)]  # type: ignore[no-untyped-call]
    except RuntimeError:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
        raise InputError(f"{owner}: {names} must broadcast to one shape, got {shapes}.") from None


def check_finite(owner: str, name: str, tensor: Tensor) -> None:
    """Refuse infinite values."""
    if not bool(tensor.isfinite().all()):
        raise InputError(f"{owner}: {name} must be finite, got {int((~tensor.isfinite()).sum())} infinite value(s).")


def check_positive(owner: str, name: str, tensor: Tensor) -> None:
    """Refuse values that are not finite and greater than 0."""
    check_finite(owner, name, tensor)
    if not bool((tensor > 0).all()):
        raise InputError(
            f"{owner}: {name} must be greater than 0, smallest is {float(tensor.min())}.",
            hint="Pass it through softplus, exp or clamp(min=...) first.",
        )


def check_logits(owner: str, logits: Tensor) -> None:
    """Logits need one last axis; -inf switches an entry off, but not all of them."""
    if logits.ndim < 1 or logits.shape[-1] < 1:
        raise InputError(f"{owner}: logits need a last axis of at least 1 entry, got shape {tuple(logits.shape)}.")
    top = logits.amax(-1)
    if not bool(top.isfinite().all()):
        raise InputError(
            f"{owner}: every row of logits needs a finite largest entry, got {float(top.max())} somewhere."
        )


def check_precision(owner: str, dtype: torch.dtype) -> None:
    """Refuse dtypes in which densities lose their meaning."""
    if dtype not in _PRECISIONS:
        raise ConfigError(f"{owner}: dtype must be torch.float32 or torch.float64, got {dtype}.")


def log_normal(z: Tensor) -> Tensor:
    """Log density of the standard normal."""
    return -0.5 * z.square() - LOG_SQRT_2PI


def ndtr(z: Tensor) -> Tensor:
    """P(Z <= z) for Z standard normal, with full relative precision far below 0 (torch.special.ndtr loses it)."""
    return 0.5 * torch.erfc(-math.sqrt(0.5) * z)


def ndtri(p: Tensor) -> Tensor:
    """Quantile of the standard normal."""
    z: Tensor = torch.special.ndtri(p)
    return z


def normal_density(z: Tensor) -> Tensor:
    """Density of the standard normal."""
    return log_normal(z).exp()


def normal_gain(gain: Tensor, sd: Tensor) -> Tensor:
    """E[max(Z, 0)] for Z normal with mean `gain` and standard deviation `sd`."""
    z = gain / sd
    return (gain * ndtr(z) + sd * normal_density(z)).clamp(min=0)


def take(table: Tensor, index: Tensor) -> Tensor:
    """`table[b, index[s, b]]`: table (*batch, K), index (*samples, *batch) -> (*samples, *batch)."""
    batch = table.shape[:-1]
    lead = index.shape[: index.ndim - len(batch)]
    flat = index.reshape(math.prod(lead), *batch).movedim(0, -1)  # (*batch, samples)
    return table.gather(-1, flat).movedim(-1, 0).reshape(index.shape)
