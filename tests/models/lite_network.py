"""EfficientNet-Lite0 as a torch module, written apart from the graph under test; its predictions are checked too."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

STAGES = (  # blocks, kernel, stride, expansion, channels: table 1 of Tan and Le, ICML 2019
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
TAPS = (6, 8, 10, 12, 14, 15)


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class SameConv(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding, for sides that are multiples of the stride."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = self.kernel_size[0] - self.stride[0]
        before = total // 2
        padded = functional.pad(x, (before, total - before, before, total - before))
        return functional.conv2d(padded, self.weight, None, self.stride, 0, 1, self.groups)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self._expand_conv = nn.Conv2d(inputs, width, 1, bias=False) if expansion > 1 else None
        self._bn0 = norm(width) if expansion > 1 else None
        self._depthwise_conv = SameConv(width, width, kernel, stride, groups=width, bias=False)
        self._bn1 = norm(width)
        self._project_conv = nn.Conv2d(width, outputs, 1, bias=False)
        self._bn2 = norm(outputs)
        self._adds_input = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = x
        if self._expand_conv is not None and self._bn0 is not None:
            h = functional.relu6(self._bn0(self._expand_conv(h)))
        h = functional.relu6(self._bn1(self._depthwise_conv(h)))
        y = self._bn2(self._project_conv(h))
        return (x + y if self._adds_input else y), h


class Network(nn.Module):
    """The network as a torch module whose state dictionary has the package's keys.

    (B, 3, H, W), pixels as (value − 127) / 128, sides multiples of 32 → pooled activations (B, 6368), logits (B, 1000).
    """

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv(3, 32, 3, 2, bias=False)
        self._bn0 = norm(32)
        blocks: list[Block] = []
        inputs = 32
        for count, kernel, stride, expansion, outputs in STAGES:
            for number in range(count):
                blocks.append(Block(inputs, outputs, kernel, stride if number == 0 else 1, expansion))
                inputs = outputs
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = nn.Conv2d(inputs, 1280, 1, bias=False)
        self._bn1 = norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = functional.relu6(self._bn0(self._conv_stem(images)))
        pooled = []
        for number, block in enumerate(self._blocks):
            x, widened = block(x)
            if number in TAPS:
                pooled.append(widened.mean(dim=(2, 3)))
        last = functional.relu6(self._bn1(self._conv_head(x))).mean(dim=(2, 3))
        return torch.cat([*pooled, last], dim=1), self._fc(last)
