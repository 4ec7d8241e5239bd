"""Folding to standard operations: exact in float64, 1e-5 in float32, for every activation, coefficient and neighbourhood."""

from __future__ import annotations

import copy
import math
import pickle
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pliant import (
    PELU,
    Activation,
    AffineReLU,
    AReLU,
    ASigmoid,
    ATanh,
    Clock,
    Coefficient,
    Cosine,
    DomainError,
    DSReLU,
    Fixed,
    FoldError,
    FReLU,
    Learned,
    PReLU,
    Scheduled,
    SReLU,
    Swish,
    elementwise,
    fold,
)
from pliant.activations import ALL
from pliant.fold import RULES, Affine, Blend, FoldReport, Gate, Lines

ABSORB = ("none", "bias", "full")
VARIANTS = [(cls, v) for cls in ALL for v in ("", *cls.variants) if v not in ("logistic",)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    # The networks here are so small that threads only wait for each other.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def grid(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.linspace(-9, 9, math.prod(shape), dtype=dtype).reshape(shape)


def report(folded: nn.Module) -> FoldReport:
    found: Any = folded.fold_report
    assert isinstance(found, FoldReport)
    return found


def same(model: nn.Module, x: Tensor, absorb: Any = "none", limit: float = 1e-5) -> nn.Module:
    """Fold, and compare apart from fold's own comparison."""
    before = {k: v.clone() for k, v in model.state_dict().items()}
    folded = fold(model, x, absorb)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(isinstance(m, Activation) for m in folded.modules())
    assert not any(m.training for m in folded.modules())
    mode = model.training
    with torch.no_grad():
        expected, got = model.eval()(x), folded(x)
    model.train(mode)
    size = max(1.0, expected.abs().max().item())
    assert got.dtype == expected.dtype
    assert (got - expected).abs().max().item() <= limit * size
    exact = report(folded).exact_error
    assert exact is not None
    assert exact <= 1e-11 * size
    return folded


# --- the functions ----------------------------------------------------------------------------------------------------


def test_every_activation_has_a_rule() -> None:
    assert set(RULES) == set(ALL)


@pytest.mark.parametrize(("cls", "variant"), VARIANTS, ids=lambda v: getattr(v, "__name__", v))
def test_every_variant(cls: type[Activation], variant: str) -> None:
    act = getattr(cls, variant)() if variant else cls()
    folded = same(act, grid(4, 3, 7))
    assert len(report(folded)) == 1


def _arelu_cases() -> list[tuple[float, float, float, float]]:
    rng = random.Random(3)
    signs = [(a, b) for a in (1.7, 0.4, 0.0, -0.4, -1.7) for b in (1.7, 0.4, 0.0, -0.4, -1.7)]
    return [(a, b, c, d) for a, b in signs for c, d in ((0.0, 0.0), (rng.uniform(-2, 2), rng.uniform(-2, 2)))]


@pytest.mark.parametrize(("a", "b", "c", "d"), _arelu_cases())
def test_arelu_in_every_case_of_signs(a: float, b: float, c: float, d: float) -> None:
    folded = same(AReLU(a, b, c, d), grid(1, 200))
    assert not any(isinstance(m, Lines) for m in folded.modules())


def test_arelu_at_random_per_layer_and_per_channel() -> None:
    rng = random.Random(5)
    x = grid(40, 6)
    for _ in range(60):
        scale = 10 ** rng.uniform(-3, 1)
        values = [rng.gauss(0, 1) * scale for _ in range(4)]
        same(AReLU(*values), x)
        same(AReLU(*([rng.choice((0.0, rng.gauss(0, scale))) for _ in range(6)] for _ in range(4))), x)


def test_nearly_parallel_lines_stay_two_lines() -> None:
    # Their crossing is at x = 1000, where shifting there and back would lose three digits.
    folded = same(AReLU(1.0001, 1.0, 0.0, 0.1), grid(1, 500), limit=1e-6)
    assert isinstance(folded, Lines)


def test_steep_lines_are_mirrored() -> None:
    # 1e-6 * LeakyReLU(x, -1e6) is right and useless; -1e0 * LeakyReLU(-x, -1e-6) is the same function.
    folded = same(AReLU(1e-6, -1.0, 0.0, 0.0), grid(1, 500), limit=1e-6)
    assert [m.negative_slope for m in folded.modules() if isinstance(m, nn.LeakyReLU)] == [pytest.approx(-1e-6)]


@pytest.mark.parametrize("slope", [0.05, 0.3, 0.999, 1.0, 1.5, 10.6])
def test_dsrelu_is_a_scaled_leaky_relu(slope: float) -> None:
    folded = same(DSReLU(slope), grid(1, 200))
    leaky = [m.negative_slope for m in folded.modules() if isinstance(m, nn.LeakyReLU)]
    assert leaky == ([] if slope == 1.0 else [pytest.approx(1 / slope)])
    assert isinstance(folded, nn.Identity) == (slope == 1.0)


@pytest.mark.parametrize(
    ("act", "kinds"),
    [
        (SReLU(1.0, 0.3), [nn.ELU]),
        (SReLU(2.0, 0.3), [nn.ELU, Affine]),
        (SReLU(1.0, 0.0), [nn.ReLU]),
        (FReLU(-0.4), [nn.ReLU, Affine]),
        (FReLU(0.0), [nn.ReLU]),
        (PReLU(0.2), [nn.LeakyReLU]),
        (PReLU([0.1, 0.2, 0.3]), [nn.PReLU]),
        (PReLU([0.2, 0.2, 0.2]), [nn.LeakyReLU]),
        (AReLU(), [nn.ReLU]),
        (AReLU(2.0, 0.5, 0.0, 0.0), [nn.LeakyReLU, Affine]),
        (AReLU(0.0, 0.0, 0.4, -0.4), [Affine]),
        (AReLU(0.7, 0.7, 0.1, 0.3), [Affine]),
        (AReLU.released(), [nn.Identity]),
        (PELU(1.0, 1.0), [nn.ELU]),
        (PELU(1.5, 0.7), [Affine, nn.ELU, Affine]),
        (Swish(1.0), [nn.SiLU]),
        (Swish(-2.0), [Affine, nn.SiLU, Affine]),
        (Swish(0.0), [Affine]),
        (Swish(1e-6), [Gate]),
        (ASigmoid(), [nn.Sigmoid]),
        (ATanh(0.0, 2.0, 0.3, 0.1), [Affine, nn.Tanh, Affine]),
        (AffineReLU(-2.0, 0.5, 0.3, 0.1), [Affine, nn.ReLU, Affine]),
        (AffineReLU(0.0, 0.5, 0.3, 0.1), [Affine]),
        (SReLU(1.0, [0.1, 0.2, 0.3]), [Blend]),
    ],
    ids=repr,
)
def test_what_each_becomes(act: Activation, kinds: list[type]) -> None:
    folded = same(act, grid(11, 3, 5))
    parts = list(folded) if type(folded) is nn.Sequential else [folded]
    assert [type(p) for p in parts] == kinds


PER_CHANNEL: dict[str, Callable[[int], Activation]] = {
    "dsrelu": lambda dim: DSReLU([0.5, 1.0, 3.0], channel_dim=dim),
    "srelu": lambda dim: SReLU([0.5, 1.0, 3.0], Learned((0.1, 0.2, 0.3)), channel_dim=dim),
    "arelu": lambda dim: AReLU([0.5, -1.0, 0.0], Learned((0.5, 1.0, -3.0)), [0.1, 0.2, 0.3], 0.4, channel_dim=dim),
    "lines": lambda dim: AReLU([1.0001, -1.0, 0.0], 1.0, [0.1, 0.2, 0.3], 0.4, channel_dim=dim),
    "asigmoid": lambda dim: ASigmoid([0.5, -1.0, 0.0], channel_dim=dim),
    "atanh": lambda dim: ATanh(1.0, [0.5, -1.0, 0.0], 0.3, channel_dim=dim),
    "affinerelu": lambda dim: AffineReLU([0.5, -1.0, 0.0], [1.0, 2.0, -1.0], 0.3, [0.1, 0.2, 0.3], channel_dim=dim),
    "prelu": lambda dim: PReLU(Learned((0.5, -1.0, 1.5)), channel_dim=dim),
    "swish": lambda dim: Swish([0.5, -1.0, 2.0], channel_dim=dim),
    "gate": lambda dim: Swish([0.5, -1.0, 0.0], channel_dim=dim),
    "pelu": lambda dim: PELU(Learned((0.5, 1.0, 2.0)), Learned((0.5, 1.0, 2.0)), channel_dim=dim),
    "frelu": lambda dim: FReLU([0.5, -1.0, 2.0], channel_dim=dim),
}


@pytest.mark.parametrize("name", PER_CHANNEL)
@pytest.mark.parametrize(("dim", "shape"), [(1, (5, 3, 4, 2)), (1, (50, 3)), (-1, (5, 4, 3)), (0, (3, 20)), (-3, (2, 3, 7, 2))])
def test_one_value_per_channel(name: str, dim: int, shape: tuple[int, ...]) -> None:
    act = PER_CHANNEL[name](dim)
    same(act, grid(*shape))


def test_per_channel_at_inputs_of_several_ranks() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = AReLU(Learned((1.0, 2.0, -1.0)), Learned((0.5, 0.2, 0.4)), 0.3, 0.1)

        def forward(self, x: Tensor) -> Tensor:
            return self.act(x).flatten(2).sum(2) + self.act(x.mean((2, 3)))  # type: ignore[no-any-return]

    same(Twice(), grid(2, 3, 4, 4))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", PER_CHANNEL)
def test_dtypes_are_kept(name: str, dtype: torch.dtype) -> None:
    act = PER_CHANNEL[name](1).to(dtype)
    x = grid(20, 3, dtype=dtype)
    folded = fold(act, x)
    assert folded(x).dtype == dtype
    assert {t.dtype for t in (*folded.parameters(), *folded.buffers())} <= {dtype}
    assert fold(AReLU(0.3, -1.2, 0.2, 0.1), x)(x).dtype == dtype


def test_scheduled_coefficients_are_frozen_where_they_are() -> None:
    model = nn.Sequential(DSReLU.released(), nn.Linear(4, 4), SReLU(Scheduled(Cosine(2.0, 1.0))))
    clock = Clock(model, 10)
    for _ in range(4):
        clock.step()
    x = grid(6, 4)
    folded = same(model, x)
    before = folded(x)
    for _ in range(6):
        clock.step()
    assert torch.equal(folded(x), before)
    assert not torch.allclose(model(x), before, atol=1e-3)
    assert len(Clock(folded, 10)) == 0
    assert not any(p.requires_grad for p in fold(PReLU(channels=4), x).parameters())


# --- whole models -----------------------------------------------------------------------------------------------------

ACTS: dict[str, Callable[[], Activation]] = {
    "dsrelu": lambda: DSReLU.released(),
    "dsrelu-flat": lambda: DSReLU(0.3),
    "srelu": lambda: SReLU(1.2, 0.3),
    "arelu": lambda: AReLU(1.3, -0.4, 0.2, -0.1),
    "arelu-falling": lambda: AReLU(-0.5, -1.5, 0.2, -0.1),
    "arelu-parallel": lambda: AReLU(0.7, 0.7, 0.2, 0.1),
    "asigmoid": lambda: ASigmoid(1.5, -2.0, 0.3, 0.4),
    "atanh": lambda: ATanh(1.5, -2.0, 0.3, 0.4),
    "affinerelu": lambda: AffineReLU(-1.5, -2.0, 0.3, 0.4),
    "swish": lambda: Swish(1.7),
    "pelu": lambda: PELU(1.3, 0.6),
    "frelu": lambda: FReLU(-0.4),
    "arelu-channels": lambda: AReLU(*([v + 0.05 * i for i in range(8)] for v in (1.3, -0.4, 0.2, -0.1))),
    "pelu-channels": lambda: PELU([1.0 + 0.1 * i for i in range(8)], [0.5 + 0.1 * i for i in range(8)]),
}


def warm(model: nn.Module) -> nn.Module:
    """Running statistics and affine parameters that are not those of a fresh network."""
    g = torch.Generator().manual_seed(1)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) and m.running_mean is not None and m.running_var is not None:
            m.running_mean.copy_(torch.randn(m.num_features, generator=g) * 0.3)
            m.running_var.copy_(torch.rand(m.num_features, generator=g) + 0.5)
            if m.affine:
                nn.init.uniform_(m.weight, 0.5, 1.5, generator=g)
                nn.init.uniform_(m.bias, -0.5, 0.5, generator=g)
    return model


def conv_bn(act: Callable[[], Activation], padding: Any = 0, mode: str = "zeros", groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(8, 8, 3, padding=padding, padding_mode=mode, groups=groups)
    layers = [nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), act(), conv, act(), nn.BatchNorm2d(8)]
    return nn.Sequential(*layers, act(), nn.MaxPool2d(2), nn.Flatten(), nn.LazyLinear(8), act(), nn.Linear(8, 4))


@pytest.mark.parametrize("absorb", ABSORB)
@pytest.mark.parametrize("name", ACTS)
def test_convolutions_norms_and_linear_layers(name: str, absorb: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 12, 12)
    for padding, groups in ((0, 1), (1, 2)):
        model = warm(conv_bn(ACTS[name], padding, groups=groups))
        model(x)
        same(model, x, absorb)


@pytest.mark.parametrize(("padding", "mode"), [(1, "reflect"), (1, "circular"), ("same", "zeros"), ("valid", "zeros")])
def test_every_kind_of_padding(padding: Any, mode: str) -> None:
    x = torch.randn(2, 3, 12, 12)
    model = warm(conv_bn(ACTS["arelu-channels"], padding, mode, groups=4))
    model(x)
    for absorb in ("bias", "full"):
        assert bool(report(same(model, x, absorb)).sites[0].kept) == (padding == "same")


def test_what_moves_where_without_padding() -> None:
    x = torch.randn(2, 3, 12, 12)
    model = warm(conv_bn(lambda: AReLU(1.3, -0.4, 0.2, -0.1)))
    model(x)
    full = same(model, x, "full")
    assert isinstance(full, nn.Sequential)
    assert all(type(full[i]) is nn.LeakyReLU for i in (2, 4, 6, 10))
    assert not any(s.kept for s in report(full).sites)
    bias = same(model, x, "bias")
    assert isinstance(bias, nn.Sequential)
    for i in (2, 4, 6, 10):
        # The scale has to stay; no offset does.
        assert [type(m) for m in bias[i]] == [nn.LeakyReLU, Affine]
        assert bias[i][1].shift == 0.0
    for i in (0, 3, 9, 11):
        assert torch.equal(bias[i].weight, model[i].weight)


def test_an_offset_stays_in_front_of_zero_padding() -> None:
    x = torch.randn(2, 3, 12, 12)
    model = warm(conv_bn(lambda: AReLU(1.3, -0.4, 0.2, -0.1), padding=1))
    model(x)
    for absorb in ("bias", "full"):
        folded = same(model, x, absorb)
        assert isinstance(folded, nn.Sequential)
        assert type(folded[2]) is nn.Sequential
        assert folded[2][1].shift != 0.0
        assert "zero padding" in report(folded).sites[0].kept
    # The scale of a curve that is not homogeneous can move across padding, and leaves the offset behind.
    tanh = warm(conv_bn(lambda: ATanh(1.0, 2.0, 0.0, 0.5), padding=1))
    tanh(x)
    folded = same(tanh, x, "full")
    assert isinstance(folded, nn.Sequential)
    assert (folded[2][1].scale, folded[2][1].shift) == (1.0, 0.25)


def test_moving_an_offset_across_padding_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    x = torch.randn(2, 3, 12, 12)
    model = warm(conv_bn(lambda: AReLU(1.3, -0.4, 0.2, -0.1), padding=1))
    model(x)
    faint = copy.deepcopy(model)
    faint[-1].weight.data.mul_(1e-12)
    faint[-1].bias.data.zero_()
    monkeypatch.setattr(sys.modules["pliant.fold"], "_pads_with_zeros", lambda module: False)
    for wrong in (model, faint, copy.deepcopy(model).bfloat16()):
        with pytest.raises(FoldError, match="not exact"):
            fold(wrong, x.to(wrong[0].weight.dtype), "full")


class Residual(nn.Module):
    def __init__(self, act: Callable[[], Activation], width: int = 8) -> None:
        super().__init__()
        self.conv1, self.bn1, self.act1 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), act()
        self.conv2, self.bn2, self.act2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), act()

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        return self.act2(x + y)  # type: ignore[no-any-return]


@pytest.mark.parametrize("absorb", ABSORB)
@pytest.mark.parametrize("name", ACTS)
def test_residual_blocks(name: str, absorb: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)
    blocks = [Residual(ACTS[name]), Residual(ACTS[name])]
    folded = same(warm(nn.Sequential(nn.Conv2d(3, 8, 1), *blocks)), x, absorb)
    if absorb != "none" and name == "arelu":
        rows = {s.name: s for s in report(folded).sites}
        # After the sum nothing can move back; in the branch the shift and the scale can.
        assert not rows["1.act2"].absorbed
        assert "add" in rows["1.act2"].kept
        assert "residual" in rows["1.act2"].kept
        assert rows["1.act1"].absorbed


class Shared(nn.Module):
    """One activation in two places, one layer in two places, and tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.act, self.own = AReLU(1.3, -0.4, 0.2, -0.1), AReLU(1.1, -0.3, 0.1, -0.2)
        self.alias = self.act
        self.a, self.b, self.c, self.d = (nn.Linear(6, 6) for _ in range(4))
        self.tied, self.tied_act = nn.Linear(6, 6), AReLU(0.9, 0.1, 0.3, 0.1)
        self.tied.weight = self.d.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.alias(self.b(self.act(self.a(x))))
        x = self.own(self.c(self.c(x)))
        return self.d(self.tied_act(self.tied(x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("absorb", ABSORB)
def test_shared_activations_layers_and_weights_are_left(absorb: str) -> None:
    model = Shared()
    folded: Any = same(model, grid(4, 6), absorb)
    assert folded.act is folded.alias
    assert torch.equal(folded.tied.weight, folded.d.weight)
    if absorb != "none":
        kept = {s.name: s.kept for s in report(folded).sites}
        assert "several places" in kept["act"]
        assert "used at several places" in kept["own"]
        assert "shared" in kept["tied_act"]


class Reader(nn.Module):
    """Reads a weight itself, has a side output, and one activation that the example does not reach."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.act1, self.act2, self.aux = (AReLU(1.3, -0.4, 0.2, -0.1) for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.act1(self.a(x))
        y = self.b(x)
        z = self.act2(y)
        if self.training:
            z = self.aux(z)
        return self.c(z) * self.a.weight.sum(), y


@pytest.mark.parametrize("absorb", ABSORB)
def test_what_other_code_uses_is_left(absorb: Any) -> None:
    x = grid(4, 6)
    folded: Any = fold(Reader(), x, absorb)
    rows = {s.name: s for s in report(folded).sites}
    assert rows["aux"].calls == 0
    assert "not reached" in str(report(folded))
    if absorb != "none":
        # The inputs of b and c are free; the outputs of a and b are not.
        assert [n.rpartition(" ")[2] for n in rows["act1"].absorbed] == ["b"]
        assert "read by other code" in rows["act1"].kept
        assert [n.rpartition(" ")[2] for n in rows["act2"].absorbed] == ["c"]
        assert "elsewhere" in rows["act2"].kept


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(6, 6), AReLU(1.3, -0.4, 0.2, -0.1), nn.Linear(6, 6))
        self.act = AReLU(1.1, -0.3, 0.1, -0.2)
        self.poked = nn.Sequential(nn.Linear(6, 6), AReLU(1.3, -0.4, 0.2, -0.1), nn.Linear(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(x)
        if x.sum() > 1e9:
            return x
        return self.poked(self.act(x)) + self.poked[0](x)  # type: ignore[no-any-return]


def test_where_fx_cannot_follow_only_the_parts_it_can_are_absorbed() -> None:
    folded = same(Untraceable(), grid(4, 6), "full")
    rows = {s.name: s for s in report(folded).sites}
    assert rows["block.1"].absorbed
    assert not rows["act"].absorbed
    assert "cannot be traced" in rows["act"].kept
    # Its first layer is called once more than the trace of its block shows; its last is not.
    assert [n.rpartition(" ")[2] for n in rows["poked.1"].absorbed] == ["poked.2"]


def test_pooling_dropout_and_flattening_between() -> None:
    x = torch.randn(2, 3, 12, 12)
    act = ACTS["pelu-channels"]
    tail = [nn.Dropout(0.5), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.1), nn.Linear(32, 4)]
    folded = same(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Identity(), act(), *tail), x, "full")
    assert isinstance(folded, nn.Sequential)
    assert type(folded[2]) is nn.ELU
    # A negative scale would turn the maximum into a minimum.
    negative = nn.Sequential(nn.Conv2d(3, 8, 3), ATanh(1.0, -2.0), nn.MaxPool2d(2), nn.Conv2d(8, 4, 1))
    assert "maximum" in report(same(negative, x, "full")).sites[0].kept
    # The padding of an average counts as zeros.
    padded = nn.Sequential(nn.Conv2d(3, 8, 3), FReLU(0.5), nn.AvgPool2d(3, padding=1), nn.Conv2d(8, 4, 1))
    assert "AvgPool2d" in report(same(padded, x, "bias")).sites[0].kept


def test_channels_must_be_those_of_the_layer() -> None:
    model = nn.Sequential(nn.Linear(8, 8), AReLU(*ACTS["arelu-channels"]().values(), channel_dim=1), nn.Linear(8, 8))
    rows = report(same(model, torch.randn(2, 8, 8), "full")).sites
    assert not rows[0].absorbed
    assert "channels" in rows[0].kept
    assert report(same(model, torch.randn(5, 8), "full")).sites[0].absorbed


def test_the_fold_is_a_model_like_any_other() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 12, 12)
    model = warm(conv_bn(ACTS["arelu-channels"], padding=1))
    model(x)
    folded = fold(model, x, "full")
    for copied in (copy.deepcopy(folded), pickle.loads(pickle.dumps(folded))):
        assert torch.equal(copied(x), folded(x))
        assert report(copied) == report(folded)
    kept = {k for k in model.state_dict() if k in folded.state_dict()}
    assert {k for k in model.state_dict() if not k.startswith(("2.", "4.", "6.", "10."))} <= kept
    assert torch.equal(torch.fx.symbolic_trace(folded)(x), folded(x))
    assert torch.allclose(torch.export.export(folded, (x,)).module()(x), folded(x), atol=1e-6)
    with warnings.catch_warnings():
        # torch 2.10 and later say that torch.jit has had its day; models in service use it all the same.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        assert torch.allclose(torch.jit.trace(folded, x)(x), folded(x), atol=1e-6)
    text = str(report(folded))
    assert "4 activations folded, absorb='full'" in text
    assert "zero padding" in text


def test_examples_of_every_kind() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = FReLU(0.3)

        def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            return {"sum": self.act(x.add_(1)) + y, "index": y.argmax()}

    x, y = grid(5), grid(5)
    for example in ((x, y), {"x": x, "y": y}):
        assert report(fold(Two(), example)).exact_error is not None
    assert report(fold(Two(), lambda model: model(x.clone(), y))).exact_error is None
    assert torch.equal(x, grid(5))


def test_a_model_without_activations_is_copied() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    folded = fold(model, grid(2, 4), "full")
    assert folded is not model
    assert len(report(folded)) == 0
    assert report(folded).max_error == 0.0


def test_a_train_mode_model_keeps_its_mode() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), AReLU()).train()
    fold(model, grid(2, 4))
    assert all(m.training for m in model.modules())


def test_models_that_are_not_folded_export_too() -> None:
    # One program for all of them: the time goes into the export as such.
    model = nn.Sequential(nn.Linear(4, 4), *(cls() for cls in ALL), PReLU(channels=4)).eval()
    x = grid(3, 4)
    exported = torch.export.export(model, (x,))
    assert torch.allclose(exported.module()(x), model(x), atol=1e-6)


# --- mistakes ---------------------------------------------------------------------------------------------------------


@elementwise
def _cube(x: Tensor, a: float | Tensor = 1.0) -> Tensor:
    return a * x**3


class Cube(Activation):
    """An activation of a user's own."""

    function = staticmethod(_cube)
    a = Coefficient(Fixed(1.0))


class _CubeModule(nn.Module):
    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = a

    def forward(self, x: Tensor) -> Tensor:
        return x * x * x * self.a


def test_an_activation_of_ones_own() -> None:
    x = grid(3, 4)
    with pytest.raises(FoldError, match=r"no rule.*rules="):
        fold(Cube(0.5), x)
    folded = fold(nn.Sequential(Cube(0.5)), x, rules={Cube: lambda act: _CubeModule(act.a)})
    assert report(folded).relative_error < 1e-5
    with pytest.raises(FoldError, match=r"is not Cube.*Mend the rule"):
        fold(Cube(0.5), x, rules={Cube: lambda act: _CubeModule(1.0)})
    with pytest.raises(DomainError, match="module of standard operations"):
        fold(Cube(0.5), x, rules={Cube: lambda act: act})


def test_a_wrong_rule_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    x = grid(3, 4)
    with pytest.raises(FoldError, match="is not AReLU"):
        fold(AReLU(1.0, 0.2, 0.0, 0.0), x, rules={AReLU: lambda act: nn.ReLU()})
    right = RULES[AReLU]
    # The classic slip: the branches taken by name and not by slope.
    monkeypatch.setitem(RULES, AReLU, lambda a, b, c, d: right(a, a - (a - b).abs(), c, d))
    fold(AReLU(1.0, 0.2, 0.3, 0.0), x)
    with pytest.raises(FoldError, match=r"is not AReLU.*mistake in Pliant"):
        fold(AReLU(0.2, 1.0, 0.3, 0.0), x)


def test_an_error_above_the_tolerance_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4), AReLU(1.37, 0.21, 0.13, 0.77))
    with pytest.raises(FoldError, match=r"more than the tolerance 1e-12.*In float64.*rounding"):
        fold(model, torch.randn(50, 4), tolerance=1e-12)


def test_code_that_uses_the_activation_otherwise_is_refused() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = AReLU(1.0, 0.2, 0.0, 0.0)

        def forward(self, x: Tensor) -> Tensor:
            return self.act(x) * self.act.a  # type: ignore[no-any-return]

    with pytest.raises(FoldError, match="folded form does not"):
        fold(Reads(), grid(3, 4))

    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = AReLU(1.0, 0.2, 0.0, 0.0)

        def forward(self, x: Tensor) -> Tensor:
            return self.act(x) + len([m for m in self.modules() if isinstance(m, Activation)])  # type: ignore[no-any-return]

    with pytest.raises(FoldError, match="not exact"):
        fold(Counts(), grid(3, 4))


def test_mistakes_are_explained() -> None:
    x = grid(3, 4)
    with pytest.raises(TypeError, match=r"needs a torch\.nn\.Module"):
        fold(torch.relu, x)  # type: ignore[arg-type]
    with pytest.raises(DomainError, match="'none', 'bias' or 'full'"):
        fold(AReLU(), x, "all")  # type: ignore[arg-type]
    with pytest.raises(DomainError, match=r"pass \(the_list,\)"):
        fold(AReLU(), [x])  # type: ignore[arg-type]
    with pytest.raises(DomainError, match="above 0"):
        fold(AReLU(), x, tolerance=0.0)
    with pytest.raises(FoldError, match="size is not known yet"):
        fold(nn.Sequential(nn.LazyLinear(4), AReLU()), x)
    with pytest.raises(FoldError, match="_orig_mod"):
        fold(torch.compile(nn.Sequential(AReLU()), backend="eager"), x)  # type: ignore[arg-type]
    with pytest.raises(FoldError, match="not finite"):
        fold(AReLU(), torch.full((3,), math.inf))
    broken = AReLU()
    broken.a.data.fill_(math.nan)
    with pytest.raises(FoldError, match="not finite"):
        fold(broken, x)
    with pytest.raises(FoldError, match="no floating-point tensor"):
        fold(nn.Sequential(AReLU(), nn.Flatten(0)), lambda model: model(x).argmax())
    negative = PELU.unconstrained()
    negative.b.data.fill_(-0.5)
    with pytest.raises(FoldError, match="no standard form"):
        fold(nn.Sequential(negative), x)


# --- networks that somebody else wrote --------------------------------------------------------------------------------

REPLACED: dict[str, Callable[[], Activation]] = {
    "arelu": lambda: AReLU(1.1, 0.15, 0.05, -0.03),
    "dsrelu": lambda: DSReLU(1.3),
    "srelu": lambda: SReLU(1.1, 0.3),
}


def replaced(model: nn.Module, act: Callable[[], Activation]) -> nn.Module:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.ReLU | nn.ReLU6 | nn.Hardswish):
                setattr(parent, name, act())
    return warm(model)


def _network(name: str) -> nn.Module:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    return getattr(torchvision.models, name)(weights=None)  # type: ignore[no-any-return]


def _fold_network(network: str, act: str, absorb: str) -> None:
    model = replaced(_network(network), REPLACED[act])
    folded = same(model, torch.randn(1, 3, 64, 64), absorb)
    assert len(report(folded)) > 5
    moved = sum(bool(s.absorbed) for s in report(folded).sites)
    # DSReLU has no offset. The blocks of a ResNet call one activation twice and branch, so that SReLU keeps its scale there.
    assert moved or absorb == "none" or (absorb == "bias" and act != "arelu") or act == "srelu"


def test_resnet18() -> None:
    _fold_network("resnet18", "arelu", "full")


@pytest.mark.slow
@pytest.mark.parametrize("absorb", ABSORB)
@pytest.mark.parametrize("act", REPLACED)
@pytest.mark.parametrize("network", ["resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "vgg11_bn", "vgg11"])
def test_networks(network: str, act: str, absorb: str) -> None:
    _fold_network(network, act, absorb)


# --- ONNX -------------------------------------------------------------------------------------------------------------

EXPORTED: dict[str, Callable[[], Activation]] = {
    **{
        n: ACTS[n]
        for n in ("dsrelu", "dsrelu-flat", "srelu", "arelu", "asigmoid", "atanh", "affinerelu", "swish", "pelu", "frelu")
    },
    **{n: ACTS[n] for n in ("arelu-channels", "pelu-channels")},
    "arelu-nearly-parallel": lambda: AReLU(0.7001, 0.7, 0.2, 0.1),
    "arelu-mirrored": lambda: AReLU(0.0, -1.5, 0.2, -0.1),
    "srelu-channels": lambda: SReLU(1.0, [0.1 + 0.05 * i for i in range(8)]),
    "prelu": PReLU,
    "prelu-channels": lambda: PReLU([0.1 * i for i in range(8)]),
    "swish-gate": lambda: Swish([0.2 * i for i in range(8)]),
}


def _exportable(act: Callable[[], Activation], padding: int = 1) -> nn.Module:
    torch.manual_seed(0)
    first = [nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), act()]
    return warm(nn.Sequential(*first, nn.Conv2d(8, 8, 3, padding=padding), act(), nn.Conv2d(8, 4, 1))).eval()


def _export(model: nn.Module, x: Tensor, path: Path, *, dynamo: bool) -> None:
    with warnings.catch_warnings():
        # The exporters warn of their own age and of each other.
        warnings.simplefilter("ignore")
        options: dict[str, Any] = {"verbose": False} if dynamo else {}
        torch.onnx.export(model, (x,), path, dynamo=dynamo, input_names=["x"], output_names=["y"], **options)


def _infer(path: Path, x: Tensor, optimized: Path | None = None) -> Tensor:
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


def _onnx_error(act: Callable[[], Activation], absorb: Any, path: Path, *, dynamo: bool) -> float:
    x = torch.randn(2, 3, 12, 12)
    model = _exportable(act)
    _export(fold(model, x, absorb), x, path, dynamo=dynamo)
    with torch.no_grad():
        return (_infer(path, x) - model(x)).abs().max().item()


@pytest.mark.parametrize("absorb", ["none", "full"])
@pytest.mark.parametrize("name", EXPORTED)
def test_onnx_by_the_torchscript_exporter(name: str, absorb: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    assert _onnx_error(EXPORTED[name], absorb, tmp_path / "m.onnx", dynamo=False) <= 1e-5


def test_onnx_by_the_current_exporter(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    assert _onnx_error(ACTS["arelu"], "full", tmp_path / "m.onnx", dynamo=True) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("absorb", ABSORB)
@pytest.mark.parametrize("name", EXPORTED)
def test_onnx_of_everything_by_the_current_exporter(name: str, absorb: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    assert _onnx_error(EXPORTED[name], absorb, tmp_path / "m.onnx", dynamo=True) <= 1e-5


def _int8(model: nn.Module, x: Tensor, at: Path, *, dynamo: bool) -> tuple[Tensor, list[str], list[str]]:
    """Output of the int8 model, its nodes as quantised (QDQ), and the nodes that ONNX Runtime runs in their place."""
    onnx = pytest.importorskip("onnx")
    quantization = pytest.importorskip("onnxruntime.quantization")

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            self.batches = iter([{"x": x.numpy()}])

        def get_next(self) -> Any:
            return next(self.batches, None)

    _export(model, x, at / "f.onnx", dynamo=dynamo)
    # Signed activations, symmetric or not, change nothing here; these are the defaults that ONNX Runtime recommends on x86.
    types = {"activation_type": quantization.QuantType.QUInt8, "weight_type": quantization.QuantType.QInt8}
    quantization.quantize_static(
        str(at / "f.onnx"), str(at / "q.onnx"), Reader(), quant_format=quantization.QuantFormat.QDQ, **types
    )
    got = _infer(at / "q.onnx", x, at / "run.onnx")
    quantised, run = (onnx.load(str(at / name)).graph for name in ("q.onnx", "run.onnx"))
    # Every input of every other node comes out of a DequantizeLinear (constants too), every output goes into a QuantizeLinear.
    makers = {o: n.op_type for n in quantised.node for o in n.output}
    users: dict[str, set[str]] = {}
    for n in quantised.node:
        for i in n.input:
            users.setdefault(i, set()).add(n.op_type)
    loose = [
        n.op_type
        for n in quantised.node
        if n.op_type not in ("QuantizeLinear", "DequantizeLinear")
        and (any(makers.get(i) != "DequantizeLinear" for i in n.input) or any(users[o] != {"QuantizeLinear"} for o in n.output))
    ]
    return got, loose, [n.op_type for n in run.node]


INT8 = ("dsrelu", "dsrelu-flat", "arelu", "arelu-mirrored", "arelu-nearly-parallel")
INT8_TOO = ("affinerelu", "frelu", "swish", "asigmoid", "prelu")


def _check_int8(name: str, absorb: Any, at: Path, *, dynamo: bool) -> None:
    x = torch.randn(4, 3, 12, 12)
    model = _exportable(EXPORTED[name])
    got, loose, run = _int8(fold(model, x, absorb), x, at, dynamo=dynamo)
    assert loose == []
    # One way in, one way out, and integer kernels alone between.
    assert run[0] == "QuantizeLinear"
    assert run[-1] == "DequantizeLinear"
    assert all(op.startswith("QLinear") for op in run[1:-1]), run
    with torch.no_grad():
        expected = model(x)
    # Each quantised tensor on the way costs up to half a step of 1/255 of its range.
    assert (got - expected).abs().max().item() <= 0.06 * (expected.max() - expected.min()).item()


@pytest.mark.parametrize("name", [*INT8, *INT8_TOO])
def test_int8_stays_int8(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    _check_int8(name, "none" if name == "arelu" else "full", tmp_path, dynamo=False)


@pytest.mark.slow
@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("absorb", ABSORB)
@pytest.mark.parametrize("name", INT8)
def test_int8_stays_int8_by_both_exporters(name: str, absorb: str, dynamo: bool, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    _check_int8(name, absorb, tmp_path, dynamo=dynamo)


@pytest.mark.parametrize("name", ["srelu", "arelu-channels", "atanh"])
def test_where_onnx_runtime_has_no_int8_kernel_the_guide_says_so(name: str, tmp_path: Path) -> None:
    # Should this fail because a newer ONNX Runtime can do more: good, and docs/fold.md wants a line changed.
    pytest.importorskip("onnx")
    x = torch.randn(4, 3, 12, 12)
    _, _, run = _int8(fold(_exportable(EXPORTED[name]), x, "full"), x, tmp_path, dynamo=False)
    assert {op for op in run[1:-1] if not op.startswith("QLinear")} >= {
        {"srelu": "Elu", "arelu-channels": "PRelu", "atanh": "Tanh"}[name]
    }
