"""What the epochs of a recipe cost on the plain path, where nothing is shared: no kept activations, no cohort.

A figure belongs to a configuration and not to a run: it is measured once, by a few steps of the recipe's own model on
its own device, and then holds for all runs of that configuration. So neither a warm cache nor the noise of a clock
moves one trial past another. Knows neither Optuna nor MLflow.
"""

import dataclasses
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fttune.config import Experiment
from fttune.config.policy import PhasePlan, Policy, resolve
from fttune.freezing import Freezing, apply_phase
from fttune.training.device import choose_device, seconds_of
from fttune.training.events import EpochEnded
from fttune.training.feeds import Feed
from fttune.training.inputs import Inputs
from fttune.training.loop import set_rates, train_mode
from fttune.training.randomness import augmentation_generator, epoch_rows, own_random_state
from fttune.training.run import Run, prepare_run
from fttune.training.step import Step

ROUNDS = 5
ROUND_SECONDS = 0.15  # and at least one call


@dataclass(frozen=True)
class PhaseCost:
    """What a phase of a policy costs: the seconds of a training step and of an evaluated batch, with decoded images in
    memory, and the bytes that a step holds at its peak (`measured` says what counts)."""

    step_seconds: float
    evaluation_seconds: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class Cost:
    """What a training costs: the seconds of all its epochs, and the bytes of the phase that takes most."""

    seconds: float
    peak_memory_bytes: int


class Costs:
    """The costs of trainings, each configuration measured when it is first asked for.

    `known` are figures of earlier processes by their keys, as plain data; `keep` is called with all of them after each
    new one, `settle` before it is measured, so that nothing else that this process does disturbs it.
    """

    def __init__(
        self,
        known: Mapping[str, Mapping[str, Any]] | None = None,
        keep: Callable[[Mapping[str, Mapping[str, Any]]], None] = lambda _: None,
        settle: Callable[[], None] = lambda: None,
    ) -> None:
        self._known = {key: PhaseCost(**figures) for key, figures in (known or {}).items()}
        self._keep, self._settle = keep, settle

    def of(self, experiment: Experiment, inputs: Inputs, epochs: Sequence[EpochEnded]) -> Cost:
        """Return what a recipe's training cost that ended after these epochs.

        No training of this process may be under way, but one that is paused. Raises as `fine_tune`.
        """
        policy = resolve(experiment.freeze, inputs.stages(experiment), epochs=experiment.training.epochs)
        counts = Counter((ended.phase, _stages(policy, ended)) for ended in epochs)
        seconds, peak = 0.0, 0
        for (index, stages), count in counts.items():
            phase = self._phase(experiment, inputs, policy, dataclasses.replace(policy.phases[index], stages=stages))
            seconds += count * _epoch_seconds(experiment, inputs, phase)
            peak = max(peak, phase.peak_memory_bytes)
        return Cost(seconds, peak)

    def _phase(self, experiment: Experiment, inputs: Inputs, policy: Policy, phase: PhasePlan) -> PhaseCost:
        key = _key(experiment, inputs, policy, phase)
        if key not in self._known:
            self._settle()
            self._known[key] = measured(experiment, inputs, phase)
            self._keep({key: dataclasses.asdict(figures) for key, figures in self._known.items()})
        return self._known[key]


def measured(experiment: Experiment, inputs: Inputs, phase: PhasePlan) -> PhaseCost:
    """Return what a phase costs, from a few steps of a recipe's model as it begins, at an lr of 0.

    Seconds are those of the fastest call of a few: on a busy machine a median is further from the work itself.
    The bytes are those of all weights and buffers, of the gradients and the optimizer's state of what trains, and of
    what one step at the recipe's batch size keeps for its backward pass, each storage once. They are the same in every
    measurement; another device or precision may keep other things. Not counted is what kernels need in passing.

    Torch's generators are as before afterwards, and so is the model for whoever takes it next from the workbench.

    Raises:
        BadInput, WeightsError: the recipe cannot be trained here, as `fine_tune` says.
    """
    device = choose_device(experiment.training).device
    with own_random_state(device):
        run = prepare_run(experiment, inputs)
        freezing = apply_phase(run.parts, run.policy, phase)
        set_rates(run, run.policy.rates(phase, experiment.optimizer.learning_rate), factor=0.0)
        train = _training_step(run, freezing)
        train_mode(run, freezing)
        # The first step, which makes the optimizer's state. On a GPU the second one may be recorded, untimed too.
        saved = _saved_bytes(train, besides=[tensor for _, tensor in run.built.tensors()])
        held = _held_bytes(run)
        evaluate, step_seconds, evaluation_seconds = _evaluation_step(run), math.inf, math.inf
        for _ in range(ROUNDS):  # so that no short disturbance meets all calls of one kind
            train_mode(run, freezing)
            step_seconds = min(step_seconds, _least_seconds(train, device))
            run.backbone.module.eval()
            evaluation_seconds = min(evaluation_seconds, _least_seconds(evaluate, device))
        run.close()
    return PhaseCost(step_seconds, evaluation_seconds, held + saved)


def _training_step(run: Run, freezing: Freezing) -> Callable[[], object]:
    """Return what makes one step of the plain path: the first batch of the first epoch, from its decoded images on."""
    seed, part = run.experiment.seed, run.inputs.data.train
    rows = epoch_rows(part, seed=seed, epoch=1)[: run.experiment.training.batch_size]
    draws = augmentation_generator(seed=seed, epoch=1)
    feed, step = Feed(run, part), Step(run, freezing, after=0)
    return lambda: step(*feed.batch(rows, draws))


def _evaluation_step(run: Run) -> Callable[[], object]:
    """Return what evaluates one batch of the validation split on the plain path."""
    assert run.inputs.data.val is not None, "a study has a validation split"
    feed = Feed(run, run.inputs.data.val)
    rows = feed.split.samples[: _evaluation_batch(run.experiment)]

    def evaluate() -> None:
        with torch.inference_mode(), run.device.autocast():
            run.backbone.outputs(feed.batch(rows)[0])

    return evaluate


def _evaluation_batch(experiment: Experiment) -> int:
    return max(choose_device(experiment.training).evaluation_batch, experiment.training.batch_size)


def _epoch_seconds(experiment: Experiment, inputs: Inputs, phase: PhaseCost) -> float:
    assert inputs.data.val is not None, "a study has a validation split"
    steps = math.ceil(len(inputs.data.train) / experiment.training.batch_size)
    batches = math.ceil(len(inputs.data.val) / _evaluation_batch(experiment))
    return steps * phase.step_seconds + batches * phase.evaluation_seconds


def _least_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return how long a call takes: the fastest of some after a first one, for what else a machine does only adds."""
    work()
    taken: list[float] = []
    while sum(taken) < ROUND_SECONDS:
        taken.append(seconds_of(work, device))
    return min(taken)


def _saved_bytes(train: Callable[[], object], *, besides: Iterable[Tensor]) -> int:
    """Return the bytes of what one step keeps for its backward pass, `besides` some tensors: each storage once."""
    own = {tensor.untyped_storage()._cdata for tensor in besides}
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = storage.nbytes()
        return tensor.detach()  # the tensor itself would keep the graph alive that keeps it

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        train()
    return sum(saved.values())


def _held_bytes(run: Run) -> int:
    """Return the bytes of a model, its gradients and its optimizer's state, after a step."""
    weights = [tensor for _, tensor in run.built.tensors()]
    gradients = [p.grad for p in run.backbone.module.parameters() if p.grad is not None]
    state = [value for own in run.optimizer.state.values() for value in own.values() if isinstance(value, Tensor)]
    storages = (tensor.untyped_storage() for tensor in (*weights, *gradients, *state))
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())


def _stages(policy: Policy, ended: EpochEnded) -> tuple[str, ...]:
    """Return the stages of an epoch's phase, without those that AutoFreeze had stopped by then."""
    if policy.auto != "autofreeze":
        return policy.phases[ended.phase].stages
    trained = int(ended.metrics["stages_trained"])
    return tuple(stage for index, stage in enumerate(policy.stages) if trained >> index & 1)


def _key(experiment: Experiment, inputs: Inputs, policy: Policy, phase: PhasePlan) -> str:
    """Return the sha256 of all that decides what a phase costs, and of nothing else: no rates, seeds or weights."""
    optimizer, training, architecture = experiment.optimizer, experiment.training, inputs.architecture
    own = {
        "backbone": [experiment.backbone.name, architecture.identity if architecture else ""],
        "image_size": experiment.data.image_size,
        "augment": experiment.data.fresh_augment,
        "trains": [phase.stages, phase.only, policy.head.frozen, policy.lora and policy.lora.rank],
        "norm_stats": policy.norm_stats,
        "loss": [policy.l2_sp is not None, bool(training.label_smoothing), training.class_weights],
        "moments": policy.auto in ("snr", "autofreeze"),
        "optimizer": [optimizer.name, bool(optimizer.momentum), optimizer.clip_grad_norm is not None],
        "batch_size": training.batch_size,
        "device": choose_device(training).summary,
    }
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()
