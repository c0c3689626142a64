"""What commands print: text for people, JSON for scripts."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    import optuna

    from fttune.app.init import Begun
    from fttune.app.lr_range import FoundRange
    from fttune.config import Experiment, Study
    from fttune.config.known import KnownBackbone
    from fttune.report.plan import Plan
    from fttune.training import FineTuneResult


def model_text(name: str, entry: "KnownBackbone") -> str:
    sizes = zip(entry.stages, entry.stage_parameters, strict=True)
    stages = ", ".join(f"{stage} {count:,}" for stage, count in sizes)
    weights = ", ".join(entry.weights) or "none"
    return f"{name}: {entry.parameters:,} parameters; weights: {weights}\n  {len(entry.stages)} stages: {stages}"


def print_training(name: str, result: "FineTuneResult", as_json: bool) -> None:
    import json

    best = result.epochs[result.best_epoch - 1]
    if as_json:
        epochs = [{"epoch": ended.epoch, **ended.metrics} for ended in result.epochs]
        facts = {"trainable_parameters": result.trainable_parameters, "parameters": result.parameters}
        found = {"experiment": name, "best_epoch": result.best_epoch, "value": result.value, **facts}
        typer.echo(json.dumps({**found, "epochs": epochs, "step_losses": result.step_losses}))
        return
    typer.echo(f"{name}: best epoch {result.best_epoch} of {len(result.epochs)}")
    for metric, value in best.metrics.items():
        typer.echo(f"  {metric:24s} {value:.4g}")


def print_lr_range(experiment: "Experiment", found: "FoundRange", as_json: bool) -> None:
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


def print_study(study: "Study", stored: "optuna.Study", as_json: bool) -> None:
    import json
    from collections import Counter

    from fttune.app.results import front_rows, rows_of
    from fttune.app.search import comparison_path
    from fttune.report import as_records, as_text, distinct_recipes, summary, table

    rows, front = rows_of(stored), front_rows(stored)
    names = [objective.name for objective in study.objectives]
    states = Counter(row.state for row in rows)
    path = comparison_path(stored)
    if as_json:
        counts = {"states": states, "distinct_recipes": distinct_recipes(rows)}
        found = {"study": stored.study_name, "metric": study.metric, **counts, "compare": path}
        trials = [
            {**record, "values": dict(zip(names, row.values, strict=False))}
            for record, row in zip(as_records(table(rows)), rows, strict=True)
        ]
        typer.echo(json.dumps({**found, "front": [row.number for row in front], "trials": trials}))
        return
    typer.echo(f"study {stored.study_name}: {summary(rows)}")
    if not front:
        typer.echo("no trial is complete; the lines above and the tag fttune.cause in MLflow say why")
        return
    if len(names) > 1:
        on_front = "1 trial is" if len(front) == 1 else f"{len(front)} trials are"
        wanted = " and ".join(f"{objective.name} ({objective.direction})" for objective in study.objectives)
        typer.echo(f"{on_front} on the front of {wanted}:\n{as_text(table(front, objectives=names))}")
    else:
        complete = [row for row in rows if row.state == "complete"]
        typer.echo(f"best five by {study.metric}:\n{as_text(table(complete[:5]))}")
    if path:
        typer.echo(f"compare them in MLflow: run `fttune ui`, then open http://127.0.0.1:5000{path}")


def print_begun(found: "Begun", as_json: bool) -> None:
    import json

    from fttune.report.survey import survey_record, survey_text

    chosen, files = found.chosen, {"experiment": str(found.experiment), "study": str(found.study)}
    if as_json:
        facts = {"train": chosen.train, "val": chosen.val, "backbone": chosen.backbone.value}
        typer.echo(json.dumps({**files, **facts, **survey_record(found.survey, chosen.imbalance)}))
        return
    typer.echo(survey_text(found.survey, chosen.imbalance))
    typer.echo(f"\nwritten: {found.experiment}\nwritten: {found.study}")
    typer.echo(
        f"next: fttune validate studies/{chosen.name}.yaml --probe\n      fttune search studies/{chosen.name}.yaml"
    )


def print_valid(files: "Mapping[Path, Experiment | Study]", as_json: bool) -> None:
    import json

    from fttune.config import Study

    trials = {file: one.total_trials if isinstance(one, Study) else None for file, one in files.items()}
    if as_json:
        kinds = ["experiment" if count is None else "study" for count in trials.values()]
        lines = zip(trials.items(), kinds, strict=True)
        typer.echo(json.dumps([{"file": str(file), "kind": kind, "trials": count} for (file, count), kind in lines]))
        return
    for file, count in trials.items():
        typer.echo(f"{file}: ok ({'experiment' if count is None else f'study, {count} trials'})")


def print_plan(plan: "Plan", as_json: bool) -> None:
    typer.echo(plan.as_json() if as_json else plan.as_text())
