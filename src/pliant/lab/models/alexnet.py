"""AlexNet as AAF used it."""

from __future__ import annotations

from torch import nn

from pliant.lab.models.layers import Activation, Layers, LocalResponseNorm, check_drop, choose, image_size, normal

__all__ = ["alexnet"]


def alexnet(
    activation: Activation,
    *,
    input_shape: tuple[int, ...],
    outputs: int,
    variant: str = "code",
    dropout: float = 0.1,
    padding: str = "same",
    init: str = "released",
) -> nn.Module:
    """AlexNet of AAF: four convolutions and three linear layers, as released or as drawn in Fig. 5.

    Args:
        activation: called 6 times ("code") or 5 times ("fig5").
        input_shape: (C, H, W), 29 pixels a side or more ("fig5": 13); the paper's are (3, 32, 32).
        variant: "code": batch normalisation before every hidden activation, two groups in the second and fourth convolution,
            three pools, linear layers of 1024 and 2048. "fig5": no batch normalisation, groups or third pool, a last
            convolution of 5x5, one linear layer of 2048; the strides that the figure leaves out are the code's.
        dropout: share dropped after the hidden linear layers. Released: 0.1, written there as a keep probability of 0.9.
        padding: "same" (TensorFlow's) or "torch"; init: "released" (normal with sd 0.01; biases 1 in the second and fourth
            convolution and the linear layers, else 0) or "kaiming". See :class:`pliant.lab.models.layers.Layers`.

    Source: AAF (Hu et al.), Fig. 5, and its release. 4,061,130
    parameters for 3x32x32 and 10 classes. Batch normalisation has eps 1e-3; its momentum 0.1 is torch's, for the release never
    used its moving averages.
    """
    choose("variant", variant, "code", "fig5")
    check_drop("alexnet", dropout)
    code = variant == "code"
    channels, height, width = image_size("alexnet", input_shape, 29 if code else 13)
    layers = Layers(normal, init=init, padding=padding, eps=1e-3, momentum=0.1)
    net = nn.Sequential()

    def convolve(name: str, conv: nn.Conv2d, respond: bool = False, pool: bool = False) -> None:
        net.add_module(f"conv{name}", conv)
        if code:
            net.add_module(f"norm{name}", layers.norm(conv.out_channels))
        net.add_module(f"act{name}", activation())
        if respond:
            net.add_module(f"lrn{name}", LocalResponseNorm(conv.out_channels))
        if pool:
            net.add_module(f"pool{name}", nn.MaxPool2d(3, 2))

    # The release skips the number 4.
    convolve("1", layers.conv(channels, 96, 11, 2, bias=0.0), respond=True, pool=True)
    convolve("2", layers.conv(96, 256, 5, groups=2 if code else 1, bias=1.0), respond=True, pool=True)
    convolve("3", layers.conv(256, 384, 3, bias=0.0))
    convolve("5", layers.conv(384, 256, 3 if code else 5, groups=2 if code else 1, bias=1.0), pool=code)

    def pooled(size: int) -> int:
        size = (size + 1) // 2
        for _ in range(3 if code else 2):
            size = (size - 3) // 2 + 1
        return size

    net.add_module("flatten", nn.Flatten())
    features = 256 * pooled(height) * pooled(width)
    for name, hidden in (("6", 1024), ("7", 2048)) if code else (("6", 2048),):
        net.add_module(f"fc{name}", layers.linear(features, hidden, bias=1.0))
        if code:
            net.add_module(f"norm{name}", layers.norm_features(hidden))
        net.add_module(f"act{name}", activation())
        net.add_module(f"dropout{name}", nn.Dropout(dropout))
        features = hidden
    net.add_module("output", layers.linear(features, outputs, bias=1.0))
    return net
