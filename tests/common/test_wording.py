"""Numbers and names as people read them."""

import math

import pytest

from foreknow.common.wording import figure, interval, known, number, printable, three_digits

EXACT = {"value": 6.2, "low": 4.1, "high": 9.04, "sign": "=", "extrapolated": False}


@pytest.mark.parametrize(
    ("value", "short", "three"),
    [(0, "0", "0"), (0.0312, "0.031", "0.0312"), (0.3, "0.3", "0.300"), (1.0, "1", "1.00"), (12.34, "12.3", "12.3"),
     (99.99, "100", "100"), (1234.4, "1234", "1234"), (-0.5, "-0.5", "-0.500")],
)  # fmt: skip
def test_figures(value, short, three):
    assert figure(value) == short and three_digits(value) == three


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "6.2x [4.1, 9.04]"),
        ({"sign": ">="}, ">= 6.2x [4.1, 9.04]"),
        ({"low": None}, "6.2x"),
        ({"high": math.nan}, "6.2x"),
        ({"extrapolated": True, "low": None}, "6.2x (extrapolated)"),
        ({"value": None}, "unknown"),
        ({"value": math.nan}, "unknown"),
    ],
)
def test_estimates(changes, words):
    assert number({**EXACT, **changes}, suffix="x") == words


def test_signs_and_ends():
    assert number({**EXACT, "low": None}, signed=True) == "+6.2"
    assert number({**EXACT, "value": -6.2, "low": None}, signed=True) == "-6.2"
    assert interval(0.5, 2) == " [0.5, 2]" and interval(None, 2) == "" and interval(1.0, math.inf) == ""
    assert known(0.0) and not known(None) and not known(math.inf)


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("two\nlines\tand  blanks", "two lines and blanks"),
        ("\x1b[31mred\x00", "\ufffd[31mred\ufffd"),
        ("half \ud800 and \uffff", "half \ufffd and \ufffd"),
        ("a\u202eb\u2066c", "a\ufffdb\ufffdc"),
        ("日本 é می‌خواهم 👩‍🔬", "日本 é می‌خواهم 👩‍🔬"),
    ],
)
def test_what_cannot_be_shown_is_replaced(text, safe):
    assert printable(text) == safe
    assert printable(text).encode("utf-8")
