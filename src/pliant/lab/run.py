"""From a study to its results: the trials without a result go to an executor, and come back through the store."""

from __future__ import annotations

import contextlib
import functools
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from pliant.lab import executors
from pliant.lab.datasets import Detection
from pliant.lab.distributed import train_together
from pliant.lab.executors import Event, Executor, ExecutorError, Job, Report
from pliant.lab.parcel import TrialHost, pack, unpack
from pliant.lab.protocol import split
from pliant.lab.result import Result
from pliant.lab.stacked import MAX_PARAMETERS, lanes, train_stacked
from pliant.lab.status import TRIALS
from pliant.lab.store import CHECKPOINT, RESULT, Store, TrialBusyError, TrialDirectory
from pliant.lab.study import Custom, Study, TrialSpec, activation_factory, canonical, data_of, plan, release_data
from pliant.lab.train import build

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
    stack: int | None = None,
) -> Result:
    """Train every trial of ``study`` that has no result yet, and give all results.

    Running the same study again does no work. Killed at any moment, it goes on where it was: finished trials stay, a trial
    that was being trained goes on from its last checkpoint with the same numbers as if nothing had happened (those of a stack:
    the same up to rounding).

    A small network is trained on one thread. One that has convolutions or more than a million parameters takes the threads that
    torch has: all cores on "serial", a worker's share on "local". Their number shows in the last bits of its results, and is
    in the provenance of each.

    Args:
        study: what to compare.
        store: a directory, made if it is missing.
        on: an executor or its name: "serial", "local" (a process per core), "local:4", "ray", "ray:ADDRESS", "slurm.toml"; see
            :func:`pliant.lab.executors.create`. Several studies can share the workers of one, see
            :class:`pliant.lab.executors.LocalExecutor`. A study with functions of your own runs on "local" if they can be
            imported and the program has an ``if __name__ == "__main__":`` guard; to Ray and Slurm they travel as code.
        progress: what is told about events.
        checkpoint_every: seconds between the checkpoints of a trial; 0 writes one each epoch.
        stack: at most so many trials of small networks are trained as one program, with the same results up to rounding, which
            also parts two activations that compute the same; 1 trains one by one, where these are equal to the last bit.
            Default: as many as are faster, see :func:`pliant.lab.stacked.lanes`.

    Raises:
        PliantError: the study, the data, the store or the executor cannot be used; the disk is full. What was finished stays.
    """
    executor = executors.create(on) if isinstance(on, str) else on
    trials = plan(study)
    # Tried once here, before anything is written, so that a mistake is one clear error and not one failure a trial.
    data = data_of(study.dataset, study.custom)
    split(trials[0], data)
    network: nn.Module
    if isinstance(data, Detection):
        # Only here: with it comes torchvision, which takes seconds to import.
        from pliant.lab import detect

        network, size = detect.build(trials[0], data, study.custom)[0], 1
    else:
        # What keeps the coefficients of another trial is trained by itself, wherever it stands.
        typical = next((spec for spec in trials if not spec.frozen), trials[0])
        network, activations = build(typical, data, study.custom)
        size = lanes(typical, data, network, activations, len(trials)) if stack is None else stack
    for spec in trials[: len(study.trained)]:
        activation_factory(spec, study.custom)()
    results = Store(Path(store))
    results.write_json(results.study(study.directory) / "study.json", study.model_dump(mode="json"))
    results.write_json(results.study(study.directory) / TRIALS, _listed(study, trials))
    by_key = {spec.key: spec for spec in trials}
    done = results.finished(by_key)
    waiting = [spec for spec in trials if spec.key not in done]
    if progress is not None:
        progress.planned(study, trials, waiting)

    work = TrialWork(str(results.root), study.custom, checkpoint_every, _is_small(network))
    missing = set(waiting)
    desk = _Desk(results, by_key, progress)
    try:
        if study.train.world_size > 1:
            # A stack is one program of one process.
            size = 1
        # Cut by the plan, and not by what waits: resumed, a trial has the neighbours that it had.
        cuts = [[spec for spec in cut if spec in missing] for cut in _cut(trials, size, len(study.trained))]
        jobs = [desk.job(specs) for specs in cuts if specs]
        with results.driving(study.directory) if jobs else contextlib.nullcontext():
            while jobs:
                executor.run(jobs, work, desk.on_event)
                # Another driver has the busy ones: wait for its results, or take over if it dies.
                if desk.busy:
                    time.sleep(BUSY_WAIT)
                jobs = [desk.job([by_key[key]]) for key in sorted(desk.busy | desk.again)]
                desk.busy.clear()
                desk.again.clear()
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


def _cut(trials: Sequence[TrialSpec], size: int, activations: int) -> list[list[TrialSpec]]:
    """The trials of a plan in stacks of at most ``size``. All activations of a fold are in one stack if that can hold them, so
    that the same activation under two names is computed in the same way. Learning rates have stacks of their own."""
    size = max(1, size - size % activations if size > activations else size)
    if size == 1:
        return [[spec] for spec in trials]
    recipes = list(dict.fromkeys(canonical(spec.train.model_dump(mode="json")) for spec in trials))
    found = []
    for start in range(0, len(trials), size * len(recipes)):
        window = trials[start : start + size * len(recipes)]
        by_recipe: dict[str, list[TrialSpec]] = {recipe: [] for recipe in recipes}
        for spec in window:
            by_recipe[canonical(spec.train.model_dump(mode="json"))].append(spec)
        found += [members[i : i + size] for members in by_recipe.values() for i in range(0, len(members), size)]
    return found


def _is_small(network: nn.Module) -> bool:
    """Whether one thread trains it fastest; its sums are then the same wherever the trial runs."""
    convolutions = any(isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d) for m in network.modules())
    return not convolutions and sum(p.numel() for p in network.parameters()) <= MAX_PARAMETERS


class _Desk:
    """Turns what an executor says of jobs, which may be stacks of trials, into what is known of trials."""

    def __init__(self, results: Store, by_key: Mapping[str, TrialSpec], progress: Progress | None) -> None:
        self._results = results
        self._by_key = by_key
        self._progress = progress
        self._members: dict[str, list[str]] = {}
        self.busy: set[str] = set()
        """Trials that another driver is training."""
        self.again: set[str] = set()
        """Trials whose stack failed as a whole, so that each is to be tried by itself."""

    def job(self, specs: Sequence[TrialSpec]) -> Job:
        self._members[specs[0].key] = [spec.key for spec in specs]
        return Job(specs[0].key, json.dumps([spec.model_dump(mode="json") for spec in specs]))

    def on_event(self, event: Event) -> None:
        members = self._members[event.key]
        if event.kind == "progress":
            data = dict(event.data)
            key = members[int(data.pop("trial", 0))]
            self._tell(replace(event, key=key, data=data))
            if "busy" in data:
                self.busy.add(key)
        elif event.kind == "failed" and len(members) > 1:
            # One of them may have brought down the others, which must not be taken for failed.
            for key in members:
                if key not in self.busy and self._results.trial(key).outcome() in ("missing", "failed"):
                    self.again.add(key)
                    self._tell(replace(event, kind="retrying", key=key))
                else:
                    self._tell(replace(event, kind="finished", key=key, message=""))
        else:
            for key in members:
                if event.kind == "failed":
                    self._results.trial(key).fail(event.message, event.attempt)
                self._tell(replace(event, key=key))

    def _tell(self, event: Event) -> None:
        if self._progress is None or (event.key in self.busy and event.kind != "failed"):
            return
        if event.kind == "finished":
            diverged = self._results.trial(event.key).outcome() == "diverged"
            event = replace(event, data={**event.data, "diverged": float(diverged)})
        self._progress.event(event, self._by_key[event.key])


@dataclass(frozen=True)
class TrialWork:
    """What an executor's worker does: a few trials, from their specs to their results in the store at ``root``; or, where that
    cannot be seen, in a store of its own, from and to parcels. See :class:`pliant.lab.executors.Portable`."""

    root: str
    custom: Custom
    checkpoint_every: float
    one_thread: bool

    def __call__(self, job: Job, report: Report) -> None:
        """Reports what :func:`pliant.lab.train.train` or :func:`pliant.lab.detect.train` reports, with the trial's place in the
        job as "trial"."""
        _train(job, report, Store(Path(self.root)), self)

    def release(self) -> None:
        """See :class:`pliant.lab.executors.Releasable`."""
        release_data()
        # What torch keeps for itself is lacking to the other processes on the GPU.
        torch.cuda.empty_cache()

    def host(self, job: Job, report: Report) -> TrialHost:
        specs = {spec.key: spec for spec in _specs(job)}
        places = {key: i for i, key in enumerate(specs)}
        values = {key: spec.model_dump(mode="json") for key, spec in specs.items()}
        return TrialHost(Store(Path(self.root)), values, lambda key: report({"trial": places[key], "busy": 1.0}))

    def away(self, job: Job, parcel: bytes, report: Report, send: Callable[[bytes], None]) -> None:
        specs = _specs(job)
        # Another version of the code gives other keys, so its numbers can never be taken for those of this one.
        if specs[0].key != job.key:
            raise ExecutorError("This worker has another version of Pliant than the driver. Every node needs the same one.")
        found = unpack(parcel, {spec.key for spec in specs})
        places = [i for i, spec in enumerate(specs) if spec.key in found]
        with tempfile.TemporaryDirectory(prefix="pliant-") as folder:
            store = Store(Path(folder) / "store")
            trials = {key: store.trial(key) for key in found}
            sent: dict[str, float] = {}

            def changed() -> dict[str, dict[str, bytes]]:
                """The trials that have a newer checkpoint or result than was sent."""
                news = {}
                for key, trial in trials.items():
                    stamp = _stamp(trial)
                    if stamp is not None and stamp != sent.get(key):
                        sent[key], news[key] = stamp, trial.contents()
                return news

            def tell(row: Mapping[str, float]) -> None:
                report({**row, "trial": places[int(row.get("trial", 0))]})
                if news := changed():
                    send(pack(news))

            for key, files in found.items():
                if files:
                    trials[key].adopt(files)
            changed()
            try:
                chosen = Job(job.key, json.dumps([specs[i].model_dump(mode="json") for i in places]))
                _train(chosen, tell, store, self)
            finally:
                if news := changed():
                    send(pack(news))


def _specs(job: Job) -> list[TrialSpec]:
    return [TrialSpec.model_validate(values) for values in json.loads(job.payload)]


def _stamp(trial: TrialDirectory) -> float | None:
    """Changes with each checkpoint and with the result."""
    for name in (RESULT, CHECKPOINT):
        with contextlib.suppress(FileNotFoundError):
            return (trial.path / name).stat().st_mtime_ns
    return None


def _train(job: Job, report: Report, store: Store, work: TrialWork) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if work.one_thread else threads)
    specs = _specs(job)
    free: list[int] = []
    trials = [store.trial(spec.key) for spec in specs]
    try:
        with contextlib.ExitStack() as locks:
            locks.enter_context(torch.random.fork_rng(devices=[]))
            for i, trial in enumerate(trials):
                try:
                    locks.enter_context(trial.lock())
                except TrialBusyError:
                    report({"trial": i, "busy": 1.0})
                    continue
                if trial.outcome() not in ("done", "diverged"):
                    trial.begin(specs[i].model_dump(mode="json"))
                    free.append(i)
            data = data_of(specs[0].dataset, work.custom)
            if isinstance(data, Detection):
                from pliant.lab import detect

                for i in free:
                    tell = functools.partial(_tell_place, report, i)
                    detect.train(specs[i], data, work.custom, trials[i], tell, checkpoint_every=work.checkpoint_every)
            elif free and specs[0].train.world_size > 1:
                for i in free:
                    train_together(
                        specs[i],
                        work.custom,
                        store.root,
                        functools.partial(_tell_place, report, i),
                        checkpoint_every=work.checkpoint_every,
                        threads=1 if work.one_thread else max(1, threads // specs[i].train.world_size),
                    )
            elif free:
                train_stacked(
                    [specs[i] for i in free],
                    data,
                    work.custom,
                    [trials[i] for i in free],
                    lambda place, row: report({**row, "trial": free[place]}),
                    checkpoint_every=work.checkpoint_every,
                )
    finally:
        torch.set_num_threads(threads)


def _tell_place(report: Callable[[Mapping[str, float]], None], place: int, row: Mapping[str, float]) -> None:
    report({**row, "trial": place})
