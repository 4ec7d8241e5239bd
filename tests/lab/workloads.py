"""Work for executors to do. A module of its own, because spawned workers must be able to import it.

As a script it is a driver that the tests interrupt: ``python workloads.py local:2 DIRECTORY JOBS``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from pliant.errors import DomainError
from pliant.lab.executors import Job, Report, create
from pliant.lab.store import StorageFullError


class Unreadable:
    """Can be pickled, cannot be unpickled: as a function is that only the driver can import."""

    def __reduce__(self) -> tuple[object, ...]:
        return len, (3,)

    def __call__(self, job: Job, report: Report) -> None:
        raise AssertionError


class Reader:
    """Work that keeps something in memory, and says so when it lets go of it."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory, self.name = directory, name

    def __call__(self, job: Job, report: Report) -> None:
        work(job, report)

    def release(self) -> None:
        with open(self.directory / "released", "a") as file:
            file.write(f"{self.name} {os.getpid()}\n")


def jobs(directory: Path, tasks: Sequence[str]) -> list[Job]:
    """A job per task, named "<number> <task>"."""
    return [
        Job(f"{number:03} {task}", json.dumps({"directory": str(directory), "task": task})) for number, task in enumerate(tasks)
    ]


def attempts(directory: Path, job: Job) -> list[int]:
    """The process ids of those that began the job, in order of their beginning."""
    path = directory / f"{job.key}.attempts"
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


def work(job: Job, report: Report) -> None:
    order = json.loads(job.payload)
    directory = Path(order["directory"])
    with open(directory / f"{job.key}.attempts", "a") as file:
        file.write(f"{os.getpid()}\n")
    first = len(attempts(directory, job)) == 1
    match order["task"]:
        case "square":
            number = int(job.key[:3])
            for step in range(3):
                report({"step": step, "number": number})
            (directory / f"{job.key}.result").write_text(str(number**2))
        case "meet":
            # Done when another worker has begun one too.
            for _ in range(6000):
                if len(list(directory.glob("* meet.attempts"))) > 1:
                    return
                time.sleep(0.01)
            raise TimeoutError("nobody came")
        case "raise":
            raise ValueError("no such\nnumber")
        case "mistake":
            raise DomainError("alpha must be positive, not -1. Choose a positive alpha.")
        case "poison":
            raise RuntimeError("CUDA error: device-side assert triggered")
        case "leave":
            sys.exit(3)
        case "die once" if first:
            os.kill(os.getpid(), signal.SIGKILL)
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(7)
        case "finish and die":
            threading.Timer(0.05, os._exit, [9]).start()
        case "die with a child" if first:
            # The child holds this worker's pipe open after its death, as a data loader's would.
            child = os.fork()
            if not child:
                time.sleep(60)
                os._exit(0)
            (directory / "child").write_text(str(child))
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang up" if first:
            os.closerange(3, 100)
            time.sleep(60)
        case "fill the disk":
            raise StorageFullError("There is no space left to write x.")
        case "sleep":
            report({"sleeping": 1})
            time.sleep(60)
        case "hang once" if first:
            report({"step": 0})
            time.sleep(60)
        case "swell once" if first:
            report({"step": 0})
            kept = bytearray(os.urandom(1000) * 400_000)
            time.sleep(60)
            del kept
        case "device":
            (directory / f"{job.key}.result").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "none"))
        case "threads":
            report({name: float(os.environ[name]) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")})
        case "report badly":
            report({"loss": "low"})  # type: ignore[dict-item]


def nothing(job: Job, report: Report) -> None:
    """The engine's own cost is what remains."""


if __name__ == "__main__":
    executor, place, count = sys.argv[1:]
    create(executor).run(jobs(Path(place), ["sleep"] * int(count)), work, print)
