"""What was sent to be labeled, and to which project of which tool: records in the repository's store.

`labeling/batches/<name>.json` is written once. `labeling/projects/<name>.json` is replaced as pulls go on; what it says
can be made again, except where the project is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

import pyarrow as pa

from datasetops.errors import ConflictError, NotFoundError, did_you_mean
from datasetops.labeling.base import ImageSize
from datasetops.manifest import Repository
from datasetops.records import ERASED_TEXT, canonical_json
from datasetops.store import KeyExistsError

_BATCHES: Final = "labeling/batches/"
_PROJECTS: Final = "labeling/projects/"


@dataclass(frozen=True)
class Batch:
    """`samples` are ids in the order in which they are asked; `gold` holds rows of annotations by sample that stay here.

    `version` is what annotators started from. `sizes` has (width, height, orientation) of samples whose row does not
    say it. In a `blind` batch answers never replace annotations.
    """

    name: str
    project: str
    version: str
    samples: tuple[str, ...]
    gold: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    sizes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    overlap: int = 1
    predictions: bool = True
    blind: bool = False

    @property
    def key(self) -> str:
        return f"{_BATCHES}{self.name}.json"

    def to_bytes(self) -> bytes:
        return canonical_json(asdict(self))


@dataclass(frozen=True)
class Project:
    """A project of an annotation tool. `schema` and `guide` are digests of what its interface was made from.

    `pushed` names the batches whose tasks have all been made. `again` are tasks whose answers could not be used and are
    looked at in every pull.
    """

    name: str
    tool: str
    url: str
    id: int
    schema: str
    guide: str | None
    interface: str
    blind: bool = False
    cursor: Mapping[str, Any] = field(default_factory=dict)
    again: tuple[str, ...] = ()
    pushed: tuple[str, ...] = ()

    def with_cursor(self, cursor: Mapping[str, Any], again: Sequence[str]) -> Project:
        return replace(self, cursor=cursor, again=tuple(again))


def save_batch(repository: Repository, batch: Batch) -> None:
    """Write a batch once. Raises ConflictError where another one has its name."""
    try:
        repository.store.put_new(batch.key, batch.to_bytes())
    except KeyExistsError:
        if repository.store.get(batch.key) != batch.to_bytes():
            raise ConflictError(
                f"There is a batch {batch.name!r} already, with other samples or options.",
                remedy="Push it again as it was, or give this one another --name.",
            ) from None


def find_batch(repository: Repository, name: str) -> Batch | None:
    try:
        return _batch(repository.store.get(f"{_BATCHES}{name}.json"))
    except NotFoundError:
        return None


def batches(repository: Repository, project: str | None = None) -> Iterator[Batch]:
    """All batches, by name, or those of one project."""
    for key in repository.store.list(_BATCHES):
        batch = _batch(repository.store.get(key))
        if project in (None, batch.project):
            yield batch


def save_project(repository: Repository, project: Project) -> None:
    repository.store.put(f"{_PROJECTS}{project.name}.json", canonical_json(asdict(project)))


def load_project(repository: Repository, name: str) -> Project:
    """Raises NotFoundError that lists what there is."""
    try:
        raw = json.loads(repository.store.get(f"{_PROJECTS}{name}.json"))
    except NotFoundError:
        names = project_names(repository)
        raise NotFoundError(
            f"There is no labeling project {name!r}.",
            remedy=did_you_mean(name, names, noun="projects") if names else "Make one with: dsops label setup",
        ) from None
    return Project(**raw | {name: tuple(raw[name]) for name in ("again", "pushed")})


def project_names(repository: Repository) -> list[str]:
    keys = repository.store.list(_PROJECTS)
    return [key.removeprefix(_PROJECTS).removesuffix(".json") for key in keys]


def image_sizes(repository: Repository, batch: Batch, sample_ids: Sequence[str]) -> dict[str, ImageSize]:
    """Sizes of a batch's samples, as they were when it was pushed."""
    wanted = pa.array(sorted(set(sample_ids)), pa.string())
    rows = repository.version(batch.version).state("samples").rows(wanted, ["sample_id", "width", "height"])
    sizes = {
        row["sample_id"]: ImageSize(row["width"], row["height"])
        for row in rows.to_pylist()
        if row["width"] and row["height"]
    }
    return sizes | {name: ImageSize(*batch.sizes[name]) for name in wanted.to_pylist() if name in batch.sizes}


def _batch(data: bytes) -> Batch:
    raw = json.loads(data)
    return Batch(**raw | {"samples": tuple(name for name in raw["samples"] if name != ERASED_TEXT)})
