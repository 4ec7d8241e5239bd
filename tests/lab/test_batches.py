from __future__ import annotations

import numpy as np
import pytest
import torch

from pliant.lab import Data
from pliant.lab.batches import Changes, Examples, batches
from pliant.lab.datasets.arrays import DataError
from pliant.lab.recipe import Augment, Normalise

CPU = torch.device("cpu")


def images(n: int = 40, channels: int = 3) -> Data:
    rng = np.random.default_rng(0)
    return Data.of(rng.integers(0, 256, (n, channels, 6, 5), dtype=np.uint8), np.arange(n) % 2)


def shown(data: Data, normalise: Normalise, fitted: np.ndarray) -> np.ndarray:
    return Examples.of(data, normalise, fitted, CPU).batch(torch.arange(len(data))).numpy()


@pytest.mark.parametrize("kind", ["none", "features", "channels", "image"])
def test_bytes_are_normalised_as_the_formula_says(kind: str) -> None:
    data, fitted = images(), np.arange(0, 40, 3)
    x = data.x / 255.0
    match kind:
        case "none":
            expected = x
        case "features":
            expected = (x - x[fitted].mean(axis=0)) / x[fitted].std(axis=0)
        case "channels":
            expected = (x - x[fitted].mean(axis=(0, 2, 3), keepdims=True)) / x[fitted].std(axis=(0, 2, 3), keepdims=True)
        case "image":
            expected = x - x.mean(axis=(1, 2, 3), keepdims=True)
            expected /= x.std(axis=(1, 2, 3), keepdims=True)
    found = shown(data, Normalise(kind=kind), fitted)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("kind", ["features", "channels"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_normalising_looks_at_the_fitted_part_alone(kind: str, dtype: type) -> None:
    rng, fitted = np.random.default_rng(0), np.arange(20)
    x = rng.integers(0, 100, (40, 3, 4, 4)).astype(dtype)
    before = shown(Data.of(x, np.arange(40) % 2), Normalise(kind=kind), fitted)
    x[20:] += 50
    after = shown(Data.of(x, np.arange(40) % 2), Normalise(kind=kind), fitted)
    assert np.array_equal(before[:20], after[:20])
    assert not np.array_equal(before[20:], after[20:])


def test_stated_means_are_in_units_of_one() -> None:
    data = images()
    found = shown(data, Normalise(kind="channels", mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3)), np.arange(1))
    mean, std = np.array([0.5, 0.4, 0.3])[:, None, None], np.array([0.2, 0.25, 0.3])[:, None, None]
    np.testing.assert_allclose(found, (data.x / 255.0 - mean) / std, rtol=1e-4, atol=2e-6)
    with pytest.raises(DataError, match="1 means for examples with 3 channels"):
        shown(data, Normalise(kind="channels", mean=(0.5,), std=(0.2,)), np.arange(1))
    with pytest.raises(DataError, match="no channels"):
        shown(Data.of(np.zeros((4, 3)), [0, 1, 0, 1]), Normalise(kind="channels"), np.arange(4))


def test_an_image_of_one_colour_has_the_floor_of_tensorflow() -> None:
    x = np.full((2, 3, 32, 32), 7, np.uint8)
    x[1, 0, 0, 0] = 8
    found = shown(Data.of(x, [0, 1]), Normalise(kind="image"), np.arange(2))
    assert not found[0].any()
    # One value in 3072 is one higher: sd 0.018041, a hair below the floor 1 / sqrt(3072) = 0.018042.
    assert found[1].max() == pytest.approx((1 - 1 / 3072) * np.sqrt(3072), rel=1e-5)


def test_a_constant_feature_is_left_at_zero() -> None:
    x = np.random.default_rng(0).integers(0, 256, (20, 1, 3, 3), dtype=np.uint8)
    x[:, 0, 1, 1] = 77
    found = shown(Data.of(x, np.arange(20) % 2), Normalise(kind="features"), np.arange(20))
    assert np.isfinite(found).all()
    assert np.abs(found[:, 0, 1, 1]).max() < 1e-6


def test_a_large_offset_is_subtracted_before_rounding() -> None:
    x = 1.7e9 + 0.5 * np.arange(60)[:, None] * np.ones(30)
    found = shown(Data.of(x, np.arange(60) % 2), Normalise(kind="features"), np.arange(60))
    assert len(np.unique(found[:, 0])) == 60


def test_images_are_in_channels_last_memory() -> None:
    examples = Examples.of(images(), Normalise(kind="none"), np.arange(40), CPU)
    assert examples.x.dtype == torch.uint8
    batch = examples.batch(torch.arange(4))
    assert batch.shape == (4, 3, 6, 5)
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_crops_and_flips_against_one_image_at_a_time() -> None:
    data, rows = images(), torch.arange(40).flip(0)
    examples = Examples.of(data, Normalise(kind="none"), np.arange(40), CPU)
    changes = Changes.draw(Augment(padding=2, flip=True), 40, 5, CPU)
    assert changes is not None
    found = examples.batch(rows, changes).numpy()
    for i, row in enumerate(rows.tolist()):
        padded = np.pad(data.x[row], ((0, 0), (2, 2), (2, 2)))
        top, left = int(changes.top[i]), int(changes.left[i])
        window = padded[:, top : top + 6, left : left + 5]
        expected = window[:, :, ::-1] if changes.flip[i] else window
        np.testing.assert_allclose(found[i], expected / 255.0, rtol=1e-6)
    assert 5 < int(changes.flip.sum()) < 35
    assert set(changes.top.tolist()) == set(changes.left.tolist()) == {0, 1, 2, 3, 4}


def test_changes_depend_on_their_seed_alone() -> None:
    one, two, other = (Changes.draw(Augment(padding=4), 30, seed, CPU) for seed in (1, 1, 2))
    torch.rand(3)
    assert torch.equal(one.top, two.top)
    assert not torch.equal(one.top, other.top)
    assert not one.flip.any()
    assert Changes.draw(Augment(), 30, 1, CPU) is None


@pytest.mark.parametrize(
    ("n", "size", "drop", "expected"),
    [
        (10, 4, False, [4, 4, 2]),
        (9, 4, False, [4, 5]),
        (9, 4, True, [4, 4]),
        (8, 4, False, [4, 4]),
        (3, 4, True, [3]),
        (1, 4, False, [1]),
    ],
)
def test_batches_cover_an_epoch(n: int, size: int, drop: bool, expected: list[int]) -> None:
    parts = batches(torch.arange(n), size, drop)
    assert [len(torch.arange(n)[p]) for p in parts] == expected
    assert torch.cat([torch.arange(n)[p] for p in parts]).tolist() == list(range(sum(expected)))
