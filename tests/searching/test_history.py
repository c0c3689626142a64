from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from fttune.config import Study
from fttune.config.workspace import Workspace
from fttune.searching import Asked, Outcome, facts_of, open_storage, open_study
from fttune.searching import samplers as samplers_module
from fttune.searching.history import History
from tests.recipes import tiny_study
from tests.searching.inline import search

STATES = {2: "failed", 5: "pruned", 9: "diverged", 11: "failed"}


def opened(study: Study, workspace: Workspace) -> optuna.Study:
    return open_study(study, open_storage(workspace.optuna_uri, locks=workspace.locks), {"a": 1})


def objective(asked: Asked) -> Outcome:
    state = STATES.get(asked.number, "complete")
    value = -((asked.values["optimizer.lr"] - 0.02) ** 2) if state == "complete" else None
    return Outcome(state, value, 7, 1, cause="why")  # type: ignore[arg-type]


@pytest.fixture
def few_seen(monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """A sampler sees the newest 10 and the best 4 of the older ones, so that short studies are long ones."""
    monkeypatch.setattr(samplers_module, "SEEN", (10, 4))
    return 10, 4


def chosen(trials: list[FrozenTrial], number: int, newest: int, best: int) -> list[int]:
    """What the sampler should see for trial `number`, by the plain definition."""
    older = [t for t in trials[: max(0, number - newest)] if t.state is TrialState.COMPLETE]
    ranked = sorted(older, key=lambda t: (-(t.value or 0.0), t.number))[:best]
    return sorted(t.number for t in ranked) + list(range(max(0, number - newest), number))


def searched(root: Path, workspace: Workspace) -> tuple[Study, optuna.Study, list[FrozenTrial]]:
    """A study of 30 trials that were asked one by one."""
    study = tiny_study(root, sampler__type="tpe", budget__n_trials=30, batch=1)
    stored = opened(study, workspace)
    search(study, stored, objective)
    return study, stored, stored.get_trials(deepcopy=False)


def test_a_sampler_sees_the_newest_trials_and_the_best_of_the_older_ones(
    tmp_path: Path, workspace: Workspace, few_seen: tuple[int, int]
) -> None:
    study, stored, trials = searched(tmp_path, workspace)
    seen = [t.number for t in History(study, stored).seen(len(trials))(trials)]
    assert seen == chosen(trials, len(trials), *few_seen)
    assert len(seen) == sum(few_seen)


def test_a_proposal_is_plain_optunas_from_the_trials_that_are_seen(
    tmp_path: Path, workspace: Workspace, few_seen: tuple[int, int]
) -> None:
    study, _, trials = searched(tmp_path, workspace)
    for number in (9, 16, 22, 29):
        plain = optuna.create_study(direction="maximize", sampler=samplers_module.sampler_for(study, number))
        plain.add_trials([trials[n] for n in chosen(trials, number, *few_seen)])
        proposed = plain.ask()
        proposed.suggest_float("optimizer.lr", 1e-3, 0.1, log=True)
        proposed.suggest_int("freeze.unfrozen_stages", 0, 4)
        assert proposed.params == trials[number].params


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_with_a_bounded_history_a_resumed_study_proposes_what_an_uninterrupted_one_does(
    sampler: str, tmp_path: Path, workspace: Workspace, few_seen: tuple[int, int]
) -> None:
    assert few_seen
    space = {
        "optimizer.lr": {"type": "float", "low": 1e-3, "high": 0.1, "log": True},
        "optimizer.momentum": {"type": "float", "low": 0.0, "high": 0.9},
    }
    study = tiny_study(tmp_path, sampler__type=sampler, space=space, budget__n_trials=40, batch=4)
    whole = opened(study, Workspace.at(tmp_path, tmp_path / "other"))
    search(study, whole, objective)
    for stop in (3, 17, 18, 31):

        def dies(asked: Asked, stop: int = stop) -> Outcome:
            if asked.number == stop:
                raise KeyboardInterrupt
            return objective(asked)

        with pytest.raises(KeyboardInterrupt):
            search(study, opened(study, workspace), dies)
    search(study, resumed := opened(study, workspace), objective)
    assert [(t.params, t.values) for t in resumed.trials] == [(t.params, t.values) for t in whole.trials]


def test_a_history_that_was_followed_knows_what_one_that_is_read_anew_knows(
    tmp_path: Path, workspace: Workspace
) -> None:
    few = {"optimizer.lr": {"type": "categorical", "choices": [0.01, 0.02, 0.05]}}
    study = tiny_study(tmp_path, space=few, budget__n_trials=20, batch=4)
    stored = opened(study, workspace)
    followed = History(study, stored)

    def told(asked: Asked) -> Outcome:
        anew = History(study, stored)
        for history in (followed, anew):
            assert asked.number in [t.number for t in history.running]
        trial = stored.trials[asked.number]
        for ask in (
            lambda h: h.counted,
            lambda h: h.next_number,
            lambda h: h.recipe(trial),
            lambda h: getattr(h.twin(trial), "number", None),
            lambda h: h.repeats(asked.number),
            lambda h: h.is_spent(),
        ):
            assert ask(followed) == ask(anew)
        return objective(asked)

    search(study, stored, told)
    assert followed.seconds == pytest.approx(sum(f.seconds for t in stored.trials if (f := facts_of(t))))
    assert followed.counted == 20
