"""What a data set holds, image by image, in few bytes; and what changed from one to another. Reads nothing."""

import base64
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from fttune.data.listing import Sample, natural, some

BYTES = 8  # of each image's hash: two of a million images share one at odds of 1 to 40 million


@dataclass(frozen=True)
class Manifest:
    """For each class the first bytes of the hash of each of its images, `BYTES` long, in order; copies stand in it."""

    images: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)

    def packed(self) -> str:
        """Return it as text, about 11 characters for an image."""
        return json.dumps({label: base64.b64encode(b"".join(own)).decode() for label, own in self.images.items()})

    @classmethod
    def unpacked(cls, text: str) -> "Manifest":
        """Return what `packed` made a text of."""
        return cls({label: tuple(_cut(base64.b64decode(own))) for label, own in json.loads(text).items()})


EMPTY = Manifest()


@dataclass(frozen=True)
class DataChange:
    """How many images joined and left each class, and how many have another class now, as (before, now).

    All are empty where the same images are divided or changed in another way.
    """

    added: Mapping[str, int] = field(default_factory=dict)
    removed: Mapping[str, int] = field(default_factory=dict)
    relabelled: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return all counts in one line."""
        moved = {f"{before} -> {now}": count for (before, now), count in self.relabelled.items()}
        counts = {"added": self.added, "removed": self.removed, "relabelled": moved}
        told = [f"{sum(own.values())} {what} ({_told(own)})" for what, own in counts.items() if own]
        return f"images: {', '.join(told)}" if told else "the same images, divided or changed in another way"


def manifest_of(samples: Iterable[Sample]) -> Manifest:
    """Return the manifest of samples: by content, or by name in a test split that stays closed.

    What cannot be read is not in it.
    """
    images: dict[str, list[bytes]] = defaultdict(list)
    for sample in samples:
        if sample.content is not None:
            images[sample.label].append(bytes.fromhex(sample.content)[:BYTES])
        elif sample.split == "test":
            images[sample.label].append(sha256(sample.name.encode(errors="surrogateescape")).digest()[:BYTES])
    return Manifest({label: tuple(sorted(images[label])) for label in sorted(images, key=natural)})


def changes(before: Manifest, now: Manifest) -> DataChange:
    """Return what changed: an image that was there under another class is relabelled, neither removed nor added.

    An image whose file was edited is another one: one removed, one added. A renamed file is no change.
    """
    old, new = _labels(before), _labels(now)
    added, removed = Counter[str](), Counter[str]()
    relabelled = Counter[tuple[str, str]]()
    for image in old.keys() | new.keys():
        left = sorted((old[image] - new[image]).elements(), key=natural)
        joined = sorted((new[image] - old[image]).elements(), key=natural)
        relabelled.update(zip(left, joined, strict=False))
        removed.update(left[len(joined) :])
        added.update(joined[len(left) :])
    return DataChange(dict(added), dict(removed), dict(relabelled))


def _labels(manifest: Manifest) -> Mapping[bytes, Counter[str]]:
    found: dict[bytes, Counter[str]] = defaultdict(Counter)
    for label, images in manifest.images.items():
        for image in images:
            found[image][label] += 1
    return found


def _cut(content: bytes) -> Iterator[bytes]:
    return (content[start : start + BYTES] for start in range(0, len(content), BYTES))


def _told(counts: Mapping[str, int]) -> str:
    return some((f"{label} {counts[label]}" for label in sorted(counts, key=natural)), 8)
