"""The system: integers predict, files, command line, price, and the path of the proof."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hawq_networks import SHAPES, build, rows
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from foreknow.cli.main import app
from foreknow.common.errors import ConfigError, InputError, MissingExtraError
from foreknow.common.rng import seeded_init
from foreknow.core.source import Sample
from foreknow.core.system import load
from foreknow.pricing.study import price
from foreknow.weights import DyadicQuantizer, QuantizedNetwork, finetune
from foreknow.weights.hawq import onnx_runtime, proof, sources
from foreknow.weights.hawq.networks import SmallResNet
from foreknow.weights.hawq.reading import read

QUICK = {"n_probes": 4, "batch_size": 20, "random_state": 0}


@pytest.fixture(scope="module")
def fitted() -> DyadicQuantizer:
    X, y = rows("resnet", 40).numpy(), np.arange(40) % 5
    return DyadicQuantizer(**QUICK).fit(X, y, model=build("resnet"))


def test_predictions_are_those_of_integers_alone(fitted: DyadicQuantizer) -> None:
    X = rows("resnet", 5, seed=4).numpy()
    graph = fitted.integer_
    scores = graph.run(X)[graph.steps[-1].name] * graph.tensors[":scale"].numpy().astype(np.float64)
    assert np.array_equal(fitted.predict(X), fitted.classes_[scores.argmax(1)])
    assert fitted.predict_proba(X) == pytest.approx(torch.from_numpy(scores).softmax(1).numpy())


def test_the_callers_network_is_left_alone_and_its_class_is_not_needed_later(tmp_path: Path, fitted) -> None:
    net = build("resnet").train()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    DyadicQuantizer(**QUICK).fit(rows("resnet", 20).numpy(), np.arange(20) % 5, model=net)
    assert net.training and all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    again = load(fitted.save(tmp_path / "q.safetensors"))
    assert not any(isinstance(value, nn.Module) for value in vars(again).values())
    assert again.plan_.bits == fitted.plan_.bits and again.plan_.cost == fitted.plan_.cost


def test_own_network_is_indifferent_to_the_unit_of_the_rows() -> None:
    X, y = rows("features", 40).numpy(), np.arange(40) % 2
    small, large = (DyadicQuantizer(width=4, own_epochs=2.0, **QUICK).fit(X * unit, y) for unit in (1.0, 1024.0))
    assert small.predict_proba(X) == pytest.approx(large.predict_proba(X * 1024.0), abs=1e-6)


def test_budgets_of_operations_and_latency() -> None:
    X, y = rows("resnet", 20).numpy(), np.arange(20) % 5
    net = build("resnet")
    layers = read(net, SHAPES["resnet"]).layers
    table = {name: {"4": 1.0, "8": 2.0} for name in layers}
    quick = DyadicQuantizer(latencies=table, latency_ms=len(layers) + 2.0, epochs=0, **QUICK).fit(X, y, model=net)
    assert quick.plan_.cost["latency_ms"] == len(layers) + 2
    assert set(quick.plan_.bits.values()) == {4, 8}
    few = DyadicQuantizer(gbops=1e-9, **QUICK)
    with pytest.raises(InputError, match="gbops = 1e-09 cannot be met"):
        few.fit(X, y, model=net)
    with pytest.raises(ConfigError, match="latencies must map"):
        DyadicQuantizer(latencies={"stem": 3}, **QUICK).fit(X, y, model=net)
    with pytest.raises(ConfigError, match="or be 'onnxruntime', got 'tvm'"):
        DyadicQuantizer(latencies="tvm", **QUICK).fit(X, y, model=net)


def test_latencies_cannot_be_measured_without_the_runtime_which_is_said_at_once(monkeypatch) -> None:
    def missing(module: str, purpose: str) -> None:
        raise MissingExtraError(f"{purpose} needs {module}.")

    monkeypatch.setattr("foreknow.weights.hawq.system.require", missing)
    monkeypatch.setattr("foreknow.weights.hawq.system.hessian_sensitivity", None)
    with pytest.raises(MissingExtraError, match="Measuring latencies"):
        DyadicQuantizer(latencies="onnxruntime", **QUICK).fit(rows("resnet", 20).numpy(), np.arange(20) % 5)


def test_latencies_measured_here_are_kept_with_the_choice_they_led_to(tmp_path: Path, monkeypatch) -> None:
    X, y = rows("resnet", 20).numpy(), np.arange(20) % 5
    found = DyadicQuantizer(latencies="onnxruntime", epochs=0, **QUICK).fit(X, y, model=build("resnet"))
    edges = [layer.layer for layer in found.sensitivity_.layers if set(layer.error) == {8}]
    assert edges and {name: set(table) for name, table in found.latencies_.items()} == {
        name: {8} if name in edges else {4, 8} for name in found.plan_.bits
    }
    assert all(ms > 0 for table in found.latencies_.values() for ms in table.values())
    monkeypatch.delattr(onnx_runtime, "layer_latencies")
    again = load(found.save(tmp_path / "q.safetensors"))
    assert again.latencies_ == found.latencies_ and again.plan_.cost == found.plan_.cost
    assert found.plan_.cost["latency_ms"] == pytest.approx(
        sum(found.latencies_[name][bits] for name, bits in found.plan_.bits.items())
    )


def test_networks_and_rows_that_do_not_suit_are_refused() -> None:
    X, y = rows("resnet", 20).numpy(), np.arange(20) % 5
    with pytest.raises(InputError, match="gives 5 scores, but y holds 2 classes"):
        DyadicQuantizer(**QUICK).fit(X, y % 2, model=build("resnet"))
    with pytest.raises(ConfigError, match=r"torch\.nn\.Module"):
        DyadicQuantizer(**QUICK).fit(X, y, model="net.pt2")
    with pytest.raises(InputError, match="2 or 4 axes"):
        DyadicQuantizer(**QUICK).fit(X[:, 0], y)
    with pytest.raises(InputError, match="3e38"):
        DyadicQuantizer(**QUICK).fit(X.astype(np.float64) * 1e300, y)


# Files and command line ----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight images in each of two folders, light and dark."""
    rng = np.random.default_rng(0)
    for name, level in (("dark", 40), ("light", 200)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(8):
            pixels = (level + rng.integers(-30, 30, (8, 8))).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    return tmp_path / "images"


def command(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_images_and_an_exported_network_from_the_command_line(folder: Path, tmp_path: Path) -> None:
    with seeded_init(0):
        net = SmallResNet(1, 2, widths=(2, 2, 4), n_blocks=1).eval()
    torch.export.save(torch.export.export(net, (torch.zeros(2, 1, 8, 8),)), tmp_path / "net.pt2")
    file, out = tmp_path / "q.safetensors", tmp_path / "out"
    done = command("fit", "hawq", folder, "-o", file, "--with", f"model={tmp_path / 'net.pt2'}", "--set", "n_probes=4",
                   "--pictures", tmp_path / "pictures")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert (tmp_path / "pictures" / "bits.png").is_file()
    done = command("apply", file, folder, "-o", out, "--with", "onnx=yes", "--json")
    assert done.exit_code == 0, done.output
    lines = (out / "predictions.csv").read_text().splitlines()
    assert lines[0] == "row,class,probability" and len(lines) == 17 and "dark/0.png" in lines[1]
    assert (out / "model.onnx").is_file()
    record = json.loads(done.stdout)
    assert record["n_rows"] == 16 and len(record["deployment"]) == 4


def test_own_network_on_arrays_from_the_command_line(tmp_path: Path) -> None:
    X, y = rows("features", 30).numpy(), np.where(np.arange(30) % 2, "odd", "even")
    np.savez(tmp_path / "rows.npz", X=X, y=y)
    sets = [word for pair in ("width=4", "n_probes=4", "own_epochs=1") for word in ("--set", pair)]
    done = command("fit", "hawq", tmp_path / "rows.npz", "-o", tmp_path / "q.safetensors", *sets)
    assert done.exit_code == 0, done.output
    done = command("apply", tmp_path / "q.safetensors", tmp_path / "rows.npz", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "even" in done.output


def test_files_that_cannot_be_used(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def fails(paths: list[Path], options: dict[str, str], said: str) -> None:
        with pytest.raises((InputError, ConfigError), match=said):
            DyadicQuantizer.read_files(paths, options)

    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.npz").write_bytes(b"no archive")
    np.savez(tmp_path / "lacks.npz", X=np.zeros((2, 2)))
    fails([], {}, "got 0")
    fails([folder], {"network": "net.pt2"}, "unknown option 'network'; known: model")
    fails([folder], {"model": str(tmp_path / "broken.npz")}, "exported program")
    fails([folder], {"model": str(tmp_path / "net.pt2")}, "there is no file")
    assert "Traceback" not in capfd.readouterr().err  # of torch, beside our message
    fails([tmp_path / "empty"], {}, "has no images")
    fails([tmp_path / "broken.npz"], {}, "cannot be read")
    fails([tmp_path / "lacks.npz"], {}, "no array 'y'")
    fails([tmp_path / "nothing.txt"], {}, "neither a folder")
    (folder / "dark" / "0.png").write_bytes(b"no image")
    fails([folder], {}, "cannot be read as an image")
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(folder / "dark" / "0.png")
    fails([folder], {}, "must have one size")


# Price and proof -----------------------------------------------------------------------------------------------------


def test_losses_count_wrong_classes_also_of_classes_never_seen(fitted: DyadicQuantizer) -> None:
    X = rows("resnet", 10, seed=5).numpy()
    right = fitted.predict(X)
    assert fitted.losses(fitted, Sample(X, right))["error rate"] == 0.0
    wrong = np.where(np.arange(10) < 3, (right + 1) % 5, right)
    wrong[9] = 99
    assert fitted.losses(fitted, Sample(X, wrong))["error rate"] == pytest.approx(0.4)


def test_price_runs_all_arms_on_rows_with_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    source = sources.TrainedSource("digits", sources.digits, n_network=1500, n_steps=3, width=2)
    system = DyadicQuantizer(bits=(2, 4, 8), n_probes=2, n_calibration=32, epochs=0.2)
    found = price(system, source, sizes=[64], seeds=2)
    assert {arm.role for arm in found.arms} == {"on", "off", "wrong", "plain"}
    assert "uniform bits" in {arm.name for arm in found.arms}
    assert set(DyadicQuantizer.priced_on("none")) >= {"digits"}
    DyadicQuantizer.priced_as("none")._check_settings()


def test_uniform_bits_keep_within_an_absolute_budget() -> None:
    X, y, net = rows("resnet", 20).numpy(), np.arange(20) % 5, build("resnet")
    whole = DyadicQuantizer(bits=(8,), **QUICK).fit(X, y, model=net).plan_.cost["size_mb"]
    tight = DyadicQuantizer(size_mb=0.9 * whole, **QUICK)
    uniform = sources.UniformBits(tight, 0).fit(X, y, model=net)
    assert set(uniform.system.plan_.bits.values()) == {4, 8} and uniform.system.bits == (4,)
    with pytest.raises(InputError, match="cannot be met"):
        sources.UniformBits(DyadicQuantizer(size_mb=1e-6, **QUICK), 0).fit(X, y, model=net)


def test_the_proof_runs_and_its_integers_agree() -> None:
    evidence = DyadicQuantizer.prove(preset="quick", seeds=1)
    claims = {claim.name: claim for claim in evidence.claims}
    assert all(claim.verdict == "held" for name, claim in claims.items() if name[:2] in ("B:", "X:"))
    compared = [record["integers_compared"] for record in evidence.arms if "integers_compared" in record]
    assert len(compared) == 9 and min(compared) > 1000
    size = {(r["fraction"], r["arm"]): r["size_mb"] for r in evidence.arms if "size_mb" in r}
    for fraction in proof.FRACTIONS:
        spent = [mb for (at, arm), mb in size.items() if at == fraction and arm != "uniform"]
        assert len(spent) == 4 and max(spent) < 1.3 * min(spent)
    timed = [record for record in evidence.arms if record["proof"] == "S"]
    assert [record["arm"] for record in timed] == ["8 bits", "4 bits"]
    assert all(record["deployment"][2]["scores that differ"] == 0 for record in timed)
    json.dumps(evidence.to_dict())


def test_the_paper_preset_builds_and_takes_a_step() -> None:
    sizes = proof.SIZES["paper"]
    with seeded_init(0):
        net = SmallResNet(1, 10, widths=(16, 32, 64), n_blocks=sizes.n_blocks).eval()
        x, y = torch.rand(2, 1, 28, 28), torch.tensor([0, 1])
    network = QuantizedNetwork(read(net, (1, 28, 28)))
    assert len(network.layers) == 6 * sizes.n_blocks + 2 + 2  # two shortcuts
    network.calibrate([x])
    before = network.layer("stem").weight.clone()
    finetune(network, lambda k: (x, y), 1, lr=sizes.lr)
    assert not torch.equal(network.layer("stem").weight, before)


def test_gaps_of_either_sign_do_not_cancel() -> None:
    """Networks on which the one arm is ahead and networks on which the other is: the mean size, with an interval."""
    sizes, after = proof.SIZES["quick"], {"on": (0.80, 0.80), "off": (0.84, 0.76)}
    arms = [
        {"arm": arm, "seed": seed, "fraction": fraction, "accuracy": 0.5, "accuracy_on_few": 0.5,
         "accuracy_after_training": after.get(arm, (0.0, 0.0))[seed]}
        for arm in ("on", "off", *(f"random {i}" for i in range(sizes.n_random)))
        for fraction in proof.FRACTIONS
        for seed in range(2)
    ]  # fmt: skip
    claims = [claim for claim in proof._claims(arms, sizes) if "size of the gap" in claim.name]
    assert len(claims) == 3
    for claim in claims:
        assert claim.measured == pytest.approx(4.0) and claim.interval == pytest.approx((4.0, 4.0))
        assert claim.verdict == "failed" and "whichever is ahead" in claim.note


def test_a_proof_goes_on_where_it_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("foreknow.core.finished.cache_folder", lambda: tmp_path)
    monkeypatch.setitem(proof.SIZES, "small", proof.SIZES["quick"])
    first = proof.prove(preset="small", seeds=1)

    def never(*args: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(proof, "one_seed", never)
    again = proof.prove(preset="small", seeds=1)
    assert json.loads(json.dumps(first.arms)) == json.loads(json.dumps(again.arms)) and first.claims == again.claims


def test_views_that_run_backwards_are_read(fitted: DyadicQuantizer) -> None:
    X = rows("resnet", 20).numpy()[::-1]
    assert np.array_equal(fitted.predict(X), fitted.predict(X.copy()))
    DyadicQuantizer(**QUICK).fit(X, (np.arange(20) % 5)[::-1], model=build("resnet"))
