"""What a detector takes and gives, whatever is inside."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pliant.errors import DomainError
from pliant.lab.models.detection.weights import RANDOM, Origin

__all__ = ["Detector", "check_classes"]

Target = dict[str, Tensor]


class Detector(nn.Module, ABC):
    """A network that finds objects.

    Attributes:
        plan: one line of text for each activation: where it is, and what is there; then what was left alone, and why.
        weights_from: what the backbone started from.
    """

    plan: tuple[str, ...] = ()
    weights_from: Origin = RANDOM

    @abstractmethod
    def losses(self, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """The parts of the loss, scalars to be added up, for images with checked targets."""

    @abstractmethod
    def detect(self, images: list[Tensor]) -> list[Target]:
        """What is found in each image."""

    def resize_for(self, seed: int, step: int) -> int:
        """Choose the input size of a step of training, where the detector trains at several; the same for the same arguments.

        Args:
            seed: of the trial. step: number of the optimizer's step, from 0.

        Returns:
            The size in pixels; 0 for a detector that has one size only.
        """
        return 0

    def forward(
        self, images: list[Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """The losses in training mode, else the objects found.

        Args:
            images: N images of any sizes, float (3, H, W) in 0..1.
            targets: needed in training mode. ``boxes``: float (k, 4), left, top, right, bottom in pixels of the image, 0 at the
                outer edge of its first pixel. ``labels``: int64 (k,), 0 .. classes - 1. k may be 0; boxes are cut off at the
                border of the image, and those without area left out.

        Returns:
            In training mode scalars by name, to be added up. Else for each image ``boxes``, ``labels`` as above and ``scores``
            (k,) in 0..1, best first.

        Raises:
            DomainError: no images, no targets in training mode, or another number of them than of images.
        """
        if not images:
            raise DomainError("The detector was given no image; expected a list of at least one, float of shape (3, H, W).")
        if not self.training:
            with torch.no_grad():
                return self.detect(list(images))
        if targets is None or len(targets) != len(images):
            raise DomainError(
                f"The detector was given {len(images)} images and {'no' if targets is None else len(targets)} targets. In "
                "training mode it computes losses and needs a target for each image; call eval() first to detect objects."
            )
        return self.losses(list(images), [_inside(t, i) for t, i in zip(targets, images, strict=True)])


def _inside(target: Target, image: Tensor) -> Target:
    height, width = image.shape[-2:]
    given = target["boxes"].reshape(-1, 4)
    boxes = given.clamp(min=0).minimum(given.new_tensor([width, height, width, height]))
    left = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    return {"boxes": boxes[left], "labels": target["labels"][left]}


def check_classes(detector: str, classes: int) -> None:
    """Raises DomainError unless ``classes`` is at least 1."""
    if classes < 1:
        raise DomainError(f"{detector} was given classes={classes}; expected the number of classes of objects, at least 1.")
