"""A few seconds of the fuzz target of the table readers."""

from pathlib import Path

import pytest
from launching import launch

pytest.importorskip("atheris", reason="atheris is installed on Linux only")
TARGET = Path(__file__).with_name("fuzz_table_reader.py")
SEEDS = {
    "numbers": b'\x00a,b\n1,x\n2.5,"y ""z"""\n',
    "dates": b"\x00day;flag\n2020-01-01;yes\n;no\n",
    "tabs": b"\x01a\tb\n1e3\tNA\n",
    "parquet": b"\x03PAR1",
}


def test_a_short_run_finds_nothing(tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name, content in SEEDS.items():
        (corpus / name).write_bytes(content)
    done = launch(TARGET, tmp_path, "-runs=3000", "-max_total_time=5", "-max_len=256", str(corpus))
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Done" in done.stderr, done.stderr[-2000:]
