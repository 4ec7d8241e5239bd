"""Detectors, one network a file. To add one: a new file, its name in ``ALL`` and its function in :func:`find`.

A detector is built by ``f(activation, *, classes, anchors=None, size=..., weights="", sites="all", ...) -> Detector``.
``activation()`` gives a fresh activation for one call site; ``classes`` is the number of classes, without a background. What a
detector takes and gives is said in :class:`pliant.lab.models.detection.detector.Detector`, and is the same for all.
"""

from __future__ import annotations

from collections.abc import Callable

from pliant.errors import unknown
from pliant.lab.models.detection.anchors import cluster, mean_iou
from pliant.lab.models.detection.detector import Detector
from pliant.lab.models.detection.weights import Origin, WeightsError

ALL = ("faster_rcnn", "fcos", "yolov2")

VERSIONS = dict.fromkeys(ALL, 1) | {}
"""Bumped by hand, on the right, when a change alters the numbers that a detector gives; part of a trial's identity."""


ANCHORED = frozenset({"yolov2"})
"""Those that are given anchors, clustered from the boxes they are trained on."""


def find(name: str) -> Callable[..., Detector]:
    """The function that builds a detector, by name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in ALL:
        raise unknown("detector", name, ALL)
    # Only when asked for: torchvision takes as long to import as all the rest of the lab, and most studies have no detector.
    from pliant.lab.models.detection.faster_rcnn import faster_rcnn
    from pliant.lab.models.detection.fcos import fcos
    from pliant.lab.models.detection.yolov2 import yolov2

    known: dict[str, Callable[..., Detector]] = {"faster_rcnn": faster_rcnn, "fcos": fcos, "yolov2": yolov2}
    return known[name]


__all__ = [
    "ALL",
    "ANCHORED",
    "VERSIONS",
    "Detector",
    "Origin",
    "WeightsError",
    "cluster",
    "find",
    "mean_iou",
]
