import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import torch
import yaml
from PIL import Image

import fttune
from fttune import cli
from fttune.config.distributions import Float
from fttune.config.workspace import Workspace
from tests import processes
from tests.recipes import write_experiment, write_study
from tests.stored import runs_of

HEAVY = (
    "torch",
    "torchvision",
    "mlflow",
    "optuna",
    "pandas",
    "numpy",
    "sklearn",
    "matplotlib",
    "sqlalchemy",
    "psycopg",
)
COMMANDS = [command.name or command.callback.__name__ for command in cli.app.registered_commands]


def modules_after(*arguments: str, cwd: Path) -> tuple[int, set[str]]:
    """Run `fttune` in a fresh interpreter; return its exit code and which heavy modules it imported."""
    code = (
        f"import sys; sys.argv = ['fttune', *{arguments!r}]\n"
        "from fttune.cli import main\n"
        "try: main()\n"
        f"finally: print('HEAVY', [m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)
    return done.returncode, set(re.findall(r"'(\w+)'", done.stderr.rpartition("HEAVY")[2]))


def test_help_and_validate_import_nothing_heavy(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    assert modules_after("--help", cwd=tmp_path) == (0, set())
    assert modules_after("validate", str(study), cwd=tmp_path) == (0, set())
    assert modules_after("validate", str(study), "--json", "--set", "batch=1", cwd=tmp_path) == (0, set())


def test_bad_yaml_is_found_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    study = write_study(tmp_path, batch=0)
    for command in ("train", "search", "lr"):
        assert modules_after(command, str(study), cwd=tmp_path) == (2, set())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_stands_in_the_docs(command: str, tmp_path: Path) -> None:
    code, out, _ = processes.run(command, "--help", cwd=tmp_path)
    assert code == 0
    assert out.strip()
    guide = Path(__file__).parent.parent / "docs" / "guide.md"
    assert f"fttune {command}" in guide.read_text()


def test_version_is_the_packages(tmp_path: Path) -> None:
    code, out, _ = processes.run("--version", cwd=tmp_path)
    assert (code, out) == (0, f"fttune {fttune.__version__}\n")


def test_validate_names_every_problem_of_every_file(tmp_path: Path) -> None:
    good, bad = write_experiment(tmp_path), write_experiment(tmp_path, "bad", seed=-1, optimizer__lr=0.0)
    worse = write_study(tmp_path, "worse", batch=0)
    code, out, err = processes.run("validate", str(good), str(bad), str(worse), cwd=tmp_path)
    assert code == 2
    assert out == f"{good}: ok (experiment)\n"
    assert f"{bad}: optimizer.lr: must be > 0, got 0.0" in err.replace("0.0, got", "0, got")
    assert f"{bad}: seed: must be >= 0, got -1" in err
    assert f"{worse}: batch: must be >= 1, got 0" in err
    assert "Traceback" not in err


def test_train_prints_json_that_holds_every_step(workspace: Workspace) -> None:
    write_experiment(workspace.root)
    code, out, err = processes.run("train", "experiments/tiny.yaml", "--json", cwd=workspace.root)
    assert code == 0, err
    found = json.loads(out)
    assert [epoch["epoch"] for epoch in found["epochs"]] == [1, 2]
    assert len(found["step_losses"]) == 2 * 3  # 24 images in batches of 8
    assert "trainable 77.6k of 77.6k parameters: stem, layer1, layer2, layer3, head; device cpu" in err
    assert "epoch 2/2, train/loss" in err


def test_without_room_for_the_cache_memory_takes_over_and_it_is_said_once(workspace: Workspace) -> None:
    write_experiment(workspace.root)
    code, out, err = processes.run("train", "experiments/tiny.yaml", "--json", "--cache-gb", "0", cwd=workspace.root)
    assert code == 0, err
    assert err.count("has no room") == 1 and "raise --cache-gb" in err
    assert not list(workspace.arrays.rglob("*.npy"))
    code, cached, err = processes.run("train", "experiments/tiny.yaml", "--json", cwd=workspace.root)
    assert json.loads(cached)["step_losses"] == json.loads(out)["step_losses"]
    assert "has no room" not in err and len(list(workspace.arrays.rglob("*.npy"))) == 2


def test_a_negative_cache_is_refused(tmp_path: Path) -> None:
    write_experiment(tmp_path)
    code, _, err = processes.run("train", "experiments/tiny.yaml", "--cache-gb", "-1", cwd=tmp_path)
    assert code == 2
    assert "the size of the cache is '-1.0' GB, but must be a number from 0" in err


def test_lr_draws_the_loss_and_proposes_a_range_that_a_study_takes(workspace: Workspace) -> None:
    write_experiment(workspace.root)
    store = (workspace.mlruns / "mlflow.db").read_bytes()
    code, out, err = processes.run("lr", "experiments/tiny.yaml", cwd=workspace.root)
    assert code == 0, err
    line = out.splitlines()[-1]
    space = yaml.safe_load(line)
    write_study(workspace.root, "next", space=space)
    study = fttune.load_study(workspace.root / "studies" / "next.yaml")
    lr = study.space["optimizer.lr"]
    assert isinstance(lr, Float)
    assert 1e-6 < lr.low < lr.high < 1
    assert "step 10/100, lr" in err
    with Image.open(workspace.mlruns / "lr" / "tiny.png") as figure:
        assert figure.format == "PNG"
    found = json.loads(processes.run("lr", "experiments/tiny.yaml", "--json", cwd=workspace.root)[1])
    assert found["proposed"] == {"low": lr.low, "high": lr.high}
    assert found["curve"][0]["lr"] == pytest.approx(1e-6)
    assert set(found["curve"][0]) == {"lr", "loss", "smoothed"}
    assert (workspace.mlruns / "mlflow.db").read_bytes() == store


def test_lr_says_when_the_loss_never_fell(workspace: Workspace) -> None:
    write_experiment(workspace.root)
    arguments = ("--low", "1e-9", "--high", "1e-8", "--steps", "50", "--out", "here/flat.png")
    code, out, err = processes.run("lr", "experiments/tiny.yaml", *arguments, cwd=workspace.root)
    assert (code, err.splitlines()[-1]) == (
        1,
        "tiny: the loss never fell, so no range is proposed; try other --low and --high",
    )
    assert "optimizer.lr" not in out
    assert (workspace.root / "here" / "flat.png").is_file()
    code, out, _ = processes.run("lr", "experiments/tiny.yaml", *arguments, "--json", cwd=workspace.root)
    assert (code, json.loads(out)["proposed"]) == (1, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--low", "1", "--high", "1"), "--high: must be above --low (1), got 1; try 1e-6 to 1"),
        (("--low", "0"), "--low: must be a finite number > 0, got 0; try 1e-6 to 1"),
        (("--high", "inf"), "--high: must be a finite number > 0, got inf; try 1e-6 to 1"),
        (("--steps", "49"), "--steps: must be 50..100000, got 49; 100 is a good number"),
        (("--out", "a.jpg"), "must be a file that ends in .png, got"),
        (("--out", "experiments/tiny.yaml/a.png"), "cannot be written; name a file in a folder that can"),
    ],
)
def test_lr_refuses_what_cannot_be_swept_before_it_works(
    arguments: tuple[str, str], message: str, workspace: Workspace
) -> None:
    write_experiment(workspace.root)
    code, out, err = processes.run("lr", "experiments/tiny.yaml", *arguments, cwd=workspace.root)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not (workspace.mlruns / "cache").exists()


def test_set_replaces_fields_of_experiment_and_study(workspace: Workspace) -> None:
    write_study(workspace.root)
    code, out, err = processes.run(
        "search",
        "studies/tiny.yaml",
        "--set",
        "training.epochs=1",
        "--set",
        "budget.n_trials=2",
        "--set",
        "space.freeze.unfrozen_stages.high=0",
        "--json",
        cwd=workspace.root,
    )
    assert code == 0, err
    found = json.loads(out)
    assert len(found["trials"]) == 2
    assert {t["freeze.unfrozen_stages"] for t in found["trials"]} == {0}
    assert {t["best_epoch"] for t in found["trials"]} == {1}


def test_search_prints_the_best_trials_and_the_link_that_compares_them(workspace: Workspace) -> None:
    write_study(workspace.root)
    code, out, err = processes.run("search", "studies/tiny.yaml", cwd=workspace.root)
    assert code == 0, err
    assert "study tiny: 4 complete" in out
    assert re.search(r"number +state +value +optimizer\.lr +freeze\.unfrozen_stages", out)
    assert "http://127.0.0.1:5000/#/compare-runs?runs=" in out
    assert "trial-0003: complete, value" in err
    code, out, err = processes.run("search", "studies/tiny.yaml", cwd=workspace.root)
    assert (code, err) == (0, "tiny: study tiny is finished: nothing to do\n")


def test_mlruns_moves_the_whole_generated_folder(workspace: Workspace) -> None:
    write_experiment(workspace.root)
    workspace.mlruns.rename(workspace.root / "other")
    code, _, err = processes.run("train", "experiments/tiny.yaml", "--mlruns", "other", cwd=workspace.root)
    assert code == 0, err
    assert not workspace.mlruns.exists()
    assert list((workspace.root / "other" / "artifacts" / "tiny").iterdir())


def folder(root: Path, **images: int) -> Path:
    """Make `<root>/images/<class>/<n>.png` with so many images for each class."""
    for name, count in images.items():
        (root / "images" / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (8, 8), (index, 0, 0)).save(root / "images" / name / f"{index}.png")
    return root / "images"


BAD_INPUTS = {
    "no such file": (["train", "experiments/none.yaml"], "experiments/none.yaml: cannot be read"),
    "not yaml": (["train", "images/a/9.png"], "images/a/9.png: must be a mapping"),
    "unknown override": (["train", "experiments/tiny.yaml", "--set", "optimizer.l=1"], "did you mean 'lr'"),
    "override without value": (["train", "experiments/tiny.yaml", "--set", "seed"], "must be dotted.field=value"),
    "unknown option": (["train", "experiments/tiny.yaml", "--sett", "seed=1"], "No such option"),
    "unreadable image": (["train", "experiments/images.yaml"], "a/9.png"),
    "missing folder": (["train", "experiments/images.yaml", "--set", "data.path=nowhere"], "nowhere"),
    "bad weights": (["train", "experiments/tiny.yaml", "--set", "backbone.weights=weights.pth"], "weights.pth"),
    "missing weights": (["train", "experiments/tiny.yaml", "--set", "backbone.weights=no.pth"], "no.pth"),
    "weights of another net": (
        ["train", "experiments/tiny.yaml", "--set", "backbone.weights=other.pth"],
        "other.pth do not fit",
    ),
    "early stopping without validation": (
        ["train", "experiments/tiny.yaml", "--set", "training.early_stop_epochs=1", "--set", "data.split.val=0.0"],
        "needs a validation split",
    ),
    "missing class": (["train", "experiments/tiny.yaml", "--set", "data.classes=[0, 11]"], "11"),
    "missing device": (["train", "experiments/tiny.yaml", "--set", "training.device=cuda:7"], "cuda:7 is not there"),
    "no validation split": (["search", "studies/tiny.yaml", "--set", "data.split.val=0.0"], "data.split.val is 0"),
    "top-5 of three classes": (
        ["search", "studies/tiny.yaml", "--set", "metric=val/top5_accuracy"],
        "more than 5 classes",
    ),
    "a last batch of one image": (
        ["search", "studies/tiny.yaml", "--set", "backbone.name=resnet18", "--set", "training.batch_size=23"],
        "training.batch_size is 23",
    ),
    "tracking without a scheme": (
        ["search", "studies/tiny.yaml", "--set", "tracking.uri=foo"],
        "tracking.uri: must be a URL",
    ),
    "storage without a scheme": (["search", "studies/tiny.yaml", "--set", "storage=foo"], "storage: must be a URL"),
    "unusable mlruns": (["train", "experiments/tiny.yaml", "--mlruns", "weights.pth"], "cannot be written"),
    "monitor without validation": (
        ["train", "experiments/tiny.yaml", "--set", "training.monitor=val/accuracy", "--set", "data.split.val=0.0"],
        "training.monitor needs a validation split",
    ),
    "a typo in a policy, before any image is read": (
        ["train", "experiments/images.yaml", "--set", "freeze.train.frist=2"],
        "freeze.train: must be one of last, first, stages, window, params, regex, got 'frist'; did you mean 'first'?",
    ),
    "a pattern that fits no parameter, before any image is read": (
        ["train", "experiments/images.yaml", "--set", "freeze.train.regex=layer9"],
        "freeze.train.regex: 'layer9' fits no parameter",
    ),
    "an impossible window, before any image is read": (
        ["train", "experiments/images.yaml", "--set", "freeze.train.window=[2, 9]"],
        "freeze.train.window: must lie within 0..3",
    ),
    "a contradiction, before any image is read": (
        ["train", "experiments/images.yaml", "--set", "freeze.train=none", "--set", "freeze.head.frozen=true"],
        "freeze.head.frozen: must be false where no stage trains: nothing would train",
    ),
    "deeper than the backbone": (
        ["search", "studies/tiny.yaml", "--set", "space.freeze.unfrozen_stages.high=9"],
        "must be 0..4",
    ),
    "nothing to show": (["ui"], "holds no runs yet"),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_input_is_one_message_exit_2_and_nothing_written(name: str, tmp_path: Path) -> None:
    folder(tmp_path, a=5, b=5)
    (tmp_path / "images" / "a" / "9.png").write_bytes(b"not an image")
    (tmp_path / "weights.pth").write_bytes(b"garbage")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    write_study(tmp_path)
    write_experiment(tmp_path, "images", data={"source": "folder", "path": "images", "image_size": 8})
    arguments, message = BAD_INPUTS[name]
    code, out, err = processes.run(*arguments, cwd=tmp_path)
    assert code == 2, err
    assert message in err
    assert "Traceback" not in err
    assert out == ""
    written = {path.relative_to(tmp_path) for path in tmp_path.rglob("mlruns/*")}
    assert written <= {Path("mlruns/cache")}  # decoded images, which are no harm


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    code, _, err = processes.run("--debug", "train", "nowhere.yaml", cwd=tmp_path)
    assert code == 2
    assert "Traceback" in err


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_in_order_and_the_same_command_continues(
    signum: signal.Signals, code: int, workspace: Workspace
) -> None:
    write_study(workspace.root, budget__n_trials=8)
    arguments = ("search", "studies/tiny.yaml", "--set", "training.epochs=5", "--json")
    command = processes.start(*arguments, cwd=workspace.root)
    command.wait_for("trial-0002: trainable")
    command.send(signum)
    assert command.wait(30) == code, command.err.read_text()
    assert command.err.read_text().endswith("interrupted; run the same command again\n")
    assert "RUNNING" not in set(runs_of(workspace.mlflow_uri)["status"])
    states = [t.state.name for t in optuna.load_study(study_name="tiny", storage=workspace.optuna_uri).trials]
    assert "RUNNING" in states
    assert "FAIL" not in states
    ended, out, err = processes.run(*arguments, cwd=workspace.root)
    assert ended == 0, err
    assert [t["state"] for t in json.loads(out)["trials"]] == ["complete"] * 8


IN_A_DESTRUCTOR = """
import os, signal, time
from fttune.cli.main import _install_signal_handlers
from fttune.errors import Interrupted

class Last:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

_install_signal_handlers()
try:
    Last()
    time.sleep(60)
except Interrupted as interruption:
    print(interruption.exit_code)
"""


def test_a_signal_in_a_destructor_is_not_lost() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_A_DESTRUCTOR], capture_output=True, text=True, timeout=50, check=True
    )
    assert (done.stdout, done.stderr) == ("143\n", "")


def test_two_searches_at_once_give_one_message(workspace: Workspace) -> None:
    write_study(workspace.root)
    first = processes.start("search", "studies/tiny.yaml", cwd=workspace.root)
    first.wait_for("trial-0000: trainable")
    first.send(signal.SIGSTOP, group=True)
    code, _, err = processes.run("search", "studies/tiny.yaml", cwd=workspace.root)
    assert code == 1
    owner = re.search(r"study tiny is being searched by process (\d+) on ", err)
    assert owner and os.getpgid(int(owner[1])) == first.process.pid
    first.send(signal.SIGCONT, group=True)
    assert first.wait() == 0


def test_the_python_names_of_the_package_are_these() -> None:
    assert sorted(fttune.__all__) == [
        "Experiment",
        "FttuneError",
        "Study",
        "best_experiment",
        "compare",
        "confirm",
        "export",
        "fine_tune",
        "load_experiment",
        "load_study",
        "predict",
        "search",
        "train",
        "train_final",
    ]
    for name in fttune.__all__:
        assert getattr(fttune, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        fttune.nothing  # noqa: B018


def test_a_study_that_only_diverged_says_so_instead_of_an_empty_table(workspace: Workspace) -> None:
    write_study(workspace.root, space={"optimizer.lr": {"type": "categorical", "choices": [1.0e20]}})
    code, out, err = processes.run("search", "studies/tiny.yaml", "--set", "budget.n_trials=2", cwd=workspace.root)
    assert code == 0, err
    assert out == (
        "study tiny: 2 diverged\nno trial is complete; the lines above and the tag fttune.cause in MLflow say why\n"
    )


def test_models_lists_backbones_without_torch_as_text_and_as_json(tmp_path: Path) -> None:
    code, out, err = processes.run("models", "resnet1?", "--json", cwd=tmp_path)
    assert code == 0, err
    [entry] = json.loads(out)
    assert entry["name"] == "resnet18"
    assert entry["stages"][0] == {"name": "stem", "parameters": 64 * 3 * 49 + 2 * 64}
    assert (entry["parameters"], entry["weights"]) == (11_689_512, ["IMAGENET1K_V1"])
    code, out, _ = processes.run("models", "resnet18", cwd=tmp_path)
    assert (code, out.splitlines()[0]) == (0, "resnet18: 11,689,512 parameters; weights: IMAGENET1K_V1")
    assert modules_after("models", cwd=tmp_path) == (0, set())


def test_an_unknown_model_is_answered_with_the_nearest(tmp_path: Path) -> None:
    code, _, err = processes.run("models", "resnt50", cwd=tmp_path)
    assert code == 2
    assert "nearest: resnet50" in err


def test_train_without_the_plugin_asks_for_it_and_writes_nothing(tmp_path: Path) -> None:
    write_experiment(tmp_path, backbone__name="plugin:mynet")
    code, _, err = processes.run("train", "experiments/tiny.yaml", cwd=tmp_path)
    assert code == 2
    assert "plugin:mynet needs its file: add --plugin FILE.py" in err
    assert "Traceback" not in err
