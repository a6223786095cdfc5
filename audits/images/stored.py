"""Media of a repository's samples, as the checks reach them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from PIL import Image

from datasetops.errors import DatasetOpsError, FormatError
from datasetops.images import ImageError, decode_rgb
from datasetops.manifest import Repository
from datasetops.store.media import Media


class StoredImages:
    """See `audits.base.ImageAccess`. `uris` are those of the samples, in row order.

    `faults` holds, by row, why images could not be read or decoded so far; `any_read` says whether one could be read.
    """

    def __init__(self, repository: Repository, uris: Sequence[str]) -> None:
        self._media = Media(repository.store, repository.root)
        self._uris = uris
        self.faults: dict[int, str] = {}
        self.any_read = False

    def read(self, row: int) -> bytes:
        try:
            content = self._media.read(self._uris[row])
        except DatasetOpsError as error:
            self.faults[row] = error.message
            raise
        self.any_read = True
        return content

    def open(self, row: int) -> Image.Image:
        try:
            return decode_rgb(self.read(row))
        except ImageError as error:
            self.faults[row] = f"{self._uris[row]}: {error}."
            raise FormatError(self.faults[row], remedy="Put the file back, or take it out.") from None

    def folder(self) -> str:
        """What the places of the images that could not be read have in common."""
        places = [self._media.locate(self._uris[row]).split("/")[:-1] for row in self.faults]
        return "/".join(names[0] for names in takewhile(lambda names: len(set(names)) == 1, zip(*places, strict=False)))
