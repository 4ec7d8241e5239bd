"""Races: contestants that do the same work take turns in one process, and what counts is the ratio within a round.

A machine's speed drifts (clock rates, neighbours, temperature) by more than the differences that matter here. Contestants
measured one after the other would be compared across that drift; in a round of a race they are measured within
milliseconds of each other, in an order drawn anew for every round, so that none always runs in the wake of the same other.
"""

from __future__ import annotations

import gc
import itertools
import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

__all__ = ["CpuWatch", "CudaWatch", "Race", "Runner", "Spread", "Watch", "race"]

WARM_UP = 3
"""Turns of every runner before the first round; they are not counted."""
SHORTEST_TURN = 2e-3
"""Seconds. A shorter call is repeated within its turn, and the turn gives the median of the calls: one that the scheduler
interrupts must not count as the turn's speed."""
AT_LEAST = 5
"""Rounds of every runner, also where the time asked for allows fewer."""
ENOUGH = 15
"""Rounds of those that are not slow, likewise: the differences that matter are between them."""
SLOW = 3.0
"""Times the first runner. One beyond that sits out after ``AT_LEAST`` rounds: what is ten times slower needs no more to be
told apart, and would take most of the time."""


@dataclass(frozen=True)
class Runner:
    """One way of doing the work.

    Args:
        name: unique within a race.
        stages: named parts, timed one by one; each is given what the one before it returned, the first what ``prepare``
            returned.
        prepare: runs before every call, untimed.
    """

    name: str
    stages: Mapping[str, Callable[[Any], Any]]
    prepare: Callable[[], Any] = lambda: None


@dataclass(frozen=True)
class Spread:
    """Median of the rounds, with their 10 % and 90 % quantiles."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one number or more."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        tenths = statistics.quantiles(values, n=10, method="inclusive")
        return cls(tenths[0], statistics.median(values), tenths[-1])

    def rounded(self) -> list[float]:
        """``[low, median, high]`` to four significant digits, for JSON."""
        return [float(f"{v:.4g}") for v in (self.low, self.median, self.high)]


class Watch(Protocol):
    """Times one turn of a runner."""

    def turn(self, runner: Runner, calls: int) -> list[float]:
        """Median seconds over ``calls`` calls: of every stage, and of a whole call."""
        ...


def _medians(calls: list[list[float]]) -> list[float]:
    return [statistics.median(column) for column in zip(*([*c, sum(c)] for c in calls), strict=True)]


class CpuWatch:
    """Wall time."""

    def turn(self, runner: Runner, calls: int) -> list[float]:
        """Median seconds over ``calls`` calls: of every stage, and of a whole call. What stages return is freed untimed."""
        taken = []
        for _ in range(calls):
            values, seconds = [runner.prepare()], []
            for stage in runner.stages.values():
                start = time.perf_counter_ns()
                values.append(stage(values[-1]))
                seconds.append((time.perf_counter_ns() - start) * 1e-9)
            del values
            taken.append(seconds)
        return _medians(taken)


class CudaWatch:
    """Time on the device between events, with the second-level cache overwritten before every call."""

    def __init__(self) -> None:
        size = int(torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size)
        self._flush = torch.empty(max(4 * size, 1 << 20), dtype=torch.uint8, device="cuda")

    def turn(self, runner: Runner, calls: int) -> list[float]:
        """Median seconds over ``calls`` calls: of every stage, and of a whole call."""
        marks = []
        for _ in range(calls):
            values = [runner.prepare()]
            self._flush.zero_()
            events = [torch.cuda.Event(enable_timing=True) for _ in range(len(runner.stages) + 1)]  # type: ignore[no-untyped-call]
            events[0].record()
            for stage, event in zip(runner.stages.values(), events[1:], strict=True):
                values.append(stage(values[-1]))
                event.record()
            del values
            marks.append(events)
        torch.cuda.synchronize()
        return _medians([[a.elapsed_time(b) * 1e-3 for a, b in itertools.pairwise(events)] for events in marks])


@dataclass(frozen=True)
class Race:
    """The seconds of every round: ``seconds[runner][stage][round]``, of a slow runner the first rounds only. The stage
    ``total`` is all of them together."""

    seconds: Mapping[str, Mapping[str, Sequence[float]]]

    @property
    def rounds(self) -> int:
        """How many rounds were counted."""
        return max(len(rounds) for stages in self.seconds.values() for rounds in stages.values())

    def time(self, runner: str, stage: str) -> Spread:
        """Seconds of a stage."""
        return Spread.of(self.seconds[runner][stage])

    def ratio(self, runner: str, baseline: str, stage: str) -> Spread:
        """Seconds of ``runner`` over seconds of ``baseline``, round by round, where both had a turn."""
        pairs = zip(self.seconds[runner][stage], self.seconds[baseline][stage], strict=False)
        return Spread.of([a / b for a, b in pairs])


def race(runners: Sequence[Runner], seconds: float, watch: Watch, *, seed: int = 0) -> Race:
    """Let the runners take turns, in a random order every round, for about ``seconds`` and at least :data:`ENOUGH` rounds; slow
    ones for :data:`AT_LEAST`.

    Args:
        runners: one or more, with the same stages and different names. First what the others are compared with.
        seconds: for all rounds together, warm-up not counted.
        watch: how a turn is timed.
        seed: of the orders.
    """
    once = {r.name: max(1e-7, min(watch.turn(r, 1)[-1] for _ in range(WARM_UP))) for r in runners}
    calls = {name: max(1, math.ceil(SHORTEST_TURN / taken)) for name, taken in once.items()}
    quick = [r for r in runners if once[r.name] <= SLOW * once[runners[0].name]]
    order = random.Random(seed)
    stages = [*runners[0].stages, "total"]
    taken: dict[str, list[list[float]]] = {r.name: [] for r in runners}
    gc.collect()
    # A collection would fall on whoever has its turn.
    gc.disable()
    try:
        began, done = time.perf_counter(), 0
        while done < ENOUGH or time.perf_counter() - began < seconds:
            field = list(runners) if done < AT_LEAST else quick
            for runner in order.sample(field, len(field)):
                taken[runner.name].append(watch.turn(runner, calls[runner.name]))
            done += 1
    finally:
        gc.enable()
    result = {}
    for name, turns in taken.items():
        result[name] = {s: [t[i] for t in turns] for i, s in enumerate(stages)}
    return Race(result)
