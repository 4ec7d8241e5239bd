"""Class-balanced choices of examples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pliant.lab.datasets.arrays import Data, DataError

__all__ = ["balanced"]


def balanced(data: Data, per_class: int, seed: int, name: str) -> NDArray[np.int64]:
    """Rows, sorted: ``per_class`` of each class, drawn without replacement from each official part by itself.

    Raises:
        DataError: a class has fewer examples in a part, or examples have several classes.
    """
    if per_class < 1:
        raise DataError(f"A subset of {per_class} examples a class was asked for; expected at least 1.")
    if data.task == "multilabel":
        raise DataError(f"{name}: an example can be of several classes, so no subset is balanced in all of them.")
    random = np.random.default_rng(seed)
    parts = np.zeros(len(data), np.int8) if data.parts is None else data.parts
    chosen = []
    for part in np.unique(parts):
        for number, label in enumerate(data.classes):
            rows = np.flatnonzero((parts == part) & (data.y == number))
            if len(rows) < per_class:
                where = "" if data.parts is None else f" in its {('train', 'validation', 'test')[part]} part"
                raise DataError(
                    f"{name}: the class {label!r} has {len(rows)} examples{where}, fewer than the {per_class} asked for."
                )
            chosen.append(random.permutation(rows)[:per_class])
    return np.sort(np.concatenate(chosen))
