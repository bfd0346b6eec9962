"""Posterior weights by scale-adapted SG-HMC, with Gibbs steps for the variances of a hierarchical prior."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from foreknow.common.progress import Reporter
from foreknow.nn.bayes import FlatNetwork, Likelihood, SGHMCSettings, WeightPrior, sghmc


def sample_posterior(
    network: FlatNetwork,
    prior: WeightPrior,
    likelihood: Likelihood,
    x: Tensor,
    y: Tensor,
    settings: SGHMCSettings,
    *,
    temperature: float = 1.0,
    generator: Generator,
    reporter: Reporter | None = None,
) -> Tensor:
    """Weights (chains, n_samples, n_weights) of the posterior.

    Args:
        network: the architecture.
        prior: of its weights.
        likelihood: of the targets.
        x: rows (n, ...), or for every set of `n_chains` chains its own, (sets, n, ...): the result then has
            sets x n_chains chains, set by set.
        y: targets (n,) or (sets, n).
        settings: of the sampler.
        temperature: divides the potential; below 1 is a cold posterior.
        generator: source of randomness.
        reporter: told now and then.
    """
    if y.ndim == 1:
        x, y = x[None], y[None]
    n_sets, n = y.shape
    sets = torch.arange(n_sets, device=y.device).repeat_interleave(settings.n_chains)  # (chains,)
    chains = len(sets)
    size = min(settings.batch_size, n)
    z, state = prior.start(chains, generator)

    def gradient(point: Tensor) -> Tensor:
        """Mini-batch estimate of the gradient of the potential over n, (chains, n_weights)."""
        rows = torch.randint(n, (chains, size), generator=generator, device=generator.device).to(y.device)
        with torch.enable_grad():
            leaf = point.detach().requires_grad_(True)
            outputs = network.per_chain(prior.weights(leaf), x[sets[:, None], rows])
            (fit,) = torch.autograd.grad(likelihood.log_prob(outputs, y[sets[:, None], rows]).mean(1).sum(), leaf)
        return fit.add_(prior.slope(point, state), alpha=1 / n).mul_(-1 / temperature)

    def between(number: int, point: Tensor) -> None:
        nonlocal state
        if state is not None and number % settings.gibbs_every == 0:
            state = prior.gibbs(point, state, generator)

    draws = sghmc(gradient, z, settings, n_rows=n, generator=generator, between=between, reporter=reporter)
    with torch.no_grad():
        return torch.stack([prior.weights(chain) for chain in draws])
