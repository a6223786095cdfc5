"""Which findings of a queue are shown, and how that is written in an address."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any, Final
from urllib.parse import urlencode

from datasetops.errors import did_you_mean

DECIDED: Final = ("no", "yes", "all")
SEVERAL: Final = ("check", "severity", "given", "suggested", "split", "annotator", "slice")
_NUMBERS: Final = ("min_score", "max_score")
_LONGEST: Final = 2_000  # characters of one value: no id, path or class name is longer
_MOST: Final = 200  # values of one field


@dataclass(frozen=True)
class Filters:
    """Several values of one field: any of them. Fields that are left empty let everything through.

    `slice` holds "key=value"; scores are in [0, 1], both ends included; `search` is a part of a sample id, uri,
    finding id or message, whatever its case; `like` a sample_id, whose nearest in embedding space come first.
    """

    check: tuple[str, ...] = ()
    severity: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    suggested: tuple[str, ...] = ()
    split: tuple[str, ...] = ()
    annotator: tuple[str, ...] = ()
    slice: tuple[str, ...] = ()
    min_score: float | None = None
    max_score: float | None = None
    decided: str = "no"  # "no": nobody said error or fine yet
    search: str = ""
    like: str | None = None

    def __post_init__(self) -> None:
        if self.decided not in DECIDED:
            raise ValueError(f"decided: expected one of {', '.join(DECIDED)}; got {self.decided!r}")
        for name in _NUMBERS:
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name}: expected a number from 0 to 1; got {value!r}")
        for item in self.slice:
            if "=" not in item:
                raise ValueError(f"slice: expected key=value; got {item!r}")

    @classmethod
    def from_query(cls, pairs: Sequence[tuple[str, str]]) -> Filters:
        """From the pairs of an address. Empty values count as not given. ValueError names the field."""
        known = [field.name for field in fields(cls)]
        values: dict[str, Any] = {}
        for name, value in pairs:
            if name not in known:
                raise ValueError(f"{name[:50]}: no such filter. {did_you_mean(name[:50], known, noun='filters')}")
            if len(value) > _LONGEST:
                raise ValueError(f"{name}: expected at most {_LONGEST:,} characters; got {len(value):,}")
            if value == "":
                continue
            if name in SEVERAL:
                values[name] = tuple(dict.fromkeys((*values.get(name, ()), value)))
                if len(values[name]) > _MOST:
                    raise ValueError(f"{name}: expected at most {_MOST} values")
            elif name in values:
                raise ValueError(f"{name}: expected once; got it twice")
            else:
                values[name] = _number(name, value) if name in _NUMBERS else value
        made: dict[str, Any] = {
            name: tuple(sorted(value)) if name in SEVERAL else value for name, value in values.items()
        }
        return cls(**made)

    def to_query(self) -> str:
        """The same filters as the query of an address: in one order, without what is at its default."""
        pairs: list[tuple[str, str]] = []
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in SEVERAL:
                pairs += [(field.name, item) for item in sorted(value)]
            elif value != field.default:
                pairs.append((field.name, f"{value!r}" if isinstance(value, float) else str(value)))
        return urlencode(pairs)


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not isfinite(number):
        raise ValueError(f"{name}: expected a number from 0 to 1; got {text[:50]!r}")
    return number
