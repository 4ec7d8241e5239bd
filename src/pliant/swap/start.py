"""Where a new activation starts: at the function that it replaces, or on a gradual way from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from pliant import catalog
from pliant.activation import Activation
from pliant.activations import PELU, AffineReLU, AReLU, ASigmoid, ATanh, DSReLU, FReLU, PReLU, SReLU, Swish
from pliant.coefficients import Coefficient, Fixed, Learned, Scheduled
from pliant.elementwise import elementwise
from pliant.errors import DomainError
from pliant.swap.errors import SwapError
from pliant.swap.families import family_of_module

__all__ = ["Ramp", "Transition", "finish_", "preserving"]

Values = dict[str, Any]


def _numbers(weight: Tensor) -> float | tuple[float, ...]:
    values = weight.detach().double().reshape(-1).tolist()
    return values[0] if len(values) == 1 else tuple(values)


def _highest(value: float | tuple[float, ...]) -> float:
    return max(value) if isinstance(value, tuple) else value


def _line(slope: float | tuple[float, ...], new: type[Activation]) -> Values | None:
    """x above 0, slope * x below."""
    if new is PReLU:
        return {"weight": slope}
    if new is AReLU and _highest(slope) <= 1:
        return {"a": 1.0, "b": slope, "c": 0.0, "d": 0.0}
    if slope == 0:
        return {
            AffineReLU: {"a": 1.0, "b": 1.0, "c": 0.0, "d": 0.0},
            FReLU: {"b": 0.0},
            SReLU: {"alpha": 1.0, "beta": 0.0},
        }.get(new)
    if slope == 1 and new is DSReLU:
        return {"slope": 1.0}
    return None


def _values(old: Any, new: type[Activation]) -> Values | None:
    """The coefficients at which ``new`` is the function of ``old``; None if there are none."""
    family = family_of_module(old)
    name = "identity" if isinstance(old, nn.Identity) else family.name if family else ""
    if name in ("relu", "leaky_relu", "prelu", "identity"):
        slope = {"relu": 0.0, "identity": 1.0}.get(name)
        if name == "leaky_relu":
            slope = float(old.negative_slope)
        return _line(_numbers(old.weight) if slope is None else slope, new)
    if name in ("elu", "celu", "selu"):
        alpha = {"selu": 1.6732632423543772}.get(name) or float(old.alpha)
        scale = 1.0507009873554805 if name == "selu" else 1.0
        if new is PELU and scale == 1 and alpha >= 0.1 and (name == "celu" or alpha == 1):
            return {"a": alpha, "b": alpha}
        if new is SReLU and (name != "celu" or alpha == 1):
            return {"alpha": scale, "beta": scale * alpha}
        return None
    if name == "silu" and new is Swish:
        return {"beta": 1.0}
    if name == "sigmoid":
        return {ASigmoid: {"a": 1.0, "b": 1.0, "c": 0.0, "d": 0.0}, ATanh: {"a": 0.5, "b": 0.5, "c": 0.0, "d": 0.5}}.get(new)
    if name == "tanh":
        return {ATanh: {"a": 1.0, "b": 1.0, "c": 0.0, "d": 0.0}, ASigmoid: {"a": 2.0, "b": 2.0, "c": 0.0, "d": -1.0}}.get(new)
    return None


def preserving(old: nn.Module | str, new: type[Any], *, channels: int | None = None, channel_dim: int = 1) -> Activation:
    """A new activation that starts as the old function, so that a trained model keeps its outputs.

    AReLU, AffineReLU, PReLU, FReLU and SReLU can start as ReLU; PReLU and AReLU as LeakyReLU and PReLU; PELU and SReLU as ELU,
    PELU as CELU, SReLU as SELU; Swish as SiLU; ASigmoid and ATanh as sigmoid and tanh. Each coefficient keeps the kind that
    the class gives it, learned or fixed, and gets the value that is needed.

    Args:
        old: the activation that is there now, or its name (``"leakyrelu[negative_slope=0.2]"``).
        new: the class that comes.
        channels, channel_dim: as for any activation.

    Raises:
        SwapError: no coefficients make the new class compute the old function. ``Transition`` gets there gradually.
    """
    module = catalog.create(old) if isinstance(old, str) else old
    values = _values(module, new) if isinstance(new, type) and issubclass(new, Activation) else None
    if values is None:
        able = [
            c.__name__ for c in (AReLU, AffineReLU, PReLU, FReLU, SReLU, PELU, Swish, ASigmoid, ATanh) if _values(module, c)
        ]
        title = getattr(new, "__name__", new)
        raise SwapError(
            f"{title} cannot compute {module!r} for any of its coefficients; {', '.join(able) or 'no activation of Pliant'} "
            f"can. To get from the one to the other gradually, use pliant.Transition(old, {title}(), until=0.1)."
        )
    given: dict[str, Any] = {}
    for c in new.coefficients:
        value = values[c.name]
        if isinstance(value, tuple) and channels is None:
            channels = len(value)
        if not isinstance(c.default, Learned):
            given[c.name] = Fixed(value)
        else:
            given[c.name] = Learned(value, constrain=c.default.constrain)
    return new(**given, channels=channels, channel_dim=channel_dim)  # type: ignore[no-any-return]


# --- gradually --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ramp:
    """From 0 at t = 0 in a straight line to 1 at t = ``until``, and 1 from there on."""

    until: float = 1.0

    def __post_init__(self) -> None:
        if not (isinstance(self.until, int | float) and math.isfinite(self.until) and self.until > 0):
            raise DomainError(f"Ramp was given until={self.until!r}; expected a fraction of the training, above 0.")

    def __call__(self, t: float) -> float:
        return min(t / self.until, 1.0)


@elementwise
def share(x: Tensor, weight: float | Tensor = 0.0) -> Tensor:
    """``weight * x``: the part of a difference that counts already. df/dx = weight; df/dweight = x."""
    return weight * x


@final
class Share(Activation):
    """The scheduled weight of a :class:`Transition`, as an activation, so that a Clock finds it.

    Args:
        weight: from 0, all old, to 1, all new.

    Source: none; a part of Transition.
    """

    function = staticmethod(share)
    weight = Coefficient(Scheduled(Ramp()))


class Transition(nn.Module):
    """From an old activation to a new one, little by little: ``old(x) + w * (new(x) - old(x))`` with w from 0 to 1.

    A :class:`pliant.Clock` moves w; without one it stays 0 and the model as it was. At the end :func:`pliant.finish_` leaves
    the new activation alone in its place.

    Args:
        old, new: the two activations; neither in place.
        until: the fraction of the training that the clock counts after which w is 1: ``k / total_steps`` for k steps.
        schedule: a schedule of your own for w instead.

    Shape:
        As the two activations.

    Raises:
        DomainError: ``until`` is not above 0.
    """

    def __init__(self, old: nn.Module, new: nn.Module, until: float = 1.0, *, schedule: Any = None) -> None:
        super().__init__()
        self.old = old
        self.new = new
        self.mix = Share(weight=Scheduled(schedule if schedule is not None else Ramp(until)))

    def forward(self, x: Tensor) -> Tensor:
        """The blend at the current weight."""
        old = self.old(x)
        return torch.add(old, self.mix(self.new(x) - old))

    @property
    def weight(self) -> float:
        """The current weight of the new activation (waits for the device)."""
        return float(self.mix.values()[0])


def finish_(model: nn.Module, *, early: bool = False) -> int:
    """Replace every :class:`Transition` in the model by its new activation, in place.

    Args:
        early: also where the old activation still has a weight; the outputs then jump.

    Returns:
        How many there were.

    Raises:
        SwapError: one of them is not at its end; nothing was changed.
    """
    found = [(m, n, c) for m in model.modules() for n, c in m._modules.items() if isinstance(c, Transition)]
    for _, name, child in found:
        if not early and child.weight != 1.0:
            raise SwapError(
                f"The transition {name!r} is at weight {child.weight:.4g} of 1, and ending it now would make the outputs jump. "
                "Drive it to its end with pliant.Clock, or pass early=True."
            )
    for module, name, child in found:
        for hooks in ("_forward_hooks", "_forward_pre_hooks"):
            child.new.__dict__[hooks] = child.__dict__[hooks] or child.new.__dict__[hooks]
        module._modules[name] = child.new
    return len({id(c) for *_, c in found})
