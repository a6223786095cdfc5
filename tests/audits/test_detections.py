"""Detections from tables and COCO results, and what is refused."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from datasetops.audits.boxes.detections import COLUMNS, detections_of, read_detections
from datasetops.errors import FormatError, NotFoundError
from datasetops.records import SAMPLES
from datasetops.schema import LabelSchema

Row = dict[str, Any]


@pytest.fixture
def samples() -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "sample_id": ["0012", "b", "c"],
            "uri": ["in/one.jpg", "in/000000000034.jpg", "in/COCO_val2014_000000000056.jpg"],
            "metadata": ['{"image_id":7}', '{"light":"day"}', None],
        }
    )
    return frame.reindex(columns=SAMPLES.names)


def result(image: Any = 7, **more: Any) -> Row:
    return {"image_id": image, "category_id": 1, "bbox": [10, 20, 30, 40], "score": 0.5} | more


def row(**more: Any) -> Row:
    return {"sample_id": "b", "label": "cat", "x1": 1.0, "y1": 2.0, "x2": 9.0, "y2": 8.0, "score": 0.25} | more


@pytest.fixture
def read(tmp_path: Path, samples: pd.DataFrame, schema: LabelSchema) -> Callable[..., pd.DataFrame]:
    """Write rows as a table, or anything else as JSON, and read that back."""

    def read(content: Any, name: str = "found.json") -> pd.DataFrame:
        path = tmp_path / name
        if name.endswith(".csv"):
            pd.DataFrame(content).to_csv(path, index=False)
        elif name.endswith(".parquet"):
            pd.DataFrame(content).to_parquet(path)
        else:
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return read_detections(path, samples, schema)

    return read


@pytest.mark.parametrize("name", ["found.csv", "found.parquet"])
def test_tables_by_sample_and_by_uri(read: Any, name: str) -> None:
    frame = read([row(), row(sample_id="0012", label="dog")], name)
    assert list(frame.columns) == COLUMNS
    assert frame.to_numpy().tolist() == [["b", "cat", 1, 2, 9, 8, 0.25], ["0012", "dog", 1, 2, 9, 8, 0.25]]
    assert frame.attrs["notes"] == ()
    by_uri = [{"uri": "in/one.jpg"} | {k: v for k, v in row().items() if k != "sample_id"}]
    assert read(by_uri, name)["sample_id"].tolist() == ["0012"]


@pytest.mark.parametrize("name", ["found.json", "found.json.gz"])
def test_coco_results(read: Any, name: str) -> None:
    frame = read([result(), result(score=1)], name)
    assert frame.to_numpy().tolist() == [["0012", "dog", 10, 20, 40, 60, s] for s in (0.5, 1)]
    assert frame["score"].dtype == np.float64


@pytest.mark.parametrize(
    ("images", "found"),
    [
        ([7, 7], ["0012", "0012"]),  # the number that the version keeps
        (["b", "c"], ["b", "c"]),
        (["one", "000000000034"], ["0012", "b"]),  # file names
        ([34, 56], ["b", "c"]),  # the numbers at their ends
    ],
)
def test_ways_to_name_an_image(read: Any, images: list[Any], found: list[str]) -> None:
    assert read([result(image) for image in images])["sample_id"].tolist() == found


def test_classes_by_name_and_by_the_document_s_own_ids(read: Any) -> None:
    named = [{"image_id": 7, "label": "bird", "bbox": [1, 2, 3, 4], "score": 0.5}]
    assert read(named)["label"].tolist() == ["bird"]
    document = {"annotations": [result(category_id=91)], "categories": [{"id": 91, "name": "cat"}]}
    assert read(document)["label"].tolist() == ["cat"]


def test_what_is_left_out_is_told(read: Any) -> None:
    frame = read([result(), result(8), result(bbox=[1, 2, 0, 4])])
    assert frame["x1"].tolist() == [10]
    assert frame.attrs["notes"] == (
        "1 of 3 detections were left out: of images that are not in this version",
        "1 of 3 detections were left out: without area",
    )


@pytest.mark.parametrize(
    ("content", "name", "told"),
    [
        ([], "found.json", "no detection"),
        ({"images": []}, "found.json", "holds no list"),
        (b'[{"image_id": 7,]', "found.json", "line 1"),
        (json.dumps([result(score=float("nan"))]).encode(), "found.json", "entry 1, score: not a finite number"),
        ([result(), result(category_id=3)], "found.json", "entry 2: category_id 3 is no class"),
        ([result(), result(bbox=[1, 2, 3])], "found.json", "entry 2, bbox: expected four numbers"),
        ([result(), {"image_id": 7}], "found.json", "entry 2, category_id: expected"),
        ([result(), 5], "found.json", "entry 2: expected an object; got 5"),
        ([result([7])], "found.json", "entry 1, image_id: expected"),
        ([result(score="high")], "found.json", "entry 1, score: expected a number"),
        ([result(), result(score=50)], "found.json", r"entry 2, score: expected a number in \[0, 1\]; got 50"),
        ([result(), result(bbox=[5, 5, -2, 4])], "found.json", "entry 2, x1, y1, x2, y2: the right or lower edge"),
        ([result(bbox=[0.1, 0.2, 0.3, 0.4])], "found.json", "within one pixel"),
        ([result(8)], "found.json", "no image of it belongs"),
        ([row(), row(label="cta")], "found.csv", "line 3, label: 'cta' is no class"),
        ([row(), row(label="NA")], "found.csv", "'NA' is no class"),
        ([row(x2=None)], "found.csv", "line 2, x2: not a finite number"),
        ([row(), row(y1="up")], "found.csv", "line 3, y1: not a finite number; got up"),
        ([row(label=None)], "found.parquet", "row 1, label"),
        ([{"sample_id": "b", "label": "cat"}], "found.csv", "no column x1"),
        ([{"label": "cat"}], "found.csv", "no column sample_id or uri"),
        (b"PAR1 no", "found.parquet.json", "broken JSON"),
    ],
)
def test_refused(read: Any, content: Any, name: str, told: str) -> None:
    with pytest.raises(FormatError, match=told) as error:
        read(content, name)
    assert name in error.value.message
    assert error.value.remedy


def test_unreadable_tables_and_absent_files(tmp_path: Path, samples: pd.DataFrame, schema: LabelSchema) -> None:
    (tmp_path / "found.parquet").write_bytes(b"PAR1 broken PAR1")
    (tmp_path / "found.csv").write_bytes(b"")
    for name in ("found.parquet", "found.csv", "absent.csv"):
        with pytest.raises(FormatError, match=name):
            read_detections(tmp_path / name, samples, schema)
    with pytest.raises(NotFoundError):
        read_detections(tmp_path / "absent.json", samples, schema)


def test_an_image_id_that_names_two_samples(tmp_path: Path, samples: pd.DataFrame, schema: LabelSchema) -> None:
    path = tmp_path / "found.json"
    path.write_text(json.dumps([result()]))
    samples["metadata"] = '{"image_id":7}'
    with pytest.raises(FormatError, match="image_id 7 names 3 samples"):
        read_detections(path, samples, schema)


def test_detections_of_a_context(build: Any) -> None:
    context = build([None, None])
    frame = pd.DataFrame([row(sample_id="s00001"), row(sample_id="s00007")])
    frame.attrs["notes"] = ("2 were left out",)
    context.detections = frame
    found = detections_of(context)
    assert found is not None
    assert found["sample_id"].tolist() == ["s00001"]
    assert found.attrs["notes"] == ("2 were left out",)
    assert detections_of(context) is found

    for broken, error in ((frame.drop(columns="y2"), ValueError), (frame.assign(score=2.0), FormatError)):
        other = build([None, None])
        other.detections = broken
        with pytest.raises(error, match=r"detections"):
            detections_of(other)
