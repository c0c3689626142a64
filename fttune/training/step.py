"""One update of a run's model; on a CUDA device recorded once as a graph, and replayed for every batch of that size.

A replay costs the host one launch in place of a thousand, which is what bounds small nets and short suffixes on a GPU.
It does the same work in the same order, on what the optimizer, the norm statistics and torch's generators then hold.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fttune.errors import BadInput
from fttune.freezing import HEAD, Freezing
from fttune.models import Outputs
from fttune.models.files import reason
from fttune.training.gradients import GradientRecord
from fttune.training.run import Run

MIN_REPLAYS = 30  # recording takes as long as a few steps


class Step:
    """Updates of what a freezing trains, on batches that have passed `after` stages; `record` takes their gradients."""

    def __init__(self, run: Run, freezing: Freezing, *, after: int) -> None:
        self.record = GradientRecord(freezing.members, moments=run.policy.auto in ("snr", "autofreeze"))
        self._freezing, self._after = freezing, after
        self._update = partial(_update, run, freezing, self.record, after)
        self._workbench = run.inputs.workbench
        self._made = 0
        self._replays = run.device.replays and run.steps_per_epoch * run.experiment.training.epochs >= MIN_REPLAYS
        self._graph: _Graph | None = None

    def fits(self, freezing: Freezing, *, after: int) -> bool:
        """Return whether these are the updates of a freezing, on batches that have passed `after` stages."""
        return freezing is self._freezing and after == self._after

    def __call__(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Make one update on a batch (B, ...) with its labels (B,); return loss and hits, still on the device."""
        if self._replays and self._made == 1:  # the first update makes the optimizer's state
            self._record(x, labels)
        self._made += 1
        if self._graph is not None and self._graph.takes(x):
            return self._graph(x, labels)
        return self._update(x, labels)

    def _record(self, x: Tensor, labels: Tensor) -> None:
        """Record the update where the device has memory for it twice: replays keep theirs for themselves."""
        if 2 * torch.cuda.memory_reserved(x.device) > torch.cuda.mem_get_info(x.device)[1]:
            return
        try:
            self._graph = _Graph(self._update, x, labels)
        except RuntimeError as error:  # an operation that waits for the device, or no memory after all
            self._replays = False
            _end_recording(x.device)
            text = f"training steps are not replayed as a CUDA graph, so they take longer: {reason(error)}"
            self._workbench.notices.append(text)


class _Graph:
    """An update as a CUDA graph for batches of one shape."""

    def __init__(self, update: "partial[tuple[Tensor, Tensor]]", x: Tensor, labels: Tensor) -> None:
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


def _update(
    run: Run, freezing: Freezing, record: GradientRecord, after: int, x: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    with run.device.autocast():
        outputs = forward(run, x, after=after)
        loss = _loss(run.criterion, outputs.logits, labels)
        for weight, logits in outputs.auxiliary.values():
            loss = loss + weight * _loss(run.criterion, logits, labels)
    if run.policy.l2_sp is not None:
        loss = loss + _distance_penalty(run, freezing, run.policy.l2_sp)
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    record.add()
    if (limit := run.experiment.optimizer.clip_grad_norm) is not None:
        nn.utils.clip_grad_norm_(run.backbone.module.parameters(), limit)
    run.optimizer.step()
    return loss.detach(), (outputs.logits.argmax(1) == labels).sum()


def _loss(criterion: nn.CrossEntropyLoss, logits: Tensor, labels: Tensor) -> Tensor:
    """Return what a criterion does; where it has both class weights and smoothing, torch's own mean would wait for the
    device."""
    if criterion.weight is None or not criterion.label_smoothing:
        loss: Tensor = criterion(logits, labels)
        return loss
    weight, smoothing = criterion.weight, criterion.label_smoothing
    each = F.cross_entropy(logits, labels, weight, reduction="none", label_smoothing=smoothing)
    return each.sum() / weight[labels].sum()


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
