"""`fttune validate --probe`: the plan agrees with what the search then does, and nothing is stored."""

import json
from dataclasses import replace

import pytest

import fttune
from fttune.app.depths import boundaries, depths_of
from fttune.app.probe import probe
from fttune.config import load
from tests import processes
from tests.recipes import tiny_experiment, tiny_study, write_experiment, write_study


def test_the_plan_of_a_study_agrees_with_the_search(workspace):
    baseline = {"optimizer.lr": 0.01, "freeze.unfrozen_stages": 4}
    study = tiny_study(workspace.root, baselines=[baseline])
    stores = {name: (workspace.mlruns / name).read_bytes() for name in ("optuna.db", "mlflow.db")}
    said = []
    plan = probe(study, workspace=workspace, say=said.append)
    assert {name: (workspace.mlruns / name).read_bytes() for name in stores} == stores
    assert not (workspace.mlruns / "artifacts").exists()
    decoded = [file.stat().st_size - 128 for file in workspace.arrays.rglob("*.npy")]
    assert plan.disk.decoded == sum(decoded)
    assert (plan.kind, plan.trials, plan.epochs, plan.steps) == ("study", 4, 2, 3)
    assert plan.images["train"] == {"0": 8, "1": 8, "2": 8}
    assert [(line.stage, line.reached) for line in plan.stages] == [
        (stage, True) for stage in ("head", "layer3", "layer2", "layer1", "stem")
    ]
    assert {line.unfrozen_stages for line in plan.stages if line.how == "measured"} == {0, 2, 4}
    assert plan.seconds.low <= plan.seconds.even <= plan.seconds.high
    assert any("measuring 4 unfrozen stages" in text for text in said)
    fttune.search(study, workspace=workspace)
    sizes = {file.stat().st_size for file in workspace.artifacts.rglob("best.safetensors")}
    assert max(sizes) <= plan.disk.checkpoint <= max(sizes) + 10_000
    kept = sum(file.stat().st_size - 128 for file in workspace.arrays.glob("activations/*.npy"))
    assert plan.disk.activations >= kept > 0


def test_depths_outside_of_the_space_have_no_times(workspace):
    write_study(workspace.root)
    narrow = ("--set", "space.freeze.unfrozen_stages.high=1", "--json")
    code, out, err = processes.run("validate", "studies/tiny.yaml", "--probe", *narrow, cwd=workspace.root)
    assert code == 0, err
    stages = json.loads(out)["stages"]
    assert [line["reached"] for line in stages] == [True, True, False, False, False]
    assert [line["epoch_seconds"] is None for line in stages] == [False, False, True, True, True]


def test_an_experiment_is_one_training_at_its_own_depth(workspace):
    plan = probe(tiny_experiment(workspace.root, freeze__unfrozen_stages=1), workspace=workspace)
    assert (plan.kind, plan.trials) == ("experiment", 1)
    assert [line.unfrozen_stages for line in plan.stages if line.reached] == [1]
    assert plan.seconds.low == plan.seconds.high
    trained = fttune.fine_tune(tiny_experiment(workspace.root, freeze__unfrozen_stages="all"), workspace=workspace)
    assert sum(line.parameters for line in plan.stages) == trained.parameters


def test_phases_count_like_the_one_that_trains_most(workspace):
    freeze = {"phases": [{"unfrozen_stages": 0, "epochs": 1}, {"unfrozen_stages": 3, "epochs": 1}]}
    plan = probe(tiny_experiment(workspace.root, freeze=freeze), workspace=workspace)
    assert [line.unfrozen_stages for line in plan.stages if line.reached] == [3]
    assert any("all 2 phases count like the one that trains most" in note for note in plan.notes)


def test_weights_of_another_experiment_are_planned_first_and_not_trained(workspace):
    write_experiment(workspace.root, "source")
    file = write_study(workspace.root)
    write_experiment(workspace.root, backbone={"name": "cifar_resnet8", "weights": "experiment:source"})
    store = (workspace.mlruns / "mlflow.db").read_bytes()
    plan = probe(load(file), workspace=workspace)
    assert plan.first is not None and plan.first.name == "source"
    assert (workspace.mlruns / "mlflow.db").read_bytes() == store


def test_activations_without_room_leave_only_the_bound(workspace):
    study = tiny_study(workspace.root)
    plan = probe(study, workspace=replace(workspace, cache_bytes=20_000))
    assert plan.seconds is None
    assert any("do not fit into the cache" in note for note in plan.notes)


def test_what_else_the_space_changes_is_said(workspace):
    space = {"training.batch_size": {"type": "categorical", "choices": [4, 8]}}
    plan = probe(tiny_study(workspace.root, space=space), workspace=workspace)
    assert any("measured with the experiment's own training.batch_size" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("setting", "message"),
    [("data.split.val=0.0", "data.split.val is 0"), ("metric=val/top5_accuracy", "more than 5 classes")],
)
def test_a_probe_refuses_what_the_search_would(setting, message, workspace):
    write_study(workspace.root)
    code, out, err = processes.run("validate", "studies/tiny.yaml", "--probe", "--set", setting, cwd=workspace.root)
    assert (code, out) == (2, "")
    assert message in err and "Traceback" not in err


def test_validate_prints_json_too(tmp_path):
    study = write_study(tmp_path)
    experiment = tmp_path / "experiments" / "tiny.yaml"
    code, out, _ = processes.run("validate", str(study), str(experiment), "--json", cwd=tmp_path)
    assert code == 0
    assert json.loads(out) == [
        {"file": str(study), "kind": "study", "trials": 4},
        {"file": str(experiment), "kind": "experiment", "trials": None},
    ]


def test_a_share_of_the_stages_reaches_every_number_between(tmp_path):
    depth = {"type": "float", "low": 0.25, "high": 1.0}
    study = tiny_study(tmp_path, space={"freeze.unfrozen_stages": depth})
    assert depths_of(study, 4) == [1, 2, 3, 4]
    assert boundaries(study, 4) == {1, 2, 3}
