"""A user's files: pairs of fields to learn from, and predictions with pictures for new ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.files import atomic_path
from foreknow.common.progress import ProgressCallback, Reporter
from foreknow.common.validate import check_known
from foreknow.core.pictures import ImageGrid
from foreknow.core.source import Sample
from foreknow.core.system import Applied
from foreknow.data.pde.files import read_fields, read_trajectories, steps_of

if TYPE_CHECKING:
    from foreknow.physics.mgno.system import OperatorRegressor

OPTIONS = {
    "input": "name of the input array",
    "output": "name of the output array",
    "subsample": "keep every so many-th node",
    "trajectories": "name of an array (n, H, W, T), whose steps are learnt",
}
_APPLY = {
    **{name: OPTIONS[name] for name in ("input", "output", "subsample")},
    "steps": "how often to apply it in turn",
}
_SHOWN = 4


def read_sample(
    paths: Sequence[Path], options: Mapping[str, str], *, need_outputs: bool, known: Mapping[str, str] = OPTIONS
) -> Sample:
    """Pairs of fields from a user's files.

    Raises:
        ConfigError: an unknown option, or one that is no number where one is needed.
        InputError: the files cannot be used.
    """
    check_known("mgno", options, known, what="option")
    subsample = whole(options, "subsample", 1)
    if "trajectories" in options:
        if len(paths) != 1:
            raise InputError("mgno: trajectories are read from one file.")
        steps = steps_of(read_trajectories(paths[0], options["trajectories"], subsample=subsample))
        return Sample(steps.X, steps.y)
    if not paths:
        raise InputError("mgno: name a file with fields.", hint="An .npz with arrays a and u, for instance.")
    names = None
    if "input" in options or "output" in options:
        names = options.get("input", "a"), options.get("output", "u")
    return Sample(*read_fields(paths, names=names, subsample=subsample, need_outputs=need_outputs))


def whole(options: Mapping[str, str], name: str, default: int) -> int:
    """An option that is a whole number from 1."""
    text = options.get(name, str(default))
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"mgno: {name} must be a whole number from 1, got {text!r}.")
    return int(text)


def apply(
    system: OperatorRegressor,
    paths: Sequence[Path],
    out: Path,
    options: Mapping[str, str],
    progress: ProgressCallback | None,
) -> Applied:
    """Write predictions.npz with the array u, with an axis of steps where there are several; show the first."""
    sample = read_sample(paths, options, need_outputs=False, known=_APPLY)
    n_steps = whole(options, "steps", 1)
    reporter = Reporter(progress, 2)
    predicted = system.predict(sample.X) if n_steps == 1 else system.rollout(sample.X, n_steps)
    reporter.advance(1, "predicted")
    path = out / "predictions.npz"
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, u=predicted)
    first = predicted if n_steps == 1 else predicted[:, 0]
    record: dict[str, Any] = {"n_fields": len(predicted), "shape": list(predicted.shape), "file": path.name}
    table = None
    if sample.y is not None:
        errors = system.losses(system, sample) if n_steps == 1 else {}
        record["errors"] = dict(errors)
        table = (("relative error", "mean"), [[name, f"{value:.4g}"] for name, value in errors.items()])
    reporter.advance(2, "written")
    return Applied(record, table, {"fields": show(sample.X, first, sample.y)}, (path,))


def show(X: NDArray[Any], predicted: NDArray[Any], truth: NDArray[Any] | None) -> ImageGrid:
    """Input, prediction, and where it is known the truth and the error of the first fields; first channels."""
    titles = ["input", "prediction"] + (["truth", "error"] if truth is not None else [])
    rows = []
    for number in range(min(_SHOWN, len(X))):
        row = [_to_unit(X[number, 0])]
        if truth is None:
            row.append(_to_unit(predicted[number, 0]))
        else:
            both = np.stack([predicted[number, 0], truth[number, 0]])
            row += [*_to_unit(both), _to_unit(np.abs(both[0] - both[1]))]
        rows.append(row)
    return ImageGrid(rows, column_titles=titles, row_titles=[f"field {number + 1}" for number in range(len(rows))])


def _to_unit(values: NDArray[Any]) -> NDArray[np.float64]:
    """Values on [0, 1], the smallest 0 and the largest 1; a constant is 0."""
    low, high = float(values.min()), float(values.max())
    return np.asarray((values - low) / (high - low) if high > low else np.zeros_like(values), dtype=np.float64)
