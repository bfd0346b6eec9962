"""Files of numbers for systems that take matrices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from foreknow.common.errors import ConfigError, InputError
from foreknow.data.numeric import read_numeric


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text("a,b,word,y\n1,2,x,3\n4,5,y,\n6,7,x,9\n", encoding="utf-8")
    return path


def test_rows_and_target_with_names(file: Path) -> None:
    sample = read_numeric("here", [file], {"target": "y", "drop": "word"})
    assert sample.X.columns == ("a", "b")
    assert len(sample.X) == 2
    np.testing.assert_array_equal(np.asarray(sample.X), [[1, 2], [6, 7]])  # the row without a target is left out
    np.testing.assert_array_equal(sample.y, [3, 9])


def test_labels_are_text(file: Path) -> None:
    sample = read_numeric("here", [file], {"target": "word", "drop": "y"}, classes=True)
    assert sample.y.tolist() == ["x", "y", "x"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "which column"),
        ({"target": "z"}, "no column 'z'"),
        ({"target": "y"}, "'word' holds text"),
        ({"target": "word", "drop": "y"}, "the target 'word' holds text"),
        ({"target": "a", "drop": "word"}, "missing"),
    ],
)
def test_what_cannot_be_used_is_named(file: Path, options: dict[str, str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_numeric("here", [file], options)


def test_unknown_options_and_other_counts_of_files(file: Path) -> None:
    with pytest.raises(ConfigError, match="targt"):
        read_numeric("here", [file], {"targt": "y"})
    with pytest.raises(InputError, match="one file"):
        read_numeric("here", [], {"target": "y"})
