"""What our own experiments say about the claims of the papers.

A claim that compares an activation with another is settled by the rows of a study, wherever they are: in a store or in a
record. The word of the verdict (:mod:`pliant.lab.verdict`) decides, in the direction that the claim names:

* SUPPORTED: the activation is shown to stand where the claim puts it. Against "the best of the others" it must be shown to
  beat every one of them, each at the level of the test: then the chance that this is wrong is no larger than that level.
* REFUTED: it is shown to stand on the other side, or shown to be practically equal (within the claim's margin) to what the
  claim puts it above. Where the claim is "as good as", being no worse than that supports it; where it states a size, a lead
  that is shown to be smaller refutes it.
* UNDECIDED: neither is shown.

What was settled at a reduced tier, or by a study that was changed, says so, and never stands for the claim at the paper's
size. Many claims are about several networks or data sets: each has its own test and its own word, and the words are not added
up. They are one look at the claim, though, so the words of all that were run are held to 5 % together (Holm).
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
from pliant.lab.findings import SHOWN, Finding, decide
from pliant.lab.papers import Claim
from pliant.lab.papers.claims import CellsTest, MeanTest, Test, studies_of
from pliant.lab.result import Result
from pliant.lab.store import Store
from pliant.lab.study import Study

__all__ = ["DECIDED", "Answer", "Known", "cost", "settle", "size_of", "tally"]

State = Literal["decided", "settled", "open", "not run"]

DECIDED: Mapping[str, str] = {
    "SUPPORTED": "shown to hold in our experiment",
    "REFUTED": "shown not to hold in our experiment: the other way round, or practically equal",
    "UNDECIDED": "our experiment shows neither, at 5 % for all comparisons of a claim together",
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
        wanting: what would run its studies that are not done at full size.
        rows: studies with results that speak about the claim, as (name, size, origin); see :attr:`Evidence.size`.
    """

    claim: Claim
    state: State
    findings: tuple[Finding, ...] = ()
    tests: int = 0
    wanting: tuple[Cost, ...] = ()
    rows: tuple[tuple[str, str, str], ...] = ()

    @property
    def lacking(self) -> str:
        """What is to be said of tests without a finding, as a clause without a full stop; "" where there is none."""
        lacks = self.tests - len(self.findings)
        if not lacks or self.state == "settled":
            return ""
        if not self.findings:
            needed = {name for test in self.claim.tests for name in studies_of(test)}
            had = [f"{name} ({size.partition(':')[0]})" for name, size, _ in self.rows if name in needed]
            if any(_takes_times(test) for test in self.claim.tests):
                return "times count in a record of `pliant record --timed` alone, for trials that had the machine to themselves"
            return f"rows of {', '.join(had)} are not what is compared, or not of one size" if had else ""
        return f"{lacks} of its {self.tests} comparisons {'has' if lacks == 1 else 'have'} no rows, or none at one size"

    @property
    def notes(self) -> list[str]:
        """What is to be said beside the words: of tests without a finding, and of what no test asks. Sentences."""
        return [f"{note[0].upper()}{note[1:].rstrip('.')}." for note in (self.lacking, self.claim.not_yet) if note]

    @property
    def command(self) -> str:
        """What runs the first study that is wanting; "" where none is."""
        return self.wanting[0].command if self.wanting else ""

    @property
    def cost(self) -> str:
        """What that study takes, and all that are wanting."""
        if not self.wanting:
            return ""
        first, n = self.wanting[0], len(self.wanting)
        whole = f"; {n} studies with {sum(c.trials for c in self.wanting):,} trials in all" if n > 1 else ""
        return f"{first.trials:,} trials of {first.epochs} epochs{whole}"


@dataclass(frozen=True)
class Cost:
    """What runs a study: a command, how many trials that are, and the epochs of each."""

    command: str
    trials: int
    epochs: int


def settle(claim: Claim, known: Known, tier: Tier | None = None) -> Answer:
    """Where a claim stands.

    Args:
        tier: look at results of this tier alone; default: of the largest there is, study by study.
    """
    seen = {name: found for name in claim.studies if (found := known.best(name, tier)) is not None}
    rows = tuple((name, found.size, found.origin) for name, found in seen.items())
    if claim.tests:
        given = [(test, _evidence(test, known, tier)) for test in claim.tests]
        findings = _decided([(_across(test), evidence) for test, evidence in given if evidence is not None])
        needed = dict.fromkeys(name for test in claim.tests for name in studies_of(test))
        timed = {test.study for test in claim.tests if _takes_times(test)}
        lacking = [name for name in needed if name in papers.studies() and not _whole(known.best(name, tier), name in timed)]
        state: State = "decided" if findings else "not run"
        wanting = tuple(cost(name, tier, timed=name in timed) for name in lacking)
        return Answer(claim, state, findings, len(claim.tests), wanting, rows)
    if claim.settled_by:
        return Answer(claim, "settled", rows=rows)
    if claim.studies and not rows:
        return Answer(claim, "not run", wanting=tuple(cost(name, tier) for name in claim.studies))
    return Answer(claim, "open", rows=rows)


def _decided(given: Sequence[tuple[Test, Evidence | list[Evidence]]]) -> tuple[Finding, ...]:
    """A finding for each test that has one. Together they are one look at the claim, so the words are those of Holm's
    procedure: of m tests one must be decided at a level of 0.05 / m, of the others one at 0.05 / (m - 1), and so on."""
    told = {i: alone for i, (test, evidence) in enumerate(given) if (alone := decide(test, evidence)) is not None}
    left = {i for i, finding in told.items() if finding.word != "UNDECIDED"}
    decided: set[int] = set()
    # What could not be compared is no look at the claim.
    looks = sum(finding.n > 0 for finding in told.values())
    while left:
        alpha = SHOWN / (looks - len(decided))
        for i in left:
            again = decide(*given[i], alpha)
            assert again is not None
            told[i] = again
        if not (new := {i for i in left if told[i].word != "UNDECIDED"}):
            break
        decided |= new
        left -= new
    return tuple(told.values())


def _evidence(test: Test, known: Known, tier: Tier | None) -> Evidence | list[Evidence] | None:
    """What there is to settle a test with; None where a study it needs has no result, or they are of several sizes, or it is
    about times that cannot be compared."""
    names = studies_of(test)
    if len(names) == 1:
        found = known.best(test.study, tier)
        return None if found is not None and _takes_times(test) and not found.timed else found
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


def _takes_times(test: Test) -> bool:
    return isinstance(test, MeanTest) and "seconds" in test.metric


def _whole(found: Evidence | None, timed: bool = False) -> bool:
    return found is not None and found.size == "full" and found.scored == len(found.rows) and (found.timed or not timed)


def cost(name: str, tier: Tier | None = None, *, timed: bool = False) -> Cost:
    """What runs a study; ``timed``: one trial after the other, as times need it.

    Without a tier, or without one of that name: at full size."""
    study = papers.study(name, tier if tier in papers.tiers(name) else "full")
    command = f"pliant run {name}{f' --tier {study.tier}' if study.tier else ''}"
    command += " --on serial --stack 1" if timed else ""
    return Cost(command, size_of(study), study.train.epochs)


def size_of(study: Study) -> int:
    """How many trials a study has; unlike its plan this needs no data."""
    p = study.protocol
    return len(study.trained) * p.folds * p.repeats * max(1, len(study.train.lr_grid))


def tally(answers: Sequence[Answer]) -> Iterator[tuple[str, int]]:
    """How many claims stand where, in words, by the first of their tests."""
    words = {"open": "no comparison of rows settles it", "not run": "not run"}
    names = [
        a.findings[0].brief if a.findings else words.get(a.state, f"{a.claim.settled}, by algebra or a test") for a in answers
    ]
    for name in sorted(set(names)):
        yield name, names.count(name)
