"""Examples as a network is shown them: kept on the device, normalised and augmented there a batch at a time.

Bytes stay bytes until their batch is due: an epoch then moves nothing to the device, and CIFAR takes 150 MB of it and not 600.
Images lie there channels last, which is what convolutions want on a GPU and what cutting a random window out of each needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pliant.lab.datasets import Data
from pliant.lab.datasets.arrays import DataError
from pliant.lab.recipe import Augment, Normalise

__all__ = ["Changes", "Examples", "batches"]

CHUNK = 4096
"""Examples whose sums are taken at once, so that a large data set is never converted as a whole."""


@dataclass(frozen=True, eq=False)
class Changes:
    """What augmentation does to each example of an epoch, in the order in which they are shown. On the device.

    Args:
        top, left: int64, shape (n,): where the window begins in the padded image.
        flip: bool, shape (n,).
    """

    padding: int
    top: Tensor
    left: Tensor
    flip: Tensor

    @classmethod
    def draw(cls, augment: Augment, n: int, seed: int, device: torch.device) -> Changes | None:
        """The changes of one epoch of ``n`` examples, None where nothing changes. Drawn on the host, so that a trial sees the
        same images on every device, and from a generator of their own, so that they shift no other draw."""
        if not augment.padding and not augment.flip:
            return None
        generator = torch.Generator().manual_seed(seed)
        places = torch.randint(0, 2 * augment.padding + 1, (2, n), generator=generator)
        flip = torch.rand(n, generator=generator) < 0.5 if augment.flip else torch.zeros(n, dtype=torch.bool)
        top, left = places.to(device)
        return cls(augment.padding, top, left, flip.to(device))

    def __getitem__(self, part: slice) -> Changes:
        return Changes(self.padding, self.top[part], self.left[part], self.flip[part])

    def __call__(self, images: Tensor) -> Tensor:
        """The changed images, shape (b, H, W, C) in and out."""
        b, height, width, _ = images.shape
        p = self.padding
        padded = torch.nn.functional.pad(images, (0, 0, p, p, p, p)) if p else images
        rows = self.top[:, None] + torch.arange(height, device=images.device)
        columns = self.left[:, None] + torch.arange(width, device=images.device)
        columns = torch.where(self.flip[:, None], columns.flip(1), columns)
        which = torch.arange(b, device=images.device)
        return padded[which[:, None, None], rows[:, :, None], columns[:, None, :]]


@dataclass(frozen=True, eq=False)
class Examples:
    """All examples of a trial on its device.

    Args:
        x: shape (n, ...), images as (n, H, W, C); uint8, or float32 that is normalised already.
        y: the labels, see :class:`Data`.
        scale, shift: for bytes: float32, broadcastable to x; a batch is ``x * scale + shift``. None: each image by itself.
    """

    x: Tensor
    y: Tensor
    scale: Tensor | None = None
    shift: Tensor | None = None

    @classmethod
    def of(cls, data: Data, normalise: Normalise, fitted: NDArray[np.int64], device: torch.device) -> Examples:
        """Put ``data`` on the device.

        Args:
            fitted: the rows whose values may be looked at for means and deviations.

        Raises:
            DataError: the stated means are not one a channel.
        """
        y = torch.from_numpy(np.array(data.y)).to(device)
        if data.x.dtype == np.uint8:
            x = torch.from_numpy(np.array(_last(data.x), order="C")).to(device)
            if normalise.kind == "image":
                return cls(x, y)
            mean, sd = _moments(data.x, normalise, fitted)
            scale, shift = (
                torch.tensor(_last(v[None])[0] if v.ndim == 3 else v, dtype=torch.float32, device=device)
                for v in (1 / (255 * sd), -mean / sd)
            )
            return cls(x, y, scale, shift)
        values: NDArray[Any] = data.x
        if normalise.kind == "image":
            flat = values.reshape(len(values), -1).astype(np.float64)
            sd = np.maximum(flat.std(axis=1, keepdims=True), 1 / math.sqrt(flat.shape[1]))
            values = ((flat - flat.mean(axis=1, keepdims=True)) / sd).reshape(values.shape)
        elif normalise.kind != "none":
            mean, sd = _moments(data.x, normalise, fitted)
            values = (values - mean) / sd
        return cls(torch.tensor(_last(values), dtype=torch.float32).contiguous().to(device), y)

    def __len__(self) -> int:
        return len(self.y)

    def batch(self, rows: Tensor, changes: Changes | None = None) -> Tensor:
        """The examples as the network sees them: float32, shape (b, ...), images as (b, C, H, W) in channels-last memory."""
        x = self.x.index_select(0, rows)
        if changes is not None:
            x = changes(x)
        if x.dtype == torch.uint8:
            x = x.float()
            if self.scale is None or self.shift is None:
                over = tuple(range(1, x.ndim))
                sd = x.std(over, correction=0, keepdim=True).clamp_min(1 / math.sqrt(x[0].numel()))
                x = (x - x.mean(over, keepdim=True)) / sd
            else:
                x = x.mul_(self.scale).add_(self.shift)
        return x.permute(0, 3, 1, 2) if x.ndim == 4 else x


def batches(order: Tensor, batch_size: int, drop_last: bool = False) -> list[slice]:
    """Where each batch lies in an epoch's order."""
    n = len(order)
    if drop_last and n >= batch_size:
        n -= n % batch_size
    ends = [*range(batch_size, n, batch_size), n]
    if len(ends) > 1 and ends[-1] - ends[-2] == 1:
        # A single example has no batch statistics to normalise with.
        del ends[-2]
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def _last(x: NDArray[np.generic]) -> NDArray[np.generic]:
    return x.transpose(0, 2, 3, 1) if x.ndim == 4 else x


def _moments(
    x: NDArray[np.uint8] | NDArray[np.float32] | NDArray[np.float64], normalise: Normalise, fitted: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What to subtract and divide by, float64, in units of [0, 1] for bytes; broadcastable to one example."""
    if normalise.kind == "none":
        return np.zeros(1), np.ones(1)
    by_channel = normalise.kind == "channels"
    if by_channel and x.ndim < 3:
        raise DataError(
            f"protocol.normalise is 'channels', but the examples have shape {x.shape[1:]}, which has no channels; expected "
            "(C, ...). Use 'features'."
        )
    shape = (-1,) + (1,) * (x.ndim - 2) if by_channel else x.shape[1:]
    if normalise.mean:
        if len(normalise.mean) != x.shape[1]:
            raise DataError(
                f"protocol.normalise gives {len(normalise.mean)} means for examples with {x.shape[1]} channels; give one each."
            )
        return np.asarray(normalise.mean).reshape(shape), np.asarray(normalise.std).reshape(shape)
    axes: Sequence[int] = [0, *range(2, x.ndim)] if by_channel else [0]
    if x.dtype == np.uint8:
        # Whole numbers: the sums are exact, however they are cut.
        total: NDArray[np.int64] = np.zeros([x.shape[1]] if by_channel else x.shape[1:], np.int64)
        squares = total.copy()
        for start in range(0, len(fitted), CHUNK):
            part = x[fitted[start : start + CHUNK]].astype(np.int64)
            total += part.sum(axis=tuple(axes))
            squares += (part * part).sum(axis=tuple(axes))
        n = len(fitted) * (math.prod(x.shape[2:]) if by_channel else 1)
        mean = total / n / 255
        sd = np.sqrt(np.maximum(squares / n - (total / n) ** 2, 0)) / 255
    else:
        known = x[fitted].astype(np.float64)
        mean, sd = known.mean(axis=tuple(axes)), known.std(axis=tuple(axes))
    # A feature that is constant on the fitted part carries nothing to scale; 1 leaves it at zero there.
    return mean.reshape(shape), np.where(sd > 0, sd, 1.0).reshape(shape)
