"""Whether a study's data have changed since its newest generation was begun, and what a generation begins with."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fttune import searching
from fttune.app.session import Display, Session, open_session
from fttune.app.studies import newest
from fttune.app.train import prepare_in
from fttune.config import Study
from fttune.config.fingerprint import DATA, Identity, study_identity
from fttune.config.warm_start import AUTO, NONE, WarmStart
from fttune.config.workspace import Workspace
from fttune.data import DataChange
from fttune.training import Inputs, features_of
from fttune.training.features import Features

if TYPE_CHECKING:
    import optuna
    from optuna.storages import RDBStorage


def data_change(
    study: Study, *, workspace: Workspace | None = None, display: Display | None = None
) -> DataChange | None:
    """Return what changed in a study's images since its newest generation was begun; None where nothing did.

    Nothing has changed either in a study that was never searched here. The fingerprint decides, as `search` does.

    Raises:
        BadInput: the data or weights cannot be used.
    """
    workspace = workspace or Workspace.at()
    with open_session(workspace, tracking_uri=study.tracking.uri, display=display) as session:
        if (stored := newest(study, workspace)) is None:
            return None
        data = prepare_in(session, study.experiment, evaluation=study.evaluation).data
        if stored.user_attrs[searching.IDENTITY][f"experiment.{DATA}"] == data.fingerprint:
            return None
        return searching.changed_data(stored, data.manifest)


def next_generation(study: Study, *, workspace: Workspace | None = None) -> Study:
    """Return a study as its next generation is to begin, by `search(..., new=True)`: warm-started from its last one.

    The last generation comes before the sources that the study names itself. The study is as it was where there is no
    last generation to learn from: none was begun, it has no complete trial, its backbone or task was of another kind,
    or the study runs a grid.
    """
    last = newest(study, workspace or Workspace.at())
    if last is None or not searching.ranked(last) or study.sampler.type == "grid":
        return study
    if searching.unlike(last, study_identity(study, data="", weights="")) is not None:
        return study
    named = study.warm_start.sources
    others = () if named in (AUTO, NONE) else tuple(name for name in named if name not in (study.name, last.study_name))
    return study.model_copy(update={"warm_start": WarmStart.model_validate({"from": [study.name, *others]})})


def require_sources(study: Study, workspace: Workspace, *, new: bool) -> None:
    """Refuse what a study that is to begin names as its warm start, before its images are looked at.

    Raises:
        BadInput: it names an earlier study that is not there, or of no use.
    """
    names = study.warm_start.sources
    if names not in (AUTO, NONE) and (new or newest(study, workspace) is None):
        storage = searching.open_storage(study.storage or workspace.optuna_uri, locks=workspace.locks)
        searching.require_sources(names, storage, study_identity(study, data="", weights=""))


def beginning_of(
    study: Study, storage: "RDBStorage", identity: Identity, *, inputs: Inputs, session: Session
) -> Mapping[str, str]:
    """Return what a study that is begun now keeps from its beginning; people are told what it takes from where.

    Raises:
        BadInput: it names an earlier study that is not there, or of no use.
    """
    warmed = study.warm_start.sources != NONE
    descriptors = _descriptors(study, inputs, features_of(study.experiment, inputs) if warmed else None)
    warm = searching.warm_start(study, storage, identity, descriptors)
    for text in warm.notices if warm else ():
        session.notice(study.name, text)
    return searching.beginning(descriptors, warm)


def describe(study: Study, stored: "optuna.Study", inputs: Inputs) -> None:
    """Keep with a study whose trials have run, so its backbone does, what later ones compare their images by."""
    known = searching.described(stored)
    if known is None or known.features is None:
        searching.describe(stored, _descriptors(study, inputs, features_of(study.experiment, inputs)))


def _descriptors(study: Study, inputs: Inputs, features: Features | None) -> searching.Descriptors:
    recipe, data = study.experiment, inputs.data
    drawn = f", seed {recipe.seed}" if inputs.weights.state is None else ""
    extractor = f"{recipe.backbone.name}, {inputs.weights.identity}{drawn}, {recipe.data.image_size} pixels"
    found = (features.mean, features.scale) if features else None
    return searching.Descriptors(len(data.classes), len(data.train) / len(data.classes), extractor, found)
