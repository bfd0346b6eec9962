"""Pages that follow from the code: one per card and one per package, and the tables of README.md.

`python docs/generate.py` writes docs/catalogue/ and docs/api/ (both git-ignored). `--readme` rewrites the parts of
README.md between `<!-- NAME:begin -->` and `<!-- NAME:end -->`. Numbers come from evidence/*.json and nowhere else.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import math
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from foreknow.common import wording
from foreknow.core.card import ROOMS
from foreknow.core.evidence import find_evidence, verdict_in_words
from foreknow.core.registry import Entry, catalogue, failures

DOCS = Path(__file__).resolve().parent
README = DOCS.parent / "README.md"
NOT_MEASURED = "not measured yet"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; bars and line breaks inside cells are made harmless."""
    lines = [list(head), ["---"] * len(head), *[[cell(value) for value in row] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(value: object) -> str:
    """One value as a reader wants it: four digits for numbers, a dash for nothing."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else "not a number"
    return " ".join(prose(str(value)).split()).replace("|", "\\|")


def prose(text: str) -> str:
    """Text from a card, safe in Markdown: no raw HTML, no accidental emphasis or links."""
    return re.sub(r"([\\`*_\[\]])", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;"))


def bullets(items: Iterable[str]) -> str:
    return "\n".join(f"- {prose(item)}" for item in items)


def claims(evidence: dict[str, Any]) -> list[list[object]]:
    """Rows of the claims table: sentence, bounds, number with its interval, verdict in words."""
    rows: list[list[object]] = []
    for claim in evidence["claims"]:
        interval = " to ".join(cell(float(end)) for end in claim["interval"]) if claim["interval"] else None
        number = cell(float(claim["measured"])) + (f" {claim['unit']}" if claim.get("unit") else "")
        rows.append([claim["name"], claim["expected"], number, interval, verdict_in_words(claim)])
    return rows


CLAIM_HEAD = ["Claim", "Expected", "Measured", "95% interval", "Verdict"]


def provenance(evidence: dict[str, Any]) -> str:
    """When, where and how the numbers were made."""
    where = evidence["environment"]
    return (
        f"Made by `{evidence['command']}` on {evidence['date']} in {evidence.get('seconds', 0):g} s: "
        f"{where.get('n_cores', '?')} cores of {prose(str(where.get('processor', 'an unnamed processor')))}, "
        f"foreknow {where.get('foreknow', '?')}, Python {where.get('python', '?')}, torch {where.get('torch', '?')}."
    )


def card_page(entry: Entry) -> str:
    """The page of one paper; its limits come first."""
    card, evidence = entry.card, find_evidence(entry.card.slug)
    parts = [
        f"# {prose(card.title)}",
        f"`{card.slug}` | {prose('; '.join(card.authors))} | {prose(card.venue)} {card.year} | "
        f"room `{card.room}`: {ROOMS[card.room]} | tier: {card.tier} | proof takes {card.cost}",
        "## Limits",
        bullets(card.limits) or "None are stated. That means that nobody has looked, not that there are none.",
        "## The prior",
        prose(card.prior),
        "## The control arm",
        prose(card.control),
        "## What goes in, what comes out",
        f"**In:** {prose(card.inputs)}\n\n**Out:** {prose(card.outputs)}",
    ]
    classes = [kind.__name__ for kind in [entry.system, *entry.estimators] if kind is not None]
    if classes or entry.priors:
        names = ", ".join(f"`{name}`" for name in [*classes, *(prior.__name__ for prior in entry.priors)])
        needs = f" It needs the extras {', '.join(card.extras)}." if card.extras else ""
        parts += ["## In Python", f"`foreknow.{card.room}` has {names}.{needs}"]
    parts.append("## Evidence")
    if evidence is None:
        parts.append(f"This system is {NOT_MEASURED}. `foreknow prove {card.slug}` measures it on your machine.")
    else:
        notes = list(evidence.get("notes", ()))
        notes += [f"{claim['name']}: {claim['note']}" for claim in evidence["claims"] if claim.get("note")]
        parts += [
            f"The claims of the paper, in small: **{evidence['verdict']}**.",
            table(CLAIM_HEAD, claims(evidence)),
            bullets(notes),
            provenance(evidence),
        ]
    parts += ["## Where this differs from the paper", bullets(card.deviations) or "Nowhere that we know of."]
    parts += ["## How to cite", f"```bibtex\n{card.bibtex.strip()}\n```"]
    return "\n\n".join(part for part in parts if part) + "\n"


def api_page(package: str) -> str:
    """Public names of `package` with signatures and docstrings as written."""
    module = importlib.import_module(package)
    parts = [f"# {package}", prose(inspect.getdoc(module) or "")]
    for name in sorted(getattr(module, "__all__", ())):
        thing = getattr(module, name)
        if not callable(thing):
            continue
        try:
            signature = str(inspect.signature(thing))
        except (TypeError, ValueError):
            signature = "(...)"
        parts += [f"## {name}", f"```text\n{name}{signature}\n\n{inspect.getdoc(thing) or ''}\n```"]
    return "\n\n".join(parts) + "\n"


def catalogue_table(link: str = "") -> str:
    """One row per paper; `link` is the pattern of its page."""
    rows = []
    for slug, entry in catalogue().items():
        evidence = find_evidence(slug)
        verdict = evidence["verdict"] if evidence else NOT_MEASURED
        card = entry.card
        rows.append([slug, card.title, card.room, card.prior, card.outputs, verdict])
    text = table(["System", "Paper", "Room", "The prior", "What comes out", "Claims"], rows)
    return re.sub(r"^\| ([a-z0-9][a-z0-9-]*) \|", rf"| [`\1`]({link}) |" if link else r"| `\1` |", text, flags=re.M)


def evidence_table() -> str:
    """The claims of every system that has evidence."""
    parts = []
    for slug in catalogue():
        evidence = find_evidence(slug)
        if evidence is not None:
            parts += [f"**`{slug}`: {evidence['verdict']}**", table(CLAIM_HEAD, claims(evidence)), provenance(evidence)]
    return "\n\n".join(parts) or "No system has been measured yet; `foreknow prove SLUG` measures one."


SHOWN = {"auc": "AUC", "log_loss": "Log-loss", "ece": "Calibration error", "r2": "R2", "nll": "Neg. log density",
         "coverage_90": "90% intervals hold"}  # fmt: skip


def benchmark_table() -> str:
    """The tabular estimators against their peers on the test lists, from `evidence/tabular-benchmark.json`."""
    path = DOCS.parent / "evidence" / "tabular-benchmark.json"
    if not path.is_file():
        return "Not measured yet; `python benchmarks/tabular.py` measures it."
    found = json.loads(path.read_text(encoding="utf-8"))
    parts = []
    for task in ("classification", "regression"):
        part = found.get(f"{task}, test list", {})
        if "models" not in part:
            continue
        models, differences = part["models"], part["differences"]["foreknow"]
        measures = [name for name in SHOWN if any(name in row for row in models.values())]
        goal = "auc" if task == "classification" else "r2"
        rows = []
        for name, row in sorted(models.items(), key=lambda item: -item[1][goal]):
            numbers = [f"{row[measure]:.3f}" if measure in row else "" for measure in measures]
            against = differences.get(name, {}).get(goal)
            gain = f"{against['mean']:+.3f} ({against['low']:+.3f} to {against['high']:+.3f})" if against else ""
            rows.append([name, *numbers, f"{row['seconds']:.2f}", gain])
        head = ["Model", *(SHOWN[measure] for measure in measures), "Seconds", f"`foreknow` minus it, {SHOWN[goal]}"]
        said = f"{task.capitalize()}: {len(part['tables'])} real tables, {part['splits']} splits in halves, at defaults"
        parts += [f"**{said}**", table(head, rows)]
    place = found["environment"]
    parts.append(
        f"Made by `{found['command']}` on {found['date']}, one thread of {place['processor']}; intervals are 95% over "
        "tables; seconds are processor seconds of one fit and its predictions. Every table and measure: "
        "`evidence/tabular-benchmark.md`."
    )
    return "\n\n".join(parts)


STUDIES = {
    "price-tabpfn-classes": "`tabpfn` (TabularClassifier)",
    "price-tabpfn-numbers": "`tabpfn` (TabularRegressor)",
    "price-pfn-classes": "`pfn`, classes",
    "price-pfn-numbers": "`pfn`, one column to predict a number from",
    "price-learned-proximal": "`learned-proximal`, blurred digits",
    "price-hawq": "`hawq`, trained networks in 2, 4 and 8 bits",
    "price-mgno": "`mgno`, Darcy flow",
    "price-neural-circuit": "`neural-circuit`, a swimmer",
    "price-colbert": "`colbert`, questions about documentation",
    "price-lc-pfn": "`lc-pfn`, runs of small networks",
    "price-distribution-transformer": "`distribution-transformer`, variances from a few numbers (arms of equal budget)",
    "price-martingale-np": "`martingale-np`, sea temperatures of a year from some of its months",
    "price-scale-mixture-nngp": "`scale-mixture-nngp`, progression of diabetes",
    "price-functional-prior": "`functional-prior`, wine",
    "price-bnn-bo": "`bnn-bo`, errors of a support vector machine by its settings",
    "price-deep-kernel-machine": "`deep-kernel-machine`, wine",
    "price-sequential-cl": "`sequential-cl`, digits in five tasks",
    "price-mm-gpvae": "`mm-gpvae`, spikes and images",
    "price-hierarchical-polynomials": "`hierarchical-polynomials`, a drawn target, Friedman's function, diabetes",
    "price-wide-deep-optimality": "`wide-deep-optimality`, iris and wine",
}
"""Files of `benchmarks/price.py` -> what was priced."""


def price_table() -> str:
    """What the priors are worth, from evidence/price-*.json."""
    parts, made = [], []
    for name, title in STUDIES.items():
        path = DOCS.parent / "evidence" / f"{name}.json"
        if not path.is_file():
            continue
        record = json.loads(path.read_text(encoding="utf-8"))
        of_tables, size = record["n_labels"] > 0, f"{record['sizes'][-1]} {record['unit_of_data']}"
        measure = record["unit"] or record["measure"]
        told = {"difference": "", "sample_ratio": "x", "code_bits": "", "time_ratio": "x"}
        head = [f"{measure} at {size}", "Worth in data", f"Bits on {record['n_labels']} labels", "Time"]
        if not of_tables:
            del told["code_bits"], head[2]
        rows = [
            [one["arm"], *(wording.number(one[name], suffix=suffix) for name, suffix in told.items())]
            for one in record["comparisons"]
        ]
        n = len(record["sources"])
        what = f"{n} real table{'s' * (n > 1)}, " if of_tables else f"{n} data sets, " if n > 1 else ""
        said = f"{title}: {what}{record['sizes'][0]} to {size}, {len(record['seeds'])} shuffles"
        parts += [f"**{said}**", table(["With the prior, against", *head], rows)]
        made.append(f"{record['date']} on {record['environment']['n_cores']} cores")
    if not parts:
        return "Not measured yet; `python benchmarks/price.py` measures it."
    parts.append(
        f"Made by `python benchmarks/price.py` ({', '.join(sorted(set(made)))}); 95% intervals are over tables or data "
        "sets, or over shuffles where there is one. Negative differences are better; `off` is the system without its "
        "prior, `wrong` a placebo of equal size and cost; the others are at their defaults. `>= 8x` means that the "
        "sizes reach no further. Every number: `evidence/price-*.json`."
    )
    return "\n\n".join(parts)


def limits_list() -> str:
    """Where each system loses: its failed claims, then the limits on its card."""
    lines = []
    for slug, entry in catalogue().items():
        evidence = find_evidence(slug)
        failed = dict[str, list[str]]()  # explanation -> claims
        for claim in evidence["claims"] if evidence else ():
            if claim["verdict"] != "held":
                failed.setdefault(claim.get("note", ""), []).append(claim["name"])
        lines += [f"`{slug}` failed here: {prose('; '.join(names))}. {prose(why)}" for why, names in failed.items()]
        lines += [f"`{slug}`: {prose(limit)}" for limit in entry.card.limits]
    return "\n".join(f"- {line.strip()}" for line in lines)


def readme(text: str) -> str:
    """`text` of README.md with its generated parts brought up to date."""
    bodies = {
        "evidence": evidence_table(),
        "benchmark": benchmark_table(),
        "price": price_table(),
        "limits": limits_list(),
        "catalogue": catalogue_table(),
    }
    for name, body in bodies.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise SystemExit(f"README.md must have {begin} and {end} once each.")
        head, rest = text.split(begin)
        text = f"{head}{begin}\n{body}\n{end}{rest.split(end)[1]}"
    return text


def pages() -> dict[str, str]:
    """Path below docs/ -> text of every generated page."""
    links = catalogue_table(r"\1.md")
    intro = "Every system, what its prior is, and whether the claims of its paper held when measured here."
    written = {"catalogue/index.md": f"# Catalogue\n\n{intro}\n\n{links}\n"}
    written |= {f"catalogue/{slug}.md": card_page(entry) for slug, entry in catalogue().items()}
    rooms = sorted({entry.card.room for entry in catalogue().values()})
    packages = ["foreknow", "foreknow.core", *[f"foreknow.{room}" for room in rooms]]
    written |= {f"api/{package}.md": api_page(package) for package in packages}
    listing = "\n".join(f"- [{package}]({package}.md)" for package in packages)
    return {**written, "api/index.md": f"# Reference\n\n{listing}\n"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readme", action="store_true", help="rewrite the generated parts of README.md")
    arguments = parser.parse_args()
    if failures():
        raise SystemExit(f"Pages would lack these modules, which cannot be imported: {failures()}")
    if arguments.readme:
        README.write_text(readme(README.read_text(encoding="utf-8")), encoding="utf-8")
        return
    for name, text in pages().items():
        path = DOCS / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    sys.stdout.write(f"{len(pages())} pages written to docs/catalogue and docs/api.\n")


if __name__ == "__main__":
    main()
