"""Solutions by finite elements, with scikit-fem: a second solver, of another kind, for the same grids."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreknow.common.deps import require
from foreknow.common.errors import InputError
from foreknow.common.validate import check_option

Array = NDArray[np.float64]
BOUNDARIES = ("dirichlet", "neumann")


def solve_elements(
    a: ArrayLike, f: ArrayLike = 1.0, *, reaction: ArrayLike = 0.0, boundary: str = "dirichlet"
) -> Array:
    """Solutions of -div(a grad u) + c u = f on the unit square, by bilinear elements between the nodes.

    Coefficients are interpolated between their nodes; where they jump, `foreknow.data.pde.solve_darcy` is the better
    choice. A negative c is Helmholtz's equation.

    Args:
        a: positive coefficients at the nodes, shape (n, H, H) or (H, H).
        f: right-hand side, of the same shape or one that extends to it.
        reaction: c, the same.
        boundary: "dirichlet" (u = 0) or "neumann" (no flux; c must not be 0 everywhere, or u would be known up to a
            constant only).

    Returns:
        Of the shape of `a`.

    Raises:
        InputError: a grid of fewer than 3 nodes a side, unequal sides, or coefficients that do not fit.
        MissingExtraError: scikit-fem is not installed (extra "pde").
    """
    check_option("solve_elements", "boundary", boundary, BOUNDARIES)
    coefficients = np.asarray(a, dtype=np.float64)
    n = coefficients.shape[-1] if coefficients.ndim else 0
    if coefficients.ndim not in (2, 3) or coefficients.shape[-2] != n or n < 3:
        raise InputError(f"solve_elements: a must have shape (n, H, H) with H >= 3, got {coefficients.shape}.")
    if not (np.isfinite(coefficients) & (coefficients > 0)).all():
        raise InputError("solve_elements: a must be positive everywhere.")
    rights, reactions = (
        np.broadcast_to(np.asarray(field, dtype=np.float64), coefficients.shape) for field in (f, reaction)
    )
    flat = (field.reshape(-1, n, n) for field in (coefficients, rights, reactions))
    solve = _Solver(n, boundary)
    return np.stack([solve(*one) for one in zip(*flat, strict=True)]).reshape(coefficients.shape)


class _Solver:
    """The elements of one grid, and the equation on them."""

    def __init__(self, n: int, boundary: str) -> None:
        skfem = require("skfem", "Solving by finite elements")
        from skfem.helpers import dot, grad

        line = np.linspace(0, 1, n)
        mesh = skfem.MeshQuad.init_tensor(line, line)
        self.basis = skfem.Basis(mesh, skfem.ElementQuad1())
        self.fixed = mesh.boundary_nodes() if boundary == "dirichlet" else None
        places = np.rint(mesh.p * (n - 1)).astype(int)
        self.order, self.n = places[0] * n + places[1], n  # of each node in a flattened field
        self.stiffness = skfem.BilinearForm(lambda u, v, w: w.a * dot(grad(u), grad(v)) + w.c * u * v)
        self.load = skfem.LinearForm(lambda v, w: w.f * v)
        self.skfem = skfem

    def __call__(self, a: Array, f: Array, c: Array) -> Array:
        if self.fixed is None and not c.any():
            raise InputError(
                "solve_elements: without flux through the boundary and without a reaction, u is known up to a constant "
                "only.",
                hint="Give reaction=1.0, for instance.",
            )
        at = {name: self.basis.interpolate(field.ravel()[self.order]) for name, field in zip("afc", (a, f, c))}
        matrix = self.stiffness.assemble(self.basis, a=at["a"], c=at["c"])
        load = self.load.assemble(self.basis, f=at["f"])
        if self.fixed is None:
            found = self.skfem.solve(matrix, load)
        else:
            found = self.skfem.solve(*self.skfem.condense(matrix, load, D=self.fixed))
        u = np.empty(self.n**2)
        u[self.order] = found
        return u.reshape(self.n, self.n)
