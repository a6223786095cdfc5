"""Files that are wrong in the ways in which files go wrong: noise, flipped bits, cut ends, moved and missing parts, values
of another type, huge numbers, NaN, deep nesting, odd characters. All are made from one number, so each can be made again."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable
from typing import Any, Final
from xml.etree import ElementTree

import yaml

_DEEP: Final = 3000
_HUGE: Final = "9" * 5000
_PLACE: Final = "@@literal {}@@"  # stands in a JSON tree for what the library would not write
_LITERALS: Final = ("NaN", "Infinity", "-Infinity", "1e999", _HUGE, f"-{_HUGE}", '"\\ud800"', "[" * _DEEP + "]" * _DEEP)
_VALUES: Final[tuple[Any, ...]] = (
    None, True, False, 0, -1, 1, 2, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 0.5, -0.0, 1e308, 5e-324, "", " ", "0", "-1",
    "nan", "true", "\x00", "\u202e", "\ufeff", "é\u0301", "😀" * 9, "../../etc/passwd", "/etc/passwd", "a" * 5000, "\n", "\r\n",
    "{}", "%s%n", "'; --", "<b>", [], {}, [[]], [None], {"": None}, {"a": {"b": [1]}}, [1, 2, 3, 4], ["cat"], [1e308] * 4,
)  # fmt: skip
_WORDS: Final = (
    *(
        "",
        "null",
        "NaN",
        "inf",
        "-1",
        "0",
        "1e999",
        "-0.0",
        "2147483648",
        "9223372036854775808",
        "1.5",
        "true",
        _HUGE,
        "0x10",
    ),
    *(
        "~",
        "!!python/object:os.system",
        "&a",
        "*a",
        "<<",
        "---",
        "[",
        "]",
        "{",
        "}",
        ":",
        ",",
        ";",
        "\t",
        '"',
        "'",
        "|",
        ">",
    ),
    *(
        "\x00",
        "\u202e",
        "\u2028",
        "\ufeff",
        "\ud7ff",
        "😀",
        "../..",
        "/etc/passwd",
        "\\",
        "%",
        "<",
        "&amp;",
        "&#0;",
        "<!--",
    ),
    *(
        "[" * _DEEP,
        "{" * _DEEP,
        '{"a":' * _DEEP,
        "<a>" * _DEEP,
        "- " * _DEEP,
        "a" * 200_000,
        "2024-02-30",
        "0001-01-01",
    ),
)
_TOKEN: Final = re.compile(rb'"[^"\n]{0,80}"|[-+]?\d+(?:\.\d+)?|\w+|[^\w\s]')


def mutated(seed: bytes, kind: str, number: int) -> bytes:
    """`seed`, which is of a kind (a key of _WAYS), with one to three faults."""
    chance = random.Random(number)
    if chance.random() < 0.05:
        return chance.randbytes(chance.choice((0, 1, 2, 8, 64, 1000)))
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        ways = _WAYS[kind] if chance.random() < 0.8 else _OF_BYTES
        seed = chance.choice(ways)(seed, chance)
    return seed


# --- bytes ------------------------------------------------------------------------------------------------------------


def _flip(data: bytes, chance: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5)) if out else 0):
        at = chance.randrange(len(out))
        out[at] ^= 1 << chance.randrange(8)
    return bytes(out)


def _cut(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] if chance.random() < 0.7 else data[at:]


def _part(data: bytes, chance: random.Random) -> tuple[int, int]:
    start = chance.randrange(len(data) + 1)
    return start, min(len(data), start + chance.choice((1, 2, 4, 20, 200)))


def _drop(data: bytes, chance: random.Random) -> bytes:
    start, stop = _part(data, chance)
    return data[:start] + data[stop:]


def _double(data: bytes, chance: random.Random) -> bytes:
    start, stop = _part(data, chance)
    return data[:stop] + data[start:stop] * chance.choice((1, 1, 2, 50)) + data[stop:]


def _move(data: bytes, chance: random.Random) -> bytes:
    start, stop = _part(data, chance)
    rest = data[:start] + data[stop:]
    at = chance.randrange(len(rest) + 1)
    return rest[:at] + data[start:stop] + rest[at:]


def _noise(data: bytes, chance: random.Random) -> bytes:
    start, stop = _part(data, chance)
    fill = chance.choice((b"\x00", b"\xff", b"\xc3", b"\x80"))
    return (
        data[:start]
        + (chance.randbytes(stop - start) if chance.random() < 0.5 else fill * (stop - start))
        + data[stop:]
    )


_OF_BYTES: Final = (_flip, _flip, _cut, _drop, _double, _move, _noise)


# --- text -------------------------------------------------------------------------------------------------------------


def _word(data: bytes, chance: random.Random) -> bytes:
    tokens = list(_TOKEN.finditer(data))
    if not tokens:
        return data
    old = chance.choice(tokens)
    new = chance.choice(_WORDS).encode() if chance.random() < 0.7 else chance.choice(tokens)[0]
    return data[: old.start()] + new + data[old.end() :]


def _line(data: bytes, chance: random.Random) -> bytes:
    lines = data.split(b"\n")
    at, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    way = chance.randrange(5)
    if way == 0:
        lines.insert(other, lines[at])
    elif way == 1:
        del lines[at]
    elif way == 2:
        lines[at], lines[other] = lines[other], lines[at]
    elif way == 3:
        lines[at] = b"  " * chance.randrange(4) + lines[at].strip()
    else:
        lines = [*lines, *lines[1:] * chance.choice((1, 3))]
    return chance.choice((b"\n", b"\n", b"\n", b"\r\n", b"\r")).join(lines)


def _coded(data: bytes, chance: random.Random) -> bytes:
    text = data.decode("utf-8", "replace")
    return text.encode(chance.choice(("utf-16", "utf-32-be", "latin-1", "utf-8-sig", "cp037")), "replace")


# --- trees ------------------------------------------------------------------------------------------------------------


def _tree(data: bytes, chance: random.Random) -> bytes:
    """A change in a JSON document."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return _word(data, chance)
    places: list[tuple[Any, Any]] = []
    _collect(document, places)
    if not places:
        return json.dumps(_value(chance)).encode()
    parent, key = chance.choice(places)
    way = chance.randrange(6)
    if way == 0:
        del parent[key]
    elif way == 1 and isinstance(parent, list):
        parent.insert(key, copy.deepcopy(parent[key]))
    elif way == 2 and isinstance(parent, dict):
        parent[str(_value(chance))[:300]] = parent.pop(key)
    elif way == 3:
        other, name = chance.choice(places)
        if name in other if isinstance(other, dict) else name < len(other):
            parent[key] = copy.deepcopy(other[name])
    elif way == 4:
        parent[key] = [parent[key]] if chance.random() < 0.5 else {"a": parent[key]}
    else:
        parent[key] = _value(chance)
    try:
        text = json.dumps(document, ensure_ascii=chance.random() < 0.5)
    except (ValueError, RecursionError):
        return data
    for number, literal in enumerate(_LITERALS):
        text = text.replace(json.dumps(_PLACE.format(number)), literal)
    return text.encode("utf-8", "replace")


def _value(chance: random.Random) -> Any:
    if chance.random() < 0.2:
        return _PLACE.format(chance.randrange(len(_LITERALS)))
    return copy.deepcopy(chance.choice(_VALUES))


def _collect(node: Any, places: list[tuple[Any, Any]]) -> None:
    keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    for key in keys:
        places.append((node, key))
        if len(places) < 5000:
            _collect(node[key], places)


def _plain(data: bytes, chance: random.Random) -> bytes:
    """A change in a YAML document, as JSON, which is YAML too."""
    try:
        return _tree(json.dumps(yaml.safe_load(data), indent=1).encode(), chance)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, AttributeError):
        return _word(data, chance)


def _rows(data: bytes, chance: random.Random) -> bytes:
    """A change in one of the JSON documents of a file with a document a line."""
    lines = data.split(b"\n")
    at = chance.randrange(len(lines))
    lines[at] = _tree(lines[at], chance)
    return b"\n".join(lines)


def _element(data: bytes, chance: random.Random) -> bytes:
    """A change in an XML document."""
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError):
        return _word(data, chance)
    found = list(root.iter())
    parent = chance.choice(found)
    word = re.sub(r"[^\t\n -\ud7ff\ue000-\ufffd]", "", chance.choice(_WORDS))
    way = chance.randrange(7)
    if way == 0 and len(parent):
        parent.remove(chance.choice(parent))
    elif way == 1 and len(parent):
        parent.insert(0, copy.deepcopy(chance.choice(parent)))
    elif way == 2:
        parent.text = word
    elif way == 3 and parent.attrib:
        parent.set(chance.choice(list(parent.attrib)), word)
    elif way == 4 and parent.attrib:
        del parent.attrib[chance.choice(list(parent.attrib))]
    elif way == 5:
        parent.append(copy.deepcopy(chance.choice(found)))
    else:
        parent.tag = chance.choice(found).tag
    try:
        return bytes(ElementTree.tostring(root))
    except (ValueError, RecursionError):
        return data


def _cell(data: bytes, chance: random.Random) -> bytes:
    """A change in one cell, row or column of a CSV file."""
    lines = [line.split(b",") for line in data.split(b"\n")]
    row = chance.choice(lines)
    at = chance.randrange(len(row))
    way = chance.randrange(4)
    if way == 0:
        row[at] = chance.choice(_WORDS).encode()
    elif way == 1:
        row[at] = chance.choice(chance.choice(lines))
    elif way == 2:
        del row[at]
    else:
        for line in lines:
            if at < len(line):
                line[at] = lines[0][chance.randrange(len(lines[0]))] if line is lines[0] else line[at]
    return b"\n".join(b",".join(line) for line in lines)


_OF_TEXT: Final = (_word, _word, _word, _line, _coded)
_WAYS: Final[dict[str, tuple[Callable[[bytes, random.Random], bytes], ...]]] = {
    "json": (_tree, _tree, _tree, _tree, _word),
    "rows": (_rows, _rows, _rows, _word, _line),
    "xml": (_element, _element, _element, _word),
    "csv": (_cell, _cell, _word, _line, _coded),
    "yaml": (_plain, _plain, _plain, *_OF_TEXT),
    "text": _OF_TEXT,
    "bytes": _OF_BYTES,
}
