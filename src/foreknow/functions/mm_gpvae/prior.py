"""`FourierGP`: latents that are smooth in time, kept as a few Fourier coefficients on a padded circle.

    z(t) = sum_f B[f, t] w_f,   w_f ~ N(0, c_f) independently
    c_f  = sqrt(2 pi) variance l exp(-omega_f^2 l^2 / 2) + floor,   omega_f = 2 pi f / T_circ,   T_circ = padding T
    f    = 0 .. floor(T_circ / (pi l_min) sqrt(log(1e8) / 2))

The rows of B are cosines and sines over sqrt(T_circ / 2), the constant one over sqrt(2) more, so that the sum over f
is the inverse Fourier integral of the squared-exponential kernel. `padding` keeps the ends of a trial apart on the
circle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Generator, Tensor

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.rng import torch_stream
from foreknow.common.validate import check_bool, check_int, check_option, check_real
from foreknow.core.pictures import Lines
from foreknow.core.prior import Draw, Prior
from foreknow.core.registry import register
from foreknow.functions.mm_gpvae.card import CARD

DOMAINS = ("fourier", "time", "white")
JITTER = 1e-4
"""Variance of independent noise that drawn latents have, so that those of few frequencies have a density."""
_KEPT = 1e8
"""The spectrum at the highest frequency kept is this much smaller than at zero, at the smallest lengthscale."""


@register(CARD)
@dataclass(frozen=True)
class FourierGP(Prior):
    """One latent over the bins of a trial, a Gaussian process with a squared-exponential kernel.

    Args:
        lengthscale: in bins; where training starts, and what is drawn.
        min_lengthscale: the smallest that can be learnt; it decides how many frequencies are kept.
        variance: of the latent at a bin.
        padding: length of the circle, in trials.
        floor: added to every spectral density: the variance of white noise.
        domain: "fourier"; "time", the same process on bins, all of them; "white", independent bins.
        shuffled: smooth in one fixed random order of the bins, the placebo.
        n_bins: of a drawn latent; a system takes those of its trials.
    """

    lengthscale: float = 30.0
    min_lengthscale: float = 10.0
    variance: float = 1.0
    padding: float = 1.2
    floor: float = 1e-2
    domain: str = "fourier"
    shuffled: bool = False
    n_bins: int = 60

    def __post_init__(self) -> None:
        owner = "FourierGP"
        for name in ("lengthscale", "min_lengthscale", "variance", "floor"):
            check_real(owner, name, getattr(self, name), low=0.0, open_low=True)
        check_real(owner, "padding", self.padding, low=1.0)
        check_option(owner, "domain", self.domain, DOMAINS)
        check_bool(owner, "shuffled", self.shuffled)
        check_int(owner, "n_bins", self.n_bins, low=1)
        if self.lengthscale <= self.min_lengthscale:
            raise ConfigError(
                f"{owner}: lengthscale must be greater than min_lengthscale, got {self.lengthscale} and "
                f"{self.min_lengthscale}."
            )

    # The basis -----------------------------------------------------------------------------------------------

    def n_frequencies(self, n_bins: int) -> int:
        """The highest frequency that is kept for trials of so many bins; below that of alternating bins."""
        circle = self.padding * n_bins
        band = math.floor(circle / (math.pi * self.min_lengthscale) * math.sqrt(0.5 * math.log(_KEPT)))
        return max(0, min(band, math.ceil(circle / 2) - 1))

    def n_coefficients(self, n_bins: int) -> int:
        """How many numbers stand for a latent: a sine and a cosine a frequency and a constant, or one a bin."""
        return 2 * self.n_frequencies(n_bins) + 1 if self.domain == "fourier" else n_bins

    def order(self, n_bins: int) -> Tensor:
        """The order of the bins in which latents are smooth."""
        if not self.shuffled:
            return torch.arange(n_bins)
        return torch.randperm(n_bins, generator=torch_stream(0, "mm-gpvae", "shuffled bins", str(n_bins)))

    def basis(self, n_bins: int) -> Tensor:
        """B, shape (n_coefficients, n_bins), in float64: the identity where the domain is not "fourier"."""
        if self.domain != "fourier":
            return torch.eye(n_bins, dtype=torch.float64)
        circle = self.padding * n_bins
        f = torch.arange(1, self.n_frequencies(n_bins) + 1, dtype=torch.float64)[:, None]
        angle = 2 * math.pi / circle * f * self.order(n_bins)
        constant = torch.full((1, n_bins), math.sqrt(0.5), dtype=torch.float64)
        return torch.cat([constant, angle.cos(), angle.sin()]) / math.sqrt(circle / 2)

    def spectrum(self, lengthscale: Tensor, n_bins: int) -> Tensor:
        """Prior variances c of the coefficients of latents with lengthscales (p,): shape (n_coefficients, p).

        Raises:
            ConfigError: the domain is "time", where coefficients are not independent.
        """
        if self.domain == "time":
            raise ConfigError("FourierGP: in the domain of time the prior is no diagonal one; see bin_covariance.")
        if self.domain == "white":
            return torch.ones(n_bins, len(lengthscale), dtype=lengthscale.dtype, device=lengthscale.device)
        f = torch.arange(self.n_frequencies(n_bins) + 1, dtype=lengthscale.dtype, device=lengthscale.device)
        omega = 2 * math.pi / (self.padding * n_bins) * torch.cat([f, f[1:]])[:, None]  # cosines, then sines
        density = math.sqrt(2 * math.pi) * self.variance * lengthscale * (-0.5 * (omega * lengthscale) ** 2).exp()
        return density + self.floor

    def bin_covariance(self, lengthscale: Tensor, n_bins: int) -> Tensor:
        """Covariance over bins of latents with lengthscales (p,): shape (p, n_bins, n_bins)."""
        if self.domain == "time":
            t = self.order(n_bins).to(lengthscale)
            gap = (t[:, None] - t) / lengthscale[:, None, None]
            noise = self.floor * torch.eye(n_bins, dtype=lengthscale.dtype, device=lengthscale.device)
            return self.variance * (-0.5 * gap**2).exp() + noise
        basis, c = self.basis(n_bins).to(lengthscale), self.spectrum(lengthscale, n_bins)
        return torch.einsum("ft,fp,fs->pts", basis, c, basis)

    # As a prior ----------------------------------------------------------------------------------------------

    def sample(
        self,
        n: int,
        *,
        generator: Generator,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Draw:
        """`n` latents of `n_bins` bins, shape (n, n_bins), with independent noise of variance `JITTER`."""
        check_int("FourierGP", "n", n, low=1)
        z = torch.randn(n, self.n_bins, generator=generator, device=generator.device, dtype=torch.float64)
        value = z @ self._cholesky().to(z.device).mT
        return Draw(value.to(dtype=dtype or torch.float32, device=device or generator.device))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of latents over bins, shape (..., n_bins) -> (...).

        Raises:
            InputError: another number of bins.
        """
        if value.shape[-1] != self.n_bins:
            raise InputError(f"FourierGP: latents have {self.n_bins} bins, got shape {tuple(value.shape)}.")
        root = self._cholesky().to(value.device)
        whitened = torch.linalg.solve_triangular(root, value.to(torch.float64).reshape(-1, self.n_bins).mT, upper=False)
        log_det = root.diagonal().log().sum()
        found: Tensor = -0.5 * whitened.square().sum(0) - log_det - 0.5 * self.n_bins * math.log(2 * math.pi)
        return found.reshape(value.shape[:-1]).to(value.dtype)

    def off(self) -> Prior:
        """Independent bins: N(0, I) in time."""
        return replace(self, domain="white", shuffled=False)

    def describe(self) -> str:
        """One line for people."""
        if self.domain == "white":
            return f"latents over {self.n_bins} bins, all independent"
        kind = "" if self.domain == "time" else f" in {self.n_coefficients(self.n_bins)} Fourier coefficients"
        order = ", in a shuffled order of the bins" if self.shuffled else ""
        return f"latents over {self.n_bins} bins, smooth over {self.lengthscale:g}{kind}{order}"

    def picture(self, n: int, *, generator: Generator) -> Lines:
        """`n` latents over time."""
        drawn = self.sample(n, generator=generator, device="cpu").value.numpy()
        lines = {f"draw {i + 1}": row for i, row in enumerate(drawn)}
        return Lines(torch.arange(self.n_bins).numpy(), lines, "time bin", "latent", title=self.describe())

    @classmethod
    def examples(cls) -> list[Prior]:
        return [
            cls(),
            cls(3.0, 1.0, n_bins=6, padding=2.0),
            cls(4.0, 2.0, domain="time", n_bins=12),
            cls(shuffled=True, n_bins=30),
        ]

    def _cholesky(self) -> Tensor:
        return _root(self)


@lru_cache(maxsize=32)
def _root(prior: FourierGP) -> Tensor:
    covariance = prior.bin_covariance(torch.tensor([prior.lengthscale], dtype=torch.float64), prior.n_bins)[0]
    jitter = 0.0 if prior.domain == "white" else JITTER
    root: Tensor = torch.linalg.cholesky(covariance + jitter * torch.eye(prior.n_bins, dtype=torch.float64))
    return root
