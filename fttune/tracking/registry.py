"""A study's champion in MLflow's model registry: the version that bears the alias, and what is on record of others."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, RESOURCE_DOES_NOT_EXIST, ErrorCode

from fttune.errors import BadInput
from fttune.tracking.artifacts import Refused
from fttune.tracking.models import Models
from fttune.training.events import KEEP, ModelSaved

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

    from fttune.tracking.store import MlflowStore

ALIAS = "champion"
OPENING = "fttune.opening."
CROWNED = "fttune.crowned"  # what a version was made for, so that a second attempt finds it


@dataclass(frozen=True)
class Version:
    """A version of a registered model, and its tags."""

    number: str
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Registry:
    """The registered model of one name. Its runs are found by an experiment and tags."""

    store: "MlflowStore"
    name: str

    def champion(self) -> Version | None:
        """Return the version that bears the alias, None where none does."""
        model = self._model()
        if model is None or ALIAS not in model.aliases:
            return None
        found = self.store.client.get_model_version(self.name, str(model.aliases[ALIAS]))
        return Version(str(found.version), dict(found.tags))

    def openings(self) -> list[dict[str, Any]]:
        """Return the openings of the test split by challengers, in order, as far as each came."""
        model = self._model()
        tags = {} if model is None else model.tags
        return [json.loads(tags[key]) for key in sorted(tags) if key.startswith(OPENING)]

    def record_opening(self, number: int, facts: Mapping[str, Any]) -> None:
        """Put an opening on record, or what came of it, in place of what is there under its number."""
        self.store.client.set_registered_model_tag(self.name, f"{OPENING}{number:06d}", json.dumps(facts))

    def crown(
        self, experiment: str, run_tags: Mapping[str, str], tags: Mapping[str, str], saved: ModelSaved
    ) -> Version:
        """Make a run's model the champion: a version with tags, among them `CROWNED`, and the alias.

        Safe to be called again: it makes one version.
        """
        run = self._run(experiment, run_tags)
        self._register()
        versions = self.store.client.search_model_versions(f"name='{self.name}'")
        made = next((one for one in versions if one.tags.get(CROWNED) == tags[CROWNED]), None)
        if made is None:
            made = self._made(run, saved, {CROWNED: tags[CROWNED]})
        version = Version(str(made.version), dict(tags))
        self.describe(version, tags)
        self.store.client.set_registered_model_alias(self.name, ALIAS, version.number)
        return version

    def describe(self, version: Version, tags: Mapping[str, str]) -> None:
        """Give a version more tags, in this order."""
        for key, value in tags.items():
            self.store.client.set_model_version_tag(self.name, version.number, key, value)

    def tag(self, experiment: str, run_tags: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Give a run more tags."""
        run = self._run(experiment, run_tags)
        for key, value in tags.items():
            self.store.client.set_tag(run.info.run_id, key, value)

    def pin(self, experiment: str, run_tags: Mapping[str, str]) -> None:
        """Let a run keep its checkpoint for good."""
        self.tag(experiment, run_tags, {KEEP: f"champion of {self.name}"})

    def attach(self, experiment: str, run_tags: Mapping[str, str], file: Path, folder: str) -> None:
        """Copy a file to a folder of a run's artifacts."""
        self.store.client.log_artifact(self._run(experiment, run_tags).info.run_id, str(file), folder)

    def file(self, experiment: str, run_tags: Mapping[str, str], path: str) -> Path:
        """Return a file among a run's artifacts as a local one. Raises BadInput when it is gone."""
        found = self.store.file_of(self._run(experiment, run_tags), path)
        if found is None:
            raise BadInput(f"{path} of {run_tags['fttune.run']} is not in MLflow; restore its artifacts")
        return found

    def _run(self, experiment: str, tags: Mapping[str, str]) -> "Run":
        run = self.store.find_run(experiment, tags, status="FINISHED")
        if run is None:
            raise BadInput(f"run {tags['fttune.run']} is not in this MLflow; restore it, or delete {self.name}'s alias")
        return run

    def _made(self, run: "Run", saved: ModelSaved, tags: dict[str, str]) -> "ModelVersion":
        """Return a version of a run's model, logged now unless it is there; of its checkpoint if it has no export.

        Not by its address `models:/<id>`: a local registry looks for that in the tracking store of the whole process.
        """
        models, client = Models(self.store.client), self.store.client
        try:
            model_id: str | None = models.log(run, saved)
            source = client.get_logged_model(str(model_id)).artifact_location
        except Refused:
            model_id, source = None, f"{run.info.artifact_uri}/checkpoint"
        finally:
            models.drop()
        return client.create_model_version(
            self.name, source, run.info.run_id, tags=tags, await_creation_for=0, model_id=model_id
        )

    def _register(self) -> None:
        try:
            self.store.client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise

    def _model(self) -> "RegisteredModel | None":
        try:
            return self.store.client.get_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                raise
        return None
