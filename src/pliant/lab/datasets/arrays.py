"""What a data set is to the lab, and a user's own arrays as one."""

from __future__ import annotations

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
    """Examples and their classes, in memory.

    Args:
        x: float32, or float64 if given so, shape (n, ...): one example a row, all finite. Read-only.
        y: int64, shape (n,): classes 0 .. C-1, each with at least one example.
        classes: C names. With two classes, class 1 is the positive one.
    """

    x: NDArray[np.float32] | NDArray[np.float64]
    y: NDArray[np.int64]
    classes: tuple[str, ...]

    @classmethod
    def of(cls, x: Any, y: Any, classes: Sequence[str] | None = None, name: str = "the data set") -> Data:
        """Check and convert arrays, tensors or nested lists.

        Raises:
            DataError: shapes that do not match, too few examples, values that are not finite, labels that are not 0 .. C-1.
        """
        try:
            features, labels = np.asarray(x), np.asarray(y)
        except ValueError as error:
            raise DataError(f"{name}: the examples or labels are not arrays of one shape: {error}.") from None
        if labels.dtype.kind not in "fiub":
            raise DataError(f"{name}: the labels are of type {labels.dtype}; expected class numbers 0, 1, 2, ...")
        if features.dtype.kind not in "fiub" or features.ndim < 2:
            raise DataError(
                f"{name}: the examples have shape {features.shape} and type {features.dtype}, but a numeric array of shape "
                "(examples, ...) was expected. Give one example a row."
            )
        if labels.shape != (features.shape[0],):
            raise DataError(
                f"{name}: there are {features.shape[0]} examples, but the labels have shape {labels.shape}; expected "
                f"({features.shape[0]},), one class number an example."
            )
        bad = np.flatnonzero(~np.isfinite(features.reshape(len(features), -1)).all(axis=1))
        if bad.size:
            shown = ", ".join(map(str, bad[:5])) + (", ..." if bad.size > 5 else "")
            raise DataError(
                f"{name}: {bad.size} of {len(features)} examples hold NaN or infinite values (rows {shown}), but every value "
                "must be finite. Drop these rows or fill the gaps before the study; a network would turn them into NaN weights."
            )
        if labels.dtype.kind == "f" and not (np.isfinite(labels).all() and (labels == np.round(labels)).all()):
            raise DataError(f"{name}: the labels are not whole numbers; expected class numbers 0, 1, 2, ...")
        labels = labels.astype(np.int64)
        present = np.unique(labels)
        if len(present) < 2 or not np.array_equal(present, np.arange(len(present))):
            raise DataError(
                f"{name}: the labels take the values {present[:10].tolist()}, but classes must be numbered 0, 1, ... without a "
                "gap, and there must be at least two."
            )
        names = tuple(map(str, classes)) if classes is not None else tuple(map(str, present))
        if len(names) != len(present):
            raise DataError(f"{name}: {len(names)} class names were given for {len(present)} classes; give one name a class.")
        if np.abs(features).max() > np.finfo(np.float32).max:
            raise DataError(f"{name}: some values are too large for float32, which networks compute in. Rescale the features.")
        # Kept in float64 where it came so: a large offset, as in a time stamp, must be subtracted before rounding.
        kept: Any = np.array(features, dtype=np.float64 if features.dtype == np.float64 else np.float32, order="C")
        classes_of = labels.copy()
        kept.flags.writeable = classes_of.flags.writeable = False
        return cls(kept, classes_of, names)

    @property
    def task(self) -> Literal["binary", "multiclass"]:
        return "binary" if len(self.classes) == 2 else "multiclass"

    def fingerprint(self) -> str:
        """sha256 over shapes, values and class names."""
        digest = hashlib.sha256(repr((self.x.shape, self.classes)).encode())
        digest.update(self.x.tobytes())
        digest.update(self.y.tobytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, eq=False)
class Arrays:
    """A user's own data: arrays, a ``(x, y)`` pair, a scikit-learn bunch or a map-style torch data set, read once."""

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
                return cls(Data.of(np.stack([np.asarray(p[0]) for p in pairs]), np.asarray([int(p[1]) for p in pairs])))
            except (TypeError, ValueError, IndexError) as error:
                raise DataError(
                    f"The data set {type(given).__name__} could not be read as (example, class) pairs: {error}. Each item must "
                    "be a pair of a numeric array and a class number, all arrays of one shape."
                ) from None
        raise DataError(
            f"Data was given as {type(given).__name__}, but expected the name of a data set, an (x, y) pair of arrays, a "
            "scikit-learn bunch, or a torch data set with a length."
        )
