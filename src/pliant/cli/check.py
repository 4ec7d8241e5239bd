"""``pliant check``: the contract of activations, on somebody else's file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pliant.cli.console import make_console, plain
from pliant.cli.options import Json


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A Python file that defines activations.")],
    kinks: Annotated[
        list[float] | None, typer.Option("--kink", help="Where the slope jumps; else it is searched for. May be given often.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Hold the activations in a file to the contract that Pliant's own are held to. Runs the file.

    Checked are the subclasses of pliant.Activation that it defines and the modules it lists in ACTIVATIONS.
    """
    from pliant import testing

    console, broken, listing = make_console(), False, []
    for name, factory in testing.from_file(file).items():
        results = testing.check(factory, kinks=kinks or None)
        broken = broken or any(r.outcome == "failed" for r in results)
        listing += [{"activation": name, "check": r.check, "outcome": r.outcome, "message": r.message} for r in results]
        if as_json:
            continue
        console.print(f"[bold]{plain(name)}[/]")
        for r in results:
            style = {"passed": "green", "failed": "red", "skipped": "dim"}[r.outcome]
            console.print(f"  [{style}]{r.outcome:8}[/] {plain(r.check)}{plain(f': {r.message}' if r.message else '')}")
    if as_json:
        print(json.dumps(listing, indent=1))
    if broken:
        raise typer.Exit(1)
