"""Mini-ImageNet: 100 classes of ImageNet with 600 images each."""

from __future__ import annotations

import csv
import hashlib
import io
import shutil
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from pliant.lab.datasets.arrays import Data, DataError
from pliant.lab.datasets.balance import balanced
from pliant.lab.datasets.files import Download, File, Manifest, is_official, read, root, write
from pliant.lab.datasets.images import decoded

__all__ = ["MiniImageNet"]

_FOLDER = "mini-imagenet"
_CSV = {
    "train.csv": ("498519cd8e49ce97ed26a4a3638966698ae41ab35e9c68538319fc9b46ba7d2f", 38_400),
    "val.csv": ("5658a59921ca027ee76af92949869c5d6f41d77592ff3b18db325a9d10c893b9", 9_600),
    "test.csv": ("2b7cfa78342995761a572a8158e539bc4e0a80f9bbd7d00c1e17a460fbbb93fa", 12_000),
}
_SOURCE = "https://raw.githubusercontent.com/twitter-research/meta-learning-lstm/master/data/miniImagenet/"
# 40,800 + 10,200 + 9,000 of 60,000: the sizes of the DSReLU release.
_SHARES = (0.68, 0.17, 0.15)


class MiniImageNet:
    """ImageNet photographs, 84 x 84 or 128 x 128 colour: 60,000 images, 100 classes, in the list of Ravi & Larochelle."""

    name: ClassVar = "mini-imagenet"
    version: ClassVar = 1
    source: ClassVar = "Vinyals et al. (2016), split CSVs of Ravi & Larochelle (2017)"

    @classmethod
    def files(
        cls, *, size: Literal[84, 128] = 84, split: Literal["stratified", "merged"] = "stratified", official: bool = True
    ) -> Manifest:
        lists = tuple(File(f"{_FOLDER}/{name}", f"sha256:{sha256}") for name, (sha256, _) in _CSV.items())
        folder = root()
        images: tuple[File, ...] = ()
        if all(f.at(folder).is_file() for f in lists):
            images = tuple(File(f"{_FOLDER}/images/{name}") for name, _ in _listed(lists, folder, official=False))
        return Manifest(
            (*lists, *images),
            tuple(Download(_SOURCE + name, f.path, f.checksum, gives=(f.path,)) for name, f in zip(_CSV, lists, strict=True)),
            f"The images are under the terms of ImageNet and cannot be fetched: put them at {_FOLDER}/images, named as in the "
            "lists (n0153282900000005.jpg ...), from ImageNet or a copy of mini-ImageNet that you may use.",
        )

    @classmethod
    def load(
        cls, *, size: Literal[84, 128] = 84, split: Literal["stratified", "merged"] = "stratified", official: bool = True
    ) -> Data:
        """Images uint8, shape (60000, 3, size, size); the classes of the three few-shot lists merged, named by WordNet id.

        Args:
            size: images of another size are resized, bilinear and antialiased. 84 is what the papers state, 128 what the DSReLU
                release trained on.
            split: "stratified" parts each class 68 : 17 : 15 at random into train, validation and test, the sizes of the
                DSReLU release; which image is in which part follows from the sha256 of its name, so it is the same everywhere.
                "merged" has no parts, for protocols that split by themselves.
            official: False accepts other lists, leaves out images that are not there, and says so in every output.

        Raises:
            DataError: a list or an image is missing or damaged.
        """
        lists = tuple(File(f"{_FOLDER}/{name}", f"sha256:{sha256}") for name, (sha256, _) in _CSV.items())
        manifest = cls.files(size=size, split=split, official=official)
        folder = root()
        absent = {f.path.rpartition("/")[2] for f in manifest.missing(folder)}
        if absent and (official or absent & set(_CSV)):
            manifest.require(cls.name)
        rows = _listed(lists, folder, official=official)
        there = [(name, label) for name, label in rows if name not in absent]
        if not there:
            raise DataError(f"{folder / _FOLDER / 'images'} holds none of the {len(rows):,} listed images.")
        classes = sorted({label for _, label in there})
        number = {label: i for i, label in enumerate(classes)}
        note = ""
        if not official and (absent or not all(is_official(f, f.at(folder).read_bytes()) for f in lists)):
            note = f"mini-ImageNet (not the official files: {len(classes)} of 100 classes, {len(there):,} of 60,000 images)"
        part = _parts(rows)
        return Data.of(
            decoded([folder / _FOLDER / "images" / name for name, _ in there], size, cls.name),
            [number[label] for _, label in there],
            classes,
            cls.name,
            parts=np.array([part[name] for name, _ in there], np.int8) if split == "stratified" else None,
            note=note,
        )

    @classmethod
    def subset(
        cls,
        target: Path,
        per_class: int,
        seed: int,
        *,
        size: Literal[84, 128] = 84,
        split: Literal["stratified", "merged"] = "stratified",
        official: bool = True,
    ) -> Path:
        """Copy ``per_class`` images of each class (and part, where ``split`` makes parts) and their lists below ``target``.

        The parts of a subset are made anew from its own lists, 68 : 17 : 15 of each class.

        Raises:
            DataError: a class has fewer.
        """
        data = cls.load(size=size, split=split, official=official)
        folder = root() / _FOLDER
        lists = tuple(File(f"{_FOLDER}/{name}", f"sha256:{sha256}") for name, (sha256, _) in _CSV.items())
        there = [row for row in _listed(lists, root(), official=official) if (folder / "images" / row[0]).is_file()]
        chosen = {there[i][0] for i in balanced(data, per_class, seed, cls.name)}
        (target / _FOLDER / "images").mkdir(parents=True, exist_ok=True)
        for file in lists:
            rows = [row for row in _rows(file, root(), official=official) if row[0] in chosen]
            text = "".join(f"{name},{label}\n" for name, label in [("filename", "label"), *rows]).encode()
            write(target / _FOLDER / Path(file.path).name, text)
        for name in chosen:
            shutil.copy2(folder / "images" / name, target / _FOLDER / "images" / name)
        return target / _FOLDER


def _rows(file: File, folder: Path, *, official: bool) -> list[tuple[str, str]]:
    path = file.at(folder)
    try:
        lines = list(csv.reader(io.StringIO(read(file, folder, official=official).decode("utf-8"))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file: {error}. Fetch it again.") from None
    if not lines or lines[0] != ["filename", "label"]:
        raise DataError(f"{path} begins with {','.join(lines[0]) if lines else 'nothing'!r}; expected filename,label.")
    for i, line in enumerate(lines[1:], 2):
        # A name with a folder in it would lead out of the data set.
        if len(line) != 2 or not all(line) or Path(line[0]).name != line[0] or "\\" in line[0] or line[0] == "..":
            raise DataError(f"{path}, line {i}: {','.join(line)!r} is not filename,label of an image in the folder images.")
    return [(name, label) for name, label in lines[1:]]


def _listed(lists: tuple[File, ...], folder: Path, *, official: bool) -> list[tuple[str, str]]:
    rows = [row for file in lists for row in _rows(file, folder, official=official)]
    names: dict[str, str] = {}
    for name, label in rows:
        if names.setdefault(name, label) != label:
            raise DataError(
                f"{folder / _FOLDER}: the lists give {name} two labels, {names[name]} and {label}. Fetch them again."
            )
    if len(names) < len(rows):
        raise DataError(f"{folder / _FOLDER}: the lists name {len(rows) - len(names)} images twice. Fetch them again.")
    return rows


def _parts(rows: list[tuple[str, str]]) -> dict[str, int]:
    """The part of each listed image: within a class, in the order of the sha256 of the names, by the shares."""
    by_class: dict[str, list[str]] = {}
    for name, label in rows:
        by_class.setdefault(label, []).append(name)
    parts = {}
    for names in by_class.values():
        ordered = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
        train = round(_SHARES[0] * len(names))
        validation = train + round(_SHARES[1] * len(names))
        for i, name in enumerate(ordered):
            parts[name] = 0 if i < train else 1 if i < validation else 2
    return parts
