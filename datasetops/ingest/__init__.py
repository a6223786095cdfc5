"""Bring images and labels into a repository; the same source again changes nothing."""

from datasetops.ingest.run import IngestResult, ingest

__all__ = ["IngestResult", "ingest"]
