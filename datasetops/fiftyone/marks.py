"""Findings of an audit as marks on samples and labels: tags, what was found, proposed boxes, and the order of review."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import pandas as pd
import pyarrow as pa

from datasetops.fiftyone.labels import Document, object_id, relative_box
from datasetops.labeling.base import ImageSize

TAG: Final = "finding:"  # begins the tags that are given and taken away here; the name of a saved view follows
ALL: Final = "all"  # rank among the findings of all checks
_KEPT: Final = ("finding_id", "check", "severity", "score", "message", "annotation_id", "given", "suggested")


@dataclass
class Marks:
    """Of one sample. `labels` has tags and text by annotation id; `rank` the place of its worst finding, from 0."""

    tags: list[str] = field(default_factory=list)
    findings: list[Document] = field(default_factory=list)
    rank: dict[str, int] = field(default_factory=dict)
    labels: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    suggested: list[Document] = field(default_factory=list)


def severity_view(severity: str) -> str:
    return f"severity_{severity}"


def ranked(findings: pa.Table) -> pa.Table:
    """Findings with their places in the order of review: `rank_all` among all, `rank` among those of their check."""
    checks: pd.Series[Any] = findings["check"].to_pandas()
    places = pa.array(checks.groupby(checks).cumcount(), pa.int64())
    return findings.append_column("rank", places).append_column("rank_all", pa.array(range(len(findings)), pa.int64()))


def marks_of(rows: Sequence[Mapping[str, Any]], size: ImageSize | None) -> Marks:
    """`rows` are the findings about one sample, columns of records.FINDINGS and those of `ranked`."""
    marks = Marks()
    for row in sorted(rows, key=lambda row: row["rank_all"]):
        check, tag = row["check"], f"{TAG}{row['check']}"
        marks.tags += [name for name in (tag, f"{TAG}{severity_view(row['severity'])}") if name not in marks.tags]
        kept = {name: row[name] for name in _KEPT if row[name] is not None}
        if row["related"]:
            kept["related"] = orjson.loads(row["related"])
        marks.findings.append({"_cls": "DynamicEmbeddedDocument"} | kept)
        marks.rank.setdefault(check, row["rank"])
        marks.rank.setdefault(ALL, row["rank_all"])
        if row["annotation_id"] is not None:
            marks.labels[row["annotation_id"]].append((tag, f"{check}: {row['message']}"))
        if row["box"] and size is not None:
            marks.suggested.append(_suggested(row, tag, size))
    return marks


def _suggested(row: Mapping[str, Any], tag: str, size: ImageSize) -> Document:
    label = {
        "_id": object_id(row["finding_id"]),
        "_cls": "Detection",
        "tags": [tag],
        "label": row["suggested"] or row["given"] or "?",
        "bounding_box": relative_box(orjson.loads(row["box"]), size),
    }
    return label | {
        name: row[name] for name in ("annotation_id", "severity", "score", "message") if row[name] is not None
    }


def tagged(existing: Sequence[str], own: Sequence[str], *, given_before: str | None = None) -> list[str]:
    """Tags with those that were given here replaced: `given_before` and findings'. Tags of others stay, in their order."""
    theirs = [tag for tag in existing if not tag.startswith(TAG) and tag != given_before and tag not in own]
    return [*own, *theirs]


def marked(label: Document, marks: Sequence[tuple[str, str]]) -> Document:
    """A label with the tags and the text of its findings, in place of those of an earlier audit."""
    own = list(dict.fromkeys(tag for tag, _ in marks))
    result = {name: value for name, value in label.items() if name != "finding"}
    result["tags"] = tagged(label.get("tags") or [], own)
    return result | ({"finding": "\n".join(text for _, text in marks)} if marks else {})
