"""Labelbox by files: data rows, pre-annotations and an ontology to import, and its NDJSON export.

Written: `out` with a data row a line (the sample is its global key), and beside it `<stem>.annotations.ndjson` for
model-assisted labeling and `<stem>.ontology.json` with the tools and questions that those name. Images are not sent:
Labelbox fetches them from `Task.image`. Not written are masks, which it takes as images that it fetches, and sets of
several keypoints, which it has no form for.

Read: the export (v2) of one data row a line. Each label is an answer of who created it, by its own id, with its times;
`seconds_to_create`, labeling without review, is its lead time. Labels that are marked as skipped anywhere are skipped;
a data row without labels has no answers. Labelbox draws on images as they are stored, without EXIF orientation, unless
`media_attributes` has the size of the turned image. The batch is that of the data row in the project.

A region is named by its `feature_id`. A pre-annotation's id travels in the text question `dsops_id`; texts of a whole
image have no such question and come back as new. Masks of an export are addresses that need Labelbox's key: they are
left unread, and so is the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from datasetops.labeling.base import AnsweredTask, ImageSize, Task
from datasetops.labeling.labelbox.read import read_labelbox
from datasetops.labeling.labelbox.write import write_labelbox
from datasetops.progress import Progress
from datasetops.schema import LabelSchema


class LabelboxFiles:
    name = "labelbox"

    def write(
        self,
        tasks: Sequence[Task],
        schema: LabelSchema,
        out: Path,
        *,
        read_media: Callable[[str], bytes],
        progress: Progress,
    ) -> list[str]:
        return write_labelbox(progress(tasks, len(tasks), "writing data rows"), schema, out)

    def read(
        self, path: Path, schema: LabelSchema, sizes: Mapping[str, ImageSize], *, actor: str | None
    ) -> list[AnsweredTask]:
        return read_labelbox(path, schema, sizes, actor=actor)
