"""FReLU: ReLU plus a learned offset (flexible ReLU)."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from pliant.activation import Activation
from pliant.coefficients import Coefficient, Learned
from pliant.elementwise import elementwise


@elementwise(kernel="frelu")
def frelu(x: Tensor, b: float | Tensor = 0.0) -> Tensor:
    """``relu(x) + b``, elementwise. df/dx = 1 (x > 0) or 0; df/db = 1. Zero mean on N(0, 1) at b = -0.3989.

    Args:
        x: any shape, floating point.
        b: any finite number; a number, or a tensor of shape (), (1,) or (C,).
    """
    return torch.relu(x) + b


@final
class FReLU(Activation):
    """Flexible ReLU: ``relu(x) + b`` with a learned offset b.

    This is the FReLU of Qiu, Xu and Cai. It is not funnel ReLU (Ma et al. 2020), a spatial operator of the same name.

    Args:
        b: offset. Learned(0.0) by default, which is ReLU.

    Source: Qiu, Xu, Cai, "FReLU: Flexible Rectified Linear Units" (2018).
    """

    function = staticmethod(frelu)
    source = "Qiu et al. (2018)"
    aliases = ("flexible_relu",)

    b = Coefficient(Learned(0.0))
