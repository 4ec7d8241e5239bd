"""Studies on Ray and Slurm give what they give here. Needs the extras ``ray`` and ``slurm``; what lacks one skips."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
import workloads
from test_executors import kinds, light, of
from test_executors import run as run_jobs
from test_faults import children

from pliant.lab import Study, run
from pliant.lab.executors import Event, create
from pliant.lab.result import Result


def numbers(result: Result) -> list[dict[str, object]]:
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in result.rows]


def same(one: Result, two: Result) -> None:
    """The same rows, curves and files, but for times and what says where a trial ran."""
    assert numbers(one) == numbers(two)
    for spec in one.trials:
        a, b = one.store.trial(spec.key), two.store.trial(spec.key)
        assert {f.name for f in a.path.iterdir()} == {f.name for f in b.path.iterdir()}
        for name in ("predictions.safetensors", "spec.json"):
            assert a.read(name) == b.read(name)
        left, right = a.result(), b.result()
        assert left is not None
        assert right is not None
        assert set(left) == set(right)
        assert [{**e, "seconds": 0} for e in a.history()] == [{**e, "seconds": 0} for e in b.history()]


__all__ = ["light"]  # The fixture.


class Log:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def planned(self, *_: Any) -> None: ...

    def event(self, event: Event, trial: Any) -> None:
        self.events.append(event)

    def finished(self) -> None: ...


@pytest.fixture
def own() -> Study:
    """A study of a user's own network, activation and data."""
    x = np.random.default_rng(0).normal(size=(60, 30))
    return Study(
        name="own",
        data=(x, (x[:, 0] > 0).astype(int)),
        model=networks.tiny,
        activations=["relu", networks.MyReLU],
        folds=2,
        repeats=1,
        epochs=2,
    )


# Slurm


def slurm(folder: Path, **settings: object) -> str:
    pytest.importorskip("submitit", reason="the extra 'slurm' is not installed")
    given = {"cluster": "local", "parallel": 2, "poll_seconds": 0.1, "folder": f"'{folder / 'jobs'}'", **settings}
    return ",".join(["slurm", *(f"{name}={value}" for name, value in given.items())])


@pytest.mark.usefixtures("light")
def test_jobs_through_submitit(tmp_path: Path, light: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(light), os.environ.get("PYTHONPATH", "")]))
    jobs = workloads.jobs(tmp_path, ["square", "raise", "die once", "square"])
    events = run_jobs(slurm(tmp_path), jobs)
    assert kinds(events, jobs[0]) == kinds(events, jobs[3]) == ["started", "progress", "progress", "progress", "finished"]
    assert kinds(events, jobs[1]) == ["started", "failed"]
    assert of(events, jobs[1])[1].message.startswith("ValueError: no such number")
    assert kinds(events, jobs[2]) == ["started", "retrying", "started", "finished"]
    assert not (tmp_path / "jobs").exists(), "what went well leaves nothing behind"


@pytest.mark.slow
@pytest.mark.parametrize("shared", ["true", "false"])
def test_a_study_through_submitit_gives_the_same(small: Study, tmp_path: Path, shared: str) -> None:
    same(run(small, store=tmp_path / "a"), run(small, store=tmp_path / "b", on=slurm(tmp_path, shared=shared)))


@pytest.mark.slow
def test_a_requeued_job_goes_on(small: Study, tmp_path: Path) -> None:
    """Submitit's own signal, as Slurm sends it when the time is over; what is requeued here starts over as a second job."""
    study = small.override(["train.epochs=300"])
    told: list[int] = []

    class Interrupts(Log):
        def event(self, event: Event, trial: Any) -> None:
            super().event(event, trial)
            if event.kind == "progress" and event.data["epoch"] > 5 and not told:
                told.append(1)
                for pid in (int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()):
                    with contextlib.suppress(OSError):
                        command = Path(f"/proc/{pid}/cmdline").read_bytes()
                        if b"submitit.core._submit" in command and str(tmp_path).encode() in command:
                            os.kill(pid, signal.SIGUSR2)

    log = Interrupts()
    result = run(study, store=tmp_path / "b", on=slurm(tmp_path, shared="false"), progress=log, checkpoint_every=0)
    assert told
    assert result.counts["done"] == 4
    assert numbers(result) == numbers(run(study, store=tmp_path / "a"))
    resumed = [result.store.trial(s.key).result()["provenance"]["resumed_from_epoch"] for s in result.trials]  # type: ignore[index]
    assert any(resumed)


@pytest.mark.slow
def test_a_real_slurm(small: Study, own: Study, tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="the extra 'slurm' is not installed")
    if shutil.which("sinfo") is None or os.system("sinfo --noheader >/dev/null 2>&1") != 0:
        pytest.skip("no Slurm answers on this machine (sinfo)")
    for study, shared in ((small, "true"), (own, "false")):
        one = run(study, store=tmp_path / f"{study.name}-a")
        same(one, run(study, store=tmp_path / f"{study.name}-b", on=slurm(tmp_path, cluster="slurm", shared=shared)))


# Ray


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Any]:
    """A cluster of two raylets on this machine: the driver's, and one that a test may kill."""
    ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_study_on_ray_gives_the_same(two_nodes: Any, small: Study, own: Study, tmp_path: Path) -> None:
    for study in (small, own):
        same(run(study, store=tmp_path / f"{study.name}-a"), run(study, store=tmp_path / f"{study.name}-b", on="ray:auto"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_jobs_on_ray(two_nodes: Any, tmp_path: Path) -> None:
    jobs = workloads.jobs(tmp_path, ["square", "raise", "die once", "die", "poison", "square"])
    events = run_jobs("ray:auto", jobs)
    assert kinds(events, jobs[0]) == ["started", "progress", "progress", "progress", "finished"]
    assert kinds(events, jobs[1]) == kinds(events, jobs[4]) == ["started", "failed"]
    assert kinds(events, jobs[2]) == ["started", "retrying", "started", "finished"]
    assert kinds(events, jobs[3]) == ["started", "retrying"] * 2 + ["started", "failed"]
    assert "its process ended unexpectedly" in of(events, jobs[3])[-1].message
    (poisoned,) = workloads.attempts(tmp_path, jobs[4])
    assert workloads.attempts(tmp_path, jobs[5]) != [poisoned]
    with pytest.raises(ZeroDivisionError):
        create("ray:auto").run(jobs[:1], workloads.work, lambda event: 1 // (event.kind != "progress"))


class Kills(Log):
    """Kills a node of the cluster, or a worker of it, with SIGKILL, ``delay`` seconds after a trial has come a good way."""

    def __init__(self, cluster: Any, node: Any, what: str, delay: float) -> None:
        super().__init__()
        self.cluster, self.node, self.what, self.delay = cluster, node, what, delay
        self.killer: threading.Timer | None = None

    def event(self, event: Event, trial: Any) -> None:
        super().event(event, trial)
        if event.kind == "progress" and event.data["epoch"] > 20 and self.killer is None:
            self.killer = threading.Timer(self.delay, self.kill)
            self.killer.start()

    def kill(self) -> None:
        if self.what == "node":
            self.cluster.remove_node(self.node, False)
            return
        (raylet,) = self.node.all_processes["raylet"]
        for pid in children(raylet.process.pid):
            with contextlib.suppress(OSError):
                if b"ray::_run" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
                    return


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", ["node", "worker"])
def test_one_is_lost_under_a_study(two_nodes: Any, small: Study, tmp_path: Path, what: str) -> None:
    """A second node joins, and it or a worker of it is killed while it trains: the trials go on from what had come back."""
    study = small.override(["train.epochs=200"])
    whole = run(study, store=tmp_path / "whole", stack=1)
    chance = random.Random(7)
    resumed: list[int] = []
    rounds = int(os.environ.get("PLIANT_FAULTS", "3"))
    for round_ in range(rounds):
        node = two_nodes.add_node(num_cpus=2)
        log = Kills(two_nodes, node, what, chance.uniform(0, 0.5))
        result = run(study, store=tmp_path / str(round_), on="ray:auto", progress=log, stack=1, checkpoint_every=0)
        assert log.killer is not None
        log.killer.join()
        if what == "worker":
            two_nodes.remove_node(node, False)
        assert numbers(result) == numbers(whole)
        for event in log.events:
            if event.kind == "retrying":
                provenance = result.store.trial(event.key).result()["provenance"]  # type: ignore[index]
                resumed.append(provenance["resumed_from_epoch"] or 0)
    print(f"{what} lost {rounds} times; trials interrupted {len(resumed)}, went on from epochs {resumed}; trials lost 0")
    assert resumed, "no kill met a trial"
