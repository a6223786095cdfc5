from __future__ import annotations

import pytest
from rows import labeled, labels, samples

from datasetops.errors import ConflictError
from datasetops.manifest import Change, MergeConflictError, Repository, merge, verify
from datasetops.schema import LabelSchema


@pytest.fixture
def forked(repository: Repository) -> Repository:
    repository.commit(labeled(a="cat", b="cat", c="cat"), message="base")
    repository.create_branch("theirs")
    return repository


def state(repository: Repository, name: str = "main") -> dict[str, str]:
    rows = repository.version(name).annotations()
    return dict(zip(rows["sample_id"], rows["label"], strict=True))


def test_changes_of_different_rows_are_both_kept(forked: Repository) -> None:
    forked.commit(Change(annotations=labels(a="dog")), message="ours")
    theirs = forked.commit(
        Change(annotations=labels(b="bird"), remove_annotations=["c/label"]), message="theirs", branch="theirs"
    ).version
    result = merge(forked, "theirs")
    assert state(forked) == {"a": "dog", "b": "bird"}
    assert result.version.commit.parents[1] == theirs.digest
    assert verify(forked) == []
    assert not merge(forked, "theirs").changed


def test_the_same_change_on_both_sides_is_no_conflict(forked: Repository) -> None:
    forked.commit(Change(annotations=labels(a="dog")), message="ours")
    forked.commit(Change(annotations=labels(a="dog", b="dog")), message="theirs", branch="theirs")
    merge(forked, "theirs")
    assert state(forked) == {"a": "dog", "b": "dog", "c": "cat"}


@pytest.mark.parametrize(("take", "expected"), [("ours", "dog"), ("theirs", "bird")])
def test_a_row_that_both_changed_is_a_conflict_with_its_three_forms(
    forked: Repository, take: str, expected: str
) -> None:
    forked.commit(Change(annotations=labels(a="dog")), message="ours")
    forked.commit(Change(annotations=labels(a="bird", b="bird")), message="theirs", branch="theirs")
    with pytest.raises(MergeConflictError, match="a/label") as caught:
        merge(forked, "theirs")
    (conflict,) = caught.value.conflicts
    forms = [row["label"] if row else None for row in (conflict.base, conflict.ours, conflict.theirs)]
    assert forms == ["cat", "dog", "bird"]
    assert conflict.as_dict()["fields"] == "label"
    assert len(list(forked.versions("main"))) == 2

    merge(forked, "theirs", take=take)  # type: ignore[arg-type]
    assert state(forked) == {"a": expected, "b": "bird", "c": "cat"}


@pytest.mark.parametrize(("take", "expected"), [("ours", {"a": "dog", "c": "cat"}), ("theirs", {"c": "cat"})])
def test_an_edit_against_a_removal_is_a_conflict(forked: Repository, take: str, expected: dict[str, str]) -> None:
    forked.commit(Change(annotations=labels(a="dog"), remove_annotations=["b/label"]), message="ours")
    forked.commit(Change(remove_annotations=["a/label", "b/label"]), message="theirs", branch="theirs")
    with pytest.raises(MergeConflictError):
        merge(forked, "theirs")
    merge(forked, "theirs", take=take)  # type: ignore[arg-type]
    assert state(forked) == expected


BOX = {"annotation_id": "a/box", "sample_id": "a", "kind": "box", "label": "cat", "x1": 0, "y1": 0, "x2": 2, "y2": 2}


@pytest.mark.parametrize(("take", "kept"), [("ours", True), ("theirs", False)])
def test_our_annotation_on_a_sample_they_removed_is_never_lost_silently(
    forked: Repository, take: str, kept: bool
) -> None:
    forked.commit(Change(annotations=[BOX]), message="ours")
    forked.commit(Change(remove_samples=["a"]), message="theirs", branch="theirs")
    with pytest.raises(MergeConflictError):
        merge(forked, "theirs")
    merge(forked, "theirs", take=take)  # type: ignore[arg-type]
    assert ("a/box" in forked.version().annotations()["annotation_id"].tolist()) is kept
    assert verify(forked) == []


@pytest.mark.parametrize(("take", "kept"), [("ours", False), ("theirs", True)])
def test_their_annotation_on_a_sample_we_removed_is_never_lost_silently(
    forked: Repository, take: str, kept: bool
) -> None:
    forked.commit(Change(remove_samples=["a"]), message="ours")
    forked.commit(Change(annotations=[BOX]), message="theirs", branch="theirs")
    with pytest.raises(MergeConflictError):
        merge(forked, "theirs")
    merge(forked, "theirs", take=take)  # type: ignore[arg-type]
    assert ("a" in forked.version().samples()["sample_id"].tolist()) is kept
    assert ("a/box" in forked.version().annotations()["annotation_id"].tolist()) is kept


def test_samples_added_on_both_sides_and_merging_back(forked: Repository) -> None:
    forked.commit(labeled(x="cat"), message="ours")
    forked.commit(labeled(y="dog"), message="theirs", branch="theirs")
    merge(forked, "theirs")
    merge(forked, "main", into="theirs")
    assert state(forked) == state(forked, "theirs") == {"a": "cat", "b": "cat", "c": "cat", "x": "cat", "y": "dog"}


def test_a_schema_changed_on_one_side_is_taken_and_on_both_refused(forked: Repository, schema: LabelSchema) -> None:
    newer = schema.model_copy(update={"version": 2})
    forked.commit(Change(schema=newer), message="theirs", branch="theirs")
    merge(forked, "theirs")
    assert forked.version().schema.version == 2
    forked.commit(Change(schema=schema.model_copy(update={"version": 3})), message="ours")
    forked.commit(Change(schema=schema.model_copy(update={"version": 4})), message="theirs", branch="theirs")
    with pytest.raises(ConflictError, match="schema"):
        merge(forked, "theirs")
    merge(forked, "theirs", take="theirs")
    assert forked.version().schema.version == 4


def test_a_version_without_a_branch_can_be_merged(forked: Repository) -> None:
    version = forked.commit(Change(samples=samples("z")), message="theirs", branch="theirs").version
    merge(forked, version.name)
    assert "z" in forked.version().samples()["sample_id"].tolist()
