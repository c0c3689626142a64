from pathlib import Path
from typing import Any

import pytest
import torch

import fttune
from fttune.config import load_experiment
from fttune.config.workspace import Workspace
from fttune.errors import BadInput, ConfigError, Diverged
from fttune.training import events
from tests.recipes import tiny_experiment, write_experiment
from tests.stored import history_of, runs_of


def metrics_of(result: Any) -> list[dict[str, float]]:
    return [{k: v for k, v in ended.metrics.items() if not k.endswith("_seconds")} for ended in result.epochs]


def test_train_logs_params_curves_checkpoints_and_provenance(tmp_path: Path, workspace: Workspace) -> None:
    result = fttune.train(tiny_experiment(tmp_path), workspace=workspace)
    run = runs_of(workspace.mlflow_uri).iloc[0]
    assert (run["status"], run["tags.fttune.state"], run["tags.fttune.kind"]) == ("FINISHED", "complete", "train")
    assert run["params.optimizer.momentum"] == "0.9"
    history = history_of(workspace.mlflow_uri, run["run_id"], "val/loss")
    assert [(p.step, p.value) for p in history] == [(e.epoch, e.metrics["val/loss"]) for e in result.epochs]
    assert run["tags.fttune.trainable"].startswith("trainable 77.6k of 77.6k parameters: stem")
    assert run["tags.fttune.version.torch"] == torch.__version__.split("+")[0]
    assert len(run["tags.fttune.data.fingerprint"]) == 64
    assert (run["tags.fttune.data.train"], run["tags.fttune.data.classes"]) == ("24", "3")
    files = Path(run["artifact_uri"].removeprefix("file://")) / "checkpoint"
    assert {f.name for f in files.iterdir()} == {"best.json", "best.safetensors", "last.json", "last.safetensors"}


def test_the_python_function_and_the_tracked_run_find_the_same(tmp_path: Path, workspace: Workspace) -> None:
    experiment = tiny_experiment(tmp_path)
    assert metrics_of(fttune.fine_tune(experiment)) == metrics_of(fttune.train(experiment, workspace=workspace))


def test_a_run_that_diverges_is_a_failed_run_with_its_cause(tmp_path: Path, workspace: Workspace) -> None:
    with pytest.raises(Diverged):
        fttune.train(tiny_experiment(tmp_path, optimizer__lr=1.0e20), workspace=workspace)
    run = runs_of(workspace.mlflow_uri).iloc[0]
    assert (run["status"], run["tags.fttune.state"]) == ("FAILED", "diverged")
    assert "optimizer.lr" in run["tags.fttune.cause"]


def test_a_run_that_breaks_is_closed_with_its_cause(tmp_path: Path, workspace: Workspace) -> None:
    def breaks(entry: events.Entry) -> None:
        if isinstance(entry.event, events.EpochEnded):
            raise RuntimeError("broken pipe")

    with pytest.raises(RuntimeError, match="broken pipe"):
        fttune.train(tiny_experiment(tmp_path), workspace=workspace, display=breaks)
    run = runs_of(workspace.mlflow_uri).iloc[0]
    assert (run["status"], run["tags.fttune.state"]) == ("FAILED", "failed")


def test_weights_of_an_experiment_are_trained_once_and_found_again(tmp_path: Path, workspace: Workspace) -> None:
    write_experiment(tmp_path, "source", data__classes=[5, 6, 7])
    target = tiny_experiment(tmp_path, backbone__weights="experiment:source", freeze__unfrozen_stages=0)
    said: list[object] = []
    first = fttune.train(target, workspace=workspace, display=lambda entry: said.append(entry.event))
    second = fttune.train(target, workspace=workspace)
    assert events.Notice("experiment source has no finished run yet: training it first") in said
    assert len(runs_of(workspace.mlflow_uri, "source")) == 1
    assert metrics_of(first) == metrics_of(second)
    weights = runs_of(workspace.mlflow_uri)["tags.fttune.weights"]
    assert weights.str.startswith("sha256:").all()
    assert weights.nunique() == 1


def test_a_changed_source_is_trained_anew(tmp_path: Path, workspace: Workspace) -> None:
    write_experiment(tmp_path, "source", data__classes=[5, 6, 7])
    target = tiny_experiment(tmp_path, backbone__weights="experiment:source")
    fttune.train(target, workspace=workspace)
    write_experiment(tmp_path, "source", data__classes=[5, 6, 7], seed=1)
    fttune.train(target, workspace=workspace)
    assert len(runs_of(workspace.mlflow_uri, "source")) == 2
    assert runs_of(workspace.mlflow_uri)["tags.fttune.weights"].nunique() == 2


def test_experiments_that_wait_for_each_other_are_refused(tmp_path: Path, workspace: Workspace) -> None:
    write_experiment(tmp_path, "a", backbone__weights="experiment:b")
    write_experiment(tmp_path, "b", backbone__weights="experiment:a")
    with pytest.raises(BadInput, match="wait for each other: b -> a -> b"):
        fttune.train(load_experiment(tmp_path / "experiments" / "a.yaml"), workspace=workspace)


def test_an_experiment_that_is_not_there_is_named_with_the_nearest(tmp_path: Path, workspace: Workspace) -> None:
    write_experiment(tmp_path, "source")
    target = tiny_experiment(tmp_path, backbone__weights="experiment:sorce")
    with pytest.raises(ConfigError, match=r"experiments/sorce\.yaml: there is no such file; did you mean 'source'"):
        fttune.fine_tune(target, workspace=workspace)


def test_a_stem_that_stands_twice_is_refused(tmp_path: Path, workspace: Workspace) -> None:
    copy = tmp_path / "experiments" / "more" / "source.yaml"
    copy.parent.mkdir(parents=True)
    copy.write_text(write_experiment(tmp_path, "source").read_text())
    target = tiny_experiment(tmp_path, backbone__weights="experiment:source")
    with pytest.raises(ConfigError, match="stands 2 times"):
        fttune.fine_tune(target, workspace=workspace)


def test_a_tracking_uri_in_the_environment_is_used(
    tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    uri = f"sqlite:///{tmp_path / 'elsewhere' / 'mlflow.db'}"
    (workspace.mlruns / "mlflow.db").rename(tmp_path / "elsewhere" / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    fttune.train(tiny_experiment(tmp_path), workspace=workspace)
    assert not (workspace.mlruns / "mlflow.db").exists()
    assert len(runs_of(uri)) == 1


def test_an_interrupted_training_keeps_its_best_checkpoint(tmp_path: Path, workspace: Workspace) -> None:
    def interrupt(entry: events.Entry) -> None:
        if isinstance(entry.event, events.EpochEnded) and entry.event.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fttune.train(tiny_experiment(tmp_path, training__epochs=3), workspace=workspace, display=interrupt)
    run = runs_of(workspace.mlflow_uri).iloc[0]
    assert (run["status"], run["tags.fttune.state"]) == ("KILLED", "interrupted")
    files = Path(run["artifact_uri"].removeprefix("file://")) / "checkpoint"
    assert "best.safetensors" in {file.name for file in files.iterdir()}


def test_a_source_training_that_was_killed_is_taken_up_in_its_own_run(tmp_path: Path, workspace: Workspace) -> None:
    write_experiment(tmp_path, "source", data__classes=[5, 6, 7])
    target = tiny_experiment(tmp_path, backbone__weights="experiment:source")

    def interrupt(entry: events.Entry) -> None:
        if entry.run.startswith("train/source") and isinstance(entry.event, events.EpochEnded):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fttune.train(target, workspace=workspace, display=interrupt)
    fttune.train(target, workspace=workspace)
    source = runs_of(workspace.mlflow_uri, "source")
    assert source["status"].tolist() == ["FINISHED"]
