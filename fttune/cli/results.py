"""The commands that use what was found: list, confirm, report, compare, export, predict."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from fttune.cli.app import app
from fttune.cli.options import CacheGb, Json, Mlruns, Plugins, Set, workspace_of

Kind = Literal["experiment", "safetensors", "pt2", "onnx", "mlflow"]
Format = Literal["table", "csv", "json"]


@app.command("list")
def list_(mlruns: Mlruns = None, as_json: Json = False) -> None:
    """List the studies of this folder: their state, their trials, the best value."""
    import dataclasses
    import json

    workspace = workspace_of(mlruns)
    from fttune.app.studies import list_studies

    lines = [dataclasses.asdict(line) for line in list_studies(workspace)]
    if as_json:
        typer.echo(json.dumps(lines))
    elif not lines:
        typer.echo(f"{workspace.mlruns}: holds no study yet; run `fttune search studies/<name>.yaml` first")
    else:
        import pandas as pd

        from fttune.report import as_text

        typer.echo(as_text(pd.DataFrame.from_records(lines).astype({"best_trial": "Int64"})))


@app.command()
def confirm(
    file: Annotated[Path, typer.Argument(metavar="STUDY", help="The study's YAML file.")],
    overrides: Set = None,
    plugins: Plugins = None,
    mlruns: Mlruns = None,
    cache_gb: CacheGb = None,
    as_json: Json = False,
) -> None:
    """Train the best trials and the baselines with fresh seeds, name the winner, then open the test split."""
    from fttune.config import load_study

    study = load_study(file, overrides or [])
    from fttune.app.confirm import confirm as run
    from fttune.display import display

    with display() as show:
        found = run(study, workspace=workspace_of(mlruns, plugins, cache_gb), display=show)
    typer.echo(found.as_json() if as_json else found.as_text())


@app.command()
def report(
    file: Annotated[Path, typer.Argument(metavar="STUDY", help="The study's YAML file.")],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Default: mlruns/reports/STUDY.")] = None,
    overrides: Set = None,
    plugins: Plugins = None,
    mlruns: Mlruns = None,
    as_json: Json = False,
) -> None:
    """Write a study as one HTML page, with Markdown, CSV and figures; the test split stays closed."""
    import json

    from fttune.config import load_study

    study = load_study(file, overrides or [])
    from fttune.app.report import report as run
    from fttune.display import display

    arguments = [str(file)]
    named = (("--set", overrides), ("--plugin", plugins), ("--mlruns", [mlruns] if mlruns else None))
    arguments += [word for option, values in named for value in values or () for word in (option, str(value))]
    with display() as show:
        written = run(study, out=out, arguments=arguments, workspace=workspace_of(mlruns, plugins), display=show)
    facts = {**written.answer.facts(), "page": str(written.page)}
    typer.echo(json.dumps(facts) if as_json else written.page)


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="STUDY_A", help="A study's YAML file, an experiment's, or a run id.")],
    second: Annotated[str, typer.Argument(metavar="STUDY_B", help="Likewise.")],
    overrides: Set = None,
    mlruns: Mlruns = None,
    as_json: Json = False,
) -> None:
    """Compare two studies by their winners, or runs by their validation metric; the test split stays closed."""
    import re

    from fttune.config import load

    named = [one if re.fullmatch("[0-9a-f]{32}", one) else load(one, overrides or []) for one in (first, second)]
    from fttune.app.compare import compare as run

    found = run(named[0], named[1], workspace=workspace_of(mlruns))
    typer.echo(found.as_json() if as_json else found.as_text())


@app.command()
def export(
    file: Annotated[Path, typer.Argument(metavar="STUDY", help="The study's YAML file.")],
    kind: Annotated[Kind, typer.Option("--as", help="The recipe, its weights, or the model.")],
    trial: Annotated[int | None, typer.Option(help="The number of a complete trial; default: the best one.")] = None,
    final: Annotated[bool, typer.Option("--final", help="The model of `fttune train --final` in its place.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Default: STUDY-TRIAL with a suffix.")] = None,
    overrides: Set = None,
    plugins: Plugins = None,
    mlruns: Mlruns = None,
) -> None:
    """Write a trial of a study as a recipe, as weights, or as a model that needs no fttune."""
    from fttune.config import load_study

    study = load_study(file, overrides or [])
    from fttune.app.export import export as run

    typer.echo(run(study, kind, trial=trial, final=final, out=out, workspace=workspace_of(mlruns, plugins)))


@app.command()
def predict(
    checkpoint: Annotated[Path, typer.Argument(metavar="MODEL", help="best.safetensors, its JSON beside it.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Image files, and folders of them.")],
    plugins: Plugins = None,
    form: Annotated[Format, typer.Option("--format", help="How to print.")] = "table",
) -> None:
    """Print the likeliest class of each image and its probability."""
    import dataclasses
    import json

    import pandas as pd

    from fttune.app.predict import predict as run
    from fttune.errors import WorkFailed
    from fttune.report import as_records, as_text

    found = list(run(checkpoint, images, plugins=plugins or ()))
    records = [{**dataclasses.asdict(one), "file": str(one.file)} for one in found]
    frame = pd.DataFrame.from_records(records)
    if form == "json":
        typer.echo(json.dumps(as_records(frame)))
    elif form == "csv":
        typer.echo(frame.to_csv(index=False), nl=False)
    else:
        typer.echo(as_text(frame if frame["problem"].any() else frame.drop(columns="problem")))
    if unreadable := [str(one.file) for one in found if one.problem]:
        raise WorkFailed(f"{len(unreadable)} of {len(found)} images cannot be read: {', '.join(unreadable[:3])}")
