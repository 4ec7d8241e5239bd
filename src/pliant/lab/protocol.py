"""Which examples a trial fits, which it validates on, which it is tested on; and the seeds that two activations share."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import KFold, StratifiedGroupKFold, StratifiedKFold, train_test_split

from pliant.lab.datasets import Data, Detection
from pliant.lab.datasets.arrays import DataError
from pliant.lab.study import TrialSpec, canonical

__all__ = ["Split", "partition_of", "seed_of", "split"]

TEST_IMAGES = 64
"""How many examples the released AAF code tested on."""

Rows = NDArray[np.int64]


def seed_of(*parts: str | int) -> int:
    """A seed in [0, 2^32) from names and numbers. Independent for any difference in the parts, the same on every machine."""
    return int.from_bytes(hashlib.sha256(canonical(parts).encode()).digest()[:4], "big")


def partition_of(spec: TrialSpec) -> str | None:
    """Which division of the data a trial used, for the verdict: trials that share one differ by their seeds alone. None for
    k-fold, where every repeat and fold has its own."""
    return {"kfold": None, "holdout": f"holdout {spec.repeat}", "official": "official"}[spec.design]


@dataclass(frozen=True, eq=False)
class Split:
    """Row numbers of the three parts, each sorted, int64. They are disjoint, but for the quirk ``test_as_validation``."""

    train: Rows
    validation: Rows
    test: Rows


def split(spec: TrialSpec, data: Data | Detection) -> Split:
    """The split of a trial. It depends on the data, the protocol, repeat, fold and seed; never on the activation.

    Stratified by class; examples with several labels, and images with objects in them, are split at random. With ``groups``
    whole groups are assigned, so that classes and shares are kept only as well as the groups allow.

    Raises:
        DataError: a class or a part would be empty; the data have no official part or no groups and the protocol asks for them.
    """
    if spec.groups and (isinstance(data, Detection) or data.groups is None):
        raise DataError(
            "protocol.groups is true, but the data set names no groups; set it to false, or give Data.of(groups=...)."
        )
    used = _used(spec, data)
    if spec.design == "official":
        fitting, test = _official(spec, data, used)
        # One fixed split: the repeats are further seeds of everything but this.
        seed = seed_of("validation", spec.seed)
    elif spec.design == "holdout":
        assert spec.test is not None
        fitting, test = _cut(data, used, spec.test, spec.groups, seed_of("partition", spec.seed, spec.repeat), "test")
        seed = seed_of("validation", spec.seed, spec.repeat)
    else:
        fitting, test = _fold(spec, data, used)
        seed = seed_of("validation", spec.seed, spec.repeat, spec.fold)

    if spec.validation == "official":
        train, validation = _official_validation(data, fitting)
    elif spec.validation == 0:
        train, validation = fitting, fitting[:0]
    else:
        train, validation = _cut(data, fitting, spec.validation, spec.groups, seed, "validation")

    if "test_on_64_images" in spec.quirks:
        if len(test) < TEST_IMAGES:
            raise DataError(
                f"The quirk test_on_64_images needs {TEST_IMAGES} test examples; there are {len(test)}. Leave it out."
            )
        generator = np.random.default_rng(seed_of("test images", spec.seed, spec.repeat, spec.fold))
        test = generator.choice(test, TEST_IMAGES, replace=False)
    if "test_as_validation" in spec.quirks:
        validation = test
    return Split(np.sort(train), np.sort(validation), np.sort(test))


def _used(spec: TrialSpec, data: Data | Detection) -> Rows:
    """All examples, or the share of them that a reduced study is about."""
    rows = np.arange(len(data), dtype=np.int64)
    if spec.share is None:
        return rows
    parts = np.zeros(len(data), np.int64) if data.parts is None else data.parts.astype(np.int64)
    strata = _strata(data, rows) * (int(parts.max()) + 1) + parts
    try:
        used, _ = train_test_split(rows, train_size=spec.share, stratify=strata, random_state=seed_of("share", spec.seed))
    except ValueError as error:
        raise DataError(
            f"protocol.share = {spec.share:.3g} of {len(rows)} examples cannot hold every class of every part: {error} "
            "Raise it."
        ) from None
    return np.sort(used)


def _fold(spec: TrialSpec, data: Data | Detection, used: Rows) -> tuple[Rows, Rows]:
    seed = seed_of("partition", spec.seed, spec.repeat)
    if isinstance(data, Detection) or data.task == "multilabel":
        return _grouped_or(KFold(spec.folds, shuffle=True, random_state=seed), spec, data, used)
    counts = np.bincount(data.y[used], minlength=len(data.classes))
    if (smallest := int(counts.min())) < spec.folds:
        raise DataError(
            f"The class {data.classes[int(counts.argmin())]!r} has {smallest} examples, too few for {spec.folds} "
            "stratified folds; use fewer folds or more data."
        )
    return _grouped_or(StratifiedKFold(spec.folds, shuffle=True, random_state=seed), spec, data, used)


def _grouped_or(plain: KFold | StratifiedKFold, spec: TrialSpec, data: Data | Detection, used: Rows) -> tuple[Rows, Rows]:
    if not spec.groups:
        fitting, test = list(plain.split(used, _strata(data, used)))[spec.fold]
        return used[fitting], used[test]
    strata, groups = _strata(data, used), _groups(data)[used]
    if (found := len(np.unique(groups))) < spec.folds:
        raise DataError(f"The data set has {found} groups, too few for {spec.folds} folds; use fewer folds.")
    chooser = StratifiedGroupKFold(spec.folds, shuffle=True, random_state=plain.random_state)
    fitting, test = list(chooser.split(used, strata, groups))[spec.fold]
    return used[fitting], used[test]


def _official(spec: TrialSpec, data: Data | Detection, used: Rows) -> tuple[Rows, Rows]:
    if data.parts is None or not (data.parts == 2).any() or (data.parts == 2).all():
        raise DataError(
            "protocol.design is 'official', but the data set has no test part of its own; use 'kfold' or 'holdout', or give "
            "Data.of(parts=...)."
        )
    fitting, test = used[data.parts[used] != 2], used[data.parts[used] == 2]
    if spec.groups and (shared := np.intersect1d(_groups(data)[fitting], _groups(data)[test])).size:
        raise DataError(
            f"{shared.size} groups have examples in both the official training and test part, the first is {shared[0]}; "
            "protocol.groups cannot hold. Use design = 'kfold' or 'holdout', or set groups = false."
        )
    return fitting, test


def _official_validation(data: Data | Detection, fitting: Rows) -> tuple[Rows, Rows]:
    assert data.parts is not None
    held = data.parts[fitting] == 1
    if not held.any() or held.all():
        raise DataError(
            "protocol.validation is 'official', but the data set has no validation part of its own beside a training part; "
            "give a share such as 0.1."
        )
    return fitting[~held], fitting[held]


def _cut(data: Data | Detection, rows: Rows, share: float, groups: bool, seed: int, key: str) -> tuple[Rows, Rows]:
    """What is left of ``rows``, and the share of them that was cut off."""
    if groups:
        return _cut_groups(data, rows, share, seed, key)
    stratify = None if isinstance(data, Detection) or data.task == "multilabel" else data.y[rows]
    try:
        kept, cut = train_test_split(rows, test_size=share, stratify=stratify, random_state=seed)
    except ValueError as error:
        raise DataError(
            f"A {key} part of {share:.3g} of {len(rows)} examples cannot hold every class: {error} "
            f"Raise protocol.{key}, use fewer folds, or bring more data."
        ) from None
    return kept, cut


def _cut_groups(data: Data | Detection, rows: Rows, share: float, seed: int, key: str) -> tuple[Rows, Rows]:
    groups, pieces = _groups(data)[rows], max(2, round(1 / share))
    if (found := len(np.unique(groups))) < pieces:
        raise DataError(
            f"A {key} part of {share:.3g} of {found} groups would be less than one group; raise protocol.{key}, or set "
            "protocol.groups to false."
        )
    if share > 0.5:
        raise DataError(f"protocol.{key} = {share:.3g} with groups; expected at most 0.5.")
    chooser = StratifiedGroupKFold(pieces, shuffle=True, random_state=seed)
    kept, cut = next(iter(chooser.split(rows, _strata(data, rows), groups)))
    return rows[kept], rows[cut]


def _strata(data: Data | Detection, rows: Rows) -> NDArray[np.int64]:
    if isinstance(data, Detection) or data.task == "multilabel":
        return np.zeros(len(rows), np.int64)
    return data.y[rows].astype(np.int64)


def _groups(data: Data | Detection) -> NDArray[np.int64]:
    assert isinstance(data, Data)
    assert data.groups is not None
    return data.groups
