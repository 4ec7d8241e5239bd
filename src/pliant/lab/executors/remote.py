"""What the executors beyond this machine share: attempts, limits, and parcels instead of a shared file system.

A cluster queues, places and starts; this loop keeps it fed and hears what comes back. Attempts are counted here and not by the
cluster, because a second attempt must set out from the newest checkpoint and not from what was submitted first.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final, Literal, Protocol, Self, cast

from pliant.lab.executors.interface import (
    ATTEMPTS,
    Event,
    ExecutorError,
    Host,
    Job,
    Kind,
    Limits,
    Portable,
    Report,
    Work,
    describe,
)
from pliant.lab.store import StorageFullError, StoreError

Ticket = tuple[str, int]
"""A job's key and the number of the attempt: a letter of an attempt that was given up must not be taken for one of the next."""


@dataclass(frozen=True)
class Task:
    """One attempt of a job. ``parcel``: what it goes on from, or None where the work sees the driver's files."""

    job: Job
    number: int
    parcel: bytes | None

    @property
    def ticket(self) -> Ticket:
        return self.job.key, self.number


@dataclass(frozen=True)
class Letter:
    """What a worker says. "ended" is its last one; "lost" is what a backend says when none can follow any more.

    ``end`` of "ended": "finished", "failed" (``text`` says why), "full" (so is the driver's disk) or "unfit" (the worker is).
    ``tainted``: the process may be unfit for the next job.
    """

    kind: Literal["started", "progress", "parcel", "ended", "lost"]
    data: Mapping[str, float] = field(default_factory=dict)
    parcel: bytes = b""
    end: str = ""
    text: str = ""
    tainted: bool = False


class Backend(Protocol):
    """A place to run tasks. Leaving it cancels whatever still runs there."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None: ...

    def room(self, under_way: int) -> int:
        """How many more tasks it wants, when so many are submitted or running."""
        ...

    def submit(self, tasks: Sequence[Task]) -> None: ...

    def listen(self) -> Iterable[tuple[Ticket, Letter]]:
        """What was said since the last time; waits a moment for something. After the end of a task that was not cancelled comes
        "ended" or "lost"."""
        ...

    def cancel(self, ticket: Ticket) -> None: ...


def perform(work: Work, task: Task, send: Callable[[Letter], None], leaving: Callable[[], bool] = lambda: False) -> Letter:
    """In the worker: do the task, and give the last letter.

    ``leaving``: whether a SystemExit is the cluster's, which begins the task again, and not the task's own. It is raised again.
    """

    def report(data: Mapping[str, float]) -> None:
        send(Letter("progress", data={name: float(value) for name, value in data.items()}))

    send(Letter("started"))
    try:
        if task.parcel is None:
            work(task.job, report)
        else:
            cast(Portable, work).away(task.job, task.parcel, report, lambda parcel: send(Letter("parcel", parcel=parcel)))
    except StorageFullError as error:
        # What is full here is the store's disk only if this worker writes to it; else it is the worker's own.
        return Letter("ended", end="full" if task.parcel is None else "unfit", text=str(error))
    except BaseException as error:
        if isinstance(error, SystemExit) and leaving():
            raise
        return Letter(
            "ended", end="failed", text=describe(error), tainted=isinstance(error, RuntimeError | MemoryError | SystemError)
        )
    return Letter("ended", end="finished")


@dataclass(eq=False)
class _Course:
    """A job and its attempts so far. Times are monotonic seconds; ``begun`` is None until the worker has said so."""

    job: Job
    host: Host | None = None
    number: int = 1
    begun: float | None = None
    sign: float = 0.0


class _Supervisor:
    def __init__(self, work: Work, on_event: Callable[[Event], None], backend: Backend, limits: Limits, portable: bool) -> None:
        self._work = work
        self._portable = work if portable and isinstance(work, Portable) else None
        self._on_event = on_event
        self._backend = backend
        self._limits = limits
        self._waiting: deque[_Course] = deque()
        self._running: dict[Ticket, _Course] = {}

    def run(self, jobs: Sequence[Job]) -> None:
        self._waiting.extend(_Course(job) for job in jobs)
        try:
            while self._waiting or self._running:
                self._fill()
                for ticket, letter in self._backend.listen():
                    if ticket in self._running:
                        self._hear(ticket, self._running[ticket], letter)
                self._enforce()
        finally:
            for course in (*self._waiting, *self._running.values()):
                if course.host is not None:
                    course.host.close()

    def _fill(self) -> None:
        room = self._backend.room(len(self._running))
        tasks: list[Task] = []
        while self._waiting and len(tasks) < room:
            course = self._waiting[0]
            parcel = None
            if self._portable is not None:
                if course.host is None:
                    course.host = self._portable.host(course.job, self._reporter(course))
                parcel = course.host.pack()
                if parcel is None:
                    # Others are at all of it, or have done it.
                    self._waiting.popleft()
                    self._begin(course)
                    self._settle(course, "finished")
                    continue
            self._waiting.popleft()
            task = Task(course.job, course.number, parcel)
            self._running[task.ticket] = course
            tasks.append(task)
        if tasks:
            self._backend.submit(tasks)

    def _reporter(self, course: _Course) -> Report:
        return lambda data: self._tell(course, "progress", data=data)

    def _hear(self, ticket: Ticket, course: _Course, letter: Letter) -> None:
        course.sign = time.monotonic()
        if letter.kind != "lost":
            self._begin(course)
        if letter.kind == "progress":
            self._tell(course, "progress", data=letter.data)
        elif letter.kind == "parcel" and course.host is not None:
            try:
                course.host.unpack(letter.parcel)
            except StorageFullError:
                raise
            except StoreError as error:
                self._backend.cancel(ticket)
                self._lose(ticket, course, f"what it sent cannot be used. {error}")
        elif letter.kind == "lost":
            self._lose(ticket, course, letter.text)
        elif letter.kind == "ended":
            if letter.end == "full":
                raise StorageFullError(letter.text)
            if letter.end == "unfit":
                self._lose(ticket, course, letter.text)
            elif letter.end == "finished" and course.host is not None and course.host.pack() is not None:
                self._lose(ticket, course, "it finished, and its results were lost on the way")
            else:
                del self._running[ticket]
                self._settle(course, "finished" if letter.end == "finished" else "failed", letter.text)

    def _enforce(self) -> None:
        now = time.monotonic()
        for ticket, course in list(self._running.items()):
            why = None if course.begun is None else self._limits.exceeded(now - course.begun, now - course.sign)
            if why is not None:
                self._backend.cancel(ticket)
                self._lose(ticket, course, why)

    def _lose(self, ticket: Ticket, course: _Course, how: str) -> None:
        del self._running[ticket]
        self._begin(course)
        text = f"worker died: {how}"
        if course.number == ATTEMPTS:
            self._settle(course, "failed", f"{text}, in each of {ATTEMPTS} attempts")
            return
        self._tell(course, "retrying", text)
        course.number, course.begun = course.number + 1, None
        self._waiting.append(course)

    def _begin(self, course: _Course) -> None:
        if course.begun is None:
            course.begun = course.sign = time.monotonic()
            self._tell(course, "started")

    def _settle(self, course: _Course, kind: Kind, message: str = "") -> None:
        if course.host is not None:
            # First, because who hears of the end may want to write to these very files.
            course.host.close()
        self._tell(course, kind, message)

    def _tell(self, course: _Course, kind: Kind, message: str = "", data: Mapping[str, float] | None = None) -> None:
        self._on_event(Event(kind, course.job.key, course.number, message, data or {}))


def supervise(
    jobs: Sequence[Job],
    work: Work,
    on_event: Callable[[Event], None],
    backend: Backend,
    limits: Limits,
    *,
    portable: bool,
) -> None:
    """Run all jobs in ``backend``, as :meth:`Executor.run` promises.

    ``portable``: whether work that can do without a shared file system is to do so.
    """
    if jobs:
        with backend:
            _Supervisor(work, on_event, backend, limits, portable).run(jobs)


def pickled(work: Work, cloudpickle: Any) -> bytes:
    """``work`` for another machine, with the code of what is not installed there: a user's own modules travel with it.

    ExecutorError when it cannot be pickled.
    """
    own = [module for module in list(sys.modules.values()) if _is_own(module)]
    for module in own:
        cloudpickle.register_pickle_by_value(module)
    try:
        return cast(bytes, cloudpickle.dumps(work))
    except Exception as error:
        raise ExecutorError(
            f"The work cannot be sent to other machines ({describe(error)}). What travels with a study (its network, "
            f"activations and data) must not hold open files, locks or connections; or run here, with '--on serial'."
        ) from error
    finally:
        for module in own:
            cloudpickle.unregister_pickle_by_value(module)


_INSTALLED: Final = tuple(
    {os.path.realpath(p) + os.sep for p in sysconfig.get_paths().values()} | {os.path.realpath(sys.prefix) + os.sep}
)


def _is_own(module: ModuleType) -> bool:
    """Whether this is code of the user's that is not installed as a package, so that another machine may not have it."""
    name, path = getattr(module, "__name__", ""), getattr(module, "__file__", None)
    if not isinstance(path, str) or not path.endswith(".py") or name == "__main__" or name.partition(".")[0] == "pliant":
        return False
    real = os.path.realpath(path)
    return "site-packages" not in real and not real.startswith(_INSTALLED) and sys.modules.get(name) is module
