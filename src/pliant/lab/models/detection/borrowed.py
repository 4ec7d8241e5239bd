"""A detector of torchvision as a :class:`Detector`."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN

from pliant.errors import DomainError
from pliant.lab.models.detection.detector import Detector, Target
from pliant.lab.models.detection.sites import exchange
from pliant.lab.models.detection.weights import Origin
from pliant.lab.models.layers import Activation
from pliant.swap import Site

__all__ = ["Borrowed", "check_size"]

_PROBE = 32
"""Pixels of the image with which activations are looked for: every level of a pyramid has a cell."""

_PARTS = {"backbone.body.": "backbone", "backbone.fpn.": "fpn"}
"""By how the names of their sites begin; all others are of the head."""


@final
class Borrowed(Detector):
    """A detector of torchvision; classes count from 0 here.

    Args:
        network: the detector. Its inputs are scaled and normalised by itself.
        offset: what torchvision's labels begin at: 1 where 0 is the background.
        origin: of the backbone's weights.
    """

    def __init__(self, network: FasterRCNN | FCOS, offset: int, origin: Origin) -> None:
        super().__init__()
        self.network, self.offset, self.weights_from = network, offset, origin

    def exchange(self, activation: Activation, parts: frozenset[str], gates: tuple[str, ...] = ()) -> Borrowed:
        """Exchange the ReLUs in ``parts``; ``gates`` are modules whose ReLU is a part of a box and no activation."""
        transform: Any = self.network.transform
        before = transform.min_size, transform.max_size

        def run(network: nn.Module) -> object:
            return network([torch.linspace(0, 1, 3 * _PROBE * _PROBE).reshape(3, _PROBE, _PROBE)])

        def part_of(site: Site) -> str:
            if site.owner_name in gates:
                return ""
            return next((p for start, p in _PARTS.items() if site.name.startswith(start)), "head")

        try:
            transform.min_size, transform.max_size = (_PROBE,), _PROBE
            self.plan = exchange(self.network, activation, run=run, part_of=part_of, parts=parts)
        finally:
            transform.min_size, transform.max_size = before
        return self

    def losses(self, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """torchvision's losses, by its names."""
        shifted = [{"boxes": t["boxes"], "labels": t["labels"] + self.offset} for t in targets]
        losses: dict[str, Tensor] = self.network(images, shifted)
        return losses

    def detect(self, images: list[Tensor]) -> list[Target]:
        """torchvision's detections."""
        return [{**found, "labels": found["labels"] - self.offset} for found in self.network(images)]


def check_size(detector: str, size: int, max_size: int | None) -> int:
    """``max_size``, or what it is to 800 pixels in torchvision and the papers.

    Raises:
        DomainError: a size under 32 pixels, or a longer side below the shorter.
    """
    longest = round(size * 1333 / 800) if max_size is None else max_size
    if size < 32 or longest < size:
        raise DomainError(
            f"{detector} was given size={size} and max_size={max_size}; expected the pixels of the shorter side, at least 32, "
            "and of the longer, no fewer."
        )
    return longest
