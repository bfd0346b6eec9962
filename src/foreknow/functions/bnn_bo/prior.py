"""What is believed of the objective: a network with normal weights, or a Gaussian process with a stationary kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from foreknow.common.errors import CapabilityError, ConfigError
from foreknow.common.rng import seeded_init
from foreknow.common.validate import check_bool, check_int, check_option, check_real
from foreknow.core.pictures import Lines
from foreknow.core.prior import Draw, Prior
from foreknow.core.registry import register
from foreknow.functions.bnn_bo.card import CARD
from foreknow.nn.bayes.flat import ACTIVATIONS, FlatNetwork, mlp
from foreknow.nn.bayes.layers import GaussianLayers, raw_of
from foreknow.nn.infinite.activations import ACTIVATIONS as WIDE_ACTIVATIONS
from foreknow.nn.infinite.dense import FullyConnected

JITTER = 1e-8
FACTOR_WRONG = 100.0
"""How many times too small the weight variance of the placebo is."""


@register(CARD)
@dataclass(frozen=True)
class NetworkPrior(Prior):
    """Functions of a perceptron with independent normal weights.

    Args:
        hidden: widths; of an infinite network only their number counts.
        activation: of the hidden layers; of finite networks "tanh", "relu", "gelu", "softplus" or "silu".
        weight_var: variance of every weight.
        bias_var: variance of every bias.
        scaled: divide the variance of weights by the number of inputs of their layer.
        infinite: the limit of infinite widths, a Gaussian process; it needs `scaled`.
        with_prior: False is the control arm: a finite network's usual first weights, of no meaning but to start from.
    """

    hidden: tuple[int, ...] = (128, 128, 128)
    activation: str = "tanh"
    weight_var: float = 1.0
    bias_var: float = 1.0
    scaled: bool = False
    infinite: bool = False
    with_prior: bool = True

    def __post_init__(self) -> None:
        owner = "NetworkPrior"
        if not isinstance(self.hidden, tuple | list) or not self.hidden:
            raise ConfigError(f"{owner}: hidden must be a tuple of widths, got {self.hidden!r}.")
        object.__setattr__(self, "hidden", tuple(check_int(owner, "hidden", width, low=1) for width in self.hidden))
        for name in ("scaled", "infinite", "with_prior"):
            check_bool(owner, name, getattr(self, name))
        check_option(owner, "activation", self.activation, tuple(WIDE_ACTIVATIONS if self.infinite else ACTIVATIONS))
        check_real(owner, "weight_var", self.weight_var, low=0, open_low=True)
        check_real(owner, "bias_var", self.bias_var, low=0, open_low=True)
        if self.infinite and not (self.scaled and self.with_prior):
            raise ConfigError(f"{owner}: an infinite network needs scaled=True and with_prior=True.")

    def off(self) -> Prior:
        activation = self.activation if self.activation in ACTIVATIONS else "tanh"
        return replace(self, infinite=False, with_prior=False, activation=activation)

    def wrong(self) -> NetworkPrior:
        """The placebo: variances a hundred times too small, so that functions are all but flat."""
        return replace(self, weight_var=self.weight_var / FACTOR_WRONG, bias_var=self.bias_var / FACTOR_WRONG)

    def network(self, n_in: int, n_out: int = 1) -> FlatNetwork:
        """The (finite) architecture."""
        with seeded_init(0):
            return FlatNetwork(mlp(n_in, n_out, self.hidden, self.activation))

    def layers(self, network: FlatNetwork) -> GaussianLayers:
        """The density of the weights, in double precision."""
        found = GaussianLayers(network, sd=1.0, fan_in=self.scaled).double()
        variances = [self.weight_var if len(slot.shape) > 1 else self.bias_var for slot in network.slots]
        with torch.no_grad():
            found.raw.copy_(torch.tensor([raw_of(math.sqrt(value)) for value in variances], dtype=torch.float64))
        return found.requires_grad_(False)

    def kernel(self) -> FullyConnected:
        """The kernel of the infinite network."""
        return FullyConnected(len(self.hidden), self.activation, float(self.weight_var), float(self.bias_var))

    def sample(
        self,
        n: int,
        *,
        generator: Generator,
        x: Tensor | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Draw:
        """`n` functions as values at rows x (m, d) of the unit cube, shape (n, m); by default 100 points of a line."""
        check_int("NetworkPrior", "n", n, low=1)
        rows = (grid() if x is None else x).double().cpu()
        if self.infinite:
            values = gp_draws(self.kernel()(rows), n, generator)
        else:
            network = self.network(rows.shape[1])
            with torch.no_grad():
                weights = self.layers(network).draw(n, generator) if self.with_prior else start(network, n, generator)
                values = network(weights.cpu(), rows)[..., 0]
        return Draw(values.to(device or generator.device, dtype or torch.float32))

    def picture(self, n: int, *, generator: Generator) -> Lines:
        """Functions it believes in, along a line across the unit cube."""
        what = "no prior, first weights" if not self.with_prior else "infinite width" if self.infinite else "finite"
        return _picture(self, n, generator, f"functions of a network: {what}")

    @classmethod
    def examples(cls) -> list[Prior]:
        return [cls((8, 8)), cls((1, 1, 1), "relu", 10.0, 1.6, scaled=True, infinite=True)]


def _gamma(value: Tensor, shape: float, rate: float) -> Tensor:
    return (shape - 1) * value.log() - rate * value


ERAS = ("2024", "2023")


@register(CARD)
@dataclass(frozen=True)
class ProcessPrior(Prior):
    """Functions of a Gaussian process with one lengthscale for each input.

    Args:
        era: "2024": squared exponential, log-normal prior of lengthscales that grow with the dimension (BoTorch's
            default since 0.12); "2023": Matern 5/2, Gamma priors (BoTorch's default before).
        lengthscale: fixed, in units of the unit cube; None leaves it to its prior, and to the data.
    """

    era: str = "2024"
    lengthscale: float | None = None

    def __post_init__(self) -> None:
        check_option("ProcessPrior", "era", self.era, ERAS)
        if self.lengthscale is not None:
            check_real("ProcessPrior", "lengthscale", self.lengthscale, low=0, open_low=True)

    def off(self) -> Prior:
        return NetworkPrior().off()

    def wrong(self) -> ProcessPrior:
        """The placebo: a lengthscale far longer than the cube."""
        return replace(self, lengthscale=FACTOR_WRONG)

    def log_density(self, lengthscale: Tensor, scale: Tensor, noise: Tensor) -> Tensor:
        """Log density of era "2023", without its constant: lengthscales (k,) if they are free, variance and noise ().

        Raises:
            CapabilityError: of era "2024", which BoTorch itself fits.
        """
        if self.era != "2023":
            raise CapabilityError("ProcessPrior: only era '2023' has a log density here.")
        found = _gamma(scale, 2.0, 0.15) + _gamma(noise, 1.1, 0.05)
        return found if self.lengthscale is not None else found + _gamma(lengthscale, 3.0, 6.0).sum()

    def sample(
        self,
        n: int,
        *,
        generator: Generator,
        x: Tensor | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Draw:
        """`n` functions of unit variance as values at rows x (m, d), shape (n, m); lengthscales are drawn first."""
        check_int("ProcessPrior", "n", n, low=1)
        rows = (grid() if x is None else x).double().cpu()
        d = rows.shape[1]
        if self.lengthscale is not None:
            scale = torch.full((n, d), float(self.lengthscale), dtype=torch.float64)
        elif self.era == "2024":
            z = torch.randn(n, d, generator=generator, device=generator.device, dtype=torch.float64).cpu()
            scale = (math.sqrt(2) + 0.5 * math.log(d) + math.sqrt(3) * z).exp()
        else:
            shape = torch.full((n, d), 3.0, dtype=torch.float64, device=generator.device)
            scale = (torch._standard_gamma(shape, generator=generator) / 6.0).cpu()
        scaled = rows / scale.clamp_min(1e-3)[:, None]  # (n, m, d)
        values = gp_draws(rbf(scaled, scaled) if self.era == "2024" else matern(scaled, scaled), n, generator)
        return Draw(values.to(device or generator.device, dtype or torch.float32))

    def picture(self, n: int, *, generator: Generator) -> Lines:
        """Functions it believes in, along a line across the unit cube."""
        return _picture(self, n, generator, f"functions of a Gaussian process ({self.era})")

    @classmethod
    def examples(cls) -> list[Prior]:
        return [cls(), cls("2023"), cls(lengthscale=0.2)]


def grid(m: int = 100) -> Tensor:
    """Points of a line, shape (m, 1)."""
    return torch.linspace(0, 1, m, dtype=torch.float64)[:, None]


def start(network: FlatNetwork, n: int, generator: Generator) -> Tensor:
    """First weights as PyTorch has them, uniform up to 1 / sqrt(inputs of the layer): shape (n, n_weights)."""
    u = torch.rand(n, network.n_weights, generator=generator, device=generator.device, dtype=torch.float64)
    bound, fan = torch.ones(network.n_weights, dtype=torch.float64), 1
    for slot in network.slots:
        fan = slot.fan_in if len(slot.shape) > 1 else fan  # a bias follows its weights
        bound[slot.start : slot.stop] = fan**-0.5
    return (2 * u.cpu() - 1) * bound


def gp_draws(covariance: Tensor, n: int, generator: Generator) -> Tensor:
    """`n` draws of a normal vector with mean 0, shape (n, m)."""
    m = covariance.shape[-1]
    scale = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    eye = torch.eye(m, dtype=covariance.dtype)
    values, vectors = torch.linalg.eigh(covariance + JITTER * scale * eye)
    z = torch.randn(n, m, generator=generator, device=generator.device, dtype=torch.float64).cpu()
    root: Tensor = vectors * values.clamp_min(0).sqrt().unsqueeze(-2)
    return (root @ z[..., None]).squeeze(-1)


def rbf(x: Tensor, z: Tensor) -> Tensor:
    """Squared exponential of rows (*b, n, d) and (*b, m, d) in units of the lengthscale."""
    return torch.exp(-0.5 * _squares(x, z))


def matern(x: Tensor, z: Tensor) -> Tensor:
    """Matern 5/2 of rows (*b, n, d) and (*b, m, d) in units of the lengthscale."""
    square = 5 * _squares(x, z)
    r = (square + 1e-20).sqrt()  # a slope of 0 where two rows are the same
    return (1 + r + square / 3) * torch.exp(-r)


def _squares(x: Tensor, z: Tensor) -> Tensor:
    """Squared distances, (*b, n, m)."""
    middle = x.mean(-2, keepdim=True).detach() if x.ndim == z.ndim else z.mean(-2, keepdim=True).detach()
    x, z = x - middle, z - middle  # less cancellation
    cross = x @ z.mT
    return (x.square().sum(-1)[..., :, None] + z.square().sum(-1)[..., None, :] - 2 * cross).clamp_min(0)


def _picture(prior: NetworkPrior | ProcessPrior, n: int, generator: Generator, title: str) -> Lines:
    values = prior.sample(n, x=grid(200), generator=generator).value.numpy()
    names = {f"draw {number + 1}": row for number, row in enumerate(values)}
    return Lines(grid(200)[:, 0].numpy(), names, "x, in units of its range", "f(x)", title)
