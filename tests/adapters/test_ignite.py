"""The Ignite handler with a real engine."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pliant

engine = pytest.importorskip("ignite.engine")
from pliant.adapters.ignite import PliantHandler  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:::ignite")


@pytest.mark.parametrize("accumulation", [1, 5])
def test_steps_and_observes(accumulation: int) -> None:
    model = nn.Sequential(nn.Linear(4, 8), pliant.DSReLU(pliant.Scheduled(pliant.Linear(2.0, 1.0))), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    trainer = engine.create_supervised_trainer(
        model, optimizer, nn.functional.mse_loss, gradient_accumulation_steps=accumulation
    )
    handler = PliantHandler(model, accumulation=accumulation, observe={"every": 2})
    handler.attach(trainer)
    trainer.run([(torch.randn(4, 4), torch.randn(4, 1)) for _ in range(10)], max_epochs=2)
    total = 20 // accumulation
    assert model[1].now() == (total, total, total // 2)
    assert model[1].slope.item() == 1.0
    assert {r["step"] for r in handler.observer.rows} == set(range(0, total + 1, 2))
    assert "gradient" in {r["quantity"] for r in handler.observer.rows}
    assert not model[1]._forward_hooks
