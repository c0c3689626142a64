"""What the runs of one process leave for the next: a built model, and what frozen stages have made of the images."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from fttune.freezing import named_tensors
from fttune.models import Backbone
from fttune.training.activations import Activations
from fttune.training.memory import BatchLimit


@dataclass(frozen=True)
class Built:
    """A backbone on its device, and all tensors of it as they were when it was built, by name; nobody changes those."""

    backbone: Backbone
    start: Mapping[str, Tensor]

    @classmethod
    def of(cls, backbone: Backbone) -> "Built":
        """Return a backbone as built just now."""
        return cls(backbone, {name: tensor.detach().clone() for name, tensor in named_tensors({"": backbone.module})})

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield all tensors of the backbone with their names."""
        return named_tensors({"": self.backbone.module})

    def set(self, values: Mapping[str, Tensor]) -> None:
        """Give tensors of the backbone, by name, these values."""
        tensors = dict(self.tensors())
        for name, value in values.items():
            tensors[name].data.copy_(value)

    def restore(self, changed: Iterable[str]) -> None:
        """Undo what a run did to the tensors of these names, and to gradients."""
        self.set({name: self.start[name] for name in changed})
        for parameter in self.backbone.module.parameters():
            parameter.grad = None


class Shelf:
    """Keeps the model that was put there last. Who takes it has it alone: two runs never share one."""

    def __init__(self) -> None:
        self._key: Hashable = None
        self._built: Built | None = None
        self._changed: frozenset[str] = frozenset()

    def take(self, key: Hashable, build: Callable[[], Backbone]) -> Built:
        """Return the model of a key as it was when it was built, built now if it is not there."""
        built, self._built = self._built, None
        if built is None or key != self._key:
            return Built.of(build())
        built.restore(self._changed)
        return built

    def take_back(self, built: Built) -> None:
        """Let nobody else have a model that was put there, if it still is."""
        if built is self._built:
            self._built = None

    def put(self, key: Hashable, built: Built, *, changed: frozenset[str]) -> None:
        """Give a model to the next run; `changed` are the names of all tensors that may differ from the start."""
        self._key, self._built, self._changed = key, built, changed


@dataclass(frozen=True)
class Workbench:
    """Shared by the runs of one process that agree on images and weights. One of `Inputs.plain` shares nothing.

    `evaluation` is how many samples may be evaluated at once; `notices` are what people are to be told, each once.
    """

    shelf: Shelf = field(default_factory=Shelf)
    activations: Activations = field(default_factory=Activations)
    evaluation: BatchLimit = field(default_factory=lambda: BatchLimit("evaluation"))
    notices: list[str] = field(default_factory=list)

    def taken_notices(self) -> list[str]:
        """Return what people are to be told by now, and forget it."""
        found = [*self.notices, *self.activations.notices(), *self.evaluation.notices()]
        self.notices.clear()
        return found
