"""A trial under way, whatever its task: what it needs to go on after an epoch, and what of it reaches its directory."""

from __future__ import annotations

import json
import math
import platform
from abc import ABC
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from pliant import kernels
from pliant.activation import Activation
from pliant.coefficients import Fixed
from pliant.groups import activation_parameters
from pliant.lab import optimizers
from pliant.lab.batches import batches
from pliant.lab.increments import mean_log
from pliant.lab.protocol import Split, seed_of
from pliant.lab.ranks import ALONE, Ranks
from pliant.lab.store import CHECKPOINT, TrialDirectory
from pliant.lab.study import TrialSpec

__all__ = ["Course", "Report", "State", "coefficients"]

Report = Callable[[Mapping[str, float]], None]

NOT_CURVES = ("epoch", "coefficients", "increments", "single_weights")
"""What a history row has beside one number an epoch."""


@dataclass
class State:
    """What a trial needs to go on after an epoch, beside the tensors of network and optimizer."""

    epoch: int = 0
    best_epoch: int = 0
    best_loss: float = math.inf
    """What the epoch is chosen by, on the validation part: the lower the better."""
    diverged: bool = False
    seconds: float = 0.0


@dataclass(eq=False, kw_only=True)
class Course(ABC):
    """What every training has: whatever moves its weights, its randomness, rates, checkpoints and result are these."""

    judged_by: ClassVar[str]
    """The column of the history that whoever listens is told."""

    spec: TrialSpec
    trial: TrialDirectory
    parts: Split
    network: nn.Module
    activations: list[nn.Module]
    optimizer: torch.optim.Optimizer
    device: torch.device
    best: dict[str, Tensor]
    """The network's state_dict at the best epoch."""
    state: State = field(default_factory=State)
    resumed_from: int = 0
    lanes: int = 1
    """The largest number of trials that were trained in one program with this one, itself among them."""
    ranks: Ranks = ALONE
    """The processes that train this trial together. The first one alone writes into its directory."""
    learned_by: str = ""
    """The key of the trial whose coefficients this one keeps, if it does."""
    damaged_checkpoint: bool = False
    """Whether there was a checkpoint that could not be trusted, so that the trial began anew."""
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def __post_init__(self) -> None:
        self.fitted, self.held = (torch.from_numpy(rows).to(self.device) for rows in (self.parts.train, self.parts.validation))
        self.steps_per_epoch = len(batches(self.fitted, self.spec.train.batch_size, self.spec.train.drop_last))

    @property
    def epoch_seed(self) -> int:
        """Where the randomness of the current epoch starts; the same for every activation of a fold."""
        return seed_of("epoch", self.spec.seed, self.spec.repeat, self.spec.fold, self.state.epoch)

    @property
    def goes_on(self) -> bool:
        patience = self.spec.train.patience
        stopped = patience is not None and self.state.epoch - self.state.best_epoch >= patience
        return self.state.epoch < self.spec.train.epochs and not self.state.diverged and not stopped

    def set_rate(self, optimizer: torch.optim.Optimizer) -> None:
        """Give the optimizer that moves the weights the learning rates of the next epoch."""
        recipe = self.spec.train
        optimizers.set_rate(optimizer, recipe.optimizer, recipe.schedule, self.state.epoch, recipe.epochs)

    def order(self, generator: torch.Generator | None = None) -> Tensor:
        """The fitted rows in the order of an epoch, from a generator that was seeded with ``epoch_seed``; default torch's."""
        return self.fitted[torch.randperm(len(self.fitted), generator=generator).to(self.fitted.device)]

    def resume(self) -> None:
        """Go on from the trial's checkpoint, if there is one."""
        saved = self.trial.read(CHECKPOINT)
        found = None if saved is None else _whole(saved)
        if found is not None:
            _restore(*found, self.network, self.optimizer, self.best, self.state)
            self.resumed_from = self.state.epoch
        else:
            # Begun again, which costs time and no truth; what it ends with says so.
            self.damaged_checkpoint = (self.trial.path / CHECKPOINT).exists()
        if not self.ranks.rank:
            self.trial.truncate_history(self.state.epoch)

    def record(
        self,
        line: Mapping[str, float],
        coefficients: Mapping[str, Any],
        seconds: float,
        report: Report,
        moved: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the history row of the epoch that just ended and tell whoever listens.

        Args:
            moved: what :mod:`pliant.lab.increments` says of the weights.
        """
        if self.ranks.rank:
            return
        epoch = self.state.epoch
        self.trial.append_history({"epoch": epoch, **line, "seconds": seconds, "coefficients": coefficients, **(moved or {})})
        report({"epoch": epoch, "epochs": self.spec.train.epochs, self.judged_by: line[self.judged_by]})

    def save(self) -> None:
        if self.ranks.rank:
            return
        self.trial.write(CHECKPOINT, _checkpoint(self.network, self.optimizer, self.best, self.state))

    def close(self, row: Mapping[str, Any], **more: Any) -> None:
        """Write the result: ``row`` is what was measured, ``more`` further parts of it."""
        state, parts, network, device = self.state, self.parts, self.network, self.device
        history = self.trial.history()
        self.trial.finish(
            {
                "outcome": "diverged" if state.diverged else "done",
                "row": {
                    "n_train": len(parts.train),
                    "n_validation": len(parts.validation),
                    "n_test": len(parts.test),
                    **row,
                    "selected_epoch": state.best_epoch,
                    "epochs": state.epoch,
                    "steps": state.epoch * self.steps_per_epoch,
                    "lr": self.spec.train.optimizer.lr,
                    "parameters": sum(p.numel() for p in network.parameters()),
                    "activation_parameters": sum(
                        p.numel() for p in activation_parameters(network, self.activations) if p.requires_grad
                    ),
                    "seconds": state.seconds,
                    "seconds_per_epoch": state.seconds / state.epoch,
                    "device": str(device),
                    # Of the whole process, so it says something of this trial where it is alone on the device. Host memory
                    # has no such counter: the process's own peak is that of all trials before.
                    **({"peak_bytes": torch.cuda.max_memory_allocated(device)} if device.type == "cuda" else {}),
                },
                "curves": {
                    "steps_per_epoch": self.steps_per_epoch,
                    **{k: [e.get(k) for e in history] for k in history[0] if k not in NOT_CURVES},
                    **({"log_increment": [mean_log(e["increments"]) for e in history]} if "increments" in history[0] else {}),
                },
                "provenance": {
                    "started": self.started,
                    "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                    "resumed_from_epoch": self.resumed_from,
                    **({"damaged_checkpoint": True} if self.damaged_checkpoint else {}),
                    **({"coefficients_from": self.learned_by} if self.learned_by else {}),
                    "stacked_with": self.lanes - 1,
                    "threads": torch.get_num_threads(),
                    "torch": torch.__version__,
                    "numpy": np.__version__,
                    "python": platform.python_version(),
                    "machine": platform.machine(),
                    "kernels": kernels.status(device.type).get(device.type, "none"),
                    "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "",
                },
                **more,
            }
        )


def coefficients(network: nn.Module) -> dict[str, dict[str, Any]]:
    """Every learned or scheduled coefficient by site: a float, or a list of floats where it differs by channel."""
    found: dict[str, dict[str, Any]] = {}
    for site, module in network.named_modules():
        if isinstance(module, Activation):
            values = {}
            for (name, kind), value in zip(module.kinds.items(), module.values(), strict=True):
                if not isinstance(kind, Fixed) and isinstance(value, Tensor):
                    numbers = value.detach().tolist()
                    values[name] = numbers[0] if len(numbers) == 1 else numbers
            if values:
                found[site] = values
    return found


# --- checkpoints ------------------------------------------------------------------------------------------------------


def _checkpoint(network: nn.Module, optimizer: torch.optim.Optimizer, best: Mapping[str, Tensor], state: State) -> bytes:
    tensors = {f"network.{k}": v for k, v in network.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in best.items()}
    for i, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{k}": v for k, v in values.items() if isinstance(v, Tensor)}
    # safetensors refuses tensors that share memory, which tied weights do.
    return safetensors.torch.save(
        {k: v.detach().clone().contiguous() for k, v in tensors.items()}, {"state": json.dumps(vars(state))}
    )


def _whole(saved: bytes) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The tensors and the state in a checkpoint; None where it is none. The store has compared its checksum."""
    try:
        length = int.from_bytes(saved[:8], "little")
        state = json.loads(json.loads(saved[8 : 8 + length])["__metadata__"]["state"])
        return (safetensors.torch.load(saved), state) if state.keys() <= vars(State()).keys() else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError, safetensors.SafetensorError):
        return None


def _restore(
    tensors: Mapping[str, Tensor],
    saved_state: Mapping[str, Any],
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    best: dict[str, Tensor],
    state: State,
) -> None:
    network.load_state_dict({k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")})
    best.update({k.removeprefix("best."): v for k, v in tensors.items() if k.startswith("best.")})
    held: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            held.setdefault(int(index), {})[name] = value
    optimizers.restore(optimizer, held)
    for name, value in saved_state.items():
        setattr(state, name, value)
