"""From a study to its results: the trials without a result go to an executor, and come back through the store."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch

from pliant.lab import executors
from pliant.lab.executors import Event, Executor, Job
from pliant.lab.protocol import split
from pliant.lab.result import Result
from pliant.lab.status import TRIALS
from pliant.lab.store import Store, TrialBusyError
from pliant.lab.study import Custom, Study, TrialSpec, activation_factory, data_of, plan
from pliant.lab.train import build, train

__all__ = ["DEFAULT_STORE", "Progress", "run"]

DEFAULT_STORE = Path("pliant-store")
BUSY_WAIT = 1.0
"""Seconds between looks at trials that another driver is training."""


class Progress(Protocol):
    """Hears what a run does, in the thread that called :func:`run`."""

    def planned(self, study: Study, trials: Sequence[TrialSpec], waiting: Sequence[TrialSpec]) -> None:
        """Called once before anything runs. ``waiting`` are the trials without a result."""

    def event(self, event: Event, trial: TrialSpec) -> None:
        """Called for each event of the executor. The data of "finished" hold ``diverged``, 0 or 1; "progress" whose data hold
        ``busy`` says that another driver trains this trial, which will come again."""

    def finished(self) -> None:
        """Called once at the end, also when the run was interrupted."""


def run(
    study: Study,
    *,
    store: str | Path = DEFAULT_STORE,
    on: str | Executor = "serial",
    progress: Progress | None = None,
    checkpoint_every: float = 20.0,
) -> Result:
    """Train every trial of ``study`` that has no result yet, and give all results.

    Running the same study again does no work. Killed at any moment, it goes on where it was: finished trials stay, a trial
    that was being trained goes on from its last checkpoint with the same numbers as if nothing had happened.

    Args:
        study: what to compare.
        store: a directory, made if it is missing.
        on: an executor or its name: "serial", "local" (a process per core), "local:4". A study with functions of your own
            runs on "local" if they can be imported and the program has an ``if __name__ == "__main__":`` guard.
        progress: what is told about events.
        checkpoint_every: seconds between the checkpoints of a trial; 0 writes one each epoch.

    Raises:
        PliantError: the study, the data, the store or the executor cannot be used; the disk is full. What was finished stays.
    """
    executor = executors.create(on) if isinstance(on, str) else on
    trials = plan(study)
    # Tried once here, before anything is written, so that a mistake is one clear error and not one failure a trial.
    data = data_of(study.dataset, study.custom)
    split(trials[0], data)
    build(trials[0], data, study.custom)
    for spec in trials[: len(study.activations)]:
        activation_factory(spec, study.custom)()
    results = Store(Path(store))
    results.write_json(results.study(study.directory) / "study.json", study.model_dump(mode="json"))
    results.write_json(results.study(study.directory) / TRIALS, _listed(study, trials))
    by_key = {spec.key: spec for spec in trials}
    waiting = [spec for spec in trials if results.trial(spec.key).outcome() in ("missing", "failed")]
    if progress is not None:
        progress.planned(study, trials, waiting)

    busy: set[str] = set()

    def on_event(event: Event) -> None:
        if event.key in busy and event.kind != "failed":
            return
        if "busy" in event.data:
            busy.add(event.key)
        if event.kind == "failed":
            results.trial(event.key).fail(event.message, event.attempt)
        if event.kind == "finished":
            diverged = results.trial(event.key).outcome() == "diverged"
            event = replace(event, data={**event.data, "diverged": float(diverged)})
        if progress is not None:
            progress.event(event, by_key[event.key])

    work = functools.partial(run_trial, root=str(results.root), custom=study.custom, checkpoint_every=checkpoint_every)
    try:
        jobs = [Job(spec.key, spec.model_dump_json()) for spec in waiting]
        with results.driving(study.directory) if jobs else contextlib.nullcontext():
            while jobs:
                executor.run(jobs, work, on_event)
                # Another driver has these: wait for its results, or take over if it dies.
                jobs = [job for job in jobs if job.key in busy]
                busy.clear()
                if jobs:
                    time.sleep(BUSY_WAIT)
    finally:
        if progress is not None:
            progress.finished()
    return Result(study, results)


def _listed(study: Study, trials: Sequence[TrialSpec]) -> list[dict[str, Any]]:
    """The plan as those see it who have the store and not the study's data or code, see :mod:`pliant.lab.status`."""
    labels, rates = study.labels, bool(study.train.lr_grid)
    return [
        {
            "key": spec.key,
            "label": labels[spec.activation],
            "repeat": spec.repeat,
            "fold": spec.fold,
            "epochs": spec.train.epochs,
            **({"lr": spec.train.optimizer.lr} if rates else {}),
        }
        for spec in trials
    ]


def run_trial(
    job: Job,
    report: Callable[[Mapping[str, float]], None],
    *,
    root: str,
    custom: Custom,
    checkpoint_every: float,
) -> None:
    """What an executor's worker does: one trial, from its spec to its result in the store at ``root``."""
    # One thread is fastest for a small network, and its sums are the same wherever the trial runs.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    spec = TrialSpec.model_validate_json(job.payload)
    trial = Store(Path(root)).trial(spec.key)
    try:
        with trial.lock(), torch.random.fork_rng(devices=[]):
            if trial.outcome() in ("done", "diverged"):
                return
            trial.begin(spec.model_dump(mode="json"))
            train(spec, data_of(spec.dataset, custom), custom, trial, report, checkpoint_every=checkpoint_every)
    except TrialBusyError:
        report({"busy": 1.0})
    finally:
        torch.set_num_threads(threads)
