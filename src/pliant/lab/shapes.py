"""An activation as a curve, and how the curve moved while it was trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pliant import catalog
from pliant.activation import Activation
from pliant.coefficients import Learned
from pliant.lab.report import Shape, Stage

__all__ = ["curves", "learned", "shape"]

Histories = Iterable[Sequence[Mapping[str, Any]]]


def shape(activation: str, label: str, make: Callable[[], nn.Module], histories: Histories) -> Shape | None:
    """The curve of an activation; None where it has none, because its output depends on more than one input.

    Args:
        make: builds it as it is before training. histories: of its trials, read one after the other.
    """
    try:
        return _curve(activation, label, make(), histories)
    except (RuntimeError, IndexError, ValueError, TypeError):
        return None


def learned(make: Callable[[], nn.Module], histories: Histories) -> list[dict[str, dict[str, float]]]:
    """What each trial of an activation had learned when it ended: site -> coefficient -> value, the mean where it differs by
    channel. A site one of whose values is not finite is left out; of an activation that learns nothing there is nothing.

    Args:
        make, histories: as for :func:`shape`.
    """
    module = make()
    names = [name for name, kind in module.kinds.items() if isinstance(kind, Learned)] if isinstance(module, Activation) else []
    if not names:
        return []
    found = []
    for epochs in histories:
        sites = {}
        for site, named in (epochs[-1]["coefficients"] if epochs else {}).items():
            values = {name: value for name in names if name in named and (value := _mean(named[name])) is not None}
            if len(values) == len(names):
                sites[site] = values
        found.append(sites)
    return found


def curves(activation: str, sites: Iterable[Mapping[str, float]], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """An activation as a function at several sites, shape (sites, points).

    Args:
        activation: its spec. sites: values of its coefficients; those that are not named have their start.
    """
    module, points = catalog.create(activation), torch.from_numpy(x)
    assert isinstance(module, Activation)
    rows = []
    for named in sites:
        values = [named.get(name, now) for name, now in zip(module.kinds, module.values(), strict=True)]
        rows.append(_at(module, values)(points).numpy())
    return np.stack(rows)


def _curve(activation: str, label: str, module: nn.Module, histories: Histories) -> Shape:
    if not isinstance(module, Activation) or all(not isinstance(v, Tensor) for v in module.values()):
        return Shape(activation, label, "plain", [_stage("", None, module)])
    if module.scheduled:
        return Shape(
            activation,
            label,
            "scheduled",
            [_stage(f"t = {t / 10:.1f}", None, _at(module, module.values(t / 10))) for t in range(11)],
        )
    stages = list(_learned(module, histories)) or [_stage("start", None, _at(module, module.values()))]
    learned = any(isinstance(k, Learned) for k in module.kinds.values())
    return Shape(activation, label, "learned" if learned else "plain", stages)


def _at(module: Activation, values: Sequence[float | Tensor]) -> Any:
    # One curve for a site: where a coefficient differs by channel, its mean.
    numbers = [v.detach().double().mean().item() if isinstance(v, Tensor) else v for v in values]
    return lambda x: type(module).function(x, *numbers)


def _learned(module: Activation, trials: Iterable[Sequence[Mapping[str, Any]]]) -> Iterator[Stage]:
    """The mean learned curve by site at five moments of training, and the start; each trial is read once and released."""
    seen: dict[tuple[int, str, str], tuple[float, int]] = {}
    sites: list[str] = []
    last = 0
    for epochs in trials:
        if not epochs:
            continue
        last = min(last or len(epochs), len(epochs))
        sites = sites or list(epochs[-1]["coefficients"])
        for at, epoch in enumerate(epochs, start=1):
            for site, named in epoch["coefficients"].items():
                for name, stored in named.items():
                    value = stored if type(stored) is float else _mean(stored)
                    if value is not None:
                        total, n = seen.get((at, site, name), (0.0, 0))
                        seen[at, site, name] = total + value, n + 1
    if not last:
        return
    places: list[str | None] = [*sites] or [None]
    for place in places:
        yield _stage("start", place, _at(module, module.values()))
    for at in sorted({max(1, round(last * share)) for share in (0.1, 0.25, 0.5, 0.75, 1.0)}):
        for site in sites:
            values: list[float | Tensor] = []
            for name, now in zip(module.kinds, module.values(), strict=True):
                total, n = seen.get((at, site, name), (0.0, 0))
                values.append(total / n if n else now)
            yield _stage(f"epoch {at}", site, _at(module, values))


def _mean(stored: Any) -> float | None:
    """Of a coefficient as a history holds it; None where training had diverged, which a history cannot hold."""
    values = stored if isinstance(stored, list) else [stored]
    return None if not values or any(v is None for v in values) else float(np.mean(values))


def _stage(name: str, site: str | None, function: nn.Module | Any) -> Stage:
    # An odd number of points puts one on 0, where most kinks are.
    x = torch.linspace(-5, 5, 101, dtype=torch.float64, requires_grad=True)
    module = function.double().eval() if isinstance(function, nn.Module) else function
    y = module(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    return Stage(name, site, *(np.round(v.detach().numpy(), 5).tolist() for v in (x, y, slope)))
