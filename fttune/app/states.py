"""What trials of a study go on from after a crash: folders of states, kept until Optuna was told how each one ended."""

import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from fttune.app import parcels
from fttune.mirror import Mirror

NAME = "states"  # at the URL


@dataclass
class States:
    """The folders below `folder`, one for each trial by its number, one for the cohorts of each block of `batch`.

    Other machines have them too where they lie in `mirror`, which holds nothing but this study's: `saved` sends them,
    `fetch` gets them, and who tells Optuna drops them there.
    """

    folder: Path
    batch: int
    mirror: Mirror | None = None
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
            self._clear(number)
        if (block := number // self.batch) != self._block:
            for folder in self._blocks.glob("*"):
                if folder.name != str(block):
                    shutil.rmtree(folder, ignore_errors=True)
        self._block = block

    def saved(self, folder: Path) -> None:
        """Let other machines have the state that was written in a folder. Raises CannotWrite."""
        if self.mirror is not None:
            self.mirror.push_folder(folder, self._name(folder))

    def fetch(self, number: int, first: int) -> None:
        """Get what others have of a trial, and of the cohort that begins with trial `first`. Raises CannotWrite."""
        for folder in (self.of(number), self.of_cohort(first, number)):
            if self.mirror is not None:
                self.mirror.pull_folder(self._name(folder), folder)

    def leave(self, number: int) -> None:
        """Drop here what others have of a trial, which has ended."""
        if self.mirror is not None:
            self._clear(number)

    def forget(self, number: int) -> None:
        """Drop the folder of a trial, and the cohorts of the block before: Optuna was told of their ends."""
        self._clear(number)
        if self.mirror is not None:
            self.mirror.remove(self._name(self.of(number)))
            if (block := number // self.batch) != self._block and self._block is not None:
                self.mirror.remove(self._name(self._blocks / str(self._block)))
            self._block = block

    def drop(self, *, but: Collection[int] = ()) -> None:
        """Drop all folders, those of these trials and their cohorts excepted, and at the URL what is on its way."""
        for folder in self.folder.glob("[0-9]*"):
            if int(folder.name) not in but:
                shutil.rmtree(folder, ignore_errors=True)
        if not but:
            shutil.rmtree(self._blocks, ignore_errors=True)
        if self.mirror is not None:
            self._drop_there(self.mirror, but)

    def _drop_there(self, mirror: Mirror, but: Collection[int]) -> None:
        if not but:
            mirror.remove()
            return
        mirror.remove(parcels.FOLDER)
        kept = {self.of(number) for number in but} | {self._blocks / str(number // self.batch) for number in but}
        for file in [self.folder / name for name in mirror.names(NAME)]:
            if kept.isdisjoint(file.parents):
                mirror.remove(self._name(file))

    def _clear(self, number: int) -> None:
        shutil.rmtree(self.of(number), ignore_errors=True)

    def _name(self, place: Path) -> str:
        return "/".join((NAME, *place.relative_to(self.folder).parts))

    @property
    def _blocks(self) -> Path:
        return self.folder / "blocks"
