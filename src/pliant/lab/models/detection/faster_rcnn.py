"""Faster R-CNN with any activation."""

from __future__ import annotations

from collections.abc import Sequence

from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNPredictor, TwoMLPHead
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from pliant.errors import DomainError
from pliant.lab.models.detection.backbones import pyramid
from pliant.lab.models.detection.borrowed import Borrowed, check_size
from pliant.lab.models.detection.detector import check_classes
from pliant.lab.models.detection.sites import chosen
from pliant.lab.models.layers import Activation

__all__ = ["faster_rcnn"]


def faster_rcnn(
    activation: Activation,
    *,
    classes: int,
    anchors: Sequence[tuple[float, float]] | None = None,
    size: int = 800,
    backbone: str = "resnet50",
    weights: str = "",
    sites: str = "all",
    max_size: int | None = None,
    norm: str = "auto",
    trainable: int | None = None,
    pyramid_channels: int = 256,
    levels: tuple[int, ...] = (1, 2, 3, 4),
    anchor_sizes: Sequence[float] | None = None,
    proposals: int | None = None,
    box_features: int = 1024,
    score_threshold: float = 0.05,
    detections: int = 100,
) -> Borrowed:
    """torchvision's Faster R-CNN with a ResNet and a feature pyramid.

    Args:
        activation: called at each site: 49 in ResNet-50 (17 in ResNet-18) and, in the head, one in the proposal network, which
            all levels share, and two in the classifier of proposals. The pyramid has none.
        classes: number of classes, without a background.
        anchors: None; the shapes of anchors are ``anchor_sizes`` in the ratios 1:2, 1:1 and 2:1.
        size: pixels of the shorter side. max_size: of the longer; None is 1333 / 800 of ``size``.
        backbone: "resnet18", "resnet34", "resnet50" or "resnet101".
        weights: "", a file, or "torchvision"; see :func:`pliant.lab.models.detection.weights.load_backbone`.
        sites: "all", "backbone" or "head".
        norm, trainable: see :func:`pliant.lab.models.detection.backbones.pyramid`.
        pyramid_channels: of all its levels, a multiple of 32 from 64; fewer for small machines.
        levels: stages of the ResNet on which the pyramid stands, with one more level above. Most of the time goes into the
            first, at stride 4.
        anchor_sizes: pixels at each level; None is 32, 64 ... 512 for all five at 800 pixels, and in proportion at others.
        proposals: of an image, kept in training and in detection; None is torchvision's 2000 and 1000.
        box_features: width of the classifier of proposals.
        score_threshold, detections: least score and greatest number of what is returned for an image.

    Raises:
        DomainError: an option out of its range. UnknownNameError: an unknown part, backbone or norm. WeightsError: see there.

    Source: Ren et al. (2015), "Faster R-CNN"; Lin et al. (2017), "Feature Pyramid Networks"; torchvision.
    """
    check_classes("faster_rcnn", classes)
    parts = chosen("faster_rcnn", sites, ("backbone", "head"))
    longest = check_size("faster_rcnn", size, max_size)
    if anchors is not None:
        raise DomainError("faster_rcnn was given anchors=; its anchors are given by anchor_sizes=, one for each level.")
    if not levels or tuple(levels) != tuple(range(levels[0], 5)) or levels[0] < 1:
        raise DomainError(
            f"faster_rcnn was given levels={levels}; expected stages from one of 1 to 4 up to 4, such as (2, 3, 4)."
        )
    sides = [16 * 2**i * size / 800 for i in (*levels, 5)] if anchor_sizes is None else list(anchor_sizes)
    if len(sides) != len(levels) + 1 or min(sides) <= 0:
        raise DomainError(
            f"faster_rcnn was given anchor_sizes={sides}; expected {len(levels) + 1} sizes in pixels, finest level first."
        )
    if box_features < 1 or detections < 1 or (proposals is not None and proposals < 1):
        raise DomainError(
            f"faster_rcnn was given box_features={box_features}, detections={detections} and proposals={proposals}; expected "
            "at least 1 of each."
        )
    body, origin = pyramid(backbone, weights, norm, trainable, tuple(levels), pyramid_channels, LastLevelMaxPool())
    network = FasterRCNN(
        body,
        min_size=size,
        max_size=longest,
        rpn_anchor_generator=AnchorGenerator(tuple((s,) for s in sides), ((0.5, 1.0, 2.0),) * len(sides)),
        rpn_post_nms_top_n_train=proposals or 2000,
        rpn_post_nms_top_n_test=proposals or 1000,
        box_head=TwoMLPHead(body.out_channels * 7 * 7, box_features),
        box_predictor=FastRCNNPredictor(box_features, classes + 1),
        box_score_thresh=score_threshold,
        box_detections_per_img=detections,
    )
    return Borrowed(network, 1, origin).exchange(activation, parts)
