"""What one trial's predictions are worth: the metrics of a classifier from its probabilities.

Counts (accuracy, precision, recall, F1) come from one confusion matrix, so that the reported metrics and the reported
matrix cannot disagree; AUC is scikit-learn's.
"""

from __future__ import annotations

from typing import Literal, cast, get_args

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

from pliant.errors import PliantError, unknown
from pliant.lab.metrics import HIGHER_IS_BETTER, METRICS

__all__ = ["HIGHER_IS_BETTER", "LOSS_CLIP", "METRICS", "ScoreError", "Task", "confusion", "score"]

Task = Literal["binary", "multiclass"]

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
        targets: shape (n,), n >= 1; whole numbers: 0 or 1 for ``binary``, 0 ... C-1 for ``multiclass``.
        scores: probabilities. ``binary``: shape (n,), of class 1. ``multiclass``: shape (n, C), C >= 2, rows sum to 1.
        task: ``"binary"`` or ``"multiclass"``.

    The predicted class is the most probable one, the lowest of several on a tie; so a binary 0.5 is class 0, which is
    what "logit > 0" says as well.

    ``precision``, ``recall``, ``f1``: of class 1 for ``binary``; for ``multiclass`` the plain mean over the classes
    that occur in `targets`. Only the truth decides which classes take part, so models compared on the same examples
    are averaged over the same classes. 0/0 counts as 0. ``f1_weighted``: F1 of every class weighted by its share of
    `targets`, for either task.

    ``auc``: area under the ROC curve; for ``multiclass`` the plain mean of the one-vs-rest areas of all C classes. It
    is nan as soon as one class does not occur in `targets`: an area needs examples on both sides, and a mean over the
    remaining classes would be another quantity under the same name.

    ``loss``: mean cross-entropy in nats, probabilities clipped to [`LOSS_CLIP`, 1 - `LOSS_CLIP`].

    Raises:
        ScoreError: wrong shapes, no examples, labels that are no class, NaN or infinite scores, scores that are no
            probabilities (logits, say).
        UnknownNameError: `task` is neither of the two.
    """
    truth, probabilities = _checked(targets, scores, task)
    n, n_classes = probabilities.shape
    counts = _count(truth, probabilities.argmax(axis=1), n_classes)
    hits = np.diagonal(counts).astype(np.float64)
    support, predicted = counts.sum(axis=1), counts.sum(axis=0)
    precision = _ratio(hits, predicted)
    recall = _ratio(hits, support)
    f1 = _ratio(2 * hits, support + predicted)
    averaged = np.array([1]) if task == "binary" else np.flatnonzero(support)
    return {
        "accuracy": float(hits.sum() / n),
        "precision": float(precision[averaged].mean()),
        "recall": float(recall[averaged].mean()),
        "f1": float(f1[averaged].mean()),
        "f1_weighted": float((f1 * support).sum() / n),
        "auc": _area(truth, probabilities, support, task),
        "loss": float(-np.log(np.clip(probabilities[np.arange(n), truth], LOSS_CLIP, 1 - LOSS_CLIP)).mean()),
    }


def confusion(targets: npt.ArrayLike, scores: npt.ArrayLike, task: Task, n_classes: int) -> npt.NDArray[np.int64]:
    """How many examples of each true class (rows) were given each predicted class (columns); int64, shape (C, C).

    Arguments and errors as for `score`; `n_classes` is C, 2 for ``binary``, and must agree with the shape of `scores`.
    """
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


def _area(
    truth: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float64], support: npt.NDArray[np.int64], task: str
) -> float:
    if (support == 0).any():
        return float("nan")
    # Not multi_class="ovr": that insists on rows that sum to 1 within 1e-8, which half precision cannot give.
    classes = [1] if task == "binary" else range(probabilities.shape[1])
    return float(np.mean([cast(float, roc_auc_score(truth == c, probabilities[:, c])) for c in classes]))
