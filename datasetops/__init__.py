"""dsops: labeling and dataset management for computer vision.

from datasetops import Repository

repository = Repository.open("my-dataset")
labels = repository.version("v12").annotations()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasetops.manifest import Change, Repository, Version
    from datasetops.schema import LabelSchema

__all__ = ["Change", "LabelSchema", "Repository", "Version"]


def __getattr__(name: str) -> Any:
    """Import the heavy parts only when they are asked for, so that the command line starts quickly."""
    if name in ("Change", "Repository", "Version"):
        import datasetops.manifest

        return getattr(datasetops.manifest, name)
    if name == "LabelSchema":
        import datasetops.schema

        return datasetops.schema.LabelSchema
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
