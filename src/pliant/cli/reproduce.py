"""``pliant reproduce``: whole papers at one tier, and one page for all of them."""

from __future__ import annotations

import shlex
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer
from rich.console import Console
from rich.table import Table

from pliant.cli.claims import RecordsOption, known_of
from pliant.cli.console import make_console, plain, roughly
from pliant.cli.options import DEFAULT_STORE, StoreOption
from pliant.cli.outcome import incomplete
from pliant.cli.progress import Display
from pliant.errors import PliantError

Tier = Literal["smoke", "lite", "full"]

if TYPE_CHECKING:
    from pliant.lab.claims import Known
    from pliant.lab.executors import Executor
    from pliant.lab.reproduction import Task


def reproduce(
    chosen: Annotated[list[str], typer.Argument(metavar="PAPER...", help="dsrelu, srelu, aaf: one or more.")],
    tier: Annotated[
        Tier | None, typer.Option(help="smoke (minutes, shows that it runs), lite (reduced) or full (the paper's own size).")
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    on: Annotated[str, typer.Option(help="Where trials run: serial, local (a process per core), local:4.")] = "local",
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="GROUP", help="Only this table, figure or study, e.g. --only aaf-table1."),
    ] = None,
    recorded: RecordsOption = None,
    no_run: Annotated[bool, typer.Option("--no-run", help="Train nothing; write the page from what is there.")] = False,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the results.")] = False,
) -> None:
    """Run every study of the papers at one tier and write one page: each table, figure and claim, printed beside ours.

    Without --tier it only says what each would cost. The same command goes on where it was stopped. A study that cannot run
    here, because its data are absent for one, is skipped, and the page says why.
    """
    from pliant.lab.executors import opened
    from pliant.lab.reproduction import tasks

    console = make_console()
    names = list(dict.fromkeys(chosen))
    if tier is None:
        _costs(names, only or [], store, recorded, console)
        raise typer.Exit(2)
    planned = tasks(names, tier, only or [])
    skipped: dict[str, str] = {}
    lacking = False
    with opened(on) as executor:
        for i, task in enumerate([] if no_run else planned, start=1):
            try:
                lacking |= _run(task, i, len(planned), skipped, console, store, executor, quiet)
            except KeyboardInterrupt:
                print("\npliant: stopped. What was finished is kept; the same command goes on from here.", file=sys.stderr)
                raise typer.Exit(130) from None
    known = known_of(store, recorded)
    page = _write(names, tier, only or [], store, known, skipped)
    if skipped:
        console.rule("not run", style="dim")
        for name, why in skipped.items():
            console.print(f"[yellow]{plain(name)}:[/] {plain(why)}", soft_wrap=True)
    have = sum(known.at(task.name, tier) is not None for task in planned)
    console.print(
        f"\n[bold]{tier} tier[/]: {have} of {len(planned)} studies have results; page: {plain(str(page))}", soft_wrap=True
    )
    if open_page:
        webbrowser.open(page.resolve().as_uri())
    if lacking:
        raise typer.Exit(1)


def _run(
    task: Task, i: int, of: int, skipped: dict[str, str], console: Console, store: Path, on: Executor, quiet: bool
) -> bool:
    """Run one study; whether trials of it failed."""
    from pliant.lab import run
    from pliant.lab.store import StorageFullError

    if task.study is None:
        skipped[task.name] = task.why
        return False
    console.rule(f"{i} of {of}: {plain(task.study.directory)}", style="dim")
    try:
        result = run(task.study, store=store, on=on, progress=None if quiet else Display(console))
        verdict = result.verdict()
        result.report(command=f"pliant run {task.name} --tier {task.study.tier}")
    except StorageFullError:
        raise
    except PliantError as error:
        skipped[task.name] = str(error)
        console.print(f"[yellow]skipped:[/] {plain(str(error))}")
        return False
    given = [c.word for c in verdict.comparisons]
    told = ", ".join(f"{given.count(w)} {w}" for w in dict.fromkeys(given))
    console.print(
        f"{result.counts['done']} of {len(result.trials)} trials done; against {plain(verdict.baseline_label)}: {told}"
    )
    return incomplete(result)


def _write(names: Sequence[str], tier: Tier, only: Sequence[str], store: Path, known: Known, skipped: dict[str, str]) -> Path:
    from pliant.lab import reproduction

    target = store / "reproduce" / f"{'+'.join(names)}.{tier}" / "index.html"
    words = ["pliant", "reproduce", *names, "--tier", tier, *(w for name in only for w in ("--only", name))]
    return reproduction.write(names, tier, known, target, command=shlex.join(words), skipped=skipped)


def _costs(names: Sequence[str], only: Sequence[str], store: Path, recorded: Path | None, console: Console) -> None:
    """What each tier takes: studies, trials, and the time where some trials of it have been timed."""
    from pliant.lab.papers import TIERS
    from pliant.lab.reproduction import tasks

    known = known_of(store, recorded)
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("tier", "studies", "trials", "done", "time of the rest, one process"):
        table.add_column(column, justify="left" if column[0] == "t" and column != "trials" else "right")
    for tier in get_args(Tier):
        found = [t for t in tasks(names, tier, only) if t.study is not None]
        done = seconds = 0.0
        unknown_ = 0
        for task in found:
            seen = known.at(task.name, tier)
            took = [r["seconds"] for r in seen.rows if r.get("seconds")] if seen is not None else []
            done += len(took)
            if took:
                seconds += (task.trials - len(took)) * sum(took) / len(took)
            else:
                unknown_ += 1
        time = f"about {roughly(seconds)}" if seconds else ""
        rest = f"not known for {unknown_} studies" if unknown_ else ""
        told = "; ".join(x for x in (time, rest) if x) or "nothing is left"
        table.add_row(tier, str(len(found)), str(sum(t.trials for t in found)), f"{done:.0f}", told)
    console.print(f"[bold]{plain(', '.join(names))}[/]: choose a tier with --tier. Nothing has been started.\n")
    console.print(table)
    console.print()
    for tier, words in TIERS.items():
        console.print(f"[bold]{tier}[/]: {words}")
