"""The commands before any work: init and validate."""

from pathlib import Path
from typing import Annotated

import typer

from fttune.cli.app import app
from fttune.cli.options import CacheGb, Json, Mlruns, Plugins, Set, workspace_of

Probe = Annotated[
    bool, typer.Option("--probe", help="Read the data, train a few batches, and print what all of it will take.")
]


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


@app.command()
def validate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...")],
    probe: Probe = False,
    overrides: Set = None,
    plugins: Plugins = None,
    mlruns: Mlruns = None,
    cache_gb: CacheGb = None,
    as_json: Json = False,
) -> None:
    """Check experiments and studies, every problem at once. Without --probe reads no data and needs no network."""
    from fttune.config import load
    from fttune.errors import BadInput

    loaded, failures = {}, []
    for file in files:
        try:
            loaded[file] = load(file, overrides or [])
        except BadInput as error:
            failures.append(str(error))
    from fttune.cli.printing import print_plan, print_valid

    if not probe or failures:
        print_valid(loaded, as_json)
    if failures:
        raise BadInput("\n".join(failures))
    if probe:
        from fttune.app.probe import probe as run

        workspace = workspace_of(mlruns, plugins, cache_gb)
        for config in loaded.values():
            print_plan(run(config, workspace=workspace, say=lambda text: typer.echo(text, err=True)), as_json)
