"""Classification: a sparse variational t process (section 4.2 of the paper) as a plain module.

With inducing values u at m points, one prior variance s2 for all classes, u_c | s2 ~ N(0, s2 K_ii), and
    q(s2) = InverseGamma(a, b),   q(u_c | s2) = N(mu_c, s2 diag(q_c^2)),
the latents of a row are A mu + sqrt(s2 v) z with A = K_bi K_ii^-1 and v = diag(A diag(q_c^2) A') + k_bb - diag(A K_ib),
and the bound is E log softmax - KL / n with (for an inverse gamma prior a0, b0)
    KL = 1/2 [C logdet K_ii - sum log q^2 - m C + sum tr(K_ii^-1 diag(q_c^2)) + (a/b) sum mu_c' K_ii^-1 mu_c]
         + a0 log(b/b0) - lnG(a) + lnG(a0) + (a - a0) digamma(a) + (b0 - b) a/b.
With a fixed scale this is the sparse variational Gaussian process, the control arm, and so is the limit of a narrow
q(s2): the same loss, to rounding, for the same draws z.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn

from foreknow.functions.scale_mixture_nngp.prior import FixedScale, InverseGamma, ScalePrior
from foreknow.functions.scale_mixture_nngp.process import WideArchitecture
from foreknow.nn.linalg import jittered_cholesky

JITTER = 1e-4
"""Added to the diagonal of K_ii, in units of its mean."""


class SparseProcess(nn.Module):
    """Inducing points, their variational posterior, and the settings of the kernel.

    Args:
        architecture: the network of the kernel.
        prior: of the scale.
        inducing: rows of the inducing points, shape (m, d).
        n_classes: outputs.
        fit_kernel: whether gradients reach the variances of the kernel's hidden layers.
        whiten: whether q is diagonal for L^-1 u, K_ii = L L', instead of u.
    """

    def __init__(
        self,
        architecture: WideArchitecture,
        prior: ScalePrior,
        inducing: Tensor,
        n_classes: int,
        *,
        fit_kernel: bool = True,
        whiten: bool = False,
    ) -> None:
        super().__init__()
        self.inducing: Tensor
        self.architecture, self.prior, self.whiten = architecture, prior, whiten
        self.register_buffer("inducing", inducing)
        m = len(inducing)

        def number(value: float, learnt: bool = True) -> nn.Parameter:
            return nn.Parameter(torch.tensor(math.log(value), dtype=torch.float64), requires_grad=learnt)

        self.log_w_var, self.log_b_var = number(2.0, fit_kernel), number(0.1, fit_kernel)
        self.log_readout_var = number(1.0, not prior.known)
        random = not isinstance(prior, FixedScale)
        # As narrow as if the m C inducing values had been seen: the first steps are not lost to a heavy tail of draws.
        shape = (prior.a if isinstance(prior, InverseGamma) else InverseGamma().a) + 0.5 * m * n_classes
        self.log_a, self.log_size = number(shape, random), number(prior.off().value, random)
        self.mean = nn.Parameter(torch.zeros(m, n_classes, dtype=torch.float64))
        self.log_sd = nn.Parameter(torch.full((m, n_classes), -1.0, dtype=torch.float64))

    # Kernels --------------------------------------------------------------------------------------------------

    def kernels(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """K_ii, K_bi and the diagonal of K_bb without the size of the last layer."""
        kernel = self.architecture.kernel(self.log_w_var.exp(), self.log_b_var.exp())
        points, rows = self.architecture.shaped(self.inducing), self.architecture.shaped(x)
        return kernel(points), kernel(rows, points), kernel.diag(rows)

    def latent(self, kernels: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and variance (under s2 = 1) of the latents, each (batch, n_classes), and the factor of K_ii."""
        size = self.log_readout_var.exp()
        inner, cross, diagonal = (size * k for k in kernels)
        jitter = JITTER * inner.diagonal().mean()
        factor = jittered_cholesky(inner + jitter * torch.eye(len(inner)).to(inner))
        white = torch.linalg.solve_triangular(factor, cross.T, upper=False).T  # K_bi L^-T
        weights = white if self.whiten else torch.linalg.solve_triangular(factor.T, white.T, upper=True).T
        rest = (diagonal - white.square().sum(1)).clamp_min(0)
        variance = weights.square() @ (2 * self.log_sd).exp() + rest[:, None]
        return weights @ self.mean, variance, factor

    # The bound ------------------------------------------------------------------------------------------------

    def shape_and_scale(self) -> tuple[Tensor, Tensor]:
        """The a and b of q(s2); learnt as a and b/a, so that a step in the one does not move what the other says."""
        a = self.log_a.exp()
        return a, a * self.log_size.exp()

    def divergence(self, factor: Tensor, s2: Tensor) -> Tensor:
        """KL of the variational posterior to the prior; `s2` are draws of q, for priors without a closed form."""
        m, n_classes = self.mean.shape
        precision = (-self.log_size).exp()  # the mean of 1/s2
        variances = (2 * self.log_sd).exp()
        if self.whiten:
            log_det, trace, square = torch.zeros(()).to(s2), variances.sum(), self.mean.square().sum()
        else:
            log_det = 2 * n_classes * factor.diagonal().log().sum()
            inverse = torch.cholesky_inverse(factor)
            trace = (inverse.diagonal()[:, None] * variances).sum()
            square = torch.linalg.solve_triangular(factor, self.mean, upper=False).square().sum()
        values = 0.5 * (log_det - 2 * self.log_sd.sum() - m * n_classes + trace + precision * square)
        return values + self.scale_divergence(s2)

    def scale_divergence(self, s2: Tensor) -> Tensor:
        """KL of q(s2) to its prior."""
        a, b = self.shape_and_scale()
        if isinstance(self.prior, FixedScale):
            return torch.zeros_like(a)
        if isinstance(self.prior, InverseGamma):
            a0, b0 = (torch.tensor(value, dtype=a.dtype, device=a.device) for value in (self.prior.a, self.prior.b))
            gain = a0 * (b / b0).log() - torch.lgamma(a) + torch.lgamma(a0)
            return gain + (a - a0) * torch.digamma(a) + (b0 - b) * a / b
        own = a * b.log() - torch.lgamma(a) - (a + 1) * s2.log() - b / s2
        return (own - self.prior.log_density(s2)).mean()

    def draw_scales(self, n: int, generator: Generator) -> Tensor:
        """Draws of s2 from q, shape (n,), with gradients to a and b."""
        if isinstance(self.prior, FixedScale):
            return torch.full((n,), self.prior.value, dtype=self.mean.dtype, device=self.mean.device)
        a, b = self.shape_and_scale()
        gamma: Tensor = torch._standard_gamma(a.expand(n), generator=generator)
        return b / gamma.clamp_min(torch.finfo(gamma.dtype).tiny)

    def loss(
        self,
        kernels: tuple[Tensor, Tensor, Tensor],
        codes: Tensor,
        n: int,
        *,
        n_samples: int,
        generator: Generator,
        scales: Generator,
    ) -> Tensor:
        """Negative bound per row, from a batch of rows with these kernels and class codes.

        `scales` draws s2 and `generator` all else, so that a fixed scale sees the same draws.
        """
        mean, variance, factor = self.latent(kernels)
        s2 = self.draw_scales(n_samples, scales)
        z = torch.randn(n_samples, *mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        latents = mean + (s2[:, None, None] * variance).sqrt() * z  # one s2 for all classes: a joint tail
        expected = latents.log_softmax(-1).gather(-1, codes.expand(n_samples, -1)[..., None]).mean()
        return self.divergence(factor, s2) / n - expected

    @torch.no_grad()
    def log_proba(self, x: Tensor, z: Tensor, s2: Tensor) -> Tensor:
        """Log of the mean of softmax over draws z (n_samples, n_classes) and s2 (n_samples,), shape (n, n_classes)."""
        found = []
        for rows in torch.split(x, 500):
            mean, variance, _ = self.latent(self.kernels(rows))
            total = torch.full_like(mean, -math.inf)
            for some, scale in zip(torch.split(z, 500), torch.split(s2, 500)):
                latents = mean + (scale[:, None, None] * variance).sqrt() * some[:, None, :]
                total = torch.logaddexp(total, latents.log_softmax(-1).logsumexp(0))
            found.append(total - math.log(len(z)))
        return torch.cat(found)


def choose_inducing(codes: Tensor, m: int, generator: Generator) -> Tensor:
    """Indices of `m` rows, the same number of each class as far as there are enough."""
    order = torch.randperm(len(codes), generator=generator)
    rank = torch.empty(len(codes), dtype=torch.long)
    for code in range(int(codes.max()) + 1):
        members = order[codes[order] == code]
        rank[members] = torch.arange(len(members))
    return order[torch.argsort(rank[order], stable=True)[:m]]  # the first of each class, then the second, ...
