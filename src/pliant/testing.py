"""The contract that every activation owes, as named checks. Pliant's own tests and those of its users call the same ones.

::

    from pliant.testing import assert_contract

    def test_my_activation():
        assert_contract(MyActivation)

Any ``nn.Module`` that maps each element of its input to one element of its output can be checked: Pliant's activations,
torch's own, or somebody else's. What an activation does not have (a schedule, parameters, a pure function) is skipped, with
the reason. Everything runs on the CPU, in float64 where it compares, and needs torch alone. It leaves the random state as it
was; the checks of ``torch.compile`` forget what had been compiled before.
"""

from __future__ import annotations

import copy
import importlib.util
import io
import pickle
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from pliant.activation import Activation
from pliant.clock import Clock
from pliant.coefficients import Learned
from pliant.errors import DomainError, PliantError, unknown

__all__ = ["CHECKS", "Check", "Result", "assert_contract", "check", "find_kinks", "from_file"]

Factory = Callable[[], nn.Module]
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Subject:
    """What a check is given: how to build the activation, and what its author declares about it."""

    factory: Factory
    name: str
    kinks: tuple[float, ...] | None = None
    stochastic: bool = False

    def build(self) -> nn.Module:
        """A new activation, in evaluation mode if it draws random numbers in training."""
        module = self.factory()
        return module.eval() if self.stochastic else module

    def ours(self) -> Activation:
        """A new activation, or a skip unless it is a :class:`pliant.Activation`."""
        module = self.build()
        if not isinstance(module, Activation):
            raise NotOwedError("not a pliant.Activation")
        return module

    def scheduled(self) -> Activation:
        """A new activation, or a skip unless it has a scheduled coefficient."""
        module = self.ours()
        if not module.scheduled:
            raise NotOwedError("has no scheduled coefficient")
        return module


@dataclass(frozen=True)
class Check:
    """One clause of the contract.

    Args:
        name: how results and selections call it.
        doc: what it demands, in a sentence.
        function: raises AssertionError if the demand is not met.
    """

    name: str
    doc: str
    function: Callable[[Subject], None]


@dataclass(frozen=True)
class Result:
    """What came of one check.

    Args:
        check: its name.
        outcome: "passed", "failed" or "skipped".
        message: what is broken, or why the check does not apply; empty if it passed.
    """

    check: str
    outcome: Literal["passed", "failed", "skipped"]
    message: str = ""


class NotOwedError(Exception):
    """Raised by a check that does not apply."""


_checks: list[Check] = []


def _clause(function: Callable[[Subject], None]) -> Callable[[Subject], None]:
    _checks.append(Check(function.__name__, (function.__doc__ or "").partition("\n")[0], function))
    return function


# --- what the checks are made of --------------------------------------------------------------------------------------


def _require(condition: bool, message: str) -> None:
    # Not the assert statement, which python -O leaves out.
    if not condition:
        raise AssertionError(message)


def _require_close(got: Tensor, expected: Tensor, what: str, rtol: float = 1e-6, atol: float = 1e-6) -> None:
    _require(got.shape == expected.shape, f"{what}: the shape is {tuple(got.shape)} instead of {tuple(expected.shape)}")
    got, expected = got.detach().double(), expected.detach().double()
    excess = (got - expected).abs() - (atol + rtol * expected.abs())
    bad = ~(excess <= 0) & ~(got.isnan() & expected.isnan())
    if bad.any():
        i = int(excess.nan_to_num(nan=torch.inf).masked_fill(~bad, -torch.inf).argmax())
        raise AssertionError(
            f"{what}: {int(bad.sum())} of {bad.numel()} values differ, for example {got.flatten()[i]:.9g} instead of "
            f"{expected.flatten()[i]:.9g}"
        )


def _normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return 2 * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


@torch.no_grad()
def _disturb(module: M) -> M:
    """Move every parameter off its initial value, and every schedule off its start, to see whether it is kept."""
    for i, p in enumerate(module.parameters()):
        p.add_(0.05 * (i + 1))
    if isinstance(module, Activation) and module.scheduled:
        module.seek(7, 20, 5)
    return module


def _with_parameters(module: nn.Module, dtype: torch.dtype) -> tuple[Callable[..., Tensor], list[str], list[Tensor]]:
    """The module as a function of its input and its parameters, their names, and their values as leaves."""
    module = copy.deepcopy(module).to(dtype)
    names = [n for n, _ in module.named_parameters()]

    def function(x: Tensor, *parameters: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (x,))
        return result

    return function, names, [p.detach().clone().requires_grad_(True) for p in module.parameters()]


def _with_coefficients(module: Activation, dtype: torch.dtype) -> tuple[Callable[..., Tensor], list[str], list[Tensor]]:
    """The same for the pure function of one of our activations, and all its coefficients, learned or not."""
    values = [torch.as_tensor(v).detach().to(dtype).reshape(1).requires_grad_(True) for v in module.values()]
    return type(module).function, list(module.kinds), values


def _functions(
    module: nn.Module, dtype: torch.dtype = torch.float64
) -> Iterator[tuple[Callable[..., Tensor], list[str], list[Tensor]]]:
    yield _with_parameters(module, dtype)
    if isinstance(module, Activation):
        yield _with_coefficients(module, dtype)


def _gradients(function: Callable[..., Tensor], x: Tensor, values: list[Tensor]) -> list[Tensor | None]:
    """The gradients of the summed output with respect to ``values``; None where there is none."""
    y = function(x, *values)
    if not values or not y.requires_grad:
        return [None] * len(values)
    return list(torch.autograd.grad(y.sum(), values, allow_unused=True))


def _slope(f: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    with torch.enable_grad():
        z = z.detach().requires_grad_(True)
        y = f(z)
        return torch.autograd.grad(y.sum(), z)[0] if y.requires_grad else torch.zeros_like(z)


def find_kinks(f: Callable[[Tensor], Tensor], reach: float = 8.0, cells: int = 2000) -> list[float]:
    """Where the slope on the left of a point differs from the slope on its right.

    Every cell of a grid is halved forty times, each time towards the half over which the slope changes more. Over a cell
    that has become this small a smooth slope does not change any longer; one with a kink still does.
    """
    edges = torch.linspace(-reach, reach, cells + 1, dtype=torch.float64)
    left, right = edges[:-1].clone(), edges[1:].clone()
    at_left, at_right = _slope(f, left), _slope(f, right)
    for _ in range(40):
        middle = (left + right) / 2
        at_middle = _slope(f, middle)
        go_left = (at_middle - at_left).abs() >= (at_right - at_middle).abs()
        right, at_right = torch.where(go_left, middle, right), torch.where(go_left, at_middle, at_right)
        left, at_left = torch.where(go_left, left, middle), torch.where(go_left, at_left, at_middle)
    jumps = (at_right - at_left).abs() > 1e-6 * (1 + at_left.abs() + at_right.abs())
    found: list[float] = []
    for z in right[jumps].tolist():
        if not found or z - found[-1] > 1e-6:
            found.append(z)
    return found


def _require_declared_kinks(subject: Subject, module: nn.Module) -> None:
    if subject.kinks is None:
        return
    for z in find_kinks(copy.deepcopy(module).double()):
        _require(
            any(abs(z - k) < 1e-3 for k in subject.kinks),
            f"there is a kink at z = {round(z, 6) + 0.0:g}, but the declared ones are {sorted(subject.kinks)}",
        )


def _smooth_points(subject: Subject, f: Callable[[Tensor], Tensor], n: int) -> Tensor:
    """Some points away from the kinks, in float64."""
    kinks = [*find_kinks(f), *(subject.kinks or ())]
    points = torch.linspace(-4.1, 4.3, 60 * n, dtype=torch.float64)
    for kink in kinks:
        points = points[(points - kink).abs() > 0.05]
    _require(len(points) >= n, f"there are {len(kinks)} kinks on [-8, 8]: hardly a point is left to compare slopes at")
    return points[torch.linspace(0, len(points) - 1, n).round().long()]


def _compare_slopes(subject: Subject, compare: Callable[..., bool], n: int) -> None:
    for function, names, values in _functions(subject.build()):
        with torch.no_grad():
            for i, value in enumerate(values):
                # Coefficients can lie on a kink as well: at (1, 1, 0, 0) the two lines of AReLU tie everywhere.
                value += 1e-3 * (i + 2) ** 0.5
        z = _smooth_points(subject, lambda x, f=function, v=values: f(x, *v), n)  # type: ignore[misc]
        try:
            compare(function, (z.requires_grad_(True), *values), atol=1e-6, rtol=1e-4)
        except RuntimeError as error:
            text = " ".join(str(error).split())
            wrong = re.search(r"mismatch for output \d+ with respect to input (\d+)", text)
            where = f"the gradient of {['the input', *names][int(wrong[1])]}" if wrong else "the gradient"
            raise AssertionError(f"{where} is not the slope of the function: {text[:300]}") from None


def _values_now(module: Activation) -> dict[str, Tensor]:
    return {n: torch.as_tensor(v).detach().clone() for n, v in zip(module.kinds, module.values(), strict=True)}


def _numbers(module: Activation) -> list[float]:
    return [v.item() if isinstance(v, Tensor) else v for v in module.values()]


def _require_progress(got: Any, expected: Activation, what: str) -> None:
    _require(got.progress.dtype == torch.int64, f"{what}: progress became {got.progress.dtype}; it has to stay int64")
    _require(
        got.progress.tolist() == expected.progress.tolist(),
        f"{what}: progress (step, total, steps per epoch) is {got.progress.tolist()} instead of {expected.progress.tolist()}",
    )
    now, then = _values_now(got), _values_now(expected)
    for name in expected.scheduled:
        _require(
            torch.equal(now[name].double(), then[name].double()),
            f"{what}: {name} is {now[name].item():.9g} instead of {then[name].item():.9g}",
        )


@contextmanager
def _fresh_compiler(**options: Any) -> Iterator[None]:
    """torch.compile without memory of other activations, whose layers run the very same lines."""
    import torch._dynamo.config as config  # takes seconds: not for those who only read the list of checks

    torch.compiler.reset()
    try:
        with config.patch(**options):
            yield
    finally:
        torch.compiler.reset()


# --- the contract -----------------------------------------------------------------------------------------------------


@_clause
def shape(subject: Subject) -> None:
    """The output has the shape of the input, be it empty, 0-dimensional or odd, and the memory format of a dense one."""
    module = subject.build()
    for size in ((), (0,), (1,), (7,), (3, 5), (0, 4), (2, 3, 5, 7), (1, 1, 1, 1, 3)):
        y = module(_normal(*size))
        _require(y.shape == size, f"an input of shape {size} gives an output of shape {tuple(y.shape)}")
    x = _normal(4, 3, 5, 7)
    layouts = {
        "transposed": x.transpose(1, 3),
        "channels_last": x.to(memory_format=torch.channels_last),
        "channels_last_3d": x[None].to(memory_format=torch.channels_last_3d),
        "strided": x[:, :, ::2, 1:],
        "expanded": x[:, :1].expand(4, 3, 5, 7),
    }
    for layout, z in layouts.items():
        y = module(z)
        _require_close(y, module(z.contiguous()), f"a {layout} input")
        if layout not in ("strided", "expanded"):
            _require(
                y.stride() == z.stride(),
                f"a {layout} input with strides {z.stride()} gives an output with strides {y.stride()}",
            )


@_clause
def dtype(subject: Subject) -> None:
    """The output has the dtype of the input, and half precision is within 4 units in the last place of float64."""
    module = _disturb(subject.build())
    x = torch.cat([torch.linspace(-30, 30, 601), _normal(400), torch.tensor([0.0, 1e-3, -1e-3])])
    for kind in (torch.bfloat16, torch.float16, torch.float64):
        low = copy.deepcopy(module).to(kind)
        y = low(x.to(kind))
        _require(y.dtype == kind, f"an input of dtype {kind} gives an output of dtype {y.dtype}")
        if kind is torch.float64:
            _require_close(module(x), y, "float32 against float64", rtol=1e-5, atol=1e-5)
        else:
            exact = copy.deepcopy(low).double()(x.to(kind).double())
            info = torch.finfo(kind)
            # The last term is what float32 leaves of terms that cancel, as they do in the tail of GELU.
            _require_close(y, exact, f"{kind} against float64", rtol=4 * info.eps, atol=4 * info.eps * info.tiny + 1e-6)


@_clause
def finite(subject: Subject) -> None:
    """Values, and the gradients of the input and of every parameter, are finite for inputs as large as 1e4."""
    for z in (-1e4, -104.0, -88.0, -1.0, 0.0, 1.0, 88.0, 104.0, 1e4):
        module = subject.build()
        y = module(torch.tensor([z]))
        _require(bool(y.isfinite().all()), f"the value at z = {z:g} is {y.item():g}")
        for function, names, values in _functions(module, torch.float32):
            x = torch.tensor([z], requires_grad=True)
            grads = _gradients(lambda _, x, *v, f=function: f(x, *v), x, [x, *values])
            for name, grad in zip(["the input", *names], grads, strict=True):
                if grad is not None:
                    _require(bool(grad.isfinite().all()), f"the gradient of {name} at z = {z:g} is not finite: {grad.tolist()}")


@_clause
def nan(subject: Subject) -> None:
    """NaN in, NaN out: an activation does not hide that a network has broken."""
    y = subject.build()(torch.tensor([0.5, float("nan"), -0.5] * 11))
    _require(bool(y[1::3].isnan().all()), f"NaN becomes {y[1].item():g}")
    _require(not y[::3].isnan().any(), "NaN spreads to other elements")


@_clause
def elementwise(subject: Subject) -> None:
    """Every element of the output depends on the same element of the input, and on nothing else."""
    module = subject.build()
    x = _normal(60)
    y = module(x)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    _require_close(module(x[order]), y[order], "permuted inputs do not give permuted outputs")
    _require_close(module(x.reshape(3, 4, 5)), y.reshape(3, 4, 5), "reshaped inputs do not give reshaped outputs")
    _require_close(torch.cat([module(z[None]) for z in x]), y, "one element by itself gives another output")


@_clause
def input_kept(subject: Subject) -> None:
    """The input is not written to."""
    module = subject.build()
    x = _normal(50)
    before, version = x.clone(), x._version
    module(x)
    _require(torch.equal(x, before) and x._version == version, "the input is written to")
    leaf = x.clone().requires_grad_(True)
    y = module(leaf * 1.0)
    if y.requires_grad:
        y.sum().backward()
    _require(torch.equal(leaf.detach(), before), "the input is written to in the backward pass")


@_clause
def gradient(subject: Subject) -> None:
    """Away from kinks the gradients of the input and of every coefficient are the slopes of the function (in float64)."""
    _require_declared_kinks(subject, subject.build())
    _compare_slopes(subject, torch.autograd.gradcheck, 24)


@_clause
def kink_gradient(subject: Subject) -> None:
    """At a kink, as at 0, the gradient lies between the slopes on the two sides: it is no artefact of how it was computed."""
    module = subject.build().double()
    for kink in {0.0, *(subject.kinks or ()), *(round(z, 9) for z in find_kinks(module))}:
        left, at, right = _slope(module, kink + torch.tensor([-1e-6, 0.0, 1e-6], dtype=torch.float64)).tolist()
        room = 1e-4 * (1 + abs(left) + abs(right))
        _require(
            min(left, right) - room <= at <= max(left, right) + room,
            f"the gradient at z = {kink:g} is {at:.6g}; on the left of it the slope is {left:.6g}, on the right {right:.6g}",
        )


@_clause
def second_gradient(subject: Subject) -> None:
    """Away from kinks the second gradients are right too, as gradient penalties and influence functions need them."""
    _compare_slopes(subject, torch.autograd.gradgradcheck, 8)


@_clause
def parameters(subject: Subject) -> None:
    """Parameters are 1-dimensional, never 0-dimensional (sharding refuses those), and each of them gets a gradient."""
    module = subject.build()
    if not list(module.parameters()):
        raise NotOwedError("has no parameters")
    module(_normal(64)).sum().backward()
    for name, p in module.named_parameters():
        _require(p.dim() == 1, f"the parameter {name} has shape {tuple(p.shape)}; expected (1,) or (C,)")
        _require(p.grad is not None, f"no gradient reaches the parameter {name}")


@_clause
def half_sums(subject: Subject) -> None:
    """For bfloat16 inputs the gradients of parameters are summed over elements in float32, not in bfloat16."""
    module = subject.build()
    if not isinstance(module, Activation) and not list(module.parameters()):
        raise NotOwedError("has no parameters")
    module = module.bfloat16()
    lows = [_with_parameters(module, torch.bfloat16)]
    if isinstance(module, Activation):
        lows.append(_with_coefficients(module, torch.float32))
    for sign in (-1.0, 1.0):
        # One sign at a time: where positive and negative terms cancel, no sum in bfloat16 could be told from a right one.
        x = (sign * (0.1 + _normal(2**15).abs())).bfloat16()
        for (low, names, values), (exact, _, wide) in zip(lows, _functions(module), strict=True):
            rights = _gradients(exact, x.double(), wide)
            for name, got, right in zip(names, _gradients(low, x, values), rights, strict=True):
                if got is not None and right is not None:
                    what = f"the gradient of {name}, a sum over {x.numel()} elements"
                    _require_close(got, right, what, rtol=0.02, atol=1e-4 * x.numel())


@_clause
def constructor(subject: Subject) -> None:
    """The class takes device and dtype (and inplace=False), and reset_parameters() fills what was built without storage."""
    module = subject.build()
    cls: Any = type(module)
    given: dict[str, Any] = {}
    if isinstance(module, Activation):
        given = {**module.kinds, "channel_dim": module.channel_dim, "inplace": False}
    elif not (isinstance(subject.factory, type) and list(module.parameters())):
        raise NotOwedError("not a class with parameters")
    try:
        empty = cls(**given, device="meta", dtype=torch.float64)
    except TypeError as error:
        raise AssertionError(f"{cls.__name__} cannot be built with {', '.join([*given, 'device', 'dtype'])}: {error}") from None
    for name, p in empty.named_parameters():
        _require(p.is_meta, f"device='meta' leaves the parameter {name} on {p.device}")
        _require(p.dtype == torch.float64, f"dtype=torch.float64 leaves the parameter {name} in {p.dtype}")
    full = empty.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*full.parameters(), *full.buffers()):
            tensor.fill_(77)
    _require(callable(getattr(full, "reset_parameters", None)), f"{cls.__name__} has no reset_parameters()")
    full.reset_parameters()
    x = _normal(50, dtype=torch.float64)
    _require_close(full(x), module.double()(x), "to_empty() and reset_parameters() do not give a new activation")


@_clause
def copies(subject: Subject) -> None:
    """A deepcopy, a pickle, and a new activation that loads the state_dict compute the same."""
    module = _disturb(subject.build())
    x = _normal(50)
    y = module(x)
    _require(torch.equal(copy.deepcopy(module)(x), y), "a deepcopy gives another output")
    try:
        loaded = pickle.loads(pickle.dumps(module))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise AssertionError(f"it cannot be pickled: {error}") from None
    _require(torch.equal(loaded(x), y), "a pickle gives another output")
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    fresh = subject.build()
    fresh.load_state_dict(torch.load(file, weights_only=True))
    _require(torch.equal(fresh(x), y), "a new activation that loads the state_dict gives another output")


@_clause
def modes(subject: Subject) -> None:
    """A second call, eval() and train() change nothing."""
    module = subject.build()
    x = _normal(50)
    y = module(x)
    _require(torch.equal(module(x), y), "a second call gives another output")
    if subject.stochastic:
        return
    _require(torch.equal(module.eval()(x), y), "eval() gives another output")
    _require(torch.equal(module.train()(x), y), "train() after eval() gives another output")


@_clause
def channels(subject: Subject) -> None:
    """With one value per channel, along dimension 1 or -1, each channel is the activation of its own value."""
    module = subject.ours()
    if not module.kinds:
        raise NotOwedError("has no coefficients")
    cls: Any = type(module)
    now = _numbers(module)
    per_channel = [[v + 0.1 * (1 + abs(v)) * (c + i) for c in (1, 2, 3)] for i, v in enumerate(now)]
    for channel_dim, x in ((1, _normal(4, 3, 5)), (-1, _normal(4, 5, 3))):
        slices = zip(x.unbind(channel_dim), *per_channel, strict=True)
        expected = torch.stack([cls.function(z, *v) for z, *v in slices], channel_dim)
        got = cls.function(x, *map(torch.tensor, per_channel), channel_dim=channel_dim)
        _require_close(got, expected, f"the function with channel_dim={channel_dim}")
        learned = dict(zip(module.kinds, map(Learned, map(tuple, per_channel)), strict=True))
        built = cls(**learned, channel_dim=channel_dim)
        y = built(x)
        _require_close(y, expected, f"the module with channel_dim={channel_dim}", rtol=1e-5, atol=1e-5)
        y.square().sum().backward()
        for name, p in built.named_parameters():
            _require(p.grad is not None and p.grad.shape == (3,), f"no gradient per channel reaches {name}")


@_clause
def vmap(subject: Subject) -> None:
    """torch.vmap over inputs, and over a stack of activations with different parameters, agrees with a loop."""
    module = subject.build()
    x = _normal(3, 4, 5)
    _require_close(torch.vmap(module)(x), module(x), "vmap over inputs")
    stack = [module, _disturb(subject.build()), _disturb(_disturb(subject.build()))]
    parameters, buffers = torch.func.stack_module_state(stack)

    def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(module, (parameters, buffers), (x,))
        return result

    expected = torch.stack([m(z) for m, z in zip(stack, x, strict=True)])
    _require_close(torch.vmap(one)(parameters, buffers, x), expected, "vmap over a stack of activations")


@_clause
def compiled(subject: Subject) -> None:
    """torch.compile takes it in one piece and gives the same values and gradients."""
    module = subject.build()
    with _fresh_compiler():
        run = torch.compile(module, backend="aot_eager", fullgraph=True)
        x, z = (_normal(40).requires_grad_(True) for _ in range(2))
        got, expected = run(x), module(z)
        _require_close(got, expected, "torch.compile gives another output")
        if expected.requires_grad:
            leaves = [z, *module.parameters()]
            right = torch.autograd.grad(expected.sum(), leaves, allow_unused=True)
            for a, b in zip(torch.autograd.grad(got.sum(), [x, *leaves[1:]], allow_unused=True), right, strict=True):
                _require((a is None) == (b is None), "torch.compile loses a gradient")
                if a is not None and b is not None:
                    _require_close(a, b, "torch.compile gives another gradient", rtol=1e-5, atol=1e-5)


@_clause
def exported(subject: Subject) -> None:
    """torch.export takes it, and the program computes the same."""
    module = subject.build().eval()
    x = _normal(4, 5)
    _require_close(torch.export.export(module, (x,)).module()(x), module(x), "the exported program gives another output")


@_clause
def pure_function(subject: Subject) -> None:
    """The module computes its pure function, and a coefficient as a number or as a tensor gives the same."""
    module = _disturb(subject.ours())
    x, f = _normal(50), type(module).function
    y = module(x)
    _require_close(f(x, *module.values(), channel_dim=module.channel_dim), y, "the module is not its function", 0.0, 0.0)
    numbers = _numbers(module)
    for how, given in (
        ("as numbers", numbers),
        ("of shape ()", [torch.tensor(v) for v in numbers]),
        ("of shape (1,)", [torch.tensor([v]) for v in numbers]),
    ):
        _require_close(f(x, *given), y, f"the function with coefficients {how}")
    _require_close(f(x, **dict(zip(module.kinds, numbers, strict=True))), y, "the function with coefficients by name")


@_clause
def progress_kept(subject: Subject) -> None:
    """Averaging a model, and casting it to another dtype, leave progress and scheduled values exactly as they are."""
    module = subject.scheduled()
    # The average refuses a model without any parameter.
    model = nn.ModuleDict({"activation": module, "layer": nn.Linear(1, 1)})
    clock = Clock(model, 20, 5)
    averaged = torch.optim.swa_utils.AveragedModel(model, avg_fn=lambda mean, now, _: torch.lerp(mean, now, 0.1))
    walked = copy.deepcopy(model)
    for _ in range(7):
        clock.step()
        averaged.update_parameters(model)
        # The other common kind of average: over the floating-point tensors of the state_dict, with the rest copied.
        with torch.no_grad():
            for mean, now in zip(walked.state_dict().values(), model.state_dict().values(), strict=True):
                mean.lerp_(now, 0.1) if mean.is_floating_point() else mean.copy_(now)
    _require_progress(averaged.module.get_submodule("activation"), module, "in an AveragedModel")
    _require_progress(walked.get_submodule("activation"), module, "in an average over the state_dict")
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        _require_progress(copy.deepcopy(module).to(kind), module, f"after .to({kind})")


@_clause
def progress_restored(subject: Subject) -> None:
    """A state_dict alone restores progress and scheduled values, and a clock goes on from there."""
    module = subject.scheduled()
    clock = Clock(module, 20, 5)
    for _ in range(7):
        clock.step()
    fresh = subject.scheduled()
    fresh.load_state_dict(module.state_dict())
    _require_progress(fresh, module, "after load_state_dict")
    clock.step()
    Clock(fresh, 20, 5).step()
    _require_progress(fresh, module, "after load_state_dict and one more step")


@_clause
def progress_modes(subject: Subject) -> None:
    """Only the clock moves progress: not the forward pass, not eval(), not train()."""
    module = subject.scheduled()
    module.seek(7, 20, 5)
    expected = copy.deepcopy(module)
    module(_normal(50))
    _require_progress(module, expected, "after a forward pass")
    module.eval()
    module(_normal(50))
    _require_progress(module, expected, "after a forward pass in eval()")
    module.train()
    _require_progress(module, expected, "after eval() and train()")
    module.eval()
    Clock(module, 20, 5).step()
    expected.seek(8, 20, 5)
    _require_progress(module, expected, "after a step of the clock in eval()")


@_clause
def progress_end(subject: Subject) -> None:
    """Past the planned end a value scheduled on a fraction of training stays where the end put it."""
    module = subject.scheduled()
    names = [n for n, k in module.scheduled.items() if k.unit == "fraction"]
    if not names:
        raise NotOwedError("is scheduled in epochs, which have no end")
    clock = Clock(module, 20, 5)
    for _ in range(20):
        clock.step()
    end = _values_now(module)
    for _ in range(5):
        clock.step()
    for name, value in _values_now(module).items():
        _require(name not in names or torch.equal(value, end[name]), f"{name} moves on past the end, to {value.item():g}")


@_clause
def compiled_once(subject: Subject) -> None:
    """One compilation serves the whole schedule: 20 values of progress, no recompilation."""
    module = subject.scheduled()
    clock = Clock(module, 20, 5)
    x = _normal(40)
    with _fresh_compiler(error_on_recompile=True):
        run = torch.compile(module, backend="aot_eager", fullgraph=True)
        for i in range(20):
            try:
                got = run(x)
            except Exception as error:
                if "recompil" not in str(error).lower():
                    raise
                raise AssertionError(f"torch.compile compiles again at step {i} of 20") from None
            _require_close(got, module(x), f"torch.compile gives another output at step {i} of 20")
            clock.step()


CHECKS: tuple[Check, ...] = tuple(_checks)
"""The whole contract, in the order in which it is checked."""


# --- running it -------------------------------------------------------------------------------------------------------


def _subject(factory: Factory, kinks: Iterable[float] | None, stochastic: bool) -> Subject:
    if isinstance(factory, nn.Module) or not callable(factory):
        raise DomainError(
            f"check was given {factory!r}, but it builds the activation many times: give a class, or a callable without "
            "arguments, such as lambda: PELU(a=2.0)."
        )
    name = getattr(factory, "__qualname__", repr(factory))
    try:
        module = factory()
    except Exception as error:
        raise DomainError(f"{name} cannot be built without arguments: {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise DomainError(f"{name} gives {module!r} instead of a torch.nn.Module; wrap a function in a module to check it.")
    if isinstance(module, Activation) and any(isinstance(v, Tensor) and v.numel() > 1 for v in module.values()):
        raise DomainError(
            f"{name} gives {module!r}, with one value per channel. Give an activation with one value per layer; the check "
            "'channels' builds the one per channel itself."
        )
    if "<lambda>" in name:
        name = type(module).__name__
    return Subject(factory, name, None if kinks is None else tuple(map(float, kinks)), stochastic)


def check(
    factory: Factory,
    *,
    kinks: Iterable[float] | None = None,
    stochastic: bool = False,
    only: Collection[str] | None = None,
    skip: Collection[str] = (),
) -> list[Result]:
    """Hold an activation against the contract.

    Args:
        factory: a class, or a callable without arguments, that gives a new activation: an elementwise ``torch.nn.Module``.
        kinks: the inputs at which the slope jumps. Found by itself if left out; if given, any other kink is a failure.
        stochastic: the activation draws random numbers in training mode; it is then checked in evaluation mode.
        only: names of the checks to run; all of :data:`CHECKS` if left out.
        skip: names of checks to leave out.

    Returns:
        One result for each check that was run, in the order of the contract.

    Raises:
        DomainError: ``factory`` does not give an activation with one value per layer.
        UnknownNameError: ``only`` or ``skip`` names no check.
    """
    names = [c.name for c in CHECKS]
    for name in (*(only or ()), *skip):
        if name not in names:
            raise unknown("check", name, names)
    subject = _subject(factory, kinks, stochastic)
    return [_run(c, subject) for c in CHECKS if (only is None or c.name in only) and c.name not in skip]


def _run(clause: Check, subject: Subject) -> Result:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            clause.function(subject)
        except NotOwedError as reason:
            return Result(clause.name, "skipped", str(reason))
        except AssertionError as error:
            return Result(clause.name, "failed", str(error))
        except Exception as error:
            # Whatever an activation raises is a way of breaking the contract, and must not hide the other checks.
            first = str(error).strip().partition("\n")[0]
            return Result(clause.name, "failed", f"{type(error).__name__}: {first}")
    return Result(clause.name, "passed")


def assert_contract(
    factory: Factory,
    *,
    kinks: Iterable[float] | None = None,
    stochastic: bool = False,
    only: Collection[str] | None = None,
    skip: Collection[str] = (),
) -> None:
    """As :func:`check`, for use in a test.

    Raises:
        AssertionError: a check failed; the message lists what is broken.
    """
    results = check(factory, kinks=kinks, stochastic=stochastic, only=only, skip=skip)
    failed = [r for r in results if r.outcome == "failed"]
    if failed:
        name = _subject(factory, kinks, stochastic).name
        docs = {c.name: c.doc for c in CHECKS}
        lines = "".join(f"\n  {r.check}: {r.message}\n      owed: {docs[r.check]}" for r in failed)
        raise AssertionError(f"{name} breaks {len(failed)} of the {len(results)} checks of the contract:{lines}")


# --- somebody else's file ---------------------------------------------------------------------------------------------


def from_file(path: str | Path) -> dict[str, Factory]:
    """The activations that a Python file defines, by name. Importing the file runs it.

    They are the subclasses of :class:`pliant.Activation` written in it, and the ``nn.Module`` classes (or callables without
    arguments) in its list ``ACTIVATIONS``, if it has one.

    Raises:
        PliantError: there is no such file, it does not import, or it defines no activation.
    """
    path = Path(path)
    if not path.is_file():
        raise PliantError(f"There is no file {str(path)!r} to look for activations in.")
    name = "pliant_checked_" + re.sub(r"\W", "_", path.stem)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PliantError(f"{str(path)!r} is not a Python file; its name should end in .py.")
    module = importlib.util.module_from_spec(spec)
    # Registered under its name, or its classes could not be pickled; its folder can be imported from, as if it were run.
    sys.modules[name] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise PliantError(f"{str(path)!r} does not import: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    listed = getattr(module, "ACTIVATIONS", ())
    if not isinstance(listed, Iterable) or isinstance(listed, str) or not all(map(callable, listed)):
        raise PliantError(
            f"ACTIVATIONS in {str(path)!r} is {listed!r}; expected a list of nn.Module classes, or of callables without "
            "arguments that give an nn.Module."
        )
    own = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, Activation) and v.__module__ == name]
    found: dict[str, Factory] = {getattr(f, "__name__", repr(f)): f for f in (*own, *listed)}
    if not found:
        raise PliantError(
            f"{str(path)!r} defines no activation. Write a subclass of pliant.Activation in it, or list your nn.Module "
            "classes: ACTIVATIONS = [MyActivation]."
        )
    return found
