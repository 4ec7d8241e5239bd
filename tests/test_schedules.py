"""Schedules: values at their ends, the presets of DSReLU digit by digit, limits, and what they refuse."""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from pliant import Constant, Cosine, DomainError, DSReLU, Exponential, Linear, Logistic, Scheduled, Steps, schedules

# start, end, steepness; s(0), s(1/2), s(1), s(2), the t where s = 1; as printed, five digits.
PRESETS = {
    "paper": (11.43005, 0.17633, 5, 10.57637, 5.80319, 1.03001, 0.18255, 1.00773),
    "released": (3.73205, 0.57735, 5, 3.49274, 2.15470, 0.81666, 0.57909, 0.87325),
    "artifact": (5.67128, 0.26795, 10, 5.63512, 2.96962, 0.30411, 0.26795, 0.68533),
    "figure": (2.74748, 0.70021, 5, 2.59218, 1.72384, 0.85551, 0.70134, 0.85257),
}
SCHEDULES = [
    Constant(2.0),
    Linear(3.0, 0.5),
    Cosine(3.0, 0.5),
    Exponential(3.0, 0.5),
    Logistic(3.0, 0.5),
    Logistic(3.0, 0.5, 8.0, "exact"),
    Steps((3.0, 2.0, 0.5), (0.3, 0.8)),
]


def _path(preset: str, **options: Any) -> Logistic:
    act = getattr(DSReLU, preset)(**options)
    kind = act.kinds["slope"]
    assert isinstance(kind, Scheduled)
    assert isinstance(kind.schedule, Logistic)
    return kind.schedule


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_as_printed(preset: str) -> None:
    start, end, steepness, *values, one = PRESETS[preset]
    path = _path(preset)
    assert (path.start, path.end) == pytest.approx((start, end), abs=5.1e-6)
    assert path.steepness == steepness
    assert path.endpoints == "raw"
    assert [path(t) for t in (0.0, 0.5, 1.0, 2.0)] == pytest.approx(values, abs=5.1e-6)
    crossing = path.crossing(1.0)
    assert crossing == pytest.approx(one, abs=5.1e-6)
    assert crossing == pytest.approx(0.5 + math.log((path.start - 1) / (1 - path.end)) / steepness, abs=1e-12)
    assert path(crossing) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_with_exact_ends(preset: str) -> None:
    path = _path(preset, endpoints="exact")
    assert path(0.0) == path.start
    assert path(1.0) == path.end
    assert path(0.5) == pytest.approx((path.start + path.end) / 2, rel=1e-14)
    crossing = path.crossing(1.0)
    assert crossing is not None
    assert path(crossing) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_keep_their_default_unit_and_take_another(preset: str) -> None:
    for unit in ("fraction", "epochs", "released"):
        kind = getattr(DSReLU, preset)(unit=unit).kinds["slope"]
        assert kind.unit == unit


def test_default_and_constant_slope() -> None:
    assert DSReLU().kinds == DSReLU.paper().kinds
    assert DSReLU.constant().slope == _path("released")(0.0) == pytest.approx(3.49274, abs=5e-6)
    assert DSReLU.constant(2.0).slope == 2.0


def test_how_much_of_the_way_the_raw_logistic_covers() -> None:
    for steepness, share in ((5, 0.848), (10, 0.987)):
        path = Logistic(0.0, 1.0, steepness)
        assert path(1.0) - path(0.0) == pytest.approx(share, abs=5e-4)


def test_logistic_is_steepest_in_the_middle() -> None:
    path, h = Logistic(11.43, 0.176, 5.0), 1e-6
    rate = (path(0.5 + h) - path(0.5 - h)) / (2 * h)
    assert rate == pytest.approx((path.end - path.start) * path.steepness / 4, rel=1e-6)
    for t in (0.2, 0.45, 0.55, 0.9):
        assert abs(path(t + h) - path(t - h)) / (2 * h) < abs(rate)


@pytest.mark.parametrize("steepness", [1e-3, 1e-6, 1e-9, 1e-12, 1e-200])
def test_logistic_as_the_steepness_goes_to_0(steepness: float) -> None:
    exact, raw = Logistic(3.0, 0.5, steepness, "exact"), Logistic(3.0, 0.5, steepness)
    for t in (0.0, 0.1, 0.5, 0.77, 1.0):
        assert exact(t) == pytest.approx(Linear(3.0, 0.5)(t), abs=1e-6)
        assert raw(t) == pytest.approx(1.75, abs=steepness)


def test_logistic_with_a_huge_steepness_is_a_step() -> None:
    path = Logistic(3.0, 0.5, 1e6)
    assert [path(t) for t in (0.0, 0.49, 0.5, 0.51, 1.0, 1e6)] == [3.0, 3.0, 1.75, 0.5, 0.5, 0.5]


def test_logistic_crossing_where_there_is_none() -> None:
    assert Logistic(3.0, 2.0).crossing(1.0) is None
    assert Logistic(3.0, 3.0).crossing(3.0) is None
    assert Logistic(1.0, 3.0).crossing(1.0) is None
    # The raw path gets within reach of its ends only outside [0, 1].
    outside = Logistic(3.0, 0.5).crossing(0.52)
    assert outside is not None
    assert outside > 1


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_values_of_a_schedule_are_plain_floats_between_its_ends(schedule: Callable[[float], float]) -> None:
    values = [schedule(i / 50) for i in range(51)]
    assert all(type(v) is float for v in values)
    assert all(0.5 <= v <= 3.0 for v in values)
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("schedule", [s for s in SCHEDULES if not isinstance(s, Logistic)], ids=repr)
def test_a_schedule_with_an_end_holds_it(schedule: Callable[[float], float]) -> None:
    assert schedule(1.0) == schedule(1.5) == schedule(100.0)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_schedules_compare_hash_pickle_and_print_by_value(schedule: Any) -> None:
    for other in (copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule)), eval(repr(schedule), vars(schedules))):
        assert other == schedule
        assert hash(other) == hash(schedule)
    with pytest.raises(AttributeError):
        schedule.start = 1.0


def test_whole_numbers_are_floats_as_well() -> None:
    assert repr(Linear(3, 1)) == repr(Linear(3.0, 1.0)) == "Linear(start=3.0, end=1.0)"
    assert type(Constant(2)(0.5)) is float


def test_ends_and_middles() -> None:
    for start, end in ((3.0, 0.1), (0.1, 3.0), (0.3, 0.7)):
        for kind in (Linear, Cosine):
            path = kind(start, end)
            assert (path(0.0), path(1.0)) == (start, end)
            assert path(0.5) == pytest.approx((start + end) / 2)
        path = Exponential(start, end)
        assert (path(0.0), path(1.0)) == (start, end)
        assert path(0.5) == pytest.approx(math.sqrt(start * end))
    assert Cosine(0.0, 1.0)(0.25) == pytest.approx(0.5 - math.sqrt(0.125))
    steps = Steps((3.0, 2.0, 0.5), (0.3, 0.8))
    assert [steps(t) for t in (0.0, 0.2999, 0.3, 0.79, 0.8, 1.0)] == [3.0, 3.0, 2.0, 2.0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Constant(math.nan), "value=nan"),
        (lambda: Linear(math.inf, 1.0), "start=inf"),
        (lambda: Linear("high", 1.0), "start='high'"),  # type: ignore[arg-type]
        (lambda: Steps(1.0, 2.0), "both are sequences of numbers"),  # type: ignore[arg-type]
        (lambda: Cosine(1.0, math.nan), "end=nan"),
        (lambda: Exponential(1.0, 0.0), "both above 0"),
        (lambda: Exponential(-1.0, 1.0), "both above 0"),
        (lambda: Logistic(2.0, 1.0, 0.0), "steepness > 0"),
        (lambda: Logistic(2.0, 1.0, -5.0), "exchange start and end"),
        (lambda: Logistic(2.0, 1.0, math.inf), "finite"),
        (lambda: Logistic(2.0, 1.0, 5.0, "round"), "either 'raw' or 'exact'"),  # type: ignore[arg-type]
        (lambda: Steps((1.0,), (0.5,)), "one value more"),
        (lambda: Steps((1.0, 2.0, 3.0), (0.5, 0.5)), "increase strictly"),
        (lambda: Steps((1.0, math.nan), (0.5,)), "not finite"),
    ],
)
def test_errors(build: Callable[[], object], words: str) -> None:
    with pytest.raises(DomainError) as error:
        build()
    assert words in str(error.value)


def test_a_slope_that_passes_1_is_told_except_in_the_named_variants() -> None:
    with pytest.warns(UserWarning, match=r"passes 1 at t = 0\.\d+"):
        DSReLU.logistic(2.0, 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DSReLU.logistic(3.0, 1.5)
        DSReLU.logistic(0.9, 0.2)
        # It passes 1 as well, but only after the end of training.
        DSReLU.logistic(11.43005, 0.17633)
        for preset in PRESETS:
            getattr(DSReLU, preset)()
