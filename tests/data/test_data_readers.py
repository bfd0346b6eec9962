from __future__ import annotations

import csv
import datetime as dt
import math
import string
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreknow.common.errors import (
    ConfigError,
    ForeknowError,
    ForeknowWarning,
    InputError,
    MissingExtraError,
    ResourceError,
)
from foreknow.common.progress import Progress
from foreknow.data import (
    _csv_file,
    _source,
    as_table,
    column_names,
    iter_table,
    penguins,
    read_table,
    readers,
    write_csv,
)
from foreknow.data.cells import MISSING, interpret

NAN = float("nan")


@pytest.fixture
def put(tmp_path):
    """Writes bytes or text to a file and gives its path."""

    def write(content: str | bytes, name: str = "t.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of four cells, so that a small file has several."""
    monkeypatch.setattr(_csv_file, "BLOCK_CELLS", 4)


def test_penguins():
    table = read_table(penguins.locate())
    assert (table.n_rows, table.n_columns) == (344, 8)
    assert [name for name, kind in table.schema.items() if kind == "categorical"] == ["species", "island", "sex"]
    assert int(table.column("sex").missing.sum()) == 11
    assert sorted(set(table.column(penguins.target).values)) == ["Adelie", "Chinstrap", "Gentoo"]


@pytest.mark.parametrize(
    ("cells", "kind", "values"),
    [
        (["1e3", "-2.5", ".5", "+4", " 7 "], "numeric", [1000, -2.5, 0.5, 4, 7]),
        (["1", "NA"], "numeric", [1, NAN]),
        (["TRUE", "no", "Yes", "False"], "boolean", [1, 0, 1, 0]),
        (["1", "0"], "numeric", [1, 0]),
        (["1970-01-02", "1970-01-01T00:00:01Z", "1970-01-01 01:00+01:00"], "date", [86400, 1, 0]),
        (["1,000", "2"], "categorical", ["1,000", "2"]),
        (["1_000"], "categorical", ["1_000"]),
        (["٣"], "categorical", ["٣"]),
        (["1", "yes"], "categorical", ["1", "yes"]),
        (["-", "1"], "categorical", ["-", "1"]),
        (["2020-02-30"], "categorical", ["2020-02-30"]),
        (["2020-01-01", "5"], "categorical", ["2020-01-01", "5"]),
        ([" a", "NULL", "?"], "categorical", [" a", "NULL", None]),
        (sorted(MISSING), None, [NAN] * len(MISSING)),
    ],
)
def test_kinds_of_text(cells, kind, values):
    found, parsed = interpret(cells)
    assert found == kind
    np.testing.assert_array_equal(parsed, np.array(values, dtype=object if kind == "categorical" else float))


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.txt", "T.CSV"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_are_found(put, name, delimiter):
    table = read_table(put(f'a{delimiter}b\n1{delimiter}"x{delimiter}y"\n2{delimiter}z\n', name))
    assert table.names == ("a", "b") and table.column("b").values.tolist() == [f"x{delimiter}y", "z"]


def test_names_of_columns_are_read_alone(put, tmp_path):
    assert column_names(put("a;b c\n1;2\n1;2;3\n")) == ("a", "b c")  # the ragged row is not reached
    pq.write_table(pa.table({"x": [1], "y": ["z"]}), tmp_path / "t.parquet")
    assert column_names(tmp_path / "t.parquet") == ("x", "y")


def test_text_with_other_delimiters_does_not_fool_the_reader(put):
    assert read_table(put("a,b\n1;2;3,x\n1;2;3,y\n")).names == ("a", "b")
    assert read_table(put("a;b\n1,5;x\n2,5;y\n")).names == ("a", "b")
    assert read_table(put("a\nx;y\n")).names == ("a",)


def test_byte_order_mark_line_ends_and_blank_lines(put):
    table = read_table(put("\ufeff\r\n a ,b\r\n1,x\r\n\r\n2,y"))
    assert table.names == ("a", "b") and table.column("a").values.tolist() == [1, 2]
    assert read_table(put('a\n1\n""\n\n2\n')).n_rows == 3


def test_quoted_fields(put):
    table = read_table(put('a,b\n"say ""hi""","two\r\nlines"\nx,y\n'))
    assert table.column("a").values[0] == 'say "hi"' and table.column("b").values[0] == "two\r\nlines"
    assert read_table(put("a,b\n" + "x" * 200_000 + ",1\n")).n_rows == 1


def test_the_field_limit_of_the_process_is_left_alone(put):
    before = csv.field_size_limit()
    stream = iter_table(put("a,b\n1,2\n3,4\n"), chunk_rows=1)
    next(stream)
    assert csv.field_size_limit() == before


def test_kinds_come_from_all_blocks(put, small_blocks):
    rows = "".join(f"{i},NA,NA\n" for i in range(5)) + "x,7,u\n" + "".join(f"{i},1,NA\n" for i in range(5))
    table = read_table(put("a,b,c\n" + rows))
    assert table.schema == {"a": "categorical", "b": "numeric", "c": "categorical"}
    assert table.column("a").values[5] == "x" and table.column("b").values[5] == 7
    assert table.column("c").values.tolist() == [None] * 5 + ["u"] + [None] * 5


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_chunks_share_one_schema(tmp_path, small_blocks, suffix):
    path = tmp_path / f"t{suffix}"
    frame = pd.DataFrame(
        {"a": [1.0, None, 3.0, 4.0, 5.0], "b": [None, None, None, "x", "y"], "c": [True, False] * 2 + [True]}
    )
    write_csv(path, {k: list(v) for k, v in frame.items()}) if suffix == ".csv" else frame.to_parquet(path)
    chunks = list(iter_table(path, chunk_rows=2))
    assert [chunk.n_rows for chunk in chunks] == [2, 2, 1]
    assert all(chunk.schema == {"a": "numeric", "b": "categorical", "c": "boolean"} for chunk in chunks)
    assert chunks[0].concat_rows(*chunks[1:]) == read_table(path) == as_table(frame, owner="o")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_given_schema_wins_and_unfit_cells_are_counted(tmp_path, suffix):
    path = tmp_path / f"t{suffix}"
    columns = {"a": ["1", "x", "inf", None], "b": ["01", "2", "3", "4"]}
    write_csv(path, columns) if suffix == ".csv" else pd.DataFrame(columns).to_parquet(path)
    with pytest.warns(ForeknowWarning, match=r"2 cell\(s\) of 'a' are not numeric \(the first is 'x'\)"):
        chunks = list(iter_table(path, chunk_rows=3, schema={"a": "numeric", "b": "categorical"}))
    np.testing.assert_array_equal(np.concatenate([c.column("a").values for c in chunks]), [1, NAN, NAN, NAN])
    assert chunks[0].column("b").values.tolist() == ["01", "2", "3"]
    with pytest.warns(ForeknowWarning, match="2 cell"):
        assert read_table(path, schema={"a": "numeric", "b": "categorical"}).n_rows == 4
    with pytest.raises(InputError, match=r"no column 'aa'(.|\n)*Did you mean 'a'"):
        iter_table(path, schema={"aa": "numeric"})
    with pytest.raises(ConfigError, match="schema: a must be one of"):
        iter_table(path, schema={"a": "number"})  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match="chunk_rows"):
        iter_table(path, chunk_rows=0)


def test_parquet_types(tmp_path):
    table = pa.table(
        {
            "s": pa.array(["x", None]).dictionary_encode(),
            "i": pa.array([1, None], pa.int32()),
            "b": [True, None],
            "d": pa.array([dt.date(1970, 1, 2), None]),
            "n": pa.nulls(2),
        }
    )
    pq.write_table(table, tmp_path / "t.pq")
    result = read_table(tmp_path / "t.pq")
    assert list(result.schema.values()) == ["categorical", "numeric", "boolean", "date", "numeric"]
    assert result == as_table(table, owner="o")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("\ufeff", "is empty"),
        ("a,b\n", "has a header but no rows"),
        ("a,b\n1,2\n\n3\n", r"line 4 has 1 field\(s\), the header has 2 \(separated by ','\)"),
        ('a,b\n"1\n1",2\n3,4,5\n', r"line 4 has 3 field\(s\)"),
        ("a,b, a\n1,2,3\n", "distinct.*'a'"),
        ("a,b\n1,\xe9\n".encode("latin-1"), r"not UTF-8 text: invalid at byte 6(.|\n)*iconv -f ISO-8859-1"),
        (b"a,b\n1,\xe9", r"invalid at byte 6"),
        (b"a,b\n" + b"1,2\n" * 50_000 + b"1,\xff\n", r"invalid at byte 200006"),
        ("a,b\n1,2\n".encode("utf-16"), r"invalid at byte 0(.|\n)*iconv -f UTF-16"),
        ("a,b\n1,2\n".encode("utf-16-le"), r"line 1 holds a NUL byte(.|\n)*iconv -f UTF-16"),
        (b"a,b\n1,\0\n", "line 2 holds a NUL byte"),
        ('a,b\n1,2\n"3,4\n5,6\n', "record that begins on line 3 is malformed.*(.|\n)*quote"),
        ('a,b\n"1"2,3\n', "record that begins on line 2 is malformed"),
        ("a,b\n" + "x" * (2**20 + 1) + ",1\n", "line 2 is malformed: field larger than field limit"),
        ("a,b\n1,x\n-inf,y\n", r"column 'a' contains infinity \('-inf'\), first in row 2 below the header"),
        ("a,b\n1e999,x\n", r"column 'a' contains infinity"),
    ],
)
def test_malformed_csv(put, content, message):
    path = put(content)
    for read in (read_table, lambda p: list(iter_table(p))):
        with pytest.raises(InputError, match=message) as caught:
            read(path)
        assert "t.csv" in str(caught.value)


def test_lines_without_end(put, monkeypatch):
    monkeypatch.setattr(_csv_file, "_MAX_LINE", 100)
    with pytest.raises(InputError, match="line 2 has more than 100 characters"):
        read_table(put("a\n" + "x" * 101))


def test_columns_without_a_name_get_one(put):
    with pytest.warns(ForeknowWarning, match=r"2 column\(s\) without a name are called 'column_2', 'column_3_'"):
        assert read_table(put("column_3,, \n1,2,3\n")).names == ("column_3", "column_2", "column_3_")


def test_paths_that_cannot_be_read(put, tmp_path):
    put("a\n1\n", "penguins.csv")
    with pytest.raises(InputError, match=r"no such file(.|\n)*Did you mean 'penguins.csv'"):
        read_table(tmp_path / "pengins.csv")
    with pytest.raises(InputError, match=r"folder .*absent' does not exist"):
        read_table(tmp_path / "absent" / "t.csv")
    with pytest.raises(InputError, match="is a folder"):
        iter_table(tmp_path)
    with pytest.raises(InputError, match=r"suffix '.xlsx'; tables are read from .csv, .tsv, .txt, .parquet, .pq"):
        read_table(put("a\n1\n", "t.xlsx"))
    with pytest.raises(InputError, match="not an ordinary file"):
        read_table("/dev/null")
    with pytest.raises(InputError, match="File name too long"):
        read_table("x" * 5000 + ".csv")


def test_broken_parquet(put, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="cannot be read as parquet"):
        read_table(put("a,b\n1,2\n", "t.parquet"))
    pq.write_table(pa.table({"a": list(range(1000))}), tmp_path / "t.pq")
    whole = (tmp_path / "t.pq").read_bytes()
    with pytest.raises(InputError, match="cannot be read as parquet"):
        read_table(put(whole[:-50], "u.pq"))
    with pytest.raises(InputError, match="cannot be read as parquet"):
        read_table(put(b"PAR1" + b"\xff" * 200 + whole[204:], "v.pq"))
    for columns, message in ({"a": []}, "no rows"), ({}, "no columns"):
        pq.write_table(pa.table(columns), tmp_path / "w.pq")
        with pytest.raises(InputError, match=message):
            read_table(tmp_path / "w.pq")
    pq.write_table(pa.table({"a": [[1]]}), tmp_path / "x.pq")
    with pytest.raises(InputError, match="nested"):
        read_table(tmp_path / "x.pq")
    pq.write_table(pa.table([[1], [2]], names=["a", "a"]), tmp_path / "y.pq")
    with pytest.raises(InputError, match=r"distinct.*'a'"):
        read_table(tmp_path / "y.pq")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setattr("foreknow.common.deps.available", lambda module: False)
    with pytest.raises(MissingExtraError, match=r"foreknow\[frames\]"):
        read_table(tmp_path / "t.pq")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_too_big_for_memory_is_refused_before_it_is_read(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"t{suffix}"
    frame = pd.DataFrame({"a": np.arange(100_000), "b": 0.5})
    frame.to_csv(path, index=False) if suffix == ".csv" else frame.to_parquet(path)
    monkeypatch.setattr(readers, "_available_bytes", lambda: 2_000_000)
    monkeypatch.setattr(_source.Source, "read", lambda *args: pytest.fail("it was read"))
    monkeypatch.setattr(_csv_file.CsvFile, "read", lambda *args: pytest.fail("it was read"))
    with pytest.raises(
        ResourceError, match=r"kB\) may need \d+(\.\d)? MB of memory, but 2 MB may be used(.|\n)*iter_table"
    ):
        read_table(path)
    with pytest.raises(ResourceError, match="but 1 kB may be used"):
        read_table(path, max_bytes=1000)
    assert sum(chunk.n_rows for chunk in iter_table(path)) == 100_000


def test_memory_estimate_tells_numbers_from_distinct_text(put):
    def per_row(cells: list[str]) -> float:
        path = put("a\n" + "\n".join(cells) + "\n")
        return _csv_file.CsvFile(path).need_bytes() / len(cells) - _source.BLOCK_CELL_BYTES

    n = 1000
    assert per_row([f"{i:04d}" for i in range(n)]) == pytest.approx(_source.NUMBER_CELL_BYTES, rel=0.01)
    assert per_row(["abcd", "efgh"] * (n // 2)) == pytest.approx(_source.NUMBER_CELL_BYTES, rel=0.01)
    assert per_row([f"a{i:03d}" for i in range(n)]) == pytest.approx(_source.TEXT_CELL_BYTES, rel=0.01)


def test_available_memory():
    available = readers._available_bytes()
    assert available is None or 10**6 < available < 10**15


def test_progress_reaches_the_end(put, small_blocks):
    path = put("a,b\n" + "1,2\n" * 20)
    seen: list[Progress] = []
    read_table(path, on_progress=seen.append)
    assert len(seen) == 10 and seen[-1].done == seen[-1].total == path.stat().st_size


def test_written_cells(tmp_path):
    path = tmp_path / "t.csv"
    write_csv(
        path,
        {
            "n": [1, 0.1 + 0.2, NAN, np.float32(0.5), None],
            "b": [True, np.False_, None, pd.NA, False],
            "s": ['a"b', "x,y", "two\nlines", "", None],
            "d": [
                dt.date(2020, 1, 1),
                pd.Timestamp("2020-01-01 02:03"),
                np.datetime64("2020-01-01"),
                np.datetime64("NaT"),
                pd.NaT,
            ],
        },
    )
    lines = path.read_text().splitlines()
    assert lines[0] == "n,b,s,d" and lines[1] == '1,true,"a""b",2020-01-01'
    assert lines[2].startswith("0.30000000000000004,false") and lines[-1] == ",false,,"
    assert list(read_table(path).schema.values()) == ["numeric", "boolean", "categorical", "date"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "one or more columns"),
        ({"a": [1], "b": []}, "equal length"),
        ({"a": [[1]]}, "got list"),
        ({"a": ["x\0"]}, "NUL"),
        ({"a": ["\ud800"]}, "UTF-8"),
    ],
)
def test_unwritable_columns_leave_no_file(tmp_path, columns, message):
    with pytest.raises(InputError, match=message):
        write_csv(tmp_path / "t.csv", columns)
    assert list(tmp_path.iterdir()) == []


def _is_text(text: str) -> bool:
    return interpret([text])[0] == "categorical"


_texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    _is_text
)
_names = _texts.map(str.strip).filter(bool)
_floats = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), suffix=st.sampled_from([".csv", ".tsv"]))
def test_what_is_written_is_read_back(data, suffix):
    names = data.draw(st.lists(_names, min_size=1, max_size=4, unique=True))
    n = data.draw(st.integers(1, 5))
    columns = {}
    for name in names:
        cells = data.draw(st.sampled_from([_texts, _floats, st.booleans()]))
        values = data.draw(st.lists(cells | st.none(), min_size=n, max_size=n))
        columns[name] = values
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"t{suffix}"
        write_csv(path, columns)
        expected = as_table(np.array(list(columns.values()), dtype=object).T, owner="o", names=names)
        assert read_table(path) == expected


@settings(max_examples=150, deadline=None)
@given(
    content=st.binary(max_size=60) | st.text(string.digits + 'ab,;\t|"\r\n \ufeff-.e', max_size=60).map(str.encode),
    suffix=st.sampled_from([".csv", ".tsv", ".txt", ".parquet"]),
)
def test_any_bytes_give_a_table_or_an_error_of_ours(content, suffix):
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", ForeknowWarning)
        path = Path(folder) / f"t{suffix}"
        path.write_bytes(content)
        try:
            table = read_table(path)
        except ForeknowError as error:
            assert math.isfinite(len(str(error)))
        else:
            assert table.n_rows >= 1
            chunks = list(iter_table(path, chunk_rows=1))
            assert chunks[0].concat_rows(*chunks[1:]) == table


@pytest.mark.parametrize("later", ["", "a,", "a,b\n", "a,c\n1,2\n"])
@pytest.mark.parametrize("kinds", [[None, None], ["numeric", None]])
def test_a_file_that_changes_while_it_is_read_is_refused(put, later, kinds):
    source = _csv_file.CsvFile(put("a,b\n1,2\n"))
    put(later)
    with pytest.raises(InputError, match="changed while it was read"):
        source.read(kinds, None)
    with pytest.raises(InputError, match="changed while it was read"):
        list(source.tables(None, ["numeric", "numeric"], None))
