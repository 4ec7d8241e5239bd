"""Swap, train with a clock and an observer, save, fold: the road from somebody else's model to production, in one go."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import pliant

torchvision = pytest.importorskip("torchvision")


def test_from_somebody_elses_model_to_production() -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None, num_classes=3)
    keys, x, y = list(model.state_dict()), torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])
    pliant.swap_(model, pliant.plan(model, {nn.ReLU: lambda: pliant.DSReLU.figure()}, example=x))
    assert [k for k in model.state_dict() if k in keys] == keys
    clock = pliant.Clock(model, total_steps=4)
    assert len(clock) == 17
    optimizer = torch.optim.SGD(pliant.param_groups(model, 1e-4), lr=1e-3)
    with pliant.observe(model, every=1, window=1) as observer:
        for _ in range(4):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            clock.step()
            observer.step()
    slopes = [r["value"] for r in observer.rows if r["quantity"] == "coefficient.slope"]
    assert len({r["site"] for r in observer.rows}) == 17
    assert max(slopes) > 2
    assert min(slopes) < 1.5, "the clock moved what the observer saw"
    saved = copy.deepcopy(model.state_dict())
    assert saved["relu.progress"].tolist()[0] == 4
    folded = pliant.fold(model, example=x, absorb="full")
    assert not any(isinstance(m, pliant.Activation) for m in folded.modules())
    assert folded.fold_report.relative_error <= 1e-5
    pliant.restore_(model)
    assert list(model.state_dict()) == keys
