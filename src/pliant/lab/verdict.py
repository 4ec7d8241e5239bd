"""Statistics on the rows of a study: which activations differ from the baseline, by how much, and how sure that is.

The comparison is paired: an activation and the baseline were trained on the same examples, from the same seed, and
tested on the same examples, so what is judged is the list of their differences, one per fold. Those differences are not
independent, since the training sets of different folds and repeats overlap. A paired t-test that ignores this calls two
equally good learners different far too often; the corrected resampled t of Nadeau and Bengio (Machine Learning 52, 2003)
widens the variance of the mean over n folds from ``s^2 / n`` to

    (1 / n + n_test / n_train) * s^2,   with n - 1 degrees of freedom.

The second term is the price of having one data set: no number of repeats takes it away.

What is controlled, each within one metric of one verdict: the chance that any BETTER or WORSE is wrong, and the chance
that any EQUIVALENT is wrong, are at most about `alpha`. tests/lab/test_verdict.py measures both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit

from pliant.errors import PliantError, unknown
from pliant.lab.metrics import COUNTED, HIGHER_IS_BETTER, METRICS, UNITS

__all__ = [
    "MOST_REPEATS",
    "Comparison",
    "Estimate",
    "Verdict",
    "VerdictError",
    "Word",
    "expected_precision",
    "holm",
    "judge",
]

Word = Literal["BETTER", "WORSE", "EQUIVALENT", "CANNOT TELL"]
Split = Literal["train", "validation", "test"]
Floats = npt.NDArray[np.float64]
Cell = tuple[int, int]
Place = tuple[Cell, int, int]

MOST_REPEATS = 1000
"""How many further repeats `Comparison.more_repeats` looks ahead; nobody trains more than that to settle one word."""

_SIZES: Mapping[str, str] = {"train": "n_train", "validation": "n_validation", "test": "n_test"}
_SAME = 1e-12
_NAMES: Mapping[str, str] = {
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
class Comparison:
    """Activation minus baseline on one metric, over the trials that share repeat, fold and seed.

    `n`: pairs, one per (repeat, fold); several seeds there are averaged into one. `difference`: their mean, in units of
    the metric (nan when n is 0). `low`, `high`: its corrected interval at level 1 - alpha, not adjusted for the number
    of comparisons; infinite if the spread cannot be known (n < 2, or see `judge` on constant differences). `p`:
    two-sided, of "no difference"; `p_adjusted`: after Holm within all comparisons of this metric; both 1 if nothing can
    be computed. `p_equivalent`: of "the difference is at least the margin", after Holm likewise.

    `more_repeats`: the smallest number of further whole repeats (each a new partition, all its folds) after which the
    word would no longer be CANNOT TELL, if every comparison of the family kept the mean and spread it has now. None if
    it is settled already, if fewer than two pairs leave the spread unknown, or if it would never be: since the
    correction term n_test / n_train * s^2 does not shrink with more repeats, a difference that is small beside
    s * sqrt(n_test / n_train) stays open for ever, and None is also the answer beyond `MOST_REPEATS`.

    `differences`: (repeat, fold, difference), sorted. `identical`: there are pairs and all of them differ by at most
    1e-12.
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


@dataclass(frozen=True)
class Verdict:
    """What the rows of a study say about its activations.

    `margin`: half-width of the region of practical equivalence, in units of the primary `metric`. `design`: a sentence
    on how the numbers came about. `estimates`: metric -> one per activation, baseline included. `comparisons`: on the
    primary metric, in the order of the study, baseline left out; `secondary`: the same for every other metric, each
    metric a Holm family of its own. `warnings`: sentences that a reader of the words must see.
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

    def sentence(self, comparison: Comparison) -> str:
        """One comparison of this verdict in plain English: difference, interval, n, word, and what would settle it."""
        c = comparison
        head = f"{c.label} vs {self.baseline_label} on {self.split} {_NAMES.get(c.metric, c.metric)}"
        if c.n == 0:
            return f"{head}: no pair of trials to compare: {c.word}."
        unit = UNITS[c.metric]
        level = f"{100 * (1 - self.alpha):g} %"
        known = math.isfinite(c.low)
        interval = f"{level} interval {_amount(c.low, c.metric)} to {_amount(c.high, c.metric)}" if known else "no interval"
        return f"{head}: {_amount(c.difference, c.metric)} {unit} ({interval}, n = {c.n}): {c.word}{self._because(c)}."

    def _because(self, c: Comparison) -> str:
        margin = f"{_amount(self.margin, self.metric, sign='')} {UNITS[self.metric]}"
        if c.word == "EQUIVALENT":
            return "; no pair differs at all" if c.identical else f"; the difference is smaller than {margin}"
        if c.word != "CANNOT TELL":
            return f"; yet the difference is smaller than {margin}" if c.p_equivalent < self.alpha else ""
        if c.n < 2:
            return "; it takes at least 2 pairs to know the spread"
        if not math.isfinite(c.low):
            return "; the spread is not known, see the warnings"
        family = len(self.comparisons)
        holm_says = (
            f"; the interval leaves out 0, but not with Holm's correction for {family} comparisons" if c.p < self.alpha else ""
        )
        if c.more_repeats is None:
            return f"{holm_says}; more repeats alone would not settle it at this difference and spread"
        plural = "" if c.more_repeats == 1 else "s"
        return f"{holm_says}; about {c.more_repeats} more repeat{plural} would settle it at this difference and spread"


def judge(
    rows: Sequence[Mapping[str, object]],
    *,
    activations: Sequence[str],
    labels: Mapping[str, str],
    baseline: str,
    metric: str = "accuracy",
    metrics: Sequence[str] = ("accuracy", "precision", "recall", "f1"),
    margin: float,
    alpha: float = 0.05,
    split: Split = "test",
) -> Verdict:
    """Compare every activation with the baseline.

    Args:
        rows: one per trial: activation, repeat, fold, seed, outcome ("done", "diverged", "failed" or "missing") and,
            for the first two, n_train (examples fitted), n_test and "{split}_{metric}" for every metric asked for. A
            metric that is None or nan (an AUC without one of the classes) is undefined in that trial, which is left out
            for that metric. Rows of activations that are not asked for are ignored. An optional "partition" (anything
            hashable) says which division of the data a repeat used: repeats with the same one are further seeds, not
            further evidence about other data. Without it, every repeat is taken to be a division of its own.
        activations: canonical specs, in the order of the study, `baseline` among them.
        labels: spec -> name to display; a spec without one is displayed as it is.
        metric, metrics: the primary metric, and all that are estimated and compared; names of `METRICS`.
        margin: differences up to this size do not matter in practice; in units of `metric`, so half a point of accuracy
            is 0.005. It also holds for other metrics of the same unit; one in another unit (loss beside accuracy) has
            no margin, and cannot come out EQUIVALENT unless identical.
        alpha: chance of error within one family of comparisons, see the words.
        split: which examples the metrics were measured on.

    Words, the first that holds:
        BETTER, WORSE: `p_adjusted` < alpha, and the direction of the metric says which.
        EQUIVALENT: `p_equivalent` < alpha, two one-sided tests; with a single comparison that is the same as "the
        corrected interval at level 1 - 2 alpha lies inside -margin ... margin". Or every pair is identical, see below.
        CANNOT TELL: anything else.

    Several seeds on one (repeat, fold) are averaged before anything else: their spread says how much luck there is in
    training, not how the result would change with other data. One fixed division into training and test examples thus
    leaves one pair, on which no verdict can be based.

    A spread that is smaller than the metric can show is not believed. Accuracy and its kin move in steps of 1 / n_test;
    if, say, one activation got exactly one more example right in each of three folds, s is 0 and p would be too. Their
    s is therefore taken to be at least the rounding error of one step, 1 / (n_test * sqrt(12)). AUC and loss have no
    such step: if all pairs differ by one nonzero amount, the trials are most likely copies of each other, and the
    answer is CANNOT TELL with a warning. If all pairs agree exactly, the word is EQUIVALENT with p = 1 (from two pairs
    on), unless the rows hold losses and these tell the trials apart: then equal counts are a tie and no identity, and
    the smallest believable spread decides.

    Diverged trials are scored and count like any other; if one has no value, its comparison comes out CANNOT TELL,
    because a verdict on the survivors would flatter the activation that diverges. So does a comparison with a pair in
    which both diverged, because a tie of two broken networks is no evidence. A trial whose partner is missing or
    failed is left out, and a warning says so.

    Raises:
        VerdictError: no rows, two rows for one trial, a row without a column or with a value of the wrong kind, partners
            that were not trained on the same number of examples, margin or alpha out of range.
        UnknownNameError: a baseline, metric, split or outcome that does not exist.
    """
    wanted = tuple(dict.fromkeys((metric, *metrics)))
    _check_settings(rows, activations, baseline, wanted, margin, alpha, split)
    study = _Study.of(rows, activations, labels, split)
    warnings = study.warnings(baseline)
    if UNITS[metric] == "points" and margin > 0.1:
        warnings.append(
            f"The margin of equivalence is {100 * margin:g} points; it is given in units of the metric, "
            "where half a point is 0.005."
        )

    families: dict[str, tuple[Comparison, ...]] = {}
    estimates: dict[str, tuple[Estimate, ...]] = {}
    for name in wanted:
        scale = margin if UNITS[name] == UNITS[metric] else math.nan
        estimates[name] = tuple(study.estimate(activation, name, alpha) for activation in activations)
        families[name], told = study.compare(baseline, name, scale, alpha)
        warnings += [text for text in told if text not in warnings]
    design = study.design(margin, metric, alpha, baseline, len(families[metric]))
    return Verdict(
        baseline=baseline,
        baseline_label=labels.get(baseline, baseline),
        metric=metric,
        margin=margin,
        alpha=alpha,
        design=design,
        estimates=estimates,
        comparisons=families.pop(metric),
        secondary=families,
        warnings=tuple(warnings),
        split=split,
    )


def expected_precision(folds: int, repeats: int, n_train: int, n_test: int, sd: float, alpha: float = 0.05) -> float:
    """Half-width of the corrected interval of a mean paired difference, before any compute is spent.

    Args:
        folds: per repeat (1 for hold-out splits that are drawn anew each repeat). repeats: how many.
        n_train, n_test: examples fitted and tested in one fold.
        sd: of the paired differences over folds, guessed or from a pilot; the answer has the same unit.

    Infinite when folds * repeats < 2. Raises VerdictError for numbers that cannot be.
    """
    if folds < 1 or repeats < 1 or n_train < 1 or n_test < 1 or not (math.isfinite(sd) and sd >= 0):
        raise VerdictError(
            f"Expected precision was asked for {repeats} repeats of {folds} folds with {n_train} examples to fit, "
            f"{n_test} to test and a standard deviation of {sd:g}; expected counts of at least 1 and a finite, "
            "non-negative standard deviation."
        )
    _check_alpha(alpha)
    return _Sample(n=folds * repeats, mean=0.0, sd=sd, ratio=n_test / n_train).half_width(alpha)


def holm(p: npt.ArrayLike) -> Floats:
    """Holm's adjusted p-values along the last axis: the chance that any true hypothesis falls below alpha is alpha.

    Shape (..., m) in, float64 of the same shape out, at most 1. Valid whatever the dependence between the tests, which
    matters here: all comparisons share the baseline's trials.
    """
    values = np.asarray(p, dtype=np.float64)
    m = values.shape[-1]
    order = np.argsort(values, axis=-1, kind="stable")
    steps = np.take_along_axis(values, order, axis=-1) * (m - np.arange(m))
    adjusted = np.minimum(np.maximum.accumulate(steps, axis=-1), 1.0)
    out = np.empty_like(values)
    np.put_along_axis(out, order, adjusted, axis=-1)
    return out


@dataclass(frozen=True)
class _Sample:
    """One number per fold, summed up. `sd` is nan if the spread is unknown; 0 only for trials that are the same trial."""

    n: int
    mean: float
    sd: float
    ratio: float

    def standard_error(self, n: Floats) -> Floats:
        return self.sd * np.sqrt(1 / n + self.ratio)

    def half_width(self, alpha: float) -> float:
        if self.n < 2 or math.isnan(self.sd):
            return math.inf
        n = np.array(self.n, dtype=np.float64)
        return float(stdtrit(n - 1, 1 - alpha / 2) * self.standard_error(n))

    def p_values(self, n: Floats, margin: float) -> tuple[Floats, Floats]:
        """p of "no difference" and of "a difference of at least margin", with this mean and sd seen in n folds instead."""
        nothing = np.ones_like(n)
        if self.n < 2 or math.isnan(self.sd):
            return nothing, nothing
        if self.sd == 0:
            return nothing, np.zeros_like(n)
        error = self.standard_error(n)
        different = 2 * stdtr(n - 1, -abs(self.mean) / error)
        if math.isnan(margin):
            return different, nothing
        # Of the two one-sided tests the nearer edge has the larger p, and both must reject.
        return different, stdtr(n - 1, -(margin - abs(self.mean)) / error)


@dataclass(frozen=True)
class _Trial:
    activation: str
    cell: Cell
    seed: int
    outcome: str
    row: Mapping[str, object]

    @property
    def counts(self) -> bool:
        return self.outcome in ("done", "diverged")

    @property
    def place(self) -> Place:
        # The true repeat as well as the cell: repeats that share a partition may share a seed, and remain two trials.
        return self.cell, _whole(self.row, "repeat"), self.seed

    def number(self, column: str) -> float:
        """A column of a trial that counts; nan where it is undefined."""
        if column not in self.row:
            raise VerdictError(
                f"{_describe(self.row)} has no column {column!r}; expected one, since its outcome is {self.outcome!r}. "
                f"Its columns are {', '.join(sorted(self.row))}."
            )
        value = self.row[column]
        if value is None:
            return math.nan
        if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
            raise VerdictError(
                f"{_describe(self.row)} has {value!r} as its {column}; expected a number or nothing. "
                "Rows read from CSV as text must be converted first."
            )
        return float(value)

    def size(self, column: str) -> float:
        value = self.number(column)
        if not (math.isfinite(value) and value >= 1):
            raise VerdictError(
                f"{_describe(self.row)} has {column} = {value:g}; expected a count of examples, at least 1, since its "
                f"outcome is {self.outcome!r}. Without it the overlap of the training sets cannot be corrected for."
            )
        return value


@dataclass(frozen=True)
class _Study:
    activations: tuple[str, ...]
    labels: Mapping[str, str]
    split: str
    trials: Mapping[str, Mapping[Place, _Trial]]
    repeats: int
    folds: int
    seeds: int
    partitions_given: bool

    @staticmethod
    def of(rows: Sequence[Mapping[str, object]], activations: Sequence[str], labels: Mapping[str, str], split: str) -> _Study:
        trials: dict[str, dict[Place, _Trial]] = {activation: {} for activation in activations}
        chosen = [row for row in rows if _column(row, "activation") in trials]
        if not chosen:
            raise VerdictError(
                f"None of the {len(rows)} rows belongs to {', '.join(activations)}; expected one row per trial of these. "
                "Activations go by their canonical spec here, not by their label."
            )
        given = [row.get("partition") is not None for row in chosen]
        if any(given) and not all(given):
            raise VerdictError(
                f"{sum(given)} of {len(given)} rows say which partition of the data they used and the others do not; "
                "expected all or none, because repeats on one partition are seeds and repeats on several are evidence. "
                "Fill the column in, or leave it out if every repeat has a partition of its own."
            )
        first: dict[object, int] = {}
        if any(given):
            for row in chosen:
                repeat = _whole(row, "repeat")
                first[row["partition"]] = min(repeat, first.get(row["partition"], repeat))
        for row in chosen:
            outcome = str(_column(row, "outcome"))
            if outcome not in ("done", "diverged", "failed", "missing"):
                raise unknown("outcome", outcome, ("done", "diverged", "failed", "missing"))
            repeat = first[row["partition"]] if first else _whole(row, "repeat")
            trial = _Trial(str(row["activation"]), (repeat, _whole(row, "fold")), _whole(row, "seed"), outcome, row)
            if trial.place in trials[trial.activation]:
                raise VerdictError(
                    f"{_describe(row)} occurs twice; expected one row per activation, repeat, fold and seed. These may "
                    "be the rows of two studies, datasets or models: judge them one at a time."
                )
            trials[trial.activation][trial.place] = trial
        # In one order whatever the order of the rows, since a sum of floats depends on it in its last digit.
        trials = {activation: dict(sorted(by_place.items())) for activation, by_place in trials.items()}
        places = {place for by_place in trials.values() for place in by_place}
        cells: dict[Cell, int] = {}
        for cell, _, _ in places:
            cells[cell] = cells.get(cell, 0) + 1
        repeats = [repeat for repeat, _ in cells]
        return _Study(
            activations=tuple(activations),
            labels=labels,
            split=split,
            trials=trials,
            repeats=len(set(repeats)),
            folds=max((repeats.count(repeat) for repeat in set(repeats)), default=0),
            seeds=max(cells.values(), default=0),
            partitions_given=bool(first),
        )

    def label(self, activation: str) -> str:
        return self.labels.get(activation, activation)

    def places(self) -> set[Place]:
        return {place for by_place in self.trials.values() for place in by_place}

    def values(self, activation: str, metric: str) -> dict[Place, float]:
        """The trials of an activation that count and for which the metric is defined."""
        column = f"{self.split}_{metric}"
        found = {place: t.number(column) for place, t in self.trials[activation].items() if t.counts}
        return {place: value for place, value in found.items() if math.isfinite(value)}

    def unscored(self, activation: str, metric: str) -> list[_Trial]:
        scored = self.values(activation, metric)
        return [t for place, t in self.trials[activation].items() if t.counts and place not in scored]

    def sample(self, activation: str, by_place: Mapping[Place, float], metric: str) -> _Sample:
        """Seeds averaged inside folds, then mean, spread (never below what the metric can resolve) and overlap."""
        folds = _by_fold(by_place)
        if not folds:
            return _Sample(0, math.nan, math.nan, math.nan)
        numbers = np.array([np.mean(values) for values in folds.values()])
        trials = [self.trials[activation][place] for place in by_place]
        ratio = float(np.mean([t.size("n_test") / t.size("n_train") for t in trials]))
        sd = float(numbers.std(ddof=1)) if len(numbers) > 1 else math.nan
        if metric in COUNTED:
            step = float(np.mean([1 / t.size(_SIZES[self.split]) for t in trials]))
            # The rounding errors of seeds are independent, so averaging seeds takes them down like any other noise.
            sd = max(sd, step / math.sqrt(12 * len(by_place) / len(folds))) if len(numbers) > 1 else math.nan
        elif sd <= _SAME:
            sd = math.nan
        return _Sample(len(numbers), float(numbers.mean()), sd, ratio)

    def estimate(self, activation: str, metric: str, alpha: float) -> Estimate:
        values = self.values(activation, metric)
        sample = self.sample(activation, values, metric)
        half = sample.half_width(alpha)
        outcomes = [t.outcome for t in self.trials[activation].values()]
        here = len(outcomes) - outcomes.count("missing")
        return Estimate(
            activation=activation,
            label=self.label(activation),
            n=len(values),
            diverged=outcomes.count("diverged"),
            failed=outcomes.count("failed"),
            missing=len(self.places()) - here,
            mean=sample.mean,
            low=sample.mean - half if sample.n else -math.inf,
            high=sample.mean + half if sample.n else math.inf,
            sd=float(np.std(list(values.values()), ddof=1)) if len(values) > 1 else math.nan,
        )

    def compare(self, baseline: str, metric: str, margin: float, alpha: float) -> tuple[tuple[Comparison, ...], list[str]]:
        others = [activation for activation in self.activations if activation != baseline]
        if not others:
            return (), []
        pairs = [self.pairs(activation, baseline, metric) for activation in others]
        identical = [bool(pair) and max(map(abs, pair.values())) <= _SAME for pair in pairs]
        samples = []
        for activation, pair, same in zip(others, pairs, identical, strict=True):
            sample = self.sample(activation, pair, metric)
            if self.silenced(activation, metric) or self.silenced(baseline, metric) or self.both_diverged(activation, baseline):
                sample = replace(sample, sd=math.nan)
            elif same and sample.n > 1 and not self.told_apart(activation, baseline, metric, pair):
                sample = replace(sample, mean=0.0, sd=0.0)
            samples.append(sample)

        # Row 0 is the study as it is, row r the study with r repeats more in which nothing but n has changed: the whole
        # family moves on together, since Holm's adjustment of one comparison depends on the others.
        more = np.arange(MOST_REPEATS + 1) * self.folds
        p, p_equivalent = (
            np.stack(columns, axis=-1)
            for columns in zip(*(s.p_values((s.n + more).astype(np.float64), margin) for s in samples), strict=True)
        )
        # Two families. Equivalence is adjusted as well, because the table as a whole is what people read: of fourteen
        # activations that all sit on the edge of the margin, plain two one-sided tests would call one or more
        # EQUIVALENT in up to half of all studies. The families stay apart since they fear different errors; no pair
        # can suffer both, as no difference is at once zero and beyond the margin.
        p_adjusted, p_equivalent = holm(p), holm(p_equivalent)
        different, equivalent = p_adjusted < alpha, p_equivalent < alpha
        settled = different | equivalent

        comparisons = []
        for i, (activation, pair, sample) in enumerate(zip(others, pairs, samples, strict=True)):
            higher = HIGHER_IS_BETTER[metric]
            word: Word = "CANNOT TELL"
            if different[0, i]:
                word = "BETTER" if (sample.mean > 0) == higher else "WORSE"
            elif equivalent[0, i]:
                word = "EQUIVALENT"
            ahead = word == "CANNOT TELL" and bool(settled[:, i].any())
            half = sample.half_width(alpha)
            comparisons.append(
                Comparison(
                    activation=activation,
                    label=self.label(activation),
                    baseline=baseline,
                    metric=metric,
                    higher_is_better=higher,
                    n=sample.n,
                    difference=sample.mean,
                    low=sample.mean - half if sample.n else -math.inf,
                    high=sample.mean + half if sample.n else math.inf,
                    p=float(p[0, i]),
                    p_adjusted=float(p_adjusted[0, i]),
                    word=word,
                    more_repeats=int(settled[:, i].argmax()) if ahead else None,
                    differences=tuple(
                        (repeat, fold, float(np.mean(values))) for (repeat, fold), values in sorted(_by_fold(pair).items())
                    ),
                    identical=identical[i],
                    p_equivalent=float(p_equivalent[0, i]),
                )
            )
        return tuple(comparisons), self._told(baseline, metric, samples, others)

    def pairs(self, activation: str, baseline: str, metric: str) -> dict[Place, float]:
        mine, theirs = self.values(activation, metric), self.values(baseline, metric)
        both = sorted(mine.keys() & theirs.keys())
        for place in both:
            one, other = self.trials[activation][place], self.trials[baseline][place]
            for column in ("n_train", "n_test"):
                if one.size(column) != other.size(column):
                    raise VerdictError(
                        f"{_describe(one.row)} has {column} = {one.size(column):g}, its partner {baseline!r} has "
                        f"{other.size(column):g}; expected the same, because only trials on the same split can be "
                        "compared as a pair. Run both activations in one study."
                    )
        return {place: mine[place] - theirs[place] for place in both}

    def silenced(self, activation: str, metric: str) -> int:
        """How many trials diverged without a score: the rest cannot speak for the activation."""
        return sum(t.outcome == "diverged" for t in self.unscored(activation, metric))

    def both_diverged(self, activation: str, baseline: str) -> int:
        """In how many pairs neither trial gave a network: their equal scores are no evidence that the two are equal."""
        mine, theirs = self.trials[activation], self.trials[baseline]
        return sum(mine[p].outcome == theirs[p].outcome == "diverged" for p in mine.keys() & theirs.keys())

    def told_apart(self, activation: str, baseline: str, metric: str, places: Iterable[Place]) -> bool:
        """Whether trials with the same counts are different trainings after all, by the losses in the rows."""
        if metric not in COUNTED:
            return False
        column = f"{self.split}_loss"
        for place in places:
            one, other = self.trials[activation][place], self.trials[baseline][place]
            if column in one.row and column in other.row and abs(one.number(column) - other.number(column)) > _SAME:
                return True
        return False

    def warnings(self, baseline: str) -> list[str]:
        """What is wrong with the study whichever metric one looks at."""
        told = []
        places = self.places()
        missing = 0
        for activation in self.activations:
            outcomes = [t.outcome for t in self.trials[activation].values()]
            total, diverged, failed = len(places), outcomes.count("diverged"), outcomes.count("failed")
            missing += total - len(outcomes) + outcomes.count("missing")
            for count, outcome, fate in (
                (diverged, "diverged", "scored and counted as they are"),
                (failed, "failed", "left out"),
            ):
                if count:
                    told.append(f"{count} of {total} trials of {self.label(activation)} {outcome}; {fate}.")
        if missing:
            told.append(f"Incomplete: {missing} of {len(places) * len(self.activations)} trials are missing.")
        reference = {place for place, t in self.trials[baseline].items() if t.counts}
        for activation in self.activations:
            mine = {place for place, t in self.trials[activation].items() if t.counts}
            if single := len(mine ^ reference):
                told.append(
                    f"{self.label(activation)} vs {self.label(baseline)}: {single} of {len(places)} pairs lack one of "
                    "their two trials and are left out."
                )
        if self.folds == 1 and self.repeats > 1 and not self.partitions_given:
            told.append(
                f"Each of the {self.repeats} repeats is taken to have drawn its own training and test examples. If the "
                "split is fixed, give the rows a column 'partition' with one value: the repeats are then seeds, and the "
                "verdict is CANNOT TELL until the test examples themselves are resampled."
            )
        return told

    def _told(self, baseline: str, metric: str, samples: Sequence[_Sample], others: Sequence[str]) -> list[str]:
        """What is wrong with one family of comparisons."""
        told = []
        name = f"{self.split} {_NAMES.get(metric, metric)}"
        for activation in self.activations:
            silenced = self.silenced(activation, metric)
            if undefined := len(self.unscored(activation, metric)) - silenced:
                told.append(f"{name} is undefined in {_trials(undefined)} of {self.label(activation)}; left out.")
            if silenced:
                told.append(
                    f"{_trials(silenced)} of {self.label(activation)} diverged without a {name}: CANNOT TELL, since the "
                    "trials that did not diverge cannot speak for those that did."
                )
        few = [self.label(a) for a, s in zip(others, samples, strict=True) if s.n < 2]
        if few:
            told.append(
                f"Fewer than 2 pairs for {', '.join(few)} against {self.label(baseline)}: no spread, no interval, no "
                "verdict. It takes two folds or repeats on different data; more seeds on one split are not enough."
            )
        same = [
            self.label(activation)
            for activation, sample in zip(others, samples, strict=True)
            if sample.n > 1
            and math.isnan(sample.sd)
            and not (self.silenced(activation, metric) or self.silenced(baseline, metric))
        ]
        if same:
            told.append(
                f"All pairs of {', '.join(same)} differ from {self.label(baseline)} by one and the same {name}: no "
                "measured metric does that, so look for copied rows. No verdict."
            )
        return told

    def design(self, margin: float, metric: str, alpha: float, baseline: str, family: int) -> str:
        if self.folds > 1:
            shape = f"{self.repeats} x {self.folds} folds"
        elif self.repeats > 1:
            shape = f"{self.repeats} hold-out splits"
        else:
            shape = "1 fixed split"
        if self.seeds > 1:
            shape += f", up to {self.seeds} seeds averaged inside each"
        counted = [t for by_place in self.trials.values() for t in by_place.values() if t.counts]
        overlap = ""
        if counted:
            overlap = f" (n_test / n_train = {np.mean([t.size('n_test') / t.size('n_train') for t in counted]):.3f})"
        return (
            f"{shape}; differences to {self.label(baseline)} paired within split and seed; corrected resampled "
            f"t{overlap} at {100 * (1 - alpha):g} %; Holm over {family} comparison{'' if family == 1 else 's'} per "
            f"metric; equivalent means within {_amount(margin, metric, sign='')} {UNITS[metric]}."
        )


def _by_fold(by_place: Mapping[Place, float]) -> dict[Cell, list[float]]:
    folds: dict[Cell, list[float]] = {}
    for (cell, _, _), value in by_place.items():
        folds.setdefault(cell, []).append(value)
    return folds


def _trials(count: int) -> str:
    return f"{count} trial{'' if count == 1 else 's'}"


def _check_settings(
    rows: Sequence[Mapping[str, object]],
    activations: Sequence[str],
    baseline: str,
    wanted: Sequence[str],
    margin: float,
    alpha: float,
    split: str,
) -> None:
    if len(rows) == 0:
        raise VerdictError(
            "There are no rows to judge; expected one per trial, those that are missing included. "
            "Run the study first, or look whether a filter took all rows away."
        )
    if len(set(activations)) != len(activations):
        twice = sorted({a for a in activations if list(activations).count(a) > 1})
        raise VerdictError(f"Activations were named twice: {', '.join(twice)}; expected each once. Remove the repeats.")
    if baseline not in activations:
        raise unknown("activation to be the baseline", baseline, activations)
    for name in wanted:
        if name not in METRICS:
            raise unknown("metric", name, METRICS)
    if split not in get_args(Split):
        raise unknown("split", split, get_args(Split))
    most = 1.0 if UNITS[wanted[0]] == "points" else math.inf
    if not (math.isfinite(margin) and 0 <= margin < most):
        raise VerdictError(
            f"The margin of equivalence is {margin:g}; expected a number from 0 to below {most:g} in units of "
            f"{wanted[0]}. Half a point of accuracy, for one, is 0.005."
        )
    _check_alpha(alpha)


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < 0.5:
        raise VerdictError(f"The chance of error alpha is {alpha:g}; expected a number between 0 and 0.5. Common is 0.05.")


def _column(row: Mapping[str, object], name: str) -> object:
    if name not in row:
        raise VerdictError(
            f"{_describe(row)} has no column {name!r}; expected activation, repeat, fold, seed and outcome in every row. "
            f"Its columns are {', '.join(sorted(row)) or 'none'}."
        )
    return row[name]


def _whole(row: Mapping[str, object], name: str) -> int:
    value = _column(row, name)
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise VerdictError(
            f"{_describe(row)} has {value!r} as its {name}; expected a whole number. "
            "Rows read from CSV as text must be converted first."
        )
    return int(value)


def _describe(row: Mapping[str, object]) -> str:
    facts = ", ".join(f"{name} {row[name]}" for name in ("repeat", "fold", "seed") if name in row)
    return f"The row of activation {row.get('activation')!r}{f' ({facts})' if facts else ''}"


def _amount(value: float, metric: str, sign: Literal["+", ""] = "+") -> str:
    return f"{value * 100:{sign}.2f}" if UNITS[metric] == "points" else f"{value:{sign}.4f}"
