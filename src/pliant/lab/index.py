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
import itertools
import json
import string
import sys
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pliant.lab.store import Identity, Outcome, Store, StoreError, identity

__all__ = ["INDEX", "STAMP", "WORTH", "Entry", "code", "files", "load", "save", "stamp", "still", "unchanged"]

INDEX: Final = "index.bin"
STAMP: Final = "report.json"
VERSION: Final = 2
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
    with contextlib.suppress(StoreError, ValueError, TypeError, KeyError, IndexError, RecursionError, EOFError):
        head, _, body = (store.read(Path("studies", study, INDEX)) or b"").partition(b"\n")
        told = json.loads(head)
        if (
            told["version"] == VERSION
            and told["byteorder"] == sys.byteorder
            and told["of"] == (of or told["of"])
            and told["sha256"] == hashlib.sha256(body).hexdigest()
        ):
            return _entries(body)
    return {}


def save(store: Store, study: str, of: str, entries: Mapping[str, Entry]) -> None:
    """Keep the entries; where the store cannot be written, or what is in them is not JSON, there is none."""
    with contextlib.suppress(StoreError, ValueError, TypeError):
        body = _body(entries)
        told = {"version": VERSION, "byteorder": sys.byteorder, "of": of, "sha256": hashlib.sha256(body).hexdigest()}
        store.write(store.study(study) / INDEX, b"\n".join((json.dumps(told).encode(), body)))


# By columns: of 100,000 trials with seventy numbers each, a row of text apiece would take ten times as long to read.


def _body(entries: Mapping[str, Entry]) -> bytes:
    groups: dict[tuple[tuple[str, ...], tuple[str, ...]], list[tuple[str, Entry]]] = {}
    for key, e in entries.items():
        groups.setdefault((tuple(e.measured), tuple(e.files)), []).append((key, e))
    places: dict[str, int] = {}
    told, parts = [], []
    for (names, files), members in groups.items():
        own = [e for _, e in members]
        columns: list[list[Any]] = [
            [key for key, _ in members],
            *(list(c) for c in zip(*(e.identity for e in own), strict=True)),
            [e.outcome for e in own],
            [places.setdefault(json.dumps([e.device, e.provenance]), len(places)) for e in own],
            *([e.measured[name] for e in own] for name in names),
            *([e.files[name] for e in own] for name in files),
        ]
        packed = [_packed(column) for column in columns]
        told.append([names, files, [kind for kind, _ in packed]])
        parts += [data for _, data in packed]
    head = json.dumps([[json.loads(p) for p in places], told], separators=(",", ":")).encode()
    return b"\n".join((head, b"".join(len(p).to_bytes(8, "little") + p for p in parts)))


def _entries(body: bytes) -> dict[str, Entry]:
    head, _, rest = body.partition(b"\n")
    places, told = json.loads(head)
    view, at = memoryview(rest), 0
    found: dict[str, Entry] = {}
    for names, files, kinds in told:
        columns = []
        for kind in kinds:
            end = at + 8 + int.from_bytes(view[at : at + 8], "little")
            columns.append(_unpacked(kind, view[at + 8 : end]))
            at = end
        keys, inode, size, modified, changed, outcomes, where = columns[:7]
        measured = zip(*columns[7 : 7 + len(names)], strict=True) if names else itertools.repeat(())
        sums = zip(*columns[7 + len(names) :], strict=True) if files else itertools.repeat(())
        identities = zip(inode, size, modified, changed, strict=True)
        for key, identity_, outcome, place, values, digests in zip(
            keys, identities, outcomes, where, measured, sums, strict=False
        ):
            found[key] = Entry(
                identity_,
                outcome,
                dict(zip(names, values, strict=True)),
                dict(zip(files, digests, strict=True)),
                *places[place],
            )
    return found


def _packed(values: list[Any]) -> tuple[Any, bytes]:
    """A column as its kind and its bytes; what it holds comes back with the same types."""
    types = set(map(type, values))
    if types == {float}:
        return "float", array("d", values).tobytes()
    if types == {float, type(None)}:
        gaps = [i for i, v in enumerate(values) if v is None]
        return ["float", gaps], array("d", (0.0 if v is None else v for v in values)).tobytes()
    if types == {int}:
        with contextlib.suppress(OverflowError):
            return "int", array("q", values).tobytes()
    if types == {str}:
        if all(len(v) == 64 and not v.strip(string.hexdigits) and v == v.lower() for v in values):
            return "digest", bytes.fromhex("".join(values))
        words: dict[str, int] = {}
        codes = array("I", (words.setdefault(v, len(words)) for v in values))
        return ["word", list(words)], codes.tobytes()
    return "json", json.dumps(values, separators=(",", ":")).encode()


def _unpacked(kind: Any, data: memoryview) -> list[Any]:
    match kind:
        case "json":
            values: list[Any] = json.loads(bytes(data))
            return values
        case "digest":
            text = data.hex()
            return [text[i : i + 64] for i in range(0, len(text), 64)]
        case ["word", words]:
            return [words[code] for code in data.cast("I")]
        case ["float", gaps]:
            numbers: list[Any] = data.cast("d").tolist()
            for i in gaps:
                numbers[i] = None
            return numbers
        case "float":
            return data.cast("d").tolist()
        case "int":
            return data.cast("q").tolist()
    raise ValueError(f"an index has no columns of kind {kind!r}")


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
