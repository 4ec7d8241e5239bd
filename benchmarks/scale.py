"""What the engine itself costs at 100,000 trials: planning, listing, reporting, scheduling, and many writers on one store.

    python benchmarks/scale.py                        # writes benchmarks/results/scale-cpu.json
    python benchmarks/scale.py --trials 10000 --only plan,status

Nothing is trained. ``plan``, ``status``, ``merged`` and ``report`` work on a store of made-up finished trials of srelu-wdbc (16
activations, 5 folds); their files are written without fsync, which a benchmark of reading does not need. ``schedule`` runs a
study whose work is a look at the clock, on 64 simulated nodes that each have a queue of their own and write into one store
directly; ``writers`` lets real processes finish trials in one store at once, fsync included.

Times are of one process, the processor's and the wall's; on a machine that does other things the former says more.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import io
import json
import multiprocessing
import os
import platform
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pliant
from pliant.lab.executors import Event, Job
from pliant.lab.executors.interface import Work
from pliant.lab.result import Result
from pliant.lab.run import _Desk, _listed
from pliant.lab.status import TRIALS, Watch
from pliant.lab.store import Store, TrialBusyError
from pliant.lab.study import Study, TrialSpec, plan

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "lab"))
import synthetic_store

EPOCHS = 5
HERE = Path(__file__).parent


@contextlib.contextmanager
def timed(found: dict[str, Any], name: str, trials: int = 0) -> Iterator[None]:
    cpu, wall = time.process_time(), time.perf_counter()
    yield
    print(f"{name:28} {time.process_time() - cpu:9.2f} s of processor time, {time.perf_counter() - wall:9.2f} s", flush=True)
    name = f"{name}, {trials} trials" if trials else name
    found[name] = {
        **({"trials": trials} if trials else {}),
        "cpu_seconds": round(time.process_time() - cpu, 3),
        "wall_seconds": round(time.perf_counter() - wall, 3),
    }


def without_fsync() -> Any:
    return mock.patch.object(os, "fsync")


def filled(root: Path, study: Study) -> tuple[Store, tuple[TrialSpec, ...]]:
    """A store with every trial finished, as a driver leaves it."""
    with without_fsync():
        store = synthetic_store.many(root, study)
        trials = plan(study)
        store.write_json(store.study(study.directory) / "study.json", study.model_dump(mode="json"))
        store.write_json(store.study(study.directory) / TRIALS, _listed(study, trials))
    return store, trials


# --- a store that is there --------------------------------------------------------------------------------------------


def reading(found: dict[str, Any], root: Path, trials: int, only: Sequence[str]) -> None:
    study = synthetic_store.study_of(trials // 80, EPOCHS)
    with timed(found, "build the store", trials):
        store, _ = filled(root / "store", study)
    with timed(found, "plan: trials", trials):
        specs = plan(study)
    with timed(found, "plan: keys", trials):
        keys = {spec.key for spec in specs}
    assert len(keys) == trials
    if "list" in only:
        with timed(found, "list: keys of the store", trials):
            assert len(store.keys()) == trials
    if "plan" in only:
        from pliant.cli import app

        file = str(study_file(root, study))
        for again in ("", ", again"):
            with timed(found, f"pliant plan{again}", trials), contextlib.redirect_stdout(io.StringIO()) as said:
                command(app, "plan", file, "--store", str(store.root), "--json")
            assert json.loads(said.getvalue())["outcomes"]["done"] == trials
    if "status" in only:
        watch = Watch(store, study.directory)
        with timed(found, "pliant status: first look", trials):
            assert watch.look().counts["done"] == trials
        with timed(found, "pliant status: next look", trials):
            assert watch.look().counts["done"] == trials
    if "run" in only:
        from pliant.lab import run

        with timed(found, "pliant run: nothing left", trials):
            run(study, store=store.root)
    if "report" in only:
        for again in ("", ", again"):
            with timed(found, f"pliant report{again}", trials):
                # As the command does: the verdict is shown, then the page is written.
                result = Result(study, store)
                result.verdict()
                result.report(root / "out")
        with timed(found, "pliant status: first look, after a report", trials):
            assert Watch(store, study.directory).look().counts["done"] == trials
    found[f"peak memory, {trials} trials"] = {"mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}


def study_file(root: Path, study: Study) -> Path:
    path = root / f"{study.name}.toml"
    lines = [f"name = {json.dumps(study.name)}", f"activations = {json.dumps(list(study.activations))}", "[dataset]"]
    lines += [f"name = {json.dumps(study.dataset.name)}", "[dataset.options]"]
    lines += [f"{k} = {json.dumps(v)}" for k, v in study.dataset.options.items()]
    lines += ["[model]", f"name = {json.dumps(study.model.name)}", "[model.options]"]
    lines += [f"{k} = {json.dumps(v)}" for k, v in study.model.options.items()]
    for section in ("protocol", "train"):
        lines += toml(section, getattr(study, section).model_dump(mode="json", exclude_defaults=True))
    path.write_text("\n".join(lines) + "\n")
    assert {s.key for s in plan(Study.from_toml(path))} == {s.key for s in plan(study)}
    return path


def toml(section: str, values: dict[str, Any]) -> list[str]:
    plain = [f"{k} = {json.dumps(v)}" for k, v in values.items() if not isinstance(v, dict)]
    return [f"[{section}]", *plain, *(x for k, v in values.items() if isinstance(v, dict) for x in toml(f"{section}.{k}", v))]


def command(app: Any, *arguments: str) -> None:
    app.app(list(arguments), standalone_mode=False)


# --- a simulated cluster ----------------------------------------------------------------------------------------------


class Cluster:
    """An executor of ``nodes`` simulated nodes with ``slots`` each: jobs take made-up time on a clock of its own, their work is
    really done (in this process), and a node that goes down gives its jobs back."""

    def __init__(
        self, nodes: int, slots: int, seconds: Callable[[int], float], downs: Sequence[tuple[float, int]] = ()
    ) -> None:
        self.name = f"cluster:{nodes}x{slots}"
        self._slots = [node for node in range(nodes) for _ in range(slots)]
        self._seconds = seconds
        self._downs = sorted(downs)
        self.clock = 0.0
        self.retried = 0
        self.busy = 0.0

    def run(self, jobs: Sequence[Job], work: Work, on_event: Callable[[Event], None]) -> None:
        waiting = list(enumerate(jobs))[::-1]
        free = self._slots[::-1]
        running: list[tuple[float, int, int, int]] = []
        dead: set[int] = set()
        attempts: dict[int, int] = {}
        downs = list(self._downs)
        while waiting or running:
            while waiting and free:
                node = free.pop()
                if node in dead:
                    continue
                place, job = waiting.pop()
                attempts[place] = attempts.get(place, 0) + 1
                on_event(Event("started", job.key, attempts[place]))
                took = self._seconds(place)
                heapq.heappush(running, (self.clock + took, place, node, attempts[place]))
            self.clock, place, node, attempt = heapq.heappop(running)
            while downs and downs[0][0] <= self.clock:
                dead.add(downs.pop(0)[1])
            if node in dead:
                self.retried += 1
                on_event(Event("retrying", jobs[place].key, attempt, "the node went down"))
                waiting.append((place, jobs[place]))
                continue
            self.busy += self._seconds(place)
            work(jobs[place], lambda _: None)
            on_event(Event("finished", jobs[place].key, attempt))
            free.append(node)


def scheduling(found: dict[str, Any], root: Path, trials: int, nodes: int, slots: int) -> None:
    """Drive a whole study through the desk and the store on simulated nodes, of which some go down."""
    study = synthetic_store.study_of(trials // 80, EPOCHS)
    specs = plan(study)
    by_key = {spec.key: spec for spec in specs}
    store = Store(root / "cluster")
    store.study(study.directory)
    finished = 0

    class Count:
        def planned(self, *_: Any) -> None: ...
        def finished(self) -> None: ...
        def event(self, event: Event, trial: TrialSpec) -> None:
            nonlocal finished
            finished += event.kind == "finished"

    def work(job: Job, report: Any) -> None:
        for values in json.loads(job.payload):
            spec = TrialSpec.model_validate(values)
            trial = store.trial(spec.key)
            with trial.lock():
                if trial.outcome() not in ("done", "diverged"):
                    synthetic_store.finish(store, spec)

    # Between one and three simulated seconds, the same in every run.
    cluster = Cluster(nodes, slots, lambda place: 1 + (place * 2654435761 % 2**32) / 2**31, [(5.0 + i, i) for i in range(3)])
    desk = _Desk(store, by_key, Count())
    name = f"schedule: {nodes} nodes x {slots}"
    with timed(found, name), without_fsync():
        cluster.run([desk.job([spec]) for spec in specs], work, desk.on_event)
    assert finished == len(specs)
    assert all(store.trial(key).outcome() == "done" for key in by_key)
    spent = found[name]["cpu_seconds"]
    found[name] |= {
        "trials": trials,
        "simulated_nodes": nodes,
        "cpu_milliseconds_a_trial": round(1000 * spent / trials, 3),
        "retried": cluster.retried,
        "simulated_seconds": round(cluster.clock, 1),
        "slots_busy": round(cluster.busy / (cluster.clock * nodes * slots), 4),
    }
    print(f"    {found[name]}", flush=True)


# --- many writers -----------------------------------------------------------------------------------------------------


def write(root: str, part: int, parts: int, trials: int, conflict: bool, told: Any) -> None:
    study = synthetic_store.study_of(max(1, trials // 80), EPOCHS)
    specs = plan(study)[:trials]
    store = Store(Path(root))
    # All in one order where they are to get into each other's way, else each its own trials.
    mine = specs if conflict else specs[part::parts]
    times, busy, done = [], 0, 0
    for spec in mine:
        start = time.perf_counter()
        trial = store.trial(spec.key)
        try:
            with trial.lock():
                if trial.outcome() in ("done", "diverged"):
                    continue
                synthetic_store.finish(store, spec)
                done += 1
        except TrialBusyError:
            busy += 1
            continue
        times.append(time.perf_counter() - start)
    told.put((done, busy, times))


def writers(found: dict[str, Any], root: Path, trials: int, processes: int, conflict: bool) -> None:
    context = multiprocessing.get_context("fork")
    told = context.Queue()
    target = root / f"writers-{processes}-{conflict}"
    study = synthetic_store.study_of(max(1, trials // 80), EPOCHS)
    start = time.perf_counter()
    running = [
        context.Process(target=write, args=(str(target), i, processes, trials, conflict, told)) for i in range(processes)
    ]
    for process in running:
        process.start()
    heard = [told.get() for _ in running]
    for process in running:
        process.join()
    wall = time.perf_counter() - start
    store = Store(target, create=False)
    keys = [spec.key for spec in plan(study)[:trials]]
    whole = sum(store.trial(key).result() is not None for key in keys)
    times = sorted(t for _, _, ts in heard for t in ts)
    name = f"writers: {processes}{' on the same trials' if conflict else ''}"
    found[name] = {
        "trials": trials,
        "whole": whole,
        "trained_twice": sum(done for done, _, _ in heard) - trials,
        "met_a_busy_trial": sum(busy for _, busy, _ in heard),
        "trials_a_second": round(trials / wall, 1),
        "milliseconds_median": round(1000 * statistics.median(times), 2),
        "milliseconds_99": round(1000 * times[int(0.99 * len(times))], 2),
    }
    print(f"{name:28} {found[name]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100_000)
    parser.add_argument("--writes", type=int, default=640, help="trials that many writers finish")
    parser.add_argument("--only", default="list,plan,status,run,report,schedule,writers")
    parser.add_argument("--folder", type=Path, help="where to make the stores; default a temporary folder")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "scale-cpu.json")
    given = parser.parse_args()
    only = given.only.split(",")
    found: dict[str, Any] = {}
    root = Path(tempfile.mkdtemp(prefix="pliant-scale-", dir=given.folder))
    try:
        if set(only) & {"list", "plan", "status", "run", "report"}:
            reading(found, root, given.trials, only)
        if "schedule" in only:
            scheduling(found, root, min(given.trials, 10_000), 64, 1)
        if "writers" in only:
            for processes, conflict in ((1, False), (2, False), (16, False), (64, False), (64, True)):
                writers(found, root, given.writes, processes, conflict)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    # Sections that were not asked for keep what an earlier run measured.
    before = json.loads(given.out.read_text())["measured"] if given.out.exists() else {}
    document = {
        "pliant": pliant.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "epochs": EPOCHS,
        "measured": before | found,
    }
    given.out.write_text(json.dumps(document, indent=1) + "\n")
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
