"""Fused CPU kernels: one pass over memory forward, one backward, the coefficients' gradients included.

Forward reads x and writes the result; backward reads the gradient and x, writes the gradient of x, and sums what belongs to
the coefficients on the way. They compute the formulas of :mod:`pliant.activations`, in float32 for the half precisions, and
differ from them by rounding only. The gradient of a coefficient is the same bits for any number of threads.

Everything here works on plain strided tensors and knows no autograd: who calls it has asked :func:`refusal` first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["backward", "backward_from_output", "forward", "forward_", "gradients", "isa", "refusal", "serves", "unavailable"]

_OUTPUT = " from output"
_unavailable: str | None = None
_ADVICE = "Install a compiler and then Pliant again; until then the readable versions serve"
try:
    import pliant.kernels._cpu as _cpu
except ModuleNotFoundError:
    _unavailable = f"this installation of Pliant was made without a C++ compiler and has no compiled CPU kernels. {_ADVICE}"
except ImportError as error:
    _unavailable = f"the compiled CPU kernels do not fit this Python ({error}). {_ADVICE}"

# name -> (number by which the extension knows it, number of its coefficients)
_FUNCTIONS = {} if _unavailable else {name: (number, count) for number, (name, count) in enumerate(_cpu.functions())}
_FROM_OUTPUT = {name.removesuffix(_OUTPUT): _FUNCTIONS.pop(name) for name in list(_FUNCTIONS) if name.endswith(_OUTPUT)}
# Where torch has the protocol by which compiled code reads its tensors, a usual call is one call of the extension.
if not _unavailable and (_exchange := getattr(Tensor, "__dlpack_c_exchange_api__", None)) is not None:
    # A torch in which it is something else is one without it.
    with contextlib.suppress(ValueError, TypeError):
        _cpu.connect(_exchange, Tensor, torch.nn.Parameter, torch.empty_like, Tensor.is_neg)
serves: Callable[[int, Tensor, tuple[float | Tensor, ...]], bool] = (lambda *_: False) if _unavailable else _cpu.fits
"""Whether the function of that number can take the input and the coefficients. Quicker than :func:`refusal`, and without its
reasons: what it denies may be granted there."""

# In the order of csrc/kernels.h.
_DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}


def number(name: str | None, from_output: bool = False) -> int:
    """By which :func:`serves` and :func:`gradients` know a function; -1 if there is no kernel for it."""
    known = _FROM_OUTPUT if from_output else _FUNCTIONS
    return known[name][0] if name in known else -1


def unavailable() -> str | None:
    """Why this installation has no CPU kernels, or None if it has them."""
    return _unavailable


def isa() -> str:
    """The instruction set the kernels use on this machine: "avx512", "avx2" or "baseline".

    Raises:
        RuntimeError: there are no kernels; :func:`unavailable` says why.
    """
    if _unavailable is not None:
        raise RuntimeError(_unavailable)
    return _cpu.isa()


def refusal(name: str, x: Tensor, values: Sequence[float | Tensor]) -> str | None:
    """Why a call cannot be served by a CPU kernel, as a clause that ends a sentence, or None if it can.

    Args:
        name: of a function in :mod:`pliant.functional`.
        x: its input. values: its coefficients, in the order of its signature.
    """
    if _unavailable is not None:
        return _unavailable
    known = _FUNCTIONS.get(name)
    if known is None:
        return f"there is no CPU kernel for {name!r}, only for {', '.join(_FUNCTIONS)}"
    if len(values) != known[1]:
        return f"{name} takes {known[1]} coefficients, and {len(values)} were given"
    if not x.is_cpu:
        return f"the input is on {x.device}, not on the CPU"
    if x.dtype not in _DTYPES:
        return f"the input is {x.dtype}, and the CPU kernels know {', '.join(str(d) for d in _DTYPES)}"
    if x.layout is not torch.strided:
        return f"the input's layout is {x.layout}, not strided"
    if x.is_neg():
        return "the input is a view whose sign is still to be turned; use x.resolve_neg()"
    if x.numel() and not x.data_ptr():
        return "the input is a tensor without memory"
    for value in values:
        if type(value) is not float and isinstance(value, Tensor):
            if value.numel() != 1:
                return f"a coefficient has shape {tuple(value.shape)}, one per channel, and the CPU kernels take one per layer"
            if not value.is_cpu:
                return f"a coefficient is on {value.device}, not on the CPU"
    return None


def forward(name: str, x: Tensor, values: tuple[float | Tensor, ...]) -> Tensor:
    """The function ``name`` of ``x``: a new tensor with the shape, dtype and memory format of ``x``."""
    out = _cpu.apply(_FUNCTIONS[name][0], torch.get_num_threads(), x, values, False)
    if out is not None:
        return out
    out = torch.empty_like(x)
    _cpu.forward(
        _FUNCTIONS[name][0],
        _DTYPES[x.dtype],
        torch.get_num_threads(),
        values,
        out.data_ptr(),
        x.data_ptr(),
        x.numel() if x.is_contiguous() else (x.shape, out.stride(), x.stride()),
    )
    return out


def forward_(name: str, x: Tensor, values: tuple[float | Tensor, ...]) -> Tensor:
    """The same in place, for "dsrelu" and "prelu": ``x`` itself, with every element replaced.

    Raises:
        RuntimeError: elements of ``x`` share memory, as after ``expand``.
    """
    if _cpu.apply(_FUNCTIONS[name][0], torch.get_num_threads(), x, values, True) is not None:
        return x
    dense = x.is_contiguous()
    if not dense and any(stride == 0 and size > 1 for size, stride in zip(x.shape, x.stride(), strict=True)):
        raise RuntimeError(
            f"{name} was asked to work in place on a tensor of shape {tuple(x.shape)} and strides {x.stride()}, in which "
            "elements share memory. Use x.clone() first."
        )
    address = x.data_ptr()
    _cpu.forward(
        _FUNCTIONS[name][0],
        _DTYPES[x.dtype],
        torch.get_num_threads(),
        values,
        address,
        address,
        x.numel() if dense else (x.shape, x.stride(), x.stride()),
    )
    return x


def gradients(
    function: int, grad: Tensor, x: Tensor, values: tuple[float | Tensor, ...], needs: tuple[bool, ...]
) -> tuple[Tensor | None, ...] | None:
    """What :func:`backward` or :func:`backward_from_output` gives, for a usual call: dense plain tensors of one dtype. Each
    coefficient's gradient has its own shape and dtype.

    Args:
        function: its number, see :func:`number`; that from output takes the output for ``x``.
        needs: for something before x, x, and each coefficient, whether its gradient is needed.

    Returns:
        A gradient or None for each of ``needs``; or None alone, where the call is not a usual one.
    """
    return _cpu.differentiate(function, torch.get_num_threads(), grad, x, values, needs)


def backward(
    name: str, grad: Tensor, x: Tensor, values: tuple[float | Tensor, ...], wanted: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of ``name`` at ``x`` for the gradient ``grad`` of its output, which has the shape of ``x`` and any strides.

    Args:
        wanted: for x and then for each coefficient, whether its gradient is needed.

    Returns:
        The gradient of x, like x, or None; and the gradients of all coefficients, shape (k,) in float32 (float64 for float64
        input), or None if none is wanted.
    """
    return _backward(_FUNCTIONS[name], grad, x, values, wanted)


def backward_from_output(
    name: str, grad: Tensor, y: Tensor, values: tuple[float | Tensor, ...], wanted: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    """The same from the output ``y`` in the place of the input, for "dsrelu" and "prelu" with a slope above 0.

    An input so small that its product with the slope is 0 counts as 0 here.
    """
    return _backward(_FROM_OUTPUT[name], grad, y, values, wanted)


def _backward(
    function: tuple[int, int], grad: Tensor, x: Tensor, values: tuple[float | Tensor, ...], wanted: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    dtype = x.dtype
    if grad.dtype is not dtype:
        grad = grad.to(dtype)
    if grad.is_neg():
        grad = grad.resolve_neg()
    if grad._is_zerotensor():
        grad = torch.zeros_like(x)
    grad_x = torch.empty_like(x) if wanted[0] else None
    sums = None
    if True in wanted[1:]:
        sums = torch.empty(function[1], dtype=torch.float64 if dtype is torch.float64 else torch.float32)
    elements: int | tuple[tuple[int, ...], ...]
    if x.is_contiguous() and grad.is_contiguous():
        elements = x.numel()
    else:
        walk = x.stride() if grad_x is None else grad_x.stride()
        elements = (x.shape, walk, grad.stride(), x.stride())
    _cpu.backward(
        function[0],
        _DTYPES[dtype],
        torch.get_num_threads(),
        values,
        0 if grad_x is None else grad_x.data_ptr(),
        0 if sums is None else sums.data_ptr(),
        grad.data_ptr(),
        x.data_ptr(),
        elements,
    )
    return grad_x, sums
