"""How far a study is that may be running in another process or on another machine, from its store alone.

Only reads, takes no lock, and needs neither the study's data nor its code: the driver leaves the list of its trials in the
study's folder. What is seen is a moment that may be gone already, so nothing here is an error because it changed meanwhile.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pliant.errors import unknown
from pliant.lab import index
from pliant.lab.store import Holder, Outcome, Store, StoreError

__all__ = ["TRIALS", "Pace", "RunningTrial", "StudyStatus", "Watch", "matching", "seconds_left", "tier_of"]

TRIALS: Final = "trials.json"
SILENT: Final = 300.0
"""Seconds without a sign after which a process of another machine is no longer believed to work; see also Watch."""

State = Literal["finished", "running", "silent", "stopped"]


@dataclass(frozen=True)
class Pace:
    """How fast a trial that is being trained goes: ``elapsed`` seconds so far, and per epoch once there was one."""

    epoch: int
    epochs: int
    elapsed: float
    seconds_per_epoch: float | None


def seconds_left(finished: Sequence[float], running: Sequence[Pace], queued: int) -> float | None:
    """Seconds until all is done if as many trials as now go on side by side.

    Args:
        finished: seconds that each finished trial took. running: the trials under way. queued: how many have not begun.

    Returns:
        None while nothing is known: no trial has finished, and none has done an epoch. Until one has finished the answer takes
        every trial to train all its epochs, which early stopping may cut short.
    """
    paced = [p.seconds_per_epoch * p.epochs for p in running if p.seconds_per_epoch is not None]
    if not finished and not paced:
        return None
    typical = statistics.fmean(finished or paced)
    rests = []
    for p in running:
        if p.seconds_per_epoch is not None:
            whole = p.seconds_per_epoch * (p.epochs - p.epoch)
            # Past trials show how early training stops; one that is older than they became may go to the end.
            rests.append(min(whole, typical - p.elapsed) if finished and p.elapsed < typical else whole)
        else:
            rests.append(max(0.0, typical - p.elapsed))
    return max([*rests, (sum(rests) + queued * typical) / max(1, len(running))])


@dataclass(frozen=True)
class RunningTrial:
    """A trial under way. ``epoch`` is the last one that is finished; ``idle``: seconds since its last sign."""

    label: str
    repeat: int
    fold: int
    lr: float | None
    epoch: int
    epochs: int
    validation_accuracy: float | None
    """Of a detector its validation AP, as COCO defines it."""
    idle: float
    holder: Holder


@dataclass(frozen=True)
class StudyStatus:
    """A study at one moment. Every trial counts once: done, diverged, failed, running or missing.

    ``state``: "finished", all trials are done or diverged; "running"; "silent", another machine was running it and has given no
    sign for long; "stopped", something is left and nobody is at it. ``per_minute``: trials finished a minute since the drivers
    that run now began. ``seconds_left``: see :func:`seconds_left`; None when nobody runs it. ``certain``: whether it rests on a
    finished trial. ``last_activity``: seconds since 1970. ``problems``: files that could not be read, in words.
    """

    name: str
    state: State
    trials: int
    counts: dict[str, int]
    running: tuple[RunningTrial, ...]
    drivers: tuple[Holder, ...]
    per_minute: float | None
    seconds_left: float | None
    certain: bool
    last_activity: float | None
    errors: tuple[str, ...] = ()
    problems: tuple[str, ...] = field(default=())


_MARK: Final = re.compile(r"\.(smoke|lite|[0-9a-f]{8})$")
"""What a folder's name has after the study's: its tier, and the hash of what the command line changed."""


def tier_of(folder: str) -> str:
    """The tier of a study by its folder in a store; "full" for one without."""
    while mark := _MARK.search(folder):
        if mark[1] in ("smoke", "lite"):
            return mark[1]
        folder = folder[: mark.start()]
    return "full"


def _belongs(folder: str, name: str) -> bool:
    while folder != name and (mark := _MARK.search(folder)):
        folder = folder[: mark.start()]
    return folder == name


def matching(store: Store, names: Iterable[str]) -> list[str]:
    """The studies of a store that ``names`` mean: a study's folder, or its name for it, its reduced tiers and all their changed
    forms; all without names.

    Raises:
        UnknownNameError: the store has no such study. StoreError: it has none at all.
    """
    there = store.studies()
    if not there:
        raise StoreError(
            f"The store {store.root} holds no study yet. `pliant run STUDY` starts one there; --store names another store."
        )
    chosen: dict[str, None] = {}
    for name in names:
        found = [s for s in there if _belongs(s, name)]
        if not found:
            raise unknown(f"study in the store {store.root}", name, there)
        chosen |= dict.fromkeys(found)
    return list(chosen) or there


@dataclass(frozen=True)
class _Settled:
    outcome: Outcome
    seconds: float | None
    at: float


class Watch:
    """Looks at a study again and again; what was finished once is not read again.

    ``patience``: a process of another machine counts as working until it has given no sign for this many seconds, or for five
    times its usual epoch if that is longer.
    """

    def __init__(self, store: Store, name: str, patience: float = SILENT) -> None:
        self.store = store
        self.name = name
        self._patience = patience
        self._settled: dict[str, _Settled] = {}
        self._looked = False

    def _recall(self, keys: Iterable[str]) -> None:
        """Take over what is in the index and has not changed since."""
        self._looked = True
        kept = index.load(self.store, self.name)
        for key, identity in self.store.finished(kept.keys() & keys).items():
            if identity == kept[key].identity:
                took = kept[key].measured.get("seconds")
                self._settled[key] = _Settled(kept[key].outcome, None if took is None else float(took), identity[2] / 1e9)

    def look(self, now: float | None = None) -> StudyStatus:
        """The study as it is. StoreError when its list of trials is missing or damaged."""
        now = time.time() if now is None else now
        listed = self.store.read_json(self.store.root / "studies" / self.name / TRIALS)
        if not isinstance(listed, list) or not all(isinstance(t, dict) and "key" in t for t in listed):
            raise StoreError(
                f"The study {self.name!r} in {self.store.root} has no list of its trials ({TRIALS}). Run it again: that writes "
                "the list and trains only what is missing."
            )
        if not self._looked:
            self._recall(str(row["key"]) for row in listed)
        drivers = self.store.drivers(self.name)
        counts = dict.fromkeys(("done", "diverged", "failed", "running", "missing"), 0)
        running: list[RunningTrial] = []
        paces: list[Pace] = []
        errors: list[str] = []
        problems: list[str] = []
        signs = [d.since for d in drivers]
        for row in listed:
            try:
                outcome, sign, error, found = self._trial(row, now)
            except StoreError as problem:
                # Copied half-way by a synchronisation, say: the next look may read it.
                counts["missing"] += 1
                problems.append(str(problem))
                continue
            if sign is not None:
                signs.append(sign)
            if found is not None:
                running.append(found[0])
                paces.append(found[1])
                outcome_or_running = "running"
            else:
                outcome_or_running = outcome
                if error is not None:
                    place = f"{row.get('label')}, repeat {row.get('repeat')}, fold {row.get('fold')}"
                    errors.append(f"{place}: {error}")
            counts[outcome_or_running] += 1
        left = counts["failed"] + counts["running"] + counts["missing"]
        last = max(signs, default=None)
        believed = [d for d in drivers if d.alive or (d.alive is None and last is not None and now - last < self._patience)]
        state: State = "stopped"
        if left == 0:
            state = "finished"
        elif believed or running:
            state = "running"
        elif any(d.alive is None for d in drivers):
            state = "silent"
        at_work = state == "running"
        began = min((d.since for d in believed), default=None)
        since = [s.at for s in self._settled.values() if began is not None and s.at >= began]
        rate = 60 * len(since) / (now - began) if began is not None and since and now > began else None
        took = [s.seconds for s in self._settled.values() if s.seconds is not None]
        return StudyStatus(
            name=self.name,
            state=state,
            trials=len(listed),
            counts=counts,
            running=tuple(running),
            drivers=tuple(believed or drivers),
            per_minute=rate if at_work else None,
            # A failed trial is not begun again by the driver that saw it fail.
            seconds_left=seconds_left(took, paces, counts["missing"]) if at_work else None,
            certain=bool(took),
            last_activity=last,
            errors=tuple(errors),
            problems=tuple(problems),
        )

    def _trial(
        self, row: dict[str, Any], now: float
    ) -> tuple[Outcome, float | None, str | None, tuple[RunningTrial, Pace] | None]:
        """Outcome, last sign, error and, if it is under way, how far it is."""
        key = str(row["key"])
        if key in self._settled:
            return self._settled[key].outcome, self._settled[key].at, None, None
        trial = self.store.trial(key)
        holder = trial.holder()
        if (settled := trial.glance()) is not None:
            self._settled[key] = _Settled(*settled)
            return settled[0], settled[2], None, None
        outcome = trial.outcome()
        sign = trial.changed()
        if outcome in ("done", "diverged"):
            # It finished between the two looks; the next one sees it whole.
            return outcome, sign, None, None
        if holder is None or holder.alive is False:
            error = (trial.failure() or {}).get("error") if outcome == "failed" else None
            return outcome, sign, error, None
        last = trial.last_row() or {}
        epoch, took = int(last.get("epoch") or 0), last.get("seconds")
        seen = max(sign or holder.since, holder.since)
        if holder.alive is None and now - seen > max(self._patience, 5 * float(took or 0)):
            return outcome, seen, None, None
        epochs = int(row.get("epochs") or epoch)
        accuracy = last.get("validation_accuracy", last.get("validation_ap"))
        elapsed = epoch * float(took) if took is not None else max(0.0, now - holder.since)
        under_way = RunningTrial(
            label=str(row.get("label")),
            repeat=int(row.get("repeat") or 0),
            fold=int(row.get("fold") or 0),
            lr=row.get("lr"),
            epoch=epoch,
            epochs=epochs,
            validation_accuracy=accuracy,
            idle=max(0.0, now - seen),
            holder=holder,
        )
        return outcome, seen, None, (under_way, Pace(epoch, epochs, elapsed, float(took) if took is not None else None))
