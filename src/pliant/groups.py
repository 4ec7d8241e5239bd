"""Parameter groups that treat the numbers of an activation as what they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from pliant.activation import Activation
from pliant.errors import DomainError

__all__ = ["param_groups"]


def is_activation(module: nn.Module) -> bool:
    """Whether a module's own parameters are coefficients of an activation: Pliant's activations and ``nn.PReLU``."""
    return isinstance(module, Activation | nn.PReLU)


def activation_parameters(model: nn.Module, activations: Iterable[nn.Module] = ()) -> list[nn.Parameter]:
    """The coefficients of ``model``: parameters of its activations and of the modules in ``activations``, each once."""
    modules = [m for m in model.modules() if is_activation(m)]
    found = [p for m in modules for p in m.parameters(recurse=False)] + [p for m in activations for p in m.parameters()]
    return list({id(p): p for p in found}.values())


def param_groups(
    model: nn.Module,
    weight_decay: float = 0.0,
    *,
    lr: float | None = None,
    lr_multiplier: float = 1.0,
    activations: Iterable[nn.Module] = (),
) -> list[dict[str, Any]]:
    """Parameter groups for a torch optimizer, with the coefficients of activations apart and without weight decay.

    Weight decay pulls a coefficient towards 0, which for most of them means a dead or constant activation.

    Args:
        model: its parameters; each parameter is in exactly one group, frozen ones in none.
        weight_decay: for everything that is not a coefficient.
        lr: the learning rate of the weights. Only needed with ``lr_multiplier``; otherwise the optimizer's own is used.
        lr_multiplier: learning rate of the coefficients / learning rate of the weights.
        activations: further modules of the model whose parameters are coefficients, beside Pliant's activations and nn.PReLU.

    Returns:
        The groups "weights" and "activations" (each under the key ``name``), leaving out empty ones. Parameters keep the order
        of ``model.parameters()``.

    Raises:
        DomainError: ``lr_multiplier`` was given without ``lr``, or a number is negative.
    """
    for name, value in (("weight_decay", weight_decay), ("lr_multiplier", lr_multiplier), ("lr", lr)):
        if value is not None and not value >= 0:
            raise DomainError(f"param_groups was given {name}={value!r}; expected a number >= 0.")
    if lr is None and lr_multiplier != 1.0:
        raise DomainError(f"param_groups was given lr_multiplier={lr_multiplier!r} but no lr to multiply; pass lr as well.")
    owned = {id(p) for p in activation_parameters(model, activations)}
    parameters = [p for p in model.parameters() if p.requires_grad]
    weights: dict[str, Any] = {
        "name": "weights",
        "params": [p for p in parameters if id(p) not in owned],
        "weight_decay": weight_decay,
    }
    coefficients: dict[str, Any] = {
        "name": "activations",
        "params": [p for p in parameters if id(p) in owned],
        "weight_decay": 0.0,
    }
    if lr is not None:
        weights["lr"] = lr
        coefficients["lr"] = lr * lr_multiplier
    return [group for group in (weights, coefficients) if group["params"]]
