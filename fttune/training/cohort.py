"""Head-only trainings that see the same batches, trained as one: a step is one matrix product for all their heads.

What stands before the heads is frozen and the same for all, so it runs once per batch, or not at all where its
activations are kept. Each training has its own lr, momentum, weight decay and schedule, and ends as it would alone.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fttune.config import Experiment
from fttune.config.policy import Policy, resolve
from fttune.config.sections import Training as TrainingSection
from fttune.errors import Diverged
from fttune.freezing import HEAD
from fttune.models.tensor_file import Shared
from fttune.training.checkpoints import BestEpoch, Snapshot
from fttune.training.events import EpochEnded
from fttune.training.feeds import Feed, Feeds, feeds_of, why_not_once
from fttune.training.gradients import TINY
from fttune.training.heads import AdamW, HeadOptimizer, Heads, Sgd, along
from fttune.training.inputs import Inputs
from fttune.training.loop import EVALUATION_BATCH
from fttune.training.metrics import split_metrics
from fttune.training.randomness import augmentation_generator, epoch_rows
from fttune.training.run import Run, prepare_run
from fttune.training.schedule import lr_factor, plateau_factor
from fttune.training.training import (
    Solo,
    Training,
    about,
    counts,
    described,
    loss_of,
    monitored,
    require_finite,
    require_validation,
    stage_mask,
)

Metrics = dict[str, float]
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
    experiments: Sequence[Experiment], inputs: Inputs, *, monitor: str | None = None
) -> list[Callable[[], Training]]:
    """Return what begins the training of each recipe; those that can train together do when the first of them begins.

    What begins one raises BadInput or WeightsError when it cannot be trained here, as `fine_tune` says.
    """
    alone: list[Callable[[], Training]] = [partial(Solo, e, inputs, monitor=monitor) for e in experiments]
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for index, experiment in enumerate(experiments):
        groups[cohort_key(experiment, inputs.stages(experiment))].append(index)
    for key, group in groups.items():
        size = 1 if key is None or len(group) == 1 else _largest_cohort(experiments[group[0]], inputs)
        for chunk in (group[start : start + size] for start in range(0, len(group), size) if size > 1):
            cohort = Cohort([experiments[index] for index in chunk], inputs, monitor=monitor)
            for place, index in enumerate(chunk):
                alone[index] = partial(Member, cohort, place)
    return alone


def _largest_cohort(experiment: Experiment, inputs: Inputs) -> int:
    """Return of how many trainings the heads may be kept after every epoch; 1 where the head is not one Linear."""
    run = prepare_run(experiment, inputs)
    run.close()
    if not (run.runs_by_stages and isinstance(run.head, nn.Linear) and len(run.backbone.cut.head.steps) == 1):
        return 1
    each = sum(p.numel() * p.element_size() for p in run.head.parameters()) * experiment.training.epochs
    return max(1, HISTORY_BYTES // each)


@dataclass(frozen=True)
class _Trained:
    """What became of a cohort: by member its ended epochs with the losses of their steps, and all heads after each.

    After a divergence a member has no more epochs. The rest is what `Training` says, and what a checkpoint is made of:
    all but the head, whose path is `head`, as it was at first. The model itself is another run's by now.
    """

    facts: Mapping[str, str]
    counts: tuple[int, int]
    notice: str | None
    head: str
    shared: Shared
    epochs: list[list[tuple[EpochEnded | Diverged, list[float]]]]
    heads: list[Heads]

    @classmethod
    def begin(cls, run: Run, members: int) -> "_Trained":
        """Return what is known before the first epoch."""
        path = run.backbone.cut.head_path
        own = {f"{path}.{name}" for name in run.head.state_dict()}
        shared = Shared({name: run.start[name] for name in run.backbone.module.state_dict() if name not in own})
        return cls(described(run), counts(run), why_not_once(run), path, shared, [[] for _ in range(members)], [])

    def snapshot(self, index: int, ended: EpochEnded) -> Snapshot:
        """Return the state of a member after an epoch."""
        own = {f"{self.head}.{name}": tensor for name, tensor in self.heads[ended.epoch - 1].state(index).items()}
        return Snapshot(ended, own, self.shared)


class Cohort:
    """Trainings of one `cohort_key` on the same inputs; they train when `trained` is first asked for."""

    def __init__(self, experiments: Sequence[Experiment], inputs: Inputs, *, monitor: str | None = None) -> None:
        self.experiments, self.inputs = experiments, inputs
        self.monitors = [monitored(monitor or experiment.training.monitor, inputs) for experiment in experiments]
        self._trained: _Trained | None = None
        self._lock = Lock()

    @property
    def trained(self) -> _Trained:
        """What became of the trainings. One that fails leaves nothing behind: asked again, all begin anew."""
        with self._lock:  # members may begin in several threads
            self._trained = self._trained or self._train()
            return self._trained

    def _train(self) -> _Trained:
        run = prepare_run(self.experiments[0], self.inputs)
        trainer = _Trainer(run, self.experiments, self.monitors)
        found = _Trained.begin(run, len(self.experiments))
        feeds = feeds_of(run, len(run.policy.stages))
        for epoch in range(1, run.experiment.training.epochs + 1):
            past = [[e for e, _ in member if isinstance(e, EpochEnded)] for member in found.epochs]
            for member, ended in zip(found.epochs, trainer.epoch(epoch, feeds, past), strict=True):
                if not member or isinstance(member[-1][0], EpochEnded):
                    member.append(ended)
            found.heads.append(trainer.heads.clone())
        run.close()
        return found


def is_member(begin: Callable[[], Training]) -> bool:
    """Return whether what `plan` returned begins a training in a cohort: once that has trained, no model is used."""
    return isinstance(begin, partial) and begin.func is Member


class Member:
    """One training of a cohort. Its epochs are there when it begins."""

    def __init__(self, cohort: Cohort, index: int) -> None:
        experiment, self._trained, self._index = cohort.experiments[index], cohort.trained, index
        self.best = BestEpoch(cohort.monitors[index])
        self.step_losses: list[float] = []
        self.facts, self.counts, self.notice = self._trained.facts, self._trained.counts, self._trained.notice
        self.about: Mapping[str, Any] = about(experiment, cohort.inputs)
        self.inputs = cohort.inputs
        self._patience = experiment.training.early_stop_epochs
        self._done = 0

    def epochs(self) -> Iterator[EpochEnded]:
        """Return the epochs, to the last one or until the training stops early. Raises Diverged."""
        for ended, losses in self._trained.epochs[self._index][self._done :]:
            if self._done and self.best.stalled(self._done, first=1, patience=self._patience):
                return
            if isinstance(ended, Diverged):
                raise ended
            self._done += 1
            self.step_losses += losses
            self.best.offer(ended, self.last)
            yield ended

    def last(self, ended: EpochEnded) -> Snapshot:
        """Return the state after an epoch."""
        return self._trained.snapshot(self._index, ended)

    def pause(self) -> None:
        """Do nothing, as `close`."""

    def close(self) -> None:
        """Do nothing: the cohort gave the model back when it had trained."""


class _Trainer:
    """Trains and evaluates the heads, each by its own recipe; `run` is what they have in common."""

    def __init__(self, run: Run, experiments: Sequence[Experiment], monitors: Sequence[str | None]) -> None:
        assert isinstance(run.head, nn.Linear), "asked before by `_largest_cohort`"
        self.heads = Heads.copies(run.head, len(experiments))
        self._begun = self.heads.values.detach()[0].clone()  # (C, D), the same for all
        self._run, self._experiments, self._monitors = run, experiments, monitors
        self._policies = [resolve(e.freeze, run.policy.stages, epochs=e.training.epochs) for e in experiments]
        for experiment, policy in zip(experiments, self._policies, strict=True):
            require_validation(experiment, policy, run.inputs)
        self._optimizer = _optimizer(experiments, self.heads)

    def epoch(
        self, epoch: int, feeds: Feeds, past: Sequence[Sequence[EpochEnded]]
    ) -> list[tuple[EpochEnded | Diverged, list[float]]]:
        """Train and evaluate an epoch; return how it ended for each, with the losses of its steps.

        `past` are the epochs so far. Each is told its share of the time.
        """
        share = len(self._experiments)
        rates, lrs = self._rates(epoch, past)
        started = time.monotonic()
        trained, losses, squares = self._train(feeds.train, rates, epoch)
        motion = self._motion(squares)
        steps = (time.monotonic() - started) / self._run.steps_per_epoch / share
        evaluated = self._evaluate(feeds)
        times = {"step_seconds": steps, "epoch_seconds": (time.monotonic() - started) / share}
        watched = [{**a, "lr": lr, **b} for a, lr, b in zip(trained, lrs, evaluated, strict=True)]
        ended = [_ended(epoch, metrics, {**own, **times}) for metrics, own in zip(watched, motion, strict=True)]
        return list(zip(ended, losses, strict=True))

    def _rates(self, epoch: int, past: Sequence[Sequence[EpochEnded]]) -> tuple[Tensor, list[float]]:
        """Return the lr of every head at each step of an epoch (steps, K), and the trainings' own at its end."""
        columns, lrs, count = [], [], self._run.steps_per_epoch
        schedules: dict[TrainingSection, list[float]] = {}  # members have few different ones
        for experiment, policy, monitor, ended in zip(
            self._experiments, self._policies, self._monitors, past, strict=True
        ):
            training, lr = experiment.training, experiment.optimizer.learning_rate
            plateau = plateau_factor(training, [loss_of(e, monitor) for e in ended], "minimize")
            if training not in schedules:
                steps = range((epoch - 1) * count, epoch * count)
                schedules[training] = [lr_factor(training, step=step, steps_per_epoch=count) for step in steps]
            rate, factors = policy.rates(policy.phases[0], lr)[HEAD], schedules[training]
            columns.append([rate * (plateau * factor) for factor in factors])
            lrs.append(policy.phases[0].base(lr) * (plateau * factors[-1]))
        return torch.tensor(columns, dtype=self._run.device.dtype).T.to(self._run.device.device), lrs

    def _train(self, feed: Feed, rates: Tensor, epoch: int) -> tuple[list[Metrics], list[list[float]], Tensor]:
        """Train an epoch; return each member's metrics, its steps' losses, and its mean squared gradient norm (K,)."""
        run, seed = self._run, self._experiments[0].seed
        rows = epoch_rows(feed.split, seed=seed, epoch=epoch)
        draws = augmentation_generator(seed=seed, epoch=epoch)
        losses, hits, sizes = [], [], []
        squares = rates.new_zeros(len(self._experiments))
        run.backbone.module.eval()
        order = torch.split(rows, self._experiments[0].training.batch_size)
        for (x, labels), lr in zip(feed.batches(order, draws), rates, strict=True):
            with run.device.autocast():
                logits = self.heads.logits(self._features(x, feed))  # (B, K, C)
                loss = self._losses(logits, labels)
            squares += self._step(loss, lr)
            losses.append(loss.detach())
            hits.append((logits.detach().argmax(2) == labels[:, None]).sum(0))
            sizes.append(len(labels))
        steps = torch.stack(losses).cpu().double()  # (steps, K)
        weights = torch.tensor(sizes, dtype=torch.float64)
        mean = (weights @ steps / weights.sum()).tolist()
        accuracy = (torch.stack(hits).cpu().sum(0) / weights.sum()).tolist()
        metrics = [{"train/loss": a, "train/accuracy": b} for a, b in zip(mean, accuracy, strict=True)]
        return metrics, steps.T.tolist(), squares / len(rates)

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of every member (K,): what the run's criterion makes of its logits."""
        criterion, count = self._run.criterion, logits.shape[1]
        each = F.cross_entropy(
            logits.transpose(1, 2),  # (B, C, K)
            labels[:, None].expand(-1, count),
            weight=criterion.weight,
            label_smoothing=criterion.label_smoothing,
            reduction="none",
        )
        return each.sum(0) / (len(labels) if criterion.weight is None else criterion.weight[labels].sum())

    def _evaluate(self, feeds: Feeds) -> list[Metrics]:
        found: list[Metrics] = [{} for _ in self._experiments]
        for name, feed in feeds.evaluation.items():
            with torch.inference_mode(), self._run.device.autocast():
                batches = torch.split(torch.arange(len(feed.split.labels)), EVALUATION_BATCH)
                pairs = [(self._features(x, feed), truth) for x, truth in feed.batches(batches)]
                x, labels = (torch.cat(column) for column in zip(*pairs, strict=True))
                logits, labels = self.heads.logits(x).cpu(), labels.cpu()  # (N, K, C), waited for once
                for index, metrics in enumerate(found):
                    metrics |= split_metrics(logits[:, index], labels, split=name)
        return found

    def _features(self, x: Tensor, feed: Feed) -> Tensor:
        """Return what the heads see of a batch."""
        with torch.no_grad():
            for stage in self._run.backbone.cut.stages[feed.after :]:
                x = self._run.backbone.run_stage(stage.name, x)
            return self.heads.seen(x)

    def _step(self, losses: Tensor, lr: Tensor) -> Tensor:
        """Make one update for the losses (K,) at the rates (K,); return the gradients' squared norms (K,)."""
        (gradients,) = torch.autograd.grad(losses.sum(), [self.heads.values])
        norms = _norms(gradients)
        with torch.no_grad():
            if (limit := self._experiments[0].optimizer.clip_grad_norm) is not None:  # as clip_grad_norm_ of torch
                gradients = gradients * along((limit / (norms + 1e-6)).clamp_max(1.0))
            self._optimizer.step(self.heads.values, gradients, lr)
        return norms.square()

    def _motion(self, squares: Tensor) -> list[Metrics]:
        """Return what an epoch did to each head, from the mean squared norm of its gradients (K,)."""
        now = self.heads.values.detach()
        relative = squares.sqrt() / _norms(now).clamp_min(TINY)
        drift = _norms(now - self._begun) / self._begun.norm().clamp_min(TINY)
        mask = float(stage_mask(self._run, (HEAD,)))
        return [
            {f"relative_grad_norm/{HEAD}": r, f"drift/{HEAD}": d, "stages_trained": mask}
            for r, d in zip(relative.tolist(), drift.tolist(), strict=True)
        ]


def _optimizer(experiments: Sequence[Experiment], heads: Heads) -> HeadOptimizer:
    """Return what updates the heads, each as its recipe says."""
    decay = heads.values.new_tensor([e.optimizer.weight_decay for e in experiments])
    if experiments[0].optimizer.name == "adamw":
        return AdamW(decay)
    momentum = heads.values.new_tensor([e.optimizer.momentum or 0.0 for e in experiments])
    return Sgd(momentum, decay, nesterov=experiments[0].optimizer.nesterov)


def _norms(heads: Tensor) -> Tensor:
    """Return the norm of each head (K,)."""
    norms: Tensor = torch.linalg.vector_norm(heads, dim=(1, 2))
    return norms


def _ended(epoch: int, watched: Metrics, others: Metrics) -> EpochEnded | Diverged:
    try:
        require_finite(watched, epoch)
    except Diverged as error:
        return error
    return EpochEnded(epoch, {**watched, **others})
