from __future__ import annotations

import os
from pathlib import Path

import pytest

from datasetops.errors import FormatError, NotFoundError, StoreError
from datasetops.store.source import open_source
from datasetops.store.source_local import WithFiles
from datasetops.store.tree import FileEntry, SourceTree, Unusable


def listed(tree: SourceTree) -> dict[str, str | None]:
    """Path → None, or the reason why it cannot be used."""
    return {entry.path: entry.reason if isinstance(entry, Unusable) else None for entry in tree.walk()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a/z.txt", "a-b.txt", "a.txt", "b/c/d.txt"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_text(name)
    return tmp_path / "set"


def test_files_in_the_order_of_their_paths(folder: Path) -> None:
    tree = open_source(folder)
    names = [entry.path for entry in tree.walk()]
    assert names == ["a-b.txt", "a.txt", "a/z.txt", "b/c/d.txt"]
    assert names == sorted(names)
    assert (tree.url, tree.single_file, tree.uri("a.txt")) == (str(folder), None, f"{folder}/a.txt")
    assert tree.read("a/z.txt") == b"a/z.txt"
    assert tree.read("a/z.txt", limit=3) == b"a/z"


def test_version_changes_with_the_content(folder: Path) -> None:
    tree = open_source(folder)
    before = tree.stat("a.txt")
    assert isinstance(before, FileEntry)
    assert before in list(tree.walk())
    (folder / "a.txt").write_text("other")
    after = tree.stat("a.txt")
    assert after is not None
    assert after.version != before.version
    assert (tree.stat("none"), tree.stat("a")) == (None, None)


def test_one_file_stands_for_its_folder(folder: Path) -> None:
    tree = open_source(folder / "a.txt")
    assert (tree.single_file, tree.url) == ("a.txt", str(folder))
    (folder.parent / "link").symlink_to(folder / "a.txt")
    assert open_source(folder.parent / "link").url == str(folder)


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "", "~/x", "C:/x", "a\0", "\udcff"])
def test_paths_that_leave_the_tree_are_refused(folder: Path, path: str) -> None:
    (folder.parent / "x").write_text("secret")
    tree = open_source(folder)
    with pytest.raises(FormatError):
        tree.read(path)
    with pytest.raises(FormatError):
        tree.stat(path)


def test_links(folder: Path) -> None:
    (folder.parent / "outside").mkdir()
    (folder.parent / "outside" / "secret.txt").write_text("secret")
    links = {
        "away": "../outside",
        "away.txt": "../outside/secret.txt",
        "b/up": "..",
        "file.txt": "a/z.txt",
        "inside": "b/c",
        "twice": "b/c",
        "nowhere": "gone",
        "self": "self",
    }
    for name, target in links.items():
        (folder / name).symlink_to(target)
    tree = open_source(folder)
    assert {path: reason for path, reason in listed(tree).items() if path.split("/")[0] in links or "up" in path} == {
        "away": "the link leads out of the folder",
        "away.txt": "the link leads out of the folder",
        "b/up": "symlink loop",
        "file.txt": None,
        "inside/d.txt": None,
        "twice": "another link to the same folder has been followed already",
        "nowhere": "the link leads nowhere",
        "self": "symlink loop",
    }
    assert tree.read("file.txt") == b"a/z.txt"
    for path in ("away.txt", "away/secret.txt"):
        with pytest.raises(FormatError, match="leads out"):
            tree.read(path)


def test_folders_that_link_to_each_other_end(tmp_path: Path) -> None:
    for index in range(8):
        (tmp_path / str(index)).mkdir()
        (tmp_path / str(index) / "f").write_text("x")
        for other in range(8):
            (tmp_path / str(index) / f"to{other}").symlink_to(f"../{other}")
    assert len(listed(open_source(tmp_path))) < 300


def test_names_that_are_not_utf8_and_files_that_are_none(folder: Path) -> None:
    raw = os.fsencode(folder)
    Path(os.fsdecode(raw + b"/\xff.txt")).write_bytes(b"x")
    Path(os.fsdecode(raw + b"/\xfe")).mkdir()
    Path(os.fsdecode(raw + b"/\xfe/inner.txt")).write_bytes(b"x")
    os.mkfifo(folder / "pipe")
    found = listed(open_source(folder))
    assert {path: reason for path, reason in found.items() if reason} == {
        "\\udcff.txt": "the name is not UTF-8",
        "\\udcfe": "the name is not UTF-8",
        "pipe": "not a regular file",
    }
    with pytest.raises(NotFoundError, match="is not a file"):
        open_source(folder).read("pipe")


def test_what_is_not_there(folder: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file or folder"):
        open_source(folder / "none")
    with pytest.raises(NotFoundError, match="no such file"):
        open_source(folder).read("none")
    with pytest.raises(FormatError, match="this kind of address"):
        open_source("https://example.org/x")
    with pytest.raises(FormatError, match="bucket's name is missing"):
        open_source("s3://")


@pytest.mark.server
def test_s3(s3: str) -> None:
    import boto3

    bucket, prefix = s3.removeprefix("s3://").split("/")
    client = boto3.client("s3")
    with pytest.raises(NotFoundError, match="no object of that name"):
        open_source(s3)
    for name in ("a.txt", "b/c.txt", "b/", "empty", "../up", "x//y"):
        client.put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=name.encode() if name != "empty" else b"")
    client.put_object(Bucket=bucket, Key=f"{prefix}-other/z", Body=b"z")
    tree = open_source(s3 + "/")
    found = listed(tree)
    assert {path for path, reason in found.items() if reason is None} == {"a.txt", "b/c.txt", "empty", "x//y"}
    assert "leads out" in str(found["../up"])
    assert list(found) == sorted(found)
    assert (tree.url, tree.uri("a.txt"), tree.single_file) == (s3, f"{s3}/a.txt", None)
    assert tree.read("b/c.txt") == b"b/c.txt"
    assert (tree.read("b/c.txt", limit=3), tree.read("empty", limit=3)) == (b"b/c", b"")
    entry = tree.stat("a.txt")
    assert entry in list(tree.walk())
    client.put_object(Bucket=bucket, Key=f"{prefix}/a.txt", Body=b"other")
    assert tree.stat("a.txt") != entry
    assert tree.stat("none") is None
    with pytest.raises(NotFoundError, match="no such bucket or object"):
        tree.read("none")
    with pytest.raises(FormatError, match="leads out"):
        tree.read("../a.txt")
    one = open_source(f"{s3}/b/c.txt")
    assert (one.url, one.single_file) == (f"{s3}/b", "c.txt")
    assert open_source(f"s3://{bucket}").read(f"{prefix}/a.txt") == b"other"
    with pytest.raises(NotFoundError, match="no such bucket"):
        open_source("s3://no-such-bucket-here/x/")


@pytest.mark.server
def test_s3_beyond_one_page(s3: str) -> None:
    import boto3

    bucket, prefix = s3.removeprefix("s3://").split("/")
    client = boto3.client("s3")
    for number in range(1005):
        client.put_object(Bucket=bucket, Key=f"{prefix}/{number:05}", Body=b"x")
    assert len(listed(open_source(s3))) == 1005


def test_s3_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreError, match="AWS_ENDPOINT_URL"):
        open_source("s3://bucket/x")


def test_files_beside_a_tree_go_by_their_absolute_paths(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("other")
    tree = WithFiles(open_source(folder), ["a.txt", str(other), f"{tmp_path}/none.txt"])
    assert [entry.path for entry in tree.walk()] == ["a-b.txt", "a.txt", str(other)]
    assert [entry.path for entry in WithFiles(open_source(folder), [str(other)]).walk()] == [str(other)]
    assert (tree.read(str(other)), tree.read(str(other), limit=3), tree.read("a.txt")) == (b"other", b"oth", b"a.txt")
    assert (tree.uri(str(other)), tree.uri("a.txt")) == (str(other), f"{folder}/a.txt")
    with pytest.raises(NotFoundError, match=f"^{tmp_path}/none.txt"):
        tree.read(f"{tmp_path}/none.txt")
    with pytest.raises(FormatError, match="leads out"):
        tree.read("../other.txt")
