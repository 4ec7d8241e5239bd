"""What a verdict consists of, and how it is said."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pliant.errors import PliantError
from pliant.lab.metrics import UNITS

__all__ = ["Comparison", "Estimate", "Posterior", "Verdict", "VerdictError", "Word", "amount"]

Word = Literal["BETTER", "WORSE", "EQUIVALENT", "CANNOT TELL"]

NAMES: Mapping[str, str] = {
    "f1": "F1",
    "f1_weighted": "weighted F1",
    "precision_weighted": "weighted precision",
    "average_precision": "average precision",
    "auc": "AUC",
    "brier": "Brier score",
    "ece": "calibration error",
}


class VerdictError(PliantError, ValueError):
    """Rows or settings on which no verdict can be based."""


@dataclass(frozen=True)
class Estimate:
    """One activation on one metric, by itself.

    `n`: trials that count, done and diverged, for which the metric is defined. `mean`: over folds, several seeds of one
    fold averaged first (nan when n is 0). `low`, `high`: corrected interval of that mean at level 1 - alpha, infinite
    with fewer than two folds; a t interval, so it may reach past the ends of the metric's scale. `sd`: over trials,
    ddof=1 (nan when n < 2). All in units of the metric (shares of 1, or nats).
    """

    activation: str
    label: str
    n: int
    diverged: int
    failed: int
    missing: int
    mean: float
    low: float
    high: float
    sd: float


@dataclass(frozen=True)
class Posterior:
    """How probable it is that the mean difference is better than the margin, within it, or worse; the three sum to 1.

    For folds the correlated t-test of Corani and Benavoli (Machine Learning 100, 2015), the correlation being n_test out of
    n_test + n_train. It answers another question than the word: there is no rate of error behind it, and no adjustment for
    several comparisons.
    """

    better: float
    equivalent: float
    worse: float


@dataclass(frozen=True)
class Comparison:
    """Activation minus baseline on one metric, over the trials that share repeat, fold and seed.

    `n`: pairs, one per (repeat, fold), several seeds there averaged into one; on one fixed split one per seed. `difference`:
    their mean, in units of the metric (nan when n is 0). `low`, `high`: its interval at level 1 - alpha, not adjusted for
    the number of comparisons; infinite if the spread cannot be known (n < 2, or see `judge` on constant differences). `p`:
    two-sided, of "no difference"; `p_adjusted`: after Holm within all comparisons of this metric; both 1 if nothing can
    be computed. `p_equivalent`: of "the difference is at least the margin", after Holm likewise. `sd`: spread of the pairs'
    differences (nan if unknown); `sd_examples`: on one fixed split, the part of the standard error that belongs to the test
    examples, which no number of seeds takes away (nan elsewhere). `posterior`: what the differences say about their mean
    by Bayes' rule, beside the word and without a say in it; None without a spread or a margin.

    `more_repeats`: the smallest number of further whole repeats (each a new partition, all its folds; on one fixed split:
    seeds) after which the word would no longer be CANNOT TELL, if every comparison of the family kept the mean and spread it
    has now. None if it is settled already, if fewer than two pairs leave the spread unknown, or if it would never be: the
    correction term n_test / n_train * s^2 does not shrink with more repeats, nor does what the test examples of a fixed
    split leave open, so that a small difference stays open for ever. `limited` is then true. None is also the answer beyond
    `MOST_REPEATS`.

    `differences`: (repeat, fold, difference), sorted; (repeat, 0, difference) for each seed of one fixed split.
    `identical`: there are pairs and all of them differ by at most 1e-12.
    """

    activation: str
    label: str
    baseline: str
    metric: str
    higher_is_better: bool
    n: int
    difference: float
    low: float
    high: float
    p: float
    p_adjusted: float
    word: Word
    more_repeats: int | None
    differences: tuple[tuple[int, int, float], ...]
    identical: bool
    p_equivalent: float = 1.0
    sd: float = math.nan
    sd_examples: float = math.nan
    limited: bool = False
    posterior: Posterior | None = None


@dataclass(frozen=True)
class Verdict:
    """What the rows of a study say about its activations.

    `margin`: half-width of the region of practical equivalence, in units of the primary `metric`. `design`: a sentence
    on how the numbers came about. `estimates`: metric -> one per activation, baseline included. `comparisons`: on the
    primary metric, in the order of the study, baseline left out; `secondary`: the same for every other metric, each
    metric a Holm family of its own. `warnings`: sentences that a reader of the words must see. `units`: independent test
    examples of one fixed split on which seeds were compared; None for every other design.
    """

    baseline: str
    baseline_label: str
    metric: str
    margin: float
    alpha: float
    design: str
    estimates: dict[str, tuple[Estimate, ...]]
    comparisons: tuple[Comparison, ...]
    secondary: dict[str, tuple[Comparison, ...]]
    warnings: tuple[str, ...]
    split: str = "test"
    units: int | None = None

    def sentence(self, comparison: Comparison) -> str:
        """One comparison of this verdict in plain English: difference, interval, n, word, and what would settle it."""
        c = comparison
        head = f"{c.label} vs {self.baseline_label} on {self.split} {NAMES.get(c.metric, c.metric)}"
        if c.n == 0:
            return f"{head}: no pair of trials to compare: {c.word}."
        unit = UNITS[c.metric]
        level = f"{100 * (1 - self.alpha):g} %"
        known = math.isfinite(c.low)
        interval = f"{level} interval {amount(c.low, c.metric)} to {amount(c.high, c.metric)}" if known else "no interval"
        return f"{head}: {amount(c.difference, c.metric)} {unit} ({interval}, n = {c.n}): {c.word}{self._because(c)}."

    def _because(self, c: Comparison) -> str:
        margin = f"{amount(self.margin, self.metric, sign='')} {UNITS[self.metric]}"
        if c.word == "EQUIVALENT":
            return "; no pair differs at all" if c.identical else f"; the difference is smaller than {margin}"
        if c.word != "CANNOT TELL":
            return f"; yet the difference is smaller than {margin}" if c.p_equivalent < self.alpha else ""
        if c.n < 2:
            return f"; it takes at least 2 {'pairs' if self.units is None else 'seeds'} to know the spread"
        if not math.isfinite(c.low):
            return "; the spread is not known, see the warnings"
        family = len(self.comparisons)
        holm_says = (
            f"; the interval leaves out 0, but not with Holm's correction for {family} comparisons" if c.p < self.alpha else ""
        )
        what = "repeat" if self.units is None else "seed"
        if c.more_repeats is None:
            limit = f": the {self.units} test examples are the limit" if self.units is not None and c.limited else ""
            return f"{holm_says}; more {what}s alone would not settle it at this difference and spread{limit}"
        plural = "" if c.more_repeats == 1 else "s"
        return f"{holm_says}; about {c.more_repeats} more {what}{plural} would settle it at this difference and spread"


def amount(value: float, metric: str, sign: Literal["+", ""] = "+") -> str:
    return f"{value * 100:{sign}.2f}" if UNITS[metric] == "points" else f"{value:{sign}.4f}"
