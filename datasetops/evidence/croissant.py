"""A version as Croissant 1.1 (MLCommons): JSON-LD that describes the folder which `dsops checkout VERSION DIR` writes.

The file lies in that folder, beside `samples.parquet`, `annotations.parquet` and `images/`.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from datasetops.errors import DatasetOpsError, MissingDependencyError
from datasetops.evidence.card import sentence, standing
from datasetops.evidence.figures import NONE
from datasetops.evidence.story import Story
from datasetops.evidence.told import gaps
from datasetops.records import TABLES, TIMESTAMP, sha256_hex

CONFORMS_TO: Final = ("http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0")
_CONTEXT: Final[dict[str, Any]] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
} | {
    word: f"cr:{word}"
    for word in (
        *("arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileObject"),
        *("fileProperty", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5"),
        *("parentField", "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate"),
        *("separator", "source", "subField", "transform"),
    )
}
_PARQUET: Final = "application/x-parquet"
_IMAGES: Final = "image-files"
_TYPES: Final = {
    pa.string(): "sc:Text",
    pa.float64(): "sc:Float",
    pa.int32(): "sc:Integer",
    TIMESTAMP: "sc:DateTime",
}
_MARKER: Final = "version.txt"  # in a checked-out folder: the digest of its version


def croissant(story: Story, folder: Path | None = None) -> dict[str, Any]:
    """The description as JSON-LD. Where `folder` holds this very version, its tables are named with their SHA-256."""
    version, schema = story.version, story.version.schema
    counted = story.figures
    made = str(story.status.time if story.status.status == "accepted" else version.commit.time)
    licences = [name for name in counted.licenses if name != NONE]
    beside = folder if folder is not None and _holds(folder, story) else None
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": list(CONFORMS_TO),
        "name": f"{schema.name}-{version.name}",
        "description": f"{schema.description} {sentence(counted)} {standing(story)}".strip(),
        "version": f"{version.name.removeprefix('v')}.0.0",
        "url": f"urn:sha256:{version.digest}",
        "identifier": version.digest,
        "citeAs": f"{schema.name} {version.name}, commit {version.digest}",
        "license": licences or ["unknown"],
        "datePublished": made[:10],
        "dateCreated": version.commit.time[:10],
        "keywords": ["image", *schema.kinds],
        **_responsible(story),
        "distribution": [
            *(_rows_file(table, beside) for table in TABLES),
            {
                "@type": "cr:FileSet",
                "@id": _IMAGES,
                "name": _IMAGES,
                "description": "The images, by split.",
                "encodingFormat": [name for name in counted.media_types if name != NONE] or ["image/jpeg"],
                "includes": "images/**",
            },
        ],
        "recordSet": [_classes(story), _samples(beside), _images(beside), _annotations(beside)],
    }


def validated(path: Path) -> None:
    """Load a description with mlcroissant. Raises DatasetOpsError with all that it finds wrong."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of packages that mlcroissant uses
        try:
            import mlcroissant

            issues = mlcroissant.Dataset(jsonld=str(path)).metadata.ctx.issues
        except ImportError:
            raise MissingDependencyError("mlcroissant", extra="evidence", purpose="Checking a Croissant file") from None
        except mlcroissant.ValidationError as error:
            raise DatasetOpsError(
                f"{path} is no valid Croissant file: {error}", remedy="Report this as a fault."
            ) from None
    if issues.errors:
        raise DatasetOpsError(f"{path}: {issues.report()}", remedy="Report this as a fault.")


def _holds(folder: Path, story: Story) -> bool:
    marker = folder / _MARKER
    tables = all((folder / f"{table}.parquet").is_file() for table in TABLES)
    return tables and marker.is_file() and marker.read_text(encoding="utf-8").split() == [story.version.digest]


def _rows_file(table: str, beside: Path | None) -> dict[str, Any]:
    """The Parquet file of a table: an object with its digest where it is at hand, else named by its pattern."""
    name, file = _rows_id(table), f"{table}.parquet"
    told = {"@id": name, "name": name, "description": f"The rows of {table}.", "encodingFormat": [_PARQUET]}
    if beside is None:
        return {"@type": "cr:FileSet", **told, "includes": file}
    data = (beside / file).read_bytes()
    more = {"contentUrl": file, "contentSize": f"{len(data)} B", "sha256": sha256_hex(data)}
    return {"@type": "cr:FileObject", **told, **more}


def _rows_id(table: str) -> str:
    return f"{table}-rows"


def _column(table: str, name: str, beside: Path | None) -> dict[str, Any]:
    return {"fileObject" if beside else "fileSet": {"@id": _rows_id(table)}, "extract": {"column": name}}


def _field(table: str, name: str, kind: str, beside: Path | None) -> dict[str, Any]:
    source = _column(table, name, beside)
    return {"@type": "cr:Field", "@id": f"{table}/{name}", "name": name, "dataType": kind, "source": source}


def _samples(beside: Path | None) -> dict[str, Any]:
    fields = [_field("samples", item.name, _TYPES[item.type], beside) for item in TABLES["samples"]]
    fields.append(_field("samples", "path", "sc:Text", beside))
    told = "One record an image: where it is from, its rights, its split. `path` is the image's place in this folder."
    return _record_set("samples", told, "sample_id", fields)


def _images(beside: Path | None) -> dict[str, Any]:
    """Images that are there, each with the identity of its sample: joined by the place of the file."""
    source = {"fileSet": {"@id": _IMAGES}}
    place: dict[str, Any] = {"@type": "cr:Field", "@id": "images/path", "name": "path", "dataType": "sc:Text"}
    place["source"] = {**source, "extract": {"fileProperty": "fullpath"}, "transform": {"regex": "(.*)"}}
    place["references"] = _column("samples", "path", beside)
    content: dict[str, Any] = {
        "@type": "cr:Field",
        "@id": "images/image",
        "name": "image",
        "dataType": "sc:ImageObject",
    }
    content["source"] = {**source, "extract": {"fileProperty": "content"}}
    own = {name: _column("samples", name, beside) for name in ("sample_id", "split")}
    fields = [
        {"@type": "cr:Field", "@id": f"images/{name}", "name": name, "dataType": "sc:Text", "source": column}
        for name, column in own.items()
    ]
    return _record_set("images", "One record an image that is in this folder.", "path", [place, content, *fields])


def _annotations(beside: Path | None) -> dict[str, Any]:
    fields = [_field("annotations", item.name, _TYPES[item.type], beside) for item in TABLES["annotations"]]
    told = (
        "One record an annotation, of the sample that `sample_id` names. Boxes are x1, y1, x2, y2 in pixels from the "
        "image's top left corner. Rows whose `role` is vote are single answers that were merged into others."
    )
    return _record_set("annotations", told, "annotation_id", fields)


def _classes(story: Story) -> dict[str, Any]:
    fields = [
        {"@type": "cr:Field", "@id": f"classes/{name}", "name": name, "dataType": kind}
        for name, kind in (("name", "sc:Text"), ("definition", "sc:Text"))
    ]
    told = _record_set("classes", "The classes of the label schema.", "name", fields)
    rows = [
        {"classes/name": item.name, "classes/definition": item.definition}
        for item in story.version.schema.classes
        if not item.deprecated
    ]
    return told | {"data": rows}


def _record_set(name: str, told: str, key: str, fields: list[dict[str, Any]]) -> dict[str, Any]:
    key_of = {"@id": f"{name}/{key}"}
    return {
        "@type": "cr:RecordSet", "@id": name, "name": name, "description": told, "key": key_of, "field": fields,
    }  # fmt: skip


def _responsible(story: Story) -> dict[str, Any]:
    """Properties of the Responsible AI vocabulary that are on record."""
    counted = story.figures
    tools = sorted(
        {
            f"{event.parameters['tool']} {event.parameters.get('tool_version', '')}".strip()
            for event in (entry.event for entry in story.entries)
            if event.kind == "label-pull" and "tool" in event.parameters
        }
    )
    origins = [f"{name} ({count:,} images)" for name, count in counted.origins.items() if name != NONE]
    consents = [f"consent {name}: {count:,} images" for name, count in counted.consents.items() if name != NONE]
    told = {
        "rai:dataCollection": f"Collected from: {', '.join(origins)}." if origins else "",
        "rai:dataAnnotationPlatform": tools,
        "rai:machineAnnotationTools": [name for name in counted.models if name != NONE],
        "rai:dataAnnotationProtocol": [f"labeling guide {story.version.commit.guide}"]
        * bool(story.version.commit.guide),
        "rai:dataLimitations": gaps(story),
        "rai:personalSensitiveInformation": consents,
    }
    return {name: value for name, value in told.items() if value}
