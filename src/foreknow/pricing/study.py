"""`price`: with a prior, without it, with a wrong one, and the plain methods, on the same splits of the same data."""

from __future__ import annotations

import itertools
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib import metadata
from pathlib import Path

from foreknow._version import __version__
from foreknow.common.errors import ConfigError, InputError
from foreknow.common.files import hash_bytes
from foreknow.common.progress import ProgressCallback
from foreknow.common.validate import check_int, check_option
from foreknow.core.registry import lookup
from foreknow.core.system import System
from foreknow.pricing.analysis import AS_IS, analyse
from foreknow.pricing.arms import Arm, TableRun, as_arm, check_arms, plain_arms, system_arms, tables_of
from foreknow.pricing.engine import run_cells
from foreknow.pricing.records import Cell, Outcome, Price
from foreknow.pricing.schedule import Plan, estimate
from foreknow.pricing.scoring import MEASURES
from foreknow.pricing.sources import Source, as_sources, builtin_tables
from foreknow.pricing.store import Store

ENGINES = ("local", "ray")
MOST_SIZES = 6
_PACKAGES = ("torch", "numpy", "scipy", "scikit-learn")


def price(
    system: str | System | type[System] | None = None,
    data: object = None,
    *,
    target: str | None = None,
    task: str = "auto",
    groups: str | None = None,
    arms: Mapping[str, object] | Sequence[str | Arm] | None = None,
    sizes: Sequence[int] | None = None,
    seeds: int = 5,
    budget: str | float | None = None,
    measure: str | None = None,
    margin: float | None = None,
    name: str = "",
    store: str | Path | None = None,
    engine: str = "local",
    n_workers: int = 1,
    retry_failed: bool = False,
    progress: ProgressCallback | None = None,
) -> Price:
    """What a prior is worth on some data.

    Every arm learns from the same nested training sets and is measured on the same test rows, for `seeds` shuffles of
    the data. A shuffle with all its sizes and arms is a block; only whole blocks count.

    Args:
        system: a slug, a system or its class; None where `arms` holds everything.
        data: a table (frame, array, `Table`, or path of a csv or parquet file) with `target`, a pair (X, y), a
            `Source`, or a mapping name -> one of these (the tables are then the units of all intervals). None: the
            data the system names, or a small table of scikit-learn's.
        target: the column to predict.
        task: "auto", "classification" or "regression".
        groups: a column that names each row's source; a source is never split.
        arms: names to choose from the system's own ("on", "off", "wrong", and the plain methods by name or all
            together as "plain"), or a mapping name -> estimator, system or function (split, seed) -> losses, whose
            names "on", "off" and "wrong" are roles and all others plain methods; None takes all of the system's.
        sizes: training sizes; by default powers of two up to 1024, at most six.
        seeds: number of shuffles, at least 2; five or more are wanted.
        budget: wall-clock time, in seconds or as "90s", "10m", "2h": no block begins that is not expected to end
            within it.
        measure: the loss that is priced; by default the log-loss, recalibrated on past data.
        margin: differences of the main loss smaller than this count as none, and are tested for equivalence.
        name: of the study, in the store; by default the slug.
        store: SQLite file that keeps every finished cell; a later call repeats none of them. None keeps nothing.
        engine: "local" (processes on this machine) or "ray".
        n_workers: processes, each with one thread.
        retry_failed: run cells again that failed before.
        progress: told after every cell.

    Returns:
        The price: `.line`, `.to_dict()`, `.report(path)`.

    Raises:
        ConfigError: a setting is not allowed, or arms have unequal budgets.
        InputError: the data cannot be used, or fewer than two whole blocks succeeded.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> import foreknow
        >>> price = foreknow.price("tabpfn", load_iris(return_X_y=True), arms=["on", "off"], sizes=[16, 32], seeds=2)
        >>> price.comparisons[0].arm
        'off'
    """
    study = design(
        system, data, target=target, task=task, groups=groups, arms=arms, sizes=sizes, seeds=seeds, name=name
    )
    return study.run(
        budget=budget, measure=measure, margin=margin, store=store, engine=engine, n_workers=n_workers,
        retry_failed=retry_failed, progress=progress,
    )  # fmt: skip


@dataclass(frozen=True)
class Study:
    """A price that is designed and not yet measured.

    Args:
        name: in the store.
        title: for people.
        arms: "on" first.
        sources: the data.
        sizes: training sizes, increasing.
        blocks: the cells, one list a seed.
    """

    name: str
    title: str
    arms: tuple[Arm, ...]
    sources: tuple[Source, ...]
    sizes: tuple[int, ...]
    blocks: tuple[tuple[Cell, ...], ...]

    @property
    def cells(self) -> list[Cell]:
        """All cells, block after block."""
        return [cell for block in self.blocks for cell in block]

    def plan(self, store: str | Path | None = None, *, n_workers: int = 1) -> Plan:
        """Expected time and memory of the cells that the store does not hold."""
        with _opened(store) as cells:
            return estimate(self.cells, cells, n_workers=n_workers)

    def run(
        self,
        *,
        budget: str | float | None = None,
        measure: str | None = None,
        margin: float | None = None,
        store: str | Path | None = None,
        engine: str = "local",
        n_workers: int = 1,
        retry_failed: bool = False,
        progress: ProgressCallback | None = None,
        on_plan: Callable[[Plan], None] | None = None,
        command: str = "",
    ) -> Price:
        """Run the cells that the store does not hold, and price; see `price` for the settings.

        Args:
            on_plan: told what time and memory the run will take, before it begins; where nothing is known of any arm,
                after the first block.
            command: kept in the price, to get it again.
        """
        check_int("price", "n_workers", n_workers, low=1)
        check_option("price", "engine", engine, ENGINES)
        if measure is not None and all(isinstance(arm.run, TableRun) for arm in self.arms):
            check_option("price", "measure", measure, (*MEASURES[self.sources[0].task], AS_IS))
        seconds, start = read_budget(budget), time.perf_counter()
        work = _Work({arm.name: arm for arm in self.arms}, {source.content_hash: source for source in self.sources})
        with _opened(store) as cells:
            run = partial(
                run_cells, work=work, store=cells, engine=engine, n_workers=n_workers, progress=progress,
                retry_failed=retry_failed,
            )  # fmt: skip
            if on_plan is not None:
                ahead = estimate(self.cells, cells, n_workers=n_workers)
                if math.isnan(ahead.seconds):
                    run(self.blocks[:1])
                    ahead = estimate(self.cells, cells, n_workers=n_workers)
                on_plan(ahead)
            left = None if seconds is None else max(0.0, seconds - (time.perf_counter() - start))
            summary = run(self.blocks, budget_s=left)
            trials = {cell.key: trial for cell in self.cells if (trial := cells.get(cell.key)) is not None}
        return analyse(
            self.name, self.arms, self.sources, self.sizes, self.blocks, trials, title=self.title, measure=measure,
            margin=margin, stopped=summary.stopped, seconds=time.perf_counter() - start, command=command,
        )  # fmt: skip


def design(
    system: str | System | type[System] | None = None,
    data: object = None,
    *,
    target: str | None = None,
    task: str = "auto",
    groups: str | None = None,
    arms: Mapping[str, object] | Sequence[str | Arm] | None = None,
    sizes: Sequence[int] | None = None,
    seeds: int = 5,
    name: str = "",
) -> Study:
    """The arms, data and cells of a price, checked and not yet run; see `price` for the settings."""
    check_int("price", "seeds", seeds, low=2)
    kind = _kind_of(system)
    if data is None:
        wanted = _wanted(kind, task)
        data = dict((kind.priced_on(wanted) if kind is not None else {}) or _builtin(kind, wanted))
    elif kind is not None and not tables_of(kind):
        data = _as_samples(kind, data)
    sources = as_sources(data, target=target, task=task, groups=groups)
    task = sources[0].task
    if any(source.task != task for source in sources):
        raise ConfigError(f"price: the data hold different tasks: {[source.task for source in sources]}.")
    hashes = [source.content_hash for source in sources]
    if len(set(hashes)) < len(hashes):
        raise InputError("price: the same table was given twice; each is a unit of the intervals and counts once.")
    whole = _whole_system(system, kind, task)
    chosen, grid = choose_arms(whole, task, arms), choose_sizes(sources, sizes)
    study = name or (whole.card.slug if whole is not None else "study")
    versions = {"foreknow": _own_version(), **{package: metadata.version(package) for package in _PACKAGES}}
    blocks = tuple(
        tuple(
            Cell(
                study, source.name, source.content_hash, arm.name, size, seed,
                {"arm": dict(arm.settings), "budget": dict(arm.budget), "following": later}, versions,
            )
            for source in sources for size, later in grid.items() for arm in chosen
        )
        for seed in range(seeds)
    )  # fmt: skip
    title = study if whole is None else f"{type(whole).__name__} ({whole.card.slug})"
    return Study(study, title, chosen, tuple(sources), tuple(grid), blocks)


@cache
def _own_version() -> str:
    """The package's version and a hash of its code and weights: no cell of other code is taken for its own."""
    package = Path(__file__).resolve().parents[1]
    files = sorted(path for path in package.rglob("*") if path.suffix in (".py", ".safetensors"))
    return f"{__version__}+{hash_bytes(*(path.read_bytes() for path in files))[:12]}"


@contextmanager
def _opened(store: str | Path | None) -> Iterator[Store]:
    """The store, or one that is thrown away."""
    with tempfile.TemporaryDirectory() as folder, Store.open(store or Path(folder) / "cells.sqlite") as cells:
        yield cells


def read_budget(budget: str | float | None) -> float | None:
    """Seconds of "90s", "10m", "2h" or a number; None stays None.

    Raises:
        ConfigError: it is none of these, or not positive.
    """
    if budget is None:
        return None
    text = str(budget).strip().lower()
    factor = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(text[-1:], 1.0)
    try:
        seconds = float(text.rstrip("smh")) * factor
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"price: budget must be a positive time such as '90s', '10m' or '2h', got {budget!r}.")
    return seconds


def choose_sizes(sources: Sequence[Source], sizes: Sequence[int] | None) -> dict[int, int]:
    """Training sizes, increasing -> how many rows the next one adds (0 for the last).

    Raises:
        ConfigError, InputError: sizes that a source does not have.
    """
    low, high = max(source.n_min for source in sources), min(source.n_max for source in sources)
    if sizes is None:
        powers = [2**k for k in range(3, 11) if max(low, 16 if high >= 32 else 8) <= 2**k <= high]
        wanted = powers[-MOST_SIZES:] or [high]
    else:
        wanted = sorted({check_int("price", "sizes", size, low=1) for size in sizes})
        if not wanted or wanted[0] < low or wanted[-1] > high:
            raise InputError(
                f"price: sizes must lie between {low} and {high} on these data, got {list(sizes)}.",
                hint="The rest of the rows are for the test; every class needs a few rows to learn from.",
            )
    return dict(zip(wanted, [*(after - before for before, after in itertools.pairwise(wanted)), 0]))


def choose_arms(
    system: System | None, task: str, arms: Mapping[str, object] | Sequence[str | Arm] | None
) -> tuple[Arm, ...]:
    """The arms of a study, "on" first, checked.

    Raises:
        ConfigError: unknown names, or arms that cannot be compared.
    """
    own = () if system is None else (*system_arms(system), *plain_arms(system, task))
    if arms is None:
        found = list(own)
    elif isinstance(arms, Mapping):
        found = [
            as_arm(key, thing, role=key if key in ("on", "off", "wrong") else "plain") for key, thing in arms.items()
        ]
        if not any(arm.role == "on" for arm in found):
            found += [arm for arm in own if arm.role == "on"]
    else:
        names = {arm.name: (arm,) for arm in own} | {"plain": tuple(arm for arm in own if arm.role == "plain")}
        found = []
        for one in arms:
            found += [one] if isinstance(one, Arm) else names[check_option("price", "arms", one, tuple(names))]
    order = {"on": 0, "off": 1, "wrong": 2, "plain": 3, "reference": 4}
    chosen = tuple(sorted(found, key=lambda arm: order[arm.role]))
    check_arms(chosen)
    return chosen


@dataclass(frozen=True)
class _Work:
    """What runs one cell; goes to other processes."""

    arms: Mapping[str, Arm]
    sources: Mapping[str, Source]

    def __call__(self, cell: Cell) -> Outcome:
        split = self.sources[cell.data_hash].split(cell.size, cell.seed, int(cell.settings["following"]))
        return self.arms[cell.arm].run(split, cell.seed)


def _kind_of(system: object) -> type[System] | None:
    if system is None:
        return None
    if isinstance(system, str):
        kind = lookup(system).system
        if kind is None:
            raise InputError(f"{system!r} has priors but no system, so there is nothing to price.")
        return kind
    if isinstance(system, System):
        return type(system)
    if isinstance(system, type) and issubclass(system, System):
        return system
    raise ConfigError(f"price: system must be a slug, a System or its class, got a {type(system).__name__}.")


def _wanted(kind: type[System] | None, task: str) -> str:
    return task if task != "auto" else "classification" if kind is None else kind.priced_as("classification")._task()


def _builtin(kind: type[System] | None, task: str) -> Mapping[str, object]:
    if kind is not None and not tables_of(kind):
        raise InputError(
            f"price: {kind.__name__} learns from no table and names no data of its own.", hint="Give data."
        )
    return builtin_tables(task)


def _as_samples(kind: type[System], data: object) -> object:
    """What a caller gave for a system that learns from no tables: files become sources of what the system reads."""
    if isinstance(data, Mapping):
        return {name: _as_samples(kind, one) for name, one in data.items()}
    return kind.priced_from(Path(data)) if isinstance(data, str | Path) else data


def _whole_system(system: object, kind: type[System] | None, task: str) -> System | None:
    """The system that is measured: the caller's own object, or what the class says for the task."""
    if kind is None:
        return None
    whole = system if isinstance(system, System) else kind.priced_as(task)
    if tables_of(kind) and whole._task() not in (task, "none"):
        raise ConfigError(
            f"price: {type(whole).__name__} is set to {whole._task()}, but the target asks for {task}.",
            hint=f"Set task={task!r}.",
        )
    return whole
