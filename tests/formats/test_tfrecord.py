"""TFRecord files, read by the real TensorFlow in an environment of its own."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from format_cases import make_schema, write
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from PIL import Image

from datasetops.errors import DatasetOpsError, NotFoundError
from datasetops.formats import ExportData, ExportReport, format_names, load_writer
from datasetops.formats import tfrecord_file as files_module
from datasetops.records import ANNOTATIONS, SAMPLES

pytest.importorskip("google_crc32c")
TENSORFLOW = Path(__file__).parents[2] / "build" / "tensorflow" / "bin" / "python"
SCHEMA = make_schema("dog", 'a "b" \\ä', "cat", kinds=("classification", "box", "polygon"))
READ = """
import glob, hashlib, json, sys
import tensorflow as tf
text, ints, floats = (tf.io.RaggedFeature(kind) for kind in (tf.string, tf.int64, tf.float32))
features = {"image/" + name: text for name in ("encoded", "format", "filename", "source_id", "key/sha256",
    "class/text", "object/class/text")}
features |= {"image/" + name: ints for name in ("width", "height", "class/label", "object/class/label",
    "object/is_crowd", "object/difficult", "object/truncated")}
features |= {"image/object/bbox/" + name: floats for name in ("xmin", "ymin", "xmax", "ymax")}
found = {}
for path in sorted(glob.glob(sys.argv[1] + "/*.tfrecord-*")):
    rows = found[path.rpartition("/")[2]] = []
    for record in tf.data.TFRecordDataset(path):
        values = tf.io.parse_single_example(record, features)
        row = {name: value.numpy().tolist() for name, value in values.items()}
        row |= {name: [item.decode() for item in row[name]] for name in row if features[name] is text and "enc" not in name}
        data = row.pop("image/encoded")
        pixels = tf.io.decode_image(data[0]).numpy() if data else None
        masks = tf.io.parse_single_example(record, {"m": tf.io.RaggedFeature(tf.string, value_key="image/object/mask")})
        row["masks"] = [tf.io.decode_png(mask)[:, :, 0].numpy().tolist() for mask in masks["m"]][:3]
        row["shape"] = None if pixels is None else list(pixels.shape)
        row["pixels"] = None if pixels is None else hashlib.sha256(pixels.tobytes()).hexdigest()
        rows.append(row)
print(json.dumps(found))
"""


def data_of(folder: Path, *, copy_media: bool = True) -> ExportData:
    """Four images in two splits: classes and boxes, a box alone, no annotation, no image at hand."""
    samples, annotations = [], []
    for number, split in enumerate(["train", "val", None, "val"]):
        image = np.full((6, 8, 3), 60 * number, np.uint8)
        image[0, 0] = 255
        out = io.BytesIO()
        Image.fromarray(image).save(out, "PNG")
        write(folder, {f"{number}.png": out.getvalue()})
        digest = hashlib.sha256(out.getvalue()).hexdigest()
        sample: dict[str, Any] = {"sample_id": f"s{number}", "uri": str(folder / f"{number}.png"), "split": split}
        if number < 3:
            sample |= {"sha256": digest, "width": 8, "height": 6, "media_type": "image/png"}
        samples.append(sample)

    def add(sample: str, kind: str, label: str | None, box: tuple[float, ...] = (), **more: Any) -> None:
        row = {"annotation_id": f"{sample}/{len(annotations)}", "sample_id": sample, "kind": kind, "label": label}
        annotations.append(row | {"source": "human"} | dict(zip(("x1", "y1", "x2", "y2"), box, strict=False)) | more)

    add("s0", "classification", "cat")
    add("s0", "box", "dog", (0.0, 1.5, 4.0, 6.0), attributes='{"iscrowd":1,"truncated":true,"pose":"left"}')
    add("s0", "polygon", 'a "b" \\ä', geometry='{"polygons":[[2,3,8,3,8,6]]}')
    add("s1", "box", "cat", (2.0, 0.0, 3.0, 3.0), attributes='{"difficult":false}')
    add("s1", "text", None, text="exit")
    add("s2", "polygon", 'a "b" \\ä', geometry='{"polygons":[[0,0,8,0,8,3,0,3]]}')
    add("s2", "mask", "dog", geometry='{"rle":{"size":[6,8],"counts":[13,5,1,5,24]}}')
    add("s3", "box", "cat", (0.0, 0.0, 1.0, 1.0))
    tables = (pa.Table.from_pylist(samples, schema=SAMPLES), pa.Table.from_pylist(annotations, schema=ANNOTATIONS))
    return ExportData(*tables, SCHEMA, lambda uri: Path(uri).read_bytes(), copy_media)


def written(data: ExportData, out: Path) -> ExportReport:
    return load_writer("tfrecord").write(data, out)


def read(out: Path) -> dict[str, list[dict[str, Any]]]:
    if not TENSORFLOW.exists():
        pytest.skip("there is no TensorFlow: make build/tensorflow/.done")
    done = subprocess.run([TENSORFLOW, "-c", READ, out], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout))


@pytest.mark.server
@pytest.mark.slow
def test_tensorflow_reads_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module.Shards.__init__, "__defaults__", (100,))
    report = written(data_of(tmp_path / "media"), tmp_path / "out")
    found = read(tmp_path / "out")
    assert list(found) == [
        "train.tfrecord-00000-of-00001",
        "unsplit.tfrecord-00000-of-00001",
        "val.tfrecord-00000-of-00002",
        "val.tfrecord-00001-of-00002",
    ]
    assert report.files == 5
    one, three, two, four = (rows[0] for rows in found.values())
    pixels = np.asarray(Image.open(tmp_path / "media" / "0.png"))
    assert (one.pop("pixels"), one.pop("shape")) == (hashlib.sha256(pixels.tobytes()).hexdigest(), [6, 8, 3])
    assert one == {
        "masks": [],  # only one of two objects has an outline
        "image/class/label": [3],
        "image/class/text": ["cat"],
        "image/filename": ["0.png"],
        "image/format": ["png"],
        "image/height": [6],
        "image/key/sha256": [hashlib.sha256((tmp_path / "media" / "0.png").read_bytes()).hexdigest()],
        "image/object/bbox/xmax": [0.5, 1.0],
        "image/object/bbox/xmin": [0.0, 0.25],
        "image/object/bbox/ymax": [1.0, 1.0],
        "image/object/bbox/ymin": [0.25, 0.5],
        "image/object/class/label": [1, 2],
        "image/object/class/text": ["dog", 'a "b" \\ä'],
        "image/object/difficult": [0, 0],
        "image/object/is_crowd": [1, 0],
        "image/object/truncated": [1, 0],
        "image/source_id": ["s0"],
        "image/width": [8],
    }
    assert (two["image/object/class/label"], two["image/object/bbox/xmin"]) == ([3], [0.25])
    assert (three["image/source_id"], three["image/object/class/label"]) == (["s2"], [2, 1])
    inside = [(0, 0, 8, 3), (2, 1, 4, 6)]
    for mask, (x1, y1, x2, y2) in zip(three["masks"], inside, strict=True):
        expected = np.zeros((6, 8), int)
        expected[y1:y2, x1:x2] = 1
        assert np.array_equal(mask, expected)
    assert (four["image/source_id"], four["pixels"], four["image/object/class/label"]) == (["s3"], None, [])
    assert report.lost == [
        "2 annotations without a class or a place are not written: tfrecord has classes and boxes.",
        "1 attributes are not written: tfrecord has no place for them.",
        "1 masks are not written: other objects of their image have none, and the keys ask for one of each.",
        "1 texts are not written: tfrecord has no place for them.",
        "8 sources other than import are not written: tfrecord has no place for them.",
        "1 samples have no image at hand.",
    ]


@pytest.mark.server
@pytest.mark.slow
def test_real_images_and_boxes(data: Path, tmp_path: Path) -> None:
    from datasetops.export import export
    from datasetops.ingest import ingest
    from datasetops.manifest import Repository
    from datasetops.schema import load_schema

    repository = Repository.init(tmp_path / "set", load_schema("blood_cells"))
    ingest(repository, str(data / "bccd/annotations_voc"), images=str(data / "bccd/images"), format="voc")
    version = repository.version()
    result = export(repository, version, tmp_path / "out", format="tfrecord", where="label = 'Platelets'")
    rows = read(tmp_path / "out")["all.tfrecord-00000-of-00001"]
    samples = version.samples().set_index("sample_id")
    assert len(rows) == result.samples
    boxes = []
    for row in rows:
        sample = samples.loc[row["image/source_id"][0]]
        assert row["shape"] == [sample["height"], sample["width"], 3]
        sides = [np.asarray(row[f"image/object/bbox/{side}"]) for side in ("xmin", "ymin", "xmax", "ymax")]
        scale = [sample["width"], sample["height"]] * 2
        boxes += [tuple(box) for box in np.stack(sides, 1) * scale]
    known = version.annotations()
    known = known[known["sample_id"].isin([row["image/source_id"][0] for row in rows])]
    assert np.allclose(sorted(boxes), sorted(known[["x1", "y1", "x2", "y2"]].itertuples(index=False)), atol=1e-3)


def test_the_label_map_is_protobufs_text(tmp_path: Path) -> None:
    written(data_of(tmp_path / "media"), tmp_path / "out")
    file = descriptor_pb2.FileDescriptorProto(name="label_map.proto", syntax="proto2")
    item = file.message_type.add(name="StringIntLabelMapItem")
    item.field.add(name="name", number=1, type=9, label=1)
    item.field.add(name="id", number=2, type=5, label=1)
    whole = file.message_type.add(name="StringIntLabelMap")
    whole.field.add(name="item", number=1, type=11, label=3, type_name="StringIntLabelMapItem")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName("StringIntLabelMap"))()
    text_format.Parse((tmp_path / "out" / "label_map.pbtxt").read_text(), message)
    assert [(one.id, one.name) for one in message.item] == [(1, "dog"), (2, 'a "b" \\ä'), (3, "cat")]


def test_the_same_version_makes_the_same_files_and_nothing_half_is_left(tmp_path: Path) -> None:
    data = data_of(tmp_path / "media")
    for name in ("one", "two"):
        written(data, tmp_path / name)
    first, second = ({f.name: f.read_bytes() for f in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert first == second
    with pytest.raises(DatasetOpsError, match="not empty"):
        written(data, tmp_path / "one")

    def refuse(uri: str) -> bytes:
        raise DatasetOpsError(f"{uri} is gone.")

    with pytest.raises(DatasetOpsError, match="is gone"):
        written(ExportData(data.samples, data.annotations, SCHEMA, refuse), tmp_path / "three")
    assert [file.name for file in (tmp_path / "three").iterdir()] == ["label_map.pbtxt"]
    report = written(data_of(tmp_path / "media", copy_media=False), tmp_path / "four")
    assert "3 images are named but not copied." in report.lost
    assert sum(file.stat().st_size for file in (tmp_path / "four").glob("*.tfrecord-*")) < 3000


def test_values_that_no_feature_holds(tmp_path: Path) -> None:
    for values in ([1, 2.0], ["text"], [None]):
        with pytest.raises(TypeError, match="expected bytes, floats or integers"):
            files_module.example({"x": values})  # type: ignore[dict-item]
    with pytest.raises(NotFoundError, match="no format called 'tfrecords'"):
        load_writer("tfrecords")
    assert "tfrecord" not in format_names()
