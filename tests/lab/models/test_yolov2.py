"""YOLOv2: coding, assignment, loss, anchors, detection."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from pliant import AReLU
from pliant.errors import DomainError, UnknownNameError
from pliant.lab.models.detection import cluster, mean_iou
from pliant.lab.models.detection.region import assign, decode, iou, region_loss
from pliant.lab.models.detection.yolov2 import VOC_ANCHORS, YOLOv2, yolov2

UNIT = torch.tensor([[1.0, 1.0]])
HALF = torch.tensor([[0.0, 0.0, 0.5, 0.5]])
ZERO = torch.tensor([0])


def raw(*, grid: tuple[int, int] = (2, 2), anchors: int = 1, classes: int = 2, images: int = 1) -> Tensor:
    return torch.zeros(images, *grid, anchors, 5 + classes, dtype=torch.float64)


def loss(of: Tensor, boxes: Tensor, labels: Tensor, anchors: Tensor = UNIT, prior: float = 0.0) -> dict[str, Tensor]:
    return region_loss(of, [boxes.double()], [labels], anchors.double(), prior=prior)


def small(**options: object) -> YOLOv2:
    torch.manual_seed(0)
    return yolov2(nn.ReLU, **{"classes": 3, "size": 64, "width": 0.125, **options})  # type: ignore[arg-type]


def image(height: int = 64, width: int = 64) -> Tensor:
    return torch.rand(3, height, width)


def target(*boxes: tuple[float, ...], labels: tuple[int, ...] | None = None) -> dict[str, Tensor]:
    given = labels if labels is not None else (0,) * len(boxes)
    return {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(given, dtype=torch.int64)}


# --- coding -----------------------------------------------------------------------------------------------------------


def test_a_prediction_of_zeros_is_the_anchor_in_the_middle_of_its_cell() -> None:
    boxes = decode(torch.zeros(1, 2, 4, 1, 6), torch.tensor([[2.0, 0.5]]))
    # Row 1, column 2 of 2 x 4 cells: the middle is (2.5 / 4, 1.5 / 2), the anchor 2 / 4 wide and 0.5 / 2 high.
    torch.testing.assert_close(boxes[0, 1, 2, 0], torch.tensor([0.375, 0.625, 0.875, 0.875]))


def test_what_an_object_is_assigned_decodes_to_its_box() -> None:
    draw = torch.Generator().manual_seed(0)
    corner = torch.rand(60, 2, generator=draw, dtype=torch.float64) * 0.7
    boxes = torch.cat([corner, corner + 0.01 + 0.29 * torch.rand(60, 2, generator=draw, dtype=torch.float64)], dim=1)
    anchors = torch.tensor([[0.4, 0.7], [2.0, 1.0], [3.0, 4.0]], dtype=torch.float64)
    found = assign([boxes[:30], boxes[30:]], [torch.arange(30), torch.arange(30)], anchors, (9, 13))
    coded = torch.zeros(2, 9, 13, 3, 6, dtype=torch.float64)
    coded[found.slot] = torch.cat(
        [found.wanted[:, :2].logit(), found.wanted[:, 2:], torch.zeros(len(found.wanted), 2, dtype=torch.float64)], dim=1
    )
    assert len(found.labels) > 45
    torch.testing.assert_close(decode(coded, anchors)[found.slot], found.boxes)


def test_an_enormous_prediction_stays_finite() -> None:
    coded = raw()
    coded[..., 2:4] = 1e4
    assert decode(coded, UNIT.double()).isfinite().all()
    assert all(part.isfinite() for part in loss(coded, HALF, ZERO).values())


def test_iou_is_torchvisions_and_zero_without_area() -> None:
    boxes = torch.rand(40, 2).repeat(1, 2) + torch.cat([torch.zeros(40, 2), torch.rand(40, 2)], dim=1)
    torch.testing.assert_close(iou(boxes[:, None], boxes), box_iou(boxes, boxes))
    assert iou(torch.zeros(4), torch.zeros(4)) == 0


# --- assignment -------------------------------------------------------------------------------------------------------


def test_the_anchor_of_the_best_shape_takes_the_object() -> None:
    anchors = torch.tensor([[1.0, 2.0], [2.0, 1.0], [4.0, 4.0]])
    boxes = torch.tensor([[0.0, 0.0, 0.25, 0.5], [0.0, 0.0, 0.5, 0.25], [0.0, 0.0, 0.75, 1.0]])
    found = assign([boxes], [torch.tensor([5, 6, 7])], anchors, (4, 4))
    assert found.slot[3].tolist() == [0, 1, 2]
    assert found.slot[1].tolist() == [1, 0, 2]
    assert found.slot[2].tolist() == [0, 1, 1]
    assert found.labels.tolist() == [5, 6, 7]


def test_of_two_objects_in_one_cell_and_anchor_the_last_counts() -> None:
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.05, 0.05, 0.45, 0.45]])
    for order in ([0, 1], [1, 0]):
        found = assign([boxes[order]], [torch.tensor(order)], UNIT, (2, 2))
        assert found.labels.tolist() == [order[1]]
        torch.testing.assert_close(found.boxes, boxes[order[1:]])


def test_two_objects_in_one_cell_with_different_anchors_both_count() -> None:
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.15, 0.0, 0.35, 0.5]])
    found = assign([boxes], [torch.tensor([3, 4])], torch.tensor([[1.0, 1.0], [0.4, 1.0]]), (2, 2))
    assert found.labels.tolist() == [3, 4]


def test_the_same_place_in_two_images_is_two_places() -> None:
    found = assign([HALF, torch.zeros(0, 4), HALF], [ZERO, ZERO[:0], ZERO + 1], UNIT, (2, 2))
    assert found.slot[0].tolist() == [0, 2]
    assert found.labels.tolist() == [0, 1]


def test_a_centre_on_the_border_belongs_to_the_last_cell() -> None:
    found = assign([torch.tensor([[0.9, 0.8, 1.1, 1.2]])], [ZERO], UNIT, (2, 4))
    assert [int(s) for s in found.slot] == [0, 1, 3, 0]
    torch.testing.assert_close(found.wanted[0, :2], torch.ones(2))


# --- loss -------------------------------------------------------------------------------------------------------------


def test_the_loss_of_a_perfect_box_by_hand() -> None:
    parts = loss(raw(), HALF, ZERO, prior=1.0)
    expected = {
        "coordinates": 0.0,
        "object": 5 / 2 * (0.5 - 1) ** 2,
        "background": 3 / 2 * 0.5**2,
        "classes": math.log(2),
        "prior": 0.0,
    }
    assert {k: float(v) for k, v in parts.items()} == pytest.approx(expected)


def test_the_loss_of_a_wrong_box_by_hand() -> None:
    # The centre is (0.6, 0.4) of the first cell, the object half as wide as the anchor and as high.
    parts = loss(raw(), torch.tensor([[0.175, -0.05, 0.425, 0.45]]), ZERO + 1)
    overlap = 0.25 * 0.45 / (0.25 + 0.125 - 0.25 * 0.45)
    assert float(parts["coordinates"]) == pytest.approx((2 - 0.125) / 2 * (0.1**2 + 0.1**2 + math.log(2) ** 2), rel=1e-6)
    assert float(parts["object"]) == pytest.approx(5 / 2 * (0.5 - overlap) ** 2, rel=1e-6)
    assert float(parts["background"]) == pytest.approx(3 / 2 * 0.25)


def test_the_loss_of_a_batch_is_the_mean_over_images() -> None:
    draw = torch.randn(2, 3, 3, 2, 9, dtype=torch.float64)
    boxes = [torch.tensor([[0.1, 0.1, 0.4, 0.8]]), torch.tensor([[0.5, 0.3, 0.9, 0.4], [0.0, 0.0, 1.0, 1.0]])]
    labels, anchors = [ZERO, ZERO.repeat(2)], torch.tensor([[1.0, 1.0], [2.0, 3.0]], dtype=torch.float64)
    both = region_loss(draw, boxes, labels, anchors, prior=1.0)
    each = [region_loss(draw[i : i + 1], boxes[i : i + 1], labels[i : i + 1], anchors, prior=1.0) for i in (0, 1)]
    for name, part in both.items():
        torch.testing.assert_close(part, (each[0][name] + each[1][name]) / 2)


def test_the_gradients_are_those_of_the_release() -> None:
    # The release writes down the negative gradients: scale * (wanted - given), times the slope of a sigmoid.
    coded = raw().requires_grad_()
    sum(loss(coded, torch.tensor([[0.175, -0.05, 0.425, 0.45]]), ZERO).values()).backward()  # type: ignore[union-attr]
    assert coded.grad is not None
    overlap, scale, slope = 0.1125 / 0.2625, 2 - 0.125, 0.25
    mine = [scale * -0.1 * slope, scale * 0.1 * slope, scale * math.log(2), 0.0, 5 * (0.5 - overlap) * slope, -0.5, 0.5]
    torch.testing.assert_close(coded.grad[0, 0, 0, 0], torch.tensor(mine, dtype=torch.float64), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(coded.grad[0, 1, 1, 0], torch.tensor([0, 0, 0, 0, 0.5 * slope, 0, 0], dtype=torch.float64))


@pytest.mark.parametrize(("side", "counted"), [(1.1, 6), (2.0, 7)])
def test_a_prediction_that_overlaps_an_object_is_not_background(side: float, counted: int) -> None:
    # Of 8 predictions one has the object. The other anchor of its cell overlaps it by 1 / 1.1 or by 1 / 4.
    parts = loss(raw(anchors=2), HALF, ZERO, torch.tensor([[1.0, 1.0], [side, 1.0 if side < 2 else 2.0]]))
    assert float(parts["background"]) == pytest.approx(counted / 2 * 0.25)


def test_the_prior_holds_free_predictions_to_their_anchors() -> None:
    coded = raw()
    coded[..., 2] = 0.3
    coded[..., 0] = torch.tensor(0.7, dtype=torch.float64).logit()
    assert float(loss(coded, HALF, ZERO, prior=1.0)["prior"]) == pytest.approx(0.01 / 2 * 3 * (0.3**2 + 0.2**2))
    assert float(loss(coded, HALF, ZERO)["prior"]) == 0


def test_images_without_objects_are_background() -> None:
    parts = loss(raw(), torch.zeros(0, 4), ZERO[:0])
    assert {k: float(v) for k, v in parts.items()} == pytest.approx(
        {"coordinates": 0, "object": 0, "background": 4 / 2 * 0.25, "classes": 0, "prior": 0}
    )


# --- the network ------------------------------------------------------------------------------------------------------


def test_the_network_is_that_of_the_release() -> None:
    with torch.device("meta"):
        network = yolov2(nn.ReLU, classes=20)
        middle, last = network.backbone(torch.zeros(1, 3, 416, 416))
        fine = network.head["fine"](middle)
    assert (middle.shape, last.shape, fine.shape) == ((1, 512, 26, 26), (1, 1024, 13, 13), (1, 64, 26, 26))
    assert network.head["joined"].conv.in_channels == 1024 + 256
    assert network.head["output"].out_channels == 125
    assert len(network.plan) == 22


def test_the_weights_of_coco_would_fill_the_released_file() -> None:
    with torch.device("meta"):
        network = yolov2(nn.ReLU, classes=80)
    values = sum(p.numel() for p in network.parameters())
    moving = sum(2 * m.num_features for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    # yolov2.weights has 203,934,260 bytes: four numbers of four bytes at its head, then every float.
    assert 4 * (4 + values + moving) == 203_934_260


@pytest.mark.parametrize(("sites", "count"), [("all", 22), ("backbone", 18), ("head", 4)])
def test_every_site_that_was_asked_for_is_the_activation(sites: str, count: int) -> None:
    network = yolov2(AReLU, classes=3, size=64, width=0.125, sites=sites)
    assert sum(isinstance(m, AReLU) for m in network.modules()) == count
    assert sum(isinstance(m, nn.LeakyReLU) for m in network.modules()) == 22 - count
    assert sum("AReLU" in line for line in network.plan) == count
    assert sum("left" in line for line in network.plan) == 22 - count


@pytest.mark.parametrize("prior_images", [0, 3])
def test_the_prior_ends_after_its_images_and_a_checkpoint_knows_how_many_were_seen(prior_images: int) -> None:
    network = small(prior_images=prior_images).train()
    batch = [image(), image()], [target(), target()]
    terms = [bool(network(*batch)["prior"] > 0) for _ in range(3)]
    assert terms == [prior_images > 0, prior_images > 0, False]
    other = small(prior_images=prior_images)
    other.load_state_dict(network.state_dict())
    assert other.seen == 6


def test_sizes_of_training_are_drawn_by_step_and_seed() -> None:
    network = small(scales=(64, 160), every=5)
    sizes = [network.resize_for(7, step) for step in range(1000)]
    assert set(sizes) == {64, 96, 128, 160}
    assert all(len(set(sizes[i : i + 5])) == 1 for i in range(0, 1000, 5))
    assert [network.resize_for(7, step) for step in range(1000)] == sizes
    assert [network.resize_for(8, step) for step in range(1000)] != sizes
    counts = np.unique(sizes, return_counts=True)[1]
    assert counts.min() > 150
    network.resize_for(7, sizes.index(160))
    assert network.input_size == 160
    assert network.predict([image()], 160).shape == (1, 5, 5, 5, 8)
    # Anchors keep their size in pixels, so that they are a smaller part of a larger image.
    sides = [decode(torch.zeros(1, n, n, 5, 8), network.anchors)[0, 0, 0, :, 2:].mul(n * 32) for n in (2, 5)]
    torch.testing.assert_close(sides[0], sides[1])
    assert small().resize_for(7, 0) == 64


def test_training_at_another_size_sees_the_image_at_that_size(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small(scales=(96, 96)).train()
    network.resize_for(0, 0)
    shapes: list[torch.Size] = []
    network.backbone.register_forward_pre_hook(lambda _, given: shapes.append(given[0].shape))
    network([image(50, 70)], [target()])
    network.eval()([image(50, 70)])
    assert shapes == [(1, 3, 96, 96), (1, 3, 64, 64)]


def test_boxes_are_in_the_pixels_of_each_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """An object of the same fractions of a wide and of a small image gives the same loss and the same detection."""
    network = small(anchors=[(0.5, 0.5)], score_threshold=0.3).eval()
    coded = torch.full((2, 2, 2, 1, 8), -20.0)
    coded[:, 1, 0, 0] = torch.tensor([0.0, 0.0, 0.0, 0.0, 20.0, 0.0, 20.0, 0.0])
    monkeypatch.setattr(network, "predict", lambda images, size: coded[: len(images)])
    wide, square = network([image(40, 200), image(64, 64)])
    torch.testing.assert_close(wide["boxes"], torch.tensor([[0.0, 20.0, 100.0, 40.0]]))
    torch.testing.assert_close(square["boxes"], torch.tensor([[0.0, 32.0, 32.0, 64.0]]))
    assert wide["labels"].tolist() == square["labels"].tolist() == [1]
    assert float(wide["scores"][0]) == pytest.approx(1.0, abs=1e-6)
    network.train()
    losses = network([image(40, 200)], [target((0, 20, 100, 40), labels=(1,))])
    assert float(losses["coordinates"]) == pytest.approx(0, abs=1e-10)
    assert float(losses["classes"]) == pytest.approx(0, abs=1e-6)


def test_detection_suppresses_within_a_class_only_and_sorts_by_score(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small(anchors=[(0.5, 0.5), (0.48, 0.5), (0.5, 0.46)], score_threshold=0.1, detections=2).eval()
    coded = torch.full((1, 2, 2, 3, 8), -20.0)
    coded[0, 0, 0, :, :4] = 0
    coded[0, 0, 0, :, 4] = torch.tensor([0.7, 0.9, 0.8]).logit()
    coded[0, 0, 0, [0, 1, 2], [6, 6, 5]] = 20.0
    monkeypatch.setattr(network, "predict", lambda images, size: coded)
    (found,) = network([image()])
    assert found["labels"].tolist() == [1, 0]
    torch.testing.assert_close(found["scores"], torch.tensor([0.9, 0.8]))
    torch.testing.assert_close(found["boxes"][0], torch.tensor([0.25 * 64 - 0.24 * 64, 0.0, 0.25 * 64 + 0.24 * 64, 32.0]))
    network.detections = 1
    assert network([image()])[0]["labels"].tolist() == [1]
    network.score_threshold = 0.95
    assert [len(v) for v in network([image()])[0].values()] == [0, 0, 0]


def test_one_box_may_be_found_as_several_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small(anchors=[(0.5, 0.5)], score_threshold=0.1).eval()
    coded = torch.full((1, 2, 2, 1, 8), -20.0)
    coded[0, 0, 0, 0] = torch.tensor([0.0, 0.0, 0.0, 0.0, 20.0, *torch.tensor([0.6, 0.3, 0.1]).log().tolist()])
    monkeypatch.setattr(network, "predict", lambda images, size: coded)
    (found,) = network([image()])
    assert found["labels"].tolist()[:2] == [0, 1]
    torch.testing.assert_close(found["scores"][:2], torch.tensor([0.6, 0.3]))


def test_weights_of_another_backbone_can_be_loaded(tmp_path: Path) -> None:
    source = small()
    torch.save(source.backbone.state_dict(), tmp_path / "darknet.pth")
    torch.manual_seed(1)
    network = yolov2(AReLU, classes=3, size=64, width=0.125, sites="head", weights=str(tmp_path / "darknet.pth"))
    for key, value in source.backbone.state_dict().items():
        torch.testing.assert_close(network.backbone.state_dict()[key], value)
    assert network.weights_from.source == "darknet.pth"
    assert len(network.weights_from.sha256) == 64


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": 100}, "multiples of 32"),
        ({"scales": (96, 64)}, "smaller scale first"),
        ({"scales": (64, 100)}, "multiples of 32"),
        ({"anchors": [(1.3, 1.7)]}, "fractions of the image"),
        ({"anchors": []}, "fractions of the image"),
        ({"classes": 0}, "at least 1"),
        ({"width": 0.0}, "positive width"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(DomainError, match=said):
        small(**options)


@pytest.mark.parametrize("options", [{"sites": "fpn"}, {"backbone": "resnet50"}])
def test_unknown_parts_and_backbones_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(UnknownNameError):
        small(**options)


# --- anchors ----------------------------------------------------------------------------------------------------------


def test_anchors_are_the_centres_of_clusters() -> None:
    draw = np.random.default_rng(0)
    centres = np.array([[0.05, 0.1], [0.3, 0.1], [0.2, 0.6], [0.8, 0.7]])
    boxes = np.concatenate([c * draw.uniform(0.95, 1.05, (50, 2)) for c in centres])
    found = cluster(draw.permutation(boxes), 4)
    np.testing.assert_allclose(found, centres, rtol=0.02)
    assert mean_iou(boxes, found) > 0.94
    assert mean_iou(boxes, found) > mean_iou(boxes, centres * 1.2)


def test_anchors_are_the_same_each_time_and_fit_better_than_those_of_another_set() -> None:
    boxes = np.random.default_rng(1).uniform(0.02, 0.9, (500, 2)) ** 2
    found = cluster(boxes, 5, seed=3)
    assert found == cluster(boxes, 5, seed=3)
    assert found == tuple(sorted(found, key=math.prod))
    assert mean_iou(boxes, found) > mean_iou(boxes, VOC_ANCHORS)


def test_distance_is_overlap_and_not_length() -> None:
    # In length the two small shapes are closer to each other than to anything; in overlap they are the most different.
    boxes = [(0.01, 0.1)] * 20 + [(0.1, 0.01)] * 20 + [(0.8, 0.9), (0.9, 0.8)] * 10
    np.testing.assert_allclose(sorted(cluster(boxes, 3)), [(0.01, 0.1), (0.1, 0.01), (0.85, 0.85)])


@pytest.mark.parametrize("boxes", [[], [(0.1, 0.2)] * 9, [(0.1, 0.0)] * 9, [(0.1, 0.2, 0.3)] * 9, [(math.nan, 1.0)] * 9])
def test_boxes_that_make_no_anchors_are_refused(boxes: list[tuple[float, ...]]) -> None:
    with pytest.raises(DomainError):
        cluster(boxes, 2)
