"""A search whose trials train together finds what one finds that runs each of its trials alone."""

import json
from collections.abc import Hashable
from pathlib import Path

import pytest

import fttune
from fttune.app.trials import Trials
from fttune.config.workspace import Workspace
from fttune.searching import Asked
from fttune.training import cohort
from tests.recipes import tiny_study, write_experiment
from tests.stored import runs_of


def searched(root: Path, **fields):
    write_experiment(root, training__epochs=4)
    study = tiny_study(root, **fields)
    workspace = Workspace.at(root)
    return fttune.search(study, workspace=workspace), workspace


@pytest.mark.parametrize("pruner", ["none", "median"])
def test_a_cohort_and_trials_one_by_one_end_alike(pruner, tmp_path, monkeypatch):
    fields = {
        "budget": {"n_trials": 12},
        "batch": 6,
        "pruner": {"type": pruner, **({"startup_trials": 3} if pruner == "median" else {})},
        "space": {
            "optimizer.lr": {"type": "float", "low": 0.001, "high": 1.0, "log": True},
            "freeze.unfrozen_stages": {"type": "int", "low": 0, "high": 1},
        },
        "sampler": {"type": "random"},
    }
    sizes: list[int] = []
    monkeypatch.setattr(cohort.Cohort, "__init__", noted(cohort.Cohort.__init__, sizes))
    together, workspace = searched(tmp_path / "together", **fields)
    assert max(sizes) >= 3
    monkeypatch.setattr(Trials, "together", alone)
    apart, other = searched(tmp_path / "apart", **fields)
    assert [t.state for t in together.trials] == [t.state for t in apart.trials]
    assert [t.params for t in together.trials] == [t.params for t in apart.trials]
    for one, expected in zip(together.trials, apart.trials, strict=True):
        assert one.value == pytest.approx(expected.value, abs=1e-6)
        assert one.intermediate_values == pytest.approx(expected.intermediate_values, abs=1e-6)
        facts = [json.loads(t.user_attrs["fttune"]) for t in (one, expected)]
        assert facts[0]["best_epoch"] == facts[1]["best_epoch"]
        assert facts[0]["reused_from"] == facts[1]["reused_from"]
    frames = [runs_of(w.mlflow_uri).sort_values("tags.mlflow.runName") for w in (workspace, other)]
    for column in ("metrics.val/loss", "metrics.train/loss", "metrics.drift/head", "metrics.trainable_parameters"):
        assert frames[0][column].tolist() == pytest.approx(frames[1][column].tolist(), rel=1e-4, nan_ok=True)
    assert frames[0]["status"].tolist() == frames[1]["status"].tolist()


def noted(init, sizes: list[int]):
    def wrapped(self, experiments, *arguments, **keywords) -> None:
        sizes.append(len(experiments))
        init(self, experiments, *arguments, **keywords)

    return wrapped


def alone(_: Trials, asked: Asked) -> Hashable:
    return asked.number


def test_views_are_searched_and_trials_with_the_same_views_share_them(tmp_path):
    views = [{"views": 2}, {"views": 3, "kind": "flip"}]
    space = {
        "data.augment": {"type": "categorical", "choices": ["none", *views]},
        "optimizer.weight_decay": {"type": "categorical", "choices": [0.0, 0.1]},
    }
    fields = {"budget": {"n_trials": 6}, "batch": 6, "sampler": {"type": "grid"}, "space": space}
    study, workspace = searched(tmp_path, **fields)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 6
    assert len(list((workspace.arrays / "views").glob("*.npy"))) == 2
    params = runs_of(workspace.mlflow_uri)[["params.data.augment.views", "params.data.augment.kind"]].dropna()
    assert sorted(map(tuple, params.to_numpy())) == [("2", "standard")] * 2 + [("3", "flip")] * 2
