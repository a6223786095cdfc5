"""The same sums, whatever else a process has done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from datasetops.training.recipe import AnyRecipe, ProbeRecipe


@contextmanager
def same_arithmetic(threads: int, recipe: AnyRecipe) -> Iterator[None]:
    """A fixed number of threads for NumPy, and for torch where it trains: sums are rounded otherwise with another."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(threads):
        if isinstance(recipe, ProbeRecipe):
            yield
            return
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
