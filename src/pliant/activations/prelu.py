"""PReLU: a learned slope below zero."""

from __future__ import annotations

from typing import Self, final

import torch
from torch import Tensor

from pliant.activation import Activation
from pliant.coefficients import Coefficient, Learned
from pliant.elementwise import elementwise


def _input(y: Tensor, weight: float | Tensor) -> Tensor:
    return torch.where(y > 0, y, y / weight)


@elementwise(kernel="prelu", inverse=_input)
def prelu(x: Tensor, weight: float | Tensor = 0.25) -> Tensor:
    """``x`` for x > 0, ``weight * x`` otherwise, elementwise.

    df/dx = 1 or weight (weight at 0); df/dweight = min(x, 0). ``max(weight * x, x)``, which some texts print, is the same
    only for weight <= 1.

    Args:
        x: any shape, floating point.
        weight: any finite number; a number, or a tensor of shape (), (1,) or (C,).
    """
    return torch.where(x > 0, x, weight * x)


@final
class PReLU(Activation):
    """Parametric ReLU: ``x`` for x > 0, ``weight * x`` otherwise, with a learned weight.

    The same function as ``torch.nn.PReLU``, whose checkpoints load (parameter ``weight``). Default start 0.25, as in the
    paper that defined it; the code released with the AAF paper starts from 0 (variant ``zero``), as Keras does.

    Args:
        weight: slope below 0. Learned(0.25) by default.

    Source: He et al., "Delving Deep into Rectifiers" (2015).
    """

    function = staticmethod(prelu)
    source = "He et al. (2015)"
    aliases = ("parametric_relu",)
    variants = ("zero",)

    weight = Coefficient(Learned(0.25))

    @classmethod
    def zero(cls, *, channels: int | None = None) -> Self:
        """Starts as ReLU, as in the code released with the AAF paper."""
        return cls(Learned(0.0), channels=channels)
