"""What is drawn, as descriptions for Apache ECharts: plain dictionaries of numbers that were computed elsewhere.

Every description of one chart has the same series in the same order, empty where there is nothing to draw, because the page
sends them one after the other into one chart and what is left out would stay as it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pliant.explore.state import REACH, Curve
from pliant.explore.training import GRID, Contestant, Race

__all__ = ["DARK", "LIGHT", "Theme", "coefficients", "decision", "derivative", "learning", "schedule", "value"]

Options = dict[str, Any]
SIZE = 15
"""Of the letters, in pixels: legible from the back of a lecture room at 1280 x 800."""


@dataclass(frozen=True)
class Theme:
    """Colours of Okabe and Ito on a light or a dark page; ``chosen`` and ``other`` also differ by dash and marker."""

    ink: str
    quiet: str
    grid: str
    paper: str
    chosen: str
    other: str
    layers: tuple[str, ...]
    low: str
    """Where class 0 is certain, and ``high`` where class 1 is."""
    high: str


LIGHT = Theme(
    "#22262b", "#4d555e", "#e1e5e9", "#ffffff", "#0072b2", "#d55e00", ("#009e73", "#cc79a7", "#000000", "#e69f00"),
    "#bfe0f2", "#f7d3b5",
)  # fmt: skip
DARK = Theme(
    "#eef0f2", "#b7bfc8", "#3c444d", "#121212", "#56b4e9", "#e69f00", ("#2fc79a", "#dd9cc0", "#f0e442", "#ffffff"),
    "#173e57", "#5c3a14",
)  # fmt: skip
DASHES = ("solid", "dashed", "dotted", [9, 3, 2, 3])
SERIES = 8
"""Coefficients that are drawn: four of them in two layers."""
SYMBOLS = ("circle", "rect", "triangle", "diamond")


# --- the function -------------------------------------------------------------------------------------------------------


def value(
    title: str,
    curve: Curve,
    other_title: str,
    other: Curve,
    theme: Theme,
    *,
    frame: Iterable[Curve] = (),
    layers: Mapping[str, Curve] = {},
) -> Options:
    """The values of two activations; a marker at each kink. ``layers``: what the layers of the training have come to."""
    low, high, step = _span([curve.y, other.y, *(c.y for c in (*frame, *layers.values()))], cap=10.0)
    kinks = [[k.x, k.y] for k in curve.kinks if low <= k.y <= high]
    others = [[k.x, k.y] for k in other.kinks if low <= k.y <= high]
    drawn = [*layers.items()][:2]
    named = [*drawn, *[("", None)] * (2 - len(drawn))]
    return {
        **_base(theme, f"Value of {title} beside {other_title} for x from {-REACH:g} to {REACH:g}."),
        "legend": {**_legend(theme, [title, other_title, *layers]), "width": "82%"},
        "title": _title(theme, "f(x)"),
        "grid": _box(top=56 if layers else 34),
        "xAxis": _axis(theme, -REACH, REACH, name="x"),
        "yAxis": {**_axis(theme, low, high), "interval": step},
        "series": [
            _line(other_title, _points(other.x, other.y), theme.other, "dashed", 3, "rect"),
            _line(title, _points(curve.x, curve.y), theme.chosen, "solid", 4),
            *(
                _line(name, _points(c.x, c.y) if c else [], theme.layers[i], DASHES[2 + i], 2.5, "none")
                for i, (name, c) in enumerate(named)
            ),
            _marks("kink", others, theme.other, "rect", hole=theme.paper),
            _marks("kink", kinks, theme.chosen, "circle", hole=theme.paper),
        ],
    }


def derivative(
    title: str, curve: Curve, other_title: str, other: Curve, theme: Theme, *, frame: Iterable[Curve] = ()
) -> Options:
    """The slopes of two activations, interrupted at kinks: open ends for the one-sided slopes, a dot for the one in use."""
    low, high, step = _span([curve.slope, other.slope, *(c.slope for c in frame)], cap=20.0)
    return {
        **_base(theme, f"Derivative of {title} beside {other_title}; interrupted where the slope jumps."),
        "title": _title(theme, "f'(x)"),
        "legend": _legend(theme, []),
        "grid": _box(top=30),
        "xAxis": _axis(theme, -REACH, REACH, name="x"),
        "yAxis": {**_axis(theme, low, high), "interval": step},
        "series": [
            _line(other_title, _pieces(other), theme.other, "dashed", 3),
            _line(title, _pieces(curve), theme.chosen, "solid", 4),
            _marks("one-sided slope", _sides(other), theme.other, "rect", hole=theme.paper),
            _marks("slope in use", [[k.x, k.at] for k in other.kinks], theme.other, "rect"),
            _marks("one-sided slope", _sides(curve), theme.chosen, "circle", hole=theme.paper),
            _marks("slope in use", [[k.x, k.at] for k in curve.kinks], theme.chosen, "circle"),
        ],
    }


def _pieces(curve: Curve) -> list[list[float | None]]:
    drawn: list[list[float | None]] = []
    for x, slope in curve.pieces():
        if drawn and x:
            # A point without a value lifts the pen.
            drawn.append([x[0], None])
        drawn += [[a, b] for a, b in zip(x, slope, strict=True)]
    return drawn


def _sides(curve: Curve) -> list[list[float]]:
    return [[k.x, side] for k in curve.kinks for side in (k.left, k.right)]


def schedule(paths: Mapping[str, Sequence[tuple[float, float]]], t: float, now: Mapping[str, float], theme: Theme) -> Options:
    """The coefficients that follow t, and where they are now."""
    names = list(paths)[:1]
    low, high, step = _span([[v for _, v in paths[n]] for n in names] or [(0.0, 1.0)], cap=math.inf)
    text = "; ".join(f"{n} is {now[n]:.4g} at t = {t:.2f}" for n in names) or "Nothing follows t."
    return {
        **_base(theme, f"Schedule over training progress t from 0 to 1. {text}."),
        "title": _title(theme, f"{', '.join(names)} over t"),
        "grid": _box(top=30),
        "xAxis": _axis(theme, 0.0, 1.0, name="t"),
        "yAxis": {**_axis(theme, low, high), "interval": step},
        "series": [
            _line("schedule", [list(p) for n in names for p in paths[n]], theme.chosen, "solid", 3),
            _marks("now", [[t, now[n]] for n in names], theme.chosen, "circle", 15),
        ],
    }


# --- the training -------------------------------------------------------------------------------------------------------


def learning(race: Race, theme: Theme) -> Options:
    """Loss on the training part, and accuracy on the test part, of both networks."""
    accuracies = [p.test_accuracy for c in race.contestants for p in c.points]
    lowest = min([0.5, *(math.floor(10 * a) / 10 for a in accuracies)])
    options = {
        **_base(theme, "Training loss and test accuracy over optimizer steps. " + told(race)),
        "legend": _legend(theme, [c.name for c in race.contestants]),
        "title": [{**_title(theme, "training loss"), "top": 26}, {**_title(theme, "test accuracy"), "left": "52%", "top": 26}],
        "grid": [{**_box(top=54), "right": "52%"}, {**_box(top=54), "left": "52%"}],
        "xAxis": [{**_axis(theme, 0, race.plan.steps, name="step"), "gridIndex": i} for i in (0, 1)],
        "yAxis": [
            # Losses at the start differ by factors, at the end as well.
            {**_axis(theme, None, None), "type": "log", "gridIndex": 0},
            {**_axis(theme, lowest, 1), "gridIndex": 1},
        ],
        "series": [],
    }
    for panel in (0, 1):
        for c, colour, dash in _looks(race, theme):
            points = [[p.step, max(p.train_loss, 1e-9) if panel == 0 else p.test_accuracy] for p in _thin(c.points)]
            line = _line(c.name, points, colour, dash, 3, _marker(dash))
            options["series"].append({**line, "xAxisIndex": panel, "yAxisIndex": panel})
            end = _marks(c.name, points[-1:], colour, _marker(dash), 11)
            options["series"].append({**end, "xAxisIndex": panel, "yAxisIndex": panel})
    return options


def told(race: Race) -> str:
    """Where both trainings stand, in words."""
    words = []
    for c in race.contestants:
        if not c.points:
            words.append(f"{c.name} has no finite loss from the start")
            continue
        p = c.points[-1]
        text = f"{c.name}: loss {p.train_loss:.3f}, test accuracy {100 * p.test_accuracy:.1f} %"
        words.append(text + (f", diverged at step {c.diverged}" if c.diverged is not None else ""))
    return f"Step {race.step} of {race.plan.steps}. {'. '.join(words)}."


def decision(race: Race, theme: Theme) -> Options:
    """The map of the chosen network's decision with its boundary, the other's boundary, and the test points. Two moons only."""
    (chosen, other), (columns, rows) = race.contestants, GRID
    window, grid = race.task.window, race.decision(0)
    if window is None or grid is None:
        return {**_base(theme, ""), "series": []}
    low_x, high_x, low_y, high_y = window
    inner = {"show": False, "type": "value"}
    x, y = race.task.x_test.tolist(), race.task.y_test.tolist()
    return {
        **_base(theme, f"Two moons: decision of {chosen.name}, boundary of {other.name}, and the test points."),
        "grid": {"left": 4, "right": 4, "top": 28, "bottom": 4},
        "title": {
            "text": f"{{a|●}} {chosen.name}   {{b|□}} {other.name}",
            "left": 0,
            "top": 0,
            "textStyle": {
                "color": theme.ink, "fontSize": 13, "fontWeight": "normal",
                "rich": {"a": {"color": theme.ink, "fontSize": 13}, "b": {"color": theme.other, "fontSize": 15}},
            },
        },
        "xAxis": [
            {"type": "category", "show": False, "data": list(range(columns))},
            {**inner, "min": low_x, "max": high_x},
        ],
        "yAxis": [
            {"type": "category", "show": False, "data": list(range(rows))},
            {**inner, "min": low_y, "max": high_y},
        ],
        "visualMap": {
            "show": False, "min": 0, "max": 1, "seriesIndex": 0, "inRange": {"color": [theme.low, theme.paper, theme.high]},
        },
        "series": [
            {
                "type": "heatmap", "name": "P(class 1)", "animation": False, "progressive": 0, "silent": True,
                "data": [[j, i, round(p, 3)] for i, row in enumerate(grid) for j, p in enumerate(row)],
            },
            _on_map(_marks("class 0", [p for p, c in zip(x, y, strict=True) if c < 0.5], theme.chosen, "circle", 8)),
            _on_map(_marks("class 1", [p for p, c in zip(x, y, strict=True) if c > 0.5], theme.other, "triangle", 9)),
            _on_map(_marks(f"boundary of {other.name}", _pairs(race.boundary(1)), theme.other, "rect", 5, hole=theme.paper)),
            _on_map(_marks(f"boundary of {chosen.name}", _pairs(race.boundary(0)), theme.ink, "circle", 5)),
        ],
    }  # fmt: skip


def coefficients(race: Race, theme: Theme) -> Options:
    """How the coefficients of the chosen network move, a line for each layer and name."""
    moving = list(race.contestants[0].coefficients.items())[:SERIES]
    low, high, step = _span([[v for _, v in path] for _, path in moving] or [(0.0, 1.0)], cap=math.inf)
    names = list(dict.fromkeys(name.partition(",")[0] for name, _ in moving))
    lines, ends = [], []
    for name, path in [*moving, *[("", [])] * (SERIES - len(moving))]:
        # A colour and a marker for each coefficient, a dash for each layer; the legend names the coefficients once.
        short, points = name.partition(",")[0], _pairs(_thin(path))
        kind = names.index(short) % 4 if name else 0
        second = name.endswith("layer 2")
        line = _line(name if second else short, points, theme.layers[kind], "dashed" if second else "solid", 3, SYMBOLS[kind])
        lines.append(line)
        ends.append(_marks("", points[-1:], theme.layers[kind], SYMBOLS[kind], 10))
    layers = len(moving) > len(names)
    note = {**_title(theme, "solid: layer 1, dashed: layer 2" if layers else ""), "top": 24}
    return {
        **_base(theme, "Coefficients of the chosen network over optimizer steps. " + _last(moving)),
        "title": {**note, "textStyle": {"color": theme.quiet, "fontSize": SIZE - 1, "fontWeight": "normal"}},
        "legend": {**_legend(theme, names), "itemWidth": 26, "itemGap": 8},
        "grid": _box(top=52 if layers else 34),
        "xAxis": _axis(theme, 0, race.plan.steps, name="step"),
        "yAxis": {**_axis(theme, low, high), "interval": step},
        "series": [*lines, *ends],
    }


def _last(moving: Sequence[tuple[str, Sequence[tuple[int, float]]]]) -> str:
    return "; ".join(f"{name} is {path[-1][1]:.3f}" for name, path in moving) or "None of them moves."


def _looks(race: Race, theme: Theme) -> list[tuple[Contestant, str, str]]:
    chosen, other = race.contestants
    return [(other, theme.other, "dashed"), (chosen, theme.chosen, "solid")]


def _marker(dash: str) -> str:
    return "circle" if dash == "solid" else "rect"


def _thin(points: Sequence[Any], most: int = 150) -> list[Any]:
    """Every so many, and the last: more than a chart has pixels need not travel."""
    stride = max(1, math.ceil(len(points) / most))
    return [*points[:-1:stride], *points[-1:]]


# --- the parts of a chart -----------------------------------------------------------------------------------------------


def _base(theme: Theme, description: str) -> Options:
    return {
        "animation": False,
        "backgroundColor": "transparent",
        "textStyle": {"color": theme.ink, "fontSize": SIZE, "fontFamily": "system-ui, sans-serif"},
        "aria": {"enabled": True, "label": {"description": description}},
    }


def _box(top: int) -> Options:
    return {"left": 8, "right": 18, "top": top, "bottom": 18, "containLabel": True}


def _title(theme: Theme, text: str) -> Options:
    style = {"color": theme.ink, "fontSize": SIZE, "fontWeight": 600}
    return {"text": text, "top": 2, "textStyle": style, **({"right": 18} if text.endswith(")") else {"left": 8})}


def _axis(theme: Theme, low: float | None, high: float | None, *, name: str = "") -> Options:
    return {
        "type": "value", "min": low, "max": high, "name": name, "nameLocation": "middle", "nameGap": 21,
        "nameTextStyle": {"color": theme.quiet, "fontSize": SIZE - 1},
        "axisLabel": {"color": theme.quiet, "fontSize": SIZE - 1, "hideOverlap": True},
        "axisLine": {"show": True, "onZero": True, "lineStyle": {"color": theme.quiet}},
        "splitLine": {"lineStyle": {"color": theme.grid}}, "splitNumber": 4,
    }  # fmt: skip


def _legend(theme: Theme, names: Sequence[str]) -> Options:
    return {
        "show": bool(names), "data": list(names), "top": 0, "left": 0, "itemWidth": 34, "selectedMode": False,
        "textStyle": {"color": theme.ink, "fontSize": SIZE},
    }  # fmt: skip


def _line(name: str, data: Sequence[Any], colour: str, dash: str | list[int], width: float, symbol: str = "circle") -> Options:
    return {
        "type": "line", "name": name, "data": list(data), "symbol": symbol, "showSymbol": False, "silent": True, "clip": True,
        "lineStyle": {"color": colour, "type": dash, "width": width}, "itemStyle": {"color": colour},
    }  # fmt: skip


def _marks(name: str, data: Sequence[Any], colour: str, symbol: str, size: float = 12, hole: str = "") -> Options:
    style: Options = {"color": colour}
    if hole:
        style = {"color": hole, "borderWidth": 2.5, "borderColor": colour}
    return {
        "type": "scatter", "name": name, "data": list(data), "symbol": symbol, "symbolSize": size, "itemStyle": style,
        "silent": True, "z": 5,
    }  # fmt: skip


def _on_map(marks: Options) -> Options:
    return {**marks, "xAxisIndex": 1, "yAxisIndex": 1}


def _points(x: Sequence[float], y: Sequence[float]) -> list[list[float]]:
    return [[a, b] for a, b in zip(x, y, strict=True)]


def _pairs(points: Iterable[tuple[float, float]]) -> list[list[float]]:
    return [list(p) for p in points]


def _span(series: Sequence[Sequence[float]], *, cap: float) -> tuple[float, float, float]:
    """A range that holds the values, but for those beyond the cap, and the distance of its ticks: round numbers."""
    low, high = max(min(map(min, series)), -cap), min(max(map(max, series)), cap)
    # Room for half of a line's width: what runs along the edge would be cut.
    room = 0.02 * max(high - low, 0.2)
    low, high = max(low - room, -cap), min(high + room, cap)
    wide = high - low
    power = 10 ** math.floor(math.log10(wide / 4))
    step = power * next(f for f in (1, 2, 2.5, 5, 10) if wide / 4 <= f * power * (1 + 1e-9))
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    return round(first * step, 9), round(last * step, 9), round(step, 9)
