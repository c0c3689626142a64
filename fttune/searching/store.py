"""A study in Optuna's storage: its identity held, its generations named. `database.py` opens the storage itself."""

import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.pruners import HyperbandPruner
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from fttune.config import Study
from fttune.config.fingerprint import Identity, require_same
from fttune.data import DataChange, Manifest, changes
from fttune.data.manifest import EMPTY
from fttune.errors import StoreError
from fttune.locks import held_alone
from fttune.postgres import is_postgres
from fttune.searching.database import lease_of
from fttune.searching.leases import Lease
from fttune.searching.memory import WriteThrough
from fttune.searching.samplers import pruner_for

IDENTITY = "fttune.identity"
ID = "fttune.id"
IMAGES = "fttune:images"
FORMAT = "fttune.format"
FORMAT_NUMBER = 1  # of what fttune keeps with a study and its trials; studies from before it was kept have it too
FACTS = "fttune"
COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class TrialFacts:
    """What a finished trial stores beside Optuna's own record.

    `reused_from` is the trial whose value it took over, `recipe` the digest of its canonical recipe. `elapsed_seconds`
    is how long the search took for it, where that is not how long it was at work: others were too.
    """

    state: str
    seconds: float
    trainable_parameters: int | None = None
    best_epoch: int | None = None
    cause: str | None = None
    reused_from: int | None = None
    recipe: str | None = None
    elapsed_seconds: float | None = None

    @property
    def spent(self) -> float:
        """The seconds that count towards the budget."""
        return self.seconds if self.elapsed_seconds is None else self.elapsed_seconds


@contextmanager
def study_lock(name: str, *, locks: Path, storage: str = "") -> Iterator[Lease | None]:
    """Hold the right to search a study.

    Machines that share a PostgreSQL `storage` need its lease too, which is handed out, for `open_storage`.

    Raises:
        StudyBusy: another process holds it.
        StoreError: the database cannot be used.
    """
    with held_alone(locks / f"study-{name}.lock", f"study {name} is being searched"), ExitStack() as held:
        lease = lease_of(name, storage, locks=locks) if is_postgres(storage) else None
        if lease is not None:
            held.callback(lease.release)
        yield lease


def open_study(
    study: Study,
    storage: RDBStorage,
    identity: Identity,
    *,
    manifest: Manifest = EMPTY,
    new: bool = False,
    beginning: Callable[[], Mapping[str, str]] = dict,
) -> optuna.Study:
    """Return the study's newest generation in the store, made now if there is none.

    It is held in memory, and what changes it is written through (`memory.WriteThrough`): hold the study's lock.
    Generation g > 1 is called `<name>@<g>`; `new` begins one. `manifest` lists the images that it is searched on.
    `beginning` returns attributes that a study which is begun now keeps as well.

    Raises:
        StudyChanged: the stored study has another identity; the difference is shown.
        StoreError: a newer fttune wrote it.
    """
    name = current_name(study.name, storage)
    if new and _is_begun(name, storage):
        name = current_name(study.name, storage, following=True)
    if name not in optuna.get_all_study_names(storage):
        own = beginning()
        made = optuna.create_study(
            study_name=name,
            storage=storage,
            directions=[objective.direction for objective in study.objectives],
            pruner=pruner_for(study),
        )
        _begin(made, identity, manifest, own)
        return _kept_in_memory(made, storage)
    stored = optuna.load_study(study_name=name, storage=storage, pruner=pruner_for(study))
    require_format(stored)
    old = stored.user_attrs.get(IDENTITY)
    if old is None:  # killed between the two writes above, before anything was asked
        _begin(stored, identity, manifest, beginning())
    else:
        require_identity(stored, identity, manifest)
    return _kept_in_memory(stored, storage)


def newest_generation(name: str, storage: RDBStorage) -> optuna.Study | None:
    """Return the newest generation of a study that was begun, to be read. Raises StoreError as `require_format`."""
    own = {stored.study_name: stored for stored in stored_studies(storage)}
    last = int(current_name(name, storage).removeprefix(name).removeprefix("@") or 1)
    numbered = (own.get(_generation(name, number)) for number in range(last, 0, -1))
    return next((stored for stored in numbered if stored is not None), None)


def stored_studies(storage: RDBStorage) -> Iterator[optuna.Study]:
    """Yield every study that fttune has begun, by name, to be read. Raises StoreError as `require_format`."""
    for name in sorted(optuna.get_all_study_names(storage)):
        stored = optuna.load_study(study_name=name, storage=storage)
        if ID in stored.user_attrs and IDENTITY in stored.user_attrs:
            require_format(stored)
            yield stored


def require_format(stored: optuna.Study) -> None:
    """Refuse a study that a newer fttune wrote. Raises StoreError."""
    if (found := stored.user_attrs.get(FORMAT, FORMAT_NUMBER)) > FORMAT_NUMBER:
        raise StoreError(
            f"study {stored.study_name}: format {found} is newer than this fttune knows ({FORMAT_NUMBER}); "
            "upgrade fttune, or begin anew with --new"
        )


def _kept_in_memory(stored: optuna.Study, storage: RDBStorage) -> optuna.Study:
    memory = WriteThrough(storage, stored.study_name)
    if isinstance(stored.pruner, HyperbandPruner):
        stored.pruner._try_initialization(stored)  # else samplers know no brackets before it is first asked to prune
    return optuna.load_study(study_name=stored.study_name, storage=memory, pruner=stored.pruner)


def require_identity(stored: optuna.Study, identity: Identity, manifest: Manifest) -> None:
    """Refuse a study that was begun with another identity; of changed data it is told how. Raises StudyChanged."""
    old, about_data = stored.user_attrs[IDENTITY], lambda: str(changed_data(stored, manifest))
    require_same(stored.study_name, old, identity, about_data=about_data)


def changed_data(stored: optuna.Study, now: Manifest) -> DataChange:
    """Return what changed in the images of a study since it was begun."""
    kept = stored._storage.get_study_system_attrs(stored._study_id).get(IMAGES)
    return changes(Manifest.unpacked(kept) if kept else EMPTY, now)


def _is_begun(name: str, storage: RDBStorage) -> bool:
    names = optuna.get_all_study_names(storage)
    return name in names and IDENTITY in optuna.load_study(study_name=name, storage=storage).user_attrs


def _begin(stored: optuna.Study, identity: Identity, manifest: Manifest, own: Mapping[str, str]) -> None:
    """Write what a study keeps from its beginning; it counts as begun with its identity, which comes last.

    The images are an attribute that dashboards do not show: a line of thousands of hashes.
    """
    stored.set_user_attr(FORMAT, FORMAT_NUMBER)
    stored.set_user_attr(ID, uuid.uuid4().hex)
    stored._storage.set_study_system_attr(stored._study_id, IMAGES, manifest.packed())
    for key, value in own.items():
        stored.set_user_attr(key, value)
    stored.set_user_attr(IDENTITY, dict(identity))


def current_name(name: str, storage: RDBStorage, *, following: bool = False) -> str:
    """Return the name of a study's newest generation, or of the one after it."""
    taken = set(optuna.get_all_study_names(storage))
    generation = 1
    while _generation(name, generation + 1) in taken:
        generation += 1
    if following and name in taken:
        generation += 1
    return _generation(name, generation)


def _generation(name: str, generation: int) -> str:
    return name if generation == 1 else f"{name}@{generation}"


def facts_of(trial: FrozenTrial) -> TrialFacts | None:
    """Return what fttune stored about a trial, None when it has not finished."""
    stored = trial.user_attrs.get(FACTS)
    return TrialFacts(**json.loads(stored)) if stored else None


def counted(stored: optuna.Study) -> int:
    """Return how many trials count towards the budget: complete and pruned ones."""
    return len(stored.get_trials(deepcopy=False, states=COUNTED))
