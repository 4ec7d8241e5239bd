"""Check a store: every file of every trial against its checksums, and everything that does not belong there.

Reads only, and may run beside a driver: what changes under its eyes belongs to a trial that is locked, and is left out. With
``repair`` damaged trials are set aside, so that the next run trains them again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pliant.lab.status import TRIALS
from pliant.lab.store import (
    CHECKPOINT,
    FAILURE,
    FILES,
    HISTORY,
    LOCK,
    RESULT,
    SPEC,
    STAMP,
    Store,
    StoreError,
    TrialBusyError,
    TrialDirectory,
)

__all__ = ["ASIDE", "Finding", "Fsck", "check"]

ASIDE: Final = "damaged"
"""The folder in the store into which repair moves what it sets aside."""

_KEY: Final = re.compile(r"[0-9a-f]{64}")
_TEMPORARY: Final = re.compile(r"\..+\.tmp")

Kind = Literal["damaged", "torn", "leftover", "foreign"]
Identify = Callable[[Mapping[str, Any]], str | None]


@dataclass(frozen=True)
class Finding:
    """Something wrong at ``path``.

    ``kind``: "damaged", a file is not what was stored; "torn", a write was cut short, and the next run mends it by itself;
    "leftover", a file of Pliant's that nobody needs any more; "foreign", something that Pliant did not put there.
    ``key``: of the trial concerned. ``redo``: whether the trial must be trained again, from the start or from its checkpoint.
    ``repaired``: what was done about it, "" for nothing.
    """

    kind: Kind
    path: str
    what: str
    key: str | None = None
    redo: bool = False
    repaired: str = ""


@dataclass(frozen=True)
class Fsck:
    """``trials``: how many there are. ``finished``: those whose every checksum agrees. ``unfinished``: begun, or failed.
    ``busy``: being trained now, and not looked at. ``unlisted``: trials of no study in the store, which is no fault: studies
    change. ``redo``: the trials that must be trained again, with the studies that list each."""

    trials: int
    finished: int
    unfinished: int
    busy: int
    unlisted: int
    findings: tuple[Finding, ...]
    redo: Mapping[str, tuple[str, ...]]

    @property
    def clean(self) -> bool:
        return not self.findings


def check(store: Store, *, repair: bool = False, identify: Identify | None = None) -> Fsck:
    """Look at everything in ``store``.

    Args:
        repair: move damaged trials into the folder ``damaged`` of the store, and remove leftovers; foreign files stay.
        identify: the key that a trial's spec should have, or None where that cannot be told (another version wrote it).
    """
    findings: list[Finding] = [*_top(store, repair)]
    listed = _listed(store, findings)
    finished = unfinished = busy = unlisted = 0
    redo: dict[str, tuple[str, ...]] = {}
    keys = [key for key in store.keys() if store.trial(key).path.is_dir()]  # noqa: SIM118
    for key in keys:
        trial = store.trial(key)
        unlisted += key not in listed
        try:
            # Its lock is held for as long as it is looked at, so that no file changes meanwhile.
            with _held(trial, store):
                found = list(_trial(trial, identify))
                done = trial.path / RESULT
                finished += done.exists() and not any(f.redo for f in found)
                unfinished += not done.exists()
                if repair:
                    found = _repaired(store, trial, found)
        except TrialBusyError:
            busy += 1
            continue
        if any(f.redo for f in found):
            redo[key] = tuple(listed.get(key, ()))
        findings += found
    return Fsck(len(keys), finished, unfinished, busy, unlisted, tuple(findings), redo)


@contextlib.contextmanager
def _held(trial: TrialDirectory, store: Store) -> Iterator[None]:
    holder = trial.holder()
    if holder is not None and holder.alive is not False:
        raise TrialBusyError(f"The trial {trial.path} is being trained.")
    if os.access(trial.path, os.W_OK):
        with trial.lock():
            yield
    else:
        yield


def _trial(trial: TrialDirectory, identify: Identify | None) -> Iterator[Finding]:
    """What is wrong with one trial, while its lock is held."""

    def damaged(name: str, what: str, redo: bool = True) -> Finding:
        return Finding("damaged", str(trial.path / name), what, trial.key, redo)

    names = {entry.name for entry in os.scandir(trial.path)}
    for name in sorted(names - set(FILES) - {LOCK}):
        if _TEMPORARY.fullmatch(name):
            yield Finding("leftover", str(trial.path / name), "a file whose writing was interrupted", trial.key)
        else:
            yield Finding("foreign", str(trial.path / name), "no file of a trial's", trial.key)
    if SPEC not in names and RESULT in names:
        yield damaged(SPEC, "missing")
    try:
        values = _json(trial, SPEC)
        if values is not None and identify is not None:
            key = identify(values)
            if key is not None and key != trial.key:
                yield damaged(SPEC, "describes another trial than the directory's name says")
    except StoreError:
        yield damaged(SPEC, "not JSON any more")
    if RESULT in names:
        try:
            trial.result()
        except StoreError as error:
            yield damaged(*_blamed(error, trial))
        if CHECKPOINT in names:
            yield Finding("leftover", str(trial.path / CHECKPOINT), "a checkpoint of a finished trial", trial.key)
        if FAILURE in names:
            yield Finding("leftover", str(trial.path / FAILURE), "the failure of a trial that was finished later", trial.key)
        return
    try:
        trial.history()
        if not (trial.read(HISTORY) or b"\n").endswith(b"\n"):
            yield Finding("torn", str(trial.path / HISTORY), "its last row was cut short", trial.key)
    except StoreError:
        yield damaged(HISTORY, "a row in the middle is none")
    if CHECKPOINT in names and trial.read(CHECKPOINT) is None:
        yield damaged(CHECKPOINT, "it, or the history that it belongs to, is not what was stored")
    try:
        trial.failure()
    except StoreError:
        yield damaged(FAILURE, "not JSON any more", redo=False)


def _json(trial: TrialDirectory, name: str) -> Any:
    data = trial.read(name)
    try:
        return None if data is None else json.loads(data)
    except (ValueError, RecursionError):
        raise StoreError(f"{trial.path / name} is not JSON.") from None


def _blamed(error: StoreError, trial: TrialDirectory) -> tuple[str, str]:
    """Which file of a finished trial does not agree."""
    text = str(error)
    name = next((n for n in FILES if n != RESULT and str(trial.path / n) in text), RESULT)
    return name, "missing" if not (trial.path / name).exists() else "not what its checksum says"


def _repaired(store: Store, trial: TrialDirectory, found: list[Finding]) -> list[Finding]:
    if any(f.redo for f in found):
        # As a whole, for whoever wants to look at it; what can be trusted of a damaged trial is nothing.
        aside = store.root / ASIDE / time.strftime("%Y%m%d-%H%M%S") / trial.key
        aside.parent.mkdir(parents=True, exist_ok=True)
        os.replace(trial.path, aside)
        return [_with(f, f"moved to {aside}") for f in found]
    return [_with(f, _removed(Path(f.path))) if f.kind in ("leftover", "damaged") else f for f in found]


def _with(finding: Finding, repaired: str) -> Finding:
    return Finding(finding.kind, finding.path, finding.what, finding.key, finding.redo, repaired)


def _removed(path: Path) -> str:
    path.unlink(missing_ok=True)
    return "removed"


def _top(store: Store, repair: bool) -> Iterator[Finding]:
    """What lies outside the trials' directories and does not belong there."""
    for entry in os.scandir(store.root):
        if _TEMPORARY.fullmatch(entry.name):
            yield _leftover(Path(entry.path), repair, "a file whose writing was interrupted")
        elif entry.name not in (STAMP, "trials", "studies", ASIDE):
            yield Finding("foreign", entry.path, "no part of a store")
    trials = store.root / "trials"
    for shard in sorted(trials.iterdir()) if trials.is_dir() else ():
        if not shard.is_dir() or len(shard.name) != 2:
            yield Finding("foreign", str(shard), "no part of a store")
            continue
        for path in sorted(shard.iterdir()):
            if not (path.is_dir() and path.name.startswith(shard.name) and _KEY.fullmatch(path.name)):
                yield Finding("foreign", str(path), "no trial: its name is no key, or it stands in the wrong folder")
    for name in store.studies():
        for path, holder in store.driver_locks(name):
            if holder.alive is False:
                yield _leftover(path, repair, f"the lock of process {holder.pid}, which died")


def _leftover(path: Path, repair: bool, what: str) -> Finding:
    finding = Finding("leftover", str(path), what)
    return _with(finding, _removed(path)) if repair else finding


def _listed(store: Store, findings: list[Finding]) -> dict[str, list[str]]:
    """The studies that list each trial."""
    found: dict[str, list[str]] = {}
    for name in store.studies():
        folder = store.root / "studies" / name
        for file in ("study.json", TRIALS):
            try:
                content = store.read_json(folder / file)
                rows = content if file == TRIALS and content is not None else []
                for row in rows:
                    found.setdefault(str(row["key"]), []).append(name)
            except (StoreError, TypeError, KeyError):
                findings.append(Finding("damaged", str(folder / file), "not what was stored; the next run writes it again"))
    return found
