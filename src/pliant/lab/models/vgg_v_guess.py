"""A guess at the network that AAF calls VGG-v."""

from __future__ import annotations

from torch import nn

from pliant.lab.models.layers import Activation, Layers, check_drop, image_size, normal

__all__ = ["vgg_v_guess"]

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and convolutions of each block."""


def vgg_v_guess(
    activation: Activation,
    *,
    input_shape: tuple[int, ...],
    outputs: int,
    dropout: float = 0.4,
    head_dropout: float = 0.5,
) -> nn.Module:
    """A guess at AAF's "VGG-v": VGG-16 with batch normalisation before every activation, dropout between convolutions.

    The paper calls it an "extended version of the VGGNet" for CIFAR-100 and says no more. Its 70 % without augmentation are
    what this well-known regularised VGG-16 reaches, hence the guess. **Results with it are no reproduction of the paper's.**

    Args:
        activation: called 14 times.
        input_shape: (C, H, W), 32 pixels a side or more.
        dropout: share dropped between two convolutions of a block; head_dropout: before and after the hidden linear layer.
            Both are ours.

    15,038,116 parameters for 3x32x32 and 100 classes. Weights He-normal, biases zero; batch normalisation with torch's
    constants.
    """
    check_drop("vgg_v_guess", dropout, head_dropout)
    channels, height, width = image_size("vgg_v_guess", input_shape, 32)
    layers = Layers(normal, init="kaiming", eps=1e-5, momentum=0.1)
    net = nn.Sequential()
    for b, (wide, count) in enumerate(BLOCKS, 1):
        block = nn.Sequential()
        for i in range(1, count + 1):
            block.add_module(f"conv{i}", layers.conv(channels, wide, 3, bias=0.0))
            block.add_module(f"norm{i}", layers.norm(wide))
            block.add_module(f"act{i}", activation())
            if i < count:
                block.add_module(f"dropout{i}", nn.Dropout(dropout))
            channels = wide
        block.add_module("pool", nn.MaxPool2d(2))
        net.add_module(f"block{b}", block)
    net.add_module("flatten", nn.Flatten())
    net.add_module("dropout1", nn.Dropout(head_dropout))
    net.add_module("fc1", layers.linear(512 * (height // 32) * (width // 32), 512))
    net.add_module("norm1", layers.norm_features(512))
    net.add_module("act1", activation())
    net.add_module("dropout2", nn.Dropout(head_dropout))
    net.add_module("output", layers.linear(512, outputs))
    return net
