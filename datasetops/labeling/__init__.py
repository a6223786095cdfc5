"""Labeling by people: samples go out to an annotation tool, answers come back as versions."""

from datasetops.labeling.base import ServerAwayError
from datasetops.labeling.batch import Batch, Project, batches, load_project
from datasetops.labeling.files import file_project, read_files, write_files
from datasetops.labeling.heads import Sent, sent_samples
from datasetops.labeling.pull import PullResult, pull
from datasetops.labeling.push import PushResult, make_batch, push
from datasetops.labeling.setup import choose_project, open_project, set_up
from datasetops.labeling.status import LabelStatus, status
from datasetops.labeling.watch import watch

__all__ = [
    "Batch",
    "LabelStatus",
    "Project",
    "PullResult",
    "PushResult",
    "Sent",
    "ServerAwayError",
    "batches",
    "choose_project",
    "file_project",
    "load_project",
    "make_batch",
    "open_project",
    "pull",
    "push",
    "read_files",
    "sent_samples",
    "set_up",
    "status",
    "watch",
    "write_files",
]
