"""Settings from `dsops.toml`, overridden by `DSOPS_*` environment variables. Secrets are never among them."""

from __future__ import annotations

import getpass
import os
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from datasetops.errors import DatasetOpsError

FILE_NAME = "dsops.toml"
_PREFIX = "DSOPS_"


class Settings(BaseModel):
    """`store` is where objects are kept: a path relative to the settings file, or an address like s3://bucket/prefix."""

    model_config = ConfigDict(extra="forbid")

    store: str = ".dsops"
    actor: str = Field(default_factory=lambda: _user_name(), description="who is named in commits and the ledger")
    cache: Path = Field(default_factory=lambda: _user_cache(), description="local folder for caches and model files")
    model: str = Field(default="builtin:efficientnet-lite0", description="model reference for embeddings")
    personal_model: str | None = Field(
        default=None, description="detector of faces and plates for every audit, e.g. faces:opencv"
    )
    jobs: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, description="parallel workers")
    engine: str = Field(default="local", description="what models run on: local, ray")
    ray_address: str | None = Field(default=None, description="of the Ray cluster; this machine unless told")
    ray_gpus: float = Field(default=0.0, ge=0, description="GPUs of each worker on Ray; a half is 0.5")
    key: Path | None = Field(
        default=None, description="file with the private key that signs decisions (dsops keys make)"
    )
    openlineage: str | None = Field(
        default=None,
        description="who is told of runs as they happen: FILE.jsonl, or an OpenLineage server's http address",
    )
    tracker: str = Field(default="none", description="who is told of trainings and evaluations: none, mlflow, wandb")
    tracker_uri: str | None = Field(default=None, description="where the tracker keeps them, without user and password")


def load_settings(file: Path | None) -> Settings:
    """Settings of a repository's file, or the defaults. Raises DatasetOpsError that names file and field."""
    values: dict[str, Any] = {}
    try:
        if file is not None:
            values = tomllib.loads(file.read_text(encoding="utf-8"))
        return Settings(**values | _from_environment())  # the environment goes before the file
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise DatasetOpsError(
            f"{file or 'environment'}: {name}: {first['msg']}.",
            remedy=f"Known settings: {', '.join(Settings.model_fields)}; as environment variables DSOPS_<NAME>.",
        ) from None
    except (ValueError, RecursionError) as error:  # no TOML, no UTF-8, a number of thousands of digits
        raise DatasetOpsError(f"{file}: {error}.", remedy="Correct the TOML syntax.") from None


def _from_environment() -> dict[str, str]:
    names = {name: f"{_PREFIX}{name.upper()}" for name in Settings.model_fields}
    return {name: os.environ[variable] for name, variable in names.items() if variable in os.environ}


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dsops"
