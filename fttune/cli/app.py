"""The typer application, and the options that stand before a command."""

from typing import Annotated

import typer

app = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Which layers should be frozen, and what should learning rate and momentum be?",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from fttune import __version__

        typer.echo(f"fttune {__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
]


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Version = False,
) -> None:
    """Options of every command; `main` looks for --debug itself, since it catches the errors."""
