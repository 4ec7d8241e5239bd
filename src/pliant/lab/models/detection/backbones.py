"""ResNets of torchvision with a feature pyramid, as the backbones of its detectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torchvision
from torch import nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops.misc import FrozenBatchNorm2d

from pliant.errors import DomainError
from pliant.lab.models.detection.weights import Origin, load_backbone
from pliant.lab.models.layers import choose

__all__ = ["pyramid"]

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")
PARTS = (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))
"""What is frozen first."""


def pyramid(
    name: str, weights: str, norm: str, trainable: int | None, levels: tuple[int, ...], channels: int, extra: nn.Module
) -> tuple[BackboneWithFPN, Origin]:
    """A ResNet with a feature pyramid, and where its weights are from.

    Args:
        name: one of RESNETS. weights: see :func:`pliant.lab.models.detection.weights.load_backbone`.
        norm: "batch"; "frozen", batch normalisation with the constants of the weights, which is torchvision's default; "group",
            group normalisation, for batches of one or two images; "auto" is frozen with weights and batch without. Frozen
            constants that were never learned would be no normalisation at all: with random weights they are refused.
        trainable: how many of its five parts learn, from the last; None is torchvision's 3 with weights and all 5 without.
            Activations that are put in learn in all parts.
        levels: stages that the pyramid is built on, of 1 to 4. channels: of the pyramid. extra: makes its further levels.

    Raises:
        DomainError: parts frozen at random weights; a number out of its range. UnknownNameError: an unknown ResNet or
            normalisation. WeightsError: see ``load_backbone``.
    """
    choose("backbone", name, *RESNETS)
    choose("norm", norm, "auto", "batch", "frozen", "group")
    if norm == "auto":
        norm = "frozen" if weights else "batch"
    if trainable is None:
        trainable = 3 if weights else 5
    if not 0 <= trainable <= 5:
        raise DomainError(f"trainable={trainable} was given; expected how many of the five parts of {name} learn, 0 to 5.")
    # The heads of FCOS normalise 32 groups, and the topmost level may be a single cell.
    if channels < 64 or channels % 32:
        raise DomainError(f"pyramid_channels={channels} was given; expected a multiple of 32, at least 64.")
    if not weights and (norm == "frozen" or trainable < 5):
        raise DomainError(
            f'{name} with random weights was given norm="{norm}" and trainable={trainable}: parts that never learned would '
            'stay as they were drawn. Give weights, or norm="batch" or "group" and trainable=5.'
        )
    network = getattr(torchvision.models, name)(weights=None, norm_layer=_NORMS[norm])
    origin = load_backbone(network, name, weights)
    for part in PARTS[: 5 - trainable]:
        for module in part:
            getattr(network, module).requires_grad_(False)
    stages = [network.fc.in_features // 2 ** (4 - level) for level in levels]
    returned = {f"layer{level}": str(i) for i, level in enumerate(levels)}
    return BackboneWithFPN(network, returned, stages, channels, extra), origin


def _group(channels: int) -> nn.Module:
    return nn.GroupNorm(32, channels)


_NORMS: dict[str, Callable[..., Any]] = {"batch": nn.BatchNorm2d, "frozen": FrozenBatchNorm2d, "group": _group}
