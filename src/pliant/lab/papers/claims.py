"""What the papers claim, what their own evidence says about it, and the experiment that would settle it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pliant.errors import unknown
from pliant.lab.papers.files import FILES, sections
from pliant.lab.study import spelled

__all__ = [
    "EVIDENCE",
    "CellsTest",
    "Claim",
    "ConfusionTest",
    "FailureTest",
    "InteractionTest",
    "MeanTest",
    "SitesTest",
    "SpreadTest",
    "Test",
    "claims",
    "studies_of",
]

EVIDENCE: dict[str, str] = {
    "OK": "the paper's own numbers, or algebra, support it",
    "PART": "they support a part of it",
    "NO": "they contradict it",
    "OPEN": "there is no usable evidence",
}


@dataclass(frozen=True)
class MeanTest:
    """A mean of one activation against those of others, by the words of the verdict."""

    study: str
    contender: str
    """The spec of the activation that the claim is about."""
    against: tuple[str, ...] | Literal["best", "all"]
    """The specs it is compared with, those of them that a study at its tier has. ``best``: every other function of the study;
    variants of the contender's own are no rivals, because a claim that X is best does not say which X. ``all``: every other
    activation of the study, those variants included."""
    metric: str
    """A column of the rows, for example ``test_accuracy`` or ``gap_matched``, or the difference of two: ``"a - b"``."""
    direction: Literal["higher", "lower", "same"]
    """Where the contender is to stand for the claim to hold."""
    margin: float
    """Differences up to this size count as equal, in units of the metric, or as a share where it is ``relative``."""
    equal: bool = False
    """Whether the claim is "no worse than": it holds where the contender is shown to be behind by less than the margin, and not
    where it is shown to be further behind."""
    least: float = 0.0
    """How far ahead the contender must be shown to be for a claim of that size: in units of the metric, or as a share."""
    relative: bool = False
    """Whether the two are compared by their quotient; not for scores of the test part."""
    across: tuple[str, ...] = ()
    """Further studies with the same division of the data and the same seeds, such as those of the other optimizers. The
    contender is of ``study``; ``all`` are then all activations of all of them, and named ones those of the further studies."""


@dataclass(frozen=True)
class ConfusionTest:
    """Which two classes are mistaken for each other most, in either direction."""

    study: str
    contender: str
    pair: tuple[str, str]
    """The two classes, by their names in the data."""


@dataclass(frozen=True)
class SpreadTest:
    """Whether a number varies less from trial to trial (over folds, or over seeds) than with others."""

    study: str
    contender: str
    against: tuple[str, ...] | Literal["best", "all"]
    metric: str


@dataclass(frozen=True)
class FailureTest:
    """Whether most trainings fail: they diverge, or end at chance on what they were trained on."""

    study: str
    contender: str


@dataclass(frozen=True)
class SitesTest:
    """Whether call sites learn different functions."""

    study: str
    contender: str
    margin: float
    """Curves closer than this (root mean square over inputs from -3 to 3) count as one."""


@dataclass(frozen=True)
class CellsTest:
    """Whether a lead over every other function holds in all cells of a table, and not in their mean alone."""

    study: str
    contender: str
    metric: str
    """A score of the test part by its bare name, such as ``accuracy``, which all cells have."""
    margin: float
    across: tuple[str, ...] = ()
    """The further cells; those that were run count."""


@dataclass(frozen=True)
class InteractionTest:
    """Whether a lead is another one in one study than in a second."""

    study: str
    beside: str
    """The second study."""
    contender: str
    against: tuple[str, ...]
    """One spec."""
    metric: str
    """A column of the rows."""
    direction: Literal["larger", "same"]
    """How the lead in ``study`` must be, seen from the one in ``beside``, for the claim to hold."""
    margin: float
    """Leads that differ by no more than this are the same, in units of the metric."""
    times: float = 1.0
    """It must be larger than so many times the other: 2 says that more than half of it is gone there."""


Test = MeanTest | ConfusionTest | SpreadTest | FailureTest | SitesTest | CellsTest | InteractionTest

KINDS: Mapping[str, Any] = {
    "mean": MeanTest,
    "confusion": ConfusionTest,
    "spread": SpreadTest,
    "failure": FailureTest,
    "sites": SitesTest,
    "cells": CellsTest,
    "interaction": InteractionTest,
}
"""By what the tests of a claim name as their ``kind``; "mean" where they name none."""


@dataclass(frozen=True)
class Claim:
    """A claim of a paper that can be checked."""

    number: int
    paper: Literal["dsrelu", "srelu", "aaf", "all"]
    title: str
    evidence_status: Literal["OK", "PART", "NO", "OPEN"]
    """On the paper's own evidence; see ``EVIDENCE``."""
    evidence: str
    experiment: str
    studies: tuple[str, ...] = ()
    """Whose rows speak about it: those of the tests first."""
    tests: tuple[Test, ...] = ()
    """In the order of weight; none where no rows settle it, as one of the next two then says."""
    settled: Literal["holds", "holds in part", "does not hold"] | None = None
    """What algebra or a test says of it, where that settles it; ``experiment`` says in words what came out."""
    settled_by: str | None = None
    """The test or the page of this project that settles it, from the root of the repository."""
    not_yet: str | None = None
    """What of it the tests leave out, and why; said wherever the claim is."""


@functools.cache
def _all() -> tuple[Claim, ...]:
    return tuple(sorted((_claim(paper, dict(c)) for paper in FILES for c in sections(paper, "claim")), key=lambda c: c.number))


def _claim(paper: str, values: dict[str, Any]) -> Claim:
    """A test that names several studies is one in each of them. The studies of the tests need not be listed again."""
    tests = tuple(
        _test(**{**test, "study": study})
        for test in values.pop("tests", ())
        for study in ([test["study"]] if isinstance(test["study"], str) else test["study"])
    )
    needed = [name for test in tests for name in studies_of(test)]
    studies = tuple(dict.fromkeys([*needed, *values.pop("studies", ())]))
    return Claim(paper=paper, studies=studies, tests=tests, **values)  # type: ignore[arg-type]


def studies_of(test: Test) -> tuple[str, ...]:
    """The studies whose rows a test needs; of cells, some of them."""
    if isinstance(test, InteractionTest):
        return test.study, test.beside
    return (test.study, *test.across) if isinstance(test, MeanTest | CellsTest) else (test.study,)


def _test(kind: str = "mean", **values: Any) -> Test:
    if kind not in KINDS:
        raise unknown("kind of test of a claim", kind, KINDS)
    against = values.get("against")
    if values.get("across") and against == "best":
        raise ValueError(f"The claim test {values} is across studies, where 'best' means nothing; expected 'all' or names.")
    if values.get("relative") and values["metric"].startswith("test_"):
        raise ValueError(f"The claim test {values} is of a quotient, which is not for scores of the test part.")
    # In the one spelling that studies have.
    if against is not None and against not in ("best", "all"):
        values["against"] = tuple(spelled(a) for a in ([against] if isinstance(against, str) else against))
    values |= {name: tuple(values[name]) for name in ("pair", "across") if name in values}
    test: Test = KINDS[kind](**{**values, "contender": spelled(values["contender"])})
    return test


def claims(paper: str | None = None) -> list[Claim]:
    """The claims of one paper, of ``"all"`` together, or (None) every one of the 70, by number.

    Raises:
        UnknownNameError: there is no such paper.
    """
    if paper is not None and paper not in FILES:
        raise unknown("paper", paper, FILES)
    return [c for c in _all() if paper in (None, c.paper)]
