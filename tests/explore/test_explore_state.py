from __future__ import annotations

import math

import pytest
import torch

import pliant
from pliant import catalog
from pliant.coefficients import Fixed, Learned, Scheduled
from pliant.errors import DomainError, UnknownNameError
from pliant.explore.state import POINTS, REACH, Explored, choices, coefficients, variants


@pytest.mark.parametrize("name", catalog.ALL)
def test_the_curve_is_the_librarys(name: str) -> None:
    """Value and derivative equal those of a module made by the catalogue, for every activation in it."""
    curve = Explored.of(name).curve()
    x = torch.tensor(curve.x, dtype=torch.float64, requires_grad=True)
    y = catalog.create(name).double()(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    # A scheduled slope is kept in single precision by a module.
    assert torch.tensor(curve.y, dtype=torch.float64).allclose(y, rtol=1e-6)
    assert torch.tensor(curve.slope, dtype=torch.float64).allclose(slope, rtol=1e-6)
    assert POINTS - 5 <= len(curve.x) <= POINTS
    assert max(map(abs, curve.x)) == REACH


@pytest.mark.parametrize("name", catalog.ALL)
def test_every_variant_can_be_shown(name: str) -> None:
    for variant in (None, *variants(name)):
        explored = Explored(name, variant)
        assert [k.name for k in explored.knobs] == list(coefficients(name))
        assert explored.entry.display in explored.title
        for knob in explored.knobs:
            assert knob.low <= knob.value <= knob.high
            assert knob.low < knob.high
            for end in (knob.low, knob.high):
                assert knob.problem(end) is None, "a slider reaches legal values only"
        explored.build()(torch.zeros(3))


def test_kinks_have_two_slopes_and_the_convention_between_them() -> None:
    (kink,) = Explored.of("srelu[alpha=1,beta=0.25]").curve().kinks
    assert (kink.x, kink.y) == (0.0, 0.0)
    assert (kink.left, kink.right, kink.at) == pytest.approx((0.25, 1.0, 0.25), abs=1e-6)
    assert Explored.of("srelu[beta=1]").curve().kinks == ()
    assert [k.x for k in Explored.of("hardswish").curve().kinks] == [-3.0, 3.0]
    (kink,) = Explored("arelu").with_value("c", 1.0).curve().kinks
    assert kink.x == -1.0
    assert Explored.of("gelu").curve().kinks == ()


def test_the_pieces_of_the_derivative_end_at_the_one_sided_slopes() -> None:
    curve = Explored.of("leakyrelu[negative_slope=0.1]").curve()
    (left_x, left), (right_x, right) = curve.pieces()
    assert (left_x[-1], right_x[0]) == (0.0, 0.0)
    assert (left[-1], right[0]) == pytest.approx((0.1, 1.0))
    assert len(left_x) + len(right_x) == len(curve.x) + 2
    assert list(Explored.of("gelu").curve().pieces()) == [
        (list(_ := Explored.of("gelu").curve().x), list(Explored.of("gelu").curve().slope))
    ]


def test_gains_are_the_librarys() -> None:
    gains = Explored("dsrelu").at(0.5).gains()
    act = pliant.DSReLU()
    assert gains.forward == pytest.approx(pliant.gain(act, progress=0.5))
    assert gains.backward == pytest.approx(pliant.gain(act, mode="backward", progress=0.5))
    assert Explored("relu").gains().forward == pytest.approx(math.sqrt(2), abs=1e-4)
    flat = Explored("asigmoid").with_value("b", 0.0).gains()
    assert flat.forward is None
    assert flat.backward is None


def test_t_moves_what_follows_it() -> None:
    explored = Explored("dsrelu", "released")
    schedule = pliant.DSReLU.released().scheduled["slope"].schedule
    for t in (0.0, 0.3, 1.0):
        assert explored.at(t).values == {"slope": schedule(t)}
    path = explored.path("slope")
    assert path[0] == (0.0, schedule(0.0))
    assert path[50] == (0.5, schedule(0.5))
    assert path[-1] == (1.0, schedule(1.0))
    held = explored.with_value("slope", 2.0)
    assert held.at(1.0).values == {"slope": 2.0}
    assert held.schedules == {}
    assert held.with_kind("slope", "scheduled").at(1.0).values == {"slope": schedule(1.0)}


def test_what_is_built_gets_its_values_the_way_that_was_chosen() -> None:
    explored = Explored("arelu").with_value("b", 0.2).with_kind("d", "fixed")
    act = explored.build()
    assert isinstance(act, pliant.AReLU)
    assert act.kinds == {"a": Learned(1.0), "b": Learned(0.2), "c": Learned(0.0), "d": Fixed(0.0)}
    slope = Explored("dsrelu").build().kinds["slope"]  # type: ignore[union-attr,index]
    assert isinstance(slope, Scheduled)
    assert Explored("pelu", "unconstrained").build().kinds["a"] == Learned(1.0, constrain=False)  # type: ignore[union-attr,index]
    leaky = Explored("leakyrelu").with_value("negative_slope", 0.3).build()
    assert leaky.negative_slope == 0.3


def test_a_spec_of_the_catalogue_is_where_it_starts() -> None:
    assert Explored.of("srelu[beta=0.1]").values == {"alpha": 1.0, "beta": 0.1}
    learned = Explored.of("srelu[beta=learned(0.3)]")
    assert [(k.value, k.kind) for k in learned.knobs] == [(1.0, "fixed"), (0.3, "learned")]
    moving = Explored.of("dsrelu[slope=cosine(2,1)]")
    assert moving.at(0.5).values == {"slope": 1.5}
    assert Explored.of("dsrelu[artifact]").variant == "artifact"
    assert Explored.of("elu[alpha=0.5]").values == {"alpha": 0.5}
    tanh = Explored.of("gelu[approximate=tanh]")
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)
    assert tanh.build()(x).equal(torch.nn.functional.gelu(x, approximate="tanh"))
    assert tanh.curve() != Explored.of("gelu").curve()
    assert tanh.reductions() == []
    assert Explored.of("SReLU").reductions() == ["ELU(0.25)"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda: Explored("srelu").with_value("beta", -0.1), "beta must be a number >= 0"),
        (lambda: Explored("srelu").with_value("alpha", 0.0), "alpha must be a number > 0"),
        (lambda: Explored("srelu").with_value("beta", None), "beta needs a number"),
        (lambda: Explored("srelu").with_value("beta", math.nan), "beta must be"),
        (lambda: Explored("hardtanh").with_value("min_val", 2.0), "cannot be built"),
        (lambda: Explored("celu").with_value("alpha", 0.0), "alpha must be a number > 0"),
        (lambda: Explored("dsrelu").at(1.5), "from 0 to 1"),
        (lambda: Explored("srelu").with_kind("beta", "scheduled"), "fixed or learned"),
    ],
)
def test_mistakes_are_said(change, said: str) -> None:
    with pytest.raises(DomainError, match=said.replace("(", r"\(")):
        change()


def test_unknown_names() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'srelu'"):
        Explored.of("srlu")
    with pytest.raises(UnknownNameError):
        Explored("srelu").with_value("gamma", 1.0)


def test_everything_in_the_catalogue_can_be_chosen() -> None:
    assert set(choices()) == set(catalog.ALL)
    assert "logistic" not in variants("dsrelu"), "it needs its ends first"
    assert "released" in variants("dsrelu")
