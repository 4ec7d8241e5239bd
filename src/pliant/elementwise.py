"""From a readable formula to a pure function that keeps dtypes, shapes and gradients right.

A formula of an activation is written once, for a tensor ``x`` and coefficients that broadcast against it.
:func:`elementwise` adds what every such function owes its caller, so that no formula repeats it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor

from pliant.errors import DomainError
from pliant.kernels import dispatch
from pliant.kernels.traced import traced

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


Formula = Callable[..., Tensor]


@overload
def elementwise(formula: Formula, /) -> Formula: ...
@overload
def elementwise(
    *, kernel: str | None = None, inverse: Formula | None = None, always_invertible: bool = False
) -> Callable[[Formula], Formula]: ...
def elementwise(
    formula: Formula | None = None,
    /,
    *,
    kernel: str | None = None,
    inverse: Formula | None = None,
    always_invertible: bool = False,
) -> Formula | Callable[[Formula], Formula]:
    """Turn ``formula(x, *coefficients)`` into a public function with the keywords ``channel_dim`` and ``fused``.

    The function accepts coefficients as numbers, as tensors of shape () or (1,), or as tensors of shape (C,) that run
    along ``channel_dim`` of ``x`` (default 1, as in ``torch.nn.functional.prelu``). Its result has the shape and dtype of
    ``x``. Half-precision inputs are computed in float32 and rounded once, so that the sums which form coefficient
    gradients are float32 sums.

    Args:
        formula: in torch operations. It is the specification; a kernel has to agree with it.
        kernel: the name of the fused version in :mod:`pliant.kernels`. The function's keyword ``fused`` chooses: False for the
            formula, True for the kernel or an error, None (default) for what :func:`pliant.kernels.set_fused` says.
        inverse: ``inverse(y, *coefficients)`` gives x back for positive coefficients. The function then has a keyword
            ``inplace``, and overwrites x without keeping anything of it.
        always_invertible: the function is defined for positive coefficients only.

    Raises (from the function):
        TypeError: ``x`` is not a floating-point tensor, or the coefficients do not fit the formula's signature.
        DomainError: a coefficient's shape fits neither the layer nor the channels.
        KernelError: ``fused=True``, and there is no kernel for the call.
    """
    if formula is None:
        return functools.partial(_public, kernel=kernel, inverse=inverse, always=always_invertible)
    return _public(formula, kernel=kernel, inverse=inverse, always=always_invertible)


def _public(formula: Formula, *, kernel: str | None, inverse: Formula | None, always: bool) -> Formula:
    signature = inspect.signature(formula)
    shown = traced(kernel, formula) if kernel else formula
    names = tuple(signature.parameters)[1:]
    defaults = tuple(signature.parameters[n].default for n in names)

    def readable(compute: Formula, channel_dim: int, x: Tensor, *values: float | Tensor) -> Tensor:
        dtype = _WIDER.get(x.dtype, x.dtype)
        aligned = [_align(n, v, x, dtype, channel_dim) for n, v in zip(names, values, strict=True)]
        return compute(x.to(dtype), *aligned).to(x.dtype)

    # A kernel takes one value a coefficient, for which the dimension of the channels says nothing.
    known = dispatch.Kernel(
        kernel,
        functools.partial(readable, formula, 1),
        functools.partial(readable, inverse, 1) if inverse else None,
        always,
    )

    def direct(x: Tensor, values: tuple[float | Tensor, ...], channel_dim: int, fused: bool | None, inplace: bool) -> Tensor:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            given = f"a {x.dtype} tensor" if isinstance(x, Tensor) else repr(type(x))
            raise TypeError(f"{formula.__name__} was given {given}, but it needs a floating-point tensor; use x.float().")
        if torch.compiler.is_compiling():
            # An exporter wants the operations themselves; a compiler fuses best what keeps no mask.
            plain = torch.compiler.is_exporting() or dispatch.wanted(fused) is False or dispatch.inside_transform()
            result = readable(formula if plain else shown, channel_dim, x, *values)
            return x.copy_(result) if inplace else result
        if inplace:
            if inverse is None:
                raise DomainError(f"{formula.__name__} was given inplace=True, but it has no in-place form; leave it out.")
            return dispatch.run_(known, functools.partial(readable, formula, channel_dim), x, values, fused)
        fast = dispatch.run(known, x, values, fused)
        return readable(formula, channel_dim, x, *values) if fast is None else fast

    @functools.wraps(formula)
    def function(
        x: Tensor,
        *values: float | Tensor,
        channel_dim: int = 1,
        fused: bool | None = None,
        inplace: bool = False,
        **named: float | Tensor,
    ) -> Tensor:
        if named or len(values) != len(names):
            bound = signature.bind(x, *values, **named)
            values = tuple(bound.arguments.get(n, d) for n, d in zip(names, defaults, strict=True))
        return direct(x, values, channel_dim, fused, inplace)

    extra = [("channel_dim", 1, "int"), ("fused", None, "bool | None"), *([("inplace", False, "bool")] if inverse else [])]
    public: Any = function
    public.direct = direct
    public.direct.public = function
    public.__signature__ = signature.replace(
        parameters=[
            *signature.parameters.values(),
            *(inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=d, annotation=a) for n, d, a in extra),
        ]
    )
    return function
