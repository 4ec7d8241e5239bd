"""Charts of what :func:`pliant.observe` saw: the shape of each layer over time, and the increments of weights.

They are made from plain rows, so that they can be drawn again from a file. ``chart.save("shapes.svg")`` writes SVG, PNG or
HTML, by the name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import altair as alt

from pliant.errors import DomainError
from pliant.lab.report.figures import CONFIG, DASHES, HUES

__all__ = ["increments", "shapes"]


def shapes(curves: Iterable[Mapping[str, Any]], *, steps: int = 6, columns: int = 4, size: int = 150) -> alt.FacetChart:
    """The shape of every site, a panel each, one line per reading: figure 3 of the AAF paper, with time added.

    Args:
        curves: ``observer.curves``, dicts (step, site, x, y), sampled where ``grid`` of :func:`pliant.observe` said.
        steps: at most this many readings are drawn, evenly spread, the first and the last among them.
        columns, size: panels in a row; width and height of a panel in pixels.

    Raises:
        DomainError: there is no curve; ``steps`` is below 2.

    Source: Hu et al., "Adaptively Customizing Activation Functions for Various Layers", figure 3.
    """
    rows = [dict(c) for c in curves]
    if not rows:
        raise DomainError("shapes was given no curve. Pass grid=[...] to pliant.observe, so that it samples the shapes.")
    if steps < 2:
        raise DomainError(f"shapes was given steps={steps!r}; expected at least 2, the first reading and the last.")
    known = sorted({r["step"] for r in rows})
    last = len(known) - 1
    drawn = {known[round(i * last / (steps - 1))] for i in range(steps)}
    rows = [r for r in rows if r["step"] in drawn]
    return _finished(
        alt.Chart(alt.InlineData(values=rows))
        .mark_line(strokeWidth=1.5)
        .encode(
            x=alt.X("x:Q", title="input"),
            y=alt.Y("y:Q", title="output"),
            color=alt.Color("step:O", title="step", scale=alt.Scale(scheme="viridis", reverse=True)),
            order="x:Q",
        )
        .properties(width=size, height=size)
        .facet(facet=_by_site(rows), columns=columns)
        # Layers scale their outputs differently, and that is not what is compared.
        .resolve_scale(y="independent")
    )


def increments(
    runs: Iterable[Mapping[str, Any]] | Mapping[str, Iterable[Mapping[str, Any]]],
    *,
    sites: Sequence[str] | None = None,
    columns: int = 3,
    size: int = 220,
) -> alt.FacetChart:
    """Relative increments ||dW|| / ||W|| of whole weight tensors over time, a panel each: figure 4 of the AAF paper, which
    shows four single weights instead.

    Args:
        runs: ``observer.rows``, or several of them by label, to lay runs over each other.
        sites: the weight tensors to draw, in this order. Default: all.
        columns, size: panels in a row; width of a panel in pixels.

    Raises:
        DomainError: the rows hold no increment.

    Source: Hu et al., "Adaptively Customizing Activation Functions for Various Layers", figure 4.
    """
    several = isinstance(runs, Mapping)
    labelled = runs if isinstance(runs, Mapping) else {"": runs}
    rows = [
        {"run": label, "step": r["step"], "site": r["site"], "value": r["value"]}
        for label, seen in labelled.items()
        for r in seen
        if r["quantity"] == "increment" and (sites is None or r["site"] in sites)
    ]
    if not rows:
        raise DomainError("increments was given no increment. Pass weights=True, or names of weights, to pliant.observe.")
    scale = alt.Scale(domain=list(labelled), range=[HUES[i % len(HUES)] for i in range(len(labelled))])
    dash = alt.Scale(domain=list(labelled), range=[list(DASHES[i % len(DASHES)]) for i in range(len(labelled))])
    legend = alt.Legend(title=None) if several else None
    return _finished(
        alt.Chart(alt.InlineData(values=rows))
        .mark_line(strokeWidth=1.5, point=alt.OverlayMarkDef(size=18))
        .encode(
            x=alt.X("step:Q", title="optimizer steps"),
            y=alt.Y("value:Q", title="‖ΔW‖ / ‖W‖"),
            color=alt.Color("run:N", scale=scale, legend=legend),
            strokeDash=alt.StrokeDash("run:N", scale=dash, legend=legend),
        )
        .properties(width=size, height=round(size * 0.6))
        .facet(facet=_by_site(rows, sites), columns=columns)
    )


def _by_site(rows: Sequence[Mapping[str, Any]], sites: Sequence[str] | None = None) -> alt.Facet:
    # In the order of the model, which is that of the rows; sorted by name, features.10 would come before features.2.
    return alt.Facet("site:N", title=None, sort=list(sites or dict.fromkeys(r["site"] for r in rows)))


def _finished(chart: Any) -> alt.FacetChart:
    finished: alt.FacetChart = chart.configure(**CONFIG)
    return finished
