from __future__ import annotations

import numpy as np
import pytest

from pliant.lab import Study
from pliant.lab.datasets import WDBC, Data
from pliant.lab.datasets.arrays import DataError
from pliant.lab.protocol import seed_of, split
from pliant.lab.study import plan


def test_parts_are_disjoint_stratified_and_complete(small: Study) -> None:
    data = WDBC.load()
    study = small.override(["protocol.folds=5", "protocol.repeats=2"])
    for repeat in range(2):
        tested = []
        for spec in plan(study.only(["relu"])):
            if spec.repeat == repeat:
                parts = split(spec, data)
                together = np.concatenate([parts.train, parts.validation, parts.test])
                assert np.array_equal(np.sort(together), np.arange(len(data)))
                for part in (parts.train, parts.validation, parts.test):
                    assert abs(data.y[part].mean() - data.y.mean()) < 0.02
                assert len(parts.validation) == round(0.1 * (len(data) - len(parts.test)) + 0.5)
                tested.append(parts.test)
        assert np.array_equal(np.sort(np.concatenate(tested)), np.arange(len(data)))


def test_each_repeat_is_a_new_partition_and_activations_share_it(small: Study) -> None:
    data = WDBC.load()
    found: dict[tuple[int, int], set[bytes]] = {}
    for spec in plan(small.override(["protocol.repeats=3"])):
        parts = split(spec, data)
        key = b"".join(p.tobytes() for p in (parts.train, parts.validation, parts.test))
        found.setdefault((spec.repeat, spec.fold), set()).add(key)
    assert all(len(v) == 1 for v in found.values())
    assert len(set.union(*found.values())) == 6


def test_seeds_differ_in_every_part() -> None:
    seeds = {seed_of(*parts) for parts in [("a", 1, 2), ("a", 12), ("a", 2, 1), ("b", 1, 2), ("a", "1", 2)]}
    assert len(seeds) == 5
    assert seed_of("a", 1, 2) == seed_of("a", 1, 2)
    assert all(0 <= s < 2**32 for s in seeds)


def test_too_few_examples_of_a_class(small: Study) -> None:
    x = np.zeros((20, 30))
    spec = plan(small)[0]
    with pytest.raises(DataError, match="'1' has 1 examples, too few for 2"):
        split(spec, Data.of(x, [0] * 19 + [1]))
    with pytest.raises(DataError, match=r"Raise protocol\.validation"):
        split(spec, Data.of(x, [0] * 18 + [1] * 2))
