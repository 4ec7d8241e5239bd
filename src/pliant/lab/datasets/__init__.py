"""Data sets, one family a file. To add one: a new file, and its class in ``ALL``."""

from __future__ import annotations

from typing import Any, Protocol

from pliant.lab.datasets.arrays import Arrays, Data
from pliant.lab.datasets.cifar import CIFAR10, CIFAR100
from pliant.lab.datasets.files import Manifest
from pliant.lab.datasets.mini_imagenet import MiniImageNet
from pliant.lab.datasets.mnist import MNIST, FashionMNIST
from pliant.lab.datasets.own import CSV, Folder
from pliant.lab.datasets.scikit import WDBC, Digits


class Dataset(Protocol):
    """What the class of a data set offers. Importing it reads nothing.

    ``load`` and ``files`` take the same keyword-only options; their annotations say what an option may be (``bool``, ``int``,
    ``float``, ``str`` or a ``Literal`` of those), and one without a default must be given. An option called ``path`` says where
    data are and is no part of a trial's identity. ``sha256``, where a class without options has it, is the fingerprint of its
    data; studies are then planned without reading them.
    """

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int:
        """Bumped by hand when the same files give other data."""

    @property
    def source(self) -> str: ...
    def load(self, *args: Any, **options: Any) -> Data:
        """The data. Raises :class:`~pliant.lab.datasets.arrays.DataError` where files are missing or cannot be used."""

    def files(self, *args: Any, **options: Any) -> Manifest:
        """What it reads from the disk, and where that comes from."""


ALL: dict[str, Dataset] = {
    dataset.name: dataset for dataset in (WDBC, Digits, MNIST, FashionMNIST, CIFAR10, CIFAR100, MiniImageNet, CSV, Folder)
}

__all__ = [
    "ALL",
    "CIFAR10",
    "CIFAR100",
    "CSV",
    "MNIST",
    "WDBC",
    "Arrays",
    "Data",
    "Dataset",
    "Digits",
    "FashionMNIST",
    "Folder",
    "Manifest",
    "MiniImageNet",
]
