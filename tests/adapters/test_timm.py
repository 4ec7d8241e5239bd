"""Our activations in timm's models, by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pliant

timm = pytest.importorskip("timm")
from pliant.adapters.timm import register  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:::timm")


def test_a_model_takes_them_by_name() -> None:
    register()
    model = timm.create_model("resnet10t", act_layer="pliant.arelu", num_classes=3)
    ours = [m for m in model.modules() if isinstance(m, pliant.AReLU)]
    assert len(ours) == 8 + 3
    assert not any(isinstance(m, nn.ReLU) for m in model.modules())
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(p.grad is not None for m in ours for p in m.parameters())


def test_names_and_options() -> None:
    assert register("srelu[beta=0.1]", "arelu[prelu]") == ["pliant.srelu[beta=0.1]", "pliant.arelu[prelu]"]
    act = timm.layers.create_act_layer("pliant.srelu[beta=0.1]", inplace=True)
    assert isinstance(act, pliant.SReLU)
    assert act.beta == 0.1
    assert timm.layers.get_act_layer("prelu") is not None
    with pytest.raises(pliant.UnknownNameError):
        register("nothing")
