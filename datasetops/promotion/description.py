"""The YAML file beside an exported ONNX file: all that a reader needs to prepare an image and to read the answer."""

from __future__ import annotations

from typing import Any, Final

from datasetops.audits.record import plain
from datasetops.models.onnx_spec import OnnxSpec
from datasetops.promotion.graph import Graph
from datasetops.schema.yamlfile import dump_yaml

_RESIZE: Final = {
    "stretch": "stretched to `size` (height, width), whatever its aspect",
    "crop": "its middle at the aspect of `size` (height, width) cut out, and resized to it",
    "letterbox": "resized to fit into `size` (height, width), in the middle, bars around it of the grey level `fill`",
    "letterbox-corner": "resized to fit into `size` (height, width), in the upper left corner, the rest of the grey level `fill`",
    "longer-side": "resized so that its longer side is that of `size`, both sides being the nearest multiples of 32",
}
_READ: Final = {
    "logits": ("One score a class, in the order of `names`; `activation` makes probabilities of them.",),
    "boxes": (
        "Rows x1, y1, x2, y2, score, class (its place in `names`), in pixels of the resized image. Rows below",
        "`min_score` are left out; then of two boxes of a class that overlap by more than `nms_iou` the lower one.",
    ),
    "rt-detr": (
        "Scores of each query (`activation` makes probabilities of them), and boxes: middle x, middle y, width and",
        "height as shares of the image. Rows below `min_score` are left out.",
    ),
}


def description_of(graph: Graph) -> bytes:
    """Every field written out, also where it is the family's default, and in words how an image is prepared."""
    from onnx import TensorProto

    spec = OnnxSpec.model_validate(plain(dict(graph.spec)))
    told: dict[str, Any] = spec.model_dump(mode="json", exclude_none=True)
    tensor = graph.model.graph.input[0].type.tensor_type
    sides = [axis.dim_value for axis in tensor.shape.dim]
    sides = sides[1:3] if spec.input.layout == "nhwc" else sides[2:4]
    if spec.input.size is None and all(sides):
        told["input"]["size"] = sides
    if tensor.elem_type == TensorProto.UINT8:
        told["input"] |= {"divide_by": 1.0, "mean": [0.0] * 3, "std": [1.0] * 3}
        numbers = "as they are, unsigned 8-bit numbers"
    else:
        numbers = "divided by `divide_by`, less `mean`, divided by `std` (by channel), as 32-bit floats"
    words = [
        f"Input: images turned upright (EXIF), {spec.input.channels.upper()}, each {_RESIZE[spec.input.resize]};",
        f"resampled as Pillow does ({spec.input.resample}, which also averages where it makes smaller); pixels {numbers};",
        f"as (images, {'height, width, 3' if spec.input.layout == 'nhwc' else '3, height, width'}).",
        "Output:",
        *_READ[spec.family],
    ]
    return "".join(f"# {line}\n" for line in words).encode() + dump_yaml(told).encode()
