"""Readers of files of field pairs: .npz, .npy, .pt of neuraloperator 0.3.0, and .mat of the FNO paper."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreknow.common.deps import require
from foreknow.common.errors import ConfigError, InputError
from foreknow.common.validate import check_int
from foreknow.data.pde.fields import Fields

PAIRS = (("a", "u"), ("X", "y"), ("x", "y"), ("coeff", "sol"))
"""Names under which files hold inputs and outputs; `coeff` and `sol` are those of the FNO paper."""
SUFFIXES = (".npz", ".npy", ".pt", ".mat")


def read_fields(
    paths: str | Path | Sequence[str | Path],
    *,
    names: tuple[str, str] | None = None,
    subsample: int = 1,
    need_outputs: bool = True,
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Inputs and outputs from one file that holds both, or from two .npy files, inputs first.

    Args:
        paths: .npz, .mat and .pt hold named arrays; a .npy holds one.
        names: of inputs and outputs in the file; by default the first pair of `PAIRS` that is there.
        subsample: keep every so many-th node of each side.
        need_outputs: whether a file without outputs is refused.

    Returns:
        Arrays of shape (n, C, H, W); arrays of shape (n, H, W) get one channel. Outputs are None where the file has
        none and none are needed.

    Raises:
        InputError: a file cannot be read, or does not hold such arrays.
        MissingExtraError: a .mat file of version 7.3, and h5py is not installed.
    """
    check_int("read_fields", "subsample", subsample, low=1)
    files = [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]
    if not 1 <= len(files) <= 2:
        raise InputError(
            f"read_fields: {len(files)} files were given.",
            hint="Give one file with inputs and outputs, or two .npy files: inputs, then outputs.",
        )
    if len(files) == 2 or files[0].suffix == ".npy":
        arrays = [_read_arrays(path) for path in files]
        for path, found in zip(files, arrays, strict=True):
            if set(found) != {""}:
                raise InputError(f"{path.name}: of two files each must be a .npy with one array.")
        x, y = arrays[0][""], arrays[1][""] if len(arrays) == 2 else None
    else:
        found = _read_arrays(files[0])
        inputs, outputs = _choose(files[0], found, names, need_outputs)
        x, y = found[inputs], found.get(outputs)
    if y is None and need_outputs:
        raise InputError(f"{files[0].name}: there are no outputs.", hint="Give a second .npy file with them.")
    return _as_fields(files[0], x, subsample), None if y is None else _as_fields(files[-1], y, subsample)


def read_trajectories(path: str | Path, name: str = "u", *, subsample: int = 1) -> NDArray[Any]:
    """Trajectories with time last, shape (n, H, W, T), for instance `u` of the FNO paper's Navier-Stokes files.

    Raises:
        InputError: there is no such array in the file.
    """
    check_int("read_trajectories", "subsample", subsample, low=1)
    found = _read_arrays(Path(path))
    if name not in found or found[name].ndim != 4:
        known = ", ".join(f"{key} {array.shape}" for key, array in sorted(found.items())) or "none"
        raise InputError(f"{Path(path).name} holds no array {name!r} of shape (n, H, W, T); it holds {known}.")
    return np.ascontiguousarray(found[name][:, ::subsample, ::subsample])


def steps_of(trajectories: NDArray[Any]) -> Fields:
    """Pairs of a state and the next one from trajectories with time last, shape (n, H, W, T), as in the FNO files.

    Returns:
        Shape (n (T - 1), 1, H, W); the pairs of a trajectory lie together, in order.
    """
    if trajectories.ndim != 4 or trajectories.shape[-1] < 2:
        raise InputError(f"steps_of: trajectories must have shape (n, H, W, T) with T >= 2, got {trajectories.shape}.")
    states = np.moveaxis(trajectories, -1, 1)
    n, steps, *sides = states.shape
    x, y = (part.reshape(n * (steps - 1), 1, *sides) for part in (states[:, :-1], states[:, 1:]))
    return Fields(np.array(x), np.array(y))


def _choose(path: Path, found: Mapping[str, Any], names: tuple[str, str] | None, need_outputs: bool) -> tuple[str, str]:
    for inputs, outputs in PAIRS if names is None else (names,):
        if inputs in found and (outputs in found or not need_outputs):
            return inputs, outputs
    wanted = " or ".join(f"{one} and {other}" for one, other in PAIRS) if names is None else " and ".join(names)
    raise InputError(
        f"{path.name} must hold arrays named {wanted}, it holds {', '.join(sorted(found)) or 'none'}.",
        hint="Name them: names=(inputs, outputs), on the command line --with input=NAME --with output=NAME.",
    )


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The numeric arrays of a file by name; that of a .npy has the name ""."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path.name}: fields are read from {', '.join(SUFFIXES)}, not {path.suffix or 'this'}.")
    if not path.is_file():
        raise InputError(f"there is no file {str(path)!r}.")
    try:
        found = {".npz": _npz, ".npy": _npy, ".pt": _pt, ".mat": _mat}[path.suffix](path)
    except (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path.name} cannot be read as {path.suffix}: {error!s:.200}") from error
    return {name: array for name, array in found.items() if array.dtype.kind in "fiub"}


def _npz(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _npy(path: Path) -> dict[str, NDArray[Any]]:
    return {"": np.load(path, allow_pickle=False)}


def _pt(path: Path) -> dict[str, NDArray[Any]]:
    import pickle
    import warnings

    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles that are refused a moment later
            stored = torch.load(path, weights_only=True, map_location="cpu")  # refuses everything but tensors
    except pickle.UnpicklingError as error:
        raise InputError(f"{path.name} holds more than tensors, and is not read.") from error
    if not isinstance(stored, dict):
        raise InputError(f"{path.name} holds a {type(stored).__name__}, not a mapping of names to tensors.")
    return {str(name): value.numpy() for name, value in stored.items() if isinstance(value, torch.Tensor)}


def _mat(path: Path) -> dict[str, NDArray[Any]]:
    from scipy import io

    try:
        return {name: value for name, value in io.loadmat(path).items() if isinstance(value, np.ndarray)}
    except io.matlab.MatReadError as error:
        raise ValueError(error) from error
    except NotImplementedError:  # version 7.3 is HDF5, with the axes in reverse order
        h5py = require("h5py", "Reading .mat files of version 7.3")
        with h5py.File(path, "r") as file:
            return {name: file[name][()].T for name in file if hasattr(file[name], "shape")}


def _as_fields(path: Path, array: NDArray[Any], subsample: int) -> NDArray[Any]:
    if array.ndim not in (3, 4) or 0 in array.shape:
        raise InputError(f"{path.name}: fields must have shape (n, H, W) or (n, C, H, W), got {array.shape}.")
    fields = array[:, None] if array.ndim == 3 else array
    if fields.dtype.kind != "f":
        fields = fields.astype(np.float32)
    return np.ascontiguousarray(fields[..., ::subsample, ::subsample])
