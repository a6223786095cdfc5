"""YOLO's data.yaml: names of classes, folders of splits."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import yaml

from datasetops.errors import FormatError
from datasetops.formats.listing import Listing
from datasetops.store.tree import SourceTree

_USUAL_SPLITS = ("train", "val", "test")
NO_SPLIT = frozenset({"path", "names", "nc", "download", "kpt_shape", "flip_idx", "channels", "roboflow"})


@dataclass(frozen=True)
class YoloConfig:
    """`names` by class id, None without a data.yaml; `splits` by folder or list file, as paths inside the tree."""

    path: str | None = None
    names: dict[int, str] | None = None
    splits: dict[str, str] = field(default_factory=dict)


def read_config(source: SourceTree, listing: Listing) -> YoloConfig:
    """The file that was named, else data.yaml or the only other YAML file at the top with `names` in it.

    Raises FormatError for broken YAML (line named), for names that are no list or mapping, and for pose data.
    """
    if source.single_file is not None:
        if not source.single_file.lower().endswith((".yaml", ".yml")):
            raise FormatError(
                f"{source.uri(source.single_file)} is no YAML file.", remedy="Name data.yaml or its folder."
            )
        return _config(source, source.single_file, listing)
    top = [path for path in listing.with_suffix(".yaml", ".yml") if "/" not in path]
    for path in sorted(top, key=lambda path: PurePosixPath(path).stem != "data"):
        if isinstance(document := _load(source, path), dict) and "names" in document:
            return _config(source, path, listing)
    return YoloConfig()


def _load(source: SourceTree, path: str) -> Any:
    try:
        return yaml.safe_load(source.read(path))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise FormatError(
            f"{source.uri(path)}{line}: broken YAML: {error.problem}.", remedy="Mend that line."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise FormatError(f"{source.uri(path)}: broken YAML: {error}.", remedy="Mend or export it again.") from error


def _config(source: SourceTree, path: str, listing: Listing) -> YoloConfig:
    document = _load(source, path)
    uri = source.uri(path)
    if not isinstance(document, dict):
        raise FormatError(f"{uri} is no mapping with `names`.", remedy="Name the data.yaml of a YOLO data set.")
    if document.get("kpt_shape") is not None:
        raise FormatError(
            f"{uri}: YOLO pose labels are not read.", remedy="Convert them to COCO, which holds keypoints."
        )
    given = document.get("names")
    pairs = enumerate(given) if isinstance(given, list) else given.items() if isinstance(given, dict) else None
    if pairs is None:
        raise FormatError(f"{uri} has no `names`.", remedy="List the classes under names, in the order of their ids.")
    names: dict[int, str] = {}
    for number, name in pairs:
        if type(number) is not int or not isinstance(name, str | int | float):
            raise FormatError(f"{uri}: names: {number!r}: {str(name)[:80]!r} is not an id and a name.")
        names[number] = str(name).strip()
    return YoloConfig(path, names, _splits(document, path, listing))


def _splits(document: dict[Any, Any], path: str, listing: Listing) -> dict[str, str]:
    root = document.get("path")
    bases = [posixpath.dirname(path)]
    if isinstance(root, str):
        if root == listing.tree.url or root.startswith(f"{listing.tree.url}/"):
            root = root[len(listing.tree.url) :].strip("/")
        bases.insert(0, posixpath.normpath(posixpath.join(bases[0], root)))
    splits: dict[str, str] = {}
    for name, places in document.items():
        if not isinstance(name, str) or name in NO_SPLIT:
            continue
        for place in places if isinstance(places, list) else [places]:
            if isinstance(place, str) and (found := _inside(place, bases, listing)) is not None:
                splits.setdefault(found, name)
    return splits


def _inside(place: str, bases: list[str], listing: Listing) -> str | None:
    """The folder or list file in the tree; like Ultralytics, `../train` stands for `train` where only that exists."""
    shorter = place
    while shorter.startswith("../"):
        shorter = shorter[3:]
    for candidate in (place, shorter):
        for base in bases:
            found = posixpath.normpath(posixpath.join(base, candidate))
            if found in listing.files or found in listing.folders:
                return found
    return None
