"""Studies as the report room knows them, made up: each with a known best rate at each depth."""

from dataclasses import replace
from typing import Any

import numpy as np

from fttune.report.confirmation import Confirmation, Confirmed
from fttune.report.findings import Aim, Curve, Findings, Importance, Reproduction, Tested, Thumbnail
from fttune.report.statistics import Difference
from fttune.report.table import Setting, TrialRow

PNG = bytes.fromhex(  # 2 x 2 pixels
    "89504e470d0a1a0a0000000d494844520000000200000002080000000057dd52f8000"
    "0000c49444154789c6360f80f8400060001ff93d1e4890000000049454e44ae426082"
)
COMMANDS = Reproduction("fttune search studies/pets.yaml", "fttune confirm studies/pets.yaml", "")
BEST_LR = {0: 0.1, 1: 0.03, 2: 0.01}


def trial(number: int, state: str = "complete", *, lr: float = 0.01, depth: int = 0, **fields: Any) -> TrialRow:
    """A trial at a rate and depth; a complete one is worse by a tenth per decade beside the best rate of its depth."""
    value = 0.7 + 0.1 * depth - 0.1 * abs(np.log10(lr / BEST_LR[depth]))
    momentum = fields.pop("momentum", 0.9 if number % 2 else 0.5)
    about: dict[str, Any] = {
        "value": float(value) if state in ("complete", "pruned") else None,
        "params": {"optimizer.lr": lr, "optimizer.momentum": momentum, "freeze.unfrozen_stages": depth},
        "best_epoch": 2 if state == "complete" else None,
        "trainable_parameters": 10 ** (depth + 2),
        "seconds": 1.0 + depth,
        "setting": Setting(lr, momentum, lr / (1 - momentum), str(depth)),
    }
    return TrialRow(number=number, state=state, **{**about, **fields})


def study(rows: list[TrialRow] | None = None, **fields: Any) -> Findings:
    """A study with those trials; by default thirty complete ones, and one of each other kind."""
    made = complete(30) + others(30) if rows is None else rows
    done = sorted((row for row in made if row.state == "complete"), key=lambda row: -(row.value or 0))
    rest = [row for row in made if row.state != "complete"]
    depths = sorted({str(row.setting.depth) for row in made if row.setting.depth is not None})
    about: dict[str, Any] = {
        "study": "pets",
        "metric": "val/accuracy",
        "direction": "maximize",
        "is_finished": True,
        "total_trials": len(made),
        "rows": tuple(done + rest),
        "reproduction": COMMANDS,
        "depth_field": "freeze.unfrozen_stages",
        "depths": tuple(depths),
        "stages": 2,
        "val_images": 400,
        "curves": tuple(
            Curve(row.number, row.state, (1, 2, 3), (0.3, 0.4, row.value or 0.2)) for row in (done + rest)[:20]
        ),
        "importances": (Importance("PED-ANOVA", None, 30, 5, {"optimizer.lr": 0.6, "optimizer.momentum": 0.4}),),
    }
    return Findings(**{**about, **fields})


def complete(count: int) -> list[TrialRow]:
    """Complete trials that spread evenly over rates from 0.001 to 1, at each of three depths."""
    rates = np.logspace(-3, 0, max(1, -(-count // 3)))
    return [trial(number, lr=float(rates[number // 3]), depth=number % 3) for number in range(count)]


def others(first: int) -> list[TrialRow]:
    """One trial of each kind that is not complete on its own account."""
    return [
        trial(first, "pruned", lr=0.002, depth=1),
        trial(first + 1, "diverged", lr=1.0, depth=2, cause="loss became nan in epoch 1"),
        trial(first + 2, "failed", lr=0.5, cause="out of memory"),
        trial(first + 3, "running", lr=0.02, depth=2),
        trial(first + 4, lr=0.001, reused_from=0, seconds=0.0),
    ]


def confirmed(*, opened: int = 1, seeds: int = 3) -> Findings:
    """A confirmed study: trial 2 wins, trial 1 is not told apart from it and cheaper, the baseline 0 is worse."""
    found = study()
    by_number = {row.number: row for row in found.rows}
    values = {2: 0.9, 1: 0.89, 0: 0.7}
    candidates = tuple(
        Confirmed(
            number,
            number == 0,
            by_number[number].params,
            10 ** (number + 2),
            tuple(value + 0.01 * seed for seed in range(seeds)),
            tuple(value - 0.02 + 0.01 * seed for seed in range(seeds)) if opened else (),
        )
        for number, value in values.items()
    )
    gaps = (
        Difference("trial 2", "trial 1", 0.01, -0.02, 0.04, 0.5, (0.6,) * seeds),
        Difference("trial 2", "trial 0", 0.2, 0.15, 0.25, 0.001, (0.001,) * seeds),
        Difference("trial 1", "trial 0", 0.19, 0.14, 0.24, 0.001, (0.001,) * seeds),
    )
    dates = tuple(f"2026-01-0{day} 10:00:00+00:00" for day in range(1, opened + 1))
    found = replace(
        found,
        confirmation=Confirmation(
            "pets",
            "val/accuracy",
            "accuracy",
            tuple(range(1, seeds + 1)),
            candidates,
            gaps if opened else (),
            1 if opened else None,
            dates,
        ),
        reproduction=replace(COMMANDS, export="fttune export x", trial=1, recipe="optimizer: {lr: 0.01}\n"),
    )
    if not opened:
        return found
    worst = tuple(Thumbnail(f"cat/{index}.png", "cat", "dog", 0.01 * index, 2, seeds, PNG) for index in range(3))
    return replace(found, tested=Tested(1, ("cat", "dog"), ((20, 10), (3, 27)), seeds, worst))


def several_objectives() -> Findings:
    """A study of accuracy and seconds: at each of three depths the best trial is on the front."""
    rows = [trial(n, lr=lr, depth=depth) for n, (depth, lr) in enumerate((d, r) for d in BEST_LR for r in (0.1, 0.01))]
    rows = [replace(row, values=(row.value or 0.0, 1.0 + float(row.setting.depth or 0))) for row in rows]
    best: dict[float, TrialRow] = {}
    for row in sorted(rows, key=lambda row: (row.values[1], -row.values[0])):
        if all(row.values[0] > other.values[0] for other in best.values()):
            best[row.values[1]] = row
    aims = Aim("val/accuracy", "maximize"), Aim("trial/seconds", "minimize")
    return study(rows, aims=aims, front=tuple(row.number for row in best.values()))
