"""What one trial's predictions are worth: the metrics of a classifier from its probabilities.

Counts (accuracy, precision, recall, F1) come from one confusion matrix, so that the reported metrics and the reported
matrix cannot disagree; AUC is scikit-learn's; average precision is PASCAL VOC's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, cast, get_args

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

from pliant.errors import PliantError, unknown
from pliant.lab.metrics import HIGHER_IS_BETTER, METRICS

__all__ = [
    "ECE_BINS",
    "HIGHER_IS_BETTER",
    "LOSS_CLIP",
    "METRICS",
    "ScoreError",
    "Task",
    "average_precision",
    "confusion",
    "reliability",
    "reliability_of",
    "reliability_sums",
    "score",
]

Task = Literal["binary", "multiclass", "multilabel"]

ECE_BINS = 15
"""Bins of equal width over confidence in [0, 1] for the expected calibration error (Guo et al. 2017 use as many)."""

IGNORED = 255
"""The label of a class that counts neither way for an example (VOC: "difficult")."""

LOSS_CLIP = 1e-7
"""Probabilities are kept this far from 0 and 1 in the loss, so that no single example costs more than 16.1 nats.

About the resolution of float32 just below 1, where probabilities come from: a smaller number would turn the rounding
of 0.99999997 to 1 into a cost of 30 nats and more, and a fixed one keeps the loss independent of the dtype given.
"""

# Probabilities may have passed through half precision, where a softmax over many classes is off by up to about 5e-4.
SUM_TOLERANCE = 1e-3
RANGE_TOLERANCE = 1e-6


class ScoreError(PliantError, ValueError):
    """Targets or predictions that cannot be scored."""


def score(targets: npt.ArrayLike, scores: npt.ArrayLike, task: Task) -> dict[str, float]:
    """Every metric of `METRICS`, as Python floats.

    Args:
        targets: shape (n,), n >= 1; whole numbers: 0 or 1 for ``binary``, 0 ... C-1 for ``multiclass``. For ``multilabel``
            shape (n, C) of 0, 1 and 255, which counts neither way.
        scores: probabilities. ``binary``: shape (n,), of class 1. ``multiclass``: shape (n, C), C >= 2, rows sum to 1.
            ``multilabel``: shape (n, C), each class by itself.
        task: ``"binary"``, ``"multiclass"`` or ``"multilabel"``.

    The predicted class is the most probable one, the lowest of several on a tie; so a binary 0.5 is class 0, which is
    what "logit > 0" says as well. With several labels, a class is predicted where its probability is above 0.5, and
    ``accuracy`` is the share of labels that are right.

    ``precision``, ``recall``, ``f1``: of class 1 for ``binary``; otherwise the plain mean over the classes that occur in
    `targets`. Only the truth decides which classes take part, so models compared on the same examples are averaged over
    the same classes. 0/0 counts as 0. ``precision_weighted``, ``f1_weighted``: of every class weighted by its share of
    `targets`, for every task.

    ``auc``: area under the ROC curve; otherwise than for ``binary`` the plain mean of the one-vs-rest areas of all C
    classes. It is nan as soon as one class does not occur in `targets` (or nothing else does): an area needs examples on
    both sides, and a mean over the remaining classes would be another quantity under the same name.

    ``average_precision``: see `average_precision`; of class 1 for ``binary``, else the plain mean over all C classes (mAP);
    nan as soon as one class does not occur in `targets`.

    ``loss``: mean cross-entropy in nats, probabilities clipped to [`LOSS_CLIP`, 1 - `LOSS_CLIP`]; with several labels
    the mean over labels.

    ``brier``: mean squared distance between probabilities and truth: for ``binary`` of class 1 alone (0 ... 1), for
    ``multiclass`` summed over classes (0 ... 2), with several labels the mean over labels.

    ``ece``: expected calibration error: |accuracy - mean confidence| in each of `ECE_BINS` bins of the confidence in the
    predicted class, weighted by the bins' shares of the examples (labels).

    Raises:
        ScoreError: wrong shapes, no examples, labels that are no class, NaN or infinite scores, scores that are no
            probabilities (logits, say).
        UnknownNameError: `task` is none of the three.
    """
    if task == "multilabel":
        return _score_labels(*_checked_labels(targets, scores))
    truth, probabilities = _checked(targets, scores, task)
    n, n_classes = probabilities.shape
    chosen = probabilities.argmax(axis=1)
    counts = _count(truth, chosen, n_classes)
    hits = np.diagonal(counts).astype(np.float64)
    support, predicted = counts.sum(axis=1), counts.sum(axis=0)
    precision = _ratio(hits, predicted)
    recall = _ratio(hits, support)
    f1 = _ratio(2 * hits, support + predicted)
    averaged = np.array([1]) if task == "binary" else np.flatnonzero(support)
    # Not multi_class="ovr" of scikit-learn: that insists on rows that sum to 1 within 1e-8, which half precision cannot give.
    ranked = [(truth == c, probabilities[:, c]) for c in ([1] if task == "binary" else range(n_classes))]
    everywhere = bool((support > 0).all())
    squared = ((probabilities - np.eye(n_classes)[truth]) ** 2).sum(axis=1).mean()
    return {
        "accuracy": float(hits.sum() / n),
        "precision": float(precision[averaged].mean()),
        "recall": float(recall[averaged].mean()),
        "f1": float(f1[averaged].mean()),
        "precision_weighted": float((precision * support).sum() / n),
        "f1_weighted": float((f1 * support).sum() / n),
        "auc": _mean(_area, ranked) if everywhere else math.nan,
        "average_precision": _mean(average_precision, ranked) if everywhere else math.nan,
        "loss": float(-np.log(np.clip(probabilities[np.arange(n), truth], LOSS_CLIP, 1 - LOSS_CLIP)).mean()),
        "brier": float(squared / 2 if task == "binary" else squared),
        "ece": _calibration_error(probabilities.max(axis=1), chosen == truth),
    }


def _score_labels(truth: npt.NDArray[np.uint8], probabilities: npt.NDArray[np.float64]) -> dict[str, float]:
    counted, present, predicted = truth != IGNORED, truth == 1, probabilities > 0.5
    hits = (present & predicted).sum(axis=0).astype(np.float64)
    support, found = present.sum(axis=0), (predicted & counted).sum(axis=0)
    precision, recall, f1 = _ratio(hits, found), _ratio(hits, support), _ratio(2 * hits, support + found)
    averaged = np.flatnonzero(support)
    ranked = [(present[counted[:, c], c], probabilities[counted[:, c], c]) for c in range(truth.shape[1])]
    both_sides = bool((support > 0).all() and (support < counted.sum(axis=0)).all())
    right, shown = (predicted == present)[counted], probabilities[counted]
    given = np.clip(np.where(present[counted], shown, 1 - shown), LOSS_CLIP, 1 - LOSS_CLIP)
    weights = np.maximum(support.sum(), 1)
    return {
        "accuracy": float(right.mean()),
        "precision": float(precision[averaged].mean()) if averaged.size else 0.0,
        "recall": float(recall[averaged].mean()) if averaged.size else 0.0,
        "f1": float(f1[averaged].mean()) if averaged.size else 0.0,
        "precision_weighted": float((precision * support).sum() / weights),
        "f1_weighted": float((f1 * support).sum() / weights),
        "auc": _mean(_area, ranked) if both_sides else math.nan,
        "average_precision": _mean(average_precision, ranked) if (support > 0).all() else math.nan,
        "loss": float(-np.log(given).mean()),
        "brier": float(((shown - present[counted]) ** 2).mean()),
        "ece": _calibration_error(np.maximum(shown, 1 - shown), right),
    }


def average_precision(
    relevant: npt.ArrayLike, scores: npt.ArrayLike, rule: Literal["all points", "11 points"] = "all points"
) -> float:
    """Average precision of one class, as PASCAL VOC defines it: precision is first made to fall with recall, each value
    raised to the highest at that recall or beyond.

    Args:
        relevant: shape (n,), whether the class is present. scores: shape (n,), the higher the surer.
        rule: "all points", the area under that curve (VOC from 2010 on); "11 points", its mean at recalls 0, 0.1 ... 1 (VOC
            2007). Neither is scikit-learn's, which does not raise precision.

    Examples of one score are taken together, so the order of the data does not matter. nan if the class never occurs.

    Source: Everingham et al., "The PASCAL Visual Object Classes Challenge" (2010), section 4.2, and the VOC2010 kit.
    """
    present, values = np.asarray(relevant, dtype=bool), np.asarray(scores, dtype=np.float64)
    if not present.any():
        return math.nan
    order = np.argsort(-values, kind="stable")
    last = np.append(np.flatnonzero(np.diff(values[order])), len(values) - 1)
    hits = np.cumsum(present[order])[last]
    recall, precision = hits / present.sum(), hits / (last + 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    if rule == "11 points":
        # 3 / 10 is below 0.3 in neither division nor comparison, as it would be in steps of 0.1 added up.
        reached = [np.flatnonzero(recall >= k / 10 - 1e-12) for k in range(11)]
        return float(np.mean([highest[r[0]] if r.size else 0.0 for r in reached]))
    return float((np.diff(recall, prepend=0.0) * highest).sum())


def reliability(targets: npt.ArrayLike, scores: npt.ArrayLike, task: Task) -> list[tuple[float, float, int]]:
    """For each of the `ECE_BINS` bins that holds examples: mean confidence, accuracy, number of examples (labels).

    Arguments and errors as for `score`.
    """
    return reliability_of(reliability_sums(targets, scores, task))


def reliability_of(sums: npt.NDArray[np.float64]) -> list[tuple[float, float, int]]:
    """What `reliability` returns, from the sums of one call of `reliability_sums` or of several added up."""
    return [(float(sure / n), float(hits / n), int(n)) for sure, hits, n in sums if n > 0]


def reliability_sums(targets: npt.ArrayLike, scores: npt.ArrayLike, task: Task) -> npt.NDArray[np.float64]:
    """For each of the `ECE_BINS` bins: sum of confidences, examples (labels) that are right, examples; shape (ECE_BINS, 3).

    Arguments and errors as for `score`.
    """
    if task == "multilabel":
        truth, p = _checked_labels(targets, scores)
        counted = truth != IGNORED
        return _sums(np.maximum(p, 1 - p)[counted], ((p > 0.5) == (truth == 1))[counted])
    labels, probabilities = _checked(targets, scores, task)
    return _sums(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels)


def _sums(confidence: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    # Bins are open below and closed above, so that a confidence of 1 has a bin.
    which = np.clip(np.ceil(confidence * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)
    weights = (confidence, right.astype(np.float64), np.ones(len(which)))
    return np.stack([np.bincount(which, weights=w, minlength=ECE_BINS) for w in weights], axis=1)


def _calibration_error(confidence: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]) -> float:
    return sum(size * abs(hit - sure) for sure, hit, size in reliability_of(_sums(confidence, right))) / len(right)


def confusion(targets: npt.ArrayLike, scores: npt.ArrayLike, task: Task, n_classes: int) -> npt.NDArray[np.int64]:
    """How many examples of each true class (rows) were given each predicted class (columns); int64, shape (C, C).

    Arguments and errors as for `score`; `n_classes` is C, 2 for ``binary``, and must agree with the shape of `scores`.
    Examples with several labels have no such matrix.
    """
    if task == "multilabel":
        raise ScoreError("Examples with several labels have no confusion matrix; look at the classes one by one.")
    truth, probabilities = _checked(targets, scores, task)
    if n_classes != probabilities.shape[1]:
        raise ScoreError(
            f"A confusion matrix of {n_classes} classes was asked for, but the {task} scores have "
            f"{probabilities.shape[1]}. Give the number of classes that the model predicts (2 for a binary task)."
        )
    return _count(truth, probabilities.argmax(axis=1), n_classes)


def _checked(targets: npt.ArrayLike, scores: npt.ArrayLike, task: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Labels (n,) and probabilities (n, C): a binary task becomes one of two classes here, once and for all metrics."""
    if task not in get_args(Task):
        raise unknown("task", task, get_args(Task))
    truth, values = np.asarray(targets), np.asarray(scores)
    expected = "(n,), the probability of class 1" if task == "binary" else "(n, C), C >= 2, one probability per class"
    right_shape = values.ndim == 1 if task == "binary" else values.ndim == 2 and values.shape[1] >= 2
    if not right_shape:
        raise ScoreError(
            f"The scores of a {task} task have shape {values.shape}; expected {expected}. "
            "Squeeze a trailing axis of size 1, or name the other task."
        )
    if truth.ndim != 1 or len(truth) != len(values):
        raise ScoreError(
            f"Targets of shape {truth.shape} were given for scores of shape {values.shape}; expected one label per "
            f"example, shape ({len(values)},). Turn one-hot rows into labels with argmax(axis=1)."
        )
    if len(truth) == 0:
        raise ScoreError("There are no examples to score: targets and scores are empty. Give at least one example.")
    if values.dtype.kind not in "fiub":
        raise ScoreError(f"Scores have dtype {values.dtype}; expected real numbers. Convert them to a float array.")
    probabilities = values.astype(np.float64)
    bad = ~np.isfinite(probabilities)
    if bad.any():
        raise ScoreError(
            f"{int(bad.sum())} of {probabilities.size} scores are NaN or infinite, the first for example "
            f"{int(np.argwhere(bad)[0][0])}; expected probabilities. The model diverged: score it at its last epoch "
            "with finite predictions, or look for NaN in its input."
        )
    low, high = float(probabilities.min()), float(probabilities.max())
    if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        raise ScoreError(
            f"Scores run from {low:g} to {high:g}; expected probabilities in [0, 1]. Logits need "
            f"{'a sigmoid' if task == 'binary' else 'a softmax'} first."
        )
    if task == "binary":
        probabilities = np.stack([1 - probabilities, probabilities], axis=1)
    else:
        off = np.abs(probabilities.sum(axis=1) - 1)
        if off.max() > SUM_TOLERANCE:
            worst = int(off.argmax())
            raise ScoreError(
                f"The scores of example {worst} sum to {float(probabilities[worst].sum()):g}; expected every row of a "
                "multiclass task to sum to 1. Independent sigmoids are no distribution over classes: use a softmax."
            )
    return _labels(truth, probabilities.shape[1]), probabilities


def _labels(truth: npt.NDArray[np.generic], n_classes: int) -> npt.NDArray[np.int64]:
    whole = truth.dtype.kind in "iub" or (
        truth.dtype.kind == "f" and bool(np.isfinite(truth).all()) and bool((truth == np.floor(truth)).all())
    )
    if not whole:
        raise ScoreError(
            f"Targets of dtype {truth.dtype} hold something other than whole numbers; expected class labels 0 ... "
            f"{n_classes - 1}. Encode names as numbers, and do not smooth the labels that a model is scored on."
        )
    labels = truth.astype(np.int64)
    if labels.min() < 0 or labels.max() >= n_classes:
        raise ScoreError(
            f"Targets run from {labels.min()} to {labels.max()}; expected labels 0 ... {n_classes - 1} for scores of "
            f"{n_classes} classes. Labels start at 0; ignored examples (such as -1) must be taken out before scoring."
        )
    return labels


def _count(truth: npt.NDArray[np.int64], predicted: npt.NDArray[np.intp], n_classes: int) -> npt.NDArray[np.int64]:
    flat = np.bincount(truth * n_classes + predicted, minlength=n_classes * n_classes)
    return flat.reshape(n_classes, n_classes).astype(np.int64)


def _ratio(part: npt.NDArray[np.float64], whole: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    # part is 0 wherever whole is, so this is the rule 0/0 = 0 without a warning to silence.
    return part / np.maximum(whole, 1)


def _area(relevant: npt.NDArray[np.bool_], values: npt.NDArray[np.float64]) -> float:
    return cast(float, roc_auc_score(relevant, values))


def _mean(
    metric: Callable[[npt.NDArray[np.bool_], npt.NDArray[np.float64]], float],
    classes: list[tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]],
) -> float:
    return float(np.mean([metric(relevant, values) for relevant, values in classes]))


def _checked_labels(targets: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    truth, values = np.asarray(targets), np.asarray(scores)
    if truth.ndim != 2 or truth.shape != values.shape or truth.size == 0:
        raise ScoreError(
            f"Targets of shape {truth.shape} and scores of shape {values.shape} were given for a multilabel task; expected "
            "both as (n, C), one label and one probability for each class, and at least one example."
        )
    if not np.isin(truth, (0, 1, IGNORED)).all() or not (truth != IGNORED).any():
        raise ScoreError(
            f"Multilabel targets hold {np.unique(truth)[:10].tolist()}; expected 0 (absent), 1 (present) and {IGNORED} (counts "
            "neither way), not all of them the last."
        )
    if values.dtype.kind not in "fiub" or not np.isfinite(values).all():
        raise ScoreError(
            f"Multilabel scores of dtype {values.dtype} hold values that are no finite numbers; expected probabilities. The "
            "model diverged: score it at its last epoch with finite predictions."
        )
    probabilities = values.astype(np.float64)
    if probabilities.min() < -RANGE_TOLERANCE or probabilities.max() > 1 + RANGE_TOLERANCE:
        raise ScoreError(
            f"Scores run from {probabilities.min():g} to {probabilities.max():g}; expected probabilities in [0, 1]. Logits "
            "need a sigmoid first."
        )
    return truth.astype(np.uint8), probabilities
