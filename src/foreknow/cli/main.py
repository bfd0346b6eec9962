"""`foreknow`: the entry point, and the list of verbs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from foreknow._version import __version__
from foreknow.cli.apply import apply
from foreknow.cli.cite import cite
from foreknow.cli.common import guarded
from foreknow.cli.doctor import doctor
from foreknow.cli.extrapolate import extrapolate
from foreknow.cli.fit import fit
from foreknow.cli.list import list_
from foreknow.cli.predict import predict
from foreknow.cli.pretrain import pretrain
from foreknow.cli.price import price
from foreknow.cli.prove import prove
from foreknow.cli.sample import sample
from foreknow.cli.show import show

app = typer.Typer(
    name="foreknow",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"foreknow {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version and stop.")
    ] = False,
) -> None:
    """Neural priors as objects: look at one, plug it in, switch it off, put a price on it."""


_VERBS: dict[str, Callable[..., None]] = {
    "predict": predict,
    "extrapolate": extrapolate,
    "fit": fit,
    "apply": apply,
    "list": list_,
    "show": show,
    "cite": cite,
    "sample": sample,
    "price": price,
    "prove": prove,
    "pretrain": pretrain,
    "doctor": doctor,
}
for _name, _verb in _VERBS.items():
    app.command(_name)(guarded(_verb))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process with its exit code.

    Args:
        arguments: the words after `foreknow`; those of this process by default.
    """
    app(arguments, prog_name="foreknow")
