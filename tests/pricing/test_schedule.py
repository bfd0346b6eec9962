"""The schedule: time and memory of what is left, from what was measured."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from store_cells import make_blocks, make_cell, make_trial

from foreknow.common.errors import ConfigError
from foreknow.pricing.schedule import Plan, estimate
from foreknow.pricing.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "s") as store:
        yield store


def test_a_power_of_the_size_is_found_through_noise_and_odd_cells(store: Store) -> None:
    rng = np.random.default_rng(0)
    for seed in range(7):
        for size in (16, 32, 64, 128, 256):
            for arm, power in {"on": 2.0, "off": 1.0}.items():
                seconds = 0.01 * size**power * rng.lognormal(0, 0.1)
                if seed == 3:
                    seconds *= 100  # the machine slept
                store.finish(make_trial(make_cell(seed, size, arm), wall_s=seconds, peak_mb=0.5 * size))
    ahead = [make_cell(seed, 1024, arm) for seed in range(4) for arm in ("on", "off")]
    plan = estimate([*ahead, make_cell(0, 16)], store)
    assert (plan.n_cells, plan.n_left, plan.known_share) == (9, 8, 1.0)
    assert plan.seconds == pytest.approx(4 * 0.01 * (1024**2 + 1024), rel=0.3)
    assert plan.memory_mb == pytest.approx(512, rel=0.01)
    side_by_side = estimate(ahead, store, n_workers=4)
    assert side_by_side.seconds == pytest.approx(plan.seconds / 4, rel=1e-6)
    assert side_by_side.memory_mb == pytest.approx(4 * 512, rel=0.01)
    alone = estimate(ahead[:1], store)
    assert estimate(ahead[:2], store, n_workers=2).seconds == pytest.approx(alone.seconds)  # the longest cell


def test_one_size_grows_in_proportion_and_unknown_arms_are_average(store: Store) -> None:
    store.finish(make_trial(make_cell(0, 8, "on"), wall_s=2.0, peak_mb=0.0))
    store.finish(make_trial(make_cell(0, 8, "off"), wall_s=50.0, status="failed"))
    store.finish(make_trial(make_cell(0, 8, "off", "another study"), wall_s=99.0))
    plan = estimate([make_cell(1, 32, "on"), make_cell(1, 32, "off")], store)
    assert plan.seconds == pytest.approx(16.0)
    assert plan.known_share == 0.5
    assert "Only 50% of them" in plan.text()


def test_nothing_known_and_nothing_left(store: Store) -> None:
    cells = make_blocks(1)[0]
    unknown = estimate(cells, store)
    assert math.isnan(unknown.seconds)
    assert unknown.text() == "4 of 4 cells are left; how long they take is known after the first block."
    for cell in cells:
        store.finish(make_trial(cell))
    assert estimate([*cells, *cells], store) == Plan(4, 0, 0.0, 0.0, 1.0)
    assert estimate(cells, store).text() == "All 4 cells are in the store."
    assert estimate([], store).n_left == 0


@pytest.mark.parametrize(
    ("seconds", "memory", "words"),
    [
        (0.01, 0.2, "about 1 s, 1 MB of memory"),
        (80, 900, "about 80 s, 900 MB of memory"),
        (200, 2048, "about 3 min, 2.0 GB of memory"),
        (36_000, 10, "about 10.0 h, 10 MB of memory"),
    ],
)
def test_the_text_is_short(seconds: float, memory: float, words: str) -> None:
    assert Plan(20, 12, seconds, memory, 1.0).text() == f"12 of 20 cells are left: {words}."


def test_settings_are_checked(store: Store) -> None:
    with pytest.raises(ConfigError, match="n_workers"):
        estimate([], store, n_workers=0)
