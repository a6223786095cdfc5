"""JSON files of many megabytes, gzipped or not, and files that are only nearly JSON."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any, NamedTuple

import orjson

from datasetops.errors import FormatError
from datasetops.store.tree import SourceTree


class Document(NamedTuple):
    """`nonfinite`: NaN or Infinity stand in it, which Python writes and JSON does not know."""

    value: Any
    nonfinite: bool


def load_json(source: SourceTree, path: str) -> Document:
    """A .json or .json.gz file. Raises FormatError that names the line at fault."""
    data = source.read(path)
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise FormatError(
                f"{source.uri(path)} cannot be unpacked: {error}.", remedy="Fetch the file again; it is damaged."
            ) from error
    try:
        return Document(orjson.loads(data), nonfinite=False)
    except orjson.JSONDecodeError:
        return _load_lenient(data, source.uri(path))


def _load_lenient(data: bytes, uri: str) -> Document:
    try:
        value = json.loads(data.decode("utf-8-sig"))
        orjson.dumps(value)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FormatError(f"{uri}, line {line}: not UTF-8.", remedy="Save the file as UTF-8.") from error
    except json.JSONDecodeError as error:
        raise FormatError(
            f"{uri}, line {error.lineno}, column {error.colno}: broken JSON: {error.msg}.",
            remedy="Fetch or export the file again, or mend that line.",
        ) from error
    except RecursionError as error:
        raise FormatError(
            f"{uri}: broken JSON: nested too deeply.", remedy="Fetch or export the file again."
        ) from error
    except (TypeError, ValueError) as error:  # half of a surrogate pair, an integer of more than 64 bits
        raise FormatError(f"{uri}: broken JSON: {error}.", remedy="Mend or export the file again.") from error
    return Document(value, nonfinite=True)
