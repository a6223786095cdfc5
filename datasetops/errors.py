"""Every error that a user can meet. Each says what happened and what to do next.

Bad *data* is never an exception: it becomes a finding (`datasetops.records.Finding`). An operation that could not be
done raises a `DatasetOpsError`; calling a function wrongly raises `ValueError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DatasetOpsError(Exception):
    """An operation failed. `remedy` is one sentence that tells the user what to do next."""

    exit_code = 1

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n{self.remedy}" if self.remedy else self.message


class NotFoundError(DatasetOpsError):
    """A version, branch, audit, file or object that was named does not exist."""


class ConflictError(DatasetOpsError):
    """Somebody else changed the same thing first; nothing was overwritten."""


class DamagedError(DatasetOpsError):
    """A stored object is missing or does not hash to its name."""


class StoreError(DatasetOpsError):
    """The store (disk, S3) could not be read or written: full, unreachable, refused."""


class SchemaError(DatasetOpsError):
    """A label schema, migration or guide is malformed or does not fit the data."""


class FormatError(DatasetOpsError):
    """A source cannot be read as the stated format at all."""


class RejectedError(DatasetOpsError):
    """A check refused the operation, for example `--strict` ingest or a sealed split. Exit status 3."""

    exit_code = 3


class ModelError(DatasetOpsError):
    """A model reference cannot be resolved, loaded or run."""


class MissingDependencyError(DatasetOpsError):
    """An optional package is needed for this operation."""

    def __init__(self, package: str, *, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed.",
            remedy=f"Install it with: pip install 'dsops[{extra}]'",
        )


def did_you_mean(name: str, valid: Iterable[str], *, noun: str) -> str:
    """A remedy for an unknown name: the nearest valid names first, then all of them (at most twenty)."""
    choices = sorted(set(valid))
    if not choices:
        return f"There are no {noun} yet."
    near = difflib.get_close_matches(name, choices, n=3, cutoff=0.6)
    shown = ", ".join(choices[:20]) + (", …" if len(choices) > 20 else "")
    hint = f"Did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    return f"{hint}Valid {noun}: {shown}."
