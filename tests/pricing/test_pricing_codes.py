"""Code lengths of streams whose truth is known, what temperatures may look at, and calibration from stored details."""

import math

import numpy as np
import pytest
from scipy import special

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.rng import numpy_stream
from foreknow.pricing.codes import calibration, code_difference, code_length, temperature_of
from foreknow.pricing.scoring import GRID, UNCHANGED

N_BLOCK = (8, 8, 16, 32, 64, 128)


def stream(rng, factor, units):
    """Block losses (units, blocks, G) of logits `factor` times too large, and the bits of the true probabilities."""
    losses, truth = [], np.zeros(units)
    for n in N_BLOCK:
        z = 1.5 * rng.normal(size=(units, n, 3))
        y = (z + rng.gumbel(size=z.shape)).argmax(-1)[..., None]
        cost = [-np.take_along_axis(special.log_softmax(f * z, -1), y, -1).sum((1, 2)) for f in (1, *(factor / GRID))]
        truth += cost[0] / math.log(2)
        losses.append(np.stack(cost[1:], 1))
    return np.stack(losses, 1), truth


def test_a_calibrated_source_is_left_alone():
    losses, truth = stream(numpy_stream(0, "calibrated"), 1.0, 300)
    found = [code_length(unit, N_BLOCK) for unit in losses]
    assert found[0].temperatures[0] == 1.0 and found[0].n_labels == 256
    last = np.log([code.temperatures[-1] for code in found])
    assert abs(last.mean()) < 0.05 and np.abs(last).max() < math.log(2.5)
    assert np.sum([code.bits for code in found]) / truth.sum() < 1.02
    assert np.sum([code.bits_uncalibrated for code in found]) == pytest.approx(truth.sum())


def test_an_overconfident_source_is_mended_by_its_past():
    losses, truth = stream(numpy_stream(0, "overconfident"), 3.0, 300)
    found = [code_length(unit, N_BLOCK) for unit in losses]
    assert np.median([code.temperatures[-1] for code in found]) == pytest.approx(3.0, rel=0.15)
    assert np.sum([code.bits_uncalibrated for code in found]) / truth.sum() > 1.4
    assert 1.0 < np.sum([code.bits for code in found]) / truth.sum() < 1.06


def test_a_short_past_does_not_jump_to_the_end_of_the_grid():
    z = np.array([[2.0, 0.0]] * 8)  # all guessed right: without a prior the best temperature is the smallest
    losses = np.array([-special.log_softmax(z / t, 1)[:, 0].sum() for t in GRID])
    assert losses.argmin() == 0
    assert 0.4 < GRID[temperature_of([losses])] < 1
    assert GRID[temperature_of([losses] * 40)] < 0.35


def test_no_past_is_temperature_one():
    assert temperature_of(np.empty((0, len(GRID)))) == UNCHANGED
    assert GRID[UNCHANGED] == 1.0


def test_future_blocks_never_change_the_code_of_earlier_ones():
    rng = numpy_stream(1)
    losses = stream(rng, 3.0, 1)[0][0]
    whole = code_length(losses, N_BLOCK)
    for b in range(1, len(N_BLOCK)):
        order = np.concatenate([np.arange(b), b + rng.permutation(len(N_BLOCK) - b)])
        counts = np.asarray(N_BLOCK)[order]
        shuffled = code_length(losses[order], counts)
        assert shuffled.temperatures[: b + 1] == whole.temperatures[: b + 1]
        assert code_length(losses[:b], N_BLOCK[:b]).bits == pytest.approx(
            code_length(losses[order][:b], counts[:b]).bits
        )
        changed = losses.copy()
        changed[b:] = rng.random((len(N_BLOCK) - b, len(GRID)))  # the block itself has no say either
        assert code_length(changed, N_BLOCK).temperatures[: b + 1] == whole.temperatures[: b + 1]
    assert len(set(whole.temperatures)) > 2


def test_code_length_against_a_loop():
    losses = stream(numpy_stream(2), 2.0, 1)[0][0]
    bits, past = 0.0, np.zeros(len(GRID))
    for block in losses:
        best = min(range(len(GRID)), key=lambda i: past[i] + math.log(GRID[i]) ** 2 / (2 * math.log(2) ** 2))
        bits += block[best] / math.log(2)
        past = past + block
    assert code_length(losses, N_BLOCK).bits == pytest.approx(bits)


def test_difference_is_paired_and_positive_where_on_saves():
    rng = numpy_stream(3)
    on, truth = stream(rng, 1.0, 10)
    saved = rng.normal(20, 2, size=10)
    other = on + (saved * math.log(2) / len(N_BLOCK))[:, None, None]  # the same shape at every temperature
    got = code_difference(on, other, N_BLOCK, rng=rng)
    assert got.value == pytest.approx(saved.mean()) and 15 < got.low < got.value < got.high < 25
    assert (got.rung, got.n_units, got.note) == ("prequential", 10, "over 256 labels a unit")
    assert truth.std() > 2 * (got.high - got.low)  # pairing took away what the units have in common
    back = code_difference(other, on, N_BLOCK, rng=rng)
    assert back.value == pytest.approx(-got.value)


def test_difference_without_blocks_or_with_one_unit():
    empty = np.empty((3, 0, len(GRID)))
    none = code_difference(empty, empty, [], rng=numpy_stream(0))
    assert math.isnan(none.value) and none.note == "no block was coded" and none.rung == "prequential"
    one = code_difference(np.ones((1, 2, len(GRID))), np.ones((1, 2, len(GRID))), [4, 4], rng=numpy_stream(0))
    assert one.value == 0 and math.isnan(one.low) and one.note == "over 8 labels a unit; one unit: no interval"


# Calibration -------------------------------------------------------------------------------------------------------


def details(block_losses, **last):
    """Details of one unit: a size for every block, and the largest size, which has no next block."""
    row = np.arange(len(GRID), dtype=float)
    base = {"test_loss": row.tolist(), "n_block": 4, **{name: values.tolist() for name, values in last.items()}}
    return [*({**base, "block_loss": block.tolist()} for block in block_losses), {**base, "block_loss": []}]


def test_calibration_measures_the_largest_size_at_what_the_past_asks_for():
    row = np.arange(len(GRID), dtype=float)
    losses = stream(numpy_stream(4), 3.0, 2)[0]
    units = [details(unit, ece_15=row / 100, brier=row / 10) for unit in losses]
    got = calibration(units, size=256)
    chosen = [temperature_of(unit) for unit in losses]
    assert min(chosen) > UNCHANGED
    assert got.size == 256 and got.temperature == pytest.approx(GRID[chosen].mean())
    assert got.before == pytest.approx({"log_loss": UNCHANGED, "ece_15": UNCHANGED / 100, "brier": UNCHANGED / 10})
    after = np.mean(chosen)
    assert got.after == pytest.approx({"log_loss": after, "ece_15": after / 100, "brier": after / 10})
    assert got.reliability_before == ()
    alone = calibration([unit[-1:] for unit in units], size=256)  # one size: no past, nothing is changed
    assert alone.temperature == 1.0 and alone.after == alone.before


def test_reliability_is_pooled_over_units_by_rows():
    row = np.zeros(len(GRID))
    units = [details([], brier=row) for _ in range(2)]
    for unit, bins in zip(
        units, ([[0.62, 0.5, 0.25], [0.9, 1.0, 0.75]], [[0.64, 0.7, 0.75], [0.99, 0.9, 0.25], [0, 0, 0]])
    ):
        unit[-1]["reliability"] = [bins] * len(GRID)
    got = calibration(units, size=16).reliability_before
    np.testing.assert_allclose(got, [(0.635, 0.65, 0.5), (0.9, 1.0, 0.375), (0.99, 0.9, 0.125)])


def test_calibration_of_numbers():
    row = np.linspace(0, 1, len(GRID))
    units = [details([], coverage_90=row) for _ in range(2)]
    for unit, measured in zip(units, (0.7, 0.9)):
        unit[-1]["reliability"] = [[[0.5, 0.4], [0.9, measured]]] * len(GRID)
    got = calibration(units, size=16)
    assert got.before == pytest.approx({"log_loss": UNCHANGED, "coverage_90": 0.5})
    np.testing.assert_allclose(got.reliability_after, [(0.5, 0.4, math.nan), (0.9, 0.8, math.nan)])


GOOD = np.ones((2, 2, len(GRID)))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: temperature_of(np.ones(len(GRID))), InputError, "shape"),
        (lambda: temperature_of(np.ones((2, 5))), InputError, "shape"),
        (
            lambda: code_length(np.full((2, len(GRID)), math.inf), [1, 1]),
            InputError,
            "block 0 at temperature 0.05 is inf",
        ),
        (lambda: code_length(GOOD[0], [1]), InputError, "2 whole numbers"),
        (lambda: code_length(GOOD[0], [1, 0]), InputError, "2 whole numbers"),
        (lambda: code_length(GOOD[0], [1, 1.5]), InputError, "2 whole numbers"),
        (lambda: code_difference(GOOD, GOOD[:1], [1, 1], rng=numpy_stream(0)), InputError, "one shape"),
        (lambda: code_difference(GOOD, GOOD, [1, 1], level=2.0, rng=numpy_stream(0)), ConfigError, "level"),
        (lambda: calibration([], size=4), InputError, "at least one unit"),
        (lambda: calibration([[]], size=4), InputError, "at least one size"),
    ],
)
def test_bad_arguments(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_orders_of_one_table_are_averaged_before_tables_are_compared() -> None:
    rng = np.random.default_rng(0)
    on, other = (rng.uniform(1, 4, (5, 3, 2, len(GRID))) for _ in range(2))
    found = code_difference(on, other, [4, 4], rng=numpy_stream(0))
    each = [
        np.mean([code_length(b, [4, 4]).bits - code_length(a, [4, 4]).bits for a, b in zip(*unit, strict=True)])
        for unit in zip(on, other, strict=True)
    ]
    assert found.value == pytest.approx(np.mean(each)) and found.n_units == 5
