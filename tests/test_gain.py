"""The table of gains, its closed forms, and a simulation that does not share the quadrature."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import pliant
from pliant import (
    PELU,
    AffineReLU,
    AReLU,
    ASigmoid,
    ATanh,
    DomainError,
    DSReLU,
    Fixed,
    FReLU,
    Learned,
    Logistic,
    PReLU,
    Scheduled,
    SReLU,
    Swish,
    gain,
)
from pliant.catalog import ALL
from pliant.gain import moments

SQRT_2PI = math.sqrt(2 * math.pi)

# The activation, then E f, E f^2, forward gain, E f'^2, backward gain, to the digits printed; None = not printed.
Row = tuple[nn.Module, float, float, float, float, float]
TABLE: dict[str, Row] = {
    "identity": (nn.Identity(), 0, 1, 1, 1, 1),
    "arelu released": (AReLU.released(), 0, 1, 1, 1, 1),
    "relu": (nn.ReLU(), 0.3989, 0.5000, 1.4142, 0.5000, 1.4142),
    "arelu": (AReLU(), 0.3989, 0.5000, 1.4142, 0.5000, 1.4142),
    "frelu": (FReLU(), 0.3989, 0.5000, 1.4142, 0.5000, 1.4142),
    "affine relu": (AffineReLU(), 0.3989, 0.5000, 1.4142, 0.5000, 1.4142),
    "leaky .01": (nn.LeakyReLU(0.01), 0.3950, 0.5000, 1.4141, 0.5000, 1.4141),
    "leaky .2": (nn.LeakyReLU(0.2), 0.3192, 0.5200, 1.3868, 0.5200, 1.3868),
    "prelu": (PReLU(), 0.2992, 0.5312, 1.3720, 0.5312, 1.3720),
    "torch prelu": (nn.PReLU(), 0.2992, 0.5312, 1.3720, 0.5312, 1.3720),
    "arelu prelu": (AReLU.prelu(), 0.2992, 0.5312, 1.3720, 0.5312, 1.3720),
    "elu": (nn.ELU(), 0.1605, 0.6449, 1.2452, 0.6681, 1.2234),
    "srelu 1 1": (SReLU(1.0, 1.0), 0.1605, 0.6449, 1.2452, 0.6681, 1.2234),
    "pelu": (PELU(), 0.1605, 0.6449, 1.2452, 0.6681, 1.2234),
    "srelu 1 .25": (SReLU(), 0.3393, 0.5091, 1.4016, 0.5105, 1.3996),
    "srelu 1 .1": (SReLU(beta=0.1), 0.3751, 0.5014, 1.4122, 0.5017, 1.4118),
    "gelu": (nn.GELU(), 0.2821, 0.4252, 1.5335, 0.4559, 1.4811),
    "mish": (nn.Mish(), 0.2404, 0.4523, 1.4868, 0.4791, 1.4448),
    "swish": (Swish(), 0.2066, 0.3558, 1.6765, 0.3795, 1.6233),
    "silu": (nn.SiLU(), 0.2066, 0.3558, 1.6765, 0.3795, 1.6233),
    "frelu -.3989": (FReLU(-1 / SQRT_2PI), 0, 0.3408, 1.7129, 0.5000, 1.4142),
    "frelu -1": (FReLU(-1.0), -0.6011, 0.7021, 1.1934, 0.5000, 1.4142),
    "tanh": (nn.Tanh(), 0, 0.3943, 1.5925, 0.4644, 1.4674),
    "atanh": (ATanh(), 0, 0.3943, 1.5925, 0.4644, 1.4674),
    "sigmoid": (nn.Sigmoid(), 0.5000, 0.2934, 1.8462, 0.0448, 4.7226),
    "asigmoid": (ASigmoid(), 0.5000, 0.2934, 1.8462, 0.0448, 4.7226),
}
SLOPES = {
    10.576: (3.82, 56.4, 0.1331),
    5.635: (1.85, 16.4, 0.2471),
    3.493: (0.99, 6.60, 0.3893),
    1.030: (0.012, 1.031, 0.985),
    0.817: (-0.073, 0.834, 1.095),
    0.304: (-0.278, 0.546, 1.353),
    0.1763: (-0.329, 0.516, 1.393),
}
NONLINEARITY = {
    10.58: 0.199,
    5.64: 0.151,
    3.49: 0.101,
    2.0: 0.039,
    1.2: 0.003,
    1.03: 0.00008,
    0.817: 0.0037,
    0.577: 0.025,
    0.304: 0.094,
    0.176: 0.151,
    0.0: 0.267,
}


@pytest.mark.parametrize("name", TABLE)
def test_table(name: str) -> None:
    module, mean, square, forward, slope_square, backward = TABLE[name]
    assert moments(module) == pytest.approx((mean, square, slope_square), abs=5.1e-5)
    assert gain(module) == pytest.approx(forward, abs=5.1e-5)
    assert gain(module, mode="backward") == pytest.approx(backward, abs=1.01e-4)


@pytest.mark.parametrize("slope", SLOPES)
def test_table_of_dsrelu(slope: float) -> None:
    mean, square, forward = SLOPES[slope]
    module = DSReLU.constant(slope)
    assert moments(module)[0] == pytest.approx(mean, abs=5.1e-3 if mean > 0.5 else 5.1e-4)
    assert moments(module)[1:] == pytest.approx((square, square), rel=3e-3)
    assert gain(module) == pytest.approx(forward, abs=5.1e-4)
    assert gain(module, mode="backward") == pytest.approx(forward, abs=5.1e-4)


@pytest.mark.parametrize("slope", NONLINEARITY)
def test_share_of_dsrelu_that_is_not_linear(slope: float) -> None:
    def f(z: Tensor) -> Tensor:
        return pliant.functional.dsrelu(z, slope)

    mean, square, _ = moments(f)
    # E z f(z) from the second moments of f and of f + z.
    _, shifted, _ = moments(lambda z: f(z) + z)
    along = (shifted - square - 1) / 2
    variance = square - mean**2
    printed = NONLINEARITY[slope]
    assert (variance - along**2) / variance == pytest.approx(
        printed, abs=5.1e-4 if printed > 0.01 else 5.1e-2 * printed + 4.7e-4
    )


def _phi(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))


def test_closed_form_of_two_slopes() -> None:
    for p, n in ((1.0, 0.0), (2.0, 0.3), (1.0, -1.0), (0.176, 1.0)):
        mean, square, slope_square = moments(
            AReLU(p, n, 0.0, 0.0) if p >= n else (lambda z, p=p, n=n: torch.where(z > 0, p * z, n * z))
        )
        assert mean == pytest.approx((p - n) / SQRT_2PI, abs=1e-6)
        assert (square, slope_square) == pytest.approx([(p**2 + n**2) / 2] * 2, abs=1e-6)


def test_closed_form_of_srelu() -> None:
    tail = math.e**2 * _phi(-2)
    for alpha, beta in ((1.0, 0.25), (0.5, 1.0), (2.0, 0.1)):
        _, square, slope_square = moments(SReLU(alpha, beta))
        assert square == pytest.approx(alpha**2 / 2 + beta**2 * (tail - 2 * math.exp(0.5) * _phi(-1) + 0.5), abs=1e-6)
        assert slope_square == pytest.approx(alpha**2 / 2 + beta**2 * tail, abs=1e-6)
    assert tail == pytest.approx(0.168102, abs=1e-6)
    assert tail - 2 * math.exp(0.5) * _phi(-1) + 0.5 == pytest.approx(0.144945, abs=1e-6)


def test_closed_form_of_frelu() -> None:
    for b in (-1.0, -0.3, 0.0, 0.8):
        assert moments(FReLU(b))[1] == pytest.approx(0.5 + 2 * b / SQRT_2PI + b**2, abs=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_simulation(name: str) -> None:
    z = torch.randn(500_000, generator=torch.Generator().manual_seed(0))
    z = torch.cat([z, -z])
    module = pliant.create(name)
    with torch.no_grad():
        second = module(z).double().square().mean().item()
    assert second == pytest.approx(moments(module)[1], rel=0.01)
    assert gain(module) == pytest.approx(second**-0.5, rel=0.005)


def test_gain_at_a_progress() -> None:
    act = DSReLU.released()
    for t in (0.0, 0.5, 1.0):
        s = Logistic(math.tan(math.radians(75)), math.tan(math.radians(30)), 5.0)(t)
        assert gain(act, progress=t) == pytest.approx(math.sqrt(2 / (s**2 + 1)), abs=1e-5)
    assert gain(act) == pytest.approx(gain(act, progress=0.0), rel=1e-6)
    act.seek(1, 2, 0)
    assert gain(act) == pytest.approx(gain(act, progress=0.5), rel=1e-6)
    assert act.now()[0] == 1


def test_gain_leaves_the_activation_alone() -> None:
    for module in (nn.PReLU(), PReLU(), nn.PReLU().half()):
        gain(module)
        assert all(p.grad is None for p in module.parameters())
    assert module.weight.dtype == torch.float16


def test_gain_of_a_plain_function() -> None:
    assert gain(lambda z: 3 * z) == pytest.approx(1 / 3, abs=1e-6)
    assert gain(Swish(Scheduled(pliant.Linear(0.0, 1.0)))) == pytest.approx(2, abs=1e-5)
    assert gain(Swish(Fixed(0.0)), mode="backward") == pytest.approx(2, abs=1e-5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: gain(nn.ReLU), "build an activation first: ReLU()"),
        (lambda: gain(nn.ReLU(), mode="both"), "expected 'forward' or 'backward'"),
        (lambda: gain(nn.ReLU(), progress=0.5), "has no schedule"),
        (lambda: gain(lambda z: torch.zeros_like(z)), "flat for every input"),
        (lambda: gain(lambda z: torch.ones_like(z), mode="backward"), "flat for every input"),
        (lambda: gain(PReLU(Learned((0.1, 0.2)))), "differs by channel"),
    ],
)
def test_errors(call: object, words: str) -> None:
    with pytest.raises(DomainError) as error:
        call()  # type: ignore[operator]
    assert words in str(error.value)
