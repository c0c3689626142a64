import math
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage

from fttune.config import Study
from fttune.config.workspace import Workspace
from fttune.errors import BadInput
from fttune.searching import (
    Descriptors,
    Outcome,
    beginning,
    kept_starts,
    newest_generation,
    open_storage,
    open_study,
    warm_start,
)
from fttune.searching.warm_start import CONFIGURATIONS, distance
from tests.recipes import tiny_study
from tests.searching.inline import search

LR = {"optimizer.lr": {"type": "float", "low": 0.001, "high": 0.1, "log": True}}
IDENTITY = {"metric": "val/accuracy", "experiment.task": "classification", "experiment.backbone.name": "cifar_resnet8"}
NEAR, FAR = Descriptors(5, 10.0), Descriptors(50, 10.0)


@pytest.fixture
def storage(workspace: Workspace) -> RDBStorage:
    return open_storage(workspace.optuna_uri, locks=workspace.locks)


def named(root: Path, name: str, **fields: Any) -> Study:
    given = {"space": LR, "budget": {"n_trials": 8}, "batch": 2, **fields}
    return tiny_study(root, **given).model_copy(update={"name": name})


def run(study: Study, storage: RDBStorage, data: Descriptors = NEAR, **identity: str) -> optuna.Study:
    """Search a study whose value is best at an lr of 0.03."""
    whole = {**IDENTITY, **identity}
    stored = open_study(
        study, storage, whole, beginning=lambda: beginning(data, warm_start(study, storage, whole, data))
    )
    search(study, stored, lambda asked: Outcome("complete", -abs(math.log(asked.values["optimizer.lr"] / 0.03))))
    return stored


def best(stored: optuna.Study, count: int) -> list[tuple[int, float]]:
    trials = sorted(stored.trials, key=lambda trial: -trial.value)
    return [(trial.number, trial.params["optimizer.lr"]) for trial in trials[:count]]


def test_the_distance_is_that_of_sizes_and_of_features_where_these_compare() -> None:
    one = Descriptors(5, 10.0, "net", (1.0, 2.0))
    assert distance(one, one) == 0
    assert distance(one, Descriptors(10, 40.0, "net", (1.0, 2.0))) == pytest.approx(math.log(2) + math.log(4))
    assert distance(one, Descriptors(5, 10.0, "net", (4.0, 4.0))) == pytest.approx(3 / 3 + math.log(2))
    assert distance(one, Descriptors(5, 10.0, "other", (1.0, 2.0))) == 1
    assert distance(one, Descriptors(5, 10.0)) == 1
    assert distance(one, Descriptors(5, 10.0, "net", (1.0, 0.0))) == 1


def test_a_study_begins_with_the_best_configurations_of_the_one_it_names(tmp_path: Path, storage: RDBStorage) -> None:
    source = run(named(tmp_path, "old", budget={"n_trials": 12}), storage)
    stored = run(named(tmp_path, "new", warm_start={"from": ["old"]}, budget={"n_trials": 11}), storage)
    expected = best(source, CONFIGURATIONS)
    assert [trial.params["optimizer.lr"] for trial in stored.trials[:CONFIGURATIONS]] == [lr for _, lr in expected]
    came_from = [trial.user_attrs.get("fttune.warm_start") for trial in stored.trials]
    assert came_from == [*(f"old/{number}" for number, _ in expected), None, None, None]
    kept = kept_starts(stored)
    assert kept is not None and [(s.study, s.trial, s.params) for s in kept] == [
        ("old", number, {"optimizer.lr": lr}) for number, lr in expected
    ]
    assert [start.value for start in kept] == [source.trials[number].value for number, _ in expected]


def test_baselines_come_first_and_what_equals_one_is_not_asked_again(tmp_path: Path, storage: RDBStorage) -> None:
    source = run(named(tmp_path, "old"), storage)
    (_, first), (second, _) = best(source, 2)
    study = named(tmp_path, "new", warm_start={"from": ["old"]}, baselines=[{"optimizer.lr": first}])
    stored = run(study, storage)
    assert stored.trials[0].params == {"optimizer.lr": first}
    assert stored.trials[1].user_attrs["fttune.warm_start"] == f"old/{second}"
    assert sum(trial.params["optimizer.lr"] == first for trial in stored.trials) == 1


def test_a_search_that_goes_on_asks_for_them_once(tmp_path: Path, storage: RDBStorage) -> None:
    run(named(tmp_path, "old"), storage)
    first = run(named(tmp_path, "new", warm_start={"from": ["old"]}, budget={"n_trials": 2}), storage)
    assert len([t for t in first.trials if t.state.is_finished()]) == 2
    stored = run(named(tmp_path, "new", warm_start={"from": ["old"]}), storage)
    assert len(stored.trials) == 8
    assert sum("fttune.warm_start" in trial.user_attrs for trial in stored.trials) == CONFIGURATIONS


def test_auto_takes_from_the_nearest_data_first_and_only_from_its_own_kind(tmp_path: Path, storage: RDBStorage) -> None:
    far = run(named(tmp_path, "far"), storage, FAR)
    near = run(named(tmp_path, "near", sampler={"type": "random", "seed": 1}), storage, NEAR)
    run(named(tmp_path, "vit"), storage, NEAR, **{"experiment.backbone.name": "vit_b_16"})
    run(named(tmp_path, "boxes"), storage, NEAR, **{"experiment.task": "detection"})
    study = named(tmp_path, "new", warm_start={"from": "auto"})
    warm = warm_start(study, storage, IDENTITY, NEAR)
    assert warm is not None
    assert [s.source for s in warm.starts[::2]] == [f"near/{number}" for number, _ in best(near, 4)]
    assert [s.source for s in warm.starts[1::2]] == [f"far/{number}" for number, _ in best(far, 4)]
    told = ", ".join(start.source for start in warm.starts)
    assert warm.notices == (f"warm start: begins with the configurations of {told}",)
    turned = warm_start(study, storage, IDENTITY, FAR)
    assert turned is not None and turned.starts[0].study == "far"


def test_auto_that_finds_nothing_says_so(tmp_path: Path, storage: RDBStorage) -> None:
    warm = warm_start(named(tmp_path, "new", warm_start={"from": "auto"}), storage, IDENTITY, NEAR)
    assert warm is not None and warm.starts == ()
    assert warm.notices == ("warm start: found no earlier study that fits",)
    assert warm_start(named(tmp_path, "new"), storage, IDENTITY, NEAR) is None


@pytest.mark.parametrize(
    ("name", "identity", "rule"),
    [
        ("od", {}, r"names od, but no such study was searched in this store; did you mean 'old'\?"),
        ("old@2", {}, "names old@2, but no such study"),
        (
            "old",
            {"experiment.backbone.name": "resnet18"},
            "its backbone cifar_resnet8 is of another family than resnet18",
        ),
        ("old", {"experiment.task": "detection"}, "its task is classification, and this one's detection"),
    ],
)
def test_a_source_that_cannot_be_used_is_refused_before_anything_is_made(
    name: str, identity: dict[str, str], rule: str, tmp_path: Path, storage: RDBStorage
) -> None:
    run(named(tmp_path, "old"), storage)
    with pytest.raises(BadInput, match=rule):
        run(named(tmp_path, "new", warm_start={"from": [name]}), storage, **identity)
    assert optuna.get_all_study_names(storage) == ["old"]


def test_a_source_without_a_complete_trial_is_refused(tmp_path: Path, storage: RDBStorage) -> None:
    open_study(named(tmp_path, "old"), storage, IDENTITY)
    with pytest.raises(BadInput, match="names old, but it has no complete trial"):
        warm_start(named(tmp_path, "new", warm_start={"from": ["old"]}), storage, IDENTITY, NEAR)


def test_what_does_not_fit_is_told_once(tmp_path: Path, storage: RDBStorage) -> None:
    wide = {"optimizer.lr": LR["optimizer.lr"], "optimizer.momentum": {"type": "float", "low": 0.0, "high": 0.9}}
    run(named(tmp_path, "old", space=wide), storage)
    narrow = {"optimizer.lr": {**LR["optimizer.lr"], "high": 0.0011}}
    warm = warm_start(named(tmp_path, "new", space=narrow, warm_start={"from": ["old"]}), storage, IDENTITY, NEAR)
    assert warm is not None and [start.params for start in warm.starts] == [{"optimizer.lr": 0.0011}]
    assert warm.notices[1:] == (
        "warm start from old: optimizer.momentum cannot be set here and was left out",
        "warm start from old: optimizer.lr was moved to the nearest value of this space",
    )


def test_a_generation_that_was_killed_before_it_was_begun_is_taken_up(tmp_path: Path, storage: RDBStorage) -> None:
    study = named(tmp_path, "old")
    run(study, storage)
    optuna.create_study(study_name="old@2", storage=storage, direction="maximize")
    newest = newest_generation("old", storage)
    assert newest is not None and newest.study_name == "old"
    assert open_study(study, storage, {**IDENTITY, "a": "2"}, new=True).study_name == "old@2"
    newest = newest_generation("old", storage)
    assert newest is not None and newest.study_name == "old@2"
