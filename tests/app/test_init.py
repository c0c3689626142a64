"""`fttune init` from a folder to a study that runs."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fttune.config import Study, load
from tests import processes


def pictures(top: Path, *, each: int = 8, side: int = 40) -> Path:
    """Noisy squares of one colour per class."""
    generator = np.random.default_rng(0)
    for label, colour in (("blue", 40), ("red", 200)):
        for index in range(each):
            noise = generator.normal(colour, 30, (side, side + 4, 3))
            file = top / label / f"{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(file)
    return top


def test_what_init_writes_passes_validate_and_searches_two_trials(workspace):
    pictures(workspace.root / "pets")
    code, out, err = processes.run("init", "pets", cwd=workspace.root)
    assert code == 0, err
    assert "all      16" in out and "exact copies: none" in out
    files = ("experiments/pets.yaml", "studies/pets.yaml")
    code, out, err = processes.run("validate", *files, cwd=workspace.root)
    assert (code, err) == (0, "")
    settings = ("backbone.weights=none", "budget.n_trials=2", "training.epochs=1", "training.warmup_epochs=0.0")
    sets = [part for setting in settings for part in ("--set", setting)]
    code, out, err = processes.run("search", files[1], *sets, "--json", cwd=workspace.root)
    assert code == 0, err
    assert [trial["state"] for trial in json.loads(out)["trials"]] == ["complete", "complete"]


def test_json_tells_what_was_seen_and_where_it_was_written(tmp_path):
    pictures(tmp_path / "data" / "pets")
    (tmp_path / "data/pets/red/9.png").write_bytes((tmp_path / "data/pets/blue/0.png").read_bytes())
    code, out, err = processes.run("init", "data/pets", "--name", "mine", "--json", cwd=tmp_path)
    assert code == 0, err
    found = json.loads(out)
    assert found["classes"] == {"blue": {"images": 8}, "red": {"images": 9}}
    assert found["sizes"]["median"] == [44, 40]
    assert found["copies"] == [{"names": ["blue/0.png", "red/9.png"], "classes": ["blue", "red"], "splits": []}]
    study = load(tmp_path / "studies" / "mine.yaml")
    assert isinstance(study, Study)
    assert found["study"] == str(tmp_path / "studies" / "mine.yaml")
    assert study.experiment.data.path == "data/pets"
    for place in ("studies", "experiments"):
        assert (tmp_path / place / "mine.yaml").read_text().startswith("# ")


def test_a_folder_elsewhere_is_named_in_full(tmp_path):
    pictures(tmp_path / "pets")
    (tmp_path / "root").mkdir()
    assert processes.run("init", "../pets", cwd=tmp_path / "root")[0] == 0
    study = load(tmp_path / "root" / "studies" / "pets.yaml")
    assert study.experiment.data.path == str(tmp_path / "pets")


BAD = {
    "no such folder": (["nowhere"], "nowhere: there is no such folder"),
    "a table": (["table.csv"], "table.csv: must be a folder of images; for a table"),
    "no images": (["empty"], "empty: has no image in a class folder; put images into empty/<class>/"),
    "images without class folders": (["pets/red"], "pets/red: has no image in a class folder"),
    "one class": (["solo"], "solo: has one class, 'red', but a classifier needs two"),
    "a taken name": (["pets", "--name", "taken"], "studies/old/taken.yaml: is there already; give another name"),
    "a name that is none": (["pets", "--name", "a/b"], "--name: must be 1 to 100 letters"),
    "the current directory": (["."], "holds the current directory"),
    "splits with other names": (["near"], "splits are called train, val and test"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_message_exit_2_and_nothing_written(name, tmp_path):
    pictures(tmp_path / "pets", each=3)
    pictures(tmp_path / "near" / "training", each=1)
    (tmp_path / "table.csv").write_text("path,label\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "solo").mkdir()
    (tmp_path / "pets" / "red").rename(tmp_path / "solo" / "red")
    pictures(tmp_path / "pets", each=3)
    (tmp_path / "studies" / "old").mkdir(parents=True)
    (tmp_path / "studies" / "old" / "taken.yaml").write_text("x: 1\n")
    arguments, message = BAD[name]
    code, out, err = processes.run("init", *arguments, cwd=tmp_path)
    assert code == 2, err
    assert message in err and "Traceback" not in err
    assert out == ""
    assert {p.name for p in tmp_path.rglob("*.yaml")} == {"taken.yaml"}


def test_a_file_is_never_written_over(tmp_path):
    pictures(tmp_path / "pets")
    assert processes.run("init", "pets", cwd=tmp_path)[0] == 0
    before = (tmp_path / "experiments" / "pets.yaml").read_text()
    (tmp_path / "studies" / "pets.yaml").unlink()
    code, _, err = processes.run("init", "pets", cwd=tmp_path)
    assert code == 2
    assert "experiments/pets.yaml: is there already" in err
    assert (tmp_path / "experiments" / "pets.yaml").read_text() == before
    assert not (tmp_path / "studies" / "pets.yaml").exists()


def test_offline_one_line_says_where_the_weights_belong(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    pictures(tmp_path / "pets")
    from fttune.app.init import init

    said = []
    init(tmp_path / "pets", root=tmp_path, say=said.append)
    (line,) = said
    assert "resnet18-f37072fd.pth" in line and str(tmp_path / "torch" / "hub" / "checkpoints") in line
    (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "torch" / "hub" / "checkpoints" / "resnet18-f37072fd.pth").touch()
    said.clear()
    init(tmp_path / "pets", root=tmp_path, name="again", say=said.append)
    assert said == []
