"""Faces and number plates by the cascades that come with OpenCV: `faces:opencv`. Made to find candidates for a person.

They find most upright faces from 24 pixels on, and plates seen from the front; and things that are neither.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from datasetops.errors import ModelError, did_you_mean
from datasetops.models.nms import suppress
from datasetops.models.predictor import Prediction, Predictor, Request
from datasetops.records import canonical_json, sha256_hex

FACE, PLATE = "face", "number plate"
NAME: Final = "opencv"
_OPTIONS: Final = {"min_hits": 3, "min_side": 24}  # OpenCV's own least number of hits; sides in pixels
_HALF: Final = 10  # hits at which the score is .5: about where one hit in two of the frontal cascade is a face
_STEP: Final = 1.1  # between two sizes that are searched: OpenCV's own
_PROFILE_STEP: Final = 1.2  # the profile's cascade is slow, and runs over the mirrored image, too
_SAME: Final = 0.3  # intersection over union from which two cascades found the same thing
_FILES: Final = {
    "front": "haarcascade_frontalface_alt2.xml",
    "profile": "haarcascade_profileface.xml",
    "plate": "haarcascade_license_plate_rus_16stages.xml",
}

Grey = npt.NDArray[np.uint8]


def is_installed() -> bool:
    return importlib.util.find_spec("cv2") is not None


class CascadeDetector:
    """See `Predictor`. `score` is h / (h + 10) of h overlapping hits. Options: `min_hits` and `min_side` (pixels)."""

    name = NAME
    kinds = ("box",)
    vocabulary: tuple[str, ...] = (FACE, PLATE)

    def __init__(self, request: Request) -> None:
        request.require_task(self.name, self.kinds)
        import cv2

        self._cv2 = cv2
        self._options = request.choose(_OPTIONS)
        self._folder = Path(cv2.__file__).parent / "data"
        self._local = threading.local()  # a cascade can be asked by one thread at a time
        self.revision: str | None = None
        files = [sha256_hex((self._folder / file).read_bytes()) for file in _FILES.values()]
        self.digest = sha256_hex(
            canonical_json(["faces", cv2.__version__, self._options, _STEP, _PROFILE_STEP, *files])
        )

    def prepare(self, image: Image.Image) -> Grey:
        return np.asarray(image.convert("L"))

    def predict(self, prepared: Sequence[Grey]) -> list[list[Prediction]]:
        return [self._found(grey) for grey in prepared]

    def _found(self, grey: Grey) -> list[Prediction]:
        mirrored = self._search("profile", np.ascontiguousarray(grey[:, ::-1]), _PROFILE_STEP)
        mirrored[:, [0, 2]] = grey.shape[1] - mirrored[:, [2, 0]]
        faces = [self._search("front", grey, _STEP), self._search("profile", grey, _PROFILE_STEP), mirrored]
        plates = self._search("plate", grey, _STEP)
        rows = np.concatenate([*faces, plates])
        is_plate = np.arange(len(rows)) >= len(rows) - len(plates)
        order = np.argsort(-rows[:, 4], kind="stable")
        rows, is_plate = rows[order], is_plate[order]
        found = []
        for at in suppress(rows[:, :4], is_plate.astype(np.int64), _SAME):
            x1, y1, x2, y2, hits = rows[at].tolist()
            found.append(Prediction("box", PLATE if is_plate[at] else FACE, hits / (hits + _HALF), (x1, y1, x2, y2)))
        return found

    def _search(self, which: str, grey: Grey, step: float) -> npt.NDArray[np.float64]:
        """Rows of x1, y1, x2, y2 and hits, (N, 5)."""
        side = self._options["min_side"]
        if min(grey.shape) < side:
            return np.zeros((0, 5))
        boxes, hits = self._cascade(which).detectMultiScale2(
            grey, scaleFactor=step, minNeighbors=self._options["min_hits"], minSize=(side, side)
        )
        corners = np.reshape(np.asarray(boxes, dtype=np.float64), (-1, 4))
        corners[:, 2:] += corners[:, :2]
        return np.column_stack([corners, np.reshape(hits, -1)])

    def _cascade(self, which: str) -> Any:
        known: dict[str, Any] = self._local.__dict__
        if which not in known:
            known[which] = self._cv2.CascadeClassifier(str(self._folder / _FILES[which]))
        return known[which]


def open_faces(name: str, cache: Path, request: Request) -> Predictor:
    """The detector called `name`, of which there is one: opencv. Raises ModelError where OpenCV is not installed."""
    if name != NAME:
        raise ModelError(
            f"There is no detector of faces {name!r}.", remedy=did_you_mean(name, [NAME], noun="detectors")
        )
    if not is_installed():
        raise ModelError("OpenCV is not installed.", remedy="Install it with: pip install 'dsops[faces]'")
    return CascadeDetector(request)
