"""What a review changed, counted and in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from datasetops.review.fixes import moved_by

Row = Mapping[str, Any]
Changed = tuple[Row | None, Row | None]  # a row before and after; two times None: a sample was excluded

_SHOWN: Final = 3  # pairs of classes that a message names
_NOUNS: Final = {
    "classification": ("class", "classes"),
    "box": ("box", "boxes"),
    "polygon": ("polygon", "polygons"),
    "mask": ("mask", "masks"),
    "keypoints": ("pose", "poses"),
    "text": ("text", "texts"),
}
_ORDER: Final = ("moved", "drawn", "added", "removed", "edited")
COUNTED: Final = ("labels", *_ORDER, "excluded")


def counts_of(changes: Iterable[Changed]) -> dict[str, int]:
    """Changes by what is done. One row may be counted for its label and for its place."""
    counts = Counter(what for change in changes for what, _ in _kinds_of(change))
    return {name: counts[name] for name in COUNTED}


def in_words(version: str, changes: Sequence[Changed], actors: Sequence[str]) -> str:
    """The message of a commit."""
    counts = Counter(item for change in changes for item in _kinds_of(change))
    if not counts:
        return f"Review of {version}: nothing to change"
    said = []
    labels = sum(count for (what, _), count in counts.items() if what == "labels")
    if labels:
        said.append(f"{labels:,} {'label' if labels == 1 else 'labels'} changed ({_pairs(changes)})")
    for what in _ORDER:
        for kind, nouns in _NOUNS.items():
            if count := counts[what, kind]:
                said.append(f"{count:,} {nouns[count != 1]} {what}")
    if count := counts["excluded", ""]:
        said.append(f"{count:,} {'image' if count == 1 else 'images'} excluded")
    return f"Review of {version}: {', '.join(said)}; decided by {', '.join(actors)}."


def _kinds_of(change: Changed) -> list[tuple[str, str]]:
    """(what is done, kind of the annotation); at least one."""
    before, after = change
    if before is None and after is None:
        return [("excluded", "")]
    if before is None or after is None:
        row = before or after or {}
        region = row["kind"] not in ("classification", "text")
        return [("removed" if after is None else "drawn" if region else "added", row["kind"])]
    found = [("labels", after["kind"])] if before["label"] != after["label"] else []
    if moved_by(before, after) is not None:
        found.append(("moved", after["kind"]))
    return found or [("edited", after["kind"])]


def _pairs(changes: Sequence[Changed]) -> str:
    pairs = Counter(
        f"{before['label'] or 'none'} → {after['label'] or 'none'}"
        for before, after in changes
        if before and after and before["label"] != after["label"]
    )
    ordered = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join([f"{count:,} {pair}" for pair, count in ordered[:_SHOWN]] + (["…"] if len(pairs) > _SHOWN else []))
