"""The figures: Vega-Lite specifications, without data, one per page width. Their marks are made with Altair.

A figure is drawn once per width class because a plot that is merely scaled down is not legible on a telephone. Colours
are the light theme's; the style sheet re-inks the neutral ones for dark pages, so that what is exported or printed is
always dark on white.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
from altair.utils.schemapi import debug_mode

from pliant.lab.report import aggregate, wording
from pliant.lab.report.aggregate import Table
from pliant.lab.report.data import ReportData

WIDTHS = (900, 600, 330)

# Neutral colours are names for the style sheet as much as colours: report.css replaces exactly these in dark pages.
INK, QUIET, GRID, BAND, PAPER = "#22262b", "#59626d", "#e4e7ea", "#eceff2", "#fffffe"
# Okabe and Ito's palette without its yellow, which cannot be seen on white; black is the baseline's.
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"
# Under white text, where blue proper is lightened on dark pages.
HEAT = "#00669f"
HUES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
DASHES = ((1, 0), (6, 3), (2, 2), (9, 3, 2, 3))
MARKERS = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
WORD_HUES = {"BETTER": GREEN, "WORSE": VERMILLION, "EQUIVALENT": BLUE, "CANNOT TELL": QUIET}
WORD_MARKERS = {"BETTER": "triangle-up", "WORSE": "triangle-down", "EQUIVALENT": "square", "CANNOT TELL": "circle"}

EVERY = "All activations"

CONFIG: dict[str, Any] = {
    "background": PAPER,
    # A selector changes what is drawn, and with it how much room labels and titles need.
    "autosize": {"type": "pad", "resize": True},
    "font": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif",
    "padding": 2,
    "view": {"stroke": None},
    "axis": {
        "labelColor": QUIET,
        "titleColor": QUIET,
        "labelFontSize": 11.5,
        "titleFontSize": 11.5,
        "titleFontWeight": "normal",
        "titlePadding": 7,
        "domainColor": QUIET,
        "tickColor": QUIET,
        "gridColor": GRID,
        "labelLimit": 150,
        "tickSize": 4,
        "labelPadding": 4,
    },
    "legend": {
        "labelColor": INK,
        "titleColor": QUIET,
        "labelFontSize": 11.5,
        "titleFontSize": 11.5,
        "titleFontWeight": "normal",
        "labelLimit": 150,
        "symbolStrokeWidth": 2,
        "symbolOpacity": 1,
        "symbolSize": 70,
        "rowPadding": 4,
    },
    "header": {"labelColor": INK, "labelFontSize": 12, "labelFontWeight": 600, "titleColor": QUIET, "labelLimit": 220},
    "title": {
        "color": INK,
        "fontSize": 12,
        "fontWeight": 600,
        "anchor": "start",
        "frame": "group",
        "offset": 8,
        "subtitleColor": QUIET,
    },
    "text": {"color": INK, "fontSize": 11.5},
    # The table under each figure is the accessible form of its data; a name on every mark would bury it in noise.
    "mark": {"aria": False},
    "facet": {"spacing": 18},
    "concat": {"spacing": 26},
}


@dataclass(frozen=True)
class Figure:
    id: str
    title: str
    caption: str
    description: str
    """For those who do not see the chart: what kind it is and what stands on its axes."""
    layouts: tuple[tuple[int, dict[str, Any]], ...]
    """(width in px, Vega-Lite specification), widest first."""
    tables: Mapping[str, Table]
    """Data of the specification, by name; the first is the one shown under the figure."""


Absent = str
"""Instead of a figure: the sentence that says why there is none."""

NOTHING_SCORED = "No trial has been scored yet, so there is nothing to draw."
BAND_TEXT = "the band spans the central 80 % of trials (10th to 90th percentile)"


Spec = dict[str, Any]
"""A specification, or a part of one, as Vega-Lite has it."""


def _figure(
    id_: str, title: str, caption: str, description: str, draw: Callable[[int], Spec], tables: Mapping[str, Table]
) -> Figure:
    # Altair would check each part when it is made and again in what it is put into. The tests check the whole, once.
    with debug_mode(False):
        layouts = tuple((width, draw(width)) for width in WIDTHS)
    return Figure(id_, title, caption, description, layouts, tables)


# Altair copies the charts that it joins, each time with all that was joined before, and most of the time that a report takes
# would go there. So its part ends at the single mark, and what holds several is put together from their specifications.


def _spec(part: Any) -> Spec:
    # Not as the whole page, which would be given a schema and a theme.
    spec: Spec = part.to_dict(validate=False, context={"top_level": False})
    return spec


def _layered(charts: Sequence[Any], **properties: Any) -> Spec:
    """Marks over one another. The data stand above them where they share them, as a facet needs it."""
    specs = [_spec(chart) for chart in charts]
    data = specs[0]["data"]
    if any(spec["data"] != data for spec in specs):
        return {"layer": specs, **properties}
    return {"data": data, "layer": [{k: v for k, v in spec.items() if k != "data"} for spec in specs], **properties}


def _faceted(layers: Spec, facet: Any, columns: int, **properties: Any) -> Spec:
    """A panel for each value of a field."""
    each = {k: v for k, v in layers.items() if k != "data"}
    return {"data": layers["data"], "facet": _spec(facet), "spec": each, "columns": columns, **properties}


@dataclass(frozen=True)
class Palette:
    """Colour, dash and marker of every activation: the same in every figure. The baseline is solid ink."""

    labels: list[str]
    baseline: str | None

    def _others(self) -> dict[str, int]:
        return {label: i for i, label in enumerate(label for label in self.labels if label != self.baseline)}

    def color(self) -> Any:
        others = self._others()
        hues = [INK if label == self.baseline else HUES[others[label] % len(HUES)] for label in self.labels]
        return alt.Scale(domain=self.labels, range=hues)

    def family(self) -> str:
        """Expression for the dash family of a row: the hues are used again with the next one.

        A field of its own, because a legend that shows colour, marker and dash of one field in a single symbol is a blot.
        """
        others = self._others()
        families = [0 if label == self.baseline else others[label] // len(HUES) % len(DASHES) for label in self.labels]
        return f"{json.dumps(families)}[indexof({json.dumps(self.labels)}, datum.label)]"

    def dash(self) -> Any:
        scale = alt.Scale(domain=list(range(len(DASHES))), range=[list(dash) for dash in DASHES])
        return alt.StrokeDash("family:O", scale=scale, legend=None)

    def shape(self) -> Any:
        others = self._others()
        shapes = ["circle" if label == self.baseline else MARKERS[others[label] % len(MARKERS)] for label in self.labels]
        return alt.Scale(domain=self.labels, range=shapes)


def palette(data: ReportData, names: Mapping[str, str]) -> Palette:
    baseline = names.get(data.verdict.baseline) if data.verdict is not None else None
    return Palette(list(names.values()), baseline)


def _palette_of(table: Table, data: ReportData, names: Mapping[str, str]) -> Palette:
    """That of the activations that a table has rows of."""
    drawn = {str(v) for v in table.values("label")}
    return palette(data, {a: label for a, label in names.items() if label in drawn})


def _n_text(table: Table) -> str:
    """Of how many trials the rows of a table are: "n = 5", or "n = 3 to 5"."""
    ns = sorted({int(n) for n in table.numbers("n")})
    return f"n = {ns[0]}" if len(ns) == 1 else f"n = {ns[0]} to {ns[-1]}"


def _literal(text: str) -> str:
    """Text as a string of Vega's expression language; names come from users and may hold quotes."""
    return json.dumps(text)


def _label_width(labels: Sequence[str]) -> int:
    return min(150, 16 + round(6.6 * max((len(label) for label in labels), default=0)))


def _activation_axis(labels: Sequence[str], baseline: str | None) -> Any:
    bold = {"condition": {"test": f"datum.value === {_literal(baseline or '')}", "value": 600}, "value": "normal"}
    return alt.Y(
        "label:N",
        sort=list(labels),
        title=None,
        scale=alt.Scale(domain=list(labels)),
        axis=alt.Axis(
            labelFontWeight=bold, labelColor=INK, labelPadding=9, ticks=False, domain=False, grid=True, gridDash=[1, 3]
        ),
    )


def _picker(name: str, label: str, options: Sequence[str], value: str) -> Spec:
    return {"name": name, "value": value, "bind": {"input": "select", "options": list(options), "name": label}}


def _slider(name: str, label: str, value: int, **bounds: float) -> Spec:
    return {"name": name, "value": value, "bind": {"input": "range", **bounds, "name": label}}


def _where(test: object, value: object) -> list[Spec]:
    """The value of a channel where a test holds."""
    return [{"test": test, "value": value}]


def _source(name: str) -> Any:
    return alt.NamedData(name=name)


def _forest_domain(main: Table, pairs: Table, margin: float) -> tuple[float, float]:
    """Wide enough for nearly everything: one collapsed activation must not flatten all others into a line."""
    lows = main.numbers("low") + main.numbers("difference")
    highs = main.numbers("high") + main.numbers("difference")
    reach = sorted(max(abs(low), abs(high)) for low, high in zip(lows, highs, strict=False)) or [margin]
    limit = max(3.0 * margin, 2.5 * reach[math.ceil(0.75 * (len(reach) - 1))])
    shown = [x for x in pairs.numbers("difference") if abs(x) <= limit]
    low = max(-limit, min([*lows, *shown, -1.25 * margin]))
    high = min(limit, max([*highs, *shown, 1.25 * margin]))
    room = 0.03 * (high - low) or 1.0
    return low - room, high + room


def forest(data: ReportData, names: Mapping[str, str]) -> Figure | Absent:
    verdict = data.verdict
    main, pairs = aggregate.forest(data, names)
    if verdict is None or len(main) == 0:
        return "No activation has been compared with the baseline yet."
    shown = wording.metric(verdict.metric)
    margin = verdict.margin * shown.scale
    labels = [str(v) for v in main.values("label")]
    low, high = _forest_domain(main, pairs, margin)
    cut = any(x < low for x in main.numbers("low")) or any(x > high for x in main.numbers("high"))
    outside = sum(not low <= x <= high for x in pairs.numbers("difference"))
    higher = all(c.higher_is_better for c in verdict.comparisons)

    def draw(width: int) -> Spec:
        numbers = width >= 600
        inner = width - _label_width(labels) - (150 if numbers else 16)
        x = alt.Scale(domain=[low, high], nice=False, zero=False)
        title = f"{shown.title} minus {verdict.baseline_label}{f', {shown.points}' if shown.points else ''}"
        axis = alt.Axis(title=title, grid=False, tickCount=max(3, inner // 80))
        y = _activation_axis(labels, None)
        base = alt.Chart(_source("forest"))
        hue = alt.Color(
            "word:N",
            title=None,
            scale=alt.Scale(domain=list(wording.WORDS), range=list(WORD_HUES.values())),
            legend=alt.Legend(orient="top", direction="horizontal", columns=4 if numbers else 2, symbolSize=80),
        )
        marker = alt.Shape(
            "word:N",
            title=None,
            scale=alt.Scale(domain=list(wording.WORDS), range=list(WORD_MARKERS.values())),
            legend=alt.Legend(orient="top"),
        )
        tip = [
            alt.Tooltip("label:N", title="Activation"),
            alt.Tooltip("text:N", title="Difference"),
            alt.Tooltip("n:Q", title="Pairs"),
            alt.Tooltip("word:N", title="Verdict"),
        ]
        layers = [
            alt.Chart(_source("unit"))
            .mark_rect(color=BAND)
            .encode(x=alt.XDatum(max(low, -margin), type="quantitative"), x2=alt.X2Datum(min(high, margin))),
            alt.Chart(_source("unit")).mark_rule(color=QUIET, strokeDash=[4, 3]).encode(x=alt.XDatum(0, type="quantitative")),
            alt.Chart(_source("pairs"))
            .transform_filter(f"inrange(datum.difference, [{low!r}, {high!r}])")
            .mark_tick(color=QUIET, opacity=0.38, thickness=1, size=11)
            .encode(x=alt.X("difference:Q", scale=x, axis=axis), y=y),
            base.transform_filter("isValid(datum.low)")
            .mark_rule(strokeWidth=2.2, clip=True)
            .encode(x=alt.X("low:Q", scale=x, axis=axis), x2=alt.X2("high:Q"), y=y, color=hue),
            base.transform_filter(f"inrange(datum.difference, [{low!r}, {high!r}])")
            .mark_point(filled=True, size=85, opacity=1, stroke=PAPER, strokeWidth=0.8)
            .encode(x=alt.X("difference:Q", scale=x, axis=axis), y=y, color=hue, shape=marker, tooltip=tip),
        ]
        for end, test, symbol in (("low", f"datum.low < {low!r}", "left"), ("high", f"datum.high > {high!r}", "right")):
            if cut:
                layers.append(
                    base.transform_filter(f"isValid(datum.{end}) && {test}")
                    .mark_point(shape=f"triangle-{symbol}", filled=True, size=60, opacity=1)
                    .encode(x=alt.XDatum(low if end == "low" else high), y=y, color=hue)
                )
        if numbers:
            layers.append(
                base.mark_text(align="left", baseline="middle", color=INK).encode(
                    x=alt.XValue(inner + 12), y=y, text=alt.Text("text:N")
                )
            )
        return _layered(layers, width=inner, height={"step": 25})

    n_text = _n_text(main)
    name = f"{verdict.split} {wording.in_sentence(shown.title)}"
    caption = (
        f"Mean paired difference in {name} to {verdict.baseline_label} (marker) and its "
        f"{level(verdict.alpha)} interval, corrected for overlapping training sets; {n_text} pairs of trials per "
        f"activation. Fine ticks are the single pairs. The shaded band is the region of practical equivalence, "
        f"{wording.margin(verdict)}. {'Right' if higher else 'Left'} of zero is better."
    )
    if cut:
        caption += " An arrowhead marks an interval that continues beyond the frame."
    if outside:
        caption += f" {wording.counted(outside, 'single pair')} beyond the frame {'is' if outside == 1 else 'are'} not drawn."
    if len(pairs) < sum(c.n for c in verdict.comparisons):
        caption += f" Ticks are those of the first repeats only, at most {aggregate.FOLDS_DRAWN} per activation."
    return _figure(
        "forest",
        "Paired differences",
        caption,
        f"Forest plot, one row per activation: paired difference to {verdict.baseline_label} with its interval.",
        draw,
        {"forest": main, "pairs": pairs, "unit": _UNIT},
    )


def _zero_axis(**more: Any) -> Any:
    """An axis whose grid line at 0 stands out: with functions, that is where things happen."""
    at_zero = "datum.value === 0"
    return alt.Axis(
        grid=True,
        gridColor={"condition": {"test": at_zero, "value": QUIET}, "value": GRID},
        gridOpacity={"condition": {"test": at_zero, "value": 0.55}, "value": 1},
        domain=False,
        ticks=False,
        **more,
    )


_UNIT = aggregate.table({"one": ""}, [(1,)])


def level(alpha: float) -> str:
    return f"{100 * (1 - alpha):g} %"


def folds(data: ReportData, names: Mapping[str, str]) -> Figure | Absent:
    verdict = data.verdict
    table, most = aggregate.fold_pairs(data, names)
    if verdict is None or len(table) == 0:
        return "No fold has been scored for both the baseline and another activation yet."
    shown = wording.metric(verdict.metric)
    margin = verdict.margin * shown.scale
    options = list(dict.fromkeys(str(v) for v in table.values("label")))
    told = {names.get(c.activation, c.label): c for c in verdict.comparisons}

    def weight(label: str) -> tuple[bool, float]:
        comparison = told.get(label)
        if comparison is None:
            return False, 0.0
        return comparison.word in ("BETTER", "WORSE"), abs(wording.finite(comparison.difference) or 0.0)

    first = max(options, key=weight)
    base_name = f"{verdict.baseline_label} (baseline)"
    signs = alt.Scale(domain=["better", "equal", "worse"], range=[GREEN, QUIET, VERMILLION])
    sign_shapes = alt.Scale(domain=["better", "equal", "worse"], range=["triangle-up", "circle", "triangle-down"])

    def draw(width: int) -> Spec:
        pick = _picker("pick_fold", "Activation ", options, first)
        side = width < 600
        rows = len({str(v) for v in table.values("pair")})
        left = width - 60 if side else round(width * 0.42) - 60
        right = width - 60 if side else round(width * 0.58) - 80
        height = max(220, min(14 * rows, 520))
        chosen = "datum.label === pick_fold"
        legend = alt.Legend(orient="bottom", direction="horizontal", title="In this fold the activation is")
        hue = alt.Color("sign:N", scale=signs, legend=legend)
        shape = alt.Shape("sign:N", scale=sign_shapes, legend=legend)
        tip = [
            alt.Tooltip("pair:N", title="Repeat.fold"),
            alt.Tooltip("baseline:Q", title=verdict.baseline_label, format=f".{shown.digits}f"),
            alt.Tooltip("value:Q", title="Activation", format=f".{shown.digits}f"),
            alt.Tooltip("difference:Q", title="Difference", format=f"+.{shown.digits}f"),
        ]
        slope = (
            alt.Chart(_source("folds"))
            .transform_filter(chosen)
            .transform_calculate(from_=_literal(base_name), to_="datum.label", begin="datum.baseline", finish="datum.value")
            .transform_fold(["begin", "finish"], as_=["end", "metric"])
            .transform_calculate(side="datum.end === 'begin' ? datum.from_ : datum.to_")
        )
        x = alt.X(
            "side:N",
            title=None,
            sort=alt.EncodingSortField(field="end", order="ascending", op="min"),
            scale=alt.Scale(padding=0.35),
            axis=alt.Axis(labelAngle=0, labelColor=INK, domain=False, ticks=False, labelPadding=8, labelLimit=left // 2),
        )
        y = alt.Y(
            "metric:Q",
            title=None,
            scale=alt.Scale(zero=False, nice=True),
            axis=alt.Axis(tickCount=6, domain=False, ticks=False),
        )
        unit = f", {shown.unit}" if shown.unit else ""
        lines = _layered(
            [
                slope.mark_line(strokeWidth=1.4, opacity=0.6).encode(x=x, y=y, detail=alt.Detail("pair:N"), color=hue),
                slope.mark_point(filled=True, size=36, opacity=0.9).encode(x=x, y=y, color=hue, shape=shape, tooltip=tip),
            ],
            width=left,
            height=height if not side else 260,
            title=f"{verdict.split.capitalize()} {wording.in_sentence(shown.title)}{unit}: each fold's pair joined",
        )
        order = list(dict.fromkeys(str(v) for v in table.values("pair")))
        pair = alt.Y(
            "pair:N",
            sort=order,
            title=None,
            axis=alt.Axis(ticks=False, domain=False, grid=True, gridDash=[1, 3], labelOverlap=True),
        )
        change = alt.X(
            "difference:Q",
            title=f"Activation minus {verdict.baseline_label}{f', {shown.points}' if shown.points else ''}",
            axis=alt.Axis(grid=False, tickCount=6),
        )
        single = alt.Chart(_source("folds")).transform_filter(chosen)
        sticks = _layered(
            [
                alt.Chart(_source("unit"))
                .mark_rect(color=BAND)
                .encode(x=alt.XDatum(-margin, type="quantitative"), x2=alt.X2Datum(margin)),
                alt.Chart(_source("unit")).mark_rule(color=QUIET).encode(x=alt.XDatum(0, type="quantitative")),
                single.transform_calculate(zero="0")
                .mark_rule(strokeWidth=1.4, opacity=0.6)
                .encode(x=change, x2=alt.X2("zero:Q"), y=pair, color=hue),
                single.mark_point(filled=True, size=44, opacity=1).encode(
                    x=change, y=pair, color=hue, shape=shape, tooltip=tip
                ),
            ],
            width=right,
            height=height,
            title="Difference in each fold (repeat.fold)",
        )
        return {"vconcat" if side else "hconcat": [lines, sticks], "params": [pick]}

    drawn = max(sum(v == label for v in table.values("label")) for label in options)
    caption = (
        f"{verdict.split.capitalize()} {wording.in_sentence(shown.title)} of {verdict.baseline_label} and of the chosen "
        f"activation in the same folds, n = {drawn} pairs: joined (left), and as differences with the region of practical "
        f"equivalence {wording.margin(verdict)} shaded (right). Both trials of a pair share split, initial weights and batch "
        "order."
    )
    if drawn < most:
        caption += f" The first repeats only; all {most} pairs are in the verdict."
    return _figure(
        "folds",
        "Fold by fold",
        caption,
        f"Slope chart of {verdict.baseline_label} against one activation, fold by fold, and the differences beside it.",
        draw,
        {"folds": table, "unit": _UNIT},
    )


def _frame(means: list[float], bands: list[float], *, loss: bool) -> tuple[Any, str, bool]:
    """Scale, a word for the title, and whether something lies outside the frame.

    The mean lines make the frame, so that one wide band does not flatten them; a few of their values are only left out
    where they would squeeze all others into less than a third of it.
    """
    if not means:
        return alt.Scale(zero=False), "", False
    ordered = sorted(means)
    lowest, highest = min(ordered[0], *bands, ordered[-1]), max(ordered[-1], *bands, ordered[0])
    log = loss and ordered[0] > 0 and ordered[-1] > 6 * ordered[0]
    inward: Callable[[float], float] = math.log if log else float
    outward: Callable[[float], float] = math.exp if log else float
    low, high = inward(ordered[0]), inward(ordered[-1])
    usual_low = inward(ordered[math.floor(0.01 * (len(ordered) - 1))])
    usual_high = inward(ordered[math.ceil(0.99 * (len(ordered) - 1))])
    if high - low > 3 * (usual_high - usual_low) > 0:
        low, high = usual_low, usual_high
    room = 0.15 * (high - low)
    bottom, top = max(outward(low - room), lowest), min(outward(high + room), highest)
    cut = bottom > lowest or top < highest
    if log:
        return alt.Scale(type="log", domain=[bottom, top], nice=False), ", log scale", cut
    return alt.Scale(domain=[bottom, top], nice=True), "", cut


PANELS = (
    ("train_loss", "Training loss, nats"),
    ("validation_loss", "Validation loss, nats"),
    ("train_accuracy", "Training accuracy"),
    ("validation_accuracy", "Validation accuracy"),
)


def _panels(columns: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The curves of a detector with their titles: the parts of the loss are those of the network."""
    titles = {
        "train_loss": "Training loss",
        "validation_ap": "Validation AP (COCO)",
        "validation_ap50": "Validation AP50 (COCO)",
    }
    return tuple((c, titles.get(c) or f"Loss: {c.removeprefix('train_loss_').replace('_', ' ')}") for c in columns)


def curves(data: ReportData, names: Mapping[str, str], traces: aggregate.Traces) -> Figure | Absent:
    table = traces.curves
    if len(table) == 0:
        return "No trial has a finished training history yet."
    look = _palette_of(table, data, names)
    labels = look.labels
    detects = data.detected is not None
    panels = _panels(traces.columns) if detects else PANELS
    clipped = False
    scales: dict[str, tuple[Any, str]] = {}
    # What is drawn to one scale; the parts of a detector's loss differ by orders of magnitude.
    shared = [("train_loss", "validation_loss"), ("train_accuracy", "validation_accuracy")]
    for pair in [(name,) for name, _ in panels] if detects else shared:
        means = [v for name in pair for v in table.numbers(name)]
        bands = [v for name in pair for end in ("_low", "_high") for v in table.numbers(name + end)]
        scale, word, cut = _frame(means, bands, loss="loss" in pair[0])
        clipped |= cut
        scales |= dict.fromkeys(pair, (scale, word))

    def draw(width: int) -> Spec:
        two = width >= 600
        legend_columns = 1 if width >= 900 else 4 if two else 2
        beside = width >= 900
        legend_width = _label_width(labels) + 50 if beside else 0
        inner = (width - legend_width - (2 * 42 + 26 if two else 42)) // (2 if two else 1)
        legend = alt.Legend(
            title="Click to isolate; shift-click adds" if not beside else ["Click to isolate,", "shift-click adds"],
            orient="right" if beside else "bottom",
            columns=legend_columns,
            symbolSize=110,
            symbolStrokeWidth=1.8,
        )
        isolate = {
            "name": "isolate",
            "select": {"type": "point", "fields": ["label"]},
            "bind": "legend",
            "views": ["isolating_0"],
        }
        show = _picker("show_curve", "Show ", [EVERY, *labels], EVERY)
        mine = f"show_curve === {_literal(EVERY)} || datum.label === show_curve"
        seen = {"and": [{"param": "isolate"}, mine]}
        one = {"and": [{"param": "isolate"}, mine, f"length(data('isolate_store')) || show_curve !== {_literal(EVERY)}"]}
        hue = alt.Color("label:N", scale=look.color(), legend=legend)
        shape = alt.Shape("label:N", scale=look.shape(), legend=legend)
        charts = []
        for name, title in panels:
            scale, word = scales[name]
            accuracy = "loss" not in name
            base = alt.Chart(_source("curves")).transform_calculate(family=look.family())
            x = alt.X(
                "epoch:Q",
                title="Epoch" if name in [n for n, _ in panels[-2:]] or not two else None,
                axis=alt.Axis(grid=False, tickMinStep=1, tickCount=max(3, inner // 70)),
                scale=alt.Scale(nice=False),
            )
            axis = alt.Axis(format="~%" if accuracy else "~g", tickCount=6, domain=False, ticks=False, minExtent=34)
            y = alt.Y(f"{name}:Q", title=None, scale=scale, axis=axis)
            tip = [
                alt.Tooltip("label:N", title="Activation"),
                alt.Tooltip("epoch:Q", title="Epoch"),
                alt.Tooltip(f"{name}:Q", title="Mean", format=".2%" if accuracy else ".4g"),
                alt.Tooltip(f"{name}_low:Q", title="10 %", format=".2%" if accuracy else ".4g"),
                alt.Tooltip(f"{name}_high:Q", title="90 %", format=".2%" if accuracy else ".4g"),
                alt.Tooltip("n:Q", title="Trials"),
            ]
            # The view in which the legend is clicked.
            line = base.properties(name="isolating_0") if name == panels[0][0] else base
            layer = _layered(
                [
                    base.mark_area(clip=True).encode(
                        x=x,
                        y=alt.Y(f"{name}_low:Q", title=None, scale=scale, axis=axis),
                        y2=alt.Y2(f"{name}_high:Q"),
                        color=hue,
                        opacity=alt.OpacityValue(0, condition=[*_where(one, 0.24), *_where(seen, 0.05)]),
                    ),
                    line.mark_line(clip=True, strokeWidth=1.6).encode(
                        x=x,
                        y=y,
                        color=hue,
                        strokeDash=look.dash(),
                        detail=alt.Detail("label:N"),
                        opacity=alt.OpacityValue(0.07, condition=_where(seen, 1)),
                    ),
                    base.transform_filter("datum.mark === 1")
                    .mark_point(clip=True, filled=True, size=42)
                    .encode(
                        x=x,
                        y=y,
                        color=hue,
                        shape=shape,
                        opacity=alt.OpacityValue(0.05, condition=_where(seen, 1)),
                        tooltip=tip,
                    ),
                ],
                width=inner,
                height=210 if two else 190,
                title=title + word,
            )
            charts.append(layer)
        return {"concat": charts, "columns": 2 if two else 1, "params": [isolate, show]}

    n_text = _n_text(table)
    what = "The loss, its parts and average precision" if detects else "Loss and accuracy"
    caption = (
        f"{what} per epoch: mean over trials (line), {n_text} trials per activation and epoch; "
        f"{BAND_TEXT}, faint until one activation is isolated. Training values are running means of the epoch in "
        f"training mode{'' if detects else ' (dropout on)'}; validation values are taken after it."
    )
    if len(set(table.numbers("n"))) > 1:
        caption += " n falls along the curve where trials stopped early or diverged; the mean is over those still running."
    if traces.curve_epochs < traces.epochs:
        caption += f" {traces.curve_epochs} of {traces.epochs} epochs are drawn."
    if clipped:
        caption += " Bands and extreme values are cut off at the frame; the table has them."
    return _figure(
        "curves",
        "Learning curves",
        caption,
        f"{len(panels)} line charts over epochs, one line per activation: "
        f"{', '.join(wording.in_sentence(title) for _, title in panels)}.",
        draw,
        {"curves": table},
    )


def _shape_frame(table: Table, column: str) -> tuple[float, float]:
    values = sorted(table.numbers(column))
    if not values:
        return -1.0, 1.0
    low = max(values[math.floor(0.01 * (len(values) - 1))], -6.0)
    high = min(values[math.ceil(0.97 * (len(values) - 1))], 6.0)
    return (low, high) if high > low else (low - 1.0, low + 1.0)


def gallery(table: Table, left_out: int) -> Figure | Absent:
    """All functions at a glance: at the end of training, and where they started."""
    if len(table) == 0:
        return "No activation's shape was recorded."
    labels = list(dict.fromkeys(str(v) for v in table.values("label")))
    moving = any(last > 0 for last in table.numbers("last"))
    low = min(_shape_frame(table, "value")[0], _shape_frame(table, "derivative")[0])
    high = max(_shape_frame(table, "value")[1], _shape_frame(table, "derivative")[1])

    def draw(width: int) -> Spec:
        columns = _columns(len(labels), (4, 5) if width >= 900 else (3, 4) if width >= 600 else (2,))
        cell = (width - 44) // columns - 18
        scale = alt.Scale(domain=[low, high], nice=False)
        base = alt.Chart(_source("shapes"))
        x = alt.X("x:Q", title=None, axis=_zero_axis(tickCount=3))
        what = alt.Scale(domain=["f(x)", "f′(x)"], range=[INK, BLUE])
        dashes = alt.Scale(domain=["f(x)", "f′(x)"], range=[[1, 0], [4, 2]])
        legend = alt.Legend(title=None, orient="top", symbolType="stroke", symbolSize=200)
        layers = []
        for last in (False, True) if moving else (True,):
            test = "datum.stop === datum.last" if last else "datum.stop === 0 && datum.last > 0"
            for column, name in (("value", "f(x)"), ("derivative", "f′(x)")):
                layers.append(
                    base.transform_filter(test)
                    .transform_calculate(what=_literal(name))
                    .mark_line(clip=True, strokeWidth=1.7 if last else 1.1, opacity=1 if last else 0.4)
                    .encode(
                        x=x,
                        y=alt.Y(f"{column}:Q", title=None, scale=scale, axis=_zero_axis(tickCount=4)),
                        color=alt.Color("what:N", scale=what, legend=legend),
                        strokeDash=alt.StrokeDash("what:N", scale=dashes, legend=legend),
                        detail=alt.Detail("site:N"),
                    )
                )
        facet = alt.Facet("label:N", sort=labels, title=None, header=alt.Header(labelAnchor="start"))
        return _faceted(_layered(layers, width=cell, height=round(cell * 0.72)), facet, columns)

    caption = "Each function f (solid) and its derivative f′ (dashed), on the same axes throughout."
    if moving:
        caption += (
            " Learned and scheduled functions are drawn at the end of training, one line per site, with the start in a "
            "fainter line."
        )
    caption += _sites_left_out(left_out)
    if _outside(table, low, high):
        caption += " Parts outside the frame are cut off."
    return _figure(
        "gallery",
        "All functions at a glance",
        caption,
        "Small line charts, one per activation: the function and its derivative over x.",
        draw,
        {"shapes": table},
    )


def _sites_left_out(count: int) -> str:
    if count == 0:
        return ""
    return f" Of the sites of one activation up to {count}, evenly spaced, are not drawn."


def _columns(panels: int, choices: Sequence[int]) -> int:
    """Of the possible numbers of columns the one that leaves the fewest holes in the last row."""
    return min(choices, key=lambda columns: (-panels % columns, columns))


def _outside(table: Table, low: float, high: float) -> bool:
    return any(not low <= v <= high for c in ("value", "derivative") for v in table.numbers(c))


def shape(table: Table, left_out: int) -> Figure | Absent:
    """One function at a time, with a slider over training."""
    if len(table) == 0:
        return "No activation's shape was recorded."
    labels = list(dict.fromkeys(str(v) for v in table.values("label")))
    last = max(int(v) for v in table.numbers("last"))
    stops = {str(v): aggregate.whole(n) for v, n in zip(table.values("label"), table.values("last"), strict=True)}
    first = max(labels, key=lambda label: stops[label])
    sites = list(dict.fromkeys(str(v) for v in table.values("site")))

    def draw(width: int) -> Spec:
        stacked = width < 600
        inner = width - 50 if stacked else (width - 26 - 2 * 42 - 110) // 2
        pick = _picker("pick_shape", "Activation ", labels, first)
        params = [pick]
        stop = "datum.last"
        if last > 0:
            params.append(_slider("moment", "Start to end of training ", 1, min=0, max=1, step=round(1 / last, 4)))
            stop = "round(moment * datum.last)"
        lines = _site_lines(width, sites)
        charts = []
        for column, title in (("value", "f(x)"), ("derivative", "f′(x)")):
            chosen = alt.Chart(_source("shapes")).transform_filter("datum.label === pick_shape")
            x = alt.X("x:Q", title="x", axis=_zero_axis(tickCount=7))
            y = alt.Y(f"{column}:Q", title=None, axis=_zero_axis(tickCount=6), scale=alt.Scale(zero=True, nice=True))
            tip = [
                alt.Tooltip("site:N", title="Site"),
                alt.Tooltip("stage:N", title="Moment"),
                alt.Tooltip("x:Q"),
                alt.Tooltip("value:Q", title="f(x)"),
                alt.Tooltip("derivative:Q", title="f′(x)"),
            ]
            layers = [
                # Never filtered away: a scale whose source is empty has no end, and Vega says so on the console.
                chosen.transform_filter("datum.stop === 0")
                .mark_line(color=QUIET, strokeWidth=1.2, strokeDash=[3, 3])
                .encode(
                    x=x,
                    y=y,
                    detail=alt.Detail("site:N"),
                    opacity=alt.OpacityValue(0, condition=_where("datum.last > 0", 0.55)),
                ),
                chosen.transform_filter(f"datum.stop === {stop}")
                .mark_line(strokeWidth=2)
                .encode(x=x, y=y, tooltip=tip, **lines),
                chosen.transform_filter(f"datum.stop === {stop}")
                .transform_aggregate(stage="min(stage)", groupby=["label"])
                .transform_calculate(text="datum.stage ? datum.label + ', ' + datum.stage : datum.label")
                .mark_text(align="left", baseline="top", color=INK)
                .encode(x=alt.XValue(8), y=alt.YValue(6), text=alt.Text("text:N")),
            ]
            charts.append(_layered(layers, width=inner, height=250, title=title))
        return {"vconcat" if stacked else "hconcat": charts, "params": params}

    caption = "The chosen activation's value (left) and derivative (right)."
    if last > 0:
        caption += (
            " For a learned or scheduled one the slider goes from the start to the end of training: grey, dashed: the "
            "start; coloured: the chosen moment, one line per site. The axes stay those of the whole training."
        )
    caption += _sites_left_out(left_out)
    return _figure(
        "shape",
        "One function, from start to end",
        caption,
        "Two line charts over x: the chosen activation's value and its derivative.",
        draw,
        {"shapes": table},
    )


# Both channels sort by a field of the data: their domains are then the same one, and so is their legend.
_BY_DEPTH = alt.EncodingSortField(field="order", op="min", order="ascending")


def _site_lines(width: int, sites: Sequence[str]) -> dict[str, Any]:
    """Encodings of a line per site: hue and dash while there are few, and beyond that a ramp over their order."""
    beside = width >= 600
    place: dict[str, Any] = {"orient": "right" if beside else "bottom"}
    if len(sites) > len(HUES):
        legend = alt.Legend(title=["Sites, first", "to last"] if beside else "Sites, first to last", **place)
        return {"color": _site_hue(alt.Color, sites, legend), "detail": alt.Detail("site:N")}
    legend = alt.Legend(title="Site", columns=1 if beside else 2, symbolType="stroke", symbolSize=220, labelLimit=110, **place)
    dashes = [list(DASHES[i % len(DASHES)]) for i in range(len(sites))]
    dash = alt.StrokeDash("site:N", sort=_BY_DEPTH, scale=alt.Scale(range=dashes), legend=legend)
    return {"color": _site_hue(alt.Color, sites, legend), "strokeDash": dash}


def _site_hue(channel: Any, sites: Sequence[str], legend: Any, field: str = "") -> Any:
    """``field`` names a copy of the site (or of its order), for a channel that must not share the legend."""
    if len(sites) <= len(HUES):
        return channel(f"{field or 'site'}:N", sort=_BY_DEPTH, scale=alt.Scale(range=list(HUES)), legend=legend)
    # The light end of the ramp is cut off because it vanishes on white.
    ramp = alt.SchemeParams(name="viridis", extent=[0.0, 0.86])
    return channel(f"{field or 'order'}:Q", scale=alt.Scale(scheme=ramp), legend=legend)


def coefficients(data: ReportData, names: Mapping[str, str], traces: aggregate.Traces) -> Figure | Absent:
    table = traces.coefficients
    if len(table) == 0:
        return "No activation in this study has a learned or scheduled coefficient, or none has a finished history yet."
    drawn = list(dict.fromkeys(str(v) for v in table.values("label")))
    labels = [label for label in names.values() if label in drawn]
    sites = list(dict.fromkeys(str(v) for v in table.values("site")))
    most = dict.fromkeys(labels, 0)
    for label in labels:
        pairs = zip(table.values("label"), table.values("name"), strict=True)
        most[label] = len({n for mine, n in pairs if mine == label})
    first = max(labels, key=lambda label: most[label])

    def draw(width: int) -> Spec:
        columns = 2 if width >= 600 else 1
        cell = (width - 130 - 2 * 42 - 18) // 2 if width >= 900 else (width - 130 - 84) // 2 if width >= 600 else width - 60
        lines = _site_lines(width, sites)
        # The band takes the same hues through another channel and a copy of the field: one more user of the colour
        # scale, and Vega-Lite would no longer join its legend with that of the dashes.
        tint = _site_hue(alt.Fill, sites, None, "band")
        base = alt.Chart(_source("coefficients"))
        x = alt.X(
            "epoch:Q",
            title="Epoch",
            axis=alt.Axis(grid=False, tickMinStep=1, tickCount=max(3, cell // 70)),
            scale=alt.Scale(nice=False),
        )
        axis = alt.Axis(tickCount=5, domain=False, ticks=False, minExtent=42)
        tip = [
            alt.Tooltip("site:N", title="Site"),
            alt.Tooltip("epoch:Q", title="Epoch"),
            alt.Tooltip("mean:Q", title="Mean", format=".4g"),
            alt.Tooltip("low:Q", title="Low", format=".4g"),
            alt.Tooltip("high:Q", title="High", format=".4g"),
            alt.Tooltip("n:Q", title="Trials"),
        ]
        y = alt.Y("mean:Q", title=None, scale=alt.Scale(zero=False), axis=axis)
        layered = _layered(
            [
                base.transform_calculate(band="datum.site" if len(sites) <= len(HUES) else "datum.order")
                .mark_area(opacity=0.16)
                .encode(
                    x=x,
                    y=alt.Y("low:Q", title=None, scale=alt.Scale(zero=False), axis=axis),
                    y2=alt.Y2("high:Q"),
                    fill=tint,
                    detail=alt.Detail("site:N"),
                ),
                base.mark_line(strokeWidth=1.7).encode(x=x, y=y, tooltip=tip, **lines),
            ],
            width=cell,
            height=150,
        )
        return _faceted(
            layered,
            alt.Facet("name:N", title=None, header=alt.Header(labelAnchor="start")),
            columns,
            transform=[{"filter": "datum.label === pick_coefficient"}],
            resolve={"scale": {"y": "independent"}},
            params=[_picker("pick_coefficient", "Activation ", labels, first)],
        )

    n_text = _n_text(table)
    caption = (
        f"Learned and scheduled coefficients at the end of each epoch, by call site: mean over {n_text} trials (line); "
        f"{BAND_TEXT}."
    )
    if traces.channels > 1:
        caption += (
            f" A coefficient with one value per channel (up to {traces.channels}) is shown as the mean over channels, and its "
            "band spans the central 80 % of channels, averaged over trials."
        )
    if traces.sites_left_out:
        caption += f" {wording.counted(traces.sites_left_out, 'series', 'series')} at evenly spaced sites are left out."
    return _figure(
        "coefficients",
        "How the coefficients moved",
        caption,
        "Line charts over epochs, one panel per coefficient of the chosen activation, one line per call site.",
        draw,
        {"coefficients": table},
    )


def layers(data: ReportData, names: Mapping[str, str], traces: aggregate.Traces) -> Figure | Absent:
    """The coefficients across the depth of the network, with a slider over training."""
    table = aggregate.profile(traces.coefficients)
    if len(table) == 0:
        return "No coefficient differs between the layers of a network in this study."
    drawn = list(dict.fromkeys(str(v) for v in table.values("label")))
    labels = [label for label in names.values() if label in drawn]
    places = {(str(label), str(site)) for label, site in zip(table.values("label"), table.values("site"), strict=True)}
    most = max(sum(label == mine for mine, _ in places) for label in labels)
    named = most <= 24
    coefficients_of = {
        label: {str(n) for mine, n in zip(table.values("label"), table.values("name"), strict=True) if mine == label}
        for label in labels
    }
    first = max(labels, key=lambda label: len(coefficients_of[label]))
    last = max(aggregate.whole(v) for v in table.values("stop"))
    sites = list(dict.fromkeys(str(v) for v in table.values("site")))

    epochs = sorted({aggregate.whole(v) for v in table.values("epoch")})
    n_text = _n_text(traces.coefficients)
    # The slider goes by epochs, of which long trainings draw some only.
    stop = f"round((training_epoch - {epochs[0]}) / {max(1, epochs[-1] - epochs[0])} * {last})"

    def draw(width: int) -> Spec:
        columns = 4 if width >= 900 else 2 if width >= 600 else 1
        axis_width = _label_width(sites) if named else 50
        cell = (width - axis_width - 20) // columns - 18
        base = alt.Chart(_source("layers"))
        if named:
            y = alt.Y(
                "site:N",
                sort=_BY_DEPTH,
                title=None,
                axis=alt.Axis(ticks=False, domain=False, grid=True, gridDash=[1, 3], labelLimit=140),
            )
        else:
            y = alt.Y("order:Q", title="Site, first on top", scale=alt.Scale(reverse=True, nice=False, zero=False))
        ticks = alt.Axis(grid=True, tickCount=max(3, cell // 60), labelOverlap=True)
        x = alt.X("mean:Q", title=None, scale=alt.Scale(zero=False), axis=ticks)
        tip = [
            alt.Tooltip("site:N", title="Site"),
            alt.Tooltip("epoch:Q", title="Epoch"),
            alt.Tooltip("mean:Q", title="Mean", format=".4g"),
            alt.Tooltip("low:Q", title="Low", format=".4g"),
            alt.Tooltip("high:Q", title="High", format=".4g"),
        ]

        # What is not of the moment is hidden and not filtered away: the axes hold all of training and stand still.
        def shown(test: str, opacity: float = 1.0) -> Any:
            return alt.OpacityValue(0, condition=_where(test, opacity))

        now = f"datum.stop === {stop}"
        layered = _layered(
            [
                base.mark_point(shape="stroke", angle=90, size=110, color=QUIET, strokeWidth=1.5).encode(
                    x=x, y=y, opacity=shown("datum.stop === 0", 0.8)
                ),
                base.mark_rule(strokeWidth=4, color=BLUE, strokeCap="round").encode(
                    x=alt.X("low:Q", title=None, scale=alt.Scale(zero=False), axis=ticks),
                    x2=alt.X2("high:Q"),
                    y=y,
                    opacity=shown(now, 0.35),
                ),
                base.mark_line(strokeWidth=1.2, color=BLUE).encode(
                    x=x, y=y, order=alt.Order("order:Q"), detail=alt.Detail("stop:N"), opacity=shown(now)
                ),
                base.mark_point(filled=True, size=52, color=BLUE).encode(x=x, y=y, tooltip=tip, opacity=shown(now)),
            ],
            width=cell,
            height={"step": 24} if named else 260,
        )
        return _faceted(
            layered,
            alt.Facet("name:N", title=None, header=alt.Header(labelAnchor="start")),
            columns,
            transform=[{"filter": "datum.label === pick_layers"}],
            resolve={"scale": {"x": "independent"}},
            params=[
                _picker("pick_layers", "Activation ", labels, first),
                _slider("training_epoch", "Epoch ", epochs[-1], min=epochs[0], max=epochs[-1], step=1),
            ],
        )

    caption = (
        f"The coefficients of the chosen activation layer by layer, the first call site on top: mean over {n_text} "
        f"trials (marker) and the band of the figure above (bar) at the end of the epoch that the slider chooses"
        f"{f' (the nearest of {last + 1} that are drawn)' if last + 1 < epochs[-1] else ''}. Grey strokes: after the first "
        "epoch. The axes are those of the whole training."
    )
    return _figure(
        "layers",
        "The coefficients, layer by layer",
        caption,
        "Dot plots, one panel per coefficient, one row per call site, at one epoch of training.",
        draw,
        {"layers": table},
    )


def calibration(data: ReportData, names: Mapping[str, str]) -> Figure | Absent:
    """The reliability diagram: how often a prediction is right, by how sure it was."""
    table = aggregate.calibration(data, names)
    if len(table) == 0:
        return "No predictions are stored yet, so there is no reliability diagram."
    labels = list(dict.fromkeys(str(v) for v in table.values("label")))
    low = 10.0 * math.floor(min(table.numbers("confidence") + table.numbers("accuracy") + [90.0]) / 10)

    def draw(width: int) -> Spec:
        columns = _columns(len(labels), (4, 5) if width >= 900 else (3, 4) if width >= 600 else (2,))
        cell = (width - 44) // columns - 18
        axis = alt.Axis(tickCount=4, grid=True, domain=False, ticks=False)
        scale = alt.Scale(domain=[low, 100], nice=False)
        base = alt.Chart(_source("calibration"))
        x = alt.X("confidence:Q", title="Confidence, %", axis=axis, scale=scale)
        y = alt.Y("accuracy:Q", title="Right, %", axis=axis, scale=scale)
        tip = [
            alt.Tooltip("label:N", title="Activation"),
            alt.Tooltip("confidence:Q", title="Mean confidence, %", format=".1f"),
            alt.Tooltip("accuracy:Q", title="Accuracy, %", format=".1f"),
            alt.Tooltip("count:Q", title="Examples", format=","),
        ]
        one = base.transform_aggregate(ece="min(ece)", groupby=["label"]).transform_calculate(
            text="'ECE ' + format(datum.ece, '.1f') + ' points'"
        )
        layered = _layered(
            [
                base.mark_rule(color=QUIET, strokeDash=[4, 3]).encode(
                    x=alt.XDatum(low, type="quantitative", scale=scale),
                    y=alt.YDatum(low, type="quantitative", scale=scale),
                    x2=alt.X2Datum(100),
                    y2=alt.Y2Datum(100),
                ),
                base.mark_line(color=BLUE, strokeWidth=1.2, opacity=0.6).encode(x=x, y=y, order=alt.Order("confidence:Q")),
                base.mark_point(filled=True, color=BLUE, opacity=1, stroke=PAPER, strokeWidth=0.6).encode(
                    x=x,
                    y=y,
                    size=alt.Size("share:Q", scale=alt.Scale(range=[14, 260], domain=[0, 100]), legend=None),
                    tooltip=tip,
                ),
                one.mark_text(align="right", baseline="bottom", color=INK, fontSize=10.5).encode(
                    x=alt.XValue(cell - 4), y=alt.YValue(round(cell * 0.8) - 5), text=alt.Text("text:N")
                ),
            ],
            width=cell,
            height=round(cell * 0.8),
        )
        facet = alt.Facet("label:N", sort=labels, title=None, header=alt.Header(labelAnchor="start"))
        return _faceted(layered, facet, columns)

    totals: dict[str, int] = dict.fromkeys(labels, 0)
    for label, count in zip(table.values("label"), table.values("count"), strict=True):
        totals[str(label)] = totals.get(str(label), 0) + aggregate.whole(count, 0)
    return _figure(
        "calibration",
        "Reliability",
        f"How often a test prediction is right, by how sure it was: one dot per bin of confidence, its area the share of the "
        f"n = {max(totals.values()):,} predictions over all folds and repeats. On the dashed line confidence is what it "
        "says; below it the network is too sure. ECE: the mean distance from the line, weighted by examples, of all "
        "predictions together; the rows hold the one of each trial, which is larger for having fewer examples in a bin.",
        "Reliability diagrams, one per activation: accuracy against mean confidence.",
        draw,
        {"calibration": table},
    )


def confusions(data: ReportData, names: Mapping[str, str]) -> Figure | Absent:
    found = aggregate.confusions(data, names)
    table, classes = found.cells, found.classes
    if len(table) == 0:
        return "No confusion matrix yet: it needs a scored test fold."
    labels = list(dict.fromkeys(str(v) for v in table.values("label")))
    small = len(classes) <= 3
    first = labels[0]

    def draw(width: int) -> Spec:
        names_width = min(120, 14 + round(6.6 * max(len(c) for c in classes)))
        if small:
            columns = _columns(len(labels), (4, 5) if width >= 900 else (3, 4) if width >= 600 else (2,))
            cell = min(170, (width - names_width - 20) // columns - 18)
            cell_height = round(cell * 0.72)
        else:
            cell = cell_height = min(width - names_width - 40, 40 * len(classes), 640)
        base = alt.Chart(_source("confusions"))
        slanted = max(len(c) for c in classes) * 6.6 > cell / len(classes)
        x = alt.X(
            "predicted:N",
            sort=classes,
            title="Predicted",
            axis=alt.Axis(labelAngle=-40 if slanted else 0, ticks=False, domain=False, grid=False, labelLimit=90),
        )
        y = alt.Y("true:N", sort=classes, title="True", axis=alt.Axis(ticks=False, domain=False, grid=False, labelLimit=110))
        tip = [
            alt.Tooltip("label:N", title="Activation"),
            alt.Tooltip("true:N", title="True"),
            alt.Tooltip("predicted:N", title="Predicted"),
            alt.Tooltip("count:Q", title="Count", format=","),
            alt.Tooltip("share:Q", title="Share of the true class", format=".2%"),
        ]
        layers = [
            base.mark_rect(color=HEAT, stroke=GRID, strokeWidth=0.6).encode(
                x=x,
                y=y,
                fillOpacity=alt.FillOpacity("share:Q", scale=alt.Scale(domain=[0, 1], range=[0.02, 1]), legend=None),
                tooltip=tip,
            )
        ]
        if cell / len(classes) >= 24:
            layers.append(
                base.mark_text(fontSize=12 if small else min(11, cell / len(classes) / 3.4)).encode(
                    x=x,
                    y=y,
                    text=alt.Text("count:Q", format=","),
                    color=alt.ColorValue(INK, condition=_where("datum.share > 0.45", "#ffffff")),
                )
            )
        layered = _layered(layers, width=cell, height=cell_height)
        if small:
            facet = alt.Facet("label:N", sort=labels, title=None, header=alt.Header(labelAnchor="start"))
            return _faceted(layered, facet, columns)
        return {
            **layered,
            "transform": [{"filter": "datum.label === pick_confusion"}],
            "params": [_picker("pick_confusion", "Activation ", labels, first)],
        }

    caption = (
        f"Test predictions summed over folds and repeats, n = {found.examples:,} per activation: rows are true classes, "
        f"columns predicted ones. {'Numbers are counts; shading' if len(classes) <= 26 else 'Shading'} is the share of the row."
    )
    if len(classes) < found.all_classes:
        caption += f" The {len(classes)} most confused of {found.all_classes} classes; shares are of the whole row."
    if not small:
        caption += " The table below names the most frequent confusions of all classes."
    return _figure(
        "confusions",
        "Confusion matrices",
        caption,
        "Heat maps of true against predicted class, one per activation, with the counts written in the cells.",
        draw,
        {"confusions": table},
    )


def gap(data: ReportData, names: Mapping[str, str]) -> Figure | Absent:
    table = aggregate.gaps(data, names)
    if len(table) == 0:
        return NOTHING_SCORED
    drawn = {str(v) for v in table.values("label")}
    look = palette(data, names)
    labels = [label for label in names.values() if label in drawn]
    taken = {str(v) for v in table.values("moment")}
    moments = [moment for moment in aggregate.GAPS.values() if moment in taken]

    def draw(width: int) -> Spec:
        inner = width - _label_width(labels) - 20
        base = alt.Chart(_source("gaps"))
        y = _activation_axis(labels, look.baseline)
        legend = alt.Legend(title=None, orient="top", columns=3 if width >= 600 else 1)
        hues, marks = [BLUE, ORANGE, GREEN][: len(moments)], ["circle", "diamond", "square"][: len(moments)]
        hue = alt.Color("moment:N", scale=alt.Scale(domain=moments, range=hues), legend=legend)
        marker = alt.Shape("moment:N", scale=alt.Scale(domain=moments, range=marks), legend=legend)
        offset = alt.YOffset("moment:N", sort=moments, scale=alt.Scale(domain=moments, paddingOuter=0.9))
        x_title = "Training minus validation accuracy, points"
        axis = alt.Axis(title=x_title, grid=True, tickCount=max(3, inner // 90))
        return _layered(
            [
                alt.Chart(_source("unit")).mark_rule(color=QUIET).encode(x=alt.XDatum(0, type="quantitative")),
                base.mark_rule(strokeWidth=4, opacity=0.3, strokeCap="round").encode(
                    x=alt.X("low:Q", axis=axis), x2=alt.X2("high:Q"), y=y, yOffset=offset, color=hue
                ),
                base.mark_point(filled=True, size=62, opacity=1).encode(
                    x=alt.X("mean:Q", axis=axis),
                    y=y,
                    yOffset=offset,
                    color=hue,
                    shape=marker,
                    tooltip=[
                        alt.Tooltip("label:N", title="Activation"),
                        alt.Tooltip("moment:N", title="At"),
                        alt.Tooltip("mean:Q", title="Mean gap", format=".2f"),
                        alt.Tooltip("low:Q", title="10 %", format=".2f"),
                        alt.Tooltip("high:Q", title="90 %", format=".2f"),
                        alt.Tooltip("n:Q", title="Trials"),
                    ],
                ),
            ],
            width=inner,
            height={"step": 30, "for": "position"},
        )

    return _figure(
        "gap",
        "Generalisation gap",
        f"Training minus validation accuracy: mean over {_n_text(table)} trials per activation "
        "(marker) and the central 80 % of them (bar), at the selected epoch (lowest validation loss)"
        + (" and at the last one" if len(moments) < 3 else ", at the last one, and where each training first reached ")
        + ("the highest training accuracy that all trainings of its fold reached" if len(moments) > 2 else "")
        + ". A small gap is not in itself a merit: an activation that hardly fits has none. "
        + (
            "The first two are measured in evaluation mode. The third compares at equal fit, and takes the training accuracy "
            "of the epoch as it ran (dropout on) unless the study measures it again after each epoch: its differences between "
            "activations count, and not its sign."
            if len(moments) > 2
            else "Both are measured in evaluation mode."
        ),
        "Dot plot, one row per activation: training minus validation accuracy, taken at up to three moments.",
        draw,
        {"gaps": table, "unit": _UNIT},
    )


def times(data: ReportData, names: Mapping[str, str]) -> Figure | Absent:
    found = aggregate.times(data, names)
    table = found.table
    if len(table) == 0:
        return NOTHING_SCORED
    drawn = {str(v) for v in table.values("label")}
    look = palette(data, names)
    labels = [label for label in names.values() if label in drawn]

    def draw(width: int) -> Spec:
        inner = width - _label_width(labels) - 70
        base = alt.Chart(_source("times"))
        y = _activation_axis(labels, look.baseline)
        axis = alt.Axis(title=f"Time per epoch, {found.unit}", grid=True, tickCount=max(3, inner // 90))
        x = alt.X("mean:Q", axis=axis, scale=alt.Scale(zero=True))
        return _layered(
            [
                base.mark_rule(strokeWidth=4, opacity=0.3, color=BLUE, strokeCap="round").encode(
                    x=alt.X("low:Q", axis=axis, scale=alt.Scale(zero=True)), x2=alt.X2("high:Q"), y=y
                ),
                base.mark_point(filled=True, size=62, opacity=1, color=BLUE, shape="circle").encode(
                    x=x,
                    y=y,
                    tooltip=[
                        alt.Tooltip("label:N", title="Activation"),
                        alt.Tooltip("mean:Q", title=f"Mean, {found.unit}", format=".3g"),
                        alt.Tooltip("low:Q", title="10 %", format=".3g"),
                        alt.Tooltip("high:Q", title="90 %", format=".3g"),
                        alt.Tooltip("ratio:Q", title="Ratio to baseline", format=".3f"),
                        alt.Tooltip("n:Q", title="Trials"),
                    ],
                ),
                base.mark_text(align="left", baseline="middle", color=INK).encode(
                    x=alt.XValue(inner + 12), y=y, text=alt.Text("text:N")
                ),
            ],
            width=inner,
            height={"step": 22},
        )

    devices = wording.listed(found.devices)
    caption = (
        f"Wall-clock time of one epoch, validation included: mean over {_n_text(table)} trials per activation (marker) and the "
        f"central 80 % of them (bar)"
        + (f", on {devices}" if devices else "")
        + ". The number on the right is the ratio to the baseline. Trials that ran side by side shared the machine: "
        "the cost of an activation itself has to be measured alone."
    )
    if len(found.devices) > 1:
        caption += " More than one kind of device took part: ratios mix them."
    caption += (
        " Peak memory on the GPU stands in the data."
        if any(c.name == "memory" for c in table.columns)
        else " Peak memory was not measured: it can be told of one trial on a GPU alone."
    )
    return _figure(
        "times",
        "Time per epoch",
        caption,
        "Dot plot, one row per activation: seconds per epoch and the ratio to the baseline.",
        draw,
        {"times": table},
    )
