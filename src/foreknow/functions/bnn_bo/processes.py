"""Surrogates that are Gaussian processes: of a network of infinite width, on learnt features, and the standard one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from foreknow.common.errors import ConfigError, ConvergenceError
from foreknow.common.rng import seeded_init
from foreknow.common.validate import check_int, check_option, check_real
from foreknow.core.prior import Prior
from foreknow.core.records import record
from foreknow.functions.bnn_bo.base import Fitted, Process, Surrogate
from foreknow.functions.bnn_bo.extra import bo, quiet
from foreknow.functions.bnn_bo.networks import HIDDEN, MAPNet
from foreknow.functions.bnn_bo.prior import ERAS, NetworkPrior, ProcessPrior, matern
from foreknow.nn.bayes.flat import FlatNetwork, mlp
from foreknow.nn.infinite.dense import FullyConnected

LEAST_NOISE = 1e-4
"""Smallest noise variance that is fitted, in standardised units; smaller ones make covariances singular."""
_MOST_NOISE = 10.0
_N_GRID = 40
_FIRST_LENGTH = math.log(2.0)  # where GPyTorch starts


def condition(cross: Tensor, own: Tensor, factor: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (*b, q) and covariance (*b, q, q) of a Gaussian process given data.

    Args:
        cross: covariance of queries with rows, (*b, q, n).
        own: of queries with themselves, (*b, q, q).
        factor: lower Cholesky factor of the rows' covariance with noise, (n, n).
        residual: outcomes minus their prior mean, (n,).
    """
    weights = torch.cholesky_solve(residual[:, None], factor)[:, 0]
    half = torch.linalg.solve_triangular(factor.expand(*cross.shape[:-2], *factor.shape), cross.mT, upper=False)
    return cross @ weights, own - half.mT @ half


# Infinite width ---------------------------------------------------------------------------------------------------


class IBNNProcess(Process):
    """The process of a network of infinite width, given rows.

    Args:
        kernel: of the network.
        x, y: rows and outcomes.
        mean, noise: of each outcome, shape (m,).
        diagnostics: of the fit.
    """

    def __init__(
        self, kernel: FullyConnected, x: Tensor, y: Tensor, mean: Tensor, noise: Tensor,
        diagnostics: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        self.kernel, self.x, self.y, self.mean, self.noise = kernel, x, y, mean, noise
        self.diagnostics = dict(diagnostics or {})
        covariance = kernel(x)
        eye = torch.eye(len(x), dtype=x.dtype, device=x.device)
        self._factors = [cholesky(covariance + value * eye) for value in noise]

    def joint(self, x: Tensor) -> tuple[Tensor, Tensor]:
        cross, own = self.kernel(x, self.x), self.kernel(x)
        means, covariances = [], []
        for m, factor in enumerate(self._factors):
            mean, covariance = condition(cross, own, factor, self.y[:, m] - self.mean[m])
            means.append(self.mean[m] + mean)
            covariances.append(covariance)
        return torch.stack(means, -1), torch.stack(covariances, -3)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {"x": self.x, "y": self.y, "mean": self.mean, "noise": self.noise}
        variances = {"w_var": float(self.kernel.w_var), "b_var": float(self.kernel.b_var)}
        return tensors, {**variances, "diagnostics": self.diagnostics}


@record
@dataclass(frozen=True)
class IBNN(Surrogate):
    """A network of infinite width: its kernel is fixed; mean and noise are those of the largest marginal likelihood.

    Args:
        depth: hidden layers.
        var_w, var_b: variances of weights (times width) and biases.
        activation: "relu" as published, or "erf", "gelu", "tanh".
        grid: pairs (var_w, var_b); where given, every fit takes the one of largest marginal likelihood.
    """

    depth: int = 3
    var_w: float = 10.0
    var_b: float = 1.6
    activation: str = "relu"
    grid: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        check_int("IBNN", "depth", self.depth, low=1)
        self.prior()
        for pair in self.grid:
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise ConfigError(f"IBNN: grid must hold pairs (var_w, var_b), got {pair!r}.")
            for value in pair:
                check_real("IBNN", "grid", value, low=0, open_low=True)

    def prior(self) -> NetworkPrior:
        return NetworkPrior((128,) * self.depth, self.activation, self.var_w, self.var_b, scaled=True, infinite=True)

    def with_prior(self, prior: Prior) -> Surrogate:
        if not isinstance(prior, NetworkPrior):
            raise ConfigError(f"IBNN: the prior must be a NetworkPrior, got {type(prior).__name__}.")
        if not prior.with_prior:
            return MAPNet(prior.hidden, prior.activation, with_prior_on=False)
        if not prior.infinite:
            raise ConfigError("IBNN: the prior must be that of an infinite network.", hint="Use infinite=True.")
        return replace(
            self, depth=len(prior.hidden), var_w=prior.weight_var, var_b=prior.bias_var, activation=prior.activation,
            grid=() if (prior.weight_var, prior.bias_var) != (self.var_w, self.var_b) else self.grid,
        )  # fmt: skip

    def fit(self, x: Tensor, y: Tensor, *, seed: int) -> IBNNProcess:
        best: tuple[float, FullyConnected, Tensor, Tensor] | None = None
        for var_w, var_b in self.grid or ((self.var_w, self.var_b),):
            kernel = FullyConnected(self.depth, self.activation, float(var_w), float(var_b))
            values, vectors = torch.linalg.eigh(kernel(x))
            fits = [mean_and_noise(values.clamp_min(0), vectors, y[:, m]) for m in range(y.shape[1])]
            likelihood = sum(fit[2] for fit in fits)
            if best is None or likelihood > best[0]:
                best = likelihood, kernel, torch.tensor([f[0] for f in fits]), torch.tensor([f[1] for f in fits])
        assert best is not None  # there is at least one pair
        likelihood, kernel, mean, noise = best
        return IBNNProcess(kernel, x, y, mean.to(x), noise.to(x), {"log_likelihood": likelihood})

    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> IBNNProcess:
        kernel = FullyConnected(self.depth, self.activation, meta["w_var"], meta["b_var"])
        x, y, mean, noise = (tensors[name] for name in ("x", "y", "mean", "noise"))
        return IBNNProcess(kernel, x, y, mean, noise, meta["diagnostics"])


def mean_and_noise(values: Tensor, vectors: Tensor, y: Tensor) -> tuple[float, float, float]:
    """The constant mean and noise variance of largest marginal likelihood, and its logarithm.

    Args:
        values, vectors: eigenvalues (n,) and eigenvectors (n, n) of the rows' covariance without noise.
        y: outcomes, (n,).
    """
    turned, ones = vectors.T @ y, vectors.T @ torch.ones_like(y)

    def likelihood(noise: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log marginal likelihoods at noise variances (k,)."""
        total = values + noise[:, None]  # (k, n)
        mean = (ones * turned / total).sum(1) / (ones.square() / total).sum(1)
        residual = turned - mean[:, None] * ones
        return mean, -0.5 * (residual.square() / total + total.log()).sum(1) - 0.5 * len(y) * math.log(2 * math.pi)

    low, high = math.log(LEAST_NOISE), math.log(_MOST_NOISE)
    for _ in range(3):  # a finer grid around the best of the coarser one
        noise = torch.linspace(low, high, _N_GRID, dtype=y.dtype, device=y.device).exp()
        mean, found = likelihood(noise)
        best = int(found.argmax())
        low, high = (float(noise[i].log()) for i in (max(best - 1, 0), min(best + 1, _N_GRID - 1)))
    return float(mean[best]), float(noise[best]), float(found[best])


# Learnt features --------------------------------------------------------------------------------------------------


class DKLProcess(Process):
    """Matern 5/2 processes on features of networks, one network an outcome.

    Args:
        network: the architecture of the features.
        x, y: rows and outcomes.
        weights: of each network, (m, n_weights).
        lengthscale: of each feature, (m, k).
        scale, noise, mean: of each outcome, (m,).
        diagnostics: of the fit.
    """

    def __init__(
        self, network: FlatNetwork, x: Tensor, y: Tensor, weights: Tensor, lengthscale: Tensor, scale: Tensor,
        noise: Tensor, mean: Tensor, diagnostics: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        self.network, self.x, self.y, self.weights, self.lengthscale = network, x, y, weights, lengthscale
        self.scale, self.noise, self.mean = scale, noise, mean
        self.diagnostics = dict(diagnostics or {})
        with torch.no_grad():
            self._features = [self._of(x, m) for m in range(len(noise))]
            eye = torch.eye(len(x), dtype=x.dtype, device=x.device)
            self._factors = [cholesky(scale[m] * matern(z, z) + noise[m] * eye) for m, z in enumerate(self._features)]

    def _of(self, x: Tensor, m: int) -> Tensor:
        """Features in units of their lengthscales, (*b, q, k)."""
        z = self.network(self.weights[m : m + 1], x.reshape(-1, x.shape[-1]))[0]
        return z.reshape(*x.shape[:-1], -1) / self.lengthscale[m]

    def joint(self, x: Tensor) -> tuple[Tensor, Tensor]:
        means, covariances = [], []
        for m, factor in enumerate(self._factors):
            z = self._of(x, m)
            cross, own = self.scale[m] * matern(z, self._features[m]), self.scale[m] * matern(z, z)
            mean, covariance = condition(cross, own, factor, self.y[:, m] - self.mean[m])
            means.append(self.mean[m] + mean)
            covariances.append(covariance)
        return torch.stack(means, -1), torch.stack(covariances, -3)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        names = ("x", "y", "weights", "lengthscale", "scale", "noise", "mean")
        return {name: getattr(self, name) for name in names}, {"diagnostics": self.diagnostics}


@record
@dataclass(frozen=True)
class DKL(Surrogate):
    """Deep kernel learning: a Gaussian process on the last hidden layer of a network, trained together.

    Args:
        hidden: widths of the network.
        activation: "tanh", "relu", "gelu", "softplus" or "silu".
        n_pretrain: steps of Adam on squared error, with a linear head that is then dropped.
        n_steps: of Adam on the marginal likelihood, network and process together.
        lr: of Adam.
        lengthscale: fixed, in median distances between the features of rows; None fits one for each feature.
        first_noise: noise variance that training starts from; as published, the mode of its prior. From a small one
            the network explains everything.
    """

    hidden: tuple[int, ...] = HIDDEN
    activation: str = "tanh"
    n_pretrain: int = 1000
    n_steps: int = 5000
    lr: float = 0.005
    lengthscale: float | None = None
    first_noise: float = 2.0

    def __post_init__(self) -> None:
        NetworkPrior(self.hidden, self.activation)
        check_real("DKL", "first_noise", self.first_noise, low=LEAST_NOISE, open_low=True)
        check_int("DKL", "n_pretrain", self.n_pretrain, low=1)
        check_int("DKL", "n_steps", self.n_steps, low=1)
        check_real("DKL", "lr", self.lr, low=0, open_low=True)
        self.prior()

    def prior(self) -> ProcessPrior:
        return ProcessPrior("2023", self.lengthscale)

    def with_prior(self, prior: Prior) -> Surrogate:
        if isinstance(prior, NetworkPrior) and not prior.with_prior:
            return MAPNet(self.hidden, self.activation, n_steps=self.n_pretrain, with_prior_on=False)
        if not isinstance(prior, ProcessPrior) or prior.era != "2023":
            raise ConfigError(f"DKL: the prior must be a ProcessPrior of 2023, got {prior!r:.80}.")
        return replace(self, lengthscale=prior.lengthscale)

    def fit(self, x: Tensor, y: Tensor, *, seed: int) -> DKLProcess:
        with_head = NetworkPrior(self.hidden, self.activation).network(x.shape[1], 1)
        network = self._features(x.shape[1])
        parts = []
        for m in range(y.shape[1]):
            first = MAPNet(self.hidden, self.activation, n_steps=self.n_pretrain, with_prior_on=False)
            modes = first._modes(
                with_head, first.prior().layers(with_head), x, y[:, m : m + 1], seed, n=1, n_steps=self.n_pretrain
            )
            parts.append(self._train(network, modes[0, : network.n_weights], x, y[:, m]))
        weights, lengthscale, scale, noise, mean, losses = (torch.stack(column) for column in zip(*parts, strict=True))
        return DKLProcess(
            network, x, y, weights, lengthscale, scale, noise, mean, {"loss": float(losses.sum())}
        )  # fmt: skip

    def _features(self, n_in: int) -> FlatNetwork:
        with seeded_init(0):
            whole = mlp(n_in, 1, self.hidden, self.activation)
        return FlatNetwork(whole[:-1])

    def _train(self, network: FlatNetwork, first: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """Network and process by the posterior density of the process's parameters; the best point seen is kept."""
        n = len(x)
        with torch.no_grad():
            z = network(first[None], x)[0]
            spread = torch.pdist(z).median().clamp_min(1e-3) if n > 1 else torch.ones(())
        eye = torch.eye(n, dtype=x.dtype, device=x.device)
        weights = first.clone().requires_grad_(True)
        logs = torch.zeros(z.shape[1] + 2).to(x)  # lengthscales, scale, noise
        scale = math.log(_FIRST_LENGTH) if self.lengthscale is None else (spread * self.lengthscale).log()
        logs[:-2] = scale
        logs[-1] = math.log(self.first_noise)
        logs.requires_grad_(True)
        mean = torch.zeros((), dtype=x.dtype, device=x.device, requires_grad=True)
        optimiser = torch.optim.Adam([weights, logs, mean], lr=self.lr)
        best, kept = math.inf, (weights.detach().clone(), logs.detach().clone(), mean.detach().clone())
        for _ in range(self.n_steps):
            z = network(weights[None], x)[0] / logs[:-2].exp()
            noise = LEAST_NOISE + logs[-1].exp()
            factor = cholesky(logs[-2].exp() * matern(z, z) + noise * eye)
            half = torch.linalg.solve_triangular(factor, (y - mean)[:, None], upper=False)
            likelihood = -0.5 * half.square().sum() - factor.diagonal().log().sum()
            believed = self.prior().log_density(logs[:-2].exp(), logs[-2].exp(), noise)
            loss = -(likelihood + believed) / n
            if float(loss.detach()) < best:
                best = float(loss.detach())
                kept = weights.detach().clone(), logs.detach().clone(), mean.detach().clone()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                logs.clamp_(-8, 8)
                if self.lengthscale is not None:
                    logs[:-2] = scale
        weights, logs, mean = kept
        last = torch.tensor(best, dtype=x.dtype)
        return weights, logs[:-2].exp(), logs[-2].exp(), LEAST_NOISE + logs[-1].exp(), mean, last

    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> DKLProcess:
        names = ("x", "y", "weights", "lengthscale", "scale", "noise", "mean")
        network = self._features(tensors["x"].shape[1])
        x, y, weights, lengthscale, scale, noise, mean = (tensors[name] for name in names)
        return DKLProcess(network, x, y, weights, lengthscale, scale, noise, mean, meta["diagnostics"])


# The standard one -------------------------------------------------------------------------------------------------


class GPProcess(Process):
    """BoTorch's Gaussian processes, one an outcome.

    Args:
        models: fitted, one an outcome.
    """

    def __init__(self, models: Sequence[Any]) -> None:
        self.models = [model.eval() for model in models]
        self.noise = torch.cat([model.likelihood.noise.detach().reshape(1) for model in models])
        self.diagnostics = {}

    def joint(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with quiet():
            parts = [model.posterior(x).distribution for model in self.models]
            means = torch.stack([part.mean for part in parts], -1)
            return means, torch.stack([part.covariance_matrix for part in parts], -3)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        first = self.models[0]
        tensors = {"x": first.train_inputs[0], "y": torch.stack([model.train_targets for model in self.models], -1)}
        for m, model in enumerate(self.models):
            tensors |= {f"model{m}.{name}": value for name, value in model.state_dict().items()}
        return tensors, {"n_outputs": len(self.models)}


@record
@dataclass(frozen=True)
class GPSurrogate(Surrogate):
    """The standard Gaussian process of BoTorch.

    Args:
        era: "2024": squared exponential with lengthscales whose prior grows with the dimension (BoTorch 0.12 and
            later); "2023": Matern 5/2 with Gamma priors, which was the default before.
        lengthscale: fixed, in units of the unit cube; None fits one for each input.
    """

    era: str = "2024"
    lengthscale: float | None = None

    def __post_init__(self) -> None:
        check_option("GPSurrogate", "era", self.era, ERAS)
        self.prior()

    def prior(self) -> ProcessPrior:
        return ProcessPrior(self.era, self.lengthscale)

    def with_prior(self, prior: Prior) -> Surrogate:
        if isinstance(prior, NetworkPrior) and not prior.with_prior:
            return MAPNet(prior.hidden, prior.activation, with_prior_on=False)
        if not isinstance(prior, ProcessPrior):
            raise ConfigError(f"GPSurrogate: the prior must be a ProcessPrior, got {type(prior).__name__}.")
        return GPSurrogate(prior.era, prior.lengthscale)

    def fit(self, x: Tensor, y: Tensor, *, seed: int) -> Fitted:
        fit = bo("botorch.fit", "The surrogate 'gp'")
        mlls = bo("gpytorch.mlls", "The surrogate 'gp'")
        exceptions = bo("botorch.exceptions.errors", "The surrogate 'gp'")
        models = []
        with seeded_init(seed), quiet():
            for m in range(y.shape[1]):
                model = self._build(x, y[:, m : m + 1])
                try:
                    fit.fit_gpytorch_mll(mlls.ExactMarginalLogLikelihood(model.likelihood, model))
                except exceptions.ModelFittingError as error:
                    raise ConvergenceError(
                        f"GPSurrogate: the marginal likelihood of {len(x)} rows could not be maximised.",
                        hint="Look for outcomes of absurd size, or use another surrogate.",
                    ) from error
                models.append(model)
        return GPProcess(models)

    def _build(self, x: Tensor, y: Tensor) -> Any:
        regression = bo("botorch.models.gp_regression", "The surrogate 'gp'")
        modules = bo("botorch.models.utils.gpytorch_modules", "The surrogate 'gp'")
        d, settings = x.shape[1], {}
        if self.era == "2023":
            settings = {
                "covar_module": modules.get_matern_kernel_with_gamma_prior(ard_num_dims=d),
                "likelihood": modules.get_gaussian_likelihood_with_gamma_prior(),
            }
        with quiet():
            model = regression.SingleTaskGP(x, y, outcome_transform=None, **settings)
        if self.lengthscale is not None:
            kernel = getattr(model.covar_module, "base_kernel", model.covar_module)
            kernel.lengthscale = torch.full((1, d), float(self.lengthscale), dtype=x.dtype)
            kernel.raw_lengthscale.requires_grad_(False)
        return model

    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> GPProcess:
        models = []
        for m in range(int(meta["n_outputs"])):
            model = self._build(tensors["x"], tensors["y"][:, m : m + 1])
            own = {name.partition(".")[2]: t for name, t in tensors.items() if name.startswith(f"model{m}.")}
            model.load_state_dict(own)
            models.append(model)
        return GPProcess(models)


def cholesky(covariance: Tensor) -> Tensor:
    """The factor of a covariance, with as little added to its diagonal as it takes.

    Raises:
        ConvergenceError: it has no factor even then.
    """
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(covariance)
    scale, jitter = float(covariance.detach().diagonal().mean()), 1e-10
    eye = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    while int(failed) and jitter < 1e-2:
        factor, failed = torch.linalg.cholesky_ex(covariance + jitter * scale * eye)
        jitter *= 10
    if int(failed):
        raise ConvergenceError("a covariance of the rows is not positive definite.", hint="Look for outcomes of NaN.")
    return factor
