"""The charts are plain data: what they show is what the model says, and each chart keeps its series."""

from __future__ import annotations

import json
import math

import pytest

from pliant import catalog
from pliant.explore import charts
from pliant.explore.charts import DARK, LIGHT
from pliant.explore.state import Explored
from pliant.explore.training import TASKS, Plan, Race


def series(options: charts.Options, name: str, kind: str = "line") -> list:
    (found,) = (s["data"] for s in options["series"] if s["name"] == name and s["type"] == kind)
    return found


def test_the_lines_are_the_curves() -> None:
    chosen, other = Explored.of("srelu"), Explored.of("relu")
    curve = chosen.curve()
    options = charts.value(chosen.title, curve, other.title, other.curve(), LIGHT)
    assert series(options, "SReLU(1, 0.25)") == [list(p) for p in zip(curve.x, curve.y, strict=True)]
    assert series(options, "ReLU")[-1] == [4.0, 4.0]


def test_the_derivative_is_not_joined_across_a_kink() -> None:
    chosen, other = Explored.of("srelu"), Explored.of("gelu")
    options = charts.derivative(chosen.title, chosen.curve(), other.title, other.curve(), LIGHT)
    data = series(options, chosen.title)
    (gap,) = (i for i, (_, slope) in enumerate(data) if slope is None)
    assert (data[gap - 1][0], data[gap + 1][0]) == (0.0, 0.0)
    assert (data[gap - 1][1], data[gap + 1][1]) == pytest.approx((0.25, 1.0), abs=1e-6)
    assert all(slope is not None for _, slope in series(options, "GELU"))
    open_ends = [s for s in options["series"] if s["name"] == "one-sided slope"][-1]
    assert [y for _, y in open_ends["data"]] == pytest.approx([0.25, 1.0], abs=1e-6)
    assert open_ends["itemStyle"]["color"] == LIGHT.paper, "open, because the function has no slope there"
    (dot,) = [s for s in options["series"] if s["name"] == "slope in use"][-1]["data"]
    assert dot == pytest.approx([0.0, 0.25])


def test_the_schedule_and_the_moment() -> None:
    chosen = Explored("dsrelu").at(0.5)
    options = charts.schedule({"slope": chosen.path("slope")}, chosen.t, chosen.values, LIGHT)
    assert series(options, "now", "scatter") == [[0.5, chosen.values["slope"]]]
    assert series(options, "schedule")[50] == [0.5, chosen.values["slope"]]
    assert "t = 0.50" in options["aria"]["label"]["description"]


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("task", TASKS)
def test_a_chart_keeps_its_series_whatever_it_shows(theme: charts.Theme, task: str) -> None:
    """They are sent into one chart after the other; what a later one left out would stay."""
    shapes = set()
    for name in ("arelu", "dsrelu", "gelu", "asigmoid"):
        explored, relu = Explored.of(name), Explored.of("relu")
        race = Race(Plan(task=task, steps=6), {name: explored.build, "relu": relu.build})
        race.advance(3)
        layers = {f"layer {i}": c for i, c in enumerate(race.contestants[0].shapes(), 1)}
        names = (explored.title, explored.curve(), relu.title, relu.curve(), theme)
        paths = {n: explored.path(n) for n in explored.schedules}
        made = [
            charts.value(*names, layers=layers),
            charts.derivative(*names),
            charts.schedule(paths, 0.0, explored.values, theme),
            charts.learning(race, theme),
            charts.decision(race, theme),
            charts.coefficients(race, theme),
        ]
        # JSON knows no infinity, and a browser no such JSON.
        json.dumps(made, allow_nan=False)
        shapes.add(tuple(tuple(s["type"] for s in options["series"]) for options in made))
        assert all(options["aria"]["enabled"] for options in made)
    assert len(shapes) == 1


def test_chosen_and_other_differ_by_more_than_colour() -> None:
    explored, relu = Explored.of("srelu"), Explored.of("relu")
    race = Race(Plan(steps=4), {"a": explored.build, "b": relu.build})
    options = charts.learning(race, LIGHT)
    lines = {s["name"]: (s["lineStyle"]["type"], s["symbol"]) for s in options["series"] if s["type"] == "line"}
    assert lines["a"][0] != lines["b"][0]
    assert lines["a"][1] != lines["b"][1]


def test_accuracies_below_one_half_are_drawn_where_they_are() -> None:
    race = Race(Plan(task="WDBC", steps=4), {"a": Explored.of("hardswish").build, "b": Explored.of("relu").build})
    accuracy = race.contestants[0].points[0].test_accuracy
    assert accuracy < 0.5, "this seed starts out worse than guessing"
    options = charts.learning(race, LIGHT)
    drawn = [s["data"] for s in options["series"] if s["name"] == "a" and s["yAxisIndex"] == 1]
    assert drawn == [[[0, accuracy]]] * 2, "the line and its end"
    assert options["yAxis"][1]["min"] <= accuracy


def contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_what_is_drawn_can_be_seen(theme: charts.Theme) -> None:
    assert contrast(theme.ink, theme.paper) > 7
    assert contrast(theme.quiet, theme.paper) > 4.5
    assert contrast(theme.chosen, theme.paper) > 3
    assert contrast(theme.other, theme.paper) > 3


@pytest.mark.parametrize("name", catalog.ALL)
def test_the_frame_holds_the_curve(name: str) -> None:
    explored, relu = Explored.of(name), Explored.of("relu")
    axis = charts.value(explored.title, explored.curve(), "ReLU", relu.curve(), LIGHT)["yAxis"]
    drawn = [min(max(y, -10), 10) for y in (*explored.curve().y, *relu.curve().y)]
    assert axis["min"] <= min(drawn)
    assert axis["max"] >= max(drawn)
    ticks = (axis["max"] - axis["min"]) / axis["interval"]
    assert math.isclose(ticks, round(ticks), abs_tol=1e-6)
    assert 2 <= round(ticks) <= 8


def test_the_words_say_where_both_are() -> None:
    race = Race(Plan(steps=4), {"GELU": Explored.of("gelu").build, "ReLU": Explored.of("relu").build})
    race.advance(2)
    said = charts.told(race)
    assert said.startswith("Step 2 of 4.")
    point = race.contestants[1].points[-1]
    assert f"ReLU: loss {point.train_loss:.3f}, test accuracy {100 * point.test_accuracy:.1f} %" in said
