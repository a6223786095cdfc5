"""Regression sets: named sets of items that every model to come must answer right. They grow from production failures.

A set is a document that says what is expected of each item, kept by its digest; every change makes a new revision and an
event `regress` in the ledger, so that a promotion names exactly what was passed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.audits.record import plain
from datasetops.errors import ConflictError, ModelError, NotFoundError, did_you_mean
from datasetops.evaluation.answers import Answers, ask, kind_of, open_source
from datasetops.evaluation.record import Evaluation
from datasetops.ledger import Event
from datasetops.manifest import Repository, Version
from datasetops.manifest.commit import get_object, put_object
from datasetops.models.predictor import with_scheme
from datasetops.preannotate.human import BY_PEOPLE
from datasetops.preannotate.labelers import Labeler
from datasetops.preannotate.measure import SAME_BOX
from datasetops.preannotate.rows import DEFAULT_THRESHOLDS, DEFAULT_THRESHOLDS_OTHER
from datasetops.progress import Progress, no_progress
from datasetops.records import canonical_json

EVENT: Final = "regress"
CHECK: Final = "regress-check"
KINDS: Final = ("classification", "box")  # that an answer can be held against item by item
_FOLDER: Final = "regression-sets"
_FORMAT: Final = 1
_ATTEMPTS: Final = 50
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_CORNERS: Final = ("x1", "y1", "x2", "y2")


@dataclass(frozen=True)
class RegressionItem:
    """A sample, the version whose accepted labels are expected, and these: class names, or boxes with x1, y1, x2, y2."""

    sample_id: str
    uri: str
    sha256: str
    version: str
    kind: str
    expected: tuple[Mapping[str, Any], ...]
    reason: str = ""

    @property
    def key(self) -> tuple[str, str]:
        return self.sample_id, self.kind


@dataclass(frozen=True)
class RegressionSet:
    """Items by sample id and kind; `revision` is the SHA-256 of the document, "" before it is kept."""

    name: str
    items: tuple[RegressionItem, ...]
    revision: str = ""

    def as_dict(self) -> dict[str, Any]:
        return dict(plain(asdict(self)))


_Change: TypeAlias = tuple[
    Iterable[RegressionItem], Mapping[str, Any]
]  # items, and what the ledger tells of the change


@dataclass(frozen=True)
class Checked:
    """How a model does on a set: `failed` are ids of the samples that it answered wrong, with what it said."""

    name: str
    revision: str
    model: str
    items: int
    right: int
    failed: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def add(
    repository: Repository, name: str, version: Version, samples: Sequence[str], *, reason: str = "", source: str = ""
) -> RegressionSet:
    """Put samples of a version into a set, with what people said of them there; a sample that is in it is brought up to
    date. `source`: where the ids come from, for the ledger.

    Raises ValueError for a name that cannot be one and without samples, NotFoundError for a sample that the version does
    not have, that has no image, or of which nothing was said.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"name: expected letters, digits, '_', '.' and '-'; got {name!r}")
    if not samples:
        raise ValueError("samples: name at least one")
    items = _items(version, sorted(set(samples)), reason)

    def change(before: RegressionSet) -> _Change:
        kept = {item.key: item for item in (*before.items, *items)}
        changed = [item.sample_id for item in items if item not in before.items]
        return kept.values(), {"added": changed, "reason": reason, "from": source}

    return _changed(repository, name, change, version)


def remove(repository: Repository, name: str, samples: Sequence[str], *, reason: str) -> RegressionSet:
    """Take samples out of a set. Raises ValueError without a reason, NotFoundError for a sample that is not in it."""
    if not reason.strip():
        raise ValueError("reason: say why these items need no longer be right")
    load_set(repository, name)

    def change(before: RegressionSet) -> _Change:
        known = {item.sample_id for item in before.items}
        for one in samples:
            if one not in known:
                remedy = did_you_mean(one, known, noun="samples")
                raise NotFoundError(f"The set {name!r} has no sample {one!r}.", remedy=remedy)
        left = [item for item in before.items if item.sample_id not in set(samples)]
        return left, {"removed": sorted(set(samples)), "reason": reason}

    return _changed(repository, name, change)


def set_names(repository: Repository) -> tuple[str, ...]:
    """Of all sets that hold an item."""
    return tuple(sorted(name for name, (_, count) in _newest(repository).items() if count))


def load_set(repository: Repository, name: str, revision: str | None = None) -> RegressionSet:
    """A set as it is now, or a revision of it. Raises NotFoundError that lists what there is."""
    known = _newest(repository)
    if name not in known:
        remedy = did_you_mean(name, known, noun="regression sets") if known else "Make one: dsops regress add NAME"
        raise NotFoundError(f"There is no regression set {name!r}.", remedy=remedy)
    chosen = revision or known[name][0]
    raw = json.loads(get_object(repository.store, _FOLDER, chosen))
    items = (RegressionItem(**{**item, "expected": tuple(item["expected"])}) for item in raw["items"])
    return RegressionSet(name, tuple(items), chosen)


def failures_of(evaluation: Evaluation, most: int | None = None) -> list[str]:
    """Samples that a model got wrong in an evaluation, the surest errors first."""
    return list(dict.fromkeys(evaluation.failures["sample_id"].dropna().tolist()))[:most]


def check(
    repository: Repository, chosen: RegressionSet, model: str | Labeler, *, progress: Progress = no_progress
) -> Checked:
    """Ask a model about the items of its kind, and hold its answers against what is expected.

    Raises ModelError where it gives none of the kinds of the items, and what `open_source` raises.
    """
    right, asked = 0, 0
    failed: dict[str, str] = {}
    label = with_scheme(model) if isinstance(model, str) else model.name
    for name in sorted({item.version for item in chosen.items}):
        version = repository.version(name)
        source = open_source(repository, version, model)
        items = [item for item in chosen.items if item.version == name]
        kind = kind_of(source, version, None)
        items = [item for item in items if item.kind == kind]
        if not items:
            continue
        samples = pd.DataFrame(
            [{"sample_id": item.sample_id, "uri": item.uri, "sha256": item.sha256} for item in items]
        )
        answers = ask(repository, version, source, samples, kind, progress=progress)
        for place, item in enumerate(items):
            wrong = _wrong(answers, place, item, version)
            right += wrong is None
            failed |= {} if wrong is None else {item.sample_id: wrong}
        asked += len(items)
    if not asked:
        raise ModelError(
            f"The regression set {chosen.name!r} has no item of a kind that {label} gives.",
            remedy="Name the sets that this model is to pass in the model policy: regression: {sets: [...]}.",
        )
    return Checked(chosen.name, chosen.revision, label, asked, right, failed)


def record_check(repository: Repository, found: Checked) -> None:
    """Keep in the ledger how a model did."""
    event = Event(
        CHECK,
        repository.settings.actor,
        inputs={"set": found.revision, "model": found.model},
        outputs={"items": found.items, "right": found.right, "failed": dict(found.failed)},
        parameters={"name": found.name},
    )
    repository.ledger.record(event)


def _wrong(answers: Answers, place: int, item: RegressionItem, version: Version) -> str | None:
    """What is wrong with the answer about an item; None where it is right."""
    if not answers.answered[place]:
        fault = next((one.message for one in answers.faults if one.sample_id == item.sample_id), "nothing")
        return f"no answer: {fault}"
    if answers.probabilities is not None:
        said = _classes(answers.probabilities[place], version)
        wanted = {str(one["label"]) for one in item.expected}
        return None if said == wanted else f"said {_listed(said)}, expected {_listed(wanted)}"
    least = DEFAULT_THRESHOLDS.get(item.kind, DEFAULT_THRESHOLDS_OTHER)
    rows = answers.rows.filter(pc.equal(answers.rows["sample_id"], item.sample_id)).to_pylist()
    rows = [row for row in rows if row["score"] >= least]
    missing, more = _unmatched(item.expected, sorted(rows, key=lambda row: -row["score"]))
    if not missing and not more:
        return None
    return f"did not find {_listed(missing)}; found {_listed(more)} where none is"


def _classes(row: npt.NDArray[np.float64], version: Version) -> set[str]:
    names = version.schema.class_names
    if version.schema.multi_label:
        return {names[code] for code in np.flatnonzero(row >= DEFAULT_THRESHOLDS_OTHER)}
    return {names[int(row.argmax())]}


def _unmatched(expected: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """Classes of expected boxes that no row has at their place, and of rows that are at no expected box's."""
    left = list(expected)
    more = []
    for row in rows:
        overlaps = [_overlap(one, row) if one["label"] == row["label"] else 0.0 for one in left]
        best = int(np.argmax(overlaps)) if overlaps else -1
        if best >= 0 and overlaps[best] >= SAME_BOX:
            del left[best]
        else:
            more.append(str(row["label"]))
    return [str(one["label"]) for one in left], more


def _overlap(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    a, b = (np.array([item[name] for name in _CORNERS], dtype=np.float64) for item in (one, other))
    shared = float(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod())
    return shared / max(float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod()) - shared, 1e-9)


def _items(version: Version, ids: Sequence[str], reason: str) -> list[RegressionItem]:
    """One for each kind that people said something of. An image in which there is no box is one without boxes."""
    samples = version.table("samples", ["sample_id", "uri", "sha256"]).to_pandas().set_index("sample_id")
    for one in ids:
        if one not in samples.index:
            remedy = did_you_mean(one, samples.index.tolist(), noun="samples")
            raise NotFoundError(f"{version.name} has no sample {one!r}.", remedy=remedy)
    labels = version.labels()
    chosen = pc.and_(
        pc.is_in(labels["sample_id"], pa.array(ids, pa.string())), pc.is_in(labels["source"], pa.array(BY_PEOPLE))
    )
    said: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in labels.filter(chosen).sort_by("annotation_id").to_pylist():
        fields = ("label", *_CORNERS) if row["kind"] == "box" else ("label",)
        said.setdefault((row["sample_id"], row["kind"]), []).append({name: row[name] for name in fields})
    found = []
    for one in ids:
        kinds = [kind for kind in version.schema.kinds if kind in KINDS and ((one, kind) in said or kind == "box")]
        if samples.loc[one, "sha256"] is None or not kinds:
            why = "no image at hand" if kinds else f"no {' or '.join(KINDS)} by people"
            raise NotFoundError(f"{one} has {why} in {version.name}.", remedy="Label it, or name another sample.")
        uri, digest = str(samples.loc[one, "uri"]), str(samples.loc[one, "sha256"])
        found += [
            RegressionItem(one, uri, digest, version.name, kind, tuple(said.get((one, kind), ())), reason)
            for kind in kinds
        ]
    return found


def _changed(
    repository: Repository, name: str, change: Callable[[RegressionSet], _Change], version: Version | None = None
) -> RegressionSet:
    """The next revision: `change` says of the set as it is what it holds then. Done again where another writer was first."""
    for _ in range(_ATTEMPTS):
        tail = repository.ledger.tail()
        known = name in _newest(repository)
        items, told = change(load_set(repository, name) if known else RegressionSet(name, ()))
        ordered = tuple(sorted(items, key=lambda item: item.key))
        document = canonical_json(plain({"format": _FORMAT, "name": name, "items": [asdict(item) for item in ordered]}))
        revision = put_object(repository.store, _FOLDER, document)
        event = Event(
            EVENT,
            repository.settings.actor,
            inputs={} if version is None else {"version": version.name, "commit": version.digest},
            outputs={"set": revision, "items": len(ordered), "files": {f"{_FOLDER}/{revision}.json": revision}},
            parameters={"name": name, **told},
        )
        try:
            repository.ledger.append(event, after=tail)
        except ConflictError:
            continue
        return RegressionSet(name, ordered, revision)
    raise ConflictError("The ledger is being written to without pause.", remedy="Run the command again later.")


def _newest(repository: Repository) -> dict[str, tuple[str, int]]:
    """By name the newest revision, and its number of items."""
    found: dict[str, tuple[str, int]] = {}
    for entry in repository.ledger.backwards():
        event = entry.event
        if event.kind == EVENT:
            found.setdefault(str(event.parameters["name"]), (str(event.outputs["set"]), int(event.outputs["items"])))
    return found


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
