"""Everything one run of a recipe trains with, put together. Knows no epochs."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from fttune.config import Experiment
from fttune.config.freeze import Lora
from fttune.config.policy import PhasePlan, Policy, resolve
from fttune.config.sections import Optimizer
from fttune.data import Part as Split
from fttune.freezing import (
    Parts,
    apply_phase,
    insert_lora,
    named_parameters,
    named_tensors,
    trained_names,
)
from fttune.models import Backbone, build_backbone
from fttune.training.activations import Prefix
from fttune.training.device import Device, choose_device
from fttune.training.inputs import Inputs
from fttune.training.workbench import Built


@dataclass(frozen=True)
class Run:
    """A recipe, its images, and its model with policy, optimizer and loss; `key` stands for the model as it begins."""

    experiment: Experiment
    inputs: Inputs
    device: Device
    key: Hashable
    built: Built
    parts: Parts
    policy: Policy
    optimizer: torch.optim.Optimizer
    criterion: nn.CrossEntropyLoss

    @property
    def backbone(self) -> Backbone:
        """The model that trains."""
        return self.built.backbone

    @property
    def head(self) -> nn.Module:
        """The last layer."""
        return self.backbone.module.get_submodule(self.backbone.cut.head_path)

    @property
    def start(self) -> Mapping[str, Tensor]:
        """All tensors of the model as they were at first, by name."""
        return self.built.start

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch; the last one may be smaller."""
        return math.ceil(len(self.inputs.data.train) / self.experiment.training.batch_size)

    @cached_property
    def trained(self) -> frozenset[str]:
        """The names of the parameters that train in some phase."""
        return frozenset[str]().union(*(trained_names(self.parts, self.policy, p) for p in self.policy.phases))

    @cached_property
    def changing(self) -> frozenset[str]:
        """The names of all tensors that a run may change: those of every part in which something trains.

        With `norm_stats: updated` running statistics move everywhere.
        """
        own = {part: {name for name, _ in named_tensors(members)} for part, members in self.parts.items()}
        everywhere = self.policy.norm_stats == "updated"
        return frozenset[str]().union(*(names for names in own.values() if everywhere or names & self.trained))

    @cached_property
    def runs_by_stages(self) -> bool:
        """Whether the stages, one by one, compute what the model does; of own models and timm's that is tried out."""
        if not self.backbone.runnable or ":" not in self.backbone.name:
            return self.backbone.runnable
        self.backbone.module.eval()
        return self.backbone.runs_in_order(self._images(self.inputs.data.train, torch.arange(2)))

    @cached_property
    def prefix(self) -> Prefix:
        """The model as what may run once, for all seeds where weights are loaded: the seed draws only the head then."""
        weights, experiment = self.inputs.weights, self.experiment
        drawn = experiment.seed if weights.state is None else None
        key = (experiment.backbone.name, weights.identity, weights.preprocessing, drawn, self.device)
        return Prefix(key, self.backbone, self.device.device, self._images)

    def _images(self, split: Split, rows: Tensor) -> Tensor:
        """Return rows of a split as the model takes them, without augmentation."""
        return self.to_model(self.inputs.batch(split, rows, self.device.device)[0])

    def to_model(self, images: Tensor) -> Tensor:
        """Normalise uint8 images; channels-last in memory on CUDA, where it is faster, and in plain order elsewhere."""
        images = self.inputs.normalise(images, self.device.dtype)
        return images if self.device.device.type == "cuda" else images.contiguous()

    def pause(self, phase: PhasePlan) -> "Paused":
        """Leave the model to other runs, and return what this one goes on with."""
        paused = Paused(phase, {n: t.detach().clone() for n, t in self.built.tensors() if n in self.changing})
        self.close()
        return paused

    def go_on(self, paused: "Paused") -> None:
        """Take the model back, as this run had left it. No other run may be under way."""
        self.inputs.workbench.shelf.take_back(self.built)
        self.built.restore(self.built.start)
        self.built.set(paused.tensors)
        apply_phase(self.parts, self.policy, paused.phase)

    def close(self) -> None:
        """Leave the model to the next run; this one must not go on."""
        if self.policy.lora is None:
            self.inputs.workbench.shelf.put(self.key, self.built, changed=self.changing)


@dataclass(frozen=True)
class Paused:
    """What a paused run goes on with, beside its optimizer: the phase, and the tensors that it may have changed."""

    phase: PhasePlan
    tensors: Mapping[str, Tensor]


def prepare_run(experiment: Experiment, inputs: Inputs) -> Run:
    """Return a recipe's run on its device; the first phase is in force."""
    device = choose_device(experiment.training)
    key = (
        experiment.backbone.name,
        inputs.weights.identity,
        inputs.weights.preprocessing,
        inputs.data.classes,
        experiment.freeze.head.init,
        experiment.seed,
        device,
    )
    policy = resolve(experiment.freeze, inputs.stages(experiment), epochs=experiment.training.epochs)
    if policy.lora is None:
        built = inputs.workbench.shelf.take(key, lambda: _build(experiment, inputs, device))
    else:  # its adapters stay, so nobody else may have this model
        built = _adapted(_build(experiment, inputs, device), policy, policy.lora, seed=experiment.seed)
    parts = built.backbone.parts()
    optimizer = build_optimizer(parts, experiment.optimizer, device)
    weight = None
    if experiment.training.class_weights == "balanced":
        weight = balanced_weights(inputs.data.train.own_labels, len(inputs.data.classes)).to(
            device.device, device.dtype
        )
    criterion = nn.CrossEntropyLoss(weight=weight, label_smoothing=experiment.training.label_smoothing)
    apply_phase(parts, policy, policy.phases[0])
    return Run(experiment, inputs, device, key, built, parts, policy, optimizer, criterion)


def _adapted(backbone: Backbone, policy: Policy, lora: Lora, *, seed: int) -> Built:
    """Return a backbone with adapters in all stages that ever train."""
    parts, stages = backbone.parts(), {stage for phase in policy.phases for stage in phase.stages}
    members = [member for stage in policy.stages if stage in stages for member in parts[stage].values()]
    insert_lora(members, lora, seed=seed)
    return Built.of(backbone)


def _build(experiment: Experiment, inputs: Inputs, device: Device) -> Backbone:
    backbone = build_backbone(
        inputs.architecture or experiment.backbone.name,
        inputs.weights,
        classes=inputs.data.classes,
        seed=experiment.seed,
        head_init=experiment.freeze.head.init,
    )
    backbone.module.to(device.device, device.dtype)
    if device.device.type == "cuda":
        backbone.module.to(memory_format=torch.channels_last)
    return backbone


def build_optimizer(parts: Parts, config: Optimizer, device: Device) -> torch.optim.Optimizer:
    """Return the optimizer with one group per part, named after it, frozen ones included.

    A frozen parameter has no gradient, so torch's optimizers leave it alone, weight decay and momentum too. Where steps
    are replayed, the lr of a group is a tensor on the device, which a graph reads anew each time.
    """
    fused, lr = device.device.type in ("cpu", "cuda"), config.learning_rate
    own = {name: [p for _, p in named_parameters(part)] for name, part in parts.items()}
    groups: list[dict[str, Any]] = [
        {"params": params, "name": name, "lr": torch.tensor(lr, device=device.device) if device.replays else lr}
        for name, params in own.items()
        if params
    ]
    if config.name == "adamw":
        return torch.optim.AdamW(
            groups, lr=lr, weight_decay=config.weight_decay, fused=fused, capturable=device.replays
        )
    return torch.optim.SGD(
        groups,
        lr=lr,
        momentum=config.momentum or 0.0,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        fused=fused,
    )


def optimizer_tensors(run: Run) -> dict[str, Tensor]:
    """Return the state of a run's optimizer: `<key>:<parameter>` to tensor."""
    names: dict[Tensor, str] = {
        parameter: name for part in run.parts.values() for name, parameter in named_parameters(part)
    }
    states = run.optimizer.state.items()
    return {f"{key}:{names[p]}": value for p, own in states for key, value in own.items() if value is not None}


def restore_optimizer(run: Run, tensors: Mapping[str, Tensor]) -> None:
    """Give a run's optimizer the state that `optimizer_tensors` returned of another one of the same recipe."""
    parameters = {name: p for part in run.parts.values() for name, p in named_parameters(part)}
    for full, value in tensors.items():
        key, name = full.split(":", 1)
        parameter = parameters[name]
        kept = torch.empty_like(parameter, dtype=value.dtype) if value.shape == parameter.shape else value.clone()
        run.optimizer.state[parameter][key] = kept.copy_(value).to(parameter.device)


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """Return a weight per class, inverse to its count and 1 on average over samples: n / (classes * count)."""
    counts = torch.bincount(labels, minlength=classes)
    return len(labels) / (classes * counts.float())
