"""Decisions become a version: what is changed, what is told as a conflict, what is not done twice."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest

from datasetops.audits.decisions import Decision, DecisionLog, Fix
from datasetops.errors import NotFoundError
from datasetops.labeling.batch import Batch, save_batch
from datasetops.ledger import Event
from datasetops.manifest import Change, Repository, Version, diff
from datasetops.manifest.verify import verify
from datasetops.review.apply import Applied, apply, waiting_for_relabeling
from datasetops.review.summary import in_words
from datasetops.schema import LabelSchema

BOX = {"x1": 10.0, "y1": 10.0, "x2": 30.0, "y2": 30.0}


def change(*names: str, **more: Any) -> Change:
    """Samples, each with a class and a box, as an import brings them."""
    samples = [
        {"sample_id": name, "uri": f"{name}.png", "sha256": name * 2, "width": 64, "height": 64} for name in names
    ]
    imported = {"source": "import", "actor": "vendor"}
    labels = [
        {"annotation_id": f"{name}/label", "sample_id": name, "kind": "classification", "label": "cat", **imported}
        for name in names
    ]
    boxes = [
        {"annotation_id": f"{name}/1", "sample_id": name, "kind": "box", "label": "cat", **BOX, **imported}
        for name in names
    ]
    return Change(samples=samples, annotations=labels + boxes, **more)


@pytest.fixture
def version(repository: Repository) -> Version:
    return repository.commit(change("a", "b", "c", "d"), message="import").version


class Reviewed:
    """What people decided about findings f1, f2, … of a version."""

    def __init__(self, repository: Repository, version: Version) -> None:
        self.repository, self.version, self.log = repository, version, DecisionLog(repository)
        self._count = 0

    def error(self, sample: str | None, fix: Fix | None, *, actor: str = "ann", finding: str | None = None) -> str:
        self._count += 1
        name = finding or f"f{self._count}"
        item = Decision(
            name, "error", actor, "label_noise", "high", 0.1, fix=fix, sample_id=sample, seconds=2.0, decision_id=name
        )
        self.log.add(self.version, [item], second=True)
        return name

    def fine(self, finding: str, actor: str) -> None:
        self.log.add(self.version, [Decision(finding, "fine", actor, "label_noise", "high", 0.1)], second=True)

    def applied(self, **more: Any) -> Applied:
        return apply(self.repository, self.version, self.log.standing(), **more)


@pytest.fixture
def reviewed(repository: Repository, version: Version) -> Reviewed:
    return Reviewed(repository, version)


def edit(*put: Mapping[str, Any], remove: tuple[str, ...] = ()) -> Fix:
    return Fix("edit", put, remove)


def rows(version: Version) -> dict[str, dict[str, Any]]:
    return {row["annotation_id"]: row for row in version.annotations().to_dict("records")}


def test_every_kind_of_fix_becomes_one_version(repository: Repository, reviewed: Reviewed) -> None:
    label = reviewed.error("a", edit({"annotation_id": "a/label", "label": "dog"}))
    moved = reviewed.error("b", edit({"annotation_id": "b/1", **BOX, "x2": 35.5}), actor="bob")
    drawn = reviewed.error("b", edit({"annotation_id": None, "kind": "box", "label": "bird", **BOX, "y1": 2.0}))
    removed = reviewed.error("c", edit(remove=("c/1",)))
    excluded = reviewed.error("d", Fix("exclude"))
    reviewed.error("c", None)  # an error that nobody knows how to mend
    reviewed.fine("f99", "ann")
    before = rows(reviewed.version)
    result = reviewed.applied()
    assert result.version == "v2"
    assert result.message == (
        "Review of v1: 1 label changed (1 cat → dog), 1 box moved, 1 box drawn, 1 box removed, 1 image excluded; "
        "decided by ann, bob."
    )
    assert result.counts == {"labels": 1, "moved": 1, "drawn": 1, "added": 0, "removed": 1, "edited": 0, "excluded": 1}
    assert result.applied == (label, moved, drawn, removed, excluded)
    assert (result.conflicts, result.already, result.waiting) == ((), (), ())
    new = repository.version()
    found = diff(reviewed.version, new).as_dict()
    assert found["annotations"] == {"added": 1, "removed": 3, "changed": 2}
    assert found["samples"] == {"added": 0, "removed": 1, "changed": 0}
    after = rows(new)
    assert (after["a/label"]["label"], after["a/label"]["source"], after["a/label"]["actor"]) == ("dog", "human", "ann")
    assert after["a/label"]["event_id"] == new.commit.event_id != before["a/label"]["event_id"]
    assert after["a/label"]["answer"]["from_version"] == "v1"
    assert (after["b/1"]["x2"], after["b/1"]["y2"], after["b/1"]["actor"]) == (35.5, 30.0, "bob")
    (fresh,) = after.keys() - before.keys()
    assert fresh.startswith("b/")
    assert (after[fresh]["label"], after[fresh]["y1"], after[fresh]["kind"]) == ("bird", 2.0, "box")
    (entry,) = [entry for entry in repository.ledger.backwards() if entry.event.kind == "review-apply"]
    assert (entry.version, entry.event.inputs["version"]) == ("v2", "v1")
    assert entry.event.parameters["decided_by"] == ["ann", "bob"]
    assert verify(repository) == []


def test_a_dry_run_writes_nothing(repository: Repository, reviewed: Reviewed) -> None:
    reviewed.error("a", edit({"annotation_id": "a/label", "label": "dog"}))
    keys = list(repository.store.list(""))
    result = reviewed.applied(dry_run=True)
    assert (result.version, result.changed, result.counts["labels"]) == (None, True, 1)
    assert list(repository.store.list("")) == keys
    assert reviewed.applied(message="mine").message == "mine"
    assert repository.version().commit.message == "mine"


def test_applying_again_changes_nothing(repository: Repository, reviewed: Reviewed) -> None:
    names = [
        reviewed.error("a", edit({"annotation_id": "a/label", "label": "dog"})),
        reviewed.error("b", edit({"annotation_id": None, "kind": "box", "label": "bird", **BOX, "y1": 2.0})),
        reviewed.error("c", edit(remove=("c/1",))),
        reviewed.error("d", Fix("exclude")),
    ]
    reviewed.applied()
    again = reviewed.applied()
    assert (again.version, again.changed, again.applied) == (None, False, ())
    assert again.already == tuple(names)
    assert again.message == "Review of v1: nothing to change"
    assert repository.version().name == "v2"


def test_what_somebody_undid_is_not_done_again(repository: Repository, reviewed: Reviewed, version: Version) -> None:
    name = reviewed.error("a", edit({"annotation_id": "a/label", "label": "dog"}))
    gone = reviewed.error("d", Fix("exclude"))
    reviewed.applied()
    repository.commit(change("a", "d"), message="as it was")
    again = reviewed.applied()
    assert (again.changed, again.already) == (False, (name, gone))
    reviewed.error("a", edit({"annotation_id": "a/label", "label": "bird"}), finding=name)  # decided anew
    reviewed.applied()
    assert rows(repository.version())["a/label"]["label"] == "cat"  # the same decision_id: kept once
    item = Decision(name, "error", "ann", "mask", "low", 0.5, fix=edit({"annotation_id": "a/label", "label": "bird"}),
                    sample_id="a", decision_id="another")  # fmt: skip
    reviewed.log.add(version, [item])
    assert reviewed.applied().applied == (name,)
    assert rows(repository.version())["a/label"]["label"] == "bird"


def test_what_was_so_before_is_told_apart(repository: Repository, reviewed: Reviewed) -> None:
    name = reviewed.error("a", edit({"annotation_id": "a/label", "label": "dog"}))
    relabeled = {**rows(reviewed.version)["a/label"], "label": "dog", "event_id": None}
    repository.commit(Change(annotations=[relabeled]), message="somebody else")
    result = reviewed.applied()
    assert (result.changed, result.already, result.conflicts) == (False, (name,), ())


def test_changes_made_meanwhile_stay(repository: Repository, reviewed: Reviewed, schema: LabelSchema) -> None:
    """The same row changed, the annotation or its image gone, the image replaced, the class renamed."""
    wanted = {
        reviewed.error("a", edit({"annotation_id": "a/label", "label": "dog"})): (
            "the annotation changed since it was decided on", "cat becomes dog (ann)", "class bird, by carl"
        ),
        reviewed.error("b", edit({"annotation_id": "b/1", "label": "dog"})): (
            "the annotation is gone", "cat becomes dog (ann)", "no such annotation"
        ),
        reviewed.error("c", edit({"annotation_id": "c/1", "label": "dog"})): (
            "the image has left the dataset", "cat becomes dog (ann)", "no such image"
        ),
        reviewed.error("d", Fix("exclude")): (
            "the image was replaced since it was decided on", "image leaves the dataset (ann)", "another image"
        ),
        reviewed.error("b", edit({"annotation_id": "b/label", "label": "bird"})): (
            "the schema has no class 'bird' any more", "cat becomes bird (ann)", "class cat"
        ),
        reviewed.error("a", edit(remove=("a/1",))): (
            "the annotation changed since it was decided on", "cat box removed (ann)", "cat box, by vendor"
        ),
    }  # fmt: skip
    fits = reviewed.error("b", edit({"annotation_id": "b/label", "label": "dog"}), actor="bob")
    old = rows(reviewed.version)
    classes = [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}, {"id": 2, "name": "sparrow"}]
    repository.commit(
        Change(
            samples=[{"sample_id": "d", "uri": "d.png", "sha256": "other"}],
            annotations=[
                {**old["a/label"], "label": "bird", "actor": "carl", "source": "human"}, {**old["a/1"], "x1": 4.0}
            ],
            remove_annotations=["b/1"],
            remove_samples=["c"],
        ),
        message="meanwhile",
    )  # fmt: skip
    repository.commit(Change(schema=schema.model_copy(update={"classes": classes})), message="renamed")
    result = reviewed.applied()
    assert {item.finding_id: (item.reason, item.mine, item.theirs) for item in result.conflicts} == wanted
    assert result.applied == (fits,)
    after = rows(repository.version())
    assert (after["a/label"]["label"], after["b/label"]["label"], after["a/1"]["x1"]) == ("bird", "dog", 4.0)
    assert "6 decisions were not applied:" in result.lines()
    assert len(result.as_dict()["conflicts"]) == 6


def test_reviewers_who_disagree_change_nothing(repository: Repository, reviewed: Reviewed) -> None:
    dog, bird = (edit({"annotation_id": "a/label", "label": name}) for name in ("dog", "bird"))
    fine = reviewed.error("a", dog)
    reviewed.fine(fine, "bob")
    other = reviewed.error("a", dog)
    reviewed.error("a", bird, actor="bob", finding=other)
    same = reviewed.error("b", edit({"annotation_id": "b/label", "label": "dog"}))
    reviewed.error("b", edit({"annotation_id": "b/label", "label": "dog"}), actor="bob", finding=same)
    reviewed.error("b", None, actor="carl", finding=same)
    result = reviewed.applied()
    assert [(item.finding_id, item.reason, item.mine, item.theirs) for item in result.conflicts] == [
        (fine, "reviewers disagree", "cat becomes dog (ann)", "fine (bob)"),
        (other, "reviewers disagree", "cat becomes dog (ann)", "cat becomes bird (bob)"),
    ]
    assert result.applied == (same,)
    assert rows(repository.version())["a/label"]["label"] == "cat"


def test_two_findings_about_one_annotation(repository: Repository, reviewed: Reviewed) -> None:
    """Different fields are put together; what contradicts is left, and an image that leaves takes its fixes along."""
    label = reviewed.error("a", edit({"annotation_id": "a/1", "label": "dog"}))
    moved = reviewed.error("a", edit({"annotation_id": "a/1", "x1": 5.0}))
    first = reviewed.error("b", edit({"annotation_id": "b/1", "label": "dog"}))
    second = reviewed.error("b", edit(remove=("b/1",)), actor="bob")
    lost = reviewed.error("c", edit({"annotation_id": "c/1", "label": "dog"}))
    gone = reviewed.error("c", Fix("exclude"))
    result = reviewed.applied()
    assert result.applied == (label, moved, lost, gone)
    assert [(item.finding_id, item.theirs) for item in result.conflicts] == [
        (first, f"cat box removed (bob, finding {second})"),
        (second, f"cat becomes dog (ann, finding {first})"),
    ]
    after = rows(repository.version())
    assert (after["a/1"]["label"], after["a/1"]["x1"], after["b/1"]["label"]) == ("dog", 5.0, "cat")
    assert "c/1" not in after


def test_a_sealed_split_loses_no_image(repository: Repository, schema: LabelSchema) -> None:
    first = change("a", "b")
    samples = [{**row, "split": "test" if row["sample_id"] == "a" else "train"} for row in first.samples or ()]
    made = repository.commit(Change(samples=samples, annotations=first.annotations, sealed=["test"]), message="sealed")
    reviewed = Reviewed(repository, made.version)
    kept = reviewed.error("a", Fix("exclude"))
    label = reviewed.error("a", edit({"annotation_id": "a/label", "label": "dog"}))
    gone = reviewed.error("b", Fix("exclude"))
    result = reviewed.applied()
    assert [(item.finding_id, item.sample_id) for item in result.conflicts] == [(kept, "a")]
    assert "sealed split 'test'" in result.conflicts[0].reason
    assert result.applied == (label, gone)
    assert repository.version().commit.counts["samples"] == 1


def test_several_classes_an_image(repository: Repository, schema: LabelSchema) -> None:
    many = schema.model_copy(update={"tasks": [{"kind": "classification", "multi": True}]})
    labels = [
        {"annotation_id": f"{sample}/label/{name}", "sample_id": sample, "kind": "classification", "label": name}
        for sample in "ab"
        for name in ("cat", "dog")
    ]
    samples = [{"sample_id": name, "uri": f"{name}.png"} for name in "ab"]
    reviewed = Reviewed(
        repository, repository.commit(Change(samples=samples, annotations=labels, schema=many), message="1").version
    )
    reviewed.error("a", edit({"annotation_id": None, "kind": "classification", "label": "bird"}))
    reviewed.error("a", edit(remove=("a/label/cat",)))
    held = reviewed.error("a", edit({"annotation_id": None, "kind": "classification", "label": "dog"}))
    reviewed.error("b", edit({"annotation_id": "b/label/cat", "label": "bird"}))
    result = reviewed.applied()
    assert (result.already, result.conflicts) == ((held,), ())
    assert {name: row["label"] for name, row in rows(repository.version()).items()} == {
        "a/label/bird": "bird",
        "a/label/dog": "dog",
        "b/label/bird": "bird",
        "b/label/dog": "dog",
    }


def test_what_the_schema_does_not_allow_is_told(reviewed: Reviewed) -> None:
    reasons = {
        reviewed.error("a", edit({"annotation_id": "a/label", "label": "wolf"})): "no class 'wolf'",
        reviewed.error("a", edit({"annotation_id": None, "kind": "classification", "label": "dog"})): "one class",
        reviewed.error("a", edit({"annotation_id": None, "kind": "text", "text": "x"})): "kind text",
        reviewed.error("a", edit({"annotation_id": "a/1", "x2": 3.0})): "no area",
        reviewed.error("a", edit({"annotation_id": "a/9", "label": "dog"})): "no such annotation",
        reviewed.error("b", edit(remove=("a/1",))): "no such annotation",
        reviewed.error(None, edit({"annotation_id": "a/1", "label": "dog"})): "does not name its image",
    }
    result = reviewed.applied()
    assert not result.changed
    assert len(result.conflicts) == len(reasons)
    for item in result.conflicts:
        assert reasons[item.finding_id] in item.reason


def test_outlines_keep_their_extent(repository: Repository, schema: LabelSchema) -> None:
    outlined = schema.model_copy(update={"tasks": [{"kind": "polygon"}]})
    shape = {"kind": "polygon", "label": "cat", "geometry": {"polygons": [[1, 1, 5, 1, 5, 5]]}}
    corners = {"x1": 1.0, "y1": 1.0, "x2": 5.0, "y2": 5.0}
    first = Change(
        samples=[{"sample_id": "a", "uri": "a.png"}],
        annotations=[{"annotation_id": "a/1", "sample_id": "a", **shape, **corners}],
        schema=outlined,
    )
    reviewed = Reviewed(repository, repository.commit(first, message="1").version)
    reviewed.error("a", edit({"annotation_id": "a/1", "geometry": {"polygons": [[1, 1, 9, 1, 9, 7]]}}))
    reviewed.error("a", edit({"annotation_id": None, **shape, "geometry": {"polygons": [[20, 20, 25, 20, 25, 30]]}}))
    refused = reviewed.error("a", edit({"annotation_id": "a/1", "x1": 0.0}))
    result = reviewed.applied()
    assert [item.finding_id for item in result.conflicts] == [refused]
    after = [tuple(row[name] for name in corners) for row in rows(repository.version()).values()]
    assert sorted(after) == [(1.0, 1.0, 9.0, 7.0), (20.0, 20.0, 25.0, 30.0)]
    assert reviewed.applied().changed is False


def test_a_message_names_the_commonest_changes() -> None:
    def row(label: str | None, kind: str = "classification", **more: Any) -> dict[str, Any]:
        return {"kind": kind, "label": label, **more}

    changes: list[Any] = [(row("cat"), row("dog"))] * 1200 + [(row("dog"), row("cat"))] * 3
    changes += [(row("cat"), row("bird")), (row("bird"), row("cat")), (None, None), (None, None)]
    changes += [(row(None, "text", text="a"), row(None, "text", text="b")), (None, row("dog"))]
    assert in_words("v7", changes, ["ann"]) == (
        "Review of v7: 1,205 labels changed (1,200 cat → dog, 3 dog → cat, 1 bird → cat, …), 1 class added, "
        "1 text edited, 2 images excluded; decided by ann."
    )


def test_a_version_that_is_not_the_newest(repository: Repository, reviewed: Reviewed, version: Version) -> None:
    """Changes go on top of the branch; what was decided on later versions and on other branches is left to those."""
    name = reviewed.error("a", edit({"annotation_id": "a/label", "label": "dog"}))
    repository.create_branch("trial", version)
    newer = repository.commit(change("e"), message="more").version
    later = Reviewed(repository, newer)
    later.error("e", edit({"annotation_id": "e/label", "label": "dog"}), finding="later")
    reviewed.log.refresh()
    assert reviewed.applied().applied == (name,)
    after = rows(repository.version())
    assert (after["a/label"]["label"], after["e/label"]["label"]) == ("dog", "cat")
    assert reviewed.applied(branch="trial").version == "v4"
    assert repository.version("trial").commit.parents == (version.digest,)
    both = later.applied()
    assert (both.applied, both.already) == (("later",), (name,))
    with pytest.raises(NotFoundError, match="nowhere"):
        reviewed.applied(branch="nowhere")


def test_two_apply_at_once(repository: Repository, reviewed: Reviewed) -> None:
    names = {reviewed.error(sample, edit({"annotation_id": f"{sample}/label", "label": "dog"})) for sample in "abcd"}
    results: list[Applied] = []

    def run() -> None:
        own = Repository.open(repository.root or "")
        log = DecisionLog(own)
        log.refresh()
        results.append(apply(own, own.version("v1"), log.standing()))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert [result.version for result in results if result.changed] == ["v2"]
    assert all(set(result.applied + result.already) == names for result in results)
    assert repository.version().name == "v2"


def test_what_waits_to_be_labeled_again(repository: Repository, reviewed: Reviewed, version: Version) -> None:
    reviewed.error("c", Fix("relabel"))
    reviewed.error("a", Fix("relabel"))
    torn = reviewed.error("b", Fix("relabel"))
    reviewed.fine(torn, "bob")
    result = reviewed.applied()
    assert (result.waiting, result.changed) == (("c", "a"), False)
    assert waiting_for_relabeling(repository, version) == ["c", "a"]
    for name, blind, samples in (("blind", True, ("c", "a")), ("again", False, ("c",))):
        save_batch(repository, Batch(name, "project", "v1", samples, blind=blind))
        repository.ledger.record(Event("label-push", "ann", parameters={"batch": name, "project": "project"}))
    assert waiting_for_relabeling(repository, version) == ["a"]
    reviewed.error("c", Fix("relabel"), finding="once more")
    assert waiting_for_relabeling(repository, version) == ["a", "c"]
    without = repository.commit(Change(remove_samples=["a"]), message="gone").version
    assert waiting_for_relabeling(repository, without) == ["c"]
