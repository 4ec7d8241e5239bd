"""The CPU kernels against the readable formulas, in float64 and for every gradient."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import pliant.functional as functional
from pliant.kernels import cpu

if cpu.unavailable() is not None:
    pytest.skip(cpu.unavailable() or "", allow_module_level=True)

from pliant.kernels import _cpu

VALUES: dict[str, tuple[float, ...]] = {
    "dsrelu": (1.75,),
    "srelu": (1.125, 0.3125),
    "arelu": (0.875, 0.25, 0.125, -0.375),
    "asigmoid": (1.25, 0.75, -0.25, 0.375),
    "atanh": (0.875, -1.25, 0.25, 0.125),
    "affine_relu": (1.25, -0.75, -0.25, 0.375),
    "prelu": (0.25,),
    "swish": (1.375,),
    "pelu": (1.25, 0.8125),
    "frelu": (-0.375,),
}
LINEAR = ("dsrelu", "arelu", "affine_relu", "prelu", "frelu")
SIZES = (0, 1, 63, 1024, 2500, 100003)
HALVES = (torch.float16, torch.bfloat16)


@pytest.fixture(params=_cpu.instruction_sets(), autouse=True)
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test runs with every instruction set that this machine has."""
    before = cpu.isa()
    _cpu.select(request.param)
    yield request.param
    _cpu.select(before)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)


def readable(name: str, grad: Tensor, x: Tensor, values: tuple[float, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Value, gradient of x, and what each element adds to each coefficient's gradient (k, n): float64 autograd."""
    x = x.detach().double().flatten().requires_grad_()
    columns = [torch.full_like(x, v, requires_grad=True) for v in values]
    y = getattr(functional, name)(x, *columns, channel_dim=0)
    gradients = torch.autograd.grad(y, [x, *columns], grad.double().flatten(), allow_unused=True)
    terms = [torch.zeros_like(x) if g is None else g for g in gradients]
    return y.detach(), terms[0], torch.stack(terms[1:])


def compare(
    name: str,
    grad: Tensor,
    x: Tensor,
    values: tuple[float, ...],
    out: Tensor | None,
    grad_x: Tensor | None,
    sums: Tensor | None,
) -> None:
    """AssertionError unless results for float32 or float64 are those of the readable formula up to rounding."""
    epsilon = torch.finfo(x.dtype).eps
    y, slope, terms = readable(name, grad, x, values)
    reach = 8 * epsilon * (1 + max(map(abs, values))) ** 2 * (1 + x.double().flatten().abs())
    if out is not None:
        assert out.shape == x.shape
        assert out.dtype == x.dtype
        error = (out.double().flatten() - y).abs()
        assert bool((error <= reach).all()), f"{name}: value off by {error.max()}"
    if grad_x is not None:
        assert grad_x.shape == x.shape
        assert grad_x.dtype == x.dtype
        error = (grad_x.double().flatten() - slope).abs()
        assert bool((error <= reach * grad.double().flatten().abs()).all()), f"{name}: gradient off by {error.max()}"
    if sums is not None:
        assert sums.shape == (len(values),)
        assert sums.dtype == (torch.float64 if x.dtype is torch.float64 else torch.float32)
        error = (sums.double() - terms.sum(1)).abs()
        allowed = 32 * epsilon * (terms.abs().sum(1) + 1e-30)
        if name in ("asigmoid", "atanh", "swish", "pelu", "srelu"):  # a term is as exact as its exponential
            allowed = allowed + 8 * epsilon * (grad.double().abs().sum() * (1 + max(map(abs, values))) ** 2)
        assert bool((error <= allowed).all()), f"{name}: gradients of coefficients off by {error}"


def wanted(name: str) -> tuple[bool, ...]:
    return (True,) * (1 + len(VALUES[name]))


def check(name: str, grad: Tensor, x: Tensor) -> None:
    values = VALUES[name]
    out = cpu.forward(name, x, values)
    grad_x, sums = cpu.backward(name, grad, x, values, wanted(name))
    assert out.stride() == torch.empty_like(x).stride()
    if x.dtype not in HALVES:
        compare(name, grad, x, values, out, grad_x, sums)
        return
    # The half precisions are the float32 results, rounded once; so they are compared bit for bit.
    assert torch.equal(out, cpu.forward(name, x.float(), values).to(x.dtype))
    wide_x, wide_sums = cpu.backward(name, grad.float(), x.float(), values, wanted(name))
    assert grad_x is not None
    assert wide_x is not None
    assert sums is not None
    assert torch.equal(grad_x, wide_x.to(x.dtype))
    assert torch.equal(sums, wide_sums)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES], ids=str)
@pytest.mark.parametrize("name", VALUES)
def test_value_and_gradients(name: str, dtype: torch.dtype) -> None:
    for size in SIZES:
        check(name, draw(size, dtype=dtype, seed=1), draw(size, dtype=dtype))


@pytest.mark.parametrize("name", LINEAR)
def test_piecewise_linear_functions_agree_bit_for_bit(name: str) -> None:
    x = draw(2500).requires_grad_()
    grad = draw(2500, seed=1)
    y = getattr(functional, name)(x, *VALUES[name])
    y.backward(grad)
    assert torch.equal(cpu.forward(name, x.detach(), VALUES[name]), y.detach())
    grad_x, sums = cpu.backward(name, grad, x.detach(), VALUES[name], (True, *(False,) * len(VALUES[name])))
    assert sums is None
    assert grad_x is not None
    assert torch.equal(grad_x, x.grad)


LAYOUTS = {
    "every other column": lambda t: t[..., ::2],
    "transposed": lambda t: t.transpose(1, 3),
    "one of two transposed": lambda t: t[:, 1:, :, 1:].transpose(0, 2),
    "channels last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "channels last, cut": lambda t: t.contiguous(memory_format=torch.channels_last)[:, :, 1:],
    "expanded": lambda t: t[:, :1].expand(t.shape),
    "one value": lambda t: t[:1, :1, :1, :1].expand(t.shape),
    "one dimension of size 1": lambda t: t[:, :, 2:3],
    "scalar": lambda t: t[0, 0, 0, 0],
    "empty": lambda t: t[:, :0].transpose(1, 2),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides(layout: str, dtype: torch.dtype) -> None:
    view = LAYOUTS[layout]
    for name in ("srelu", "arelu"):
        x = view(draw(6, 5, 9, 41, dtype=dtype))
        dense = draw(*x.shape, dtype=dtype, seed=1)
        check(name, dense, x)
        check(name, view(draw(6, 5, 9, 41, dtype=dtype, seed=1)), x)
        check(name, dense[..., :1].expand(x.shape) if x.dim() else dense, x)
        check(name, draw(1, dtype=dtype, seed=1).squeeze().expand(x.shape), x.contiguous())


def test_large_strided_input_is_divided_between_threads_without_a_seam() -> None:
    x = draw(64, 33, 17, 9).to(memory_format=torch.channels_last)
    check("pelu", draw(64, 33, 17, 9, seed=1), x)


@pytest.mark.parametrize("name", VALUES)
def test_special_values(name: str) -> None:
    points = [0.0, -0.0, 1e4, -1e4, 88.0, -88.0, 104.0, -104.0, 1e-40, -1e-40, 1e-8, -1e-8]
    finite = torch.tensor(points).requires_grad_()
    values = VALUES[name]
    y = getattr(functional, name)(finite, *values)
    (gradient,) = torch.autograd.grad(y.sum(), finite)
    out = cpu.forward(name, finite.detach(), values)
    torch.testing.assert_close(out, y.detach(), rtol=1e-6, atol=1e-37)
    grad_x, sums = cpu.backward(name, torch.ones(len(points)), finite.detach(), values, wanted(name))
    assert grad_x is not None
    torch.testing.assert_close(grad_x, gradient, rtol=2e-6, atol=1e-6)
    assert sums is not None
    assert bool(sums.isfinite().all())
    infinite = torch.tensor([torch.inf, -torch.inf, torch.nan])
    torch.testing.assert_close(
        cpu.forward(name, infinite, values), getattr(functional, name)(infinite, *values), equal_nan=True
    )


def test_bfloat16_keeps_nan_and_overflows_to_infinity() -> None:
    big = torch.finfo(torch.bfloat16).max
    x = torch.tensor([torch.nan, -torch.nan, torch.inf, -torch.inf, big, -0.0], dtype=torch.bfloat16)
    out = cpu.forward("dsrelu", x, (2.0,))
    torch.testing.assert_close(out, functional.dsrelu(x, 2.0), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_every_half_precision_number_is_read_and_rounded_as_torch_does(dtype: torch.dtype) -> None:
    every = torch.arange(-32768, 32768, dtype=torch.int16).view(dtype)
    assert torch.equal(cpu.forward("prelu", every, (1.0,)).nan_to_num(7.0), every.nan_to_num(7.0))
    for slope in (1.001, 0.3, 1e-5, 3e4):
        ours = cpu.forward("prelu", -every.abs(), (slope,))
        assert torch.equal(ours.nan_to_num(7.0), functional.prelu(-every.abs(), slope).nan_to_num(7.0))


def test_ties_of_arelu_belong_to_the_first_line() -> None:
    x = draw(100)
    _, sums = cpu.backward("arelu", torch.ones(100), x, (1.0, 1.0, 0.0, 0.0), wanted("arelu"))
    assert sums is not None
    assert sums[1] == 0
    assert sums[3] == 0
    assert sums[2] == 100


def test_gradient_at_the_kink() -> None:
    zero, one = torch.zeros(1), torch.ones(1)
    expected = {"dsrelu": 1.0, "srelu": 0.3125, "prelu": 0.25, "frelu": 0.0, "pelu": 1.25 / 0.8125}
    for name, slope in expected.items():
        grad_x, _ = cpu.backward(name, one, zero, VALUES[name], wanted(name))
        assert grad_x is not None
        assert grad_x.item() == pytest.approx(slope, rel=1e-6), name


@pytest.mark.parametrize("name", ["dsrelu", "prelu"])
def test_in_place_and_from_the_output(name: str) -> None:
    for x in [x for size in SIZES for x in (draw(size), draw(size, 2)[:, 1], draw(2, size).t())]:
        expected = cpu.forward(name, x, VALUES[name])
        grad = draw(*x.shape, seed=1)
        grad_x, sums = cpu.backward(name, grad, x, VALUES[name], wanted(name))
        y = cpu.forward_(name, x, VALUES[name])
        assert y is x
        assert torch.equal(y, expected)
        again, sums_again = cpu.backward_from_output(name, grad, y, VALUES[name], wanted(name))
        assert again is not None
        assert torch.equal(again, grad_x)
        torch.testing.assert_close(sums_again, sums, rtol=1e-4, atol=1e-4)


def test_in_place_leaves_the_neighbours_alone() -> None:
    whole = draw(300, 2)
    before = whole.clone()
    cpu.forward_("dsrelu", whole[:, 1], (1.75,))
    assert torch.equal(whole[:, 0], before[:, 0])
    assert torch.equal(whole[:, 1], functional.dsrelu(before[:, 1], 1.75))


def test_in_place_refuses_shared_memory() -> None:
    with pytest.raises(RuntimeError, match="share memory"):
        cpu.forward_("dsrelu", torch.ones(1).expand(4), (1.75,))


@pytest.mark.parametrize("name", VALUES)
def test_every_element_of_the_output_is_written_and_none_beside_it(name: str) -> None:
    number, count = cpu._FUNCTIONS[name]
    for size in SIZES:
        x, grad = draw(size), draw(size, seed=1)
        poisoned = torch.full((size + 32,), torch.nan)
        sums = torch.full((count + 2,), torch.nan)
        start = poisoned.data_ptr() + 64
        for backward in (False, True):
            poisoned.fill_(torch.nan)
            if backward:
                _cpu.backward(number, 0, 2, VALUES[name], start, sums.data_ptr(), grad.data_ptr(), x.data_ptr(), size)
                assert bool(sums[:count].isfinite().all())
                assert bool(sums[count:].isnan().all())
            else:
                _cpu.forward(number, 0, 2, VALUES[name], start, x.data_ptr(), size)
            assert bool(poisoned[16 : 16 + size].isfinite().all())
            assert bool(poisoned[:16].isnan().all())
            assert bool(poisoned[16 + size :].isnan().all())


@pytest.mark.parametrize("name", VALUES)
def test_one_and_two_threads_agree_bit_for_bit(name: str, threads: None) -> None:
    x, grad = draw(300001), draw(300001, seed=1)
    strided = draw(300001, 2, seed=2)[:, 0]
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(
            [
                cpu.forward(name, x, VALUES[name]),
                *cpu.backward(name, grad, x, VALUES[name], wanted(name)),
                *cpu.backward(name, strided, x, VALUES[name], wanted(name)),
            ]
        )
    for one, other in zip(results[0] * 2, results[1] + results[2], strict=True):
        assert isinstance(one, Tensor)
        assert isinstance(other, Tensor)
        assert torch.equal(one, other)


def test_only_what_is_wanted_is_computed() -> None:
    x, grad = draw(5000), draw(5000, seed=1)
    both_x, both_sums = cpu.backward("pelu", grad, x, VALUES["pelu"], (True, True, True))
    only_x, no_sums = cpu.backward("pelu", grad, x, VALUES["pelu"], (True, False, False))
    no_x, only_sums = cpu.backward("pelu", grad, x, VALUES["pelu"], (False, False, True))
    assert no_x is None
    assert no_sums is None
    assert both_x is not None
    assert both_sums is not None
    assert torch.equal(both_x, only_x)
    assert torch.equal(both_sums, only_sums)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_coefficients_as_tensors(dtype: torch.dtype) -> None:
    x = draw(100)
    values = tuple(torch.nn.Parameter(torch.tensor([v], dtype=dtype)) for v in VALUES["arelu"])
    assert cpu.refusal("arelu", x, values) is None
    assert torch.equal(cpu.forward("arelu", x, values), cpu.forward("arelu", x, VALUES["arelu"]))


def test_sums_of_many_equal_terms_keep_their_digits() -> None:
    _, sums = cpu.backward("frelu", torch.full((3_000_000,), 0.1), torch.ones(3_000_000), (0.0,), (False, True))
    assert sums is not None
    assert sums.item() == pytest.approx(300_000.0045, rel=1e-6)


BREAKS = {
    "value": lambda out, grad_x, sums: (out * (1 + 1e-5), grad_x, sums),
    "one element of the value": lambda out, grad_x, sums: (out.index_fill(0, torch.tensor([1023]), 0.0), grad_x, sums),
    "one element unwritten": lambda out, grad_x, sums: (out.index_fill(0, torch.tensor([7]), torch.nan), grad_x, sums),
    "gradient of x": lambda out, grad_x, sums: (out, grad_x.flip(0), sums),
    "gradients of coefficients": lambda out, grad_x, sums: (out, grad_x, sums * (1 + 1e-3)),
    "two coefficients exchanged": lambda out, grad_x, sums: (out, grad_x, sums.flip(0)),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_a_broken_kernel_fails(broken: str) -> None:
    x, grad, values = draw(1024), draw(1024, seed=1), VALUES["arelu"]
    out = cpu.forward("arelu", x, values)
    grad_x, sums = cpu.backward("arelu", grad, x, values, wanted("arelu"))
    compare("arelu", grad, x, values, out, grad_x, sums)
    with pytest.raises(AssertionError):
        compare("arelu", grad, x, values, *BREAKS[broken](out, grad_x, sums))


def ulps(ours: Tensor, exact: Tensor) -> float:
    """The largest error in units of the last place of the exact result rounded to float32."""
    rounded = exact.float()
    spacing = (torch.nextafter(rounded.abs(), torch.tensor(torch.inf)) - rounded.abs()).double()
    return float(((ours.double() - exact).abs() / spacing).max())


def test_accuracy_of_the_exponential_in_units_of_the_last_place(instruction_set: str) -> None:
    x = -torch.logspace(-30, 1.935, 400_001, dtype=torch.float64).float()  # down to -86.1
    one, exact = torch.ones_like(x), x.double()
    exp, _ = cpu.backward("srelu", one, x, (1.0, 1.0), (True, False, False))
    assert exp is not None
    both = torch.cat([x, -x])
    tanh = cpu.forward("atanh", both, (1.0, 1.0, 0.0, 0.0))
    sigmoid = cpu.forward("asigmoid", both, (1.0, 1.0, 0.0, 0.0))
    measured = {
        "exp": ulps(exp, exact.exp()),
        "expm1": ulps(cpu.forward("srelu", x, (1.0, 1.0)), exact.expm1()),
        "tanh": ulps(tanh, both.double().tanh()),
        "sigmoid": ulps(sigmoid, both.double().sigmoid()),
    }
    print(instruction_set, measured)
    bounds = {"exp": 1.5, "expm1": 1.5, "tanh": 3.0, "sigmoid": 2.5}
    assert all(measured[f] <= bounds[f] for f in bounds), measured


def test_accuracy_in_float64() -> None:
    x = -torch.logspace(-300, 2.8, 100_001, dtype=torch.float64)
    exp, _ = cpu.backward("srelu", torch.ones_like(x), x, (1.0, 1.0), (True, False, False))
    torch.testing.assert_close(exp, x.exp(), rtol=1e-15, atol=0)
    torch.testing.assert_close(cpu.forward("srelu", x, (1.0, 1.0)), x.expm1(), rtol=1e-15, atol=0)
    both = torch.cat([x, -x])
    torch.testing.assert_close(cpu.forward("atanh", both, (1.0, 1.0, 0.0, 0.0)), both.tanh(), rtol=1.5e-15, atol=0)


def test_refusals_say_why() -> None:
    x = draw(4)
    assert cpu.refusal("srelu", x, (1.0, 0.25)) is None
    assert "no CPU kernel for 'gelu'" in str(cpu.refusal("gelu", x, ()))
    assert "takes 2 coefficients" in str(cpu.refusal("srelu", x, (1.0,)))
    assert "one per channel" in str(cpu.refusal("prelu", x, (torch.ones(4),)))
    assert "meta" in str(cpu.refusal("prelu", x.to("meta"), (0.25,)))
    assert "int64" in str(cpu.refusal("prelu", x.long(), (0.25,)))
    assert "layout" in str(cpu.refusal("prelu", x.to_sparse(), (0.25,)))
    assert "resolve_neg" in str(cpu.refusal("prelu", torch.view_as_complex(draw(4, 2)).conj().imag, (0.25,)))


def test_a_gradient_that_is_a_negated_view() -> None:
    grad = torch.view_as_complex(draw(64, 2)).conj().imag
    assert grad.is_neg()
    ours, _ = cpu.backward("dsrelu", grad, draw(64), (1.75,), (True, False))
    expected, _ = cpu.backward("dsrelu", grad.resolve_neg(), draw(64), (1.75,), (True, False))
    assert ours is not None
    assert torch.equal(ours, expected)


connected = pytest.mark.skipif(not cpu.serves(0, torch.ones(1), (1.0,)), reason="this torch does not say where its tensors lie")


@connected
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", VALUES)
def test_a_usual_call_gives_the_same_bits(name: str, size: int, dtype: torch.dtype) -> None:
    x, grad = draw(size, dtype=dtype), draw(size, dtype=dtype, seed=1)
    values = tuple(torch.tensor([v], requires_grad=True) for v in VALUES[name])
    number, out = cpu.number(name), torch.full_like(x, torch.nan)
    _cpu.forward(number, cpu._DTYPES[dtype], 2, values, out.data_ptr(), x.data_ptr(), size)
    assert cpu.serves(number, x, values)
    quick = _cpu.apply(number, 2, x, values, False)
    assert quick.dtype is dtype
    assert torch.equal(quick, out)
    grad_x, sums = cpu.backward(name, grad, x, values, (True, True, *[False] * (len(values) - 1)))
    dealt = cpu.gradients(number, grad, x, values, (False, True, *[True] * len(values)))
    assert dealt is not None
    assert dealt[0] is None
    assert grad_x is not None
    assert sums is not None
    assert torch.equal(dealt[1], grad_x)  # type: ignore[arg-type]
    for part, total, value in zip(dealt[2:], sums, values, strict=True):
        assert part is not None
        assert (part.shape, part.dtype) == (value.shape, value.dtype)
        assert torch.equal(part, total.to(value.dtype).reshape(1))


@connected
@pytest.mark.parametrize("needs", [(False, True, False, True), (False, False, True, False), (False, True, False, False)])
def test_a_usual_call_makes_the_gradients_that_are_needed(needs: tuple[bool, ...]) -> None:
    x, grad = draw(100), draw(100, seed=1)
    values = (1.125, torch.tensor(0.3125, dtype=torch.float64))
    dealt = cpu.gradients(cpu.number("srelu"), grad, x, values, needs)
    assert dealt is not None
    # A number has no gradient, whoever asks for it.
    assert [part is not None for part in dealt] == [False, needs[1], False, needs[3]]
    if needs[3]:
        _, sums = cpu.backward("srelu", grad, x, values, (False, True, True))
        assert sums is not None
        assert dealt[3] is not None
        assert dealt[3].dtype is torch.float64
        assert dealt[3].shape == ()
        torch.testing.assert_close(dealt[3].float(), sums[1])


class Marked(Tensor):
    """Somebody's tensor subclass."""


@connected
@pytest.mark.parametrize(
    ("what", "x", "value"),
    [
        ("a turned view", torch.view_as_complex(draw(4, 2)).conj().imag, 0.25),
        ("a turned coefficient", draw(4), torch.view_as_complex(draw(1, 2)).conj().imag),
        ("whole numbers", torch.arange(4), 0.25),
        ("no numbers", torch.ones(3, device="meta"), 0.25),
        ("few numbers", torch.eye(3).to_sparse(), 0.25),
        ("one value a channel", draw(4), draw(4)),
        ("somebody's tensor", draw(4).as_subclass(Marked), 0.25),
        ("a coefficient of that kind", draw(4), draw(1).as_subclass(Marked)),
        ("a coefficient elsewhere", draw(4), torch.ones(1, device="meta")),
        ("no tensor", 3.0, 0.25),
        ("a flag for a coefficient", draw(4), True),
    ],
)
def test_what_is_not_usual_is_left_to_the_caller(what: str, x: Tensor, value: float | Tensor) -> None:
    number = cpu.number("prelu")
    assert not cpu.serves(number, x, (value,)), what
    assert _cpu.apply(number, 1, x, (value,), False) is None
    assert _cpu.differentiate(number, 1, draw(4), x, (value,), (False, True, True)) is None


@pytest.mark.parametrize("where", ["input", "coefficient", "gradient"])
def test_tensors_without_memory(where: str) -> None:
    def nothing(n: int) -> Tensor:
        return torch._efficientzerotensor(n)  # type: ignore[attr-defined,no-any-return]

    found = []
    for fused in (None, False):
        x = nothing(4) if where == "input" else draw(4).requires_grad_()
        weight = nothing(1) if where == "coefficient" else torch.tensor([0.25], requires_grad=True)
        y = functional.prelu(x, weight, fused=fused)
        learned = [v for v in (x, weight) if v.requires_grad]
        grads = torch.autograd.grad(y, learned, nothing(4) if where == "gradient" else torch.ones(4))
        found.append([y.detach(), *grads])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two)


@connected
def test_a_usual_call_is_dense_and_of_one_kind() -> None:
    number, x = cpu.number("prelu"), draw(6, 4)
    assert cpu.serves(number, x.t(), (0.25,))
    assert _cpu.apply(number, 1, x.t(), (0.25,), False) is None
    assert _cpu.apply(number, 1, draw(6).as_strided((6, 1), (1, 7)), (0.25,), False) is not None
    for grad, at in ((x.t(), x), (x, x.t()), (x.double(), x), (x[:3], x), (torch.tensor(1.0).expand(6, 4), x)):
        assert _cpu.differentiate(number, 1, grad, at, (0.25,), (False, True, False)) is None
    half = torch.tensor([0.25], dtype=torch.bfloat16)
    assert _cpu.apply(number, 1, x, (half,), False) is None
    torch.testing.assert_close(cpu.forward("prelu", x, (half,)), functional.prelu(x, 0.25))


@connected
def test_numbers_that_fit_no_kernel_are_not_served() -> None:
    x = draw(4)
    for number, values in ((-1, (1.0,)), (99, (1.0,)), (cpu.number("srelu"), (1.0,))):
        assert not cpu.serves(number, x, values)
        assert _cpu.apply(number, 1, x, values, False) is None
        assert _cpu.differentiate(number, 1, x, x, values, (False, True, False)) is None
    assert _cpu.apply(cpu._FROM_OUTPUT["prelu"][0], 1, x, (0.25,), False) is None
    assert _cpu.differentiate(cpu.number("prelu"), 1, x, x, (0.25,), (True, True)) is None
    with pytest.raises(TypeError, match="3 arguments"):
        _cpu.fits(0, x)
    with pytest.raises(TypeError):
        _cpu.fits("prelu", x, (0.25,))
    with pytest.raises(ValueError, match="Capsule"):
        _cpu.connect(None, Tensor, torch.nn.Parameter, torch.empty_like, Tensor.is_neg)


def test_a_torch_that_does_not_say_where_its_tensors_lie() -> None:
    program = """
import torch
del torch.Tensor.__dlpack_c_exchange_api__
from pliant import AReLU
from pliant.kernels import _cpu, cpu
x = torch.linspace(-3, 3, 1001, requires_grad=True)
assert not cpu.serves(cpu.number("dsrelu"), x, (1.5,)) and _cpu.apply(0, 1, x, (1.5,), False) is None
for layer in (AReLU(fused=True), AReLU(fused=False)):
    x.grad = None
    layer(x).sin().sum().backward()
    print([x.grad.double().square().sum().item(), *(p.grad.item() for p in layer.parameters())])
"""
    if not hasattr(Tensor, "__dlpack_c_exchange_api__"):
        program = program.replace("del torch.Tensor.__dlpack_c_exchange_api__", "")
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    fused, plain = map(ast.literal_eval, run.stdout.splitlines())
    assert fused == pytest.approx(plain, rel=1e-5)


def test_functions_are_those_of_the_readable_versions() -> None:
    assert set(cpu._FUNCTIONS) == set(VALUES)
    assert {name: count for name, (_, count) in cpu._FUNCTIONS.items()} == {name: len(v) for name, v in VALUES.items()}
    assert set(cpu._FROM_OUTPUT) == {"dsrelu", "prelu"}


def test_without_a_pool_to_share_it_brings_its_own_threads() -> None:
    program = f"""
import array, importlib.util
spec = importlib.util.spec_from_file_location("pliant.kernels._cpu", {_cpu.__file__!r})
cpu = importlib.util.module_from_spec(spec); spec.loader.exec_module(cpu)
assert not cpu.shares_pool()
n = 200001
x = array.array("f", (i % 1001 - 500.0 for i in range(n)))
outs = [array.array("f", [float("nan")]) * n for _ in range(2)]
sums = [array.array("f", [0.0]) for _ in range(2)]
at = lambda a: a.buffer_info()[0]
for threads in (1, 2):
    cpu.backward(0, 0, threads, (1.5,), at(outs[threads - 1]), at(sums[threads - 1]), at(x), at(x), n)
assert outs[0] == outs[1] and sums[0] == sums[1], sums
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_arguments_that_fit_no_kernel_are_errors() -> None:
    address = draw(4).data_ptr()
    with pytest.raises(ValueError, match="no such function"):
        _cpu.forward(99, 0, 1, (1.0,), address, address, 4)
    with pytest.raises(ValueError, match="2 coefficients expected, 1 given"):
        _cpu.forward(cpu._FUNCTIONS["srelu"][0], 0, 1, (1.0,), address, address, 4)
    with pytest.raises(ValueError, match="backward pass only"):
        _cpu.forward(cpu._FROM_OUTPUT["prelu"][0], 0, 1, (1.0,), address, address, 4)
    with pytest.raises(ValueError, match="a layout is"):
        _cpu.forward(0, 0, 1, (1.0,), address, address, ((4,), (1,)))
    with pytest.raises(ValueError, match="does not run"):
        _cpu.select("mmx")
