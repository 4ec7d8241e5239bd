"""What a data set is to the lab, and a user's own arrays as one."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pliant.errors import PliantError

__all__ = ["Arrays", "Data", "DataError"]


class DataError(PliantError, ValueError):
    """A data set that cannot be used as it is."""


@dataclass(frozen=True, eq=False)
class Data:
    """Examples and their classes, in memory. Every array is read-only.

    Args:
        x: one example a row, shape (n, ...), all finite. uint8 for images of shape (n, C, H, W): they stay bytes, and the
            training code scales them to [0, 1] and normalises them on the device. Else float32, or float64 if given so.
        y: int64, shape (n,): classes 0 .. C-1, each with at least one example. With several labels an example: uint8, shape
            (n, C), 1 where the class is present, 0 where it is not, 255 where it counts neither way (VOC: "difficult").
        classes: C names. With two classes and int64 labels, class 1 is the positive one.
        parts: int8, shape (n,): the official part of each example, 0 train, 1 validation, 2 test. None: no official split.
        groups: int64, shape (n,): whom or what an example comes from (subject, patient, record). A protocol that splits by
            group never parts them. None: examples are independent.
        note: what every output must say about these data, such as "not the official files". Not part of the fingerprint.
    """

    x: NDArray[np.uint8] | NDArray[np.float32] | NDArray[np.float64]
    y: NDArray[np.int64] | NDArray[np.uint8]
    classes: tuple[str, ...]
    parts: NDArray[np.int8] | None = None
    groups: NDArray[np.int64] | None = None
    note: str = ""

    @classmethod
    def of(
        cls,
        x: Any,
        y: Any,
        classes: Sequence[str] | None = None,
        name: str = "the data set",
        *,
        parts: Any = None,
        groups: Any = None,
        note: str = "",
    ) -> Data:
        """Check and convert arrays, tensors or nested lists; see :class:`Data` for what they mean.

        Arrays that are read-only already and of the right type are kept, not copied: a memory map stays one.

        Raises:
            DataError: shapes that do not match, too few examples, values that are not finite, labels that are not 0 .. C-1.
        """
        try:
            features, labels = np.asarray(x), np.asarray(y)
        except ValueError as error:
            raise DataError(f"{name}: the examples or labels are not arrays of one shape: {error}.") from None
        kept = _examples(features, name)
        if labels.dtype.kind not in "fiub":
            raise DataError(f"{name}: the labels are of type {labels.dtype}; expected class numbers 0, 1, 2, ...")
        targets: NDArray[Any]
        if labels.ndim == 2 and labels.shape[0] == len(kept):
            targets, names = _multilabel(labels, classes, name)
        else:
            targets, names = _multiclass(labels, classes, len(kept), name)
        part = _column(parts, "parts", len(kept), np.int8, name)
        if part is not None and not np.isin(part, (0, 1, 2)).all():
            raise DataError(
                f"{name}: parts takes the values {np.unique(part)[:10].tolist()}; expected 0 (train), 1 (validation), 2 (test)."
            )
        return cls(kept, targets, names, part, _column(groups, "groups", len(kept), np.int64, name), note)

    @property
    def task(self) -> Literal["binary", "multiclass", "multilabel"]:
        if self.y.ndim == 2:
            return "multilabel"
        return "binary" if len(self.classes) == 2 else "multiclass"

    def fingerprint(self) -> str:
        """sha256 over shapes, values, class names, parts and groups."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(repr((self.x.shape, self.classes)).encode())
        for array in (self.x, self.y):
            digest.update(np.ascontiguousarray(array).data)
        # What float features with one class an example never had says its name, so that those keep the fingerprint they had.
        optional = {
            "uint8": self.x[:0] if self.x.dtype == np.uint8 else None,
            "multilabel": self.y[:0] if self.task == "multilabel" else None,
            "parts": self.parts,
            "groups": self.groups,
        }
        for label, extra in optional.items():
            if extra is not None:
                digest.update(label.encode())
                digest.update(extra.tobytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.y)


def _example(value: Any) -> NDArray[Any]:
    """One example of a torch data set; an image of Pillow's as (C, H, W)."""
    if not hasattr(value, "getbands"):
        return np.asarray(value)
    pixels = np.asarray(value)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _frozen(array: NDArray[Any], dtype: Any) -> NDArray[Any]:
    if array.dtype == dtype and array.flags.c_contiguous and not array.flags.writeable:
        return array
    copy = np.array(array, dtype=dtype, order="C")
    copy.flags.writeable = False
    return copy


def _examples(features: NDArray[Any], name: str) -> NDArray[Any]:
    if features.dtype.kind not in "fiub" or features.ndim < 2:
        raise DataError(
            f"{name}: the examples have shape {features.shape} and type {features.dtype}, but a numeric array of shape "
            "(examples, ...) was expected. Give one example a row."
        )
    if features.dtype == np.uint8 and features.ndim == 4:
        if features.shape[1] > 4 >= features.shape[3]:
            raise DataError(
                f"{name}: the images have shape {features.shape}, which looks like (n, H, W, C), but (n, C, H, W) was "
                "expected. Give x.transpose(0, 3, 1, 2)."
            )
        return _frozen(features, np.uint8)
    if features.dtype.kind != "f":
        return _frozen(features, np.float32)
    bad = np.flatnonzero(~np.isfinite(features.reshape(len(features), -1)).all(axis=1))
    if bad.size:
        shown = ", ".join(map(str, bad[:5])) + (", ..." if bad.size > 5 else "")
        raise DataError(
            f"{name}: {bad.size} of {len(features)} examples hold NaN or infinite values (rows {shown}), but every value "
            "must be finite. Drop these rows or fill the gaps before the study; a network would turn them into NaN weights."
        )
    if features.size and np.abs(features).max() > np.finfo(np.float32).max:
        raise DataError(f"{name}: some values are too large for float32, which networks compute in. Rescale the features.")
    # Kept in float64 where it came so: a large offset, as in a time stamp, must be subtracted before rounding.
    return _frozen(features, np.float64 if features.dtype == np.float64 else np.float32)


def _multiclass(
    labels: NDArray[Any], classes: Sequence[str] | None, n: int, name: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    if labels.shape != (n,):
        raise DataError(
            f"{name}: there are {n} examples, but the labels have shape {labels.shape}; expected ({n},), one class number an "
            f"example, or ({n}, classes) of 0 and 1 where an example can be of several."
        )
    if labels.dtype.kind == "f" and not (np.isfinite(labels).all() and (labels == np.round(labels)).all()):
        raise DataError(f"{name}: the labels are not whole numbers; expected class numbers 0, 1, 2, ...")
    present = np.unique(labels.astype(np.int64))
    if len(present) < 2 or not np.array_equal(present, np.arange(len(present))):
        raise DataError(
            f"{name}: the labels take the values {present[:10].tolist()}, but classes must be numbered 0, 1, ... without a "
            "gap, and there must be at least two."
        )
    return _frozen(labels, np.int64), _names(classes, len(present), name)


def _multilabel(labels: NDArray[Any], classes: Sequence[str] | None, name: str) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    if not np.isin(labels, (0, 1, 255)).all():
        raise DataError(
            f"{name}: the labels of shape {labels.shape} take the values {np.unique(labels)[:10].tolist()}; expected 1 "
            "(present), 0 (absent) or 255 (counts neither way). With one class an example, give class numbers of shape (n,)."
        )
    return _frozen(labels, np.uint8), _names(classes, labels.shape[1], name)


def _names(classes: Sequence[str] | None, n: int, name: str) -> tuple[str, ...]:
    names = tuple(map(str, classes)) if classes is not None else tuple(map(str, range(n)))
    if len(names) != n:
        raise DataError(f"{name}: {len(names)} class names were given for {n} classes; give one name a class.")
    return names


def _column(given: Any, what: str, n: int, dtype: Any, name: str) -> NDArray[Any] | None:
    if given is None:
        return None
    column = np.asarray(given)
    if column.shape != (n,) or column.dtype.kind not in "iu":
        raise DataError(
            f"{name}: {what} has shape {column.shape} and type {column.dtype}; expected a whole number for each "
            f"of the {n} examples."
        )
    return _frozen(column, dtype)


@dataclass(frozen=True, eq=False)
class Arrays:
    """A user's own data, read once: arrays, a ``(x, y)`` pair, a scikit-learn bunch, or a map-style torch data set of
    (tensor or image, class number) pairs. What a transform with chance in it gives at the one reading is what is kept."""

    data: Data

    @classmethod
    def of(cls, given: Any) -> Arrays:
        """Whatever the user has, as data.

        Raises:
            DataError: it is none of the forms above, or its content cannot be used (see :meth:`Data.of`).
        """
        if isinstance(given, Data):
            return cls(given)
        if hasattr(given, "data") and hasattr(given, "target"):
            names = getattr(given, "target_names", None)
            return cls(Data.of(given.data, given.target, None if names is None else list(names)))
        if isinstance(given, tuple | list) and len(given) == 2:
            return cls(Data.of(given[0], given[1]))
        if hasattr(given, "__getitem__") and hasattr(given, "__len__"):
            try:
                pairs = [given[i] for i in range(len(given))]
                x, y = np.stack([_example(p[0]) for p in pairs]), np.asarray([int(p[1]) for p in pairs])
            except (TypeError, ValueError, IndexError) as error:
                raise DataError(
                    f"The data set {type(given).__name__} could not be read as (example, class) pairs: {error}. Each item must "
                    "be a pair of a numeric array or an image and a class number, all of one shape."
                ) from None
            # torchvision's data sets name their classes; other things of that name are no reason to refuse the data.
            names = getattr(given, "classes", None)
            fits = isinstance(names, list | tuple) and len(names) == len(np.unique(y))
            return cls(Data.of(x, y, names if fits else None, type(given).__name__))
        raise DataError(
            f"Data was given as {type(given).__name__}, but expected the name of a data set, an (x, y) pair of arrays, the "
            "Path of a folder of images, a scikit-learn bunch, or a torch data set with a length."
        )
