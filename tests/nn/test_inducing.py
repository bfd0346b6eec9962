"""Sparse Gaussian process algebra against its dense definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from foreknow.common.errors import ConvergenceError
from foreknow.common.rng import torch_stream
from foreknow.nn import inducing as ops

M, T = 5, 9


def kernel(x: Tensor, z: Tensor) -> Tensor:
    return torch.exp(-0.5 * torch.cdist(x, z).square())


@pytest.fixture
def blocks() -> tuple[Tensor, Tensor, Tensor]:
    z, x = (torch.randn(n, 2, generator=torch_stream(n, "rows"), dtype=torch.float64) for n in (M, T))
    return kernel(z, z), kernel(x, z), kernel(x, x)


def random_root(*b: int) -> Tensor:
    raw = torch.randn(*b, M, M, generator=torch_stream(3, "root"), dtype=torch.float64).tril(-1)
    return raw + 1.5 * torch.eye(M, dtype=torch.float64)


def test_cholesky_leaves_good_matrices_alone_and_gives_bad_ones_jitter() -> None:
    good = torch.eye(3).double() + 0.1
    bad = torch.ones(3, 3).double()
    factors, used = ops.stable_cholesky(torch.stack([good, bad]), 0.0)
    assert used[0] == 0
    assert 0 < used[1] < 1e-6
    torch.testing.assert_close(factors @ factors.mT, torch.stack([good, bad]), atol=1e-6, rtol=0)
    scaled, again = ops.stable_cholesky(1e30 * bad, 0.0)
    assert scaled.isfinite().all()
    assert again == used[1]


def test_cholesky_gradient_survives_a_failed_try() -> None:
    k = torch.ones(3, 3).double().requires_grad_(True)
    factor, _ = ops.stable_cholesky(k, 0.0)
    factor.diagonal().log().sum().backward()
    assert k.grad is not None
    assert k.grad.isfinite().all()


@pytest.mark.parametrize("k", [-torch.eye(2).double(), torch.full((2, 2), math.nan).double()])
def test_cholesky_refuses_what_is_no_gram_matrix(k: Tensor) -> None:
    with pytest.raises(ConvergenceError, match="Cholesky"):
        ops.stable_cholesky(k)


def test_conditional_against_the_dense_formula(blocks: tuple[Tensor, Tensor, Tensor]) -> None:
    ii, ti, tt = blocks
    factor, _ = ops.stable_cholesky(ii, 0.0)
    root = random_root()
    g_ii, g_ti, g_tt = ops.condition(factor, ops.whiten(factor, ti), tt.diagonal(), root)
    inverse = torch.linalg.inv(ii)
    expected = factor @ root @ root.T @ factor.T
    torch.testing.assert_close(g_ii, expected)
    torch.testing.assert_close(g_ti, ti @ inverse @ expected)
    dense = tt - ti @ inverse @ ti.T + ti @ inverse @ expected @ inverse @ ti.T
    torch.testing.assert_close(g_tt, dense.diagonal())


def test_conditional_with_the_identity_changes_nothing(blocks: tuple[Tensor, Tensor, Tensor]) -> None:
    ii, ti, tt = blocks
    factor, _ = ops.stable_cholesky(ii, 0.0)
    found = ops.condition(factor, ops.whiten(factor, ti), tt.diagonal(), torch.eye(M).double())
    for got, expected in zip(found, (ii, ti, tt.diagonal()), strict=True):
        torch.testing.assert_close(got, expected)


def test_divergences_against_torch(blocks: tuple[Tensor, Tensor, Tensor]) -> None:
    ii = blocks[0]
    factor, _ = ops.stable_cholesky(ii, 0.0)
    root = random_root()
    gram = factor @ root @ root.T @ factor.T
    zero = torch.zeros(M).double()
    expected = kl_divergence(MultivariateNormal(zero, gram), MultivariateNormal(zero, ii))
    for found in (ops.kl_of_root(root), ops.kl_of_root(root, triangular=True), ops.kl_of_gram(gram, factor)):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    mean = torch.randn(M, 2, generator=torch_stream(4, "mean"), dtype=torch.float64)
    roots = torch.stack([root, 0.5 * root])
    both = sum(
        kl_divergence(
            MultivariateNormal(mean[:, c], scale_tril=roots[c]), MultivariateNormal(zero, torch.eye(M).double())
        )
        for c in range(2)
    )
    torch.testing.assert_close(ops.kl_whitened(mean, roots), both)


def test_moments_of_whitened_outputs(blocks: tuple[Tensor, Tensor, Tensor]) -> None:
    ii, ti, tt = blocks
    factor, _ = ops.stable_cholesky(ii, 0.0)
    a = ops.whiten(factor, ti)
    mean, root = torch.randn(M, 1, generator=torch_stream(5, "m"), dtype=torch.float64), random_root(1)
    found_mean, found_variance = ops.whitened_moments(a, tt.diagonal(), mean, root)
    inverse = torch.linalg.inv(ii)
    s = factor @ root[0] @ root[0].T @ factor.T
    dense = tt - ti @ inverse @ ti.T + ti @ inverse @ s @ inverse @ ti.T
    torch.testing.assert_close(found_mean[:, 0], ti @ inverse @ (factor @ mean[:, 0]))
    torch.testing.assert_close(found_variance[:, 0], dense.diagonal())


def test_expected_log_density_against_quadrature() -> None:
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    y, mean, variance, noise = (torch.tensor(v, dtype=torch.float64) for v in (0.7, -0.2, 0.5, 0.3))
    f = mean + variance.sqrt() * torch.as_tensor(nodes)
    density = torch.distributions.Normal(f, noise.sqrt()).log_prob(y)
    plain = (torch.as_tensor(weights / weights.sum()) * density).sum()
    torch.testing.assert_close(ops.expected_log_normal(y, mean, variance, noise), plain)


def test_collapsed_bound_is_the_evidence_when_the_inducing_points_are_the_data(
    blocks: tuple[Tensor, Tensor, Tensor],
) -> None:
    tt = blocks[2]
    factor, _ = ops.stable_cholesky(tt, 0.0)
    a = ops.whiten(factor, tt)
    y = torch.randn(T, 2, generator=torch_stream(6, "y"), dtype=torch.float64)
    noise = torch.tensor(0.2, dtype=torch.float64)
    exact = MultivariateNormal(torch.zeros(T).double(), tt + 0.2 * torch.eye(T).double()).log_prob(y.T).sum()
    torch.testing.assert_close(ops.collapsed_bound(a, tt.diagonal(), y, noise), exact)


def test_collapsed_bound_is_the_best_of_the_variational_ones(blocks: tuple[Tensor, Tensor, Tensor]) -> None:
    ii, ti, tt = blocks
    factor, _ = ops.stable_cholesky(ii, 0.0)
    a = ops.whiten(factor, ti)
    y = torch.randn(T, 1, generator=torch_stream(6, "y"), dtype=torch.float64)
    noise = torch.tensor(0.2, dtype=torch.float64)

    def bound(mean: Tensor, root: Tensor) -> Tensor:
        moments = ops.whitened_moments(a, tt.diagonal(), mean, root[None])
        return ops.expected_log_normal(y, *moments, noise).sum() - ops.kl_whitened(mean, root[None])

    mean, root = ops.collapsed_posterior(a, y, noise)
    best = ops.collapsed_bound(a, tt.diagonal(), y, noise)
    torch.testing.assert_close(bound(mean, root), best)
    assert bound(mean + 0.1, root) < best
    assert bound(mean, 1.1 * root) < best


def test_batches_of_matrices() -> None:
    factor = random_root(2)
    cross = torch.randn(2, T, M, generator=torch_stream(7, "c"), dtype=torch.float64)
    together = ops.condition(factor, ops.whiten(factor, cross), torch.ones(2, T).double() * 50, random_root(2))
    for i in range(2):
        alone = ops.condition(
            factor[i], ops.whiten(factor[i], cross[i]), torch.ones(T).double() * 50, random_root(2)[i]
        )
        for one, other in zip(together, alone, strict=True):
            torch.testing.assert_close(one[i], other)


def test_inducing_rows_are_as_many_as_there_are_different_ones() -> None:
    X = np.repeat(np.arange(4.0)[:, None], 10, axis=0)
    assert ops.inducing_rows(X, 9, 0).shape == (4, 1)
    many = np.random.default_rng(0).normal(size=(50, 2))
    np.testing.assert_array_equal(ops.inducing_rows(many, 7, 3), ops.inducing_rows(many, 7, 3))
    assert ops.inducing_rows(many, 7, 3).shape == (7, 2)
