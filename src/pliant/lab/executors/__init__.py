"""Where trials run. ``create("local:4")`` makes an executor from text; a new one is a file here and a line in ``ALL``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pliant.errors import unknown
from pliant.lab.executors.interface import ATTEMPTS, Event, Executor, ExecutorError, Job, Report, Work
from pliant.lab.executors.local import LocalExecutor
from pliant.lab.executors.serial import SerialExecutor

__all__ = [
    "ALL",
    "ATTEMPTS",
    "Event",
    "Executor",
    "ExecutorError",
    "Job",
    "LocalExecutor",
    "Report",
    "SerialExecutor",
    "Work",
    "create",
]

ALL: Final[Mapping[str, type[Executor]]] = {
    "serial": SerialExecutor,
    "local": LocalExecutor,
}


def create(text: str) -> Executor:
    """The executor that ``text`` names: "serial", "local" (a worker per usable core) or "local:4".

    Raises UnknownNameError with the nearest names for a name not in ``ALL``, ExecutorError for an argument that the
    executor does not take.
    """
    name, colon, argument = text.partition(":")
    if name not in ALL:
        raise unknown("executor", name, ALL)
    return ALL[name].parse(argument if colon else None)
