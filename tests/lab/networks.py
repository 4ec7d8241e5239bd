"""Networks and activations of a user's own, importable by worker processes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def tiny(activation: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Linear(30, 8), activation(), nn.Linear(8, 1))


def normed(activation: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(30), *tiny(activation))


def unkept(activation: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(30, track_running_stats=False), *tiny(activation))


def two_logits(activation: Callable[[], nn.Module], *, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    assert outputs == 1
    return nn.Sequential(nn.Linear(*input_shape, 8), activation(), nn.Linear(8, 2))


def wrong_shape(activation: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Linear(30, 3), activation())


class MyReLU(nn.Module):
    """The same function as ReLU under another name, which also draws random numbers while it is built."""

    def __init__(self) -> None:
        super().__init__()
        torch.rand(1000)

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=0)


class Exploding(nn.Module):
    """Fine at first, NaN once an input leaves a small range: every training with a large step diverges."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x.abs() < 20, x, x * torch.nan)
