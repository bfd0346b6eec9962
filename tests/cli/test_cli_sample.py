"""`sample`: a picture of draws."""

import json

import pytest

from foreknow.core import registry

SYSTEMS = [slug for slug, entry in registry.catalogue().items() if entry.system is not None]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_writes_a_picture_of_the_prior_of_the_paper(cli, toy, here):
    code, out, err = cli("sample", "toy-lines", "--n", 2)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "toy-lines-line.png"
    assert (here / "toy-lines-line.png").read_bytes().startswith(b"\x89PNG")
    assert "slope=1.5" in out


@pytest.mark.parametrize("name", ["two-lines", "TwoLinesPrior"])
def test_a_prior_by_either_name_and_another_format(cli, toy, here, name):
    record = json.loads(cli("sample", "toy-lines", "--prior", name, "--n", 1, "--out", "a.SVG", "--json").out)
    assert (record["prior"], record["path"], record["off"]) == ("two-lines", "a.SVG", False)
    assert "<svg" in (here / "a.SVG").read_text()


def test_the_picture_shows_what_was_asked(cli, toy, here, monkeypatch):
    from matplotlib.figure import Figure

    from foreknow.viz import draws

    seen = []
    monkeypatch.setattr(
        draws, "draw_batch", lambda batch, title, **options: seen.append((batch, title, options)) or Figure()
    )
    for flags in ((), (), ("--seed", 1), ("--off",)):
        assert cli("sample", "toy-lines", "--n", 3, "--rows", 8, *flags).code == 0
    (on, title, options), (again, *_), (other, *_), (off, off_title, off_options) = seen
    assert (on.n_tasks, on.n_context + on.n_query) == (3, 8)
    assert options == off_options == {"view": "curves", "n_tasks": 3}
    assert "on" in title and "off" in off_title
    assert on.query_y.equal(again.query_y) and not on.query_y.equal(other.query_y)
    residual = lambda batch: (batch.query_y - 1.5 * batch.query_x[..., 0]).std(dim=1).max()  # noqa: E731 - zero on a line
    assert residual(on) < 1e-5 < residual(off)
    assert (here / "toy-lines-line-off.png").is_file()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--prior", "circle"), "--prior must be one of 'line', 'two-lines'"),
        (("--out", "a.txt"), "must be one of 'pdf', 'png', 'svg'"),
        (("--out", "no/such/folder.png"), "does not exist"),
        (("--rows", "1"), "--rows"),
        (("--n", "0"), "--n"),
        (("--seed", "-1"), "--seed"),
    ],
)
def test_bad_settings(cli, toy, here, words, says):
    code, out, err = cli("sample", "toy-lines", *words)
    assert (code, out) == (2, "")
    assert says in err
    assert "Traceback" not in err
    assert not list(here.iterdir())


@pytest.mark.parametrize("slug", SYSTEMS)
def test_every_system_shows_its_prior_and_its_control_arm(cli, here, slug):
    for flag in ((), ("--off",)):
        code, out, err = cli("sample", slug, "-o", f"a{len(flag)}.png", "--n", 2, "--rows", 20, *flag)
        assert (code, err) == (0, "")
        assert (here / out.splitlines()[-1]).read_bytes().startswith(b"\x89PNG")


def test_a_system_without_a_prior_to_draw_from(cli, toy, here):
    entry = registry.lookup("toy-lines")
    entry.priors.clear()
    assert cli("sample", "toy-lines").code == 0  # its system still has one
    entry.system = None
    code, _, err = cli("sample", "toy-lines")
    assert (code, err) == (2, "error: 'toy-lines' registers no prior that can be drawn from.\n")
