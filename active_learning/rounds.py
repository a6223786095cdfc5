"""Rounds: which items were chosen, in which order, how and from what. Written once, named in the ledger."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from datasetops.errors import ConflictError, NotFoundError, did_you_mean
from datasetops.ledger import Event
from datasetops.manifest import Repository
from datasetops.records import canonical_json, sha256_hex
from datasetops.store import KeyExistsError

_FOLDER: Final = "rounds/"
_ATTEMPTS: Final = 100


@dataclass(frozen=True)
class Round:
    """`samples` in the order in which they are to be labeled, `scores` beside them (None where chance alone chose).

    `pool` is how many items there were to choose from; `asked` how many were wanted.
    """

    name: str
    version: str
    strategy: str
    seed: int
    asked: int
    pool: int
    samples: tuple[str, ...]
    scores: tuple[float | None, ...]
    parameters: dict[str, Any]

    @property
    def key(self) -> str:
        return f"{_FOLDER}{self.name}.json"


def record_round(repository: Repository, **fields: Any) -> Round:
    """Write a round under the next free name: r1, r2, …"""
    taken = {key.removeprefix(_FOLDER).removesuffix(".json") for key in repository.store.list(_FOLDER)}
    number = max((int(name[1:]) for name in taken if name[1:].isdigit()), default=0) + 1
    for name in (f"r{n}" for n in range(number, number + _ATTEMPTS)):
        made = Round(name=name, **fields)
        data = canonical_json(asdict(made))
        try:
            repository.store.put_new(made.key, data)
        except KeyExistsError:
            continue
        event = Event(
            "select",
            repository.settings.actor,
            inputs={"version": made.version},
            outputs={"files": {made.key: sha256_hex(data)}, "samples": len(made.samples)},
            parameters={"round": name, "strategy": made.strategy, "seed": made.seed, **made.parameters},
        )
        repository.ledger.record(event)
        return made
    raise ConflictError("Rounds are being made without pause.", remedy="Run the command again later.")


def rounds(repository: Repository) -> Iterator[Round]:
    """All rounds, oldest first."""
    names = [key.removeprefix(_FOLDER).removesuffix(".json") for key in repository.store.list(_FOLDER)]
    for name in sorted(names, key=lambda name: int(name[1:])):
        yield load_round(repository, name)


def load_round(repository: Repository, name: str) -> Round:
    """Raises NotFoundError that lists what there is."""
    try:
        raw = json.loads(repository.store.get(f"{_FOLDER}{name}.json"))
    except NotFoundError:
        names = [key.removeprefix(_FOLDER).removesuffix(".json") for key in repository.store.list(_FOLDER)]
        raise NotFoundError(
            f"There is no round {name!r}.",
            remedy=did_you_mean(name, names, noun="rounds") if names else "Make one with: dsops select VERSION --n N",
        ) from None
    return Round(**raw | {field: tuple(raw[field]) for field in ("samples", "scores")})
