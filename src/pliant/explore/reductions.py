"""What an activation is at certain values of its coefficients, as sentences that the tests evaluate on both sides.

A row says: the activation ``name``, where its coefficients satisfy ``when``, is ``other``. No row is believed: the tests
compare the two functions in float64 at the row's example, and see that a row whose coefficients have been moved off its
condition neither speaks nor would be true.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pliant import functional as P

__all__ = ["ALL", "REACH", "Reduction", "of"]

REACH = 8.0
"""The statements that are approximate hold on [-REACH, REACH]."""
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


@dataclass(frozen=True)
class Reduction:
    """One statement.

    Args:
        name: the activation in the catalogue that it is about.
        words: what the activation then is; a format string over its coefficients.
        other: the same function put otherwise, from ``x`` and an object that has the coefficients as attributes.
        example: coefficients at which it holds.
        when: from that object to whether it holds; None for always.
        tolerance: the largest difference on [-REACH, REACH]; 0 for one and the same function, up to rounding.
        general: said only where there is nothing more special to say.
    """

    name: str
    words: str
    other: Callable[[Tensor, Any], Tensor]
    example: Mapping[str, float]
    when: Callable[[Any], bool] | None = None
    tolerance: float = 0.0
    general: bool = False

    def holds(self, values: Mapping[str, float]) -> bool:
        """Whether the statement is true at these coefficients."""
        return self.when is None or self.when(SimpleNamespace(**values))

    def sentence(self, values: Mapping[str, float]) -> str:
        """The statement with the numbers filled in."""
        return self.words.format(**{n: f"{v + 0.0:.4g}" for n, v in values.items()})


def of(name: str, values: Mapping[str, float]) -> list[str]:
    """What the activation ``name`` is at these coefficients, the most special statement first; may be empty.

    Args:
        name: its canonical name in the catalogue.
        values: all of its coefficients or numeric options, by name.
    """
    holding = [r for r in ALL if r.name == name and r.holds(values)]
    special = [r for r in holding if not r.general]
    return [r.sentence(values) for r in special or holding]


def _is(value: float, other: float) -> bool:
    # The rounding of a slider's steps, not a difference that anybody could see.
    return math.isclose(value, other, rel_tol=1e-9, abs_tol=1e-9)


def _at(**wanted: float) -> Callable[[Any], bool]:
    return lambda c: all(_is(getattr(c, name), value) for name, value in wanted.items())


def _both(c: Any) -> tuple[float, float, float]:
    """Where the two lines of AReLU meet, the gentler slope and the steeper one."""
    return (c.d - c.c) / (c.a - c.b), min(c.a, c.b), max(c.a, c.b)


def _folded(x: Tensor, c: Any) -> Tensor:
    k, low, high = _both(c)
    offset: float = c.a * k + c.c
    return offset + torch.where(x > k, high * (x - k), low * (x - k))


def _flat(c: Any) -> bool:
    return _is(c.a, 0) or _is(c.b, 0)


_START = {"a": 1.0, "b": 1.0, "c": 0.0, "d": 0.0}
_ODD = {"a": 1.3, "b": 0.6, "c": -0.4, "d": 0.2}

ALL: tuple[Reduction, ...] = (
    # DSReLU
    Reduction("dsrelu", "the identity: a network of these is linear", lambda x, c: x, {"slope": 1.0}, _at(slope=1)),
    Reduction(
        "dsrelu",
        "AReLU({slope}, 1, 0, 0): the larger of the lines {slope}·x and x, convex",
        lambda x, c: P.arelu(x, c.slope, 1.0, 0.0, 0.0),
        {"slope": 3.5},
        lambda c: c.slope > 1 and not _is(c.slope, 1),
    ),
    Reduction(
        "dsrelu",
        "the smaller of the lines {slope}·x and x: concave, as no AReLU can be",
        lambda x, c: torch.minimum(c.slope * x, x),
        {"slope": 0.4},
        lambda c: c.slope < 1 and not _is(c.slope, 1),
    ),
    Reduction(
        "dsrelu",
        "{slope} · LeakyReLU(1/{slope})",
        lambda x, c: c.slope * F.leaky_relu(x, 1 / c.slope),
        {"slope": 2.5},
        lambda c: not _is(c.slope, 1),
    ),
    # SReLU
    Reduction("srelu", "ReLU", lambda x, c: torch.relu(x), {"alpha": 1.0, "beta": 0.0}, _at(alpha=1, beta=0)),
    Reduction("srelu", "ELU({beta})", lambda x, c: F.elu(x, c.beta), {"alpha": 1.0, "beta": 0.25}, _at(alpha=1)),
    Reduction("srelu", "{alpha} · ReLU", lambda x, c: c.alpha * torch.relu(x), {"alpha": 1.5, "beta": 0.0}, _at(beta=0)),
    Reduction(
        "srelu",
        "PELU({alpha}, 1): the slopes on both sides of 0 agree, so only here it is smooth",
        lambda x, c: P.pelu(x, c.alpha, 1.0),
        {"alpha": 0.7, "beta": 0.7},
        lambda c: _is(c.alpha, c.beta),
    ),
    Reduction(
        "srelu",
        "SELU, to four digits",
        lambda x, c: torch.selu(x),
        {"alpha": 1.0507, "beta": 1.7581},
        lambda c: abs(c.alpha - SELU_SCALE) < 1e-4 and abs(c.beta - SELU_SCALE * SELU_ALPHA) < 1e-4,
        tolerance=1e-3,
    ),
    Reduction(
        "srelu",
        "{alpha} · ELU({beta}/{alpha})",
        lambda x, c: c.alpha * F.elu(x, c.beta / c.alpha),
        {"alpha": 1.5, "beta": 0.3},
        general=True,
    ),
    # AReLU
    Reduction("arelu", "ReLU", lambda x, c: torch.relu(x), {**_START, "b": 0.0}, _at(a=1, b=0, c=0, d=0)),
    Reduction("arelu", "the absolute value", lambda x, c: x.abs(), {**_START, "b": -1.0}, _at(a=1, b=-1, c=0, d=0)),
    Reduction("arelu", "the identity", lambda x, c: x, _START, _at(a=1, b=1, c=0, d=0)),
    Reduction(
        "arelu",
        "LeakyReLU({b})",
        lambda x, c: F.leaky_relu(x, c.b),
        {**_START, "b": 0.2},
        lambda c: _at(a=1, c=0, d=0)(c) and c.b <= 1,
    ),
    Reduction(
        "arelu",
        "DSReLU({a})",
        lambda x, c: P.dsrelu(x, c.a),
        {**_START, "a": 2.5},
        lambda c: _at(b=1, c=0, d=0)(c) and c.a >= 1,
    ),
    Reduction(
        "arelu",
        "FReLU({c})",
        lambda x, c: P.frelu(x, c.c),
        {"a": 1.0, "b": 0.0, "c": -0.4, "d": -0.4},
        lambda c: _at(a=1, b=0)(c) and _is(c.c, c.d) and not _is(c.c, 0),
    ),
    Reduction(
        "arelu",
        "one straight line: the two are parallel, and the upper one hides the other",
        lambda x, c: c.a * x + max(c.c, c.d),
        {"a": 0.5, "b": 0.5, "c": 0.3, "d": -0.2},
        lambda c: _is(c.a, c.b),
    ),
    Reduction(
        "arelu",
        "two lines, the steeper to the right of where they meet: a shifted and scaled LeakyReLU",
        _folded,
        _ODD,
        lambda c: not _is(c.a, c.b),
        general=True,
    ),
    # ASigmoid, ATanh
    Reduction("asigmoid", "Sigmoid", lambda x, c: torch.sigmoid(x), _START, _at(a=1, b=1, c=0, d=0)),
    Reduction(
        "asigmoid", "Tanh", lambda x, c: torch.tanh(x), {"a": 2.0, "b": 2.0, "c": 0.0, "d": -1.0}, _at(a=2, b=2, c=0, d=-1)
    ),
    Reduction(
        "asigmoid",
        "a constant, and no gradient leads a network away from it by its input",
        lambda x, c: (c.b * torch.sigmoid(torch.as_tensor(c.c, dtype=x.dtype)) + c.d).expand(x.shape),
        {**_ODD, "a": 0.0},
        _flat,
    ),
    Reduction(
        "asigmoid",
        "ATanh({a}/2, {b}/2, {c}/2, {d}+{b}/2)",
        lambda x, c: P.atanh(x, c.a / 2, c.b / 2, c.c / 2, c.d + c.b / 2),
        _ODD,
        general=True,
    ),
    Reduction("atanh", "Tanh", lambda x, c: torch.tanh(x), _START, _at(a=1, b=1, c=0, d=0)),
    Reduction(
        "atanh",
        "Sigmoid",
        lambda x, c: torch.sigmoid(x),
        {"a": 0.5, "b": 0.5, "c": 0.0, "d": 0.5},
        _at(a=0.5, b=0.5, c=0, d=0.5),
    ),
    Reduction(
        "atanh",
        "a constant, and no gradient leads a network away from it by its input",
        lambda x, c: (c.b * torch.tanh(torch.as_tensor(c.c, dtype=x.dtype)) + c.d).expand(x.shape),
        {**_ODD, "b": 0.0},
        _flat,
    ),
    Reduction(
        "atanh",
        "ASigmoid(2·{a}, 2·{b}, 2·{c}, {d}-{b})",
        lambda x, c: P.asigmoid(x, 2 * c.a, 2 * c.b, 2 * c.c, c.d - c.b),
        _ODD,
        general=True,
    ),
    # AffineReLU
    Reduction("affinerelu", "ReLU", lambda x, c: torch.relu(x), _START, _at(a=1, b=1, c=0, d=0)),
    Reduction("affinerelu", "FReLU({d})", lambda x, c: P.frelu(x, c.d), {**_START, "d": -0.4}, _at(a=1, b=1, c=0)),
    Reduction(
        "affinerelu",
        "a constant",
        lambda x, c: torch.full_like(x, c.b * max(c.c, 0.0) + c.d),
        {**_ODD, "b": 0.0},
        _flat,
    ),
    Reduction(
        "affinerelu",
        "AReLU({a}·{b}, 0, {b}·{c}+{d}, {d})",
        lambda x, c: P.arelu(x, c.a * c.b, 0.0, c.b * c.c + c.d, c.d),
        _ODD,
        lambda c: c.b > 0,
        general=True,
    ),
    # PReLU, Swish, PELU, FReLU
    Reduction("prelu", "ReLU", lambda x, c: torch.relu(x), {"weight": 0.0}, _at(weight=0)),
    Reduction("prelu", "the identity", lambda x, c: x, {"weight": 1.0}, _at(weight=1)),
    Reduction("prelu", "the absolute value", lambda x, c: x.abs(), {"weight": -1.0}, _at(weight=-1)),
    Reduction(
        "prelu",
        "LeakyReLU({weight})",
        lambda x, c: F.leaky_relu(x, c.weight),
        {"weight": 0.25},
        lambda c: not _is(c.weight, 0) and not _is(c.weight, 1),
    ),
    Reduction(
        "prelu",
        "AReLU(1, {weight}, 0, 0)",
        lambda x, c: P.arelu(x, 1.0, c.weight, 0.0, 0.0),
        {"weight": -0.3},
        lambda c: c.weight <= 1,
    ),
    Reduction("swish", "half the identity", lambda x, c: x / 2, {"beta": 0.0}, _at(beta=0)),
    Reduction("swish", "SiLU", lambda x, c: F.silu(x), {"beta": 1.0}, _at(beta=1)),
    Reduction(
        "swish",
        "GELU to within 0.021: its sigmoid approximation",
        lambda x, c: F.gelu(x),
        {"beta": 1.702},
        lambda c: abs(c.beta - 1.702) < 5e-3,
        tolerance=0.021,
    ),
    Reduction(
        "swish",
        "ReLU to within 0.03",
        lambda x, c: torch.relu(x),
        {"beta": 10.0},
        lambda c: c.beta >= 10,
        tolerance=0.03,
    ),
    Reduction("pelu", "ELU(1)", lambda x, c: F.elu(x), {"a": 1.0, "b": 1.0}, _at(a=1, b=1)),
    Reduction("pelu", "CELU({a})", lambda x, c: F.celu(x, c.a), {"a": 0.6, "b": 0.6}, lambda c: _is(c.a, c.b)),
    Reduction("pelu", "SReLU({a}, {a})", lambda x, c: P.srelu(x, c.a, c.a), {"a": 0.6, "b": 1.0}, _at(b=1)),
    Reduction("pelu", "{a}/{b} · CELU({b})", lambda x, c: c.a / c.b * F.celu(x, c.b), {"a": 1.4, "b": 0.5}, general=True),
    Reduction("frelu", "ReLU", lambda x, c: torch.relu(x), {"b": 0.0}, _at(b=0)),
    Reduction("frelu", "AReLU(1, 0, {b}, {b})", lambda x, c: P.arelu(x, 1.0, 0.0, c.b, c.b), {"b": -0.4}),
    # torch's own
    Reduction("relu", "AReLU(1, 0, 0, 0)", lambda x, c: P.arelu(x), {}),
    Reduction("relu", "SReLU(1, 0)", lambda x, c: P.srelu(x, 1.0, 0.0), {}),
    Reduction("leakyrelu", "ReLU", lambda x, c: torch.relu(x), {"negative_slope": 0.0}, _at(negative_slope=0)),
    Reduction("leakyrelu", "the identity", lambda x, c: x, {"negative_slope": 1.0}, _at(negative_slope=1)),
    Reduction("leakyrelu", "PReLU({negative_slope})", lambda x, c: P.prelu(x, c.negative_slope), {"negative_slope": 0.01}),
    Reduction("elu", "ReLU", lambda x, c: torch.relu(x), {"alpha": 0.0}, _at(alpha=0)),
    Reduction("elu", "SReLU(1, {alpha})", lambda x, c: P.srelu(x, 1.0, c.alpha), {"alpha": 0.7}, lambda c: c.alpha >= 0),
    Reduction("celu", "ELU(1)", lambda x, c: F.elu(x), {"alpha": 1.0}, _at(alpha=1)),
    Reduction(
        "celu", "PELU({alpha}, {alpha})", lambda x, c: P.pelu(x, c.alpha, c.alpha), {"alpha": 0.6}, lambda c: c.alpha > 0
    ),
    Reduction(
        "selu",
        "SReLU(1.0507, 1.7581), to four digits",
        lambda x, c: P.srelu(x, 1.0507, 1.7581),
        {},
        tolerance=1e-3,
    ),
    Reduction("silu", "Swish(1)", lambda x, c: P.swish(x, 1.0), {}),
    Reduction("gelu", "Swish(1.702) to within 0.021", lambda x, c: P.swish(x, 1.702), {}, tolerance=0.021),
    Reduction("mish", "x · tanh(Softplus(x))", lambda x, c: x * torch.tanh(F.softplus(x)), {}),
    Reduction("sigmoid", "ASigmoid(1, 1, 0, 0)", lambda x, c: P.asigmoid(x), {}),
    Reduction("tanh", "ATanh(1, 1, 0, 0)", lambda x, c: P.atanh(x), {}),
    Reduction(
        "softplus",
        "ReLU to within 0.07",
        lambda x, c: torch.relu(x),
        {"beta": 10.0, "threshold": 20.0},
        lambda c: c.beta >= 10 and c.threshold >= 0,
        tolerance=0.07,
    ),
    Reduction("relu6", "Hardtanh(0, 6)", lambda x, c: F.hardtanh(x, 0.0, 6.0), {}),
    Reduction("hardtanh", "ReLU6", lambda x, c: F.relu6(x), {"min_val": 0.0, "max_val": 6.0}, _at(min_val=0, max_val=6)),
    Reduction("hardsigmoid", "ReLU6(x + 3) / 6", lambda x, c: F.relu6(x + 3) / 6, {}),
    Reduction("hardswish", "x · ReLU6(x + 3) / 6", lambda x, c: x * F.relu6(x + 3) / 6, {}),
    Reduction("logsigmoid", "-Softplus(-x)", lambda x, c: -F.softplus(-x), {}),
    Reduction("tanhshrink", "x - Tanh(x)", lambda x, c: x - torch.tanh(x), {}),
    Reduction("identity", "LeakyReLU(1)", lambda x, c: F.leaky_relu(x, 1.0), {}),
)
