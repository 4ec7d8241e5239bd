"""Jobs as tasks of a Ray cluster: "ray" (one on this machine), "ray:auto", "ray:10.0.0.1:6379", "ray://head:10001".

No shared file system is needed. What a task says goes through a queue of Ray's beside the driver, because the results of a task
are seen only at its end, and a checkpoint must be here before its worker dies.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, Final, Self

from pliant.errors import MissingExtraError
from pliant.lab.executors.interface import NO_LIMITS, Event, ExecutorError, Job, Limits, Settings, Work, checked
from pliant.lab.executors.remote import Letter, Task, Ticket, perform, pickled, supervise

_PATIENCE: Final = 0.5
"""Seconds between looks at the mailbox while no task ends."""

_KNOWN: Final = {"address": str, "cpus": float, "gpus": float, "memory_gb": float, "minutes": float, "silent_minutes": float}


class RayExecutor:
    """Runs jobs as Ray tasks.

    Args:
        address: of a cluster; None starts one on this machine for as long as the jobs take, unless this process has one.
        cpus, gpus: what each job takes of a node; fractions share one. ``gpus`` None: a whole one where the cluster has any.
        memory_gb: what each job takes of a node's memory, in 1e9 bytes; None: it is not counted.
        limits: when an attempt is ended from here.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        cpus: float = 1.0,
        gpus: float | None = None,
        memory_gb: float | None = None,
        limits: Limits = NO_LIMITS,
    ) -> None:
        self.address: Final = address
        self.name: Final = "ray" if address is None else address if address.startswith("ray://") else f"ray:{address}"
        self._cpus, self._gpus, self._memory, self._limits = cpus, gpus, memory_gb, limits

    @classmethod
    def parse(cls, argument: str | None, settings: Settings) -> Self:
        found = checked("ray", settings, _KNOWN)
        address = found.pop("address", None) if argument is None else argument
        if address == "":
            raise ExecutorError(
                "'ray:' must give the address of a cluster, for example 'ray:auto' (the one that `ray start` began on this "
                "machine), 'ray:10.0.0.1:6379' or 'ray://head:10001'; 'ray' alone starts one here."
            )
        if address is not None and address.startswith("//"):
            address = f"ray:{address}"
        limits = Limits(found.pop("minutes", None), found.pop("silent_minutes", None))
        return cls(address, limits=limits, **found)

    def run(self, jobs: Sequence[Job], work: Work, on_event: Callable[[Event], None]) -> None:
        """As :meth:`Executor.run`. ExecutorError when the cluster cannot be reached, or when ``work`` cannot be sent there;
        MissingExtraError without the package."""
        try:
            import ray
        except ModuleNotFoundError as error:
            raise MissingExtraError("The executor 'ray' needs the package ray. Run pip install 'pliant[lab,ray]'.") from error
        if jobs:
            cluster = _Cluster(ray, work, self.address, self._cpus, self._gpus, self._memory)
            supervise(jobs, work, on_event, cluster, self._limits, portable=True)


class _Cluster:
    def __init__(
        self, ray: Any, work: Work, address: str | None, cpus: float, gpus: float | None, memory_gb: float | None
    ) -> None:
        self._ray = ray
        self._work = work
        self._address = address
        self._cpus, self._gpus, self._memory_gb = cpus, gpus, memory_gb
        self._ours = False
        self._tasks: dict[Any, Ticket] = {}

    def __enter__(self) -> Self:
        from ray.util.queue import Queue
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        ray = self._ray
        code = pickled(self._work, ray.cloudpickle)
        if not ray.is_initialized():
            self._ours = True
            options = {"address": self._address} if self._address else {"address": "local", "include_dashboard": False}
            try:
                ray.init(**options, log_to_driver=False, logging_level="ERROR")
            except Exception as error:
                raise ExecutorError(
                    f"There is no Ray cluster that can be used at {self._address or 'this machine'} ({type(error).__name__}: "
                    f"{' '.join(str(error).split())[:300]}). Start one (`ray start --head`), mend the address, or leave it "
                    f"out: '--on ray' starts one on this machine."
                ) from error
        if self._gpus is None:
            self._gpus = 1.0 if ray.cluster_resources().get("GPU") else 0.0
        # Beside the driver, whose end is the run's: on another node it could be lost alone, so not softly either.
        beside = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._mailbox = Queue(actor_options={"num_cpus": 0, "max_restarts": -1, "scheduling_strategy": beside}).actor
        self._code = ray.put(code)
        memory = {} if self._memory_gb is None else {"memory": int(self._memory_gb * 1e9)}
        self._run = ray.remote(_run).options(num_cpus=self._cpus, num_gpus=self._gpus, max_retries=0, **memory)
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if not self._ray.is_initialized():
            return
        if self._ours:
            self._ray.shutdown()
            return
        for task in self._tasks:
            self._ray.cancel(task, force=True)
        self._ray.kill(self._mailbox)

    def room(self, under_way: int) -> int:
        there = self._ray.cluster_resources()
        slots = min(
            int(there.get(name, 0) / each)
            for name, each in (("CPU", self._cpus), ("GPU", self._gpus or 0.0), ("memory", (self._memory_gb or 0.0) * 1e9))
            if each
        )
        # As many again wait in the cluster, so that no node idles between two jobs. What fits nowhere may when a node joins.
        return max(1, 2 * slots) - under_way

    def submit(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            self._tasks[self._run.remote(self._code, self._mailbox, task)] = task.ticket

    def listen(self) -> Iterator[tuple[Ticket, Letter]]:
        ray = self._ray
        if not self._tasks:
            return
        ended, _ = ray.wait(list(self._tasks), num_returns=1, timeout=_PATIENCE)
        ended, _ = ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0) if ended else (ended, [])
        # After the tasks: they end when their last letter is in the mailbox.
        with contextlib.suppress(ray.exceptions.RayError):
            waiting = ray.get(self._mailbox.qsize.remote())
            for ticket, words in ray.get(self._mailbox.get_nowait_batch.remote(waiting)) if waiting else ():
                yield ticket, Letter(**words)
        for task in ended:
            ticket = self._tasks.pop(task, None)
            if ticket is None:
                continue
            try:
                ray.get(task)
            except ray.exceptions.TaskCancelledError:
                continue
            except ray.exceptions.RayTaskError as error:
                raise ExecutorError(
                    f"The work cannot be begun on a node of the Ray cluster: {' '.join(str(error.cause).split())[:500]}. Every "
                    f"node needs the same Python, Pliant and packages as this machine."
                ) from error
            except ray.exceptions.RayError as error:
                yield ticket, Letter("lost", text=_cause(error))
            else:
                yield ticket, Letter("lost", text="its last words were lost with a node of the cluster")

    def cancel(self, ticket: Ticket) -> None:
        for task, its in list(self._tasks.items()):
            if its == ticket:
                self._ray.cancel(task, force=True)
                del self._tasks[task]


def _run(code: bytes, mailbox: Any, task: Task) -> None:
    """In a worker of the cluster."""
    import ray

    on_its_way: list[Any] = []

    def send(letter: Letter) -> None:
        # As plain values: the queue's process then needs no Pliant.
        sent = mailbox.put_nowait.remote((task.ticket, asdict(letter)))
        if letter.kind in ("parcel", "ended"):
            # One parcel at a time, so that a slow driver does not fill this node's memory. A mailbox that is gone is the
            # driver's affair: it begins the attempt again.
            for earlier in on_its_way:
                with contextlib.suppress(ray.exceptions.RayError):
                    ray.get(earlier)
            on_its_way[:] = [sent]

    work = ray.cloudpickle.loads(code)
    last = perform(work, task, send)
    send(last)
    for sent in on_its_way:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(sent)
    if last.tainted:
        os._exit(1)


def _cause(error: Exception) -> str:
    name = type(error).__name__
    words = {
        "WorkerCrashedError": "its process ended unexpectedly (killed, out of memory, or a crash in native code)",
        "NodeDiedError": "its node was lost",
        "ObjectLostError": "its node was lost",
        "OutOfMemoryError": "its node ran out of memory, and Ray ended it",
        "LocalRayletDiedError": "its node was lost",
    }
    return words.get(name, f"{name}: {' '.join(str(error).split())[:300]}")
