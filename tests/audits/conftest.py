"""A context from images and columns, without a repository."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from datasetops.audits.base import AuditContext
from datasetops.errors import FormatError
from datasetops.images import ImageError, decode_rgb
from datasetops.records import ANNOTATIONS, SAMPLES, sha256_hex
from datasetops.schema import LabelSchema

Build = Callable[..., AuditContext]


class Files:
    """Media in memory."""

    def __init__(self, contents: Sequence[bytes]) -> None:
        self.contents = contents

    def read(self, row: int) -> bytes:
        return self.contents[row]

    def open(self, row: int) -> Image.Image:
        try:
            return decode_rgb(self.contents[row])
        except ImageError as error:
            raise FormatError(str(error)) from None


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


@pytest.fixture
def build(schema: LabelSchema) -> Build:
    """Samples s00000, s00001, … with these files and further columns; None for a sample without a file."""

    def context(
        files: Sequence[bytes | None],
        annotations: Sequence[dict[str, Any]] = (),
        *,
        embeddings: Any = None,
        schema: LabelSchema = schema,
        **columns: Sequence[Any],
    ) -> AuditContext:
        ids = [f"s{row:05}" for row in range(len(files))]
        frame = pd.DataFrame(
            {
                "sample_id": ids,
                "uri": [f"{one}.png" for one in ids],
                "sha256": [None if file is None else sha256_hex(file) for file in files],
                **columns,
            }
        )
        samples = pa.Table.from_pylist(frame.astype(object).where(frame.notna(), None).to_dict("records"), SAMPLES)
        return AuditContext(
            samples=samples.to_pandas(),
            annotations=pa.Table.from_pylist(list(annotations), ANNOTATIONS).to_pandas(),
            schema=schema,
            images=Files([file or b"" for file in files]),
            embeddings=lambda: np.asarray(embeddings, dtype=np.float32),
        )

    return context
