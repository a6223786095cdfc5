"""Strict YAML: plain values only, every value with its line, and errors that a person can act on.

Read as YAML 1.2's JSON schema, so that `no`, `on`, `1:30` and `007` are the words that they look like. Tags, aliases
and repeated keys are refused; without aliases a small file cannot grow into a large value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from datasetops.errors import NotFoundError, SchemaError, did_you_mean

MAX_BYTES = 16 * 2**20  # a schema of 10,000 classes with their definitions is about 3 MB
SHOWN_PROBLEMS = 20

Location = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)

_RESOLVERS = (
    ("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("tag:yaml.org,2002:int", re.compile(r"^-?(?:0|[1-9][0-9]{0,17})$"), list("-0123456789")),
    (
        "tag:yaml.org,2002:float",
        re.compile(r"^-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$"),
        list("-.0123456789"),
    ),
)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own class attribute, filled below


class _Dumper(yaml.SafeDumper):
    """Quotes whatever this reader or one of YAML 1.1 would not take for text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(_tag, _pattern, _first)
    _Dumper.add_implicit_resolver(_tag, _pattern, _first)


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
            return stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise NotFoundError(f"There is no {noun} {path}.", remedy=remedy) from None
    except OSError as error:
        raise SchemaError(f"Cannot read the {noun} {path}: {error.strerror}.", remedy="Name a readable file.") from None


def read_yaml(data: bytes, name: str) -> Document:
    """Parse one YAML document; `name` is what errors call it. Raises SchemaError with file and line."""
    if len(data) > MAX_BYTES:
        raise SchemaError(f"{name}: larger than {MAX_BYTES // 2**20} MiB.", remedy="Name a label schema or migration.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SchemaError(f"{name}, line {line}: not UTF-8.", remedy="Save the file as UTF-8.") from None
    try:
        root = _Loader(text).get_single_node()
        if root is None:
            raise SchemaError(f"{name}: the file is empty.", remedy="Copy a packaged schema: dsops schema show digits")
        document = Document(name, None)
        document.value = _value(root, (), document, set())
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise SchemaError(
            f"{name}, line {line}: the character U+{ord(text[error.position]):04X} is not allowed in YAML.",
            remedy="Remove it.",
        ) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise SchemaError(f"{name}{where}: {error.problem or error.context}.", remedy="Correct the YAML.") from None
    except RecursionError:
        raise SchemaError(f"{name}: nested too deeply.", remedy="A schema is at most a few levels deep.") from None
    return document


def _value(node: yaml.Node, path: Location, document: Document, seen: set[int]) -> Any:
    line = node.start_mark.line + 1
    document.lines[path] = line
    if id(node) in seen:
        raise SchemaError(
            f"{document.name}, line {line}: {_field(path)}: expected a value; got a reference (*) to an anchor.",
            remedy="Write the value out in both places.",
        )
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
        return _mapping(node, path, document, seen)
    if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
        return [_value(child, (*path, index), document, seen) for index, child in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode):
        match node.tag.removeprefix("tag:yaml.org,2002:"):
            case "str":
                return node.value
            case "null" if node.value in ("~", "null", "Null", "NULL", ""):
                return None
            case "bool" if node.value.lower() in ("true", "false"):
                return node.value.lower() == "true"
            case "int" if _RESOLVERS[2][1].match(node.value):
                return int(node.value)
            case "float" if _RESOLVERS[3][1].match(node.value):
                return float(node.value)
    raise SchemaError(
        f"{document.name}, line {line}: {_field(path)}: expected a plain value; got the tag {node.tag!r}.",
        remedy="Remove the tag.",
    )


def _mapping(node: yaml.MappingNode, path: Location, document: Document, seen: set[int]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise SchemaError(
                f"{document.name}, line {line}: {_field(path)}: expected a word as key; got a list or mapping.",
                remedy="Use the names of fields as keys.",
            )
        key = key_node.value
        if key in result:
            first = document.key_lines[(*path, key)]
            raise SchemaError(
                f"{document.name}, line {line}: {_field((*path, key))}: expected once; it is also in line {first}.",
                remedy="Remove one of the two.",
            )
        document.key_lines[(*path, key)] = line
        result[key] = _value(value_node, (*path, key), document, seen)
    return result


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
    found: dict[tuple[Location, str], tuple[int, str, str]] = {}
    for details in error.errors(include_url=False):
        path, line = _place(details, document)
        expected, remedy = _explain(details, model)
        text = f"{document.name}, line {line}: {_field(path)}: {expected}."
        found.setdefault((path, details["type"]), (line, text, remedy))
    return sorted(found.values())


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
    "too_short": "at least {min_length} entries",
    "too_long": "at most {max_length} entries",
}


def _explain(details: ErrorDetails, model: type[BaseModel]) -> tuple[str, str]:
    """What was expected and what came, and the remedy."""
    kind, given, context = details["type"], details["input"], details.get("ctx", {})
    if kind == "schema":
        return context["reason"], context["remedy"]
    if kind == "missing":
        return "expected a value; it is missing", "Add the missing fields."
    if kind == "extra_forbidden":
        return "there is no such field", did_you_mean(
            str(details["loc"][-1]), _fields_at(model, details["loc"][:-1]), noun="fields"
        )
    expected = _EXPECTED.get(kind, "").format(**context) or details["msg"].removeprefix("Input should be ")
    remedy = (
        "Put quotes around text that looks like a number or like true, false or null." if kind == "string_type" else ""
    )
    return f"expected {expected}; got {_shown(given)}", remedy


def _fields_at(model: type[BaseModel], location: Location) -> list[str]:
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
    text = {dict: "a mapping", list: "a list", type(None): "nothing"}.get(type(value)) or repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
