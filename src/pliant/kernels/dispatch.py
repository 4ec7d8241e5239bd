"""Which version of a function a call gets: a fused kernel, the form for compilers, or the readable one."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from pliant.errors import DomainError, KernelError, KernelWarning
from pliant.kernels import cpu, gpu

__all__ = ["Kernel", "fused", "inside_transform", "obstacle", "run", "run_", "set_fused", "status", "wanted"]

Readable = Callable[..., Tensor]
"""``f(x, *coefficients)`` in plain torch operations: the specification, differentiable any number of times."""

Value = float | Tensor

_SWITCH: Final = {"": None, "auto": None, "0": False, "1": True}


def _from_environment() -> bool | None:
    given = os.environ.get("PLIANT_FUSED", "")
    if given not in _SWITCH:
        raise DomainError(f"The environment variable PLIANT_FUSED is {given!r}; expected 0, 1 or auto.")
    return _SWITCH[given]


_mode: bool | None = _from_environment()
_warned: set[str] = set()


def set_fused(mode: bool | None) -> None:
    """Say once for the whole process which version the activations use.

    Args:
        mode: None (the default): the fused kernel wherever there is one for the call, else the readable version. False: the
            readable version. True: the fused kernel, and :class:`pliant.KernelError` where a call cannot have it.
            The environment variable ``PLIANT_FUSED`` (auto, 0, 1) sets the same at start; a module's or a call's own ``fused``
            comes before it.
    """
    global _mode
    if mode not in (None, True, False):
        raise DomainError(f"set_fused was given {mode!r}; expected True, False or None.")
    _mode = mode


@contextlib.contextmanager
def fused(mode: bool | None) -> Iterator[None]:
    """:func:`set_fused` for the length of a ``with`` block."""
    before = _mode
    set_fused(mode)
    try:
        yield
    finally:
        set_fused(before)


def wanted(mode: bool | None) -> bool | None:
    """The mode of a call: its own, or that of the process."""
    return _mode if mode is None else mode


def status(*devices: str) -> dict[str, str]:
    """For each of "cpu" and "cuda", or of ``devices`` among them: the instruction set or compiler of the kernels that are used
    there, or why there are none. To ask for "cuda" imports Triton."""
    return {
        device: f"none: {missing}" if (missing := backend.unavailable()) else backend.isa()
        for device, backend in (("cpu", cpu), ("cuda", gpu))
        if not devices or device in devices
    }


def inside_transform() -> bool:
    """Whether the call is inside torch.func (vmap, grad, jvp ...). A compiler may ask too: it enters them while it traces."""
    return torch._C._functorch.maybe_current_level() is not None


# What torch.compiler.assume_constant_result sets, without the seconds that it takes to import the compiler.
inside_transform._dynamo_marked_constant = True  # type: ignore[attr-defined]


_PLAIN = frozenset({float, int, Tensor, Parameter})
# On a small tensor a call costs as much as the arithmetic, so what every call asks is looked up once.
_level = torch._C._functorch.maybe_current_level
_modes = torch._C._len_torch_dispatch_stack
_trace = torch._C._get_tracing_state
_batched = torch._C._functorch.is_legacy_batchedtensor
_differentiates = torch.is_grad_enabled


def _transformed() -> bool:
    """Whether somebody other than eager autograd looks on, to whom a kernel over raw memory would be invisible or wrong."""
    return _level() is not None or forward_ad._current_level >= 0 or _modes() > 0 or _trace() is not None


def _wants_readable(grad: Tensor) -> bool:
    """Whether a backward pass is itself to be differentiated or transformed, or its gradient stands for many."""
    return _differentiates() or _transformed() or type(grad) is not Tensor or _batched(grad)


def _backend(x: Tensor) -> Any:
    if x.is_cpu:
        return cpu
    return gpu if x.is_cuda else None


def obstacle(name: str | None, x: Tensor, values: Sequence[Value]) -> str | None:
    """Why this call cannot have a fused kernel, as the end of a sentence; None if it can."""
    if name is None:
        return "the function has none"
    if type(x) is not Tensor and type(x) is not Parameter:
        return f"the input is a {type(x).__name__}, and kernels read plain tensors"
    if _transformed():
        return "it runs inside a transform (vmap, forward-mode AD, a dispatch mode or a trace), which kernels cannot follow"
    backend: Any = cpu if x.is_cpu else _backend(x)
    if backend is None:
        return f"there are none for the device {x.device}"
    for v in values:
        if type(v) not in _PLAIN and isinstance(v, Tensor):
            return f"a coefficient is a {type(v).__name__}, and kernels read plain tensors"
    refused: str | None = backend.refusal(name, x, values)
    if refused is not None and (missing := backend.unavailable()):
        _say_once(missing)
        return str(missing)
    return refused


def _say_once(missing: str) -> None:
    if missing not in _warned:
        _warned.add(missing)
        warnings.warn(
            f"Activations run in their readable versions, which are several times slower: {missing}. "
            "PLIANT_FUSED=0 accepts that and silences this.",
            KernelWarning,
            stacklevel=5,
        )


class Kernel:
    """A function with its versions: made once for each function, and remembered by autograd.

    Args:
        name: of the fused version; None if the function has none.
        readable: ``f(x, *coefficients)`` in torch operations, for gradients of gradients; one value a coefficient.
        inverse: x from ``f(x)`` and the coefficients, in torch operations; right where all coefficients are positive.
        always: the function is defined for positive coefficients only, so those on a GPU need not be waited for.
    """

    __slots__ = ("always", "from_output", "inverse", "name", "number", "readable")

    def __init__(self, name: str | None, readable: Readable, inverse: Readable | None = None, always: bool = False) -> None:
        self.name, self.readable, self.inverse, self.always = name, readable, inverse, always
        self.number, self.from_output = cpu.number(name), cpu.number(name, from_output=True)


class _Fused(torch.autograd.Function):
    """A kernel forward, a kernel backward; saves the input and the coefficients."""

    @staticmethod
    def forward(ctx: Any, kernel: Kernel, x: Tensor, *values: Value) -> Tensor:
        _remember(ctx, kernel, x, values)
        result: Tensor = (cpu if x.is_cpu else gpu).forward(kernel.name, x, values)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        kernel, x, values = _recall(ctx)
        needs = ctx.needs_input_grad
        if _wants_readable(grad):
            return _readable_backward(kernel.readable, grad, x, values, needs)
        if x.is_cpu and (dealt := cpu.gradients(kernel.number, grad, x, values, needs)) is not None:
            return dealt
        backend: Any = cpu if x.is_cpu else gpu
        gx, gradients = backend.backward(kernel.name, grad, x, values, needs[1:])
        return _shared_out(gx, gradients, values, needs)


class _FusedInPlace(torch.autograd.Function):
    """A kernel that writes its output over its input, and a kernel backward that needs nothing but the output."""

    @staticmethod
    def forward(ctx: Any, kernel: Kernel, x: Tensor, *values: Value) -> Tensor:
        ctx.mark_dirty(x)
        _backend(x).forward_(kernel.name, x, values)
        _remember(ctx, kernel, x, values)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        kernel, y, values = _recall(ctx)
        needs = ctx.needs_input_grad
        if _wants_readable(grad):
            assert kernel.inverse is not None
            return _readable_backward(kernel.readable, grad, kernel.inverse(y, *values), values, needs)
        if y.is_cpu and (dealt := cpu.gradients(kernel.from_output, grad, y, values, needs)) is not None:
            return dealt
        backend: Any = cpu if y.is_cpu else gpu
        gx, gradients = backend.backward_from_output(kernel.name, grad, y, values, needs[1:])
        return _shared_out(gx, gradients, values, needs)


def _remember(ctx: Any, kernel: Kernel, x: Tensor, values: tuple[Value, ...]) -> None:
    # Tensors only where autograd can see them: hooks may move them, and they must not outlive the graph.
    for v in values:
        if type(v) is not Tensor and type(v) is not Parameter:
            ctx.known = kernel, [None if isinstance(v, Tensor) else v for v in values]
            ctx.save_for_backward(x, *[v for v in values if isinstance(v, Tensor)])
            return
    ctx.known = kernel, None
    ctx.save_for_backward(x, *values)


def _recall(ctx: Any) -> tuple[Kernel, Tensor, tuple[Value, ...]]:
    kernel, constants = ctx.known
    x, *values = ctx.saved_tensors
    if constants is not None:
        kept = iter(values)
        values = [next(kept) if constant is None else constant for constant in constants]
    return kernel, x, tuple(values)


def _shared_out(
    gx: Tensor | None, gradients: Tensor | None, values: tuple[Value, ...], needs: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """The vector of all coefficient gradients, dealt out in the shapes and dtypes of the coefficients."""
    if gradients is None:
        return (None, gx) + (None,) * len(values)
    dealt: list[Tensor | None] = [None, gx]
    # A vector of one is its own part; cutting it out would cost as much as the kernel on a small tensor.
    parts = (gradients,) if len(values) == 1 else gradients.view(-1, 1).unbind()
    for part, v, need in zip(parts, values, needs[2:], strict=True):
        if not (need and isinstance(v, Tensor)):
            dealt.append(None)
        else:
            dealt.append(part if v.dim() == 1 and v.dtype is part.dtype else part.reshape(v.shape).to(v.dtype))
    return tuple(dealt)


def _readable_backward(
    readable: Readable, grad: Tensor, x: Tensor, values: tuple[Value, ...], needs: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """The same gradients by autograd through the readable version, themselves differentiable."""
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views, so that a coefficient computed from x does not count twice.
        inputs = [v.view_as(v) if isinstance(v, Tensor) else v for v in (x, *values)]
        asked = [v for v, need in zip(inputs, needs[1:], strict=True) if need and isinstance(v, Tensor)]
        for v in asked:
            if not v.requires_grad:
                v.requires_grad_(True)
        output = readable(*inputs)
    found = iter(torch.autograd.grad(output, asked, grad, create_graph=differentiable))
    return None, *(next(found) if need and isinstance(v, Tensor) else None for v, need in zip(inputs, needs[1:], strict=True))


def _learns(values: Sequence[Value]) -> bool:
    return any(isinstance(v, Tensor) and v.requires_grad for v in values)


def run(kernel: Kernel, x: Tensor, values: tuple[Value, ...], mode: bool | None) -> Tensor | None:
    """The result of a fused kernel, or None where the readable version is the one to use.

    Args:
        mode: True, False, or None for what the process uses.

    Raises:
        KernelError: ``mode`` is True and the call cannot have a kernel; the message says why.
    """
    name = kernel.name
    if mode is None:
        mode = _mode
    if mode is False or (name is None and mode is None):
        return None
    # In this order: under a transform a tensor says with an exception that it lies nowhere, which takes ten times as long.
    usual = not _transformed() and x.is_cpu and cpu.serves(kernel.number, x, values)
    why = None if usual else obstacle(name, x, values)
    if why is None:
        result: Tensor
        if _differentiates() and (x.requires_grad or _learns(values)):
            result = _Fused.apply(kernel, x, *values)
        else:
            result = (cpu if x.is_cpu else gpu).forward(name, x, values)
        return result
    if mode:
        raise KernelError(
            f"{name or 'The function'} was asked for with fused=True, but has no fused kernel for this call: {why}. "
            "Leave fused at None to use the readable version where there is no kernel."
        )
    return None


def run_(kernel: Kernel, readable: Readable, x: Tensor, values: tuple[Value, ...], mode: bool | None) -> Tensor:
    """The same, written over ``x``.

    What the backward pass needs is taken from the output where it can be, so that nothing of the input is kept. Where it cannot
    (no kernel, or coefficients for which the output does not tell the input), the input is copied first.

    Args:
        readable: ``f(x, *values)`` in torch operations, for coefficients of any shape.
    """
    leaf = x.requires_grad and x.is_leaf
    differentiable = _differentiates() and (x.requires_grad or _learns(values))
    why = "fused=False" if wanted(mode) is False else obstacle(kernel.name, x, values)
    if why is None and not leaf and (not differentiable or _all_positive(values, kernel.always)):
        if differentiable:
            written: Tensor = _FusedInPlace.apply(kernel, x, *values)
            return written
        _backend(x).forward_(kernel.name, x, values)
        # Written behind autograd's back: whoever kept x for a backward pass must be told.
        torch.autograd.graph.increment_version(x)
        return x
    before = x.clone()
    result = None if leaf else run(kernel, before, values, mode)
    return x.copy_(readable(before, *values) if result is None else result)


def _all_positive(values: tuple[Value, ...], always: bool) -> bool:
    return all(v > 0 if not isinstance(v, Tensor) else (v.item() > 0 if v.is_cpu else always) for v in values)
