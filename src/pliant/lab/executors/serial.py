"""One job after the other in this very process: the executor for debugging and for work that cannot be pickled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Self

from pliant.lab.executors.interface import Event, ExecutorError, Job, Settings, Work, checked, describe
from pliant.lab.store import StorageFullError


class SerialExecutor:
    """Runs every job in the calling process, so a debugger sees it; the death of a job is the death of the run."""

    name: Final[str] = "serial"

    @classmethod
    def parse(cls, argument: str | None, settings: Settings) -> Self:
        checked("serial", settings, {})
        if argument is not None:
            raise ExecutorError(
                f"The executor 'serial' takes no argument, and 'serial:{argument}' gives it one. It runs one trial at a "
                f"time in this process; ask for 'local:{argument}' to use worker processes."
            )
        return cls()

    def run(self, jobs: Sequence[Job], work: Work, on_event: Callable[[Event], None]) -> None:
        for job in jobs:
            on_event(Event("started", job.key))
            error = _attempt(job, work, on_event)
            on_event(Event("finished", job.key) if error is None else Event("failed", job.key, message=error))


def _attempt(job: Job, work: Work, on_event: Callable[[Event], None]) -> str | None:
    # An exception of on_event belongs to the caller, not to the job that happened to report at that moment.
    raised_by_listener: list[BaseException] = []

    def report(data: Mapping[str, float]) -> None:
        event = Event("progress", job.key, data={name: float(value) for name, value in data.items()})
        try:
            on_event(event)
        except BaseException as error:
            raised_by_listener.append(error)
            raise

    try:
        work(job, report)
    except StorageFullError:
        raise
    except (Exception, SystemExit) as error:
        if error in raised_by_listener:
            raise
        return describe(error)
    return None
