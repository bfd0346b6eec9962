"""Tables that nothing can be done with: one clear message, exit code 2, no traceback, no file left."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

GOOD = "size,colour,kind\n" + "".join(f"{i / 7:.3f},{'rg'[i % 2]},{('cat', 'dog')[i % 2]}\n" for i in range(40))
HEADER, *LINES = GOOD.splitlines()
NEW = "size,colour\n0.5,r\n1.5,g\n"


def column(values, name="kind"):
    """The good table with the target replaced."""
    rows = (",".join(line.split(",")[:2]) for line in LINES)
    return f"size,colour,{name}\n" + "".join(f"{row},{value}\n" for row, value in zip(rows, values))


def parquet(**columns):
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


NUMBERS = [f"{i / 3:.4f}" for i in range(40)]
TABLES = {
    "empty file": (b"", ".csv", (), ["is empty", "header line and rows"]),
    "blank lines only": ("\n\n\n", ".csv", (), ["is empty", "header line and rows"]),
    "header only": (HEADER + "\n", ".csv", (), ["has a header but no rows", "add the rows below it"]),
    "duplicate names": (GOOD.replace("colour", "size", 1), ".csv", (), ["must be distinct", "'size'", "Rename"]),
    "no such target": (GOOD.replace("kind", "kinds", 1), ".csv", (), ["no column 'kind'", "Did you mean 'kinds'"]),
    "target all empty": (column([""] * 40), ".csv", (), ["no row has a value", "at least 10 of the 40"]),
    "one class": (column(["cat"] * 40), ".csv", (), ["one class only ('cat' in all 40 rows", "the right column?"]),
    "one row": (f"{HEADER}\n{LINES[0]}\n", ".csv", (), ["only 1 row(s) have", "at least 10 of the 1"]),
    "constant number": (column([7] * 40), ".csv", ("--task", "regression"), ["one value only ('7' in all 40"]),
    "text as numbers": (
        column(["1.5", "2", "n.a."] * 14), ".csv", ("--task", "regression"),
        ["needs a target of numbers", "13 of 40 values are not numbers", "'n.a.' in row 3", "--task classification"],
    ),
    "numbers as classes": (
        column(NUMBERS), ".csv", ("--task", "classification"),
        ["looks like an identifier", "40 different values in 40 rows", "--task regression"],
    ),
    "too many classes": (
        "size,kind\n" + "".join(f"{i},{i % 120}\n" for i in range(600)), ".csv", ("--task", "classification"),
        ["has 120 classes; at most 100", "--task regression"],
    ),
    "names as target": (column([f"n{i}" for i in range(40)]), ".csv", (), ["looks like an identifier", "repeat"]),
    "dates as target": (
        column([f"2020-01-{1 + i % 28:02d}" for i in range(40)]), ".csv", (), ["holds dates", "days since a fixed day"],
    ),
    "nothing varies": (
        "size,colour,kind\n" + "1,r,cat\n1,r,dog\n" * 20, ".csv", (),
        ["no usable column is left", "'size': constant", "columns that vary"],
    ),
    "nothing but empty columns": ("size,kind\n,cat\n,dog\n" + ",cat\n,dog\n" * 9, ".csv", (), ["all missing"]),
    "ragged rows": (GOOD + "1,r\n", ".csv", (), ["line 42 has 2 field(s), the header has 3", "double quotes"]),
    "quote not closed": (GOOD + '1,"r,cat\n', ".csv", (), ["begins on line 42 is malformed", "double quote"]),
    "other encoding": (GOOD.replace("r", "é").encode("latin-1"), ".csv", (), ["not UTF-8", "iconv -f ISO-8859-1"]),
    "UTF-16": (GOOD.encode("utf-16"), ".csv", (), ["not UTF-8", "iconv -f UTF-16"]),
    "binary": (bytes(range(256)) * 20, ".csv", (), ["UTF-8", "iconv"]),
    "no parquet": (GOOD.encode(), ".parquet", (), ["cannot be read as parquet", "is it parquet?"]),
    "cut parquet": (parquet(size=[1.0] * 50, kind=["a"] * 50)[:-20], ".parquet", (), ["cannot be read as parquet"]),
    "parquet without rows": (parquet(size=pa.array([], pa.float64())), ".parquet", (), ["holds no rows"]),
    "nested parquet": (parquet(size=[[1.0]] * 20, kind=["a", "b"] * 10), ".parquet", (), ["nested", "Unnest"]),
    "infinite number": (GOOD + "inf,r,cat\n", ".csv", (), ["'size' contains infinity", "row 41", "leave it empty"]),
    "infinite target": (column([*NUMBERS[:39], "1e999"]), ".csv", (), ["'kind' contains infinity", "row 40"]),
    "overflowing target": (column([*NUMBERS[:39], "1e200"]), ".csv", (), ["up to 1e+200", "logarithm"]),
    "huge field": (GOOD + f"1,{'r' * (2**20 + 1)},cat\n", ".csv", (), ["line 42 is malformed", "field limit"]),
    "target alone": ("kind\n" + "cat\ndog\n" * 20, ".csv", (), ["no column besides the target", "separator"]),
    "wrong separator": (GOOD.replace(",", "~"), ".csv", (), ["no column 'kind'; the table has 1"]),
    "a spreadsheet": (b"PK\x03\x04" + bytes(99), ".xlsx", (), ["suffix '.xlsx'", "Export a spreadsheet as CSV"]),
}  # fmt: skip

TESTS = {
    "lacks a column": ("colour\nr\n", ["new.csv lacks 1 of the 2 feature column(s) of the table: 'size'"]),
    "text in place of numbers": (
        "size,colour\nlarge,r\nsmall,g\n3,r\n", ["'size' was numeric", "2 of the first 3 cells", "'large' in row 1"],
    ),
    "empty": ("", ["is empty"]),
    "header only": ("size,colour\n", ["has a header but no rows"]),
    "ragged": (NEW + "1\n", ["line 4 has 1 field(s)"]),
    "binary": ("size,colour\n\0,\0\n", ["NUL byte"]),
}  # fmt: skip


def check(cli, words, says):
    """One message of at most five lines, exit code 2, and the folder as it was."""
    before = {path: path.read_bytes() for path in Path().iterdir()}
    code, out, err = cli(*words)
    lines = err.strip().splitlines()
    assert (code, out) == (2, ""), err
    assert lines[0].startswith("error: ") and len(lines) <= 5 and "Traceback" not in err
    for words in says:
        assert words in " ".join(err.split()), (words, err)
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_there_are_many_kinds_of_bad_tables():
    assert len(TABLES) >= 20


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_cannot_be_used(cli, name):
    content, suffix, words, says = TABLES[name]
    path = Path(f"t{suffix}")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    check(cli, ("predict", path, "--target", "kind", *words), says)


@pytest.mark.parametrize("name", TESTS)
def test_a_test_file_that_cannot_be_used(cli, name):
    content, says = TESTS[name]
    Path("t.csv").write_text(GOOD)
    Path("new.csv").write_text(content)
    check(cli, ("predict", "t.csv", "--target", "kind", "--test", "new.csv"), says)


def test_settings_and_places(cli):
    Path("t.csv").write_text(GOOD)
    words = ("predict", "t.csv", "--target", "kind")
    check(cli, (*words, "--save", "no/such/folder/m.safetensors"), ["the model", "no/such/folder", "--save"])
    check(cli, (*words, "--save", "t.csv"), ["would replace the input"])
    assert np.array_equal([cli(*words, "--context-rows", "3").code, cli(*words, "--estimators", "0").code], [2, 2])
