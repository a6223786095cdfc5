"""Activations of the built-in network that detectors learn from, computed once for each image and its mirror images."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from datasetops.models.dense import DenseLite0, scaled_size
from datasetops.models.efficientnet_lite import MAPS

Halves: TypeAlias = npt.NDArray[np.float16]

LEVELS: Final = (("out4",), ("out7", "out10"), ("out14",))  # of each stride; narrow, which keeps the head small
STRIDES: Final = tuple(MAPS[names[0]][2] for names in LEVELS)
CHANNELS: Final = tuple(sum(MAPS[name][3] for name in names) for names in LEVELS)
MAP_NAMES: Final = tuple(name for names in LEVELS for name in names)
_FORMAT: Final = 1

Flip = tuple[bool, bool]  # left and right, top and bottom


class MapBank:
    """`maps` of images, kept in files of `folder` (None: not kept). Methods may be called from several threads."""

    def __init__(self, cache: Path, side: int, folder: Path | None) -> None:
        self._network = DenseLite0(cache)
        self._side = side
        self._folder = None if folder is None else folder / f"lite0-{_FORMAT}-{side}"

    def find(self, key: str, flip: Flip) -> list[Halves] | None:
        """What is kept of the image with this digest; None where nothing is, or nothing that can be read."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        if self._folder is None:
            return None
        try:
            arrays = load_file(str(self._file(self._folder, key, flip)))
            return [arrays[str(level)] for level in range(len(LEVELS))]
        except (OSError, KeyError, SafetensorError):
            return None

    def make(self, image: Image.Image, flip: Flip, key: str | None = None) -> list[Halves]:
        """Activations (channels, rows, columns) of each of LEVELS; kept under `key`."""
        if flip[0]:
            image = ImageOps.mirror(image)
        if flip[1]:
            image = ImageOps.flip(image)
        found = dict(zip(MAP_NAMES, self._network.maps(image, MAP_NAMES, self._side), strict=True))
        levels = [
            np.ascontiguousarray(np.concatenate([found[name] for name in names], axis=2).transpose(2, 0, 1), np.float16)
            for names in LEVELS
        ]
        if self._folder is not None and key is not None:
            self._keep(self._folder, key, flip, levels)
        return levels

    def _keep(self, folder: Path, key: str, flip: Flip, levels: Sequence[Halves]) -> None:
        from safetensors.numpy import save_file

        file = self._file(folder, key, flip)
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f"{uuid.uuid4().hex}.part")
        try:
            save_file({str(number): level for number, level in enumerate(levels)}, str(temporary))
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)

    @staticmethod
    def _file(folder: Path, key: str, flip: Flip) -> Path:
        return folder / key[:2] / f"{key}-{int(flip[0])}{int(flip[1])}.safetensors"


def scale_of(size: tuple[int, int], side: int) -> tuple[float, float]:
    """Scaled pixels for each pixel of an image of this width and height, across and down."""
    across, down = scaled_size(*size, side)
    return across / size[0], down / size[1]


def bytes_of(size: tuple[int, int], side: int) -> int:
    """Of the activations of an image of this width and height."""
    across, down = scaled_size(*size, side)
    cells = [across // stride * (down // stride) for stride in STRIDES]
    return 2 * sum(number * channels for number, channels in zip(cells, CHANNELS, strict=True))
