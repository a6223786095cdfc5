"""Settings from `dsops.toml`, overridden by `DSOPS_*` environment variables. Secrets are never among them."""

from __future__ import annotations

import getpass
import os
import tomllib
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from datasetops.errors import DatasetOpsError

FILE_NAME = "dsops.toml"


class Settings(BaseSettings):
    """`store` is where objects are kept: a path relative to the settings file, or an address like s3://bucket/prefix."""

    model_config = SettingsConfigDict(env_prefix="DSOPS_", extra="forbid")

    store: str = ".dsops"
    actor: str = Field(default_factory=lambda: _user_name(), description="who is named in commits and the ledger")
    cache: Path = Field(default_factory=lambda: _user_cache(), description="local folder for caches and model files")
    model: str = Field(default="builtin:efficientnet-lite0", description="model reference for embeddings")
    jobs: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, description="parallel workers")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, init_settings  # the environment goes before the file


def load_settings(file: Path | None) -> Settings:
    """Settings of a repository's file, or the defaults. Raises DatasetOpsError that names file and field."""
    values: dict[str, Any] = {}
    try:
        if file is not None:
            values = tomllib.loads(file.read_text(encoding="utf-8"))
        return Settings(**values)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DatasetOpsError(f"{file}: {error}.", remedy="Correct the TOML syntax.") from None
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise DatasetOpsError(
            f"{file or 'environment'}: {name}: {first['msg']}.",
            remedy=f"Known settings: {', '.join(Settings.model_fields)}; as environment variables DSOPS_<NAME>.",
        ) from None


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dsops"
