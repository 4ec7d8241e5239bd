"""``pliant bench``: what activations cost."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pliant.cli.console import make_console, plain
from pliant.cli.options import Json


def bench(
    activations: Annotated[
        list[str] | None, typer.Argument(metavar="[ACTIVATION]...", help="What to measure; all if nothing is named.")
    ] = None,
    size: Annotated[
        list[str] | None, typer.Option(help="small, medium, large or ROWSxCOLUMNS; may be given often. All three if not given.")
    ] = None,
    dtype: Annotated[
        list[str] | None, typer.Option(help="float32, bfloat16, float64; may be given often. The first two if not given.")
    ] = None,
    network: Annotated[
        list[str] | None, typer.Option(help="Whose training steps to measure; may be given often. All if not given.")
    ] = None,
    kernels: Annotated[bool, typer.Option("--kernels/--no-kernels", help="Measure the activations alone.")] = True,
    steps: Annotated[bool, typer.Option("--steps/--no-steps", help="Measure whole training steps.")] = True,
    compiled: Annotated[bool, typer.Option("--compile/--no-compile", help="Also under torch.compile; takes minutes.")] = False,
    seconds: Annotated[float, typer.Option(help="Time for the rounds of each case.")] = 3.0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="Threads of torch on the CPU.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="The file of the results; benchmarks/results/DEVICE.json if not given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure what activations cost, against torch's own, the naive form and torch.compile.

    All contestants take turns in one process, and what is shown is the ratio of their times: below 1 is faster. What computes
    something else than the readable version in float64 gets no ratio, and the exit code is then 1.
    """
    from pliant import bench as lab

    options = lab.Options(
        activations=tuple(activations or ()),
        sizes=tuple(size or ()),
        dtypes=tuple(dtype or ()),
        networks=tuple(network or ()),
        kernels=kernels,
        steps=steps,
        compiled=compiled,
        seconds=seconds,
        device=device,
        threads=threads,
    )
    notes = Console(stderr=True, highlight=False)
    result = lab.run(
        options, command=_command(sys.argv[1:]), tell=lambda text: notes.print(f"[dim]{plain(text)}[/]", soft_wrap=True)
    )
    path = out or Path("benchmarks", "results", f"{result['device']}.json")
    lab.write(result, path)
    if as_json:
        print(json.dumps(result, indent=1))
    else:
        _show(result, make_console())
        make_console().print(f"\nWritten: {path}", soft_wrap=True)
    if not result["complete"]:
        print("pliant: stopped. What was measured is kept.", file=sys.stderr)
        raise typer.Exit(130)
    if lab.disagreements(result):
        raise typer.Exit(1)


def _command(given: Sequence[str]) -> str:
    """As typed, without the file: it changes no number and is a path of this machine."""
    words = [w for i, w in enumerate(given) if not w.startswith("--out=") and "--out" not in given[max(0, i - 1) : i + 1]]
    return shlex.join(["pliant", *words])


def _show(result: dict[str, Any], console: Console) -> None:
    e = result["environment"]
    console.print(f"\n[bold]{plain(e.get('gpu') or e['cpu'])}[/], {e['threads']} threads, torch {e['torch']}, {result['date']}")
    console.print(
        "Time as a ratio, forward + backward or a whole training step: median of the rounds, [10 %, 90 %]. Below 1 is faster "
        "than what it is compared with. Saved: bytes an element that are kept for the backward pass; "
        "copy: speed forward and backward in per cent of a copy's.",
        style="dim",
    )
    table = Table(header_style="bold", box=None, pad_edge=False)
    for column in ("what", "at", "compared with", "ratio", "target", "saved", "copy"):
        table.add_column(column, justify="right" if column in ("ratio", "saved", "copy") else "left", overflow="fold")
    for record in [*result["kernels"], *result["steps"]]:
        for row in _rows(record, result["targets"]):
            table.add_row(*row)
    console.print(table)
    for record in result["compilation"]:
        if "skipped" not in record and (record["programs"] != 1 or record["graph_breaks"]):
            console.print(
                f"[yellow]torch.compile:[/] {record['activation']}: {record['programs']} programs and {record['graph_breaks']} "
                f"graph breaks in {record['steps']} steps; expected 1 and 0."
            )
    from pliant.bench import restless

    if count := restless(result):
        console.print(
            f'[yellow]note:[/] in {count} races torch\'s own came out more than 5 % from itself (the lines with "again"): the '
            "machine was busy. Give the bench more --seconds, or the machine to itself."
        )


def _rows(record: dict[str, Any], targets: list[dict[str, Any]]) -> Iterator[list[str]]:
    """A line for each thing that the contestants of a race are compared with."""
    step = "network" in record
    where = record["network"] if step else record["size"]
    at = f"step of {where}" if step else f"{where} {record['dtype']}"
    at += ", kept memory" if record.get("memory") == "kept" else ""
    if "skipped" in record:
        yield [plain(record.get("activation", "")), plain(at), f"[dim]not measured: {plain(record['skipped'])}[/]"]
    for c in record.get("contestants", ()):
        if c["role"] == "torch":
            continue
        name = c["name"] if step or c["role"] == "control" else f"{record['activation']} {c['name'].removeprefix('pliant')}"
        name = name.removesuffix(" pliant").strip()
        if c["disagrees"]:
            bad = c["disagrees"]
            yield [
                plain(name),
                plain(at),
                f"[red]DISAGREES[/]: {bad['what']} {bad['difference']}, allowed {bad['tolerance']:g}",
            ]
            continue
        shown = c["ratio"] if c["role"] == "pliant" else dict([next(iter(c["ratio"].items()))])
        for other, ratios in shown.items():
            low, median, high = ratios["step" if step else "total"]
            target = next(
                (
                    t
                    for t in targets
                    if (t["subject"], t["where"], t["memory"], t["against"] + " compiled" * t["compiled"])
                    == (c.get("activation") or record["activation"], where, record.get("memory", "fresh"), other)
                    and record["dtype"] == "float32"
                    and c["name"].removesuffix(" compiled").endswith("pliant")
                    and t["compiled"] == (c["role"] == "compiled")
                ),
                None,
            )
            saved, share = c.get("saved_bytes"), c.get("share_of_copy")
            kept = saved["input"] + saved["other"] if saved else 0
            yield [
                plain(name),
                plain(at),
                plain(other),
                plain(f"{median:.2f} [{low:.2f}, {high:.2f}]"),
                _word(target),
                "" if saved is None else f"{kept:g}" if kept or not saved["output"] else "out",
                f"{100 * share['forward'][1]:.0f}, {100 * share['backward'][1]:.0f} %" if share else "",
            ]


def _word(target: dict[str, Any] | None) -> str:
    if target is None:
        return ""
    word = {True: "[green]met[/]", False: "[red]missed[/]", None: "[yellow]cannot tell[/]"}[target["met"]]
    return f"{'>=' if target['at_least'] else '<='} {target['bound']:.2f} {word}"
