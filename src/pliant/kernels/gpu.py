"""Fused GPU versions of the activations: one pass forward, one pass backward with the coefficient gradients in it.

The kernels are written in Triton (:mod:`pliant.kernels.gpu_programs`), which is imported on first use: on a machine without
Triton or without a GPU this module still imports, and :func:`unavailable` says why there is nothing to run.

What holds for all of them:

- Inputs are float32, float64, bfloat16 or float16, of any shape and strides; nothing is copied. The arithmetic is in float32
  (float64 for float64) and rounded once.
- A coefficient is a number, or a tensor with one element on the device of the input, read by the kernel: the host never
  waits for the device, and a CUDA graph sees the value of the moment of its replay.
- Gradients of coefficients are summed in float32 (float64 for float64) in an order fixed by the size of the input and the
  number of multiprocessors; two runs on one device agree in every bit. No atomic operations.

Under ``TRITON_INTERPRET=1``, set before Triton is first imported, the same programs run on CPU tensors, slowly.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from pliant.errors import DomainError

__all__ = ["backward", "backward_from_output", "forward", "forward_", "isa", "refusal", "unavailable"]

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

# One program is 4 warps of 8 elements a thread: accesses of 16 bytes. Chosen by counting registers, not by timing.
_WARPS = 4
_BLOCK = 1024
_BLOCK_BYTES = 4096
# With at most 96 registers a thread so many are resident at once, with 20 KiB of loads in flight in half precision and twice
# that in single; a second round of programs would find most of the device idle.
_PROGRAMS_PER_MULTIPROCESSOR = 5
# Under the interpreter, where each costs milliseconds, few, so that small inputs take every path of the loop.
_INTERPRETED_PROGRAMS = 3
# Offsets below this are counted in 32 bits.
_NARROW = 2**31


@functools.cache
def _programs() -> ModuleType:
    from pliant.kernels import gpu_programs

    return gpu_programs


@functools.cache
def unavailable() -> str | None:
    """Why there are no GPU kernels in this process, or None if there are."""
    try:
        programs = _programs()
    except ImportError as error:
        return f"Triton cannot be imported ({error}); it comes with the CUDA builds of torch, or with pip install triton."
    if not programs.INTERPRETED and not torch.cuda.is_available():
        return "torch sees no CUDA device; torch.cuda.is_available() is False."
    return None


def isa() -> str:
    """The compiler that the kernels go through, for records: "triton 3.5.0"."""
    return f"triton {_programs().VERSION}"


def refusal(name: str, x: Tensor, values: Sequence[float | Tensor]) -> str | None:
    """Why the GPU kernels cannot serve ``name(x, *values)``, or None if they can.

    Args:
        name: of the pure function, as in :mod:`pliant.functional`.
        x: the input.
        values: all coefficients of the function, in its order.
    """
    reason = unavailable()
    if reason is not None:
        return reason
    programs = _programs()
    function = programs.FUNCTIONS.get(name)
    if function is None:
        return f"there is no GPU kernel for {name!r}; there is one for {', '.join(programs.FUNCTIONS)}."
    if len(values) != function.coefficients:
        return f"{name} takes {function.coefficients} coefficients, but {len(values)} were given."
    device = "cpu" if programs.INTERPRETED else "cuda"
    if x.device.type != device:
        return f"the input is on {x.device}; these kernels read tensors on a {device} device."
    if device == "cuda" and torch.cuda.get_device_capability(x.device) < (8, 0):
        return f"{torch.cuda.get_device_name(x.device)} has a compute capability below 8.0."
    if x.dtype not in _DTYPES:
        return f"the input is {x.dtype}; these kernels compute {', '.join(str(d) for d in _DTYPES)}."
    if x.layout is not torch.strided or x.is_neg():
        return "the input is not an ordinary strided tensor; use x.to_dense() or x.resolve_neg()."
    for value in values:
        if isinstance(value, Tensor):
            if value.numel() != 1:
                return f"a coefficient has shape {tuple(value.shape)}; these kernels take one value for the whole input."
            if value.device != x.device:
                return f"a coefficient is on {value.device} and the input on {x.device}."
            if value.dtype not in _DTYPES or value.is_neg():
                return f"a coefficient is {value.dtype}; these kernels read {', '.join(str(d) for d in _DTYPES)}."
    return None


def forward(name: str, x: Tensor, values: Sequence[float | Tensor]) -> Tensor:
    """``name(x, *values)`` in one pass, in the dtype, shape and memory format of ``x``.

    Call it only where :func:`refusal` is None; nothing is checked again.
    """
    out = torch.empty_like(x)
    _forward(name, x, out, values)
    return out


def forward_(name: str, x: Tensor, values: Sequence[float | Tensor]) -> Tensor:
    """``name(x, *values)`` written over ``x``, which is returned. For dsrelu and prelu, whose input the output determines.

    Raises:
        DomainError: another name, or several elements of ``x`` share one place in memory.
    """
    _invertible(name)
    if any(size > 1 and stride == 0 for size, stride in zip(x.shape, x.stride(), strict=True)):
        raise DomainError(
            f"{name} was asked to overwrite a tensor of shape {tuple(x.shape)} and strides {x.stride()}, several elements of "
            "which share one place in memory. Overwrite x.contiguous(), or call it without inplace."
        )
    _forward(name, x, x, values)
    return x


def backward(
    name: str, grad: Tensor, x: Tensor, values: Sequence[float | Tensor], wanted: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of ``name(x, *values)`` in one pass, given that of its result.

    Args:
        grad: the gradient of the result, of the shape of ``x`` and of any strides.
        wanted: whether a gradient is wanted of x, and of each coefficient.

    Returns:
        The gradient of ``x``, in its dtype and memory format, or None if it is not wanted; and the gradients of all
        coefficients, shape (k,), float32 (float64 for float64), or None if that of no coefficient is wanted.
    """
    return _backward(name, _programs().FUNCTIONS[name].gradients, grad, x, values, wanted)


def backward_from_output(
    name: str, grad: Tensor, y: Tensor, values: Sequence[float | Tensor], wanted: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    """:func:`backward` from the result ``y`` instead of the input, for dsrelu and prelu with a slope known to be > 0.

    Where a slope below 1 has carried a tiny input to 0, the input counts as 0.

    Raises:
        DomainError: another name.
    """
    return _backward(name, _invertible(name), grad, y, values, wanted)


def _invertible(name: str) -> object:
    functions = _programs().FUNCTIONS
    if name not in functions or functions[name].gradients_of_output is None:
        known = [n for n, f in functions.items() if f.gradients_of_output is not None]
        raise DomainError(
            f"{name} was asked for in place, but its input cannot be recovered from its output by a kernel; only that of "
            f"{' and '.join(known)} can. Call it without inplace."
        )
    return functions[name].gradients_of_output


def _coefficients(values: Sequence[float | Tensor], x: Tensor) -> tuple[list[float | Tensor | None], int]:
    """Four kernel arguments, and by bit which of them are tensors."""
    arguments: list[float | Tensor | None] = [None] * 4
    tensors = 0
    for i, value in enumerate(values):
        # Triton passes a number as float32.
        if not isinstance(value, Tensor) and x.dtype is torch.float64:
            value = torch.full((), value, dtype=x.dtype, device=x.device)
        if isinstance(value, Tensor):
            tensors |= 1 << i
            arguments[i] = value
        else:
            arguments[i] = float(value)
    return arguments, tensors


def _geometry(*tensors: Tensor) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Sizes and the strides of each tensor with as few dimensions as can be, from the innermost of the last tensor on.

    The sizes are () if all tensors lie densely in one and the same order.
    """
    last = tensors[-1]
    if all(t.is_contiguous() for t in tensors):
        return (), [()] * len(tensors)
    dims = [(size, *(t.stride(i) for t in tensors)) for i, size in enumerate(last.shape) if size != 1]
    dims.sort(key=lambda dim: dim[:0:-1])
    merged: list[tuple[int, ...]] = []
    for size, *strides in dims:
        if merged and all(s == m * merged[-1][0] for s, m in zip(strides, merged[-1][1:], strict=True)):
            merged[-1] = (merged[-1][0] * size, *merged[-1][1:])
        else:
            merged.append((size, *strides))
    if not merged or (len(merged) == 1 and set(merged[0][1:]) == {1}):
        return (), [()] * len(tensors)
    sizes, *by_tensor = zip(*merged, strict=True)
    return sizes, by_tensor


def _settings(x: Tensor, sizes: tuple[int, ...], strides: list[tuple[int, ...]], tensors: int) -> dict[str, Any]:
    """The compile-time arguments that both kernels share."""
    programs = _programs()
    block = min(_BLOCK, _BLOCK_BYTES // x.element_size())
    # 64-bit divisions are slow, so that scattered elements are counted in 32 bits where every offset fits, and the count that
    # ends the loop, at most one round of programs beyond the last element.
    reach = max((sum((n - 1) * s for n, s in zip(sizes, by, strict=True)) for by in strides), default=0)
    wide = not sizes or max(reach, 2 * (x.numel() + block)) >= _NARROW
    return {
        "TENSORS": tensors,
        "DTYPE": programs.FLOAT64 if x.dtype is torch.float64 else programs.FLOAT32,
        "INDEX": programs.INT64 if wide else programs.INT32,
        "BLOCK": block,
        "num_warps": _WARPS,
        # The default of this option changes between versions of Triton, with a warning.
        "enable_fp_fusion": True,
    }


def _on(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """Triton launches on the current device, which need not be that of ``x``."""
    if x.device.type != "cuda" or x.device.index == torch.cuda.current_device():
        return contextlib.nullcontext()
    return torch.cuda.device(x.device)


def _forward(name: str, x: Tensor, out: Tensor, values: Sequence[float | Tensor]) -> None:
    if x.numel() == 0:
        return
    programs = _programs()
    arguments, tensors = _coefficients(values, x)
    sizes, strides = _geometry(x, out)
    settings = _settings(x, sizes, strides, tensors)
    n = x.numel()
    with _on(x):
        programs.forward[(-(-n // settings["BLOCK"]),)](
            x, out, *arguments, n, sizes, *strides, VALUE=programs.FUNCTIONS[name].value, **settings
        )


@functools.cache
def _most_programs(device: torch.device) -> int:
    if device.type != "cuda":
        return _INTERPRETED_PROGRAMS
    return _PROGRAMS_PER_MULTIPROCESSOR * torch.cuda.get_device_properties(device).multi_processor_count


def _backward(
    name: str, gradients: object, grad: Tensor, x: Tensor, values: Sequence[float | Tensor], wanted: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    of_x, of_values = wanted[0], any(wanted[1:])
    if not (of_x or of_values):
        return None, None
    programs = _programs()
    count = len(values) if of_values else 0
    total_dtype = torch.float64 if x.dtype is torch.float64 else torch.float32
    grad_x = torch.empty_like(x) if of_x else None
    n = x.numel()
    if n == 0:
        return grad_x, torch.zeros(count, dtype=total_dtype, device=x.device) if of_values else None
    arguments, tensors = _coefficients(values, x)
    sizes, strides = _geometry(grad, x, x if grad_x is None else grad_x)
    settings = _settings(x, sizes, strides, tensors)
    vector = 16 // x.element_size()
    grid = -(-n // settings["BLOCK"])
    if of_values:
        grid = min(grid, _most_programs(x.device))
    partials = torch.empty((count, grid), dtype=total_dtype, device=x.device) if of_values else None
    with _on(x):
        programs.backward[(grid,)](
            grad,
            x,
            grad_x,
            partials,
            *arguments,
            n,
            sizes,
            *strides,
            GRADIENTS=gradients,
            COUNT=count,
            VECTOR=vector,
            **settings,
        )
    return grad_x, None if partials is None else partials.sum(1)
