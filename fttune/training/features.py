"""What the stages of a recipe's backbone make of some of its images, in two numbers: how near two data sets are."""

from dataclasses import dataclass

import torch

from fttune.config import Experiment
from fttune.errors import OutOfMemory
from fttune.training.inputs import Inputs
from fttune.training.run import Run, prepare_run

SAMPLE = 64  # images, evenly over the training split


@dataclass(frozen=True)
class Features:
    """Mean and standard deviation of all features that the last stage gives for some training images."""

    mean: float
    scale: float


def features_of(experiment: Experiment, inputs: Inputs) -> Features | None:
    """Return the features before any training, None where the stages cannot be run, or memory runs out."""
    run = prepare_run(experiment, inputs)
    try:
        if not run.runs_by_stages:
            return None
        run.backbone.module.eval()
        return inputs.workbench.evaluation.fit(SAMPLE, lambda at_once: _measured(run, at_once), run.backbone.module)
    except OutOfMemory:
        return None
    finally:
        run.close()


def _measured(run: Run, at_once: int) -> Features:
    part = run.inputs.data.train
    places = torch.linspace(0, len(part) - 1, min(SAMPLE, len(part))).round().long()
    found = []
    with torch.no_grad():
        for rows in torch.split(part.samples[places], at_once):
            x = run.prefix.images(part, rows)
            for stage in run.backbone.cut.stages:
                x = run.backbone.run_stage(stage.name, x)
            found.append(x.double().flatten().cpu())
    features = torch.cat(found)
    return Features(float(features.mean()), float(features.std(correction=0)))
