"""Searches for several objectives with real trainings: what is told, stored, shown, and what a restart finds again."""

import json
from pathlib import Path

import optuna
import pytest

import fttune
from fttune import searching
from fttune.app.confirm import candidates
from fttune.app.export import export
from fttune.app.results import rows_of
from fttune.app.studies import list_studies
from fttune.config.workspace import Workspace
from fttune.errors import BadInput, StudyChanged
from fttune.searching.curves import curve_of
from fttune.training.events import Entry, EpochEnded, StudyProgress
from tests import processes
from tests.recipes import METRICS, study_of_several, tiny_study, write_experiment, write_study_of_several
from tests.stored import runs_of

SECONDS = {"name": "trial/seconds", "direction": "minimize"}
MEMORY = {"name": "trial/peak_memory_bytes", "direction": "minimize"}
FIELDS = {"budget__n_trials": 10, "batch": 4, "pruner": {"type": "median", "startup_trials": 2, "warmup_epochs": 1}}


def searched(root: Path, display=None, **fields: object) -> tuple[optuna.Study, Workspace]:
    write_experiment(root, training__epochs=4)
    workspace = Workspace.at(root)
    return fttune.search(
        study_of_several(root, **{**FIELDS, **fields}), workspace=workspace, display=display
    ), workspace


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[optuna.Study, Workspace, list[Entry]]:
    entries: list[Entry] = []
    return *searched(tmp_path_factory.mktemp("whole"), entries.append), entries


def told(stored: optuna.Study) -> list[object]:
    return [(t.state, t.params, t.values, curve_of(t)) for t in stored.trials]


def test_a_trial_is_told_its_metric_at_its_best_epoch_and_its_trained_parameters(whole):
    stored, _, _ = whole
    assert {t.state.name for t in stored.trials} == {"COMPLETE", "PRUNED"}
    for trial in stored.get_trials(states=[optuna.trial.TrialState.COMPLETE]):
        facts = json.loads(trial.user_attrs["fttune"])
        assert trial.values == [max(curve_of(trial).values()), facts["trainable_parameters"]]
        assert curve_of(trial)[facts["best_epoch"]] == trial.values[0]


def test_a_search_that_was_cut_ends_with_the_trials_of_one_that_was_not(whole, tmp_path):
    seen: list[Entry] = []

    def cut(entry: Entry) -> None:
        if isinstance(entry.event, EpochEnded):
            seen.append(entry)
            if len(seen) == 18:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path, cut)
    again, workspace = searched(tmp_path)
    assert told(again) == told(whole[0])
    assert "RUNNING" not in set(runs_of(workspace.mlflow_uri)["status"])


def test_progress_winner_and_list_go_by_the_first_objective(whole):
    stored, workspace, entries = whole
    best = max(t.values[0] for t in stored.best_trials)
    assert [e.event.best for e in entries if isinstance(e.event, StudyProgress)][-1] == best
    winner = searching.ranked(stored)[0]
    assert winner.values[0] == best
    parent = runs_of(workspace.mlflow_uri).query("`tags.fttune.kind` == 'study'").iloc[0]
    assert (parent["tags.fttune.best_trial"], parent["metrics.best_value"]) == (str(winner.number), best)
    (line,) = list_studies(workspace)
    assert (line.metric, line.best, line.best_trial) == ("val/accuracy", best, winner.number)


def test_candidates_of_a_confirmation_are_the_first_of_the_front(whole):
    stored, workspace, _ = whole
    study = study_of_several(workspace.root, **FIELDS, confirm__top_k=2)
    chosen = [trial.number for trial in candidates(study, stored)]
    trained = [t.number for t in searching.ranked(stored) if json.loads(t.user_attrs["fttune"])["reused_from"] is None]
    assert chosen == trained[:2]
    assert trained[0] in [t.number for t in stored.best_trials]


def test_an_exported_recipe_names_every_value(whole, tmp_path):
    stored, workspace, _ = whole
    study = study_of_several(workspace.root, **FIELDS)
    best = searching.ranked(stored)[0]
    file = export(study, "experiment", out=tmp_path / "best.yaml", workspace=workspace)
    accuracy, size = best.values
    expected = f"val/accuracy {accuracy:.6g}, trial/trainable_parameters {size:.6g}."
    assert file.read_text().startswith(f"# Trial {best.number} of study several: {expected}\n")


def test_other_objectives_are_another_study(whole):
    _, workspace, _ = whole
    other = study_of_several(workspace.root, **FIELDS, metrics=[METRICS[0], MEMORY])
    with pytest.raises(StudyChanged, match=r"metrics: .*trainable_parameters.* -> .*peak_memory_bytes"):
        fttune.search(other, workspace=workspace)
    one = tiny_study(workspace.root, **FIELDS).model_copy(update={"name": "several"})
    with pytest.raises(StudyChanged, match=r"metrics: .* -> \(absent\)"):
        fttune.search(one, workspace=workspace)


def test_the_front_is_printed_with_a_column_for_each_objective(whole, tmp_path):
    stored, workspace, _ = whole
    file = write_study_of_several(workspace.root, **FIELDS)
    arguments = ("search", str(file), "--mlruns", str(workspace.mlruns))
    code, out, err = processes.run(*arguments, "--json", cwd=tmp_path)
    assert code == 0, err
    shown = json.loads(out)
    front = [trial.number for trial in searching.front(stored)]
    assert shown["front"] == front
    assert [trial["number"] for trial in shown["trials"]][: len(front)] == front
    names = [metric["name"] for metric in METRICS]
    for trial in shown["trials"]:
        values = stored.trials[trial["number"]].values
        assert trial["values"] == (dict(zip(names, values, strict=True)) if values else {})
        assert trial["value"] == (values[0] if values else None)

    code, out, _ = processes.run(*arguments, cwd=tmp_path)
    lines = out.splitlines()
    plural = "1 trial is" if len(front) == 1 else f"{len(front)} trials are"
    assert lines[1] == f"{plural} on the front of val/accuracy (maximize) and trial/trainable_parameters (minimize):"
    assert lines[2].split()[:4] == ["number", "state", *names]
    assert [int(line.split()[0]) for line in lines[3 : 3 + len(front)]] == front


@pytest.fixture(scope="module")
def costed(tmp_path_factory) -> tuple[optuna.Study, Workspace]:
    """Head-only trials, some as a cohort, beside deeper ones; every depth several times."""
    space = {
        "optimizer.lr": {"type": "float", "low": 1.0e-3, "high": 0.1, "log": True},
        "freeze.unfrozen_stages": {"type": "categorical", "choices": [0, 1]},
    }
    metrics = [METRICS[0], SECONDS, MEMORY, {"name": "val/loss", "direction": "minimize"}]
    root = tmp_path_factory.mktemp("costed")
    return searched(root, space=space, metrics=metrics, budget__n_trials=12, pruner={"type": "none"})


def test_trials_of_one_configuration_cost_the_same_however_they_ran(costed):
    """The first one fills the cache, later ones find it warm, and head-only ones train as one matrix product."""
    costs = {depth: {tuple(t.values[1:3]) for t in costed[0].trials if of(t) == depth} for depth in (0, 1)}
    assert [len(found) for found in costs.values()] == [1, 1]
    ((_, shallow),), ((_, deep),) = costs.values()
    assert shallow < deep
    assert len(costed[0].user_attrs["fttune.costs"]) == 2


def of(trial: optuna.trial.FrozenTrial) -> int:
    depth: int = trial.params["freeze.unfrozen_stages"]
    return depth


def test_costs_are_metrics_of_the_trials_runs(costed):
    stored, workspace = costed
    children = runs_of(workspace.mlflow_uri).query("`tags.fttune.kind` == 'trial'").set_index("tags.fttune.trial")
    for trial in stored.trials:
        row = children.loc[str(trial.number)]
        values = [row["metrics.value"], row["metrics.trial/seconds"], row["metrics.trial/peak_memory_bytes"]]
        assert values == trial.values[:3]


def test_a_metric_is_a_further_objective_with_its_value_at_the_best_epoch(costed):
    stored, workspace = costed
    for trial in stored.trials[:3]:
        recipe = study_of_several(workspace.root, **FIELDS).recipe(trial.params)
        result = fttune.fine_tune(recipe.replace({"training.monitor": "val/accuracy"}), workspace=workspace)
        assert trial.values[3] == pytest.approx(result.epochs[result.best_epoch - 1].metrics["val/loss"], rel=1e-5)


def test_a_resumed_study_goes_by_the_costs_that_it_measured_before(costed):
    stored, workspace = costed
    before = stored.user_attrs["fttune.costs"]
    metrics = [METRICS[0], SECONDS, MEMORY, {"name": "val/loss", "direction": "minimize"}]
    space = {
        "optimizer.lr": {"type": "float", "low": 1.0e-3, "high": 0.1, "log": True},
        "freeze.unfrozen_stages": {"type": "categorical", "choices": [0, 1]},
    }
    more, _ = searched(workspace.root, space=space, metrics=metrics, budget__n_trials=16, pruner={"type": "none"})
    assert more.user_attrs["fttune.costs"] == before
    assert {of(t): t.values[1:3] for t in more.trials[12:]}.items() <= {
        of(t): t.values[1:3] for t in stored.trials
    }.items()
    assert len(rows_of(more)) == 16


def test_a_metric_that_these_classes_do_not_have_is_refused_before_any_trial(tmp_path, workspace):
    metrics = [METRICS[0], {"name": "val/top5_accuracy", "direction": "maximize"}]
    with pytest.raises(BadInput, match="needs more than 5 classes, but there are 3"):
        fttune.search(study_of_several(tmp_path, metrics=metrics), workspace=workspace)
    assert optuna.get_all_study_names(workspace.optuna_uri) == []
