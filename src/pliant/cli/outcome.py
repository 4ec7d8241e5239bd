"""What a study came to: the table, the verdict in words, and where the report is."""

from __future__ import annotations

import shlex
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

from pliant.cli.console import plain

if TYPE_CHECKING:
    from pliant.lab import Result, Study
    from pliant.lab.verdict import Comparison, Estimate

WORD_STYLES = {"BETTER": "green", "WORSE": "red", "EQUIVALENT": "blue", "CANNOT TELL": "yellow"}


def stored(study: Study, store: Path, *, create: bool = True) -> Result:
    from pliant.lab.result import Result
    from pliant.lab.store import Store, StoreError

    if create and not store.exists():
        raise StoreError(
            f"There is no store at {store}, so there is nothing to report. Run `pliant run {study.name}` first, or name the "
            "store with --store."
        )
    return Result(study, Store(store, create=False) if store.exists() else None)


def _command(result: Result, name: str, baseline: str | None) -> str:
    """What gives the same result in any store: no paths of this machine, no options that only concern the screen."""
    words = ["pliant", "run", Path(name).name]
    for change in result.study.overrides:
        words += ["-a", change[3:]] if change.startswith("-a ") else ["--set", change]
    return shlex.join([*words, *(["--baseline", baseline] if baseline else [])])


def finish(result: Result, name: str, console: Console, baseline: str | None, open_page: bool, trained: int | None) -> None:
    counts = result.counts
    if trained == 0:
        console.print(f"All {len(result.trials)} trials were done already; nothing was trained.")
    _show(result, console, baseline)
    page = result.report(baseline=baseline, command=_command(result, name, baseline))
    console.print(f"\nReport: {page}\nRows:   {page.parent / 'rows.csv'}, rows.parquet")
    if counts["failed"] or counts["missing"]:
        for row in result.trial_rows:
            if row["outcome"] == "failed":
                place = f"{row['label']}, repeat {row['repeat']}, fold {row['fold']}"
                console.print(f"[red]failed:[/] {plain(place)}: {plain(str(row['error']))}")
        console.print(
            f"{counts['failed']} trials failed and {counts['missing']} are missing; {_command(result, name, None)} trains them."
        )
    if open_page:
        webbrowser.open(page.resolve().as_uri())
    if counts["failed"] or counts["missing"]:
        raise typer.Exit(1)


def _show(result: Result, console: Console, baseline: str | None) -> None:
    verdict = result.verdict(baseline=baseline)
    compared = {c.activation: c for c in verdict.comparisons}
    metric = verdict.metric
    shown = list(dict.fromkeys([metric, "accuracy", "precision", "recall", "f1"]))
    table = Table(header_style="bold", box=None, pad_edge=False)
    table.add_column("activation")
    table.add_column("n", justify="right")
    for name in shown:
        table.add_column(name, justify="right")
    table.add_column(f"{metric} - {plain(verdict.baseline_label)}", justify="right")
    table.add_column("verdict")
    for i, estimate in enumerate(verdict.estimates[metric]):
        cells = [_mean(verdict.estimates[name][i]) for name in shown]
        c = compared.get(estimate.activation)
        n = f"{estimate.n}" + (f" ({estimate.diverged} diverged)" if estimate.diverged else "")
        table.add_row(plain(estimate.label), n, *cells, _difference(c), _word(c))
    console.print()
    console.print(table)
    console.print(
        "\nTest scores in points (hundredths), mean +- half of the 95 % interval; differences paired by fold. "
        f"{plain(verdict.design)}",
        style="dim",
    )
    settled = [c for c in verdict.comparisons if c.word in ("BETTER", "WORSE")]
    for c in settled:
        console.print(plain(verdict.sentence(c)))
    if not settled and verdict.comparisons:
        words = [c.word for c in verdict.comparisons]
        console.print(
            f"No activation is shown to differ from {plain(verdict.baseline_label)} on {metric}: "
            f"{words.count('EQUIVALENT')} practically equal, {words.count('CANNOT TELL')} cannot be told."
        )
    for warning in verdict.warnings:
        console.print(f"[yellow]note:[/] {plain(warning)}")


def _finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")


def _mean(e: Estimate) -> str:
    if not _finite(e.mean):
        return "[dim]-[/]"
    half = (e.high - e.low) / 2
    return f"{100 * e.mean:.2f}" + (f" +-{100 * half:.2f}" if _finite(half) else "")


def _difference(c: Comparison | None) -> str:
    if c is None or not _finite(c.difference):
        return "[dim]-[/]"
    if c.identical:
        return "identical"
    interval = f" [{100 * c.low:+.2f}, {100 * c.high:+.2f}]" if _finite(c.low) and _finite(c.high) else ""
    return plain(f"{100 * c.difference:+.2f}{interval}")


def _word(c: Comparison | None) -> str:
    if c is None:
        return "[dim]baseline[/]"
    return f"[{WORD_STYLES[c.word]}]{c.word}[/]"
