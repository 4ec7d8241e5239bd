"""The shared layers against what TensorFlow does, computed cell by cell."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from pliant.errors import UnknownNameError
from pliant.lab.models.layers import Layers, LocalResponseNorm, SameConv2d, SameMaxPool2d, normal, same_padding


def pads(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """The rule in the words of TensorFlow's documentation."""
    total = max(kernel - stride, 0) if size % stride == 0 else max(kernel - size % stride, 0)
    return total // 2, total - total // 2


def windows(x: Tensor, kernel: int, stride: int, fill: float) -> Tensor:
    """Every window of SAME, cut by hand: (N, C, H, W) -> (N, C, H', W', kernel, kernel)."""
    (top, bottom), (left, right) = (pads(n, kernel, stride) for n in x.shape[-2:])
    padded = x.new_full((*x.shape[:2], x.shape[2] + top + bottom, x.shape[3] + left + right), fill)
    padded[:, :, top : top + x.shape[2], left : left + x.shape[3]] = x
    rows = [
        torch.stack([padded[:, :, i : i + kernel, j : j + kernel] for j in range(0, padded.shape[3] - kernel + 1, stride)], 2)
        for i in range(0, padded.shape[2] - kernel + 1, stride)
    ]
    return torch.stack(rows, 2)


SIZES = [(32, 32), (16, 8), (7, 12), (1, 1), (2, 5), (1, 187)]


@pytest.mark.parametrize(("kernel", "stride"), [(11, 2), (7, 2), (5, 1), (3, 1), (3, 2), (1, 2), (3, 4), (5, 3)])
@pytest.mark.parametrize("size", SIZES)
def test_convolutions_and_pools_cut_the_windows_of_tensorflow(kernel: int, stride: int, size: tuple[int, int]) -> None:
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    conv = SameConv2d(4, 6, kernel, stride, groups=2, dtype=torch.float64)
    seen = windows(x, kernel, stride, 0.0)
    assert seen.shape[2:4] == tuple(math.ceil(n / stride) for n in size)
    assert conv.bias is not None
    halves = [
        torch.einsum("nchwij,ocij->nohw", part, weight) + bias[:, None, None]
        for part, weight, bias in zip(seen.chunk(2, 1), conv.weight.chunk(2), conv.bias.chunk(2), strict=True)
    ]
    torch.testing.assert_close(conv(x), torch.cat(halves, 1), rtol=1e-12, atol=1e-12)
    assert torch.equal(SameMaxPool2d(kernel, stride)(x), windows(x, kernel, stride, -math.inf).amax((-2, -1)))


def test_the_pads_of_the_papers_sizes() -> None:
    assert same_padding(32, 11, 2) == (4, 5)
    assert same_padding(32, 7, 2) == (2, 3)
    assert [same_padding(n, 3, 2) for n in (16, 8, 4, 2)] == [(0, 1)] * 4
    assert same_padding(9, 3, 1) == (1, 1)
    assert same_padding(9, 1, 2) == (0, 0)


def test_torch_padding_shifts_the_grid_and_keeps_the_size() -> None:
    layers = Layers(normal, padding="torch", eps=1e-3, momentum=0.1)
    x = torch.randn(1, 3, 32, 32)
    ours = Layers(normal, eps=1e-3, momentum=0.1).conv(3, 8, 7, 2)
    theirs = layers.conv(3, 8, 7, 2)
    theirs.load_state_dict(ours.state_dict())
    assert ours(x).shape == theirs(x).shape == (1, 8, 16, 16)
    assert not torch.allclose(ours(x), theirs(x))
    # With the image one pixel further up and left the inner cells agree.
    torch.testing.assert_close(theirs(x.roll((-1, -1), (2, 3)))[..., 3:-3, 3:-3], ours(x)[..., 3:-3, 3:-3])
    assert layers.max_pool(3, 2)(x).shape == (1, 3, 16, 16)


@pytest.mark.parametrize("channels", [1, 4, 11, 96])
def test_response_normalisation_is_the_formula_of_tensorflow(channels: int) -> None:
    x = 20 * torch.randn(2, channels, 3, 4, dtype=torch.float64)
    expected = torch.empty_like(x)
    for c in range(channels):
        near = x[:, max(0, c - 5) : c + 6]
        expected[:, c] = x[:, c] / (2 + 1e-4 * (near**2).sum(1)) ** 0.75
    ours = LocalResponseNorm(channels).double()
    torch.testing.assert_close(ours(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours(x), nn.LocalResponseNorm(11, 1.1e-3, 0.75, 2.0)(x), rtol=1e-12, atol=1e-12)
    assert not ours.state_dict()
    if channels < 20:
        assert torch.autograd.gradcheck(ours, torch.randn(1, channels, 1, 2, dtype=torch.float64, requires_grad=True))


def test_layers_keep_channels_last() -> None:
    x = torch.randn(2, 6, 9, 8).to(memory_format=torch.channels_last)
    for layer in (SameConv2d(6, 8, 7, 2), SameMaxPool2d(3, 2), LocalResponseNorm(6)):
        layer.to(memory_format=torch.channels_last)
        assert layer(x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("given", [{"init": "he"}, {"padding": "valid"}])
def test_unknown_options_name_the_known_ones(given: dict[str, str]) -> None:
    with pytest.raises(UnknownNameError, match=r"Known: (kaiming, released|same, torch)"):
        Layers(normal, eps=1e-3, momentum=0.1, **given)
