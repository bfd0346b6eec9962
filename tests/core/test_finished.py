"""Parts of a proof that are kept: found again, measured anew when the source changed, whole after a kill."""

from __future__ import annotations

from pathlib import Path

import pytest

from foreknow.core.finished import Finished


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.py").write_text("x = 1\n", encoding="utf-8")
    return tmp_path


def measured(proof: Finished, key: str = "one") -> tuple[list[dict[str, float]], bool]:
    calls: list[int] = []
    records = proof.part(key, lambda: calls.append(1) or [{"loss": 0.25}])  # type: ignore[func-returns-value]
    return records, bool(calls)


def test_a_part_is_measured_once(cache: Path) -> None:
    assert measured(Finished("proof", cache / "source")) == ([{"loss": 0.25}], True)
    again = Finished("proof", cache / "source")
    assert measured(again) == ([{"loss": 0.25}], False)
    assert again.saved_seconds >= 0
    assert measured(again, "two")[1]


def test_changed_source_measures_anew_and_nothing_is_kept_when_not_asked(cache: Path) -> None:
    measured(Finished("proof", cache / "source"))
    (cache / "source" / "a.py").write_text("x = 2\n", encoding="utf-8")
    assert measured(Finished("proof", cache / "source"))[1]
    for _ in range(2):
        assert measured(Finished("other", cache / "source", keep=False))[1]


def test_a_line_that_was_cut_off_is_left_out(cache: Path) -> None:
    measured(Finished("proof", cache / "source"))
    (path,) = (cache / "cache" / "foreknow").iterdir()
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"part": "two", "rec')
    proof = Finished("proof", cache / "source")
    assert not measured(proof)[1]
    assert measured(proof, "two")[1]


def test_changed_source_in_any_folder_measures_anew(cache: Path) -> None:
    (cache / "more").mkdir()
    folders = cache / "source", cache / "more"
    assert measured(Finished("proof", *folders))[1]
    assert not measured(Finished("proof", *folders))[1]
    (cache / "more" / "b.py").write_text("y = 1\n", encoding="utf-8")
    assert measured(Finished("proof", *folders))[1]
