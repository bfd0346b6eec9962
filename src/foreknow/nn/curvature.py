"""Curvature of a loss without its matrix: Hessian-vector products, and traces with their standard errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from foreknow.common.errors import ConvergenceError, InputError
from foreknow.common.validate import check_int, check_real


@dataclass(frozen=True)
class TraceEstimate:
    """Trace of a block of the Hessian.

    Args:
        trace: mean over the probes; may be negative by noise, or where the loss is not at a minimum.
        stderr: its standard error.
        n_probes: how many there were.
    """

    trace: float
    stderr: float
    n_probes: int


def hessian_vector_product(loss: Tensor, parameters: Sequence[Tensor], vectors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """H v by double backward, block by block.

    Args:
        loss: a scalar that depends on the parameters.
        parameters: tensors that require gradients.
        vectors: one a parameter, of its shape.
    """
    gradient = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
    return _product(gradient, parameters, vectors)


def hessian_traces(
    loss: Callable[[Any], Tensor],
    parameters: Mapping[str, Tensor],
    batches: Sequence[Any],
    *,
    generator: Generator,
    n_probes: int = 64,
    tolerance: float = 1e-3,
) -> dict[str, TraceEstimate]:
    """Trace of the Hessian's diagonal block of every parameter, by Hutchinson's estimator: the mean of v'Hv.

    A probe draws signs for all parameters at once, and its one Hessian-vector product serves every block: what the
    blocks say of each other has mean zero and only adds to the standard error. Probes are shared out among the batches,
    so that the standard error holds the variation between batches too: the first 50 in as many runs as there are
    batches, the others in turn.

    Args:
        loss: batch -> mean loss over its rows, a scalar that depends on `parameters`.
        parameters: tensors that require gradients, by name.
        batches: what `loss` takes, at least one.
        generator: source of the signs.
        n_probes: most probes, at least 2.
        tolerance: stop after 50 probes, or one a batch if that is more, once no running mean changes by more than this
            share of itself; 0 never stops.

    Raises:
        InputError: there is no batch.
        ConvergenceError: a product is not finite.
    """
    owner = "hessian_traces"
    check_int(owner, "n_probes", n_probes, low=2)
    check_real(owner, "tolerance", tolerance, low=0.0)
    if not batches:
        raise InputError(f"{owner}: there is no batch; at least one is needed.")
    names, tensors = list(parameters), list(parameters.values())
    found: list[Tensor] = []
    each = -(-min(n_probes, _LEAST_PROBES) // len(batches))
    first, last = each * len(batches), -1
    for n in range(n_probes):
        place = n // each if n < first else n % len(batches)
        if place != last:  # the gradient of a batch serves all of its probes in a row
            gradient = torch.autograd.grad(loss(batches[place]), tensors, create_graph=True, materialize_grads=True)
            last = place
        signs = [_signs(tensor, generator) for tensor in tensors]
        products = _product(gradient, tensors, signs)
        found.append(torch.stack([(v * hv).sum() for v, hv in zip(signs, products)]).double().cpu())
        if not found[-1].isfinite().all():
            raise ConvergenceError(f"{owner}: a Hessian-vector product is not finite.", hint="Check the loss.")
        if n >= first and _settled(torch.stack(found), tolerance):
            break
    return _estimates(names, torch.stack(found))


_LEAST_PROBES = 50


def _signs(tensor: Tensor, generator: Generator) -> Tensor:
    drawn = torch.randint(0, 2, tensor.shape, generator=generator, device=generator.device, dtype=tensor.dtype)
    return (2 * drawn - 1).to(tensor.device)


def _product(gradient: Sequence[Tensor], parameters: Sequence[Tensor], vectors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    along = sum((g * v).sum() for g, v in zip(gradient, vectors, strict=True))
    if not (isinstance(along, Tensor) and along.requires_grad):  # a linear loss
        return tuple(torch.zeros_like(p) for p in parameters)
    return torch.autograd.grad(along, parameters, retain_graph=True, materialize_grads=True)


def _settled(found: Tensor, tolerance: float) -> bool:
    now, before = found.mean(0), found[:-1].mean(0)
    return bool(((now - before).abs() < tolerance * (now.abs() + 1e-6)).all())


def _estimates(names: Sequence[str], found: Tensor) -> dict[str, TraceEstimate]:
    n = len(found)
    error = found.std(0) / n**0.5
    return {name: TraceEstimate(float(found[:, i].mean()), float(error[i]), n) for i, name in enumerate(names)}
