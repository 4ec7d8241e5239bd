"""``pliant record``: keep results small and whole in a folder that goes into a repository."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pliant.cli.console import make_console, plain, size
from pliant.cli.options import DEFAULT_STORE, Activations, Changes, Folds, Repeats, StoreOption, StudyArgument, chosen_study
from pliant.cli.outcome import command_of, incomplete, stored


def record(
    study: StudyArgument,
    activation: Activations = None,
    folds: Folds = None,
    repeats: Repeats = None,
    changes: Changes = None,
    store: StoreOption = DEFAULT_STORE,
    tier: Annotated[str | None, typer.Option(help="The tier of a paper's study that was run: smoke, lite or full.")] = None,
    into: Annotated[Path, typer.Option(help="The folder of records; a folder for the study is made in it.")] = Path("records"),
) -> None:
    """Write what is in the store of a study as a record: rows, verdict, environment, command and figures, without weights.

    A record needs no store and no data: `pliant claims` and the tables in the documentation are made from it. Each of its
    files has a checksum, so that a changed row is told.
    """
    from pliant.lab import records

    result = stored(chosen_study(study, activation, folds, repeats, changes, tier), store)
    path = records.write(result, into, command=command_of(result, study, None))
    console, kept = make_console(), records.read(path)
    files = [p for p in path.rglob("*") if p.is_file()]
    console.print(f"Record: {plain(str(path))} ({len(files)} files, {size(sum(p.stat().st_size for p in files))})")
    for told in kept.about["left_out"]:
        console.print(f"[yellow]left out:[/] {plain(told)}")
    if incomplete(result):
        counts = result.counts
        console.print(
            f"[yellow]note:[/] {counts['missing']} trials are missing and {counts['failed']} failed; the record says so. "
            f"{plain(command_of(result, study, None))} trains them."
        )
