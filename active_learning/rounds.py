"""Rounds: which items were chosen, in which order, how and from what. Written once, named in the ledger."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from datasetops.ledger import Event
from datasetops.manifest import Repository
from datasetops.records import canonical_json, sha256_hex
from datasetops.store.numbered import Numbered

_ROUNDS: Final = Numbered("rounds", "r", "round", "dsops select VERSION --n N")
_LISTS: Final = ("samples", "scores", "reasons", "predicted", "doubts", "random", "minutes_between", "notes")


@dataclass(frozen=True)
class Round:
    """`samples` in the order in which they are to be labeled; `scores` (None where chance alone chose) and `reasons`
    beside them.

    `predicted` is the class that a model thought likeliest of each, and `doubts` how unsure it was (least confidence, in
    [0, 1]), for the random ones too; empty where no model was asked. `pool` is how many items there were to choose
    from; `asked` how many were wanted. `random` are those of the samples that were drawn uniformly from the whole pool
    before the strategy chose. `commit` is the version's digest, `model` says whose probabilities were used, `embedder`
    by whose vectors items were compared, `minutes` how long annotators will take and `minutes_between` its 95 % interval,
    where past answers tell. `notes` are for people: what was left out, and what could not be fulfilled.
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
    reasons: tuple[str, ...] = ()
    predicted: tuple[str | None, ...] = ()
    doubts: tuple[float | None, ...] = ()
    random: tuple[str, ...] = ()
    commit: str | None = None
    model: str | None = None
    embedder: str | None = None
    minutes: float | None = None
    minutes_between: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return _ROUNDS.key(self.name)


def record_round(repository: Repository, chosen: Round) -> Round:
    """Write a round under the next free name: r1, r2, … Where one is the same in all else, that is the one."""
    same = canonical_json(asdict(chosen))
    for known in rounds(repository):
        if canonical_json(asdict(replace(known, name=chosen.name))) == same:
            if not repository.ledger.names_file(known.key):  # what wrote it was killed in the middle
                _note(repository, known)
            return known
    name = _ROUNDS.add(repository.store, lambda name: canonical_json(asdict(replace(chosen, name=name))))
    made = replace(chosen, name=name)
    _note(repository, made)
    return made


def _note(repository: Repository, made: Round) -> None:
    event = Event(
        "select",
        repository.settings.actor,
        inputs={"version": made.version, "commit": made.commit, "model": made.model, "embedder": made.embedder},
        outputs={"files": {made.key: sha256_hex(repository.store.get(made.key))}, "samples": len(made.samples)},
        parameters={"round": made.name, "strategy": made.strategy, "seed": made.seed, **made.parameters},
    )
    repository.ledger.record(event)


def rounds(repository: Repository) -> Iterator[Round]:
    """All rounds, oldest first."""
    for name in round_names(repository):
        yield load_round(repository, name)


def load_round(repository: Repository, name: str) -> Round:
    """Raises NotFoundError that lists what there is."""
    raw = json.loads(_ROUNDS.read(repository.store, name))
    return Round(**raw | {field: tuple(raw[field]) for field in _LISTS if field in raw})


def round_names(repository: Repository) -> list[str]:
    return _ROUNDS.names(repository.store)
