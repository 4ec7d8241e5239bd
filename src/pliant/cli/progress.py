"""What is shown while a study runs: a bar with the trials under way on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pliant.cli.console import duration, plain, roughly

if TYPE_CHECKING:
    from pliant.lab import Study
    from pliant.lab.executors import Event
    from pliant.lab.status import Pace
    from pliant.lab.study import TrialSpec

SHOWN = 8
"""Trials under way that are shown one by one; a machine with a hundred cores would fill the screen."""


def place(label: str, repeat: int, fold: int, lr: float | None = None) -> str:
    return f"{label}, repeat {repeat}, fold {fold}" + (f", lr {lr:g}" if lr is not None else "")


def left(seconds: float | None, certain: bool) -> str:
    """The time left in words that claim no more than is known."""
    if seconds is None:
        return "time left not known yet"
    return f"{'' if certain else 'at most '}about {roughly(seconds)} left"


def bar(finished: int, total: int, words: str, console: Console) -> RenderableType:
    if not console.is_terminal:
        return Text(words)
    line = Table.grid(padding=(0, 2))
    line.add_column(width=20)
    line.add_column()
    line.add_row(ProgressBar(total=max(1, total), completed=finished), Text(words))
    return line


def trials_under_way(rows: Iterable[tuple[str, int, int, float | None]]) -> RenderableType:
    """A line for each (place, epoch, epochs, validation accuracy)."""
    listed = list(rows)
    table = Table.grid(padding=(0, 2))
    table.add_column(overflow="fold")
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    for where, epoch, epochs, accuracy in listed[:SHOWN]:
        score = "" if accuracy is None else f"validation {100 * accuracy:.2f}"
        table.add_row(Text(f"  {where}"), Text(f"epoch {epoch} of {epochs}" if epoch else "first epoch"), Text(score))
    if len(listed) > SHOWN:
        table.add_row(Text(f"  and {len(listed) - SHOWN} more"))
    return table


@dataclass
class _Course:
    """A trial under way, as its events tell it. ``first``: the first epoch of this run, which ended at ``first_told``."""

    began: float
    epochs: int
    epoch: int = 0
    first: int = 0
    first_told: float = 0.0
    told: float = 0.0
    accuracy: float | None = None

    def pace(self, now: float) -> Pace:
        from pliant.lab.status import Pace

        # The first epoch reads the data and warms up: alone it would promise days for what takes minutes.
        more = self.epoch - self.first
        each = (self.told - self.first_told) / more if more > 0 else None
        return Pace(self.epoch, self.epochs, now - self.began + max(0, self.first - 1) * (each or 0.0), each)


class Display:
    """Hears a run, see :class:`pliant.lab.run.Progress`."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.waiting = 0
        self.seconds = 0.0
        self._settled = 0
        self._failed = 0
        self._diverged = 0
        self._resumed = 0
        self._began = 0.0
        self._told = 0.0
        self._took: list[float] = []
        self._courses: dict[str, tuple[TrialSpec, _Course]] = {}
        self._labels: dict[str, str] = {}
        self._grid = False
        self._live: Live | None = None

    def planned(self, study: Study, trials: Sequence[TrialSpec], waiting: Sequence[TrialSpec]) -> None:
        self.waiting, self._labels, self._grid = len(waiting), study.labels, bool(study.train.lr_grid)
        self._began = self._told = time.monotonic()
        self.console.print(f"[bold]{plain(study.heading)}[/]")
        if study.question:
            self.console.print(plain(study.question))
        if study.overrides:
            self.console.print(f"Changed: {plain(' '.join(study.overrides))}", style="dim")
        if not waiting:
            return
        done = len(trials) - len(waiting)
        self.console.print(f"{len(waiting)} of {len(trials)} trials to train" + (f", {done} done before." if done else "."))
        if self.console.is_terminal:
            self._live = Live(get_renderable=self._render, console=self.console, refresh_per_second=4, transient=True)
            self._live.start()

    def event(self, event: Event, trial: TrialSpec) -> None:
        now = time.monotonic()
        if event.kind == "started":
            self._courses[event.key] = (trial, _Course(now, trial.train.epochs))
        elif event.kind == "progress" and "busy" in event.data:
            self._courses.pop(event.key, None)
        elif event.kind == "progress" and event.key in self._courses:
            course = self._courses[event.key][1]
            if not course.epoch:
                course.first, course.first_told = int(event.data["epoch"]), now
            course.epoch, course.told = int(event.data["epoch"]), now
            # Of a detector the average precision, which no object in the validation part leaves undefined.
            score = event.data.get("validation_accuracy", event.data.get("validation_ap"))
            course.accuracy = score if score is not None and math.isfinite(score) else None
        elif event.kind == "retrying":
            self._courses.pop(event.key, None)
        elif event.kind in ("finished", "failed"):
            self._settle(event, now)
        where = self._place(trial)
        if event.kind in ("retrying", "failed"):
            self.console.print(f"[red]{event.kind}:[/] {plain(where)}: {plain(event.message)}")
        if event.kind == "finished" and event.data.get("diverged"):
            self._diverged += 1
            self.console.print(f"[yellow]diverged:[/] {plain(where)}; it counts as a result.")
        # Seldom in the long run: a log is read afterwards, and by people.
        if self._live is None and now - self._told > min(60.0, max(15.0, (now - self._began) / 10)):
            self._told = now
            self.console.print(f"{self._counts()}; {self._times(now)}", soft_wrap=True, markup=False)

    def _settle(self, event: Event, now: float) -> None:
        self._settled += 1
        self._failed += event.kind == "failed"
        _, course = self._courses.pop(event.key, (None, None))
        # A trial that went on from a checkpoint, or that another driver finished, says nothing about the next one.
        if course is not None and event.kind == "finished" and course.first == 1:
            self._took.append(now - course.began)
        self._resumed += course is not None and course.first > 1

    def _place(self, trial: TrialSpec) -> str:
        label = self._labels.get(trial.activation, trial.activation)
        return place(label, trial.repeat, trial.fold, trial.train.optimizer.lr if self._grid else None)

    def _counts(self) -> str:
        words = f"{self._settled} of {self.waiting} trials"
        words += f", {self._diverged} diverged" if self._diverged else ""
        return words + (f", {self._failed} failed" if self._failed else "")

    def _times(self, now: float) -> str:
        from pliant.lab.status import seconds_left

        paces = [course.pace(now) for _, course in self._courses.values()]
        seconds = seconds_left(self._took, paces, self.waiting - self._settled - len(paces))
        return f"{duration(now - self._began)} so far, {left(seconds, bool(self._took))}"

    def _render(self) -> RenderableType:
        rows = [(self._place(t), c.epoch, c.epochs, c.accuracy) for t, c in list(self._courses.values())]
        times = Text(self._times(time.monotonic()), style="dim")
        return Group(bar(self._settled, self.waiting, self._counts(), self.console), times, trials_under_way(rows))

    def finished(self) -> None:
        self.seconds = time.monotonic() - self._began
        if self._live is not None:
            self._live.stop()
        if self.waiting:
            went_on = f" {self._resumed} of them went on from a checkpoint." if self._resumed else ""
            self.console.print(f"{self._settled} trials trained in {duration(self.seconds)}.{went_on}", style="dim")
