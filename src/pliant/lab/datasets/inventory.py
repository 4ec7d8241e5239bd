"""Which data sets are here, whether they are the official ones, and subsets of them."""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pliant.lab.datasets import Dataset
from pliant.lab.datasets.arrays import DataError
from pliant.lab.datasets.files import Download, File, Manifest, Progress, fetch_all, root, write

__all__ = ["Status", "fetch", "options", "readable", "status", "subset"]


@dataclass(frozen=True)
class Status:
    """What is here of a data set.

    Args:
        state: "bundled" comes with a package, "own" is wherever the user says, "complete" has every file, "partial" some,
            "absent" none.
        files: how many it is made of, as far as that is known. here: how many of them are there. bytes: their size.
        verified: how many have the published checksum.
        missing, different: the files that are not there, and those that are not the official ones.
        unfinished: bytes of downloads that were stopped.
    """

    name: str
    state: Literal["bundled", "own", "complete", "partial", "absent"]
    source: str
    files: int = 0
    here: int = 0
    bytes: int = 0
    verified: int = 0
    missing: tuple[str, ...] = ()
    different: tuple[str, ...] = ()
    unfinished: int = 0

    @property
    def checksums(self) -> str:
        """The state of the checksums in words."""
        if self.different:
            return f"{len(self.different)} of {self.here} files are not the official ones"
        if not self.here:
            return "-"
        rest = self.here - self.verified
        return "verified" if not rest else f"{self.verified} verified, none published for {rest}"


def options(function: Callable[..., Any]) -> dict[str, str]:
    """What each keyword option of a data set may be and its default, in words."""
    hints = typing.get_type_hints(function)
    found = {}
    for p in inspect.signature(function).parameters.values():
        if p.kind is p.KEYWORD_ONLY:
            choices = typing.get_args(hints[p.name]) or (hints[p.name].__name__,)
            default = " (must be given)" if p.default is p.empty else f" = {json.dumps(p.default)}"
            found[p.name] = " | ".join(map(str, choices)) + default
    return found


def _manifest(dataset: Dataset, given: Mapping[str, Any]) -> Manifest | None:
    """None where only the user knows where the files are."""
    required = [o for o, words in options(dataset.files).items() if words.endswith("(must be given)")]
    return None if any(o not in given for o in required) else dataset.files(**given)


def status(dataset: Dataset, given: Mapping[str, Any] | None = None) -> Status:
    """Look at every file and compare each that has a published checksum with it.

    Args:
        given: options of the data set.
    """
    manifest = _manifest(dataset, given or {})
    if manifest is None:
        return Status(dataset.name, "own", dataset.source)
    if not manifest.files:
        return Status(dataset.name, "bundled", dataset.source)
    folder = root()
    states = {file: file.state(folder) for file in manifest.files}
    here = [file for file, state in states.items() if state != "missing"]
    unfinished = [p for d in manifest.downloads if (p := Path(f"{File(d.path).at(folder)}.part")).is_file()]
    return Status(
        dataset.name,
        "complete" if len(here) == len(states) else "partial" if here else "absent",
        dataset.source,
        len(states),
        len(here),
        sum(file.at(folder).stat().st_size for file in here),
        list(states.values()).count("verified"),
        tuple(file.path for file, state in states.items() if state == "missing"),
        tuple(file.path for file, state in states.items() if state == "different"),
        sum(p.stat().st_size for p in unfinished),
    )


def readable(dataset: Dataset, found: Status, given: Mapping[str, Any] | None = None) -> tuple[bool, str]:
    """Read a data set: whether it can be, and what it holds or why it cannot be read.

    Args:
        found: its status. Files that are not the official ones are read as what they are.
    """
    values = dict(given or {})
    if found.state == "own" or found.missing:
        return found.state == "own", "the options say where it is" if found.state == "own" else "not complete"
    if found.different and "official" in options(dataset.load):
        values["official"] = False
    try:
        data = dataset.load(**values)
    except DataError as error:
        return False, str(error)
    return True, f"{len(data):,} examples, {len(data.classes)} classes"


def fetch(
    dataset: Dataset,
    progress: Callable[[Download], Progress] = lambda download: lambda done, total: None,
    given: Mapping[str, Any] | None = None,
) -> Status:
    """Download and unpack what is missing; files that are there stay as they are.

    Raises:
        DataError: no network, a source that gives something else, or a data set that has to be brought by hand.
    """
    manifest = _manifest(dataset, given or {})
    if manifest is not None:
        fetch_all(manifest, progress)
        # A list that has just come may name more files.
        dataset.files(**(given or {})).require(dataset.name)
    return status(dataset, given)


def subset(dataset: Dataset, target: Path, per_class: int, seed: int, given: Mapping[str, Any] | None = None) -> Path:
    """Write a class-balanced part of a data set in its own format below ``target``, to be used as PLIANT_DATA.

    Beside the files lies ``subset.json``: data set, options, examples a class and seed, and the fingerprint of the whole.

    Raises:
        DataError: ``target`` holds this data set already, a class has too few examples, or the data set has no files.
    """
    write_subset = getattr(dataset, "subset", None)
    if write_subset is None:
        raise DataError(f"{dataset.name} is not a data set that subsets are written of; take rows of its arrays instead.")
    if target.resolve() == root().resolve():
        raise DataError(f"The subset was to be written into {target}, where the whole data live; give another folder.")
    names = {Path(f.path).parts[0] for f in dataset.files(**(given or {})).files}
    taken = [target / n for n in names if (target / n).exists()]
    if taken:
        raise DataError(f"{taken[0]} is there already, and two subsets do not mix; delete it or name another.")
    whole = dataset.load(**(given or {})).fingerprint()
    folder: Path = write_subset(target, per_class, seed, **(given or {}))
    made = {"dataset": dataset.name, "options": dict(given or {}), "per_class": per_class, "seed": seed, "of": whole}
    write(folder / "subset.json", json.dumps(made, indent=1).encode())
    return folder
