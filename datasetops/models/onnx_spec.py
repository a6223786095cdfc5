"""What goes into an ONNX model and what comes out of it: a short YAML file beside it.

    family: yolov8
    names: [cat, dog]

is enough for a model that was exported as its family exports models; the other fields say where one differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from datasetops.schema.model import Name, Positive, Record, wrong
from datasetops.schema.yamlfile import read_file, read_yaml, validated

FamilyName = Literal["yolox", "yolov5", "yolov8", "yolo11", "rt-detr", "boxes", "logits"]
Activation = Literal["none", "sigmoid", "softmax"]
Side = Annotated[int, Field(ge=1, le=2**15)]
_Number = Annotated[float, Field(allow_inf_nan=False)]
_Three = tuple[_Number, _Number, _Number]
_ThreePositive = tuple[Positive, Positive, Positive]

# What each family's own exporter writes: fields of InputSpec and OutputSpec that differ from their defaults.
_UNIT: Final = {"divide_by": 255.0}
_YOLO: Final = {"resize": "letterbox", **_UNIT}
_WITHOUT_NMS: Final = 1.0  # RT-DETR is trained to give one box a thing
_IMAGENET: Final = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_FAMILIES: Final[Mapping[str, tuple[Mapping[str, Any], Activation]]] = {
    "yolox": ({"resize": "letterbox-corner", "channels": "bgr"}, "none"),
    "yolov5": (_YOLO, "none"),
    "yolov8": (_YOLO, "none"),
    "yolo11": (_YOLO, "none"),
    "rt-detr": (_UNIT, "sigmoid"),
    "boxes": (_YOLO, "none"),
    "logits": ({**_UNIT, **_IMAGENET}, "softmax"),
}


class InputSpec(Record):
    """How an RGB image becomes the model's input: resized, channels ordered, divided, normalised by mean and deviation."""

    name: Name | None = None  # of the graph's input; where not given: the only one
    layout: Literal["nchw", "nhwc"] = "nchw"
    size: tuple[Side, Side] | None = None  # height and width; where not given: the graph's own
    # stretch: to the size; crop: the middle at the size's aspect; letterbox: the whole image with bars around it, or
    # with the image in the upper left corner; longer-side: at the image's aspect, as far as sides that are multiples of
    # 32 allow, the longer one as in the size.
    resize: Literal["stretch", "crop", "letterbox", "letterbox-corner", "longer-side"] = "stretch"
    resample: Literal["bilinear", "bicubic"] = "bilinear"
    fill: Annotated[int, Field(ge=0, le=255)] = 114  # grey level of the bars
    channels: Literal["rgb", "bgr"] = "rgb"
    divide_by: Positive = 1.0
    mean: _Three = (0.0, 0.0, 0.0)  # by channel in their order, after the division
    std: _ThreePositive = (1.0, 1.0, 1.0)


class OutputSpec(Record):
    """Which outputs are read, what makes probabilities of their scores, and what is told of them unless asked otherwise."""

    # Of the graph. Where not given: its only output, or those called logits and pred_boxes (rt-detr).
    names: Annotated[tuple[Name, ...], Field(min_length=1, max_length=2)] | None = None
    activation: Activation = "none"
    # What the options of the same names are unless told; where not given here: as for every model.
    min_score: Annotated[float, Field(ge=0, le=1)] | None = None
    nms_iou: Annotated[float, Field(gt=0, le=1)] | None = None


class OnnxSpec(Record):
    """An ONNX model of a known family. `names` are its classes by index; where not given: those in the file itself."""

    family: FamilyName
    names: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    input: InputSpec = InputSpec()
    output: OutputSpec = OutputSpec()

    @model_validator(mode="before")
    @classmethod
    def _as_the_family(cls, given: Any) -> Any:
        """Fields that are not given are as the family has them."""
        if not isinstance(given, dict) or given.get("family") not in tuple(_FAMILIES):
            return given
        defaults, activation = _FAMILIES[given["family"]]
        filled = dict(given)
        for name, values in (("input", defaults), ("output", {"activation": activation})):
            own = given.get(name, {})
            if isinstance(own, dict):
                filled[name] = {**values, **own}
        return filled

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        names = self.names or ()
        for index, name in enumerate(names):
            if name in names[:index]:
                raise wrong(f"names.{index}", f"expected each name once; {name!r} is there twice")
        if self.output.names and len(self.output.names) == 2 and self.family != "rt-detr":
            raise wrong("output.names", f"expected one output for {self.family}; got two")
        if self.input.resize == "longer-side" and self.family in ("yolox", "rt-detr"):
            raise wrong("input.resize", f"the outputs of {self.family} tell places for one size of input only")
        return self

    @property
    def kind(self) -> str:
        return "classification" if self.family == "logits" else "box"

    @property
    def several(self) -> bool:
        """Whether several classes may hold for one image."""
        return self.family == "logits" and self.output.activation == "sigmoid"

    @property
    def options(self) -> dict[str, float]:
        """What a model of this description has for `min_score` and `nms_iou` unless told; nothing: as every model."""
        own: dict[str, float] = {}
        if self.family == "rt-detr":
            own["nms_iou"] = _WITHOUT_NMS
        if self.family == "logits" and not self.several:
            own["min_score"] = 0.0  # the best class is told, however unsure
        told = {"min_score": self.output.min_score, "nms_iou": self.output.nms_iou}
        return own | {name: value for name, value in told.items() if value is not None}


def read_spec(path: Path) -> OnnxSpec:
    """The description of a model. Raises NotFoundError, and SchemaError that names each field at fault with its line."""
    remedy = (
        "Write one with the lines 'family: yolox' (or another) and 'names: [cat, dog]', or name it with --model-config."
    )
    data = read_file(path, noun="description of the ONNX model", remedy=remedy)
    return validated(OnnxSpec, read_yaml(data, str(path)))
