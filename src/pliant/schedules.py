"""Schedules: frozen callables from training progress to a number.

Progress ``t`` is 0 at the first optimizer step and 1 at the last planned one. Values above 1 are legal, because a
coefficient may be driven in units of epochs (see :class:`pliant.Scheduled`); a schedule that has an end holds it there,
:class:`Logistic` follows its formula.

A schedule needs no base class: any callable ``float -> float`` works. Those here are dataclasses, so that they compare,
hash, print and pickle by value, and they use the standard library alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pliant.errors import DomainError

Schedule = Callable[[float], float]
"""What a scheduled coefficient is driven by: progress (0 at the start, 1 at the planned end) to value."""

__all__ = ["Constant", "Cosine", "Exponential", "Linear", "Logistic", "Schedule", "Steps"]


def _settle(schedule: object, *names: str) -> None:
    """Turn the named fields of a new schedule into finite floats, or say which of them is none."""
    for name in names:
        given = getattr(schedule, name)
        try:
            value = float(given)
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value):
            kind = type(schedule).__name__
            raise DomainError(f"{kind} was given {name}={given!r}, but its {name} must be a finite number.")
        # The dataclass is frozen, for everybody but its own constructor.
        object.__setattr__(schedule, name, value)


@dataclass(frozen=True)
class Constant:
    """The same value at every progress: the control that a claim about a moving coefficient needs."""

    value: float

    def __post_init__(self) -> None:
        _settle(self, "value")

    def __call__(self, t: float) -> float:
        return self.value


@dataclass(frozen=True)
class Linear:
    """A straight line from ``start`` at t = 0 to ``end`` at t = 1."""

    start: float
    end: float

    def __post_init__(self) -> None:
        _settle(self, "start", "end")

    def __call__(self, t: float) -> float:
        # The convex form gives exactly `end` at t = 1; start + t * (end - start) may miss it by a rounding.
        t = min(t, 1.0)
        return (1.0 - t) * self.start + t * self.end


@dataclass(frozen=True)
class Cosine:
    """Half a cosine wave from ``start`` at t = 0 to ``end`` at t = 1: flat at both ends."""

    start: float
    end: float

    def __post_init__(self) -> None:
        _settle(self, "start", "end")

    def __call__(self, t: float) -> float:
        share = 0.5 * (1.0 - math.cos(math.pi * min(t, 1.0)))
        return (1.0 - share) * self.start + share * self.end


@dataclass(frozen=True)
class Exponential:
    """A geometric path from ``start`` at t = 0 to ``end`` at t = 1; both must be positive."""

    start: float
    end: float

    def __post_init__(self) -> None:
        _settle(self, "start", "end")
        if self.start <= 0 or self.end <= 0:
            raise DomainError(
                f"Exponential was given start={self.start!r}, end={self.end!r}, but a geometric path needs both above 0. "
                "Use Linear or Cosine for a path that touches or crosses 0."
            )

    def __call__(self, t: float) -> float:
        t = min(t, 1.0)
        return math.pow(self.start, 1.0 - t) * math.pow(self.end, t)


def _sigmoid(u: float) -> float:
    # math.exp overflows above 709; the two branches keep its argument at or below 0.
    if u >= 0:
        return 1.0 / (1.0 + math.exp(-u))
    e = math.exp(u)
    return e / (1.0 + e)


@dataclass(frozen=True)
class Logistic:
    """A logistic path: ``start + (end - start) * sigmoid(steepness * (t - 1/2))``, the slope schedule of DSReLU.

    The formula as printed (``endpoints="raw"``) does not reach its own ends on [0, 1]: with ``steepness=5`` it covers
    84.8 % of the way, from 7.6 % to 92.4 %. ``endpoints="exact"`` rescales the sigmoid so that the value is ``start`` at
    t = 0 and ``end`` at t = 1. As the steepness goes to 0 the exact form becomes a straight line, the raw form the
    constant ``(start + end) / 2``.

    Args:
        start: value towards t -> -infinity (raw) or at t = 0 (exact).
        end: value towards t -> +infinity (raw) or at t = 1 (exact).
        steepness: k > 0, in units of 1/t.
        endpoints: ``"raw"`` or ``"exact"``.
    """

    start: float
    end: float
    steepness: float = 5.0
    endpoints: Literal["raw", "exact"] = "raw"

    def __post_init__(self) -> None:
        _settle(self, "start", "end", "steepness")
        if self.steepness <= 0:
            raise DomainError(
                f"Logistic was given steepness={self.steepness!r}, but a logistic path needs steepness > 0. "
                "To run the path backwards exchange start and end; for a constant use Constant."
            )
        if self.endpoints not in ("raw", "exact"):
            raise DomainError(f"Logistic was given endpoints={self.endpoints!r}; they are either 'raw' or 'exact'.")

    def __call__(self, t: float) -> float:
        share = _sigmoid(self.steepness * (t - 0.5))
        if self.endpoints == "exact":
            low, high = _sigmoid(-self.steepness / 2), _sigmoid(self.steepness / 2)
            # Below ~1e-8 the two ends coincide in floating point; the limit is the straight line.
            share = (share - low) / (high - low) if high - low > 1e-9 else t
        return (1.0 - share) * self.start + share * self.end

    def crossing(self, value: float) -> float | None:
        """The progress t at which the path takes ``value``, or None where it never does (t may lie outside [0, 1])."""
        if self.start == self.end:
            return None
        share = (value - self.start) / (self.end - self.start)
        if self.endpoints == "exact":
            low, high = _sigmoid(-self.steepness / 2), _sigmoid(self.steepness / 2)
            share = low + share * (high - low)
        if not 0.0 < share < 1.0:
            return None
        return 0.5 + math.log(share / (1.0 - share)) / self.steepness


@dataclass(frozen=True)
class Steps:
    """Piecewise constant: ``values[i]`` from ``boundaries[i-1]`` up to, not including, ``boundaries[i]``.

    Args:
        values: n + 1 numbers.
        boundaries: n increasing numbers of progress.
    """

    values: tuple[float, ...]
    boundaries: tuple[float, ...]

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "values", tuple(map(float, self.values)))
            object.__setattr__(self, "boundaries", tuple(map(float, self.boundaries)))
        except (TypeError, ValueError):
            raise DomainError(
                f"Steps was given values={self.values!r} and boundaries={self.boundaries!r}; both are sequences of numbers."
            ) from None
        if not all(map(math.isfinite, (*self.values, *self.boundaries))):
            raise DomainError(f"{self} holds a number that is not finite; its values and boundaries must be finite numbers.")
        if len(self.values) != len(self.boundaries) + 1 or list(self.boundaries) != sorted(set(self.boundaries)):
            raise DomainError(
                f"Steps was given {len(self.values)} values and boundaries {self.boundaries}; it needs one value more than "
                "boundaries, and boundaries that increase strictly."
            )

    def __call__(self, t: float) -> float:
        return self.values[sum(t >= b for b in self.boundaries)]
