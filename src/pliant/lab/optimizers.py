"""From the resolved numbers of an optimizer to the optimizer, in the fastest form whose arithmetic is the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn

from pliant.groups import param_groups
from pliant.lab.recipe import Optimizer, Schedule

__all__ = ["EpsilonHatAdam", "make", "restore", "set_rate"]


class EpsilonHatAdam(torch.optim.Adam):
    """Adam as TensorFlow and Keras have it, with epsilon beside the uncorrected second moment.

    ``lr * sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps)`` is torch's update with ``eps / sqrt(1 - b2^t)`` for its epsilon,
    so torch's own fused step does the work.

    Source: Kingma and Ba, "Adam" (2015), the reordered form at the end of section 2.
    """

    def __init__(self, params: Any, *, eps: float, **options: Any) -> None:
        super().__init__(params, eps=eps, **options)
        self._epsilon_hat = eps
        self._taken: int | None = 0

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._taken = None

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        if self._taken is None:
            # Once after a resume; on a device the count would otherwise have to be waited for at each step.
            self._taken = max((int(s["step"]) for s in self.state.values() if "step" in s), default=0)
        self._taken += 1
        for group in self.param_groups:
            group["eps"] = self._epsilon_hat / math.sqrt(1 - group["betas"][1] ** self._taken)
        return super().step(closure)


def make(network: nn.Module, wanted: Optimizer, activations: Collection[nn.Module]) -> torch.optim.Optimizer:
    """The optimizer of a network, coefficients of activations in a group of their own.

    Args:
        wanted: resolved, see :meth:`Optimizer.resolved`.
        activations: modules of the network whose parameters are coefficients.
    """
    assert wanted.lr is not None, "an optimizer is made from resolved numbers"
    groups = param_groups(
        network,
        wanted.weight_decay,
        lr=wanted.lr,
        lr_multiplier=wanted.activation_lr_multiplier,
        activations=activations,
    )
    on_cpu = all(p.device.type == "cpu" for p in network.parameters())
    match wanted.name:
        case "sgd" | "momentum":
            return torch.optim.SGD(groups, lr=wanted.lr, momentum=wanted.momentum or 0.0, fused=True)
        case "adagrad":
            # Its fused form exists for the CPU alone.
            fused, foreach = (True, None) if on_cpu else (None, True)
            start, eps = wanted.accumulator or 0.0, wanted.eps or 0.0
            return torch.optim.Adagrad(
                groups, lr=wanted.lr, initial_accumulator_value=start, eps=eps, fused=fused, foreach=foreach
            )
        case "adadelta":
            assert wanted.rho is not None
            assert wanted.eps is not None
            return torch.optim.Adadelta(groups, lr=wanted.lr, rho=wanted.rho, eps=wanted.eps, foreach=True)
        case "adam" | "adamw":
            assert wanted.betas is not None
            assert wanted.eps is not None
            if wanted.epsilon_hat:
                return EpsilonHatAdam(groups, lr=wanted.lr, betas=wanted.betas, eps=wanted.eps, fused=True)
            kind = torch.optim.AdamW if wanted.name == "adamw" else torch.optim.Adam
            return kind(groups, lr=wanted.lr, betas=wanted.betas, eps=wanted.eps, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, wanted: Optimizer, schedule: Schedule, complete: int, epochs: int) -> None:
    """Set the learning rates for the epoch after ``complete`` of ``epochs``. A pure function of these numbers, so a resumed
    training has the rates of one that was never stopped."""
    assert wanted.lr is not None
    rate = schedule.rate(wanted.lr, complete, epochs)
    for group in optimizer.param_groups:
        group["lr"] = rate * (wanted.activation_lr_multiplier if group["name"] == "activations" else 1.0)


def restore(optimizer: torch.optim.Optimizer, state: dict[int, dict[str, Tensor]]) -> None:
    """Give an optimizer back the state it had, by parameter number."""
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    for parameter, held in optimizer.state.items():
        for name, value in held.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                # Fused steps walk over raw memory: the state must lie in it as the parameter does, channels last or not.
                held[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
