"""What a study came to: the table, the verdict in words, and where the report is."""

from __future__ import annotations

import atexit
import shlex
import time
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from pliant.cli.console import duration, plain
from pliant.cli.progress import place

if TYPE_CHECKING:
    from pliant.lab import Result, Study
    from pliant.lab.verdict import Comparison, Estimate, Verdict

WORD_STYLES = {"BETTER": "green", "WORSE": "red", "EQUIVALENT": "blue", "CANNOT TELL": "yellow"}
PATIENCE = 1.0
"""Seconds of reading after which the screen says so."""
WIDE = 116
"""Columns from which there is room for the metrics that are not judged."""


def stored(study: Study, store: Path, *, create: bool = True) -> Result:
    from pliant.lab.result import Result
    from pliant.lab.store import Store, StoreError

    if create and not store.exists():
        raise StoreError(
            f"There is no store at {store}, so there is nothing to report. Run `pliant run {study.name}"
            f"{f' --tier {study.tier}' if study.reduced else ''}` first, or name the store with --store."
        )
    return Result(study, Store(store, create=False) if store.exists() else None, Reading())


class Reading:
    """Says how far reading is, on the screen of somebody who has waited for a second, and nowhere else.

    Args:
        console: where; by default the standard error, which what is written for programs does not go to.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._began = 0.0
        self._what = ""
        self._shown: Progress | None = None

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self._what:
            self._stop()
            self._what, self._began = what, now
        if done >= total:
            self._stop()
        elif self._shown is None and self._console.is_terminal and now - self._began > PATIENCE:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            # What a program is to read must not end up beside the bar.
            self._shown = Progress(
                *columns, console=self._console, transient=True, redirect_stdout=False, redirect_stderr=False
            )
            self._shown.add_task(f"Reading {what}", total=total)
            self._shown.start()
            # An error ends the command in the middle of it, and the cursor must come back.
            atexit.register(self._stop)
        if self._shown is not None:
            self._shown.update(self._shown.task_ids[0], completed=done)

    def _stop(self) -> None:
        if self._shown is not None:
            self._shown.stop()
        self._shown, self._what = None, ""


def command_of(result: Result, name: str, baseline: str | None) -> str:
    """What gives the same result in any store: no paths of this machine, no options that only concern the screen."""
    words = ["pliant", "run", Path(name).name]
    for change in result.study.overrides:
        words += ["-a", change[3:]] if change.startswith("-a ") else ["--set", change]
    words += ["--tier", str(result.study.tier)] if result.study.reduced else []
    return shlex.join([*words, *(["--baseline", baseline] if baseline else [])])


def incomplete(result: Result) -> bool:
    return bool(result.counts["failed"] or result.counts["missing"])


def finish(result: Result, name: str, console: Console, baseline: str | None, open_page: bool, trained: int | None) -> Verdict:
    """Show the verdict, write the report and say what is still to do. ``trained``: how many trials were, None if unknown."""
    result.tell = result.tell or Reading()
    counts = result.counts
    if trained == 0:
        console.print(f"All {len(result.trials)} trials were done already; nothing was trained.")
    verdict = result.verdict(baseline=baseline)
    _show(verdict, console)
    page = result.report(baseline=baseline, command=command_of(result, name, baseline))
    console.print(f"\nReport: {plain(str(page))}\nRows:   rows.csv and rows.parquet beside it", soft_wrap=True)
    if incomplete(result):
        for row in result.trial_rows:
            if row["outcome"] == "failed":
                where = place(row["label"], row["repeat"], row["fold"], row.get("lr"))
                console.print(f"[red]failed:[/] {plain(where)}: {plain(str(row['error']))}")
        console.print(
            f"{counts['failed']} trials failed and {counts['missing']} are missing; "
            f"{plain(command_of(result, name, None))} trains them."
        )
    if open_page:
        webbrowser.open(page.resolve().as_uri())
    return verdict


def _show(verdict: Verdict, console: Console) -> None:
    compared = {c.activation: c for c in verdict.comparisons}
    metric = verdict.metric
    # What is judged always fits on 80 columns; the rest is shown where there is room, and in the report.
    others = [m for m in verdict.estimates if m != metric] if console.width >= WIDE else []
    diverged = any(e.diverged for e in verdict.estimates[metric])
    table = Table(header_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("activation", overflow="fold", min_width=8)
    table.add_column("n", justify="right", no_wrap=True)
    if diverged:
        table.add_column("div.", justify="right", no_wrap=True)
    for name in (metric, *others):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column(f"minus {plain(verdict.baseline_label)}", justify="right", min_width=21)
    table.add_column("verdict", no_wrap=True)
    for i, estimate in enumerate(verdict.estimates[metric]):
        cells = [_mean(verdict.estimates[name][i]) for name in (metric, *others)]
        c = compared.get(estimate.activation)
        count = [str(estimate.diverged) if estimate.diverged else "[dim]-[/]"] if diverged else []
        table.add_row(plain(estimate.label), str(estimate.n), *count, *cells, _difference(c), _word(c))
    console.print()
    console.print(table)
    console.print(
        f"\n{verdict.split.capitalize()} scores in points (hundredths), mean ± half of the {100 * (1 - verdict.alpha):g} % "
        f"interval; n: trials; differences paired by fold, with interval. {plain(verdict.design)}",
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


@dataclass(frozen=True)
class Told:
    """A study of several, for the summary. ``result``: None where it could not run; ``seconds``: of training just now."""

    name: str
    result: Result | None
    verdict: Verdict | None
    seconds: float | None


def summarise(studies: Sequence[Told], console: Console) -> None:
    """One line a study: what was finished, and how many activations got which word."""
    console.rule("summary", style="dim")
    table = Table(header_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("study", overflow="fold")
    table.add_column("trials", justify="right", no_wrap=True)
    table.add_column("against the baseline", overflow="fold")
    table.add_column("trained in", justify="right", no_wrap=True)
    for s in studies:
        if s.result is None or s.verdict is None:
            table.add_row(plain(s.name), "", "[red]could not run[/], see above", "")
            continue
        counts = s.result.counts
        done = f"{counts['done'] + counts['diverged']} of {len(s.result.trials)}"
        notes = [f"[red]{counts[o]} {o}[/]" for o in ("diverged", "failed", "missing") if counts[o]]
        given = [c.word for c in s.verdict.comparisons]
        words = [f"{given.count(w)} [{style}]{w}[/]" for w, style in WORD_STYLES.items() if w in given]
        took = duration(s.seconds) if s.seconds is not None else "[dim]-[/]"
        table.add_row(plain(s.name), done, ", ".join([*words, *notes]), took)
    console.print(table)


def _finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")


def _mean(e: Estimate) -> str:
    if not _finite(e.mean):
        return "[dim]-[/]"
    half = (e.high - e.low) / 2
    return f"{100 * e.mean:.2f}" + (f" ±{100 * half:.2f}" if _finite(half) else "")


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
