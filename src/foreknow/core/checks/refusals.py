"""What bad and extreme input must meet: a named error before any work, or a result of finite numbers."""

from __future__ import annotations

import inspect
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import sklearn.exceptions

from foreknow.common.errors import ConfigError, ForeknowError, InputError, NotFittedError
from foreknow.core.checks import inputs
from foreknow.core.checks.base import CheckFailed, expect, refused
from foreknow.core.checks.subject import SYSTEMS, observe, outputs, rebuild
from foreknow.core.checks.systems import has_target, learns_from_rows, on_array, on_table
from foreknow.core.system import Example, System

WRONG_TYPES: dict[str, Any] = {
    "None": None,
    "text": "text",
    "bytes": b"bytes",
    "a number": 3.0,
    "an empty dict": {},
    "an object": object(),
    "a function": len,
    "a list of None": [None, None],
    "a list of objects": [object(), object()],
    "an empty list": [],
    "an array without axes": np.array(1.0),
    "an array of 0 x 0": np.empty((0, 0)),
    "ragged rows": [[1.0, 2.0], [3.0]],
    "complex numbers": np.ones((4, 2), dtype=complex),
}


def _works_or_refuses(system: System, example: Example, what: str) -> None:
    """Fitting and predicting gives finite numbers, or a named error; nothing else."""
    try:
        outputs(rebuild(system).fit(example.X, example.y, **example.named), inputs.new_rows(example))
    except (ForeknowError, CheckFailed) as error:
        if isinstance(error, CheckFailed):
            raise CheckFailed(f"{what}: {error}") from error
    except Exception as error:
        raise CheckFailed(
            f"{what}: expected a result or a ForeknowError, got {type(error).__name__}: {error}"
        ) from error


def has_numbers(system: System, example: Example) -> bool:
    """The rows are a table with a column of floats."""
    return inputs.with_cell(example.X, 0.0) is not None


# Small and flat data ---------------------------------------------------------------------------------------------


@SYSTEMS.add()
def check_empty_refused(system: System, example: Example) -> None:
    """No rows to learn from are refused; no rows to predict are refused or give no predictions."""
    if learns_from_rows(system, example):
        y = None if example.y is None else np.asarray(example.y)[:0]
        refused("no rows", InputError, rebuild(system).fit, inputs.take_rows(example.X, []), y, **example.named)
    fitted = observe(system, example).system
    try:
        found = outputs(fitted, inputs.take_rows(inputs.new_rows(example), []))
    except ForeknowError:
        return
    expect(all(len(values) == 0 for values in found.values()), "no rows to predict gave predictions.")


@SYSTEMS.add()
def check_one_row(system: System, example: Example) -> None:
    """One row is predicted; one row to learn from is enough or refused."""
    rows = inputs.take_rows(inputs.new_rows(example), [0])
    outputs(observe(system, example).system, rows)
    if not learns_from_rows(system, example):
        return
    y = None if example.y is None else np.asarray(example.y)[:1]
    _works_or_refuses(system, replace(example, X=inputs.take_rows(example.X, [0]), y=y), "one training row")


@SYSTEMS.add(on_table)
def check_one_column(system: System, example: Example) -> None:
    """A table of one column is enough or refused."""
    changes = {"X": inputs.take_columns(example.X, [0]), "X_new": inputs.take_columns(inputs.new_rows(example), [0])}
    _works_or_refuses(system, replace(example, **changes), "one column")


@SYSTEMS.add(learns_from_rows)
def check_constant_data(system: System, example: Example) -> None:
    """Rows that are all the same, and a target that is."""
    same = inputs.take_rows(example.X, [0] * inputs.n_rows(example.X))
    _works_or_refuses(system, replace(example, X=same, X_new=inputs.new_rows(example)), "constant columns")
    if system._task() == "regression":
        y = np.full(len(example.y), np.asarray(example.y, dtype=np.float64)[0])
        _works_or_refuses(system, replace(example, y=y), "constant target")


@SYSTEMS.add(on_array)
def check_extreme_scales(system: System, example: Example) -> None:
    """Inputs and targets of the order of 1e30 and 1e-30."""
    for scale in (1e30, 1e-30):
        X_new = inputs.new_rows(example) * scale
        _works_or_refuses(system, replace(example, X=example.X * scale, X_new=X_new), f"X times {scale:g}")
        if system._task() == "regression":
            y = np.asarray(example.y, dtype=np.float64) * scale
            _works_or_refuses(system, replace(example, y=y), f"y times {scale:g}")


# Cells that are no numbers ---------------------------------------------------------------------------------------


@SYSTEMS.add(has_numbers)
def check_missing_cells_as_tagged(system: System, example: Example) -> None:
    """NaN is learnt from and predicted where `tags.missing_values` says so, and refused elsewhere."""
    X, X_new = (inputs.with_cell(table, float("nan")) for table in (example.X, inputs.new_rows(example)))
    if system.tags.missing_values:
        outputs(rebuild(system).fit(X, example.y, **example.named), X_new)
        return
    fit = partial(rebuild(system).fit, **example.named)
    for call, *given in ((fit, X, example.y), (outputs, observe(system, example).system, X_new)):
        error = refused("a missing cell", InputError, call, *given)
        expect("nan" in str(error).lower() or "missing" in str(error).lower(), f"the message names no NaN: {error}")


@SYSTEMS.add(has_numbers)
def check_infinite_cells(system: System, example: Example) -> None:
    """Infinite cells are refused, or read in a way that gives finite numbers."""
    for value in (float("inf"), float("-inf")):
        X, X_new = (inputs.with_cell(table, value) for table in (example.X, inputs.new_rows(example)))
        _works_or_refuses(system, replace(example, X=X), f"{value} in X")
        try:
            outputs(observe(system, example).system, X_new)
        except ForeknowError:
            continue


# Wrong shapes and types ------------------------------------------------------------------------------------------


@SYSTEMS.add(on_table)
def check_wrong_columns_refused(system: System, example: Example) -> None:
    """Rows to predict with a column too few, or for arrays one too many."""
    fitted, rows = observe(system, example).system, inputs.new_rows(example)
    width = inputs.n_columns(rows)
    cases = [list(range(width - 1))] if width > 1 else []
    if inputs.is_matrix(rows):
        cases.append([*range(width), 0])
    for columns in cases:
        table = inputs.take_columns(rows, columns)
        refused(f"{len(columns)} instead of {width} columns", InputError, outputs, fitted, table)


@SYSTEMS.add(on_array)
def check_wrong_axes_refused(system: System, example: Example) -> None:
    """A row without its table, and a stack of tables."""
    fitted, rows = observe(system, example).system, inputs.new_rows(example)
    for X in (example.X[0], example.X[None]):
        refused(f"fit with shape {X.shape}", InputError, rebuild(system).fit, X, example.y, **example.named)
    for X in (rows[0], rows[None]):
        refused(f"predict with shape {X.shape}", InputError, outputs, fitted, X)


@SYSTEMS.add()
def check_wrong_types_refused(system: System, example: Example) -> None:
    """What is no table at all, to learn from and to predict."""
    fitted = observe(system, example).system
    for name, X in WRONG_TYPES.items():
        if X is not None or learns_from_rows(system, example):  # a system may have a world of its own
            refused(f"fit with {name}", InputError, rebuild(system).fit, X, example.y, **example.named)
        refused(f"predict with {name}", InputError, outputs, fitted, X)
    if not learns_from_rows(system, example):
        return
    words = np.full((inputs.n_rows(example.X), 2), "word", dtype=object)
    _works_or_refuses(system, replace(example, X=words, X_new=words), "a table of words")


@SYSTEMS.add(lambda system, example: has_target(system, example) and learns_from_rows(system, example))
def check_bad_targets_refused(system: System, example: Example) -> None:
    """A target that is missing, of the wrong length or shape, or holds what is no target."""
    y = np.asarray(example.y)
    n = len(y)
    cases: dict[str, Any] = {
        "no target": None,
        "a target that is too short": y[:-1],
        "a number as target": 1.0,
        "a dict as target": {"y": 1},
        "a missing label": np.array([None, *y.tolist()[1:]], dtype=object),
        "objects as target": np.array([object() for _ in range(n)], dtype=object),
    }
    if system._task() != "array":
        cases["a target of two columns"] = np.stack([y, y], axis=1)
    if system._task() == "classification":
        cases["one class only"] = np.full(n, y[0])
        cases["numbers that are no classes"] = np.linspace(0.1, 0.9, n)
        cases["labels of several types"] = np.array(["a", 1, *y.tolist()[2:]], dtype=object)
    else:
        cases["words as target"] = np.array(["word"] * n)
        for name, value in (("NaN", np.nan), ("infinity", np.inf)):
            cases[f"{name} in the target"] = np.concatenate([np.full_like(y[:1], value, dtype=np.float64), y[1:]])
    for name, bad in cases.items():
        refused(name, InputError, rebuild(system).fit, example.X, bad, **example.named)


# Settings and order of calls -------------------------------------------------------------------------------------


@SYSTEMS.add()
def check_bad_settings_refused(system: System, example: Example) -> None:
    """Every setting refuses an object of no use, NaN for numbers, and unknown names for options (or files)."""
    defaults = inspect.signature(type(system).__init__).parameters
    for name in type(system)._get_param_names():
        if name == "prior":
            continue
        bad: list[Any] = [object()]
        if name == "random_state":
            bad += [-1, 1.5, "seed"]
        elif name == "device":
            bad += ["no-such-device", "meta"]
        elif isinstance(defaults[name].default, float):
            bad += [float("nan")]
        elif isinstance(defaults[name].default, str):
            bad += ["no-such-option"]
        for value in bad:
            kind = (ConfigError, InputError) if value == "no-such-option" else ConfigError
            refused(
                f"{name}={value!r:.40}",
                kind,
                rebuild(system, **{name: value}).fit,
                example.X,
                example.y,
                **example.named,
            )


@SYSTEMS.add()
def check_bad_prior_refused(system: System, example: Example) -> None:
    """None is not "no prior", and names other than "paper" and "off" are unknown."""
    for prior in (None, "bayes", 3, object(), True):
        refused(
            f"prior={prior!r:.40}", ConfigError, rebuild(system, prior=prior).fit, example.X, example.y, **example.named
        )


@SYSTEMS.add()
def check_not_fitted_refused(system: System, example: Example) -> None:
    """Before `fit`, results meet a NotFittedError that is also scikit-learn's."""
    fresh, rows = rebuild(system), inputs.new_rows(example)
    given = dict.fromkeys(("predict", "predict_proba", "predict_dist", "transform"), rows)
    for name, argument in {**given, "save": "never-written.safetensors"}.items():
        if not hasattr(fresh, name):
            continue
        error = refused(f"{name} before fit", NotFittedError, getattr(fresh, name), argument)
        expect(isinstance(error, sklearn.exceptions.NotFittedError), f"{name}: the error is not scikit-learn's.")
