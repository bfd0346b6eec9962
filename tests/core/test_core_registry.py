"""The catalogue: duplicates are refused, modules that do not import are named, citations are found."""

import sys
from dataclasses import dataclass, replace
from textwrap import dedent

import pytest

import foreknow
from foreknow.common.errors import ConfigError, ForeknowWarning, InputError
from foreknow.core import records, registry, system
from foreknow.core.card import Card
from foreknow.core.cite import cite
from foreknow.core.prior import Prior
from foreknow.core.registry import catalogue, failures, lookup, register

CARD = Card(
    slug="a-slug",
    title="A title",
    authors=("Nobody, Ann",),
    year=2024,
    venue="tests",
    room="audit",
    prior="Something is known.",
    control="Nothing is known.",
    inputs="Rows.",
    outputs="Numbers.",
    cost="seconds",
    tier="beta",
    bibtex="\n@misc{a, title={A}}  ",
)


@pytest.fixture(autouse=True)
def own_catalogue(monkeypatch):
    """An empty catalogue for the length of a test."""
    monkeypatch.setattr(registry, "_ENTRIES", {})
    monkeypatch.setattr(registry, "_FAILURES", {})
    monkeypatch.setattr(registry, "_walked", True)
    monkeypatch.setattr(records, "_RECORDS", dict(records._RECORDS))
    monkeypatch.setattr(system, "_CLASSES", dict(system._CLASSES))


def make_prior(name="CatalogueDouble", module=__name__):
    kind = dataclass(frozen=True)(type(name, (Prior,), {"off": lambda self: self}))
    kind.__module__ = module
    return kind


def make_system(name="SystemDouble", module=__name__):
    body = {"_paper_prior": lambda self: None, "_fit": lambda self, X, y: None, "__module__": module}
    return type(name, (system.System,), body)


def test_registered_classes_are_found():
    prior, kind = register(CARD)(make_prior()), register(CARD)(make_system())
    entry = lookup("a-slug")
    assert (entry.card, entry.system, entry.priors) == (CARD, kind, [prior])
    assert prior.card is CARD and kind.card is CARD
    assert list(catalogue()) == ["a-slug"]


def test_further_estimators_stand_beside_the_system_of_their_card():
    main, other = register(CARD)(make_system("Paper")), register(CARD, main=False)(make_system("Shipped"))
    entry = lookup("a-slug")
    assert (entry.system, entry.estimators, other.card) == (main, [other], CARD)
    with pytest.raises(ConfigError, match="two systems are registered"):
        register(CARD)(other)


def test_one_slug_has_one_card():
    register(CARD)(make_prior())
    with pytest.raises(ConfigError, match="two different cards have the slug 'a-slug'"):
        register(replace(CARD, title="Another"))(make_prior("OtherDouble"))


def test_one_slug_has_one_system():
    register(CARD)(make_system())
    with pytest.raises(ConfigError, match="two systems are registered as 'a-slug'"):
        register(CARD)(make_system("OtherSystemDouble"))


def test_two_priors_of_one_name_are_refused():
    register(CARD)(make_prior())
    register(replace(CARD, slug="b"))(make_prior("SecondDouble"))
    with pytest.raises(ConfigError, match="two records are called 'CatalogueDouble'"):
        register(replace(CARD, slug="c"))(make_prior(module="elsewhere"))


def test_two_systems_of_one_name_are_refused():
    make_system()
    make_system()
    with pytest.raises(ConfigError, match="two systems are called 'SystemDouble': in test_core_registry and in else"):
        make_system(module="elsewhere")


def test_a_reloaded_class_takes_its_own_place():
    first, second = (register(CARD)(make_prior()) for _ in range(2))
    assert lookup("a-slug").priors == [second] != [first]


def test_other_classes_are_refused():
    with pytest.raises(ConfigError, match="neither a System nor a Prior"):
        register(CARD)(dict)


def test_final_methods_cannot_be_overridden():
    for name in ("fit", "predict", "save", "load", "predict_proba"):
        with pytest.raises(TypeError, match=rf"Bad.{name} is final; write the hook _{name} instead"):
            type("Bad", (system.System,), {name: None})


def test_unknown_slugs_suggest_near_ones():
    register(CARD)(make_prior())
    with pytest.raises(InputError, match="no system is called 'a-slog'; there are 1: a-slug") as caught:
        lookup("a-slog")
    assert caught.value.hint == "Did you mean 'a-slug'?"


def test_citations():
    prior = register(CARD)(make_prior())
    assert cite("a-slug") == cite(prior) == cite(prior()) == "@misc{a, title={A}}\n"
    with pytest.raises(InputError, match="no system is called 'b'"):
        cite("b")


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A room `foreknow.spare_room` in a temporary folder, the only one of the catalogue."""
    folder = tmp_path / "spare_room"
    folder.mkdir()
    monkeypatch.setattr(foreknow, "__path__", [*foreknow.__path__, str(tmp_path)])
    monkeypatch.setattr(registry, "ROOMS", {"spare_room": "for this test", "not_there": "has no package"})
    yield folder
    for name in [name for name in sys.modules if name.startswith("foreknow.spare_room")]:
        del sys.modules[name]
    vars(foreknow).pop("spare_room", None)


GOOD = """
    from dataclasses import dataclass
    from foreknow.core.card import Card
    from foreknow.core.prior import Prior
    from foreknow.core.registry import register

    CARD = Card("found", "A title", ("Nobody, Ann",), 2024, "tests", "audit", "Known.", "Not.", "Rows.", "Numbers.",
                "seconds", "beta", "@misc{a}")

    @register(CARD)
    @dataclass(frozen=True)
    class FoundDouble(Prior):
        def off(self):
            return self
"""


def test_modules_that_fail_to_import_are_reported_by_name(room):
    for path, text in {
        "__init__.py": "",
        "works.py": dedent(GOOD),
        "needs_extra.py": "import no_such_package_here",
        "wrong.py": "1 / 0",
        "inner/__init__.py": "",
        "inner/typo.py": "def broken(:",
        "dead/__init__.py": "import no_such_package_here",
        "dead/never_reached.py": "",
    }.items():
        (room / path).parent.mkdir(exist_ok=True)
        (room / path).write_text(text)
    with pytest.warns(
        ForeknowWarning, match=r"4 module\(s\) could not be imported .*spare_room.needs_extra: ModuleNot"
    ):
        found = catalogue(reload=True)
    assert list(found) == ["found"]
    reasons = failures()
    assert {
        name.removeprefix("foreknow.spare_room."): reason.partition(":")[0] for name, reason in reasons.items()
    } == {
        "needs_extra": "ModuleNotFoundError",
        "wrong": "ZeroDivisionError",
        "inner.typo": "SyntaxError",
        "dead": "ModuleNotFoundError",
    }


def test_a_room_that_fails_to_import_is_reported(room):
    (room / "__init__.py").write_text("raise RuntimeError('no entry')")
    with pytest.warns(ForeknowWarning, match="foreknow.spare_room: RuntimeError: no entry"):
        assert catalogue(reload=True) == {}


def test_a_room_without_residents_is_quiet(room):
    (room / "__init__.py").write_text("")
    assert catalogue(reload=True) == {}
    assert failures() == {}
