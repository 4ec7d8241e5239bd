"""Every optimizer against its update rule, written out in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pliant import PReLU
from pliant.lab import optimizers
from pliant.lab.recipe import Optimizer, Schedule

STEPS = 6


def gradients() -> np.ndarray:
    # Tiny ones among them: there an epsilon in the wrong place shows.
    scale = np.array([1.0, 1e-3, 1e-7, 0.0])
    return np.random.default_rng(0).normal(size=(STEPS, 4)) * scale


def trained(wanted: Optimizer, *, resume_after: int | None = None, **options: object) -> np.ndarray:
    network = nn.Linear(4, 1, bias=False, dtype=torch.float64)
    nn.init.ones_(network.weight)
    made = optimizers.make(network, wanted.resolved(), [])
    for t, g in enumerate(gradients()):
        if t == resume_after:
            state = {i: {k: v.clone() for k, v in s.items()} for i, s in made.state_dict()["state"].items()}
            made = optimizers.make(network, wanted.resolved(), [])
            optimizers.restore(made, state)
        network.weight.grad = torch.tensor(g[None])
        made.step()
    return network.weight.detach().numpy()[0]


def momentum(lr=1e-3, m=0.9):
    w, buffer = np.ones(4), np.zeros(4)
    for g in gradients():
        buffer = m * buffer + g
        w = w - lr * buffer
    return w


def adagrad(lr, accumulator, eps):
    w, total = np.ones(4), np.full(4, accumulator)
    for g in gradients():
        total = total + g**2
        w = w - lr * g / (np.sqrt(total) + eps)
    return w


def adadelta(lr, rho, eps):
    w, seen, moved = np.ones(4), np.zeros(4), np.zeros(4)
    for g in gradients():
        seen = rho * seen + (1 - rho) * g**2
        update = np.sqrt(moved + eps) / np.sqrt(seen + eps) * g
        moved = rho * moved + (1 - rho) * update**2
        w = w - lr * update
    return w


def adam(hat: bool, lr=1e-3, b1=0.9, b2=0.999, eps=1e-8):
    w, m, v = np.ones(4), np.zeros(4), np.zeros(4)
    for t, g in enumerate(gradients(), start=1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        if hat:
            w = w - lr * np.sqrt(1 - b2**t) / (1 - b1**t) * m / (np.sqrt(v) + eps)
        else:
            w = w - lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
    return w


RULES = {
    ("sgd", "torch"): lambda: momentum(m=0.0),
    ("sgd", "tf1"): lambda: momentum(m=0.0),
    ("momentum", "torch"): momentum,
    ("momentum", "tf1"): momentum,
    ("adagrad", "torch"): lambda: adagrad(1e-2, 0.0, 1e-10),
    ("adagrad", "tf1"): lambda: adagrad(1e-3, 0.1, 0.0),
    ("adadelta", "torch"): lambda: adadelta(1.0, 0.9, 1e-6),
    ("adadelta", "tf1"): lambda: adadelta(1e-3, 0.95, 1e-8),
    ("adam", "torch"): lambda: adam(hat=False),
    ("adam", "tf1"): lambda: adam(hat=True),
}


@pytest.mark.parametrize(("name", "constants"), RULES)
@pytest.mark.parametrize("resume_after", [None, 3])
def test_each_rule(name: str, constants: str, resume_after: int | None) -> None:
    found = trained(Optimizer(name=name, constants=constants), resume_after=resume_after)
    np.testing.assert_allclose(found, RULES[name, constants](), rtol=1e-10, atol=0)


def test_the_place_of_epsilon_matters() -> None:
    """Otherwise the test above could not tell the two forms of Adam apart."""
    assert np.abs(adam(hat=True) - adam(hat=False)).max() > 1e-4


def test_a_resumed_adam_of_tensorflow_has_the_same_bits() -> None:
    wanted = Optimizer(constants="tf1")
    assert np.array_equal(trained(wanted), trained(wanted, resume_after=3))


def test_the_rate_of_coefficients_follows_the_schedule_too() -> None:
    network = nn.Sequential(nn.Linear(2, 2), PReLU())
    wanted = Optimizer(name="adam", lr=0.1, activation_lr_multiplier=3.0, weight_decay=0.5).resolved()
    made = optimizers.make(network, wanted, [])
    optimizers.set_rate(made, wanted, Schedule(name="steps", factors=((2, 0.5),)), 2, 10)
    assert {g["name"]: (g["lr"], g["weight_decay"]) for g in made.param_groups} == {
        "weights": (0.05, 0.5),
        "activations": (pytest.approx(0.15), 0.0),
    }


def test_state_comes_back_in_the_memory_order_of_its_parameter() -> None:
    """Fused steps walk over memory; a state that lies there in another order would be mixed up."""
    network = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    wanted = Optimizer().resolved()

    def step(made: torch.optim.Optimizer) -> None:
        made.zero_grad()
        network(torch.arange(2 * 3 * 25.0).reshape(2, 3, 5, 5)).square().mean().backward()
        made.step()

    made = optimizers.make(network, wanted, [])
    step(made)
    weights = network.state_dict()
    kept = {k: v.clone() for k, v in weights.items()}
    state = {i: {k: v.clone().contiguous() for k, v in s.items()} for i, s in made.state_dict()["state"].items()}
    step(made)
    expected = network.weight.detach().clone()
    network.load_state_dict(kept)
    again = optimizers.make(network, wanted, [])
    optimizers.restore(again, state)
    step(again)
    assert torch.equal(network.weight, expected)
