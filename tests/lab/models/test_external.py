"""Networks of torchvision and timm by name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pliant import AReLU, PliantError
from pliant.errors import DomainError, MissingExtraError, UnknownNameError
from pliant.lab import Study, models, run
from pliant.lab.network import ModelError, construct
from pliant.lab.study import StudyError, plan


def make(
    name: str, shape: tuple[int, ...] = (3, 32, 32), classes: int = 7, **options: Any
) -> tuple[nn.Module, list[nn.Module]]:
    return construct(models.find(name), AReLU, torch.randn(2, *shape), classes, options, 0, name)


@pytest.mark.parametrize(
    ("name", "shape", "options", "sites"),
    [
        ("torchvision:resnet18", (3, 32, 32), {}, 17),
        ("torchvision:googlenet", (3, 32, 32), {}, 57),
        ("torchvision:mobilenet_v3_small", (3, 32, 32), {"replace": "relu,hardswish"}, 33),
        ("torchvision:vit_b_32", (3, 64, 64), {"replace": "gelu"}, 12),
        ("timm:resnet18", (1, 28, 28), {"drop_rate": 0.1}, 17),
        ("timm:vit_tiny_patch16_224", (3, 32, 32), {"replace": "gelu", "depth": 2}, 2),
    ],
)
def test_every_site_is_exchanged_for_one_that_the_lab_knows(
    name: str, shape: tuple[int, ...], options: dict[str, Any], sites: int
) -> None:
    if name.startswith("timm"):
        pytest.importorskip("timm")
    network, made = make(name, shape, 5, **options)
    assert len(made) == len({id(m) for m in made}) == sites
    assert {id(m) for m in made} == {id(m) for m in network.modules() if isinstance(m, AReLU)}
    hits = dict.fromkeys(map(id, made), 0)
    for module in made:
        module.register_forward_hook(lambda m, *_: hits.__setitem__(id(m), hits[id(m)] + 1))
    out = network.train()(torch.randn(4, *shape))
    assert out.shape == (4, 5)
    assert set(hits.values()) == {1}
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for m in made for p in m.parameters())
    text = network.activation_plan
    assert isinstance(text, str)
    assert f"{sites} sites change" in text
    assert "AReLU" in text


def test_weights_are_those_of_the_seed_whatever_the_activation() -> None:
    x = torch.randn(2, 3, 32, 32)
    one, _ = construct(models.find("torchvision:resnet18"), nn.ReLU, x, 7, {}, 3, "r")
    other, _ = construct(models.find("torchvision:resnet18"), AReLU, x, 7, {}, 3, "r")
    theirs = other.state_dict()
    assert all(torch.equal(v, theirs[k]) for k, v in one.state_dict().items())


def test_with_the_activation_it_had_the_network_computes_what_it_did() -> None:
    import torchvision

    x = torch.randn(2, 3, 32, 32)
    ours, _ = construct(models.find("torchvision:resnet18"), nn.ReLU, x, 7, {}, 3, "r")
    theirs = torchvision.models.resnet18(num_classes=7)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize(
    ("name", "shape", "options", "error", "message"),
    [
        ("torchvision:resnet19", (3, 32, 32), {}, UnknownNameError, "no classifier named 'resnet19'. Did you mean resnet18"),
        ("torchvsion:resnet18", (3, 32, 32), {}, UnknownNameError, "Did you mean 'torchvision'"),
        ("torchvision:resnet18", (1, 28, 28), {}, DomainError, "3 channels, but the data have 1.*timm:resnet18"),
        ("torchvision:resnet18", (30,), {}, DomainError, r"\(channels, height, width\)"),
        ("torchvision:resnet18", (3, 32, 32), {"replace": "rleu"}, UnknownNameError, "Did you mean 'relu'"),
        ("torchvision:resnet18", (3, 32, 32), {"replace": "tanh"}, DomainError, 'calls relu, .*replace="relu"'),
        ("torchvision:resnet18", (3, 32, 32), {"depth": 3}, ModelError, "unexpected keyword argument 'depth'"),
        (
            "torchvision:mobilenet_v3_small",
            (3, 32, 32),
            {},
            DomainError,
            'calls relu and hardswish, .*replace="relu,hardswish"',
        ),
        ("torchvision:alexnet", (3, 32, 32), {}, DomainError, r"cannot be used for examples of shape \(3, 32, 32\).*too small"),
    ],
)
def test_mistakes(name: str, shape: tuple[int, ...], options: dict[str, Any], error: type[PliantError], message: str) -> None:
    with pytest.raises(error, match=message):
        make(name, shape, **options)


def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match="pip install timm"):
        models.find("timm:resnet18")


def images(model: str, **given: Any) -> Study:
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    x = rng.normal(size=(40, 3, 32, 32)).astype(np.float32) + 0.5 * y[:, None, None, None]
    return Study(
        name="images",
        data=(x, y),
        model={"name": model, **given},
        activations=["relu", "arelu"],
        folds=2,
        repeats=1,
        epochs=1,
        batch_size=16,
    )


def test_a_study_of_a_network_by_name(tmp_path: Path) -> None:
    study = images("torchvision:resnet18")
    spec = plan(study)[0]
    assert spec.model.options == {"replace": "auto"}
    assert spec.sources["network"].startswith("torchvision 0.")
    assert "+" not in spec.sources["network"]
    result = run(study, store=tmp_path)
    assert [row["outcome"] for row in result.rows] == ["done"] * 4
    assert {row["activation"]: row["activation_parameters"] for row in result.rows} == {"relu": 0, "arelu": 4 * 17}


def test_a_study_of_a_network_of_the_papers(tmp_path: Path) -> None:
    study = images("alexnet", options={"init": "kaiming"})
    assert plan(study)[0].model.options["variant"] == "code"
    assert [row["outcome"] for row in run(study, store=tmp_path).rows] == ["done"] * 4
    with pytest.raises(StudyError, match="Did you mean variant"):
        plan(images("alexnet", options={"varaint": "fig5"}))
    with pytest.raises(UnknownNameError, match="no variant of this network named 'fig6'"):
        run(images("alexnet", options={"variant": "fig6"}), store=tmp_path)
