"""The winner's recipe on train and val together: which samples, how many epochs, the weights of a plain run."""

import json
import math
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

import fttune
from fttune.app.final import train_final
from fttune.config import Study
from fttune.config.workspace import Workspace
from fttune.data import store
from fttune.errors import BadInput, StudyChanged
from fttune.report.confirmation import Confirmation
from fttune.training import CheckpointFolder, fine_tune, prepare
from fttune.training.events import Entry, EpochEnded, Notice
from tests import processes
from tests.app.test_using_winners import picture_folder
from tests.recipes import changed, tiny_study, write_experiment
from tests.splitting import counts_below
from tests.stored import history_of, runs_of

PICTURES = {"source": "folder", "path": "pictures", "image_size": 8, "resize": 10, "split": {"val": 0.3, "test": 0.3}}
RECIPE = {
    "training__epochs": 4,
    "training__schedule": "cosine",
    "training__early_stop_epochs": 3,
    "training__monitor": "val/accuracy",
    "data__augment": "standard",
}
STUDY = {
    "budget": {"n_trials": 3},
    "batch": 3,
    "confirm": {"top_k": 2, "seeds": 2},
    "space": {"optimizer.lr": {"type": "float", "low": 0.01, "high": 0.1, "log": True}},
}


def searched(root: Path, *, study: dict | None = None, **recipe) -> tuple[Study, Workspace]:
    picture_folder(root / "pictures", each=10)
    fields = changed({"data": PICTURES}, **recipe)
    data = fields.pop("data")
    write_experiment(root, data=data, **{k: v for k, v in recipe.items() if not k.startswith("data__")})
    made = tiny_study(root, **{**STUDY, **(study or {})})
    fttune.search(made, workspace=Workspace.at(root))
    return made, Workspace.at(root)


@pytest.fixture(scope="module")
def confirmed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Workspace, Confirmation]:
    study, workspace = searched(tmp_path_factory.mktemp("final"), **RECIPE)
    return study, workspace, fttune.confirm(study, workspace=workspace)


@pytest.fixture(scope="module")
def final(confirmed):
    """The result of a final training, its MLflow run, its checkpoint's folder, and what was said."""
    study, workspace, _ = confirmed
    said: list[Entry] = []
    result = train_final(study, workspace=workspace, display=said.append)
    runs = runs_of(workspace.mlflow_uri)
    (run,) = runs[runs["tags.fttune.kind"] == "final"].to_dict("records")
    folder = Path(run["artifact_uri"].removeprefix("file://")) / "checkpoint"
    return result, run, folder, [entry.event.text for entry in said if isinstance(entry.event, Notice)]


def best_epochs(workspace: Workspace, trial: int) -> list[int]:
    runs = runs_of(workspace.mlflow_uri)
    own = runs[(runs["tags.fttune.kind"] == "confirm") & (runs["tags.fttune.trial"] == str(trial))]
    return sorted(int(epoch) for epoch in own["metrics.best_epoch"])


def test_the_samples_are_those_of_train_and_val_and_no_others(confirmed):
    study, workspace, _ = confirmed
    split = prepare(study.experiment, workspace).data
    joined = prepare(study.experiment, workspace, train_on_val=True).data
    counts = counts_below(workspace.root / "pictures", val=0.3, test=0.3)
    trained = counts["train"] + counts["val"]
    assert len(joined.train.names) == len(set(joined.train.names)) == len(joined.train.labels) == trained
    assert set(joined.train.names) == {*split.train.names, *split.val.names}
    everything = {f"{file.parent.name}/{file.name}" for file in (workspace.root / "pictures").rglob("*.png")}
    assert len(everything - set(joined.train.names)) == split.n_test == counts["test"]
    assert joined.val is None
    assert joined.fingerprint == split.fingerprint
    classes = [joined.classes[label] for label in joined.train.labels]
    assert classes == [name.partition("/")[0] for name in joined.train.names]


def test_it_trains_the_winner_for_the_median_of_its_best_epochs(confirmed, final):
    study, workspace, found = confirmed
    result, run, _, said = final
    winner = found.candidates[0].trial
    expected = best_epochs(workspace, winner)[0]  # of two, the lower one
    assert len(result.epochs) == result.best_epoch == expected
    assert (run["tags.fttune.trial"], run["tags.fttune.epochs"]) == (str(winner), str(expected))
    assert (run["status"], run["tags.fttune.state"], run["tags.fttune.study"]) == ("FINISHED", "complete", "tiny")
    counts = counts_below(workspace.root / "pictures", val=0.3, test=0.3)
    images = counts["train"] + counts["val"]
    assert (run["tags.fttune.data.train"], run["tags.fttune.data.val"]) == (str(images), "0")
    assert f"trains trial {winner}, the winner of the confirmation" in said[0]
    assert f"to epoch {expected} (the median of its best ones" in said[0]
    history = history_of(workspace.mlflow_uri, run["run_id"], "lr")
    lr, steps = study.recipe(found.candidates[0].params).optimizer.lr, math.ceil(images / 8)  # batches
    last = [(epoch * steps - 1) / (4 * steps) for epoch in range(1, expected + 1)]
    assert [p.value for p in history] == pytest.approx([lr / 2 * (1 + np.cos(np.pi * share)) for share in last])


def test_the_weights_are_those_of_a_plain_run_on_a_folder_of_the_same_samples(confirmed, final, tmp_path):
    study, workspace, found = confirmed
    result, _, folder, _ = final
    split = prepare(study.experiment, workspace).data
    for name in (*split.train.names, *split.val.names):
        (tmp_path / "joined" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(workspace.root / "pictures" / name, tmp_path / "joined" / name)
    write_experiment(
        tmp_path,
        data={**PICTURES, "path": "joined", "augment": "standard", "split": {"val": 0.0, "test": 0.0}},
        training__epochs=4,
        training__schedule="cosine",
        **{f"{name.replace('.', '__')}": value for name, value in found.candidates[0].params.items()},
    )
    recipe = fttune.load_experiment(tmp_path / "experiments" / "tiny.yaml")
    plain = fine_tune(
        recipe,
        prepare(recipe, Workspace.at(tmp_path)).plain(),
        prune=lambda ended: ended.epoch == result.best_epoch,
        checkpoints=CheckpointFolder(tmp_path / "plain"),
    )
    assert plain.step_losses == result.step_losses
    ours, theirs = load_file(folder / "best.safetensors"), load_file(plain.checkpoint)
    assert all(np.array_equal(ours[name].numpy(), theirs[name].numpy()) for name in ours.keys() | theirs.keys())


def test_the_checkpoint_says_what_it_was_trained_on_and_can_be_used(confirmed, final, tmp_path):
    study, workspace, found = confirmed
    about = json.loads((final[2] / "best.json").read_text())
    winner, epochs = found.candidates[0].trial, final[0].best_epoch
    assert about["final"] == {"study": "tiny", "trial": winner, "epochs": epochs, "trained_on": ["train", "val"]}
    assert about["experiment"]["data"]["split"]["val"] == 0.3
    file = fttune.export(study, "safetensors", final=True, out=tmp_path / "m.safetensors", workspace=workspace)
    assert file.read_bytes() == (final[2] / "best.safetensors").read_bytes()
    predicted = list(fttune.predict(file, [workspace.root / "pictures" / "red" / "0.png"]))
    assert predicted[0].label in ("blue", "green", "red")
    assert fttune.export(study, "pt2", final=True, trial=winner, workspace=workspace).name == "tiny-final.pt2"
    with pytest.raises(BadInput, match="its recipe that of its trial"):
        fttune.export(study, "experiment", final=True, workspace=workspace)
    with pytest.raises(BadInput, match=r"no final model of trial 77; train one with `fttune train --final`"):
        fttune.export(study, "mlflow", final=True, trial=77, workspace=workspace)


@pytest.mark.usefixtures("final")
def test_nothing_is_decoded_for_it_that_training_had_decoded(confirmed, monkeypatch, tmp_path):
    study, workspace = searched(tmp_path)  # without random crops, val has the size of train
    monkeypatch.setattr(store, "decode", lambda *_, **__: pytest.fail("decoded again"))
    train_final(study, workspace=workspace)
    train_final(confirmed[0], workspace=confirmed[1])


@pytest.mark.usefixtures("final")
def test_it_is_no_source_of_weights(confirmed):
    _, workspace, _ = confirmed
    file = write_experiment(workspace.root, "target", data=PICTURES, backbone__weights="experiment:tiny")
    said: list[Entry] = []
    fttune.train(fttune.load_experiment(file), workspace=workspace, display=said.append)
    assert Notice("experiment tiny has no finished run yet: training it first") in [entry.event for entry in said]


def test_of_an_unconfirmed_study_the_best_trial_is_trained_to_its_own_best_epoch(tmp_path):
    study, workspace = searched(tmp_path, training__epochs=3)
    best = fttune.search(study, workspace=workspace).best_trial.number
    code, out, err = processes.run("train", "--final", "studies/tiny.yaml", "--json", cwd=tmp_path)
    assert code == 0, err
    runs = runs_of(workspace.mlflow_uri)
    (epochs,) = runs[runs["tags.fttune.trial"] == str(best)]["metrics.best_epoch"].unique()
    assert f"trains trial {best}, the best one, for the study is unconfirmed, on train and val together" in err
    assert f"epoch {epochs:.0f}/{epochs:.0f}, train/loss" in err
    assert len(json.loads(out)["epochs"]) == epochs
    other = next(number for number in range(3) if number != best)
    assert train_final(study, trial=other, workspace=workspace).state == "complete"
    with pytest.raises(BadInput, match="trial 9 of study tiny is not complete"):
        train_final(study, trial=9, workspace=workspace)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"training__schedule": "plateau"}, "training.schedule: plateau waits for what the validation split shows"),
        (
            {
                "freeze": {
                    "phases": [
                        {"unfrozen_stages": 0, "until_plateau": {"patience_epochs": 1}},
                        {"unfrozen_stages": 1, "epochs": 1},
                    ]
                }
            },
            "freeze.phases: until_plateau waits for what the validation split shows",
        ),
    ],
)
def test_a_recipe_that_waits_for_the_validation_split_is_refused(recipe, message, tmp_path):
    study, workspace = searched(tmp_path, study={"budget": {"n_trials": 1}}, training__epochs=3, **recipe)
    with pytest.raises(BadInput, match=message):
        train_final(study, workspace=workspace)
    assert "final" not in set(runs_of(workspace.mlflow_uri)["tags.fttune.kind"])


def test_a_wrong_file_an_unsearched_study_and_changed_images_are_refused(tmp_path):
    write_experiment(tmp_path)
    code, out, err = processes.run("train", "--final", "experiments/tiny.yaml", cwd=tmp_path)
    rest = "is an experiment, but --final trains the winner of a study; name the study's YAML file"
    assert (code, out, err) == (2, "", f"experiments/tiny.yaml: {rest}\n")
    code, out, err = processes.run("train", "experiments/tiny.yaml", "--trial", "1", cwd=tmp_path)
    assert (code, out) == (2, "")
    assert "--trial: belongs to --final" in err
    with pytest.raises(BadInput, match="has not been searched here"):
        train_final(tiny_study(tmp_path), workspace=Workspace.at(tmp_path))
    study, workspace = searched(tmp_path, study={"budget": {"n_trials": 1}})
    picture_folder(tmp_path / "pictures", each=10, side=30)
    with pytest.raises(StudyChanged, match=r"experiment\.data\.content"):
        train_final(study, workspace=workspace)


def test_an_interrupted_final_training_is_closed_and_a_signal_ends_it_in_order(tmp_path):
    lasting = {"budget": {"n_trials": 1}, "metric": "val/loss", "direction": "minimize"}  # best late
    study, workspace = searched(tmp_path, training__epochs=60, study=lasting)

    def interrupt(entry: Entry) -> None:
        if isinstance(entry.event, EpochEnded):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_final(study, workspace=workspace, display=interrupt)
    runs = runs_of(workspace.mlflow_uri)
    assert runs[runs["tags.fttune.kind"] == "final"]["tags.fttune.state"].tolist() == ["interrupted"]
    with pytest.raises(BadInput, match="has no final model"):
        fttune.export(study, "safetensors", final=True, workspace=workspace)
    command = processes.start("train", "--final", "studies/tiny.yaml", cwd=tmp_path)
    command.wait_for("final-0000: trainable")
    command.send(signal.SIGINT)
    assert command.wait(30) == 130
    assert command.err.read_text().endswith("interrupted; run the same command again\n")
    assert "RUNNING" not in set(runs_of(workspace.mlflow_uri)["status"])
