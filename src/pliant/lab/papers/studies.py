"""The studies of the papers at their sizes, what of a paper each stands for, and where text, release and we differ."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pliant.errors import unknown
from pliant.lab.papers.files import FILES, expanded, matches, read, sections
from pliant.lab.papers.printed import entries
from pliant.lab.study import Study

__all__ = [
    "TIERS",
    "Context",
    "Deviation",
    "Group",
    "Tier",
    "context",
    "deviations",
    "groups",
    "members",
    "studies",
    "study",
    "tiers",
]

Tier = Literal["smoke", "lite", "full"]

TIERS: dict[str, str] = {
    "smoke": "seconds to minutes on two CPU cores, on whatever sample of the data there is: shows that it runs, and no more",
    "lite": "minutes on one GPU: fewer epochs, examples, repeats or activations than the paper's",
    "full": "the paper's own size",
}
"""The sizes in which a study can be run. Only ``full`` stands for what the paper did."""


@dataclass(frozen=True)
class Group:
    """A table or a figure of a paper, and the studies whose rows fill it."""

    name: str
    title: str
    paper: str
    shows: str
    """What it shows, in the paper and here."""
    studies: tuple[str, ...]
    printed: str | None = None
    """The table's id among :func:`~pliant.lab.papers.printed`; None for a figure."""
    figures: tuple[str, ...] = ()
    """The figures of our reports that show the same, by their ids."""
    released: str | None = None
    """The data set of the released logs that it draws."""
    functions: tuple[str, ...] = ()
    """The activations whose curves it draws, by their specs."""
    slopes: Mapping[str, Any] | None = None
    """The logistic slopes over time that it draws: ``a``, ``b`` (angles in degrees) and several ``k``."""


@dataclass(frozen=True)
class Deviation:
    """Where a paper's text, its released code and our studies differ."""

    id: str
    paper: str
    as_written: str
    as_released: str
    here: str
    here_released: str | None
    """What the studies as released do, where it is not what ``here`` says."""
    studies: tuple[str, ...]
    """Those it applies to, by name; none where it is about the text alone."""


@dataclass(frozen=True)
class Context:
    """What a paper says about one of its studies."""

    paper: dict[str, Any] | None = None
    printed: tuple[dict[str, Any], ...] = ()
    deviations: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = field(default=())
    names: dict[str, str] = field(default_factory=dict)
    """Which table or figure of the paper one of the report's stands for: ``table`` or a figure's id -> the files' name."""


@functools.cache
def _defined() -> dict[str, tuple[Study, dict[str, Any]]]:
    """Every study at full size, and its other tiers as written."""
    found = {}
    for paper in FILES:
        for values in expanded(sections(paper, "study")):
            # A tier that is false is one that a study like it has and that it has not itself.
            smaller = {tier: change for tier, change in values.pop("tiers", {}).items() if change}
            found[values["name"]] = (Study(paper=paper, tier="full", **values), smaller)
    return found


@functools.cache
def studies() -> dict[str, Study]:
    """Every study of every paper at full size, by name."""
    return {name: whole for name, (whole, _) in _defined().items()}


def tiers(name: str) -> tuple[Tier, ...]:
    """The sizes in which a study can be run, the smallest first; ``full`` is always among them.

    Raises:
        UnknownNameError: there is no such study.
    """
    study(name)
    smaller = _defined()[name][1]
    sizes: tuple[Tier, ...] = ("smoke", "lite", "full")
    return tuple(tier for tier in sizes if tier == "full" or tier in smaller)


@functools.cache
def study(name: str, tier: str = "full") -> Study:
    """A study by name, at one of its :func:`tiers`.

    Raises:
        UnknownNameError: there is none, or it has no such tier; the message holds the nearest names.
    """
    if name not in _defined():
        raise unknown("study", name, _defined())
    whole, smaller = _defined()[name]
    if tier == "full":
        return whole
    if tier not in smaller:
        raise unknown(f"tier of {name}", tier, tiers(name))
    changed = whole.override(smaller[tier]["set"]).model_dump()
    return Study(
        **{**changed, "activations": smaller[tier].get("activations", whole.activations), "overrides": (), "tier": tier}
    )


@functools.cache
def groups() -> dict[str, Group]:
    """Every table and every figure of every paper, by name."""
    found = {}
    for paper in FILES:
        for values in sections(paper, "group"):
            patterns = values.get("studies", [])
            mine = tuple(n for n in studies() if matches(n, patterns))
            listed: dict[str, Any] = {name: tuple(values[name]) for name in ("figures", "functions") if name in values}
            found[values["name"]] = Group(**{**values, **listed, "paper": paper, "studies": mine})
    return found


def members(name: str) -> tuple[str, ...]:
    """The studies that a name on the command line stands for: itself, or those of a group. A study comes before a group of the
    same name.

    Raises:
        UnknownNameError: there is neither.
    """
    if name in studies():
        return (name,)
    if name not in groups():
        raise unknown("study or group of studies", name, [*studies(), *groups()])
    return groups()[name].studies


@functools.cache
def deviations(paper: str | None = None) -> tuple[Deviation, ...]:
    """Where text, release and we differ: of one paper, or of all.

    Raises:
        UnknownNameError: there is no such paper.
    """
    if paper is not None and paper not in FILES:
        raise unknown("paper", paper, FILES)
    return tuple(
        Deviation(
            entry["id"],
            name,
            entry["as_written"],
            entry["as_released"],
            entry["here"],
            entry.get("here_released"),
            tuple(s for s in studies() if matches(s, entry.get("studies", []))),
        )
        for name in ([paper] if paper else FILES)
        for entry in sections(name, "deviation")
    )


def context(study: Study) -> Context:
    """What the paper of a study says about it; empty for a study without a paper."""
    if study.paper not in FILES or study.name not in _defined():
        return Context()
    paper, reduced = study.paper, study.tier in ("smoke", "lite")
    as_released = bool(study.quirks)
    told = [
        {k: v for k, v in entry.items() if k != "studies"}
        for entry in sections(paper, "text_claim")
        if matches(study.name, entry["studies"])
    ]
    printed = [*told, *entries(paper, study.name)]
    if reduced:
        # Ours stay beside them; that they agree or do not would mean nothing.
        printed = [{**entry, "reduced": True} for entry in printed]
    return Context(
        read(paper).get("paper"),
        tuple(printed),
        tuple(
            {
                "id": d.id,
                "as_written": d.as_written,
                "as_released": d.as_released,
                "here": d.here_released if as_released and d.here_released else d.here,
            }
            for d in deviations(paper)
            if study.name in d.studies
        ),
        (
            *(
                [f"This is the tier {study.tier}: {TIERS[study.tier]}. The printed numbers are of the full size."]
                if study.tier and reduced
                else []
            ),
            *(n["text"] for n in sections(paper, "note") if matches(study.name, n["studies"])),
        ),
        {output["shows"]: output["name"] for output in sections(paper, "output") if matches(study.name, output["studies"])},
    )
