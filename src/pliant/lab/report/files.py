"""The figures as files for papers and talks: SVG and PDF with their fonts, and the data of each as CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pliant.errors import MissingExtraError
from pliant.lab.report import page
from pliant.lab.report.data import ReportData

if TYPE_CHECKING:
    from pliant.lab.report.aggregate import Table
    from pliant.lab.report.figures import Figure
    from pliant.lab.report.page import Drawn

Kind = Literal["svg", "pdf", "csv"]

FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
"""Of the files: it comes with the converter, so that a PDF looks the same wherever it was made."""
WIDTH = 600
"""Of the page's layouts the one whose letters are still legible across the text width of a printed page."""


def write_figures(data: ReportData, directory: Path, drawn: Drawn | None = None) -> list[Path]:
    """Write every figure into ``directory`` (created if need be) as SVG, PDF and CSV; return the paths.

    The file's name is that of the paper's figure where ``data.names`` has one, else the figure's id. A figure with a
    selector or slider stands as it does when the page opens. PDF embeds its fonts; SVG names them, with common ones
    after. Files of an earlier report whose figure no longer exists are left alone.

    Raises:
        MissingExtraError: without ``pliant[lab]``. StorageFullError: the disk is full.
    """
    drawn = page.draw(data) if drawn is None else drawn
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, content in figure_files(drawn, names=data.names):
        page.write_whole(directory / name, content)
        written.append(directory / name)
    return written


def figure_files(
    drawn: Drawn, *, kinds: Sequence[Kind] = ("svg", "pdf", "csv"), names: Mapping[str, str] | None = None
) -> Iterator[tuple[str, bytes]]:
    """The name and the content of each file of :func:`write_figures`, in memory.

    Args:
        kinds: which files of each figure. names: a figure's id -> the name of its files.
    """
    try:
        import vl_convert

        from pliant.lab.report.figures import CONFIG
    except ImportError as error:
        raise MissingExtraError(
            f"The figures need {error.name}, which is not installed. It comes with the lab: pip install 'pliant[lab]'."
        ) from error
    for id_, figure in drawn.items():
        if isinstance(figure, str):
            continue
        name = (names or {}).get(id_, id_)
        if "svg" in kinds or "pdf" in kinds:
            svg = _renumbered(vl_convert.vegalite_to_svg(specification(figure), config={**CONFIG, "font": FONT}))
            if "svg" in kinds:
                yield f"{name}.svg", svg.encode()
            if "pdf" in kinds:
                yield f"{name}.pdf", vl_convert.svg_to_pdf(svg)
        if "csv" in kinds:
            yield f"{name}.csv", csv_of(next(iter(figure.tables.values())))


def _renumbered(svg: str) -> str:
    """The converter counts its ids on from one figure to the next; the same figure is to have the same bytes."""
    seen: dict[str, str] = {}
    return re.sub(r"\b(clip|gradient_)\d+", lambda m: seen.setdefault(m[0], f"{m[1]}{len(seen)}"), svg)


def specification(figure: Figure) -> dict[str, Any]:
    """The figure's layout for print, with its data in it."""
    spec = next(spec for width, spec in figure.layouts if width == WIDTH)
    return {**spec, "datasets": {name: _records(table) for name, table in figure.tables.items()}}


def _records(table: Table) -> list[Mapping[str, object]]:
    packed = table.packed()
    columns: list[dict[str, Any]] = packed["columns"]  # type: ignore[assignment]
    values = [[c["words"][i] for i in c["codes"]] if "codes" in c else c["values"] for c in columns]
    return [dict(zip((c["name"] for c in columns), row, strict=True)) for row in zip(*values, strict=True)]


def csv_of(table: Table) -> bytes:
    """The columns that a reader sees, with every digit there is."""
    shown = [column for column in table.columns if column.title]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(column.title for column in shown)
    writer.writerows(zip(*(column.values for column in shown), strict=True))
    return out.getvalue().encode()
