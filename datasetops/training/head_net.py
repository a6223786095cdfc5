"""A detector's head on maps of three strides: anchor-free, some 120,000 weights, boxes regressed for each class.

Tian et al., "FCOS" (ICCV 2019); Lin et al., "Feature pyramid networks" (CVPR 2017); the score of a cell is trained to be
the overlap of its box with the object, as in Li et al., "Generalized focal loss" (NeurIPS 2020).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from datasetops.training.maps import CHANNELS, STRIDES

_GROUPS: Final = 8
_PRIOR: Final = 0.01  # first score of every cell, so that background does not drown the first steps
_HALF: Final = 3.0  # strides from the middle of an object to its side, before anything is learned
_LARGEST: Final = 4.0  # logarithm of how many times that, at most
_SHARPNESS: Final = 2.0  # power by which easy cells count less
_BOX: Final = 2.0  # weight of the boxes' loss
_CELLS: Final = 9.0  # cells that an object counts as, however many answer for it


class Head(nn.Module):
    """Maps of three strides (B, channels, rows, columns) → logits (B, C, K) and sides (B, C, K, 4) of all C cells.

    Sides are distances from the cell's middle to left, top, right and bottom, in scaled pixels.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.classes = classes
        for level, channels in enumerate(CHANNELS):
            self.register_buffer(f"mean{level}", torch.zeros(channels, 1, 1))
            self.register_buffer(f"scale{level}", torch.ones(channels, 1, 1))
        self.lateral = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in CHANNELS)
        self.tower = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.norm = nn.ModuleList(nn.GroupNorm(_GROUPS, width) for _ in range(2))
        self.logits = nn.Conv2d(width, classes, 3, padding=1)
        self.sides = nn.Conv2d(width, 4 * classes, 3, padding=1)
        self.stretch = nn.Parameter(torch.zeros(len(STRIDES)))
        for last, first in ((self.logits, math.log(_PRIOR / (1 - _PRIOR))), (self.sides, 0.0)):
            nn.init.normal_(last.weight, std=0.01)
            if last.bias is not None:
                nn.init.constant_(last.bias, first)

    def standardise(self, level: int, mean: Tensor, deviation: Tensor) -> None:
        """Mean and deviation (channels,) of a level's maps."""
        getattr(self, f"mean{level}").copy_(mean[:, None, None])
        getattr(self, f"scale{level}").copy_(1 / deviation.clamp(min=1e-3)[:, None, None])

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        found: list[Tensor] = []
        for level in reversed(range(len(STRIDES))):
            x = (levels[level] - getattr(self, f"mean{level}")) * getattr(self, f"scale{level}")
            x = self.lateral[level](x)
            if found:
                x = x + functional.interpolate(found[0], scale_factor=2.0, mode="nearest")
            found.insert(0, x)
        logits, sides = [], []
        for level, x in enumerate(found):
            for convolution, norm in zip(self.tower, self.norm, strict=True):
                x = functional.silu(norm(convolution(x)))
            logits.append(self.logits(x).flatten(2).transpose(1, 2))
            reach = (self.sides(x) + self.stretch[level]).clamp(max=_LARGEST).exp() * (_HALF * STRIDES[level])
            sides.append(reach.flatten(2).transpose(1, 2).unflatten(2, (self.classes, 4)))
        return torch.cat(logits, 1), torch.cat(sides, 1)


def losses(
    logits: Tensor,
    sides: Tensor,
    middles: Tensor,
    cell: Tensor,
    label: Tensor,
    box: Tensor,
    weight: Tensor,
    silent: Tensor,
) -> Tensor:
    """Of one image: logits (C, K), sides (C, K, 4), and its targets (see `Targets`); a sum over its objects, to be divided
    by the weight of all objects of the batch."""
    reach, middle = sides[cell, label], middles[cell]
    overlap, generalised = _overlaps(torch.cat([middle - reach[:, :2], middle + reach[:, 2:]], 1), box)
    quality = torch.zeros_like(logits)
    importance = (~silent).to(logits.dtype)[:, None].expand_as(logits).clone()
    quality[cell, label] = overlap.detach().clamp(0, 1)
    importance[cell, label] = _CELLS * weight
    error = (logits.sigmoid() - quality).abs().pow(_SHARPNESS)
    entropy = functional.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    return (error * entropy * importance).sum() / _CELLS + _BOX * ((1 - generalised) * weight).sum()


def _overlaps(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union of boxes (P, 4) pair by pair, and Rezatofighi et al.'s generalised one (CVPR 2019)."""
    shared = (torch.minimum(one[:, 2:], other[:, 2:]) - torch.maximum(one[:, :2], other[:, :2])).clamp(min=0).prod(1)
    united = (one[:, 2:] - one[:, :2]).prod(1) + (other[:, 2:] - other[:, :2]).prod(1) - shared
    around = (torch.maximum(one[:, 2:], other[:, 2:]) - torch.minimum(one[:, :2], other[:, :2])).prod(1)
    overlap = shared / united.clamp(min=1e-6)
    return overlap, overlap - (around - united) / around.clamp(min=1e-6)


def to_bytes(head: Head | dict[str, Tensor]) -> bytes:
    """Weights as safetensors, in the order of their names."""
    from safetensors.torch import save

    state: dict[str, Any] = head.state_dict() if isinstance(head, Head) else head
    return bytes(save({name: state[name].detach().cpu().contiguous() for name in sorted(state)}))
