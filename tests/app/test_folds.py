"""Cross-validated studies: what a trial's value is, what is logged and reported, and that a restart changes nothing."""

from pathlib import Path
from typing import Any

import mlflow
import optuna
import pandas as pd
import pytest

import fttune
from fttune.app.report import report
from fttune.config import Study, load_study
from fttune.config.data import CrossValidation
from fttune.config.workspace import Workspace
from fttune.errors import BadInput, Interrupted, StudyChanged
from fttune.training import fine_tune, prepare
from fttune.training.events import EpochEnded
from tests.recipes import tiny_study, write_experiment, write_study
from tests.stored import history_of, runs_of

FOLDS = 3


def cross_validated(root: Path, **fields: Any) -> Study:
    return tiny_study(root, **{"evaluation": {"folds": FOLDS}, "budget__n_trials": 3, "batch": 3, **fields})


def by_hand(study: Study, workspace: Workspace, values: dict[str, Any], *, seed: int = 0) -> list[float]:
    """The values of a recipe in each fold, every one trained by itself."""
    recipe = study.experiment.replace({**values, "seed": seed})
    inputs = prepare(recipe, workspace, evaluation=study.evaluation)
    results = [fine_tune(recipe, inputs.of_fold(f).plain(), monitor=study.metric) for f in range(FOLDS)]
    return [result.value for result in results if result.value is not None]


def test_a_trials_value_is_the_mean_over_its_folds(tmp_path: Path, workspace: Workspace) -> None:
    study = cross_validated(
        tmp_path,
        space={
            "optimizer.lr": {"type": "float", "low": 1e-3, "high": 0.1, "log": True},
            "freeze.unfrozen_stages": {"type": "int", "low": 0, "high": 1},
        },
    )
    stored = fttune.search(study, workspace=workspace)
    frame = runs_of(workspace.mlflow_uri).set_index("tags.fttune.trial")
    assert {trial.params["freeze.unfrozen_stages"] for trial in stored.trials} == {0, 1}, "cohorts, and trials alone"
    for trial in stored.trials:
        values = by_hand(study, workspace, study.values(trial.params))
        assert trial.value == pytest.approx(sum(values) / FOLDS, abs=1e-6)
        run = frame.loc[str(trial.number)]
        assert run["metrics.value"] == trial.value
        found = history_of(workspace.mlflow_uri, run["run_id"], "fold/val/accuracy")
        assert [point.step for point in found] == [1, 2, 3]
        assert [point.value for point in found] == pytest.approx(values, abs=1e-6)
        assert {f"metrics.fold-{fold}/val/loss" for fold in (1, 2, 3)} <= set(frame.columns)


def test_what_validates_where_is_kept_with_the_study(tmp_path: Path, workspace: Workspace) -> None:
    study = cross_validated(tmp_path, budget__n_trials=1)
    fttune.search(study, workspace=workspace)
    frame = runs_of(workspace.mlflow_uri)
    parent = frame[frame["tags.fttune.kind"] == "study"]["run_id"].item()
    client = mlflow.MlflowClient(workspace.mlflow_uri)
    table = pd.read_csv(client.download_artifacts(parent, "data/folds.csv", str(tmp_path)))
    data = prepare(study.experiment, workspace, evaluation=study.evaluation).folds.data
    for fold, part in enumerate((one.val for one in data), start=1):
        assert table[table["repeat 1"] == fold]["sample"].tolist() == [part.names[index] for index in part.samples]


def test_other_folds_are_another_study(tmp_path: Path, workspace: Workspace) -> None:
    fttune.search(cross_validated(tmp_path, budget__n_trials=1), workspace=workspace)
    with pytest.raises(StudyChanged, match=r"evaluation.folds: 3 -> 4"):
        fttune.search(cross_validated(tmp_path, evaluation={"folds": 4}), workspace=workspace)


def test_a_pruner_is_told_folds_alone_and_by_default_it_is_wilcoxons(tmp_path: Path, workspace: Workspace) -> None:
    fields: dict[str, Any] = {"evaluation": {"folds": 6}, "budget__n_trials": 6, "batch": 2, "metric": "val/loss"}
    space = {"optimizer.lr": {"type": "float", "low": 1e-6, "high": 0.1, "log": True}}
    study = tiny_study(tmp_path, direction="minimize", space=space, pruner={"type": "wilcoxon"}, **fields)
    assert CrossValidation.model_validate(fields["evaluation"]) == study.evaluation
    stored = fttune.search(study, workspace=workspace)
    states = [trial.state.name for trial in stored.trials]
    assert "PRUNED" in states
    assert all(set(trial.intermediate_values) <= set(range(1, 6)) for trial in stored.trials)
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        pruner = optuna.pruners.WilcoxonPruner(p_threshold=0.1, n_startup_steps=2)
    again = optuna.create_study(direction="minimize", pruner=pruner)
    for trial in stored.trials:
        replayed, decided = again.ask(), []
        for step, value in trial.intermediate_values.items():
            replayed.report(value, step)
            decided.append(replayed.should_prune())
        assert decided[:-1] == [False] * (len(decided) - 1)
        assert decided[-1] == (trial.state.name == "PRUNED")
        if decided[-1]:
            again.tell(replayed, state=optuna.trial.TrialState.PRUNED)
        else:
            again.tell(replayed, trial.value)


def test_folds_of_several_objectives_are_pruned_as_those_of_the_first_alone(
    tmp_path: Path, workspace: Workspace
) -> None:
    fields: dict[str, Any] = {"evaluation": {"folds": 6}, "budget__n_trials": 5, "batch": 1}
    fields |= {"pruner": {"type": "wilcoxon", "p_threshold": 0.2}, "sampler": {"type": "random", "seed": 0}}
    fields |= {"space": {"optimizer.lr": {"type": "float", "low": 1e-6, "high": 0.1, "log": True}}}
    one = tiny_study(tmp_path, metric="val/loss", direction="minimize", **fields)
    alone = fttune.search(one, workspace=Workspace.at(tmp_path, mlruns=tmp_path / "one")).trials
    aims = [{"name": "val/loss", "direction": "minimize"}, {"name": "val/accuracy", "direction": "maximize"}]
    path = write_study(tmp_path, metrics=aims, **fields)
    path.write_text(path.read_text().replace("metric: val/accuracy\ndirection: maximize\n", ""))
    found = fttune.search(load_study(path), workspace=workspace).trials
    assert [trial.state for trial in found] == [trial.state for trial in alone]
    assert {trial.state.name for trial in found} == {"COMPLETE", "PRUNED"}
    assert [trial.values[0] for trial in found if trial.values] == [
        t.value for t in alone if t.state.name == "COMPLETE"
    ]
    frame = runs_of(workspace.mlflow_uri).set_index("tags.fttune.trial")
    for trial in found:
        if trial.values:
            run = frame.loc[str(trial.number), "run_id"]
            points = history_of(workspace.mlflow_uri, run, "fold/val/accuracy")
            assert trial.values[1] == pytest.approx(sum(point.value for point in points) / 6)


def test_a_trial_cut_in_its_second_fold_ends_as_if_it_had_not_been(tmp_path: Path, workspace: Workspace) -> None:
    one, two = Workspace.at(tmp_path, mlruns=tmp_path / "one"), workspace
    study = cross_validated(tmp_path, pruner={"type": "median", "startup_trials": 1})
    expected = fttune.search(study, workspace=one)

    def cut(entry: Any) -> None:
        if entry.run == "tiny/1" and isinstance(entry.event, EpochEnded) and "fold-2/val/loss" in entry.event.metrics:
            raise Interrupted(2)

    with pytest.raises(Interrupted):
        fttune.search(study, workspace=two, display=cut)
    found = fttune.search(study, workspace=two)
    told = [(t.number, t.state, t.value, t.intermediate_values) for t in found.trials]
    assert told == [(t.number, t.state, t.value, t.intermediate_values) for t in expected.trials]


def test_a_split_without_validation_is_enough(tmp_path: Path, workspace: Workspace) -> None:
    split = {"val": 0.0, "test": 0.6, "seed": 0}
    tiny_study(tmp_path)
    write_experiment(tmp_path, data__split=split)
    stored = fttune.search(cross_validated(tmp_path, budget__n_trials=1), workspace=workspace)
    assert stored.trials[0].value is not None


def test_a_confirmation_validates_each_seed_on_the_next_fold(tmp_path: Path, workspace: Workspace) -> None:
    study = cross_validated(tmp_path, budget__n_trials=2, confirm={"top_k": 1, "seeds": 4})
    stored = fttune.search(study, workspace=workspace)
    found = fttune.confirm(study, workspace=workspace)
    (one,) = found.candidates
    values = study.values(stored.trials[one.trial].params)
    expected = [by_hand(study, workspace, values, seed=seed)[(seed - 1) % FOLDS] for seed in (1, 2, 3, 4)]
    assert one.val == pytest.approx(expected, abs=1e-6)
    assert len(one.test) == 4


def test_other_commands_know_folds(tmp_path: Path, workspace: Workspace) -> None:
    three = cross_validated(tmp_path, budget__n_trials=1)
    four = load_study(write_study(tmp_path, "other", evaluation={"folds": 4}, budget__n_trials=1))
    for study in (three, four):
        fttune.search(study, workspace=workspace)
    with pytest.raises(BadInput, match=r"evaluation.folds: tiny has 3, other has 4; give both the same folds"):
        fttune.compare(three, four, workspace=workspace)
    page = report(three, workspace=workspace).page.read_text()
    assert "Values by fold" in page and "Learning curves" not in page
    assert fttune.train_final(three, workspace=workspace).epochs
    sizes = runs_of(workspace.mlflow_uri).set_index("tags.fttune.kind")["tags.fttune.data.val"]
    assert sizes["final"] == "0"
