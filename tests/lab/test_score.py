from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from sklearn import metrics as oracle

from pliant.errors import PliantError, UnknownNameError
from pliant.lab import metrics, score

Array = np.ndarray


def test_binary_by_hand() -> None:
    # Predicted 1, 1, 0, 1, 0: two true positives, one false positive, one false negative, one true negative.
    targets = [1, 1, 1, 0, 0]
    scores = [0.9, 0.8, 0.3, 0.6, 0.1]
    got = score.score(targets, scores, "binary")
    assert tuple(got) == score.METRICS
    assert got["accuracy"] == pytest.approx(3 / 5)
    assert got["precision"] == pytest.approx(2 / 3)
    assert got["recall"] == pytest.approx(2 / 3)
    assert got["f1"] == pytest.approx(2 / 3)
    # F1 of class 0: one hit, support 2, predicted 2.
    assert got["f1_weighted"] == pytest.approx((3 * 2 / 3 + 2 * 1 / 2) / 5)
    # Of the 6 (positive, negative) pairs only (0.3, 0.6) is the wrong way round.
    assert got["auc"] == pytest.approx(5 / 6)
    assert got["loss"] == pytest.approx(-sum(map(math.log, [0.9, 0.8, 0.3, 0.4, 0.9])) / 5)
    assert score.confusion(targets, scores, "binary", 2).tolist() == [[1, 1], [1, 2]]


def test_multiclass_by_hand() -> None:
    targets = [0, 0, 1, 2]
    scores = [[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.2, 0.5, 0.3], [0.3, 0.3, 0.4]]
    got = score.score(targets, scores, "multiclass")
    counts = score.confusion(targets, scores, "multiclass", 3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert counts.dtype == np.int64
    assert got["accuracy"] == pytest.approx(3 / 4)
    assert got["precision"] == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert got["recall"] == pytest.approx((1 / 2 + 1 + 1) / 3)
    assert got["f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert got["f1_weighted"] == pytest.approx((2 * 2 / 3 + 2 / 3 + 1) / 4)
    # One against the rest: class 0 ranks 2 of its 4 pairs right, class 1 2 of 3, class 2 3 of 3.
    assert got["auc"] == pytest.approx((2 / 4 + 2 / 3 + 1) / 3)
    assert got["loss"] == pytest.approx(-sum(map(math.log, [0.7, 0.1, 0.5, 0.4])) / 4)


def _softmax(logits: Array) -> Array:
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("n_classes", [2, 3, 10])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_multiclass_against_scikit_learn(n_classes: int, dtype: type) -> None:
    rng = np.random.default_rng(n_classes)
    for n in (40, 200):
        truth = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)])
        p = _softmax(rng.normal(size=(n, n_classes)) * 2).astype(dtype)
        got = score.score(truth, p, "multiclass")
        predicted = p.argmax(axis=1)
        exact = p.astype(np.float64) / p.astype(np.float64).sum(axis=1, keepdims=True)
        for name, function in (("precision", oracle.precision_score), ("recall", oracle.recall_score)):
            want = function(truth, predicted, average="macro", zero_division=0)
            assert got[name] == pytest.approx(want), name
        assert got["accuracy"] == pytest.approx(oracle.accuracy_score(truth, predicted))
        assert got["f1"] == pytest.approx(oracle.f1_score(truth, predicted, average="macro"))
        assert got["f1_weighted"] == pytest.approx(oracle.f1_score(truth, predicted, average="weighted"))
        assert got["loss"] == pytest.approx(oracle.log_loss(truth, exact, labels=range(n_classes)), rel=1e-5)
        assert got["auc"] == pytest.approx(np.mean([_area_by_pairs(truth == c, p[:, c]) for c in range(n_classes)]))
        counts = score.confusion(truth, p, "multiclass", n_classes)
        np.testing.assert_array_equal(counts, oracle.confusion_matrix(truth, predicted))
        assert got["accuracy"] == pytest.approx(np.trace(counts) / counts.sum())


def test_binary_against_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 114)
    p = np.round(rng.random(114), 1).astype(np.float32)
    got = score.score(truth, p, "binary")
    predicted = p > 0.5
    assert got["precision"] == pytest.approx(oracle.precision_score(truth, predicted))
    assert got["recall"] == pytest.approx(oracle.recall_score(truth, predicted))
    assert got["f1"] == pytest.approx(oracle.f1_score(truth, predicted))
    assert got["f1_weighted"] == pytest.approx(oracle.f1_score(truth, predicted, average="weighted"))
    assert got["auc"] == pytest.approx(_area_by_pairs(truth == 1, p))


def _area_by_pairs(positive: Array, scores: Array) -> float:
    """The definition: how often a positive outranks a negative, ties counting half."""
    above = scores[positive][:, None] - scores[~positive][None, :]
    return float(((above > 0) + 0.5 * (above == 0)).mean())


def test_binary_agrees_with_two_classes_in_what_means_the_same() -> None:
    rng = np.random.default_rng(1)
    truth, p = rng.integers(0, 2, 50), rng.random(50)
    one = score.score(truth, p, "binary")
    two = score.score(truth, np.stack([1 - p, p], axis=1), "multiclass")
    for name in ("accuracy", "f1_weighted", "auc", "loss"):
        assert one[name] == pytest.approx(two[name])


def test_a_tie_goes_to_the_lower_class() -> None:
    assert score.confusion([1, 1], [0.5, 0.5000001], "binary", 2).tolist() == [[0, 0], [1, 1]]
    assert score.confusion([2], [[0.4, 0.2, 0.4]], "multiclass", 3).tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]


def test_class_that_is_never_predicted_counts_as_zero() -> None:
    got = score.score([1, 1, 0], [0.1, 0.2, 0.3], "binary")
    assert (got["precision"], got["recall"], got["f1"]) == (0.0, 0.0, 0.0)
    assert got["accuracy"] == pytest.approx(1 / 3)


def test_absent_class() -> None:
    """The area is undefined; macro means run over the classes of the truth, whatever was predicted."""
    p = [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.2, 0.7]]
    got = score.score([0, 1, 1], p, "multiclass")
    assert math.isnan(got["auc"])
    assert got["recall"] == pytest.approx((1 + 1 / 2) / 2)
    assert got["precision"] == pytest.approx(1.0)
    assert all(math.isfinite(got[name]) for name in score.METRICS if name not in ("auc", "average_precision"))
    only = score.score([1, 1], [0.7, 0.8], "binary")
    assert math.isnan(only["auc"])
    assert only["f1"] == 1.0


def test_loss_is_clipped() -> None:
    got = score.score([1, 0], [0.0, 1.0], "binary")
    assert got["loss"] == pytest.approx(-math.log(score.LOSS_CLIP))
    perfect = score.score([1, 0], [1.0, 0.0], "binary")["loss"]
    assert perfect == pytest.approx(score.LOSS_CLIP, rel=1e-5)
    assert perfect > 0


def test_half_precision_and_float_targets_are_accepted() -> None:
    rng = np.random.default_rng(2)
    p = _softmax(rng.normal(size=(60, 30)) * 3).astype(np.float16)
    truth = np.concatenate([np.arange(30), rng.integers(0, 30, 30)])
    got = score.score(truth.astype(np.float32), p, "multiclass")
    assert all(math.isfinite(value) for value in got.values())
    assert all(type(value) is float for value in got.values())
    assert score.score([True, False], [0.9, 0.2], "binary")["accuracy"] == 1.0


def test_vocabulary() -> None:
    assert set(score.METRICS) == {
        *("accuracy", "precision", "recall", "f1", "precision_weighted", "f1_weighted"),
        *("auc", "average_precision", "loss", "brier", "ece"),
    }
    assert set(score.HIGHER_IS_BETTER) == {*score.METRICS, *metrics.DETECTION} == set(metrics.UNITS)
    assert [name for name in score.METRICS if not score.HIGHER_IS_BETTER[name]] == ["loss", "brier", "ece"]
    assert set(score.METRICS) > metrics.COUNTED
    assert all(hasattr(score, name) for name in score.__all__)


TWO = [[0.5, 0.5], [0.5, 0.5]]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: score.score([0, 1], TWO, "binary"), r"shape \(2, 2\); expected \(n,\)"),
        (lambda: score.score([0, 1], [[0.5], [0.5]], "binary"), r"Squeeze"),
        (lambda: score.score([0, 1], [0.5, 0.5], "multiclass"), r"expected \(n, C\)"),
        (lambda: score.score([0, 1], [[1.0], [1.0]], "multiclass"), r"C >= 2"),
        (lambda: score.score([0, 1, 0], TWO, "multiclass"), r"Targets of shape \(3,\)"),
        (lambda: score.score(TWO, TWO, "multiclass"), r"one-hot"),
        (lambda: score.score([], [], "binary"), r"no examples"),
        (lambda: score.score([], np.zeros((0, 3)), "multiclass"), r"no examples"),
        (lambda: score.score([0, 1], [0.5, math.nan], "binary"), r"1 of 2 scores are NaN.*example 1"),
        (lambda: score.score([0, 1], [math.inf, 0.5], "binary"), r"NaN or infinite"),
        (lambda: score.score([0, 1], [-3.0, 0.5], "binary"), r"from -3 to 0.5.*sigmoid"),
        (lambda: score.score([0, 1], [[2.0, -1.0], [0.0, 1.0]], "multiclass"), r"softmax"),
        (lambda: score.score([0, 1], [[0.9, 0.9], [0.5, 0.5]], "multiclass"), r"example 0 sum to 1.8"),
        (lambda: score.score([0, 2], [0.5, 0.5], "binary"), r"from 0 to 2; expected labels 0 ... 1"),
        (lambda: score.score([-1, 1], TWO, "multiclass"), r"from -1 to 1"),
        (lambda: score.score([0, 2], TWO, "multiclass"), r"labels 0 ... 1"),
        (lambda: score.score([0.0, 0.9], TWO, "multiclass"), r"whole numbers"),
        (lambda: score.score([0.0, math.nan], TWO, "multiclass"), r"whole numbers"),
        (lambda: score.score([0.0, math.inf], TWO, "multiclass"), r"whole numbers"),
        (lambda: score.score(["a", "b"], TWO, "multiclass"), r"Encode names"),
        (lambda: score.score([0, 1], ["a", "b"], "binary"), r"dtype <U1"),
        (lambda: score.confusion([0, 1], TWO, "multiclass", 3), r"3 classes was asked for"),
        (lambda: score.confusion([0, 1], [0.1, 0.2], "binary", 3), r"2 for a binary"),
    ],
)
def test_bad_input_is_explained(call: Callable[[], object], says: str) -> None:
    with pytest.raises(score.ScoreError, match=says) as caught:
        call()
    assert isinstance(caught.value, PliantError)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)


def test_unknown_task() -> None:
    with pytest.raises(UnknownNameError, match="multiclass"):
        score.score([0], [0.5], "multi-class")  # type: ignore[arg-type]


# --- average precision, calibration, several labels -------------------------------------------------------------------


def test_average_precision_by_hand() -> None:
    """Ranked: hit, miss, hit, miss, miss, hit. Precisions at the hits 1, 2/3, 1/2, at recalls 1/3, 2/3, 1."""
    present, values = [1, 0, 1, 0, 0, 1], [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    assert score.average_precision(present, values) == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)
    # Recalls 0 ... 0.3 see precision 1, 0.4 ... 0.6 see 2/3, 0.7 ... 1 see 1/2.
    assert score.average_precision(present, values, "11 points") == pytest.approx((4 * 1 + 3 * 2 / 3 + 4 / 2) / 11)
    assert math.isnan(score.average_precision([0, 0], [0.1, 0.2]))


def test_average_precision_raises_precision_and_ignores_the_order_of_ties() -> None:
    # Miss first: precision 0, then 1/2, 2/3 - raised to 2/3 everywhere; scikit-learn's plain sum would say 7/12.
    assert score.average_precision([0, 1, 1], [0.9, 0.8, 0.7]) == pytest.approx(2 / 3)
    assert oracle.average_precision_score([0, 1, 1], [0.9, 0.8, 0.7]) == pytest.approx(7 / 12)
    tied = [0.5, 0.5, 0.5, 0.2]
    assert score.average_precision([1, 0, 0, 1], tied) == score.average_precision([0, 0, 1, 1], tied)


def test_where_precision_only_falls_it_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    values = rng.permutation(500) / 500
    present = values > 0.4
    assert score.average_precision(present, values) == pytest.approx(oracle.average_precision_score(present, values))


def test_brier_against_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    p, y = rng.random(200), rng.integers(0, 2, 200)
    assert score.score(y, p, "binary")["brier"] == pytest.approx(oracle.brier_score_loss(y, p))
    q = _softmax(rng.normal(size=(200, 4)))
    labels = rng.integers(0, 4, 200)
    assert score.score(labels, q, "multiclass")["brier"] == pytest.approx(((q - np.eye(4)[labels]) ** 2).sum(axis=1).mean())


def test_calibration_error_by_hand() -> None:
    # Confidences 0.9, 0.9 (one right), 0.6 (right), 0.75 (wrong): three bins of fifteen.
    targets, values = [1, 0, 1, 1], [0.9, 0.9, 0.6, 0.25]
    expected = (2 * abs(0.5 - 0.9) + abs(1 - 0.6) + abs(0 - 0.75)) / 4
    assert score.score(targets, values, "binary")["ece"] == pytest.approx(expected)
    assert score.reliability(targets, values, "binary") == [
        (pytest.approx(0.6), 1.0, 1),
        (pytest.approx(0.75), 0.0, 1),
        (pytest.approx(0.9), 0.5, 2),
    ]


def test_a_calibrated_model_has_next_to_no_error_and_an_overconfident_one_has() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(0, 1, 50_000)
    y = (rng.random(50_000) < p).astype(int)
    assert score.score(y, p, "binary")["ece"] < 0.01
    assert score.score(y, np.where(p > 0.5, 0.99, 0.01), "binary")["ece"] > 0.2
    assert sum(n for _, _, n in score.reliability(y, p, "binary")) == 50_000


def test_several_labels_against_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 2, (300, 5)), rng.random((300, 5))
    got, predicted = score.score(y, p, "multilabel"), p > 0.5
    assert tuple(got) == score.METRICS
    assert got["accuracy"] == pytest.approx((predicted == y).mean())
    for name, function in (("precision", oracle.precision_score), ("recall", oracle.recall_score), ("f1", oracle.f1_score)):
        assert got[name] == pytest.approx(function(y, predicted, average="macro"))
    assert got["f1_weighted"] == pytest.approx(oracle.f1_score(y, predicted, average="weighted"))
    assert got["precision_weighted"] == pytest.approx(oracle.precision_score(y, predicted, average="weighted"))
    assert got["auc"] == pytest.approx(oracle.roc_auc_score(y, p, average="macro"))
    assert got["loss"] == pytest.approx(oracle.log_loss(y.ravel(), p.ravel()))
    assert got["average_precision"] == pytest.approx(np.mean([score.average_precision(y[:, c], p[:, c]) for c in range(5)]))


def test_ignored_labels_change_nothing() -> None:
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 2, (100, 2)), rng.random((100, 2))
    more = np.concatenate([y, [[255, 255], [255, 255]]])
    assert score.score(more, np.concatenate([p, [[0.9, 0.1], [0.2, 0.8]]]), "multilabel") == pytest.approx(
        score.score(y, p, "multilabel")
    )


@pytest.mark.parametrize(
    ("targets", "values", "expected"),
    [
        ([0, 1], [[0.5, 0.5]] * 2, r"expected both as \(n, C\)"),
        ([[0, 2]], [[0.5, 0.5]], "expected 0 .absent., 1"),
        ([[0, 1]], [[0.5, 1.5]], "Logits need a sigmoid"),
        ([[0, 1]], [[0.5, math.nan]], "no finite numbers"),
        ([[255, 255]], [[0.5, 0.5]], "not all of them the last"),
    ],
)
def test_labels_that_cannot_be_scored(targets: object, values: object, expected: str) -> None:
    with pytest.raises(score.ScoreError, match=expected):
        score.score(targets, values, "multilabel")


def test_weighted_precision_against_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    q, y = _softmax(rng.normal(size=(200, 4))), rng.integers(0, 4, 200)
    expected = oracle.precision_score(y, q.argmax(axis=1), average="weighted", zero_division=0)
    assert score.score(y, q, "multiclass")["precision_weighted"] == pytest.approx(expected)


def test_several_labels_have_no_confusion_matrix() -> None:
    with pytest.raises(score.ScoreError, match="no confusion matrix"):
        score.confusion([[0, 1]], [[0.5, 0.5]], "multilabel", 2)
