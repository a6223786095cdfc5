"""Names of splits, as folders and files carry them."""

from __future__ import annotations

import re

SPLIT_FOLDERS = frozenset(["train", "training", "val", "valid", "validation", "test", "testing", "dev", "eval"])
UNSPLIT = "unsplit"  # folder for samples without a split, where others have one

_CANONICAL = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
_IN_NAME = re.compile(r"(?<![a-z])(train|training|val|valid|validation|test|testing)(?![a-z])")


def split_in_name(name: str) -> str | None:
    """`train`, `val` or `test` where a file or folder name says so (`instances_train2017`, `valid`), else None."""
    found = {_CANONICAL.get(word, word) for word in _IN_NAME.findall(name.lower())}
    return found.pop() if len(found) == 1 else None
