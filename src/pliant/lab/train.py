"""The one training loop: a trial from its spec to its result, resumable at every epoch with the same numbers."""

from __future__ import annotations

import copy
import json
import math
import platform
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pliant.activation import Activation
from pliant.clock import Clock
from pliant.coefficients import Fixed
from pliant.groups import activation_parameters, param_groups
from pliant.lab import dropout, models
from pliant.lab.datasets import Data
from pliant.lab.network import construct
from pliant.lab.protocol import Split, seed_of, split
from pliant.lab.score import score
from pliant.lab.store import TrialDirectory
from pliant.lab.study import Custom, Optimizer, TrialSpec, activation_factory

__all__ = ["Training", "begin", "build", "coefficients", "train"]

EVALUATION_BATCH = 8192
PARTS = ("train", "validation", "test")


@dataclass
class _State:
    """What a trial needs to go on after an epoch, beside the tensors of network and optimizer."""

    epoch: int = 0
    best_epoch: int = 0
    best_loss: float = math.inf
    diverged: bool = False
    seconds: float = 0.0


def train(
    spec: TrialSpec,
    data: Data,
    custom: Custom,
    trial: TrialDirectory,
    report: Callable[[Mapping[str, float]], None] = lambda _: None,
    *,
    checkpoint_every: float = 20.0,
) -> None:
    """Run a trial, or what is left of it, and write its result into its directory.

    Randomness is re-seeded each epoch from the spec's seed, repeat, fold and the epoch, and never from the activation: trials
    that are compared see the same initial weights and batches, and the same dropout masks unless an activation draws random
    numbers itself in its forward pass. A resumed trial goes on exactly.

    Args:
        data: what ``spec.dataset`` names, whole.
        custom: the user's own model and activations, if any.
        trial: where checkpoint, history, predictions and result go.
        report: called after each epoch with epoch, epochs and validation_accuracy.
        checkpoint_every: seconds between checkpoints; 0 writes one each epoch. Does not change numbers.

    Raises:
        DataError, ModelError: the data or the network cannot be used.
        StorageFullError: the disk is full; what was finished stays finished.
    """
    training = begin(spec, data, custom, trial)
    state = training.state
    session = time.perf_counter() - state.seconds
    written = time.perf_counter()
    fitted, held = torch.from_numpy(training.parts.train), torch.from_numpy(training.parts.validation)
    x, y, network = training.x, training.y, training.network
    per_epoch = training.steps_per_epoch
    clock = Clock(network, spec.train.epochs * per_epoch, per_epoch)
    while training.goes_on:
        start = time.perf_counter()
        state.epoch += 1
        torch.manual_seed(training.epoch_seed)
        dropout.reseed(network, training.epoch_seed)
        order = fitted[torch.randperm(len(fitted))]
        loss, accuracy = _epoch(network, training.optimizer, clock, x, y, order, spec.train.batch_size)
        validation_loss, validation_accuracy = _evaluate(network, x[held], y[held])
        if training.judge(loss, validation_loss):
            training.best = copy.deepcopy(network.state_dict())
        state.seconds = time.perf_counter() - session
        values = (loss, accuracy, validation_loss, validation_accuracy)
        training.record(values, coefficients(network), time.perf_counter() - start, report)
        if time.perf_counter() - written >= checkpoint_every and training.goes_on:
            training.save()
            written = time.perf_counter()
    training.finish()


def begin(spec: TrialSpec, data: Data, custom: Custom, trial: TrialDirectory, like: Training | None = None) -> Training:
    """A trial as its directory has it: new, or as its checkpoint left it.

    Args:
        like: another training of the same data, whose tensors are taken where they are the same.

    Raises:
        DataError, ModelError: the data or the network cannot be used.
    """
    parts = split(spec, data)
    if like is not None and not spec.standardise and not like.spec.standardise:
        x, y = like.x, like.y
    else:
        x, y = _tensors(spec, data, parts)
    network, activations = build(spec, data, custom)
    optimizer = _optimizer(network, spec.train.optimizer, activations)
    training = Training(
        spec, data, trial, parts, x, y, network, activations, optimizer, copy.deepcopy(network.state_dict()), _State()
    )
    saved = trial.read("checkpoint.safetensors")
    if saved is not None:
        _restore(saved, network, optimizer, training.best, training.state)
        training.resumed_from = training.state.epoch
    trial.truncate_history(training.state.epoch)
    return training


@dataclass
class Training:
    """A trial under way: all that it consists of, and what of it reaches its directory."""

    spec: TrialSpec
    data: Data
    trial: TrialDirectory
    parts: Split
    x: Tensor
    y: Tensor
    network: nn.Module
    activations: list[nn.Module]
    optimizer: torch.optim.Optimizer
    best: dict[str, Tensor]
    """The network's state_dict at the best epoch."""
    state: _State
    resumed_from: int = 0
    lanes: int = 1
    """The largest number of trials that were trained in one program with this one, itself among them."""
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def steps_per_epoch(self) -> int:
        return len(_batched(torch.arange(len(self.parts.train)), self.spec.train.batch_size))

    @property
    def epoch_seed(self) -> int:
        """Where the randomness of the current epoch starts; the same for every activation of a fold."""
        return seed_of("epoch", self.spec.seed, self.spec.repeat, self.spec.fold, self.state.epoch)

    @property
    def goes_on(self) -> bool:
        return self.state.epoch < self.spec.train.epochs and not self.state.diverged and not _stop(self.state, self.spec)

    def judge(self, loss: float, validation_loss: float) -> bool:
        """Whether the epoch that just ended is the best so far; its losses also say whether the trial has diverged."""
        self.state.diverged = not (math.isfinite(loss) and math.isfinite(validation_loss))
        better = validation_loss < self.state.best_loss and not self.state.diverged
        if better:
            self.state.best_loss, self.state.best_epoch = validation_loss, self.state.epoch
        return better

    def record(
        self,
        values: tuple[float, float, float, float],
        coefficients: Mapping[str, Any],
        seconds: float,
        report: Callable[[Mapping[str, float]], None],
    ) -> None:
        """Write the history row of the epoch that just ended and tell whoever listens."""
        loss, accuracy, validation_loss, validation_accuracy = values
        self.trial.append_history(
            {
                "epoch": self.state.epoch,
                "train_loss": loss,
                "train_accuracy": accuracy,
                "validation_loss": validation_loss,
                "validation_accuracy": validation_accuracy,
                "seconds": seconds,
                "coefficients": coefficients,
            }
        )
        report({"epoch": self.state.epoch, "epochs": self.spec.train.epochs, "validation_accuracy": validation_accuracy})

    def save(self) -> None:
        self.trial.write("checkpoint.safetensors", _checkpoint(self.network, self.optimizer, self.best, self.state))

    def finish(self) -> None:
        """Look at the test part, and write predictions and result."""
        state, parts, network = self.state, self.parts, self.network
        row, predictions = _measure(network, self.best, state, self.x, self.y, parts, self.data)
        self.trial.write("predictions.safetensors", safetensors.torch.save(predictions))
        sizes = {"n_train": len(parts.train), "n_validation": len(parts.validation), "n_test": len(parts.test)}
        self.trial.finish(
            {
                "outcome": "diverged" if state.diverged else "done",
                "row": {
                    **sizes,
                    **row,
                    "selected_epoch": state.best_epoch,
                    "epochs": state.epoch,
                    "parameters": sum(p.numel() for p in network.parameters()),
                    "activation_parameters": sum(p.numel() for p in activation_parameters(network, self.activations)),
                    "seconds": state.seconds,
                    "seconds_per_epoch": state.seconds / state.epoch,
                    "device": str(self.x.device),
                },
                "provenance": {
                    "started": self.started,
                    "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                    "resumed_from_epoch": self.resumed_from,
                    "stacked_with": self.lanes - 1,
                    "threads": torch.get_num_threads(),
                    "torch": torch.__version__,
                    "numpy": np.__version__,
                    "python": platform.python_version(),
                    "machine": platform.machine(),
                },
            }
        )


def _tensors(spec: TrialSpec, data: Data, parts: Split) -> tuple[Tensor, Tensor]:
    x = data.x
    if spec.standardise:
        fitted = x[parts.train].astype(np.float64)
        mean, sd = fitted.mean(axis=0), fitted.std(axis=0)
        # A feature that is constant on the fitted part carries nothing to scale; 1 leaves it at zero there.
        x = (x - mean) / np.where(sd > 0, sd, 1.0)
    return torch.tensor(x, dtype=torch.get_default_dtype()), torch.tensor(data.y)


def build(spec: TrialSpec, data: Data, custom: Custom) -> tuple[nn.Module, list[nn.Module]]:
    """The network of a trial and its activations. The initial weights are the same for every activation of one fold.

    Raises:
        ModelError: see :func:`pliant.lab.network.construct`.
    """
    return construct(
        custom.model or models.ALL[spec.model.name],
        activation_factory(spec, custom),
        torch.tensor(data.x[:2], dtype=torch.get_default_dtype()),
        len(data.classes),
        {} if custom.model else spec.model.options,
        seed_of("weights", spec.seed, spec.repeat, spec.fold),
        spec.model.name,
    )


def _optimizer(network: nn.Module, wanted: Optimizer, activations: Collection[nn.Module]) -> torch.optim.Optimizer:
    groups = param_groups(
        network,
        wanted.weight_decay,
        lr=wanted.lr,
        lr_multiplier=wanted.activation_lr_multiplier,
        activations=activations,
    )
    if wanted.name == "sgd":
        return torch.optim.SGD(groups, lr=wanted.lr, momentum=wanted.momentum, fused=True)
    kind = torch.optim.AdamW if wanted.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=wanted.lr, betas=wanted.betas, eps=wanted.eps, fused=True)


def _stop(state: _State, spec: TrialSpec) -> bool:
    patience = spec.train.patience
    return patience is not None and state.epoch - state.best_epoch >= patience


def _loss(logits: Tensor, y: Tensor, reduction: str = "mean") -> Tensor:
    if logits.numel() == len(y):
        return nn.functional.binary_cross_entropy_with_logits(logits.flatten(), y.to(logits.dtype), reduction=reduction)
    return nn.functional.cross_entropy(logits, y, reduction=reduction)


def _hits(logits: Tensor, y: Tensor) -> Tensor:
    if logits.numel() == len(y):
        return (logits.flatten() > 0) == (y == 1)
    return logits.argmax(1) == y


def _correct(logits: Tensor, y: Tensor) -> int:
    return int(_hits(logits, y).sum())


def _epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    clock: Clock,
    x: Tensor,
    y: Tensor,
    order: Tensor,
    batch_size: int,
) -> tuple[float, float]:
    """One pass over the fitted part: mean loss in nats and accuracy over its examples, as they were while weights moved."""
    network.train()
    total, correct = 0.0, 0
    for rows in _batched(order, batch_size):
        logits, target = network(x[rows]), y[rows]
        loss = _loss(logits, target)
        value = loss.item()
        total += value * len(rows)
        if not math.isfinite(value):
            break
        correct += _correct(logits.detach(), target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        clock.step()
    return total / len(order), correct / len(order)


def _batched(order: Tensor, batch_size: int) -> list[Tensor]:
    batches = list(torch.split(order, batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        # A single example has no batch statistics to normalise with.
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def _logits(network: nn.Module, x: Tensor) -> Tensor:
    """What the network returns for every example in evaluation mode, shape (n, outputs)."""
    network.eval()
    with torch.no_grad():
        return torch.cat([network(part).reshape(len(part), -1) for part in torch.split(x, EVALUATION_BATCH)])


def _evaluate(network: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    logits = _logits(network, x)
    return float(_loss(logits, y)), _correct(logits, y) / len(y)


def _probabilities(network: nn.Module, x: Tensor) -> NDArray[np.float64]:
    logits = _logits(network, x).double()
    if logits.numel() == len(x):
        return logits.flatten().sigmoid().numpy()
    probabilities = logits.softmax(1)
    return (probabilities[:, 1] if logits.shape[1] == 2 else probabilities).numpy()


def _measure(
    network: nn.Module,
    best: Mapping[str, Tensor],
    state: _State,
    x: Tensor,
    y: Tensor,
    parts: Split,
    data: Data,
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Scores and test predictions at the selected and at the last epoch. The test part is looked at here and nowhere else."""
    row: dict[str, float] = {}
    predictions = {"test_index": torch.from_numpy(parts.test), "test_target": y[torch.from_numpy(parts.test)]}
    usable = state.best_epoch > 0
    for suffix in ("_last", ""):
        if not suffix:
            network.load_state_dict(best)
        broken = not usable if not suffix else state.diverged
        parts_scores = {} if broken else {n: _probabilities(network, x[torch.from_numpy(getattr(parts, n))]) for n in PARTS}
        if not all(np.isfinite(s).all() for s in parts_scores.values()):
            # Finite while it was trained, and not on what it had not seen: that is a divergence like any other.
            state.diverged = broken = True
        for name in PARTS:
            rows = torch.from_numpy(getattr(parts, name))
            # A network that diverged has no opinion; it is scored as the class frequencies of what it was fitted on.
            scores = _frequencies(data, parts, len(rows)) if broken else parts_scores[name]
            for metric, value in score(y[rows].numpy(), scores, data.task).items():
                row[f"{name}_{metric}{suffix}"] = value
            if name == "test":
                predictions[f"test_score{suffix}"] = torch.from_numpy(np.ascontiguousarray(scores, dtype=np.float32))
        row[f"gap{suffix}"] = row[f"train_accuracy{suffix}"] - row[f"validation_accuracy{suffix}"]
    return row, predictions


def _frequencies(data: Data, parts: Split, n: int) -> NDArray[np.float64]:
    share = np.bincount(data.y[parts.train], minlength=len(data.classes)) / len(parts.train)
    return np.full(n, share[1]) if data.task == "binary" else np.tile(share, (n, 1))


def coefficients(network: nn.Module) -> dict[str, dict[str, Any]]:
    """Every learned or scheduled coefficient by site: a float, or a list of floats where it differs by channel."""
    found: dict[str, dict[str, Any]] = {}
    for site, module in network.named_modules():
        if isinstance(module, Activation):
            values = {}
            for (name, kind), value in zip(module.kinds.items(), module.values(), strict=True):
                if not isinstance(kind, Fixed) and isinstance(value, Tensor):
                    numbers = value.detach().double().tolist()
                    values[name] = numbers[0] if len(numbers) == 1 else numbers
            if values:
                found[site] = values
    return found


# --- checkpoints ------------------------------------------------------------------------------------------------------


def _checkpoint(network: nn.Module, optimizer: torch.optim.Optimizer, best: Mapping[str, Tensor], state: _State) -> bytes:
    tensors = {f"network.{k}": v for k, v in network.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in best.items()}
    for i, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{k}": v for k, v in values.items() if isinstance(v, Tensor)}
    # safetensors refuses tensors that share memory, which tied weights do.
    return safetensors.torch.save(
        {k: v.detach().clone().contiguous() for k, v in tensors.items()}, {"state": json.dumps(vars(state))}
    )


def _metadata(saved: bytes) -> dict[str, Any]:
    length = int.from_bytes(saved[:8], "little")
    state: dict[str, Any] = json.loads(json.loads(saved[8 : 8 + length])["__metadata__"]["state"])
    return state


def _restore(
    saved: bytes,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    best: dict[str, Tensor],
    state: _State,
) -> None:
    tensors = safetensors.torch.load(saved)
    network.load_state_dict({k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")})
    best.update({k.removeprefix("best."): v for k, v in tensors.items() if k.startswith("best.")})
    held: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            held.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": held})
    for name, value in _metadata(saved).items():
        setattr(state, name, value)
