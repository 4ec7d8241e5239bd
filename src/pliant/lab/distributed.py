"""One trial on several processes of this machine: torch's DistributedDataParallel, a process a GPU, or several on the CPU.

What is different from one process, and therefore part of a trial's identity through ``train.world_size``:

* sums are rounded in another order; without batch normalisation and dropout the numbers are otherwise those of one process;
* batch normalisation sees each process's share of a batch, unless ``train.sync_batch_norm`` (on GPUs); the running statistics
  are those of the first process;
* dropout, and activations that draw random numbers, draw apart in each process.

The batches are the same examples in the same order, learned coefficients are averaged with all other gradients, and schedules
count the same steps everywhere. The first process alone writes into the trial's directory; a checkpoint holds what one of a
single process holds.
"""

from __future__ import annotations

import contextlib
import datetime
import multiprocessing
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist

from pliant.errors import PliantError
from pliant.lab.datasets import Data
from pliant.lab.ranks import Ranks
from pliant.lab.store import StorageFullError, Store
from pliant.lab.study import Custom, TrialSpec, data_of
from pliant.lab.train import DeviceError, device_of, train

__all__ = ["RankError", "train_together"]

_PATIENCE: Final = datetime.timedelta(minutes=30)
"""How long a process waits for the others: they may have to read their data first."""
_GRACE: Final = 5.0
"""Seconds that the others get to say what went wrong once one has failed."""


class RankError(PliantError, RuntimeError):
    """One of the processes that train a trial together failed; the message is its own."""


def train_together(
    spec: TrialSpec,
    custom: Custom,
    store: Path,
    report: Callable[[Mapping[str, float]], None] = lambda _: None,
    *,
    checkpoint_every: float = 20.0,
    threads: int | None = None,
) -> None:
    """Run a trial on ``spec.train.world_size`` new processes of this machine, as :func:`pliant.lab.train.train` does in one.

    The caller holds the trial's lock and has begun it. The processes import the program that starts them, which therefore needs
    an ``if __name__ == "__main__":`` guard, and networks of its own must be importable. None outlives the call.

    Args:
        store: the store of the trial, on this machine.
        threads: of each process; default this process's, divided among them.

    Raises:
        DeviceError: fewer GPUs than processes; ``sync_batch_norm`` without GPUs. StorageFullError: the disk is full.
        RankError: a process failed or died; what was finished stays, and a checkpoint serves the next attempt.
    """
    devices = _devices(spec)
    size = len(devices)
    context = _context()
    threads = threads or max(1, torch.get_num_threads() // size)
    processes: list[Any] = []
    lines: list[Connection] = []
    with tempfile.TemporaryDirectory(prefix="pliant-ranks-") as folder:
        meeting = str(Path(folder) / "meeting")
        try:
            for rank, device in enumerate(devices):
                line, far = context.Pipe(duplex=False)
                lines.append(line)
                ranks = Ranks(rank, size, device)
                surroundings = (dict(os.environ), threads, torch.get_default_dtype())
                # As the text that the store keeps, which is what every worker gets.
                arguments = (ranks, spec.model_dump_json(), custom, str(store), meeting, checkpoint_every, surroundings, far)
                process = context.Process(target=_serve, args=arguments, name=f"pliant-rank-{rank}")
                processes.append(process)
                process.start()
                far.close()
            _listen(processes, lines, report)
        finally:
            for process in processes:
                if process.pid is not None:
                    process.kill()
                    process.join()
            for line in lines:
                line.close()


def _context() -> Any:
    """A fork server imports torch once, and all later trials of this process begin in a moment; elsewhere every process does.
    Never a fork of this process: torch's threads, and CUDA, do not survive one."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # The second is imported by the first step of an optimizer, and takes longer than torch itself.
    context.set_forkserver_preload([__name__, "torch._dynamo"])
    return context


def _devices(spec: TrialSpec) -> list[torch.device]:
    """Where each process trains.

    Raises:
        DeviceError: there are not enough devices, or they cannot do what the study asks for.
    """
    size, first = spec.train.world_size, device_of(spec)
    if spec.train.sync_batch_norm and first.type != "cuda":
        raise DeviceError(
            f"train.sync_batch_norm is torch's SyncBatchNorm, which works on GPUs alone, and trials run on {first} here. Leave "
            "it out: each process then normalises with the statistics of its own share of a batch."
        )
    if first.type == "cpu":
        return [first] * size
    there = torch.cuda.device_count() if first.type == "cuda" else 1
    if there < size:
        raise DeviceError(
            f"train.world_size = {size} needs a GPU for each process, and this machine has {there}. Set world_size to {there} "
            "or less, or train on the CPU with the environment variable PLIANT_DEVICE=cpu."
        )
    return [torch.device(first.type, rank) for rank in range(size)]


def _listen(processes: list[Any], lines: list[Connection], report: Callable[[Mapping[str, float]], None]) -> None:
    """Pass on what the first process reports, until all are done or one has failed."""
    open_lines = dict(enumerate(lines))
    failures: dict[int, tuple[str, str]] = {}
    done: set[int] = set()
    while open_lines:
        ready = wait(list(open_lines.values()), timeout=_GRACE if failures else None)
        if not ready:
            break
        for rank, line in list(open_lines.items()):
            if line not in ready:
                continue
            try:
                kind, content = line.recv()
            except (EOFError, OSError):
                del open_lines[rank]
                if rank not in done and rank not in failures:
                    processes[rank].join(_GRACE)
                    failures[rank] = ("died", f"exit code {processes[rank].exitcode}")
                continue
            if kind == "progress":
                report(content)
            elif kind == "done":
                done.add(rank)
            else:
                failures[rank] = (kind, content)
    if not failures:
        for process in processes:
            process.join(_GRACE)
        return
    # A process that waits for a dead one fails as well, with a message about its connection.
    for rank, (kind, content) in sorted(failures.items(), key=lambda item: (item[1][0] != "failed", item[0])):
        if kind == "full":
            raise StorageFullError(content)
        if kind == "failed":
            raise RankError(f"process {rank} of {len(processes)}: {content}")
    rank, (_, content) = min(failures.items(), key=lambda item: item[1][0] != "died")
    raise RankError(f"process {rank} of {len(processes)} died: {content}")


def _serve(
    ranks: Ranks,
    payload: str,
    custom: Custom,
    store: str,
    meeting: str,
    checkpoint_every: float,
    surroundings: tuple[dict[str, str], int, torch.dtype],
    line: Connection,
) -> None:
    """The life of one of the processes."""
    threading.Thread(target=_die_with_parent, name="pliant-watch", daemon=True).start()
    environment, threads, dtype = surroundings
    # A fork server has the environment of the moment at which it began.
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
    spec = TrialSpec.model_validate_json(payload)
    connected = False

    def report(row: Mapping[str, float]) -> None:
        line.send(("progress", {name: float(value) for name, value in row.items()}))

    try:
        _connect(ranks, meeting)
        connected = True
        trial = Store(Path(store)).trial(spec.key)
        data = data_of(spec.dataset, custom)
        assert isinstance(data, Data)
        train(spec, data, custom, trial, report, checkpoint_every=checkpoint_every, ranks=ranks)
        # Nobody leaves while another still needs it.
        dist.barrier()
        line.send(("done", None))
    except StorageFullError as error:
        line.send(("full", str(error)))
    except (EOFError, BrokenPipeError):
        return
    except BaseException as error:
        kind = "lost" if isinstance(error, dist.DistError) or "onnection" in str(error) else "failed"
        with contextlib.suppress(OSError):
            line.send((kind, f"{type(error).__name__}: {error}"))
        # Without it the others would wait for what this process can no longer send.
        os._exit(1)
    finally:
        line.close()
        if connected:
            with contextlib.suppress(RuntimeError):
                dist.destroy_process_group()


def _connect(ranks: Ranks, meeting: str) -> None:
    if sys.platform == "linux":
        # All of them are on this machine, so no other has to be able to reach them.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    assert ranks.device is not None
    backend = "gloo"
    if ranks.device.type == "cuda":
        torch.cuda.set_device(ranks.device)
        backend = "nccl" if dist.is_nccl_available() else "gloo"
    dist.init_process_group(
        backend, init_method=Path(meeting).as_uri(), rank=ranks.rank, world_size=ranks.size, timeout=_PATIENCE
    )


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
