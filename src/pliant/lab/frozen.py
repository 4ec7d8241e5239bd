"""Entrants that do not learn: every call site keeps the coefficients with which another training of the same trial ended.

They tell apart what a learned activation owes to its final shape and what to having moved while the weights did.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from pliant.activation import Activation
from pliant.coefficients import Learned
from pliant.lab.study import FROZEN, TrialSpec

__all__ = ["freeze", "learner", "put"]


def learner(spec: TrialSpec) -> TrialSpec:
    """The trial that learns what a frozen one keeps: the same in everything but that."""
    return spec.model_copy(update={"activation": spec.activation.removeprefix(FROZEN)})


def freeze(activations: Iterable[nn.Module]) -> None:
    """Take the coefficients of activations out of what an optimizer is given. Their values are those of the constructor until
    :func:`put`."""
    for activation in activations:
        activation.requires_grad_(False)


def put(network: nn.Module, learned: Mapping[str, Mapping[str, Any]]) -> None:
    """Give learned coefficients new values.

    Args:
        learned: by site and name a float, or a list of floats where it differs by channel; scheduled ones, which a history also
            has, stay as they are.
    """
    for site, values in learned.items():
        module = network.get_submodule(site)
        assert isinstance(module, Activation)
        for name, value in values.items():
            if isinstance(kind := module.kinds[name], Learned):
                module.kinds[name] = dataclasses.replace(kind, init=tuple(value) if isinstance(value, list) else value)
        module.reset_parameters()
