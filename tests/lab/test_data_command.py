"""pliant data: list, check, fetch, subset."""

from __future__ import annotations

import hashlib
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import image_files
import numpy as np
import pytest

from pliant import cli
from pliant.lab.datasets import MNIST, files
from pliant.lab.datasets.files import Download, File, Manifest

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Run ``pliant data`` with an empty PLIANT_DATA: exit code, output, errors."""
    monkeypatch.setenv("PLIANT_DATA", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pliant", "data", *arguments])
        code: object = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return int(code or 0) if isinstance(code, int | None) else 1, out, " ".join(err.split())

    return call


def test_list(data: Command, tmp_path: Path) -> None:
    raw = image_files.mnist(tmp_path)
    image_files.cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "test_batch").unlink()
    (tmp_path / "cifar-100-python.tar.gz.part").write_bytes(b"x" * 1234)
    code, out, _ = data("list", "--json")
    assert code == 0
    told = json.loads(out)
    assert told["folder"] == str(tmp_path)
    found = {row["name"]: row for row in told["datasets"]}
    assert found["mnist"]["state"] == "complete"
    assert found["mnist"]["bytes"] == sum(p.stat().st_size for p in raw.iterdir())
    assert found["mnist"]["verified"] == 0
    assert len(found["mnist"]["different"]) == 4
    assert found["cifar10"]["state"] == "partial"
    assert found["cifar10"]["missing"] == ["cifar-10-batches-py/test_batch"]
    assert found["cifar100"]["state"] == "absent"
    assert found["cifar100"]["unfinished"] == 1234
    assert found["wdbc"]["state"] == "bundled"
    assert found["csv"]["state"] == "own"
    code, out, _ = data("list")
    assert code == 0
    words = " ".join(out.split())
    assert "4 of 4 not official" in words
    assert "6 of 7 files" in words
    assert "1.2 kB of a download" in words
    assert "Krizhevsky (2009)" in words


def test_check(data: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert data("check") == (0, "", ""), "what nobody has is not wrong"
    code, out, _ = data("check", "mnist")
    assert code == 1
    assert "missing: MNIST/raw/train-images-idx3-ubyte.gz" in out
    raw = image_files.mnist(tmp_path)
    code, out, _ = data("check")
    assert code == 1
    assert "not the official file: MNIST/raw/train-images-idx3-ubyte" in out
    assert "60 examples, 10 classes" in out
    # These four files, taken for the official ones.
    sums = {p.name: (hashlib.sha256(p.read_bytes()).hexdigest(), "0" * 32) for p in raw.iterdir()}
    monkeypatch.setattr(MNIST, "checksums", sums)
    code, out, _ = data("check")
    assert code == 0
    assert "mnist: 4 of 4 files, verified; 60 examples, 10 classes" in out
    images = raw / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-3])
    code, out, _ = data("check", "mnist", "--json")
    assert code == 1
    (row,) = json.loads(out)
    assert row["different"] == ["MNIST/raw/train-images-idx3-ubyte"]
    assert not row["readable"]
    assert "truncated" in row["content"]


def test_check_reads_images_that_have_no_checksum(data: Command, tmp_path: Path) -> None:
    folder = image_files.mini_imagenet(tmp_path, per_class=3)
    (folder / "images" / "n0200000001.jpg").write_bytes(b"no image")
    code, out, _ = data("check", "mini-imagenet", "--json")
    assert code == 1
    (row,) = json.loads(out)
    assert not row["readable"]
    assert "n0200000001.jpg cannot be read" in row["content"]


def test_fetch(data: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    raw = image_files.mnist(elsewhere, packed=True)
    asked = []

    def manifest(*, official: bool = True) -> Manifest:
        paths = [(p, f"MNIST/raw/{p.name}", f"md5:{hashlib.md5(p.read_bytes()).hexdigest()}") for p in sorted(raw.iterdir())]
        downloads = tuple(Download(f"https://example.org/{p.name}", path, md5, gives=(path,)) for p, path, md5 in paths)
        return Manifest(tuple(File(path, md5) for _, path, md5 in paths), downloads)

    def fetch(url: str, destination: Path, checksum: str, progress: files.Progress) -> None:
        asked.append(url)
        destination.parent.mkdir(parents=True, exist_ok=True)
        destination.write_bytes((raw / url.rpartition("/")[2]).read_bytes())
        progress(1, 2)

    monkeypatch.setattr(MNIST, "files", manifest)
    monkeypatch.setattr(files, "fetch", fetch)
    code, out, _ = data("fetch", "mnist")
    assert code == 0
    assert "mnist: complete, verified." in out
    assert len(asked) == 4
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz").unlink()
    assert data("fetch", "mnist")[0] == 0
    assert asked[4:] == ["https://example.org/t10k-labels-idx1-ubyte.gz"], "only what is missing is fetched"
    assert "nothing to fetch" in data("fetch", "wdbc")[1]


def test_fetch_without_a_network(data: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise urllib.error.URLError(OSError("no route to host"))

    waited: list[float] = []
    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    monkeypatch.setattr(time, "sleep", waited.append)
    code, _, err = data("fetch", "cifar10")
    assert code == 2
    assert "no route to host" in err
    assert "get https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz on another machine" in err
    assert str(tmp_path / "cifar-10-python.tar.gz") in err
    assert waited == [1, 2, 4, 8]


def test_what_cannot_be_fetched_says_what_to_do(data: Command, tmp_path: Path) -> None:
    image_files.mini_imagenet(tmp_path, per_class=3)
    (tmp_path / "mini-imagenet" / "images" / "n0200000001.jpg").unlink()
    code, _, err = data("fetch", "mini-imagenet")
    assert code == 2
    assert "mini-imagenet/images/n0200000001.jpg" in err
    assert "under the terms of ImageNet" in err


def test_subset(data: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image_files.mnist(tmp_path)
    target = tmp_path / "some"
    code, out, _ = data("subset", "mnist", str(target), "--per-class", "2", "--seed", "3", "--set", "official=false")
    assert code == 0
    assert f"PLIANT_DATA={target}" in " ".join(out.split())
    whole = MNIST.load(official=False).fingerprint()
    monkeypatch.setenv("PLIANT_DATA", str(target))
    assert np.bincount(MNIST.load(official=False).y).tolist() == [4] * 10
    made = json.loads((target / "MNIST" / "subset.json").read_text())
    assert made == {"dataset": "mnist", "options": {"official": False}, "per_class": 2, "seed": 3, "of": whole}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["fetch", "minst"], "Did you mean 'mnist'"),
        (["check", "mnist", "--set", "size=3"], "no key 'dataset.options.size'"),
        (["check", "mini-imagenet", "--set", "size=3"], "expected 84 or 128"),
        (["check", "mnist", "--set", "size"], "expected option=value"),
        (["subset", "wdbc", "x", "--per-class", "3"], "not a data set that subsets are written of"),
        (["subset", "mnist", "x", "--per-class", "3"], "pliant data fetch mnist"),
    ],
)
def test_mistakes(data: Command, arguments: list[str], expected: str) -> None:
    code, _, err = data(*arguments)
    assert code == 2
    assert expected in err
