"""What a model is trained on: which samples, which labels, and how much each counts. Chosen before any image is read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.audits.decisions import decisions, open_findings
from datasetops.audits.labels.label_probabilities import grouped_with_copies
from datasetops.audits.record import latest_audit
from datasetops.errors import NotFoundError, RejectedError, did_you_mean
from datasetops.manifest import Repository, Version
from datasetops.preannotate.human import BY_PEOPLE
from datasetops.records import SEVERITIES
from datasetops.schema.model import AUTO_ACCEPTED
from datasetops.splits import place
from datasetops.training.recipe import Recipe
from datasetops.training.record import TRAIN, VALIDATION

Floats: TypeAlias = npt.NDArray[np.float64]
Flags: TypeAlias = npt.NDArray[np.bool_]

_HELD_OUT: Final = ("test", "val", "valid", "validation", "dev")  # splits that nothing is learned from
_VALIDATING: Final = ("val", "valid", "validation", "dev")
_NAMED: Final = 5  # things that a message names
# What checks of labels look at; any other may look at all kinds.
_OF_KIND: Final = {
    "label_noise": "classification", "swapped_box": "box", "misplaced_box": "box", "duplicate_box": "box",
}  # fmt: skip


@dataclass(frozen=True)
class Parts:
    """Samples (columns as in records.SAMPLES, and `home`, the number of what must stay together) by part; `notes` say
    what was left out. No image is in both parts."""

    train: pd.DataFrame
    validation: pd.DataFrame
    notes: tuple[str, ...] = ()

    @property
    def samples(self) -> pd.DataFrame:
        """Those of both, the ones to train on first."""
        return pd.concat([self.train, self.validation], ignore_index=True)

    def ids(self, kept: pd.DataFrame | None = None) -> dict[str, list[str]]:
        """Sample ids by part; with `kept` only those in it."""
        known = None if kept is None else set(kept["sample_id"])
        both = {TRAIN: self.train, VALIDATION: self.validation}
        return {
            name: [one for one in part["sample_id"] if known is None or one in known] for name, part in both.items()
        }


def choose_parts(version: Version, split: str, recipe: Recipe) -> Parts:
    """Samples to train and to validate on.

    Those of `split`; where the version has no splits, all outside sealed ones. Validated on is a split named val, valid,
    validation or dev that is not sealed, else the recipe's share of the rest, whole groups, by a hash of their names: the
    same in every version. Raises NotFoundError for a split that is not there or is empty, RejectedError for a sealed one.
    """
    samples = version.table("samples").to_pandas()
    if not len(samples):
        raise NotFoundError(f"{version.name} has no samples.", remedy="Bring data in with: dsops ingest SOURCE")
    samples["home"] = grouped_with_copies(samples).to_numpy()
    known = sorted(set(samples["split"].dropna()))
    sealed = set(version.commit.sealed)
    if split in sealed:
        raise RejectedError(
            f"The split {split!r} of {version.name} is sealed: nothing may be learned from it.",
            remedy="Train on another split.",
        )
    if split in known:
        chosen = samples[samples["split"] == split]
    elif split != TRAIN or known:
        raise NotFoundError(
            f"{version.name} has no sample in the split {split!r}.",
            remedy=(did_you_mean(split, known, noun="splits") if known else "It has no splits at all.")
            + " Place samples with: dsops split",
        )
    else:
        chosen = samples
    named = [name for name in known if name in _VALIDATING and name not in sealed and name != split]
    notes = []
    if named:
        validation = samples[samples["split"].isin(named)]
        taken = set(validation["home"]) | set(
            samples["home"][samples["split"].isin(sealed | (set(_HELD_OUT) - {split}))]
        )
        twins = chosen["home"].isin(taken)
        if twins.any():
            notes.append(
                f"{int(twins.sum()):,} samples are copies of others that are held out; nothing is learned from them."
            )
        chosen = chosen[~twins]
    else:
        units = chosen.groupby("home")[["group", "sha256", "sample_id"]].first()
        names = units["group"].fillna(units["sha256"]).fillna(units["sample_id"])
        shares = {VALIDATION: recipe.validation, TRAIN: 1 - recipe.validation}
        apart = {home for home, name in names.items() if place(str(name), shares, recipe.seed) == VALIDATION}
        mine = chosen["home"].isin(apart)
        chosen, validation = chosen[~mine], chosen[mine]
    return Parts(chosen.reset_index(drop=True), validation.reset_index(drop=True), tuple(notes))


def labels_that_count(version: Version, kinds: Sequence[str]) -> pd.DataFrame:
    """Annotations of some kinds that may teach: given by people, or by a model under a promise that QA has confirmed."""
    columns = [
        "annotation_id",
        "sample_id",
        "kind",
        "label",
        "source",
        "x1",
        "y1",
        "x2",
        "y2",
        "geometry",
        "attributes",
    ]
    rows = version.labels(columns)
    rows = rows.filter(pc.and_(pc.is_in(rows["kind"], pa.array(list(kinds))), pc.is_valid(rows["label"])))
    taught = pc.is_in(rows["source"], pa.array([*BY_PEOPLE, "rule"]))
    accepted = pc.fill_null(pc.match_substring(rows["attributes"], f'"{AUTO_ACCEPTED}"'), False)
    found: pd.DataFrame = rows.filter(pc.or_(taught, accepted)).to_pandas()
    return found


def class_names(version: Version, kinds: Sequence[str]) -> tuple[str, ...]:
    """Classes of the schema that are in use for one of some kinds."""
    return tuple(
        item.name
        for item in version.schema.classes
        if not item.deprecated and (not item.kinds or set(item.kinds) & set(kinds))
    )


def refuse_unlearnable(version: Version, counts: Mapping[str, int], recipe: Recipe, noun: str) -> tuple[str, ...]:
    """Classes that can be learned, of numbers of examples by class. Raises NotFoundError where that is too little."""
    there = tuple(name for name, count in counts.items() if count)
    lacking = [name for name, count in counts.items() if not count]
    if not there:
        raise NotFoundError(
            f"Nothing to learn from: the part of {version.name} to train on has no {noun} by people.",
            remedy="Label some, or name another split.",
        )
    if lacking and recipe.without_examples == "refuse":
        raise NotFoundError(
            f"Classes without an example to train on: {listed(lacking)}.",
            remedy="Label some, deprecate them in the schema, or write 'without_examples: leave out' in the recipe.",
        )
    return there


def label_weights(
    repository: Repository, version: Version, rows: pd.DataFrame, recipe: Recipe
) -> tuple[Floats, tuple[str, ...]]:
    """How much each label (N,) counts, in [0, 1], and what there is to say of it.

    `rows` has annotation_id, sample_id and kind. A finding without an annotation is about all labels of its sample. Raises
    NotFoundError where the recipe goes by findings and the version has not been audited, or only by checks of other kinds.
    """
    noise = recipe.noise
    weights = np.ones(len(rows))
    if noise.findings == "keep" or not len(rows):
        return weights, ()
    kinds = sorted(set(rows["kind"]))
    wanted = [check for check in noise.checks if _OF_KIND.get(check) in (None, *kinds)]
    if not wanted:
        raise NotFoundError(
            f"The recipe goes by findings of {listed(noise.checks)}, none of which is about {' or '.join(kinds)}.",
            remedy="Name checks that are, under noise.checks in the recipe; for masks: mask.",
        )
    command = f"Run: dsops audit {version.name} {' '.join(f'--check {name}' for name in wanted)}"
    try:
        audit = latest_audit(repository, version)
    except NotFoundError as error:
        raise NotFoundError(error.message, remedy=command) from None
    if not set(wanted) & set(audit.info["checks"]):
        raise NotFoundError(
            f"The recipe goes by findings of {listed(wanted)}, and no audit of {version.name} ran any of these checks.",
            remedy=command,
        )
    least = SEVERITIES[SEVERITIES.index(noise.at) :]
    found = audit.findings
    found = found.filter(
        pc.and_(pc.is_in(found["check"], pa.array(noise.checks)), pc.is_in(found["severity"], pa.array(least)))
    )
    found = open_findings(found, decisions(repository)).select(["annotation_id", "sample_id"]).to_pandas()
    of_sample = found["sample_id"][found["annotation_id"].isna()]
    doubted = rows["annotation_id"].isin(found["annotation_id"].dropna()) | rows["sample_id"].isin(of_sample.dropna())
    weights[doubted.to_numpy()] = 0.0 if noise.findings == "exclude" else noise.weight
    words = "left out" if noise.findings == "exclude" else f"given the weight {noise.weight:g}"
    return weights, (
        f"{int(doubted.sum()):,} of {len(rows):,} labels are doubted by the audit {audit.audit_id}: {words}.",
    )


def balance(counts: npt.NDArray[Any], recipe: Recipe) -> Floats:
    """Weights (K,) of classes with so many examples; their mean over the examples is 1."""
    if recipe.class_weights == "none":
        return np.ones(len(counts))
    there = np.maximum(counts, 1)
    return np.where(counts > 0, counts.sum() / (np.count_nonzero(counts) * there), 0.0)


def attributes(text: str | None) -> dict[str, Any]:
    return dict(json.loads(text)) if isinstance(text, str) else {}


def refuse_unreadable(faults: Mapping[str, str], skip: bool) -> tuple[str, ...]:
    """What to say of images (reasons by uri) that cannot be used. Raises NotFoundError unless they are to be skipped."""
    if not faults:
        return ()
    shown = listed([f"{uri} ({reason})" for uri, reason in faults.items()])
    if not skip:
        raise NotFoundError(
            f"{len(faults):,} images to train on cannot be read: {shown}.",
            remedy="Put them back or take them out of the version; --skip-unreadable trains without them.",
        )
    return (f"{len(faults):,} images cannot be read and are left out: {shown}.",)


def listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else "")
