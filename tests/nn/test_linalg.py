"""Cholesky factors with jitter: none where none is needed, the gradient reaches through, failures are NaN."""

import torch

from foreknow.common.rng import torch_stream
from foreknow.nn.linalg import jittered_cholesky


def covariance(*shape: int) -> torch.Tensor:
    x = torch.randn(*shape, generator=torch_stream(0, "covariance"), dtype=torch.float64)
    return x @ x.mT


def test_a_good_matrix_gets_no_jitter() -> None:
    k = covariance(3, 4, 6)
    assert torch.equal(jittered_cholesky(k), torch.linalg.cholesky(k))


def test_a_singular_matrix_among_good_ones_gets_little() -> None:
    k = covariance(2, 4, 4)
    k[1] = torch.ones(4, 4)
    factor = jittered_cholesky(k)
    assert torch.equal(factor[0], torch.linalg.cholesky(k[0]))
    assert torch.allclose(factor[1] @ factor[1].T, k[1], atol=1e-6)


def test_what_no_jitter_mends_is_nan_and_the_input_stays() -> None:
    k = torch.stack([torch.eye(2, dtype=torch.float64), torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=torch.float64)])
    kept = k.clone()
    factor = jittered_cholesky(k)
    assert factor[0].isfinite().all() and factor[1].isnan().any()
    assert torch.equal(k, kept)


def test_gradients_reach_a_matrix_that_needed_jitter() -> None:
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    factor = jittered_cholesky(scale * torch.ones(3, 3, dtype=torch.float64))
    (slope,) = torch.autograd.grad(factor[0, 0], scale)
    assert abs(slope.item() - 0.5 / 2**0.5) < 1e-4
