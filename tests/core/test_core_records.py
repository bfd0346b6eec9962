"""Cards, records, batches and evidence: complete or refused."""

import contextlib
import json
import math
from dataclasses import FrozenInstanceError, dataclass, field, make_dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foreknow.common.errors import CheckpointError, ConfigError, InputError
from foreknow.core import evidence, records
from foreknow.core.batch import Batch
from foreknow.core.card import Card
from foreknow.core.evidence import Claim, Evidence, find_evidence
from foreknow.core.records import from_json, record, to_json

CARD = Card(
    slug="a-card",
    title="A card",
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
    bibtex="@misc{a, title={A}}",
)


# Cards -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field_name", "bad", "said"),
    [
        ("slug", "A Card", "lower-case words joined by hyphens"),
        ("slug", "a--b", "lower-case words"),
        ("slug", "", "lower-case words"),
        ("title", " ", "title is empty"),
        ("prior", "", "prior is empty"),
        ("control", "\n", "control is empty"),
        ("room", "attic", "room must be one of .*, got 'attic'"),
        ("cost", "days", "cost must be one of .*, got 'days'"),
        ("tier", "alpha", "tier must be one of"),
        ("authors", (), "at least one name"),
        ("authors", ("Ann", " "), "at least one name"),
        ("bibtex", "misc{a}", "must start with '@'"),
    ],
)
def test_incomplete_cards_are_refused(field_name, bad, said):
    with pytest.raises(ConfigError, match=said):
        replace(CARD, **{field_name: bad})


def test_cards_are_immutable():
    with pytest.raises(FrozenInstanceError):
        CARD.title = "Another"


# Records ---------------------------------------------------------------------------------------------------------


@record
@dataclass(frozen=True)
class InnerRecord:
    n: int = 1
    scale: float = 0.5


@record
@dataclass(frozen=True)
class OuterRecord:
    inner: InnerRecord
    names: tuple[str, ...] = ()
    table: dict = field(default_factory=dict)
    note: str | None = None

    def __post_init__(self):
        if self.note == "refused":
            raise ConfigError("OuterRecord: this note is not allowed.")


SIMPLE = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
NESTED = st.recursive(
    SIMPLE, lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(st.text(), inner, max_size=3)
)


@settings(max_examples=80, deadline=None)
@given(NESTED)
def test_round_trip(value):
    assert from_json(json.loads(json.dumps(to_json(value)))) == value


def test_infinite_numbers_are_stored_as_json():
    stored = json.loads(json.dumps(to_json([0.0, math.inf, -math.inf]), allow_nan=False))
    assert from_json(stored) == (0.0, math.inf, -math.inf)
    assert math.isnan(from_json(to_json(math.nan)))
    with pytest.raises(CheckpointError):
        from_json({"number": "1e999"})


def test_round_trip_of_nested_records():
    value = OuterRecord(InnerRecord(2, 0.25), ("a", "b"), {"record": InnerRecord(3), "fields": (1, 2.0, None)})
    assert from_json(json.loads(json.dumps(to_json(value)))) == value


@settings(max_examples=150, deadline=None)
@given(
    st.recursive(
        SIMPLE | st.sampled_from(["InnerRecord", "OuterRecord", "record", "fields", "map"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["record", "fields", "map", "inner", "n", "note"]) | st.text(), inner)
            | st.fixed_dictionaries({"record": inner, "fields": inner})
        ),
        max_leaves=12,
    )
)
def test_a_strangers_file_meets_a_checkpoint_error_or_a_value(value):
    with contextlib.suppress(CheckpointError):
        from_json(value)


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ({"record": "NoSuch", "fields": {}}, "unknown kind 'NoSuch'"),
        ({"record": ["InnerRecord"], "fields": {}}, "unknown kind"),
        ({"record": "InnerRecord", "fields": {"m": 1}}, "unknown field 'm'"),
        ({"record": "OuterRecord", "fields": {}}, "cannot be built: .*missing.*'inner'"),
        ({"record": "OuterRecord", "fields": {"inner": None, "note": "refused"}}, "this note is not allowed"),
        ({"record": "InnerRecord", "fields": []}, "malformed"),
        ({"record": "InnerRecord"}, "malformed"),
        ({"a": 1}, "malformed"),
        (object(), "malformed"),
    ],
)
def test_malformed_settings_are_refused(stored, said):
    with pytest.raises(CheckpointError, match=said):
        from_json(stored)


@dataclass(frozen=True)
class Unregistered:
    n: int = 1


@pytest.mark.parametrize("value", [Unregistered(), object(), {1: 2}, {"a", "b"}, torch.ones(2), InnerRecord])
def test_what_cannot_be_stored_is_refused(value):
    with pytest.raises(ConfigError, match="cannot be stored in a file"):
        to_json(value)
    with pytest.raises(ConfigError, match="cannot be stored in a file"):
        to_json([{"key": value}])


def test_a_subclass_is_another_record():
    class Sub(InnerRecord):
        pass

    with pytest.raises(ConfigError, match="type Sub cannot be stored"):
        to_json(Sub())


def test_names_of_records_are_unique(monkeypatch):
    monkeypatch.setattr(records, "_RECORDS", dict(records._RECORDS))
    again = make_dataclass("InnerRecord", [("n", int)], frozen=True)
    with pytest.raises(ConfigError, match="two records are called 'InnerRecord'"):
        record(again)
    assert record(InnerRecord) is InnerRecord


def test_records_are_frozen_dataclasses():
    for kind in (make_dataclass("Loose", [("n", int)]), type("Plain", (), {})):
        with pytest.raises(ConfigError, match="must be a frozen dataclass"):
            record(kind)


# Batches ---------------------------------------------------------------------------------------------------------


def batch(b=2, n=3, m=4, d=5, **changes) -> Batch:
    given = {
        "context_x": torch.zeros(b, n, d),
        "context_y": torch.zeros(b, n),
        "query_x": torch.zeros(b, m, d),
        "query_y": torch.zeros(b, m),
    }
    return Batch(**{**given, **changes})


def test_batch_sizes():
    made = batch()
    assert (made.n_tasks, made.n_context, made.n_query, made.n_features) == (2, 3, 4, 5)
    assert batch(n=0).n_context == 0
    assert batch(query_y=None).query_y is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"context_x": torch.zeros(3, 5)}, "must have three axes"),
        ({"query_x": torch.zeros(4, 5)}, "must have three axes"),
        ({"query_x": torch.zeros(2, 4, 6)}, "must agree in tasks and columns"),
        ({"query_x": torch.zeros(1, 4, 5), "query_y": None}, "must agree in tasks and columns"),
        ({"context_y": torch.zeros(2, 4)}, r"context_y must have shape \(2, 3\), got \(2, 4\)"),
        ({"context_y": torch.zeros(2, 3, 1)}, r"context_y must have shape \(2, 3\)"),
        ({"query_y": torch.zeros(2, 3)}, r"query_y must have shape \(2, 4\)"),
    ],
)
def test_shapes_that_do_not_belong_together(changes, said):
    with pytest.raises(InputError, match=said):
        batch(**changes)


def test_batch_moves():
    made = batch(info={"kind": "gp", "scale": torch.ones(2)}).to("meta", torch.float64)
    tensors = [made.context_x, made.context_y, made.query_x, made.query_y]
    assert all(t.device.type == "meta" and t.dtype == torch.float64 for t in tensors)
    assert made.info["kind"] == "gp"
    assert made.info["scale"].device.type == "meta" and made.info["scale"].dtype == torch.float32
    assert batch(query_y=None).to(dtype=torch.float64).query_y is None


# Evidence --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("measured", "bounds", "verdict", "expected"),
    [
        (0.5, {"low": 0.5}, "held", ">= 0.5 nat"),
        (0.49, {"low": 0.5}, "failed", ">= 0.5 nat"),
        (0.5, {"high": 0.5}, "held", "<= 0.5 nat"),
        (0.51, {"high": 0.5}, "failed", "<= 0.5 nat"),
        (0.9, {"low": 0.87, "high": 0.93}, "held", "0.87 to 0.93 nat"),
        (0.94, {"low": 0.87, "high": 0.93}, "failed", "0.87 to 0.93 nat"),
        (math.nan, {"low": 0.0}, "failed", ">= 0 nat"),
        (math.nan, {"high": 0.0}, "failed", "<= 0 nat"),
        (math.inf, {"low": 0.0}, "held", ">= 0 nat"),
    ],
)
def test_a_verdict_follows_from_its_bounds(measured, bounds, verdict, expected):
    claim = Claim("c", measured, unit="nat", **bounds)
    assert (claim.verdict, claim.expected) == (verdict, expected)
    with pytest.raises((FrozenInstanceError, AttributeError)):
        claim.verdict = "held"


def test_a_claim_that_could_not_fail_is_refused():
    with pytest.raises(InputError, match="could not fail"):
        Claim("c", 1.0)


GOOD, BAD = Claim("good", 1.0, low=0.0), Claim("bad", 1.0, high=0.0, note="too little data")


@pytest.mark.parametrize(
    ("claims", "verdict"),
    [((GOOD,), "held"), ((GOOD, GOOD), "held"), ((GOOD, BAD), "partly"), ((BAD, BAD), "failed"), ((), "failed")],
)
def test_the_verdict_of_all_claims(claims, verdict):
    assert Evidence("x", claims, (), "make", 1.0).verdict == verdict


def test_written_evidence(tmp_path, monkeypatch):
    path = Evidence("x-y", (GOOD, BAD), ({"arm": "on", "score": 1.0},), "foreknow prove x-y", 12.34).write(tmp_path)
    assert path == tmp_path / "x-y.json"
    stored = json.loads(path.read_text())
    assert set(evidence.KEYS) <= set(stored)
    assert [claim["verdict"] for claim in stored["claims"]] == ["held", "failed"]
    assert stored["environment"]["torch"] == torch.__version__.partition("+")[0] or stored["environment"]["torch"]
    assert stored["seconds"] == 12.3
    package = tmp_path / "src" / "foreknow"
    (tmp_path / "evidence").mkdir()
    path.rename(tmp_path / "evidence" / "x-y.json")
    monkeypatch.setattr(evidence, "__file__", str(package / "core" / "evidence.py"))
    assert find_evidence("x-y") == stored
    assert find_evidence("no-such") is None
