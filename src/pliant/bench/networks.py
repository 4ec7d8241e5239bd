"""The networks whose training steps are measured; every one is built with ``nn.ReLU`` and swapped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from pliant.errors import MissingExtraError, unknown

__all__ = ["NETWORKS", "Network", "network"]

CLASSES = 10


@dataclass(frozen=True)
class Network:
    """A network and the batch it is fed.

    Args:
        name: as on the command line. build: a new network with nn.ReLU, ten classes. shape: of one example. batch: examples.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch: int


def _mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, CLASSES)
    )  # fmt: skip


def _torchvision(name: str, **options: object) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        try:
            from torchvision import models
        except ImportError as missing:
            raise MissingExtraError(f"The network {name} comes from torchvision: run pip install torchvision.") from missing
        made: nn.Module = getattr(models, name)(weights=None, num_classes=CLASSES, **options)
        return made

    return build


def _lab(name: str, shape: tuple[int, ...], otherwise: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """The network of the paper from the lab, or torchvision's of that name where the lab is not installed or lacks it."""

    def build() -> nn.Module:
        try:
            from pliant.lab import models
        except ImportError:
            return otherwise()
        if name not in models.ALL:
            return otherwise()
        made: nn.Module = models.ALL[name](nn.ReLU, input_shape=shape, outputs=CLASSES)
        return made

    return build


CIFAR = (3, 32, 32)
ALEXNET = (3, 64, 64)
"""torchvision's AlexNet halves an image five times and needs 63 pixels."""

NETWORKS = {
    n.name: n
    for n in (
        Network("mlp", _mlp, (784,), 128),
        Network("resnet34", _torchvision("resnet34"), CIFAR, 32),
        Network("alexnet", _lab("alexnet", ALEXNET, _torchvision("alexnet")), ALEXNET, 32),
        Network("vgg16", _lab("vgg16", CIFAR, _torchvision("vgg16_bn")), CIFAR, 32),
        Network(
            "googlenet",
            _lab("googlenet", CIFAR, _torchvision("googlenet", aux_logits=False, init_weights=False)),
            CIFAR,
            32,
        ),
        Network("resnet50", _lab("resnet50", CIFAR, _torchvision("resnet50")), CIFAR, 32),
        Network("densenet201", _lab("densenet201", CIFAR, _torchvision("densenet201")), CIFAR, 32),
    )
}
"""By name. To add one: one line."""


def network(name: str) -> Network:
    """The network of a name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in NETWORKS:
        raise unknown("network in the bench", name, NETWORKS)
    return NETWORKS[name]
