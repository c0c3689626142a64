"""Whether a study's data have changed since its newest generation was begun, and how the next one begins."""

from fttune import searching
from fttune.app.session import Display, open_session
from fttune.app.train import prepare_in
from fttune.config import Study
from fttune.config.fingerprint import DATA
from fttune.config.workspace import Workspace
from fttune.data import DataChange


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
        storage = searching.open_storage(study.storage or workspace.optuna_uri, locks=workspace.locks)
        if (stored := searching.newest_generation(study.name, storage)) is None:
            return None
        data = prepare_in(session, study.experiment, evaluation=study.evaluation).data
        if stored.user_attrs[searching.IDENTITY][f"experiment.{DATA}"] == data.fingerprint:
            return None
        return searching.changed_data(stored, data.manifest)
