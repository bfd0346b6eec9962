"""foreknow's tabular estimators against the usual ones, all at their defaults, on real tables of two written lists.

Run, for instance:

    OMP_NUM_THREADS=1 python benchmarks/tabular.py --lists development --store build/tabular.jsonl
    OMP_NUM_THREADS=1 python benchmarks/tabular.py --lists test --learning-curves --store build/tabular.jsonl
    python benchmarks/tabular.py --report --store build/tabular.jsonl
    python benchmarks/tabular.py --speed | --check | --quick

Each table (at most 2000 rows) is split in half, stratified by class, five times; a model is fitted to one half and
measured on the other, on one thread. Every finished cell (model, table, split, size) is a line of the store, so an
interrupted run repeats nothing; the key holds the version of the library (for ours the weights and the code) and the
content of the table, so that a changed one is measured afresh. `--report` needs nothing but the store.

Log-loss is cut at 1e-15 for everyone alike; a class missing from the context gets probability 0. NLL is that of the
targets in units of their deviation among the context rows. The development lists may guide choices; the test lists
are for reporting.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import peers
import tables
import tabular_report
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from foreknow.common.files import write_text
from foreknow.common.rng import numpy_stream
from foreknow.common.timing import Stopwatch
from foreknow.core.evidence import environment
from foreknow.core.measures import auc_ovo, brier, expected_calibration_error
from foreknow.core.predictive import Predictive

SIZES = (32, 64, 128, 256, 512)
"""Context rows of the learning curves."""
CURVE_ROWS = 700
"""A table needs this many rows for a learning curve: what the largest context leaves is the test part."""
CURVE_SPLITS = 3
TASKS = ("classification", "regression")
LISTS = ("development", "test")
OURS = ("foreknow", "foreknow-2", "foreknow-4")
KEY = ("task", "table", "digest", "model", "version", "size", "split")


class Store:
    """Finished cells, one JSON object a line; without a path they are only kept in memory."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.cells: dict[tuple[Any, ...], dict[str, Any]] = {}
        if path is not None and path.exists():
            text = path.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1]
            if whole != text:  # interrupted while writing a line
                write_text(path, whole)
            for line in whole.splitlines():
                self._keep(json.loads(line))

    def _keep(self, cell: dict[str, Any]) -> None:
        key = tuple(cell[part] for part in KEY)
        self.cells.pop(key, None)
        self.cells[key] = cell

    def __contains__(self, key: tuple[Any, ...]) -> bool:
        return key in self.cells

    def add(self, cell: dict[str, Any]) -> None:
        self._keep(cell)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(cell) + "\n")


def order_of(data: tables.Data, task: str, split: int) -> NDArray[np.int64]:
    """Rows in a random order; every beginning holds the classes in their shares, and each from as early as it can."""
    order = numpy_stream(0, "tabular", data.name, str(split)).permutation(len(data.y))
    if task == "regression":
        return order
    labels = data.y[order]
    share = np.empty(len(order))
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        share[own] = np.arange(len(own)) / len(own)
    return order[np.argsort(share, kind="stable")]


def measure(
    model: peers.Model, task: str, data: tables.Data, context: NDArray[np.int64], test: NDArray[np.int64], seed: int
) -> dict[str, Any]:
    """Seconds and measures of one cell."""
    frame = data.frame()
    is_text = np.array([column.dtype == object for column in data.columns.values()])
    train, rest = (frame.iloc[rows].reset_index(drop=True) for rows in (context, test))
    estimator = model.build[task](is_text, seed)
    y = data.y
    if task == "classification":
        y = np.unique(data.y, return_inverse=True)[1]
        present, own = np.unique(y[context], return_inverse=True)  # some libraries want codes without gaps
    else:
        own = y[context]
    with warnings.catch_warnings():
        # scikit-learn: unknown categories are left out; fewer neighbours than asked for; and such notes.
        warnings.simplefilter("ignore")
        before = time.process_time()
        with Stopwatch() as fitting:
            estimator.fit(train, own)
        with Stopwatch() as predicting:
            if task == "classification":
                answer = estimator.predict_proba(rest)
            else:
                answer = (estimator.predict_dist if hasattr(estimator, "predict_dist") else estimator.predict)(rest)
        cpu = time.process_time() - before
    if task == "classification":
        probs = np.zeros((len(test), y.max() + 1))
        probs[:, present] = answer
        measures = of_classes(probs, y[test])
    else:
        measures = of_numbers(answer, y[test], y[context])
    return {"fit_s": fitting.seconds, "predict_s": predicting.seconds, "cpu_s": cpu, "measures": measures}


def of_classes(probs: NDArray[np.float64], y: NDArray[np.int64]) -> dict[str, float]:
    """Measures of class probabilities, shape (n, C), at codes (n,)."""
    probs = probs / probs.sum(1, keepdims=True)
    return {
        "auc": auc_ovo(y, probs),
        "log_loss": float(-np.log(np.clip(probs[np.arange(len(y)), y], 1e-15, 1)).mean()),
        "ece": expected_calibration_error(probs, y),
        "brier": brier(probs, y),
        "accuracy": float((probs.argmax(1) == y).mean()),
    }


def of_numbers(answer: object, y: NDArray[np.float64], context: NDArray[np.float64]) -> dict[str, Any]:
    """Measures of point predictions, or of distributions, of targets y; `context` gives the unit of the NLL."""
    dist = answer if isinstance(answer, Predictive) else None
    point = dist.mean().double().numpy() if dist is not None else np.asarray(answer, dtype=np.float64)
    error = np.square(point - y).mean()
    measures: dict[str, Any] = {
        "r2": float(1 - error / y.var()),
        "rmse": float(np.sqrt(error)),
        "relative_rmse": float(np.sqrt(error) / y.std()),
    }
    if dist is not None:
        target = torch.as_tensor(y, dtype=dist.dtype)
        low, high = (end.double().numpy() for end in dist.interval(0.9))
        inside = (y >= low) & (y <= high)
        tenths = np.array_split(np.argsort(high - low, kind="stable"), 10)
        measures["nll"] = float(-dist.log_prob(target).double().mean() - np.log(context.std()))
        measures["coverage_90"] = float(inside.mean())
        measures["coverage_tenths"] = [float(inside[rows].mean()) for rows in tenths]
    return measures


def sizes_of(data: tables.Data, *, curve: bool, max_rows: int) -> Iterator[tuple[str | int, int, int]]:
    """(name of the size, context rows, first row of the test part) of a table's cells."""
    n = len(data.y)
    if not curve:
        yield f"half<={max_rows}", min(n // 2, max_rows), n // 2
    elif n >= CURVE_ROWS:
        yield from ((size, size, max(SIZES)) for size in SIZES)


def usable(names: list[str] | None) -> dict[str, peers.Model]:
    """The models asked for that are here; the others are said."""
    found = {}
    for name in names or peers.MODELS:
        model = peers.MODELS[name]
        if not model.installed():
            print(f"{name}: left out, {model.library} is not installed", flush=True)
        else:
            found[name] = model
    return found


def run(
    store: Store,
    task: str,
    names: list[str],
    models: Mapping[str, peers.Model],
    *,
    splits: int,
    curve: bool,
    max_rows: int,
) -> None:
    """Measure every cell that the store lacks."""
    torch.set_num_threads(1)
    started = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    all_data = [tables.read(task, name).capped() for name in names]
    for name, model in models.items():
        version, warm = model.version(task), False
        for data in all_data:
            done, watch = [], Stopwatch()
            for size, n_context, first in sizes_of(data, curve=curve, max_rows=max_rows):
                for split in range(splits):
                    key = (task, data.name, data.digest, name, version, size, split)
                    if key not in store:
                        order = order_of(data, task, split)
                        with threadpool_limits(1):
                            if not warm:  # imports and first calls are not timed
                                measure(model, task, data, order[: min(n_context, 64)], order[first:], split)
                                warm = True
                            cell = measure(model, task, data, order[:n_context], order[first:], split)
                        counts = {"n_context": n_context, "n_test": len(order) - first}
                        store.add({**dict(zip(KEY, key)), **counts, **cell, "run": started})
                        done.append(store.cells[key]["measures"]["auc" if task == "classification" else "r2"])
            if done:
                print(f"{name} {data.name}: {len(done)} cells, {np.mean(done):.3f}, {watch.seconds:.1f} s", flush=True)


def report(store: Store, options: argparse.Namespace, chosen: Mapping[str, Mapping[str, list[str]]]) -> dict[str, Any]:
    """Summaries of what the store holds, printed; `chosen`: task -> list -> names."""
    sections: dict[str, Any] = {}
    cells = [cell for cell in store.cells.values() if not options.models or cell["model"] in options.models]
    texts = []
    for task, lists in chosen.items():
        for kind, names in lists.items():
            halves = [cell for cell in cells if cell["size"] == f"half<={options.max_rows}"]
            result = tabular_report.summary(halves, task, names, options.splits, peers.OURS)
            if result["finished"]:
                sections[f"{task}, {kind} list"] = result
                texts.append(tabular_report.markdown(f"{task}, {kind} list".capitalize(), task, result))
            on_list = [c for c in cells if c["task"] == task and c["table"] in names and isinstance(c["size"], int)]
            result = tabular_report.curves(on_list, task, names, CURVE_SPLITS, peers.OURS)
            if result:
                title = f"{task}, {kind} list, learning curves"
                sections[title] = result
                texts.append(tabular_report.curves_markdown(title.capitalize(), task, result))
    print("\n".join(texts))
    return {"sections": sections, "markdown": "\n".join(texts)}


def write_report(result: Mapping[str, Any], out: Path) -> None:
    record: dict[str, Any] = {
        "command": "python benchmarks/tabular.py --report",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }
    record |= {"environment": environment(), **result["sections"]}
    write_text(out, json.dumps(record, indent=1) + "\n")
    write_text(out.with_suffix(".md"), result["markdown"])
    print(f"Written: {out} and {out.with_suffix('.md')}")


def check() -> None:
    """Every list together: no table stands in two of them, and no two tables share content."""
    listed = [(task, name) for task in TASKS for kind in LISTS for name in tables.names(task, kind)]
    twice = {name for name in listed if listed.count(name) > 1}
    pairs = list(tables.overlaps([tables.read(task, name) for task, name in listed]))
    for a, b, reason in pairs:
        print(f"{a} and {b}: {reason}")
    if twice or pairs:
        raise SystemExit(f"{len(pairs)} pairs of tables share content; listed twice: {sorted(twice) or 'none'}")
    print(f"{len(listed)} tables, none twice, no shared content")


def speed(threads: int, repeats: int, n: int = 1000) -> None:
    """Seconds for n rows of 20 columns, fit and predictions of n more, and for one row with a fitted model."""
    from sklearn.datasets import make_classification, make_regression

    torch.set_num_threads(threads)
    made = {
        "classification": make_classification(2 * n, 20, n_informative=8, flip_y=0.1, random_state=0),
        "regression": make_regression(2 * n, 20, n_informative=8, noise=50.0, random_state=0),
    }
    where = environment()
    print(f"{datetime.now(UTC):%Y-%m-%d}, {where['processor']}, {threads} thread(s), {n} x 20, median [least, most]")
    for task, (x, y) in made.items():
        columns = {f"x{i}": column for i, column in enumerate(x.T)}
        frame = tables.Data(task, columns, y).frame()
        train, rest = frame.iloc[:n], frame.iloc[n:]
        seconds: dict[str, Any] = {}
        for name, model in usable([*OURS, "catboost"]).items():
            estimator = model.build[task](np.zeros(20, dtype=bool), 0)
            if name == "catboost":
                estimator[-1].set_params(thread_count=threads)
            ask = "predict_proba" if task == "classification" else "predict"
            getattr(estimator.fit(train[:100], y[:100]), ask)(rest[:10])
            whole = timed(lambda: getattr(estimator.fit(train, y[:n]), ask)(rest), repeats)  # noqa: B023
            one = timed(lambda: getattr(estimator, ask)(rest[:1]), 5 * repeats)  # noqa: B023
            refit = timed(lambda: getattr(estimator.fit(train, y[:n]), ask)(rest[:1]), repeats)  # noqa: B023
            seconds[name] = np.median(whole, axis=0)
            print(f"{task:15} {name:11} {model.version(task)}\n  fit and predict {spread(whole)}")
            factor = np.median(refit, axis=0)[0] / np.median(one, axis=0)[0]
            print(
                f"  one row, fitted {spread(one)}\n  one row, refit  {spread(refit)}, {factor:.0f} times that",
                flush=True,
            )
        for name in OURS if "catboost" in seconds else ():
            wall, cpu = seconds[name] / seconds["catboost"]
            print(f"{task:15} {name} takes {wall:.3f} of catboost's time, {cpu:.3f} of its processor time")


def timed(work: Any, repeats: int) -> list[tuple[float, float]]:
    """Wall-clock and processor seconds of each repeat; only the second is fair on a busy machine."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        work()
        times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return times


def spread(times: list[tuple[float, float]]) -> str:
    wall, cpu = zip(*times)
    return f"{np.median(wall):.3g} s [{min(wall):.3g}, {max(wall):.3g}], processor {np.median(cpu):.3g} s"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=(*TASKS, "all"), default="all")
    parser.add_argument("--lists", choices=(*LISTS, "all"), default="development")
    parser.add_argument("--models", nargs="+", choices=list(peers.MODELS), help="default: all that are installed")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--max-rows", type=int, default=1000, help="context rows at most")
    parser.add_argument("--learning-curves", action="store_true", help=f"contexts of {SIZES} rows instead of halves")
    parser.add_argument("--store", type=Path, default=Path("build/tabular.jsonl"))
    parser.add_argument("--report", action="store_true", help="summarise the store, both lists, and write --out")
    parser.add_argument("--out", type=Path, default=Path("evidence/tabular-benchmark.json"))
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--threads", type=int, default=1, help="of --speed")
    parser.add_argument("--check", action="store_true", help="look for tables that share content")
    parser.add_argument("--quick", action="store_true", help="three tables of scikit-learn, one split; nothing stored")
    options = parser.parse_args(arguments)
    chosen_tasks = TASKS if options.task == "all" else (options.task,)
    kinds = LISTS if options.lists == "all" else (options.lists,)
    if options.quick:
        options.splits = 1
        small = {"classification": ["sklearn/iris", "sklearn/wine"], "regression": ["sklearn/diabetes"]}
        store = Store()
        for task in chosen_tasks:
            run(store, task, small[task], usable(options.models), splits=1, curve=False, max_rows=options.max_rows)
        report(store, options, {task: {"quick": small[task]} for task in chosen_tasks})
        speed(options.threads, repeats=1, n=200)
    elif options.check:
        check()
    elif options.speed:
        speed(options.threads, repeats=3)
    elif options.report:
        chosen = {task: {kind: tables.names(task, kind) for kind in LISTS} for task in chosen_tasks}
        write_report(report(Store(options.store), options, chosen), options.out)
    else:
        store, models = Store(options.store), usable(options.models)
        splits = CURVE_SPLITS if options.learning_curves else options.splits
        for kind in kinds:
            for task in chosen_tasks:
                names = tables.names(task, kind)
                run(store, task, names, models, splits=splits, curve=options.learning_curves, max_rows=options.max_rows)


if __name__ == "__main__":
    main()
