from __future__ import annotations

import pytest
import torch
from torch import nn

import pliant
from pliant.errors import DomainError, UnknownNameError
from pliant.explore.training import GRID, TASKS, Plan, Race


def race(first=nn.GELU, second=nn.ReLU, **plan) -> Race:
    return Race(Plan(**{"steps": 40, **plan}), {"first": first, "second": second})


def weights(r: Race, which: int) -> list[torch.Tensor]:
    return [
        p.detach().clone() for m in r.contestants[which].network.modules() if isinstance(m, nn.Linear) for p in m.parameters()
    ]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("batch", [0, 32])
def test_training_is_deterministic_and_learns(task: str, batch: int) -> None:
    one, other = (race(task=task, batch=batch, steps=60) for _ in range(2))
    one.advance(60)
    torch.rand(5)  # nobody else's random numbers matter
    for _ in range(12):
        other.advance(5)
    assert one.contestants[0].points[-1] == other.contestants[0].points[-1], "in one go or in many"
    first, last = one.contestants[0].points[0], one.contestants[0].points[-1]
    assert last.train_loss < first.train_loss / 2
    assert last.test_accuracy > 0.8
    assert one.finished
    assert one.t == 1.0


def test_both_start_from_the_same_weights_whatever_the_activation() -> None:
    r = race(first=pliant.AReLU, second=nn.Tanh)
    assert all(a.equal(b) for a, b in zip(weights(r, 0), weights(r, 1), strict=True))
    other = race(seed=1)
    assert not weights(other, 0)[0].equal(weights(r, 0)[0])


def test_the_same_activation_twice_is_the_same_training() -> None:
    """Same weights, same batches, same order: nothing but the activation differs."""
    r = race(first=nn.ReLU, second=nn.ReLU, batch=7)
    r.advance(30)
    assert r.contestants[0].points == r.contestants[1].points


def test_the_randomness_of_the_caller_stays_as_it_was() -> None:
    before = torch.get_rng_state()
    race().advance(3)
    assert torch.get_rng_state().equal(before)


def test_batches_go_through_all_examples() -> None:
    r = race(batch=32)
    size = len(r.task.x_train)
    seen = torch.cat([r._next() for _ in range(-(-size // 32))])
    assert seen.sort().values.equal(torch.arange(size))
    full = race(batch=0)
    assert len(full._next()) == size


def test_scheduled_coefficients_follow_the_clock_and_learned_ones_learn() -> None:
    r = race(first=pliant.DSReLU, second=lambda: pliant.SReLU(beta=pliant.Learned(0.25)))
    r.advance(10)
    r.advance(30)
    schedule = pliant.DSReLU().scheduled["slope"].schedule
    path = r.contestants[0].coefficients["slope"]
    assert [s for s, _ in path] == [0, 10, 40]
    assert [v for _, v in path] == pytest.approx([schedule(0.0), schedule(0.25), schedule(1.0)])
    moved = r.contestants[1].coefficients
    assert set(moved) == {"beta, layer 1", "beta, layer 2"}, "what is fixed is not shown as moving"
    assert moved["beta, layer 1"][0][1] == pytest.approx(0.25)
    assert moved["beta, layer 1"][-1][1] != pytest.approx(0.25, abs=1e-4)


def test_the_shapes_are_what_the_layers_compute() -> None:
    r = race(first=lambda: pliant.SReLU(beta=pliant.Learned(0.25)), second=pliant.DSReLU)
    r.advance(20)
    layer = r.contestants[0].network.act2
    curve = r.contestants[0].shapes()[1]
    x = torch.tensor(curve.x, dtype=torch.float64)
    assert torch.tensor(curve.y, dtype=torch.float64).allclose(layer(x).detach(), atol=1e-6)
    assert curve != r.contestants[0].shapes()[0]
    assert r.contestants[1].shapes() == [], "what follows the clock is shown as the function itself"


def test_divergence_is_told_and_ends_one_training_only() -> None:
    class Explodes(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.exp(torch.exp(x.abs() * 100))

    r = race(first=Explodes)
    assert r.contestants[0].diverged == 0
    r.advance(5)
    assert r.contestants[1].points[-1].step == 5
    assert not r.finished


def test_the_decision_and_its_boundary() -> None:
    r = race(steps=200)
    r.advance(200)
    grid = r.decision(0)
    assert grid is not None
    assert (len(grid[0]), len(grid)) == GRID
    assert all(0 <= p <= 1 for row in grid for p in row)
    network = r.contestants[0].network
    points = torch.tensor(r.boundary(0))
    assert len(points) > 20
    p = torch.sigmoid(network(points)).squeeze(1).detach()
    assert float((p - 0.5).abs().median()) < 0.1, "where it is drawn the network cannot decide"
    assert r.boundary(0) != r.boundary(1)
    assert race(task="WDBC").decision() is None
    assert race(task="WDBC").boundary() == []


def test_the_test_part_has_no_say_in_the_scaling() -> None:
    for make in TASKS.values():
        task = make(3)
        assert task.x_train.mean(0).abs().max() < 1e-5
        assert (task.x_train.std(0, correction=0) - 1).abs().max() < 1e-4
        assert task.x_test.mean(0).abs().max() > 1e-3
        assert set(task.y_train.tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"lr": 0.0}, "lr must be"),
        ({"lr": float("nan")}, "lr must be"),
        ({"steps": 0}, "steps must be"),
        ({"batch": -1}, "batch"),
        ({"seed": 0.5}, "seed"),
    ],
)
def test_mistakes_are_said(plan: dict, said: str) -> None:
    with pytest.raises(DomainError, match=said):
        Plan(**plan)


def test_unknown_task() -> None:
    with pytest.raises(UnknownNameError, match="two moons"):
        Plan(task="three moons")
