"""The command that runs every study of a folder, night after night."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fttune.cli.app import app
from fttune.cli.options import CacheGb, Json, Mlruns, Plugins, workspace_of

if TYPE_CHECKING:
    from datetime import date

    from fttune.cli.supervisor import Watch
    from fttune.config.workspace import Workspace

Kind = Literal["cron", "systemd", "github", "slurm", "kubernetes"]
Hours = Annotated[float, typer.Option("--budget-hours", help="Of the whole night.", min=0.01, max=168)]
OnFinish = Annotated[
    str | None, typer.Option("--on-finish", metavar="COMMAND", help="Gets the night as JSON on its standard input.")
]
Unit = Annotated[
    Kind | None, typer.Option("--print", help="Print a unit that runs this every night, and do nothing else.")
]
Of = Annotated[str | None, typer.Option("--study", metavar="NAME", help="Run the part of one study alone.")]
Night = Annotated[
    str | None, typer.Option("--night", metavar="DATE", help="With --study: of which night; default: tonight.")
]


@app.command()
def nightly(
    folder: Annotated[Path, typer.Argument(metavar="STUDIES_FOLDER", help="Every *.yaml below it is a study.")],
    hours: Hours = 8.0,
    plan: Annotated[bool, typer.Option("--plan", help="Print who runs, in which order and for how long.")] = False,
    study: Of = None,
    night: Night = None,
    unit: Unit = None,
    on_finish: OnFinish = None,
    plugins: Plugins = None,
    mlruns: Mlruns = None,
    cache_gb: CacheGb = None,
    as_json: Json = False,
) -> None:
    """Run every study of a folder within a budget of hours, and find out whether anything got better."""
    from fttune.errors import BadInput

    if night is not None and study is None:
        raise BadInput("--night: belongs to --study, which runs the part of one study; leave it out")
    options = _options(folder, plugins, mlruns, cache_gb)
    if unit is not None:
        _print_unit(unit, [*options, "--budget-hours", f"{hours:g}"], on_finish)
        return
    if study is not None:
        from fttune.cli.supervisor import supervised

        with supervised() as watch:
            _run_part(folder, study, night, workspace_of(mlruns, plugins, cache_gb), watch, as_json)
        return
    workspace = workspace_of(mlruns, plugins, cache_gb)
    if plan:
        _print_plan(folder, hours, workspace, as_json)
    else:
        _run_night(folder, hours, options, workspace, on_finish, as_json)


def _options(folder: Path, plugins: list[Path] | None, mlruns: Path | None, cache_gb: float | None) -> list[str]:
    """Return the words that name a folder and its options, for another process."""
    options = [str(folder)]
    for plugin in plugins or ():
        options += ["--plugin", str(plugin)]
    options += ["--mlruns", str(mlruns)] if mlruns else []
    return options + (["--cache-gb", f"{cache_gb:g}"] if cache_gb is not None else [])


def _print_unit(kind: Kind, options: list[str], on_finish: str | None) -> None:
    from fttune.nightly.units import unit_text

    typer.echo(unit_text(kind, [*options, *(["--on-finish", on_finish] if on_finish else [])], Path.cwd()), nl=False)


def _print_plan(folder: Path, hours: float, workspace: "Workspace", as_json: bool) -> None:
    from datetime import datetime

    from fttune.errors import BadInput
    from fttune.nightly.night import planned
    from fttune.nightly.standing import Folder

    found = Folder.of(folder)
    made = planned(found, hours, workspace=workspace, now=datetime.now())
    typer.echo(made.as_json() if as_json else made.as_text())
    if found.problems:
        raise BadInput("\n".join(found.problems.values()))


def _run_part(
    folder: Path, name: str, night: str | None, workspace: "Workspace", watch: "Watch", as_json: bool
) -> None:
    """Run a study's part in this process. Raises WorkFailed when it failed, or raised an alarm."""
    import dataclasses
    import json
    from datetime import datetime

    from fttune.display import display
    from fttune.errors import WorkFailed
    from fttune.nightly.part import run_part
    from fttune.nightly.records import Records
    from fttune.nightly.standing import Folder

    study = Folder.of(folder).study(name)
    of = Records.of(workspace).begin(datetime.now()) if night is None else _date(night)
    with display() as show:
        found = run_part(study, of, workspace=workspace, display=show, watch=watch)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(found)))
    if not found.is_well:
        raise WorkFailed(f"study {name}: {found.cause or found.alarm}")


def _date(text: str) -> "date":
    from datetime import date

    from fttune.errors import BadInput

    try:
        return date.fromisoformat(text)
    except ValueError:
        raise BadInput(f"--night: must be a date such as 2026-11-27, got {text!r}") from None


def _run_night(
    folder: Path, hours: float, options: list[str], workspace: "Workspace", on_finish: str | None, as_json: bool
) -> None:
    """Run a night. Raises WorkFailed when something failed, or an alarm was raised."""
    from datetime import datetime

    from fttune.errors import WorkFailed
    from fttune.nightly.night import planned, run_night
    from fttune.nightly.process import ProcessRunner
    from fttune.nightly.standing import Folder

    found = Folder.of(folder)
    typer.echo(planned(found, hours, workspace=workspace, now=datetime.now()).as_text(), err=True)
    written = run_night(found, hours, ProcessRunner(options), workspace=workspace, on_finish=on_finish)
    typer.echo(written.night.as_json() if as_json else f"{written.night.as_text()}\n{written.page}")
    if not written.night.is_well:
        raise WorkFailed(f"something failed or an alarm was raised in the night of {written.night.night}; see the page")
