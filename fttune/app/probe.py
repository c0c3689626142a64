"""What an experiment or a study will take: its inputs, a short measured run, and the plan that follows from it.

Nothing is tracked and no study is opened; only decoded images stay, as after any command that reads them.
"""

import resource
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from fttune.app import estimate
from fttune.app.depths import depths_of
from fttune.app.estimate import Depth, Once, Work
from fttune.app.search import require_searchable
from fttune.config import Experiment, Study, load_experiment
from fttune.config.depth import DEPTH, resolved_depth
from fttune.config.load import find_experiment
from fttune.config.policy import resolve
from fttune.config.workspace import Workspace
from fttune.data import ArrayCache, Part
from fttune.data.image_data import Pixels
from fttune.models.sizes import sizes
from fttune.report.plan import Disk, Memory, Plan, StageLine
from fttune.training import Inputs, check_recipe, choose_device, prepare
from fttune.training.probe import FrozenPass, Measured, measure, measure_pass

STORES_BYTES = 100_000_000  # by which a search's peak was above the probe's: MLflow and Optuna (docs/log.md)
RESTLESS = 1.5  # times as long as the quickest of equal updates
COSTLY = ("backbone.", "data.", "freeze.", "training.batch_size", "training.epochs", "training.precision")
Say = Callable[[str], None]


@dataclass(frozen=True)
class _Probed:
    """What was measured, by depth, with what it was measured on."""

    inputs: Inputs
    recipe: Experiment
    stages: tuple[str, ...]
    reached: tuple[int, ...]
    measured: Mapping[int, Measured]
    once: FrozenPass
    notes: list[str] = field(default_factory=list)


def probe(config: Experiment | Study, *, workspace: Workspace | None = None, say: Say = lambda _: None) -> Plan:
    """Prepare the inputs, measure a few updates at the ends and in the middle of the depths, and return the plan.

    `say` is told how it goes, and what of the data people should know.

    Raises:
        BadInput: data, weights or the recipe cannot be used, as `search` or `train` would say.
    """
    workspace = workspace or Workspace.at()
    experiment = config.experiment if isinstance(config, Study) else config
    first, recipe = None, experiment
    if experiment.backbone.weights.startswith("experiment:"):
        source = load_experiment(find_experiment(experiment.backbone.weights.partition(":")[2], workspace.root))
        first = probe(source, workspace=workspace, say=say)
        recipe = _with_random_weights(experiment, source)
    say(f"{config.name}: images and weights")
    inputs = prepare(recipe, workspace, evaluation=config.evaluation if isinstance(config, Study) else None)
    for text in inputs.data.notices:
        say(f"{config.name}: {text}")
    if isinstance(config, Study):
        config = config.model_copy(update={"experiment": recipe})
        require_searchable(config, inputs)
    else:
        check_recipe(recipe, inputs)
        config = recipe
    probed = _probed(config, recipe, inputs, workspace, say)
    return replace(_plan(config, probed, workspace), first=first)


def _with_random_weights(experiment: Experiment, source: Experiment) -> Experiment:
    """Return a recipe that costs the same, and has images of the same size as with the source's checkpoint."""
    own, of_source = experiment.data, source.data
    values: dict[str, object] = {"backbone.weights": "none"}
    if own.resize is None and of_source.resize is not None:
        values["data.resize"] = max(own.image_size, round(own.image_size * of_source.resize / of_source.image_size))
    return experiment.replace(values)


def _probed(config: Experiment | Study, recipe: Experiment, inputs: Inputs, workspace: Workspace, say: Say) -> _Probed:
    stages, notes = inputs.stages(recipe), []
    variants = _variants(config, stages)
    if isinstance(config, Study) and (costly := [n for n in config.space if n.startswith(COSTLY) and n != DEPTH]):
        notes.append(f"measured with the experiment's own {', '.join(costly)}, which the space changes")
    phases = len(resolve(recipe.freeze, stages, epochs=recipe.training.epochs).phases)
    if DEPTH not in _space(config) and phases > 1:
        notes.append(f"all {phases} phases count like the one that trains most: at most that")
    reached = tuple(sorted(variants))
    measured = {}
    for depth in reversed(estimate.chosen_depths(reached)):  # the largest memory first
        say(f"{config.name}: measuring {depth} unfrozen stages")
        measured[depth] = measure(variants[depth], inputs, folder=workspace.cache)
    shallow = reached[0]
    bounds = sorted({measured[d].boundary for d in measured} | {len(stages) - d for d in reached})
    once = measure_pass(variants[shallow], inputs, [b for b in bounds if b <= measured[shallow].boundary])
    return _Probed(inputs, recipe, stages, reached, measured, once, notes)


def _space(config: Experiment | Study) -> Mapping[str, object]:
    return config.space if isinstance(config, Study) else {}


def _variants(config: Experiment | Study, stages: Sequence[str]) -> dict[int, Experiment]:
    """Return a recipe for each depth that can occur."""
    if isinstance(config, Study) and DEPTH in config.space:
        recipe, numbers = config.experiment, depths_of(config, len(stages))
        found = {n: recipe.replace({DEPTH: n}) for n in numbers if recipe.refusal({DEPTH: n}) is None}
        if found:
            return found
    recipe = config.experiment if isinstance(config, Study) else config
    phases = resolve(recipe.freeze, stages, epochs=recipe.training.epochs).phases
    depth = max(len(stages) - stages.index(phase.stages[0]) if phase.stages else 0 for phase in phases)
    if len(phases) > 1 and recipe.refusal({DEPTH: depth}) is None:
        recipe = recipe.replace({DEPTH: depth})
    return {depth: recipe}


def _plan(config: Experiment | Study, probed: _Probed, workspace: Workspace) -> Plan:
    data, training = probed.inputs.data, probed.recipe.training
    work = _work(config, probed)
    depths, disk = _depths(probed), _disk(probed, work, workspace)
    once = Once(probed.once.seconds, max(m.checkpoint_seconds for m in probed.measured.values()))
    fits = disk.decoded + disk.activations <= disk.room
    notes = list(probed.notes)
    if not fits:
        notes.append("activations of all depths do not fit into the cache: the search keeps the most useful ones")
    if isinstance(config, Study) and config.pruner.type != "none":
        notes.append(f"times are without pruning, which makes them shorter (pruner: {config.pruner.type})")
    if (unrest := max(one.unrest for one in probed.measured.values())) > RESTLESS:
        notes.append(
            f"the machine was busy: equal updates took up to {unrest:.1f} times as long as the quickest, "
            "which counts here; expect it to take longer"
        )
    shared = estimate.total_seconds(depths, work, once, shared=True)
    return Plan(
        name=config.name,
        kind="study" if isinstance(config, Study) else "experiment",
        device=choose_device(training).summary,
        trials=work.trials,
        epochs=work.epochs,
        steps=work.steps,
        images={n: _per_class(p, data.classes) for n, p in (("train", data.train), ("val", data.val)) if p},
        test=data.n_test,
        stages=_stage_lines(probed, depths, work),
        pass_seconds=work.passed * once.image_pass,
        seconds=shared if fits else None,
        plain_seconds=estimate.total_seconds(depths, work, once, shared=False),
        memory=_memory(probed),
        disk=disk,
        notes=tuple(notes),
    )


def _work(config: Experiment | Study, probed: _Probed) -> Work:
    data, recipe = probed.inputs.data, probed.recipe
    evaluated = sum(map(len, _evaluated(probed.inputs)))
    once = [*_evaluated(probed.inputs), *([data.train] if recipe.data.fresh_augment == "none" else [])]
    fixed = _baseline_depths(config, probed) if isinstance(config, Study) else ()
    return Work(
        train=len(data.train),
        evaluated=evaluated,
        passed=sum(len(images) for images in _arrays(once)),
        batch_size=recipe.training.batch_size,
        epochs=recipe.training.epochs,
        trials=config.total_trials if isinstance(config, Study) else 1,
        folds=config.evaluation.count if isinstance(config, Study) and config.evaluation else 1,
        fixed=fixed,
        depths=probed.reached,
    )


def _evaluated(inputs: Inputs) -> list[Part]:
    data = inputs.data
    return [] if data.val is None else [data.val, *data.also.values()]


def _arrays(parts: Sequence[Part]) -> list[Pixels]:
    """Return the images of some parts, each array once: folds share theirs."""
    return list({part.key: part.images for part in parts}.values())


def _baseline_depths(study: Study, probed: _Probed) -> tuple[int, ...]:
    if DEPTH not in study.space:
        return ()
    found = (resolved_depth(b[DEPTH], len(probed.stages)) for b in study.baselines if DEPTH in b)
    return tuple(depth for depth in found if depth in probed.reached)


def _depths(probed: _Probed) -> tuple[Depth, ...]:
    measured = []
    for number, one in probed.measured.items():
        shared = one.shared or one.plain
        pace = (shared.step, shared.evaluation, one.plain.step, one.plain.evaluation)
        measured.append(Depth(number, *pace, epoch=one.epoch_seconds, how="measured"))
    suffix = estimate.suffix_seconds(probed.once.stage_seconds, len(probed.stages))
    return estimate.all_depths(measured, probed.reached, suffix)


def _stage_lines(probed: _Probed, depths: Sequence[Depth], work: Work) -> tuple[StageLine, ...]:
    by_depth = {depth.unfrozen_stages: depth for depth in depths}
    architecture = probed.inputs.architecture
    assert architecture is not None, "`prepare` names it"
    own, _ = sizes(architecture)
    head = next(iter(probed.measured.values())).parameters - sum(own.values())
    names = [("head", head), *((name, own[name]) for name in reversed(probed.stages))]
    lines = []
    for number, (stage, parameters) in enumerate(names):
        if (depth := by_depth.get(number)) is None:
            lines.append(StageLine(number, stage, parameters, reached=False))
        else:
            shared, plain = (estimate.epoch_seconds(depth, work, shared=shared) for shared in (True, False))
            lines.append(StageLine(number, stage, parameters, True, shared, plain, depth.how))
    return tuple(lines)


def _memory(probed: _Probed) -> Memory:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    device = choose_device(probed.recipe.training).device
    on_device = None
    if device.type == "cuda":
        parts = [probed.inputs.data.train, *_evaluated(probed.inputs)]
        on_device = torch.cuda.max_memory_reserved(device) + sum(images.nbytes for images in _arrays(parts))
    return Memory(peak, peak + STORES_BYTES, on_device)


def _disk(probed: _Probed, work: Work, workspace: Workspace) -> Disk:
    parts = [probed.inputs.data.train, *_evaluated(probed.inputs)]
    checkpoint = max(one.checkpoint_bytes for one in probed.measured.values())
    workspace.arrays.mkdir(parents=True, exist_ok=True)
    return Disk(
        decoded=sum(images.nbytes for images in _arrays(parts)),
        activations=work.passed * sum(probed.once.row_bytes.values()),
        checkpoint=checkpoint,
        checkpoints=checkpoint * work.trials,
        free=shutil.disk_usage(workspace.arrays).free,
        room=ArrayCache(workspace.arrays, workspace.cache_bytes).room,
    )


def _per_class(part: Part, classes: Sequence[str]) -> dict[str, int]:
    return dict(zip(classes, part.own_labels.bincount(minlength=len(classes)).tolist(), strict=True))
