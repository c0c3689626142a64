"""Nights as their page shows them."""

from datetime import date, timedelta

from fttune.report.night import Night, StudyNight, Takeover

FIRST = date(2026, 11, 20)
WHY = "trial 3 of pets@2 takes over from trial 0 of pets: better beyond chance at opening 4: 79 samples better, 0 worse"


def nights(count: int) -> list[Night]:
    """Return nights of three studies; in the last one, one failed and one raised an alarm."""
    return [_night(index, last=index == count - 1) for index in range(count)]


def _night(index: int, *, last: bool) -> Night:
    value = 0.8 + 0.004 * index
    pets = StudyNight(
        "pets",
        "ended",
        generation="pets@2" if index > 4 else "pets",
        change="images: 50 added (cat 50)" if index == 5 else None,
        trials=16,
        total=16 * (index + 1),
        metric="val/accuracy",
        best=value,
        low=value - 0.03,
        high=value + 0.03,
        champion=Takeover(WHY, changed=last, version="3", trial="trial 3 of pets@2"),
        alarm="the champion, trial 0 of pets, got worse on the changed data: 15 lost and 0 gained" if last else None,
        failures={"lr 0.9: the loss became NaN": 2, "no space " * 30: 1},
        hours=3.2,
        gpu_hours=3.2,
    )
    slow = StudyNight("a-study-with-a-long-name-" * 3, "unfinished", "its hours were over", metric="val/loss", best=0.4)
    broken = StudyNight("broken", "failed", "studies/broken.yaml: budget: required field is missing\n" * 3)
    night = FIRST + timedelta(index)
    studies = (pets, slow, broken) if last else (pets, slow)
    disk = {"artifacts": 8_000_000_000, "mlflow.db": 30_000_000, "all": 8_030_000_000}
    begun, ended = (f"{night} 0{hour}:00:00" for hour in (1, 9))
    return Night(night, begun, ended, 8.0, studies, {"weekly": "not due before 2026-12-05"}, (), disk)
