"""`foreknow prove`: a paper's central claim in small, measured here and now."""

from __future__ import annotations

import json as json_format
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foreknow.cli.common import (
    Interrupted,
    Json,
    Preset,
    ProgressBar,
    Slug,
    duration,
    emit,
    figure,
    output_folder,
    say,
    show_table,
)

if TYPE_CHECKING:
    from foreknow.core.evidence import Evidence


def prove(
    slug: Slug,
    preset: Preset = "small",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Number of seeds.")] = 3,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for SLUG.json.")] = Path("evidence"),
    json: Json = False,
) -> None:
    """Run a paper's small proof: print each claim with what was measured, whether it held, and keep the numbers."""
    from foreknow.common.errors import CapabilityError
    from foreknow.common.validate import check_option
    from foreknow.core.registry import lookup
    from foreknow.core.system import PRESETS

    check_option("foreknow prove", "--preset", preset, PRESETS)
    system = lookup(slug).system
    if system is None:
        raise CapabilityError(f"{slug!r} has priors but no system, so there is nothing to prove.")
    output_folder(out)
    try:
        with ProgressBar(f"proving {slug}") as progress:
            evidence = system.prove(preset=preset, seeds=seeds, progress=progress)
    except KeyboardInterrupt:
        raise Interrupted("the proof is not complete, so nothing was written.") from None
    path, note = _keep(evidence, preset, out)
    record = evidence.to_dict()
    if emit({**record, "written_to": path}, json):
        if path is None:
            say(note)
    else:
        show_claims(record["claims"])
        for columns, rows in arm_tables(record["arms"]):
            show_table("Arms", columns, rows)
        for line in record["notes"]:
            typer.echo(f"Note: {line}")
        typer.echo(f"Verdict: {evidence.verdict}, in {duration(evidence.seconds)}\n{note}")


def show_claims(claims: Iterable[Mapping[str, Any]]) -> None:
    """Print claims as a table: what was expected, what was measured, and whether it held; then why those failed."""
    from foreknow.core.evidence import verdict_in_words

    rows, failed = [], dict[str, list[str]]()  # explanation -> claims
    for claim in claims:
        if claim["verdict"] != "held" and claim.get("note"):
            failed.setdefault(claim["note"], []).append(claim["name"])
        interval = claim["interval"]
        measured = " ".join(filter(None, [figure(claim["measured"]), claim["unit"]]))
        span = f" [{figure(interval[0])}, {figure(interval[1])}]" if interval else ""
        rows.append((claim["name"], claim["expected"], measured + span, verdict_in_words(claim)))
    show_table("Claims", ("claim", "expected", "measured [95%]", "verdict"), rows)
    for why, names in failed.items():
        typer.echo(f"Failed: {'; '.join(names)}. {why}")


def arm_tables(arms: Iterable[Mapping[str, Any]]) -> list[tuple[list[str], list[list[Any]]]]:
    """The cells as tables, one per set of keys: cells that differ in the seed only are averaged.

    Returns:
        Columns and rows of each table. Lists of more than three numbers are left to the JSON.
    """
    tables: dict[tuple[str, ...], dict[str, list[Mapping[str, Any]]]] = {}
    for cell in arms:
        columns = tuple(key for key, value in cell.items() if key != "seed" and not _is_long(value))
        kind = repr([cell[key] for key in columns if "seed" not in cell or not isinstance(cell[key], float)])
        tables.setdefault(columns, {}).setdefault(kind, []).append(cell)
    return [
        (list(columns), [[_mean([cell[key] for cell in cells]) for key in columns] for cells in groups.values()])
        for columns, groups in tables.items()
    ]


def _is_long(value: Any) -> bool:
    return isinstance(value, list | tuple | dict) and len(value) > 3


def _mean(values: list[Any]) -> Any:
    averaged = len(values) > 1 and all(isinstance(value, float) for value in values)
    return sum(values) / len(values) if averaged else values[0]


def _keep(evidence: Evidence, preset: str, folder: Path) -> tuple[Path | None, str]:
    """Write the evidence, unless a larger proof is stored there: a rehearsal must not replace it."""
    from foreknow.core.system import PRESETS

    path = folder / f"{evidence.slug}.json"
    try:
        stored = json_format.loads(path.read_text(encoding="utf-8"))["settings"]["preset"]
    except (OSError, ValueError, KeyError, TypeError):
        stored = None
    if stored in PRESETS and PRESETS.index(stored) > PRESETS.index(preset):
        return None, f"Not written: {path} holds a {stored!r} run, which this {preset!r} run does not replace."
    evidence.write(folder)
    return path, f"Written to {path}"
