"""Findings from several studies: the cells of a table, and a lead in one study beside that in another."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence

from pliant.lab.evidence import Evidence
from pliant.lab.findings.finding import Finding, Settled, make, values_of
from pliant.lab.findings.means import TURNED, Lead, in_points, is_another, leads, rivals_of, size_of
from pliant.lab.metrics import HIGHER_IS_BETTER
from pliant.lab.papers.claims import CellsTest, InteractionTest, MeanTest
from pliant.lab.verdict import holm, judge_datasets

__all__ = ["cells", "interaction"]


def cells(test: CellsTest, cells: Sequence[Evidence], alpha: float) -> Finding | None:
    """In no cell may the contender be shown behind any other function of that cell; of many cells and rivals one will seem
    ahead by chance, so Holm's correction is over all of them. And over the cells, each counting once, it must be ahead of every
    function that all of them have (signed ranks, see :func:`pliant.lab.verdict.judge_datasets`)."""
    contender, column = test.contender, f"test_{test.metric}"
    means = [{a: statistics.fmean(v) for a in one.activations if (v := values_of(one, a, column))} for one in cells]
    used = [(one, mean) for one, mean in zip(cells, means, strict=True) if contender in mean and len(mean) > 1]
    if len(used) < 2:
        return None
    parts = [one for one, _ in used]
    found = [
        (one, c)
        for one, mean in used
        for c in _leads(one, contender, [a for a in mean if a != contender], column, test.margin, alpha)
    ]
    finding = functools.partial(make, test.study, parts[0], beside=parts[1:])
    adjusted = holm([c.p for _, c in found])
    behind = [(one, c) for (one, c), p in zip(found, adjusted, strict=True) if p < alpha and c.lead < 0]
    if behind:
        one, c = min(behind, key=lambda entry: entry[1].lead)
        told = f"one of {len(parts)} cells, {one.directory}, shows it behind: {c.sentence}"
        return finding("REFUTED", "WORSE", told, len(parts), c.difference, c.low, c.high, c.rival)
    shared = [a for a in used[0][1] if all(a in mean for _, mean in used) and (a == contender or is_another(a, contender))]
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


def _leads(evidence: Evidence, contender: str, rivals: Sequence[str], column: str, margin: float, alpha: float) -> list[Lead]:
    """The contender's leads over other functions, each found as for a mean."""
    others = [a for a in rivals if is_another(a, contender)]
    # Together they take one look at the examples; a record without these knows some of them, one at a time.
    together = evidence.examples is not None or evidence.design != "official"
    seen = []
    for against in [tuple(others)] if together else [(a,) for a in others]:
        test = MeanTest(evidence.name, contender, against, column, "higher" if _higher(column) else "lower", margin)
        seen += leads(test, evidence, alpha)
    return [c for c in seen if c.n]


def _higher(column: str) -> bool:
    return HIGHER_IS_BETTER[column.removeprefix("test_")]


def interaction(test: InteractionTest, studies: Sequence[Evidence], alpha: float) -> Finding | None:
    """The interval of a difference of two leads is put together from their own (Zou and Donner, Statistics in Medicine 27,
    2008), as if they were independent: where two studies share seeds and examples it is on the wide side."""
    both: list[Lead] = []
    for part in studies:
        alone = MeanTest(part.name, test.contender, test.against, test.metric, "higher", test.margin)
        if test.contender not in part.activations or not rivals_of(alone, part):
            return None
        both += [c for c in leads(alone, part, alpha) if c.n]
    first, second = studies
    finding = functools.partial(make, test.study, first, beside=[second])
    if len(both) < 2:
        told = f"{first.directory} and {second.directory} have no {test.metric} to compare leads of."
        return finding("UNDECIDED", "CANNOT TELL", told)
    one, other = both
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
    points = in_points(test.metric)
    size, unit = functools.partial(size_of, points=points), " points" if points else ""
    interval = f" [{size(low)}, {size(high)}]" if math.isfinite(low) else ""
    less = f"minus {k:g} times the second" if k != 1 else "minus the second"
    sentence = f"{one.sentence} in {first.directory}; {other.sentence} in {second.directory}; the first lead {less}: "
    sentence += f"{size(difference)}{unit}{interval}"
    n = min(one.n, other.n)
    return finding(word, "difference of leads", sentence, n, difference, low, high, one.rival)
