"""Strict YAML: plain values only, every value with its line, and errors that a person can act on.

Read as YAML 1.2's JSON schema, so that `no`, `on`, `1:30` and `007` are the words that they look like. Tags, anchors
and repeated keys are refused; without anchors a small file cannot grow into a large value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from datasetops.errors import NotFoundError, SchemaError, did_you_mean

MAX_BYTES = 8 * 2**20  # a schema of 10,000 classes with their definitions is about 2 MB
MAX_DEPTH = 20
SHOWN_PROBLEMS = 20

Location = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)

_PLAIN: dict[str, re.Pattern[str]] = {
    "null": re.compile(r"^(?:~|null|Null|NULL|)$"),
    "bool": re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"),
    "int": re.compile(r"^-?(?:0|[1-9][0-9]{0,17})$"),
    "float": re.compile(r"^-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$"),
}
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's parser where PyYAML has it, ten times as fast


class _Dumper(yaml.SafeDumper):
    """Quotes whatever this reader, or one of YAML 1.1, would not take for text. Never writes a reference."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _type, _pattern in _PLAIN.items():
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_type}", _pattern, None)


@dataclass
class Document:
    """A value read from YAML. `lines` has the 1-based line of each value by its path, `key_lines` of each key."""

    name: str
    value: Any
    lines: dict[Location, int] = field(default_factory=dict)
    key_lines: dict[Location, int] = field(default_factory=dict)


def dump_yaml(value: Any) -> str:
    """YAML with keys in the order given, UTF-8 as it is."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def read_file(path: Path, *, noun: str, remedy: str = "Check the path.") -> bytes:
    """The bytes of a file. Raises NotFoundError where it is absent, SchemaError where it cannot be read."""
    try:
        with path.open("rb") as stream:
            return _of_sane_size(stream.read(MAX_BYTES + 1), str(path))
    except FileNotFoundError:
        raise NotFoundError(f"There is no {noun} {path}.", remedy=remedy) from None
    except OSError as error:
        raise SchemaError(f"Cannot read the {noun} {path}: {error.strerror}.", remedy="Name a readable file.") from None


def decode(data: bytes, name: str) -> str:
    """UTF-8 text, without a byte order mark. Raises SchemaError that names the line at fault."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SchemaError(f"{name}, line {line}: not UTF-8.", remedy="Save the file as UTF-8.") from None


def _of_sane_size(data: bytes, name: str) -> bytes:
    if len(data) > MAX_BYTES:
        message = f"{name}: expected a schema, migration or guide; got a file of more than {MAX_BYTES // 2**20} MiB."
        raise SchemaError(message, remedy="Name another file.")
    return data


def read_yaml(data: bytes, name: str) -> Document:
    """Parse one YAML document; `name` is what errors call it. Raises SchemaError with file and line."""
    text = decode(_of_sane_size(data, name), name)
    unprintable = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if unprintable:
        line = text.count("\n", 0, unprintable.start()) + 1
        message = f"{name}, line {line}: the character U+{ord(unprintable[0]):04X} is not allowed in YAML."
        raise SchemaError(message, remedy="Remove it.")
    document = Document(name, None)
    try:
        _read_document(yaml.parse(text, Loader=_Loader), document)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise SchemaError(f"{name}{where}: {problem}.", remedy="Correct the YAML.") from None
    return document


def _read_document(events: Iterator[Any], document: Document) -> None:
    event = next(events)
    while isinstance(event, yaml.StreamStartEvent | yaml.DocumentStartEvent):
        event = next(events)
    if isinstance(event, yaml.StreamEndEvent):
        raise SchemaError(f"{document.name}: the file is empty.", remedy="Name a file with content.")
    document.value = _value(event, events, (), document)
    next(events)  # the end of the document
    following = next(events)
    if not isinstance(following, yaml.StreamEndEvent):
        line = following.start_mark.line + 1
        raise SchemaError(f"{document.name}, line {line}: expected one document; a second begins.", remedy="Remove it.")


def _value(event: Any, events: Iterator[Any], path: Location, document: Document) -> Any:
    """The value that `event` begins; takes the rest of it from `events`."""
    line = document.lines[path] = event.start_mark.line + 1
    refused = ""
    if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
        refused = "an anchor (&) or a reference to one (*)"
    elif event.tag is not None:
        refused = f"the tag {event.tag}"
    elif len(path) > MAX_DEPTH:
        refused = f"a value inside more than {MAX_DEPTH} others"
    if refused:
        message = f"{document.name}, line {line}: {_field(path)}: expected a plain value; got {refused}."
        raise SchemaError(message, remedy="Write the value out.")
    if isinstance(event, yaml.MappingStartEvent):
        return _mapping(events, path, document)
    if isinstance(event, yaml.SequenceStartEvent):
        items: list[Any] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(_value(event, events, (*path, len(items)), document))
        return items
    return _scalar(event.value) if event.implicit[0] else event.value


def _mapping(events: Iterator[Any], path: Location, document: Document) -> dict[str, Any]:
    result: dict[str, Any] = {}
    while not isinstance(key := next(events), yaml.MappingEndEvent):
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarEvent):
            message = f"{document.name}, line {line}: {_field(path)}: expected a word as key; got a list or mapping."
            raise SchemaError(message, remedy="Use the names of fields as keys.")
        inner = (*path, key.value)
        if key.value in result:
            first = document.key_lines[inner]
            message = f"{document.name}, line {line}: {_field(inner)}: expected once; it is also in line {first}."
            raise SchemaError(message, remedy="Remove one of the two.")
        document.key_lines[inner] = line
        result[key.value] = _value(next(events), events, inner, document)
    return result


def _scalar(text: str) -> str | int | float | bool | None:
    """A plain (unquoted) scalar."""
    if _PLAIN["null"].match(text):
        return None
    if _PLAIN["bool"].match(text):
        return text.lower() == "true"
    if _PLAIN["int"].match(text):
        return int(text)
    return float(text) if _PLAIN["float"].match(text) else text


def validated(model: type[M], document: Document) -> M:
    """The document as a record. Raises SchemaError that names every problem with its line and field."""
    try:
        return model.model_validate(document.value)
    except ValidationError as error:
        problems = _problems(error, model, document)
    shown = problems[:SHOWN_PROBLEMS]
    if len(problems) > len(shown):
        shown.append((0, f"{document.name}: {len(problems) - len(shown)} more problems.", ""))
    remedies = dict.fromkeys(remedy for _, _, remedy in shown if remedy)
    raise SchemaError("\n".join(text for _, text, _ in shown), remedy=" ".join(remedies) or "Correct these lines.")


def _problems(error: ValidationError, model: type[BaseModel], document: Document) -> list[tuple[int, str, str]]:
    """(line, message, remedy) of each field at fault, in the order of the file."""
    by_place: dict[tuple[int, Location], list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        path, line = _place(details, document)
        by_place.setdefault((line, path), []).append(details)
    found = []
    for (line, path), group in by_place.items():
        # Entries that are themselves at fault do not make their list too short, nor a record's defaults unknown.
        deeper = any(other[: len(path)] == path and other != path for _, other in by_place)
        group = [d for d in group if d["type"] not in _FOLLOWING or not deeper]
        if group:
            message, remedy = _explain(group, model)
            found.append((line, f"{document.name}, line {line}: {_field(path)}: {message}.", remedy))
    return sorted(found)


def _place(details: ErrorDetails, document: Document) -> tuple[Location, int]:
    """Path of the field at fault and its line; for a missing field the line of the record it is missing from."""
    location: list[str | int] = list(details["loc"])
    inner = details.get("ctx", {}).get("location", "")
    location += [int(part) if part.isdigit() else part for part in inner.split(".") if part]
    path: Location = ()
    for part in location:
        if (*path, part) in document.lines:
            path = (*path, part)
    line = document.key_lines.get(path) or document.lines[path]
    if details["type"] in ("missing", "schema") and location[-1:] != list(path[-1:]):
        path = (*path, location[-1])
    return path, line


def _field(path: Location) -> str:
    text = "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.lstrip(".") or "the document"


_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "tuple_type": "a list",
    "model_type": "a mapping of fields",
    "model_attributes_type": "a mapping of fields",
    "string_too_short": "text that is not empty",
    "string_too_long": "at most {max_length} characters",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number of at least {ge:g}",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "a number of at most {le:g}",
    "literal_error": "one of {expected}",
    "string_pattern_mismatch": "text of the form {pattern}",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
}
_FOLLOWING = ("too_short", "default_factory_not_called")  # errors that only follow from others


def _explain(group: list[ErrorDetails], model: type[BaseModel]) -> tuple[str, str]:
    """What was expected of one field (or else expected, where it may be several things), what came, and the remedy."""
    details, context = group[0], group[0].get("ctx", {})
    match details["type"]:
        case "schema":
            return context["reason"], context["remedy"]
        case "missing":
            return "expected a value; it is missing", "Add the missing fields."
        case "extra_forbidden":
            *record, name = details["loc"]
            return "there is no such field", did_you_mean(str(name), _fields_at(model, record), noun="fields")
    remedy = "Put quotes around text that begins with # or looks like a number, true, false or null."
    expected = " or ".join(dict.fromkeys(map(_expected, group)))
    quotes = [d["type"] for d in group] == ["string_type"]
    return f"expected {expected}; got {_shown(details['input'])}", remedy if quotes else ""


def _expected(details: ErrorDetails) -> str:
    phrase = _EXPECTED.get(details["type"])
    return phrase.format(**details.get("ctx", {})) if phrase else details["msg"]


def _fields_at(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    for part in location:
        declared = model.model_fields.get(str(part))
        if declared is not None:
            model = next(iter(_records_in(declared.annotation)), model)
    return [declared.alias or name for name, declared in model.model_fields.items()]


def _records_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [record for argument in get_args(annotation) for record in _records_in(argument)]


def _shown(value: Any) -> str:
    match value:
        case None:
            return "nothing"
        case dict():
            return "a mapping"
        case list():
            return f"a list of {len(value)}" if value else "an empty list"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
