"""What the executors beyond this machine share, against a cluster of threads that drops what it is told to drop."""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import workloads
from test_executors import kinds, of

from pliant.lab import Study, run
from pliant.lab.executors import Event, ExecutorError, Job, Limits, Work, remote
from pliant.lab.executors.remote import Letter, Task, Ticket
from pliant.lab.result import Result
from pliant.lab.store import StorageFullError, Store
from pliant.lab.study import plan

Meddle = Callable[[Task, int, Letter], Letter | None]


class Threads:
    """A backend. ``meddle`` is shown each letter with its number within the task, and may change it or drop it (None); after a
    Letter "lost" nothing more is heard of the task, as after the loss of its node."""

    name = "threads"

    def __init__(self, meddle: Meddle = lambda task, n, letter: letter, room: int = 2) -> None:
        self.meddle = meddle
        self.slots = room
        self.mailbox: queue.Queue[tuple[Ticket, Letter]] = queue.Queue()
        self.cancelled: set[Ticket] = set()
        self.submitted: list[Task] = []
        self.most = 0
        self.limits = Limits()
        self.workers: list[threading.Thread] = []

    def run(self, jobs: Sequence[Job], work: Work, on_event: Callable[[Event], None]) -> None:
        remote.supervise(jobs, work, on_event, self, self.limits, portable=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self.workers:
            thread.join(20)

    def room(self, under_way: int) -> int:
        self.most = max(self.most, under_way)
        return self.slots - under_way

    def submit(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            self.submitted.append(task)
            self.workers.append(threading.Thread(target=self._work, args=(task,)))
            self.workers[-1].start()

    def _work(self, task: Task) -> None:
        said = 0
        gone = False

        def send(letter: Letter) -> None:
            nonlocal said, gone
            said += 1
            changed = self.meddle(task, said, letter)
            if changed is not None and not gone:
                gone = changed.kind == "lost"
                self.mailbox.put((task.ticket, changed))
            if gone:
                # What is lost computes no more: a thread that went on would share torch's seed with the attempt that follows.
                raise SystemExit

        with contextlib.suppress(SystemExit):
            send(remote.perform(self.doing, task, send))

    doing: Work = staticmethod(workloads.work)

    def listen(self) -> Iterator[tuple[Ticket, Letter]]:
        try:
            yield self.mailbox.get(timeout=0.05)
        except queue.Empty:
            return

    def cancel(self, ticket: Ticket) -> None:
        self.cancelled.add(ticket)


class Portable(Threads):
    """Lets the study's own work be done in this process, with its files as parcels."""

    def run(self, jobs: Sequence[Job], work: Work, on_event: Callable[[Event], None]) -> None:
        self.doing = work
        self.slots = 1  # train() sets torch's seed, which threads share.
        super().run(jobs, work, on_event)


def events_of(backend: Threads, jobs: Sequence[Job]) -> list[Event]:
    events: list[Event] = []
    backend.run(jobs, workloads.work, events.append)
    return events


def numbers(result: Result) -> list[dict[str, object]]:
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in result.rows]


# Plain work


def test_every_job_is_done_once(tmp_path: Path) -> None:
    jobs = workloads.jobs(tmp_path, ["square"] * 6 + ["raise", "leave", "report badly"])
    backend = Threads(room=3)
    events = events_of(backend, jobs)
    for job in jobs[:6]:
        assert kinds(events, job) == ["started", "progress", "progress", "progress", "finished"]
    for job in jobs[6:]:
        assert kinds(events, job) == ["started", "failed"]
    assert backend.most <= 3


def test_losses_are_retried_and_counted(tmp_path: Path) -> None:
    jobs = workloads.jobs(tmp_path, ["square"] * 3)

    def meddle(task: Task, number: int, letter: Letter) -> Letter | None:
        doomed = task.job is jobs[0] or (task.job is jobs[1] and task.number == 1)
        return Letter("lost", text="its node was lost") if doomed and number == 2 else letter

    events = events_of(Threads(meddle), jobs)
    assert kinds(events, jobs[0]) == ["started", "retrying"] * 2 + ["started", "failed"]
    assert of(events, jobs[0])[-1].message == "worker died: its node was lost, in each of 3 attempts"
    assert [e.attempt for e in of(events, jobs[1]) if e.kind == "started"] == [1, 2]
    assert kinds(events, jobs[1])[-1] == kinds(events, jobs[2])[-1] == "finished"


def test_a_silent_task_is_cancelled(tmp_path: Path) -> None:
    jobs = workloads.jobs(tmp_path, ["square"])
    backend = Threads(lambda task, n, letter: None if task.number == 1 and n > 1 else letter)
    backend.limits = Limits(silent_minutes=0.01)
    events = events_of(backend, jobs)
    assert "it hung: there was no sign of it for 0.01 minutes" in of(events, jobs[0])[1].message
    assert backend.cancelled == {(jobs[0].key, 1)}
    assert kinds(events, jobs[0])[-1] == "finished"


def test_letters_of_an_attempt_that_was_given_up_are_not_heard(tmp_path: Path) -> None:
    jobs = workloads.jobs(tmp_path, ["square"])
    backend = Threads()

    def meddle(task: Task, number: int, letter: Letter) -> Letter:
        if task.number == 2 and number == 1:
            backend.mailbox.put(((task.job.key, 1), Letter("ended", end="failed", text="a ghost")))
        return Letter("lost", text="gone") if task.number == 1 and number == 2 else letter

    backend.meddle = meddle
    events = events_of(backend, jobs)
    assert [e.kind for e in events if e.kind in ("failed", "finished")] == ["finished"]


def test_a_full_disk_and_the_callers_errors_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(StorageFullError, match="no space left to write x"):
        events_of(Threads(), workloads.jobs(tmp_path, ["fill the disk"]))

    def listen(event: Event) -> None:
        if event.kind == "progress":
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Threads().run(workloads.jobs(tmp_path, ["square"]), workloads.work, listen)


# A study


def test_without_a_shared_file_system_a_study_gives_the_same_files(small: Study, tmp_path: Path) -> None:
    one = run(small, store=tmp_path / "a")
    two = run(small, store=tmp_path / "b", on=Portable(), checkpoint_every=0)
    assert numbers(one) == numbers(two)
    for spec in one.trials:
        a, b = one.store.trial(spec.key), two.store.trial(spec.key)
        assert {f.name for f in a.path.iterdir()} == {f.name for f in b.path.iterdir()}
        assert a.read("predictions.safetensors") == b.read("predictions.safetensors")
        assert a.read("spec.json") == b.read("spec.json")


@pytest.mark.parametrize("stack", [1, 2])
def test_a_lost_node_costs_the_epochs_since_the_checkpoint(small: Study, tmp_path: Path, stack: int) -> None:
    study = small.override(["train.epochs=8"])
    whole = run(study, store=tmp_path / "a", stack=stack)
    store = Store(tmp_path / "b")
    seen: dict[str, int] = {}

    def meddle(task: Task, number: int, letter: Letter) -> Letter:
        return Letter("lost", text="gone") if task.number == 1 and number == 10 else letter

    class Listens(Portable):
        def submit(self, tasks: Sequence[Task]) -> None:
            for task in tasks:
                if task.number == 2:
                    seen[task.job.key] = len(store.trial(task.job.key).history())
            super().submit(tasks)

    again = run(study, store=store.root, on=Listens(meddle), checkpoint_every=0, stack=stack)
    if stack == 1:
        assert numbers(again) == numbers(whole)
    for a, b in zip(numbers(again), numbers(whole), strict=True):
        assert a["test_loss"] == pytest.approx(b["test_loss"], rel=1e-4)
    assert seen
    assert all(1 <= epochs < 8 for epochs in seen.values()), "they went on from what had come back"
    if stack == 1:
        for key in seen:
            result = again.store.trial(key).result()
            assert result is not None
            # The newest row may be of the epoch after the checkpoint.
            assert 1 <= result["provenance"]["resumed_from_epoch"] in (seen[key] - 1, seen[key])


def test_results_that_are_lost_on_the_way_are_done_again(small: Study, tmp_path: Path) -> None:
    whole = run(small, store=tmp_path / "a", stack=1)
    told: list[Event] = []

    class Tells(Portable):
        def run(self, jobs: Sequence[Job], work: Work, on_event: Callable[[Event], None]) -> None:
            super().run(jobs, work, lambda event: (told.append(event), on_event(event))[1])

    def meddle(task: Task, number: int, letter: Letter) -> Letter | None:
        return None if letter.kind == "parcel" and task.number == 1 else letter

    again = run(small, store=tmp_path / "b", on=Tells(meddle), stack=1)
    assert numbers(again) == numbers(whole)
    assert {e.message for e in told if e.kind == "retrying"} == {
        "worker died: it finished, and its results were lost on the way"
    }


def test_a_parcel_damaged_on_its_way_is_not_stored(small: Study, tmp_path: Path) -> None:
    whole = run(small, store=tmp_path / "a", stack=1)
    chance = random.Random(3)

    def meddle(task: Task, number: int, letter: Letter) -> Letter:
        if letter.kind != "parcel" or task.number > 1:
            return letter
        place = chance.randrange(len(letter.parcel))
        return Letter("parcel", parcel=letter.parcel[:place] + bytes([letter.parcel[place] ^ 8]) + letter.parcel[place + 1 :])

    again = run(small, store=tmp_path / "b", on=Portable(meddle), checkpoint_every=0, stack=1)
    assert numbers(again) == numbers(whole)


def test_what_another_driver_trains_is_left_to_it(small: Study, tmp_path: Path) -> None:
    store = Store(tmp_path)
    backend = Portable()
    busy: list[str] = []

    class Log:
        def planned(self, *_: Any) -> None: ...

        def event(self, event: Event, trial: Any) -> None:
            if "busy" in event.data:
                busy.append(event.key)
                lock.__exit__(None, None, None)

        def finished(self) -> None: ...

    key = plan(small)[0].key
    lock = store.trial(key).lock()
    lock.__enter__()
    result = run(small, store=tmp_path, on=backend, progress=Log(), stack=1)
    assert busy == [key]
    assert result.counts["done"] == 4
    assert [task.job.key for task in backend.submitted].count(key) == 1


def test_a_full_disk_of_the_driver_ends_the_run(small: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(small, store=tmp_path / "a", stack=1)
    store = tmp_path / "b"
    real = os.replace
    left = [12]

    def replace(source: Any, target: Any) -> None:
        if str(target).startswith(str(store)):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(StorageFullError):
        run(small, store=store, on=Portable(), stack=1)
    monkeypatch.undo()
    kept = Result(small, Store(store)).counts
    assert 0 < kept["done"] < 4
    assert numbers(run(small, store=store, on=Portable(), stack=1)) == numbers(whole)


def test_the_parcels_of_another_version_are_refused(small: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Portable()
    work_of = remote.perform

    def other_version(work: Work, task: Task, send: Callable[[Letter], None]) -> Letter:
        payload = task.job.payload.replace('"fold": 0', '"fold": 1') if '"fold": 0' in task.job.payload else task.job.payload
        return work_of(work, Task(Job(task.job.key, payload), task.number, task.parcel), send)

    monkeypatch.setattr(remote, "perform", other_version)
    result = run(small, store=tmp_path, on=backend, stack=1)
    assert result.counts["failed"] == 2
    errors = [r["error"] for r in result.rows if r["outcome"] == "failed"]
    assert all("another version of Pliant" in error for error in errors)


def test_work_that_cannot_travel() -> None:
    import sys

    cloudpickle = pytest.importorskip("cloudpickle", reason="cloudpickle comes with the extras ray and slurm")
    with pytest.raises(ExecutorError, match="cannot be sent to other machines"):
        remote.pickled(lambda job, report: lock.acquire() if (lock := threading.Lock()) else locked.acquire(), cloudpickle)
    code = remote.pickled(workloads.work, cloudpickle)
    assert b"no such\nnumber" in code, "a user's own module travels as code"
    assert not cloudpickle.list_registry_pickle_by_value()
    assert len(remote.pickled(np.mean, cloudpickle)) < 200, "what is installed travels as a name"
    assert not remote._is_own(sys.modules["pliant.lab.run"])


locked = threading.Lock()
