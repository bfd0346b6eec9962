"""The system: data it refuses, reconstruction with certificates, adapters, pictures, files, price and proof."""

import json
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.restoration import denoise_tv_chambolle
from typer.testing import CliRunner

from foreknow.cli.main import app
from foreknow.common import deps
from foreknow.common.errors import ConfigError, ForeknowWarning, InputError
from foreknow.common.rng import numpy_stream, torch_stream
from foreknow.core.evidence import Evidence
from foreknow.core.pictures import ImageGrid, Lines
from foreknow.core.source import Sample
from foreknow.data.photos import handwritten_digits
from foreknow.nn.inverse import (
    Blur,
    Certificate,
    CompressedSensing,
    Denoising,
    FastCompressedSensing,
    gaussian_kernel,
    psnr,
)
from foreknow.signals import LearnedPrior, LearnedProximal, ProximalPrior
from foreknow.signals.learned_proximal import plain
from foreknow.signals.learned_proximal.files import Work, read_training

BLUR = Blur(gaussian_kernel(0.8), padding="circular", sigma=0.02)


def discs(n: int, size: int = 12, seed: int = 0) -> np.ndarray:
    place = np.indices((size, size))[None]
    centre = numpy_stream(seed, "discs").uniform(3, size - 3, (n, 2, 1, 1))
    return (((place - centre) ** 2).sum(1, keepdims=True) < 8).astype(np.float32)


@pytest.fixture(scope="module")
def model() -> LearnedProximal:
    """Trained for about two seconds."""
    return LearnedProximal(hidden=8, n_steps=300, batch_size=8, random_state=0).fit(discs(60))


# What comes in -----------------------------------------------------------------------------------------------------


def test_images_of_another_range_are_refused(model) -> None:
    for X, match in ((255 * discs(3), r"expected in \[0, 1\]"), (1.5 * discs(3), r"must have values in \[0, 1\]")):
        with pytest.raises(InputError, match=match) as caught:
            LearnedProximal(n_steps=1).fit(X)
        assert "255" in caught.value.hint
    with pytest.raises(InputError, match="expected in"):
        model.transform(255 * discs(3))
    noisy = discs(3) + 0.3 * numpy_stream(0, "noise").normal(size=(3, 1, 12, 12))
    assert noisy.min() < 0 and model.transform(noisy).shape == noisy.shape


def test_the_network_follows_the_shape_of_the_rows() -> None:
    build = LearnedProximal()._architecture
    assert build((3,)).kind == "mlp" and not build((1, 28, 28)).valid_head
    large = build((3, 128, 128))
    assert (large.hidden, large.beta, large.alpha, large.valid_head) == (256, 100.0, 1e-6, True)
    assert LearnedProximal(network="large", hidden=5)._architecture((1, 28, 28)).hidden == 5
    for network, shape in (("mlp", (1, 28, 28)), ("small", (4,))):
        with pytest.raises(ConfigError, match="network="):
            LearnedProximal(network=network)._architecture(shape)


def test_other_priors_are_refused_and_one_number_cannot_be_shuffled() -> None:
    with pytest.raises(InputError, match="one number only"):
        LearnedProximal(prior="wrong", sigma=1.0, n_steps=1).fit(np.ones((4, 1)))
    assert LearnedProximal(prior="off", sigma=1.0, n_steps=1, batch_size=2).fit(np.ones((4, 1))).prior_.loss == "l2"


def test_shuffling_moves_every_row_alike() -> None:
    system = LearnedProximal(prior="wrong")
    system.seed_ = 0
    rows = discs(4)
    shuffled = system._shuffled(rows)
    assert not np.array_equal(shuffled, rows)
    assert np.allclose(np.sort(shuffled.reshape(4, -1)), np.sort(rows.reshape(4, -1)))
    pairs = rows.reshape(4, -1).T, shuffled.reshape(4, -1).T
    assert sorted(map(tuple, pairs[0])) == sorted(map(tuple, pairs[1]))


def test_unconstrained_training_gives_up_the_guarantee() -> None:
    wild = LearnedProximal(prior=ProximalPrior(convex=False), hidden=8, n_steps=30, batch_size=8, random_state=0)
    assert min(float(weight.detach().min()) for weight in wild.fit(discs(20)).network_.constrained()) < 0


# What comes out ----------------------------------------------------------------------------------------------------


def test_training_denoises(model) -> None:
    clean = discs(20, seed=1)
    noisy = clean + 0.1 * numpy_stream(0, "noise").normal(size=clean.shape).astype(np.float32)
    assert psnr(model.transform(noisy), clean).mean() > psnr(noisy, clean).mean() + 1
    assert np.array_equal(model.denoise(noisy), model.transform(noisy))


@pytest.mark.parametrize("solver", ["admm", "pgd", "hqs"])
def test_reconstruction_converges_and_says_so(model, solver) -> None:
    clean = discs(6, seed=1)
    y = BLUR(torch.tensor(clean), generator=torch_stream(0))
    options = {"n_iterations": 2000, "tolerance": 1e-4}
    found, info = model.reconstruct(y, BLUR, solver=solver, return_info=True, **options)
    assert isinstance(info, Certificate) and info.converged
    assert info.decreasing or solver == "hqs"  # whose steps may lengthen a little on their way
    assert info.changes[-1] < 1e-4 and info.lipschitz > 0
    assert found.shape == clean.shape
    if solver != "pgd":
        assert psnr(found, clean).mean() > psnr(y.numpy(), clean).mean() + 1
    assert np.array_equal(found, model.reconstruct(y.numpy(), BLUR, solver=solver, **options))


def test_measurements_may_be_any_view_of_an_array(model) -> None:
    y = discs(2, seed=1)
    flipped = y[..., ::-1]
    assert np.array_equal(model.reconstruct(flipped, BLUR), model.reconstruct(flipped.copy(), BLUR))


def test_operators_of_other_libraries_are_taken(model) -> None:
    y = BLUR(torch.tensor(discs(2)), generator=torch_stream(0))
    other = SimpleNamespace(A=BLUR.A, A_adjoint=BLUR.A_adjoint, prox_l2=BLUR.prox_l2)
    assert np.array_equal(model.reconstruct(y, other), model.reconstruct(y, BLUR))
    sensing = CompressedSensing(72, (1, 12, 12), generator=torch_stream(0))
    assert model.reconstruct(sensing.A(torch.tensor(discs(2))), sensing).shape == (2, 1, 12, 12)


def test_unknown_solvers_and_options_are_refused(model) -> None:
    y = torch.tensor(discs(1))
    with pytest.raises(ConfigError, match="solver must be one of"):
        model.reconstruct(y, Denoising(), solver="newton")
    with pytest.raises(InputError, match="y contains NaN"):
        model.reconstruct(y * float("nan"), Denoising())
    with pytest.raises(ConfigError, match="unknown option 'rho'"):
        model.reconstruct(y, Denoising(), solver="pgd", rho=0.1)


def test_larger_images_are_averaged_over_patches_and_smaller_ones_refused(model) -> None:
    large = np.tile(discs(1), (1, 1, 2, 2))[..., :19]
    assert model.denoise(large).shape == large.shape
    y = BLUR(torch.tensor(large), generator=torch_stream(0))
    assert model.reconstruct(y, BLUR, n_iterations=3).shape == large.shape
    for X in (large[..., :11, :11], np.repeat(large, 3, axis=1)):
        with pytest.raises(InputError, match="or larger ones of as many channels"):
            model.denoise(X)
    with pytest.raises(InputError, match="rows of shape"):
        model.transform(large)


def test_progress_of_a_reconstruction_is_told(model) -> None:
    told: list[Any] = []
    model.reconstruct(torch.tensor(discs(1)), Denoising(), n_iterations=5, tolerance=0.0, progress=told.append)
    assert [item.done for item in told] == [1, 2, 3, 4, 5] and told[-1].total == 5


def test_noise_makes_an_image_less_plausible_and_sigma_scales_the_density(model) -> None:
    clean = discs(8, seed=2)
    noise = numpy_stream(1, "noise").normal(size=clean.shape)
    values = [model.log_prior(clean + level * noise) for level in (0.0, 0.1, 0.2)]
    assert (values[0] > values[1]).all() and (values[1] > values[2]).all()
    log_p, info = model.log_prior(clean, return_info=True)
    assert np.allclose(log_p, -info.penalty / 0.1**2) and (info.inversion_residual < 1e-5).all()
    with torch.no_grad():
        assert np.allclose(model.network_(torch.tensor(info.inverse).float()), clean, atol=1e-3)


def test_images_out_of_range_of_the_map_meet_a_warning() -> None:
    system = LearnedProximal(sigma=1.0, alpha=0.0, hidden=4, n_steps=4, batch_size=4, random_state=0)
    system.fit(np.array([[0.0], [0.5]]))
    with pytest.warns(ForeknowWarning, match="outside the range"):
        system.log_prior(np.array([[5e5]]))


def test_adapters_have_the_shapes_of_deepinv(model) -> None:
    x = torch.tensor(discs(2))
    denoiser, prior = model.as_denoiser(), model.as_prior()
    assert torch.equal(denoiser(x, 0.1), model.network_(x))
    with pytest.warns(ForeknowWarning, match=r"trained at sigma = 0\.1"):
        denoiser(x, 0.2)
    assert isinstance(prior, LearnedPrior) and prior.explicit_prior
    assert torch.equal(prior.prox(x, 0.1, gamma=1.0), model.network_(x))
    assert np.allclose(prior.fn(x, 0.1), model.log_prior(x.numpy(), return_info=True)[1].penalty, atol=1e-3)
    found = prior.grad(x, 0.1)
    assert torch.allclose(model.network_(x + found), x, atol=1e-3)  # grad R(x) = f^-1(x) - x


def test_pictures_show_images_and_maps(model) -> None:
    found = model.pictures()
    assert isinstance(found["descent"], ImageGrid) and isinstance(found["log_prior"], Lines)
    curve = np.asarray(found["log_prior"].lines["mean of four"])
    assert curve[0] == 0 and (np.diff(curve) < 0).all()
    rows = numpy_stream(0, "rows").laplace(size=(200, 1))
    vectors = LearnedProximal(sigma=1.0, n_steps=44, batch_size=50, random_state=0).fit(rows).pictures()
    assert set(vectors["map"].lines) == {"learnt", "soft threshold of a Laplacian as wide", "identity"}


# Files -------------------------------------------------------------------------------------------------------------


def save_images(folder, images) -> None:
    folder.mkdir()
    for number, image in enumerate(images):
        Image.fromarray((255 * image[0]).astype(np.uint8)).save(folder / f"{number}.png")


def test_the_command_line_fits_and_restores(tmp_path) -> None:
    save_images(tmp_path / "train", discs(12))
    save_images(tmp_path / "test", discs(2, seed=3))
    run, fitted, out = CliRunner(), tmp_path / "prox.safetensors", tmp_path / "out"
    settings = ["--set", "hidden=4", "--set", "n_steps=20", "--set", "batch_size=4"]
    done = run.invoke(app, ["fit", "learned-proximal", str(tmp_path / "train"), "-o", str(fitted), *settings])
    assert done.exit_code == 0, done.output
    options = ["--with", "task=deblur", "--with", "degrade=yes", "--with", "iterations=3", "--json"]
    done = run.invoke(app, ["apply", str(fitted), str(tmp_path / "test"), "-o", str(out), *options])
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert [image["name"] for image in record["images"]] == ["0", "1"]
    assert {"psnr", "psnr_before", "ssim", "converged", "last_change"} <= set(record["images"][0])
    assert {path.name for path in out.iterdir()} == {"0_restored.png", "1_restored.png", "before_after.png"}


@pytest.mark.parametrize(
    "options",
    [
        {"task": "denoise"},
        {"task": "denoise", "degrade": "yes", "noise": "0.1"},
        {"task": "deblur", "solver": "pgd", "iterations": "2"},
        {"task": "inpaint", "degrade": "yes", "seen": "0.7", "iterations": "2"},
        {"task": "cs", "degrade": "yes", "ratio": "0.5", "iterations": "2", "solver": "hqs"},
    ],
)
def test_every_task_restores_files(model, tmp_path, options) -> None:
    save_images(tmp_path / "in", discs(2, seed=4))
    out = tmp_path / "out"
    out.mkdir()
    done = model.apply_files([str(tmp_path / "in")], out, options)
    assert [path.name for path in done.files] == ["0_restored.png", "1_restored.png"]
    assert ("psnr" in done.record["images"][0]) is (options.get("degrade") == "yes")
    columns, rows = done.table
    assert len(rows) == 2 and all(len(row) == len(columns) for row in rows)


def test_random_projections_of_a_photograph_need_no_matrix() -> None:
    """An image of 512 x 512 pixels at a ratio of a half would take a matrix of 137 GB."""
    work = Work(task="cs", degrade=True, ratio=0.5)
    assert isinstance(work.physics((1, 512, 512)), FastCompressedSensing)
    assert isinstance(work.physics((1, 28, 28)), CompressedSensing)


def test_a_mask_says_which_pixels_of_a_file_are_seen(model, tmp_path) -> None:
    save_images(tmp_path / "in", discs(1, seed=4))
    Image.fromarray(np.full((12, 12), 255, dtype=np.uint8)).save(tmp_path / "mask.png")
    out = tmp_path / "out"
    out.mkdir()
    options = {"task": "inpaint", "mask": str(tmp_path / "mask.png"), "iterations": "2"}
    assert model.apply_files([str(tmp_path / "in")], out, options).record["images"][0]["iterations"] == 2
    Image.fromarray(np.zeros((9, 12), dtype=np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match="the mask has"):
        model.apply_files([str(tmp_path / "in")], out, options)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"tusk": "denoise"}, "unknown option 'tusk'"),
        ({"task": "sharpen"}, "task must be one of"),
        ({"noise": "much"}, "noise must be a number"),
        ({"noise": "-1"}, "noise must be"),
        ({"degrade": "maybe"}, "degrade must be one of 'no', 'yes'"),
        ({"task": "cs"}, "no image file"),
        ({"task": "inpaint"}, "which pixels"),
        ({"iterations": "0"}, "iterations must be"),
    ],
)
def test_bad_options_are_refused(options, match) -> None:
    with pytest.raises(ConfigError, match=match):
        Work.read(options)


def test_training_images_are_read_whole_or_in_pieces(tmp_path) -> None:
    save_images(tmp_path / "small", discs(3))
    assert read_training([tmp_path / "small"], {}).X.shape == (3, 1, 12, 12)
    assert read_training([tmp_path / "small"], {"size": "6x4"}).X.shape == (18, 1, 6, 4)
    assert read_training([tmp_path / "small"], {"size": "8", "fit": "resize", "channels": "3"}).X.shape == (3, 3, 8, 8)
    save_images(tmp_path / "large", [np.ones((1, 140, 70))])
    assert read_training([tmp_path / "large"], {}).X.shape == (8, 1, 32, 32)
    assert len(read_training([tmp_path / "large"], {"stride": "16"}).X) == 7 * 3
    for options, match in (({"sise": "3"}, "unknown option"), ({"size": "big"}, "size must be"),
                           ({"size": "1x2x3"}, "one number or two"), ({"fit": "squeeze"}, "fit must be")):  # fmt: skip
        with pytest.raises(ConfigError, match=match):
            read_training([tmp_path / "small"], options)


# Price and proof ---------------------------------------------------------------------------------------------------


def test_pieces_of_a_photograph_are_never_on_both_sides_of_a_split(tmp_path) -> None:
    grey = np.linspace(0.1, 0.9, 5)
    save_images(tmp_path / "photos", [np.full((1, 140, 140), g, dtype=np.float32) for g in grey])  # 16 pieces each
    source = LearnedProximal.priced_from(tmp_path / "photos")
    assert source.n_max >= 32 and source.unit == "images"
    for seed in range(5):
        split = source.split(source.n_max, seed)
        learnt, tested = (set(part.X.mean((1, 2, 3)).round(2).tolist()) for part in (split.train, split.test))
        assert len(learnt | tested) == 5 and not learnt & tested
    colour = LearnedProximal(**plain.PRICED, random_state=0).set_params(hidden=4, n_steps=4)
    images = np.random.default_rng(0).random((20, 3, 12, 10)).astype(np.float32)
    network = colour.plain_baselines()["DnCNN"](0).fit(images).network_
    sizes = [sum(p.numel() for p in net.parameters()) for net in (network, colour.fit(images).network_)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)


def test_every_arm_of_a_price_is_measured_in_the_same_way(monkeypatch) -> None:
    monkeypatch.setattr(plain, "TV_WEIGHTS", (0.06,))
    system = LearnedProximal(**{**plain.PRICED, "hidden": 4, "n_steps": 12, "batch_size": 4}, random_state=0)
    (source,) = system.priced_on("none").values()
    assert source.unit == "images" and source.n_max > 4000
    split = source.split(20, 0)
    test = Sample(split.test.X[:4])
    models = {"on": system, "off": system.without_prior(), "wrong": system.with_wrong_prior()}
    built = {name: build(0) for name, build in system.plain_baselines().items()}
    found = {name: system.losses(arm.fit(split.train.X), test) for name, arm in {**models, **built}.items()}
    assert all(list(losses) == ["minus PSNR (dB)", "1 - SSIM"] for losses in found.values())
    assert found["total variation"]["minus PSNR (dB)"] < found["least squares"]["minus PSNR (dB)"] < -5
    assert len({losses["minus PSNR (dB)"] for losses in found.values()}) == len(found)
    sizes = [sum(p.numel() for p in arm.network_.parameters()) for arm in (system, built["DnCNN"])]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.1)
    assert isinstance(LearnedProximal.priced_as("none"), LearnedProximal)


def test_mosaics_come_apart_again() -> None:
    images = np.random.default_rng(0).random((7, 2, 3, 4)).astype(np.float32)
    mosaic = plain.to_mosaic(images)
    assert mosaic.shape == (2, 9, 12)
    np.testing.assert_array_equal(mosaic[1, 3:6, 8:], images[5, 1])  # second row of tiles, third column
    np.testing.assert_array_equal(plain.from_mosaic(mosaic, images.shape), images)
    assert plain.to_mosaic(images[:1]).shape == (2, 3, 4)


def test_bm3d_is_an_arm_where_it_is_installed(monkeypatch) -> None:
    """Its package is not free for all uses, so another denoiser stands for it here."""
    assert "BM3D" not in LearnedProximal().plain_baselines() or deps.available("bm3d")
    asked = []

    def bm3d(image: np.ndarray, sigma: float) -> np.ndarray:
        asked.append((image.shape, sigma))
        return denoise_tv_chambolle(image, 0.05).astype(np.float32)

    monkeypatch.setitem(sys.modules, "bm3d", SimpleNamespace(bm3d=bm3d, __spec__=object()))
    model = LearnedProximal(sigma=0.2).plain_baselines()["BM3D"](0)
    images = handwritten_digits()[0][:24]
    model.fit(images[:20])
    assert set(asked) == {((5 * 28, 5 * 28), 0.2)}
    y = plain.blurred(images[20:], "a test")
    restored = model.reconstruct(y, plain.deblurring())
    assert restored.shape == (4, 1, 28, 28)
    assert psnr(restored, images[20:]).mean() > psnr(y.numpy(), images[20:]).mean()


def test_the_proof_runs_and_tells(monkeypatch) -> None:
    monkeypatch.setattr(plain, "TV_WEIGHTS", (0.06,))
    told: list[Any] = []
    evidence = LearnedProximal.prove(preset="quick", seeds=1, progress=told.append)
    assert isinstance(evidence, Evidence) and len(evidence.claims) == 10
    arms = {record["arm"] for record in evidence.arms}
    assert {"matching", "l2", "l1", "LPN", "MSE-LPN", "identity", "TV", "DnCNN"} <= arms
    done = [item.done for item in told]
    assert done == sorted(done) and done[-1] == pytest.approx(100)
    with pytest.raises(ConfigError, match="preset"):
        LearnedProximal.prove(preset="huge")
