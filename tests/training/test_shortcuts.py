"""Kept activations, shared models and cohorts give the numbers of the plain path: every run does all itself."""

import dataclasses
import hashlib
import math
from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from fttune.config.data import Views
from fttune.data import ArrayCache, augment, with_views
from fttune.errors import BadInput
from fttune.models import Weights, build_backbone
from fttune.models.cifar_resnet import CifarResNet8
from fttune.models.steps import flatten
from fttune.training import CheckpointFolder, Inputs, fine_tune, prepare
from fttune.training.cohort import plan
from fttune.training.events import EpochEnded, Event, Notice
from fttune.training.fine_tune import FineTuneResult, finish
from fttune.training.folding import folded
from fttune.training.heads import Heads

CLOCKED = ("step_seconds", "epoch_seconds")


@pytest.fixture
def viewed_inputs(make_inputs, tmp_path) -> Callable[[], Inputs]:
    """Return the same inputs at every call, with three views of each training image."""
    inputs = make_inputs(weights=Weights(CifarResNet8(3).state_dict(), "file"))
    train = with_views(inputs.data.train, Views(views=3), image_size=8, arrays=ArrayCache(tmp_path))
    viewed = dataclasses.replace(inputs, data=dataclasses.replace(inputs.data, train=train))
    return lambda: viewed


def numbers(epochs: tuple[EpochEnded, ...]) -> list[dict[str, float]]:
    return [{n: v for n, v in ended.metrics.items() if n not in CLOCKED} for ended in epochs]


def assert_same(found: FineTuneResult, expected: FineTuneResult, *, rel: float) -> None:
    assert len(found.epochs) == len(expected.epochs)
    for a, b in zip(numbers(found.epochs), numbers(expected.epochs), strict=True):
        assert a == pytest.approx(b, rel=rel, abs=rel)
    assert found.step_losses == pytest.approx(expected.step_losses, rel=rel, abs=rel)
    assert (found.best_epoch, found.state) == (expected.best_epoch, expected.state)
    assert found.value == pytest.approx(expected.value, rel=rel)
    assert (found.trainable_parameters, found.parameters) == (expected.trainable_parameters, expected.parameters)


# All examples share one `inputs`, which is the point: whatever an earlier run left there must not matter.
SHARED = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

recipes = st.fixed_dictionaries(
    {
        "freeze__unfrozen_stages": st.sampled_from([0, 0, 1, 2, 3, "all"]),
        "freeze__norm_stats": st.sampled_from(["frozen", "all_frozen", "updated"]),
        "optimizer__lr": st.floats(1e-4, 0.3),
        "optimizer__momentum": st.sampled_from([0.0, 0.5, 0.9]),
        "optimizer__weight_decay": st.sampled_from([0.0, 0.1]),
        "training__batch_size": st.sampled_from([3, 8, 22]),
        "training__schedule": st.sampled_from(["constant", "cosine", "one_cycle", "plateau"]),
        "data__augment": st.sampled_from(["none", "none", "flip"]),
        "training__label_smoothing": st.sampled_from([0.0, 0.1]),
        "seed": st.sampled_from([0, 1]),
    }
)


@SHARED
@given(fields=st.lists(recipes, min_size=2, max_size=4))
def test_runs_that_share_give_the_numbers_of_runs_that_do_not(fields, shared_inputs, make_recipe):
    inputs = shared_inputs()
    for own in fields:
        recipe = make_recipe(**own, training__precision="float64")
        assert_same(fine_tune(recipe, inputs), fine_tune(recipe, inputs.plain()), rel=1e-9)


heads = st.fixed_dictionaries(
    {
        "optimizer__lr": st.floats(1e-4, 0.5),
        "optimizer__momentum": st.sampled_from([0.0, 0.5, 0.9]),
        "optimizer__weight_decay": st.sampled_from([0.0, 0.1]),
        "training__schedule": st.sampled_from(["constant", "cosine", "one_cycle", "plateau"]),
        "freeze": st.sampled_from([{}, {"head": {"lr_mult": 3.0}}, {"preset": "head_only"}]),
        "training__early_stop_epochs": st.sampled_from([None, 1]),
    }
)
common = st.fixed_dictionaries(
    {
        "training__batch_size": st.sampled_from([3, 8, 22]),
        "training__class_weights": st.sampled_from(["none", "balanced"]),
        "training__label_smoothing": st.sampled_from([0.0, 0.1]),
        "data__augment": st.sampled_from(["none", "none", "flip"]),
        "optimizer__clip_grad_norm": st.sampled_from([None, 0.3]),
        "training__epochs": st.sampled_from([1, 4]),
    }
)
optimizers = st.sampled_from([{}, {"optimizer__nesterov": True}, {"optimizer__name": "adamw"}])


@SHARED
@given(own=st.lists(heads, min_size=2, max_size=5), shared=common, optimizer=optimizers)
def test_members_of_a_cohort_train_as_they_would_alone(own, shared, optimizer, shared_inputs, make_recipe):
    inputs = shared_inputs()
    recipes = [make_recipe(**_acting({**one, **shared, **optimizer}), training__precision="float64") for one in own]
    begins = plan(recipes, inputs)
    assert all(begin.func.__name__ == "Member" for begin in begins)
    for recipe, begin in zip(recipes, begins, strict=True):
        assert_same(finish(begin()), fine_tune(recipe, inputs.plain()), rel=1e-9)


VIEWS = {"views": 3}


@SHARED
@given(fields=st.lists(recipes, min_size=2, max_size=3))
def test_runs_that_share_views_give_the_numbers_of_runs_that_do_not(fields, viewed_inputs, make_recipe):
    inputs = viewed_inputs()
    for own in fields:
        recipe = make_recipe(**{**own, "data__augment": VIEWS}, training__precision="float64")
        assert_same(fine_tune(recipe, inputs), fine_tune(recipe, inputs.plain()), rel=1e-9)


@SHARED
@given(own=st.lists(heads, min_size=2, max_size=4), shared=common, optimizer=optimizers)
def test_members_of_a_cohort_see_the_views_they_would_see_alone(own, shared, optimizer, viewed_inputs, make_recipe):
    inputs = viewed_inputs()
    fields = [_acting({**one, **shared, **optimizer, "data__augment": VIEWS}) for one in own]
    recipes = [make_recipe(**one, training__precision="float64") for one in fields]
    for recipe, begin in zip(recipes, plan(recipes, inputs), strict=True):
        assert begin.func.__name__ == "Member"
        assert_same(finish(begin()), fine_tune(recipe, inputs.plain()), rel=1e-9)


def test_trials_with_other_views_do_not_train_together(viewed_inputs, make_recipe):
    recipes = [make_recipe(freeze__unfrozen_stages=0, data__augment={"views": views}) for views in (3, 4)]
    assert [begin.func.__name__ for begin in plan(recipes, viewed_inputs())] == ["Solo", "Solo"]


def test_frozen_stages_run_once_for_all_views_and_nothing_is_said(viewed_inputs, make_recipe, monkeypatch):
    inputs, emitted, seen = viewed_inputs(), [], []
    normalise = Inputs.normalise
    monkeypatch.setattr(Inputs, "normalise", lambda self, x, *a: (seen.append(len(x)), normalise(self, x, *a))[1])
    for lr in (0.01, 0.02):
        recipe = make_recipe(freeze__unfrozen_stages=1, data__augment=VIEWS, optimizer__lr=lr, training__epochs=6)
        fine_tune(recipe, inputs, emit=emitted.append)
    assert not [event for event in emitted if isinstance(event, Notice)]
    # Besides, a few images are timed and compared with a folded model.
    assert 3 * 22 + 12 <= sum(seen) <= 3 * 22 + 12 + 2 * 8


def test_each_epoch_sees_each_image_in_the_view_that_is_drawn_for_it(
    viewed_inputs, make_inputs, make_recipe, monkeypatch
):
    """Expected from the images themselves: `augment`, and torch's generators seeded as documented."""
    part, n, seen = make_inputs().data.train, 22, []
    images = torch.from_numpy(part.images).permute(0, 3, 1, 2)
    views = []
    for view in range(3):
        digest = hashlib.sha256(f"fttune-views-1:{part.key}:{view}".encode()).hexdigest()
        generator = torch.Generator().manual_seed(int(digest[:8], 16))
        views.append([augment(piece, "standard", image_size=8, generator=generator) for piece in images.split(16)])
    stacked = torch.stack([torch.cat(pieces) for pieces in views])  # (3, 22, 3, 8, 8)
    normalise = Inputs.normalise
    monkeypatch.setattr(Inputs, "normalise", lambda self, x, *a: (seen.append(x.clone()), normalise(self, x, *a))[1])
    inputs = viewed_inputs()
    data = dataclasses.replace(inputs.data, val=None)
    fine_tune(make_recipe(data__augment=VIEWS, seed=5), dataclasses.replace(inputs, data=data).plain())
    for epoch in (1, 2):
        seed = 5 * 2654435761 + epoch
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed % 2**32))
        shown = torch.randint(3, (n,), generator=torch.Generator().manual_seed((seed + 2**30) % 2**32))
        batches = seen[(epoch - 1) * 3 : epoch * 3]
        assert torch.equal(torch.cat(batches), stacked[shown[order], order])
    assert len(seen) == 2 * math.ceil(n / 8)


def test_a_cohort_that_fails_leaves_nothing_behind(shared_inputs, make_recipe, monkeypatch):
    recipes = [make_recipe(freeze={}, optimizer__lr=lr, training__precision="float64") for lr in (0.01, 0.1)]
    begins, clone = plan(recipes, shared_inputs()), Heads.clone
    monkeypatch.setattr(Heads, "clone", lambda _: 1 / 0)  # at the end of the first epoch
    with pytest.raises(ZeroDivisionError):
        begins[0]()
    monkeypatch.setattr(Heads, "clone", clone)
    for recipe, begin in zip(recipes, begins, strict=True):
        assert_same(finish(begin()), fine_tune(recipe, shared_inputs().plain()), rel=1e-9)


def test_members_end_as_they_would_after_another_run_has_changed_the_model(shared_inputs, make_recipe, tmp_path):
    inputs, lora = shared_inputs(), {"adapter": {"lora": {"rank": 2, "alpha": 4}}, "unfrozen_stages": 1}
    recipes = [make_recipe(freeze={}, optimizer__lr=lr) for lr in (0.01, 0.1)]
    members = [begin() for begin in plan(recipes, inputs)]
    fine_tune(make_recipe(freeze=lora), inputs)
    for recipe, member in zip(recipes, members, strict=True):
        finish(member, checkpoints=CheckpointFolder(tmp_path / "member"))
        fine_tune(recipe, inputs.plain(), checkpoints=CheckpointFolder(tmp_path / "alone"))
        found, expected = (load_file(tmp_path / name / "best.safetensors") for name in ("member", "alone"))
        assert found.keys() == expected.keys()
        assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in expected)


def test_cohorts_need_no_validation_split_unless_a_recipe_does(make_inputs, make_recipe):
    inputs = make_inputs(val=None)
    recipes = [make_recipe(freeze={}, optimizer__lr=lr, training__precision="float64") for lr in (0.01, 0.1)]
    for recipe, begin in zip(recipes, plan(recipes, inputs), strict=True):
        found, expected = finish(begin()), fine_tune(recipe, inputs.plain())
        assert found.step_losses == pytest.approx(expected.step_losses, rel=1e-9)
        assert (found.value, found.best_epoch) == (None, 2)
    with pytest.raises(BadInput, match="early_stop_epochs needs a validation split"):
        plan([recipes[0], recipes[1].replace({"training.early_stop_epochs": 1})], inputs)[0]()


def _acting(fields: dict) -> dict:
    """Without what cannot stand beside the optimizer."""
    if fields.get("optimizer__name") == "adamw":
        return {name: value for name, value in fields.items() if name != "optimizer__momentum"}
    if fields.get("optimizer__nesterov"):
        return {**fields, "optimizer__momentum": fields["optimizer__momentum"] or 0.5}
    return fields


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "densenet121", "googlenet", "vit_b_16"])
def test_a_folded_model_computes_the_same_and_the_model_itself_is_as_before(name):
    backbone = build_backbone(name, Weights(None, "none"), classes=("a", "b"), seed=0)
    backbone.module.double().eval()
    for norm in (m for m in backbone.module.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.running_mean.uniform_(-0.2, 0.2)
        norm.running_var.uniform_(0.5, 2.0)
    before = {key: tensor.clone() for key, tensor in backbone.module.state_dict().items()}
    side = 224 if name == "vit_b_16" else 64
    images = torch.randn(2, 3, side, side, dtype=torch.float64)
    with torch.no_grad():
        fast = folded(backbone, lambda one: one.outputs(images).logits)
        assert torch.allclose(fast.module(images), backbone.module(images), rtol=1e-9, atol=1e-9)
    norms = [sum(isinstance(m, torch.nn.BatchNorm2d) for m in b.module.modules()) for b in (fast, backbone)]
    assert norms[0] < norms[1] or name == "vit_b_16"
    assert all(torch.equal(tensor, before[key]) for key, tensor in backbone.module.state_dict().items())


class OutOfOrder(CifarResNet8):
    """A net whose stages leave out what its forward does between them."""

    stages: ClassVar = {"stem": ["conv1", "bn1", "relu"], "rest": ["layer1", "layer2", "layer3", "avgpool", flatten]}
    head = "fc"

    def forward(self, images):
        x = -self.relu(self.bn1(self.conv1(images)))
        return self.fc(flatten(self, self.avgpool(self.layer3(self.layer2(self.layer1(x))))))


def test_a_model_that_cannot_be_run_by_its_stages_runs_as_a_whole(workspace, make_recipe):
    torch.manual_seed(0)
    recipe = make_recipe(data__limit_per_class=4, data__classes=(0, 1, 2), freeze__unfrozen_stages=0)
    inputs = prepare(recipe, workspace, module=OutOfOrder(3))
    emitted: list[Event] = []
    assert_same(fine_tune(recipe, inputs, emit=emitted.append), fine_tune(recipe, inputs.plain()), rel=1e-9)
    said = [event.text for event in emitted if isinstance(event, Notice)]
    assert said == ["frozen stages run for every batch anew: plugin:OutOfOrder cannot be run stage by stage"]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"freeze": {"unfrozen_stages": 1}}, None),
        ({"freeze": {"unfrozen_stages": "all"}}, None),
        ({"freeze": {"unfrozen_stages": 1}, "data__augment": "flip"}, "data.augment: flip shows other images"),
        ({"freeze": {"unfrozen_stages": 1, "norm_stats": "updated"}}, "freeze.norm_stats: updated moves"),
        ({"freeze": {"train": {"first": 2}}}, "the first stage, stem, trains"),
        ({"freeze": {"train": {"regex": "^conv1"}}}, "the first stage, stem, trains"),
    ],
)
def test_one_line_says_why_frozen_stages_run_for_every_batch(fields, why, shared_inputs, make_recipe):
    emitted: list[Event] = []
    fine_tune(make_recipe(**fields), shared_inputs(), emit=emitted.append)
    said = [event.text for event in emitted if isinstance(event, Notice)]
    assert len(said) == (why is not None)
    assert all(text.startswith(f"frozen stages run for every batch anew: {why}") for text in said)
