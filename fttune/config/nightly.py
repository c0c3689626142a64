"""The `nightly` section of a study: what `fttune nightly` does with it. No part of its fingerprint."""

from typing import Literal

from pydantic import Field

from fttune.config.sections import Section

DAYS = {"day": 1, "week": 7}


class Nightly(Section):
    """A study's weight among the others of its folder, how many trials a night adds to it, and how often it is due."""

    weight: float = Field(default=1.0, gt=0, le=1e6)
    trials_per_night: int = Field(default=16, ge=1, le=1_000_000)
    every: Literal["day", "week"] = "day"

    @property
    def days(self) -> int:
        """After how many days it is due again."""
        return DAYS[self.every]
