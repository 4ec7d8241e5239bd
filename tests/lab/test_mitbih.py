from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from real import SHARED, real_root
from scipy.spatial import cKDTree
from wfdb_writer import CODES, annotate, write

from pliant.lab import Study, run
from pliant.lab.datasets import MITBIH
from pliant.lab.datasets.arrays import DataError
from pliant.lab.datasets.mitbih import AAMI, PACED, TEST, TRAIN, VALIDATION

REAL = "mit-bih-arrhythmia-database-1.0.0"
__all__ = ["real_root"]

PEAKS = (300, 500, 800, 1000, 3400, 3700, 4200, 7195)
SYMBOLS = ("N", "A", "V", "F", "/", "L", "E", "Q")
LENGTH = 7200


def digital(record: str) -> np.ndarray:
    return np.random.default_rng(int(record)).integers(-500, 500, size=(2, LENGTH))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All 48 records, 20 seconds each, with eight beats and four marks that are none."""
    root = tmp_path_factory.mktemp("written")
    beats = [(t, s, "") for t, s in zip(PEAKS, SYMBOLS, strict=True)]
    marks = sorted([*beats, (10, "+", "(N"), (1500, "~", ""), (1600, "|", ""), (1700, "!", "")])
    for record in (*TRAIN, *TEST, *PACED):
        leads = {"102": ("V5", "V2"), "104": ("V5", "V2"), "114": ("V5", "MLII")}.get(record, ("MLII", "V1"))
        write(root / REAL, record, digital(record), leads, marks)
    return root


@pytest.fixture
def here(written: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PLIANT_DATA", str(written))
    return written


@pytest.fixture
def own(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the records, to be damaged."""
    (tmp_path / REAL).mkdir()
    for path in (written / REAL).iterdir():
        (tmp_path / REAL / path.name).write_bytes(path.read_bytes())
    monkeypatch.setenv("PLIANT_DATA", str(tmp_path))
    return tmp_path / REAL


def test_the_sets_of_de_chazal() -> None:
    assert len(TRAIN) == len(TEST) == 22
    assert len({*TRAIN, *TEST, *PACED}) == 48
    assert set(VALIDATION) < set(TRAIN)


def test_beats_classes_and_patients(here: Path) -> None:
    data = MITBIH.load(official=False)
    assert data.x.shape == (48 * 8, 1, 1, 187)
    assert data.x.dtype == np.float32
    assert data.classes == ("N", "S", "V", "F", "Q")
    assert data.y[:8].tolist() == [0, 1, 2, 3, 4, 0, 2, 4]
    assert data.parts is None
    assert data.groups is not None
    # 201 and 202 were recorded from one man.
    assert len(set(data.groups.tolist())) == 47
    assert (data.groups == 201).sum() == 16
    assert data.note == "checksums not verified"
    assert data.x.min() == 0
    assert data.x.max() == 1


def test_samples_are_those_of_the_record(here: Path) -> None:
    # At the rate of the record nothing is resampled, so every sample can be said beforehand.
    data = MITBIH.load(rate=360, samples=100, before=0.1, length="full", scale="none", shape="1d", official=False)
    assert data.x.shape == (48 * 8, 1, 100)
    signal = (digital("100")[0] - 1024) / 200
    for row, peak in zip(data.x[:8, 0], PEAKS, strict=True):
        expected = signal[peak - 36 : peak + 64]
        np.testing.assert_allclose(row[: len(expected)], expected, rtol=1e-6)
        # The last beat runs out of the record.
        assert not row[len(expected) :].any()


def test_a_beat_lasts_as_long_as_the_excerpt_says(here: Path) -> None:
    x = MITBIH.load(rate=360, samples=720, scale="none", official=False).x[:8, 0, 0]
    # Excerpts end at samples 3600 and 7200. The first holds distances 200, 300, 200, 2400, the second 500, 2995.
    wanted = [300] * 5 + [720] * 2 + [LENGTH - 7195]
    assert [int(np.flatnonzero(row).max()) + 1 for row in x] == wanted
    alone = MITBIH.load(rate=360, samples=720, scale="none", classes="NS", official=False)
    # Beats of classes that are left out still tell the rhythm.
    np.testing.assert_array_equal(alone.x[:3, 0, 0], x[[0, 1, 5]])


def test_one_beat_in_an_excerpt_has_the_usual_distance(own: Path) -> None:
    marks = [(100, "N", ""), (350, "V", ""), (600, "N", ""), (4000, "N", "")]
    (own / "100.atr").write_bytes(annotate(marks))
    x = MITBIH.load(classes="NV", rate=360, samples=720, scale="none", official=False).x[:4, 0, 0]
    assert [int(np.flatnonzero(row).max()) + 1 for row in x] == [300] * 4


def test_scales(here: Path) -> None:
    signal = (digital("100")[0] - 1024) / 200
    beat = MITBIH.load(rate=360, scale="beat", official=False).x[:8, 0, 0]
    assert (beat.max(axis=1) == 1).all()
    excerpt = MITBIH.load(rate=360, scale="excerpt", official=False).x[0, 0, 0]
    low, high = signal[:3600].min(), signal[:3600].max()
    np.testing.assert_allclose(excerpt[:187], (signal[300:487] - low) / (high - low), atol=1e-6)
    first = signal[300:487]
    np.testing.assert_allclose(beat[0], (first - first.min()) / (first.max() - first.min()), atol=1e-6)


def test_resampling_keeps_what_is_slow(own: Path) -> None:
    time = np.arange(LENGTH) / 360
    wave = np.round(1000 * np.sin(2 * np.pi * 3 * time)).astype(np.int64)
    marks = [(t, s, "") for t, s in zip(PEAKS, SYMBOLS, strict=True)]
    write(own, "100", np.stack([wave, wave]), ("MLII", "V1"), marks)
    row = MITBIH.load(scale="none", length="full", official=False).x[0, 0, 0]
    at = round(300 * 125 / 360) / 125 + np.arange(187) / 125
    np.testing.assert_allclose(row, (1000 * np.sin(2 * np.pi * 3 * at) - 1024) / 200, atol=0.02)


def test_a_record_without_the_lead(here: Path) -> None:
    options = {"rate": 360, "length": "full", "scale": "none", "official": False}
    data = MITBIH.load(**options)
    for record, signal in (("102", 0), ("114", 1), ("100", 0)):
        expected = (digital(record)[signal][300:487] - 1024) / 200
        np.testing.assert_allclose(data.x[data.groups == int(record)][0, 0, 0], expected, rtol=1e-6)
    left = MITBIH.load(**options, without_lead="left out")
    assert len(left) == 46 * 8
    assert not np.isin([102, 104], left.groups).any()


def test_parts_between_patients(here: Path) -> None:
    data = MITBIH.load(split="inter-patient", official=False)
    assert data.parts is not None
    assert np.bincount(data.parts).tolist() == [17 * 8, 5 * 8, 22 * 8]
    assert set(data.groups[data.parts == 1].tolist()) == set(map(int, VALIDATION))
    assert not np.isin([int(r) for r in PACED], data.groups).any()
    own = MITBIH.load(split="inter-patient", validation="101 106", official=False)
    assert set(own.groups[own.parts == 1].tolist()) == {101, 106}
    assert len(MITBIH.load(split="random-unpaced", official=False)) == 44 * 8


def test_classes_in_the_order_given(here: Path) -> None:
    data = MITBIH.load(classes="VN", official=False)
    assert data.classes == ("V", "N")
    assert data.y[:4].tolist() == [1, 0, 1, 0]
    assert data.task == "binary"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"classes": "N"}, "two or more different letters"),
        ({"classes": "NN"}, "two or more different letters"),
        ({"classes": "NX"}, "two or more different letters"),
        ({"rate": 0}, "do not describe an example"),
        ({"before": -1.0}, "do not describe an example"),
        ({"before": 2.0}, "do not describe an example"),
        ({"validation": "101"}, "no effect with split = 'random'"),
        ({"split": "inter-patient", "validation": "100"}, "expected some, and not all, of the records 101"),
    ],
)
def test_options_that_mean_nothing(here: Path, options: dict[str, object], expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        MITBIH.load(official=False, **options)


def test_files_that_are_not_the_official_ones(here: Path) -> None:
    with pytest.raises(DataError, match=r"100\.hea is not the official file"):
        MITBIH.load()


def test_records_that_are_missing(own: Path) -> None:
    for kind in ("hea", "dat", "atr"):
        (own / f"207.{kind}").unlink()
    with pytest.raises(DataError, match=r"3 of 144 files are not in .*207\.hea") as error:
        MITBIH.load(official=False)
    assert "physionet.org/files/mitdb/1.0.0/207.atr" in str(error.value)
    assert "100.hea" not in str(error.value)
    data = MITBIH.load(official=False, records="available")
    assert len(data) == 47 * 8
    assert data.note == "47 of 48 records, without 207; checksums not verified"
    (own / "208.dat").unlink()
    with pytest.raises(DataError, match=r"in part; .*208\.dat"):
        MITBIH.load(official=False, records="available")


def test_no_record_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLIANT_DATA", str(tmp_path))
    with pytest.raises(DataError, match="144 of 144 files"):
        MITBIH.load(records="available")


@pytest.mark.parametrize(
    ("kind", "damage", "expected"),
    [
        ("hea", lambda c: c.replace(b" 360 ", b" 250 "), "250.0 Hz"),
        ("dat", lambda c: c[: len(c) // 2], "may be cut short"),
        ("dat", lambda c: c[:-1] + bytes((c[-1] ^ 4,)), "another checksum"),
        ("atr", lambda c: c[:-2], "may be cut short"),
        ("atr", lambda c: annotate([(10, "N", ""), (20, "n", "")]), "beats marked n"),
        ("atr", lambda c: annotate([(10, "N", ""), (LENGTH, "N", "")]), "a mark at sample 7200 of 7200"),
    ],
)
def test_damaged_records_are_named(own: Path, kind: str, damage: object, expected: str) -> None:
    path = own / f"119.{kind}"
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(DataError, match=expected) as error:
        MITBIH.load(official=False)
    assert str(path) in str(error.value)


def test_a_class_without_a_beat(own: Path) -> None:
    for path in own.glob("*.atr"):
        path.write_bytes(annotate([(300, "N", ""), (700, "V", "")]))
    assert len(MITBIH.load(classes="NV", official=False)) == 96
    with pytest.raises(DataError, match="no beat of class S, F, Q in the 48 records"):
        MITBIH.load(official=False)


# The real records.


def counted(folder: Path, records: tuple[str, ...]) -> list[int]:
    """Beats a class, counted without the reader: every word of an annotation file whose code is a beat's, outside of texts."""
    counts = np.zeros(64, int)
    for record in records:
        path = folder / f"{record}.atr"
        words = np.frombuffer(path.read_bytes(), "<u2") if path.is_file() else np.zeros(0, np.uint16)
        codes, values = words >> 10, words & 1023
        hidden = np.zeros(len(words) + 600, bool)
        at = 0
        for at in np.flatnonzero((codes == 63) | (codes == 59)):
            if not hidden[at]:
                hidden[at + 1 : at + 1 + (2 if codes[at] == 59 else (values[at] + 1) // 2)] = True
        counts += np.bincount(codes[~hidden[: len(words)]], minlength=64)
    return [sum(int(counts[CODES[s]]) for s, c in AAMI.items() if c == name) for name in "NSVFQ"]


def test_real_beats_are_as_many_as_the_files_mark(real_root: Path) -> None:
    data = MITBIH.load(records="available")
    records = tuple(sorted({*TRAIN, *TEST, *PACED}))
    assert np.bincount(data.y).tolist() == counted(real_root / REAL, records)
    assert data.x.shape[1:] == (1, 1, 187)
    assert np.isfinite(data.x).all()
    here = sorted({p.stem for p in (real_root / REAL).glob("*.hea")})
    if len(here) == 43:
        assert data.note == "43 of 48 records, without 104 207 213 222 228"
        assert np.bincount(data.y).tolist() == [82322, 2434, 6442, 441, 5979]


def test_real_sets_are_those_that_were_published(real_root: Path) -> None:
    data = MITBIH.load(split="inter-patient", records="available")
    assert data.parts is not None
    fitted = np.bincount(data.y[data.parts < 2], minlength=5)
    # Table of de Chazal et al. (2004), DS1: N 45,866, S 944, V 3,788, F 415, Q 8. Record 207 has 1,543 N, 107 S and 210 V.
    published = np.array([45866, 944, 3788, 415, 8])
    if not (real_root / REAL / "207.atr").is_file():
        published -= [1543, 107, 210, 0, 0]
    assert fitted.tolist() == published.tolist()
    # Each part has every class.
    for part in range(3):
        assert (np.bincount(data.y[data.parts == part], minlength=5) > 0).all()


def test_real_beats_are_those_of_an_independent_derivation(real_root: Path) -> None:
    path = SHARED / "mitbih" / "derived_heartbeats" / "heartbeat187_train.csv.gz"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    with gzip.open(path, "rt") as stream:
        derived = np.loadtxt(stream, delimiter=",", dtype=np.float32)
    data = MITBIH.load(records="available", shape="1d")
    # Four decimals are kept there, so equal beats differ by half a unit of the last; their first samples find candidates.
    beats = data.x[:, 0]
    _, nearest = cKDTree(beats[:, :12]).query(derived[:, :12])
    same = np.abs(beats[nearest] - derived[:, :187]).max(axis=1) < 6e-5
    assert same.mean() > 0.97
    assert (data.y[nearest[same]] == derived[same, 187]).all()


def test_a_real_training_tells_fusion_from_supraventricular_beats(real_root: Path, tmp_path: Path) -> None:
    study = Study(
        name="beats",
        dataset={"name": "mitbih", "options": {"classes": "SF", "records": "available"}},
        model={"name": "ffnn", "options": {"width": 16}},
        activations=["relu"],
        folds=2,
        repeats=1,
        epochs=4,
    )
    result = run(study, store=tmp_path / "store")
    assert len(result.rows) == 2
    for row in result.rows:
        # 0.85 of these beats are S: a network that has learnt nothing gets that.
        assert row["test_accuracy"] > 0.90
        assert row["test_auc"] > 0.85
