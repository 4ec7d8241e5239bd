"""Examples as a network is shown them: kept on the device, normalised and augmented there a batch at a time.

Bytes stay bytes until their batch is due: an epoch then moves nothing to the device, and CIFAR takes 150 MB of it and not 600.
Images lie there channels last, which is what convolutions want on a GPU and what cutting a random window out of each needs.
"""

from __future__ import annotations

import itertools
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
        x: shape (n, ...), images as (n, H, W, C); uint8, or torch's default float that is normalised already.
        y: the labels, see :class:`Data`.
        scale, shift: for bytes: floats, broadcastable to x; a batch is ``x * scale + shift``. None: each image by itself.
    """

    x: Tensor
    y: Tensor
    scale: Tensor | None = None
    shift: Tensor | None = None

    @classmethod
    def of(
        cls,
        data: Data,
        normalise: Normalise,
        fitted: NDArray[np.int64],
        device: torch.device,
        like: Examples | None = None,
    ) -> Examples:
        """Put ``data`` on the device.

        Args:
            fitted: the rows whose values may be looked at for means and deviations.
            like: what another call made of the same data for the same device; bytes and labels are not put there twice.

        Raises:
            DataError: the stated means are not one a channel.
        """
        dtype = torch.get_default_dtype()
        y = torch.from_numpy(np.array(data.y)).to(device) if like is None else like.y
        if data.x.dtype == np.uint8:
            x = torch.from_numpy(np.array(_last(data.x), order="C")).to(device) if like is None else like.x
            if normalise.kind == "image":
                return cls(x, y)
            mean, sd = _moments(data.x, normalise, fitted)
            scale, shift = (
                torch.tensor(_last(v[None])[0] if v.ndim == 3 else v, dtype=dtype, device=device)
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
        return cls(torch.tensor(_last(values), dtype=dtype).contiguous().to(device), y)

    def __len__(self) -> int:
        return len(self.y)

    def batch(self, rows: Tensor, changes: Changes | None = None) -> Tensor:
        """The examples as the network sees them: torch's default float, images as (..., C, H, W) in channels-last memory.

        Args:
            rows: int64, shape (b,); or of any shape, which the examples then have in front of their own. With ``changes``
                (b,).
        """
        x = self.x.index_select(0, rows.flatten())
        if changes is not None:
            x = changes(x)
        x = x.view(*rows.shape, *x.shape[1:])
        if x.dtype == torch.uint8:
            x = x.to(torch.get_default_dtype())
            if self.scale is None or self.shift is None:
                over = tuple(range(rows.ndim, x.ndim))
                values = math.prod(x.shape[rows.ndim :])
                sd = x.std(over, correction=0, keepdim=True).clamp_min(1 / math.sqrt(values))
                x = (x - x.mean(over, keepdim=True)) / sd
            else:
                x = x.mul_(self.scale).add_(self.shift)
        return x.movedim(-1, -3) if self.x.ndim == 4 else x

    @classmethod
    def together(cls, several: Sequence[Examples]) -> tuple[Examples, list[int]]:
        """Those of L trials as one, for rows of shape (L, b), and what to add to each trial's row numbers. Tensors that trials
        share are there once. All are bytes that are normalised in one way, or none is."""
        bases = {id(e.x): e for e in several}
        starts = dict(zip(bases, itertools.accumulate((len(e) for e in bases.values()), initial=0), strict=False))
        x, y = (_joined([getattr(e, name) for e in bases.values()]) for name in ("x", "y"))
        scale, shift = (
            # A row for each trial; one number for all pixels has no axes of its own yet.
            None if getattr(several[0], name) is None else torch.stack([_spread(getattr(e, name), x) for e in several])
            for name in ("scale", "shift")
        )
        return cls(x, y, scale, shift), [starts[id(e.x)] for e in several]


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(tensors)) if len(tensors) > 1 else tensors[0]


def _spread(values: Tensor, x: Tensor) -> Tensor:
    """With as many axes as a batch of one trial: shape (1, ...)."""
    return values.reshape((1,) * (x.ndim - values.ndim) + values.shape)


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
