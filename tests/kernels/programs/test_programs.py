"""The GPU programs against float64 autograd of the readable formulas."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import pliant.functional
from pliant.errors import DomainError
from pliant.kernels import gpu

triton = pytest.importorskip("triton", reason="Triton is not installed")

import triton.language as tl  # noqa: E402

from pliant.kernels import gpu_programs  # noqa: E402

DEVICE = "cpu" if gpu_programs.INTERPRETED else "cuda"

# No coefficient is 1 or 0, so that one that is dropped or exchanged shows.
VALUES: dict[str, tuple[float, ...]] = {
    "dsrelu": (1.7,),
    "srelu": (1.1, 0.3),
    "arelu": (1.2, 0.25, 0.1, -0.2),
    "asigmoid": (1.3, 0.8, 0.1, -0.2),
    "atanh": (1.3, 0.8, 0.1, -0.2),
    "prelu": (0.25,),
    "swish": (1.2,),
    "pelu": (1.2, 0.7),
    "frelu": (-0.4,),
}
SIZES = {
    torch.float32: (0, 1, 63, 1024, 2500, 20000),
    torch.float64: (0, 1, 63, 1024, 2500),
    # The arithmetic is that of float32.
    torch.bfloat16: (0, 1, 63, 2500),
    torch.float16: (0, 1, 63, 2500),
}
# Relative and absolute. The interpreter truncates to bfloat16 where a GPU rounds.
PRECISION = {
    torch.float32: (1e-6, 1e-6),
    torch.float64: (1e-14, 1e-14),
    torch.bfloat16: (2.0**-7 if gpu_programs.INTERPRETED else 2.0**-8, 1e-6),
    torch.float16: (2.0**-10, 1e-6),
}


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x.mul(3).to(dtype).to(DEVICE)


def one_element(values: Sequence[float], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.tensor([v], dtype=dtype, device=DEVICE) for v in values]


def readable(name: str, grad: Tensor, x: Tensor, values: Sequence[float | Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Value, gradient of x, and each element's share of the gradient of each coefficient, in float64 on the CPU."""
    z = x.detach().cpu().double().clone().requires_grad_(True)
    numbers = [v.item() if isinstance(v, Tensor) else v for v in values]
    everywhere = [torch.full_like(z, n, requires_grad=True) for n in numbers]
    y = inspect.unwrap(getattr(pliant.functional, name))(z, *everywhere)
    y.backward(grad.detach().cpu().double())
    assert z.grad is not None
    return y.detach(), z.grad, [c.grad if c.grad is not None else torch.zeros_like(z) for c in everywhere]


def close(got: Tensor, expected: Tensor, dtype: torch.dtype, *, equal_nan: bool = False) -> None:
    rtol, atol = PRECISION[dtype]
    assert got.dtype is dtype
    torch.testing.assert_close(got.cpu().double(), expected, rtol=rtol, atol=atol, equal_nan=equal_nan)


def check(name: str, x: Tensor, values: Sequence[float | Tensor], grad: Tensor | None = None) -> None:
    """Value and every gradient of one call."""
    if grad is None:
        grad = normal(*x.shape, dtype=x.dtype, seed=1)
    assert gpu.refusal(name, x, values) is None
    y, grad_x, shares = readable(name, grad, x, values)
    got = gpu.forward(name, x, values)
    assert got.shape == x.shape
    assert got.stride() == torch.empty_like(x).stride()
    close(got, y, x.dtype)
    got_x, got_values = gpu.backward(name, grad, x, values, (True,) * (1 + len(values)))
    assert got_x is not None
    assert got_values is not None
    assert got_x.stride() == torch.empty_like(x).stride()
    close(got_x, grad_x, x.dtype)
    sums_in = torch.float64 if x.dtype is torch.float64 else torch.float32
    assert got_values.dtype is sums_in
    assert got_values.shape == (len(values),)
    # A sum is judged by the size of what is summed, not by what is left of it; and the reference has a rounding error of its
    # own where it forms 1 - h.
    floor = (grad.abs() * x.abs().clamp(min=1)).cpu().double().sum().item()
    for k, share in enumerate(shares):
        scale = share.abs().sum().item() + floor
        assert abs(got_values[k].item() - share.sum().item()) <= PRECISION[sums_in][0] * scale


@pytest.mark.parametrize("dtype", PRECISION, ids=str)
@pytest.mark.parametrize("name", VALUES)
def test_value_and_gradients(name: str, dtype: torch.dtype) -> None:
    for size in SIZES[dtype]:
        check(name, normal(size, dtype=dtype), one_element(VALUES[name]))


@pytest.mark.parametrize("name", VALUES)
def test_coefficients_as_numbers_and_as_tensors_of_any_dtype(name: str) -> None:
    x = normal(1100)
    check(name, x, VALUES[name])
    check(name, x.double(), VALUES[name])
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        check(name, x, one_element(VALUES[name], dtype))
    mixed = [v if i % 2 else torch.tensor(v, device=DEVICE) for i, v in enumerate(VALUES[name])]
    check(name, x, mixed)


def test_coefficient_is_read_in_place() -> None:
    # As a schedule keeps it: one float32 in the middle of an integer buffer.
    buffer = torch.zeros(3, dtype=torch.int32, device=DEVICE)
    slope = buffer[1:2].view(torch.float32)
    for value in (3.5, 0.2):
        slope.fill_(value)
        check("dsrelu", normal(2500), [slope])


@pytest.mark.parametrize("name", VALUES)
def test_other_coefficients(name: str) -> None:
    others = {
        "dsrelu": [(0.3,), (1.0,)],
        "srelu": [(2.0, 0.0), (1.0507, 1.7581)],
        "arelu": [(1.0, 1.0, 0.0, 0.0), (-0.5, 1.5, 0.2, 0.1), (1.0, 0.0, 0.0, 0.0)],
        "asigmoid": [(1.0, 1.0, 0.0, 0.0), (-2.0, -1.0, 0.5, 0.3)],
        "atanh": [(1.0, 1.0, 0.0, 0.0), (-2.0, -1.0, 0.5, 0.3)],
        "prelu": [(0.0,), (-1.0,), (1.5,)],
        "swish": [(0.0,), (-1.0,), (20.0,)],
        "pelu": [(1.0, 1.0), (0.1, 3.0), (1.0, -0.7)],
        "frelu": [(0.0,)],
    }
    for values in others[name]:
        check(name, normal(1100), one_element(values))


def layouts() -> dict[str, tuple[Tensor, Tensor]]:
    """Inputs with their gradients, whose places in memory do not correspond."""
    x = normal(2, 3, 5, 7)
    g = normal(2, 3, 5, 7, seed=1)
    last = torch.channels_last
    one = normal(1, seed=1).reshape(())
    return {
        "both channels last": (x.to(memory_format=last), g.to(memory_format=last)),
        "channels last, contiguous gradient": (x.to(memory_format=last), g),
        "contiguous, channels last gradient": (x, g.to(memory_format=last)),
        "expanded gradient": (x, one.expand(2, 3, 5, 7)),
        "gradient expanded over pixels": (x, normal(2, 3, 1, 1, seed=1).expand(2, 3, 5, 7)),
        "channels last, expanded gradient": (x.to(memory_format=last), one.expand(2, 3, 5, 7)),
        "every second column": (normal(31, 40)[:, ::2], normal(31, 20, seed=1)),
        "every second row": (normal(62, 40)[::2], normal(31, 40, seed=1)),
        "transposed": (normal(31, 20).T, normal(20, 31, seed=1)),
        "permuted, five dimensions": (normal(2, 3, 4, 5, 6).permute(4, 1, 3, 0, 2), normal(6, 3, 5, 2, 4, seed=1)),
        "expanded input": (normal(20).expand(31, 20), normal(31, 20, seed=1)),
        "not aligned to 16 bytes": (normal(2501)[1:], normal(2501, seed=1)[1:]),
        "no dimension": (normal(1).reshape(()), normal(1, seed=1).reshape(())),
        "empty": (normal(0, 3).T, normal(3, 0, seed=1)),
    }


@pytest.mark.parametrize("layout", layouts())
def test_memory_formats(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, grad = layouts()[layout]
    for name in ("arelu", "srelu"):
        check(name, x, one_element(VALUES[name]), grad)
        check(name, x.to(torch.bfloat16), one_element(VALUES[name]), grad.to(torch.bfloat16))
    # As beyond 2^31 elements.
    monkeypatch.setattr(gpu, "_NARROW", 0)
    check("arelu", x, one_element(VALUES["arelu"]), grad)


def test_dense_tensors_need_no_strides() -> None:
    x = normal(2, 3, 5, 7).to(memory_format=torch.channels_last)
    assert gpu._geometry(x, torch.empty_like(x))[0] == ()
    assert gpu._geometry(normal(2, 3, 5, 7), x)[0] == (3, 35, 2)
    assert gpu._geometry(normal(4, 6).T, normal(4, 6).T)[0] == ()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", VALUES)
def test_special_finite_values(name: str, dtype: torch.dtype) -> None:
    magnitudes = [0.0, 1e-30, 1e-8, 1e-3, 0.3, 17.0, 87.0, 88.0, 104.0, 710.0, 1e4]
    x = torch.tensor([s * m for m in magnitudes for s in (1, -1)], dtype=dtype, device=DEVICE)
    check(name, x, one_element(VALUES[name]), torch.ones_like(x))


@pytest.mark.parametrize("name", VALUES)
def test_infinities_and_nan(name: str) -> None:
    x = torch.tensor([math.inf, -math.inf, math.nan], device=DEVICE)
    values = one_element(VALUES[name])
    y, _, _ = readable(name, torch.ones_like(x), x, values)
    close(gpu.forward(name, x, values), y, x.dtype, equal_nan=True)


@pytest.mark.parametrize("name", VALUES)
def test_nan_reaches_the_gradients_that_it_reaches_in_the_readable_form(name: str) -> None:
    x = torch.tensor([1.0, math.nan, -1.0], device=DEVICE)
    values = one_element(VALUES[name])
    grad = torch.full_like(x, 0.5)
    _, grad_x, shares = readable(name, grad, x, values)
    got_x, got_values = gpu.backward(name, grad, x, values, (True,) * (1 + len(values)))
    assert got_x is not None
    assert got_values is not None
    assert got_values.isnan().tolist() == [bool(s.sum().isnan()) for s in shares]
    if name == "pelu":
        # The readable form clamps, and the gradient of a clamp at NaN is 0; no formula says so.
        assert got_x[1].isnan()
        got_x, grad_x = got_x[::2], grad_x[::2]
    close(got_x, grad_x, x.dtype, equal_nan=True)


@pytest.mark.parametrize(
    ("name", "inactive"), [("dsrelu", -math.inf), ("srelu", -math.inf), ("prelu", math.inf), ("frelu", math.inf)]
)
def test_infinity_on_the_inactive_side_leaves_coefficients_alone(name: str, inactive: float) -> None:
    # The readable form computes 0 * inf here.
    x = torch.tensor([inactive], device=DEVICE)
    _, got = gpu.backward(name, torch.ones_like(x), x, one_element(VALUES[name]), (True,) * (1 + len(VALUES[name])))
    assert got is not None
    assert bool(got.isfinite().all())


@pytest.mark.parametrize(("name", "values"), [("srelu", (1.0, 0.7)), ("atanh", (1.0, 0.8, 0.0, 0.0)), ("pelu", (1.2, 0.7))])
def test_relative_accuracy_near_0(name: str, values: tuple[float, ...]) -> None:
    x = -torch.logspace(-30, 0, 1000, dtype=torch.float64).float().to(DEVICE)
    given = one_element(values)
    y, _, _ = readable(name, torch.ones_like(x), x, given)
    torch.testing.assert_close(gpu.forward(name, x, given).cpu().double(), y, rtol=6e-7, atol=0)


@pytest.mark.parametrize("name", ["asigmoid", "atanh", "srelu"])
def test_relative_accuracy_of_gradients_in_the_tails(name: str) -> None:
    # 1 - h of a rounded h would be 0 from 17 on.
    x = torch.linspace(-40, 40, 801, device=DEVICE)
    values = one_element({"srelu": (1.0, 0.7)}.get(name, (1.0, 0.8, 0.0, 0.0)))
    exact = {
        "asigmoid": lambda z: 0.8 * torch.exp(-z.abs()) / (1 + torch.exp(-z.abs())) ** 2,
        "atanh": lambda z: 0.8 / torch.cosh(z) ** 2,
        "srelu": lambda z: torch.where(z > 0, 1.0, 0.7 * torch.exp(z)),
    }[name](x.cpu().double())
    got, _ = gpu.backward(name, torch.ones_like(x), x, values, (True,) + (False,) * len(values))
    assert got is not None
    torch.testing.assert_close(got.cpu().double(), exact, rtol=1e-6, atol=0)


def test_arelu_ties_belong_to_the_first_line() -> None:
    x = normal(2500)
    grad = normal(2500, seed=1)
    # The identity twice: every point is a tie, in value to the last bit.
    got_x, got = gpu.backward("arelu", grad, x, one_element((1.0, 1.0, 0.0, 0.0)), (True,) * 5)
    assert got_x is not None
    assert got is not None
    assert torch.equal(got_x, grad)
    assert got[1].item() == 0.0
    assert got[3].item() == 0.0
    assert abs(got[2].item() - grad.sum().item()) < 1e-2
    assert abs(got[0].item() - (grad * x).sum().item()) < 1e-1
    zero = torch.zeros(1, device=DEVICE)
    got_x, got = gpu.backward("arelu", zero + 1, zero, one_element((2.0, 0.25, 0.5, 0.5)), (True,) * 5)
    assert got_x is not None
    assert got is not None
    assert got_x.item() == 2.0
    assert got.tolist() == [0.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize("name", VALUES)
def test_two_runs_agree_in_every_bit(name: str) -> None:
    x, grad, values = normal(6000), normal(6000, seed=1), one_element(VALUES[name])
    wanted = (True,) * (1 + len(values))
    first, again = (gpu.backward(name, grad, x, values, wanted) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)


def test_only_what_is_wanted_is_computed() -> None:
    x, grad, values = normal(2500), normal(2500, seed=1), one_element(VALUES["srelu"])
    both_x, both_values = gpu.backward("srelu", grad, x, values, (True, True, True))
    assert both_x is not None
    assert both_values is not None
    only_x, none = gpu.backward("srelu", grad, x, values, (True, False, False))
    assert none is None
    assert only_x is not None
    assert torch.equal(only_x, both_x)
    none, only_values = gpu.backward("srelu", grad, x, values, (False, False, True))
    assert none is None
    assert only_values is not None
    assert torch.equal(only_values, both_values)
    assert gpu.backward("srelu", grad, x, values, (False, False, False)) == (None, None)


@pytest.mark.parametrize("name", ["dsrelu", "prelu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_in_place(name: str, dtype: torch.dtype) -> None:
    values = one_element((0.4,))
    for x in (normal(2500, dtype=dtype), normal(31, 40, dtype=dtype)[:, ::2]):
        grad = normal(*x.shape, dtype=dtype, seed=1)
        expected = gpu.forward(name, x, values)
        of_input = gpu.backward(name, grad, x, values, (True, True))
        y = x.clone(memory_format=torch.preserve_format)
        assert gpu.forward_(name, y, values) is y
        assert torch.equal(y, expected)
        of_output = gpu.backward_from_output(name, grad, y, values, (True, True))
        assert of_input[0] is not None
        assert of_output[0] is not None
        assert of_input[1] is not None
        assert of_output[1] is not None
        assert torch.equal(of_input[0], of_output[0])
        # The input is recovered from a rounded output.
        scale = (grad * x).double().abs().sum().item()
        assert abs(of_input[1].item() - of_output[1].item()) <= PRECISION[dtype][0] * scale


def test_in_place_writes_to_its_view_alone() -> None:
    base = normal(31, 40)
    before = base.clone()
    gpu.forward_("prelu", base[:, ::2], one_element((0.4,)))
    assert torch.equal(base[:, 1::2], before[:, 1::2])
    assert torch.equal(base[:, ::2], gpu.forward("prelu", before[:, ::2], one_element((0.4,))))


def test_in_place_errors() -> None:
    with pytest.raises(DomainError, match="share one place in memory"):
        gpu.forward_("dsrelu", normal(1).expand(4), [1.5])
    with pytest.raises(DomainError, match="only that of dsrelu and prelu can"):
        gpu.forward_("srelu", normal(4), [1.0, 0.25])
    with pytest.raises(DomainError, match="only that of dsrelu and prelu can"):
        gpu.backward_from_output("swish", normal(4), normal(4), [1.0], (True, True))


def test_refusals() -> None:
    x = normal(6)
    assert gpu.unavailable() is None
    assert "no GPU kernel for 'gelu'" in (gpu.refusal("gelu", x, []) or "")
    assert "takes 2 coefficients, but 1" in (gpu.refusal("srelu", x, [1.0]) or "")
    assert "torch.int64" in (gpu.refusal("dsrelu", x.long(), [1.0]) or "")
    assert "shape (2,)" in (gpu.refusal("dsrelu", x, [torch.ones(2, device=DEVICE)]) or "")
    assert "torch.int32" in (gpu.refusal("dsrelu", x, [torch.ones(1, dtype=torch.int32, device=DEVICE)]) or "")
    assert "meta" in (gpu.refusal("dsrelu", x, [torch.ones(1, device="meta")]) or "")
    assert "meta" in (gpu.refusal("dsrelu", x.to("meta"), [1.0]) or "")
    assert "strided" in (gpu.refusal("dsrelu", x.to_sparse(), [1.0]) or "")
    assert "resolve_neg" in (gpu.refusal("dsrelu", torch.complex(x, x).conj().imag, [1.0]) or "")


# --- The comparison itself -------------------------------------------------------------------------------------------------


@triton.jit
def without_expm1(x, alpha, beta, c, d):  # type: ignore[no-untyped-def]
    return tl.where(x > 0.0, alpha * x, beta * x)


@triton.jit
def right_at_all_but_0(x, slope, b, c, d):  # type: ignore[no-untyped-def]
    return tl.where(x >= 0.0, slope, 1.0), tl.where(x <= 0.0, 0.0, x)


@triton.jit
def with_a_coefficient_of_the_wrong_sign(x, a, b, c, d):  # type: ignore[no-untyped-def]
    u = x * (1.0 / b)
    exp, minus = gpu_programs.exponentials(u)
    slope = tl.where(x >= 0.0, a / b, (a / b) * exp)
    return slope, tl.where(x >= 0.0, u, minus), u * slope


@pytest.mark.parametrize(
    ("name", "part", "broken"),
    [
        ("srelu", "value", without_expm1),
        ("dsrelu", "gradients", right_at_all_but_0),
        ("pelu", "gradients", with_a_coefficient_of_the_wrong_sign),
    ],
)
def test_a_broken_program_fails(name: str, part: str, broken: object, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.cat([torch.zeros(4, device=DEVICE), normal(60)])
    check(name, x, one_element(VALUES[name]))
    function = gpu_programs.FUNCTIONS[name]._replace(**{part: broken})
    monkeypatch.setitem(gpu_programs.FUNCTIONS, name, function)
    with pytest.raises(AssertionError):
        check(name, x, one_element(VALUES[name]))


def test_every_program_is_tested() -> None:
    assert set(VALUES) == set(gpu_programs.FUNCTIONS)
