"""``pliant merge``: bring the finished trials of other stores into one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from pliant.cli.console import make_console, plain
from pliant.cli.options import DEFAULT_STORE, Json

SHOWN = 10


def merge(
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCE...", help="Stores, also ones that were copied half-way.")],
    into: Annotated[Path, typer.Option("--into", help="The store that takes them; made if it is missing.")] = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Copy every finished trial that agrees with its checksums from other stores into one.

    What is there already stays; doing it again changes nothing. Exit code 1 when something that a source claims to have
    finished was left behind: damaged, being trained here, or with another result here.
    """
    from pliant.lab.merge import merge as merged
    from pliant.lab.store import Store

    opened = [Store(source, create=False) for source in sources]
    target = Store(into)
    found = [merged(source, target) for source in opened]
    if as_json:
        print(json.dumps([dataclasses.asdict(m) for m in found], indent=1))
    console = make_console()
    for m in found if not as_json else ():
        console.print(
            f"[bold]{plain(m.source)}[/]: {len(m.copied)} trials copied, {len(m.known)} were here already, "
            f"{len(m.unfinished)} are not finished there."
        )
        for style, word, why in (("red", "damaged", m.damaged), ("yellow", "busy", m.busy), ("red", "conflict", m.conflicts)):
            for text in list(why.values())[:SHOWN]:
                console.print(f"[{style}]{word}:[/] {plain(text)}", soft_wrap=True)
            if len(why) > SHOWN:
                console.print(f"{word}: {len(why) - SHOWN} more")
        if m.unfinished or m.damaged:
            console.print("The same `pliant run` command trains what is missing.", style="dim")
    if not all(m.clean for m in found):
        raise typer.Exit(1)
