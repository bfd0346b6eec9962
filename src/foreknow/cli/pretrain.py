"""`foreknow pretrain`: train a network that a system ships."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from foreknow.cli.common import Device, Interrupted, Json, ProgressBar, Seed, Slug, emit, figure, output_folder

FILES = ("weights", "state", "log")
"""Keys of the record of a pre-training that are paths."""


def pretrain(
    slug: Slug,
    minutes: Annotated[
        float | None, typer.Option("--minutes", help="Stop after this time; the schedule is finished.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Stop after this many steps.")] = None,
    preset: Annotated[
        str | None,
        typer.Option("--preset", help="Sizes: quick, small or paper; by default those of the network that ships."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option("--weights", help="Which of the networks the system ships; its first by default.")
    ] = None,
    device: Device = "auto",
    devices: Annotated[int, typer.Option("--devices", min=1, help="Number of devices of that kind.")] = 1,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on from the state in --out; with none there, TabularClassifier and TabularRegressor go on from "
            "what ships.",
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for weights, state and log; by default pretrained/SLUG.")
    ] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Train the network a system ships, on draws from its prior. Can be stopped and resumed at any time."""
    from foreknow.common.errors import CapabilityError, ConfigError
    from foreknow.common.validate import check_option, check_real
    from foreknow.core.registry import lookup
    from foreknow.core.system import PRESETS

    if preset is not None:
        check_option("foreknow pretrain", "--preset", preset, PRESETS)
    if minutes is not None and steps is not None:
        raise ConfigError("foreknow pretrain: give --minutes or --steps, not both.")
    if minutes is not None:
        check_real("foreknow pretrain", "--minutes", minutes, low=0.0, open_low=True)
    system = lookup(slug).system
    train = getattr(system, "pretrain_shipped", None)
    if train is None:
        raise CapabilityError(f"{slug!r} ships no network, so there is nothing to pretrain.")
    folder = output_folder(out or Path("pretrained") / slug)
    started = time.time()
    try:
        with ProgressBar(f"pretraining {slug}") as progress:
            record: dict[str, Any] = train(
                weights,
                minutes=minutes,
                n_steps=steps,
                preset=preset,
                device=device,
                devices=devices,
                resume=resume,
                out=folder,
                seed=seed,
                progress=progress,
            )
    except KeyboardInterrupt as stop:
        options: dict[str, object] = {
            "--minutes": minutes,
            "--steps": steps,
            "--preset": preset,
            "--weights": weights,
            "--device": device,
        }
        options |= {"--devices": devices, "--seed": seed, "--out": folder}
        words = [word for key, value in options.items() if value is not None for word in (key, str(value))]
        command = shlex.join(["foreknow", "pretrain", slug, *words, "--resume"])
        raise Interrupted(_kept(folder, started, str(stop)) + f"; go on with: {command}") from None
    if not emit(record, json):
        for key in sorted(record, key=lambda key: (key not in FILES, FILES.index(key) if key in FILES else 0)):
            typer.echo(f"{key:<10} {figure(record[key])}")


def _kept(folder: Path, started: float, how_far: str) -> str:
    """What of this run is in `folder`, in words."""
    files = sorted(path.name for path in folder.iterdir() if path.is_file() and path.stat().st_mtime >= started - 1)
    found = f"{', '.join(files)} kept in {folder}" if files else "nothing had been saved yet"
    return f"{how_far}; {found}" if how_far else found
