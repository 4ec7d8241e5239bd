"""What rows say about a claim, one kind of test after the other; :mod:`pliant.lab.claims` says which rows and what for."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pliant.lab.evidence import Evidence, Tier, numbers_of
from pliant.lab.metrics import HIGHER_IS_BETTER, KNOWN
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
from pliant.lab.shapes import curves
from pliant.lab.study import CHOSEN, spec_of
from pliant.lab.verdict import Comparison, Verdict, VerdictError, holm, judge, judge_datasets

__all__ = ["Finding", "Settled", "decide"]

Settled = Literal["SUPPORTED", "REFUTED", "UNDECIDED"]
Floats = NDArray[np.float64]

TURNED: Mapping[str, Any] = {"BETTER": "WORSE", "WORSE": "BETTER"}
"""The word of a comparison seen from its other side; the other words stay."""
SHOWN = 0.05
"""The level of the intervals that are shown; a word may be held to a stricter one."""
FEWEST_TO_SPREAD = 4
"""Pairs. Of three, two points on a line away from the third decide everything."""
SHUFFLES = 4999
GRID = np.linspace(-3.0, 3.0, 61)


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


def decide(test: Test, evidence: Evidence | Sequence[Evidence], alpha: float = SHOWN) -> Finding | None:
    """What the rows of a study, or of several as the cells of one table, say about a claim; None where they hold nothing of the
    activation that it is about, or of any that it is compared with.

    Args:
        alpha: the level of the word; one of several tests of a claim has a share of 0.05. The numbers beside it are shown with
            the 95 % intervals that they have everywhere else.
    """
    shown = _decide(test, evidence, SHOWN)
    if shown is None or alpha == SHOWN:
        return shown
    strict = _decide(test, evidence, alpha)
    assert strict is not None
    return dataclasses.replace(shown, word=strict.word, verdict=strict.verdict)


def _decide(test: Test, evidence: Evidence | Sequence[Evidence], alpha: float) -> Finding | None:
    if isinstance(test, CellsTest | InteractionTest):
        assert not isinstance(evidence, Evidence)
        return _cells(test, evidence, alpha) if isinstance(test, CellsTest) else _interaction(test, evidence, alpha)
    assert isinstance(evidence, Evidence)
    match test:
        case ConfusionTest():
            return _confusion(test, evidence, alpha)
        case SpreadTest():
            return _spread(test, evidence, alpha)
        case FailureTest():
            return _failure(test, evidence, alpha)
        case SitesTest():
            return _sites(test, evidence, alpha)
        case MeanTest():
            return _mean(test, evidence, alpha)


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
    beside: Sequence[Evidence] = (),
) -> Finding:
    """``beside``: further studies that it is from."""
    unfinished = sum(len(one.rows) - one.scored for one in (evidence, *beside))
    where = (evidence.tier, evidence.origin, evidence.directory)
    told = (tuple(dict.fromkeys(r for one in (evidence, *beside) for r in one.remarks)), evidence.changes)
    return Finding(study, word, verdict, sentence, n, difference, low, high, rival, *where, unfinished, *told)


# --- means ---


def _mean(test: MeanTest, evidence: Evidence, alpha: float) -> Finding | None:
    contender = test.contender
    family = _verdict(test, evidence, contender, alpha)
    found = [] if family is None else _in_the_claims_direction(family, test, contender)

    def finding(word: Settled, verdict: str, sentence: str, c: _Seen | None = None) -> Finding:
        numbers = (c.n, c.difference, c.low, c.high, c.rival) if c else ()
        return _finding(test.study, evidence, word, verdict, sentence, *numbers)

    if contender not in evidence.activations or not _rivals(test, evidence):
        return None
    if not found:
        return finding("UNDECIDED", "", f"the rows of {evidence.directory} alone say nothing of {test.metric}.")
    seen = [c for c in found if c.n]
    if not seen:
        return finding("UNDECIDED", "CANNOT TELL", f"no pair of trials has a {test.metric} yet.")
    if test.direction == "same":
        furthest = max(seen, key=lambda c: abs(c.difference))
        # One of several lies beyond the margin sooner by chance: its interval pays for their number.
        wide = _verdict(test, evidence, contender, alpha / len(seen))
        wider = [] if wide is None else _in_the_claims_direction(wide, test, contender)
        if apart := [c for c in wider if c.low > _margin(test) or c.high < -_margin(test)]:
            worst = max(apart, key=lambda c: abs(c.difference))
            shown = next(c for c in seen if c.rival == worst.rival)
            return finding("REFUTED", "BETTER" if shown.difference > 0 else "WORSE", shown.sentence, shown)
        if len(seen) == len(found) and all(c.within for c in seen):
            return finding("SUPPORTED", "EQUIVALENT", furthest.sentence, furthest)
        return finding("UNDECIDED", "CANNOT TELL", furthest.sentence, furthest)
    # The rival that stands nearest to, or furthest beyond, where the claim puts the contender.
    hardest = min(seen, key=lambda c: c.lead)
    every = len(seen) == len(found)
    if test.equal or test.least:
        # Every one of several must be shown to be so, which costs nothing; that one is not pays for their number.
        size = math.log1p(test.least) if test.relative else test.least
        floor = -_margin(test) if test.equal else size
        wide = _verdict(test, evidence, contender, alpha / len(seen))
        wider = [] if wide is None else _in_the_claims_direction(wide, test, contender)
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
class _Seen:
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


def _verdict(test: MeanTest, evidence: Evidence, contender: str, alpha: float) -> Verdict | None:
    """The contender as the baseline of a verdict on its rivals; None where one is not among the rows, or these do not say."""
    rivals = _rivals(test, evidence)
    if contender not in evidence.activations or not rivals:
        return None
    metric = test.metric.removeprefix("test_")
    if metric in KNOWN and metric != test.metric:
        known = evidence.kept
        if evidence.examples is not None or evidence.design != "official":
            return evidence.verdict(baseline=contender, metric=metric, margin=test.margin, activations=rivals, alpha=alpha)
        if known is not None and known.baseline in (contender, *rivals) and metric in known.estimates:
            # A record without its predictions has only the comparisons that were made when it was.
            return _turned(known, contender, rivals, metric)
        # By seeds alone, on one test part, a score would be taken for surer than it is.
        return None
    return _of_a_column(test, evidence, contender, rivals, alpha)


def _rivals(test: MeanTest | SpreadTest, evidence: Evidence) -> list[str]:
    others = [a for a in evidence.activations if a != test.contender]
    if isinstance(test.against, tuple):
        return [a for a in others if a in test.against]
    return [a for a in others if test.against == "all" or _another(a, test.contender)]


def _another(activation: str, contender: str) -> bool:
    """Whether it is another function, and not another setting, or a choice among settings that stand there themselves."""
    one, other = activation.removeprefix(CHOSEN), contender.removeprefix(CHOSEN)
    if activation != one or contender != other:
        return activation == one
    return spec_of(activation).entry.name != spec_of(contender).entry.name


def _of_a_column(test: MeanTest, evidence: Evidence, contender: str, rivals: Sequence[str], alpha: float) -> Verdict | None:
    """A verdict on what is not a score of the test part: times, gaps, areas. As a score without steps, the lower the better,
    over the folds; seeds on one fixed split count as such, since what other test examples would say is not in question."""
    rows = [{k: v for k, v in row.items() if k != "partition"} | {"test_loss": _told(row, test)} for row in evidence.rows]
    if not numbers_of(rows, "test_loss"):
        return None
    try:
        verdict = judge(
            rows,
            activations=[contender, *rivals],
            labels=evidence.labels,
            baseline=contender,
            metric="loss",
            metrics=("loss",),
            margin=_margin(test),
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


def _margin(test: MeanTest) -> float:
    """In the units in which the two are compared: of a quotient these are logarithms."""
    return math.log1p(test.margin) if test.relative else test.margin


def _told(row: Mapping[str, Any], test: MeanTest) -> Any:
    """What a row says: a column, or the difference of two; of a quotient the logarithm."""
    first, _, second = test.metric.partition(" - ")
    value = row.get(first)
    if second:
        numbers = _number(value), _number(row.get(second))
        value = None if None in numbers else numbers[0] - numbers[1]  # type: ignore[operator]
    if not test.relative or (number := _number(value)) is None:
        return value
    return math.log(number) if number > 0 else None


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


def _in_the_claims_direction(verdict: Verdict, test: MeanTest, contender: str) -> list[_Seen]:
    name = verdict.estimates[verdict.metric]
    label = next((e.label for e in name if e.activation == contender), contender)
    return [_seen(c, test, label, verdict.alpha) for c in verdict.comparisons]


def _seen(c: Comparison, test: MeanTest, contender: str, alpha: float) -> _Seen:
    # The verdict compares the rival with the contender; the claim speaks the other way round.
    higher_claimed = test.direction != "lower"
    points = _in_points(test.metric)
    word = TURNED.get(c.word, c.word) if higher_claimed == c.higher_is_better else c.word
    difference = -c.difference
    lead = difference if higher_claimed else -difference
    size: Callable[[float], str] = _quotient if test.relative else functools.partial(_size, points=points)
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
    return _Seen(c.activation, word, c.n, difference, -c.high, -c.low, lead, *ends, c.p, within, sentence)


def _in_points(column: str) -> bool:
    """Whether it is a share of examples, of any part and epoch, or a difference of two of them; these are told in per cent."""
    first, sign, second = column.partition(" - ")
    if sign:
        return _in_points(first) and _in_points(second)
    if column.startswith("gap"):
        return True
    metric = re.sub(r"^(top_5_)?(train|validation|test)_|_last$", "", column)
    return metric in KNOWN and HIGHER_IS_BETTER[metric] and metric != column


def _quotient(logarithm: float) -> str:
    return f"{math.exp(logarithm):.3g}"


def _size(value: float, *, points: bool) -> str:
    # Adding 0 turns a negative zero into zero.
    return f"{100 * value + 0.0:+.2f}" if points else f"{value + 0.0:+.4g}"


# --- what is no mean ---


def _confusion(test: ConfusionTest, evidence: Evidence, alpha: float) -> Finding | None:
    """Trials are tested on the same examples, so what counts is the mean number of mistakes of a trial, and not their sum: that
    of the named pair against that of the pair which, of all others, is mistaken most, by an exact binomial test. Another pair
    is picked from many after looking, which refuting it pays for (Bonferroni)."""
    if test.contender not in evidence.activations:
        return None
    cells = evidence.confusions().get(test.contender, {})
    n = len(_values(evidence, test.contender, "test_accuracy"))
    mistakes: dict[frozenset[str], int] = {}
    for (true, told), count in cells.items():
        if true != told:
            mistakes[frozenset((true, told))] = mistakes.get(frozenset((true, told)), 0) + count
    named, label = frozenset(test.pair), _label(evidence, test.contender)

    def finding(word: Settled, sentence: str, difference: float = math.nan, rival: str = "") -> Finding:
        by = "exact binomial test" if rival else ""
        return _finding(test.study, evidence, word, by, sentence, n, difference, rival=rival)

    if not n or named not in mistakes or len(mistakes) < 2:
        return finding("UNDECIDED", f"the confusions of {label} with {_pair(test.pair)} are not known of {evidence.directory}.")
    mine = mistakes.pop(named)
    other, theirs = max(mistakes.items(), key=lambda entry: (entry[1], sorted(entry[0])))
    p = stats.binomtest(round(mine / n), max(1, round(mine / n) + round(theirs / n))).pvalue
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


def _spread(test: SpreadTest, evidence: Evidence, alpha: float) -> Finding | None:
    """Variances of paired numbers are compared by the correlation of their sums with their differences (Pitman, and Morgan,
    both Biometrika 31, 1939). As for means: to be steadier than several is to be so against each, and who refutes it by one of
    several pays for their number."""
    rivals, label = _rivals(test, evidence), functools.partial(_label, evidence)
    if test.contender not in evidence.activations or not rivals:
        return None
    compared = {test.contender, *rivals}
    if any(row["outcome"] == "diverged" for row in evidence.rows if row["activation"] in compared):
        told = f"trainings diverged, and how {test.metric} varies over those that did not says little."
        return _finding(test.study, evidence, "UNDECIDED", "CANNOT TELL", told)
    seen: list[tuple[float, float, float, int, str]] = []  # ours, theirs, p, n, rival
    for rival in rivals:
        x, y = _pairs(evidence, test.contender, rival, test.metric)
        if len(x) >= FEWEST_TO_SPREAD:
            seen.append((float(np.std(x, ddof=1)), float(np.std(y, ddof=1)), _pitman_morgan(x, y), len(x), rival))
    if not seen:
        told = f"fewer than {FEWEST_TO_SPREAD} pairs of trials have a {test.metric}, which show no spread."
        return _finding(test.study, evidence, "UNDECIDED", "CANNOT TELL", told)
    adjusted = holm([p for _, _, p, _, _ in seen])
    wider = [one for one, p in zip(seen, adjusted, strict=True) if p < alpha and one[0] > one[1]]
    word: Settled = "UNDECIDED"
    if wider:
        word = "REFUTED"
    elif len(seen) == len(rivals) and all(p < alpha and mine < theirs for mine, theirs, p, _, _ in seen):
        word = "SUPPORTED"
    worst = max(wider or seen, key=lambda one: one[0] / one[1] if one[1] else math.inf)
    mine, theirs, chance, n, rival = worst
    if word != "SUPPORTED":
        chance = float(adjusted[seen.index(worst)])
    sentence = (
        f"standard deviation of {test.metric} over trials: {label(test.contender)} {mine:.3g}, {label(rival)} {theirs:.3g}, "
        f"p = {chance:.2g}, n = {n}"
    )
    return _finding(test.study, evidence, word, "Pitman-Morgan test", sentence, n, mine - theirs, rival=rival)


def _pitman_morgan(x: Floats, y: Floats) -> float:
    """Two-sided p of "paired numbers x and y vary alike"; 1 where any of them, their sums or differences do not vary at all:
    that is a network which always says the same, or one training under two names."""
    total, difference = x + y, x - y
    if min(map(np.ptp, (x, y, total, difference))) == 0:
        return 1.0
    return float(stats.pearsonr(total, difference).pvalue)


def _failure(test: FailureTest, evidence: Evidence, alpha: float) -> Finding | None:
    """A training has failed if it diverged, or if it classifies what it was trained on no better than chance. An exact binomial
    test against one half says whether most trainings fail, or most do not."""
    rows = [row for row in evidence.rows if row["activation"] == test.contender and row["outcome"] in ("done", "diverged")]
    if not rows or not evidence.classes:
        return None
    diverged = [row for row in rows if row["outcome"] == "diverged"]
    at_chance = [row for row in rows if row["outcome"] == "done" and _at_chance(row, evidence.classes, alpha)]
    failed, n = len(diverged) + len(at_chance), len(rows)
    word: Settled = "UNDECIDED"
    if stats.binomtest(failed, n, 0.5, "greater").pvalue < alpha:
        word = "SUPPORTED"
    elif stats.binomtest(failed, n, 0.5, "less").pvalue < alpha:
        word = "REFUTED"
    sentence = (
        f"{_label(evidence, test.contender)}: of {n} training{'s' if n > 1 else ''} {len(diverged)} diverged and "
        f"{len(at_chance)} ended at chance on the training part"
    )
    return _finding(test.study, evidence, word, "exact binomial test", sentence, n, failed / n)


def _at_chance(row: Mapping[str, Any], classes: int, alpha: float) -> bool:
    """Chance is that of classes of one size, as those of the data that these claims are about have."""
    accuracy, n = _number(row.get("train_accuracy_last")), row["n_train"]
    right = 0 if accuracy is None else round(accuracy * n)
    return bool(stats.binomtest(right, n, 1 / classes, "greater").pvalue >= alpha)


def _sites(test: SitesTest, evidence: Evidence, alpha: float) -> Finding | None:
    """The curves of all call sites in all trainings are a table of sites by seeds. Sites differ if the mean curves of sites lie
    further apart than they do after the sites of each training were shuffled, which is the control. How much of it is the
    site's and how much the seed's is the intraclass correlation of one training."""
    if test.contender not in evidence.activations:
        return None
    label = _label(evidence, test.contender)
    trainings = list(evidence.learned().get(test.contender, ()))
    names = [name for name in (trainings[0] if trainings else ()) if all(name in one for one in trainings)]
    if len(trainings) < 2 or len(names) < 2:
        told = f"the learned coefficients of {label} at two sites in two trainings are not known of {evidence.directory}."
        return _finding(test.study, evidence, "UNDECIDED", "", told, len(trainings))
    table = np.stack([curves(test.contender, [one[name] for name in names], GRID) for one in trainings])
    n, furthest, steady = len(trainings), max(_apart(one) for one in table), _apart(table.mean(axis=0))
    p, correlation = _by_site(table)
    sentence = (
        f"{label}: the mean curves of {len(names)} sites lie up to {steady:.3g} apart (root mean square from -3 to 3), those "
        f"of one training up to {furthest:.3g}; intraclass correlation {correlation:.2f}, p = {p:.2g} by shuffling sites, "
        f"n = {n}"
    )
    word: Settled = "UNDECIDED"
    if furthest < test.margin:
        word = "REFUTED"
    elif p < alpha and steady >= test.margin:
        word = "SUPPORTED"
    return _finding(test.study, evidence, word, "permutation test", sentence, n, steady)


def _apart(curves_: Floats) -> float:
    """The largest root mean square distance between two of several curves, shape (sites, points)."""
    return float(np.sqrt(((curves_[:, None] - curves_[None]) ** 2).mean(axis=2)).max())


def _by_site(table: Floats) -> tuple[float, float]:
    """p of "the sites are alike" and the intraclass correlation of one training, for curves of shape (seeds, sites, points)."""
    seeds, sites, _ = table.shape
    centred = table - table.mean(axis=1, keepdims=True)
    between = float((centred.mean(axis=0) ** 2).sum()) * seeds
    whole = float((centred**2).sum())
    generator = np.random.default_rng(0)
    as_far = sum(
        ((np.stack([generator.permutation(one) for one in centred]).mean(axis=0) ** 2).sum() * seeds >= between * (1 - 1e-9))
        for _ in range(SHUFFLES)
    )
    mean_between, rest = between / (sites - 1), (whole - between) / ((sites - 1) * (seeds - 1))
    spread = mean_between + (seeds - 1) * rest
    return (as_far + 1) / (SHUFFLES + 1), (mean_between - rest) / spread if spread else 0.0


def _cells(test: CellsTest, cells: Sequence[Evidence], alpha: float) -> Finding | None:
    """In no cell may the contender be shown behind any other function of that cell; of many cells and rivals one will seem
    ahead by chance, so Holm's correction is over all of them. And over the cells, each counting once, it must be ahead of every
    function that all of them have (signed ranks, see :func:`pliant.lab.verdict.judge_datasets`)."""
    contender, column = test.contender, f"test_{test.metric}"
    means = [{a: statistics.fmean(v) for a in one.activations if (v := _values(one, a, column))} for one in cells]
    used = [(one, mean) for one, mean in zip(cells, means, strict=True) if contender in mean and len(mean) > 1]
    if len(used) < 2:
        return None
    parts = [one for one, _ in used]
    found = [
        (one, c)
        for one, mean in used
        for c in _leads(one, contender, [a for a in mean if a != contender], column, test.margin, alpha)
    ]
    finding = functools.partial(_finding, test.study, parts[0], beside=parts[1:])
    adjusted = holm([c.p for _, c in found])
    behind = [(one, c) for (one, c), p in zip(found, adjusted, strict=True) if p < alpha and c.lead < 0]
    if behind:
        one, c = min(behind, key=lambda entry: entry[1].lead)
        told = f"one of {len(parts)} cells, {one.directory}, shows it behind: {c.sentence}"
        return finding("REFUTED", "WORSE", told, len(parts), c.difference, c.low, c.high, c.rival)
    shared = [a for a in used[0][1] if all(a in mean for _, mean in used) and (a == contender or _another(a, contender))]
    if len(shared) < 2:
        told = f"{len(parts)} cells show it behind nothing, and have no other function in common to rank."
        return finding("UNDECIDED", "CANNOT TELL", told, len(parts))
    over = judge_datasets(
        {one.directory: mean for one, mean in used},
        activations=shared,
        labels=parts[0].labels,
        baseline=contender,
        metric=test.metric,
        margin=test.margin,
        alpha=alpha,
    )
    sign = 1 if HIGHER_IS_BETTER[test.metric] else -1
    hardest = max(over.comparisons, key=lambda c: (c.wins - c.losses, sign * c.difference))
    word: Settled = "UNDECIDED"
    if against := [c for c in over.comparisons if c.word in ("BETTER", "EQUIVALENT")]:
        word, hardest = "REFUTED", against[0]
    elif all(c.p < alpha and c.losses > c.wins for c in over.comparisons):
        word = "SUPPORTED"
    verdict = "BETTER" if word == "SUPPORTED" else TURNED.get(hardest.word, hardest.word)
    sentence = (
        f"shown behind no function in any of {len(parts)} cells; {over.baseline} against {hardest.label}, the nearest of "
        f"{len(shared) - 1} that all have: {hardest.losses} better, {hardest.ties} equal, {hardest.wins} worse"
    )
    return finding(word, verdict, sentence, hardest.n, -hardest.difference, rival=hardest.activation)


def _leads(evidence: Evidence, contender: str, rivals: Sequence[str], column: str, margin: float, alpha: float) -> list[_Seen]:
    """The contender's leads over other functions, each found as for a mean."""
    others = [a for a in rivals if _another(a, contender)]
    # Together they take one look at the examples; a record without these knows some of them, one at a time.
    together = evidence.examples is not None or evidence.design != "official"
    seen = []
    for against in [tuple(others)] if together else [(a,) for a in others]:
        test = MeanTest(evidence.name, contender, against, column, "higher" if _higher(column) else "lower", margin)
        verdict = _verdict(test, evidence, contender, alpha) if against else None
        seen += [] if verdict is None else _in_the_claims_direction(verdict, test, contender)
    return [c for c in seen if c.n]


def _higher(column: str) -> bool:
    return HIGHER_IS_BETTER[column.removeprefix("test_")]


def _interaction(test: InteractionTest, studies: Sequence[Evidence], alpha: float) -> Finding | None:
    """The interval of a difference of two leads is put together from their own (Zou and Donner, Statistics in Medicine 27,
    2008), as if they were independent: where two studies share seeds and examples it is on the wide side."""
    leads: list[_Seen] = []
    for part in studies:
        alone = MeanTest(part.name, test.contender, test.against, test.metric, "higher", test.margin)
        family = _verdict(alone, part, test.contender, alpha)
        found = [] if family is None else _in_the_claims_direction(family, alone, test.contender)
        if test.contender not in part.activations or not _rivals(alone, part):
            return None
        leads += [c for c in found if c.n]
    first, second = studies
    finding = functools.partial(_finding, test.study, first, beside=[second])
    if len(leads) < 2:
        told = f"{first.directory} and {second.directory} have no {test.metric} to compare leads of."
        return finding("UNDECIDED", "CANNOT TELL", told)
    one, other = leads
    k, difference = test.times, one.difference - test.times * other.difference
    low = difference - math.hypot(one.difference - one.low, k * (other.high - other.difference))
    high = difference + math.hypot(one.high - one.difference, k * (other.difference - other.low))
    word: Settled = "UNDECIDED"
    if test.direction == "larger":
        if low > 0 and one.low > 0:
            word = "SUPPORTED"
        elif high < 0 and one.high > 0:
            word = "REFUTED"
    elif -test.margin < low and high < test.margin:
        word = "SUPPORTED"
    elif low > test.margin or high < -test.margin:
        word = "REFUTED"
    points = _in_points(test.metric)
    size, unit = functools.partial(_size, points=points), " points" if points else ""
    interval = f" [{size(low)}, {size(high)}]" if math.isfinite(low) else ""
    less = f"minus {k:g} times the second" if k != 1 else "minus the second"
    sentence = f"{one.sentence} in {first.directory}; {other.sentence} in {second.directory}; the first lead {less}: "
    sentence += f"{size(difference)}{unit}{interval}"
    n = min(one.n, other.n)
    return finding(word, "difference of leads", sentence, n, difference, low, high, one.rival)


def _label(evidence: Evidence, activation: str) -> str:
    return evidence.labels.get(activation, activation)


def _values(evidence: Evidence, activation: str, column: str) -> list[float]:
    return numbers_of([row for row in evidence.rows if row["activation"] == activation], column)


def _pairs(evidence: Evidence, one: str, other: str, column: str) -> tuple[Floats, Floats]:
    """A column of the rows that two activations both have: the same places in the same order."""

    def values(activation: str) -> dict[tuple[Any, ...], float]:
        rows = [row for row in evidence.rows if row["activation"] == activation]
        return {(row["repeat"], row["fold"]): v for row in rows if (v := _number(row.get(column))) is not None}

    first, second = values(one), values(other)
    places = sorted(first.keys() & second.keys())
    return np.array([first[p] for p in places]), np.array([second[p] for p in places])


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
