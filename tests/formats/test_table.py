from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from format_cases import assert_same, content, export_again, ingested, jpeg, make_schema, messages, read, write

from datasetops.errors import FormatError
from datasetops.formats import ReadOptions, load_format
from datasetops.schema import LabelSchema
from datasetops.store.source import open_source
from datasetops.store.source_local import LocalTree, WithFiles

pytestmark = pytest.mark.slow

REAL = {
    "nih_chestxray_sample": {"path": "Image Index", "label": "Finding Labels", "group": "Patient ID"},
    "ham10000_metadata": {"id": "image_id", "label": "dx", "group": "lesion_id"},
    "exdark_slices": {},
    "covid_chestxray_metadata": {"label": "finding", "group": "patientid"},
}


@pytest.fixture
def pets() -> LabelSchema:
    return make_schema("cat", "dog", kinds=("classification",))


def source(tmp_path: Path, text: str | bytes, name: str = "table.csv") -> Path:
    images = {f"images/{n}.jpg": jpeg(colour=60 * n) for n in range(3)}
    return write(tmp_path / "set", {name: text, **images})


def metadata(parsed: Any) -> list[dict[str, Any]]:
    return [json.loads(text) if text else {} for text in parsed.samples["metadata"].to_pylist()]


@pytest.mark.parametrize(
    ("name", "suffix"),
    [*((name, ".csv") for name in REAL), ("covid_chestxray_metadata", ".tsv"), ("nih_chestxray_sample", ".parquet")],
)
def test_exported_and_read_again_nothing_differs(data: Path, tmp_path: Path, name: str, suffix: str) -> None:
    path = data / "grouped" / f"{name}.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    multi = "|" in rows[0].get("Finding Labels", "")
    column = REAL[name].get("label", "class")
    classes = sorted({label for row in rows for label in (row[column].split("|") if multi else [row[column]])})
    schema = make_schema(*classes, kinds=("classification",), multi=multi)
    parsed = read("table", path, schema, **REAL[name])
    version = ingested(parsed, path.parent, schema)
    (tmp_path / "out").mkdir()
    out = tmp_path / "out" / f"t{suffix}"
    again, report, _ = export_again("table", version, out)
    assert_same(version, again)
    assert (len(version.samples), parsed.rejected) == (len(rows), 0)
    assert len(version.annotations) == sum(len(row[column].split("|")) if multi else 1 for row in rows)
    assert report.lost == [f"{len(rows)} samples have no image at hand."]


def test_real_cells_are_numbers_or_texts(data: Path) -> None:
    schema = make_schema("x", kinds=("classification",))
    parsed = read("table", data / "grouped/nih_chestxray_sample.csv", schema, path="Image Index", group="Patient ID")
    (row,) = (row for row in parsed.samples.to_pylist() if row["key"] == "00019045_003.png")
    values = json.loads(row["metadata"])
    assert (values["Patient Age"], values["OriginalImagePixelSpacing_x"], values["Follow-up #"]) == ("013M", 0.143, 3)
    assert row["group"] == "19045"


def test_parts_metadata_and_split(tmp_path: Path, pets: LabelSchema) -> None:
    text = (
        "path,label,Split,group,origin,license,consent,captured_at,expires_at,width,age,code,metadata\n"
        'images/0.jpg,cat,train,g1,clinic,CC0,yes,2024-05-31T10:00:00Z,2030-01-01,64,65,007,"{""light"":[1,null]}"\n'
        "images/1.jpg,,,,,,,,,,0.5,,\n"
    )
    parsed = read("table", source(tmp_path, text), pets, split="rest")
    assert messages(parsed) == []
    first, second = parsed.samples.to_pylist()
    assert [first[n] for n in ("split", "group", "origin", "license", "consent")] == [
        "train",
        "g1",
        "clinic",
        "CC0",
        "yes",
    ]
    assert [first[n].isoformat() for n in ("captured_at", "expires_at")] == [
        "2024-05-31T10:00:00+00:00",
        "2030-01-01T00:00:00+00:00",
    ]
    assert metadata(parsed) == [{"age": 65, "code": "007", "light": [1, None]}, {"age": 0.5}]
    assert (second["split"], second["sample_id"], parsed.annotations["key"].to_pylist()) == (
        "rest",
        None,
        ["images/0.jpg"],
    )
    version = ingested(parsed, tmp_path / "set", pets)
    for out in (tmp_path / "out", tmp_path / "p" / "t.parquet"):
        out.parent.mkdir(exist_ok=True)
        again, report, _ = export_again("table", version, out)
        assert_same(version, again)
        assert report.lost == []


def test_several_classes_annotators_and_semicolons(tmp_path: Path) -> None:
    schema = make_schema("cat", "dog", "a|b", kinds=("classification",), multi=True)
    text = (
        "image;label;annotator\nimages/0.jpg;cat | dog;w1\nimages/0.jpg;dog;w2\nimages/1.jpg;a|b;w1\nimages/2.jpg;;\n"
    )
    parsed = read("table", source(tmp_path, text), schema)
    assert messages(parsed) == []
    assert parsed.annotations.select(["label", "actor"]).to_pylist() == [
        {"label": "cat", "actor": "w1"},
        {"label": "dog", "actor": "w1"},
        {"label": "dog", "actor": "w2"},
        {"label": "a|b", "actor": "w1"},
    ]
    version = ingested(parsed, tmp_path / "set", schema)
    again, report, _ = export_again("table", version, tmp_path / "out")
    assert_same(version, again)
    assert report.lost == []


def test_real_crowd_labels(data: Path, tmp_path: Path) -> None:
    with (data / "multiannotator/faces_labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    schema = make_schema(*sorted({row["label"] for row in rows}), kinds=("classification",))
    parsed = read("table", data / "multiannotator/faces_labels.csv", schema, id="item")
    assert (len(parsed.samples), len(parsed.annotations), parsed.rejected) == (584, 5242, 0)
    version = ingested(parsed, tmp_path, schema)
    assert_same(version, export_again("table", version, tmp_path / "out")[0])


@pytest.mark.parametrize(
    ("row", "text", "samples"),
    [
        ("images/1.jpg,dgo", "no class 'dgo'", 2),
        ("images/9.jpg,cat", "'images/9.jpg' is listed, but is not below", 2),
        ("images/0.jpg,dog", "stands in line 2 already", 2),
        ("../1.jpg,dog", "leads out of the folder", 2),
        ("/none/1.jpg,dog", "there is no file '/none/1.jpg'", 2),
        (",dog", "neither a path nor an id", 2),
        ("images/1.jpg", "1 cells, but 2 columns", 2),
        ("images/1.jpg,dog,cat", "3 cells, but 2 columns", 2),
    ],
)
def test_faulty_row_is_left_out_and_the_rest_kept(
    tmp_path: Path, pets: LabelSchema, row: str, text: str, samples: int
) -> None:
    parsed = read("table", source(tmp_path, f"path,label\nimages/0.jpg,cat\n{row}\nimages/2.jpg,dog\n"), pets)
    (message,) = messages(parsed)
    assert message.startswith("table.csv, line 3: ")
    assert text in message
    assert (len(parsed.samples), parsed.annotations["label"].to_pylist()) == (samples, ["cat", "dog"])
    assert parsed.rejected == 1


def test_absolute_paths_of_files_anywhere(tmp_path: Path, pets: LabelSchema) -> None:
    elsewhere = write(tmp_path / "elsewhere", {"a.jpg": jpeg(), "b.jpg": jpeg(colour=9)})
    text = f"path,label\n{elsewhere}/a.jpg,cat\n/{elsewhere}/x/../b.jpg,dog\n{tmp_path}/set/images/0.jpg,cat\n{elsewhere},cat\n"
    parsed = read("table", source(tmp_path, text), pets)
    assert parsed.samples["media"].to_pylist() == [f"{elsewhere}/a.jpg", f"{elsewhere}/b.jpg", "images/0.jpg"]
    assert messages(parsed) == [f"table.csv, line 5: there is no file '{elsewhere}'"]
    beside = read("table", tmp_path / "set" / "table.csv", pets, images=elsewhere)
    assert beside.samples["media"].to_pylist() == ["a.jpg", "b.jpg", f"{tmp_path}/set/images/0.jpg"]


def test_files_that_no_row_names_are_no_findings(tmp_path: Path, pets: LabelSchema) -> None:
    path = source(tmp_path, "path,label\nimages/0.jpg,cat\nimages/out.jpg,dog\n")
    (path / "env").mkdir()
    for link in ("env/python.jpg", "images/out.jpg"):
        (path / link).symlink_to(write(tmp_path, {"far.jpg": jpeg()}) / "far.jpg")
    for name in ("", "table.csv"):
        parsed = read("table", path / name, pets)
        assert parsed.samples["media"].to_pylist() == ["images/0.jpg"]
        assert messages(parsed) == [
            "table.csv, line 3: 'images/out.jpg' is listed, but the link leads out of the folder"
        ]


def test_only_folders_of_named_images_are_looked_into(
    tmp_path: Path, pets: LabelSchema, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = source(tmp_path, f"path,label\nimages/0.jpg,cat\n{tmp_path}/set/images/1.jpg,dog\n")
    write(path, {"env/lib/far.jpg": jpeg()})
    looked: list[str] = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: looked.append(str(folder)) or real(folder))
    parsed = read("table", path / "table.csv", pets)
    assert parsed.samples["media"].to_pylist() == ["images/0.jpg", "images/1.jpg"]
    assert looked == [str(path / "images")]
    tree = LocalTree(path)
    assert [entry.path for entry in WithFiles(tree, ["images/0.jpg"]).walk()] == [f"images/{n}.jpg" for n in range(3)]
    assert str(path / "env" / "lib") not in looked
    (path / "table.csv").write_text("path,label\nfar.jpg,cat\n")  # by its name alone it may be anywhere
    assert read("table", path / "table.csv", pets).samples["media"].to_pylist() == ["env/lib/far.jpg"]
    with pytest.raises(FormatError, match="leads out"):
        list(tree.files_beside(["../a.jpg"]))


@pytest.mark.server
def test_a_table_from_s3_names_no_files_of_this_machine(s3: str, tmp_path: Path, pets: LabelSchema) -> None:
    import boto3

    here = write(tmp_path, {"a.jpg": jpeg()}) / "a.jpg"
    bucket, prefix = s3.removeprefix("s3://").split("/")
    table = f"path,label\nb.jpg,cat\n{here},cat\n"
    for name, body in (("t.csv", table.encode()), ("b.jpg", jpeg())):
        boto3.client("s3").put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=body)
    tree = open_source(f"{s3}/t.csv")
    parsed = load_format("table").read(tree, ReadOptions(tree, pets))
    assert parsed.samples["media"].to_pylist() == ["b.jpg"]
    assert messages(parsed) == [f"t.csv, line 3: '{here}' is not a relative path."]


def test_faulty_values_are_kept_as_metadata(tmp_path: Path, pets: LabelSchema) -> None:
    text = 'path,captured_at,width,id\nimages/0.jpg,"January 22, 2020",-5,x\n"images/1.jpg","a\n2020-01-01",nan,x\n'
    parsed = read("table", source(tmp_path, text), pets)
    assert messages(parsed) == [
        "table.csv, line 3: the id 'x' is that of line 2 too",
        "table.csv, line 2: captured_at 'January 22, 2020' is not a time such as 2024-05-31 or 2024-05-31T13:45:00Z;"
        " kept as metadata",
        "table.csv, line 2: width '-5' is not a number of pixels; kept as metadata",
    ]
    assert metadata(parsed) == [{"captured_at": "January 22, 2020", "width": "-5"}]
    version = ingested(parsed, tmp_path / "set", pets)
    assert_same(version, export_again("table", version, tmp_path / "out")[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\n", "the set is empty"),
        ("", "has no header"),
        ("name,label\n1,cat\n", "no column for the image's path or id. Its columns: name, label"),
        ("path,path\n1,2\n", "'path' stands there twice"),
        ('path,label\na,cat\n"b,dog\n', "line 3: broken CSV"),
        (b"path,label\na,cat\n\xe4,dog\n", "line 3: not UTF-8"),
    ],
)
def test_tables_that_cannot_be_read_at_all(tmp_path: Path, pets: LabelSchema, text: str | bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read("table", source(tmp_path, text), pets)


def test_columns_are_named(tmp_path: Path, pets: LabelSchema) -> None:
    folder = source(tmp_path, "File Name,Kind\nimages/0.jpg,cat\n")
    assert read("table", folder, pets, path="File Name", label="Kind").annotations["label"].to_pylist() == ["cat"]
    with pytest.raises(FormatError, match=r"no column 'File name'.*\n.*Did you mean 'File Name'"):
        read("table", folder, pets, path="File name")
    with pytest.raises(FormatError, match=r"no part 'pth'.*\n.*Did you mean 'path'"):
        read("table", folder, pets, pth="File Name")
    with pytest.raises(FormatError, match="--column path='File Name'"):
        read("table", folder, pets)


def test_which_table(tmp_path: Path, pets: LabelSchema) -> None:
    folder = source(tmp_path, "path\nimages/0.jpg\n", "a.csv")
    assert len(read("table", folder, pets).samples) == 1
    write(folder, {"b.csv": "path\nimages/1.jpg\n"})
    with pytest.raises(FormatError, match=r"several: a\.csv, b\.csv"):
        read("table", folder, pets)
    assert len(read("table", folder / "b.csv", pets).samples) == 1
    with pytest.raises(FormatError, match="is no table"):
        read("table", folder / "images/0.jpg", pets)


def test_parquet_types(tmp_path: Path, pets: LabelSchema) -> None:
    columns = {"path": ["images/0.jpg", "images/1.jpg"], "label": ["cat", None], "group": [7, None]}
    more = {"age": [65.0, float("nan")], "code": ["007", "8"], "tags": [["a"], []]}
    folder = source(tmp_path, "", "x.txt")
    pq.write_table(pa.table(columns | {**more, "day": pa.array([None, 0], pa.date32())}), folder / "t.parquet")
    parsed = read("table", folder, pets)
    assert parsed.samples["group"].to_pylist() == ["7", None]
    assert metadata(parsed) == [
        {"age": 65.0, "code": "007", "tags": ["a"]},
        {"code": "8", "day": "1970-01-01", "tags": []},
    ]
    version = ingested(parsed, folder, pets)
    for name in ("one", "two.parquet"):
        assert_same(version, export_again("table", version, tmp_path / name / name)[0])


def test_images_inside_parquet_are_refused(data: Path, tmp_path: Path, pets: LabelSchema) -> None:
    with pytest.raises(FormatError, match=r"'image' holds bytes.*\n.*Write the images to files"):
        read("table", data / "cifar10n/data.parquet", pets)
    with pytest.raises(FormatError, match="not a Parquet file"):
        read("table", write(tmp_path, {"t.parquet": b"PAR1 no"}) / "t.parquet", pets)


def test_by_reference_only_the_table_is_written(tmp_path: Path, pets: LabelSchema) -> None:
    folder = source(tmp_path, "path,label\nimages/0.jpg,cat\n")
    version = ingested(read("table", folder, pets), folder, pets, copy_media=False)
    report = load_format("table").write(version, tmp_path / "out")
    assert (report.files, report.lost) == (1, ["1 images are named but not copied."])
    again = ingested(read("table", tmp_path / "out", pets, folder), folder, pets)
    assert content(version.samples) == content(again.samples)


def test_several_classes_may_have_a_row_each(tmp_path: Path) -> None:
    schema = make_schema("cat", "dog", "cow", kinds=("classification",), multi=True)
    text = "image,label\nimages/0.jpg,cat\nimages/0.jpg,dog\nimages/0.jpg,cat\nimages/1.jpg,dog|cow\nimages/1.jpg,cat\n"
    parsed = read("table", source(tmp_path, text), schema)
    assert messages(parsed) == ["table.csv, line 4: 'images/0.jpg' stands in line 2 already; that one is kept"]
    assert parsed.annotations["label"].to_pylist() == ["cat", "dog", "dog", "cow", "cat"]


def test_a_column_of_texts_is_told_to_be_metadata(tmp_path: Path) -> None:
    text = "image,text\nimages/0.jpg,AB 12\n"
    notes = read("table", source(tmp_path, text), make_schema("plate", kinds=("text",))).notes
    assert notes[1].startswith("table.csv: the column 'text' is kept as metadata")
    assert len(read("table", source(tmp_path, text), make_schema("plate", kinds=("classification",))).notes) == 1
