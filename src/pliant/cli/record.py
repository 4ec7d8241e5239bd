"""``pliant record``: keep results small and whole in a folder that goes into a repository."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pliant.cli.console import make_console, plain, size
from pliant.cli.options import (
    DEFAULT_STORE,
    Activations,
    Changes,
    Folds,
    Repeats,
    StoreOption,
    StudyArgument,
    TierOption,
    chosen_studies,
)
from pliant.cli.outcome import command_of, incomplete, stored

if TYPE_CHECKING:
    from rich.console import Console

    from pliant.lab import Result


def record(
    study: StudyArgument,
    tier: TierOption = None,
    activation: Activations = None,
    folds: Folds = None,
    repeats: Repeats = None,
    changes: Changes = None,
    store: StoreOption = DEFAULT_STORE,
    into: Annotated[Path, typer.Option(help="The folder of records; a folder for the study is made in it.")] = Path("records"),
    timed: Annotated[
        bool,
        typer.Option(
            "--timed",
            help="The trials had the machine to themselves, one after the other (--on serial --stack 1): their times may be "
            "compared. Without it claims about time do not look at the record.",
        ),
    ] = False,
) -> None:
    """Write what is in the store of a study as a record: rows, verdict, environment, command and figures, without weights.

    A record needs no store and no data: `pliant claims` and the tables in the documentation are made from it. Each of its
    files has a checksum, so that a changed row is told.
    """
    console = make_console()
    results = [stored(one, store) for one in chosen_studies(study, tier, activation, folds, repeats, changes)]
    for result in results:
        if len(results) > 1 and not result.counts["done"] + result.counts["diverged"]:
            console.print(f"[yellow]no record:[/] {plain(result.study.directory)} has no finished trial.")
            continue
        _one(result, study if study.endswith(".toml") else result.study.name, into, console, timed=timed)


def _one(result: Result, name: str, into: Path, console: Console, *, timed: bool) -> None:
    from pliant.lab import records

    command = command_of(result, name, None)
    path = records.write(result, into, command=command, timed=timed)
    kept = records.read(path)
    files = [p for p in path.rglob("*") if p.is_file()]
    console.print(
        f"Record: {plain(str(path))} ({len(files)} files, {size(sum(p.stat().st_size for p in files))})", soft_wrap=True
    )
    for told in kept.about["left_out"]:
        console.print(f"[yellow]left out:[/] {plain(told)}")
    if incomplete(result):
        counts = result.counts
        console.print(
            f"[yellow]note:[/] {counts['missing']} trials are missing and {counts['failed']} failed; the record says so. "
            f"{plain(command)} trains them."
        )
