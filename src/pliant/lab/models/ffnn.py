"""The feed-forward network of the SReLU paper."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn

from pliant.errors import DomainError

__all__ = ["ffnn"]


def ffnn(
    activation: Callable[[], nn.Module],
    *,
    input_shape: tuple[int, ...],
    outputs: int,
    width: int = 512,
    hidden_layers: int = 2,
    dropout: float = 0.3,
) -> nn.Module:
    """Flatten, then ``hidden_layers`` times (linear, activation, dropout), then linear to the logits.

    Weights are Glorot-uniform and biases zero, as in Keras, the paper's framework.

    Args:
        activation: called once a hidden layer.
        width: units in a hidden layer (paper: 512).
        hidden_layers: >= 1 (paper: 2).
        dropout: the share of units dropped, in [0, 1) (paper: 0.3).

    Source: S. Bhat, "SReLU", section IV.B.1. 279,041 parameters for 30 features and one output.
    """
    if width < 1 or hidden_layers < 1 or not 0 <= dropout < 1:
        raise DomainError(
            f"ffnn was given width={width}, hidden_layers={hidden_layers}, dropout={dropout}; expected width and hidden_layers "
            "from 1 on and dropout in [0, 1)."
        )
    network = nn.Sequential()
    network.add_module("flatten", nn.Flatten())
    features = math.prod(input_shape)
    for i in range(1, hidden_layers + 1):
        network.add_module(f"linear{i}", nn.Linear(features, width))
        network.add_module(f"act{i}", activation())
        network.add_module(f"dropout{i}", nn.Dropout(dropout))
        features = width
    network.add_module("output", nn.Linear(features, outputs))
    for module in network:
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    return network
