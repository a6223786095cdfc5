"""Workers that train one model together: each has its share of every batch, and gradients are added up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


class Team:
    """This worker alone; see `Workers` for several."""

    rank = 0
    size = 1

    def total(self, values: Sequence[float]) -> list[float]:
        """Each value, summed over all workers."""
        return list(values)

    def add_up(self, parameters: Iterable[Any]) -> None:
        """Gradients of the parameters, summed over all workers."""


class Workers(Team):
    """Processes that torch.distributed has joined. `device` is this worker's."""

    def __init__(self, device: Any) -> None:
        import torch.distributed as together

        self.rank, self.size, self._device = together.get_rank(), together.get_world_size(), device

    def total(self, values: Sequence[float]) -> list[float]:
        import torch
        import torch.distributed as together

        summed = torch.tensor(list(values), dtype=torch.float64, device=self._device)
        together.all_reduce(summed)
        return [float(value) for value in summed.tolist()]

    def add_up(self, parameters: Iterable[Any]) -> None:
        import torch
        import torch.distributed as together

        own = [value for value in parameters if value.requires_grad]
        flat = torch.cat([(torch.zeros_like(value) if value.grad is None else value.grad).flatten() for value in own])
        together.all_reduce(flat)
        for value, part in zip(own, torch.split(flat, [value.numel() for value in own]), strict=True):
            value.grad = part.view_as(value)
