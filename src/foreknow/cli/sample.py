"""`foreknow sample`: draws from a prior as a picture."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foreknow.cli.common import Json, Seed, Slug, emit, short_name

if TYPE_CHECKING:
    from foreknow.core.prior import Prior
    from foreknow.core.registry import Entry

FORMATS = ("png", "svg", "pdf")


def sample(
    slug: Slug,
    prior: Annotated[str | None, typer.Option("--prior", help="Which of its priors; by default the paper's.")] = None,
    n: Annotated[int, typer.Option("--n", min=1, max=64, help="Number of draws.")] = 9,
    rows: Annotated[int, typer.Option("--rows", min=2, max=1000, help="Rows of each drawn table.")] = 64,
    seed: Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Picture to write: .png, .svg or .pdf. By default SLUG-PRIOR.png here."),
    ] = None,
    off: Annotated[bool, typer.Option("--off", help="Draw from the control arm: the same, without the prior.")] = False,
    json: Json = False,
) -> None:
    """Draw from a prior and write a picture: look at what it believes before you trust it."""
    from foreknow.common.errors import CapabilityError
    from foreknow.common.files import atomic_path
    from foreknow.common.rng import torch_stream
    from foreknow.common.validate import check_option
    from foreknow.core.prior import Pictured, Simulator
    from foreknow.core.registry import lookup
    from foreknow.viz.draws import draw_batch
    from foreknow.viz.pictures import save_picture

    on = _choose(slug, lookup(slug), prior)
    name = short_name(type(on))
    path = out or Path(f"{slug}-{name}{'-off' if off else ''}.png")
    check_option("foreknow sample", "the ending of --out", path.suffix.lower().removeprefix("."), FORMATS)
    drawn = on.off() if off else on
    record: dict[str, Any] = {"slug": slug, "prior": name, "off": off, "n": n, "rows": rows, "seed": seed}
    generator = torch_stream(seed, "sample", slug, name)
    if not isinstance(drawn, Simulator):
        if not isinstance(drawn, Pictured):
            raise CapabilityError(f"{type(drawn).__name__} has no picture of what it believes.")
        picture = drawn.picture(n, generator=generator)
        _say({**record, "settings": repr(drawn), "path": str(save_picture(picture, path))}, drawn, json)
        return
    with atomic_path(path) as temporary:
        n_context = max(1, rows // 4)
        batch = drawn.sample(n, n_context=n_context, n_query=rows - n_context, generator=generator)
        title = f"{slug}: {name} prior, {'off' if off else 'on'}, seed {seed}"
        figure = draw_batch(batch, title, view=_view(on), n_tasks=n)
        figure.savefig(temporary, format=path.suffix.lower().removeprefix("."))
    _say({**record, "settings": repr(drawn), "path": str(path)}, drawn, json)


def _say(record: dict[str, Any], drawn: Prior, json: bool) -> None:
    if not emit(record, json):
        typer.echo(drawn.describe() if hasattr(drawn, "describe") else repr(drawn))
        typer.echo(record["path"])


def _choose(slug: str, entry: Entry, name: str | None) -> Prior:
    """The prior called `name`, else the one the system uses, else the first: with default settings or an example's."""
    from foreknow.common.errors import CapabilityError
    from foreknow.common.validate import check_option
    from foreknow.core.prior import Pictured, Simulator

    if name is None and entry.system is not None:
        paper = entry.system()._paper_prior()
        if isinstance(paper, Simulator | Pictured):
            return paper
    if not entry.priors:
        raise CapabilityError(f"{slug!r} registers no prior that can be drawn from.")
    kind = entry.priors[0]
    if name is not None:
        known = {short_name(kind): kind for kind in entry.priors}
        short = {kind.__name__.casefold(): short for short, kind in known.items()}.get(name.casefold(), name.casefold())
        kind = known[check_option(f"foreknow sample {slug}", "--prior", short, known)]
    needed = [key for key, setting in inspect.signature(kind).parameters.items() if setting.default is setting.empty]
    return kind.examples()[0] if needed else kind()


def _view(prior: Prior) -> str:
    """How its draws are looked at: what the prior says, else curves for functions of one column, else a table."""
    curves = getattr(prior, "n_features", 0) == 1 and getattr(prior, "target", "") == "regression"
    return str(getattr(prior, "view", "curves" if curves else "table"))
