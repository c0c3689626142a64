import hashlib
import json
from importlib.metadata import version

import pytest
import torch
import torchvision
from safetensors.torch import load_file

import fttune
from fttune.models import load_model, load_weights
from fttune.training import CheckpointFolder, fine_tune, library_versions
from fttune.training.events import FileSaved


@pytest.fixture
def run(tmp_path, make_inputs, make_recipe):
    """Train and return the result and the folder of its checkpoints."""

    def fine_tuned(name="run", *, keep_last=True, monitor=None, emit=lambda _: None, prune=lambda _: False, **fields):
        inputs = make_inputs()
        checkpoints = CheckpointFolder(tmp_path / name, keep_last=keep_last)
        options = {"monitor": monitor, "emit": emit, "prune": prune, "checkpoints": checkpoints}
        return fine_tune(make_recipe(**fields), inputs, **options), tmp_path / name

    return fine_tuned


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_best_checkpoint_is_plain_torchvisions_own_state_dict(tmp_path, make_inputs, make_recipe):
    recipe = make_recipe(
        backbone__name="resnet18", data__image_size=32, data__resize=32, training__epochs=1, training__batch_size=11
    )
    result = fine_tune(recipe, make_inputs(side=32), checkpoints=CheckpointFolder(tmp_path))
    assert result.checkpoint == tmp_path / "best.safetensors"
    torchvision.models.resnet18(num_classes=3).load_state_dict(load_file(result.checkpoint), strict=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.json", "best.safetensors"]


def test_best_holds_the_best_epochs_weights_and_last_the_last_ones(run):
    """A run that ends at the best epoch of a longer one has the same weights there: nothing depends on `epochs`."""
    long, folder = run("long", training__epochs=5, optimizer__lr=0.3, monitor="val/accuracy")
    best = long.best_epoch
    assert best < 5, "the last epoch must not be the best one for this test to say something"
    _, short = run("short", training__epochs=best, optimizer__lr=0.3)
    assert same(load_file(folder / "best.safetensors"), load_file(short / "last.safetensors"))
    assert not same(load_file(folder / "best.safetensors"), load_file(folder / "last.safetensors"))


def test_the_json_tells_everything_about_its_weights(run):
    result, folder = run(optimizer__lr=0.1, training__epochs=3)
    for name, epoch in (("best", result.best_epoch), ("last", 3)):
        about = json.loads((folder / f"{name}.json").read_text())
        assert about["sha256"] == hashlib.sha256((folder / f"{name}.safetensors").read_bytes()).hexdigest()
        assert about["epoch"] == epoch
        assert about["metrics"] == result.epochs[epoch - 1].metrics
        assert about["classes"] == ["class0", "class1", "class2"]
        assert about["name"] == "tiny"
        assert about["experiment"]["optimizer"]["lr"] == 0.1
        assert about["experiment"]["optimizer"]["momentum"] == 0.9, "defaults are filled in"
        assert about["preprocessing"] == {
            "resize": 8,
            "crop": 8,
            "interpolation": "bilinear",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
        }
        assert about["versions"]["torch"] == version("torch")


def test_the_experiment_in_the_json_is_the_recipe_itself(run, make_recipe):
    _, folder = run(optimizer__name="adamw", optimizer__momentum=None)
    about = json.loads((folder / "best.json").read_text())
    read = fttune.Experiment.model_validate({**about["experiment"], "name": about["name"]})
    assert read == make_recipe(optimizer__name="adamw", optimizer__momentum=None)


def test_a_loaded_model_computes_what_the_run_measured(run, make_inputs):
    result, folder = run(training__epochs=3)
    inputs = make_inputs()
    model = load_model(folder / "best.safetensors")
    with torch.no_grad():
        logits = model(inputs.normalise(torch.from_numpy(inputs.data.val.images).permute(0, 3, 1, 2)))
    loss = torch.nn.functional.cross_entropy(logits, inputs.data.val.labels).item()
    assert loss == pytest.approx(result.value, abs=1e-6)


def test_a_checkpoint_is_where_another_run_begins(run, make_inputs, make_recipe):
    """Its head is kept, because it stands for the same classes; so the first loss is where the last run ended."""
    _, folder = run(training__epochs=3)
    recipe = make_recipe(freeze__unfrozen_stages=0, optimizer__lr=1e-9, training__epochs=1)
    weights = load_weights(recipe.backbone, root=folder, file=folder / "last.safetensors")
    result = fine_tune(recipe, make_inputs(weights=weights))
    last = json.loads((folder / "last.json").read_text())
    assert result.value == pytest.approx(last["metrics"]["val/loss"], abs=1e-5)


def test_every_written_file_is_announced(run):
    events = []
    _, folder = run(emit=events.append)
    saved = [event for event in events if isinstance(event, FileSaved)]
    names = ["best.safetensors", "best.json", "last.safetensors", "last.json"]
    assert saved == [FileSaved(folder / name, "checkpoint") for name in names]
    assert events[-4:] == saved
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)


def test_only_the_best_is_written_unless_the_last_is_asked_for(run):
    _, folder = run(keep_last=False)
    assert sorted(path.name for path in folder.iterdir()) == ["best.json", "best.safetensors"]


def test_a_pruned_run_keeps_its_best_epoch(run):
    result, folder = run(prune=lambda ended: ended.epoch == 2, training__epochs=5)
    assert result.state == "pruned"
    assert json.loads((folder / "last.json").read_text())["epoch"] == 2
    assert json.loads((folder / "best.json").read_text())["epoch"] == result.best_epoch


def test_library_versions_name_what_can_change_a_result():
    versions = library_versions()
    assert versions["fttune"] == fttune.__version__
    assert versions["torch"] == version("torch")
    assert sorted(versions) == ["fttune", "numpy", "pillow", "python", "torch", "torchvision"]
