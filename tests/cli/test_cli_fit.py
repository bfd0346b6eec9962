"""`fit` and `apply`: settings, options, files and pictures, on the smallest system that reads no files."""

import json

import pytest

from foreknow.cli.common import options
from foreknow.cli.fit import setting
from foreknow.common.errors import ConfigError

TINY = ("--set", "n_links=3", "--set", "n_steps=6", "--set", "episodes=2", "--set", "population=2")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_fit_saves_and_draws_and_apply_uses_it(cli, here):
    code, out, err = cli("fit", "neural-circuit", *TINY, "--seed", 3, "--pictures", "learnt", "--json")
    record = json.loads(out)
    assert (code, err, record["path"]) == (0, "", "neural-circuit.safetensors")
    assert record["pictures"] == ["learnt/returns.png"]
    assert (here / "learnt" / "returns.png").is_file()
    code, out, _ = cli("apply", record["path"], "-o", "swum", "--with", "seconds=0.3")
    assert code == 0
    assert sorted(path.name for path in (here / "swum").iterdir()) == ["angles.png", "motion.csv", "swim.gif"]
    assert "return" in out
    code, _, err = cli("apply", record["path"], "-o", "new/empty", "--with", "seconds=soon")
    assert code == 2 and "seconds" in err
    assert not (here / "new").exists()
    assert cli("apply", record["path"], "-o", "swum", "--with", "seconds=soon").code == 2
    assert (here / "swum" / "swim.gif").is_file()


def test_the_seed_is_that_of_the_system(cli, here):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert cli("fit", "neural-circuit", *TINY, "-o", f"{name}.safetensors", "--seed", seed).code == 0
    from foreknow.core.system import load

    a, b, c = (load(f"{name}.safetensors").weights_.tolist() for name in "abc")
    assert a == b != c


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("fit", "neural-circuits"), "no system is called"),
        (("fit", "neural-circuit", "--set", "links=3"), "unknown setting 'links'"),
        (("fit", "neural-circuit", "--set", "n_links"), "takes NAME=VALUE"),
        (("fit", "neural-circuit", "--set", "n_links=3", "--set", "n_links=4"), "twice"),
        (("fit", "neural-circuit", "--set", "random_state=3"), "set by --seed"),
        (("fit", "neural-circuit", "--set", "n_links=few"), "n_links must be an integer"),
        (("fit", "neural-circuit", "runs.csv"), "reads no files"),
        (("fit", "pfn", "runs.csv"), "reads no files"),
        (("apply", "nowhere.safetensors"), "nowhere.safetensors"),
    ],
)
def test_the_users_mistakes_are_said_in_one_message(cli, here, words, says):
    code, out, err = cli(*words)
    assert (code, out) == (2, "")
    assert says in err
    assert len(err.splitlines()) <= 4
    assert not list(here.iterdir())


def test_options_and_settings_are_read_as_python_writes_them():
    assert options("--with", ["a=1", "b = x=y "]) == {"a": "1", "b": "x=y"}
    assert options("--with", None) == {}
    with pytest.raises(ConfigError, match="takes NAME=VALUE"):
        options("--with", ["=1"])
    assert [setting(text) for text in ("3", "0.5", "True", "None", "(1, 2)", "es")] == [
        3,
        0.5,
        True,
        None,
        (1, 2),
        "es",
    ]
