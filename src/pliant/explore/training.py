"""A small network that trains before one's eyes, with the chosen activation and with another, from the same seeds.

Both networks start from the same weights and see the same batches in the same order; what differs is the activation alone.
The activation's learned coefficients are trained with the weights, its scheduled ones follow a :class:`pliant.Clock`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import sklearn.datasets
import torch
from torch import Tensor, nn

from pliant.activation import Activation
from pliant.clock import Clock
from pliant.coefficients import Learned, Scheduled
from pliant.errors import DomainError, unknown
from pliant.explore.state import Curve, curve_of
from pliant.groups import param_groups
from pliant.lab.datasets.scikit import WDBC
from pliant.lab.models.ffnn import ffnn

__all__ = ["TASKS", "Contestant", "Plan", "Point", "Race", "Task"]

GRID = (40, 30)
"""Cells of the map of a decision, along the first and the second feature."""


@dataclass(frozen=True, eq=False)
class Task:
    """A binary classification: float32 features (n, d) in the scale of the training part; float32 labels (n,), 0 or 1."""

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor

    @property
    def window(self) -> tuple[float, float, float, float] | None:
        """The ranges of the two features with a margin, as low and high of each; None if there are not two."""
        if self.x_train.shape[1] != 2:
            return None
        x = torch.cat([self.x_train, self.x_test])
        (a, b), (c, d) = ((float(x[:, i].min()) - 0.4, float(x[:, i].max()) + 0.4) for i in (0, 1))
        return a, b, c, d


def _task(name: str, x: np.ndarray, y: np.ndarray, seed: int) -> Task:
    order = np.random.default_rng(seed).permutation(len(x))
    train, test = order[: (2 * len(x)) // 3], order[(2 * len(x)) // 3 :]
    # Scaled by what the training part shows, as the lab does; the test part has no say.
    mean, scale = x[train].mean(0), x[train].std(0)
    inputs = torch.from_numpy(((x - mean) / scale).astype(np.float32))
    labels = torch.from_numpy(y.astype(np.float32))
    return Task(name, inputs[train], labels[train], inputs[test], labels[test])


def two_moons(seed: int) -> Task:
    """Two interleaved half circles, 300 points in all, with noise of standard deviation 0.2."""
    x, y = sklearn.datasets.make_moons(300, noise=0.2, random_state=seed)
    return _task("two moons", x, y, seed)


def wdbc(seed: int) -> Task:
    """Wisconsin diagnostic breast cancer: 569 samples, 30 features, positive = malignant; a third is the test part."""
    data = WDBC.load()
    return _task("WDBC", np.asarray(data.x, dtype=np.float64), np.asarray(data.y), seed)


TASKS: dict[str, Callable[[int], Task]] = {"two moons": two_moons, "WDBC": wdbc}


@dataclass(frozen=True)
class Plan:
    """How both networks are trained.

    Args:
        task: a name in ``TASKS``.
        seed: of the data, the weights and the order of the batches.
        lr: learning rate of Adam, > 0.
        batch: examples a step; 0 for all of them (full batch).
        width: units in each of the two hidden layers, >= 1.
        steps: optimizer steps planned, >= 1; the clock's t is steps taken / steps planned.
    """

    task: str = "two moons"
    seed: int = 0
    lr: float = 0.01
    batch: int = 32
    width: int = 16
    steps: int = 600

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise unknown("task", self.task, TASKS)
        for name, low in (("seed", 0), ("batch", 0), ("width", 1), ("steps", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise DomainError(f"{name} must be a whole number from {low} on, not {value!r}.")
        if not (isinstance(self.lr, int | float) and math.isfinite(self.lr) and self.lr > 0):
            raise DomainError(f"lr must be a number > 0, not {self.lr!r}.")


@dataclass(frozen=True)
class Point:
    """Where a training stands: mean binary cross-entropy in nats, and accuracies in [0, 1], after ``step`` optimizer steps."""

    step: int
    train_loss: float
    test_loss: float
    train_accuracy: float
    test_accuracy: float


@dataclass
class Contestant:
    """One of the two networks and what it went through."""

    name: str
    network: nn.Module
    optimizer: torch.optim.Optimizer
    clock: Clock
    points: list[Point] = field(default_factory=list)
    coefficients: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    """(step, value) of each coefficient that can move: learned ones by name and layer, as in "beta, layer 1"; scheduled ones,
    which are the same in all layers, by name."""
    diverged: int | None = None
    """The step after which the loss was no longer finite; the training ends there."""

    @torch.no_grad()
    def record(self, step: int, task: Task) -> None:
        """Evaluate and note where the training stands."""
        self.network.eval()
        found = []
        for x, y in ((task.x_train, task.y_train), (task.x_test, task.y_test)):
            logits = self.network(x).squeeze(1)
            found.append(
                (
                    float(nn.functional.binary_cross_entropy_with_logits(logits, y)),
                    float(((logits > 0) == (y > 0.5)).float().mean()),
                )
            )
        self.network.train()
        (train_loss, accuracy), (test_loss, test_accuracy) = found
        if not math.isfinite(train_loss) or not math.isfinite(test_loss):
            self.diverged = step
            return
        self.points.append(Point(step, train_loss, test_loss, accuracy, test_accuracy))
        layers = [m for m in self.network.modules() if isinstance(m, Activation)]
        for i, layer in enumerate(layers, 1):
            for (name, kind), value in zip(layer.kinds.items(), layer.values(), strict=True):
                if isinstance(kind, Learned):
                    self.coefficients.setdefault(f"{name}, layer {i}", []).append((step, float(value)))
                elif isinstance(kind, Scheduled) and i == 1:
                    self.coefficients.setdefault(name, []).append((step, float(value)))

    def shapes(self) -> list[Curve]:
        """What each layer's activation has become by learning; empty if it does not learn."""
        found = []
        for layer in (m for m in self.network.modules() if isinstance(m, Activation)):
            if any(isinstance(kind, Learned) for kind in layer.kinds.values()):
                # Not as a new module: what is learned without a bound may have left its domain.
                values = [v.item() if isinstance(v, Tensor) else v for v in layer.values()]
                found.append(curve_of(partial(_apply, type(layer).function, values)))
        return found


def _apply(function: Callable[..., Tensor], values: list[float], x: Tensor) -> Tensor:
    return function(x, *values)


class Race:
    """Two networks that differ in their activation alone.

    Args:
        plan: what to train on and how.
        activations: name to what builds a new module, called once a layer; the names are shown.

    Raises:
        DomainError: the schedule of an activation leaves its domain.
    """

    def __init__(self, plan: Plan, activations: dict[str, Callable[[], nn.Module]]) -> None:
        self.plan = plan
        self.task = TASKS[plan.task](plan.seed)
        self.step = 0
        size = len(self.task.x_train)
        self._batch = min(plan.batch, size) or size
        self._order = torch.Generator().manual_seed(plan.seed)
        self._waiting: Tensor = torch.empty(0, dtype=torch.int64)
        self.contestants = [self._contestant(name, build) for name, build in activations.items()]
        for c in self.contestants:
            c.record(0, self.task)

    def _contestant(self, name: str, build: Callable[[], nn.Module]) -> Contestant:
        features = self.task.x_train.shape[1]
        # The caller's random state stays as it is; both networks draw their weights from the same numbers.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.plan.seed)
            network = ffnn(build, input_shape=(features,), outputs=1, width=self.plan.width, dropout=0.0)
        optimizer = torch.optim.Adam(param_groups(network), lr=self.plan.lr)
        clock = Clock(network, self.plan.steps, steps_per_epoch=-(-len(self.task.x_train) // self._batch))
        return Contestant(name, network, optimizer, clock)

    @property
    def t(self) -> float:
        """Progress: steps taken / steps planned."""
        return self.step / self.plan.steps

    @property
    def finished(self) -> bool:
        """Whether nothing is left to train."""
        return self.step >= self.plan.steps or all(c.diverged is not None for c in self.contestants)

    def advance(self, steps: int) -> None:
        """Take optimizer steps, no more than are planned, and record where both networks stand afterwards."""
        for _ in range(min(steps, self.plan.steps - self.step)):
            index = self._next()
            x, y = self.task.x_train[index], self.task.y_train[index]
            for c in self.contestants:
                if c.diverged is not None:
                    continue
                c.optimizer.zero_grad()
                loss: Tensor = nn.functional.binary_cross_entropy_with_logits(c.network(x).squeeze(1), y)
                torch.autograd.backward(loss)
                c.optimizer.step()
                c.clock.step()
            self.step += 1
        for c in self.contestants:
            if c.diverged is None and c.points[-1].step < self.step:
                c.record(self.step, self.task)

    def _next(self) -> Tensor:
        """The indices of the next batch; a new shuffled epoch when the last one is used up."""
        if len(self._waiting) == 0:
            self._waiting = torch.randperm(len(self.task.x_train), generator=self._order)
        index, self._waiting = self._waiting[: self._batch], self._waiting[self._batch :]
        return index

    @torch.no_grad()
    def decision(self, which: int = 0) -> list[list[float]] | None:
        """P(class 1) at the centres of a grid over the task's window, by row from the bottom; None without a window."""
        window = self.task.window
        if window is None:
            return None
        columns, rows = GRID
        low_x, high_x, low_y, high_y = window
        x = low_x + (torch.arange(columns) + 0.5) / columns * (high_x - low_x)
        y = low_y + (torch.arange(rows) + 0.5) / rows * (high_y - low_y)
        points = torch.stack([x.expand(rows, columns), y[:, None].expand(rows, columns)], dim=-1).reshape(-1, 2)
        network = self.contestants[which].network.eval()
        grid: list[list[float]] = torch.sigmoid(network(points)).reshape(rows, columns).tolist()
        network.train()
        return grid

    def boundary(self, which: int = 0) -> list[tuple[float, float]]:
        """Points at which P(class 1) crosses one half, interpolated between the centres of the grid."""
        grid, window = self.decision(which), self.task.window
        if grid is None or window is None:
            return []
        p = torch.tensor(grid) - 0.5
        rows, columns = p.shape
        dx, dy = (window[1] - window[0]) / columns, (window[3] - window[2]) / rows
        found = []
        for along_x, first, second in ((True, p[:, :-1], p[:, 1:]), (False, p[:-1], p[1:])):
            for i, j in ((first > 0) != (second > 0)).nonzero().tolist():
                share = float(first[i, j] / (first[i, j] - second[i, j]))
                x = window[0] + (j + 0.5 + (share if along_x else 0.0)) * dx
                y = window[2] + (i + 0.5 + (0.0 if along_x else share)) * dy
                found.append((x, y))
        return found
