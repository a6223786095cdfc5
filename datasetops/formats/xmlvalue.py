"""XML elements as JSON values and back.

An element with children is an object, one with text alone the value of `texts.from_text`, children of the same name a
list, an attribute a member whose name begins with "@". `value_of` gives back every JSON value that was added.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any
from xml.etree.ElementTree import Element, SubElement

from datasetops.formats.texts import from_text, to_text

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


def value_of(element: Element) -> Any:
    text = (element.text or "").strip()
    if not len(element) and not element.attrib:
        return from_text(text)
    members: dict[str, Any] = {f"@{name}": from_text(value) for name, value in element.attrib.items()}
    for child in element:
        value = value_of(child)
        if child.tag not in members:
            members[child.tag] = value
        elif isinstance(members[child.tag], _Repeated):
            members[child.tag].append(value)
        else:
            members[child.tag] = _Repeated([members[child.tag], value])
    if text:
        members["#text"] = from_text(text)
    return {name: list(value) if isinstance(value, _Repeated) else value for name, value in members.items()}


class _Repeated(list[Any]):
    """Children of one name, told apart from one child that is a list."""


def add_value(parent: Element, name: str, value: Any) -> None:
    """Adds `value` below `parent`. `name` satisfies `is_name`."""
    for item in value if isinstance(value, list) and len(value) > 1 else [value]:
        _fill(SubElement(parent, name), item)


def add_members(element: Element, members: Mapping[str, Any], taken: Collection[str] = ()) -> int:
    """Adds an object's members; how many it left out, since no element can have that name or it is `taken`."""
    left_out = 0
    for name, value in members.items():
        if name in taken or not is_name(name.removeprefix("@")):
            left_out += 1
        elif name.startswith("@"):
            element.set(name[1:], to_text(value))
        else:
            add_value(element, name, value)
    return left_out


def is_name(name: str) -> bool:
    """Whether XML takes this (ASCII) name for an element."""
    return _NAME.fullmatch(name) is not None


def _fill(element: Element, value: Any) -> None:
    if isinstance(value, dict) and value and all(is_name(name.removeprefix("@")) for name in value):
        add_members(element, value)
    else:
        element.text = to_text(value)
