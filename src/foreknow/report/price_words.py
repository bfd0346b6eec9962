"""A price in plain sentences, for the page and the terminal.

Every function takes parts of the record that `Price.to_dict()` of `foreknow.pricing.records` gives: an estimate is a
mapping, and a number that is not known is None.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foreknow.common.wording import figure, interval, known, number
from foreknow.viz.priced import measure_name

Record = Mapping[str, Any]

QUANTITIES = (
    ("difference", "difference"),
    ("sample_ratio", "sample ratio"),
    ("code_bits", "code bits"),
    ("matched_bits", "matched bits"),
    ("time_ratio", "time ratio"),
    ("memory_ratio", "memory ratio"),
)
"""Fields of a comparison and what they are called."""

ROLE_WORDS = {
    "on": "the system with its prior",
    "off": "the same without the prior",
    "wrong": "a prior that should not help",
    "plain": "a simple method of the field",
    "reference": "shown beside the others, no part of the price",
}
RUNG_WORDS = {
    "prequential": "summed over the labels as they were predicted one block after the other",
    "counting": "the share of runs that were as good, counted",
    "parametric": "the tail of a law fitted to the losses of the runs",
    "saddlepoint": "worked out from the spectrum, without sampling",
    "splitting": "sampled level by level into the tail",
}


def verdict(comparison: Record) -> str:
    """What was shown: on is "better" or "worse", there is "none" of an effect, or it is "unclear" or "unknown"."""
    if not known(comparison["difference"]["value"]):
        return "unknown"
    if comparison["difference"]["equivalent"]:
        return "none"
    return {"held": "better", "failed": "worse", "open": "unclear"}[comparison["verdict"]]


def shown(comparison: Record) -> str:
    """What was shown, in three words at most or with the margin; nothing where the difference is not known."""
    if verdict(comparison) == "none":
        return f"no effect within ±{_margin(comparison['difference'])}"
    return {"better": "on is better", "worse": "on is worse", "unclear": "not settled"}.get(verdict(comparison), "")


def sentences(record: Record, comparison: Record) -> list[str]:
    """What "on" is worth against one other arm, in a few plain sentences; a loss is said as a loss."""
    told = [
        _difference(record, comparison),
        _sample_ratio(comparison),
        _code_bits(record, comparison),
        _matched_bits(comparison),
        _cost(comparison),
    ]
    return [sentence for sentence in told if sentence]


def headline(record: Record) -> str:
    """Whether the prior helps, in one sentence; empty where nothing was compared."""
    return _difference(record, record["comparisons"][0]) if record["comparisons"] else ""


def where_it_loses(record: Record) -> str:
    """How often "on" loses, in one sentence."""
    n = len(record["losses"])
    if not record["comparisons"]:
        return "There was nothing to lose against."
    if not any(known(row["difference"]["value"]) for row in record["comparisons"]):
        return "Not known, as no difference is."
    if not n:
        return "Nowhere that these intervals show."
    return f"In {n} place{'s' if n > 1 else ''} the interval of the difference lies wholly on the wrong side."


def placebo(comparison: Record) -> str:
    """What the result against a placebo or a simple method means."""
    found, arm = verdict(comparison), called(comparison)
    named = capitalised(arm)
    if comparison["role"] == "wrong":
        return {
            "better": f"{named} does worse than the prior: what it says matters, not only that there is one.",
            "worse": f"{named} does better than the prior: if anything helps here, it is not what this prior says.",
            "none": f"{named} does as well as the prior: if anything helps here, it is not what this prior says.",
        }.get(found, f"Whether {arm} does worse than the prior is not settled by these runs.")
    if comparison["role"] == "plain":
        return {
            "better": f"{named}, a simple method, does worse than the system.",
            "worse": f"{named}, a simple method, does better than the system: prefer it here.",
            "none": f"{named}, a simple method, does as well as the system.",
        }.get(found, f"Whether {arm}, a simple method, does worse than the system is not settled by these runs.")
    return ""


def called(comparison: Record) -> str:
    """The other arm as a sentence calls it."""
    if comparison["role"] == "wrong":
        return "the placebo" if comparison["arm"] == "wrong" else f"the placebo {comparison['arm']}"
    return str(comparison["arm"])


def unknown(record: Record) -> list[str]:
    """Why numbers of the comparisons are not known, each reason once."""
    reasons: dict[str, list[str]] = {}
    for key, name in QUANTITIES:
        for row in record["comparisons"]:
            if not known(row[key]["value"]) and row[key]["note"]:
                reasons.setdefault(f"{name}: {row[key]['note']}", []).append(row["arm"])
    everywhere = len(record["comparisons"])
    return [f"Not known: {reason}{_only(arms, everywhere)}." for reason, arms in reasons.items()]


def seeds_counted(record: Record) -> str:
    """How many blocks of seeds were counted, and why not all."""
    counted, planned = len(record["seeds"]), record["n_planned"]
    failed = sum(arm["n_failed"] for arm in record["arms"])
    text = f"{counted} of {planned} planned blocks were counted"
    if counted == planned:
        return text
    if failed:
        return f"{text}; {failed} cell{'s' if failed > 1 else ''} failed, and a block with a failed cell is left out"
    return f"{text}; the others were not finished"


def capitalised(text: str) -> str:
    """The first letter large, the others as they are."""
    return text[:1].upper() + text[1:]


def rung_of(estimate: Record) -> str:
    """How a number of bits was found, with "extrapolated" where it was; nothing for a number that is not known."""
    if not known(estimate["value"]):
        return ""
    return ", ".join(filter(None, [estimate["rung"], "extrapolated" if estimate["extrapolated"] else ""]))


def plain_number(estimate: Record, *, suffix: str = "", signed: bool = False) -> str:
    """The number and its interval; "extrapolated" is left to `rung_of`."""
    return number({**estimate, "extrapolated": False}, suffix=suffix, signed=signed)


# Parts -------------------------------------------------------------------------------------------------------------


def _difference(record: Record, comparison: Record) -> str:
    difference, arm = comparison["difference"], called(comparison)
    loss = measure_name(record["measure"])
    unit = f" {record['unit']}" if record["unit"] else ""
    at = f"at {record['sizes'][-1]} {record['unit_of_data']}"
    prior = comparison["role"] == "off"
    found = verdict(comparison)
    if found == "unknown":
        return f"The difference in {loss} to {arm} is not known{_because(difference)}."
    zero = known(difference["low"]) and known(difference["high"]) and difference["low"] <= 0 <= difference["high"]
    said = f"{figure(abs(difference['value']))}{unit}{_ends(difference, difference['value'] < 0)}"
    tested = " (a one-sided test at 5% shows it; the interval contains zero)" if zero else ""
    if found == "better":
        if prior:
            return f"The prior lowers the {loss} by {said} {at}{tested}."
        return f"The system's {loss} is {said} lower than that of {arm} {at}{tested}."
    if found == "worse":
        if prior:
            return f"The prior costs {said} of {loss} {at}: without it the loss is lower{tested}."
        return f"{capitalised(arm)} wins: its {loss} is {said} lower than the system's {at}{tested}."
    full = f"{number(difference, signed=True)}{unit}"
    if found == "none":
        same = "is the same with and without the prior" if prior else f"of the system and of {arm} is the same"
        return f"A{at[1:]} the {loss} {same}: no effect within ±{_margin(difference)}{unit} (difference {full})."
    who = "the prior helps" if prior else "the system is better"
    why = ", and the interval contains zero" if zero else ""
    return f"A{at[1:]} the difference in {loss} to {arm} is {full}{why}: these runs do not settle whether {who}."


def _margin(difference: Record) -> str:
    return figure(difference["margin"]) if known(difference["margin"]) else "the margin"


def _sample_ratio(comparison: Record) -> str:
    ratio = comparison["sample_ratio"]
    other = _other(comparison)
    if not known(ratio["value"]):
        return f"How much more data {other} needs is not known{_because(ratio)}."
    amount = f"{_bound(ratio)}{figure(ratio['value'])} times the data{interval(ratio['low'], ratio['high'])}"
    only = "only " if known(ratio["high"]) and ratio["high"] < 1 else ""
    return f"{capitalised(other)} needs {only}{amount} to reach the same loss{_because(ratio)}."


def _code_bits(record: Record, comparison: Record) -> str:
    bits = comparison["code_bits"]
    if not known(bits["value"]):
        return ""
    word = "fewer" if bits["value"] >= 0 else "more"
    other = "without the prior" if comparison["role"] == "off" else f"with {called(comparison)}"
    return f"To write down the {record['n_labels']} labels it takes {_size(bits)} bits {word} than {other}{_how(bits)}."


def _matched_bits(comparison: Record) -> str:
    bits = comparison["matched_bits"]
    if not known(bits["value"]):
        return ""
    lucky, typical = (_other(comparison), "on") if bits["value"] >= 0 else ("on", _other(comparison))
    return f"To do as well as a typical run of {typical}, {lucky} needs {_size(bits)} bits of luck{_how(bits)}."


def _cost(comparison: Record) -> str:
    parts = [
        f"{_bound(ratio)}{figure(ratio['value'])} times the {what}{interval(ratio['low'], ratio['high'])}"
        for ratio, what in ((comparison["time_ratio"], "time"), (comparison["memory_ratio"], "memory"))
        if known(ratio["value"])
    ]
    return f"The system takes {' and '.join(parts)}." if parts else ""


def _other(comparison: Record) -> str:
    return "the system without its prior" if comparison["role"] == "off" else called(comparison)


def _bound(estimate: Record) -> str:
    return {"=": "", ">=": "at least ", "<=": "at most "}[estimate["sign"]]


def _size(estimate: Record) -> str:
    """The absolute value with its interval; a bound on a negative number bounds its size the other way round."""
    if estimate["value"] >= 0:
        return f"{_bound(estimate)}{figure(estimate['value'])}{_ends(estimate, False)}"
    turned = {"sign": {"=": "=", ">=": "<=", "<=": ">="}[estimate["sign"]]}
    return f"{_bound(turned)}{figure(-estimate['value'])}{_ends(estimate, True)}"


def _ends(estimate: Record, turned: bool) -> str:
    if not (known(estimate["low"]) and known(estimate["high"])):
        return ""
    low, high = estimate["low"], estimate["high"]
    return interval(-high, -low) if turned else interval(low, high)


def _how(estimate: Record) -> str:
    low, high = estimate["low"], estimate["high"]
    unsure = "the interval contains zero" if known(low) and known(high) and low <= 0 <= high else ""
    found = "; ".join(filter(None, [rung_of(estimate), unsure, estimate["note"]]))
    return f" ({found})" if found else ""


def _only(arms: list[str], everywhere: int) -> str:
    return "" if len(arms) == everywhere else f" (against {', '.join(arms)})"


def _because(estimate: Record) -> str:
    return f" ({estimate['note']})" if estimate["note"] else ""
