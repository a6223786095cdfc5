"""Which column of a table plays which part."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from datasetops.errors import FormatError, did_you_mean
from datasetops.records import FINDINGS

TABLE_SUFFIXES: Final = (".csv", ".tsv", ".parquet")
ALIASES: Final = {
    "path": ("path", "image", "file", "filename", "file_name", "uri"),
    "label": ("label", "class", "category"),
    "id": ("id", "sample_id", "image_id"),
    "annotation_id": ("annotation_id",),
    "annotator": ("annotator", "actor"),
}
TIMES: Final = ("expires_at", "captured_at")
SIDES: Final = ("width", "height")
TEXTS: Final = ("split", "group", "origin", "license", "consent")
SAMPLE_COLUMNS: Final = (*TEXTS, *TIMES, *SIDES)
METADATA: Final = "metadata"
PARTS: Final = (*ALIASES, *SAMPLE_COLUMNS, METADATA)
WORKLIST: Final = (*FINDINGS.names, "chance", "expected_seconds", "verdict", "note", "seconds")


def parts_of(names: Iterable[str], mapping: Mapping[str, str], uri: str) -> dict[str, str]:
    """Part → column, by `mapping`, else by name in any case of letters.

    Raises FormatError where the mapping names a part or column that there is not, and where no path or id is found.
    """
    names = list(names)
    for part, column in mapping.items():
        if part not in PARTS:
            raise FormatError(f"There is no part {part!r} of a table.", remedy=did_you_mean(part, PARTS, noun="parts"))
        if column not in names:
            raise FormatError(f"{uri} has no column {column!r}.", remedy=did_you_mean(column, names, noun="columns"))
    taken = set(mapping.values())
    by_name = {name.strip().lower(): name for name in reversed(names) if name not in taken}
    parts = dict(mapping)
    for part in PARTS:
        if part not in parts:
            found = [by_name[name] for name in ALIASES.get(part, (part,)) if name in by_name]
            if found:
                parts[part] = found[0]
    if not {"path", "id", "annotation_id"} & set(parts):
        raise FormatError(
            f"{uri} has no column for the image's path or id. Its columns: {', '.join(names)}.",
            remedy=f"Call one `path` or `id`, or say which it is: --column path='{names[0]}'.",
        )
    return parts


def is_worklist(names: Collection[str]) -> bool:
    """Whether these are columns of findings or scores of an audit, with or without others."""
    return {"check", "score", "sample_id"} <= set(names)


def without_findings(columns: Mapping[str, list[Any]], mapping: Mapping[str, str]) -> dict[str, list[Any]]:
    """A worklist's columns without what findings and decisions on them say, but for the places they are about and columns
    that `mapping` names."""
    kept = {"sample_id", "uri", "annotation_id", *mapping.values()}
    if {*ALIASES["path"]} & set(columns) - {"uri"}:
        kept.discard("uri")
    return {name: cells for name, cells in columns.items() if name in kept or name not in WORKLIST}
