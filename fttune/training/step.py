"""One update of a run's model; on a CUDA device recorded once as a graph, and replayed for every batch of that size.

A replay costs the host one launch in place of a thousand, which is what bounds small nets and short suffixes on a GPU.
It does the same work in the same order, on what the optimizer, the norm statistics and torch's generators then hold.

When memory runs out before the optimizer has moved anything, the same update is made from smaller pieces of the batch
(micro-batches): their gradients add up to that of the whole, up to rounding. Dropout draws its masks piece by piece.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fttune.errors import BadInput, OutOfMemory
from fttune.freezing import HEAD, Freezing
from fttune.models import Outputs
from fttune.models.files import reason
from fttune.training.gradients import GradientRecord
from fttune.training.memory import (
    ERRORS,
    REMEDY,
    Before,
    buffer_versions,
    free_cached,
    memory_errors_told,
    missing_memory,
    moved_buffers,
    tied_to_batch,
    why_tied,
)
from fttune.training.run import Run

MIN_REPLAYS = 30  # recording takes as long as a few steps


class Step:
    """Updates of what a freezing trains, on batches that have passed `after` stages; `record` takes their gradients."""

    def __init__(self, run: Run, freezing: Freezing, *, after: int) -> None:
        self.record = GradientRecord(freezing.members, moments=run.policy.auto in ("snr", "autofreeze"))
        self._run, self._freezing, self._after = run, freezing, after
        self._made = 0
        self._replays = run.device.replays and run.steps_per_epoch * run.experiment.training.epochs >= MIN_REPLAYS
        self._graph: _Graph | None = None
        self._at_once: int | None = None  # samples; None as long as whole batches fit

    @property
    def micro_batches(self) -> int:
        """How many pieces a whole batch is made of; 1 as long as memory is enough."""
        return 1 if self._at_once is None else math.ceil(self._batch_size / self._at_once)

    def fits(self, freezing: Freezing, *, after: int) -> bool:
        """Return whether these are the updates of a freezing, on batches that have passed `after` stages."""
        return freezing is self._freezing and after == self._after

    def __call__(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Make one update on a batch (B, ...) with its labels (B,); return loss and hits, still on the device.

        Raises:
            OutOfMemory: it does not fit, nor do pieces of it, or it may not be cut. The run must not go on.
        """
        if self._replays and self._made == 1:  # the first update makes the optimizer's state
            self._record(x, labels)
        self._made += 1
        if self._graph is not None and self._graph.takes(x):
            return self._graph(x, labels)
        found = self._gradients(x, labels)
        with memory_errors_told(self._batch_size):  # fewer samples at once would not help the optimizer
            self._apply()
        return found

    @property
    def _batch_size(self) -> int:
        return self._run.experiment.training.batch_size

    def _gradients(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Leave the gradients of a batch's loss, made of as many samples at once as there is memory for.

        A failed try leaves no trace. Returns loss and hits.
        """
        run, before, versions, was = self._run, self._before(), None, self._at_once
        while True:
            size = min(self._at_once or len(x), len(x))
            try:
                found = _gradients(run, self._freezing, (x, labels), after=self._after, at_once=size)
                break
            except ERRORS as error:
                if (missing := missing_memory(error)) is None:
                    raise
            self._make_room(size, missing)
            before.restore()
            versions = buffer_versions(run.backbone.module)
        if self._at_once != was:
            if versions is not None and (moved := moved_buffers(run.backbone.module, versions)):
                raise OutOfMemory(f"training.batch_size is {self._batch_size}: such a batch {why_tied(moved)}")
            text = f"a batch of {self._batch_size} is made of {self.micro_batches} micro-batches from now on"
            run.inputs.workbench.notices.append(f"memory ran out: {text}, with the same effective batch")
        return found

    def _before(self) -> Before:
        """Return what a failed try must not leave moved; norm statistics, where the whole batch may be tried again."""
        module = self._run.backbone.module
        names = tied_to_batch(module) if self._graph is not None else ()
        statistics = (buffer for name in names for buffer in module.get_submodule(name).buffers())
        return Before.of(self._run.device.device, statistics)

    def _make_room(self, size: int, missing: str) -> None:
        """Free what can be freed, after `size` samples at once did not fit; without a graph that helps, halve them."""
        replayed = self._graph is not None
        self._graph, self._replays = None, False
        self._run.optimizer.zero_grad(set_to_none=True)
        free_cached(self._run.device.device)
        if replayed:
            text = "training steps are not replayed as a CUDA graph any more, whose memory is needed"
            self._run.inputs.workbench.notices.append(text)
            return
        begin = f"training.batch_size is {self._batch_size}: {size} samples at once do not fit ({missing})"
        if layers := tied_to_batch(self._run.backbone.module):
            raise OutOfMemory(f"{begin}, and such a batch {why_tied(layers)}")
        if size == 1:
            raise OutOfMemory(
                f"training.batch_size is {self._batch_size}: not even one sample at a time fits ({missing}); {REMEDY}"
            )
        self._at_once = math.ceil(size / 2)

    def _apply(self) -> None:
        """Make the update that the gradients ask for."""
        self.record.add()
        if (limit := self._run.experiment.optimizer.clip_grad_norm) is not None:
            nn.utils.clip_grad_norm_(self._run.backbone.module.parameters(), limit)
        self._run.optimizer.step()

    def _whole(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Make an update of a batch at once."""
        found = _gradients(self._run, self._freezing, (x, labels), after=self._after, at_once=len(x))
        self._apply()
        return found

    def _record(self, x: Tensor, labels: Tensor) -> None:
        """Record the update where the device has memory for it twice: replays keep theirs for themselves."""
        if 2 * torch.cuda.memory_reserved(x.device) > torch.cuda.mem_get_info(x.device)[1]:
            return
        try:
            self._graph = _Graph(self._whole, x, labels)
        except RuntimeError as error:  # an operation that waits for the device, or no memory after all
            self._replays = False
            _end_recording(x.device)
            text = f"training steps are not replayed as a CUDA graph, so they take longer: {reason(error)}"
            self._run.inputs.workbench.notices.append(text)


class _Graph:
    """An update as a CUDA graph for batches of one shape."""

    def __init__(self, update: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], x: Tensor, labels: Tensor) -> None:
        self._x, self._labels = x.clone(), labels.clone()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._loss, self._hits = update(self._x, self._labels)

    def takes(self, x: Tensor) -> bool:
        """Return whether a batch has the recorded shape."""
        return x.shape == self._x.shape

    def __call__(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Replay the update on a batch."""
        self._x.copy_(x)
        self._labels.copy_(labels)
        self._graph.replay()
        return self._loss.clone(), self._hits.clone()


def _end_recording(device: torch.device) -> None:
    """Give torch's generator of a device a new state: it takes a recording that failed for one that goes on."""
    generator = torch.cuda.default_generators[device.index or 0]
    new = torch.Generator(device)
    new.manual_seed(generator.initial_seed())
    generator.graphsafe_set_state(new.graphsafe_get_state())


def _gradients(
    run: Run, freezing: Freezing, batch: tuple[Tensor, Tensor], *, after: int, at_once: int
) -> tuple[Tensor, Tensor]:
    """Leave the gradients of a batch's loss in the parameters, from pieces of at most so many samples.

    Returns the loss, what does not depend on samples counted once, and the hits.
    """
    x, labels = batch
    run.optimizer.zero_grad(set_to_none=True)
    whole = _whole_weight(run.criterion, labels) if at_once < len(x) else None
    losses: list[Tensor] = []
    hits: list[Tensor] = []
    for piece, truth in zip(torch.split(x, at_once), torch.split(labels, at_once), strict=True):
        with run.device.autocast():
            outputs = forward(run, piece, after=after)
            loss = _loss(run.criterion, outputs.logits, truth, of=whole)
            for weight, logits in outputs.auxiliary.values():
                loss = loss + weight * _loss(run.criterion, logits, truth, of=whole)
        if run.policy.l2_sp is not None and not losses:
            loss = loss + _distance_penalty(run, freezing, run.policy.l2_sp)
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
        hits.append((outputs.logits.argmax(1) == truth).sum())
    return _sum(losses), _sum(hits)


def _sum(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum()


def _whole_weight(criterion: nn.CrossEntropyLoss, labels: Tensor) -> Tensor | int:
    """Return what the summed losses of a batch are divided by: the weights of its classes, or the number of samples."""
    return len(labels) if criterion.weight is None else criterion.weight[labels].sum()


def _loss(criterion: nn.CrossEntropyLoss, logits: Tensor, labels: Tensor, *, of: Tensor | int | None = None) -> Tensor:
    """Return what a criterion does, the mean; or the share of some samples in that `of` a larger batch, by its weight.

    Where it has both class weights and smoothing, torch's own mean would wait for the device.
    """
    weight, smoothing = criterion.weight, criterion.label_smoothing
    if of is None and (weight is None or not smoothing):
        loss: Tensor = criterion(logits, labels)
        return loss
    each = F.cross_entropy(logits, labels, weight, reduction="none", label_smoothing=smoothing)
    return each.sum() / (_whole_weight(criterion, labels) if of is None else of)


def _distance_penalty(run: Run, freezing: Freezing, alpha: float) -> Tensor:
    """Return alpha/2 * ||w - w0||^2 over what trains outside the head (L2-SP)."""
    stages = [members for part, members in freezing.members.items() if part != HEAD]
    squares = [(p - run.start[name]).square().sum() for members in stages for name, p in members]
    return alpha / 2 * torch.stack(squares).sum() if squares else torch.zeros((), device=run.device.device)


def forward(run: Run, x: Tensor, *, after: int = 0) -> Outputs:
    """Return what the model makes of a batch that has passed `after` stages. Raises BadInput for one image too few."""
    try:
        return run.backbone.outputs(x, after=after)
    except ValueError as error:
        if len(x) > 1:
            raise
        raise BadInput(
            f"training.batch_size is {run.experiment.training.batch_size}, which leaves one image for the last batch "
            f"of an epoch, too few for the norm layers ({error}); choose another"
        ) from error
