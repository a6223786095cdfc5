"""What DVC wrote down: which file or folder it tracks by which hash, and where the objects may be on this machine.

Formats: `NAME.dvc` and `dvc.lock` of DVC 2 and 3, the configuration's `cache.dir` and remotes that are local folders.
"""

from __future__ import annotations

import configparser
import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import yaml

from datasetops.errors import DamagedError, FormatError, NotFoundError

LISTING: Final = ".dir"
_LOCK: Final = "dvc.lock"


@dataclass(frozen=True)
class Tracked:
    """An output of DVC's: `path` is where it stands in the workspace, `file` the .dvc file or dvc.lock that says so.

    `legacy` is true for hashes of DVC 2, which read CR LF as LF in texts.
    """

    root: Path
    file: Path
    path: Path
    md5: str
    legacy: bool

    @property
    def is_folder(self) -> bool:
        return self.md5.endswith(LISTING)

    def record(self) -> dict[str, Any]:
        """For the ledger: DVC's file, path and hash, the commit of git, and whether the file stands in it as it is."""
        name = self.file.relative_to(self.root).as_posix()
        revision = _git(self.root, "rev-parse", "HEAD")
        clean = revision is not None and _git(self.root, "status", "--porcelain", "--", name) == ""
        path = self.path.relative_to(self.root).as_posix()
        return {"file": name, "path": path, "md5": self.md5, "git": revision, "committed": clean}


def find_tracked(path: Path) -> Tracked | None:
    """The output of DVC's that a .dvc file names, or that `path`, or a folder above it, is; None without any.

    Raises FormatError for a .dvc file or dvc.lock that cannot be understood.
    """
    path = Path(os.path.realpath(path.parent)) / path.name
    root = next((folder for folder in path.parents if (folder / ".dvc").is_dir()), None)
    if root is None:
        if path.suffix == ".dvc" and path.is_file():
            raise FormatError(
                f"{path}: no folder above it has a .dvc folder.", remedy="Run: dvc init, or clone it whole."
            )
        return None
    if path.suffix == ".dvc" and path.is_file():
        found = list(_outputs_of(root, path))
        if len(found) != 1:
            raise FormatError(f"{path}: expected one output; it has {len(found)}.", remedy="Name the output's path.")
        return found[0]
    for one in (path, *path.parents):
        if one == root:
            return None
        beside = one.with_name(f"{one.name}.dvc")
        files = [beside] if beside.is_file() else []
        files += [
            folder / _LOCK for folder in one.parents if folder.is_relative_to(root) and (folder / _LOCK).is_file()
        ]
        for file in files:
            for tracked in _outputs_of(root, file):
                if tracked.path == one:
                    return tracked
    return None


def _outputs_of(root: Path, file: Path) -> Iterator[Tracked]:
    content = _yaml(file)
    if file.name != _LOCK:
        yield from _outputs(root, file, file.parent / str(content.get("wdir", ".")), content.get("outs"))
        return
    stages = content.get("stages", {})
    written = file.with_name("dvc.yaml")
    told = _yaml(written).get("stages", {}) if written.is_file() else {}
    for name, stage in stages.items() if isinstance(stages, dict) else ():
        stated = told.get(name.partition("@")[0]) if isinstance(told, dict) else None
        folder = str(stated.get("wdir", ".")) if isinstance(stated, dict) else "."
        yield from _outputs(root, file, file.parent / folder, stage.get("outs") if isinstance(stage, dict) else None)


def _outputs(root: Path, file: Path, folder: Path, outs: Any) -> Iterator[Tracked]:
    for out in outs if isinstance(outs, list) else ():
        if not isinstance(out, dict) or not isinstance(out.get("path"), str) or not isinstance(out.get("md5"), str):
            if isinstance(out, dict) and "path" in out and "md5" not in out:
                continue  # not hashed by md5: in a cloud, or not kept
            raise FormatError(
                f"{file}: outs: expected md5 and path.", remedy="Write it anew with: dvc add, or dvc commit"
            )
        path = Path(_plain(folder / out["path"]))
        md5 = out["md5"].lower()
        if not path.is_relative_to(root) or not _is_md5(md5.removesuffix(LISTING)):
            raise FormatError(f"{file}: outs: {out['path']!r}, {out['md5']!r}: outside of {root}, or no md5.")
        yield Tracked(root, file, path, md5, legacy=out.get("hash") != "md5")


def _yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise FormatError(
            f"{file} cannot be read: {str(error).splitlines()[0]}", remedy="Restore it from git."
        ) from None
    if not isinstance(content, dict):
        raise FormatError(f"{file}: expected a mapping.", remedy="Restore it from git.")
    return content


@dataclass(frozen=True)
class Objects:
    """Where objects are looked for: DVC's cache, then its local remotes."""

    folders: tuple[Path, ...]

    def find(self, md5: str) -> Path | None:
        for folder in self.folders:
            for place in (folder / "files" / "md5", folder):  # DVC 3, DVC 2
                file = place / md5[:2] / md5[2:]
                if file.is_file():
                    return file
        return None

    def listing(self, tracked: Tracked) -> dict[str, str]:
        """Path inside of a tracked folder → md5. Raises NotFoundError, DamagedError, FormatError."""
        file = self.find(tracked.md5)
        if file is None:
            raise NotFoundError(
                f"{tracked.file}: DVC's list of the files of {tracked.path.name} ({tracked.md5}) is not on this machine.",
                remedy=f"Fetch it with: dvc pull {tracked.file.name}",
            )
        data = file.read_bytes()
        if hashlib.md5(data, usedforsecurity=False).hexdigest() != tracked.md5.removesuffix(LISTING):
            raise DamagedError(
                f"{file} does not hash to its name.", remedy=f"Delete it, then: dvc pull {tracked.file.name}"
            )
        try:
            entries = {str(item["relpath"]): str(item["md5"]).lower() for item in json.loads(data)}
        except (ValueError, TypeError, KeyError):
            raise FormatError(f"{file}: expected a list of md5 and relpath.") from None
        for path, md5 in entries.items():
            pure = PurePosixPath(path)
            if pure.is_absolute() or ".." in pure.parts or not _is_md5(md5):
                raise FormatError(f"{file}: {path!r} leads out of the folder, or has no md5.")
        return entries


def objects_of(root: Path) -> Objects:
    """DVC's cache and its remotes on this machine, as .dvc/config and .dvc/config.local say."""
    config = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        config.read([root / ".dvc" / "config", root / ".dvc" / "config.local"], encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as error:
        raise FormatError(f"{root}/.dvc/config cannot be read: {str(error).splitlines()[0]}") from None
    places = [config.get("cache", "dir", fallback="cache")]
    places += [config[name].get("url", "") for name in config.sections() if name.strip("'").startswith("remote ")]
    local = [place.removeprefix("file://") for place in places if place and "://" not in place.removeprefix("file://")]
    return Objects(tuple(Path(_plain(root / ".dvc" / Path(place).expanduser())) for place in local))


def same(data: bytes, md5: str, *, legacy: bool) -> bool:
    """Whether the bytes have that hash of DVC's."""
    if hashlib.md5(data, usedforsecurity=False).hexdigest() == md5:
        return True
    return legacy and hashlib.md5(data.replace(b"\r\n", b"\n"), usedforsecurity=False).hexdigest() == md5


def _is_md5(text: str) -> bool:
    return len(text) == 32 and all(sign in "0123456789abcdef" for sign in text)


def _plain(path: Path) -> str:
    """The path without `..`, links left as they are: DVC's cache is often a link."""
    return os.path.normpath(path)


def _git(folder: Path, *words: str) -> str | None:
    """What git says; None where it is missing or there is no repository."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=20)  # noqa: S607
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
