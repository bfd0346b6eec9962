"""Priors: capabilities, the control arm of any simulator, streams that can be resumed."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from foreknow.common.errors import CapabilityError, ConfigError
from foreknow.common.rng import torch_stream
from foreknow.core.prior import Prior, Simulator, Unrelated


@dataclass(frozen=True)
class Counting(Simulator):
    """Column 0 is the row number, and so is the target."""

    n_features: int = 1
    target: ClassVar[str] = "regression"

    def _draw(self, n_tasks, n_rows, *, generator, device, dtype):
        y = torch.arange(n_rows, dtype=dtype, device=device).expand(n_tasks, -1)
        return y[..., None] + 0 * torch.rand(1, generator=generator), y, {}


@dataclass(frozen=True)
class Nothing(Prior):
    def off(self):
        return self


def test_capabilities_follow_the_methods():
    class Proximal(Nothing):
        def prox(self, value, step):
            return value

    assert Nothing().capabilities() == frozenset()
    assert Proximal().capabilities() == {"prox"}
    Proximal().require("prox")
    with pytest.raises(CapabilityError, match="Proximal cannot do 'samples'; it can do: prox"):
        Proximal().require("samples")
    with pytest.raises(CapabilityError, match="it can do: nothing"):
        Nothing().require("samples")
    with pytest.raises(CapabilityError, match=r"names no examples\(\)"):
        Nothing.examples()


def test_off_shuffles_the_targets_within_each_task():
    off = Counting().off()
    drawn = off.sample(50, n_context=20, n_query=10, generator=torch_stream(0, "x"))
    y = torch.cat([drawn.context_y, drawn.query_y], dim=1)
    x = torch.cat([drawn.context_x, drawn.query_x], dim=1)[..., 0]
    assert torch.equal(y.sort(dim=1).values, torch.arange(30.0).expand(50, -1))
    assert torch.equal(x, torch.arange(30.0).expand(50, -1))
    correlation = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(x, y, strict=True)])
    assert correlation.mean().abs() < 0.1
    assert len({tuple(row.tolist()) for row in y}) == 50


def test_off_of_off_and_what_it_passes_on():
    off = Counting(1).off()
    assert isinstance(off, Unrelated) and off.off() is off
    assert (off.n_features, off.target, off.n_classes) == (1, "regression", 0)

    @dataclass(frozen=True)
    class Odd(Counting):
        target: ClassVar[str] = "ranking"

    with pytest.raises(ConfigError, match="target must be one of"):
        Odd().off()


def test_a_stream_can_start_anywhere():
    class Random(Counting):
        def _draw(self, n_tasks, n_rows, *, generator, device, dtype):
            y = torch.rand(n_tasks, n_rows, generator=generator)
            return y[..., None], y, {}

    def batches(n, **options):
        stream = Random().stream(2, seed=1, n_context=2, n_query=1, **options)
        return [next(stream).context_y for _ in range(n)]

    straight = batches(4)
    assert torch.equal(torch.stack(straight[2:]), torch.stack(batches(2, start=2)))
    assert not torch.equal(straight[0], straight[1])
    with pytest.raises(ConfigError, match="start must be an integer >= 0, got -1"):
        batches(1, start=-1)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"n": 0}, "Counting: n must be an integer >= 1, got 0"),
        ({"n": 1, "n_context": -1}, "n_context must be an integer >= 0"),
        ({"n": 1, "n_query": 0}, "n_query must be an integer >= 1"),
    ],
)
def test_bad_sizes_are_refused(sizes, said):
    with pytest.raises(ConfigError, match=said):
        Counting().sample(**sizes, generator=torch_stream(0))
