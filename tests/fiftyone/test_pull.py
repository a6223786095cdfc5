"""What people change in FiftyOne comes back: changed there with FiftyOne itself, against a running database."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from fiftyone_cases import MASK, commit, counted, export, found, labels, noise, sample

from datasetops.audits.decisions import decisions
from datasetops.errors import ConflictError, NotFoundError
from datasetops.fiftyone import FiftyOnePull, pull_from_fiftyone
from datasetops.labeling.masks import decoded
from datasetops.manifest import Repository
from datasetops.records import Finding

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("fiftyone")]


def pull(repository: Repository, name: str, **options: Any) -> FiftyOnePull:
    return pull_from_fiftyone(repository, name=name, **options)


def rows(repository: Repository) -> dict[str, dict[str, Any]]:
    """Annotations of the newest version by id, geometry and attributes as dicts."""
    found = {row["annotation_id"]: row for row in repository.version().table("annotations").to_pylist()}
    objects = ("geometry", "attributes", "answer")
    return {key: row | {name: json.loads(row[name] or "null") for name in objects} for key, row in found.items()}


def corners(row: dict[str, Any]) -> list[float]:
    return [row[side] for side in ("x1", "y1", "x2", "y2")]


def test_nothing_changed_there_changes_nothing_here(everything: Repository, fiftyone: Any, name: str) -> None:
    export(everything, name)
    before, entries = rows(everything), len(list(everything.ledger.backwards()))
    for item in fiftyone.load_dataset(name).iter_samples(autosave=True):
        item.tags.append("seen")
        item.boxes.detections[0].tags.append("nice")
        item["theirs"] = 1
    result = pull(everything, name)
    assert (result.version, result.labels) == (None, {"changed": 0, "added": 0, "removed": 0})
    assert result.notes == []
    assert rows(everything) == before
    assert len(list(everything.ledger.backwards())) == entries


def test_every_kind_of_change_comes_back(everything: Repository, fiftyone: Any, name: str) -> None:
    export(everything, name)
    before = rows(everything)
    first, second, third, turned, last = fiftyone.load_dataset(name).sort_by("sample_id")
    first.boxes.detections[0].label = "cat"
    first.boxes.detections[0]["occluded"] = False
    first.texts.classifications[0].label = "two gardens"
    first.boxes.detections.append(fiftyone.Detection(label="cat", bounding_box=[0.5, 0.5, 0.25, 0.25]))
    first.save()
    second.classification = fiftyone.Classification(label="dog")  # another object, the same meaning
    second.polygons.polylines[0].points[0][2] = [0.2, 0.1]
    second.save()
    third.boxes = None
    third.keypoints.keypoints[0].points[1] = [0.5, 0.5]
    third.save()
    turned.boxes.detections[0].bounding_box = [0.5, 0.1, 0.4, 0.5]  # as shown: the image is turned
    mask = turned.masks.detections[0].mask.copy()
    mask[:10] = False
    turned.masks.detections[0].mask = mask
    turned.save()
    last.boxes.detections[0].confidence = 0.25  # no word of a person about the image
    last.save()
    result = pull(everything, name, actor="kim")
    assert result.labels == {"changed": 7, "added": 1, "removed": 1}
    assert (result.version, result.exported, result.conflicts, result.unread) == ("v2", "v1", [], {})
    after = rows(everything)
    assert "s2b" not in after
    (new,) = after.keys() - before.keys()
    assert corners(after[new]) == pytest.approx([320, 213.5, 480, 320.25])
    assert (after[new]["kind"], after[new]["label"], after[new]["derived_from"]) == ("box", "cat", None)
    assert after["s0b"]["attributes"] == {"occluded": False, "tags": "x"}
    assert corners(after["s0b"]) == corners(before["s0b"])  # to the last bit: only the class was changed
    assert (after["s0t"]["text"], after["s0t"]["label"]) == ("two gardens", None)
    assert after["s1c"]["label"] == "dog"
    assert after["s1p"]["geometry"]["polygons"][0] == pytest.approx([0, 0, 64, 0, 128, 42.7])
    assert after["s1p"]["geometry"]["polygons"][1] == before["s1p"]["geometry"]["polygons"][1]
    assert after["s2k"]["geometry"]["keypoints"] == pytest.approx([64, 42.7, 2, 320, 213.5, 2])
    assert corners(after["s3b"]) == pytest.approx([64, 42.7, 384, 213.5])
    assert corners(after["s3b"])[:2] == corners(before["s3b"])[:2]
    smaller = MASK.copy()
    smaller[:, :310] = False
    assert np.array_equal(decoded(after["s3m"]["geometry"]["rle"]), smaller)
    changed = [row for key, row in after.items() if row["answer"]]
    assert len(changed) == 8
    assert {(row["source"], row["actor"]) for row in changed} == {("human", "kim")}
    assert after["s0b"]["derived_from"] == "s0b"
    assert after["s0b"]["answer"] == {"tool": "fiftyone", "changed": True, "from_version": "v1"}
    assert {key: row for key, row in after.items() if not row["answer"]} == {
        key: row for key, row in before.items() if key in after and not after[key]["answer"]
    }
    event = next(entry.event for entry in everything.ledger.backwards())
    assert (event.kind, event.inputs["version"], event.parameters["dataset"]) == ("label-pull", "v1", name)
    assert event.outputs["labels"] == {"changed": 7, "added": 1, "removed": 1}


def test_what_came_back_is_known_afterwards(everything: Repository, fiftyone: Any, name: str) -> None:
    export(everything, name)
    first = fiftyone.load_dataset(name).first()
    first.boxes.detections[0].label = "cat"
    first.boxes.detections.append(fiftyone.Detection(label="cat", bounding_box=[0.5, 0.5, 0.25, 0.25], tags=["new"]))
    first.boxes.detections[1]["eval"] = "fp"
    first.texts = None
    first.save()
    assert pull(everything, name).version == "v2"
    assert pull(everything, name).version is None
    assert export(everything, name).kept == 0
    assert counted(export(everything, name)) == (0, 0, 5, 0)
    dataset = fiftyone.load_dataset(name)
    dataset.reload()
    (added,) = (item for item in dataset.first().boxes.detections if item.annotation_id != "s0b")
    assert (added.tags, added["eval"], added.source) == (["new"], "fp", "human")
    first = dataset.first()
    next(item for item in first.boxes.detections if item.annotation_id != "s0b").label = "dog"  # once more
    first.save()
    assert pull(everything, name).labels == {"changed": 1, "added": 0, "removed": 0}
    assert [row["label"] for key, row in rows(everything).items() if "#" in key] == ["dog"]


def test_what_both_changed_is_told_and_left(everything: Repository, fiftyone: Any, name: str) -> None:
    export(everything, name)
    one, two, three, four, five = fiftyone.load_dataset(name).sort_by("sample_id")
    for item in (one, two, three):
        item.boxes.detections[0].label = "cat"
        item.save()
    four.boxes = None
    four.save()
    five.classification = None
    five.save()
    moved = [labels(number)[1] | {"x1": 1.0, "actor": "bob"} for number in (0, 3)]
    same = labels(1)[1] | {"label": "cat", "actor": "bob"}
    commit(everything, annotations=[*moved, same, labels(4)[0] | {"label": "dog"}], remove_annotations=["s2b"])
    result = pull(everything, name)
    assert (result.version, result.labels) == (None, {"changed": 0, "added": 0, "removed": 0})
    assert sorted(conflict.key for conflict in result.conflicts) == ["s0b", "s2b", "s3b", "s4c"]
    assert export(everything, name).kept == 4  # the one that both changed alike is known
    result = pull(everything, name, overrule=True)
    assert (result.labels, result.conflicts) == ({"changed": 1, "added": 1, "removed": 2}, [])
    after = rows(everything)
    assert (after["s0b"]["label"], after["s0b"]["x1"]) == ("cat", 64.0)
    assert {"s3b", "s4c"}.isdisjoint(after)
    assert [row["label"] for row in after.values() if row["sample_id"] == "s2" and row["kind"] == "box"] == ["cat"]


def test_a_kept_label_is_compared_with_what_was_written_of_it(everything: Repository, fiftyone: Any, name: str) -> None:
    """After a later export that left a changed label alone, only that one is taken, not its old neighbour."""
    other = labels(0)[1] | {"annotation_id": "s0x", "x1": 5.0}
    commit(everything, annotations=[other])
    export(everything, name)
    first = fiftyone.load_dataset(name).first()
    next(item for item in first.boxes.detections if item.annotation_id == "s0b").label = "cat"
    first.save()
    commit(everything, annotations=[other | {"label": "cat", "actor": "bob"}])
    assert export(everything, name).kept == 1
    assert pull(everything, name).labels == {"changed": 1, "added": 0, "removed": 0}
    after = rows(everything)
    assert {key: (after[key]["label"], after[key]["actor"]) for key in ("s0b", "s0x")}["s0x"] == ("cat", "bob")
    assert after["s0b"]["label"] == "cat"


def test_what_cannot_be_an_annotation_is_told(everything: Repository, fiftyone: Any, name: str) -> None:
    export(everything, name)
    dataset = fiftyone.load_dataset(name)
    first, second = dataset.limit(2)
    first.boxes.detections[0].label = "Cat"
    first.boxes.detections.append(fiftyone.Detection(label="cat", bounding_box=[0.5, 0.5, 0.0, 0.25]))
    first.polygons.polylines.append(fiftyone.Polyline(label="cat", points=[[(0, 0), (1, 1), (1, 0)]], closed=False))
    first.keypoints.keypoints.append(fiftyone.Keypoint(label="cat", points=[(0.5, 0.5)]))
    first["predictions"] = fiftyone.Detections(detections=[])
    first.save()
    second.boxes.detections[0]["occluded"] = "perhaps"
    assert fiftyone.load_dataset(name) is dataset
    dataset.add_sample(fiftyone.Sample(filepath="/nowhere.jpg"))
    dataset.delete_samples([dataset.match({"sample_id": "s4"}).first().id])
    result = pull(everything, name)
    assert result.version is None
    assert result.deleted == ["s4"]
    told = "\n".join(result.notes)
    for part in (
        "the schema everything has no class 'Cat'; did you mean 'cat'?",
        "its bounding box has no area",
        "an open line",
        "it has not the 2 points",
        "1 samples were deleted in FiftyOne, such as s4",
        "1 samples were added in FiftyOne",
        "did not make stay in FiftyOne: predictions",
    ):
        assert part in told
    assert sum(result.unread.values()) == 4


def test_tags_of_people_become_a_key_of_the_metadata(everything: Repository, fiftyone: Any, name: str) -> None:
    export(everything, name)
    dataset = fiftyone.load_dataset(name)
    first, second = dataset.limit(2)
    first.tags += ["glare", "blur"]
    second.tags.append("blur")
    first.save()
    second.save()
    with pytest.raises(ConflictError, match="a key 'light' already"):
        pull(everything, name, tags="light")
    result = pull(everything, name, tags="seen")
    assert (result.version, result.tagged) == ("v2", 2)
    samples = everything.version().samples().set_index("sample_id")["metadata"]
    assert (samples["s0"]["seen"], samples["s1"]["seen"], "seen" in samples["s2"]) == ("blur, glare", "blur", False)
    assert samples["s0"]["light"] == "day"
    assert pull(everything, name, tags="seen").version is None
    second.tags.remove("blur")
    second.save()
    assert pull(everything, name, tags="seen").tagged == 1
    assert "seen" not in everything.version().samples().set_index("sample_id")["metadata"]["s1"]


def test_findings_whose_tag_was_taken_away_are_told_and_may_be_called_fine(
    everything: Repository, fiftyone: Any, name: str
) -> None:
    found(everything, noise(0, 0.2), noise(1, 0.3), noise(2, 0.4), Finding("outlier", "low", 0.5, "is far", "s0"))
    export(everything, name)
    for item in fiftyone.load_dataset(name).limit(2):
        item.tags.remove("finding:label_noise")
        if item["sample_id"] == "s1":
            item.classification.label = "dog"  # mended, so the finding was right
        item.save()
    result = pull(everything, name)
    assert (result.dealt_with, result.decided, result.version) == ({"label_noise": 2}, 0, "v2")
    assert decisions(everything) == []
    assert pull(everything, name, fine=True).decided == 1
    (made,) = decisions(everything)
    assert (made.sample_id, made.verdict, made.check) == ("s0", "fine", "label_noise")
    assert pull(everything, name, fine=True).decided == 0
    commit(everything, [sample(0, split="val")])
    found(everything, noise(0, 0.2), noise(2, 0.4))
    export(everything, name)
    assert (
        fiftyone.load_dataset(name).count_sample_tags()["finding:label_noise"] == 1
    )  # what is fine is not shown again


def test_a_dataset_that_is_not_there_or_not_ours_is_refused(
    everything: Repository, repository: Repository, fiftyone: Any, name: str
) -> None:
    with pytest.raises(NotFoundError, match="no dataset"):
        pull(everything, name)
    export(everything, name)
    commit(repository, [sample(0)])
    with pytest.raises(ConflictError, match="another repository"):
        pull(repository, name)
