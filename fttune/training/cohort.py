"""Head-only trainings that see the same batches, trained as one: a step is one matrix product for all their heads.

What stands before the heads is frozen and the same for all, so it runs once per batch, or not at all where its
activations are kept. Each training has its own lr, momentum, weight decay and schedule, and ends as it would alone.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from fttune.config import Experiment
from fttune.config.policy import Policy, resolve
from fttune.errors import CannotWrite, Diverged, Interrupted, OutOfMemory
from fttune.interruption import uninterrupted
from fttune.models.tensor_file import Shared
from fttune.training import resume
from fttune.training.checkpoints import BestEpoch, Snapshot
from fttune.training.events import EpochEnded
from fttune.training.feeds import feeds_of, why_not_once
from fttune.training.head_trainer import Trainer
from fttune.training.heads import Heads
from fttune.training.inputs import Inputs
from fttune.training.memory import memory_errors_told
from fttune.training.resume import Kept, Saved, State, owner_of, prefixed, unprefixed, untold
from fttune.training.run import Run, prepare_run
from fttune.training.training import (
    Solo,
    Training,
    about,
    counts,
    described,
    monitored,
)

HISTORY_BYTES = 2**28  # that the heads of a cohort after each epoch may take
_SHARED = ("epochs", "batch_size", "label_smoothing", "class_weights", "precision", "device")


def cohort_key(experiment: Experiment, stages: Sequence[str]) -> Hashable | None:
    """Return what trainings on the same inputs must agree on to train together, None for one that trains alone.

    `stages` are those of the backbone, from the input to the output.

    Raises:
        PolicyRefused: the policy does not fit the stages.
    """
    policy = resolve(experiment.freeze, stages, epochs=experiment.training.epochs)
    if not _is_head_only(policy):
        return None
    optimizer, training = experiment.optimizer, experiment.training
    shared = (getattr(training, name) for name in _SHARED)
    own = (optimizer.name, optimizer.nesterov, optimizer.clip_grad_norm, experiment.freeze.head.init, experiment.seed)
    return (*shared, *own, experiment.data.augment)


def _is_head_only(policy: Policy) -> bool:
    phase = policy.phases[0]
    one_phase = len(policy.phases) == 1 and phase.plateau is None and not phase.stages
    return one_phase and not policy.head.frozen and policy.auto is None and policy.norm_stats != "updated"


def plan(
    experiments: Sequence[Experiment],
    inputs: Inputs,
    *,
    monitor: str | None = None,
    folder: Path | None = None,
    saved: Saved = untold,
) -> list[Callable[[], Training]]:
    """Return what begins the training of each recipe; those that can train together do when the first of them begins.

    In folders below `folder` is kept where cohorts stand, for a process that comes after a crash; `saved` is called
    with such a folder after each state.
    What begins one raises BadInput or WeightsError when it cannot be trained here, as `fine_tune` says.
    """
    alone: list[Callable[[], Training]] = [partial(Solo, e, inputs, monitor=monitor) for e in experiments]
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for index, experiment in enumerate(experiments):
        groups[cohort_key(experiment, inputs.stages(experiment))].append(index)
    for key, group in groups.items():
        size = 1 if key is None or len(group) == 1 else _largest_cohort(experiments[group[0]], inputs)
        for chunk in (group[start : start + size] for start in range(0, len(group), size) if size > 1):
            own = folder / f"cohort-{chunk[0]}" if folder else None
            members = [experiments[index] for index in chunk]
            cohort = Cohort(members, inputs, monitor=monitor, folder=own, saved=saved)
            for place, index in enumerate(chunk):
                alone[index] = partial(Member, cohort, place)
    return alone


def _largest_cohort(experiment: Experiment, inputs: Inputs) -> int:
    """Return of how many trainings the heads may be kept after every epoch; 1 where the head is not one Linear."""
    with suppress(OutOfMemory), memory_errors_told():  # each training will say so itself
        run = prepare_run(experiment, inputs)
        run.close()
        if run.runs_by_stages and isinstance(run.head, nn.Linear) and len(run.backbone.cut.head.steps) == 1:
            each = sum(p.numel() * p.element_size() for p in run.head.parameters()) * experiment.training.epochs
            return max(1, HISTORY_BYTES // each)
    return 1


@dataclass(frozen=True)
class _Trained:
    """What became of a cohort: by member its ended epochs with the losses of their steps, and all heads after each.

    After a divergence a member has no more epochs. The rest is what `Training` says, and what a checkpoint is made of:
    all but the head, whose path is `head`, as it was at first. The model itself is another run's by now. `optimizer` is
    the state of the heads' optimizer after the last epoch.
    """

    facts: Mapping[str, str]
    counts: tuple[int, int]
    notice: str | None
    head: str
    shared: Shared
    epochs: list[list[tuple[EpochEnded | Diverged, list[float]]]]
    heads: list[Heads]
    optimizer: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def begin(cls, run: Run, members: int) -> "_Trained":
        """Return what is known before the first epoch."""
        path = run.backbone.cut.head_path
        own = {f"{path}.{name}" for name in run.head.state_dict()}
        shared = Shared({name: run.start[name] for name in run.backbone.module.state_dict() if name not in own})
        return cls(described(run), counts(run), why_not_once(run), path, shared, [[] for _ in range(members)], [])

    def add(self, ended: Sequence[tuple[EpochEnded | Diverged, list[float]]], trainer: Trainer) -> None:
        """Take in an epoch: how it ended for each member, with the losses of its steps."""
        for member, own in zip(self.epochs, ended, strict=True):
            if not member or isinstance(member[-1][0], EpochEnded):
                member.append(own)
        self.heads.append(trainer.heads.clone())
        self.optimizer.update(trainer.optimizer.state())

    def state(self) -> State:
        """Return the cohort as it stands after its last epoch; there is one."""
        values = torch.stack([heads.values for heads in self.heads])  # (epochs, K, C, D)
        epochs = [[_told(ended, losses) for ended, losses in member] for member in self.epochs]
        return State({"heads": values, **prefixed("optimizer", self.optimizer)}, {"epochs": epochs})

    def restore(self, state: State, like: Heads) -> None:
        """Go on from what `state` returned of the same cohort, with heads `like` these."""
        values = state.tensors["heads"].to(like.values.device)
        self.heads.extend(Heads(after, like.biased) for after in values.unbind())
        self.optimizer.update(unprefixed(state.tensors, "optimizer"))
        for member, told in zip(self.epochs, state.facts["epochs"], strict=True):
            member.extend(map(_retold, told))

    def snapshot(self, index: int, ended: EpochEnded) -> Snapshot:
        """Return the state of a member after an epoch."""
        own = {f"{self.head}.{name}": tensor for name, tensor in self.heads[ended.epoch - 1].state(index).items()}
        return Snapshot(ended, own, self.shared)


class Cohort:
    """Trainings of one `cohort_key` on the same inputs; they train when `trained` is first asked for.

    In `folder` is kept where they stand, for a process that comes after a crash; None keeps nothing. `saved` is called
    with it after each state.
    """

    def __init__(
        self,
        experiments: Sequence[Experiment],
        inputs: Inputs,
        *,
        monitor: str | None = None,
        folder: Path | None = None,
        saved: Saved = untold,
    ) -> None:
        self.experiments, self.inputs = experiments, inputs
        self.monitors = [monitored(monitor or experiment.training.monitor, inputs) for experiment in experiments]
        owner = owner_of(inputs, self.monitors[0], *experiments)
        self._kept = Kept(folder, owner, saved=saved) if folder else None
        self._trained: _Trained | None = None
        self._lock = Lock()

    @property
    def trained(self) -> _Trained:
        """What became of the trainings. One that fails leaves nothing behind: asked again, all begin anew."""
        with self._lock:  # members may begin in several threads
            self._trained = self._trained or self._train()
            return self._trained

    @memory_errors_told()
    def _train(self) -> _Trained:
        run = prepare_run(self.experiments[0], self.inputs)
        trainer = Trainer(run, self.experiments, self.monitors)
        found = _Trained.begin(run, len(self.experiments))
        if self._kept and (state := self._kept.load()):
            found.restore(state, trainer.heads)
            trainer.restore(found.heads[-1].values, found.optimizer)
        feeds = feeds_of(run, len(run.policy.stages))
        try:
            for epoch in range(len(found.heads) + 1, run.experiment.training.epochs + 1):
                past = [[e for e, _ in member if isinstance(e, EpochEnded)] for member in found.epochs]
                ended = trainer.epoch(epoch, feeds, past)
                with uninterrupted():
                    found.add(ended, trainer)
                self._keep(found, after_seconds=resume.EVERY_SECONDS)
            self._keep(found, after_seconds=resume.PAUSED_SECONDS)
        except (Interrupted, KeyboardInterrupt):
            with suppress(OSError, CannotWrite):  # what is raised is the interruption
                self._keep(found)
            raise
        run.close()
        return found

    def _keep(self, found: _Trained, *, after_seconds: float = 0.0) -> None:
        if self._kept and found.heads:
            self._kept.save(found.state, after_seconds=after_seconds)


def _told(ended: EpochEnded | Diverged, losses: list[float]) -> list[Any]:
    """Return an epoch of a member as JSON holds it."""
    return [str(ended) if isinstance(ended, Diverged) else dataclasses.asdict(ended), losses]


def _retold(told: list[Any]) -> tuple[EpochEnded | Diverged, list[float]]:
    ended, losses = told
    return (Diverged(ended) if isinstance(ended, str) else EpochEnded(**ended)), losses


def is_member(begin: Callable[[], Training]) -> bool:
    """Return whether what `plan` returned begins a training in a cohort: once that has trained, no model is used."""
    return isinstance(begin, partial) and begin.func is Member


class Member:
    """One training of a cohort. Its epochs are there when it begins."""

    def __init__(self, cohort: Cohort, index: int) -> None:
        experiment, self._trained, self._index = cohort.experiments[index], cohort.trained, index
        self.best = BestEpoch(cohort.monitors[index])
        self.owner = ""  # the cohort keeps where it stands
        self.ended: list[EpochEnded] = []
        self.step_losses: list[float] = []
        self.facts, self.counts, self.notice = self._trained.facts, self._trained.counts, self._trained.notice
        self.about: Mapping[str, Any] = about(experiment, cohort.inputs)
        self.inputs = cohort.inputs
        self._patience = experiment.training.early_stop_epochs

    def epochs(self) -> Iterator[EpochEnded]:
        """Return the epochs, to the last one or until the training stops early. Raises Diverged."""
        for ended, losses in self._trained.epochs[self._index][len(self.ended) :]:
            if self.ended and self.best.stalled(len(self.ended), first=1, patience=self._patience):
                return
            if isinstance(ended, Diverged):
                raise ended
            self.ended.append(ended)
            self.step_losses += losses
            self.best.offer(ended, self.last)
            yield ended

    def last(self, ended: EpochEnded) -> Snapshot:
        """Return the state after an epoch."""
        return self._trained.snapshot(self._index, ended)

    def state(self) -> None:
        """Return None: the cohort keeps where it stands, and a member's epochs are there at once."""

    def restore(self, state: State) -> None:
        """Do nothing: there is no state of one member."""

    def pause(self) -> None:
        """Do nothing, as `close`."""

    def close(self) -> None:
        """Do nothing: the cohort gave the model back when it had trained."""
