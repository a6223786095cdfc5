"""What people changed in FiftyOne comes back as one new version: labels, and if wanted tags and what they dealt with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import pyarrow as pa

from datasetops.audits.decisions import decide, decisions
from datasetops.audits.record import latest_audit
from datasetops.errors import ConflictError, NotFoundError, StoreError
from datasetops.fiftyone.compare import TOOL, Comparison, Now, Outcome, touched_fields
from datasetops.fiftyone.database import connect, quietly, shown_address
from datasetops.fiftyone.dataset import Target
from datasetops.fiftyone.export import default_name
from datasetops.fiftyone.images import Pictures
from datasetops.fiftyone.labels import KEYS, Document, LabelMaker, members, value_of
from datasetops.fiftyone.marks import TAG
from datasetops.fiftyone.merge import DIGESTS, digest
from datasetops.fiftyone.read import Reader
from datasetops.fiftyone.rows import LabelRows
from datasetops.fiftyone.values import Values
from datasetops.labeling.base import REGION_COLUMNS
from datasetops.labeling.exchange import outside, unknown_classes
from datasetops.ledger import Event
from datasetops.manifest import MAIN, Change, Conflict, Repository, Version
from datasetops.progress import Progress, no_progress
from datasetops.records import canonical_json

_BATCH: Final = 250  # samples in memory at a time
_NOTES: Final = 40  # sentences at most
_KIND: Final = "label-pull"
_JSON: Final = ("geometry", "attributes", "answer")


@dataclass
class FiftyOnePull:
    """`version` is the new version, None where nothing in it had to change; `exported` the one that FiftyOne shows.

    `labels` counts annotations changed, added and removed. `conflicts` were changed by others too since the export:
    theirs stay. `unread` counts labels that cannot be annotations, by the reason. `tagged` samples got tags as metadata.
    `dealt_with` counts samples whose tag of a check was taken away; `decided` the findings that were called fine for it.
    `deleted` are samples of the export that are no longer in FiftyOne. `notes` are sentences.
    """

    version: str | None
    dataset: str
    database: str
    exported: str
    labels: dict[str, int] = field(default_factory=lambda: {"changed": 0, "added": 0, "removed": 0})
    conflicts: list[Conflict] = field(default_factory=list)
    unread: dict[str, int] = field(default_factory=dict)
    tagged: int = 0
    dealt_with: dict[str, int] = field(default_factory=dict)
    decided: int = 0
    deleted: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        plain = {name: value for name, value in vars(self).items() if name != "conflicts"}
        return plain | {"conflicts": [conflict.as_dict() for conflict in self.conflicts]}


def pull_from_fiftyone(
    repository: Repository,
    *,
    name: str | None = None,
    database: str | None = None,
    actor: str | None = None,
    overrule: bool = False,
    tags: str | None = None,
    fine: bool = False,
    branch: str = MAIN,
    message: str | None = None,
    progress: Progress = no_progress,
) -> FiftyOnePull:
    """Bring back the labels that people changed, added or deleted in a dataset that `export_to_fiftyone` made.

    They become annotations of source human by `actor` (the repository's unless told). What the version and FiftyOne both
    changed since the export stays as in the version, unless `overrule` is given. `tags`: key of the metadata that takes
    the tags that people gave to samples. With `fine` findings whose tag was taken away, of samples whose labels were left
    as they are, are decided as fine. Labels that came back are written to FiftyOne as the version has them, which changes
    their ids and who made them, so that the next export and the next pull know them.

    Raises NotFoundError where there is no such dataset, ConflictError where it was not made by an export of this
    repository, MissingDependencyError, StoreError where no database answers.
    """
    with quietly():
        fiftyone = connect(database)
        from pymongo.errors import PyMongoError

        chosen = name or default_name(repository)
        target = _opened(fiftyone, chosen, repository)
        where = shown_address(fiftyone.config.database_uri)
        try:
            run = _Pull(repository, target, branch, where, actor or repository.settings.actor, overrule)
            run.read(tags, progress)
            run.commit(message, tags, str(fiftyone.__version__), fine)
            run.write_back()
        except PyMongoError as error:
            made = f" {run.result.version} was made." if run.result.version else ""
            remedy = "Look after the database, then run the same command again: what came back already is known."
            reason = str(error).partition("\n")[0]
            raise StoreError(f"The database of FiftyOne failed: {reason}.{made}", remedy=remedy) from None
    return run.result


def belongs(fiftyone: Any, name: str, repository: Repository) -> bool | None:
    """Whether a dataset was made by an export of this repository; None where there is none of this name."""
    if not fiftyone.dataset_exists(name):
        return None
    info = fiftyone.load_dataset(name).info.get("dsops") or {}
    return bool(info.get("repository") == repository.ledger.read(0).digest)


def _opened(fiftyone: Any, name: str, repository: Repository) -> Target:
    remedy = "Export a version first: dsops export VERSION --to fiftyone"
    if belongs(fiftyone, name, repository) is None:
        raise NotFoundError(f"FiftyOne has no dataset {name!r}.", remedy=f"{remedy}; or name another with --name.")
    target = Target(fiftyone, name, {"repository": repository.ledger.read(0).digest})
    if "version" not in target.info or "attributes" not in target.info:
        raise ConflictError(
            f"The dataset {name!r} was written by an older dsops, or not to its end.",
            remedy="Export the same version once more; labels that were changed there stay.",
        )
    return target


class _Pull:
    """One run. `read` works out what changed, `commit` makes the version, `write_back` tells FiftyOne."""

    def __init__(
        self, repository: Repository, target: Target, branch: str, database: str, actor: str, overrule: bool
    ) -> None:
        self._repository = repository
        self._target = target
        self._branch = branch
        self._actor = actor
        self._overrule = overrule
        self._head = repository.version(branch)
        self._exported = repository.version(target.info["version"])
        self.result = FiftyOnePull(None, target.name, database, self._exported.name)
        self._attributes = Values.of(target.info["attributes"])
        self._keys = {*KEYS, *target.info["keys"]}
        self._pictures = Pictures(repository)
        self._outcomes: dict[str, tuple[Document, Outcome]] = {}  # by sample
        self._unread: Counter[str] = Counter()
        self._unknown: Counter[str] = Counter()
        self._tagged: list[dict[str, Any]] = []
        self._untagged: dict[str, list[str]] = {}  # findings by sample
        self._gone = 0
        self._strangers = 0

    # --- reading ----------------------------------------------------------------------------------------------------

    def read(self, tags: str | None, progress: Progress) -> None:
        ids = list(self._target.written())
        steps = progress(range(len(ids)), len(ids), "Reading FiftyOne's samples")
        rows = LabelRows(self._head)
        reader = Reader(self._head.schema, self._attributes)
        comparison = Comparison(reader, self._attributes, self._keys, overrule=self._overrule)
        before = self._own_tags(tags) if tags else False
        present: set[str] = set()
        for start in range(0, len(ids), _BATCH):
            documents = list(self._target.find(ids[start : start + _BATCH]).values())
            present.update(str(document["sample_id"]) for document in documents)
            self._look_at(documents, rows, comparison)
            if tags:
                self._take_tags(documents, tags, before)
            for document in documents:
                self._look_at_marks(document)
            for _ in zip(range(_BATCH), steps, strict=False):
                pass
        chosen = self._target.info.get("where")
        wanted = self._exported.where(chosen) if chosen else self._exported.table("samples", ["sample_id"])["sample_id"]
        exported = set(wanted if isinstance(wanted, list) else wanted.to_pylist())
        self.result.deleted = sorted(exported - present)
        self._strangers = self._target.count() - len(ids)

    def _look_at(self, documents: Sequence[Document], rows: LabelRows, comparison: Comparison) -> None:
        touched = {str(item["sample_id"]): item for item in documents if touched_fields(item, self._keys)}
        if not touched:
            return
        samples = self._head.state("samples").rows(pa.array(sorted(touched), pa.string())).to_pylist()
        self._gone += len(touched) - len(samples)
        maker = LabelMaker(self._attributes)
        schema = self._head.schema
        for sample, picture in zip(samples, self._pictures.of(samples), strict=True):
            name = sample["sample_id"]
            mine = rows.of(name)
            made = maker.labels(mine, picture.size)
            shown = {label["annotation_id"]: label for group in made.values() for label in group}
            now = Now(name, {row["annotation_id"]: _opened_row(row) for row in mine}, shown, picture.size)
            outcome = comparison.of(touched[name], now, multi_label=schema.multi_label)
            self._outcomes[name] = (touched[name], outcome)
            self.result.conflicts += outcome.conflicts
            for error in outcome.unread:
                if error.label is None:
                    self._unread[str(error)] += 1
                else:
                    self._unknown[error.label] += 1
            if picture.size is not None:
                told = [(f"{name}: a {row['kind']}", row) for row in outcome.put.values()]
                self.result.notes += outside(told, picture.size)

    def _own_tags(self, key: str) -> bool:
        """Whether earlier pulls wrote this key. Raises ConflictError where it is in use for something else."""
        for entry in self._repository.ledger.backwards():
            told = entry.event.parameters
            if entry.event.kind == _KIND and told.get("tool") == TOOL and told.get("tags") == key:
                return True
        texts = self._head.table("samples", ["metadata"])["metadata"].drop_null().unique().to_pylist()
        if any(key in orjson.loads(text) for text in texts):
            raise ConflictError(
                f"The metadata have a key {key!r} already, which no tags of FiftyOne made.",
                remedy="Name another key with --tags.",
            )
        return False

    def _take_tags(self, documents: Sequence[Document], key: str, before: bool) -> None:
        """Tags of people, in alphabetical order, joined by a comma; the key goes where none is left."""
        theirs = {str(item["sample_id"]): _own(item) for item in documents}
        wanted = sorted(theirs if before else (name for name, own in theirs.items() if own))
        for row in self._head.state("samples").rows(pa.array(wanted, pa.string())).to_pylist():
            metadata = orjson.loads(row["metadata"]) if row["metadata"] else {}
            own = ", ".join(theirs[row["sample_id"]])
            if metadata.get(key, "") == own:
                continue
            changed = {name: value for name, value in metadata.items() if name != key} | ({key: own} if own else {})
            self._tagged.append(row | {"metadata": canonical_json(changed).decode() if changed else None})

    def _look_at_marks(self, document: Document) -> None:
        there = set(document.get("tags") or ())
        taken = [item for item in document.get("findings") or () if f"{TAG}{item.get('check')}" not in there]
        for check in sorted({str(item["check"]) for item in taken}):
            self.result.dealt_with[check] = self.result.dealt_with.get(check, 0) + 1
        if taken:
            self._untagged[str(document["sample_id"])] = [str(item["finding_id"]) for item in taken]

    # --- writing ----------------------------------------------------------------------------------------------------

    def commit(self, message: str | None, tags: str | None, release: str, fine: bool) -> None:
        """The version, with one event that names dataset and counts. Then decisions, where they are wanted."""
        put, remove = [], []
        counts = self.result.labels
        for name, (_, outcome) in self._outcomes.items():
            remove += sorted(outcome.remove)
            counts["removed"] += len(outcome.remove)
            for key, values in outcome.put.items():
                began = outcome.began[key]
                counts["changed" if began == key else "added"] += 1
                put.append(self._stored(name, key, values, began))
        self.result.tagged = len(self._tagged)
        self._tell()
        if put or remove or self._tagged:
            outputs = {"labels": dict(counts), "conflicts": len(self.result.conflicts), "tagged": len(self._tagged)}
            parameters = {
                **{"tool": TOOL, "tool_version": release, "dataset": self._target.name, "tags": tags},
                **{"database": self.result.database, "overrule": self._overrule, "actor": self._actor},
            }
            event = Event(
                _KIND,
                self._repository.settings.actor,
                inputs={"version": self._exported.name, "commit": self._exported.digest},
                outputs=outputs,
                parameters=parameters,
            )
            made = self._repository.commit(
                Change(samples=self._tagged or None, annotations=put or None, remove_annotations=remove),
                message=message or f"Labels from FiftyOne's dataset {self._target.name}",
                event=event,
                branch=self._branch,
                parent=self._head,
            )
            self._head = made.version
            self.result.version = made.version.name if made.changed else None
        if fine:
            self._decide()

    def _stored(self, sample_id: str, key: str, values: Mapping[str, Any], began: str | None) -> dict[str, Any]:
        answer = {"tool": TOOL, "changed": True, "from_version": self._exported.name}
        who = {"source": "human", "actor": self._actor, "derived_from": began, "answer": answer}
        return {**values, "annotation_id": key, "sample_id": sample_id, **who}

    def _decide(self) -> None:
        """Calls findings fine whose tag was taken away, where the labels of their sample are those that were looked at."""
        names = sorted(self._untagged.keys() - self._outcomes.keys())
        was, now = (_said(version, names) for version in (self._exported, self._head))
        left = {name: self._untagged[name] for name in names if was.get(name) == now.get(name)}
        try:
            findings = latest_audit(self._repository, self._exported).findings
        except NotFoundError:
            return
        known = set(findings["finding_id"].to_pylist())
        known -= {item.finding_id for item in decisions(self._repository) if item.actor == self._actor}
        wanted = sorted({one for ids in left.values() for one in ids} & known)
        said = [
            {"finding_id": one, "verdict": "fine", "actor": self._actor, "note": "tag taken away"} for one in wanted
        ]
        self.result.decided = len(decide(self._repository, self._exported, findings, said)) if said else 0

    def write_back(self) -> None:
        """Labels that the version has now become what it would write for them; the others stay, to be looked at again."""
        rows = LabelRows(self._head)
        maker = LabelMaker(self._attributes)
        names = sorted(name for name, (_, outcome) in self._outcomes.items() if any(outcome.settled.values()))
        for start in range(0, len(names), _BATCH):
            part = pa.array(names[start : start + _BATCH], pa.string())
            samples = self._head.state("samples").rows(part).to_pylist()
            changes = {}
            for sample, picture in zip(samples, self._pictures.of(samples), strict=True):
                document, outcome = self._outcomes[sample["sample_id"]]
                made = maker.labels(rows.of(sample["sample_id"]), picture.size)
                changes[document["_id"]] = self._as_settled(document, outcome, made)
            self._target.write([], changes)

    def _as_settled(
        self, document: Document, outcome: Outcome, made: Mapping[str, Sequence[Document]]
    ) -> tuple[Document, list[str]]:
        """(fields to set, fields to remove) of one sample."""
        values: Document = {}
        digests = dict(document.get(DIGESTS) or {})
        for name, settled in outcome.settled.items():
            ours = {label["annotation_id"]: label for label in made.get(name, ())}
            written = {key: value for key, value in (digests.get(name) or {}).items() if key not in settled}
            labels = []
            for label in members(name, document.get(name)):
                key = settled.get(str(label.get("_id")))
                if key is not None and key in ours:
                    label = _kept(label, self._keys) | ours[key] | {"tags": label.get("tags") or []}
                    written[str(label["_id"])] = digest(label, self._keys)
                labels.append(label)
            values[name] = value_of(name, labels)
            digests[name] = written
        values[DIGESTS] = {name: item for name, item in sorted(digests.items()) if item}
        gone = [name for name, value in values.items() if value is None]
        return {name: value for name, value in values.items() if value is not None}, gone

    # --- telling ----------------------------------------------------------------------------------------------------

    def _tell(self) -> None:
        notes, result = self.result.notes, self.result
        sentences = unknown_classes(self._unknown, self._head.schema)
        sentences += [f"{count:,} labels are left out: {reason}" for reason, count in self._unread.most_common()]
        result.unread = dict(self._unread) | {f"no class {name!r}": count for name, count in self._unknown.items()}
        notes += [f"{sentence}." for sentence in sentences]
        if self._gone:
            notes.append(f"{self._gone:,} samples with changed labels are no longer in {self._head.name}: left alone.")
        if result.deleted:
            notes.append(
                f"{len(result.deleted):,} samples were deleted in FiftyOne, such as {result.deleted[0]}: they stay here. "
                "`dsops remove` makes a version without them."
            )
        if self._strangers > 0:
            notes.append(
                f"{self._strangers:,} samples were added in FiftyOne: they stay there. Ingest their images, or keep them "
                "in a dataset of their own and ingest that."
            )
        if others := self._target.other_label_fields():
            notes.append(f"Label fields that dsops did not make stay in FiftyOne: {', '.join(others)}.")
        if len(notes) > _NOTES:
            notes[_NOTES:] = [f"… and {len(notes) - _NOTES:,} more notes."]


def _said(version: Version, sample_ids: Sequence[str]) -> dict[str, list[tuple[Any, ...]]]:
    """What the annotations of some samples say, whoever made them."""
    said: dict[str, list[tuple[Any, ...]]] = {}
    for row in version.annotations_of(sample_ids).to_pylist():
        said.setdefault(row["sample_id"], []).append(tuple(row[name] for name in ("annotation_id", *REGION_COLUMNS)))
    return said


def _opened_row(row: Mapping[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in row.items() if name != "field"}
    return plain | {name: orjson.loads(row[name]) if row[name] else None for name in _JSON}


def _own(document: Document) -> list[str]:
    """Tags of a sample that people gave it."""
    given: Iterable[str] = document.get("tags") or ()
    return sorted({tag for tag in given if not tag.startswith(TAG) and tag != document.get("split")})


def _kept(label: Document, keys: set[str]) -> Document:
    """What others gave to a label beside what is written from here."""
    return {name: value for name, value in label.items() if name not in keys}
