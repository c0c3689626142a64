"""Which sample validates in which fold, as a table for people and other programs."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from fttune.data import Folds
from fttune.files import write_atomically


def write_folds(file: Path, folds: Folds, *, classes: Sequence[str]) -> None:
    """Write a CSV with a line per sample: its name, its class, and its fold (from 1) in each repeat. Raises OSError."""
    val = folds.data[0].val
    assert val is not None, "a fold validates"
    columns = {f"repeat {number}": [fold + 1 for fold in of] for number, of in enumerate(folds.assigned, start=1)}
    labels = [classes[label] for label in val.labels.tolist()]
    frame = pd.DataFrame({"sample": val.names, "class": labels, **columns})
    write_atomically(file, lambda temporary: frame.to_csv(temporary, index=False))
