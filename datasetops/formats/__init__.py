"""Formats that data sets come in and go out as. Each is a plugin of the entry-point group `datasetops.formats`."""

from __future__ import annotations

from datasetops.formats.base import ExportData, ExportReport, Format, Parsed, ReadOptions, external_id, scoped_id
from datasetops.formats.detect import Guess, detect_format
from datasetops.plugins import load_plugin, plugin_names

__all__ = [
    "ExportData",
    "ExportReport",
    "Format",
    "Guess",
    "Parsed",
    "ReadOptions",
    "detect_format",
    "external_id",
    "format_names",
    "load_format",
    "scoped_id",
]


def format_names() -> list[str]:
    return plugin_names("formats")


def load_format(name: str) -> Format:
    """The format called `name`. Raises NotFoundError, which lists the valid names."""
    plugin: Format = load_plugin("formats", name)()
    return plugin
