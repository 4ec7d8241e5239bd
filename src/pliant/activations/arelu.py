"""AReLU: the larger of two learned lines (Hu et al.)."""

from __future__ import annotations

from typing import Self, final

import torch
from torch import Tensor

from pliant.activation import Activation
from pliant.coefficients import Coefficient, Learned
from pliant.elementwise import elementwise


@elementwise(kernel="arelu")
def arelu(
    x: Tensor,
    a: float | Tensor = 1.0,
    b: float | Tensor = 0.0,
    c: float | Tensor = 0.0,
    d: float | Tensor = 0.0,
) -> Tensor:
    """``max(a * x + c, b * x + d)``, elementwise, where a tie belongs to the first line.

    df/dx = a or b, df/da = x or 0, df/db = 0 or x, df/dc = 1 or 0, df/dd = 0 or 1, by which line is taken. Convex for all
    coefficients; monotone if and only if a, b >= 0.

    Args:
        x: any shape, floating point.
        a, b, c, d: numbers, or tensors of shape (), (1,) or (C,).
    """
    u = a * x + c
    v = b * x + d
    # torch.maximum would halve the gradient at a tie; from (1, 1, 0, 0), where every point is a tie, the two lines would then
    # move together for ever and the activation would stay affine.
    return torch.where(u >= v, u, v)


def _lines(x: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> dict[str, Tensor]:
    """Where the first line is taken."""
    return {"first_line": (a - b) * x >= d - c}


def _steeper_first(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, ...]:
    """The steeper line first; of two parallel ones the upper."""
    swap = (b > a) | ((b == a) & (d > c))
    return torch.where(swap, b, a), torch.where(swap, a, b), torch.where(swap, d, c), torch.where(swap, c, d)


@final
class AReLU(Activation):
    """Adaptive ReLU of Hu et al. ("AAF"): ``max(a * x + c, b * x + d)`` with four learned numbers.

    This is the AReLU of the adaptive activation functions paper, its equation 12. It is not attention-based ReLU (Chen, Li,
    Xu 2020), which shares the name.

    Special cases: ReLU (1, 0, 0, 0), LeakyReLU and PReLU with slope w <= 1 (1, w, 0, 0), absolute value (1, -1, 0, 0), FReLU
    (1, 0, B, B), DSReLU with s >= 1 (s, 1, 0, 0). Nothing concave can be reached. Exchanging (a, c) with (b, d) changes
    nothing; sort before comparing learned shapes.

    The paper does not print the initial values, and its released code starts from the identity:

    =============  ==================  =====================================================================
    variant        a, b, c, d          start
    =============  ==================  =====================================================================
    ``relu``       1, 0, 0, 0          ReLU; the default, so that AReLU and ReLU start from one function
    ``prelu``      1, 0.25, 0, 0       PReLU with its usual slope
    ``released``   1, 1, 0, 0          the identity, as in the released code; separates by the tie rule
    =============  ==================  =====================================================================

    Args:
        a, b: slopes. c, d: offsets. Any finite numbers; Learned by default.

    Source: Hu et al., "Adaptively Customizing Activation Functions for Various Layers", equation 12.
    """

    function = staticmethod(arelu)
    pieces = staticmethod(_lines)
    canonical = staticmethod(_steeper_first)
    source = "AAF (Hu et al.)"
    aliases = ("adaptive_relu", "areluhu")
    variants = ("relu", "prelu", "released")

    a = Coefficient(Learned(1.0))
    b = Coefficient(Learned(0.0))
    c = Coefficient(Learned(0.0))
    d = Coefficient(Learned(0.0))

    @classmethod
    def relu(cls, *, channels: int | None = None) -> Self:
        """Starts as ReLU."""
        return cls(Learned(1.0), Learned(0.0), Learned(0.0), Learned(0.0), channels=channels)

    @classmethod
    def prelu(cls, *, channels: int | None = None) -> Self:
        """Starts as PReLU with slope 0.25."""
        return cls(Learned(1.0), Learned(0.25), Learned(0.0), Learned(0.0), channels=channels)

    @classmethod
    def released(cls, *, channels: int | None = None) -> Self:
        """Starts as the identity, as the released code does."""
        return cls(Learned(1.0), Learned(1.0), Learned(0.0), Learned(0.0), channels=channels)
