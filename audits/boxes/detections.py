"""A detector's boxes, from any model, read from a file and checked against a version.

A table of detections has the columns sample_id, label, x1, y1, x2, y2 (xyxy pixels) and score (in [0, 1]).
`frame.attrs["notes"]` holds a sentence for what was left out of it.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson
import pandas as pd

from datasetops.audits.base import AuditContext
from datasetops.errors import FormatError, did_you_mean
from datasetops.formats.jsonfile import load_json
from datasetops.schema import LabelSchema
from datasetops.sheets import as_numbers, read_frame
from datasetops.store.source import open_source

CORNERS: Final = ["x1", "y1", "x2", "y2"]
COLUMNS: Final = ["sample_id", "label", *CORNERS, "score"]
_KEYS: Final = ("sample_id", "uri")
_LISTS: Final = ("annotations", "detections", "predictions")  # where a JSON document that is no list keeps them
_NAMED: Final = 20  # classes that a remedy names at most


def detections_of(context: AuditContext) -> pd.DataFrame | None:
    """Detections of the context's samples: the user's, else out-of-sample ones; None where images cannot be had.

    Raises ValueError for a table of other columns, FormatError for one that `read_detections` would refuse.
    """
    if "detections" not in context.memo:
        frame = context.detections
        if frame is None:
            from datasetops.audits.detector.detections import out_of_sample_detections

            frame = out_of_sample_detections(context)
        else:
            absent = [name for name in COLUMNS if name not in frame.columns]
            if absent:
                raise ValueError(f"detections: expected the columns {', '.join(COLUMNS)}; {absent[0]} is missing")
            notes = frame.attrs.get("notes", ())
            frame = _checked(frame[COLUMNS], "detections", lambda row: f"row {row + 1}", context.schema)
            frame = frame[positions(frame["sample_id"], context.samples["sample_id"]) >= 0].reset_index(drop=True)
            frame.attrs["notes"] = tuple(notes)
        context.memo["detections"] = frame
    found: pd.DataFrame | None = context.memo["detections"]
    return found


def positions(values: pd.Series[Any], known: Any) -> npt.NDArray[np.int64]:
    """Where each value (N,) stands among the `known` ones, which are unique; -1 for those that do not."""
    codes, uniques = pd.factorize(values)
    place = np.append(pd.Index(known).get_indexer(pd.Index(uniques)), -1)  # code -1: a missing value
    return place[codes].astype(np.int64)


def read_detections(path: Path, samples: pd.DataFrame, schema: LabelSchema) -> pd.DataFrame:
    """Detections of a version's samples, from a file.

    A CSV or Parquet table: sample_id or uri, label, x1, y1, x2, y2, score. Or COCO results, JSON: a list of objects with
    image_id, category_id (or `label`), bbox [x, y, width, height] and score; or a document with such a list.
    An image_id is the number that the sample had in its COCO file, else its sample_id, else its file's name without
    ending or the number at the end of that: whichever most images of the file are found by. A category_id is a class id
    of the schema, unless the document lists `categories` with names.

    Raises FormatError that names file and row for unknown classes, scores outside [0, 1], boxes that are not finite or
    inverted, fractions in place of pixels, no rows, and where no image belongs to the version.
    """
    if path.name.endswith((".json", ".json.gz")):
        with _without_collection():
            frame = _from_coco(path, samples, schema)
        noun, first = "entry", 1
    else:
        frame = _from_table(path, samples)
        noun, first = ("row", 1) if path.suffix == ".parquet" else ("line", 2)
    if not len(frame):
        raise FormatError(f"{path}: there is no detection in it.", remedy="Give the detector's boxes, one a row.")
    frame = _checked(frame, str(path), lambda row: f"{noun} {row + first}", schema)
    known = frame["sample_id"].notna().to_numpy()
    if not known.any():
        raise FormatError(
            f"{path}: no image of it belongs to this version.",
            remedy="Give detections on this version's images; a sample_id is the surest way to name one.",
        )
    flat = ((frame["x2"] == frame["x1"]) | (frame["y2"] == frame["y1"])).to_numpy()
    kept = frame[known & ~flat].reset_index(drop=True)
    left_out = {"of images that are not in this version": ~known, "without area": known & flat}
    kept.attrs["notes"] = tuple(
        f"{int(rows.sum()):,} of {len(frame):,} detections were left out: {why}"
        for why, rows in left_out.items()
        if rows.any()
    )
    return kept


def _from_table(path: Path, samples: pd.DataFrame) -> pd.DataFrame:
    """Columns COLUMNS; sample_id is missing where the version has no such sample."""
    # Ids stay as they are written, and a class may be called NA.
    texts = {"sample_id": "str", "uri": "str", "label": "str"}
    empty = {name: [""] for name in (*CORNERS, "score")}
    remedy = "Give a CSV or Parquet table, or COCO results as .json."
    frame = read_frame(path, remedy, dtype=texts, keep_default_na=False, na_values=empty)
    key = next((name for name in _KEYS if name in frame.columns), None)
    absent = ["sample_id or uri"] if key is None else [name for name in COLUMNS[1:] if name not in frame.columns]
    if key is None or absent:
        raise FormatError(
            f"{path}: there is no column {absent[0]} (columns: {', '.join(map(str, frame.columns[:10]))}).",
            remedy="Give the columns sample_id or uri, label, x1, y1, x2, y2 in pixels, and score.",
        )
    codes, ids = pd.factorize(frame[key].astype("str"))
    sample_of = dict(zip(samples[key], samples["sample_id"], strict=True))
    return frame[COLUMNS[1:]].assign(sample_id=_spread([sample_of.get(one) for one in ids], codes))[COLUMNS]


def _from_coco(path: Path, samples: pd.DataFrame, schema: LabelSchema) -> pd.DataFrame:
    """As `_from_table`."""
    tree = open_source(path)
    document: Any = load_json(tree, tree.single_file or "").value
    names = {item.id: item.name for item in schema.classes}
    if isinstance(document, dict):
        names = _categories(document) or names
        document = next((document[name] for name in _LISTS if name in document), None)
    if not isinstance(document, list):
        raise FormatError(
            f"{path} holds no list of detections.",
            remedy="Give COCO results: a list of objects with image_id, category_id, bbox and score.",
        )
    if not document:
        return pd.DataFrame(columns=COLUMNS)
    by_label = isinstance(document[0], dict) and "category_id" not in document[0]
    fields = ("image_id", "label" if by_label else "category_id", "bbox", "score")
    try:
        images, classes, boxes, scores = (list(map(itemgetter(name), document)) for name in fields)
        corners = np.fromiter(chain.from_iterable(boxes), np.float64).reshape(-1, 4)
        score = np.array(scores, np.float64)
        if set(map(len, boxes)) != {4} or score.ndim != 1:
            raise ValueError("bbox")
        (image_codes, image_ids), (class_codes, class_ids) = _coded(images), _coded(classes)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise _first_fault(document, fields, path) from None
    if not by_label:
        known = {str(number): name for number, name in names.items()}
        for code, number in enumerate(class_ids):
            if number not in known:
                row = int(np.flatnonzero(class_codes == code)[0])
                raise _unknown_category(f"{path}, entry {row + 1}", number, names)
        class_ids = [known[number] for number in class_ids]
    with np.errstate(over="ignore"):  # what is not finite is told
        corners[:, 2:] += corners[:, :2]
    return pd.DataFrame(
        {
            "sample_id": _spread(_samples_of(image_ids, samples, path), image_codes),
            "label": _spread(class_ids, class_codes),
            **dict(zip(CORNERS, corners.T, strict=True)),
            "score": score,
        }
    )


def _coded(values: list[Any]) -> tuple[npt.NDArray[np.int64], list[str]]:
    """A code for each id, and the ids as text: 7 and "7" name the same thing. Raises TypeError for anything else."""
    if not set(map(type, values)) <= {int, str}:
        raise TypeError("id")
    codes, uniques = pd.factorize(np.array(values))
    return codes, [str(one) for one in uniques.tolist()]


def _spread(values: Sequence[str | None], codes: npt.NDArray[np.int64]) -> pd.Series[Any]:
    """The value of each code (N,)."""
    return pd.Series(list(values), dtype="str").take(codes).reset_index(drop=True)


def _samples_of(image_ids: list[str], samples: pd.DataFrame, path: Path) -> list[str | None]:
    """The sample of each image id, by the kind of name that finds most of them."""
    ids = samples["sample_id"].tolist()
    stems = samples["uri"].str.rsplit("/", n=1).str[-1].str.rsplit(".", n=1).str[0]
    ends = stems.str.extract(r"(\d+)$")[0].str.lstrip("0")
    kept = pd.Series(
        [orjson.loads(text).get("image_id") if isinstance(text, str) else None for text in samples["metadata"]],
        dtype=object,
    )
    best: list[list[str]] = []
    for names in (kept, samples["sample_id"], stems, ends):
        owners: dict[str, list[str]] = {}
        for name, sample_id in zip(names.tolist(), ids, strict=True):
            if isinstance(name, int | str):
                owners.setdefault(str(name), []).append(sample_id)
        found = [owners.get(one, []) for one in image_ids]
        if sum(map(bool, found)) > sum(map(bool, best)):
            best = found
    for one, owned in zip(image_ids, best, strict=False):
        if len(owned) > 1:
            raise FormatError(
                f"{path}: image_id {one} names {len(owned)} samples of this version: {owned[0]}, {owned[1]}.",
                remedy="Give a table with a column sample_id, or the sample_id as image_id.",
            )
    return [owned[0] if owned else None for owned in best or [[]] * len(image_ids)]


def _categories(document: Mapping[str, Any]) -> dict[Any, str]:
    listed = document.get("categories")
    entries = listed if isinstance(listed, list) else []
    named = (one for one in entries if isinstance(one, dict) and isinstance(one.get("name"), str))
    return {one["id"]: one["name"] for one in named if type(one.get("id")) in (int, str)}


def _unknown_category(where: str, number: str, names: Mapping[Any, str]) -> FormatError:
    shown = ", ".join(f"{one} {name}" for one, name in list(names.items())[:_NAMED])
    return FormatError(
        f"{where}: category_id {number} is no class.",
        remedy=f"Ids are those of the schema: {shown}{', …' if len(names) > _NAMED else ''}. For other ids add "
        'the list `categories` ({"annotations": […], "categories": [{"id", "name"}]}), or a `label` in place of each.',
    )


def _first_fault(document: list[Any], fields: Sequence[str], path: Path) -> FormatError:
    """What is wrong with the first entry that is not as expected."""

    def number(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool)

    expected: dict[str, tuple[str, Callable[[Any], bool]]] = {
        "bbox": ("four numbers", lambda value: isinstance(value, list) and len(value) == 4 and all(map(number, value))),
        "score": ("a number", number),
    }
    remedy = "Give COCO results: a list of objects with image_id, category_id, bbox [x, y, width, height] and score."
    for row, entry in enumerate(document):
        if not isinstance(entry, dict):
            return FormatError(f"{path}, entry {row + 1}: expected an object; got {entry!r:.80}", remedy=remedy)
        for name in fields:
            what, fits = expected.get(name, ("a number or a text", lambda value: type(value) in (int, str)))
            if not fits(value := entry.get(name)):
                text = f"{path}, entry {row + 1}, {name}: expected {what}; got {value!r:.80}"
                return FormatError(text, remedy=remedy)
    return FormatError(f"{path} holds no list of detections.", remedy=remedy)


def _checked(frame: pd.DataFrame, where: str, place: Callable[[int], str], schema: LabelSchema) -> pd.DataFrame:
    """The table with numbers as float64. Raises FormatError that names the first row at fault and its field."""
    for name in frame["label"].unique():
        if schema.find(str(name)) is None:
            row = frame["label"].tolist().index(name)
            raise FormatError(
                f"{where}, {place(row)}, label: {name!r} is no class of the schema.",
                remedy=did_you_mean(str(name), schema.class_names, noun="classes"),
            )
    names = [*CORNERS, "score"]
    given = frame[names]
    numbers = np.stack([as_numbers(given[name]).to_numpy(np.float64) for name in names], axis=1)
    x1, y1, x2, y2, score = numbers.T
    rules: list[tuple[npt.NDArray[np.bool_], list[str], str, str]] = [
        *((~np.isfinite(numbers[:, i]), [name], "not a finite number", "Mend it.") for i, name in enumerate(names)),
        (
            (x2 < x1) | (y2 < y1),
            list(CORNERS),
            "the right or lower edge comes first",
            "Boxes are x1, y1, x2, y2 in pixels (bbox of COCO: x, y, width, height).",
        ),
        (
            (score < 0) | (score > 1),
            ["score"],
            "expected a number in [0, 1]",
            "Give probabilities; divide percents by 100.",
        ),
    ]
    for broken, fields, what, remedy in rules:
        if broken.any():
            row = int(np.argmax(broken))
            shown = ", ".join(f"{given[name].iloc[row]}" for name in fields)
            raise FormatError(f"{where}, {place(row)}, {', '.join(fields)}: {what}; got {shown}", remedy=remedy)
    if len(frame) and max(x2.max(), y2.max()) <= 1:
        raise FormatError(
            f"{where}: all boxes lie within one pixel.",
            remedy="Give pixels: multiply fractions by the image's width and height.",
        )
    return frame.assign(**{name: numbers[:, i] for i, name in enumerate(names)})


@contextmanager
def _without_collection() -> Iterator[None]:
    """Python's garbage collector walks through a document while it is being built, which doubles the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
