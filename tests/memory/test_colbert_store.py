import json
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from foreknow.common.errors import CheckpointError, InputError
from foreknow.core.system import load
from foreknow.memory import LateInteraction
from foreknow.memory.colbert import store

TEXTS = ["a tax on sugar", "the last train to the coast", "bread and salt", "clocks of the tower", ""]
QUERIES = ["when does the train leave", "salt", "the tower clock"]


def fitted(texts: list[str] = TEXTS, seed: int = 0) -> LateInteraction:
    return LateInteraction(encoder="tiny", dim=16, random_state=seed).fit(texts)


def answers(system: LateInteraction) -> list[tuple[tuple[str, ...], list[float]]]:
    return [(ranking.ids, ranking.scores.tolist()) for ranking in system.search(QUERIES, 3)]


def test_the_index_is_read_from_its_files(tmp_path: Path) -> None:
    system = fitted()
    system.save(tmp_path / "index")
    loaded = load(tmp_path / "index")
    assert isinstance(loaded, LateInteraction)
    assert answers(loaded) == answers(system)
    assert isinstance(loaded.index_.segments[0].codes, np.memmap)
    assert loaded.index_.text("1") == TEXTS[1]


def test_changes_write_new_files_only(tmp_path: Path) -> None:
    fitted().save(tmp_path / "index")
    folder = tmp_path / "index" / "index"
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npy")}
    system = LateInteraction.load(tmp_path / "index")
    system.add([{"id": "new", "text": "the ferry to the island"}])
    system.delete(["0"])
    expected = answers(system)
    system.save_changes()
    after = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npy")}
    kept = before.keys() & after.keys()
    assert len(kept) >= len(before) - 1  # but for the marks of what is deleted
    assert all(before[name] == after[name] for name in kept)
    again = LateInteraction.load(tmp_path / "index")
    assert answers(again) == expected
    assert sorted(again.index_.ids()) == ["1", "2", "3", "4", "new"]
    again.compact()
    again.save_changes()
    assert len(LateInteraction.load(tmp_path / "index").index_.segments) == 1


def test_a_reader_keeps_the_version_that_it_opened(tmp_path: Path) -> None:
    fitted().save(tmp_path / "index")
    reader = LateInteraction.load(tmp_path / "index")
    before = answers(reader)
    writer = LateInteraction.load(tmp_path / "index")
    writer.delete(["1", "2"])
    writer.compact()
    writer.save_changes()
    assert answers(reader) == before
    assert answers(LateInteraction.load(tmp_path / "index")) != before


def test_a_writer_that_missed_a_change_is_refused(tmp_path: Path) -> None:
    fitted().save(tmp_path / "index")
    one, other = (LateInteraction.load(tmp_path / "index") for _ in range(2))
    one.delete(["1"])
    one.save_changes()
    other.delete(["2"])
    with pytest.raises(InputError, match="was changed meanwhile"):
        other.save_changes()
    assert sorted(LateInteraction.load(tmp_path / "index").index_.ids()) == ["0", "2", "3", "4"]


def test_another_fit_takes_the_place_of_an_index(tmp_path: Path) -> None:
    fitted().save(tmp_path / "index")
    other = fitted(["one", "two words"], seed=1)
    other.save(tmp_path / "index")
    assert sorted(LateInteraction.load(tmp_path / "index").index_.ids()) == ["0", "1"]


def _build_and_die(folder: str, after: int) -> None:
    """Save another index, and be killed when so many files are written."""
    add = store._Writer.add

    def count(self: store._Writer, *arguments: object) -> str:
        if len(self.files) >= after:
            os.kill(os.getpid(), signal.SIGKILL)
        return add(self, *arguments)  # type: ignore[arg-type]

    store._Writer.add = count  # type: ignore[assignment, method-assign]
    system = LateInteraction(encoder="tiny", dim=24, nbits=4, random_state=5).fit(["other", "texts here"])
    system.save(folder)


def killed_build(folder: Path, after: int) -> int | None:
    """The exit code of a build in another process; a fork would hang, for it would inherit torch's threads."""
    process = multiprocessing.get_context("spawn").Process(target=_build_and_die, args=(str(folder), after))
    process.start()
    process.join(120)
    code = process.exitcode
    process.kill()  # nothing, where it has ended
    return code


@pytest.mark.parametrize("after", [0, 3, 13])
def test_a_build_that_is_killed_leaves_the_old_index(tmp_path: Path, after: int) -> None:
    system = fitted()
    system.save(tmp_path / "index")
    assert killed_build(tmp_path / "index", after) == -signal.SIGKILL
    found = LateInteraction.load(tmp_path / "index")  # the killed one has written its settings already
    assert found.dim == 16
    assert answers(found) == answers(system)
    found.delete(["0"])
    found.save_changes()
    assert not list((tmp_path / "index" / "index").glob("*.part"))
    assert {path.name for path in (tmp_path / "index" / "index").glob("*.npy")} <= set(
        json.loads((tmp_path / "index" / "index" / "manifest.json").read_text())["files"]
    )


def test_a_first_build_that_is_killed_leaves_no_index(tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    assert killed_build(tmp_path / "index", 4) == -signal.SIGKILL
    with pytest.raises(CheckpointError, match="no finished index"):
        LateInteraction.load(tmp_path / "index")


def test_every_damaged_file_is_refused(tmp_path: Path) -> None:
    fitted().save(tmp_path / "index")
    folder = tmp_path / "index" / "index"
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        if not whole:
            continue  # the lock
        for damaged in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b"", b"\x80\x04pickle"):
            path.write_bytes(damaged)
            with pytest.raises(CheckpointError):
                LateInteraction.load(tmp_path / "index")
        path.unlink()
        with pytest.raises(CheckpointError):
            LateInteraction.load(tmp_path / "index")
        path.write_bytes(whole)
    LateInteraction.load(tmp_path / "index")


def rewritten(folder: Path, change: dict[str, object]) -> None:
    """Change the manifest and sign it again, as a stranger could."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    content.pop("hash")
    content.update(change)
    content["hash"] = store._hash(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "change",
    [
        {"segments": []},
        {"segments": [{}]},
        {"segments": 3},
        {"codec": {"centroids": "../../secret.npy"}},
        {"files": {"../../etc/passwd": {"sha256": "", "bytes": 0}}},
        {"system": None},
        {"system": {}},
        {"system": {"params": {"map": {"no_such": 1}}, "prior": None, "seed": 0}},
        {"format_version": 9},
        {"encoder": "none"},
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    fitted().save(tmp_path / "index")
    rewritten(tmp_path / "index" / "index", change)
    with pytest.raises(CheckpointError):
        LateInteraction.load(tmp_path / "index")


def test_arrays_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    fitted().save(tmp_path / "index")
    folder = tmp_path / "index" / "index"
    entry = json.loads((folder / "manifest.json").read_text())["segments"][0]
    for one in entry:
        for other in entry:
            if entry[one] == entry[other]:
                continue
            rewritten(folder, {"segments": [{**entry, one: entry[other]}]})
            try:
                system = LateInteraction.load(tmp_path / "index")
            except CheckpointError:
                continue
            assert {one, other} <= {"ids", "texts", "id_ends", "text_ends"} | {"codes", "lists", "lengths"}, (
                one,
                other,
            )
            answers(system)  # what fits by chance is read without a crash


def test_a_pickle_is_never_read(tmp_path: Path) -> None:
    fitted().save(tmp_path / "index")
    folder = tmp_path / "index" / "index"
    content = json.loads((folder / "manifest.json").read_text())
    bad = np.array([{"a": 1}], dtype=object)
    writer = store._Writer(folder)

    def pickled(path: Path) -> None:
        with open(path, "wb") as file:
            np.save(file, bad, allow_pickle=True)

    name = writer.add(".npy", pickled)
    content["codec"]["centroids"] = name
    rewritten(folder, {"codec": content["codec"], "files": {**content["files"], **writer.files}})
    with pytest.raises(CheckpointError):
        LateInteraction.load(tmp_path / "index")
