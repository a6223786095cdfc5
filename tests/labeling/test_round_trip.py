"""Tasks to a real Label Studio server and answers back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_studio_server import Annotator, Server
from pictures import photos, write_digits

from datasetops.errors import ConflictError, NotFoundError
from datasetops.ingest import ingest
from datasetops.labeling import batches, choose_project, make_batch, open_project, pull, push, set_up, status
from datasetops.labeling.label_studio.connection import LabelServerError
from datasetops.manifest import Change, Repository
from datasetops.records import VOTE
from datasetops.schema import LabelSchema, load_schema

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("label-studio")]

ROOT = Path(__file__).parents[2]


class Work:
    """A repository of digits and its project."""

    def __init__(self, folder: Path, server: Server, *, schema: LabelSchema | None = None, name: str = "") -> None:
        self.server = server
        self.repository = Repository.init(folder, schema or load_schema(ROOT / "schemas" / "digits.yaml"))
        self.name = name or folder.parent.name

    def ingest_digits(self, count: int = 1) -> Work:
        write_digits(Path(self.repository.root or "") / "photos", count, side=32)
        ingest(self.repository, Path(self.repository.root or "") / "photos", format="folder")
        return self

    def set_up(self, **options: Any) -> Work:
        self.project, self.said = set_up(self.repository, self.repository.version(), name=self.name, **options)
        self.annotator = Annotator(self.server, self.project.id)
        return self

    def push(self, version: str = "main", samples: list[str] | None = None, **options: Any) -> Any:
        chosen = self.repository.version(version)
        ids = samples or chosen.table("samples", ["sample_id"])["sample_id"].to_pylist()
        batch = make_batch(self.repository, chosen, ids, self.project, **options)
        return push(self.repository, batch, open_project(self.repository, self.project))

    def pull(self, **options: Any) -> Any:
        self.project = choose_project(self.repository, self.project.name)
        return pull(self.repository, self.project, open_project(self.repository, self.project), **options)

    def row(self, key: str, version: str = "main") -> dict[str, Any]:
        frame = self.repository.version(version).annotations()
        return dict(frame[frame["annotation_id"] == key].iloc[0])


@pytest.fixture
def work(tmp_path: Path, label_studio: Server) -> Work:
    return Work(tmp_path / "repository", label_studio).ingest_digits().set_up()


def test_a_project_is_made_once_with_the_guide_as_its_instruction(tmp_path: Path, label_studio: Server) -> None:
    work = Work(tmp_path / "repository", label_studio)
    guide = (ROOT / "labeling_guides" / "digits.md").read_text()
    write_digits(tmp_path / "photos", 1)
    ingest(work.repository, tmp_path / "photos", format="folder")
    work.repository.commit(Change(guide=guide), message="guide")
    work.set_up()
    project = label_studio.connection.get(f"api/projects/{work.project.id}/")
    assert "<h1>" in project["expert_instruction"]
    assert project["show_instruction"]
    assert work.set_up().said == ["The project is up to date."]
    assert len([p for p in label_studio.connection.get("api/projects/")["results"] if p["title"] == work.name]) == 1


def test_a_project_whose_record_was_lost_is_found_again(work: Work) -> None:
    before = work.project.id
    work.repository.store.delete(f"labeling/projects/{work.name}.json")
    assert work.set_up().project.id == before


def test_answers_come_back_as_one_version_with_who_and_how(work: Work) -> None:
    assert work.push().created == 10
    tasks = work.annotator.tasks()
    a, b, c = sorted(tasks)[:3]
    assert tasks[a]["predictions"][0]["model_version"] == "v1"
    work.annotator.answer(tasks[a])
    other = "7" if work.row(f"{b}/label")["label"] != "7" else "1"
    work.annotator.choose(tasks[b], other)
    work.annotator.skip(tasks[c])

    result = work.pull()

    assert (result.version, result.answers, result.skipped) == ("v2", 2, 1)
    kept, changed, skipped = (work.row(f"{sample}/label") for sample in (a, b, c))
    assert kept["source"] == changed["source"] == "human"
    assert kept["actor"] == "lead@example.com"
    assert kept["derived_from"] == f"{a}/label"
    assert kept["answer"]["lead_time"] == 3.5
    assert kept["answer"]["tool"].startswith("label-studio 1.")
    assert (kept["answer"]["changed"], changed["answer"]["changed"]) == (False, True)
    assert (changed["label"], skipped["source"]) == (other, "import")
    event = next(e.event for e in work.repository.ledger.backwards() if e.event.event_id == changed["event_id"])
    assert event.inputs["schema"] == work.repository.version("v1").commit.schema
    assert event.parameters["tool_version"].startswith("1.")
    assert work.pull().version is None
    assert len(list(work.repository.versions())) == 2


def test_an_answer_that_is_edited_skipped_or_withdrawn_is_followed(work: Work) -> None:
    work.push()
    tasks = work.annotator.tasks()
    sample = min(tasks)
    before = work.row(f"{sample}/label")["label"]
    other = "7" if before != "7" else "1"
    made = work.annotator.choose(tasks[sample], other)
    assert work.pull().version == "v2"
    call = work.annotator.connection.call
    edited = [{**made["result"][0], "value": {"choices": [before]}}]
    call("PATCH", f"api/annotations/{made['id']}/", body={"result": edited})
    assert work.pull().version == "v3"
    assert work.row(f"{sample}/label")["label"] == before
    call("PATCH", f"api/annotations/{made['id']}/", body={"result": made["result"]})
    assert work.pull().version == "v4"
    call("DELETE", f"api/annotations/{made['id']}/")
    result = work.pull()
    assert (result.version, result.withdrawn) == ("v5", 1)
    row = work.row(f"{sample}/label")
    assert (row["label"], row["source"]) == (before, "import")
    assert work.pull().version is None


def test_pushing_again_makes_no_task_twice(work: Work) -> None:
    first = work.push()
    assert (first.created, first.existing) == (10, 0)
    assert (work.push().created, work.push().existing) == (0, 10)
    some = sorted(work.annotator.tasks())[:4]
    assert work.push(samples=some, name="again").created == 4  # another batch asks anew
    assert work.annotator.connection.get(f"api/projects/{work.project.id}/")["task_number"] == 14
    with pytest.raises(ConflictError, match="again"):
        work.push(samples=some[:2], name="again")


def test_tasks_that_a_late_request_made_twice_are_removed(work: Work) -> None:
    work.push(name="b")
    one = next(iter(work.annotator.tasks().values()))
    work.annotator.connection.call("POST", f"api/projects/{work.project.id}/import", body=[{"data": one["data"]}])
    work.annotator.answer(one)
    assert work.push(name="b").removed == 1
    left = work.annotator.connection.get("api/tasks/", project=work.project.id, page_size=100)["tasks"]
    assert len(left) == 10
    assert one["id"] in [task["id"] for task in left]


def test_several_answers_are_kept_and_merged(work: Work) -> None:
    sample = work.repository.version().samples()["sample_id"].min()
    work.push(samples=[sample], overlap=3)
    before = work.row(f"{sample}/label")["label"]
    other = "7" if before != "7" else "1"
    task = work.annotator.tasks()[sample]
    for number, label in enumerate((other, before, other)):
        token = work.server.add_member(f"annotator{number}-{work.project.id}@example.com")
        Annotator(work.server, work.project.id, token).choose(task, label)
    assert work.pull().version == "v2"
    rows = work.repository.version().annotations_of([sample]).to_pylist()
    votes = [row for row in rows if row["role"] == VOTE]
    assert sorted(row["label"] for row in votes) == sorted([other, before, other])
    assert len({row["actor"] for row in votes}) == 3
    (final,) = (row for row in rows if row["role"] is None)
    assert (final["label"], final["source"]) == (other, "consensus")
    assert set(json.loads(final["derived_from"])) <= {row["annotation_id"] for row in votes}
    assert json.loads(final["answer"])["rule"] == "majority"
    assert work.repository.version().summary()["by_class"][other] >= 1
    assert len(work.repository.version().labels()) == 10


def test_gold_answers_stay_here_and_tell_how_good_somebody_is(work: Work) -> None:
    ids = sorted(work.repository.version().samples()["sample_id"])
    work.push(samples=ids[:4], gold=ids[4:6], predictions=False)
    tasks = work.annotator.tasks()
    assert set(tasks) == set(ids[:6])
    assert not any(task["predictions"] for task in tasks.values())
    right = work.row(f"{ids[4]}/label")["label"]
    wrong = "7" if work.row(f"{ids[5]}/label")["label"] != "7" else "1"
    work.annotator.choose(tasks[ids[4]], right)
    work.annotator.choose(tasks[ids[5]], wrong)
    found = status(work.repository, work.project, open_project(work.repository, work.project))
    assert (found.people[0].gold, found.people[0].gold_items) == (0.5, 2)
    assert found.not_pulled == 2
    work.pull()
    assert work.row(f"{ids[5]}/label")["source"] == "import"
    assert len(work.repository.version().labels()) == 10
    again = status(
        work.repository, choose_project(work.repository, work.name), open_project(work.repository, work.project)
    )
    assert (again.people[0].gold, again.not_pulled) == (0.5, 0)
    assert (again.batches[0].done, again.batches[0].left) == (2, 4)


def test_in_a_blind_project_nobody_sees_predictions_and_nothing_is_replaced(work: Work) -> None:
    work.name += "-blind"
    work.set_up(blind=True).push()
    tasks = work.annotator.tasks()
    assert not any(task["predictions"] for task in tasks.values())
    sample = min(tasks)
    other = "7" if work.row(f"{sample}/label")["label"] != "7" else "1"
    work.annotator.choose(tasks[sample], other)
    assert work.pull().version == "v2"
    rows = work.repository.version().annotations_of([sample]).to_pylist()
    assert sorted((row["role"] or "", row["source"]) for row in rows) == [("", "import"), (VOTE, "human")]


def test_what_somebody_else_changed_meanwhile_stays_and_is_told(work: Work) -> None:
    work.push()
    tasks = work.annotator.tasks()
    a, b = sorted(tasks)[:2]
    row = work.row(f"{a}/label")
    mine, theirs = [name for name in "0123456789" if name != row["label"]][:2]
    changed = {name: row[name] for name in ("annotation_id", "sample_id", "kind")} | {"label": mine, "source": "human"}
    work.repository.commit(Change(annotations=[changed], remove_samples=[b]), message="meanwhile")
    work.annotator.choose(tasks[a], theirs)
    work.annotator.answer(tasks[b])
    result = work.pull()
    assert result.version is None
    assert sorted((c.table, c.key) for c in result.conflicts) == [("annotations", f"{a}/label"), ("samples", b)]
    assert work.row(f"{a}/label")["label"] == mine
    work.push(samples=[a], name="asked-again")
    again = [t for t in work.annotator.connection.get("api/tasks/", project=work.project.id, fields="all",
             page_size=100)["tasks"] if t["data"]["batch"] == "asked-again"]  # fmt: skip
    work.annotator.choose(again[0], theirs)
    assert work.pull().version == "v3"
    assert work.row(f"{a}/label")["label"] == theirs


def test_an_unknown_label_is_told_and_taken_once_it_is_mended(work: Work) -> None:
    work.push()
    sample, task = min(work.annotator.tasks().items())
    made = work.annotator.choose(task, "seven")
    result = work.pull()
    assert result.version is None
    assert "no class 'seven'" in result.unused[0]["problem"]
    assert work.pull().unused  # not forgotten
    mended = [{**made["result"][0], "value": {"choices": ["7"]}}]
    work.annotator.connection.call("PATCH", f"api/annotations/{made['id']}/", body={"result": mended})
    result = work.pull()
    assert (result.version, result.unused) == ("v2", ())
    assert work.row(f"{sample}/label")["label"] == "7"
    assert work.pull().version is None


def test_deleted_tasks_are_recorded_and_their_answers_stay(work: Work) -> None:
    work.push()
    sample, task = min(work.annotator.tasks().items())
    work.annotator.choose(task, "7")
    work.pull()
    work.annotator.connection.call("DELETE", f"api/tasks/{task['id']}/")
    result = work.pull()
    assert "1 of the tasks" in result.warnings[0]
    assert work.row(f"{sample}/label")["label"] == "7"
    assert not work.pull().warnings
    found = status(
        work.repository, choose_project(work.repository, work.name), open_project(work.repository, work.project)
    )
    assert found.batches[0].deleted == 1


def test_an_interface_edited_by_hand_is_reported_with_the_difference(work: Work) -> None:
    config = work.project.interface.replace('value="7"', 'value="seven"')
    work.annotator.connection.call("PATCH", f"api/projects/{work.project.id}/", body={"label_config": config})
    work.push()
    assert any("'label' lost '7'" in warning for warning in work.pull().warnings)
    with pytest.raises(ConflictError, match="gained 'seven'"):
        work.set_up()
    work.set_up(overwrite=True)
    assert not work.pull().warnings


def test_a_schema_in_use_is_not_taken_from_under_the_annotations(work: Work) -> None:
    work.push()
    _, task = min(work.annotator.tasks().items())
    work.annotator.choose(task, "7")
    schema = work.repository.schema
    more = schema.model_copy(update={"version": 2, "classes": (*schema.classes, {"id": 10, "name": "smudge"})})
    work.repository.commit(Change(schema=more), message="more")
    assert "smudge" in work.set_up().said[0]
    fewer = more.model_copy(
        update={"version": 3, "classes": [{**c.model_dump(), "deprecated": c.name == "7"} for c in more.classes]}
    )
    work.repository.commit(Change(schema=fewer), message="fewer")
    with pytest.raises(ConflictError, match="lost '7'"):
        work.set_up()
    work.name += "-new"
    assert work.set_up().said[0].startswith("Made")


def test_a_deleted_project_is_one_clear_message(work: Work) -> None:
    work.push()
    work.annotator.connection.call("DELETE", f"api/projects/{work.project.id}/")
    with pytest.raises(NotFoundError, match="it was deleted"):
        work.pull()


def test_wrong_address_and_wrong_token_never_show_the_token(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "not-the-right-token")
    with pytest.raises(LabelServerError, match="refused the token") as refused:
        work.pull()
    assert "not-the-right-token" not in str(refused.value)
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://127.0.0.1:9")
    with pytest.raises(LabelServerError, match="cannot be reached"):
        set_up(work.repository, None, name="elsewhere")
    monkeypatch.delenv("LABEL_STUDIO_API_KEY")
    with pytest.raises(LabelServerError, match="LABEL_STUDIO_API_KEY is not set"):
        set_up(work.repository, None, name="elsewhere")


@pytest.mark.filterwarnings("ignore:The `parse_obj` method is deprecated")  # in the SDK
def test_a_personal_access_token_from_a_file_works(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = work.server.login()
    client.post("/api/jwt/settings", json={"api_tokens_enabled": True, "legacy_api_tokens_enabled": True})
    made = client.post("/api/token/", json={})
    client.close()
    token = made.json()["token"]
    (tmp_path / "token").write_text(token + "\n")
    monkeypatch.delenv("LABEL_STUDIO_API_KEY")
    monkeypatch.setenv("LABEL_STUDIO_API_KEY_FILE", str(tmp_path / "token"))
    assert work.push().created == 10
    assert not any(token.encode() in f.read_bytes() for f in tmp_path.rglob("*") if f.is_file() and f.name != "token")


def test_every_kind_of_annotation_survives_the_round_trip(tmp_path: Path, label_studio: Server) -> None:
    """On a photo that is stored turned, so that the editor shows it in another orientation."""
    from pycocotools import mask as coco_mask

    schema = LabelSchema.model_validate(
        {
            "name": "everything",
            "version": 1,
            "tasks": [
                {"kind": "box"},
                {"kind": "polygon"},
                {"kind": "mask"},
                {"kind": "keypoints", "keypoints": ["top", "left", "right"]},
                {"kind": "text"},
            ],
            "classes": [{"id": 0, "name": "flower"}, {"id": 1, "name": "leaf"}],
            "attributes": [{"name": "cut off", "type": "bool"}, {"name": "petals", "type": "number"}],
        }
    )
    work = Work(tmp_path / "repository", label_studio, schema=schema)
    image = photos()[1]
    exif = image.getexif()
    exif[0x0112] = 6
    (tmp_path / "photos").mkdir()
    image.save(tmp_path / "photos" / "flower.jpg", exif=exif)
    pixels = np.zeros((427, 640), np.uint8, order="F")
    pixels[100:300, 250:400] = 1
    pixels[150:160, 300:310] = 0
    rle = coco_mask.encode(pixels)
    shapes: list[dict[str, Any]] = [
        {
            "kind": "box",
            "x1": 10.25,
            "y1": 20.5,
            "x2": 200.75,
            "y2": 150.0,
            "attributes": {"cut off": True, "petals": 5},
        },
        {"kind": "polygon", "geometry": {"polygons": [[10.5, 20, 120, 40.25, 80, 90], [300, 300, 320, 300, 310, 340]]}},
        {"kind": "mask", "geometry": {"rle": {"size": [427, 640], "counts": rle["counts"].decode()}}},
        {"kind": "keypoints", "geometry": {"keypoints": [30, 40, 2, 100.5, 110, 1, 0, 0, 0]}},
        {"kind": "text", "text": "Züge 7", "x1": 5.0, "y1": 6.0, "x2": 70.5, "y2": 30.0},
    ]
    rows = [{"annotation_id": f"p#{n}", "sample_id": "p", "label": "leaf", "source": "model", "model": "m1", "score": 0.7} | s
            for n, s in enumerate(shapes)]  # fmt: skip
    sample = {"sample_id": "p", "uri": str(tmp_path / "photos" / "flower.jpg"), "width": 640, "height": 427,
              "media_type": "image/jpeg"}  # fmt: skip
    work.repository.commit(Change(samples=[sample], annotations=rows), message="one")
    work.set_up().push()
    task = work.annotator.tasks()["p"]
    assert task["predictions"][0]["model_version"] == "m1"
    assert task["predictions"][0]["score"] == 0.7
    results = task["predictions"][0]["result"]
    box = next(r for r in results if r["from_name"] == "box")
    assert (box["original_width"], box["original_height"]) == (427, 640)

    moved = [{**r, "value": {**r["value"], "x": r["value"]["x"] + 10}} if r is box else r for r in results]
    drawn = {"id": "new1", "from_name": "box", "to_name": "image", "type": "rectanglelabels", "original_width": 427,
             "original_height": 640, "image_rotation": 0, "value": {"x": 50, "y": 50, "width": 10, "height": 5,
             "rotation": 30, "rectanglelabels": ["flower"]}}  # fmt: skip
    work.annotator.answer(task, [*moved, drawn])
    assert work.pull().version == "v2"
    frame = work.repository.version().annotations().set_index("annotation_id")
    assert sorted(frame.index) == ["p#0", "p#1", "p#2", "p#3", "p#4", "p#new1"]
    for number, shape in enumerate(shapes[1:], start=1):
        row = frame.loc[f"p#{number}"]
        assert (row["derived_from"], row["answer"]["changed"]) == (f"p#{number}", False)
        for name, value in shape.items():
            assert row[name] == value, name
    # Ten percent of the shown width are 42.7 pixels, which lie along the stored image's height.
    assert frame.loc["p#0", ["x1", "x2"]].tolist() == pytest.approx([10.25, 200.75])
    assert abs(frame.loc["p#0", "y1"] - 20.5) == pytest.approx(42.7)
    assert frame.loc["p#0", "attributes"] == {"cut off": True, "petals": 5}
    assert frame.loc["p#0", "answer"]["changed"]
    corners = np.reshape(frame.loc["p#new1", "geometry"]["polygons"][0], (4, 2))
    sides = np.linalg.norm(corners - np.roll(corners, 1, axis=0), axis=1)
    assert sorted(sides) == pytest.approx([32, 32, 42.7, 42.7])


def test_a_withdrawn_answer_and_another_are_pulled_together(work: Work) -> None:
    work.push()
    (_, first), (other, second) = sorted(work.annotator.tasks().items())[:2]
    made = work.annotator.choose(first, "7")
    work.pull()
    work.annotator.connection.call("DELETE", f"api/annotations/{made['id']}/")
    work.annotator.choose(second, "8")
    result = work.pull()
    assert (result.version, result.withdrawn, result.answers) == ("v3", 1, 1)
    assert work.row(f"{other}/label")["label"] == "8"


def test_the_same_push_after_a_pull_asks_nobody_again(work: Work) -> None:
    first = work.push()
    work.annotator.choose(next(iter(work.annotator.tasks().values())), "7")
    assert work.pull().version == "v2"
    again = work.push()
    assert (again.batch, again.created, again.existing) == (first.batch, 0, 10)


def test_a_refused_push_leaves_no_batch(work: Work) -> None:
    work.push(name="first")
    with pytest.raises(ConflictError, match="asks 1 annotators"):
        work.push(name="second", overlap=2)
    assert [batch.name for batch in batches(work.repository)] == ["first"]


def test_an_answer_with_a_class_that_is_gone_is_told_and_the_others_are_taken(work: Work) -> None:
    work.push()
    (a, first), (b, second) = sorted(work.annotator.tasks().items())[:2]
    work.annotator.choose(first, "7")
    work.annotator.choose(second, "8")
    schema = work.repository.schema
    classes = [{**c.model_dump(), "name": "seven" if c.name == "7" else c.name} for c in schema.classes]
    keep = [row for row in work.repository.version().labels().to_pylist() if row["label"] == "7"]
    renamed = schema.model_copy(update={"version": 2, "classes": classes})
    change = Change(schema=renamed, annotations=[{**row, "label": "seven"} for row in keep])
    work.repository.commit(change, message="renamed")
    result = work.pull()
    assert "no class '7' any more" in result.unused[0]["problem"]
    assert work.row(f"{b}/label")["label"] == "8"
    assert work.row(f"{a}/label")["source"] == "import"
    with pytest.raises(ConflictError, match="another label schema"):
        work.push(name="more")


def test_attributes_that_nobody_was_asked_about_stay(tmp_path: Path, label_studio: Server) -> None:
    schema = LabelSchema.model_validate(
        {"name": "poses", "version": 1, "tasks": [{"kind": "box"}], "classes": [{"id": 0, "name": "cell"}]}
    )
    work = Work(tmp_path / "repository", label_studio, schema=schema)
    photos()[0].save(tmp_path / "a.png")
    row = {"annotation_id": "a#1", "sample_id": "a", "kind": "box", "label": "cell", "x1": 3.3, "y1": 4.7, "x2": 317.0,
           "y2": 83.0, "attributes": {"pose": "Unspecified"}, "source": "import"}  # fmt: skip
    sample = {"sample_id": "a", "uri": str(tmp_path / "a.png"), "width": 640, "height": 427, "media_type": "image/png"}
    work.repository.commit(Change(samples=[sample], annotations=[row]), message="one")
    work.set_up().push()
    work.annotator.answer(work.annotator.tasks()["a"])
    work.pull()
    found = work.row("a#1")
    assert (found["attributes"], found["x2"], found["answer"]["changed"]) == ({"pose": "Unspecified"}, 317.0, False)


def test_a_correction_that_annotators_contradict_is_told(work: Work) -> None:
    work.push()
    sample, task = min(work.annotator.tasks().items())
    row = work.row(f"{sample}/label")
    other = "7" if row["label"] != "7" else "1"
    changed = {name: row[name] for name in ("annotation_id", "sample_id", "kind")} | {"label": other, "source": "human"}
    work.repository.commit(Change(annotations=[changed]), message="corrected")
    work.annotator.answer(task)
    result = work.pull()
    assert [conflict.key for conflict in result.conflicts] == [f"{sample}/label"]
    assert work.row(f"{sample}/label")["label"] == other


def test_gold_is_not_shown_with_its_answer(work: Work) -> None:
    ids = sorted(work.repository.version().samples()["sample_id"])
    work.push(samples=ids[:2], gold=ids[2:4])
    shown = {sample: bool(task["predictions"]) for sample, task in work.annotator.tasks().items()}
    assert shown == {ids[0]: True, ids[1]: True, ids[2]: False, ids[3]: False}
