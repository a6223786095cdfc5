"""Read label schemas: from a file, from bytes, or one of those that come with the package."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from datasetops.errors import did_you_mean
from datasetops.schema.model import LabelSchema
from datasetops.schema.yamlfile import read_file, read_yaml, validated


@cache
def packaged_schemas() -> tuple[str, ...]:
    """Names of the schemas that come with the package, sorted."""
    files = resources.files("datasetops.schemas").iterdir()
    return tuple(sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml")))


def load_schema(source: str | Path | bytes) -> LabelSchema:
    """Read a schema: the name of a packaged one, a path, or YAML or JSON bytes such as `canonical_bytes()`.

    Raises NotFoundError for a path that is not there; SchemaError, naming file, line, field, what was expected and what
    came, where it is no valid schema.
    """
    if isinstance(source, bytes):
        return validated(LabelSchema, read_yaml(source, "label schema"))
    if source in packaged_schemas():
        data = resources.files("datasetops.schemas").joinpath(f"{source}.yaml").read_bytes()
        return validated(LabelSchema, read_yaml(data, f"{source}.yaml"))
    hint = did_you_mean(str(source), packaged_schemas(), noun="packaged schemas")
    data = read_file(Path(source), noun="label schema", remedy=f"Name a file, or a packaged schema. {hint}")
    return validated(LabelSchema, read_yaml(data, str(source)))


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a label schema file, for editors and other languages.

    It cannot say everything: that names are unique, that parents exist and form no cycle, is checked by `load_schema`.
    """
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | LabelSchema.model_json_schema()


def json_schema_text() -> str:
    """The content of `schemas/label_schema.schema.json`."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
