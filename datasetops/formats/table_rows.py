"""What each row of a table is about: an image of the source, or a sample or annotation that the repository has."""

from __future__ import annotations

import os.path
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from datasetops.formats.listing import Listing, safe_name
from datasetops.formats.problems import Problems
from datasetops.formats.table_read import RawTable
from datasetops.formats.texts import to_text
from datasetops.identity import Known
from datasetops.schema import LabelSchema


@dataclass(frozen=True)
class Rows:
    """A table's rows by the parts that its columns play.

    `worklist`: the table lists findings, many for one sample; `multi`: an image may have several classes, a row each.
    """

    raw: RawTable
    parts: Mapping[str, str]
    problems: Problems
    worklist: bool = False
    multi: bool = False

    def __len__(self) -> int:
        return len(self.raw.lines)

    def texts(self, part: str) -> list[str | None]:
        """A part's cells without spaces around them; None for empty ones and for a part that the table lacks."""
        if part not in self.parts:
            return [None] * len(self.raw.lines)
        cells = self.raw.columns[self.parts[part]]
        return [
            None if cell is None else (cell if type(cell) is str else to_text(cell)).strip() or None for cell in cells
        ]

    @cached_property
    def paths(self) -> list[str | None]:
        return self.texts("path")

    @cached_property
    def ids(self) -> list[str | None]:
        return self.texts("id")

    @cached_property
    def annotation_ids(self) -> list[str | None]:
        return self.texts("annotation_id")

    def reject(self, row: int, message: str, *, given: str | None = None, count: int = 1) -> None:
        self.problems.reject(f"{self.raw.where(row)}: {message}", path=self.raw.path, given=given, count=count)

    def warn(self, row: int, message: str, *, given: str | None = None) -> None:
        self.problems.warn(f"{self.raw.where(row)}: {message}", path=self.raw.path, given=given)


@dataclass
class Subjects:
    """`first`: for each row the first one about the same image or sample, None where the row is left out.

    `keys` names that image by its first row. `samples` has the first rows that are about a sample of the repository,
    and which; `kinds` the rows about one annotation of it, and its kind. `labels` are the classes that each row gives.
    `held`: first rows of images of which another row was rejected.
    """

    labels: list[list[str]]
    first: list[int | None] = field(default_factory=list)
    keys: dict[int, str] = field(default_factory=dict)
    samples: dict[int, str] = field(default_factory=dict)
    kinds: dict[int, str] = field(default_factory=dict)
    held: set[int] = field(default_factory=set)


def subjects(rows: Rows, schema: LabelSchema, images: Listing, known: Known | None) -> Subjects:
    """Rows at fault are rejected whole: neither their labels nor their other columns count."""
    faulty: set[int] = set()
    labels = _labels(rows, schema, faulty)
    found = Subjects(labels)
    targets = _targets(rows, labels, images, known, faulty, found.kinds)
    seen: dict[str, int] = {}
    unusable: set[str] = set()
    owners: dict[str, int] = {}
    given: dict[str, tuple[int, list[str]]] = {}
    faults: set[str] = set()
    for row, (path, number, target) in enumerate(zip(rows.paths, rows.ids, targets, strict=True)):
        key = target or path or number
        found.first.append(None)
        if row in faulty:
            faults |= {key} if key else set()
            continue
        if key is None:
            if labels[row] or not rows.worklist:  # a finding may be about the whole set
                rows.reject(row, "neither a path nor an id")
            continue
        if key in unusable or (rows.worklist and target is None and not labels[row]):
            continue
        own = rows.annotation_ids[row]
        about = own if own is not None and row in found.kinds else key
        if about in given and not _another(rows, row, about, given, found):
            continue
        if key not in seen:
            if target is None and not _usable(rows, row, path, number, owners):
                unusable.add(key)
                continue
            seen[key] = row
            found.keys[row] = key
            if target is not None:
                found.samples[row] = target
        found.first[row] = seen[key]
        given.setdefault(about, (row, []))
        if labels[row] and not given[about][1]:
            given[about] = (row, [])
        given[about][1].extend(labels[row])
    found.held = {seen[key] for key in faults if key in seen}
    found.held |= {first for row in found.kinds if (first := found.first[row]) is not None}
    return found


def _another(rows: Rows, row: int, about: str, given: Mapping[str, tuple[int, list[str]]], found: Subjects) -> bool:
    """Whether a further row about the same may stand.

    One for each annotator, those of a worklist that agree, and those with another class where an image may have several.
    """
    labels = found.labels
    if "annotator" in rows.parts and row not in found.kinds:
        return True
    other, before = given[about]
    if rows.multi and not rows.worklist and row not in found.kinds and set(labels[row]) - set(before):
        return True
    within = not rows.worklist and set(labels[row]) <= set(before)
    agree = not labels[row] or labels[row] == before or within
    if rows.worklist and (agree or not before):
        return True
    where = f"{about!r} stands in line {rows.raw.lines[other]} already"
    if agree or not before:
        rows.reject(row, f"{where}; that one is kept", given=about)
    else:
        named = f"{', '.join(before)} there, {', '.join(labels[row])} here"
        rows.reject(row, f"{where}, and their labels disagree ({named}); the first is kept", given=about)
    return False


def _usable(rows: Rows, row: int, path: str | None, number: str | None, owners: dict[str, int]) -> bool:
    local = "://" not in rows.problems.source.url  # a table from elsewhere has no say in what is read on this machine
    if path is not None and path.startswith("/") and local:
        if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises where a folder may not be looked into
            rows.reject(row, f"there is no file {path!r}", given=path)
            return False
        path = path[1:]
    if path is not None and not safe_name(path, rows.problems, path=rows.raw.path, where=rows.raw.where(row)):
        return False
    if number is not None and owners.setdefault(number, row) != row:
        rows.reject(row, f"the id {number!r} is that of line {rows.raw.lines[owners[number]]} too", given=number)
        return False
    return True


def _labels(rows: Rows, schema: LabelSchema, faulty: set[int]) -> list[list[str]]:
    """The classes that each row gives. Rows with one that the schema does not have are added to `faulty`."""
    labels: list[list[str]] = []
    unknown: dict[str, list[int]] = {}
    for row, (cell, own) in enumerate(zip(rows.texts("label"), rows.annotation_ids, strict=True)):
        if cell is None:
            labels.append([])
            continue
        several = schema.multi_label and own is None and schema.find(cell) is None
        names = list(dict.fromkeys(filter(None, (name.strip() for name in cell.split("|"))))) if several else [cell]
        labels.append(names)
        wrong = next((name for name in names if schema.find(name) is None), None)
        if wrong is not None:
            unknown.setdefault(wrong, []).append(row)
            faulty.add(row)
    for name, found in unknown.items():
        where = rows.raw.where(found[0]) + (f" and {len(found) - 1} more" if len(found) > 1 else "")
        rows.problems.unknown_class(name, schema, path=rows.raw.path, where=where, count=len(found))
    return labels


def _targets(
    rows: Rows,
    labels: list[list[str]],
    images: Listing,
    known: Known | None,
    faulty: set[int],
    kinds: dict[int, str],
) -> list[str | None]:
    """The repository's sample that a row names by its annotation's id, its own id or its uri, else None.

    Absolute paths are made plain, and those of images below the image tree relative ones. Rows that name what there is
    not are added to `faulty`; `kinds` gets the annotations' kinds.
    """
    uris = list(rows.paths)
    below = f"{images.tree.url}/"
    for row, path in enumerate(uris):
        if path is not None and path.startswith("/"):
            uris[row] = plain = f"/{os.path.normpath(path).lstrip('/')}"
            rows.paths[row] = plain.removeprefix(below)
    targets: list[str | None] = [None] * len(rows)
    if known is None:
        return targets
    annotations, samples, at = known.annotations(rows.annotation_ids), known.samples(rows.ids), known.at(uris)
    name = known.version.name
    for row, (own, number, uri) in enumerate(zip(rows.annotation_ids, rows.ids, uris, strict=True)):
        fault: str | None = None
        if row in faulty:
            targets[row] = annotations[own][0] if own in annotations else number if number in samples else at[row]
        elif own is not None and own in annotations:
            targets[row], kinds[row] = annotations[own]
            if number not in (None, targets[row]):
                fault = f"the annotation {own!r} is of the sample {targets[row]!r}, not of {number!r}"
        elif own is not None and labels[row] and (rows.worklist or uri is None):
            fault = f"{name} has no annotation {own!r}"
        elif number is not None and number in samples and (rows.worklist or uri is None or at[row] == number):
            targets[row] = number
        elif (
            at[row] is not None
            and number in (None, at[row])
            and (rows.worklist or uri != rows.paths[row] or uri not in images.files)
        ):
            targets[row] = at[row]
        elif rows.worklist and labels[row] and (number or uri):
            fault = f"{name} has no sample {number or uri!r}"
        elif number is not None and uri is None and known.has_images:
            fault = f"{name} has no sample {number!r}, and there is no path to an image"
        if fault is not None:
            rows.reject(row, fault, given=own or number or uri)
            faulty.add(row)
    return targets
