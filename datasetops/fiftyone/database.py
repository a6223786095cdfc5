"""FiftyOne with its database connected: where to is settled before it is imported, since it reads its settings then."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import warnings
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

from datasetops.errors import ConflictError, DatasetOpsError, MissingDependencyError, StoreError
from datasetops.secret_files import secret

ADDRESS: Final = "FIFTYONE_DATABASE_URI"
_WAIT_MS: Final = 5_000  # for a server that answers within milliseconds; FiftyOne itself waits for 30 s
_REMEDY: Final = (
    f"Start MongoDB and name it: --database mongodb://HOST:27017, or the environment variable {ADDRESS}. "
    "The address may hold user and password."
)


def connect(database: str | None = None) -> Any:
    """The module `fiftyone`, connected to `database`, or to what its own settings say.

    To be called within `quietly`. Usage statistics are off unless FIFTYONE_DO_NOT_TRACK says otherwise. Raises
    MissingDependencyError, StoreError where no database answers, ConflictError where this process uses another one.
    """
    if find_spec("fiftyone") is None:
        raise MissingDependencyError("fiftyone", extra="fiftyone", purpose="The export to FiftyOne")
    address = database or secret(ADDRESS)
    before = os.environ.get(ADDRESS)
    if address:
        _reach(address)
        os.environ[ADDRESS] = address
    os.environ.setdefault("FIFTYONE_DO_NOT_TRACK", "1")
    fiftyone = _imported()
    used = fiftyone.config.database_uri
    if address and used != address:
        if before is not None:
            os.environ[ADDRESS] = before
        raise ConflictError(
            f"FiftyOne uses {shown_address(used)} in this process already.", remedy="Use one database in one process."
        )
    if used and not address:  # from a settings file of its own
        _reach(used)
    try:
        fiftyone.dataset_exists("dsops")  # the first use connects, or starts its own database
    except Exception as error:
        raise StoreError(f"FiftyOne has no database: {_first_line(error)}.", remedy=_REMEDY) from None
    return fiftyone


def shown_address(address: str | None) -> str:
    """A database's address without user and password."""
    return re.sub(r"//[^/]*@", "//", address) if address else "FiftyOne's own database"


def _reach(address: str) -> None:
    pymongo = import_module("pymongo")
    try:
        with pymongo.MongoClient(address, serverSelectionTimeoutMS=_WAIT_MS) as client:
            client.admin.command("ping")
    except pymongo.errors.PyMongoError as error:
        where = shown_address(address)
        raise StoreError(f"No database answers at {where}: {_first_line(error)}.", remedy=_REMEDY) from None


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keeps warnings of FiftyOne's packages from users' eyes, and its log from standard output."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        yield


def _imported() -> Any:
    try:
        return import_module("fiftyone")
    except ImportError as error:
        raise DatasetOpsError(
            f"FiftyOne is installed, but cannot be loaded: {error}.",
            remedy="Install it again with the packages it needs: pip install --force-reinstall fiftyone",
        ) from None


def _first_line(error: Exception) -> str:
    return re.split(r"\n|, Timeout:| \(configured timeouts", str(error))[0].strip(" .") or type(error).__name__
