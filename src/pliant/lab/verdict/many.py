"""Several data sets: what the means on each say together.

Differences on different data sets have no common scale, so they are ranked (Demsar, Journal of Machine Learning Research 7,
2006): one number a data set and activation, however many folds and seeds stand behind it. Data sets are independent of each
other, as folds are not, so the plain signed-rank test holds, and so does changing signs at random. The question is another
one than on a single data set: is there a difference on data sets like these, each counting once?
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.special import ndtr

from pliant.errors import unknown
from pliant.lab.metrics import HIGHER_IS_BETTER, KNOWN, UNITS
from pliant.lab.verdict.paired import check_alpha, holm
from pliant.lab.verdict.words import Verdict, VerdictError, Word, amount

__all__ = ["DatasetComparison", "DatasetVerdict", "judge_datasets", "means_of", "nemenyi", "signed_rank"]

Floats = npt.NDArray[np.float64]
Test = Literal["signed-rank", "permutation"]

FEWEST_TO_TEST = 6
"""Of 5 data sets that all agree, the two-sided signed-rank p is 2 / 2^5 = 0.0625: no outcome would be significant."""
FEWEST_TO_DRAW = 10
"""A critical-difference diagram compares mean ranks as if they were normal; below this they are not."""
MOST_DATASETS = 500
_FLIPS = 20_000


@dataclass(frozen=True)
class DatasetComparison:
    """Activation minus baseline over `n` data sets.

    `wins`, `ties`, `losses`: data sets on which it is better, equal, worse. `difference`: pseudo-median (Hodges and Lehmann) of
    the differences; `low`, `high`: its signed-rank interval at level 1 - alpha, infinite below 6 data sets. `p`, `p_adjusted`,
    `p_equivalent`: as in `Comparison`, 1 below 6. `more_datasets`: how many further ones would settle it if they shared wins
    and losses as these do; None if it is settled, or not within 500.
    """

    activation: str
    label: str
    n: int
    wins: int
    ties: int
    losses: int
    difference: float
    low: float
    high: float
    p: float
    p_adjusted: float
    p_equivalent: float
    word: Word
    more_datasets: int | None


@dataclass(frozen=True)
class DatasetVerdict:
    """What several data sets say about the activations.

    `ranks`: activation -> mean rank over data sets, 1 the best, ties shared. `friedman`: p of "all activations are alike"
    (None below 6 data sets or 3 activations). `critical_difference`: mean ranks closer than this are not told apart (Nemenyi;
    None below 10 data sets or 3 activations); `alike`: the largest groups of activations within it, in order of rank.
    """

    baseline: str
    metric: str
    alpha: float
    test: Test
    datasets: tuple[str, ...]
    ranks: dict[str, float]
    friedman: float | None
    critical_difference: float | None
    alike: tuple[tuple[str, ...], ...]
    comparisons: tuple[DatasetComparison, ...]
    warnings: tuple[str, ...]

    def sentence(self, comparison: DatasetComparison) -> str:
        """One comparison in plain English."""
        c, n = comparison, comparison.n
        score = f"{c.wins} better, {c.ties} equal, {c.losses} worse"
        head = f"{c.label} vs {self.baseline} on {n} data set{'' if n == 1 else 's'}: {score}"
        if n < FEWEST_TO_TEST:
            return f"{head}: CANNOT TELL; it takes at least {FEWEST_TO_TEST} data sets."
        unit = UNITS[self.metric]
        interval = f"median difference {amount(c.difference, self.metric)} {unit}, {100 * (1 - self.alpha):g} % interval "
        interval += f"{amount(c.low, self.metric)} to {amount(c.high, self.metric)}"
        if c.word != "CANNOT TELL":
            return f"{head} ({interval}): {c.word}."
        more = "more like these alone would not settle it"
        if c.more_datasets is not None:
            more = f"about {c.more_datasets} more like these would settle it"
        return f"{head} ({interval}): {c.word}; {more}."


def means_of(verdicts: Mapping[str, Verdict], metric: str) -> dict[str, dict[str, float]]:
    """Data set -> activation -> mean, from the verdict of the study on each data set."""
    return {name: {e.activation: e.mean for e in v.estimates[metric]} for name, v in verdicts.items()}


def judge_datasets(
    means: Mapping[str, Mapping[str, float]],
    *,
    activations: Sequence[str],
    labels: Mapping[str, str],
    baseline: str,
    metric: str = "accuracy",
    margin: float,
    alpha: float = 0.05,
    test: Test = "signed-rank",
) -> DatasetVerdict:
    """Compare every activation with the baseline over data sets.

    Args:
        means: data set -> activation -> mean score over everything that was run there, see `means_of`. A data set on which
            an activation has no finite mean is left out for all, and a warning says so.
        margin: as in `judge`. test: "signed-rank" (Wilcoxon; exact, ties and zeros as Pratt has them), or "permutation" of the
            signs of the differences, whose mean is then judged: a data set with a large difference weighs more.

    Words as in `judge`, after Holm over all comparisons; CANNOT TELL below 6 data sets whatever the differences.

    Raises:
        VerdictError: no data set, or settings out of range. UnknownNameError: a baseline, metric or test that does not exist.
    """
    if metric not in KNOWN:
        raise unknown("metric", metric, KNOWN)
    if test not in get_args(Test):
        raise unknown("test", test, get_args(Test))
    if baseline not in activations:
        raise unknown("activation to be the baseline", baseline, activations)
    if not (math.isfinite(margin) and margin >= 0):
        raise VerdictError(f"The margin of equivalence is {margin:g}; expected a number from 0 on, in units of {metric}.")
    check_alpha(alpha)
    values = {name: [found.get(a, math.nan) for a in activations] for name, found in means.items()}
    used = [name for name, row in values.items() if np.isfinite(row).all()]
    warnings = []
    for name, row in values.items():
        if lacking := [a for a, v in zip(activations, row, strict=True) if not math.isfinite(v)]:
            warnings.append(f"Left out: {name}, where {', '.join(lacking)} has no score.")
    if not used:
        raise VerdictError(f"None of {len(means)} data sets has a score of every activation; expected at least one.")
    table = np.array([values[name] for name in used], np.float64)
    n, k = table.shape
    others = [a for a in activations if a != baseline]
    if n < FEWEST_TO_TEST:
        warnings.append(
            f"{n} data set{'' if n == 1 else 's'}, {FEWEST_TO_TEST - n} fewer than a test over data sets needs: even if all "
            f"agreed, p would be {2 / 2**n:g}. Ranks are shown, no word is given."
        )
    elif len(others) * 2 / 2**n >= alpha:
        warnings.append(
            f"With {len(others)} comparisons and {n} data sets no difference can pass Holm's correction, even if all data sets "
            f"agreed; it takes {math.ceil(math.log2(2 * len(others) / alpha))}."
        )
    if n < FEWEST_TO_DRAW:
        warnings.append(f"No critical difference: {n} of at least {FEWEST_TO_DRAW} data sets.")
    sign = 1 if HIGHER_IS_BETTER[metric] else -1
    ranks = np.asarray(stats.rankdata(-sign * table, axis=1)).mean(axis=0)
    testable = n >= FEWEST_TO_TEST
    base = table[:, list(activations).index(baseline)]
    differences = [table[:, list(activations).index(a)] - base for a in others]
    judged = _signed_rank_tests if test == "signed-rank" else _flip_tests
    p = np.array([judged(d, margin) if testable else (1.0, 1.0) for d in differences]).reshape(-1, 2)
    adjusted, equivalent = holm(p[:, 0]), holm(p[:, 1])
    comparisons = []
    for i, (a, d) in enumerate(zip(others, differences, strict=True)):
        word: Word = "CANNOT TELL"
        middle, low, high = _hodges_lehmann(d, alpha)
        if adjusted[i] < alpha:
            leads = d.mean() if test == "permutation" else signed_rank(d)[0] - _expected(d)
            word = "BETTER" if sign * leads > 0 else "WORSE"
        elif equivalent[i] < alpha:
            word = "EQUIVALENT"
        comparisons.append(
            DatasetComparison(
                activation=a,
                label=labels.get(a, a),
                n=n,
                wins=int((sign * d > 0).sum()),
                ties=int((d == 0).sum()),
                losses=int((sign * d < 0).sum()),
                difference=middle,
                low=low if testable else -math.inf,
                high=high if testable else math.inf,
                p=float(p[i, 0]),
                p_adjusted=float(adjusted[i]),
                p_equivalent=float(equivalent[i]),
                word=word,
                more_datasets=_more(d, len(others), alpha) if word == "CANNOT TELL" and testable else None,
            )
        )
    gap = nemenyi(k, n, alpha) if n >= FEWEST_TO_DRAW and k >= 3 else None
    return DatasetVerdict(
        baseline=labels.get(baseline, baseline),
        metric=metric,
        alpha=alpha,
        test=test,
        datasets=tuple(used),
        ranks=dict(zip(activations, ranks.tolist(), strict=True)),
        friedman=_friedman(table) if testable and k >= 3 else None,
        critical_difference=gap,
        alike=_alike(dict(zip(activations, ranks.tolist(), strict=True)), gap) if gap is not None else (),
        comparisons=tuple(comparisons),
        warnings=tuple(warnings),
    )


def signed_rank(differences: npt.ArrayLike) -> tuple[float, float, float]:
    """Sum of the ranks of positive differences, and the exact probabilities of one so small and of one so large.

    Ranks by size, ties shared; zeros take part in the ranking and then drop out (Pratt 1959). Exact given the ranks: under the
    null every sign is a coin.
    """
    d = np.asarray(differences, np.float64)
    # Twice the rank is whole even where two share one.
    ranks = np.rint(2 * stats.rankdata(np.abs(d))).astype(np.int64)
    ranks, positive = ranks[d != 0], d[d != 0] > 0
    chance = np.zeros(int(ranks.sum()) + 1)
    chance[0] = 1.0
    for r in ranks:
        chance[r:] = (chance[r:] + chance[: len(chance) - r]) / 2 if r else chance[r:]
        chance[:r] /= 2
    total = int(ranks[positive].sum())
    return total / 2, float(min(1.0, chance[: total + 1].sum())), float(min(1.0, chance[total:].sum()))


def nemenyi(activations: int, datasets: int, alpha: float = 0.05) -> float:
    """The critical difference of mean ranks: two activations out of so many differ if their mean ranks are further apart."""
    return _studentized(activations, alpha) * math.sqrt(activations * (activations + 1) / (6 * datasets))


@functools.lru_cache
def _studentized(activations: int, alpha: float) -> float:
    return float(stats.studentized_range.ppf(1 - alpha, activations, np.inf)) / math.sqrt(2)


def _signed_rank_tests(d: Floats, margin: float) -> tuple[float, float]:
    _, small, large = signed_rank(d)
    if not d.any():
        return 1.0, 0.0
    return min(1.0, 2 * min(small, large)), max(signed_rank(d - margin)[1], signed_rank(d + margin)[2])


def _flip_tests(d: Floats, margin: float) -> tuple[float, float]:
    if not d.any():
        return 1.0, 0.0
    return _flipped(d, "two-sided"), max(_flipped(margin - d, "greater"), _flipped(d + margin, "greater"))


def _flipped(d: Floats, side: Literal["two-sided", "greater"]) -> float:
    n = len(d)
    if 2**n <= _FLIPS:
        signs = 1.0 - 2.0 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
        extra = 0
    else:
        signs = np.random.default_rng(n).choice([-1.0, 1.0], (_FLIPS, n))
        extra = 1  # what was observed is one of the ways
    sums, seen = signs @ np.abs(d), float(d.sum())
    slack = 1e-9 * float(np.abs(d).sum())
    hits = np.abs(sums) >= abs(seen) - slack if side == "two-sided" else sums >= seen - slack
    return float((hits.sum() + extra) / (len(sums) + extra))


def _expected(d: Floats) -> float:
    return float(stats.rankdata(np.abs(d))[d != 0].sum() / 2)


def _hodges_lehmann(d: Floats, alpha: float) -> tuple[float, float, float]:
    """Pseudo-median and the interval of all shifts that the signed-rank test does not reject."""
    i, j = np.triu_indices(len(d))
    walsh = np.sort((d[i] + d[j]) / 2)
    chance = np.ones(1)
    for r in range(1, len(d) + 1):
        longer = np.zeros(len(chance) + r)
        longer[: len(chance)] += chance / 2
        longer[r:] += chance / 2
        chance = longer
    outside = int(np.searchsorted(np.cumsum(chance), alpha / 2, side="right"))
    if outside == 0:
        return float(np.median(walsh)), -math.inf, math.inf
    return float(np.median(walsh)), float(walsh[outside - 1]), float(walsh[-outside])


def _more(d: Floats, family: int, alpha: float) -> int | None:
    # The share of all ranks that is positive is kept; beyond the data at hand the normal limit is near enough.
    nonzero = d[d != 0]
    if not len(nonzero):
        return None
    share = signed_rank(nonzero)[0] / (len(nonzero) * (len(nonzero) + 1) / 2)
    n = np.arange(len(d) + 1.0, len(d) + 1 + MOST_DATASETS)
    z = abs(share - 0.5) * (n * (n + 1) / 2) / np.sqrt(n * (n + 1) * (2 * n + 1) / 24)
    enough = np.flatnonzero(family * np.maximum(2 * ndtr(-z), 2.0 ** (1 - n)) < alpha)
    return int(enough[0]) + 1 if enough.size else None


def _friedman(table: Floats) -> float:
    if (table == table[:, :1]).all():
        return 1.0
    return float(stats.friedmanchisquare(*table.T).pvalue)


def _alike(ranks: Mapping[str, float], gap: float) -> tuple[tuple[str, ...], ...]:
    order = sorted(ranks, key=lambda a: ranks[a])
    groups: list[tuple[str, ...]] = []
    for i, first in enumerate(order):
        group = tuple(a for a in order[i:] if ranks[a] - ranks[first] < gap)
        if len(group) > 1 and not (groups and set(group) <= set(groups[-1])):
            groups.append(group)
    return tuple(groups)
