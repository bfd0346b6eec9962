"""The chain of Gram matrices, and what is put on its end.

L(G_1..G_L) = log P(Y | G_L) - sum_l nu C KL(N(0, G_l) | N(0, K(G_{l-1})))

for C outputs. G_l = L_l R_l R_l' L_l' with K(G_{l-1}) = L_l L_l', so that R_l = I is the network of infinite width, the
divergence needs no inverse, and nu = inf is R_l = I for ever (any nu is while the chain is `held`). `GramChain` carries
the inducing block ii, the block ti of data against it, and the diagonal tt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from foreknow.functions.deep_kernel_machine.kernels import apply_kernel, scaled
from foreknow.nn.inducing import (
    collapsed_bound,
    collapsed_posterior,
    condition,
    expected_log_normal,
    kl_of_gram,
    kl_of_root,
    kl_whitened,
    stable_cholesky,
    whiten,
    whitened_moments,
)
from foreknow.nn.infinite.dense import Gram

FACTORS = ("cholesky", "square")
DIVERGENCES = ("exact", "taylor")


@dataclass(frozen=True)
class Blocks:
    """Second moments of a layer's features: inducing points (M, M), data against them (T, M), each datum's own (T,)."""

    ii: Tensor
    ti: Tensor
    tt: Tensor

    def normalized(self) -> Blocks:
        """Divided by the mean diagonal of the inducing block."""
        size = self.ii.diagonal().mean().clamp_min(1e-12)
        return Blocks(self.ii / size, self.ti / size, self.tt / size)


@dataclass(frozen=True)
class Passed:
    """What came out of the chain.

    Args:
        factor: Cholesky factor of the last kernel on the inducing points, shape (M, M).
        a: whitened data, K_ti L'^-1, shape (T, M).
        tt: diagonal of the last kernel, shape (T,).
        divergences: of every layer, in nats, shape (L,).
        grams: G_l on the inducing points.
        kernels: K(G_{l-1}) there.
        features: whitened representations of the data in every layer, (T, M) each: their products are G_tt but for
            what the inducing points leave open.
    """

    factor: Tensor
    a: Tensor
    tt: Tensor
    divergences: Tensor
    grams: list[Tensor]
    kernels: list[Tensor]
    features: list[Tensor]


class GramChain(nn.Module):
    """G_0 -> G_1 -> ... -> G_L -> K(G_L), with free Gram matrices on the inducing points.

    Args:
        n_inducing: M.
        layers: L.
        kernel: of every layer.
        nu: weight of the divergences for each output; inf fixes R_l = I, 0 drops them.
        factor: R_l is lower "cholesky" with a positive diagonal, or "square".
        divergence: "exact", or its "taylor" form |G^-1 K - I|^2 / 4.
        normalize: divide by the mean diagonal between layers.
        gram_noise: added to the diagonal of G_l, in units of its mean.
        jitter: first jitter of a Cholesky factor.
        learn_scales: whether scales of kernels are learnt.
        turn: a permutation of the inducing points, shape (M,), for the placebo: the divergence is from their
            kernel with the points exchanged.
    """

    def __init__(
        self,
        n_inducing: int,
        *,
        layers: int = 3,
        kernel: str = "arccos",
        nu: float = 10.0,
        factor: str = "cholesky",
        divergence: str = "exact",
        normalize: bool = True,
        gram_noise: float = 0.0,
        jitter: float = 1e-6,
        learn_scales: bool = True,
        turn: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.kernel, self.nu, self.factor, self.divergence = kernel, nu, factor, divergence
        self.normalize, self.gram_noise, self.jitter = normalize, gram_noise, jitter
        start = torch.zeros(n_inducing, n_inducing) if factor == "cholesky" else torch.eye(n_inducing)
        self.roots = nn.ParameterList(nn.Parameter(start.double()) for _ in range(layers))
        self.log_scales = nn.Parameter(torch.zeros(layers + 2, dtype=torch.float64), requires_grad=learn_scales)
        self.jitters: list[float] = []
        self.turn = turn
        self.held = False

    @property
    def fixed(self) -> bool:
        """Whether all R_l are I: always with nu = inf, else while the chain is held."""
        return self.held or math.isinf(self.nu)

    def root(self, index: int) -> Tensor:
        """R_l."""
        raw: Tensor = self.roots[index]
        if self.factor == "square":
            return raw
        return raw.tril(-1) + torch.diag(raw.diagonal().exp())

    def forward(self, blocks: Blocks) -> Passed:
        """Carry inducing points and data, with second moments G_0, through all layers."""
        divergences, grams, kernels, features = [], [], [], []
        self.jitters = []
        for index in range(len(self.roots)):
            k = self._kernel(blocks, index)
            lower = self._cholesky(k.ii)
            a = whiten(lower, k.ti)
            if self.fixed:
                blocks, divergence = k, k.ii.new_zeros(())
                features.append(a)
            else:
                root = self.root(index)
                blocks = Blocks(*condition(lower, a, k.tt, root))
                divergence = self._divergence(k.ii, blocks.ii, root)
                features.append(a @ root)
                if self.gram_noise:
                    extra = self.gram_noise * blocks.ii.diagonal().mean()
                    noisy = blocks.ii + extra * torch.eye(len(blocks.ii)).to(extra)
                    blocks = Blocks(noisy, blocks.ti, blocks.tt + extra)
            kernels.append(k.ii)
            divergences.append(divergence)
            grams.append(blocks.ii)
            if self.normalize:
                blocks = blocks.normalized()
        k = self._kernel(blocks, len(self.roots))
        size = self.log_scales[-1].exp()
        lower = self._cholesky(k.ii * size)
        a = whiten(lower, k.ti * size)
        return Passed(lower, a, k.tt * size, torch.stack(divergences), grams, kernels, features)

    def _divergence(self, k: Tensor, gram: Tensor, root: Tensor) -> Tensor:
        """KL(N(0, G) | N(0, K)); of the placebo, K of other rows."""
        if self.turn is not None:
            return kl_of_gram(gram, self._cholesky(k[self.turn][:, self.turn]))
        return kl_of_root(root, triangular=self.factor == "cholesky") if self.divergence == "exact" else _taylor(root)

    def penalty(self, passed: Passed, n_outputs: int) -> Tensor:
        """The price nu C sum_l KL_l; nothing where all R_l are I, since the sum is zero."""
        if self.fixed:
            return passed.divergences.new_zeros(())
        return self.nu * n_outputs * passed.divergences.sum()

    def _kernel(self, blocks: Blocks, index: int) -> Blocks:
        scale = self.log_scales[index].exp()
        inner = apply_kernel(self.kernel, scaled(Gram.square(blocks.ii), scale))
        diagonal = blocks.ii.diagonal()
        across = apply_kernel(self.kernel, scaled(Gram(blocks.tt, diagonal, blocks.ti), scale))
        return Blocks(inner.cross, across.cross, across.rows)

    def _cholesky(self, k: Tensor) -> Tensor:
        lower, used = stable_cholesky(k, self.jitter)
        self.jitters.append(float(used))
        return lower


def _taylor(root: Tensor) -> Tensor:
    """|G^-1 K - I|^2 / 4 in the whitened frame, the second-order form of the divergence."""
    inverse = torch.linalg.inv(root)
    gap = inverse.mT @ inverse - torch.eye(len(root)).to(root)
    total: Tensor = 0.25 * gap.square().sum()
    return total


def input_blocks(inducing: Tensor, data: Tensor) -> Blocks:
    """G_0 = X X' / D of inducing rows (M, D) and data (T, D)."""
    d = inducing.shape[1]
    return Blocks(inducing @ inducing.mT / d, data @ inducing.mT / d, data.square().sum(dim=1) / d)


class DeepKernelNetwork(nn.Module):
    """A chain with inducing rows at its start and a likelihood at its end.

    Args:
        inducing: rows X_i, shape (M, D).
        n_outputs: C; classes, or 1.
        classes: softmax over the outputs instead of a normal.
        collapsed: take the best q(u) in closed form (normal likelihood, all data at once).
        fixed: inducing rows are not learnt (they are the data).
        noise: first variance of the noise, in units of the target's.
        n_draws: of the softmax expectation.
        chain: settings of the `GramChain`.
    """

    draws: Tensor

    def __init__(
        self,
        inducing: Tensor,
        chain: GramChain,
        *,
        n_outputs: int = 1,
        classes: bool = False,
        collapsed: bool = True,
        fixed: bool = False,
        noise: float = 0.1,
        n_draws: int = 16,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        m = len(inducing)
        self.chain, self.classes, self.collapsed, self.n_outputs = chain, classes, collapsed and not classes, n_outputs
        self.inducing = nn.Parameter(inducing.clone(), requires_grad=not fixed)
        self.log_noise = nn.Parameter(torch.tensor(noise, dtype=torch.float64).log(), requires_grad=not classes)
        # Of the collapsed form these two are what `settle` found; else they are learnt.
        self.mean = nn.Parameter(torch.zeros(m, n_outputs, dtype=torch.float64), requires_grad=not self.collapsed)
        start = torch.zeros(n_outputs, m, m, dtype=torch.float64)
        self.raw = nn.Parameter(start, requires_grad=not self.collapsed)
        drawn = torch.randn(n_draws, n_outputs, generator=generator, dtype=torch.float64) if classes else torch.zeros(0)
        self.register_buffer("draws", drawn.double())

    def spread(self) -> Tensor:
        """R of q(v), shape (C, M, M), lower triangular with a positive diagonal."""
        return self.raw.tril(-1) + torch.diag_embed(self.raw.diagonal(dim1=-2, dim2=-1).exp())

    def objective(self, x: Tensor, y: Tensor, n: int) -> Tensor:
        """The bound a datum, to be made large: on a batch x (T, D), y (T, C) or codes (T,), of n data in all."""
        passed = self.chain(input_blocks(self.inducing, x))
        penalty = self.chain.penalty(passed, self.n_outputs)
        noise = self.log_noise.exp()
        if self.collapsed:
            return (collapsed_bound(passed.a, passed.tt, y, noise) - penalty) / n
        root = self.spread()
        mean, variance = whitened_moments(passed.a, passed.tt, self.mean, root)
        if self.classes:
            fit = self._log_softmax(mean, variance).gather(2, y[None, :, None].expand(len(self.draws), -1, 1)).mean()
        else:
            fit = expected_log_normal(y, mean, variance, noise).sum(dim=1).mean()
        return fit - (kl_whitened(self.mean, root) + penalty) / n

    def settle(self, x: Tensor, y: Tensor) -> None:
        """Store the best q(u) of the collapsed form, for predictions."""
        if not self.collapsed:
            return
        with torch.no_grad():
            passed = self.chain(input_blocks(self.inducing, x))
            mean, root = collapsed_posterior(passed.a, y, self.log_noise.exp())
            self.mean.copy_(mean)
            # Its lower Cholesky factor, as `spread` reads it.
            lower = stable_cholesky(root @ root.mT, 0.0)[0]
            self.raw.copy_((lower.tril(-1) + torch.diag(lower.diagonal().log())).expand_as(self.raw))

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the outputs without noise at rows (T, D), shape (T, C)."""
        passed = self.chain(input_blocks(self.inducing, x))
        return whitened_moments(passed.a, passed.tt, self.mean, self.spread())

    def forward(self, x: Tensor) -> Tensor:
        """Mean outputs (T, C), or log probabilities of classes (T, C)."""
        mean, variance = self.moments(x)
        if not self.classes:
            return mean
        return torch.logsumexp(self._log_softmax(mean, variance), dim=0) - math.log(len(self.draws))

    def _log_softmax(self, mean: Tensor, variance: Tensor) -> Tensor:
        """Log probabilities at fixed draws of the outputs, shape (S, T, C)."""
        sd = variance.clamp_min(1e-12).sqrt()
        return torch.log_softmax(mean + sd * self.draws[:, None, :], dim=-1)
