"""The content hashes of samples, by which they are divided and told apart. Decodes nothing."""

from collections.abc import Iterable
from dataclasses import replace

from fttune.data.images import content_hash, decoder_threads, in_order
from fttune.data.listing import ImageSource, Sample


def with_contents(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    """Return samples with their content hashes, each read once; one that cannot be read has none.

    A test split that the source gave stays closed: nobody needs to know what is in it.
    """
    samples = tuple(samples)
    wanted = [sample for sample in samples if sample.split != "test" and sample.content is None]
    with decoder_threads() as pool:
        hashes = list(in_order(pool, content_of, (sample.image for sample in wanted)))
    found = dict(zip((sample.name for sample in wanted), hashes, strict=True))
    return tuple(replace(sample, content=found.get(sample.name, sample.content)) for sample in samples)


def content_of(image: ImageSource) -> str | None:
    """Return the content hash of an image, None when it cannot be read."""
    found = content_hash(image)
    return found if isinstance(found, str) else None
