"""Anchors from the boxes of the training images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pliant.errors import DomainError

__all__ = ["cluster", "mean_iou"]

_ROUNDS = 300
_STARTS = 8


def cluster(shapes: ArrayLike, count: int = 5, *, seed: int = 0) -> tuple[tuple[float, float], ...]:
    """Anchors by k-means with the distance 1 - IoU between boxes laid on one corner.

    The best of eight starts, by mean IoU, each from ``count`` different boxes; a centre is the mean of the widths and heights
    of its boxes. The same boxes in the same order give the same anchors.

    Args:
        shapes: (n, 2), width and height of each box in any unit; as fractions of its image for YOLOv2.
        count: number of anchors. seed: of the starts.

    Returns:
        ``count`` pairs (width, height) in the unit of ``shapes``, smallest area first.

    Raises:
        DomainError: fewer different boxes than anchors, or a side that is not positive and finite.

    Source: Redmon & Farhadi (2017), "YOLO9000: Better, Faster, Stronger", section 2.
    """
    boxes = _checked(shapes)
    distinct = np.unique(boxes, axis=0)
    if count < 1 or len(distinct) < count:
        raise DomainError(
            f"cluster was asked for {count} anchors from {len(distinct)} different shapes of boxes; expected at least one "
            "anchor and no fewer shapes than anchors. Ask for fewer anchors, or use more training images."
        )
    draw = np.random.default_rng(seed)
    starts = [distinct[draw.choice(len(distinct), count, replace=False)] for _ in range(_STARTS)]
    centres = max((_settle(boxes, start) for start in starts), key=lambda found: mean_iou(boxes, found))
    return tuple((float(w), float(h)) for w, h in centres[np.argsort(centres.prod(axis=1), kind="stable")])


def mean_iou(shapes: ArrayLike, anchors: ArrayLike | Sequence[tuple[float, float]]) -> float:
    """Mean over boxes of the IoU with the best anchor, both laid on one corner; 1 is a perfect fit.

    The paper reports 0.61 for five anchors on VOC.
    """
    return float(_iou(_checked(shapes), _checked(anchors)).max(axis=1).mean())


def _settle(boxes: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    nearest = np.full(len(boxes), -1)
    # With this distance the mean does not minimise the sum, so the rounds need not end by themselves.
    for _ in range(_ROUNDS):
        before, nearest = nearest, _iou(boxes, centres).argmax(axis=1)
        if np.array_equal(before, nearest):
            break
        counts = np.bincount(nearest, minlength=len(centres))
        sums = np.stack([np.bincount(nearest, boxes[:, side], len(centres)) for side in (0, 1)], axis=1)
        centres = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centres)
    return centres


def _iou(boxes: NDArray[np.float64], anchors: NDArray[np.float64]) -> NDArray[np.float64]:
    common = np.minimum(boxes[:, None], anchors).prod(axis=2)
    iou: NDArray[np.float64] = common / (boxes.prod(axis=1)[:, None] + anchors.prod(axis=1) - common)
    return iou


def _checked(shapes: ArrayLike) -> NDArray[np.float64]:
    boxes = np.asarray(shapes, np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 2 or not len(boxes) or not (np.isfinite(boxes) & (boxes > 0)).all():
        raise DomainError(
            f"Expected widths and heights of boxes, positive and finite, of shape (n, 2), but was given shape {boxes.shape}"
            f"{'' if boxes.ndim != 2 else ' or a side that is not positive'}. Leave out boxes without area."
        )
    return boxes
