"""PASCAL VOC from its VOCdevkit folder: multi-label classification and detection.

Parts are named by year and list, as in "2007/trainval": the file ImageSets/Main/trainval.txt of VOCdevkit/VOC2007. Several are
joined with +, and a list of one's own is used by its name. The labels of the official test part of 2012 are not public.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal
from xml.etree import ElementTree

import numpy as np

from pliant.lab.datasets.arrays import Data, DataError
from pliant.lab.datasets.detection import Detection, Objects
from pliant.lab.datasets.files import Download, File, Manifest
from pliant.lab.datasets.images import decoded

__all__ = ["VOC", "VOCDetection"]

CLASSES: Final = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)

_SITE: Final = "https://thor.robots.ox.ac.uk/pascal/VOC/"
_ARCHIVES: Final = {
    "2007": ("voc2007/VOCtrainval_06-Nov-2007.tar", "md5:c52e279531787c972589f7e41ab4ae64"),
    "2007/test": ("voc2007/VOCtest_06-Nov-2007.tar", "md5:b6e924de25625d8de591ea690078ad9f"),
    "2012": ("voc2012/VOCtrainval_11-May-2012.tar", "md5:6cd6e144f989b92b3379bac3b3de84fd"),
}
_SET: Final = re.compile(r"(20\d\d)/([A-Za-z0-9_-]+)")
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SOURCE: Final = "PASCAL VOC challenges; Everingham et al. (2010)"
_TERMS: Final = "images under the terms of flickr; for research"


@dataclass(frozen=True)
class _Annotated:
    """An image and what its XML file says; boxes as in :class:`Objects`."""

    id: str
    image: Path
    size: tuple[int, int]
    labels: tuple[int, ...]
    boxes: tuple[tuple[float, float, float, float], ...]
    difficult: tuple[bool, ...]


class VOC:
    """PASCAL VOC classification: photographs with any of 20 classes each."""

    name: ClassVar = "voc"
    version: ClassVar = 1
    source: ClassVar = _SOURCE
    terms: ClassVar = _TERMS

    @classmethod
    def files(
        cls,
        *,
        train: str = "2007/train",
        validation: str = "2007/val",
        test: str = "2007/test",
        size: int = 224,
        resize: Literal["stretch", "crop"] = "stretch",
    ) -> Manifest:
        return _manifest(train, validation, test)

    @classmethod
    def load(
        cls,
        *,
        train: str = "2007/train",
        validation: str = "2007/val",
        test: str = "2007/test",
        size: int = 224,
        resize: Literal["stretch", "crop"] = "stretch",
    ) -> Data:
        """Images as uint8 of shape (n, 3, size, size); y is uint8 of shape (n, 20).

        y is 1 where an object of the class is there, 0 where none is, and 255 where all are marked difficult: as in the
        official evaluation these images count neither way for that class.

        Args:
            train, validation, test: lists of images, see the module; "" for a part that is not wanted.
            size: of the images in pixels. The 9,963 images of 2007 take 1.5 GB at 224.
            resize: "stretch" scales width and height to ``size``; "crop" scales the shorter one and cuts out the middle.
                Bilinear with antialiasing. Decoded images are kept in a cache, see :mod:`pliant.lab.datasets.images`.

        Raises:
            DataError: a list, an annotation or an image is missing or damaged.
        """
        if not 1 <= size <= 4096:
            raise DataError(f"size was given as {size}; expected 1 to 4096 pixels.")
        folder = cls.files(train=train, validation=validation, test=test).require(cls.name)
        found = [(a, part) for part, names in enumerate((train, validation, test)) for a in _annotated(folder, names)]
        images = [a.image for a, _ in found]
        if len(set(images)) < len(images):
            raise DataError(
                f"{cls.name}: images are in two parts of {train!r}, {validation!r}, {test!r}; choose disjoint lists."
            )
        if not images:
            raise DataError(f"{cls.name}: train, validation and test are all empty.")
        x = decoded(images, size, cls.name, crop=resize == "crop")
        y = np.zeros((len(images), len(CLASSES)), np.uint8)
        for row, (a, _) in zip(y, found, strict=True):
            row[[c for c, hard in zip(a.labels, a.difficult, strict=True) if hard]] = 255
            row[[c for c, hard in zip(a.labels, a.difficult, strict=True) if not hard]] = 1
        return Data.of(x, y, CLASSES, cls.name, parts=np.array([part for _, part in found], np.int8))


class VOCDetection:
    """PASCAL VOC detection: photographs with boxes around objects of 20 classes."""

    name: ClassVar = "voc-detection"
    task: ClassVar = "detection"
    version: ClassVar = 1
    source: ClassVar = _SOURCE
    terms: ClassVar = _TERMS

    @classmethod
    def files(cls, *, train: str = "2007/train", validation: str = "2007/val", test: str = "2007/test") -> Manifest:
        return _manifest(train, validation, test)

    @classmethod
    def load(cls, *, train: str = "2007/train", validation: str = "2007/val", test: str = "2007/test") -> Detection:
        """The images and their boxes. VOC counts pixels from 1 and includes the last one: xmin 1 becomes 0, xmax stays, so that
        width = right - left is the official xmax - xmin + 1.

        Args:
            train, validation, test: lists of images, see the module; "" for a part that is not wanted. The usual "07+12" is
                train = "2007/trainval+2012/trainval", validation = "", test = "2007/test".

        Raises:
            DataError: a list, an annotation or an image file is missing, or an annotation is damaged. The images themselves are
                read when they are asked for.
        """
        folder = cls.files(train=train, validation=validation, test=test).require(cls.name)
        images = [
            Objects(a.id, a.image, a.size, a.boxes, a.labels, a.difficult, (False,) * len(a.labels), None, part)
            for part, names in enumerate((train, validation, test))
            for a in _annotated(folder, names)
        ]
        return Detection.of(images, CLASSES, range(len(CLASSES)), cls.name)


def _sets(names: str) -> list[tuple[str, str]]:
    """Year and list of each set in "2007/trainval+2012/trainval"."""
    sets = []
    for name in names.split("+") if names else ():
        found = _SET.fullmatch(name.strip())
        if not found:
            raise DataError(f"A part of VOC was given as {names!r}; expected year/list, such as '2007/trainval+2012/trainval'.")
        sets.append((found[1], found[2]))
    return sets


def _manifest(train: str, validation: str, test: str) -> Manifest:
    sets = [s for names in (train, validation, test) for s in _sets(names)]
    lists = {s: f"VOCdevkit/VOC{s[0]}/ImageSets/Main/{s[1]}.txt" for s in sets}
    archives: dict[str, list[str]] = {}
    for (year, name), path in lists.items():
        key = f"{year}/{name}" if f"{year}/{name}" in _ARCHIVES else year
        if key in _ARCHIVES:
            archives.setdefault(key, []).append(path)
    return Manifest(
        tuple(File(path) for path in lists.values()),
        tuple(
            Download(_SITE + _ARCHIVES[key][0], _ARCHIVES[key][0].rpartition("/")[2], _ARCHIVES[key][1], "", tuple(paths))
            for key, paths in archives.items()
        ),
        "Unpacked, they give the folders Annotations, ImageSets and JPEGImages in VOCdevkit/VOC<year>.",
    )


def _annotated(folder: Path, names: str) -> Iterator[_Annotated]:
    for year, name in _sets(names):
        base = folder / "VOCdevkit" / f"VOC{year}"
        for identity in _identities(base / "ImageSets" / "Main" / f"{name}.txt"):
            yield _annotation(base / "Annotations" / f"{identity}.xml", base / "JPEGImages" / f"{identity}.jpg")


def _identities(path: Path) -> list[str]:
    try:
        lines = path.read_text("ascii").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as a list of image names: {error}.") from None
    found = [line.strip() for line in lines if line.strip()]
    for number, line in enumerate(found, 1):
        if not _ID.fullmatch(line):
            raise DataError(
                f"{path}: entry {number} is {line[:60]!r}; expected the name of one image, without its ending, a line."
            )
    if not found:
        raise DataError(f"{path} lists no image.")
    return found


class _NoDoctype(ElementTree.TreeBuilder):
    """A document type declares entities, which could reach other files or grow without end. VOC's files have none."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it has a document type declaration, which is not accepted")


def _annotation(path: Path, image: Path) -> _Annotated:
    try:
        root = ElementTree.fromstring(path.read_bytes(), ElementTree.XMLParser(target=_NoDoctype()))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(f"{path} is not an XML annotation: {error}.") from None
    if root.tag != "annotation":
        raise DataError(f"{path} is not a VOC annotation: its root is <{root.tag}>, but <annotation> was expected.")
    named = root.findtext("filename")
    if named is not None and Path(named.strip()).stem != path.stem:
        raise DataError(f"{path} annotates the image {named.strip()!r}, but its own name says {path.stem}.jpg.")
    width, height = (_number(root, f"size/{key}", path) for key in ("width", "height"))
    labels, boxes, difficult = [], [], []
    for number, found in enumerate(root.iterfind("object"), 1):
        where = f"object {number}: "
        name = (found.findtext("name") or "").strip()
        if name not in CLASSES:
            raise DataError(f"{path}: {where}the class is {name!r}, which is none of the 20 of VOC.")
        left, top, right, bottom = (_number(found, f"bndbox/{key}", path, where) for key in ("xmin", "ymin", "xmax", "ymax"))
        if right < left or bottom < top:
            raise DataError(f"{path}: {where}the box ({left:g}, {top:g}, {right:g}, {bottom:g}) ends before it begins.")
        flag = (found.findtext("difficult") or "0").strip()
        if flag not in ("0", "1"):
            raise DataError(f"{path}: {where}difficult is {flag!r}; expected 0 or 1.")
        labels.append(CLASSES.index(name))
        boxes.append((left - 1, top - 1, right, bottom))
        difficult.append(flag == "1")
    if not (width.is_integer() and height.is_integer()):
        raise DataError(f"{path}: the size {width:g} x {height:g} is not a whole number of pixels.")
    return _Annotated(path.stem, image, (int(height), int(width)), tuple(labels), tuple(boxes), tuple(difficult))


def _number(element: ElementTree.Element, key: str, path: Path, where: str = "") -> float:
    text = element.findtext(key)
    try:
        # Some boxes of 2012 have fractions.
        value = float(text or "")
    except ValueError:
        value = float("nan")
    if not abs(value) < 1e6:
        raise DataError(f"{path}: {where}{key} is {text!r}; expected a number.")
    return value
