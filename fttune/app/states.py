"""What trials of a study go on from after a crash: folders of states, kept until Optuna was told how each one ended."""

import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path


@dataclass
class States:
    """The folders below `folder`, one for each trial by its number, one for the cohorts of each block of `batch`."""

    folder: Path
    batch: int
    _block: int | None = None

    def of(self, number: int) -> Path:
        """Return the folder of a trial."""
        return self.folder / str(number)

    def of_cohort(self, first: int, number: int) -> Path:
        """Return the folder of the cohort that begins with trial `first`, in the block of trial `number`."""
        return self._blocks / str(number // self.batch) / str(first)

    def begin(self, number: int, *, anew: bool) -> None:
        """Drop the cohorts of other blocks when a trial begins or goes on.

        With `anew` also what lies under its own number: it is from before the stores were deleted.
        """
        if anew:
            self.forget(number)
        if (block := number // self.batch) != self._block:
            for folder in self._blocks.glob("*"):
                if folder.name != str(block):
                    shutil.rmtree(folder, ignore_errors=True)
        self._block = block

    def forget(self, number: int) -> None:
        """Drop the folder of a trial: it is anew, or Optuna was told of its end."""
        shutil.rmtree(self.of(number), ignore_errors=True)

    def drop(self, *, but: Collection[int] = ()) -> None:
        """Drop all folders, those of these trials and their cohorts excepted."""
        for folder in self.folder.glob("[0-9]*"):
            if int(folder.name) not in but:
                shutil.rmtree(folder, ignore_errors=True)
        if not but:
            shutil.rmtree(self._blocks, ignore_errors=True)

    @property
    def _blocks(self) -> Path:
        return self.folder / "blocks"
