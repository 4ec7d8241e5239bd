"""What the detectors of a study found, as the report shows it: average precision by class, a few images with boxes, what was
swapped and where the weights are from. Read from the store; no torch."""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import PIL.Image

from pliant.lab.average_precision import Detections, Matches, Truth, match, unpack
from pliant.lab.datasets import Detection
from pliant.lab.datasets.arrays import DataError
from pliant.lab.report import Box, Detected, Scene
from pliant.lab.store import DETECTIONS, Store
from pliant.lab.verdict import Sampled, bootstrap, identity

__all__ = ["Found", "detected"]

SCENES: Final = 4
SIDE: Final = 360
"""Pixels of the longer side of an image on the page."""
LEAST: Final = 0.3
"""Boxes of a lower score are not drawn."""
MOST: Final = 12
"""Boxes drawn in one image, at most."""


class Found:
    """The stored detections of trials, each read and matched once and kept: a verdict asks for one metric after the other."""

    def __init__(self, store: Store, classes: int) -> None:
        self._store = store
        self._classes = classes
        self.of = functools.cache(self._of)

    def _of(self, key: str) -> tuple[Matches, str] | None:
        saved = self._store.trial(key).read(DETECTIONS)
        if saved is None:
            return None
        index, found, truth = unpack(saved)
        return match(found, truth, self._classes), identity(index, truth.offsets, truth.boxes, truth.labels)

    def sampled(self, key: str, metric: str) -> Sampled | None:
        """How a trial's test score varies with the test images; None where it stored no detections."""
        kept = self.of(key)
        if kept is None:
            return None
        matches, images = kept
        return bootstrap(functools.partial(matches.on, metric), matches.units, key=images)


def detected(
    store: Store, data: Detection, rows: Sequence[Mapping[str, Any]], found: Found, metrics: Sequence[str]
) -> Detected:
    """Everything the report shows of detectors alone.

    Args:
        rows: of the study; those of trials that are done or diverged are read.
        metrics: whose averages by class are shown.
    """
    scored = [row for row in rows if row["outcome"] in ("done", "diverged")]
    by_class: dict[str, dict[str, list[float | None]]] = {metric: {} for metric in metrics}
    plans: dict[str, Sequence[str]] = {}
    weights: dict[str, None] = {}
    first: dict[str, str] = {}
    for activation in dict.fromkeys(row["activation"] for row in scored):
        keys = [row["key"] for row in scored if row["activation"] == activation]
        kept = [matches for key in keys if (matches := found.of(key)) is not None]
        first[activation] = keys[0]
        for metric in metrics if kept else ():
            each = np.array([matches[0].by_class(metric) for matches in kept])
            seen = np.isfinite(each)
            mean = np.where(seen, each, 0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
            by_class[metric][activation] = [float(v) if ok else None for v, ok in zip(mean, seen.any(axis=0), strict=True)]
        told = (store.trial(keys[0]).result(verify_files=False) or {}).get("detector", {})
        plans[activation] = told.get("plan", ())
        weights |= dict.fromkeys([told["weights"]] if "weights" in told else [])
    return Detected(by_class, _scenes(store, data, first), plans, tuple(weights))


def _scenes(store: Store, data: Detection, keys: Mapping[str, str]) -> list[Scene]:
    """Test images with objects, evenly spaced over those of the first trial, with what the first trial of each activation
    found in them."""
    stored = {a: unpack(saved) for a, key in keys.items() if (saved := store.trial(key).read(DETECTIONS)) is not None}
    if not stored:
        return []
    index, _, truth = next(iter(stored.values()))
    places = np.flatnonzero(np.diff(truth.offsets) > 0)
    chosen = places[np.unique(np.linspace(0, len(places) - 1, min(SCENES, len(places))).round().astype(int))]
    scenes = []
    for i in index[chosen]:
        try:
            picture, scale = _jpeg(data, int(i))
        except DataError:
            # A page can be written where the images are no longer.
            continue
        height, width = (round(float(side) * scale) for side in data.sizes[i])
        by_activation: dict[str, Sequence[Box]] = {}
        annotated: Sequence[Box] = ()
        for activation, (images, found, true) in stored.items():
            at = np.flatnonzero(images == i)
            if at.size:
                by_activation[activation] = _found(found, int(at[0]), scale, data.classes)
                annotated = _annotated(true, int(at[0]), scale, data.classes)
        scenes.append(Scene(data.ids[i], width, height, picture, annotated, by_activation))
    return scenes


def _jpeg(data: Detection, i: int) -> tuple[str, float]:
    image = PIL.Image.fromarray(data.image(i).transpose(1, 2, 0))
    scale = min(1.0, SIDE / max(image.size))
    small = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=75)
    return base64.b64encode(stream.getvalue()).decode(), scale


def _annotated(truth: Truth, i: int, scale: float, classes: Sequence[str]) -> list[Box]:
    rows = range(int(truth.offsets[i]), int(truth.offsets[i + 1]))
    hard = [" (crowd)" if truth.crowd[r] else " (difficult)" if truth.difficult[r] else "" for r in rows]
    return [_box(truth.boxes[r], f"{classes[truth.labels[r]]}{h}", scale) for r, h in zip(rows, hard, strict=True)]


def _found(found: Detections, i: int, scale: float, classes: Sequence[str]) -> list[Box]:
    rows = np.arange(found.offsets[i], found.offsets[i + 1])
    rows = rows[found.scores[rows] >= LEAST]
    best = rows[np.argsort(-found.scores[rows], kind="stable")][:MOST]
    return [_box(found.boxes[r], f"{classes[found.labels[r]]} {found.scores[r]:.2f}", scale) for r in best]


def _box(corners: np.ndarray[Any, Any], text: str, scale: float) -> Box:
    left, top, right, bottom = (round(float(v) * scale, 1) for v in corners)
    return Box(left, top, round(right - left, 1), round(bottom - top, 1), text)
