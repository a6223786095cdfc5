"""Media of a repository's samples, as the checks reach them."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from datasetops.errors import FormatError
from datasetops.images import ImageError, decode_rgb
from datasetops.manifest import Repository
from datasetops.store.media import Media


class StoredImages:
    """See `audits.base.ImageAccess`. `uris` are those of the samples, in row order."""

    def __init__(self, repository: Repository, uris: Sequence[str]) -> None:
        self._media = Media(repository.store, repository.root)
        self._uris = uris

    def read(self, row: int) -> bytes:
        return self._media.read(self._uris[row])

    def open(self, row: int) -> Image.Image:
        try:
            return decode_rgb(self.read(row))
        except ImageError as error:
            raise FormatError(f"{self._uris[row]}: {error}.", remedy="Put the file back, or take it out.") from None
