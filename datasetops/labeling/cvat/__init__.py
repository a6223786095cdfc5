"""CVAT by files: a zip to import, and what CVAT exports.

Written: `images/<sample_id>.<suffix>`, `annotations.xml` ("CVAT for images 1.1") and `labels.json` for the label
constructor (Raw). Make a task with these labels and this zip as its data, then upload the annotations from it. Only an
import into a task takes masks: CVAT leaves them out where a whole dataset is imported into a project.

Read: `annotations.xml` of a task, job or project, a zip that holds one, or a COCO 1.0 export (JSON, or the zip with
`instances_*.json`). CVAT applies EXIF orientation; coordinates are turned in both directions. Its exports have
hundredths of a pixel.

A pre-annotation's id travels in the attribute `dsops_id`, and is its region's name. CVAT gives shapes no number in
these files: a region that was drawn anew is named by a digest of what it says, so an edit to it gives it another name.
Where a shape was copied in CVAT with its `dsops_id`, the first keeps it and the others count as drawn anew.

The files do not say who answered: it is the `actor` that the caller names, else the assignee, else the owner of the
job or task, else "unknown". Every listed image counts as answered, with nothing where it has no shape. Polygons of
several rings are a group of polygons. Lost are scores, boxes beside polygons, masks or keypoints, attributes that the
schema does not have, and the difference between false and unanswered for a check box, 0 and unanswered for a number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from datasetops.labeling.base import AnsweredTask, ImageSize, Task
from datasetops.labeling.cvat.read import read_cvat
from datasetops.labeling.cvat.write import write_cvat
from datasetops.progress import Progress
from datasetops.schema import LabelSchema


class CvatFiles:
    name = "cvat"

    def write(
        self,
        tasks: Sequence[Task],
        schema: LabelSchema,
        out: Path,
        *,
        read_media: Callable[[str], bytes],
        progress: Progress,
    ) -> list[str]:
        return write_cvat(tasks, schema, out, read_media=read_media, progress=progress)

    def read(
        self, path: Path, schema: LabelSchema, sizes: Mapping[str, ImageSize], *, actor: str | None
    ) -> list[AnsweredTask]:
        return read_cvat(path, schema, sizes, actor=actor)
