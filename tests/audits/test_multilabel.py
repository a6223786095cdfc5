"""Label noise where several classes may hold: against cleanlab and scikit-learn, and planted errors found on images."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datasetops.audits.base import AuditContext
from datasetops.audits.labels import multilabel
from datasetops.audits.labels.multilabel import judge_multilabel, multilabel_probabilities, multilabel_result
from datasetops.errors import FormatError
from datasetops.schema import LabelSchema

pytestmark = pytest.mark.slow

NAMES = ("cat", "dog", "bird", "fish")


@pytest.fixture(scope="session")
def schema() -> LabelSchema:
    return LabelSchema.model_validate(
        {
            "name": "several",
            "version": 1,
            "tasks": [{"kind": "classification", "multi": True}],
            "classes": [{"id": i, "name": name} for i, name in enumerate(NAMES)],
        }
    )


def images_of(n: int, seed: int = 0, noise: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings in which each class that holds adds a direction of its own, and which classes hold; never none."""
    rng = np.random.default_rng(seed)
    held = rng.random((n, 4)) < [0.5, 0.4, 0.3, 0.2]
    held[~held.any(axis=1), 0] = True
    directions = rng.normal(size=(4, 24))
    return (held @ directions + noise * rng.normal(size=(n, 24))).astype(np.float32), held


def planted(held: np.ndarray, share: float, seed: int = 0) -> np.ndarray:
    """A class taken away or added in this share of the images."""
    rng = np.random.default_rng(seed)
    given = held.copy()
    for i in rng.choice(len(held), round(share * len(held)), replace=False):
        several = held[i].sum() > 1
        side = bool(several and rng.random() < 0.5) or bool(held[i].all())
        given[i, rng.choice(np.flatnonzero(held[i] == side))] = not side
    return given


def rows_of(held: np.ndarray) -> list[dict[str, Any]]:
    return [
        {"annotation_id": f"s{i:05}/{NAMES[k]}", "sample_id": f"s{i:05}", "kind": "classification", "label": NAMES[k]}
        | {"source": "human"}
        for i, k in np.argwhere(held).tolist()
    ]


# -- scores and flags


def swapped(held: np.ndarray, number: int, seed: int = 0) -> np.ndarray:
    """Another class in the place of one of an image's own."""
    rng = np.random.default_rng(seed)
    given = held.copy()
    for i in rng.choice(np.flatnonzero(~held.all(axis=1)), number, replace=False):
        given[i, [rng.choice(np.flatnonzero(held[i])), rng.choice(np.flatnonzero(~held[i]))]] ^= True
    return given


def test_scores_equal_those_of_cleanlab() -> None:
    from cleanlab.multilabel_classification import get_label_quality_scores

    embeddings, held = images_of(300)
    given = planted(held, 0.1)
    probabilities = multilabel_probabilities(embeddings, given)
    found = judge_multilabel(given, probabilities)
    lists = [np.flatnonzero(row).tolist() for row in given]
    assert np.abs(found.image - get_label_quality_scores(lists, probabilities)).max() < 1e-6
    assert found.score[given] == pytest.approx(probabilities[given])
    assert found.score[~given] == pytest.approx(1 - probabilities[~given])


@pytest.mark.parametrize("n", [150, 400])
def test_small_sets_give_more_right_flags_than_cleanlab(n: int) -> None:
    from cleanlab.multilabel_classification.filter import find_multilabel_issues_per_class

    embeddings, held = images_of(n)
    given = planted(swapped(held, n // 40), 0.05)
    wrong = given != held
    probabilities = multilabel_probabilities(embeddings, given)
    flagged = judge_multilabel(given, probabilities).flagged
    theirs = find_multilabel_issues_per_class([np.flatnonzero(row).tolist() for row in given], probabilities, n_jobs=1)
    assert (flagged & wrong).sum() > (theirs & wrong).sum()
    assert (flagged & wrong).sum() >= 0.85 * wrong.sum()
    assert (flagged & wrong).sum() >= 0.8 * flagged.sum()


def test_swapped_classes_are_flagged_where_only_one_holds() -> None:
    """The other class that was given tells this one away: the probabilities of both lie near a half."""
    rng = np.random.default_rng(0)
    held = np.eye(4, dtype=bool)[rng.integers(0, 4, 300)]
    embeddings = (held @ rng.normal(size=(4, 64)) + rng.normal(size=(300, 64))).astype(np.float32)
    given = swapped(held, 15)
    wrong = given != held
    flagged = judge_multilabel(given, multilabel_probabilities(embeddings, given)).flagged
    assert (flagged & wrong).any(axis=1).sum() >= 12
    assert not (flagged & ~wrong).any(axis=1).sum() > 2
    assert not judge_multilabel(held, multilabel_probabilities(embeddings, held)).flagged.any()


@pytest.mark.parametrize("noise", [0.5, 1.0, 2.0, 4.0])
def test_clean_labels_are_hardly_flagged_however_hard_the_classes_are(noise: float) -> None:
    flagged, sure = 0, 0
    for seed in range(5):
        embeddings, held = images_of(300, seed, noise)
        found = judge_multilabel(held, multilabel_probabilities(embeddings, held, seed=seed))
        flagged += int(found.flagged.any(axis=1).sum())
        sure += int((found.score <= found.sure).sum())
    assert flagged <= 0.01 * 5 * 300
    assert sure == 0


def test_a_class_of_nine_images_has_no_median_worth_the_name() -> None:
    held = np.zeros((400, 1), dtype=bool)
    held[:11] = True
    odds = np.where(held, 4.0, -4.0) + 0.5 * np.random.default_rng(0).normal(size=held.shape)
    odds[7:9] = -4.0
    assert np.flatnonzero(judge_multilabel(held, 1 / (1 + np.exp(-odds))).flagged).tolist() == [7, 8]
    held, odds = held[2:], odds[2:]
    assert not judge_multilabel(held, 1 / (1 + np.exp(-odds))).flagged.any()


def test_flags_are_more_than_the_probabilities_foretell() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.beta(0.3, 0.3, (4000, 5))
    drawn = rng.random(probabilities.shape) < probabilities  # labels just as they were foretold: none is an error
    clean = judge_multilabel(drawn, probabilities)
    assert clean.sure < 0
    assert clean.flagged.sum() <= 0.001 * drawn.size
    wrong = rng.random(probabilities.shape) < 0.03
    found = judge_multilabel(drawn ^ wrong, probabilities)
    assert wrong[found.flagged].mean() > 0.5
    sure = found.score <= found.sure
    assert 0 <= found.sure <= 0.05
    assert sure.sum() > 50
    assert (sure <= found.flagged).all()
    assert wrong[sure].mean() > 0.7


def test_planted_errors_are_found() -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    embeddings, held = images_of(600)
    given = planted(held, 0.05)
    wrong = given != held
    probabilities = multilabel_probabilities(embeddings, given)
    found = judge_multilabel(given, probabilities)
    assert roc_auc_score(wrong.ravel(), -found.score.ravel()) > 0.97
    assert average_precision_score(wrong.any(axis=1), -found.image) > 0.7
    assert wrong[found.flagged].sum() >= 0.9 * wrong.sum()


# -- probabilities


@pytest.mark.parametrize("part", ["image", "company"])
def test_an_images_own_label_has_no_part_in_its_score(part: str) -> None:
    embeddings, held = images_of(200)
    solver: Callable[..., Any] = multilabel._least_squares if part == "image" else multilabel._with_company
    x = embeddings if part == "image" else held[:, ::-1].astype(np.float32) + embeddings[:, :4]
    rows = np.arange(40)
    target = held.astype(np.float32)
    before = solver(x, target)(rows, [1.0])[0]
    for i, k in ((0, 0), (7, 2), (39, 3)):
        changed = target.copy()
        changed[i, k] = 1 - changed[i, k]
        after = solver(x, changed)(rows, [1.0])[0]
        if part == "image":
            assert np.abs(after - before).max() < 1e-4
        else:
            assert abs(after[i, k] - before[i, k]) < 1e-4
            assert np.abs(np.delete(after[i], k) - np.delete(before[i], k)).max() > 1e-3, "it is company to the others"


def test_least_squares_equal_ridge_regression_of_scikit_learn() -> None:
    from sklearn.linear_model import Ridge

    embeddings, held = images_of(150)
    target = held.astype(np.float32)
    rows, rest = np.arange(30), np.arange(30, 150)
    for ridge, answer in zip(
        (0.5, 20.0), multilabel._least_squares(embeddings, target)(rows, (0.5, 20.0)), strict=True
    ):
        expected = Ridge(alpha=ridge).fit(embeddings[rest], target[rest]).predict(embeddings[rows])
        assert np.abs(answer - expected).max() < 1e-3


def test_the_sigmoid_equals_that_of_scikit_learn() -> None:
    from sklearn.calibration import _SigmoidCalibration  # Platt's method, with his targets

    rng = np.random.default_rng(0)
    scores = rng.normal(size=(400, 2)).astype(np.float32)
    target = (rng.random((400, 2)) < 1 / (1 + np.exp(-(2 * scores - [0, 2])))).astype(np.float32)
    odds = multilabel._log_odds(scores, target)
    for k in range(2):
        expected = _SigmoidCalibration().fit(scores[:, k].astype(float), target[:, k]).predict(scores[:, k])
        assert np.abs(1 / (1 + np.exp(-odds[:, k])) - expected).max() < 2e-3
    perfect = multilabel._log_odds(target, target)
    assert np.isfinite(perfect).all()


def test_two_views_are_added_where_each_knows_something_else() -> None:
    rng = np.random.default_rng(0)
    target = (rng.random((4000, 2)) < 0.5).astype(np.float32)
    first, second = (4 * (target - 0.5 + rng.normal(scale=0.5, size=target.shape)) for _ in range(2))  # log odds
    joint = multilabel._between_mean_and_sum(first, second, target)
    assert np.abs(joint / (first + second) - 1).max() < 0.1
    same = multilabel._between_mean_and_sum(first, first, target)
    assert np.abs(same / first - 1).max() < 0.1


@pytest.mark.parametrize("grouped", [True, False])
def test_copies_must_be_kept_together(grouped: bool) -> None:
    """Labels drawn at random, every image twice: only who sees the copy's labels knows them."""
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    x, held = rng.normal(size=(150, 30)).astype(np.float32), rng.random((150, 3)) < 0.4
    groups = np.tile(np.arange(150), 2) if grouped else None
    probabilities = multilabel_probabilities(np.tile(x, (2, 1)), np.tile(held, (2, 1)), groups=groups)
    area = roc_auc_score(np.tile(held, (2, 1)).ravel(), probabilities.ravel())
    assert area < 0.62 if grouped else area > 0.9


def test_many_images_take_principal_components(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings, held = images_of(400)
    by_kernel = multilabel_probabilities(embeddings, held)
    monkeypatch.setattr(multilabel, "landmark_count", lambda n: 0)
    monkeypatch.setattr(multilabel, "_TRIAL_ROWS", 100)
    flat = multilabel_probabilities(embeddings, held)
    assert ((flat > 0.5) == held).mean() > 0.93
    assert np.corrcoef(flat.ravel(), by_kernel.ravel())[0, 1] > 0.95


def test_classes_of_too_few_images_are_not_judged() -> None:
    embeddings, held = images_of(120)
    held[:, 1], held[:, 3] = True, False
    held[5, 3] = True
    probabilities = multilabel_probabilities(embeddings, held)
    assert np.isnan(probabilities[:, [1, 3]]).all()
    assert np.isfinite(probabilities[:, [0, 2]]).all()
    with pytest.raises(ValueError, match="same length"):
        multilabel_probabilities(embeddings, held[1:])
    with pytest.raises(ValueError, match="at least two"):
        multilabel_probabilities(embeddings, held, groups=np.zeros(120))
    assert np.isnan(multilabel_probabilities(embeddings[:3], held[:3, :0] > 0)).all()


# -- the result


def test_findings_name_the_missing_and_the_wrong_class(build: Callable[..., AuditContext]) -> None:
    embeddings, held = images_of(500, noise=0.5)
    embeddings[498] = np.nan  # cannot be read
    given = planted(held, 0.06)
    given[499] = False  # waits for its labels
    context = build([b"%d" % i for i in range(500)], rows_of(given), embeddings=embeddings)
    result = multilabel_result(context)
    wrong = {(f"s{i:05}", NAMES[k]) for i, k in np.argwhere(given != held).tolist() if i < 498}
    named = {(f.sample_id, f.given or f.suggested) for f in result.findings}
    assert len(named & wrong) >= 0.85 * len(wrong)
    for finding in result.findings:
        i, name = int(str(finding.sample_id)[1:]), str(finding.given or finding.suggested)
        assert bool(given[i, NAMES.index(name)]) == (finding.given is not None)
        if finding.given:
            assert finding.annotation_id == f"s{i:05}/{name}"
            assert finding.message.startswith(f"labeled {name}, does not look like it: ")
        else:
            assert finding.annotation_id is None
            assert finding.message.startswith(f"not labeled {name}, looks like it: ")
    assert result.summary["left_out"] == "1 images without a class; 1 images that cannot be read"
    assert len(result.scores) == 498
    assert result.scores["score"].between(0, 1).all()
    assert result.summary["flagged"] == len(result.findings)


def test_clean_labels_bring_nothing_high(build: Callable[..., AuditContext]) -> None:
    embeddings, held = images_of(500)
    result = multilabel_result(build([b"%d" % i for i in range(500)], rows_of(held), embeddings=embeddings))
    assert not [finding for finding in result.findings if finding.severity == "high"]


def test_supplied_probabilities_need_not_sum_to_one(build: Callable[..., AuditContext]) -> None:
    _, held = images_of(200)
    given = planted(held, 0.1)
    context = build([b"%d" % i for i in range(200)], rows_of(given))
    chances = np.where(held, 0.995, 0.002)
    context.probabilities = pd.DataFrame(chances, index=context.samples["sample_id"], columns=list(NAMES))
    context.probabilities.iloc[7] = np.nan
    result = multilabel_result(context)
    expected = {(f"s{i:05}", NAMES[k]) for i, k in np.argwhere(given != held).tolist() if i != 7}
    assert {(f.sample_id, f.given or f.suggested) for f in result.findings} == expected
    assert {finding.severity for finding in result.findings} == {"high"}
    assert result.summary["probabilities"] == "supplied"
    assert "1 images without probabilities" in result.summary["left_out"]
    context.probabilities.iloc[3, 1] = 1.4
    with pytest.raises(FormatError, match="1 rows have values outside \\[0, 1\\]; the first is of sample 's00003'"):
        multilabel_result(context)


def test_what_cannot_be_judged_is_said(build: Callable[..., AuditContext]) -> None:
    embeddings, held = images_of(12)
    files = [b"%d" % i for i in range(12)]
    assert multilabel_result(build(files, [], embeddings=embeddings)).summary["skipped"] == "no image has a class label"
    same = build(files, rows_of(held), embeddings=embeddings, group=["clip"] * 12)
    assert "two groups" in multilabel_result(same).summary["skipped"]
    one = np.zeros_like(held)
    one[:, 2] = True
    assert (
        "no class has two images"
        in multilabel_result(build(files, rows_of(one), embeddings=embeddings)).summary["skipped"]
    )
    unread = build(files, rows_of(held), embeddings=np.full_like(embeddings, np.nan))
    assert "can be read" in multilabel_result(unread).summary["skipped"]


def test_planted_errors_on_pairs_of_photographs(data: Path, tmp_path: Path) -> None:
    """1,000 images of two photographs side by side, labels the union of theirs, errors in one image of twenty."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    from datasetops.models import EmbeddingCache, embed_images, open_embedder
    from datasetops.progress import no_progress
    from datasetops.records import sha256_hex

    frame = pd.read_parquet(data / "cifar10n" / "data.parquet").head(2000)
    photos = [Image.open(io.BytesIO(one["bytes"] if isinstance(one, dict) else one)) for one in frame["image"]]
    pairs = []
    for left, right in zip(photos[::2], photos[1::2], strict=True):
        both = Image.new("RGB", (64, 32))
        both.paste(left, (0, 0))
        both.paste(right, (32, 0))
        sink = io.BytesIO()
        both.save(sink, "PNG")
        pairs.append(sink.getvalue())
    held = np.zeros((1000, 10), dtype=bool)
    held[np.arange(1000)[:, None], frame["clean_label"].to_numpy().reshape(-1, 2)] = True
    embedder = open_embedder("builtin:efficientnet-lite0", cache=tmp_path)
    keys, cache = [sha256_hex(one) for one in pairs], EmbeddingCache(tmp_path / "embeddings", embedder.digest)
    embeddings = embed_images(embedder, keys, pairs.__getitem__, cache=cache, jobs=2, progress=no_progress)
    given = planted(held, 0.05)
    wrong = given != held
    found = judge_multilabel(given, multilabel_probabilities(embeddings, given))
    assert roc_auc_score(wrong.ravel(), -found.score.ravel()) > 0.9
    assert average_precision_score(wrong.ravel(), -found.score.ravel()) > 0.25
    assert roc_auc_score(wrong.any(axis=1), -found.image) > 0.85
