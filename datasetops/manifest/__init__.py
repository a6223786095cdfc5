"""Versions of a dataset: commits, branches, diff, merge, verify."""

from datasetops.manifest.change import Change
from datasetops.manifest.diff import Diff, diff
from datasetops.manifest.gc import collect_garbage
from datasetops.manifest.merge import Conflict, MergeConflictError, merge
from datasetops.manifest.repository import MAIN, CommitResult, Repository
from datasetops.manifest.verify import Damage, verify
from datasetops.manifest.version import QueryError, Version

__all__ = [
    "MAIN",
    "Change",
    "CommitResult",
    "Conflict",
    "Damage",
    "Diff",
    "MergeConflictError",
    "QueryError",
    "Repository",
    "Version",
    "collect_garbage",
    "diff",
    "merge",
    "verify",
]
