"""What an executor is given, what it reports, and what it owes. Executors move jobs; they never look inside them.

The contract, which every executor passes in ``tests/lab/test_executors.py``:

* every job ends in exactly one "finished" or "failed" event, whatever the others do; each attempt begins with "started";
* an exception in the work is the job's own and is not retried: trained again, it would be raised again;
* the death of the process that ran the job is the infrastructure's: "retrying", up to :data:`ATTEMPTS` attempts in all;
* :class:`~pliant.lab.store.StorageFullError` ends the run, because every further job would meet it too;
* an attempt that exceeds one of the :class:`Limits` is ended, which is a death like any other;
* whatever ends :meth:`Executor.run`, no process of its own outlives it; or, of an executor that is used as a context manager,
  the ``with`` block around its runs.
"""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, Self, runtime_checkable

from pliant.errors import PliantError

ATTEMPTS: Final = 3
"""How often a job is begun before it counts as failed, when its process dies each time."""


class ExecutorError(PliantError):
    """An executor cannot be made from what was asked for, or cannot run the work it was given."""


@dataclass(frozen=True)
class Job:
    """One piece of work: ``key`` names it in events, ``payload`` is text that only the work understands."""

    key: str
    payload: str


Kind = Literal["started", "progress", "finished", "retrying", "failed"]


@dataclass(frozen=True)
class Event:
    """Something that happened to a job. ``attempt`` (from 1) is the attempt it happened in, so "retrying" and "failed"
    carry the attempt that died or failed, and ``message`` says how. ``data`` is what the work reported as progress."""

    kind: Kind
    key: str
    attempt: int = 1
    message: str = ""
    data: Mapping[str, float] = field(default_factory=dict)


Report = Callable[[Mapping[str, float]], None]
Work = Callable[[Job, Report], None]
"""Does a job and reports its progress. ``local`` needs it to be picklable: an importable function, or a partial of one."""


@runtime_checkable
class Releasable(Protocol):
    """Work that leaves things in memory for its next job, such as the data that it has read. Called like any :data:`Work`."""

    def __call__(self, job: Job, report: Report) -> None: ...

    def release(self) -> None:
        """In a worker that idles until it gets other work: let go of them."""
        ...


class Host(Protocol):
    """The driver's side of a job that is done where the driver's files cannot be seen. It keeps others off these files."""

    def pack(self) -> bytes | None:
        """What the job goes on from; None when nothing of it is left to do."""
        ...

    def unpack(self, parcel: bytes) -> None:
        """Store what came back, at the end or on the way. StorageFullError, or another error for a damaged parcel."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Portable(Protocol):
    """Work that needs no shared file system: its files travel as bytes. Called like any :data:`Work` where there is one."""

    def __call__(self, job: Job, report: Report) -> None: ...

    def host(self, job: Job, report: Report) -> Host:
        """In the driver, before the first attempt."""
        ...

    def away(self, job: Job, parcel: bytes, report: Report, send: Callable[[bytes], None]) -> None:
        """In the worker: do the job from ``parcel`` on. ``send`` is called with all that is worth keeping, now and then and at
        the end, also when the job fails."""
        ...


Settings = Mapping[str, object]
"""What a file for ``--on`` holds, or "name,key=value,key=value"."""


@dataclass(frozen=True)
class Limits:
    """When an attempt is ended from outside. ``minutes``: it takes longer than that. ``silent_minutes``: it has reported
    nothing for so long, that is no epoch has ended: it hangs. None: never. Each may be a fraction."""

    minutes: float | None = None
    silent_minutes: float | None = None

    def exceeded(self, since_begin: float, since_sign: float) -> str | None:
        """Why an attempt that began and last gave a sign so many seconds ago must end; None while it may go on."""
        if self.minutes is not None and since_begin > 60 * self.minutes:
            return f"it took longer than the limit of {self.minutes:g} minutes and was ended"
        if self.silent_minutes is not None and since_sign > 60 * self.silent_minutes:
            return f"it hung: there was no sign of it for {self.silent_minutes:g} minutes, and it was ended"
        return None


NO_LIMITS: Final = Limits()


class Executor(Protocol):
    """Runs jobs somewhere. ``create(executor.name)`` makes an equal one, but for settings."""

    @property
    def name(self) -> str: ...

    @classmethod
    def parse(cls, argument: str | None, settings: Settings) -> Self:
        """The executor that "name:argument" and further settings ask for; ``argument`` is None for the bare name.
        ExecutorError otherwise."""
        ...

    def run(self, jobs: Sequence[Job], work: Work, on_event: Callable[[Event], None]) -> None:
        """Run all jobs, in their order as far as possible; ``on_event`` is called in the caller's own thread."""
        ...


def describe(error: BaseException) -> str:
    """One line: the type, the message and, unless Pliant raised it on purpose, the line of code it came from."""
    text = " ".join(str(error).split())
    line = f"{type(error).__name__}: {text}" if text else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, PliantError) or not frames:
        return line
    last = frames[-1]
    return f"{line} (at {os.path.basename(last.filename)}:{last.lineno} in {last.name})"


def checked(executor: str, settings: Settings, known: Mapping[str, type]) -> dict[str, Any]:
    """The settings, if ``known`` holds the name and the type of each, and numbers are above 0. ExecutorError otherwise."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in known:
            raise ExecutorError(
                f"The executor {executor!r} has no setting {name!r}. It has: {', '.join(known) or 'none'}. Mend the file, or "
                f"what stands after the comma in --on."
            )
        wanted = known[name]
        if wanted is float and type(value) is int:
            value = float(value)
        # A bool is an int to Python, and never what somebody meant by a number.
        if type(value) is not wanted or (wanted in (int, float) and not _positive(value)):
            words = {int: "a whole number above 0", float: "a number above 0", bool: "true or false", str: "text"}[wanted]
            raise ExecutorError(f"The setting {name!r} of the executor {executor!r} is {words}, not {value!r}.")
        found[name] = value
    return found


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and 0 < value < float("inf")


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """A process inherits the environment of this moment; OpenMP reads it before any Python could set it."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
