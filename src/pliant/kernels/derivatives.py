"""The derivatives of each function in torch operations, in the form that a compiler fuses into one pass.

``DERIVATIVES[name](grad, x, *coefficients)`` gives the gradient of x, then for each coefficient the terms whose sum is its
gradient; all of the shape of ``x``. What the formulas in :mod:`pliant.activations` say by a comparison is said here by
:func:`_positive`: between a boolean that costs one byte an element and the input itself, torch.compile keeps the boolean for
the backward pass, which its CPU code then reads element by element (3.4 times as slow, measured on DSReLU).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["DERIVATIVES"]

Value = float | Tensor


def _positive(z: Tensor) -> Tensor:
    """1 where z > 0, 0 where z <= 0, in the dtype of z."""
    return torch.sign(torch.relu(z))


def _dsrelu(grad: Tensor, x: Tensor, slope: Value) -> tuple[Tensor, ...]:
    return grad * (1.0 + (slope - 1.0) * _positive(x)), grad * torch.relu(x)


def _prelu(grad: Tensor, x: Tensor, weight: Value) -> tuple[Tensor, ...]:
    p = _positive(x)
    return grad * (p + weight * (1.0 - p)), grad * torch.clamp(x, max=0.0)


def _srelu(grad: Tensor, x: Tensor, alpha: Value, beta: Value) -> tuple[Tensor, ...]:
    p = _positive(x)
    below = torch.clamp(x, max=0.0)
    return grad * (alpha * p + beta * torch.exp(below) * (1.0 - p)), grad * torch.relu(x), grad * torch.expm1(below)


def _arelu(grad: Tensor, x: Tensor, a: Value, b: Value, c: Value, d: Value) -> tuple[Tensor, ...]:
    second = grad * _positive((b * x + d) - (a * x + c))
    first = grad - second
    return first * a + second * b, first * x, second * x, first, second


def _affine_relu(grad: Tensor, x: Tensor, a: Value, b: Value, c: Value, d: Value) -> tuple[Tensor, ...]:
    u = a * x + c
    inner = grad * b * _positive(u)
    return inner * a, inner * x, grad * torch.relu(u), inner, grad


def _asigmoid(grad: Tensor, x: Tensor, a: Value, b: Value, c: Value, d: Value) -> tuple[Tensor, ...]:
    h = torch.sigmoid(a * x + c)
    inner = grad * b * h * (1.0 - h)
    return inner * a, inner * x, grad * h, inner, grad


def _atanh(grad: Tensor, x: Tensor, a: Value, b: Value, c: Value, d: Value) -> tuple[Tensor, ...]:
    h = torch.tanh(a * x + c)
    inner = grad * b * (1.0 - h * h)
    return inner * a, inner * x, grad * h, inner, grad


def _swish(grad: Tensor, x: Tensor, beta: Value) -> tuple[Tensor, ...]:
    s = torch.sigmoid(beta * x)
    bend = s * (1.0 - s) * x
    return grad * (s + beta * bend), grad * bend * x


def _pelu(grad: Tensor, x: Tensor, a: Value, b: Value) -> tuple[Tensor, ...]:
    # exp(0) = 1 makes one formula of the two sides: the slope there is a / b, and x / b what the exponential leaves over.
    below, above = torch.clamp(x, max=0.0) / b, torch.relu(x) / b
    slope = torch.exp(below) * (a / b)
    return grad * slope, grad * (above + torch.expm1(below)), -(grad * slope * (below + above))


def _frelu(grad: Tensor, x: Tensor, b: Value) -> tuple[Tensor, ...]:
    return grad * _positive(x), grad


DERIVATIVES: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "dsrelu": _dsrelu,
    "prelu": _prelu,
    "srelu": _srelu,
    "arelu": _arelu,
    "affine_relu": _affine_relu,
    "asigmoid": _asigmoid,
    "atanh": _atanh,
    "swish": _swish,
    "pelu": _pelu,
    "frelu": _frelu,
}
