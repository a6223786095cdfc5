from __future__ import annotations

import hashlib
import io
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from datasetops.errors import FormatError, StoreError
from datasetops.media import MEDIA_FACTS, ScanCache, scan_media
from datasetops.store.source import open_source
from datasetops.store.source_local import LocalTree
from datasetops.store.tree import UnreadableError


class CountingTree(LocalTree):
    """Notes which files are read; `failing` may be set to an error that reading then raises."""

    failing: Exception | None = None

    def read(self, path: str, *, limit: int | None = None) -> bytes:
        if self.failing is not None:
            raise self.failing
        self.__dict__.setdefault("reads", []).append(path)
        return super().read(path, limit=limit)

    def taken(self) -> list[str]:
        return sorted(self.__dict__.pop("reads", []))


def picture(colour: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (colour, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def tree(tmp_path: Path) -> CountingTree:
    for number in range(600):  # more than one batch
        (tmp_path / f"{number:03}.png").write_bytes(picture(number % 256))
    return CountingTree(tmp_path)


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory) -> ScanCache:
    return ScanCache(tmp_path_factory.mktemp("cache") / "deep" / "media.sqlite")


def paths(tree: CountingTree) -> list[str]:
    return [entry.path for entry in tree.walk()]


def test_facts(tmp_path: Path) -> None:
    data = picture(1)
    (tmp_path / "good.png").write_bytes(data)
    (tmp_path / "cut.png").write_bytes(data[:-28])
    (tmp_path / "none.png").write_bytes(b"")
    asked = ["good.png", "gone.png", "cut.png", "none.png", "good.png"]
    table = scan_media(open_source(tmp_path), asked, jobs=2)
    assert table.schema == MEDIA_FACTS
    assert table["media"].to_pylist() == asked
    good, gone, cut, none, again = table.to_pylist()
    assert good == again
    assert good == {
        "media": "good.png",
        "sha256": hashlib.sha256(data).hexdigest(),
        "width": 8,
        "height": 6,
        "media_type": "image/png",
        "orientation": None,
        "beside": "",
        "error": None,
    }
    assert (gone["sha256"], gone["error"]) == (None, "missing")
    assert (cut["sha256"], cut["width"]) == (hashlib.sha256(data[:-28]).hexdigest(), None)
    assert cut["error"].startswith("truncated")
    assert none["error"] == "empty file"
    assert len(scan_media(open_source(tmp_path), [])) == 0


def test_real_images(data: Path) -> None:
    tree = open_source(data / "bccd" / "images")
    table = scan_media(tree, [f"BloodImage_{n:05}.jpg" for n in range(0, 40, 2) if n != 46][:10], jobs=2)
    assert set(table["error"].to_pylist()) == {None}
    assert set(zip(table["width"].to_pylist(), table["height"].to_pylist(), strict=True)) == {(640, 480)}


def test_unchanged_files_are_not_read_again(tree: CountingTree, cache: ScanCache) -> None:
    first = scan_media(tree, paths(tree), cache=cache, jobs=2)
    assert tree.taken() == paths(tree)
    (tree.root / "007.png").write_bytes(picture(200) + b"\x00")
    (tree.root / "600.png").write_bytes(picture(3)[:40])
    second = scan_media(tree, paths(tree), cache=ScanCache(cache.path), jobs=2)
    assert tree.taken() == ["007.png", "600.png"]
    assert second.slice(0, 7) == first.slice(0, 7)
    assert second["sha256"][7] != first["sha256"][7]
    scan_media(tree, paths(tree), cache=cache, jobs=2)
    assert tree.taken() == []  # faults are remembered too


def test_a_scan_that_was_stopped_goes_on_where_it_was(tree: CountingTree, cache: ScanCache) -> None:
    def interrupted(items: Iterable[Any], total: int, label: str) -> Iterator[Any]:
        for number, item in enumerate(items):
            if number == 300:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        scan_media(tree, paths(tree), cache=cache, jobs=2, progress=interrupted)
    done = len(tree.taken())
    assert 256 <= done <= 512
    assert len(scan_media(tree, paths(tree), cache=cache, jobs=2)) == 600
    assert len(tree.taken()) <= 600 - 256


def test_progress_sees_every_file(tree: CountingTree) -> None:
    calls: list[tuple[int, int]] = []

    def counting(items: Iterable[Any], total: int, label: str) -> Iterator[Any]:
        found = list(items)
        calls.append((len(found), total))
        return iter(found)

    scan_media(tree, paths(tree), jobs=2, progress=counting)
    assert calls == [(600, 600)]


def test_a_file_that_cannot_be_read_and_a_tree_that_cannot(tree: CountingTree, cache: ScanCache) -> None:
    tree.__dict__["failing"] = UnreadableError("no right to read it")
    table = scan_media(tree, ["000.png"], cache=cache, jobs=1)
    assert table["error"].to_pylist() == ["unreadable: no right to read it"]
    tree.__dict__["failing"] = None
    assert scan_media(tree, ["000.png"], cache=cache, jobs=1)["error"].to_pylist() == [None]  # not remembered
    tree.__dict__["failing"] = StoreError("unplugged")
    with pytest.raises(StoreError, match="unplugged"):
        scan_media(tree, ["001.png"], jobs=1)


def test_paths_that_leave_the_tree(tree: CountingTree) -> None:
    with pytest.raises(FormatError, match="leads out"):
        scan_media(tree, ["../x.png"], jobs=1)


def test_a_damaged_or_older_cache_is_begun_anew(tree: CountingTree, cache: ScanCache) -> None:
    cache.path.write_bytes(b"not a database" * 100)
    scan_media(tree, ["000.png"], cache=ScanCache(cache.path), jobs=1)
    with sqlite3.connect(cache.path) as database:
        database.execute("PRAGMA user_version = 0")
    database.close()
    tree.taken()
    scan_media(tree, ["000.png"], cache=ScanCache(cache.path), jobs=1)
    assert tree.taken() == ["000.png"]


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot be used"):
        ScanCache(tmp_path / "file" / "cache.sqlite")
    cache = ScanCache(tmp_path / "cache.sqlite")
    (tmp_path / "cache.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match="only a cache"):
        cache.get("x", {"a": "1"})
