"""Coefficients and solutions of elliptic and parabolic equations, made here at any resolution.

`darcy` follows the data of Li et al. (Fourier Neural Operator, arXiv 2010.08895): -div(a grad u) = 1 on the unit
square, u = 0 on its boundary, with a piecewise constant coefficient a. Grids hold n x n nodes, those on the boundary
included, at distance h = 1 / (n - 1); a periodic grid has h = 1 / n.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft, sparse
from scipy.sparse.linalg import spsolve

from foreknow.common.errors import InputError
from foreknow.common.rng import numpy_stream
from foreknow.common.validate import check_int, check_option, check_real

Array = NDArray[np.float64]

BOUNDARIES = ("dirichlet", "neumann", "periodic")
"""Zero outside, zero slope, and wrapped around."""
N_MODES = 64
"""Waves of a Gaussian field in each direction; the same draw can be had on every grid that carries them."""
KINDS = {"smooth": 3.0, "rough": 5.0}
"""Kind of a Darcy coefficient -> tau of its Gaussian field, whose covariance is (-Laplacian + tau^2)^-2."""
HIGH, LOW = 12.0, 3.0


@dataclass(frozen=True)
class Fields:
    """Pairs of fields.

    Args:
        X: inputs, shape (n, C, H, W).
        y: outputs, shape (n, C', H, W).
    """

    X: Array
    y: Array


def gaussian_field(n: int, resolution: int, *, tau: float = 3.0, alpha: float = 2.0, rng: np.random.Generator) -> Array:
    """Gaussian fields with zero mean, zero slope at the boundary and covariance (-Laplacian + tau^2)^-alpha.

    Cosine waves are summed by a discrete cosine transform of type I, so that values lie on the nodes.

    Args:
        n: number of fields.
        resolution: nodes a side.
        tau: inverse length beyond which values forget each other.
        alpha: smoothness.
        rng: source of randomness; a draw does not depend on `resolution`, but for the waves that a grid cannot carry.

    Returns:
        Shape (n, resolution, resolution).
    """
    owner = "gaussian_field"
    check_int(owner, "n", n, low=1)
    check_int(owner, "resolution", resolution, low=3)
    check_real(owner, "tau", tau, low=0, open_low=True)
    check_real(owner, "alpha", alpha, low=0, open_low=True)
    k = np.arange(N_MODES)
    scale = tau ** (alpha - 1) * (np.pi**2 * (k[:, None] ** 2 + k**2) + tau**2) ** (-alpha / 2)
    scale[0, 0] = 0.0
    scale[1:] *= np.sqrt(2)
    scale[:, 1:] *= np.sqrt(2)
    waves = scale * rng.standard_normal((n, N_MODES, N_MODES))
    m = min(N_MODES, resolution)
    padded = np.zeros((n, resolution, resolution))
    padded[:, :m, :m] = waves[:, :m, :m]
    for axis in (1, 2):  # type I counts inner waves twice
        inner = [slice(None)] * 3
        inner[axis] = slice(1, -1)
        padded[tuple(inner)] /= 2
    return np.asarray(fft.dctn(padded, type=1, axes=(1, 2)))


def solve_darcy(a: ArrayLike, f: ArrayLike = 1.0) -> Array:
    """Solutions of -div(a grad u) = f with u = 0 on the boundary, by finite volumes around the inner nodes.

    The flux between two nodes takes the harmonic mean of their coefficients, which is exact in one dimension where the
    coefficient jumps halfway between the nodes.

    Args:
        a: positive coefficients at the nodes, shape (n, H, W) or (H, W).
        f: right-hand side, of the same shape or one that extends to it.

    Returns:
        Of the shape of `a`.

    Raises:
        InputError: a grid of fewer than 3 nodes a side, unequal sides, or coefficients that are not positive.
    """
    coefficients = np.asarray(a, dtype=np.float64)
    n = coefficients.shape[-1]
    if coefficients.ndim not in (2, 3) or coefficients.shape[-2] != n or n < 3:
        raise InputError(f"solve_darcy: a must have shape (n, H, H) with H >= 3, got {coefficients.shape}.")
    if not (np.isfinite(coefficients) & (coefficients > 0)).all():
        raise InputError("solve_darcy: a must be positive everywhere.")
    rights = np.broadcast_to(np.asarray(f, dtype=np.float64), coefficients.shape)
    if coefficients.ndim == 2:
        return _solve_one(coefficients, rights)
    return np.stack([_solve_one(one, right) for one, right in zip(coefficients, rights, strict=True)])


def _solve_one(a: Array, f: Array) -> Array:
    n = len(a)
    inner = slice(1, -1)
    across = 2 * a[:, 1:] * a[:, :-1] / (a[:, 1:] + a[:, :-1])  # between (i, j) and (i, j + 1)
    down = 2 * a[1:] * a[:-1] / (a[1:] + a[:-1])
    left, right = across[inner, :-1], across[inner, 1:]
    above, below = down[:-1, inner], down[1:, inner]
    m = n - 2
    east = right.copy()
    east[:, -1] = 0  # the neighbour lies on the boundary, where u = 0
    sideways, downwards = -east.ravel()[:-1], -below[:-1].ravel()
    diagonals = [(left + right + above + below).ravel(), sideways, sideways, downwards, downwards]
    matrix = sparse.diags(diagonals, [0, 1, -1, m, -m], format="csc")
    u = np.zeros_like(a)
    u[inner, inner] = spsolve(matrix, f[inner, inner].ravel() / (n - 1) ** 2, permc_spec="MMD_AT_PLUS_A").reshape(m, m)
    return u


def darcy(
    n: int, resolution: int = 33, *, kind: str = "smooth", solver: str = "volumes", random_state: int = 0
) -> Fields:
    """Pairs of a coefficient and the pressure of Darcy's flow through it.

    The coefficient is 12 where a Gaussian field is positive and 3 elsewhere. "rough" has tau = 5 in place of 3; its
    published values are not documented, so the same two are taken.

    Args:
        n: number of pairs.
        resolution: nodes a side, at least 3.
        kind: "smooth" or "rough".
        solver: "volumes" (`solve_darcy`), or "elements" (`solve_elements`, which needs scikit-fem); they differ at the
            jumps of the coefficient.
        random_state: decides the draw; the same coefficients come at every resolution of 64 nodes and more.

    Returns:
        X the coefficient and y the pressure, both of shape (n, 1, resolution, resolution).
    """
    check_option("darcy", "kind", kind, tuple(KINDS))
    check_option("darcy", "solver", solver, ("elements", "volumes"))
    field = gaussian_field(n, resolution, tau=KINDS[kind], rng=numpy_stream(random_state, "darcy", kind))
    a = np.where(field > 0, HIGH, LOW)
    if solver == "elements":
        from foreknow.data.pde.elements import solve_elements

        return Fields(a[:, None], solve_elements(a)[:, None])
    return Fields(a[:, None], solve_darcy(a)[:, None])


def diffusion(
    n: int, resolution: int = 32, *, boundary: str = "periodic", time: float = 0.01, random_state: int = 0
) -> Fields:
    """Pairs of a state and what the heat equation u_t = Laplacian(u) makes of it after `time`; exact, by waves.

    The grid holds what zero, reflecting or wrapped padding assumes: the inner nodes under "dirichlet" (u = 0 one step
    outside), all nodes under "neumann", one period under "periodic". The first state is smooth up to the boundary and
    as large there as inside, but for "dirichlet", where its waves vanish at the boundary.

    Args:
        n: number of pairs.
        resolution: nodes a side.
        boundary: one of `BOUNDARIES`.
        time: how long heat spreads, on a square of side 1.
        random_state: decides the draw.
    """
    owner = "diffusion"
    check_int(owner, "n", n, low=1)
    check_int(owner, "resolution", resolution, low=4)
    check_option(owner, "boundary", boundary, BOUNDARIES)
    check_real(owner, "time", time, low=0, open_low=True)
    noise = numpy_stream(random_state, "diffusion", boundary).standard_normal((n, resolution, resolution))
    if boundary == "periodic":
        k = 2 * np.pi * fft.fftfreq(resolution, 1 / resolution)
        rate = k[:, None] ** 2 + k**2
        waves = fft.fft2(noise)
    else:
        k = np.pi * (np.arange(resolution) + (boundary == "dirichlet"))
        rate = k[:, None] ** 2 + k**2
        waves = noise * resolution
    waves = waves * (rate + 25 * np.pi**2) ** -1.0 * 25 * np.pi**2
    if boundary == "periodic":
        pair = [fft.ifft2(w).real for w in (waves, waves * np.exp(-time * rate))]
    else:
        back = fft.dstn if boundary == "dirichlet" else fft.dctn
        pair = [back(w, type=1, axes=(1, 2)) / (2 * resolution) for w in (waves, waves * np.exp(-time * rate))]
    return Fields(pair[0][:, None], pair[1][:, None])
