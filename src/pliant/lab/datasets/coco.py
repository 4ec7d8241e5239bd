"""COCO detection: instances_*.json beside folders of images."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Final

from pliant.lab.datasets.arrays import DataError
from pliant.lab.datasets.detection import Detection, Objects
from pliant.lab.datasets.files import Download, File, Manifest

__all__ = ["COCODetection"]

_SITE: Final = "http://images.cocodataset.org/"
_ANNOTATIONS: Final = ("annotations/annotations_trainval2017.zip", "md5:f4bbac642086de4f52a3fdda2de5fa2c")
_IMAGES: Final = {
    # One image of each, by which an unpacked archive is known.
    "train2017": ("zips/train2017.zip", "md5:cced6f7f71b7629ddf16f17bbcfab6b2", "coco/train2017/000000000009.jpg"),
    "val2017": ("zips/val2017.zip", "md5:442b8da7639aecaf257c1dceb8ba8c80", "coco/val2017/000000000139.jpg"),
}


class COCODetection:
    """COCO 2017 detection: photographs with boxes around objects of 80 classes; 118,287 to train on, 5,000 to test on."""

    name: ClassVar = "coco-detection"
    task: ClassVar = "detection"
    version: ClassVar = 1
    source: ClassVar = "cocodataset.org; Lin et al. (2014)"
    terms: ClassVar = "annotations CC BY 4.0; images under the licence that the annotation states for each, some non-commercial"

    @classmethod
    def files(cls, *, train: str = "train2017", validation: str = "", test: str = "val2017") -> Manifest:
        sets = [s for s in (train, validation, test) if s]
        for name in sets:
            if not name.replace("_", "").replace("-", "").isalnum():
                raise DataError(
                    f"A part of COCO was given as {name!r}; expected the name of an image folder, such as 'val2017'."
                )
        annotations = tuple(f"coco/annotations/instances_{name}.json" for name in sets)
        official = tuple(a for a, name in zip(annotations, sets, strict=True) if name in _IMAGES)
        downloads = [
            Download(_SITE + _IMAGES[n][0], f"coco/{n}.zip", _IMAGES[n][1], "coco", (_IMAGES[n][2],))
            for n in sets
            if n in _IMAGES
        ]
        if official:
            downloads.insert(0, Download(_SITE + _ANNOTATIONS[0], "coco/annotations.zip", _ANNOTATIONS[1], "coco", official))
        return Manifest(
            tuple(File(a) for a in annotations),
            tuple(downloads),
            "The images belong into a folder of each part's name, such as coco/val2017.",
        )

    @classmethod
    def load(cls, *, train: str = "train2017", validation: str = "", test: str = "val2017") -> Detection:
        """The images and their boxes. Classes are numbered 0 .. 79 in the order of COCO's category numbers, which
        ``Detection.categories`` holds.

        Args:
            train, validation, test: names of image folders, with their annotations in annotations/instances_<name>.json; "" for
                a part that is not wanted.

        Raises:
            DataError: a file is missing, an annotation is damaged, or the parts have different classes. The images themselves
                are read when they are asked for.
        """
        folder = cls.files(train=train, validation=validation, test=test).require(cls.name) / "coco"
        images: list[Objects] = []
        categories: dict[int, str] | None = None
        for part, name in enumerate((train, validation, test)):
            if name:
                path = folder / "annotations" / f"instances_{name}.json"
                found, of_part = _read(path, folder / name, part)
                if categories is not None and categories != of_part:
                    raise DataError(f"{path} has other categories than the part before it; they must be the same in all parts.")
                categories = of_part
                images += found
        known = categories or {}
        return Detection.of(images, [*known.values()], [*known], cls.name)


def _read(path: Path, folder: Path, part: int) -> tuple[list[Objects], dict[int, str]]:
    try:
        with path.open("rb") as stream:
            content = json.load(stream)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}. It may be cut short; fetch it again.") from None
    categories = {
        _whole(c, "id", f"{path}: category {i}"): _text(c, "name", f"{path}: category {i}")
        for i, c in enumerate(_entries(content, "categories", path))
    }
    categories = dict(sorted(categories.items()))
    if len(categories) != len(content["categories"]) or not categories:
        raise DataError(f"{path} has no categories, or two of the same number.")
    label_of = {category: label for label, category in enumerate(categories)}

    images: dict[int, tuple[Path, tuple[int, int]]] = {}
    for i, entry in enumerate(_entries(content, "images", path)):
        where = f"{path}: image {i}"
        relative = PurePosixPath(_text(entry, "file_name", where).replace("\\", "/"))
        if relative.is_absolute() or ".." in relative.parts or not relative.parts or "\0" in str(relative):
            raise DataError(f"{where} has the file name {str(relative)!r}, which is not inside the folder of images.")
        number = _whole(entry, "id", where)
        if number in images:
            raise DataError(f"{where} has the number {number}, which an image before it has.")
        images[number] = folder.joinpath(*relative.parts), (_whole(entry, "height", where), _whole(entry, "width", where))

    objects: dict[int, list[dict[str, Any]]] = {number: [] for number in images}
    seen: set[int] = set()
    for i, entry in enumerate(_entries(content, "annotations", path)):
        where = f"{path}: annotation {i}"
        number, image, category = (_whole(entry, key, where) for key in ("id", "image_id", "category_id"))
        if number in seen:
            raise DataError(f"{where} has the number {number}, which an annotation before it has.")
        seen.add(number)
        if image not in objects or category not in label_of:
            what = f"image {image}" if image not in objects else f"category {category}"
            raise DataError(f"{where} is of {what}, which the file does not have.")
        box = entry.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(_is_number(v) for v in box) or min(box[2:]) < 0:
            raise DataError(
                f"{where} has the box {str(box)[:80]}; expected [left, top, width, height], finite, none below zero wide."
            )
        crowd = entry.get("iscrowd", 0)
        area = entry.get("area", box[2] * box[3])
        if crowd not in (0, 1) or not _is_number(area) or area < 0:
            raise DataError(
                f"{where} has iscrowd {str(crowd)[:20]} and area {str(area)[:20]}; expected 0 or 1, and a number from 0 on."
            )
        objects[image].append(
            {"box": box, "label": label_of[category], "crowd": bool(crowd), "area": float(area)},
        )
    found = [
        Objects(
            id=str(number),
            path=file,
            size=size,
            boxes=[(o["box"][0], o["box"][1], o["box"][0] + o["box"][2], o["box"][1] + o["box"][3]) for o in objects[number]],
            labels=[o["label"] for o in objects[number]],
            difficult=[False] * len(objects[number]),
            crowd=[o["crowd"] for o in objects[number]],
            areas=[o["area"] for o in objects[number]],
            part=part,
        )
        for number, (file, size) in images.items()
    ]
    return found, categories


def _entries(content: Any, key: str, path: Path) -> list[dict[str, Any]]:
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise DataError(f"{path} has no list of {key}, so it is not an instances file of COCO.")
    return entries


def _is_number(value: Any) -> bool:
    # float32 must hold the sums and products of two.
    return type(value) in (int, float) and abs(value) < 1e9


def _whole(entry: dict[str, Any], key: str, where: str) -> int:
    value = entry.get(key)
    if type(value) is not int or not -(1 << 62) < value < 1 << 62:
        raise DataError(f"{where} has the {key} {str(value)[:60]}; expected a whole number.")
    return value


def _text(entry: dict[str, Any], key: str, where: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise DataError(f"{where} has the {key} {str(value)[:60]}; expected a text.")
    return value
