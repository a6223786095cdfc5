"""What a version can be compared with: another version, a folder of images, or a table of metadata."""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa

from datasetops.audits.base import Baseline
from datasetops.audits.run import Embeddings
from datasetops.errors import FormatError, NotFoundError, did_you_mean
from datasetops.formats.columns import json_text
from datasetops.formats.listing import Listing
from datasetops.formats.problems import Problems
from datasetops.formats.table_columns import ALIASES, SAMPLE_COLUMNS, SIDES, TABLE_SUFFIXES, TIMES
from datasetops.formats.table_read import read_table
from datasetops.identity import sample_ids
from datasetops.manifest import Repository, Version
from datasetops.media import ScanCache, scan_media
from datasetops.progress import Progress, no_progress
from datasetops.records import ANNOTATIONS, SAMPLES, sha256_hex
from datasetops.store.media import Media
from datasetops.store.source import open_source
from datasetops.store.source_local import WithFiles
from datasetops.store.tree import SourceTree

_COLUMNS: Final = tuple(name for name in SAMPLE_COLUMNS if name not in TIMES)


def baseline_of(
    repository: Repository, where: str, *, model: str | None = None, progress: Progress = no_progress
) -> Baseline:
    """The version or branch called `where`, else the images of a folder (or s3://bucket/prefix), else a table's rows.

    A table is CSV, TSV or Parquet with a column `path` or `uri`; others, but labels and ids, are metadata. Images are
    looked for below its folder; without them only the metadata can be compared. Samples of folders and tables have no
    annotations.
    Embeddings are of `model`, the repository's by default, made when they are asked for and kept in its cache.

    Raises NotFoundError where `where` is none of these, FormatError where nothing can be read from it.
    """
    version = _version(repository, where)
    if version is not None:
        samples, annotations = version.table("samples").to_pandas(), version.labels().to_pandas()
        return _baseline(repository, version.name, samples, annotations, model, progress)
    tree = _source(repository, where)
    rows = _images(tree) if tree.single_file is None else _table(tree, tree.single_file)
    samples = _samples(rows, tree, repository, progress)
    content = sha256_hex(pd.util.hash_pandas_object(samples, index=False).to_numpy().tobytes())
    name = f"{Path(where).name or where} ({content[:8]})"
    return _baseline(repository, name, samples, ANNOTATIONS.empty_table().to_pandas(), model, progress)


def refuse_itself(version: Version, baseline: Baseline) -> None:
    """Raises ValueError where a version would be compared with itself."""
    if baseline.name == version.name:
        raise ValueError(f"{version.name} cannot be compared with itself: name another version, a folder or a table")


def _version(repository: Repository, name: str) -> Version | None:
    """None where there is no such version or branch."""
    try:
        return repository.version(name)
    except NotFoundError:
        if name in repository.branches():  # which has no version yet
            raise
        return None


def _source(repository: Repository, where: str) -> SourceTree:
    try:
        return open_source(where)
    except NotFoundError:
        known = [*(version.name for version in repository.versions()), *repository.branches()]
        raise NotFoundError(
            f"{where!r} is no version, branch, folder or table.",
            remedy=did_you_mean(where, known, noun="versions and branches"),
        ) from None


def _images(tree: SourceTree) -> list[dict[str, Any]]:
    paths = Listing(tree, Problems(tree)).images
    if not paths:
        raise FormatError(
            f"{tree.url} holds no image.", remedy="Name a folder with images, or a CSV or Parquet table of metadata."
        )
    return [{"media": path} for path in paths]


def _table(tree: SourceTree, path: str) -> list[dict[str, Any]]:
    """A row each with `media`, columns of records.SAMPLES, and all else in `metadata`."""
    address = tree.uri(path)
    if not path.lower().endswith(TABLE_SUFFIXES):
        raise FormatError(
            f"{address} is neither a folder nor a table.",
            remedy=f"Name a folder, or a file of {', '.join(TABLE_SUFFIXES)}.",
        )
    table = read_table(tree, path, Problems(tree))
    by_name = {name.strip().lower(): name for name in reversed(table.columns)}
    key = next((by_name[name] for name in ALIASES["path"] if name in by_name), None)
    if key is None:
        raise FormatError(
            f"{address} has no column path or uri (columns: {', '.join(list(table.columns)[:10])}).",
            remedy="Add one that names the image of each row.",
        )
    labels = {name for part, names in ALIASES.items() if part != "path" for name in names}
    columns = {name: table.values(name) for name in table.columns if name != key and name.strip().lower() not in labels}
    own = {by_name[name]: name for name in _COLUMNS if name in by_name and by_name[name] != key}
    rows: list[dict[str, Any]] = []
    for at, media in enumerate(table.columns[key]):
        if media is None:
            raise FormatError(f"{table.where(at)}: the column {key!r} is empty.", remedy="Name the row's image.")
        row: dict[str, Any] = {"media": str(media), "metadata": {}}
        for name, values in columns.items():
            value = values[at]
            part = own.get(name)
            if value is None:
                continue
            if part in SIDES and isinstance(value, int | float) and value == int(value) and 0 < value < 2**31:
                row[part] = int(value)
            elif part is not None and part not in SIDES:
                row[part] = str(value)
            else:
                row["metadata"][name] = value
        rows.append(row)
    return rows


def _samples(rows: list[dict[str, Any]], tree: SourceTree, repository: Repository, progress: Progress) -> pd.DataFrame:
    """Columns of records.SAMPLES. Images that cannot be used are left out of a folder, and without a digest in a table."""
    media = Media(repository.store, repository.root)
    paths = [_path(row["media"], tree) for row in rows]
    places = {path for path in paths if "://" not in path and (path[:1] != "/" or "://" not in tree.url)}
    files = WithFiles(tree, sorted(places))
    cache = ScanCache(repository.cache / "media.sqlite")
    facts = scan_media(files, sorted(places), cache=cache, jobs=repository.settings.jobs, progress=progress)
    good = {fact["media"]: fact for fact in facts.to_pylist() if not fact["error"]}
    if tree.single_file is None:
        rows = [row for row in rows if row["media"] in good]
        paths = [row["media"] for row in rows]
        if not rows:
            errors = sorted(set(facts["error"].to_pylist()))
            raise FormatError(
                f"None of the {len(places):,} images in {tree.url} can be read: {errors[0]}.",
                remedy="Name another folder.",
            )
    full = []
    for row, path in zip(rows, paths, strict=True):
        fact = good.get(path)
        found = {name: fact[name] for name in ("sha256", "width", "height", "media_type")} if fact else {}
        uri = media.relative(files.uri(path)) if path in places else path
        full.append({**row, **found, "uri": uri, "metadata": json_text(row.get("metadata", {}))})
    table = pa.Table.from_pylist(full, schema=SAMPLES).to_pandas()
    table["sample_id"] = sample_ids(table[["sample_id", "uri", "sha256"]], table[["sample_id", "uri"]][:0])
    result: pd.DataFrame = table.sort_values("sample_id", kind="stable").reset_index(drop=True)
    return result


def _path(given: str, tree: SourceTree) -> str:
    """Where an image is: below the tree, else on this machine by its absolute path, else as it was given."""
    path = given.removeprefix(f"{tree.url}/").removeprefix("./")
    if "://" in path or "://" in tree.url:
        return path
    whole = posixpath.normpath(posixpath.join(tree.url, path))
    return whole.removeprefix(f"{tree.url}/")


def _baseline(
    repository: Repository,
    name: str,
    samples: pd.DataFrame,
    annotations: pd.DataFrame,
    model: str | None,
    progress: Progress,
) -> Baseline:
    embeddings = Embeddings(repository, model or repository.settings.model, samples, progress)
    return Baseline(name, samples, annotations, embeddings)
