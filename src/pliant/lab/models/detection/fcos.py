"""FCOS with any activation."""

from __future__ import annotations

from collections.abc import Sequence

from torchvision.models.detection import fcos as torchvision_fcos
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from pliant.errors import DomainError
from pliant.lab.models.detection.backbones import pyramid
from pliant.lab.models.detection.borrowed import Borrowed, check_size
from pliant.lab.models.detection.detector import check_classes
from pliant.lab.models.detection.sites import chosen
from pliant.lab.models.layers import Activation

__all__ = ["fcos"]


def fcos(
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
    head_convs: int = 4,
    score_threshold: float = 0.05,
    detections: int = 100,
) -> Borrowed:
    """torchvision's FCOS with a ResNet and a feature pyramid.

    Args:
        activation: called at each site: 49 in ResNet-50 (17 in ResNet-18), one in the pyramid, and 2 ``head_convs`` in the
            head, which all levels share. The ReLU at the end of the regression makes distances positive and stays.
        classes: number of classes; FCOS has no background class.
        anchors: None; FCOS has none.
        size: pixels of the shorter side. max_size: of the longer; None is 1333 / 800 of ``size``.
        backbone: "resnet18", "resnet34", "resnet50" or "resnet101".
        weights: "", a file, or "torchvision"; see :func:`pliant.lab.models.detection.weights.load_backbone`.
        sites: "all", or some of "backbone", "fpn" and "head" with commas between them.
        norm, trainable: see :func:`pliant.lab.models.detection.backbones.pyramid`.
        pyramid_channels: of all its levels, a multiple of 32 from 64; fewer for small machines.
        head_convs: convolutions before the classes, and before the boxes.
        score_threshold, detections: least score (torchvision has 0.2, the paper 0.05) and greatest number of what is
            returned for an image.

    Raises:
        DomainError: an option out of its range. UnknownNameError: an unknown part, backbone or norm. WeightsError: see there.

    Source: Tian et al. (2019), "FCOS: Fully Convolutional One-Stage Object Detection"; torchvision.
    """
    check_classes("fcos", classes)
    parts = chosen("fcos", sites, ("backbone", "fpn", "head"))
    longest = check_size("fcos", size, max_size)
    if anchors is not None:
        raise DomainError("fcos was given anchors=; it predicts distances from points and has none.")
    if head_convs < 1 or detections < 1:
        raise DomainError(f"fcos was given head_convs={head_convs} and detections={detections}; expected at least 1 of each.")
    extra = LastLevelP6P7(pyramid_channels, pyramid_channels)
    body, origin = pyramid(backbone, weights, norm, trainable, (2, 3, 4), pyramid_channels, extra)
    network = torchvision_fcos.FCOS(
        body,
        classes,
        min_size=size,
        max_size=longest,
        head=torchvision_fcos.FCOSHead(body.out_channels, 1, classes, head_convs),
        score_thresh=score_threshold,
        detections_per_img=detections,
    )
    # Labels go from 0: torchvision's default of 91 leaves the class 0 unused, and the network knows nothing of a background.
    return Borrowed(network, 0, origin).exchange(activation, parts, gates=("head.regression_head",))
