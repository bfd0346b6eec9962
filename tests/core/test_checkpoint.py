"""Checkpoints: what is saved comes back; whatever is wrong with a file is refused by name."""

import dataclasses
import hashlib
import io
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from foreknow.common.errors import CheckpointError, ConfigError, InputError
from foreknow.common.rng import seeded_init
from foreknow.core import Checkpoint, checkpoint
from foreknow.core.checkpoint import MAX_HEADER_BYTES, _content_hash, _read

STORED = Path(__file__).parent / "data" / "checkpoint_v1.safetensors"


def example() -> Checkpoint:
    """The content of the stored file; what `example().save(STORED, half=True, keep_full={"borders"})` wrote."""
    generator = torch.Generator().manual_seed(1)
    return Checkpoint(
        kind="Example",
        config={"width": 8, "rate": 0.1, "names": ["a", "ü"], "deep": {"none": None, "yes": True}},
        tensors={
            "weight": torch.randn(4, 3, generator=generator),
            "borders": torch.linspace(-1, 1, 5),
            "large": torch.tensor([1e6, 1.0]),
            "wide": torch.tensor([math.pi], dtype=torch.float64),
            "brain": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
            "small": torch.tensor([0.5], dtype=torch.float16),
            "codes": torch.tensor([[1, -(2**40)]]),
            "i32": torch.tensor([-7], dtype=torch.int32),
            "i16": torch.tensor([300], dtype=torch.int16),
            "i8": torch.tensor([-100], dtype=torch.int8),
            "u8": torch.tensor([200], dtype=torch.uint8),
            "mask": torch.tensor([True, False, True]),
            "scalar": torch.tensor(3.0),
            "none": torch.zeros(0, 2),
        },
        training={"seed": 0, "steps": 10, "loss": 1.25, "command": "foreknow pretrain example"},
        versions={"foreknow": "0.1.0"},
        contains_rows=True,
    )


def parts(data: bytes) -> tuple[dict, bytes]:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(header: object, body: bytes) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + body


def read(data: bytes, **options: object) -> Checkpoint:
    settings_ = {"kind": None, "sha256": None, "max_bytes": 1 << 30} | options
    return _read(io.BytesIO(data), **settings_)


def signed(header: dict, body: bytes, **metadata: object) -> bytes:
    """The file with other metadata and a content hash that is right for it: what a careful stranger would write."""
    fields = json.loads(header["__metadata__"]["foreknow"]) | metadata
    places = {name: entry for name, entry in sorted(header.items()) if name != "__metadata__"}
    rows = [
        (n, e["dtype"], tuple(e["shape"]), body[e["data_offsets"][0] : e["data_offsets"][1]]) for n, e in places.items()
    ]
    fields["content_hash"] = _content_hash(fields, rows)
    return join({"__metadata__": {"foreknow": json.dumps(fields)}, **places}, body)


def same(a: Checkpoint, b: Checkpoint) -> bool:
    plain = all(getattr(a, f.name) == getattr(b, f.name) for f in dataclasses.fields(Checkpoint) if f.name != "tensors")
    return plain and a.tensors.keys() == b.tensors.keys() and all(equal(t, b.tensors[n]) for n, t in a.tensors.items())


def equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.numpy(force=True).tobytes() == b.numpy(force=True).tobytes()


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.fixture(scope="module")
def valid(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("checkpoint") / "a.safetensors"
    dataclasses.replace(
        example(), tensors={k: v for k, v in example().tensors.items() if k in ("weight", "codes", "mask")}
    ).save(path, half=True)
    return path.read_bytes()


def test_what_is_saved_comes_back_bit_for_bit(tmp_path):
    path = tmp_path / "a.safetensors"
    original = example()
    original.save(path)
    loaded = Checkpoint.load(path, kind="Example", sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    for field in dataclasses.fields(Checkpoint):
        if field.name != "tensors":
            assert getattr(loaded, field.name) == getattr(original, field.name)
    assert loaded.tensors.keys() == original.tensors.keys()
    for name, tensor in original.tensors.items():
        assert loaded.tensors[name].dtype == tensor.dtype and loaded.tensors[name].shape == tensor.shape
        assert bits(loaded.tensors[name]) == bits(tensor), name
    again = tmp_path / "b.safetensors"
    loaded.save(again)
    assert again.read_bytes() == path.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_views_and_shared_tensors_are_stored_apart(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "a": base,
        "b": base,
        "t": base.T,
        "row": base[1],
        "grad": nn.Parameter(base),
        "e": base[:1].expand(5, 4),
    }
    Checkpoint("K", {}, tensors).save(tmp_path / "a.safetensors")
    loaded = Checkpoint.load(tmp_path / "a.safetensors").tensors
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_half_where_it_is_harmless(tmp_path):
    path = tmp_path / "a.safetensors"
    original = example()
    original = dataclasses.replace(
        original,
        tensors=original.tensors
        | {"tiny": torch.tensor([3e-7, 1e-8]), "inf": torch.tensor([math.inf]), "nan": torch.tensor([math.nan])},
    )
    original.save(path, half=True, keep_full=frozenset({"borders"}))
    header, _ = parts(path.read_bytes())
    stored = {name: entry["dtype"] for name, entry in header.items() if name != "__metadata__"}
    assert [name for name in stored if stored[name] == "F16"] and stored["weight"] == stored["scalar"] == "F16"
    assert {stored[name] for name in ("borders", "large", "tiny", "inf", "nan")} == {"F32"} and stored["wide"] == "F64"
    loaded = Checkpoint.load(path)
    for name, tensor in original.tensors.items():
        assert loaded.tensors[name].dtype == tensor.dtype, name
    assert torch.equal(loaded.tensors["weight"], original.tensors["weight"].half().float())
    assert torch.equal(loaded.tensors["borders"], original.tensors["borders"])


def test_the_stored_file_of_format_1_still_reads():
    loaded = Checkpoint.load(
        STORED, kind="Example", sha256="43a2fc0439dec7b718504902af4b0d4ccbb027162e4428de49e71b5884d586f5"
    )
    original = example()
    assert loaded.format_version == 1 and loaded.contains_rows
    assert (loaded.config, loaded.training, loaded.versions) == (original.config, original.training, original.versions)
    assert loaded.tensors.keys() == original.tensors.keys()
    for name, tensor in original.tensors.items():
        expected = tensor.half().float() if name in ("weight", "scalar", "none") else tensor
        assert bits(loaded.tensors[name]) == bits(expected) and loaded.tensors[name].dtype == tensor.dtype, name


@seeded_init(0)
def test_load_into_a_module(tmp_path):
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    with torch.no_grad():
        module[0].weight.fill_(7.0)
    path = tmp_path / "a.safetensors"
    Checkpoint("Net", {}, {f"net.{k}": v for k, v in module.state_dict().items()} | {"other": torch.ones(1)}).save(path)
    loaded, fresh = Checkpoint.load(path), nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    loaded.load_into(fresh, prefix="net.")
    assert all(torch.equal(a, b) for a, b in zip(fresh.state_dict().values(), module.state_dict().values()))
    double = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).double()
    loaded.load_into(double, prefix="net.")
    assert double[0].weight.dtype == torch.float64


@seeded_init(0)
def test_load_into_lists_all_that_does_not_fit():
    target = nn.Linear(2, 3)
    before = target.weight.detach().clone()
    given = Checkpoint("Net", {}, {"weight": torch.ones(3, 4), "scale": torch.ones(1)})
    with pytest.raises(CheckpointError) as caught:
        given.load_into(target)
    for words in ("missing: bias", "unexpected: scale", "wrong shape: weight", "(3, 4)", "(3, 2)", "Linear"):
        assert words in str(caught.value)
    assert torch.equal(before, target.weight)
    with pytest.raises(CheckpointError, match="int64"):
        Checkpoint("Net", {}, {"weight": torch.ones(3, 2).long(), "bias": torch.ones(3)}).load_into(target)
    with pytest.raises(CheckpointError, match="missing: bias, weight"):
        given.load_into(target, prefix="absent.")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": ""}, "kind must be a name"),
        ({"config": {"a": math.nan}}, "config"),
        ({"config": {"a": (1, 2)}}, "tuples"),
        ({"config": {1: 2}}, "text"),
        ({"config": [1]}, "dict"),
        ({"config": {"a": object()}}, "JSON"),
        ({"training": {"a": "\ud800"}}, "training"),
        ({"versions": {"a": torch}}, "versions"),
        ({"contains_rows": 1}, "contains_rows"),
        ({"config": {"a": "x" * MAX_HEADER_BYTES}}, "read back"),
        ({"tensors": {"a": 3}}, "'a' must be a dense tensor"),
        ({"tensors": {"a": torch.zeros(2, dtype=torch.complex64)}}, "complex64"),
        ({"tensors": {"a": torch.zeros(2, device="meta")}}, "meta"),
        ({"tensors": {"a": torch.eye(2).to_sparse()}}, "sparse"),
        ({"tensors": {"__metadata__": torch.zeros(2)}}, "name of a tensor"),
        ({"tensors": {"\ud800": torch.zeros(2)}}, "name of a tensor"),
    ],
)
def test_what_cannot_be_stored_is_refused_and_leaves_no_file(tmp_path, change, words):
    with pytest.raises(ConfigError, match=words):
        dataclasses.replace(example(), **change).save(tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_bad_arguments(tmp_path):
    with pytest.raises(ConfigError, match="names no tensor: absent"):
        example().save(tmp_path / "a", keep_full=frozenset({"absent"}))
    with pytest.raises(InputError, match="does not exist"):
        example().save(tmp_path / "no" / "a")
    with pytest.raises(InputError, match="no file"):
        Checkpoint.load(tmp_path / "absent")
    with pytest.raises(InputError, match="no file"):
        Checkpoint.load(tmp_path)
    with pytest.raises(ConfigError, match="64 hexadecimal"):
        Checkpoint.load(STORED, sha256="abc")
    with pytest.raises(CheckpointError, match=r"checkpoint_v1\.safetensors: the file holds a 'Example', not a 'Other'"):
        Checkpoint.load(STORED, kind="Other")
    with pytest.raises(CheckpointError, match="SHA-256 differs"):
        Checkpoint.load(STORED, sha256="0" * 64)
    with pytest.raises(CheckpointError, match="100 allowed"):
        Checkpoint.load(STORED, max_bytes=100)


def test_every_header_length_is_read(tmp_path):
    # a first byte of 0x80 is also how pickles begin
    lengths = set()
    for extra in range(0, 256, 8):
        Checkpoint("K", {"a": "x" * extra}, {"t": torch.ones(2)}).save(tmp_path / "a.safetensors")
        lengths.add((tmp_path / "a.safetensors").read_bytes()[0])
        assert Checkpoint.load(tmp_path / "a.safetensors").config == {"a": "x" * extra}
    assert 0x80 in lengths


def other(header: dict, name: str, **change: object) -> dict:
    return header | {name: header[name] | change}


def deep(levels: int) -> bytes:
    return b'{"a":' + b"[" * levels + b"]" * levels + b"}"


REFUSALS = {
    "empty": (lambda h, b: b"", "0 bytes"),
    "short": (lambda h, b: b"\x10\x00\x00", "3 bytes"),
    "pickle": (lambda h, b: pickle.dumps({"a": np.ones(3)}), "pickle"),
    "zip": (lambda h, b: b"PK\x03\x04" + bytes(100), "pickle"),
    "text": (lambda h, b: b"a,b,c\n1,2,3\n" * 20, "no safetensors"),
    "long header": (lambda h, b: (MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{}", "allowed"),
    "header past the end": (lambda h, b: (500).to_bytes(8, "little") + b"{}", "cut off"),
    "cut body": (lambda h, b: join(h, b[:-1]), "cut off"),
    "longer body": (lambda h, b: join(h, b + b"\x00"), "too many"),
    "not JSON": (lambda h, b: join(b"{'a': 1}", b), "not valid JSON"),
    "not UTF-8": (lambda h, b: join(b'{"\xff": 1}', b), "not valid JSON"),
    "a list": (lambda h, b: join([], b""), "not a JSON object"),
    "deep": (lambda h, b: join(deep(100_000), b), "deeper"),
    "deep behind a string": (lambda h, b: join(b'{"\\"[":' + deep(70)[5:], b), "deeper"),
    "NaN": (lambda h, b: join(b'{"a": NaN}', b), "NaN"),
    "infinity": (lambda h, b: join(b'{"a": 1e999}', b), "1e999"),
    "huge integer": (lambda h, b: join(b'{"a": ' + b"9" * 5000 + b"}", b), "not valid JSON"),
    "surrogate": (lambda h, b: join(b'{"\\ud800": 1}', b), "not valid JSON"),
    "key twice": (lambda h, b: join(b'{"a": 1, "a": 1}', b), "key twice"),
    "no metadata": (lambda h, b: join({k: v for k, v in h.items() if k != "__metadata__"}, b), "another program"),
    "other metadata": (lambda h, b: join(h | {"__metadata__": {"format": "pt"}}, b), "got format"),
    "more metadata": (lambda h, b: join(other(h, "__metadata__", note="x"), b), "foreknow, note"),
    "metadata not text": (lambda h, b: join(h | {"__metadata__": {"foreknow": 3}}, b), "one key"),
    "metadata not JSON": (lambda h, b: join(h | {"__metadata__": {"foreknow": "{"}}, b), "metadata is not valid"),
    "metadata a list": (lambda h, b: join(h | {"__metadata__": {"foreknow": "[]"}}, b), "not a JSON object"),
    "metadata NaN": (lambda h, b: join(h | {"__metadata__": {"foreknow": '{"a": NaN}'}}, b), "NaN"),
    "unknown key": (lambda h, b: signed(h, b, colour=1), "unknown colour"),
    "newer": (lambda h, b: signed(h, b, format_version=2), "pip install -U"),
    "version text": (lambda h, b: signed(h, b, format_version="1"), "malformed"),
    "version true": (lambda h, b: signed(h, b, format_version=True), "malformed"),
    "version 0": (lambda h, b: signed(h, b, format_version=0), "malformed"),
    "config a list": (lambda h, b: signed(h, b, config=[]), "config must be a dict"),
    "rows a number": (lambda h, b: signed(h, b, contains_rows=1), "contains_rows"),
    "halved unknown": (lambda h, b: signed(h, b, halved=["absent"]), "halved"),
    "halved an integer": (lambda h, b: signed(h, b, halved=["codes"]), "halved"),
    "halved unhashable": (lambda h, b: signed(h, b, halved=[["codes"]]), "halved"),
    "edited config": (lambda h, b: join(edited(h, config={"width": 9}), b), "hash"),
    "edited hash": (lambda h, b: join(edited(h, content_hash=None), b), "hash"),
    "flipped byte": (lambda h, b: join(h, bytes([b[0] ^ 1]) + b[1:]), "hash"),
    "unknown dtype": (lambda h, b: join(other(h, "codes", dtype="F8_E4M3"), b), "unknown dtype"),
    "dtype a list": (lambda h, b: join(other(h, "codes", dtype=["I64"]), b), "unknown dtype"),
    "negative shape": (lambda h, b: join(other(h, "codes", shape=[-1, -2]), b), "whole numbers"),
    "huge shape": (lambda h, b: join(other(h, "codes", shape=[1 << 60]), b), "whole numbers"),
    "overflowing shape": (lambda h, b: join(other(h, "codes", shape=[1 << 33, 1 << 33, 2]), b), "needs"),
    "many axes": (lambda h, b: join(other(h, "codes", shape=[1] * 30 + [2]), b), "at most 16"),
    "shape of booleans": (lambda h, b: join(other(h, "codes", shape=[True, 2]), b), "whole numbers"),
    "shape of fractions": (lambda h, b: join(other(h, "codes", shape=[1.0, 2]), b), "whole numbers"),
    "offsets out of range": (lambda h, b: join(moved(h, "codes", 1 << 40), b), "gap"),
    "offsets overlap": (lambda h, b: join(moved(h, "mask", -1), b), "overlap"),
    "offsets backwards": (lambda h, b: join(other(h, "codes", data_offsets=[16, 0]), b), "ascending"),
    "one offset": (lambda h, b: join(other(h, "codes", data_offsets=[0]), b), "ascending"),
    "extra field": (lambda h, b: join(other(h, "codes", code="x"), b), "exactly"),
    "entry a number": (lambda h, b: join(h | {"codes": 3}, b), "exactly"),
    "odd booleans": (lambda h, b: signed(h, b[:-1] + b"\x02"), "truth values"),
}  # fmt: skip


def edited(header: dict, **change: object) -> dict:
    fields = json.loads(header["__metadata__"]["foreknow"]) | change
    return header | {"__metadata__": {"foreknow": json.dumps(fields)}}


def moved(header: dict, name: str, by: int) -> dict:
    begin, end = header[name]["data_offsets"]
    return other(header, name, data_offsets=[begin + by, end + by])


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(valid, case):
    change, words = REFUSALS[case]
    header, body = parts(valid)
    with pytest.raises(CheckpointError, match=words):
        read(change(header, body))


def test_the_refusals_start_from_a_file_that_reads(valid):
    header, body = parts(valid)
    assert same(read(join(header, body)), read(valid)) and read(signed(header, body)).kind == "Example"
    assert read(signed(header, body, kind="New")).kind == "New"
    assert header["codes"]["data_offsets"][0] == 0 and body[-1] == 1  # mask lies last


def test_a_file_that_changes_while_it_is_read(valid):
    class Changing(io.BytesIO):
        def read(self, size: int = -1) -> bytes:
            data = super().read(size)
            return data[:20] + b"?" + data[21:] if size == len(valid) else data

    with pytest.raises(CheckpointError, match="changed while"):
        _read(Changing(valid), kind=None, sha256=None, max_bytes=1 << 20)


def test_a_new_format_keeps_the_reader_of_the_old_one(valid, monkeypatch):
    monkeypatch.setitem(checkpoint._READERS, 2, (checkpoint._KEYS_V1 | {"colour"}, checkpoint._read_v1))
    header, body = parts(valid)
    assert read(valid).format_version == 1
    assert read(signed(header, body, format_version=2, colour="red")).kind == "Example"
    with pytest.raises(CheckpointError, match="missing colour"):
        read(signed(header, body, format_version=2))


@given(
    edits=st.lists(
        st.tuples(
            st.floats(0, 1), st.sampled_from(["flip", "delete", "insert", "cut", "double"]), st.binary(max_size=9)
        ),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=300, deadline=None)
def test_damaged_files_read_the_same_or_are_refused(valid, edits):
    data = valid
    for where, what, new in edits:
        at = int(where * len(data))
        if what == "flip" and at < len(data):
            data = data[:at] + bytes([data[at] ^ (new[0] if new else 1)]) + data[at + 1 :]
        elif what == "delete":
            data = data[:at] + data[at + len(new) :]
        elif what == "insert":
            data = data[:at] + new + data[at:]
        elif what == "cut":
            data = data[:at]
        else:
            data = data[:at] + data[at // 2 :]
    try:
        loaded = read(data)
    except CheckpointError:
        return
    assert same(loaded, read(valid))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(config=st.dictionaries(st.text(max_size=5), JSON, max_size=3), shape=st.lists(st.integers(0, 3), max_size=3))
@settings(max_examples=60, deadline=None)
def test_any_settings_and_shapes_come_back(tmp_path_factory, config, shape):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    tensors = {"x": torch.arange(math.prod(shape)).reshape(shape)}
    try:
        Checkpoint("K", config, tensors).save(path)
    except ConfigError:
        assert any(0xD800 <= ord(c) < 0xE000 for c in repr(config)) or "\\ud" in repr(config)
        return
    loaded = Checkpoint.load(path)
    assert loaded.config == config and equal(loaded.tensors["x"], tensors["x"])
