import itertools

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fttune.config import Study
from fttune.config.problems import problems_of
from fttune.config.sections import VAL_METRICS

from .examples import ABSENT, experiment, study, study_fields

PRUNER_TYPES = "median, successive_halving, hyperband, wilcoxon, none"

LR = {"type": "float", "low": 0.001, "high": 0.1, "log": True}
MOMENTUM = {"type": "float", "low": 0.0, "high": 0.99}
DEPTH = {"type": "int", "low": 0, "high": 4}


def problems(changes, base=None) -> list[str]:
    """The problems of the smallest study with some fields changed."""
    fields = study_fields({"experiment": base or experiment(), **changes})
    try:
        Study.model_validate(fields)
    except ValidationError as error:
        return [f"{problem.field}: {problem.message}" for problem in problems_of(error, Study)]
    return []


def space_problems(space, base=None, **changes) -> list[str]:
    return problems({"space": space, **changes}, base)


def oneof(*choices):
    return {"type": "categorical", "choices": list(choices)}


def test_a_study_searches_with_tpe_for_accuracy_and_prunes_nothing_unless_told_otherwise():
    s = study()
    assert (s.metric, s.direction, s.sampler.type, s.sampler.seed) == ("val/accuracy", "maximize", "tpe", 0)
    assert (s.pruner.type, s.budget.max_failed, s.budget.timeout_minutes) == ("none", 5, None)
    assert (s.baselines, s.storage, s.tracking.uri, s.name, s.retries) == ((), None, None, "study", 2)


DEPTHS = {"freeze.unfrozen_stages": {"type": "int", "low": 0, "high": 2}}
DEEP = experiment(freeze__unfrozen_stages=2)


@pytest.mark.parametrize(
    ("base", "fields", "batch"),
    [
        (None, {"space": DEPTHS}, 1),
        (DEEP, {}, 1),
        (DEEP, {"sampler": {"type": "gp"}}, 1),
        (DEEP, {"pruner": {"type": "median"}}, 1),
        (DEEP, {"batch": 5}, 5),
        (None, {}, 8),  # all train the head alone
        (None, {"batch": 1}, 1),
        (DEEP, {"sampler": {"type": "random"}}, 8),
        (None, {"space": DEPTHS, "sampler": {"type": "grid"}}, 8),
        (DEEP, {"pruner": {"type": "successive_halving"}}, 8),
        (DEEP, {"pruner": {"type": "hyperband"}}, 8),
    ],
)
def test_trials_are_asked_one_by_one_unless_told_otherwise_or_nothing_is_learned_by_that(base, fields, batch):
    assert study(base, **fields).batch == batch


# field: (right values, {wrong value: message})
FIELDS = [
    ("metric", ["val/accuracy", "val/macro_f1"], {5: "must be text, got 5"}),
    (
        "metric",
        [],
        {
            "accuracy": "must be one of val/loss, val/accuracy, val/balanced_accuracy, val/macro_f1, "
            "val/top5_accuracy, got 'accuracy'; did you mean 'val/accuracy'?"
        },
    ),
    (
        "direction",
        ["maximize"],
        {
            "minimize": "must be maximize for val/accuracy, got 'minimize'",
            "max": "must be one of maximize, minimize, got 'max'",
            None: "must be one of maximize, minimize, got None",
        },
    ),
    ("budget", [], {None: "must be a mapping of fields, got None", 5: "must be a mapping of fields, got 5"}),
    ("budget", [], {ABSENT: "required field is missing"}),
    ("budget.n_trials", [1, 10**6], {0: "must be >= 1, got 0", 1.5: "must be a whole number, got 1.5"}),
    ("budget.n_trials", [], {ABSENT: "required field is missing", True: "must be a whole number, got True"}),
    ("budget.timeout_minutes", [None, 0.5, 60], {0: "must be > 0, got 0", "1h": "must be a number, got '1h'"}),
    ("budget.max_failed", [1], {0: "must be >= 1, got 0"}),
    ("budget.timeout_minuts", [], {5: "unknown key; did you mean 'timeout_minutes'?"}),
    ("batch", [1, 64], {0: "must be >= 1, got 0", None: "must be a whole number, got None"}),
    ("sampler", [{}], {"tpe": "must be a mapping of fields, got 'tpe'", None: "must be a mapping of fields, got None"}),
    (
        "sampler.type",
        ["tpe", "random", "gp"],
        {"bayes": "must be one of tpe, random, grid, gp, cmaes, got 'bayes'; did you mean 'cmaes'?"},
    ),
    ("sampler.seed", [0, 7], {-1: "must be >= 0, got -1"}),
    (
        "pruner",
        [],
        {None: "must be a mapping of fields, got None", "median": "must be a mapping of fields, got 'median'"},
    ),
    (
        "pruner.type",
        ["median", "successive_halving", "hyperband", "none"],
        {
            "mean": f"must be one of {PRUNER_TYPES}, got 'mean'; did you mean 'median'?",
            None: f"must be one of {PRUNER_TYPES}, got None; did you mean 'none'?",
            5: f"must be one of {PRUNER_TYPES}, got 5",
        },
    ),
    ("space", [], {None: "must be a mapping of fields, got None", 5: "must be a mapping of fields, got 5"}),
    ("space", [], {ABSENT: "required field is missing"}),
    ("retries", [0, 9], {-1: "must be >= 0, got -1", None: "must be a whole number, got None"}),
    ("storage", [None, "sqlite:///x.db"], {5: "must be text, got 5"}),
    ("tracking.uri", [None, "http://localhost:5000"], {5: "must be text, got 5"}),
    ("nightly.weight", [0.5, 2.0], {0.0: "must be > 0, got 0.0", "2": "must be a number, got '2'"}),
    ("nightly.trials_per_night", [1, 100], {0: "must be >= 1, got 0"}),
    ("nightly.every", ["day", "week"], {"hour": "must be one of day, week, got 'hour'"}),
    ("confirm", [{}, {"top_k": 1, "seeds": 9}], {5: "must be a mapping of fields, got 5"}),
    ("confirm.seeds", [1, 50], {0: "must be >= 1, got 0", 2.5: "must be a whole number, got 2.5"}),
    ("experimnt", [], {"x": "unknown key; did you mean 'experiment'?"}),
]
RIGHT = [(field, value) for field, right, _ in FIELDS for value in right]
WRONG = [(field, value, message) for field, _, wrong in FIELDS for value, message in wrong.items()]


@pytest.mark.parametrize(("field", "value"), RIGHT)
def test_a_right_value_is_accepted(field, value):
    assert problems({field: value}) == []


@pytest.mark.parametrize(("field", "value", "message"), WRONG)
def test_a_wrong_value_gives_one_problem_at_its_field(field, value, message):
    assert problems({field: value}) == [f"{field}: {message}"]


@pytest.mark.parametrize("metric", VAL_METRICS)
def test_every_metric_has_one_direction(metric):
    right = VAL_METRICS[metric]
    wrong = {"maximize": "minimize", "minimize": "maximize"}[right]
    assert problems({"metric": metric, "direction": right}) == []
    assert problems({"metric": metric, "direction": wrong}) == [
        f"direction: must be {right} for {metric}, got {wrong!r}"
    ]


def test_a_metric_to_minimize_needs_its_direction_written():
    assert problems({"metric": "val/loss"}) == ["direction: must be minimize for val/loss, got 'maximize'"]


PRUNERS = [
    ({"type": "median", "startup_trials": 0, "warmup_epochs": 3}, []),
    ({"type": "median", "startup_trials": -1}, ["pruner.startup_trials: must be >= 0, got -1"]),
    ({"type": "median", "warmup_epochs": 0.5}, ["pruner.warmup_epochs: must be a whole number, got 0.5"]),
    ({"type": "median", "min_epochs": 1}, ["pruner.min_epochs: unknown key; did you mean 'warmup_epochs'?"]),
    ({"type": "successive_halving", "min_epochs": 1, "reduction_factor": 2}, []),
    ({"type": "successive_halving", "min_epochs": 0}, ["pruner.min_epochs: must be >= 1, got 0"]),
    ({"type": "hyperband", "reduction_factor": 1}, ["pruner.reduction_factor: must be >= 2, got 1"]),
    (
        {"type": "hyperband", "reduction_facto": 3},
        ["pruner.reduction_facto: unknown key; did you mean 'reduction_factor'?"],
    ),
    ({"type": "none", "none": 1}, ["pruner.none: unknown key"]),
    ({}, ["pruner.type: required field is missing, one of median, successive_halving, hyperband, wilcoxon, none"]),
    ({"type": "wilcoxon", "p_threshold": 1.0}, ["pruner.p_threshold: must be < 1, got 1.0"]),
    (
        {"min_epochs": 1},
        ["pruner.type: required field is missing, one of median, successive_halving, hyperband, wilcoxon, none"],
    ),
]


@pytest.mark.parametrize(("pruner", "expected"), PRUNERS)
def test_every_pruner_has_its_own_fields(pruner, expected):
    assert problems({"pruner": pruner}) == expected


LR_PROBLEMS = [
    ({"low": 0.1, "high": 0.1}, []),
    ({"low": 1, "high": 2, "log": True}, []),
    ({"low": 0.2, "high": 0.1}, ["high: must be >= low (0.2), got 0.1"]),
    ({"low": 0, "high": 1, "log": True}, ["low: must be > 0 on a log scale, got 0.0"]),
    ({"low": -1.0, "high": -2.0, "log": True}, ["low: must be > 0 on a log scale, got -1.0"]),
    ({"low": 0.1, "high": 0.5, "step": 0.1}, []),
    ({"low": 0.1, "high": 0.5, "step": 0.3}, ["step: must lead from low (0.1) to high (0.5) in whole steps, got 0.3"]),
    ({"low": 0.1, "high": 0.5, "step": 0}, ["step: must be > 0, got 0"]),
    ({"low": 0.1, "high": 0.5, "step": 0.1, "log": True}, ["step: cannot be combined with log: true, got 0.1"]),
    ({"low": 0.1, "high": 0.5, "log": 1}, ["log: must be true or false, got 1"]),
    ({"low": 0.1}, ["high: required field is missing"]),
    ({"high": 0.1}, ["low: required field is missing"]),
    ({}, ["low: required field is missing", "high: required field is missing"]),
    (
        {"low": float("nan"), "high": float("inf")},
        ["low: must be a finite number, got nan", "high: must be a finite number, got inf"],
    ),
    ({"low": "1e-5", "high": True}, ["low: must be a number, got '1e-5'", "high: must be a number, got True"]),
    ({"low": None, "high": [1]}, ["low: must be a number, got None", "high: must be a number, got [1]"]),
    ({"low": 0.1, "high": 0.5, "hihg": 1}, ["hihg: unknown key; did you mean 'high'?"]),
    ({"low": 0.1, "high": 0.5, "float": 1}, ["float: unknown key"]),
    ({"float": 1, "low": "x", "high": 1}, ["low: must be a number, got 'x'", "float: unknown key"]),
    ({"low": 0.1, "high": 0.5, "choices": [1]}, ["choices: unknown key"]),
]


@pytest.mark.parametrize(("distribution", "expected"), LR_PROBLEMS)
def test_a_float_is_a_range_of_finite_numbers(distribution, expected):
    field = "space.optimizer.lr"
    assert space_problems({"optimizer.lr": {"type": "float", **distribution}}) == [f"{field}.{e}" for e in expected]


def test_whole_bounds_of_a_float_become_floats():
    bounds = study(space={"optimizer.lr": {"type": "float", "low": 1, "high": 2}}).space["optimizer.lr"]
    assert (type(bounds.low), type(bounds.high)) == (float, float)


INT_PROBLEMS = [
    ({"low": 1, "high": 1}, []),
    ({"low": 1, "high": 8, "log": True}, []),
    ({"low": 1, "high": 9, "step": 4}, []),
    ({"low": 1, "high": 8, "step": 4}, ["step: must lead from low (1) to high (8) in whole steps, got 4"]),
    ({"low": 1, "high": 9, "step": 0}, ["step: must be >= 1, got 0"]),
    ({"low": 2, "high": 1}, ["high: must be >= low (2), got 1"]),
    ({"low": 0, "high": 4, "log": True}, ["low: must be > 0 on a log scale, got 0"]),
    ({"low": 1, "high": 4, "log": True, "step": 1}, ["step: cannot be combined with log: true, got 1"]),
    ({"low": 1.0, "high": True}, ["low: must be a whole number, got 1.0", "high: must be a whole number, got True"]),
]


@pytest.mark.parametrize(("distribution", "expected"), INT_PROBLEMS)
def test_an_int_is_a_range_of_whole_numbers(distribution, expected):
    field = "space.training.batch_size"
    assert space_problems({"training.batch_size": {"type": "int", **distribution}}) == [
        f"{field}.{e}" for e in expected
    ]


SCALAR = "must be text, a finite number, true or false, a list or a mapping"
CHOICES_PROBLEMS = [
    ([1, 2.5], []),
    ([], ["choices: must not be empty, got []"]),
    ("ab", ["choices: must be a list, got 'ab'"]),
    ({"a": 1}, ["choices: must be a list, got {'a': 1}"]),
    (None, ["choices: must be a list, got None"]),
    ([1, None], [f"choices[1]: {SCALAR}, got None"]),
    ([[1], {"str": 1}], ["choices[0]: must be a number, got [1]", "choices[1]: must be a number, got {'str': 1}"]),
    ([[1, None]], [f"choices[0]: {SCALAR}, got [1, None]"]),
    ([{"a": 1, "b": 2}, {"b": 2, "a": 1}], ['choices: \'{"a": 1, "b": 2}\' equals an earlier choice']),
    ([float("nan"), float("inf")], [f"choices[0]: {SCALAR}, got nan", f"choices[1]: {SCALAR}, got inf"]),
    ([1, 2, 1], ["choices: 1 equals an earlier choice"]),
    ([1, 1.0], ["choices: 1.0 equals an earlier choice"]),
    ([1, True], ["choices: True equals an earlier choice"]),
]


@pytest.mark.parametrize(("choices", "expected"), CHOICES_PROBLEMS)
def test_choices_are_different_scalars(choices, expected):
    field = "space.optimizer.lr"
    assert space_problems({"optimizer.lr": {"type": "categorical", "choices": choices}}) == [
        f"{field}.{e}" for e in expected
    ]


def test_choices_keep_their_types():
    choices = study(space={"optimizer.nesterov": oneof(False, True)}).space["optimizer.nesterov"].choices
    assert choices == (False, True)
    mixed = study(space={"freeze.unfrozen_stages": oneof(0, "all")}).space["freeze.unfrozen_stages"].choices
    assert [type(choice) for choice in mixed] == [int, str]


KINDS = "must be one of float, int, categorical"
DISTRIBUTION_PROBLEMS = [
    ({"type": "flaot", "low": 1}, f"space.x.type: {KINDS}, got 'flaot'; did you mean 'float'?"),
    ({"type": 5}, f"space.x.type: {KINDS}, got 5"),
    ({"type": None}, f"space.x.type: {KINDS}, got None"),
    ({"type": ["float"]}, f"space.x.type: {KINDS}, got ['float']; did you mean 'float'?"),
    ({"low": 1, "high": 2}, "space.x.type: required field is missing, one of float, int, categorical"),
    ({}, "space.x.type: required field is missing, one of float, int, categorical"),
    (None, "space.x: must be a mapping of fields, got None"),
    (0.1, "space.x: must be a mapping of fields, got 0.1"),
    ([0.1, 0.2], "space.x: must be a mapping of fields, got [0.1, 0.2]"),
]


@pytest.mark.parametrize(("distribution", "expected"), DISTRIBUTION_PROBLEMS)
def test_a_mistaken_distribution_gives_one_problem(distribution, expected):
    assert space_problems({"x": distribution}) == [expected]


def test_an_empty_space_is_refused():
    assert space_problems({}) == ["space: must not be empty, got {}"]


@pytest.mark.parametrize("name", ["float", "int", "categorical", "type", "space", "", "a b", "optimizer", "name"])
def test_only_fields_of_the_experiment_are_searched(name):
    found = space_problems({name: LR})
    assert len(found) == 1
    assert found[0].startswith(f"space.{name}: is not a field of the experiment")


def test_a_misspelt_field_is_answered_with_the_nearest():
    expected = "space.optimizer.momentun: is not a field of the experiment; did you mean 'optimizer.momentum'?"
    assert space_problems({"optimizer.momentun": MOMENTUM}) == [expected]


FIXED = ("task", "data.source", "data.path", "data.classes", "data.limit_per_class", "data.on_bad_image")


@pytest.mark.parametrize(
    "name",
    [
        *(*FIXED, "training.device", "data.split.val", "data.split.seed", "data.split.group_by"),
        *("data.shift", "data.also_evaluate"),
    ],
)
def test_what_would_make_trials_incomparable_is_not_searched(name):
    expected = f"space.{name}: must be the same for all trials of a study, or they could not be compared"
    assert space_problems({name: oneof("a", "b")}) == [expected]


def test_both_ends_of_a_range_must_be_recipes():
    assert space_problems({"optimizer.momentum": {"type": "float", "low": -0.5, "high": 1.5}}) == [
        "space.optimizer.momentum.low: must be >= 0, got -0.5",
        "space.optimizer.momentum.high: must be < 1, got 1.5",
    ]
    assert space_problems({"freeze.unfrozen_stages": {"type": "int", "low": 0, "high": 5}}) == [
        "space.freeze.unfrozen_stages.high: must be 0..4 (the stages are stem, layer1, layer2, layer3), got 5"
    ]


def test_a_float_over_a_whole_number_is_refused_and_an_int_over_a_number_is_not():
    assert space_problems({"training.epochs": {"type": "float", "low": 1, "high": 5}}) == [
        "space.training.epochs.low: must be a whole number, got 1.0",
        "space.training.epochs.high: must be a whole number, got 5.0",
    ]
    assert space_problems({"optimizer.weight_decay": {"type": "int", "low": 0, "high": 1}}) == []


def test_every_choice_must_be_a_recipe():
    assert space_problems({"data.augment": oneof("none", "flipp", 5)}) == [
        "space.data.augment.choices[1]: must be one of none, flip, standard, {views: V}, got 'flipp'; "
        "did you mean 'flip'?",
        "space.data.augment.choices[2]: must be one of none, flip, standard, {views: V}, got 5",
    ]


def test_views_are_searched_as_choices_or_as_a_number():
    views = {"type": "int", "low": 2, "high": 8}
    kind = oneof("standard", "flip")
    assert space_problems({"data.augment": oneof("none", {"views": 4}), "data.augment.kind": kind}) == []
    assert space_problems({"data.augment.views": views, "data.augment.kind": kind}) == []
    assert space_problems({"data.augment": oneof("none", {"views": 1})}) == [
        "space.data.augment.choices[1]: must be >= 2, got 1"
    ]
    assert space_problems({"data.augment": oneof("none", {"views": 4}), "data.augment.views": views}) == [
        "space.data.augment.views: lies in data.augment, which is searched too; take one of them out of the space"
    ]
    assert space_problems({"data.augment.kind": kind}) == [
        "space.data.augment.kind: can never act, since data.augment is 'none'; take it out of the space"
    ]


def test_a_value_that_breaks_a_field_outside_of_the_space_is_to_blame():
    base = experiment(training__epochs=9, training__warmup_epochs=3, optimizer__momentum=0.9)
    assert space_problems({"training.epochs": {"type": "int", "low": 2, "high": 9}}, base) == [
        "space.training.epochs.low: training.warmup_epochs: must be < epochs (2), got 3"
    ]
    base = experiment(freeze__phases=[{"train": "none", "epochs": 1}, {"train": "all", "epochs": 1}])
    assert space_problems({"training.epochs": {"type": "int", "low": 2, "high": 3}}, base) == [
        "space.training.epochs.high: freeze.phases: their epochs must add up to training.epochs (3), got 2"
    ]


def test_combinations_of_a_range_with_choices_must_be_recipes():
    space = {"backbone.name": oneof("cifar_resnet8", "resnet18"), "freeze.unfrozen_stages": {**DEPTH, "high": 5}}
    assert space_problems(space, experiment(backbone__name="resnet18")) == [
        "space.freeze.unfrozen_stages.high: must be 0..4 (the stages are stem, layer1, layer2, layer3), got 5"
    ]


def test_ends_are_tried_with_each_other_not_with_the_values_that_the_space_replaces():
    base = experiment(training__epochs=9, training__warmup_epochs=3)
    space = {
        "training.epochs": {"type": "int", "low": 2, "high": 9},
        "training.warmup_epochs": {"type": "float", "low": 0.0, "high": 1.0},
    }
    assert space_problems(space, base) == []
    space["training.warmup_epochs"]["high"] = 2.0
    assert space_problems(space, base) == ["space.training.warmup_epochs.high: must be < epochs (2), got 2"]


def test_of_several_values_the_one_that_breaks_a_field_outside_of_the_space_is_to_blame():
    base = experiment(optimizer__nesterov=True)
    space = {"optimizer.name": oneof("sgd"), "optimizer.momentum": {"type": "float", "low": 0.0, "high": 0.5}}
    assert space_problems(space, base) == [
        "space.optimizer.momentum.low: optimizer.nesterov: needs momentum > 0, got momentum 0"
    ]


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "cmaes"])
def test_points_belong_to_the_grid_sampler(sampler):
    space = {"optimizer.lr": {**LR, "points": 3}, "optimizer.momentum": MOMENTUM}
    expected = f"space.optimizer.lr.points: belongs to sampler grid, but the sampler is {sampler}, got 3"
    assert space_problems(space, sampler={"type": sampler}) == [expected]


GRID = {"type": "grid"}


def test_a_grid_needs_points_or_a_step_for_every_float():
    needs = "space.optimizer.lr.points: sampler grid needs points (or step) for a float"
    assert space_problems({"optimizer.lr": LR}, sampler=GRID) == [needs]
    assert space_problems({"optimizer.lr": {**LR, "points": 3}}, sampler=GRID) == []
    stepped = {"type": "float", "low": 0.1, "high": 0.3, "step": 0.1}
    assert space_problems({"optimizer.lr": stepped}, sampler=GRID) == []
    assert space_problems({"freeze.unfrozen_stages": DEPTH, "data.augment": oneof("none")}, sampler=GRID) == []


def test_points_and_step_cannot_be_combined():
    both = {"type": "int", "low": 0, "high": 4, "step": 2, "points": 3}
    expected = "space.freeze.unfrozen_stages.points: cannot be combined with step (2), got 3"
    assert space_problems({"freeze.unfrozen_stages": both}, sampler=GRID) == [expected]


def test_a_grid_beyond_ten_thousand_points_is_refused_before_it_is_made():
    fine = {"optimizer.lr": {**LR, "points": 100}, "optimizer.momentum": {**MOMENTUM, "points": 100}}
    assert space_problems(fine, sampler=GRID) == []
    for huge, size in [({**LR, "points": 101}, 10_100), ({**LR, "points": 10**20}, 10**22)]:
        found = space_problems({**fine, "optimizer.lr": huge}, sampler=GRID)
        assert found == [f"space: the grid must have at most 10000 points, got {size}"]


def test_cmaes_searches_two_numbers_or_more_and_nothing_else():
    cmaes = {"type": "cmaes"}
    assert space_problems({"optimizer.lr": LR, "optimizer.momentum": MOMENTUM}, sampler=cmaes) == []
    assert space_problems({"optimizer.lr": LR}, sampler=cmaes) == [
        "sampler.type: cmaes searches at least two numbers together; use tpe for one"
    ]
    assert space_problems({"optimizer.lr": LR, "data.augment": oneof("none", "flip")}, sampler=cmaes) == [
        "space.data.augment.type: cmaes searches numbers only; use tpe, or take this field out of the space"
    ]


SPACE = {
    "optimizer.lr": LR,
    "freeze.unfrozen_stages": DEPTH,
    "data.augment": oneof("none", "flip"),
    "optimizer.nesterov": oneof(True, False),
    "optimizer.momentum": {"type": "float", "low": 0.1, "high": 0.9, "step": 0.2},
}
BASELINES = [
    ({"optimizer.lr": 0.01}, []),
    ({"optimizer.lr": 0.1, "freeze.unfrozen_stages": 4, "data.augment": "flip", "optimizer.nesterov": True}, []),
    ({"optimizer.momentum": 0.7}, []),
    ({"optimizer.momentum": 0.2}, [".optimizer.momentum: must be low (0.1) plus a multiple of step (0.2), got 0.2"]),
    ({"optimizer.lr": 0.2}, [".optimizer.lr: must be within 0.001..0.1, got 0.2"]),
    ({"optimizer.lr": "0.01"}, [".optimizer.lr: must be a number of the space's type float, got '0.01'"]),
    ({"optimizer.lr": True}, [".optimizer.lr: must be a number of the space's type float, got True"]),
    ({"optimizer.lr": None}, [f".optimizer.lr: {SCALAR}, got None"]),
    ({"optimizer.lr": [0.1]}, [".optimizer.lr: must be a number of the space's type float, got [0.1]"]),
    ({"optimizer.lr": float("nan")}, [f".optimizer.lr: {SCALAR}, got nan"]),
    ({"freeze.unfrozen_stages": 1.0}, [".freeze.unfrozen_stages: must be a number of the space's type int, got 1.0"]),
    ({"freeze.unfrozen_stages": 5}, [".freeze.unfrozen_stages: must be within 0..4, got 5"]),
    ({"data.augment": "flp"}, [".data.augment: must be one of the choices ['none', 'flip'], got 'flp'"]),
    ({"optimizer.nesterov": 1}, [".optimizer.nesterov: must be one of the choices [True, False], got 1"]),
    ({"optimizer.lrr": 1}, [".optimizer.lrr: is not in the space; did you mean 'optimizer.lr'?"]),
    ({"seed": 1}, [".seed: is not in the space"]),
    ({}, [": must not be empty, got {}"]),
    (5, [": must be a mapping of fields, got 5"]),
    (None, [": must be a mapping of fields, got None"]),
]


@pytest.mark.parametrize(("baseline", "expected"), BASELINES)
def test_a_baseline_is_a_point_of_the_space(baseline, expected):
    found = space_problems(SPACE, baselines=[{"optimizer.lr": 0.02}, baseline])
    assert found == [f"baselines[1]{e}" for e in expected]


@pytest.mark.parametrize("value", [5, "x", None, {"optimizer.lr": 0.1}])
def test_baselines_are_a_list(value):
    assert problems({"baselines": value}) == [f"baselines: must be a list, got {value!r}"]


def test_a_baseline_stands_once():
    twice = [{"optimizer.lr": 0.01}, {"optimizer.lr": 0.02}, {"optimizer.lr": 0.01}]
    assert problems({"baselines": twice}) == ["baselines[2]: equals baselines[0]"]


def test_a_baseline_of_a_grid_names_every_field_of_the_space():
    space = {"optimizer.lr": {**LR, "points": 3}, "freeze.unfrozen_stages": DEPTH}
    whole, part = {"optimizer.lr": 0.01, "freeze.unfrozen_stages": 1}, {"optimizer.lr": 0.01}
    assert space_problems(space, sampler=GRID, baselines=[whole]) == []
    assert space_problems(space, sampler=GRID, baselines=[part]) == [
        "baselines[0]: sampler grid needs a value for each field of the space; freeze.unfrozen_stages is missing"
    ]
    assert space_problems(space | {"optimizer.lr": LR}, baselines=[part]) == []


class Recorder:
    """A trial that answers from a dict and records what it was asked."""

    def __init__(self, **answers):
        self.answers = {name.replace("__", "."): value for name, value in answers.items()}
        self.asked = []

    def suggest_float(self, name, low, high, *, step, log):
        return self._answer("float", name, low, high, step, log)

    def suggest_int(self, name, low, high, *, step, log):
        return self._answer("int", name, low, high, step, log)

    def suggest_categorical(self, name, choices):
        return self._answer("categorical", name, choices)

    def _answer(self, *call):
        self.asked.append(call)
        return self.answers[call[1]]


def test_sample_asks_for_each_field_once_in_the_order_of_the_space_and_fills_it_in():
    trial = Recorder(
        optimizer__lr=0.02,
        freeze__unfrozen_stages=3,
        data__augment="flip",
        optimizer__nesterov=False,
        optimizer__momentum=0.3,
    )
    sampled = study(space=SPACE).sample(trial)
    assert trial.asked == [
        ("float", "optimizer.lr", 0.001, 0.1, None, True),
        ("int", "freeze.unfrozen_stages", 0, 4, 1, False),
        ("categorical", "data.augment", ("none", "flip")),
        ("categorical", "optimizer.nesterov", (True, False)),
        ("float", "optimizer.momentum", 0.1, 0.9, 0.2, False),
    ]
    assert sampled == experiment().replace(trial.answers)


def test_sample_changes_nothing_but_the_fields_of_the_space():
    s = study(base=experiment(seed=3, data__augment="flip"))
    sampled = s.sample(Recorder(optimizer__lr=0.05))
    assert sampled == s.experiment.replace({"optimizer.lr": 0.05})
    assert {k for k, v in sampled.params().items() if v != s.experiment.params()[k]} == {"optimizer.lr"}
    assert s.suggest(Recorder(optimizer__lr=0.05)) == {"optimizer.lr": 0.05}


def test_sample_takes_optuna_trials():
    values = {
        "optimizer.lr": 0.02,
        "freeze.unfrozen_stages": 2,
        "data.augment": "none",
        "optimizer.nesterov": True,
        "optimizer.momentum": 0.7,
    }
    sampled = study(space=SPACE).sample(optuna.trial.FixedTrial(values))
    assert {name: sampled.params()[name] for name in values} == values


def test_better_follows_the_direction_and_ties_are_not_better():
    up, down = study(), study(metric="val/loss", direction="minimize")
    assert up.better(0.9, 0.8) and not up.better(0.8, 0.9) and not up.better(0.8, 0.8)
    assert down.better(0.8, 0.9) and not down.better(0.9, 0.8) and not down.better(0.8, 0.8)


GRID_SPACE = {
    "optimizer.lr": {"type": "float", "low": 0.01, "high": 1.0, "log": True, "points": 3},
    "freeze.unfrozen_stages": {"type": "int", "low": 0, "high": 4, "step": 4},
    "data.augment": oneof("none", "flip"),
}


def grid_study(n_trials=100, baselines=()):
    return study(space=GRID_SPACE, sampler=GRID, budget={"n_trials": n_trials}, baselines=list(baselines))


def test_a_grid_is_the_product_of_its_values_with_the_last_varying_fastest():
    expected = [
        dict(zip(GRID_SPACE, p, strict=True)) for p in itertools.product([0.01, 0.1, 1.0], [0, 4], ["none", "flip"])
    ]
    assert grid_study().grid() == expected


def test_every_point_of_a_grid_is_within_optunas_own_distributions():
    s = grid_study()
    trial = optuna.create_study(storage=None).ask()
    s.suggest(trial)
    for point in s.grid():
        for name, distribution in trial.distributions.items():
            assert distribution._contains(distribution.to_internal_repr(point[name]))


def test_total_trials_is_the_budget_and_for_a_grid_at_most_its_size():
    assert study(budget={"n_trials": 7}).total_trials == 7
    assert grid_study(5).total_trials == 5
    assert grid_study().total_trials == 12


def test_baselines_outside_of_the_grid_are_trials_of_their_own():
    inside = {"optimizer.lr": 0.1, "freeze.unfrozen_stages": 4, "data.augment": "flip"}
    outside = {**inside, "optimizer.lr": 0.02}
    assert grid_study(baselines=[inside]).total_trials == 12
    assert grid_study(baselines=[outside]).total_trials == 13
    assert grid_study(baselines=[inside, outside]).total_trials == 13
    assert grid_study(12, baselines=[outside]).total_trials == 12


def test_all_rules_of_a_study_are_reported_at_once():
    space = {
        "optimizer.lr": {**LR, "low": 2e9, "high": 3e9},
        "optimzer": LR,
        "optimizer.momentum": {**MOMENTUM, "high": 2.0},
    }
    found = space_problems(space, sampler={"type": "cmaes"}, baselines=[{"optimizer.lr": 1}, {"seed": 1}])
    assert found == [
        "baselines[0].optimizer.lr: must be within 2000000000.0..3000000000.0, got 1",
        "baselines[1].seed: is not in the space",
        "space.optimzer: is not a field of the experiment; did you mean 'optimizer.lr'?",
        "space.optimizer.momentum.high: must be < 1, got 2.0",
    ]


numbers = st.sampled_from([0, 1, 2, 4, 5, 8, 0.0, 0.1, 0.5, 0.9, 1.0, 3.0])
words = st.sampled_from(
    [
        "none",
        "all",
        "sgd",
        "adamw",
        "step",
        "cosine",
        "resnet18",
        "cifar_resnet8",
        "DEFAULT",
        "flip",
        "val/loss",
        "x.pt",
    ]
)
ranges = st.builds(
    lambda kind, a, b, log: {"type": kind, "low": min(a, b), "high": max(a, b), "log": log},
    st.sampled_from(["float", "int"]),
    numbers,
    numbers,
    st.booleans(),
)
choices = st.lists(numbers | words | st.booleans() | st.none(), min_size=1, max_size=3).map(
    lambda values: {"type": "categorical", "choices": values}
)
spaces = st.dictionaries(st.sampled_from(sorted(experiment().params())), ranges | choices, min_size=1, max_size=5)


@settings(deadline=None, max_examples=120)
@given(spaces, st.data())
def test_every_point_of_an_accepted_space_is_a_recipe(space, data):
    good = {name: d for name, d in space.items() if not space_problems({name: d})}
    if not good or space_problems(good):
        return
    point = {name: data.draw(values_of(d), name) for name, d in good.items()}
    assert experiment().refusal(point) is None


def values_of(distribution):
    if distribution["type"] == "categorical":
        return st.sampled_from(distribution["choices"])
    low, high = distribution["low"], distribution["high"]
    return st.integers(int(low), int(high)) if distribution["type"] == "int" else st.floats(low, high)


@pytest.mark.parametrize(
    ("fields", "pruner"),
    [
        ({}, "none"),
        ({"evaluation": {"folds": 5}}, "wilcoxon"),
        ({"evaluation": {"folds": 5}, "pruner": {"type": "none"}}, "none"),
    ],
)
def test_with_folds_the_pruner_is_wilcoxons_unless_one_is_named(fields, pruner):
    assert study(**fields).pruner.type == pruner


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"evaluation": {"folds": 3}, "pruner": {"type": "hyperband"}}, "hyperband counts epochs"),
        ({"pruner": {"type": "wilcoxon"}}, "wilcoxon compares folds; set evaluation.folds"),
        ({"evaluation": {"folds": 1}}, "should be greater than or equal to 2"),
    ],
)
def test_pruners_and_folds_that_do_not_go_together_are_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        study(**fields)


@pytest.mark.parametrize(("keep", "best"), [("all", None), ("best_1", 1), ("best_250", 250)])
def test_retention_says_how_many_checkpoints_stay(keep, best):
    assert study(retention={"keep": keep}).retention.best == best


@pytest.mark.parametrize(
    "keep", ["best", "best_0", "best_-1", "best_03", "3", 3, "best_1.5", "best_3\n", "best_1000000"]
)
def test_a_rule_of_retention_that_means_nothing_is_refused(keep):
    with pytest.raises(ValidationError) as caught:
        study(retention={"keep": keep})
    assert [problem.field for problem in problems_of(caught.value, Study)] == ["retention.keep"]
