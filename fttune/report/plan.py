"""What an experiment or a study will take, before it runs: the plan as plain data, as a table and as JSON.

Times are in seconds, amounts in bytes. Rough figures are printed with one digit.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from fttune.report.table import as_text

How = Literal["measured", "estimated"]
CLASSES = 6  # named one by one; of more, the smallest and the largest count


@dataclass(frozen=True)
class Range:
    """Seconds if all trials that are not known beforehand have the cheapest depth, all depths alike, or the dearest."""

    low: float
    even: float
    high: float


@dataclass(frozen=True)
class StageLine:
    """A depth: the stage that it adds to those before, its parameters, and what an epoch takes, in seconds.

    `reached` says whether the space holds it; the others have no times. `plain_epoch_seconds` shares nothing.
    """

    unfrozen_stages: int
    stage: str
    parameters: int
    reached: bool
    epoch_seconds: float | None = None
    plain_epoch_seconds: float | None = None
    how: How | None = None


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak: measured here, and estimated for the command; `device` is None for one without own memory."""

    host_measured: int
    host: int
    device: int | None


@dataclass(frozen=True)
class Disk:
    """Bytes: decoded images and one checkpoint (measured), activations and all checkpoints (estimated).

    `room` is what the cache may hold, `free` what is free on its disk.
    """

    decoded: int
    activations: int
    checkpoint: int
    checkpoints: int
    free: int
    room: int


@dataclass(frozen=True)
class Plan:
    """What will be done, and what it takes. `seconds` is None where activations do not fit: `plain_seconds` bounds it.

    `images` counts by split and class; of the closed test split only the sum is known. `pass_seconds` is the part of
    `seconds` for the one pass through frozen stages. `first` is the plan of the experiment that the weights come from,
    which trains once where it has no run yet.
    """

    name: str
    kind: Literal["study", "experiment"]
    device: str
    trials: int
    epochs: int
    steps: int
    images: Mapping[str, Mapping[str, int]]
    test: int
    stages: tuple[StageLine, ...]
    pass_seconds: float
    seconds: Range | None
    plain_seconds: Range
    memory: Memory
    disk: Disk
    notes: tuple[str, ...] = ()
    first: "Plan | None" = None

    def as_json(self) -> str:
        """Return all of it."""
        return json.dumps(dataclasses.asdict(self))

    def as_text(self) -> str:
        """Return a short table and a few lines, each figure named as measured or estimated."""
        lines = [_what(self), *_images(self), "", as_text(_table(self)), "", *_times(self), *_amounts(self)]
        lines += [f"note: {note}" for note in self.notes]
        if self.first:
            lines += [
                "",
                f"before it, once, where it has no run yet (the weights come from it): {self.first.as_text()}",
            ]
        return "\n".join(lines)


def duration(seconds: float) -> str:
    """Return a rough time, with one digit: `0.3 s`, `40 s`, `5 min`, `2 h`, `3 days`."""
    for unit, size, enough in (("s", 1.0, 90.0), ("min", 60.0, 5400.0), ("h", 3600.0, 48 * 3600.0)):
        if seconds < enough:
            return f"{_one_digit(seconds / size)} {unit}"
    return f"{_one_digit(seconds / 86400)} days"


def amount(number: float) -> str:
    """Return a rough number of bytes, with two digits: `45 MB`, `1.2 GB`; a GB is 10^9."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if number >= 0.995 * size:
            return f"{_digits(number / size, 2)} {unit}"
    return f"{_digits(number / 1e3, 2)} kB"


def _what(plan: Plan) -> str:
    work = f"{plan.epochs} epochs of {plan.steps} updates on {plan.device}"
    return f"study {plan.name}: {plan.trials} trials of {work}" if plan.kind == "study" else f"{plan.name}: {work}"


def _images(plan: Plan) -> list[str]:
    lines = []
    for split, counts in plan.images.items():
        total, each = sum(counts.values()), counts.values()
        named = ", ".join(f"{label} {count}" for label, count in counts.items())
        shown = named if len(counts) <= CLASSES else f"{len(counts)} classes of {min(each)} to {max(each)}"
        lines.append(f"{split}: {total} images ({shown})")
    return [*lines, f"test: {plan.test} images, which stay closed"] if plan.test else lines


def _table(plan: Plan) -> pd.DataFrame:
    records = [
        {
            "unfrozen": line.unfrozen_stages,
            "adds": line.stage,
            "parameters": f"{line.parameters:,}",
            "in the space" if plan.kind == "study" else "trains": "yes" if line.reached else "-",
            "s/epoch": _seconds(line.epoch_seconds),
            "sharing nothing": _seconds(line.plain_epoch_seconds),
            "how": line.how or "-",
        }
        for line in plan.stages
    ]
    return pd.DataFrame.from_records(records)


def _times(plan: Plan) -> list[str]:
    lines = []
    if plan.seconds:
        share = f", {duration(plan.pass_seconds)} of it for one pass through frozen stages"
        lines.append(f"time (estimated): {_span(plan.seconds)}{share if plan.pass_seconds >= 1 else ''}")
    bound = "time, at most (estimated, nothing shared)"
    return [*lines, f"{bound}: {_span(plan.plain_seconds)}"]


def _span(of: Range) -> str:
    low, even, high = map(duration, (of.low, of.even, of.high))
    if low == high:
        return even
    return f"{even} if depths are spread evenly, {low} to {high} if all are the cheapest or the dearest"


def _amounts(plan: Plan) -> list[str]:
    memory, disk = plan.memory, plan.disk
    device = f"; device {amount(memory.device)} (estimated)" if memory.device is not None else ""
    return [
        f"memory: {amount(memory.host)} (estimated; {amount(memory.host_measured)} measured here){device}",
        f"disk: decoded images {amount(disk.decoded)} (measured), activations {amount(disk.activations)} (estimated), "
        f"checkpoints {plan.trials} x {amount(disk.checkpoint)} = {amount(disk.checkpoints)} (estimated); "
        f"the cache may hold {amount(disk.room)}, {amount(disk.free)} are free",
    ]


def _seconds(value: float | None) -> str:
    return "-" if value is None else _digits(value, 2)


def _one_digit(value: float) -> str:
    return _digits(value, 1)


def _digits(value: float, digits: int) -> str:
    """Return a number rounded to so many digits, without an exponent."""
    if value <= 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    return f"{rounded:.{max(digits - 1 - math.floor(math.log10(rounded)), 0)}f}"
