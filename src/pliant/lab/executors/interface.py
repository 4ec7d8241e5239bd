"""What an executor is given, what it reports, and what it owes. Executors move jobs; they never look inside them.

The contract, which every executor passes in ``tests/lab/test_executors.py``:

* every job ends in exactly one "finished" or "failed" event, whatever the others do; each attempt begins with "started";
* an exception in the work is the job's own and is not retried: trained again, it would be raised again;
* the death of the process that ran the job is the infrastructure's: "retrying", up to :data:`ATTEMPTS` attempts in all;
* :class:`~pliant.lab.store.StorageFullError` ends the run, because every further job would meet it too;
* whatever ends :meth:`Executor.run`, no process of its own outlives it.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, Self

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


class Executor(Protocol):
    """Runs jobs somewhere. ``create(executor.name)`` makes an equal one."""

    @property
    def name(self) -> str: ...

    @classmethod
    def parse(cls, argument: str | None) -> Self:
        """The executor that "name:argument" asks for; ``argument`` is None for the bare name. ExecutorError otherwise."""
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
