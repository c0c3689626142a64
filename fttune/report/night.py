"""A night over all studies of a folder: what ran and what came of it, as data and as JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any

from fttune.report.wording import number

ENDED, UNFINISHED, FAILED = "ended", "unfinished", "failed"


@dataclass(frozen=True)
class Takeover:
    """What became of the champion, in words; `version` is the champion's in the registry, `changed` since tonight."""

    why: str
    changed: bool = False
    version: str | None = None
    trial: str | None = None


@dataclass(frozen=True)
class StudyNight:
    """One study's night. `state` is ended, unfinished (its hours were over) or failed, with the `cause`.

    `best` is the best value, over the seeds of a confirmation with its 95 % interval where there is one, `failures` how
    many trials ended by which cause tonight, `change` what changed in the data, `alarm` that the champion got worse.
    Trials of `from_generation` before `from_trial` are those of earlier nights.
    """

    study: str
    state: str
    cause: str | None = None
    generation: str | None = None
    change: str | None = None
    trials: int = 0
    total: int = 0
    metric: str = ""
    best: float | None = None
    low: float | None = None
    high: float | None = None
    champion: Takeover | None = None
    alarm: str | None = None
    failures: Mapping[str, int] = field(default_factory=dict)
    hours: float = 0.0
    gpu_hours: float = 0.0
    from_generation: str | None = None
    from_trial: int = 0

    @property
    def is_well(self) -> bool:
        """Whether nothing failed and no alarm was raised."""
        return self.state != FAILED and self.alarm is None

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "StudyNight":
        """Return what `asdict` made plain."""
        champion = fields.get("champion")
        return cls(**{**fields, "champion": Takeover(**champion) if champion else None})


@dataclass(frozen=True)
class Night:
    """A night, called by its first day. `problems` are those of no study, `disk` the bytes of the generated folder."""

    night: date
    begun: str
    ended: str
    budget_hours: float
    studies: tuple[StudyNight, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    disk: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_well(self) -> bool:
        """Whether nothing failed and no alarm was raised."""
        return not self.problems and all(one.is_well for one in self.studies)

    def as_json(self) -> str:
        """Return all of it as text."""
        facts = {"night": self.night.isoformat(), "ok": self.is_well, "gpu_hours": self.gpu_hours}
        return json.dumps({**asdict(self), **facts})

    @classmethod
    def of_json(cls, text: str) -> "Night":
        """Return what `as_json` wrote."""
        fields = json.loads(text)
        for derived in ("ok", "gpu_hours"):
            del fields[derived]
        studies = tuple(StudyNight.of(one) for one in fields["studies"])
        own = {"night": date.fromisoformat(fields["night"]), "studies": studies, "problems": tuple(fields["problems"])}
        return cls(**{**fields, **own})

    def as_text(self) -> str:
        """Return a line for each study."""
        lines = [f"night of {self.night}: {'all well' if self.is_well else 'something failed or an alarm was raised'}"]
        for one in self.studies:
            best = "" if one.best is None else f", best {one.metric} {number(one.best)}"
            lines.append(f"{one.study}: {one.state}, {one.trials} trials{best}")
            lines += [f"  {told}" for told in (one.alarm, one.cause, one.champion and one.champion.why) if told]
        return "\n".join([*lines, *(f"{study}: {why}" for study, why in self.skipped.items()), *self.problems])

    @property
    def gpu_hours(self) -> float:
        """The hours that GPUs were held, over all studies."""
        return sum(one.gpu_hours for one in self.studies)
