"""A mixture of multivariate normals: what is known of a vector, as filters and conditional models pass it on."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.validate import check_int
from foreknow.core.predictive._numerics import LOG_SQRT_2PI, check_finite, check_logits, together
from foreknow.core.predictive.mixture import GaussianMixture

_JITTER = 1e-6


class MultivariateMixture:
    """K multivariate normals with weights over vectors of d numbers; batches of them.

    Args:
        logits: unnormalised log weights, shape (*batch, K); -inf switches a component off.
        means: shape (*batch, K, d).
        scale_tril: lower-triangular factors of the covariances with a positive diagonal, (*batch, K, d, d).

    Raises:
        InputError: shapes that do not belong together, NaN or infinite numbers, a diagonal that is not positive.
    """

    def __init__(self, logits: Tensor, means: Tensor, scale_tril: Tensor) -> None:
        owner = "MultivariateMixture"
        given = {"logits": logits, "means": means, "scale_tril": scale_tril}
        self.logits, self.means, self.scale_tril = together(owner, given)
        check_logits(owner, self.logits)
        d = self.means.shape[-1] if self.means.ndim > 1 else 0
        wanted = (*self.logits.shape, d)
        if d < 1 or self.means.shape != wanted or self.scale_tril.shape != (*wanted, d):
            raise InputError(
                f"{owner}: logits (*batch, K), means (*batch, K, d) and scale_tril (*batch, K, d, d) must agree, got "
                f"{tuple(self.logits.shape)}, {tuple(self.means.shape)}, {tuple(self.scale_tril.shape)}."
            )
        check_finite(owner, "means", self.means)
        check_finite(owner, "scale_tril", self.scale_tril)
        diagonal = self.scale_tril.diagonal(dim1=-2, dim2=-1)
        if not bool((diagonal > 0).all()):
            raise InputError(f"{owner}: the diagonal of scale_tril must be positive, smallest is {diagonal.min():.3g}.")

    @classmethod
    def from_covariances(cls, logits: Tensor, means: Tensor, covariances: Tensor) -> MultivariateMixture:
        """The same from covariances (*batch, K, d, d), to whose diagonal a millionth of its mean is added.

        Raises:
            InputError: a covariance is not symmetric and positive semi-definite.
        """
        owner = "MultivariateMixture"
        (cov,) = together(owner, {"covariances": covariances})
        if cov.ndim < 3 or cov.shape[-1] != cov.shape[-2]:
            raise InputError(f"{owner}: covariances must have shape (*batch, K, d, d), got {tuple(cov.shape)}.")
        size = cov.diagonal(dim1=-2, dim2=-1).mean(-1)
        tolerance = 1e-4 * size.abs().clamp(min=1e-30)[..., None, None]
        if not bool((size > 0).all()) or bool(((cov - cov.mT).abs() > tolerance).any()):
            raise InputError(f"{owner}: covariances must be symmetric with positive variances.")
        eye = torch.eye(cov.shape[-1], dtype=cov.dtype, device=cov.device)
        factor, info = torch.linalg.cholesky_ex(0.5 * (cov + cov.mT) + _JITTER * size[..., None, None] * eye)
        if bool(info.any()):
            raise InputError(
                f"{owner}: {int((info > 0).sum())} covariance(s) are not positive definite.",
                hint="A covariance is F F^T of some F; look for a swapped sign or swapped rows.",
            )
        return cls(logits, means, factor)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return tuple(self.logits.shape[:-1])

    @property
    def n_components(self) -> int:
        return int(self.logits.shape[-1])

    @property
    def n_dims(self) -> int:
        """Length d of the vectors."""
        return int(self.means.shape[-1])

    @property
    def dtype(self) -> torch.dtype:
        return self.logits.dtype

    @property
    def device(self) -> torch.device:
        return self.logits.device

    @property
    def log_weights(self) -> Tensor:
        """Logarithms of the weights, shape (*batch, K)."""
        return self.logits.log_softmax(-1)

    @property
    def covariances(self) -> Tensor:
        """Of the components, shape (*batch, K, d, d)."""
        return self.scale_tril @ self.scale_tril.mT

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density of vectors (*samples, *batch, d), in nats: shape (*samples, *batch)."""
        if x.shape[-1] != self.n_dims:
            raise InputError(f"MultivariateMixture: vectors must have {self.n_dims} numbers, got {tuple(x.shape)}.")
        return mixture_log_density(self.log_weights, self.means, self.scale_tril, x.to(self.logits))

    def sample(self, n: int, *, generator: Generator) -> Tensor:
        """`n` draws of each, shape (n, *batch, d), without gradient."""
        check_int("MultivariateMixture", "n", n, low=1)
        if not isinstance(generator, Generator):
            raise ConfigError("MultivariateMixture: generator must be a torch.Generator.")
        with torch.no_grad():
            k, d = self.n_components, self.n_dims
            weights = self.log_weights.exp().reshape(-1, k).to(generator.device)
            chosen = torch.multinomial(weights, n, replacement=True, generator=generator).to(self.device)  # (b, n)
            rows = torch.arange(len(weights), device=self.device)[:, None]
            mean = self.means.reshape(-1, k, d)[rows, chosen]
            factor = self.scale_tril.reshape(-1, k, d, d)[rows, chosen]
            z = torch.randn(*mean.shape, 1, generator=generator, device=generator.device, dtype=self.dtype)
            draws = mean + (factor @ z.to(self.device))[..., 0]  # (b, n, d)
            return draws.transpose(0, 1).reshape(n, *self.batch_shape, d)

    def mean(self) -> Tensor:
        """Expectation, shape (*batch, d)."""
        return (self.log_weights.exp().unsqueeze(-1) * self.means).sum(-2)

    def covariance(self) -> Tensor:
        """Of the whole mixture, shape (*batch, d, d)."""
        away = self.means - self.mean().unsqueeze(-2)
        parts = self.covariances + away.unsqueeze(-1) * away.unsqueeze(-2)
        return (self.log_weights.exp()[..., None, None] * parts).sum(-3)

    def marginal(self, index: int) -> GaussianMixture:
        """The distribution of one of the numbers, batch shape (*batch,)."""
        check_int("MultivariateMixture.marginal", "index", index, low=0, high=self.n_dims - 1)
        sds = self.scale_tril[..., index, :].square().sum(-1).sqrt()
        return GaussianMixture(self.logits, self.means[..., index], sds)

    def linear(
        self, matrix: Tensor, *, shift: Tensor | None = None, noise: Tensor | None = None
    ) -> MultivariateMixture:
        """The distribution of A x + shift + e with e ~ N(0, noise): every component is mapped, weights stay.

        Args:
            matrix: A, shape (m, d).
            shift: shape (m,).
            noise: covariance of e, shape (m, m); needed where A loses rank.
        """
        a = matrix.to(self.logits)
        means = self.means @ a.mT
        means = means if shift is None else means + shift.to(means)
        cov = a @ self.covariances @ a.mT
        return MultivariateMixture.from_covariances(self.logits, means, cov if noise is None else cov + noise.to(cov))

    def scaled(self, shift: Tensor, scale: Tensor) -> MultivariateMixture:
        """The distribution of shift + scale * x, number by number; `scale` (d,) is positive. Exact."""
        shift, scale = shift.to(self.logits), scale.to(self.logits)
        return MultivariateMixture(self.logits, shift + scale * self.means, scale.unsqueeze(-1) * self.scale_tril)

    def matched(self) -> MultivariateMixture:
        """The one normal distribution with the same mean and covariance."""
        logits = torch.zeros(*self.batch_shape, 1, dtype=self.dtype, device=self.device)
        return MultivariateMixture.from_covariances(logits, self.mean().unsqueeze(-2), self.covariance().unsqueeze(-3))

    def with_components(self, n: int) -> MultivariateMixture:
        """The mixture with exactly `n` components: the heaviest are split, or the nearest lightest merged.

        Splitting and merging keep the mean and the covariance of the whole.
        """
        check_int("MultivariateMixture.with_components", "n", n, low=1)
        found = self
        while found.n_components < n:
            found = _split_heaviest(found)
        while found.n_components > n:
            found = _merge_lightest(found)
        return found

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> MultivariateMixture:
        """The same on another device or in another precision."""
        return MultivariateMixture(*(t.to(device=device, dtype=dtype) for t in self._tensors()))

    def detach(self) -> MultivariateMixture:
        """The same without gradients."""
        return MultivariateMixture(*(t.detach() for t in self._tensors()))

    def __getitem__(self, index: object) -> MultivariateMixture:
        """Those at `index` of the batch axes."""
        if not self.batch_shape:
            raise InputError("MultivariateMixture: a single distribution has no batch axis to index.")
        return MultivariateMixture(*(t[index] for t in self._tensors()))  # type: ignore[index]

    def _tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.logits, self.means, self.scale_tril

    def __repr__(self) -> str:
        return (
            f"MultivariateMixture(batch_shape={self.batch_shape}, n_components={self.n_components}, "
            f"n_dims={self.n_dims})"
        )


def mixture_log_density(log_weights: Tensor, means: Tensor, scale_tril: Tensor, x: Tensor) -> Tensor:
    """Log density of a mixture at x (*samples, *batch, d); unchecked, for use inside training."""
    away = x.unsqueeze(-2) - means  # (*samples, *batch, K, d)
    solved: list[Tensor] = []  # forward substitution: d is small, and this is one vectorised step a row
    for i in range(means.shape[-1]):
        rest = away[..., i]
        for j, z in enumerate(solved):
            rest = rest - scale_tril[..., i, j] * z
        solved.append(rest / scale_tril[..., i, i])
    squares = torch.stack(solved, -1).square().sum(-1)
    log_scale = scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return torch.logsumexp(log_weights - 0.5 * squares - log_scale - means.shape[-1] * LOG_SQRT_2PI, -1)


def _split_heaviest(mix: MultivariateMixture) -> MultivariateMixture:
    """One component more: the heaviest becomes two of half its weight, apart along its first factor.

    N(m, S) and the pair N(m -+ c f, S - c^2 f f^T) with f the first column of the factor have equal moments.
    """
    apart = 0.5
    k = mix.log_weights.argmax(-1)  # (*batch,)
    pick = torch.nn.functional.one_hot(k, mix.n_components).to(torch.bool)
    batch = mix.batch_shape
    logit = mix.log_weights[pick].reshape(*batch, 1) - math.log(2.0)
    mean = mix.means[pick].reshape(*batch, 1, -1)
    factor = mix.scale_tril[pick].reshape(*batch, 1, mix.n_dims, mix.n_dims)
    step = apart * factor[..., 0]
    narrow = factor.clone()
    narrow[..., 0] = factor[..., 0] * math.sqrt(1 - apart**2)
    logits = torch.where(pick, logit.expand_as(mix.logits), mix.log_weights)
    means = torch.where(pick.unsqueeze(-1), mean - step, mix.means)
    factors = torch.where(pick[..., None, None], narrow, mix.scale_tril)
    return MultivariateMixture(
        torch.cat([logits, logit], -1), torch.cat([means, mean + step], -2), torch.cat([factors, narrow], -3)
    )


def _merge_lightest(mix: MultivariateMixture) -> MultivariateMixture:
    """One component less: the lightest joins the one that is nearest in its own scale."""
    batch, k, d = mix.batch_shape, mix.n_components, mix.n_dims
    logw, means = mix.log_weights.reshape(-1, k), mix.means.reshape(-1, k, d)
    cov = mix.covariances.reshape(-1, k, d, d)
    rows = torch.arange(len(logw), device=mix.device)
    light = logw.argmin(-1)
    gap = means - means[rows, light].unsqueeze(1)  # (b, k, d)
    joint = cov + cov[rows, light].unsqueeze(1)
    distance = (gap.unsqueeze(-2) @ torch.linalg.solve(joint, gap.unsqueeze(-1)))[..., 0, 0]
    distance[rows, light] = math.inf
    near = distance.argmin(-1)
    pair = torch.stack([logw[rows, light], logw[rows, near]], -1)
    total = torch.logsumexp(pair, -1)
    share = (pair - total.unsqueeze(-1)).exp()  # (b, 2)
    two = torch.stack([means[rows, light], means[rows, near]], 1)
    mean = (share.unsqueeze(-1) * two).sum(1)
    away = two - mean.unsqueeze(1)
    spread = torch.stack([cov[rows, light], cov[rows, near]], 1) + away.unsqueeze(-1) * away.unsqueeze(-2)
    merged = (share[..., None, None] * spread).sum(1)
    logw, means, cov = logw.clone(), means.clone(), cov.clone()
    logw[rows, near], means[rows, near], cov[rows, near] = total, mean, merged
    keep = torch.ones_like(logw, dtype=torch.bool)
    keep[rows, light] = False
    return MultivariateMixture.from_covariances(
        logw[keep].reshape(*batch, k - 1), means[keep].reshape(*batch, k - 1, d), cov[keep].reshape(*batch, k - 1, d, d)
    )
