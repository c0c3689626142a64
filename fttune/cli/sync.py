"""The command that delivers what MLflow does not have yet."""

import typer

from fttune.cli.app import app
from fttune.cli.options import Json, Mlruns, workspace_of


@app.command()
def sync(mlruns: Mlruns = None, as_json: Json = False) -> None:
    """Deliver to MLflow what earlier commands logged while it did not answer, or left when they were killed."""
    import dataclasses
    import json

    from fttune.app.sync import sync as run
    from fttune.display import display
    from fttune.errors import TrackingFailed

    with display() as show:
        synced = run(workspace_of(mlruns), display=show)
    lines = [dataclasses.asdict(line) for line in synced]
    if as_json:
        typer.echo(json.dumps(lines))
    elif not lines:
        typer.echo("nothing waits to be delivered")
    else:
        import pandas as pd

        from fttune.report import as_text

        frame = pd.DataFrame.from_records(lines)
        typer.echo(as_text(frame if frame["problem"].notna().any() else frame.drop(columns="problem")))
    if left := sum(line.left for line in synced):
        raise TrackingFailed(f"{left} events are left; run `fttune sync` again once MLflow answers")
