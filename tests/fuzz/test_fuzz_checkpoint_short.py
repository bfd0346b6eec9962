"""A few seconds of the checkpoint fuzz target, from a corpus of good and nearly good files."""

from pathlib import Path

import pytest
from fuzz_checkpoint_header import check_one, valid_file
from launching import launch

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
    done = launch(TARGET, tmp_path, "-runs=60000", "-max_total_time=4", "-timeout=10", str(corpus))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done" in done.stderr


def test_the_target_notices_a_reader_that_fails(monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise KeyError("dtype")

    monkeypatch.setattr(checkpoint, "_read", broken)
    with pytest.raises(KeyError):
        check_one(b"w", b"")
