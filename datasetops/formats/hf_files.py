"""The files of a Hugging Face data set: which there are, what split each is, and their rows without the images' bytes."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cached_property
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.parquet as pq

from datasetops.errors import FormatError
from datasetops.formats.hf_features import card_features, card_head, features_of, own_of
from datasetops.formats.listing import Listing
from datasetops.formats.splits import split_in_name
from datasetops.store.tree import SourceTree

_METADATA: Final = ("metadata.jsonl", "metadata.csv")
_OF_SAVE: Final = ("state.json", "dataset_dict.json")
_SHARD: Final = re.compile(r"^(?P<split>.+?)-\d{5}-of-\d{5}")
_ROWS: Final = 1000  # at a time
_REMEDY: Final = "Download the file again, or read it with `datasets` and save it anew."


class Held(NamedTuple):
    """A row's image: whether its bytes are in the file, and the path that is told."""

    inside: bool = False
    path: str | None = None


@dataclass
class HfFile:
    """One file. `split` as its name or the card says, in the words of the source; `features` from itself or the card."""

    source: SourceTree
    path: str
    split: str | None = None
    card: dict[str, Any] = field(default_factory=dict)

    @property
    def is_list(self) -> bool:
        """Of files beside it, rather than with the images in it."""
        return self.path.lower().endswith(_METADATA)

    @cached_property
    def schema(self) -> pa.Schema | None:
        if self.is_list:
            return None
        return self._table.schema if self._arrow else self._parquet.schema_arrow

    @property
    def features(self) -> dict[str, Any]:
        return (features_of(self.schema) if self.schema is not None else {}) or self.card

    @property
    def own(self) -> dict[str, Any] | None:
        return own_of(self.schema) if self.schema is not None else None

    @property
    def image(self) -> str | None:
        """The column of images: the one that the features name, or `image`, or the only one of bytes and path."""
        if self.schema is None:
            return "file_name"
        told = [name for name, item in self.features.items() if isinstance(item, dict) and item.get("_type") == "Image"]
        shaped = [item.name for item in self.schema if _holds_image(item.type)]
        found = [name for name in ("image", "img", *told) if name in shaped] or shaped
        return found[0] if found else None

    def rows(self) -> Iterator[tuple[Held, dict[str, Any]]]:
        """For each row what its image is, and all other columns."""
        if self.is_list:
            yield from self._listed()
            return
        image = self.image
        for part in self._parts():
            held = [Held()] * len(part)
            if image is not None:
                column = part[image]
                if pa.types.is_struct(column.type):
                    there = pc.is_valid(pc.struct_field(column, "bytes")).to_pylist()
                    paths = pc.struct_field(column, "path").to_pylist()
                    held = [Held(*both) for both in zip(there, paths, strict=True)]
                else:
                    held = [Held(False, path) for path in column.to_pylist()]
                part = part.drop([image])
            yield from zip(held, part.to_pylist(), strict=True)

    def groups(self) -> list[int]:
        """Rows in each part that `images` reads at once."""
        if self._arrow:
            return [min(_ROWS, len(self._table) - at) for at in range(0, len(self._table), _ROWS)]
        found = self._parquet.metadata
        return [found.row_group(number).num_rows for number in range(found.num_row_groups)]

    def images(self, group: int) -> pa.ChunkedArray:
        """The column of images of one of `groups`."""
        if self._arrow:
            return self._table[self.image].slice(group * _ROWS, _ROWS)
        return self._parquet.read_row_group(group, columns=[self.image])[self.image]

    def _parts(self) -> Iterator[pa.Table]:
        if self._arrow:
            for at in range(0, len(self._table), _ROWS):
                yield self._table.slice(at, _ROWS)
            return
        for number in range(self._parquet.metadata.num_row_groups):
            try:
                yield self._parquet.read_row_group(number)
            except (pa.ArrowException, OSError) as error:
                raise self._damaged(error) from None

    def _listed(self) -> Iterator[tuple[Held, dict[str, Any]]]:
        text = self.source.read(self.path).decode("utf-8-sig", "replace")
        folder = self.path.rpartition("/")[0]
        rows: Iterator[Any] = (
            iter(csv.DictReader(io.StringIO(text))) if self.path.lower().endswith(".csv") else self._json_lines(text)
        )
        for number, row in enumerate(rows, start=1):
            name = row.pop("file_name", None) if isinstance(row, dict) else None
            if not isinstance(name, str) or not name:
                raise FormatError(
                    f"{self.source.uri(self.path)}: entry {number} names no file.",
                    remedy="Each line has a `file_name` beside what is said of the image.",
                )
            yield Held(False, f"{folder}/{name}" if folder else name), row

    def _json_lines(self, text: str) -> Iterator[Any]:
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise FormatError(
                        f"{self.source.uri(self.path)}: line {number} is no JSON: {error}.", remedy="Correct the line."
                    ) from None

    @property
    def _arrow(self) -> bool:
        return self.path.lower().endswith(".arrow")

    @cached_property
    def _parquet(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self._opened(), page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from None

    @cached_property
    def _table(self) -> pa.Table:
        opened = self._opened()
        try:
            stream = pa.memory_map(opened) if isinstance(opened, str) else opened
            try:
                return pa.ipc.open_stream(stream).read_all()
            except pa.ArrowInvalid:
                stream.seek(0)
                return pa.ipc.open_file(stream).read_all()
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from None

    def _opened(self) -> Any:
        """A path on this machine, or the bytes of a file elsewhere."""
        self.source.stat(self.path)  # refuses what leaves the folder
        local = "://" not in self.source.url
        return f"{self.source.url.rstrip('/')}/{self.path}" if local else io.BytesIO(self.source.read(self.path))

    def _damaged(self, error: Exception) -> FormatError:
        reason = str(error).partition("\n")[0]
        return FormatError(f"{self.source.uri(self.path)} cannot be read: {reason}.", remedy=_REMEDY)


def hf_files(source: SourceTree, listing: Listing) -> list[HfFile]:
    """The files that hold rows, by path; none where this is no such data set. Raises FormatError where several sets lie
    side by side."""
    named = source.single_file
    head = card_head(source.read("README.md").decode("utf-8", "replace")) if "README.md" in listing.files else {}
    card = card_features(head)
    if named is not None:
        return [HfFile(source, named, None if "/" in named else _split_of(named), card)]
    saved = listing.with_suffix(*(f"/{name}" for name in _OF_SAVE), *_OF_SAVE)
    found = listing.with_suffix(".arrow" if saved else ".parquet")
    found = found or [path for path in listing.files if path.rpartition("/")[2].lower() in _METADATA]
    patterns = _of_configs(source.url, head)
    if patterns:
        told = {path: split for path in found for split, pattern in patterns if fnmatch(path, pattern)}
        if told:
            return [HfFile(source, path, split, card) for path, split in sorted(told.items())]
    return [HfFile(source, path, _split_of(path), card) for path in sorted(found)]


def _of_configs(url: str, head: dict[str, Any]) -> list[tuple[str | None, str]]:
    """(split, pattern of paths) as a card says."""
    configs = [item for item in head.get("configs") or () if isinstance(item, dict) and item.get("data_files")]
    default = [item for item in configs if item.get("config_name", "default") == "default" or item.get("default")]
    if len(configs) > 1 and not default:
        names = ", ".join(str(item.get("config_name")) for item in configs)
        raise FormatError(f"{url} holds several data sets: {names}.", remedy="Name the folder or file of one of them.")
    files = (default or configs)[0]["data_files"] if configs else []
    found: list[tuple[str | None, str]] = []
    for item in [files] if isinstance(files, str | dict) else files:
        paths = item.get("path") if isinstance(item, dict) else item
        split = item.get("split") if isinstance(item, dict) else None
        found += [(split, str(path)) for path in (paths if isinstance(paths, list) else [paths])]
    return found


def _split_of(path: str) -> str | None:
    """By the file's name (train-00000-of-00002), else by that of its folder."""
    folder, _, name = path.rpartition("/")
    match = _SHARD.match(name)
    if match and match["split"] not in ("data", "cache"):
        return match["split"]
    return split_in_name(name) or split_in_name(folder.rpartition("/")[2]) or None


def _holds_image(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind):
        return False
    return {kind.field(number).name for number in range(kind.num_fields)} == {"bytes", "path"}
