"""The same numbers for other programs: the rows as CSV and Parquet, the main table as LaTeX."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

from pliant.errors import MissingExtraError
from pliant.lab.report import page, wording
from pliant.lab.report.agreement import RULE
from pliant.lab.report.data import ReportData

ROW_COLUMNS = ("study", "key", "activation", "label", "repeat", "fold", "seed", "outcome")
"""Columns of a table without rows, so that whoever reads it still finds the ones it selects by."""

_INTEGERS = frozenset(
    (
        "repeat",
        "fold",
        "seed",
        "n_train",
        "n_validation",
        "n_test",
        "selected_epoch",
        "epochs",
        "steps",
        "lr_tried",
        "parameters",
        "activation_parameters",
        "peak_bytes",
    )
)
_TEXTS = frozenset(
    (
        "study",
        "key",
        "activation",
        "label",
        "outcome",
        "device",
        "error",
        "partition",
        "quirks",
        "speed",
        "top_5_epochs",
    )
)

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # A bracket after the \\ of the row before would be read as its optional argument.
    "[": "{[}",
    "]": "{]}",
    '"': r"\textquotedbl{}",
    wording.MINUS: "$-$",
    wording.DASH: "--",
    "±": r"$\pm$",
    "×": r"$\times$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
}


def write_tables(data: ReportData, directory: Path) -> list[Path]:
    """Write ``rows.csv``, ``rows.parquet``, the main table as ``table.csv`` and ``table.tex`` and, where there are printed
    numbers, ``paper.tex`` into ``directory`` (created if need be); return the paths.

    One row per trial. A number that is not finite is null in Parquet and empty in CSV. The LaTeX files hold a ``tabular``
    that needs the package booktabs. The main table goes by the name of the paper's where ``data.names`` has one. Each
    file is written beside its place and renamed.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    rows, parquet = _rows(data)
    name = data.names.get("table", "table")
    contents = {"rows.csv": rows, "rows.parquet": parquet, f"{name}.csv": _main_csv(data), f"{name}.tex": latex(data).encode()}
    if data.printed:
        contents["paper.tex"] = latex_of_printed(data).encode()
    written = []
    for file, content in contents.items():
        page.write_whole(directory / file, content)
        written.append(directory / file)
    return written


def _main_csv(data: ReportData) -> bytes:
    """The main table's numbers with all their digits, in the metrics' own units, intervals in columns of their own."""
    verdict = data.verdict
    names = wording.names(data)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    metrics = list(verdict.estimates) if verdict is not None else []
    heads = [f"{metric}_{part}" for metric in metrics for part in ("mean", "low", "high", "sd", "n")]
    difference = ["difference", "difference_low", "difference_high", "p", "p_adjusted", "p_equivalent", "verdict"]
    writer.writerow(["activation", "label", *heads, *difference])
    compared = {c.activation: c for c in verdict.comparisons} if verdict is not None else {}
    for activation, label in names.items():
        cells: list[object] = [activation, label]
        for metric in metrics:
            found = next((e for e in verdict.estimates[metric] if e.activation == activation), None) if verdict else None
            cells += [None] * 5 if found is None else [found.mean, found.low, found.high, found.sd, found.n]
        c = compared.get(activation)
        cells += [None] * 7 if c is None else [c.difference, c.low, c.high, c.p, c.p_adjusted, c.p_equivalent, c.word]
        writer.writerow([_finite_or_null(cell) for cell in cells])
    return out.getvalue().encode()


def latex_of_printed(data: ReportData) -> str:
    """The paper's numbers beside ours as a booktabs ``tabular``, with the rule by which they are called consistent."""
    heads = ["What", "Printed", "Released", "Ours", "n", "Ours minus printed", "Consistent?"]
    lines = [
        f"% {_comment(data.title)}: printed in the paper, from the authors' logs, and ours.",
        f"% {_comment(RULE)}",
        "% needs \\usepackage{booktabs}",
        r"\begin{tabular}{lrrrrrl}",
        r"\toprule",
        " & ".join(escape(head) for head in heads) + r" \\",
        r"\midrule",
    ]
    for row in page.printed_rows(data):
        cells = [row.printed, row.released, row.ours, row.n, row.difference, row.consistent]
        texts = [escape(c.text) + (rf" {{\scriptsize {escape(c.small)}}}" if c.small else "") for c in cells]
        lines.append(" & ".join([escape(row.what), *texts]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _rows(data: ReportData) -> tuple[bytes, bytes]:
    try:
        import polars
    except ImportError as error:
        raise MissingExtraError(
            "The tables need polars, which is not installed. It comes with the lab: pip install 'pliant[lab]'."
        ) from error
    columns = {}
    for name in page.columns_of(data.rows) or ROW_COLUMNS:
        values = [_finite_or_null(row.get(name)) for row in data.rows]
        # A column without values has no type of its own, and one that changed type with the progress of a study would
        # break whoever reads the file; the known ones are therefore declared.
        if name in _TEXTS or (name not in _INTEGERS and any(isinstance(v, str) for v in values)):
            kept = [None if v is None else str(v) for v in values]
            columns[name] = polars.Series(name, kept, dtype=polars.String)
        elif name in _INTEGERS:
            columns[name] = polars.Series(name, values, dtype=polars.Int64, strict=False)
        elif values and all(isinstance(v, bool) or v is None for v in values) and any(v is not None for v in values):
            columns[name] = polars.Series(name, values, dtype=polars.Boolean)
        else:
            columns[name] = polars.Series(name, values, dtype=polars.Float64, strict=False)
    frame = polars.DataFrame(columns)
    rows, parquet = io.BytesIO(), io.BytesIO()
    frame.write_csv(rows)
    frame.write_parquet(parquet)
    return rows.getvalue(), parquet.getvalue()


def _finite_or_null(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def latex(data: ReportData) -> str:
    """The main table as a booktabs ``tabular``, with a comment that says what stands in it."""
    main = page.main_table(data)
    verdict = data.verdict
    comment = f"% {_comment(data.title)}: mean over trials and interval; difference to the baseline, paired by fold.\n"
    if verdict is not None:
        comment += f"% {_comment(verdict.design)}\n"
    measured = [f"{head.text}, {head.small}" if head.small else head.text for head in (*main.metrics, main.difference)]
    heads = ["Activation", *measured, "Verdict", *main.counts]
    alignment = "l" + "r" * (len(main.metrics) + 1) + "l" + "r" * len(main.counts)
    lines = [
        comment + "% needs \\usepackage{booktabs}",
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        " & ".join(escape(h) for h in heads) + r" \\",
        r"\midrule",
    ]
    for row in main.rows:
        cells = [escape(row.label)]
        cells += [
            escape(cell.text) + (rf" {{\scriptsize {escape(cell.small)}}}" if cell.small else "")
            for cell in (*row.metrics, row.difference)
        ]
        cells.append("(baseline)" if row.baseline else escape(row.word.lower()))
        cells += [escape(cell.text) for cell in row.counts]
        lines.append(" & ".join(cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Text that LaTeX prints as it stands; line breaks become spaces."""
    return "".join(_LATEX.get(sign, sign) for sign in " ".join(text.split()))


def _comment(text: str) -> str:
    return " ".join(text.split())
