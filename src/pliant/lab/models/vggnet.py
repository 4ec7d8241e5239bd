"""VGGNet as AAF used it."""

from __future__ import annotations

from torch import nn

from pliant.lab.models.layers import Activation, Layers, check_drop, choose, image_size, normal

__all__ = ["vggnet"]

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and convolutions of each block."""

HEADS = {"code": (8192, 8192), "fig5": (8192, 7168), "small": (512, 512)}


def vggnet(
    activation: Activation,
    *,
    input_shape: tuple[int, ...],
    outputs: int,
    head: str = "code",
    dropout: float = 0.1,
    init: str = "released",
) -> nn.Module:
    """VGGNet of AAF: 13 convolutions, pools after the last three of five blocks, and three large linear layers.

    Batch normalisation stands before the last activation of each block alone. 3.9 G multiply-adds an example, and 134 M of its
    149 M parameters in two linear layers: heavy.

    Args:
        activation: called 15 times.
        input_shape: (C, H, W), 8 pixels a side or more; the paper's are (3, 32, 32).
        head: units of the hidden linear layers. "code": 8192 and 8192. "fig5": 8192 and 7168. "small": 512 and 512, which is
            **not the paper's** but ours, for tries; results with it are no reproduction.
        dropout: share dropped after the hidden linear layers. Released: 0.1, written there as a keep probability of 0.9.
        init: "released" (normal with sd 0.01; biases 1 in the linear layers, else 0) or "kaiming".

    Source: AAF (Hu et al.), Fig. 5, and its release. 149,033,674
    parameters for 3x32x32 and 10 classes. Batch normalisation has eps 1e-3; its momentum 0.1 is torch's, for the release never
    used its moving averages.
    """
    choose("head", head, *HEADS)
    check_drop("vggnet", dropout)
    channels, height, width = image_size("vggnet", input_shape, 8)
    layers = Layers(normal, init=init, eps=1e-3, momentum=0.1)
    net = nn.Sequential()
    for b, (wide, count) in enumerate(BLOCKS, 1):
        block = nn.Sequential()
        for i in range(1, count + 1):
            block.add_module(f"conv{i}", layers.conv(channels, wide, 3, bias=0.0))
            if i == count:
                block.add_module(f"norm{i}", layers.norm(wide))
            block.add_module(f"act{i}", activation())
            channels = wide
        if b > 2:
            block.add_module("pool", nn.MaxPool2d(2))
        net.add_module(f"block{b}", block)
    net.add_module("flatten", nn.Flatten())
    features = 512 * (height // 8) * (width // 8)
    for i, hidden in enumerate(HEADS[head], 1):
        net.add_module(f"fc{i}", layers.linear(features, hidden, bias=1.0))
        net.add_module(f"act{i}", activation())
        net.add_module(f"dropout{i}", nn.Dropout(dropout))
        features = hidden
    net.add_module("output", layers.linear(features, outputs, bias=1.0))
    return net
