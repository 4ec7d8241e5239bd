"""Coefficients: the three kinds, where each is stored, domains, and what happens to them on the way through torch."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pliant import (
    PELU,
    Activation,
    AReLU,
    Coefficient,
    Constant,
    Cosine,
    DomainError,
    DSReLU,
    Fixed,
    FReLU,
    Learned,
    Linear,
    PReLU,
    Scheduled,
    SReLU,
    Swish,
    elementwise,
)
from pliant.coefficients import ANY, NON_NEGATIVE, POSITIVE, at_least

# --- kinds and where they are -----------------------------------------------------------------------------------------


def test_a_number_is_fixed_and_leaves_no_trace_in_the_state() -> None:
    act = SReLU(1.5, 0.3)
    assert act.kinds == {"alpha": Fixed(1.5), "beta": Fixed(0.3)}
    assert (act.alpha, act.beta) == (1.5, 0.3)
    assert act.state_dict() == {}
    assert list(act.parameters()) == list(act.buffers()) == []
    act.half()
    assert act.beta == 0.3


def test_fixed_per_channel_is_a_buffer_that_is_not_saved() -> None:
    act = SReLU(beta=(0.1, 0.2, 0.3))
    assert act.state_dict() == {}
    assert act.beta.tolist() == pytest.approx([0.1, 0.2, 0.3])
    x = -torch.ones(2, 3)
    torch.testing.assert_close(act(x), torch.expm1(x) * torch.tensor([0.1, 0.2, 0.3]))


@pytest.mark.parametrize("numbers", [[0.1, 0.2], (0.1, 0.2), torch.tensor([0.1, 0.2], dtype=torch.float64)])
def test_sequences_arrays_and_tensors_hold_one_value_per_channel(numbers: Any) -> None:
    assert Fixed(numbers) == Fixed((0.1, 0.2))
    assert Learned(numbers) == Learned((0.1, 0.2))
    assert SReLU(beta=numbers).kinds["beta"] == Fixed((0.1, 0.2))
    assert Fixed(torch.tensor(0.5)) == Fixed(0.5)


def test_learned_without_a_bound_is_the_parameter_itself() -> None:
    act = AReLU(b=Learned(0.5))
    assert dict(act.named_parameters()).keys() == {"a", "b", "c", "d"}
    assert act.b.shape == (1,)
    assert act.b.item() == 0.5


@pytest.mark.parametrize("value", [0.1, 1.0, 30.0, 1e-4])
def test_learned_inside_a_domain_is_a_raw_parameter(value: float) -> None:
    act = SReLU(beta=Learned(value))
    assert [n for n, _ in act.named_parameters()] == ["raw_beta"]
    assert act.beta.item() == pytest.approx(value, rel=1e-5)
    assert act.raw_beta.item() == pytest.approx(math.log(math.expm1(value)) if value < 20 else value, rel=1e-5)
    act.beta.sum().backward()
    assert act.raw_beta.grad is not None
    with torch.no_grad():
        act.raw_beta.fill_(-50.0)
    assert act.beta.item() > 0


def test_learned_stays_in_its_domain_whatever_an_optimizer_does() -> None:
    act = PELU()
    with torch.no_grad():
        for p in act.parameters():
            p.fill_(-1e4)
    assert [v.item() for v in act.values()] == pytest.approx([0.1, 0.1])
    assert act(torch.linspace(-5, 5, 11)).isfinite().all()


def test_learned_without_constraint_is_the_value() -> None:
    act = PELU.unconstrained()
    assert [n for n, _ in act.named_parameters()] == ["a", "b"]
    with torch.no_grad():
        act.a.fill_(-3.0)
    assert act.values()[0].item() == -3.0


def test_scheduled_is_integer_buffers_and_no_parameter() -> None:
    act = DSReLU()
    assert list(act.parameters()) == []
    assert {n: b.dtype for n, b in act.named_buffers()} == {"_slope_bits": torch.int32, "progress": torch.int64}
    assert act.state_dict().keys() == {"_slope_bits", "progress"}
    assert act.slope.shape == (1,)
    assert act.slope.dtype == torch.float32
    assert not act.slope.requires_grad


def test_kinds_mix() -> None:
    act = AReLU(a=1.0, b=Learned(0.1), c=Scheduled(Linear(0.0, 1.0)), d=Fixed(0.0))
    assert [type(k).__name__ for k in act.kinds.values()] == ["Fixed", "Learned", "Scheduled", "Fixed"]
    assert list(act.scheduled) == ["c"]
    act.seek(1, 2, 0)
    assert [float(v) for v in (act.a, act.b.detach(), act.c, act.d)] == pytest.approx([1.0, 0.1, 0.5, 0.0])
    # Reading at another progress moves nothing.
    assert act.values(1.0)[2] == 1.0
    assert act.c.item() == 0.5


@pytest.mark.parametrize("name", ["alpha", "beta", "gamma"])
def test_a_coefficient_cannot_be_assigned_to_without_effect(name: str) -> None:
    act = SReLU(beta=Learned(0.25))
    if name == "gamma":
        act.gamma = 3.0  # not a coefficient: an attribute like any other
        return
    with pytest.raises(AttributeError, match=f"SReLU.{name} is .* cannot be assigned to. Build a new SReLU"):
        setattr(act, name, 0.5)


def test_assigning_to_the_other_kinds() -> None:
    with pytest.raises(AttributeError, match=r"or move it with pliant\.Clock"):
        DSReLU().slope = 2.0
    act = AReLU()
    act.b = nn.Parameter(torch.tensor([0.5]))
    assert act.values()[1] is act.b
    per_channel = SReLU(beta=(0.1, 0.2))
    per_channel.beta = torch.tensor([0.3, 0.4])
    assert per_channel.values()[1] is per_channel.beta


def test_an_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="gamma"):
        _ = SReLU().gamma


# --- domains ----------------------------------------------------------------------------------------------------------


def test_domains() -> None:
    assert 0.0 not in POSITIVE
    assert 1e-300 in POSITIVE
    assert 0.0 in NON_NEGATIVE
    assert -1e-300 not in NON_NEGATIVE
    assert -1e300 in ANY
    assert 0.1 in at_least(0.1)
    for domain in (ANY, POSITIVE, NON_NEGATIVE, at_least(0.1)):
        assert math.nan not in domain
        assert math.inf not in domain
    assert list(map(str, (ANY, POSITIVE, NON_NEGATIVE, at_least(0.1)))) == [
        "any finite number",
        "a number > 0",
        "a number >= 0",
        "a number >= 0.1",
    ]


@pytest.mark.parametrize("domain", [ANY, POSITIVE, NON_NEGATIVE, at_least(0.1), at_least(-2.0)], ids=str)
@pytest.mark.parametrize("above", [1e-12, 1e-3, 0.5, 1.0, 10.0, 100.0, 1e4])
def test_constrain_undoes_unconstrain(domain: Any, above: float) -> None:
    value = (domain.low or 0.0) + above
    raw = torch.tensor(domain.unconstrain(value), dtype=torch.float64)
    assert raw.isfinite()
    assert domain.constrain(raw).item() == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_raw_parameter_in_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    act = PELU(dtype=dtype)
    assert act.a.dtype == torch.float32
    assert act.a.item() == pytest.approx(0.1 + math.log1p(math.exp(act.raw_a.item())), rel=1e-6)


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: DSReLU(0.0), "DSReLU was given for its coefficient 'slope' the constant 0.0, but slope must be a number > 0"),
        (lambda: DSReLU(-1.0), "slope must be a number > 0"),
        (lambda: DSReLU(math.nan), "slope must be a number > 0"),
        (lambda: SReLU(beta=-0.1), "beta must be a number >= 0"),
        (lambda: SReLU(beta=Learned(0.0)), "the initial value 0.0, but beta must be a number > 0"),
        (lambda: SReLU(beta=(0.1, -0.1)), "the constant -0.1"),
        (lambda: PELU(a=0.05), "a must be a number >= 0.1"),
        (lambda: AReLU(a=math.inf), "a must be any finite number"),
        (lambda: DSReLU(Scheduled(Linear(1.0, -1.0))), "whose value at t = 0.5 is 0.0, but slope must be a number > 0"),
        (lambda: DSReLU(Scheduled(lambda t: None)), "a schedule takes a number to a plain Python number"),
        (lambda: DSReLU(Scheduled(lambda t: torch.tensor(t))), "a plain Python number"),
        (lambda: Scheduled(2.0), "For a constant use Fixed"),  # type: ignore[arg-type]
        (lambda: Scheduled(Constant(1.0), "steps"), "known: 'fraction', 'epochs', 'released'"),  # type: ignore[arg-type]
        (lambda: SReLU(beta="0.25"), "SReLU.beta was given '0.25'"),
        (lambda: SReLU(beta=None), "SReLU.beta was given None"),
        (lambda: Fixed([]), "one number per channel"),
        (lambda: Fixed([[0.1]]), "one number per channel"),
        (lambda: Learned("a"), "Learned was given 'a'"),  # type: ignore[arg-type]
        (lambda: SReLU(inplace=True), "no in-place form"),
        (lambda: AReLU(channels=0), "channels=0"),
        (lambda: AReLU(channels=2.0), "channels=2.0"),
        (lambda: AReLU(channels=True), "channels=True"),
        (lambda: PReLU(Learned((0.1, 0.2)), channels=3), "channels=3 and 2 initial values"),
    ],
)
def test_out_of_domain(build: Callable[[], object], words: str) -> None:
    with pytest.raises(DomainError) as error:
        build()
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("build", [lambda: SReLU(gamma=1.0), lambda: SReLU(1.0, 0.2, 3.0), lambda: SReLU(1.0, alpha=1.0)])
def test_coefficients_it_does_not_have(build: Callable[[], object]) -> None:
    with pytest.raises(TypeError, match=r"SReLU: .*Its coefficients are: alpha, beta"):
        build()


def test_learned_may_start_outside_its_domain_if_nothing_holds_it_inside() -> None:
    assert SReLU(beta=Learned(0.0, constrain=False)).beta.item() == 0.0
    with pytest.raises(DomainError):
        SReLU(beta=Learned(-1.0, constrain=False))


@pytest.mark.parametrize(("shape", "channel_dim"), [((2, 4, 5), 1), ((2, 5, 4), -2), ((5,), 1), ((), 1), ((2, 5), 7)], ids=str)
def test_channels_that_do_not_fit(shape: tuple[int, ...], channel_dim: int) -> None:
    with pytest.raises(DomainError, match=r"The coefficient '.*' was given with shape \(3,\) for an input of shape"):
        AReLU(channels=3, channel_dim=channel_dim)(torch.zeros(shape))


@pytest.mark.parametrize("x", [torch.arange(3), torch.zeros(3, dtype=torch.complex64), [0.1, 0.2], 1.0], ids=str)
def test_functions_take_floating_point_tensors(x: Any) -> None:
    with pytest.raises(TypeError, match=r"swish was given .* needs a floating-point tensor"):
        Swish()(x)


# --- per channel, devices, dtypes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 64])
def test_per_channel_shapes_are_1_dimensional(size: int) -> None:
    for act in (AReLU(channels=size), PELU(channels=size), SReLU(beta=Learned(0.2), channels=size)):
        assert {p.shape for p in act.parameters()} == {(size,)}
    assert PReLU(Learned((0.1, 0.2))).weight.tolist() == pytest.approx([0.1, 0.2])
    assert AReLU(a=Learned((1.0, 2.0)), channels=2).b.shape == (2,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtype_of_parameters(dtype: torch.dtype) -> None:
    act = AReLU(dtype=dtype)
    assert {p.dtype for p in act.parameters()} == {dtype}
    for x in (torch.randn(4), torch.randn(4).bfloat16(), torch.randn(4).double()):
        assert act(x).dtype == x.dtype


def _meta_cases() -> list[Callable[..., Activation]]:
    def mixed(**kwargs: Any) -> Activation:
        return AReLU(a=Learned((1.0, 2.0)), b=(0.1, 0.2), c=Scheduled(Cosine(0.5, 0.0)), d=0.3, **kwargs)

    def bounded(**kwargs: Any) -> Activation:
        return SReLU(alpha=Learned(0.7), beta=Learned(0.2), **kwargs)

    return [AReLU, PELU, DSReLU, bounded, mixed]


@pytest.mark.parametrize("build", _meta_cases())
def test_meta_then_empty_then_reset(build: Callable[..., Activation]) -> None:
    act = build(device="meta")
    assert all(t.is_meta for t in (*act.parameters(), *act.buffers()))
    act.to_empty(device="cpu")
    with torch.no_grad():
        for t in (*act.parameters(), *act.buffers()):
            t.fill_(99)
    act.reset_parameters()
    x = torch.randn(3, 2)
    assert torch.equal(act(x), build()(x))
    if act.scheduled:
        assert act.now() == (0, 0, 0)


@pytest.mark.parametrize("build", [AReLU, PELU, DSReLU])
def test_meta_then_assigning_a_state_dict(build: Callable[..., Activation]) -> None:
    source = build()
    if source.scheduled:
        source.seek(3, 4, 0)
    act = build(device="meta")
    act.load_state_dict(source.state_dict(), assign=True)
    x = torch.randn(3, 2)
    assert torch.equal(act(x), source(x))


def test_under_a_device_context() -> None:
    with torch.device("meta"):
        for act in (AReLU(), PELU(), DSReLU(), SReLU(beta=(0.1, 0.2))):
            assert all(t.is_meta for t in (*act.parameters(), *act.buffers()))


def test_reset_parameters_undoes_training() -> None:
    act = AReLU(channels=3)
    with torch.no_grad():
        for p in act.parameters():
            p.normal_()
    act.reset_parameters()
    assert act.state_dict().keys() == AReLU(channels=3).state_dict().keys()
    assert all(torch.equal(v, AReLU(channels=3).state_dict()[n]) for n, v in act.state_dict().items())


def test_an_average_over_the_state_dict_follows_the_schedule() -> None:
    # As timm's ModelEmaV3 does: floating-point tensors are averaged in place, the others are copied in place.
    act = DSReLU()
    average = copy.deepcopy(act)
    for step in range(1, 11):
        act.seek(step, 10, 0)
        for mean, now in zip(average.state_dict().values(), act.state_dict().values(), strict=True):
            mean.lerp_(now, 0.01) if mean.is_floating_point() else mean.copy_(now)
    assert torch.equal(average.slope, act.slope)
    assert average.now() == (10, 10, 0)


def test_parametrised_and_sharded_parameters() -> None:
    class Exp(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.exp()

    act = AReLU()
    parametrize.register_parametrization(act, "a", Exp())
    assert act(torch.ones(1)).item() == pytest.approx(math.e)
    # What a wrapper leaves behind that has taken the parameter over: a plain attribute.
    bounded = SReLU(beta=Learned(0.25))
    raw = bounded.raw_beta.detach().clone()
    del bounded.raw_beta
    bounded.raw_beta = raw
    assert bounded.beta.item() == pytest.approx(0.25)


def test_pickle_and_deepcopy_keep_kinds() -> None:
    for act in (AReLU(channels=2), PELU(), DSReLU.released(), SReLU(beta=(0.1, 0.2))):
        for other in (pickle.loads(pickle.dumps(act)), copy.deepcopy(act)):
            assert repr(other) == repr(act)
            assert other.kinds == act.kinds


# --- declaring an activation ------------------------------------------------------------------------------------------


@elementwise
def _line(x: Tensor, a: float | Tensor, b: float | Tensor = 0.0) -> Tensor:
    return a * x + b


def test_a_new_activation_is_a_declaration() -> None:
    class Line(Activation):
        function = staticmethod(_line)
        a = Coefficient(Learned(1.0))
        b = Coefficient(Fixed(0.0), NON_NEGATIVE)

    assert Line(2.0)(torch.ones(1)).item() == 2.0
    assert [c.name for c in Line.coefficients] == ["a", "b"]
    with pytest.raises(DomainError, match="b must be a number >= 0"):
        Line(b=-1.0)


def test_declarations_that_do_not_fit() -> None:
    with pytest.raises(TypeError, match="Nameless names no function"):
        type("Nameless", (Activation,), {"a": Coefficient(Learned(1.0))})
    body = {"function": staticmethod(_line), "b": Coefficient(Fixed(0.0)), "a": Coefficient(Fixed(0.0))}
    with pytest.raises(TypeError, match=r"declares the coefficients \(b, a\), but its function takes \(a, b\)"):
        type("Swapped", (Activation,), body)
    with pytest.raises(TypeError, match=r"decorate the formula with pliant\.elementwise"):
        type("Plain", (Activation,), {"function": staticmethod(lambda x, a: a * x), "a": Coefficient(Fixed(0.0))})
    with pytest.raises(TypeError, match="extends a final activation"):
        type("Child", (FReLU,), {"c": Coefficient(Fixed(0.0))})


def test_functions_take_coefficients_by_place_and_by_name() -> None:
    x = torch.randn(5)
    expected = 2 * x + 3
    for y in (_line(x, 2, 3), _line(x, 2, b=3), _line(x, a=2.0, b=torch.tensor(3.0)), _line(x, b=torch.tensor([3.0]), a=2)):
        torch.testing.assert_close(y, expected)
    with pytest.raises(TypeError, match="missing a required argument: 'a'"):
        _line(x)
    with pytest.raises(TypeError, match="unexpected keyword argument 'c'"):
        _line(x, 1.0, c=2.0)
