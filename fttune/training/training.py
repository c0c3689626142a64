"""One recipe in training, epoch by epoch. Knows nothing of what happens between epochs: events, pruning, files."""

import dataclasses
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from fttune.config import Experiment
from fttune.config.policy import Policy
from fttune.config.sections import VAL_METRICS
from fttune.errors import BadInput, Diverged
from fttune.freezing import Freezing, PartGradient, named_parameters, trained_names
from fttune.interruption import uninterrupted
from fttune.training.checkpoints import BestEpoch, Snapshot
from fttune.training.events import EpochEnded
from fttune.training.feeds import feeds_of, why_not_once
from fttune.training.inputs import Inputs
from fttune.training.loop import Regime, SoFar, TrainedEpoch, evaluate, train_epoch
from fttune.training.memory import memory_errors_told
from fttune.training.metrics import TOP_K
from fttune.training.randomness import own_random_state
from fttune.training.regime import Past, next_regime
from fttune.training.resume import State, owner_of, prefixed, unprefixed
from fttune.training.run import Paused, Run, optimizer_tensors, prepare_run, restore_optimizer
from fttune.training.step import Step


class Training(Protocol):
    """A recipe that trains as its epochs are drawn; `close` must follow, after which it does not go on.

    After `pause` another one may train; `epochs` then goes on after the last epoch.

    `facts` says in words what trains and where, `about` what a checkpoint must say of itself, `counts` the number of
    parameters that ever train, and of all, `notice` what people should be told of it; `ended` are the epochs so far,
    `step_losses` those of their steps.

    `state` is what another process needs to go on from here by `restore`; None when it would be of no use, or is not
    to be had amid a step. `owner` stands for all that decides what the training comes to.
    """

    inputs: Inputs
    owner: str
    best: BestEpoch
    ended: list[EpochEnded]
    step_losses: list[float]
    facts: Mapping[str, str]
    about: Mapping[str, Any]
    counts: tuple[int, int]
    notice: str | None

    def epochs(self) -> Iterator[EpochEnded]: ...
    def last(self, ended: EpochEnded) -> Snapshot: ...
    def state(self) -> State | None: ...
    def restore(self, state: State) -> None: ...
    def pause(self) -> None: ...
    def close(self) -> None: ...


class Solo:
    """A training with a model of its own."""

    @memory_errors_told()
    def __init__(self, experiment: Experiment, inputs: Inputs, *, monitor: str | None = None) -> None:
        self.inputs = inputs
        self.best = BestEpoch(monitored(monitor or experiment.training.monitor, inputs))
        self.owner = owner_of(inputs, self.best.monitor, experiment)
        self.ended: list[EpochEnded] = []
        self.step_losses: list[float] = []
        self.run = prepare_run(experiment, inputs)
        require_validation(experiment, self.run.policy, inputs)
        self.facts: Mapping[str, str] = described(self.run)
        self.about: Mapping[str, Any] = about(experiment, inputs)
        self.counts = counts(self.run)
        self.notice = why_not_once(self.run)
        self._past: list[Past] = []
        self._regime: Regime | None = None
        self._step: Step | None = None
        self._so_far = SoFar()
        self._paused: Paused | None = None

    def epochs(self) -> Iterator[EpochEnded]:
        """Train epoch after epoch, to the end of the policy or until it stops early. Raises Diverged."""
        if self._paused is not None:
            self.run.go_on(self._paused)
            self._paused = None
        with own_random_state(self.run.device.device):
            while not self._stops_early() and (regime := next_regime(self.run, self._past, self._regime)):
                self._regime = regime
                ended, trained = self._epoch(regime)
                with uninterrupted():
                    self._past.append(Past(loss_of(ended, self.best.monitor), trained.motion.gradients))
                    self.step_losses += trained.step_losses
                    self.best.offer(ended, self.last)
                    self.ended.append(ended)
                    self._so_far = SoFar()
                yield ended

    def last(self, ended: EpochEnded) -> Snapshot:
        """Return the state after the epoch that ended last."""
        return Snapshot.of(ended, self.run.backbone.module, start=self.run.start, changing=self.run.changing)

    def state(self) -> State | None:
        """Return the training as it stands after its last step; None amid one, and before it went on from another."""
        if not self._so_far.whole or self._so_far.restored:
            return None
        run, best = self.run, self.best.snapshot
        paused = self._paused.tensors if self._paused else None
        tensors = prefixed("model", paused or {n: t for n, t in run.built.tensors() if n in run.changing})
        tensors |= prefixed("optimizer", optimizer_tensors(run))
        if best is not None:
            tensors |= prefixed("best", {n: t for n, t in best.state.items() if t is not run.start.get(n)})
        if self._step is not None:
            tensors |= prefixed("epoch", self._so_far.tensors(run, self._step.record))
        facts = {
            "ended": [dataclasses.asdict(ended) for ended in self.ended],
            "gradients": [{p: dataclasses.asdict(g) for p, g in past.gradients.items()} for past in self._past],
            "best_epoch": best and best.ended.epoch,
            "step_losses": self.step_losses,
        }
        return State(tensors, facts)

    def restore(self, state: State) -> None:
        """Go on from a state of the same training; nothing has been trained here yet."""
        run, facts = self.run, state.facts
        self.ended = [EpochEnded(**ended) for ended in facts["ended"]]
        self.step_losses = facts["step_losses"]
        for ended, gradients in zip(self.ended, facts["gradients"], strict=True):
            self._regime = next_regime(run, self._past, self._regime)
            moved = {part: PartGradient(**gradient) for part, gradient in gradients.items()}
            self._past.append(Past(loss_of(ended, self.best.monitor), moved))
        run.built.set(unprefixed(state.tensors, "model"))
        restore_optimizer(run, unprefixed(state.tensors, "optimizer"))
        if (epoch := facts["best_epoch"]) is not None:
            self.best.snapshot = self.last(self.ended[epoch - 1]).replaced(unprefixed(state.tensors, "best"))
        self._so_far = SoFar.of(unprefixed(state.tensors, "epoch"), run.device.device)

    def pause(self) -> None:
        """Leave the model to other trainings until `epochs` is drawn from again."""
        assert self._regime is not None, "an epoch has ended"
        self._paused, self._step = self.run.pause(self._regime.phase), None

    def close(self) -> None:
        """Leave the model to the next training; one that is paused has left it already."""
        self._step = None
        if self._paused is None:
            self.run.close()

    def _epoch(self, regime: Regime) -> tuple[EpochEnded, TrainedEpoch]:
        run, epoch = self.run, len(self._past) + 1
        feeds = feeds_of(run, regime.boundary)
        if self._step is None or not self._step.fits(regime.freezing, after=feeds.train.after):
            self._step = Step(run, regime.freezing, after=feeds.train.after)
        started = time.monotonic()
        trained = train_epoch(run, regime, feeds.train, epoch, step=self._step, so_far=self._so_far)
        metrics = {**trained.metrics, "step_seconds": (time.monotonic() - started) / run.steps_per_epoch}
        if math.isfinite(metrics["train/loss"]):  # else the evaluation would only cost time
            metrics |= evaluate(feeds.evaluation)
        require_finite(metrics, epoch)
        motion = trained.motion
        metrics |= {f"relative_grad_norm/{part}": gradient.relative for part, gradient in motion.gradients.items()}
        metrics |= {f"drift/{part}": value for part, value in motion.drift.items()}
        metrics["stages_trained"] = float(stage_mask(run, regime.freezing.trained))
        in_last = regime.span.index == len(run.policy.phases) - 1
        metrics["epoch_seconds"] = time.monotonic() - started
        unsettled = regime.span.first - 1 if in_last else epoch
        pieces = self._step.micro_batches
        return EpochEnded(epoch, metrics, unsettled=unsettled, phase=regime.span.index, micro_batches=pieces), trained

    def _stops_early(self) -> bool:
        patience, first = self.run.experiment.training.early_stop_epochs, self._regime.span.first if self._regime else 1
        return bool(self._past) and self.best.stalled(len(self._past), first=first, patience=patience)


def described(run: Run) -> dict[str, str]:
    """Return what trains and where, in words, by the names of tags."""
    freezings = [Freezing(run.parts, trained_names(run.parts, run.policy, p), "frozen") for p in run.policy.phases]
    head = "new" if run.backbone.head_is_new else "kept from the weights"
    return {
        "fttune.trainable": "; then ".join(freezing.summary() for freezing in freezings),
        "fttune.head": f"{head}, {len(run.inputs.data.classes)} classes",
        "fttune.device": run.device.summary,
        "fttune.seed": str(run.experiment.seed),
    }


def about(experiment: Experiment, inputs: Inputs) -> dict[str, Any]:
    """Return what a checkpoint says of itself."""
    own, geometry = dataclasses.asdict(inputs.weights.preprocessing), inputs.geometry
    return {
        "experiment": experiment.model_dump(),
        "name": experiment.name,
        "classes": inputs.data.classes,
        "preprocessing": {**own, "resize": geometry.resize, "crop": geometry.image_size},
    }


def counts(run: Run) -> tuple[int, int]:
    """Return the number of parameters that ever train, and of all."""
    sizes = {name: p.numel() for part in run.parts.values() for name, p in named_parameters(part)}
    return sum(sizes[name] for name in run.trained), sum(sizes.values())


def monitored(metric: str, inputs: Inputs) -> str | None:
    """Return the metric that chooses the best epoch, None without a validation split. Raises BadInput."""
    classes = len(inputs.data.classes)
    if metric == "val/top5_accuracy" and classes <= TOP_K:
        raise BadInput(f"val/top5_accuracy needs more than {TOP_K} classes, but there are {classes}; use val/accuracy")
    return metric if inputs.data.val else None


def require_validation(experiment: Experiment, policy: Policy, inputs: Inputs) -> None:
    """Refuse what watches the validation split when there is none. Raises BadInput."""
    if inputs.data.val is not None:
        return
    if experiment.training.early_stop_epochs:
        raise BadInput("training.early_stop_epochs needs a validation split, but data.split.val is 0")
    if experiment.training.schedule == "plateau":
        raise BadInput("training.schedule: plateau needs a validation split, but data.split.val is 0")
    if any(phase.plateau for phase in policy.phases):
        raise BadInput("freeze.phases: until_plateau needs a validation split, but data.split.val is 0")


def stage_mask(run: Run, trained: Iterable[str]) -> int:
    """Return which parts train as a bit mask: bit 0 is the first stage, the highest bit the head."""
    return sum(1 << index for index, part in enumerate(run.parts) if part in trained)


def require_finite(metrics: Mapping[str, float], epoch: int) -> None:
    """Raise Diverged when a metric of an epoch is NaN or infinite."""
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise Diverged(f"{name} became {value} in epoch {epoch}; a smaller optimizer.lr may help")


def loss_of(ended: EpochEnded, monitor: str | None) -> float:
    """Return the monitored value such that smaller is better."""
    if monitor is None:
        return math.nan
    return ended.metrics[monitor] if VAL_METRICS[monitor] == "minimize" else -ended.metrics[monitor]
