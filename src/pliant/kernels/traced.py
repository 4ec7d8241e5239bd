"""What a compiler is shown: the readable formula forward, its derivatives in one mask-free expression backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pliant.kernels.derivatives import DERIVATIVES

__all__ = ["traced"]


def traced(name: str, formula: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``formula`` as a function of ``(x, *coefficients)`` that keeps ``x`` and the coefficients for the backward pass, no more.

    Args:
        name: of the function in :data:`pliant.kernels.derivatives.DERIVATIVES`.
        formula: the readable version; its arguments are tensors that broadcast against x, or numbers.
    """
    derivative = DERIVATIVES[name]

    class Traced(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x: Tensor, *values: float | Tensor) -> Tensor:
            return formula(x, *values)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            ctx.constants = [None if isinstance(v, Tensor) else v for v in inputs]
            ctx.save_for_backward(*(v for v in inputs if isinstance(v, Tensor)))

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
            kept = iter(ctx.saved_tensors)
            inputs = [next(kept) if constant is None else constant for constant in ctx.constants]
            gradients = derivative(grad, *inputs)
            return tuple(
                g.sum_to_size(v.shape) if wanted else None
                for g, v, wanted in zip(gradients, inputs, ctx.needs_input_grad, strict=True)
            )

    apply: Callable[..., Tensor] = Traced.apply
    return apply
