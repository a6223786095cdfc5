"""Labelbox files: what is written, exports as Labelbox makes them, broken ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datasetops.errors import FormatError, StoreError
from datasetops.labeling.base import AnsweredTask, ImageSize, Task
from datasetops.labeling.labelbox import LabelboxFiles
from datasetops.progress import no_progress
from datasetops.schema import LabelSchema, load_schema

SIZE = ImageSize(640, 427)


@pytest.fixture(scope="module")
def cells() -> LabelSchema:
    return load_schema(Path(__file__).parents[2] / "schemas" / "blood_cells.yaml")


@pytest.fixture(scope="module")
def everything() -> LabelSchema:
    return LabelSchema.model_validate(
        {
            "name": "street",
            "version": 1,
            "tasks": [
                {"kind": "classification", "multi": True},
                {"kind": "box"},
                {"kind": "polygon"},
                {"kind": "keypoints", "keypoints": ["middle"]},
                {"kind": "text"},
            ],
            "classes": [
                {"id": 0, "name": "car", "kinds": ["box", "polygon", "classification"]},
                {"id": 1, "name": "hub", "kinds": ["keypoints"]},
                {"id": 2, "name": "sign", "kinds": ["polygon", "text", "box"]},
            ],
            "attributes": [
                {"name": "lane", "type": "number", "classes": ["car"]},
                {"name": "plate", "type": "text", "classes": ["car"]},
            ],
        }
    )


def row(annotation_id: str, kind: str, label: str | None, *sides: float, **more: Any) -> dict[str, Any]:
    values = {"annotation_id": annotation_id, "kind": kind, "label": label}
    return values | (dict(zip(("x1", "y1", "x2", "y2"), sides, strict=True)) if sides else {}) | more


def write(tasks: list[Task], schema: LabelSchema, out: Path) -> list[str]:
    return LabelboxFiles().write(tasks, schema, out, read_media={}.__getitem__, progress=no_progress)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def exported(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Imported annotations in the form in which Labelbox exports them."""

    def answer(entry: dict[str, Any]) -> dict[str, Any]:
        given = entry["answer"]
        if isinstance(given, str):
            return {"name": entry["name"], "text_answer": {"content": given}}
        chosen = [
            {"name": a["name"], "classifications": [answer(c) for c in a.get("classifications", ())]}
            for a in (given if isinstance(given, list) else [given])
        ]
        if isinstance(given, list):
            return {"name": entry["name"], "checklist_answers": chosen}
        return {"name": entry["name"], "radio_answer": chosen[0]}

    objects = []
    for number, entry in enumerate(e for e in entries if "answer" not in e):
        place = {"bounding_box": entry["bbox"]} if "bbox" in entry else {}
        place |= {key: entry[key] for key in ("polygon", "point") if key in entry}
        nested = [answer(c) for c in entry["classifications"]]
        objects.append({"feature_id": f"f{number}", "name": entry["name"], "classifications": nested} | place)
    return {"objects": objects, "classifications": [answer(e) for e in entries if "answer" in e]}


def data_row(sample_id: str, *labels: dict[str, Any], **more: Any) -> dict[str, Any]:
    project = {"labels": list(labels), "project_details": {"batch_name": "b7", "workflow_status": "DONE"}}
    media = {"width": SIZE.width, "height": SIZE.height}
    return {
        "data_row": {"id": f"id-{sample_id}", "global_key": sample_id, "external_id": f"{sample_id}.jpg"},
        "media_attributes": media,
        "projects": {"p1": project},
    } | more


def read(path: Path, rows: list[dict[str, Any]], schema: LabelSchema, size: ImageSize = SIZE) -> list[AnsweredTask]:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return LabelboxFiles().read(path, schema, {"s1": size, "s2": size}, actor="someone")


ROWS = [
    row("a1", "box", "car", 1.5, 2, 30.25, 40.125, attributes={"lane": 2, "plate": "B 1"}),
    row("a2", "polygon", "car", geometry={"polygons": [[1, 1, 30.5, 1, 30, 20]]}, attributes={"lane": 0.5}),
    row("a3", "keypoints", "hub", geometry={"keypoints": [4, 5.5, 2]}),
    row("a4", "text", "sign", 5, 5, 50, 20, text="STOP"),
    row("a5", "box", "sign", 5, 5, 50, 20),
    row("a6", "classification", "car", attributes={"lane": 3}),
    row("a7", "text", None, text="a street"),
    row("a8", "polygon", "sign", geometry={"polygons": [[1, 1, 30.5, 1, 30, 20]]}),
]


def test_what_is_written_comes_back(everything: LabelSchema, tmp_path: Path) -> None:
    out = tmp_path / "out.ndjson"
    assert (
        write(
            [Task("s1", "b", "https://x.org/1.jpg", SIZE, tuple(ROWS)), Task("s2", "b", "2.jpg", SIZE)], everything, out
        )
        == []
    )
    assert lines(out) == [
        {"row_data": "https://x.org/1.jpg", "global_key": "s1", "external_id": "s1"},
        {"row_data": "2.jpg", "global_key": "s2", "external_id": "s2"},
    ]
    entries = lines(tmp_path / "out.annotations.ndjson")
    assert {entry["dataRow"]["globalKey"] for entry in entries} == {"s1"}
    assert len({entry["uuid"] for entry in entries}) == len(ROWS)
    assert entries[0]["bbox"] == {"top": 2, "left": 1.5, "height": 38.125, "width": 28.75}
    assert entries[1]["polygon"][0] == entries[1]["polygon"][-1]
    (task,) = read(
        tmp_path / "export.ndjson", [data_row("s1", {"id": "l1", "annotations": exported(entries)})], everything
    )
    (answer,) = task.answers
    assert (answer.unread, answer.problems) == ((), ())
    found = {region.derived_from or "a7": dict(region.values) for region in answer.regions}
    assert sorted(found) == [item["annotation_id"] for item in ROWS]
    for item in ROWS:
        values = found[item["annotation_id"]]
        for key, value in item.items():
            if key != "annotation_id":
                assert values[key] == (pytest.approx(value, abs=0.01) if isinstance(value, float) else value), key
    assert len({region.name for region in answer.regions}) == len(ROWS)


def test_the_ontology_has_every_name_that_annotations_use(everything: LabelSchema, tmp_path: Path) -> None:
    write([Task("s1", "b", "1.jpg", SIZE, tuple(ROWS))], everything, tmp_path / "out.ndjson")
    ontology = json.loads((tmp_path / "out.ontology.json").read_text())
    tools = {tool["name"]: tool for tool in ontology["tools"]}
    questions = {question["name"]: question for question in ontology["classifications"]}
    assert {name: tool["tool"] for name, tool in tools.items()} == {
        "car": "rectangle",
        "car (polygon)": "polygon",
        "hub": "point",
        "sign": "polygon",
        "sign (text)": "rectangle",
        "text": "rectangle",
    }
    assert questions["class"]["type"] == "checklist"
    assert [option["value"] for option in questions["class"]["options"]] == ["car"]
    for entry in lines(tmp_path / "out.annotations.ndjson"):
        known = questions if "answer" in entry else tools
        assert entry["name"] in known
        nested = {question["name"] for question in known[entry["name"]].get("classifications", ())}
        assert {answer["name"] for answer in entry.get("classifications", ())} <= nested


def test_says_what_cannot_be_written(cells: LabelSchema, tmp_path: Path) -> None:
    rows = (
        row("a1", "mask", "RBC", geometry={"rle": {"size": [427, 640], "counts": "x"}}),
        row("a2", "keypoints", "RBC", geometry={"keypoints": [1, 2, 2, 3, 4, 2]}),
        row("a3", "polygon", "RBC", geometry={"polygons": [[1, 1, 3, 1, 3, 3], [5, 5, 7, 5, 7, 7]]}),
        row("a4", "box", "Dog", 1, 2, 3, 4),
        row("a5", "box", "RBC", 1, 2, 3, 4, attributes={"truncated": 1, "area": 4}),
        row("a6", "box", "RBC", 1, 2, 3, float("nan")),
    )
    losses = write(
        [Task("s1", "b", "1.jpg", SIZE, rows), Task("s1", "c", "1.jpg", SIZE)], cells, tmp_path / "out.ndjson"
    )
    assert losses == [
        "1 annotations of the kind mask are left out: Labelbox takes masks as images that it fetches.",
        "1 annotations of the kind keypoints are left out: Labelbox has no form for their place.",
        "1 polygons have several rings; each is shown as one of its own.",
        "1 annotations of the kind box are left out: the schema has no class 'Dog'.",
        "1 values of 'truncated' are not written: they do not fit its type.",
        "1 values of 'area' are not written: the schema does not ask for them.",
        "1 annotations of the kind box are left out: Labelbox has no form for their place.",
        "1 tasks ask for an image once more; it is written once.",
    ]
    with pytest.raises(StoreError, match="cannot be written"):
        write([], cells, tmp_path / "out.ndjson" / "below.ndjson")


LABEL = {
    "label_kind": "Default",
    "version": "1.0.0",
    "id": "clur5",
    "label_details": {
        "created_at": "2024-04-08T16:21:26.000+00:00",
        "updated_at": "2024-04-08T18:34:02.000+02:00",
        "created_by": "ann@x.org",
        "reviews": [],
    },
    "performance_details": {"seconds_to_create": 34, "seconds_to_review": 5, "skipped": False},
    "annotations": {
        "objects": [
            {
                "feature_id": "clur7",
                "name": "WBC",
                "annotation_kind": "ImageBoundingBox",
                "bounding_box": {"top": 48.0, "left": 58.0, "height": 65.0, "width": 600.5},
                "classifications": [
                    {
                        "feature_id": "q",
                        "name": "wbc_state",
                        "radio_answer": {"name": "smudged", "classifications": []},
                    },
                    {"feature_id": "q", "name": "difficult", "checklist_answers": [{"name": "true"}]},
                    {"feature_id": "q", "name": "note", "text_answer": {"content": "?"}},
                ],
            },
            {
                "feature_id": "m",
                "name": "WBC",
                "annotation_kind": "ImageSegmentationMask",
                "mask": {"url": "https://x.org"},
            },
            {"feature_id": "l", "name": "WBC", "annotation_kind": "ImagePolyline", "line": [{"x": 1, "y": 2}]},
            {"feature_id": "o", "name": "Platelet", "annotation_kind": "ImagePoint", "point": {"x": 1, "y": 2}},
            {"feature_id": "b", "name": "RBC", "bounding_box": {"top": 1, "left": None, "height": 6, "width": 6}},
        ],
        "classifications": [],
    },
}


def test_an_export_of_labelbox(cells: LabelSchema, tmp_path: Path) -> None:
    skipped = LABEL | {"id": "l2", "performance_details": {"skipped": True}, "label_details": {}}
    first, second = read(tmp_path / "e.ndjson", [data_row("s1", LABEL, skipped), data_row("s2")], cells)
    assert (first.task_id, first.sample_id, first.batch) == ("p1/id-s1", "s1", "b7")
    assert second.answers == ()
    answer, other = first.answers
    assert (answer.answer_id, answer.actor, answer.status, answer.lead_time) == ("clur5", "ann@x.org", "done", 34)
    assert (answer.created_at, answer.updated_at) == ("2024-04-08T16:21:26+00:00", "2024-04-08T16:34:02+00:00")
    (region,) = answer.regions
    assert (region.name, region.derived_from, region.changed) == ("clur7", None, True)
    assert [region.values[side] for side in ("x1", "y1", "x2", "y2")] == [58, 48, 658.5, 113]
    assert region.values["attributes"] == {"difficult": True, "wbc_state": "smudged"}
    assert answer.unread == (
        "ImageSegmentationMask m (WBC) is left out: its mask is an address that only Labelbox's key opens",
        "ImagePolyline l (WBC) is left out: no kind of annotation has its form",
        "object b (RBC) is left out: left None is not a number",
        "1 region is left out: the schema blood_cells has no class 'Platelet'; did you mean 'Platelets'?",
    )
    assert answer.problems == (
        "'note' is left out: the schema has no such attribute of 'WBC'",
        "ImageBoundingBox clur7 (WBC): place (58, 48, 658.5, 113) reaches 18.5 px out of the 640 x 427 image; kept as it is",
    )
    assert (other.answer_id, other.status, other.actor, other.regions) == ("l2", "skipped", "someone", ())


def test_coordinates_are_of_the_stored_image_unless_the_size_is_of_the_turned(
    cells: LabelSchema, tmp_path: Path
) -> None:
    place = {"name": "RBC", "bounding_box": {"left": 10, "top": 20, "width": 30, "height": 50}}
    label = {"id": "l", "annotations": {"objects": [place]}}
    turned = ImageSize(640, 427, 6)
    (stored,) = read(tmp_path / "a.ndjson", [data_row("s1", label)], cells, turned)
    assert [stored.answers[0].regions[0].values[side] for side in ("x1", "y1", "x2", "y2")] == [10, 20, 40, 70]
    shown = data_row("s1", label, media_attributes={"width": 427, "height": 640})
    (other,) = read(tmp_path / "b.ndjson", [shown], cells, turned)
    assert [other.answers[0].regions[0].values[side] for side in ("x1", "y1", "x2", "y2")] == [20, 387, 70, 417]


def test_a_list_and_file_names_as_keys(cells: LabelSchema, tmp_path: Path) -> None:
    item = data_row("s1", LABEL)
    item["data_row"] = {"id": "x", "external_id": "folder/s1.jpg"}
    file = tmp_path / "export.json"
    file.write_text(json.dumps([item]))
    (task,) = LabelboxFiles().read(file, cells, {"s1": SIZE}, actor=None)
    assert task.sample_id == "s1"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps(data_row("s1")) + '\n\n{"data_row": {"id": }', r"line 3, column \d+: broken JSON"),
        ("[1, 2", r"line 1: broken JSON"),
        ('{"DataRow ID": "x"}', r"line 1: there is no data_row"),
        ('{"data_row": {"id": "x"}}', r"line 1: data_row has neither global_key nor external_id"),
        ("[7]", r"entry 1: there is no data_row"),
        ("\xff", r"line 1"),
    ],
)
def test_broken_files_name_the_place(cells: LabelSchema, tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "export.ndjson"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(FormatError, match=message) as caught:
        LabelboxFiles().read(file, cells, {}, actor=None)
    assert caught.value.message.startswith(str(file))
    with pytest.raises(FormatError, match="cannot be read"):
        LabelboxFiles().read(tmp_path / "nowhere", cells, {}, actor=None)
