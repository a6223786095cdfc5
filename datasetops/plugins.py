"""Plugins by name, from the entry-point groups `datasetops.<group>`; what comes with dsops is registered the same way."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from datasetops.errors import NotFoundError, did_you_mean


def plugin_names(group: str) -> list[str]:
    return sorted({entry.name for entry in entry_points(group=f"datasetops.{group}")})


def load_plugin(group: str, name: str) -> Any:
    """The object registered as `name`. Raises NotFoundError that lists the valid names."""
    for entry in entry_points(group=f"datasetops.{group}", name=name):
        return entry.load()
    noun = group.removesuffix("s")
    raise NotFoundError(
        f"There is no {noun} called {name!r}.", remedy=did_you_mean(name, plugin_names(group), noun=group)
    )
