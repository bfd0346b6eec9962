"""The network: an encoder and a decoder a modality, plain modules, joined by latents in three blocks.

Blocks lie in the order neural | shared | behaviour. `GPVAE.encode` gives the posterior of coefficients,
`GPVAE.at_bins` the latents over time, `GPVAE.bound` the terms of the lower bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Generator, Tensor, nn

from foreknow.functions.mm_gpvae.inference import (
    expected_gaussian,
    expected_poisson,
    fuse,
    kl_diagonal,
    kl_full,
)
from foreknow.functions.mm_gpvae.prior import FourierGP

_RIDGE = 1e-2
_LARGEST_LOG_SD = 15.0


def mlp(sizes: Sequence[int], *, last: bool) -> nn.Sequential:
    """Linear layers with ELU between them, and after the last one where `last`."""
    layers: list[nn.Module] = []
    for number, (n_in, n_out) in enumerate(pairwise(sizes)):
        layers.append(nn.Linear(n_in, n_out))
        if last or number < len(sizes) - 2:
            layers.append(nn.ELU())
    return nn.Sequential(*layers)


class Encoder(nn.Module):
    """Values at every bin to the posterior of Fourier coefficients: a perceptron for each bin, then a map over bins.

    Args:
        n_values: numbers a bin.
        hidden: units of the hidden layers.
        n_latents: latents that this modality has.
        n_bins: bins of a trial.
        basis: of the latents, shape (n_coefficients, n_bins).
    """

    projection: Tensor

    def __init__(self, n_values: int, hidden: Sequence[int], n_latents: int, n_bins: int, basis: Tensor) -> None:
        super().__init__()
        self.body = mlp([n_values, *hidden], last=True)
        self.mean = nn.Linear(hidden[-1], n_latents)
        self.log_sd = nn.Linear(hidden[-1], n_latents)
        self.mean_over_bins = nn.Linear(n_bins, n_bins)
        self.log_sd_over_bins = nn.Linear(n_bins, n_bins, bias=False)
        with torch.no_grad():
            self.mean_over_bins.weight.copy_(torch.eye(n_bins))
            self.mean_over_bins.bias.zero_()
            self.log_sd_over_bins.weight.mul_(0.1)
        gram = basis @ basis.mT + _RIDGE * torch.eye(len(basis), dtype=basis.dtype)
        independent = basis.shape[0] == basis.shape[1] and torch.equal(basis, torch.eye(len(basis), dtype=basis.dtype))
        projection = basis if independent else torch.linalg.solve(gram, basis)
        self.register_buffer("projection", projection.float(), persistent=False)

    def forward(self, values: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Values (b, t, n) and bins that were seen (b, t) -> mean and log sd of coefficients, (b, f, p) each."""
        h = self.body(values)
        mean, log_sd = (head(h) * seen[..., None] for head in (self.mean, self.log_sd))  # (b, t, p)
        mean, log_sd = self.mean_over_bins(mean.mT), self.log_sd_over_bins(log_sd.mT)  # (b, p, t)
        mean, log_sd = ((part @ self.projection.mT).mT for part in (mean, log_sd))  # (b, f, p)
        return mean, log_sd.clamp(-_LARGEST_LOG_SD, _LARGEST_LOG_SD)


@dataclass(frozen=True)
class Posterior:
    """Independent normals of the coefficients of all latents, shape (b, n_coefficients, p) each."""

    mean: Tensor
    log_sd: Tensor


@dataclass(frozen=True)
class Bound:
    """The terms of the lower bound of each trial in nats, shape (b,) each."""

    neural: Tensor
    behavior: Tensor
    kl: Tensor

    @property
    def total(self) -> Tensor:
        return self.neural + self.behavior - self.kl


class GPVAE(nn.Module):
    """Neurons and behaviour of the same trials, explained by latents that are smooth in time.

    Args:
        prior: of every latent.
        n_bins: bins of the longest trial.
        n_neurons: 0 where there are none.
        n_values: numbers of behaviour a bin, 0 where there is none.
        blocks: latents that are neural only, shared, and behavioural only.
        likelihood: of neurons, "poisson" or "gaussian".
        fusion: "mean" or "poe".
        hidden_neural: units of the neural encoder.
        hidden_behavior: units of the encoder of behaviour; its decoder has them in reverse.
        behavior_variance: first variance of behaviour, in its standardised units.
        log_rates: first offsets of the neurons, shape (n_neurons,).
    """

    basis: Tensor
    order: Tensor

    def __init__(
        self,
        prior: FourierGP,
        *,
        n_bins: int,
        n_neurons: int,
        n_values: int,
        blocks: tuple[int, int, int],
        likelihood: str = "poisson",
        fusion: str = "mean",
        hidden_neural: Sequence[int] = (80, 40, 20),
        hidden_behavior: Sequence[int] = (784, 512, 256, 256),
        behavior_variance: float = 100.0,
        log_rates: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.prior, self.n_bins, self.blocks = prior, n_bins, blocks
        self.likelihood, self.fusion = likelihood, fusion
        only_neural, shared, only_behavior = blocks
        self.n_latents = sum(blocks)
        self.of_neurons = slice(0, only_neural + shared)
        self.of_behavior = slice(only_neural, self.n_latents)
        basis = prior.basis(n_bins)
        self.register_buffer("basis", basis.float(), persistent=False)
        first = math.log(prior.lengthscale - prior.min_lengthscale)
        self.raw_lengthscale = nn.Parameter(torch.full((self.n_latents,), first))
        self.neural_encoder: Encoder | None = None
        self.behavior_encoder: Encoder | None = None
        if n_neurons:
            p = only_neural + shared
            self.neural_encoder = Encoder(n_neurons, hidden_neural, p, n_bins, basis)
            self.neural_decoder = nn.Linear(p, n_neurons)
            self.log_noise = nn.Parameter(torch.zeros(n_neurons), requires_grad=likelihood == "gaussian")
            with torch.no_grad():
                self.neural_decoder.bias.copy_(torch.zeros(n_neurons) if log_rates is None else log_rates)
        if n_values:
            p = shared + only_behavior
            self.behavior_encoder = Encoder(n_values, hidden_behavior, p, n_bins, basis)
            self.behavior_decoder = mlp([p, *reversed(hidden_behavior), n_values], last=False)
            self.log_variance = nn.Parameter(torch.tensor(math.log(behavior_variance)))

    # Latents -------------------------------------------------------------------------------------------------

    @property
    def lengthscales(self) -> Tensor:
        """Of every latent, in bins, never below the smallest; shape (p,)."""
        return self.prior.min_lengthscale + self.raw_lengthscale.exp()

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """The parameters that the three optimisers have, by name."""
        of: dict[str, list[nn.Parameter]] = {"behavior": [], "neural": [], "decoder": []}
        for name, parameter in self.named_parameters():
            if name.startswith(("behavior_encoder", "behavior_decoder")):
                of["behavior"].append(parameter)
            else:
                of["neural" if name.startswith("neural_encoder") else "decoder"].append(parameter)
        return {name: [p for p in parameters if p.requires_grad] for name, parameters in of.items()}

    def encode(
        self, spikes: Tensor | None, behavior: Tensor | None, seen: Tensor, shared_from: Tensor | None = None
    ) -> Posterior:
        """The posterior of coefficients, of one modality alone where the other is None.

        Args:
            spikes: shape (b, t, n_neurons).
            behavior: shape (b, t, n_values).
            seen: 1 for bins inside a trial, 0 after its end, shape (b, t).
            shared_from: whether shared latents of a trial are taken from neurons, and whether from behaviour, shape (2,
                b); by default from all that is given.
        """
        b = len(seen)
        given = torch.tensor([spikes is not None, behavior is not None], device=seen.device)[:, None].expand(2, b)
        present = given if shared_from is None else shared_from.bool() & given
        mean, log_sd = self._prior_coefficients(b)
        only_neural, shared, _ = self.blocks
        parts: list[tuple[Tensor, Tensor]] = [(mean[..., self.of_neurons], log_sd[..., self.of_neurons])]
        parts.append((mean[..., self.of_behavior], log_sd[..., self.of_behavior]))
        if spikes is not None and self.neural_encoder is not None:
            parts[0] = self.neural_encoder(spikes.sqrt() if self.likelihood == "poisson" else spikes, seen)
        if behavior is not None and self.behavior_encoder is not None:
            parts[1] = self.behavior_encoder(behavior, seen)
        (m_n, s_n), (m_b, s_b) = parts
        m_both, s_both = fuse(
            torch.stack([m_n[..., only_neural:], m_b[..., :shared]]),
            torch.stack([s_n[..., only_neural:], s_b[..., :shared]]),
            present,
            self.fusion,
        )
        return Posterior(
            torch.cat([m_n[..., :only_neural], m_both, m_b[..., shared:]], -1),
            torch.cat([s_n[..., :only_neural], s_both, s_b[..., shared:]], -1),
        )

    def at_bins(self, coefficients: Tensor) -> Tensor:
        """Coefficients (b, f, p) to latents over time (b, t, p)."""
        return torch.einsum("bfp,ft->btp", coefficients, self.basis)

    def variance_at_bins(self, log_sd: Tensor) -> Tensor:
        """Posterior variance of latents over time, (b, f, p) -> (b, t, p)."""
        return torch.einsum("bfp,ft->btp", (2 * log_sd).exp(), self.basis.square())

    def kl(self, posterior: Posterior) -> Tensor:
        """Divergence of the posterior from the prior, exact, shape (b,)."""
        if self.prior.domain == "time":
            covariance = self.prior.bin_covariance(self.lengthscales.double(), self.n_bins)
            return kl_full(posterior.mean, posterior.log_sd, covariance).sum(1)
        variance = self.prior.spectrum(self.lengthscales, self.n_bins)
        return kl_diagonal(posterior.mean, posterior.log_sd, variance).sum((1, 2))

    # What latents say ----------------------------------------------------------------------------------------

    def log_rates(self, posterior: Posterior) -> tuple[Tensor, Tensor]:
        """Mean and variance of what the neural decoder gives (log rates, or values), shape (b, t, n_neurons) each."""
        z, v = self.at_bins(posterior.mean), self.variance_at_bins(posterior.log_sd)
        mean = self.neural_decoder(z[..., self.of_neurons])
        return mean, v[..., self.of_neurons] @ self.neural_decoder.weight.square().mT

    def decode_behavior(self, z: Tensor) -> Tensor:
        """Latents over time (b, t, p) to behaviour in standardised units (b, t, n_values)."""
        found: Tensor = self.behavior_decoder(z[..., self.of_behavior])
        return found

    def bound(
        self,
        spikes: Tensor | None,
        behavior: Tensor | None,
        seen: Tensor,
        *,
        generator: Generator,
        shared_from: Tensor | None = None,
    ) -> Bound:
        """The terms of the lower bound: neurons in closed form, behaviour by one draw of the coefficients.

        Both recordings are to be explained, wherever `shared_from` says that the shared latents come from.
        """
        posterior = self.encode(spikes, behavior, seen, shared_from)
        none = torch.zeros(len(seen), device=seen.device)
        neural, of_behavior = none, none
        if spikes is not None:
            mean, variance = self.log_rates(posterior)
            if self.likelihood == "poisson":
                fits = expected_poisson(spikes, mean, variance)
            else:
                fits = expected_gaussian(spikes, mean, variance, self.log_noise)
            neural = (fits.sum(-1) * seen).sum(-1)
        if behavior is not None:
            shape = posterior.mean.shape
            noise = torch.randn(shape, generator=generator, device=generator.device).to(posterior.mean)
            z = self.at_bins(posterior.mean + posterior.log_sd.exp() * noise)
            fits = expected_gaussian(behavior, self.decode_behavior(z), torch.zeros_like(none[0]), self.log_variance)
            of_behavior = (fits.sum(-1) * seen).sum(-1)
        return Bound(neural, of_behavior, self.kl(posterior))

    def _prior_coefficients(self, b: int) -> tuple[Tensor, Tensor]:
        """Mean and log sd of the prior, (b, f, p) each; of its marginals where coefficients depend on each other."""
        if self.prior.domain == "time":
            at_zero = self.prior.variance + self.prior.floor
            log_sd = torch.full_like(self.lengthscales, 0.5 * math.log(at_zero)).expand(self.n_bins, self.n_latents)
        else:
            log_sd = 0.5 * self.prior.spectrum(self.lengthscales, self.n_bins).log()
        return torch.zeros(b, *log_sd.shape, device=log_sd.device), log_sd.expand(b, *log_sd.shape)
