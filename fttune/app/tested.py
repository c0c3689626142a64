"""What confirmed candidates say of the test split, kept beside the study's run: predictions, and the worst as pictures.

A confirmation writes it while the test split is open, so that whoever shows it later need not open the split again.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from fttune.data import Part
from fttune.data.listing import natural
from fttune.files import write_atomically
from fttune.report.confirmation import Confirmed, prediction_column
from fttune.report.findings import Tested, Thumbnail

FOLDER, PREDICTIONS, WORST = "confirm", "predictions.csv", "worst.csv"
SHOWN = 12
SIDE = 96  # pixels of a thumbnail's longer side


@dataclass(frozen=True)
class Said:
    """What a candidate says of the test samples under each seed: the likeliest class, and its own class's chance.

    Both are (S, N).
    """

    predicted: npt.NDArray[np.int64]
    chance: npt.NDArray[np.float64]


def write_predictions(
    folder: Path, part: Part, said: Mapping[str, Said], *, classes: Sequence[str], seeds: Sequence[int]
) -> Path:
    """Write the predicted class of every test sample, with its own, for every candidate and seed."""
    names = np.array(classes)
    columns = {
        prediction_column(name, seed): names[row]
        for name, one in said.items()
        for seed, row in zip(seeds, one.predicted, strict=True)
    }
    frame = pd.DataFrame({"sample": part.names, "class": names[part.labels.numpy()], **columns})
    return _csv(folder / PREDICTIONS, frame)


def write_worst(folder: Path, part: Part, said: Said, *, classes: Sequence[str]) -> list[Path]:
    """Write the samples whose own class a candidate holds for least likely, over seeds: a table, and a PNG of each."""
    truth, chance = part.labels.numpy(), said.chance.mean(0)
    records, files = [], []
    for place, index in enumerate(np.argsort(chance, kind="stable")[:SHOWN], start=1):
        file = folder / f"{place:02d}.png"
        png = _thumbnail(part.images[index])
        write_atomically(file, partial(_fill, png))
        files.append(file)
        others = said.predicted[said.predicted[:, index] != truth[index], index]
        own = classes[int(truth[index])]
        other = classes[int(np.bincount(others).argmax())] if len(others) else own
        records.append((file.name, part.names[index], own, other, chance[index], len(others), len(said.predicted)))
    columns = ["file", "sample", "class", "predicted", "probability", "errors", "seeds"]
    return [*files, _csv(folder / WORST, pd.DataFrame.from_records(records, columns=columns))]


def read_tested(folder: Path, candidate: Confirmed, seeds: Sequence[int]) -> Tested | None:
    """Return what was written of a candidate, None when its predictions are not there."""
    file = folder / PREDICTIONS
    frame = pd.read_csv(file, dtype=str, keep_default_na=False) if file.is_file() else pd.DataFrame()
    said = [name for seed in seeds if (name := prediction_column(candidate.name, seed)) in frame]
    if not said:
        return None
    # A class that no sample has may be predicted all the same.
    classes = sorted({*frame["class"], *(value for name in said for value in frame[name])}, key=natural)
    position = {name: index for index, name in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)), dtype=int)
    for name in said:
        np.add.at(counts, (frame["class"].map(position).to_numpy(), frame[name].map(position).to_numpy()), 1)
    table = tuple(tuple(int(count) for count in row) for row in counts)
    return Tested(candidate.trial, tuple(classes), table, len(said), tuple(_worst(folder)))


def _worst(folder: Path) -> list[Thumbnail]:
    if not (folder / WORST).is_file():
        return []
    frame = pd.read_csv(folder / WORST, dtype={"sample": str, "class": str, "predicted": str}, keep_default_na=False)
    return [
        Thumbnail(
            row["sample"],
            row["class"],
            row["predicted"],
            float(row["probability"]),
            int(row["errors"]),
            int(row["seeds"]),
            (folder / row["file"]).read_bytes(),
        )
        for row in frame.to_dict("records")
        if (folder / row["file"]).is_file()
    ]


def _thumbnail(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Return an image (H, W, 3) as a PNG, no larger than `SIDE`."""
    image, buffer = Image.fromarray(np.asarray(pixels)), io.BytesIO()
    image.thumbnail((SIDE, SIDE))
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _fill(content: bytes, file: Path) -> None:
    file.write_bytes(content)


def _csv(file: Path, frame: pd.DataFrame) -> Path:
    write_atomically(file, lambda temporary: frame.to_csv(temporary, index=False))
    return file
