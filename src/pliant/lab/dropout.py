"""Dropout whose masks are a function of a seed, a layer and a place in its stream: quick, and the same wherever it runs.

torch's dropout on a CPU draws a 32-bit number for every element from one generator for the whole process. That is slow (in a
small network it costs more than the matrix products), and it ties the mask of a layer to everything else that drew before
it. Here every layer of every trial has a stream of its own, re-seeded each epoch, so that a network draws the same masks
whether it is trained alone, in a stack with others (:mod:`pliant.lab.stacked`), or resumed.

A mask takes 16 bits an element: the share dropped is p to within 2^-17 = 7.7e-6, and what is kept is scaled by the share that
is in fact kept, so the expectation of the output is the input exactly. The bits are numpy's SFC64, whose stream numpy
guarantees not to change; the four elements of a 64-bit word are in the machine's byte order. On devices other than the CPU
the module is torch's own dropout, which is quick there.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["Dropout", "keep_mask", "reseed", "stream", "take_over", "words"]

_PER_WORD = 4
_LEVELS = 1 << 16


class Dropout(nn.Dropout):
    """``nn.Dropout`` that draws from the stream that :func:`reseed` gave it; without one it is ``nn.Dropout``.

    Shape:
        Input and output: any shape, floating point. Each call in training mode takes the next ceil(numel / 4) words.
    """

    def forward(self, x: Tensor) -> Tensor:
        # The device first: a compiler on a GPU would else watch the stream, and compile anew when an epoch replaces it.
        if not self.training or x.device.type != "cpu" or (drawn := getattr(self, "stream", None)) is None:
            return super().forward(x)
        if self.p == 0:
            return x
        bits = torch.from_numpy(drawn.random_raw(words(x.numel())).view(np.int16))
        return x * keep_mask(bits[: x.numel()].view(x.shape), self.p, x.dtype)


def words(elements: int) -> int:
    """How many 64-bit words the mask of so many elements takes."""
    return -(-elements // _PER_WORD)


def keep_mask(bits: Tensor, p: float, dtype: torch.dtype) -> Tensor:
    """From uniform int16 numbers, any shape, to 0 where an element is dropped and 1 / (share kept) where it stays."""
    dropped = round(p * _LEVELS)
    mask = torch.empty(bits.shape, dtype=dtype)
    if dropped >= _LEVELS:
        return mask.zero_()
    # Written straight into floats: by way of booleans it takes four times as long.
    torch.ge(bits, dropped - _LEVELS // 2, out=mask)
    return mask.mul_(_LEVELS / (_LEVELS - dropped))


def stream(seed: int, layer: int) -> np.random.SFC64:
    """The bits of one dropout layer: independent for any difference in ``seed`` or ``layer``, both >= 0."""
    return np.random.SFC64((seed, layer))


def take_over(network: nn.Module) -> None:
    """Turn every ``nn.Dropout`` of a network, whoever wrote it, into a :class:`Dropout`, in place.

    Subclasses and functional dropout stay with torch's generator. The object itself changes its class, because a network may
    hold it in places that are not submodules (a list, a closure).
    """
    for module in network.modules():
        if type(module) is nn.Dropout:
            module.__class__ = Dropout


def reseed(network: nn.Module, seed: int) -> None:
    """Start the streams of all :class:`Dropout` layers anew; a layer's number is its place in ``network.modules()``
    among them."""
    layers = [m for m in network.modules() if isinstance(m, Dropout)]
    for i, module in enumerate(layers):
        module.stream = stream(seed, i)  # type: ignore[assignment]
