"""Jobs as job arrays of Slurm, through submitit, requeued when they are preempted or their time is over: "slurm.toml".

Submitit needs a folder that the driver and the nodes share. The store may lie there as well (``shared``, the default), or on a
disk of the driver's own: then the trials travel through that folder as parcels. Only that folder ever holds pickles.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

from pliant.errors import MissingExtraError
from pliant.lab.executors.interface import Event, ExecutorError, Job, Limits, Settings, Work, checked, environment
from pliant.lab.executors.remote import Letter, Task, Ticket, perform, pickled, supervise

_KNOWN: Final = {
    "cluster": str,
    "folder": str,
    "partition": str,
    "account": str,
    "qos": str,
    "constraint": str,
    "minutes": float,
    "requeues": int,
    "cpus": int,
    "gpus": int,
    "memory_gb": float,
    "array": int,
    "parallel": int,
    "shared": bool,
    "silent_minutes": float,
    "poll_seconds": float,
}
_WORK: Final = "work.pickle"
_GRACE: Final = 60.0
"""Seconds in which jobs leave that said their last word or were told to end: a busy machine takes ten for an interpreter."""
_LOOK_EVERY: Final = 5.0
_LOOKS: Final = 3
"""So often in a row must a job be missing from the queue, so seconds apart, before it counts as dead: its last words may be
on their way through a file server, and a job that is being requeued may be nowhere for a moment."""


@dataclass(frozen=True)
class SlurmExecutor:
    """Runs jobs as elements of Slurm job arrays.

    Args:
        cluster: "slurm", or "local" for submitit's processes on this machine, with which a study can be tried out.
        folder: shared by the driver and the nodes; for logs and what submitit sends. Removed when all went well.
        partition, account, qos, constraint: as sbatch has them.
        minutes: after so long Slurm ends a job; it is requeued ``requeues`` times and goes on from its checkpoint.
        cpus, gpus, memory_gb: of each job. array: jobs submitted at once. parallel: jobs that run at once.
        shared: whether the nodes see the store. silent_minutes: see Limits. poll_seconds: between looks at the folder.
    """

    cluster: str = "slurm"
    folder: str = "pliant-slurm"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    minutes: float = 60.0
    requeues: int = 10
    cpus: int = 1
    gpus: int | None = None
    memory_gb: float | None = None
    array: int = 256
    parallel: int = 64
    shared: bool = True
    silent_minutes: float | None = None
    poll_seconds: float = 2.0

    @property
    def name(self) -> str:
        return "slurm"

    @classmethod
    def parse(cls, argument: str | None, settings: Settings) -> Self:
        if argument is not None:
            raise ExecutorError(
                f"The executor 'slurm' takes no argument, and 'slurm:{argument}' gives it one. Its settings stand in a file "
                f"(--on slurm.toml) or after commas (--on slurm,partition=gpu,gpus=1)."
            )
        found = checked("slurm", settings, _KNOWN)
        if found.get("cluster", "slurm") not in ("slurm", "local"):
            raise ExecutorError(f"The setting 'cluster' of the executor 'slurm' is slurm or local, not {found['cluster']!r}.")
        return cls(**found)

    def run(self, jobs: Sequence[Job], work: Work, on_event: Callable[[Event], None]) -> None:
        """As :meth:`Executor.run`. ExecutorError when there is no Slurm here or ``work`` cannot be sent; MissingExtraError
        without the package."""
        try:
            import submitit
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                "The executor 'slurm' needs the package submitit. Run pip install 'pliant[lab,slurm]'."
            ) from error
        if self.cluster == "slurm" and shutil.which("sbatch") is None:
            raise ExecutorError(
                "There is no Slurm on this machine: the command sbatch is not found. Give the command on a login node of the "
                "cluster, or try the study out here with '--on slurm,cluster=local' or '--on local'."
            )
        if jobs:
            limits = Limits(silent_minutes=self.silent_minutes)
            supervise(jobs, work, on_event, _Queue(submitit, work, self), limits, portable=not self.shared)


class _Queue:
    def __init__(self, submitit: Any, work: Work, settings: SlurmExecutor) -> None:
        self._submitit = submitit
        self._work = work
        self._settings = settings
        self._folder = (
            Path(settings.folder).expanduser().absolute() / f"run-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        )
        self._jobs: dict[Ticket, Any] = {}
        self._read: dict[Ticket, int] = {}
        self._ended: set[Ticket] = set()
        self._absent: dict[Ticket, int] = {}
        self._next_look = 0.0

    def __enter__(self) -> Self:
        code = pickled(self._work, self._submitit.core.utils.cloudpickle)
        s = self._settings
        try:
            self._folder.mkdir(parents=True)
            _replace(self._folder / _WORK, code)
        except OSError as error:
            raise ExecutorError(
                f"The folder {self._folder} cannot be used: {error.strerror}. The setting 'folder' of the executor must be "
                f"one that this machine and the nodes share and can write."
            ) from error
        self._executor = self._submitit.AutoExecutor(
            self._folder / "logs", cluster=s.cluster, **{f"{s.cluster}_max_num_timeout": s.requeues}
        )
        optional = {
            "gpus_per_node": s.gpus,
            "mem_gb": s.memory_gb,
            "slurm_partition": s.partition,
            "slurm_account": s.account,
            "slurm_qos": s.qos,
            "slurm_constraint": s.constraint,
        }
        self._executor.update_parameters(
            name="pliant",
            timeout_min=max(1, round(s.minutes)),
            cpus_per_task=s.cpus,
            slurm_array_parallelism=s.parallel,
            **{name: value for name, value in optional.items() if value is not None},
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        # Those that have said their last word only have to leave.
        leaving = [self._jobs.pop(ticket) for ticket in self._ended if ticket in self._jobs]
        for ticket in list(self._jobs):
            self.cancel(ticket)
        self._wait(leaving)
        if kind is None:
            shutil.rmtree(self._folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                self._folder.parent.rmdir()

    def room(self, under_way: int) -> int:
        if self._settings.cluster == "local":
            return self._settings.parallel - under_way
        # In few large arrays and not one by one: each submission is work for the scheduler of everybody.
        free = self._settings.array - under_way
        return free if 2 * free >= self._settings.array else 0

    def submit(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            if task.parcel is not None:
                _replace(_parcel(self._folder, task.job), task.parcel)
        calls = [_Call(str(self._folder), replace(task, parcel=None), task.parcel is not None) for task in tasks]
        try:
            # Jobs inherit the environment of their submission.
            with environment(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(self._settings.cpus))):
                submitted = self._executor.map_array(_start, calls)
        except Exception as error:
            raise ExecutorError(
                f"Slurm did not take the jobs ({type(error).__name__}: {' '.join(str(error).split())[:500]}). Check its "
                f"settings (partition, account, minutes, gpus ...) against `sinfo` and `sbatch`."
            ) from error
        self._jobs.update(zip((task.ticket for task in tasks), submitted, strict=True))

    def listen(self) -> Iterator[tuple[Ticket, Letter]]:
        time.sleep(self._settings.poll_seconds)
        self._look()
        for ticket, job in list(self._jobs.items()):
            # Asked first: what a job said before it ended must not be overlooked.
            over = self._over(ticket, job)
            yield from ((ticket, letter) for letter in self._letters(ticket))
            if over and ticket in self._jobs:
                del self._jobs[ticket]
                yield ticket, Letter("lost", text=_cause(job))

    def _over(self, ticket: Ticket, job: Any) -> bool:
        if self._settings.cluster == "local":
            return bool(job.done())
        return bool(job.paths.result_pickle.exists()) or self._absent.get(ticket, 0) >= _LOOKS

    def _look(self) -> None:
        """Count for each job how often in a row Slurm did not have it. Not by sacct, as submitit would: many a cluster keeps no
        accounts, and then a job that died would be waited for for ever."""
        now = time.monotonic()
        if self._settings.cluster == "local" or now < self._next_look:
            return
        self._next_look = now + max(_LOOK_EVERY, self._settings.poll_seconds)
        found = subprocess.run(
            ["squeue", "--noheader", "--array", "--format=%i", f"--user={os.getuid()}"],
            capture_output=True,
            text=True,
            check=False,
        )
        if found.returncode:
            return
        there = set(found.stdout.split())
        for ticket, job in self._jobs.items():
            self._absent[ticket] = 0 if job.job_id in there else self._absent.get(ticket, 0) + 1

    def _letters(self, ticket: Ticket) -> Iterator[Letter]:
        path = _letters(self._folder, ticket)
        try:
            with open(path, "rb") as file:
                file.seek(self._read.get(ticket, 0))
                lines = file.read().split(b"\n")[:-1]
        except FileNotFoundError:
            return
        self._read[ticket] = self._read.get(ticket, 0) + sum(len(line) + 1 for line in lines)
        for line in lines:
            with contextlib.suppress(ValueError, TypeError):
                letter = Letter(**{**json.loads(line), "parcel": b""})
                if letter.kind == "parcel":
                    # The newest there is; an older one that was never read is no loss.
                    letter = replace(letter, parcel=(self._folder / f"{ticket[0]}.parcel").read_bytes())
                elif letter.kind == "ended":
                    self._ended.add(ticket)
                yield letter

    def cancel(self, ticket: Ticket) -> None:
        job = self._jobs.pop(ticket, None)
        if job is None:
            return
        with contextlib.suppress(Exception):
            job.cancel(check=False)
        if self._settings.cluster == "local":
            # Submitit's processes on this machine are ours; those of Slurm are ended by Slurm.
            self._wait([job])

    def _wait(self, jobs: Sequence[Any]) -> None:
        deadline = time.monotonic() + _GRACE
        # Slurm would be asked through sacct; a process of our own is only gone once it has been waited for.
        here = self._settings.cluster == "local"
        while time.monotonic() < deadline and not all(
            job.done() if here else job.paths.result_pickle.exists() or job.done() for job in jobs
        ):
            time.sleep(0.05)


@dataclass(frozen=True)
class _Call:
    folder: str
    task: Task
    away: bool


class _Start:
    """What submitit runs. ``checkpoint`` tells it that a job whose time is over may be requeued: all that a job needs to go on
    lies in the store or in the folder already."""

    def __init__(self) -> None:
        self._leaving = False

    def __call__(self, call: _Call) -> None:
        import cloudpickle

        folder, task = Path(call.folder), call.task

        def send(letter: Letter) -> None:
            if self._leaving and letter.kind == "ended":
                return
            if letter.kind == "parcel":
                _replace(_parcel(folder, task.job), letter.parcel)
            line = json.dumps({**asdict(letter), "parcel": None})
            with open(_letters(folder, task.ticket), "a", encoding="utf-8") as file:
                file.write(f"\n{line}\n" if file.tell() and letter.kind == "started" else f"{line}\n")

        work = cloudpickle.loads((folder / _WORK).read_bytes())
        if call.away:
            task = replace(task, parcel=_parcel(folder, task.job).read_bytes())
        send(perform(work, task, send, lambda: self._leaving))

    def checkpoint(self, call: _Call) -> Any:
        import submitit

        self._leaving = True
        return submitit.helpers.DelayedSubmission(_Start(), call)


_start: Final = _Start()


def _letters(folder: Path, ticket: Ticket) -> Path:
    return folder / f"{ticket[0]}.{ticket[1]}.letters"


def _parcel(folder: Path, job: Job) -> Path:
    return folder / f"{job.key}.parcel"


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def _cause(job: Any) -> str:
    """Why a job ended without a last word: all that is known is the end of its log."""
    log: list[str] = []
    with contextlib.suppress(Exception):
        log = (job.stderr() or "").strip().splitlines()
    end = f"; its log ends with: {log[-1][:300]}" if log else " (killed, out of memory or of time)"
    return f"its job left the queue{end}"
