"""The command line. Imports typer and pathlib alone, so that `fttune --help` answers at once."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import optuna

    from fttune.app.lr_range import FoundRange
    from fttune.config import Experiment, Study
    from fttune.config.known import KnownBackbone
    from fttune.config.workspace import Workspace
    from fttune.training import FineTuneResult

app = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Which layers should be frozen, and what should learning rate and momentum be?",
)

Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Another value for a dotted field; repeatable.")
]
Mlruns = Annotated[
    Path | None, typer.Option("--mlruns", envvar="FTTUNE_MLRUNS", help="The generated folder; default: mlruns.")
]
CacheGb = Annotated[
    float | None,
    typer.Option(
        "--cache-gb",
        envvar="FTTUNE_CACHE_GB",
        metavar="GB",
        help="Room for decoded images and what else is computed once; default: half of the disk's free space.",
    ),
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", metavar="FILE.py", help="Run a file that defines backbones; repeatable."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


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


@app.command()
def validate(files: Annotated[list[Path], typer.Argument(metavar="FILE...")]) -> None:
    """Check experiments and studies, every problem at once. Reads no data and needs no network."""
    from fttune.config import Study, load
    from fttune.errors import BadInput

    failures = []
    for file in files:
        try:
            loaded = load(file)
        except BadInput as error:
            failures.append(str(error))
            continue
        kind = f"study, {loaded.total_trials} trials" if isinstance(loaded, Study) else "experiment"
        typer.echo(f"{file}: ok ({kind})")
    if failures:
        raise BadInput("\n".join(failures))


@app.command()
def train(
    file: Path,
    overrides: Set = None,
    plugins: Plugins = None,
    mlruns: Mlruns = None,
    cache_gb: CacheGb = None,
    as_json: Json = False,
) -> None:
    """Train one experiment and track it in MLflow."""
    from fttune.config import load_experiment

    experiment = load_experiment(file, overrides or [])
    from fttune.app.train import train as run
    from fttune.display import display

    with display() as show:
        result = run(experiment, workspace=_workspace(mlruns, plugins, cache_gb), display=show)
    _print_training(experiment, result, as_json)


@app.command()
def search(
    file: Path,
    overrides: Set = None,
    new: Annotated[bool, typer.Option("--new", help="Begin a fresh generation beside the stored study.")] = False,
    plugins: Plugins = None,
    mlruns: Mlruns = None,
    cache_gb: CacheGb = None,
    as_json: Json = False,
) -> None:
    """Run a study to its budget; the same command continues an interrupted one."""
    from fttune.config import load_study

    study = load_study(file, overrides or [])
    from fttune.app.search import search as run
    from fttune.display import display

    with display() as show:
        stored = run(study, workspace=_workspace(mlruns, plugins, cache_gb), new=new, display=show)
    _print_study(study, stored, as_json)


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
            typer.echo(_model_text(name, entry))
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

    sweep, workspace = Sweep(low, high, steps), _workspace(mlruns)
    with display() as show:
        found = find_lr_range(experiment, sweep, workspace=workspace, out=out, say=say, display=show)
    _print_lr_range(experiment, found, as_json)


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.", min=1, max=65535)] = 5000, mlruns: Mlruns = None
) -> None:
    """Open MLflow's own UI on this folder's runs; Ctrl-C ends it."""
    import os
    import sys

    from fttune.errors import BadInput

    workspace = _workspace(mlruns)
    if not (workspace.mlruns / "mlflow.db").is_file():
        raise BadInput(f"{workspace.mlruns}: holds no runs yet; run `fttune search studies/<name>.yaml` first")
    typer.echo(f"MLflow on http://127.0.0.1:{port}", err=True)
    store = ["--backend-store-uri", workspace.mlflow_uri, "--default-artifact-root", workspace.artifacts.as_uri()]
    command = [sys.executable, "-m", "mlflow", "server", *store, "--host", "127.0.0.1", "--port", str(port)]
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.execv(sys.executable, command)


def main() -> None:
    """Run the command line: errors as one message, exit 0 ok, 1 failed, 2 bad input, 130 Ctrl-C, 143 SIGTERM."""
    import os
    import sys
    import traceback

    from fttune.errors import FttuneError, Interrupted

    _install_signal_handlers()
    try:
        app()
    except FttuneError as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        typer.echo(str(error), err=True)
        sys.exit(error.exit_code)
    except Interrupted as interruption:
        typer.echo("interrupted; run the same command again", err=True)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(interruption.exit_code)  # sys.exit would wait for a tracking server that does not answer


def _install_signal_handlers() -> None:
    """Let the first SIGINT or SIGTERM end the work in order, and the second one at once."""
    import os
    import signal

    from fttune.errors import Interrupted

    received: list[int] = []

    def interrupt(signum: int, _frame: object) -> None:
        if received:
            os._exit(128 + signum)
        received.append(signum)
        raise Interrupted(signum)

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)


def _workspace(mlruns: Path | None, plugins: list[Path] | None = None, cache_gb: float | None = None) -> "Workspace":
    from fttune.config.workspace import Workspace

    workspace = Workspace.at(mlruns=mlruns, plugins=plugins or (), cache_gb=cache_gb)
    workspace.require_writable()
    return workspace


def _model_text(name: str, entry: "KnownBackbone") -> str:
    sizes = zip(entry.stages, entry.stage_parameters, strict=True)
    stages = ", ".join(f"{stage} {count:,}" for stage, count in sizes)
    weights = ", ".join(entry.weights) or "none"
    return f"{name}: {entry.parameters:,} parameters; weights: {weights}\n  {len(entry.stages)} stages: {stages}"


def _print_training(experiment: "Experiment", result: "FineTuneResult", as_json: bool) -> None:
    import json

    best = result.epochs[result.best_epoch - 1]
    if as_json:
        epochs = [{"epoch": ended.epoch, **ended.metrics} for ended in result.epochs]
        facts = {"trainable_parameters": result.trainable_parameters, "parameters": result.parameters}
        found = {"experiment": experiment.name, "best_epoch": result.best_epoch, "value": result.value, **facts}
        typer.echo(json.dumps({**found, "epochs": epochs, "step_losses": result.step_losses}))
        return
    typer.echo(f"{experiment.name}: best epoch {result.best_epoch} of {len(result.epochs)}")
    for name, value in best.metrics.items():
        typer.echo(f"  {name:24s} {value:.4g}")


def _print_lr_range(experiment: "Experiment", found: "FoundRange", as_json: bool) -> None:
    import dataclasses
    import json

    from fttune.app.lr_range import yaml_line
    from fttune.errors import WorkFailed

    if as_json:
        test, proposed = found.test, found.proposed and dataclasses.asdict(found.proposed)
        curve = zip(test.rates, test.losses, test.smoothed, strict=True)
        points = [{"lr": lr, "loss": loss, "smoothed": smoothed} for lr, loss, smoothed in curve]
        facts = {"experiment": experiment.name, "proposed": proposed, "ended": test.ended, "figure": str(found.figure)}
        typer.echo(json.dumps({**facts, "curve": points}))
    else:
        typer.echo(f"{experiment.name}: {found.test.ended}\n{found.chart}\nfigure: {found.figure}")
    if found.proposed is None:
        raise WorkFailed(f"{experiment.name}: the loss never fell, so no range is proposed; try other --low and --high")
    if not as_json:
        typer.echo(f"for the space of a study:\n  {yaml_line(found.proposed)}")


def _print_study(study: "Study", stored: "optuna.Study", as_json: bool) -> None:
    import json
    from collections import Counter

    from fttune.app.results import rows_of
    from fttune.app.search import comparison_path
    from fttune.report import as_records, as_text, distinct_recipes, summary, table

    rows = rows_of(stored)
    states = Counter(row.state for row in rows)
    path = comparison_path(stored)
    if as_json:
        counts = {"states": states, "distinct_recipes": distinct_recipes(rows)}
        found = {"study": stored.study_name, "metric": study.metric, **counts, "compare": path}
        typer.echo(json.dumps({**found, "trials": as_records(table(rows))}))
        return
    typer.echo(f"study {stored.study_name}: {summary(rows)}")
    complete = [row for row in rows if row.state == "complete"]
    if not complete:
        typer.echo("no trial is complete; the lines above and the tag fttune.cause in MLflow say why")
        return
    typer.echo(f"best five by {study.metric}:\n{as_text(table(complete[:5]))}")
    if path:
        typer.echo(f"compare them in MLflow: run `fttune ui`, then open http://127.0.0.1:5000{path}")
