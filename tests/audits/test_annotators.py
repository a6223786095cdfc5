"""Consensus and the check `annotators`: against published figures, other packages, and faults planted in real crowds."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from datasetops.audits.base import AuditContext, CheckResult
from datasetops.audits.people.annotators import Annotators
from datasetops.audits.people.crowd import (
    ClassAnswers,
    accepted_rows,
    alpha_by_class,
    answer_field,
    answered_rows,
    class_answers,
    confusions,
    shared_errors,
    standing,
)
from datasetops.audits.people.dawid_skene import crowdlab, dawid_skene
from datasetops.audits.sets.multiple_tests import holm
from datasetops.records import ANNOTATIONS, SAMPLES, canonical_json
from datasetops.schema import LabelSchema

pytestmark = pytest.mark.slow

# Dawid and Skene (1979), table 1: 45 patients, five anaesthetists, of whom the first judged each patient three times.
PATIENTS = """
    1111111 3334334 1122122 2223121 2223222 2223322 1222111 3333433 2222223 2322223 4444444 2223343 1111111 2223212
    1211111 1112111 1111111 1111111 2222221 2221322 2222222 2222221 2223222 2212222 1111111 1111111 2322222 1111111
    1111111 1121121 1111111 3333233 1111111 2222222 2223232 4334343 2212232 2323233 3333432 1111111 1111111 1212111
    2322222 1211111 2222222
"""


def anaesthetists() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels = np.array([[int(letter) - 1 for letter in patient] for patient in PATIENTS.split()])
    return np.repeat(np.arange(45), 7), np.tile([0, 0, 0, 1, 2, 3, 4], 45), labels.ravel()


def crowd(data: Path, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Items, annotators and labels of a real crowd, and the truth of each item."""
    folder = data / "multiannotator"
    answers = pd.read_csv(folder / f"{name}_labels.csv")
    truth = pd.read_csv(folder / f"{name}_truth.csv").set_index("item")["truth"]
    items, names = pd.factorize(answers["item"], sort=True)
    people = pd.factorize(answers["annotator"], sort=True)[0]
    return items, people, answers["label"].to_numpy(np.int64), truth.loc[names].to_numpy(np.int64)


def simulated(
    seed: int, *, items: int = 400, people: int = 12, classes: int = 3, each: int = 4, skill: float = 0.85
) -> Any:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, items)
    who = np.argsort(rng.random((items, people)), axis=1)[:, :each].ravel()
    item = np.repeat(np.arange(items), each)
    right = rng.random(len(item)) < skill
    labels = np.where(right, truth[item], (truth[item] + rng.integers(1, classes, len(item))) % classes)
    return item, who, labels, truth


def answers_of(items: np.ndarray, who: np.ndarray, labels: np.ndarray) -> ClassAnswers:
    k = int(labels.max()) + 1
    people = [f"w{i}" for i in range(int(who.max()) + 1)]
    return ClassAnswers(items, who, labels, np.arange(items.max() + 1), None, people, [f"c{i}" for i in range(k)])


def schema_of(names: list[str], *, multi: bool = False) -> LabelSchema:
    return LabelSchema.model_validate(
        {
            "name": "crowd",
            "version": 1,
            "tasks": [{"kind": "classification", "multi": multi}, {"kind": "box"}],
            "classes": [{"id": i, "name": name} for i, name in enumerate(names)],
        }
    )


def context_of(
    votes: list[dict[str, Any]],
    annotations: list[dict[str, Any]],
    names: list[str],
    *,
    multi: bool = False,
    **more: Any,
) -> AuditContext:
    ids = sorted({row["sample_id"] for row in votes + annotations})
    samples = [{"sample_id": one, "uri": f"{one}.png"} for one in ids]
    return AuditContext(
        samples=pa.Table.from_pylist(samples, SAMPLES).to_pandas(),
        annotations=pa.Table.from_pylist(annotations, ANNOTATIONS).to_pandas(),
        votes=pa.Table.from_pylist(votes, ANNOTATIONS).to_pandas(),
        schema=schema_of(names, multi=multi),
        images=None,  # type: ignore[arg-type]
        embeddings=None,  # type: ignore[arg-type]
        **more,
    )


def vote(item: Any, who: Any, label: str, **more: Any) -> dict[str, Any]:
    row = {"annotation_id": f"s{item}/{label}~{who}", "sample_id": f"s{item}", "kind": "classification", "label": label}
    return row | {"source": "human", "actor": f"w{who}", "role": "vote"} | more


def check(items: Any, who: Any, labels: Any, accepted: Any = None, **more: Any) -> CheckResult:
    names = [f"c{k}" for k in range(int(np.max(labels)) + 1)]
    votes = [vote(f"{i:04}", f"{a:02}", names[c]) for i, a, c in zip(items, who, labels, strict=True)]
    rows = [
        {"annotation_id": f"s{i:04}/label", "sample_id": f"s{i:04}", "kind": "classification", "label": names[c]}
        | {"source": "consensus"}
        for i, c in enumerate([] if accepted is None else accepted)
    ]
    return Annotators().run(context_of(votes, rows, names, **more))


def messages(result: CheckResult) -> list[str]:
    """Of findings that are about people and classes."""
    return [finding.message for finding in result.findings if finding.sample_id is None]


# -- consensus


def test_the_anaesthetists_of_dawid_and_skene() -> None:
    items, who, labels = anaesthetists()
    counts = np.zeros((45, 5, 4))
    np.add.at(counts, (items, who, labels), 1)
    posterior = counts.sum(axis=1) / counts.sum(axis=(1, 2))[:, None]
    for _ in range(100):  # equations 2.3 to 2.5, by tables of items times annotators
        shares = posterior.mean(axis=0)
        rates = np.einsum("ij,ikl->kjl", posterior, counts)
        rates /= rates.sum(axis=2, keepdims=True)
        posterior = shares * (rates[None] ** counts[:, :, None, :]).prod(axis=(1, 3))
        posterior /= posterior.sum(axis=1, keepdims=True)
    assert shares == pytest.approx([0.40, 0.42, 0.11, 0.07], abs=0.005)  # table 2
    published = [[0.89, 0.11, 0, 0], [0.07, 0.88, 0.05, 0], [0, 0.34, 0.66, 0], [0, 0, 0.56, 0.44]]
    assert np.abs(rates[0] - published).max() < 0.0051
    found = dawid_skene(items, who, labels, strength=0.01)
    assert found.converged
    assert found.consensus.tolist() == posterior.argmax(axis=1).tolist()
    assert np.abs(found.confusion()[0, :3] - rates[0, :3]).max() < 0.03  # of the fourth class there are three patients


@pytest.mark.parametrize("name", ["bluebirds", "dogs", "faces"])
def test_consensus_of_real_crowds_is_at_least_the_reference(data: Path, name: str) -> None:
    items, who, labels, truth = crowd(data, name)
    reference = json.loads((data / "multiannotator" / "reference.json").read_text())[name]
    found = dawid_skene(items, who, labels)
    assert found.converged
    assert round(float((found.consensus == truth).mean()), 4) >= reference["dawid_skene_acc"]
    each = np.arange(len(truth))
    loss, sober = (-np.log(np.maximum(q[each, truth], 1e-12)).mean() for q in (found.posterior, found.sober))
    assert sober < loss / 2  # it is less sure, and rightly so
    assert np.abs(found.sober.sum(axis=1) - 1).max() < 1e-9


def test_few_answers_of_many_classes_lean_on_the_crowd() -> None:
    items, who, labels, truth = simulated(0, items=2000, people=100, classes=30, each=4, skill=0.7)
    chosen, alone = dawid_skene(items, who, labels), dawid_skene(items, who, labels, strength=0.01)
    assert chosen.strength > 10
    assert (chosen.consensus == truth).mean() > (alone.consensus == truth).mean()
    sure, sober = chosen.posterior.max(axis=1).mean(), chosen.sober.max(axis=1).mean()
    right = (chosen.consensus == truth).mean()
    assert abs(sober - right) < abs(sure - right)


def test_order_of_the_answers_is_of_no_matter() -> None:
    items, who, labels, _ = simulated(1)
    order = np.random.default_rng(0).permutation(len(items))
    one, other = dawid_skene(items, who, labels), dawid_skene(items[order], who[order], labels[order])
    assert np.abs(one.posterior - other.posterior).max() < 1e-9
    assert one.log_likelihood == pytest.approx(other.log_likelihood)
    for found, rows in ((one, items), (other, items[order])):
        seen = np.concatenate([at for at, _ in found.without_own()])
        assert sorted(seen.tolist()) == list(range(len(rows)))


def test_blocks_give_what_one_pass_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    items, who, labels, _ = simulated(2, items=90)
    whole = dawid_skene(items, who, labels, n_items=95)
    expected = dict(pair for rows, q in whole.without_own() for pair in zip(rows.tolist(), q, strict=True))
    monkeypatch.setattr("datasetops.audits.people.dawid_skene._CELLS", 40)
    blocks = dawid_skene(items, who, labels, n_items=95)
    assert np.abs(blocks.sober - whole.sober).max() < 1e-12
    found = dict(pair for rows, q in blocks.without_own() for pair in zip(rows.tolist(), q, strict=True))
    assert found.keys() == expected.keys()
    assert max(np.abs(found[row] - expected[row]).max() for row in found) < 1e-12


def test_crowds_that_tell_nothing_give_no_nan() -> None:
    n = np.arange(30)
    cases = {
        "all agree": (np.repeat(n, 2), np.tile([0, 1], 30), np.repeat(n % 3, 2)),
        "one class": (np.repeat(n, 2), np.tile([0, 1], 30), np.zeros(60, dtype=int)),
        "one annotator": (n, np.zeros(30, dtype=int), n % 3),
        "one answer an item": (n, n % 4, n % 3),
    }
    for name, (items, who, labels) in cases.items():
        found = dawid_skene(items, who, labels, n_items=31, n_classes=4)
        for array in (found.posterior, found.sober, found.confusion()):
            assert np.isfinite(array).all(), name
            assert np.abs(array.sum(axis=-1) - 1).max() < 1e-9, name
        assert np.isfinite(found.log_likelihood), name
        assert found.consensus[items].tolist() == labels.tolist(), name
        assert np.abs(found.sober[30] - found.class_prior).max() < 1e-12, name  # nobody answered it
    with pytest.raises(ValueError, match="classes"):
        dawid_skene(n[:0], n[:0], n[:0])
    with pytest.raises(ValueError, match="labels: expected integers in"):
        dawid_skene(n, n, n, n_classes=5)
    with pytest.raises(ValueError, match="same length"):
        dawid_skene(n, n[1:], n)
    with pytest.raises(ValueError, match="strength"):
        dawid_skene(n, n, n, strength=0)


@pytest.mark.parametrize("seed", range(2))
def test_crowdlab_equals_cleanlab(seed: int) -> None:
    from cleanlab.multiannotator import get_label_quality_multiannotator

    items, who, labels, truth = simulated(seed, items=200, people=9, each=3, skill=0.6)
    kept = (items % 5 > 0) | (np.arange(len(items)) % 3 == 0)  # every fifth item has one answer
    items, who, labels = items[kept], who[kept], labels[kept]
    wide = np.full((200, 9), np.nan)
    wide[items, who] = labels
    rng = np.random.default_rng(seed)
    beliefs = rng.random((200, 3)) + np.eye(3)[truth] * 0.4
    beliefs /= beliefs.sum(axis=1, keepdims=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = get_label_quality_multiannotator(wide, beliefs, verbose=False)
    found = crowdlab(items, who, labels, beliefs)
    assert found.consensus.tolist() == expected["label_quality"]["consensus_label"].tolist()
    assert np.abs(found.quality - expected["label_quality"]["consensus_quality_score"]).max() < 1e-12
    people = expected["annotator_stats"].sort_index()["annotator_quality"].to_numpy()
    assert np.abs(found.annotator_quality - people).max() < 1e-12
    with pytest.raises(ValueError, match="nothing to weigh"):
        crowdlab(np.arange(3), np.arange(3), np.arange(3), np.eye(3))


# -- what the answers tell of people


def test_an_annotator_is_measured_without_their_own_answers(data: Path) -> None:
    items, who, labels, truth = crowd(data, "bluebirds")
    answers = answers_of(items, who, labels)
    found = standing(dawid_skene(items, who, labels), answers)
    right = np.bincount(who, labels == truth[items]) / np.bincount(who)
    assert np.corrcoef(found.right, right)[0, 1] > 0.95
    assert ((found.right_low <= right) & (right <= found.right_high)).mean() > 0.8
    surely_worse = found.gap_high < -0.1
    assert surely_worse.sum() >= 4
    assert (right[surely_worse] < right.mean() - 0.1).all()


def test_copies_are_found_and_honest_crowds_have_none(data: Path) -> None:
    for name, least in (("bluebirds", 30), ("faces", 8)):
        items, who, labels, _ = crowd(data, name)
        people = int(who.max()) + 1
        model = dawid_skene(items, who, labels)
        assert (shared_errors(model, answers_of(items, who, labels))["p"] >= 0.05).all()
        found = 0
        sources = np.flatnonzero(np.bincount(who) >= 60)[::4]
        for source in sources:  # one more annotator, who hands in what this one said
            own = who == source
            rows = np.r_[items, items[own]], np.r_[who, np.full(own.sum(), people)], np.r_[labels, labels[own]]
            pairs = shared_errors(dawid_skene(*rows), answers_of(*rows))
            pairs = pairs[pairs["p"] < 0.05]
            assert set(zip(pairs["first"], pairs["second"], strict=True)) <= {(source, people)}
            found += len(pairs)
        assert found >= least * len(sources) / (39 if name == "bluebirds" else 13)


def test_confusions_count_and_compare() -> None:
    items, who, labels, truth = simulated(3, items=600, people=6, each=3, skill=0.95)
    swapped = (who == 2) & (truth[items] == 1) & (np.arange(len(who)) % 2 == 0)
    labels = np.where(swapped, 2, labels)
    model = dawid_skene(items, who, labels)
    table = confusions(model, answers_of(items, who, labels))
    odd = table[table["p"] < 0.05]
    assert odd[["who", "true", "given"]].to_numpy().tolist() == [[2, 1, 2]]
    row = odd.iloc[0]
    assert row["of"] == ((who == 2) & (model.consensus[items] == 1)).sum()
    assert row["n"] == ((who == 2) & (model.consensus[items] == 1) & (labels == 2)).sum()
    assert row["others_of"] == ((who != 2) & (model.consensus[items] == 1)).sum()


def test_holm_equals_statsmodels() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p = np.random.default_rng(0).random(40) ** 3
    assert holm(p) == pytest.approx(multitest.multipletests(p, method="holm")[1])
    assert holm(p[:5], 40)[np.argmin(p[:5])] == pytest.approx(min(1, 40 * p[:5].min()))


# -- the check


def test_nobody_and_a_single_annotator_are_an_explicit_line() -> None:
    names = ["cat", "dog"]
    plain = {"annotation_id": "a", "sample_id": "s0", "kind": "classification", "label": "cat", "source": "import"}
    assert "which person" in Annotators().run(context_of([], [plain], names)).summary["skipped"]
    one = Annotators().run(context_of([vote(i, 1, "cat") for i in range(5)], [], names))
    assert one.summary["skipped"] == "every answer is w1's: there is nobody to compare with"
    apart = Annotators().run(context_of([vote(0, 1, "cat"), vote(1, 2, "cat")], [], names))
    assert apart.summary["skipped"] == "there are 2 annotators, but no image was answered by two of them"
    for result in (one, apart):
        assert not result.findings
        assert list(result.scores.columns) == ["sample_id", "annotation_id", "score"]


def test_all_agree() -> None:
    items, who, _, truth = simulated(0, items=60)
    result = check(items, who, truth[items], truth)
    assert not result.findings
    assert result.summary["note"].startswith("all annotators gave every image the same answer")
    assert result.summary["Krippendorff's alpha"] == "1.000 (1.000 to 1.000)"
    assert (result.scores["score"] > 0.9).all()
    assert len(result.scores) == 60
    one_class = check(items, who, np.zeros_like(who))
    assert one_class.summary["Krippendorff's alpha"].startswith("undefined")
    json.dumps(result.summary)
    canonical_json(one_class.summary)  # no NaN either


def test_a_clean_crowd_is_nearly_silent() -> None:
    items, who, labels, truth = simulated(5, items=1500, people=20, each=5, skill=0.93)
    result = check(items, who, labels, truth)
    assert not messages(result)
    assert not [finding for finding in result.findings if finding.severity == "high"]
    assert len(result.findings) < 30


def test_wrong_accepted_labels_are_named_with_the_consensus() -> None:
    items, who, labels, truth = simulated(6, items=600, people=15, each=5, skill=0.95)
    accepted = truth.copy()
    planted = np.arange(0, 600, 12)
    accepted[planted] = (accepted[planted] + 1) % 3
    result = check(items, who, labels, accepted)
    found = {int(f.sample_id[1:]): f for f in result.findings if f.suggested and f.sample_id}
    assert set(planted) <= set(found)
    assert len(found) <= len(planted) + 3
    for i in planted:
        assert found[i].suggested == f"c{truth[i]}"
        assert found[i].given == f"c{accepted[i]}"
        assert found[i].annotation_id == f"s{i:04}/label"
    high = [i for i, finding in found.items() if finding.severity == "high"]
    assert len(high) > 30
    assert set(high) <= set(planted)
    score = result.scores.set_index("sample_id")["score"]
    assert score[[f"s{i:04}" for i in planted]].max() < score.drop([f"s{i:04}" for i in planted]).median()


def test_an_unsure_crowd_never_says_high(data: Path) -> None:
    items, who, labels, truth = crowd(data, "faces")
    result = check(items, who, labels, truth)  # people misread these faces, so the consensus contradicts the truth
    assert not [finding for finding in result.findings if finding.severity == "high"]


def test_people_who_stand_apart_are_named() -> None:
    rng = np.random.default_rng(0)
    items, who, labels, truth = simulated(7, items=700, people=14, each=5, skill=0.9)
    labels = np.where(who == 3, 1, labels)
    labels = np.where(who == 5, rng.integers(0, 3, len(who)), labels)
    labels = np.where((who == 8) & (rng.random(len(who)) < 0.35), (labels + 1) % 3, labels)
    labels = np.where((who == 11) & (truth[items] == 2) & (rng.random(len(who)) < 0.5), 0, labels)
    told = messages(check(items, who, labels))
    assert [text for text in told if text.startswith("w03 answers 'c1' 100% of")]
    assert [text for text in told if text.startswith("w05 answers little better than by chance, kappa")]
    assert [text for text in told if text.startswith("w08 falls behind: ")]
    assert [text for text in told if text.startswith("w11 answers 'c0' for ") and " images of 'c2' (others " in text]
    named = {text.split()[0] for text in told}
    assert named <= {"w03", "w05", "w08", "w11"}


def test_a_class_pair_that_most_people_confuse_is_named() -> None:
    rng = np.random.default_rng(1)
    items, who, labels, truth = simulated(8, items=800, people=12, each=5, skill=0.96)
    labels = np.where((truth[items] == 0) & (rng.random(len(who)) < 0.25), 1, labels)
    result = check(items, who, labels)
    pairs = [f for f in result.findings if "does the guide tell them apart" in f.message]
    assert [f.given for f in pairs] == ["c0"]
    assert pairs[0].message.startswith("'c0' is called 'c1' in 2")
    assert "by 12 of 12 annotators" in pairs[0].message
    assert result.summary["charts"][1]["values"]["c0 → c1"]


def test_few_answers_are_said_and_accuse_nobody() -> None:
    items, who, labels, _ = simulated(9, items=200, people=8, each=4)
    wrong = np.arange(10)
    labels = np.r_[labels, (labels[::4][wrong] + 1) % 3]
    result = check(np.r_[items, wrong], np.r_[who, np.full(10, 8)], labels)
    assert not [text for text in messages(result) if text.startswith("w08")]
    row = next(row for row in result.summary["by_annotator"] if row["annotator"] == "w08")
    assert row["few_answers"]
    assert row["answers"] == 10


def test_quick_annotators_are_named() -> None:
    votes = []
    for i in range(40):
        for who, seconds in ((1, 10.0), (2, 14.0), (3, 2.5)):
            told = canonical_json({"answer_id": f"{i}.{who}", "lead_time": seconds + i % 5 / 10}).decode()
            votes.append(vote(i, who, ["cat", "dog"][i % 2], answer=told))
    told = messages(Annotators().run(context_of(votes, [], ["cat", "dog"])))
    assert told == ["w3 takes 2.7 s an answer, the others 12.2 s (medians; 40 answers)"]


def test_probabilities_bring_crowdlab() -> None:
    items, who, labels, truth = simulated(10, items=300, people=10, each=2, skill=0.7)
    beliefs = 0.1 + np.eye(3)[truth] + np.random.default_rng(0).random((300, 3)) * 0.3
    beliefs /= beliefs.sum(axis=1, keepdims=True)
    ids = [f"s{i:04}" for i in range(300)]
    table = pd.DataFrame(beliefs, columns=["c0", "c1", "c2"], index=ids)
    table.iloc[290:] = np.nan
    accepted = truth.copy()
    accepted[:20] = (accepted[:20] + 1) % 3
    result = check(items, who, labels, accepted, probabilities=table)
    assert result.summary["consensus"] == "CROWDLAB where there are probabilities"
    assert all(row["cleanlab_quality"] is not None for row in result.summary["by_annotator"])
    kept = items < 290
    expected = crowdlab(items[kept], who[kept], labels[kept], beliefs[:290])
    assert (expected.consensus == truth[:290]).mean() > 0.95
    score = result.scores.set_index("sample_id")["score"]
    assert score[ids[5]] == pytest.approx(expected.posterior[5, accepted[5]])
    found = {f.sample_id for f in result.findings if f.suggested}
    assert len(found & set(ids[:20])) >= 18


def test_rows_of_a_source_with_annotators_are_answers() -> None:
    rows = [
        {"annotation_id": f"s{i}/label/w{who}", "sample_id": f"s{i}", "kind": "classification", "source": "import"}
        | {"label": "dog" if who == 2 and i < 3 else "cat" if i % 2 else "bird", "actor": f"w{who}"}
        for i in range(30)
        for who in range(3)
    ]
    result = Annotators().run(context_of([], rows, ["cat", "dog", "bird"]))
    assert result.summary["answers"] == 90
    assert result.scores["annotation_id"].isna().all()  # none of them is the accepted label
    assert len(result.scores) == 30


def test_the_newest_answer_counts() -> None:
    def at(hour: int, answer: str) -> dict[str, Any]:
        told = canonical_json({"answer_id": answer, "batch": "b"}).decode()
        return {"created_at": pd.Timestamp(2026, 1, 1, hour, tz="UTC"), "answer": told}

    votes = [
        vote(0, 1, "cat", **at(3, "old")),
        vote(0, 1, "dog", **at(5, "new")),
        vote(0, 2, "dog", **at(1, "x")),
        vote(1, 2, "cat", **at(1, "y")) | {"annotation_id": "other"},
    ]
    context = context_of(votes, [], ["cat", "dog"], multi=True)
    rows = answered_rows(context, "classification")
    assert sorted(zip(rows["sample_id"], rows["actor"], rows["label"], rows["batch"], strict=True)) == [
        ("s0", "w1", "dog", "b"),
        ("s0", "w2", "dog", "b"),
        ("s1", "w2", "cat", "b"),
    ]
    assert answered_rows(context_of([], [], ["cat"]), "classification").empty


def test_answer_fields_are_read_from_json() -> None:
    texts = [
        '{"answer_id":"a\\"lead_time\\":3","batch":"one","lead_time":12.5}',
        '{"lead_time":1e2}',
        None,
        '{"batch":"\\"lead_time\\":9"}',
    ]
    column = pd.Series(texts, index=[9, 3, 5, 7], dtype=object)
    assert answer_field(column, "lead_time").to_dict() == {9: "12.5", 3: "1e2", 5: "", 7: ""}
    assert answer_field(column, "batch")[9] == "one"


def test_several_classes_an_image() -> None:
    rng = np.random.default_rng(0)
    names = ["cat", "dog", "bird"]
    truth = rng.random((120, 3)) < [0.6, 0.5, 0.3]
    truth[~truth.any(axis=1), 0] = True
    votes, said = [], np.zeros((120, 4, 3), dtype=bool)
    for i in range(120):
        for who in range(4):
            seen = truth[i] ^ (rng.random(3) < 0.06)
            seen = seen if seen.any() else truth[i]
            said[i, who] = seen
            votes += [vote(f"{i:03}", who, names[k]) for k in np.flatnonzero(seen)]
    accepted = truth.copy()
    lacking, wrong = int(np.flatnonzero(truth.all(axis=1))[0]), int(np.flatnonzero(~said[:, :, 2].any(axis=1))[0])
    accepted[lacking, 0], accepted[wrong, 2] = False, True  # a class left out, and one that nobody gave
    rows = [
        {"annotation_id": f"s{i:03}/{names[k]}", "sample_id": f"s{i:03}", "kind": "classification", "label": names[k]}
        | {"source": "consensus"}
        for i in range(120)
        for k in np.flatnonzero(accepted[i])
    ]
    context = context_of(votes, rows, names, multi=True)
    answers = class_answers(answered_rows(context, "classification"), accepted_rows(context), names, multi=True)
    krippendorff = pytest.importorskip("krippendorff")
    for name, alpha, images in alpha_by_class(answers):
        k = names.index(name)
        expected = krippendorff.alpha(said[:, :, k].T.astype(float), level_of_measurement="nominal")
        assert alpha == pytest.approx(expected)
        assert images == (said[:, :, k].any(axis=1) | accepted[:, k]).sum()
    result = Annotators().run(context)
    found = {(f.sample_id, f.given, f.suggested, f.annotation_id) for f in result.findings if f.suggested}
    assert (f"s{lacking:03}", "not cat", "cat", None) in found
    assert (f"s{wrong:03}", "bird", "not bird", f"s{wrong:03}/bird") in found
    high = {f.sample_id for f in result.findings if f.severity == "high"}
    assert high <= {f"s{lacking:03}", f"s{wrong:03}"}
    canonical_json(result.summary)
    assert not result.scores.duplicated(["sample_id", "annotation_id"]).any()
    assert set(result.scores["annotation_id"].dropna()) == {row["annotation_id"] for row in rows}


def test_boxes_of_several_annotators() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for image in range(30):
        corners = rng.random((4, 2)) * 400
        for who in range(4):
            for number, (x, y) in enumerate(corners):
                dx, dy = rng.normal(0, 1, 2) + (45 if who == 3 and number < 2 else 0)
                box = {"x1": x + dx, "y1": y + dy, "x2": x + dx + 80, "y2": y + dy + 80}
                row = vote(f"{image:02}", who, "cat") | {"kind": "box", "annotation_id": f"{image}#{number}~{who}"}
                rows.append(row | box)
    result = Annotators().run(context_of(rows, [], ["cat", "dog"]))
    assert len(result.scores) == 30
    assert result.scores["score"].between(0.5, 0.9).all()
    canonical_json(result.summary)
    assert [text.split(":")[0] for text in messages(result)] == ["w3 draws boxes unlike the others'"]
    two = Annotators().run(context_of([row for row in rows if row["actor"] in ("w0", "w3")], [], ["cat", "dog"]))
    assert not messages(two)
    assert "no telling" in two.summary["boxes' annotators"]
