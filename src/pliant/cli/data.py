"""``pliant data``: see, verify and fetch data sets."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import progress as bars
from rich.table import Table

from pliant.cli.console import make_console, plain, size
from pliant.cli.options import Json

if TYPE_CHECKING:
    from pliant.lab.datasets.inventory import Status

app = typer.Typer(no_args_is_help=True, help="See, verify and fetch data sets. They live below the folder PLIANT_DATA.")
Options = Annotated[
    list[str] | None, typer.Option("--set", metavar="OPTION=VALUE", help="An option of the data set, e.g. --set size=128.")
]
DatasetArgument = Annotated[str, typer.Argument(metavar="NAME", help="A data set's name (see `pliant data list`).")]


def _status_row(found: Status) -> dict[str, Any]:
    return {**dataclasses.asdict(found), "missing": list(found.missing), "different": list(found.different)}


@app.command("list")
def data_list(as_json: Json = False) -> None:
    """Show each data set: whether it is here, complete and the official one. Reads every file that has a checksum."""
    from pliant.lab import datasets
    from pliant.lab.datasets import files, inventory

    found = [inventory.status(dataset) for dataset in datasets.ALL.values()]
    if as_json:
        print(json.dumps({"folder": str(files.root()), "datasets": [_status_row(s) for s in found]}, indent=1))
        return
    words = {"bundled": "comes with a package", "own": "your own", "complete": "complete", "absent": "[dim]-[/]"}
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("name", "here", "size", "checksums", "source"):
        table.add_column(column, overflow="fold")
    for s in found:
        here = words.get(s.state, f"{s.here} of {s.files} files")
        stopped = f", {size(s.unfinished)} of a download" if s.unfinished else ""
        table.add_row(s.name, here + stopped, size(s.bytes) if s.here else "", plain(s.checksums), plain(s.source))
    console = make_console()
    console.print(table)
    console.print(f"Folder: {plain(str(files.root()))} (environment variable {files.VARIABLE})", style="dim")


@app.command("check")
def data_check(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Data sets; default all that are here.")
    ] = None,
    options: Options = None,
    as_json: Json = False,
) -> None:
    """Verify every file of data sets and read them; exit code 1 where one is missing, not official or cannot be read."""
    from pliant.lab import datasets
    from pliant.lab.datasets import inventory
    from pliant.lab.study import dataset_with

    chosen = [dataset_with(n, options or []) for n in names] if names else [(d, {}) for d in datasets.ALL.values()]
    pairs = [(inventory.status(dataset, given), dataset, given) for dataset, given in chosen]
    # Nobody needs every data set; one that was named, or that is there in part, is wanted.
    pairs = [(s, dataset, given) for s, dataset, given in pairs if names or s.here]
    found = [(s, *inventory.readable(dataset, s, given)) for s, dataset, given in pairs]
    if as_json:
        print(json.dumps([{**_status_row(s), "readable": good, "content": text} for s, good, text in found], indent=1))
    console = make_console()
    for s, readable, text in found if not as_json else ():
        good = readable and not s.missing and not s.different
        word = s.state if not s.files else f"{s.here} of {s.files} files, {s.checksums}"
        console.print(f"[{'green' if good else 'red'}]{plain(s.name)}[/]: {plain(word)}; {plain(text)}")
        for what, paths in (("missing", s.missing), ("not the official file", s.different)):
            for path in paths[:20]:
                console.print(f"  {what}: {plain(path)}")
            if len(paths) > 20:
                console.print(f"  {what}: {len(paths) - 20} more")
    if any(s.missing or s.different or not readable for s, readable, _ in found):
        raise typer.Exit(1)


@app.command("fetch")
def data_fetch(name: DatasetArgument, options: Options = None) -> None:
    """Download what a data set lacks from its official source; a download that was stopped goes on."""
    from pliant.lab.datasets import inventory
    from pliant.lab.datasets.files import Download, Progress
    from pliant.lab.study import dataset_with

    dataset, given = dataset_with(name, options or [])
    console = make_console()
    columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), bars.DownloadColumn(), bars.TransferSpeedColumn())
    try:
        with bars.Progress(*columns, bars.TimeRemainingColumn(), console=console) as shown:

            def progress(download: Download) -> Progress:
                task = shown.add_task(plain(download.url.rpartition("/")[2]), total=None)
                return lambda done, total: shown.update(task, completed=done, total=total)

            found = inventory.fetch(dataset, progress, given)
    except KeyboardInterrupt:
        print("\npliant: stopped. What was downloaded is kept; the same command goes on from here.", file=sys.stderr)
        raise typer.Exit(130) from None
    console.print(
        f"{plain(name)}: {found.state}" + (f", {found.checksums}." if found.files else "; there is nothing to fetch.")
    )


@app.command("subset")
def data_subset(
    name: DatasetArgument,
    target: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to; use it as PLIANT_DATA afterwards.")],
    per_class: Annotated[int, typer.Option(help="Examples of each class, from each official part.")],
    seed: Annotated[int, typer.Option(help="Which ones.")] = 0,
    options: Options = None,
) -> None:
    """Write a class-balanced part of a data set, in the same format."""
    from pliant.lab.datasets import inventory
    from pliant.lab.study import dataset_with

    dataset, given = dataset_with(name, options or [])
    folder = inventory.subset(dataset, target, per_class, seed, given)
    make_console().print(
        f"Written to {plain(str(folder))}. To use it: PLIANT_DATA={plain(shlex.quote(str(target)))}, and the option official "
        "= false, since these are not the official files."
    )
