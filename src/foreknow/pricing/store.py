"""The store: one SQLite file with one row for every finished cell.

A row is written the moment its cell is finished, so a run that was killed loses at most the cells it was working on,
and a later run repeats nothing. Two processes may fill one store: before a cell is run it is claimed, in one
transaction, and a claim is worth nothing once its process is gone or has been silent for `STALE_S` seconds.

The file is in SQLite's write-ahead mode: readers never wait for writers. That mode needs shared memory, so the file
must lie on a disk of the machine whose processes use it. Several machines share a store through Ray (`engine="ray"`),
where only the process that was started by the user touches the file.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import sqlite3
import stat
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from foreknow.common.errors import ConfigError, ForeknowError, InputError, ResourceError
from foreknow.pricing.records import Cell, Trial

APPLICATION_ID = 0x464B5052
"""Marks the file as ours, at byte 68 of SQLite's header: "FKPR"."""

FORMAT = 1
"""Version of the tables below, SQLite's `user_version`."""

STALE_S = 300.0
"""A claim whose owner has been silent for longer is free again."""

_BUSY_S = 60.0
_CHUNK = 500  # keys in one query; SQLite allows 999 parameters everywhere
_SCHEMA = """
CREATE TABLE trials (
    key TEXT PRIMARY KEY, study TEXT NOT NULL, source TEXT NOT NULL, arm TEXT NOT NULL, size INTEGER NOT NULL,
    seed INTEGER NOT NULL, status TEXT NOT NULL, seconds REAL NOT NULL, wall_s REAL NOT NULL, peak_mb REAL NOT NULL,
    error TEXT NOT NULL, finished TEXT NOT NULL, worker TEXT NOT NULL, cell TEXT NOT NULL, metrics TEXT NOT NULL,
    detail TEXT NOT NULL
);
CREATE INDEX trials_by_arm ON trials (study, arm, size);
CREATE TABLE claims (
    key TEXT PRIMARY KEY, owner TEXT NOT NULL, host TEXT NOT NULL, pid INTEGER NOT NULL, started TEXT NOT NULL,
    heartbeat REAL NOT NULL
);
"""
_READ = "SELECT key, cell, status, metrics, detail, seconds, peak_mb, error, finished, worker, wall_s FROM trials"


class Store:
    """Finished cells in one file; a context manager. Made by `Store.open`.

    One instance serves one run. It may be used by several threads, not by a forked process.
    """

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        self.path = path
        self._db = db
        self._lock = threading.RLock()
        self._owner = secrets.token_hex(8)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """The store at `path`, made if there is none.

        Raises:
            InputError: if `path` is a folder, unreadable, damaged, of another program or of a newer format. Such a
                file is left as it is, byte for byte: it is examined before SQLite may write to it.
        """
        path = Path(path)
        if not os.path.lexists(path):
            _create(path)
        _examine(path)
        with _translated(path):
            db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
            db.execute("PRAGMA synchronous = FULL")
        return cls(path, db)

    def close(self) -> None:
        """Give back every claim and close the file."""
        with self._lock:
            try:
                with self._writing() as db:
                    db.execute("DELETE FROM claims WHERE owner = ?", (self._owner,))
            finally:
                self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Claims --------------------------------------------------------------------------------------------------------

    def claim(self, cells: Iterable[Cell], *, limit: int | None = None, retry_before: str = "") -> list[Cell]:
        """The cells of `cells` that this instance may run now; nobody else is given them meanwhile.

        A cell is given if it has no row and no living claim. A claim is dead if its process, on this host, is gone
        or is another one with the same number, or if it was last renewed more than `STALE_S` seconds ago.

        Args:
            cells: the candidates, the most wanted first.
            limit: at most this many.
            retry_before: cells that failed before this UTC time (ISO 8601) are given again.
        """
        given: list[Cell] = []
        now = time.time()
        with self._writing() as db:
            for cell in cells:
                if len(given) == limit:
                    break
                row = db.execute("SELECT status, finished FROM trials WHERE key = ?", (cell.key,)).fetchone()
                if row and not (row[0] == "failed" and row[1] < retry_before):
                    continue
                claim = db.execute(
                    "SELECT host, pid, started, heartbeat FROM claims WHERE key = ?", (cell.key,)
                ).fetchone()
                if claim and _is_alive(*claim, now=now):
                    continue
                db.execute(
                    "INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?, ?)",
                    (cell.key, self._owner, _host(), os.getpid(), process_start(os.getpid()), now),
                )
                given.append(cell)
        return given

    def heartbeat(self) -> None:
        """Renew all claims of this instance."""
        with self._writing() as db:
            db.execute("UPDATE claims SET heartbeat = ? WHERE owner = ?", (time.time(), self._owner))

    @contextlib.contextmanager
    def beating(self, every_s: float = STALE_S / 10) -> Iterator[None]:
        """Inside the block a thread renews the claims again and again."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(every_s):
                with contextlib.suppress(ForeknowError):  # a file that is locked or full now may not be next time
                    self.heartbeat()

        thread = threading.Thread(target=beat, name="foreknow-store", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def release(self, cells: Iterable[Cell]) -> None:
        """Give claims of this instance back, for cells that were not run."""
        with self._writing() as db:
            db.executemany(
                "DELETE FROM claims WHERE key = ? AND owner = ?", [(cell.key, self._owner) for cell in cells]
            )

    # Trials --------------------------------------------------------------------------------------------------------

    def finish(self, trial: Trial) -> bool:
        """Write a finished cell and drop its claim, in one transaction.

        Returns:
            Whether the row was written. A cell that is done already keeps its first row; one that failed takes the
            newer row.

        Raises:
            ConfigError: if the metrics or the detail are no JSON types.
        """
        cell = trial.cell
        row = (cell.key, cell.study, cell.source, cell.arm, cell.size, cell.seed, trial.status, float(trial.seconds),
               float(trial.wall_s), float(trial.peak_mb), trial.error, trial.finished, trial.worker,
               to_json(cell.to_dict()), to_json(trial.metrics), to_json(trial.detail))  # fmt: skip
        with self._writing() as db:
            written = db.execute(
                f"INSERT INTO trials VALUES ({', '.join('?' * len(row))}) ON CONFLICT (key) DO UPDATE SET "
                "status = excluded.status, seconds = excluded.seconds, wall_s = excluded.wall_s, "
                "peak_mb = excluded.peak_mb, error = excluded.error, finished = excluded.finished, "
                "worker = excluded.worker, metrics = excluded.metrics, detail = excluded.detail "
                "WHERE trials.status = 'failed'",
                row,
            ).rowcount
            db.execute("DELETE FROM claims WHERE key = ? AND owner = ?", (cell.key, self._owner))
        return bool(written == 1)

    def get(self, key: str) -> Trial | None:
        """The trial with this key, or None."""
        rows = self._read(f"{_READ} WHERE key = ?", (key,))
        return self._trial(rows[0]) if rows else None

    def trials(
        self, study: str | None = None, *, source: str | None = None, arm: str | None = None, status: str | None = None
    ) -> list[Trial]:
        """All trials, or those that match, in the order of study, source, arm, size and seed."""
        wanted = {"study": study, "source": source, "arm": arm, "status": status}
        chosen = {name: value for name, value in wanted.items() if value is not None}
        where = " WHERE " + " AND ".join(f"{name} = ?" for name in chosen) if chosen else ""
        order = " ORDER BY study, source, arm, size, seed, key"
        return [self._trial(row) for row in self._read(_READ + where + order, tuple(chosen.values()))]

    def outcomes(self, keys: Iterable[str]) -> dict[str, tuple[str, str, float]]:
        """Status, finishing time and wall-clock seconds of those of `keys` that have a row."""
        rows = self._read_keys("SELECT key, status, finished, wall_s FROM trials", keys)
        return {key: (status, finished, seconds) for key, status, finished, seconds in rows}

    def begun(self, keys: Iterable[str]) -> bool:
        """Whether any of `keys` has a row or is, or was until its process died, claimed."""
        keys = list(keys)
        return any(self._read_keys(f"SELECT key FROM {table}", keys) for table in ("trials", "claims"))

    def export(self, path: str | Path) -> int:
        """Write all trials to a .csv, .json or .parquet file; see `foreknow.pricing.export`.

        Returns:
            The number of trials.
        """
        from foreknow.pricing.export import export_trials

        trials = self.trials()
        export_trials(trials, path)
        return len(trials)

    # SQLite --------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction that holds the write lock from its beginning."""
        with self._lock, _translated(self.path):
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _read(self, query: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        with self._lock, _translated(self.path):
            return self._db.execute(query, values).fetchall()

    def _read_keys(self, query: str, keys: Iterable[str]) -> list[tuple[Any, ...]]:
        keys = list(keys)
        chunks = [keys[i : i + _CHUNK] for i in range(0, len(keys), _CHUNK)]
        return [
            row for part in chunks for row in self._read(f"{query} WHERE key IN ({','.join('?' * len(part))})", part)
        ]

    def _trial(self, row: tuple[Any, ...]) -> Trial:
        key, cell, status, metrics, detail, *rest = row
        try:
            trial = Trial(Cell.from_dict(json.loads(cell)), status, json.loads(metrics), json.loads(detail), *rest)
        except (ValueError, TypeError) as error:
            raise _damaged(self.path, f"the row of cell {key!r:.80} cannot be read ({error})") from error
        if trial.cell.key != key:
            raise _damaged(self.path, f"the row of cell {key!r:.80} holds another cell")
        return trial


def to_json(value: object) -> str:
    """`value` as JSON text; arrays and tensors become lists, and numbers that are not finite stay what they are."""
    try:
        return json.dumps(value, default=_as_plain, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"metrics and detail of a trial must be JSON types or arrays: {error}.",
            hint="Turn other objects into numbers, text, lists or dictionaries.",
        ) from error


def utc_now() -> str:
    """UTC time in ISO 8601, always of the same length, so that texts compare as times do."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def process_start(pid: int) -> str | None:
    """What tells a process from a later one with the same number, or None if there is no such process."""
    if not Path("/proc/self/stat").exists():  # no Linux: whether it exists is all that can be known
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return ""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else f"{_boot()}/{fields[19]}"


def _as_plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} came")


def _is_alive(host: str, pid: int, started: str, heartbeat: float, *, now: float) -> bool:
    if now - heartbeat > STALE_S:
        return False
    return host != _host() or process_start(pid) == started


@cache
def _host() -> str:
    """This machine and, on Linux, the namespace in which its process numbers hold: containers have their own."""
    namespace = Path("/proc/self/ns/pid")
    return f"{platform.node()}/{os.readlink(namespace) if namespace.is_symlink() else ''}"


@cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


# Making and examining the file ---------------------------------------------------------------------------------------


def _create(path: Path) -> None:
    """Make an empty store under a temporary name, whole, and link it to its own; whoever links first wins."""
    if not path.parent.is_dir():
        raise InputError(
            f"cannot make the store {str(path)!r}: the folder {str(path.parent)!r} does not exist.",
            hint=f"Make it first: mkdir -p {path.parent}",
        )
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except (OSError, ValueError) as error:
        raise _refused(path, getattr(error, "strerror", None) or str(error)) from error
    os.close(handle)
    try:
        with _translated(path), contextlib.closing(sqlite3.connect(name, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(_SCHEMA)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {FORMAT}")
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        with contextlib.suppress(FileExistsError):  # another process was quicker
            os.link(name, path)
    except OSError as error:
        raise _refused(path, error.strerror or str(error)) from error
    finally:
        for ending in ("", "-wal", "-shm"):
            Path(name + ending).unlink(missing_ok=True)


def _examine(path: Path) -> None:
    """Refuse whatever is not a sound store of this format, without writing a byte to it."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise InputError(f"{str(path)!r} is no store of trials: it is no regular file.", hint="Name a file.")
        with open(path, "rb") as file:
            head = file.read(100)
    except (OSError, ValueError) as error:
        raise _refused(path, getattr(error, "strerror", None) or str(error)) from error
    if len(head) < 100 or not head.startswith(b"SQLite format 3\0"):
        raise InputError(
            f"{str(path)!r} is no store of trials: it is no SQLite file, or was cut off.",
            hint="Name another file; a new store is made where there is none.",
        )
    if int.from_bytes(head[68:72]) != APPLICATION_ID:
        raise InputError(
            f"{str(path)!r} is a SQLite file of another program, no store of trials.", hint="Name another file."
        )
    version = int.from_bytes(head[60:64])
    if version > FORMAT:
        raise InputError(
            f"{str(path)!r} is a store of format {version}; this version of foreknow reads up to {FORMAT}.",
            hint="Update foreknow, or name another file.",
        )
    if version < 1:
        raise _damaged(path, f"its header names the format {version}")
    wal = Path(f"{path}-wal")
    for _ in range(3):
        live = wal.exists()
        problem = _problem(path, live)
        if not problem:
            return
        if live:
            break  # else someone may have opened the file while it was read as one at rest: look again
    raise _damaged(path, problem)


def _problem(path: Path, live: bool) -> str:
    """What SQLite finds wrong with the file, in one line. Read-only; a file at rest is read without side files."""
    uri = f"{path.absolute().as_uri()}?mode=ro{'' if live else '&immutable=1'}"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_S)) as db:
            found = str(db.execute("PRAGMA quick_check(1)").fetchone()[0])
            if found == "ok":
                db.execute(f"{_READ} LIMIT 0")
                db.execute("SELECT key, owner, host, pid, started, heartbeat FROM claims LIMIT 0")
    except sqlite3.Error as error:
        return str(error)
    return "" if found == "ok" else " ".join(found.split())


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            raise _damaged(path, str(error)) from error
        if name.startswith(("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_CANTOPEN")):
            raise _refused(path, str(error)) from error
        hint = "Free some space." if name == "SQLITE_FULL" else "Is it on a local disk, and no other program holds it?"
        raise ResourceError(f"the store {str(path)!r} could not be used: {error}.", hint=hint) from error


def _refused(path: Path, reason: str) -> InputError:
    return InputError(
        f"cannot open the store {str(path)!r:.300}: {reason}.",
        hint="Choose a file on a local disk that you may read and write.",
    )


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(
        f"the store {str(path)!r} is damaged: {reason:.200}.",
        hint="Nothing in it was changed. Restore a copy, or name another file to begin anew.",
    )
