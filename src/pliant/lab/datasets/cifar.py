"""CIFAR-10 and CIFAR-100: 32 x 32 colour images in the python pickles of the official release.

A pickle is a program, and one from the network is a program of a stranger. These are run by a reader that knows lists, numbers,
text and arrays of bytes, and nothing else; numpy itself is never handed to it.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from pliant.lab.datasets.arrays import Data, DataError
from pliant.lab.datasets.balance import balanced
from pliant.lab.datasets.files import Download, File, Manifest, is_official, read, write

__all__ = ["CIFAR10", "CIFAR100"]


class _Dtype:
    """What stands for numpy.dtype in a pickle."""

    def __init__(self, code: Any = "", *_: Any) -> None:
        self.code = code.decode("latin1") if isinstance(code, bytes) else code

    def __setstate__(self, state: Any) -> None:
        """Byte order and alignment mean nothing to bytes."""


class _Array:
    """What stands for numpy.ndarray in a pickle: a shape and bytes."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def values(self) -> NDArray[np.uint8]:
        _, shape, dtype, fortran, raw = self.state
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        if not isinstance(dtype, _Dtype) or dtype.code not in ("u1", "|u1") or not isinstance(raw, bytes):
            raise ValueError("an array that is not of bytes")
        if not all(isinstance(n, int) and n >= 0 for n in shape) or math.prod(shape) != len(raw):
            raise ValueError(f"an array of shape {shape} with {len(raw)} values")
        return np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")


def _latin1(text: Any, encoding: Any) -> bytes:
    # How Python 3 writes bytes in the old pickle protocols.
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise ValueError("bytes in another encoding than latin1")
    return text.encode("latin1")


_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _latin1,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR file does") from None


def parse(content: bytes, name: str) -> dict[str, Any]:
    """The dictionary in a CIFAR pickle, with arrays of bytes as numpy arrays.

    Raises:
        DataError: the file is damaged, or holds anything but numbers, text, lists and arrays of bytes.
    """
    try:
        _check(content)
        found = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        if not isinstance(found, dict):
            raise ValueError(f"a {type(found).__name__} instead of a dictionary")
        return {_text(key): value.values() if isinstance(value, _Array) else value for key, value in found.items()}
    # A damaged pickle fails in as many ways as there are instructions.
    except Exception as error:
        raise DataError(
            f"{name} is not a CIFAR file: {error or type(error).__name__}. It was not run. Delete it and fetch it again."
        ) from None


def _check(content: bytes) -> None:
    """Refuse what would take more memory than the file could need: the pickle machine makes room for as many memo entries, and
    for as long a text, as an instruction claims."""
    for code, argument, _ in pickletools.genops(content):
        if code.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument is not None and int(argument) > len(content):
            raise ValueError(f"it numbers an object {argument} in {len(content)} bytes")


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


class _Cifar:
    name: ClassVar[str]
    version: ClassVar = 1
    title: ClassVar[str]
    folder: ClassVar[str]
    archive: ClassVar[tuple[str, str]]
    checksums: ClassVar[dict[str, str]]
    """md5 of each file."""
    batches: ClassVar[dict[str, int]]
    """The part of each file with images."""
    meta: ClassVar[str]

    @classmethod
    def _manifest(cls) -> Manifest:
        files = tuple(File(f"{cls.folder}/{name}", f"md5:{md5}") for name, md5 in cls.checksums.items())
        url, md5 = cls.archive
        gives = tuple(f.path for f in files)
        return Manifest(files, (Download(url, url.rpartition("/")[2], f"md5:{md5}", unpack="", gives=gives),))

    @classmethod
    def _load(cls, labels: str, names: str, official: bool) -> tuple[Data, dict[str, dict[str, Any]]]:
        """The data, and the content of each file."""
        manifest = cls._manifest()
        folder = manifest.require(cls.name)
        raw = {f.path.rpartition("/")[2]: (f, read(f, folder, official=official)) for f in manifest.files}
        content = {name: parse(data, str(file.at(folder))) for name, (file, data) in raw.items()}
        classes = content[cls.meta].get(names)
        if not isinstance(classes, list) or not classes:
            raise DataError(f"{folder / cls.folder / cls.meta} has no list {names!r} of class names. Fetch it again.")
        x, y, parts = [], [], []
        for name, part in cls.batches.items():
            path = folder / cls.folder / name
            pixels, given = content[name].get("data"), content[name].get(labels)
            if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != 3072 or not isinstance(given, list):
                raise DataError(
                    f"{path} does not hold images of 3072 bytes (data) and a list of labels ({labels}). Fetch it again."
                )
            if len(pixels) != len(given):
                raise DataError(f"{path} holds {len(pixels)} images but {len(given)} labels. Fetch it again.")
            wrong = [i for i, label in enumerate(given) if type(label) is not int or not 0 <= label < len(classes)]
            if wrong:
                raise DataError(
                    f"{path} gives image {wrong[0]} the label {given[wrong[0]]!r}, but there are {len(classes)} classes, 0 to "
                    f"{len(classes) - 1}. Fetch it again."
                )
            x.append(pixels.reshape(-1, 3, 32, 32))
            y.append(np.asarray(given, np.int64))
            parts.append(np.full(len(given), part, np.int8))
        target = np.concatenate(y)
        present = np.unique(target)
        note = ""
        if not official and not all(is_official(file, data) for file, data in raw.values()):
            amount = f"{len(target):,} of 60,000 images" if len(target) != 60_000 else "60,000 images of another copy"
            some = f"{len(present)} of {len(classes)} classes, " if len(present) < len(classes) else ""
            note = f"{cls.title} (not the official files: {some}{amount})"
        every = np.concatenate(x)
        every.flags.writeable = False
        chosen = tuple(_text(classes[i]) for i in present)
        where = np.concatenate(parts)
        data = Data.of(every, np.searchsorted(present, target), chosen, cls.name, parts=where, note=note)
        return data, content

    @classmethod
    def _subset(cls, target: Path, content: dict[str, dict[str, Any]], rows: NDArray[np.int64]) -> Path:
        first = 0
        for name in cls.batches:
            found = content[name]
            n = len(found["data"])
            own = rows[(rows >= first) & (rows < first + n)] - first
            first += n
            kept = {
                key: [value[i] for i in own] if isinstance(value, list) and len(value) == n else value
                for key, value in found.items()
            }
            _dump(target / cls.folder / name, {**kept, "data": found["data"][own]})
        _dump(target / cls.folder / cls.meta, content[cls.meta])
        return target / cls.folder


def _dump(path: Path, content: dict[str, Any]) -> None:
    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(v) for v in value]
        return _text(value) if isinstance(value, bytes) else value

    text = {key: plain(value) for key, value in content.items()}
    write(path, pickle.dumps(text, protocol=2))


class CIFAR10(_Cifar):
    """Photographs, 32 x 32 colour: 50,000 training and 10,000 test images, 10 classes."""

    name: ClassVar = "cifar10"
    source: ClassVar = "Krizhevsky (2009), https://www.cs.toronto.edu/~kriz/cifar.html"
    title: ClassVar = "CIFAR-10"
    folder: ClassVar = "cifar-10-batches-py"
    archive: ClassVar = ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a")
    checksums: ClassVar = {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
        "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    }
    batches: ClassVar = {**{f"data_batch_{i}": 0 for i in range(1, 6)}, "test_batch": 2}
    meta: ClassVar = "batches.meta"

    @classmethod
    def files(cls, *, official: bool = True) -> Manifest:
        return cls._manifest()

    @classmethod
    def load(cls, *, official: bool = True) -> Data:
        """Images uint8, shape (60000, 3, 32, 32), in the order of the files; parts as published.

        Args:
            official: False accepts another copy or a part of the images, and says so in every output. Classes of which there
                is no image are left out, the others keep their order.

        Raises:
            DataError: a file is missing, damaged, or does not fit the others.
        """
        return cls._load("labels", "label_names", official)[0]

    @classmethod
    def subset(cls, target: Path, per_class: int, seed: int, *, official: bool = True) -> Path:
        """Write ``per_class`` images of each class and part, in the same format, below ``target``; the folder written.

        Raises:
            DataError: a class has fewer.
        """
        data, content = cls._load("labels", "label_names", official)
        return cls._subset(target, content, balanced(data, per_class, seed, cls.name))


class CIFAR100(_Cifar):
    """Photographs, 32 x 32 colour: 50,000 training and 10,000 test images, 100 classes in 20 groups."""

    name: ClassVar = "cifar100"
    source: ClassVar = "Krizhevsky (2009), https://www.cs.toronto.edu/~kriz/cifar.html"
    title: ClassVar = "CIFAR-100"
    folder: ClassVar = "cifar-100-python"
    archive: ClassVar = ("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85")
    checksums: ClassVar = {
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "meta": "7973b15100ade9c7d40fb424638fde48",
    }
    batches: ClassVar = {"train": 0, "test": 2}
    meta: ClassVar = "meta"

    @classmethod
    def files(cls, *, labels: Literal["fine", "coarse"] = "fine", official: bool = True) -> Manifest:
        return cls._manifest()

    @classmethod
    def load(cls, *, labels: Literal["fine", "coarse"] = "fine", official: bool = True) -> Data:
        """Images uint8, shape (60000, 3, 32, 32), in the order of the files; parts as published.

        Args:
            labels: the 100 classes, or the 20 groups that they are in.
            official: False accepts another copy or a part of the images, and says so in every output. Classes of which there
                is no image are left out, the others keep their order.

        Raises:
            DataError: a file is missing, damaged, or does not fit the others.
        """
        return cls._load(f"{labels}_labels", f"{labels}_label_names", official)[0]

    @classmethod
    def subset(
        cls, target: Path, per_class: int, seed: int, *, labels: Literal["fine", "coarse"] = "fine", official: bool = True
    ) -> Path:
        """Write ``per_class`` images of each class and part, in the same format, below ``target``; the folder written.

        Raises:
            DataError: a class has fewer.
        """
        data, content = cls._load(f"{labels}_labels", f"{labels}_label_names", official)
        return cls._subset(target, content, balanced(data, per_class, seed, cls.name))
