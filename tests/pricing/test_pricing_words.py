"""The price in one sentence."""

import math

import pytest
from price_records import make_comparison, make_estimate, make_price

from foreknow.pricing.records import Estimate

UNKNOWN = Estimate(math.nan)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "the prior is worth 6.2x [4.1, 9.04] the data, 312 [264, 360] bits, -0.12 [-0.15, -0.093] nats, at 1.31x "
         "[1.23, 1.39] the time"),
        ({"sample_ratio": make_estimate(8.0, sign=">="), "code_bits": UNKNOWN, "time_ratio": UNKNOWN},
         "the prior is worth >= 8x the data, -0.12 [-0.15, -0.093] nats"),
        ({"sample_ratio": UNKNOWN, "code_bits": UNKNOWN, "difference": UNKNOWN},
         "what the prior is worth is not known, at 1.31x [1.23, 1.39] the time"),
    ],
)  # fmt: skip
def test_the_line_says_what_is_known(changes, line):
    assert make_price(comparisons=(make_comparison(**changes),)).line == line


def test_the_line_without_off_or_unit():
    price = make_price(comparisons=(make_comparison("ridge", "plain", time_ratio=UNKNOWN),), unit="", measure="rmse")
    assert price.line.endswith("-0.12 [-0.15, -0.093] of RMSE (against ridge)")
    assert make_price(comparisons=()).line == "no arm to compare with, so no price."
