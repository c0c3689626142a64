"""A module cut into stages and a head: from the patterns of a table to dotted paths of one built module.

A pattern is the path of a submodule or lone parameter; its last part may be a slice of the children (`features.1:-1`)
or one from the end (`features.-1`). `features.:|MaxPool2d` groups the children into pieces that end with a MaxPool2d,
and slices the pieces. Where a stage's name holds a number in braces (`block{1}`), its first slice becomes one stage per
child or piece, numbered from there; steps before the slice join the first of them, steps after it the last.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from fttune.errors import BadInput
from fttune.models.steps import Step

_NUMBER = re.compile(r"\{(\d+)\}")
_SLICE = re.compile(r"(-?\d+)?:(-?\d+)?(?:\|(\w+))?")
_SHOWN = 5


@dataclass(frozen=True)
class Stage:
    """A named part: dotted paths of what belongs to it, and the steps that run it in order."""

    name: str
    members: tuple[str, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Auxiliary:
    """A second classifier for training: the stage whose output it takes, its path, its last layer, its loss weight."""

    stage: str
    path: str
    last_layer: str
    weight: float


@dataclass(frozen=True)
class Cut:
    """All parts of a module, from the input to the output; `runnable` says whether the steps are known."""

    stages: tuple[Stage, ...]
    head: Stage
    auxiliary: tuple[Auxiliary, ...] = ()
    runnable: bool = True

    @property
    def head_path(self) -> str:
        """The dotted path of the last layer."""
        return self.head.members[0]


def cut(
    module: nn.Module,
    stages: Mapping[str, Sequence[Step]],
    *,
    head: Sequence[Step],
    auxiliary: tuple[Auxiliary, ...] = (),
) -> Cut:
    """Return the parts of a module by the patterns of its stages; `head` begins with the path of the last layer."""
    found = [stage for name, steps in stages.items() for stage in _expanded(module, name, steps)]
    branches = {aux.stage: aux.path for aux in auxiliary}
    owned = [Stage(s.name, (*s.members, branches[s.name]), s.steps) if s.name in branches else s for s in found]
    return Cut(tuple(owned), Stage("head", _paths(head), tuple(head)), auxiliary)


def member(module: nn.Module, path: str) -> nn.Module | nn.Parameter:
    """Return the submodule or parameter at a dotted path. Raises AttributeError."""
    parent, _, name = path.rpartition(".")
    found = getattr(module.get_submodule(parent), name)
    if not isinstance(found, nn.Module | nn.Parameter):
        raise AttributeError(f"{path} is neither a submodule nor a parameter")
    return found


def require_whole(module: nn.Module, parts: Cut, *, name: str) -> None:
    """Refuse a cut in which a parameter or buffer belongs to no part, or to two. Raises BadInput."""
    tensors = {id(t): path for path, t in (*module.named_parameters(), *module.named_buffers())}
    owners: Counter[int] = Counter()
    for path in (path for stage in (*parts.stages, parts.head) for path in stage.members):
        found = member(module, path)
        own = [found] if isinstance(found, nn.Parameter) else [*found.parameters(), *found.buffers()]
        owners.update({id(t) for t in own})
    lost = [path for key, path in tensors.items() if key not in owners]
    twice = [path for key, path in tensors.items() if owners[key] > 1]
    for paths, rule in ((lost, "belong to no stage"), (twice, "belong to two stages")):
        if paths:
            more = f", and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
            raise BadInput(f"backbone {name}: {rule}: {', '.join(paths[:_SHOWN])}{more}; each must belong to one")


def _expanded(module: nn.Module, name: str, steps: Sequence[Step]) -> Iterator[Stage]:
    number = _NUMBER.search(name)
    if number is None:
        yield _stage(module, name, _inline(module, steps))
        return
    at = next(index for index, step in enumerate(steps) if isinstance(step, str) and ":" in step)
    pieces = _pieces(module, steps[at])
    pieces[0] = [*_inline(module, steps[:at]), *pieces[0]]
    pieces[-1] = [*pieces[-1], *_inline(module, steps[at + 1 :])]
    for index, piece in enumerate(pieces, int(number[1])):
        yield _stage(module, _NUMBER.sub(str(index), name), piece)


def _inline(module: nn.Module, patterns: Sequence[Step]) -> list[Step]:
    return [step for pattern in patterns for piece in _pieces(module, pattern) for step in piece]


def _stage(module: nn.Module, name: str, steps: Sequence[Step]) -> Stage:
    """A lone parameter belongs to its stage, but does not run."""
    run = tuple(s for s in steps if not isinstance(s, str) or isinstance(member(module, s), nn.Module))
    return Stage(name, _paths(steps), run)


def _paths(steps: Sequence[Step]) -> tuple[str, ...]:
    return tuple(step for step in steps if isinstance(step, str))


def _pieces(module: nn.Module, pattern: Step) -> list[list[Step]]:
    if not isinstance(pattern, str):
        return [[pattern]]
    parent, _, last = pattern.rpartition(".")
    found = _SLICE.fullmatch(last)
    if found is None and not last.startswith("-"):
        return [[pattern]]
    children = list(module.get_submodule(parent).named_children())
    if found is None:
        return [[f"{parent}.{children[int(last)][0]}"]]
    start, stop, kind = found.groups()
    pieces: list[list[Step]] = [[]]
    for name, child in children:
        pieces[-1].append(f"{parent}.{name}")
        if kind is None or type(child).__name__ == kind:
            pieces.append([])
    pieces = [piece for piece in pieces if piece]
    return pieces[int(start) if start else None : int(stop) if stop else None]
