"""Observing: it sees what is there, and leaves training as it was, bit for bit."""

from __future__ import annotations

import copy
import csv
import gc
import io
import pickle
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import pliant
from pliant import AffineReLU, AReLU, ASigmoid, ATanh, DSReLU, Learned, PReLU, SReLU, Swish
from pliant.activations import ALL


def rows(observer: pliant.Observer, step: int | None = None) -> dict[tuple[str, str], float]:
    """The rows of one step (default: the last one), by site and quantity."""
    step = observer.rows[-1]["step"] if step is None else step
    return {(r["site"], r["quantity"]): r["value"] for r in observer.rows if r["step"] == step}


def observed_once(model: nn.Module, x: Tensor, **options: Any) -> pliant.Observer:
    observer = pliant.observe(model, every=1, window=1, **options)
    y = model(x)
    if y.requires_grad:
        y.square().sum().backward()
    observer.step()
    return observer


class Mixed(nn.Module):
    """Residual use of an input, one module called twice, an in-place activation, dropout, and ours among torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.first = AReLU.prelu(channels=8)
        self.twice = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.gate = Swish()
        self.drop = nn.Dropout(0.2)
        self.moving = DSReLU.released()
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        # x is used by two sites and by the sum: shares of its gradient must keep their order.
        x = x + self.first(x) + self.gate(x)
        x = self.twice(self.conv(x)) + self.twice(self.conv(x) - 1)
        x = self.moving(self.drop(x))
        return self.head(x.mean(dim=(2, 3)))


def trained(watched: bool, *, dtype: torch.dtype = torch.float32, steps: int = 6, **options: Any) -> tuple[Any, ...]:
    torch.manual_seed(0)
    model = Mixed().to(dtype)
    optimizer = torch.optim.AdamW(pliant.param_groups(model, weight_decay=0.1), lr=0.01)
    clock = pliant.Clock(model, steps)
    observer = pliant.observe(model, **options) if watched else None
    seen: list[Tensor] = []
    for _ in range(steps):
        x, target = torch.randn(4, 3, 6, 6, dtype=dtype), torch.randint(4, (4,))
        output = model(x)
        loss = F.cross_entropy(output.float(), target)
        loss.backward()
        seen += [output.detach().clone(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
        optimizer.step()
        clock.step()
        if observer is not None:
            observer.step()
        optimizer.zero_grad()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    if observer is not None:
        observer.close()
    return seen, state, torch.get_rng_state()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_training_is_the_same_bit_for_bit(dtype: torch.dtype) -> None:
    plain = trained(False, dtype=dtype)
    everything = {"weights": True, "grid": [-1.0, 0.0, 1.0], "traces": {"head.weight": [0, 1]}, "channels": "all"}
    watched = trained(True, dtype=dtype, every=2, window=2, **everything)
    assert list(plain[1]) == list(watched[1])
    assert len(plain[0]) == len(watched[0])
    for a, b in zip([*plain[0], *plain[1].values(), plain[2]], [*watched[0], *watched[1].values(), watched[2]], strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def test_sites_and_their_calls() -> None:
    observer = observed_once(Mixed(), torch.randn(4, 3, 6, 6))
    sites = {site for site, quantity in rows(observer) if quantity == "gradient"}
    assert sites == {"first", "gate", "moving", "twice#0", "twice#1"}
    found = rows(observer)
    # The second call gets its input less one.
    assert found["twice#0", "fraction.positive"] > found["twice#1", "fraction.positive"]


@pytest.mark.parametrize("make", [*ALL, nn.ReLU, nn.GELU, lambda: nn.ReLU(inplace=True), nn.Tanh, nn.Hardswish])
def test_the_gradient_is_that_of_the_call_alone(make: Any) -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin, self.act = nn.Linear(5, 7), make()

        def forward(self, x: Tensor) -> Tensor:
            x = self.lin(x)
            return x * 3 + self.act(x.clone() if getattr(self.act, "inplace", False) else x)

    torch.manual_seed(1)
    model, x = Residual(), torch.randn(9, 5)
    observer = observed_once(model, x)
    # Independent: the activation on a leaf of its own.
    z = model.lin(x).detach()
    leaf = z.clone().requires_grad_(True)
    copied = copy.deepcopy(model.act)
    y = copied(leaf * 1) if getattr(copied, "inplace", False) else copied(leaf)
    out = (z * 3 + y.detach()).detach()
    (expected,) = torch.autograd.grad(y, leaf, 2 * out)
    assert rows(observer)["act", "gradient"] == pytest.approx(expected.norm().item(), rel=1e-5)
    observer.close()


def test_a_leaf_as_input_and_a_keyword() -> None:
    x = torch.tensor([[-1.0, 2.0, 3.0]], requires_grad=True)
    act = nn.ReLU()
    with pliant.observe(act, every=1) as observer:
        act(input=x).sum().backward()
        observer.step()
    found = rows(observer)
    assert found["ReLU", "gradient"] == pytest.approx(2**0.5)
    assert found["ReLU", "fraction.positive"] == pytest.approx(2 / 3)
    assert found["ReLU", "units.dead"] == pytest.approx(1 / 3)
    assert observer.units("ReLU")["dead"].tolist() == [True, False, False]


@pytest.mark.parametrize("shape", [(), (4,), (3, 4), (3, 4, 5), (3, 4, 5, 6), (0, 4)])
def test_any_shape(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, requires_grad=True)
    found = rows(observed_once(nn.Sequential(AReLU(), nn.Tanh()), x))
    if x.numel():
        assert found["1", "fraction.saturated"] == pytest.approx((x.relu().detach().abs() > 2.9932).float().mean().item())
        assert "gradient" in {q for _, q in found}
    else:
        assert not any(q.startswith("fraction") for _, q in found)


def test_fractions_of_each_kind_of_function() -> None:
    torch.manual_seed(2)
    x = torch.randn(50, 8) * 4
    u = x * 0.5 + 1
    cases: list[tuple[nn.Module, str, Tensor]] = [
        (AReLU(0.5, -0.25, 1.0, 0.5), "first_line", u >= x * -0.25 + 0.5),
        (AReLU.released(), "first_line", torch.ones(50, 8, dtype=torch.bool)),
        (AffineReLU(0.5, 1.0, 1.0, 0.0), "active", u > 0),
        (ASigmoid(0.5, 1.0, 1.0, 0.0), "saturated", u.sigmoid() * (1 - u.sigmoid()) < 0.0025),
        (ATanh(0.5, 2.0, 1.0, 0.0), "saturated", 1 - u.tanh() ** 2 < 0.01),
        (nn.Sigmoid(), "saturated", x.sigmoid() * (1 - x.sigmoid()) < 0.0025),
        (nn.Softsign(), "saturated", 1 / (1 + x.abs()) ** 2 < 0.01),
        (nn.ReLU6(), "saturated", (x <= 0) | (x >= 6)),
        (nn.Hardtanh(-2, 3), "saturated", (x <= -2) | (x >= 3)),
        (nn.Threshold(1.5, 0.0), "above", x > 1.5),
        (SReLU(), "positive", x > 0),
        (nn.GELU(), "positive", x > 0),
    ]
    for module, piece, mask in cases:
        found = rows(observed_once(module, x))
        assert found[type(module).__name__, f"fraction.{piece}"] == pytest.approx(mask.float().mean().item()), module


def test_saturated_and_dead_units_need_the_whole_window() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.Tanh())
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.copy_(torch.tensor([-1.0, 1.0, 0.0]))
        model[0].weight[2, 0] = 1.0
        model[2].weight.zero_()
        model[2].weight[1, 1] = 1.0
        model[2].weight[2, 2] = 1.0
        model[2].bias.copy_(torch.tensor([9.0, 0.0, 0.0]))
    observer = pliant.observe(model, every=2, window=2)
    for sign in (-1.0, 1.0):
        model(torch.full((4, 3), sign)).sum().backward()
        observer.step()
    # Unit 2 was silent in the first step only; unit 1 has a constant output but a gradient.
    assert observer.units("1")["dead"].tolist() == [True, False, False]
    assert observer.units("3")["saturated"].tolist() == [True, False, False]
    observer.step()
    model(torch.full((4, 3), -1.0)).sum().backward()
    observer.step()
    assert observer.units("1")["dead"].tolist() == [True, False, True]


def test_coefficients_are_the_constrained_values_and_canonical() -> None:
    arelu = AReLU(Learned((0.0, 1.0)), Learned((1.0, 0.5)), Learned((2.0, 3.0)), Learned((4.0, 5.0)), channels=2)
    tanh, sigmoid = ATanh(-1.0, 2.0, 3.0, 4.0), ASigmoid(-1.0, 2.0, 3.0, 4.0)
    srelu = SReLU(beta=Learned(0.25))
    model = nn.ModuleDict({"arelu": arelu, "tanh": tanh, "sigmoid": sigmoid, "srelu": srelu, "torch": nn.PReLU(3)})
    found = rows(pliant.observe(model, channels="all"))
    assert [found["arelu", f"canonical.{n}[{i}]"] for i in (0, 1) for n in "abcd"] == [1, 0, 4, 2, 1, 0.5, 3, 5]
    assert [found["tanh", f"canonical.{n}"] for n in "abcd"] == [1, -2, -3, 4]
    assert [found["sigmoid", f"canonical.{n}"] for n in "abcd"] == [1, -2, -3, 6]
    assert found["srelu", "coefficient.beta"] == pytest.approx(0.25)
    assert found["torch", "coefficient.weight[2]"] == 0.25
    found = rows(pliant.observe(model))
    assert [found["arelu", f"coefficient.c.{s}"] for s in ("mean", "min", "max")] == [2.5, 2, 3]


@pytest.mark.parametrize("cls", [c for c in ALL if c.canonical is not None])
def test_canonical_is_the_same_function_and_one_spelling(cls: Any) -> None:
    torch.manual_seed(3)
    x, values = torch.randn(100, dtype=torch.float64), torch.randn(30, 4, dtype=torch.float64)
    other = {
        "AReLU": lambda a, b, c, d: (b, a, d, c),
        "ATanh": lambda a, b, c, d: (-a, -b, -c, d),
        "ASigmoid": lambda a, b, c, d: (-a, -b, -c, b + d),
    }[cls.__name__]
    for row in values:
        once, again = torch.stack(cls.canonical(*row)), torch.stack(cls.canonical(*other(*row)))
        torch.testing.assert_close(once, again)
        torch.testing.assert_close(cls.function(x, *once), cls.function(x, *row))


def test_curves() -> None:
    model = nn.ModuleDict({"a": AReLU.prelu(channels=3), "g": nn.GELU(), "r": nn.ReLU(inplace=True), "p": nn.PReLU(2)})
    x = torch.linspace(-2, 2, 5)
    with pliant.observe(model, grid=x.tolist()) as observer:
        assert observer.curve("a", x).shape == (3, 5)
        torch.testing.assert_close(observer.curve("g", x), F.gelu(x))
        torch.testing.assert_close(observer.curve("r", x), x.relu())
        torch.testing.assert_close(observer.curve("p", x)[1], F.prelu(x, torch.tensor(0.25)))
        assert x[0] == -2
        assert [c["y"] for c in observer.curves if c["site"] == "a"] == [-0.5, -0.25, 0.0, 1.0, 2.0]
        with pytest.raises(pliant.UnknownNameError, match="Known: a, g, p, r"):
            observer.curve("b", x)


def test_increments_and_traces() -> None:
    model = nn.Sequential(nn.Linear(4, 4), PReLU(), nn.Linear(4, 4, bias=False))
    observer = pliant.observe(model, every=1, weights=True, traces={"2.weight": [0, 5]})
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    with torch.no_grad():
        model[0].weight.mul_(1.5)
        model[2].weight.add_(1.0)
    with pytest.warns(UserWarning, match="no call of an activation"):
        observer.step()
    found = rows(observer)
    assert found["0.weight", "increment"] == pytest.approx(0.5)
    assert found["2.weight", "increment"] == pytest.approx(4 / before["2.weight"].norm().item())
    assert found["2.weight", "weight[5]"] == pytest.approx(before["2.weight"].flatten()[5].item() + 1)
    assert {s for s, q in found if q == "increment"} == {"0.weight", "2.weight"}
    observer.step()
    assert rows(observer)["0.weight", "increment"] == 0
    assert {s for s, q in rows(pliant.observe(model, weights=["2.*"])) if q == "increment"} == set()
    with pytest.raises(pliant.UnknownNameError, match="weight tensor"):
        pliant.observe(model, weights=["3.*"])
    with pytest.raises(pliant.UnknownNameError, match="to trace"):
        pliant.observe(model, traces={"x": [0]})


def test_coefficient_gradients_are_those_of_the_step() -> None:
    model = nn.Sequential(nn.Linear(3, 3), SReLU(beta=Learned(0.25)))
    observer = observed_once(model, torch.randn(5, 3))
    assert rows(observer)["1", "gradient.raw_beta"] == pytest.approx(model[1].raw_beta.grad.norm().item())


def test_windows_and_steps() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    observer = pliant.observe(model, every=10, window=3, start=20)
    looked = []
    for _ in range(20):
        model(torch.randn(2, 3)).sum().backward()
        looked.append(bool(observer._windows))
        observer.step()
    assert [i for i, now in enumerate(looked) if now] == [7, 8, 9, 17, 18, 19]
    assert {r["step"] for r in observer.rows} == {30, 40}


def test_eval_is_not_seen_unless_asked() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU()).eval()
    observer = pliant.observe(model, every=1)
    model(torch.randn(2, 3))
    assert not observer.read()
    observer.close()
    observer = observed_once(model, torch.randn(2, 3), in_eval=True)
    assert ("1", "fraction.positive") in rows(observer)


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


def test_close_leaves_nothing_behind_also_after_an_exception() -> None:
    model = Mixed()
    observer = pliant.observe(model, every=1)
    assert hooks(model) == 9
    with pytest.raises(RuntimeError, match="channels"), observer:
        model(torch.randn(2, 5, 5, 5))
    assert hooks(model) == 0
    observer.close()


def test_an_exception_inside_a_forward_pass_does_not_confuse_the_next() -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[0] == 1:
                raise RuntimeError("one")
            return x.relu()

    model = nn.Sequential(nn.Linear(3, 3), Fails(), nn.ReLU())
    observer = pliant.observe(model, every=1, kinds=[Fails, nn.ReLU])
    with pytest.raises(RuntimeError, match="one"):
        model(torch.randn(1, 3))
    observer.read()
    model(torch.randn(8, 3)).sum().backward()
    observer.step()
    assert {s for s, q in rows(observer) if q == "gradient"} == {"1", "2"}


def test_copies_and_pickles_are_not_watched() -> None:
    model = nn.Sequential(nn.Linear(3, 3), AReLU())
    observer = pliant.observe(model, every=1, window=1)
    stored = io.BytesIO()
    torch.save(model, stored)
    stored.seek(0)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(stored, weights_only=False)):
        other(torch.randn(2, 3)).sum().backward()
        assert not observer._windows
    model(torch.randn(2, 3))
    assert observer._windows


def test_a_dropped_observer_is_collected() -> None:
    model = nn.Sequential(nn.Linear(3, 3), AReLU())
    observer = observed_once(model, torch.randn(2, 3))
    observer.close()
    alive = weakref.ref(observer)
    del observer
    gc.collect()
    assert alive() is None


def test_compiled_models_run_as_they_are_and_say_what_is_missing() -> None:
    model = nn.Sequential(nn.Linear(3, 3), AReLU(), nn.Linear(3, 1))
    x = torch.randn(4, 3)
    observer = pliant.observe(model, every=1, weights=True)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    y = compiled(x)
    y.sum().backward()
    with pytest.warns(UserWarning, match=r"torch\.compile"):
        observer.step()
    assert torch.equal(y, model(x))
    found = rows(observer, 1)
    assert {("1", "coefficient.a"), ("1", "gradient.a"), ("0.weight", "increment")} <= set(found)
    assert ("1", "gradient") not in found
    observer.close()
    # A model that is compiled already is looked into.
    with pliant.observe(compiled) as observer:
        assert ("1", "coefficient.a") in rows(observer)
        torch.compiler.reset()
        assert torch.equal(compiled(x), y)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(reentrant: bool) -> None:
    block = nn.Sequential(nn.Linear(3, 3), AReLU(), nn.Linear(3, 3), nn.ReLU())
    x = torch.randn(4, 3, requires_grad=True)

    class Saved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = block

        def forward(self, x: Tensor) -> Any:
            return checkpoint(self.block, x, use_reentrant=reentrant)

    plain = rows(observed_once(block, x))
    block.zero_grad()
    saved = rows(observed_once(Saved(), x))
    for (site, quantity), value in plain.items():
        if not (reentrant and quantity in ("gradient", "units.dead")):
            assert saved[f"block.{site}", quantity] == pytest.approx(value)


def test_vmap_and_several_backward_passes() -> None:
    model = nn.Sequential(nn.Linear(3, 3), AReLU())
    x = torch.randn(6, 4, 3)
    observer = pliant.observe(model, every=1)
    torch.vmap(model)(x)
    assert not observer._windows
    y = model(x[0]).sum()
    y.backward(retain_graph=True)
    y.backward()
    observer.step()
    once = observed_once(model, x[0])
    assert ("1", "gradient") in rows(observer)
    assert rows(observer)["1", "fraction.first_line"] == rows(once)["1", "fraction.first_line"]


def test_rows_csv_and_tensorboard(tmp_path: Path) -> None:
    class Writer:
        def __init__(self) -> None:
            self.seen: list[tuple[str, float, int]] = []

        def add_scalar(self, *row: Any) -> None:
            self.seen.append(row)

    writer = Writer()
    observer = observed_once(nn.Sequential(nn.Linear(3, 3), AReLU()), torch.randn(2, 3), tensorboard=writer)
    assert [(f"{r['site']}/{r['quantity']}", r["value"], r["step"]) for r in observer.rows] == writer.seen
    observer.to_csv(tmp_path / "rows.csv")
    with open(tmp_path / "rows.csv", newline="") as file:
        read = list(csv.DictReader(file))
    assert [(int(r["step"]), r["site"], r["quantity"], float(r["value"])) for r in read] == [
        tuple(r.values()) for r in observer.rows
    ]


def test_tensorboard_directory(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with observed_once(nn.Sequential(nn.Linear(3, 3), AReLU()), torch.randn(2, 3), tensorboard=tmp_path) as observer:
        expected = rows(observer)["1", "gradient"]
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Scalars("1/gradient")[0].value == pytest.approx(expected)


def test_tensorboard_that_is_missing_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(pliant.MissingExtraError, match="pip install tensorboard"):
        pliant.observe(nn.ReLU(), tensorboard=tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"every": 0}, "every=0"),
        ({"window": -1}, "window=-1"),
        ({"start": 1.5}, "start=1.5"),
        ({"channels": "some"}, "summary"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(pliant.DomainError, match=words):
        pliant.observe(nn.ReLU(), **options)


def test_a_model_without_activations_is_refused_and_left_alone() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(pliant.DomainError, match="found no activation"):
        pliant.observe(model)
    assert hooks(model) == 0


def test_export_does_not_see_the_observer() -> None:
    model = nn.Sequential(nn.Linear(3, 3), AReLU())
    x = torch.randn(4, 3)
    without = torch.export.export(model, (x,))
    with pliant.observe(model, every=1) as observer:
        watched = torch.export.export(model, (x,))
        assert not observer._windows
    assert [n.target for n in watched.graph.nodes] == [n.target for n in without.graph.nodes]
