"""A user's own files: a table, and a folder of images for each class."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import polars as pl

from pliant.lab.datasets.arrays import Data, DataError
from pliant.lab.datasets.files import Manifest
from pliant.lab.datasets.images import EXTENSIONS, decoded

__all__ = ["CSV", "Folder"]

_PARTS = {"train": 0, "val": 1, "valid": 1, "validation": 1, "test": 2}


class CSV:
    """A table of your own with a header: one column is the label, the others are the features."""

    name: ClassVar = "csv"
    version: ClassVar = 1
    source: ClassVar = "your own file"

    @classmethod
    def files(cls, *, path: str, label: str, group: str = "", part: str = "", drop: str = "") -> Manifest:
        return Manifest()

    @classmethod
    def load(cls, *, path: str, label: str, group: str = "", part: str = "", drop: str = "") -> Data:
        """Features float64, shape (rows, columns), in the order of the columns. Labels may be text or numbers; the classes are
        their values, sorted.

        Args:
            path: the file; in a study file, relative to it.
            label: the column with the class.
            group: a column with the subject or record of each row, if any.
            part: a column with train, validation or test, if any.
            drop: columns to leave out, separated by commas.

        Raises:
            DataError: no such file or column, a feature that is not a number, or a gap.
        """
        try:
            table = pl.read_csv(Path(path).expanduser(), infer_schema_length=None, truncate_ragged_lines=False)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise DataError(f"The table {path} cannot be read: {str(error).strip().splitlines()[0]}.") from None
        dropped = [name.strip() for name in drop.split(",") if name.strip()]
        special = [name for name in (label, group, part, *dropped) if name]
        for name in special:
            if name not in table.columns:
                shown = ", ".join(table.columns[:12]) + (", ..." if len(table.columns) > 12 else "")
                raise DataError(f"The table {path} has no column {name!r}; it has {shown}.")
        features = table.drop(list(dict.fromkeys(special)))
        if not features.width:
            raise DataError(f"The table {path} has no column left for the features beside {', '.join(special)}.")
        text = [name for name, kind in features.schema.items() if not (kind.is_numeric() or kind == pl.Boolean)]
        if text:
            raise DataError(
                f"The table {path}: the columns {', '.join(text[:5])} are not numbers. Encode them as numbers, or name them "
                "in the option drop."
            )
        classes, y = _numbered(table[label], label, path)
        return Data.of(
            features.select(pl.all().cast(pl.Float64).fill_null(float("nan"))).to_numpy(),
            y,
            classes,
            f"the table {path}",
            groups=_numbered(table[group], group, path)[1] if group else None,
            parts=_named_parts(table[part], part, path) if part else None,
        )


def _numbered(column: pl.Series, name: str, path: str) -> tuple[list[str], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    if column.null_count():
        row = column.is_null().arg_true()[0]
        raise DataError(f"The table {path}: the column {name!r} is empty in row {row + 2}; every row needs a value.")
    values = column.unique().sort()
    return [str(v) for v in values], np.searchsorted(values.to_numpy(), column.to_numpy()).astype(np.int64)


def _named_parts(column: pl.Series, name: str, path: str) -> list[int]:
    unknown = sorted({str(v) for v in column} - set(_PARTS))
    if unknown:
        raise DataError(
            f"The table {path}: the column {name!r} holds {', '.join(unknown[:5])}; expected train, validation or test."
        )
    return [_PARTS[v] for v in column]


class Folder:
    """Images of your own: a folder for each class, as torchvision's ImageFolder; or train, val and test above those."""

    name: ClassVar = "folder"
    version: ClassVar = 1
    source: ClassVar = "your own folder"

    @classmethod
    def files(cls, *, path: str, size: int = 0) -> Manifest:
        return Manifest()

    @classmethod
    def load(cls, *, path: str, size: int = 0) -> Data:
        """Images as RGB, uint8, shape (n, 3, H, W), class by class in the order of their names.

        Args:
            path: the folder; in a study file, relative to it.
            size: side in pixels that every image is resized to, bilinear and antialiased; 0 if they are all of one size.

        Raises:
            DataError: no such folder, a class without images, parts with other classes, or an image that cannot be read.
        """
        top = Path(path).expanduser()
        below = _folders(top)
        if size < 0:
            raise DataError(f"size was given as {size}; expected the side of the images in pixels, or 0.")
        by_part = {_PARTS[f.name]: f for f in below} if {f.name for f in below} <= set(_PARTS) else {}
        if by_part and len(by_part) < len(below):
            raise DataError(f"{top} has two folders for one part: {', '.join(f.name for f in below)}.")
        names = [f.name for f in (_folders(next(iter(by_part.values()))) if by_part else below)]
        paths: list[Path] = []
        y: list[int] = []
        parts: list[int] = []
        for part, folder in (by_part or {0: top}).items():
            found = [f.name for f in _folders(folder)]
            if found != names:
                other = ", ".join(sorted(set(found) ^ set(names))[:5])
                raise DataError(f"The parts of {top} do not hold the same classes: {other} is not in all of them.")
            for number, name in enumerate(names):
                own = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file())
                if not own:
                    raise DataError(f"{folder / name} holds no image; expected files ending in {', '.join(EXTENSIONS)}.")
                paths += own
                y += [number] * len(own)
                parts += [part] * len(own)
        return Data.of(decoded(paths, size, cls.name), y, names, f"the folder {path}", parts=parts if by_part else None)


def _folders(path: Path) -> list[Path]:
    try:
        found = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        raise DataError(f"The folder {path} cannot be read: {error.strerror}.") from None
    if not found:
        raise DataError(f"{path} holds no folders; expected one for each class, with its images.")
    return found
