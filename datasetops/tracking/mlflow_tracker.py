"""MLflow: runs, metrics by step, files, the data set, and the model registry, in a folder, a database or at a server.

The client is used directly, never MLflow's current run, so that nothing of the user's own runs is touched.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from datasetops.errors import MissingDependencyError
from datasetops.progress import quiet
from datasetops.tracking.base import Dataset, Place, Run, Tracker, TrackerError, without_secrets

if TYPE_CHECKING:
    from mlflow import MlflowClient

_MODEL_TAG: Final = "dsops.model"
_PRODUCTION: Final = "production"  # alias in the registry, as in models:/NAME@production
_KEY: Final = "dsops.key"  # tag that tells one run from all others
_FOLDER: Final = "mlruns"
_MODEL: Final = "model"  # folder of a run's files
_FOLDERS: Final = ("/", ".", "file:")  # how the address of a folder begins, and …
_LOCATED: Final = (*_FOLDERS, "http:", "https:", "databricks", "uc:")  # … of all that say themselves where files go
_DIGEST: Final = 36  # characters of a data set's digest that MLflow's databases hold
_VALUE: Final = 6_000  # characters of a parameter
_NAME: Final = 250  # characters of a name of a metric or parameter
_AT_ONCE: Final = 1_000  # metrics in one request, and …
_PARAMETERS: Final = 100  # … parameters: MLflow's limits
# MLflow's own defaults try for minutes, and tell its makers what is used.
_ENVIRONMENT: Final = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def open_mlflow(place: Place) -> Tracker:
    """Runs go to `place.uri`, else to MLFLOW_TRACKING_URI, else to the folder mlruns. Raises MissingDependencyError."""
    return MlflowTracker(place)


class MlflowTracker:
    name = "mlflow"

    def __init__(self, place: Place) -> None:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        try:
            import mlflow  # noqa: F401
        except ImportError:
            raise MissingDependencyError("mlflow-skinny", extra="mlflow", purpose="Tracking by MLflow") from None
        self._project = place.project
        self._folder = place.folder.absolute() / _FOLDER
        self._uri = place.uri or os.environ.get("MLFLOW_TRACKING_URI") or self._folder.as_uri()
        if self._uri.startswith(_FOLDERS):
            # A folder is all that the small package can write by itself; MLflow wants to hear that it is meant.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")

    def check(self) -> None:
        if not self._uri.startswith(_LOCATED):  # a database, which the small package cannot write
            with quiet("mlflow"):
                self._client()

    def start(self, key: str, name: str, parameters: Mapping[str, str], tags: Mapping[str, str]) -> Run | None:
        from mlflow.entities import Param

        with quiet("mlflow"):
            client = self._client()
            experiment = self._experiment(client)
            known = client.search_runs([experiment], f"tags.`{_KEY}` = '{key}' and attributes.status = 'FINISHED'")
            if known:
                return None
            run = client.create_run(experiment, run_name=name, tags={_KEY: key, **tags})
            told = [Param(_name(one), value[:_VALUE]) for one, value in parameters.items()]
            for start in range(0, len(told), _PARAMETERS):
                client.log_batch(run.info.run_id, params=told[start : start + _PARAMETERS])
        return MlflowRun(client, self._project, self._uri, run)

    def production(self, model: str | None) -> str | None:
        with quiet("mlflow"):
            client = self._client()
            versions = client.search_model_versions(f"name = '{self._project}'")
            if model is None:
                if versions:
                    client.delete_registered_model_alias(self._project, _PRODUCTION)
                return None
            mine = [version for version in versions if version.tags.get(_MODEL_TAG) == model]
            if not mine:
                raise TrackerError(f"MLflow has no {model}.", remedy=f"Tell it first: dsops track {model}")
            newest = max(mine, key=lambda version: int(version.version))
            client.set_registered_model_alias(self._project, _PRODUCTION, newest.version)
        return f"models:/{self._project}@{_PRODUCTION}"

    def _client(self) -> MlflowClient:
        from mlflow import MlflowClient
        from mlflow.tracking.registry import UnsupportedModelRegistryStoreURIException

        try:
            return MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)
        except (UnsupportedModelRegistryStoreURIException, ImportError) as error:
            scheme = self._uri.partition(":")[0]
            raise TrackerError(
                f"MLflow cannot keep runs at a {scheme} address: {str(error).splitlines()[0]}",
                remedy="For a database install the whole of MLflow (pip install mlflow), or name a folder or a server.",
            ) from None

    def _experiment(self, client: MlflowClient) -> str:
        found = client.get_experiment_by_name(self._project)
        if found is not None:
            return str(found.experiment_id)
        # A server and a folder know where files go; a database would put them wherever the command was started.
        located = None if self._uri.startswith(_LOCATED) else f"{self._folder.as_uri()}/{self._project}"
        return str(client.create_experiment(self._project, artifact_location=located))


class MlflowRun:
    def __init__(self, client: MlflowClient, project: str, uri: str, run: Any) -> None:
        self._client = client
        self._project = project
        self._run = run
        self._id: str = run.info.run_id
        at = without_secrets(uri)
        self.address = f"run {self._id} of the experiment {project!r} at {at}"
        if at.startswith("http"):
            self.address = f"{at.rstrip('/')}/#/experiments/{run.info.experiment_id}/runs/{self._id}"

    def log(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        told = [Metric(_name(name), value, now, step or 0) for name, value in metrics.items()]
        with quiet("mlflow"):
            for start in range(0, len(told), _AT_ONCE):
                self._client.log_batch(self._id, metrics=told[start : start + _AT_ONCE])

    def attach(self, files: Mapping[str, bytes]) -> None:
        with quiet("mlflow"), tempfile.TemporaryDirectory() as folder:
            for name, data in files.items():
                path = Path(folder, PurePosixPath(name).name)
                path.write_bytes(data)
                parent = PurePosixPath(name).parent.as_posix()
                self._client.log_artifact(self._id, str(path), None if parent == "." else parent)
                path.unlink()

    def uses(self, dataset: Dataset) -> None:
        from mlflow.entities import Dataset as Named
        from mlflow.entities import DatasetInput, InputTag

        source = {"version": dataset.version, "commit": dataset.commit, "schema": dataset.schema}
        named = Named(
            name=f"{self._project} {dataset.version}",
            digest=dataset.commit[:_DIGEST],
            source_type="dsops",
            source=json.dumps(source, sort_keys=True),
        )
        tags = [InputTag("mlflow.data.context", dataset.context), InputTag("dsops.commit", dataset.commit)]
        with quiet("mlflow"):
            self._client.log_inputs(self._id, [DatasetInput(named, tags)])

    def register(self, model: str, files: Mapping[str, bytes], facts: Mapping[str, str]) -> str | None:
        from mlflow.exceptions import MlflowException

        self.attach({f"{_MODEL}/{name}": data for name, data in files.items()})
        with quiet("mlflow"):
            try:
                self._client.get_registered_model(self._project)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                self._client.create_registered_model(self._project)
            source = f"{self._run.info.artifact_uri}/{_MODEL}"
            tags = {_MODEL_TAG: model, **facts}
            version = self._client.create_model_version(self._project, source, self._id, tags=tags)
        return f"{self._project}, version {version.version}"

    def finish(self, *, failed: bool = False) -> None:
        with quiet("mlflow"):
            self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")


def _name(text: str) -> str:
    """As MLflow takes names: letters, digits, blanks and _-.:/ only; what had to be changed ends in a digest of itself."""
    changed = re.sub(r"[^\w\-. :/]", "_", text)
    changed = re.sub(r"(^|/)(?=/|\.{0,2}(/|$))", r"\1_", changed)  # no empty part, none of dots alone
    if changed == text and len(text) <= _NAME:
        return text
    return f"{changed[: _NAME - 9]}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"
