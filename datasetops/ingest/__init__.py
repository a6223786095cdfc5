"""Bring images and labels into a repository; the same source again changes nothing."""

from datasetops.ingest.run import STATED, IngestResult, ingest

__all__ = ["STATED", "IngestResult", "ingest"]
