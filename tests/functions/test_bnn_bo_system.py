"""The system bnn-bo: surrogates as regressors, files of trials, the proof's path, and the command line's hooks."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from foreknow.common.deps import available
from foreknow.common.errors import CapabilityError, ConfigError, InputError
from foreknow.common.rng import numpy_stream, torch_stream
from foreknow.core.system import load
from foreknow.functions import (
    IBNN,
    Choice,
    Integer,
    MAPNet,
    NetworkPrior,
    ProcessPrior,
    Real,
    Space,
    SurrogateRegressor,
)
from foreknow.functions.bnn_bo import proof
from foreknow.functions.bnn_bo.surrogates import SURROGATES

needs_botorch = pytest.mark.skipif(not available("botorch"), reason="botorch is not installed")

TRIALS = """lr,depth,kind,loss
0.001,2,a,0.9
0.01,3,b,0.5
0.1,4,a,0.7
0.02,1,b,
0.005,2,b,0.6
0.03,3,a,0.55
"""


def curve(n: int = 14) -> tuple[np.ndarray, np.ndarray]:
    x = numpy_stream(0, "curve").uniform(-3, 3, size=(n, 1))
    return x, 50 + 10 * np.sin(x[:, 0])


@pytest.mark.parametrize("name", [n for n in SURROGATES if not n.startswith("gp")])
def test_every_surrogate_is_a_regressor_that_survives_its_file(name: str, tmp_path: Path) -> None:
    x, y = curve()
    model = SurrogateRegressor(surrogate=name, preset="quick", random_state=0).fit(x, y)
    again = load(model.save(tmp_path / "one.safetensors"))
    assert np.array_equal(model.predict(x), again.predict(x))
    assert 30 < float(model.predict(x).mean()) < 70
    assert not np.array_equal(model.with_wrong_prior().fit(x, y).predict(x), model.predict(x))


@needs_botorch
@pytest.mark.parametrize("name", ["gp", "gp-2023"])
def test_gaussian_processes_too(name: str, tmp_path: Path) -> None:
    x, y = curve()
    model = SurrogateRegressor(surrogate=name).fit(x, y)
    again = load(model.save(tmp_path / "one.safetensors"))
    np.testing.assert_allclose(model.predict(x), again.predict(x), rtol=1e-9)
    assert np.abs(model.predict(x) - y).max() < 1
    assert isinstance(model.prior_, ProcessPrior)
    wrong = model.with_wrong_prior().fit(x, y)
    assert np.abs(wrong.predict(x) - y).mean() > np.abs(model.predict(x) - y).mean()


def test_the_goal_turns_no_prediction_over() -> None:
    x, y = curve()
    down, up = (SurrogateRegressor(random_state=0).fit(x, y, goal=goal) for goal in ("minimize", "maximize"))
    np.testing.assert_allclose(down.predict(x), up.predict(x), rtol=1e-6)
    levels = down.predict(x, quantiles=(0.1, 0.9))
    assert (levels[:, 0] < levels[:, 1]).all()


def test_switched_off_it_is_one_network_by_least_squares() -> None:
    x, y = curve()
    off = SurrogateRegressor(prior="off", random_state=0).fit(x, y)
    assert isinstance(off._used, MAPNet)
    assert not off._used.with_prior_on
    assert off.prior_ == NetworkPrior((128,) * 3, "relu", 10.0, 1.6, scaled=True, with_prior=False)
    spread = off.predict_dist(x).variance()
    torch.testing.assert_close(spread, spread[0].expand(len(x)))  # no doubt but noise


def test_the_infinite_network_needs_no_seed() -> None:
    x, y = curve()
    a, b = (SurrogateRegressor(random_state=s).fit(x, y).predict(x) for s in (0, 1))
    assert np.array_equal(a, b)
    assert set(SurrogateRegressor().fit(x, y).pictures()) == {"best", "predictive"}


def test_bad_settings_meet_named_errors() -> None:
    x, y = curve()
    for params in ({"surrogate": "sobol"}, {"surrogate": "ibnn", "prior": ProcessPrior()}, {"preset": "huge"}):
        with pytest.raises(ConfigError):
            SurrogateRegressor(**params).fit(x, y)
    with pytest.raises(ConfigError):
        SurrogateRegressor().fit(x, y, space=[(0, 1)])
    with pytest.raises(ConfigError):
        SurrogateRegressor().fit(x, y, goal="up")
    with pytest.raises(InputError):
        SurrogateRegressor().fit(x, y, space=Space.of([(0, 1), (0, 1)]))


# Files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "trials.csv"
    path.write_text(TRIALS, encoding="utf-8")
    return path


def test_trials_are_read_with_the_space_they_span(table: Path) -> None:
    found = SurrogateRegressor.read_files([table], {"target": "loss"})
    space = found.named["space"]
    assert space == Space.parse("lr=0.001..0.1, depth=1..4 int, kind=a|b")
    assert found.X.shape == (6, 3)
    assert found.y[3] == 0.9  # the failed trial has the worst result
    dropped = SurrogateRegressor.read_files([table], {"failed": "drop", "goal": "maximize"})
    assert len(dropped.y) == 5
    given = SurrogateRegressor.read_files([table], {"space": "lr=1e-4..1 log, depth=1..9 int, kind=a|b|c"})
    assert given.named["space"].n_columns == 5


def test_bad_files_and_options(table: Path, tmp_path: Path) -> None:
    for options, error in (
        ({"target": "acc"}, InputError), ({"goal": "up"}, ConfigError), ({"aim": "x"}, ConfigError),
        ({"target": "kind"}, InputError), ({"space": "lr=0.01..1, depth=1..9 int, kind=a|b"}, InputError),
        ({"space": "lr=1e-4..1, width=1..9 int"}, InputError), ({"space": "lr=1e-4..1, kind=b|c"}, InputError),
    ):  # fmt: skip
        with pytest.raises(error):
            SurrogateRegressor.read_files([table], options)
    with pytest.raises(InputError):
        SurrogateRegressor.read_files([table, table], {})
    empty = tmp_path / "empty.csv"
    empty.write_text("a,b\n1,\n2,\n", encoding="utf-8")
    with pytest.raises(InputError):
        SurrogateRegressor.read_files([empty], {})


@needs_botorch
def test_the_next_trials_of_a_file(table: Path, tmp_path: Path) -> None:
    found = SurrogateRegressor.read_files([table], {"space": "lr=1e-4..1 log, depth=1..6 int, kind=a|b"})
    model = SurrogateRegressor(random_state=0).fit(found.X, found.y, **found.named)
    model = load(model.save(tmp_path / "model.safetensors"))
    done = model.apply_files([], tmp_path, {"batch": "3"})
    assert len(done.record["candidates"]) == 3
    assert done.record["best"]["value"] == 0.5
    assert all(set(point) == {"lr", "depth", "kind"} for point in done.record["candidates"])
    lines = (tmp_path / "candidates.csv").read_text().splitlines()
    assert len(lines) == 4
    assert lines[0] == "lr,depth,kind,expected,low,high"
    ranked = model.apply_files([str(tmp_path / "candidates.csv")], tmp_path, {"batch": "2"})
    assert len(ranked.record["candidates"]) == 2
    for options in ({"batch": "0"}, {"batch": "x"}, {"acquisition": "qehvi"}, {"size": "2"}):
        with pytest.raises(ConfigError):
            model.apply_files([], tmp_path, options)
    with pytest.raises(InputError):
        SurrogateRegressor().fit(*curve()).apply_files([], tmp_path, {})


# Proof, pictures --------------------------------------------------------------------------------------------------


@needs_botorch
@pytest.mark.timeout(120)
def test_the_proof_runs_and_its_claims_can_fail() -> None:
    found = SurrogateRegressor.prove(preset="quick", seeds=1)
    assert len(found.claims) == 8
    assert {record["table"] for record in found.arms} == {"loop", "posterior"}
    assert any("Ranking" in note for note in found.notes)
    assert math.isfinite(found.claims[0].measured)


def test_rows_outside_the_space_are_refused() -> None:
    space = Space.of({"kind": Choice(("a", "b")), "lr": Real(1e-3, 1.0, log=True)})
    codes = space.draw(8, seed=0)
    model = SurrogateRegressor().fit(codes, codes[:, 1], space=space)
    for bad in ([[0.0, -1.0]], [[2.0, 0.1]], [[0.5, 0.1]]):
        with pytest.raises(InputError):
            model.predict(bad)
        with pytest.raises(InputError):
            SurrogateRegressor().fit(np.concatenate([codes, bad]), np.arange(9.0), space=space)
    for parameter in (Real(1e-3, 1.0, log=True), Integer(1, 5)):
        line = Space.of({"one": parameter})
        codes = line.draw(6, seed=0)
        pictures = SurrogateRegressor().fit(codes, codes[:, 0], space=line).pictures()
        assert set(pictures) == {"best", "predictive"}


def test_the_published_problem_of_400_parameters_has_its_own_settings() -> None:
    sizes = proof.SIZES["paper"]
    low, high = sizes.loops[0], sizes.loops[-1]
    hmc = proof.surrogate_of("hmc", sizes, high)
    assert (hmc.hidden, hmc.step, hmc.n_burn, hmc.n_samples) == ((256, 256), 0.002, 200, 100)
    assert proof.surrogate_of("hmc", sizes, low) == SURROGATES["hmc"]["paper"]
    for arm in ("ensemble", "laplace", "sghmc", "dkl", "map"):
        assert proof.surrogate_of(arm, sizes, high).hidden == (256, 256)


def test_published_sizes_build_and_take_a_step() -> None:
    assert proof.SIZES["paper"].loops[-1].name == "network-draw-400"
    assert SURROGATES["hmc"]["paper"].hidden == (128, 128, 128)
    assert (SURROGATES["hmc"]["paper"].n_samples, SURROGATES["hmc"]["paper"].n_burn) == (500, 500)
    assert IBNN() == SURROGATES["ibnn"]["paper"]
    x = torch.rand(6, 400, generator=torch_stream(0, "x"), dtype=torch.float64)
    fitted = MAPNet((256, 256), n_steps=1).fit(x, x.sum(1, keepdim=True), seed=0)
    assert fitted.functions(x).shape == (1, 6, 1)


def test_priors_are_pictures() -> None:
    for prior in (NetworkPrior((8,)), IBNN().prior(), NetworkPrior().off(), ProcessPrior(), ProcessPrior("2023")):
        lines = prior.picture(3, generator=torch_stream(0, "picture"))
        assert len(lines.lines) == 3
    flat = NetworkPrior((8,)).wrong().sample(50, generator=torch_stream(0, "a")).value.std()
    fair = NetworkPrior((8,)).sample(50, generator=torch_stream(0, "a")).value.std()
    assert float(flat) < 0.1 * float(fair)


def test_what_it_is_priced_on() -> None:
    assert SurrogateRegressor.priced_on("classification") == {}
    assert set(SurrogateRegressor().plain_baselines()) == {"Gaussian process", "Gaussian process of 2023"}
    with pytest.raises(CapabilityError):
        SurrogateRegressor().fit(*curve()).losses(None, None)
