"""A plain convolutional network of any depth, for what shortcuts and batch normalisation hide."""

from __future__ import annotations

import math

import torch
from torch import nn

from pliant.errors import DomainError
from pliant.gain import gain
from pliant.lab.models.layers import Activation, choose, image_size

__all__ = ["plain"]

WIDTHS = (16, 32, 64)


def plain(
    activation: Activation,
    *,
    input_shape: tuple[int, ...],
    outputs: int,
    depth: int = 20,
    batch_norm: bool = False,
    init: str = "gain",
) -> nn.Module:
    """A stack of 3x3 convolutions, one after the other, in three stages of 16, 32 and 64 channels; then the mean and one linear
    layer. The second and the third stage begin with stride 2.

    Args:
        activation: called after each convolution.
        input_shape: (C, H, W) of any size.
        depth: convolutions, 3 or more; what three stages do not share evenly the last ones have.
        batch_norm: normalise before each activation, and leave out the biases.
        init: "gain" draws weights with variance g^2 / fan-in, g the gain of the activation as it is at the start
            (:func:`pliant.gain`), which keeps signals at unit scale whatever the activation; "he" takes ReLU's. The first
            convolution, whose input no activation made, has variance 1 / fan-in.

    Source: none of the papers; the plain networks that ResNet was compared with (He et al., CVPR 2016) without their batch
    normalisation. 278,282 parameters for 3 channels, 10 classes and depth 20.

    Raises:
        DomainError: fewer than 3 convolutions; an activation without a gain, such as one whose outputs depend on each other.
    """
    choose("init", init, "gain", "he")
    if depth < len(WIDTHS):
        raise DomainError(f"plain was given depth={depth}; expected the number of convolutions, from {len(WIDTHS)} on.")
    channels, _, _ = image_size("plain", input_shape, 1)
    net = nn.Sequential()
    factor = 1.0
    for i in range(depth):
        stage = i * len(WIDTHS) // depth
        first = stage != (i - 1) * len(WIDTHS) // depth
        layer = nn.Conv2d(channels, WIDTHS[stage], 3, 2 if first and stage else 1, 1, bias=not batch_norm)
        act = activation()
        # The input is at unit scale already; what comes after is what an activation made of it.
        nn.init.normal_(layer.weight, std=factor / math.sqrt(layer.weight[0].numel()))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
        if not layer.weight.is_meta:
            factor = _gain(act) if init == "gain" else math.sqrt(2.0)
        net.add_module(f"conv{i + 1}", layer)
        if batch_norm:
            net.add_module(f"bn{i + 1}", nn.BatchNorm2d(WIDTHS[stage]))
        net.add_module(f"act{i + 1}", act)
        channels = WIDTHS[stage]
    net.add_module("pool", nn.AdaptiveAvgPool2d(1))
    net.add_module("flatten", nn.Flatten())
    net.add_module("output", nn.Linear(channels, outputs))
    return net


def _gain(act: nn.Module) -> float:
    # Whatever it draws must not move the weights that compared activations share.
    with torch.random.fork_rng(devices=[]):
        return gain(act)
