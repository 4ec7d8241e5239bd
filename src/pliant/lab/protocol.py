"""Which examples a trial fits, which it validates on, which it is tested on; and the seeds that two activations share."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold, train_test_split

from pliant.lab.datasets import Data
from pliant.lab.datasets.arrays import DataError
from pliant.lab.study import TrialSpec, canonical

__all__ = ["Split", "seed_of", "split"]


def seed_of(*parts: str | int) -> int:
    """A seed in [0, 2^32) from names and numbers. Independent for any difference in the parts, the same on every machine."""
    return int.from_bytes(hashlib.sha256(canonical(parts).encode()).digest()[:4], "big")


@dataclass(frozen=True, eq=False)
class Split:
    """Row numbers of the three disjoint parts, each sorted, int64."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


def split(spec: TrialSpec, data: Data) -> Split:
    """The split of a trial. It depends on the data, folds, repeat, fold, validation share and seed; never on the activation.

    Raises:
        DataError: a class has too few examples to be in every part.
    """
    if data.task == "multilabel":
        raise DataError("Examples with several labels cannot be split into stratified folds; give one class an example.")
    smallest = int(np.bincount(data.y).min())
    if smallest < spec.folds:
        raise DataError(
            f"The class {data.classes[int(np.bincount(data.y).argmin())]!r} has {smallest} examples, too few for {spec.folds} "
            "stratified folds; use fewer folds or more data."
        )
    partition = StratifiedKFold(spec.folds, shuffle=True, random_state=seed_of("partition", spec.seed, spec.repeat))
    fitting, test = list(partition.split(data.x[:, :1].reshape(len(data), -1), data.y))[spec.fold]
    try:
        train, validation = train_test_split(
            fitting,
            test_size=spec.validation,
            stratify=data.y[fitting],
            random_state=seed_of("validation", spec.seed, spec.repeat, spec.fold),
        )
    except ValueError as error:
        raise DataError(
            f"A validation part of {spec.validation:.3g} of {len(fitting)} training examples cannot hold every class: {error} "
            "Raise protocol.validation, use fewer folds, or bring more data."
        ) from None
    return Split(np.sort(train), np.sort(validation), np.sort(test))
