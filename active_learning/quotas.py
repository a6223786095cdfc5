"""Quotas: at least so many of a batch from a slice."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from datasetops.active_learning.pool import Ints
from datasetops.audits.sets.coverage import slice_values, values_by_key
from datasetops.errors import did_you_mean

CLASS: Final = "class"  # as a key: the class that the model thinks likeliest
_FORM: Final = re.compile(r"(?P<key>[^=]+)=(?P<value>.+):(?P<amount>[0-9.]+)(?P<percent>%?)")


@dataclass(frozen=True)
class Quota:
    """At least `count` of the batch where the slice `key` has this `value`."""

    key: str
    value: str
    count: int

    def __str__(self) -> str:
        return f"{self.key}={self.value}"


def parse_quota(text: str, n: int) -> Quota:
    """KEY=VALUE:COUNT or KEY=VALUE:SHARE% of a batch of n. Raises ValueError that names the option."""
    form = _FORM.fullmatch(text.strip())
    if form is None:
        raise ValueError(
            f"--quota: expected KEY=VALUE:COUNT or KEY=VALUE:SHARE%, such as light=night:20%; got {text!r}"
        )
    try:
        amount = float(form["amount"])
    except ValueError:
        raise ValueError(f"--quota: {form['amount']!r} is no number, in {text!r}") from None
    if form["percent"]:
        if not 0 < amount <= 100:
            raise ValueError(f"--quota: expected a share above 0 % up to 100 %; got {text!r}")
        count = math.ceil(n * amount / 100)
    elif amount != int(amount) or amount < 1:
        raise ValueError(f"--quota: expected a whole number of 1 or more, or a share like 20%; got {text!r}")
    else:
        count = int(amount)
    return Quota(form["key"].strip(), form["value"].strip(), count)


def check_quotas(quotas: Sequence[Quota], n: int) -> None:
    """Raises ValueError for quotas that contradict each other: one said twice, or more of a key than the batch has."""
    names = [str(quota) for quota in quotas]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"--quota: {name} is given more than once")
    for key in dict.fromkeys(quota.key for quota in quotas):
        total = sum(quota.count for quota in quotas if quota.key == key)
        if total > n:
            raise ValueError(f"--quota: those of {key} add up to {total:,}, and the batch has {n:,}")


def slice_texts(samples: pd.DataFrame, key: str) -> pd.Series[str]:
    """A slice attribute of samples as texts, empty where there is none. Raises ValueError where no sample has it."""
    values = slice_values(samples, key)
    known = values.notna()
    if not known.any():
        hint = did_you_mean(key, [CLASS, *samples.columns.drop("metadata"), *values_by_key(samples)], noun="keys")
        raise ValueError(f"no sample of the pool has {key!r}, as a column or in the metadata. {hint}")
    texts: pd.Series[str] = values.where(known, "").map(str)
    return texts


def balanced(values: pd.Series[str], key: str, n: int) -> list[Quota]:
    """Quotas that give each distinct value as equal a part of n as its size allows, the rarest first."""
    sizes = values[values != ""].value_counts().sort_index().sort_values(kind="stable")
    quotas: list[Quota] = []
    left = n
    for place, (value, size) in enumerate(sizes.items()):
        count = min(int(size), left // (len(sizes) - place))
        left -= count
        if count:
            quotas.append(Quota(key, str(value), count))
    return quotas


def rows_with(values: pd.Series[str], value: str) -> Ints:
    rows: Ints = np.flatnonzero(values.to_numpy() == value).astype(np.int64)
    return rows
