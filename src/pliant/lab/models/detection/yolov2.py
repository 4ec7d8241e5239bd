"""YOLOv2 with any activation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms

from pliant.errors import DomainError
from pliant.lab.models.detection.darknet import Block, Darknet19, channels_at
from pliant.lab.models.detection.detector import Detector, Target, check_classes
from pliant.lab.models.detection.region import decode, region_loss
from pliant.lab.models.detection.sites import chosen
from pliant.lab.models.detection.weights import load_backbone
from pliant.lab.models.layers import Activation, choose

__all__ = ["VOC_ANCHORS", "YOLOv2", "yolov2"]

STRIDE = 32
VOC_ANCHORS = (
    (1.3221 / 13, 1.73145 / 13),
    (3.19275 / 13, 4.00944 / 13),
    (5.05587 / 13, 8.09892 / 13),
    (9.47112 / 13, 4.84053 / 13),
    (11.2364 / 13, 10.0071 / 13),
)
"""The anchors of the release for VOC, width and height in fractions of the image."""

_CANDIDATES = 1000
"""Of an image before suppression, the best ones."""


def yolov2(
    activation: Activation,
    *,
    classes: int,
    anchors: Sequence[tuple[float, float]] | None = None,
    size: int = 416,
    backbone: str = "darknet19",
    weights: str = "",
    sites: str = "all",
    width: float = 1.0,
    scales: tuple[int, int] | None = None,
    every: int = 10,
    prior_images: int = 12_800,
    score_threshold: float = 0.005,
    nms_threshold: float = 0.45,
    detections: int = 100,
) -> YOLOv2:
    """YOLOv2: Darknet-19, a passthrough of its finer map, and one convolution that predicts boxes at each cell.

    Args:
        activation: called 22 times with ``sites="all"``; elsewhere the release's leaky ReLU with slope 0.1 stays.
        classes: number of classes.
        anchors: widths and heights in fractions of the image, from :func:`pliant.lab.models.detection.cluster` on the training
            boxes; None are the release's for VOC. Like the release they keep their size in pixels when the input size changes.
        size: input pixels a side, a multiple of 32. Images are stretched to a square, as for the paper's results.
        backbone: "darknet19", the only one.
        weights: "" (random), or a file with the state_dict of this backbone (``detector.backbone``).
        sites: "all", "backbone" (18 activations) or "head" (4).
        width: multiplies all channels, for small machines.
        scales: smallest and largest input size in training, multiples of 32, drawn by :meth:`YOLOv2.resize_for`; None trains at
            ``size``. The paper's are (320, 608), every 10 steps.
        every: steps with one size.
        prior_images: images at the start whose loss also holds the predictions without an object to their anchors.
        score_threshold: least confidence times probability of the class. nms_threshold: IoU above which the lesser of two boxes
            of a class goes. detections: at most, in an image.

    Raises:
        DomainError: a size that is no multiple of 32, or another option out of its range. UnknownNameError: an unknown part or
            backbone. WeightsError: see there.

    Source: Redmon & Farhadi (2017). As the release (yolov2-voc), the finer map has 64 channels before it is folded to
    256, where the paper's text keeps 512. Different on purpose: the fold is torch's pixel_unshuffle, whose order of channels
    differs from the release's; batch normalisation has torch's eps and momentum; the last convolution starts near zero, so that
    the first predictions are the anchors.
    """
    choose("backbone", backbone, "darknet19")
    check_classes("yolov2", classes)
    parts = chosen("yolov2", sites, ("backbone", "head"))
    _check_sizes(size, scales)
    shapes = tuple(VOC_ANCHORS if anchors is None else anchors)
    if not shapes or not all(len(a) == 2 and min(a) > 0 and max(a) <= 1 for a in shapes):
        raise DomainError(
            f"yolov2 was given the anchors {shapes}; expected widths and heights in fractions of the image, in (0, 1]. "
            "pliant.lab.models.detection.cluster makes them from training boxes."
        )
    if width <= 0 or every < 1 or prior_images < 0 or detections < 1:
        raise DomainError(
            f"yolov2 was given width={width}, every={every}, prior_images={prior_images} and detections={detections}; expected "
            "a positive width, at least one step and one detection, and no negative number of images."
        )

    def of(part: str) -> Activation:
        return activation if part in parts else lambda: nn.LeakyReLU(0.1)

    network = YOLOv2(of("backbone"), of("head"), classes, shapes, size, width)
    network.scales, network.every, network.prior_images = scales, every, prior_images
    network.score_threshold, network.nms_threshold, network.detections = score_threshold, nms_threshold, detections
    network.weights_from = load_backbone(network.backbone, "darknet19", weights)
    network.plan = tuple(
        f"{name}: {' '.join(repr(module.act).split())}{'' if name.partition('.')[0] in parts else ' (left: not included)'}"
        for name, module in network.named_modules()
        if isinstance(module, Block)
    )
    return network


@final
class YOLOv2(Detector):
    """The network of :func:`yolov2`, which says what it is made of.

    Attributes:
        input_size: pixels a side in training; see :meth:`resize_for`. Detection is at ``size``.
        seen: int64, images trained on, as the loss begins with a term that later goes.
    """

    anchors: Tensor
    seen: Tensor
    scales: tuple[int, int] | None = None
    every = 10
    prior_images = 12_800
    score_threshold = 0.005
    nms_threshold = 0.45
    detections = 100

    def __init__(
        self,
        backbone: Activation,
        head: Activation,
        classes: int,
        anchors: Sequence[tuple[float, float]],
        size: int,
        width: float,
    ) -> None:
        super().__init__()
        self.classes, self.size, self.input_size = classes, size, size
        self.backbone = Darknet19(backbone, width)
        inner, passed = self.backbone.out, channels_at(width, 64)
        output = nn.Conv2d(inner, len(anchors) * (5 + classes), 1)
        nn.init.normal_(output.weight, std=0.01)
        assert output.bias is not None
        nn.init.zeros_(output.bias)
        self.head = nn.ModuleDict(
            {
                "deep": nn.Sequential(Block(head, inner, inner, 3), Block(head, inner, inner, 3)),
                "fine": Block(head, self.backbone.passed, passed, 1),
                "joined": Block(head, inner + 4 * passed, inner, 3),
                "output": output,
            }
        )
        # In cells: an object that fills an anchor at one input size needs a larger one at a larger size.
        self.register_buffer("anchors", torch.tensor(anchors, dtype=torch.float32) * (size / STRIDE))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def resize_for(self, seed: int, step: int) -> int:
        """Set ``input_size`` for a step: for each ``every`` steps one of the sizes of ``scales``, all as likely.

        Returns:
            The size in pixels.
        """
        if self.scales is not None:
            smallest, largest = self.scales
            # hash() of Python differs from run to run for text, and small seeds of generators give related first numbers.
            digest = hashlib.sha256(f"{seed}/{step // self.every}".encode()).digest()
            choices = (largest - smallest) // STRIDE + 1
            self.input_size = smallest + STRIDE * (int.from_bytes(digest[:8], "big") % choices)
        return self.input_size

    def predict(self, images: list[Tensor], size: int) -> Tensor:
        """Images of any sizes, stretched to ``size`` -> (N, H, W, A, 5 + C) in float32, coded as ``region`` says."""
        batch = torch.stack([_stretched(i, size) for i in images])
        middle, last = self.backbone(batch)
        fine = F.pixel_unshuffle(self.head["fine"](middle), 2)
        raw: Tensor = self.head["output"](self.head["joined"](torch.cat([fine, self.head["deep"](last)], dim=1)))
        n, _, rows, columns = raw.shape
        return raw.float().view(n, len(self.anchors), 5 + self.classes, rows, columns).permute(0, 3, 4, 1, 2)

    def losses(self, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """The parts of ``region.region_loss``. Boxes under a thousandth of a side of the image are left out."""
        boxes = [t["boxes"] / _sides(i) for t, i in zip(targets, images, strict=True)]
        seen = [((b[:, 2:] - b[:, :2]) > 1e-3).all(dim=1) for b in boxes]
        labels = [t["labels"][s] for t, s in zip(targets, seen, strict=True)]
        early = (self.seen < self.prior_images).float()
        self.seen += len(images)
        raw = self.predict(images, self.input_size)
        return region_loss(raw, [b[s] for b, s in zip(boxes, seen, strict=True)], labels, self.anchors, prior=early)

    def detect(self, images: list[Tensor]) -> list[Target]:
        """Boxes whose confidence times probability of a class is large enough; one box may be given for several classes."""
        raw = self.predict(images, self.size)
        boxes = decode(raw, self.anchors).flatten(1, 3).clamp(0, 1)
        scores = (raw[..., 4:5].sigmoid() * raw[..., 5:].softmax(dim=-1)).flatten(1, 3)
        return [self._select(b * _sides(i), s) for b, s, i in zip(boxes, scores, images, strict=True)]

    def _select(self, boxes: Tensor, scores: Tensor) -> Target:
        place, label = (scores > self.score_threshold).nonzero(as_tuple=True)
        score = scores[place, label]
        score, order = score.sort(descending=True, stable=True)
        order, score = order[:_CANDIDATES], score[:_CANDIDATES]
        box, label = boxes[place[order]], label[order]
        kept = batched_nms(box, score, label, self.nms_threshold)[: self.detections]
        return {"boxes": box[kept], "scores": score[kept], "labels": label[kept]}


def _sides(image: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    return torch.tensor([width, height, width, height], dtype=torch.float32, device=image.device)


def _stretched(image: Tensor, size: int) -> Tensor:
    if image.shape[-2:] == (size, size):
        return image
    return F.interpolate(image[None], (size, size), mode="bilinear", align_corners=False, antialias=True)[0]


def _check_sizes(size: int, scales: tuple[int, int] | None) -> None:
    every = (size, *(scales or ()))
    if (scales is not None and (len(scales) != 2 or scales[0] > scales[1])) or any(s < STRIDE or s % STRIDE for s in every):
        raise DomainError(
            f"yolov2 was given size={size} and scales={scales}; expected multiples of {STRIDE} pixels, and the "
            "smaller scale first. The paper's are 416 and (320, 608)."
        )
