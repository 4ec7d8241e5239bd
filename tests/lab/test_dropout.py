from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from pliant.lab import dropout
from pliant.lab.dropout import Dropout, keep_mask, reseed, stream, take_over


def network(p: float = 0.3, layers: int = 2) -> nn.Sequential:
    made = nn.Sequential(*[nn.Dropout(p) for _ in range(layers)])
    take_over(made)
    return made.train()


def masks(seed: int, p: float = 0.3, shape: tuple[int, ...] = (200, 100), steps: int = 1) -> list[torch.Tensor]:
    """What each layer does to ones, in the order of steps and layers."""
    made = network(p)
    reseed(made, seed)
    return [layer(torch.ones(shape)) for _ in range(steps) for layer in made]


@pytest.mark.parametrize("p", [0.1, 0.25, 0.3, 0.5, 0.9])
def test_the_share_dropped_and_the_expectation(p: float) -> None:
    mask = masks(1, p, (1000, 1000))[0]
    share = (mask == 0).double().mean().item()
    n = mask.numel()
    assert share == pytest.approx(p, abs=4 * (p * (1 - p) / n) ** 0.5)
    assert mask.double().mean().item() == pytest.approx(1, abs=4 * (p / (1 - p) / n) ** 0.5)
    assert len(mask.unique()) == 2


@pytest.mark.parametrize("p", [0.0, 1e-6, 0.3, 0.5, 0.999, 1.0])
def test_over_all_sixteen_bit_numbers_the_expectation_is_exact(p: float) -> None:
    every = torch.arange(-32768, 32768).to(torch.int16)
    mask = keep_mask(every, p, torch.float64)
    assert (mask == 0).double().mean().item() == pytest.approx(p, abs=2**-17)
    assert mask.mean().item() == pytest.approx(0.0 if p == 1 else 1.0, abs=1e-12)


def test_a_mask_depends_on_seed_layer_and_step_and_on_nothing_else() -> None:
    one = masks(1, steps=2)
    torch.manual_seed(99)
    torch.rand(1000)
    again = masks(1, steps=2)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    different = [*one, *masks(2, steps=2)]
    for i, a in enumerate(different):
        for b in different[:i]:
            kept = [(m > 0).double().flatten() for m in (a, b)]
            assert abs(np.corrcoef(*kept)[0, 1]) < 4 / kept[0].numel() ** 0.5


def test_neighbours_are_independent() -> None:
    """Along units, along examples, and among the four elements of one word."""
    kept = (masks(5, 0.3, (1000, 1000))[0] > 0).double()
    for a, b in [
        (kept[:, 1:], kept[:, :-1]),
        (kept[1:], kept[:-1]),
        *((kept.view(-1, 4)[:, i], kept.view(-1, 4)[:, j]) for i in range(4) for j in range(i)),
    ]:
        assert abs(np.corrcoef(a.flatten(), b.flatten())[0, 1]) < 4 / a.numel() ** 0.5
    for dim in (0, 1):
        # Every unit, and every example, is dropped as often as a binomial would have it.
        z = (kept.mean(dim) - 0.7) / (0.21 / 1000) ** 0.5
        assert z.std().item() == pytest.approx(1, abs=0.12)
        assert z.abs().max().item() < 5


def test_consecutive_seeds_and_layers_give_unrelated_streams() -> None:
    drawn = [stream(seed, layer).random_raw(4096) for seed in range(8) for layer in range(4)]
    bits = np.stack([np.unpackbits(d.view(np.uint8)) for d in drawn]).astype(float)
    found = np.corrcoef(bits) - np.eye(len(drawn))
    assert np.abs(found).max() < 5 / bits.shape[1] ** 0.5


def test_the_stream_is_pinned() -> None:
    """Stored trials are resumed with it: were it to change, so would their results."""
    assert stream(123, 1).random_raw(3).tolist() == PINNED


PINNED = [3356494300020351166, 15257777476960805176, 5758441376209864988]


def test_gradients_are_the_mask_and_evaluation_is_the_identity() -> None:
    made = network(0.3, 1)
    reseed(made, 3)
    x = torch.randn(7, 9, requires_grad=True)
    y = made(x)
    y.sum().backward()
    assert torch.equal(y, x * x.grad)
    assert x.grad.unique().tolist() == pytest.approx([0.0, 1 / 0.7], rel=1e-4)
    assert torch.equal(made.eval()(x), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    made = network(0.5, 1)
    reseed(made, 3)
    y = made(torch.ones(5, 3, dtype=dtype))
    assert y.dtype == dtype
    assert set(y.unique().tolist()) == {0.0, 2.0}


def test_p_zero_and_one() -> None:
    for p, expected in ((0.0, 1.0), (1.0, 0.0)):
        made = network(p, 1)
        reseed(made, 3)
        assert (made(torch.ones(4, 4)) == expected).all()


def test_taking_over_keeps_the_object_and_leaves_others() -> None:
    class Own(nn.Dropout):
        pass

    plain, own = nn.Dropout(0.2), Own(0.2)
    made = nn.ModuleDict({"a": plain, "b": nn.Sequential(own, nn.Dropout1d(0.2))})
    shown = repr(made)
    take_over(made)
    assert made["a"] is plain
    assert isinstance(plain, Dropout)
    assert isinstance(plain, nn.Dropout)
    assert [type(m) for m in made["b"]] == [Own, nn.Dropout1d]
    assert repr(made) == shown
    assert list(made.state_dict()) == []


def test_without_a_seed_it_is_torchs_dropout() -> None:
    made = network(0.3, 1)
    torch.manual_seed(0)
    one = made(torch.ones(50))
    torch.manual_seed(0)
    assert torch.equal(one, nn.functional.dropout(torch.ones(50), 0.3))


def test_a_copy_goes_on_where_the_original_is() -> None:
    made = network(0.3, 1)
    reseed(made, 3)
    made(torch.ones(10))
    other = copy.deepcopy(made)
    assert torch.equal(made(torch.ones(10)), other(torch.ones(10)))


def test_words() -> None:
    assert [dropout.words(n) for n in (0, 1, 4, 5, 8)] == [0, 1, 1, 2, 2]
