"""Send samples of a version to be labeled."""

from __future__ import annotations

import json
import random
import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from datasetops.errors import ConflictError, DatasetOpsError, NotFoundError
from datasetops.images import ImageError, read_header
from datasetops.labeling.base import Address, LabelServer, Task
from datasetops.labeling.batch import (
    Batch,
    Project,
    find_batch,
    image_sizes,
    load_project,
    save_batch,
    save_project,
)
from datasetops.ledger import Event
from datasetops.manifest import Repository, Version
from datasetops.progress import Progress, no_progress
from datasetops.records import canonical_json, sha256_hex
from datasetops.store.media import Media

_TURNED = ("image/jpeg", "image/tiff", "image/webp", "image/png")  # formats that carry an EXIF orientation
_NOT_SHOWN = ("image/tiff", "image/jp2", "image/x-portable-pixmap")


@dataclass(frozen=True)
class PushResult:
    """`images` is a sentence that tells how the images get to the browser; `warnings` are about some that will not."""

    batch: str
    project: str
    version: str
    tasks: int
    created: int
    existing: int
    removed: int
    renewed: int
    gold: int
    with_predictions: int
    images: str
    warnings: tuple[str, ...] = ()


def make_batch(
    repository: Repository,
    version: Version,
    sample_ids: Sequence[str],
    project: Project,
    *,
    name: str | None = None,
    gold: Sequence[str] = (),
    overlap: int = 1,
    predictions: bool = True,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Batch:
    """The record of a batch, not stored yet. The same samples and options give the same batch, whatever came since.

    `sample_ids` are asked in their order. `gold` samples, whose annotations in the version are known to be right, are
    mixed in at random places; the right answers stay here. Raises NotFoundError for unknown samples.
    """
    if project.url and version.commit.schema != project.schema:
        raise ConflictError(
            f"The project {project.name!r} was made for another label schema than that of {version.name}.",
            remedy=f"Bring it up to date first: dsops label setup {version.name} --project {shlex.quote(project.name)}",
        )
    wanted = list(dict.fromkeys(sample_ids))
    hidden = [name for name in dict.fromkeys(gold) if name not in set(wanted)]
    if not wanted:
        raise DatasetOpsError("There is nothing to push.", remedy="Choose other samples: --where, --batch.")
    if overlap < 1:
        raise ValueError(f"overlap: expected 1 or more annotators; got {overlap}")
    everything = pa.array([*wanted, *hidden, *gold], pa.string())
    there = version.state("samples").contains(everything)
    if not there.all():
        lost = [name for name, known in zip(everything.to_pylist(), there, strict=True) if not known]
        raise NotFoundError(
            f"{version.name} has no sample {lost[0]!r}" + (f" and {len(lost) - 1} others." if len(lost) > 1 else "."),
            remedy="Choose samples of this version, or push the version that has them.",
        )
    order = list(wanted)
    places = random.Random(seed)  # noqa: S311 (any order will do, as long as it is the same again)
    for item in hidden:
        order.insert(places.randint(0, len(order)), item)
    right: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows_by_sample(version, list(gold)).values() if gold else ():
        for annotation in row:
            right[annotation["sample_id"]].append(plain_row(annotation))
    if name is None:
        same = [order, sorted(gold), overlap, predictions]
        name = f"{project.name}-{sha256_hex(canonical_json(same))[:8]}"
    batch = Batch(
        name=name,
        project=project.name,
        version=version.name,
        samples=tuple(order),
        gold={item: right.get(item, []) for item in sorted(set(gold))},
        overlap=overlap,
        predictions=predictions and not project.blind,
        blind=project.blind,
    )
    if (stored := find_batch(repository, name)) is not None:
        if replace(batch, version=stored.version, gold=stored.gold, sizes=stored.sizes) != stored:
            raise ConflictError(
                f"There is a batch {name!r} already, with other samples or options.",
                remedy="Push it again as it was, or give this one another --name.",
            )
        return stored
    return replace(batch, sizes=_unusual_sizes(repository, version, order, progress))


def push(
    repository: Repository,
    batch: Batch,
    server: LabelServer,
    *,
    images: str = "auto",
    progress: Progress = no_progress,
) -> PushResult:
    """Make the tasks of a batch that do not exist yet. Run again after any interruption, it makes the rest."""
    version = repository.version(batch.version)
    media = Media(repository.store, repository.root)
    rows = (
        version.state("samples")
        .rows(pa.array(batch.samples, pa.string()), ["sample_id", "uri", "media_type"])
        .to_pylist()
    )
    uris = {row["sample_id"]: row["uri"] for row in rows}
    places = [media.locate(uris[name]) for name in batch.samples]
    server.prepare(overlap=batch.overlap)
    save_batch(repository, batch)
    address, how = server.image_addresses(places, lambda row: media.read(uris[batch.samples[row]]), images)
    make, shown = task_maker(repository, batch, address)
    counted = server.push(batch.name, batch.samples, make, progress=progress)
    result = PushResult(
        batch=batch.name,
        project=batch.project,
        version=batch.version,
        tasks=len(batch.samples),
        created=counted.created,
        existing=counted.existing,
        removed=counted.removed,
        renewed=counted.renewed,
        gold=len(batch.gold),
        with_predictions=shown,
        images=how,
        warnings=_not_shown(rows),
    )
    project = load_project(repository, batch.project)
    if counted.created or batch.name not in project.pushed:
        _record(repository, batch, server.name, server.version, result)
        names = tuple(sorted({*project.pushed, batch.name}))
        save_project(repository, replace(load_project(repository, batch.project), pushed=names))
    return result


def task_maker(repository: Repository, batch: Batch, address: Address) -> tuple[Callable[[int], Task], int]:
    """(the task in a row of a batch, with the annotations to start from; how many tasks have some)."""
    version = repository.version(batch.version)
    sizes = image_sizes(repository, batch, batch.samples)
    shown = rows_by_sample(version, list(batch.samples)) if batch.predictions else {}
    model = " + ".join(sorted({row["model"] or version.name for rows in shown.values() for row in rows})) or None

    def make(row: int) -> Task:
        name = batch.samples[row]
        rows = shown.get(name, [])
        if name in batch.gold:  # the right answer must not be shown
            rows = [row for row in rows if row["source"] == "model"]
        scores = [row["score"] for row in rows if row["score"] is not None]
        score = min(scores) if scores and min(scores) >= 0 and max(scores) <= 1 else None
        return Task(name, batch.name, address(row), sizes[name], tuple(rows), model, score)

    return make, len(shown.keys() & set(batch.samples))


def rows_by_sample(version: Version, sample_ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The annotations that count, of some samples, with geometry and attributes as objects."""
    table = version.annotations_of(sample_ids)
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in table.filter(pc.is_null(table["role"])).to_pylist():
        for name in ("geometry", "attributes", "answer"):
            row[name] = json.loads(row[name]) if row[name] else None
        rows[row["sample_id"]].append(row)
    return rows


def plain_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row says, without where it came from."""
    names = ("annotation_id", "kind", "label", "x1", "y1", "x2", "y2", "geometry", "text", "attributes")
    return {name: row[name] for name in names if row[name] is not None}


def _unusual_sizes(
    repository: Repository, version: Version, names: Sequence[str], progress: Progress
) -> dict[str, list[int]]:
    """(width, height, orientation) of images that are shown turned, or whose size the version does not have."""
    columns = ["sample_id", "uri", "width", "height", "media_type"]
    rows = version.state("samples").rows(pa.array(names, pa.string()), columns).to_pylist()
    unsure = [row for row in rows if not row["width"] or not row["height"] or row["media_type"] in (None, *_TURNED)]
    media = Media(repository.store, repository.root)
    sizes = {}
    for row in progress(unsure, len(unsure), "Reading image headers"):
        try:
            header = read_header(media.read(row["uri"]))
        except ImageError as error:
            raise DatasetOpsError(
                f"{row['uri']} cannot be shown to annotators: {error}.", remedy="Put the file back, or leave it out."
            ) from None
        if (header.orientation or 1) != 1 or not row["width"] or not row["height"]:
            sizes[row["sample_id"]] = [header.width, header.height, header.orientation or 1]
    return sizes


def _not_shown(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    kinds = Counter(row["media_type"] for row in rows if row["media_type"] in _NOT_SHOWN)
    return tuple(
        f"{count:,} images are {kind}, which browsers do not show: annotators will skip them. Convert them first."
        for kind, count in sorted(kinds.items())
    )


def _record(repository: Repository, batch: Batch, tool: str, release: str, result: PushResult) -> None:
    commit = repository.version(batch.version).commit
    event = Event(
        "label-push",
        repository.settings.actor,
        inputs={"version": batch.version, "schema": commit.schema, "guide": commit.guide},
        outputs={"files": {batch.key: sha256_hex(batch.to_bytes())}, "tasks": result.tasks, "created": result.created},
        parameters={"batch": batch.name, "project": batch.project, "tool": tool, "tool_version": release},
    )
    repository.ledger.record(event)
