"""``pliant fsck``: check every file of a store."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pliant.cli.console import make_console, plain
from pliant.cli.options import DEFAULT_STORE, Json

SHOWN = 50
STYLES = {"damaged": "red", "torn": "yellow", "leftover": "yellow", "foreign": "yellow"}


def fsck(
    store: Annotated[Path, typer.Argument(metavar="[STORE]", help="The store.")] = DEFAULT_STORE,
    repair: Annotated[
        bool, typer.Option("--repair", help="Set damaged trials aside, so that the next run trains them; remove leftovers.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare every file of every trial with its checksum, and look for what does not belong there.

    Reads only, unless --repair is given. Trials that are being trained are left out. Exit code 1 when something was found.
    """
    from pliant.lab.fsck import check
    from pliant.lab.store import Store

    found = check(Store(store, create=False), repair=repair, identify=_key)
    if as_json:
        print(json.dumps({**dataclasses.asdict(found), "clean": found.clean}, indent=1))
    else:
        console = make_console()
        for f in found.findings[:SHOWN]:
            done = f" ({plain(f.repaired)})" if f.repaired else ""
            console.print(f"[{STYLES[f.kind]}]{f.kind}:[/] {plain(f.path)}: {plain(f.what)}{done}", soft_wrap=True)
        if len(found.findings) > SHOWN:
            console.print(f"and {len(found.findings) - SHOWN} more; --json lists all.")
        console.print(
            f"{found.trials} trials: {found.finished} finished and whole, {found.unfinished} not finished, {found.busy} being "
            f"trained and not looked at; {len(found.redo)} to be trained again."
            + (f" {found.unlisted} belong to no study that is here now." if found.unlisted else "")
        )
        if found.redo:
            studies = sorted({study for names in found.redo.values() for study in names})
            which = f" of {', '.join(map(plain, studies))}" if studies else ""
            first = "Run" if repair else "Give --repair to set them aside, then run"
            console.print(f"{first} the same `pliant run` command{which}: it trains what is to be trained again.")
    if not found.clean:
        raise typer.Exit(1)


def _key(values: Mapping[str, Any]) -> str | None:
    """The key of a trial with these values; None where this version of Pliant does not know them."""
    from pydantic import ValidationError

    from pliant.lab.study import TrialSpec

    try:
        return TrialSpec.model_validate(values).key
    except ValidationError:
        return None
