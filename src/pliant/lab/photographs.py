"""Images with boxes as a detector is shown them: read when they are due, changed at random, and put on the device.

Every random number of an image comes from a generator of its own, seeded by trial, epoch and image: what an image looks like in
an epoch depends on no other image, on no thread and on nothing that happened before, so a resumed trial sees what it would have
seen, and so does every activation.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from pliant.lab.datasets import Detection
from pliant.lab.recipe import Augment

__all__ = ["Target", "changed", "read", "stream"]

Target = dict[str, Tensor]
Example = tuple[Tensor, Target]

NONE: Final = Augment()
GREY: Final = 114
"""Of what lies beside an image that was made smaller: the mean of photographs."""
AHEAD: Final = 2
"""Batches that are read while another is trained on."""


def stream(
    data: Detection, parts: Iterable[Sequence[int]], device: torch.device, augment: Augment = NONE, seed: int | None = None
) -> Iterator[tuple[list[Tensor], list[Target]]]:
    """Batch by batch the images, float in 0..1 of shape (3, H, W), and their targets, on the device.

    Args:
        parts: the images of each batch.
        augment: what is done to them. seed: of an epoch; None shows them as they are.

    Raises:
        DataError: an image is missing or damaged; the message names the file.
    """
    # Pillow decodes without the interpreter's lock, in as many threads as the computation has.
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        waiting: deque[list[Future[Example]]] = deque()
        todo = iter(parts)

        def ask(batch: Sequence[int]) -> None:
            waiting.append([pool.submit(read, data, int(i), augment, seed) for i in batch])

        try:
            for batch in itertools.islice(todo, AHEAD + 1):
                ask(batch)
            while waiting:
                examples = [future.result() for future in waiting.popleft()]
                for batch in itertools.islice(todo, 1):
                    ask(batch)
                yield (
                    [image.to(device).to(torch.float32) / 255 for image, _ in examples],
                    [{name: value.to(device) for name, value in target.items()} for _, target in examples],
                )
        finally:
            pool.shutdown(cancel_futures=True)


def read(data: Detection, i: int, augment: Augment = NONE, seed: int | None = None) -> Example:
    """Image i, uint8 of shape (3, H, W), and what a detector is to find in it: ``boxes`` float32 (k, 4), ``labels`` int64 (k,).

    Crowds and objects marked difficult are not trained on, as in the released code of the detectors.
    """
    pixels, annotated = data.example(i)
    taught = ~(annotated["iscrowd"] | annotated["difficult"])
    image = torch.from_numpy(pixels)
    boxes = torch.from_numpy(np.ascontiguousarray(annotated["boxes"][taught]))
    labels = torch.from_numpy(np.ascontiguousarray(annotated["labels"][taught]))
    if seed is not None:
        image, boxes, labels = changed(image, boxes, labels, augment, torch.Generator().manual_seed(seed + i))
    return image, {"boxes": boxes, "labels": labels}


def changed(
    image: Tensor, boxes: Tensor, labels: Tensor, augment: Augment, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """An image of an epoch and its boxes: colours, then zoom, then mirror, see :class:`Augment`.

    Args:
        image: uint8, shape (3, H, W). boxes: float32, shape (k, 4). labels: int64, shape (k,).

    Returns:
        The same for the changed image, which has the same size. Boxes are cut off at its border.
    """
    if augment.photometric:
        image = _recoloured(image, generator)
    if augment.scale is not None:
        image, boxes, labels = _zoomed(image, boxes, labels, augment.scale, generator)
    if augment.flip and _uniform(generator, 0, 1) < 0.5:
        image = functional.horizontal_flip(image)
        width = image.shape[2]
        boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)
    return image, boxes, labels


def _uniform(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _recoloured(image: Tensor, generator: torch.Generator) -> Tensor:
    """The distortions of SSD (Liu et al. 2016) in torchvision's ranges, each with probability one half; without its permutation
    of channels."""
    late = _uniform(generator, 0, 1) < 0.5
    steps = [
        (functional.adjust_brightness, 0.875, 1.125),
        (functional.adjust_contrast, 0.5, 1.5),
        (functional.adjust_saturation, 0.5, 1.5),
        (functional.adjust_hue, -0.05, 0.05),
    ]
    if late:
        # Contrast comes before or after the colours, which do not commute.
        steps.append(steps.pop(1))
    for change, low, high in steps:
        wanted, amount = _uniform(generator, 0, 1) < 0.5, _uniform(generator, low, high)
        if wanted:
            image = change(image, amount)
    return image


def _zoomed(
    image: Tensor, boxes: Tensor, labels: Tensor, factors: tuple[float, float], generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    _, height, width = image.shape
    factor = _uniform(generator, *factors)
    rows, columns = max(1, round(height * factor)), max(1, round(width * factor))
    large = functional.resize(image, [rows, columns], antialias=True)
    # Where the image's corner lies in the resized one, negative where that is the smaller.
    top, left = (round(_uniform(generator, 0, 1) * (have - want)) for have, want in ((rows, height), (columns, width)))
    canvas = torch.full_like(image, GREY)
    inside = large[:, max(0, top) : top + height, max(0, left) : left + width]
    y, x = max(0, -top), max(0, -left)
    canvas[:, y : y + inside.shape[1], x : x + inside.shape[2]] = inside
    scale = boxes.new_tensor([columns / width, rows / height] * 2)
    moved = boxes * scale - boxes.new_tensor([left, top] * 2)
    border = boxes.new_tensor([width, height])
    centre = (moved[:, :2] + moved[:, 2:]) / 2
    cut = torch.cat([moved[:, :2].clamp(min=0), moved[:, 2:].minimum(border)], dim=1)
    kept = ((centre >= 0) & (centre < border) & (cut[:, 2:] > cut[:, :2])).all(dim=1)
    return canvas, cut[kept], labels[kept]
