"""Secrets from the environment or from files, as Vault, Kubernetes and Docker mount them: `NAME_FILE` names the file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from datasetops.errors import DatasetOpsError

# Those that other libraries look for in the environment.
OF_LIBRARIES: Final = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_CLIENT_SECRET",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "GOOGLE_BEARER_TOKEN",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "HF_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_USERNAME",
    "WANDB_API_KEY",
)


def secret(name: str) -> str | None:
    """The environment's, else what stands in the file that NAME_FILE names, without the line break at its end.

    Raises DatasetOpsError that names variable and file where that cannot be read, is empty, or is no text.
    """
    if value := os.environ.get(name):
        return value
    file = os.environ.get(f"{name}_FILE")
    if not file:
        return None
    try:
        value = Path(file).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise DatasetOpsError(
            f"{name}_FILE: {file} cannot be read: {reason}.", remedy="Check the path and its rights."
        ) from None
    if not value:
        raise DatasetOpsError(f"{name}_FILE: {file} is empty.", remedy="Put the secret into it.")
    return value


def give_to_libraries() -> None:
    """Put what files hold into the environment, where libraries look for it. Raises DatasetOpsError as `secret` does."""
    for name in OF_LIBRARIES:
        if value := secret(name):
            os.environ[name] = value
