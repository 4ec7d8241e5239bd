"""ResNet-34 as DSReLU used it."""

from __future__ import annotations

from torch import Tensor, nn

from pliant.lab.models.layers import Activation, image_size

__all__ = ["resnet34"]

STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
"""Channels, blocks and stride of each stage."""


def resnet34(
    activation: Activation,
    *,
    input_shape: tuple[int, ...],
    outputs: int,
    shared: bool = False,
    small_stem: bool = False,
    branch_scale: float = 1.0,
    logit_scale: float = 1.0,
) -> nn.Module:
    """ResNet-34 of DSReLU, which is torchvision's, for images and for signals laid out as images of height 1.

    Its weights have torchvision's names. With a slope s on positive inputs the stream grows like s^blocks within a stage.

    Args:
        activation: called 33 times, or 17 times if ``shared``.
        input_shape: (C, H, W) of any size. The paper's: (3, 32, 32), (3, 84, 84) as written and (3, 128, 128) as released,
            (1, 1, 187): at height 1 only the middle row of each kernel touches data.
        shared: one activation object for both sites of a block, as released. It matters for learned coefficients alone.
        small_stem: a 3x3 convolution with stride 1 and no pool in place of the 7x7 and its pool. Usual for small images, but
            **not the paper's**; results with it are no reproduction.
        branch_scale, logit_scale: what each block's branch is multiplied with before it is added, and the outputs. Ablations:
            they scale as DSReLU's slope does, with another activation.

    Source: the DSReLU paper and its release. 21,335,972 parameters for 3 channels and 100 classes, 21,280,965 for 1 channel and
    5. Weights of convolutions: normal with variance 2 / (k^2 C_out); the output has torch's default start, and batch
    normalisation torch's constants (eps 1e-5, momentum 0.1).
    """
    channels, _, _ = image_size("resnet34", input_shape, 1)
    net = nn.Sequential()
    net.add_module("conv1", convolution(channels, 64, 3) if small_stem else convolution(channels, 64, 7, 2))
    net.add_module("bn1", nn.BatchNorm2d(64))
    net.add_module("act1", activation())
    if not small_stem:
        net.add_module("maxpool", nn.MaxPool2d(3, 2, 1))
    channels = 64
    for stage, (out, count, stride) in enumerate(STAGES, 1):
        blocks = nn.Sequential()
        for i in range(count):
            first = activation()
            second = first if shared else activation()
            blocks.append(BasicBlock(first, second, channels, out, stride if i == 0 else 1, branch_scale))
            channels = out
        net.add_module(f"layer{stage}", blocks)
    net.add_module("avgpool", nn.AdaptiveAvgPool2d(1))
    net.add_module("flatten", nn.Flatten())
    net.add_module("fc", nn.Linear(channels, outputs))
    if logit_scale != 1:
        net.add_module("scale", Scale(logit_scale))
    return net


def convolution(channels: int, out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A square convolution without bias, padded by kernel // 2 on each side."""
    layer = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


class Scale(nn.Module):
    """Multiplies by a fixed number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def extra_repr(self) -> str:
        """The factor."""
        return f"{self.factor:g}"

    def forward(self, x: Tensor) -> Tensor:
        """``factor * x``."""
        return self.factor * x


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, the first with the stride, then the shortcut is added."""

    def __init__(
        self, first: nn.Module, second: nn.Module, channels: int, out: int, stride: int, branch_scale: float = 1.0
    ) -> None:
        super().__init__()
        self.branch_scale = branch_scale
        self.conv1, self.bn1, self.act1 = convolution(channels, out, 3, stride), nn.BatchNorm2d(out), first
        self.conv2, self.bn2, self.act2 = convolution(out, out, 3), nn.BatchNorm2d(out), second
        self.downsample = nn.Sequential()
        if stride != 1 or channels != out:
            self.downsample.extend((convolution(channels, out, 1, stride), nn.BatchNorm2d(out)))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, out, ceil(H / stride), ceil(W / stride))."""
        y = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        if self.branch_scale != 1:
            y = self.branch_scale * y
        return self.act2(y + self.downsample(x))  # type: ignore[no-any-return]
