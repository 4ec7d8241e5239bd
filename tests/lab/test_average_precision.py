from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from official import pycocotools_scores, voc_kit_scores

from pliant.errors import UnknownNameError
from pliant.lab import metrics
from pliant.lab.average_precision import AREAS, Detections, PredictionsError, Truth, match, pack, unpack
from pliant.lab.verdict import bootstrap


def image(*objects: tuple[tuple[float, ...], int], **flags: list[bool]) -> dict[str, Any]:
    boxes = np.array([b for b, _ in objects], np.float32).reshape(-1, 4)
    return {
        "boxes": boxes,
        "labels": np.array([label for _, label in objects], np.int64),
        "area": (boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
        "iscrowd": np.array(flags.get("crowd", [False] * len(objects)), bool),
        "difficult": np.array(flags.get("difficult", [False] * len(objects)), bool),
    }


def found(*boxes: tuple[tuple[float, ...], int, float]) -> dict[str, Any]:
    return {
        "boxes": np.array([b for b, _, _ in boxes], np.float32).reshape(-1, 4),
        "labels": np.array([label for _, label, _ in boxes], np.int64),
        "scores": np.array([s for _, _, s in boxes], np.float32),
    }


def scores(detections: list[dict[str, Any]], truth: list[dict[str, Any]], classes: int = 1) -> dict[str, float]:
    return match(Detections.of(detections), Truth.of(truth), classes).scores()


A, B = (0, 0, 10, 10), (20, 20, 40, 40)


def test_perfect_detections_score_one_by_every_definition() -> None:
    truth = [image((A, 0), (B, 1)), image((B, 0))]
    got = scores([found((A, 0, 0.9), (B, 1, 0.8)), found((B, 0, 0.7))], truth, 2)
    assert tuple(got) == metrics.DETECTION
    assert got == pytest.approx(dict.fromkeys(metrics.DETECTION, 1.0))


def test_an_object_found_twice_counts_once() -> None:
    truth = [image((A, 0), (B, 0))]
    got = scores([found((A, 0, 0.9), (A, 0, 0.8), (B, 0, 0.7))], truth)
    # Precision 1 at recall 1/2, 2/3 at recall 1.
    assert got["ap50_voc"] == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert got["ap50_voc07"] == pytest.approx((6 + 5 * 2 / 3) / 11)
    assert got["ap50"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_an_overlap_of_exactly_one_half_is_enough() -> None:
    got = scores([found(((0, 0, 10, 5), 0, 0.9))], [image((A, 0))])
    assert got["ap50"] == got["ap50_voc"] == 1.0
    assert got["ap75"] == 0.0
    assert got["ap"] == pytest.approx(0.1)


def test_a_difficult_object_counts_neither_way_for_voc_and_like_any_other_for_coco() -> None:
    truth = [image((A, 0), (B, 0), difficult=[True, False])]
    got = scores([found((A, 0, 0.9), (A, 0, 0.85), (B, 0, 0.8))], truth)
    assert got["ap50_voc"] == 1.0
    assert got["ap50"] < 1.0


def test_voc_takes_the_object_overlapped_most_even_if_it_is_taken() -> None:
    truth = [image((A, 0), ((0, 0, 10, 8), 0))]
    detections = [found((A, 0, 0.9), ((0, 0, 10, 9.5), 0, 0.8))]
    matches = match(Detections.of(detections), Truth.of(truth), 1)
    assert matches.right[:, -1].tolist() == [True, False]
    assert matches.right[:, 0].tolist() == [True, True], "COCO gives it the object that is still free"


def test_a_crowd_may_be_met_many_times_and_counts_neither_way() -> None:
    truth = [image(((0, 0, 100, 100), 0), ((200, 0, 240, 40), 0), crowd=[True, False])]
    inside = [((float(i), 0.0, i + 10.0, 10.0), 0, 0.9) for i in range(3)]
    assert scores([found(*inside, ((200, 0, 240, 40), 0, 0.1))], truth)["ap50"] == 1.0


def test_images_without_objects_hold_false_alarms() -> None:
    truth = [image(), image((A, 0))]
    assert scores([found((B, 0, 0.95)), found((A, 0, 0.9))], truth)["ap50_voc"] == pytest.approx(0.5)
    assert all(math.isnan(v) for v in scores([found((B, 0, 0.9))], [image()]).values()), "no object at all"
    assert scores([found(), found()], truth)["ap"] == 0.0, "nothing found"


def test_a_class_that_is_nowhere_is_left_out_of_the_mean() -> None:
    matches = match(Detections.of([found((A, 0, 0.9), (B, 2, 0.9))]), Truth.of([image((A, 0))]), 3)
    assert np.array_equal(matches.by_class("ap50"), [1.0, np.nan, np.nan], equal_nan=True)
    assert matches.score_of("ap50") == 1.0


@pytest.mark.parametrize(
    ("classes", "detections", "part"),
    [
        (1, [found((A, 1, 0.9))], "Labels run from 1 to 1"),
        (1, [found(), found()], "2 images were given for the objects of 1"),
        (1, [found((A, 0, math.nan))], "not finite"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(classes: int, detections: list[Any], part: str) -> None:
    with pytest.raises(PredictionsError, match=part):
        match(Detections.of(detections), Truth.of([image((A, 0))]), classes)


def test_a_metric_that_does_not_exist() -> None:
    with pytest.raises(UnknownNameError, match="ap50"):
        match(Detections.of([found()]), Truth.of([image()]), 1).score_of("ap5")


def random_case(seed: int, images: int = 30, classes: int = 4) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Objects of all sizes, some of no area, crowds, images without any, boxes beyond the border; detections that are near
    them, doubled, of the wrong class, or anywhere, more than 100 of a class in one image."""
    rng = np.random.default_rng(seed)
    truth, detections = [], []
    for i in range(images):
        k = int(rng.integers(0, 9)) if i % 7 else 0
        corner, size = rng.uniform(-20, 300, (k, 2)), rng.choice([8.0, 30.0, 32.0, 70.0, 200.0], (k, 2))
        size[rng.random(k) < 0.05] = 0.0
        boxes = np.concatenate([corner, corner + size], axis=1).round(int(i % 3)).astype(np.float32)
        labels = rng.integers(0, classes - 1, k)
        one = image(*zip(map(tuple, boxes), labels.tolist(), strict=True))
        one["area"] = one["area"] * rng.uniform(0.4, 1.0, k).astype(np.float32)
        one["iscrowd"] = rng.random(k) < 0.15
        one["difficult"] = rng.random(k) < 0.2
        truth.append(one)
        n = 130 if i == 3 else int(rng.integers(0, 25))
        near = boxes[rng.integers(0, k, n)] if k else rng.uniform(0, 300, (n, 4)).astype(np.float32)
        moved = near + rng.normal(0, 4, (n, 4)) * (rng.random((n, 1)) < 0.8)
        low, high = np.minimum(moved[:, :2], moved[:, 2:]), np.maximum(moved[:, :2], moved[:, 2:])
        own = labels[rng.integers(0, k, n)] if k else np.zeros(n, int)
        named = np.zeros(n, int) if i == 3 else np.where(rng.random(n) < 0.7, own, rng.integers(0, classes, n))
        # Few different scores, so that ties within and across images are common.
        grade = rng.integers(0, 12, n) / 12 if seed % 2 else rng.random(n)
        detections.append({"boxes": np.concatenate([low, high], axis=1), "labels": named, "scores": grade.astype(np.float32)})
    return detections, truth


@pytest.mark.parametrize("seed", range(6))
def test_agrees_with_pycocotools(seed: int) -> None:
    detections, truth = random_case(seed)
    expected, by_class = pycocotools_scores(detections, truth, 4)
    detected, annotated = Detections.of(detections), Truth.of(truth)
    matches = match(detected, annotated, 4)
    assert np.allclose(matches.by_class("ap"), by_class, atol=1e-6, rtol=0, equal_nan=True)
    assert 0.02 < expected["ap"] < 0.9, "a case that says something"
    for name in ("ap", "ap50", "ap75"):
        assert matches.score_of(name) == pytest.approx(expected[name], abs=1e-6)
    for size in ("small", "medium", "large"):
        of_size = match(detected, annotated, 4, AREAS[size]).score_of("ap")
        assert of_size == pytest.approx(expected[f"ap_{size}"], abs=1e-6), size


def test_a_weight_is_as_good_as_a_copy_of_the_image() -> None:
    detections, truth = random_case(0)
    drawn = np.random.default_rng(5).integers(0, len(truth), len(truth))
    copied = match(Detections.of([detections[i] for i in drawn]), Truth.of([truth[i] for i in drawn]), 4)
    whole = match(Detections.of(detections), Truth.of(truth), 4)
    for metric in metrics.DETECTION:
        assert whole.on(metric, drawn) == pytest.approx(copied.score_of(metric), abs=1e-9), metric


def test_the_bootstrap_of_the_verdict_sees_the_spread_over_images() -> None:
    detections, truth = random_case(2, images=40)
    matches = match(Detections.of(detections), Truth.of(truth), 4)
    sampled = bootstrap(lambda drawn: matches.on("ap50", drawn), matches.units, key="images", replicates=60)
    assert 0.005 < float(np.linalg.norm(sampled.vector)) < 0.2


@pytest.mark.parametrize("seed", [0, 2, 4])
def test_agrees_with_the_steps_of_the_voc_kit(seed: int) -> None:
    detections, truth = random_case(seed)
    matches = match(Detections.of(detections), Truth.of(truth), 4)
    new, old = matches.by_class("ap50_voc"), matches.by_class("ap50_voc07")
    for c in range(3):
        area, eleven = voc_kit_scores(detections, truth, c)
        assert new[c] == pytest.approx(area, abs=1e-9)
        assert old[c] == pytest.approx(eleven, abs=1e-9)


def test_stored_detections_come_back() -> None:
    detections, truth = Detections.of(random_case(1)[0]), Truth.of(random_case(1)[1])
    index = np.arange(30) * 3
    content = pack(index, detections, truth)
    assert content == pack(index, detections, truth)
    again, found_again, true_again = unpack(content)
    assert np.array_equal(again, index)
    for name, value in {**vars(detections), **vars(truth)}.items():
        back = getattr(found_again if name in vars(detections) and value is getattr(detections, name) else true_again, name)
        assert back.dtype == value.dtype
        assert np.array_equal(back, value)
    with pytest.raises(PredictionsError, match="no stored detections"):
        unpack(content[:100])
