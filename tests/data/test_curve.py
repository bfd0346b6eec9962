"""The record of a learning curve."""

from __future__ import annotations

import numpy as np
import pytest

from foreknow.common.errors import InputError
from foreknow.data.curves import Curve, as_curves

NAN = float("nan")


def test_missing_values_leave_gaps() -> None:
    curve = Curve([NAN, 0.3, NAN, 0.5], name="a")
    np.testing.assert_array_equal(curve.epochs, [2, 4])
    np.testing.assert_array_equal(curve.values, [0.3, 0.5])
    assert (len(curve), curve.n_missing, curve.last_epoch) == (2, 2, 4.0)
    assert Curve([]).last_epoch == 0


def test_part_of_a_curve_ends_with_the_epoch() -> None:
    part = Curve([0.1, 0.2, 0.3], [1, 5, 9], name="a", metric="acc").until(5)
    np.testing.assert_array_equal(part.values, [0.1, 0.2])
    assert (part.name, part.metric) == ("a", "acc")


@pytest.mark.parametrize(
    ("values", "epochs", "said"),
    [
        ([0.1, 0.2], [1], "2 values and 1 epochs"),
        ([0.1, float("inf")], None, "epoch 2 is infinite"),
        ([0.1, 0.2], [0, 1], "from 1 on"),
        ([0.1, 0.2], [1, NAN], "from 1 on"),
        ([0.1, 0.2], [3, 3], "3 follows 3"),
        ([0.1, 0.2], [4, 2], "2 follows 4"),
        ([[0.1, 0.2]], None, "one axis"),
        (["high"], None, "must be numbers"),
    ],
)
def test_what_is_no_curve_is_refused(values: object, epochs: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Curve(values, epochs)  # type: ignore[arg-type]


def test_curves_of_many_kinds() -> None:
    one = Curve([0.1, 0.2])
    assert as_curves(one) == [one]
    assert [len(curve) for curve in as_curves([0.1, 0.2, 0.3])] == [3]
    assert [len(curve) for curve in as_curves(np.array([[0.1, NAN], [0.2, 0.3]]))] == [1, 2]
    assert [len(curve) for curve in as_curves([one, [0.5], np.array([0.1, 0.2, 0.3])])] == [2, 1, 3]
    assert as_curves([]) == []
    for wrong in ("runs.csv", 0.5, {"a": [0.1]}):
        with pytest.raises(InputError, match="read_curves"):
            as_curves(wrong)
