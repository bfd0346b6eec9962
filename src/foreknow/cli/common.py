"""What every verb shares: its options, its errors as messages and exit codes, notes, the progress bar, JSON, tables.

Results go to stdout; messages, notes and bars go to stderr. Exit codes: 0 done, 2 the user's input, 1 ours,
130 interrupted.
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer

from foreknow.common.errors import (
    BrokenPackageError,
    CapabilityError,
    CheckpointError,
    ConfigError,
    ForeknowError,
    ForeknowWarning,
    InputError,
    MissingExtraError,
    NotFittedError,
    ResourceError,
)
from foreknow.common.progress import Progress, ProgressCallback

if TYPE_CHECKING:
    import rich.progress
    from rich.console import Console

P = ParamSpec("P")

Slug = Annotated[str, typer.Argument(metavar="SLUG", help="Short name of a system; `foreknow list` shows them all.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of all randomness; the same seed repeats the result.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Preset = Annotated[str, typer.Option("--preset", help="Sizes: quick (seconds), small (minutes) or paper (a GPU).")]

USERS_TO_MEND = (
    InputError,
    ConfigError,
    MissingExtraError,
    BrokenPackageError,
    CapabilityError,
    CheckpointError,
    ResourceError,
    NotFittedError,
)
"""Errors that the caller can do something about: exit code 2."""

DEBUG_VARIABLE = "FOREKNOW_DEBUG"

_MADE: list[Path] = []
"""Folders that this verb made; those that are still empty go again if it fails."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with one line saying what was kept and how to go on."""


# Errors ----------------------------------------------------------------------------------------------------------


def guarded(verb: Callable[P, None]) -> Callable[P, None]:
    """The verb with its errors turned into messages on stderr and exit codes, and its warnings into notes."""

    @functools.wraps(verb)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        _MADE.clear()
        try:
            with _warnings_as_notes():
                verb(*args, **kwargs)
                sys.stdout.flush()
            return
        except typer.Exit:
            raise
        except KeyboardInterrupt as stop:
            say(f"interrupted: {stop if isinstance(stop, Interrupted) else 'no file was left half-written.'}")
            code = 130
        except BrokenPipeError:
            # The reader (`head`, a pager) has seen enough. Python would complain at exit while flushing the rest.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 1
        except ForeknowError as error:
            say(f"error: {error.message}" + (f"\n{error.hint}" if error.hint else ""), colour="red")
            code = 2 if isinstance(error, USERS_TO_MEND) else 1
        except Exception as error:  # noqa: BLE001 - the last resort: whatever it is, people get one line
            say(f"internal error: {_one_line(f'{type(error).__name__}: {error}')} {_report(error)}", colour="red")
            code = 1
        for folder in reversed(_MADE):
            with suppress(OSError):  # something was written there, and stays
                folder.rmdir()
        raise typer.Exit(code)

    return run


def say(text: str, *, colour: str | None = None) -> None:
    """Write `text` to stderr."""
    typer.secho(text, err=True, fg=colour)


def _one_line(text: str, limit: int = 300) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _report(error: Exception) -> str:
    """Show the traceback if asked to, else write it to a file, and say so."""
    from foreknow._version import __version__

    lines = "".join(traceback.format_exception(error))
    if os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0"):
        sys.stderr.write(lines)
        return ""
    try:
        handle, path = tempfile.mkstemp(prefix="foreknow-traceback-", suffix=".txt")
        with open(handle, "w", encoding="utf-8") as file:
            file.write(f"foreknow {__version__}, python {sys.version}\n{sys.argv}\n\n{lines}")
    except OSError:
        return f"({DEBUG_VARIABLE}=1 shows the traceback)"
    return f"(traceback in {path}; {DEBUG_VARIABLE}=1 shows it)"


@contextmanager
def _warnings_as_notes() -> Iterator[None]:
    """Show every warning of ours once, as one line; leave other warnings to Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", ForeknowWarning)
        others, seen = warnings.showwarning, set[str]()

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: Any = None,
            line: Any = None,
        ) -> None:
            if not issubclass(category, ForeknowWarning):
                others(message, category, filename, lineno, file, line)
            elif str(message) not in seen:
                seen.add(str(message))
                say(f"note: {' '.join(str(message).split())}", colour="yellow")

        warnings.showwarning = show
        yield


def output_folder(path: Path) -> Path:
    """`path` as a folder one may write to, made if need be, and taken back if the verb fails and leaves it empty.

    Raises:
        InputError: it is a file, or cannot be made or written.
    """
    _MADE.extend(reversed([folder for folder in (path, *path.parents) if not folder.exists()]))
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "it is a file" if isinstance(error, FileExistsError) else str(error.strerror)
        raise InputError(
            f"cannot use the folder {str(path)!r}: {reason}.", hint="Choose another with --out."
        ) from error
    if not os.access(path, os.W_OK):
        raise InputError(f"cannot write to the folder {str(path)!r}.", hint="Choose another with --out.")
    return path


def options(owner: str, given: Sequence[str] | None) -> dict[str, str]:
    """`NAME=VALUE` words as a mapping.

    Raises:
        ConfigError: a word without "=", or a name twice.
    """
    found: dict[str, str] = {}
    for word in given or ():
        name, equals, value = word.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"{owner} takes NAME=VALUE, got {word!r}.")
        if name.strip() in found:
            raise ConfigError(f"{owner} was given {name.strip()!r} twice.")
        found[name.strip()] = value.strip()
    return found


# Progress --------------------------------------------------------------------------------------------------------


class ProgressBar:
    """Context manager that gives a `ProgressCallback` and draws what it is told as a bar with the time left.

    Nothing is drawn unless stderr is a terminal, nor in the first two seconds.

    Args:
        label: what is being done, in a few words.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._bar: rich.progress.Progress | None = None
        self._task: Any = None
        self._terminal = False
        self._start = 0.0

    def __enter__(self) -> ProgressCallback:
        self._terminal = sys.stderr.isatty()
        self._start = time.perf_counter()
        return self._show

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _show(self, progress: Progress) -> None:
        if not self._terminal or time.perf_counter() - self._start < 2.0:
            return
        if self._bar is None:
            self._bar = _new_bar()
            self._task = self._bar.add_task(self._label, left="", note="")
            self._bar.start()
        left = "" if progress.seconds_left is None else f"{duration(progress.seconds_left)} left"
        self._bar.update(self._task, completed=progress.done, total=progress.total, left=left, note=progress.note)


def _new_bar() -> rich.progress.Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[left]}", markup=False),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(stderr=True),
        transient=True,
    )


# Output ----------------------------------------------------------------------------------------------------------


def emit(record: Mapping[str, Any], json_wanted: bool) -> bool:
    """Print `record` as one JSON object if `json_wanted`; returns whether it did, so that text can follow if not.

    The JSON is strict: numbers that are not finite become null.
    """
    if json_wanted:
        sys.stdout.write(json.dumps(_strict(record), ensure_ascii=False, allow_nan=False, indent=1) + "\n")
    return json_wanted


def _strict(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_strict(item) for item in value]
    if hasattr(value, "tolist"):  # numpy arrays and scalars, torch tensors
        return _strict(value.tolist())
    return str(value)


def console() -> Console:
    """Where text for people goes: stdout, plain, and unwrapped where it is not a terminal."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 100_000
    return Console(markup=False, highlight=False, emoji=False, width=width)


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table; numbers are shortened to four digits and set to the right.

    Without any column name there is no header; a title stands over the table after an empty line.
    """
    import rich.box
    from rich.table import Table

    cells = [list(row) for row in rows]
    table = Table(
        title=title or None, title_justify="left", title_style="bold", box=rich.box.SIMPLE_HEAD, pad_edge=False,
        show_edge=False, show_header=any(columns),
    )  # fmt: skip
    for index, name in enumerate(columns):
        numeric = any(isinstance(row[index], int | float) for row in cells)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*[figure(value) for value in row])
    out = console()
    if title:
        out.print()
    out.print(table)


def figure(value: Any) -> str:
    """A value as people read it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(figure, value))}]"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {figure(item)}" for key, item in value.items()) or "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """`seconds` as "8 s", "3:20" or "2:03:20"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def short_name(cls: type) -> str:
    """A prior class as people write it: `TabularBNNPrior` -> "tabular-bnn"."""
    name = cls.__name__.removesuffix("Prior") or cls.__name__
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower()
