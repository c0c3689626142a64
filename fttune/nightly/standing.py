"""The studies of a folder, and where each stands before a night."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from fttune import searching
from fttune.app.studies import newest
from fttune.config import Study, load_study
from fttune.config.workspace import Workspace
from fttune.errors import BadInput
from fttune.nightly.plan import Standing
from fttune.nightly.records import Records
from fttune.report.night import ENDED


@dataclass(frozen=True)
class Folder:
    """The studies of a folder by name, and why some of its files are none."""

    studies: Mapping[str, Study]
    problems: Mapping[str, str]

    @classmethod
    def of(cls, folder: Path) -> "Folder":
        """Read every YAML file below a folder. Raises BadInput where there is none."""
        files = sorted(folder.rglob("*.yaml")) if folder.is_dir() else []
        if not files:
            raise BadInput(f"{folder}: holds no study (*.yaml); name the folder of the studies to run every night")
        studies, problems = {}, {}
        for file in files:
            try:
                studies[file.stem] = load_study(file)
            except BadInput as error:
                problems[file.stem] = str(error)
        return cls(studies, problems)

    def study(self, name: str) -> Study:
        """Return a study by its name. Raises BadInput when its file is not there, or broken."""
        if name in self.problems:
            raise BadInput(self.problems[name])
        if name not in self.studies:
            raise BadInput(f"--study: must be one of {', '.join(self.studies)}, got {name!r}")
        return self.studies[name]


def standings(folder: Folder, tonight: date, workspace: Workspace) -> list[Standing]:
    """Return where each study stands before a night; data are not looked at. Raises StoreError."""
    records = Records.of(workspace)
    return [_standing(study, tonight, workspace, records) for study in folder.studies.values()]


def _standing(study: Study, tonight: date, workspace: Workspace, records: Records) -> Standing:
    stored = newest(study, workspace)
    before = None if stored is None else searching.aim_of(stored)
    counted = 0 if stored is None else searching.counted(stored)
    aim = searching.next_aim(before, counted, tonight, study.nightly)
    trials = max(0, study.until(aim.total).total_trials - counted)
    if before is None:
        return Standing(study.name, study.nightly, trials)
    # A part that did not end on its own night may have ended on a later one.
    ended = next((found for night in records.since(before.night) if (found := records.study(night, study.name))), None)
    return Standing(study.name, study.nightly, trials, before.night, ended is not None and ended.state == ENDED)
