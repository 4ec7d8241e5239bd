"""Trials as bytes, for workers that cannot see the store: what they go on from, and what came of them.

A parcel is a ZIP archive after its SHA-256. It is only ever read in memory, and every name in it must be that of a file of a
trial that was asked for, so no parcel can write anywhere else.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import sys
import zipfile
from collections.abc import Callable, Collection, Mapping
from typing import Final

from pliant.lab.store import FILES, Store, StoreError, TrialBusyError, TrialDirectory

__all__ = ["ParcelError", "TrialHost", "pack", "unpack"]

_DIGEST: Final = 32


class ParcelError(StoreError):
    """Bytes that should hold trials are damaged, or hold something else."""


def pack(trials: Mapping[str, Mapping[str, bytes]]) -> bytes:
    """``trials``: the files of each trial by its key, as :meth:`TrialDirectory.contents` gives them."""
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        for key, files in trials.items():
            # A trial that was never begun has no file, and must still be on the list.
            archive.writestr(f"{key}/", b"")
            for name, data in files.items():
                archive.writestr(f"{key}/{name}", data)
    return hashlib.sha256(body.getvalue()).digest() + body.getvalue()


def unpack(parcel: bytes, keys: Collection[str]) -> dict[str, dict[str, bytes]]:
    """The inverse of :func:`pack`.

    Args:
        keys: of the trials that the parcel may hold.

    Raises:
        ParcelError: it is damaged, or holds anything but files of these trials.
    """
    digest, body = parcel[:_DIGEST], parcel[_DIGEST:]
    if hashlib.sha256(body).digest() != digest:
        raise ParcelError(
            f"A parcel of {len(parcel)} bytes is not what its checksum says: it was damaged or cut short on its way. Nothing "
            f"of it was stored; the same command goes on from what is in the store."
        )
    found: dict[str, dict[str, bytes]] = {}
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        for entry in archive.infolist():
            key, _, name = entry.filename.partition("/")
            # Stored as it is: what is not compressed cannot swell.
            if key not in keys or (name and name not in FILES) or entry.compress_type != zipfile.ZIP_STORED:
                raise ParcelError(
                    f"A parcel holds {entry.filename!r}, and may hold only files of the {len(keys)} trials that were sent out "
                    f"({', '.join(FILES)}). Nothing of it was stored."
                )
            files = found.setdefault(key, {})
            if name:
                files[name] = archive.read(entry)
    return found


class TrialHost:
    """The driver's side of trials that are trained elsewhere: it holds their locks, and stores what comes back.

    Args:
        specs: the resolved values of each trial by its key.
        busy: called with the key of each trial that another process is training; those are left out.
    """

    def __init__(self, store: Store, specs: Mapping[str, Mapping[str, object]], busy: Callable[[str], None]) -> None:
        _allow_many_files()
        self._specs = specs
        self._trials: dict[str, TrialDirectory] = {}
        with contextlib.ExitStack() as locks:
            for key in specs:
                trial = store.trial(key)
                try:
                    locks.enter_context(trial.lock())
                except TrialBusyError:
                    busy(key)
                    continue
                self._trials[key] = trial
            self._locks = locks.pop_all()

    def pack(self) -> bytes | None:
        """What is left to train and how far it is; None when nothing is."""
        left: dict[str, Mapping[str, bytes]] = {}
        for key, trial in self._trials.items():
            if trial.outcome() in ("done", "diverged"):
                continue
            trial.begin(self._specs[key])
            left[key] = trial.contents() if trial.read("checkpoint.safetensors") is not None else {}
        return pack(left) if left else None

    def unpack(self, parcel: bytes) -> None:
        """Store what came back; a trial that is finished here already is left as it is. StoreError when it is damaged."""
        for key, files in unpack(parcel, self._trials).items():
            trial = self._trials[key]
            if files and trial.outcome() not in ("done", "diverged"):
                trial.adopt(files)

    def close(self) -> None:
        self._locks.close()


def _allow_many_files() -> None:
    """A lock is an open file, and a cluster has more trials under way than the 1024 files that a process may open at first."""
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < hard:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
