"""Where a new study begins: the best configurations of earlier ones, those on the nearest data first."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain, zip_longest

import optuna
from optuna.storages import RDBStorage

from fttune.config import Study
from fttune.config.distributions import Scalar, encoded
from fttune.config.fingerprint import Identity
from fttune.config.known import did_you_mean
from fttune.config.warm_start import AUTO, NONE, Fitted, fitted
from fttune.data.listing import some
from fttune.errors import BadInput
from fttune.models import same_family
from fttune.searching.ranking import ranked
from fttune.searching.store import IDENTITY, newest_generation, stored_studies
from fttune.training.events import WARM_START

DESCRIPTORS = "fttune.descriptors"
CONFIGURATIONS = 8  # a block of trials, by default
LOOKED_AT = 100  # of a study's trials, until some fit
UNKNOWN = 1.0  # how far features are that cannot be compared: as far as e times as many classes
_EXPERIMENT = "experiment."


@dataclass(frozen=True)
class Descriptors:
    """What is known of a study's data: by it others are near or far.

    `features` are mean and standard deviation of what the backbone makes of some images, before any training; they
    compare between studies with the same `extractor` alone.
    """

    classes: int
    images_per_class: float
    extractor: str = ""
    features: tuple[float, float] | None = None


@dataclass(frozen=True)
class Start:
    """A configuration to begin with: the values of fields, and the trial that it comes from, with its value there."""

    study: str
    trial: int
    value: float
    params: Mapping[str, Scalar]

    @property
    def source(self) -> str:
        """The trial that it comes from, in one word."""
        return f"{self.study}/{self.trial}"


@dataclass(frozen=True)
class WarmStart:
    """The configurations that a study begins with, best of the nearest first, and what people are to be told."""

    starts: tuple[Start, ...] = ()
    notices: tuple[str, ...] = field(default=(), compare=False)


def distance(one: Descriptors, other: Descriptors) -> float:
    """Return how far two data sets are from each other.

    It is |ln| of the ratio of their classes, plus that of their images per class, plus for the features the
    difference of means in units of the mean scale and |ln| of the ratio of scales, or `UNKNOWN`.
    """
    sizes = abs(math.log(one.classes / other.classes)) + abs(math.log(one.images_per_class / other.images_per_class))
    if one.features is None or other.features is None or one.extractor != other.extractor:
        return sizes + UNKNOWN
    (mean, scale), (other_mean, other_scale) = one.features, other.features
    if min(scale, other_scale) <= 0:
        return sizes + UNKNOWN
    return sizes + 2 * abs(mean - other_mean) / (scale + other_scale) + abs(math.log(scale / other_scale))


def described(stored: optuna.Study) -> Descriptors | None:
    """Return what a study keeps of its data."""
    if (text := stored.user_attrs.get(DESCRIPTORS)) is None:
        return None
    own = json.loads(text)
    if own["features"] is not None:
        own["features"] = tuple(own["features"])  # JSON has lists alone
    return Descriptors(**own)


def describe(stored: optuna.Study, descriptors: Descriptors) -> None:
    """Keep with a study what is known of its data."""
    stored.set_user_attr(DESCRIPTORS, json.dumps(asdict(descriptors)))


def beginning(descriptors: Descriptors, warm: WarmStart | None) -> dict[str, str]:
    """Return what a study keeps from its beginning: what is known of its data, and what it took from where."""
    own = {DESCRIPTORS: json.dumps(asdict(descriptors))}
    return own if warm is None else own | {WARM_START: json.dumps([asdict(start) for start in warm.starts])}


def kept_starts(stored: optuna.Study) -> tuple[Start, ...] | None:
    """Return what a study began with, None when it looked for nothing."""
    text = stored.user_attrs.get(WARM_START)
    return None if text is None else tuple(Start(**start) for start in json.loads(text))


def source_of(stored: optuna.Study, number: int) -> str | None:
    """Return which trial of another study a trial's configuration comes from."""
    trial = stored._storage.get_trial_id_from_study_id_trial_number(stored._study_id, number)
    found: str | None = stored._storage.get_trial(trial).user_attrs.get(WARM_START)
    return found


def enqueue(stored: optuna.Study) -> None:
    """Ask for the configurations that a study begins with, those that were not asked for yet."""
    for start in kept_starts(stored) or ():
        stored.enqueue_trial(dict(start.params), user_attrs={WARM_START: start.source}, skip_if_exists=True)


def warm_start(study: Study, storage: RDBStorage, identity: Identity, descriptors: Descriptors) -> WarmStart | None:
    """Return what a study that is about to begin takes from those that it names, or that are found; None for neither.

    Up to `CONFIGURATIONS` in all: the best one of each source, the nearest data first, then the second best ones.

    Raises:
        BadInput: a named study is not in the store, or is of another backbone family or task, or has no complete trial.
    """
    wanted = study.warm_start.sources
    if wanted == NONE:
        return None
    sources = _found(storage, identity) if wanted == AUTO else [_named(name, storage, identity) for name in wanted]
    sources.sort(key=lambda source: (_far(source, descriptors), source.study_name))
    notices: list[str] = []
    offers = [_offers(study, source, notices.append) for source in sources]
    seen: list[Mapping[str, Scalar]] = [{n: encoded(value) for n, value in point.items()} for point in study.baselines]
    starts: list[Start] = []
    for start in filter(None, chain.from_iterable(zip_longest(*offers))):
        if start.params not in seen:
            seen.append(start.params)
            starts.append(start)
        if len(starts) == CONFIGURATIONS:
            break
    sources_told = some((start.source for start in starts), CONFIGURATIONS)
    told = f"begins with the configurations of {sources_told}" if starts else "found no earlier study that fits"
    return WarmStart(tuple(starts), (f"warm start: {told}", *dict.fromkeys(notices)))


def require_sources(names: Iterable[str], storage: RDBStorage, identity: Identity) -> None:
    """Refuse named sources as `warm_start` does, whose errors it raises; the identity may lack its data."""
    for name in names:
        _named(name, storage, identity)


def _named(name: str, storage: RDBStorage, identity: Identity) -> optuna.Study:
    known = {stored.study_name: stored for stored in stored_studies(storage)}
    stored = known.get(name) if "@" in name else newest_generation(name, storage)
    if stored is None:
        rule = "but no such study was searched in this store"
        raise BadInput(f"warm_start.from names {name}, {rule}{did_you_mean(name, known)}")
    if reason := unlike(stored, identity):
        raise BadInput(f"warm_start.from names {name}, but {reason}; leave it out")
    if not ranked(stored):
        raise BadInput(f"warm_start.from names {name}, but it has no complete trial; search it first, or leave it out")
    return stored


def _found(storage: RDBStorage, identity: Identity) -> list[optuna.Study]:
    return [stored for stored in stored_studies(storage) if not unlike(stored, identity) and ranked(stored)]


def unlike(stored: optuna.Study, identity: Identity) -> str | None:
    """Return why the configurations of a study say nothing about another one."""
    old = stored.user_attrs[IDENTITY]
    task, backbone = f"{_EXPERIMENT}task", f"{_EXPERIMENT}backbone.name"
    if old.get(task) != identity[task]:
        return f"its task is {old.get(task)}, and this one's {identity[task]}"
    if not same_family(old[backbone], identity[backbone]):
        return f"its backbone {old[backbone]} is of another family than {identity[backbone]}"
    return None


def _far(stored: optuna.Study, descriptors: Descriptors) -> float:
    own = described(stored)
    return math.inf if own is None else distance(own, descriptors)


def _offers(study: Study, source: optuna.Study, tell: Callable[[str], None]) -> Iterator[Start]:
    """Yield the configurations of a study, the best first, as they are in this one's space."""
    old = source.user_attrs[IDENTITY]
    fixed = {name: value for name in study.space if (value := old.get(f"{_EXPERIMENT}{name}")) is not None}
    for trial in ranked(source)[:LOOKED_AT]:
        if (found := fitted(study, trial.params, fixed)) is None:
            tell(f"warm start from {source.study_name}: configurations that do not fit this study were left out")
            continue
        for text in _remarks(found):
            tell(f"warm start from {source.study_name}: {text}")
        params = {name: encoded(value) for name, value in found.point.items()}
        yield Start(source.study_name, trial.number, trial.values[0], params)


def _remarks(found: Fitted) -> Iterator[str]:
    if found.dropped:
        yield f"{some(found.dropped, 8)} cannot be set here and was left out"
    if found.clipped:
        yield f"{some(found.clipped, 8)} was moved to the nearest value of this space"
