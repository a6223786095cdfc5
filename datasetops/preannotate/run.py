"""Ask a model about the images of a version, keep what it says, and make a new version of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from datasetops.engine import Engine, Item, open_engine
from datasetops.errors import ConflictError, ModelError, NotFoundError, did_you_mean
from datasetops.ledger import Event, releases
from datasetops.manifest import Change, Repository, Version
from datasetops.manifest.repository import MAIN
from datasetops.models.predictor import Predictor, Prompts
from datasetops.preannotate.auto_accept import ensure_plan, mark
from datasetops.preannotate.compute import compute
from datasetops.preannotate.cost import estimate
from datasetops.preannotate.labelers import EngineLabeler, Labeler, Learner
from datasetops.preannotate.mapping import ClassMapping, choose_mapping
from datasetops.preannotate.measure import judged_kind, plain
from datasetops.preannotate.outlines import Outlines
from datasetops.preannotate.plan import Chosen, Plan, choose, labeled_by_people, plan
from datasetops.preannotate.predictions import PredictionStore
from datasetops.preannotate.promise import Measured, promise
from datasetops.preannotate.record import make_event
from datasetops.preannotate.result import PreannotateResult
from datasetops.preannotate.rows import Owners, RowRules, Thresholds, rows_of
from datasetops.preannotate.runs import EVENT
from datasetops.preannotate.thresholds import CONFIDENCE, check_target
from datasetops.progress import Progress, no_progress
from datasetops.records import ANNOTATIONS, Finding
from datasetops.store.media import Media

_ATTEMPTS: Final = 5  # each after somebody else's commit to the same rows
_SHOWN_FAULTS: Final = 5


def preannotate(
    repository: Repository,
    version: Version,
    predictor: Predictor | Labeler,
    *,
    task: str | None = None,
    mapping: Path | None = None,
    classes: Sequence[str] = (),
    where: str | None = None,
    thresholds: Thresholds = None,
    target_precision: float | None = None,
    confidence: float = CONFIDENCE,
    together: bool = False,
    auto_accept: bool = False,
    engine: Engine | None = None,
    prompts: Prompts | None = None,
    limit: int | None = None,
    also_labeled: bool = False,
    dry_run: bool = False,
    price_per_hour: float | None = None,
    message: str | None = None,
    branch: str = MAIN,
    progress: Progress = no_progress,
) -> PreannotateResult:
    """Annotations by a model, as one new version of a branch, or none where nothing has to change.

    The model is asked about the samples of `version` that fulfil `where` (as in `Version.where`), without those that
    people labeled in all its kinds; with `also_labeled` these too, whose predictions are kept but make no rows. `task`
    is the one kind to write; `mapping` a YAML file (see `read_mapping`); `classes` the only ones to write. `thresholds`
    are scores from which on a row is written: one for all, or by class. With a `target_precision` they are chosen on
    what people labeled, about which the model is asked too: with this `confidence` at least that share of each class's
    rows is right, and classes of which it cannot be promised get none; or, `together`, that share of all rows (see
    `choose_thresholds`). With `auto_accept` these rows count without a person having seen them, which takes a QA plan
    over their samples: it is made where none covers them, also when an earlier run did not get to it. `prompts` are what the
    model was opened with, for the record. A `dry_run` computes a few images to see how long it takes, or, where all are
    computed, what can be promised, and writes nothing.

    What was computed once, in whatever run, is not computed again; a run that was stopped goes on where it was. Raises
    ModelError where the model does not fit the schema or nothing is there to measure it on, ConflictError where the
    branch has another schema by now, ValueError for thresholds, a target or a limit that cannot be.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit: expected 1 or more; got {limit}")
    _check_thresholds(thresholds, version)
    if target_precision is not None:
        check_target(target_precision, confidence)
        if thresholds is not None:
            raise ValueError("target precision: it chooses the thresholds; give either of them")
    elif auto_accept or together:
        what = "auto-accept: only what a precision is promised of" if auto_accept else "promise: of all rows together"
        raise ValueError(f"{what}; give a target precision, such as 0.98")
    media = Media(repository.store, repository.root)
    labeler = _labeler(repository, predictor, engine, media)
    head = _head(repository, version, branch)
    kinds = _kinds(labeler, version, task)
    if target_precision is not None:
        kinds = judged_kind(kinds)
    mapped = choose_mapping(labeler.name, labeler.vocabulary, version.schema, file=mapping, classes=classes)
    everywhere = also_labeled or target_precision is not None
    chosen = choose(version, head, kinds, where=where, also_labeled=everywhere, limit=limit)
    owners, items, outlines = _items(labeler, head, chosen, mapped)
    model = labeler.info(items)
    store = PredictionStore(repository, model.digest)
    known = store.known(item.key for item in items)
    missing = [index for index, item in enumerate(items) if item.key not in known]
    facts = PreannotateResult(
        version=None,
        model=model,
        mapping=mapped.report(classes or version.schema.class_names),
        selected=chosen.selected,
        labeled=chosen.labeled,
        without_image=chosen.without_image,
        asked=len(chosen.samples),
        known=len(items) - len(missing),
    )
    first = Event(EVENT, repository.settings.actor)
    marked = mark(target_precision) if auto_accept and target_precision is not None else None
    rules = RowRules(model, mapped, version.schema, kinds, thresholds, first.event_id, tuple(classes), outlines, marked)
    if isinstance(labeler, Learner):
        rules = replace(rules, known=labeler.known)
    if dry_run:
        left, beside = [items[index] for index in missing], None
        if missing and isinstance(labeler, Learner):
            left, beside = labeler.to_look_at(items), labeler.beside
        if target_precision is not None and not missing:
            seen = _measured(store, owners, head, rules, target_precision, confidence, together)
            facts = replace(facts, promises=seen.promises, reached=seen.reached)
        return replace(facts, cost=estimate(labeler, left, price_per_hour=price_per_hour, beside=beside))
    faults = compute(store, labeler, model, items, missing, progress)
    computed = len(missing) - len(faults)
    measured: Measured | None = None
    if target_precision is not None:
        measured = _measured(store, owners, head, rules, target_precision, confidence, together)
        thresholds = measured.promises.thresholds
        facts = replace(facts, promises=measured.promises, reached=measured.reached)
        rules = replace(rules, thresholds=thresholds)
    new, answered, refused = _rows(store, owners, rules)
    findings = _findings(chosen.samples, owners, faults | refused)
    facts = replace(facts, computed=computed, faults=tuple(findings))
    if measured is None and not len(new):
        below = _rows(store, owners, replace(rules, thresholds=0.0))[0]["score"]
        facts = replace(facts, below=len(below), highest=pc.max(below).as_py())
    told = {
        "engine": labeler.engine,
        "packages": releases(labeler.packages),
        "prompts": None if prompts is None else {name: list(texts) for name, texts in prompts.texts.items()},
        "mapping": dict(mapped.classes),
        "thresholds": dict(thresholds) if isinstance(thresholds, Mapping) else thresholds,
        "kinds": list(kinds),
        "classes": list(classes),
        "where": where,
        "limit": limit,
        "also_labeled": everywhere,
        "promises": None if measured is None else measured.promises.as_dict(),
        "measured": [] if measured is None else [plain(rate) for rate in measured.rates],
        "reached": [one.as_dict() for one in facts.reached],
        "auto_accept": auto_accept,
        "boxes": outlines is not None,
    }
    made, standing = _write(
        repository,
        head,
        facts,
        work=lambda newest: plan(newest, new, answered, rules),
        event=lambda done: make_event(repository, first, version, done, told, prompts),
        again=lambda: _head(repository, version, branch),
        branch=branch,
        message=message or _message(facts),
    )
    if marked is None or target_precision is None:
        return made
    sampled = ensure_plan(repository, standing, target_precision, confidence)
    return replace(made, qa_plan=None if sampled is None else sampled.name)


def _write(
    repository: Repository,
    head: Version,
    facts: PreannotateResult,
    *,
    work: Callable[[Version], Plan],
    event: Callable[[PreannotateResult], Event],
    again: Callable[[], Version],
    branch: str,
    message: str,
) -> tuple[PreannotateResult, Version]:
    """Bring the rows into the branch, on top of what others committed meanwhile: (what was done, the version that has
    them). `again` is the branch's newest version after somebody else's commit."""
    for attempt in range(_ATTEMPTS):
        changes = work(head)
        told = {name: getattr(changes, name) for name in ("stayed", "by_class", "replaced", "outlined")}
        facts = replace(facts, **told)
        if changes.is_empty and not facts.computed:
            return facts, head
        if changes.is_empty:
            repository.ledger.record(event(facts))
            return facts, head
        change = Change(annotations=changes.put if len(changes.put) else None, remove_annotations=changes.remove)
        try:
            made = repository.commit(change, message=message, event=event(facts), branch=branch, parent=head)
        except ConflictError:
            if attempt == _ATTEMPTS - 1:
                raise
            head = again()
            continue
        done = replace(facts, version=made.version.name if made.changed else None, counts=made.counts["annotations"])
        return done, made.version
    raise ConflictError(f"The branch {branch!r} moves without pause.", remedy="Run the command again later.")


def _labeler(repository: Repository, predictor: Predictor | Labeler, engine: Engine | None, media: Media) -> Labeler:
    if isinstance(predictor, Labeler):
        return predictor
    runner = engine or open_engine("local", jobs=repository.settings.jobs)
    return EngineLabeler(predictor, runner, media.read, engine=type(runner).__name__.removesuffix("Engine").lower())


def _head(repository: Repository, version: Version, branch: str) -> Version:
    """The newest version of the branch. Raises ConflictError where it has another schema than the version."""
    head = repository.version(branch)
    if head.commit.schema != version.commit.schema:
        raise ConflictError(
            f"{head.name}, the newest version of {branch!r}, has another label schema than {version.name}.",
            remedy=f"Run it on {head.name}.",
        )
    return head


def _kinds(labeler: Labeler, version: Version, task: str | None) -> tuple[str, ...]:
    """Kinds that the model gives and the schema asks for. Raises ModelError where there are none."""
    asked = version.schema.kinds
    if task is not None and task not in asked:
        raise ModelError(
            f"The schema {version.schema.name!r} has no task {task!r}.", remedy=did_you_mean(task, asked, noun="tasks")
        )
    kinds = tuple(kind for kind in labeler.kinds if kind in asked and task in (None, kind))
    if not kinds:
        raise ModelError(
            f"The model {labeler.name!r} gives {' and '.join(labeler.kinds)}, and the schema {version.schema.name!r} "
            f"asks for {' and '.join(asked)}" + (f", of which {task} is wanted." if task else "."),
            remedy="Take another model, or add the task to the schema.",
        )
    return kinds


def _items(
    labeler: Labeler, head: Version, chosen: Chosen, mapping: ClassMapping
) -> tuple[pa.Table, list[Item], Mapping[str, Mapping[int, str]] | None]:
    """(sample_id and key of each sample, each distinct image once, what is outlined by sample and rank)."""
    samples = chosen.samples
    keys = samples["sha256"].to_pylist()
    found: Outlines | None = getattr(labeler, "outlines", None)
    if found is not None:
        keys = [found.keys.get(key) for key in keys]
    pairs = zip(samples["sample_id"].to_pylist(), keys, samples["uri"].to_pylist(), strict=True)
    there = [(sample, key, uri) for sample, key, uri in pairs if key is not None]
    owners = pa.table(
        {"sample_id": pa.array([one[0] for one in there], pa.string()), "key": [one[1] for one in there]},
        schema=pa.schema([("sample_id", pa.string()), ("key", pa.string())]),
    )
    first: dict[str, str] = {}
    for _, key, uri in there:
        first.setdefault(key, uri)
    return owners, [Item(key, uri) for key, uri in first.items()], None if found is None else found.parents


def _rows(store: PredictionStore, owners: pa.Table, rules: RowRules) -> tuple[pa.Table, pa.Array, dict[str, str]]:
    """(rows of annotations, samples about whose image the model said something, why it did not by key)."""
    tables = [ANNOTATIONS.empty_table()]
    answered = [pa.array([], pa.string())]
    refused: dict[str, str] = {}
    of_images = Owners(owners)
    for stored in store.read(owners["key"].to_pylist()):
        tables.append(rows_of(stored, of_images, rules))
        keys, fault = stored.images["key"], stored.images["fault"]
        answered.append(of_images.of(keys.filter(fault.is_null()))[0])
        faulty = fault.is_valid()
        refused |= dict(zip(keys.filter(faulty).to_pylist(), fault.filter(faulty).to_pylist(), strict=True))
    return pa.concat_tables(tables), pa.concat_arrays(answered), refused


def _measured(
    store: PredictionStore,
    owners: pa.Table,
    head: Version,
    rules: RowRules,
    target: float,
    confidence: float,
    together: bool,
) -> Measured:
    """What can be promised of each class, and the rates, from all that the model said of samples that people labeled."""
    (kind,) = rules.kinds
    labeled = owners.filter(pc.is_in(owners["sample_id"], labeled_by_people(head, (kind,))[kind])).sort_by("sample_id")
    predicted = _rows(store, labeled, replace(rules, thresholds=0.0, known={}))[0]
    classes = [name for name in rules.classes(kind) if not rules.asked or name in rules.asked]
    return promise(head, labeled, predicted, kind, classes, target, confidence, together=together)


def _findings(samples: pa.Table, owners: pa.Table, faults: Mapping[str, str]) -> list[Finding]:
    uris = dict(zip(samples["sample_id"].to_pylist(), samples["uri"].to_pylist(), strict=True))
    bad = owners.filter(pc.is_in(owners["key"], pa.array(list(faults), pa.string()))).to_pylist()
    return [
        Finding("image_quality", "high", 0.0, faults[row["key"]], row["sample_id"], uris[row["sample_id"]])
        for row in bad
    ]


def _message(facts: PreannotateResult) -> str:
    return f"{facts.model.label} on {facts.asked:,} samples"


def _check_thresholds(thresholds: Thresholds, version: Version) -> None:
    """Raises ValueError for a score outside [0, 1], NotFoundError for a class that the schema does not have."""
    by_class = thresholds if isinstance(thresholds, Mapping) else {}
    for name in by_class:
        if name not in version.schema.class_names:
            raise NotFoundError(
                f"The schema {version.schema.name!r} has no class {name!r}.",
                remedy=did_you_mean(name, version.schema.class_names, noun="classes"),
            )
    values: Collection[float | None] = by_class.values() if isinstance(thresholds, Mapping) else (thresholds or 0.0,)
    for value in values:
        if value is not None and not 0.0 <= value <= 1.0:
            raise ValueError(f"threshold: expected a score in [0, 1]; got {value}")
