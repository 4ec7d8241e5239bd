"""From a trial's stored predictions to how its scores vary with its test examples.

Accuracy, loss and squared error are means of one number an example, so their covariances follow without resampling. Every
other metric is computed again on 1000 bootstrap resamples of the examples, the same resamples for every trial. The
definitions are those of `pliant.lab.score`, with a weight an example; tests hold the two to each other.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from pliant.errors import unknown
from pliant.lab.metrics import METRICS
from pliant.lab.verdict.crossed import Sampled, from_contributions, from_replicates, identity, resamples
from pliant.lab.verdict.words import VerdictError

__all__ = ["Predictions"]

Floats = npt.NDArray[np.float64]
Task = Literal["binary", "multiclass", "multilabel"]

IGNORED = 255
LOSS_CLIP = 1e-7
ECE_BINS = 15
_KEPT = 20_000
"""Units up to which their draws are kept, a byte each: 20 MB."""
_CHUNK = 2**22


@dataclass(frozen=True, eq=False)
class Predictions:
    """What one trial said about its test examples, as a store keeps it.

    `index`: int, shape (n,), which examples of the data set. `target`: shape (n,), labels; (n, C) of 0, 1 and 255 (counts
    neither way) for "multilabel". `score`: probabilities, shape (n,) of class 1 for "binary", else (n, C). `groups`: shape
    (n,), examples that belong together (a patient's) and are drawn together; None if all are independent.
    """

    index: npt.NDArray[np.integer]
    target: npt.NDArray[np.integer]
    score: npt.NDArray[np.floating]
    task: Task
    groups: npt.NDArray[np.generic] | None = None

    @functools.cached_property
    def key(self) -> str:
        return identity(self.index, self.target, *([] if self.groups is None else [self.groups]))

    def sampled(self, metric: str) -> Sampled:
        """How this trial's `metric` varies with the examples.

        Raises:
            UnknownNameError: there is no such metric. VerdictError: fewer than 2 independent examples.
        """
        if metric not in METRICS:
            raise unknown("metric", metric, METRICS)
        single = self.contributions(metric)
        if single is not None:
            return from_contributions(single, self.key, self.groups)
        units, which = len(self.target), None
        if self.groups is not None:
            _, which = np.unique(self.groups, return_inverse=True)
            units = int(which.max()) + 1
        if units < 2:
            raise VerdictError(f"There is {units} independent test example; expected at least 2, since one has no spread.")
        replicates = [self.weighted(metric, w if which is None else w[:, which]) for w in _weights(units)]
        return from_replicates(np.concatenate(replicates), units, self.key)

    def contributions(self, metric: str) -> Floats | None:
        """The number of each example whose mean is the metric, shape (n,); None if the metric is no such mean."""
        if self.task == "multilabel" or metric not in ("accuracy", "loss", "brier"):
            return None
        truth, p = self._classes
        if metric == "accuracy":
            return np.asarray((p.argmax(axis=1) == truth).astype(np.float64))
        if metric == "loss":
            return np.asarray(-np.log(np.clip(p[np.arange(len(truth)), truth], LOSS_CLIP, 1 - LOSS_CLIP)))
        squared = ((p - np.eye(p.shape[1])[truth]) ** 2).sum(axis=1)
        return np.asarray(squared / 2 if self.task == "binary" else squared)

    def weighted(self, metric: str, weights: npt.ArrayLike) -> Floats:
        """The metric with each example counted so many times; weights of shape (B, n) -> (B,). nan where undefined."""
        w = np.asarray(weights, np.float64)
        single = self.contributions(metric)
        if single is not None:
            return np.asarray(w @ single / w.sum(axis=1))
        present, predicted, counted, probability = self._labels
        if metric in ("auc", "average_precision"):
            curve = _area if metric == "auc" else _average_precision
            classes = [1] if self.task == "binary" else range(present.shape[1])
            rows = [curve(present[:, c], probability[:, c], w * counted[:, c]) for c in classes]
            return np.asarray(np.mean(rows, axis=0))
        if metric == "ece":
            return self._calibration_error(w)
        if self.task == "multilabel" and metric in ("accuracy", "loss", "brier"):
            given = np.clip(np.where(present, probability, 1 - probability), LOSS_CLIP, 1 - LOSS_CLIP)
            each = {"accuracy": predicted == present, "loss": -np.log(given), "brier": (probability - present) ** 2}[metric]
            return np.asarray(w @ (each * counted).sum(axis=1) / (w @ counted.sum(axis=1)))
        return self._counted(metric, w)

    def _counted(self, metric: str, w: Floats) -> Floats:
        present, predicted, counted, _ = self._labels
        support, found, hits = (w @ m.astype(np.float64) for m in (present & counted, predicted & counted, present & predicted))
        top, bottom = {
            "precision": (hits, found),
            "recall": (hits, support),
            "f1": (2 * hits, support + found),
        }[metric.removesuffix("_weighted")]
        by_class = np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)
        if metric.endswith("_weighted"):
            return np.asarray((by_class * support).sum(axis=1) / np.maximum(support.sum(axis=1), 1))
        # Which classes take part is the data's doing; a resample that misses one must not change what is averaged.
        averaged = np.array([1]) if self.task == "binary" else np.flatnonzero((present & counted).any(axis=0))
        return np.asarray(by_class[:, averaged].mean(axis=1)) if averaged.size else np.zeros(len(w))

    def _calibration_error(self, w: Floats) -> Floats:
        if self.task == "multilabel":
            present, predicted, counted, probability = self._labels
            sure, right = np.maximum(probability, 1 - probability), predicted == present
        else:
            truth, p = self._classes
            sure, right = p.max(axis=1)[:, None], (p.argmax(axis=1) == truth)[:, None]
            counted = np.ones_like(right)
        which = np.clip(np.ceil(sure * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)
        excess = (right - sure) * counted
        bins = np.stack([(excess * (which == b)).sum(axis=1) for b in range(ECE_BINS)], axis=1)
        return np.asarray(np.abs(w @ bins).sum(axis=1) / (w @ counted.sum(axis=1)))

    @functools.cached_property
    def _classes(self) -> tuple[npt.NDArray[np.int64], Floats]:
        p = np.asarray(self.score, np.float64)
        return np.asarray(self.target, np.int64), np.stack([1 - p, p], axis=1) if self.task == "binary" else p

    @functools.cached_property
    def _labels(self) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], npt.NDArray[np.bool_], Floats]:
        """Present, predicted, counted and probability for each example and class, all of shape (n, C)."""
        if self.task == "multilabel":
            p = np.asarray(self.score, np.float64)
            present, counted = np.asarray(self.target) == 1, np.asarray(self.target) != IGNORED
            return present, (p > 0.5) & counted, counted, p
        truth, p = self._classes
        known = np.arange(p.shape[1])
        return truth[:, None] == known, p.argmax(axis=1)[:, None] == known, np.ones(p.shape, np.bool_), p


def _weights(units: int) -> Iterator[Floats]:
    """How often each resample draws each unit, some resamples at a time: all at once would not fit for large test parts."""
    size = max(1, _CHUNK // units)
    drawn = iter(_counts(units)) if units <= _KEPT else _drawn(units)
    while part := list(itertools.islice(drawn, size)):
        yield np.array(part, np.float64)


def _drawn(units: int) -> Iterator[npt.NDArray[np.intp]]:
    return (np.bincount(indices, minlength=units) for indices in resamples(units))


@functools.lru_cache(maxsize=4)
def _counts(units: int) -> npt.NDArray[np.unsignedinteger]:
    """All of them, shape (replicates, units). A verdict takes the same ones for each trial and metric, and drawing them is most
    of its time."""
    whole = np.array(list(_drawn(units)))
    # Of a unit that is drawn once on average more than 255 draws do not happen; were they to, a byte must not hide it.
    return whole.astype(np.uint8 if whole.max() < 256 else np.uint32)


def _ties(values: Floats) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """The order from the highest score down, and where each run of equal scores begins."""
    order = np.argsort(-values, kind="stable")
    return order, np.append(0, np.flatnonzero(np.diff(values[order])) + 1)


def _sums(columns: Sequence[Floats], order: npt.NDArray[np.intp], starts: npt.NDArray[np.intp]) -> list[Floats]:
    return [np.add.reduceat(c[:, order], starts, axis=1) for c in columns]


def _area(present: npt.NDArray[np.bool_], values: Floats, w: Floats) -> Floats:
    hits, misses = _sums([w * present, w * ~present], *_ties(values))
    below = misses.sum(axis=1, keepdims=True) - np.cumsum(misses, axis=1)
    pairs = hits.sum(axis=1) * misses.sum(axis=1)
    ordered = (hits * (below + misses / 2)).sum(axis=1)
    return np.asarray(np.divide(ordered, pairs, out=np.full(len(w), np.nan), where=pairs > 0))


def _average_precision(present: npt.NDArray[np.bool_], values: Floats, w: Floats) -> Floats:
    hits, every = _sums([w * present, w], *_ties(values))
    found, seen = np.cumsum(hits, axis=1), np.cumsum(every, axis=1)
    precision = np.divide(found, seen, out=np.zeros_like(found), where=seen > 0)
    highest = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    total = hits.sum(axis=1)
    return np.asarray(np.divide((hits * highest).sum(axis=1), total, out=np.full(len(w), np.nan), where=total > 0))
