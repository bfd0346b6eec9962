"""The regressor: normalisers, choice of the best epoch, rollout, resolutions, presets, files, price, proof."""

from __future__ import annotations

import json
import runpy
import sys
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from typer.testing import CliRunner

from foreknow.cli.main import app
from foreknow.common.errors import CapabilityError, ConfigError, ForeknowWarning, InputError
from foreknow.core.evidence import KEYS
from foreknow.core.source import Sample
from foreknow.core.system import load
from foreknow.data.pde import darcy, diffusion
from foreknow.physics import FNORegressor, MultigridPrior, OperatorRegressor, PCARidge
from foreknow.physics.mgno import proof
from foreknow.physics.mgno.baselines import MeanField
from foreknow.physics.mgno.presets import PRESETS
from foreknow.physics.mgno.training import Normaliser

TINY = {"smoothing": (1, 1, 2), "channels": 4, "layers": 2, "epochs": 2, "batch_size": 4, "random_state": 0}


@pytest.fixture(scope="module")
def flow():
    return darcy(12, 9)


@pytest.fixture(scope="module")
def fitted(flow):
    return OperatorRegressor(**TINY).fit(flow.X[:8], flow.y[:8])


# Learning ----------------------------------------------------------------------------------------------------------


def test_it_learns_to_spread_heat() -> None:
    """A linear map that a cycle can be: after a short training far better than the mean field, and than no training."""
    data = diffusion(48, 16)
    settings = {**TINY, "boundary": "periodic", "epochs": 25, "lr": 1e-2}
    errors = OperatorRegressor(**settings).fit(data.X[:40], data.y[:40]).score(data.X[40:], data.y[40:])
    assert errors["l2"] < 0.1
    untrained = OperatorRegressor(**{**settings, "epochs": 1, "lr": 1e-9}).fit(data.X[:40], data.y[:40])
    assert untrained.score(data.X[40:], data.y[40:])["l2"] > 1


def test_normalisers_see_training_fields_only(flow) -> None:
    """Held-out fields that are wildly larger leave mean and scale alone."""
    X, y = flow.X.copy(), flow.y.copy()
    settings = {**TINY, "validation_fraction": 0.25, "normalise_x": "pointwise", "normalise_y": "pointwise"}
    plain = OperatorRegressor(**settings).fit(X, y)
    kept = np.ones(len(X), dtype=bool)
    kept[_held_out(plain.seed_, len(X), 3)] = False
    X[~kept] += 1000.0
    y[~kept] *= 1000.0
    model = OperatorRegressor(**settings).fit(X, y).model_
    np.testing.assert_allclose(model.inputs.mean.numpy(), X[kept].mean(0), rtol=1e-5)
    np.testing.assert_allclose(model.outputs.mean.numpy(), y[kept].mean(0), atol=1e-6)
    assert plain.course_.n_train == kept.sum() == 9


def _held_out(seed: int, n: int, n_held: int) -> np.ndarray:
    from foreknow.common.rng import numpy_stream

    return numpy_stream(seed, "validation").permutation(n)[:n_held]


def test_the_best_epoch_is_kept(flow) -> None:
    """With a rate that ruins the network at the end, the weights are those of the epoch with the least error."""
    model = OperatorRegressor(**{**TINY, "epochs": 12, "lr": 0.5, "validation_fraction": 0.25}).fit(flow.X, flow.y)
    errors = model.course_.validation
    assert len(errors) == 12 and model.course_.best_epoch == int(np.argmin(errors)) + 1
    held = _held_out(model.seed_, 12, 3)
    assert model.score(flow.X[held], flow.y[held])["l2"] == pytest.approx(min(errors), rel=1e-4)
    assert errors[-1] > min(errors)


def test_few_pairs_are_all_learnt_from(flow) -> None:
    model = OperatorRegressor(**TINY).fit(flow.X[:5], flow.y[:5])
    assert model.course_.n_train == 5 and model.course_.validation == () and model.pictures() == {}


@pytest.mark.parametrize("kind", ["none", "gaussian", "pointwise"])
def test_normalisers_have_an_inverse(kind: str) -> None:
    fields = np.random.default_rng(0).normal(3.0, 2.0, (20, 2, 5, 5))
    fields[:, 1, 0, 0] = 7.0  # a node that never varies
    normaliser = Normaliser(kind, (2, 5, 5)).learn(fields)
    given = torch.tensor(fields, dtype=torch.float32)
    encoded = normaliser.encode(given)
    torch.testing.assert_close(normaliser.decode(encoded), given, rtol=1e-4, atol=1e-4)
    if kind != "none":
        assert float(encoded.mean().abs()) < 1e-2 and bool(encoded.isfinite().all())


def test_targets_of_zeros_are_told(flow) -> None:
    y = flow.y[:8].copy()
    y[0] = 0.0
    with pytest.warns(ForeknowWarning, match="1 target field"):
        model = OperatorRegressor(**TINY).fit(flow.X[:8], y)
    assert np.isfinite(model.predict(flow.X)).all()
    with pytest.warns(ForeknowWarning, match="1 target field"):
        errors = model.score(flow.X[:8], y)
    assert all(error < 1e6 for error in errors.values())


def test_views_that_run_backwards_are_read(flow, fitted) -> None:
    X, y = flow.X[::-1], flow.y[:, :, ::-1]
    np.testing.assert_array_equal(fitted.predict(X), fitted.predict(X.copy()))
    assert fitted.score(X, y) == fitted.score(X.copy(), y.copy())
    OperatorRegressor(**TINY).fit(X, y)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_units_of_the_output_do_not_matter(flow, scale: float) -> None:
    one = OperatorRegressor(**TINY).fit(flow.X[:8], flow.y[:8]).predict(flow.X)
    other = OperatorRegressor(**TINY).fit(flow.X[:8], scale * flow.y[:8]).predict(flow.X) / scale
    np.testing.assert_allclose(other, one, atol=2e-2 * np.abs(one).max())


def test_the_arms_start_from_the_same_weights(flow) -> None:
    still = {**TINY, "epochs": 1, "lr": 1e-12}
    on, off, wrong = (OperatorRegressor(prior, **still) for prior in ("paper", "off", "wrong"))
    weights = []
    for arm in (on, off, wrong):
        arm.fit(flow.X[:8], flow.y[:8])
        weights.append(torch.cat([p.detach().flatten() for p in arm.network_.parameters()]))
    assert (on.prior_.levels, off.prior_.levels, wrong.prior_.shuffled) == (3, 1, True)
    for other in weights[1:]:
        torch.testing.assert_close(other, weights[0], atol=1e-6, rtol=0)


# Using it ----------------------------------------------------------------------------------------------------------


def test_a_rollout_is_the_map_again_and_again() -> None:
    data = diffusion(8, 8)
    model = OperatorRegressor(preset="navier-stokes", **{**TINY, "smoothing": (1, 2)}).fit(data.X, data.y)
    states = model.rollout(data.X[:2], 3)
    assert states.shape == (2, 3, 1, 8, 8)
    np.testing.assert_allclose(states[:, 1], model.predict(model.predict(data.X[:2])), atol=1e-5)
    with pytest.raises(ConfigError, match="n_steps"):
        model.rollout(data.X[:2], 0)
    two = OperatorRegressor(**TINY).fit(np.concatenate([data.X, data.X], 1), data.y)
    with pytest.raises(CapabilityError, match="channels"):
        two.rollout(np.concatenate([data.X, data.X], 1), 2)


def test_other_resolutions_where_the_grids_fit(flow, fitted) -> None:
    finer = darcy(2, 17)
    assert fitted.predict(finer.X).shape == (2, 1, 17, 17)
    with pytest.raises(InputError, match="odd, or even"):
        fitted.predict(darcy(2, 10).X)
    tied = OperatorRegressor(**TINY, normalise_y="pointwise").fit(flow.X, flow.y)
    with pytest.raises(InputError, match="pointwise"):
        tied.predict(finer.X)


@pytest.mark.parametrize(
    ("X", "y", "words"),
    [
        (np.zeros((4, 1, 8, 9)), np.zeros((4, 1, 8, 9)), "square"),
        (np.zeros((4, 8, 8)), np.zeros((4, 8, 8)), "axes"),
        (np.zeros((4, 1, 8, 8)), np.zeros((4, 1, 4, 4)), "on the grid of X"),
        (np.zeros((4, 1, 8, 8)), np.zeros((4, 8)), "on the grid of X"),
    ],
)
def test_shapes_that_do_not_fit(X: np.ndarray, y: np.ndarray, words: str) -> None:
    with pytest.raises(InputError, match=words):
        OperatorRegressor(**TINY).fit(X, y)


def test_channels_that_do_not_fit(fitted) -> None:
    with pytest.raises(InputError):
        fitted.predict(np.zeros((2, 2, 9, 9)))
    with pytest.raises(InputError, match="shape"):
        fitted.losses(fitted, Sample(np.zeros((2, 1, 9, 9)), np.zeros((2, 2, 9, 9))))


def test_settings_that_do_not_fit(flow) -> None:
    for settings, words in (
        ({"smoothing": (1,) * 6}, "at most 5 level"),
        ({"prior": MultigridPrior(4)}, "4 levels"),
        ({"add_input": "yes"}, "add_input"),
        ({"preset": "darcy"}, "darcy-smooth"),
    ):
        with pytest.raises(ConfigError, match=words):
            OperatorRegressor(**{**TINY, **settings}).fit(flow.X, flow.y)


# Presets -----------------------------------------------------------------------------------------------------------

GRIDS = {"small": 33, "darcy-smooth": 211, "darcy-rough": 256, "darcy-multiscale": 256, "navier-stokes": 64,
         "helmholtz": 101, "pipe": 128}  # fmt: skip


def test_published_settings() -> None:
    assert set(GRIDS) == set(PRESETS)
    table = {name: (p.layers, p.channels, p.lr, p.epochs, p.weight_decay) for name, p in PRESETS.items()}
    assert table["darcy-smooth"] == (5, 24, 5e-4, 500, 1e-4)
    assert table["darcy-rough"] == table["darcy-multiscale"] == (4, 24, 5e-4, 500, 1e-4)
    assert table["navier-stokes"] == (5, 32, 1e-3, 500, 1e-5)
    assert table["helmholtz"] == (4, 20, 3e-4, 100, 1e-5)
    assert table["pipe"] == (5, 24, 3e-4, 500, 1e-4)
    assert PRESETS["pipe"].loss == "l2" and PRESETS["pipe"].batch_size == 4


@pytest.mark.parametrize("preset", sorted(set(PRESETS) - {"small"}))
def test_a_published_configuration_takes_one_step(preset: str) -> None:
    rng = np.random.default_rng(0)
    grid, n_in = GRIDS[preset], 2 if preset == "pipe" else 1
    X, y = rng.normal(size=(1, n_in, grid, grid)), rng.normal(size=(1, 1, grid, grid))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = OperatorRegressor(preset=preset, epochs=1, random_state=0).fit(X, y)
    assert model.network_.levels == len(PRESETS[preset].smoothing)
    assert np.isfinite(model.predict(X)).all()


def test_the_paper_preset_of_the_proof_is_the_published_one() -> None:
    sizes = proof.SIZES["paper"]
    model = OperatorRegressor(**sizes.system)
    assert (sizes.resolution, sizes.n_train, sizes.n_test) == (211, (1000,), 100)
    assert model._configuration() == PRESETS["darcy-smooth"]
    assert set(proof.arms_of(sizes, 0)) == {"on", "off", "wrong", "U-Net", "FNO", "PCA ridge", "mean field"}


# Files and command line --------------------------------------------------------------------------------------------


def run(*words: str | Path) -> dict:
    result = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_fit_and_apply_on_a_users_files(tmp_path: Path, flow) -> None:
    np.savez(tmp_path / "train.npz", a=flow.X[:8, 0], u=flow.y[:8, 0])
    np.savez(tmp_path / "new.npz", a=flow.X[8:, 0], u=flow.y[8:, 0])
    np.savez(tmp_path / "blind.npz", a=flow.X[8:, 0])
    settings = [word for name, value in TINY.items() if name != "random_state" for word in ("--set", f"{name}={value}")]
    op = tmp_path / "op.safetensors"
    run("fit", "mgno", tmp_path / "train.npz", "-o", op, *settings, "--pictures", tmp_path / "pictures")
    record = run("apply", op, tmp_path / "new.npz", "-o", tmp_path / "out")
    assert set(record["errors"]) == {"l2", "h1", "h1-differences"}
    assert (tmp_path / "out" / "fields.png").stat().st_size > 1000
    with np.load(tmp_path / "out" / "predictions.npz") as file:
        predicted = file["u"]
    np.testing.assert_allclose(predicted, load(op).predict(flow.X[8:]), atol=1e-6)
    assert "errors" not in run("apply", op, tmp_path / "blind.npz", "-o", tmp_path / "out2")
    steps = run("apply", op, tmp_path / "new.npz", "-o", tmp_path / "out3", "--with", "steps=3")
    assert steps["shape"] == [4, 3, 1, 9, 9]


@pytest.mark.parametrize(
    ("options", "words"),
    [({"inputs": "a"}, "known: input"), ({"subsample": "two"}, "whole number"), ({"subsample": "0"}, "whole number")],
)
def test_options_that_are_none(tmp_path: Path, options: dict[str, str], words: str) -> None:
    np.savez(tmp_path / "x.npz", a=np.zeros((2, 4, 4)), u=np.zeros((2, 4, 4)))
    with pytest.raises(ConfigError, match=words):
        OperatorRegressor.read_files([tmp_path / "x.npz"], options)


def test_trajectories_become_steps(tmp_path: Path) -> None:
    np.savez(tmp_path / "ns.npz", u=np.random.default_rng(0).normal(size=(2, 8, 8, 5)))
    sample = OperatorRegressor.read_files([tmp_path / "ns.npz"], {"trajectories": "u", "subsample": "2"})
    assert sample.X.shape == sample.y.shape == (8, 1, 4, 4)
    with pytest.raises(InputError, match="one file"):
        OperatorRegressor.read_files([tmp_path / "ns.npz"] * 2, {"trajectories": "u"})
    with pytest.raises(InputError, match="name a file"):
        OperatorRegressor.read_files([], {})


# Price and proof ---------------------------------------------------------------------------------------------------


def test_simple_methods_know_their_own_limits(flow) -> None:
    """Ridge regression recovers a linear map from enough pairs; the mean field is the mean."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 1, 4, 4))
    y = np.einsum("ij,nj->ni", rng.normal(size=(16, 16)), X.reshape(200, 16)).reshape(X.shape)
    ridge = PCARidge().fit(X[:150], y[:150])
    np.testing.assert_allclose(ridge.predict(X[150:]), y[150:], atol=0.05)
    few = PCARidge().fit(X[:10], y[:10])
    errors = [_left_out(X[:10], y[:10], float(strength)) for strength in few.model_.alphas]
    assert few.model_.alpha_ == few.model_.alphas[np.argmin(errors)]
    np.testing.assert_allclose(MeanField().fit(X, y).predict(X[:2]), np.stack([y.mean(0)] * 2))
    fno = FNORegressor(OperatorRegressor(**TINY)._configuration().fitting(), width=4, layers=1)
    assert fno.fit(flow.X[:8], flow.y[:8]).predict(flow.X).shape == flow.y.shape


def _left_out(X: np.ndarray, y: np.ndarray, strength: float) -> float:
    """Squared error of every pair by the ridge regression of the others."""
    rows, fields = X.reshape(len(X), -1), y.reshape(len(y), -1)
    total = 0.0
    for i in range(len(X)):
        kept = np.arange(len(X)) != i
        model = Ridge(strength).fit(rows[kept], fields[kept])
        total += float(np.square(model.predict(rows[i : i + 1]) - fields[i]).sum())
    return total


def test_ridge_regression_learns_from_few_pairs() -> None:
    data = darcy(132, 17, random_state=1000)
    test = Sample(data.X[32:], data.y[32:])
    ridge, mean = (
        OperatorRegressor().losses(model.fit(data.X[:32], data.y[:32]), test)["l2"]
        for model in (PCARidge(), MeanField())
    )
    assert ridge < 0.6 * mean


def test_what_is_priced(flow) -> None:
    source = OperatorRegressor.priced_on("array")["darcy 33x33"]
    split = source.split(16, seed=0)
    assert split.train.X.shape == (16, 1, 33, 33) and len(split.test.X) == 100 and source.n_max == 512
    system = OperatorRegressor.priced_as("array")
    baselines = system.plain_baselines()
    assert set(baselines) == {"PCA ridge", "FNO", "mean field"}
    model = baselines["PCA ridge"](0).fit(split.train.X, split.train.y)
    assert list(system.losses(model, split.test)) == ["l2", "h1", "h1-differences"]
    assert baselines["FNO"](3).random_state == 3


def test_the_quick_proof_runs_every_part() -> None:
    told: list[float] = []
    found = OperatorRegressor.prove(preset="quick", seeds=2, progress=lambda p: told.append(p.done / p.total))
    record = json.loads(json.dumps(found.to_dict()))
    assert set(KEYS) <= set(record) and len(record["claims"]) == 17
    assert {arm["part"] for arm in record["arms"]} == {"D", "F", "G", "P", "B", "R"}
    assert told[-1] == pytest.approx(1.0)
    with pytest.raises(ConfigError):
        OperatorRegressor.prove(preset="tiny")


def test_a_proof_goes_on_where_it_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("foreknow.core.finished.cache_folder", lambda: tmp_path)
    monkeypatch.setitem(proof.SIZES, "small", proof.SIZES["quick"])
    first = proof.prove(preset="small", seeds=1)

    def never(*args: object) -> None:
        raise AssertionError("measured again")

    for name in ("darcy_arm", "ring_arm", "resolution_arm"):
        monkeypatch.setattr(proof, name, never)
    again = proof.prove(preset="small", seeds=1)
    assert again.arms == first.arms and again.claims == first.claims and again.seconds > 0


def test_where_errors_lie() -> None:
    error = np.ones((8, 8))
    assert proof.edge_over_inside(error) == 1.0
    error[[0, -1]] = 10.0
    assert proof.edge_over_inside(error) > 3.0


def test_a_draw_from_the_prior_reaches_farther_than_without() -> None:
    picture = MultigridPrior(5).picture(2, generator=torch.Generator().manual_seed(0))
    on, off = (np.asarray(row[0]) for row in picture.images)
    assert on.shape == (65, 65) and len(picture.images[0]) == 2
    assert on[0, 0] > off[0, 0] + 1


def test_the_benchmark_reads_the_files_out_of_a_wheel(tmp_path: Path) -> None:
    """Those of neuraloperator 0.3.0: coefficients as truth values, and no channel."""
    benchmark = runpy.run_path(str(Path(__file__).resolve().parents[2] / "benchmarks" / "mgno_files.py"))
    wheel = tmp_path / "some.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for number, name in enumerate(benchmark["FILES"]):
            pair = {"x": torch.ones(number + 2, 4, 4) > 0, "y": torch.full((number + 2, 4, 4), float(number))}
            torch.save(pair, tmp_path / name)
            archive.write(tmp_path / name, f"{benchmark['INSIDE']}/{name}")
    for place in (wheel, tmp_path):
        pairs = benchmark["read"](place)
        assert [pair.X.shape for pair in pairs.values()] == [(n, 1, 4, 4) for n in (2, 3, 4)]
        assert [float(pair.y.mean()) for pair in pairs.values()] == [0, 1, 2]


def test_the_fno_of_neuraloperator_is_an_arm_where_it_is_installed(flow, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its package brings much that is not needed here, so a stand-in takes its place."""
    asked: list[dict[str, object]] = []

    class Theirs(torch.nn.Conv2d):
        """Like the real one it has complex weights, and more than tensors in its state."""

        def __init__(self, **settings: int) -> None:
            asked.append(settings)
            super().__init__(settings["in_channels"], settings["out_channels"], 1)
            self.waves = torch.nn.Parameter(torch.zeros(2, 2, dtype=torch.complex64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + self.waves.abs().sum()

        def state_dict(self, *args: object, **named: object) -> dict:
            return {**super().state_dict(*args, **named), "_metadata": {"version": "2"}}

    package, models = SimpleNamespace(__spec__=object()), SimpleNamespace(FNO=Theirs)
    monkeypatch.setitem(sys.modules, "neuralop", package)
    monkeypatch.setitem(sys.modules, "neuralop.models", models)
    op = OperatorRegressor(**TINY)
    model = op.plain_baselines()["FNO of neuraloperator"](0).fit(flow.X[:12], flow.y[:12])
    assert asked == [
        {"n_modes": (8, 8), "in_channels": 3, "out_channels": 1, "hidden_channels": 24, "n_layers": 4}
    ]  # both signs of every wave that 9 nodes carry; and two channels of position
    assert model.predict(flow.X[:2]).shape == (2, 1, 9, 9)
    assert "FNO of neuraloperator" in proof.arms_of(proof.SIZES["quick"], 0)
    with pytest.raises(ConfigError, match="library"):
        FNORegressor(op._configuration().fitting(), library="theirs")
