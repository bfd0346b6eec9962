"""A user's files: tables of one task or of many, and images to be completed.

Tables: one row a measurement; a column `target`, further numeric columns as inputs, and for a collection a column that
names the task of every row. To apply, rows whose target is filled are the context, rows whose target is empty are told;
with a column of tasks, each task by itself.

Images: every image is a task, a pixel a row (its place on [-2, 2], its grey value).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from foreknow.common.errors import CapabilityError, ConfigError, ForeknowWarning, InputError
from foreknow.common.progress import ProgressCallback, Reporter
from foreknow.common.rng import numpy_stream
from foreknow.common.validate import check_known
from foreknow.core.pictures import ImageGrid, Lines, Picture
from foreknow.core.source import Sample
from foreknow.core.system import Applied
from foreknow.data.images import ENDINGS, image_files, read_image, write_image
from foreknow.data.readers import read_table, write_csv
from foreknow.data.table import Table
from foreknow.tasks.martingale_np.posterior import FunctionPosterior
from foreknow.tasks.martingale_np.tasks import pixel_places

if TYPE_CHECKING:
    from foreknow.tasks.martingale_np.system import MartingaleNP

Floats = NDArray[np.float64]
TABLE_OPTIONS = ("target", "columns", "task")
IMAGE_OPTIONS = ("mask", "keep", "seed")
_MOST_PIXELS = 4096  # of an image that is learnt from
_SHOWN = 6
_LEVELS = (0.05, 0.95)


def read_training(paths: Sequence[Path], options: Mapping[str, str]) -> Sample:
    """What `fit` takes: rows of a table, with the labels of their tasks if `task` names a column, or pixels of images.

    Raises:
        InputError, ConfigError: the files cannot be used, or an option is unknown.
    """
    owner = "foreknow fit martingale-np"
    if not paths:
        raise InputError(f"{owner}: name a table or images.")
    if _are_images(paths):
        check_known(owner, options, (), what="option")
        return _pixels(image_files(paths))
    check_known(owner, options, TABLE_OPTIONS, what="option")
    if len(paths) != 1:
        raise InputError(f"{owner}: one table is read, {len(paths)} files were named.")
    table = read_table(paths[0])
    columns, target, task = _roles(owner, table, options)
    y = _numbers(owner, table, target)
    X = np.stack([_numbers(owner, table, name) for name in columns], axis=1)
    use = np.isfinite(y) & np.isfinite(X).all(axis=1)
    if not use.any():
        raise InputError(f"{owner}: no row of {paths[0].name!r} has numbers in all columns.")
    named = {} if task is None else {"tasks": _labels(table, task)[use]}
    return Sample(X[use], y[use], named)


def apply(
    system: MartingaleNP,
    inputs: Sequence[str],
    out: Path,
    options: Mapping[str, str],
    progress: ProgressCallback | None = None,
) -> Applied:
    """Tell the rows of a table that have no target, or the pixels of images that are not known."""
    paths = [Path(name) for name in inputs]
    if not paths:
        raise InputError("foreknow apply: name a table or images.")
    if _are_images(paths):
        check_known("foreknow apply martingale-np", options, IMAGE_OPTIONS, what="option")
        return _complete(system, image_files(paths), out, options, progress)
    check_known("foreknow apply martingale-np", options, TABLE_OPTIONS, what="option")
    if len(paths) != 1:
        raise InputError(f"foreknow apply: one table is read, {len(paths)} files were named.")
    return _tell(system, read_table(paths[0]), out, options)


# Tables ---------------------------------------------------------------------------------------------------


def _roles(owner: str, table: Table, options: Mapping[str, str]) -> tuple[list[str], str, str | None]:
    """Input columns, target and column of tasks."""
    task = options.get("task")
    if task is not None:
        table.column(task)
    target = options.get("target", next((name for name in reversed(table.names) if name != task), ""))
    table.column(target)
    if "columns" in options:
        columns = [name.strip() for name in options["columns"].split(",")]
    else:
        columns = [c.name for c in table.columns if c.kind == "numeric" and c.name not in (target, task)]
    if not columns or target in columns or task in columns:
        raise ConfigError(
            f"{owner}: the input columns are {columns}, the target is {target!r}, the tasks are in {task!r}.",
            hint="Name them: --with columns=A,B --with target=Y --with task=T.",
        )
    return columns, target, task


def _numbers(owner: str, table: Table, name: str) -> Floats:
    column = table.column(name)
    if column.kind == "categorical":
        if column.missing.all():  # a column without any value has no kind of its own
            return np.full(table.n_rows, np.nan)
        raise InputError(f"{owner}: the column {name!r} holds text; numbers are wanted.")
    return np.asarray(column.values, dtype=np.float64)


def _labels(table: Table, name: str) -> NDArray[Any]:
    return np.asarray([str(value) for value in table.column(name).values])


def _tell(system: MartingaleNP, table: Table, out: Path, options: Mapping[str, str]) -> Applied:
    owner = "foreknow apply martingale-np"
    columns, target, task = _roles(owner, table, options)
    X = np.stack([_numbers(owner, table, name) for name in columns], axis=1)
    y = _numbers(owner, table, target)
    if not np.isfinite(X).all():
        raise InputError(f"{owner}: every row needs a number in {columns}.")
    labels = np.full(len(y), "") if task is None else _labels(table, task)
    known = np.isfinite(y)
    mean, low, high = (np.full(len(y), np.nan) for _ in range(3))
    shown: dict[str, Picture] = {}
    rows = []
    for label in dict.fromkeys(labels.tolist()):
        own = labels == label
        given, asked = own & known, own & ~known
        posterior = system.condition(X[given], y[given]) if given.any() else system.posterior_
        if asked.any():
            dist = posterior.predict(X[asked])
            mean[asked] = dist.mean().numpy()
            low[asked], high[asked] = (dist.quantile(level).numpy() for level in _LEVELS)
        rows.append([label or "all", int(given.sum()), int(asked.sum())])
        if len(columns) == 1 and len(shown) < _SHOWN:
            name = f"task-{len(shown) + 1}" if task is not None else "functions"
            shown[name] = functions_picture(posterior, X[own], X[given], y[given], columns[0], target, label)
    if not (~known).any():
        raise InputError(
            f"{owner}: every row has a target, so there is nothing to tell.",
            hint=f"Leave {target!r} empty in the rows to be predicted.",
        )
    path = out / "predictions.csv"
    cells: dict[str, Sequence[Any]] = {column.name: column.values.tolist() for column in table.columns}
    new = {f"{target}_mean": mean, f"{target}_low": low, f"{target}_high": high}
    write_csv(path, {**cells, **{name: values.tolist() for name, values in new.items()}})
    record = {"n_known": int(known.sum()), "n_told": int((~known).sum()), "n_tasks": len(rows), "file": str(path)}
    return Applied(record, (("task", "known rows", "told rows"), rows), shown, (path,))


def functions_picture(
    posterior: FunctionPosterior, X: Floats, known_x: Floats, known_y: Floats, x_label: str, y_label: str, title: str
) -> Lines:
    """Mean with a 90% band and a few functions over the range of X, and the known rows."""
    grid = np.linspace(X[:, 0].min(), X[:, 0].max(), 101)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ForeknowWarning)  # of rows far away, which `predict` has told of
        dist = posterior.predict(grid[:, None])
        drawn = posterior.sample(grid[:, None], 4, with_noise=False)
    lines: dict[str, Any] = {"mean": dist.mean().numpy()}
    lines |= {f"function {i + 1}": row for i, row in enumerate(drawn)}
    axes: dict[str, Any] = dict.fromkeys(lines, grid)
    if len(known_y):
        order = np.argsort(known_x[:, 0], kind="stable")
        lines["known"], axes["known"] = known_y[order], known_x[order, 0]
    low, high = (dist.quantile(level).numpy() for level in _LEVELS)
    dots = ("known",) if len(known_y) else ()
    return Lines(axes, lines, x_label, y_label, title=title, bands={"mean": (low, high)}, dots=dots)


# Images ---------------------------------------------------------------------------------------------------


def _are_images(paths: Sequence[Path]) -> bool:
    return any(path.is_dir() or path.suffix.lower() in ENDINGS for path in paths)


def _pixels(files: Sequence[Path]) -> Sample:
    """Pixels of every image as rows, its number as their task."""
    places, values, tasks = [], [], []
    for number, file in enumerate(files):
        grey = read_image(file, channels=1)[0]
        place = pixel_places(*grey.shape).double().numpy()
        chosen = numpy_stream(number, "martingale-np", "pixels").permutation(len(place))[:_MOST_PIXELS]
        places.append(place[chosen])
        values.append(grey.ravel()[chosen].astype(np.float64))
        tasks.append(np.full(len(chosen), number))
    return Sample(np.concatenate(places), np.concatenate(values), {"tasks": np.concatenate(tasks)})


def complete(posterior_of: Any, image: Floats, known: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """An image (H, W) completed from its known pixels, and the standard deviation of every pixel.

    Args:
        posterior_of: (rows, targets) -> `FunctionPosterior`, such as `MartingaleNP.condition`.
        image: grey values in [0, 1]; those that are not known are not read.
        known: which pixels are, shape (H, W).
    """
    place = pixel_places(*image.shape).double().numpy()
    seen = known.ravel()
    dist = posterior_of(place[seen], image.ravel()[seen].astype(np.float64)).predict(place)
    mean = np.where(seen, image.ravel(), np.clip(dist.mean().numpy(), 0.0, 1.0))
    sd = np.where(seen, 0.0, dist.variance().sqrt().numpy())
    return mean.reshape(image.shape), sd.reshape(image.shape)


def _complete(
    system: MartingaleNP,
    files: Sequence[Path],
    out: Path,
    options: Mapping[str, str],
    progress: ProgressCallback | None,
) -> Applied:
    owner = "foreknow apply martingale-np"
    if system.network_.n_features != 2:
        raise CapabilityError(
            f"{owner}: this system knows rows of {system.network_.n_features} column(s); pixels have two.",
            hint="Fit it to images: foreknow fit martingale-np FOLDER.",
        )
    if ("mask" in options) == ("keep" in options):
        raise ConfigError(
            f"{owner}: which pixels are known?",
            hint="Give --with mask=FILE (white where known), or --with keep=0.3 to hide the rest of a whole image.",
        )
    share = _share(owner, options["keep"]) if "keep" in options else 0.0
    seed = _whole(owner, options.get("seed", "0"))
    reporter = Reporter(progress, len(files))
    grid: list[list[Any]] = []
    rows: list[list[Any]] = []
    written: list[Path] = []
    for number, file in enumerate(files):
        image = read_image(file, channels=1)[0].astype(np.float64)
        if "mask" in options:
            known = read_image(options["mask"], channels=1)[0] > 0.5
            if known.shape != image.shape:
                raise InputError(f"the mask has {known.shape} pixels, {file.name} has {image.shape}.")
        else:
            known = numpy_stream(seed, "martingale-np", "keep", str(number)).random(image.shape) < share
        mean, sd = complete(system.condition, image, known)
        path = out / f"{file.stem}-completed.png"
        written.append(write_image(path, mean[None]))
        error = float(np.sqrt(np.mean((mean - image)[~known] ** 2))) if "keep" in options and (~known).any() else None
        rows.append([file.name, int(known.sum()), known.size, "" if error is None else f"{error:.3f}"])
        if len(grid) < _SHOWN:
            grid.append([np.where(known, image, 0.5), mean, np.clip(2 * sd, 0, 1), image if share else None])
        reporter.advance(number + 1, file.name)
    pictures = {
        "completed": ImageGrid(grid, ("known", "completed", "uncertainty", "whole"), [row[0] for row in rows[:_SHOWN]])
    }
    head = ("image", "known pixels", "pixels", "error of the rest")
    return Applied(
        {"n_images": len(files), "files": [str(path) for path in written]}, (head, rows), pictures, tuple(written)
    )


def _whole(owner: str, text: str) -> int:
    if not text.isdigit():
        raise ConfigError(f"{owner}: seed must be a whole number from 0, got {text!r}.")
    return int(text)


def _share(owner: str, text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise ConfigError(f"{owner}: keep must be a share of the pixels, at least 0 and less than 1, got {text!r}.")
    return share
