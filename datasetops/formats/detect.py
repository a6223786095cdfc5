"""Which format a source most likely is."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import NamedTuple

from datasetops.errors import FormatError
from datasetops.formats.listing import Listing
from datasetops.formats.problems import Problems
from datasetops.formats.table_columns import TABLE_SUFFIXES
from datasetops.store.tree import SourceTree

_BY_SUFFIX = {
    ".arrow": "hf",
    "metadata.jsonl": "hf",
    ".json": "coco",
    ".json.gz": "coco",
    ".yaml": "yolo",
    ".yml": "yolo",
    ".xml": "voc",
} | dict.fromkeys(TABLE_SUFFIXES, "table")


class Guess(NamedTuple):
    format: str
    reason: str


def detect_format(source: SourceTree) -> Guess:
    """The format of a source whose user named none, and why. Looks at file names only.

    Raises FormatError where several fit or none does.
    """
    if source.single_file is not None:
        for suffix, name in _BY_SUFFIX.items():
            if source.single_file.lower().endswith(suffix):
                return Guess(name, f"{source.single_file} ends in {suffix}")
        raise FormatError(
            f"The format of {source.uri(source.single_file)} is not known.", remedy="State it by --format."
        )
    listing = Listing(source, Problems(source))
    guesses = _guesses(listing)
    if not guesses and listing.images:
        return Guess("folder", f"{len(listing.images)} images and no annotation files")
    if len(guesses) == 1:
        return guesses[0]
    found = "; ".join(f"{name}, since there is {reason}" for name, reason in guesses) or "there is no image"
    what = "could be several formats" if guesses else "is no data set"
    raise FormatError(f"{source.url} {what}: {found}.", remedy="State the format by --format, or name the file itself.")


def _guesses(listing: Listing) -> list[Guess]:
    places = {
        "yolo": [path for path in listing.with_suffix(".txt") if "labels" in path.split("/")[:-1]]
        or [path for path in listing.with_suffix("data.yaml", "data.yml") if "/" not in path],
        "voc": listing.with_suffix(".xml"),
        "coco": [path for path in listing.with_suffix(".json", ".json.gz") if _near_top(path) and not _of_hf(path)],
        "hf": listing.with_suffix("metadata.jsonl", "state.json")
        or [path for path in listing.with_suffix(".parquet") if path.startswith("data/")],
        "table": [path for path in listing.with_suffix(*TABLE_SUFFIXES) if "/" not in path],
    }
    return [Guess(name, paths[0]) for name, paths in places.items() if paths]


def _of_hf(path: str) -> bool:
    """Beside the files of a Hugging Face data set that was saved to a disk."""
    return path.rpartition("/")[2] in ("dataset_dict.json", "dataset_info.json", "state.json")


def _near_top(path: str) -> bool:
    """At the top, in annotations/, or in the folder of a split."""
    return len(PurePosixPath(path).parts) <= 2
