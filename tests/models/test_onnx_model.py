"""ONNX models: graphs that answer with given arrays, read as each family writes them; and a real detector."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from datasetops.errors import FormatError, ModelError, NotFoundError, SchemaError
from datasetops.models.onnx_model import fitted, open_onnx
from datasetops.models.onnx_spec import InputSpec
from datasetops.models.predictor import Prediction, Predictor, Request

NAMES = ["cat", "dog", "bird"]
WIDE = Image.new("RGB", (128, 64), (255, 128, 0))  # in an input of 64 x 64: half the size, 32 rows of it bars
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A model whose outputs are `outputs` whatever the image, a row an image, and its description."""

    def model(
        spec: dict[str, Any] | str,
        outputs: dict[str, Any],
        *,
        shape: tuple[Any, ...] = (1, 3, 64, 64),
        type: int = TensorProto.FLOAT,
        metadata: str | None = None,
        inputs: tuple[str, ...] = ("images",),
    ) -> Path:
        constants, nodes, results = [], [], []
        for name, value in outputs.items():
            array = np.asarray(value, dtype=np.float32)
            constants.append(numpy_helper.from_array(array[None], f"{name}.value"))
            # The sum of the image times 0 is added, a row an image, so that the batch's size is kept.
            nodes += [
                helper.make_node("Cast", ["images"], [f"{name}.image"], to=TensorProto.FLOAT),
                helper.make_node("ReduceMean", [f"{name}.image"], [f"{name}.mean"], axes=[1, 2, 3], keepdims=1),
                helper.make_node("Clip", [f"{name}.mean", "zero", "zero"], [f"{name}.none"]),
                helper.make_node("Reshape", [f"{name}.none", f"{name}.shape"], [f"{name}.flat"]),
                helper.make_node("Add", [f"{name}.flat", f"{name}.value"], [name]),
            ]
            ones = np.array([-1] + [1] * array.ndim, dtype=np.int64)
            constants.append(numpy_helper.from_array(ones, f"{name}.shape"))
            results.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, *array.shape]))
        constants.append(numpy_helper.from_array(np.float32(0), "zero"))
        given = [helper.make_tensor_value_info(name, type, shape) for name in inputs]
        graph = helper.make_graph(nodes, "test", given, results, constants)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        if metadata is not None:
            helper.set_model_props(made, {"names": metadata})
        file = tmp_path / "model.onnx"
        onnx.save(made, str(file))
        text = spec if isinstance(spec, str) else yaml.safe_dump(spec)
        file.with_suffix(".yaml").write_text(text)
        return file

    return model


def opened(file: Path, task: str | None = None, **options: Any) -> Predictor:
    return open_onnx(str(file), file.parent, Request(task, options=options))


def found(file: Path, image: Image.Image = WIDE, **options: Any) -> list[Prediction]:
    predictor = opened(file, **options)
    return predictor.predict([predictor.prepare(image)])[0]


def boxes_of(predictions: list[Prediction]) -> list[tuple[str | None, float, tuple[float, ...] | None]]:
    return [
        (one.name, round(one.score, 4), one.box and tuple(round(side, 3) for side in one.box)) for one in predictions
    ]


def test_yolox_reads_cells_of_three_strides(write: Write) -> None:
    """64 x 64: 8 x 8 cells of 8 pixels, then 4 x 4 of 16, then 2 x 2 of 32."""
    output = np.zeros((64 + 16 + 4, 5 + 3), dtype=np.float32)
    output[2 * 8 + 3] = [0.5, 0.25, math.log(2), math.log(1.5), 0.8, 0.1, 0.9, 0.2]  # row 2, column 3 of stride 8
    output[64 + 16 + 1] = [0.0, 0.5, 0.0, math.log(0.25), 0.5, 0.9, 0.1, 0.2]  # row 0, column 1 of stride 32
    file = write({"family": "yolox", "names": NAMES}, {"output": output})
    # Middles (28, 18) and (32, 16), sides (16, 12) and (32, 8) in the input; the image is twice as large.
    expected = [("dog", 0.72, (40.0, 24.0, 72.0, 48.0)), ("cat", 0.45, (32.0, 24.0, 96.0, 40.0))]
    assert boxes_of(found(file)) == expected


def test_yolov5_reads_objectness_and_pixels(write: Write) -> None:
    rows = [[32, 32, 20, 10, 0.5, 0.2, 0.0, 0.9], [10, 30, 4, 4, 0.01, 0.9, 0.9, 0.9]]
    file = write({"family": "yolov5", "names": NAMES}, {"output": rows})
    # The letterbox is centred: 16 rows of bars above.
    assert boxes_of(found(file)) == [("bird", 0.45, (44.0, 22.0, 84.0, 42.0))]


@pytest.mark.parametrize("family", ["yolov8", "yolo11"])
def test_yolov8_reads_columns_without_objectness(write: Write, family: str) -> None:
    rows = np.array([[32, 32, 20, 10, 0.2, 0.8, 0.1], [5, 20, 4, 4, 0.0, 0.0, 0.04]])
    file = write({"family": family, "names": NAMES}, {"output0": rows.T})
    assert boxes_of(found(file)) == [("dog", 0.8, (44.0, 22.0, 84.0, 42.0))]
    assert len(found(file, min_score=0.01)) == 2


def test_rt_detr_reads_logits_and_shares_of_the_image(write: Write) -> None:
    logits = np.full((4, 3), -9.0)
    logits[1], logits[2, 0] = [2.0, -9.0, 1.0], 0.0
    boxes = np.tile([0.5, 0.5, 0.5, 0.25], (4, 1))
    boxes[2] = [0.125, 0.25, 0.25, 0.5]
    outputs = {"logits": logits, "pred_boxes": boxes, "other": [[1.0]]}
    answers = boxes_of(found(write({"family": "rt-detr", "names": NAMES}, outputs)))
    middle = (32.0, 24.0, 96.0, 40.0)
    assert answers == [("cat", 0.8808, middle), ("bird", 0.7311, middle), ("cat", 0.5, (0.0, 0.0, 32.0, 32.0))]


def test_rt_detr_in_one_output_has_boxes_first(write: Write) -> None:
    spec = {"family": "rt-detr", "names": NAMES, "output": {"activation": "none"}}
    rows = [[0.5, 0.5, 0.5, 0.25, 0.1, 0.7, 0.0], [0.5, 0.5, 0.5, 0.25, 0.6, 0.0, 0.0]]
    answers = boxes_of(found(write(spec, {"output": rows})))
    # One box twice: this family is trained to give each thing one box, so nothing is suppressed unless asked for.
    assert [(name, score) for name, score, _ in answers] == [("dog", 0.7), ("cat", 0.6)]


def test_rows_of_boxes_have_corners_score_and_class(write: Write) -> None:
    rows = [[22, 27, 42, 37, 0.8, 1], [5, 20, 9, 24, 0.04, 0], [0, 0, 0, 0, 0, 0]]
    file = write({"family": "boxes", "names": NAMES}, {"rows": rows})
    assert boxes_of(found(file)) == [("dog", 0.8, (44.0, 22.0, 84.0, 42.0))]
    told = write({"family": "boxes", "names": NAMES, "output": {"min_score": 0.01}}, {"rows": rows})
    assert (len(found(told)), len(found(told, min_score=0.5))) == (2, 1)
    with pytest.raises(FormatError, match="classes from 0 to 2; got 0 to 3"):
        found(write({"family": "boxes", "names": NAMES}, {"rows": [*rows, [1, 1, 2, 2, 0.9, 3]]}))


def test_the_longer_side_keeps_the_aspect(write: Write) -> None:
    spec = {"family": "boxes", "names": NAMES, "input": {"resize": "longer-side", "size": [64, 64]}}
    file = write(spec, {"rows": [[16, 8, 32, 24, 0.8, 1]]}, shape=(None, 3, None, None))
    model = opened(file)
    assert model.prepare(WIDE).pixels.shape == (3, 32, 64)
    assert boxes_of(found(file)) == [("dog", 0.8, (32.0, 16.0, 64.0, 48.0))]
    both = [model.prepare(image) for image in (WIDE, WIDE.rotate(90, expand=True))]
    assert [own[0].box for own in model.predict(both)] == [(32, 16, 64, 48), (32, 16, 64, 48)]


def test_several_classes_may_hold_under_a_sigmoid(write: Write) -> None:
    spec = {"family": "logits", "names": NAMES, "output": {"activation": "sigmoid"}}
    file = write(spec, {"logits": [2.0, -9.0, 0.0]})
    assert [(one.name, round(one.score, 4)) for one in found(file)] == [("cat", 0.8808), ("bird", 0.5)]


def test_logits_give_scores_of_all_names(write: Write) -> None:
    file = write({"family": "logits", "names": NAMES}, {"logits": [1.0, 3.0, 2.0]})
    (answer,) = found(file)
    exponent = np.exp([1.0, 3.0, 2.0])
    assert (answer.kind, answer.name, answer.box) == ("classification", "dog", None)
    assert answer.scores == pytest.approx(dict(zip(NAMES, exponent / exponent.sum(), strict=True)), abs=1e-6)
    assert opened(file, "classification").kinds == ("classification",)


def test_suppression_is_within_a_class(write: Write) -> None:
    rows = [[32, 32, 20, 10, 0.9, 0, 0], [32, 32, 20, 11, 0.8, 0, 0], [32, 32, 20, 10, 0, 0.7, 0]]
    file = write({"family": "yolov8", "names": NAMES}, {"output": np.array(rows).T})
    assert [(one.name, round(one.score, 2)) for one in found(file)] == [("cat", 0.9), ("dog", 0.7)]
    assert len(found(file, nms_iou=1.0)) == 3
    assert len(found(file, max_boxes=1)) == 1


def test_batches_of_any_size_and_of_one_agree(write: Write) -> None:
    output = np.array([[32, 32, 20, 10, 0.9, 0, 0]]).T
    images = [WIDE, WIDE.rotate(90, expand=True), Image.new("RGB", (64, 64))]
    answers = []
    for batch in (1, "batch"):
        predictor = opened(write({"family": "yolov8", "names": NAMES}, {"output": output}, shape=(batch, 3, 64, 64)))
        answers.append(predictor.predict([predictor.prepare(image) for image in images]))
        assert predictor.predict([]) == []
    assert answers[0] == answers[1]
    assert [one[0].box for one in answers[0]] == [(44, 22, 84, 42), (12, 54, 52, 74), (22, 27, 42, 37)]


def test_an_image_with_nan_is_told_as_failed(write: Write) -> None:
    for spec, output in (("yolov8", [[math.nan]] + [[1.0]] * 6), ("logits", [0.0, math.nan, 1.0])):
        (answer,) = found(write({"family": spec, "names": NAMES}, {"output": output}))
        assert answer.name is None
        assert math.isnan(answer.score)


def test_inputs_as_described(write: Write) -> None:
    """The first pixel of an orange image, in each way in which a model may want it."""
    cases: list[tuple[dict[str, Any], int, Any]] = [
        ({}, TensorProto.FLOAT, [1.0, 128 / 255, 0.0]),
        ({"channels": "bgr", "divide_by": 1}, TensorProto.FLOAT, [0.0, 128.0, 255.0]),
        ({"mean": [0.5, 0.5, 0.0], "std": [0.5, 0.25, 1.0]}, TensorProto.FLOAT16, [1.0, 0.00784, 0.0]),
        ({}, TensorProto.UINT8, [255, 128, 0]),
    ]
    for given, element, expected in cases:
        spec = {"family": "yolov8", "names": NAMES, "input": {"resize": "stretch", **given}}
        prepared = opened(write(spec, {"output": np.zeros((7, 1))}, type=element)).prepare(WIDE)
        assert prepared.pixels.shape == (3, 64, 64)
        assert prepared.pixels[:, 0, 0] == pytest.approx(expected, abs=1e-3)
    spec = {"family": "logits", "names": NAMES, "input": {"layout": "nhwc", "size": [32, 48]}}
    file = write(spec, {"output": [0, 0, 1]}, shape=(None, None, None, 3))
    assert opened(file).prepare(WIDE).pixels.shape == (32, 48, 3)


def test_points_of_the_image_are_found_again() -> None:
    """A white square on black, in each way of resizing, stands where scale and offset say."""
    image = Image.new("RGB", (200, 100))
    image.paste((255, 255, 255), (80, 40, 120, 60))
    for resize in ("stretch", "crop", "letterbox", "letterbox-corner"):
        made, scale, offset = fitted(image, (64, 96), InputSpec(resize=resize, fill=0))
        assert made.size == (96, 64)
        rows, columns = np.nonzero(np.asarray(made)[:, :, 0] > 127)
        place = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        back = (np.array(place) - np.array(offset * 2)) / np.array(scale * 2)
        assert back == pytest.approx([80, 40, 120, 60], abs=3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("family: yolo9000\nnames: [a]\n", r"line 1: family: expected one of"),
        ("names: [a]\n", r"family: expected a value; it is missing"),
        ("family: yolox\nnames: [a, b, a]\n", r"names\[3\]: expected each name once"),
        ("family: yolox\nnames: [a]\ninput:\n  size: [64]\n", r"line 4: input.size"),
        ("family: yolox\nnames: [a]\ninput:\n  std: [1, 1, 0]\n", r"line 4: input.std\[3\]: expected a number above 0"),
        ("family: yolox\nnames: [a]\ninput:\n  colour: bgr\n", r"line 4: input.colour: there is no such field"),
        ("family: yolox\nnames: [a]\ninput: 5\n", r"line 3: input: expected a mapping"),
        ("family: yolox\nnames: [a]\noutput:\n  names: [x, y]\n", r"line 4: output.names: expected one output"),
        ("family: yolox\nnames: [a]\ninput:\n  resize: longer-side\n", r"line 4: input.resize: the outputs of yolox"),
        ("family: [yolox]\nnames: [a]\n", r"line 1: family"),
        ("- yolox\n", r"expected a mapping"),
        ("family: yolox\n  names: [\n", r"line 2"),
    ],
)
def test_a_bad_description_is_told_by_line_and_field(write: Write, text: str, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        opened(write(text, {"output": [[0.0]]}))


@pytest.mark.parametrize(
    ("spec", "outputs", "options", "message"),
    [
        ({"input": {"size": [32, 32]}}, {}, {}, r"input.size: the model takes \[64, 64\], not \[32, 32\]"),
        ({}, {}, {"shape": (1, 3, None, None)}, "input.size: the model takes any size"),
        ({"input": {"layout": "nhwc"}}, {}, {}, "input.layout: nhwc has 3 channels"),
        ({}, {}, {"shape": (1, 3, 64, 64, 1)}, "input.layout"),
        ({"input": {"name": "image"}}, {}, {}, "there is no input 'image'.*\n.*'images'"),
        ({}, {}, {"inputs": ("images", "sizes")}, "input.name: the model has the inputs images, sizes"),
        ({}, {}, {"type": TensorProto.INT64}, "is a tensor.int64., not an image"),
        ({"output": {"names": ["y"]}}, {}, {}, "output.names: there is no output 'y'"),
        ({}, {"output": [[0.0]], "more": [[0.0]]}, {}, "output.names: the model has the outputs output, more"),
        ({"names": None}, {}, {}, "names: expected the classes by index"),
        ({"names": None}, {}, {"metadata": "__import__('os')"}, "names: expected the classes by index"),
        ({}, {}, {"shape": (4, 3, 64, 64)}, "takes batches of 4 images only"),
    ],
)
def test_a_description_that_does_not_fit_the_model(
    write: Write, spec: dict[str, Any], outputs: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    file = write({"family": "yolov8", "names": NAMES} | spec, outputs or {"output": np.zeros((7, 1))}, **options)
    with pytest.raises((FormatError, ModelError), match=message):
        opened(file)


@pytest.mark.parametrize("family", ["yolox", "yolov5", "yolov8", "rt-detr", "boxes", "logits"])
def test_an_output_of_another_shape_is_refused(write: Write, family: str) -> None:
    file = write({"family": family, "names": NAMES}, {"output": np.zeros((5, 9))})
    with pytest.raises(FormatError, match=r"model.yaml: family: .*expected .*; got 5"):
        found(file)


def test_names_may_stand_in_the_model(write: Write) -> None:
    output = np.array([[32, 32, 20, 10, 0.9, 0, 0]]).T
    file = write({"family": "yolov8"}, {"output": output}, metadata="{0: 'cat', 1: 'dog', 2: 'bird'}")
    assert opened(file).vocabulary == ("cat", "dog", "bird")


def test_the_digest_covers_weights_description_and_options(write: Write) -> None:
    def digest(score: float = 0.9, names: list[str] = NAMES, **options: Any) -> str:
        output = np.array([[32, 32, 20, 10, score, 0, 0]]).T
        return opened(write({"family": "yolov8", "names": names}, {"output": output}), **options).digest

    digests = [digest(), digest(0.8), digest(names=["a", "b", "c"]), digest(min_score=0.2)]
    assert len(set(digests)) == 4
    assert digest() == digests[0]
    assert digest(config=str(write({"family": "yolov8", "names": NAMES}, {"o": [[0.0]]}).with_suffix(".yaml")))


def test_what_cannot_be_opened(write: Write, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="There is no file"):
        opened(tmp_path / "none.onnx")
    file = write({"family": "yolov8", "names": NAMES}, {"output": np.zeros((7, 1))})
    with pytest.raises(ModelError, match="gives box, not classification"):
        opened(file, "classification")
    with pytest.raises(ModelError, match="no option 'threshold'"):
        opened(file, threshold=0.5)
    with pytest.raises(ModelError, match="cannot run on 'mps'"):
        open_onnx(str(file), tmp_path, Request(device="mps"))
    file.with_suffix(".yaml").unlink()
    with pytest.raises(NotFoundError, match=r"description of the ONNX model .*model.yaml"):
        opened(file)
    (tmp_path / "model.yaml").write_text("family: logits\nnames: [a]\n")
    file.write_bytes(b"\x80\x04 no model")
    with pytest.raises(ModelError, match=r"is no ONNX model|cannot be loaded"):
        opened(file)


def test_weights_outside_of_the_models_folder_are_refused(write: Write, tmp_path: Path) -> None:
    file = write({"family": "yolov8", "names": NAMES}, {"output": np.zeros((7, 64))})
    model = onnx.load(str(file))
    onnx.save(model, str(file), save_as_external_data=True, location="weights.bin", size_threshold=64)
    first = opened(file).digest
    content = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(content[:-4] + np.float32(0.25).tobytes())
    assert opened(file).digest != first
    model = onnx.load(str(file), load_external_data=False)
    for one in model.graph.initializer:
        for entry in one.external_data:
            if entry.key == "location":
                entry.value = "../weights.bin"
    onnx.save(model, str(file))
    with pytest.raises(ModelError, match="which is not beside it"):
        opened(file)


@pytest.mark.slow
def test_a_real_detector_finds_what_people_boxed(data: Path, tmp_path: Path) -> None:
    """YOLOX-nano on 100 images of COCO: its average precision there is .26, by its README."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO(str(data / "coco_tiny" / "coco.json"))
    categories = json.loads((data / "coco_tiny" / "coco.json").read_text())["categories"]
    numbers = {one["name"]: one["id"] for one in categories}
    config = tmp_path / "yolox_nano.yaml"
    config.write_text(yaml.safe_dump({"family": "yolox", "names": list(numbers)}))
    file = data / "yolox_nano" / "yolox_nano.onnx"
    predictor = opened(file, config=str(config), min_score=0.001, max_boxes=100)
    results = []
    for image in truth.dataset["images"]:
        with Image.open(data / "coco_tiny" / "images" / image["file_name"]) as picture:
            prepared = predictor.prepare(picture.convert("RGB"))
        for one in predictor.predict([prepared])[0]:
            assert one.box is not None
            x1, y1, x2, y2 = one.box
            place = [x1, y1, x2 - x1, y2 - y1]
            number = numbers[str(one.name)]
            results.append({"image_id": image["id"], "category_id": number, "bbox": place, "score": one.score})
    evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] >= 0.25
