"""Swish: the input times a sigmoid gate of learned sharpness."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from pliant.activation import Activation
from pliant.coefficients import Coefficient, Learned
from pliant.elementwise import elementwise


@elementwise(kernel="swish")
def swish(x: Tensor, beta: float | Tensor = 1.0) -> Tensor:
    """``x * sigmoid(beta * x)``, elementwise.

    With s = sigmoid(beta x): df/dx = s + beta x s (1 - s); df/dbeta = x^2 s (1 - s). beta = 0 is x / 2, beta = 1 is SiLU,
    beta -> infinity is ReLU.

    Args:
        x: any shape, floating point.
        beta: any finite number; a number, or a tensor of shape (), (1,) or (C,).
    """
    return x * torch.sigmoid(beta * x)


@final
class Swish(Activation):
    """Swish with a learned gate: ``x * sigmoid(beta * x)``. ``torch.nn.SiLU`` is the case beta = 1.

    Args:
        beta: sharpness of the gate. Learned(1.0) by default.

    Source: Ramachandran et al., "Searching for Activation Functions" (2017).
    """

    function = staticmethod(swish)
    source = "Ramachandran et al. (2017)"
    aliases = ("swish_beta",)

    beta = Coefficient(Learned(1.0))
