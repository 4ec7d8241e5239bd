"""plan, swap_, restore_: every call site, nothing else touched, and undone without a trace."""

from __future__ import annotations

import copy
import io
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import pliant
from pliant import AReLU, Clock, DomainError, PReLU, SwapError, Swish, Transition, plan, preserving, restore_, swap_


class Mixed(nn.Module):
    """One of each: a module used twice, functions, methods, a line in a loop, a head for training only, a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.alone = nn.ReLU()
        self.unused = nn.ReLU()
        self.gate = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor, scale: float | None = None) -> tuple[Tensor, Tensor | None]:
        x = self.act(self.norm(self.conv(x)))
        x = self.act(self.conv(x[:, :3]) + x)
        x = F.relu(input=x, inplace=True) - 0.5
        x = torch.relu(x) - 0.1
        x = x.relu() - 0.1
        for _ in range(2):
            x = self._twice(x)
        x = x * torch.sigmoid(self.gate(x))
        x = self.alone(x)
        if scale is not None:
            x = x * scale
        aux = self.head(F.relu(x.mean((2, 3)) - 0.1)) if self.training else None
        return self.head(x.mean((2, 3))), aux

    def _twice(self, x: Tensor) -> Tensor:
        x = x - 0.2
        x.relu_()
        return x


X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def _mixed(training: bool = False) -> Mixed:
    torch.manual_seed(0)
    return Mixed().train(training)


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {n: t.clone() for n, t in model.state_dict().items()}


def _out(model: nn.Module, x: Tensor = X) -> Tensor:
    return model(x.clone())[0]


def test_the_plan_finds_every_call_and_says_what_it_leaves() -> None:
    found = plan(_mixed(), {nn.ReLU: AReLU, nn.Sigmoid: pliant.ASigmoid}, example=X)
    assert [(s.name, s.kind, s.calls) for s in found] == [
        ("act:1", "call", 1),
        ("act:2", "call", 1),
        ("relu():1", "function", 1),
        ("relu():2", "function", 1),
        ("relu():3", "method", 1),
        ("relu_():1", "method", 1),
        ("relu_():2", "method", 1),
        ("alone", "module", 1),
        ("relu():4", "function", 1),
    ]
    assert [s.modes for s in found][-1] == {"train"}
    assert [(s.name, s.why) for s in found.left] == [("sigmoid()", "a gate: its output multiplies a feature map")]
    assert found.idle == ["unused"]
    assert len(found) == 9
    text = str(found)
    for words in (
        "act:1",
        "2x4x6x6",
        "test_swap.py:",
        "AReLU(",
        "train only",
        "gate",
        "never reaches",
        "2 are left",
    ):
        assert words in text


@pytest.mark.parametrize("training", [False, True])
def test_planning_leaves_no_trace(training: bool) -> None:
    model = _mixed(training)
    model.norm.eval()
    before, modes = _state(model), [m.training for m in model.modules()]
    x, rng, python = X.clone(), torch.get_rng_state(), random.getstate()
    children = {n: id(m) for n, m in model.named_modules()}
    plan(model, {nn.ReLU: AReLU}, example=x)
    assert torch.equal(x, X)
    assert torch.equal(rng, torch.get_rng_state())
    assert python == random.getstate()
    assert [m.training for m in model.modules()] == modes
    assert {n: id(m) for n, m in model.named_modules()} == children
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert "forward" not in vars(model)
    assert not [a for a in vars(model) if "pliant" in a]


def test_swap_keeps_outputs_keys_and_classes_and_restore_undoes_it() -> None:
    model = _mixed()
    expected, keys, kinds = _out(model), list(model.state_dict()), {n: type(m) for n, m in model.named_modules()}
    seen: list[str] = []
    handle = model.alone.register_forward_hook(lambda *_: seen.append("hook"))
    done = swap_(model, {nn.ReLU: AReLU}, example=X)
    seen.clear()
    torch.testing.assert_close(_out(model), expected, rtol=0, atol=1e-6)
    assert seen == ["hook"]
    handle.remove()
    _out(model)
    assert seen == ["hook"]
    assert type(model) is Mixed
    assert [k for k in model.state_dict() if k in keys] == keys
    assert set(done.new_keys) == set(model.state_dict()) - set(keys)
    assert "act.0.a" in done.new_keys
    assert "activation_sites.relu_1.a" in done.new_keys
    for module in done.model.modules():
        if isinstance(module, AReLU):
            with torch.no_grad():
                module.d.add_(1.0)
    assert not torch.allclose(_out(model), expected)
    restore_(model)
    assert torch.equal(_out(model), expected)
    assert list(model.state_dict()) == keys
    assert {n: type(m) for n, m in model.named_modules()} == kinds
    assert not [a for a in vars(model) if "pliant" in a or a == "forward"]
    with pytest.raises(SwapError, match="not swapped"):
        restore_(model)


def test_python_decides_at_run_time_as_before() -> None:
    model = _mixed()
    swap_(model, {nn.ReLU: AReLU}, example=X)
    assert model(X.clone())[1] is None
    assert copy.deepcopy(model).train()(X.clone())[1] is not None
    reference = _mixed()
    torch.testing.assert_close(model(X.clone(), scale=3.0)[0], reference(X.clone(), scale=3.0)[0])
    assert str(__import__("inspect").signature(model.forward)) == str(__import__("inspect").signature(reference.forward))


def test_every_new_parameter_learns() -> None:
    model = _mixed(True)
    done = swap_(model, {nn.ReLU: AReLU}, example=X)
    main, aux = model(X.clone())
    (main.square().sum() + aux.square().sum()).backward()
    parameters = dict(model.named_parameters())
    assert len(done.new_keys) == 9 * 4
    assert all(parameters[k].grad is not None for k in done.new_keys)


def test_copies_and_pickles_stay_swapped_and_can_be_restored() -> None:
    model = _mixed()
    old = _out(model)
    swap_(model, {nn.ReLU: lambda: AReLU(d=0.3)}, example=X)
    expected = _out(model)
    assert not torch.allclose(old, expected)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for other in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
        assert torch.equal(_out(other), expected)
        assert other.forward.owner is other
        restore_(other)
        assert torch.equal(_out(other), old)
    assert torch.equal(_out(model), expected)
    fresh = _mixed()
    swap_(fresh, {nn.ReLU: lambda: AReLU(d=0.3)}, example=X)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(_out(fresh), expected)


def test_a_fresh_process_does_not_get_the_old_forward_back(tmp_path: Path) -> None:
    model = _mixed()
    old = _out(model)
    swap_(model, {nn.ReLU: lambda: AReLU(d=0.3)}, example=X)
    torch.save((model, X, _out(model)), tmp_path / "model.pt")
    code = (
        "import sys, torch; sys.path.insert(0, sys.argv[2]); "
        "m, x, y = torch.load(sys.argv[1], weights_only=False); print(torch.equal(m(x.clone())[0], y))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model.pt"), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.strip() == "True", done.stderr
    assert not torch.allclose(old, _out(model))


def test_another_source_refuses_to_load() -> None:
    model = _mixed()
    swap_(model, {nn.ReLU: AReLU}, example=X)
    object.__setattr__(model.forward.recipe, "digest", "another")
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    with pytest.raises(SwapError, match="not the one that this model was swapped with"):
        torch.load(buffer, weights_only=False)


def test_compile_and_export() -> None:
    model = _mixed()
    swap_(model, {nn.ReLU: AReLU}, example=X)
    expected = _out(model)
    torch.compiler.reset()
    try:
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(X.clone())[0], expected)
    finally:
        torch.compiler.reset()
    torch.testing.assert_close(torch.export.export(model, (X,)).module()(X.clone())[0], expected)


def test_parallel_and_checkpointing(tmp_path: Path) -> None:
    model = _mixed(True)
    swap_(model, {nn.ReLU: AReLU}, example=X)
    sum(o.sum() for o in checkpoint(model, X.clone(), use_reentrant=False)).backward()
    once = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    sum(o.sum() for o in model(X.clone())).backward()
    for p, g in zip(model.parameters(), once, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-3, atol=1e-4)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(model)
        sum(o.sum() for o in parallel(X.clone())).backward()
        with pytest.raises(SwapError, match="wrapped"):
            plan(parallel, {nn.ReLU: AReLU}, example=X)
    finally:
        torch.distributed.destroy_process_group()


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def _inner(self, x: Tensor) -> Tensor:
        return F.relu(self.linear(x))

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self._inner, x, use_reentrant=False)


def test_a_site_inside_a_checkpoint() -> None:
    model = Checkpointed()
    found = plan(model, {nn.ReLU: AReLU}, example=torch.randn(2, 3))
    assert [s.kind for s in found] == ["function"]
    swap_(model, found)
    model(torch.randn(2, 3, requires_grad=True)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


class Decorated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    @torch.autocast("cpu", enabled=False)
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.act(x) - 0.5) + F.relu(x)


def test_what_cannot_be_redirected_is_intercepted() -> None:
    model, x = Decorated(), torch.randn(4, 3)
    expected = model(x)
    found = plan(model, {nn.ReLU: AReLU}, example=x)
    assert [s.kind for s in found] == ["intercepted"] * 3
    assert "intercepted" in str(found)
    swap_(model, found)
    torch.testing.assert_close(model(x), expected)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for other in (model, copy.deepcopy(model), torch.load(buffer, weights_only=False)):
        other.zero_grad()
        other(x).sum().backward()
        assert [p.grad is not None for p in other.parameters()] == [True] * 12
    restore_(model)
    assert torch.equal(model(x), expected)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        act = nn.ReLU()
        self.first = nn.Sequential(nn.Linear(3, 4), act, nn.Linear(4, 4), act)
        self.acts = nn.ModuleList([act, nn.ReLU()])
        self.again = self.first[2]

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.acts[1](self.acts[0](self.again(x)))


@pytest.mark.parametrize(("parameters", "sets"), [("site", 4), ("module", 2), ("model", 1)])
def test_tied_modules_and_sharing(parameters: Any, sets: int) -> None:
    model, x = Tied(), torch.randn(2, 3)
    expected = model(x)
    found = plan(model, {nn.ReLU: AReLU}, example=x, parameters=parameters)
    assert [s.name for s in found] == ["first.1", "first.3", "acts.0", "acts.1"]
    swap_(model, found)
    assert len({id(m) for m in model.modules() if isinstance(m, AReLU)}) == sets
    torch.testing.assert_close(model(x), expected)
    restore_(model)
    assert model.first[1] is model.acts[0]


def test_sharing_by_module_covers_calls() -> None:
    model = _mixed()
    swap_(model, {nn.ReLU: AReLU}, example=X, parameters="module", include="act*")
    assert isinstance(model.act, AReLU)


def test_include_exclude_and_a_module_of_which_one_call_stays() -> None:
    model = _mixed()
    found = plan(
        model, {nn.ReLU: AReLU}, example=X, exclude=["act:2", lambda s: s.kind == "method"], forms=("module", "method")
    )
    assert [s.name for s in found] == ["act:1", "alone"]
    expected = _out(model)
    swap_(model, found)
    torch.testing.assert_close(_out(model), expected)
    assert [type(m) for m in model.act] == [AReLU, nn.ReLU]
    assert [s.name for s in plan(_mixed(), {nn.ReLU: AReLU}, example=X, include="al*")] == ["alone"]


def test_particular_keys_overrule_the_class() -> None:
    found = plan(_mixed(), {nn.ReLU: AReLU, F.relu: PReLU, torch.Tensor.relu: "swish"}, example=X)
    assert [s.becomes.partition("(")[0] for s in found][:5] == ["AReLU", "AReLU", "PReLU", "PReLU", "Swish"]
    assert [s.kind for s in plan(_mixed(), {F.relu: AReLU}, example=X)] == ["function"] * 3


def test_swapping_twice() -> None:
    model = _mixed()
    expected = _out(model)
    swap_(model, {nn.ReLU: AReLU}, example=X)
    with pytest.raises(SwapError, match="Nothing would change"):
        swap_(model, {nn.ReLU: AReLU}, example=X)
    assert len(swap_(model, {AReLU: PReLU.zero}, example=X)) == 9
    torch.testing.assert_close(_out(model), expected)
    assert not [m for m in model.modules() if isinstance(m, AReLU)]
    swap_(model, {nn.Sigmoid: pliant.ASigmoid}, example=X, gates=True)
    torch.testing.assert_close(_out(model), expected)
    restore_(model)
    assert torch.equal(_out(model), expected)


@pytest.mark.parametrize("activation", ["relu", "gelu", F.relu, nn.ReLU()])
def test_the_fused_encoder_does_not_bypass_the_swap(activation: Any) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, activation=activation, batch_first=True).eval()
    x = torch.randn(2, 3, 8)
    with torch.no_grad():
        expected = layer(x)
        swap_(layer, {nn.ReLU: lambda: AReLU(d=5.0), nn.GELU: lambda: AReLU(d=5.0)}, example=x)
        assert not torch.allclose(layer(x), expected, atol=1e-2)
        restore_(layer)
        assert torch.equal(layer(x), expected)


def test_per_channel_follows_the_layer_before() -> None:
    model = nn.Sequential(nn.Conv1d(3, 5, 1), nn.ReLU(), nn.Linear(7, 6), nn.ReLU())
    found = plan(model, {nn.ReLU: AReLU}, example=torch.randn(2, 3, 7), per_channel=True)
    assert [(s.channels, s.channel_dim) for s in found] == [(5, 1), (6, -1)]
    swap_(model, found)
    assert [m.a.shape for m in (model[1], model[3])] == [(5,), (6,)]
    model(torch.randn(2, 3, 7))


def test_new_modules_inherit_dtype_and_mode() -> None:
    model = _mixed().double()
    model.train()
    swap_(model, {nn.ReLU: AReLU}, example=X.double())
    new = [m for m in model.modules() if isinstance(m, AReLU)]
    assert {m.a.dtype for m in new} == {torch.float64}
    assert all(m.training for m in new)


def test_an_activation_without_weights_around_it_takes_the_dtype_of_the_model() -> None:
    class Wrapped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x)

    model = nn.Sequential(nn.Linear(2, 2), Wrapped()).double()
    swap_(model, {nn.ReLU: AReLU}, example=torch.randn(1, 2).double())
    assert model[1].activation_sites.relu.a.dtype == torch.float64


@pytest.mark.parametrize(
    ("mapping", "options", "words"),
    [
        ({}, {}, "empty"),
        ({nn.ELU: AReLU}, {}, "Nothing would change"),
        ({len: AReLU}, {}, "a key must be"),
        ({"nonsense": AReLU}, {}, "known by name"),
        ({nn.ReLU: 3}, {}, "no module"),
        ({nn.ReLU: AReLU}, {"example": torch.zeros(3)}, "cannot be run in eval mode"),
        ({nn.ReLU: AReLU}, {"parameters": "all"}, "parameters='all'"),
        ({nn.ReLU: Swish}, {"preserve": True}, "cannot compute"),
    ],
)
def test_errors(mapping: Any, options: dict[str, Any], words: str) -> None:
    model = _mixed()
    with pytest.raises(SwapError, match=words):
        swap_(model, mapping, **{"example": X, **options})
    assert "forward" not in vars(model)


def test_refusals() -> None:
    with pytest.raises(SwapError, match="without example"):
        swap_(_mixed(), {nn.ReLU: AReLU})
    with pytest.raises(SwapError, match="another model"):
        swap_(_mixed(), plan(_mixed(), {nn.ReLU: AReLU}, example=X))
    model = _mixed()
    found = plan(model, {nn.ReLU: AReLU}, example=X)
    swap_(model, found)
    with pytest.raises(SwapError, match="no longer"):
        swap_(model, found)
    with pytest.raises(SwapError, match="compiled"):
        plan(torch.compile(_mixed()), {nn.ReLU: AReLU}, example=X)


def test_an_optimizer_made_before() -> None:
    model = _mixed(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.3)
    before = [id(p) for p in optimizer.param_groups[0]["params"]]
    done = swap_(model, {nn.ReLU: AReLU}, example=X)
    assert pliant.update_optimizer(optimizer, model) == len(done.new_keys)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == before
    assert (optimizer.param_groups[1]["weight_decay"], optimizer.param_groups[1]["lr"]) == (0.0, 0.1)
    assert pliant.update_optimizer(optimizer, model) == 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        *(("relu", c) for c in (AReLU, pliant.AffineReLU, PReLU, pliant.FReLU, pliant.SReLU)),
        ("leakyrelu[negative_slope=0.2]", PReLU),
        ("leakyrelu[negative_slope=0.2]", AReLU),
        ("elu", pliant.PELU),
        ("elu[alpha=0.5]", pliant.SReLU),
        ("celu[alpha=0.5]", pliant.PELU),
        ("selu", pliant.SReLU),
        ("silu", Swish),
        *((o, c) for o in ("sigmoid", "tanh") for c in (pliant.ASigmoid, pliant.ATanh)),
        ("identity", pliant.DSReLU),
    ],
)
def test_preserving(old: str, new: Any) -> None:
    x = torch.linspace(-6, 6, 101)
    torch.testing.assert_close(preserving(old, new)(x), pliant.create(old)(x), rtol=1e-5, atol=1e-6)


def test_preserving_takes_values_over_and_says_what_cannot_be() -> None:
    old = nn.PReLU(3)
    with torch.no_grad():
        old.weight.copy_(torch.tensor([0.1, 0.2, 0.3]))
    x = torch.randn(2, 3, 4)
    torch.testing.assert_close(preserving(old, AReLU)(x), old(x))
    with pytest.raises(SwapError, match=r"PELU cannot compute ReLU\(\).*AReLU.*Transition"):
        preserving("relu", pliant.PELU)


def test_transition_goes_from_old_to_new_and_ends() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    x = torch.randn(5, 3)
    old = model(x)
    swap_(model, {nn.ReLU: Swish}, example=x, transition=0.5)
    assert torch.equal(model(x), old)
    clock = Clock(model, 4)
    clock.step()
    new = model[1].new(model[0](x))
    torch.testing.assert_close(model(x), (old + new) / 2)
    with pytest.raises(SwapError, match=r"weight 0\.5"):
        pliant.finish_(model)
    clock.step()
    torch.testing.assert_close(model(x), new)
    assert pliant.finish_(model) == 1
    assert isinstance(model[1], Swish)
    assert torch.equal(model(x), new)
    restore_(model)
    assert torch.equal(model(x), old)
    with pytest.raises(DomainError):
        Transition(nn.ReLU(), AReLU(), until=0)


VISION = {
    "resnet18": (17, 64), "resnet50": (49, 64), "googlenet": (61, 64), "densenet121": (121, 64), "vgg16_bn": (15, 32),
    "mobilenet_v3_large": (None, 32), "efficientnet_b0": (49, 32), "convnext_tiny": (18, 32), "regnet_y_400mf": (None, 32),
    "swin_t": (12, 32), "inception_v3": (96, 299),
}  # fmt: skip


SLOW = ("inception_v3", "efficientnet_b0", "regnet_y_400mf", "swin_t", "mobilenet_v3_large", "convnext_tiny", "vgg16_bn")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in VISION])
def test_torchvision(name: str) -> None:
    models = pytest.importorskip("torchvision.models")
    expected_sites, size = VISION[name]
    torch.manual_seed(0)
    extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = getattr(models, name)(weights=None, **extra).eval()
    x = torch.randn(1, 3, size, size)
    mapping = {
        nn.ReLU: lambda: preserving("relu", AReLU),
        nn.SiLU: lambda: preserving("silu", Swish),
        nn.GELU: lambda site: site.old_module(),
    }
    with torch.no_grad():
        expected, keys = model(x), set(model.state_dict())
        found = plan(model, mapping, example=x)
        assert expected_sites in (None, len(found))
        swap_(model, found)
        torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-6)
        assert keys <= set(model.state_dict())
        restore_(model)
        assert torch.equal(model(x), expected)
    assert set(model.state_dict()) == keys


def test_the_count_in_eval_mode_is_that_of_the_papers_model() -> None:
    models = pytest.importorskip("torchvision.models")
    model = models.googlenet(weights=None, init_weights=False)
    found = plan(model, {nn.ReLU: AReLU}, example=torch.randn(1, 3, 64, 64))
    assert sum("eval" in s.modes for s in found) == 57
    assert sum(s.modes == {"train"} for s in found) == 4


class NormAct(nn.BatchNorm2d):
    def __init__(self) -> None:
        super().__init__(3)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


def test_an_activation_inside_a_batch_norm() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), NormAct())
    found = plan(model, {nn.ReLU: AReLU}, example=X)
    assert [(s.name, s.kind, s.calls, s.modes) for s in found] == [("1.act", "module", 1, {"train", "eval"})]
    swap_(model, found)


class Steps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(3)
        for step in x.unbind(1):
            h = F.relu(self.linear(step) + h)
        return h


def test_a_line_that_runs_more_often_than_planned() -> None:
    model = Steps()
    short, long = torch.randn(2, 3, 3), torch.randn(2, 5, 3)
    expected = model(long)
    swap_(model, {nn.ReLU: AReLU}, example=short)
    with pytest.raises(SwapError, match="4th time"):
        model(long)
    restore_(model)
    swap_(model, {nn.ReLU: AReLU}, example=short, parameters="module")
    torch.testing.assert_close(model(long), expected)


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.conv(self.act(x)) + x


def test_a_result_that_is_read_from_the_input() -> None:
    model = Skip()
    expected = model(X)
    swap_(model, {nn.ReLU: AReLU}, example=X)
    torch.testing.assert_close(model(X), expected)
    model(X).sum().backward()
