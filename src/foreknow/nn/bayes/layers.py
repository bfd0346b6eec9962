"""Priors over all weights of a network, layer by layer, with parameters that can be tuned by gradient.

A `WeightPrior` has coordinates of its own in which chains move: the weights themselves, or the base of a flow.
W of layer l is drawn as softplus(s) N(0, 1) / sqrt(fan_in), its bias as softplus(s) N(0, 1).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import softplus

from foreknow.common.validate import check_bool, check_real
from foreknow.nn.bayes.flat import FlatNetwork

LOG_2PI = math.log(2 * math.pi)


def raw_of(value: float) -> float:
    """The number whose softplus is `value`."""
    return value + math.log(-math.expm1(-value))


class WeightPrior(nn.Module, ABC):
    """A distribution over the weights of one network.

    Args:
        network: whose weights.
        fan_in: divide the standard deviation of weight matrices by sqrt(fan_in).
    """

    slot: Tensor
    fan: Tensor
    counts: Tensor

    def __init__(self, network: FlatNetwork, *, fan_in: bool = True) -> None:
        super().__init__()
        check_bool("WeightPrior", "fan_in", fan_in)
        sizes = torch.tensor([slot.stop - slot.start for slot in network.slots])
        scale = torch.tensor([slot.fan_in if fan_in else 1 for slot in network.slots], dtype=torch.float32)
        self.n_weights, self.n_slots = network.n_weights, len(network.slots)
        self.register_buffer("slot", torch.repeat_interleave(torch.arange(len(sizes)), sizes), persistent=False)
        self.register_buffer("fan", scale.rsqrt(), persistent=False)
        self.register_buffer("counts", sizes.to(torch.float32), persistent=False)

    @abstractmethod
    def draw(self, n: int, generator: Generator) -> Tensor:
        """`n` weight vectors (n, n_weights) that carry gradients to the prior's parameters."""

    @abstractmethod
    def start(self, n: int, generator: Generator) -> tuple[Tensor, Tensor | None]:
        """Where `n` chains begin, drawn from the prior: coordinates and what `gibbs` renews."""

    @abstractmethod
    def log_prob(self, z: Tensor, state: Tensor | None = None) -> Tensor:
        """Log density of the coordinates (n, n_weights), given the state of the chains: shape (n,)."""

    def slope(self, z: Tensor, state: Tensor | None = None) -> Tensor:
        """Gradient of `log_prob` in the coordinates, (n, n_weights)."""
        with torch.enable_grad():
            leaf = z.detach().requires_grad_(True)
            (found,) = torch.autograd.grad(self.log_prob(leaf, state).sum(), leaf)
        return found

    def weights(self, z: Tensor) -> Tensor:
        """The weights at these coordinates."""
        return z

    def gibbs(self, z: Tensor, state: Tensor | None, generator: Generator) -> Tensor | None:
        """Draw the state of the chains given their coordinates; None where there is nothing to draw."""
        return state

    def _normal(self, n: int, generator: Generator) -> Tensor:
        shape = (n, self.n_weights)
        z = torch.randn(shape, generator=generator, device=generator.device, dtype=self.fan.dtype)
        return z.to(self.fan.device)

    def _log_normal(self, z: Tensor, sd: Tensor) -> Tensor:
        """Log density of independent normals; sd of every slot, shape (n_slots,) or (n, n_slots)."""
        each = sd[..., self.slot]
        logs = (self.counts * sd.log()).sum(-1)
        return -0.5 * (z / each).square().sum(-1) - logs - 0.5 * self.n_weights * LOG_2PI


class GaussianLayers(WeightPrior):
    """Independent normals, one standard deviation a weight matrix and one a bias.

    Args:
        network: whose weights.
        sd: at the start; None takes softplus(1) = 1.31, as published.
        fan_in: divide that of weight matrices by sqrt(fan_in).
    """

    def __init__(self, network: FlatNetwork, *, sd: float | None = None, fan_in: bool = True) -> None:
        super().__init__(network, fan_in=fan_in)
        raw = 1.0 if sd is None else raw_of(check_real("GaussianLayers", "sd", sd, low=0, open_low=True))
        self.raw = nn.Parameter(torch.full((self.n_slots,), raw))

    @property
    def sd(self) -> Tensor:
        """Standard deviation of the weights of every slot."""
        return softplus(self.raw) * self.fan

    def draw(self, n: int, generator: Generator) -> Tensor:
        return self._normal(n, generator) * self.sd[self.slot]

    def start(self, n: int, generator: Generator) -> tuple[Tensor, Tensor | None]:
        with torch.no_grad():
            return self.draw(n, generator), None

    def log_prob(self, z: Tensor, state: Tensor | None = None) -> Tensor:
        return self._log_normal(z, self.sd)

    def slope(self, z: Tensor, state: Tensor | None = None) -> Tensor:
        return -z * self.sd.detach().square().reciprocal()[self.slot]


class HierarchicalLayers(WeightPrior):
    """Normals whose variance is drawn anew for every layer and draw, from an inverse gamma of its own.

    The state of the chains holds the variances, shape (n, n_slots), before the division by fan_in.

    Args:
        network: whose weights.
        shape, rate: of all inverse gammas at the start; None takes softplus(1), as published.
        fan_in: divide the variance of weight matrices by fan_in.
    """

    def __init__(
        self, network: FlatNetwork, *, shape: float | None = None, rate: float | None = None, fan_in: bool = True
    ) -> None:
        super().__init__(network, fan_in=fan_in)
        given = [
            1.0 if value is None else raw_of(check_real("HierarchicalLayers", name, value, low=0, open_low=True))
            for name, value in (("shape", shape), ("rate", rate))
        ]
        self.raw_shape = nn.Parameter(torch.full((self.n_slots,), given[0]))
        self.raw_rate = nn.Parameter(torch.full((self.n_slots,), given[1]))

    @property
    def shape(self) -> Tensor:
        return softplus(self.raw_shape)

    @property
    def rate(self) -> Tensor:
        return softplus(self.raw_rate)

    def variances(self, n: int, generator: Generator) -> Tensor:
        """Draws (n, n_slots) that carry gradients to shape and rate (implicit reparametrisation)."""
        return inverse_gamma(self.shape.expand(n, -1), self.rate.expand(n, -1), generator)

    def draw(self, n: int, generator: Generator) -> Tensor:
        sd = self.variances(n, generator).sqrt() * self.fan
        return self._normal(n, generator) * sd[:, self.slot]

    def start(self, n: int, generator: Generator) -> tuple[Tensor, Tensor | None]:
        with torch.no_grad():
            variances = self.variances(n, generator)
            return self._normal(n, generator) * (variances.sqrt() * self.fan)[:, self.slot], variances

    def log_prob(self, z: Tensor, state: Tensor | None = None) -> Tensor:
        if state is None:
            return self._marginal(z)
        return self._log_normal(z, state.sqrt() * self.fan)

    def slope(self, z: Tensor, state: Tensor | None = None) -> Tensor:
        if state is None:
            return super().slope(z)
        return -z * (state * self.fan.square()).reciprocal()[:, self.slot]

    def _marginal(self, z: Tensor) -> Tensor:
        """With the variances integrated out: a multivariate Student-t a slot."""
        a, b, n = self.shape, self.rate, self.counts
        after = a + 0.5 * n, b + 0.5 * self._squares(z)
        each = torch.lgamma(after[0]) - torch.lgamma(a) + a * b.log() - after[0] * after[1].log()
        return (each - 0.5 * n * LOG_2PI - n * self.fan.log()).sum(-1)

    def _squares(self, z: Tensor) -> Tensor:
        """Sum of squares of every slot in units of 1/sqrt(fan_in), shape (n, n_slots)."""
        scaled = (z / self.fan[self.slot]).square()
        return torch.zeros(*z.shape[:-1], self.n_slots).to(z).index_add_(-1, self.slot, scaled)

    def gibbs(self, z: Tensor, state: Tensor | None, generator: Generator) -> Tensor | None:
        with torch.no_grad():
            shape = (self.shape + 0.5 * self.counts).expand(z.shape[0], -1)
            return inverse_gamma(shape, self.rate + 0.5 * self._squares(z), generator)


def inverse_gamma(shape: Tensor, rate: Tensor, generator: Generator) -> Tensor:
    """Inverse gamma draws, differentiable in both parameters."""
    gamma = torch._standard_gamma(shape.to(generator.device), generator=generator).to(shape.device)
    return rate / gamma.clamp_min(torch.finfo(gamma.dtype).tiny ** 0.5)
