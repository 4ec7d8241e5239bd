"""What a mean, compared with others in the direction of a claim, says."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy import stats

from pliant.lab.evidence import Evidence, numbers_of
from pliant.lab.findings.finding import Finding, Settled, make, number_of
from pliant.lab.metrics import HIGHER_IS_BETTER, KNOWN
from pliant.lab.papers.claims import MeanTest, SpreadTest
from pliant.lab.study import CHOSEN, spec_of
from pliant.lab.verdict import Comparison, Verdict, VerdictError, judge

__all__ = ["TURNED", "Lead", "in_points", "is_another", "leads", "mean", "rivals_of", "size_of"]

TURNED: Mapping[str, Any] = {"BETTER": "WORSE", "WORSE": "BETTER"}
"""The word of a comparison seen from its other side; the other words stay."""


def mean(test: MeanTest, evidence: Evidence, alpha: float) -> Finding | None:
    """None where the rows hold nothing of the contender, or of any that it is compared with."""
    if test.contender not in evidence.activations or not rivals_of(test, evidence):
        return None
    found = leads(test, evidence, alpha)
    missing = [a for a in test.against if a not in evidence.activations] if isinstance(test.against, tuple) else []
    without = _without(test, evidence)

    def finding(word: Settled, verdict: str, sentence: str, c: Lead | None = None) -> Finding:
        if without:
            # Those that never came so far are the slow ones: without them a mean is that of the lucky.
            word, verdict = "UNDECIDED", "CANNOT TELL"
            sentence += f"; {without} of the trainings have no {test.metric}"
        sentence += f"; without {', '.join(missing)}" if missing else ""
        numbers = (c.n, c.difference, c.low, c.high, c.rival) if c else ()
        return make(test.study, evidence, word, verdict, sentence, *numbers)

    if not found:
        return finding("UNDECIDED", "", f"the rows of {evidence.directory} alone say nothing of {test.metric}.")
    seen = [c for c in found if c.n]
    if not seen:
        return finding("UNDECIDED", "CANNOT TELL", f"no pair of trials has a {test.metric} yet.")
    every = len(seen) == len(found) and not missing
    if test.direction == "same":
        furthest = max(seen, key=lambda c: abs(c.difference))
        # One of several lies beyond the margin sooner by chance: its interval pays for their number.
        wider = leads(test, evidence, alpha / len(seen))
        if apart := [c for c in wider if c.low > margin_of(test) or c.high < -margin_of(test)]:
            worst = max(apart, key=lambda c: abs(c.difference))
            shown = next(c for c in seen if c.rival == worst.rival)
            return finding("REFUTED", "BETTER" if shown.difference > 0 else "WORSE", shown.sentence, shown)
        if every and all(c.within for c in seen):
            return finding("SUPPORTED", "EQUIVALENT", furthest.sentence, furthest)
        return finding("UNDECIDED", "CANNOT TELL", furthest.sentence, furthest)
    # The rival that stands nearest to, or furthest beyond, where the claim puts the contender.
    hardest = min(seen, key=lambda c: c.lead)
    if test.equal or test.least:
        # Every one of several must be shown to be so, which costs nothing; that one is not pays for their number.
        size = test.least
        if test.relative:
            size = math.log1p(test.least) if test.direction == "higher" else -math.log1p(-test.least)
        floor = -margin_of(test) if test.equal else size
        wider = leads(test, evidence, alpha / len(seen))
        if short := [c.rival for c in wider if c.n and c.most < floor]:
            worst = min((c for c in seen if c.rival in short), key=lambda c: c.lead)
            return finding("REFUTED", "WORSE" if test.equal or worst.lead < 0 else "LESS", worst.sentence, worst)
        if every and all(c.fewest > floor for c in seen):
            word = "BETTER" if hardest.fewest > 0 else "EQUIVALENT" if hardest.within else "NOT WORSE"
            return finding("SUPPORTED", word, hardest.sentence, hardest)
        return finding("UNDECIDED", "CANNOT TELL", hardest.sentence, hardest)
    if against := [c for c in seen if c.word in ("WORSE", "EQUIVALENT")]:
        worst = min(against, key=lambda c: (c.word != "WORSE", c.lead))
        return finding("REFUTED", worst.word, worst.sentence, worst)
    # Every one of several must be beaten, so none of the tests has to pay for the number of them.
    if every and all(c.p < alpha and c.lead > 0 for c in seen):
        return finding("SUPPORTED", "BETTER", hardest.sentence, hardest)
    return finding("UNDECIDED", "CANNOT TELL", hardest.sentence, hardest)


@dataclass(frozen=True)
class Lead:
    """One comparison, turned so that BETTER and a positive lead are what the claim says."""

    rival: str
    word: str
    n: int
    difference: float
    low: float
    high: float
    lead: float
    fewest: float
    most: float
    """The ends of the lead's interval."""
    p: float
    within: bool
    """Shown to differ by less than the margin."""
    sentence: str


def leads(test: MeanTest, evidence: Evidence, alpha: float) -> list[Lead]:
    """The comparisons of the contender with its rivals; none where one is not among the rows, or these do not say."""
    verdict = _verdict(test, evidence, alpha)
    if verdict is None:
        return []
    named = verdict.estimates[verdict.metric]
    label = next((e.label for e in named if e.activation == test.contender), test.contender)
    return [_lead(c, test, label, verdict.alpha) for c in verdict.comparisons]


def _verdict(test: MeanTest, evidence: Evidence, alpha: float) -> Verdict | None:
    """The contender as the baseline of a verdict on its rivals."""
    contender, rivals = test.contender, rivals_of(test, evidence)
    if contender not in evidence.activations or not rivals:
        return None
    metric = test.metric.removeprefix("test_")
    if metric in KNOWN and metric != test.metric:
        known = evidence.kept
        if evidence.examples is not None or evidence.design != "official":
            return evidence.verdict(baseline=contender, metric=metric, margin=test.margin, activations=rivals, alpha=alpha)
        if known is not None and known.baseline in (contender, *rivals) and metric in known.estimates:
            # A record without its predictions has only the comparisons that were made when it was.
            turned = _turned(known, contender, rivals, metric)
            if turned is not None and alpha < turned.alpha:
                turned = _stricter(turned, alpha)
            return turned if turned is None or turned.margin == test.margin else _within(turned, test.margin)
        # By seeds alone, on one test part, a score would be taken for surer than it is.
        return None
    return _of_a_column(test, evidence, rivals, alpha)


def rivals_of(test: MeanTest | SpreadTest, evidence: Evidence) -> list[str]:
    others = [a for a in evidence.activations if a != test.contender]
    if isinstance(test.against, tuple):
        return [a for a in others if a in test.against]
    return [a for a in others if test.against == "all" or is_another(a, test.contender)]


def is_another(activation: str, contender: str) -> bool:
    """Whether it is another function, and not another setting, or a choice among settings that stand there themselves."""
    one, other = activation.removeprefix(CHOSEN), contender.removeprefix(CHOSEN)
    if activation != one or contender != other:
        return activation == one
    return spec_of(activation).entry.name != spec_of(contender).entry.name


def _of_a_column(test: MeanTest, evidence: Evidence, rivals: Sequence[str], alpha: float) -> Verdict | None:
    """A verdict on what is not a score of the test part: times, gaps, areas. As a score without steps, the lower the better,
    over the folds; seeds on one fixed split count as such, since what other test examples would say is not in question."""
    rows = [{k: v for k, v in row.items() if k != "partition"} | {"test_loss": _told(row, test)} for row in evidence.rows]
    if not numbers_of(rows, "test_loss"):
        return None
    try:
        verdict = judge(
            rows,
            activations=[test.contender, *rivals],
            labels=evidence.labels,
            baseline=test.contender,
            metric="loss",
            metrics=("loss",),
            margin=margin_of(test),
            alpha=alpha,
        )
    except VerdictError:
        return None
    # What is counted may agree where the trainings do not; that is a tie, and no identity.
    comparisons: list[Comparison] = [
        dataclasses.replace(c, word="CANNOT TELL", identical=False, low=-math.inf, high=math.inf, p=1.0, p_equivalent=1.0)
        if c.identical and not _same_losses(evidence, test.contender, c.activation)
        else c
        for c in verdict.comparisons
    ]
    return dataclasses.replace(verdict, comparisons=tuple(comparisons))


def margin_of(test: MeanTest) -> float:
    """In the units in which the two are compared: of a quotient these are logarithms."""
    return math.log1p(test.margin) if test.relative else test.margin


def _told(row: Mapping[str, Any], test: MeanTest) -> Any:
    """What a row says: a column, or the difference of two; of a quotient the logarithm."""
    first, _, second = test.metric.partition(" - ")
    value = row.get(first)
    if second:
        numbers = number_of(value), number_of(row.get(second))
        value = None if None in numbers else numbers[0] - numbers[1]  # type: ignore[operator]
    if not test.relative or (number := number_of(value)) is None:
        return value
    return math.log(number) if number > 0 else None


def _without(test: MeanTest, evidence: Evidence) -> int:
    """Of a column that is no score of the test part, how many finished trainings lack it where others have it."""
    if test.metric.startswith("test_"):
        return 0
    compared = {test.contender, *rivals_of(test, evidence)}
    done = [row for row in evidence.rows if row["activation"] in compared and row["outcome"] == "done"]
    values = [_told(row, test) for row in done]
    lacking = sum(number_of(value) is None for value in values)
    return lacking if lacking < len(values) else 0


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
        chosen = [
            dataclasses.replace(
                c,
                activation=verdict.baseline,
                label=verdict.baseline_label,
                difference=-c.difference,
                low=-c.high,
                high=-c.low,
                word=TURNED.get(c.word, c.word),
            )
            for c in family
            if c.activation == contender
        ]
    else:
        return None
    if len(chosen) != len(rivals):
        return None
    return dataclasses.replace(verdict, baseline=contender, metric=metric, comparisons=tuple(chosen), secondary={})


def _stricter(verdict: Verdict, alpha: float) -> Verdict:
    """A verdict as it was kept, at a stricter level than it was made for. Its intervals become wider as those of Student's t
    with one degree of freedom less than pairs, which is the fewest they can have had."""

    def comparison(c: Comparison) -> Comparison:
        ends = (c.low, c.high)
        if c.n > 1 and math.isfinite(c.low):
            wider = float(stats.t.isf(alpha / 2, c.n - 1) / stats.t.isf(verdict.alpha / 2, c.n - 1))
            ends = (c.difference - wider * (c.difference - c.low), c.difference + wider * (c.high - c.difference))
        p = c.p_equivalent if c.word == "EQUIVALENT" else c.p_adjusted
        return dataclasses.replace(c, low=ends[0], high=ends[1], word=c.word if p < alpha else "CANNOT TELL")

    return dataclasses.replace(verdict, alpha=alpha, comparisons=tuple(map(comparison, verdict.comparisons)))


def _within(verdict: Verdict, margin: float) -> Verdict:
    """A verdict as it was kept, by another margin than it was made for: equal is what has its whole interval within it."""

    def comparison(c: Comparison) -> Comparison:
        inside = -margin < c.low and c.high < margin
        word = c.word if c.word in TURNED else "EQUIVALENT" if inside else "CANNOT TELL"
        return dataclasses.replace(c, word=word, p_equivalent=0.0 if inside else 1.0)

    return dataclasses.replace(verdict, margin=margin, comparisons=tuple(map(comparison, verdict.comparisons)))


def _lead(c: Comparison, test: MeanTest, contender: str, alpha: float) -> Lead:
    # The verdict compares the rival with the contender; the claim speaks the other way round.
    higher_claimed = test.direction != "lower"
    points = in_points(test.metric)
    word = TURNED.get(c.word, c.word) if higher_claimed == c.higher_is_better else c.word
    difference = -c.difference
    lead = difference if higher_claimed else -difference
    size: Callable[[float], str] = _quotient if test.relative else functools.partial(size_of, points=points)
    interval = f" [{size(-c.high)}, {size(-c.low)}]" if math.isfinite(c.low) else ""
    unit = " points" if points else ""
    if c.identical:
        sentence = f"{contender} and {c.label} have the same {test.metric} in all {c.n} pairs"
    elif test.relative:
        sentence = f"{contender} has {size(difference)}{interval} times the {test.metric} of {c.label}, n = {c.n}"
    else:
        sentence = f"{contender} minus {c.label}, {test.metric}: {size(difference)}{unit}{interval}, n = {c.n}"
    within = c.word == "EQUIVALENT" or c.p_equivalent < alpha
    ends = (-c.high, -c.low) if higher_claimed else (c.low, c.high)
    return Lead(c.activation, word, c.n, difference, -c.high, -c.low, lead, *ends, c.p, within, sentence)


def in_points(column: str) -> bool:
    """Whether it is a share of examples, of any part and epoch, or a difference of two of them; these are told in per cent."""
    first, sign, second = column.partition(" - ")
    if sign:
        return in_points(first) and in_points(second)
    if column.startswith("gap"):
        return True
    metric = re.sub(r"^(top_5_)?(train|validation|test)_|_last$", "", column)
    return metric in KNOWN and HIGHER_IS_BETTER[metric] and metric != column


def _quotient(logarithm: float) -> str:
    return f"{math.exp(logarithm):.3g}"


def size_of(value: float, *, points: bool) -> str:
    # Adding 0 turns a negative zero into zero.
    return f"{100 * value + 0.0:+.2f}" if points else f"{value + 0.0:+.4g}"
