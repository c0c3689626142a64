"""Fixed augmented views of the training images, drawn once and kept, so that what is computed of them can be kept too.

A view depends on the pixels and the kind of augmentation alone: all seeds, trials and processes share it.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import torch

from fttune.config.data import Views
from fttune.data.arrays import ArrayCache
from fttune.data.augmentation import augment
from fttune.data.image_data import Part, Pixels
from fttune.data.rows import Rows, Spec

TOGETHER = 16  # images, which share a draw: another number would give other views
_FORMAT = "fttune-views-1"


def with_views(part: Part, views: Views, *, image_size: int, arrays: ArrayCache) -> Part:
    """Return a part that holds `views.views` fixed views of each image, made a few at a time where `arrays` lacks them.

    View v of all images is what `augment` makes of them in order, `TOGETHER` at a time, with `view_generator(key, v)`;
    so the views of a smaller number are the first of a larger one. For `standard`, the part's images are squares of any
    side, and the views have `image_size`.
    """
    content = [_FORMAT, version("torch"), version("torchvision"), part.key, views.views, views.kind, image_size]
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    spec = Spec((views.views * len(part.images), image_size, image_size, 3), np.uint8)
    name = f"views/{key}"

    def fill(rows: Rows) -> None:
        for view in range(views.views):
            for pixels in _view(part, views.kind, image_size=image_size, generator=view_generator(part.key, view)):
                rows.append(name, pixels)

    return replace(part, images=arrays.obtain({name: spec}, fill)[name].array, key=key, views=views.views)


def view_generator(key: str, view: int) -> torch.Generator:
    """Return what draws a view (from 0) of the images with a key.

    Its seed is the first 32 bits, which is all that torch reads, of sha256("fttune-views-1:{key}:{view}").
    """
    digest = hashlib.sha256(f"{_FORMAT}:{key}:{view}".encode()).hexdigest()
    return torch.Generator().manual_seed(int(digest[:8], 16))


def _view(part: Part, kind: str, *, image_size: int, generator: torch.Generator) -> Iterator[Pixels]:
    for start in range(0, len(part.images), TOGETHER):
        images = torch.from_numpy(np.array(part.images[start : start + TOGETHER])).permute(0, 3, 1, 2)
        yield augment(images, kind, image_size=image_size, generator=generator).permute(0, 2, 3, 1).numpy()
