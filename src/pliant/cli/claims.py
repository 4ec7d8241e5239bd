"""``pliant claims``: each claim of a paper, the paper's own evidence for it, and what our experiments say."""

from __future__ import annotations

import dataclasses
import json
import math
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from pliant.cli.console import make_console, plain
from pliant.cli.options import DEFAULT_STORE, Json, StoreOption

if TYPE_CHECKING:
    from pliant.lab.claims import Answer, Known

WIDTH = 100
STYLES = {"SUPPORTED": "green", "REFUTED": "red", "UNDECIDED": "yellow"}

RecordsOption = Annotated[
    Path | None,
    typer.Option(
        "--records", help="A folder of records, for what the store has not; default: records/ here or in the repository."
    ),
]


def claims(
    paper: Annotated[str, typer.Argument(metavar="PAPER", help="dsrelu, srelu, aaf, or all for what is about all three.")],
    store: StoreOption = DEFAULT_STORE,
    recorded: RecordsOption = None,
    as_json: Json = False,
) -> None:
    """Say for each claim of a paper what its own evidence is, what our experiment found, and what would settle the rest.

    A verdict always names its tier: one of a reduced tier never stands for the claim at the paper's own size.
    """
    from pliant.lab import papers
    from pliant.lab.claims import settle

    chosen = papers.claims(paper)
    known = known_of(store, recorded)
    answers = [settle(claim, known) for claim in chosen]
    if as_json:
        print(json.dumps([_plain(answer) for answer in answers], indent=1, ensure_ascii=False))
        return
    show(answers, paper, make_console())


def known_of(store: Path, recorded: Path | None) -> Known:
    """What a store and a folder of records hold; neither has to exist, unless the user named the records."""
    from pliant.lab.claims import Known
    from pliant.lab.records import RecordError
    from pliant.lab.store import Store

    if recorded is not None and not recorded.is_dir():
        raise RecordError(f"There is no folder of records at {recorded}. `pliant record STUDY --into {recorded}` makes one.")
    return Known(Store(store, create=False) if store.exists() else None, recorded or records_folder())


def records_folder() -> Path | None:
    """``records/`` here, else that of the repository this runs from; None in an installation without one."""
    places = [Path("records"), Path(__file__).parents[3] / "records"]
    return next((p for p in places if p.is_dir()), None)


def show(answers: Sequence[Answer], paper: str, console: Console) -> None:
    """Print the answers, at most 100 columns wide."""
    from pliant.lab.claims import DECIDED, tally
    from pliant.lab.papers import EVIDENCE

    width = min(WIDTH, console.width)
    console.print(f"[bold]{len(answers)} claims: {plain(paper)}[/]\n")
    for text in (
        "paper: what the paper's own numbers say. " + "; ".join(f"{k} {v}" for k, v in EVIDENCE.items()) + ".",
        "ours: what our experiments say. " + "; ".join(f"{k} {v}" for k, v in DECIDED.items()) + ".",
    ):
        console.print("\n".join(textwrap.wrap(text, width)), style="dim")
    for answer in answers:
        console.print()
        for line in _lines(answer, width):
            console.print(line)
    console.print()
    for told, n in tally(answers):
        console.print(f"{n:3d}  {plain(told)}")


def _lines(answer: Answer, width: int) -> Iterator[str]:
    claim = answer.claim
    yield from _wrapped(f"{claim.number:3d}  ", claim.title, width, style="bold")
    yield from _part("paper", claim.evidence_status, claim.evidence, width)
    told_before: set[tuple[str, ...]] = set()
    for i, finding in enumerate(answer.findings):
        # What was changed is long, and said once for a claim.
        label = finding.brief if finding.changes in told_before else finding.label
        told_before.add(finding.changes)
        source = f"{finding.verdict or 'no verdict'}; {finding.directory}, from the {finding.origin}"
        rest = f" {finding.unfinished} trials of it have no result." if finding.unfinished else ""
        told = f"{finding.sentence} [{source}]{rest}"
        yield from _part("" if i else "ours", label, told, width, STYLES[finding.word])
    if answer.state == "settled":
        yield from _part("ours", claim.settled or "", f"by algebra or a test, {claim.settled_by}. {claim.experiment}", width)
    elif answer.state == "not run":
        yield from _part("ours", "not run", claim.experiment, width, "yellow")
    elif answer.state == "open":
        yield from _part("ours", "open", claim.experiment, width, "yellow")
        if answer.rows:
            told = ", ".join(f"{name} ({size}; {origin})" for name, size, origin in answer.rows)
            yield from _part("rows", "", told, width)
    for note in answer.notes:
        yield from _part("", "", note, width)
    if answer.command:
        yield from _part("run", "", f"{answer.command}  ({answer.cost})", width)


def _part(head: str, word: str, text: str, width: int, style: str = "") -> Iterator[str]:
    lead = f"     {head:<6} "
    if not word:
        yield from _wrapped(lead, text, width)
        return
    lines = list(_wrapped(lead, f"{word}: {text}" if text else word, width))
    # What was changed of a study may take more than the line.
    shown = plain(word) if plain(word) in lines[0] else word.partition(" ")[0]
    first = lines[0].replace(shown, f"[{style or 'bold'}]{shown}[/]", 1)
    yield from [first, *lines[1:]]


def _wrapped(lead: str, text: str, width: int, style: str = "") -> Iterator[str]:
    lines = textwrap.wrap(text, width - len(lead), break_long_words=False, break_on_hyphens=False) or [""]
    for i, line in enumerate(lines):
        shown = f"[{style}]{plain(line)}[/]" if style else plain(line)
        yield (lead if i == 0 else " " * len(lead)) + shown


def _plain(answer: Answer) -> dict[str, Any]:
    values = dataclasses.asdict(answer)
    findings = [_numbers(finding) for finding in values.pop("findings")]
    tests = values.pop("tests")
    told = {"command": answer.command, "cost": answer.cost, "lacking": answer.lacking}
    return {**values.pop("claim"), **values, **told, "studies_tested": tests, "findings": findings}


def _numbers(finding: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in finding.items()}
