"""The contract of every system, as plain functions `check_<what>(system, example)`.

`system` is an unfitted instance with the settings of `example`. One fitted copy is made per instance, under
watch, and shared by the checks that only read from it. What bad input must meet is in `refusals`.
"""

from __future__ import annotations

import copy
import inspect
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from sklearn.base import clone

from foreknow.common.timing import Stopwatch
from foreknow.core import evidence
from foreknow.core.checks import inputs
from foreknow.core.checks.base import expect
from foreknow.core.checks.cards import card_of, cost_problems, evidence_problems, unexplained
from foreknow.core.checks.subject import (
    SYSTEMS,
    budget,
    differ,
    expect_same,
    fitted_outputs,
    observe,
    outputs,
    rebuild,
    saves,
    tensors_within,
)
from foreknow.core.records import to_json
from foreknow.core.system import FILE_IN_FOLDER, Example, System

SECONDS, SLACK = 2.0, 2.0
"""How long an example may take, and how far a busy machine may exceed that."""


# When a check applies --------------------------------------------------------------------------------------------


def classifies(system: System, example: Example) -> bool:
    """The target is a class."""
    return system._task() == "classification"


def has_target(system: System, example: Example) -> bool:
    """There is a target."""
    return system._task() != "none"


def gives_distributions(system: System, example: Example) -> bool:
    """`predict_dist` is offered."""
    return type(system)._predict_dist is not System._predict_dist


def on_table(system: System, example: Example) -> bool:
    """The rows are a table."""
    return inputs.is_table(example.X)


def on_array(system: System, example: Example) -> bool:
    """The rows are numbers in an array of any rank."""
    return inputs.is_array(example.X)


def learns_from_rows(system: System, example: Example) -> bool:
    """`fit` takes rows, not a world to act in."""
    return system.tags.learns_from == "rows"


def has_prior_on(system: System, example: Example) -> bool:
    """The example is not a control arm itself."""
    return system.get_params(deep=False).get("prior", "paper") not in ("off", "wrong")


def has_placebo(system: System, example: Example) -> bool:
    """The system names a wrong prior, and the example is not a control arm itself."""
    return type(system)._wrong_prior is not System._wrong_prior and has_prior_on(system, example)


# What it says of itself ------------------------------------------------------------------------------------------


@SYSTEMS.add()
def check_card_complete(system: System, example: Example) -> None:
    """The class has a complete card."""
    card_of(type(system))


@SYSTEMS.add()
def check_evidence_sound(system: System, example: Example) -> None:
    """Stored evidence has every key, verdicts follow from numbers, failures are explained, the card's cost is true."""
    card = type(system).card
    slug = card.slug
    stored = evidence.find_evidence(slug)
    if stored is None:
        return
    problems = [*evidence_problems(slug, stored), *unexplained(stored), *cost_problems(card.cost, stored)]
    expect(not problems, f"evidence/{slug}.json: {'; '.join(problems)}.")


@SYSTEMS.add()
def check_expected_failures_exist(system: System, example: Example) -> None:
    """Every declared failure names a check."""
    unknown = SYSTEMS.unknown(type(system))
    expect(not unknown, f"expected_failures names unknown checks: {', '.join(unknown)}.")


@SYSTEMS.add()
def check_examples_listed(system: System, example: Example) -> None:
    """`examples()` gives two or three configurations with names of their own."""
    names = [item.name for item in type(system).examples()]
    expect(2 <= len(names) <= 3, f"examples() must give two or three, got {len(names)}.")
    expect(len(set(names)) == len(names), f"examples() must have different names, got {names}.")


@SYSTEMS.add()
def check_example_quick(system: System, example: Example) -> None:
    """Fitting and predicting an example takes less than two seconds (the better of two tries)."""
    seconds = observe(system, example).seconds
    if seconds > SECONDS:
        with Stopwatch() as again:
            fitted_outputs(system, example)
        seconds = min(seconds, again.seconds)
    expect(seconds <= SECONDS * SLACK, f"expected less than {SECONDS:g} s for fit and predict, got {seconds:.1f} s.")


# Construction ----------------------------------------------------------------------------------------------------


@SYSTEMS.add()
def check_builds_with_defaults(system: System, example: Example) -> None:
    """The constructor needs no argument, and names `prior="paper"`, `random_state` and `device`."""
    signature = inspect.signature(type(system).__init__)
    for name, allowed in (("prior", ("paper",)), ("random_state", (None, 0)), ("device", ("auto",))):
        expect(name in signature.parameters, f"the constructor must take {name!r}.")
        default = signature.parameters[name].default
        expect(default in allowed, f"the default of {name} must be {' or '.join(map(repr, allowed))}, got {default!r}.")
    type(system)()


@SYSTEMS.add()
def check_constructor_stores_only(system: System, example: Example) -> None:
    """The constructor takes any object, stores it untouched under its own name, and does nothing else."""
    names = type(system)._get_param_names()
    marks = {name: object() for name in names}
    built = type(system)(**marks)
    for name in names:
        expect(getattr(built, name, None) is marks[name], f"the constructor must store {name} unchanged.")
    extra = sorted(set(vars(built)) - set(names))
    expect(not extra, f"the constructor must only store its arguments, but also set {', '.join(extra)}.")


@SYSTEMS.add()
def check_clone_keeps_settings(system: System, example: Example) -> None:
    """scikit-learn's `clone` gives an unfitted system with the same settings."""
    fitted = observe(system, example).system
    copied = clone(fitted)
    expect(type(copied) is type(system), f"clone gave a {type(copied).__name__}.")
    before, after = fitted.get_params(deep=False), copied.get_params(deep=False)
    changed = [name for name in before if repr(before[name]) != repr(after.get(name))]
    expect(not changed, f"clone changed the settings {', '.join(changed)}.")
    expect(not copied.__sklearn_is_fitted__(), "a clone must not be fitted.")


# Fitting ---------------------------------------------------------------------------------------------------------


@SYSTEMS.add()
def check_fit_returns_self(system: System, example: Example) -> None:
    """`fit` gives the system itself, so that calls can be chained."""
    fresh = rebuild(system)
    result = fresh.fit(example.X, example.y, **example.named)
    expect(result is fresh, f"fit must return the system itself, got {type(result).__name__}.")


@SYSTEMS.add()
def check_data_left_alone(system: System, example: Example) -> None:
    """Neither fitting nor predicting changes a byte of the caller's data, which may be read-only, or of a network."""
    originals = (example.X, example.y, inputs.new_rows(example), example.named)
    kept = tuple(copy.deepcopy(item) for item in originals[1:])
    kept = (copy.deepcopy(example.X) if learns_from_rows(system, example) else example.X, *kept)
    for array in kept:
        if isinstance(array, np.ndarray):
            array.flags.writeable = False
    outputs(rebuild(system).fit(kept[0], kept[1], **kept[3]), kept[2])
    for name, now, before in zip(("X", "y", "X_new", "a named input"), kept, originals, strict=True):
        expect(inputs.same_data(now, before), f"{name} was changed.")


@SYSTEMS.add()
def check_settings_left_alone(system: System, example: Example) -> None:
    """Fitting keeps every setting, and what it learns ends in an underscore."""
    fresh = rebuild(system)
    before = fresh.get_params(deep=False)
    text = repr(before)
    fresh.fit(example.X, example.y, **example.named)
    after = fresh.get_params(deep=False)
    changed = [name for name in before if after[name] is not before[name]]
    expect(not changed and repr(after) == text, f"fit changed the settings {', '.join(changed) or 'in place'}.")
    named = [n for n in vars(fresh) if n not in before and not (n.endswith("_") or n.startswith("_"))]
    expect(not named, f"what fit learns must end in '_', got {', '.join(named)}.")


@SYSTEMS.add()
def check_refit_equals_fresh(system: System, example: Example) -> None:
    """A second fit forgets the first one, made on other data."""
    observed = observe(system, example)
    used = rebuild(system)
    if learns_from_rows(system, example):
        used.fit(*inputs.first_half(example.X, example.y), **example.named)
    used.fit(example.X, example.y, **example.named)
    again = outputs(used, inputs.new_rows(example))
    expect_same(observed.outputs, again, observed.exact, "fitted again after other data")


@SYSTEMS.add()
def check_predict_changes_nothing(system: System, example: Example) -> None:
    """Predicting twice gives the same result and leaves no new attribute."""
    fresh = rebuild(system).fit(example.X, example.y, **example.named)
    names, rows = set(vars(fresh)), inputs.new_rows(example)
    first = outputs(fresh, rows)
    expect_same(first, outputs(fresh, rows), 0.0, "predicted twice")
    new = sorted(name for name in set(vars(fresh)) - names if not name.startswith("_"))
    expect(not new, f"predicting set {', '.join(new)}.")


# Seeds and invariances -------------------------------------------------------------------------------------------


@SYSTEMS.add()
def check_same_seed_same_result(system: System, example: Example) -> None:
    """Two fits with one seed agree, on the processor bit for bit."""
    observed = observe(system, example)
    expect_same(observed.outputs, fitted_outputs(system, example), observed.exact, "fitted twice with one seed")


@SYSTEMS.add()
def check_seed_matters_as_tagged(system: System, example: Example) -> None:
    """Another seed gives another result, or none does where `tags.uses_seed` is False."""
    other = fitted_outputs(system, example, random_state=987_654)
    changed = differ(observe(system, example).outputs, other)
    if system.tags.uses_seed:
        expect(changed, "another random_state gave the same result; if no seed matters, set Tags(uses_seed=False).")
    else:
        expect(not changed, "Tags(uses_seed=False) is set, but another random_state gave another result.")


@SYSTEMS.add(lambda system, example: system.tags.batch_split_invariant)
def check_batch_split_invariance(system: System, example: Example) -> None:
    """The prediction of a row does not depend on the rows predicted with it."""
    observed, rows = observe(system, example), inputs.new_rows(example)
    n = inputs.n_rows(rows)
    for index in (np.array([0]), np.arange(n)[n // 3 :], np.arange(n)[::-1]):
        part = {name: values[index] for name, values in observed.outputs.items()}
        found = outputs(observed.system, inputs.take_rows(rows, index))
        expect_same(part, found, system.tags.tolerance, f"predicting {len(index)} of {n} rows")


@SYSTEMS.add(lambda system, example: system.tags.row_order_invariant and learns_from_rows(system, example))
def check_row_order_invariance(system: System, example: Example) -> None:
    """The order of the training rows does not matter."""
    order = np.random.default_rng(0).permutation(inputs.n_rows(example.X))
    y = None if example.y is None else np.asarray(example.y)[order]
    fresh = rebuild(system).fit(inputs.take_rows(example.X, order), y, **example.named)
    found = outputs(fresh, inputs.new_rows(example))
    expect_same(observe(system, example).outputs, found, system.tags.tolerance, "training rows shuffled")


@SYSTEMS.add(lambda system, example: system.tags.column_order_invariant and on_table(system, example))
def check_column_order_invariance(system: System, example: Example) -> None:
    """The order of the columns does not matter."""
    order = np.arange(inputs.n_columns(example.X))[::-1]
    fresh = rebuild(system).fit(inputs.take_columns(example.X, order), example.y, **example.named)
    found = outputs(fresh, inputs.take_columns(inputs.new_rows(example), order))
    before = {name: values for name, values in observe(system, example).outputs.items() if name != "transform"}
    found.pop("transform", None)
    expect_same(before, found, system.tags.tolerance, "columns reversed")


@SYSTEMS.add(lambda system, example: on_table(system, example) or on_array(system, example))
def check_float32_agrees_with_float64(system: System, example: Example) -> None:
    """The same numbers stored in single and double precision give the same result."""
    found = []
    for dtype in (np.float32, np.float64):
        fresh = rebuild(system).fit(inputs.as_float(example.X, dtype), example.y, **example.named)
        found.append(outputs(fresh, inputs.as_float(inputs.new_rows(example), dtype)))
    expect_same(found[0], found[1], system.tags.tolerance, "float32 against float64 storage")


# Predictions -----------------------------------------------------------------------------------------------------


@SYSTEMS.add(has_target)
def check_predictions_well_formed(system: System, example: Example) -> None:
    """One prediction per row: float64 numbers, labels that were seen, or arrays of numbers."""
    fitted, rows = observe(system, example).system, inputs.new_rows(example)
    values = np.asarray(fitted.predict(rows))
    if system._task() == "array":
        expect(
            values.ndim >= 2 and len(values) == inputs.n_rows(rows), f"expected one array a row, got {values.shape}."
        )
        expect(values.dtype.kind == "f" and np.isfinite(values).all(), "expected finite floats.")
        return
    expect(values.shape == (inputs.n_rows(rows),), f"expected shape ({inputs.n_rows(rows)},), got {values.shape}.")
    if system._task() == "classification":
        strange = sorted(set(values.tolist()) - set(np.asarray(example.y).tolist()))
        expect(not strange, f"predicted labels that were not in y: {strange}.")
        expect(np.array_equal(fitted.classes_, np.unique(np.asarray(example.y))), "classes_ must be the labels of y.")
    else:
        expect(values.dtype == np.float64, f"expected float64, got {values.dtype}.")
        expect(np.isfinite(values).all(), "expected finite predictions.")


@SYSTEMS.add(classifies)
def check_probabilities_sum_to_one(system: System, example: Example) -> None:
    """`predict_proba` gives a distribution over `classes_` for every row."""
    fitted, rows = observe(system, example).system, inputs.new_rows(example)
    values = np.asarray(fitted.predict_proba(rows))
    shape = (inputs.n_rows(rows), len(fitted.classes_))
    expect(values.shape == shape, f"expected shape {shape}, got {values.shape}.")
    expect((values >= 0).all(), f"a probability is negative: {values.min()}.")
    gap = float(np.abs(values.sum(axis=1) - 1).max())
    expect(gap < 1e-6, f"probabilities of a row must sum to one, got a gap of {gap:.3g}.")


@SYSTEMS.add(lambda system, example: gives_distributions(system, example) and has_target(system, example))
def check_distribution_agrees_with_predict(system: System, example: Example) -> None:
    """`predict` is the mean, or the likeliest class, of `predict_dist`; `predict_proba` is its probabilities."""
    observed, rows = observe(system, example), inputs.new_rows(example)
    values, tolerance = np.asarray(observed.system.predict(rows)), system.tags.tolerance
    if system._task() == "classification":
        probs = observed.outputs["probabilities"]
        table = np.asarray(observed.system.predict_proba(rows))
        gap = float(np.abs(probs - table).max())
        expect(gap <= tolerance, f"predict_proba differs from predict_dist by {gap:.3g}.")
        chosen = table[np.arange(len(values)), np.searchsorted(observed.system.classes_, values)]
        expect((chosen >= table.max(axis=1) - tolerance).all(), "predict is not the likeliest class.")
    else:
        gap = float(np.abs(values - observed.outputs["mean"]).max())
        expect(gap <= tolerance, f"predict differs from the mean of predict_dist by {gap:.3g}.")


@SYSTEMS.add(classifies)
def check_labels_of_any_kind(system: System, example: Example) -> None:
    """Text, and for two classes booleans, instead of the example's labels: the same result under other names."""
    classes, codes = np.unique(np.asarray(example.y), return_inverse=True)
    kinds: list[NDArray[Any]] = [np.array([f"class {number:04d}" for number in range(len(classes))])]
    if len(classes) == 2:
        kinds.append(np.array([False, True]))
    observed, rows = observe(system, example), inputs.new_rows(example)
    for labels in kinds:
        fresh = rebuild(system).fit(example.X, labels[codes], **example.named)
        what = f"labels of dtype {labels.dtype}"
        expect(fresh.classes_.tolist() == labels.tolist(), f"{what}: classes_ is {fresh.classes_!r}.")
        expect_same(observed.outputs, outputs(fresh, rows), observed.exact, what)
        got = np.asarray(fresh.predict(rows)).tolist()
        expect(set(got) <= set(labels.tolist()), f"{what}: predicted {got[:3]}, expected some of {labels.tolist()}.")


@SYSTEMS.add()
def check_transform_as_tagged(system: System, example: Example) -> None:
    """`transform` exists exactly where `tags.transforms` says so, and gives a finite row per row."""
    fitted, rows = observe(system, example).system, inputs.new_rows(example)
    expect(hasattr(fitted, "transform") == system.tags.transforms, "transform must follow Tags(transforms=...).")
    if system.tags.transforms:
        values = np.asarray(fitted.transform(rows))
        expect(values.ndim >= 2 and len(values) == inputs.n_rows(rows), f"transform gave shape {values.shape}.")


# The prior and its control arm -----------------------------------------------------------------------------------


@SYSTEMS.add(has_prior_on)
def check_prior_object_accepted(system: System, example: Example) -> None:
    """Passing the prior itself is the same as asking for it by name."""
    observed = observe(system, example)
    found = fitted_outputs(system, example, prior=observed.system.prior_)
    expect_same(observed.outputs, found, observed.exact, "prior given as an object")


@SYSTEMS.add(has_prior_on)
def check_off_keeps_budget(system: System, example: Example) -> None:
    """Without its prior the system keeps settings, network size and steps, and still works."""
    fitted = observe(system, example).system
    off = fitted.without_prior()
    before, after = fitted.get_params(deep=False), off.get_params(deep=False)
    changed = [name for name in before if name != "prior" and after[name] is not before[name]]
    expect(not changed, f"without_prior() changed {', '.join(changed)}.")
    off.fit(example.X, example.y, **example.named)
    expect(budget(off) == budget(fitted), f"the budget with prior is {budget(fitted)}, without {budget(off)}.")
    expect(off.prior_ != fitted.prior_, f"switched off, the prior is still {off.prior_!r}.")
    expect(off.prior_.off() == off.prior_, "switching off twice must be switching off once.")
    outputs(off, inputs.new_rows(example))


@SYSTEMS.add(has_placebo)
def check_placebo_keeps_budget(system: System, example: Example) -> None:
    """With a wrong prior the system keeps settings, network size and steps, still works, and answers otherwise."""
    observed = observe(system, example)
    fitted, wrong = observed.system, observed.system.with_wrong_prior()
    before, after = fitted.get_params(deep=False), wrong.get_params(deep=False)
    changed = [name for name in before if name != "prior" and after[name] is not before[name]]
    expect(not changed, f"with_wrong_prior() changed {', '.join(changed)}.")
    wrong.fit(example.X, example.y, **example.named)
    expect(
        budget(wrong) == budget(fitted), f"the budget with prior is {budget(fitted)}, with the wrong {budget(wrong)}."
    )
    expect(
        wrong.prior_ not in (fitted.prior_, fitted.prior_.off()), f"the wrong prior is {wrong.prior_!r}, not another."
    )
    expect(differ(observed.outputs, outputs(wrong, inputs.new_rows(example))), "the wrong prior changes nothing.")


# Saving ----------------------------------------------------------------------------------------------------------


@SYSTEMS.add(saves)
def check_save_load_exact(system: System, example: Example) -> None:
    """A saved and loaded system has the same settings and predicts bit for bit the same, and saves again."""
    observed, rows = observe(system, example), inputs.new_rows(example)
    with tempfile.TemporaryDirectory() as folder:
        path = observed.system.save(Path(folder) / "one.safetensors")
        loaded = type(system).load(path, device=observed.system.device_)
        again = System.load(loaded.save(Path(folder) / "two.safetensors"), device=observed.system.device_)
    for name, found in (("loaded", loaded), ("saved again", again)):
        expect(type(found) is type(system), f"{name}: got a {type(found).__name__}.")
        settings = (to_json(item.get_params(deep=False)) for item in (observed.system, found))
        expect(len({json.dumps(item) for item in settings}) == 1, f"{name}: the settings changed.")
        expect(found.prior_ == observed.system.prior_, f"{name}: prior_ changed.")
        expect_same(observed.outputs, outputs(found, rows), 0.0, name)
        if system._task() == "classification":
            expect(found.classes_.tolist() == observed.system.classes_.tolist(), f"{name}: classes_ changed.")


@SYSTEMS.add(saves)
def check_file_is_safetensors(system: System, example: Example) -> None:
    """The file is plain tensors behind a JSON header: nothing in it can run."""
    with tempfile.TemporaryDirectory() as folder:
        path = observe(system, example).system.save(Path(folder) / "one.safetensors")
        path = path / FILE_IN_FOLDER if path.is_dir() else path
        raw = path.read_bytes()
        size = int.from_bytes(raw[:8], "little")
        expect(0 < size < len(raw) and raw[8:9] == b"{", "expected a safetensors file.")
        header = json.loads(raw[8 : 8 + size])
        expect("__metadata__" in header, "the header holds no metadata.")
        with safe_open(path, framework="pt") as file:
            expect(set(file.keys()) == set(header) - {"__metadata__"}, "the tensors are not those of the header.")


@SYSTEMS.add()
def check_tensors_on_device(system: System, example: Example) -> None:
    """Every tensor a fitted or loaded system holds lives on its `device_`."""
    observed, rows = observe(system, example), inputs.new_rows(example)
    found = [observed.system]
    if saves(system, example):
        devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
        with tempfile.TemporaryDirectory() as folder:
            path = observed.system.save(Path(folder) / "one.safetensors")
            found += [type(system).load(path, device=device) for device in devices]
    for one in found:
        left = [f"{path} on {t.device}" for path, t in tensors_within(one) if t.device.type != one.device_.type]
        expect(not left, f"device_ is {one.device_}, but left behind are {', '.join(left[:5])}.")
        expect_same(observed.outputs, outputs(one, rows), max(observed.exact, system.tags.tolerance), str(one.device_))


# The process it runs in ------------------------------------------------------------------------------------------


@SYSTEMS.add()
def check_global_random_state_untouched(system: System, example: Example) -> None:
    """Nothing is drawn from a global generator, nor is one seeded."""
    changed = observe(system, example).trace.random
    expect(not changed, f"the global random state of {', '.join(changed)} was used; take a named stream instead.")


@SYSTEMS.add()
def check_global_settings_untouched(system: System, example: Example) -> None:
    """Settings of torch, numpy and the process stay as they were."""
    changed = observe(system, example).trace.settings
    expect(not changed, f"global settings were changed: {', '.join(changed)}.")


@SYSTEMS.add()
def check_no_network(system: System, example: Example) -> None:
    """No connection is opened and no address looked up."""
    attempts = observe(system, example).trace.connections
    expect(not attempts, f"the network was reached for: {', '.join(attempts)}.")


@SYSTEMS.add()
def check_no_printing(system: System, example: Example) -> None:
    """Nothing is written to the terminal."""
    printed = observe(system, example).trace.printed
    expect(not printed, f"something was printed: {printed[:80]!r}.")


@SYSTEMS.add()
def check_no_files_written(system: System, example: Example) -> None:
    """No file is left in the current folder."""
    files = observe(system, example).trace.files
    expect(not files, f"files were left in the current folder: {', '.join(files)}.")


@SYSTEMS.add()
def check_only_own_warnings(system: System, example: Example) -> None:
    """Warnings are of the library's own class."""
    foreign = observe(system, example).trace.foreign_warnings
    expect(not foreign, f"expected warnings of ForeknowWarning only, got {'; '.join(foreign[:3])}.")
