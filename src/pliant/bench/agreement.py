"""Whether a fast version computes the right thing: outputs and every gradient against the readable one in float64.

A ratio of times says nothing about two programs that compute different things, so the bench prints none for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pliant.bench.subjects import readable

__all__ = ["TOLERANCE", "Disagreement", "NetworkReference", "Reference"]

TOLERANCE: dict[torch.dtype, tuple[float, float]] = {
    torch.float32: (2e-6, 1.5e-5),
    torch.bfloat16: (3.2e-2, 1.6e-2),
    torch.float64: (1e-13, 1e-12),
}
"""For each dtype: of outputs and input gradients, relative to max(1, |value|), the largest over all elements; and of
coefficient gradients, relative to the sum of the absolute values of their terms. float32: 16 and 128 units in the last place,
bfloat16: 4 and 2."""

NETWORK_TOLERANCE = (1e-3, 5e-2)
"""For a whole network in float32: of the outputs, and of the gradient of all parameters; each the Euclidean norm of the
difference over that of the value. Looser, because networks amplify roundings: ResNet-34 with SReLU, readable, comes
out at 6e-6 and 6e-3."""


@dataclass(frozen=True)
class Disagreement:
    """By how much which value is off, and how much was allowed."""

    what: str
    difference: float
    tolerance: float

    def __str__(self) -> str:
        return f"{self.what} off by {self.difference:.1e}, allowed {self.tolerance:.1e}"

    def json(self) -> dict[str, Any]:
        """For the results; a difference that is not a number is text there."""
        difference = float(f"{self.difference:.3g}") if math.isfinite(self.difference) else str(self.difference)
        return {"what": self.what, "difference": difference, "tolerance": self.tolerance}


def _worst(error: Tensor) -> float:
    """The largest element; NaN where any is, because a NaN compared with a bound would pass as small."""
    return float(error.max()) if error.numel() else 0.0


class Reference:
    """Outputs and gradients of a module's readable version in float64.

    Args:
        module: ours; only its coefficients are taken over.
        x: the input, any dtype. g: the gradient that reaches the output, of the same shape.
    """

    def __init__(self, module: nn.Module, x: Tensor, g: Tensor) -> None:
        self.dtype = x.dtype
        self.module = readable(module).double()
        self.x, self.g = x.detach().double(), g.double()
        self.y, self.slope = self._slope(self.x)
        self.coefficients = {n: self._coefficient(n) for n, _ in self.module.named_parameters()}

    def _slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.clone().requires_grad_(True)
        # In place, if it is: never on a leaf.
        y = self.module(x.clone())
        (gradient,) = torch.autograd.grad(y, [x], self.g)
        return y.detach(), gradient

    def _coefficient(self, name: str) -> tuple[float, float]:
        """Gradient, and the sum of the absolute values of its terms.

        The gradient is linear in that of the output, so its derivative by that one is the slope of every element by the
        coefficient. (``torch.func.jvp`` would say so more directly, but warns of its own use of ``torch.jit``.)
        """
        coefficient = dict(self.module.named_parameters())[name]
        g = self.g.clone().requires_grad_(True)
        (whole,) = torch.autograd.grad(self.module(self.x.clone()), [coefficient], g, create_graph=True)
        (slopes,) = torch.autograd.grad(whole.sum(), [g])
        terms = slopes * self.g
        return float(terms.sum()), float(terms.abs().sum())

    def disagreement(self, forward: Callable[[Tensor], Tensor], parameters: Sequence[nn.Parameter]) -> Disagreement | None:
        """The first value in which ``forward`` is off by more than :data:`TOLERANCE`, or None.

        Args:
            forward: the contestant, a function of ``x``.
            parameters: its coefficients, in the order of the module's.
        """
        elementwise, summed = TOLERANCE[self.dtype]
        x = self.x.to(self.dtype).requires_grad_(True)
        y = forward(x.clone())
        if y.shape != self.y.shape or y.dtype != self.dtype:
            return Disagreement(
                f"output is {y.dtype} {tuple(y.shape)} and not {self.dtype} {tuple(self.y.shape)};", math.inf, 0.0
            )
        error = _worst((y.detach().double() - self.y).abs() / self.y.abs().clamp(min=1))
        if not error <= elementwise:
            return Disagreement("output", error, elementwise)
        gradients = torch.autograd.grad(y, [x, *parameters], self.g.to(self.dtype))
        error = self._slope_error(gradients[0].double(), elementwise)
        if not error <= elementwise:
            return Disagreement("gradient of the input", error, elementwise)
        for (name, (expected, scale)), got in zip(self.coefficients.items(), gradients[1:], strict=True):
            error = abs(float(got) - expected) / scale if scale else abs(float(got))
            if not error <= summed:
                return Disagreement(f"gradient of {name}", error, summed)
        return None

    def _slope_error(self, got: Tensor, tolerance: float) -> float:
        size = self.slope.abs().clamp(min=1)
        error = _worst((got - self.slope).abs() / size)
        if error <= tolerance:
            return error
        # Beside a kink a rounding of x decides which slope is taken. What the reference has within 4 units in the last place
        # of x is right.
        step = 4 * torch.finfo(self.dtype).eps * (1 + self.x.abs())
        near = torch.stack([self.slope, self._slope(self.x - step)[1], self._slope(self.x + step)[1]])
        low, high = near.amin(0), near.amax(0)
        return _worst(torch.maximum(low - got, got - high).clamp(min=0) / size + (got - got))


class NetworkReference:
    """Outputs and gradients of a whole network in float64, its activations by their readable functions.

    Args:
        network: ours, in float32. x: a batch. loss: from the outputs to one number.
    """

    def __init__(self, network: nn.Module, x: Tensor, loss: Callable[[Any], Tensor]) -> None:
        self.loss = loss
        self.x = x
        self.y, self.gradient = self._run(readable(network).double(), x.double())

    def _run(self, network: nn.Module, x: Tensor, call: Callable[[Tensor], Any] | None = None) -> tuple[Tensor, Tensor]:
        rates = {m: m.p for m in network.modules() if isinstance(m, nn.modules.dropout._DropoutNd)}
        for m in rates:
            m.p = 0.0
        # Neither the running statistics nor the gradients of a contestant may remember that it was checked.
        buffers = {n: b.clone() for n, b in network.named_buffers()}
        network.zero_grad(set_to_none=True)
        out = (network if call is None else call)(x)
        torch.autograd.backward(self.loss(out))
        logits = out if isinstance(out, Tensor) else out[0]
        gradient = torch.cat([p.grad.flatten().double() for p in network.parameters() if p.grad is not None])
        network.zero_grad(set_to_none=True)
        with torch.no_grad():
            for n, b in network.named_buffers():
                b.copy_(buffers[n])
        for m, p in rates.items():
            m.p = p
        return logits.detach().double(), gradient

    def disagreement(self, network: nn.Module, call: Callable[[Tensor], Any] | None = None) -> Disagreement | None:
        """Whether outputs or gradients of ``network`` are off by more than :data:`NETWORK_TOLERANCE`; ``call`` runs it where it
        is not run by itself."""
        y, gradient = self._run(network, self.x, call)
        for what, got, expected, allowed in (
            ("output of the network", y, self.y, NETWORK_TOLERANCE[0]),
            ("gradient of the network", gradient, self.gradient, NETWORK_TOLERANCE[1]),
        ):
            if got.shape != expected.shape:
                return Disagreement(f"{what} has {got.numel()} values and not {expected.numel()};", math.inf, 0.0)
            error = float((got - expected).norm() / expected.norm())
            if not error <= allowed:
                return Disagreement(what, error, allowed)
        return None
