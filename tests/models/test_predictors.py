"""Predictors through transformers: the real loading code on small checkpoints with random weights, of every family.

What they find means nothing, but it must be what transformers itself finds with the same weights.
"""

from __future__ import annotations

import json
import math
import shutil
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import photos
from PIL import Image

from datasetops.errors import ModelError
from datasetops.formats.rle import run_lengths
from datasetops.images import ImageError
from datasetops.models.predictor import (
    BoxPrompted,
    Prediction,
    Predictor,
    Prompts,
    Request,
    open_predictor,
    with_scheme,
)
from datasetops.plugins import plugin_names

pytest.importorskip("transformers", reason="the extra 'transformers' is not installed")

from tiny_checkpoints import FAMILIES, save_family

from datasetops.models.checkpoint import hub_answers
from datasetops.models.families import open_hub, open_local

pytestmark = pytest.mark.slow

PROMPTS = Prompts({"cat": ("a photo of a cat", "cat"), "cell": ("red cell", "white cell"), "tree": ("tree",)})
CLASSIFIERS, DETECTORS = ("vit", "dinov2", "convnext"), ("detr", "rt-detr", "rt-detr-v2", "d-fine")
ZERO_SHOT, OWLS = ("clip", "siglip"), ("owlv2", "owlvit")
SIDES = ("xmin", "ymin", "xmax", "ymax")
ALL_BOXES = {"min_score": 0.0, "nms_iou": 1.0, "max_boxes": 10_000}
ALL_MASKS = {"min_score": -9.0, "min_stability": 0.0, "points_per_side": 4}


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's checkpoint, made when it is first asked for. Not to be written to."""
    root = tmp_path_factory.mktemp("checkpoints")

    def folder(family: str) -> Path:
        path = root / family
        return path if path.is_dir() else save_family(family, path)

    return folder


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[[str], Path]:
    """A folder of a family's checkpoint that the test may change."""
    return lambda family: save_family(family, tmp_path / family)


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    """Wide, tall, wide: the first and the last go through a model together."""
    first, second = photos()
    return [first, second.crop((0, 0, 200, 400)), second]


def opened(folder: Path, prompts: Prompts | None = PROMPTS, task: str | None = None, **options: Any) -> Predictor:
    return open_local(str(folder), folder, Request(task, prompts, "auto", options))


def predicted(predictor: Predictor, images: list[Image.Image]) -> list[list[Prediction]]:
    return predictor.predict([predictor.prepare(image) for image in images])


def tensors_of(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "model.safetensors"))


def write_tensors(folder: Path, tensors: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def settings_for(family: str) -> dict[str, Any]:
    return {"sam": ALL_MASKS}.get(family, ALL_BOXES if family in (*DETECTORS, *OWLS, "grounding-dino") else {})


@pytest.mark.parametrize("family", FAMILIES)
def test_an_image_gets_the_same_predictions_alone_and_in_a_batch(
    family: str, saved: Callable[[str], Path], images: list[Image.Image]
) -> None:
    predictor = opened(saved(family), **settings_for(family))
    together = predicted(predictor, images)
    assert predictor.predict([]) == []
    assert predictor.device == "cpu"  # type: ignore[attr-defined]
    for image, found in zip(images, together, strict=True):
        (alone,) = predicted(predictor, [image])
        assert found
        assert [(p.kind, p.name, p.geometry) for p in found] == [(p.kind, p.name, p.geometry) for p in alone]
        assert [p.score for p in found] == pytest.approx([p.score for p in alone], abs=1e-5)
        assert [p.score for p in found] == sorted((p.score for p in found), reverse=True)
        for one, other in zip(found, alone, strict=True):
            assert one.kind in predictor.kinds
            assert 0 <= one.score <= 1
            if one.box is not None:
                assert other.box == pytest.approx(one.box, abs=0.01)
                x1, y1, x2, y2 = one.box
                assert 0 <= x1 < x2 <= image.width
                assert 0 <= y1 < y2 <= image.height


@pytest.mark.parametrize("family", ["vit", "grounding-dino", pytest.param("sam", marks=pytest.mark.slow)])
def test_threads_may_prepare_and_predict_at_once(
    family: str, saved: Callable[[str], Path], images: list[Image.Image]
) -> None:
    predictor = opened(saved(family), **settings_for(family))
    expected = [predicted(predictor, [image])[0] for image in images[:2]]
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda number: predicted(predictor, [images[number % 2]])[0], range(8)))
    for number, found in enumerate(results):
        assert [(p.name, p.geometry) for p in found] == [(p.name, p.geometry) for p in expected[number % 2]]


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_classifiers_give_what_the_pipeline_of_transformers_gives(
    family: str, saved: Callable[[str], Path], images: list[Image.Image]
) -> None:
    from transformers import AutoImageProcessor, pipeline

    folder = saved(family)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    theirs = pipeline("image-classification", model=str(folder), image_processor=processor, device="cpu")
    predictor = opened(folder, None)
    assert predictor.vocabulary == ("cat", "dog", "crane (2)", "crane (3)")  # two classes of one name stay two
    for (mine,), expected in zip(predicted(predictor, images), theirs(images), strict=True):
        assert mine.scores is not None
        assert sorted(mine.scores.values(), reverse=True) == pytest.approx([row["score"] for row in expected], abs=1e-5)
        assert mine.name is not None
        assert mine.name.split()[0] == expected[0]["label"]
        assert mine.score == mine.scores[mine.name]


@pytest.mark.parametrize("family", ZERO_SHOT)
def test_one_text_a_class_gives_what_the_pipeline_of_transformers_gives(
    family: str, saved: Callable[[str], Path], images: list[Image.Image]
) -> None:
    from transformers import AutoImageProcessor, AutoTokenizer, pipeline

    folder = saved(family)
    theirs = pipeline(
        "zero-shot-image-classification",
        model=str(folder),
        image_processor=AutoImageProcessor.from_pretrained(folder, backend="pil"),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        device="cpu",
    )
    texts = {"cat": ("a photo of a cat",), "cell": ("red cell",), "tree": ("the tree",)}
    predictor = opened(folder, Prompts(texts))
    assert predictor.vocabulary is None
    expected = theirs(images, candidate_labels=[text for (text,) in texts.values()], hypothesis_template="{}")
    for (mine,), rows in zip(predicted(predictor, images), expected, strict=True):
        scores = {row["label"]: row["score"] for row in rows}
        assert mine.scores == pytest.approx({name: scores[text] for name, (text,) in texts.items()}, abs=1e-5)
        assert mine.name == max(mine.scores, key=mine.scores.__getitem__)  # type: ignore[union-attr, arg-type]


def test_several_texts_a_class_count_by_the_mean_of_their_embeddings(
    saved: Callable[[str], Path], images: list[Image.Image]
) -> None:
    import torch
    from transformers import AutoTokenizer, CLIPModel

    folder = saved("clip")
    model, tokenizer = CLIPModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    predictor = opened(folder)
    pixels = torch.from_numpy(predictor.prepare(images[1]).inputs["pixel_values"])[None]
    with torch.inference_mode():
        means = []
        for texts in PROMPTS.texts.values():
            rows = [model.get_text_features(**tokenizer(t, return_tensors="pt")).pooler_output[0] for t in texts]
            mean = torch.stack([row / row.norm() for row in rows]).mean(0)
            means.append(mean / mean.norm())
        image = model.get_image_features(pixels).pooler_output[0]
        logits = torch.stack(means) @ (image / image.norm()) * model.logit_scale.exp()
    (found,) = predicted(predictor, [images[1]])[0]
    assert list(found.scores or {}) == list(PROMPTS.texts)
    assert list((found.scores or {}).values()) == pytest.approx(logits.softmax(0).tolist(), abs=1e-5)


@pytest.mark.parametrize(
    "family", ["detr", "rt-detr-v2", *(pytest.param(f, marks=pytest.mark.slow) for f in ("rt-detr", "d-fine"))]
)
def test_detectors_give_what_the_pipeline_of_transformers_gives(
    family: str, saved: Callable[[str], Path], images: list[Image.Image]
) -> None:
    from transformers import AutoImageProcessor, pipeline

    folder = saved(family)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    theirs = pipeline("object-detection", model=str(folder), image_processor=processor, device="cpu")
    predictor = opened(folder, None, "box", **ALL_BOXES)
    for image, mine in zip(images, predicted(predictor, images), strict=True):
        expected = sorted(theirs(image, threshold=0.0), key=lambda row: -row["score"])
        inside = [row for row in expected if row["box"]["xmax"] > 0 and row["box"]["ymax"] > 0]
        assert len(mine) >= len(inside) - 2  # theirs cuts to whole pixels
        assert [p.score for p in mine[:5]] == pytest.approx([row["score"] for row in expected[:5]], abs=1e-5)
        for found, row in zip(mine[:5], expected[:5], strict=True):
            assert (found.name or "").split()[0] == row["label"]
            kept = np.clip([row["box"][key] for key in SIDES], 0, [image.width, image.height] * 2)
            assert found.box == pytest.approx(kept, abs=1.01)


@pytest.mark.parametrize("family", OWLS)
def test_owl_gives_what_the_pipeline_of_transformers_gives(
    family: str, saved: Callable[[str], Path], images: list[Image.Image]
) -> None:
    from transformers import AutoImageProcessor, AutoTokenizer, pipeline

    folder = saved(family)
    theirs = pipeline(
        "zero-shot-object-detection",
        model=str(folder),
        image_processor=AutoImageProcessor.from_pretrained(folder, backend="pil"),
        tokenizer=AutoTokenizer.from_pretrained(folder, padding_side="right"),
        device="cpu",
    )
    predictor = opened(folder, Prompts({"cat": ("cat",)}), **ALL_BOXES)
    for image, mine in zip(images[:2], predicted(predictor, images[:2]), strict=True):
        rows = theirs(image, candidate_labels=["cat"], threshold=0.0)
        for row in rows:
            row["xyxy"] = np.clip([row["box"][key] for key in SIDES], 0, [image.width, image.height] * 2)
        assert mine
        for found in mine:
            row = min(rows, key=lambda row: math.dist(row["xyxy"], found.box))
            assert found.box == pytest.approx(row["xyxy"], abs=1.01)  # theirs are whole pixels
            assert found.score == pytest.approx(row["score"], abs=1e-4)


def test_a_box_takes_the_class_of_its_best_text(saved: Callable[[str], Path], images: list[Image.Image]) -> None:
    one_each = {
        name: opened(saved("owlv2"), Prompts({name: texts}), **ALL_BOXES) for name, texts in PROMPTS.texts.items()
    }
    alone = {name: predicted(predictor, images)[1] for name, predictor in one_each.items()}
    together = predicted(opened(saved("owlv2"), **ALL_BOXES), images)[1]
    assert len(together) == len(alone["cat"]) > 3
    for found in together:
        rivals = {name: min(boxes, key=lambda b: math.dist(b.box, found.box)) for name, boxes in alone.items()}  # type: ignore[arg-type]
        assert found.score == pytest.approx(max(box.score for box in rivals.values()), abs=1e-5)
        assert found.name == max(rivals, key=lambda name: rivals[name].score)


def test_grounding_dino_reads_a_text_by_the_mean_of_its_words(
    saved: Callable[[str], Path], images: list[Image.Image]
) -> None:
    import torch
    from transformers import AutoImageProcessor, AutoTokenizer, GroundingDinoForObjectDetection, GroundingDinoProcessor

    folder = saved("grounding-dino")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = GroundingDinoProcessor(AutoImageProcessor.from_pretrained(folder, backend="pil"), tokenizer)
    model = GroundingDinoForObjectDetection.from_pretrained(folder).eval()
    image = images[1]
    inputs = processor(images=image, text=[["red cell", "dog"]], return_tensors="pt")
    assert tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])[1:6] == ["red", "cell", ".", "dog", "."]
    with torch.inference_mode():
        output = model(**inputs)
    words = output.logits[0].sigmoid().numpy()
    classes = np.stack([words[:, 1:3].mean(axis=1), words[:, 4]], axis=1)
    (found,) = predicted(opened(folder, Prompts({"cell": ("Red cell.",), "dog": ("dog",)}), **ALL_BOXES), [image])
    best = np.argsort(-classes.max(axis=1))[: len(found)]
    assert [p.score for p in found] == pytest.approx(classes.max(axis=1)[best].tolist(), abs=1e-4)
    assert [p.name for p in found] == [("cell", "dog")[label] for label in classes.argmax(axis=1)[best]]
    x, y, width, height = output.pred_boxes[0, best[0]].tolist()
    corners = [(x - width / 2) * 200, (y - height / 2) * 400, (x + width / 2) * 200, (y + height / 2) * 400]
    assert found[0].box == pytest.approx(np.clip(corners, 0, [200, 400] * 2), abs=0.1)


def test_more_texts_than_a_caption_holds_are_all_looked_for(
    saved: Callable[[str], Path], images: list[Image.Image]
) -> None:
    words = ("red", "white", "cat", "dog", "car", "tree", "photo", "image", "cell", "close")
    prompts = Prompts({f"{one} {other}": (f"{one} {other}",) for one in words for other in words if one < other})
    predictor = opened(saved("grounding-dino"), prompts, **ALL_BOXES)
    captions = predictor._captions  # type: ignore[attr-defined]
    assert len(captions) > 4
    assert all(len(caption.ids) <= 32 for caption in captions)
    assert sorted(owner for caption in captions for owner in caption.owners) == list(range(45))
    (found,) = predicted(predictor, images[:1])
    assert len(found) > 20  # more than the model has places for in one caption


@pytest.mark.parametrize("size", [(640, 427), (200, 400)])
def test_boxes_are_in_pixels_of_the_image_itself(size: tuple[int, int], fresh: Callable[[str], Path]) -> None:
    """A DETR that always sees the middle half of the image."""
    import torch

    folder = fresh("detr")
    tensors = tensors_of(folder)
    tensors["bbox_predictor.layers.2.weight"] *= 0
    tensors["bbox_predictor.layers.2.bias"] = torch.logit(torch.tensor([0.5, 0.5, 0.5, 0.5]))
    write_tensors(folder, tensors)
    width, height = size
    (found,) = predicted(opened(folder), [Image.new("RGB", size, "red")])
    assert len(found) == 10
    for box in found:
        assert box.box == pytest.approx((width / 4, height / 4, width * 3 / 4, height * 3 / 4), abs=0.01)


def test_owlv2_pads_to_a_square_and_its_boxes_do_not(fresh: Callable[[str], Path]) -> None:
    """An OWLv2 that shifts no box: each has a quarter of the padded square's side, around a corner of its patch."""
    folder = fresh("owlv2")
    tensors = tensors_of(folder)
    for name in ("box_head.dense2.weight", "box_head.dense2.bias"):
        tensors[name] *= 0
    write_tensors(folder, tensors)
    (found,) = predicted(opened(folder, **ALL_BOXES), [Image.new("RGB", (400, 200), "red")])
    corners = {tuple(round(side) for side in box.box or ()) for box in found}
    assert (50, 50, 150, 150) in corners
    assert (250, 150, 350, 200) in corners  # cut at the bottom edge
    assert all(y1 < 200 for _, y1, _, _ in corners)  # none in the padding
    assert len(corners) == 8


def masks_of(predictions: list[Prediction]) -> list[Any]:
    masks = []
    for prediction in predictions:
        rle = (prediction.geometry or {})["rle"]
        lengths = run_lengths(rle["counts"])
        masks.append(np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(rle["size"], order="F"))
    return masks


@pytest.mark.parametrize("place", [0, 1])
def test_sam_outlines_given_boxes_as_transformers_does(
    place: int, saved: Callable[[str], Path], images: list[Image.Image]
) -> None:
    import torch
    from transformers import AutoImageProcessor, SamModel, SamProcessor

    folder, image = saved("sam"), images[place]
    boxes = [[10.0, 20.0, 120.0, 180.0], [0.0, 0.0, 200.0, 400.0]]
    processor = SamProcessor(AutoImageProcessor.from_pretrained(folder, backend="pil"))
    inputs = processor(images=image, input_boxes=[boxes], return_tensors="pt")
    sizes = [inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes")]
    with torch.inference_mode():
        output = SamModel.from_pretrained(folder).eval()(
            pixel_values=inputs["pixel_values"], input_boxes=inputs["input_boxes"].float(), multimask_output=False
        )
    expected = processor.image_processor.post_process_masks(output.pred_masks, *sizes)[0].numpy()[:, 0]
    predictor = opened(folder)
    assert isinstance(predictor, BoxPrompted)
    given = [Prediction("box", name, 0.5, tuple(box)) for name, box in zip("ab", boxes, strict=True)]  # type: ignore[arg-type]
    (found,) = predictor.predict([predictor.prepare_boxes(image, given)])
    assert [p.name for p in found] == ["a", "b"]
    quality = output.iou_scores[0, :, 0].clamp(0, 1)
    assert [p.score for p in found] == pytest.approx((quality / 2).tolist(), abs=1e-5)
    for prediction, mask, wanted in zip(found, masks_of(found), expected, strict=True):
        assert mask.shape == (image.height, image.width)
        np.testing.assert_array_equal(mask, wanted)
        rows, columns = np.nonzero(wanted)
        assert prediction.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    with pytest.raises(ValueError, match="that have a box"):
        predictor.prepare_boxes(image, [Prediction("text", None, 1.0)])
    assert predictor.predict([predictor.prepare_boxes(image, [])]) == [[]]


def test_sam_outlines_everything_and_each_thing_once(saved: Callable[[str], Path], images: list[Image.Image]) -> None:
    image = images[1]
    every = predicted(opened(saved("sam"), **ALL_MASKS, nms_iou=1.0), [image])[0]
    once = predicted(opened(saved("sam"), **ALL_MASKS), [image])[0]
    stable = predicted(opened(saved("sam"), **(ALL_MASKS | {"min_stability": 0.5})), [image])[0]
    assert {p.name for p in every} == {"object"}
    assert len(every) > len(once) >= 1
    assert len(once) >= len(stable)
    assert all(mask.shape == (400, 200) and mask.any() for mask in masks_of(once))
    for index, one in enumerate(once):
        for other in once[:index]:
            x1, y1, x2, y2 = (f(a, b) for f, a, b in zip((max, max, min, min), one.box, other.box, strict=True))  # type: ignore[arg-type]
            shared = max(x2 - x1, 0) * max(y2 - y1, 0)
            areas = [(p.box[2] - p.box[0]) * (p.box[3] - p.box[1]) for p in (one, other)]  # type: ignore[index]
            assert shared <= 0.7 * (sum(areas) - shared) + 1e-6


@pytest.mark.skipif("local" not in plugin_names("predictors"), reason="the entry points are not installed")
def test_sam_outlines_what_another_model_finds(saved: Callable[[str], Path], images: list[Image.Image]) -> None:
    finder = open_predictor(f"local:{saved('owlv2')}", cache=saved("sam"), prompts=PROMPTS)
    wanted = [p for p in predicted(finder, images[:1])[0] if p.score >= 0.5]
    reference = {"boxes": f"local:{saved('owlv2')}", "boxes_min_score": 0.5}
    predictor = open_predictor(f"local:{saved('sam')}", cache=saved("sam"), prompts=PROMPTS, **reference)
    (found,) = predicted(predictor, images[:1])
    assert [p.name for p in found] == [p.name for p in wanted]
    assert found
    assert predictor.vocabulary is None
    other = Prompts({"dog": ("dog",)})
    assert open_predictor(f"local:{saved('sam')}", cache=saved("sam"), prompts=other, **reference).digest != (
        predictor.digest
    )


def test_the_digest_covers_all_that_predictions_depend_on(fresh: Callable[[str], Path]) -> None:
    folder = fresh("owlv2")
    first = opened(folder).digest
    assert opened(folder).digest == first
    digests = [first, opened(folder, Prompts({"cat": ("cat",)})).digest, opened(folder, min_score=0.2).digest]
    reordered = Prompts(dict(reversed(PROMPTS.texts.items())))
    digests.append(opened(folder, reordered).digest)
    words = json.loads((folder / "tokenizer.json").read_text())
    words["model"]["vocab"].update(cat=words["model"]["vocab"]["dog"], dog=words["model"]["vocab"]["cat"])
    (folder / "tokenizer.json").write_text(json.dumps(words))
    digests.append(opened(folder).digest)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**settings, "image_mean": [0.4] * 3}))
    digests.append(opened(folder).digest)
    tensors = tensors_of(folder)
    tensors["box_head.dense2.bias"] += 0.1
    write_tensors(folder, tensors)
    digests.append(opened(folder).digest)
    assert len(set(digests)) == len(digests)


def test_a_model_with_names_of_its_own_ignores_prompts(saved: Callable[[str], Path]) -> None:
    assert opened(saved("vit"), None).digest == opened(saved("vit")).digest
    assert opened(saved("detr"), None).digest == opened(saved("detr")).digest


def test_a_head_of_several_labels_gives_each_of_them(fresh: Callable[[str], Path], images: list[Image.Image]) -> None:
    folder = fresh("vit")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "problem_type": "multi_label_classification"}))
    (found,) = predicted(opened(folder), images[:1])
    scores = found[0].scores
    assert scores is not None
    assert [p.name for p in found] == sorted(scores, key=scores.__getitem__, reverse=True)  # all above 0.05
    high = predicted(opened(folder, min_score=found[1].score), images[:1])[0]
    assert [p.name for p in high] == [p.name for p in found[:2]]


@pytest.mark.slow
def test_scores_that_are_not_numbers_come_out_as_nan(fresh: Callable[[str], Path], images: list[Image.Image]) -> None:
    """Weights so large that the model overflows: infinity less infinity."""
    for family, key in (
        ("vit", "classifier.weight"),
        ("clip", "visual_projection.weight"),
        ("detr", "class_labels_classifier.weight"),
        ("rt-detr", "model.decoder.class_embed.1.weight"),
        ("owlv2", "class_head.dense0.weight"),
        ("grounding-dino", "model.text_projection.weight"),
        ("sam", "vision_encoder.neck.conv2.weight"),
    ):
        folder = fresh(family)
        tensors = tensors_of(folder)
        tensors[key] = tensors[key].sign() * 3e38
        write_tensors(folder, tensors)
        for found in predicted(opened(folder), images[:1]):
            assert [(p.kind, p.name) for p in found] == [(opened(folder).kinds[0], None)]
            assert math.isnan(found[0].score)


def test_weights_that_are_not_numbers_are_refused(fresh: Callable[[str], Path]) -> None:
    folder = fresh("vit")
    tensors = tensors_of(folder)
    tensors["classifier.bias"][1] = math.nan
    write_tensors(folder, tensors)
    with pytest.raises(ModelError, match=r"hold NaN, in classifier\.bias") as caught:
        opened(folder)
    assert caught.value.remedy


def change(folder: Path, fault: str) -> None:
    weights = folder / "model.safetensors"
    if fault == "pickled":
        import torch

        torch.save(tensors_of(folder), folder / "pytorch_model.bin")
        weights.unlink()
    elif fault == "no weights":
        weights.unlink()
    elif fault == "cut off":
        weights.write_bytes(weights.read_bytes()[:500])
    elif fault == "no head":
        write_tensors(folder, {k: v for k, v in tensors_of(folder).items() if "visual_projection" not in k})
    elif fault == "other head":
        write_tensors(folder, {k: v[:3] if "visual_projection" in k else v for k, v in tensors_of(folder).items()})
    elif fault == "no processor":
        (folder / "preprocessor_config.json").unlink()
    elif fault == "no tokenizer":
        for file in folder.glob("tokenizer*"):
            file.unlink()
    else:
        config = json.loads((folder / "config.json").read_text())
        if fault == "own code":
            config |= {"model_type": "mystery", "auto_map": {"AutoConfig": "code.MysteryConfig"}}
        elif fault == "no architecture":
            config.pop("architectures")
        elif fault == "no head class":
            config["architectures"] = ["CLIPVisionModel"]
        (folder / "config.json").write_text(json.dumps(config) if fault != "no json" else "{")


@pytest.mark.parametrize(
    ("fault", "message", "remedy"),
    [
        ("pickled", r"only pickled weights \(pytorch_model\.bin\)", "safetensors"),
        ("no weights", "cannot be loaded", "model.safetensors"),
        ("cut off", "cannot be loaded", "model.safetensors"),
        ("no head", r"no weights, or .* for visual_projection\.weight\.", "complete checkpoint"),
        ("other head", r"none of the right shape, for visual_projection\.weight\.", "complete checkpoint"),
        ("no processor", "cannot be loaded", "preprocessor_config.json"),
        ("no tokenizer", "cannot be loaded", "tokenizer"),
        ("own code", "code from its repository, which is never run", "architecture"),
        ("no architecture", "names no architecture", "Known are"),
        ("no head class", "is a CLIPVisionModel", "few-shot"),
        ("no json", "cannot be loaded", "config.json"),
    ],
)
def test_checkpoints_that_cannot_be_used_are_refused(
    fault: str, message: str, remedy: str, fresh: Callable[[str], Path]
) -> None:
    folder = fresh("clip")
    change(folder, fault)
    with pytest.raises(ModelError, match=message) as caught:
        opened(folder)
    assert remedy in caught.value.remedy
    assert str(folder.parent) not in caught.value.remedy


@pytest.mark.parametrize(
    ("family", "request_", "message"),
    [
        ("vit", Request(task="box"), "gives classification, not box"),
        ("sam", Request(task="classification"), "gives mask, not classification"),
        ("owlv2", Request(), "was asked nothing"),
        ("clip", Request(), "was asked nothing"),
        ("vit", Request(device="cuda:77"), "no device 'cuda:77'"),
        ("vit", Request(device="gpu"), "no device 'gpu'"),
        ("detr", Request(options={"min_scor": 0.5}), "no option 'min_scor'"),
        ("detr", Request(options={"min_score": "high"}), "'min_score' is a number; got 'high'"),
        ("detr", Request(options={"min_score": math.nan}), "'min_score' is a number; got nan"),
        ("sam", Request(options={"points_per_side": 0}), "'points_per_side' is a whole number from 1; got 0"),
        ("sam", Request(options={"points_per_side": 2.5}), "'points_per_side' is a whole number"),
        ("clip", Request(prompts=Prompts({"x": ("xyzzy",)})), "cannot name the class 'x'"),
        ("owlv2", Request(prompts=Prompts({"x": ("xyzzy",)})), "cannot name the class 'x'"),
        ("grounding-dino", Request(prompts=Prompts({"x": ("xyzzy",)})), "cannot name the class 'x'"),
        ("clip", Request(prompts=Prompts({"x": ("a xyzzy",), "y": ("a plugh",)})), "same prompt for 'x' and 'y'"),
    ],
)
def test_requests_that_a_model_cannot_meet_are_refused(
    family: str, request_: Request, message: str, saved: Callable[[str], Path]
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        open_local(str(saved(family)), saved(family), request_)
    assert caught.value.remedy


def test_models_that_are_not_there_say_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="'nobody/nothing' cannot be loaded") as caught:
        open_hub("nobody/nothing@main", tmp_path, Request())
    assert "local:DIR" in caught.value.remedy
    with pytest.raises(ModelError, match="holds no saved model"):
        open_local(str(tmp_path / "none"), tmp_path, Request())


def test_a_branch_on_the_hub_is_recorded_as_the_commit_that_it_stood_for(
    saved: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789abcdef" * 2 + "01234567"
    fetched = tmp_path / "models--org--tiny"
    shutil.copytree(saved("vit"), fetched / "snapshots" / commit)
    (fetched / "refs").mkdir()
    (fetched / "refs" / "main").write_text(commit)
    for reference in ("org/tiny", "org/tiny@main", f"org/tiny@{commit}"):
        assert open_hub(reference, tmp_path, Request()).revision == commit


def test_a_hub_out_of_reach_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
        assert not hub_answers("nobody/nothing")
    with HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        assert hub_answers("nobody/nothing")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        assert not hub_answers("nobody/nothing")


@pytest.mark.parametrize("reference", ["vit", "hf:", "magic:vit", "", "local"])
def test_references_that_name_no_model_are_refused(reference: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no model that predicts") as caught:
        open_predictor(reference, cache=tmp_path)
    assert "hf:NAME@REVISION" in caught.value.remedy
    with pytest.raises(ModelError, match="no task 'boxes'"):
        open_predictor("hf:x", cache=tmp_path, task="boxes")


def test_an_image_that_cannot_be_resized_is_told_from_a_fault_of_the_model(saved: Callable[[str], Path]) -> None:
    with pytest.raises(ImageError, match="1 x 3000 pixels do not fit the model"):
        opened(saved("detr")).prepare(Image.new("RGB", (1, 3000)))


@pytest.mark.parametrize(
    ("given", "whole"),
    [("m3", "model:m3"), ("production", "model:production"), ("m0", "m0"), ("model:m3", "model:m3"), ("mine", "mine")],
)
def test_models_trained_here_need_no_scheme(given: str, whole: str) -> None:
    assert with_scheme(given) == whole
