"""The mathematics: every activation against the contract, its relatives, its conventions and its printed derivatives."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant import PELU, AffineReLU, AReLU, ASigmoid, ATanh, DSReLU, FReLU, Learned, PReLU, SReLU, Swish
from pliant import functional as P
from pliant.activation import Activation
from pliant.activations import ALL as OURS
from pliant.catalog import ALL
from pliant.gain import moments
from pliant.testing import check

# --- the contract -----------------------------------------------------------------------------------------------------

# What torch's own activations do not keep, and why; ours keep everything.
TORCH_GAPS = {
    ("hardsigmoid", "second_gradient"): "torch has no second derivative of hardsigmoid",
    ("logsigmoid", "shape"): "torch gives a contiguous output for a transposed input",
    ("tanhshrink", "dtype"): "torch subtracts in bfloat16",
}


def _every() -> dict[str, Callable[[], nn.Module]]:
    factories: dict[str, Callable[[], nn.Module]] = {}
    for name, entry in ALL.items():
        factories[name] = entry.factory
        for variant, factory in entry.variants.items():
            if all(p.default is not p.empty for p in inspect.signature(factory).parameters.values()):
                factories[f"{name}[{variant}]"] = factory
    return factories


EVERY = _every()


@pytest.mark.parametrize("name", EVERY)
def test_contract(name: str) -> None:
    results = check(EVERY[name])
    broken = {r.check: r.message for r in results if r.outcome == "failed" and (name, r.check) not in TORCH_GAPS}
    assert broken == {}


@pytest.mark.parametrize("cls", OURS, ids=lambda c: c.__name__)
def test_nothing_of_the_contract_is_skipped_without_need(cls: type[Activation]) -> None:
    module = cls()
    owed_only_by_learned = {"parameters"} if not list(module.parameters()) else set()
    owed_only_by_scheduled = {"progress_kept", "progress_restored", "progress_modes", "progress_end", "compiled_once"}
    expected = owed_only_by_learned | (set() if module.scheduled else owed_only_by_scheduled)
    # The names alone would do, but running the cheap ones shows that the reason is the right one.
    cheap = {"parameters", *owed_only_by_scheduled} - {"compiled_once"}
    assert {r.check for r in check(cls, only=cheap) if r.outcome == "skipped"} == expected & cheap


def test_every_variant_without_required_options_is_in_the_contract() -> None:
    variants = {f"{n}[{v}]" for n, e in ALL.items() for v in e.variants}
    assert variants - set(EVERY) == {"dsrelu[logistic]"}


# --- who reduces to whom: float32, 1e-6 -------------------------------------------------------------------------------

X = torch.cat([torch.linspace(-20, 20, 4001), torch.tensor([0.0, -0.0, 1e-30, -1e-30, 1e-6, -1e-6])])
SLOPES = (1.0, 1.03, 1.2, 2.0, 3.4927, 10.576)
SMALL = (0.1763, 0.304, 0.577, 0.817, 1.0)


def _same(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


def _differs(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() > 1e-3)


@pytest.mark.parametrize("s", SLOPES)
def test_dsrelu_from_slope_1_on(s: float) -> None:
    y = P.dsrelu(X, s)
    _same(y, s * F.leaky_relu(X, 1 / s))
    _same(y, torch.maximum(s * X, X))
    _same(y, P.arelu(X, s, 1.0, 0.0, 0.0))


@pytest.mark.parametrize("s", SMALL)
def test_dsrelu_up_to_slope_1(s: float) -> None:
    y = P.dsrelu(X, s)
    _same(y, torch.minimum(s * X, X))
    _same(y, -F.leaky_relu(-X, s))


def test_dsrelu_at_slope_1_is_the_identity() -> None:
    _same(P.dsrelu(X, 1.0), X)


@pytest.mark.parametrize("beta", [0.0, 0.01, 0.25, 1.0, 3.0])
@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.0])
def test_srelu_is_a_scaled_elu(alpha: float, beta: float) -> None:
    _same(P.srelu(X, alpha, beta), alpha * F.elu(X, beta / alpha))


def test_srelu_reductions() -> None:
    for beta in (0.0, 0.1, 0.25, 1.0, 2.5):
        _same(P.srelu(X, 1.0, beta), F.elu(X, beta))
    for same in (F.elu(X, 1.0), P.pelu(X, 1.0, 1.0), F.celu(X, 1.0)):
        _same(P.srelu(X, 1.0, 1.0), same)
    for a in (0.3, 1.0, 2.0):
        _same(P.srelu(X, a, a), a * F.elu(X))
        _same(P.srelu(X, a, a), P.pelu(X, a, 1.0))
        _same(P.srelu(X, a, 0.0), a * torch.relu(X))
    _same(P.srelu(X, 1.0507009873554805, 1.0507009873554805 * 1.6732632423543772), F.selu(X))
    assert _differs(P.srelu(X, 0.5, 0.5), F.celu(X, 0.5))


def test_srelu_range() -> None:
    y = P.srelu(X, 0.0, 0.7)
    assert y.min() >= -0.7
    assert y.max() == 0
    assert P.srelu(X, 2.0, 0.7).min() >= -0.7
    falling = P.srelu(torch.linspace(-3, 0, 50), 1.0, -0.5)
    assert (falling.diff() < 0).all()


ABCD = [(1.0, 1.0, 0.0, 0.0), (0.7, 1.3, -0.4, 0.2), (-1.2, 0.8, 0.5, -0.3), (2.0, -0.6, 0.1, 1.0)]


@pytest.mark.parametrize("abcd", ABCD)
def test_asigmoid_and_atanh_are_one_family(abcd: tuple[float, float, float, float]) -> None:
    a, b, c, d = abcd
    _same(P.asigmoid(X, a, b, c, d), P.atanh(X, a / 2, b / 2, c / 2, d + b / 2))
    _same(P.atanh(X, a, b, c, d), P.asigmoid(X, 2 * a, 2 * b, 2 * c, d - b))
    _same(P.atanh(X, a, b, c, d), P.atanh(X, -a, -b, -c, d))
    _same(P.asigmoid(X, a, b, c, d), P.asigmoid(X, -a, -b, -c, b + d))


def test_asigmoid_and_atanh_at_their_start() -> None:
    _same(P.asigmoid(X), torch.sigmoid(X))
    _same(P.atanh(X), torch.tanh(X))
    _same(P.asigmoid(X), P.atanh(X, 0.5, 0.5, 0.0, 0.5))
    centred = P.asigmoid(X, 1.5, 0.8, 0.0, -0.4)
    _same(centred, -P.asigmoid(-X, 1.5, 0.8, 0.0, -0.4))


@pytest.mark.parametrize("abcd", ABCD)
def test_asigmoid_and_atanh_range_and_slope_at_the_centre(abcd: tuple[float, float, float, float]) -> None:
    a, b, c, d = abcd
    y = P.asigmoid(X, a, b, c, d)
    assert min(d, b + d) - 1e-6 <= y.min()
    assert y.max() <= max(d, b + d) + 1e-6
    y = P.atanh(X, a, b, c, d)
    assert d - abs(b) - 1e-6 <= y.min()
    assert y.max() <= d + abs(b) + 1e-6
    for function, slope in ((P.asigmoid, a * b / 4), (P.atanh, a * b)):
        z = torch.tensor(-c / a, dtype=torch.float64, requires_grad=True)
        (g,) = torch.autograd.grad(function(z, a, b, c, d), z)
        assert g.item() == pytest.approx(slope, abs=1e-12)


def test_arelu_special_cases() -> None:
    _same(P.arelu(X, 1.0, 0.0, 0.0, 0.0), torch.relu(X))
    _same(P.arelu(X, 0.0, 1.0, 0.0, 0.0), torch.relu(X))
    for w in (-0.5, 0.01, 0.2, 0.25, 1.0):
        _same(P.arelu(X, 1.0, w, 0.0, 0.0), P.prelu(X, w))
        _same(P.arelu(X, 1.0, w, 0.0, 0.0), F.leaky_relu(X, w))
    assert _differs(P.arelu(X, 1.0, 1.5, 0.0, 0.0), P.prelu(X, 1.5))
    _same(P.arelu(X, 1.0, -1.0, 0.0, 0.0), X.abs())
    _same(P.arelu(X, 0.7, 0.7, 0.1, 0.1), 0.7 * X + 0.1)
    for b in (-1.0, -0.3989, 0.5):
        _same(P.arelu(X, 1.0, 0.0, b, b), P.frelu(X, b))
    _same(P.arelu(X, 1.0, 0.0, 0.0, -1.0), X.clamp(min=-1))


@pytest.mark.parametrize("abcd", [(1.3, 0.5, 0.2, -0.1), (-0.7, 2.0, 0.3, 0.4)])
def test_affine_relu_is_an_arelu_with_a_flat_side(abcd: tuple[float, float, float, float]) -> None:
    a, b, c, d = abcd
    _same(P.affine_relu(X, a, b, c, d), P.arelu(X, a * b, 0.0, b * c + d, d))


def test_arelu_is_symmetric_convex_and_has_one_kink() -> None:
    generator = torch.Generator().manual_seed(0)
    for a, b, c, d in torch.randn(50, 4, generator=generator, dtype=torch.float64).tolist():
        y = P.arelu(X.double(), a, b, c, d)
        torch.testing.assert_close(y, P.arelu(X.double(), b, a, d, c))
        z1, z2 = X.double()[:2000], X.double()[1000:3000]
        middle = P.arelu((z1 + z2) / 2, a, b, c, d)
        assert (middle <= (P.arelu(z1, a, b, c, d) + P.arelu(z2, a, b, c, d)) / 2 + 1e-12).all()
        kink = torch.tensor((d - c) / (a - b), dtype=torch.float64)
        assert P.arelu(kink, a, b, c, d).item() == pytest.approx((a * d - b * c) / (a - b), rel=1e-9, abs=1e-9)
        rises = bool((P.arelu(kink + torch.linspace(-9, 9, 99, dtype=torch.float64), a, b, c, d).diff() >= 0).all())
        assert rises == (a >= 0 and b >= 0)


def test_prelu_reductions() -> None:
    _same(P.prelu(X, 0.0), torch.relu(X))
    _same(P.prelu(X, 0.01), F.leaky_relu(X))
    _same(P.prelu(X, 1.0), X)
    _same(P.prelu(X, -1.0), X.abs())
    _same(P.prelu(X, 0.25), nn.PReLU()(X))
    _same(P.prelu(X, 0.25), torch.relu(X) - 0.25 * torch.relu(-X))
    for w, equal in ((-2.0, True), (0.3, True), (1.0, True), (1.5, False)):
        assert _differs(torch.maximum(w * X, X), P.prelu(X, w)) is not equal


def test_pelu_reductions() -> None:
    _same(P.pelu(X, 1.0, 1.0), F.elu(X))
    for a in (0.3, 1.0, 2.0):
        _same(P.pelu(X, a, a), F.celu(X, a))
        _same(P.pelu(X, a, 1.0), P.srelu(X, a, a))


def test_frelu_reductions() -> None:
    _same(P.frelu(X, 0.0), torch.relu(X))
    mean, _, _ = moments(lambda z: P.frelu(z, -1 / math.sqrt(2 * math.pi)))
    assert mean == pytest.approx(0, abs=1e-6)


def test_swish_reductions() -> None:
    _same(P.swish(X, 0.0), X / 2)
    _same(P.swish(X, 1.0), F.silu(X))
    _same(P.swish(X, 1e4), torch.relu(X))
    for beta in (0.3, 1.0, 2.5):
        _same(P.swish(X, -beta) + P.swish(X, beta), X)


@pytest.mark.parametrize(
    ("function", "lowest", "steepest", "flattest"),
    [
        (F.gelu, (-0.7518, -0.16997), (2**0.5, 1.1289), (-(2**0.5), -0.1289)),
        (lambda z: P.swish(z, 1.0), (-1.2785, -0.27846), (2.3994, 1.0998), (-2.3994, -0.0998)),
        (F.mish, (-1.1924, -0.30884), (1.4906, 1.0885), (-2.2564, -0.1125)),
    ],
    ids=["gelu", "swish", "mish"],
)
def test_extremes_of_the_smooth_ones(
    function: Callable[[Tensor], Tensor],
    lowest: tuple[float, float],
    steepest: tuple[float, float],
    flattest: tuple[float, float],
) -> None:
    z = torch.linspace(-5, 5, 200_001, dtype=torch.float64, requires_grad=True)
    y = function(z)
    (slope,) = torch.autograd.grad(y.sum(), z)
    for values, i, (at, value) in (
        (y, y.argmin(), lowest),
        (slope, slope.argmax(), steepest),
        (slope, slope.argmin(), flattest),
    ):
        assert z[i].item() == pytest.approx(at, abs=2e-4)
        assert values[i].item() == pytest.approx(value, abs=1e-4)


def test_modules_at_their_start() -> None:
    for module, torch_own in (
        (AReLU.relu(), nn.ReLU()),
        (AReLU.prelu(), nn.PReLU()),
        (AReLU.released(), nn.Identity()),
        (ASigmoid(), nn.Sigmoid()),
        (ATanh(), nn.Tanh()),
        (AffineReLU(), nn.ReLU()),
        (DSReLU.constant(2.0), nn.PReLU(init=0.5)),
        (FReLU(), nn.ReLU()),
        (PELU(), nn.ELU()),
        (PELU.unconstrained(), nn.ELU()),
        (PReLU(), nn.PReLU()),
        (PReLU.zero(), nn.ReLU()),
        (SReLU(), nn.ELU(0.25)),
        (Swish(), nn.SiLU()),
    ):
        scale = 2.0 if isinstance(module, DSReLU) else 1.0
        _same(module(X), scale * torch_own(X))


# --- at the kinks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "coefficients", "expected"),
    [
        (P.dsrelu, {"slope": 2.0}, {"x": 1.0, "slope": 0.0}),
        (P.srelu, {"alpha": 1.5, "beta": 0.25}, {"x": 0.25, "alpha": 0.0, "beta": 0.0}),
        (P.prelu, {"weight": 0.3}, {"x": 0.3, "weight": 0.0}),
        (P.pelu, {"a": 1.5, "b": 0.5}, {"x": 3.0, "a": 0.0, "b": 0.0}),
        (P.frelu, {"b": 0.5}, {"x": 0.0, "b": 1.0}),
        (P.affine_relu, {"a": 1.5, "b": 2.0, "c": 0.0, "d": 0.5}, {"x": 0.0, "a": 0.0, "b": 0.0, "c": 0.0, "d": 1.0}),
        (P.arelu, {"a": 1.0, "b": 0.25, "c": 0.0, "d": 0.0}, {"x": 1.0, "a": 0.0, "b": 0.0, "c": 1.0, "d": 0.0}),
        (P.arelu, {"a": 0.25, "b": 1.0, "c": 0.0, "d": 0.0}, {"x": 0.25, "a": 0.0, "b": 0.0, "c": 1.0, "d": 0.0}),
    ],
    ids=lambda v: v.__name__ if callable(v) else "",
)
def test_convention_at_the_kink(
    function: Callable[..., Tensor], coefficients: dict[str, float], expected: dict[str, float]
) -> None:
    leaves = {n: torch.tensor([v], requires_grad=True) for n, v in {"x": 0.0, **coefficients}.items()}
    function(**leaves).sum().backward()
    assert {n: leaf.grad.item() for n, leaf in leaves.items()} == pytest.approx(expected, abs=1e-7)


def test_pelu_has_no_kink() -> None:
    for a, b in ((1.0, 1.0), (0.5, 2.0), (2.0, 0.3)):
        z = torch.tensor([-1e-9, 0.0, 1e-9], dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(P.pelu(z, a, b).sum(), z)
        assert slope.tolist() == pytest.approx([a / b] * 3, rel=1e-7)


def test_a_naive_elu_would_give_nan_and_ours_does_not() -> None:
    x = torch.tensor([100.0], requires_grad=True)
    beta = torch.tensor([1.0], requires_grad=True)
    torch.where(x > 0, x, beta * (torch.exp(x) - 1)).sum().backward()
    assert x.grad is not None
    assert x.grad.isnan().all()
    x.grad = beta.grad = None
    P.srelu(x, 1.0, beta).sum().backward()
    assert (x.grad.item(), beta.grad.item()) == (1.0, 0.0)


# --- the tie of AReLU -------------------------------------------------------------------------------------------------


class _MaximumReLU(nn.Module):
    """The control: the same function and start, with torch's maximum, which splits the gradient of a tie."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.ones(1)) for _ in range(2))
        self.c, self.d = (nn.Parameter(torch.zeros(1)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(self.a * x + self.c, self.b * x + self.d)


def _train(module: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> float:
    x = torch.randn(256, generator=torch.Generator().manual_seed(0))
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.mse_loss(module(x), x.abs())
        loss.backward()
        optimizer.step()
    return loss.item()


def test_a_tied_start_separates_in_one_step() -> None:
    module = AReLU.released()
    x = torch.randn(64, generator=torch.Generator().manual_seed(0))
    g = torch.randn(64, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module(x).backward(g)
    optimizer.step()
    assert module.a.item() == pytest.approx(1 - 0.1 * (g * x).sum().item(), abs=1e-5)
    assert module.c.item() == pytest.approx(-0.1 * g.sum().item(), abs=1e-5)
    assert (module.b.item(), module.d.item()) == (1.0, 0.0)
    assert module.a.item() != module.b.item()


def test_with_torch_maximum_the_tie_would_last_for_ever() -> None:
    control = _MaximumReLU()
    stuck = _train(control, torch.optim.Adam(control.parameters(), lr=0.03), 300)
    assert (control.a - control.b).item() == (control.c - control.d).item() == 0.0
    ours = AReLU.released()
    learned = _train(ours, torch.optim.Adam(ours.parameters(), lr=0.03), 300)
    # |x| is two lines; the best single line leaves the variance of |x|, about 1 - 2 / pi.
    assert stuck > 0.3
    assert learned < 0.05


# --- the derivatives that the docstrings print -----------------------------------------------------------------------


def _affine(h: Callable[[Tensor], Tensor], dh: Callable[[Tensor], Tensor]) -> Callable[..., dict[str, Tensor]]:
    """The derivatives of b * h(a * x + c) + d, given those of h as a function of h's value."""

    def derivatives(x: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> dict[str, Tensor]:
        v = h(a * x + c)
        dc = b * dh(v)
        return {"x": a * dc, "a": x * dc, "b": v, "c": dc, "d": torch.ones_like(x)}

    return derivatives


def _pelu(x: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    right, e = x >= 0, torch.exp(x / b)
    return {
        "x": torch.where(right, a / b, a / b * e),
        "a": torch.where(right, x / b, torch.expm1(x / b)),
        "b": torch.where(right, -a * x / b**2, -a * x / b**2 * e),
    }


def _arelu(x: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> dict[str, Tensor]:
    first = (a * x + c >= b * x + d).double()
    return {"x": a * first + b * (1 - first), "a": x * first, "b": x * (1 - first), "c": first, "d": 1 - first}


def _swish(x: Tensor, beta: Tensor) -> dict[str, Tensor]:
    s = torch.sigmoid(beta * x)
    return {"x": s + beta * x * s * (1 - s), "beta": x**2 * s * (1 - s)}


DERIVATIVES: dict[str, Callable[..., dict[str, Tensor]]] = {
    "dsrelu": lambda x, slope: {"x": torch.where(x > 0, slope, 1.0), "slope": x.clamp(min=0)},
    "srelu": lambda x, alpha, beta: {
        "x": torch.where(x > 0, alpha, beta * torch.exp(x)),
        "alpha": x.clamp(min=0),
        "beta": torch.expm1(x.clamp(max=0)),
    },
    "arelu": _arelu,
    "asigmoid": _affine(torch.sigmoid, lambda h: h * (1 - h)),
    "atanh": _affine(torch.tanh, lambda h: 1 - h**2),
    "affine_relu": _affine(torch.relu, lambda h: (h > 0).double()),
    "prelu": lambda x, weight: {"x": torch.where(x > 0, 1.0, weight), "weight": x.clamp(max=0)},
    "swish": _swish,
    "pelu": _pelu,
    "frelu": lambda x, b: {"x": (x > 0).double(), "b": torch.ones_like(x)},
}


def test_every_function_has_its_derivatives_here() -> None:
    assert set(DERIVATIVES) == set(P.__all__)


@pytest.mark.parametrize("name", DERIVATIVES)
def test_derivatives_are_as_printed(name: str) -> None:
    function, derivatives = getattr(P, name), DERIVATIVES[name]
    parameters = inspect.signature(function).parameters.values()
    names = [p.name for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    for n in names:
        assert f"df/d{n}" in function.__doc__, f"the docstring of {name} prints no df/d{n}"
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.randn(500, generator=generator, dtype=torch.float64)
    for _ in range(5):
        values = 0.2 + 2 * torch.rand(len(names) - 1, generator=generator, dtype=torch.float64)
        # One coefficient per element, so that their gradients are not summed.
        leaves = [x.clone().requires_grad_(True), *(v.expand(500).clone().requires_grad_(True) for v in values)]
        function(leaves[0], *leaves[1:], channel_dim=0).sum().backward()
        printed = derivatives(x, *values)
        assert set(printed) == set(names)
        for n, leaf in zip(names, leaves, strict=True):
            torch.testing.assert_close(leaf.grad, printed[n].expand(500), rtol=1e-9, atol=1e-12)


def test_dswish_dbeta_vanishes_at_0() -> None:
    beta = torch.tensor([1.0], requires_grad=True)
    P.swish(torch.zeros(1), beta).backward()
    assert beta.grad is not None
    assert beta.grad.item() == 0.0


# --- the layer --------------------------------------------------------------------------------------------------------


def test_torch_prelu_checkpoints_load() -> None:
    for size in (1, 5):
        theirs = nn.PReLU(size)
        with torch.no_grad():
            theirs.weight.uniform_(-1, 1)
        ours = PReLU(channels=size)
        ours.load_state_dict(theirs.state_dict())
        x = torch.randn(3, 5, 4)
        _same(ours(x), theirs(x))


def test_per_channel_learned_values_stay_apart() -> None:
    act = AReLU(channels=3)
    assert {n: tuple(p.shape) for n, p in act.named_parameters()} == dict.fromkeys("abcd", (3,))
    x = torch.zeros(2, 3, 4)
    x[:, 1] = 1.0
    act(x).sum().backward()
    assert act.a.grad is not None
    assert act.a.grad.tolist() == [0.0, 8.0, 0.0]


def test_repr_names_coefficients_and_kinds() -> None:
    assert repr(AReLU(b=0.5)) == "AReLU(a=Learned(1.0), b=0.5, c=Learned(0.0), d=Learned(0.0))"
    assert repr(AReLU(b=Learned(0.5), channels=4, channel_dim=-1)).endswith("channel_dim=-1, channels=4)")
