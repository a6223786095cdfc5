"""What each round bought: labels, minutes, corrections, and what they changed, from the versions and the answers."""

from __future__ import annotations

import json
from collections.abc import Sequence, Set
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version as release
from typing import Any, Final

import numpy as np
import pandas as pd

from datasetops.active_learning.candidates import EVALUATION_SPLITS, JUDGING_SPLITS, labeled_by_people
from datasetops.active_learning.credit import corrections, fresh_labels, model_before, said_before, single_answers
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
from datasetops.active_learning.minutes import minutes_spent
from datasetops.active_learning.rounds import Round, rounds
from datasetops.labeling import sent_samples
from datasetops.manifest import MAIN, Repository, Version
from datasetops.models import embed_stored
from datasetops.preannotate.human import human_labels
from datasetops.progress import Progress, no_progress
from datasetops.records import canonical_json, sha256_hex

_CLASS: Final = "classification"
_METHOD: Final = 2  # raised whenever the same inputs would give another report


@dataclass(frozen=True)
class RoundGain:
    """`labeled` of the round's `items` have labels by people that came after it; `minutes` of work went into them, as
    far as answers tell, without the answers that were `left_open`. `returned` came back without a label and may be
    chosen again. `corrections` contradict what `model` had said of them in the round's version.

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
    left_open: int
    returned: int
    corrections: int | None
    model: str | None
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
    returned = sent_samples(repository).returned - labeled_by_people(head)
    parts = [
        _METHOD,
        release("dsops"),
        head.digest,
        told,
        sorted(returned),
        reference,
        find_learner(learner).name,
        seed,
    ]
    file = repository.cache / "gains" / f"{sha256_hex(canonical_json(parts))}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        return _report(json.loads(file.read_bytes()))
    report = _measure(repository, head, all_rounds, returned, reference, learner, seed, progress)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{id(report):x}.part")
    part.write_bytes(canonical_json(report.as_dict()))
    part.replace(file)
    return report


def _measure(
    repository: Repository,
    head: Version,
    all_rounds: Sequence[Round],
    returned: Set[str],
    reference: str,
    learner: str,
    seed: int,
    progress: Progress,
) -> Report:
    owner = fresh_labels(repository, head, all_rounds)
    spent = minutes_spent(head, owner, len(all_rounds))
    gains = []
    for number, item in enumerate(all_rounds):
        mine = [name for name in item.samples if owner.get(name) == number]
        at_random = set(item.random)
        before = repository.version(item.version)
        gains.append(
            RoundGain(
                round=item.name,
                version=item.version,
                strategy=item.strategy,
                items=len(item.samples),
                labeled=len(mine),
                minutes=spent[number][0],
                left_open=spent[number][1],
                returned=len(returned & set(item.samples)),
                corrections=corrections(before, head, mine, item),
                model=model_before(before, mine, item),
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
            said = said_before(repository.version(item.version), table["sample_id"].iloc[rows].tolist(), item)
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
    drawn = table["drawn"] & ~table["split"].isin(JUDGING_SPLITS)
    judged, basis = apart, "labeled samples of the validation split, without those that a strategy chose"
    if few := _too_few(table[apart], "validation"):
        judged, basis = drawn, f"the random arms, each item by a learner that was not taught it ({few})"
        if few_drawn := _too_few(table[drawn], "the random arms"):
            reason = (
                f"There is no metric: {few}; {few_drawn}. Label some of a validation split, of more groups where it "
            )
            return None, table, reason + "has groups, or select with --random-share."
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
    if alone := single_answers(head, table["sample_id"][judged].tolist()):
        words += f"{alone:,} of their labels are single answers of annotators, whose errors count as the learner's. "
    words += (
        "Without labels it would be a guess. Each time all rounds are measured anew, with the images labeled by then."
    )
    return evaluation, table, words


def _too_few(judging: pd.DataFrame, name: str) -> str:
    """Why these samples cannot judge; empty where they can."""
    count, units = len(judging), judging["unit"].nunique()
    if units >= FEWEST_JUDGED:
        return ""
    if units == count:
        return f"{count:,} labeled samples of {name}, and {FEWEST_JUDGED} are the least"
    return f"the {count:,} labeled samples of {name} are of {units:,} groups, and {FEWEST_JUDGED} groups are the least"


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
