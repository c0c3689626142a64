"""When a study's trials stop early: the pruners, with their fields."""

from typing import Annotated, Literal

from pydantic import Field

from fttune.config.sections import Section


class MedianPruner(Section):
    """Stop a trial whose best value so far is worse than the median of the others at that epoch."""

    type: Literal["median"] = "median"
    startup_trials: int = Field(default=5, ge=0)
    warmup_epochs: int = Field(default=0, ge=0)


class SuccessiveHalvingPruner(Section):
    """Successive halving in blocks (Jamieson & Talwalkar 2016, arXiv 1502.07943); rungs count from the last phase."""

    type: Literal["successive_halving"]
    min_epochs: int = Field(default=1, ge=1)
    reduction_factor: int = Field(default=4, ge=2)


class HyperbandPruner(Section):
    """Hyperband (Li et al., JMLR 2018, arXiv 1603.06560) over brackets of successive halving."""

    type: Literal["hyperband"]
    min_epochs: int = Field(default=1, ge=1)
    reduction_factor: int = Field(default=3, ge=2)


class WilcoxonPruner(Section):
    """Stop a trial whose folds so far are worse than the best trial's, by Wilcoxon's signed-rank test on the pairs."""

    type: Literal["wilcoxon"]
    p_threshold: float = Field(default=0.1, gt=0, lt=1)
    startup_folds: int = Field(default=2, ge=0)


class NoPruner(Section):
    """Every trial runs to its last epoch."""

    type: Literal["none"] = "none"


Pruner = Annotated[
    MedianPruner | SuccessiveHalvingPruner | HyperbandPruner | WilcoxonPruner | NoPruner, Field(discriminator="type")
]
BY_EPOCHS = ("successive_halving", "hyperband")
