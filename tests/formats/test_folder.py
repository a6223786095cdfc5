from __future__ import annotations

import io
from pathlib import Path

import pytest
from format_cases import assert_same, export_again, ingested, jpeg, make_schema, messages, read, write
from PIL import Image
from sklearn.datasets import load_digits

from datasetops.errors import FormatError, StoreError
from datasetops.formats import load_format
from datasetops.schema import LabelSchema


@pytest.fixture
def pets() -> LabelSchema:
    return make_schema("cat", "dog", "N/A", "a.b 100%", kinds=("classification",))


def places(folder: Path, schema: LabelSchema) -> dict[str, tuple[str | None, str | None]]:
    """Image → split and class."""
    parsed = read("folder", folder, schema)
    labels = dict(zip(parsed.annotations["key"].to_pylist(), parsed.annotations["label"].to_pylist(), strict=True))
    splits = zip(parsed.samples["key"].to_pylist(), parsed.samples["split"].to_pylist(), strict=True)
    return {key: (split, labels.get(key)) for key, split in splits}


def png(pixels: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")  # type: ignore[arg-type]
    return buffer.getvalue()


def test_digits_exported_and_read_again_do_not_differ(tmp_path: Path) -> None:
    digits = load_digits()
    files: dict[str, bytes | str] = {
        f"{('train', 'val')[number % 2]}/{label}/{number}.png": png((image * 16).clip(0, 255).astype("uint8"))
        for number, (image, label) in enumerate(zip(digits.images[:300], digits.target[:300], strict=True))
    }
    schema = make_schema(*map(str, range(10)), kinds=("classification",))
    folder = write(tmp_path / "digits", files)
    parsed = read("folder", folder, schema)
    assert (len(parsed.samples), len(parsed.annotations), messages(parsed)) == (300, 300, [])
    version = ingested(parsed, folder, schema)
    again, report, _ = export_again("folder", version, tmp_path / "out")
    assert_same(version, again)
    assert (report.files, report.lost) == (300, [])
    written = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png"))
    assert written == sorted(files)


def test_classes_splits_and_images_without_either(tmp_path: Path, pets: LabelSchema) -> None:
    names = ("cat/1.jpg", "dog/deep/2.jpg", "train/cat/3.jpg", "holdout/dog/4.jpg", "holdout/unlabeled/5.jpg", "6.jpg")
    more = ("unlabeled/7.jpg", "test/8.jpg", "N%2FA/9.jpg", "a.b 100%25/10.jpg", "unsplit/cat/11.jpg")
    files: dict[str, bytes | str] = {name: jpeg(colour=20 * index) for index, name in enumerate((*names, *more))}
    folder = write(tmp_path / "set", files)
    assert places(folder, pets) == {
        "cat/1.jpg": (None, "cat"),
        "dog/deep/2.jpg": (None, "dog"),
        "train/cat/3.jpg": ("train", "cat"),
        "holdout/dog/4.jpg": ("holdout", "dog"),
        "holdout/unlabeled/5.jpg": ("holdout", None),
        "6.jpg": (None, None),
        "unlabeled/7.jpg": (None, None),
        "test/8.jpg": ("test", None),
        "N%2FA/9.jpg": (None, "N/A"),
        "a.b 100%25/10.jpg": (None, "a.b 100%"),
        "unsplit/cat/11.jpg": (None, "cat"),
    }
    version = ingested(read("folder", folder, pets), folder, pets)
    again, report, _ = export_again("folder", version, tmp_path / "out")
    assert_same(version, again)
    assert report.lost == []


def test_faults_and_other_files(tmp_path: Path, pets: LabelSchema) -> None:
    files: dict[str, bytes | str] = {
        "Dog/1.jpg": jpeg(),
        "Dog/2.jpg": jpeg(),
        "zebra/3.jpg": jpeg(),
        "cat/4.jpg": jpeg(),
    }
    folder = write(tmp_path, files | {"notes.txt": "x", "cat/x.txt": "y", ".DS_Store": "z", "cat/._4.jpg": "z"})
    (folder / "cat" / "loop").symlink_to("..")
    parsed = read("folder", folder, pets)
    assert messages(parsed) == [
        "cat/loop: symlink loop",
        "2 files are no images and were left alone: 2 .txt",
        "folder Dog: the schema test has no class 'Dog'; did you mean 'dog'? (2 annotations left out)",
        "folder zebra: the schema test has no class 'zebra'",
    ]
    assert (len(parsed.samples), len(parsed.annotations), parsed.rejected) == (4, 1, 4)


def test_equal_names_do_not_overwrite_each_other(tmp_path: Path, pets: LabelSchema) -> None:
    files: dict[str, bytes | str] = {
        "cat/x/1.jpg": jpeg(colour=0),
        "cat/y/1.JPG": jpeg(colour=90),
        "cat/z/2.jpg": jpeg(colour=180),
    }
    folder = write(tmp_path / "set", files)
    version = ingested(read("folder", folder, pets), folder, pets)
    again, report, _ = export_again("folder", version, tmp_path / "out")
    assert_same(version, again)
    assert report.files == 3
    assert (tmp_path / "out/cat/2.jpg").is_file()


def test_what_it_cannot_hold_is_told(tmp_path: Path) -> None:
    schema = make_schema("cat", "dog", kinds=("classification", "box"), multi=True)
    table = "path,label,split,group,light\nimages/1.jpg,cat|dog,cat,g,day\n"
    folder = write(tmp_path / "set", {"table.csv": table, "images/1.jpg": jpeg()})
    version = ingested(read("table", folder, schema), folder, schema)
    _, report, _ = export_again("folder", version, tmp_path / "out")
    assert report.lost == [
        "1 further classes of an image are not written: folder has one class for each image.",
        "1 splits that have the name of a class are not written: folder has one class for each image.",
        "1 values of group are not written: folder has no place for them.",
        "1 samples' metadata are not written: folder has no place for them.",
    ]


def test_nothing_is_overwritten(tmp_path: Path, pets: LabelSchema) -> None:
    folder = write(tmp_path / "set", {"cat/1.jpg": jpeg()})
    version = ingested(read("folder", folder, pets), folder, pets)
    with pytest.raises(StoreError, match="is not empty"):
        load_format("folder").write(version, folder)


def test_empty_set(tmp_path: Path, pets: LabelSchema) -> None:
    with pytest.raises(FormatError, match="the set is empty"):
        read("folder", write(tmp_path, {"notes.txt": "x"}), pets)
    with pytest.raises(FormatError, match="is a file"):
        read("folder", tmp_path / "notes.txt", pets)
