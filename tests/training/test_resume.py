"""A training that was cut off goes on where it stood, and comes to what it would have come to, bit for bit."""

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from fttune.errors import Interrupted
from fttune.interruption import interrupt, uninterrupted
from fttune.training import CheckpointFolder, FineTuneResult, finish, plan, resume
from fttune.training.events import Described, EpochEnded
from fttune.training.step import Step
from fttune.training.training import Solo

TIMES = ("step_seconds", "epoch_seconds")
RECIPES: dict[str, dict[str, Any]] = {
    "sgd": {},
    "adamw, clipped, early stop": {
        "optimizer": {"name": "adamw", "lr": 0.01, "clip_grad_norm": 0.5},
        "training__early_stop_epochs": 2,
    },
    "gradual unfreezing": {
        "freeze": {"phases": [{"unfrozen_stages": 0, "epochs": 1}, {"unfrozen_stages": 2, "epochs": 3}]},
        "optimizer__momentum": 0.9,
    },
    "linear probe until a plateau": {
        "freeze": {
            "phases": [
                {"unfrozen_stages": 0, "until_plateau": {"patience_epochs": 1}},
                {"unfrozen_stages": "all", "epochs": 2},
            ]
        }
    },
    "fresh augmentation, cosine": {"data__augment": "flip", "training__schedule": "cosine"},
    "autofreeze": {"freeze": {"auto": "autofreeze"}},
    "auto-rgn": {"freeze": {"auto": "rgn"}, "training__schedule": "plateau"},
    "lora": {"freeze": {"preset": "lora"}},
    "updated statistics": {"freeze": {"unfrozen_stages": 1, "norm_stats": "updated"}},
}


@pytest.fixture(autouse=True)
def states_after_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a state after every epoch, as long ones do."""
    monkeypatch.setattr(resume, "EVERY_SECONDS", 0.0)


@contextmanager
def cut_at(step: int | None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let SIGTERM arrive in the middle of a step, counted from 1 over the whole training."""
    made, real = 0, Step.__call__

    def call(self: Step, x: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal made
        made += 1
        if made == step:
            interrupt(signal.SIGTERM)
        return real(self, x, labels)

    with monkeypatch.context() as patched:
        patched.setattr(Step, "__call__", call)
        yield


def told(result: FineTuneResult, folder: Path) -> tuple[Any, ...]:
    """All that a training came to, but for how long it took."""
    epochs = [{n: v for n, v in ended.metrics.items() if n not in TIMES} for ended in result.epochs]
    tensors = safetensors.torch.load_file(folder / "best.safetensors")
    return result.state, result.best_epoch, result.value, epochs, result.step_losses, _bytes(tensors)


def _bytes(tensors: Mapping[str, torch.Tensor]) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


@pytest.mark.parametrize("fields", RECIPES.values(), ids=RECIPES.keys())
def test_a_training_interrupted_in_any_step_ends_as_one_that_was_not(
    fields, make_recipe, shared_inputs, tmp_path, monkeypatch
):
    experiment = make_recipe(**{"training__epochs": 4, **fields})

    def train(folder: Path) -> FineTuneResult:
        return finish(Solo(experiment, shared_inputs().plain()), checkpoints=CheckpointFolder(folder, states=folder))

    whole = told(train(tmp_path / "whole"), tmp_path / "whole")
    for step in range(1, len(whole[4]) + 1, 2):
        folder = tmp_path / str(step)
        with cut_at(step, monkeypatch), pytest.raises(Interrupted):
            train(folder)
        with cut_at(2, monkeypatch), suppress(Interrupted):  # and once more, where there are two more steps
            train(folder)
        assert told(train(folder), folder) == whole, step


def test_an_interruption_loses_no_step(make_recipe, shared_inputs, tmp_path, monkeypatch):
    files, trained = CheckpointFolder(tmp_path, states=tmp_path), []
    experiment = make_recipe(training__epochs=2)
    with cut_at(5, monkeypatch), pytest.raises(Interrupted):
        finish(Solo(experiment, shared_inputs()), checkpoints=files)
    real = Step.__call__
    monkeypatch.setattr(Step, "__call__", lambda self, *batch: trained.append(1) or real(self, *batch))
    result = finish(Solo(experiment, shared_inputs()), checkpoints=files)
    assert len(trained) == len(result.step_losses) - 5


def test_epochs_before_the_cut_are_told_again_with_their_own_time(make_recipe, shared_inputs, tmp_path, monkeypatch):
    files, first, second = CheckpointFolder(tmp_path, states=tmp_path), [], []
    with cut_at(7, monkeypatch), pytest.raises(Interrupted):
        finish(Solo(make_recipe(training__epochs=3), shared_inputs()), emit=first.append, checkpoints=files)
    finish(Solo(make_recipe(training__epochs=3), shared_inputs()), emit=second.append, checkpoints=files)
    before = [event for event in first if isinstance(event, EpochEnded)]
    after = [event for event in second if isinstance(event, EpochEnded)]
    assert len(before) == 2
    assert after[:2] == before
    assert len(after) == 3
    assert Described({"fttune.resumed_after_epoch": "2"}) in second


@pytest.mark.parametrize("damage", ["flip", "truncate", "json", "gone"])
def test_a_damaged_state_is_passed_over_for_the_one_before(damage, make_recipe, shared_inputs, tmp_path, monkeypatch):
    experiment, files = make_recipe(training__epochs=5), CheckpointFolder(tmp_path / "cut", states=tmp_path / "cut")
    whole = finish(Solo(experiment, shared_inputs()), checkpoints=CheckpointFolder(tmp_path / "whole"))
    with cut_at(13, monkeypatch), pytest.raises(Interrupted):
        finish(Solo(experiment, shared_inputs()), checkpoints=files)
    states = sorted(files.folder.glob("resume-*.safetensors"))
    assert len(states) == 2
    _damage(states[-1], damage)
    events = []
    result = finish(Solo(experiment, shared_inputs()), emit=events.append, checkpoints=files)
    assert told(result, files.folder) == told(whole, tmp_path / "whole")
    assert Described({"fttune.resumed_after_epoch": "4"}) in events


def _damage(file: Path, kind: str) -> None:
    if kind == "flip":
        content = bytearray(file.read_bytes())
        content[-3] ^= 1
        file.write_bytes(content)
    elif kind == "truncate":
        file.write_bytes(file.read_bytes()[:-100])
    elif kind == "json":
        file.with_suffix(".json").write_text('{"owner": ')
    else:
        file.unlink()


def test_a_state_of_another_recipe_or_other_images_is_not_taken(make_recipe, make_inputs, tmp_path, monkeypatch):
    files = CheckpointFolder(tmp_path, states=tmp_path)
    with cut_at(4, monkeypatch), pytest.raises(Interrupted):
        finish(Solo(make_recipe(), make_inputs()), checkpoints=files)
    for experiment in (make_recipe(optimizer__lr=0.06), make_recipe(seed=1), make_recipe(training__epochs=3)):
        assert resume.Kept(tmp_path, Solo(experiment, make_inputs()).owner).load() is None
    assert resume.Kept(tmp_path, Solo(make_recipe(), make_inputs(), monitor="val/accuracy").owner).load() is None
    assert resume.Kept(tmp_path, Solo(make_recipe(), make_inputs()).owner).load() is not None


def test_two_states_are_there_at_most(make_recipe, make_inputs, tmp_path):
    finish(
        Solo(make_recipe(training__epochs=6), make_inputs()), checkpoints=CheckpointFolder(tmp_path, states=tmp_path)
    )
    assert [file.name for file in sorted(tmp_path.glob("resume-*.safetensors"))] == [
        "resume-000005.safetensors",
        "resume-000006.safetensors",
    ]


def test_short_trainings_write_no_state(make_recipe, make_inputs, tmp_path, monkeypatch):
    monkeypatch.undo()
    finish(
        Solo(make_recipe(training__epochs=6), make_inputs()), checkpoints=CheckpointFolder(tmp_path, states=tmp_path)
    )
    assert not list(tmp_path.glob("resume-*"))


@pytest.mark.parametrize("optimizer", [{"name": "sgd", "momentum": 0.9}, {"name": "adamw"}], ids=["sgd", "adamw"])
def test_a_cohort_goes_on_after_its_last_whole_epoch(optimizer, make_recipe, shared_inputs, tmp_path, monkeypatch):
    base = {"freeze__unfrozen_stages": 0, "training__epochs": 5}
    recipes = [make_recipe(**base, optimizer={**optimizer, "lr": lr}) for lr in (0.1, 0.03, 0.01)]

    def train(folder: Path) -> list[tuple[Any, ...]]:
        begins = plan(recipes, shared_inputs().plain(), folder=folder)
        places = [folder / str(index) for index in range(len(recipes))]
        results = [finish(begin(), checkpoints=CheckpointFolder(p)) for begin, p in zip(begins, places, strict=True)]
        return [told(result, place) for result, place in zip(results, places, strict=True)]

    whole, epochs = train(tmp_path / "whole"), []
    with monkeypatch.context() as patched:
        _cut_cohort_in(3, epochs, patched)
        with pytest.raises(Interrupted):
            train(tmp_path / "cut")
    epochs.clear()
    _cut_cohort_in(None, epochs, monkeypatch)
    assert train(tmp_path / "cut") == whole
    assert epochs == [3, 4, 5]


def _cut_cohort_in(last: int | None, epochs: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    from fttune.training.head_trainer import Trainer

    real: Callable[..., Any] = Trainer.epoch

    def epoch(self: Trainer, number: int, *arguments: Any) -> Any:
        epochs.append(number)
        found = real(self, number, *arguments)
        if number == last:
            interrupt(signal.SIGINT)
        return found

    monkeypatch.setattr(Trainer, "epoch", epoch)


def test_an_interruption_within_a_block_is_raised_at_its_end():
    reached = []
    with pytest.raises(Interrupted) as raised, uninterrupted():
        with uninterrupted():
            interrupt(signal.SIGTERM)
            reached.append("inner")
        reached.append("outer")
    assert reached == ["inner", "outer"]
    assert raised.value.exit_code == 143
    with pytest.raises(Interrupted):
        interrupt(signal.SIGINT)
