"""Samples of production as they come: from a folder, a table or a version, with what people said of them since."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import pandas as pd
import pyarrow as pa

from datasetops.audits.sets.baseline import baseline_of
from datasetops.errors import FormatError, NotFoundError, did_you_mean
from datasetops.formats.listing import Listing
from datasetops.formats.problems import Problems
from datasetops.formats.table_columns import ALIASES
from datasetops.formats.table_read import read_table
from datasetops.gate.status import statuses
from datasetops.manifest import Repository, Version
from datasetops.media import ScanCache, scan_media
from datasetops.preannotate.human import BY_PEOPLE
from datasetops.progress import Progress, no_progress
from datasetops.records import ANNOTATIONS
from datasetops.store.media import Media
from datasetops.store.source import open_source
from datasetops.store.tree import SourceTree

_NO_CLASS: Final = ("", "none", "null", "nan")


@dataclass(frozen=True)
class Production:
    """`samples` have columns of records.SAMPLES. `truth`: rows of ANNOTATIONS by people about them.

    `unreadable` by uri, with the reason; `truth_from` says where the labels are from; `shared` samples that training had
    too are left out.
    """

    name: str
    samples: pd.DataFrame
    truth: pa.Table
    truth_from: str
    unreadable: dict[str, str]
    shared: int


def production_of(
    repository: Repository,
    where: str,
    version: Version,
    *,
    taught: Collection[str],
    progress: Progress = no_progress,
) -> Production:
    """Read what `where` names. `taught`: SHA-256 of the images that training had; those are no news.

    Labels come from a table's column label, or from the version itself; of images that have none there, from the newest
    accepted version that holds them. Raises what `baseline_of` raises, FormatError for a label that is no class.
    """
    found = baseline_of(repository, where, progress=progress)
    named = _named_version(repository, where)
    unreadable, labels = {}, pd.DataFrame()
    if named is None:
        tree = open_source(where)
        unreadable = _unreadable(repository, tree, found.samples, progress)
        labels = _table_labels(repository, tree, found.samples, version) if tree.single_file else labels
    else:
        gone = found.samples[found.samples["sha256"].isna()]
        unreadable = dict.fromkeys(gone["uri"].astype(str), "its image is not at hand")
        every = named.labels().to_pandas()
        labels = every[every["source"].isin(BY_PEOPLE)]
    old = found.samples["sha256"].isin(set(taught)).to_numpy()
    samples = found.samples[~old].reset_index(drop=True)
    sources = [where] if len(labels) else []
    later, name = _labeled_since(repository, samples, labels, named)
    sources += [name] if len(later) else []
    tables = [frame for frame in (labels, later) if len(frame)]
    truth = pd.concat(tables, ignore_index=True) if tables else ANNOTATIONS.empty_table().to_pandas()
    truth = truth[truth["sample_id"].isin(samples["sample_id"])]
    rows = pa.Table.from_pandas(truth, schema=ANNOTATIONS, preserve_index=False)
    return Production(found.name, samples, rows, " and ".join(sources), unreadable, int(old.sum()))


def _named_version(repository: Repository, where: str) -> Version | None:
    try:
        return repository.version(where)
    except NotFoundError:
        return None


def _unreadable(repository: Repository, tree: SourceTree, samples: pd.DataFrame, progress: Progress) -> dict[str, str]:
    """Of a folder the images that are left out, of a table those without a digest, each with the reason."""
    media = Media(repository.store, repository.root)
    if tree.single_file is not None:
        lost = samples["uri"][samples["sha256"].isna()].astype(str).tolist()
        return dict.fromkeys(lost, "no image is there; relative paths begin at the table's folder")
    known = set(samples["uri"])
    paths = [path for path in Listing(tree, Problems(tree)).images if media.relative(tree.uri(path)) not in known]
    if not paths:
        return {}
    cache = ScanCache(repository.cache / "media.sqlite")
    facts = scan_media(tree, paths, cache=cache, jobs=repository.settings.jobs).to_pylist()
    return {fact["media"]: str(fact["error"]) for fact in facts if fact["error"]}


def _table_labels(repository: Repository, tree: SourceTree, samples: pd.DataFrame, version: Version) -> pd.DataFrame:
    """Rows of ANNOTATIONS of a table's column label; empty cells were not labeled."""
    table = read_table(tree, str(tree.single_file), Problems(tree))
    by_name = {name.strip().lower(): name for name in reversed(table.columns)}
    path, label = (
        next((by_name[name] for name in ALIASES[part] if name in by_name), None) for part in ("path", "label")
    )
    if path is None or label is None:
        return pd.DataFrame()
    media = Media(repository.store, repository.root)
    ids = dict(zip(samples["uri"], samples["sample_id"], strict=True))
    known = set(version.schema.class_names)
    rows = []
    for at, (file, value) in enumerate(zip(table.columns[path], table.columns[label], strict=True)):
        name = "" if value is None else str(value).strip()
        if name.lower() in _NO_CLASS and name not in known:
            continue
        if name not in known:
            raise FormatError(
                f"{table.where(at)}: {label}: {name!r} is no class of the schema {version.schema.name!r}.",
                remedy=did_you_mean(name, known, noun="classes"),
            )
        text = str(file).removeprefix(f"{tree.url}/").removeprefix("./")
        sample = ids.get(text) or ids.get(media.relative(tree.uri(text)))
        if sample is not None:
            row = {"annotation_id": f"{sample}/{at}", "sample_id": sample, "kind": "classification"}
            rows.append({**row, "label": name, "source": "human"})
    labels: pd.DataFrame = pa.Table.from_pylist(rows, schema=ANNOTATIONS).to_pandas()
    return labels


def _labeled_since(
    repository: Repository, samples: pd.DataFrame, labels: pd.DataFrame, itself: Version | None
) -> tuple[pd.DataFrame, str]:
    """Labels by people that the newest accepted version has of images that have none yet, as of these samples."""
    known = statuses(repository)
    accepted = (one for one in repository.versions() if one.digest in known and known[one.digest].status == "accepted")
    newest = next(accepted, None)
    if newest is None or (itself is not None and newest.digest == itself.digest):
        return pd.DataFrame(), ""
    open_ = samples[~samples["sample_id"].isin(labels["sample_id"] if len(labels) else [])].dropna(subset=["sha256"])
    theirs = newest.table("samples", ["sample_id", "sha256"]).to_pandas().dropna(subset=["sha256"])
    pairs = theirs.merge(open_[["sample_id", "sha256"]], on="sha256", suffixes=("", "_now"))
    rows = newest.labels().to_pandas()
    rows = rows[rows["source"].isin(BY_PEOPLE)].merge(pairs[["sample_id", "sample_id_now"]], on="sample_id")
    rows["sample_id"] = rows.pop("sample_id_now")
    return rows, newest.name
