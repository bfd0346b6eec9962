"""Fields against exact solutions and another library's finite elements; readers of files."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import io as scipy_io

from foreknow.common.errors import ConfigError, InputError, MissingExtraError
from foreknow.data.pde import (
    darcy,
    diffusion,
    gaussian_field,
    read_fields,
    read_trajectories,
    solve_darcy,
    solve_elements,
    steps_of,
)

# Darcy -------------------------------------------------------------------------------------------------------------


def test_a_constant_coefficient_gives_poissons_series() -> None:
    """-a Laplacian(u) = 1 on the unit square has its largest value 0.0736713532815138 / a in the middle."""
    u = solve_darcy(np.full((129, 129), 5.0))
    assert u.max() * 5 == pytest.approx(0.0736713532815138, rel=2e-4)
    assert u.argmax() == 129 * 64 + 64
    assert not u[[0, -1]].any() and not u[:, [0, -1]].any()


def test_flows_into_every_node_balance() -> None:
    """Node by node: what flows to the four neighbours, with harmonic means, is the source in the node's cell."""
    rng = np.random.default_rng(0)
    a, f = rng.uniform(0.1, 10, (7, 7)), rng.normal(size=(7, 7))
    u = solve_darcy(a, f)
    for i in range(1, 6):
        for j in range(1, 6):
            flow = 0.0
            for k, l in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
                flow += 2 * a[i, j] * a[k, l] / (a[i, j] + a[k, l]) * (u[i, j] - u[k, l])
            assert flow == pytest.approx(f[i, j] / 6**2)


def test_volumes_and_elements_agree_where_the_coefficient_is_smooth() -> None:
    """To second order in the spacing."""
    gaps = []
    for n in (17, 33):
        x, y = np.meshgrid(*[np.linspace(0, 1, n)] * 2, indexing="ij")
        a, f = 2 + np.sin(3 * x) * np.cos(2 * y) + x * y, 1 + x - y**2
        ours, theirs = solve_darcy(a, f), solve_elements(a, f)
        gaps.append(np.abs(ours - theirs).max() / theirs.max())
    assert gaps[1] < 2e-3 and gaps[0] / gaps[1] == pytest.approx(4, rel=0.3)


def test_elements_know_solutions_with_reaction_and_without_flux_at_the_boundary() -> None:
    """u = cos(pi x) cos(2 pi y) has no slope at the boundary; sin(pi x) sin(pi y) is 0 there."""
    x, y = np.meshgrid(*[np.linspace(0, 1, 49)] * 2, indexing="ij")
    for c in (3.0, -7.0):  # damped, and a wave below resonance
        u = np.cos(np.pi * x) * np.cos(2 * np.pi * y)
        found = solve_elements(np.full(u.shape, 2.0), (10 * np.pi**2 + c) * u, reaction=c, boundary="neumann")
        assert np.abs(found - u).max() < 5e-3
        u = np.sin(np.pi * x) * np.sin(np.pi * y)
        found = solve_elements(np.ones((2, *u.shape)), (2 * np.pi**2 + c) * u, reaction=np.full(u.shape, c))
        assert found.shape == (2, 49, 49) and np.abs(found - u).max() < 5e-3


def test_pairs_may_come_from_elements() -> None:
    volumes, elements = darcy(3, 33), darcy(3, 33, solver="elements")
    np.testing.assert_array_equal(volumes.X, elements.X)
    assert np.abs(volumes.y - elements.y).max() < 0.1 * volumes.y.max()  # they differ at the jumps
    with pytest.raises(ConfigError, match="solver"):
        darcy(3, 33, solver="spectral")


@pytest.mark.parametrize(
    ("a", "options", "words"),
    [
        (np.ones((4, 5)), {}, "shape"),
        (np.zeros((4, 4)), {}, "positive"),
        (np.ones((4, 4)), {"boundary": "neumann"}, "up to a constant"),
        (np.ones(4), {}, "shape"),
    ],
)
def test_equations_that_elements_cannot_solve(a: np.ndarray, options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        solve_elements(a, **options)


def test_pairs_are_seeded_and_positive() -> None:
    one, same, other = darcy(3, 17), darcy(3, 17), darcy(3, 17, random_state=1)
    assert one.X.shape == one.y.shape == (3, 1, 17, 17)
    assert np.array_equal(one.X, same.X) and np.array_equal(one.y, same.y) and not np.array_equal(one.X, other.X)
    assert set(np.unique(one.X)) == {3.0, 12.0}
    assert (one.y[..., 1:-1, 1:-1] > 0).all()
    assert not np.array_equal(darcy(3, 17, kind="rough").X, one.X)


def test_the_same_coefficients_come_at_every_resolution() -> None:
    fine, coarse = darcy(4, 129), darcy(4, 65)
    assert (fine.X[..., ::2, ::2] == coarse.X).all()
    gap = np.abs(fine.y[..., ::2, ::2] - coarse.y).max() / fine.y.max()
    assert gap < 0.1


def test_gaussian_fields_have_the_covariance_of_their_waves() -> None:
    tau, n, resolution = 3.0, 4000, 9
    fields = gaussian_field(n, resolution, tau=tau, rng=np.random.default_rng(0))
    k = np.arange(resolution)
    x = np.linspace(0, 1, resolution)
    basis = np.where(k > 0, np.sqrt(2), 1.0)[:, None] * np.cos(np.pi * np.outer(k, x))
    scale = tau / (np.pi**2 * (k[:, None] ** 2 + k**2) + tau**2)
    scale[0, 0] = 0
    variance = np.einsum("kl,ki,lj->ij", scale**2, basis**2, basis**2)
    np.testing.assert_allclose(fields.var(0), variance, rtol=0.15)
    np.testing.assert_allclose(fields.mean(0), 0, atol=0.06)
    with pytest.raises(ConfigError):
        gaussian_field(1, 2, rng=np.random.default_rng(0))


@pytest.mark.parametrize("bad", [np.zeros((1, 5, 5)), np.ones((2, 5, 4)), np.ones(5), np.full((5, 5), np.nan)])
def test_coefficients_that_are_none(bad: np.ndarray) -> None:
    with pytest.raises(InputError):
        solve_darcy(bad)


# Heat --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("boundary", "mode"), [("periodic", "wrap"), ("dirichlet", "constant"), ("neumann", "reflect")]
)
def test_heat_spreads_as_many_small_steps_say(boundary: str, mode: str) -> None:
    """Against explicit Euler steps on the grid, with the padding that the boundary condition means."""
    n, time = 32, 0.002
    data = diffusion(2, n, boundary=boundary, time=time)
    h = 1 / {"periodic": n, "dirichlet": n + 1, "neumann": n - 1}[boundary]
    steps = int(np.ceil(time / (0.2 * h**2)))
    u = data.X[:, 0].copy()
    for _ in range(steps):
        around = np.pad(u, ((0, 0), (1, 1), (1, 1)), mode=mode)
        laplacian = around[:, 2:, 1:-1] + around[:, :-2, 1:-1] + around[:, 1:-1, 2:] + around[:, 1:-1, :-2] - 4 * u
        u = u + time / steps * laplacian / h**2
    relative = np.linalg.norm(u - data.y[:, 0]) / np.linalg.norm(data.y)
    assert relative < 0.02
    assert np.linalg.norm(data.X - data.y) / np.linalg.norm(data.y) > 0.05  # something happened


# Files -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(3, 4, 4)), rng.normal(size=(3, 4, 4))


def test_every_kind_of_file(tmp_path: Path, pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, u = pair
    np.savez(tmp_path / "one.npz", a=a, u=u)
    np.savez(tmp_path / "two.npz", X=a[:, None], y=u[:, None])
    np.save(tmp_path / "in.npy", a)
    np.save(tmp_path / "out.npy", u)
    torch.save({"x": torch.from_numpy(a), "y": torch.from_numpy(u)}, tmp_path / "darcy_train_16.pt")
    scipy_io.savemat(tmp_path / "piececonst.mat", {"coeff": a, "sol": u, "Kcoeff": a})
    both = [tmp_path / "in.npy", tmp_path / "out.npy"]
    for paths in (*(tmp_path / name for name in ("one.npz", "two.npz", "darcy_train_16.pt", "piececonst.mat")), both):
        x, y = read_fields(paths)
        assert y is not None
        np.testing.assert_array_equal(x, a[:, None])
        np.testing.assert_array_equal(y, u[:, None])
    x, y = read_fields(tmp_path / "one.npz", names=("u", "a"), subsample=2)
    np.testing.assert_array_equal(x, u[:, None, ::2, ::2])


def test_coefficients_of_ones_and_zeros(tmp_path: Path) -> None:
    """The files of neuraloperator hold the coefficient as truth values."""
    torch.save({"x": torch.ones(2, 4, 4, dtype=torch.bool), "y": torch.ones(2, 4, 4)}, tmp_path / "d.pt")
    x, _ = read_fields(tmp_path / "d.pt")
    assert x.dtype == np.float32 and x.shape == (2, 1, 4, 4)


def test_outputs_may_be_missing_where_none_are_needed(tmp_path: Path, pair: tuple[np.ndarray, np.ndarray]) -> None:
    np.savez(tmp_path / "new.npz", a=pair[0])
    np.save(tmp_path / "new.npy", pair[0])
    for name in ("new.npz", "new.npy"):
        assert read_fields(tmp_path / name, need_outputs=False)[1] is None
        with pytest.raises(InputError, match=r"outputs|must hold arrays"):
            read_fields(tmp_path / name)


def test_files_that_cannot_be_used(tmp_path: Path, pair: tuple[np.ndarray, np.ndarray]) -> None:
    np.savez(tmp_path / "other.npz", b=pair[0])
    np.savez(tmp_path / "flat.npz", a=pair[0][0], u=pair[1][0])
    (tmp_path / "broken.npz").write_bytes(b"PK no zip")
    (tmp_path / "broken.mat").write_bytes(b"nothing")
    (tmp_path / "text.txt").write_text("1")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    cases = {"other.npz": "holds b", "flat.npz": "shape", "none.npz": "no file"}
    cases |= dict.fromkeys(("broken.npz", "broken.mat", "objects.npy"), "cannot be read")
    for name, words in cases.items():
        with pytest.raises(InputError, match=words):
            read_fields(tmp_path / name, need_outputs=False)
    with pytest.raises(ConfigError, match=re.escape(".npz")):
        read_fields(tmp_path / "text.txt")
    with pytest.raises(InputError, match="3 files"):
        read_fields([tmp_path / "other.npz"] * 3)
    with pytest.raises(InputError, match="each must be"):
        read_fields([tmp_path / "other.npz"] * 2)


class _Danger:
    def __reduce__(self):
        return print, ("executed",)


def test_a_file_of_tensors_that_runs_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"x": torch.ones(1, 2, 2), "y": _Danger()}, tmp_path / "bad.pt")
    (tmp_path / "worse.pt").write_bytes(pickle.dumps(_Danger()))
    for name in ("bad.pt", "worse.pt"):
        with pytest.raises(InputError):
            read_fields(tmp_path / name)
    assert "executed" not in capsys.readouterr().out


def test_newer_mat_files_need_h5py_or_are_read(tmp_path: Path) -> None:
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(384)
    (tmp_path / "new.mat").write_bytes(header)
    with pytest.raises((MissingExtraError, InputError)):
        read_fields(tmp_path / "new.mat")


def test_steps_of_trajectories(tmp_path: Path) -> None:
    trajectories = np.arange(2 * 3 * 3 * 4, dtype=float).reshape(2, 3, 3, 4)  # time last
    scipy_io.savemat(tmp_path / "ns.mat", {"u": trajectories, "t": np.arange(4)})
    steps = steps_of(read_trajectories(tmp_path / "ns.mat"))
    assert steps.X.shape == steps.y.shape == (6, 1, 3, 3)
    np.testing.assert_array_equal(steps.X[1:3, 0], np.moveaxis(trajectories[0, ..., 1:3], -1, 0))
    np.testing.assert_array_equal(steps.y[:2, 0], np.moveaxis(trajectories[0, ..., 1:3], -1, 0))
    with pytest.raises(InputError, match="no array 'w'"):
        read_trajectories(tmp_path / "ns.mat", "w")
    with pytest.raises(InputError, match="T >= 2"):
        steps_of(trajectories[..., :1])
    assert read_trajectories(tmp_path / "ns.mat", subsample=2).shape == (2, 2, 2, 4)
