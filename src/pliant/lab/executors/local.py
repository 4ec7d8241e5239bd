"""Several jobs at once on this machine, each in a worker process that may die without taking anything else with it.

The standard library's pools give up as a whole when one worker dies. This supervisor owns its workers instead: each has
a pipe of its own and is watched through its process handle, so a killed worker costs one attempt of one job. Workers
are spawned, never forked (a fork copies locked locks of the threads that torch starts), and stay warm: importing torch
once per job would cost more than many a trial. Between the runs of one ``with`` block they stay warm too, for the same reason.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Final, Self

from pliant.lab.executors.interface import (
    ATTEMPTS,
    NO_LIMITS,
    Event,
    ExecutorError,
    Job,
    Kind,
    Limits,
    Releasable,
    Settings,
    Work,
    checked,
    describe,
    environment,
)
from pliant.lab.store import StorageFullError

_GRACE: Final = 5.0
"""Seconds that a worker gets to leave by itself, and then to obey SIGTERM."""

_TICK: Final = 0.25
"""Seconds between looks at the limits."""

_THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_DEVICES: Final = "CUDA_VISIBLE_DEVICES"
_UNSAID: Final = ("TORCHINDUCTOR_CACHE_DIR",)
"""What a library sets for itself when it is imported, as torch's compiler comes with torchvision: no setting has changed."""

_KNOWN: Final = {"workers": int, "memory_gb": float, "minutes": float, "silent_minutes": float}


class LocalExecutor:
    """Runs jobs in worker processes of this machine, each with its share of the cores as threads, and the GPUs in turn.

    Workers end with the run that started them. Those of an executor that is used as a context manager idle from one run to the
    next and end with the block, so that several studies import torch once a worker::

        with LocalExecutor(2) as executor:
            for study in studies:
                run(study, on=executor)

    They keep the modules that they have imported. A run that ends with an exception ends its workers in any case, and so does
    one under ``memory_gb``: what earlier work left in the memory of a worker would count.

    Args:
        workers: how many; None: one per usable core.
        memory_gb: resident memory, in 1e9 bytes, at which a worker and its children are ended (on Linux). None: no limit.
        limits: when an attempt is ended.
    """

    name: Final[str]

    def __init__(self, workers: int | None = None, *, memory_gb: float | None = None, limits: Limits = NO_LIMITS) -> None:
        if workers is not None and workers < 1:
            raise ExecutorError(f"The executor 'local' needs at least 1 worker process, not {workers}.")
        if memory_gb is not None and sys.platform != "linux":
            raise ExecutorError(
                "The executor 'local' can see how much memory its workers use on Linux only; leave memory_gb out."
            )
        self.workers: Final = workers or _cores()
        self.name = f"local:{self.workers}"
        self._bounds = _Bounds(memory_gb, limits)
        self._open = False
        self._idle: list[_Worker] = []

    @classmethod
    def parse(cls, argument: str | None, settings: Settings) -> Self:
        found = checked("local", settings, _KNOWN)
        limits = Limits(found.pop("minutes", None), found.pop("silent_minutes", None))
        if argument is None:
            return cls(limits=limits, **found)
        if not (argument.isascii() and argument.isdigit() and len(argument) <= 4 and int(argument) > 0):
            raise ExecutorError(
                f"'local:{argument}' must give the number of worker processes as a whole number from 1 to 9999, "
                f"for example 'local:4'; 'local' alone takes one worker per usable core ({_cores()} here)."
            )
        return cls(int(argument), limits=limits, memory_gb=found.get("memory_gb"))

    def run(self, jobs: Sequence[Job], work: Work, on_event: Callable[[Event], None]) -> None:
        """As :meth:`Executor.run`. A job whose worker died is begun again after the waiting ones: what killed it is most
        often memory, and that is least scarce when the neighbours are done. ExecutorError when ``work`` cannot be sent
        to another process or when workers do not even start."""
        threads, pickled = max(1, _cores() // self.workers), _pickled(work)
        idle, self._idle = self._idle, []
        with _Supervisor(pickled, self.workers, threads, on_event, self._bounds, idle) as supervisor:
            supervisor.run(jobs)
            # Of two runs at once, in threads, the first to end hands its workers on.
            if self._open and self._bounds.memory_gb is None and not self._idle:
                self._idle = supervisor.dismiss()
                for worker in self._idle:
                    worker.rest()

    def __enter__(self) -> Self:
        self._open = True
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._open = False
        _end(self._idle, gently=kind is None)


# The driver's side


@dataclass(frozen=True)
class _Bounds:
    memory_gb: float | None
    limits: Limits

    @property
    def tick(self) -> float | None:
        """Seconds between looks; None where nothing is limited."""
        return None if self == _Bounds(None, NO_LIMITS) else _TICK

    def exceeded(self, worker: _Worker) -> str | None:
        now = time.monotonic()
        if self.memory_gb is not None and worker.process.pid is not None:
            used = _resident(worker.process.pid)
            if used > self.memory_gb * 1e9:
                return f"it used {used / 1e9:.2f} GB of memory, more than the limit of {self.memory_gb:g} GB, and was ended"
        return self.limits.exceeded(now - worker.begun, now - worker.sign)


@dataclass(frozen=True)
class _Attempt:
    job: Job
    number: int


class _Worker:
    """A process, the pipe to it, and what it is doing: since ``begun``, and with a last ``sign``, both monotonic seconds.
    ``slot`` counts the workers that live side by side; it decides which GPU this one sees. ``unanswered`` counts the works that
    it was given and has not yet said to be ready for."""

    def __init__(self, work: bytes, threads: int, slot: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, far_end = context.Pipe()
        self.unanswered = 1
        self.attempt: _Attempt | None = None
        self.begun = self.sign = 0.0
        self.slot = slot
        self.inherited = _inherited(threads, slot)
        ours = _environment(threads, slot)
        # Not a daemon: those may not have children, and a user's data loader may want some.
        self.process = context.Process(target=_serve, args=(far_end, work, os.getpid()), name="pliant-worker")
        try:
            with environment(ours), _interrupts_held_back():
                self.process.start()
        except BaseException:
            self.connection.close()
            if self.process.pid is not None:
                self.process.kill()
            raise
        finally:
            # Only the worker may hold its end, or its death would never read as an end of file here.
            far_end.close()
        self._handle = _process_handle(self.process.pid)

    @property
    def ready(self) -> bool:
        return self.unanswered == 0

    def rest(self) -> None:
        """Let go of the work. The memory of a worker that the next run does not need must not be lacking to the others."""
        # The next run sees whether it is dead.
        with contextlib.suppress(OSError):
            self.connection.send(("release", None))

    def take(self, work: bytes, threads: int) -> bool:
        """Go over to ``work``. False where that takes a new process: this one is dead, or inherited what has changed since."""
        if self.exit_code(0) is not None or self.inherited != _inherited(threads, self.slot):
            return False
        try:
            self.connection.send(("work", work))
        except OSError:
            return False
        self.unanswered += 1
        return True

    @property
    def death(self) -> int:
        """What becomes readable when the process has died."""
        return self._handle if self._handle is not None else self.process.sentinel

    def exit_code(self, patience: float) -> int | None:
        """The exit code, as soon as there is one; None when there is none within ``patience`` seconds."""
        # Not join(timeout): that trusts the sentinel, which a worker's children can hold open and its work can close.
        deadline = time.monotonic() + patience
        while self.process.exitcode is None and time.monotonic() < deadline:
            time.sleep(0.005)
        return self.process.exitcode

    def bury(self) -> None:
        """Kill the process if it lives, and give everything of it back."""
        self.connection.close()
        self.process.kill()
        # A process in an uninterruptible system call (a dead file server) must not hang the driver too.
        if self.exit_code(_GRACE) is not None:
            self.process.close()
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


class _Supervisor:
    """One run. ``idle``: workers of an earlier one, which are taken before any is started."""

    def __init__(
        self,
        work: bytes,
        workers: int,
        threads: int,
        on_event: Callable[[Event], None],
        bounds: _Bounds,
        idle: list[_Worker],
    ) -> None:
        self._work = work
        self._bounds = bounds
        self._target = workers
        self._threads = threads
        self._on_event = on_event
        self._waiting: deque[_Attempt] = deque()
        self._workers: list[_Worker] = []
        self._idle = idle
        self._failed_starts = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        _end(self.dismiss(), gently=kind is None)

    def dismiss(self) -> list[_Worker]:
        """The workers, which are the caller's from now on."""
        workers = [*self._workers, *self._idle]
        self._workers.clear()
        self._idle.clear()
        return workers

    def run(self, jobs: Sequence[Job]) -> None:
        self._waiting.extend(_Attempt(job, 1) for job in jobs)
        while self._waiting or any(worker.attempt for worker in self._workers):
            self._fill()
            for worker in self._workers:
                self._dispatch(worker)
            events = set(wait([source for w in self._workers for source in (w.connection, w.death)], self._bounds.tick))
            for worker in list(self._workers):
                if worker.death in events:
                    # What it said before it died still counts: the job may have been finished.
                    while worker in self._workers and self._receive(worker, block=False):
                        pass
                    if worker in self._workers:
                        self._bury(worker)
                elif worker.connection in events and not self._receive(worker, block=True):
                    self._bury(worker)
            if self._bounds.tick is not None:
                self._enforce()

    def _enforce(self) -> None:
        for worker in [w for w in self._workers if w.attempt is not None]:
            why = self._bounds.exceeded(worker)
            if why is not None:
                self._bury(worker, why)

    def _fill(self) -> None:
        if self._failed_starts >= ATTEMPTS and self._workers:
            # Those that did start carry on alone.
            return
        busy = sum(worker.attempt is not None for worker in self._workers)
        while len(self._workers) < min(self._target, busy + len(self._waiting)):
            if self._idle:
                if self._idle[0].take(self._work, self._threads):
                    self._workers.append(self._idle.pop(0))
                else:
                    _end([self._idle.pop(0)], gently=True)
                continue
            try:
                taken = {worker.slot for worker in self._workers}
                slot = next(n for n in range(self._target) if n not in taken)
                self._workers.append(_Worker(self._work, self._threads, slot))
            except OSError as error:
                raise ExecutorError(
                    f"The system refuses to start a worker process: {error.strerror}. {len(self._workers)} of "
                    f"{self._target} were running. Ask for fewer ('local:{max(1, len(self._workers))}'), or '--on serial'."
                ) from error

    def _dispatch(self, worker: _Worker) -> None:
        if not worker.ready or worker.attempt is not None or not self._waiting:
            return
        attempt = self._waiting[0]
        try:
            worker.connection.send(("job", attempt.job))
        except OSError:
            # Dead already; its handle says so in the next round, and the job was never begun.
            return
        self._waiting.popleft()
        worker.attempt = attempt
        worker.begun = worker.sign = time.monotonic()
        self._tell("started", attempt)

    def _receive(self, worker: _Worker, block: bool) -> bool:
        """Handle one message; False when there is none any more."""
        try:
            if not block and not worker.connection.poll():
                return False
            kind, content = worker.connection.recv()
        except (EOFError, OSError):
            return False
        attempt = worker.attempt
        if kind == "ready":
            worker.unanswered -= 1
            self._failed_starts = 0
        elif kind == "unusable":
            raise _unpicklable(content)
        elif attempt is not None:
            if kind == "progress":
                worker.sign = time.monotonic()
                self._tell("progress", attempt, data=content)
                return True
            if kind == "full":
                raise StorageFullError(content)
            worker.attempt = None
            if kind == "finished":
                self._tell("finished", attempt)
            else:
                message, tainted = content
                if tainted:
                    self._remove(worker, patience=0)
                self._tell("failed", attempt, message)
        return True

    def _bury(self, worker: _Worker, why: str | None = None) -> None:
        attempt = worker.attempt
        ready = worker.ready
        code = self._remove(worker, patience=1 if why is None else 0)
        how = f"worker died: {why or _cause(code)}"
        if attempt is not None:
            if attempt.number < ATTEMPTS:
                self._waiting.append(_Attempt(attempt.job, attempt.number + 1))
                self._tell("retrying", attempt, how)
            else:
                self._tell("failed", attempt, f"{how}, in each of {ATTEMPTS} attempts")
        elif not ready:
            self._failed_starts += 1
            if self._failed_starts >= ATTEMPTS and not any(w.ready for w in self._workers):
                raise ExecutorError(
                    f"Worker processes die before they take any work ({how}), {self._failed_starts} times in a row; "
                    f"what they printed stands above. If a script of yours started this run, its top level must be "
                    f'guarded by `if __name__ == "__main__":`, because every worker imports it. Otherwise there may be '
                    f"too little memory for {self._target} workers: ask for fewer, or for '--on serial'."
                )

    def _remove(self, worker: _Worker, patience: float) -> int | None:
        """The exit code of the worker, or None when it had to be killed after ``patience`` seconds."""
        self._workers.remove(worker)
        code = worker.exit_code(patience)
        worker.bury()
        return code

    def _tell(
        self,
        kind: Kind,
        attempt: _Attempt,
        message: str = "",
        data: Mapping[str, float] | None = None,
    ) -> None:
        self._on_event(Event(kind, attempt.job.key, attempt.number, message, data or {}))


def _end(workers: list[_Worker], gently: bool) -> None:
    """End all workers, whatever interrupts it: an impatient second Ctrl-C must not leave orphans."""
    try:
        for worker in workers:
            # An idle worker reads the end of its pipe as the end of its work.
            worker.connection.close()
        if not (gently and _gone(workers)):
            for worker in workers:
                worker.process.terminate()
            _gone(workers)
    finally:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.bury()
        workers.clear()


def _gone(workers: Sequence[_Worker]) -> bool:
    """Wait for at most the grace period, and tell whether every worker has left."""
    deadline = time.monotonic() + _GRACE
    return all(worker.exit_code(deadline - time.monotonic()) is not None for worker in workers)


def _pickled(work: Work) -> bytes:
    try:
        return pickle.dumps(work)
    except (pickle.PicklingError, AttributeError, TypeError, RecursionError) as error:
        raise _unpicklable(str(error)) from error


def _unpicklable(reason: str) -> ExecutorError:
    return ExecutorError(
        f"The work cannot be sent to worker processes ({reason}). Lambdas, functions defined inside functions, and what "
        f"was typed at a prompt cannot be: use a function at the top level of a module that can be imported, or run in "
        f"this process with '--on serial' (on=\"serial\" in Python)."
    )


def _cause(code: int | None) -> str:
    if code is None:
        return "it closed its connection and was killed"
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
    hint = {
        "SIGKILL": " (often the out-of-memory killer)",
        "SIGSEGV": " (a crash in native code)",
        "SIGABRT": " (native code gave up)",
        "SIGBUS": " (often a full /dev/shm or a truncated mapped file)",
    }
    return name + hint.get(name, "")


def _cores() -> int:
    """The cores that this process may use (taskset, cpusets, Slurm), which may be fewer than the machine has."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        # Not on macOS or Windows.
        return os.cpu_count() or 1


def _process_handle(pid: int | None) -> int | None:
    # multiprocessing's own sentinel is a pipe that the worker's forked children inherit, and stays silent while one lives.
    if sys.platform != "linux" or pid is None:
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _devices() -> list[str]:
    """The name of each GPU that this process may use. Workers take turns: all would use the first."""
    given = os.environ.get(_DEVICES)
    if given is not None:
        return [name for name in given.split(",") if name]
    try:
        return [str(n) for n in range(len(os.listdir("/proc/driver/nvidia/gpus")))]
    except OSError:
        return []


def _environment(threads: int, slot: int) -> dict[str, str]:
    """What a worker's environment has otherwise than ours."""
    devices = _devices()
    return {**dict.fromkeys(_THREADS, str(threads)), **({_DEVICES: devices[slot % len(devices)]} if devices else {})}


def _inherited(threads: int, slot: int) -> tuple[dict[str, str], str, list[str]]:
    """What a worker that is started now gets from this process: environment, working directory, places to import from."""
    variables = {name: value for name, value in os.environ.items() if name not in _UNSAID}
    return {**variables, **_environment(threads, slot)}, os.getcwd(), list(sys.path)


def _resident(pid: int) -> int:
    """Bytes of memory that a process and its children hold; what they share counts for each."""
    total = 0
    with contextlib.suppress(OSError, ValueError, IndexError):
        total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                total += _resident(int(child))
    return total


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """A worker that starts with SIGINT blocked prints no traceback when Ctrl-C meets it while it still imports."""
    if sys.platform == "win32":
        yield
        return
    # Where it is not running yet, the start of this helper would unblock SIGINT in between.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# The worker's side


def _serve(connection: Connection, pickled_work: bytes, driver: int) -> None:
    """A worker's life: jobs, of one work after the other, until the driver closes the pipe or dies."""
    # Ctrl-C reaches the whole foreground group; the driver alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    _die_with(driver)

    def report(data: Mapping[str, float]) -> None:
        connection.send(("progress", {name: float(value) for name, value in data.items()}))

    try:
        while True:
            try:
                work: Work = pickle.loads(pickled_work)
            except BaseException as error:
                connection.send(("unusable", describe(error)))
                return
            connection.send(("ready", None))
            while (message := connection.recv())[0] == "job":
                connection.send(_done(work, message[1], report))
            if isinstance(work, Releasable):
                work.release()
            del work, pickled_work
            _, pickled_work = connection.recv()
    except (EOFError, ConnectionError):
        return


def _done(work: Work, job: Job, report: Callable[[Mapping[str, float]], None]) -> tuple[str, object]:
    try:
        work(job, report)
    except StorageFullError as error:
        return "full", str(error)
    except BaseException as error:
        # These may leave the process unfit for the next job (a CUDA error poisons its context), so it is replaced.
        tainted = isinstance(error, RuntimeError | MemoryError | SystemError)
        return "failed", (describe(error), tainted)
    return "finished", None


def _die_with(driver: int) -> None:
    """Make sure that this process does not outlive the driver, however that dies."""
    if not _death_signal():
        threading.Thread(target=_watch_driver, name="pliant-watch", daemon=True).start()
    if sys.platform != "win32" and os.getppid() != driver:
        # It died before we could ask to be told.
        os._exit(1)


def _death_signal() -> bool:
    """Ask the kernel to kill us with our parent; holds even while a native call keeps every Python thread waiting."""
    if sys.platform != "linux":
        return False
    import ctypes

    set_parent_death_signal = 1
    try:
        return bool(ctypes.CDLL(None).prctl(set_parent_death_signal, int(signal.SIGKILL), 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def _watch_driver() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
