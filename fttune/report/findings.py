"""All that a report is made of, as plain data. Whoever reads the stores fills it in; nothing here knows them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from fttune.report.confirmation import Confirmation
from fttune.report.table import TrialRow

COUNTED = "freeze.unfrozen_stages"  # the depth that is a number


@dataclass(frozen=True)
class Curve:
    """The study's metric of one trial over its epochs (from 1), or over its folds."""

    number: int
    state: str
    epochs: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Importance:
    """How much each parameter decided whether a trial is among the best, as shares of 1.

    `depth` is None for all trials, else that of the trials looked at. `evaluator` names the method; `trials` counts
    those that it saw, `best` those of them that it takes for the best.
    """

    evaluator: str
    depth: str | None
    trials: int
    best: int
    shares: Mapping[str, float]


@dataclass(frozen=True)
class Thumbnail:
    """A test image (PNG) that was classified badly: its class, the likeliest one, and the mean probability of its own.

    `errors` counts the seeds, of `seeds`, under which another class was predicted.
    """

    sample: str
    label: str
    predicted: str
    probability: float
    errors: int
    seeds: int
    png: bytes = field(repr=False)


@dataclass(frozen=True)
class Tested:
    """What one confirmed candidate said of the test split.

    `counts[i][j]` are the samples of class i that were taken for class j, added up over `seeds` seeds.
    """

    trial: int
    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    seeds: int
    worst: tuple[Thumbnail, ...] = ()


@dataclass(frozen=True)
class Reproduction:
    """How to do it again: the commands, the recipe of one trial as YAML, and the world that it ran in."""

    search: str
    confirm: str
    export: str
    trial: int | None = None
    recipe: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Aim:
    """One of several objectives: its name, and whether to maximize or to minimize it."""

    name: str
    direction: str


@dataclass(frozen=True)
class Findings:
    """A study as it stands.

    `rows` are the complete trials, best first, then the others by number. `depths` are the values of `depth_field`
    that occur, from the fewest to the most trained parameters; `stages` is how many stages there are to unfreeze, None
    when that is not known. `aims` are its objectives where there are several, the metric first, and `front` the numbers
    of the trials that no other one dominates. `val_images` is the size of the validation split; with `folds`, about
    that of all folds.
    """

    study: str
    metric: str
    direction: str
    is_finished: bool
    total_trials: int
    rows: tuple[TrialRow, ...]
    reproduction: Reproduction
    depth_field: str | None = None
    depths: tuple[str, ...] = ()
    stages: int | None = None
    val_images: int | None = None
    folds: int | None = None
    aims: tuple[Aim, ...] = ()
    front: tuple[int, ...] = ()
    last: str | None = None
    curves: tuple[Curve, ...] = ()
    importances: tuple[Importance, ...] = ()
    confirmation: Confirmation | None = None
    tested: Tested | None = None

    @property
    def maximize(self) -> bool:
        """Whether larger values are better."""
        return self.direction == "maximize"

    @cached_property
    def complete(self) -> tuple[TrialRow, ...]:
        """The complete trials, best first."""
        return tuple(row for row in self.rows if row.state == "complete")

    @cached_property
    def observed(self) -> tuple[TrialRow, ...]:
        """The complete trials that trained a recipe of their own, best first: what statistics may count."""
        return tuple(row for row in self.rows if row.has_own_value)

    def at_depth(self, depth: str) -> tuple[TrialRow, ...]:
        """Return the observed trials of a depth, best first."""
        return tuple(row for row in self.observed if row.setting.depth == depth)

    @property
    def depth_words(self) -> str:
        """What the depths count."""
        if self.depth_field == COUNTED:
            return "unfrozen stages"
        return self.depth_field or "what trains"
