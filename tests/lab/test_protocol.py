from __future__ import annotations

import numpy as np
import pytest

from pliant.lab import Study
from pliant.lab.datasets import WDBC, Data
from pliant.lab.datasets.arrays import DataError
from pliant.lab.protocol import partition_of, seed_of, split
from pliant.lab.study import TrialSpec, plan


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


def spec_of(protocol: dict[str, object], *, repeat: int = 0, fold: int = 0, quirks: tuple[str, ...] = ()) -> TrialSpec:
    study = Study(
        name="x", dataset="wdbc", model="ffnn", activations=["relu"], protocol={"repeats": 3, **protocol}, quirks=quirks
    )
    return next(s for s in plan(study) if (s.repeat, s.fold) == (repeat, fold))


def official(n: int = 300, *, groups: bool = False, validation: bool = False) -> Data:
    """The last third is the test part; 15 groups, none of which crosses it."""
    parts = np.repeat([0, 0, 2], n // 3)
    if validation:
        parts[: n // 6] = 1
    return Data.of(
        np.arange(n)[:, None] * np.ones(2),
        np.random.default_rng(0).permutation(np.arange(n) % 3),
        parts=parts,
        groups=np.arange(n) // (n // 15) if groups else None,
    )


def test_holdout_is_stratified_and_drawn_anew_each_repeat() -> None:
    data = WDBC.load()
    found = [split(spec_of({"design": "holdout", "test": 0.15, "validation": 0.2}, repeat=r), data) for r in range(3)]
    for parts in found:
        together = np.concatenate([parts.train, parts.validation, parts.test])
        assert np.array_equal(np.sort(together), np.arange(569))
        # 15 % of all, and a fifth of the rest: 68/17/15.
        assert (len(parts.train), len(parts.validation), len(parts.test)) == (386, 97, 86)
        for part in (parts.train, parts.validation, parts.test):
            assert abs(data.y[part].mean() - data.y.mean()) < 0.01
    assert len({p.test.tobytes() for p in found}) == 3


def test_the_official_split_is_one_for_all_repeats() -> None:
    data = official()
    found = [split(spec_of({"design": "official", "validation": 0.1}, repeat=r), data) for r in range(3)]
    for parts in found:
        assert np.array_equal(parts.test, np.arange(200, 300))
        assert np.array_equal(np.sort(np.concatenate([parts.train, parts.validation])), np.arange(200))
        assert len(parts.validation) == 20
        assert np.bincount(data.y[parts.validation]).min() >= 6
    assert len({p.validation.tobytes() for p in found}) == 1


def test_the_official_validation_part() -> None:
    data = official(validation=True)
    parts = split(spec_of({"design": "official", "validation": "official"}), data)
    assert np.array_equal(parts.validation, np.arange(50))
    assert np.array_equal(parts.train, np.arange(50, 200))
    # With a share, all that is not tested is shared out.
    assert len(split(spec_of({"design": "official", "validation": 0.5}), data).validation) == 100


@pytest.mark.parametrize(
    "protocol",
    [
        {"design": "kfold", "folds": 5, "validation": 0.2},
        {"design": "holdout", "test": 0.2, "validation": 0.25},
        {"design": "official", "validation": 0.2},
    ],
)
def test_no_group_crosses_parts(protocol: dict[str, object]) -> None:
    data = official(groups=True)
    for fold in range(5 if protocol["design"] == "kfold" else 1):
        parts = split(spec_of({**protocol, "groups": True}, fold=fold), data)
        sides = [set(data.groups[rows]) for rows in (parts.train, parts.validation, parts.test)]
        assert all(sides)
        assert sum(map(len, sides)) == 15
        assert np.array_equal(np.sort(np.concatenate([parts.train, parts.validation, parts.test])), np.arange(300))


def test_examples_with_several_labels_are_split_at_random() -> None:
    data = Data.of(np.zeros((100, 3)), np.random.default_rng(0).integers(0, 2, (100, 4)))
    for protocol in ({"folds": 5}, {"design": "holdout"}):
        parts = split(spec_of(protocol), data)
        assert (len(parts.test), len(parts.validation)) == (20, 8)


@pytest.mark.parametrize(
    ("protocol", "data", "expected"),
    [
        ({"design": "official"}, WDBC.load(), "no test part of its own"),
        ({"design": "official", "validation": "official"}, official(), "no validation part of its own"),
        ({"groups": True}, WDBC.load(), "names no groups"),
        ({"groups": True, "folds": 16}, official(groups=True), "15 groups, too few for 16 folds"),
        ({"groups": True, "design": "holdout", "test": 0.05}, official(groups=True), "less than one group"),
        (
            {"groups": True, "design": "official"},
            Data.of(np.zeros((6, 2)), [0, 1] * 3, parts=[0, 0, 0, 2, 2, 2], groups=[0, 0, 1, 1, 2, 2]),
            "1 groups have examples in both",
        ),
    ],
)
def test_protocols_that_the_data_do_not_allow(protocol: dict[str, object], data: Data, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        split(spec_of(protocol), data)


def test_the_test_part_as_validation() -> None:
    data = official()
    parts = split(spec_of({"design": "official", "validation": 0.1}, quirks=("test_as_validation",)), data)
    assert np.array_equal(parts.validation, parts.test)
    # The share that would have been validated on is left out, as in the released code.
    assert len(parts.train) == 180
    everything = split(spec_of({"design": "official", "validation": 0}, quirks=("test_as_validation",)), data)
    assert np.array_equal(everything.train, np.arange(200))


def test_sixty_four_images_stand_for_the_test_part() -> None:
    data = official()
    whole = split(spec_of({"design": "official"}), data).test
    found = [split(spec_of({"design": "official"}, repeat=r, quirks=("test_on_64_images",)), data).test for r in range(2)]
    assert all(len(np.unique(t)) == 64 and np.isin(t, whole).all() for t in found)
    assert not np.array_equal(*found)
    with pytest.raises(DataError, match="needs 64 test examples; there are 20"):
        split(spec_of({"folds": 5}, quirks=("test_on_64_images",)), Data.of(np.zeros((100, 2)), np.arange(100) % 2))


def test_what_counts_as_one_partition() -> None:
    assert partition_of(spec_of({"folds": 5})) is None
    assert len({partition_of(spec_of({"design": "holdout"}, repeat=r)) for r in range(3)}) == 3
    assert len({partition_of(spec_of({"design": "official"}, repeat=r)) for r in range(3)}) == 1


@pytest.mark.parametrize("design", ["kfold", "holdout", "official"])
def test_a_share_is_stratified_by_class_and_part_and_the_same_in_all_repeats(design: str) -> None:
    y = np.arange(1200) % 4
    parts = np.where(np.arange(1200) < 800, 0, 2)
    data = Data.of(np.zeros((1200, 2)), y, parts=parts)
    used = set()
    for repeat in range(3):
        found = split(spec_of({"design": design, "share": 0.1}, repeat=repeat), data)
        rows = np.sort(np.concatenate([found.train, found.validation, found.test]))
        if design != "kfold":
            assert len(found.test) == {"holdout": 24, "official": 40}[design]
        if design == "official":
            assert set(parts[found.test]) == {2}
        assert np.array_equal(np.bincount(y[rows]), [30] * 4)
        used.add(rows.tobytes())
    assert len(used) == 1


def test_a_share_that_cannot_hold_every_class() -> None:
    data = Data.of(np.zeros((100, 2)), np.arange(100) % 50)
    with pytest.raises(DataError, match=r"protocol\.share = 0\.1 of 100 examples cannot hold every class .* Raise it"):
        split(spec_of({"design": "holdout", "share": 0.1}), data)


def test_a_field_that_came_later_leaves_the_keys_of_kept_results_as_they_were() -> None:
    spec = spec_of({"design": "holdout"})
    assert spec.key == "f16d477a929d52186692516e9099abce0c4eae0d8e682e29a53b0b1466b922bb"
    assert spec_of({"design": "holdout", "share": 0.5}).key != spec.key
