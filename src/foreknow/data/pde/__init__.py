"""Fields of partial differential equations on square grids: generators, and readers of the files people have."""

from foreknow.common.lazy import lazy_names as _lazy_names

_PUBLIC = {
    "Fields": "foreknow.data.pde.fields",
    "darcy": "foreknow.data.pde.fields",
    "diffusion": "foreknow.data.pde.fields",
    "gaussian_field": "foreknow.data.pde.fields",
    "read_fields": "foreknow.data.pde.files",
    "read_trajectories": "foreknow.data.pde.files",
    "solve_darcy": "foreknow.data.pde.fields",
    "solve_elements": "foreknow.data.pde.elements",
    "steps_of": "foreknow.data.pde.files",
}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605

__getattr__, __dir__ = _lazy_names(__name__, _PUBLIC)
