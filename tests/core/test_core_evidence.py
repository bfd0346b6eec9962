"""Claims for readers: a verdict that an end of its own interval contradicts is not settled."""

import pytest

from foreknow.core.evidence import Claim, verdict_in_words


@pytest.mark.parametrize(
    ("measured", "interval", "words"),
    [
        (1.0, None, "held"),
        (1.0, (0.6, 1.4), "held"),
        (1.0, (0.4, 1.6), "held, not settled"),
        (0.4, (0.1, 0.7), "failed, not settled"),
        (0.4, (0.3, 0.45), "failed"),
        (2.5, (1.9, 3.0), "failed, not settled"),
        (float("nan"), (0.6, 1.0), "failed, not settled"),
    ],
)
def test_a_verdict_says_whether_its_interval_settles_it(measured, interval, words) -> None:
    claim = Claim("c", measured, low=0.5, high=2.0, interval=interval, unit="nat")
    assert verdict_in_words(claim.to_dict()) == words
