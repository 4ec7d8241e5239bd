"""The command line as a whole: its commands, in the order in which help shows them, and what becomes of errors."""

from __future__ import annotations

from importlib import metadata
from typing import Annotated

import typer
from rich.console import Console

from pliant.cli import (
    bench,
    check,
    claims,
    data,
    explore,
    fsck,
    listing,
    merge,
    plan,
    record,
    report,
    reproduce,
    run,
    status,
)
from pliant.cli.console import plain
from pliant.errors import PliantError

app = typer.Typer(
    name="pliant",
    help="Activation functions that bend, and the lab that tells whether bending helps.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 all is well, 1 trials failed or are missing, 2 something you gave cannot be used, 130 interrupted.",
)
app.command("run")(run.run)
app.command("report")(report.report)
app.command("record")(record.record)
app.command("reproduce")(reproduce.reproduce)
app.command("claims")(claims.claims)
app.command("plan")(plan.plan)
app.command("status")(status.status)
app.command("merge")(merge.merge)
app.command("fsck")(fsck.fsck)
app.command("list")(listing.list_)
app.command("check")(check.check)
app.command("explore")(explore.explore)
app.command("bench")(bench.bench)
app.add_typer(data.app, name="data")


def main() -> None:
    """The entry point: a user's mistake becomes one paragraph and exit code 2, never a traceback."""
    try:
        app(standalone_mode=True)
    except PliantError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]pliant:[/] {plain(str(error))}")
        raise SystemExit(2) from None


def _version(wanted: bool) -> None:
    if wanted:
        print(f"pliant {metadata.version('pliant')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and stop.")
    ] = False,
) -> None:
    pass
