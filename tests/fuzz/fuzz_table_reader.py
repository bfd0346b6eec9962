"""Fuzz target: any bytes in a table file give a Table or an error of the library's own.

Run it as a script: `python tests/fuzz/fuzz_table_reader.py -max_total_time=60`.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["foreknow.data"]):
    from foreknow.common.errors import ForeknowError
    from foreknow.data.readers import iter_table, read_table

_SUFFIXES = (".csv", ".tsv", ".txt", ".parquet")
_FOLDER = tempfile.TemporaryDirectory()


def TestOneInput(data: bytes) -> None:
    """The first byte chooses the suffix, the rest is the file."""
    if not data:
        return
    path = Path(_FOLDER.name) / f"t{_SUFFIXES[data[0] % len(_SUFFIXES)]}"
    path.write_bytes(data[1:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            table = read_table(path)
            chunks = list(iter_table(path, chunk_rows=2))
        except ForeknowError:
            return
    if chunks[0].concat_rows(*chunks[1:]) != table:
        raise AssertionError("the chunks of a file differ from its whole")


if __name__ == "__main__":
    atheris.Setup(sys.argv, TestOneInput)
    atheris.Fuzz()
