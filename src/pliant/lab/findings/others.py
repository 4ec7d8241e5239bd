"""Findings that are about no mean: mistaken classes, spreads, failed trainings, learned shapes."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from pliant.lab.evidence import Evidence
from pliant.lab.findings.finding import SHOWN, Finding, Floats, Settled, label_of, make, number_of, values_of
from pliant.lab.findings.means import rivals_of
from pliant.lab.papers.claims import ConfusionTest, FailureTest, SitesTest, SpreadTest
from pliant.lab.shapes import curves
from pliant.lab.verdict import holm

__all__ = ["confusion", "failure", "sites", "spread"]

FEWEST_TO_SPREAD = 4
"""Pairs. Of three, two points on a line away from the third decide everything."""
SHUFFLES = 4999
GRID = np.linspace(-3.0, 3.0, 61)


def confusion(test: ConfusionTest, evidence: Evidence, alpha: float) -> Finding | None:
    """Trials are tested on the same examples, so what counts is the mean number of mistakes of a trial, and not their sum: that
    of the named pair against that of the pair which, of all others, is mistaken most, by an exact binomial test. Another pair
    is picked from many after looking, which refuting it pays for (Bonferroni)."""
    if test.contender not in evidence.activations:
        return None
    cells = evidence.confusions().get(test.contender, {})
    n = len(values_of(evidence, test.contender, "test_accuracy"))
    mistakes: dict[frozenset[str], int] = {}
    for (true, told), count in cells.items():
        if true != told:
            mistakes[frozenset((true, told))] = mistakes.get(frozenset((true, told)), 0) + count
    named, label = frozenset(test.pair), label_of(evidence, test.contender)

    def finding(word: Settled, sentence: str, difference: float = math.nan, rival: str = "") -> Finding:
        by = "exact binomial test" if rival else ""
        return make(test.study, evidence, word, by, sentence, n, difference, rival=rival)

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


def spread(test: SpreadTest, evidence: Evidence, alpha: float) -> Finding | None:
    """Variances of paired numbers are compared by the correlation of their sums with their differences (Pitman, and Morgan,
    both Biometrika 31, 1939). As for means: to be steadier than several is to be so against each, and who refutes it by one of
    several pays for their number."""
    rivals, label = rivals_of(test, evidence), functools.partial(label_of, evidence)
    if test.contender not in evidence.activations or not rivals:
        return None
    compared = {test.contender, *rivals}
    if any(row["outcome"] == "diverged" for row in evidence.rows if row["activation"] in compared):
        told = f"trainings diverged, and how {test.metric} varies over those that did not says little."
        return make(test.study, evidence, "UNDECIDED", "CANNOT TELL", told)
    seen: list[tuple[float, float, float, int, str]] = []  # ours, theirs, p, n, rival
    for rival in rivals:
        x, y = _pairs(evidence, test.contender, rival, test.metric)
        if len(x) >= FEWEST_TO_SPREAD:
            seen.append((float(np.std(x, ddof=1)), float(np.std(y, ddof=1)), _pitman_morgan(x, y), len(x), rival))
    if not seen:
        told = f"fewer than {FEWEST_TO_SPREAD} pairs of trials have a {test.metric}, which show no spread."
        return make(test.study, evidence, "UNDECIDED", "CANNOT TELL", told)
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
    return make(test.study, evidence, word, "Pitman-Morgan test", sentence, n, mine - theirs, rival=rival)


def _pitman_morgan(x: Floats, y: Floats) -> float:
    """Two-sided p of "paired numbers x and y vary alike"; 1 where any of them, their sums or differences do not vary at all:
    that is a network which always says the same, or one training under two names."""
    total, difference = x + y, x - y
    if min(map(np.ptp, (x, y, total, difference))) == 0:
        return 1.0
    return float(stats.pearsonr(total, difference).pvalue)


def failure(test: FailureTest, evidence: Evidence, alpha: float) -> Finding | None:
    """A training has failed if it diverged, or if it classifies what it was trained on no better than chance. An exact binomial
    test against one half says whether most trainings fail, or most do not."""
    rows = [row for row in evidence.rows if row["activation"] == test.contender and row["outcome"] in ("done", "diverged")]
    if not rows or not evidence.classes:
        return None
    diverged = [row for row in rows if row["outcome"] == "diverged"]
    at_chance = [row for row in rows if row["outcome"] == "done" and _at_chance(row, evidence.classes)]
    failed, n = len(diverged) + len(at_chance), len(rows)
    word: Settled = "UNDECIDED"
    if stats.binomtest(failed, n, 0.5, "greater").pvalue < alpha:
        word = "SUPPORTED"
    elif stats.binomtest(failed, n, 0.5, "less").pvalue < alpha:
        word = "REFUTED"
    sentence = (
        f"{label_of(evidence, test.contender)}: of {n} training{'s' if n > 1 else ''} {len(diverged)} diverged and "
        f"{len(at_chance)} ended at chance on the training part"
    )
    return make(test.study, evidence, word, "exact binomial test", sentence, n, failed / n)


def _at_chance(row: Mapping[str, Any], classes: int) -> bool:
    """Chance is that of classes of one size, as those of the data that these claims are about have. Its level is fixed: a
    stricter one would call more trainings failed."""
    accuracy, n = number_of(row.get("train_accuracy_last")), row["n_train"]
    right = 0 if accuracy is None else round(accuracy * n)
    return bool(stats.binomtest(right, n, 1 / classes, "greater").pvalue >= SHOWN)


def sites(test: SitesTest, evidence: Evidence, alpha: float) -> Finding | None:
    """The curves of all call sites in all trainings are a table of sites by seeds. Sites differ if the mean curves of sites lie
    further apart than they do after the sites of each training were shuffled, which is the control. How much of it is the
    site's and how much the seed's is the intraclass correlation of one training."""
    if test.contender not in evidence.activations:
        return None
    label = label_of(evidence, test.contender)
    trainings = list(evidence.learned().get(test.contender, ()))
    names = [name for name in (trainings[0] if trainings else ()) if all(name in one for one in trainings)]
    if len(trainings) < 2 or len(names) < 2:
        told = f"the learned coefficients of {label} at two sites in two trainings are not known of {evidence.directory}."
        return make(test.study, evidence, "UNDECIDED", "", told, len(trainings))
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
    return make(test.study, evidence, word, "permutation test", sentence, n, steady)


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


def _pairs(evidence: Evidence, one: str, other: str, column: str) -> tuple[Floats, Floats]:
    """A column of the rows that two activations both have: the same places in the same order."""

    def values(activation: str) -> dict[tuple[Any, ...], float]:
        rows = [row for row in evidence.rows if row["activation"] == activation]
        return {(row["repeat"], row["fold"]): v for row in rows if (v := number_of(row.get(column))) is not None}

    first, second = values(one), values(other)
    places = sorted(first.keys() & second.keys())
    return np.array([first[p] for p in places]), np.array([second[p] for p in places])
