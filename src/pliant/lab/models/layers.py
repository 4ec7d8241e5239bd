"""Layers that the papers' networks share: TensorFlow's padding and response normalisation, and what layers start from."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant.errors import DomainError, unknown

__all__ = [
    "Activation",
    "Draw",
    "Layers",
    "LocalResponseNorm",
    "SameConv2d",
    "SameMaxPool2d",
    "check_drop",
    "choose",
    "image_size",
    "normal",
    "same_padding",
]

Activation = Callable[[], nn.Module]
"""Makes the activation of one call site."""

Draw = Callable[[Tensor], Any]
"""Fills a weight with its initial values, in place."""

normal: Draw = functools.partial(nn.init.normal_, std=0.01)
"""What the released AlexNet, VGGNet and GoogLeNet of AAF start from, whatever the size of a layer."""

_he_normal: Draw = functools.partial(nn.init.kaiming_normal_, nonlinearity="relu")

_Layer = TypeVar("_Layer", nn.Conv2d, nn.Linear)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Cells that TensorFlow's ``SAME`` adds (before, after) along a dimension of ``size``; ceil(size / stride) come out.

    An odd cell goes after: with stride 2 and an even size the two differ, which torch's ``padding=`` cannot say.
    """
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's ``SAME`` padding: (N, C, H, W) -> (N, C', ceil(H / stride), ceil(W / stride))."""

    def forward(self, x: Tensor) -> Tensor:
        """The convolution. ``x`` is copied only where the two pads of a dimension differ."""
        top, bottom = same_padding(x.shape[-2], self.kernel_size[0], self.stride[0])
        left, right = same_padding(x.shape[-1], self.kernel_size[1], self.stride[1])
        if top == bottom and left == right:
            return F.conv2d(x, self.weight, self.bias, self.stride, (top, left), self.dilation, self.groups)
        return super().forward(F.pad(x, (left, right, top, bottom)))


class SameMaxPool2d(nn.Module):
    """A max-pool with TensorFlow's ``SAME`` padding, in which padded cells never win; sizes as in :class:`SameConv2d`."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def extra_repr(self) -> str:
        """Kernel and stride."""
        return f"kernel={self.kernel}, stride={self.stride}"

    def forward(self, x: Tensor) -> Tensor:
        """The largest value of each window."""
        before = [same_padding(n, self.kernel, self.stride)[0] for n in x.shape[-2:]]
        # The smaller pad on both sides; ceil_mode lets the last window hang over by the one cell that may be missing. These are
        # the windows of explicit -inf cells without the copy that adding them costs.
        return F.max_pool2d(x, self.kernel, self.stride, before, ceil_mode=True)


class LocalResponseNorm(nn.Module):
    """x / (bias + alpha * sum of x^2 over the channels up to ``radius`` away)^0.75, as ``tf.nn.lrn``; (N, C, H, W), shape kept.

    torch divides alpha by the width of the window: the defaults are its ``LocalResponseNorm(11, 1.1e-3, 0.75, 2.0)``.

    Args:
        channels: C. radius: channels to either side. alpha, bias: all three default to the released AAF code's.
    """

    band: Tensor

    def __init__(self, channels: int, radius: int = 5, alpha: float = 1e-4, bias: float = 2.0) -> None:
        super().__init__()
        self.radius, self.alpha, self.bias = radius, alpha, bias
        band = torch.tensor([[float(abs(i - j) <= radius) for j in range(channels)] for i in range(channels)])
        self.register_buffer("band", band[:, :, None, None], persistent=False)

    def extra_repr(self) -> str:
        """The constants."""
        return f"radius={self.radius}, alpha={self.alpha:g}, bias={self.bias:g}, beta=0.75"

    def forward(self, x: Tensor) -> Tensor:
        """The normalised ``x``."""
        # Sums over neighbouring channels as a 1x1 convolution with a band of ones, and y^-0.75 from two roots: forward and
        # backward take a quarter of the time of torch's pooling and pow on a CPU (AlexNet's first layer, batch 64).
        root = (F.conv2d(x * x, self.band) * self.alpha + self.bias).rsqrt()
        return x * (root * root.sqrt())


class Layers:
    """Makes the layers of one network, by one rule for padding and one for initial values.

    Args:
        weights: draws the weights if ``init`` is "released".
        init: "released", or "kaiming": He-normal weights (fan-in, gain of ReLU) and zero biases whatever the release had.
        padding: "same" is TensorFlow's rule; "torch" is kernel // 2 on each side, which gives the same sizes and, where the
            stride is 2, a grid shifted by one pixel.
        eps, momentum: of batch normalisation; a TensorFlow decay d is a torch momentum of 1 - d.

    Raises:
        UnknownNameError: another init or padding.
    """

    def __init__(self, weights: Draw, *, init: str = "released", padding: str = "same", eps: float, momentum: float) -> None:
        choose("init", init, "released", "kaiming")
        choose("padding", padding, "same", "torch")
        self.released = init == "released"
        self.weights = weights if self.released else _he_normal
        self.same = padding == "same"
        self.eps, self.momentum = eps, momentum

    def conv(
        self, channels: int, out: int, kernel: int, stride: int = 1, *, groups: int = 1, bias: float | None = None
    ) -> nn.Conv2d:
        """A square convolution of odd ``kernel``; ``bias`` is what the released biases start from, None for none."""
        if stride == 1 or not self.same:
            # At stride 1 the two rules agree, and torch's padding is part of its kernel.
            layer = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=bias is not None)
        else:
            layer = SameConv2d(channels, out, kernel, stride, groups=groups, bias=bias is not None)
        return self._start(layer, bias)

    def linear(self, features: int, out: int, *, bias: float = 0.0, weights: Draw | None = None) -> nn.Linear:
        """A linear layer; ``weights`` draws the released weights if these differ from the network's others."""
        return self._start(nn.Linear(features, out), bias, weights)

    def max_pool(self, kernel: int, stride: int) -> nn.Module:
        """A square max-pool of odd ``kernel`` that keeps ceil(size / stride) cells."""
        return SameMaxPool2d(kernel, stride) if self.same else nn.MaxPool2d(kernel, stride, kernel // 2)

    def norm(self, channels: int) -> nn.BatchNorm2d:
        """Batch normalisation of feature maps."""
        return nn.BatchNorm2d(channels, eps=self.eps, momentum=self.momentum)

    def norm_features(self, features: int) -> nn.BatchNorm1d:
        """Batch normalisation of a flat layer."""
        return nn.BatchNorm1d(features, eps=self.eps, momentum=self.momentum)

    def _start(self, layer: _Layer, bias: float | None, weights: Draw | None = None) -> _Layer:
        draw = weights if weights is not None and self.released else self.weights
        draw(layer.weight)
        if bias is not None and layer.bias is not None:
            nn.init.constant_(layer.bias, bias if self.released else 0.0)
        return layer


def choose(option: str, given: str, *known: str) -> str:
    """``given``, once it is one of ``known``.

    Raises:
        UnknownNameError: it is not.
    """
    if given not in known:
        raise unknown(f"{option} of this network", given, known)
    return given


def check_drop(network: str, *shares: float) -> None:
    """Raises DomainError unless each of ``shares``, probabilities to drop a unit, lies in [0, 1)."""
    for share in shares:
        if not 0 <= share < 1:
            raise DomainError(
                f"{network} was given dropout={share:g}; expected the share of units that is dropped, in [0, 1). A paper that "
                "says it keeps 0.9 drops 0.1."
            )


def image_size(network: str, input_shape: tuple[int, ...], smallest: int) -> tuple[int, int, int]:
    """Channels, height and width of one example.

    Raises:
        DomainError: it is no image, or a side is shorter than ``smallest`` pixels.
    """
    if len(input_shape) != 3:
        raise DomainError(
            f"{network} takes images of shape (channels, height, width), but one example has shape {tuple(input_shape)}. Give "
            "the data a channel dimension, or use ffnn, which takes any shape."
        )
    channels, height, width = input_shape
    if min(height, width) < smallest:
        raise DomainError(
            f"{network} was given images of {height} x {width} pixels; with its strides and pools each side needs at least "
            f"{smallest}. Enlarge the images, or use a network with fewer pools such as cnn."
        )
    return channels, height, width
