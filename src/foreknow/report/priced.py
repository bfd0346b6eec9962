"""The page of a price: one HTML file that needs nothing else, made from the record of a price.

The record is what `Price.to_dict()` of `foreknow.pricing.records` gives; read back from its JSON it gives the same
page, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foreknow.common.errors import InputError
from foreknow.common.files import write_text
from foreknow.common.wording import figure, interval, known, printable, three_digits
from foreknow.report import price_words as words
from foreknow.report.html import page_environment
from foreknow.report.price_words import QUANTITIES
from foreknow.viz import priced as pictures
from foreknow.viz.priced import measure_name, role_name
from foreknow.viz.style import to_svg

MAX_PICTURED = 8
"""Measures beyond these are in the tables only."""

FIELDS = (
    "study", "title", "task", "measure", "unit", "unit_of_data", "sources", "sizes", "seeds", "n_planned", "arms",
    "comparisons", "losses", "n_labels", "seconds", "command", "environment", "date", "notes", "line",
)  # fmt: skip
"""What a record must have."""

NOTHING = "–"


@dataclass(frozen=True)
class Cell:
    """A cell of a table: the number, and what stands below it in small."""

    text: str
    small: tuple[str, ...] = ()


def write_price_page(record: Mapping[str, Any], path: str | Path) -> Path:
    """Write the page of a price as one HTML file, in one step.

    Args:
        record: `Price.to_dict()`, as it is or read from JSON.
        path: of the file.

    Raises:
        InputError: the record is not that of a price, or the file cannot be written.
    """
    write_text(path, price_page(record))
    return Path(path)


def price_page(record: Mapping[str, Any]) -> str:
    """The whole page as text. Everything in the record is escaped; nothing is fetched from anywhere.

    Raises:
        InputError: the record is not that of a price.
    """
    from markupsafe import Markup

    price = checked(record)
    environment = page_environment()
    environment.filters.update(
        seconds=_seconds, measure=measure_name, role=role_name, capitalize_first=words.capitalised
    )
    return environment.get_template("price.html").render(
        price=price, words=words, verdict=words.verdict(price["comparisons"][0]) if price["comparisons"] else "alone",
        quantities=QUANTITIES, level=_level(price), measures=[_measure_table(price, key) for key in measures(price)],
        comparisons=[comparison_row(price, row) for row in price["comparisons"]],
        details=list(_details(price["comparisons"])), times=_times(price), facts=_facts(price),
        placebos=[text for row in price["comparisons"] if (text := words.placebo(row))],
        calibrations=list(_calibrations(price)), bins=list(_bins(price)),
        losses=[_loss(price, loss) for loss in price["losses"]], sources=_sources(price),
        by_source=list(_by_source(price)),
        environment=list(flat(price["environment"])), settings=[(arm["name"], list(flat(arm["settings"])))
                                                                for arm in price["arms"] if arm["settings"]],
        rungs=_rungs(price), source_facts=[pair for source in price["sources"] for pair in flat(source)],
        curves={name: Markup(svg) for name, svg in _curves(price)},
        pictures={name: Markup(svg) for name, svg in _pictures(price)},
    )  # fmt: skip


def checked(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record as JSON types whose texts can be shown: no control character, no half of a character.

    Raises:
        InputError: a field is missing.
    """
    missing = [name for name in FIELDS if name not in record]
    if missing:
        raise InputError(
            f"this is not the record of a price: it has no {', '.join(missing[:5])}.",
            hint="Give what Price.to_dict() returned, or its JSON as json.load reads it.",
        )
    cleaned = _clean(record)
    assert isinstance(cleaned, dict)
    return cleaned


def measures(price: Mapping[str, Any]) -> list[str]:
    """Every measure that some arm has a value of, the main one first."""
    found = dict.fromkeys(
        key
        for arm in price["arms"]
        for key, curve in arm["curves"].items()
        if any(known(value) for value in curve["mean"])
    )
    return sorted(found, key=lambda key: key != price["measure"])


def comparison_row(price: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """One comparison as the table and the sentences show it."""
    cells = {key: _estimate(row[key], suffix="x" if key.endswith("_ratio") else "") for key, _ in QUANTITIES}
    difference = cells["difference"]
    cells["difference"] = Cell(difference.text, tuple(filter(None, [*difference.small, words.shown(row)])))
    return {**row, "cells": cells, "sentences": words.sentences(price, row)}


def flat(mapping: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, str]]:
    """The leaves of nested JSON as names and texts; an estimate is one leaf, an empty value a dash."""
    for key, value in mapping.items():
        name = f"{before}{key.replace('_', ' ')}"
        if isinstance(value, Mapping) and {"value", "low", "high", "sign"} <= set(value):
            yield name, words.plain_number({"extrapolated": False, **value})
        elif isinstance(value, Mapping):
            yield from flat(value, f"{name}: ")
        else:
            yield name, _leaf(value)


# Tables ------------------------------------------------------------------------------------------------------------


def _measure_table(price: Mapping[str, Any], measure: str) -> dict[str, Any]:
    rows = []
    for arm in price["arms"]:
        curve = arm["curves"].get(measure)
        ends = zip(curve["mean"], curve["low"], curve["high"], strict=True) if curve else ()
        rows.append((arm, [_mean(*numbers) for numbers in ends] or [Cell(NOTHING)] * len(price["sizes"])))
    return {"key": measure, "name": measure_name(measure), "rows": rows}


def _estimate(estimate: Mapping[str, Any], *, suffix: str) -> Cell:
    """The number over its interval and how it was found."""
    value = words.plain_number({**estimate, "low": None}, suffix=suffix, signed=not suffix)
    span = interval(estimate["low"], estimate["high"]).strip() if known(estimate["value"]) else ""
    return Cell(value, tuple(filter(None, [span, words.rung_of(estimate)])))


def _mean(mean: float | None, low: float | None, high: float | None) -> Cell:
    if mean is None:
        return Cell(NOTHING)
    ends = () if low is None or high is None else (f"{three_digits(low)} to {three_digits(high)}",)
    return Cell(three_digits(mean), ends)


def _times(price: Mapping[str, Any]) -> list[tuple[str, list[Cell]]]:
    return [
        (arm["name"], [Cell(_seconds(s), _memory(m)) for s, m in zip(arm["seconds"], arm["peak_mb"], strict=True)])
        for arm in price["arms"]
    ]


def _details(comparisons: Sequence[Mapping[str, Any]]) -> Iterable[tuple[str, list[tuple[str, ...]]]]:
    """Everything that is known of every estimate, one row a quantity."""
    for row in comparisons:
        found: list[tuple[str, ...]] = []
        for key, name in QUANTITIES:
            e = row[key]
            found.append((
                name, words.plain_number(e), f"{100 * e['level']:.3g}%", str(e["n_units"]) if e["n_units"] else NOTHING,
                words.rung_of(e) or NOTHING, f"±{figure(e['margin'])}" if known(e["margin"]) else NOTHING,
                {None: NOTHING, True: "shown", False: "not shown"}[e["equivalent"]], e["note"] or NOTHING,
            ))  # fmt: skip
        yield row["arm"], found


def _facts(price: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was asked, line by line."""
    sizes, unit = price["sizes"], price["unit_of_data"]
    seeds = ", ".join(map(str, price["seeds"])) or "none"
    facts = [
        ("system", price["study"]),
        ("task", "" if price["task"] == "none" else price["task"]),
        ("main loss", _main_loss(price)),
        ("data", "; ".join(_source_line(price, source) for source in price["sources"][:3])),
        ("sizes", f"{', '.join(map(str, sizes))} {unit}"),
        ("blocks of seeds", f"{words.seeds_counted(price)} (seeds {seeds})"),
        ("labels coded", f"{price['n_labels']} in each block" if price["n_labels"] else ""),
    ]
    if len(price["sources"]) > 3:
        facts[3] = ("data", f"{len(price['sources'])} sources, listed below")
    return [(name, value) for name, value in facts if value]


def _main_loss(price: Mapping[str, Any]) -> str:
    unit = f", in {price['unit']}" if price["unit"] else ""
    return f"{measure_name(price['measure'])}{unit}; lower is better"


def _source_line(price: Mapping[str, Any], source: Mapping[str, Any]) -> str:
    n = source.get("n_rows")
    return f"{source['name']}" + (f", {n} {price['unit_of_data']}" if n is not None else "")


def _calibrations(price: Mapping[str, Any]) -> Iterable[tuple[str, ...]]:
    for arm in price["arms"]:
        found = arm["calibration"]
        for key in dict.fromkeys([*found["before"], *found["after"]]) if found else ():
            before, after = (_number(found[when].get(key)) for when in ("before", "after"))
            yield arm["name"], str(found["size"]), _number(found["temperature"]), measure_name(key), before, after


def _bins(price: Mapping[str, Any]) -> Iterable[tuple[str, str, list[str]]]:
    for arm in pictures.calibrated(price):
        for when in ("before", "after"):
            for row in arm["calibration"][f"reliability_{when}"]:
                yield arm["name"], when, [_number(value) for value in [*row, None][:3]]


def _loss(price: Mapping[str, Any], loss: Mapping[str, Any]) -> dict[str, str]:
    return {
        "arm": loss["arm"],
        "source": loss["source"],
        "size": f"{loss['size']}",
        "measure": measure_name(loss["measure"]),
        "difference": words.plain_number(loss["difference"], signed=True),
    }


def _sources(price: Mapping[str, Any]) -> dict[str, Any]:
    """Several sources as one table: a row a source, a column a fact that one of them has."""
    rows = [
        dict(flat({key: value for key, value in source.items() if key not in ("name", "hash")}))
        for source in price["sources"]
    ]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lost = [sum(loss["source"] == source["name"] for loss in price["losses"]) for source in price["sources"]]
    return {
        "columns": [name.removeprefix("n ") for name in columns],
        "rows": [
            (source["name"], [row.get(name, NOTHING) for name in columns], n, source.get("hash") or NOTHING)
            for source, row, n in zip(price["sources"], rows, lost, strict=True)
        ],
    }


def _by_source(price: Mapping[str, Any]) -> Iterable[tuple[str, list[str]]]:
    """The main loss of every arm at the largest size, one row a source: then the sources are the units."""
    names = [source["name"] for source in price["sources"]]
    curves = [arm["curves"].get(price["measure"], {"units": ()})["units"] for arm in price["arms"]]
    if len(names) > 1 and all(len(units) == len(names) for units in curves):
        for index, name in enumerate(names):
            yield name, [NOTHING if units[index][-1] is None else three_digits(units[index][-1]) for units in curves]


def _rungs(price: Mapping[str, Any]) -> list[tuple[str, str]]:
    used = {row[key]["rung"] for row in price["comparisons"] for key in ("code_bits", "matched_bits")}
    return [(rung, text) for rung, text in words.RUNG_WORDS.items() if rung in used]


# Pictures ----------------------------------------------------------------------------------------------------------


def _curves(price: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for index, measure in enumerate(measures(price)[:MAX_PICTURED]):
        yield measure, to_svg(
            pictures.learning_curves(price, measure), name=f"curve{index}",
            label=f"{measure_name(measure)} of every arm against the size of the training data; the numbers are in the "
            "table of this measure.",
        )  # fmt: skip


def _pictures(price: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    drawings = {
        "forest": (pictures.price_forest, "What the system is worth against each other arm, with intervals; the "
                    "numbers are in the table of comparisons.", any(known(row[key]["value"]) for row in
                    price["comparisons"] for key, _ in QUANTITIES[:4])),
        "cost": (pictures.cost, "The main loss of every arm against the seconds it took; the numbers are in the tables "
                  "of the main loss and of time.", _has_cost(price)),
        "reliability": (pictures.reliability, "How often statements of a given confidence were right, before and after "
                         "recalibration; the numbers are in the table of bins.", bool(pictures.calibrated(price))),
    }  # fmt: skip
    for name, (draw, label, there) in drawings.items():
        if there:
            yield name, to_svg(draw(price), name=name, label=label)


def _has_cost(price: Mapping[str, Any]) -> bool:
    pairs = [
        (seconds, loss)
        for arm in price["arms"]
        if price["measure"] in arm["curves"]
        for seconds, loss in zip(arm["seconds"], arm["curves"][price["measure"]]["mean"], strict=True)
    ]
    return any(known(seconds) and seconds > 0 and known(loss) for seconds, loss in pairs)


# Words -------------------------------------------------------------------------------------------------------------


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {printable(str(key)): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value


def _leaf(value: Any) -> str:
    if value is None or value == "" or value == []:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, str | int):
        return str(value)
    if all(isinstance(item, str | int | float) for item in value):
        return ", ".join(map(_leaf, value))
    return json.dumps(value, ensure_ascii=False)


def _level(price: Mapping[str, Any]) -> str:
    """How sure the intervals are: "95%" where all agree."""
    levels = {row[key]["level"] for row in price["comparisons"] for key, _ in QUANTITIES}
    return f"{100 * levels.pop():.3g}%" if len(levels) == 1 else "95%" if not levels else "stated"


def _number(value: float | None) -> str:
    return NOTHING if value is None else figure(value)


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return NOTHING
    if seconds < 90:
        return f"{figure(seconds)} s"
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


def _memory(mebibytes: float | None) -> tuple[str, ...]:
    return () if mebibytes is None else (f"{figure(mebibytes)} MiB",)
