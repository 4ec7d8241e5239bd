"""YOLOv2's coding of boxes, assignment of objects to predictions, and loss.

A prediction is (tx, ty, tw, th, to, classes): with the grid's cell (column, row) and the anchor (pw, ph), in cells, its centre
is (sigmoid(tx) + column, sigmoid(ty) + row), its size (pw e^tw, ph e^th), and the confidence that an object is there
sigmoid(to).

Source: Redmon & Farhadi (2017), "YOLO9000: Better, Faster, Stronger", and for what the paper leaves open the constants of the
released Darknet (yolov2-voc). Boxes are in fractions of the image here, so that the loss does not depend on its size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_convert

__all__ = ["Assignment", "assign", "decode", "iou", "region_loss"]

COORDINATES, OBJECT, BACKGROUND, PRIOR = 1.0, 5.0, 1.0, 0.01
"""Weights of the terms."""
IGNORE = 0.6
"""A prediction that overlaps an object by more is not called background."""

_LARGEST = 10.0
"""Of tw and th where boxes are made: e^10 anchors cover any image, and infinite sides would give an IoU that is no number."""


def decode(raw: Tensor, anchors: Tensor) -> Tensor:
    """Predicted boxes: (N, H, W, A, 4), left, top, right, bottom in fractions of the image; may reach beyond it.

    Args:
        raw: (N, H, W, A, 5 + C). anchors: (A, 2) in cells.
    """
    rows, columns = raw.shape[1:3]
    column = torch.arange(columns, device=raw.device).view(1, 1, columns, 1)
    row = torch.arange(rows, device=raw.device).view(1, rows, 1, 1)
    size = raw[..., 2:4].clamp(max=_LARGEST).exp() * anchors
    centre_x, centre_y = raw[..., 0].sigmoid() + column, raw[..., 1].sigmoid() + row
    boxes = torch.stack([centre_x / columns, centre_y / rows, size[..., 0] / columns, size[..., 1] / rows], dim=-1)
    converted: Tensor = box_convert(boxes, "cxcywh", "xyxy")
    return converted


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes (..., 4), which broadcast; left, top, right, bottom. 0 for two boxes without area."""
    common = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(dim=-1)
    union = (a[..., 2:] - a[..., :2]).prod(dim=-1) + (b[..., 2:] - b[..., :2]).prod(dim=-1) - common
    return common / union.clamp(min=torch.finfo(union.dtype).tiny)


@dataclass(frozen=True)
class Assignment:
    """The predictions that are responsible for an object, n of them.

    Args:
        slot: four int64 (n,): image, row, column, anchor; no two alike.
        wanted: (n, 4): sigmoid(tx), sigmoid(ty), tw, th that give the object's box.
        boxes: (n, 4): the object's box in fractions of the image.
        labels: int64 (n,): its class.
    """

    slot: tuple[Tensor, Tensor, Tensor, Tensor]
    wanted: Tensor
    boxes: Tensor
    labels: Tensor


def assign(boxes: Sequence[Tensor], labels: Sequence[Tensor], anchors: Tensor, grid: tuple[int, int]) -> Assignment:
    """To each object the cell that holds its centre, and there the anchor whose shape overlaps it most.

    Of several objects that meet in one cell and anchor the last one counts, as in the release, which shuffles them first.

    Args:
        boxes: for each image (k, 4) in fractions of it, with area. labels: for each image (k,).
        anchors: (A, 2) in cells. grid: rows and columns.
    """
    rows, columns = grid
    counts = torch.tensor([len(b) for b in boxes], device=anchors.device)
    image = torch.arange(len(boxes), device=anchors.device).repeat_interleave(counts)
    every, label = torch.cat(list(boxes)).to(anchors.dtype), torch.cat(list(labels))
    x, y, width, height = (box_convert(every, "xyxy", "cxcywh") * anchors.new_tensor([columns, rows, columns, rows])).unbind(1)
    # A centre on the right or bottom border belongs to the last cell.
    column, row = x.long().clamp(max=columns - 1), y.long().clamp(max=rows - 1)
    shape = torch.stack([width, height], dim=1)
    common = torch.minimum(shape[:, None], anchors).prod(dim=2)
    anchor = (common / (shape.prod(dim=1)[:, None] + anchors.prod(dim=1) - common)).argmax(dim=1)
    wanted = torch.cat([torch.stack([x - column, y - row], dim=1), (shape / anchors[anchor]).log()], dim=1)

    place = ((image * rows + row) * columns + column) * len(anchors) + anchor
    number = torch.arange(len(place), device=place.device)
    # A maximum, because an assignment to equal indices would leave to chance which one wins on a GPU.
    last = place.new_full((len(boxes) * rows * columns * len(anchors),), -1).scatter_reduce(0, place, number, "amax")
    kept = last[place] == number
    return Assignment((image[kept], row[kept], column[kept], anchor[kept]), wanted[kept], every[kept], label[kept])


def region_loss(
    raw: Tensor, boxes: Sequence[Tensor], labels: Sequence[Tensor], anchors: Tensor, *, prior: float | Tensor = 0.0
) -> dict[str, Tensor]:
    """The parts of the loss, each a sum over predictions divided by the number of images.

    Squares are halved and the classes have a softmax with cross-entropy, so that the gradients are those that the released code
    writes down; the paper gives no formula.

    - coordinates: (2 - area of the object) times the squared errors of sigmoid(tx), sigmoid(ty), tw, th;
    - object: 5 times the squared difference of the confidence and the IoU that the predicted box has now;
    - background: the squared confidence of predictions without an object, unless they overlap one by more than 0.6;
    - classes: of the predictions with an object;
    - prior: 0.01 ``prior`` times the squared distance of predictions without an object from their anchor in the middle of its
      cell; the release has it for the first 12,800 images.

    Args:
        raw: (N, H, W, A, 5 + C). boxes, labels, anchors: see :func:`assign`.
        prior: 1 with the last term, 0 without.
    """
    n = len(raw)
    found = assign(boxes, labels, anchors, (raw.shape[1], raw.shape[2]))
    free = raw.new_ones(raw.shape[:-1])
    free[found.slot] = 0.0
    centre, confidence = raw[..., :2].sigmoid(), raw[..., 4].sigmoid()
    mine, place = raw[found.slot], torch.cat([centre, raw[..., 2:4]], dim=-1)

    with torch.no_grad():
        predicted = decode(raw, anchors)
        overlap = iou(predicted[found.slot], found.boxes)
        background = free * (_best(predicted, boxes) <= IGNORE)
    area = (found.boxes[:, 2:] - found.boxes[:, :2]).prod(dim=1)
    errors = (place[found.slot] - found.wanted).square().sum(dim=1)
    middle = raw.new_tensor([0.5, 0.5, 0.0, 0.0])
    parts = {
        "coordinates": COORDINATES / 2 * ((2 - area) * errors).sum(),
        "object": OBJECT / 2 * (confidence[found.slot] - overlap).square().sum(),
        "background": BACKGROUND / 2 * (background * confidence.square()).sum(),
        "classes": F.cross_entropy(mine[:, 5:], found.labels, reduction="sum"),
        "prior": PRIOR / 2 * prior * (free * (place - middle).square().sum(dim=-1)).sum(),
    }
    return {name: part / n for name, part in parts.items()}


def _best(predicted: Tensor, boxes: Sequence[Tensor]) -> Tensor:
    """(N, H, W, A): the largest IoU of each prediction with an object of its image, 0 where there is none."""
    best = [
        iou(p.unsqueeze(-2), b.to(p.dtype)).amax(dim=-1) if len(b) else p.new_zeros(p.shape[:-1])
        for p, b in zip(predicted, boxes, strict=True)
    ]
    return torch.stack(best)
