"""A few seconds of the checkpoint fuzz target, from a corpus of good and nearly good files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz_checkpoint_header import check_one, valid_file

import foreknow
from foreknow.core import checkpoint

TARGET = Path(__file__).with_name("fuzz_checkpoint_header.py")


@pytest.mark.timeout(120)
def test_the_reader_survives_a_short_run(tmp_path):
    pytest.importorskip("atheris")
    valid = valid_file()
    header = valid[8 : 8 + int.from_bytes(valid[:8], "little")]
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name, seed in {"whole": b"w" + valid, "header": b"h" + header, "edit": b"m\x00\x00\x05"}.items():
        (corpus / name).write_bytes(seed)
    command = [sys.executable, str(TARGET), "-runs=60000", "-max_total_time=4", "-timeout=10", "-seed=1", str(corpus)]
    # the target must import the very package this suite tests, from whatever folder it runs in
    environment = os.environ | {"PYTHONPATH": str(Path(foreknow.__file__).parents[1])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done" in done.stderr


def test_the_target_notices_a_reader_that_fails(monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise KeyError("dtype")

    monkeypatch.setattr(checkpoint, "_read", broken)
    with pytest.raises(KeyError):
        check_one(b"w", b"")
