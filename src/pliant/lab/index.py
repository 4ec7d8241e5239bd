"""What was read of a study's finished trials, kept beside it, so that a second look at many thousand does not read them again.

It is derived and can be deleted at any time. An entry counts only while the file of the result is the one that was read (by
size, times and inode), and only for the same study and the same code. An index that is torn, damaged or of another version is
none, and everything is read. Whoever writes replaces it as a whole: of two that write at once one stays, and what only the
other had read is read again. ``pliant fsck`` never looks here, but at the files.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pliant.lab.store import Identity, Outcome, Store, StoreError, identity

__all__ = ["INDEX", "STAMP", "WORTH", "Entry", "code", "files", "load", "save", "stamp", "still", "unchanged"]

INDEX: Final = "index.json"
STAMP: Final = "report.json"
VERSION: Final = 1
WORTH: Final = 1000
"""So many trials take about a second to read; an index is written when at least so many were not in it."""


@dataclass(frozen=True)
class Entry:
    """A finished trial: the result file that was read, what its row in a table has beyond the plan, the checksums of its files,
    and where it ran."""

    identity: Identity
    outcome: Outcome
    measured: Mapping[str, Any]
    files: Mapping[str, str]
    device: str
    provenance: Mapping[str, Any]


@functools.cache
def code() -> str:
    """SHA-256 of all of Pliant's files: what other code has worked out is not taken over."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
        digest.update(f"{path.relative_to(root)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def load(store: Store, study: str, of: str | None = None) -> dict[str, Entry]:
    """The entries by the trials' keys, none where there is no index that is whole.

    Args:
        study: the study's folder. of: what the entries must depend on beside the results; None where only ``outcome`` and what
            a result itself holds are used.
    """
    with contextlib.suppress(StoreError, ValueError, TypeError, KeyError, IndexError, RecursionError):
        head, _, body = (store.read(Path("studies", study, INDEX)) or b"").partition(b"\n")
        told = json.loads(head)
        if (
            told["version"] == VERSION
            and told["of"] == (of or told["of"])
            and told["sha256"] == hashlib.sha256(body).hexdigest()
        ):
            shapes, places, rows = json.loads(body)
            return {
                key: Entry(tuple(found), outcome, dict(zip(shapes[shape], values, strict=True)), sums, *places[place])
                for key, found, outcome, shape, values, sums, place in rows
            }
    return {}


def save(store: Store, study: str, of: str, entries: Mapping[str, Entry]) -> None:
    """Keep the entries; where the store cannot be written, or what is in them is not JSON, there is none."""
    # Most rows have the same columns, and most trials ran in the same place: each is written once.
    shapes: dict[tuple[str, ...], int] = {}
    places: dict[str, int] = {}
    rows = [
        (
            key,
            e.identity,
            e.outcome,
            shapes.setdefault(tuple(e.measured), len(shapes)),
            list(e.measured.values()),
            e.files,
            places.setdefault(json.dumps([e.device, e.provenance]), len(places)),
        )
        for key, e in entries.items()
    ]
    with contextlib.suppress(StoreError, ValueError, TypeError):
        body = json.dumps([list(shapes), [json.loads(p) for p in places], rows], separators=(",", ":")).encode()
        head = json.dumps({"version": VERSION, "of": of, "sha256": hashlib.sha256(body).hexdigest()}).encode()
        store.write(store.study(study) / INDEX, b"\n".join((head, body)))


def files(folder: Path) -> dict[str, Identity]:
    """The files in and below a folder, by their paths in it."""
    return {str(p.relative_to(folder)): identity(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def stamp(store: Store, folder: Path, of: str, before: Mapping[str, Identity]) -> None:
    """Keep what a report in ``folder`` was made of, with its files: those that are not as they were before."""
    written = {name: found for name, found in files(folder).items() if before.get(name) != found}
    with contextlib.suppress(StoreError):
        store.write_json(folder / STAMP, {"version": VERSION, "of": of, "files": written})


def still(store: Store, folder: Path, of: str) -> bool:
    """Whether ``folder`` holds, untouched, a report that was made of just that."""
    with contextlib.suppress(StoreError, OSError, TypeError, KeyError):
        told = store.read_json(folder / STAMP)
        if told["version"] == VERSION and told["of"] == of:
            return all(identity(folder / name) == tuple(found) for name, found in told["files"].items())
    return False


def unchanged(now: Mapping[str, Identity], kept: Mapping[str, Entry], keys: Iterable[str]) -> bool:
    """Whether all these trials are as they were read: those that were finished, and those that were not."""
    return all(now.get(key) == (kept[key].identity if key in kept else None) for key in keys)
