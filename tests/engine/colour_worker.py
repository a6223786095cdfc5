"""Workers whose answers can be worked out by hand, and images for them. Importable by the processes of a cluster."""

from __future__ import annotations

import io
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datasetops.engine import Item
from datasetops.errors import ModelError
from datasetops.images import decode_rgb


class Colour:
    """The colour of a plain image. Fails on batches with a red of `fails` and on those larger than `fits`."""

    def __init__(self, *, fails: tuple[int, ...] = (), fits: int | None = None, lanes: int = 1) -> None:
        self.fails, self.fits, self.lanes = fails, fits, lanes
        self.batches: list[list[int]] = []
        self._lock = threading.Lock()

    def prepare(self, data: bytes) -> tuple[int, int, int]:
        pixel = decode_rgb(data).getpixel((0, 0))
        assert isinstance(pixel, tuple)
        return pixel[0], pixel[1], pixel[2]

    def infer(self, prepared: list[Any]) -> list[Any]:
        with self._lock:
            self.batches.append([red for red, _, _ in prepared])
        if self.fits is not None and len(prepared) > self.fits:
            raise MemoryError
        if any(red in self.fails for red, _, _ in prepared):
            raise ArithmeticError("no such colour\nand more lines")
        return [{"red": red, "green": green, "blue": blue} for red, green, blue in prepared]


def picture(red: int) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (2, 2), (red, red // 2, 255 - red)).save(sink, "PNG")
    return sink.getvalue()


def answer(red: int) -> dict[str, int]:
    return {"red": red, "green": red // 2, "blue": 255 - red}


def write_pictures(folder: Path, count: int) -> list[Item]:
    """Files whose key and red are their number modulo 256."""
    folder.mkdir(parents=True, exist_ok=True)
    items = []
    for number in range(count):
        file = folder / f"{number:05}.png"
        file.write_bytes(picture(number % 256))
        items.append(Item(str(number), str(file)))
    return items


def read_file(uri: str) -> bytes:
    return Path(uri).read_bytes()


class Traced(Colour):
    """Leaves its process's number in a folder; slow; ends its process at a red of `deadly`."""

    def __init__(self, folder: Path, *, seconds: float = 0.0, deadly: int | None = None, lanes: int = 1) -> None:
        super().__init__(lanes=lanes)
        self.seconds, self.deadly = seconds, deadly
        (folder / str(os.getpid())).touch()

    def infer(self, prepared: list[Any]) -> list[Any]:
        time.sleep(self.seconds * len(prepared))
        if any(red == self.deadly for red, _, _ in prepared):
            os._exit(1)
        return super().infer(prepared)


class Sums:
    """Sums of pixels by a matrix product in single precision: the last bits may depend on the shape of the batch."""

    def __init__(self) -> None:
        self._weights = np.random.default_rng(0).normal(size=(192, 50)).astype(np.float32)

    def prepare(self, data: bytes) -> Any:
        image = decode_rgb(data).resize((8, 8), Image.Resampling.BILINEAR)
        return np.asarray(image, dtype=np.float32).reshape(-1) / 7

    def infer(self, prepared: list[Any]) -> list[Any]:
        return [row.tobytes() for row in np.stack(prepared) @ self._weights]


def no_model() -> Colour:
    raise ModelError("no such model", remedy="Name another.")
