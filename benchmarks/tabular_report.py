"""What `tabular.py` makes of its finished cells: means, ranks, paired intervals over tables, in markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from foreknow.common.rng import numpy_stream
from foreknow.core.measures import paired_interval

Cell = Mapping[str, Any]
REFERENCE = "catboost"
"""The model whose seconds the others' are divided by."""

MEASURES = {
    "classification": {"auc": 1, "log_loss": -1, "ece": -1, "brier": -1, "accuracy": 1},
    "regression": {"r2": 1, "relative_rmse": -1, "nll": -1, "coverage_90": 0},
}
"""Per task, measure -> whether larger (1) or smaller (-1) is better, or neither (0)."""
RANKED = {"classification": ("auc", "log_loss"), "regression": ("relative_rmse",)}


def summary(cells: Iterable[Cell], task: str, names: Sequence[str], splits: int, ours: Sequence[str]) -> dict[str, Any]:
    """The comparison over those of the tables `names` that every model has finished on all splits.

    Each table counts once: its splits are averaged first. R2 is cut at 0 in each cell, so that one absurd fit does
    not decide a mean. Of a model with cells of several versions the last one written counts.
    """
    values = _by_table([cell for cell in cells if cell["task"] == task and cell["table"] in names], splits)
    finished = {model: len(tables) for model, tables in values.items()}
    common = [name for name in names if values and all(name in tables for tables in values.values())]
    result: dict[str, Any] = {"of": len(names), "splits": splits, "tables": common, "finished": finished}
    if not common:
        return result
    table = {model: _columns(tables, common) for model, tables in values.items()}
    ranks = {measure: _ranks({m: c[measure] for m, c in table.items()}, measure, task) for measure in RANKED[task]}
    result["models"] = {
        model: {
            **{measure: float(np.mean(columns[measure])) for measure in MEASURES[task] if measure in columns},
            **{f"rank_{measure}": ranks[measure][model] for measure in ranks},
            **(
                {"coverage_tenths": np.mean(columns["coverage_tenths"], 0).tolist()}
                if "coverage_tenths" in columns
                else {}
            ),
            "seconds": float(np.mean(columns["seconds"])),
            "version": next(iter(values[model].values()))["version"],
        }
        for model, columns in table.items()
    }
    if REFERENCE in table:
        for model in result["models"].values():
            model["times_reference"] = model["seconds"] / result["models"][REFERENCE]["seconds"]
    result["differences"] = {
        own: {peer: _difference(table[own], table[peer], task) for peer in table if peer not in ours}
        for own in ours
        if own in table
    }
    result["per_table"] = {
        model: {measure: [round(v, 5) for v in columns[measure]] for measure in MEASURES[task] if measure in columns}
        for model, columns in table.items()
    }
    result["runs"] = len({run for tables in values.values() for name in common for run in tables[name]["runs"]})
    return result


def _by_table(cells: Sequence[Cell], splits: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Model -> table -> means over the splits, of the finished tables and each model's last version."""
    last = {cell["model"]: cell["version"] for cell in cells}
    groups: dict[str, dict[str, dict[int, Cell]]] = {}
    for cell in cells:
        if cell["version"] == last[cell["model"]] and cell["split"] < splits:
            groups.setdefault(cell["model"], {}).setdefault(cell["table"], {})[cell["split"]] = cell
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for model, tables in groups.items():
        for name, parts in tables.items():
            if len(parts) == splits:
                result.setdefault(model, {})[name] = _mean([parts[split] for split in sorted(parts)])
    return result


def _mean(parts: Sequence[Cell]) -> dict[str, Any]:
    measured = [{**part["measures"], "seconds": part["cpu_s"]} for part in parts]
    for part in measured:
        if "r2" in part:
            part["r2"] = max(part["r2"], 0.0)
    means: dict[str, Any] = {key: np.mean([part[key] for part in measured], axis=0) for key in measured[0]}
    return {**means, "version": parts[0]["version"], "runs": {part["run"] for part in parts}}


def _columns(tables: Mapping[str, Mapping[str, Any]], common: Sequence[str]) -> dict[str, list[Any]]:
    keys = [key for key in tables[common[0]] if key not in ("version", "runs")]
    return {key: [tables[name][key] for name in common] for key in keys}


def _ranks(columns: Mapping[str, Sequence[float]], measure: str, task: str) -> dict[str, float]:
    """Mean rank over tables, 1 the best, ties shared."""
    from scipy.stats import rankdata

    table = -MEASURES[task][measure] * np.array(list(columns.values()))
    return dict(zip(columns, rankdata(table, axis=0).mean(1).tolist()))


def _difference(own: Mapping[str, Any], peer: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Ours minus the peer, per measure that both have: mean, 95% interval over tables, and who won how often."""
    result: dict[str, Any] = {}
    for measure, sign in MEASURES[task].items():
        if sign and measure in own and measure in peer:
            gap = np.array(own[measure]) - np.array(peer[measure])
            entry: dict[str, Any] = {"mean": float(gap.mean()), "n_tables": len(gap)}
            if len(gap) > 1:
                interval = paired_interval(gap, rng=numpy_stream(0, "bootstrap", measure))
                entry |= {"low": interval.low, "high": interval.high}
            if measure in ("log_loss", "relative_rmse"):
                entry["ratio_of_means"] = float(np.mean(own[measure]) / np.mean(peer[measure]))
            better = sign * np.round(gap, 9)
            entry |= {"wins": int((better > 0).sum()), "losses": int((better < 0).sum())}
            result[measure] = entry
    return result


def markdown(title: str, task: str, result: Mapping[str, Any]) -> str:
    """The summary as text: what it covers, models, ours against each peer."""
    n = len(result["tables"])
    lines = [
        f"## {title}",
        "",
        f"{n} of {result['of']} tables finished by every model below, {result['splits']} splits.",
    ]
    behind = [f"{model} {count}" for model, count in result["finished"].items() if count < result["of"]]
    if behind:
        lines += ["", f"Unfinished (tables done): {', '.join(behind)}."]
    if not n:
        return "\n".join([*lines, ""])
    measures = [m for m in MEASURES[task] if any(m in model for model in result["models"].values())]
    keys = [*measures, *(f"rank_{m}" for m in RANKED[task]), "seconds"]
    if REFERENCE in result["models"]:
        keys.append("times_reference")
    head = [key.replace("reference", REFERENCE).replace("_", " ") for key in keys]
    best_first = sorted(result["models"].items(), key=lambda item: item[1][f"rank_{RANKED[task][0]}"])
    rows = [[model, *(_number(values.get(key)) for key in keys)] for model, values in best_first]
    lines += ["", *_table(["model", *head], rows), ""]
    lines.append("Seconds are processor seconds of one fit and its predictions on one thread, encoding included; ")
    lines[-1] += f"they come from {result['runs']} run(s) of the script."
    if n < 10:
        lines.append(f"Intervals over {n} tables are too narrow.")
    for own, peers in result["differences"].items():
        shown = [m for m, sign in MEASURES[task].items() if sign and any(m in entry for entry in peers.values())]
        rows = [[peer, *(_gap(entry.get(m)) for m in shown)] for peer, entry in peers.items()]
        if rows:
            lines += ["", f"`{own}` minus each peer, 95% interval over tables, tables won:lost", ""]
            lines += _table(["peer", *(m.replace("_", " ") for m in shown)], rows)
    for model, values in result["models"].items():
        if "coverage_tenths" in values:
            shares = " ".join(f"{share:.3f}" for share in values["coverage_tenths"])
            lines += ["", f"`{model}`, coverage of 90% intervals by tenth of their width: {shares}"]
    return "\n".join([*lines, ""])


def curves(cells: Iterable[Cell], task: str, names: Sequence[str], splits: int, ours: Sequence[str]) -> dict[str, Any]:
    """Size of context -> summary over the tables of `names`, without the values per table."""
    cells = list(cells)
    result = {}
    for size in sorted({cell["size"] for cell in cells}):
        part = summary([cell for cell in cells if cell["size"] == size], task, names, splits, ours)
        part.pop("per_table", None)
        result[str(size)] = part
    return result


def curves_markdown(title: str, task: str, result: Mapping[str, Any]) -> str:
    """One table per measure of ranking: a row per model, a column per size."""
    lines = [f"## {title}", ""]
    counts = ", ".join(f"{len(part['tables'])} at {size}" for size, part in result.items())
    lines += [f"Tables finished by every model, by rows of context: {counts}."]
    models = sorted({model for part in result.values() for model in part.get("models", {})})
    for measure in ("auc", "log_loss") if task == "classification" else ("r2", "nll"):
        rows = []
        for model in models:
            found = [part.get("models", {}).get(model, {}).get(measure) for part in result.values()]
            if any(value is not None for value in found):
                rows.append([model, *map(_number, found)])
        if rows:
            lines += ["", *_table([measure.replace("_", " "), *result], rows)]
    return "\n".join([*lines, ""])


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"


def _gap(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return ""
    interval = f" [{entry['low']:+.3f}, {entry['high']:+.3f}]" if "low" in entry else ""
    return f"{entry['mean']:+.3f}{interval} {entry['wins']}:{entry['losses']}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
