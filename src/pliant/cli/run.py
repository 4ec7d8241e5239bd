"""``pliant run``: train what has no result yet and print the verdict."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from pliant.cli.console import make_console
from pliant.cli.options import (
    DEFAULT_STORE,
    Activations,
    Baseline,
    Changes,
    Folds,
    Repeats,
    StoreOption,
    StudyArgument,
    chosen_baseline,
    chosen_study,
)
from pliant.cli.outcome import finish
from pliant.cli.progress import Display


def run(
    study: StudyArgument,
    activation: Activations = None,
    folds: Folds = None,
    repeats: Repeats = None,
    changes: Changes = None,
    store: StoreOption = DEFAULT_STORE,
    on: Annotated[str, typer.Option(help="Where trials run: serial, local (a process per core), local:4.")] = "local",
    baseline: Baseline = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the report in a browser.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the result.")] = False,
) -> None:
    """Train what has no result yet, print the verdict, write report.html and the rows.

    The same command goes on where it was stopped, and does nothing once all is done.
    """
    from pliant.lab import run as run_study

    console = make_console()
    chosen = chosen_study(study, activation, folds, repeats, changes)
    against = chosen_baseline(chosen, baseline)
    display = None if quiet else Display(console)
    try:
        result = run_study(chosen, store=store, on=on, progress=display)
    except KeyboardInterrupt:
        print("\npliant: stopped. What was finished is kept; the same command goes on from here.", file=sys.stderr)
        raise typer.Exit(130) from None
    finish(result, study, console, against, open_page, display.waiting if display else None)
