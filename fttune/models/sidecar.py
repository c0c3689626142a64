"""What stands in the JSON beside a checkpoint, each field of the type that it must have. Reads no tensors."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchvision.transforms import InterpolationMode

from fttune.config.known import shown
from fttune.errors import WeightsError
from fttune.models.files import MOVE_AWAY, read_sidecar
from fttune.models.preprocessing import Preprocessing

MAX_SIDE = 8192  # pixels, as in `data.resize`


@dataclass(frozen=True)
class Sidecar:
    """The backbone's name (None where the recipe names none), the classes, the preprocessing, the tensors' sha256."""

    backbone: str | None
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    sha256: str


def sidecar_of(file: Path) -> Sidecar | None:
    """Return what the JSON beside a checkpoint says, None where there is none.

    Raises:
        WeightsError: the JSON is damaged, of a newer schema, or a field is not what it must be.
    """
    raw = read_sidecar(file)
    if not raw:
        return None
    fields = _Fields(file.with_suffix(".json"), raw)
    return Sidecar(fields.backbone(), fields.classes(), fields.preprocessing(), fields.sha256())


@dataclass(frozen=True)
class _Fields:
    """The fields of a JSON, refused one by one."""

    file: Path
    raw: Mapping[str, Any]

    def backbone(self) -> str | None:
        recipe = self.raw["experiment"]
        backbone = recipe.get("backbone") if isinstance(recipe, dict) else None
        name = backbone.get("name") if isinstance(backbone, dict) else None
        self._require("experiment.backbone.name", name, "text", name is None or isinstance(name, str))
        return name

    def classes(self) -> tuple[str, ...]:
        names = self.raw["classes"]
        fits = isinstance(names, list) and len(names) > 0 and all(isinstance(name, str) for name in names)
        self._require("classes", names, "a list of names", fits)
        self._require("classes", names, "a list of different names", len(set(names)) == len(names))
        return tuple(names)

    def preprocessing(self) -> Preprocessing:
        given = self.raw["preprocessing"]
        self._require("preprocessing", given, "a mapping of fields", isinstance(given, dict))
        for side in ("resize", "crop"):
            fits = type(given.get(side)) is int and 1 <= given[side] <= MAX_SIDE
            self._require(f"preprocessing.{side}", given.get(side), f"a whole number from 1 to {MAX_SIDE}", fits)
        modes = [mode.value for mode in InterpolationMode]
        how = given.get("interpolation")
        self._require("preprocessing.interpolation", how, f"one of {', '.join(modes)}", how in modes)
        for statistic, low in (("mean", -math.inf), ("std", 0.0)):
            fits = _three_numbers(given.get(statistic), above=low)
            self._require(f"preprocessing.{statistic}", given.get(statistic), "three finite numbers, no std of 0", fits)
        return Preprocessing(given["resize"], given["crop"], how, tuple(given["mean"]), tuple(given["std"]))

    def sha256(self) -> str:
        digest = self.raw["sha256"]
        self._require("sha256", digest, "text", isinstance(digest, str))
        return str(digest)

    def _require(self, field: str, value: object, rule: str, holds: bool) -> None:
        if not holds:
            raise WeightsError(f"{self.file}: damaged: {field} must be {rule}, got {shown(value)}; {MOVE_AWAY}")


def _three_numbers(value: object, *, above: float) -> bool:
    if not isinstance(value, list) or len(value) != 3:
        return False
    return all(type(one) in (int, float) and math.isfinite(one) and one > above for one in value)
