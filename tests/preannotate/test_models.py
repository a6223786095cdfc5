"""Pre-annotation with real loading code: small checkpoints, a real detector, and labels learned from a few."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colours import NAMES, add_image, picture, run
from pictures import photos, write_digits
from PIL import Image

from datasetops.engine.local import LocalEngine
from datasetops.errors import ModelError, NotFoundError
from datasetops.images import decode_rgb
from datasetops.ingest import ingest
from datasetops.labeling.base import ImageSize
from datasetops.labeling.orientation import mask_to_shown
from datasetops.manifest import Change, Repository
from datasetops.models.predictor import Prediction, Predictor, Prompts, Request
from datasetops.plugins import plugin_names
from datasetops.preannotate.few_shot_labeler import open_few_shot
from datasetops.preannotate.labelers import EngineLabeler, WorkerMaker
from datasetops.preannotate.opening import open_labeler
from datasetops.preannotate.outlines import boxes_to_outline
from datasetops.preannotate.run import preannotate
from datasetops.schema import LabelSchema
from datasetops.store.media import Media

pytestmark = pytest.mark.slow

PETS = LabelSchema.model_validate(
    {
        "name": "pets",
        "version": 1,
        "tasks": [{"kind": "classification"}, {"kind": "box"}, {"kind": "mask"}],
        "classes": [{"id": index, "name": name} for index, name in enumerate(("cat", "dog", "tree"))],
    }
)


@pytest.fixture
def pets(root: Path) -> Repository:
    """Two photos, one of them stored on its side."""
    repository = Repository.init(root, PETS)
    exif = Image.Exif()
    exif[0x0112] = 6
    first, second = photos()
    rows = [add_image(root, "a", first.resize((96, 64))), add_image(root, "b", second.resize((80, 100)), exif=exif)]
    repository.commit(Change(samples=rows), message="photos")
    return repository


def human(sample: str, label: str, **values: Any) -> dict[str, Any]:
    row = {"annotation_id": f"{sample}/label", "sample_id": sample, "kind": "classification", "label": label}
    return row | {"source": "human"} | values


def checkpoint(family: str, folder: Path, prompts: Prompts | None = None, **options: Any) -> Predictor:
    pytest.importorskip("transformers", reason="the extra 'transformers' is not installed")
    from tiny_checkpoints import save_family

    from datasetops.models.families import open_local

    where = folder / family
    if not where.is_dir():
        save_family(family, where)
    return open_local(str(where), folder, Request(None, prompts, "cpu", options))


def own_words(repository: Repository, predictor: Predictor) -> dict[str, list[Prediction]]:
    """What the predictor says when it is asked directly."""
    media = Media(repository.store, repository.root)
    samples = repository.version().samples()
    images = {row.sample_id: decode_rgb(media.read(row.uri)) for row in samples.itertuples()}
    return {name: predictor.predict([predictor.prepare(image)])[0] for name, image in images.items()}


def test_a_classifier_with_names_of_its_own(pets: Repository, tmp_path: Path) -> None:
    predictor = checkpoint("vit", tmp_path)
    made = run(pets, predictor)
    assert made.mapping["mapped"] == {"cat": "cat", "dog": "dog"}
    assert made.mapping["unreached"] == ["tree"]
    rows = {row["sample_id"]: row for row in pets.version().annotations().to_dict("records")}
    for name, (found,) in own_words(pets, predictor).items():
        scores = found.scores or {}
        best = max(("cat", "dog"), key=scores.__getitem__)
        if scores[best] >= max(scores.values()):
            assert rows[name]["label"] == best
            assert rows[name]["score"] == pytest.approx(scores[best], abs=1e-4)
        else:
            assert name not in rows
    file = tmp_path / "map.yaml"
    file.write_text("crane (2): tree\ncrane (3): tree\n")
    again = run(pets, predictor, mapping=file)
    assert (again.computed, again.by_class.keys() <= {"cat", "dog", "tree"}, again.mapping["unmapped"]) == (0, True, [])
    assert sum(again.by_class.values()) == 2


@pytest.mark.parametrize("family", ["detr", "owlv2"])
def test_a_detector_by_names_or_by_prompts(pets: Repository, tmp_path: Path, family: str) -> None:
    prompts = Prompts({"cat": ("cat",), "dog": ("a photo of a dog", "dog"), "tree": ("tree",)})
    asked = prompts if family == "owlv2" else None
    predictor = checkpoint(family, tmp_path, asked, min_score=0.0, nms_iou=1.0)
    file = tmp_path / "map.yaml"
    file.write_text("'crane (2)': tree\n'crane (3)': tree\n")  # names of the small detector
    mapping = None if asked else file
    made = run(pets, predictor, task="box", prompts=asked, thresholds=0.0, mapping=mapping)
    entry = pets.ledger.tail()
    assert entry is not None
    assert entry.event.parameters["prompts"] == (prompts.digest if asked else None)
    assert entry.event.parameters["packages"].keys() == {"torch", "transformers", "tokenizers", "safetensors"}
    (record,) = entry.event.outputs["files"]
    assert json.loads(pets.store.get(record))["prompts"] == (
        {name: list(texts) for name, texts in prompts.texts.items()} if asked else None
    )
    rows = pets.version().annotations()
    assert made.by_class
    for name, found in own_words(pets, predictor).items():
        wanted = [box for box in found if box.name in ("cat", "dog", "tree", "crane (2)", "crane (3)")]
        own = rows[rows["sample_id"] == name].sort_values("score", ascending=False)
        assert len(own) == pytest.approx(len(wanted), abs=1)
        np.testing.assert_allclose(own["score"], [box.score for box in wanted][: len(own)], atol=1e-3)
        best, first = own.iloc[0], wanted[0]
        x1, y1, x2, y2 = first.box or (0, 0, 0, 0)
        if name == "b":  # shown turned by a quarter: x of the stored image is y of the shown one
            x1, y1, x2, y2 = y1, 100 - x2, y2, 100 - x1
        assert best[["x1", "y1", "x2", "y2"]].tolist() == pytest.approx([x1, y1, x2, y2], abs=0.05)


def test_masks_outline_the_boxes_that_people_drew(pets: Repository, tmp_path: Path) -> None:
    boxes = [
        {"annotation_id": f"{name}/{number}", "sample_id": name, "kind": "box", "label": label, "source": "human"}
        | dict(zip(("x1", "y1", "x2", "y2"), box, strict=True))
        for name, number, label, box in (
            ("a", 0, "cat", (30, 10, 80, 60)),
            ("a", 1, "dog", (0, 0, 25, 25)),
            ("b", 0, "tree", (5, 40, 50, 95)),
        )
    ]
    with pytest.raises(NotFoundError, match="no box to outline"):
        boxes_to_outline(pets.version())
    pets.commit(Change(annotations=boxes), message="boxes")
    predictor = checkpoint("sam", tmp_path)
    read = Media(pets.store, pets.root).read
    labeler = EngineLabeler(predictor, LocalEngine(jobs=1), read, outlines=boxes_to_outline(pets.version()))
    made = preannotate(pets, pets.version(), labeler, thresholds=0.0)
    assert (made.counts["inserted"], made.computed, made.labeled) == (3, 2, 0)
    rows = pets.version().annotations().query("kind == 'mask'").set_index("derived_from")
    assert rows["label"].to_dict() == {"a/0": "cat", "a/1": "dog", "b/0": "tree"}
    media = Media(pets.store, pets.root)
    image = decode_rgb(media.read("b.png"))
    turned = Prediction("box", "tree", 1.0, (5.0, 5.0, 60.0, 50.0))  # the box of b, as it is shown
    (expected,) = predictor.predict([predictor.prepare_boxes(image, [turned])])[0]  # type: ignore[attr-defined]
    mask = pixels((expected.geometry or {})["rle"])
    own = pixels(rows.loc["b/0"]["geometry"]["rle"])
    np.testing.assert_array_equal(mask_to_shown(own, ImageSize(80, 100, 6)), mask)
    again = preannotate(pets, pets.version(), labeler, thresholds=0.0)
    assert (again.version, again.computed) == (None, 0)
    pets.commit(Change(remove_annotations=["a/1"]), message="one box less")
    less = EngineLabeler(predictor, LocalEngine(jobs=1), read, outlines=boxes_to_outline(pets.version()))
    made = preannotate(pets, pets.version(), less, thresholds=0.0)
    assert (made.computed, made.known) == (1, 1)
    assert set(pets.version().annotations().query("kind == 'mask'")["derived_from"]) == {"a/0", "b/0"}
    with pytest.raises(ModelError, match="cannot outline boxes"):
        EngineLabeler(checkpoint("vit", tmp_path), LocalEngine(), read, outlines=boxes_to_outline(pets.version()))


def pixels(rle: dict[str, Any]) -> np.ndarray[Any, Any]:
    from datasetops.formats.rle import run_lengths

    lengths = run_lengths(rle["counts"])
    return np.repeat(np.arange(len(lengths)) % 2, lengths).reshape(rle["size"], order="F")


def test_a_real_detector_finds_what_is_there(data: Path, tmp_path: Path) -> None:
    """AP of boxes on 100 COCO images, through pre-annotation, commit and pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    from datasetops.models.onnx_model import open_onnx

    truth_file = data / "coco_tiny" / "coco.json"
    truth = json.loads(truth_file.read_text())
    names = [category["name"] for category in sorted(truth["categories"], key=lambda item: item["id"])]
    classes = [{"id": index, "name": name} for index, name in enumerate(names)]
    schema = {"name": "coco", "version": 1, "tasks": [{"kind": "box"}], "classes": classes}
    repository = Repository.init(tmp_path / "set", LabelSchema.model_validate(schema))
    ingest(repository, str(data / "coco_tiny" / "images"), format="folder")
    config = tmp_path / "yolox.yaml"
    config.write_text(json.dumps({"family": "yolox", "names": names}))
    weights = str(data / "yolox_nano" / "yolox_nano.onnx")
    options = {"config": str(config), "min_score": "0.01"}
    predictor = open_onnx(weights, tmp_path, Request("box", None, "cpu", options))
    made = run(repository, predictor, thresholds=0.01)
    assert (made.computed, made.faults, made.mapping["unmapped"]) == (100, (), [])
    ids = {image["file_name"].rpartition("/")[2]: image["id"] for image in truth["images"]}
    numbers = {category["name"]: category["id"] for category in truth["categories"]}
    version = repository.version()
    uris = version.samples().set_index("sample_id")["uri"]
    results = [
        {
            "image_id": ids[uris[row.sample_id].rpartition("/")[2]],
            "category_id": numbers[row.label],
            "bbox": [row.x1, row.y1, row.x2 - row.x1, row.y2 - row.y1],
            "score": row.score,
        }
        for row in version.annotations().itertuples()
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth_file))
        scored = COCOeval(coco, coco.loadRes(results), "bbox")
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    assert scored.stats[0] >= 0.25


def test_few_labels_teach_the_rest(tmp_path: Path) -> None:
    folder = tmp_path / "digits"
    write_digits(folder, 12, side=64, classes=4)
    classes = [{"id": index, "name": str(index)} for index in range(4)]
    schema = {"name": "digits", "version": 1, "tasks": [{"kind": "classification"}], "classes": classes}
    repository = Repository.init(tmp_path / "set", LabelSchema.model_validate(schema))
    ingest(repository, str(folder), format="folder")
    truth = repository.version().annotations().set_index("sample_id")["label"].to_dict()
    known = [name for number, name in enumerate(sorted(truth)) if number % 2]
    repository.commit(
        Change(
            remove_annotations=repository.version()
            .annotations()
            .query("sample_id not in @known")["annotation_id"]
            .tolist()
        ),
        message="half of the labels",
    )
    version = repository.version()
    read = Media(repository.store, repository.root).read
    labeler = open_few_shot(repository, version, "builtin:efficientnet-lite0", read)
    made = preannotate(repository, version, labeler, thresholds=0.0)
    assert (made.asked, made.labeled, made.counts["inserted"]) == (24, 24, 24)
    assert made.model.name == "fewshot:builtin:efficientnet-lite0"
    rows = repository.version().annotations()
    given = rows[rows["source"] == "model"]
    assert not set(given["sample_id"]) & set(known)
    assert (given["label"] == given["sample_id"].map(truth)).mean() >= 0.8
    assert ((given["score"] > 0) & (given["score"] <= 1)).all()
    again = preannotate(repository, version, labeler, thresholds=0.0)
    assert (again.version, again.computed, again.known) == (None, 0, 24)
    measured = preannotate(repository, version, labeler, also_labeled=True, thresholds=0.0)
    assert measured.asked == 48
    both = open_few_shot(repository, version, "builtin:efficientnet-lite0+builtin:efficientnet-lite0", read)
    twice = preannotate(repository, version, both, thresholds=0.0)
    assert twice.model.digest != made.model.digest
    assert twice.computed == 24
    version = repository.version()
    # More labels make another model, whose word replaces the earlier one's.
    first = given["sample_id"].iloc[0]
    row = {"annotation_id": f"{first}/label", "sample_id": first, "kind": "classification", "label": truth[first]}
    repository.commit(Change(annotations=[row]), message="one label more")
    taught = open_few_shot(repository, repository.version(), "builtin:efficientnet-lite0", read)
    made = preannotate(repository, repository.version(), taught, thresholds=0.0)
    rows = repository.version().annotations()
    given = rows[rows["source"] == "model"]
    assert (made.asked, given["model"].nunique()) == (23, 2)  # that of the sample just labeled stays as it is
    assert made.model.digest != again.model.digest


def test_few_shot_needs_labels_of_single_classes(coloured: Repository, root: Path) -> None:
    read = Media(coloured.store, coloured.root).read
    with pytest.raises(ModelError, match=r"(?s)has labels by people for 0 images.*dsops select v1"):
        open_few_shot(coloured, coloured.version(), "builtin:efficientnet-lite0", read)
    row = {"annotation_id": "s00/l", "sample_id": "s00", "kind": "classification", "label": "red", "source": "model"}
    coloured.commit(Change(annotations=[row, row | {"annotation_id": "s01/l", "label": "blue"}]), message="by a model")
    with pytest.raises(ModelError, match="for 0 images"):
        open_few_shot(coloured, coloured.version(), "builtin:efficientnet-lite0", read)
    rows = [human("s00", "red"), human("s00", "green", annotation_id="x"), human("s01", "green"), human("s02", "blue")]
    coloured.commit(Change(annotations=rows), message="by people")
    samples = coloured.version().table("samples").to_pylist()
    sealed = [row | {"split": "test"} for row in samples if row["sample_id"] == "s02"]
    coloured.commit(Change(samples=sealed, sealed=["test"]), message="sealed")
    with pytest.raises(ModelError, match="for 1 images"):  # s00 has two classes, s02 is sealed
        open_few_shot(coloured, coloured.version(), "builtin:efficientnet-lite0", read)
    boxes = {"name": "b", "version": 1, "tasks": [{"kind": "box"}], "classes": [{"id": 0, "name": "red"}]}
    other = Repository.init(root.parent / "other", LabelSchema.model_validate(boxes))
    other.commit(Change(samples=[add_image(root.parent / "other", "x", picture(9, 9, (0, 0, 5, 5), 0))]), message="one")
    with pytest.raises(ModelError, match="does not ask for"):
        open_few_shot(other, other.version(), "builtin:efficientnet-lite0", read)
    assert coloured.version().schema.class_names == NAMES


@pytest.mark.skipif(
    "local" not in plugin_names("predictors") or "local" not in plugin_names("engines"),
    reason="the entry points are not installed",
)
def test_models_are_opened_by_reference_and_asked_for_the_classes_of_the_schema(
    pets: Repository, tmp_path: Path
) -> None:
    checkpoint("vit", tmp_path)
    for family in ("clip", "owlv2", "sam"):
        with contextlib.suppress(ModelError):  # without prompts; only the folder is wanted
            checkpoint(family, tmp_path)
    version = pets.version()
    labeler, prompts = open_labeler(pets, version, f"local:{tmp_path / 'clip'}")
    assert prompts is not None
    assert prompts.texts["cat"][0] == "a photo of a cat."
    made = preannotate(pets, version, labeler, prompts=prompts)
    assert sum(made.by_class.values()) == 2
    labeler, prompts = open_labeler(pets, version, f"local:{tmp_path / 'owlv2'}", min_score=0.0)
    assert prompts is not None
    assert prompts.texts["cat"] == ("cat",)  # as detectors are asked
    assert labeler.kinds == ("box",)
    assert open_labeler(pets, version, f"local:{tmp_path / 'vit'}")[1] is None  # it has names of its own
    found = f"local:{tmp_path / 'owlv2'}"
    labeler, prompts = open_labeler(pets, version, f"local:{tmp_path / 'sam'}", boxes=found, boxes_min_score=0.0)
    assert prompts is not None
    made = preannotate(pets, version, labeler, prompts=prompts, thresholds=0.0)
    assert made.counts["inserted"] > 0
    assert set(pets.version().annotations().query("kind == 'mask'")["label"]) <= {"cat", "dog", "tree"}
    maker = labeler.make  # type: ignore[attr-defined]
    assert maker is None  # the local engine works with the model that is open
    file = tmp_path / "prompts.yaml"
    file.write_text("cat: [red cat, a cat]\n")
    _, prompts = open_labeler(pets, version, f"local:{tmp_path / 'clip'}", prompts=file)
    assert prompts is not None
    assert prompts.texts == {"cat": ("red cat", "a cat")}
    with pytest.raises(ValueError, match="fewshot takes no"):
        open_labeler(pets, version, "fewshot:builtin:efficientnet-lite0", prompts=file)


def test_what_travels_to_other_machines_can_be_sent(pets: Repository, tmp_path: Path) -> None:
    box = {"annotation_id": "a/0", "sample_id": "a", "kind": "box", "label": "cat", "x1": 1, "y1": 2, "x2": 9, "y2": 9}
    pets.commit(Change(annotations=[box]), message="box")
    outlines = boxes_to_outline(pets.version())
    media = Media(pets.store, pets.root)
    maker = WorkerMaker(partial(checkpoint, "sam", tmp_path), outlines.boxes, checkpoint("sam", tmp_path).digest)
    made, read = pickle.loads(pickle.dumps((maker, media.read)))  # noqa: S301 (made right here)
    worker = made()
    (outcome,) = worker.infer([worker.prepare(read("a.png"))])
    assert [item.name for item in outcome.predictions] == ["cat"]
    assert pickle.loads(pickle.dumps(outcome)) == outcome  # noqa: S301
