"""Strategies by one score an item that is no function of class probabilities: of a detector's boxes, of models that
differ, of past rounds, or brought along."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from datasetops.active_learning.expected import EXPECTED_GAIN, History, expected_gain
from datasetops.active_learning.pool import Floats, Picks, Pool, Strategy, needed, top
from datasetops.active_learning.region_scores import Sum, per_image, presence_entropy
from datasetops.active_learning.rounds import rounds
from datasetops.active_learning.scores import least_confidence
from datasetops.active_learning.views import CLUTTER, stored_spread
from datasetops.errors import DatasetOpsError, FormatError
from datasetops.manifest import Repository, Version
from datasetops.preannotate.disagreement import disagreement_scores, keep_disagreement
from datasetops.preannotate.measure import KINDS
from datasetops.preannotate.stored import stored_detections
from datasetops.progress import Progress, no_progress
from datasetops.sheets import as_numbers, read_frame

_MODEL_NEEDED: Final = "Name a model whose boxes are kept: --predictions MODEL. They are made with: dsops preannotate"


def read_scores(path: Path) -> pd.Series[float]:
    """Scores by sample_id from a CSV or Parquet table with the columns sample_id and score, in [0, 1].

    Raises FormatError that names file and field.
    """
    frame = read_frame(path)
    missing = [name for name in ("sample_id", "score") if name not in frame.columns]
    if missing:
        raise FormatError(f"{path}: there is no column {missing[0]}.", remedy="It takes sample_id and score.")
    scores = as_numbers(frame.set_index(frame["sample_id"].astype(str))["score"])
    wrong = np.flatnonzero(~scores.between(0, 1).to_numpy())
    if len(wrong):
        raise FormatError(
            f"{path}: row {wrong[0] + 1}: {frame['score'].iloc[wrong[0]]} is no score.",
            remedy="Scores lie from 0 to 1; 1 is what should be labeled first.",
        )
    if scores.index.has_duplicates:
        twice = scores.index[scores.index.duplicated()][0]
        raise FormatError(f"{path}: sample {twice!r} stands in more than one row.", remedy="Keep one.")
    return scores


def uncertainty_of(
    repository: Repository,
    version: Version,
    samples: pd.DataFrame,
    pool: Pool,
    strategy: str,
    *,
    predictions: Sequence[str],
    mapping: Path | None,
    scores: pd.Series[float] | None,
    detector: str | None = None,
    progress: Progress = no_progress,
) -> Floats:
    """Scores (N,) in [0, 1] of the samples for a strategy of this module; NaN for what it knows nothing about.

    Raises DatasetOpsError where what it needs is not there, and says how to get it.
    """
    ids = pd.Index(samples["sample_id"])
    if strategy == "scores":
        if scores is None:
            raise DatasetOpsError("scores takes a table of your own.", remedy="Name it with --scores FILE.")
        return np.asarray(scores.reindex(ids), np.float64)
    if strategy == "disagreement":
        kind = next((kind for kind in KINDS if kind in version.schema.kinds), KINDS[0])
        table = disagreement_scores(keep_disagreement(repository, version, kind)[1])
        known = pd.Series(table["score"].to_numpy(), index=table["sample_id"].to_pylist(), dtype=np.float64)
        return np.asarray(known.reindex(ids), np.float64)
    if strategy == EXPECTED_GAIN.name:
        return _expected(repository, version, pool)
    if strategy == _SPREAD:
        if detector is None:
            raise DatasetOpsError(f"{_SPREAD} asks a detector about each image.", remedy="Name it with --detector REF.")
        found = np.full(len(samples), np.nan)
        rows = pool.candidates[samples["sha256"].notna().to_numpy()[pool.candidates]]
        chosen = samples.iloc[rows]
        found[rows] = stored_spread(
            repository, detector, chosen["sha256"].tolist(), chosen["uri"].tolist(), progress=progress
        )[0]
        return found
    if len(predictions) != 1:
        raise DatasetOpsError(f"{strategy} looks at one detector's boxes.", remedy=f"{_MODEL_NEEDED} {version.name}")
    boxes = stored_detections(repository, version, predictions[0], mapping)
    boxes = boxes[boxes["score"] >= CLUTTER]
    return per_image(
        ids.get_indexer(boxes["sample_id"]).astype(np.int64), presence_entropy(boxes["score"]), len(ids), _HOW[strategy]
    )


def _expected(repository: Repository, version: Version, pool: Pool) -> Floats:
    """By what past rounds bought: how often a label contradicted the model, by how unsure that was."""
    rows = version.labels(["sample_id", "kind", "label", "source"]).to_pandas()
    rows = rows[(rows["kind"] == "classification") & (rows["source"].isin(["human", "consensus"]))]
    given = rows.drop_duplicates("sample_id").set_index("sample_id")["label"]
    past = pd.DataFrame(
        [
            (sample, doubt, thought)
            for one in rounds(repository)
            for sample, doubt, thought in zip(one.samples, one.doubts, one.predicted, strict=False)
        ],
        columns=["sample_id", "doubt", "predicted"],
    ).dropna()
    past = past[past["sample_id"].isin(given.index)]
    if not len(past):
        raise DatasetOpsError(
            f"No past round says what labels bought: none of its items was predicted first and is labeled in {version.name}.",
            remedy="Make rounds with another strategy first, such as auto.",
        )
    bought = (given.loc[past["sample_id"]].to_numpy() != past["predicted"].to_numpy()).astype(np.bool_)
    found = np.full(len(pool.labels), np.nan)
    unsure = least_confidence(needed(pool.probabilities)[pool.candidates])
    found[pool.candidates] = expected_gain(History(past["doubt"].to_numpy(np.float64), bought), unsure)
    return found


def _top(why: str) -> Callable[[Pool, int, np.random.Generator], Picks]:
    def pick(pool: Pool, n: int, rng: np.random.Generator) -> Picks:
        scores: npt.NDArray[np.float64] = needed(pool.uncertainty)[pool.candidates]
        return top(pool, scores, n, rng, why)

    return pick


_BOXES: Final[dict[Sum, str]] = {
    "max": "the most doubtful box",
    "mean": "the mean doubt of the boxes",
    "sum": "the summed doubt of the boxes, so crowded images first",
    "top": "the three most doubtful boxes",
}
_HOW: Final = {f"box_{how}": how for how in get_args(Sum)}
_SPREAD: Final = "box_spread"
_NEEDS: Final = ("uncertainty",)
BY_UNCERTAINTY: Final = (
    *(
        Strategy(f"box_{how}", f"{what}, by a detector (--predictions)", _NEEDS, _top(f"{what}: {{:.3f}}"))
        for how, what in _BOXES.items()
    ),
    Strategy(
        _SPREAD,
        "boxes move or vanish when the image is mirrored, shifted, smaller or brighter, by a detector (--detector)",
        _NEEDS,
        _top("boxes move by {:.3f}"),
    ),
    Strategy(
        "disagreement",
        "models whose predictions are kept differ, or people from them",
        _NEEDS,
        _top("disagreement {:.3f}"),
    ),
    Strategy("scores", "scores of your own are high (--scores)", _NEEDS, _top("score {:.3f}")),
    EXPECTED_GAIN,
)
