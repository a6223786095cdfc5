"""Images as they are stored, which is how annotations are placed in them."""

from __future__ import annotations

from PIL import Image

from datasetops.audits.base import AuditContext
from datasetops.errors import DatasetOpsError
from datasetops.images import ImageError, decode_rgb, read_header


def stored_image(context: AuditContext, sample: int) -> Image.Image | None:
    """RGB, of the sample with this row number; None where it cannot be read, and where viewers turn it."""
    try:
        content = context.images.read(sample)
        return None if read_header(content).orientation not in (None, 1) else decode_rgb(content)
    except (DatasetOpsError, ImageError):
        return None
