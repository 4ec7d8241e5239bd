"""Where trials run. ``create("local:4")`` makes an executor from text; a new one is a file here and a line in ``ALL``.

``remote`` is what the executors beyond this machine share: they only submit, listen and cancel.
"""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pliant.errors import unknown
from pliant.lab.executors.interface import (
    ATTEMPTS,
    Event,
    Executor,
    ExecutorError,
    Job,
    Limits,
    Portable,
    Releasable,
    Report,
    Work,
)
from pliant.lab.executors.local import LocalExecutor
from pliant.lab.executors.ray import RayExecutor
from pliant.lab.executors.serial import SerialExecutor
from pliant.lab.executors.slurm import SlurmExecutor

__all__ = [
    "ALL",
    "ATTEMPTS",
    "Event",
    "Executor",
    "ExecutorError",
    "Job",
    "Limits",
    "LocalExecutor",
    "Portable",
    "RayExecutor",
    "Releasable",
    "Report",
    "SerialExecutor",
    "SlurmExecutor",
    "Work",
    "create",
    "opened",
]

ALL: Final[Mapping[str, type[Executor]]] = {
    "serial": SerialExecutor,
    "local": LocalExecutor,
    "ray": RayExecutor,
    "slurm": SlurmExecutor,
}


def create(text: str) -> Executor:
    """The executor that ``text`` names: "serial", "local" (a worker per usable core), "local:4", "ray:auto".

    Settings follow after commas ("local:4,memory_gb=8,silent_minutes=30") or stand in a TOML file ("slurm.toml"), whose key
    ``executor``, or else whose name, says which executor they are for.

    Raises UnknownNameError with the nearest names for a name not in ``ALL``, ExecutorError for an argument or a setting that
    the executor does not take, or a file that cannot be read.
    """
    if text.endswith(".toml"):
        settings = _read(Path(text))
        name, argument = settings.pop("executor", Path(text).stem), settings.pop("argument", None)
    else:
        (name, colon, rest), pairs = _head(text)
        argument = rest if colon else None
        settings = dict(map(_setting, pairs))
    if name not in ALL:
        raise unknown("executor", str(name), ALL)
    return ALL[name].parse(argument, settings)


@contextlib.contextmanager
def opened(text: str) -> Iterator[Executor]:
    """The executor that ``text`` names, for several runs: one that has something to keep between them (``local`` its workers)
    keeps it until the end of the block.

    Raises UnknownNameError and ExecutorError, as :func:`create`.
    """
    executor = create(text)
    with executor if isinstance(executor, contextlib.AbstractContextManager) else contextlib.nullcontext():
        yield executor


def _head(text: str) -> tuple[tuple[str, str, str], list[str]]:
    head, *pairs = text.split(",")
    return head.partition(":"), pairs


def _setting(pair: str) -> tuple[str, Any]:
    key, equals, value = pair.partition("=")
    if not equals or not key.strip():
        raise ExecutorError(
            f"{pair!r} is not a setting of an executor; after a comma stands key=value, as in local:4,memory_gb=8."
        )
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        # Text needs no quotation marks here, which a shell would eat anyway.
        return key.strip(), value.strip()


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ExecutorError(
            f"The settings of an executor cannot be read from {path}: {error}. It is a TOML file with lines such as "
            f'executor = "slurm" and partition = "gpu".'
        ) from None
