"""Which backbones there are: name, stages, parameters, weights. torchvision's are known without torch."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from fttune.config import known
from fttune.config.known import KnownBackbone
from fttune.errors import BadInput


def list_backbones(pattern: str = "*", *, plugins: Iterable[Path] = ()) -> Mapping[str, KnownBackbone]:
    """Return the backbones whose name fits a shell pattern or holds it, by name; timm's when it begins with `timm:`.

    Those of timm that have no stages are left out.

    Raises:
        BadInput: nothing fits, timm is not installed, or a plugin cannot be run.
    """
    own = _plugins(tuple(plugins))
    if pattern.startswith("timm:"):
        return _of_timm(pattern.removeprefix("timm:"))
    everything = {**known.backbones(), **own}
    found = {name: entry for name, entry in everything.items() if _fits(name, pattern)}
    if not found:
        raise BadInput(f"models: {known.one_of(pattern, everything)}; timm's begin with timm:")
    return found


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or pattern in name


def _plugins(files: tuple[Path, ...]) -> dict[str, KnownBackbone]:
    if not files:
        return {}
    from fttune.models.plugins import PREFIX, load_plugins

    names = [f"{PREFIX}{name}" for name in load_plugins(files)]
    return {name: _described(name, weights=(), plugins=files) for name in names}


def _of_timm(pattern: str) -> dict[str, KnownBackbone]:
    from fttune.models.timm_models import require_known, timm

    library = timm()
    tags: dict[str, list[str]] = {name: [] for name in library.list_models() if _fits(name, pattern)}
    if not tags:
        require_known(pattern)
    for pretrained in library.list_pretrained():
        name, _, tag = pretrained.partition(".")
        if name in tags and tag:
            tags[name].append(tag)
    found = {}
    for name, weights in tags.items():
        try:
            found[f"timm:{name}"] = _described(f"timm:{name}", weights=tuple(weights))
        except BadInput:
            if len(tags) == 1:
                raise
    return found


def _described(name: str, *, weights: tuple[str, ...], plugins: tuple[Path, ...] = ()) -> KnownBackbone:
    from fttune.models import find_architecture
    from fttune.models.sizes import sizes

    stages, total = sizes(find_architecture(name, plugins))
    return KnownBackbone(tuple(stages), weights, tuple(stages.values()), total)
