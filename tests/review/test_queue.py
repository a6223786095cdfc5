"""The review queue: order, filters, facets, what comes next."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import pyarrow as pa
import pytest

from datasetops.audits.decisions import Decision, DecisionLog
from datasetops.audits.worklist import worklist
from datasetops.errors import DamagedError, NotFoundError
from datasetops.manifest import Change, Repository, Version
from datasetops.records import Finding, findings_table
from datasetops.review.columns import slice_columns
from datasetops.review.filters import Filters
from datasetops.review.queue import Queue
from datasetops.schema import LabelSchema

CHECKS = ("label_noise", "outlier", "misplaced_box")
SEVERITIES = ("high", "medium", "low")
CLASSES = ("cat", "dog", "bird")
N = 300


def found(number: int) -> Finding:
    return Finding(
        CHECKS[number % 3],
        SEVERITIES[number // 3 % 3],
        (number * 37 % 101) / 101,
        f"The model is sure of no {CLASSES[number % 3]} (100 % Sure, number {number})",
        sample_id=f"s{number % 200:03}",
        uri=f"images/{number % 200:03}.png",
        annotation_id=f"s{number % 200:03}/1",
        split="train" if number % 2 else "test",
        given=CLASSES[number % 3],
        suggested=CLASSES[(number + 1) % 3] if number % 4 else None,
        related=(f"s{number:03}",) if number % 5 == 0 else (),
        box=(1.0, 2.0, 3.0, 4.0) if number % 7 == 0 else None,
    )


FINDINGS = findings_table(
    [*(found(number) for number in range(N)), Finding("coverage", "high", 0.1, "too few at night")]
)
ROWS = {row["finding_id"]: row for row in FINDINGS.to_pylist()}


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory, schema: LabelSchema) -> Path:
    """A repository, to be copied."""
    repository = Repository.init(tmp_path_factory.mktemp("pets") / "repository", schema)
    samples = [
        {
            "sample_id": f"s{number:03}",
            "uri": f"images/{number:03}.png",
            "metadata": {
                "light": "night" if number % 3 == 0 else "day",
                "device": ["a", "b", "c=d"][number % 3],
                "note": f"nothing special about {number}",
                "size": {"no": "slice"},
            },
        }
        for number in range(200)
    ]
    annotations = [
        {
            "annotation_id": f"s{number:03}/1",
            "sample_id": f"s{number:03}",
            "kind": "classification",
            "label": "cat",
            "actor": "ann" if number < 100 else "bob",
        }
        for number in range(200)
    ]
    repository.commit(Change(samples=samples, annotations=annotations), message="pets")
    return repository.root or Path()


@pytest.fixture
def repository(pets: Path, tmp_path: Path) -> Repository:
    shutil.copytree(pets, tmp_path / "repository")
    return Repository.open(tmp_path / "repository")


@pytest.fixture
def version(repository: Repository) -> Version:
    return repository.version()


@pytest.fixture
def log(repository: Repository) -> DecisionLog:
    return DecisionLog(repository)


@pytest.fixture
def queue(version: Version, log: DecisionLog) -> Queue:
    return Queue(version, FINDINGS, log)


def say(log: DecisionLog, version: Version, name: str, verdict: str, actor: str = "ann", **more: Any) -> None:
    row = ROWS[name]
    about = {field: row[field] for field in ("check", "severity", "score", "sample_id")}
    log.add(version, [Decision(name, verdict, actor, **about, **more)], second=True)


def ids(queue: Queue, filters: Filters | None = None) -> list[str]:
    return [row["finding_id"] for row in queue.page(filters or Filters(), 0, N).rows]


def test_the_worst_come_first_and_one_in_ten_by_lot(queue: Queue) -> None:
    rows = queue.page(Filters(), 0, N).rows
    assert [row["rank"] for row in rows] == list(range(N))
    assert [row["at_random"] for row in rows] == [place % 10 == 9 for place in range(N)]
    assert {row["finding_id"] for row in rows} == set(ROWS) - {
        name for name, row in ROWS.items() if not row["sample_id"]
    }
    by_lot = {row["finding_id"] for row in rows if row["at_random"]}
    best = [name for name in worklist(FINDINGS, []).findings["finding_id"].to_pylist() if name in ROWS]
    expected = [name for name in best if ROWS[name]["sample_id"] and name not in by_lot]
    assert [row["finding_id"] for row in rows if not row["at_random"]] == expected


def test_those_drawn_are_the_first_of_the_lot_that_have_no_place_yet(queue: Queue) -> None:
    placed: set[int] = set()
    drawn = np.argsort(queue.items.lot).tolist()
    for rank in range(N):
        if queue.items.at_random[rank]:
            assert rank == next(one for one in drawn if one not in placed)
        placed.add(rank)


def test_findings_about_no_sample_are_counted_and_left_out(queue: Queue) -> None:
    assert queue.total == N
    assert queue.total == N
    assert [row["check"] for row in queue.apart] == ["coverage"]


def test_a_finding_that_is_told_twice_is_one_item(version: Version, log: DecisionLog) -> None:
    twice = findings_table([found(3), found(4), found(3)])
    assert Queue(version, twice, log).total == 2


def test_an_audit_without_findings_about_samples_is_an_empty_queue(version: Version, log: DecisionLog) -> None:
    queue = Queue(version, FINDINGS.slice(N, 1), log)
    assert queue.page(Filters()).rows == []
    assert queue.page(Filters(search="x", slice=("light=day",))).total == 0
    assert queue.next(Filters(), None) is None
    assert queue.facets(Filters())["check"] == []


def test_ids_that_are_none_are_a_damaged_audit(version: Version, log: DecisionLog) -> None:
    at = FINDINGS.schema.get_field_index("finding_id")
    odd = FINDINGS.set_column(at, "finding_id", [[f"finding {number}" for number in range(N + 1)]])
    with pytest.raises(DamagedError, match="16 hex digits"):
        Queue(version, odd, log)


BY_HAND: dict[str, Callable[[dict[str, Any]], bool]] = {
    "check=outlier": lambda row: row["check"] == "outlier",
    "check=outlier&check=label_noise": lambda row: row["check"] in ("outlier", "label_noise"),
    "severity=high&split=test": lambda row: row["severity"] == "high" and row["split"] == "test",
    "given=cat&suggested=dog": lambda row: row["given"] == "cat" and row["suggested"] == "dog",
    "annotator=bob": lambda row: int(row["sample_id"][1:]) >= 100,
    "slice=light=night": lambda row: int(row["sample_id"][1:]) % 3 == 0,
    "slice=device=a&slice=device=c=d": lambda row: int(row["sample_id"][1:]) % 3 in (0, 2),
    "slice=device=a&slice=light=day": lambda row: False,
    "slice=device=b&slice=light=day": lambda row: int(row["sample_id"][1:]) % 3 == 1,
    "slice=nothing=here": lambda row: False,
    "given=zebra": lambda row: False,
    "min_score=0.25&max_score=0.5": lambda row: 0.25 <= row["score"] <= 0.5,
    "search=S01": lambda row: "s01" in row["sample_id"],
    "search=100+%25+sure,": lambda row: True,
    "search=.*": lambda row: False,
    "search=images/00": lambda row: row["uri"].startswith("images/00"),
}


@pytest.mark.parametrize("query", list(BY_HAND))
def test_filters_choose_what_they_say(queue: Queue, query: str) -> None:
    filters = Filters.from_query(parse_qsl(query))
    kept = [name for name in ids(queue) if BY_HAND[query](ROWS[name])]
    assert ids(queue, filters) == kept
    assert queue.page(filters, 5, 7).total == len(kept)
    assert [row["finding_id"] for row in queue.page(filters, 5, 7).rows] == kept[5:12]


def test_a_finding_is_found_by_a_part_of_its_id(queue: Queue) -> None:
    name = ids(queue)[17]
    assert name in ids(queue, Filters(search=name[3:12].upper()))


@pytest.mark.parametrize(
    "filters", [Filters(), Filters(check=("outlier",), slice=("light=day",)), Filters(search="dog", max_score=0.7)]
)
def test_a_facet_counts_with_the_other_filters(queue: Queue, filters: Filters) -> None:
    facets = queue.facets(filters)
    assert set(facets) == {*("check", "severity", "given", "suggested", "split", "annotator"), "slice", "decided"}
    for name in ("check", "severity", "given", "annotator"):
        for value, count in facets[name]:
            asked: dict[str, Any] = {name: (value,)}
            assert queue.page(replace(filters, **asked), 0, 0).total == count > 0
    for value, count in facets["slice"]:
        key = value.partition("=")[0]
        others = tuple(item for item in filters.slice if not item.startswith(f"{key}="))
        assert queue.page(replace(filters, slice=(*others, value)), 0, 0).total == count > 0
    counts = [count for _, count in facets["check"]]
    assert counts == sorted(counts, reverse=True)


def test_slices_are_those_with_few_values(queue: Queue) -> None:
    assert {value.partition("=")[0] for value, _ in queue.facets(Filters())["slice"]} == {"light", "device"}


def test_what_each_sample_has_of_its_own_is_no_slice() -> None:
    texts = [json.dumps({"number": at, "light": "day" if at else "night"}) for at in range(3)]
    samples = pa.table({"metadata": texts})
    assert set(slice_columns(samples, [])) == {"light"}
    assert set(slice_columns(samples, ["number"])) == {"light", "number"}  # the schema says otherwise


def test_decided_ones_leave_and_can_be_asked_for(queue: Queue, version: Version, log: DecisionLog) -> None:
    first, second, third = ids(queue)[:3]
    say(log, version, first, "error")
    say(log, version, second, "unsure")
    say(log, version, third, "error")
    say(log, version, third, "fine", "bob")
    queue.refresh()
    assert first not in ids(queue)
    assert second in ids(queue)
    assert set(ids(queue, Filters(decided="yes"))) == {first, third}
    assert len(ids(queue, Filters(decided="all"))) == N
    assert dict(queue.facets(Filters())["decided"]) == {"no": N - 2, "yes": 2}
    told = queue.row(third)["decisions"]
    assert [(item["actor"], item["verdict"]) for item in told] == [("ann", "error"), ("bob", "fine")]
    assert [queue.is_decided(name) for name in (first, second, third)] == [True, False, True]
    assert queue.settled(ROWS[third]["check"], ROWS[third]["severity"])[1] >= 1
    log.withdraw(version, [first], "ann")
    queue.refresh()
    assert first in ids(queue)


def test_the_newest_verdict_of_two_reviewers_counts(queue: Queue, version: Version, log: DecisionLog) -> None:
    name = ids(queue)[0]
    say(log, version, name, "error")
    say(log, version, name, "fine", "bob")
    queue.refresh()
    assert queue.settled(ROWS[name]["check"], ROWS[name]["severity"]) == (0, 1)


def test_the_order_stays_while_people_decide_and_is_new_when_opened_again(
    queue: Queue, version: Version, log: DecisionLog
) -> None:
    before = ids(queue)
    for name in before[:15]:
        say(log, version, name, "fine")
    say(log, version, before[16], "unsure")
    queue.refresh()
    assert ids(queue) == before[15:]
    again = Queue(version, FINDINGS, log)
    assert set(ids(again)) == set(before[15:])
    assert ids(again) != before[15:]
    assert ids(again)[-1] == before[16]  # people were unsure: after all that nobody has seen
    assert [row["at_random"] for row in again.page(Filters(), 0, 20).rows] == [place % 10 == 9 for place in range(20)]


def test_next_goes_on_past_decided_and_taken_ones(queue: Queue, version: Version, log: DecisionLog) -> None:
    order = ids(queue)
    assert queue.next(Filters(), None) == order[0]
    assert queue.next(Filters(), order[0]) == order[1]
    say(log, version, order[1], "fine")
    queue.refresh()
    assert queue.next(Filters(), order[0]) == order[2]
    assert queue.next(Filters(), order[1]) == order[2]
    taken = {ROWS[order[2]]["sample_id"]}
    following = next(name for name in order[3:] if ROWS[name]["sample_id"] not in taken)
    assert queue.next(Filters(), order[1], taken) == following
    assert queue.next(Filters(decided="yes"), None) == order[0]


def test_after_the_last_come_those_that_were_passed_over(queue: Queue, version: Version, log: DecisionLog) -> None:
    filters = Filters(check=("outlier",), severity=("high",))
    order = ids(queue, filters)
    for name in order[2:]:
        say(log, version, name, "fine")
    say(log, version, order[0], "unsure")
    queue.refresh()
    assert queue.next(filters, order[-1]) == order[1]
    assert queue.next(filters, order[1]) is None  # one that people were unsure about does not come again and again
    assert queue.next(filters, None) == order[0]


def test_neighbours_of_a_finding_in_the_filtered_order(queue: Queue, version: Version, log: DecisionLog) -> None:
    filters = Filters(given=("dog",))
    order = ids(queue, filters)
    assert queue.neighbours_of(filters, order[0]) == (None, order[1], 0)
    assert queue.neighbours_of(filters, order[4]) == (order[3], order[5], 4)
    assert queue.neighbours_of(filters, order[-1]) == (order[-2], None, len(order) - 1)
    say(log, version, order[4], "fine")
    queue.refresh()
    assert queue.neighbours_of(filters, order[4]) == (order[3], order[5], 4)


def test_all_findings_of_a_sample(queue: Queue) -> None:
    told = {row["finding_id"] for row in queue.of_sample("s007")}
    assert told == {name for name, row in ROWS.items() if row["sample_id"] == "s007"}
    assert queue.of_sample("nobody") == []


def test_texts_are_no_facet_and_are_cut(version: Version, log: DecisionLog) -> None:
    copies = tuple(f"s{number:05}" for number in range(3_000))
    texts = [Finding("text", "low", 0.5, "", sample_id=f"s{at:03}", given=f"{at}" * 3_000) for at in range(60)]
    queue = Queue(
        version,
        findings_table([*texts, Finding("exact_duplicate", "high", 0.0, "", sample_id="s1", related=copies)]),
        log,
    )
    assert queue.facets(Filters())["given"] == []
    row = queue.page(Filters(check=("text",))).rows[0]
    assert len(row["given"]) < 2_050
    assert queue.page(Filters(check=("exact_duplicate",))).rows[0]["related"] == list(copies[:1_000])


def test_rows_have_lists_and_cut_messages(version: Version, log: DecisionLog) -> None:
    long = Finding("outlier", "low", 0.5, "x" * 5_000, sample_id="s001", related=("s002",), box=(1, 2, 3, 4))
    row = Queue(version, findings_table([long]), log).page(Filters()).rows[0]
    assert row["related"] == ["s002"]
    assert row["box"] == [1, 2, 3, 4]
    assert row["message"] == "x" * 2_000 + "… (5,000 characters in all)"


@pytest.mark.parametrize("name", ["0" * 16, "", "0x00000000000000", "zz", "0" * 17, "é" * 16])
def test_unknown_findings_are_told(queue: Queue, name: str) -> None:
    for ask in (queue.row, lambda one: queue.next(Filters(), one), lambda one: queue.neighbours_of(Filters(), one)):
        with pytest.raises(NotFoundError, match="has no finding"):
            ask(name)


def test_without_embeddings_lookalikes_cannot_be_asked_for(queue: Queue) -> None:
    with pytest.raises(NotFoundError, match="not known"):
        queue.page(Filters(like="s001"))


def test_filters_survive_the_way_through_an_address() -> None:
    filters = Filters(
        check=("label_noise", "outlier"),
        given=("a&b=c d", "ünï"),
        slice=("light=day",),
        min_score=0.1,
        max_score=1.0,
        decided="all",
        search="x y",
        like="s1",
    )
    assert Filters.from_query(parse_qsl(filters.to_query())) == filters
    assert Filters().to_query() == ""
    assert Filters.from_query([("check", ""), ("search", ""), ("min_score", "")]) == Filters()
    assert Filters.from_query([("check", "b"), ("check", "a"), ("check", "b")]).to_query() == "check=a&check=b"


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("colour", "red")], "colour: no such filter"),
        ([("min_score", "much")], "min_score: expected a number"),
        ([("min_score", "nan")], "min_score: expected a number"),
        ([("max_score", "1.5")], "max_score: expected a number from 0 to 1"),
        ([("decided", "maybe")], "decided: expected one of no, yes, all"),
        ([("slice", "night")], "slice: expected key=value"),
        ([("search", "a"), ("search", "b")], "search: expected once"),
        ([("search", "a" * 2_001)], "search: expected at most 2,000 characters"),
        ([("check", str(number)) for number in range(201)], "check: expected at most 200 values"),
    ],
)
def test_faulty_filters_name_the_field(pairs: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Filters.from_query(pairs)


def test_a_version_that_was_not_audited_has_no_queue(repository: Repository, version: Version) -> None:
    with pytest.raises(NotFoundError, match="has not been audited"):
        Queue.open(repository, version, DecisionLog(repository))


def test_the_queue_of_a_real_audit(repository: Repository, version: Version) -> None:
    from datasetops.audits.run import audit

    record = audit(repository, version, checks=["schema", "coverage", "exact_duplicate"])
    queue = Queue.open(repository, version, DecisionLog(repository))
    assert queue.total + len(queue.apart) == len(record.findings)
    assert queue.total == len(record.findings) - record.findings["sample_id"].null_count
