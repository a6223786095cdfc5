"""Values in formats that know only text (CSV cells, XML elements), so that they come back as they were.

A text is read as the number, truth value, list or object that it is the canonical writing of; any other text is itself.
So `65`, `0.139` and `true` are values, while `007`, `013M`, `1.50` and `1e5` stay the texts that they are. A text that
would be misread (the text "65", an empty one, one with spaces around it) is written as a JSON string, in quotes.
"""

from __future__ import annotations

import json
import math
from typing import Any

import orjson

_VALUE_STARTS = frozenset('-0123456789"[{tfn')  # whatever a JSON value can begin with


def to_text(value: Any) -> str:
    """The one text for a JSON value; raises ValueError for NaN and infinities."""
    if isinstance(value, str):
        return value if _stands_for_itself(value) else json.dumps(value)
    if isinstance(value, bool) or value is None or isinstance(value, int):
        return json.dumps(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("NaN and infinities have no text form")
        return repr(value)
    text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    return text if _carried(text) else json.dumps(value, sort_keys=True, separators=(",", ":"))


def from_text(text: str) -> Any:
    """The value that `to_text` writes as this text; the text itself where there is none."""
    if not text or text[0] not in _VALUE_STARTS:
        return text
    try:
        value = json.loads(text, parse_constant=lambda name: name)
    except (ValueError, RecursionError):
        return text
    if isinstance(value, str):
        return text if _stands_for_itself(value) or json.dumps(value) != text else value
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return text  # more than a JSON integer may be here
    try:
        return value if to_text(value) == text else text
    except (ValueError, TypeError):
        return text


def _stands_for_itself(text: str) -> bool:
    """Whether the text is carried unchanged, and `from_text` leaves it alone."""
    if not text or text != text.strip() or not _carried(text):
        return False
    return text[0] not in _VALUE_STARTS or from_text(text) is text


def _carried(text: str) -> bool:
    """Whether CSV and XML take every character as it is; JSON's escapes in ASCII carry the others."""
    return text.isprintable() or all(char.isprintable() or char in "\n\t" for char in text)
