"""Whole papers at one tier: which studies that takes, what came of each, and the page that shows it all."""

from __future__ import annotations

import functools
import math
import os
import platform
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, get_args

from pliant import catalog
from pliant.errors import PliantError, unknown
from pliant.lab import papers
from pliant.lab.claims import Answer, Known, settle, size_of
from pliant.lab.evidence import Evidence, Tier
from pliant.lab.papers import PAPERS, Group, PrintedValue
from pliant.lab.report import reproduction as page
from pliant.lab.report.reproduction import (
    ClaimRow,
    Curve,
    Drawing,
    Fate,
    Member,
    Number,
    Ours,
    Paper,
    Part,
    Reproduction,
    Summary,
)
from pliant.lab.report.wording import counted, listed
from pliant.lab.shapes import shape
from pliant.lab.study import Study
from pliant.lab.verdict import Estimate
from pliant.schedules import Logistic

__all__ = ["Task", "page_of", "tasks", "write"]

COLUMNS = ("test_accuracy", "test_precision", "test_recall", "test_f1")
"""What a study shows where its paper prints nothing."""


@dataclass(frozen=True)
class Task:
    """A study that a reproduction takes. ``study``: None where it cannot be run at this tier at all; ``why`` says why."""

    name: str
    study: Study | None
    why: str = ""

    @property
    def trials(self) -> int:
        return size_of(self.study) if self.study is not None else 0


def tasks(chosen: Sequence[str], tier: str, only: Sequence[str] = ()) -> list[Task]:
    """The studies of papers at a tier, each once, in the order of the papers.

    Args:
        chosen: names of papers. only: names of groups (a table, a figure) or studies; empty for all.

    Raises:
        UnknownNameError: a paper, tier, group or study that does not exist.
    """
    if tier not in get_args(Tier):
        raise unknown("tier", tier, get_args(Tier))
    for name in chosen:
        if name not in PAPERS:
            raise unknown("paper", name, PAPERS)
    names = [n for n, s in papers.studies().items() if s.paper in chosen]
    if only:
        wanted = {member for name in only for member in papers.members(name)}
        names = [n for n in names if n in wanted]
        if not names:
            raise PliantError(
                f"--only {' '.join(only)} leaves no study of {listed(chosen)}. `pliant list studies` shows which tables and "
                "figures belong to which paper."
            )
    return [_task(name, tier) for name in names]


def _task(name: str, tier: str) -> Task:
    sizes = papers.tiers(name)
    if tier not in sizes:
        return Task(name, None, f"it has no {tier} tier, only {listed(sizes)}")
    return Task(name, papers.study(name, tier))


def write(
    chosen: Sequence[str], tier: Tier, known: Known, target: Path, *, command: str, skipped: Mapping[str, str] = {}
) -> Path:
    """Write the page of papers at a tier from what is known, and give its path.

    Args:
        target: where to, for example ``<store>/reproduce/<papers>.<tier>/index.html``; the studies' own reports are linked
            where they lie. command: what makes the page again. skipped: studies that could not be run just now, and why.
    """
    return page.build(page_of(chosen, tier, known, target, command=command, skipped=skipped), target)


def page_of(
    chosen: Sequence[str], tier: Tier, known: Known, target: Path, *, command: str, skipped: Mapping[str, str] = {}
) -> Reproduction:
    """What the page shows, as plain data; see :func:`write`."""
    desk = _Desk(tier, known, target, skipped)
    return Reproduction(
        papers=tuple(desk.paper(name) for name in chosen),
        tier=tier,
        tier_words=papers.TIERS[tier],
        command=command,
        environment={
            "Pliant": metadata.version("pliant"),
            "Page written on": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        },
    )


class _Desk:
    def __init__(self, tier: Tier, known: Known, target: Path, skipped: Mapping[str, str]) -> None:
        self.tier = tier
        self.known = known
        self.folder = target.parent
        self.skipped = skipped

    def paper(self, name: str) -> Paper:
        about = papers.context(next(s for s in papers.studies().values() if s.paper == name)).paper or {}
        return Paper(
            name,
            str(about.get("title") or name),
            about,
            tuple(self.part(group) for group in papers.groups().values() if group.paper == name),
            tuple(self.claim(settle(claim, self.known, self.tier)) for claim in papers.claims(name)),
            tuple(
                {"id": d.id, "as_written": d.as_written, "as_released": d.as_released, "here": d.here}
                for d in papers.deviations(name)
            ),
        )

    def part(self, group: Group) -> Part:
        numbers = self.numbers(papers.printed(group.printed)) if _has_numbers(group) else ()
        return Part(
            group.name,
            group.title,
            group.shows,
            members=tuple(self.member(name) for name in group.studies),
            numbers=numbers,
            told=tuple(_told(group)),
            summaries=()
            if numbers or group.figures
            else tuple(s for name in group.studies if (s := self.summary(name)) is not None),
            drawings=tuple(self.drawings(group)),
        )

    def member(self, name: str) -> Member:
        task = _task(name, self.tier)
        if task.study is None:
            return Member(name, name, 0, 0, "", why=task.why)
        found = self.known.at(name, self.tier)
        if found is None:
            why = (
                self.skipped.get(name)
                or f"no result yet; pliant run {name} --tier {self.tier} ({counted(task.trials, 'trial')})"
            )
            if (changed := self.known.changed(name, self.tier)) is not None:
                why += (
                    f". Recorded at {changed.size} ({changed.directory}, {counted(changed.scored, 'row')}): {_words(changed)}"
                )
            return Member(name, task.study.title or name, task.trials, 0, "", why=why)
        # The tier is said once, at the top of the page.
        remarks = tuple(r for r in found.remarks if not r.startswith(f"Tier {self.tier}:"))
        return Member(
            name,
            found.title,
            len(found.rows),
            found.scored,
            found.origin,
            self.link(found),
            words=_words(found),
            remarks=remarks,
        )

    def link(self, found: Evidence) -> str:
        """The study's own report, if it lies where the page can point at it."""
        store = self.known.store
        if store is None or found.origin != "store":
            return ""
        report = store.root / "studies" / found.directory / "report.html"
        if not report.is_file():
            return ""
        return Path(os.path.relpath(report, self.folder.absolute())).as_posix()

    # Numbers

    def numbers(self, values: Iterable[PrintedValue]) -> tuple[Number, ...]:
        rows: dict[tuple[str, ...], list[PrintedValue]] = defaultdict(list)
        for v in values:
            rows[v.dataset, v.model, v.optimizer, v.task, v.activation, v.split, v.metric].append(v)
        return tuple(self.number(found) for found in rows.values())

    def number(self, found: Sequence[PrintedValue]) -> Number:
        first = found[0]
        texts = tuple(_as_printed(v) for v in found if v.value is not None)
        notes = []
        if first.std is not None:
            notes.append(f"± {first.std:g} as printed, meaning not stated")
        if first.log_minus_paper:
            notes.append(f"the log is {first.log_minus_paper:+g} s off the printed number")
        if len(found) > 1:
            notes.append("the rows are epochs of one run" + _epochs(found))
        released = [v.value_from_log if v.value_from_log is not None else v.value_full_precision for v in found]
        return Number(
            what=f"{first.activation}, {first.split} {first.metric.replace('_', ' ')}",
            where=", ".join(x for x in (first.dataset, first.model, first.optimizer) if x),
            printed=texts,
            values=tuple(v.value for v in found if v.value is not None),
            digits=max((len(t.partition(".")[2]) for t in texts), default=0),
            released=tuple(r for r in released if r is not None),
            ours=tuple(self.ours(i, cell.study, cell.activation, cell.metric) for i, cell in enumerate(papers.places(first))),
            runs=1 if len(found) > 1 else None,
            unit="s" if "seconds" in first.metric else "",
            note="; ".join(notes),
        )

    def ours(self, i: int, name: str, activation: str, column: str) -> Ours:
        variant = "as released" if name.endswith("-released") else "as written" if i == 0 else "variant"
        spec = str(catalog.parse(activation))
        found = self.known.at(name, self.tier)
        if found is None:
            return Ours(variant, name, spec, column, None, "not run")
        estimate: Estimate | None = found.estimate(spec, column)
        why = "" if estimate else f"not in this tier's {'activations' if spec not in found.activations else 'rows'}"
        return Ours(variant, name, spec, column, estimate, why)

    def summary(self, name: str) -> Summary | None:
        found = self.known.at(name, self.tier)
        if found is None:
            return None
        own = f"test_{found.metric}"
        columns = tuple(c for c in dict.fromkeys([own, *COLUMNS]) if any(row.get(c) is not None for row in found.rows))
        words = {found.baseline: "baseline"} | {c.activation: str(c.word) for c in found.own.comparisons}
        rows = tuple(
            (found.labels.get(a, a), tuple(found.estimate(a, c) for c in columns), words.get(a, "")) for a in found.activations
        )
        return Summary(name, found.title, columns, rows)

    # Figures

    def drawings(self, group: Group) -> Iterable[Drawing]:
        if group.released is not None:
            yield Drawing(f"{group.released}, one run an activation", "released", page.chart(_released(group.released)))
        if group.functions:
            yield Drawing("By the formulas", "ours", page.chart(_functions(group.functions), "Input"))
        if group.slopes is not None:
            yield Drawing("By the formula", "ours", page.chart(_slopes(**group.slopes), "Progress t"))
        for id_ in group.figures:
            for name in group.studies:
                found = self.known.at(name, self.tier)
                if found is not None:
                    yield self.drawing(found, id_)

    def drawing(self, found: Evidence, id_: str) -> Drawing:
        title = f"{found.title}: {id_}"
        if found.origin == "record":
            path = found.path / "figures" / f"{id_}.svg" if found.path is not None else None
        else:
            assert self.known.store is not None
            names: Mapping[str, Any] = papers.context(papers.study(found.name, found.tier)).names
            path = self.known.store.root / "studies" / found.directory / "figures" / f"{names.get(id_, id_)}.svg"
        if path is None or not path.is_file():
            return Drawing(title, "ours", "", f"{title}: its report holds no such figure.")
        return Drawing(title, "ours", path.read_text(encoding="utf-8"))

    # Claims

    def claim(self, answer: Answer) -> ClaimRow:
        claim = answer.claim
        fates = []
        for finding in answer.findings:
            rest = f" {counted(finding.unfinished, 'row')} of the study without a result." if finding.unfinished else ""
            changed = f" Changed: {', '.join(finding.changes)}." if finding.changes else ""
            told = f"{finding.sentence} ({finding.verdict or 'no verdict'}; {finding.directory}).{rest}{changed}"
            found = self.known.at(finding.study, finding.tier) if not finding.changes else None
            fates.append(Fate(finding.word, finding.brief, told, self.link(found) if found is not None else ""))
        state = {"settled": claim.settled or "", "open": "open", "not run": "not run"}.get(answer.state, "")
        said = {"settled": f"By algebra or a test, {claim.settled_by}. {claim.experiment}", "decided": ""}
        text = " ".join(filter(None, (said.get(answer.state, claim.experiment), *answer.notes)))
        command = f"{answer.command} ({answer.cost})" if answer.command and len(fates) < max(1, answer.tests) else ""
        return ClaimRow(claim.number, claim.title, claim.evidence_status, claim.evidence, tuple(fates), state, text, command)


def _words(found: Evidence) -> str:
    given = [c.word for c in found.own.comparisons]
    if not given:
        return ""
    words = listed([f"{given.count(w)} {w.lower()}" for w in dict.fromkeys(given)])
    return f"against {found.labels.get(found.baseline, found.baseline)} on {found.metric.replace('_', ' ')}: {words}"


def _released(dataset: str) -> list[Curve]:
    """Accuracy, F1 and AUC of the released logs on one data set."""
    found: list[Curve] = []
    epochs = [e for e in papers.released_epochs() if e.dataset == dataset]
    for panel, column in (("Accuracy", "acc"), ("Weighted F1", "f1_weighted"), ("AUC", "auc_ovr_macro")):
        for label in dict.fromkeys(e.activation for e in epochs):
            log = [e for e in epochs if e.activation == label]
            for part, prefix in (("train", "train"), ("validation", "val")):
                found.append(Curve(panel, label, part, tuple(getattr(e, f"{prefix}_{column}") for e in log)))
    return found


def _functions(specs: Sequence[str]) -> list[Curve]:
    """The curve of each activation as it starts, a panel for each function."""
    found = []
    for spec in specs:
        parsed = catalog.parse(spec)
        drawn = shape(spec, parsed.label, functools.partial(catalog.create, spec), ())
        if drawn is not None:
            start = drawn.stages[0]
            own = parsed.label.removeprefix(parsed.entry.display).strip("()") or parsed.label
            found.append(Curve(parsed.entry.display, own, "", tuple(start.value), tuple(start.x)))
    return found


def _slopes(a: float, b: float, k: Sequence[float]) -> list[Curve]:
    """The slope of DSReLU from tan a to tan b, in degrees, for several k."""
    t = tuple(i / 100 for i in range(101))
    start, end = (math.tan(math.radians(angle)) for angle in (a, b))
    panel = f"a = tan {a:g}°, b = tan {b:g}°"
    return [Curve(panel, f"k = {n:g}", "", tuple(map(Logistic(start, end, n), t)), t) for n in k]


def _has_numbers(group: Group) -> bool:
    return group.printed is not None and any(v.table == group.printed for v in papers.printed())


def _told(group: Group) -> Iterable[Mapping[str, object]]:
    if group.printed is None:
        return
    seen: dict[str, Mapping[str, object]] = {}
    for name in group.studies:
        for entry in papers.context(papers.study(name)).printed:
            if not str(entry["what"]).startswith("Table "):
                seen.setdefault(str(entry["what"]), entry)
    yield from seen.values()


def _as_printed(value: PrintedValue) -> str:
    text = (value.raw or repr(value.value)).partition("±")[0].strip(" $")
    return text or repr(value.value)


def _epochs(found: Sequence[PrintedValue]) -> str:
    epochs = [str(v.epoch_in_log) for v in found if v.epoch_in_log is not None]
    return f": {', '.join(epochs)}" if epochs else ""
