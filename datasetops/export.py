"""Write a version out: in another tool's format, or as a plain folder of Parquet and images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datasetops.embedded import STRIPPED, beside_pixels, without_metadata
from datasetops.errors import ConflictError, DatasetOpsError, FormatError
from datasetops.formats import load_writer
from datasetops.formats.base import ExportData
from datasetops.images import ImageError, read_header
from datasetops.ledger import Event
from datasetops.manifest import Repository, Version
from datasetops.progress import Progress, no_progress
from datasetops.records import sha256_hex
from datasetops.store.media import Media, base_name


@dataclass
class ExportResult:
    """`lost` says in words what the format could not hold; `missing` names media that could not be read.

    `beside` counts the files that say more than their pixels, by kind (embedded.KINDS); if `stripped`, the copies do not.
    """

    version: str
    path: str
    format: str
    files: int
    samples: int
    annotations: int
    lost: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    beside: dict[str, int] = field(default_factory=dict)
    stripped: bool = False


def export(
    repository: Repository,
    version: Version,
    out: Path,
    *,
    format: str,
    copy_media: bool = True,
    strip: bool = False,
    where: str | None = None,
    rights: Mapping[str, Any] | None = None,
    progress: Progress = no_progress,
) -> ExportResult:
    """Write a version in a format into a new or empty folder; `where` is a SQL condition as in `Version.where`.

    With `strip` copies of images that say where or by whom they were taken are written without it; raises FormatError
    for one of a type for which that cannot be done.
    `rights` is what the event keeps of them, from datasetops.gate.rights.clear_for_export, which refuses where they are
    broken.
    """
    writer = load_writer(format)
    _refuse_filled(out)
    samples, annotations = version.table("samples"), version.labels()
    if where:
        ids = pa.array(version.where(where), pa.string())
        samples = samples.filter(pc.is_in(samples["sample_id"], ids))
        annotations = annotations.filter(pc.is_in(annotations["sample_id"], ids))
    media = Media(repository.store, repository.root)
    steps = progress(range(len(samples)), len(samples), "Writing images")

    beside: Counter[str] = Counter()

    def read_media(uri: str) -> bytes:
        next(steps, None)
        data = media.read(uri)
        if said := beside_pixels(data):
            beside.update(said.split(", "))
        return _stripped(data, uri) if strip else data

    data = ExportData(samples, annotations, version.schema, read_media, copy_media)
    report = writer.write(data, out)
    for _ in steps:
        pass
    result = ExportResult(
        *(version.name, str(out), writer.name, report.files, len(samples), len(annotations), list(report.lost)),
        beside=dict(beside),
        stripped=strip,
    )
    told = {"format": writer.name, "path": str(out.absolute()), "where": where, "beside": result.beside, "strip": strip}
    _record(repository, "export", version, told | dict(rights or {}))
    return result


def checkout(
    repository: Repository,
    version: Version,
    out: Path,
    *,
    rights: Mapping[str, Any] | None = None,
    progress: Progress = no_progress,
) -> ExportResult:
    """Write a version as plain files: images/, samples.parquet, annotations.parquet, schema.yaml, guide.md.

    Can be interrupted and run again: images that are there with the right digest are not written twice.
    `samples.parquet` has one more column, `path`: where the image lies, null where its media cannot be read. `rights` as
    for `export`.
    """
    marker = out / "version.txt"
    if (
        out.exists()
        and any(out.iterdir())
        and not (marker.is_file() and marker.read_text().split() == [version.digest])
    ):
        _refuse_filled(out)
    out.mkdir(parents=True, exist_ok=True)
    marker.write_text(f"{version.digest}\n")
    media = Media(repository.store, repository.root)
    samples = version.table("samples")
    taken: set[str] = set()
    paths: list[str | None] = []
    result = ExportResult(version.name, str(out), "checkout", 0, len(samples), version.commit.counts["annotations"])
    rows = samples.select(["sample_id", "uri", "sha256", "split"]).to_pylist()
    beside: Counter[str] = Counter()
    for row in progress(rows, len(rows), "Writing images"):
        path = _unique_path(row, taken)
        if row["sha256"] is None:
            paths.append(None)
            continue
        try:
            written, data = _write_once(out / path, row["sha256"], partial(media.read, row["uri"]))
        except DatasetOpsError as error:
            result.missing.append(f"{row['uri']}: {error.message}")
            paths.append(None)
            continue
        result.files += written
        if said := beside_pixels(data):
            beside.update(said.split(", "))
        paths.append(path)
    with_path = samples.append_column("path", pa.array(paths, pa.string()))
    pq.write_table(with_path, out / "samples.parquet", compression="zstd")
    pq.write_table(version.table("annotations"), out / "annotations.parquet", compression="zstd")
    (out / "schema.yaml").write_text(version.schema.to_yaml(), encoding="utf-8")
    if version.guide is not None:
        (out / "guide.md").write_text(version.guide, encoding="utf-8")
    result.beside = dict(beside)
    _record(repository, "checkout", version, {"path": str(out.absolute()), "beside": result.beside, **(rights or {})})
    return result


def _unique_path(row: dict[str, Any], taken: set[str]) -> str:
    folder = f"images/{row['split']}" if row["split"] else "images"
    name = base_name(row["uri"])
    path = f"{folder}/{name}"
    if path in taken:
        path = f"{folder}/{Path(name).stem}-{row['sample_id'][:12]}{Path(name).suffix}"
    taken.add(path)
    return path


def _stripped(data: bytes, uri: str) -> bytes:
    if not beside_pixels(data) and read_header(data).media_type not in STRIPPED:
        return data
    try:
        return without_metadata(data)
    except ImageError as error:
        raise FormatError(f"{uri}: {error}.", remedy="Leave it out with --where, or export without --strip.") from None


def _write_once(path: Path, sha256: str, read: Callable[[], bytes]) -> tuple[bool, bytes]:
    """(whether it was written now, the file's content)."""
    if path.is_file() and sha256_hex(data := path.read_bytes()) == sha256:
        return False, data
    data = read()
    if sha256_hex(data) != sha256:
        raise DatasetOpsError("the file changed since it was ingested; it is left out")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(data)
    temporary.replace(path)
    return True, data


def _refuse_filled(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConflictError(f"{out} is not empty.", remedy="Name a new folder; nothing is ever overwritten.")


def _record(repository: Repository, kind: str, version: Version, parameters: dict[str, Any]) -> None:
    event = Event(kind, repository.settings.actor, inputs={"version": version.name}, parameters=parameters)
    repository.ledger.record(event)
