"""Which class a misspelt name means."""

from __future__ import annotations

import re
from collections.abc import Iterable


def nearest_name(name: str, valid: Iterable[str]) -> str | None:
    """The one valid name that `name` most likely means, None where there is none or more than one.

    Case, spaces, hyphens and underscores do not count. Otherwise one typo (a letter added, dropped, changed, or two
    neighbours swapped) is allowed for every four letters, so that short names such as "1" and "7" or "RBC" and "WBC"
    are never taken for each other.
    """
    choices = list(valid)
    if name in choices:
        return name
    wanted = _plain(name)
    same = [c for c in choices if _plain(c) == wanted]
    if same:
        return same[0] if len(same) == 1 else None
    distances = [(typos(wanted, _plain(c)), c) for c in choices]
    close = [(d, c) for d, c in distances if d <= max(len(wanted), len(_plain(c))) // 4]
    best = min((d for d, _ in close), default=None)
    found = [c for d, c in close if d == best]
    return found[0] if len(found) == 1 else None


def _plain(name: str) -> str:
    return re.sub(r"[\s_\-]+", "", name).casefold()


def typos(a: str, b: str) -> int:
    """Optimal string alignment distance: insertions, deletions, substitutions, swaps of neighbours."""
    before: list[int] = []
    above = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            cost = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, above = above, row
    return above[-1]
