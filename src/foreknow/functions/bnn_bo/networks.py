"""Surrogates that are finite networks: HMC, SG-HMC, ensembles, Laplace, and a single mode.

All share the density N(0, prior_var) of the weights and Gaussian noise of variance noise_var on standardised outcomes.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from foreknow.common.errors import ConfigError
from foreknow.common.rng import torch_stream
from foreknow.common.validate import check_bool, check_int, check_option, check_real
from foreknow.core.prior import Prior
from foreknow.core.records import record
from foreknow.functions.bnn_bo.base import Draws, Fitted, Surrogate, evenly
from foreknow.functions.bnn_bo.prior import NetworkPrior, start
from foreknow.nn.bayes.diagnostics import split_rhat
from foreknow.nn.bayes.ensemble import find_modes
from foreknow.nn.bayes.flat import FlatNetwork
from foreknow.nn.bayes.hamiltonian import hmc
from foreknow.nn.bayes.laplace import STRUCTURES, Laplace
from foreknow.nn.bayes.layers import GaussianLayers
from foreknow.nn.bayes.likelihoods import GaussianNoise
from foreknow.nn.bayes.stochastic import SGHMCSettings, sghmc

HIDDEN = (128, 128, 128)


class NetworkDraws(Draws):
    """Functions of one network at weights (s, n_weights).

    Args:
        network: the architecture.
        weights: drawn.
        noise: variance of observations, (m,).
        mode: where given, functions are linear in the weights around it.
        diagnostics: of the fit.
    """

    def __init__(
        self,
        network: FlatNetwork,
        weights: Tensor,
        noise: Tensor,
        mode: Tensor | None = None,
        diagnostics: Mapping[str, float] | None = None,
    ) -> None:
        self.network, self.weights, self.noise, self.mode = network, weights, noise, mode
        self.diagnostics = dict(diagnostics or {})

    def functions(self, x: Tensor, limit: int | None = None) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        weights = self.weights[evenly(len(self.weights), limit)]
        if self.mode is None:
            values = self.network(weights, rows)
        else:
            point = self.mode.expand_as(weights).clone()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of PyTorch on its own first use of this
                found = torch.func.jvp(lambda w: self.network(w, rows), (point,), (weights - point,))
            values = found[0] + found[1]
        return values.reshape(len(weights), *x.shape[:-1], values.shape[-1])

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {"weights": self.weights, "noise": self.noise}
        if self.mode is not None:
            tensors["mode"] = self.mode
        first, last = self.network.slots[0], self.network.slots[-1]
        return tensors, {"n_in": first.shape[1], "n_out": last.shape[0], "diagnostics": self.diagnostics}


@dataclass(frozen=True)
class NetworkSurrogate(Surrogate):
    """What the surrogates that are networks have in common.

    Args:
        hidden: widths of the perceptron.
        activation: "tanh", "relu", "gelu", "softplus" or "silu".
        prior_var: variance of every weight and bias.
        noise_var: of standardised outcomes.
        scaled: divide the variance of weights by the number of inputs of their layer.
        grid: pairs (prior_var, noise_var); where given, every fit takes the one under which a fifth of the rows, held
            back, is most likely.
        with_prior_on: False drops the density of the weights.
    """

    hidden: tuple[int, ...] = HIDDEN
    activation: str = "tanh"
    prior_var: float = 1.0
    noise_var: float = 0.01
    scaled: bool = False
    grid: tuple[tuple[float, float], ...] = ()
    with_prior_on: bool = True

    def __post_init__(self) -> None:
        owner = type(self).__name__
        self.prior()
        check_real(owner, "noise_var", self.noise_var, low=0, open_low=True)
        check_bool(owner, "with_prior_on", self.with_prior_on)
        for pair in self.grid:
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise ConfigError(f"{owner}: grid must hold pairs (prior_var, noise_var), got {pair!r}.")
            for value in pair:
                check_real(owner, "grid", value, low=0, open_low=True)

    def prior(self) -> NetworkPrior:
        return NetworkPrior(
            self.hidden, self.activation, self.prior_var, self.prior_var, self.scaled, with_prior=self.with_prior_on
        )

    def with_prior(self, prior: Prior) -> NetworkSurrogate:
        if not isinstance(prior, NetworkPrior) or prior.infinite:
            raise ConfigError(
                f"{type(self).__name__}: the prior must be that of a finite network, got {prior!r:.80}.",
                hint="Use NetworkPrior(infinite=False), or the surrogate IBNN.",
            )
        if not prior.with_prior:
            return self._without(prior)
        if prior.bias_var != prior.weight_var:
            raise ConfigError(f"{type(self).__name__}: weights and biases share one variance, got {prior!r:.120}.")
        return replace(
            self, hidden=prior.hidden, activation=prior.activation, prior_var=prior.weight_var, scaled=prior.scaled
        )

    def _without(self, prior: NetworkPrior) -> NetworkSurrogate:
        return MAPNet(
            prior.hidden, prior.activation, prior.weight_var, self.noise_var, prior.scaled, with_prior_on=False,
            n_steps=self.n_fit_steps,
        )  # fmt: skip

    @property
    def n_fit_steps(self) -> int:
        """Steps of Adam."""
        return int(getattr(self, "n_steps", 1000))

    def fit(self, x: Tensor, y: Tensor, *, seed: int) -> Fitted:
        chosen = self._chosen(x, y, seed) if self.grid and len(x) >= 5 else self
        network = self.prior().network(x.shape[1], y.shape[1])
        found = chosen._fit(network, chosen.prior().layers(network), x, y, seed)
        if self.grid:
            found.diagnostics |= {"prior_var": chosen.prior_var, "noise_var": chosen.noise_var}
        return found

    def _chosen(self, x: Tensor, y: Tensor, seed: int) -> Self:
        """The best pair of the grid by the likelihood of a fifth of the rows."""
        n_back = max(1, len(x) // 5)
        order = torch.randperm(len(x), generator=torch_stream(seed, "grid"))
        back, kept = order[:n_back], order[n_back:]
        scores = []
        for prior_var, noise_var in self.grid:
            candidate = replace(self, prior_var=prior_var, noise_var=noise_var, grid=())
            fitted = candidate.fit(x[kept], y[kept], seed=seed)
            outputs = range(y.shape[1])
            scores.append(sum(float(fitted.predictive(x[back], m).log_prob(y[back, m]).sum()) for m in outputs))
        best = self.grid[int(torch.tensor(scores).argmax())]
        return replace(self, prior_var=best[0], noise_var=best[1], grid=())

    @abstractmethod
    def _fit(self, network: FlatNetwork, density: GaussianLayers, x: Tensor, y: Tensor, seed: int) -> NetworkDraws: ...

    def _modes(
        self, network: FlatNetwork, density: GaussianLayers, x: Tensor, y: Tensor, seed: int, *,
        n: int, n_steps: int, subset: float = 1.0, begin: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Modes from usual first weights; from `begin`, where Adam follows the likelihood alone."""
        likelihood = GaussianNoise(self.noise_var, y.shape[1])
        return find_modes(
            network, likelihood, x, y,
            start=start(network, n, torch_stream(seed, "start")) if begin is None else begin,
            prior=density if self.with_prior_on and begin is None else None, n_steps=n_steps, subset=subset,
            generator=torch_stream(seed, "modes"),
        )  # fmt: skip

    def _noise(self, y: Tensor) -> Tensor:
        return torch.full((y.shape[1],), self.noise_var, dtype=torch.float64)

    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> NetworkDraws:
        network = self.prior().network(int(meta["n_in"]), int(meta["n_out"]))
        return NetworkDraws(network, tensors["weights"], tensors["noise"], tensors.get("mode"), meta["diagnostics"])


@record
@dataclass(frozen=True)
class HMCNet(NetworkSurrogate):
    """Weights by Hamiltonian Monte Carlo on all rows.

    Args:
        hidden, activation, prior_var, noise_var, scaled, grid, with_prior_on: see `NetworkSurrogate`.
        n_samples: draws kept of each chain.
        n_burn: proposals before; step sizes adapt in these.
        n_leapfrog: most steps of a proposal.
        step: first step size.
        n_chains: chains.
        n_steps: of Adam, before.
        start: "prior": chains start at draws of the prior that Adam has brought to the data by the likelihood alone;
            "mode": at modes, as published. In many dimensions weights at a mode are far smaller than those of the
            posterior, and a short chain does not get away.
    """

    n_samples: int = 500
    n_burn: int = 500
    n_leapfrog: int = 200
    step: float = 0.02
    n_chains: int = 2
    n_steps: int = 1000
    start: str = "prior"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low in (("n_samples", 2), ("n_burn", 0), ("n_leapfrog", 1), ("n_chains", 1), ("n_steps", 1)):
            check_int("HMCNet", name, getattr(self, name), low=low)
        check_real("HMCNet", "step", self.step, low=0, open_low=True)
        check_option("HMCNet", "start", self.start, ("prior", "mode"))

    def _fit(self, network: FlatNetwork, density: GaussianLayers, x: Tensor, y: Tensor, seed: int) -> NetworkDraws:
        at_prior = self.start == "prior"
        begin = density.draw(self.n_chains, torch_stream(seed, "prior")).detach() if at_prior else None
        modes = self._modes(network, density, x, y, seed, n=self.n_chains, n_steps=self.n_steps, begin=begin)
        likelihood = GaussianNoise(self.noise_var, y.shape[1])

        def log_prob(weights: Tensor) -> Tensor:
            return likelihood.log_prob(network(weights, x), y[None]).sum(-1) + density.log_prob(weights)

        chains = hmc(
            log_prob, modes, n_samples=self.n_samples, n_burn=self.n_burn, n_leapfrog=self.n_leapfrog, step=self.step,
            generator=torch_stream(seed, "hmc"),
        )  # fmt: skip
        found = {"accept": float(chains.accept.mean()), "divergent": float(chains.divergent.mean())}
        return NetworkDraws(
            network, chains.samples.flatten(0, 1), self._noise(y), None, found | rhat(network, chains.samples, x)
        )


@record
@dataclass(frozen=True)
class SGHMCNet(NetworkSurrogate):
    """Weights by scale-adapted stochastic-gradient Hamiltonian Monte Carlo.

    Args:
        hidden, activation, prior_var, noise_var, scaled, grid, with_prior_on: see `NetworkSurrogate`.
        n_steps: of a chain in all.
        n_burn: of these, before the first draw.
        n_samples: draws kept of each chain.
        lr: step size.
        batch_size: rows of a step.
        n_chains: chains.
    """

    n_steps: int = 2000
    n_burn: int = 1000
    n_samples: int = 5
    lr: float = 0.01
    batch_size: int = 5
    n_chains: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("n_steps", "n_burn", "n_samples", "batch_size", "n_chains"):
            check_int("SGHMCNet", name, getattr(self, name), low=1)
        check_real("SGHMCNet", "lr", self.lr, low=0, open_low=True)
        if self.n_steps - self.n_burn < self.n_samples:
            raise ConfigError("SGHMCNet: n_steps - n_burn must be at least n_samples.")

    def _fit(self, network: FlatNetwork, density: GaussianLayers, x: Tensor, y: Tensor, seed: int) -> NetworkDraws:
        n, generator = len(x), torch_stream(seed, "sghmc")
        likelihood = GaussianNoise(self.noise_var, y.shape[1])
        keep_every = (self.n_steps - self.n_burn) // self.n_samples
        settings = SGHMCSettings(
            lr=self.lr, n_burn=self.n_burn, keep_every=keep_every, n_samples=self.n_samples, n_drop=0,
            batch_size=self.batch_size, n_chains=self.n_chains,
        )  # fmt: skip

        def gradient(point: Tensor) -> Tensor:
            size = min(self.batch_size, n)
            rows = torch.randint(n, (self.n_chains, size), generator=generator)
            with torch.enable_grad():
                leaf = point.detach().requires_grad_(True)
                fit = likelihood.log_prob(network.per_chain(leaf, x[rows]), y[rows]).mean(1)
                (slope,) = torch.autograd.grad(-(fit + density.log_prob(leaf) / n).sum(), leaf)
            return slope

        first = density.draw(self.n_chains, torch_stream(seed, "prior")).detach()
        draws = sghmc(gradient, first, settings, n_rows=n, generator=generator)
        return NetworkDraws(network, draws.flatten(0, 1), self._noise(y), None, rhat(network, draws, x))


@record
@dataclass(frozen=True)
class EnsembleNet(NetworkSurrogate):
    """Modes from several starts, each on a random part of the rows.

    Args:
        hidden, activation, prior_var, scaled, grid, with_prior_on: see `NetworkSurrogate`.
        noise_var: with which members are trained; predictions carry their mean squared error.
        n_members: networks.
        subset: share of the rows that each sees.
        n_steps: of Adam.
    """

    noise_var: float = 1.0
    n_members: int = 10
    subset: float = 0.8
    n_steps: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("EnsembleNet", "n_members", self.n_members, low=1)
        check_int("EnsembleNet", "n_steps", self.n_steps, low=1)
        check_real("EnsembleNet", "subset", self.subset, low=0, high=1, open_low=True)

    def _fit(self, network: FlatNetwork, density: GaussianLayers, x: Tensor, y: Tensor, seed: int) -> NetworkDraws:
        modes = self._modes(network, density, x, y, seed, n=self.n_members, n_steps=self.n_steps, subset=self.subset)
        with torch.no_grad():
            noise = (network(modes, x) - y).square().mean((0, 1))
        return NetworkDraws(network, modes, noise.clamp_min(1e-4))


@record
@dataclass(frozen=True)
class LaplaceNet(NetworkSurrogate):
    """Normal weights around a mode, functions linear in them.

    Args:
        hidden, activation, prior_var, noise_var, scaled, grid, with_prior_on: see `NetworkSurrogate`.
        structure: of the posterior precision: "kron", "full", "diag" or "last".
        n_draws: functions drawn.
        n_steps: of Adam.
    """

    structure: str = "kron"
    n_draws: int = 128
    n_steps: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_option("LaplaceNet", "structure", self.structure, STRUCTURES)
        check_int("LaplaceNet", "n_draws", self.n_draws, low=2)
        check_int("LaplaceNet", "n_steps", self.n_steps, low=1)

    def _fit(self, network: FlatNetwork, density: GaussianLayers, x: Tensor, y: Tensor, seed: int) -> NetworkDraws:
        mode = self._modes(network, density, x, y, seed, n=1, n_steps=self.n_steps)[0]
        precision = density.sd[density.slot].square().reciprocal()
        laplace = Laplace(
            network, GaussianNoise(self.noise_var, y.shape[1]), mode, x, prior_precision=precision,
            structure=self.structure,
        )  # fmt: skip
        draws = laplace.sample(self.n_draws, torch_stream(seed, "laplace"))
        return NetworkDraws(network, draws, self._noise(y), mode)


@record
@dataclass(frozen=True)
class MAPNet(NetworkSurrogate):
    """One network at its mode: a best guess and no doubt; with `with_prior_on=False` by least squares.

    Args:
        hidden, activation, prior_var, noise_var, scaled, grid, with_prior_on: see `NetworkSurrogate`.
        n_steps: of Adam.
    """

    n_steps: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("MAPNet", "n_steps", self.n_steps, low=1)

    def _fit(self, network: FlatNetwork, density: GaussianLayers, x: Tensor, y: Tensor, seed: int) -> NetworkDraws:
        mode = self._modes(network, density, x, y, seed, n=1, n_steps=self.n_steps)
        return NetworkDraws(network, mode, self._noise(y))


def rhat(network: FlatNetwork, draws: Tensor, x: Tensor) -> dict[str, float]:
    """The largest and the median split R-hat of function values at the rows; nothing below ten draws."""
    if draws.shape[1] < 10:
        return {}
    with torch.no_grad():
        values = torch.stack([network(chain, x) for chain in draws])  # (chains, draws, n, m)
    found = split_rhat(values).flatten()
    return {"rhat_max": float(found.max()), "rhat_median": float(found.median())}
