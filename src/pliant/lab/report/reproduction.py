"""One page for whole papers: every table and figure as in the paper, printed beside released beside ours, and every claim."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pliant.lab.metrics import METRICS
from pliant.lab.report import wording
from pliant.lab.report.agreement import RULE, agreement, in_units
from pliant.lab.report.files import FONT
from pliant.lab.report.page import Cell, environment, policy, write_whole

if TYPE_CHECKING:
    from pliant.lab.verdict import Estimate

__all__ = [
    "ClaimRow",
    "Curve",
    "Drawing",
    "Fate",
    "Member",
    "Number",
    "Ours",
    "Paper",
    "Part",
    "Reproduction",
    "Summary",
    "build",
    "chart",
    "render",
]

LARGEST = 2_800_000
"""Bytes up to which figures are put into the page; further ones are named, and stand in their study's own report."""


@dataclass(frozen=True)
class Ours:
    """Our number for a printed one, in one of our studies.

    Args:
        variant: "as written" or "as released". column: of the rows. why: said where there is no estimate.
    """

    variant: str
    study: str
    activation: str
    column: str
    estimate: Estimate | None
    why: str = ""


@dataclass(frozen=True)
class Number:
    """A number of a printed table: one, or the rows of one activation, with every one of them.

    Args:
        what: activation and metric. where: data set, network, optimizer. printed: each as text; empty where the paper marks the
            run as not converging. values: the same as numbers, with ``digits`` decimals. released: from the authors' logs.
        runs: 1 where it is known to be of a single run. unit: "s" or none.
    """

    what: str
    where: str
    printed: tuple[str, ...]
    values: tuple[float, ...]
    digits: int
    released: tuple[float, ...]
    ours: tuple[Ours, ...]
    runs: int | None = None
    unit: str = ""
    note: str = ""


@dataclass(frozen=True)
class Member:
    """A study of a table or figure. ``page``: its own report, relative to this page. ``why``: said where it was not run."""

    name: str
    title: str
    trials: int
    done: int
    origin: str
    page: str = ""
    why: str = ""
    words: str = ""
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Summary:
    """Our own results of a study where the paper prints none: columns of estimates by activation."""

    study: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Estimate | None, ...], str], ...]
    """Label, an estimate a column, and the word of the verdict."""


@dataclass(frozen=True)
class Drawing:
    """A figure: SVG text, or, where there is none, the sentence that says why. ``source``: "ours" or "released"."""

    title: str
    source: str
    svg: str
    why: str = ""


@dataclass(frozen=True)
class Curve:
    """A line of a chart. ``part``: "train" or "validation", or nothing. ``x``: epochs from 1 on where there is none."""

    panel: str
    label: str
    part: str
    y: tuple[float, ...]
    x: tuple[float, ...] = ()


@dataclass(frozen=True)
class Part:
    """A table or a figure of a paper."""

    id: str
    title: str
    shows: str
    members: tuple[Member, ...]
    numbers: tuple[Number, ...] = ()
    told: tuple[Mapping[str, object], ...] = ()
    """Numbers that stand in the text and in no table: keys what, value, unit, note."""
    summaries: tuple[Summary, ...] = ()
    drawings: tuple[Drawing, ...] = ()


@dataclass(frozen=True)
class Fate:
    """What one study says about a claim. ``word``: SUPPORTED, REFUTED or UNDECIDED; ``label``: the same with its tier."""

    word: str
    label: str
    text: str
    page: str = ""


@dataclass(frozen=True)
class ClaimRow:
    """A claim as the page shows it. ``state``: said where there is no fate. ``text``: what belongs to it."""

    number: int
    title: str
    status: str
    evidence: str
    fates: tuple[Fate, ...]
    state: str
    text: str
    command: str


@dataclass(frozen=True)
class Paper:
    """Everything about one paper. ``deviations``: id, as_written, as_released, here."""

    id: str
    title: str
    about: Mapping[str, object]
    parts: tuple[Part, ...]
    claims: tuple[ClaimRow, ...]
    deviations: tuple[Mapping[str, object], ...] = ()


@dataclass(frozen=True)
class Reproduction:
    """What the page is made of."""

    papers: tuple[Paper, ...]
    tier: str
    tier_words: str
    command: str
    environment: Mapping[str, str]


def build(data: Reproduction, target: Path) -> Path:
    """Write the page to ``target`` (its folder is created) and return that.

    Raises:
        MissingExtraError: without ``pliant[lab]``. StorageFullError: the disk is full.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, render(data).encode())
    return target


def render(data: Reproduction) -> str:
    """The page as text."""
    from markupsafe import Markup

    template = environment()
    glue = (Path(__file__).with_name("templates") / "report.js").read_text(encoding="utf-8")
    css = (Path(__file__).with_name("templates") / "report.css").read_text(encoding="utf-8")
    used = len(glue) + len(css)
    drawings: dict[tuple[str, int], Markup | str] = {}
    for paper in data.papers:
        for part in paper.parts:
            for i, drawing in enumerate(part.drawings):
                if drawing.svg and used + len(drawing.svg) > LARGEST:
                    drawings[part.id, i] = (
                        "Left out here, because the page would be too large; it is in the study's own report."
                    )
                    continue
                used += len(drawing.svg)
                # Two drawings may use the same ids; in one document each needs its own.
                own = re.sub(r"\b(clip|gradient_)(\d+)", rf"{part.id}-{i}-\1\2", drawing.svg)
                drawings[part.id, i] = Markup(own) if own else drawing.why
    return template.get_template("reproduction.html.j2").render(
        data=data,
        lines={part.id: [_line(n, data.tier) for n in part.numbers] for paper in data.papers for part in paper.parts},
        tables={part.id: [_table(s) for s in part.summaries] for paper in data.papers for part in paper.parts},
        drawings=drawings,
        names={part.id: _short(part.id) for paper in data.papers for part in paper.parts},
        reduced=data.tier != "full",
        rule=RULE,
        css=Markup(css),
        glue=Markup(glue),
        policy=policy(glue),
    )


def chart(curves: Sequence[Curve], x_title: str = "Epoch") -> str:
    """Curves as SVG, a panel for each name of a panel."""
    import altair as alt
    import vl_convert

    from pliant.lab.report.figures import CONFIG, HUES

    rows = [
        {"panel": c.panel, "label": c.label, "part": c.part, "x": x, "y": y}
        for c in curves
        for x, y in zip(c.x or range(1, len(c.y) + 1), c.y, strict=True)
    ]
    by_epoch = not any(c.x for c in curves)
    axis = alt.Axis(grid=False, tickMinStep=1) if by_epoch else alt.Axis()
    base = alt.Chart(alt.InlineData(values=rows)).mark_line(strokeWidth=1.4)
    legend = alt.Legend() if by_epoch else alt.Legend(orient="bottom", columns=1, labelLimit=210, symbolType="stroke")
    panels = []
    for name in dict.fromkeys(c.panel for c in curves):
        # Panels of the same lines share a legend, and others have their own.
        labels = list(dict.fromkeys(c.label for c in curves if by_epoch or c.panel == name))
        scale = alt.Scale(domain=labels, range=[HUES[i % len(HUES)] for i in range(len(labels))])
        channels: dict[str, Any] = {
            "x": alt.X("x:Q", title=x_title, axis=axis),
            "y": alt.Y("y:Q", title=None, scale=alt.Scale(zero=False)),
            "color": alt.Color("label:N", title=None, sort=labels, scale=scale, legend=legend),
            "order": alt.Order("x:Q"),
        }
        if any(c.part for c in curves):
            channels["strokeDash"] = alt.StrokeDash("part:N", title=None, sort=["validation", "train"])
        mine = base.encode(**channels).transform_filter(alt.datum.panel == name)
        panels.append(mine.properties(width=215, height=190, title=name))
    together = alt.concat(*panels, columns=3)
    joined = together if by_epoch else together.resolve_scale(color="independent")
    return vl_convert.vegalite_to_svg(joined.to_dict(), config={**CONFIG, "font": FONT})


def _short(group: str) -> str:
    """``aaf-table1`` as "Table 1", for the list of sections."""
    name = group.partition("-")[2] or group
    kind, number = re.fullmatch(r"(.*?)(\d*)", name).groups()  # type: ignore[union-attr]
    return f"{'figure' if kind == 'fig' else kind} {number}".strip().capitalize()


# --- numbers as text --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OursCells:
    variant: str
    study: str
    ours: Cell
    n: str
    difference: str
    consistent: Cell


@dataclass(frozen=True)
class Line:
    what: str
    where: str
    printed: Cell
    released: Cell
    ours: tuple[OursCells, ...]
    note: str


def metric_of(column: str) -> wording.Metric:
    """How a column of the rows is shown: as the metric that it holds, whichever part it was measured on."""
    known = max((m for m in METRICS if column == m or column.endswith(f"_{m}")), key=len, default=column)
    return wording.metric(known)


def _line(number: Number, tier: str) -> Line:
    return Line(
        number.what,
        number.where,
        printed=_quoted(number),
        released=_listed(number.released, number.unit),
        ours=tuple(_ours(number, o, tier) for o in number.ours),
        note=number.note,
    )


def _quoted(number: Number) -> Cell:
    if not number.printed:
        return Cell("did not converge")
    if len(number.printed) == 1:
        return Cell(f"{number.printed[0]} {number.unit}".strip())
    mean = statistics.fmean(number.values)
    return Cell(f"{mean:.{number.digits}f}", ", ".join(number.printed))


def _listed(values: Sequence[float], unit: str) -> Cell:
    if not values:
        return Cell(wording.DASH)
    if len(values) == 1:
        return Cell(f"{values[0]:.6f} {unit}".strip())
    return Cell(f"{statistics.fmean(values):.6f}", f"mean of {len(values)} epochs")


def _ours(number: Number, ours: Ours, tier: str) -> OursCells:
    shown = metric_of(ours.column)
    found = ours.estimate
    if found is None or found.n == 0:
        return OursCells(ours.variant, ours.study, Cell(wording.DASH, ours.why), "", "", Cell(""))
    ends = wording.interval(found.low, found.high, shown.digits, scale=shown.scale)
    mean = f"{wording.number(found.mean, shown.digits, scale=shown.scale)} {shown.unit}".strip()
    theirs = in_units(statistics.fmean(number.values), number.unit, shown) if number.values else None
    difference = ""
    if theirs is not None and math.isfinite(found.mean):
        size = wording.number((found.mean - theirs) * shown.scale, shown.digits, signed=True)
        difference = f"{size} {shown.points}".rstrip()
    return OursCells(ours.variant, ours.study, Cell(mean, ends), str(found.n), difference, _agrees(number, found, shown, tier))


def _agrees(number: Number, found: Estimate, shown: wording.Metric, tier: str) -> Cell:
    if tier != "full":
        return Cell("not compared", f"{tier} tier")
    if not number.values:
        return Cell("")
    if number.unit == "s":
        return Cell("not compared", "another machine")
    entry = {"value": statistics.fmean(number.values), "digits": number.digits, "runs": number.runs}
    told = agreement(found, entry, shown, 0.05)
    if told is None:
        return Cell("cannot be said")
    ends = wording.interval(told.low, told.high, shown.digits, scale=shown.scale)
    return Cell("consistent" if told.consistent else "not consistent", f"{'one new run' if told.single else 'our mean'} {ends}")


def _table(summary: Summary) -> tuple[Summary, list[Cell], list[tuple[str, list[Cell], str]]]:
    heads = [metric_of(column) for column in summary.columns]
    rows = []
    for label, estimates, word in summary.rows:
        cells = [
            Cell(
                wording.number(e.mean, m.digits, scale=m.scale),
                wording.interval(e.low, e.high, m.digits, scale=m.scale),
                wording.finite(e.mean),
            )
            if e is not None
            else Cell(wording.DASH)
            for e, m in zip(estimates, heads, strict=True)
        ]
        n = next((e.n for e in estimates if e is not None), 0)
        rows.append((label, [*cells, Cell(str(n), sort=n)], word))
    return summary, [*(Cell(m.title, m.unit) for m in heads), Cell("n")], rows
