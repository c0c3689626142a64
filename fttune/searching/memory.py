"""A study's trials in memory, every change stored in Optuna's database first, as one transaction.

For the one process that holds the study's lock: it knows what is stored because nobody else writes, so nothing is
read again. It is an Optuna storage like any other, but for the moments in which a trial is asked (`asking`).
"""

from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState

from fttune.errors import StoreError


class WriteThrough(InMemoryStorage):
    """Optuna's storage in memory over its storage in a database, for one study. A trial's id here is its number."""

    def __init__(self, durable: RDBStorage, name: str) -> None:
        """Read the study once."""
        super().__init__()
        self._durable = durable
        self._durable_study = durable.get_study_id_from_name(name)
        self._durable_ids: list[int] = []
        self._seen: Callable[[list[FrozenTrial]], list[FrozenTrial]] | None = None
        self._new: int | None = None  # the trial that is being asked, and is not stored yet
        study = super().create_new_study(durable.get_study_directions(self._durable_study), name)
        for key, value in durable.get_study_user_attrs(self._durable_study).items():
            super().set_study_user_attr(study, key, value)
        for key, value in durable.get_study_system_attrs(self._durable_study).items():
            super().set_study_system_attr(study, key, value)
        for trial in durable.get_all_trials(self._durable_study, deepcopy=False):
            super().create_new_trial(study, trial)
            self._durable_ids.append(trial._trial_id)

    @property
    def size(self) -> int:
        """How many trials there are; their ids are 0 .. size - 1."""
        return len(self._trial_id_to_study_id_and_number)

    @contextmanager
    def asking(self, seen: Callable[[list[FrozenTrial]], list[FrozenTrial]]) -> Iterator[None]:
        """Ask one trial: whoever wants all trials sees those that `seen` picks, and a new one is stored at the end.

        It is stored with its parameters, as one transaction; what an exception cut short is stored as far as it got.
        """
        self._seen = seen
        try:
            yield
        finally:
            self._seen = None
            if (new := self._new) is not None:
                self._new = None
                self._store_new(self.get_trial(new))

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the trials by number, in the context of `asking` those to be seen."""
        if self._seen is None or states == (TrialState.WAITING,):  # so Optuna looks for what was enqueued
            return super().get_all_trials(study_id, deepcopy, states)
        trials = self._seen(super().get_all_trials(study_id, deepcopy))
        return trials if states is None else [trial for trial in trials if trial.state in states]

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Create a trial. Raises StoreError when another program has added trials to the study."""
        with self._lock:
            if self._seen is not None:
                self._new = super().create_new_trial(study_id, template_trial)
                return self._new
            self._store_new(template_trial)
            return super().create_new_trial(study_id, template_trial)

    def _store_new(self, trial: FrozenTrial | None) -> None:
        durable_id = self._durable.create_new_trial(self._durable_study, trial)
        number = len(self._durable_ids)
        if not self._follows(durable_id, number):
            name = self._durable.get_study_name_from_id(self._durable_study)
            raise StoreError(
                f"study {name}: another program stored trial {number} while this search ran; "
                "only one may write to a study: start the search again, alone"
            )
        self._durable_ids.append(durable_id)

    def _follows(self, durable_id: int, number: int) -> bool:
        """Return whether a new trial got its number in the database too."""
        if self._durable_ids and durable_id == self._durable_ids[-1] + 1:
            return True  # no trial of any study was added between, so there is no need to ask
        return self._durable.get_trial_id_from_study_id_trial_number(self._durable_study, number) == durable_id

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        with self._lock:
            if trial_id != self._new:
                durable_id = self._durable_ids[trial_id]
                self._durable.set_trial_param(durable_id, param_name, param_value_internal, distribution)
            super().set_trial_param(trial_id, param_name, param_value_internal, distribution)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        with self._lock:
            stored = self._durable.set_trial_state_values(self._durable_ids[trial_id], state, values)
            return stored and super().set_trial_state_values(trial_id, state, values)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        with self._lock:
            self._durable.set_trial_intermediate_value(self._durable_ids[trial_id], step, intermediate_value)
            super().set_trial_intermediate_value(trial_id, step, intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        with self._lock:
            if trial_id != self._new:
                self._durable.set_trial_user_attr(self._durable_ids[trial_id], key, value)
            super().set_trial_user_attr(trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        with self._lock:
            if trial_id != self._new:
                self._durable.set_trial_system_attr(self._durable_ids[trial_id], key, value)
            super().set_trial_system_attr(trial_id, key, value)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self._durable.set_study_user_attr(self._durable_study, key, value)
        super().set_study_user_attr(study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._durable.set_study_system_attr(self._durable_study, key, value)
        super().set_study_system_attr(study_id, key, value)
