"""Who gets a fused kernel, who the readable version, and that nobody can tell by the numbers."""

from __future__ import annotations

import copy
import functools
import inspect
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

import pliant
from pliant import AReLU, Clock, DomainError, DSReLU, KernelError, KernelWarning, PReLU, SReLU, functional, kernels
from pliant.kernels import cpu, dispatch
from pliant.kernels.derivatives import DERIVATIVES
from pliant.kernels.traced import traced

# torch's own, where forward-mode AD is first used.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")

NAMES = sorted(DERIVATIVES)

needs_kernels = pytest.mark.skipif(cpu.unavailable() is not None, reason=f"no CPU kernels here: {cpu.unavailable()}")


def _arity(name: str) -> int:
    parameters = inspect.signature(getattr(functional, name)).parameters.values()
    return sum(p.kind is not inspect.Parameter.KEYWORD_ONLY for p in parameters) - 1


WITH_KERNEL = [n for n in NAMES if cpu.refusal(n, torch.zeros(1), (0.5,) * _arity(n)) is None]


def _case(name: str, n: int = 257, dtype: torch.dtype = torch.float64) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, generator=generator, dtype=torch.float64)
    x[:3] = 0
    values = [torch.rand(1, generator=generator, dtype=torch.float64) + 0.3 for _ in range(_arity(name))]
    return x.to(dtype).requires_grad_(), [v.to(dtype).requires_grad_() for v in values]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the CPU kernels that were run."""
    seen: list[str] = []
    for entry in ("forward", "backward", "forward_", "backward_from_output"):
        original = getattr(cpu, entry)

        def spy(name: str, *args: Any, _entry: str = entry, _original: Any = original, **kwargs: Any) -> Any:
            seen.append(_entry)
            return _original(name, *args, **kwargs)

        monkeypatch.setattr(cpu, entry, spy)
    quick = cpu.gradients

    def spy_gradients(function: int, *args: Any) -> Any:
        found = quick(function, *args)
        if found is not None:
            outputs = [cpu.number(name, from_output=True) for name in ("dsrelu", "prelu")]
            seen.append("backward_from_output" if function in outputs else "backward")
        return found

    monkeypatch.setattr(cpu, "gradients", spy_gradients)
    with kernels.fused(None):
        yield seen


# --- the form for compilers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_form_for_compilers_has_the_gradients_of_the_formula(name: str) -> None:
    function = getattr(functional, name)
    x, values = _case(name)
    grad = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    shown = traced(name, lambda x, *v: function(x, *v, fused=False))
    expected = torch.autograd.grad(function(x, *values, fused=False), [x, *values], grad)
    got = torch.autograd.grad(shown(x, *values), [x, *values], grad)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_the_form_for_compilers_keeps_no_mask(name: str) -> None:
    x, values = _case(name)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        traced(name, getattr(functional, name))(x, *values)
    assert [t for t in kept if t.numel() > 1] == [x]


def test_every_learnable_function_has_a_form_for_compilers_and_a_kernel() -> None:
    assert set(functional.__all__) == set(DERIVATIVES)
    assert cpu.unavailable() or set(WITH_KERNEL) >= set(functional.__all__) - {"affine_relu"}


@pytest.mark.parametrize("transform", ["vmap", "grad", "jvp"])
def test_transforms_inside_a_compiled_function(transform: str) -> None:
    act = AReLU().double()
    x = torch.randn(4, 5, dtype=torch.float64)
    run = {
        "vmap": lambda z: torch.vmap(act)(z),
        "grad": lambda z: torch.func.grad(lambda w: act(w).square().sum())(z),
        "jvp": lambda z: torch.func.jvp(act, (z,), (torch.ones_like(z),))[1],
    }[transform]
    torch.compiler.reset()
    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), run(x))
    torch.compiler.reset()


# --- the switch -------------------------------------------------------------------------------------------------------


@needs_kernels
def test_off_by_call_by_module_and_everywhere(calls: list[str]) -> None:
    x = torch.randn(8, requires_grad=True)
    functional.srelu(x, fused=False).sum().backward()
    SReLU(fused=False)(x).sum().backward()
    with kernels.fused(False):
        SReLU()(x).sum().backward()
        assert not calls
        SReLU(fused=True)(x).sum().backward()
    assert calls == ["forward", "backward"]
    SReLU()(x).sum().backward()
    assert calls == ["forward", "backward"] * 2


@needs_kernels
def test_the_attribute_can_be_changed_and_is_kept(calls: list[str]) -> None:
    act = AReLU()
    act.fused = False
    copy.deepcopy(act)(torch.randn(3))
    assert not calls
    assert "fused=False" in repr(act)


@needs_kernels
def test_nothing_is_remembered_without_gradients(calls: list[str]) -> None:
    y = AReLU().requires_grad_(False)(torch.randn(8))
    assert y.grad_fn is None
    assert calls == ["forward"]


REFUSED: dict[str, tuple[Any, str]] = {
    "int": (lambda: functional.srelu(torch.zeros(3, dtype=torch.int32), fused=True), "floating-point"),
    "vmap": (lambda: torch.vmap(lambda z: functional.srelu(z, fused=True))(torch.zeros(2, 3)), "transform"),
    "meta": (lambda: functional.srelu(torch.zeros(3, device="meta"), fused=True), "meta"),
    "subclass": (lambda: functional.srelu(torch.zeros(3).as_subclass(_Mine), fused=True), "_Mine"),
    "no kernel": (lambda: _doubled(torch.zeros(3), 1.0, fused=True), "has none"),
    "switch": (lambda: kernels.set_fused("yes"), "True, False or None"),  # type: ignore[arg-type]
    "in place": (lambda: AReLU(inplace=True), "no in-place form"),
    "in place function": (lambda: functional.arelu(torch.zeros(3), inplace=True), "no in-place form"),
}


class _Mine(Tensor):
    pass


@pliant.elementwise
def _doubled(x: Tensor, a: float | Tensor) -> Tensor:
    return 2 * a * x


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_had_is_an_error_that_says_why(case: str) -> None:
    run, words = REFUSED[case]
    with pytest.raises((KernelError, DomainError, TypeError), match=words):
        run()


def test_missing_kernels_are_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_unavailable", "none were built")
    monkeypatch.setattr(cpu, "serves", lambda *_: False)
    monkeypatch.setattr(dispatch, "_warned", set())
    x = torch.randn(5)
    with kernels.fused(None):
        with pytest.warns(KernelWarning, match=r"none were built.*PLIANT_FUSED=0"):
            y = functional.srelu(x)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(functional.srelu(x), y)
        with pytest.raises(KernelError, match="none were built"):
            functional.srelu(x, fused=True)
    assert kernels.status()["cpu"] == "none: none were built"


@pytest.mark.parametrize(("value", "said"), [("0", "False"), ("1", "True"), ("auto", "None"), ("never", "PLIANT_FUSED")])
def test_the_environment_sets_the_switch(value: str, said: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", "from pliant.kernels import dispatch; print(dispatch.wanted(None))"],
        env=os.environ | {"PLIANT_FUSED": value},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said in run.stdout + run.stderr


def test_a_function_around_a_function_is_not_passed_over() -> None:
    @functools.wraps(functional.dsrelu)
    def louder(x: Tensor, slope: float | Tensor, **kwargs: Any) -> Tensor:
        return 2 * functional.dsrelu(x, slope, **kwargs)

    class Louder(pliant.Activation):
        function = staticmethod(louder)
        slope = pliant.Coefficient(pliant.Fixed(3.0))

    x = torch.tensor([-1.0, 1.0])
    assert torch.equal(Louder()(x), torch.tensor([-2.0, 6.0]))
    assert torch.equal(Louder(fused=False)(x), torch.tensor([-2.0, 6.0]))


# --- the same numbers, whoever looks on -----------------------------------------------------------------------------------


@needs_kernels
@pytest.mark.parametrize("name", WITH_KERNEL)
def test_gradcheck_and_gradients_of_gradients(name: str, calls: list[str]) -> None:
    function = getattr(functional, name)
    # Away from the kinks, where a difference quotient says nothing.
    x, values = _case(name, 24)
    with torch.no_grad():
        x[x.abs() < 0.05] = 0.3
    assert torch.autograd.gradcheck(lambda *a: function(*a, fused=True), (x, *values))
    assert "backward" in calls
    assert torch.autograd.gradgradcheck(lambda *a: function(*a, fused=True), (x, *values))


@needs_kernels
def test_a_coefficient_made_from_the_input_counts_once() -> None:
    x = torch.randn(16, dtype=torch.float64, requires_grad=True)

    def run(fused: bool) -> Tensor:
        (g,) = torch.autograd.grad(functional.swish(x, x.mean().reshape(1), fused=fused).sum(), x, create_graph=True)
        return torch.autograd.grad(g.square().sum(), x)[0]

    torch.testing.assert_close(run(True), run(False))


@needs_kernels
def test_batched_gradients_of_a_fused_forward() -> None:
    x, values = _case("arelu", 6)
    y = functional.arelu(x, *values, fused=True)
    rows = torch.autograd.grad(y, x, torch.eye(6, dtype=x.dtype), is_grads_batched=True)[0]
    slow = torch.autograd.functional.jacobian(lambda z: functional.arelu(z, *values, fused=False), x)
    torch.testing.assert_close(rows, slow)


@needs_kernels
def test_forward_mode_takes_the_readable_version(calls: list[str]) -> None:
    x = torch.randn(9, dtype=torch.float64)
    with forward_ad.dual_level():
        y = SReLU()(forward_ad.make_dual(x, torch.ones_like(x)))
        tangent = forward_ad.unpack_dual(y).tangent
    assert not calls
    torch.testing.assert_close(tangent, torch.where(x > 0, 1.0, 0.25 * x.exp()))


@needs_kernels
def test_learned_coefficients_keep_their_dtype_and_shape() -> None:
    for shape, dtype in [((), torch.float64), ((1,), torch.bfloat16)]:
        weight = torch.full(shape, 0.25, dtype=dtype, requires_grad=True)
        functional.prelu(torch.randn(100, requires_grad=True), weight, fused=True).sum().backward()
        assert weight.grad is not None
        assert (weight.grad.shape, weight.grad.dtype) == (weight.shape, dtype)


@needs_kernels
@pytest.mark.parametrize("name", WITH_KERNEL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_at_most_the_input_is_kept(name: str, dtype: torch.dtype) -> None:
    x, values = _case(name, 1000, dtype)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        getattr(functional, name)(x, *values, fused=True)
    large = [t for t in kept if t.numel() > 1]
    assert sum(t.numel() * t.element_size() for t in large) <= x.numel() * x.element_size()


@needs_kernels
def test_moving_the_schedule_before_the_backward_pass_is_noticed() -> None:
    act = DSReLU.released()
    clock = Clock(act, 10)
    y = act(torch.randn(5, requires_grad=True))
    clock.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


# --- in place -----------------------------------------------------------------------------------------------------------


def _in_place(function: Any, x: Tensor, *values: Any, fused: bool | None) -> tuple[Tensor, list[Tensor | None], int]:
    """What comes out, the gradients, and how many bytes of large tensors were kept beyond the output."""
    leaf = x.detach().clone().requires_grad_()
    coefficients = [v.detach().clone().requires_grad_() if isinstance(v, Tensor) else v for v in values]
    kept: list[Tensor] = []
    # Something whose output nobody needs, as a normalisation in evaluation mode.
    z = leaf + 0.0
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = function(z, *coefficients, inplace=True, fused=fused)
    assert y.data_ptr() == z.data_ptr()
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype)).sum().backward()
    extra = sum(t.nbytes for t in kept if t.numel() > 1 and t.data_ptr() != z.data_ptr())
    return y.detach(), [leaf.grad, *(v.grad for v in coefficients if isinstance(v, Tensor))], extra


@pytest.mark.parametrize("name", ["dsrelu", "prelu"])
@pytest.mark.parametrize("fused", [False, pytest.param(None, marks=needs_kernels)])
@pytest.mark.parametrize("value", [1.7, torch.tensor([1.7], dtype=torch.float64)], ids=["fixed", "learned"])
def test_in_place_gives_the_same_and_keeps_nothing(name: str, fused: bool | None, value: Any) -> None:
    function = getattr(functional, name)
    x = torch.randn(200, dtype=torch.float64)
    x[:5] = 0
    y, gradients, extra = _in_place(function, x, value, fused=fused)
    leaf = x.clone().requires_grad_()
    coefficient = value.clone().requires_grad_() if isinstance(value, Tensor) else value
    expected = function(leaf, coefficient, fused=False)
    (expected * torch.linspace(-1, 1, x.numel(), dtype=x.dtype)).sum().backward()
    torch.testing.assert_close(y, expected.detach())
    torch.testing.assert_close(gradients[0], leaf.grad)
    if isinstance(coefficient, Tensor):
        torch.testing.assert_close(gradients[1], coefficient.grad)
    if fused is None:
        assert extra == 0


@needs_kernels
def test_in_place_gradients_of_gradients() -> None:
    x = torch.randn(20, dtype=torch.float64, requires_grad=True)
    s = torch.tensor([1.7], dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        x[x.abs() < 0.05] = 0.3
    run = lambda z, v: functional.dsrelu(z + 0.0, v, inplace=True, fused=True).square()  # noqa: E731
    assert torch.autograd.gradcheck(run, (x, s))
    assert torch.autograd.gradgradcheck(run, (x, s))


def test_in_place_with_a_negative_weight_is_right_all_the_same() -> None:
    x = torch.randn(50, dtype=torch.float64)
    y, gradients, _ = _in_place(functional.prelu, x, torch.tensor([-0.5], dtype=torch.float64), fused=None)
    leaf = x.clone().requires_grad_()
    weight = torch.tensor([-0.5], dtype=torch.float64, requires_grad=True)
    expected = functional.prelu(leaf, weight, fused=False)
    (expected * torch.linspace(-1, 1, 50, dtype=x.dtype)).sum().backward()
    torch.testing.assert_close(y, expected.detach())
    torch.testing.assert_close(gradients[0], leaf.grad)
    torch.testing.assert_close(gradients[1], weight.grad)


@pytest.mark.parametrize("act", [DSReLU, PReLU])
def test_modules_in_place(act: Any) -> None:
    module = act(inplace=True)
    assert "inplace=True" in repr(module)
    model = nn.Sequential(nn.Linear(4, 6), module, nn.Linear(6, 2)).double()
    x = torch.randn(3, 4, dtype=torch.float64)
    model(x).sum().backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    module.inplace = False
    model(x).sum().backward()
    for a, b in zip(gradients, [p.grad for p in model.parameters() if p.grad is not None], strict=True):
        torch.testing.assert_close(a, b)


def test_a_leaf_that_learns_is_left_as_it_is() -> None:
    x = torch.randn(5, requires_grad=True)
    before = x.detach().clone()
    with pytest.raises(RuntimeError, match="leaf Variable"):
        functional.dsrelu(x, 2.0, inplace=True)
    assert torch.equal(x.detach(), before)
