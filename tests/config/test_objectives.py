"""Studies of several objectives: what `metrics` may say, and what it decides elsewhere."""

import pytest
from pydantic import ValidationError

from fttune.config import Study, load_study
from fttune.config.fingerprint import study_identity
from fttune.config.problems import problems_of
from fttune.config.sections import COSTS, VAL_METRICS
from fttune.errors import ConfigError

from .examples import experiment, experiment_fields, lines, study, study_fields, write

ACCURACY = {"name": "val/accuracy", "direction": "maximize"}
LOSS = {"name": "val/loss", "direction": "minimize"}
SECONDS = {"name": "trial/seconds", "direction": "minimize"}
BESIDE = "cannot stand beside metrics, the first of which it would be; leave it out"


def problems(**changes) -> list[str]:
    try:
        Study.model_validate(study_fields({"experiment": experiment(), **changes}))
    except ValidationError as error:
        return [f"{problem.field}: {problem.message}" for problem in problems_of(error, Study)]
    return []


@pytest.mark.parametrize("first", VAL_METRICS)
@pytest.mark.parametrize("second", [*VAL_METRICS, *COSTS])
def test_the_first_objective_is_a_validation_metric_and_stands_for_the_study(first, second):
    directions = VAL_METRICS | COSTS
    metrics = [{"name": name, "direction": directions[name]} for name in (first, second)]
    if first == second:
        assert problems(metrics=metrics) == [f"metrics: each objective can stand once, got {[first, second]}"]
        return
    found = study(metrics=metrics)
    assert (found.metric, found.direction) == (first, VAL_METRICS[first])
    assert [(one.name, one.direction) for one in found.objectives] == [(m["name"], m["direction"]) for m in metrics]


def test_one_metric_is_one_objective():
    (one,) = study(metric="val/loss", direction="minimize").objectives
    assert (one.name, one.direction) == ("val/loss", "minimize")
    (default,) = study(metrics=None).objectives
    assert (default.name, default.direction) == ("val/accuracy", "maximize")


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        (5, "metrics: must be a list, got 5"),
        ([], "metrics: must be at least two objectives; write one as metric and direction, got []"),
        (
            [ACCURACY],
            "metrics: must be at least two objectives; write one as metric and direction, got ['val/accuracy']",
        ),
        (
            [SECONDS, ACCURACY],
            "metrics: the first must be a validation metric, which chooses the best epoch; change the order, "
            "got trial/seconds",
        ),
        (
            [ACCURACY, {**SECONDS, "direction": "maximize"}],
            "metrics[1].direction: must be minimize for trial/seconds, got 'maximize'",
        ),
        (
            [{**LOSS, "direction": "maximize"}, SECONDS],
            "metrics[0].direction: must be minimize for val/loss, got 'maximize'",
        ),
        ([ACCURACY, {"name": "trial/seconds"}], "metrics[1].direction: required field is missing"),
        ([ACCURACY, {**SECONDS, "weight": 1}], "metrics[1].weight: unknown key"),
    ],
)
def test_a_wrong_list_of_objectives_gives_one_problem(metrics, expected):
    assert problems(metrics=metrics) == [expected]


def test_a_misspelt_objective_is_answered_with_the_nearest():
    (found,) = problems(metrics=[ACCURACY, {**SECONDS, "name": "trial/second"}])
    assert found.startswith("metrics[1].name: must be one of ")
    assert found.endswith("got 'trial/second'; did you mean 'trial/seconds'?")


def test_metric_and_direction_beside_metrics_are_problems_whatever_else_is_wrong(tmp_path):
    metrics = [ACCURACY, SECONDS]
    assert problems(metrics=metrics, metric="val/accuracy") == [f"metric: {BESIDE}"]
    assert problems(metrics=metrics, direction="maximize") == [f"direction: {BESIDE}"]
    write(tmp_path, experiment_fields())
    wrong = study_fields({"metrics": metrics, "metric": "val/loss", "direction": "minimize", "budget.n_trials": 0})
    with pytest.raises(ConfigError) as refused:
        load_study(write(tmp_path, wrong, "search.yaml"))
    assert lines(refused.value) == [
        "budget.n_trials: must be >= 1, got 0",
        f"metric: {BESIDE}",
        f"direction: {BESIDE}",
    ]


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random", "cmaes"])
def test_cmaes_searches_for_one_objective_only(sampler):
    space = {name: {"type": "float", "low": 0.1, "high": 0.9} for name in ("optimizer.lr", "optimizer.momentum")}
    expected = ["sampler.type: cmaes searches for one objective only, but there are metrics; use tpe"]
    found = problems(metrics=[ACCURACY, SECONDS], space=space, sampler={"type": sampler})
    assert found == (expected if sampler == "cmaes" else [])


def test_objectives_belong_to_the_identity_where_there_are_several():
    def identity(**fields):
        return study_identity(study(**fields), data="d", weights="w")

    assert "metrics" not in identity()
    two, three = identity(metrics=[ACCURACY, SECONDS]), identity(metrics=[ACCURACY, SECONDS, LOSS])
    assert two["metrics"] == [ACCURACY, SECONDS]
    assert {key for key in two if two[key] != three[key]} == {"metrics"}
    assert {key: value for key, value in two.items() if key != "metrics"} == identity()
