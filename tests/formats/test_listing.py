from __future__ import annotations

import os
from pathlib import Path

import pytest
from format_cases import write

from datasetops.errors import DatasetOpsError, FormatError
from datasetops.formats import detect_format, format_names, load_format
from datasetops.formats.listing import Listing
from datasetops.formats.problems import Problems
from datasetops.formats.splits import split_in_name
from datasetops.store.source import open_source


def listing(folder: Path, *names: str) -> Listing:
    tree = open_source(write(folder, dict.fromkeys(names, "x")))
    return Listing(tree, Problems(tree))


@pytest.mark.parametrize(
    ("name", "folders", "split", "found"),
    [
        ("train/a.jpg", (), None, "train/a.jpg"),
        ("./train/a.jpg", (), None, "train/a.jpg"),
        ("train\\a.jpg", (), None, "train/a.jpg"),
        ("a.jpg", ("train",), None, "train/a.jpg"),
        ("a.jpg", (), None, None),  # there are two
        ("a.jpg", (), "val", "val/a.jpg"),
        ("b.jpg", (), None, "deep/er/b.jpg"),
        ("er/b.jpg", (), None, "deep/er/b.jpg"),
        ("other/b.jpg", (), None, None),
        ("b", (), None, "deep/er/b.jpg"),
        ("er/b", (), None, "deep/er/b.jpg"),
        ("c.jpg", (), "train", None),  # another split's
        ("notes.txt", (), None, "notes.txt"),
    ],
)
def test_images_are_found_by_the_name_that_is_listed(
    tmp_path: Path, name: str, folders: tuple[str, ...], split: str | None, found: str | None
) -> None:
    files = listing(tmp_path, "train/a.jpg", "val/a.jpg", "deep/er/b.jpg", "val/c.jpg", "notes.txt", ".git/a.jpg")
    assert files.find(name, folders, split=split) == found


def test_names_that_leave_the_tree(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="leads out"):
        listing(tmp_path, "a.jpg").find("../a.jpg")


def test_unusable_files_are_findings(tmp_path: Path) -> None:
    write(tmp_path, {"a.jpg": "x"})
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg"))).write_bytes(b"x")
    (tmp_path / "loop").symlink_to(tmp_path)
    problems = Problems(open_source(tmp_path))
    assert Listing(problems.source, problems).images == ["a.jpg"]
    assert [finding.message for finding in problems.findings] == [
        "loop: symlink loop",
        "\\udcff.jpg: the name is not UTF-8",
    ]
    assert problems.rejected == 2


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("instances_train2017", "train"),
        ("valid", "val"),
        ("test-dev", "test"),
        ("trainval", None),
        ("train_test", None),
        ("latest", None),
    ],
)
def test_split_in_name(name: str, split: str | None) -> None:
    assert split_in_name(name) == split


@pytest.mark.parametrize(
    ("files", "name", "reason"),
    [
        ({"cat/a.jpg": "x"}, "folder", "1 images and no annotation files"),
        ({"images/a.jpg": "x", "labels/a.txt": "x"}, "yolo", "labels/a.txt"),
        ({"data.yaml": "x", "a.jpg": "x"}, "yolo", "data.yaml"),
        ({"Annotations/a.xml": "x", "JPEGImages/a.jpg": "x"}, "voc", "Annotations/a.xml"),
        ({"annotations/a.json": "x", "a.jpg": "x"}, "coco", "annotations/a.json"),
        ({"labels.csv": "x", "a.jpg": "x"}, "table", "labels.csv"),
    ],
)
def test_format_is_guessed(tmp_path: Path, files: dict[str, str | bytes], name: str, reason: str) -> None:
    assert detect_format(open_source(write(tmp_path, files))) == (name, reason)


@pytest.mark.parametrize(
    ("file", "name"), [("a.json.gz", "coco"), ("a.PARQUET", "table"), ("a.yml", "yolo"), ("a.xml", "voc")]
)
def test_format_of_a_file(tmp_path: Path, file: str, name: str) -> None:
    assert detect_format(open_source(write(tmp_path, {file: "x"}) / file)).format == name


def test_format_that_cannot_be_told(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no data set: there is no image"):
        detect_format(open_source(write(tmp_path, {"a.txt": "x"})))
    with pytest.raises(FormatError, match="not known"):
        detect_format(open_source(tmp_path / "a.txt"))
    write(tmp_path, {"a.json": "x", "b.xml": "x"})
    with pytest.raises(FormatError, match=r"several formats: voc, since there is b\.xml; coco, since there is a\.json"):
        detect_format(open_source(tmp_path))


def test_formats_by_name() -> None:
    assert {load_format(name).name for name in format_names()} >= {"coco", "folder", "table", "voc", "yolo"}
    with pytest.raises(DatasetOpsError, match="Did you mean 'coco'"):
        load_format("cocoa")
