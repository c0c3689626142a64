"""After a search: its studies listed, its trials exported, and images predicted with a checkpoint."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import fttune
from fttune.app.export import export
from fttune.app.predict import predict
from fttune.app.studies import list_studies
from fttune.config import Study, load_experiment
from fttune.config.workspace import Workspace
from fttune.errors import BadInput, DataError, StudyChanged, WeightsError
from fttune.models import load_model
from fttune.models.cifar_resnet import CifarResNet8
from tests import processes
from tests.recipes import tiny_study, write_experiment, write_study

COLOURS = {"blue": (20, 30, 200), "green": (30, 180, 40), "red": (210, 30, 20)}


def picture_folder(top: Path, *, side: int = 20, each: int = 12) -> Path:
    """Noisy squares of one colour per class, of different sizes."""
    generator = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        for index in range(each):
            noise = generator.normal(0, 25, (side + index, side + 3, 3))
            file = top / name / f"{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(file)
    return top


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Workspace]:
    root = tmp_path_factory.mktemp("searched")
    picture_folder(root / "pictures")
    data = {"source": "folder", "path": "pictures", "image_size": 8, "resize": 10}
    write_experiment(root, data={**data, "split": {"val": 0.3, "test": 0.0}}, training__epochs=3)
    study = tiny_study(root, space={"optimizer.lr": {"type": "float", "low": 0.01, "high": 0.1, "log": True}})
    workspace = Workspace.at(root)
    fttune.search(study, workspace=workspace)
    return study, workspace


def best_of(searched: tuple[Study, Workspace], out: Path) -> Path:
    return export(searched[0], "safetensors", out=out / "best.safetensors", workspace=searched[1])


def test_a_study_is_listed_with_its_best_trial(searched, tmp_path):
    (line,) = list_studies(searched[1])
    assert (line.name, line.state, line.metric, line.trials) == ("tiny", "finished", "val/accuracy", "4 complete")
    code, out, _ = processes.run("list", "--mlruns", str(searched[1].mlruns), "--json", cwd=tmp_path)
    assert code == 0
    (again,) = json.loads(out)
    assert (again["best"], again["best_trial"]) == (line.best, line.best_trial)
    code, out, _ = processes.run("list", "--mlruns", str(searched[1].mlruns), cwd=tmp_path)
    assert "finished" in out
    assert list_studies(Workspace.at(tmp_path)) == []
    code, out, _ = processes.run("list", cwd=tmp_path)
    assert (code, "holds no study yet" in out) == (0, True)
    assert not (tmp_path / "mlruns").exists()


def test_an_exported_recipe_trains_to_the_numbers_of_its_trial(searched, tmp_path):
    study, workspace = searched
    stored = fttune.search(study, workspace=workspace)  # finished: nothing to do
    for trial in stored.trials[:2]:
        file = export(
            study, "experiment", trial=trial.number, out=tmp_path / f"t{trial.number}.yaml", workspace=workspace
        )
        again = fttune.fine_tune(load_experiment(file), workspace=workspace)
        assert again.value == trial.value
    default = export(study, "experiment", workspace=workspace)
    assert default.parent == workspace.root / "experiments"
    with pytest.raises(BadInput, match="is there already"):
        export(study, "experiment", workspace=workspace)


def test_exported_weights_are_those_that_torch_loads(searched, tmp_path):
    file = best_of(searched, tmp_path)
    CifarResNet8(3).load_state_dict(load_file(file))
    assert json.loads(file.with_suffix(".json").read_text())["classes"] == list(COLOURS)


@pytest.mark.parametrize("kind", ["pt2", "onnx", "mlflow"])
def test_an_exported_model_computes_what_the_checkpoint_does(kind, searched, tmp_path):
    if kind == "onnx":
        pytest.importorskip("onnxruntime", reason="the extra fttune[onnx]")
        pytest.importorskip("onnxscript", reason="the extra fttune[onnx]")
    file = export(searched[0], kind, out=tmp_path / f"model.{kind}", workspace=searched[1])
    images = torch.randn(5, 3, 8, 8)
    expected = load_model(best_of(searched, tmp_path))(images).detach()
    if kind == "pt2":
        found = torch.export.load(file).module()(images)
    elif kind == "onnx":
        import onnxruntime

        found = torch.from_numpy(onnxruntime.InferenceSession(str(file)).run(None, {"images": images.numpy()})[0])
    else:
        import mlflow.pytorch

        found = mlflow.pytorch.load_model(str(file))(images)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_export_refuses_what_is_not_there(searched, tmp_path):
    study, workspace = searched
    with pytest.raises(BadInput, match=r"trial 99 of study tiny is not complete; the best one is \d"):
        export(study, "experiment", trial=99, workspace=workspace)
    with pytest.raises(BadInput, match=r"must end with \.safetensors"):
        export(study, "safetensors", out=tmp_path / "v1.2", workspace=workspace)
    (tmp_path / "there.json").write_text("{}")
    with pytest.raises(BadInput, match=r"there.json: is there already"):
        export(study, "safetensors", out=tmp_path / "there.safetensors", workspace=workspace)
    other = study.model_copy(update={"experiment": study.experiment.replace({"training.epochs": 4})})
    with pytest.raises(StudyChanged, match=r"experiment\.training\.epochs: 3 -> 4"):
        export(other, "experiment", workspace=workspace)
    with pytest.raises(BadInput, match="study tiny has not been searched here; run `fttune search`"):
        export(study, "experiment", workspace=Workspace.at(tmp_path))


def test_predictions_on_the_studys_images_have_its_accuracy(searched, tmp_path):
    study, workspace = searched
    checkpoint = best_of(searched, tmp_path)
    sidecar = json.loads(checkpoint.with_suffix(".json").read_text())
    val = fttune.training.prepare(study.experiment, workspace).data.val
    files = [workspace.root / "pictures" / name for name in val.names]
    found = list(predict(checkpoint, files))
    hits = [one.label == one.file.parent.name for one in found]
    assert sum(hits) / len(hits) == pytest.approx(sidecar["metrics"]["val/accuracy"])
    assert all(1 / 3 < one.probability <= 1 for one in found)


def test_predict_takes_folders_and_names_what_it_cannot_read(searched, tmp_path):
    checkpoint = best_of(searched, tmp_path)
    top = picture_folder(tmp_path / "new", each=2)
    (top / "red" / "broken.jpg").write_bytes(b"no image")
    (top / "notes.txt").write_text("passed over")
    code, out, err = processes.run("predict", str(checkpoint), str(top), "--format", "json", cwd=tmp_path)
    found = json.loads(out)
    assert code == 1
    assert "1 of 7 images cannot be read" in err
    assert [Path(one["file"]).name for one in found] == ["0.png", "1.png"] * 2 + ["0.png", "1.png", "broken.jpg"]
    assert found[-1]["problem"] == "not an image, whatever its name says"
    code, out, _ = processes.run("predict", str(checkpoint), str(top / "blue"), "--format", "csv", cwd=tmp_path)
    assert (code, out.splitlines()[0]) == (0, "file,label,probability,problem")


def test_predict_refuses_missing_paths_and_other_files(searched, tmp_path):
    checkpoint = best_of(searched, tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        list(predict(checkpoint, [tmp_path / "nothing"]))
    with pytest.raises(DataError, match="holds no image"):
        list(predict(checkpoint, [tmp_path]))
    with pytest.raises(WeightsError):
        list(predict(tmp_path / "other.safetensors", [tmp_path]))


def test_every_shipped_study_exports_recipes_that_read_back(tmp_path):
    write_study(tmp_path)
    root = Path(__file__).parent.parent.parent
    from fttune.config import load_study
    from fttune.config.dump import experiment_yaml

    for file in sorted((root / "studies").rglob("*.yaml")):
        study = load_study(file)
        for baseline in (*study.baselines, {}):
            recipe = study.experiment.replace(baseline)
            text = experiment_yaml(recipe, ["a line"])
            (tmp_path / "again.yaml").write_text(text)
            again = load_experiment(tmp_path / "again.yaml")
            assert again.model_dump(exclude={"name"}) == recipe.model_dump(exclude={"name"}), yaml.safe_load(text)
