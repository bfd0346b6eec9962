"""The networks that ship are found by name."""

import pytest

from foreknow import trained
from foreknow.common.errors import InputError


def test_names_are_those_of_the_files_and_unknown_ones_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(trained, "_FOLDER", tmp_path)
    with pytest.raises(InputError, match="there are 0: none"):
        trained.weights_path("pfn-gp-1d")
    for name in ("pfn-tabular.safetensors", "pfn-gp-1d.safetensors", "pfn-gp-1d.log.jsonl"):
        (tmp_path / name).touch()
    assert list(trained.shipped()) == ["pfn-gp-1d", "pfn-tabular"]
    assert trained.weights_path("pfn-gp-1d") == tmp_path / "pfn-gp-1d.safetensors"
    with pytest.raises(InputError, match="Did you mean 'pfn-gp-1d'"):
        trained.weights_path("pfn-gp")


def test_what_ships_is_small_and_has_its_log():
    for path in trained.shipped().values():
        assert path.stat().st_size <= 20e6
        assert path.with_name(f"{path.stem}.log.jsonl").is_file()
