"""PELU: ELU with two learned numbers that keep it smooth."""

from __future__ import annotations

from typing import Self, final

import torch
from torch import Tensor

from pliant.activation import Activation
from pliant.coefficients import Coefficient, Learned, at_least
from pliant.elementwise import elementwise


@elementwise(kernel="pelu")
def pelu(x: Tensor, a: float | Tensor = 1.0, b: float | Tensor = 1.0) -> Tensor:
    """``(a / b) * x`` for x >= 0, ``a * (exp(x / b) - 1)`` otherwise, elementwise.

    df/dx = a/b or (a/b) exp(x/b), so it is continuous for all a and b; df/da = x/b or expm1(x/b); df/db = -a x / b^2 or
    -(a x / b^2) exp(x/b). a = b = 1 is ELU, a = b is CELU(a), b = 1 is SReLU(a, a).

    Args:
        x: any shape, floating point.
        a, b: > 0; numbers, or tensors of shape (), (1,) or (C,).
    """
    # Clamped before the division: for x > 0 the exponential that is not taken would overflow into the gradient of b.
    return torch.where(x >= 0, (a / b) * x, a * torch.expm1(x.clamp(max=0) / b))


@final
class PELU(Activation):
    """Parametric ELU: ``(a / b) * x`` for x >= 0, ``a * (exp(x / b) - 1)`` otherwise, with learned a and b.

    The paper that defined it keeps both at 0.1 or above. Here they are learned as ``0.1 + softplus(raw)``, which holds the
    bound without a projection. The AAF paper reports runs of PELU that did not converge and says nothing of a bound; variant
    ``unconstrained`` has none.

    Args:
        a: scale, b: width; each >= 0.1. Learned(1.0) by default, which is ELU.

    Source: Trottier et al., "Parametric Exponential Linear Unit" (2017).
    """

    function = staticmethod(pelu)
    source = "Trottier et al. (2017)"
    aliases = ("parametric_elu",)
    variants = ("unconstrained",)

    a = Coefficient(Learned(1.0), at_least(0.1))
    b = Coefficient(Learned(1.0), at_least(0.1))

    @classmethod
    def unconstrained(cls, *, channels: int | None = None) -> Self:
        """a and b are the parameters themselves; nothing keeps them positive."""
        return cls(Learned(1.0, constrain=False), Learned(1.0, constrain=False), channels=channels)
