from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from real import real_root
from wfdb_writer import annotate, describe, pack

from pliant.lab.datasets.arrays import DataError
from pliant.lab.datasets.wfdb import SYMBOLS, read_annotations, read_header, read_samples

REAL = "mit-bih-arrhythmia-database-1.0.0"
__all__ = ["real_root"]

TWO = np.random.default_rng(0).integers(-2047, 2048, size=(2, 5001))


def test_a_header_says_what_the_description_says() -> None:
    text = b"100 2 360/720 650000 0:0:0\n100.dat 212 200(1000)/uV 11 1024 995 -22131 0 MLII a\n"
    text += b"# note\n100.dat 212 0 11 1024 1011\n"
    header = read_header(text, "100.hea")
    assert (header.record, header.rate, header.length, header.file) == ("100", 360, 650000, "100.dat")
    first, second = header.signals
    assert (first.name, first.gain, first.baseline, first.unit, first.first, first.checksum) == (
        *("MLII a", 200, 1000, "uV"),
        *(995, -22131),
    )
    # A gain of 0 and fields that are left out have the defaults of header(5); the baseline is that of the converter.
    assert (second.name, second.gain, second.baseline, second.unit, second.first, second.checksum) == (
        *("", 200, 1024, "mV"),
        *(1011, None),
    )


def test_two_samples_in_three_bytes() -> None:
    header = read_header(b"x 2 360 2\nx.dat 212 1 12 0\nx.dat 212 1 12 0\n", "x.hea")
    # 995 = 0x3E3 and 1011 = 0x3F3, -1 = 0xFFF and -2047 = 0x801: low byte, both high halves, low byte.
    assert read_samples(bytes((0xE3, 0x33, 0xF3, 0xFF, 0x8F, 0x01)), header, "x.dat").tolist() == [[995, -1], [1011, -2047]]


@pytest.mark.parametrize("digital", [TWO, TWO[:1], np.concatenate([TWO, TWO[:1]])], ids=["two", "one", "three"])
def test_signals_come_back_in_millivolts(digital: np.ndarray) -> None:
    # An odd number of samples ends with two bytes for the last.
    content = pack(digital)
    assert len(content) == (digital.size * 3 + 1) // 2
    header = read_header(describe("x", digital, [f"lead {i}" for i in range(len(digital))]), "x.hea")
    found = read_samples(content, header, "x.dat")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, (digital - 1024) / 200, rtol=1e-6)


def test_what_was_not_measured_is_nan() -> None:
    digital = TWO.copy()
    digital[1, 7] = -2048
    found = read_samples(pack(digital), read_header(describe("x", digital, "ab"), "x.hea"), "x.dat")
    assert np.argwhere(np.isnan(found)).tolist() == [[1, 7]]


MARKS = [(18, "+", "(N"), (77, "N", ""), (370, "V", "odd"), (5_000_000, "x", ""), (5_000_000, "~", ""), (5_001_024, "/", "")]


def test_marks_come_back() -> None:
    found = read_annotations(annotate(MARKS), "x.atr")
    assert list(zip(found.times.tolist(), found.symbols, found.texts, strict=True)) == MARKS
    empty = read_annotations(b"\0\0", "x.atr")
    assert (len(empty.times), empty.symbols) == (0, ())


def test_fields_of_a_mark_do_not_move_time() -> None:
    words = [(1 << 10) + 10, (60 << 10) + 3, (61 << 10) + 1, (62 << 10) + 1, (5 << 10) + 20, 0]
    found = read_annotations(np.array(words, "<u2").tobytes(), "x.atr")
    assert (found.times.tolist(), found.symbols) == ([10, 30], ("N", "V"))


def test_a_gap_may_go_back_before_a_mark_goes_on() -> None:
    # annot(5): the interval of a SKIP has a sign. -5 is 0xFFFFFFFB, high word first.
    words = [(1 << 10) + 10, 59 << 10, 0xFFFF, 0xFFFB, (5 << 10) + 20, 0]
    assert read_annotations(np.array(words, "<u2").tobytes(), "x.atr").times.tolist() == [10, 25]


HEADER = describe("x", TWO, ["MLII", "V1"])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "not a WFDB header"),
        (b"x", "not a WFDB header"),
        (b"x 0 360\n", "not a WFDB header"),
        (b"\xff\xfe", "byte 0 is not ASCII"),
        (b"x/3 2 360 100\n", "several segments"),
        (HEADER.replace(b" 2 360", b" 3 360"), "announces 3 signals and describes 2"),
        (HEADER.replace(b"212", b"16"), "format '16'"),
        (HEADER.replace(b"212", b"212x2"), "format '212x2'"),
        (HEADER.replace(b"x.dat 212", b"y.dat 212", 1), "x.dat, y.dat"),
        (HEADER.replace(b"x.dat", b"../x.dat"), "not beside it"),
        (HEADER.replace(b" 360 ", b" 0 "), "rate of 0.0 Hz"),
        (HEADER.replace(b" 360 ", b" 1e999 "), "rate of inf Hz"),
        (HEADER.replace(b" 360 ", b" 3.6.0 "), "expected a number"),
        (HEADER.replace(b" 5001", b" 5k"), "expected a whole number"),
        (HEADER.replace(b" 200 ", b" high "), "the gain 'high'"),
        (HEADER.replace(b" 200 ", b" -200 "), "gain of -200"),
    ],
)
def test_headers_that_cannot_be_used(content: bytes, expected: str) -> None:
    with pytest.raises(DataError, match=expected) as error:
        read_header(content, "x.hea")
    assert "x.hea" in str(error.value)


def test_signals_that_disagree_with_their_header() -> None:
    header, content = read_header(HEADER, "x.hea"), pack(TWO)
    for wrong, expected in [
        (content[:-3], r"15000 bytes, but 15003 were expected"),
        (content + b"\0", "15004 bytes"),
        (b"", "0 bytes"),
        (content[:-1] + bytes((content[-1] ^ 1,)), "checksum in the lead 'V1'"),
        (bytes((content[0] ^ 1,)) + content[1:], "begins with"),
    ]:
        with pytest.raises(DataError, match=expected):
            read_samples(wrong, header, "x.dat")
    with pytest.raises(DataError, match="0 samples"):
        read_samples(b"", read_header(b"x 1 360\nx.dat 212\n", "x.hea"), "x.dat")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "without its end mark after 0"),
        (annotate(MARKS)[:-2], "without its end mark after 6"),
        (annotate(MARKS)[:-1], "odd number"),
        (annotate(MARKS) + b"\1\0", "goes on for 2 bytes"),
        (bytes((0, 59 << 2, 0, 0)), "in the middle of a time"),
        (bytes((10, 63 << 2, 0, 0)), "a text of 10 bytes"),
        (bytes((1, 4, 10, 63 << 2, 0, 0)), "a text of 10 bytes"),
        (bytes((1, 15 << 2, 0, 0)), "code 15"),
        (bytes((1, 50 << 2, 0, 0)), "code 50"),
        (np.array([(1 << 10) + 10, 59 << 10, 0xFFFF, 0xFF00, (5 << 10), 0], "<u2").tobytes(), "out of order"),
    ],
)
def test_marks_that_cannot_be_used(content: bytes, expected: str) -> None:
    with pytest.raises(DataError, match=expected) as error:
        read_annotations(content, "x.atr")
    assert "x.atr" in str(error.value)


def test_damaged_bytes_are_read_or_refused_but_never_crash() -> None:
    draw = np.random.default_rng(5)
    signals, marks, refused = pack(TWO[:, :40]), annotate(MARKS), 0
    text = describe("x", TWO[:, :40], ["MLII", "V1"])
    for _ in range(3000):
        damaged = []
        for whole in (text, signals, marks):
            content = bytearray(whole)
            for at in draw.integers(len(content), size=draw.integers(0, 4)):
                content[at] = draw.integers(256)
            damaged.append(bytes(content[: len(content) - draw.integers(0, 3)]))
        for read in (
            lambda d: read_samples(d[1], read_header(d[0], "x.hea"), "x.dat"),
            lambda d: read_annotations(d[2], "x.atr"),
        ):
            try:
                read(damaged)
            except DataError:
                refused += 1
    # Most damage must be seen: nearly all of the header and the signals are under a checksum.
    assert 3000 < refused < 6000


def test_symbols_and_records_are_those_of_the_wfdb_package(real_root: Path) -> None:
    wfdb = pytest.importorskip("wfdb", reason="the package wfdb, the oracle of the reader, is not installed")
    table = wfdb.io.annotation.ann_label_table
    assert dict(zip(table["label_store"], table["symbol"], strict=True)) == {0: " ", **SYMBOLS}
    folder = real_root / REAL
    headers = sorted(folder.glob("*.hea"))
    assert headers
    for path in headers:
        header = read_header(path.read_bytes(), path.name)
        found = read_samples((folder / header.file).read_bytes(), header, header.file)
        marks = read_annotations(path.with_suffix(".atr").read_bytes(), path.name)
        record, expected = wfdb.rdrecord(str(path.with_suffix(""))), wfdb.rdann(str(path.with_suffix("")), "atr")
        assert [s.name for s in header.signals] == record.sig_name
        np.testing.assert_allclose(found.T, record.p_signal, atol=1e-6)
        assert np.array_equal(marks.times, expected.sample)
        assert list(marks.symbols) == expected.symbol
        assert list(marks.texts) == [text.rstrip("\0") for text in expected.aux_note]
