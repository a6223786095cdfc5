from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pictures import photos, write_digits

from datasetops.errors import FormatError, RejectedError
from datasetops.export import checkout, export
from datasetops.ingest import ingest
from datasetops.manifest import Change, Repository, diff, verify
from datasetops.schema import LabelSchema, load_schema
from datasetops.splits import assign_splits, place, propose_splits


@pytest.fixture
def digits(tmp_path: Path) -> Repository:
    repository = Repository.init(tmp_path / "repository", load_schema("digits"))
    write_digits(tmp_path / "repository" / "photos")
    return repository


def photos_of(repository: Repository) -> Path:
    assert repository.root is not None
    return repository.root / "photos"


def test_a_folder_a_class_becomes_a_version_and_the_same_again_none(digits: Repository) -> None:
    first = ingest(digits, str(photos_of(digits)), format="folder")
    again = ingest(digits, str(photos_of(digits)), format="folder")

    assert first.as_dict() == {
        "version": "v1",
        "samples": 30,
        "annotations": 30,
        "rejected": 0,
        "kept": 0,
        "changed": True,
        "findings": 0,
        "conflicts": 0,
        "confirmed": 0,
        "counts": {
            "samples": {"added": 30, "changed": 0, "removed": 0},
            "annotations": {"added": 30, "changed": 0, "removed": 0},
        },
        "rejected_rows": [],
        "notes": [],
    }
    assert first.effect == "v1: 30 samples added, 0 changed; 0 labels changed, 0 removed, 30 added"
    assert again.effect == "v1: nothing changed (30 samples, 30 labels)"
    assert (again.version.name, again.changed) == ("v1", False)
    row = first.version.samples().iloc[0]
    assert row["uri"].startswith("photos/")
    assert (row["width"], row["height"], row["media_type"]) == (8, 8, "image/png")
    assert first.version.annotations()["source"].unique().tolist() == ["import"]


def test_numbers_stand_for_the_truth_values_that_a_schema_asks_for(tmp_path: Path) -> None:
    schema = load_schema("digits").model_dump() | {
        "attributes": [{"name": "thick", "type": "bool"}, {"name": "strokes", "type": "number"}]
    }
    repository = Repository.init(tmp_path / "repository", LabelSchema.model_validate(schema))
    write_digits(tmp_path / "photos", 1)
    names = sorted(path.name for path in (tmp_path / "photos").rglob("*.png"))[:4]
    images = [{"id": n, "file_name": name, "width": 8, "height": 8} for n, name in enumerate(names)]
    given = [{"thick": 1, "strokes": 1}, {"thick": 0}, {"thick": 2}, {}]
    boxes = [
        {"id": n, "image_id": n, "category_id": 1, "bbox": [1, 1, 4, 4]} | attributes
        for n, attributes in enumerate(given)
    ]
    document = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "1"}]}
    (tmp_path / "coco.json").write_text(json.dumps(document))
    version = ingest(repository, str(tmp_path / "coco.json"), images=str(tmp_path / "photos")).version
    told = sorted(text for text in version.table("annotations")["attributes"].to_pylist() if text)
    assert told == ['{"strokes":1,"thick":true}', '{"thick":2}', '{"thick":false}']


def test_new_and_moved_images_change_only_themselves(digits: Repository) -> None:
    folder = photos_of(digits)
    first = ingest(digits, str(folder), format="folder").version
    moved = sorted((folder / "3").iterdir())[0]
    moved.rename(folder / "4" / moved.name)
    write_digits(folder / ".." / "more", 4)
    extra = sorted((folder / ".." / "more" / "7").iterdir())[-1]
    extra.rename(folder / "7" / extra.name)
    second = ingest(digits, str(folder), format="folder").version
    found = diff(first, second).as_dict()
    assert found["samples"]["added"] == 2  # the moved file is at another place: a sample of its own
    assert first.table("samples").num_rows + 2 == second.table("samples").num_rows


def test_what_people_corrected_is_not_overwritten(digits: Repository) -> None:
    version = ingest(digits, str(photos_of(digits)), format="folder").version
    row = version.annotations().iloc[[0]].drop(columns=["event_id", "created_at"])
    row["label"], row["source"], row["actor"] = "9", "human", "lead"
    corrected = digits.commit(Change(annotations=row), message="corrected").version
    again = ingest(digits, str(photos_of(digits)), format="folder")
    assert again.kept == 1
    assert not again.changed
    labels = corrected.annotations().set_index("annotation_id")["label"]
    assert again.version.annotations().set_index("annotation_id")["label"].equals(labels)


def test_faulty_files_are_told_and_left_out_or_refuse_the_whole(digits: Repository) -> None:
    folder = photos_of(digits)
    (folder / "0" / "broken.png").write_bytes(sorted((folder / "0").iterdir())[0].read_bytes()[:60])
    (folder / "0" / "empty.jpg").write_bytes(b"")
    with pytest.raises(RejectedError, match="2 faulty rows"):
        ingest(digits, str(folder), format="folder", strict=True)
    assert digits.head() is None
    result = ingest(digits, str(folder), format="folder")
    assert (result.samples, result.rejected) == (30, 2)
    assert {Path(finding.uri or "").name for finding in result.findings} == {"broken.png", "empty.jpg"}
    (folder.parent / "nothing").mkdir()
    with pytest.raises(FormatError):
        ingest(digits, str(folder.parent / "nothing"), format="folder")


def test_copied_images_outlive_their_source(digits: Repository, tmp_path: Path) -> None:
    folder = photos_of(digits)
    version = ingest(digits, str(folder), format="folder", copy=True).version
    for file in folder.rglob("*.png"):
        file.unlink()
    result = checkout(digits, version, tmp_path / "out")
    assert (result.files, result.missing) == (30, [])
    assert checkout(digits, version, tmp_path / "out").files == 0
    assert verify(digits, media=True) == []


def test_an_image_that_changed_since_is_told_by_verify_and_checkout(digits: Repository, tmp_path: Path) -> None:
    version = ingest(digits, str(photos_of(digits)), format="folder").version
    victim = sorted(photos_of(digits).rglob("*.png"))[0]
    victim.write_bytes(victim.read_bytes() + b"\0")
    (damage,) = verify(digits, media=True)
    assert damage.object.endswith(victim.name)
    assert len(checkout(digits, version, tmp_path / "out").missing) == 1


def test_a_table_names_images_anywhere_by_absolute_paths(digits: Repository, tmp_path: Path) -> None:
    write_digits(tmp_path / "elsewhere")
    outside = sorted((tmp_path / "elsewhere" / "3").iterdir())[0]
    inside = sorted((photos_of(digits) / "4").iterdir())[0]
    table = tmp_path / "tables" / "t.csv"
    table.parent.mkdir()
    table.write_text(f"path,label\n{outside},3\n{inside},4\n{outside}x,5\n")
    first = ingest(digits, str(table))
    assert sorted(first.version.samples()["uri"]) == sorted([str(outside), f"photos/4/{inside.name}"])
    assert [finding.message for finding in first.findings] == [f"t.csv, line 4: there is no file '{outside}x'"]
    assert verify(digits, media=True) == []
    rows = first.version.annotations().drop(columns=["event_id", "created_at"])
    digits.commit(Change(annotations=rows.assign(label="7", source="human", actor="ann")), message="corrected")
    again = ingest(digits, str(table))
    assert (again.changed, again.version.annotations()["label"].tolist()) == (False, ["7", "7"])
    other = Repository.init(tmp_path / "other", load_schema("digits"))
    assert ingest(other, str(table), copy=True).version.samples()["uri"].str.startswith("media:").all()


def test_copies_of_one_file_are_samples_of_their_own_and_share_a_split(digits: Repository) -> None:
    folder = photos_of(digits)
    source = sorted((folder / "5").iterdir())[0]
    (folder / "5" / "copy.png").write_bytes(source.read_bytes())
    assert ingest(digits, str(folder), format="folder").samples == 31
    placed = assign_splits(digits, {"train": 0.5, "test": 0.5}).version.samples()
    both = placed[placed["sha256"].duplicated(keep=False)]
    assert len(both) == 2
    assert both["split"].nunique() == 1
    assert both["sample_id"].nunique() == 2


def test_a_sealed_split_refuses_a_disguised_copy_of_a_training_image(tmp_path: Path) -> None:
    from datasetops.audits.images.sealed import sealed_split_guard

    repository = Repository.init(tmp_path / "repository", load_schema("cifar10"))
    first, second = photos()
    for name, image in (("train/cat/a", first), ("test/dog/b", second)):
        file = tmp_path / "one" / f"{name}.png"
        file.parent.mkdir(parents=True)
        image.save(file)
    ingest(repository, str(tmp_path / "one"), format="folder")
    repository.commit(Change(sealed=["test"]), message="seal")
    disguised = tmp_path / "two" / "test" / "cat" / "again.jpg"
    disguised.parent.mkdir(parents=True)
    first.resize((480, 320)).transpose(0).save(disguised, quality=60)
    with pytest.raises(RejectedError, match=r"again\.jpg shows the same as"):
        ingest(repository, str(tmp_path / "two"), format="folder", guard=sealed_split_guard())
    told = ingest(repository, str(tmp_path / "two"), format="folder", guard=sealed_split_guard(), unseal="wanted")
    assert told.changed


def test_export_says_what_a_format_cannot_hold(digits: Repository, tmp_path: Path) -> None:
    version = ingest(digits, str(photos_of(digits)), format="folder").version
    rows = version.annotations().head(1).drop(columns=["event_id", "created_at"])
    rows["attributes"] = [{"smudged": True}]
    version = digits.commit(Change(annotations=rows), message="attribute").version
    result = export(digits, version, tmp_path / "out", format="folder")
    assert result.samples == 30
    assert any("attribute" in text for text in result.lost)
    other = Repository.init(tmp_path / "other", load_schema("digits"))
    again = ingest(other, str(tmp_path / "out"), format="folder").version
    assert sorted(again.annotations()["label"]) == sorted(version.annotations()["label"])


def test_groups_that_share_a_file_go_together() -> None:
    rows = [(f"s{n}", None, f"g{n // 2}", "same" if n in (1, 40) else f"f{n}") for n in range(60)]
    samples = pd.DataFrame(rows, columns=["sample_id", "split", "group", "sha256"])
    for seed in range(20):
        found = propose_splits(samples, {"train": 0.5, "test": 0.5}, seed)
        assert len({found[0], found[1], found[40], found[41]}) == 1
        assert set(found) == {"train", "test"}


def test_splits_are_stable_under_growth_and_keep_groups_whole(repository: Repository) -> None:
    def rows(numbers: range) -> list[dict[str, object]]:
        return [{"sample_id": f"s{i:04}", "uri": f"{i}.png", "group": f"patient-{i % 97}"} for i in numbers]

    shares = {"train": 0.7, "val": 0.1, "test": 0.2}
    repository.commit(Change(samples=rows(range(500))), message="first")
    before = assign_splits(repository, shares).version.samples().set_index("sample_id")["split"]
    repository.commit(Change(samples=rows(range(500, 900))), message="more")
    after = assign_splits(repository, shares).version.samples()
    assert after.set_index("sample_id")["split"].loc[before.index].equals(before)
    assert (after.groupby("group")["split"].nunique() == 1).all()
    share = after["split"].value_counts(normalize=True)
    assert abs(share["train"] - 0.7) < 0.15
    assert not assign_splits(repository, shares).changed


def test_pairs_join_groups_and_files_and_nothing_else_moves() -> None:
    rows = pd.DataFrame(
        {
            "sample_id": [f"s{i:03}" for i in range(200)],
            "split": None,
            "group": [f"g{i % 40}" if i < 80 else None for i in range(200)],
            "sha256": [f"f{i // 2}" if i >= 70 else None for i in range(200)],
        }
    )
    shares = {"train": 0.5, "test": 0.5}
    alone = propose_splits(rows, shares)
    pairs = np.array([("s000", "s100"), ("s101", "s102"), ("s102", "none")], dtype=object)
    joined = propose_splits(rows, shares, pairs=pairs)
    chain = [0, 40, 100, 101, 102, 103]  # a group, the files of two pairs
    assert len({joined[row] for row in chain}) == 1
    assert joined[0] == place("f50", shares, 0)
    across = list(range(70, 80))  # two samples of one file in two groups, each with another sample
    touched = {*chain, *across, *(row - 40 for row in across)}
    assert [alone[i] for i in range(200) if i not in touched] == [joined[i] for i in range(200) if i not in touched]
    assert all(joined[row] == joined[row + 1] == joined[row - 40] for row in across[::2])
    before = rows.assign(split=["test" if i in (101, 102) else "train" if i == 0 else None for i in range(200)])
    assert [propose_splits(before, shares, pairs=pairs)[row] for row in chain] == ["train", *["test"] * 5]
    nothing = np.empty((0, 2), dtype=object)
    only_files = rows.assign(group=None)
    assert propose_splits(only_files, shares, pairs=nothing) == propose_splits(only_files, shares)


@pytest.mark.slow
def test_real_annotation_passes_become_versions_that_match_box_by_box(data: Path, tmp_path: Path) -> None:
    """The counts are those of greedy matching of red cells at an intersection over union of 0.5."""
    repository = Repository.init(tmp_path / "cells", load_schema("blood_cells"))
    folder = data / "bccd"
    passes = ("annotations_first_pass_voc", "annotations_raw_names_voc", "annotations_voc")
    results = [ingest(repository, str(folder / name), format="voc", images=str(folder / "images")) for name in passes]
    versions = [result.version for result in results]
    red = diff(versions[0], versions[1]).by_class["RBC"]
    assert (red["added"], red["removed"]) == (195, 39)
    typos = [finding.message for finding in results[1].findings if "Platet" in finding.message]
    assert len(typos) == 2
    assert all("Platelets" in text for text in typos)
    assert diff(versions[1], versions[2]).as_dict()["annotations"] == {"added": 2, "removed": 0, "changed": 0}


def test_answers_of_several_annotators_are_all_kept(data: Path, tmp_path: Path) -> None:
    source = data / "multiannotator" / "faces_labels.csv"
    repository = Repository.init(tmp_path / "faces", load_schema("digits"))
    columns = {"id": "item", "annotator": "annotator", "label": "label"}
    result = ingest(repository, str(source), format="table", columns=columns)
    rows = source.read_text().splitlines()[1:]
    assert result.annotations + result.rejected == len(rows)
    assert result.annotations == len({row.rpartition(",")[0] for row in rows})
    assert result.version.annotations()["actor"].nunique() == 27


def test_kinds_that_the_schema_does_not_ask_for_are_told(tmp_path: Path) -> None:
    repository = Repository.init(tmp_path / "cells", load_schema("blood_cells"))
    folder = tmp_path / "cells" / "photos"
    folder.mkdir()
    photos()[0].save(folder / "one.png")
    square = [10, 10, 30, 10, 30, 30, 10, 30]
    mask = {"size": [427, 640], "counts": [0, 5, 427 * 640 - 5]}
    shapes = [{"segmentation": [square]}, {"segmentation": [square]}, {"segmentation": mask, "iscrowd": 1}, {}]
    entries = [
        {"id": number, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20]} | shape
        for number, shape in enumerate(shapes)
    ]
    listed = {
        "images": [{"id": 1, "file_name": "one.png", "width": 640, "height": 427}],
        "categories": [{"id": 1, "name": repository.schema.class_names[0]}],
        "annotations": entries,
    }
    (folder / "coco.json").write_text(json.dumps(listed))
    (note,) = ingest(repository, str(folder / "coco.json"), images=str(folder)).notes
    assert note.startswith("1 mask, 2 polygons: the schema asks for box.")
    (folder / "coco.json").write_text(json.dumps(listed | {"annotations": entries[3:]}))
    assert ingest(repository, str(folder / "coco.json"), images=str(folder)).notes == []
