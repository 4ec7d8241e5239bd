"""How the weights moved: figure 4 of the AAF paper, which shows single weights, and the same for whole weight tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import altair as alt

from pliant.lab.report import aggregate, wording
from pliant.lab.report.data import ReportData
from pliant.lab.report.figures import (
    BAND_TEXT,
    Absent,
    Figure,
    Palette,
    Spec,
    _faceted,
    _figure,
    _layered,
    _n_text,
    _palette_of,
    _source,
)

__all__ = ["increments", "single_weights"]

ABSENT = (
    "No history of this study holds how far the weights moved: it was trained by an earlier version, or no activation has a "
    "finished history yet."
)


def _lines(look: Palette) -> dict[str, Any]:
    legend = alt.Legend(title=None, orient="bottom", columns=4, symbolType="stroke", symbolStrokeWidth=2)
    return {"color": alt.Color("label:N", scale=look.color(), legend=legend), "strokeDash": look.dash()}


def _epochs(cell: int, table: aggregate.Table) -> Any:
    last = max(aggregate.whole(v) for v in table.values("epoch"))
    step = math.ceil(last / max(3, cell // 40))
    axis = alt.Axis(grid=False, values=[1, *range(step, last + 1, step)] if step > 1 else list(range(1, last + 1)), format="d")
    return alt.X("epoch:Q", title="Epoch", axis=axis, scale=alt.Scale(nice=False))


def increments(data: ReportData, names: Mapping[str, str], traces: aggregate.Traces) -> Figure | Absent:
    """Relative increments of whole weight tensors, a panel each."""
    table = traces.increments
    if len(table) == 0:
        return ABSENT
    look = _palette_of(table, data, names)
    sites = list(dict.fromkeys(str(v) for v in table.values("site")))

    def draw(width: int) -> Spec:
        columns = min(len(sites), 4 if width >= 900 else 2 if width >= 600 else 1)
        cell = (width - 30) // columns - 72
        base = alt.Chart(_source("increments")).transform_calculate(family=look.family())
        axis = alt.Axis(tickCount=4, domain=False, ticks=False, minExtent=40, format="~g")
        scale = alt.Scale(type="log", nice=False)
        lines = _lines(look)
        tip = [
            alt.Tooltip("label:N", title="Activation"),
            alt.Tooltip("site:N", title="Weights"),
            alt.Tooltip("epoch:Q", title="Epoch"),
            alt.Tooltip("mean:Q", title="Mean", format=".3g"),
            alt.Tooltip("low:Q", title="10 %", format=".3g"),
            alt.Tooltip("high:Q", title="90 %", format=".3g"),
            alt.Tooltip("n:Q", title="Trials"),
        ]
        layered = _layered(
            [
                base.mark_area(opacity=0.14).encode(
                    x=_epochs(cell, table),
                    y=alt.Y("low:Q", title=None, scale=scale, axis=axis),
                    y2=alt.Y2("high:Q"),
                    color=lines["color"],
                ),
                base.mark_line(strokeWidth=1.6, point=alt.OverlayMarkDef(size=14)).encode(
                    x=_epochs(cell, table), y=alt.Y("mean:Q", title=None, scale=scale, axis=axis), tooltip=tip, **lines
                ),
            ],
            width=cell,
            height=120,
        )
        facet = alt.Facet("site:N", title=None, sort=sites, header=alt.Header(labelAnchor="start"))
        return _faceted(layered, facet, columns, resolve={"scale": {"y": "independent"}})

    caption = (
        f"How far each weight tensor moved in an epoch, ‖ΔW‖ / ‖W‖ with W as it was before, on a logarithmic axis: mean over "
        f"{_n_text(table)} trials (line); {BAND_TEXT}. Weights followed by batch normalisation have no scale of their own: a "
        "larger increment then means a larger turn, and not a larger output."
    )
    if traces.weights_left_out:
        caption += f" {wording.counted(traces.weights_left_out, 'tensor', 'tensors')} in between are left out."
    return _figure(
        "increments",
        "How far the weights moved",
        caption,
        "Line charts over epochs, one panel per weight tensor, one line per activation.",
        draw,
        {"increments": table},
    )


def single_weights(data: ReportData, names: Mapping[str, str], traces: aggregate.Traces) -> Figure | Absent:
    """Changes of single weights, a panel each: what the paper's figure shows."""
    table = traces.single_weights
    if len(table) == 0:
        return ABSENT
    look = _palette_of(table, data, names)
    sites = list(dict.fromkeys(str(v) for v in table.values("site")))
    most = len({str(v) for v in table.values("which")})

    def draw(width: int) -> Spec:
        columns = most if width >= 900 else 2 if width >= 600 else 1
        cell = (width - 30) // columns - 72
        lines = _lines(look)
        axis = alt.Axis(tickCount=4, domain=False, ticks=False, minExtent=40, format=".1~e")
        line = (
            alt.Chart(_source("single_weights"))
            .transform_calculate(family=look.family(), panel="datum.site + ', ' + replace(datum.which, 'weight ', '')")
            .mark_line(strokeWidth=1.4, point=alt.OverlayMarkDef(size=12))
            .encode(
                x=_epochs(cell, table),
                y=alt.Y("change:Q", title=None, scale=alt.Scale(zero=False), axis=axis),
                tooltip=[
                    alt.Tooltip("label:N", title="Activation"),
                    alt.Tooltip("epoch:Q", title="Epoch"),
                    alt.Tooltip("change:Q", title="Change", format=".3g"),
                ],
                **lines,
            )
        )
        layered = _layered([line], width=cell, height=96)
        panels = [f"{site}, {i}" for site in sites for i in range(1, most + 1)]
        facet = alt.Facet("panel:N", title=None, sort=panels, header=alt.Header(labelAnchor="start", labelLimit=cell))
        return _faceted(layered, facet, columns, resolve={"scale": {"y": "independent"}})

    caption = (
        f"By how much single weights changed in each epoch, in the first trial of each activation (n = 1): {most} weights, "
        f"evenly spread, of {wording.counted(len(sites), 'tensor', 'tensors')}. It is an illustration, and tells no "
        "difference: which weights one looks at decides what one sees. The figure above has all of them."
    )
    return _figure(
        "single_weights",
        "Single weights",
        caption,
        "Line charts over epochs, one panel per weight, one line per activation.",
        draw,
        {"single_weights": table},
    )
