from __future__ import annotations

import pytest
import torch

from foreknow.common.errors import ConfigError
from foreknow.common.rng import seeded_init
from foreknow.nn import BarHead


@seeded_init(0)
def test_logits_and_borders() -> None:
    borders = torch.tensor([-2.0, -1.0, 0.5, 3.0, 9.0], dtype=torch.float64)
    head = BarHead(8, 4, borders=borders)
    assert head(torch.zeros(2, 3, 8)).shape == (2, 3, 4)
    assert head.borders.dtype == torch.float32
    other = BarHead(8, 4)
    other.load_state_dict(head.state_dict())
    assert torch.equal(other.borders, borders.float())


@seeded_init(0)
def test_zero_start_gives_equal_logits() -> None:
    assert torch.equal(BarHead(8, 4, zero_init=True)(torch.ones(1, 8)), torch.zeros(1, 4))
    assert BarHead(8, 4)(torch.ones(1, 8)).std() > 0


@pytest.mark.parametrize(
    "borders",
    [[0.0, 1.0], [0.0, 1.0, 1.0, 2.0, 3.0], [0.0, 1.0, float("nan"), 2.0, 3.0], [1.0, 1 + 1e-12, 2, 3, 4]],
)
@seeded_init(0)
def test_bad_borders_are_refused(borders: list[float]) -> None:
    with pytest.raises(ConfigError, match="borders"):
        BarHead(8, 4, borders=torch.tensor(borders, dtype=torch.float64))


def test_bad_counts_are_refused() -> None:
    with pytest.raises(ConfigError, match="n_buckets"):
        BarHead(8, 1)
    with pytest.raises(ConfigError, match="hidden"):
        BarHead(8, 4, hidden=0)
