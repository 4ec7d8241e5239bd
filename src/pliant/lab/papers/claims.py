"""What the papers claim, what their own evidence says about it, and the experiment that would settle it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal

from pliant.errors import unknown
from pliant.lab.papers.files import FILES, sections
from pliant.lab.study import spelled

__all__ = ["EVIDENCE", "Claim", "ClaimTest", "claims"]

EVIDENCE: dict[str, str] = {
    "OK": "the paper's own numbers, or algebra, support it",
    "PART": "they support a part of it",
    "NO": "they contradict it",
    "OPEN": "there is no usable evidence",
}


@dataclass(frozen=True)
class ClaimTest:
    """How the verdict on a claim follows from the rows of a study."""

    study: str
    contender: str
    """The spec of the activation that the claim is about."""
    against: tuple[str, ...] | Literal["best", "all"]
    """The specs it is compared with, those of them that a study at its tier has. ``best``: every other function of the study;
    variants of the contender's own are no rivals, because a claim that X is best does not say which X. ``all``: every other
    activation of the study, those variants included."""
    metric: str
    """A column of the rows, for example ``test_accuracy`` or ``gap_matched``."""
    direction: Literal["higher", "lower"]
    """Where the contender is to stand for the claim to hold."""
    margin: float
    """Differences up to this size count as equal, in units of the metric."""
    equal: bool = False
    """Whether the claim holds if the two are equal: "as good as", and not "better than"."""
    across: tuple[str, ...] = ()
    """Further studies with the same division of the data and the same seeds, such as those of the other optimizers. The
    contender is of ``study``; ``all`` are then all activations of all of them, and named ones those of the further studies."""


@dataclass(frozen=True)
class ConfusionTest:
    """How a claim about which two classes are mistaken for each other most, in either direction, follows from a study."""

    study: str
    contender: str
    """The spec of the activation that the claim is about."""
    pair: tuple[str, str]
    """The two classes, by their names in the data."""


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
    """Whose rows speak about it."""
    tests: tuple[ClaimTest, ...] = ()
    """One a study, in the order of weight; none where no comparison of rows settles it, as one of the next two then says."""
    confusions: tuple[ConfusionTest, ...] = ()
    settled_by: str | None = None
    """The test or the page of this project that settles it, from the root of the repository."""
    not_yet: str | None = None
    """What of it the lab cannot express, and why; or what has to be looked at by hand."""

    @property
    def test(self) -> ClaimTest | None:
        """The first of the tests."""
        return self.tests[0] if self.tests else None


@functools.cache
def _all() -> tuple[Claim, ...]:
    return tuple(sorted((_claim(paper, dict(c)) for paper in FILES for c in sections(paper, "claim")), key=lambda c: c.number))


def _claim(paper: str, values: dict[str, Any]) -> Claim:
    tests = tuple(_test(test) for test in values.pop("tests", ()))
    studies = tuple(values.pop("studies", ()))
    confusions = tuple(
        ConfusionTest(**{**test, "contender": spelled(test["contender"]), "pair": tuple(test["pair"])})
        for test in values.pop("confusions", ())
    )
    return Claim(paper=paper, studies=studies, tests=tests, confusions=confusions, **values)  # type: ignore[arg-type]


def _test(values: dict[str, Any]) -> ClaimTest:
    # In the one spelling that studies have.
    against = values["against"]
    if against not in ("best", "all"):
        against = tuple(spelled(a) for a in ([against] if isinstance(against, str) else against))
    across = tuple(values.get("across", ()))
    if across and against == "best":
        raise ValueError(f"The claim test {values} is across studies, where 'best' means nothing; expected 'all' or names.")
    return ClaimTest(**{**values, "contender": spelled(values["contender"]), "against": against, "across": across})


def claims(paper: str | None = None) -> list[Claim]:
    """The claims of one paper, of ``"all"`` together, or (None) every one of the 70, by number.

    Raises:
        UnknownNameError: there is no such paper.
    """
    if paper is not None and paper not in FILES:
        raise unknown("paper", paper, FILES)
    return [c for c in _all() if paper in (None, c.paper)]
