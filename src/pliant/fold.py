"""Out to production: a copy of a model whose activations are standard torch operations, with its error measured.

Every activation of this package is, at fixed coefficients, a standard function between two affine maps::

    y = offset + scale * core(inner * x + shift)        core: LeakyReLU, ELU, Sigmoid, Tanh, SiLU, identity

so that export, quantisation and inference engines know it. The affine maps can then move into neighbouring layers where that
changes nothing (``absorb``). The rules of this module stand in :data:`RULES`; none uses ``expm1`` or an autograd function,
which the TorchScript exporter cannot write.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.utils import _pytree as pytree

from pliant.activation import Activation
from pliant.activations import (
    PELU,
    AffineReLU,
    AReLU,
    ASigmoid,
    ATanh,
    DSReLU,
    FReLU,
    PReLU,
    SReLU,
    Swish,
)
from pliant.errors import DomainError, PliantError

__all__ = ["Absorb", "Affine", "Blend", "Example", "FoldError", "FoldReport", "FoldedSite", "Gate", "Lines", "fold"]

Absorb = Literal["none", "bias", "full"]
"""What may move into neighbouring layers: nothing, constant offsets, or scales as well."""

Example: TypeAlias = Tensor | tuple[Any, ...] | Mapping[str, Any] | Callable[[nn.Module], Any]
"""An input: one tensor, a tuple of positional arguments, a mapping of keyword arguments, or a function that calls the model."""

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}

# The two lines of an AReLU that are nearly parallel cross far away. Above this growth of the intermediate numbers over the
# coefficients, shifting to the crossing and back would cost more digits than float32 can spare: 16 * 2^-23 = 2e-6.
_GROWTH = 16.0
# LeakyReLU(1e9) times 1e-9 is exact on paper and useless in half precision or int8; mirrored, the slope is below 1.
_STEEPEST = 64.0
# silu(beta x) / beta underflows as beta goes to 0, where x * sigmoid(beta x) does not.
_FLATTEST = 1e-3


class FoldError(PliantError, ValueError):
    """A model that cannot be folded, or whose folded form would differ from it by more than the tolerance."""


# --- the standard modules ---------------------------------------------------------------------------------------------


class _PerChannel(nn.Module):
    """Holds constants, each a Python number or one value per channel, and lines them up with the channels of an input.

    A number stays a Python number: it takes the dtype of whatever it meets, ``.half()`` cannot round it, and exporters write
    it as a constant.
    """

    def __init__(self, constants: dict[str, Tensor], at: _Place) -> None:
        super().__init__()
        # Trailing ones line the channels up for every batch shape. They are in the buffer, so that a trace sees no reshape.
        self.trailing = at.trailing
        self.channel_dim = at.channel_dim
        for name, value in constants.items():
            if value.dim() == 0:
                setattr(self, name, value.item())
            else:
                shaped = value if at.trailing is None else value.reshape([-1] + [1] * at.trailing)
                self.register_buffer(name, shaped.to(dtype=at.dtype, device=at.device))

    def _against(self, value: Any, x: Tensor) -> Any:
        if self.trailing is None and isinstance(value, Tensor):
            return value.reshape([-1] + [1] * (x.dim() - 1 - self.channel_dim % x.dim()))
        return value

    def extra_repr(self) -> str:
        shown = {n: v for n, v in vars(self).items() if isinstance(v, float)} | {
            n: f"({b.numel()} channels)" for n, b in self.named_buffers(recurse=False)
        }
        return ", ".join(f"{n}={v:.6g}" if isinstance(v, float) else f"{n}={v}" for n, v in shown.items())


class Affine(_PerChannel):
    """``scale * x + shift``, elementwise, with constants. Input and output: any shape, any floating-point dtype."""

    scale: float | Tensor
    shift: float | Tensor

    def __init__(self, scale: Tensor, shift: Tensor, at: _Place) -> None:
        super().__init__({"scale": scale, "shift": shift}, at)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if isinstance(self.scale, Tensor) or self.scale != 1.0:
            y = y * self._against(self.scale, x)
        if isinstance(self.shift, Tensor) or self.shift != 0.0:
            y = y + self._against(self.shift, x)
        return y


class Blend(_PerChannel):
    """``w * core(x) + (1 - w) * relu(x)`` with one w per channel, where core(x) = x for x > 0.

    torch's ELU has one slope for all channels and its PReLU knows channels at dimension 1 only; this is both without either
    limit. Input and output: any shape, any floating-point dtype.
    """

    below: float | Tensor
    rest: float | Tensor

    def __init__(self, core: nn.Module, weight: Tensor, at: _Place) -> None:
        super().__init__({"below": weight, "rest": 1 - weight}, at)
        self.core = core

    def forward(self, x: Tensor) -> Tensor:
        return self.core(x) * self._against(self.below, x) + torch.relu(x) * self._against(self.rest, x)  # type: ignore[no-any-return]


class Gate(_PerChannel):
    """``x * sigmoid(beta * x)``, elementwise. Input and output: any shape, any floating-point dtype."""

    beta: float | Tensor

    def __init__(self, beta: Tensor, at: _Place) -> None:
        super().__init__({"beta": beta}, at)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x * self._against(self.beta, x))


class Lines(_PerChannel):
    """The larger of two lines, as ``b * x + d + relu((a - b) * x + (c - d))``, elementwise.

    Written without ``maximum``, for which ONNX Runtime has no int8 kernel. Input and output: any shape, any floating-point
    dtype.
    """

    slope: float | Tensor
    offset: float | Tensor
    steeper: float | Tensor
    higher: float | Tensor

    def __init__(self, a: Tensor, b: Tensor, c: Tensor, d: Tensor, at: _Place) -> None:
        constants = {"slope": b, "offset": d, "steeper": a - b, "higher": c - d}
        super().__init__({n: _collapse(v) for n, v in constants.items()}, at)

    def forward(self, x: Tensor) -> Tensor:
        slope, offset, steeper, higher = (self._against(v, x) for v in (self.slope, self.offset, self.steeper, self.higher))
        y: Tensor = x * slope + offset + torch.relu(x * steeper + higher)
        return y


# --- the rules --------------------------------------------------------------------------------------------------------


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


@dataclass(frozen=True)
class _Form:
    """``offset + scale * core(inner * x + shift)``; float64 on the CPU, of shape () or, per channel, (C,)."""

    core: Literal["identity", "leaky", "elu", "sigmoid", "tanh", "silu"]
    slope: Tensor = field(default_factory=lambda: _number(1.0))
    """Of LeakyReLU below 0, or the alpha of ELU."""
    inner: Tensor = field(default_factory=lambda: _number(1.0))
    shift: Tensor = field(default_factory=lambda: _number(0.0))
    scale: Tensor = field(default_factory=lambda: _number(1.0))
    offset: Tensor = field(default_factory=lambda: _number(0.0))

    def simplest(self) -> _Form:
        """The same function with one value where all channels agree, and as an affine map if it is one."""
        form = _Form(self.core, *(_collapse(v) for v in (self.slope, self.inner, self.shift, self.scale, self.offset)))
        if form.core == "leaky" and bool((form.slope == 1).all()):
            form = replace(form, core="identity")
        if form.core == "elu" and bool((form.slope == 0).all()):
            form = replace(form, core="leaky")
        if bool((form.scale == 0).all()):
            form = replace(form, core="identity")
        if form.core == "identity":
            # Everything on one side, so that there is one affine map to write or to move.
            scale, offset = form.scale * form.inner, form.scale * form.shift + form.offset
            form = _Form("identity", scale=_collapse(scale), offset=_collapse(offset))
        return form

    @property
    def kinks(self) -> Tensor:
        """Where the core changes branch, one per channel; the points at which a wrong rule shows first."""
        return torch.where(self.inner == 0, 0.0, -self.shift / torch.where(self.inner == 0, 1.0, self.inner)).reshape(-1)


def _collapse(value: Tensor) -> Tensor:
    return value.reshape(-1)[0] if value.dim() == 1 and bool((value == value[0]).all()) else value


@dataclass(frozen=True)
class _Special:
    """A module that is no core between two affine maps; nothing of it can be absorbed."""

    build: Callable[[_Place], nn.Module]


def _dsrelu(slope: Tensor) -> _Form:
    return _Form("leaky", slope=1 / slope, scale=slope)


def _srelu(alpha: Tensor, beta: Tensor) -> _Form:
    return _Form("elu", slope=beta / alpha, scale=alpha)


def _arelu(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> _Form | _Special:
    # To the right of the crossing the steeper line is the larger one.
    first = a >= b
    high, low = torch.where(first, a, b), torch.where(first, b, a)
    parallel = high == low
    crossing = torch.where(first, d - c, c - d) / torch.where(parallel, 1.0, high - low)
    level = high * crossing + torch.where(first, c, d)
    zero, one = torch.zeros_like(level), torch.ones_like(level)
    crossing, level = torch.where(parallel, zero, crossing), torch.where(parallel, torch.maximum(c, d), level)
    reach = torch.maximum(torch.maximum(high.abs(), low.abs()) * crossing.abs(), level.abs())
    if bool((reach > _GROWTH * torch.maximum(c.abs(), d.abs()).clamp(min=1.0)).any()):
        return _Special(lambda at: Lines(a, b, c, d, at))
    # With u = x - crossing: high * leaky(u, low / high), or mirrored, -low * leaky(-u, high / low). Both hold for every sign
    # of high and low, because the branch is chosen by the sign of u alone; each needs its divisor to be other than 0.
    mirrored = ~parallel & (low.abs() > _STEEPEST * high.abs())
    sign = torch.where(mirrored, -one, one)
    divisor = torch.where(mirrored, low, torch.where(high == 0, one, high))
    slope = torch.where(parallel, one, torch.where(mirrored, high, low) / divisor)
    scale = torch.where(mirrored, -low, high)
    return _Form("leaky", slope=slope, inner=sign, shift=-sign * crossing, scale=scale, offset=level)


def _affine_relu(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> _Form:
    flat = a == 0
    width = torch.where(flat, 1.0, a.abs())
    scale = torch.where(flat, 0.0, b * width)
    offset = d + torch.where(flat, b * torch.relu(c), 0.0)
    return _Form(
        "leaky", _number(0.0), torch.where(a < 0, -1.0, 1.0).double(), torch.where(flat, 0.0, c / width), scale, offset
    )


def _pelu(a: Tensor, b: Tensor) -> _Form:
    if not bool((b > 0).all()):
        raise FoldError(
            f"its b is {b.min().item():.6g}. For b <= 0 the function grows like an exponential below 0 and has no standard "
            "form; train it with the constrained b (the default), which stays above 0.1."
        )
    return _Form("elu", inner=1 / b, scale=a)


def _swish(beta: Tensor) -> _Form | _Special:
    if bool((beta == 0).all()):
        return _Form("identity", scale=_number(0.5))
    if bool((beta.abs() < _FLATTEST).any()):
        return _Special(lambda at: Gate(_collapse(beta), at))
    return _Form("silu", inner=beta, scale=1 / beta)


RULES: dict[type[Activation], Callable[..., _Form | _Special]] = {
    DSReLU: _dsrelu,
    SReLU: _srelu,
    AReLU: _arelu,
    ASigmoid: lambda a, b, c, d: _Form("sigmoid", inner=a, shift=c, scale=b, offset=d),
    ATanh: lambda a, b, c, d: _Form("tanh", inner=a, shift=c, scale=b, offset=d),
    AffineReLU: _affine_relu,
    PReLU: lambda weight: _Form("leaky", slope=weight),
    Swish: _swish,
    PELU: _pelu,
    FReLU: lambda b: _Form("leaky", slope=_number(0.0), offset=b),
}
"""For each activation, its form as a function of its coefficients, given as float64 tensors of shape () or (C,)."""


def _values(act: Activation) -> list[Tensor]:
    wide = [torch.as_tensor(v, dtype=torch.float64).detach().cpu() for v in act.values()]
    return [_collapse(v) for v in wide]


# --- building ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """What the constants of a site need to know of its input."""

    channel_dim: int = 1
    rank: int | None = None
    """Dimensions of the input; None if it has not one number of them, or was not reached."""
    dtype: torch.dtype = torch.float64
    device: torch.device | str = "cpu"

    @property
    def trailing(self) -> int | None:
        """Dimensions after the channels; None if that depends on the input."""
        if self.channel_dim < 0:
            return -self.channel_dim - 1
        return None if self.rank is None else self.rank - 1 - self.channel_dim

    @property
    def second(self) -> bool:
        """Whether the channels are at dimension 1, where torch's PReLU has them."""
        return (self.channel_dim if self.rank is None else self.channel_dim % self.rank) == 1


def _trivial(scale: Tensor, shift: Tensor) -> bool:
    return scale.dim() == 0 and shift.dim() == 0 and scale.item() == 1 and shift.item() == 0


def _core(form: _Form, at: _Place) -> nn.Module:
    slope = form.slope
    if form.core == "leaky":
        if slope.dim() == 0:
            return nn.ReLU() if slope.item() == 0 else nn.LeakyReLU(slope.item())
        if not at.second:
            return Blend(nn.Identity(), slope, at)
        prelu = nn.PReLU(slope.numel(), device=at.device, dtype=at.dtype)
        prelu.weight = nn.Parameter(slope.to(prelu.weight), requires_grad=False)
        return prelu
    if form.core == "elu":
        return nn.ELU(slope.item()) if slope.dim() == 0 else Blend(nn.ELU(), slope, at)
    return {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "silu": nn.SiLU}[form.core]()


def _build(form: _Form | _Special, at: _Place) -> nn.Module:
    """The form as standard modules, in eval mode."""
    if isinstance(form, _Special):
        return form.build(at).eval()
    steps: list[nn.Module] = []
    if form.core != "identity":
        if not _trivial(form.inner, form.shift):
            steps.append(Affine(form.inner, form.shift, at))
        steps.append(_core(form, at))
    if not _trivial(form.scale, form.offset):
        steps.append(Affine(form.scale, form.offset, at))
    if not steps:
        return nn.Identity().eval()
    return (steps[0] if len(steps) == 1 else nn.Sequential(*steps)).eval()


# --- what is reported -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FoldedSite:
    """One activation and what became of it."""

    name: str
    """Its qualified name; the first one if the module has several."""
    was: str
    becomes: str
    error: float
    """Largest difference of the function itself from the standard form before anything is absorbed, over a grid, in float64;
    relative to the output where that is above 1."""
    calls: int
    """How often the example ran it; 0 for one that runs in training only, which then was checked by itself alone."""
    absorbed: tuple[str, ...] = ()
    """What moved where."""
    kept: str = ""
    """Why something that was asked for did not move; empty if all of it did, or nothing was asked for."""


@dataclass(frozen=True)
class FoldReport:
    """What :func:`fold` did and how far the result is from the model. Printable; ``len`` is the number of sites."""

    absorb: Absorb
    sites: tuple[FoldedSite, ...]
    max_error: float
    """Largest absolute difference of the folded model's outputs from the model's over the example, in the model's dtype."""
    max_output: float
    """Largest absolute output of the model over the example; errors are judged relative to it where it is above 1."""
    exact_error: float | None
    """The same difference with model, example and folding all in float64, which shows that the rules hold exactly and that
    ``max_error`` is rounding; None if the model does not run in float64."""
    tolerance: float

    @property
    def relative_error(self) -> float:
        """``max_error`` over ``max_output``, or over 1 if that is larger; what the tolerance bounds."""
        return self.max_error / max(1.0, self.max_output)

    def __len__(self) -> int:
        return len(self.sites)

    def __str__(self) -> str:
        exact = "does not run in float64" if self.exact_error is None else f"{self.exact_error:.2g} in float64"
        lines = [
            f"{len(self)} activation{'' if len(self) == 1 else 's'} folded, absorb={self.absorb!r}: max error "
            f"{self.max_error:.2g} on outputs up to {self.max_output:.4g} ({exact}); tolerance {self.tolerance:g}"
        ]
        for site in self.sites:
            lines.append(f"  {site.name or '(the model)'}: {site.was} -> {site.becomes}")
            lines += [f"      {note}" for note in site.absorbed]
            lines += [f"      kept: {site.kept}"] if site.kept else []
            lines += ["      not reached by the example; checked by itself alone"] if not site.calls else []
        return "\n".join(lines)


def _describe(module: nn.Module) -> str:
    if type(module) is nn.Sequential:
        return " > ".join(_describe(m) for m in module)
    return f"{type(module).__name__}({', '.join(module.extra_repr().splitlines())})"


# --- running ----------------------------------------------------------------------------------------------------------


def _run(model: nn.Module, example: Example, dtype: torch.dtype | None = None) -> list[Tensor]:
    """The floating-point outputs, flat. Inputs are copied, since models may write into them, and random numbers repeat."""

    def prepared(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.clone() if dtype is None or not value.is_floating_point() else value.to(dtype)

    arguments = example if callable(example) and not isinstance(example, Tensor) else pytree.tree_map(prepared, example)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if isinstance(arguments, tuple):
            output = model(*arguments)
        elif isinstance(arguments, Mapping):
            output = model(**arguments)
        else:
            output = model(arguments) if isinstance(arguments, Tensor) else arguments(model)
    leaves, seen = [], pytree.tree_leaves(output)
    for leaf in seen:
        # Outputs that are objects of some class of the model's own.
        leaves += list(vars(leaf).values()) if hasattr(leaf, "__dict__") and not isinstance(leaf, Tensor) else [leaf]
    tensors = [v.detach() for v in leaves if isinstance(v, Tensor) and v.is_floating_point()]
    if not tensors:
        raise FoldError(
            "The model gave no floating-point tensor for the example, so the folded model cannot be compared with it. Give an "
            "example, or a function of the model, that returns one."
        )
    return tensors


def _distance(got: list[Tensor], expected: list[Tensor]) -> tuple[float, float]:
    """Largest absolute difference and largest absolute expected value; the difference is infinite if shapes or NaNs differ."""
    if [t.shape for t in got] != [t.shape for t in expected]:
        return float("inf"), 1.0
    error = size = 0.0
    for g, e in zip(got, expected, strict=True):
        if e.numel():
            size = max(size, e.abs().max().double().item())
            difference = (g.double() - e.double()).abs().max().item()
            error = max(error, difference if difference == difference else float("inf"))
    return error, size


@dataclass
class _Seen:
    """What one run with the example showed of a module."""

    calls: int = 0
    ranks: set[int] = field(default_factory=set)
    dtype: torch.dtype | None = None
    device: torch.device | None = None
    low: float = 0.0
    high: float = 0.0


def _watch(model: nn.Module, example: Example) -> tuple[list[Tensor], dict[nn.Module, _Seen]]:
    seen: dict[nn.Module, _Seen] = {}

    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        one = seen.setdefault(module, _Seen())
        one.calls += 1
        x = next((v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)), None)
        if isinstance(module, Activation) and x is not None and x.is_floating_point():
            one.ranks.add(x.dim())
            one.dtype, one.device = x.dtype, x.device
            if x.numel():
                one.low, one.high = min(one.low, x.min().item()), max(one.high, x.max().item())

    handles = [m.register_forward_pre_hook(look, with_kwargs=True) for m in model.modules()]
    try:
        return _run(model, example), seen
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class _Request:
    """What the user asked for."""

    absorb: Absorb
    rules: Mapping[type[Activation], Callable[[Any], nn.Module]]
    tolerance: float | None


# --- one site ---------------------------------------------------------------------------------------------------------


@dataclass
class _Site:
    """An activation of the copy, on its way to a standard module."""

    act: Activation
    names: list[str]
    seen: _Seen
    form: _Form | _Special
    custom: nn.Module | None = None
    error: float = 0.0
    absorbed: list[str] = field(default_factory=list)
    kept: str = ""

    def place(self, dtype: torch.dtype | None = None) -> _Place:
        """Where the constants go; in ``dtype`` on the CPU if one is given."""
        rank = next(iter(self.seen.ranks)) if len(self.seen.ranks) == 1 else None
        if dtype is not None:
            return _Place(self.act.channel_dim, rank, dtype)
        held = next((t for t in (*self.act.parameters(), *self.act.buffers()) if t.is_floating_point()), None)
        device = self.seen.device or (held.device if held is not None else torch.device("cpu"))
        fallback = held.dtype if held is not None else torch.get_default_dtype()
        return _Place(self.act.channel_dim, rank, self.seen.dtype or fallback, device)


def _grid(site: _Site) -> Tensor:
    """float64 inputs for one site: a range, what the example showed, and both sides of every kink; channels in their place."""
    ends = [v for v in (site.seen.low, site.seen.high) if abs(v) < 1e6]
    points = [torch.linspace(-8, 8, 321, dtype=torch.float64), torch.tensor(ends, dtype=torch.float64)]
    if isinstance(site.form, _Form):
        kinks = site.form.kinks
        points += [kinks, kinks - 1e-3, kinks + 1e-3]
    grid = torch.cat(points)
    channels = max(v.numel() for v in (torch.zeros(1), *_values(site.act)))
    if channels == 1:
        return grid
    dim = site.act.channel_dim
    rank = next(iter(site.seen.ranks)) if len(site.seen.ranks) == 1 else max(2, dim + 1 if dim >= 0 else -dim)
    dim %= rank
    shape = [1] * rank
    shape[dim] = channels
    along = next((i for i in range(rank) if i != dim), None)
    if along is None:
        return torch.zeros(channels, dtype=torch.float64)
    shape[along] = grid.numel()
    view = [1] * rank
    view[along] = grid.numel()
    return grid.reshape(view).expand(shape).clone()


def _check(site: _Site, tolerance: float) -> None:
    """Compare the standard form with the activation's own function, in float64, before anything is absorbed."""
    name, act = site.names[0], site.act
    x = _grid(site)
    with torch.no_grad():
        built = copy.deepcopy(site.custom).cpu().double() if site.custom else _build(site.form, site.place(torch.float64))
        expected = type(act).function(x, *_values(act), channel_dim=act.channel_dim)
        got = built(x)
    if got.shape != expected.shape:
        raise FoldError(f"The rule for {type(act).__name__} gave a module that changes shapes, at {name!r}; it must not.")
    excess = (got - expected).abs() / expected.abs().clamp(min=1.0)
    at = int(excess.nan_to_num(nan=float("inf")).argmax())
    site.error = excess.reshape(-1)[at].item()
    if not site.error <= tolerance:
        raise FoldError(
            f"The standard form of {name!r}, {_describe(built)}, is not {act!r}: it gives {got.reshape(-1)[at].item():.6g} at "
            f"x = {x.reshape(-1)[at].item():.6g}, where {expected.reshape(-1)[at].item():.6g} is right. "
            + ("Mend the rule that was given." if site.custom else "This is a mistake in Pliant; please report it.")
        )


def _names(model: nn.Module) -> dict[nn.Module, list[str]]:
    found: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        found.setdefault(module, []).append(name)
    return found


def _sites(model: nn.Module, seen: dict[nn.Module, _Seen], request: _Request) -> list[_Site]:
    rules = request.rules
    sites = []
    for act, names in _names(model).items():
        if not isinstance(act, Activation):
            continue
        # Parametrised and sharded activations are subclasses that torch made.
        own = next((c for c in type(act).__mro__ if c in rules or c in RULES), None)
        if own is None:
            raise FoldError(
                f"{names[0]!r} is a {type(act).__name__}, for which there is no rule. Give one that makes a module of standard "
                f"operations from it: fold(..., rules={{{type(act).__name__}: lambda act: ...}})."
            )
        site = _Site(act, names, seen.get(act, _Seen()), _Form("identity"))
        if own in rules:
            site.custom = rules[own](act)
            if not isinstance(site.custom, nn.Module) or isinstance(site.custom, Activation):
                raise DomainError(
                    f"The rule for {own.__name__} gave {site.custom!r}; it must give a module of standard operations."
                )
            place = site.place()
            site.custom.to(dtype=place.dtype, device=place.device).eval()
        else:
            if not all(bool(v.isfinite().all()) for v in _values(act)):
                raise FoldError(f"{names[0]!r} cannot be folded: {act!r} holds a coefficient that is not finite.")
            try:
                form = RULES[own](*_values(act))
            except FoldError as error:
                raise FoldError(f"{names[0]!r} cannot be folded: {error}") from None
            site.form = form.simplest() if isinstance(form, _Form) else form
        # A rule of the user's own may approximate, as far as the tolerance goes; ours may not.
        _check(site, (request.tolerance or _TOLERANCE[torch.float32]) if site.custom else _TOLERANCE[torch.float64])
        sites.append(site)
    return sites


# --- absorbing --------------------------------------------------------------------------------------------------------

_CONV: dict[type[nn.Module], int] = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_SAME = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_MAX = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)
_AVERAGE = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_MEAN = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
_FUNCTIONS_MEAN = (
    nn.functional.adaptive_avg_pool1d,
    nn.functional.adaptive_avg_pool2d,
    nn.functional.adaptive_avg_pool3d,
)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Activation) or super().is_leaf_module(m, module_qualified_name)


@dataclass
class _Part:
    """A traced module of the model."""

    prefix: str
    graph: fx.Graph

    def name(self, node: fx.Node) -> str:
        return f"{self.prefix}.{node.target}" if self.prefix else str(node.target)


def _parts(model: nn.Module) -> tuple[list[_Part], str]:
    """The graphs of the model, or of the largest parts of it that can be traced; and why not all of it, if so."""
    # Tracing runs the model's own code, which may leave things behind; so it runs on a copy, which shares the tensors.
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    scratch = copy.deepcopy(model, tensors)
    parts: list[_Part] = []
    reason = ""

    def trace(module: nn.Module, prefix: str) -> None:
        nonlocal reason
        if isinstance(module, Activation) or not any(isinstance(m, Activation) for m in module.modules()):
            return
        try:
            if isinstance(module, nn.ModuleList | nn.ModuleDict):
                raise TypeError("a list of modules is not called")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                parts.append(_Part(prefix, _Tracer().trace(module)))
        except Exception as error:
            # fx meets arbitrary code, so the error can be of any kind. What cannot be traced stays as it is.
            reason = (
                reason
                or f"{type(module).__name__} cannot be traced: {(str(error).strip() or type(error).__name__).splitlines()[0]}"
            )
            for name, child in module.named_children():
                trace(child, f"{prefix}.{name}" if prefix else name)

    trace(scratch, "")
    return parts, reason


def _spread(value: Tensor, weight: Tensor, dim: int) -> Tensor:
    """A constant, () or (C,), in float64 on the weight's device, so that it broadcasts along ``dim`` of the weight."""
    value = value.to(weight.device)
    if value.dim() == 0:
        return value
    shape = [1] * weight.dim()
    shape[dim] = value.numel()
    return value.reshape(shape)


@torch.no_grad()
def _set(module: nn.Module, name: str, value: Tensor, like: Tensor) -> None:
    old = module._parameters.get(name)
    value = value.to(dtype=like.dtype, device=like.device)
    setattr(module, name, nn.Parameter(value, requires_grad=like.requires_grad if old is None else old.requires_grad))


def _bias(module: nn.Module, weight: Tensor) -> Tensor:
    """The bias in float64; zeros if there is none."""
    bias: Any = module.bias
    return torch.zeros(weight.shape[0], dtype=torch.float64, device=weight.device) if bias is None else bias.detach().double()


def _after(module: nn.Module, scale: Tensor, shift: Tensor) -> None:
    """Change a Linear, Conv or BatchNorm so that it gives ``scale * output + shift``."""
    weight: Any = module.weight
    w = weight.detach().double()
    b = _bias(module, w)
    _set(module, "weight", w * _spread(scale, w, 0), weight)
    _set(module, "bias", b * _spread(scale, b, 0) + _spread(shift, b, 0), weight)


def _before(module: nn.Module, scale: Tensor, shift: Tensor, repeat: int) -> None:
    """Change a Linear, Conv or BatchNorm so that it gives for ``x`` what it gave for ``scale * x + shift``.

    ``repeat`` is the number of consecutive inputs of a Linear that share a channel, where a flattening lies between.
    """
    weight: Any = module.weight
    w = weight.detach().double()
    if scale.dim() == 1:
        scale = scale.repeat_interleave(repeat)
    if shift.dim() == 1:
        shift = shift.repeat_interleave(repeat)
    if isinstance(module, _NORM):
        b, mean, variance = (t.detach().double() for t in (module.bias, module.running_mean, module.running_var))  # type: ignore[union-attr]
        rate = w / (variance + module.eps).sqrt()
        s, t = _spread(scale, w, 0), _spread(shift, w, 0)
        _set(module, "weight", w * s, weight)
        _set(module, "bias", b + rate * (t + (s - 1) * mean), weight)
        return
    b = _bias(module, w)
    groups = int(getattr(module, "groups", 1))
    # The second dimension of a grouped weight counts inputs within the group of its row.
    full_scale, full_shift = (
        v.to(w.device).expand(w.shape[1] * groups) if v.dim() == 0 else v.to(w.device) for v in (scale, shift)
    )
    by_row = [
        v.reshape(groups, 1, w.shape[1]).expand(groups, w.shape[0] // groups, w.shape[1]).reshape(w.shape[0], w.shape[1])
        for v in (full_scale, full_shift)
    ]
    s, t = (v.reshape(*v.shape, *[1] * (w.dim() - 2)) for v in by_row)
    if not _is(full_scale, 1.0):
        _set(module, "weight", w * s, weight)
    if not _is(full_shift, 0.0):
        _set(module, "bias", b + (w * t).flatten(1).sum(1), weight)


def _is(value: Tensor, number: float) -> bool:
    return bool((value == number).all())


def _pads_with_zeros(module: nn.Module) -> bool:
    if type(module) not in _CONV or module.padding_mode != "zeros":
        return False
    padding: Any = module.padding
    if isinstance(padding, str):
        kernel: Any = module.kernel_size
        return padding == "same" and any(k != 1 for k in kernel)
    return any(p != 0 for p in padding)


class _Absorber:
    """Moves affine maps of sites into neighbouring layers of one copy of a model."""

    def __init__(self, model: nn.Module, sites: list[_Site], seen: dict[nn.Module, _Seen], absorb: Absorb) -> None:
        self._model, self._seen, self._absorb = model, seen, absorb
        self._sites = {site.act: site for site in sites}
        self._named = _names(model)
        held = [p for m in self._named for p in m._parameters.values() if p is not None]
        self._holders = Counter(map(id, held))

    def run(self) -> None:
        parts, reason = _parts(self._model)
        for site in self._sites.values():
            if self._wants(site):
                unseen = "it is not called as a module of its own" if site.seen.calls else "the example does not reach it"
                site.kept = reason or unseen
        for part in parts:
            graph = part.graph
            modules = dict(self._model.named_modules(remove_duplicate=False))
            calls = Counter(modules[part.name(n)] for n in graph.nodes if n.op == "call_module")
            # A layer whose weight the code reads for itself must keep it.
            read = {part.name(n).rpartition(".")[0] for n in graph.nodes if n.op == "get_attr"}
            read_modules = {modules[name] for name in read if name in modules}
            root = modules[part.prefix]
            for node in graph.nodes:
                called = modules[part.name(node)] if node.op == "call_module" else None
                if isinstance(called, Activation) and self._wants(self._sites[called]):
                    free = _Free(self, part, modules, calls, read_modules, root)
                    self._sites[called].kept = ""
                    self._one(self._sites[called], node, free)

    @staticmethod
    def _wants(site: _Site) -> bool:
        form = site.form
        return isinstance(form, _Form) and not (_trivial(form.inner, form.shift) and _trivial(form.scale, form.offset))

    def _one(self, site: _Site, node: fx.Node, free: _Free) -> None:
        if not free.once(site.act):
            site.kept = "the activation is used at several places" if site.seen.calls else "the example does not reach it"
            return
        notes: list[str] = []
        self._into_producer(site, node, free, notes)
        self._into_consumer(site, node, free, notes)
        form = site.form
        assert isinstance(form, _Form)
        left = self._wants(site) if self._absorb == "full" else not (_is(form.shift, 0.0) and _is(form.offset, 0.0))
        site.kept = "; ".join(notes) if left else ""

    def _into_producer(self, site: _Site, node: fx.Node, free: _Free, notes: list[str]) -> None:
        form = site.form
        assert isinstance(form, _Form)
        full = self._absorb == "full"
        if form.core == "identity":
            scale, shift, left = form.scale, form.offset, _Form("identity")
            if not full:
                # y0 + p x: the offset moves as y0 / p, the scale stays.
                if _is(form.offset, 0.0) or bool((form.scale == 0).any()):
                    return
                scale, shift, left = _number(1.0), form.offset / form.scale, replace(form, offset=_number(0.0))
        elif full:
            scale, shift, left = form.inner, form.shift, replace(form, inner=_number(1.0), shift=_number(0.0))
            if form.core == "leaky" and bool((form.scale > 0).all()):
                # p * leaky(u) = leaky(p * u) for p > 0: the producer can take it whatever the output is used for.
                scale, shift = scale * form.scale, shift * form.scale
                left = replace(left, scale=_number(1.0))
        else:
            if _is(form.shift, 0.0) or bool((form.inner == 0).any()):
                return
            scale, shift, left = _number(1.0), form.shift / form.inner, replace(form, shift=_number(0.0))
        if _trivial(scale, shift):
            return
        producer, why = free.producer(node, site, per_channel=scale.dim() + shift.dim() > 0)
        if producer is None:
            notes.append(why)
            return
        _after(producer, scale, shift)
        site.form = left.simplest()
        site.absorbed.append(f"{_what(scale, shift)} into {self._named[producer][0]}")

    def _into_consumer(self, site: _Site, node: fx.Node, free: _Free, notes: list[str]) -> None:
        form = site.form
        assert isinstance(form, _Form)
        scale = form.scale if self._absorb == "full" else _number(1.0)
        if _trivial(scale, form.offset):
            return
        found, why = free.consumer(node, site, form, self._absorb)
        if found is None:
            notes.append(why)
            return
        consumer, repeat, offset_moves = found
        offset = form.offset
        if offset_moves or _is(offset, 0.0):
            left = replace(form, offset=_number(0.0))
        elif self._absorb == "full" and not bool((scale == 0).any()) and not _is(scale, 1.0):
            # The scale alone: p h + y0 = p (h + y0 / p).
            left, offset = replace(form, offset=offset / scale), _number(0.0)
            notes.append(why)
        else:
            notes.append(why)
            return
        if self._absorb == "full":
            left = replace(left, scale=_number(1.0))
        _before(consumer, scale, offset, repeat)
        site.form = left.simplest()
        site.absorbed.append(f"{_what(scale, offset)} into {self._named[consumer][0]}")


def _shown(value: Tensor) -> str:
    return f"{value.item():.6g}" if value.dim() == 0 else f"({value.numel()} channels)"


def _what(scale: Tensor, shift: Tensor) -> str:
    parts = [f"scale {_shown(scale)}"] if not _is(scale, 1.0) else []
    parts += [f"offset {_shown(shift)}"] if not _is(shift, 0.0) else []
    return " and ".join(parts)


@dataclass
class _Free:
    """Answers which layers of a traced part may be changed for a site."""

    owner: _Absorber
    part: _Part
    modules: dict[str, nn.Module]
    calls: Counter[nn.Module]
    read: set[nn.Module]
    root: nn.Module

    def module(self, node: fx.Node) -> nn.Module | None:
        return self.modules[self.part.name(node)] if node.op == "call_module" else None

    def once(self, module: nn.Module) -> bool:
        """Whether the trace's one call is every call: none elsewhere in the model, by the trace or by the example."""
        seen = self.owner._seen
        ran, root = seen.get(module, _Seen()).calls, seen.get(self.root, _Seen()).calls
        return self.calls[module] == 1 and len(self.owner._named[module]) == 1 and ran == root > 0

    def changeable(self, module: nn.Module) -> str:
        """Why the parameters of a layer cannot be changed; empty if they can."""
        name = self.owner._named[module][0]
        if type(module) not in (*_CONV, *_NORM, nn.Linear):
            return f"{name!r} is a {type(module).__name__}"
        if isinstance(module, _NORM) and (module.weight is None or module.running_mean is None):
            return f"{name!r} has no weight or no running mean"
        if not self.once(module):
            return f"{name!r} is used at several places"
        parameters = [module._parameters.get("weight"), module._parameters.get("bias")]
        if parameters[0] is None or any(self.owner._holders[id(p)] > 1 for p in parameters if p is not None):
            return f"the weights of {name!r} are shared or computed"
        if module in self.read or module._forward_hooks or module._forward_pre_hooks:
            return f"{name!r} has hooks, or its weight is read by other code"
        return ""

    def producer(self, node: fx.Node, site: _Site, per_channel: bool) -> tuple[nn.Module | None, str]:
        """The layer whose output is the activation's input, alone."""
        at = node.args[0] if len(node.args) == 1 and not node.kwargs else None
        while isinstance(at, fx.Node):
            if len(at.users) != 1:
                return None, "its input is used elsewhere too"
            module = self.module(at)
            if module is not None and type(module) in _SAME and self.once(module):
                at = at.args[0] if len(at.args) == 1 else None
                continue
            if module is None:
                return None, f"no layer in front of it, but {at.op.removeprefix('call_')} {_target(at)!r}"
            if why := self.changeable(module):
                return None, why
            if per_channel and not self._aligned(site, module):
                return None, f"its channels are not the outputs of {self.owner._named[module][0]!r}"
            return module, ""
        return None, "its input is not a single earlier result"

    def _aligned(self, site: _Site, layer: nn.Module) -> bool:
        """Whether the activation's channels are the channel dimension of an adjacent layer, for inputs of the rank seen."""
        if len(site.seen.ranks) != 1:
            return False
        rank = next(iter(site.seen.ranks))
        dim = site.act.channel_dim % rank
        if type(layer) is nn.Linear:
            return dim == rank - 1
        return dim == (rank - 1 - _CONV[type(layer)] if type(layer) in _CONV else 1)

    def consumer(
        self, node: fx.Node, site: _Site, form: _Form, absorb: Absorb
    ) -> tuple[tuple[nn.Module, int, bool] | None, str]:
        """The one layer that uses the output: the layer, inputs a channel, and whether an offset can move into it.

        Second, why there is none, or why the offset cannot move.
        """
        per_channel = form.offset.dim() > 0 or (absorb == "full" and form.scale.dim() > 0)
        positive = absorb == "bias" or bool((form.scale > 0).all())
        at, flattened, offset_moves, why = node, False, True, ""
        while True:
            if len(at.users) != 1:
                return None, "its output is used at several places, as in a residual branch" if at.users else "nothing uses it"
            (user,) = at.users
            if user.op == "output":
                return None, "its output is an output of the traced part"
            if not user.args or user.args[0] is not at or any(a is at for a in (*user.args[1:], *user.kwargs.values())):
                return None, f"its output goes into {user.op.removeprefix('call_')} {_target(user)!r}"
            module = self.module(user)
            if self._commutes(user, module):
                pass
            elif module is not None and type(module) in _MAX and not module.return_indices:
                # The maximum commutes with an offset, and with a scale above 0; its padding never wins.
                if not positive:
                    return None, "a negative scale cannot move across a maximum"
            elif self._flattens(user, module):
                flattened = True
            elif module is not None and not (problem := self.changeable(module)):
                if _pads_with_zeros(module):
                    offset_moves = False
                    why = f"an offset cannot move across the zero padding of {self.owner._named[module][0]!r}"
                repeat = self._repeat(site, module, form, flattened) if per_channel else 1
                if repeat == 0:
                    return None, f"its channels are not the inputs of {self.owner._named[module][0]!r}"
                return (module, repeat, offset_moves), why
            else:
                return None, problem if module is not None else f"its output goes into {_target(user)!r}"
            at = user

    def _repeat(self, site: _Site, layer: nn.Module, form: _Form, flattened: bool) -> int:
        """Consecutive inputs of the layer that share a channel; 0 if the channels are not its inputs."""
        if not flattened:
            return int(self._aligned(site, layer))
        channels = max(form.scale.numel(), form.offset.numel())
        at_one = len(site.seen.ranks) == 1 and site.act.channel_dim % next(iter(site.seen.ranks)) == 1
        if type(layer) is not nn.Linear or not at_one or layer.in_features % channels:
            return 0
        return layer.in_features // channels

    @staticmethod
    def _commutes(node: fx.Node, module: nn.Module | None) -> bool:
        """Whether a node lets every affine map pass that is the same for all positions of a channel: identity or a mean."""
        if module is None:
            return node.op == "call_function" and node.target in _FUNCTIONS_MEAN
        if type(module) in _AVERAGE:
            padding: Any = module.padding
            whole = all(p == 0 for p in padding) if isinstance(padding, tuple) else padding == 0
            return whole and not module.ceil_mode and getattr(module, "divisor_override", None) is None
        return type(module) in (*_SAME, *_MEAN)

    @staticmethod
    def _flattens(node: fx.Node, module: nn.Module | None) -> bool:
        """Whether a node joins everything after the batch dimension."""
        if module is not None:
            return type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1)
        if node.target is torch.flatten or (node.op == "call_method" and node.target == "flatten"):
            return not node.kwargs and node.args[1:] in ((1,), (1, -1))
        return False


def _target(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


# --- all together -----------------------------------------------------------------------------------------------------


def _replace_module(model: nn.Module, names: list[str], new: nn.Module) -> nn.Module:
    for name in names:
        if not name:
            return new
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, new)
    return model


def _convert(model: nn.Module, example: Example, request: _Request) -> tuple[nn.Module, list[FoldedSite], float, float]:
    """Fold ``model``, which is a copy in eval mode, in place. Also what became of each site, the error and the output size."""
    expected, seen = _watch(model, example)
    if not all(bool(t.isfinite().all()) for t in expected):
        raise FoldError(
            "The model's own output for the example is not finite, so nothing can be compared with it. Give another example, "
            "or look at the model first."
        )
    sites = _sites(model, seen, request)
    if request.absorb != "none":
        _Absorber(model, sites, seen, request.absorb).run()
    folded, rows = model, []
    for site in sites:
        shown = zip(site.act.kinds, _values(site.act), strict=True)
        was = f"{type(site.act).__name__}({', '.join(f'{n}={_shown(v)}' for n, v in shown)})"
        new = site.custom or _build(site.form, site.place())
        folded = _replace_module(folded, site.names, new)
        row = FoldedSite(site.names[0], was, _describe(new), site.error, site.seen.calls, tuple(site.absorbed), site.kept)
        rows.append(row)
    try:
        got = _run(folded, example)
    except Exception as error:
        raise FoldError(
            f"The model runs and its folded form does not ({type(error).__name__}: {error}). Code that reads an activation's "
            "coefficients, or asks for its class, cannot be folded."
        ) from error
    distance, size = _distance(got, expected)
    return folded, rows, distance, size


def fold(
    model: nn.Module,
    example: Example,
    absorb: Absorb = "none",
    *,
    tolerance: float | None = None,
    rules: Mapping[type[Activation], Callable[[Any], nn.Module]] | None = None,
) -> nn.Module:
    """A copy of ``model`` in eval mode, in which every Pliant activation is made of standard torch operations.

    ::

        deployed = pliant.fold(model, example=x)
        print(deployed.fold_report)
        torch.onnx.export(deployed, (x,), "model.onnx", dynamo=True)

    Coefficients become constants: learned ones at their value, scheduled ones where they are now. The model itself is not
    touched. Class, other modules, device, dtypes and checkpoint keys of the other modules stay; a :class:`pliant.Clock` on the
    result has nothing to move. An activation called in several places becomes one module in the same places.

    ``absorb`` moves the constants around the standard function into the neighbouring layers, where that is exact:

    * ``"none"``: the weights of the model stay as they are.
    * ``"bias"``: offsets move into the bias of the layer in front or of the layer behind.
    * ``"full"``: scales as well, into the weights.

    The layers are Linear, Conv and BatchNorm, found by torch.fx; between activation and layer there may be dropout, pooling and
    flattening. An offset stays where it is in front of a convolution that pads with zeros. Nothing moves if the layer or the
    activation is called more than once, shares its weights, or has another user between, such as a residual addition. Where
    ``torch.fx`` cannot follow the model, activations stay as with ``"none"``. The report says what moved where, and why not.

    Args:
        model: any module that is no lazy, scripted or compiled one; may itself be an activation.
        example: what the model is run on to measure the error; see :data:`Example`. As in deployment, in shape and range.
        absorb: see above.
        tolerance: the largest error allowed, relative to the largest output where that is above 1. By default 1e-5 in float32,
            1e-9 in float64, 2e-2 in float16 and 1e-1 in bfloat16, by the first floating-point output.
        rules: for activations of your own, by class: a function from the activation to a module of standard operations.

    Returns:
        The folded copy. Its attribute ``fold_report`` is the :class:`FoldReport`.

    Raises:
        TypeError: ``model`` is no module.
        DomainError: an unknown ``absorb``; an example of an unknown kind; a tolerance that is not above 0.
        FoldError: a lazy, scripted or compiled model; an activation without a rule or without a standard form; an output that
            is not finite; an error above the tolerance.
    """
    _require(model, example, absorb, tolerance)
    request = _Request(absorb, {} if rules is None else rules, tolerance)
    with torch.no_grad():
        exact = _exact(model, example, request)
        folded, rows, error, size = _convert(copy.deepcopy(model).eval(), example, request)
        dtype = _run(folded, example)[0].dtype
    allowed = _TOLERANCE.get(dtype, 1e-5) if tolerance is None else tolerance
    report = FoldReport(absorb, tuple(rows), error, size, exact, allowed)
    if exact is not None and not request.rules and not exact <= max(_TOLERANCE[torch.float32], tolerance or 0.0) * size:
        # Not rounding, so the wide tolerance of half precision would hide a fault, and so would outputs far below 1, to which
        # this is relative. The limit is no lower because models may compute parts in float32 whatever they are given.
        raise FoldError(
            f"The folded model differs from the model by {exact:.3g} in float64, on outputs up to {size:.4g}, so folding is "
            "not exact here. Code that for itself reads coefficients, calls an activation's function or uses the weights of a "
            "layer is not followed. absorb='none' leaves the weights alone."
        )
    if not report.relative_error <= allowed:
        raise FoldError(
            f"The folded model would differ from the model by {error:.3g} on outputs up to {size:.4g}, which is more than the "
            f"tolerance {allowed:g}. "
            + (
                f"In float64 it differs by {exact:.2g}, so this is rounding: fold in a wider dtype, or pass a wider "
                "tolerance. On a GPU, TF32 can be the cause; set torch.backends.cudnn.allow_tf32 = False, or fold on the CPU."
                if exact is not None and exact < 0.1 * error
                else "Try absorb='none'; code that reads an activation's coefficients, or calls its function, is not followed."
            )
        )
    folded.fold_report = report  # type: ignore[assignment]
    return folded


def _exact(model: nn.Module, example: Example, request: _Request) -> float | None:
    """The error of folding in float64; None where the model does not run in it."""
    if callable(example) and not isinstance(example, Tensor):
        # Its inputs are its own; they would not be float64.
        return None

    def wide(value: Any) -> Any:
        return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value

    try:
        return _convert(copy.deepcopy(model).double().eval(), pytree.tree_map(wide, example), request)[2]
    except PliantError:
        raise
    except (RuntimeError, TypeError, NotImplementedError):
        # Code that makes float32 tensors of its own, or a device without float64.
        return None


def _require(model: nn.Module, example: Example, absorb: Absorb, tolerance: float | None) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"fold was given {model!r} for the model, but it needs a torch.nn.Module.")
    if absorb not in get_args(Absorb):
        raise DomainError(f"fold was given absorb={absorb!r}; expected 'none', 'bias' or 'full'.")
    if not (isinstance(example, Tensor | tuple | Mapping) or callable(example)):
        raise DomainError(
            f"fold was given an example of type {type(example).__name__}; expected a tensor, a tuple of positional arguments, "
            "a dict of keyword arguments, or a function that calls the model. For a model of one list, pass (the_list,)."
        )
    if tolerance is not None and not tolerance > 0:
        raise DomainError(f"fold was given tolerance={tolerance!r}; expected a number above 0.")
    if isinstance(model, torch.jit.ScriptModule) or hasattr(model, "_orig_mod"):
        raise FoldError(
            f"fold was given a {type(model).__name__}, whose code is already compiled. Fold the model that it was made from "
            "(for torch.compile: model._orig_mod) and compile the result."
        )
    for name, module in model.named_modules():
        if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():  # type: ignore[misc]
            raise FoldError(
                f"{name!r} is a {type(module).__name__} whose size is not known yet. Run the model once, then fold."
            )
