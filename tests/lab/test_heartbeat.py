from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from real import SHARED
from sklearn.linear_model import LogisticRegression

from pliant.lab.datasets import Heartbeat
from pliant.lab.datasets.arrays import DataError

DRAW = np.random.default_rng(0)


def rows(n: int) -> list[list[str]]:
    return [[f"{v:.18e}" for v in DRAW.random(187)] + [f"{i % 5:.18e}"] for i in range(n)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PLIANT_DATA", str(tmp_path))
    (tmp_path / "heartbeat").mkdir()
    for name, n in (("train", 10), ("test", 5)):
        save(tmp_path / "heartbeat" / f"mitbih_{name}.csv", rows(n))
    return tmp_path / "heartbeat"


def save(path: Path, table: list[list[str]]) -> None:
    path.write_text("".join(",".join(row) + "\n" for row in table))


def test_two_files_are_two_parts(folder: Path) -> None:
    data = Heartbeat.load(official=False)
    assert data.x.shape == (15, 1, 1, 187)
    assert Heartbeat.load(official=False, shape="1d").x.shape == (15, 1, 187)
    assert data.x.dtype == np.float32
    assert data.parts is not None
    assert data.parts.tolist() == [0] * 10 + [2] * 5
    assert data.y.tolist() == [0, 1, 2, 3, 4] * 3
    assert data.classes == ("N", "S", "V", "F", "Q")
    assert data.note == "not the official files: 10 + 5 beats"
    expected = np.loadtxt(folder / "mitbih_train.csv", delimiter=",")
    np.testing.assert_allclose(data.x[:10, 0, 0], expected[:, :187], rtol=1e-6)


def test_the_official_files_have_so_many_rows(folder: Path) -> None:
    with pytest.raises(DataError, match=r"have 10 and 5 rows, .* have: mitbih_train\.csv 87554, mitbih_test\.csv 21892"):
        Heartbeat.load()


def test_files_that_are_missing(folder: Path) -> None:
    (folder / "mitbih_test.csv").unlink()
    with pytest.raises(DataError, match=r"heartbeat/mitbih_test\.csv.*asks for a login"):
        Heartbeat.load()


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda t: [], "has 1 columns in its first row"),
        (lambda t: [r[:-1] for r in t], "has 187 columns in its first row"),
        (lambda t: [*t[:3], t[3][:100], *t[4:]], "row 4 and 0 more have empty or missing values"),
        (lambda t: [*t[:3], ["", *t[3][1:]], *t[4:]], "row 4 and 0 more"),
        (lambda t: [[*r, "1.0"] for r in t], "has 189 columns"),
        (lambda t: [*t[:3], [*t[3], "1.0"], *t[4:]], "is not a table of 188 numbers a row"),
        (lambda t: [[f"c{i}" for i in range(188)], *t], "is not a table of 188 numbers a row"),
        (lambda t: [*t[:3], ["x", *t[3][1:]], *t[4:]], "is not a table of 188 numbers a row"),
        (lambda t: [*t[:3], ["nan", *t[3][1:]], *t[4:]], r"1 rows hold samples that are not in \[0, 1\], the first is row 4"),
        (lambda t: [*t[:3], ["inf", *t[3][1:]], *t[4:]], "the first is row 4"),
        (lambda t: [*t[:3], ["-0.1", *t[3][1:]], *t[4:]], "the first is row 4"),
        (lambda t: [*t[:3], [*t[3][:-1], "5.0"], *t[4:]], "row 4 ends with 5"),
        (lambda t: [*t[:3], [*t[3][:-1], "0.5"], *t[4:]], "row 4 ends with 0.5"),
        (lambda t: [*t[:3], [*t[3][:-1], "nan"], *t[4:]], "row 4 ends with nan"),
    ],
)
def test_damaged_files_are_named(folder: Path, damage: object, expected: str) -> None:
    path = folder / "mitbih_train.csv"
    save(path, damage(rows(10)))  # type: ignore[operator]
    with pytest.raises(DataError, match=expected) as error:
        Heartbeat.load(official=False)
    assert str(path) in str(error.value)


def test_damaged_bytes_are_read_or_refused_but_never_crash(folder: Path) -> None:
    path = folder / "mitbih_train.csv"
    whole, refused = path.read_bytes(), 0
    for _ in range(80):
        content = bytearray(whole)
        for at in DRAW.integers(len(content), size=DRAW.integers(1, 5)):
            content[at] = DRAW.integers(256)
        path.write_bytes(bytes(content))
        try:
            Heartbeat.load(official=False)
        except DataError:
            refused += 1
    assert refused > 20


def test_real_beats_can_be_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = SHARED / "mitbih" / "derived_heartbeats"
    if not packed.is_dir():
        pytest.skip(f"{packed} is not here")
    monkeypatch.setenv("PLIANT_DATA", str(tmp_path))
    (tmp_path / "heartbeat").mkdir()
    for name in ("train", "test"):
        content = gzip.decompress((packed / f"heartbeat187_{name}.csv.gz").read_bytes())
        (tmp_path / "heartbeat" / f"mitbih_{name}.csv").write_bytes(content)
    data = Heartbeat.load(official=False)
    assert data.parts is not None
    assert np.bincount(data.parts).tolist() == [2361, 0, 613]
    assert np.bincount(data.y[data.parts == 0]).tolist() == [500, 500, 500, 361, 500]
    # Within the first file: the second one is of other patients.
    x, y = data.x[data.parts == 0].reshape(-1, 187), data.y[data.parts == 0]
    held = np.arange(len(x)) % 5 == 0
    model = LogisticRegression(max_iter=500).fit(x[~held], y[~held])
    assert model.score(x[held], y[held]) > 0.212 + 0.4
