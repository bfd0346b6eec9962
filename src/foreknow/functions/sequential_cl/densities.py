"""Densities fitted to posterior draws, so that they can serve as the next prior: mixtures of normals, and RealNVP."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Generator, Tensor, nn

from foreknow.common.errors import InputError
from foreknow.common.rng import seed_of, seeded_init
from foreknow.common.validate import check_int


class FittedDensity(ABC):
    """A density over weights.

    Attributes:
        held_out: its mean log density on draws that fitting did not see.
    """

    held_out: float

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of rows (n, d), shape (n,); differentiable."""

    @abstractmethod
    def sample(self, n: int, generator: Generator) -> Tensor:
        """`n` draws (n, d)."""


def split_draws(draws: Tensor, generator: Generator, share: float = 0.75) -> tuple[Tensor, Tensor]:
    """Three quarters of the rows (n, d) to fit to, and the others."""
    if draws.ndim != 2 or len(draws) < 8:
        raise InputError(f"a density needs 8 draws (n, d) or more, got shape {tuple(draws.shape)}.")
    order = torch.randperm(len(draws), generator=generator)
    n = int(share * len(draws))
    return draws[order[:n]], draws[order[n:]]


class MixtureDensity(FittedDensity):
    """A mixture of normals with full covariances by EM, as many components as the held-out draws like best.

    Args:
        draws: shape (n, d).
        n_components: numbers to try; those above a tenth of the draws are left out.
        n_starts, n_steps: of EM.
        random_state: seed.
        generator: of the split and of nothing else.
    """

    def __init__(
        self, draws: Tensor, *, n_components: Sequence[int] = (1, 2, 5, 10, 20), n_starts: int = 1, n_steps: int = 100,
        random_state: int = 0, generator: Generator,
    ) -> None:  # fmt: skip
        import warnings

        from sklearn.mixture import GaussianMixture

        known, held = split_draws(draws, generator)
        best = None
        for number in n_components:
            check_int("MixtureDensity", "n_components", number, low=1)
            if number > max(1, len(known) // 10):
                continue
            model = GaussianMixture(
                number,
                reg_covar=1e-6,
                n_init=n_starts,
                max_iter=n_steps,
                random_state=seed_of(random_state, "em") % 2**31,
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # EM that has not converged is judged by the held-out draws
                score = float(model.fit(known.double().numpy()).score(held.double().numpy()))
            if best is None or score > best[0]:
                best = (score, model)
        assert best is not None  # one component is always tried, or the numbers were refused
        self.held_out, model = best
        self.n_components = int(model.n_components)
        self._log_weights = torch.as_tensor(np.log(model.weights_), dtype=draws.dtype)
        self._means = torch.as_tensor(model.means_, dtype=draws.dtype)
        # EM's precision factors: (z - mean) @ factor is standard normal
        self._whiten = torch.as_tensor(model.precisions_cholesky_, dtype=draws.dtype)
        self._spread = torch.linalg.inv(self._whiten.double()).to(draws.dtype)
        self._log_det = self._whiten.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def log_prob(self, z: Tensor) -> Tensor:
        white = torch.einsum("nkd,kde->nke", z[:, None] - self._means, self._whiten)
        each = -0.5 * white.square().sum(-1) - 0.5 * z.shape[1] * float(np.log(2 * np.pi)) + self._log_det
        return torch.logsumexp(each + self._log_weights, -1)

    def sample(self, n: int, generator: Generator) -> Tensor:
        chosen = torch.multinomial(self._log_weights.exp(), n, replacement=True, generator=generator)
        noise = torch.randn(n, self._means.shape[1], generator=generator, dtype=self._means.dtype)
        return self._means[chosen] + torch.einsum("ne,ned->nd", noise, self._spread[chosen])


class _Coupling(nn.Module):
    """One affine coupling: the masked half decides shift and bounded log scale of the other."""

    mask: Tensor

    def __init__(self, size: int, width: int, parity: int) -> None:
        super().__init__()
        self.register_buffer("mask", (torch.arange(size) % 2 == parity).float())
        self.net = nn.Sequential(
            nn.Linear(size, width), nn.LeakyReLU(), nn.Linear(width, width), nn.LeakyReLU(), nn.Linear(width, 2 * size)
        )

    def _parts(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        scale, shift = self.net(kept).chunk(2, -1)
        return torch.tanh(scale) * (1 - self.mask), shift * (1 - self.mask)

    def to_base(self, z: Tensor) -> tuple[Tensor, Tensor]:
        scale, shift = self._parts(z * self.mask)
        return z * self.mask + (1 - self.mask) * (z - shift) * (-scale).exp(), -scale.sum(-1)

    def from_base(self, u: Tensor) -> Tensor:
        scale, shift = self._parts(u * self.mask)
        return u * self.mask + (1 - self.mask) * (u * scale.exp() + shift)


class RealNVP(FittedDensity):
    """Affine couplings on a normal base (Dinh et al. 2017), on standardised draws with a little noise added.

    Its support is all of space, so chains are never walled in.

    Args:
        draws: shape (n, d).
        n_couplings, width: of the flow.
        n_steps: of Adamax, whose rate is halved at every fifth of them.
        lr: first rate.
        noise: sd of the noise added to standardised draws at every step (dequantisation: rejected proposals repeat).
        batch_size: draws a step.
        random_state: seed of first weights.
        generator: of split, batches and noise.
    """

    def __init__(
        self, draws: Tensor, *, n_couplings: int = 4, width: int = 100, n_steps: int = 400, lr: float = 0.01,
        noise: float = 0.05, batch_size: int = 256, random_state: int = 0, generator: Generator,
    ) -> None:  # fmt: skip
        known, held = split_draws(draws, generator)
        self._shift, self._scale = known.mean(0), known.std(0).clamp_min(1e-6)
        with seeded_init(seed_of(random_state, "realnvp")):
            parts = [_Coupling(draws.shape[1], width, number % 2) for number in range(n_couplings)]
        self._flow = nn.ModuleList(parts).to(draws.dtype)
        with torch.no_grad():
            for part in parts:  # the flow starts as the identity
                last = part.net[-1]
                last.weight.mul_(0.01)  # type: ignore[operator]
                last.bias.zero_()  # type: ignore[operator]
        optimiser = torch.optim.Adamax(self._flow.parameters(), lr=lr)
        schedule = torch.optim.lr_scheduler.StepLR(optimiser, max(1, n_steps // 5), 0.5)
        for _ in range(n_steps):
            rows = known[torch.randint(len(known), (min(batch_size, len(known)),), generator=generator)]
            jitter = noise * self._scale * torch.randn(rows.shape, generator=generator, dtype=rows.dtype)
            loss = -self.log_prob(rows + jitter).mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self._flow.parameters(), 10.0)
            optimiser.step()
            schedule.step()
        self._flow.requires_grad_(False)
        self.held_out = float(self.log_prob(held).mean())

    def log_prob(self, z: Tensor) -> Tensor:
        u = (z - self._shift) / self._scale
        total = -self._scale.log().sum().expand(len(z))
        for part in self._flow:
            u, log_det = part.to_base(u)  # type: ignore[operator]
            total = total + log_det
        return total - 0.5 * u.square().sum(-1) - 0.5 * u.shape[1] * float(np.log(2 * np.pi))

    def sample(self, n: int, generator: Generator) -> Tensor:
        u = torch.randn(n, len(self._shift), generator=generator, dtype=self._shift.dtype)
        with torch.no_grad():
            for part in reversed(self._flow):
                u = part.from_base(u)  # type: ignore[operator]
        return self._shift + self._scale * u
