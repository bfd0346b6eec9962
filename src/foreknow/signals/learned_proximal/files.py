"""The system on the command line: images of a user's folder in, restored images and a comparison out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.progress import Progress, ProgressCallback, Reporter
from foreknow.common.rng import torch_stream
from foreknow.common.validate import check_int, check_known, check_option, check_real
from foreknow.core.pictures import ImageGrid
from foreknow.core.source import ExampleSource, Sample
from foreknow.core.system import Applied
from foreknow.data.images import FITS, Images, image_files, read_image, read_images, write_image
from foreknow.nn.inverse import (
    SOLVERS,
    Blur,
    CompressedSensing,
    Denoising,
    FastCompressedSensing,
    Inpainting,
    Physics,
    gaussian_kernel,
)
from foreknow.nn.inverse import psnr as psnr_of
from foreknow.nn.inverse import ssim as ssim_of
from foreknow.signals.learned_proximal.plain import CHECKED

if TYPE_CHECKING:
    from foreknow.signals.learned_proximal.system import LearnedProximal

_WHOLE, _PATCH = 128, 32
"""Largest side of images that are learnt from whole unless told otherwise; side of the patches of larger ones."""
_SHOWN = 6
_LARGEST_MATRIX = 2**25
"""Numbers of a matrix of random projections; above, the projections are of a random transform."""


def read_training(paths: Sequence[Path], options: Mapping[str, str]) -> Sample:
    """Images to learn from.

    Options: `size` (28 or 28x32), `fit` (whole, crop, resize, patches), `channels` (1 or 3), `stride` of patches.
    """
    return Sample(_training_images(paths, options).pixels)


def price_source(path: Path) -> ExampleSource:
    """A user's images to be priced on; all pieces of a file are learnt from, or all are tested on."""
    images = _training_images([path], {})
    return ExampleSource(path.name, images.pixels, groups=images.sources, unit="images", n_min=CHECKED)


def _training_images(paths: Sequence[Path], options: Mapping[str, str]) -> Images:
    owner = "foreknow fit learned-proximal"
    check_known(owner, options, ("channels", "fit", "size", "stride"), what="option")
    files = image_files(paths)
    channels = _number(owner, "channels", options["channels"]) if "channels" in options else None
    stride = _number(owner, "stride", options["stride"]) if "stride" in options else None
    size = _size(owner, options["size"]) if "size" in options else None
    _, height, width = read_image(files[0]).shape
    large = max(height, width) > _WHOLE
    if size is None:
        size = (_PATCH, _PATCH) if large or options.get("fit") == "patches" else (height, width)
    fit = check_option(owner, "fit", options.get("fit", "whole" if size == (height, width) else "patches"), FITS)
    return read_images(files, size=size, channels=channels, fit=fit, stride=stride)


@dataclass(frozen=True)
class Work:
    """What to do with the files, as the options say.

    Args:
        task: "denoise", "deblur", "inpaint" or "cs".
        degrade: whether the files are clean images to be degraded first, or the measurements themselves.
        noise: standard deviation of the noise that is added.
        blur: standard deviation of the kernel in pixels.
        seen: share of the pixels that are seen.
        ratio: measurements per pixel of compressed sensing.
        mask: image whose white pixels are seen, for inpainting.
        solver, iterations, rho, scale: of the reconstruction; `iterations` at the most.
        tolerance: change of a pixel in an iteration, root mean square, below which it stops.
        seed: of what is drawn.
    """

    task: str = "denoise"
    degrade: bool = False
    noise: float = 0.04
    blur: float = 1.0
    seen: float = 0.5
    ratio: float = 0.25
    mask: str = ""
    solver: str = "admm"
    iterations: int = 100
    rho: float = 0.1
    scale: float = 0.5
    tolerance: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        owner = "foreknow apply"
        check_option(owner, "task", self.task, ("cs", "deblur", "denoise", "inpaint"))
        check_option(owner, "solver", self.solver, tuple(SOLVERS))
        check_real(owner, "noise", self.noise, low=0.0)
        for name in ("blur", "rho", "scale", "tolerance"):
            check_real(owner, name, getattr(self, name), low=0.0, open_low=True)
        for name in ("seen", "ratio"):
            check_real(owner, name, getattr(self, name), low=0.0, high=1.0, open_low=True)
        check_int(owner, "iterations", self.iterations, low=1)
        check_int(owner, "seed", self.seed, low=0)
        if self.task == "cs" and not self.degrade:
            raise ConfigError("foreknow apply: random projections are no image file.", hint="Use --with degrade=yes.")
        if self.task == "inpaint" and not self.degrade and not self.mask:
            raise ConfigError("foreknow apply: which pixels are seen?", hint="Give --with mask=FILE, white where seen.")

    @classmethod
    def read(cls, options: Mapping[str, str]) -> Work:
        """The options of the command line, as text."""
        owner = "foreknow apply learned-proximal"
        check_known(owner, options, [field.name for field in fields(cls)], what="option")
        read: dict[str, Any] = {}
        for field in fields(cls):
            if field.name not in options:
                continue
            text = options[field.name]
            kind: Any = type(field.default)
            if kind is bool:
                read[field.name] = check_option(owner, field.name, text, ("no", "yes")) == "yes"
            else:
                try:
                    read[field.name] = kind(text)
                except ValueError as error:
                    raise ConfigError(f"{owner}: {field.name} must be a number, got {text!r}.") from error
        return cls(**read)

    def physics(self, shape: tuple[int, ...]) -> Physics:
        """The operator for images of this shape."""
        generator = torch_stream(self.seed, "physics")
        if self.task == "deblur":
            return Blur(gaussian_kernel(self.blur), sigma=self.noise)
        if self.task == "inpaint":
            if self.mask:
                mask = read_image(self.mask, channels=1)
                if mask.shape[1:] != shape[1:]:
                    raise InputError(f"the mask has {mask.shape[1:]} pixels, the image {shape[1:]}.")
                return Inpainting(torch.tensor(mask) > 0.5, sigma=self.noise)
            return Inpainting(torch.rand(1, *shape[1:], generator=generator) < self.seen, sigma=self.noise)
        if self.task == "cs":
            n = max(1, round(self.ratio * int(np.prod(shape))))
            kind = CompressedSensing if n * int(np.prod(shape)) <= _LARGEST_MATRIX else FastCompressedSensing
            return kind(n, shape, generator=generator, sigma=self.noise)
        return Denoising(sigma=self.noise)


def apply(
    system: LearnedProximal,
    inputs: Sequence[str],
    out: Path,
    options: Mapping[str, str],
    progress: ProgressCallback | None = None,
) -> Applied:
    """Restore each image and write it; with `degrade=yes`, say how near it came to the clean one."""
    work, files = Work.read(options), image_files(inputs)
    shape = system.network_.architecture.shape
    if len(shape) != 3:
        raise InputError("this system was fitted to vectors; images cannot be restored with it.")
    names = [file.stem for file in files]
    if len(set(names)) < len(names):
        raise InputError("two of the images have the same name, so one result would replace the other.")
    reporter = Reporter(progress, len(files))

    def advance(number: int, name: str, step: Progress) -> None:
        reporter.advance(number + step.done / step.total, name)

    rows: list[list[Any]] = []
    shown: list[list[NDArray[Any]]] = []
    written: list[Path] = []
    for number, (name, file) in enumerate(zip(names, files, strict=True)):
        image = read_image(file, channels=shape[0])
        given, found, numbers = _restored(system, work, image, number, partial(advance, number, name))
        written.append(write_image(out / f"{name}_restored.png", found))
        rows.append([name, *numbers.values()])
        if len(shown) < _SHOWN:
            shown.append([_seen(part) for part in ((image,) if work.degrade else ()) + (given, found)])
        reporter.advance(number + 1, name)
    titles = [*(["clean"] if work.degrade else []), "measured" if work.task != "cs" else "back-projected", "restored"]
    record = {"task": work.task, "degrade": work.degrade,
              "images": [dict(zip(["name", *numbers], row, strict=True)) for row in rows]}  # fmt: skip
    table = (["image", *numbers], [[_text(value) for value in row] for row in rows])
    return Applied(record, table, {"before_after": ImageGrid(shown, titles, names[: len(shown)])}, tuple(written))


def _restored(
    system: LearnedProximal, work: Work, image: NDArray[Any], number: int, progress: ProgressCallback
) -> tuple[NDArray[Any], NDArray[Any], dict[str, Any]]:
    """The measured image as it looks, the restored one, and what there is to say of it."""
    physics = work.physics(image.shape)
    y = torch.tensor(image)[None]
    if work.degrade:
        with torch.no_grad():
            y = physics(y, generator=torch_stream(work.seed, "noise", str(number)))
    if work.task == "denoise":
        found, numbers = system.denoise(np.clip(y.numpy(), -2, 3)), {}
    else:
        more: dict[str, Any] = {} if work.solver == "pgd" else {"rho": work.rho, "scale": work.scale}
        found, info = system.reconstruct(
            y, physics, solver=work.solver, n_iterations=work.iterations, return_info=True, progress=progress,
            tolerance=work.tolerance * float(np.sqrt(image.size)), **more,
        )  # fmt: skip
        numbers = {"iterations": len(info.changes), "last_change": info.changes[-1], "converged": info.converged}
    given = physics.A_adjoint(y).numpy() if work.task == "cs" else y.numpy()
    if work.degrade:
        clean = image[None]
        numbers = {
            "psnr_before": float(psnr_of(given, clean)[0]),
            "psnr": float(psnr_of(found, clean)[0]),
            "ssim_before": float(ssim_of(given, clean)[0]),
            "ssim": float(ssim_of(found, clean)[0]),
            **numbers,
        }
    return given[0], found[0], numbers  # fmt: skip


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _seen(image: NDArray[Any]) -> NDArray[Any]:
    clipped = np.clip(image, 0, 1)
    return np.asarray(clipped.transpose(1, 2, 0) if len(clipped) == 3 else clipped[0])


def _number(owner: str, name: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"{owner}: {name} must be a whole number of 1 or more, got {text!r}.")
    return int(text)


def _size(owner: str, text: str) -> tuple[int, int]:
    parts = [_number(owner, "size", part) for part in text.lower().split("x")]
    if len(parts) > 2:
        raise ConfigError(f"{owner}: size must be one number or two, such as 28 or 28x32, got {text!r}.")
    return parts[0], parts[-1]
