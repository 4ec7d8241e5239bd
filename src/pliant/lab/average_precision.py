"""Average precision of detections, as COCO and as PASCAL VOC define it.

The two differ in almost everything and share a name, so every number here carries its own:

==============  ===========================================================================================================
``ap``          COCO: mean over classes and over the IoU thresholds 0.50, 0.55 ... 0.95 of the precision at 101 recalls
``ap50``        COCO at IoU 0.50 alone; ``ap75`` at 0.75
``ap50_voc``    VOC from 2010 on: IoU 0.50, the area under the whole curve
``ap50_voc07``  VOC 2007: IoU 0.50, the mean of the precision at recalls 0, 0.1 ... 1
==============  ===========================================================================================================

How a detection meets an object, COCO: of the objects of its class that are still free the one it overlaps most, where one that
counts goes before one that does not (a crowd, or out of the range of areas); a crowd may be met any number of times, and its
overlap is the share of the detection inside it; at most 100 detections a class and image. VOC: the object it overlaps most,
taken or not; the second to meet an object is wrong; one that meets a "difficult" object counts neither way, and so does the
object.

Which detection meets which object depends on one image alone, so it is found once (:func:`match`); what depends on all images,
the order of scores, is cheap and can be done again for each resample of the images, which is what a verdict needs and what
the usual libraries, which return totals, do not offer. pycocotools is the reference in the tests.

Sources: Lin et al., "Microsoft COCO" (2014), and its evaluation code; Everingham et al., "The PASCAL Visual Object Classes
Challenge" (2010), section 4.2, and the VOC2007 and VOC2012 kits.
"""

from __future__ import annotations

import functools
import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pliant.errors import PliantError, unknown
from pliant.lab.metrics import DETECTION

__all__ = ["AREAS", "Detections", "Matches", "PredictionsError", "Truth", "match", "pack", "unpack"]

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

THRESHOLDS: Final = np.linspace(0.5, 0.95, 10)
RECALLS: Final = np.linspace(0.0, 1.0, 101)
MOST: Final = 100
"""Detections of one class in one image that COCO looks at."""
AREAS: Final[Mapping[str, tuple[float, float]]] = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
"""COCO's ranges of the area of an object, in square pixels, both ends included."""

_VOC: Final = len(THRESHOLDS)
"""The column after those of COCO's thresholds."""
_COLUMNS: Final[Mapping[str, slice]] = {
    "ap": slice(0, _VOC),
    "ap50": slice(0, 1),
    "ap75": slice(5, 6),
    "ap50_voc": slice(_VOC, _VOC + 1),
    "ap50_voc07": slice(_VOC, _VOC + 1),
}


class PredictionsError(PliantError, ValueError):
    """Detections or objects that cannot be evaluated."""


@dataclass(frozen=True, eq=False)
class Detections:
    """What a detector found in n images, m boxes in all.

    Args:
        offsets: int64, shape (n + 1,): those of image i are rows offsets[i] to offsets[i + 1].
        boxes: shape (m, 4): left, top, right, bottom in pixels of the image. scores: shape (m,). labels: int, shape (m,).

    Raises:
        PredictionsError: shapes that do not match.
    """

    offsets: npt.NDArray[np.integer]
    boxes: npt.NDArray[np.floating]
    scores: npt.NDArray[np.floating]
    labels: npt.NDArray[np.integer]

    def __post_init__(self) -> None:
        _check(self.offsets, self.boxes, scores=self.scores, labels=self.labels)
        if not (np.isfinite(self.boxes).all() and np.isfinite(self.scores).all()):
            raise PredictionsError("Detections hold boxes or scores that are not finite numbers: the detector has diverged.")

    @classmethod
    def of(cls, found: Sequence[Mapping[str, npt.ArrayLike]]) -> Detections:
        """From one mapping an image, with "boxes" (k, 4), "scores" (k,) and "labels" (k,)."""
        return cls(
            _offsets([len(np.asarray(f["labels"])) for f in found]),
            _joined([f["boxes"] for f in found], np.float32).reshape(-1, 4),
            _joined([f["scores"] for f in found], np.float32),
            _joined([f["labels"] for f in found], np.int16),
        )


@dataclass(frozen=True, eq=False)
class Truth:
    """What is annotated in n images, as :class:`pliant.lab.datasets.Detection` has it: shapes as in :class:`Detections`, and

    Args:
        crowd, difficult: bool, shape (k,). areas: shape (k,), in square pixels, as annotated.
    """

    offsets: npt.NDArray[np.integer]
    boxes: npt.NDArray[np.floating]
    labels: npt.NDArray[np.integer]
    crowd: Flags
    difficult: Flags
    areas: npt.NDArray[np.floating]

    def __post_init__(self) -> None:
        named = {"labels": self.labels, "crowd": self.crowd, "difficult": self.difficult, "areas": self.areas}
        _check(self.offsets, self.boxes, **named)

    @classmethod
    def of(cls, annotated: Sequence[Mapping[str, Any]]) -> Truth:
        """From what ``Detection.truth`` returns for each image."""
        return cls(
            _offsets([len(a["labels"]) for a in annotated]),
            _joined([a["boxes"] for a in annotated], np.float32).reshape(-1, 4),
            _joined([a["labels"] for a in annotated], np.int16),
            _joined([a["iscrowd"] for a in annotated], np.bool_),
            _joined([a["difficult"] for a in annotated], np.bool_),
            _joined([a["area"] for a in annotated], np.float32),
        )


def _offsets(counts: Sequence[int]) -> Indices:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _joined(parts: Sequence[npt.ArrayLike], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    return np.concatenate([np.asarray(p, dtype) for p in parts]) if parts else np.zeros(0, dtype)


def _check(offsets: npt.NDArray[Any], boxes: npt.NDArray[Any], **columns: npt.NDArray[Any]) -> None:
    m = len(boxes)
    wrong = [f"{name} {column.shape}" for name, column in columns.items() if column.shape != (m,)]
    if boxes.shape != (m, 4) or wrong or offsets.ndim != 1 or not len(offsets) or offsets[0] != 0 or offsets[-1] != m:
        raise PredictionsError(
            f"Boxes of shape {boxes.shape} came with {', '.join(wrong) or 'columns of their length'} and offsets that end at "
            f"{offsets[-1] if len(offsets) else 'nothing'}; expected boxes (m, 4), columns (m,) and offsets from 0 to m."
        )


# --- what meets what --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Matches:
    """Which detections are right, at each of COCO's ten thresholds and, in the last column, by VOC's rule.

    Args:
        units: how many images. classes: how many.
        image, label: int64, shape (m,): of each detection. score: float64, shape (m,).
        right, counted: bool, shape (m, 11).
        objects: int64, shape (k, 2): image and class of each object that COCO counts; ``objects_voc`` likewise.
    """

    units: int
    classes: int
    image: Indices
    label: Indices
    score: Floats
    right: Flags
    counted: Flags
    objects: Indices
    objects_voc: Indices

    def by_class(self, metric: str, weights: npt.ArrayLike | None = None) -> Floats:
        """The metric of each class, shape (C,); nan for one without an object that counts.

        Args:
            metric: one of ``metrics.DETECTION``.
            weights: shape (n,): how often each image is counted; default once. Equal scores of one image stay together.

        Raises:
            UnknownNameError: there is no such metric.
        """
        if metric not in _COLUMNS:
            raise unknown("metric of detection", metric, DETECTION)
        columns = _COLUMNS[metric]
        voc = columns.start == _VOC
        w = np.ones(self.units) if weights is None else np.asarray(weights, np.float64)
        objects = self.objects_voc if voc else self.objects
        present = np.bincount(objects[:, 1], w[objects[:, 0]], self.classes)
        found = np.full(self.classes, np.nan)
        for c in np.flatnonzero(present > 0):
            image, right, wrong = self._ranked[c]
            mine = w[image][:, None]
            hits = np.cumsum(mine * right[:, columns], axis=0)
            seen = hits + np.cumsum(mine * wrong[:, columns], axis=0)
            recall, precision = hits / present[c], np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
            found[c] = np.mean([_AREA_UNDER[metric](r, p) for r, p in zip(recall.T, precision.T, strict=True)])
        return found

    def score_of(self, metric: str, weights: npt.ArrayLike | None = None) -> float:
        """The mean over the classes that have an object; nan without any. Arguments and errors as for :meth:`by_class`."""
        each = self.by_class(metric, weights)
        each = each[np.isfinite(each)]
        return float(each.mean()) if each.size else math.nan

    def on(self, metric: str, images: Indices) -> float:
        """The metric on these images, repeats among them: what :func:`pliant.lab.verdict.bootstrap` asks for."""
        return self.score_of(metric, np.bincount(images, minlength=self.units))

    def scores(self) -> dict[str, float]:
        """Every metric of ``metrics.DETECTION``."""
        return {metric: self.score_of(metric) for metric in DETECTION}

    @functools.cached_property
    def _ranked(self) -> list[tuple[Indices, Floats, Floats]]:
        """For each class its detections from the highest score down: image, right and wrong. What comes after the last right
        one changes no average precision and is left out."""
        ranked = []
        order = np.argsort(-self.score, kind="stable")
        for c in range(self.classes):
            rows = order[self.label[order] == c]
            right = self.right[rows]
            end = int(np.flatnonzero(right.any(axis=1)).max(initial=-1)) + 1
            rows, right = rows[:end], right[:end]
            ranked.append((self.image[rows], right.astype(np.float64), (self.counted[rows] & ~right).astype(np.float64)))
        return ranked


def match(found: Detections, truth: Truth, classes: int, area: tuple[float, float] = AREAS["all"]) -> Matches:
    """Find out which detections are right.

    Args:
        classes: C; labels are 0 ... C-1.
        area: objects and free detections outside are not counted by COCO's metrics, see ``AREAS``. VOC's know no areas.

    Raises:
        PredictionsError: the detections are of another number of images, or a label is no class.
    """
    n = len(truth.offsets) - 1
    if len(found.offsets) - 1 != n:
        raise PredictionsError(f"Detections in {len(found.offsets) - 1} images were given for the objects of {n} images.")
    for labels in (found.labels, truth.labels):
        if labels.size and not (labels.min() >= 0 and labels.max() < classes):
            raise PredictionsError(f"Labels run from {labels.min()} to {labels.max()}; expected 0 to {classes - 1}.")
    image = np.repeat(np.arange(n), np.diff(found.offsets))
    # By image and class, the highest score first; equal scores as they came.
    order = np.lexsort((-found.scores.astype(np.float64), found.labels, image))
    image, label = image[order], found.labels[order].astype(np.int64)
    boxes = found.boxes[order].astype(np.float64)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    outside = (areas < area[0]) | (areas > area[1])

    owner = np.repeat(np.arange(n), np.diff(truth.offsets))
    given, true_labels = truth.boxes.astype(np.float64), truth.labels.astype(np.int64)
    ignored = truth.crowd | (truth.areas < area[0]) | (truth.areas > area[1])
    right = np.zeros((len(order), _VOC + 1), bool)
    counted = np.ones((len(order), _VOC + 1), bool)
    counted[:, :_VOC] = ~outside[:, None]

    cells, starts = np.unique(image * classes + label, return_index=True)
    ends = np.append(starts, len(order))[1:]
    targets: dict[int, list[int]] = {}
    for row, cell in enumerate(owner * classes + true_labels):
        targets.setdefault(int(cell), []).append(row)
    for cell, start, end in zip(cells, starts, ends, strict=True):
        counted[start + MOST : end, :_VOC] = False
        rows = np.array(targets.get(int(cell), []), np.int64)
        if not rows.size:
            continue
        mine, voc = slice(start, min(end, start + MOST)), slice(start, end)
        plain, of_crowd = _overlaps(boxes[voc], given[rows])
        overlaps = np.where(truth.crowd[rows], of_crowd, plain)[: mine.stop - start]
        _meet(overlaps, truth.crowd[rows], ignored[rows], right[mine, :_VOC], counted[mine, :_VOC])
        _meet_voc(plain, truth.difficult[rows], right[voc, _VOC], counted[voc, _VOC])
    pairs = np.stack([owner, true_labels], axis=1)
    return Matches(
        n,
        classes,
        image,
        label,
        found.scores[order].astype(np.float64),
        right & counted,
        counted,
        pairs[~ignored],
        pairs[~truth.difficult],
    )


def _overlaps(found: Floats, given: Floats) -> tuple[Floats, Floats]:
    """Intersection over union, and over the found box alone, shape (found, given); 0 where nothing is shared."""
    low = np.maximum(found[:, None, :2], given[None, :, :2])
    high = np.minimum(found[:, None, 2:], given[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    mine, theirs = ((b[:, 2:] - b[:, :2]).prod(axis=1) for b in (found, given))
    union = mine[:, None] + theirs[None] - shared
    whole = np.broadcast_to(mine[:, None], shared.shape)
    zero = np.zeros_like(shared)
    return (
        np.divide(shared, union, out=zero.copy(), where=shared > 0),
        np.divide(shared, whole, out=zero, where=shared > 0),
    )


def _meet(overlaps: Floats, crowd: Flags, ignored: Flags, right: Flags, counted: Flags) -> None:
    """COCO's rule, for the detections of one class in one image from the surest down; fills ``right`` and ``counted``, shape
    (detections, thresholds)."""
    free = np.ones((len(THRESHOLDS), len(crowd)), bool)
    last = len(crowd) - 1
    thresholds = np.arange(len(THRESHOLDS))
    for d in np.flatnonzero(overlaps.max(axis=1) >= THRESHOLDS[0]):
        usable = (overlaps[d] >= THRESHOLDS[:, None]) & (free | crowd)
        good = usable & ~ignored
        # Objects that count go first; of equal overlaps the last one wins, as in COCO's loop.
        usable = np.where(good.any(axis=1, keepdims=True), good, usable)
        best = last - np.where(usable, overlaps[d], -1.0)[:, ::-1].argmax(axis=1)
        met = usable.any(axis=1)
        free[thresholds[met], best[met]] = False
        right[d] = met & ~ignored[best]
        counted[d] = np.where(met, ~ignored[best], counted[d])


def _meet_voc(overlaps: Floats, difficult: Flags, right: Flags, counted: Flags) -> None:
    """VOC's rule; fills ``right`` and ``counted``, shape (detections,)."""
    taken = np.zeros(len(difficult), bool)
    best = overlaps.argmax(axis=1)
    for d in np.flatnonzero(overlaps.max(axis=1) >= THRESHOLDS[0]):
        met = best[d]
        counted[d] = not difficult[met]
        right[d] = not difficult[met] and not taken[met]
        taken[met] = True


# --- areas under a curve ----------------------------------------------------------------------------------------------


def _falling(precision: Floats) -> Floats:
    """Each value raised to the highest at its recall or beyond."""
    return np.maximum.accumulate(precision[::-1])[::-1]


def _at_recalls(recall: Floats, precision: Floats, wanted: Floats) -> float:
    """The mean of the precision at some recalls, 0 where a recall is never reached."""
    at = np.searchsorted(recall, wanted, side="left")
    return float(np.append(_falling(precision), 0.0)[at].mean())


def _coco(recall: Floats, precision: Floats) -> float:
    return _at_recalls(recall, precision, RECALLS)


def _voc07(recall: Floats, precision: Floats) -> float:
    # 3 / 10 must not lie above a recall of 0.3 by rounding.
    return _at_recalls(recall, precision, np.arange(11) / 10 - 1e-12)


def _voc(recall: Floats, precision: Floats) -> float:
    return float((np.diff(recall, prepend=0.0) * _falling(precision)).sum()) if recall.size else 0.0


_AREA_UNDER: Final = {"ap": _coco, "ap50": _coco, "ap75": _coco, "ap50_voc": _voc, "ap50_voc07": _voc07}


# --- kept in a file ---------------------------------------------------------------------------------------------------


def pack(index: npt.NDArray[np.integer], found: Detections, truth: Truth) -> bytes:
    """The detections of a test part and what they are evaluated against, as a compressed ``.npz`` without pickles. The same
    content gives the same bytes.

    Args:
        index: shape (n,), which images of the data set these are.
    """
    arrays = {"index": np.asarray(index, np.int64)}
    arrays |= {f"found_{name}": value for name, value in vars(found).items()}
    arrays |= {f"true_{name}": value for name, value in vars(truth).items()}
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    return stream.getvalue()


def unpack(content: bytes) -> tuple[Indices, Detections, Truth]:
    """What :func:`pack` was given.

    Raises:
        PredictionsError: the content is not such a file.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        found = {k.removeprefix("found_"): v for k, v in arrays.items() if k.startswith("found_")}
        truth = {k.removeprefix("true_"): v for k, v in arrays.items() if k.startswith("true_")}
        return arrays["index"], Detections(**found), Truth(**truth)
    except (ValueError, KeyError, TypeError, OSError, zipfile.BadZipFile) as error:
        raise PredictionsError(f"These are no stored detections: {error}. Delete the trial; it is then run again.") from None
