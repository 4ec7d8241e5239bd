"""ResNet-50 as AAF used it."""

from __future__ import annotations

from torch import Tensor, nn

from pliant.lab.models.layers import Activation, Layers, image_size

__all__ = ["resnet50"]

STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
"""Inner channels, bottlenecks and stride of each stage; a bottleneck returns four times its inner channels."""


def resnet50(
    activation: Activation,
    *,
    input_shape: tuple[int, ...],
    outputs: int,
    padding: str = "same",
    init: str = "released",
) -> nn.Module:
    """ResNet-50 of AAF: the first version of the bottleneck, with the stride in its first 1x1 convolution.

    torchvision's has the stride in the 3x3 convolution and is therefore another network of the same size.

    Args:
        activation: called 49 times.
        input_shape: (C, H, W) of any size; the paper's are (3, 32, 32), and 224 pixels leave 7x7 before the mean.
        padding: "same" (TensorFlow's) or "torch"; init: "released" (Glorot-uniform weights) or "kaiming". See
            :class:`pliant.lab.models.layers.Layers`.

    Source: AAF (Hu et al.) and its release. 23,528,522
    parameters for 3x32x32 and 10 classes. No dropout. Returns logits; the release fed probabilities to its loss. Batch
    normalisation has eps 1e-3; its momentum 0.1 is torch's, for the release never used its moving averages.
    """
    channels, _, _ = image_size("resnet50", input_shape, 1)
    layers = Layers(nn.init.xavier_uniform_, init=init, padding=padding, eps=1e-3, momentum=0.1)
    net = nn.Sequential()
    net.add_module("conv1", layers.conv(channels, 64, 7, 2))
    net.add_module("norm1", layers.norm(64))
    net.add_module("act1", activation())
    net.add_module("pool1", layers.max_pool(3, 2))
    channels = 64
    for stage, (inner, count, stride) in enumerate(STAGES, 2):
        blocks = nn.Sequential()
        for i in range(count):
            blocks.append(Bottleneck(activation, layers, channels, inner, stride if i == 0 else 1))
            channels = 4 * inner
        net.add_module(f"block{stage}", blocks)
    net.add_module("mean", nn.AdaptiveAvgPool2d(1))
    net.add_module("flatten", nn.Flatten())
    net.add_module("output", layers.linear(channels, outputs))
    return net


class Bottleneck(nn.Module):
    """1x1 (with the stride), 3x3 and 1x1 convolution, then the shortcut is added; an activation after each."""

    def __init__(self, activation: Activation, layers: Layers, channels: int, inner: int, stride: int) -> None:
        super().__init__()
        out = 4 * inner
        self.conv1, self.norm1 = layers.conv(channels, inner, 1, stride), layers.norm(inner)
        self.conv2, self.norm2 = layers.conv(inner, inner, 3), layers.norm(inner)
        self.conv3, self.norm3 = layers.conv(inner, out, 1), layers.norm(out)
        self.act1, self.act2, self.act3 = activation(), activation(), activation()
        self.shortcut = nn.Sequential()
        if channels != out:
            self.shortcut.add_module("conv", layers.conv(channels, out, 1, stride))
            self.shortcut.add_module("norm", layers.norm(out))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, 4 * inner, ceil(H / stride), ceil(W / stride))."""
        y = self.act1(self.norm1(self.conv1(x)))
        y = self.act2(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        return self.act3(y + self.shortcut(x))  # type: ignore[no-any-return]
