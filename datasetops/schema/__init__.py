"""Label schemas, migrations between them, and labeling guides."""

from datasetops.schema.model import (
    Attribute,
    ClassDef,
    ClassSpec,
    Critical,
    Kind,
    LabelSchema,
    Limit,
    Slice,
    Task,
)

__all__ = ["Attribute", "ClassDef", "ClassSpec", "Critical", "Kind", "LabelSchema", "Limit", "Slice", "Task"]
