"""`foreknow fit`: a system learns from a user's own files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from foreknow.cli.common import Interrupted, Json, ProgressBar, Seed, Slug, duration, emit, options

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A setting of the system, such as sigma=0.1; may be repeated."),
]
With = Annotated[
    list[str] | None,
    typer.Option("--with", metavar="NAME=VALUE", help="A further input or option, such as model=net.pt2; repeatable."),
]


def fit(
    slug: Slug,
    data: Annotated[
        list[Path] | None, typer.Argument(metavar="DATA", help="Files or folders to learn from; the page says which.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="File or folder for what was learnt.")
    ] = None,
    set_: Set = None,
    with_: With = None,
    seed: Seed = 0,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    pictures: Annotated[
        Path | None, typer.Option("--pictures", metavar="FOLDER", help="Draw what was learnt into this folder.")
    ] = None,
    json: Json = False,
) -> None:
    """Fit a system to your own data and save it; `foreknow apply` uses it.

    The file holds numbers and settings; nothing in it is ever executed.
    """
    from foreknow.cli.common import output_folder
    from foreknow.common.errors import CapabilityError, ConfigError
    from foreknow.common.validate import check_known
    from foreknow.core.registry import lookup
    from foreknow.viz.pictures import save_picture

    kind = lookup(slug).system
    if kind is None:
        raise CapabilityError(f"{slug!r} has priors but no system, so there is nothing to fit.")
    settings = {name: setting(value) for name, value in options("--set", set_).items()}
    check_known(f"foreknow fit {slug}", settings, kind._get_param_names())
    for name, option in (("random_state", "--seed"), ("device", "--device")):
        if name in settings:
            raise ConfigError(f"foreknow fit: {name} is set by {option}.")
    default = Path(slug if kind.saves_as == "folder" else f"{slug}.safetensors")
    sample = kind.read_files(data or [], options("--with", with_))
    system = kind(**settings).set_params(random_state=seed, device=device)
    try:
        with ProgressBar(f"fitting {slug}") as progress:
            system.report_to(progress).fit(sample.X, sample.y, **sample.named)
    except KeyboardInterrupt:
        raise Interrupted("the fit is not complete, so nothing was written.") from None
    path = system.save(out or default)
    drawn = []
    if pictures is not None:
        folder = output_folder(pictures)
        drawn = [str(save_picture(picture, folder / name)) for name, picture in system.pictures().items()]
    record = {
        "slug": slug, "system": kind.__name__, "settings": {k: repr(v) for k, v in system.get_params().items()},
        "seconds": round(system.fit_seconds_, 2), "path": str(path), "pictures": drawn,
    }  # fmt: skip
    if not emit(record, json):
        typer.echo(f"{path}: {kind.__name__}, fitted in {duration(system.fit_seconds_)}")
        for picture in drawn:
            typer.echo(picture)


def setting(text: str) -> Any:
    """A setting as Python reads it (numbers, True, None, tuples); else the text itself."""
    import ast

    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
