"""Weights as a normal pushed through a normalizing flow, one flow a weight matrix or bias.

Planar: z + u tanh(w.z + b) (Rezende and Mohamed 2015). Sylvester: z + Q R tanh(R~ Q'z + b) with orthonormal columns Q
and triangular R, R~ (van den Berg et al. 2018); one column is the planar flow. Chains move in the base, where the
density is normal, so no inverse is needed.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import softplus

from foreknow.common.validate import check_int
from foreknow.nn.bayes.flat import FlatNetwork
from foreknow.nn.bayes.layers import GaussianLayers, WeightPrior


class SylvesterStep(nn.Module):
    """One step of the flow on vectors of `size` numbers; invertible for all values of its parameters.

    Args:
        size: of the vectors.
        rank: columns of Q, at most `size`; 1 is a planar flow.
        generator: of the first directions.
    """

    def __init__(self, size: int, rank: int, *, generator: Generator) -> None:
        super().__init__()
        rank = min(rank, size)
        self.directions = nn.Parameter(torch.randn(size, rank, generator=generator))
        self.raw_upper = nn.Parameter(torch.zeros(2, rank, rank))
        self.raw_diagonal = nn.Parameter(torch.zeros(2, rank))
        self.shift = nn.Parameter(torch.zeros(rank))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Moved vectors (n, size) and log determinants (n,)."""
        q = torch.linalg.qr(self.directions).Q
        upper = self.raw_upper.triu(1)
        # the map is increasing along each column if R~_ii > 0 and R_ii R~_ii > -1, the slope of tanh being at most 1
        second = softplus(self.raw_diagonal[1]) + 1e-3
        first = (softplus(self.raw_diagonal[0]) / softplus(torch.zeros_like(second)) - 1) / second
        h = torch.tanh(z @ q @ (upper[1] + torch.diag(second)).T + self.shift)
        log_det = torch.log1p((1 - h.square()) * first * second * (1 - 1e-6)).sum(-1)
        return z + h @ (upper[0] + torch.diag(first)).T @ q.T, log_det


class FlowLayers(WeightPrior):
    """A flow over all weights of each slot, on normals whose standard deviations are tuned too.

    Args:
        network: whose weights.
        n_steps: of each flow.
        rank: 1 for planar flows, more for Sylvester flows.
        sd: of the base at the start, None as in `GaussianLayers`.
        fan_in: as in `GaussianLayers`.
        generator: of the first directions; the flow starts as the identity.
    """

    def __init__(
        self,
        network: FlatNetwork,
        *,
        n_steps: int = 4,
        rank: int = 1,
        sd: float | None = None,
        fan_in: bool = True,
        generator: Generator,
    ) -> None:
        super().__init__(network, fan_in=fan_in)
        check_int("FlowLayers", "n_steps", n_steps, low=1)
        check_int("FlowLayers", "rank", rank, low=1)
        self.base = GaussianLayers(network, sd=sd, fan_in=fan_in)
        self.sizes = [slot.stop - slot.start for slot in network.slots]
        self.flows = nn.ModuleList(
            nn.ModuleList(SylvesterStep(size, rank, generator=generator) for _ in range(n_steps)) for size in self.sizes
        )

    def push(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of standard normal coordinates (n, n_weights), and the log determinant of the map, (n,).

        The flow acts on standard normal numbers; the layer's standard deviation multiplies what comes out.
        """
        parts, total = [], torch.zeros(z.shape[0]).to(z)
        for part, steps in zip(torch.split(z, self.sizes, dim=-1), self.flows, strict=True):
            for step in steps:  # type: ignore[attr-defined]
                part, log_det = step(part)
                total = total + log_det
            parts.append(part)
        sd = self.base.sd
        return torch.cat(parts, -1) * sd[self.slot], total + (self.counts * sd.log()).sum()

    def draw(self, n: int, generator: Generator) -> Tensor:
        return self.push(self._normal(n, generator))[0]

    def start(self, n: int, generator: Generator) -> tuple[Tensor, Tensor | None]:
        return self._normal(n, generator), None

    def weights(self, z: Tensor) -> Tensor:
        return self.push(z)[0]

    def log_prob(self, z: Tensor, state: Tensor | None = None) -> Tensor:
        """Density of the coordinates, which are standard normal."""
        return self._log_normal(z, torch.ones_like(self.fan))

    def slope(self, z: Tensor, state: Tensor | None = None) -> Tensor:
        return -z

    def log_density(self, z: Tensor) -> Tensor:
        """Density of the weights at these coordinates: that of the base less the log determinant of the map."""
        return self.log_prob(z) - self.push(z)[1]
