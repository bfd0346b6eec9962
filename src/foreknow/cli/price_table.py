"""A price as tables and sentences in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from foreknow.cli.common import show_table


def show_price(record: Mapping[str, Any]) -> None:
    """Print a price: arms by size, what on is worth against each, the price in a line, losses, how to get it again.

    Args:
        record: `Price.to_dict()`, as it is or read from JSON.

    Raises:
        InputError: the record is not that of a price.
    """
    from foreknow.common.wording import three_digits
    from foreknow.report import price_words as words
    from foreknow.report.priced import checked
    from foreknow.viz.priced import measure_name, role_name

    price = checked(record)
    loss, unit = measure_name(price["measure"]), f", {price['unit']}" if price["unit"] else ""
    means = [arm["curves"].get(price["measure"], {}).get("mean", [None] * len(price["sizes"])) for arm in price["arms"]]
    show_table(
        f"{price['title']}: {loss}{unit}, by {price['unit_of_data']} learnt from",
        ("arm", "role", *map(str, price["sizes"])),
        [
            (arm["name"], role_name(arm["role"]), *(None if value is None else three_digits(value) for value in mean))
            for arm, mean in zip(price["arms"], means, strict=True)
        ],
    )
    compared = price["comparisons"]
    if compared:
        show_table(
            f"On against each other arm, at {price['sizes'][-1]} {price['unit_of_data']}",
            ("against", f"difference{unit}", "sample ratio", "time", "memory"),
            [(row["arm"], _difference(row), *_ratios(row)) for row in compared],
        )
        show_table(
            "Bits saved",
            ("against", "code bits", "found by", "matched bits", "found by"),
            [(row["arm"], *_bits(row["code_bits"]), *_bits(row["matched_bits"])) for row in compared],
        )
    typer.echo(f"\n{words.capitalised(price['line'])}".rstrip(".") + ".")
    for text in filter(None, [words.headline(price), f"{words.capitalised(words.seeds_counted(price))}."]):
        typer.echo(text)
    for note in price["notes"]:
        typer.echo(f"Note: {note}")
    typer.echo(f"Where it loses: {words.where_it_loses(price)}")
    for lost in price["losses"]:
        on = f" on {lost['source']}" if lost["source"] else ""
        by = words.plain_number(lost["difference"], signed=True)
        typer.echo(f"  against {lost['arm']}{on} at {lost['size']}: {measure_name(lost['measure'])} {by}")
    if price["command"]:
        typer.echo(f"To get this again: {price['command']}")


def _difference(row: Mapping[str, Any]) -> str:
    from foreknow.report import price_words as words

    return "\n".join(filter(None, [words.plain_number(row["difference"], signed=True), words.shown(row)]))


def _ratios(row: Mapping[str, Any]) -> list[str]:
    """The sample ratio with its interval; time and memory without, to fit on a line."""
    from foreknow.report import price_words as words

    costs = [words.plain_number({**row[key], "low": None}, suffix="x") for key in ("time_ratio", "memory_ratio")]
    return [words.plain_number(row["sample_ratio"], suffix="x"), *costs]


def _bits(bits: Mapping[str, Any]) -> tuple[str, str | None]:
    from foreknow.report import price_words as words

    return words.plain_number(bits, signed=True), words.rung_of(bits) or None
