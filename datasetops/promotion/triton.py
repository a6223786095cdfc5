"""Exported models as a model repository of Triton Inference Server.

Layout: `NAME/config.pbtxt`, `NAME/1/model.onnx`, `NAME/labels.txt` (a class a line, in the order of the scores) and
`NAME/description.yaml` (how an image is prepared and an answer read). Format: Triton's model_repository.md and
model_config.proto.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from datasetops.errors import ModelError, StoreError
from datasetops.models.onnx_spec import read_spec

_TYPES: Final = {
    "FLOAT": "TYPE_FP32", "FLOAT16": "TYPE_FP16", "DOUBLE": "TYPE_FP64", "UINT8": "TYPE_UINT8", "INT8": "TYPE_INT8",
    "INT32": "TYPE_INT32", "INT64": "TYPE_INT64", "BOOL": "TYPE_BOOL",
}  # fmt: skip
_LABELS: Final = "labels.txt"
_FREE: Final = -1
DELAY: Final = 500  # microseconds that a request waits at most for others to be joined with


@dataclass(frozen=True)
class Tensor:
    """An input or output of the graph; `dims` are its sides, -1 where one is open, the first one that of the images."""

    name: str
    type: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class TritonModel:
    """What was written: the model's name and folder, and how many images a call takes (0: as the dims say)."""

    name: str
    path: str
    max_batch_size: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def write_triton(exported: Sequence[Path], repository: Path, *, max_batch_size: int = 8) -> list[TritonModel]:
    """Put ONNX files that `export_model` wrote, with their descriptions beside them, into a model repository.

    A model is joined into batches of up to `max_batch_size` images where its graph leaves their number open. Nothing is
    replaced: raises StoreError where a model of that name is there, or a folder cannot be written; ModelError for a graph
    with tensors that Triton has no type for.
    """
    refuse_taken(repository, [file.stem for file in exported])
    return [_write(file, repository, max_batch_size) for file in exported]


def refuse_taken(repository: Path, names: Sequence[str]) -> None:
    """Raise StoreError where a model repository has a model of one of these names."""
    for name in names:
        if (repository / name).exists():
            raise StoreError(
                f"{repository / name} is there already.",
                remedy="Nothing was written. Move it away, or name another repository.",
            )


def _write(file: Path, repository: Path, most: int) -> TritonModel:
    import onnx

    spec = read_spec(file.with_suffix(".yaml"))
    model = onnx.load(str(file), load_external_data=False)
    given = {item.name for item in model.graph.initializer}
    inputs = [_tensor(file, item) for item in model.graph.input if item.name not in given]
    outputs = [_tensor(file, item) for item in model.graph.output]
    joined = most if all(tensor.dims[:1] == (_FREE,) for tensor in (*inputs, *outputs)) else 0
    labeled = {outputs[0].name} if spec.family == "logits" else set()
    target = repository / file.stem
    temporary = repository / f".{uuid.uuid4().hex}.part"
    try:
        (temporary / "1").mkdir(parents=True)
        shutil.copyfile(file, temporary / "1" / "model.onnx")
        shutil.copyfile(file.with_suffix(".yaml"), temporary / "description.yaml")
        (temporary / _LABELS).write_text("".join(f"{name}\n" for name in spec.names or ()), encoding="utf-8")
        (temporary / "config.pbtxt").write_text(config(file.stem, inputs, outputs, joined, labeled), encoding="utf-8")
        temporary.rename(target)
    except OSError as error:
        raise StoreError(f"{target} cannot be written: {error.strerror}.", remedy="Name another folder.") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return TritonModel(file.stem, str(target), joined)


def config(
    name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor], max_batch_size: int, labeled: set[str]
) -> str:
    """Text format of the message ModelConfig. `labeled`: outputs with a score for each line of the labels' file."""
    lines = [f"name: {_quoted(name)}", 'backend: "onnxruntime"', f"max_batch_size: {max_batch_size}"]
    for field, tensors in (("input", inputs), ("output", outputs)):
        for tensor in tensors:
            dims = tensor.dims[1:] if max_batch_size else tensor.dims
            lines += [f"{field} {{", f"  name: {_quoted(tensor.name)}", f"  data_type: {tensor.type}"]
            lines += [f"  dims: [ {', '.join(map(str, dims))} ]"]
            lines += [f"  label_filename: {_quoted(_LABELS)}"] if tensor.name in labeled else []
            lines += ["}"]
    if max_batch_size:
        lines += ["dynamic_batching {", f"  max_queue_delay_microseconds: {DELAY}", "}"]
    return "\n".join(lines) + "\n"


def _tensor(file: Path, item: Any) -> Tensor:
    from onnx import TensorProto

    kind = TensorProto.DataType.Name(item.type.tensor_type.elem_type)
    if kind not in _TYPES:
        raise ModelError(f"{file}: {item.name} is of type {kind}, which Triton's config does not have.")
    sides = item.type.tensor_type.shape.dim
    return Tensor(item.name, _TYPES[kind], tuple(side.dim_value or _FREE for side in sides))


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
