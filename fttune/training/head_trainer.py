"""The heads of a cohort through one epoch: trained as one, each by its own recipe, and evaluated. Keeps no history."""

import math
import time
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fttune.config import Experiment
from fttune.config.policy import resolve
from fttune.config.sections import Training
from fttune.errors import Diverged
from fttune.freezing import HEAD
from fttune.training.events import EpochEnded
from fttune.training.feeds import Feed, Feeds
from fttune.training.gradients import TINY
from fttune.training.heads import AdamW, HeadOptimizer, Heads, Sgd, along
from fttune.training.memory import BatchLimit
from fttune.training.metrics import split_metrics
from fttune.training.randomness import augmentation_generator, epoch_rows
from fttune.training.run import Run
from fttune.training.schedule import lr_factor, plateau_factor
from fttune.training.training import loss_of, require_finite, require_validation, stage_mask

Metrics = dict[str, float]


class Trainer:
    """Trains and evaluates the heads, each by its own recipe; `run` is what they have in common."""

    def __init__(self, run: Run, experiments: Sequence[Experiment], monitors: Sequence[str | None]) -> None:
        assert isinstance(run.head, nn.Linear), "a cohort asks before"
        self.heads = Heads.copies(run.head, len(experiments))
        self._begun = self.heads.values.detach()[0].clone()  # (C, D), the same for all
        self._run, self._experiments, self._monitors = run, experiments, monitors
        self._policies = [resolve(e.freeze, run.policy.stages, epochs=e.training.epochs) for e in experiments]
        for experiment, policy in zip(experiments, self._policies, strict=True):
            require_validation(experiment, policy, run.inputs)
        self.optimizer = _optimizer(experiments, self.heads)
        self._at_once = BatchLimit("the training of heads")

    def restore(self, heads: Tensor, optimizer: Mapping[str, Tensor]) -> None:
        """Go on from heads (K, C, D or D + 1) and the state of their optimizer."""
        with torch.no_grad():
            self.heads.values.copy_(heads)
        self.optimizer.restore({name: tensor.to(self.heads.values.device) for name, tensor in optimizer.items()})

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
        size = self._experiments[0].training.batch_size
        pieces = math.ceil(size / self._at_once.size(size))
        ended = [_ended(epoch, metrics, {**own, **times}, pieces) for metrics, own in zip(watched, motion, strict=True)]
        return list(zip(ended, losses, strict=True))

    def _rates(self, epoch: int, past: Sequence[Sequence[EpochEnded]]) -> tuple[Tensor, list[float]]:
        """Return the lr of every head at each step of an epoch (steps, K), and the trainings' own at its end."""
        columns, lrs, count = [], [], self._run.steps_per_epoch
        schedules: dict[Training, list[float]] = {}  # members have few different ones
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
            work = partial(self._gradients, feed, (x, labels))
            loss, gradients, correct = self._at_once.fit(len(x), work, run.backbone.module)
            squares += self._step(gradients, lr)
            losses.append(loss)
            hits.append(correct)
            sizes.append(len(labels))
        run.inputs.workbench.notices.extend(self._at_once.notices())
        steps = torch.stack(losses).cpu().double()  # (steps, K)
        weights = torch.tensor(sizes, dtype=torch.float64)
        mean = (weights @ steps / weights.sum()).tolist()
        accuracy = (torch.stack(hits).cpu().sum(0) / weights.sum()).tolist()
        metrics = [{"train/loss": a, "train/accuracy": b} for a, b in zip(mean, accuracy, strict=True)]
        return metrics, steps.T.tolist(), squares / len(rates)

    def _gradients(self, feed: Feed, batch: tuple[Tensor, Tensor], at_once: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the losses (K,), the gradients of the heads, and the hits (K,) of a batch, from pieces of it."""
        x, labels = batch
        weight = self._run.criterion.weight
        whole = len(labels) if weight is None else weight[labels].sum()
        pieces = []
        for piece, truth in zip(torch.split(x, at_once), torch.split(labels, at_once), strict=True):
            with self._run.device.autocast():
                logits = self.heads.logits(self._features(piece, feed))  # (B, K, C)
                losses = self._summed_losses(logits, truth) / whole
            (gradients,) = torch.autograd.grad(losses.sum(), [self.heads.values])
            pieces.append((losses.detach(), gradients, (logits.detach().argmax(2) == truth[:, None]).sum(0)))
        loss, gradients, hits = (torch.stack(c).sum(0) if len(c) > 1 else c[0] for c in zip(*pieces, strict=True))
        return loss, gradients, hits

    def _summed_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the summed loss of every member (K,), where the run's criterion takes the mean."""
        criterion, count = self._run.criterion, logits.shape[1]
        each = F.cross_entropy(
            logits.transpose(1, 2),  # (B, C, K)
            labels[:, None].expand(-1, count),
            weight=criterion.weight,
            label_smoothing=criterion.label_smoothing,
            reduction="none",
        )
        return each.sum(0)

    def _evaluate(self, feeds: Feeds) -> list[Metrics]:
        found: list[Metrics] = [{} for _ in self._experiments]
        run, at_once = self._run, self._run.inputs.workbench.evaluation
        for name, feed in feeds.evaluation.items():
            wanted = min(run.device.evaluation_batch, len(feed.split))
            logits, labels = at_once.fit(wanted, partial(self._evaluated, feed), run.backbone.module)
            for index, metrics in enumerate(found):
                metrics |= split_metrics(logits[:, index], labels, split=name)
        return found

    def _evaluated(self, feed: Feed, at_once: int) -> tuple[Tensor, Tensor]:
        """Return the logits (N, K, C) and labels (N,) of a split in host memory."""
        with torch.inference_mode(), self._run.device.autocast():
            batches = torch.split(feed.split.samples, at_once)
            pairs = [(self._features(x, feed), truth) for x, truth in feed.batches(batches)]
            x, labels = (torch.cat(column) for column in zip(*pairs, strict=True))
            # One product and one wait for all, unless memory has run out.
            limited = self._run.inputs.workbench.evaluation.samples is not None
            logits = [self.heads.logits(part).cpu() for part in torch.split(x, at_once if limited else len(x))]
            return torch.cat(logits), labels.cpu()

    def _features(self, x: Tensor, feed: Feed) -> Tensor:
        """Return what the heads see of a batch."""
        with torch.no_grad():
            for stage in self._run.backbone.cut.stages[feed.after :]:
                x = self._run.backbone.run_stage(stage.name, x)
            return self.heads.seen(x)

    def _step(self, gradients: Tensor, lr: Tensor) -> Tensor:
        """Make one update by gradients at the rates (K,); return the gradients' squared norms (K,)."""
        norms = _norms(gradients)
        with torch.no_grad():
            if (limit := self._experiments[0].optimizer.clip_grad_norm) is not None:  # as clip_grad_norm_ of torch
                gradients = gradients * along((limit / (norms + 1e-6)).clamp_max(1.0))
            self.optimizer.step(self.heads.values, gradients, lr)
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


def _ended(epoch: int, watched: Metrics, others: Metrics, micro_batches: int) -> EpochEnded | Diverged:
    try:
        require_finite(watched, epoch)
    except Diverged as error:
        return error
    return EpochEnded(epoch, {**watched, **others}, micro_batches=micro_batches)
