"""Who is behind the annotations of a version, and what no person has touched."""

from __future__ import annotations

import pytest
from provenance_kit import MODEL, box, change, label

from datasetops.errors import NotFoundError
from datasetops.manifest import Repository
from datasetops.provenance.blame import blame

pytestmark = pytest.mark.slow


def test_everybody_behind_a_version_is_named_with_a_count(pets: Repository) -> None:
    found = blame(pets, "v6")
    assert [(one["source"], one["actor"], one["model"], one["annotations"]) for one in found.makers] == [
        ("import", "ann", None, 9),
        ("model", None, MODEL, 3),
        ("human", "cara", None, 2),
        ("human", "bob", None, 1),
    ]
    assert found.classes["cat"] == {
        "annotations": 6,
        "touched": 1,
        "named_by_import": 2,
        "nobody": 3,
        "share_nobody": 0.5,
    }
    assert sum(one["annotations"] for one in found.classes.values()) == 15


def test_a_class_and_an_item_alone(pets: Repository) -> None:
    cats = blame(pets, "v6", label="cat")
    assert list(cats.classes) == ["cat"]
    assert sum(one["annotations"] for one in cats.makers) == 6
    one = blame(pets, "v6", item="i00")
    assert [(row["annotation_id"], row["actor"], row["made"]["version"]) for row in one.annotations] == [
        ("i00/c", "cara", "v4"),
        ("i00#b", None, "v2"),
        ("i00#b2", "bob", "v3"),
    ]
    assert [row["actor"] for row in blame(pets, "v3", item="i00/c").annotations] == ["bob"]


def test_what_a_person_said_before_counts_as_touched_and_only_in_later_versions(pets: Repository) -> None:
    change(pets, "preannotate", "machine", annotations=[label(1, "dog", "model", model=MODEL)])
    assert blame(pets, "v7", item="i01/c").classes["dog"]["touched"] == 1  # cara's word stood there in v4
    assert blame(pets, "v2", item="i01/c").classes["dog"]["touched"] == 0
    change(pets, "preannotate", "machine", annotations=[label(5, "cat", "rule")])
    assert blame(pets, "v8", item="i05/c").classes["cat"]["nobody"] == 1


def test_votes_are_no_labels_of_their_own(pets: Repository) -> None:
    change(pets, "commit", "eve", annotations=[box(5, "v", "dog", "human", actor="eve", role="vote")])
    assert all(one["actor"] != "eve" for one in blame(pets, "main").makers)


def test_a_class_or_an_item_that_there_is_not(pets: Repository) -> None:
    with pytest.raises(NotFoundError, match="no class 'cats'") as caught:
        blame(pets, "v6", label="cats")
    assert "'cat'" in caught.value.remedy
    with pytest.raises(NotFoundError, match="i03"):
        blame(pets, "v6", item="i03")
    with pytest.raises(NotFoundError, match="v99"):
        blame(pets, "v99")


def test_a_version_without_annotations(repository: Repository) -> None:
    change(repository, "commit", "lea", samples=[{"sample_id": "s", "uri": "s.png"}])
    found = blame(repository, "v1")
    assert (found.makers, found.classes) == ((), {})
