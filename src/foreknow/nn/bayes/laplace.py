"""Laplace approximation around a mode, with the generalised Gauss-Newton matrix and the linearised predictive.

MacKay (1992); Daxberger et al. (2021) for the family of structures and the linearised predictive. Posterior precision
P = sum_n J_n' H_n J_n + diag(prior precision), J the Jacobian of the outputs, H the curvature of the likelihood.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.func import jacrev, vmap

from foreknow.common.errors import ConfigError
from foreknow.common.validate import check_option
from foreknow.nn.bayes.flat import FlatNetwork
from foreknow.nn.bayes.likelihoods import Likelihood

STRUCTURES = ("full", "kron", "diag", "last")


class Laplace:
    """A normal distribution over the weights around `mode`.

    Args:
        network: the architecture.
        likelihood: of the targets.
        mode: weights, shape (n_weights,).
        x: training rows, shape (n, ...).
        prior_precision: of every weight, a number or shape (n_weights,).
        structure: "full"; "kron" (one Kronecker product a linear layer, others must not exist); "diag"; or "last"
            (full over the last layer's weights, all others fixed).
    """

    def __init__(
        self,
        network: FlatNetwork,
        likelihood: Likelihood,
        mode: Tensor,
        x: Tensor,
        *,
        prior_precision: float | Tensor = 1.0,
        structure: str = "full",
    ) -> None:
        self.structure = check_option("Laplace", "structure", structure, STRUCTURES)
        self.network, self.likelihood, self.mode = network, likelihood, mode.detach()
        self.prior = torch.as_tensor(prior_precision).to(self.mode).expand(network.n_weights)
        self.free = torch.arange(network.n_weights, device=self.mode.device)
        if structure == "last":
            names = [slot.name.rpartition(".")[0] for slot in network.slots]
            last = [slot for slot, name in zip(network.slots, names, strict=True) if name == names[-1]]
            self.free = self.free[last[0].start : last[-1].stop]
        if structure == "kron":
            self._kron = _kronecker(network, likelihood, self.mode, x, self.prior)
            return
        jacobian, curvature = self._jacobian(x), likelihood.curvature(network(self.mode[None], x)[0].detach())
        if structure == "diag":
            self.precision = torch.einsum("nop,nop->p", curvature @ jacobian, jacobian) + self.prior
            return
        self.precision = torch.einsum("nop,noq->pq", curvature @ jacobian, jacobian)
        self.precision = self.precision + torch.diag(self.prior[self.free])
        self._factor = torch.linalg.cholesky(self.precision)

    def predict(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (n, out) and covariance (n, out, out) of the outputs, linearised in the weights."""
        mean, jacobian = self.network(self.mode[None], x)[0].detach(), self._jacobian(x)
        if self.structure == "kron":
            return mean, sum(part.covariance(jacobian) for part in self._kron)  # type: ignore[return-value]
        if self.structure == "diag":
            return mean, (jacobian / self.precision) @ jacobian.transpose(1, 2)
        flat = jacobian.reshape(-1, jacobian.shape[-1]).T
        half = torch.linalg.solve_triangular(self._factor, flat, upper=False).T.reshape(jacobian.shape)
        return mean, half @ half.transpose(1, 2)

    def sample(self, n: int, generator: Generator) -> Tensor:
        """`n` weight vectors, shape (n, n_weights)."""
        size = len(self.free)
        z = torch.randn(n, size, generator=generator, device=generator.device, dtype=self.mode.dtype).to(self.mode)
        weights = self.mode.expand(n, -1).clone()
        if self.structure == "kron":
            for part in self._kron:
                weights[:, part.index] += part.draw(z[:, part.index])
        elif self.structure == "diag":
            weights += z / self.precision.sqrt()
        else:
            weights[:, self.free] += torch.linalg.solve_triangular(self._factor.T, z.T, upper=True).T
        return weights

    def _jacobian(self, x: Tensor) -> Tensor:
        """Jacobian of the outputs in the free weights, shape (n, out, free)."""

        def outputs(part: Tensor, row: Tensor) -> Tensor:
            weights = self.mode.index_copy(0, self.free, part)
            return self.network.single(weights, row[None])[0]

        found: Tensor = vmap(jacrev(outputs), in_dims=(None, 0))(self.mode[self.free], x)
        return found.detach()


class _Block:
    """One layer's Kronecker factors: precision = B (x) A / n + prior, in the eigenbasis of both."""

    def __init__(self, index: Tensor, inputs: Tensor, outputs: Tensor, prior: Tensor) -> None:
        self.index = index
        (a, self.u), (b, self.v) = (torch.linalg.eigh(matrix) for matrix in (inputs, outputs))
        # a layer has one prior precision a matrix, one a bias; the mean serves the eigenbasis they share
        self.precision = b.clamp_min(0)[:, None] * a.clamp_min(0)[None, :] + prior.mean()

    def covariance(self, jacobian: Tensor) -> Tensor:
        part = self._matrix(jacobian[..., self.index])  # (n, out, h, d + 1)
        turned = self.v.T @ part @ self.u / self.precision.sqrt()
        flat: Tensor = turned.flatten(2)
        return flat @ flat.transpose(1, 2)

    def draw(self, z: Tensor) -> Tensor:
        part = self.v @ (self._matrix(z) / self.precision.sqrt()) @ self.u.T
        return torch.cat([part[..., :-1].flatten(-2), part[..., -1]], -1)

    def _matrix(self, flat: Tensor) -> Tensor:
        """Flat numbers of a layer, weight matrix then bias, as one matrix (h, d + 1)."""
        h, d = self.v.shape[0], self.u.shape[0] - 1
        weight, bias = flat[..., : h * d], flat[..., h * d :]
        return torch.cat([weight.reshape(*flat.shape[:-1], h, d), bias.unsqueeze(-1)], -1)


def _kronecker(network: FlatNetwork, likelihood: Likelihood, mode: Tensor, x: Tensor, prior: Tensor) -> list[_Block]:
    module = network.to_module(mode)
    layers = [part for part in module.modules() if next(part.parameters(recurse=False), None) is not None]
    if not all(isinstance(part, nn.Linear) and part.bias is not None for part in layers):
        raise ConfigError(
            "Laplace: structure 'kron' needs linear layers with biases and nothing else.", hint="Use 'diag' or 'full'."
        )
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    hooks = [
        part.register_forward_hook(lambda part, given, out: seen.__setitem__(part, (given[0].detach(), out)))
        for part in layers
    ]
    outputs = module(x)
    for hook in hooks:
        hook.remove()
    root = _square_root(likelihood.curvature(outputs.detach()))  # (n, out, out)
    widths = [next(part.parameters()).shape[0] for part in layers]
    back = {part: torch.zeros(width, width).to(mode) for part, width in zip(layers, widths, strict=True)}
    for column in range(outputs.shape[-1]):
        slopes = torch.autograd.grad(
            (outputs * root[..., column]).sum(), [seen[p][1] for p in layers], retain_graph=True
        )
        for part, slope in zip(layers, slopes, strict=True):
            back[part] += slope.T @ slope
    blocks, start = [], 0
    for part in layers:
        size = sum(value.numel() for value in part.parameters(recurse=False))
        index = torch.arange(start, start + size, device=mode.device)
        start += size
        given = torch.cat([seen[part][0], torch.ones_like(seen[part][0][:, :1])], 1)
        blocks.append(_Block(index, given.T @ given / len(x), back[part], prior[index]))
    return blocks


def _square_root(matrices: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrices)
    root: Tensor = vectors * values.clamp_min(0).sqrt().unsqueeze(-2)
    return root
