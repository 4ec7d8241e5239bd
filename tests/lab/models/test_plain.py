"""The plain network: how it is built, and what a slope on either side does to signals in depth (claim 18)."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import pliant
from pliant.lab import models
from pliant.lab.models.plain import WIDTHS

Make = Callable[[], nn.Module]

STEEP: Make = lambda: pliant.DSReLU(slope=math.tan(math.radians(75)))  # noqa: E731


def build(activation: Make, **options: object) -> nn.Sequential:
    torch.manual_seed(0)
    return models.plain(activation, input_shape=(3, 32, 32), outputs=10, **options)


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [m for m in network.modules() if isinstance(m, nn.Conv2d)]


@pytest.mark.parametrize("depth", [3, 4, 20, 50])
def test_three_stages_share_the_depth(depth: int) -> None:
    layers = convolutions(build(nn.ReLU, depth=depth))
    counts = [sum(c.out_channels == width for c in layers) for width in WIDTHS]
    assert sum(counts) == depth
    assert max(counts) - min(counts) <= 1
    assert [c.out_channels for c in layers] == sorted(c.out_channels for c in layers)
    assert [c.stride for c in layers if c.stride != (1, 1)] == [(2, 2)] * 2
    assert layers[0].stride == (1, 1)


def test_weights_start_at_the_gain_of_the_activation() -> None:
    plain, steep = (convolutions(build(act)) for act in (nn.ReLU, STEEP))
    he = convolutions(build(STEEP, init="he"))
    ratio = pliant.gain(STEEP()) / math.sqrt(2)
    for relu, own, common in zip(plain[1:], steep[1:], he[1:], strict=True):
        torch.testing.assert_close(own.weight, relu.weight * ratio)
        torch.testing.assert_close(common.weight, relu.weight)
    # Nothing has acted on the input yet.
    assert torch.equal(plain[0].weight, steep[0].weight)


def gradients(activation: Make, **options: object) -> tuple[float, list[float]]:
    """The first loss, and the size of each convolution's gradient beside its weights."""
    network = build(activation, **options).train()
    x, y = torch.randn(32, 3, 32, 32), torch.randint(10, (32,))
    loss: Tensor = nn.functional.cross_entropy(network(x), y)
    loss.backward()  # type: ignore[no-untyped-call]
    ratios = [c.weight.grad.norm() / c.weight.detach().norm() for c in convolutions(network)]  # type: ignore[union-attr]
    return loss.item(), [r.item() for r in ratios]


@pytest.mark.parametrize("depth", [10, 20, 50])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU], ids=["relu", "leakyrelu"])
def test_without_a_slope_below_zero_nothing_vanishes_from_hes_start(activation: Make, depth: int) -> None:
    """ReLU is flat below 0, and the gradient of the first of 50 layers is as large as that of the last: there is nothing for a
    slope to prevent. A small slope, as LeakyReLU has, changes neither."""
    loss, sizes = gradients(activation, depth=depth, init="he")
    assert loss < 3
    assert 0.05 < sizes[0] / sizes[-1] < 20


@pytest.mark.parametrize(("depth", "times"), [(10, 1e6), (20, 1e12)])
def test_a_steep_slope_explodes_from_hes_start(depth: int, times: float) -> None:
    """What the slope of 3.7 on the positive side risks is the opposite of vanishing."""
    _, sizes = gradients(STEEP, depth=depth, init="he")
    assert times < sizes[0] / gradients(nn.ReLU, depth=depth, init="he")[1][0] < math.inf


def test_fifty_layers_of_it_overflow() -> None:
    loss, sizes = gradients(STEEP, depth=50, init="he")
    assert 1e20 < loss < math.inf
    assert not math.isfinite(sizes[0])


@pytest.mark.parametrize("depth", [10, 20, 50])
def test_a_start_of_its_own_tames_it(depth: int) -> None:
    loss, sizes = gradients(STEEP, depth=depth)
    assert loss < 3
    assert max(sizes[1:-1]) < 100


def test_with_batch_normalisation_gradients_grow_towards_the_input() -> None:
    """Known of batch normalisation without shortcuts (Yang et al., ICLR 2019), and less with a slope on both sides, which is
    nearer to linear."""
    flat, both = (gradients(act, depth=50, batch_norm=True, init="he")[1] for act in (nn.ReLU, STEEP))
    assert flat[0] / flat[-1] > 100
    assert 1 < both[0] / both[-1] < flat[0] / flat[-1] / 10
