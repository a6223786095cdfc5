from __future__ import annotations

import json

from rows import labeled, labels, samples

from datasetops.manifest import Change, Repository, diff


def test_counts_by_class_split_and_slice(repository: Repository) -> None:
    day = {"metadata": {"light": "day"}}
    first = repository.commit(
        Change(samples("a", "b", split="train", **day), labels(a="cat", b="dog")), message="first"
    ).version
    second = repository.commit(
        Change(
            samples("b", split="test", **day) + samples("c", split="test", metadata={"light": "night"}),
            labels(b="cat", c="bird"),
            remove_samples=["a"],
        ),
        message="second",
    ).version

    assert diff(first, second).as_dict() == {
        "from": "v1",
        "to": "v2",
        "samples": {"added": 1, "removed": 1, "changed": 1},
        "annotations": {"added": 1, "removed": 1, "changed": 1},
        "by_class": {
            "bird": {"added": 1, "removed": 0, "changed": 0},
            "cat": {"added": 0, "removed": 1, "changed": 1},
            "dog": {"added": 0, "removed": 0, "changed": 1},
        },
        "by_split": {
            "test": {"added": 1, "removed": 0, "changed": 1},
            "train": {"added": 0, "removed": 1, "changed": 1},
        },
        "by_slice": {
            "light": {
                "day": {"added": 0, "removed": 1, "changed": 1},
                "night": {"added": 1, "removed": 0, "changed": 0},
            }
        },
        "relabeled": [{"from": "dog", "to": "cat", "count": 1}],
        "schema_changed": False,
        "guide_changed": False,
    }


def test_rows_before_and_after(repository: Repository) -> None:
    first = repository.commit(labeled(a="cat", b="dog"), message="first").version
    second = repository.commit(Change(annotations=labels(a="dog"), remove_samples=["b"]), message="second").version
    rows = diff(first, second).rows().to_pylist()
    assert [(row["table"], row["change"], row["key"]) for row in rows] == [
        ("samples", "removed", "b"),
        ("annotations", "removed", "b/label"),
        ("annotations", "changed", "a/label"),
    ]
    assert json.loads(rows[2]["before"])["label"] == "cat"
    assert json.loads(rows[2]["after"])["label"] == "dog"
    assert rows[0]["after"] is None


def test_a_change_and_its_reversal_cancel_out(repository: Repository) -> None:
    first = repository.commit(labeled(a="cat", b="dog"), message="first").version
    repository.commit(Change(annotations=labels(a="dog")), message="there")
    repository.commit(labeled(c="cat"), message="an addition")
    repository.commit(Change(remove_samples=["c"]), message="taken back")
    last = repository.commit(Change(annotations=labels(a="cat")), message="and back").version
    found = diff(first, last).as_dict()
    nothing = {"added": 0, "removed": 0, "changed": 0}
    assert (found["samples"], found["annotations"], found["by_class"]) == (nothing, nothing, {})
