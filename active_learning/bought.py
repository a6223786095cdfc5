"""What each round bought: labels, minutes, corrections, and what they changed, from the versions and the answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version as release
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.active_learning.candidates import EVALUATION_SPLITS, JUDGING_SPLITS
from datasetops.active_learning.gains import (
    FEWEST_JUDGED,
    Estimate,
    Evaluation,
    accuracy_from_random,
    change,
    metric_replicates,
    over_chance,
    share_right,
)
from datasetops.active_learning.learner import features, find_learner
from datasetops.active_learning.rounds import Round, rounds
from datasetops.audits.crowd import answer_field
from datasetops.manifest import MAIN, Repository, Version
from datasetops.models import embed_stored
from datasetops.preannotate.human import BY_PEOPLE, human_labels
from datasetops.progress import Progress, no_progress
from datasetops.records import canonical_json, sha256_hex

_CLASS: Final = "classification"
_METHOD: Final = 1  # raised whenever the same inputs would give another report


@dataclass(frozen=True)
class RoundGain:
    """`labeled` of the round's `items` have labels by people that came after it; `minutes` of work went into them, as
    far as answers tell. `corrections` contradict what a model had said of them in the round's version.

    `metric` is a learner's accuracy with all labels up to and including this round, `gain` its change by it.
    `model_accuracy` is that of the model (or learner, says `judged`) before the round, on the whole pool, from the
    `random` arm, of which `random_labeled` are back. `over_chance` is the gain over as many labels drawn at random, or
    a sentence that says why it is not known.
    """

    round: str
    version: str
    strategy: str
    items: int
    labeled: int
    minutes: float | None
    corrections: int | None
    random: int
    random_labeled: int
    metric: Estimate | None = None
    gain: Estimate | None = None
    model_accuracy: Estimate | None = None
    judged: str | None = None
    over_chance: Estimate | str | None = None


@dataclass(frozen=True)
class Report:
    """`basis` says in words what the metric is measured on, or why there is none.

    `labels` (P,), `metric` (P,) and `covariance` (P, P) are the curve for `stopping.next_gain`: labels that were taught
    and the metric, before the first round where something was known then, and after each that brought labels.
    """

    version: str
    rounds: tuple[RoundGain, ...]
    basis: str
    labels: tuple[int, ...] = ()
    metric: tuple[float, ...] = ()
    covariance: tuple[tuple[float, ...], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def bought(
    repository: Repository,
    *,
    branch: str = MAIN,
    model: str | None = None,
    learner: str = "probe",
    seed: int = 0,
    progress: Progress = no_progress,
) -> Report:
    """What every round bought, as the newest version of a branch tells it. Computed once for the same labels.

    `model` names the embedder that the learner looks through, the settings' unless told. The metric is measured on
    labeled samples of the splits validation or val, else on the random arms' by cross-fitting; never on sealed splits.
    """
    head = repository.version(branch)
    all_rounds = list(rounds(repository))
    reference = model or repository.settings.model
    told = [sha256_hex(canonical_json(asdict(item))) for item in all_rounds]
    parts = [_METHOD, release("dsops"), head.digest, told, reference, find_learner(learner).name, seed]
    file = repository.cache / "gains" / f"{sha256_hex(canonical_json(parts))}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        return _report(json.loads(file.read_bytes()))
    report = _measure(repository, head, all_rounds, reference, learner, seed, progress)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{id(report):x}.part")
    part.write_bytes(canonical_json(report.as_dict()))
    part.replace(file)
    return report


def fresh_labels(repository: Repository, head: Version, all_rounds: Sequence[Round]) -> dict[str, int]:
    """For each sample that people labeled after a round that holds it, the number of the last such round."""
    owner: dict[str, int] = {}
    for number, item in enumerate(all_rounds):
        before = _given(repository.version(item.version), item.samples)
        now = _given(head, item.samples)
        known = set(zip(before["annotation_id"], before["event_id"], strict=True))
        for sample, *row in now[["sample_id", "annotation_id", "event_id"]].itertuples(index=False):
            if tuple(row) not in known:
                owner[sample] = number
    return owner


def _measure(
    repository: Repository,
    head: Version,
    all_rounds: Sequence[Round],
    reference: str,
    learner: str,
    seed: int,
    progress: Progress,
) -> Report:
    owner = fresh_labels(repository, head, all_rounds)
    minutes = _minutes(head, owner, len(all_rounds))
    gains = []
    for number, item in enumerate(all_rounds):
        mine = [name for name in item.samples if owner.get(name) == number]
        at_random = set(item.random)
        gains.append(
            RoundGain(
                round=item.name,
                version=item.version,
                strategy=item.strategy,
                items=len(item.samples),
                labeled=len(mine),
                minutes=minutes[number],
                corrections=_corrections(repository.version(item.version), head, mine, item),
                random=len(item.random),
                random_labeled=sum(name in at_random for name in mine),
            )
        )
    if not owner:
        return Report(head.name, tuple(gains), "No label has come back yet.")
    if _CLASS not in head.schema.kinds or head.schema.multi_label:
        return Report(head.name, tuple(gains), "A metric is only measured where each image has one class.")
    table = _labeled(repository, head, all_rounds, owner)
    evaluation, table, basis = _evaluation(repository, head, table, reference, learner, seed, progress)
    if evaluation is None:
        return Report(head.name, tuple(gains), basis)
    return _with_metric(repository, head, all_rounds, gains, evaluation, table, basis, seed, progress)


def _with_metric(
    repository: Repository,
    head: Version,
    all_rounds: Sequence[Round],
    gains: list[RoundGain],
    evaluation: Evaluation,
    table: pd.DataFrame,
    basis: str,
    seed: int,
    progress: Progress,
) -> Report:
    since, owner = table["since"].to_numpy(), table["owner"].to_numpy()
    taught, drawn = table["taught"].to_numpy(), table["drawn"].to_numpy()
    evaluated = np.zeros(len(table), bool)
    evaluated[evaluation.rows] = True
    crossed = bool((taught & evaluated).any())
    units = evaluation.units
    rng = np.random.default_rng(seed)
    right = [evaluation.right(np.flatnonzero(taught & (since < 0)))]
    for number in progress(range(len(all_rounds)), len(all_rounds), "Measuring rounds"):
        known = np.flatnonzero(taught & (since < number))
        mine = owner == number
        right.append(evaluation.right(np.flatnonzero(taught & (since <= number))))
        found: dict[str, Any] = {}
        if mine.any():
            found["metric"] = share_right(right[-1], units, rng)
            found["gain"] = change(right[-2], right[-1], units, rng)
            others = evaluation if not crossed else replace(evaluation, rows=np.flatnonzero(evaluated & ~mine))
            chosen, by_chance = (np.flatnonzero(mine & taught & arm) for arm in (~drawn, drawn))
            found["over_chance"] = (
                over_chance(others, known, chosen, by_chance, rng)
                if all_rounds[number].random
                else "there is no random arm"
            )
        if (mine & drawn).any():
            rows = np.flatnonzero(mine & drawn)
            item = all_rounds[number]
            said = _said(repository.version(item.version), table["sample_id"].iloc[rows].tolist(), item)
            if said.notna().all():
                names = np.asarray(head.schema.class_names, dtype=object)[evaluation.labels[rows]]
                hits = int((said.to_numpy() == names).sum())
                found |= {"judged": "model", "model_accuracy": accuracy_from_random(hits, len(rows))}
            elif len(np.unique(evaluation.labels[known])) > 1:
                hits = int(replace(evaluation, rows=rows).right(known).sum())
                found |= {"judged": "learner", "model_accuracy": accuracy_from_random(hits, len(rows))}
        gains[number] = replace(gains[number], **found)
    counts = [int((taught & (since < number)).sum()) for number in range(len(all_rounds) + 1)]
    several = len(np.unique(evaluation.labels[taught & (since < 0)])) > 1
    kept = [p for p in range(len(counts)) if (counts[p] > counts[p - 1] if p else several)]
    curve = np.stack(right)[kept] if kept else np.empty((0, len(units)))
    spread = np.atleast_2d(np.cov(metric_replicates(curve, units, rng), rowvar=False)) if kept else np.empty((0, 0))
    return Report(
        head.name,
        tuple(gains),
        basis,
        tuple(counts[p] for p in kept),
        tuple(curve.mean(axis=1).tolist()),
        tuple(map(tuple, spread.tolist())),
    )


def _labeled(repository: Repository, head: Version, all_rounds: Sequence[Round], owner: dict[str, int]) -> pd.DataFrame:
    """Samples with one class by people and an image, outside of sealed splits: sample_id, uri, sha256, split, unit, code.

    `owner` is the number of the round that brought the label, -1 for none; `since` that of the round after which it was
    known; `drawn` whether its round drew it at random, `picked` whether a strategy other than chance chose it.
    """
    frame = human_labels(head, _CLASS).to_pandas().drop_duplicates(["sample_id", "label"])
    frame = frame[~frame["sample_id"].duplicated(keep=False)].sort_values("sample_id", ignore_index=True)
    code = pd.Index(head.schema.class_names).get_indexer(pd.Index(frame["label"]))
    frame = frame.assign(code=code, unit=frame["group"].fillna(frame["sha256"]))
    frame = frame[(code >= 0) & frame["sha256"].notna() & ~frame["split"].isin(head.commit.sealed)]
    frame = frame.reset_index(drop=True)
    ids = pd.Index(frame["sample_id"])
    own = frame["sample_id"].map(owner).fillna(-1).to_numpy(np.int64)
    since = np.where(own >= 0, own, len(all_rounds))  # labels that came later, and by no round, teach nothing
    drawn, picked = np.zeros(len(frame), bool), np.zeros(len(frame), bool)
    for number, item in enumerate(all_rounds):
        known = ids.isin(human_labels(repository.version(item.version), _CLASS)["sample_id"].to_pylist())
        since = np.where(known, np.minimum(since, number - 1), since)
        at_random = ids.isin(item.random)
        drawn |= at_random & (own == number)
        if item.strategy != "random":
            picked |= ids.isin(item.samples) & ~at_random
    found: pd.DataFrame = frame.assign(owner=own, since=since, drawn=drawn, picked=picked)
    return found


def _evaluation(
    repository: Repository,
    head: Version,
    table: pd.DataFrame,
    reference: str,
    learner: str,
    seed: int,
    progress: Progress,
) -> tuple[Evaluation | None, pd.DataFrame, str]:
    """(what to judge with, the table with a column `taught` and only rows with embeddings, what it is in words)."""
    apart = table["split"].isin(EVALUATION_SPLITS) & ~table["picked"]
    basis = "labeled samples of the validation split, without those that a strategy chose"
    judged = apart
    if table["unit"][apart].nunique() < FEWEST_JUDGED:
        judged = table["drawn"] & ~table["split"].isin(JUDGING_SPLITS)
        basis = "the random arms, each item by a learner that was not taught it"
    units = table["unit"][judged].nunique()
    if units < FEWEST_JUDGED:
        reason = (
            f"There is no metric: {units:,} labeled samples, of a split validation or of random arms, can tell, and "
        )
        reason += f"{FEWEST_JUDGED} are the least. Label some of a validation split, or select with --random-share."
        return None, table, reason
    keys, uris = table["sha256"].tolist(), table["uri"].tolist()
    vectors = features(embed_stored(repository, reference, keys, uris, progress=progress)[0])
    there = pd.Series(np.isfinite(vectors[:, 0]), index=table.index)
    table, judged = table[there].reset_index(drop=True), judged[there].reset_index(drop=True)
    table["taught"] = ~table["split"].isin(JUDGING_SPLITS) & ~table["unit"].isin(table["unit"][apart[there].to_numpy()])
    if table["unit"][judged].nunique() < FEWEST_JUDGED:
        return None, table, "There is no metric: the images of the samples that could tell cannot be read."
    evaluation = Evaluation(
        embeddings=vectors[there.to_numpy()],
        labels=table["code"].to_numpy(np.int64),
        groups=pd.factorize(table["unit"])[0].astype(np.int64),
        classes=len(head.schema.class_names),
        rows=np.flatnonzero(judged.to_numpy()),
        fit_predict=find_learner(learner).fit_predict,
        seed=seed,
    )
    words = f"Accuracy of the {learner} on {reference}, measured on {len(evaluation.rows):,} items: {basis}. "
    words += (
        "Without labels it would be a guess. Each time all rounds are measured anew, with the images labeled by then."
    )
    return evaluation, table, words


def _given(version: Version, samples: Sequence[str]) -> pd.DataFrame:
    """Rows by people about some samples."""
    rows = version.labels(["annotation_id", "sample_id", "event_id", "source"])
    mine = pc.is_in(rows["sample_id"], pa.array(samples, pa.string()))
    frame: pd.DataFrame = rows.filter(pc.and_(mine, pc.is_in(rows["source"], pa.array(BY_PEOPLE)))).to_pandas()
    return frame


def _said(version: Version, samples: Sequence[str], item: Round) -> pd.Series[Any]:
    """The class that a model gave each of some samples, in its row in a version, else when the round was made; NaN where
    none did."""
    rows = version.labels(["sample_id", "kind", "label", "source"])
    wanted = pc.and_(pc.equal(rows["source"], "model"), pc.equal(rows["kind"], _CLASS))
    rows = rows.filter(pc.and_(wanted, pc.is_in(rows["sample_id"], pa.array(samples, pa.string()))))
    frame = rows.to_pandas().drop_duplicates("sample_id").set_index("sample_id")
    predicted = pd.Series(dict(zip(item.samples, item.predicted, strict=False)), dtype=object)
    wanted_ids = pd.Index(samples)
    said: pd.Series[Any] = frame["label"].reindex(wanted_ids).fillna(predicted.reindex(wanted_ids))
    return said


def _corrections(version: Version, head: Version, samples: Sequence[str], item: Round) -> int | None:
    """Samples whose labels by people are not what a model said in a version, or of their class when the round was made;
    None where it said nothing of any.

    Of other kinds than classes: those whose regions were changed, added to or removed.
    """
    columns = ["sample_id", "kind", "label", "source", "answer"]
    wanted = pa.array(samples, pa.string())
    before, now = (
        rows.filter(pc.is_in(rows["sample_id"], wanted)).to_pandas()
        for rows in (version.labels(columns), head.labels(columns))
    )
    before, now = before[before["source"] == "model"], now[now["source"].isin(BY_PEOPLE)]
    if before.empty:
        said = _said(version, list(dict.fromkeys(samples)), item).dropna()
        given = now[now["kind"] == _CLASS].drop_duplicates("sample_id").set_index("sample_id")["label"]
        both = said.index.intersection(given.index)
        return int((said[both] != given[both]).sum()) if len(both) else None
    keys = ["sample_id", "kind", "label"]
    counts = pd.concat([rows.groupby(keys, dropna=False).size() for rows in (before, now)], axis=1).fillna(0)
    differs = counts[counts[0] != counts[1]].index.get_level_values("sample_id")
    moved = now["sample_id"][(now["kind"] != _CLASS) & now["answer"].fillna("").str.contains('"changed": ?true')]
    return len({*differs, *moved} & set(before["sample_id"]))


def _minutes(head: Version, owner: dict[str, int], count: int) -> list[float | None]:
    """Of each round the time that annotators took, each answer once; None where no answer tells."""
    table = head.table("annotations", ["sample_id", "answer"])
    table = table.filter(pc.is_in(table["sample_id"], pa.array(list(owner), pa.string())))
    rows = table.filter(pc.is_valid(table["answer"])).to_pandas()
    rows["answer_id"] = answer_field(rows["answer"], "answer_id")
    rows["seconds"] = pd.to_numeric(answer_field(rows["answer"], "lead_time"), errors="coerce")
    rows = rows.dropna(subset="seconds").drop_duplicates(["sample_id", "answer_id"])
    total = rows.groupby(rows["sample_id"].map(owner))["seconds"].sum() / 60
    return [round(float(total[number]), 2) if number in total else None for number in range(count)]


def _report(raw: dict[str, Any]) -> Report:
    names = {field.name for field in fields(RoundGain)}
    made = []
    for item in raw["rounds"]:
        told: dict[str, Any] = {
            name: Estimate(**value) if isinstance(value, dict) else value for name, value in item.items()
        }
        made.append(RoundGain(**{name: told[name] for name in names}))
    return Report(
        raw["version"],
        tuple(made),
        raw["basis"],
        tuple(raw["labels"]),
        tuple(raw["metric"]),
        tuple(map(tuple, raw["covariance"])),
    )
