"""A folder for each class: `<class>/x.jpg` or `<split>/<class>/x.jpg`, one class for each image.

The first folder is a class if the schema has it, and a split if what it holds are folders of classes or if it is
called train, val, test or the like. Images at the top, and in a folder `unlabeled` that is no class, have no label. Names
of folders escape what no folder can be called (`N%2FA`). Held are image, class and split; everything else is lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from datasetops.errors import FormatError
from datasetops.formats.base import ExportData, ExportReport, Parsed, ReadOptions
from datasetops.formats.columns import parsed
from datasetops.formats.export import (
    Losses,
    copy_media,
    folder_name,
    media_names,
    new_folder,
    report,
    rows_of,
    split_folders,
)
from datasetops.formats.listing import Listing, is_image
from datasetops.formats.problems import Problems
from datasetops.formats.splits import SPLIT_FOLDERS, UNSPLIT
from datasetops.schema import LabelSchema
from datasetops.store.tree import SourceTree

UNLABELED = "unlabeled"  # folder of images without a class


class FolderFormat:
    name = "folder"

    def read(self, source: SourceTree, options: ReadOptions) -> Parsed:
        if source.single_file is not None:
            raise FormatError(f"{source.uri(source.single_file)} is a file.", remedy="Name the folder of the classes.")
        problems = Problems(options.images)  # the images are the annotations
        listing = Listing(options.images, problems)
        paths = listing.images
        if not paths and not problems.rejected:
            raise FormatError(
                f"{options.images.url} holds no image: the set is empty.", remedy="Name a folder with images in it."
            )
        _report_others(listing, problems)
        splits = _split_folders(paths, options.schema)
        unknown: Counter[tuple[str, str]] = Counter()
        samples: dict[str, list[Any]] = {"key": paths, "media": paths, "split": []}
        annotations: dict[str, list[Any]] = {"key": [], "kind": [], "label": []}
        for path in paths:
            split, folder, label = _place(path, splits, options.schema)
            samples["split"].append(split or options.split)
            if label is not None and options.schema.find(label) is None:
                unknown[folder, label] += 1
            elif label is not None:
                for name, value in (("key", path), ("kind", "classification"), ("label", label)):
                    annotations[name].append(value)
        for (folder, label), count in sorted(unknown.items()):
            problems.unknown_class(label, options.schema, path=folder, where=f"folder {folder}", count=count)
        return parsed(samples, annotations, problems)

    def write(self, data: ExportData, out: Path) -> ExportReport:
        return _write(data, out)


def _split_folders(paths: Iterable[str], schema: LabelSchema) -> dict[str, str | None]:
    """First folders that stand for a split, with its name."""
    splits: dict[str, str | None] = {}
    for path in paths:
        first, *rest = path.split("/")
        if first in splits or not rest or _class_of(first, schema) is not None:
            continue
        holds_class = len(rest) > 1 and (_class_of(rest[0], schema) is not None or rest[0] == UNLABELED)
        if holds_class or first in SPLIT_FOLDERS:
            splits[first] = None if first == UNSPLIT else unquote(first)
    return splits


def _place(path: str, splits: dict[str, str | None], schema: LabelSchema) -> tuple[str | None, str, str | None]:
    """Split, folder of the class, and class (known or not) of an image; None where it has no such folder."""
    folders = path.split("/")[:-1]
    split = splits[folders[0]] if folders and folders[0] in splits else None
    depth = 1 if folders and folders[0] in splits else 0
    if len(folders) <= depth:
        return split, "", None
    folder = folders[depth]
    label = _class_of(folder, schema)
    if label is None and folder != UNLABELED:
        label = unquote(folder)
    return split, "/".join(folders[: depth + 1]), label


def _class_of(folder: str, schema: LabelSchema) -> str | None:
    """The class of the schema that a folder stands for."""
    return next((name for name in (folder, unquote(folder)) if schema.find(name) is not None), None)


def _report_others(listing: Listing, problems: Problems) -> None:
    others = Counter(PurePosixPath(path).suffix.lower() or "no suffix" for path in listing.files if not is_image(path))
    if others:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
        problems.warn(
            f"{sum(others.values())} files are no images and were left alone: {kinds}", path="", severity="low"
        )


def _write(data: ExportData, out: Path) -> ExportReport:
    new_folder(out)
    losses = Losses("folder")
    rows = rows_of(data.annotations.select(["sample_id", "kind", "label"]))
    labels: dict[str, str] = {}
    further = Counter[str]()
    for sample_id, kind, label in zip(*rows.values(), strict=True):
        if kind != "classification" or label is None:
            further[f"annotations of kind {kind}"] += 1
        elif labels.setdefault(sample_id, label) != label:
            further["further classes of an image"] += 1
    unlabeled = UNLABELED if data.schema.find(UNLABELED) is None else ""
    folders = []
    for split, sample_id in zip(split_folders(data.samples), data.samples["sample_id"].to_pylist(), strict=True):
        if split and _class_of(split, data.schema) is not None:
            further["splits that have the name of a class"] += 1
            split = ""
        label = labels.get(sample_id)
        folders.append("/".join(filter(None, [split, unlabeled if label is None else folder_name(label)])))
    for what, count in sorted(further.items()):
        losses.add(count, f"{what} are not written: folder has one class for each image")
    names = media_names(data.samples, folders)
    paths = [f"{folder}/{name}".removeprefix("/") for folder, name in zip(folders, names, strict=True)]
    files = copy_media(data, out, paths)
    losses.sample_ids(data)
    losses.columns(data, samples={"split"}, annotations={"kind", "label", "x1", "geometry"})
    return report(files, losses, data)
