"""How far weights move: by hand, and in trainings of every kind."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pliant.lab import curves
from pliant.lab.increments import SINGLE, Increments, mean_log, weights


def test_by_hand() -> None:
    network = nn.Sequential(nn.Linear(2, 2, bias=True), nn.Conv2d(1, 1, 2))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
    moved = Increments(weights(network))
    with torch.no_grad():
        network[0].weight.add_(torch.tensor([[0.0, 0.3], [0.4, 0.0]]))
        network[0].bias.add_(100.0)
    (found,) = moved.read()
    # 0.5 of 5; biases are no weight tensors; only the first, fifth and ninth tensor show single weights.
    assert found == {
        "increments": {"0.weight": pytest.approx(0.1), "1.weight": 0.0},
        "single_weights": {"0.weight": pytest.approx([0.0, 0.3, 0.4, 0.0])},
    }
    # From then on, and not from the beginning.
    assert moved.read()[0]["increments"] == {"0.weight": 0.0, "1.weight": 0.0}


def test_which_weights_are_shown() -> None:
    network = nn.Sequential(*(nn.Linear(3, 5) for _ in range(10)))
    with torch.no_grad():
        moved = Increments(weights(network))
        for layer in network:
            layer.weight.add_(torch.arange(15.0).view(5, 3))
    (found,) = moved.read()
    assert list(found["increments"]) == [f"{i}.weight" for i in range(10)]
    assert list(found["single_weights"]) == ["0.weight", "4.weight", "8.weight"]
    assert all(values == pytest.approx([1.0, 5.0, 9.0, 13.0], abs=1e-5) for values in found["single_weights"].values())


def test_any_memory_format_and_several_networks_at_once() -> None:
    weight = torch.randn(2, 8, 3, 3, 3)
    one = Increments({"w": weight})
    other = Increments({"w": (last := weight.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3))})
    change = torch.randn(weight.shape)
    weight += change
    last += change
    assert last.stride() != weight.stride()
    found = one.read()
    assert found == other.read()
    assert len(found) == 2
    assert found[0] != found[1]


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_what_is_not_finite_is_none(broken: float) -> None:
    weight = torch.ones(1, 2, 2)
    moved = Increments({"w": weight})
    weight[0, 0, 0] = broken
    (found,) = moved.read()
    assert found["increments"] == {"w": None}
    assert found["single_weights"]["w"][0] is None


def test_a_tensor_that_was_zero_has_no_relative_increment() -> None:
    weight = torch.zeros(1, 2, 2)
    moved = Increments({"w": weight})
    weight += 1
    assert moved.read()[0]["increments"] == {"w": None}


def test_what_is_no_weight_or_does_not_learn_is_left_out() -> None:
    network = nn.Module()
    network.whole = nn.Parameter(torch.ones(2, 2, dtype=torch.int64), requires_grad=False)
    network.complex = nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))
    network.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)
    network.empty = nn.Parameter(torch.ones(0, 2))
    network.learns = nn.Parameter(torch.ones(2, 2))
    network.act = nn.PReLU()
    assert list(weights(network)) == ["learns"]
    assert list(Increments(weights(network)).read()[0]["increments"]) == ["learns"]


def test_a_network_without_weights() -> None:
    assert Increments(weights(nn.ReLU())).read() == []


def test_fewer_weights_than_are_shown() -> None:
    weight = torch.ones(1, 1, 2)
    moved = Increments({"w": weight})
    weight[0, 0, 1] = 3.0
    assert moved.read()[0]["single_weights"]["w"] == [0.0, 0.0, 2.0, 2.0]
    assert SINGLE == 4


def test_the_mean_of_logarithms() -> None:
    assert mean_log({"a": 0.1, "b": 0.001}) == pytest.approx(math.log(0.01))
    assert mean_log({"a": 0.1, "b": None}) is None
    # What gets no gradient stands still, and says nothing of the others.
    assert mean_log({"a": 0.1, "b": 0.0}) == pytest.approx(math.log(0.1))
    assert mean_log({"b": 0.0}) is None
    assert mean_log({}) is None


def test_early_and_late() -> None:
    course = {"log_increment": [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0, -9.0]}
    assert curves.increments(course) == {"log_increment_early": -1.5, "log_increment_late": -8.0}
    assert curves.increments({"log_increment": [-1.0]}) == {"log_increment_early": -1.0, "log_increment_late": -1.0}
    assert curves.increments({"log_increment": [None, -1.0]}) == {"log_increment_early": None, "log_increment_late": -1.0}
    assert curves.increments({}) == {"log_increment_early": None, "log_increment_late": None}
