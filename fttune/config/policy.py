"""What a `freeze` section means for a backbone's stages: a policy without alternatives, presets filled in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from fttune.config import known
from fttune.config.depth import resolved_depth
from fttune.config.freeze import Freeze, Head, Lora, Phase, Plateau, Selection
from fttune.config.presets import PRESETS, Room
from fttune.errors import PolicyRefused

EVERYTHING = ("all", "")


@dataclass(frozen=True)
class PhasePlan:
    """A part of a run: the `stages` that may train, from the input to the output, and their rates.

    `only` narrows what trains in them: ("all", ""), ("params", "norm" | "bias") or ("regex", pattern). It lasts
    `epochs`, or until `plateau`; with neither, to the end of the run. `lr` is None where the optimizer's counts.
    """

    stages: tuple[str, ...]
    only: tuple[str, str] = EVERYTHING
    epochs: int | None = None
    plateau: Plateau | None = None
    lr: float | None = None
    lr_mult: float = 1.0
    layer_decay: float = 1.0
    stage_lr: Mapping[str, float] = field(default_factory=dict)

    def base(self, lr: float) -> float:
        """Return the phase's lr; `lr` is the optimizer's."""
        return self.lr if self.lr is not None else lr * self.lr_mult


@dataclass(frozen=True)
class Policy:
    """Everything that a `freeze` section decides, for the `stages` of one backbone and one length of run."""

    stages: tuple[str, ...]
    phases: tuple[PhasePlan, ...]
    auto: str | None
    norm_stats: str
    head: Head
    l2_sp: float | None
    lora: Lora | None

    def rates(self, phase: PhasePlan, lr: float) -> dict[str, float]:
        """Return the learning rate of each stage and the head in a phase; `lr` is the optimizer's.

        The i-th stage from the output has `layer_decay` ** i of the phase's (ELECTRA, Clark et al., ICLR 2020,
        arXiv 2003.10555), the head `head.lr_mult` of it; `stage_lr` is absolute.
        """
        base = phase.base(lr)
        depth = {stage: len(self.stages) - i for i, stage in enumerate(self.stages)}
        rates = {stage: phase.stage_lr.get(stage, base * phase.layer_decay ** depth[stage]) for stage in self.stages}
        return {**rates, "head": base * self.head.lr_mult}


def resolve(freeze: Freeze, stages: Sequence[str], *, epochs: int) -> Policy:
    """Return the policy for a backbone's `stages`, named from the input to the output.

    Raises:
        PolicyRefused: a stage that is not there, lengths that do not add up, or a contradiction.
    """
    freeze = _filled_in(freeze, Room(len(stages), epochs, freeze.k or 0))
    if freeze.phases is not None:
        _check_lengths(freeze.phases, epochs)
        plans = [_plan(phase, freeze, stages, f"freeze.phases[{i}].") for i, phase in enumerate(freeze.phases)]
    else:
        plans = [_plan(freeze, freeze, stages)]
    lora = freeze.adapter.lora if freeze.adapter else None
    l2_sp = freeze.penalty.l2_sp if freeze.penalty else None
    policy = Policy(tuple(stages), tuple(plans), freeze.auto, freeze.norm_stats, freeze.head, l2_sp, lora)
    _refuse_contradictions(policy)
    for name in sorted({name for plan in plans for name in plan.stage_lr} - set(stages)):
        raise PolicyRefused(f"freeze.stage_lr.{name}", _no_stage(name, stages))
    return policy


def _filled_in(freeze: Freeze, room: Room) -> Freeze:
    """Return the section with its preset written out."""
    if freeze.preset is None:
        return freeze
    given = {name: getattr(freeze, name) for name in freeze.model_fields_set - {"preset", "k"}}
    own = {name: value for name, value in given.items() if value is not None}
    filled = PRESETS[freeze.preset](room)
    if twice := sorted(own.keys() & filled.keys()):
        rule = f"is filled in by the preset {freeze.preset}; leave it out, or write the policy out without a preset"
        raise PolicyRefused(f"freeze.{twice[0]}", rule)
    if freeze.preset == "lp_ft" and room.epochs < 2:
        raise PolicyRefused("freeze.preset", f"lp_ft needs at least 2 epochs, got training.epochs {room.epochs}")
    if freeze.preset == "surgical" and room.k >= room.stages:
        rule = f"must be 0..{room.stages - 1} (the number of a stage from the input), got {room.k}"
        raise PolicyRefused("freeze.k", rule)
    if freeze.k is not None and freeze.k > room.stages:
        raise PolicyRefused("freeze.k", f"must be 0..{room.stages}, the number of stages, got {freeze.k}")
    return Freeze.model_validate({**own, **filled})


def _plan(of: Freeze | Phase, freeze: Freeze, stages: Sequence[str], prefix: str = "freeze.") -> PhasePlan:
    """Return what trains, and at which rates: a phase's own, or else the section's."""
    chosen, only = _chosen(of, stages, prefix)
    decay, stage_lr = of.layer_decay or freeze.layer_decay or 1.0, of.stage_lr or freeze.stage_lr or {}
    plan = PhasePlan(chosen, only, layer_decay=decay, stage_lr=stage_lr)
    if isinstance(of, Freeze):
        return plan
    return replace(plan, epochs=of.epochs, plateau=of.until_plateau, lr=of.lr, lr_mult=of.lr_mult or 1.0)


def _chosen(of: Freeze | Phase, stages: Sequence[str], prefix: str) -> tuple[tuple[str, ...], tuple[str, str]]:
    """Return the stages in which something may train, and what in them; `auto` may train everything."""
    if isinstance(of, Freeze) and of.auto is not None:
        return tuple(stages), EVERYTHING
    if of.unfrozen_stages is not None:
        depth = resolved_depth(of.unfrozen_stages, len(stages))
        return _last(depth, stages, f"{prefix}unfrozen_stages"), EVERYTHING
    if not isinstance(of.train, Selection):
        return tuple(stages) if of.train == "all" else (), EVERYTHING
    if of.train.params is not None:
        return tuple(stages), ("params", of.train.params)
    if of.train.regex is not None:
        return tuple(stages), ("regex", of.train.regex)
    return _selected(of.train, stages, f"{prefix}train"), EVERYTHING


def _selected(train: Selection, stages: Sequence[str], field_: str) -> tuple[str, ...]:
    if train.window is not None:
        first, last = train.window
        if last >= len(stages):
            rule = f"must lie within 0..{len(stages) - 1} ({_listed(stages)}), got {list(train.window)}"
            raise PolicyRefused(f"{field_}.window", rule)
        return tuple(stages[first : last + 1])
    if train.stages is not None:
        for name in train.stages:
            if name not in stages:
                raise PolicyRefused(f"{field_}.stages", _no_stage(name, stages))
        return tuple(name for name in stages if name in train.stages)
    if train.last is not None:
        return _last(train.last, stages, f"{field_}.last")
    assert train.first is not None, "a selection has exactly one form"
    if train.first > len(stages):
        raise PolicyRefused(f"{field_}.first", _too_many(train.first, stages))
    return tuple(stages[: train.first])


def _last(depth: int, stages: Sequence[str], field_: str) -> tuple[str, ...]:
    if depth > len(stages):
        raise PolicyRefused(field_, _too_many(depth, stages))
    return tuple(stages[len(stages) - depth :])


def _check_lengths(phases: Sequence[Phase], epochs: int) -> None:
    """The epochs of the phases add up to those of the run; each open phase has room for one at least."""
    fixed = sum(phase.epochs or 0 for phase in phases)
    open_phases = sum(phase.until_plateau is not None for phase in phases)
    if open_phases == 0 and fixed != epochs:
        raise PolicyRefused("freeze.phases", f"their epochs must add up to training.epochs ({epochs}), got {fixed}")
    if open_phases and fixed + open_phases > epochs:
        least = f"{fixed} epochs and {open_phases} until_plateau of at least one each"
        raise PolicyRefused("freeze.phases", f"must fit into training.epochs ({epochs}), got {least}")


def _refuse_contradictions(policy: Policy) -> None:
    if policy.head.frozen:
        for i, plan in enumerate(policy.phases):
            if not plan.stages:
                where = f" in phase {i}" if len(policy.phases) > 1 else ""
                rule = f"must be false where no stage trains{where}: nothing would train"
                raise PolicyRefused("freeze.head.frozen", rule)
    if policy.lora is None:
        return
    if policy.auto is not None:
        rule = f"cannot stand beside auto: {policy.auto}, which watches the stages' own weights"
        raise PolicyRefused("freeze.adapter", rule)
    if policy.l2_sp is not None:
        raise PolicyRefused("freeze.adapter", "cannot stand beside penalty: the stages' own weights do not move")
    if any(plan.only != EVERYTHING for plan in policy.phases):
        raise PolicyRefused("freeze.adapter", "needs whole stages; params and regex choose single weights")


def _too_many(count: int, stages: Sequence[str]) -> str:
    return f"must be 0..{len(stages)} (the stages are {_listed(stages)}), got {count}"


def _no_stage(name: str, stages: Sequence[str]) -> str:
    return f"there is no stage {known.shown(name)}, only {_listed(stages)}{known.did_you_mean(name, stages)}"


def _listed(stages: Sequence[str]) -> str:
    return ", ".join(stages) if len(stages) <= 12 else f"{', '.join(stages[:6])}, ..., {', '.join(stages[-3:])}"
