"""How far the weights of a network move in an epoch: figure 4 of the AAF paper, for whole weight tensors and single weights.

An increment of a weight tensor is ``||W - W'|| / ||W'||``, with W' as it was an epoch before (at first: as it was initialised).
Nothing here changes a training.

Source: Hu et al., "Adaptively Customizing Activation Functions for Various Layers", figure 4.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pliant.groups import activation_parameters

__all__ = ["SHOWN", "SINGLE", "Increments", "mean_log", "weights"]

SHOWN = (1, 5, 9)
"""The weight tensors of which single weights are kept, counted from 1 in the order of the network: those of the figure."""
SINGLE = 4
"""How many single weights of each, evenly spread over the tensor; the figure has as many, and does not say which."""


def weights(network: nn.Module, activations: Iterable[nn.Module] = ()) -> dict[str, Tensor]:
    """The weight tensors of a network by name, as :class:`Increments` takes them: its real parameters of two or more dimensions
    that learn, but for the coefficients of its activations."""
    coefficients = {id(p) for p in activation_parameters(network, activations)}
    return {
        name: p.detach().unsqueeze(0)
        for name, p in network.named_parameters()
        if p.dim() > 1 and p.requires_grad and p.is_floating_point() and p.numel() and id(p) not in coefficients
    }


class Increments:
    """What moved from one reading to the next.

    Args:
        weights: tensors that training writes into, by name, in the order of the network, each of shape (n, ...) for n networks.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._now = dict(weights)
        self._before = {name: w.clone() for name, w in self._now.items()}
        self._places = {
            name: _places(w[0]) for number, (name, w) in enumerate(self._now.items(), start=1) if number in SHOWN and w.numel()
        }

    @torch.no_grad()
    def read(self) -> list[dict[str, Any]]:
        """Two entries of a history row for each of the networks.

        Returns:
            ``increments``: the relative increment by name; None where it is not finite, as after a divergence, or for a
            tensor that was 0. ``single_weights``: for the tensors :data:`SHOWN`, by how much each of :data:`SINGLE`
            weights changed.
        """
        if not self._now:
            return []
        norms, singles = [], {}
        for name, now in self._now.items():
            before = self._before[name]
            # A copy where the memory format has it so, which is why it is made here.
            moved, old = (now - before).flatten(1), before.flatten(1)
            norms.append(torch.stack([torch.linalg.vector_norm(w, dim=1, dtype=torch.float64) for w in (moved, old)]))
            if name in self._places:
                singles[name] = moved[:, self._places[name]].tolist()
            before.copy_(now)
        by, size = torch.stack(norms, 1).tolist()
        return [
            {
                "increments": {name: _ratio(by[k][i], size[k][i]) for k, name in enumerate(self._now)},
                "single_weights": {name: [_number(v) for v in values[i]] for name, values in singles.items()},
            }
            for i in range(len(size[0]))
        ]


def _places(weights: Tensor) -> Tensor:
    # In the middle of equal stretches, so that they are single weights of different inputs and outputs.
    stretch = weights.numel() / SINGLE
    return torch.tensor([int(stretch * (i + 0.5)) for i in range(SINGLE)], device=weights.device)


def _ratio(by: float, size: float) -> float | None:
    return _number(by / size) if size else None


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def mean_log(by_name: Mapping[str, float | None]) -> float | None:
    """The mean natural logarithm of the increments of an epoch over the weight tensors that moved; None where one is missing,
    or none moved."""
    values = list(by_name.values())
    logs = [math.log(v) for v in values if v]
    return math.fsum(logs) / len(logs) if logs and None not in values else None
