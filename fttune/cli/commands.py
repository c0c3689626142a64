"""The commands that work: train, search, models, lr, ui."""

from pathlib import Path
from typing import Annotated

import typer

from fttune.cli.app import app
from fttune.cli.options import CacheGb, Json, Mlruns, Plugins, Set, workspace_of
from fttune.cli.printing import model_text, print_lr_range, print_study, print_training


@app.command()
def train(
    file: Path,
    final: Annotated[
        bool, typer.Option("--final", help="FILE is a study: train its winner's recipe on train and val together.")
    ] = False,
    trial: Annotated[int | None, typer.Option(help="With --final: the number of another trial.")] = None,
    overrides: Set = None,
    plugins: Plugins = None,
    mlruns: Mlruns = None,
    cache_gb: CacheGb = None,
    as_json: Json = False,
) -> None:
    """Train one experiment and track it in MLflow; with --final, the winner of a study."""
    from fttune.config import Study, load, load_experiment
    from fttune.errors import BadInput

    if trial is not None and not final:
        raise BadInput("--trial: belongs to --final, which trains a trial of a study; leave it out")
    given = load(file, overrides or []) if final else load_experiment(file, overrides or [])
    if final and not isinstance(given, Study):
        raise BadInput(
            f"{file}: is an experiment, but --final trains the winner of a study; name the study's YAML file"
        )
    from fttune.app.final import train_final
    from fttune.app.train import train as run
    from fttune.display import display

    with display() as show:
        workspace = workspace_of(mlruns, plugins, cache_gb)
        if isinstance(given, Study):
            result = train_final(given, trial=trial, workspace=workspace, display=show)
        else:
            result = run(given, workspace=workspace, display=show)
    print_training(given.name, result, as_json)


@app.command()
def search(
    file: Path,
    overrides: Set = None,
    new: Annotated[bool, typer.Option("--new", help="Begin a fresh generation beside the stored study.")] = False,
    workers: Annotated[
        str | None,
        typer.Option(
            metavar="N|auto|ray|HOST:PORT",
            help="Processes that train; auto: one for each GPU; ray: a Ray cluster's, here or that of HOST:PORT.",
        ),
    ] = None,
    plugins: Plugins = None,
    mlruns: Mlruns = None,
    cache_gb: CacheGb = None,
    as_json: Json = False,
) -> None:
    """Run a study to its budget; the same command continues an interrupted one."""
    from fttune.cli.supervisor import supervised

    with supervised() as watch:
        from fttune.config import load_study

        study = load_study(file, [*(overrides or []), *([f"workers={workers}"] if workers else [])])
        from fttune.app.search import search as run
        from fttune.display import display

        with display() as show:
            workspace = workspace_of(mlruns, plugins, cache_gb)
            stored = run(study, workspace=workspace, new=new, display=show, watch=watch)
        print_study(study, stored, as_json)


@app.command()
def models(
    pattern: Annotated[str, typer.Argument(metavar="[PATTERN]", help="A shell pattern, or a part of the name.")] = "*",
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """List backbones with their stages, parameters and weights; timm's when PATTERN begins with timm:."""
    import json

    from fttune.app.backbones import list_backbones

    found = list_backbones(pattern, plugins=plugins or ())
    if not as_json:
        for name, entry in found.items():
            typer.echo(model_text(name, entry))
        return
    listed = [
        {
            "name": name,
            "stages": [{"name": s, "parameters": n} for s, n in zip(entry.stages, entry.stage_parameters, strict=True)],
            "parameters": entry.parameters,
            "weights": entry.weights,
        }
        for name, entry in found.items()
    ]
    typer.echo(json.dumps(listed))


@app.command()
def lr(
    file: Annotated[Path, typer.Argument(metavar="EXPERIMENT")],
    low: Annotated[float, typer.Option(help="The first lr.")] = 1e-6,
    high: Annotated[float, typer.Option(help="The last lr.")] = 1.0,
    steps: Annotated[int, typer.Option(help="Batches from the first lr to the last.")] = 100,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="The figure; default: mlruns/lr/NAME.png.")
    ] = None,
    overrides: Set = None,
    mlruns: Mlruns = None,
    as_json: Json = False,
) -> None:
    """Train a few batches at rising learning rates, draw the loss, and propose a range to search."""
    from fttune.config import load_experiment

    experiment = load_experiment(file, overrides or [])
    from fttune.app.lr_range import Sweep, find_lr_range
    from fttune.display import display

    def say(text: str) -> None:
        typer.echo(f"{experiment.name}: {text}", err=True)

    sweep, workspace = Sweep(low, high, steps), workspace_of(mlruns)
    with display() as show:
        found = find_lr_range(experiment, sweep, workspace=workspace, out=out, say=say, display=show)
    print_lr_range(experiment, found, as_json)


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.", min=1, max=65535)] = 5000, mlruns: Mlruns = None
) -> None:
    """Open MLflow's own UI on this folder's runs; Ctrl-C ends it."""
    import os

    from fttune.app.ui import HOST, server_command, server_environment
    from fttune.errors import BadInput

    workspace = workspace_of(mlruns)
    if not (workspace.mlruns / "mlflow.db").is_file():
        raise BadInput(f"{workspace.mlruns}: holds no runs yet; run `fttune search studies/<name>.yaml` first")
    typer.echo(f"MLflow on http://{HOST}:{port}", err=True)
    command = server_command(workspace, port)
    os.execve(command[0], command, server_environment(os.environ))
