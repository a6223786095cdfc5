"""Texts from the data, which may be of any length."""

from __future__ import annotations

from typing import Any, Final

LONGEST: Final = 2_000  # characters shown of one text


def cut(text: str, most: int = LONGEST) -> str:
    """The text, or its first `most` characters and how many there are."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters in all)"


def cut_values(value: Any) -> Any:
    """The same for every text in a JSON value, keys too; of a list or object that is longer, its first entries."""
    if isinstance(value, str):
        return cut(value)
    if isinstance(value, dict):
        kept = {cut(str(key)): cut_values(item) for key, item in list(value.items())[:LONGEST]}
        return kept if len(value) <= LONGEST else kept | {"…": f"{len(value):,} entries in all"}
    if isinstance(value, list):
        kept_items = [cut_values(item) for item in value[:LONGEST]]
        return kept_items if len(value) <= LONGEST else [*kept_items, f"… ({len(value):,} entries in all)"]
    return value
