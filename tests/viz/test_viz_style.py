"""Figures leave no state behind, repeat byte for byte, and stand inside a page without reaching out of it."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pytest

from foreknow.common.errors import ConfigError, InputError
from foreknow.viz import confidence_histogram, confusion, save_figure, to_png, to_svg
from foreknow.viz.style import GRID, INK, MUTED, grid_axes, new_figure, shorten, styled

NAMES = ["$x^2$ <b>", 'a & "b"', "日本"]


@pytest.fixture
def figure():
    return confusion(np.arange(9).reshape(3, 3), NAMES)


def test_an_svg_for_a_page(figure):
    text = to_svg(figure, name="matrix", label='what "it" <shows>')
    root = ElementTree.fromstring(text)
    assert root.tag == "svg" and root.attrib["role"] == "img" and root.attrib["aria-label"] == 'what "it" <shows>'
    assert "width" not in root.attrib and root.attrib["viewBox"].startswith("0 0 ")
    assert "http" not in text and "xmlns" not in text and "<style" not in text and INK not in text
    assert "currentColor" in text
    ids = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
    assert ids and all(name.startswith("matrix-") for name in ids)
    for element in root.iter():
        for value in element.attrib.values():
            if value.startswith("#") and len(value) != 7:
                assert value[1:] in ids
            if "url(#" in value:
                assert value.split("url(#")[1].split(")")[0] in ids
    words = [element.text for element in root.iter("text")]
    assert set(NAMES) <= set(words)  # as they are, not as formulas


def test_the_same_figure_gives_the_same_bytes():
    one, two, three, four = (confusion(np.arange(9).reshape(3, 3), NAMES) for _ in range(4))
    picture = to_png(one)
    assert picture == to_png(two) and picture.startswith(b"\x89PNG")
    assert to_svg(three, name="a", label="b") == to_svg(four, name="a", label="b")


def test_neutral_colours_follow_the_page():
    text = to_svg(confidence_histogram([("rows", np.arange(3))]), name="a", label="b")
    assert "var(--muted" in text and "var(--grid" in text
    assert not {INK, MUTED, GRID} & set(re.findall(r": (#\w{6})", text))  # they are there as fallbacks only


def test_settings_are_put_back_even_after_an_error(figure):
    before = dict(matplotlib.rcParams)
    to_png(figure)

    @styled
    def fails():
        assert matplotlib.rcParams["text.parse_math"] is False
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert dict(matplotlib.rcParams) == before


def test_pyplot_is_never_imported_and_matplotlib_only_when_used():
    code = (
        "import sys, numpy as np\nimport foreknow.viz.quality, foreknow.viz.data, foreknow.viz.draws as _\n"
        "assert 'matplotlib' not in sys.modules\n"
        "foreknow.viz.to_png(foreknow.viz.confusion(np.eye(2, dtype=int), ['a', 'b']))\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_saving(figure, tmp_path):
    for kind, start in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("PDF", b"%PDF")):
        assert save_figure(figure, tmp_path / f"f.{kind}").read_bytes().startswith(start)
    with pytest.raises(ConfigError, match=r"'f\.bmp'") as error:
        save_figure(figure, tmp_path / "f.bmp")
    assert "f.png" in error.value.hint
    with pytest.raises(InputError, match="does not exist"):
        save_figure(figure, tmp_path / "no" / "f.png")


def test_small_helpers():
    assert shorten("  a \n b ") == "a b"
    assert shorten("x" * 30, 10) == "x" * 9 + "…"
    assert len(grid_axes(new_figure(4, 4), 5, 2)) == 5
