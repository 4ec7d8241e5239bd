"""What a detection data set is to the lab: image files, and the objects in them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL.Image
import PIL.ImageOps
from numpy.typing import NDArray

from pliant.lab.datasets.arrays import DataError
from pliant.lab.datasets.images import decode

__all__ = ["Detection", "Objects"]

Target = dict[str, Any]


@dataclass(frozen=True)
class Objects:
    """One image and what is annotated in it, as a reader of a format hands it over.

    Args:
        id: of the image; COCO's are numbers, VOC's are file names without their ending.
        path: of the image file.
        size: (height, width) in pixels.
        boxes: (left, top, right, bottom) in pixels, 0 at the outer edge of the first pixel: width = right - left.
        labels: class numbers.
        areas: in square pixels, as annotated (COCO: of the outline); None is the area of the boxes.
        part: 0 train, 1 validation, 2 test.
    """

    id: str
    path: Path
    size: tuple[int, int]
    boxes: Sequence[tuple[float, float, float, float]]
    labels: Sequence[int]
    difficult: Sequence[bool]
    crowd: Sequence[bool]
    areas: Sequence[float] | None
    part: int


@dataclass(frozen=True, eq=False)
class Detection:
    """Images, read when they are asked for, and the objects in them. Every array is read-only.

    Args:
        ids: of the images, n.
        paths: of their files, n.
        sizes: int64, shape (n, 2): height and width in pixels.
        offsets: int64, shape (n + 1,): the objects of image i are rows offsets[i] to offsets[i + 1] of the arrays below.
        boxes: float32, shape (m, 4): left, top, right, bottom in pixels as annotated, which may lie beyond the image or have no
            area; 0 is the outer edge of the first pixel, so that width = right - left in VOC as in COCO.
        labels: int64, shape (m,): classes 0 .. C-1, without a background class.
        difficult: bool, shape (m,): VOC's flag; the evaluation counts such an object neither way.
        crowd: bool, shape (m,): COCO's flag; one box around many objects.
        areas: float32, shape (m,): in square pixels, as annotated; COCO's small, medium and large go by it.
        classes: C names.
        categories: the number that each class has in the annotation files, C. COCO's go from 1 to 90 with gaps.
        parts: int8, shape (n,): 0 train, 1 validation, 2 test.
        note: what every output must say about these data. Not part of the fingerprint.
    """

    ids: tuple[str, ...]
    paths: tuple[Path, ...]
    sizes: NDArray[np.int64]
    offsets: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    difficult: NDArray[np.bool_]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float32]
    classes: tuple[str, ...]
    categories: tuple[int, ...]
    parts: NDArray[np.int8]
    note: str = ""

    @classmethod
    def of(
        cls, images: Sequence[Objects], classes: Sequence[str], categories: Sequence[int], name: str, *, note: str = ""
    ) -> Detection:
        """Check and pack what a reader found.

        Raises:
            DataError: no image, an image twice or without its file, a size that is not positive, or a box that is none.
        """
        if not images:
            raise DataError(f"{name}: there is no image in it.")
        twice = [path for path, n in Counter(i.path for i in images).items() if n > 1]
        if twice:
            raise DataError(
                f"{name}: {len(twice)} images are listed twice, the first is {twice[0]}. An image in two parts would be "
                "trained and tested on; choose parts without common images."
            )
        lacking = [i.path for i in images if not i.path.is_file()]
        if lacking:
            raise DataError(
                f"{name}: {len(lacking)} of {len(images)} annotated images have no file: "
                f"{', '.join(map(str, lacking[:4]))}{', ...' if len(lacking) > 4 else ''}."
            )
        for image in images:
            _check(image, len(classes), name)
        counts = [len(i.labels) for i in images]
        boxes = np.array([b for i in images for b in i.boxes], np.float32).reshape(-1, 4)
        spans = boxes[:, 2:] - boxes[:, :2]
        given = [(np.nan,) * n if i.areas is None else i.areas for i, n in zip(images, counts, strict=True)]
        areas = np.array([a for image in given for a in image], np.float32)

        def flat(attribute: str, dtype: Any) -> NDArray[Any]:
            return np.array([v for i in images for v in getattr(i, attribute)], dtype)

        return cls(
            ids=tuple(i.id for i in images),
            paths=tuple(i.path for i in images),
            sizes=_read_only(np.array([i.size for i in images], np.int64)),
            offsets=_read_only(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)),
            boxes=_read_only(boxes),
            labels=_read_only(flat("labels", np.int64)),
            difficult=_read_only(flat("difficult", np.bool_)),
            crowd=_read_only(flat("crowd", np.bool_)),
            areas=_read_only(np.where(np.isnan(areas), spans.prod(axis=1), areas)),
            classes=tuple(classes),
            categories=tuple(categories),
            parts=_read_only(np.array([i.part for i in images], np.int8)),
            note=note,
        )

    @property
    def task(self) -> Literal["detection"]:
        return "detection"

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, number: int) -> NDArray[np.int64]:
        """The images of a part: 0 train, 1 validation, 2 test."""
        return np.flatnonzero(self.parts == number)

    def image(self, i: int) -> NDArray[np.uint8]:
        """Image i as RGB, uint8, shape (3, H, W). Grey, palette and CMYK images are converted, transparency is dropped.

        A camera's note on orientation (EXIF) is followed only where the annotated size says so: the official tools ignore it.

        Raises:
            DataError: the file is missing, damaged, of another size than annotated, or has more than eight bits a value.
        """
        height, width = map(int, self.sizes[i])
        return np.ascontiguousarray(_pixels(self.paths[i], (height, width)))

    def truth(self, i: int) -> Target:
        """What is annotated in image i, to be evaluated against, as the annotation has it.

        Returns:
            ``boxes`` (k, 4), ``labels`` (k,), ``area`` (k,), ``iscrowd`` (k,) bool, ``difficult`` (k,) bool, as above, and
            ``image_id``, the number i. The names are those of torchvision and torchmetrics.
        """
        rows = slice(int(self.offsets[i]), int(self.offsets[i + 1]))
        return {
            "boxes": self.boxes[rows],
            "labels": self.labels[rows],
            "area": self.areas[rows],
            "iscrowd": self.crowd[rows],
            "difficult": self.difficult[rows],
            "image_id": i,
        }

    def example(self, i: int) -> tuple[NDArray[np.uint8], Target]:
        """Image i and what is in it, to be trained on: boxes are cut off at the border of the image, and objects of which
        nothing is left are left out. Crowd and difficult objects are kept; whether they are trained on is for the protocol.

        Returns:
            See :meth:`image` and :meth:`truth`. k may be 0.
        """
        target = self.truth(i)
        height, width = self.sizes[i]
        boxes = target["boxes"].clip(0, np.array([width, height, width, height], np.float32))
        left = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        return self.image(i), {k: v if k == "image_id" else (boxes if k == "boxes" else v)[left] for k, v in target.items()}

    def fingerprint(self) -> str:
        """sha256 over all annotations and parts, and over the size in bytes of each image file.

        The images' content is not read: COCO has 20 GB of it. A file that was cut short shows, one that was changed and kept
        its length does not; :meth:`contents` sees it.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        head = json.dumps([self.ids, self.classes, self.categories, [p.stat().st_size for p in self.paths]])
        digest = hashlib.sha256(head.encode())
        for array in (self.sizes, self.offsets, self.boxes, self.labels, self.difficult, self.crowd, self.areas, self.parts):
            digest.update(array.tobytes())
        return digest.hexdigest()

    def contents(self) -> str:
        """sha256 over the content of all image files, in order. Reads every byte."""
        digest = hashlib.sha256()
        for path in self.paths:
            with path.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False
    return array


def _check(image: Objects, classes: int, name: str) -> None:
    height, width = image.size
    if height < 1 or width < 1:
        raise DataError(f"{name}: the image {image.id} has a size of {width} x {height} pixels.")
    if not all(len(c) == len(image.labels) for c in (image.boxes, image.difficult, image.crowd)):
        raise DataError(f"{name}: the image {image.id} has another number of boxes than of labels or flags.")
    for box, label in zip(image.boxes, image.labels, strict=True):
        # Magnitudes that float32 and the products of two of them hold without rounding to infinity.
        if not all(abs(v) < 1e9 for v in box) or box[2] < box[0] or box[3] < box[1]:
            raise DataError(
                f"{name}: the image {image.id} has the box {tuple(box)}; expected finite left <= right and top <= bottom."
            )
        if not 0 <= label < classes:
            raise DataError(
                f"{name}: the image {image.id} has an object of class {label}, but classes go from 0 to {classes - 1}."
            )


def _pixels(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """An image file of the given (height, width): as it is stored, else as the camera's note on orientation turns it."""
    image = decode(path)
    if image.shape[1:] == size:
        return image
    try:
        with PIL.Image.open(path) as opened:
            turned = np.asarray(PIL.ImageOps.exif_transpose(opened).convert("RGB")).transpose(2, 0, 1)
    # Pillow reports a damaged note by whatever its reader stumbled over; the image itself was read.
    except Exception:
        turned = image
    if turned.shape[1:] != size:
        raise DataError(
            f"{path} has {image.shape[2]} x {image.shape[1]} pixels, but its annotation says {size[1]} x {size[0]}; the image "
            "belongs to another annotation or was resized."
        )
    return turned
