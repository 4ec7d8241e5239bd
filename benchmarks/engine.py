"""What the engine itself costs a trial, and what a second worker brings.

    python benchmarks/engine.py                     # writes benchmarks/results/engine-cpu.json

Three things, each on the executors that are installed: a job that does nothing, after a first one that pays for the start of
the workers; a trial that trains nothing worth speaking of (one epoch, 8 units), with all that a trial's directory costs; and a
study of equal trials with 1 and with 2 workers, whose throughput is compared in turns. ``cpu_ms`` is processor time of the
driver alone, which is all there is on "serial"; other work on the machine does not count in it as it does in the other times.
``load`` is the machine's load average at the time: 2 and more on 2 cores makes the other times upper bounds.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pliant.lab import Study, run
from pliant.lab.executors import Event, Job, create

JOBS = 200


def nothing(job: Job, report: object) -> None:
    """The engine's own cost is what remains."""


def idle_jobs(on: str, jobs: int) -> dict[str, float]:
    """Milliseconds a job that does nothing, once workers have started; and the seconds until the first was done."""
    ends: list[float] = []
    used: list[float] = []

    def listen(event: Event) -> None:
        if event.kind == "finished":
            ends.append(time.perf_counter())
            used.append(time.process_time())

    start = time.perf_counter()
    create(on).run([Job(str(i), "") for i in range(jobs)], nothing, listen)
    return {
        "first_s": ends[0] - start,
        "each_ms": 1000 * (ends[-1] - ends[0]) / (jobs - 1),
        "cpu_ms": 1000 * (used[-1] - used[0]) / (jobs - 1),
    }


def study(repeats: int, epochs: int, width: int) -> Study:
    return Study(
        name="engine",
        dataset="wdbc",
        model={"name": "ffnn", "options": {"width": width}},
        activations=["relu", "tanh"],
        folds=2,
        repeats=repeats,
        epochs=epochs,
    )


class Watch:
    """When each trial ended, and how long its training took by its own account."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.used: list[float] = []

    def planned(self, *_: object) -> None: ...

    def event(self, event: Event, trial: object) -> None:
        if event.kind == "finished":
            self.ends.append(time.perf_counter())
            self.used.append(time.process_time())

    def finished(self) -> None: ...


def trials(on: str, repeats: int, epochs: int, width: int) -> dict[str, float]:
    """Trials a second from the first's end to the last's, and of one of them: all of its time, and that of its training."""
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        result = run(study(repeats, epochs, width), store=folder, on=on, progress=watch, stack=1, checkpoint_every=1e9)
        trained = [float(row["seconds"]) for row in result.rows]
    span = watch.ends[-1] - watch.ends[0]
    rate = (len(watch.ends) - 1) / span
    cpu = 1000 * (watch.used[-1] - watch.used[0]) / (len(watch.ends) - 1)
    return {
        "trials": len(trained),
        "a_second": rate,
        "each_ms": 1000 / rate,
        "training_ms": 1000 * statistics.median(trained),
        "cpu_ms": cpu,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--on", nargs="+", help="These executors only.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "engine-cpu.json")
    arguments = parser.parse_args()
    places = ["serial", "local:1", "local:2"]
    if importlib.util.find_spec("ray") is not None:
        places.append("ray")
    places = arguments.on or places
    found: dict[str, Any] = {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
        "idle_jobs": {},
        "small_trials": {},
        "throughput": {},
    }

    def note(part: str, name: str, values: Mapping[str, float]) -> None:
        found[part].setdefault(name, []).append({**values, "load": os.getloadavg()[0]})
        print(part, name, {k: round(v, 3) for k, v in values.items()}, flush=True)

    for _ in range(arguments.rounds):
        for on in places:
            note("idle_jobs", on, idle_jobs(on, JOBS))
        for on in [p for p in ("serial", "local:1") if p in places]:
            note("small_trials", on, trials(on, repeats=10, epochs=1, width=8))
        for on in [p for p in ("local:1", "local:2") if p in places]:
            note("throughput", on, trials(on, repeats=6, epochs=60, width=64))
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
