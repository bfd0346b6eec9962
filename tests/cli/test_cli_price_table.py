"""A price in the terminal: the numbers of the record, and nothing a terminal would obey."""

import json
import math

import pytest
from price_records import make_arm, make_comparison, make_estimate, make_price

from foreknow.cli.price_table import show_price
from foreknow.common.errors import InputError
from foreknow.pricing.records import Estimate, Loss


@pytest.fixture
def shown(capsys):
    """`shown(price)` -> what was printed, with runs of blanks as one."""

    def show(price):
        show_price(json.loads(json.dumps(price.to_dict())))
        captured = capsys.readouterr()
        assert captured.err == ""
        return [" ".join(line.split()) for line in captured.out.splitlines()]

    return show


def test_tables_then_the_line_then_losses_then_the_command(shown):
    lines = shown(make_price())
    text = "\n".join(lines)
    assert "arm role 40 80 160 320 640" in lines and "shuffled labels placebo 0.755 0.605 0.515 0.411 0.336" in lines
    assert "off -0.12 [-0.15, -0.093] 6.2x [4.1, 9.04] 1.31x 1.05x" in lines
    assert "shuffled labels -0.12 [-0.15, -0.093] >= 16x 1.31x 1.05x" in lines
    assert "no effect within ±0.01" in lines and "on is better" in lines
    assert "off +312 [264, 360] prequential +11.6 [10.3, 12.9] parametric, extrapolated" in lines
    assert "nearest neighbours +312 [264, 360] prequential unknown -" in lines
    order = [
        "Bits saved",
        "The prior is worth 6.2x",
        "8 of 10 planned",
        "Note: Stopped",
        "Where it loses: In 1 place",
        "against gradient boosting at 640: Brier score +0.013 [0.007, 0.019]",
        "To get this again: foreknow price",
    ]
    places = [text.index(part) for part in order]
    assert places == sorted(places)


def test_a_cost_is_called_a_cost(shown):
    row = make_comparison(difference=make_estimate(0.2, 0.1), verdict="failed")
    lines = shown(make_price(comparisons=(row,), losses=(), command=""))
    assert "The prior costs 0.2 nats [0.1, 0.3] of log-loss at 640 rows: without it the loss is lower." in lines
    assert "on is worse" in lines and "Where it loses: Nowhere that these intervals show." in lines
    assert not any("To get this again" in line for line in lines)


def test_one_arm_and_gaps(shown):
    lines = shown(make_price(arms=(make_arm("on", curves={}),), comparisons=(), losses=()))
    assert "on on - - - - -" in lines and "No arm to compare with, so no price." in lines
    unknown = Estimate(math.nan)
    numbers = ("difference", "sample_ratio", "code_bits", "matched_bits", "time_ratio", "memory_ratio")
    lines = shown(make_price(comparisons=(make_comparison(**dict.fromkeys(numbers, unknown), verdict="open"),)))
    assert "off unknown unknown unknown unknown" in lines and "off unknown - unknown -" in lines
    assert not {"nan", "None"} & set(" ".join(lines).split())


def test_names_cannot_steer_the_terminal(shown):
    evil = "\x1b[2J\u202e[red]x[/red]"
    price = make_price(
        title=evil, arms=(make_arm("on"), make_arm(evil, "plain")), comparisons=(make_comparison(evil, "plain"),),
        losses=(Loss(evil, 40, "log_loss", make_estimate(0.1), evil),), notes=(evil,),
    )  # fmt: skip
    text = "\n".join(shown(price))
    assert "\x1b" not in text and "\u202e" not in text and text.count("[red]x[/red]") >= 6


def test_what_is_no_price_is_refused():
    with pytest.raises(InputError, match="not the record of a price"):
        show_price({"arms": []})
