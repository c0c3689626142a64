"""The disk before a search or a training begins: leftovers of killed processes go, and a lack of room is told."""

from fttune.app.session import Session
from fttune.files import free_bytes, remove_leftovers
from fttune.models.sizes import sizes
from fttune.training import Inputs

TENSOR_BYTES = 4  # of float32; what of a state is no parameter is small beside them


def prepare_disk(session: Session, owner: str, inputs: Inputs, *, checkpoints: int) -> None:
    """Delete what killed processes left half written, and tell when so many checkpoints will not fit.

    Images are decoded by now. Activations count for nothing: they take what room there is, or memory.
    """
    mlruns = session.workspace.mlruns
    remove_leftovers(mlruns, apart_from=session.workspace.artifacts)
    assert inputs.architecture is not None, "`prepare` names it"
    each = TENSOR_BYTES * sizes(inputs.architecture)[1]
    if (needed := checkpoints * each) > (free := free_bytes(mlruns)):
        session.notice(
            owner,
            f"{mlruns}: {checkpoints} checkpoints of about {each / 1e6:.3g} MB need {needed / 1e9:.3g} GB, but "
            f"{free / 1e9:.3g} GB are free; free some of it, or this stops when the disk is full, to be gone on with",
        )
