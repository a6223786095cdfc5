"""What every format plugin promises; a plugin of another package runs it by being installed."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from format_cases import content, export_again, jpeg, make_schema, messages, write

from datasetops.errors import DatasetOpsError, FormatError
from datasetops.formats import ExportData, ReadOptions, format_names, load_format
from datasetops.formats.base import PARSED_ANNOTATIONS, PARSED_SAMPLES
from datasetops.records import ANNOTATIONS, SAMPLES
from datasetops.store.source import open_source

SCHEMA = make_schema("cat", "dog", "a/b", kinds=("classification", "box", "polygon", "mask"))
TIME = datetime(2024, 5, 31, 10, 0, tzinfo=UTC)


def version(folder: Path, *, full: bool) -> ExportData:
    """Three images in two splits with a class each; `full` adds a value to every other column."""
    more: dict[str, Any] = {
        "group": "g",
        "origin": "o",
        "license": "CC0",
        "consent": "yes",
        "metadata": '{"light":"day"}',
    }
    samples, annotations = [], []
    for number, label in enumerate(("cat", "dog", "a/b")):
        data = jpeg(colour=80 * number)
        write(folder, {f"{number}.jpg": data})
        digest = hashlib.sha256(data).hexdigest()
        sample = {"sample_id": digest[:24], "uri": str(folder / f"{number}.jpg"), "sha256": digest, "split": "train"}
        sample |= {"width": 64, "height": 48, "media_type": "image/jpeg"}
        sample["split"] = "val" if number else "train"
        samples.append(sample | (more | {"expires_at": TIME, "captured_at": TIME} if full else {}))
        name = {"annotation_id": f"{digest[:24]}/label", "sample_id": digest[:24], "label": label, "source": "import"}
        annotations.append(name | {"kind": "classification"})
        if full:
            shape: dict[str, Any] = {
                "kind": "polygon",
                "geometry": '{"polygons":[[1,2,30,2,30,40]]}',
                "attributes": '{"a":1}',
            }
            shape |= {"source": "human", "actor": "kim", "model": "m", "score": 0.5, "derived_from": "x", "text": "t"}
            annotations.append(
                name | shape | {"annotation_id": f"own-{number}", "x1": 1.0, "y1": 2.0, "x2": 30.0, "y2": 40.0}
            )
    tables = (pa.Table.from_pylist(samples, schema=SAMPLES), pa.Table.from_pylist(annotations, schema=ANNOTATIONS))
    return ExportData(*tables, SCHEMA, lambda uri: Path(uri).read_bytes())


@pytest.fixture(params=format_names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_tables_have_the_agreed_columns_and_join(tmp_path: Path, name: str) -> None:
    _, _, parsed = export_again(name, version(tmp_path / "media", full=True), tmp_path / "out")
    assert parsed.samples.schema == PARSED_SAMPLES
    assert parsed.annotations.schema == PARSED_ANNOTATIONS
    keys = parsed.samples["key"].to_pylist()
    assert len(set(keys)) == len(keys) == 3
    assert set(parsed.annotations["key"].to_pylist()) <= set(keys)
    assert messages(parsed) == []


def test_what_does_not_come_back_is_told(tmp_path: Path, name: str) -> None:
    first = version(tmp_path / "media", full=True)
    again, report, _ = export_again(name, first, tmp_path / "out")
    lost = {
        column
        for one, two in ((first.samples, again.samples), (first.annotations, again.annotations))
        for column in one.column_names
        if [row[column] for row in content(one) if column in row]
        != [row[column] for row in content(two) if column in row]
    }
    assert bool(lost) == bool(report.lost), (lost, report.lost)
    assert all(sentence[0].isdigit() and sentence.endswith(".") for sentence in report.lost)


def test_the_same_version_makes_the_same_files(tmp_path: Path, name: str) -> None:
    data = version(tmp_path / "media", full=True)
    written = []
    for out in (tmp_path / "one", tmp_path / "two"):
        report = load_format(name).write(data, out)
        files = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
        assert report.files == len(files)
        written.append(files)
    assert written[0] == written[1]


def test_what_was_exported_can_be_exported_again(tmp_path: Path, name: str) -> None:
    first, _, _ = export_again(name, version(tmp_path / "media", full=True), tmp_path / "one")
    second, report, _ = export_again(name, first, tmp_path / "two")
    assert content(first.samples) == content(second.samples)
    assert content(first.annotations) == content(second.annotations)
    assert report.lost == []


def test_nothing_is_overwritten_and_nothing_half_missing_is_exported(tmp_path: Path, name: str) -> None:
    data = version(tmp_path / "media", full=False)
    with pytest.raises(DatasetOpsError, match="not empty"):
        load_format(name).write(data, write(tmp_path / "taken", {"x": "x"}))
    assert (tmp_path / "taken/x").read_text() == "x"

    def refuse(uri: str) -> bytes:
        raise DatasetOpsError(f"{uri} is gone.")

    with pytest.raises(DatasetOpsError, match="is gone"):
        load_format(name).write(ExportData(data.samples, data.annotations, SCHEMA, refuse), tmp_path / "out")


def test_a_source_without_anything_is_one_clear_error(tmp_path: Path, name: str) -> None:
    tree = open_source(write(tmp_path, {"notes.md": "x"}))
    with pytest.raises(FormatError) as raised:
        load_format(name).read(tree, ReadOptions(tree, SCHEMA))
    assert str(tmp_path) in raised.value.message
    assert raised.value.remedy


@pytest.mark.server
def test_s3_and_disk_are_read_alike(tmp_path: Path, name: str, s3: str) -> None:
    import boto3

    bucket, prefix = s3.removeprefix("s3://").split("/")
    load_format(name).write(version(tmp_path / "media", full=True), tmp_path / "out")
    for path in sorted((tmp_path / "out").rglob("*")):
        if path.is_file():
            key = f"{prefix}/{path.relative_to(tmp_path / 'out').as_posix()}"
            boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=path.read_bytes())
    parsed = []
    for source in (tmp_path / "out", s3):
        tree = open_source(source)
        parsed.append(load_format(name).read(tree, ReadOptions(tree, SCHEMA)))
    assert parsed[0].samples == parsed[1].samples
    assert parsed[0].annotations == parsed[1].annotations
