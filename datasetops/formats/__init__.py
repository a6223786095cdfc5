"""Formats that data sets come in and go out as. Each is a plugin of the entry-point group `datasetops.formats`."""

from __future__ import annotations

from datasetops.errors import NotFoundError, did_you_mean
from datasetops.formats.base import (
    ExportData,
    ExportReport,
    Format,
    Parsed,
    ReadOptions,
    Writer,
    external_id,
    scoped_id,
)
from datasetops.formats.detect import Guess, detect_format
from datasetops.plugins import load_plugin, plugin_names

__all__ = [
    "ExportData",
    "ExportReport",
    "Format",
    "Guess",
    "Parsed",
    "ReadOptions",
    "Writer",
    "detect_format",
    "external_id",
    "format_names",
    "load_format",
    "load_writer",
    "scoped_id",
]


def format_names() -> list[str]:
    return plugin_names("formats")


def load_format(name: str) -> Format:
    """The format called `name`. Raises NotFoundError, which lists the valid names."""
    plugin: Format = load_plugin("formats", name)()
    return plugin


def load_writer(name: str) -> Writer:
    """What writes the format called `name`, also one that is never read. Raises NotFoundError that lists the names."""
    written = plugin_names("writers")
    if name not in (*written, *format_names()):
        raise NotFoundError(
            f"There is no format called {name!r}.",
            remedy=did_you_mean(name, [*format_names(), *written], noun="formats"),
        )
    plugin: Writer = load_plugin("writers" if name in written else "formats", name)()
    return plugin
