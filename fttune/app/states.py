"""What trials of a study go on from after a crash: folders of states, kept until Optuna was told how each one ended."""

import shutil
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class States:
    """The folders below `folder`, one for each trial by its number, one for the cohorts of each block of `batch`."""

    folder: Path
    batch: int
    _ended: list[int] = field(default_factory=list)
    _block: int | None = None

    def of(self, number: int) -> Path:
        """Return the folder of a trial."""
        return self.folder / str(number)

    def of_cohort(self, first: int, number: int) -> Path:
        """Return the folder of the cohort that begins with trial `first`, in the block of trial `number`."""
        return self._blocks / str(number // self.batch) / str(first)

    def begin(self, number: int, *, anew: bool) -> None:
        """Drop what nobody needs any more when a trial begins or goes on: Optuna was told of those that ended before.

        With `anew` also what lies under its own number: it is from before the stores were deleted.
        """
        while self._ended:
            self.forget(self._ended.pop())
        if anew:
            self.forget(number)
        self._drop_other_cohorts(number // self.batch)

    def end(self, number: int) -> None:
        """Let a trial's folder go once another one begins."""
        self._ended.append(number)

    def keep_block(self, number: int) -> None:
        """Drop the folders of trials before the block of trial `number`, and of other blocks' cohorts."""
        self._drop_other_cohorts(number // self.batch)
        for folder in self.folder.glob("[0-9]*"):
            if int(folder.name) < number // self.batch * self.batch:
                shutil.rmtree(folder, ignore_errors=True)

    def drop(self, *, but: Collection[int] = ()) -> None:
        """Drop all folders, those of these trials and their cohorts excepted."""
        for folder in self.folder.glob("[0-9]*"):
            if int(folder.name) not in but:
                shutil.rmtree(folder, ignore_errors=True)
        if not but:
            shutil.rmtree(self._blocks, ignore_errors=True)

    def _drop_other_cohorts(self, block: int) -> None:
        if block != self._block:
            for folder in self._blocks.glob("*"):
                if folder.name != str(block):
                    shutil.rmtree(folder, ignore_errors=True)
        self._block = block

    @property
    def _blocks(self) -> Path:
        return self.folder / "blocks"

    def forget(self, number: int) -> None:
        """Drop the folder of a trial."""
        shutil.rmtree(self.of(number), ignore_errors=True)
