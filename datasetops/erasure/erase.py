"""Erase items: out of every version, every record and every cache, then say so in the ledger and in a certificate.

In this order: the request is noted (with the ids, until all is done); their tasks leave the labeling tools; the items
leave the newest version of each branch by an ordinary commit; their rows leave the segments of all versions; every other
object of the store is searched for them; the certificate is written; an event `erased` names it and what was replaced; the note
is deleted. Each step can be done again, so an interrupted erasure is finished by `resume`.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from datasetops.audits.record import plain
from datasetops.erasure.beside import files_that_name
from datasetops.erasure.scrub import Words, scrubbed
from datasetops.erasure.tasks import batches_of, delete_tasks, servers_of
from datasetops.erasure.traces import Traces, distinct_segments, find_traces
from datasetops.errors import ConflictError, NotFoundError
from datasetops.ledger import HINT, Event
from datasetops.manifest import Change, Repository
from datasetops.manifest.encoding import DELETE
from datasetops.manifest.erasing import (
    ERASED,
    REQUEST,
    Rows,
    erase_rows,
    finish_segments,
    record_replaced,
    replaced_objects,
)
from datasetops.manifest.marks import add_marks
from datasetops.progress import Progress, no_progress
from datasetops.provenance.touched import EXPORTS, carried
from datasetops.records import canonical_json, sha256_hex

EVENT: Final = "erase"
FOLDER: Final = "erasures/"
_MEDIA: Final = "media/"
# What cannot name an item, what is erased row by row, and what is only here.
_APART: Final = ("segments/", "keys/", "refs/", "cache/", "tmp/", FOLDER, _MEDIA, "repository.json", HINT)
_BINARY: Final = (".safetensors", ".onnx", ".pt")
_ROUNDS: Final = 20
REACH: Final = (
    "Copies of the images outside the store, where they were taken in by their place.",
    "Exports and reports that were made, and what others did with them.",
    "Weights of models that learned from the items; train again without them.",
    "Backups of the store, and caches on other machines (delete them; they are made again).",
)


@dataclass(frozen=True)
class Erasure:
    """What was erased, or would be. `objects` were rewritten or deleted, by key; `exports` are destinations that versions
    with the items went to; `batches` those in which annotators got them; `tasks` of them that were deleted in the tool, by
    batch. Images that were copied into the store and belong to nothing else are counted by `images`; `shared` are
    those that stay, because other samples are the same file. `akin`: other samples of the newest version that are of the
    same group, or the same file. `files` of the repository's folder, beside the store, name the items and stay."""

    reason: str
    actor: str
    samples: int
    annotations: int
    rows: Mapping[str, int]
    versions: tuple[str, ...]
    models: Mapping[str, int]
    exports: tuple[Mapping[str, Any], ...]
    batches: tuple[str, ...]
    tasks: Mapping[str, int]
    sealed: tuple[str, ...]
    images: int
    shared: int = 0
    akin: int = 0
    files: tuple[str, ...] = ()
    objects: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    event_id: str = ""
    time: str = ""
    done: bool = False
    reach: tuple[str, ...] = field(default=REACH)

    def as_dict(self) -> dict[str, Any]:
        return dict(plain(asdict(self)))


def erase(
    repository: Repository,
    sample_ids: Sequence[str],
    reason: str,
    *,
    dry_run: bool = False,
    leave_tasks: bool = False,
    certificate: Path | None = None,
    progress: Progress = no_progress,
) -> Erasure:
    """Take samples, their annotations and all records of them out of a repository.

    Images that were copied into the store and belong to no other sample go too, and so do their tasks in labeling
    tools, unless `leave_tasks`. A `dry_run` changes nothing and asks no tool. `certificate` is a
    file that gets the certificate with the ids, also if the erasure is interrupted and resumed. Raises
    ValueError without a reason, NotFoundError for ids that no version ever had, ConflictError where another erasure was
    interrupted, DatasetOpsError where a labeling tool does not answer.
    """
    if not reason.strip():
        raise ValueError("reason: say why the items are erased")
    if repository.store.exists(REQUEST):
        raise ConflictError("An erasure was interrupted.", remedy="Finish it first: dsops erase --resume")
    traces = find_traces(repository, sample_ids)
    unknown = sorted(set(sample_ids) - traces.samples)
    if unknown:
        raise NotFoundError(
            f"No version has ever had {len(unknown):,} of these samples, such as {unknown[0]!r}.",
            remedy=f"Give whole ids: dsops provenance sample {unknown[0]} tells which begin so.",
        )
    planned = _planned(repository, traces, reason)
    if dry_run:
        return planned
    sent = {} if leave_tasks else batches_of(repository, traces.samples)
    servers_of(repository, sent)
    request = {
        "samples": sorted(traces.samples),
        "planned": planned.as_dict(),
        "sent": sent,
        "certificate": str(certificate.absolute()) if certificate else None,
    }
    repository.store.put(REQUEST, canonical_json(request))
    return _carry_out(repository, traces.samples, planned, progress)


def resume(repository: Repository, *, progress: Progress = no_progress) -> Erasure:
    """Finish an erasure that was interrupted. Raises NotFoundError where there is none."""
    try:
        request = json.loads(repository.store.get(REQUEST))
    except NotFoundError:
        raise NotFoundError(
            "No erasure was interrupted.", remedy="Begin one: dsops erase --sample ID --reason TEXT"
        ) from None
    digests = finish_segments(repository.store)
    repository.forget_segments()
    repository.store.put(REQUEST, canonical_json({**request, "rows": sorted({*request.get("rows", ()), *digests})}))
    told = request["planned"]  # as it was found before the first row was gone
    planned = Erasure(**told | {name: tuple(value) for name, value in told.items() if isinstance(value, list)})
    return _carry_out(repository, frozenset(request["samples"]), planned, progress)


def _planned(repository: Repository, traces: Traces, reason: str) -> Erasure:
    sealed: set[str] = set()
    akin = 0
    if repository.head() is not None:
        samples = repository.version().table("samples", ["sample_id", "split", "group", "sha256"])
        mine = samples.filter(pa.array(traces.in_samples(samples)))
        sealed = set(mine["split"].drop_null().to_pylist()) & set(repository.version().commit.sealed)
        akin = traces.akin(samples)
    holding = set(traces.versions)
    wanted = pa.array(sorted(traces.samples), pa.string())
    exports = []
    for entry in repository.ledger.backwards():
        event = entry.event
        if event.kind not in EXPORTS or event.inputs.get("version") not in holding:
            continue
        version = repository.version(event.inputs["version"])
        held = wanted.filter(pa.array(version.state("samples").contains(wanted))).to_pylist()
        if carried(version, event.parameters.get("where"), held):
            exports.append({"version": event.inputs["version"], "time": event.time, **_place(event)})
    media = repository.store.list(_MEDIA)
    copied = sum(key.rpartition("/")[2].partition(".")[0] in traces.images for key in media)
    return Erasure(
        reason, repository.settings.actor, len(traces.samples), len(traces.annotations), traces.rows, traces.versions,
        traces.models, tuple(exports), tuple(sorted(batches_of(repository, traces.samples))), {}, tuple(sorted(sealed)),
        copied, len(traces.shared), akin, files_that_name(repository, Words(traces.words)),
    )  # fmt: skip


def _tasks_left(planned: Erasure) -> list[str]:
    left = [name for name in planned.batches if name not in planned.tasks]
    return [f"Tasks of {', '.join(left)} in a labeling tool, or in files for one: delete them there."] if left else []


def _place(event: Event) -> dict[str, str]:
    told = {**event.parameters, **event.outputs}
    return {name: str(told[name]) for name in ("path", "to", "out", "format", "dataset") if told.get(name)}


def _carry_out(repository: Repository, samples: frozenset[str], planned: Erasure, progress: Progress) -> Erasure:
    store = repository.store
    request = json.loads(store.get(REQUEST))
    known, annotations, images, digests = (
        set(request.get(name, [])) for name in ("words", "annotations", "images", "rows")
    )
    sent = request.get("sent", {})
    tasks = delete_tasks(servers_of(repository, sent), sent, sorted(samples))
    planned = replace(planned, tasks={name: planned.tasks.get(name, 0) + count for name, count in tasks.items()})
    for _ in range(_ROUNDS):
        _leave_heads(repository, samples, planned.reason)
        traces = find_traces(repository, samples, annotations)
        known |= traces.words
        annotations |= traces.annotations
        images |= traces.images
        noted = {"words": known, "annotations": annotations, "images": images, "rows": digests, "samples": samples}
        kept = {name: request.get(name) for name in ("sent", "certificate")}
        request = {name: sorted(values) for name, values in noted.items()} | kept | {"planned": planned.as_dict()}
        store.put(REQUEST, canonical_json(request))  # the words are found in rows that may be gone when it is read
        tail = repository.ledger.tail()
        digests |= _out_of_segments(repository, traces, progress)
        _out_of_objects(repository, Words(known | samples), progress)
        if repository.ledger.tail() == tail and not find_traces(repository, samples, annotations).segments:
            break
    else:
        raise ConflictError("The repository is being written to without pause.", remedy="Run: dsops erase --resume")
    for image in images:  # their names are digests of the images, so that no record keeps them
        for key in list(store.list(f"{_MEDIA}{image[:2]}/{image}")):
            store.delete(key)
    _out_of_cache(repository.cache, Words(known | samples), images)
    replaced = replaced_objects(store)
    done = replace(
        planned, objects=tuple(sorted(replaced)), digests=tuple(sorted(digests)), done=True,
        reach=(*REACH, *_tasks_left(planned)),
        files=files_that_name(repository, Words(known | samples)), time=datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip
    event = Event(ERASED, repository.settings.actor, parameters={"reason": done.reason})
    done = replace(done, event_id=event.event_id)
    certificate = f"{FOLDER}{event.event_id}.json"
    data = canonical_json(done.as_dict())
    event = replace(
        event,
        outputs={
            "files": {certificate: sha256_hex(data)},
            "samples": done.samples,
            "annotations": done.annotations,
            "rows": sorted(digests),
            "replaced": {key: list(pair) for key, pair in replaced.items()},
        },
    )
    add_marks(store, samples | images)
    store.put(certificate, data)
    repository.ledger.record(event)
    if request["certificate"]:
        told = done.as_dict() | {"sample_ids": sorted(samples)}
        Path(request["certificate"]).write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    store.delete(REQUEST)
    return done


def _leave_heads(repository: Repository, samples: frozenset[str], reason: str) -> None:
    """A commit without the samples on every branch whose newest version has any."""
    wanted = pa.array(sorted(samples), pa.string())
    for branch, head in repository.branches().items():
        if head is None:
            continue
        version = repository.version(head)
        there = wanted.filter(pa.array(version.state("samples").contains(wanted)))
        if len(there):
            repository.commit(
                Change(remove_samples=there.to_pylist()),
                message=f"Erase {len(there):,} samples",
                event=Event(EVENT, repository.settings.actor, inputs={"version": head}, parameters={"reason": reason}),
                branch=branch,
                unseal=reason if version.commit.sealed else None,
            )


def _out_of_segments(repository: Repository, traces: Traces, progress: Progress) -> set[str]:
    """Rows that take the items out of newer versions go last: without them those versions would have the items again."""
    found: set[str] = set()
    segments, _ = distinct_segments(repository)
    passes = [(*place, taking) for taking in (False, True) for place in traces.segments]
    for table, identity, taking in progress(passes, len(passes), "Erasing rows"):
        named = traces.in_samples if table == "samples" else traces.in_annotations
        find = named if taking else _that_put(named)
        found.update(erase_rows(repository.store, table, segments[table, identity].info, find))
        for file in (repository.cache / "segments").glob(f"{identity}*"):
            file.unlink(missing_ok=True)
    repository.forget_segments()
    return found


def _that_put(named: Callable[[pa.Table], Rows]) -> Callable[[pa.Table], Rows]:
    """The named rows but for those that remove one."""
    return lambda rows: named(rows) & (rows["_op"].to_numpy() != DELETE)


def _out_of_objects(repository: Repository, words: Words, progress: Progress) -> dict[str, tuple[str, str | None]]:
    """What is to be replaced is noted before anything is, so that readers know what they find in its place."""
    store = repository.store
    keys = [key for key in store.list("") if not key.startswith(_APART) and not key.endswith(_BINARY)]
    replaced: dict[str, tuple[str, str | None]] = {}
    for key in progress(keys, len(keys), "Searching records"):
        before = store.get(key)
        after = scrubbed(key, before, words)
        if after != before:
            replaced[key] = (sha256_hex(before), None if after is None else sha256_hex(after))
    record_replaced(store, replaced)
    for key in replaced:
        after = scrubbed(key, store.get(key), words)
        if after is None:
            store.delete(key)
        else:
            store.put(key, after)
    return replaced


def _out_of_cache(cache: Path, words: Words, images: set[str]) -> None:
    """Delete what may hold the items; all of it is made again when it is needed. Embeddings of others stay."""
    for name in ("thumbnails", "media", "tables"):
        shutil.rmtree(cache / name, ignore_errors=True)
    starts = tuple(image[:12] for image in images)
    for file in list(_files(cache)):
        parts = re.split(r"[/.-]", file.relative_to(cache).as_posix())
        if (starts and any(part.startswith(starts) for part in parts)) or _names_them(file, words):
            if file.suffix == ".arrow" and file.relative_to(cache).parts[0] == "embeddings":
                _without(file, images)
            else:
                file.unlink(missing_ok=True)
                for beside in file.parent.glob(f"{file.name}-*"):  # a database's journal
                    beside.unlink(missing_ok=True)


def _names_them(file: Path, words: Words) -> bool:
    try:
        return words.in_bytes(file.read_bytes())
    except FileNotFoundError:  # the draft of another one, left by an erasure that was killed, and used by now
        return False


def _files(cache: Path) -> Iterator[Path]:
    """All but the copies of segments: those with rows of the items are gone by then."""
    segments = cache / "segments"
    return (path for path in sorted(cache.rglob("*")) if path.is_file() and segments not in path.parents)


def _without(file: Path, images: set[str]) -> None:
    with pa.OSFile(str(file)) as source:
        table = pa.ipc.open_file(source).read_all()
    kept = table.filter(pa.array([key not in images for key in table["key"].to_pylist()]))
    temporary = file.with_suffix(".part")
    with pa.ipc.new_file(str(temporary), kept.schema) as writer:
        writer.write_table(kept)
    temporary.replace(file)
