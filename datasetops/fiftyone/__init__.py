"""Versions and what audits found in them, as datasets in FiftyOne (https://docs.voxel51.com), and back."""

from datasetops.fiftyone.bring import ingest_from_fiftyone, owner_of
from datasetops.fiftyone.export import FiftyOneResult, default_name, export_to_fiftyone
from datasetops.fiftyone.pull import FiftyOnePull, pull_from_fiftyone

__all__ = [
    "FiftyOnePull",
    "FiftyOneResult",
    "default_name",
    "export_to_fiftyone",
    "ingest_from_fiftyone",
    "owner_of",
    "pull_from_fiftyone",
]
