"""Whether the disk has room for a study's part of a night, and what of earlier nights may go."""

from collections.abc import Iterator
from pathlib import Path

from fttune.config import Study
from fttune.config.known import backbones
from fttune.config.workspace import Workspace
from fttune.errors import CannotWrite
from fttune.files import free_bytes

TENSOR_BYTES = 4  # of float32
RESERVE_BYTES = 50_000_000  # for stores, spools and records


def needed_bytes(study: Study) -> int:
    """Return what a night of a study may write: checkpoints of trials and of a confirmation, and the stores.

    A backbone of timm or of a plugin has a size that is known only once it is built; its checkpoints count for nothing.
    """
    known = backbones().get(study.experiment.backbone.name)
    trials, keep = study.nightly.trials_per_night, study.retention.best
    kept = trials if keep is None else min(trials, keep + study.batch)
    confirmed = (study.confirm.top_k + len(study.baselines)) * study.confirm.seeds
    each = TENSOR_BYTES * known.parameters if known else 0
    return RESERVE_BYTES + (kept + confirmed) * each


def require_room(study: Study, workspace: Workspace) -> None:
    """Refuse to begin what the disk has no room for. Raises CannotWrite."""
    needed, free = needed_bytes(study), free_bytes(workspace.mlruns)
    if needed > free:
        raise CannotWrite(
            f"{workspace.mlruns}: {free / 1e9:.3g} GB are free, but a night of study {study.name} may need "
            f"{needed / 1e9:.3g} GB; free some of it, or let the study keep fewer checkpoints (retention.keep)"
        )


def disk_used(workspace: Workspace) -> dict[str, int]:
    """Return the bytes of each part of the generated folder, and of all of it."""
    places = sorted(workspace.mlruns.iterdir()) if workspace.mlruns.is_dir() else []
    sizes = {place.name: sum(_sizes(place)) for place in places}
    return {**sizes, "all": sum(sizes.values())}


def _sizes(place: Path) -> Iterator[int]:
    """Yield the size of each file; one with two names counts once for each, and links for themselves."""
    if not place.is_dir() or place.is_symlink():
        yield place.lstat().st_size
        return
    for below in place.iterdir():
        try:
            yield from _sizes(below)
        except FileNotFoundError:  # another process deleted it
            continue
