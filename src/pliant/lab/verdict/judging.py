"""Statistics on the rows of a study: which activations differ from the baseline, by how much, and how sure that is.

The comparison is paired: an activation and the baseline were trained on the same examples, from the same seed, and
tested on the same examples, so what is judged is the list of their differences, one per fold. Those differences are not
independent, since the training sets of different folds and repeats overlap. A paired t-test that ignores this calls two
equally good learners different far too often; the corrected resampled t of Nadeau and Bengio (Machine Learning 52, 2003)
widens the variance of the mean over n folds from ``s^2 / n`` to

    (1 / n + n_test / n_train) * s^2,   with n - 1 degrees of freedom.

The second term is the price of having one data set: no number of repeats takes it away.

What is controlled, each within one metric of one verdict: the chance that any BETTER or WORSE is wrong, and the chance
that any EQUIVALENT is wrong, are at most about `alpha`. tests/lab/test_verdict.py and test_null.py measure both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from pliant.errors import unknown
from pliant.lab.metrics import KNOWN, UNITS
from pliant.lab.verdict.paired import check_alpha
from pliant.lab.verdict.rows import Examples, Rows
from pliant.lab.verdict.words import Comparison, Estimate, Verdict, VerdictError

__all__ = ["judge"]

Split = Literal["train", "validation", "test"]


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
    examples: Examples | None = None,
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
        metric, metrics: the primary metric, and all that are estimated and compared; names of `metrics.KNOWN`.
        margin: differences up to this size do not matter in practice; in units of `metric`, so half a point of accuracy
            is 0.005. It also holds for other metrics of the same unit; one in another unit (loss beside accuracy) has
            no margin, and cannot come out EQUIVALENT unless identical.
        alpha: chance of error within one family of comparisons, see the words.
        split: which examples the metrics were measured on.
        examples: for one fixed split, where all rows have the same "partition": a row and the name of a metric -> how that
            row's score varies with its test examples (`Predictions.sampled`, `bootstrap`), or None if that is not known.
            Without it there is no verdict on a fixed split.

    Words, the first that holds:
        BETTER, WORSE: `p_adjusted` < alpha, and the direction of the metric says which.
        EQUIVALENT: `p_equivalent` < alpha, two one-sided tests; with a single comparison that is the same as "the
        corrected interval at level 1 - 2 alpha lies inside -margin ... margin". Or every pair is identical, see below.
        CANNOT TELL: anything else.

    Several seeds on one (repeat, fold) are averaged before anything else: their spread says how much luck there is in
    training, not how the result would change with other data. One fixed division into training and test examples thus
    leaves one pair, on which no verdict can be based; with `examples`, its seeds (two at least) are crossed with its test
    examples, see `pliant.lab.verdict.crossed`. What is then judged is training on these very training examples.

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
    study = Rows.of(rows, activations, labels, split, examples)
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
        units=study.units(metric),
    )


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
        if name not in KNOWN:
            raise unknown("metric", name, KNOWN)
    if split not in get_args(Split):
        raise unknown("split", split, get_args(Split))
    most = 1.0 if UNITS[wanted[0]] == "points" else math.inf
    if not (math.isfinite(margin) and 0 <= margin < most):
        raise VerdictError(
            f"The margin of equivalence is {margin:g}; expected a number from 0 to below {most:g} in units of "
            f"{wanted[0]}. Half a point of accuracy, for one, is 0.005."
        )
    check_alpha(alpha)
