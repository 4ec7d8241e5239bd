"""DenseNet as AAF used it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pliant.errors import DomainError
from pliant.lab.models.layers import Activation, Layers, check_drop, image_size

__all__ = ["densenet"]


def densenet(
    activation: Activation,
    *,
    input_shape: tuple[int, ...],
    outputs: int,
    growth: int = 24,
    bottleneck: int = 4,
    third_block: int = 48,
    dropout: float = 0.2,
    padding: str = "same",
    init: str = "released",
) -> nn.Module:
    """DenseNet of AAF: blocks of 6, 12, 48 and 32 dense layers, the 201-layer pattern with a growth of 24.

    Args:
        activation: called twice a dense layer, once a transition and once at the end: 200 times.
        input_shape: (C, H, W), 15 pixels a side or more; the paper's are (3, 32, 32).
        growth: channels k that a dense layer adds.
        bottleneck: channels before a layer's 3x3 convolution, in units of k. Released: 4; Fig. 5: 2.
        third_block: dense layers of the third block. Released and in the text: 48; Fig. 5: 40.
        dropout: share dropped after each convolution but the first. Released: a drop rate of 0.2; Fig. 5 writes 0.8, which is
            kept.
        padding: "same" (TensorFlow's) or "torch"; init: "released" (Glorot-uniform weights) or "kaiming". See
            :class:`pliant.lab.models.layers.Layers`.

    Source: AAF (Hu et al.), Fig. 5, and its release. 10,236,298
    parameters for 3x32x32 and 10 classes. Batch normalisation has eps 1e-3 and momentum 0.1, TensorFlow's decay of 0.9.
    """
    check_drop("densenet", dropout)
    if min(growth, bottleneck, third_block) < 1:
        raise DomainError(
            f"densenet was given growth={growth}, bottleneck={bottleneck}, third_block={third_block}; expected numbers from 1 "
            "on."
        )
    channels, _, _ = image_size("densenet", input_shape, 15)
    layers = Layers(nn.init.xavier_uniform_, init=init, padding=padding, eps=1e-3, momentum=0.1)
    net = nn.Sequential()
    net.add_module("conv0", layers.conv(channels, 2 * growth, 7, 2))
    channels = 2 * growth
    for b, count in enumerate((6, 12, third_block, 32), 1):
        block = nn.Sequential()
        for _ in range(count):
            block.append(DenseLayer(activation, layers, channels, growth, bottleneck * growth, dropout))
            channels += growth
        net.add_module(f"block{b}", block)
        if b < 4:
            transition = nn.Sequential()
            transition.add_module("norm", layers.norm(channels))
            transition.add_module("act", activation())
            transition.add_module("conv", layers.conv(channels, channels // 2, 1))
            transition.add_module("dropout", nn.Dropout(dropout))
            transition.add_module("pool", nn.AvgPool2d(2))
            net.add_module(f"transition{b}", transition)
            channels //= 2
    net.add_module("norm", layers.norm(channels))
    net.add_module("act", activation())
    net.add_module("mean", nn.AdaptiveAvgPool2d(1))
    net.add_module("flatten", nn.Flatten())
    net.add_module("output", layers.linear(channels, outputs))
    return net


class DenseLayer(nn.Module):
    """1x1 to ``inner`` channels, 3x3 to ``growth`` channels, joined to the input along the channels."""

    def __init__(self, activation: Activation, layers: Layers, channels: int, growth: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.act1, self.conv1 = layers.norm(channels), activation(), layers.conv(channels, inner, 1)
        self.norm2, self.act2, self.conv2 = layers.norm(inner), activation(), layers.conv(inner, growth, 3)
        self.dropout1, self.dropout2 = nn.Dropout(dropout), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C + growth, H, W)."""
        y = self.dropout1(self.conv1(self.act1(self.norm1(x))))
        y = self.dropout2(self.conv2(self.act2(self.norm2(y))))
        return torch.cat((x, y), 1)
