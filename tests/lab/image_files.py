"""Small image data sets in the formats of the official ones, and where the real ones are."""

from __future__ import annotations

import gzip
import io
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

from pliant.lab.datasets.files import unpack

REPOSITORY = Path(__file__).parents[2]


def real(path: str, archive: str = "") -> Path:
    """A real file or folder below PLIANT_DATA, or an archive of it in ../shared/data; the test is skipped without both."""
    given = os.environ.get("PLIANT_DATA")
    places = [Path(given) / path] if given else []
    places += [REPOSITORY.parent / "shared" / "data" / archive] if archive else []
    # A worktree does not lie beside the data; then only PLIANT_DATA can say where they are.
    for place in places:
        if place.exists():
            return place
    pytest.skip(f"{path} is not here: set PLIANT_DATA to a folder that holds it")


def write_idx(path: Path, array: NDArray[np.uint8], *, packed: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
    path.with_name(path.name + ".gz" * packed).write_bytes(gzip.compress(content) if packed else content)


def mnist(root: Path, folder: str = "MNIST", *, packed: bool = False, train: int = 40, test: int = 20) -> Path:
    """An MNIST-like set whose image i has the value of its label everywhere and i in its first pixel; its folder."""
    raw = root / folder / "raw"
    for part, n in (("train", train), ("t10k", test)):
        labels = (np.arange(n) % 10).astype(np.uint8)
        images = np.broadcast_to(labels[:, None, None], (n, 28, 28)).copy()
        images[:, 0, 0] = np.arange(n)
        write_idx(raw / f"{part}-images-idx3-ubyte", images, packed=packed)
        write_idx(raw / f"{part}-labels-idx1-ubyte", labels, packed=packed)
    return raw


class _Python2(pickle._Pickler):
    """Text and bytes as Python 2 wrote them, which is how the official files hold them."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def _string(self, value: str | bytes) -> None:
        raw = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + len(raw).to_bytes(4, "little") + raw)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = _string


def python2_pickle(content: object) -> bytes:
    stream = io.BytesIO()
    _Python2(stream, 2).dump(content)
    return stream.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def cifar10(root: Path, *, per_batch: int = 20, python2: bool = True) -> Path:
    """A CIFAR-10 whose image i of batch b has the planes (label, b, i); its folder."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    dump = python2_pickle if python2 else (lambda content: pickle.dumps(content, protocol=4))
    for b, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        labels = [int(i % 10) for i in range(per_batch)]
        planes = np.stack([np.array(labels), np.full(per_batch, b), np.arange(per_batch)], axis=1).astype(np.uint8)
        content = {
            "batch_label": f"batch {b}",
            "labels": labels,
            "data": np.repeat(planes, 1024, axis=1),
            "filenames": [f"{b}-{i}.png" for i in range(per_batch)],
        }
        (folder / name).write_bytes(dump(content))
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (folder / "batches.meta").write_bytes(dump({"num_cases_per_batch": per_batch, "label_names": names, "num_vis": 3072}))
    return folder


def image(path: Path, colour: tuple[int, int, int], size: int = 84, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-20, 21, (size, size, 3))
    PIL.Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)).save(path)


MINI: Mapping[str, list[str]] = {"train": ["n03", "n01"], "val": ["n02"], "test": ["n04"]}


def mini_imagenet(root: Path, per_class: int = 20, size: int = 20) -> Path:
    """Four classes in the layout of mini-ImageNet; the classes differ in brightness, the images of one in their noise."""
    folder = root / "mini-imagenet"
    for part, classes in MINI.items():
        lines = ["filename,label"]
        for label in classes:
            for i in range(per_class):
                name = f"{label}{i:08}.jpg"
                image(folder / "images" / name, (60 * int(label[1:]) - 30,) * 3, size, seed=i)
                lines.append(f"{name},{label}")
        (folder / f"{part}.csv").write_text("\n".join(lines) + "\n")
    return folder


def unpacked(archive: Path, target: Path) -> Path:
    unpack(archive, target)
    return target
