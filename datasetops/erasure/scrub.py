"""Take words out of the objects of a store: records about the items go, mentions elsewhere become "[erased]"."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Collection, Iterator
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datasetops.records import ERASED_TEXT, canonical_json

# Fields of records that hold ids, and lists or maps of ids: there a word counts however short it is.
_ID_FIELDS: Final = frozenset(
    {
        "sample_id", "annotation_id", "uri", "sha256", "key", "path", "media", "group", "related", "samples", "sample",
        "random", "failed", "added", "removed", "ids", "items", "skipped", "excluded", "derived_from", "corrects", "sample_ids",
    }
)  # fmt: skip
_TELLING: Final = 6  # characters from which on a word with a digit or a mark in it stands for nothing else
_LINES: Final = (".csv", ".md", ".txt", ".jsonl", ".yaml")


class Words:
    """Words that may stand nowhere: alone in a field for ids, and the telling ones (paths, digests) in any text."""

    def __init__(self, words: Collection[str]) -> None:
        self.all = frozenset(words)
        self.telling = frozenset(w for w in words if len(w) >= _TELLING and re.search(r"[\d./_-]", w))
        longest_first = sorted(self.telling, key=lambda word: (-len(word), word))
        self.pattern = "|".join(re.escape(word) for word in longest_first)
        self._text = re.compile(rf"(?<![\w])(?:{self.pattern})(?![\w])" if longest_first else "(?!)")
        raw = {form for word in words for form in (word.encode(), json.dumps(word)[1:-1].encode())}
        self._raw = re.compile(b"|".join(re.escape(form) for form in sorted(raw, key=len, reverse=True)) or b"(?!)")

    def in_bytes(self, data: bytes) -> bool:
        """Whether they may be there: never false where they are."""
        return self._raw.search(data) is not None

    def is_one(self, text: str, field: str) -> bool:
        return text in self.telling or (field in _ID_FIELDS and text in self.all)

    def in_text(self, text: str, field: str = "") -> bool:
        return self.is_one(text, field) or self._text.search(text) is not None

    def out_of(self, text: str, field: str) -> str:
        return ERASED_TEXT if self.is_one(text, field) else self._text.sub(ERASED_TEXT, text)


def scrubbed(key: str, data: bytes, words: Words) -> bytes | None:
    """The object without the words; the same bytes where there were none; None where it must go as a whole."""
    if key.endswith(".parquet"):
        return _parquet(data, words)
    if not words.in_bytes(data):
        return data
    if key.endswith(".json"):
        before = json.loads(data)
        after = _value(before, words)
        return data if after == before else canonical_json(after)
    if key.endswith(_LINES):
        lines = data.decode("utf-8", "replace").splitlines(keepends=True)
        return "".join(line for line in lines if not words.in_text(line)).encode()
    return None if words.in_text(data.decode("utf-8", "replace")) else data  # a short word may be there by chance


def _value(value: Any, words: Words, field: str = "") -> Any:
    """Records about an item are left out of lists and maps; a string in a list keeps its place."""
    if isinstance(value, str):
        return words.out_of(value, field)
    if isinstance(value, list):
        return [_value(item, words, field) for item in value if not _is_about(item, words)]
    if isinstance(value, dict):
        return {
            name: _value(item, words, name)
            for name, item in value.items()
            if not words.in_text(name, field) and not _is_about(item, words)
        }
    return value


def _is_about(item: Any, words: Words) -> bool:
    """Whether a record is an item's own: a field of its own names it."""
    return isinstance(item, dict) and any(
        isinstance(value, str) and words.is_one(value, name) for name, value in item.items()
    )


def _parquet(data: bytes, words: Words) -> bytes:
    table = pq.read_table(io.BytesIO(data))
    keep = np.ones(len(table), dtype=bool)
    for name, column in _texts(table):
        found = pc.is_in(column, pa.array(sorted(words.all if name in _ID_FIELDS else words.telling), pa.string()))
        keep &= ~pc.fill_null(found, False).to_numpy(zero_copy_only=False)
    changed = table if keep.all() else table.filter(pa.array(keep))
    for name, column in list(_texts(changed)):
        if words.pattern and pc.any(pc.match_substring_regex(column, words.pattern)).as_py():
            told = [None if cell is None else words.out_of(cell, name) for cell in column.to_pylist()]
            if told != column.to_pylist():
                changed = _with(changed, name, told)
    for field in changed.schema:
        if pa.types.is_list(field.type) and pa.types.is_string(field.type.value_type):
            lists = changed[field.name].to_pylist()
            if any(cell and words.all.intersection(cell) for cell in lists):
                left = [None if cell is None else [one for one in cell if one not in words.all] for cell in lists]
                changed = _with(changed, field.name, left)
    if changed is table:
        return data
    sink = io.BytesIO()
    pq.write_table(changed, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def _with(table: pa.Table, name: str, cells: list[Any]) -> pa.Table:
    place, field = table.column_names.index(name), table.schema.field(name)
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    told = pa.array(cells, kind)
    return table.set_column(place, field, told.dictionary_encode().cast(field.type) if kind != field.type else told)


def _texts(table: pa.Table) -> Iterator[tuple[str, pa.ChunkedArray]]:
    for field in table.schema:
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            yield field.name, table[field.name]
        elif pa.types.is_dictionary(field.type) and pa.types.is_string(field.type.value_type):
            yield field.name, table[field.name].cast(pa.string())
