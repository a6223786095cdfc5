"""ONNX files: opening them, and what their content depends on."""

from __future__ import annotations

from hashlib import file_digest
from pathlib import Path
from typing import Any

from datasetops.errors import ModelError


def open_session(file: Path, device: str) -> Any:
    """An ONNX Runtime session; on the CPU a call runs on one processor. Raises ModelError."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    kind, _, number = device.partition(":")
    there = onnxruntime.get_available_providers()
    providers: list[Any] = ["CPUExecutionProvider"]
    if kind in ("auto", "cuda") and "CUDAExecutionProvider" in there:
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": int(number or 0)}))
    elif kind in ("auto", "cpu"):
        options.intra_op_num_threads = 1
    else:
        raise ModelError(
            f"ONNX models cannot run on {device!r} here.",
            remedy="Install onnxruntime-gpu for cuda, or take the device cpu.",
        )
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=providers)
    except Exception as error:
        raise ModelError(
            f"{file} cannot be loaded as an ONNX model: {first_line(error)}",
            remedy="Export the model again, for a version of ONNX that this ONNX Runtime knows.",
        ) from None


def model_files(file: Path) -> list[Path]:
    """The file, and those beside it that hold its weights. Raises ModelError for one elsewhere, or no ONNX at all."""
    import onnx

    try:
        graph = onnx.load(str(file), load_external_data=False).graph
    except Exception as error:
        raise ModelError(
            f"{file} is no ONNX model: {first_line(error)}", remedy="Name the .onnx file of an exported model."
        ) from None
    stored = [one for one in graph.initializer if one.data_location == onnx.TensorProto.EXTERNAL]
    names = {entry.value for one in stored for entry in one.external_data if entry.key == "location"}
    files = [file]
    for name in sorted(names):
        beside = file.parent / name
        if not beside.resolve().is_relative_to(file.parent.resolve()) or not beside.is_file():
            raise ModelError(
                f"{file} keeps weights in {name!r}, which is not beside it.", remedy="Copy both files together."
            )
        files.append(beside)
    return files


def sha256_of(file: Path) -> str:
    with file.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


def first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
