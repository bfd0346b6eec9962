"""A user's files: trials of spikes and behaviour to learn from, and latents, rates and behaviour of others."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.files import atomic_path
from foreknow.common.progress import ProgressCallback, Reporter
from foreknow.common.validate import check_known
from foreknow.core.source import Sample
from foreknow.core.system import Applied

if TYPE_CHECKING:
    from foreknow.functions.mm_gpvae.system import MMGPVAE

_OWNER = "mm-gpvae"
OPTIONS = {
    "spikes": "name of the array of neurons, (trials, bins, neurons)",
    "behavior": "name of the array of behaviour, (trials, bins, ...)",
    "lengths": "name of the array with the bins of every trial, where trials are padded",
}


def read_sample(paths: Sequence[Path], options: Mapping[str, str]) -> Sample:
    """Trials from one .npz, or from two .npy files, neurons first.

    A .npz holds `spikes` and `behavior` (options name others), and where trials are padded `lengths`. With one of the
    two recordings that one is X.

    Raises:
        ConfigError: an unknown option.
        InputError: the files cannot be used.
    """
    spikes, behavior = read_recordings(paths, options)
    if spikes is None and behavior is None:
        raise InputError(f"{_OWNER}: there are no recordings.")
    return Sample(behavior) if spikes is None else Sample(spikes, behavior)


def read_recordings(paths: Sequence[Path], options: Mapping[str, str]) -> tuple[Any, Any]:
    """Neurons and behaviour of files, None where there is none."""
    check_known(_OWNER, options, OPTIONS, what="option")
    if not 1 <= len(paths) <= 2:
        raise InputError(
            f"{_OWNER}: {len(paths)} files were given.",
            hint="Give one .npz with arrays spikes and behavior, or two .npy files, neurons first.",
        )
    arrays = [_read(path) for path in paths]
    if len(paths) == 2 or paths[0].suffix == ".npy":
        for path, found in zip(paths, arrays, strict=True):
            if set(found) != {""}:
                raise InputError(f"{path.name}: of two files each must be a .npy with one array.")
        if options:
            raise ConfigError(f"{_OWNER}: arrays of .npy files have no names, so {sorted(options)} mean nothing.")
        return arrays[0][""], arrays[1][""] if len(arrays) == 2 else None
    (found,) = arrays
    recordings: list[Any] = []
    for key in ("spikes", "behavior"):
        name = options.get(key, key)
        if key in options and name not in found:
            raise InputError(f"{paths[0].name} holds no array {name!r}; it holds {', '.join(sorted(found)) or 'none'}.")
        recordings.append(found.get(name))
    if all(part is None for part in recordings):
        raise InputError(
            f"{paths[0].name} must hold arrays named spikes and behavior, it holds "
            f"{', '.join(sorted(found)) or 'none'}.",
            hint="Name them: --with spikes=NAME --with behavior=NAME.",
        )
    name = options.get("lengths", "lengths")
    if name in found:
        recordings = [None if part is None else _cut(paths[0], part, found[name]) for part in recordings]
    elif "lengths" in options:
        raise InputError(f"{paths[0].name} holds no array {name!r}; it holds {', '.join(sorted(found))}.")
    return recordings[0], recordings[1]


def apply(
    system: MMGPVAE,
    paths: Sequence[Path],
    out: Path,
    options: Mapping[str, str],
    progress: ProgressCallback | None = None,
) -> Applied:
    """Write latents.npz: the latents of each block and their widths, rates, and behaviour; show the first trial.

    Where both recordings are given, behaviour from spikes alone is written too, and how well all is explained. Trials
    of unequal length are padded with NaN.
    """
    spikes, behavior = read_recordings(paths, options)
    if system.modality == "behavior" and behavior is None:
        spikes, behavior = None, spikes
    reporter = Reporter(progress, 2)
    mean, sd = system.latents(spikes, behavior, return_sd=True)
    arrays = {name: _padded(values) for name, values in mean.items()}
    arrays |= {f"{name}_sd": _padded(values) for name, values in sd.items()}
    rebuilt = system.reconstruct(spikes, behavior)
    for key, name in (("neural", "rates"), ("behavior", "behavior_rebuilt")):
        if key in rebuilt:
            arrays[name] = _padded(rebuilt[key])
    scores: dict[str, float] = {}
    if spikes is not None and behavior is not None:
        arrays["behavior_from_spikes"] = _padded(system.predict_behavior(spikes))
        scores = system.score(spikes, behavior)
    elif system.modality != "both":
        scores = system.score(behavior if spikes is None else spikes)
    reporter.advance(1, "latents")
    path = out / "latents.npz"
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    lengthscales = {name: values.tolist() for name, values in system.lengthscales_.items()}
    record = {
        "n_trials": len(next(iter(mean.values()))), "lengthscales": lengthscales, "scores": scores, "file": path.name,
        "arrays": {name: list(values.shape) for name, values in arrays.items()},
    }  # fmt: skip
    rows = [[name, f"{value:.4g}"] for name, value in scores.items()]
    rows += [[f"lengthscale, {name} {i + 1}", f"{value:.4g} bins"] for name, values in lengthscales.items()
             for i, value in enumerate(values)]  # fmt: skip
    reporter.advance(2, "written")
    return Applied(record, (("measure", "value"), rows), system.show(spikes, behavior), (path,))


def _read(path: Path) -> dict[str, NDArray[Any]]:
    """The numeric arrays of a file by name; that of a .npy has the name ""."""
    if path.suffix not in (".npz", ".npy"):
        raise InputError(
            f"{path.name}: recordings are read from .npz and .npy, not {path.suffix or 'this'}.",
            hint="Save arrays of another format by numpy.savez(FILE, spikes=..., behavior=...).",
        )
    if not path.is_file():
        raise InputError(f"there is no file {str(path)!r}.")
    try:
        read = np.load(path, allow_pickle=False)
        if isinstance(read, np.ndarray):
            return {"": read}
        with read:
            return {name: read[name] for name in read.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path.name} cannot be read: {error!s:.200}") from error


def _cut(path: Path, trials: NDArray[Any], lengths: NDArray[Any]) -> list[NDArray[Any]]:
    """Padded trials as a list of arrays of their own lengths."""
    n_bins = trials.shape[1] if trials.ndim > 1 else 0
    whole = lengths.ndim == 1 and lengths.dtype.kind in "iu" and len(lengths) == len(trials)
    if not whole or lengths.size == 0 or lengths.min() < 1 or lengths.max() > n_bins:
        raise InputError(
            f"{path.name}: lengths must be a whole number from 1 to {n_bins} for each of {len(trials)} trials, got "
            f"shape {lengths.shape}, {lengths.dtype}."
        )
    return [trial[: int(length)] for trial, length in zip(trials, lengths, strict=True)]


def _padded(values: Any) -> NDArray[Any]:
    if isinstance(values, np.ndarray):
        return values
    longest = max(len(part) for part in values)
    found = np.full((len(values), longest, *values[0].shape[1:]), np.nan)
    for row, part in zip(found, values, strict=True):
        row[: len(part)] = part
    return found
