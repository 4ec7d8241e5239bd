"""The convolutional network of the SReLU paper."""

from __future__ import annotations

from torch import nn

from pliant.lab.models.layers import Activation, check_drop, choose, image_size

__all__ = ["cnn"]


def cnn(
    activation: Activation,
    *,
    input_shape: tuple[int, ...],
    outputs: int,
    padding: str = "valid",
    dropout: float = 0.3,
) -> nn.Module:
    """Two 3x3 convolutions of 32 and 64 channels, each with a 2x2 pool, and two hidden linear layers of 512.

    Weights are Glorot-uniform and biases zero, as in Keras, the paper's framework.

    Args:
        activation: called 4 times, before the pools and after the hidden linear layers.
        input_shape: (C, H, W), 10 pixels a side or more ("same": 4); the paper's are (1, 28, 28).
        padding: "valid", the default of Keras, or "same", which keeps 28x28 pixels; the paper does not say.
        dropout: share of single values dropped after each pool and hidden layer, as Keras' ``Dropout`` (paper: 0.3).

    Source: S. Bhat, "SReLU". 1,106,314 parameters for 1x28x28 and 10 classes; 1,892,746 with "same".
    """
    choose("padding", padding, "valid", "same")
    check_drop("cnn", dropout)
    same = padding == "same"
    channels, height, width = image_size("cnn", input_shape, 4 if same else 10)
    net = nn.Sequential()
    for i, wide in enumerate((32, 64), 1):
        net.add_module(f"conv{i}", nn.Conv2d(channels, wide, 3, padding=1 if same else 0))
        net.add_module(f"act{i}", activation())
        net.add_module(f"pool{i}", nn.MaxPool2d(2))
        net.add_module(f"dropout{i}", nn.Dropout(dropout))
        channels = wide
        height, width = ((n if same else n - 2) // 2 for n in (height, width))
    net.add_module("flatten", nn.Flatten())
    features = channels * height * width
    for i in (3, 4):
        net.add_module(f"linear{i}", nn.Linear(features, 512))
        net.add_module(f"act{i}", activation())
        net.add_module(f"dropout{i}", nn.Dropout(dropout))
        features = 512
    net.add_module("output", nn.Linear(features, outputs))
    for module in net:
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    return net
