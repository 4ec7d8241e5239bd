"""ASigmoid: sigmoid between two learned affine maps (Hu et al.)."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from pliant.activation import Activation
from pliant.coefficients import Coefficient, Learned
from pliant.elementwise import elementwise


@elementwise(kernel="asigmoid")
def asigmoid(
    x: Tensor,
    a: float | Tensor = 1.0,
    b: float | Tensor = 1.0,
    c: float | Tensor = 0.0,
    d: float | Tensor = 0.0,
) -> Tensor:
    """``b * sigmoid(a * x + c) + d``, elementwise.

    With h = sigmoid(a x + c): df/dc = b * h * (1 - h); df/dx = a * df/dc; df/da = x * df/dc; df/db = h; df/dd = 1.

    Args:
        x: any shape, floating point.
        a, b, c, d: numbers, or tensors of shape (), (1,) or (C,). a = 0 or b = 0 leaves a constant that cannot learn a way out.
    """
    return b * torch.sigmoid(a * x + c) + d


def _saturated(x: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> dict[str, Tensor]:
    """Where h (1 - h) is below 1 % of its peak of 1/4."""
    return {"saturated": (a * x + c).abs() > 5.9864}


def _rising(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, ...]:
    """With a >= 0: sigmoid(-u) = 1 - sigmoid(u)."""
    flip = a < 0
    return torch.where(flip, -a, a), torch.where(flip, -b, b), torch.where(flip, -c, c), torch.where(flip, b + d, d)


@final
class ASigmoid(Activation):
    """Adaptive sigmoid of Hu et al. ("AAF"): ``b * sigmoid(a * x + c) + d`` with four learned numbers.

    Together with ATanh this is one family: ``ASigmoid(a, b, c, d)`` equals ``ATanh(a/2, b/2, c/2, d + b/2)``. What
    differs is where training starts and how well it is conditioned.

    Keep weight decay off the four numbers (see :func:`pliant.param_groups`): it pulls a and b towards 0, where the function
    is constant.

    Args:
        a: inner scale, c: inner shift, b: outer scale, d: outer shift. Any finite numbers; Learned from (1, 1, 0, 0), where
            the function is sigmoid itself.

    Source: Hu et al., "Adaptively Customizing Activation Functions for Various Layers", section 3.
    """

    function = staticmethod(asigmoid)
    pieces = staticmethod(_saturated)
    canonical = staticmethod(_rising)
    source = "AAF (Hu et al.)"
    aliases = ("adaptive_sigmoid",)

    a = Coefficient(Learned(1.0))
    b = Coefficient(Learned(1.0))
    c = Coefficient(Learned(0.0))
    d = Coefficient(Learned(0.0))
