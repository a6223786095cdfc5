"""Masks as CVAT's runs and as COCO's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from datasetops.labeling.cvat.runs import Runs, from_runs, to_runs
from datasetops.labeling.masks import decoded, encoded


@given(arrays.arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 7))))
@settings(deadline=None)
def test_masks_in_both_forms(mask: NDArray[Any]) -> None:
    np.testing.assert_array_equal(decoded(encoded(mask)), mask)
    if mask.any():
        runs = to_runs(mask)
        again, cut = from_runs(runs, mask.shape[1], mask.shape[0])
        np.testing.assert_array_equal(again, mask)
        assert cut == 0
        assert all(run > 0 for run in runs.runs[1:])
    else:
        with pytest.raises(ValueError, match="the mask is empty"):
            to_runs(mask)


def test_runs_that_leave_the_image_are_cut() -> None:
    mask, cut = from_runs(Runs([0, 6], left=-1, top=1, width=2, height=3), width=4, height=3)
    assert cut == 4
    assert np.argwhere(mask).tolist() == [[1, 0], [2, 0]]
