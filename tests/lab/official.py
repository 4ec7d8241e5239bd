"""Average precision as COCO's own tool computes it, and as the steps of the VOC kit do: what ours is held to."""

from __future__ import annotations

import contextlib
import io
import math
from typing import Any

import numpy as np
import pytest


def pycocotools_scores(
    detections: list[dict[str, Any]], truth: list[dict[str, Any]], classes: int
) -> tuple[dict[str, float], np.ndarray]:
    """The scores by their names here, and ap by class; nan where nothing counts. An image's detections and objects are as
    ``Detections.of`` and ``Truth.of`` take them."""
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    annotations, results = [], []
    for number, (found, true) in enumerate(zip(detections, truth, strict=True)):
        for box, label, area, crowd in zip(*(true[k] for k in ("boxes", "labels", "area", "iscrowd")), strict=True):
            x, y, right, bottom = (float(np.float32(v)) for v in box)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(label),
                    "bbox": [x, y, right - x, bottom - y],
                    "area": float(np.float32(area)),
                    "iscrowd": int(crowd),
                }
            )
        for box, label, score in zip(*(found[k] for k in ("boxes", "labels", "scores")), strict=True):
            x, y, right, bottom = (float(np.float32(v)) for v in box)
            results.append(
                {"image_id": number, "category_id": int(label), "bbox": [x, y, right - x, bottom - y], "score": float(score)}
            )
    with contextlib.redirect_stdout(io.StringIO()):
        given = coco.COCO()
        given.dataset = {
            "images": [{"id": number} for number in range(len(truth))],
            "categories": [{"id": c} for c in range(classes)],
            "annotations": annotations,
        }
        given.createIndex()
        ours = given.loadRes(results)
        evaluation = cocoeval.COCOeval(given, ours, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    precision = evaluation.eval["precision"][:, :, :, 0, 2]
    by_class = np.array([np.mean(p[p > -1]) if (p > -1).any() else np.nan for p in precision.transpose(2, 0, 1)])
    # It says -1 where no object counts.
    scores = {name: float(v) if v > -1 else math.nan for name, v in zip(names, evaluation.stats, strict=False)}
    return scores, by_class


def voc_kit_scores(detections: list[dict[str, Any]], truth: list[dict[str, Any]], c: int) -> tuple[float, float]:
    """The steps of the VOC kit, one detection after the other; (2012, 2007)."""
    claims = [
        (float(s), i, box)
        for i, d in enumerate(detections)
        for box, label, s in zip(d["boxes"].astype(np.float32).astype(float), d["labels"], d["scores"], strict=True)
        if label == c
    ]
    claims.sort(key=lambda claim: -claim[0])
    taken: set[tuple[int, int]] = set()
    right, wrong, curve = 0, 0, []
    positives = sum(int(((t["labels"] == c) & ~t["difficult"]).sum()) for t in truth)
    for _, i, box in claims:
        best, met = -math.inf, -1
        for j in np.flatnonzero(truth[i]["labels"] == c):
            other = truth[i]["boxes"][j].astype(float)
            w, h = min(box[2], other[2]) - max(box[0], other[0]), min(box[3], other[3]) - max(box[1], other[1])
            if w > 0 and h > 0:
                union = (box[2] - box[0]) * (box[3] - box[1]) + (other[2] - other[0]) * (other[3] - other[1]) - w * h
                if w * h / union > best:
                    best, met = w * h / union, int(j)
        if best >= 0.5:
            if not truth[i]["difficult"][met]:
                if (i, met) in taken:
                    wrong += 1
                else:
                    taken.add((i, met))
                    right += 1
        else:
            wrong += 1
        curve.append((right / positives, right / max(1, right + wrong)))
    old = sum(max((p for r, p in curve if r >= k / 10 - 1e-12), default=0.0) for k in range(11)) / 11
    area, before = 0.0, 0.0
    for k, (r, _) in enumerate(curve):
        area += (r - before) * max(p for _, p in curve[k:])
        before = r
    return area, old
