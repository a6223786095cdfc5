"""Label schemas, migrations between them, and labeling guides. Light to import: pydantic and PyYAML, no pyarrow."""

from datasetops.schema.diff import Change, SchemaDiff, diff_schemas
from datasetops.schema.guide import (
    Guide,
    GuideProblem,
    GuideSection,
    check_guide,
    guide_section,
    load_guide,
    packaged_guides,
    parse_guide,
)
from datasetops.schema.load import json_schema, json_schema_text, load_schema, packaged_schemas
from datasetops.schema.migrate import Migration, Step, load_migration, migrate_schema
from datasetops.schema.model import (
    AUTO_ACCEPTED,
    RELABEL,
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
from datasetops.schema.names import nearest_name
from datasetops.schema.relabel import MigrationResult, migrate_annotations

__all__ = [
    "AUTO_ACCEPTED",
    "RELABEL",
    "Attribute",
    "Change",
    "ClassDef",
    "ClassSpec",
    "Critical",
    "Guide",
    "GuideProblem",
    "GuideSection",
    "Kind",
    "LabelSchema",
    "Limit",
    "Migration",
    "MigrationResult",
    "SchemaDiff",
    "Slice",
    "Step",
    "Task",
    "check_guide",
    "diff_schemas",
    "guide_section",
    "json_schema",
    "json_schema_text",
    "load_guide",
    "load_migration",
    "load_schema",
    "migrate_annotations",
    "migrate_schema",
    "nearest_name",
    "packaged_guides",
    "packaged_schemas",
    "parse_guide",
]
