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
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scipy.stats import binomtest

from pliant import catalog
from pliant.lab import papers, records
from pliant.lab.datasets.arrays import DataError
from pliant.lab.evidence import Evidence, Tier, numbers_of, placed, together
from pliant.lab.metrics import HIGHER_IS_BETTER, METRICS
from pliant.lab.papers import Claim, ClaimTest, ConfusionTest
from pliant.lab.result import Result
from pliant.lab.store import Store
from pliant.lab.study import CHOSEN, Study
from pliant.lab.verdict import Comparison, Verdict, VerdictError, judge

__all__ = ["DECIDED", "Answer", "Finding", "Known", "Settled", "cost", "decide", "settle", "size_of", "tally"]

State = Literal["decided", "settled", "open", "not run"]
Settled = Literal["SUPPORTED", "REFUTED", "UNDECIDED"]

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
class Finding:
    """What our experiment says about one comparison.

    Args:
        word: the claim's fate. verdict: the word of the comparison that decided it. sentence: that comparison in words.
        n: pairs of trials. difference, low, high: contender minus rival, in units of the column; the interval is that of the
            one comparison. rival: what it was compared with. unfinished: rows of the study that have no result.
    """

    study: str
    word: Settled
    verdict: str
    sentence: str
    n: int
    difference: float
    low: float
    high: float
    rival: str
    tier: Tier
    origin: str
    directory: str
    unfinished: int
    remarks: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The word with its tier and what was changed of it, without which it is never shown."""
        return f"{self._at_tier} (changed: {', '.join(self.changes)})" if self.changes else self._at_tier

    @property
    def brief(self) -> str:
        """The label where a link leads to what was changed."""
        return f"{self._at_tier}, changed" if self.changes else self._at_tier

    @property
    def _at_tier(self) -> str:
        return self.word if self.tier == "full" else f"{self.word} at the {self.tier} tier only"


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
    if claim.tests or claim.confusions:
        tested = [(test, _evidence(test, known, tier)) for test in claim.tests]
        looked = [(test, known.best(test.study, tier)) for test in claim.confusions]
        findings = (
            *(decide(_across(test), found) for test, found in tested if found is not None),
            *(decide_confusion(test, found) for test, found in looked if found is not None),
        )
        needed = [name for test in claim.tests for name in (test.study, *test.across)] + [test.study for test, _ in looked]
        wanting = [name for name in needed if not _whole(known.best(name, tier))]
        command, trials = cost(wanting[0], tier) if wanting else ("", 0)
        state: State = "decided" if findings else "not run"
        return Answer(claim, state, findings, len(tested) + len(looked), command, trials, rows)
    if claim.settled_by:
        return Answer(claim, "settled", rows=rows)
    if claim.studies and not rows:
        command, trials = cost(claim.studies[0], tier)
        return Answer(claim, "not run", (), 0, command, trials)
    return Answer(claim, "open", rows=rows)


def _evidence(test: ClaimTest, known: Known, tier: Tier | None) -> Evidence | None:
    """What there is to settle a test with; None where a study it needs has no result, or they are of several sizes."""
    if not test.across:
        return known.best(test.study, tier)
    # Of the largest tier at which there are all of them: that one was run at a larger one too takes nothing away.
    for one in [tier] if tier else TIERS:
        found = [known.best(name, one) for name in (test.study, *test.across)]
        parts = [part for part in found if part is not None]
        if len(parts) == len(found) and len({part.size for part in parts}) == 1:
            return together(parts)
    return None


def _across(test: ClaimTest) -> ClaimTest:
    if not test.across:
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


def decide(test: ClaimTest, evidence: Evidence, alpha: float = 0.05) -> Finding:
    """What the rows of a study say about a claim."""
    contender = test.contender
    family = _verdict(test, evidence, contender, alpha)
    found = [] if family is None else _in_the_claims_direction(family, test, contender)

    def finding(word: Settled, verdict: str, sentence: str, c: _Seen | None = None) -> Finding:
        numbers = (c.n, c.difference, c.low, c.high, c.rival) if c else ()
        return _finding(test.study, evidence, word, verdict, sentence, *numbers)

    if contender not in evidence.activations or not found:
        if contender in evidence.activations and _rivals(test, evidence):
            return finding("UNDECIDED", "", f"the rows of {evidence.directory} alone say nothing of {test.metric}.")
        rivals = test.against if isinstance(test.against, str) else " or ".join(test.against)
        lacking = contender if contender not in evidence.activations else rivals
        return finding("UNDECIDED", "", f"{lacking} is not in the rows of {evidence.directory}.")
    seen = [c for c in found if c.n]
    if not seen:
        return finding("UNDECIDED", "CANNOT TELL", f"no pair of trials has a {test.metric} yet.")
    # The rival that stands nearest to, or furthest beyond, where the claim puts the contender.
    hardest = min(seen, key=lambda c: c.lead)
    against = [c for c in seen if c.word == "WORSE" or (c.word == "EQUIVALENT" and not test.equal)]
    if against := [c for c in against if not (test.equal and c.within)]:
        worst = min(against, key=lambda c: (c.word != "WORSE", c.lead))
        return finding("REFUTED", worst.word, worst.sentence, worst)
    # Every one of several must be beaten, so none of the tests has to pay for the number of them.
    if len(seen) == len(found) and all((c.p < alpha and c.lead > 0) or (test.equal and c.within) for c in seen):
        return finding("SUPPORTED", hardest.word if hardest.word == "EQUIVALENT" else "BETTER", hardest.sentence, hardest)
    return finding("UNDECIDED", "CANNOT TELL", hardest.sentence, hardest)


def _finding(
    study: str,
    evidence: Evidence,
    word: Settled,
    verdict: str,
    sentence: str,
    n: int = 0,
    difference: float = math.nan,
    low: float = -math.inf,
    high: float = math.inf,
    rival: str = "",
) -> Finding:
    unfinished = len(evidence.rows) - evidence.scored
    where = (evidence.tier, evidence.origin, evidence.directory)
    told = (evidence.remarks, evidence.changes)
    return Finding(study, word, verdict, sentence, n, difference, low, high, rival, *where, unfinished, *told)


def decide_confusion(test: ConfusionTest, evidence: Evidence, alpha: float = 0.05) -> Finding:
    """What the confusions of a study say about which two classes are mistaken for each other most.

    Trials are tested on the same examples, so what counts is the mean number of mistakes of a trial, and not their sum: that of
    the named pair against that of the pair which, of all others, is mistaken most, by an exact binomial test. Another pair is
    picked from many after looking, which refuting it pays for (Bonferroni).
    """
    cells = evidence.confusions().get(test.contender, {})
    n = len(numbers_of([row for row in evidence.rows if row["activation"] == test.contender], "test_accuracy"))
    mistakes: dict[frozenset[str], int] = {}
    for (true, told), count in cells.items():
        if true != told:
            mistakes[frozenset((true, told))] = mistakes.get(frozenset((true, told)), 0) + count
    named, label = frozenset(test.pair), evidence.labels.get(test.contender, test.contender)

    def finding(word: Settled, sentence: str, difference: float = math.nan, rival: str = "") -> Finding:
        by = "exact binomial test" if rival else ""
        return _finding(test.study, evidence, word, by, sentence, n, difference, rival=rival)

    if not n or named not in mistakes or len(mistakes) < 2:
        return finding("UNDECIDED", f"the confusions of {label} with {_pair(test.pair)} are not known of {evidence.directory}.")
    mine = mistakes.pop(named)
    other, theirs = max(mistakes.items(), key=lambda entry: (entry[1], sorted(entry[0])))
    p = binomtest(round(mine / n), max(1, round(mine / n) + round(theirs / n))).pvalue
    word: Settled = "UNDECIDED"
    if mine > theirs and p < alpha:
        word = "SUPPORTED"
    elif theirs > mine and p * len(mistakes) < alpha:
        word = "REFUTED"
    of = mine + sum(mistakes.values())
    sentence = (
        f"{label} mistakes {_pair(test.pair)} for each other {mine / n:.1f} times a trial and {_pair(sorted(other))} "
        f"{theirs / n:.1f} times, of {of / n:.1f} mistakes, n = {n}"
    )
    return finding(word, sentence, (mine - theirs) / n, _pair(sorted(other)))


def _pair(classes: Sequence[str]) -> str:
    # In quotes, because classes may be numbers that stand beside others.
    return " and ".join(f"'{name}'" for name in classes)


@dataclass(frozen=True)
class _Seen:
    """One comparison, turned so that BETTER and a positive lead are what the claim says."""

    rival: str
    word: str
    n: int
    difference: float
    low: float
    high: float
    lead: float
    p: float
    within: bool
    """Shown to differ by less than the margin."""
    sentence: str


def _verdict(test: ClaimTest, evidence: Evidence, contender: str, alpha: float) -> Verdict | None:
    """The contender as the baseline of a verdict on its rivals; None where one is not among the rows, or these do not say."""
    rivals = _rivals(test, evidence)
    if contender not in evidence.activations or not rivals:
        return None
    metric = test.metric.removeprefix("test_")
    if metric in METRICS and metric != test.metric:
        known = evidence.kept
        if evidence.examples is not None or evidence.design != "official":
            return evidence.verdict(baseline=contender, metric=metric, margin=test.margin, activations=rivals)
        if known is not None and known.baseline in (contender, *rivals) and metric in known.estimates:
            # A record without its predictions has only the comparisons that were made when it was.
            return _turned(known, contender, rivals, metric)
        # By seeds alone, on one test part, a score would be taken for surer than it is.
        return None
    return _of_a_column(test, evidence, contender, rivals, alpha)


def _rivals(test: ClaimTest, evidence: Evidence) -> list[str]:
    others = [a for a in evidence.activations if a != test.contender]
    if isinstance(test.against, tuple):
        return [a for a in others if a in test.against]
    return [a for a in others if test.against == "all" or _another(a, test.contender)]


def _another(activation: str, contender: str) -> bool:
    """Whether it is another function, and not another setting, or a choice among settings that stand there themselves."""
    one, other = activation.removeprefix(CHOSEN), contender.removeprefix(CHOSEN)
    if activation != one or contender != other:
        return activation == one
    return catalog.parse(activation).entry.name != catalog.parse(contender).entry.name


def _of_a_column(test: ClaimTest, evidence: Evidence, contender: str, rivals: Sequence[str], alpha: float) -> Verdict | None:
    """A verdict on what is not a score of the test part: times, gaps, areas. As a score without steps, the lower the better,
    over the folds; seeds on one fixed split count as such, since what other test examples would say is not in question."""
    if not numbers_of(evidence.rows, test.metric):
        return None
    rows = [{k: v for k, v in row.items() if k != "partition"} | {"test_loss": row.get(test.metric)} for row in evidence.rows]
    try:
        verdict = judge(
            rows,
            activations=[contender, *rivals],
            labels=evidence.labels,
            baseline=contender,
            metric="loss",
            metrics=("loss",),
            margin=test.margin,
            alpha=alpha,
        )
    except VerdictError:
        return None
    # What is counted may agree where the trainings do not; that is a tie, and no identity.
    comparisons: list[Comparison] = [
        dataclasses.replace(c, word="CANNOT TELL", identical=False)
        if c.identical and not _same_losses(evidence, contender, c.activation)
        else c
        for c in verdict.comparisons
    ]
    return dataclasses.replace(verdict, comparisons=tuple(comparisons))


def _same_losses(evidence: Evidence, one: str, other: str) -> bool:
    def losses(activation: str) -> dict[tuple[Any, ...], Any]:
        return {(r["repeat"], r["fold"]): r.get("test_loss") for r in evidence.rows if r["activation"] == activation}

    return losses(one) == losses(other)


def _turned(verdict: Verdict, contender: str, rivals: Sequence[str], metric: str) -> Verdict | None:
    """A verdict that was made against another baseline, as far as it compared these two."""
    family = verdict.comparisons if metric == verdict.metric else verdict.secondary.get(metric, ())
    if verdict.baseline == contender:
        chosen = [c for c in family if c.activation in rivals]
    elif rivals == [verdict.baseline]:
        words: dict[str, Any] = {"BETTER": "WORSE", "WORSE": "BETTER"}
        chosen = [
            dataclasses.replace(
                c,
                activation=verdict.baseline,
                label=verdict.baseline_label,
                difference=-c.difference,
                low=-c.high,
                high=-c.low,
                word=words.get(c.word, c.word),
            )
            for c in family
            if c.activation == contender
        ]
    else:
        return None
    if len(chosen) != len(rivals):
        return None
    return dataclasses.replace(verdict, baseline=contender, metric=metric, comparisons=tuple(chosen), secondary={})


def _in_the_claims_direction(verdict: Verdict, test: ClaimTest, contender: str) -> list[_Seen]:
    name = verdict.estimates[verdict.metric]
    label = next((e.label for e in name if e.activation == contender), contender)
    return [_seen(c, test, label, verdict.alpha) for c in verdict.comparisons]


def _seen(c: Comparison, test: ClaimTest, contender: str, alpha: float) -> _Seen:
    # The verdict compares the rival with the contender; the claim speaks the other way round.
    higher_claimed = test.direction == "higher"
    metric = test.metric.removeprefix("test_")
    points = metric in METRICS and HIGHER_IS_BETTER[metric] and metric != test.metric
    turned = {"BETTER": "WORSE", "WORSE": "BETTER"}
    word = turned.get(c.word, c.word) if higher_claimed == c.higher_is_better else c.word
    difference = -c.difference
    lead = difference if higher_claimed else -difference
    size = functools.partial(_size, points=points)
    interval = f" [{size(-c.high)}, {size(-c.low)}]" if math.isfinite(c.low) else ""
    unit = " points" if points else ""
    if c.identical:
        sentence = f"{contender} and {c.label} have the same {test.metric} in all {c.n} pairs"
    else:
        sentence = f"{contender} minus {c.label}, {test.metric}: {size(difference)}{unit}{interval}, n = {c.n}"
    within = c.word == "EQUIVALENT" or c.p_equivalent < alpha
    return _Seen(c.activation, word, c.n, difference, -c.high, -c.low, lead, c.p, within, sentence)


def _size(value: float, *, points: bool) -> str:
    # Adding 0 turns a negative zero into zero.
    return f"{100 * value + 0.0:+.2f}" if points else f"{value + 0.0:+.4g}"


def tally(answers: Sequence[Answer]) -> Iterator[tuple[str, int]]:
    """How many claims stand where, in words, by the first of their tests."""
    words = {"settled": "settled by algebra or a test", "open": "no comparison of rows settles it", "not run": "not run"}
    names = [a.findings[0].label if a.findings else words[a.state] for a in answers]
    for name in sorted(set(names)):
        yield name, names.count(name)
