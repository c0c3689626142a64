"""Where a sample belongs by the documented formula, worked out apart from the library."""

from hashlib import sha256
from pathlib import Path


def place(key: str, seed: int = 0) -> float:
    """Where a content hash, or the name of a group, lies in [0, 1)."""
    return int.from_bytes(sha256(f"{seed}:{key}".encode()).digest()[:8], "big") / 2**64


def part_at(u: float, *, val: float, test: float) -> str:
    """The split of a place."""
    return "test" if u < test else "val" if u < test + val else "train"


def counts_below(folder: Path, *, val: float, test: float, seed: int = 0) -> dict[str, int]:
    """How many images below a folder of classes each split has, where no class lacks any by its places alone."""
    counts = {"train": 0, "val": 0, "test": 0}
    for label in sorted(path for path in folder.iterdir() if path.is_dir()):
        contents = [sha256(file.read_bytes()).hexdigest() for file in label.iterdir()]
        parts = [part_at(place(content, seed), val=val, test=test) for content in contents]
        assert {"train", *(["val"] if val else []), *(["test"] if test else [])} == set(parts), "fills no gap"
        counts = {split: count + parts.count(split) for split, count in counts.items()}
    return counts
