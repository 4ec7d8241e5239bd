"""The weight-initialisation gain of any activation at any point of training."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from pliant.activation import Activation
from pliant.errors import DomainError

__all__ = ["gain", "moments"]


def _curve(activation: nn.Module | Callable[[Tensor], Tensor], progress: float | None) -> Callable[[Tensor], Tensor]:
    if isinstance(activation, type):
        raise DomainError(
            f"gain was given the class {activation.__name__}; build an activation first: {activation.__name__}()."
        )
    if not isinstance(activation, Activation):
        if progress is not None:
            raise DomainError(f"gain was given progress={progress!r} for {activation!r}, which has no schedule; leave it out.")
        # The quadrature runs in float64 on the CPU, wherever and in whatever dtype the module is.
        return copy.deepcopy(activation).double().cpu() if isinstance(activation, nn.Module) else activation
    values = []
    for name, value in zip(activation.kinds, activation.values(progress), strict=True):
        if isinstance(value, Tensor):
            if value.numel() != 1:
                raise DomainError(
                    f"gain was given {activation!r}, whose {name!r} differs by channel; it is defined for one curve. Build the "
                    "activation with one channel's numbers."
                )
            value = value.item()
        values.append(value)
    return lambda x: type(activation).function(x, *values)


def moments(activation: nn.Module | Callable[[Tensor], Tensor], *, progress: float | None = None) -> tuple[float, float, float]:
    """E f(z), E f(z)^2 and E f'(z)^2 for z ~ N(0, 1), by quadrature in float64, good to five digits.

    Args:
        activation: a :class:`pliant.Activation`, another elementwise module, or an elementwise function of a float64 tensor.
        progress: read scheduled coefficients at this t instead of now.
    """
    f = _curve(activation, progress)
    # A midpoint rule: no node falls on the kink at 0; a kink elsewhere costs an error of the order of the step.
    steps, reach = 400_000, 12.0
    z = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps * 2 * reach - reach
    weight = torch.exp(-0.5 * z**2) / math.sqrt(2 * math.pi) * (2 * reach / steps)
    with torch.enable_grad():
        z.requires_grad_(True)
        y = f(z)
        slope = torch.autograd.grad(y.sum(), z)[0] if y.requires_grad else torch.zeros_like(z)
    y = y.detach()
    return tuple(float((weight * v).sum()) for v in (y, y**2, slope**2))  # type: ignore[return-value]


def gain(
    activation: nn.Module | Callable[[Tensor], Tensor],
    *,
    mode: Literal["forward", "backward"] = "forward",
    progress: float | None = None,
) -> float:
    """The factor g for weights of standard deviation g / sqrt(fan_in) that keeps signals at unit scale.

    Args:
        activation: a :class:`pliant.Activation`, another elementwise module, or an elementwise function.
        mode: "forward" keeps activations, g = 1 / sqrt(E f(z)^2); "backward" keeps gradients, g = 1 / sqrt(E f'(z)^2);
            z ~ N(0, 1).
        progress: read scheduled coefficients at this t instead of now. Weights are drawn once, so choose the t that matters.

    Returns:
        The gain; for ReLU sqrt(2).

    Raises:
        DomainError: an unknown mode; an activation that is zero everywhere; coefficients that differ by channel.
    """
    if mode not in ("forward", "backward"):
        raise DomainError(f"gain was given mode={mode!r}; expected 'forward' or 'backward'.")
    _, square, slope_square = moments(activation, progress=progress)
    second = square if mode == "forward" else slope_square
    if not second > 0:
        raise DomainError(f"gain was given {activation!r}, which is flat for every input: no weights could make up for that.")
    return 1.0 / math.sqrt(second)
