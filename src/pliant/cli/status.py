"""``pliant status``: how far studies are that run in another process or on another machine."""

from __future__ import annotations

import dataclasses
import json
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from pliant.cli.console import duration, make_console, visible
from pliant.cli.options import DEFAULT_STORE, Json, StoreOption, TierOption, known_tier
from pliant.cli.progress import bar, left, place, trials_under_way

if TYPE_CHECKING:
    from pliant.lab.status import StudyStatus, Watch
    from pliant.lab.store import Holder, Store

STATE_STYLES = {"finished": "green", "running": "cyan", "silent": "yellow", "stopped": "red"}
LINE_EVERY = 15.0
"""Seconds between the lines of a watch that is not on a terminal, unless a state changes."""


def status(
    studies: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[STUDY]...", help="Studies, or tables and figures, by name; all in the store if none is named."
        ),
    ] = None,
    tier: TierOption = None,
    store: StoreOption = DEFAULT_STORE,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again and again until nothing runs any more.")] = False,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks.")] = 2.0,
    as_json: Json = False,
) -> None:
    """Show how far studies are that run elsewhere: in another process, or on another machine with the same store.

    Only reads; what runs does not notice. With --watch the exit code is 1 when trials are left that nobody trains.
    """
    from pliant.lab.status import Watch, matching, tier_of
    from pliant.lab.store import Store

    opened = Store(store, create=False)
    names = [Path(s).stem if s.endswith(".toml") else s for s in studies or ()]
    known_tier(tier)
    found = [name for name in matching(opened, _members(opened, names)) if tier in (None, tier_of(name))]
    watches = [Watch(opened, name) for name in found]
    console = make_console()
    if not watch:
        _once([w.look() for w in watches], console, as_json)
        return
    try:
        last = _follow(watches, console, every, as_json)
    except KeyboardInterrupt:
        # Leaving is how a watch usually ends; what runs goes on.
        return
    if any(s.state != "finished" for s in last):
        raise typer.Exit(1)


def _members(opened: Store, names: Sequence[str]) -> list[str]:
    """A table or figure of a paper by its studies that are in the store."""
    from pliant.lab import papers
    from pliant.lab.status import matching

    named: list[str] = []
    for name in names:
        group = papers.groups().get(name)
        if group is None or name in papers.studies():
            named.append(name)
        else:
            there = set(matching(opened, []))
            named += [s for s in group.studies if any(s == t or t.startswith(f"{s}.") for t in there)] or [name]
    return named


def _once(found: Sequence[StudyStatus], console: Console, as_json: bool) -> None:
    if as_json:
        print(json.dumps([_document(s) for s in found], indent=1))
    else:
        console.print(_page(found, time.time(), console))


def _follow(watches: Sequence[Watch], console: Console, every: float, as_json: bool) -> list[StudyStatus]:
    """Show until nothing runs: twice in a row, since a driver that begins has no trial yet."""
    idle, told, states = 0, 0.0, ""
    with Live(console=console, auto_refresh=False) if console.is_terminal and not as_json else _Nothing() as live:
        while True:
            found = [w.look() for w in watches]
            now = time.time()
            idle = 0 if any(s.state == "running" for s in found) else idle + 1
            finished = all(s.state == "finished" for s in found)
            if as_json:
                print(json.dumps([_document(s) for s in found]), flush=True)
            elif isinstance(live, Live):
                live.update(_page(found, now, console), refresh=True)
            elif (seen := " ".join(s.state for s in found)) != states or now - told >= LINE_EVERY:
                states, told = seen, now
                for s in found:
                    console.print(visible(f"{s.name}: {_state(s, now)}; {_numbers(s)}"), soft_wrap=True, markup=False)
            if finished or idle > 1:
                return found
            time.sleep(every)


class _Nothing:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


def _document(s: StudyStatus) -> dict[str, object]:
    return dataclasses.asdict(s)


def _page(found: Sequence[StudyStatus], now: float, console: Console) -> RenderableType:
    parts: list[RenderableType] = []
    for s in found:
        if parts:
            parts.append(Text())
        parts.append(Text.assemble((visible(s.name), "bold"), "  ", (visible(_state(s, now)), STATE_STYLES[s.state])))
        parts.append(bar(s.counts["done"] + s.counts["diverged"], s.trials, _numbers(s), console))
        if pace := _pace(s, now):
            parts.append(Text(pace, style="dim"))
        if s.running:
            rows = [
                (visible(place(t.label, t.repeat, t.fold, t.lr)), t.epoch, t.epochs, t.validation_accuracy) for t in s.running
            ]
            parts.append(trials_under_way(rows))
        parts += [Text.assemble(("failed: ", "red"), visible(error)) for error in s.errors[:5]]
        if len(s.errors) > 5:
            parts.append(Text(f"and {len(s.errors) - 5} more that failed; `pliant report` lists them."))
        parts += [Text.assemble(("unreadable: ", "yellow"), visible(problem)) for problem in s.problems[:3]]
        if s.state in ("stopped", "silent"):
            parts.append(Text("The same `pliant run` command goes on from here.", style="dim"))
    return Group(*parts)


def _state(s: StudyStatus, now: float) -> str:
    who = ", ".join(dict.fromkeys(_who(d) for d in s.drivers))
    if s.state == "running":
        began = min((d.since for d in s.drivers), default=None)
        since = f" for {duration(now - began)}" if began is not None else ""
        return f"running{since}" + (f" ({who})" if who else "")
    if s.state == "silent":
        quiet = f" for {duration(now - s.last_activity)}" if s.last_activity is not None else ""
        return f"silent{quiet}; whether {who} still lives cannot be seen from here"
    if s.state == "stopped":
        return f"stopped: {who} died" if who else "stopped"
    return s.state


def _who(d: Holder) -> str:
    return f"process {d.pid}" + ("" if d.host == socket.gethostname() else f" on {d.host}")


def _numbers(s: StudyStatus) -> str:
    told = [f"{n} {word}" for word, n in s.counts.items() if n or word == "done"]
    return f"{', '.join(told)} of {s.trials} trials"


def _pace(s: StudyStatus, now: float) -> str:
    told = [left(s.seconds_left, s.certain)] if s.state == "running" else []
    if s.per_minute is not None:
        rate = f"{s.per_minute:.1f} trials a minute" if s.per_minute >= 1 else f"{60 * s.per_minute:.1f} trials an hour"
        told.append(rate)
    if s.last_activity is not None:
        told.append(f"last sign {duration(max(0.0, now - s.last_activity))} ago")
    return ", ".join(told)
