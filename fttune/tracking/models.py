"""Checkpoints as MLflow models (torch's pt2 format), logged so that a second attempt goes on where the first one ended.

MLflow's own `log_model` makes a new model each time, and sets the tracking URI and the active run of the whole process.
"""

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Run
from mlflow.tracking import MlflowClient

from fttune.tracking.artifacts import Refused
from fttune.training.events import ModelSaved

if TYPE_CHECKING:
    from mlflow.models import Model

NAME = "model"
CHECKPOINT = "fttune.checkpoint"


class Models:
    """Logs models of runs; what was exported is kept until MLflow has all of it, for that takes seconds."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client
        self._exported: dict[str, TemporaryDirectory[str]] = {}

    def log(self, run: Run, event: ModelSaved) -> str:
        """Log a checkpoint as a model of a run, unless it is there; return the model's id.

        Raises:
            Refused: the checkpoint is gone, or cannot be exported.
        """
        try:
            digest = hashlib.sha256(event.checkpoint.read_bytes()).hexdigest()
        except FileNotFoundError as error:
            raise Refused(f"{event.checkpoint} is gone, so its model cannot be logged") from error
        model = self._find(run, digest) or self._create(run, digest)
        if model.status != LoggedModelStatus.READY:
            self._store(run, model, event)
        self.drop(model.model_id)
        return str(model.model_id)

    def drop(self, *exported: str) -> None:
        """Forget what was exported of models; default: of all."""
        for model_id in exported or tuple(self._exported):
            if model_id in self._exported:
                self._exported.pop(model_id).cleanup()

    def _store(self, run: Run, model: LoggedModel, event: ModelSaved) -> None:
        self._client.log_model_artifacts(model.model_id, self._export(run, model, event))
        present = self._client.get_run(run.info.run_id).outputs
        if model.model_id not in {one.model_id for one in (present.model_outputs if present else ())}:
            self._client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step=0)])
        self._client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)

    def _find(self, run: Run, digest: str) -> LoggedModel | None:
        wanted = f"source_run_id = '{run.info.run_id}' AND tags.`{CHECKPOINT}` = '{digest}'"
        return next(iter(self._client.search_logged_models([run.info.experiment_id], wanted)), None)

    def _create(self, run: Run, digest: str) -> LoggedModel:
        params = self._client.get_run(run.info.run_id).data.params
        return self._client.create_logged_model(
            run.info.experiment_id, NAME, source_run_id=run.info.run_id, params=params, tags={CHECKPOINT: digest}
        )

    def _export(self, run: Run, model: LoggedModel, event: ModelSaved) -> str:
        from mlflow.models import Model

        if model.model_id not in self._exported:
            about = Model(
                artifact_path=model.artifact_location,
                run_id=run.info.run_id,
                model_uuid=model.model_id,
                model_id=model.model_id,
            )
            folder = TemporaryDirectory(prefix="fttune-model-")
            try:
                _save(Path(folder.name) / NAME, event, about)
            except OSError:  # a full disk
                folder.cleanup()
                raise
            except Exception as error:
                folder.cleanup()
                raise Refused(f"{event.checkpoint}: cannot be exported as a model: {error}") from error
            self._exported[model.model_id] = folder
        return f"{self._exported[model.model_id].name}/{NAME}"


def save_model(folder: Path, checkpoint: Path, *, image_size: int, plugins: Sequence[Path] = ()) -> None:
    """Write a checkpoint as an MLflow model, with its signature, into a new folder."""
    _save(folder, ModelSaved(checkpoint, image_size, tuple(plugins)))


def _save(folder: Path, event: ModelSaved, about: "Model | None" = None) -> None:
    import mlflow.pytorch
    import torch

    from fttune.models import load_model

    more: dict[str, Any] = {} if about is None else {"mlflow_model": about}
    with warnings.catch_warnings(action="ignore"):
        mlflow.pytorch.save_model(
            load_model(event.checkpoint, plugins=event.plugins),
            path=str(folder),
            # Two images: a batch of one would fix the exported batch dimension to one.
            input_example=torch.zeros(2, 3, event.image_size, event.image_size).numpy(),
            pip_requirements=[f"torch=={torch.__version__.split('+')[0]}"],
            **more,
        )
