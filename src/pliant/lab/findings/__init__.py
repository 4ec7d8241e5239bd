"""What rows say about a claim, one kind of test after the other; :mod:`pliant.lab.claims` says which rows and what for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pliant.lab.evidence import Evidence
from pliant.lab.findings.finding import SHOWN, Finding, Settled
from pliant.lab.findings.means import mean
from pliant.lab.findings.others import confusion, failure, sites, spread
from pliant.lab.findings.several import cells, interaction
from pliant.lab.papers.claims import (
    CellsTest,
    ConfusionTest,
    FailureTest,
    InteractionTest,
    MeanTest,
    SitesTest,
    SpreadTest,
    Test,
)

__all__ = ["SHOWN", "Finding", "Settled", "decide"]


def decide(test: Test, evidence: Evidence | Sequence[Evidence], alpha: float = SHOWN) -> Finding | None:
    """What the rows of a study, or of several as the cells of one table, say about a claim; None where they hold nothing of the
    activation that it is about, or of any that it is compared with.

    Args:
        alpha: the level of the word; one of several tests of a claim has a share of 0.05. The numbers beside it are shown with
            the 95 % intervals that they have everywhere else.
    """
    shown = _decide(test, evidence, SHOWN)
    if shown is None or alpha == SHOWN or shown.word == "UNDECIDED":
        return shown
    strict = _decide(test, evidence, alpha)
    assert strict is not None
    if strict.word != shown.word:
        # A stricter level takes a word away, and never gives another.
        told = strict if isinstance(test, CellsTest) else shown
        return dataclasses.replace(told, word="UNDECIDED", verdict="CANNOT TELL")
    if isinstance(test, MeanTest) and strict.rival != shown.rival:
        # The numbers of the comparison that decided, at the level at which numbers are shown.
        told = _decide(dataclasses.replace(test, against=(strict.rival,)), evidence, SHOWN) or shown
        return dataclasses.replace(told, word=strict.word, verdict=strict.verdict)
    return dataclasses.replace(shown, verdict=strict.verdict)


def _decide(test: Test, evidence: Evidence | Sequence[Evidence], alpha: float) -> Finding | None:
    if isinstance(test, CellsTest | InteractionTest):
        assert not isinstance(evidence, Evidence)
        return cells(test, evidence, alpha) if isinstance(test, CellsTest) else interaction(test, evidence, alpha)
    assert isinstance(evidence, Evidence)
    match test:
        case ConfusionTest():
            return confusion(test, evidence, alpha)
        case SpreadTest():
            return spread(test, evidence, alpha)
        case FailureTest():
            return failure(test, evidence, alpha)
        case SitesTest():
            return sites(test, evidence, alpha)
        case MeanTest():
            return mean(test, evidence, alpha)
