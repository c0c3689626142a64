"""The commands about images: data check."""

from pathlib import Path
from typing import Annotated

import typer

from fttune.cli.app import app
from fttune.cli.options import Json

data = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Look at images before anything trains on them.")
app.add_typer(data, name="data")


@data.command()
def check(
    path: Annotated[Path, typer.Argument(metavar="PATH|EXPERIMENT", help="A folder of images, or a YAML file.")],
    as_json: Json = False,
) -> None:
    """Find images that would fail or spoil a training: broken, misnamed, too large, copies, names, links, classes."""
    import json

    from fttune.app.data_check import check as run
    from fttune.errors import BadInput, one_line
    from fttune.report.data_check import check_record, check_text

    checked = run(path, say=lambda text: typer.echo(f"{one_line(str(path))}: {text}", err=True))
    name, found = one_line(checked.name), checked.found
    typer.echo(json.dumps(check_record(name, found)) if as_json else check_text(name, found))
    if errors := found.count("error"):
        raise BadInput(f"{name}: errors that fail or spoil a training: {errors}; correct them, then check again")
