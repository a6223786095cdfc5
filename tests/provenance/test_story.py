"""Stories of samples, annotations, versions and models: complete, in the ledger's order, and honest about gaps."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from provenance_kit import MODEL, box, change

from datasetops.errors import DamagedError, NotFoundError
from datasetops.ledger import Entry, Event
from datasetops.manifest import Change, Repository, merge
from datasetops.provenance.graph import draw
from datasetops.provenance.holders import model_story, version_story
from datasetops.provenance.story import annotation_story, sample_story
from datasetops.provenance.told import Story

pytestmark = pytest.mark.slow


def told(story: Story) -> list[tuple[str, str, str]]:
    return [(item.version, item.actor, item.words) for item in story.items]


def test_a_sample_tells_all_that_happened_to_it_newest_first(pets: Repository) -> None:
    story = sample_story(pets, "i00")
    here = pets.settings.actor
    kinds = [item.kind for item in story.items]
    assert kinds == [
        "export",
        "train",
        "gate",
        "audit",
        "sample",
        "label",
        "label",
        "label",
        "label",
        "sample",
        "label",
    ]
    words = told(story)
    assert words[1] == ("v6", here, "the model m1 learned from it")
    assert words[2] == ("v6", here, "v6, which holds it, was accepted")
    assert words[4:] == [
        ("v5", here, "sample split none becomes train"),
        ("v4", "cara", "classification dog: dog becomes bird, by cara (human)"),
        ("v3", "bob", "classification cat: cat becomes dog, by bob (human)"),
        ("v3", "bob", "box dog added by bob (human)"),
        ("v2", "machine", f"box cat added by the model {MODEL}, score 0.50"),
        (
            "v1",
            here,
            "sample collected: origin clinic-a, licence research-only, consent training, expires not recorded, "
            "captured 2026-01-02T00:00:00+00:00",
        ),
        ("v1", "ann", "classification cat added by ann (import)"),
    ]
    assert [item.entry for item in story.items] == sorted((item.entry for item in story.items), reverse=True)
    assert story.versions == ("v1", "v2", "v3", "v4", "v5", "v6")
    assert [(one["model"], one["part"]) for one in story.models] == [("m1", "train")]
    assert [one["format"] for one in story.exports] == ["coco"]
    assert (story.facts["origin"], story.facts["license"]) == ("clinic-a", "research-only")
    first = story.items[-1].details
    version = pets.version("v1")
    assert (first["guide"], first["schema"]) == (version.commit.guide, version.commit.schema)
    assert (first["event"], first["tool"]) == ("ingest", "table")
    assert story.notes == ()
    assert story.basis["ledger_entries"] == 1 + story.basis["newest_entry"]
    json.dumps(story.as_dict(), default=str)


def test_an_export_of_other_samples_did_not_carry_it(pets: Repository) -> None:
    story = sample_story(pets, "i09")
    assert story.facts["origin"] == "clinic-b"
    assert story.exports == ()
    assert [one["part"] for one in sample_story(pets, "i10").models] == ["validation"]
    assert sample_story(pets, "i04").models == ()


def test_findings_decisions_and_verdicts_are_told_where_they_belong(pets: Repository) -> None:
    story = sample_story(pets, "i11")
    by_kind = {item.kind: item for item in story.items}
    assert by_kind["audit"].words.startswith("flagged by the check exact_duplicate (high): the same file as")
    assert (by_kind["decision"].actor, by_kind["decision"].details["finding_id"]) == (
        "dan",
        by_kind["audit"].details["finding_id"],
    )
    assert by_kind["decision"].entry > by_kind["audit"].entry
    plan = json.loads(pets.store.get("qa/plans/q1.json"))
    drawn = next(name for stratum in plan["strata"] for name in stratum["order"])
    qa = [item for item in sample_story(pets, drawn).items if item.kind == "qa"]
    assert [(item.actor, item.words) for item in qa] == [
        ("zoe", "zoe judged its labels right for q1"),
        (pets.settings.actor, "drawn for review by the QA plan q1"),
    ]


def test_a_sample_that_is_gone_keeps_its_story(pets: Repository) -> None:
    story = sample_story(pets, "i03")
    assert story.versions == ("v1", "v2", "v3", "v4", "v5")
    assert ("v6", "lea", "sample removed") in told(story)
    assert {words for _, _, words in told(story)} >= {"box cat removed", "classification cat removed"}


def test_an_annotation_tells_what_it_came_from(pets: Repository) -> None:
    story = annotation_story(pets, "i00#b2")
    labels = [item for item in story.items if item.kind == "label"]
    assert [item.about for item in labels] == [("i00#b2",), ("i00#b",)]
    assert story.versions == ("v3", "v4", "v5", "v6")
    assert story.facts["derived_from"] == "i00#b"
    assert [item.about for item in annotation_story(pets, "i00#b").items if item.kind == "label"] == [
        ("i00#b2",),
        ("i00#b",),
    ]


def test_a_circle_of_derivations_is_told_once_and_noted(pets: Repository) -> None:
    rows = [box(4, "x", "cat", "human", derived_from="i04#y"), box(4, "y", "cat", "human", derived_from='["i04#x"]')]
    change(pets, "commit", "eve", annotations=rows)
    story = annotation_story(pets, "i04#x")
    assert [item.about for item in story.items if item.kind == "label"] == [("i04#x",), ("i04#y",)]
    assert story.notes == ("derived_from goes in a circle: i04#x, i04#y. Each of them is told once.",)


@pytest.mark.parametrize("tell", [sample_story, annotation_story])
def test_an_unknown_id_is_answered_with_the_nearest(pets: Repository, tell: Callable[[Repository, str], Story]) -> None:
    with pytest.raises(NotFoundError, match="i005") as caught:
        tell(pets, "i005")
    assert "i00" in caught.value.remedy
    with pytest.raises(NotFoundError):
        tell(pets, "")


def test_the_beginning_of_an_id_is_enough_where_it_is_the_only_one(pets: Repository) -> None:
    change(pets, "commit", "lea", samples=[{"sample_id": "long-name", "uri": "n.png"}])
    assert sample_story(pets, "long").name == "long-name"
    with pytest.raises(NotFoundError, match="'i0'"):
        sample_story(pets, "i0")


def test_a_sample_is_asked_for_by_the_end_of_its_path_also_where_it_was_copied(pets: Repository) -> None:
    copied = f"media:{'c' * 64}.png#site/a/kept.png"
    rows = [{"sample_id": "c1", "uri": copied}, {"sample_id": "c2", "uri": "/photos/b/left.png"}]
    change(pets, "commit", "lea", samples=[*rows, {"sample_id": "c3", "uri": f"media:{'d' * 64}.png#plain.png"}])
    for wanted, name in (
        ("kept.png", "c1"), ("a/kept.png", "c1"), ("site/a/kept.png", "c1"), ("left.png", "c2"), ("plain.png", "c3"),
    ):  # fmt: skip
        assert sample_story(pets, wanted).name == name
    with pytest.raises(NotFoundError):
        sample_story(pets, "ept.png")


def test_what_a_merge_brought_is_told_of_the_version_that_made_it(pets: Repository) -> None:
    pets.create_branch("side")
    event = Event("commit", "sid")
    pets.commit(Change(annotations=[box(5, "s", "dog", "human", actor="sid")]), message="s", event=event, branch="side")
    change(pets, "commit", "max", annotations=[box(6, "m", "cat", "human", actor="max")])
    merged = merge(pets, "side").version
    story = annotation_story(pets, "i05#s")
    assert [(item.version, item.actor) for item in story.items if item.kind == "label"] == [("v7", "sid")]
    assert story.versions == ("v7", merged.name)


def rewrite(repository: Repository, number: int, change: Callable[[dict[str, object]], object]) -> None:
    """Change a ledger entry and chain those after it to it again."""
    tail = repository.ledger.tail()
    assert tail is not None
    previous = None
    for at in range(number, tail.number + 1):
        key = f"ledger/{at:012d}.json"
        raw = json.loads(repository.store.get(key))
        if at == number:
            change(raw)
        else:
            raw["previous"] = previous
        data = json.dumps(raw, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        previous = Entry.from_bytes(data).digest
        repository.store.put(key, data)


def test_a_clock_that_ran_backwards_does_not_change_the_order(pets: Repository) -> None:
    before = told(sample_story(pets, "i00"))
    rewrite(pets, 4, lambda raw: raw.update(time="2020-01-01T00:00:00.000000+00:00"))
    story = sample_story(Repository.open(pets.root or ""), "i00")
    assert told(story) == before
    (note,) = story.notes
    assert note.startswith(
        "A clock ran backwards: ledger entry 4 says 2020-01-01T00:00:00, earlier than the entry before"
    )


def test_a_missing_link_of_the_ledger_is_named(pets: Repository) -> None:
    pets.store.delete("ledger/000000000005.json")
    with pytest.raises(DamagedError, match=r"ledger/000000000005\.json is missing"):
        sample_story(Repository.open(pets.root or ""), "i00")


def test_a_link_that_was_exchanged_is_named(pets: Repository) -> None:
    key = "ledger/000000000004.json"
    raw = json.loads(pets.store.get(key)) | {"actor": "nobody"}
    pets.store.put(key, json.dumps(raw, sort_keys=True, separators=(",", ":")).encode())
    with pytest.raises(DamagedError, match=r"ledger/000000000005\.json does not follow"):
        sample_story(Repository.open(pets.root or ""), "i00")


def test_a_version_tells_what_it_holds_and_what_was_done_with_it(pets: Repository) -> None:
    story = version_story(pets, "v6")
    assert story.facts["by_origin"] == {"clinic-a": 7, "clinic-b": 4}
    assert story.facts["by_source"] == {"import": 9, "human": 3, "model": 3}
    kinds = [item.kind for item in story.items]
    assert kinds == ["export", "train", "accept", "qa-plan", "qa-seed", "decide", "audit", "remove"]
    assert story.items[-1].words == "made: remove (2 annotations deleted, 1 samples deleted)"
    assert [one["model"] for one in story.models] == ["m1"]
    assert version_story(pets, "v4").items[0].words == "v5 was made from it"


def test_a_model_tells_what_it_learned_from_and_became(pets: Repository) -> None:
    pets.ledger.record(Event("promote", "lea", inputs={"version": "v6", "model": "m1"}, parameters={"model": "m1"}))
    story = model_story(pets, "m1")
    assert story.facts["samples"] == {"train": 4, "validation": 1}
    assert story.facts["by_origin"] == {"clinic-a": 3, "clinic-b": 2}
    assert [(item.actor, item.words) for item in story.items] == [
        ("lea", "the model m1 was put into production"),
        (pets.settings.actor, "the model m1 learned from it"),
    ]
    with pytest.raises(NotFoundError, match="m7"):
        model_story(pets, "m7")


def test_a_picture_is_whole_xml_and_joins_what_belongs_together(pets: Repository) -> None:
    change(pets, "commit", "<eve> & co", annotations=[box(0, "b2", "bird", "human", actor="<eve> & co")])
    story = sample_story(pets, "i00")
    root = ElementTree.fromstring(draw(story))
    space = "{http://www.w3.org/2000/svg}"
    texts = [node.text or "" for node in root.iter(f"{space}text")]
    assert "Where sample i00 came from and where it went" in texts
    assert any("<eve> & co" in text for text in texts)
    assert {"v1", "v7", "m1"} <= set(texts)
    happened = sum(item.kind not in ("export", "train") for item in story.items)
    assert len(root.findall(f"{space}path")) == happened + len(story.models) + len(story.exports)
    for kind in (version_story(pets, "v6"), model_story(pets, "m1"), annotation_story(pets, "i00/c")):
        ElementTree.fromstring(draw(kind))


def test_a_long_story_is_drawn_short(pets: Repository) -> None:
    story = sample_story(pets, "i00")
    picture = draw(replace(story, items=story.items * 10))
    assert "… 67 more …" in picture
    assert picture.count("<rect") == 24 + len(story.versions) + len(story.models) + len(story.exports)
