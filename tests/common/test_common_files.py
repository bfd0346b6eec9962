"""Hashes that never change, and files that are never half written."""

import hashlib
import os

import pytest

from foreknow.common.errors import InputError
from foreknow.common.files import atomic_path, hash_bytes, hash_file, write_text


def test_hashes_never_change(tmp_path):
    path = tmp_path / "data.bin"
    path.write_bytes(b"\0" * (1 << 21) + b"abc")
    assert hash_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(b"abc")
    assert hash_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert hash_bytes() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert hash_bytes(b"ab", b"c") != hash_bytes(b"a", b"bc") != hash_bytes(b"abc")


def test_write_replaces_in_one_step(tmp_path):
    path = tmp_path / "report.html"
    write_text(path, "old")
    write_text(path, "néw")
    assert path.read_text(encoding="utf-8") == "néw"
    assert os.listdir(tmp_path) == ["report.html"]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:
        temporary.write_text("half")
        assert temporary.parent == tmp_path
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["weights.safetensors"]


def test_an_error_before_the_first_file_leaves_none(tmp_path):
    with pytest.raises(KeyError), atomic_path(tmp_path / "new.txt") as temporary:
        temporary.write_text("half")
        raise KeyError
    assert os.listdir(tmp_path) == []


def test_places_that_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match="it is a folder"):
        write_text(tmp_path, "text")
    with pytest.raises(InputError, match="does not exist") as missing:
        write_text(tmp_path / "no" / "such" / "file", "text")
    assert missing.value.hint.startswith("Make it first: mkdir -p")
    for name in ("x" * 300, "nul\0byte"):
        with pytest.raises(InputError, match="cannot write"):
            write_text(tmp_path / name, "text")
    assert os.listdir(tmp_path) == []
