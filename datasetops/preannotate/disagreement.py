"""Where models differ from each other and from people: a table kept beside the predictions, for audits and selection."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datasetops.errors import ModelError, NotFoundError
from datasetops.manifest import Repository, Version
from datasetops.preannotate.human import BY_PEOPLE
from datasetops.preannotate.measure import KINDS, judge, people_said
from datasetops.preannotate.predictions import ModelInfo, PredictionStore, newest_models
from datasetops.preannotate.rows import Owners, RowRules, names_no_class, rows_of
from datasetops.preannotate.stored import mapping_of
from datasetops.records import ANNOTATIONS, canonical_json, one_array, sha256_hex

PEOPLE: Final = "people"
_FOLDER: Final = "predictions/disagreement/"

# One row a sample and pair of voices that both said something of it; who agrees has a row too.
DISAGREEMENT: Final = pa.schema(
    [
        ("sample_id", pa.string()),
        ("kind", pa.string()),
        ("one", pa.string()),  # a model's label, NAME@REVISION#DIGEST, or "people"
        ("other", pa.string()),
        # In [0, 1]: share of what both said that the other did not say as well; null where a model's best name for the
        # image stands for no class of the schema, so that there is nothing to compare.
        ("disagreement", pa.float64()),
        ("one_said", pa.string()),  # classes with commas between, as often as they were given
        ("other_said", pa.string()),
    ]
)


@dataclass(frozen=True)
class Voice:
    """What somebody said of samples: `rows` have sample_id, label and score (None: sure), boxes their corners as well.

    `answered` are the samples that were looked at, also those of which nothing was said; in `outside` of them it said
    something that is no class of the schema. `meaning` is the digest of what its names mean.
    """

    name: str
    rows: pa.Table
    answered: pa.Array
    meaning: str = ""
    outside: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))


def disagreements(voices: list[Voice], kind: str) -> pa.Table:
    """Rows of DISAGREEMENT for each two voices and the samples that both looked at, by sample, then in their order.

    1 - 2 m / (a + b) of `a` and `b` annotations of which `m` are the same: the class, or a box of the class at an
    intersection over union of a half, matched one to one. 0 where both said that there is nothing, null where one of them
    said something outside of the schema.
    """
    tables = [DISAGREEMENT.empty_table()]
    for one, other in combinations(voices, 2):
        both = pc.unique(one.answered.filter(pc.is_in(one.answered, other.answered)))
        if len(both):
            tables.append(_pair(one, other, kind, both.take(pc.sort_indices(both))))
    whole = pa.concat_tables(tables)
    return whole.take(pc.sort_indices(whole, [("sample_id", "ascending")])) if len(whole) else whole


def disagreement_scores(table: pa.Table) -> pa.Table:
    """By sample (`sample_id`) how much those who looked at it differ: `score` in [0, 1], the mean over their pairs.

    The highest first, ties by id; 0 where all agree.
    """
    table = table.filter(pc.is_valid(table["disagreement"]))
    means = table.group_by("sample_id").aggregate([("disagreement", "mean")])
    renamed = means.select(["sample_id", "disagreement_mean"]).rename_columns(["sample_id", "score"])
    return renamed.sort_by([("score", "descending"), ("sample_id", "ascending")])


def keep_disagreement(
    repository: Repository, version: Version, kind: str, *, mappings: Mapping[str, Path | None] | None = None
) -> tuple[str, pa.Table]:
    """Work out where the models with stored predictions and the people of a version differ, and keep it.

    Of several models of one name the one counts that ran last, or that `mappings` has: files (see `read_mapping`) by a
    model's digest. The names of models without a file mean what they meant in their newest run; models that name no
    class of the schema are left out. Returns its key in the repository's store and the table; the same version, voices
    and meanings have the same key. Raises ValueError for a kind that is not right or wrong, NotFoundError where fewer
    than two voices spoke.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: expected {' or '.join(KINDS)}; got {kind!r}")
    samples = version.table("samples", ["sample_id", "sha256"])
    said, _ = people_said(version, samples, kind)
    voices = [Voice(PEOPLE, said, pc.unique(one_array(said["sample_id"])))] if len(said) else []
    files = mappings or {}
    for model in newest_models(repository, files):
        if kind in model.kinds and (
            voice := _stored_voice(repository, version, model, kind, samples, files.get(model.digest))
        ):
            voices.append(voice)
    if len(voices) < 2:
        raise _too_few(version, kind, voices)
    table = disagreements(voices, kind)
    said_by = [[voice.name, voice.meaning] for voice in voices]
    key = f"{_FOLDER}{kind}-{sha256_hex(canonical_json([version.digest, said_by]))[:12]}.parquet"
    sink = BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    repository.store.put(key, sink.getvalue())
    return key, table


def summary(table: pa.Table) -> list[dict[str, Any]]:
    """By pair of voices: how many samples were compared, on how many they differ, and how much on average (None: of
    none); and of how many more samples one said something that is no class of the schema."""
    frame = table.select(["one", "other", "disagreement"]).to_pandas()
    return [
        {
            "one": one,
            "other": other,
            "samples": int(part["disagreement"].count()),
            "differ": int((part["disagreement"] > 0).sum()),
            "mean": float(part["disagreement"].mean()) if part["disagreement"].count() else None,
            "outside": int(part["disagreement"].isna().sum()),
        }
        for (one, other), part in frame.groupby(["one", "other"], sort=False)
    ]


def _pair(one: Voice, other: Voice, kind: str, both: pa.Array) -> pa.Table:
    first, second = (_within(voice, both) for voice in (one, other))
    counts = [_counts(rows, both) for rows in (first, second)]
    judged = judge(_sure(first), second, kind, pa.table({"sample_id": both}), np.arange(len(both)))
    same = np.bincount(judged.sample[judged.right], minlength=len(both))
    total = counts[0] + counts[1]
    differ = np.where(total > 0, 1 - 2 * same / np.maximum(total, 1), 0.0)
    outside = pc.is_in(both, pa.concat_arrays([one.outside, other.outside])).to_numpy(zero_copy_only=False)
    return pa.table(
        {
            "sample_id": both,
            "kind": pa.repeat(kind, len(both)),
            "one": pa.repeat(one.name, len(both)),
            "other": pa.repeat(other.name, len(both)),
            "disagreement": pa.array(np.clip(differ, 0.0, 1.0), mask=outside),
            "one_said": _words(first, both),
            "other_said": _words(second, both),
        },
        schema=DISAGREEMENT,
    )


def _stored_voice(
    repository: Repository, version: Version, model: ModelInfo, kind: str, samples: pa.Table, file: Path | None
) -> Voice | None:
    """What a model said of the version's images, by the usual thresholds; None where it said nothing, or nothing of the
    schema's classes."""
    mapping = None
    with suppress(ModelError):
        mapping = mapping_of(repository, version, model, file)
    if mapping is None:
        return None
    there = samples.filter(pc.is_valid(samples["sha256"])).rename_columns(["sample_id", "key"])
    owners = Owners(there)
    rules = RowRules(model, mapping, version.schema, (kind,), None, "")
    tables = [ANNOTATIONS.empty_table()]
    answered, outside = [pa.array([], pa.string())], [pa.array([], pa.string())]
    for stored in PredictionStore(repository, model.digest).read(there["key"].to_pylist()):
        tables.append(rows_of(stored, owners, rules))
        fine = stored.images["fault"].is_null()
        answered.append(owners.of(stored.images["key"].filter(fine))[0])
        if kind == "classification" and not version.schema.multi_label:
            outside.append(owners.of(stored.images["key"].filter(pa.array(names_no_class(stored, rules))))[0])
    who = pa.concat_arrays(answered)
    rows = pa.concat_tables(tables)
    return Voice(model.label, rows, who, mapping.digest, pa.concat_arrays(outside)) if len(who) else None


def _too_few(version: Version, kind: str, voices: list[Voice]) -> NotFoundError:
    """Who spoke, and what people said instead."""
    spoke = f"only {voices[0].name} said" if voices else "nobody said"
    rows = version.labels(["kind", "source"])
    kinds = pc.unique(rows.filter(pc.is_in(rows["source"], pa.array(BY_PEOPLE)))["kind"]).to_pylist()
    if voices and voices[0].name == PEOPLE:
        remedy = "Let a model predict these samples: dsops preannotate with --also-labeled."
    elif kind in kinds:
        remedy = (
            "People's labels of this kind are in sealed splits, or several where one is allowed. Take a second model."
        )
    elif kinds:
        remedy = f"What people said there is of the kind {' and '.join(sorted(kinds))}. Compare with a second model."
    else:
        remedy = "People said nothing there. Compare with a second model."
    return NotFoundError(
        f"There is nothing to compare: {spoke} something of the kind {kind} in {version.name}.", remedy=remedy
    )


def _within(voice: Voice, both: pa.Array) -> pa.Table:
    return voice.rows.filter(pc.is_in(voice.rows["sample_id"], both))


def _sure(rows: pa.Table) -> pa.Table:
    """With a score for all rows: people are sure."""
    if "score" not in rows.column_names:
        return rows.append_column("score", pa.repeat(1.0, len(rows)))
    return rows.set_column(rows.column_names.index("score"), "score", pc.fill_null(rows["score"], 1.0))


def _counts(rows: pa.Table, both: pa.Array) -> npt.NDArray[np.int64]:
    return np.bincount(pc.index_in(one_array(rows["sample_id"]), both).to_numpy(), minlength=len(both)).astype(np.int64)


def _words(rows: pa.Table, both: pa.Array) -> pa.Array:
    frame = rows.select(["sample_id", "label"]).to_pandas().sort_values(["sample_id", "label"])
    words: Mapping[Any, str] = frame.groupby("sample_id")["label"].agg(", ".join).to_dict() if len(frame) else {}
    return pa.array([words.get(name, "") for name in both.to_pylist()], pa.string())
