"""What nights leave in `mlruns/nightly/<night>/`: how each study's part ended, and the night as a whole.

Each is one file that is replaced as a whole; a night whose own file is not there has not ended.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

from fttune.config.workspace import Workspace
from fttune.files import private_folder, write_text
from fttune.report.night import Night, StudyNight

BEGUN, ENDED, STUDIES = "begun.json", "night.json", "studies"
CONTINUED = timedelta(hours=20)  # a night that began longer ago and did not end is the next one's to go on with


@dataclass(frozen=True)
class Records:
    """The nights of a workspace."""

    folder: Path

    @classmethod
    def of(cls, workspace: Workspace) -> "Records":
        """Return those of a workspace."""
        return cls(workspace.mlruns / "nightly")

    def tonight(self, now: datetime) -> date:
        """Return which night it is: the one of today, or one that was begun and cut off."""
        for night in sorted(self._nights(), reverse=True)[:1]:
            if not (self.of_night(night) / ENDED).exists() and now - self.begun(night) < CONTINUED:
                return night
        return now.date()

    def begin(self, now: datetime) -> date:
        """Return which night it is; from now on it has begun."""
        place = self.of_night(tonight := self.tonight(now))
        private_folder(place)
        if not (place / BEGUN).exists():
            write_text(place / BEGUN, json.dumps({"begun": now.isoformat()}))
        return tonight

    def begun(self, night: date) -> datetime:
        """Return when a night was begun."""
        fields = json.loads((self.of_night(night) / BEGUN).read_text(encoding="utf-8"))
        return datetime.fromisoformat(fields["begun"])

    def of_night(self, night: date) -> Path:
        """Return the folder of a night."""
        return self.folder / night.isoformat()

    def keep(self, night: date, found: StudyNight) -> None:
        """Write down how a study's part of a night ended."""
        file = self.of_night(night) / STUDIES / f"{found.study}.json"
        private_folder(file.parent)
        write_text(file, json.dumps(asdict(found)))

    def study(self, night: date, study: str) -> StudyNight | None:
        """Return how a study's part of a night ended, None while it has not."""
        file = self.of_night(night) / STUDIES / f"{study}.json"
        return StudyNight.of(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None

    def studies(self, night: date) -> list[StudyNight]:
        """Return how each study's part of a night ended, by name."""
        files = sorted((self.of_night(night) / STUDIES).glob("*.json"))
        return [StudyNight.of(json.loads(file.read_text(encoding="utf-8"))) for file in files]

    def close(self, found: Night) -> None:
        """Write down how a night ended."""
        write_text(self.of_night(found.night) / ENDED, found.as_json())

    def nights(self) -> list[Night]:
        """Return the nights that ended, in order."""
        files = (self.of_night(night) / ENDED for night in sorted(self._nights()))
        return [Night.of_json(file.read_text(encoding="utf-8")) for file in files if file.exists()]

    def since(self, night: date) -> list[date]:
        """Return this night and those after it that were begun, the newest first."""
        return sorted((one for one in self._nights() if one >= night), reverse=True)

    def _nights(self) -> Iterator[date]:
        for file in self.folder.glob(f"*/{BEGUN}"):
            yield date.fromisoformat(file.parent.name)
