"""The commands before any work: init and validate."""

from pathlib import Path
from typing import Annotated

import typer

from fttune.cli.app import app
from fttune.cli.options import Json


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="<class>/<image>, or train|val|test/<class>/<image>.")],
    name: Annotated[str | None, typer.Option(help="Of both files; default: the folder's.")] = None,
    as_json: Json = False,
) -> None:
    """Look at a folder of images, and write an experiment and a study for it, with a reason for each choice."""
    from fttune.app.init import init as run

    found = run(folder, name=name, say=lambda text: typer.echo(text, err=True))
    from fttune.cli.printing import print_begun

    print_begun(found, as_json)
