"""ATanh: tanh between two learned affine maps (Hu et al.)."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from pliant.activation import Activation
from pliant.coefficients import Coefficient, Learned
from pliant.elementwise import elementwise


@elementwise(kernel="atanh")
def atanh(
    x: Tensor,
    a: float | Tensor = 1.0,
    b: float | Tensor = 1.0,
    c: float | Tensor = 0.0,
    d: float | Tensor = 0.0,
) -> Tensor:
    """``b * tanh(a * x + c) + d``, elementwise.

    With h = tanh(a x + c): df/dc = b * (1 - h^2); df/dx = a * df/dc; df/da = x * df/dc; df/db = h; df/dd = 1.

    Args:
        x: any shape, floating point.
        a, b, c, d: numbers, or tensors of shape (), (1,) or (C,). a = 0 or b = 0 leaves a constant that cannot learn a way out.
    """
    return b * torch.tanh(a * x + c) + d


def _saturated(x: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> dict[str, Tensor]:
    """Where 1 - h^2 is below 1 %."""
    return {"saturated": (a * x + c).abs() > 2.9932}


def _rising(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, ...]:
    """With a >= 0: tanh(-u) = -tanh(u)."""
    flip = a < 0
    return torch.where(flip, -a, a), torch.where(flip, -b, b), torch.where(flip, -c, c), d


@final
class ATanh(Activation):
    """Adaptive tanh of Hu et al. ("AAF"): ``b * tanh(a * x + c) + d`` with four learned numbers.

    Together with ASigmoid this is one family: ``ATanh(a, b, c, d)`` equals ``ASigmoid(2a, 2b, 2c, d - b)``. It is not
    the inverse hyperbolic tangent, which torch calls ``atanh``.

    Keep weight decay off the four numbers (see :func:`pliant.param_groups`): it pulls a and b towards 0, where the function
    is constant.

    Args:
        a: inner scale, c: inner shift, b: outer scale, d: outer shift. Any finite numbers; Learned from (1, 1, 0, 0), where
            the function is tanh itself.

    Source: Hu et al., "Adaptively Customizing Activation Functions for Various Layers", section 3.
    """

    function = staticmethod(atanh)
    pieces = staticmethod(_saturated)
    canonical = staticmethod(_rising)
    source = "AAF (Hu et al.)"
    aliases = ("adaptive_tanh",)

    a = Coefficient(Learned(1.0))
    b = Coefficient(Learned(1.0))
    c = Coefficient(Learned(0.0))
    d = Coefficient(Learned(0.0))
