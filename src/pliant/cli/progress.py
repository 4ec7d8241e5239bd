"""What is shown while a study runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import progress as bars
from rich.console import Console

from pliant.cli.console import duration, plain

if TYPE_CHECKING:
    from pliant.lab import Study
    from pliant.lab.executors import Event
    from pliant.lab.study import TrialSpec


class Display:
    """Live progress of a run: a bar with the time left on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.waiting = 0
        self._settled = 0
        self._began = 0.0
        self._told = 0.0
        self._share: dict[str, float] = {}
        self._labels: dict[str, str] = {}
        self._bar: bars.Progress | None = None
        self._task: bars.TaskID | None = None

    def planned(self, study: Study, trials: Sequence[TrialSpec], waiting: Sequence[TrialSpec]) -> None:
        self.waiting, self._labels, self._began = len(waiting), study.labels, time.monotonic()
        self._told = self._began
        self.console.print(f"[bold]{plain(study.title or study.name)}[/]  {plain(study.question)}")
        if study.overrides:
            self.console.print(f"Changed: {plain(' '.join(study.overrides))}", style="dim")
        if not waiting:
            return
        done = len(trials) - len(waiting)
        self.console.print(f"{len(waiting)} of {len(trials)} trials to train" + (f", {done} done before." if done else "."))
        if self.console.is_terminal:
            self._bar = bars.Progress(
                bars.BarColumn(),
                bars.MofNCompleteColumn(),
                bars.TimeElapsedColumn(),
                bars.TextColumn("{task.fields[note]}"),
                console=self.console,
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=len(waiting), note="")

    def event(self, event: Event, trial: TrialSpec) -> None:
        label = f"{self._labels.get(trial.activation, trial.activation)}, repeat {trial.repeat}, fold {trial.fold}"
        if event.kind == "progress":
            self._share[event.key] = event.data["epoch"] / event.data["epochs"]
        elif event.kind in ("finished", "failed"):
            self._share.pop(event.key, None)
            self._settled += 1
        if event.kind in ("retrying", "failed"):
            self.console.print(f"[red]{event.kind}:[/] {plain(label)}: {plain(event.message)}")
        self._tell(label)

    def _tell(self, label: str) -> None:
        now = time.monotonic()
        equivalent = self._settled + sum(self._share.values())
        elapsed = now - self._began
        left = f"about {duration(elapsed / equivalent * (self.waiting - equivalent))} left" if equivalent > 0.5 else ""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._settled, note=plain(f"{left}  {label}"))
        elif now - self._told > 15:
            self._told = now
            self.console.print(f"{self._settled} of {self.waiting} trials after {duration(elapsed)}, {left}")

    def finished(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self.waiting:
            self.console.print(f"{self._settled} trials trained in {duration(time.monotonic() - self._began)}.", style="dim")
