"""SReLU: linear above zero, a scaled exponential below (Bhat)."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from pliant.activation import Activation
from pliant.coefficients import NON_NEGATIVE, POSITIVE, Coefficient, Fixed
from pliant.elementwise import elementwise


@elementwise(kernel="srelu")
def srelu(x: Tensor, alpha: float | Tensor = 1.0, beta: float | Tensor = 0.25) -> Tensor:
    """``alpha * x`` for x > 0, ``beta * (exp(x) - 1)`` otherwise, elementwise.

    df/dx = alpha or beta * exp(x) (beta at 0); df/dalpha = max(x, 0); df/dbeta = expm1(min(x, 0)). ``srelu(x, 1, beta)`` is
    ELU with its alpha equal to beta; in general it is ``alpha * elu(x, beta / alpha)``.

    Args:
        x: any shape, floating point.
        alpha: > 0, beta: >= 0; numbers, or tensors of shape (), (1,) or (C,).
    """
    # Left as it is, a large x would overflow in the branch that is not taken, and its gradient there is 0 * inf. Not by
    # clamp(max=0), whose gradient at 0 is 1 or 0 by version of torch: the slope at 0 would be beta, or nothing.
    below = torch.where(x > 0, 0.0, x)
    return torch.where(x > 0, alpha * x, beta * torch.expm1(below))


@final
class SReLU(Activation):
    """Smooth ReLU of Bhat: ``alpha * x`` for x > 0, ``beta * (exp(x) - 1)`` otherwise.

    This is the SReLU of S. Bhat's paper of that title. It is not the S-shaped ReLU (Jin et al. 2016, three linear pieces),
    not Shifted ReLU, not softplus, not SmeLU.

    The name promises more than the formula holds: the slopes at 0 are beta and alpha, so it is smooth only if they are
    equal, and ``SReLU(1, beta)`` is ELU with alpha = beta for every beta. The paper gives no value for beta; 0.25 is our
    choice, not the paper's.

    Args:
        alpha: slope above 0; > 0. Default 1, fixed.
        beta: scale below 0; >= 0 (0 is ReLU). Default 0.25, fixed. ``Learned(0.25)`` trains it through a softplus.

    Source: S. Bhat, "SReLU" (draft), section III.
    """

    function = staticmethod(srelu)
    source = "SReLU (Bhat)"
    aliases = ("smooth_relu", "smoothrelubhat")
    shown = ("alpha", "beta")

    alpha = Coefficient(Fixed(1.0), POSITIVE)
    beta = Coefficient(Fixed(0.25), NON_NEGATIVE)
