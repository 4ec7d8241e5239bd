"""How a coefficient of an activation gets its value: fixed, learned or scheduled. The one place a coefficient is stored.

An activation is a pure function ``f(x, coefficients...)``. This module owns everything between a coefficient as the user
writes it (``0.25``, ``Learned(0.25)``, ``Scheduled(Cosine(2, 1))``) and the number or tensor that reaches the function:

==============  ==========================================  =========================================================
kind            stored in the module as                     state_dict
==============  ==========================================  =========================================================
Fixed           a Python float (a buffer if per channel)    nothing: a constant belongs to the architecture
Learned         a parameter, shape (1,) or (C,)             ``<name>``, or ``raw_<name>`` where the domain constrains it
Scheduled       the bits of a float32 in an int32 buffer    ``_<name>_bits``; loading sets it anew from ``progress``
==============  ==========================================  =========================================================

Two of these choices argue with the obvious ones. A fixed scalar is a float and not a buffer, so that swapping
activations leaves checkpoint keys as they were, ``.half()`` cannot round it, and a compiler sees a constant. A scheduled
value is kept as integer bits because everything that walks over a model's *floating-point* state - an exponential moving
average, ``.half()`` - would otherwise blur it, while integers are copied exactly; reading it back is a view, so it costs
no kernel, no host synchronisation and no recompilation. The bits are part of the state_dict although ``progress`` implies
them: averages that walk over a state_dict copy its tensors in place and never load it, and without the bits an averaged
model would keep the value of step 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from pliant.errors import DomainError
from pliant.schedules import Schedule

__all__ = [
    "ANY",
    "NON_NEGATIVE",
    "POSITIVE",
    "Coefficient",
    "CoefficientLike",
    "Domain",
    "Fixed",
    "Learned",
    "Scheduled",
    "TimeUnit",
    "at_least",
]

TimeUnit = Literal["fraction", "epochs", "released"]
"""What progress counts; see :class:`Scheduled`."""


# --- domains ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Domain:
    """The values on which a coefficient makes sense: everything, or everything from (or above) a bound.

    Args:
        low: the lower bound, or None for the whole real line.
        open: True if ``low`` itself is excluded.
    """

    low: float | None = None
    open: bool = False

    def __contains__(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        return self.low is None or (value > self.low if self.open else value >= self.low)

    def __str__(self) -> str:
        return "any finite number" if self.low is None else f"a number {'>' if self.open else '>='} {self.low:g}"

    def constrain(self, raw: Tensor) -> Tensor:
        """Map an unconstrained tensor into the domain: ``low + softplus(raw)``, elementwise; identity if unbounded."""
        if self.low is None:
            return raw
        # In half precision the softplus and the sum would round the value twice more.
        wide = raw.float() if raw.dtype in (torch.float16, torch.bfloat16) else raw
        positive = nn.functional.softplus(wide)
        # A sum with 0 would cost a small layer as much as its kernel, forward and backward.
        return self.low + positive if self.low else positive

    def unconstrain(self, value: float) -> float:
        """The inverse of :meth:`constrain` for one number in the domain; of its bound, minus infinity."""
        if self.low is None:
            return value
        u = value - self.low
        if u <= 0:
            # A softplus of a parameter far below 0 is 0.
            return -math.inf
        # log(expm1(u)) written so that it neither overflows for large u nor cancels for small u.
        return u + math.log(-math.expm1(-u))


ANY = Domain()
POSITIVE = Domain(0.0, open=True)
NON_NEGATIVE = Domain(0.0)


def at_least(low: float) -> Domain:
    """The domain of all numbers from ``low`` on."""
    return Domain(low)


# --- the three kinds --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fixed:
    """A coefficient that is a constant.

    Args:
        value: one number, or C numbers for one constant per channel.
    """

    value: float | tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", _as_numbers(self.value, "Fixed"))

    def __repr__(self) -> str:
        return f"Fixed({self.value!r})"


@dataclass(frozen=True)
class Learned:
    """A coefficient that is trained with the weights: one per layer, or one per channel.

    Args:
        init: starting value, or C starting values for one per channel.
        constrain: where the activation bounds this coefficient, learn it through a softplus so that it stays inside
            (the parameter is then called ``raw_<name>``). With False the parameter is the value itself and nothing holds
            it in its domain; that is how the AAF paper trained, and may be why some of its runs did not converge.
    """

    init: float | tuple[float, ...]
    constrain: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "init", _as_numbers(self.init, "Learned"))

    def __repr__(self) -> str:
        return f"Learned({self.init!r}{'' if self.constrain else ', constrain=False'})"


@dataclass(frozen=True)
class Scheduled:
    """A coefficient that follows training progress and is moved by a :class:`pliant.Clock`, never by gradients.

    Args:
        schedule: a callable from progress t to the value, for example ``pliant.Cosine(2.0, 1.0)``.
        unit: what t is.
            ``"fraction"``: optimizer steps taken / steps planned, held at 1 past the end (the default);
            ``"epochs"``: epochs taken, a real number that grows without bound;
            ``"released"``: the index of the current epoch, from 1, divided by the batches in an epoch. This is what the
            code released with DSReLU computes, so that t stays below 0.1 in a whole run.
    """

    schedule: Schedule
    unit: TimeUnit = "fraction"

    def __post_init__(self) -> None:
        if not callable(self.schedule):
            raise DomainError(
                f"Scheduled was given {self.schedule!r}, but it needs a callable from progress in [0, 1] to a number, such "
                "as pliant.Cosine(2.0, 1.0). For a constant use Fixed."
            )
        if self.unit not in ("fraction", "epochs", "released"):
            raise DomainError(f"Scheduled was given unit={self.unit!r}; known: 'fraction', 'epochs', 'released'.")

    def __repr__(self) -> str:
        return f"Scheduled({self.schedule!r}{'' if self.unit == 'fraction' else f', unit={self.unit!r}'})"

    def time(self, step: int, total: int, steps_per_epoch: int) -> float:
        """Progress in this coefficient's unit from three integers: steps taken, steps planned, steps in an epoch."""
        if self.unit == "fraction":
            return min(step / total, 1.0) if total > 0 else 0.0
        if steps_per_epoch <= 0:
            return 0.0
        if self.unit == "epochs":
            return step / steps_per_epoch
        return (step // steps_per_epoch + 1) / steps_per_epoch


CoefficientLike: TypeAlias = float | Sequence[float] | Fixed | Learned | Scheduled
"""What a constructor accepts for a coefficient; a bare number or sequence means :class:`Fixed`."""


def _as_numbers(value: float | Sequence[float], kind: str) -> float | tuple[float, ...]:
    # Arrays and tensors say what they hold as plain numbers.
    plain: Any = value.tolist() if hasattr(value, "tolist") else value
    try:
        numbers = tuple(map(float, plain)) if isinstance(plain, list | tuple) else float(plain)
    except (TypeError, ValueError):
        numbers = ()
    if numbers == () or isinstance(plain, str):
        raise DomainError(f"{kind} was given {value!r}, but it needs one number, or a sequence of one number per channel.")
    return numbers


# --- declaration and storage ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Coefficient:
    """The declaration of one coefficient in an activation class: its default kind and value, and its domain."""

    default: Fixed | Learned | Scheduled
    domain: Domain = field(default=ANY)
    name: str = ""
    _raw: str = field(init=False, repr=False)
    _bits: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Put together once: every call of a layer asks for them.
        object.__setattr__(self, "_raw", f"raw_{self.name}")
        object.__setattr__(self, "_bits", f"_{self.name}_bits")

    def resolve(self, given: CoefficientLike, owner: str) -> Fixed | Learned | Scheduled:
        """``given`` as one of the three kinds, checked against the domain.

        Raises:
            DomainError: the constant, the initial value, or any value that the schedule takes on a grid over [0, 1] lies
                outside the domain.
        """
        kind = given if isinstance(given, Fixed | Learned | Scheduled) else Fixed(_as_numbers(given, f"{owner}.{self.name}"))
        if isinstance(kind, Scheduled):
            for i in range(101):
                value = kind.schedule(i / 100)
                if not isinstance(value, int | float):
                    raise DomainError(
                        f"{owner} was given for its coefficient {self.name!r} the schedule {kind.schedule!r}, whose value at "
                        f"t = {i / 100:g} is {value!r}; a schedule takes a number to a plain Python number."
                    )
                self._require(value, f"{kind.schedule!r}, whose value at t = {i / 100:g} is", owner)
            return kind
        values = kind.value if isinstance(kind, Fixed) else kind.init
        domain = self.domain
        if isinstance(kind, Learned) and kind.constrain and domain.low is not None:
            # A softplus reaches its bound only at minus infinity, where it no longer learns.
            domain = Domain(domain.low, open=True)
        for value in values if isinstance(values, tuple) else (values,):
            self._require(value, "the initial value" if isinstance(kind, Learned) else "the constant", owner, domain)
        return kind

    def _require(self, value: float, what: str, owner: str, domain: Domain | None = None) -> None:
        domain = domain or self.domain
        if value not in domain:
            raise DomainError(
                f"{owner} was given for its coefficient {self.name!r} {what} {value!r}, but {self.name} must be {domain}."
            )

    def store(
        self,
        module: nn.Module,
        kind: Fixed | Learned | Scheduled,
        channels: int | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        """Create in ``module`` the attribute, parameter or buffer that holds this coefficient."""
        if isinstance(kind, Fixed):
            if isinstance(kind.value, tuple):
                value = torch.tensor(kind.value, device=device, dtype=dtype or torch.get_default_dtype())
                module.register_buffer(self.name, value, persistent=False)
        elif isinstance(kind, Learned):
            size = len(kind.init) if isinstance(kind.init, tuple) else channels or 1
            if channels not in (None, size):
                raise DomainError(
                    f"{type(module).__name__} was given channels={channels} and {size} initial values for its coefficient "
                    f"{self.name!r}; give one number for all channels, or as many as there are channels."
                )
            parameter = torch.empty(size, device=device, dtype=dtype or torch.get_default_dtype())
            module.register_parameter(self.place(kind), nn.Parameter(parameter))
            self.reset(module, kind)
        else:
            module.register_buffer(self.place(kind), torch.zeros(1, dtype=torch.int32, device=device))
            self.move(module, kind, kind.schedule(0.0))

    def place(self, kind: Fixed | Learned | Scheduled) -> str:
        """The name of the parameter or buffer that holds the coefficient; empty if the kind itself does."""
        if isinstance(kind, Scheduled):
            return self._bits
        if isinstance(kind, Learned):
            return self._raw if self.is_raw(kind) else self.name
        return self.name if isinstance(kind.value, tuple) else ""

    def is_raw(self, kind: Learned) -> bool:
        """Whether the parameter is the unconstrained number behind the value, rather than the value itself."""
        return kind.constrain and self.domain.low is not None

    def read(self, module: nn.Module, kind: Fixed | Learned | Scheduled) -> float | Tensor:
        """The value now: a float, or a tensor of shape (1,) or (C,)."""
        if isinstance(kind, Learned):
            raw = self.is_raw(kind)
            place = self._raw if raw else self.name
            # The dictionary first, for speed. Sharding and parametrisation leave an attribute in a parameter's place.
            parameter = module._parameters.get(place)
            if parameter is None:
                parameter = getattr(module, place)
            return self.domain.constrain(parameter) if raw else parameter
        if isinstance(kind, Scheduled):
            bits: Tensor = module._buffers[self._bits]  # type: ignore[assignment]
            return bits.view(torch.float32)
        if isinstance(kind.value, tuple):
            return module._buffers[self.name]  # type: ignore[return-value]
        return kind.value

    @torch.no_grad()
    def reset(self, module: nn.Module, kind: Fixed | Learned) -> None:
        """Fill the parameter of a learned coefficient, or the buffer of a constant per channel, with its first values."""
        if isinstance(kind, Fixed):
            if isinstance(kind.value, tuple):
                module.get_buffer(self.name).copy_(torch.tensor(kind.value, dtype=torch.float64))
            return
        parameter = module.get_parameter(self.place(kind))
        init = kind.init if isinstance(kind.init, tuple) else (kind.init,)
        raw = [self.domain.unconstrain(v) if self.is_raw(kind) else v for v in init]
        parameter.copy_(torch.tensor(raw, dtype=torch.float64).expand(parameter.shape))

    @torch.no_grad()
    def move(self, module: nn.Module, kind: Scheduled, value: float) -> None:
        """Set a scheduled coefficient, in place."""
        module.get_buffer(self.place(kind)).view(torch.float32).fill_(value)
