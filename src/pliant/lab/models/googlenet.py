"""GoogLeNet as AAF used it."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from pliant.lab.models.layers import Activation, Draw, Layers, check_drop, choose, image_size, normal

__all__ = ["googlenet"]

STAGES: tuple[tuple[tuple[str, tuple[int, ...]], ...], ...] = (
    (("3a", (64, 96, 128, 16, 32, 32)), ("3b", (128, 128, 192, 32, 96, 64))),
    (
        ("4a", (192, 96, 208, 16, 48, 64)),
        ("4b", (160, 112, 224, 24, 64, 64)),
        ("4c", (128, 128, 256, 24, 64, 64)),
        ("4d", (112, 144, 288, 32, 64, 64)),
        ("4e", (256, 160, 320, 32, 128, 128)),
    ),
    (("5a", (256, 160, 320, 32, 128, 128)), ("5b", (384, 192, 384, 48, 128, 128))),
)
"""Channels of the inception blocks: 1x1; 1x1 then 3x3; 1x1 then 5x5; 1x1 after the pool."""

# TensorFlow draws again what lies beyond two standard deviations.
truncated: Draw = functools.partial(nn.init.trunc_normal_, std=0.02, a=-0.04, b=0.04)


def googlenet(
    activation: Activation,
    *,
    input_shape: tuple[int, ...],
    outputs: int,
    variant: str = "code",
    dropout: float = 0.1,
    padding: str = "same",
    init: str = "released",
) -> nn.Module:
    """GoogLeNet of AAF: three convolutions and nine inception blocks, no auxiliary heads.

    At 32x32 the last two blocks see one pixel, so of their larger kernels only the centre counts.

    Args:
        activation: called 57 times.
        input_shape: (C, H, W) of any size; the paper's are (3, 32, 32).
        variant: "code": batch normalisation before every activation; "fig5": none, as drawn in the figure.
        dropout: share dropped before the output. Released: 0.1, written there as a keep probability of 0.9.
        padding: "same" (TensorFlow's) or "torch"; init: "released" (normal with sd 0.01, output truncated normal with sd 0.02,
            biases zero) or "kaiming". See :class:`pliant.lab.models.layers.Layers`.

    Source: AAF (Hu et al.), Fig. 5, and its release. 6,326,426
    parameters for 3x32x32 and 10 classes. Returns logits; the release fed probabilities to its loss. Batch normalisation has
    eps 1e-3; its momentum 0.1 is torch's, for the release never used its moving averages.
    """
    choose("variant", variant, "code", "fig5")
    check_drop("googlenet", dropout)
    channels, _, _ = image_size("googlenet", input_shape, 1)
    layers = Layers(normal, init=init, padding=padding, eps=1e-3, momentum=0.1)

    def unit(channels: int, out: int, kernel: int, stride: int = 1) -> nn.Sequential:
        block = nn.Sequential()
        block.add_module("conv", layers.conv(channels, out, kernel, stride, bias=0.0))
        if variant == "code":
            block.add_module("norm", layers.norm(out))
        block.add_module("act", activation())
        return block

    net = nn.Sequential()
    net.add_module("conv1", unit(channels, 64, 7, 2))
    net.add_module("pool1", layers.max_pool(3, 2))
    net.add_module("conv2", unit(64, 192, 3))
    net.add_module("conv3", unit(192, 192, 3))
    channels = 192
    for stage, blocks in enumerate(STAGES, 2):
        net.add_module(f"pool{stage}", layers.max_pool(3, 2))
        for name, (n1, r3, n3, r5, n5, np) in blocks:
            one = unit(channels, n1, 1)
            three = nn.Sequential(unit(channels, r3, 1), unit(r3, n3, 3))
            five = nn.Sequential(unit(channels, r5, 1), unit(r5, n5, 5))
            pool = nn.Sequential(layers.max_pool(3, 1), unit(channels, np, 1))
            net.add_module(f"inception{name}", Inception(one, three, five, pool))
            channels = n1 + n3 + n5 + np
    net.add_module("mean", nn.AdaptiveAvgPool2d(1))
    net.add_module("flatten", nn.Flatten())
    net.add_module("dropout", nn.Dropout(dropout))
    net.add_module("output", layers.linear(channels, outputs, weights=truncated))
    return net


class Inception(nn.Module):
    """Four branches side by side, joined along the channels."""

    def __init__(self, one: nn.Module, three: nn.Module, five: nn.Module, pool: nn.Module) -> None:
        super().__init__()
        self.one, self.three, self.five, self.pool = one, three, five, pool

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H, W)."""
        return torch.cat((self.one(x), self.three(x), self.five(x), self.pool(x)), 1)
