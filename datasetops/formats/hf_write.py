"""A version as a Hugging Face data set: Parquet files with the images in them, and a card."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from datasetops.errors import StoreError
from datasetops.formats.base import ExportData, ExportReport
from datasetops.formats.coco_write import side_of
from datasetops.formats.export import Losses, media_names, new_folder, report, write_file
from datasetops.formats.geometry import geometry_area, geometry_extent
from datasetops.formats.hf_features import KEY, OWN, class_id
from datasetops.formats.splits import UNSPLIT
from datasetops.records import TIMESTAMP

_PART_BYTES: Final = 64_000_000  # of images in memory, and in one row group
_FILE_BYTES: Final = 500_000_000  # of one file, about: what the Hub advises
_PART_ROWS: Final = 1000
_ALONE: Final = "train"  # what `datasets` calls a set without splits
_FIELDS: Final = ("group", "origin", "license", "consent", "metadata")
_TIMES: Final = ("expires_at", "captured_at")
_OBJECT: Final = ("kind", "geometry", "text", "attributes", "source", "actor", "model", "score", "derived_from")
_VALUE: Final = {
    "string": pa.string(),
    "float64": pa.float64(),
    "int32": pa.int32(),
    "timestamp[us, tz=UTC]": TIMESTAMP,
}
_TASKS: Final = {
    "classification": "image-classification",
    "box": "object-detection",
    "polygon": "image-segmentation",
    "mask": "image-segmentation",
    "keypoints": "keypoint-detection",
    "text": "image-to-text",
}


def write_hf(data: ExportData, out: Path) -> ExportReport:
    """Writes data/SPLIT-00000-of-00001.parquet, …, and README.md into the new or empty folder `out`."""
    folder = new_folder(out)
    writer = _Writer(data)
    splits: dict[str, tuple[str | None, pa.Array]] = {}
    for split in sorted(set(data.samples["split"].to_pylist()), key=lambda name: (name is None, name or "")):
        mine = pc.is_null(data.samples["split"]) if split is None else pc.equal(data.samples["split"], split)
        name = _split_name(split, splits, alone=data.samples["split"].null_count == len(data.samples))
        splits[name] = (split, pc.indices_nonzero(mine))
    files = 0
    for name, (split, rows) in splits.items():
        files += writer.split(folder, name, split, rows)
    counts = {name: len(rows) for name, (_, rows) in splits.items()}
    write_file(folder / "README.md", _card(data, counts).encode())
    return report(files + 1, writer.losses, data)


class _Writer:
    """Makes rows of samples. `columns` are those that hold anything: name → (Arrow type, feature of `datasets`)."""

    def __init__(self, data: ExportData) -> None:
        self._data = data
        self.losses = Losses("a Hugging Face data set")
        self._names = [item.name for item in data.schema.classes]
        self._number = {name: at for at, name in enumerate(self._names)}
        self._media = media_names(data.samples, [""] * len(data.samples))
        notes = data.annotations
        is_class = pc.equal(notes["kind"], "classification")
        placed = pc.or_(pc.is_valid(notes["x1"]), pc.is_valid(notes["geometry"]))
        is_text = pc.and_(pc.equal(notes["kind"], "text"), pc.invert(placed))
        self._multi = data.schema.multi_label
        classes = _by_sample(notes.filter(is_class))
        self._classes, more = (classes, 0) if self._multi else _first(classes)
        self._texts, more_texts = _first(_by_sample(notes.filter(is_text)))
        self._objects = _by_sample(notes.filter(pc.and_(placed, pc.invert(is_class))))
        self._tell(notes, pc.or_(is_class, is_text), pc.or_kleene(pc.or_(is_class, is_text), placed), more, more_texts)
        self._used = [
            name for name in _OBJECT if any(row[name] is not None for rows in self._objects.values() for row in rows)
        ]
        self.columns = self._columns()

    def _tell(self, notes: pa.Table, plain: Any, held: Any, more: int, more_texts: int) -> None:
        data, losses = self._data, self.losses
        named = ExportData(data.samples, notes.filter(plain), data.schema, data.read_media)
        samples = ("split", *_FIELDS, *_TIMES)
        losses.columns(named, samples=samples, annotations=("kind", "label", "text", "x1", "geometry", "annotation_id"))
        rows = [row for group in self._classes.values() for row in group]
        ids = sum(row["annotation_id"] != class_id(row["sample_id"], row["label"], multi=self._multi) for row in rows)
        losses.named("annotation_id", ids + sum(row[0]["annotation_id"] is not None for row in self._texts.values()))
        texts = named.annotations.filter(pc.equal(named.annotations["kind"], "text"))
        losses.add(len(texts) - texts["label"].null_count, "classes of texts without a place are not written")
        losses.add(more, "further classes of images that have one are not written: a label is one class")
        losses.add(more_texts, "further texts of images that have one are not written")
        losses.add(
            len(notes) - pc.sum(pc.fill_null(held, False)).as_py(), "annotations without a place are not written"
        )
        open_ = [row for rows in self._objects.values() for row in rows if row["x1"] is None]
        losses.add(len(open_), "boxes are written that were not stated, around outlines")

    def _columns(self) -> dict[str, tuple[pa.DataType, Any]]:
        samples = self._data.samples
        one = {"names": self._names, "_type": "ClassLabel"}
        columns: dict[str, tuple[pa.DataType, Any]] = {
            "image": (pa.struct([("bytes", pa.binary()), ("path", pa.string())]), {"_type": "Image"}),
            "sample_id": _value("string"),
            "width": _value("int32"),
            "height": _value("int32"),
        }
        if self._classes and self._multi:
            columns["labels"] = (pa.list_(pa.int64()), {"feature": one, "_type": "Sequence"})
        elif self._classes:
            columns["label"] = (pa.int64(), one)
        if self._objects:
            box = {"feature": {"dtype": "float64", "_type": "Value"}, "length": 4, "_type": "Sequence"}
            inside: dict[str, tuple[pa.DataType, Any]] = {
                "id": _value("string"),
                "bbox": (pa.list_(pa.float64(), 4), box),
                "category": (pa.int64(), one),
                "area": _value("float64"),
            }
            inside |= {name: _value("float64" if name == "score" else "string") for name in self._used}
            lists = pa.struct([(name, pa.list_(kind)) for name, (kind, _) in inside.items()])
            told = {name: {"feature": item, "_type": "Sequence"} for name, (_, item) in inside.items()}
            columns["objects"] = (lists, told)
        if self._texts:
            columns["text"] = _value("string")
        columns |= {name: _value("string") for name in _FIELDS if samples[name].null_count < len(samples)}
        return columns | {
            name: _value("timestamp[us, tz=UTC]") for name in _TIMES if samples[name].null_count < len(samples)
        }

    def split(self, folder: Path, name: str, split: str | None, rows: pa.Array) -> int:
        """Writes the files of a split; how many there are."""
        info = {"info": {"features": {column: item for column, (_, item) in self.columns.items()}}}
        own = {"split": split, "schema": self._data.schema.name, "multi": self._multi}
        metadata = {KEY: orjson.dumps(info), OWN: orjson.dumps(own, option=orjson.OPT_SORT_KEYS)}
        schema = pa.schema([(column, kind) for column, (kind, _) in self.columns.items()], metadata=metadata)
        written: list[Path] = []
        target: pq.ParquetWriter | None = None
        size = 0
        try:
            (folder / "data").mkdir(exist_ok=True)
            for part, weight in self._parts(rows):
                if target is None or size + weight > _FILE_BYTES:
                    if target is not None:
                        target.close()
                    written.append(folder / "data" / f".{name}-{len(written):05}.part")
                    target = pq.ParquetWriter(written[-1], schema, compression="zstd", write_page_checksum=True)
                    size = 0
                target.write_table(pa.Table.from_pylist(part, schema=schema))
                size += weight
            if target is not None:
                target.close()
            for number, path in enumerate(written):
                path.rename(path.with_name(f"{name}-{number:05}-of-{len(written):05}.parquet"))
        except OSError as error:
            raise StoreError(
                f"{folder} cannot be written: {error.strerror or error}.", remedy="Free space, or name another folder."
            ) from None
        return len(written)

    def _parts(self, rows: pa.Array) -> Iterator[tuple[list[dict[str, Any]], int]]:
        """(rows, bytes of their images) for one row group after another."""
        part: list[dict[str, Any]] = []
        size = 0
        numbers = rows.to_pylist()
        for number in numbers:
            sample = self._data.samples.slice(number, 1).to_pylist()[0]
            row = self._row(sample, self._media[number])
            size += len(row["image"]["bytes"] or b"") if row["image"] else 0
            part.append(row)
            if size >= _PART_BYTES or len(part) >= _PART_ROWS:
                yield part, size
                part, size = [], 0
        if part or not numbers:
            yield part, size

    def _row(self, sample: Mapping[str, Any], name: str) -> dict[str, Any]:
        image: dict[str, Any] | None = None
        if sample["sha256"] is not None:
            data = self._data.read_media(sample["uri"]) if self._data.copy_media else None
            image = {"bytes": data, "path": name if data is not None else sample["uri"]}
        key = sample["sample_id"]
        numbers = [self._number[row["label"]] for row in self._classes.get(key, ())]
        texts = self._texts.get(key)
        row = {column: sample.get(column) for column in self.columns} | {"image": image}
        row |= {
            "label": numbers[0] if numbers else None,
            "labels": numbers,
            "text": texts[0]["text"] if texts else None,
        }
        if "objects" in self.columns:
            row["objects"] = self._lists(self._objects.get(key, ()))
        return {column: row[column] for column in self.columns}

    def _lists(self, rows: Any) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {name: [] for name in ("id", "bbox", "category", "area", *self._used)}
        for row in rows:
            shape = orjson.loads(row["geometry"]) if row["geometry"] else None
            corners = [row[side] for side in ("x1", "y1", "x2", "y2")]
            if corners[0] is None and shape is not None:
                corners = list(geometry_extent(shape))
            near, far = np.array(corners[:2], np.float64), np.array(corners[2:], np.float64)
            width, height = side_of(near, far).tolist()
            area = geometry_area(shape) if shape is not None else None
            found["id"].append(row["annotation_id"])
            found["bbox"].append([corners[0], corners[1], width, height])
            found["category"].append(None if row["label"] is None else self._number[row["label"]])
            found["area"].append(width * height if area is None else area)
            for name in self._used:
                found[name].append(row[name])
        return found


def _by_sample(table: pa.Table) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        found.setdefault(row["sample_id"], []).append(row)
    return found


def _first(groups: Mapping[str, list[dict[str, Any]]]) -> tuple[dict[str, list[dict[str, Any]]], int]:
    """One row for each sample, and how many there are beside them."""
    return {key: rows[:1] for key, rows in groups.items()}, sum(len(rows) - 1 for rows in groups.values())


def _value(name: str) -> tuple[pa.DataType, dict[str, str]]:
    return _VALUE[name], {"dtype": name, "_type": "Value"}


def _split_name(split: str | None, taken: Mapping[str, Any], *, alone: bool) -> str:
    """A name that `datasets` takes: words and points."""
    if split is None:
        return _ALONE if alone else UNSPLIT
    name = first = re.sub(r"\W+", "_", split).strip("_") or "split"
    number = 1
    while name in taken:
        number += 1
        name = f"{first}_{number}"
    return name


def _card(data: ExportData, counts: Mapping[str, int]) -> str:
    """The head that `datasets` and the Hub read, and what a person wants to know first."""
    tasks = sorted({_TASKS[kind] for kind in pc.unique(data.annotations["kind"]).to_pylist()})
    files = [{"split": name, "path": f"data/{name}-*"} for name in counts]
    head: dict[str, Any] = {"task_categories": tasks} if tasks else {}
    head |= {"configs": [{"config_name": "default", "data_files": files}], "tags": ["dsops"]}
    labels = {item["values"]: item["counts"] for item in pc.value_counts(data.annotations["label"]).to_pylist()}
    lines = [f"# {data.schema.name}", "", "| split | images |", "|---|---|"]
    lines += [f"| {name} | {count:,} |" for name, count in counts.items()]
    lines += ["", "| class | annotations | definition |", "|---|---|---|"]
    for item in data.schema.classes:
        lines.append(f"| {_cell(item.name)} | {labels.get(item.name, 0):,} | {_cell(item.definition)} |")
    licences = sorted({name for name in data.samples["license"].to_pylist() if name})
    lines += ["", f"Licences of the images: {', '.join(licences) or 'not on record'}.", ""]
    lines += ["```python", "from datasets import load_dataset", "", 'load_dataset("PATH_OF_THIS_FOLDER")', "```", ""]
    told = yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=10_000)
    return f"---\n{told}---\n\n" + "\n".join(lines)


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()
