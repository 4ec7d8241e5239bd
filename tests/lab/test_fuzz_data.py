"""Files of data sets that are damaged or hostile: read, or refused with a DataError; nothing else, and nothing is run."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import pickletools
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import fuzz
import image_files
import numpy as np
import PIL.Image
import pytest
import wfdb_writer
from hypothesis import strategies as st

from pliant.lab.datasets import CSV, Data, cifar, voc, wfdb
from pliant.lab.datasets.arrays import DataError
from pliant.lab.datasets.coco import _read as read_coco
from pliant.lab.datasets.files import unpack
from pliant.lab.datasets.images import decode
from pliant.lab.datasets.mnist import idx, parse_idx

RNG = np.random.default_rng(0)


def refused(read: Callable[[], object]) -> bool:
    """Whether ``read`` says that it cannot; whatever else it raises is a mistake of ours."""
    try:
        read()
    except DataError:
        return True
    return False


def refusals(whole: bytes, examples: int, read: Callable[[bytes], object], least: float = 0.3) -> None:
    """Most damage is seen: at least the share ``least``. And what is whole is read."""
    read(whole)
    seen = [0, 0]

    def check(content: bytes) -> None:
        seen[0] += 1
        seen[1] += refused(lambda: read(content))

    fuzz.tried(fuzz.damaged(whole), examples, check)
    assert seen[1] >= least * seen[0]


@fuzz.lengths()
@pytest.mark.parametrize("packed", [False, True])
def test_idx(examples: int, packed: bool) -> None:
    whole = idx(RNG.integers(0, 255, (3, 4, 5)).astype(np.uint8))
    refusals(gzip.compress(whole) if packed else whole, examples, lambda content: parse_idx(content, "file"))


def test_a_gzip_bomb_is_not_unpacked() -> None:
    bomb = gzip.compress(idx(np.zeros((2, 2), np.uint8)) + bytes(1 << 26))
    assert len(bomb) < 1 << 17
    tracemalloc.start()
    with pytest.raises(DataError, match="announces 2x2 = 4"):
        parse_idx(bomb, "file")
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()


@fuzz.lengths()
@pytest.mark.parametrize("protocol", [2, 4])
def test_cifar(examples: int, protocol: int) -> None:
    content = {"labels": [1, 2, 3], "data": np.arange(12, dtype=np.uint8).reshape(3, 4), "filenames": ["a.png", "b", "c"]}
    whole = image_files.python2_pickle(content) if protocol == 2 else pickle.dumps(content, protocol=4)
    refusals(whole, examples, lambda content: cifar.parse(content, "file"))


def test_a_pickle_cannot_ask_for_memory() -> None:
    """An entry of the memo far out makes the machine of pickles write to as many places; a text of 2^62 bytes asks for them."""
    far = pickle.PROTO + b"\x02]" + pickle.LONG_BINPUT + struct.pack("<I", 1 << 30) + b"."
    long = pickle.PROTO + b"\x04" + pickle.BINBYTES8 + struct.pack("<Q", 1 << 62) + b"x."
    assert [code.name for code, _, _ in pickletools.genops(far)] == ["PROTO", "EMPTY_LIST", "LONG_BINPUT", "STOP"]
    for content in (far, long):
        with pytest.raises(DataError, match="is not a CIFAR file"):
            cifar.parse(content, "file")


def test_a_pickle_without_end_is_refused() -> None:
    deep = pickle.PROTO + b"\x02" + b"(" * 20_000 + b"t" * 20_000 + b"."
    with pytest.raises(DataError, match="is not a CIFAR file"):
        cifar.parse(deep, "file")


@fuzz.lengths()
def test_wfdb(examples: int) -> None:
    digital = RNG.integers(-500, 500, (2, 30))
    header = wfdb_writer.describe("100", digital, ["MLII", "V5"])
    described = wfdb.read_header(header, "100.hea")
    refusals(header, examples, lambda content: wfdb.read_header(content, "100.hea"), 0.2)
    # A checksum guards the samples, so nearly all damage is seen; and what is read has the shape that was announced.
    refusals(wfdb_writer.pack(digital), examples, lambda content: wfdb.read_samples(content, described, "100.dat"), 0.8)
    marks = wfdb_writer.annotate([(10, "N", ""), (4000, "V", ""), (9000, "+", "(AFIB")])
    refusals(marks, examples, lambda content: wfdb.read_annotations(content, "100.atr"), 0.1)


@fuzz.lengths()
def test_images(tmp_path: Path, examples: int) -> None:
    for form in ("JPEG", "PNG"):
        stream = io.BytesIO()
        PIL.Image.fromarray(RNG.integers(0, 255, (16, 16, 3)).astype(np.uint8)).save(stream, form)
        path = tmp_path / f"image.{form.lower()}"

        def read(content: bytes, path: Path = path) -> None:
            path.write_bytes(content)
            found = decode(path, 8)
            assert found.shape == (3, 8, 8)

        refusals(stream.getvalue(), examples, read, 0.05)


def test_an_image_of_a_million_million_pixels_is_not_decoded(tmp_path: Path) -> None:
    stream = io.BytesIO()
    PIL.Image.new("RGB", (2, 2)).save(stream, "PNG")
    content = bytearray(stream.getvalue())
    content[16:24] = struct.pack(">II", 1 << 20, 1 << 20)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "bomb.png").write_bytes(content)
    with pytest.raises(DataError, match="decompression bomb"):
        decode(tmp_path / "bomb.png")


XML = b"""<annotation><filename>000001.jpg</filename><size><width>20</width><height>10</height><depth>3</depth></size>
<object><name>dog</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>5</xmax><ymax>6</ymax></bndbox></object>
</annotation>"""


@fuzz.lengths()
def test_voc(tmp_path: Path, examples: int) -> None:
    path = tmp_path / "000001.xml"

    def read(content: bytes) -> None:
        path.write_bytes(content)
        voc._annotation(path, tmp_path / "000001.jpg")

    refusals(XML, examples, read)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            b'<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>'
            b"<annotation><filename>&c;</filename></annotation>",
            "document type",
        ),
        (b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>', "document type"),
        (b"<a>" * 100_000 + b"</a>" * 100_000, "its root is <a>"),
        (XML.replace(b"<width>20", b"<width>" + b"9" * 100_000), "size/width"),
        (XML.replace(b"<xmin>1", b"<xmin>nan"), "bndbox/xmin"),
        (XML.replace(b"<xmin>1", b"<xmin>-1e309"), "bndbox/xmin"),
    ],
    ids=["billion laughs", "another file", "deep", "huge", "nan", "infinite"],
)
def test_hostile_annotations(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "000001.xml"
    path.write_bytes(content)
    with pytest.raises(DataError, match=expected):
        voc._annotation(path, tmp_path / "000001.jpg")


COCO = json.dumps(
    {
        "categories": [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}],
        "images": [{"id": 7, "file_name": "a.jpg", "width": 20, "height": 10}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}],
    }
).encode()


@fuzz.lengths()
def test_coco(tmp_path: Path, examples: int) -> None:
    path = tmp_path / "instances.json"

    def read(content: bytes) -> None:
        path.write_bytes(content)
        read_coco(path, tmp_path, 0)

    refusals(COCO, examples, read)


def test_deep_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "instances.json").write_bytes(b"[" * 200_000)
    with pytest.raises(DataError, match="is not JSON"):
        read_coco(tmp_path / "instances.json", tmp_path, 0)


@fuzz.lengths()
def test_csv(tmp_path: Path, examples: int) -> None:
    path = tmp_path / "table.csv"
    whole = b"a,b,kind,part\n" + b"".join(b"%d,%.2f,%s,train\n" % (i, i / 3, b"xy"[i % 2 :][:1]) for i in range(12))

    def read(content: bytes) -> None:
        path.write_bytes(content)
        data = CSV.load(path=str(path), label="kind", drop="part")
        assert isinstance(data, Data)
        assert np.isfinite(data.x).all()

    refusals(whole, examples, read, 0.1)


def zipped(name: str, content: bytes = b"x") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("good.txt", b"good")
        # Its constructor cuts a name off at a zero byte; a stranger's program does not.
        info = zipfile.ZipInfo("x")
        info.filename = name
        file.writestr(info, content)
    return stream.getvalue()


@fuzz.lengths(40, 1500)
def test_archives_never_write_outside(tmp_path: Path, examples: int) -> None:
    """Member names of any text, and archives with any damage."""
    home = tmp_path / "a" / "b"
    home.mkdir(parents=True)
    names = st.lists(st.sampled_from(["..", ".", "/", "\\", "C:", "x", "~", "\0", "a\nb", "con"]), min_size=1, max_size=6).map(
        "/".join
    )
    contents = (names | names.map(lambda n: n.replace("/", "\\")) | st.text(max_size=12)).filter(len).map(
        zipped
    ) | fuzz.damaged(zipped("folder/file.txt"))

    def check(content: bytes) -> None:
        archive = tmp_path / "archive.zip"
        archive.write_bytes(content)
        refused(lambda: unpack(archive, home))
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "archive.zip"]
        assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["b"]
        assert not any(p.is_symlink() for p in home.rglob("*"))
        # Whatever came of it, no half of an archive is left under its temporary name.
        assert not [p for p in home.iterdir() if p.name.startswith(".unpack")]

    fuzz.tried(contents, examples, check)
