"""Which rows of a version's segments count, without putting the table together."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from datasetops.manifest.encoding import DELETE
from datasetops.manifest.segment import Positions
from datasetops.manifest.table import TableState

Mask = npt.NDArray[np.bool_]
Hidden = dict[tuple[str, str], Positions]  # rows of one segment that another replaces, by their identities


def live_rows(state: TableState, known: Hidden | None = None) -> list[Mask]:
    """Of each segment which rows count: not deleted, and not replaced by a later segment. O(k log n) for k changed rows.

    `known` is kept from one version to the next, as most of their segments are the same.
    """
    known = {} if known is None else known
    masks: list[Mask] = []
    for number, segment in enumerate(state.segments):
        mask = segment.table(["_op"])["_op"].to_numpy() != DELETE
        for later in state.segments[number + 1 :]:
            if (pair := (segment.info.id, later.info.id)) not in known:
                at = segment.lookup(later.table([state.key])[state.key].combine_chunks())
                known[pair] = at[at >= 0]
            mask[known[pair]] = False
        masks.append(mask)
    return masks
