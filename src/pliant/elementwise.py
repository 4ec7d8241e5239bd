"""From a readable formula to a pure function that keeps dtypes, shapes and gradients right.

A formula of an activation is written once, for a tensor ``x`` and coefficients that broadcast against it.
:func:`elementwise` adds what every such function owes its caller, so that no formula repeats it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pliant.errors import DomainError

__all__ = ["elementwise"]

_WIDER = {torch.float16: torch.float32, torch.bfloat16: torch.float32}


def _align(name: str, value: float | Tensor, x: Tensor, dtype: torch.dtype, channel_dim: int) -> float | Tensor:
    """A coefficient in the dtype of the computation, shaped so that it broadcasts against ``x``."""
    if not isinstance(value, Tensor):
        return value
    value = value.to(dtype)
    if value.dim() == 0:
        return value
    if value.dim() == 1:
        if value.shape[0] == 1:
            return value.reshape(())
        if -x.dim() <= channel_dim < x.dim() and x.shape[channel_dim] == value.shape[0]:
            shape = [1] * x.dim()
            shape[channel_dim] = value.shape[0]
            return value.reshape(shape)
    raise DomainError(
        f"The coefficient {name!r} was given with shape {tuple(value.shape)} for an input of shape {tuple(x.shape)} and "
        f"channel_dim={channel_dim}; expected one value, shape (1,), or one per channel, shape (C,) with "
        f"C = input.shape[{channel_dim}]. Set channel_dim to the dimension that holds the channels."
    )


def elementwise(formula: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Turn ``formula(x, *coefficients)`` into a public function with a keyword ``channel_dim``.

    The function accepts coefficients as numbers, as tensors of shape () or (1,), or as tensors of shape (C,) that run
    along ``channel_dim`` of ``x`` (default 1, as in ``torch.nn.functional.prelu``). Its result has the shape and dtype of
    ``x``. Half-precision inputs are computed in float32 and rounded once, so that the sums which form coefficient
    gradients are float32 sums.

    Raises (from the function):
        TypeError: ``x`` is not a floating-point tensor, or the coefficients do not fit the formula's signature.
        DomainError: a coefficient's shape fits neither the layer nor the channels.
    """
    signature = inspect.signature(formula)
    names = tuple(signature.parameters)[1:]
    defaults = tuple(signature.parameters[n].default for n in names)

    @functools.wraps(formula)
    def function(x: Tensor, *values: float | Tensor, channel_dim: int = 1, **named: float | Tensor) -> Tensor:
        if not (isinstance(x, Tensor) and x.is_floating_point()):
            given = f"a {x.dtype} tensor" if isinstance(x, Tensor) else repr(type(x))
            raise TypeError(f"{formula.__name__} was given {given}, but it needs a floating-point tensor; use x.float().")
        if named or len(values) != len(names):
            bound = signature.bind(x, *values, **named)
            values = tuple(bound.arguments.get(n, d) for n, d in zip(names, defaults, strict=True))
        dtype = _WIDER.get(x.dtype, x.dtype)
        aligned = [_align(n, v, x, dtype, channel_dim) for n, v in zip(names, values, strict=True)]
        return formula(x.to(dtype), *aligned).to(x.dtype)

    extra = inspect.Parameter("channel_dim", inspect.Parameter.KEYWORD_ONLY, default=1, annotation="int")
    public: Any = function
    public.__signature__ = signature.replace(parameters=[*signature.parameters.values(), extra])
    return function
