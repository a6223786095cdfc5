"""What a tracker is: it opens runs, and a run takes parameters, metrics, files, the data set and the model."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from datasetops.errors import DatasetOpsError, NotFoundError, did_you_mean
from datasetops.plugins import load_plugin, plugin_names

GROUP: Final = "trackers"
NONE: Final = "none"


class TrackerError(DatasetOpsError):
    """A tracker cannot be reached, or refuses what it is told."""


@dataclass(frozen=True)
class Dataset:
    """The version that a run is about. `commit` is its identity, `context` what it was used for: training, testing."""

    version: str
    commit: str
    schema: str
    context: str


@dataclass(frozen=True)
class Place:
    """Where a tracker keeps what it is told: `uri` as the settings say, else below `folder`. `project` groups the runs."""

    project: str
    folder: Path
    uri: str | None = None


class Run(Protocol):
    """One training or evaluation at a tracker. All methods raise what the tracker's own package raises."""

    address: str  # where to see it, in words for people

    def log(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Finite numbers by name, of a step or of the run as a whole."""

    def attach(self, files: Mapping[str, bytes]) -> None:
        """Files by name, with "/" between folders."""

    def uses(self, dataset: Dataset) -> None:
        """Name the data."""

    def register(self, model: str, files: Mapping[str, bytes], facts: Mapping[str, str]) -> str | None:
        """Enter a model with its files in the model registry. Returns its name there, None where there is no registry."""

    def finish(self, *, failed: bool = False) -> None:
        """Close the run; nothing is told after it."""


class Tracker(Protocol):
    """A plugin of the entry-point group `datasetops.trackers` is a function of a Place that gives one."""

    name: str

    def check(self) -> None:
        """Raise TrackerError where nothing can be kept, as far as that is known without asking anybody."""

    def start(self, key: str, name: str, parameters: Mapping[str, str], tags: Mapping[str, str]) -> Run | None:
        """Open a run. `key` tells it from all others: None where one of that key was finished before."""

    def production(self, model: str | None) -> str | None:
        """Mark the model that is in production now, None for none. Returns where, None where it knows no such mark."""


Opener = Callable[[Place], Tracker]


class NoTracker:
    """Nothing is told to anybody."""

    name = NONE

    def check(self) -> None:
        return None

    def start(self, key: str, name: str, parameters: Mapping[str, str], tags: Mapping[str, str]) -> Run | None:
        return None

    def production(self, model: str | None) -> str | None:
        return None


def open_none(place: Place) -> Tracker:
    return NoTracker()


def open_tracker(name: str, place: Place) -> Tracker:
    """The tracker called `name`; nothing is sent yet.

    Raises NotFoundError that lists the names, MissingDependencyError, and ValueError for an address with a password.
    """
    if place.uri and without_secrets(place.uri) != place.uri:
        raise ValueError(
            "tracker_uri: expected an address without user and password; give those by the environment "
            "(MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_URI as a whole; WANDB_API_KEY)"
        )
    return _opener(name)(place)


def without_secrets(text: str) -> str:
    """A text without the users and passwords of the addresses in it."""
    return re.sub(r"://[^/@\s]*@", "://", text)


def _opener(name: str) -> Opener:
    if name in plugin_names(GROUP):
        found: Opener = load_plugin(GROUP, name)
        return found
    remedy = did_you_mean(name, plugin_names(GROUP), noun="trackers")
    raise NotFoundError(f"There is no tracker called {name!r}.", remedy=remedy)
