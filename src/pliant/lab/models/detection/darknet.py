"""Darknet-19, the backbone of YOLOv2."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

__all__ = ["Block", "Darknet19", "channels_at"]

STAGES = (((32, 3),), ((64, 3),), ((128, 3), (64, 1), (128, 3)), ((256, 3), (128, 1), (256, 3)))
MIDDLE = ((512, 3), (256, 1), (512, 3), (256, 1), (512, 3))
LAST = ((1024, 3), (512, 1), (1024, 3), (512, 1), (1024, 3))
"""Channels and kernel of each convolution; a 2x2 max-pool stands between any two stages."""

Make = Callable[[], nn.Module]


def channels_at(width: float, channels: int) -> int:
    """``channels`` times ``width``, rounded to a multiple of 8, and at least 8."""
    return max(8, round(channels * width / 8) * 8)


class Block(nn.Sequential):
    """A convolution without bias that keeps the size, batch normalisation, and the activation."""

    def __init__(self, activation: Make, channels: int, out: int, kernel: int) -> None:
        super().__init__()
        self.add_module("conv", nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=False))
        self.add_module("norm", nn.BatchNorm2d(out))
        self.add_module("act", activation())
        nn.init.kaiming_normal_(cast(nn.Conv2d, self[0]).weight, nonlinearity="relu")


class Darknet19(nn.Module):
    """The 18 convolutions of Darknet-19 before its classifier: (N, 3, H, W) to maps at strides 16 and 32.

    Args:
        activation: called 18 times. width: multiplies all channels.

    Source: Redmon & Farhadi (2017), table 6.
    """

    def __init__(self, activation: Make, width: float = 1.0) -> None:
        super().__init__()
        self.early, channels = _stages(activation, 3, width, (*STAGES, MIDDLE))
        self.passed = channels
        late, self.out = _stages(activation, channels, width, (LAST,))
        self.late = nn.Sequential(nn.MaxPool2d(2), *late)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 512, H / 16, W / 16) and (N, 1024, H / 32, W / 32), times the width."""
        middle = self.early(x)
        return middle, self.late(middle)


def _stages(
    activation: Make, channels: int, width: float, stages: tuple[tuple[tuple[int, int], ...], ...]
) -> tuple[nn.Sequential, int]:
    layers = nn.Sequential()
    for number, stage in enumerate(stages):
        if number:
            layers.append(nn.MaxPool2d(2))
        for out, kernel in stage:
            layers.append(Block(activation, channels, channels_at(width, out), kernel))
            channels = channels_at(width, out)
    return layers, channels
