"""MNIST and Fashion-MNIST: 28 x 28 grey images in IDX files, as they are or gzipped."""

from __future__ import annotations

import gzip
import io
import math
import zlib
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pliant.lab.datasets.arrays import Data, DataError
from pliant.lab.datasets.balance import balanced
from pliant.lab.datasets.files import Download, File, Manifest, is_official, read, root, write

__all__ = ["MNIST", "FashionMNIST"]

_PARTS = {"train": 0, "t10k": 2}
_LARGEST = 1 << 32
"""Bytes beyond which no IDX file of this kind goes."""


def parse_idx(content: bytes, name: str) -> NDArray[np.uint8]:
    """The array of an IDX file of unsigned bytes (magic 0x000008, number of axes, one big-endian uint32 an axis, values).

    Raises:
        DataError: another format, or another length than the header says.
    """
    if content[:2] == b"\x1f\x8b":
        content = _unpacked(content, name)
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or not 1 <= content[3] <= 4:
        raise DataError(
            f"{name} is not an IDX file of bytes: it begins with {content[:4].hex() or 'nothing'}, but 000008 and the "
            "number of axes were expected. Fetch it again."
        )
    start = 4 + 4 * content[3]
    shape = tuple(int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4))
    if len(content) < start or len(content) - start != math.prod(shape):
        raise DataError(
            f"{name} has {max(0, len(content) - start)} values, but its header announces {'x'.join(map(str, shape))} = "
            f"{math.prod(shape)}: it is truncated or damaged."
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _unpacked(content: bytes, name: str) -> bytes:
    """What a gzip file holds, up to one byte more than its IDX header announces: a small file can hold a terabyte of zeros."""
    try:
        with gzip.open(io.BytesIO(content)) as stream:
            start = stream.read(4)
            axes = start[3] if len(start) == 4 else 0
            sizes = stream.read(4 * axes)
            announced = math.prod(int.from_bytes(sizes[i : i + 4], "big") for i in range(0, len(sizes), 4))
            return start + sizes + stream.read(min(announced, _LARGEST) + 1)
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{name} is a damaged or truncated gzip file: {error}. Fetch it again.") from None


def idx(array: NDArray[np.uint8]) -> bytes:
    """The IDX file of an array."""
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


class _Idx:
    name: ClassVar[str]
    version: ClassVar = 1
    title: ClassVar[str]
    folder: ClassVar[str]
    mirror: ClassVar[str]
    classes: ClassVar[tuple[str, ...]]
    checksums: ClassVar[dict[str, tuple[str, str]]]
    """Of each file: sha256 as it is, md5 gzipped."""

    @classmethod
    def files(cls, *, official: bool = True) -> Manifest:
        files, downloads = [], []
        for name, (raw, packed) in cls.checksums.items():
            path = f"{cls.folder}/raw/{name}"
            archive = File(f"{path}.gz", f"md5:{packed}")
            # A gzipped copy is as good; what is missing is asked for as it is published.
            plain = File(path, f"sha256:{raw}")
            files.append(plain if plain.at(root()).is_file() else archive)
            downloads.append(Download(f"{cls.mirror}{name}.gz", archive.path, archive.checksum, gives=(files[-1].path,)))
        return Manifest(tuple(files), tuple(downloads))

    @classmethod
    def load(cls, *, official: bool = True) -> Data:
        """Images uint8, shape (70000, 1, 28, 28); the first 60,000 are the official training part, the others the test part.

        Args:
            official: False accepts other files than the official ones, such as a subset, and says so in every output.

        Raises:
            DataError: a file is missing, damaged, or does not fit the others.
        """
        manifest = cls.files(official=official)
        folder = manifest.require(cls.name)
        content = {Path(f.path).name.removesuffix(".gz"): (f, read(f, folder, official=official)) for f in manifest.files}
        x: list[NDArray[np.uint8]] = []
        y: list[NDArray[np.uint8]] = []
        parts: list[NDArray[np.int8]] = []
        for part, number in _PARTS.items():
            images = parse_idx(content[f"{part}-images-idx3-ubyte"][1], f"{folder / cls.folder}/raw/{part}-images-idx3-ubyte")
            labels = parse_idx(content[f"{part}-labels-idx1-ubyte"][1], f"{folder / cls.folder}/raw/{part}-labels-idx1-ubyte")
            where = f"{folder / cls.folder}: the {part} part"
            if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
                raise DataError(
                    f"{where} has images of shape {images.shape} and labels of shape {labels.shape}; "
                    "expected one label an image."
                )
            if labels.size and labels.max() >= len(cls.classes):
                raise DataError(
                    f"{where} holds the label {labels.max()} (image {labels.argmax()}), but there are "
                    f"{len(cls.classes)} classes, 0 to {len(cls.classes) - 1}."
                )
            if x and images.shape[1:] != x[0].shape[2:]:
                raise DataError(f"{where} has images of {images.shape[1:]} pixels, but the train part of {x[0].shape[2:]}.")
            x.append(images[:, None])
            y.append(labels)
            parts.append(np.full(len(labels), number, np.int8))
        note = ""
        if not official and not all(is_official(file, data) for file, data in content.values()):
            note = f"{cls.title} (not the official files: {len(y[0]):,} + {len(y[1]):,} of 60,000 + 10,000 images)"
        every = np.concatenate(x)
        every.flags.writeable = False
        return Data.of(every, np.concatenate(y), cls.classes, cls.name, parts=np.concatenate(parts), note=note)

    @classmethod
    def subset(cls, target: Path, per_class: int, seed: int, *, official: bool = True) -> Path:
        """Write ``per_class`` images of each class and part, in the same format, below ``target``; the folder written.

        Raises:
            DataError: a class has fewer.
        """
        data = cls.load(official=official)
        rows = balanced(data, per_class, seed, cls.name)
        assert data.parts is not None
        for part, number in _PARTS.items():
            chosen = rows[data.parts[rows] == number]
            for name, array in (("images-idx3", data.x[chosen, 0]), ("labels-idx1", data.y[chosen])):
                write(target / cls.folder / "raw" / f"{part}-{name}-ubyte", idx(array.astype(np.uint8)))
        return target / cls.folder


class MNIST(_Idx):
    """Handwritten digits, 28 x 28 grey: 60,000 training and 10,000 test images, 10 classes."""

    name: ClassVar = "mnist"
    source: ClassVar = "LeCun, Cortes & Burges (1998), http://yann.lecun.com/exdb/mnist"
    title: ClassVar = "MNIST"
    folder: ClassVar = "MNIST"
    mirror: ClassVar = "https://ossci-datasets.s3.amazonaws.com/mnist/"
    classes: ClassVar = tuple(map(str, range(10)))
    checksums: ClassVar = {
        "train-images-idx3-ubyte": (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        ),
        "train-labels-idx1-ubyte": (
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "d53e105ee54ea40749a09fcbcd1e9432",
        ),
        "t10k-images-idx3-ubyte": (
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "9fb629c4189551a2d022fa330f9573f3",
        ),
        "t10k-labels-idx1-ubyte": (
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
    }


class FashionMNIST(_Idx):
    """Articles of clothing, 28 x 28 grey: 60,000 training and 10,000 test images, 10 classes."""

    name: ClassVar = "fashion-mnist"
    source: ClassVar = "Xiao, Rasul & Vollgraf (2017), https://github.com/zalandoresearch/fashion-mnist"
    title: ClassVar = "Fashion-MNIST"
    folder: ClassVar = "FashionMNIST"
    mirror: ClassVar = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
    classes: ClassVar = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    checksums: ClassVar = {
        "train-images-idx3-ubyte": (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        ),
        "train-labels-idx1-ubyte": (
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "25c81989df183df01b3e8a0aad5dffbe",
        ),
        "t10k-images-idx3-ubyte": (
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "bef4ecab320f06d8554ea6380940ec79",
        ),
        "t10k-labels-idx1-ubyte": (
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
    }
