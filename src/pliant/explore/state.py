"""What the page shows of one activation: its coefficients as knobs, its curve, its gain. No page library, no formulas.

Every number comes out of the library: the functions, the schedules, the gain. This module only asks for them.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from pliant import catalog
from pliant.activation import Activation
from pliant.coefficients import ANY, CoefficientLike, Domain, Fixed, Learned, Scheduled
from pliant.errors import DomainError, PliantError, unknown
from pliant.explore import reductions
from pliant.gain import gain
from pliant.testing import find_kinks

__all__ = ["Curve", "Explored", "Gains", "Kind", "Kink", "Knob", "choices", "coefficients", "curve_of", "evaluate", "variants"]

Kind = Literal["fixed", "learned", "scheduled"]
REACH = 4.0
POINTS = 401

# torch checks its options when they are used, if at all; what it documents, or what divides by zero otherwise.
_TORCH_DOMAINS: Mapping[tuple[str, str], Domain] = {
    ("softplus", "beta"): Domain(0.0, open=True),
    ("celu", "alpha"): Domain(0.0, open=True),
}


@dataclass(frozen=True)
class Knob:
    """One coefficient as it can be played with.

    Args:
        name: of the coefficient.
        value: now; for a scheduled one what the schedule gives at the current t.
        kind: how it gets its value.
        kinds: the kinds it can be given here.
        low, high: the range of its slider. Its domain may reach further, and ``value`` may lie there.
        step: of its slider.
        domain: the legal values.
    """

    name: str
    value: float
    kind: Kind
    kinds: tuple[Kind, ...]
    low: float
    high: float
    step: float
    domain: Domain

    def problem(self, value: float | None) -> str | None:
        """What is wrong with a value for this knob; None if it can be used."""
        if value is None:
            return f"{self.name} needs a number"
        return None if value in self.domain else f"{self.name} must be {self.domain}"


@dataclass(frozen=True)
class Kink:
    """A point at which the slope jumps: where, the value there, the slope on each side, and the gradient that is used at it."""

    x: float
    y: float
    left: float
    right: float
    at: float


@dataclass(frozen=True)
class Curve:
    """An activation on [-REACH, REACH]: ``x``, ``y`` and ``slope`` have one entry a point, and no point is a kink."""

    x: tuple[float, ...]
    y: tuple[float, ...]
    slope: tuple[float, ...]
    kinks: tuple[Kink, ...]

    def pieces(self) -> Iterator[tuple[list[float], list[float]]]:
        """The derivative as x and slope of each smooth piece, its ends at the one-sided slopes."""
        edges = [-math.inf, *(k.x for k in self.kinks), math.inf]
        for i, (low, high) in enumerate(pairwise(edges)):
            inside = [(x, s) for x, s in zip(self.x, self.slope, strict=True) if low < x < high]
            if i > 0:
                inside.insert(0, (self.kinks[i - 1].x, self.kinks[i - 1].right))
            if i < len(self.kinks):
                inside.append((self.kinks[i].x, self.kinks[i].left))
            yield [x for x, _ in inside], [s for _, s in inside]


@dataclass(frozen=True)
class Gains:
    """The init gains that keep activations (``forward``) and gradients (``backward``) at unit scale; None if nothing could."""

    forward: float | None
    backward: float | None


@dataclass(frozen=True)
class Explored:
    """An activation of the catalogue, how each coefficient gets its value, and where in training it is looked at.

    Args:
        name: canonical name in the catalogue.
        variant: of that activation; None for its default.
        given: what was set by hand, by coefficient: a kind, and a value for those that have one (None for a schedule's).
        options: other options of the spec, which have no knob (such as ``approximate`` of GELU).
        t: progress in [0, 1], at which schedules are read.
    """

    name: str
    variant: str | None = None
    given: tuple[tuple[str, tuple[Kind, float | None]], ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    t: float = 0.0

    @classmethod
    def of(cls, spec: str) -> Explored:
        """From a spec such as ``"srelu[beta=0.1]"``.

        Raises:
            UnknownNameError, DomainError: as :func:`pliant.catalog.parse`, or the activation refuses its options.
        """
        parsed = catalog.parse(spec)
        parsed.create()
        if not parsed.options or parsed.name not in _OURS:
            numbers = {n: v for n, v in parsed.options if n in coefficients(parsed.name)}
            given = tuple((n, ("fixed", float(v))) for n, v in numbers.items())
            rest = tuple((n, v) for n, v in parsed.options if n not in numbers)
            return cls(parsed.name, parsed.variant, cast("Any", given), rest)
        return cls(parsed.name, parsed.variant, options=parsed.options)

    # --- what there is --------------------------------------------------------------------------------------------------

    @property
    def entry(self) -> catalog.Entry:
        """What the catalogue holds under the name."""
        return catalog.ALL[self.name]

    @property
    def title(self) -> str:
        """Name, variant and coefficients now, for example ``SReLU(1, 0.25)``."""
        inside = ", ".join(f"{k.value + 0.0:.4g}" for k in self.knobs)
        words = [self.entry.display, *([self.variant] if self.variant else [])]
        return " ".join(words) + (f"({inside})" if inside else "")

    def declared(self) -> dict[str, Fixed | Learned | Scheduled]:
        """The kinds of all coefficients as the variant declares them; of torch's own, their numeric options."""
        module = catalog.Spec(self.name, self.variant, self.options).create()
        if isinstance(module, Activation):
            return dict(module.kinds)
        return {n: Fixed(float(getattr(module, n))) for n in coefficients(self.name)}

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """A knob for each coefficient, in the order of the function."""
        domains = {c.name: c.domain for c in _OURS[self.name].coefficients} if self.name in _OURS else {}
        hands = dict(self.given)
        found = []
        for name, declared in self.declared().items():
            domain = domains.get(name, _TORCH_DOMAINS.get((self.name, name), ANY))
            kind, value = hands.get(name, (_kind(declared), None))
            if value is None:
                value = self._declared_value(declared)
            low, high = _range(declared, domain)
            kinds: tuple[Kind, ...] = ("fixed", "learned") if self.name in _OURS else ("fixed",)
            if isinstance(declared, Scheduled):
                kinds = ("scheduled", *kinds)
            found.append(Knob(name, value, kind, kinds, min(low, value), max(high, value), 0.01, domain))
        return tuple(found)

    @property
    def values(self) -> dict[str, float]:
        """Every coefficient now, by name."""
        return {k.name: k.value for k in self.knobs}

    @property
    def schedules(self) -> dict[str, Scheduled]:
        """The coefficients that follow t, by name; empty where t changes nothing."""
        declared = self.declared()
        return {k.name: cast(Scheduled, declared[k.name]) for k in self.knobs if k.kind == "scheduled"}

    def path(self, name: str, points: int = 101) -> list[tuple[float, float]]:
        """The schedule of a coefficient as (t, value) over [0, 1]."""
        schedule = self.schedules[name].schedule
        return [(i / (points - 1), schedule(i / (points - 1))) for i in range(points)]

    def _declared_value(self, declared: Fixed | Learned | Scheduled) -> float:
        if isinstance(declared, Scheduled):
            return float(declared.schedule(self.t))
        value = declared.value if isinstance(declared, Fixed) else declared.init
        if isinstance(value, tuple):
            raise DomainError(
                f"{self.entry.display} was given {len(value)} values for one coefficient; the page shows one curve. Give one."
            )
        return value

    # --- changing it ----------------------------------------------------------------------------------------------------

    def with_value(self, name: str, value: float | None) -> Explored:
        """The same with a coefficient set by hand; one that followed its schedule is fixed from then on.

        Raises:
            DomainError: the value lies outside the coefficient's domain, or torch refuses it.
        """
        knob = self._knob(name)
        problem = knob.problem(value)
        if problem:
            raise DomainError(f"{problem}.")
        changed = self._set(name, "learned" if knob.kind == "learned" else "fixed", value)
        evaluate(changed.name, changed.values, torch.zeros(1), self.options)
        return changed

    def problem(self, name: str, value: float | None) -> str | None:
        """What is wrong with a value for a coefficient, alone or beside the others; None if it can be used."""
        try:
            self.with_value(name, value)
        except DomainError as error:
            return str(error)
        return None

    def with_kind(self, name: str, kind: Kind) -> Explored:
        """The same with another way for a coefficient to get its value; the value stays where that is possible."""
        knob = self._knob(name)
        if kind not in knob.kinds:
            raise DomainError(f"{name} cannot be {kind!r} here; it can be {' or '.join(knob.kinds)}.")
        return self._set(name, kind, None if kind == "scheduled" else knob.value)

    def at(self, t: float) -> Explored:
        """The same at another point of training.

        Raises:
            DomainError: t lies outside [0, 1].
        """
        if t is None or not 0.0 <= t <= 1.0:
            raise DomainError("t must be a number from 0 to 1.")
        return replace(self, t=float(t))

    def _knob(self, name: str) -> Knob:
        knobs = {k.name: k for k in self.knobs}
        if name not in knobs:
            raise unknown(f"coefficient of {self.entry.display}", name, knobs)
        return knobs[name]

    def _set(self, name: str, kind: Kind, value: float | None) -> Explored:
        return replace(self, given=tuple({**dict(self.given), name: (kind, value)}.items()))

    # --- what comes of it -----------------------------------------------------------------------------------------------

    def build(self) -> nn.Module:
        """A new module in which every coefficient gets its value the way it was chosen, for training."""
        if self.name not in _OURS:
            return catalog.Spec(self.name, self.variant, (*self.options, *self.values.items())).create()
        declared = self.declared()
        kinds: dict[str, Any] = {}
        for knob in self.knobs:
            before = declared[knob.name]
            made: CoefficientLike = Fixed(knob.value)
            if knob.kind == "scheduled":
                made = before
            elif knob.kind == "learned":
                made = Learned(knob.value, before.constrain if isinstance(before, Learned) else True)
            kinds[knob.name] = made
        return _OURS[self.name](**kinds)

    def curve(self) -> Curve:
        """Value and derivative on [-REACH, REACH], in float64."""
        return _curve(self.name, tuple(self.values.items()), self.options)

    def gains(self) -> Gains:
        """The init gains at these coefficients; see :func:`pliant.gain`."""
        return _gains(self.name, tuple(self.values.items()), self.options)

    def reductions(self) -> list[str]:
        """What the activation is at these coefficients, in words."""
        # The table is about torch's own with their default options.
        return [] if self.options and self.name not in _OURS else reductions.of(self.name, self.values)


# --- asking the library -------------------------------------------------------------------------------------------------

_OURS: dict[str, type[Activation]] = {
    n: e.factory for n, e in catalog.ALL.items() if isinstance(e.factory, type) and issubclass(e.factory, Activation)
}


def coefficients(name: str) -> tuple[str, ...]:
    """The names of an activation's coefficients; of torch's own, of the options that are real numbers."""
    if name in _OURS:
        return tuple(c.name for c in _OURS[name].coefficients)
    parameters = inspect.signature(catalog.ALL[name].factory).parameters
    return tuple(n for n, p in parameters.items() if isinstance(p.default, int | float) and not isinstance(p.default, bool))


def _function(name: str, values: Mapping[str, float], options: tuple[tuple[str, Any], ...] = ()) -> nn.Module:
    if name in _OURS:
        return _OURS[name](*(Fixed(values[n]) for n in coefficients(name)))
    return catalog.Spec(name, None, (*options, *values.items())).create()


def evaluate(name: str, values: Mapping[str, float], x: Tensor, options: tuple[tuple[str, Any], ...] = ()) -> Tensor:
    """An activation of the catalogue at these coefficients.

    Raises:
        DomainError: a value outside a coefficient's domain, or one that torch refuses.
    """
    return cast(Tensor, _function(name, values, options)(x))


# The page asks again for what has not changed, and each answer is some ten milliseconds of quadrature or of searching kinks.
@lru_cache(maxsize=32)
def _curve(name: str, values: tuple[tuple[str, float], ...], options: tuple[tuple[str, Any], ...]) -> Curve:
    return curve_of(_function(name, dict(values), options))


@lru_cache(maxsize=32)
def _gains(name: str, values: tuple[tuple[str, float], ...], options: tuple[tuple[str, Any], ...]) -> Gains:
    f = _function(name, dict(values), options)

    def of(mode: Literal["forward", "backward"]) -> float | None:
        try:
            return gain(f, mode=mode)
        except DomainError:
            return None

    return Gains(of("forward"), of("backward"))


def curve_of(f: Callable[[Tensor], Tensor]) -> Curve:
    """The curve of an elementwise function of a float64 tensor on [-REACH, REACH]."""
    found = [z for z in find_kinks(f, REACH) if abs(z) < REACH]
    # A kink that lies on a point of the grid is found to within the last bits.
    found = [round(z, 9) + 0.0 for z in found]
    x = torch.linspace(-REACH, REACH, POINTS, dtype=torch.float64)
    for z in found:
        x = x[(x - z).abs() > 1e-6]
    y, slope = _slopes(f, x)
    kinks = []
    for z in found:
        around = torch.tensor([z - 1e-7, z, z + 1e-7], dtype=torch.float64)
        value, sides = _slopes(f, around)
        kinks.append(Kink(z, float(value[1]), float(sides[0]), float(sides[2]), float(sides[1])))
    return Curve(tuple(x.tolist()), tuple(y.tolist()), tuple(slope.tolist()), tuple(kinks))


def _slopes(f: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        z = x.clone().requires_grad_(True)
        y = f(z)
        slope = torch.autograd.grad(y.sum(), z)[0] if y.requires_grad else torch.zeros_like(z)
    return y.detach(), slope


def _kind(declared: Fixed | Learned | Scheduled) -> Kind:
    return "fixed" if isinstance(declared, Fixed) else "learned" if isinstance(declared, Learned) else "scheduled"


def _range(declared: Fixed | Learned | Scheduled, domain: Domain) -> tuple[float, float]:
    """A slider's range: what the schedule passes through, or twice the default, and 2 at least; inside the domain."""
    if isinstance(declared, Scheduled):
        around = [abs(declared.schedule(i / 100)) for i in range(101)]
        reach = max(around) * 1.2
    else:
        value = declared.value if isinstance(declared, Fixed) else declared.init
        reach = 2 * max(abs(v) for v in (value if isinstance(value, tuple) else (value,)))
    high = float(math.ceil(max(reach, 2.0)))
    if domain.low is None:
        return -high, high
    return domain.low + (0.01 if domain.open else 0.0), high


def choices() -> dict[str, str]:
    """Every activation of the catalogue: canonical name to display name."""
    return {n: e.display for n, e in catalog.ALL.items()}


def variants(name: str) -> tuple[str, ...]:
    """The named variants of an activation that can be built without further numbers."""
    found = []
    for variant in catalog.ALL[name].variants:
        try:
            catalog.Spec(name, variant).create()
        except PliantError:
            # DSReLU's logistic, which is given its ends.
            continue
        found.append(variant)
    return tuple(found)
