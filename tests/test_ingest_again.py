"""Ingesting again: corrected tables, worklists and the old source beside what others did meanwhile."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from pictures import write_digits
from typer.testing import CliRunner

from datasetops.cli.main import app
from datasetops.errors import RejectedError
from datasetops.ingest import IngestResult, ingest
from datasetops.manifest import Change, Repository, Version
from datasetops.records import FINDINGS
from datasetops.schema import LabelSchema, load_schema
from datasetops.splits import assign_splits


class Set:
    """A repository with photos beside it, and tables written for them."""

    def __init__(self, root: Path, schema: LabelSchema) -> None:
        self.root = root
        self.photos = root / "photos"
        write_digits(self.photos, 2, classes=4)
        self.repository = Repository.init(root, schema)

    def folder(self, **options: Any) -> IngestResult:
        return ingest(self.repository, str(self.photos), format="folder", **options)

    def table(self, header: str, *rows: str, name: str = "table.csv", **options: Any) -> IngestResult:
        (self.root / name).write_text("\n".join([header, *rows]) + "\n")
        return ingest(self.repository, str(self.root / name), images=str(self.photos), **options)

    @property
    def head(self) -> Version:
        return self.repository.version()

    def sample(self, path: str) -> dict[str, Any]:
        (row,) = (row for row in self.head.table("samples").to_pylist() if row["uri"] == f"photos/{path}")
        return row | {"metadata": json.loads(row["metadata"] or "{}")}

    def label(self, path: str) -> str | None:
        labels = self.labels(path)
        assert len(labels) < 2
        return labels[0] if labels else None

    def labels(self, path: str) -> list[str]:
        rows = self.head.annotations()
        return sorted(rows[rows["sample_id"] == self.sample(path)["sample_id"]]["label"])

    def change(self, path: str, **values: str) -> None:
        rows = self.head.annotations().drop(columns=["event_id", "created_at"])
        row = rows[rows["sample_id"] == self.sample(path)["sample_id"]].copy()
        for name, value in values.items():
            row[name] = value
        self.repository.commit(Change(annotations=row), message="changed")


@pytest.fixture
def digits(tmp_path: Path) -> Set:
    return Set(tmp_path / "set", load_schema("digits"))


ZERO, OTHER, ONE = "0/0000.png", "0/0010.png", "1/0001.png"


def test_what_a_source_does_not_have_stays(digits: Set) -> None:
    full = f"{ZERO},0,train,g1,clinic,CC0,yes,2024-05-31,2030-01-01,5,left"
    digits.table("path,label,split,group,origin,license,consent,captured_at,expires_at,age,side", full)
    before = digits.sample(ZERO)
    result = digits.table("path,label,split,side,note", f"{ZERO},1,,,blurred")
    assert digits.sample(ZERO) == before | {"metadata": {"age": 5, "side": "left", "note": "blurred"}}
    assert digits.label(ZERO) == "1"
    assert result.effect == "v2: 0 samples added, 1 changed; 1 label changed, 0 removed, 0 added"
    digits.table("path,split,age", f"{ZERO},test,6")
    assert (digits.sample(ZERO)["split"], digits.sample(ZERO)["metadata"]["age"], digits.label(ZERO)) == (
        "test",
        6,
        "1",
    )
    digits.folder()
    assert digits.sample(ZERO)["split"] == "test"
    digits.folder(split="val")
    assert digits.sample(ZERO)["split"] == "val"


def test_a_sealed_split_takes_corrected_labels(digits: Set) -> None:
    digits.folder()
    assign_splits(digits.repository, {"train": 0.5, "test": 0.5}, seal=("test",))
    splits = digits.head.samples()["split"].tolist()
    assert "test" in splits
    paths = sorted(path.relative_to(digits.photos).as_posix() for path in digits.photos.rglob("*.png"))
    assert digits.table("path,label", *(f"{path},3" for path in paths)).changed
    assert digits.head.samples()["split"].tolist() == splits
    assert set(digits.head.annotations()["label"]) == {"3"}
    with pytest.raises(RejectedError, match="sealed"):
        digits.table("path,split", *(f"{path},train" for path in paths))


def test_labels_are_corrected_by_the_id_of_the_sample(digits: Set) -> None:
    digits.folder()
    before = digits.sample(ZERO)
    result = digits.table("sample_id,label", f"{before['sample_id']},7", "nobody,7")
    assert (digits.sample(ZERO), digits.label(ZERO)) == (before, "7")
    assert result.counts["samples"] == {"added": 0, "changed": 0, "removed": 0}
    (row,) = result.as_dict()["rejected_rows"]
    assert row["message"] == "table.csv, line 3: v1 has no sample 'nobody', and there is no path to an image"
    assert row["uri"] == str(digits.root / "table.csv")


def test_corrections_by_id_go_over_people_and_keep_the_rest_of_the_annotation(digits: Set) -> None:
    digits.folder()
    digits.change(ZERO, source="human", actor="lead", label="5", attributes='{"smudged":true}', annotation_id="own")
    imported = f"{digits.sample(ZERO)['sample_id']}/label"
    digits.repository.commit(Change(remove_annotations=[imported]), message="the person's alone")
    assert digits.table("path,label", f"{ZERO},8", name="a.csv").kept == 1
    assert digits.label(ZERO) == "5"
    digits.table("sample_id,label", f"{digits.sample(ZERO)['sample_id']},8", name="b.csv")
    (row,) = (row for row in digits.head.table("annotations").to_pylist() if row["annotation_id"] == "own")
    assert [row[name] for name in ("label", "source", "actor", "attributes")] == [
        "8",
        "import",
        None,
        '{"smudged":true}',
    ]
    assert digits.label(ZERO) == "8"


@pytest.fixture
def boxes(tmp_path: Path, schema: LabelSchema) -> Set:
    found = Set(tmp_path / "set", schema)
    images = [{"id": 1, "file_name": ZERO, "width": 8, "height": 8}, {"id": 2, "file_name": ONE}]
    rows = [{"id": n, "image_id": 1 + n // 3, "category_id": 1, "bbox": [n, 1, 3, 4]} for n in (1, 2, 3)]
    document = {
        "images": images,
        "annotations": rows,
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(document))
    ingest(found.repository, str(tmp_path / "coco.json"), images=str(found.photos))
    return found


def test_boxes_are_corrected_by_the_id_of_the_annotation(boxes: Set) -> None:
    before = boxes.head.annotations().set_index("annotation_id")
    first, second, _ = before.index
    result = boxes.table("annotation_id,label", f"{first},dog", f"{second},", "nothing,dog")
    after = boxes.head.annotations().set_index("annotation_id")
    assert (after.loc[first, "label"], result.rejected) == ("dog", 1)
    assert "v1 has no annotation 'nothing'" in result.findings[0].message
    same = [name for name in before.columns if name not in ("label", "event_id", "created_at")]
    assert after[same].equals(before[same])
    assert after.drop(index=first).equals(before.drop(index=first))


def worklist(digits: Set, labels: list[str] | None, *, absolute: bool = False) -> IngestResult:
    """Findings as `dsops findings --out` writes them, of the first samples, with a column label that was added."""
    more = {"chance": 0.8, "expected_seconds": 6.0, "verdict": "error", "note": "seen"}
    names = [*FINDINGS.names, *more] + ([] if labels is None else ["label"])
    file = digits.root / "worklist.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(names)
        rows = digits.head.table("annotations", ["sample_id", "annotation_id", "label"]).to_pylist()
        uris = dict(zip(*(digits.head.samples()[name] for name in ("sample_id", "uri")), strict=True))
        for number, row in enumerate([rows[0], rows[0], rows[1]]):
            uri = uris[row["sample_id"]]
            values = {
                "finding_id": f"f{number}",
                "check": "label_noise",
                "severity": "high",
                "score": 0.1,
                "uri": str(digits.root / uri) if absolute else uri,
                "split": "elsewhere",
                "given": row["label"],
                "suggested": "9",
                "message": "looks otherwise",
                "sample_id": None if absolute else row["sample_id"],
                "annotation_id": None if absolute else row["annotation_id"],
            }
            values |= more
            values["label"] = labels[number] if labels else None
            writer.writerow([values.get(name) for name in names])
    return ingest(digits.repository, str(file))


@pytest.mark.parametrize("absolute", [False, True])
def test_a_worklist_corrects_labels_and_nothing_else(digits: Set, absolute: bool) -> None:
    digits.folder()
    samples, before = digits.head.table("samples"), digits.head.annotations()["label"].tolist()
    untouched = worklist(digits, None, absolute=absolute)
    assert (untouched.changed, untouched.findings) == (False, [])
    assert untouched.notes == ["worklist.csv: no label column: 0 annotations"]
    result = worklist(digits, ["", "9", ""], absolute=absolute)
    assert result.findings == []
    assert digits.head.table("samples").equals(samples)
    assert digits.head.annotations()["label"].tolist() == ["9", *before[1:]]
    disagreeing = worklist(digits, ["8", "7", ""], absolute=absolute)
    (finding,) = disagreeing.findings
    assert "their labels disagree (8 there, 7 here)" in finding.message


def test_absolute_paths_below_the_images_are_found(digits: Set) -> None:
    digits.table("path,label", f"{digits.photos / ZERO},0")
    assert digits.label(ZERO) == "0"


def test_a_rejected_row_changes_nothing(digits: Set) -> None:
    digits.folder()
    before = digits.head
    result = digits.table("path,label,split", f"{ZERO},zero,train", f"{ONE},1,train")
    assert (result.rejected, digits.label(ZERO), digits.sample(ZERO)["split"]) == (1, "0", None)
    assert digits.sample(ONE)["split"] == "train"
    assert digits.head.table("annotations").equals(before.table("annotations"))


def test_a_rejected_answer_leaves_the_annotators_earlier_one(digits: Set) -> None:
    head = "path,label,annotator"
    digits.table(head, f"{ZERO},0,a", f"{ZERO},1,b")
    digits.table(head, f"{ZERO},0,a", f"{ZERO},one,b")
    assert digits.labels(ZERO) == ["0", "1"]
    digits.table(head, f"{ZERO},0,a")
    assert digits.labels(ZERO) == ["0"]
    digits.table("path,label", f"{ZERO},3", name="b.csv")
    assert digits.labels(ZERO) == ["0", "3"]  # the answer of an annotator stays beside a label by nobody


def test_the_original_source_does_not_take_corrections_back(digits: Set) -> None:
    digits.folder()
    digits.table("path,label", f"{ZERO},5", f"{ONE},6", name="fixed.csv")
    for _ in range(3):
        again = digits.folder()
        assert (again.changed, again.kept, again.conflicts) == (False, 2, 0)
        assert (digits.label(ZERO), digits.label(ONE)) == ("5", "6")
    digits.folder(overrule=True)
    assert (digits.label(ZERO), digits.label(ONE)) == ("0", "1")


def test_what_both_changed_stays_and_is_told(digits: Set) -> None:
    digits.table("path,label", f"{ZERO},0", f"{OTHER},0", f"{ONE},1", name="first.csv")
    digits.table("path,label", f"{ZERO},5", f"{OTHER},0", name="second.csv")
    digits.change(OTHER, label="6", source="import")
    result = digits.table("path,label", f"{ZERO},7", f"{OTHER},0", f"{ONE},2", name="first.csv")
    assert (digits.label(ZERO), digits.label(OTHER), digits.label(ONE)) == ("5", "6", "2")
    (finding,) = result.findings
    assert (finding.given, finding.suggested, finding.sample_id) == ("5", "7", digits.sample(ZERO)["sample_id"])
    assert (result.conflicts, result.kept) == (1, 2)
    assert digits.table("path,label", f"{ZERO},7", f"{OTHER},0", f"{ONE},2", name="first.csv").conflicts == 0
    digits.table("path,label", f"{ZERO},8", f"{OTHER},0", f"{ONE},2", name="first.csv", overrule=True)
    assert (digits.label(ZERO), digits.label(OTHER)) == ("8", "0")


def test_a_worklist_of_the_same_name_may_correct_others(digits: Set) -> None:
    digits.folder()
    first, second = (digits.sample(path)["sample_id"] for path in (ZERO, ONE))
    digits.table("sample_id,label", f"{first},5")
    digits.change(ONE, label="6", source="human")
    digits.change(ZERO, label="4", source="human")
    result = digits.table("sample_id,label", f"{first},5", f"{second},7")
    assert (digits.label(ZERO), digits.label(ONE), result.conflicts) == ("4", "7", 0)


def test_only_ingests_of_ones_own_history_are_compared(digits: Set) -> None:
    digits.folder()
    digits.repository.create_branch("other")
    digits.table("path,label", f"{ZERO},0", name="a.csv")
    digits.table("path,label", f"{ZERO},5", name="b.csv")
    result = digits.table("path,label", f"{ZERO},4", name="b.csv", branch="other")
    assert (result.changed, result.conflicts) == (True, 0)
    digits.change(ZERO, label="6")
    assert digits.table("path,label", f"{ZERO},4", name="b.csv").conflicts == 1
    assert digits.label(ZERO) == "6"


def test_a_row_has_all_classes_of_its_image_where_there_may_be_several(tmp_path: Path) -> None:
    schema = load_schema("digits").model_dump() | {"tasks": [{"kind": "classification", "multi": True}]}
    several = Set(tmp_path / "set", LabelSchema.model_validate(schema))
    several.table("path,label", f"{ZERO},0|1", f"{ONE},1")
    several.table("sample_id,label", f"{several.sample(ZERO)['sample_id']},1|2", f"{several.sample(ONE)['sample_id']},")
    assert (several.labels(ZERO), several.labels(ONE)) == (["1", "2"], ["1"])


def test_a_table_of_ids_alone_is_a_source_like_others(tmp_path: Path) -> None:
    repository = Repository.init(tmp_path / "set", load_schema("digits"))

    def again(*labels: str) -> IngestResult:
        (tmp_path / "t.csv").write_text("id,label\n" + "".join(f"s{n},{label}\n" for n, label in enumerate(labels)))
        return ingest(repository, str(tmp_path / "t.csv"), format="table")

    rows = again("0", "1").version.annotations().drop(columns=["event_id", "created_at"])
    assert not again("0", "1").changed
    repository.commit(Change(annotations=rows.assign(label=["5", "1"])), message="corrected")
    assert (again("0", "1").kept, again("0", "1").changed) == (1, False)
    assert again("0", "2", "3").effect == "v3: 1 sample added, 0 changed; 1 label changed, 0 removed, 1 added"
    assert repository.version().annotations()["label"].tolist() == ["5", "2", "3"]


def test_removed_boxes_and_moved_ones(boxes: Set, tmp_path: Path) -> None:
    source = str(tmp_path / "coco.json")
    rows = boxes.head.annotations().drop(columns=["event_id", "created_at"])
    gone, moved, third = (next(key for key in rows["annotation_id"] if key.endswith(f"#{n}")) for n in (1, 2, 3))
    shifted = rows[rows["annotation_id"] == moved].assign(x1=0.0, y1=5.0, x2=1.0, y2=8.0)
    boxes.repository.commit(Change(annotations=shifted, remove_annotations=[gone]), message="by hand")
    before = boxes.head.table("annotations")
    for _ in range(2):
        again = ingest(boxes.repository, source, images=str(boxes.photos))
        assert (again.changed, again.kept, again.findings) == (False, 2, [])
    document = json.loads((tmp_path / "coco.json").read_text())
    document["annotations"] = document["annotations"][:1]
    document["annotations"][0]["category_id"] = 2
    (tmp_path / "coco.json").write_text(json.dumps(document))
    result = ingest(boxes.repository, source, images=str(boxes.photos))
    assert result.conflicts == 2  # removed by hand and relabeled in the source; moved by hand and removed in the source
    assert boxes.head.table("annotations").equals(
        before.filter([row != third for row in before["annotation_id"].to_pylist()])
    )


def test_regions_without_ids_are_known_again(data: Path, tmp_path: Path) -> None:
    repository = Repository.init(tmp_path / "cells", load_schema("blood_cells"))
    folder = tmp_path / "few"
    for file in sorted((data / "bccd" / "annotations_voc").glob("*.xml"))[:8]:
        for name in (f"annotations_voc/{file.name}", f"images/{file.stem}.jpg"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((data / "bccd" / name).read_bytes())

    def again() -> IngestResult:
        return ingest(repository, str(folder / "annotations_voc"), format="voc", images=str(folder / "images"))

    rows = again().version.annotations().drop(columns=["event_id", "created_at"])
    moved = rows.iloc[[3]].assign(x1=0.0, y1=0.0, x2=4.0, y2=4.0, source="import")
    repository.commit(Change(annotations=moved, remove_annotations=[rows["annotation_id"].iloc[7]]), message="by hand")
    for _ in range(2):
        result = again()
        assert (result.changed, result.kept, result.conflicts) == (False, 2, 0)


@pytest.mark.parametrize("key", ["path", "uri"])
def test_a_source_confirms_what_a_model_said(digits: Set, key: str) -> None:
    digits.folder()
    for path in (ZERO, ONE):
        digits.change(path, source="model", actor=None, model="m", score=0.9)
    column = {"path": str, "uri": lambda path: digits.sample(path)["uri"]}[key]
    result = digits.table(f"{key},label", f"{column(ZERO)},0", f"{column(ONE)},")
    assert (result.confirmed, result.kept) == (1, 0)
    assert result.effect.endswith("0 labels changed, 0 removed, 0 added, 1 of models confirmed")
    rows = {row["sample_id"]: row for row in digits.head.table("annotations").to_pylist()}
    zero, one = (rows[digits.sample(path)["sample_id"]] for path in (ZERO, ONE))
    assert [zero[name] for name in ("label", "source", "model", "score")] == ["0", "import", None, None]
    assert [one[name] for name in ("source", "model", "score")] == ["model", "m", pytest.approx(0.9)]
    assert not digits.table(f"{key},label", f"{column(ZERO)},0", f"{column(ONE)},").changed


def test_the_same_image_twice_says_that_labels_disagree(digits: Set) -> None:
    result = digits.table("path,label", f"{ZERO},0", f"{ZERO},1", f"{ONE},1", f"{ONE},1")
    assert [finding.message for finding in result.findings] == [
        f"table.csv, line 3: {ZERO!r} stands in line 2 already, and their labels disagree (0 there, 1 here); "
        "the first is kept",
        f"table.csv, line 5: {ONE!r} stands in line 4 already; that one is kept",
    ]


def test_the_command_tells_its_effect(digits: Set) -> None:
    digits.folder()
    (digits.root / "fixed.csv").write_text(f"path,label\n{ZERO},4\n{ONE},one\n")
    run = CliRunner()
    command = ["ingest", str(digits.root / "fixed.csv"), "--images", str(digits.photos), "-C", str(digits.root)]
    told = run.invoke(app, command)
    assert told.stdout.startswith("v2: 0 samples added, 0 changed; 1 label changed, 0 removed, 0 added\n")
    assert digits.head.commit.message == "Ingest fixed.csv (table)"
    answer = json.loads(run.invoke(app, [*command, "--json"]).stdout)
    assert answer["counts"]["annotations"] == {"added": 0, "changed": 0, "removed": 0}
    assert [(row["given"], row["uri"]) for row in answer["rejected_rows"]] == [("one", str(digits.root / "fixed.csv"))]
    (digits.root / "bare.csv").write_text(f"path\n{ZERO}\n")
    bare = run.invoke(app, ["ingest", str(digits.root / "bare.csv"), "--images", str(digits.photos), *command[4:]])
    assert "note: bare.csv: no label column: 0 annotations" in bare.stderr
    assert bare.stdout == "v2: nothing changed (1 samples, 0 labels)\n"
