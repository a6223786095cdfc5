"""Read-only SQL over what a repository holds, and over nothing else."""

from datasetops.query.ask import Answer, query
from datasetops.query.limits import Limits

__all__ = ["Answer", "Limits", "query"]
