from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import torch

from pliant.lab.datasets import ALL, WDBC, Arrays, Data, Digits, Manifest, inventory
from pliant.lab.datasets.arrays import DataError
from pliant.lab.datasets.scikit import _verified


def test_wdbc_is_the_real_one() -> None:
    data = WDBC.load()
    assert data.x.shape == (569, 30)
    assert data.x.dtype == np.float32
    assert data.classes == ("benign", "malignant")
    assert np.bincount(data.y).tolist() == [357, 212]
    # Mean radius: malignant tumours are larger. A swap of the classes would turn this round.
    assert data.x[data.y == 1, 0].mean() > data.x[data.y == 0, 0].mean()


@pytest.mark.parametrize("dataset", [WDBC, Digits])
def test_bundled_data_sets_verify_themselves(dataset: type[WDBC]) -> None:
    data, name = dataset.load(), dataset.name
    assert data.fingerprint() == dataset.sha256
    with pytest.raises(DataError, match="expected 000"):
        _verified(data, name, "0" * 64)


@pytest.mark.parametrize("name", ALL)
def test_what_every_data_set_offers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLIANT_DATA", str(tmp_path))
    dataset = ALL[name]
    assert dataset.name == name
    assert dataset.__doc__
    assert dataset.source
    assert dataset.version >= 1
    options = inventory.options(dataset.load)
    assert options == inventory.options(dataset.files), "load and files take the same options"
    if any(words.endswith("(must be given)") for words in options.values()):
        return
    manifest = dataset.files()
    assert isinstance(manifest, Manifest)
    if manifest.files:
        # The folder is empty: the message says what belongs there.
        with pytest.raises(DataError, match=re.escape(manifest.files[0].path)) as told:
            dataset.load()
        assert str(tmp_path) in str(told.value)
        assert "PLIANT_DATA" in str(told.value)
        assert manifest.downloads or manifest.instructions
    for download in manifest.downloads:
        assert download.url.startswith("http")


def test_importing_reads_no_data() -> None:
    code = (
        "import sys; opened = []\n"
        "sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == 'open' else None)\n"
        "import pliant.lab.datasets\n"
        "assert not [p for p in opened if 'breast_cancer' in p or 'digits' in p or 'idx' in p], opened\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_fingerprint_sees_every_change() -> None:
    x, y = np.zeros((4, 2)), np.array([0, 1, 0, 1])
    prints = {
        Data.of(x, y).fingerprint(),
        Data.of(x + 1, y).fingerprint(),
        Data.of(x, 1 - y).fingerprint(),
        Data.of(x, y, ("a", "b")).fingerprint(),
        Data.of(x.reshape(4, 1, 2), y).fingerprint(),
    }
    assert len(prints) == 5


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        ([[1.0, np.nan], [1, 2]], [0, 1], r"1 of 2 examples hold NaN or infinite values \(rows 0\)"),
        ([[1.0, 2], [1, -np.inf]], [0, 1], r"rows 1"),
        ([1.0, 2.0], [0, 1], "expected. Give one example a row"),
        ([["a", "b"], ["c", "d"]], [0, 1], "numeric array"),
        ([[1.0], [2.0]], [0, 1, 1], "2 examples, but the labels"),
        ([[1.0], [2.0]], [1, 2], "numbered 0, 1"),
        ([[1.0], [2.0]], [0, 0], "at least two"),
        ([[1.0], [2.0]], [0.5, 1.0], "not whole numbers"),
    ],
)
def test_unusable_arrays_are_refused(x: object, y: object, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        Data.of(x, y)


def test_class_names_must_match() -> None:
    with pytest.raises(DataError, match="3 class names were given for 2"):
        Data.of([[1.0], [2.0]], [0, 1], ("a", "b", "c"))


def test_whatever_a_user_has() -> None:
    x, y = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32), np.array([0, 1, 2, 0, 1, 2])
    expected = Data.of(x, y).fingerprint()
    tensors = torch.from_numpy(x), torch.from_numpy(y)
    assert Arrays.of((x, y)).data.fingerprint() == expected
    assert Arrays.of(tensors).data.fingerprint() == expected
    assert Arrays.of(torch.utils.data.TensorDataset(*tensors)).data.fingerprint() == expected
    assert Arrays.of(Data.of(x, y)).data.fingerprint() == expected
    assert Arrays.of(sklearn.datasets.load_iris()).data.classes == ("setosa", "versicolor", "virginica")
    with pytest.raises(DataError, match="given as int"):
        Arrays.of(3)
    with pytest.raises(DataError, match="could not be read as"):
        Arrays.of([1, 2, 3])
