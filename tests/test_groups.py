"""Parameter groups: coefficients apart, without decay, every parameter exactly once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pliant import PELU, AReLU, DomainError, DSReLU, Learned, SReLU, param_groups


def _model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), AReLU(channels=4), nn.Linear(4, 4), PELU(), nn.PReLU(), DSReLU(), nn.Linear(4, 1))


def _ids(group: dict[str, Any]) -> set[int]:
    return {id(p) for p in group["params"]}


def test_coefficients_are_apart_and_not_decayed() -> None:
    model = _model()
    weights, activations = param_groups(model, weight_decay=0.1)
    assert (weights["name"], activations["name"]) == ("weights", "activations")
    assert (weights["weight_decay"], activations["weight_decay"]) == (0.1, 0.0)
    assert _ids(activations) == {id(p) for i in (1, 3, 4) for p in model[i].parameters()}
    assert _ids(weights) | _ids(activations) == {id(p) for p in model.parameters()}
    assert not _ids(weights) & _ids(activations)
    assert "lr" not in weights


def test_order_is_that_of_the_model() -> None:
    model = _model()
    order = [id(p) for p in model.parameters()]
    for group in param_groups(model):
        positions = [order.index(id(p)) for p in group["params"]]
        assert positions == sorted(positions)


def test_learning_rates() -> None:
    weights, activations = param_groups(_model(), lr=0.01, lr_multiplier=0.1)
    assert (weights["lr"], activations["lr"]) == (0.01, pytest.approx(0.001))
    weights, activations = param_groups(_model(), lr=0.01)
    assert weights["lr"] == activations["lr"] == 0.01


def test_an_optimizer_takes_them_and_decay_spares_the_coefficients() -> None:
    model = _model()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(param_groups(model, weight_decay=0.5), lr=0.1)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        spared = name.split(".")[0] in "134"
        assert torch.equal(p, before[name]) is spared


def test_frozen_parameters_are_in_no_group() -> None:
    model = _model()
    for p in model[1].parameters():
        p.requires_grad_(False)
    model[0].weight.requires_grad_(False)
    groups = param_groups(model)
    found = set().union(*map(_ids, groups))
    assert found == {id(p) for p in model.parameters() if p.requires_grad}


def test_empty_groups_are_left_out() -> None:
    assert [g["name"] for g in param_groups(nn.Linear(2, 2))] == ["weights"]
    assert [g["name"] for g in param_groups(AReLU())] == ["activations"]
    assert [g["name"] for g in param_groups(nn.Sequential(nn.Linear(2, 2), SReLU()))] == ["weights"]
    assert param_groups(SReLU()) == []


def test_one_activation_at_many_places_is_in_once() -> None:
    act = SReLU(beta=Learned(0.25))
    model = nn.Sequential(nn.Linear(2, 2), act, nn.Linear(2, 2), act)
    _, activations = param_groups(model)
    assert [id(p) for p in activations["params"]] == [id(act.raw_beta)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weight_decay": -0.1}, "weight_decay=-0.1"),
        ({"weight_decay": float("nan")}, "weight_decay=nan"),
        ({"lr": -1.0}, "lr=-1.0"),
        ({"lr": 0.1, "lr_multiplier": -1.0}, "lr_multiplier=-1.0"),
        ({"lr_multiplier": 2.0}, "no lr to multiply"),
    ],
)
def test_errors(options: dict[str, float], words: str) -> None:
    with pytest.raises(DomainError) as error:
        param_groups(_model(), **options)
    assert words in str(error.value)
