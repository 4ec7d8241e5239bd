"""Bring the finished trials of other stores into one: halves of a study that ran on two machines, or a copy that was cut short.

Only what is finished and agrees with its checksums is taken, so a store that was copied half-way gives what of it is whole.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pliant.lab.store import DETECTIONS, PREDICTIONS, StorageFullError, Store, StoreError, TrialBusyError

__all__ = ["Merge", "merge"]

_OF_THE_MACHINE: Final = ("seconds", "device", "peak_bytes")
"""What of a row's values says how a trial was trained and not what came of it; names that hold one of them are left out too."""


@dataclass(frozen=True)
class Merge:
    """What became of the trials of one source, by key.

    ``copied`` are new here; ``known`` were here with the same result; ``unfinished`` have none in the source. ``damaged``,
    ``busy`` and ``conflicts`` say why a trial was not taken: its files are not what their checksums say, somebody trains it
    here, it has another result here. ``studies`` lists the studies whose description came along.
    """

    source: str
    copied: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()
    damaged: Mapping[str, str] = field(default_factory=dict)
    busy: Mapping[str, str] = field(default_factory=dict)
    conflicts: Mapping[str, str] = field(default_factory=dict)
    studies: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        """Whether nothing that the source claims to have finished was left behind."""
        return not (self.damaged or self.busy or self.conflicts)


def merge(source: Store, target: Store) -> Merge:
    """Copy every finished trial of ``source`` that ``target`` lacks. Doing it again changes nothing; ``source`` is only read.

    A trial that has a result in both places keeps that of ``target``; where they differ it is a conflict, because which of two
    results counts is not for a program to decide.

    Raises:
        StoreError: both are the same store. StorageFullError: the disk is full; what was copied is whole.
    """
    if source.root.resolve() == target.root.resolve():
        raise StoreError(f"{source.root} cannot be merged into itself. Name another store after --into.")
    copied, known, unfinished = [], [], []
    damaged: dict[str, str] = {}
    busy: dict[str, str] = {}
    conflicts: dict[str, str] = {}
    for key in source.keys():  # noqa: SIM118
        theirs = source.trial(key)
        try:
            result = theirs.result()
        except StorageFullError:
            raise
        except StoreError as error:
            damaged[key] = str(error)
            continue
        if result is None:
            unfinished.append(key)
            continue
        ours = target.trial(key)
        try:
            here = ours.result(verify_files=False)
            if here is None:
                with ours.lock():
                    ours.adopt(theirs.contents())
                copied.append(key)
                continue
        except TrialBusyError as error:
            busy[key] = str(error)
            continue
        except StorageFullError:
            raise
        except StoreError as error:
            damaged[key] = str(error)
            continue
        difference = _difference(here, result)
        if difference is None:
            known.append(key)
        else:
            conflicts[key] = (
                f"The trial {ours.path} has another result in {source.root}: {difference}. The one here was kept. If the other "
                f"is right, delete the directory here and merge again; they may come from machines that compute differently "
                f'(see "provenance" in both result.json).'
            )
    return Merge(
        str(source.root),
        tuple(copied),
        tuple(known),
        tuple(unfinished),
        damaged,
        busy,
        conflicts,
        tuple(_descriptions(source, target)),
    )


def _difference(one: Mapping[str, Any], two: Mapping[str, Any]) -> str | None:
    """In what two results of the same trial differ, in words; None where only times and machines do."""
    if one["outcome"] != two["outcome"]:
        return f"{one['outcome']} here, {two['outcome']} there"
    names = sorted(set(one.get("row", {})) | set(two.get("row", {})))
    for name in names:
        if any(word in name for word in _OF_THE_MACHINE):
            continue
        a, b = one["row"].get(name), two["row"].get(name)
        if a != b:
            return f"{name} is {a!r} here, {b!r} there"
    if any(one["files"].get(name) != two["files"].get(name) for name in (PREDICTIONS, DETECTIONS)):
        return "the predictions differ, though no score does"
    return None


def _descriptions(source: Store, target: Store) -> list[str]:
    """Copy what describes the studies that the target does not know, so that it can be reported and watched there."""
    found = []
    there = set(target.studies())
    for name in source.studies():
        if name in there:
            continue
        with contextlib.suppress(StoreError):
            read = {file: source.read_json(source.root / "studies" / name / file) for file in ("trials.json", "study.json")}
            folder = target.study(name)
            for file, content in read.items():
                if content is not None:
                    target.write_json(folder / file, content)
            found.append(name)
    return found
