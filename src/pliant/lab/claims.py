"""What our own experiments say about the claims of the papers.

A claim that compares an activation with another is settled by the rows of a study, wherever they are: in a store or in a
record. The word of the verdict (:mod:`pliant.lab.verdict`) decides, in the direction that the claim names:

* SUPPORTED: the activation is shown to stand where the claim puts it. Against "the best of the others" it must be shown to
  beat every one of them, each at the level of the test: then the chance that this is wrong is no larger than that level.
* REFUTED: it is shown to stand on the other side, or shown to be practically equal (within the claim's margin) to what the
  claim puts it above. Where the claim is "as good as", being equal supports it.
* UNDECIDED: neither is shown.

What was settled at a reduced tier, or by a study that was changed, says so, and never stands for the claim at the paper's
size. Many claims are about several
networks or data sets: each has its own test and its own word, and the words are not added up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pliant.lab import papers, records
from pliant.lab.datasets.arrays import DataError
from pliant.lab.evidence import Evidence, Tier, placed, together
from pliant.lab.findings import Finding, decide
from pliant.lab.papers import Claim
from pliant.lab.papers.claims import CellsTest, InteractionTest, MeanTest, Test
from pliant.lab.result import Result
from pliant.lab.store import Store
from pliant.lab.study import Study

__all__ = ["DECIDED", "Answer", "Known", "cost", "settle", "size_of", "tally"]

State = Literal["decided", "settled", "open", "not run"]

DECIDED: Mapping[str, str] = {
    "SUPPORTED": "shown to hold in our experiment",
    "REFUTED": "shown not to hold in our experiment: the other way round, or practically equal",
    "UNDECIDED": "our experiment shows neither",
}
TIERS: tuple[Tier, ...] = ("full", "lite", "smoke")
"""From the paper's own size down."""


class Known:
    """What there is of the papers' studies: in a store, and failing that in a folder of records.

    Args:
        store: None where there is none. recorded: a folder of records; None, or one that does not exist, for none.

    Raises:
        RecordError: a record that is not whole.
    """

    def __init__(self, store: Store | None, recorded: Path | None = None) -> None:
        self.store = store
        self._records = records.find(recorded) if recorded is not None else {}
        self._found: dict[tuple[str, Tier], Evidence | None] = {}

    def at(self, name: str, tier: Tier) -> Evidence | None:
        """The evidence of a study at one tier as it is defined; None where there is no result, or no such tier."""
        if (name, tier) not in self._found:
            has = name in papers.studies() and tier in papers.tiers(name)
            self._found[name, tier] = self._look(papers.study(name, tier)) if has else None
        return self._found[name, tier]

    def best(self, name: str, tier: Tier | None = None) -> Evidence | None:
        """The evidence nearest to the paper's own size, or that of one tier; of a changed study where there is no other."""
        tiers = [tier] if tier else TIERS
        return next((found for t in tiers if (found := self.at(name, t) or self.changed(name, t)) is not None), None)

    def changed(self, name: str, tier: Tier) -> Evidence | None:
        """The record of a study that was run with changes to a tier, the one with most results of several; None without."""
        found = (r.evidence for r in self._records.values() if r.evidence.name == name and r.evidence.tier == tier)
        return max((e for e in found if e.changes), key=lambda e: e.scored, default=None)

    def _look(self, study: Study) -> Evidence | None:
        kept = self._records.get(study.directory)
        recorded = kept.evidence if kept is not None and not kept.evidence.changes else None
        stored = self._stored(study)
        if stored is None or recorded is None:
            return stored or recorded
        return stored if stored.scored >= recorded.scored else recorded

    def _stored(self, study: Study) -> Evidence | None:
        # The plan of a study may need its data read; one that was never run here is not worth that.
        if self.store is None or study.directory not in self.store.studies():
            return None
        try:
            evidence = Evidence.of(Result(study, self.store))
        except DataError:
            return None
        return evidence if evidence.scored else None


@dataclass(frozen=True)
class Answer:
    """A claim and where it stands with us.

    Args:
        state: "decided" by rows, at least for one of its tests; "settled" by algebra or a test; "open": no comparison of rows
            settles it; "not run".
        findings: what the rows say, one for each of the claim's tests that has rows, in their order. tests: how many it has.
        command, trials: what would run its first study (or the first that is missing) at full size, and how many trials.
        rows: studies with results that speak about the claim, as (name, size, origin); see :attr:`Evidence.size`.
    """

    claim: Claim
    state: State
    findings: tuple[Finding, ...] = ()
    tests: int = 0
    command: str = ""
    trials: int = 0
    rows: tuple[tuple[str, str, str], ...] = ()


def settle(claim: Claim, known: Known, tier: Tier | None = None) -> Answer:
    """Where a claim stands.

    Args:
        tier: look at results of this tier alone; default: of the largest there is, study by study.
    """
    seen = {name: found for name in claim.studies if (found := known.best(name, tier)) is not None}
    rows = tuple((name, found.size, found.origin) for name, found in seen.items())
    if claim.tests:
        given = [(test, _evidence(test, known, tier)) for test in claim.tests]
        told = [decide(_across(test), evidence) for test, evidence in given if evidence is not None]
        findings = tuple(finding for finding in told if finding is not None)
        needed = [name for test in claim.tests for name in _studies(test)]
        wanting = [name for name in needed if not _whole(known.best(name, tier))]
        command, trials = cost(wanting[0], tier) if wanting else ("", 0)
        state: State = "decided" if findings else "not run"
        return Answer(claim, state, findings, len(claim.tests), command, trials, rows)
    if claim.settled_by:
        return Answer(claim, "settled", rows=rows)
    if claim.studies and not rows:
        command, trials = cost(claim.studies[0], tier)
        return Answer(claim, "not run", (), 0, command, trials)
    return Answer(claim, "open", rows=rows)


def _studies(test: Test) -> tuple[str, ...]:
    if isinstance(test, InteractionTest):
        return test.study, test.beside
    return (test.study, *test.across) if isinstance(test, MeanTest | CellsTest) else (test.study,)


def _evidence(test: Test, known: Known, tier: Tier | None) -> Evidence | list[Evidence] | None:
    """What there is to settle a test with; None where a study it needs has no result, or they are of several sizes."""
    names = _studies(test)
    if len(names) == 1:
        return known.best(test.study, tier)
    # Of the largest tier at which there are enough of them: that one was run at a larger one too takes nothing away.
    for one in [tier] if tier else TIERS:
        parts = [found for name in names if (found := known.best(name, one)) is not None]
        if isinstance(test, CellsTest):
            parts = [part for part in parts if not part.changes]
            if len(parts) > 1:
                return parts
        elif len(parts) == len(names) and len({part.comparable for part in parts}) == 1:
            return together(parts) if isinstance(test, MeanTest) else parts
    return None


def _across(test: Test) -> Test:
    """A test of several studies in the names that activations have where these are one."""
    if not isinstance(test, MeanTest) or not test.across:
        return test
    against = test.against
    if not isinstance(against, str):
        against = tuple(placed(a, name) for name in test.across for a in against)
    return dataclasses.replace(test, contender=placed(test.contender, test.study), against=against)


def _whole(found: Evidence | None) -> bool:
    return found is not None and found.size == "full" and found.scored == len(found.rows)


def cost(name: str, tier: Tier | None = None) -> tuple[str, int]:
    """The command that runs a study, and how many trials it has. Without a tier, or without one of that name: at full size."""
    if name not in papers.studies():
        return "", 0
    study = papers.study(name, tier if tier in papers.tiers(name) else "full")
    return f"pliant run {name}{f' --tier {study.tier}' if study.tier else ''}", size_of(study)


def size_of(study: Study) -> int:
    """How many trials a study has; unlike its plan this needs no data."""
    p = study.protocol
    return len(study.trained) * p.folds * p.repeats * max(1, len(study.train.lr_grid))


def tally(answers: Sequence[Answer]) -> Iterator[tuple[str, int]]:
    """How many claims stand where, in words, by the first of their tests."""
    words = {"settled": "settled by algebra or a test", "open": "no comparison of rows settles it", "not run": "not run"}
    names = [a.findings[0].brief if a.findings else words[a.state] for a in answers]
    for name in sorted(set(names)):
        yield name, names.count(name)
