"""The page: puts sentences, tables and figures into one HTML file that opens from disk and asks nobody for anything."""

from __future__ import annotations

import base64
import contextlib
import errno
import functools
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pliant.errors import MissingExtraError
from pliant.lab.report import aggregate, wording
from pliant.lab.report.aggregate import Trouble
from pliant.lab.report.agreement import RULE, agreement, in_units
from pliant.lab.report.data import ReportData
from pliant.lab.report.wording import finite
from pliant.lab.store import StorageFullError

if TYPE_CHECKING:
    import jinja2

    from pliant.lab.report.figures import Figure
    from pliant.lab.verdict import Comparison, Estimate

    Drawn = Mapping[str, Figure | str]

PAGE = "report.html"
TEMPLATES = Path(__file__).with_name("templates")
MAIN_METRICS = ("accuracy", "precision", "recall", "f1", "ap50_voc", "ap50_voc07", "ap", "ap50", "ap75")


def build(data: ReportData, directory: Path, drawn: Drawn | None = None) -> Path:
    """Write ``report.html`` into ``directory`` (created if need be) and return its path.

    The file holds its charts, their library and their data; it makes no network request, and a policy in its head has
    the browser refuse any. The same data give the same bytes. It is written beside its place and then renamed, so a
    reader never sees half of it. Raises ``MissingExtraError`` without ``pliant[lab]`` and ``StorageFullError`` when the
    disk is full; an older report is then still there. ``drawn`` saves drawing the figures again, see ``draw``.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / PAGE
    write_whole(target, render(data, drawn).encode())
    return target


@contextlib.contextmanager
def _lab() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(
            f"The report needs {error.name}, which is not installed. It comes with the lab: pip install 'pliant[lab]'."
        ) from error


def draw(data: ReportData) -> Drawn:
    """Every figure of the report, by id; instead of one that cannot be drawn, the sentence that says why.

    This is where the histories are read, which is what takes the time for a large study.
    """
    with _lab():
        # Altair takes a second to import: only those who build a page wait for it.
        from pliant.lab.report import figures, weights

    names = wording.names(data)
    traces = aggregate.traces(data, names)
    shapes, sites_left_out = aggregate.shapes(data.shapes, names)
    return {
        "forest": figures.forest(data, names),
        "folds": figures.folds(data, names),
        "curves": figures.curves(data, names, traces),
        "gallery": figures.gallery(shapes, sites_left_out),
        "shape": figures.shape(shapes, sites_left_out),
        "coefficients": figures.coefficients(data, names, traces),
        "layers": figures.layers(data, names, traces),
        "increments": weights.increments(data, names, traces),
        "single_weights": weights.single_weights(data, names, traces),
        "confusions": figures.confusions(data, names),
        "calibration": figures.calibration(data, names),
        "gap": figures.gap(data, names),
        "times": figures.times(data, names),
    }


def render(data: ReportData, drawn: Drawn | None = None) -> str:
    """The page as text."""
    with _lab():
        from markupsafe import Markup

        from pliant.lab.report import figures

    names = wording.names(data)
    drawn = draw(data) if drawn is None else drawn
    present = {id_: f for id_, f in drawn.items() if not isinstance(f, str)}
    tables = {name: t.packed() for f in present.values() for name, t in f.tables.items()}
    payload = {
        "config": figures.CONFIG,
        "tables": tables,
        "figures": {
            id_: {
                "tables": list(f.tables),
                "layouts": [{"width": width, "spec": spec} for width, spec in f.layouts],
            }
            for id_, f in present.items()
        },
    }
    bundle = _bundle() if present else ""
    glue = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    outcomes = _outcomes(data)
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            data=data,
            names=names,
            verdict=data.verdict,
            headline=wording.headline(data.verdict) if data.verdict is not None else None,
            level=figures.level(data.verdict.alpha) if data.verdict is not None else "95 %",
            margin=wording.margin(data.verdict) if data.verdict is not None else "",
            unit=wording.metric(data.verdict.metric).points if data.verdict is not None else "",
            findings=_findings(data, names),
            main=main_table(data),
            secondary=_secondary(data, names),
            figures={id_: None if isinstance(f, str) else f for id_, f in drawn.items()},
            absent={id_: f for id_, f in drawn.items() if isinstance(f, str)},
            numbers={id_: i + 1 for i, id_ in enumerate(present)},
            troubles=_troubles(data, names),
            outcomes=outcomes,
            status=_status(outcomes),
            printed=printed_rows(data),
            printed_rule=RULE,
            confused=_confused(data, names),
            by_class=_by_class(data, names),
            cautions=[w for w in data.verdict.warnings if w not in data.remarks] if data.verdict is not None else [],
            table_name=data.names.get("table", "table"),
            study=json.dumps(data.study, indent=2, ensure_ascii=False, default=str) if data.study else "",
            payload=Markup(in_script(payload)),
            bundle=Markup(bundle),
            glue=Markup(glue),
            css=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
            policy=policy(bundle, glue),
        )
    )


@functools.cache
def environment() -> jinja2.Environment:
    """What renders the templates: everything is escaped, and nothing may be missing. It keeps them compiled."""
    with _lab():
        import jinja2
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def in_script(value: object) -> str:
    """JSON that may stand inside a script element: nothing in it can end the element or open a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


@functools.cache
def _bundle() -> str:
    """Vega, Vega-Lite and vega-embed as one script, with nothing in it that would end its own element."""
    import vl_convert

    text: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def policy(*scripts: str) -> str:
    """A content security policy under which only our own scripts run and nothing is ever fetched.

    Vega compiles its expressions, hence 'unsafe-eval'; what is compiled comes from our own specifications, in which
    users' names only occur as quoted strings.
    """
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts if script
    )
    return (
        f"default-src 'none'; script-src {hashes} 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


@dataclass(frozen=True)
class Cell:
    text: str
    small: str = ""
    sort: float | int | str | None = None


@dataclass(frozen=True)
class Finding:
    label: str
    word: str
    text: str
    support: str


@dataclass(frozen=True)
class MainRow:
    label: str
    baseline: bool
    metrics: list[Cell]
    difference: Cell
    word: str
    counts: list[Cell]


@dataclass(frozen=True)
class MainTable:
    metrics: list[Cell]
    difference: Cell
    counts: list[str]
    rows: list[MainRow]


def _findings(data: ReportData, names: Mapping[str, str]) -> list[Finding]:
    verdict = data.verdict
    if verdict is None:
        return []

    def rank(c: Comparison) -> tuple[int, float]:
        place = wording.WORDS.index(c.word) if c.word in wording.WORDS else len(wording.WORDS)
        size = finite(c.difference) or 0.0
        return place, -size if c.higher_is_better else size

    return [
        Finding(names.get(c.activation, c.label), c.word, wording.sentence(c, verdict), wording.support(c, verdict))
        for c in sorted(verdict.comparisons, key=rank)
    ]


def main_table(data: ReportData) -> MainTable:
    """The main table's cells as text, for the page and for LaTeX."""
    names = wording.names(data)
    verdict = data.verdict
    estimates: dict[str, dict[str, Estimate]] = {}
    if verdict is not None:
        estimates = {m: {e.activation: e for e in found} for m, found in verdict.estimates.items()}
    shown = [m for m in MAIN_METRICS if m in estimates] or list(estimates)[:4]
    if verdict is not None and verdict.metric in estimates and verdict.metric not in shown:
        # What the verdict is about is never missing from the table.
        shown = [verdict.metric, *shown]
    comparisons = {c.activation: c for c in verdict.comparisons} if verdict is not None else {}
    tallies = {activation: _outcomes(data, activation) for activation in names}
    rows = []
    for activation, label in names.items():
        comparison = comparisons.get(activation)
        is_baseline = verdict is not None and activation == verdict.baseline
        first = next((found[activation] for found in estimates.values() if activation in found), None)
        tally = tallies[activation]
        counts = {
            "n": first.n if first is not None else tally["done"] + tally["diverged"],
            "diverged": first.diverged if first is not None else tally["diverged"],
            "failed": first.failed if first is not None else tally["failed"],
            "missing": first.missing if first is not None else tally["missing"],
        }
        rows.append(
            MainRow(
                label=label,
                baseline=is_baseline,
                metrics=[_estimate(estimates[m].get(activation), m) for m in shown],
                difference=_difference(comparison, is_baseline),
                word=comparison.word if comparison is not None and not is_baseline else "",
                counts=[Cell(str(v), sort=v) for v in counts.values()],
            )
        )
    titles = [Cell(wording.metric(m).title, wording.metric(m).unit) for m in shown]
    difference = Cell("Difference")
    if verdict is not None:
        difference = Cell(f"Difference to {verdict.baseline_label}", wording.metric(verdict.metric).points)
    return MainTable(titles, difference, ["n", "Diverged", "Failed", "Missing"], rows)


def _estimate(estimate: Estimate | None, name: str) -> Cell:
    if estimate is None:
        return Cell(wording.DASH)
    shown = wording.metric(name)
    return Cell(
        wording.number(estimate.mean, shown.digits, scale=shown.scale),
        wording.interval(estimate.low, estimate.high, shown.digits, scale=shown.scale),
        finite(estimate.mean),
    )


def _difference(comparison: Comparison | None, is_baseline: bool) -> Cell:
    if comparison is None or is_baseline:
        return Cell("", sort=0 if is_baseline else None)
    shown = wording.metric(comparison.metric)
    return Cell(
        wording.number(comparison.difference, shown.digits, signed=True, scale=shown.scale),
        wording.interval(comparison.low, comparison.high, shown.digits, signed=True, scale=shown.scale),
        finite(comparison.difference),
    )


@dataclass(frozen=True)
class SecondaryTable:
    metrics: list[Cell]
    rows: list[tuple[str, list[tuple[Cell, str]]]]


def _secondary(data: ReportData, names: Mapping[str, str]) -> SecondaryTable | None:
    verdict = data.verdict
    if verdict is None:
        return None
    families = {m: {c.activation: c for c in found} for m, found in verdict.secondary.items() if found}
    families.pop(verdict.metric, None)
    if not families:
        return None
    rows: list[tuple[str, list[tuple[Cell, str]]]] = [
        (
            label,
            [
                (_difference(family.get(activation), False), str(family[activation].word) if activation in family else "")
                for family in families.values()
            ],
        )
        for activation, label in names.items()
        if any(activation in family for family in families.values())
    ]
    return SecondaryTable([Cell(wording.metric(m).title, wording.metric(m).points) for m in families], rows)


def _outcomes(data: ReportData, activation: str | None = None) -> dict[str, int]:
    counts = {"done": 0, "diverged": 0, "failed": 0, "missing": 0}
    for row in data.rows:
        if activation is None or str(row.get("activation")) == activation:
            outcome = str(row.get("outcome") or "missing")
            counts[outcome] = counts.get(outcome, 0) + 1
    return counts


def _status(outcomes: Mapping[str, int]) -> str:
    total = sum(outcomes.values())
    if total == 0:
        return "No trial is planned or stored."
    if outcomes["done"] == total:
        return f"{wording.counted(total, 'trial')}, all done."
    parts = [f"{count} {outcome}" for outcome, count in outcomes.items() if count]
    return f"{wording.counted(total, 'trial')}: {wording.listed(parts)}."


@dataclass(frozen=True)
class TroubleTable:
    rows: list[Trouble]
    text: str


def _troubles(data: ReportData, names: Mapping[str, str]) -> TroubleTable:
    rows = aggregate.troubles(data, names)
    if not data.rows:
        return TroubleTable([], "No trial is planned or stored, so none failed.")
    if not rows:
        total = len(data.rows)
        return TroubleTable([], f"None. All {wording.counted(total, 'trial')} finished and none diverged.")
    outcomes = _outcomes(data)
    words = {
        "failed": "could not be run to the end and count nowhere",
        "diverged": "diverged; they are scored and count in every mean and test",
        "missing": "have not been run",
    }
    parts = [f"{wording.counted(outcomes[outcome], 'trial')} {text}" for outcome, text in words.items() if outcomes[outcome]]
    return TroubleTable(rows, "; ".join(parts).replace("1 trial have", "1 trial has") + "." if parts else "")


@dataclass(frozen=True)
class PrintedRow:
    what: str
    printed: Cell
    released: Cell
    ours: Cell
    n: Cell
    difference: Cell
    consistent: Cell
    note: str


def printed_rows(data: ReportData) -> list[PrintedRow]:
    """The paper's numbers, and ours where an entry names one. A difference only where both have the same unit."""
    rows = []
    for entry in data.printed:
        unit = str(entry.get("unit") or "")
        ours, n, difference, consistent = Cell(wording.DASH), Cell(wording.DASH), Cell(""), Cell(wording.DASH)
        estimate = _named_estimate(data, entry)
        if estimate is not None:
            name = str(entry.get("metric"))
            shown = wording.metric(name)
            cell = _estimate(estimate, name)
            ours = Cell(f"{cell.text} {shown.unit}".rstrip(), cell.small, cell.sort)
            n = Cell(str(estimate.n), sort=estimate.n)
            difference = _ours_minus_printed(estimate, shown, finite(entry.get("value")), unit)
            consistent = _consistent(estimate, entry, shown, data.verdict.alpha if data.verdict is not None else 0.05)
        rows.append(
            PrintedRow(
                what=str(entry.get("what") or ""),
                printed=_as_printed(entry.get("value"), unit),
                released=_as_printed(entry.get("released"), unit),
                ours=ours,
                n=n,
                difference=difference,
                consistent=consistent,
                note=str(entry.get("note") or ""),
            )
        )
    return rows


def _as_printed(value: object, unit: str) -> Cell:
    if value is None:
        return Cell(wording.DASH)
    # Never rounded and never converted: it is a quotation.
    text = (value if isinstance(value, str) else repr(value)).replace("-", wording.MINUS)
    return Cell(f"{text} {unit if unit != 'fraction' else ''}".strip(), sort=finite(value))


def _named_estimate(data: ReportData, entry: Mapping[str, object]) -> Estimate | None:
    if data.verdict is None:
        return None
    found = data.verdict.estimates.get(str(entry.get("metric")), ())
    return next((e for e in found if e.activation == entry.get("activation") and e.n > 0), None)


def _ours_minus_printed(estimate: Estimate, shown: wording.Metric, printed: float | None, unit: str) -> Cell:
    ours, theirs = finite(estimate.mean), in_units(printed, unit, shown)
    if ours is None or theirs is None:
        return Cell("")
    size = (ours - theirs) * shown.scale
    return Cell(f"{wording.number(size, shown.digits, signed=True)} {shown.points}".rstrip(), sort=size)


def _consistent(estimate: Estimate, entry: Mapping[str, object], shown: wording.Metric, alpha: float) -> Cell:
    found = agreement(estimate, entry, shown, alpha)
    if found is None:
        return Cell("cannot be said")
    ends = wording.interval(found.low, found.high, shown.digits, scale=shown.scale)
    return Cell(
        "consistent" if found.consistent else "not consistent", f"with {'one new run' if found.single else 'our mean'} {ends}"
    )


@dataclass(frozen=True)
class ByClass:
    """Average precision of each class, a column for each activation."""

    title: str
    unit: str
    activations: list[str]
    rows: list[tuple[str, list[Cell]]]


def _by_class(data: ReportData, names: Mapping[str, str]) -> list[ByClass]:
    tables = []
    for metric, found in data.detected.by_class.items() if data.detected is not None else ():
        shown = wording.metric(metric)
        known = [a for a in names if a in found]
        rows = [
            (
                name,
                [Cell(wording.number(found[a][c], shown.digits, scale=shown.scale), sort=finite(found[a][c])) for a in known],
            )
            for c, name in enumerate(data.class_names)
            if any(found[a][c] is not None for a in known)
        ]
        tables.append(ByClass(shown.title, shown.unit, [names[a] for a in known], rows))
    return tables


@dataclass(frozen=True)
class Confused:
    label: str
    true: str
    predicted: str
    numbers: list[Cell]


def _confused(data: ReportData, names: Mapping[str, str]) -> list[Confused]:
    pairs = aggregate.confusions(data, names).pairs
    return [
        Confused(
            str(label),
            str(true),
            str(predicted),
            [Cell(str(count), sort=count), Cell(wording.number(share, 1), sort=share), Cell(str(back), sort=back)],
        )
        for label, true, predicted, count, share, back in zip(*(c.values for c in pairs.columns), strict=True)
    ]


def write_whole(target: Path, content: bytes) -> None:
    """Write beside the target, then rename: the target is the old file or the new one, never a part."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
            raise StorageFullError(
                f"There is no space left to write {target} ({error.strerror}); an older file of that name is untouched. "
                f"Free some space and ask for the report again: no trial has to be run again for it."
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def columns_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """All keys of all rows, in the order in which they first occur."""
    return list(dict.fromkeys(key for row in rows for key in row))
