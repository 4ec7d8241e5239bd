"""The contract itself: every check fails on an activation that breaks just what it is about."""

from __future__ import annotations

import functools
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant import (
    Activation,
    AReLU,
    Coefficient,
    DomainError,
    DSReLU,
    Fixed,
    Learned,
    Linear,
    Logistic,
    PliantError,
    Scheduled,
    SReLU,
    UnknownNameError,
    elementwise,
)
from pliant.functional import dsrelu, prelu
from pliant.testing import CHECKS, Check, Result, assert_contract, check, from_file

# --- activations that break one clause each ---------------------------------------------------------------------------


class Of(nn.Module):
    """A module out of a function, so that a broken activation is one line."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class With(nn.Module):
    """A module with one parameter out of a function of the input and that parameter."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...] = (1,)) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.full(shape, 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.weight)


class WrongSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * 2 * ctx.saved_tensors[0] ** 2


class WrongWeightSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return x * w

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        x, w = ctx.saved_tensors
        return g * w, (g * x).mean().reshape(1)


class WrongCurvature(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        # The slope is right, but as far as the next derivative knows, a constant.
        return g * 3 * ctx.saved_tensors[0].detach() ** 2


class HalfSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return x * w

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        x, w = ctx.saved_tensors
        terms = (g * x).reshape(-1, 16)
        total = functools.reduce(torch.add, terms.unbind(0))  # one addition after the other, each rounded to bfloat16
        return g * w, total.sum().reshape(1)


@elementwise
def _leaky(x: Tensor, weight: float | Tensor = 0.25) -> Tensor:
    return torch.where(x > 0, x, weight * x)


def _first_dimension_only(x: Tensor, weight: float | Tensor = 0.25, channel_dim: int = 1) -> Tensor:
    return _leaky(x, weight, channel_dim=1)


class NoDevice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class NoReset(nn.Module):
    def __init__(self, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class ForgetfulReset(NoReset):
    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)


QUARTER = Learned(0.25)


class IgnoresDevice(Activation):
    function = staticmethod(prelu)
    weight = Coefficient(Learned(0.25))

    def __init__(
        self, weight: Any = QUARTER, channel_dim: int = 1, inplace: bool = False, device: Any = None, dtype: Any = None
    ):
        super().__init__(weight, channel_dim=channel_dim)


class NotInplace(Activation):
    function = staticmethod(prelu)
    weight = Coefficient(Learned(0.25))

    def __init__(self, weight: Any = QUARTER, channel_dim: int = 1, device: Any = None, dtype: Any = None) -> None:
        super().__init__(weight, channel_dim=channel_dim, device=device, dtype=dtype)


class Unsaved(NoReset):
    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[prefix + "weight"] = torch.ones(1)


class Uncopied(NoReset):
    def __deepcopy__(self, memo: Any) -> Uncopied:
        return Uncopied()


class Unpickled(NoReset):
    def __init__(self) -> None:
        super().__init__()
        self.scale = lambda x: x

    def __deepcopy__(self, memo: Any) -> Unpickled:
        return self


class OffInEval(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) if self.training else x


class Counting(nn.Module):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


class FirstDimensionOnly(Activation):
    function = staticmethod(_first_dimension_only)
    weight = Coefficient(Learned(0.25))


class NotItsFunction(Activation):
    function = staticmethod(prelu)
    weight = Coefficient(Fixed(0.25))

    def forward(self, x: Tensor) -> Tensor:
        return prelu(x, 0.3)


@elementwise
def _tensors_only(x: Tensor, weight: float | Tensor = 0.25) -> Tensor:
    return torch.where(x > 0, x, weight.relu() * x if isinstance(weight, Tensor) else 0.2 * x)


class NumbersDiffer(Activation):
    function = staticmethod(_tensors_only)
    weight = Coefficient(Learned(0.25))


class OutsideTheState(Activation):
    """What the released code of DSReLU does: progress is a Python number that no copy of a state knows."""

    function = staticmethod(dsrelu)
    slope = Coefficient(Scheduled(Linear(2.0, 1.5)))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.current = 2.0

    def seek(self, step: int, total: int, steps_per_epoch: int) -> None:
        super().seek(step, total, steps_per_epoch)
        self.current = 2.0 - 0.5 * step / total if total else 2.0

    def values(self, progress: float | None = None) -> list[float | Tensor]:
        return [torch.tensor([self.current])]


class FloatProgress(Activation):
    function = staticmethod(dsrelu)
    slope = Coefficient(Scheduled(Linear(2.0, 1.5)))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.progress = self.progress.float()


class FloatValue(Activation):
    """Progress is kept, but the value lies in a floating-point buffer that averages blur."""

    function = staticmethod(dsrelu)
    slope = Coefficient(Scheduled(Linear(2.0, 1.5)))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("value", torch.tensor([2.0]))

    def seek(self, step: int, total: int, steps_per_epoch: int) -> None:
        super().seek(step, total, steps_per_epoch)
        self.value.fill_(super().values()[0].item())

    def values(self, progress: float | None = None) -> list[float | Tensor]:
        return [self.value]


class NotRestored(Activation):
    function = staticmethod(dsrelu)
    slope = Coefficient(Scheduled(Linear(2.0, 1.5)))

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        pass


class MovesByItself(Activation):
    function = staticmethod(dsrelu)
    slope = Coefficient(Scheduled(Linear(2.0, 1.5)))

    def forward(self, x: Tensor) -> Tensor:
        step, total, per_epoch = self.now()
        self.seek(step + 1, total, per_epoch)
        return super().forward(x)


class ResetsInEval(Activation):
    function = staticmethod(dsrelu)
    slope = Coefficient(Scheduled(Linear(2.0, 1.5)))

    def train(self, mode: bool = True) -> ResetsInEval:
        if not mode:
            self.seek(0, 20, 5)
        return super().train(mode)


class NoEnd(Activation):
    function = staticmethod(dsrelu)
    slope = Coefficient(Scheduled(Logistic(2.0, 1.5)))

    def seek(self, step: int, total: int, steps_per_epoch: int) -> None:
        super().seek(step, total, steps_per_epoch)
        kind = self.scheduled["slope"]
        self.coefficients[0].move(self, kind, kind.schedule(step / total if total else 0.0))


class CompilesAgain(OutsideTheState):
    """A Python number in the graph: a new program for every value of it."""

    def values(self, progress: float | None = None) -> list[float | Tensor]:
        return [self.current]


def _branch_on_data(x: Tensor) -> Tensor:
    return x if x.numel() and x.sum() > 0 else x * 1.0


def _naive_pelu(x: Tensor, b: Tensor) -> Tensor:
    return torch.where(x > 0, x / b, torch.exp(x / b) - 1)


Break = tuple[str, Callable[[], nn.Module], dict[str, Any], str]

BROKEN: dict[str, Break] = {
    "0-dimensional grows": ("shape", lambda: Of(lambda x: x.reshape(-1) if x.dim() == 0 else x), {}, "shape ()"),
    "empty fails": ("shape", lambda: Of(lambda x: x / x.abs().max()), {}, "max()"),
    "channels_last is lost": ("shape", lambda: Of(lambda x: torch.relu(x.contiguous())), {}, "strides"),
    "float32 always": ("dtype", lambda: Of(lambda x: torch.relu(x).float()), {}, "torch.float32"),
    "bfloat16 in every step": ("dtype", lambda: Of(lambda x: x - torch.tanh(x)), {}, "against float64"),
    "value overflows": ("finite", lambda: Of(torch.exp), {}, "the value at z = 104 is inf"),
    "gradient of the branch not taken": (
        "finite",
        lambda: Of(lambda x: torch.where(x > 0, x, torch.exp(x) - 1)),
        {},
        "the gradient of the input at z = 104",
    ),
    "gradient of a coefficient": ("finite", lambda: With(_naive_pelu), {}, "z = 88"),
    "nan is hidden": ("nan", lambda: Of(lambda x: torch.where(x > 0, x, 0.0)), {}, "NaN becomes 0"),
    "nan spreads": ("nan", lambda: Of(lambda x: x + 0 * x.sum()), {}, "NaN spreads"),
    "mean is removed": ("elementwise", lambda: Of(lambda x: x - x.mean()), {}, "one element by itself"),
    "depends on the place": (
        "elementwise",
        lambda: Of(lambda x: x * torch.arange(x.numel()).reshape(x.shape)),
        {},
        "permuted inputs",
    ),
    "depends on the shape": ("elementwise", lambda: Of(lambda x: x * x.dim()), {}, "reshaped inputs"),
    "in place": ("input_kept", lambda: Of(torch.relu_), {}, "the input is written to"),
    "wrong slope": ("gradient", lambda: Of(WrongSlope.apply), {}, "the gradient of the input is not the slope"),
    "wrong slope in a parameter": ("gradient", lambda: With(WrongWeightSlope.apply), {}, "the gradient of weight is not"),
    "float32 inside": ("gradient", lambda: Of(lambda x: x.float().sin().to(x.dtype)), {}, "is not the slope"),
    "undeclared kink": ("gradient", nn.ReLU, {"kinks": (1.0,)}, "there is a kink at z = 0, but the declared ones are [1.0]"),
    "kinks everywhere": ("gradient", lambda: Of(lambda x: (40 * x - (40 * x).floor() - 0.5).abs()), {}, "hardly a point"),
    "a kink treated twice": (
        "kink_gradient",
        lambda: Of(lambda x: torch.where(x > 0, x, 0.25 * torch.expm1(-torch.relu(-x)))),
        {},
        "the gradient at z = 0 is 0; on the left of it the slope is 0.25, on the right 1",
    ),
    "a tie split in halves": (
        "kink_gradient",
        lambda: Of(lambda x: torch.relu(x) + torch.expm1(torch.minimum(x, torch.zeros(())))),
        {},
        "the gradient at z = 0 is 0.5",
    ),
    "wrong curvature": ("second_gradient", lambda: Of(WrongCurvature.apply), {}, "is not the slope"),
    "no second derivative": ("second_gradient", nn.Hardsigmoid, {}, "not implemented"),
    "0-dimensional parameter": ("parameters", lambda: With(lambda x, w: x * w, ()), {}, "has shape ()"),
    "2-dimensional parameter": ("parameters", lambda: With(lambda x, w: x * w[0, 0], (1, 1)), {}, "has shape (1, 1)"),
    "parameter without gradient": ("parameters", lambda: With(lambda x, w: x.relu() + 0 * x), {}, "no gradient|grad"),
    "parameter detached": ("parameters", lambda: Both(), {}, "no gradient reaches the parameter second"),
    "sums in bfloat16": ("half_sums", lambda: With(HalfSum.apply), {}, "a sum over 32768 elements"),
    "no device": ("constructor", NoDevice, {}, "cannot be built with device, dtype"),
    "device ignored": ("constructor", IgnoresDevice, {}, "device='meta' leaves the parameter weight on cpu"),
    "no inplace": ("constructor", NotInplace, {}, "inplace"),
    "no reset": ("constructor", NoReset, {}, "has no reset_parameters()"),
    "reset to other values": ("constructor", ForgetfulReset, {}, "do not give a new activation"),
    "state_dict without the state": ("copies", Unsaved, {}, "loads the state_dict"),
    "deepcopy makes a new one": ("copies", Uncopied, {}, "a deepcopy"),
    "cannot be pickled": ("copies", Unpickled, {}, "cannot be pickled"),
    "other in eval": ("modes", OffInEval, {}, "eval()"),
    "other at the second call": ("modes", Counting, {}, "a second call"),
    "channel_dim ignored": ("channels", FirstDimensionOnly, {}, "shape (3,)"),
    "vmap branches on data": ("vmap", lambda: Of(_branch_on_data), {}, "vmap"),
    "vmap mixes": ("vmap", lambda: Of(lambda x: x - x.mean()), {}, "vmap over inputs"),
    "compile breaks": ("compiled", lambda: Of(_branch_on_data), {}, "Unsupported"),
    "compile differs": ("compiled", lambda: Of(lambda x: x * (2.0 if torch.compiler.is_compiling() else 1.0)), {}, "output"),
    "export breaks": ("exported", lambda: Of(_branch_on_data), {}, ""),
    "module is not its function": ("pure_function", NotItsFunction, {}, "the module is not its function"),
    "numbers and tensors differ": ("pure_function", NumbersDiffer, {}, "coefficients as numbers"),
    "progress in a Python number": ("progress_kept", OutsideTheState, {}, "in an AveragedModel: slope is 2 instead of"),
    "progress in floats": ("progress_kept", FloatProgress, {}, "has to stay int64"),
    "value in floats": ("progress_kept", FloatValue, {}, "in an average over the state_dict"),
    "progress not restored": ("progress_restored", NotRestored, {}, "[0, 0, 0] instead of [7, 20, 5]"),
    "value not restored": ("progress_restored", OutsideTheState, {}, "slope is 2 instead of"),
    "forward moves it": ("progress_modes", MovesByItself, {}, "after a forward pass"),
    "eval resets it": ("progress_modes", ResetsInEval, {}, "after a forward pass in eval()"),
    "no end": ("progress_end", NoEnd, {}, "slope moves on past the end"),
    "compiles again": ("compiled_once", CompilesAgain, {}, "compiles again at step"),
}


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.first + self.second.detach()


def test_every_check_is_broken_by_some_activation() -> None:
    assert {b[0] for b in BROKEN.values()} == {c.name for c in CHECKS}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_activation_fails_its_check(case: str) -> None:
    name, factory, options, words = BROKEN[case]
    (result,) = check(factory, only=[name], **options)
    assert result.check == name
    assert result.outcome == "failed"
    assert any(w in result.message for w in words.split("|"))
    assert "\n" not in result.message


# --- what is well --------------------------------------------------------------------------------------------------


class Rational(nn.Module):
    """Somebody else's activation, which knows nothing of pliant: smooth, with a vector of parameters of its own."""

    def __init__(self, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.empty(3, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.weights.copy_(torch.tensor([0.1, 1.0, 0.2]))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        a, b, c = self.weights.to(wide.dtype).unbind()
        return (a + b * wide + c * wide * torch.sin(wide)).to(x.dtype)


def test_somebody_elses_activation_passes() -> None:
    results = check(Rational)
    assert [r for r in results if r.outcome == "failed"] == []
    skipped = {r.check for r in results if r.outcome == "skipped"}
    assert skipped == {
        "channels",
        "pure_function",
        "progress_kept",
        "progress_restored",
        "progress_modes",
        "progress_end",
        "compiled_once",
    }
    assert all(r.message for r in results if r.outcome == "skipped")
    assert_contract(Rational)


class Noisy(nn.Module):
    """A leaky ReLU whose slope is drawn anew for every element, in training."""

    def forward(self, x: Tensor) -> Tensor:
        slope = torch.rand_like(x) if self.training else 0.5
        return torch.where(x > 0, x, slope * x)


def test_a_stochastic_activation_is_checked_in_eval_mode() -> None:
    assert [r for r in check(Noisy, stochastic=True) if r.outcome == "failed"] == []
    (result,) = check(Noisy, only=["modes"])
    assert (result.outcome, result.message[:13]) == ("failed", "a second call")


def test_kinks_are_found_wherever_they_are() -> None:
    for kinks, f in (
        ((0.0,), torch.relu),
        ((), F.gelu),
        ((-3.0, 3.0), F.hardswish),
        ((1.2345,), lambda x: (x - 1.2345).abs()),
        ((0.0,), lambda x: torch.where(x > 0, x, 0.9999 * x)),
    ):
        (result,) = check(lambda f=f: Of(f), kinks=kinks, only=["gradient"])
        assert result == Result("gradient", "passed")
        for kink in kinks:
            others = [k for k in kinks if k != kink]
            (result,) = check(lambda f=f: Of(f), kinks=others, only=["gradient"])
            assert result.outcome == "failed"
            assert f"z = {kink:g}" in result.message


def test_random_state_and_gradients_are_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    check(SReLU, only=["shape", "dtype", "elementwise", "gradient", "vmap"])
    assert torch.equal(torch.get_rng_state(), before)


# --- asking for it ----------------------------------------------------------------------------------------------------


def test_checks_are_named_documented_and_ordered() -> None:
    names = [c.name for c in CHECKS]
    assert len(names) == len(set(names)) == 24
    for c in CHECKS:
        assert isinstance(c, Check)
        assert c.doc.endswith(".")
        assert callable(c.function)
    assert [r.check for r in check(SReLU, only=["nan", "shape"])] == ["shape", "nan"]
    left = [r.check for r in check(nn.Identity, skip=[n for n in names if n not in ("modes", "nan")])]
    assert left == ["nan", "modes"]


def test_assert_contract_tells_what_is_broken() -> None:
    assert_contract(SReLU, only=["shape", "nan"])
    with pytest.raises(AssertionError) as error:
        assert_contract(Counting, only=["shape", "modes", "nan"])
    assert str(error.value) == (
        "Counting breaks 2 of the 3 checks of the contract:\n"
        + "".join(
            f"\n  {r.check}: {r.message}\n      owed: {next(c.doc for c in CHECKS if c.name == r.check)}"
            for r in check(Counting, only=["shape", "modes"])
        )[1:]
    )


def test_an_error_inside_an_activation_is_a_failure_and_hides_no_other_check() -> None:
    def explode(x: Tensor) -> Tensor:
        raise ValueError("no\nway")

    results = check(lambda: Of(explode), only=["shape", "nan", "channels"])
    assert [(r.outcome, r.message) for r in results] == [
        ("failed", "ValueError: no"),
        ("failed", "ValueError: no"),
        ("skipped", "not a pliant.Activation"),
    ]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: check(SReLU()), "give a class, or a callable"),  # type: ignore[arg-type]
        (lambda: check(3), "give a class, or a callable"),  # type: ignore[arg-type]
        (lambda: check(lambda: 3), "instead of a torch.nn.Module"),  # type: ignore[arg-type,return-value]
        (lambda: check(nn.Linear), "Linear cannot be built without arguments: TypeError"),
        (lambda: check(lambda: AReLU(channels=3)), "one value per channel"),
        (lambda: check(lambda: SReLU(beta=(0.1, 0.2))), "one value per channel"),
    ],
)
def test_factories_that_are_none(call: Callable[[], object], words: str) -> None:
    with pytest.raises(DomainError) as error:
        call()
    assert words in str(error.value)


def test_unknown_checks() -> None:
    for options in ({"only": ["shap"]}, {"skip": ["shap"]}):
        with pytest.raises(UnknownNameError, match=r"There is no check named 'shap'\. Did you mean 'shape'"):
            check(SReLU, **options)


# --- a file -----------------------------------------------------------------------------------------------------------


def _write(path: Path, text: str) -> Path:
    path.write_text(textwrap.dedent(text))
    return path


def test_a_file_with_activations(tmp_path: Path) -> None:
    _write(tmp_path / "beside.py", "FACTOR = 0.5\n")
    path = _write(
        tmp_path / "my activation.py",
        """
        import torch
        from beside import FACTOR
        from torch import nn
        import pliant
        from pliant import SReLU

        @pliant.elementwise
        def half_leaky(x, weight=FACTOR):
            return torch.where(x > 0, x, weight * x)

        class HalfLeaky(pliant.Activation):
            function = staticmethod(half_leaky)
            weight = pliant.Coefficient(pliant.Learned(FACTOR))

        class Cube(nn.Module):
            def forward(self, x):
                return x ** 3

        class NotListed(nn.Module):
            pass

        ACTIVATIONS = [Cube]
        """,
    )
    before = list(sys.path)
    found = from_file(path)
    assert sys.path == before
    assert list(found) == ["HalfLeaky", "Cube"]
    quick = [c.name for c in CHECKS if not c.name.startswith(("compiled", "exported"))]
    assert [r for r in check(found["HalfLeaky"], only=quick) if r.outcome == "failed"] == []
    assert [r.check for r in check(found["Cube"], only=["copies", "gradient", "nan"]) if r.outcome == "passed"] == [
        "nan",
        "gradient",
        "copies",
    ]
    assert list(from_file(str(path))) == ["HalfLeaky", "Cube"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import torch", "defines no activation. Write a subclass of pliant.Activation"),
        ("from pliant import SReLU", "defines no activation"),
        ("def f(:", "does not import: SyntaxError"),
        ("import nowhere_to_be_found", "does not import: ModuleNotFoundError"),
        ("raise SystemExit(3)", "does not import: SystemExit"),
        ("ACTIVATIONS = 3", "expected a list"),
        ("ACTIVATIONS = ['relu']", "expected a list"),
        ("ACTIVATIONS = 'relu'", "expected a list"),
    ],
)
def test_files_without(tmp_path: Path, text: str, words: str) -> None:
    modules = set(sys.modules)
    with pytest.raises(PliantError) as error:
        from_file(_write(tmp_path / "mine.py", text))
    assert words in str(error.value)
    assert "mine.py" in str(error.value)
    if "does not import" in words:
        assert "pliant_checked_mine" not in set(sys.modules) - modules


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(PliantError, match="There is no file"):
        from_file(tmp_path / "mine.py")
    with pytest.raises(PliantError, match="There is no file"):
        from_file(tmp_path)
    with pytest.raises(PliantError, match="not a Python file"):
        from_file(_write(tmp_path / "mine.txt", "x = 1"))


def test_dsrelu_is_checked_at_a_progress_of_its_own() -> None:
    # The reference against which the schedule checks are broken above: the real thing passes them all.
    for factory in (DSReLU, lambda: DSReLU.released(unit="released"), lambda: DSReLU(Scheduled(Linear(2.0, 1.5)))):
        results = check(factory, only=[c.name for c in CHECKS if c.name.startswith("progress")])
        assert {r.outcome for r in results} <= {"passed", "skipped"}
