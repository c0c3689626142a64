"""A study as a page: what lies in both stores, joined, drawn, written, and logged beside the study's run in MLflow.

The test split stays closed: what the page shows of it was written by a confirmation.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from fttune.app.confirm import stored_confirmation
from fttune.app.results import front_rows, rows_of
from fttune.app.search import ENVIRONMENT
from fttune.app.session import Display, Session, open_session
from fttune.app.studies import is_finished, run_tags, stored_study
from fttune.app.tested import FOLDER, read_tested
from fttune.config import Experiment, Study
from fttune.config.depth import DEPTH, resolved_depth
from fttune.config.distributions import Categorical
from fttune.config.dump import experiment_yaml
from fttune.config.known import backbones
from fttune.config.workspace import Workspace
from fttune.errors import BadInput, WorkFailed
from fttune.files import obstacle, write_atomically
from fttune.report.answer import Answer, recommended
from fttune.report.confirmation import Confirmation
from fttune.report.findings import Aim, Curve, Findings, Importance, Reproduction, Tested
from fttune.report.page import GENERATOR, Report, as_csv, as_html, as_markdown, report_of
from fttune.report.table import Setting, TrialRow
from fttune.searching.importance import importances
from fttune.tracking import reading

if TYPE_CHECKING:
    import optuna
    from mlflow.entities import Run

BEST_CURVES, OTHER_CURVES = 10, 50
PAGE = "index.html"


@dataclass(frozen=True)
class Written:
    """Where a report lies, and what it answers."""

    page: Path
    answer: Answer


def report(
    study: Study,
    *,
    out: Path | None = None,
    arguments: Sequence[str] = (),
    workspace: Workspace | None = None,
    display: Display | None = None,
) -> Written:
    """Write a study as it stands, finished or not, as a page with its Markdown, CSV and figures.

    Args:
        study: from `load_study`.
        out: the folder; default `mlruns/reports/<study>`. Files of an earlier report there are replaced.
        arguments: what follows `fttune search` to run this study, for the page; default its file under `studies/`.
        workspace: where `mlruns/` lies; default the current directory.
        display: is called with notices.

    Raises:
        BadInput: the study was never searched here, is another one now (StudyChanged), or `out` cannot be used.
        TrackingFailed: MLflow does not answer.
        WorkFailed: the disk is full.
    """
    workspace = workspace or Workspace.at()
    stored = stored_study(study, workspace)
    out = (out or workspace.mlruns / "reports" / stored.study_name).absolute()
    _require_place(out)
    with open_session(workspace, tracking_uri=study.tracking.uri, display=display) as session:
        own = _Own(study, stored, session, tuple(arguments or (f"studies/{study.name}.yaml",)))
        run = own.run()
        made = report_of(own.findings(run))
        files = _write(made, out)
        if run is None:
            session.notice(
                stored.study_name, "MLflow does not hold this study's run, so there are no curves in the page"
            )
        else:
            session.uploader.ask(partial(reading.attach, run=run, files=files))
    return Written(out / PAGE, made.answer)


@dataclass(frozen=True)
class _Own:
    study: Study
    stored: "optuna.Study"
    session: Session
    arguments: tuple[str, ...]

    def run(self) -> "Run | None":
        """Return the study's run in MLflow."""
        name, tags = self.study.experiment.name, run_tags(self.stored, self.stored.study_name)
        return self.session.uploader.ask(lambda store: store.find_run(name, tags))

    def findings(self, run: "Run | None") -> Findings:
        """Return the study as the report room knows it."""
        rows = tuple(replace(row, setting=_setting(self.study, row)) for row in self._rows())
        confirmation = stored_confirmation(self.stored)
        tags = run.data.tags if run else {}
        found = Findings(
            study=self.stored.study_name,
            metric=self.study.metric,
            direction=self.study.direction,
            is_finished=is_finished(self.stored),
            total_trials=self.study.total_trials,
            rows=rows,
            reproduction=self._reproduction(rows, confirmation, tags),
            depth_field=_depth_field(self.study),
            depths=_depths(rows),
            stages=_stages(self.study),
            val_images=self._folds * int(tags["fttune.data.val"]) if "fttune.data.val" in tags else None,
            folds=self._folds if self.study.evaluation else None,
            aims=tuple(Aim(one.name, one.direction) for one in self.study.metrics or ()),
            front=tuple(row.number for row in front_rows(self.stored)) if self.study.metrics else (),
            last=self._last(),
            confirmation=confirmation,
        )
        found = replace(found, importances=tuple(self._importances(found)))
        if run is None:
            return found
        return replace(found, curves=tuple(self._curves(rows)), tested=self._tested(run, confirmation))

    def _rows(self) -> list[TrialRow]:
        """Return the complete trials, best first by the metric alone, then the others."""
        rows = rows_of(self.stored)
        complete = [row for row in rows if row.state == "complete" and row.value is not None]
        sign = -1 if self.study.direction == "maximize" else 1
        ordered = sorted(complete, key=lambda row: sign * (row.value or 0.0))  # equal ones as they were
        return ordered + [row for row in rows if row not in complete]

    @property
    def _folds(self) -> int:
        return self.study.evaluation.folds if self.study.evaluation else 1

    def _curves(self, rows: Sequence[TrialRow]) -> list[Curve]:
        shown = {f"{self.stored.study_name}/{row.number}": row for row in _shown_curves(rows)}
        tags = {key: value for key, value in run_tags(self.stored, "").items() if key != "fttune.run"}
        ask = partial(reading.curves, experiment=self.study.experiment.name, keys=shown, tags=tags)
        metric = f"fold/{self.study.metric}" if self.study.evaluation else self.study.metric
        found = self.session.uploader.ask(partial(ask, metric=metric))
        return [
            Curve(shown[key].number, shown[key].state, tuple(e for e, _ in points), tuple(v for _, v in points))
            for key, points in found.items()
        ]

    def _tested(self, run: "Run", confirmation: Confirmation | None) -> Tested | None:
        if confirmation is None or not confirmation.opened:
            return None
        into = self.session.workspace.cache / "reports" / run.info.run_id
        folder = self.session.uploader.ask(partial(reading.artifacts, run=run, folder=FOLDER, into=into))
        return read_tested(folder, recommended(confirmation), confirmation.seeds) if folder else None

    def _importances(self, found: Findings) -> list[Importance]:
        """Return those of all trials, then of each depth with enough of them."""
        trials = self.stored.get_trials(deepcopy=False)
        groups = [(None, found.observed), *((depth, found.at_depth(depth)) for depth in found.depths)]
        made = []
        for depth, rows in groups:
            one = importances([trials[row.number] for row in rows], self.stored.directions[0])
            if one is not None:
                made.append(Importance(one.evaluator, depth, one.trials, one.best, one.shares))
            elif depth is None:
                return []
        return made

    def _reproduction(
        self, rows: Sequence[TrialRow], confirmation: Confirmation | None, tags: Mapping[str, str]
    ) -> Reproduction:
        said = shlex.join(self.arguments)
        commands = (f"fttune search {said}", f"fttune confirm {said}")
        environment = {**self.stored.user_attrs.get(ENVIRONMENT, {})}
        named = {"data": "fttune.data.fingerprint", "weights": "fttune.weights", "study": "fttune.fingerprint"}
        named |= {"git commit": "mlflow.source.git.commit"}
        environment |= {name: tags[tag] for name, tag in named.items() if tag in tags}
        complete = [row for row in rows if row.state == "complete"]
        if not complete:
            return Reproduction(*commands, export="", environment=environment)
        number = recommended(confirmation).trial if confirmation else complete[0].number
        row = next(row for row in rows if row.number == number)
        recipe = self.study.recipe(row.params).replace({"training.monitor": self.study.metric})
        export = f"fttune export {said} --as experiment --trial {number}"
        return Reproduction(*commands, export, number, experiment_yaml(recipe), environment)

    def _last(self) -> str | None:
        """Return when a trial began or ended last."""
        trials = self.stored.get_trials(deepcopy=False)
        times = [time for trial in trials for time in (trial.datetime_start, trial.datetime_complete) if time]
        return max(times).isoformat(" ", "minutes") if times else None


def _setting(study: Study, row: TrialRow) -> Setting:
    """Return what a trial trained with; nothing where its values make no recipe."""
    try:
        recipe = study.recipe(row.params)
    except ValidationError:
        return Setting()
    optimizer = recipe.optimizer
    lr, momentum = optimizer.learning_rate, optimizer.momentum
    return Setting(lr, momentum, lr / (1 - (momentum or 0.0)), _depth(study, recipe, row))


def _depth_field(study: Study) -> str | None:
    """Return the searched field that says what trains: the number of unfrozen stages, else a choice of policies."""
    if DEPTH in study.space:
        return DEPTH
    policies = ("freeze.preset", "freeze.train", "freeze.phases", "freeze.auto", "freeze")
    return next((name for name in policies if isinstance(study.space.get(name), Categorical)), None)


def _depth(study: Study, recipe: Experiment, row: TrialRow) -> str | None:
    field = _depth_field(study)
    if field is None or field not in row.params:
        return None
    stages = _stages(study)
    if field == DEPTH and stages is not None:
        return str(resolved_depth(recipe.freeze.unfrozen_stages, stages))
    return str(row.params[field])


def _depths(rows: Sequence[TrialRow]) -> tuple[str, ...]:
    """Return the depths that occur: numbers in their order, else in that of the trained parameters."""
    sizes: dict[str, list[int]] = {}
    for row in rows:
        if row.setting.depth is not None:
            sizes.setdefault(row.setting.depth, []).append(row.trainable_parameters or 0)
    if all(name.isdigit() for name in sizes):
        return tuple(sorted(sizes, key=int))
    return tuple(sorted(sizes, key=lambda name: (max(sizes[name]), name)))


def _stages(study: Study) -> int | None:
    entry = backbones().get(study.experiment.backbone.name)
    return len(entry.stages) if entry else None


def _shown_curves(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """Return the best trials and an even sample of the others, of those that trained."""
    trained = [row for row in rows if row.reused_from is None and row.state != "failed"]
    best, others = trained[:BEST_CURVES], sorted(trained[BEST_CURVES:], key=lambda row: row.number)
    step = max(1, -(-len(others) // OTHER_CURVES))
    return best + others[::step]


def _write(made: Report, out: Path) -> dict[Path, str]:
    """Write a report's files; return the folder of each among the run's artifacts."""
    texts = {PAGE: as_html(made), "report.md": as_markdown(made), "trials.csv": as_csv(made)}
    texts |= {f"figures/{figure.name}.svg": figure.svg for figure in made.figures}
    files = {out / name: str(Path("report", name).parent) for name in texts}
    try:
        for file, text in zip(files, texts.values(), strict=True):
            write_atomically(file, partial(_fill, text))
    except OSError as error:
        raise WorkFailed(f"{out}: the report cannot be written: {error}; free room, or name another --out") from error
    return files


def _require_place(out: Path) -> None:
    """Refuse a folder that cannot be written, or holds another page than a report. Raises BadInput."""
    if nearest := obstacle(out):
        raise BadInput(f"--out: {out} cannot be written, since {nearest} is no folder that can; name another one")
    page = out / PAGE
    if page.exists() and GENERATOR not in page.read_text(encoding="utf-8", errors="replace"):
        raise BadInput(f"--out: {page} is there already, and no report of fttune; name another folder")


def _fill(text: str, file: Path) -> None:
    file.write_text(text, encoding="utf-8")
