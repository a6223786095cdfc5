"""Where a repository lies: its store, its settings and its working folder, and whether this dsops knows its format."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from datasetops.errors import DatasetOpsError, NotFoundError
from datasetops.manifest.commit import FORMAT
from datasetops.records import parse_json
from datasetops.settings import FILE_NAME, Settings, load_settings
from datasetops.store import Store, open_store


def check_format(config: bytes, where: str | Path) -> None:
    """Whether this dsops knows the format. What is no description of a repository is left to `dsops verify`."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        number = parse_json(config)["format"]
        if isinstance(number, int) and number != FORMAT:
            raise DatasetOpsError(
                f"The repository in {where} is of format {number}; this dsops reads format {FORMAT}.",
                remedy="Open it with a newer dsops: pip install --upgrade dsops. Nothing was changed.",
            )


def locate(where: str) -> tuple[Store, Settings, Path | None]:
    """Store, settings and working folder for a folder (or the nearest one above it with settings) or an address."""
    if "://" in where:
        settings = load_settings(None)
        return open_store(where, cache=settings.cache), settings, None
    start = Path(where).absolute()
    if not start.is_dir():
        raise NotFoundError(f"There is no folder {where}.", remedy="Name the repository's folder with -C DIR.")
    root = next((folder for folder in [start, *start.parents] if (folder / FILE_NAME).is_file()), None)
    if root is None:
        raise NotFoundError(
            f"There is no dsops repository in {where} or above it.",
            remedy="Make one with: dsops init DIR --schema FILE, or name one with -C DIR.",
        )
    settings = load_settings(root / FILE_NAME)
    url = settings.store if "://" in settings.store else os.fspath(root / settings.store)
    return open_store(url, cache=settings.cache), settings, root
