"""The benchmarks compare equal work: both sides of a list of trials find the same metrics."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks import results, scaling
from benchmarks.bare import bare_work
from benchmarks.cold import memory_mib
from benchmarks.pictures import picture_folder
from benchmarks.plain_study import PlainStudy, Plan, run_study
from benchmarks.plain_training import Recipe, Task, Trainer, accuracy_on_test
from benchmarks.probe_accuracy import trials_seconds
from benchmarks.report_size import fill, long_study
from benchmarks.small_tasks import STAGES
from benchmarks.study_vs_plain import (
    COMPARED,
    List,
    differences,
    recipes_of,
    row_of,
    run_fttune,
    scaled_seconds,
    stored_metrics,
    timed_trials,
)
from fttune.app.estimate import TRIAL_SECONDS
from fttune.app.report import report
from fttune.config.workspace import Workspace
from fttune.models.cifar_resnet import cifar_resnet8


@pytest.fixture
def task(tmp_path: Path) -> Task:
    """Few small JPEG files of three classes, and a random net."""
    data = picture_folder(tmp_path / "pictures", {"train": 20, "val": 9, "test": 9}, classes=range(3), width=40)
    torch.manual_seed(0)
    save_file(cifar_resnet8().state_dict(), str(tmp_path / "net.safetensors"))
    weights = tmp_path / "net.safetensors"
    return Task(data, weights, cifar_resnet8, STAGES, image_size=16, resize=18, epochs=2, batch_size=8)


def test_both_sides_of_a_list_find_the_same_metrics(
    task: Task, tmp_path: Path, empty_stores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for side in ("plain", "fttune"):
        (tmp_path / side).mkdir()
        for name in ("optuna.db", "mlflow.db"):
            shutil.copy(empty_stores / name, tmp_path / side / name)
    of = List(task, recipes_of(2, 3))
    plan = Plan(of.space, len(of.recipes), of.recipes, workers=1)
    run_study(task, plan, tmp_path / "plain")
    run_fttune(task, plan, tmp_path / "fttune")
    plain, other = (stored_metrics(tmp_path / side, 3) for side in ("plain", "fttune"))
    losses = [value for trial in plain.values() for value in trial["val/loss"]]
    assert len(set(losses)) == 3 * task.epochs, "trials differ, so that a comparison says something"
    found = differences(plain, other, {0: 0, 1: 1, 2: 2})
    assert found.keys() == set(COMPARED)
    assert max(found.values()) <= 1e-5, found


def test_heads_that_train_at_once_end_as_each_does_alone(task: Task) -> None:
    recipes = [Recipe(0.01, 0.0, 0), Recipe(0.03, 0.9, 0)]
    trainer = Trainer(task)
    expected = [list(trainer.train(recipe))[-1]["val/loss"] for recipe in recipes]
    assert bare_work(task, recipes).last_losses == pytest.approx(dict(enumerate(expected)), abs=1e-5)


def test_training_on_kept_activations_ends_as_training_on_images_does(task: Task) -> None:
    recipes = [Recipe(0.01, 0.9, depth) for depth in (1, 3, 4)]
    trainer = Trainer(task)
    expected = [list(trainer.train(recipe))[-1]["val/loss"] for recipe in recipes]
    assert bare_work(task, recipes).last_losses == pytest.approx(dict(enumerate(expected)), abs=1e-5)


def test_images_in_memory_give_the_metrics_of_images_in_files(task: Task) -> None:
    runs = [list(Trainer(replace(task, in_memory=kept)).train(Recipe(0.01, 0.9, 4))) for kept in (False, True)]
    assert runs[0] == runs[1]


def test_a_checkpoint_of_a_net_that_always_says_the_last_class_is_right_on_a_third(task: Task, tmp_path: Path) -> None:
    trainer = Trainer(task)
    trainer.restore(Recipe(0.01, 0.9, 0))
    state = trainer.model.state_dict()
    state["fc.weight"].zero_()
    state["fc.bias"].copy_(torch.tensor([0.0, 0.0, 1.0]))
    save_file(state, str(tmp_path / "last.safetensors"))
    assert accuracy_on_test(task, tmp_path / "last.safetensors") == 1 / 3


def test_a_list_that_is_too_long_is_timed_on_some_trials_of_each_depth_and_scaled() -> None:
    recipes = recipes_of(1, 10)
    chosen = timed_trials(recipes, all_of_them=False)
    assert chosen == [0, 1, 2, 3, 4, 5]
    timed = PlainStudy(seconds=100.0, trial_seconds=(1.0, 10.0, 2.0, 20.0, 3.0, 30.0))
    assert scaled_seconds(timed, recipes, chosen) == 34 + 5 * 2 + 5 * 20
    assert timed_trials(recipes, all_of_them=True) == list(range(10))


def test_trials_of_a_list_all_differ_and_spread_evenly_over_depths() -> None:
    recipes = recipes_of(5, 24)
    assert len({recipe.lr for recipe in recipes}) == 24
    assert [sum(r.unfrozen_stages == depth for r in recipes) for depth in range(6)] == [4] * 6


def test_a_row_of_the_table_holds_ratio_bound_and_share() -> None:
    pair = {
        "plain_seconds": 30.0,
        "fttune_seconds": 10.0,
        "bare_seconds": {"total": 5.0},
        "scaled": True,
        "plain_mib": 100.0,
        "fttune_mib": 50.0,
        "differences": {**dict.fromkeys(COMPARED, 0.0), "val/loss": 1e-6},
    }
    line = row_of("A", [pair, {**pair, "plain_seconds": 60.0}, {**pair, "plain_seconds": 45.0}])
    assert "45.0*" in line
    assert "4.50 (3.00 .. 6.00)" in line
    assert " 9.0 " in line
    assert "50%" in line
    assert line.endswith("0.50   1.0e-06 val/loss")


def test_results_that_were_cut_off_are_passed_over_and_others_are_found_by_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "results.jsonl"
    results.append(file, {"list": "A", "pair": 0})
    with file.open("a") as lines:
        lines.write('{"list": "A", "pa')
    results.append(file, {"list": "A", "pair": 1})
    results.append(file, {"list": "B", "pair": 0})
    assert [record["pair"] for record in results.matching(file, {"list": "A"})] == [0, 1]
    assert "cut off" in capsys.readouterr().err
    assert results.matching(tmp_path / "none.jsonl", {}) == []


def test_memory_of_a_process_that_has_ended_is_none() -> None:
    assert math.isnan(memory_mib(2**30)) or memory_mib(2**30) == 0.0


def test_trials_of_a_plan_take_the_epochs_of_their_depths() -> None:
    stages = [
        {"unfrozen_stages": depth, "epoch_seconds": seconds} for depth, seconds in ((0, 1.0), (1, None), (2, 3.0))
    ]
    plan = {"epochs": 5, "stages": stages}
    assert trials_seconds(plan, [0, 2, 2]) == pytest.approx(5 * (1 + 3 + 3) + 3 * TRIAL_SECONDS)


def test_the_made_up_long_study_has_a_page_with_trials_of_several_states_and_their_curves(workspace: Workspace) -> None:
    study = long_study(30)
    fill(study, workspace)
    written = report(study, workspace=workspace)
    assert {"complete", "pruned", "diverged"} == set(written.answer.trials)
    assert sum(written.answer.trials.values()) == 30
    assert (written.page.parent / "figures" / "learning-curves.svg").is_file()


def test_a_trial_of_the_scaling_benchmark_sleeps_for_its_length() -> None:
    assert scaling.EXPERIMENT["data"]["limit_per_class"] * 2 == 8 * scaling.STEPS
    took, _ = scaling.measured(seconds=0.08, trials=1, workers=1)
    assert took >= 0.08
