"""The `warm_start` section of a study, and what a configuration of another study is in this one's space."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field

from fttune.config.distributions import Categorical, Distribution, Int, encoded, same
from fttune.config.grid import snapped
from fttune.config.known import shown
from fttune.config.sections import NAME, Section, broken

if TYPE_CHECKING:
    from fttune.config.study import Study

AUTO, NONE = "auto", "none"
_GENERATION = re.compile(NAME.removesuffix("$") + "(@[1-9][0-9]{0,5})?$")


def _sources(value: object) -> object:
    if value in (AUTO, NONE):
        return value
    if not isinstance(value, list | tuple) or not value:
        raise broken(f"must be auto, none or a list of studies, got {shown(value)}")
    if bad := [name for name in value if not isinstance(name, str) or not _GENERATION.match(name)]:
        raise broken(f"must be names of studies, such as pets or pets@2, got {shown(bad[0])}")
    if len(set(value)) < len(value):
        raise broken(f"each study can stand once, got {shown(list(value))}")
    return tuple(value)


class WarmStart(Section):
    """From which earlier studies a new one takes its first configurations: `auto` looks for them."""

    sources: Annotated[str | tuple[str, ...], BeforeValidator(_sources)] = Field(default=NONE, alias="from")


@dataclass(frozen=True)
class Fitted:
    """A configuration as far as it fits: the values of fields, and the names of those left out or moved to an end."""

    point: Mapping[str, Any]
    dropped: tuple[str, ...]
    clipped: tuple[str, ...]


def fitted(study: "Study", searched: Mapping[str, Any], fixed: Mapping[str, Any]) -> Fitted | None:
    """Return what a configuration of another study is in the space of this one, None where nothing of it fits.

    `searched` are the values that it was tried with, `fixed` those of its experiment. A number beyond the range, or
    beside its steps, becomes the nearest one; a searched value that is no choice, or whose field is not in the space or
    does not act, is dropped. What the space has besides is taken from `fixed` where it lies in the space as it is, else
    left to the sampler; so is what acts or not with something that is left to it.
    """
    space = study.searched
    point: dict[str, Any] = {}
    open_fields, clipped = set[str](), []
    for name in space.order:
        given = searched.get(name, fixed.get(name))
        value = None if given is None else _nearest(space.distributions[name], given)
        moved = value is not None and not same(value, given)
        if space.parents[name] & open_fields:
            open_fields.add(name)
        elif space.acts(name, point):
            if value is None or (moved and name not in searched):
                open_fields.add(name)
                continue
            point[name] = value
            clipped += [name] if moved else []
    if not any(name in point for name in searched) or study.experiment.refusal(point) is not None:
        return None
    return Fitted(point, tuple(name for name in searched if name not in point), tuple(clipped))


def _nearest(distribution: Distribution, value: Any) -> Any:
    """Return the value of a distribution that is nearest to a number, or that is this choice; None without any."""
    if isinstance(distribution, Categorical):
        return next((choice for choice in distribution.choices if same(encoded(choice), encoded(value))), None)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    within = min(max(value, distribution.low), distribution.high)
    found = snapped(distribution, within) or [distribution.low]
    best = min(found, key=lambda one: abs(one - within))
    return int(best) if isinstance(distribution, Int) else best
