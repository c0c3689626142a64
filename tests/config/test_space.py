"""Conditions: when a parameter acts, what is refused, the order of asking, and grids over conditional spaces."""

import itertools
import json

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .examples import experiment, study
from .test_study import DEPTH, GRID, LR, MOMENTUM, Recorder, oneof, space_problems

NAME = oneof("sgd", "adamw")
DECAY = {"type": "float", "low": 0.5, "high": 1.0}


def when(distribution, **conditions):
    return {**distribution, "when": {field.replace("__", "."): value for field, value in conditions.items()}}


def asked(space, answers, base=None):
    """What a trial is asked when it answers so, in order."""
    trial = Recorder()
    trial.answers = answers
    study(base=base, space=space).suggest(trial)
    return [call[1] for call in trial.asked]


@pytest.mark.parametrize(
    ("condition", "lr", "holds"),
    [
        (0.01, 0.01, True),
        (0.01, 0.02, False),
        ([0.01, 0.05], 0.05, True),
        ([0.01, 0.05], 0.02, False),
        ({"min": 0.02}, 0.02, True),
        ({"min": 0.02}, 0.01, False),
        ({"max": 0.02}, 0.02, True),
        ({"min": 0.01, "max": 0.02}, 0.03, False),
    ],
)
def test_a_condition_is_a_value_a_list_or_bounds(condition, lr, holds):
    space = {"optimizer.lr": LR, "optimizer.weight_decay": when(LR, optimizer__lr=condition)}
    names = asked(space, {"optimizer.lr": lr, "optimizer.weight_decay": 0.01})
    assert names == ["optimizer.lr", *(["optimizer.weight_decay"] if holds else [])]


def test_what_is_not_asked_keeps_what_the_experiment_says():
    space = {
        "data.augment": oneof("none", "flip"),
        "training.label_smoothing": when({**DECAY, "high": 0.9}, data__augment="flip"),
    }
    s = study(base=experiment(training__label_smoothing=0.1), space=space)
    trial = Recorder(data__augment="none")
    assert s.sample(trial).training.label_smoothing == 0.1
    trial = Recorder(data__augment="flip", training__label_smoothing=0.5)
    assert s.sample(trial).training.label_smoothing == 0.5


def test_a_condition_may_look_at_a_fixed_field():
    space = {"optimizer.lr": LR, "optimizer.momentum": when(MOMENTUM, data__augment=["none", "flip"])}
    assert asked(space, {"optimizer.lr": 0.1, "optimizer.momentum": 0.5}) == ["optimizer.lr", "optimizer.momentum"]


def test_parents_are_asked_before_children_whatever_the_order_in_the_file():
    space = {
        "optimizer.weight_decay": when(LR, optimizer__momentum={"min": 0.5}),
        "optimizer.momentum": MOMENTUM,
        "seed": {"type": "int", "low": 0, "high": 1},
        "optimizer.name": NAME,
    }
    answers = {"optimizer.weight_decay": 0.1, "optimizer.momentum": 0.5, "seed": 0, "optimizer.name": "sgd"}
    assert asked(space, answers) == ["seed", "optimizer.name", "optimizer.momentum", "optimizer.weight_decay"]


@pytest.mark.parametrize(
    ("field", "distribution", "parent", "acting", "idle"),
    [
        ("optimizer.momentum", MOMENTUM, "optimizer.name", "sgd", "adamw"),
        ("optimizer.nesterov", oneof(False), "optimizer.name", "sgd", "adamw"),
        ("optimizer.elr", LR, "optimizer.name", "sgd", "adamw"),
        ("training.step_epochs", {"type": "int", "low": 1, "high": 2}, "training.schedule", "step", "cosine"),
        ("training.power", DECAY, "training.schedule", "polynomial", "cosine"),
        ("training.plateau_factor", {**DECAY, "high": 0.9}, "training.schedule", "plateau", "cosine"),
        ("training.warmup_epochs", DECAY, "training.schedule", "cosine", "one_cycle"),
        ("freeze.layer_decay", DECAY, "freeze.unfrozen_stages", 1, 0),
        ("freeze.layer_decay", DECAY, "freeze.unfrozen_stages", 0.2, 0.1),
        ("freeze.stage_lr.layer3", LR, "freeze.train", "all", "none"),
        ("freeze.stage_lr.layer3", LR, "freeze.train", {"first": 1}, {"last": 0}),
        ("freeze.penalty.l2_sp", DECAY, "freeze.preset", "full", "head_only"),
        ("freeze.adapter.lora.rank", {"type": "int", "low": 1, "high": 2}, "freeze.preset", "full", "head_only"),
        ("freeze.k", {"type": "int", "low": 1, "high": 2}, "freeze.preset", "last_k", "full"),
        ("freeze.head.lr_mult", DECAY, "freeze.head.frozen", False, True),
    ],
)
def test_a_parameter_that_cannot_act_is_not_asked(field, distribution, parent, acting, idle):
    base = experiment(freeze__unfrozen_stages=1) if parent == "freeze.head.frozen" else experiment()
    space = {field: distribution, parent: oneof(acting, idle), "seed": {"type": "int", "low": 0, "high": 1}}
    if field == "training.step_epochs":
        base = experiment(training__step_epochs=1, training__schedule="step")
    assert space_problems(space, base) == []
    answers = {field: distribution.get("low", False), "seed": 1}
    s = study(base=base, space=space)
    for value, expected in ((acting, True), (idle, False)):
        trial = Recorder()
        trial.answers = {**answers, parent: json.dumps(value) if isinstance(value, dict) else value}
        assert (field in s.suggest(trial)) == expected
        assert s.experiment.refusal(s.suggest(trial)) is None
    assert s.searched.is_conditional


REFUSED = [
    ({"optimizer.nam": "sgd"}, "optimizer.nam", "is not a field of the experiment; did you mean 'optimizer.name'?"),
    ({"optimizer.momentum": 0.5}, "optimizer.momentum", "a condition looks at other fields, not at its own"),
    ({"data.augment": "flip"}, "data.augment", "can never hold: data.augment is 'none', got 'flip'"),
    (
        {"optimizer.lr": {"min": 0.5}},
        "optimizer.lr",
        "can never hold within the space of optimizer.lr, got {'min': 0.5}",
    ),
    ({"optimizer.lr": {}}, "optimizer.lr", "must hold min, max or both, as numbers with min <= max, got {}"),
    (
        {"optimizer.lr": {"min": 2, "max": 1}},
        "optimizer.lr",
        "must hold min, max or both, as numbers with min <= max, got {'min': 2, 'max': 1}",
    ),
    ({"optimizer.lr": None}, "optimizer.lr", "must be a value, a list of values, or min and max, got None"),
    ({"optimizer.lr": []}, "optimizer.lr", "must be a value, a list of values, or min and max, got []"),
    (
        {"optimizer.lr": {"mni": 1}},
        "optimizer.lr",
        "must be a value, a list of values, or min and max, got the key 'mni'",
    ),
]


@pytest.mark.parametrize(("conditions", "field", "message"), REFUSED)
def test_a_mistaken_condition_gives_one_problem_at_its_field(conditions, field, message):
    space = {"optimizer.lr": LR, "optimizer.momentum": {**MOMENTUM, "when": conditions}}
    assert space_problems(space) == [f"space.optimizer.momentum.when.{field}: {message}"]


def test_conditions_that_lead_back_to_their_own_field_are_refused_once():
    space = {
        "optimizer.lr": when(LR, optimizer__weight_decay=0.0),
        "optimizer.weight_decay": when(DECAY, data__augment="flip"),
        "data.augment": when(oneof("none", "flip"), optimizer__lr={"min": 0.01}),
    }
    assert space_problems(space) == [
        "space.optimizer.lr.when.optimizer.weight_decay: leads back: whether optimizer.weight_decay acts depends on "
        "optimizer.lr itself"
    ]
    implicit = {"optimizer.name": when(NAME, optimizer__momentum={"min": 0.5}), "optimizer.momentum": MOMENTUM}
    assert [line.partition(":")[0] for line in space_problems(implicit)] == [
        "space.optimizer.name.when.optimizer.momentum"
    ]


def test_conditions_that_hold_only_apart_are_refused():
    space = {
        "optimizer.lr": LR,
        "data.augment": when(oneof("flip"), optimizer__lr={"max": 0.01}),
        "optimizer.momentum": when(MOMENTUM, data__augment="flip", optimizer__lr={"min": 0.05}),
    }
    assert space_problems(space) == ["space.optimizer.momentum.when: these conditions can never hold together"]


def test_what_can_never_act_in_the_experiment_is_refused():
    assert space_problems({"optimizer.momentum": MOMENTUM}, experiment(optimizer__name="adamw")) == [
        "space.optimizer.momentum: can never act, since optimizer.name is 'adamw'; take it out of the space"
    ]


def test_two_alternatives_are_searched_only_under_conditions_that_exclude_each_other():
    both = {"optimizer.lr": LR, "optimizer.elr": LR}
    rule = "only one of {} and {} can be set, but a trial may draw both; give one a when"
    assert space_problems(both) == [f"space.optimizer.elr: {rule.format('optimizer.lr', 'optimizer.elr')}"]
    assert space_problems({**both, "optimizer.name": NAME, "optimizer.lr": when(LR, optimizer__name="adamw")}) == []
    ways = {"freeze.train.first": {"type": "int", "low": 0, "high": 2}, "freeze.unfrozen_stages": DEPTH}
    expected = rule.format("freeze.train.first", "freeze.unfrozen_stages")
    assert space_problems(ways) == [f"space.freeze.unfrozen_stages: {expected}"]


def test_ends_are_tried_only_where_they_can_occur():
    names = oneof("cifar_resnet8", "resnet18")
    deep = {**DEPTH, "high": 5}
    assert space_problems({"backbone.name": names, "freeze.unfrozen_stages": deep}) == [
        "space.freeze.unfrozen_stages.high: must be 0..4 (the stages are stem, layer1, layer2, layer3), got 5"
    ]
    where = when(deep, backbone__name="resnet18")
    assert space_problems({"backbone.name": names, "freeze.unfrozen_stages": where}) == []
    share = {"type": "float", "low": 0.0, "high": 1.0}
    assert space_problems({"backbone.name": names, "freeze.unfrozen_stages": share}) == []
    smoothing = {
        "training.label_smoothing": when({**DECAY, "high": 1.5}, optimizer__lr={"min": 0.05}),
        "optimizer.lr": LR,
    }
    assert space_problems(smoothing) == ["space.training.label_smoothing.high: must be < 1, got 1.5"]


def test_a_condition_on_depth_counts_stages_however_depth_is_written():
    space = {
        "freeze.unfrozen_stages": oneof(0, 1, 0.5, "all"),
        "freeze.layer_decay": when(DECAY, freeze__unfrozen_stages={"min": 2}),
    }
    for depth, acts in ((0, False), (1, False), (0.5, True), ("all", True)):
        names = asked(space, {"freeze.unfrozen_stages": depth, "freeze.layer_decay": 0.5})
        assert ("freeze.layer_decay" in names) == acts


def test_choices_may_be_mappings_and_lists_that_optuna_stores_as_text():
    space = {"freeze.train": oneof("all", "none", {"first": 1}, {"stages": ["layer1", "layer3"]})}
    s = study(space=space)
    texts = ("all", "none", '{"first": 1}', '{"stages": ["layer1", "layer3"]}')
    trial = Recorder()
    trial.answers = {"freeze.train": texts[3]}
    assert s.sample(trial).freeze.train.stages == ("layer1", "layer3")
    assert trial.asked == [("categorical", "freeze.train", texts)]
    for choice, text in zip(s.space["freeze.train"].choices, texts, strict=True):
        assert s.recipe({"freeze.train": text}) == s.experiment.replace({"freeze.train": choice})
        optuna.distributions.CategoricalDistribution(texts).to_internal_repr(text)
    assert space_problems(space, baselines=[{"freeze.train": {"first": 1}}]) == []
    assert space_problems(space, baselines=[{"freeze.train": {"first": 2}}]) != []


def test_a_baseline_gives_what_acts_and_what_decides_about_it():
    space = {"optimizer.name": NAME, "optimizer.momentum": MOMENTUM, "optimizer.lr": LR}
    sgd = {"optimizer.name": "sgd", "optimizer.momentum": 0.5}
    assert space_problems(space, baselines=[sgd, {"optimizer.lr": 0.1}, {"optimizer.name": "adamw"}]) == []
    assert space_problems(space, baselines=[{"optimizer.momentum": 0.5}, {**sgd, "optimizer.name": "adamw"}]) == [
        "baselines[0].optimizer.momentum: acts or not with optimizer.name; give a value for that too",
        "baselines[1].optimizer.momentum: cannot act beside the other values; leave it out",
    ]
    grid = {**space, "optimizer.lr": oneof(0.1), "optimizer.momentum": oneof(0.5, 0.9)}
    assert space_problems(grid, sampler=GRID, baselines=[{"optimizer.name": "adamw", "optimizer.lr": 0.1}]) == []
    assert space_problems(grid, sampler=GRID, baselines=[{"optimizer.name": "sgd", "optimizer.lr": 0.1}]) == [
        "baselines[0]: sampler grid needs a value for each field of the space; optimizer.momentum is missing"
    ]


def test_a_grid_has_each_point_of_a_conditional_space_once():
    space = {"optimizer.momentum": oneof(0.0, 0.9), "optimizer.name": NAME, "optimizer.lr": oneof(0.1, 0.2)}
    s = study(space=space, sampler=GRID, budget={"n_trials": 100})
    expected = [
        {"optimizer.name": "sgd", "optimizer.momentum": m, "optimizer.lr": lr}
        for m, lr in itertools.product((0.0, 0.9), (0.1, 0.2))
    ] + [{"optimizer.name": "adamw", "optimizer.lr": lr} for lr in (0.1, 0.2)]
    assert s.grid() == expected
    assert s.total_trials == 6


def test_the_size_of_a_conditional_grid_is_that_of_its_points():
    parts = [f"freeze.stage_lr.layer{i}" for i in (1, 2, 3)]
    space = {"freeze.unfrozen_stages": oneof(0, 1), **{part: {**LR, "points": 21} for part in parts}}
    assert space_problems(space, sampler=GRID) == []
    many = {**space, "seed": {"type": "int", "low": 0, "high": 1}}
    assert space_problems(many, sampler=GRID) == ["space: the grid must have at most 10000 points, got more"]


def test_cmaes_takes_no_space_with_conditions():
    space = {"optimizer.lr": LR, "optimizer.momentum": when(MOMENTUM, optimizer__lr={"min": 0.05})}
    rule = "cmaes searches all its numbers in every trial, but this space has conditions; use tpe"
    assert space_problems(space, sampler={"type": "cmaes"}) == [f"sampler.type: {rule}"]


PARAMETERS = {
    "optimizer.name": NAME,
    "optimizer.momentum": {"type": "float", "low": 0.1, "high": 0.9},
    "optimizer.weight_decay": {"type": "float", "low": 0.0, "high": 1.0},
    "data.augment": oneof("none", "flip"),
    "freeze.unfrozen_stages": DEPTH,
    "freeze.layer_decay": DECAY,
    "training.label_smoothing": {"type": "float", "low": 0.0, "high": 0.9},
}
CONDITIONS = {
    "optimizer.name": st.sampled_from(["sgd", "adamw", ["sgd"]]),
    "optimizer.weight_decay": st.sampled_from([{"min": 0.3}, {"max": 0.7}, {"min": 0.2, "max": 0.4}]),
    "data.augment": st.sampled_from(["none", "flip"]),
    "freeze.unfrozen_stages": st.sampled_from([0, {"min": 1}, [2, "all"], {"max": 3}]),
}


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_every_trial_of_an_accepted_conditional_space_is_a_recipe(data):
    space = {}
    for name in data.draw(st.lists(st.sampled_from(sorted(PARAMETERS)), min_size=2, unique=True)):
        parents = data.draw(st.lists(st.sampled_from(sorted(CONDITIONS)), max_size=2, unique=True))
        space[name] = {**PARAMETERS[name], "when": {parent: data.draw(CONDITIONS[parent]) for parent in parents}}
    if space_problems(space):
        return
    s = study(space=space)
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=data.draw(st.integers(0, 99)))).ask()
    values = s.suggest(trial)
    assert s.experiment.refusal(values) is None
    told = s.experiment.replace(values).params()
    for name in space:
        acts = all(meets(told.get(field), condition) for field, condition in space[name]["when"].items())
        acts &= name != "optimizer.momentum" or told["optimizer.name"] == "sgd"
        acts &= name != "freeze.layer_decay" or told["freeze.unfrozen_stages"] != 0
        assert (name in values) == acts


def meets(value, condition):
    value, condition = stages(value), [*map(stages, condition)] if isinstance(condition, list) else condition
    if isinstance(condition, dict):
        return condition.get("min", -9) <= value <= condition.get("max", 9)
    return value in condition if isinstance(condition, list) else value == condition


def stages(depth):
    """A net of four stages has four unfrozen when all are."""
    return 4 if depth == "all" else depth
