"""``pliant run``: train what has no result yet and print the verdict."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from pliant.cli.console import make_console, plain
from pliant.cli.options import (
    DEFAULT_STORE,
    STUDY_HELP,
    Activations,
    Baseline,
    Changes,
    Folds,
    Repeats,
    StoreOption,
    TierOption,
    chosen_baseline,
    chosen_studies,
)
from pliant.cli.outcome import Told, finish, incomplete, summarise
from pliant.cli.progress import Display
from pliant.errors import PliantError

if TYPE_CHECKING:
    from pliant.lab import Study
    from pliant.lab.executors import Executor


def run(
    studies: Annotated[
        list[str],
        typer.Argument(
            metavar="STUDY...",
            help=f"{STUDY_HELP}; several run one after the other.",
        ),
    ],
    tier: TierOption = None,
    activation: Activations = None,
    folds: Folds = None,
    repeats: Repeats = None,
    changes: Changes = None,
    store: StoreOption = DEFAULT_STORE,
    on: Annotated[
        str,
        typer.Option(
            help="Where trials run: serial, local (a process per core), local:4, ray, ray:ADDRESS, slurm; settings follow "
            "after commas (local:4,memory_gb=8) or stand in a file (slurm.toml)."
        ),
    ] = "local",
    stack: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Small networks to train as one program, the same up to rounding; 1: one by one, the same to the last bit. "
            "Default: as many as are faster.",
        ),
    ] = None,
    baseline: Baseline = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the report in a browser.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the result.")] = False,
) -> None:
    """Train what has no result yet, print the verdict, write report.html and the rows.

    The same command goes on where it was stopped, and does nothing once all is done. From another terminal, `pliant status
    --watch` shows how far it is.
    """
    from pliant.lab.executors import opened
    from pliant.lab.store import StorageFullError

    console = make_console()
    # All of them before the first is trained: a mistake in the last must not show after a night.
    chosen = [
        (name if name.endswith(".toml") else study.name, study)
        for name in studies
        for study in chosen_studies(name, tier, activation, folds, repeats, changes)
    ]
    against = [chosen_baseline(study, baseline) for _, study in chosen]
    told: list[Told] = []
    with opened(on) as executor:
        for i, ((name, study), base) in enumerate(zip(chosen, against, strict=True), start=1):
            if len(chosen) > 1:
                console.rule(f"{i} of {len(chosen)}: {plain(study.directory)}", style="dim")
            try:
                told.append(_one(name, study, base, console, store, executor, stack, open_page, quiet))
            except KeyboardInterrupt:
                print("\npliant: stopped. What was finished is kept; the same command goes on from here.", file=sys.stderr)
                raise typer.Exit(130) from None
            except PliantError as error:
                if len(chosen) == 1 or isinstance(error, StorageFullError):
                    raise
                console.print(f"[bold red]{plain(study.name)} could not run:[/] {plain(str(error))}")
                told.append(Told(study.directory, None, None, None))
    if len(chosen) > 1:
        summarise(told, console)
    if any(t.result is None for t in told):
        raise typer.Exit(2)
    if any(t.result is not None and incomplete(t.result) for t in told):
        raise typer.Exit(1)


def _one(
    name: str,
    study: Study,
    baseline: str | None,
    console: Console,
    store: Path,
    on: Executor,
    stack: int | None,
    open_page: bool,
    quiet: bool,
) -> Told:
    from pliant.lab import run as run_study

    display = None if quiet else Display(console)
    result = run_study(study, store=store, on=on, progress=display, stack=stack)
    verdict = finish(result, name, console, baseline, open_page, display.waiting if display else None)
    return Told(study.directory, result, verdict, display.seconds if display and display.waiting else None)
