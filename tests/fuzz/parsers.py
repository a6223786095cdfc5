"""Every parser of what others wrote: what it reads besides, sound files to begin from, and how it is asked."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import ExifTags, Image, PngImagePlugin

from datasetops.schema import LabelSchema

SCHEMA: Final = LabelSchema.model_validate(
    {
        "name": "street", "version": 1,
        "tasks": [
            {"kind": "classification"}, {"kind": "box"}, {"kind": "polygon"}, {"kind": "mask"}, {"kind": "text"},
            {"kind": "keypoints", "keypoints": ["nose", "tail"]},
        ],
        "classes": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
        "attributes": [{"name": "lane", "type": "number"}, {"name": "far", "type": "bool"}],
    }
)  # fmt: skip
_WIDTH, _HEIGHT = 16, 12
Lost = Callable[[bytes, Any], int]  # of what a sound-looking file says, how much is neither read nor reported


@dataclass(frozen=True)
class Parser:
    """`read` gets the path of the mutated file, which is called `name`; `beside` lies next to it."""

    name: str
    kind: str
    seeds: tuple[bytes, ...]
    read: Callable[[Path], Any]
    beside: dict[str, bytes] = field(default_factory=dict)
    lost: Lost | None = None
    called: str = ""  # what its errors call the file, where that is not its name
    odd: tuple[bytes, ...] = ()  # more to begin from, which may be refused


def image(kind: str = "PNG", **more: Any) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(np.arange(_WIDTH * _HEIGHT * 3, dtype=np.uint8).reshape(_HEIGHT, _WIDTH, 3)).save(
        sink, kind, **more
    )
    return sink.getvalue()


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()


_RLE: Final = {"size": [_HEIGHT, _WIDTH], "counts": [20, 5, 7, 5, 155]}
_COCO: Final = {
    "info": {"year": 2024},
    "licenses": [{"id": 1, "name": "CC-BY", "url": "https://example.org"}],
    "categories": [{"id": 3, "name": "cat", "keypoints": ["nose", "tail"]}, {"id": 4, "name": "dog"}],
    "images": [
        {"id": 7, "file_name": "a.png", "width": 16, "height": 12, "license": 1, "date_captured": "2024-05-01 10:00:00"},
        {"id": 8, "file_name": "b.png", "width": 16, "height": 12, "split": "val", "light": "day", "dsops": {"group": "g"}},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 4, "bbox": [1, 1, 5, 5], "segmentation": [[1, 1, 6, 1, 6, 6]], "iscrowd": 0},
        {"id": 3, "image_id": 8, "category_id": 4, "segmentation": _RLE, "iscrowd": 1, "area": 10},
        {"id": 4, "image_id": 8, "category_id": 3, "keypoints": [1, 1, 2, 5, 5, 1], "num_keypoints": 2, "bbox": [1, 1, 5, 5]},
        {"id": 5, "image_id": 8, "caption": "two animals"},
        {"id": 6, "image_id": 8, "category_id": 4, "segmentation": {"size": [12, 16], "counts": "d05705k4"}, "iscrowd": 1},
        {"id": 9, "image_id": 8, "category_id": 4, "bbox": [0, 0, 2, 2], "attributes": {"lane": 2}, "score": 0.5},
    ],
}  # fmt: skip
_VOC: Final = b"""<annotation><folder>x</folder><filename>a.png</filename>
<source><database>own</database></source><size><width>16</width><height>12</height><depth>3</depth></size>
<object><name>cat</name><pose>Left</pose><truncated>0</truncated><difficult>1</difficult>
<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax></bndbox></object>
<object><name>dog</name><bndbox><xmin>1.5</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax></bndbox><part><name>nose</name></part></object>
</annotation>"""
_CVAT: Final = b"""<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><name>t</name><labels><label><name>cat</name></label></labels>
<created>2024-05-01 10:00:00.000000+00:00</created></task></meta>
<image id="0" name="a.png" width="16" height="12">
<box label="cat" source="manual" occluded="0" xtl="1.00" ytl="1.00" xbr="5.00" ybr="6.00" z_order="0" rotation="30.0">
<attribute name="lane">2</attribute><attribute name="far">true</attribute></box>
<polygon label="dog" source="manual" occluded="1" points="1.00,1.00;6.00,1.00;6.00,6.00" z_order="0"></polygon>
<mask label="cat" source="semi-auto" occluded="0" rle="3, 2, 7" left="2" top="2" width="4" height="3" z_order="0"></mask>
<points label="cat" source="manual" occluded="0" points="1.00,1.00;2.00,2.00"></points>
<skeleton label="cat"><points label="nose" outside="0" occluded="0" points="1,1"></points>
<points label="tail" outside="1" occluded="0" points="3,3"></points></skeleton>
<tag label="dog" source="manual"></tag></image>
<image id="1" name="b.png" width="16" height="12"></image></annotations>"""
_LABELBOX: Final = {
    "data_row": {"id": "d1", "external_id": "a.png", "global_key": "a"},
    "media_attributes": {"width": 16, "height": 12},
    "projects": {
        "p1": {
            "name": "p", "project_details": {"batch_name": "b1"},
            "labels": [
                {
                    "id": "l1", "label_kind": "Default", "version": "1.0.0",
                    "label_details": {"created_at": "2024-05-01T10:00:00.000+00:00", "created_by": "ann@example.org"},
                    "performance_details": {"seconds_to_create": 12, "skipped": False},
                    "annotations": {
                        "objects": [
                            {"feature_id": "f1", "name": "cat", "annotation_kind": "ImageBoundingBox",
                             "bounding_box": {"top": 1, "left": 1, "height": 5, "width": 4},
                             "classifications": [{"name": "lane", "text_answer": {"content": "2"}}]},
                            {"feature_id": "f2", "name": "dog",
                             "polygon": [{"x": 1, "y": 1}, {"x": 5, "y": 1}, {"x": 5, "y": 5}]},
                            {"feature_id": "f3", "name": "cat", "point": {"x": 3, "y": 3}},
                        ],
                        "classifications": [
                            {"name": "class", "radio_answer": {"name": "cat", "feature_id": "f4"}},
                            {"name": "all", "checklist_answers": [{"name": "dog"}, {"name": "cat", "classifications": []}]},
                            {"name": "dog", "text_answer": {"content": "words"}},
                        ],
                    },
                }
            ],
        }
    },
}  # fmt: skip
_BRUSH: Final = [
    0, 0, 3, 0, 57, 27, 254, 107, 0, 191, 255, 135, 192, 47, 255,
    225, 240, 11, 255, 252, 8, 140, 0,
]  # fmt: skip
_STUDIO: Final = [
    {"id": "r1", "from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": ["cat"]}},
    {"id": "r2", "from_name": "box", "to_name": "image", "type": "rectanglelabels", "original_width": 16,
     "value": {"x": 10, "y": 10, "width": 30, "height": 40, "rotation": 20, "rectanglelabels": ["dog"]}},
    {"id": "r2", "from_name": "lane", "to_name": "image", "type": "number", "value": {"number": 2}},
    {"id": "r3", "from_name": "polygon", "type": "polygonlabels",
     "value": {"points": [[1, 1], [50, 1], [50, 50]], "closed": True, "polygonlabels": ["cat"]}},
    {"id": "r4", "from_name": "keypoints", "type": "keypointlabels", "value": {"x": 5, "y": 5, "keypointlabels": ["cat: nose"]}},
    {"id": "r5", "from_name": "mask", "type": "brushlabels",
     "value": {"format": "rle", "rle": _BRUSH, "brushlabels": ["cat"]}},
    {"id": "r6", "from_name": "text", "type": "rectangle", "value": {"x": 1, "y": 1, "width": 9, "height": 9}},
    {"id": "r6", "from_name": "transcription", "type": "textarea", "value": {"text": ["words"]}},
]  # fmt: skip
_TABLE: Final = b"""path,label,id,annotator,split,group,captured_at,width,light,metadata
a.png,cat,s1,ann,train,g1,2024-05-01T10:00:00Z,16,day,"{""x"": 1}"
b.png,dog,s2,bob,val,,2024-05-02,16,007,
b.png,cat,s2,cem,val,,,,,
"""
_TYPED: Final = pd.DataFrame(
    {"path": ["a.png", "b.png"], "label": ["cat", "dog"], "width": [16, 16], "light": [1.5, float("nan")],
     "captured_at": pd.to_datetime(["2024-05-01", "2024-05-02"]), "tags": [["a"], []], "metadata": [{"x": 1}, {"x": 2}]}
)  # fmt: skip
_SCHEMA: Final = b"""name: street
version: 2
description: "what is seen"
tasks:
  - {kind: classification, multi: true}
  - kind: keypoints
    keypoints: [nose, tail]
classes:
  - id: 0
    name: cat
    definition: A cat.
    colour: "#ff0000"
  - {id: 1, name: dog, parent: cat, deprecated: false}
attributes:
  - name: lane
    type: number
  - {name: kind, type: choice, values: [a, b]}
slices:
  - {key: light, values: [day, night], min_count: 2}
"""
_GUIDE: Final = (
    b"# Guide\n\nWords.\n\n## cat\n\nA *cat* ![image](cat.png)\n\n### Not\n\n- a\n\n## dog\n\n```\n## no\n```\n"
)
_RECIPES: Final = (
    b"kind: probe\nseed: 3\nmethod: logistic\nnoise: {findings: down-weight, weight: 0.3, checks: [label_noise]}\n",
    b"kind: finetune\ntask: box\nmodel: hf:x/y@main\nepochs: 3\nlearning_rate: 1e-4\naugmentation:\n  flips: {vertical: true}\n",
)
_POLICY: Final = b"""name: strict
qa: {pass: 0.95, confidence: 0.95, max_attempts: 3}
findings: {at: high, checks: [label_noise], ignore: [outlier]}
coverage: {slices: true, min_per_class: 5, min_per_class_in: {test: 3}}
leakage: true
license: {allowed: [CC-BY]}
expiry: {days: 30}
residency: {key: residency, allowed: [EU]}
test_split: {splits: [test]}
"""
_LOOP: Final = b"""name: loop1
n: 50
strategy: auto
random_share: 0.2
quotas: ["light=night:20%"]
tool: cvat
out: tasks-{round}.zip
wait: {every: 5, timeout: 60}
audit: {checks: [label_noise], fail_on: high}
train: {model: "fewshot:builtin:efficientnet-lite0"}
until: {rounds: 3, worth: 20}
"""
_ONNX: Final = b"""family: rt-detr
names: [cat, dog]
input: {name: x, size: [320, 320], mean: [0.1, 0.2, 0.3], std: [1, 1, 1], resize: stretch}
output: {names: [logits, boxes], activation: sigmoid, min_score: 0.2}
"""
_SETTINGS: Final = b'store = ".dsops"\nactor = "ann"\njobs = 2\nray_gpus = 0.5\nkey = "key.pem"\ncache = "cache"\n'
_USERS: Final = (
    b"# people\nann:scrypt:16384:8:1:MDEyMzQ1Njc4OWFiY2RlZg==:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=:lead\n"
    b"bob:scrypt:16384:8:1:MDEyMzQ1Njc4OWFiY2RlZg==:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n"
)
_MIGRATION: Final = (
    b"from: street@1\nsteps:\n  - rename: {from: cat, to: kitten}\n  - merge: {from: [a, dog], to: pet}\n"
)
_DETECTIONS: Final = b"sample_id,label,x1,y1,x2,y2,score\ns1,cat,1,1,5,5,0.9\ns2,dog,0,0,4.5,4,0.25\n"
_CLASSES: Final = [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]
_RESULTS: Final = [
    {"image_id": 7, "category_id": 0, "bbox": [1, 1, 4, 4], "score": 0.9},
    {"image_id": "s2", "category_id": 1, "bbox": [0, 0, 4, 4], "score": 0.5},
]
SAMPLES: Final = pd.DataFrame(
    {
        "sample_id": ["s1", "s2"],
        "uri": ["a.png", "b.png"],
        "metadata": ['{"image_id": 7}', None],
        "width": 16,
        "height": 12,
    }
)


def parquet(frame: pd.DataFrame) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), sink)
    return sink.getvalue()


# --- asking -----------------------------------------------------------------------------------------------------------


def _format(name: str) -> Callable[[Path], Any]:
    def read(path: Path) -> Any:
        from datasetops.formats import ReadOptions, load_format
        from datasetops.store.source import open_source

        folder = path.parent.parent if path.parent.name == "labels" else path.parent
        source = open_source(folder if path.suffix == ".txt" else path)
        parsed = load_format(name).read(source, ReadOptions(open_source(folder), SCHEMA))
        parsed.samples.validate(full=True)
        parsed.annotations.validate(full=True)
        return parsed

    return read


def _exchange(tool: str) -> Callable[[Path], Any]:
    def read(path: Path) -> Any:
        from datasetops.labeling.base import ImageSize
        from datasetops.plugins import load_plugin

        sizes = {"a": ImageSize(_WIDTH, _HEIGHT), "b": ImageSize(_WIDTH, _HEIGHT, 6)}
        return load_plugin("label_files", tool)().read(path, SCHEMA, sizes, actor="ann")

    return read


def _studio(path: Path) -> Any:
    from datasetops.labeling.base import ImageSize
    from datasetops.labeling.label_studio.regions import regions_of

    try:
        results = orjson.loads(path.read_bytes())  # as the connection does
    except orjson.JSONDecodeError:
        return None
    if not isinstance(results, list):
        return None
    return len(results), regions_of(results, SCHEMA, ImageSize(_WIDTH, _HEIGHT, 6))


def _rle(path: Path) -> Any:
    from datasetops.formats.rle import rle_area, rle_extent, rle_fault

    try:
        given = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    if not isinstance(given, dict) or rle_fault(given, _WIDTH, _HEIGHT) is not None:
        return None
    x1, y1, x2, y2 = rle_extent(given)
    assert 0 < rle_area(given) <= _WIDTH * _HEIGHT
    assert 0 <= x1 < x2 <= _WIDTH
    assert 0 <= y1 < y2 <= _HEIGHT
    return given


def _header(path: Path) -> Any:
    from datasetops.embedded import beside_pixels, without_metadata
    from datasetops.images import ImageError, check_image, decode_rgb, quiet_decoding, read_header

    data = path.read_bytes()
    with quiet_decoding():
        assert beside_pixels(data) is not None
        for ask in (read_header, check_image, decode_rgb, without_metadata):
            with suppress(ImageError):
                ask(data)


def _versioned(read: str) -> Callable[[Path], Any]:
    """A function `module:name` of a path."""

    def ask(path: Path) -> Any:
        from importlib import import_module

        module, _, name = read.partition(":")
        return getattr(import_module(module), name)(path)

    return ask


def _mapping(path: Path) -> Any:
    from datasetops.preannotate.mapping import read_mapping

    return read_mapping(path, ("tabby", "Dog", "wolf"), SCHEMA)


def _prompts(path: Path) -> Any:
    from datasetops.models.prompts import read_prompts

    return read_prompts(path, SCHEMA)


def _detections(path: Path) -> Any:
    from datasetops.audits.boxes.detections import read_detections

    return read_detections(path, SAMPLES, SCHEMA)


def _probabilities(path: Path) -> Any:
    from datasetops.audits.labels.probabilities import for_version, read_probabilities

    return for_version(read_probabilities(path), SAMPLES, SCHEMA)


def _sheet(path: Path) -> Any:
    from datasetops.qa.verdicts import read_sheet

    return read_sheet(path, reviewer="ann")


# --- what may be lost -------------------------------------------------------------------------------------------------


def _coco_lost(data: bytes, parsed: Any) -> int:
    document = json.loads(data.decode("utf-8-sig"))
    said = len(document["images"]) + len(document["annotations"])
    return said - len(parsed.samples) - len(parsed.annotations) - parsed.rejected


def _yolo_lost(data: bytes, parsed: Any) -> int:
    try:
        said = sum(bool(line.strip()) for line in data.decode("utf-8-sig").splitlines())
    except UnicodeDecodeError:
        said = 1
    return said - len(parsed.annotations) - parsed.rejected


def _voc_lost(data: bytes, parsed: Any) -> int:
    from xml.etree import ElementTree

    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError):
        return 1 - parsed.rejected
    return len(root.findall("object")) - len(parsed.annotations) - parsed.rejected if root.tag == "annotation" else 0


def _studio_lost(data: bytes, answer: Any) -> int:
    """Every class, box and shape is a region or told of; results of one region belong together."""
    if answer is None:
        return 0
    _, (regions, unread, problems) = answer
    said = {
        str(item.get("id", item["from_name"]))
        for item in orjson.loads(data)
        if isinstance(item, dict)
        and item.get("from_name") in ("box", "polygon", "mask")
        and isinstance(item.get("value"), dict)
    }
    return len(said) - len(regions) - len(unread) - len(problems)


_IMAGES: Final = {"a.png": image(), "b.png": image()}
_EXIF: Final = Image.Exif()
_EXIF[ExifTags.Base.Artist] = "Ann"
_EXIF[ExifTags.Base.Orientation] = 6
_EXIF.get_ifd(ExifTags.IFD.GPSInfo).update({1: "N", 2: (52.0, 31.0, 12.0)})
_PNG_TEXT: Final = PngImagePlugin.PngInfo()
_PNG_TEXT.add_text("Author", "Ann")
_PNG_TEXT.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta><dc:creator>Ann</dc:creator></x:xmpmeta>")
_MPO: Final = image("JPEG", exif=_EXIF.tobytes(), comment=b"words")


_TABLES: Final = tuple(map(parquet, (_TYPED, _TYPED[["path", "label"]], _TYPED.astype({"width": "float64"}))))


PARSERS: Final = (
    Parser("coco.json", "json", (_json(_COCO),), _format("coco"), _IMAGES, _coco_lost),
    Parser("labels/a.txt", "text", (b"0 0.5 0.5 0.4 0.4\n1 0.1 0.1 0.9 0.1 0.9 0.9\n",), _format("yolo"),
           {"images/a.png": image(), "data.yaml": b"names: [cat, dog]\ntrain: images\n"}, _yolo_lost),
    Parser("data.yaml", "yaml", (b"path: .\ntrain: images\nval: [images]\nnc: 2\nnames:\n  0: cat\n  1: dog\n",), _format("yolo"),
           {"images/a.png": image(), "labels/a.txt": b"0 0.5 0.5 0.4 0.4\n"}),
    Parser("a.xml", "xml", (_VOC,), _format("voc"), _IMAGES, _voc_lost),
    Parser("table.csv", "csv", (_TABLE,), _format("table"), _IMAGES),
    Parser("table.parquet", "bytes", _TABLES, _format("table"), _IMAGES,
           odd=(parquet(pd.DataFrame({"path": [1, 2], "label": [b"x", b"y"]})),)),
    Parser("annotations.xml", "xml", (_CVAT,), _exchange("cvat")),
    Parser("instances.json", "json", (_json(_COCO),), _exchange("cvat")),
    Parser("labelbox.ndjson", "rows", (json.dumps(_LABELBOX).encode() + b"\n",), _exchange("labelbox")),
    Parser("studio.json", "json", (_json(_STUDIO),), _studio, lost=_studio_lost),
    Parser("rle.json", "json", (_json(_RLE), b'{"size": [12, 16], "counts": "d05705k4"}'), _rle),
    Parser("schema.yaml", "yaml", (_SCHEMA,), _versioned("datasetops.schema:load_schema")),
    Parser("guide.md", "text", (_GUIDE,), _versioned("datasetops.schema.guide:load_guide")),
    Parser("migration.yaml", "yaml", (_MIGRATION,), _versioned("datasetops.schema.migrate:load_migration")),
    Parser("recipe.yaml", "yaml", _RECIPES, _versioned("datasetops.training.recipe:load_recipe")),
    Parser("policy.yaml", "yaml", (_POLICY,), _versioned("datasetops.gate.policy:load_policy")),
    Parser("model_policy.yaml", "yaml", (b"name: m\nmetric: {at_least: 0.9}\n",),
           _versioned("datasetops.promotion.policy:load_model_policy")),
    Parser("monitor.yaml", "yaml", (b"name: m\naccuracy_drop: 0.05\nmissing_slices: true\n",),
           _versioned("datasetops.monitor.policy:load_policy")),
    Parser("loop.yaml", "yaml", (_LOOP,), _versioned("datasetops.active_learning.loop.config:load_config")),
    Parser("onnx.yaml", "yaml", (_ONNX,), _versioned("datasetops.models.onnx_spec:read_spec")),
    Parser("mapping.yaml", "yaml", (b"tabby: cat\nwolf: null\n'Dog': dog\n",), _mapping),
    Parser("prompts.yaml", "yaml", (b"cat: [a cat, the cat]\ndog: a dog\n",), _prompts),
    Parser("dsops.toml", "text", (_SETTINGS,), _versioned("datasetops.settings:load_settings")),
    Parser("users", "text", (_USERS,), _versioned("datasetops.web.users:read_users")),
    Parser("verdicts.csv", "csv", (b"sample_id,uri,verdict,reviewer,note\ns1,a.png,right,ann,\ns2,b.png,wrong,bob,x\n",), _sheet),
    Parser("decisions.csv", "csv", (b"finding_id,verdict,note,seconds\nabc,fine,,3.5\ndef,error,so,\n",),
           _versioned("datasetops.audits.decisions:read_decisions")),
    Parser("detections.csv", "csv", (_DETECTIONS,), _detections),
    Parser("results.json", "json", (_json(_RESULTS), _json({"categories": _CLASSES, "annotations": _RESULTS})),
           _detections),
    Parser("detections.parquet", "bytes", (parquet(pd.read_csv(io.BytesIO(_DETECTIONS))),), _detections),
    Parser("probabilities.csv", "csv", (b"sample_id,cat,dog\ns1,0.5,0.5\ns2,0.9,0.1\n",), _probabilities, called="probabilities"),
    Parser("scores.csv", "csv", (b"sample_id,score\ns1,0.5\ns2,1\n",),
           _versioned("datasetops.active_learning.uncertainty:read_scores")),
    Parser("image.jpg", "bytes", (_MPO, image("JPEG", progressive=True)), _header),
    Parser("image.png", "bytes", (image(pnginfo=_PNG_TEXT, exif=_EXIF.tobytes()), image(icc_profile=b"x" * 50)), _header),
    Parser("image.webp", "bytes", (image("WEBP", exif=_EXIF.tobytes(), xmp=b"<dc:creator>"), image("WEBP", lossless=True)),
           _header),
    Parser("image.any", "bytes", tuple(image(kind) for kind in ("GIF", "BMP", "TIFF", "PPM", "JPEG2000")), _header),
)  # fmt: skip
