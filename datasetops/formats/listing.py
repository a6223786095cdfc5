"""What a source holds, listed once, and images looked up by the names that annotation files use for them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import PurePosixPath

from datasetops.errors import FormatError
from datasetops.formats.problems import Problems
from datasetops.formats.splits import split_in_name
from datasetops.store.source_local import LocalTree
from datasetops.store.tree import FileEntry, SourceTree, Unusable, check_path

IMAGE_SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp", ".avif", ".jp2"),
        *(".ppm", ".pgm", ".pbm", ".pnm"),
    )
)


def is_image(path: str) -> bool:
    return PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES


class Listing:
    """The files of a tree that are not hidden, by path in sorted order. Unusable ones become findings.

    `named`: the user said that the images are here. `listed`: a file names all that counts, so that others may be
    anything and are no findings.
    """

    def __init__(self, tree: SourceTree, problems: Problems, *, named: bool = False, listed: bool = False) -> None:
        self.tree = tree
        self._problems = problems
        self._named = named
        self._listed = listed
        self._unusable: dict[str, str] = {}
        self._expected: set[str] = set()

    def expect(self, paths: Collection[str]) -> None:
        """Before files are asked for: where all of these are there, nothing else is looked for."""
        self._expected = set(paths)

    @cached_property
    def files(self) -> dict[str, FileEntry]:
        """Listed when it is first asked for: a source of one file may lie in a folder of anything."""
        if self._expected and isinstance(self.tree, LocalTree):
            with suppress(FormatError):  # a path that leaves the tree, which is told where it is looked up
                files = self._usable(self.tree.files_beside(self._expected))
                if self._expected <= files.keys():
                    return files
        return self._usable(self.tree.walk())

    def _usable(self, entries: Iterable[FileEntry | Unusable]) -> dict[str, FileEntry]:
        files: dict[str, FileEntry] = {}
        for entry in entries:
            if entry.path.startswith(".") or "/." in entry.path:
                continue
            if isinstance(entry, Unusable):
                self._unusable[entry.path] = entry.reason
                if not self._listed:
                    self._problems.reject(f"{entry.path}: {entry.reason}", path=entry.path)
            else:
                files[entry.path] = entry
        return files

    @cached_property
    def images(self) -> list[str]:
        return [path for path in self.files if is_image(path)]

    @cached_property
    def folders(self) -> set[str]:
        """All folders that hold a file somewhere below them; the top is "."."""
        return {str(folder) for path in self.files for folder in PurePosixPath(path).parents}

    def with_suffix(self, *suffixes: str) -> list[str]:
        """Paths that end in one of these, in any case of letters."""
        return [path for path in self.files if path.lower().endswith(suffixes)]

    def find(self, name: str, folders: Sequence[str] = (), *, split: str | None = None) -> str | None:
        """The image that an annotation file calls `name`, else None.

        Looked for at that very path, then below each of `folders`, then anywhere under that path's end as long as only
        one image fits; images in the folder of another split than `split` do not. A name without a suffix fits any
        image suffix. Raises FormatError for a name that leads out of the tree.
        """
        name = check_path(name.replace("\\", "/"))
        name = name[2:] if name.startswith("./") else name
        for path in (name, *(f"{folder}/{name}" for folder in folders if folder)):
            if path in self.files:
                return path
        fits = self._fits(self._by_name, name)
        if not fits and not is_image(name):
            fits = self._fits(self._by_stem, name)
        if len(fits) > 1:  # the same name in several folders: what lies in the named folders comes first
            fits = [path for path in fits if str(PurePosixPath(path).parent) in folders] or fits
        if split is not None:
            fits = [path for path in fits if _split_of(path) in (None, split)]
        return fits[0] if len(fits) == 1 else None

    def why_not(self, name: str) -> str:
        """What to say of a name that was not found."""
        ends = (reason for path, reason in self._unusable.items() if f"/{path}".endswith(f"/{name}"))
        reason = next(ends, None)
        return f"{name!r} is listed, but " + (reason or f"is not below {self.tree.url}")

    def warn_without_images(self, count: int, *, path: str) -> None:
        """Says that none of `count` listed images is here. Raises FormatError where the user said that they are."""
        message = f"none of the {count} listed images is below {self.tree.url}"
        if self._named:
            raise FormatError(f"{message}.", remedy="Correct --images, or leave it out to take annotations alone.")
        where = f"{path}: " if path else ""
        self._problems.warn(f"{where}{message}; taken in without images", path=path, severity="low")

    def _fits(self, index: dict[str, list[str]], name: str) -> list[str]:
        end = f"/{PurePosixPath(name).parent}/" if "/" in name else "/"
        return [path for path in index.get(name.rpartition("/")[2], []) if f"/{path.rpartition('/')[0]}/".endswith(end)]

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        return _grouped((path.rpartition("/")[2], path) for path in self.images)

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        return _grouped((PurePosixPath(path).stem, path) for path in self.images)


def listings(
    source: SourceTree, images: SourceTree, problems: Problems, *, listed: bool = False
) -> tuple[Listing, Listing]:
    """The source's and the image tree's files; listed once where they are the same tree."""
    listing = Listing(source, problems, listed=listed)
    return listing, listing if images.url == source.url else Listing(images, problems, named=True, listed=listed)


def safe_name(name: str, problems: Problems, *, path: str, where: str, count: int = 1) -> bool:
    """False, with a finding, for a listed file name that leads out of the image folder."""
    try:
        check_path(name.replace("\\", "/"))
    except FormatError as error:
        problems.reject(f"{where}: {error.message}", path=path, given=name, count=count)
        return False
    return True


def _split_of(path: str) -> str | None:
    splits = {split for part in path.split("/")[:-1] if (split := split_in_name(part)) is not None}
    return splits.pop() if len(splits) == 1 else None


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for key, path in pairs:
        groups.setdefault(key, []).append(path)
    return groups
