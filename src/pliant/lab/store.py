"""The result store: a directory in which a trial is either finished and whole, or not finished.

Layout::

    <store>/store.json                                       what this directory is, and in which version
    <store>/trials/<key[:2]>/<key>/spec.json                 the resolved values of the trial
                                   history.jsonl             one line per epoch, appended
                                   checkpoint.safetensors    only while the trial is unfinished; sealed with checksums
                                   predictions.safetensors, or detections.npz of a detector
                                   failure.json              only when the infrastructure failed it
                                   result.json               written last: the only mark of a finished trial
    <store>/studies/<name>/                                  which trials a study is made of, and its tables
                            driver-*.lock                    one for each process that runs the study now

What is promised:

* A process may be killed at any instruction. Every file but the history is replaced as a whole (temporary file in the
  same directory, fsync, rename, fsync of the directory), so a reader sees the old content or the new one. The history
  is appended to; a line that was torn by a kill is ignored by readers and cut off before the next append.
* When :meth:`TrialDirectory.write` or :meth:`TrialDirectory.finish` returns, the history rows appended before it are on
  the disk too, so a checkpoint never survives a power failure that its history does not.
* ``result.json`` holds the checksums of the files beside it and one of itself, so a flipped bit is found, not averaged.
* A checkpoint is sealed with its checksum and that of the history it belongs to. Where either does not match, it counts as
  absent and the trial starts over: going on from damaged weights would give numbers that nobody could tell from good ones.
* A finished trial is read-only: writing to it is refused.
* JSON has no NaN and no infinity: they are stored as null.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import hashlib
import itertools
import json
import math
import os
import re
import secrets
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pliant.errors import PliantError

if sys.platform != "win32":
    import fcntl

Outcome = Literal["done", "diverged", "failed", "missing"]
Identity = tuple[int, int, int, int]
"""Of a file its inode, size, and times of change (of its content, of anything) in ns: other content has another one, unless the
disk has changed it by itself."""

FORMAT: Final = "pliant-store"
VERSION: Final = 1

STAMP: Final = "store.json"
SPEC: Final = "spec.json"
HISTORY: Final = "history.jsonl"
CHECKPOINT: Final = "checkpoint.safetensors"
PREDICTIONS: Final = "predictions.safetensors"
DETECTIONS: Final = "detections.npz"
FAILURE: Final = "failure.json"
RESULT: Final = "result.json"
LOCK: Final = "lock"
DRIVER: Final = "driver-{}.lock"
FILES: Final = (SPEC, HISTORY, CHECKPOINT, PREDICTIONS, DETECTIONS, FAILURE, RESULT)
"""All that a trial's directory may hold, but for its lock and temporary files."""
_SEAL: Final = b"\n--pliant-seal\n"
_LAST_ROWS: Final = 65536
"""Bytes from the end of a history in which its last row is looked for first."""

_KEY: Final = re.compile(r"[0-9a-f]{64}")
_STUDY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_FILE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TEMPORARY: Final = re.compile(r"\..+\.tmp")
_NO_SPACE: Final = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


class StoreError(PliantError):
    """A store, or a file in one, is not what it must be or cannot be read or written."""


class StoreVersionError(StoreError):
    """The directory was written in another format or version; ``found`` and ``expected`` say which."""

    def __init__(self, path: Path, found: str, expected: str) -> None:
        super().__init__(
            f"{path} says that this is {found}, and this Pliant reads and writes {expected}. Nothing was changed. "
            f"Open it with the Pliant that wrote it, or choose another directory (--store DIR, store= in Python): "
            f"the trials are then trained again."
        )
        self.found = found
        self.expected = expected


class TrialBusyError(StoreError):
    """Another living process is training this trial."""


class StorageFullError(StoreError):
    """The disk or the user's quota is full. Everything that was finished is still whole."""


@dataclass(frozen=True)
class Holder:
    """The process that a lock names. ``since``: when it took the lock, in seconds since 1970. ``alive``: None for a process
    of another machine, which cannot be asked from here."""

    pid: int
    host: str
    since: float
    alive: bool | None


class Store:
    """A directory of trials and studies.

    ``root`` is created when ``create`` is true and nothing is there. Raises :class:`StoreVersionError` when another
    format or version wrote it, :class:`StorageFullError` when the disk is full, and :class:`StoreError` when it is a
    file, cannot be written (with ``create``), does not exist (without) or holds something that is no store.
    """

    def __init__(self, root: Path | str, create: bool = True) -> None:
        # Absolute, because a study's own code may change the working directory between two writes.
        self.root: Final = Path(root).expanduser().absolute()
        with _translated(self.root):
            self._open(create)

    def _open(self, create: bool) -> None:
        if not self.root.is_dir():
            if os.path.lexists(self.root):
                raise StoreError(
                    f"The store {self.root} is a file, and a store is a directory. Choose another place (--store DIR, "
                    f"store= in Python), or move the file away."
                )
            if not create:
                raise StoreError(
                    f"There is no store at {self.root}. Run a study first (that creates it), or say where it is with "
                    f"--store DIR (store= in Python)."
                )
            _make_directory(self.root)
        stamp = self.root / STAMP
        # The stamp is looked for again after a stranger was seen: another process may be creating this very store.
        found = _read_json(stamp)
        if found is None and self._strangers():
            found = _read_json(stamp)
            if found is None:
                raise StoreError(
                    f"The directory {self.root} is not empty and is no Pliant store (it has no {STAMP}). Choose an "
                    f"empty or new directory, or the store you meant (--store DIR, store= in Python)."
                )
        if found is None and not create:
            raise StoreError(
                f"There is no store at {self.root}: the directory is empty. Run a study first, or say where the store "
                f"is with --store DIR (store= in Python)."
            )
        if create and not os.access(self.root, os.W_OK | os.X_OK):
            raise StoreError(
                f"The store {self.root} cannot be written by this user. Change its permissions, or choose another "
                f"directory (--store DIR, store= in Python)."
            )
        if found is None:
            self.write_json(stamp, {"format": FORMAT, "version": VERSION})
            return
        kind = found.get("format") if isinstance(found, dict) else None
        version = found.get("version") if isinstance(found, dict) else None
        if kind != FORMAT or type(version) is not int or version != VERSION:
            raise StoreVersionError(stamp, f"{kind!r} version {version!r}", f"{FORMAT!r} version {VERSION}")

    def _strangers(self) -> bool:
        """Whether the root holds anything but the remains of a store whose creation was interrupted."""
        with os.scandir(self.root) as entries:
            return any(not _TEMPORARY.fullmatch(entry.name) for entry in entries)

    def trial(self, key: str) -> TrialDirectory:
        """The trial with this key (64 lower-case hexadecimal digits); nothing is created yet."""
        if not _KEY.fullmatch(key):
            raise StoreError(f"A trial's key is 64 lower-case hexadecimal digits (a SHA-256), not {key!r}.")
        return TrialDirectory(self.root / "trials" / key[:2] / key, key)

    def study(self, name: str) -> Path:
        """The directory of a study, created. The name becomes a directory's name, so it is restricted to
        1-100 of the characters A-Z a-z 0-9 . _ - with a letter or digit first and no two dots in a row."""
        if not _STUDY.fullmatch(name) or ".." in name or name.endswith("."):
            raise StoreError(
                f"{name!r} cannot name a study: the name becomes a directory, so it must be 1 to 100 of the characters "
                f"A-Z a-z 0-9 . _ -, start with a letter or a digit, and hold no '..' and no dot at the end."
            )
        path = self.root / "studies" / name
        with _translated(path):
            _make_directory(path)
        return path

    def studies(self) -> list[str]:
        """The names of all studies that have a ``study.json``, sorted."""
        with _translated(self.root):
            return sorted(e.name for e in _scan(self.root / "studies") if os.path.exists(os.path.join(e, "study.json")))

    @contextlib.contextmanager
    def driving(self, name: str) -> Iterator[None]:
        """Let others see, through :meth:`drivers`, that this process runs the study. It excludes nobody."""
        folder = self.study(name)
        with _translated(folder):
            for path, holder in _holders(folder):
                if holder.alive is False:
                    _remove(path)
            path = folder / DRIVER.format(secrets.token_hex(4))
            fd = _acquire(path)
        try:
            with _translated(path):
                _sign(fd)
            yield
        finally:
            _release(path, fd)

    def drivers(self, name: str) -> list[Holder]:
        """The processes that run the study, and those that died while they did; takes no lock and changes nothing."""
        return [holder for _, holder in self.driver_locks(name)]

    def driver_locks(self, name: str) -> list[tuple[Path, Holder]]:
        """The files by which :meth:`drivers` knows, and whom each names."""
        folder = self.root / "studies" / name
        with _translated(folder):
            return _holders(folder)

    def keys(self) -> list[str]:
        """The keys of all trials that were ever begun, sorted; reads directory names only."""
        keys: list[str] = []
        with _translated(self.root):
            for shard in _scan(self.root / "trials"):
                if len(shard.name) == 2 and shard.is_dir():
                    keys.extend(
                        entry.name for entry in _scan(shard) if entry.name.startswith(shard.name) and _KEY.fullmatch(entry.name)
                    )
        return sorted(keys)

    def finished(self, keys: Iterable[str], name: str = RESULT) -> dict[str, Identity]:
        """Which of these trials are finished, and of each the identity of its result, or of another file of ``name``.

        Opens nothing: two system calls a trial would be one too many for 100,000 of them.
        """
        found: dict[str, Identity] = {}
        trials = os.path.join(self.root, "trials")
        with _translated(self.root):
            for key in keys:
                with contextlib.suppress(FileNotFoundError):
                    found[key] = identity(os.path.join(trials, key[:2], key, name))
        return found

    def write(self, path: Path | str, data: bytes) -> None:
        """Replace the file by ``data``; a relative ``path`` starts at the root."""
        target = self.root / path
        with _translated(target):
            _replace(target, data)

    def write_json(self, path: Path | str, obj: object) -> None:
        """As :meth:`write`, with ``obj`` as JSON. Non-finite floats become null."""
        self.write(path, _document(obj))

    def read(self, path: Path | str) -> bytes | None:
        """The content of the file, or None when there is none."""
        target = self.root / path
        with _translated(target):
            return _read(target)

    def read_json(self, path: Path | str) -> Any:
        """The parsed file, or None when there is none; StoreError when it is not JSON."""
        target = self.root / path
        with _translated(target):
            return _read_json(target)


class TrialDirectory:
    """One trial's files. Writers hold :meth:`lock`; readers need nothing."""

    def __init__(self, path: Path, key: str) -> None:
        self.path: Final = path
        self.key: Final = key
        self._history_checked = False

    def beside(self, key: str) -> TrialDirectory:
        """Another trial of the same store, see :meth:`Store.trial`."""
        return TrialDirectory(self.path.parent.parent / key[:2] / key, key)

    # Reading

    def outcome(self) -> Outcome:
        """ "done" or "diverged" when the trial is finished, else "failed" when the last try failed, else "missing".

        Trusts ``result.json`` without comparing checksums, so that 100,000 trials can be listed; :meth:`result` compares.
        """
        with _translated(self.path):
            record = self._record()
            if record is not None:
                outcome: Outcome = record["outcome"]
                return outcome
            return "failed" if os.path.exists(self.path / FAILURE) else "missing"

    def result(self, *, verify_files: bool = True) -> dict[str, Any] | None:
        """The parsed ``result.json``, or None when the trial is not finished.

        Its own checksum is always compared; with ``verify_files`` those of the files it lists are, too. Raises
        StoreError naming the file that does not match.
        """
        with _translated(self.path):
            record = self._record()
            if record is None:
                return None
            if record.get("sha256") != _checksum(record):
                raise self._damaged(RESULT)
            if verify_files:
                for name, expected in record["files"].items():
                    if self._sha256(name) != expected:
                        raise self._damaged(name)
            return record

    def glance(self) -> tuple[Outcome, float | None, float] | None:
        """Of a finished trial its outcome, the seconds it took, and when it finished in seconds since 1970; None for any other.

        One open and one parse, no checksum and no other file: what a look at 100,000 trials can afford.
        """
        path = os.path.join(self.path, RESULT)
        with _translated(self.path):
            try:
                with open(path, "rb") as file:
                    at = os.fstat(file.fileno()).st_mtime
                    record = _parsed(file.read(), Path(path))
            except FileNotFoundError:
                return None
            record = self._checked(record)
            row = record.get("row")
            seconds = row.get("seconds") if isinstance(row, dict) else None
            return record["outcome"], float(seconds) if isinstance(seconds, int | float) else None, at

    def failure(self) -> dict[str, Any] | None:
        """{"error": str, "attempts": int} of a trial that the infrastructure failed, else None."""
        with _translated(self.path):
            found = _read_json(self.path / FAILURE)
        if found is not None and not isinstance(found, dict):
            raise self._damaged(FAILURE)
        return found

    def history(self, sha256: str | None = None) -> list[dict[str, Any]]:
        """The rows appended so far. A torn last line is left out; StoreError when an earlier line is not a row, or, with
        ``sha256``, as for :meth:`read`."""
        with _translated(self.path / HISTORY):
            return self._intact(sha256)[0]

    def last_row(self) -> dict[str, Any] | None:
        """The last whole row of the history, or None; reads the end of the file only, and passes over what is torn."""
        path = self.path / HISTORY
        with _translated(path):
            try:
                with open(path, "rb") as file:
                    size = file.seek(0, os.SEEK_END)
                    for start in dict.fromkeys((max(0, size - _LAST_ROWS), 0)):
                        file.seek(start)
                        lines = file.read().split(b"\n")[1 if start else 0 : -1]
                        for line in reversed(lines):
                            with contextlib.suppress(ValueError):
                                row = json.loads(line)
                                if isinstance(row, dict):
                                    return row
            except FileNotFoundError:
                pass
            return None

    def holder(self) -> Holder | None:
        """The process that holds :meth:`lock`, or that died with it; None when nobody does. Takes no lock itself: a look at a
        trial must never make it busy for its trainer."""
        with _translated(self.path / LOCK):
            return _holder(self.path / LOCK)

    def changed(self) -> float | None:
        """When the trial's history, failure or result last changed, in seconds since 1970; None when there is none of them."""
        times = []
        with _translated(self.path):
            for name in (HISTORY, FAILURE, RESULT):
                with contextlib.suppress(FileNotFoundError):
                    times.append(os.stat(self.path / name).st_mtime)
        return max(times, default=None)

    def read(self, name: str, sha256: str | None = None) -> bytes | None:
        """The content of a file of this trial, or None when there is none, or when it is a damaged checkpoint.

        With ``sha256``, as the files of a :meth:`result` have it, StoreError when the content is another.
        """
        target = self.path / _file_name(name)
        with _translated(target):
            data = _read(target)
            if name == CHECKPOINT and data is not None:
                return _unsealed(data, _read(self.path / HISTORY) or b"")
        if sha256 is not None and (data is None or hashlib.sha256(data).hexdigest() != sha256):
            raise self._damaged(name)
        return data

    def contents(self) -> dict[str, bytes]:
        """What the trial consists of, for :meth:`adopt` in another store: all of a finished one, and of another what it goes on
        from. Files are as they are on the disk, whole or not."""
        with _translated(self.path):
            record = self._record()
            names = (SPEC, HISTORY, CHECKPOINT) if record is None else (SPEC, *record["files"], RESULT)
            found = {name: _read(self.path / _file_name(name)) for name in names}
        return {name: data for name, data in found.items() if data is not None}

    # Writing

    def lock(self) -> AbstractContextManager[None]:
        """Hold the trial for one trainer; TrialBusyError when a living process holds it.

        On POSIX this is ``flock``: the kernel releases it however the holder dies. Where there is none (Windows) it is
        the exclusive creation of a file that the system deletes with the holder's last handle.
        """
        return self._locked()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        path = self.path / LOCK
        with _translated(path):
            _make_directory(self.path)
            fd = _acquire(path)
        try:
            with _translated(path):
                _sign(fd)
                # Whoever left a temporary file here was the previous holder, and is dead.
                for entry in _scan(self.path):
                    if _TEMPORARY.fullmatch(entry.name):
                        os.unlink(entry)
            yield
        finally:
            _release(path, fd)

    def begin(self, spec: Mapping[str, Any]) -> None:
        """Create the directory, write ``spec.json`` unless it is there, and forget an earlier failure."""
        with _translated(self.path):
            _make_directory(self.path)
            if not os.path.exists(self.path / SPEC):
                _replace(self.path / SPEC, _document(dict(spec)))
            _remove(self.path / FAILURE)

    def append_history(self, row: Mapping[str, Any]) -> None:
        """Append one epoch's row; a torn last line is cut off first. Durable after the next write() or finish().

        Its names stay in their order, which for coefficients is that of the sites in the network.
        """
        line = json.dumps(_storable(row), separators=(",", ":"), allow_nan=False).encode() + b"\n"
        path = self.path / HISTORY
        with _translated(path):
            self._refuse_finished()
            _make_directory(self.path)
            self._repair()
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _BINARY, 0o666)
            try:
                size = os.fstat(fd).st_size
                try:
                    _write_all(fd, line)
                except BaseException:
                    self._history_checked = False
                    with contextlib.suppress(OSError):
                        os.ftruncate(fd, size)
                    raise
            finally:
                os.close(fd)

    def truncate_history(self, epochs: int) -> None:
        """Keep the rows of epochs 1 to ``epochs``: a resumed trial drops what its checkpoint does not know of.

        StoreError when the history does not hold them all.
        """
        path = self.path / HISTORY
        with _translated(path):
            self._refuse_finished()
            rows, ends = self._intact()
            kept = rows[:epochs]
            if [row.get("epoch") for row in kept] != list(range(1, epochs + 1)):
                raise StoreError(
                    f"{path} must hold the epochs 1 to {epochs} that the checkpoint beside it has seen, and holds "
                    f"{len(rows)} rows of other epochs or too few. Delete {self.path}: the same command then trains "
                    f"this trial from the start."
                )
            if os.path.exists(path):
                _truncate(path, ends[epochs - 1] if epochs else 0)
                self._history_checked = True

    def write(self, name: str, data: bytes) -> None:
        """Replace a file of this trial: after a kill it holds the old content or the new, never a part."""
        target = self.path / _file_name(name)
        with _translated(target):
            self._refuse_finished()
            _make_directory(self.path)
            self._sync_history()
            if name == CHECKPOINT:
                data = _sealed(data, _read(self.path / HISTORY) or b"")
            _replace(target, data)

    def adopt(self, files: Mapping[str, bytes]) -> None:
        """Become the trial that :meth:`contents` gave in another store, as far as it had come there.

        Everything is compared with its checksums before anything is written, and the result is written last. StoreError when
        a file is none of a trial's or is damaged, or when this trial is finished.
        """
        with _translated(self.path):
            self._refuse_finished()
            self._inspect(files)
            _make_directory(self.path)
            # A checkpoint must never be older than its history, nor a result than its files.
            for name in (SPEC, HISTORY, CHECKPOINT, PREDICTIONS, DETECTIONS, RESULT):
                if name in files:
                    _replace(self.path / name, files[name])
            self._history_checked = False
            if RESULT in files:
                _remove(self.path / CHECKPOINT)
                _remove(self.path / FAILURE)

    def _inspect(self, files: Mapping[str, bytes]) -> None:
        """StoreError unless ``files`` are a trial's, whole and undamaged."""
        known = {SPEC, HISTORY, PREDICTIONS, DETECTIONS, RESULT} if RESULT in files else {SPEC, HISTORY, CHECKPOINT}
        strangers = set(files) - known
        if strangers:
            raise StoreError(
                f"What was brought for the trial {self.path} holds {', '.join(sorted(map(repr, strangers)))}, which is no file "
                f"of such a trial ({', '.join(sorted(known))}). Nothing of it was stored."
            )
        if CHECKPOINT in files and _unsealed(files[CHECKPOINT], files.get(HISTORY, b"")) is None:
            raise self._arrived_damaged(CHECKPOINT)
        if RESULT in files:
            try:
                record = json.loads(files[RESULT])
                sums = dict(record["files"])
                whole = record["outcome"] in ("done", "diverged") and record["sha256"] == _checksum(record)
            except (ValueError, TypeError, KeyError, RecursionError):
                raise self._arrived_damaged(RESULT) from None
            if not whole or set(files) - {SPEC, RESULT} - set(sums):
                raise self._arrived_damaged(RESULT)
            for name, expected in sums.items():
                if name not in files or hashlib.sha256(files[name]).hexdigest() != expected:
                    raise self._arrived_damaged(name)

    def _arrived_damaged(self, name: str) -> StoreError:
        return StoreError(
            f"The file {name} that was brought for the trial {self.path} is not what its checksum says: it was damaged or cut "
            f"short where it comes from, or on its way. Nothing of it was stored; the same command trains this trial again."
        )

    def finish(self, result: Mapping[str, Any]) -> None:
        """Mark the trial as finished. ``result`` holds "outcome" ("done" or "diverged"), "row" and "provenance".

        The checksums are added here; the checkpoint and an earlier failure are removed afterwards. ValueError when the
        outcome is another.
        """
        if result.get("outcome") not in ("done", "diverged"):
            raise ValueError(f"a finished trial is 'done' or 'diverged', not {result.get('outcome')!r}")
        with _translated(self.path):
            self._refuse_finished()
            _make_directory(self.path)
            self._repair()
            self._sync_history()
            sums = {name: self._sha256(name) for name in (PREDICTIONS, DETECTIONS, HISTORY, SPEC)}
            record = _storable({**result, "files": {name: found for name, found in sums.items() if found is not None}})
            record["sha256"] = _checksum(record)
            _replace(self.path / RESULT, _document(record))
            _remove(self.path / CHECKPOINT)
            _remove(self.path / FAILURE)

    def fail(self, error: str, attempts: int) -> None:
        """Record that the infrastructure failed this trial. A finished trial stays finished."""
        with _translated(self.path):
            if os.path.exists(self.path / RESULT):
                return
            _make_directory(self.path)
            _replace(self.path / FAILURE, _document({"error": error, "attempts": attempts}))

    # Inside

    def _record(self) -> dict[str, Any] | None:
        record = _read_json(self.path / RESULT)
        return None if record is None else self._checked(record)

    def _checked(self, record: Any) -> dict[str, Any]:
        if (
            not isinstance(record, dict)
            or record.get("outcome") not in ("done", "diverged")
            or not isinstance(record.get("files"), dict)
        ):
            raise self._damaged(RESULT)
        return record

    def _damaged(self, name: str) -> StoreError:
        return StoreError(
            f"{self.path / name} is damaged: it is not what was stored there (lost, changed or cut short afterwards, "
            f"or copied half-way). Restore it from a copy, or delete {self.path}: the same command then trains this "
            f"trial again."
        )

    def _refuse_finished(self) -> None:
        if os.path.exists(self.path / RESULT):
            raise StoreError(
                f"The trial {self.path} is finished, and a finished trial is not written to again. To train it anew, "
                f"delete that directory."
            )

    def _sha256(self, name: str) -> str | None:
        # The name may come from a result.json that somebody edited: it must not lead out of this directory.
        try:
            with open(self.path / _file_name(name), "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            return None

    def _intact(self, sha256: str | None = None) -> tuple[list[dict[str, Any]], list[int]]:
        """The rows, and for each the offset in bytes at which it ends."""
        lines = (self.read(HISTORY, sha256) or b"").split(b"\n")
        torn = lines.pop()
        whole = _rows(lines)
        if whole is not None:
            return whole, list(itertools.accumulate(len(line) + 1 for line in lines))
        rows: list[dict[str, Any]] = []
        ends: list[int] = []
        end = 0
        for number, line in enumerate(lines, start=1):
            end += len(line) + 1
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                if number == len(lines) and not torn:
                    break
                raise StoreError(
                    f"Line {number} of {self.path / HISTORY} is not a row of the history, and only the last line can be "
                    f"cut short by a kill: the file is damaged. Restore it from a copy, or delete {self.path}: the same "
                    f"command then trains this trial again."
                )
            rows.append(row)
            ends.append(end)
        return rows, ends

    def _repair(self) -> None:
        """Cut a torn tail off, once per object: while the lock is held, nobody else can leave another."""
        if self._history_checked:
            return
        path = self.path / HISTORY
        _, ends = self._intact()
        whole = ends[-1] if ends else 0
        if os.path.exists(path) and os.path.getsize(path) > whole:
            _truncate(path, whole)
        self._history_checked = True

    def _sync_history(self) -> None:
        try:
            fd = os.open(self.path / HISTORY, os.O_RDWR | _BINARY)
        except FileNotFoundError:
            return
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


# Files

_BINARY: Final[int] = getattr(os, "O_BINARY", 0)


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turn the system's errors into errors that say what to do."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        if error.errno in _NO_SPACE:
            raise StorageFullError(
                f"There is no space left to write {where} ({error.strerror}). Everything that was finished is whole. "
                f"Free some space, or move the store to another disk, and give the same command again: it goes on "
                f"where it stopped."
            ) from error
        raise StoreError(
            f"The store could not use {where}: {error.strerror or error}. Check the path, its permissions and the "
            f"disk, or choose another directory (--store DIR, store= in Python)."
        ) from error


def _replace(target: Path, data: bytes) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)
        try:
            _write_all(fd, data)
            # Without it the rename may reach the disk before the data do.
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_directory(target.parent)


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _truncate(path: Path, size: int) -> None:
    with open(path, "r+b") as file:
        file.truncate(size)


def _sync_directory(path: Path) -> None:
    if os.name == "nt":
        return
    try:
        fd = os.open(path, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(fd)
    except OSError as error:
        # Some network file systems know no fsync of a directory; a full disk, in contrast, must be heard.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(fd)


def _make_directory(path: Path) -> None:
    if os.path.isdir(path):
        return
    _make_directory(path.parent)
    try:
        os.mkdir(path)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
    _sync_directory(path.parent)


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _read(path: Path) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def identity(path: Path | str) -> Identity:
    """The identity of a file; OSError where there is none."""
    found = os.stat(path)
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _scan(path: Path | os.DirEntry[str]) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            yield from entries
    except FileNotFoundError:
        return


def _file_name(name: str) -> str:
    if not _FILE.fullmatch(name):
        raise StoreError(f"{name!r} is not the plain name of a file in a trial's directory.")
    return name


# Seals


def _sealed(data: bytes, history: bytes) -> bytes:
    """A checkpoint followed by the checksums of itself and of the history that it has seen."""
    seal = {"history": hashlib.sha256(history).hexdigest(), "history_bytes": len(history)}
    seal["sha256"] = hashlib.sha256(data + _canonical(seal)).hexdigest()
    return b"".join((data, _SEAL, _canonical(seal)))


def _unsealed(data: bytes, history: bytes) -> bytes | None:
    """The checkpoint without its seal; None when it or its history is not what was sealed."""
    content, mark, text = data.rpartition(_SEAL)
    if not mark:
        # Written before there were seals.
        return data if _is_safetensors(data) else None
    try:
        seal = json.loads(text)
        given, size = seal.pop("sha256"), int(seal["history_bytes"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    if hashlib.sha256(content + _canonical(seal)).hexdigest() != given:
        return None
    return content if hashlib.sha256(history[:size]).hexdigest() == seal["history"] else None


def _is_safetensors(data: bytes) -> bool:
    """Whether the sizes in the header add up: 8 bytes with the length of a JSON header, the header, then the tensors."""
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length])
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return len(data) == 8 + length + max(ends, default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return False


# JSON


def _canonical(obj: object) -> bytes:
    return json.dumps(obj, sort_keys=True, separators=(",", ":")).encode()


def _rows(lines: list[bytes]) -> list[dict[str, Any]] | None:
    """All lines parsed at once, which halves the time of a report; None where one is not a row, to be found one by one."""
    try:
        rows = json.loads(b"[" + b",".join(lines) + b"]")
    except ValueError:
        return None
    return rows if len(rows) == len(lines) and all(isinstance(row, dict) for row in rows) else None


def _read_json(path: Path) -> Any:
    data = _read(path)
    return None if data is None else _parsed(data, path)


def _parsed(data: bytes, path: Path) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StoreError(
            f"{path} is not JSON ({error}): it is damaged. Restore it from a copy, or delete the directory "
            f"{path.parent}: what was in it is then computed again."
        ) from error


def _document(obj: object) -> bytes:
    return json.dumps(_storable(obj), sort_keys=True, indent=1, allow_nan=False).encode() + b"\n"


def _checksum(record: Mapping[str, Any]) -> str:
    """SHA-256 of a result without its own "sha256", in one canonical spelling."""
    rest = {name: value for name, value in record.items() if name != "sha256"}
    return hashlib.sha256(_canonical(rest)).hexdigest()


def _storable(obj: Any) -> Any:
    if isinstance(obj, float):
        return obj if math.isfinite(obj) else None
    if isinstance(obj, Mapping):
        for key in obj:
            if not isinstance(key, str):
                raise TypeError(f"a key of a stored mapping is a str, not {key!r}")
        return {key: _storable(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [_storable(value) for value in obj]
    return obj


# Locks

_held: set[int] = set()


def _busy(path: Path) -> TrialBusyError:
    holder = "another process"
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        found = json.loads(path.read_bytes())
        holder = f"process {int(found['pid'])} on {str(found['host'])[:100]!r}"
    return TrialBusyError(
        f"The trial {path.parent} is being trained by {holder}. Wait until it has finished or end that process: the "
        f"same command then goes on where it stopped."
    )


def _sign(fd: int) -> None:
    os.write(fd, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())


def _holder(path: Path) -> Holder | None:
    # Between its creation and its signature a lock is empty: nobody's yet.
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError, KeyError):
        found = json.loads(path.read_bytes())
        pid, host, since = int(found["pid"]), str(found["host"])[:100], path.stat().st_mtime
        return Holder(pid, host, since, _alive(pid, since) if host == socket.gethostname() else None)
    return None


def _holders(folder: Path) -> list[tuple[Path, Holder]]:
    paths = sorted(folder / e.name for e in _scan(folder) if fnmatch.fnmatch(e.name, DRIVER.format("*")))
    return [(path, holder) for path in paths if (holder := _holder(path)) is not None]


def _alive(pid: int, since: float) -> bool:
    """Whether the process of this machine that took a lock at ``since`` still lives."""
    if sys.platform == "win32":
        # There the lock goes with its holder, and os.kill would end it.
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        booted = next(int(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
    except (OSError, ValueError, StopIteration):
        return True
    # A process that nobody has buried yet is dead; one that began after the lock was taken only has the same number.
    return state not in "ZX" and booted + int(fields[18]) / os.sysconf("SC_CLK_TCK") <= since + 2


def _acquire_by_flock(path: Path) -> int:
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before us removes the file when it leaves: a lock on a removed file excludes nobody.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), os.stat(path)):
                    os.ftruncate(fd, 0)
                    _held.add(fd)
                    return fd
        except BlockingIOError:
            os.close(fd)
            raise _busy(path) from None
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _release_flock(path: Path, fd: int) -> None:
    if fd not in _held:
        return
    with contextlib.suppress(OSError):
        os.unlink(path)
    _held.discard(fd)
    os.close(fd)


def _acquire_by_creation(path: Path) -> int:
    # O_TEMPORARY is Windows' own: the file goes with its last handle, so also when the holder is killed.
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY | getattr(os, "O_TEMPORARY", 0)
    try:
        return os.open(path, flags, 0o666)
    except (FileExistsError, PermissionError):
        raise _busy(path) from None


def _release_creation(path: Path, fd: int) -> None:
    os.close(fd)
    with contextlib.suppress(OSError):
        os.unlink(path)


def _forget_locks() -> None:
    """A forked child (a data loader's, say) shares its parent's locks and would keep them after the parent's death."""
    for fd in _held:
        with contextlib.suppress(OSError):
            os.close(fd)
    _held.clear()


if sys.platform != "win32":
    _acquire, _release = _acquire_by_flock, _release_flock
    os.register_at_fork(after_in_child=_forget_locks)
else:
    _acquire, _release = _acquire_by_creation, _release_creation
