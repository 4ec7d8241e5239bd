"""MNIST, CIFAR and mini-ImageNet: small files in the official formats, damaged ones, and the real ones where they are."""

from __future__ import annotations

import gzip
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import image_files
import numpy as np
import PIL.Image
import pytest
import torch
import torchvision

from pliant.lab.datasets import CIFAR10, CIFAR100, MNIST, FashionMNIST, MiniImageNet
from pliant.lab.datasets.arrays import DataError
from pliant.lab.datasets.cifar import parse
from pliant.lab.datasets.images import decode, decoded


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PLIANT_DATA", str(tmp_path))
    return tmp_path


# --- MNIST ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_format(root: Path, packed: bool) -> None:
    image_files.mnist(root, packed=packed)
    data = MNIST.load(official=False)
    assert data.x.shape == (60, 1, 28, 28)
    assert data.x.dtype == np.uint8
    assert not data.x.flags.writeable
    assert data.y.tolist() == [i % 10 for i in (*range(40), *range(20))]
    assert (data.x[:, 0, 5, 5] == data.y).all()
    assert data.x[:, 0, 0, 0].tolist() == [*range(40), *range(20)]
    assert data.parts is not None
    assert data.parts.tolist() == [0] * 40 + [2] * 20
    assert data.note == "MNIST (not the official files: 40 + 20 of 60,000 + 10,000 images)"
    with pytest.raises(DataError, match="is not the official file"):
        MNIST.load()


def damage(change: Callable[[bytes], bytes], name: str) -> Callable[[Path], None]:
    return lambda raw: (raw / name).write_bytes(change((raw / name).read_bytes())) and None


def replace(name: str, array: np.ndarray) -> Callable[[Path], None]:
    return lambda raw: image_files.write_idx(raw / name, array.astype(np.uint8))


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (damage(lambda b: b[:-1], IMAGES), r"31359 values, but its header announces 40x28x28 = 31360"),
        (damage(lambda b: b[:9], IMAGES), "header announces"),
        (damage(lambda b: b + b"\0", LABELS), "41 values"),
        (damage(lambda b: b"\0\0\x0d" + b[3:], IMAGES), "not an IDX file of bytes: it begins with 00000d03"),
        (damage(lambda b: b"", IMAGES), "it begins with nothing"),
        (damage(lambda b: gzip.compress(b)[:-20], IMAGES), "damaged or truncated gzip"),
        (damage(lambda b: b"<html>", IMAGES), "not an IDX file"),
        (replace(LABELS, np.arange(40)), r"the label 39 \(image 39\), but there are 10 classes, 0 to 9"),
        (replace(LABELS, np.zeros(39)), r"\(40, 28, 28\) and labels of shape \(39,\); expected one label an image"),
        (replace("t10k-images-idx3-ubyte", np.zeros((20, 8, 8))), "the t10k part has images of"),
        (replace(LABELS, np.zeros((40, 1))), r"labels of shape \(40, 1\)"),
        (lambda raw: (raw / IMAGES).unlink(), rf"1 of 4 files are not in .*MNIST/raw/{IMAGES}.gz.*pliant data fetch mnist"),
    ],
)
def test_damaged_mnist(root: Path, harm: Callable[[Path], None], expected: str) -> None:
    harm(image_files.mnist(root))
    with pytest.raises(DataError, match=expected) as told:
        MNIST.load(official=False)
    assert str(root) in str(told.value)


@pytest.mark.parametrize(
    ("dataset", "folder", "archive"), [(MNIST, "MNIST", "mnist"), (FashionMNIST, "FashionMNIST", "fashion_mnist")]
)
def test_real_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: type[MNIST], folder: str, archive: str) -> None:
    found = image_files.real(f"{folder}/raw", archive)
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "raw").symlink_to(found.resolve())
    monkeypatch.setenv("PLIANT_DATA", str(tmp_path))
    data = dataset.load()
    assert data.note == ""
    assert data.x.shape == (70_000, 1, 28, 28)
    assert data.parts is not None
    assert np.bincount(data.parts).tolist() == [60_000, 0, 10_000]
    if dataset is FashionMNIST:
        assert np.bincount(data.y).tolist() == [7000] * 10
    for train in (True, False):
        if not (found / IMAGES).is_file():
            continue
        theirs = getattr(torchvision.datasets, folder)(tmp_path, train=train, download=False)
        rows = data.parts == (0 if train else 2)
        assert np.array_equal(data.x[rows, 0], theirs.data.numpy())
        assert np.array_equal(data.y[rows], theirs.targets.numpy())
    assert dataset.load(official=False).fingerprint() == data.fingerprint()
    assert dataset.load(official=False).note == "", "the official files are official whatever was asked for"


# --- CIFAR ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("python2", [True, False])
def test_cifar10_format(root: Path, python2: bool) -> None:
    image_files.cifar10(root, python2=python2)
    data = CIFAR10.load(official=False)
    assert data.x.shape == (120, 3, 32, 32)
    assert (data.x == data.x[:, :, :1, :1]).all(), "planes are not mixed up"
    assert (data.x[:, 0, 0, 0] == data.y).all()
    assert data.x[:, 1, 0, 0].tolist() == [b for b in range(6) for _ in range(20)]
    assert data.x[:, 2, 0, 0].tolist() == [*range(20)] * 6
    assert data.parts is not None
    assert data.parts.tolist() == [0] * 100 + [2] * 20
    assert data.classes[:2] == ("airplane", "automobile")
    assert data.note == "CIFAR-10 (not the official files: 120 of 60,000 images)"
    with pytest.raises(DataError, match="is not the official file"):
        CIFAR10.load()


def test_our_reader_agrees_with_pickle(root: Path) -> None:
    folder = image_files.cifar10(root)
    theirs = pickle.loads((folder / "data_batch_3").read_bytes(), encoding="latin1")
    ours = parse((folder / "data_batch_3").read_bytes(), "data_batch_3")
    assert np.array_equal(ours["data"], theirs["data"])
    assert ours["labels"] == theirs["labels"]


class _Evil:
    def __init__(self, function: object, *args: object) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("function", [os.mkdir, eval, np.load, getattr, np.memmap])
def test_a_malicious_pickle_is_not_run(root: Path, function: Callable[..., object], protocol: int) -> None:
    folder = image_files.cifar10(root)
    args = {eval: (f"__import__('os').mkdir({str(root / 'evil')!r})",), getattr: ("x", "format")}.get(
        function, (str(root / "evil"),)
    )
    evil = {"labels": [0], "data": _Evil(function, *args)}
    (folder / "test_batch").write_bytes(pickle.dumps(evil, protocol=protocol))
    with pytest.raises(DataError, match=r"test_batch is not a CIFAR file: it asks for .*, which no CIFAR file does"):
        CIFAR10.load(official=False)
    assert not (root / "evil").exists()


def test_an_array_of_objects_is_not_made() -> None:
    objects = pickle.dumps({"data": np.array([None, "x"], dtype=object)}, protocol=2)
    with pytest.raises(DataError, match="an array that is not of bytes"):
        parse(objects, "file")
    with pytest.raises(DataError, match="an array that is not of bytes"):
        parse(pickle.dumps({"data": np.zeros(3)}, protocol=2), "file")


def change(name: str, **values: object) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        content = pickle.loads((folder / name).read_bytes(), encoding="latin1")
        (folder / name).write_bytes(image_files.python2_pickle({**content, **values}))

    return harm


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (change("data_batch_2", labels=[0] * 19), "data_batch_2 holds 20 images but 19 labels"),
        (change("data_batch_2", labels=[0] * 19 + [10]), "data_batch_2 gives image 19 the label 10, but there are 10 classes"),
        (change("data_batch_2", labels=[0] * 19 + [-1]), "the label -1"),
        (change("data_batch_2", labels=[0] * 19 + ["cat"]), "the label b'cat'"),
        (change("data_batch_2", labels=3), "does not hold images of 3072 bytes"),
        (change("test_batch", data=np.zeros((20, 3071), np.uint8)), "does not hold images of 3072 bytes"),
        (change("batches.meta", label_names=None), "has no list 'label_names'"),
        (damage(lambda b: b[: len(b) // 2], "data_batch_1"), "data_batch_1 is not a CIFAR file"),
        (damage(lambda b: b"", "data_batch_1"), "data_batch_1 is not a CIFAR file"),
        (damage(lambda b: b"<html>no</html>", "data_batch_1"), "data_batch_1 is not a CIFAR file"),
        (
            lambda folder: (folder / "test_batch").unlink(),
            r"1 of 7 files .*: cifar-10-batches-py/test_batch\. Run `pliant data fetch",
        ),
    ],
)
def test_damaged_cifar10(root: Path, harm: Callable[[Path], None], expected: str) -> None:
    harm(image_files.cifar10(root))
    with pytest.raises(DataError, match=expected) as told:
        CIFAR10.load(official=False)
    assert str(root) in str(told.value)


def test_real_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = image_files.real("cifar-10-batches-py")
    (tmp_path / "cifar-10-batches-py").symlink_to(found.resolve())
    monkeypatch.setenv("PLIANT_DATA", str(tmp_path))
    data = CIFAR10.load(official=False)
    assert data.x.shape == (60_000, 3, 32, 32)
    assert np.bincount(data.y).tolist() == [6000] * 10
    assert data.parts is not None
    assert np.bincount(data.parts).tolist() == [50_000, 0, 10_000]
    # Ships stand in blue water and deer in green grass; mixed up planes or labels would not show it.
    ship, deer = (data.x[data.y == data.classes.index(name)].mean(axis=(0, 2, 3)) for name in ("ship", "deer"))
    assert ship[2] > ship[0]
    assert deer[2] < deer[0]


def test_real_cifar100_flowers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = image_files.real("cifar-100-python", "cifar100/cifar-100-python-flowers.tar.xz")
    if found.is_file():
        image_files.unpacked(found, tmp_path)
    else:
        (tmp_path / "cifar-100-python").symlink_to(found.resolve())
    monkeypatch.setenv("PLIANT_DATA", str(tmp_path))
    data = CIFAR100.load(official=False)
    if not data.note:
        pytest.skip("the official CIFAR-100 is here, not the sample")
    assert data.classes == ("orchid", "poppy", "rose", "sunflower", "tulip")
    assert data.x.shape == (2800, 3, 32, 32)
    assert data.note == "CIFAR-100 (not the official files: 5 of 100 classes, 2,800 of 60,000 images)"
    theirs = pickle.loads((tmp_path / "cifar-100-python" / "train").read_bytes(), encoding="latin1")
    assert np.array_equal(data.x[:2500].reshape(2500, -1), theirs["data"])
    with pytest.raises(DataError, match="at least two"):
        CIFAR100.load(labels="coarse", official=False)


# --- mini-ImageNet ----------------------------------------------------------------------------------------------------


def test_mini_imagenet_format(root: Path) -> None:
    image_files.mini_imagenet(root)
    data = MiniImageNet.load(official=False)
    assert data.classes == ("n01", "n02", "n03", "n04")
    assert data.x.shape == (80, 3, 84, 84)
    assert np.bincount(data.y).tolist() == [20] * 4
    brightness = data.x.mean(axis=(1, 2, 3))
    assert (np.abs(brightness - (60 * (data.y + 1) - 30)) < 5).all(), "each image has the label of its class"
    assert data.parts is not None
    for label in range(4):
        assert np.bincount(data.parts[data.y == label]).tolist() == [14, 3, 3], "68 : 17 : 15 of each class"
    merged = MiniImageNet.load(split="merged", official=False)
    assert merged.parts is None
    assert np.array_equal(merged.x, data.x)
    assert data.note == "mini-ImageNet (not the official files: 4 of 100 classes, 80 of 60,000 images)"
    with pytest.raises(DataError, match="is not the official file"):
        MiniImageNet.load()


def test_mini_imagenet_is_decoded_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = image_files.mini_imagenet(root, per_class=5)
    first = MiniImageNet.load(official=False)
    (cache,) = (root / ".cache").iterdir()
    made = cache.stat().st_mtime_ns
    again = MiniImageNet.load(official=False)
    assert again.fingerprint() == first.fingerprint()
    assert cache.stat().st_mtime_ns == made
    cache.write_bytes(cache.read_bytes()[:5000])
    assert MiniImageNet.load(official=False).fingerprint() == first.fingerprint(), "a torn cache is made again"
    image_files.image(folder / "images" / "n0100000000.jpg", (1, 2, 3), seed=9)
    assert MiniImageNet.load(official=False).fingerprint() != first.fingerprint(), "a changed image is seen"
    assert not [p for p in (root / ".cache").iterdir() if p.suffix == ".tmp"]


def test_resizing_is_that_of_torchvision(tmp_path: Path) -> None:
    image_files.image(tmp_path / "a.png", (10, 100, 200), size=200)
    for size in (84, 128, 300):
        with PIL.Image.open(tmp_path / "a.png") as image:
            expected = torchvision.transforms.Resize((size, size))(image.convert("RGB"))
        assert np.array_equal(decode(tmp_path / "a.png", size), np.asarray(expected).transpose(2, 0, 1))
    # Antialiased: noise shrunk by half loses half of its spread, which picking every second pixel would keep.
    assert decode(tmp_path / "a.png", 100)[1].std() < 0.7 * decode(tmp_path / "a.png")[1].std()


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (
            lambda f: (f / "images/n0200000003.jpg").write_bytes(b"\xff\xd8\xffrubbish"),
            r"image .*n0200000003\.jpg cannot be read",
        ),
        (
            lambda f: (f / "images/n0200000003.jpg").write_bytes((f / "images/n0200000003.jpg").read_bytes()[:-200]),
            r"image .*n0200000003\.jpg cannot be read",
        ),
        (
            lambda f: (f / "val.csv").unlink(),
            r"1 of 3 files are not in .*mini-imagenet/val\.csv\..*pliant data fetch mini-imagenet",
        ),
        (lambda f: (f / "val.csv").write_text("a,b\n"), "begins with 'a,b'; expected filename,label"),
        (lambda f: (f / "val.csv").write_text(""), "expected filename,label"),
        (lambda f: (f / "val.csv").write_text("filename,label\nx.jpg\n"), "line 2: 'x.jpg' is not filename,label"),
        (lambda f: (f / "val.csv").write_text("filename,label\n../x.jpg,n02\n"), r"line 2: '\.\./x\.jpg,n02'"),
        (
            lambda f: (f / "val.csv").write_text("filename,label\nn0100000000.jpg,n02\n"),
            "n0100000000.jpg two labels, n01 and n02",
        ),
        (lambda f: (f / "val.csv").write_text("filename,label\nn0100000000.jpg,n01\n"), "name 1 images twice"),
        (lambda f: (f / "val.csv").write_bytes(b"\xff\xfe\x00"), "is not a CSV file"),
        (lambda f: shutil.rmtree(f / "images"), "holds none of the 80 listed images"),
    ],
)
def test_damaged_mini_imagenet(root: Path, harm: Callable[[Path], None], expected: str) -> None:
    harm(image_files.mini_imagenet(root))
    with pytest.raises(DataError, match=expected) as told:
        MiniImageNet.load(official=False)
    assert str(root) in str(told.value)
    assert not list(root.glob(".cache/*")), "nothing half-made is kept"


def test_missing_images(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = image_files.mini_imagenet(root)
    whole = MiniImageNet.load(official=False)
    (folder / "images" / "n0200000003.jpg").unlink()
    some = MiniImageNet.load(official=False)
    assert len(some) == 79
    assert "79 of 60,000" in some.note
    kept = np.delete(np.arange(80), 60 - 20 + 3)
    assert np.array_equal(some.x, whole.x[kept])
    assert some.parts is not None
    assert whole.parts is not None
    assert np.array_equal(some.parts, whole.parts[kept]), "a missing image moves no other one to another part"
    # With the official lists every image has to be there.
    from pliant.lab.datasets import mini_imagenet

    monkeypatch.setattr(mini_imagenet.File, "state", lambda *_: "verified")
    with pytest.raises(DataError, match=r"n0200000003\.jpg.*under the terms of ImageNet"):
        MiniImageNet.load()


def test_real_mini_imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = image_files.real("mini-imagenet", "mini_imagenet/mini-imagenet-95classes-120each.tar.gz")
    source = image_files.unpacked(found, tmp_path / "all") / "mini-imagenet" if found.is_file() else found
    # Four classes are enough to see that real files are read; decoding all of them takes a quarter of a minute.
    folder = tmp_path / "mini-imagenet"
    (folder / "images").mkdir(parents=True)
    for name in ("train", "val", "test"):
        header, *lines = (source / f"{name}.csv").read_text().splitlines()
        labels = sorted({line.split(",")[1] for line in lines})[:2]
        kept = [line for line in lines if line.split(",")[1] in labels]
        (folder / f"{name}.csv").write_text("\n".join([header, *kept]) + "\n")
        for line in kept:
            (folder / "images" / line.split(",")[0]).symlink_to((source / "images" / line.split(",")[0]).resolve())
    monkeypatch.setenv("PLIANT_DATA", str(tmp_path))
    data = MiniImageNet.load(size=128, official=False)
    assert data.x.shape[1:] == (3, 128, 128)
    assert len(data.classes) == 6
    assert len(set(np.bincount(data.y))) == 1
    assert data.x.std() > 40, "photographs, not black frames"


# --- subsets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "make", "options"),
    [
        (MNIST, image_files.mnist, {}),
        (CIFAR10, image_files.cifar10, {}),
        (MiniImageNet, image_files.mini_imagenet, {"split": "merged"}),
    ],
)
def test_subsets_are_in_the_same_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: type[MNIST], make: Callable[[Path], Path], options: dict[str, str]
) -> None:
    from pliant.lab.datasets import ALL, inventory

    make(tmp_path / "whole")
    monkeypatch.setenv("PLIANT_DATA", str(tmp_path / "whole"))
    whole = dataset.load(official=False, **options)
    given = {"official": False, **options}
    for target, seed in (("a", 0), ("b", 0), ("c", 1)):
        inventory.subset(ALL[dataset.name], tmp_path / target, 2, seed, given)
    with pytest.raises(DataError, match="is there already"):
        inventory.subset(ALL[dataset.name], tmp_path / "a", 2, 0, given)
    with pytest.raises(DataError, match="where the whole data live"):
        inventory.subset(ALL[dataset.name], tmp_path / "whole", 2, 0, given)
    with pytest.raises(DataError, match="fewer than the 21 asked for"):
        inventory.subset(ALL[dataset.name], tmp_path / "d", 21, 0, given)
    found = {}
    for target in "abc":
        monkeypatch.setenv("PLIANT_DATA", str(tmp_path / target))
        found[target] = dataset.load(official=False, **options)
    some = found["a"]
    assert some.classes == whole.classes
    assert set(np.bincount(some.y)) == {2 if options else 4}, "two of each class and part"
    assert {x.tobytes() for x in some.x} <= {x.tobytes() for x in whole.x}
    assert some.fingerprint() == found["b"].fingerprint()
    assert some.fingerprint() != found["c"].fingerprint()
    if dataset is CIFAR10:
        theirs = pickle.loads((tmp_path / "a" / "cifar-10-batches-py" / "test_batch").read_bytes(), encoding="latin1")
        assert theirs["data"].shape == (20, 3072)
        assert len(theirs["filenames"]) == 20


def test_decoding_needs_one_shape(root: Path) -> None:
    image_files.image(root / "a.png", (1, 2, 3), size=20)
    image_files.image(root / "b.png", (1, 2, 3), size=21)
    with pytest.raises(DataError, match=r"b\.png has 21 x 21 pixels, but .*a\.png has 20 x 20\. Give the option size"):
        decoded([root / "a.png", root / "b.png"], 0, "test")
    assert decoded([root / "a.png", root / "b.png"], 16, "test").shape == (2, 3, 16, 16)
    assert torch.tensor(decoded([root / "a.png", root / "b.png"], 16, "test")).float().mean() > 0
