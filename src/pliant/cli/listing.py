"""``pliant list``: what there is to choose from."""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.table import Table

from pliant.cli.console import make_console, plain
from pliant.cli.options import Json
from pliant.errors import unknown


def list_(
    what: Annotated[
        str, typer.Argument(metavar="WHAT", help="activations, models, datasets, studies, keys (of a study) or executors.")
    ],
    as_json: Json = False,
) -> None:
    """List what there is to choose from."""
    rows = _listing(what)
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    console = make_console()
    kinds = dict.fromkeys(row.get("kind") for row in rows)
    for kind in kinds:
        console.print(_table([row for row in rows if row.get("kind") == kind], first="name" if kind is None else str(kind)))
        if len(kinds) > 1:
            console.print()


def _table(rows: list[dict[str, Any]], first: str) -> Table:
    """Rows of one kind, without the columns that none of them fills."""
    name, *others = rows[0]
    shown = [name, *(c for c in others if c != "kind" and any(_cell(row[c]) for row in rows))]
    table = Table(box=None, header_style="bold", pad_edge=False)
    # A name is there to be copied.
    table.add_column(first, no_wrap=True)
    for column in shown[1:]:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(plain(_cell(row[c])) for c in shown))
    return table


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v:,}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(value)
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _listing(what: str) -> list[dict[str, Any]]:
    from pliant import catalog
    from pliant.lab import datasets, executors, models, papers
    from pliant.lab.claims import size_of
    from pliant.lab.datasets import inventory
    from pliant.lab.keys import keys
    from pliant.lab.models import detection
    from pliant.lab.network import measure

    def first_line(thing: Any) -> str:
        return (thing.__doc__ or "").strip().partition("\n")[0]

    def options_of(function: Callable[..., Any]) -> list[str]:
        parameters = inspect.signature(function).parameters.values()
        return [f"{p.name}={p.default}" for p in parameters if p.default is not p.empty]

    def network_row(name: str, function: Callable[..., Any]) -> dict[str, Any]:
        row = {"name": name, "what": first_line(function), "for": None, "parameters": None, "activations": None}
        if name in models.FIRST_USE:
            shape, outputs = models.FIRST_USE[name]
            size = measure(function, shape, outputs)
            row |= {"for": f"{'x'.join(map(str, shape))} to {outputs}", **size._asdict()}
        return {**row, "options": options_of(function)}

    def study_row(name: str) -> dict[str, Any]:
        whole = papers.study(name)
        sizes = {}
        for tier in papers.tiers(name):
            sizes[tier] = size_of(papers.study(name, tier))
        return {"name": name, "kind": "study", "what": whole.title, "trials by tier": sizes, "studies": []}

    def group_row(group: papers.Group) -> dict[str, Any]:
        what = f"{group.title}: {group.shows}"
        return {
            "name": group.name,
            "kind": "table or figure",
            "what": what,
            "trials by tier": {},
            "studies": list(group.studies),
        }

    known: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "activations": lambda: [
            {"name": e.name, "what": e.summary, "variants": sorted(e.variants), "aliases": list(e.aliases), "source": e.source}
            for e in catalog.ALL.values()
        ],
        "models": lambda: [
            *(network_row(n, f) for n, f in models.ALL.items()),
            *(network_row(f"{n}:NAME", f) for n, f in models.external.LIBRARIES.items()),
            *(network_row(n, detection.find(n)) for n in detection.ALL),
        ],
        "datasets": lambda: [
            {
                "name": n,
                "what": first_line(d),
                "options": [f"{o}: {words}" for o, words in inventory.options(d.load).items()],
                "source": d.source,
            }
            for n, d in datasets.ALL.items()
        ],
        "studies": lambda: [
            *(study_row(n) for n in papers.studies()),
            *(group_row(g) for g in papers.groups().values()),
        ],
        "keys": lambda: [dataclasses.asdict(key) for key in keys()],
        "executors": lambda: [{"name": n, "what": first_line(sys.modules[e.__module__])} for n, e in executors.ALL.items()],
    }
    if what not in known:
        raise unknown("list", what, known)
    return known[what]()
