"""Networks, one a file. To add one: a new file, and its function in ``ALL``.

A network is a function ``f(activation, ...) -> nn.Module``. ``activation()`` gives a fresh activation for one call site; of the
keywords ``input_shape`` (one example's, a tuple) and ``outputs`` (numbers the network returns for an example: 1 for two
classes, else C) the lab passes those that the signature names. All other keywords are the network's options, with defaults.

Classifiers of torchvision and timm have names such as ``torchvision:resnet18`` and ``timm:resnet18``; see
:mod:`pliant.lab.models.external`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from pliant.errors import unknown
from pliant.lab.models import external
from pliant.lab.models.alexnet import alexnet
from pliant.lab.models.cnn import cnn
from pliant.lab.models.densenet import densenet
from pliant.lab.models.ffnn import ffnn
from pliant.lab.models.googlenet import googlenet
from pliant.lab.models.plain import plain
from pliant.lab.models.resnet34 import resnet34
from pliant.lab.models.resnet50 import resnet50
from pliant.lab.models.vgg_v_guess import vgg_v_guess
from pliant.lab.models.vggnet import vggnet

ALL: dict[str, Callable[..., nn.Module]] = {
    "alexnet": alexnet,
    "cnn": cnn,
    "densenet": densenet,
    "ffnn": ffnn,
    "googlenet": googlenet,
    "plain": plain,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "vgg_v_guess": vgg_v_guess,
    "vggnet": vggnet,
}

VERSIONS = dict.fromkeys(ALL, 1) | {}
"""Bumped by hand, on the right, when a change alters the numbers that a network gives; part of a trial's identity."""

LATER: dict[str, tuple[str, ...]] = {"resnet34": ("branch_scale", "logit_scale")}
"""Options that came after results were kept: at their defaults they are no part of a trial's identity."""

FIRST_USE: dict[str, tuple[tuple[int, ...], int]] = {
    "alexnet": ((3, 32, 32), 10),
    "cnn": ((1, 28, 28), 10),
    "densenet": ((3, 32, 32), 10),
    "ffnn": ((1, 28, 28), 10),
    "googlenet": ((3, 32, 32), 10),
    "plain": ((3, 32, 32), 10),
    "resnet34": ((3, 32, 32), 100),
    "resnet50": ((3, 32, 32), 10),
    "vgg_v_guess": ((3, 32, 32), 100),
    "vggnet": ((3, 32, 32), 10),
}
"""Shape of one example and number of outputs where the network's paper uses it first; lists show its size for these."""


def find(name: str) -> Callable[..., nn.Module]:
    """The function of a network by name.

    Raises:
        UnknownNameError: there is none. MissingExtraError: it is of a library that is not installed.
    """
    if ":" in name:
        return external.find(name)
    if name not in ALL:
        raise unknown("network", name, [*ALL, *(f"{library}:NAME" for library in external.LIBRARIES)])
    return ALL[name]


def version(name: str) -> int:
    """The version of a network by name; see ``VERSIONS``."""
    return external.VERSION if ":" in name else VERSIONS[name]


__all__ = [
    "ALL",
    "FIRST_USE",
    "LATER",
    "VERSIONS",
    "alexnet",
    "cnn",
    "densenet",
    "external",
    "ffnn",
    "find",
    "googlenet",
    "plain",
    "resnet34",
    "resnet50",
    "version",
    "vgg_v_guess",
    "vggnet",
]
