"""Versions and what audits found in them, as datasets in FiftyOne (https://docs.voxel51.com)."""

from datasetops.fiftyone.export import FiftyOneResult, default_name, export_to_fiftyone

__all__ = ["FiftyOneResult", "default_name", "export_to_fiftyone"]
