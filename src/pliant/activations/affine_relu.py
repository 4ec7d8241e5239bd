"""AffineReLU: ReLU between two learned affine maps, the general form of Hu et al. taken at its word."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from pliant.activation import Activation
from pliant.coefficients import Coefficient, Learned
from pliant.elementwise import elementwise


@elementwise(kernel="affine_relu")
def affine_relu(
    x: Tensor,
    a: float | Tensor = 1.0,
    b: float | Tensor = 1.0,
    c: float | Tensor = 0.0,
    d: float | Tensor = 0.0,
) -> Tensor:
    """``b * relu(a * x + c) + d``, elementwise. For b > 0 it is ``arelu(x, a * b, 0, b * c + d, d)``.

    With u = a x + c: df/dx = a b [u > 0]; df/da = b x [u > 0]; df/dc = b [u > 0]; df/db = relu(u); df/dd = 1.

    Args:
        x: any shape, floating point.
        a, b, c, d: numbers, or tensors of shape (), (1,) or (C,).
    """
    return b * torch.relu(a * x + c) + d


def _active(x: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> dict[str, Tensor]:
    """Where the inner ReLU lets through."""
    return {"active": a * x + c > 0}


@final
class AffineReLU(Activation):
    """ReLU in the general form of the AAF paper (its equation 5): ``b * relu(a * x + c) + d``.

    The paper's AReLU (equation 12) is not an instance of its general form; this is. It reaches only those AReLU that are flat
    on one side.

    Args:
        a: inner scale, c: inner shift, b: outer scale, d: outer shift. Learned from (1, 1, 0, 0), which is ReLU.

    Source: Hu et al., "Adaptively Customizing Activation Functions for Various Layers", equation 5.
    """

    function = staticmethod(affine_relu)
    pieces = staticmethod(_active)
    source = "AAF (Hu et al.)"

    a = Coefficient(Learned(1.0))
    b = Coefficient(Learned(1.0))
    c = Coefficient(Learned(0.0))
    d = Coefficient(Learned(0.0))
