"""The images of a source: read, copied, stripped of what they say beside their pixels, and held against what was erased."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from datasetops.embedded import KINDS, STRIPPED, without_metadata
from datasetops.formats.base import Parsed
from datasetops.images import ImageError
from datasetops.manifest import Repository
from datasetops.manifest.marks import erased_words
from datasetops.media import ScanCache, scan_media
from datasetops.progress import Progress
from datasetops.records import Finding, sha256_hex
from datasetops.store.media import Media, media_uri
from datasetops.store.source_dvc import DvcTree
from datasetops.store.source_local import WithFiles
from datasetops.store.tree import SourceTree

_SCANNED: Final = "media.sqlite"


def with_media(
    parsed: Parsed,
    tree: SourceTree,
    repository: Repository,
    media: Media,
    *,
    copy: bool,
    strip: bool,
    progress: Progress,
) -> pa.Table:
    """The parsed samples with uri, sha256, size and media type from the files; unusable files become findings."""
    samples = parsed.samples
    paths = pc.unique(samples["media"].drop_null()).to_pylist()
    if not paths:
        uris = pc.coalesce(samples["media"], samples["sample_id"], samples["key"])
        nothing = pa.nulls(len(samples), pa.string())
        return samples.append_column("uri", uris).append_column("sha256", nothing).append_column("media_type", nothing)
    stored = _only_cached(tree, paths)
    tree = WithFiles(tree, paths)
    cache = ScanCache(repository.cache / _SCANNED)
    facts = scan_media(tree, paths, cache=cache, jobs=repository.settings.jobs, progress=progress)
    by_path = {row["media"]: row for row in facts.to_pylist()}
    kept: list[dict[str, Any]] = []
    beside: Counter[str] = Counter()
    for row in samples.to_pylist():
        fact = by_path.get(row["media"])
        if fact is None:  # listed without a file of its own
            kept.append(row | {"uri": row["sample_id"] or row["key"], "sha256": None, "media_type": None})
            continue
        if fact["error"]:
            _leave_out(parsed, row, fact["error"])
            continue
        stated, size = (row["width"], row["height"]), (fact["width"], fact["height"])
        if None not in stated and stated != size:
            text = f"stated size {stated[0]} x {stated[1]}, but the file is {size[0]} x {size[1]}"
            parsed.findings.append(Finding("ingest", "medium", 0.3, text, uri=row["media"]))
        if strip and (fact["beside"] or fact["media_type"] in STRIPPED):
            try:
                plain = without_metadata(tree.read(row["media"]))
            except ImageError as error:
                _leave_out(parsed, row, f"says its {fact['beside'] or 'metadata'} beside the pixels, and {error}")
                continue
            fact |= {"sha256": sha256_hex(plain)}
            media.add(plain, sha256=fact["sha256"], path=row["media"])
        beside.update(fact["beside"].split(", ") if fact["beside"] else ())
        copied = copy or row["media"] in stored
        where = media_uri(fact["sha256"], row["media"]) if copied else media.relative(tree.uri(row["media"]))
        kept.append(row | {"uri": where} | {name: fact[name] for name in ("sha256", "width", "height", "media_type")})
    if beside:
        parsed.notes.append(_told_beside(beside, stripped=strip))
    if stored and not copy:
        parsed.notes.append(
            f"{len(stored):,} images that DVC keeps are not checked out: they were copied into the repository"
        )
    if copy or stored:
        taken = [row for row in kept if copy or row["media"] in stored]
        for row in progress(taken, len(taken), "Copying images"):
            if row["sha256"] and not (strip and row["media_type"] in STRIPPED):
                media.add(tree.read(row["media"]), sha256=row["sha256"], path=row["media"])
    schema = samples.schema.append(pa.field("uri", pa.string())).append(pa.field("sha256", pa.string()))
    return pa.Table.from_pylist(kept, schema=schema.append(pa.field("media_type", pa.string())))


def _leave_out(parsed: Parsed, row: Mapping[str, Any], why: str) -> None:
    parsed.findings.append(Finding("ingest", "high", 0.0, f"{why}; the sample is left out", uri=row["media"]))
    parsed.rejected += 1


def without_erased(rows: pa.Table, parsed: Parsed, tree: SourceTree, repository: Repository) -> pa.Table:
    """The rows without those of which sample id or image were erased; a note tells how many."""
    columns = [rows[name].to_pylist() for name in ("sample_id", "sha256")]
    erased = erased_words(repository.store, {word for column in columns for word in column})
    if not erased:
        return rows
    gone = pa.array([sample_id in erased or sha256 in erased for sample_id, sha256 in zip(*columns, strict=True)])
    paths = rows["media"].filter(gone).drop_null().to_pylist()
    ScanCache(repository.cache / _SCANNED).forget(tree.url, paths)
    number = pc.sum(gone).as_py()
    parsed.notes.append(  # and no finding, which the store would keep
        f"{number:,} samples were erased from this repository, such as {paths[0] if paths else 'one without an image'}: they "
        "are left out (--take-erased takes them)"
    )
    return rows.filter(pc.invert(gone))


def _only_cached(tree: SourceTree, paths: list[str]) -> set[str]:
    """Of some paths those that DVC has, but not where they would be read from later."""
    if not isinstance(tree, DvcTree):
        return set()
    return {path for path in paths if not path.startswith("/") and tree.only_cached(path)}


def _told_beside(beside: Mapping[str, int], *, stripped: bool) -> str:
    counts = ", ".join(f"{kind}: {beside[kind]:,} images" for kind in KINDS if kind in beside)
    if stripped:
        return f"left out of the copies what was said beside the pixels ({counts})"
    return f"files say more than their pixels ({counts}); --copy --strip takes copies without it"
