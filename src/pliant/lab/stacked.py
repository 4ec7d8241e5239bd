"""Many small trials as one tensor program, with the results that each would have had alone.

A network of a few hundred units spends its time between the matrix products. Here L trials - folds, repeats, activations of
one shape of network - lie behind each other in tensors of shape (L, batch, features): one batched product where there were L.
Each trial is a *lane*. Lanes share nothing but the clock on the wall:

* the weights of lane i are row i of a stacked parameter, so an elementwise optimizer updates them as it would alone;
* learned coefficients of an activation are per-channel coefficients whose channel is the lane (``channel_dim=0``), scheduled
  ones are shared by lanes of one schedule, and an activation that is not known to be elementwise is called lane by lane;
* batches, dropout masks and standardisation are the lane's own; lanes of unequal length are filled up with examples of their
  own that count nothing in the loss;
* a lane that stops early, diverges or ends leaves the stack, and the others move together.

Sums over a batch are taken in another order than for one trial alone, so results agree to rounding (1e-9 in float64, tested),
not to the bit. A lane's directory is that of any trial: it can be resumed alone or in another stack.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pliant import catalog
from pliant.activation import Activation
from pliant.clock import Clock
from pliant.coefficients import Fixed
from pliant.lab import dropout
from pliant.lab.datasets import Data
from pliant.lab.store import TrialDirectory
from pliant.lab.study import Custom, TrialSpec, canonical
from pliant.lab.train import (
    EVALUATION_BATCH,
    Training,
    _batched,
    _evaluate,
    _hits,
    _loss,
    _optimizer,
    begin,
    coefficients,
    train,
)

__all__ = ["lanes", "obstacle", "train_stacked"]

MAX_LANES = 16
STACKS = 4
"""A study is cut into at least so many stacks, for workers to share. Not as many as there are workers: a sum over a batch is
rounded differently in a stack of another size, and a study must give the same numbers wherever it runs."""
MAX_PARAMETERS = 1_000_000
"""Of one network. Beyond, the matrix products take most of the time alone too, and stacking them gains nothing."""
MAX_NUMBERS = 1 << 28
"""Of all lanes' examples together, 1 GiB in float32."""

_DROPPED = 0x8000_8000_8000_8000
"""Four times the smallest int16."""

Report = Callable[[int, Mapping[str, float]], None]

_ELEMENTWISE = tuple(
    entry.factory
    for entry in catalog.ALL.values()
    if isinstance(entry.factory, type) and not issubclass(entry.factory, Activation)
)


def train_stacked(
    specs: Sequence[TrialSpec],
    data: Data,
    custom: Custom,
    trials: Sequence[TrialDirectory],
    report: Report = lambda lane, row: None,
    *,
    checkpoint_every: float = 20.0,
) -> None:
    """Run several trials of one data set, or what is left of them, and write their results into their directories.

    Trials are put into one stack if their networks have the same layers, their training settings are the same, and they are at
    the same epoch; what cannot be stacked (see :func:`obstacle`) is trained by itself. The seconds of an epoch in a stack of L
    lanes are counted as 1 / L of it for each, so that the seconds of all trials add up to the time that passed.

    Args:
        specs, trials: what to train and where it is kept, in the same order.
        report: called after each epoch of each trial with its place in ``specs``, and epoch, epochs, validation_accuracy.
        checkpoint_every: seconds between checkpoints of all trials; 0 writes them each epoch. Does not change numbers.

    Raises:
        as :func:`pliant.lab.train.train`. An error in one trial ends all that are in its stack; their directories stay good.
    """
    lanes: list[_Lane] = []
    alone: list[int] = []
    for i, (spec, trial) in enumerate(zip(specs, trials, strict=True)):
        training = begin(spec, data, custom, trial, lanes[0].training if lanes else None)
        if obstacle(training.network, training.activations, training.x[:2]) is None:
            lanes.append(_Lane(i, training))
        else:
            alone.append(i)
    for _, members in _grouped(lanes, lambda lane: lane.group):
        if len(members) > 1:
            _run(members, report, checkpoint_every)
        else:
            alone.append(members[0].place)
    for i in alone:

        def tell(row: Mapping[str, float], i: int = i) -> None:
            report(i, row)

        train(specs[i], data, custom, trials[i], tell, checkpoint_every=checkpoint_every)


def lanes(network: nn.Module, activations: Sequence[nn.Module], example: Tensor, examples: int, trials: int) -> int:
    """How many trials of a study to train as one program; 1 where that is no faster, or not possible.

    Args:
        example: two examples, shape (2, ...). examples: how many the data set has. trials: how many the study has.
    """
    if obstacle(network, activations, example) is not None or sum(p.numel() for p in network.parameters()) > MAX_PARAMETERS:
        return 1
    return max(1, min(trials // STACKS, MAX_LANES, MAX_NUMBERS // max(1, examples * example[0].numel())))


def obstacle(network: nn.Module, activations: Sequence[nn.Module], example: Tensor) -> str | None:
    """Why a network cannot be a lane, or None if it can.

    It can if it is an ``nn.Sequential``, nested or not, of linear layers, dropout, flattening and activations.

    Args:
        activations: the modules of ``network`` that are activations, beside those known to be.
        example: two examples or more, shape (n, ...).
    """
    try:
        layers = _layers(network, activations)
    except _NotStackableError as error:
        return str(error)
    own = {id(m) for m in activations}
    seen: set[int] = set()
    x = example
    for i, (name, module) in enumerate(layers):
        held = {id(p) for p in module.parameters()} | ({id(module)} if isinstance(module, dropout.Dropout) else set())
        if held & seen:
            return f"the layer {name}, or a parameter of it, is used more than once"
        seen |= held
        if id(module) not in own and type(module) is nn.Linear:
            if x.dim() != 2:
                return f"the linear layer {name} is given {x.dim()} dimensions, not (batch, features)"
        elif id(module) not in own and type(module) is nn.Flatten:
            if (module.start_dim, module.end_dim) != (1, -1) and not (module.start_dim == 0 and i == len(layers) - 1):
                return f"{name} flattens other dimensions than all those of one example"
        elif id(module) in own or type(module) is not dropout.Dropout:
            if not (id(module) in own or isinstance(module, Activation) or type(module) in _ELEMENTWISE):
                return f"{name} is a {type(module).__name__}, neither linear, dropout, flattening nor an activation"
            if getattr(module, "inplace", False):
                return f"the activation {name} overwrites its input"
            if _draws(module, x):
                return f"the activation {name} draws random numbers, which would fall differently in a stack"
        if any(not p.requires_grad for p in module.parameters()):
            return f"{name} has parameters that are not trained"
        with torch.no_grad():
            x = copy.deepcopy(module).eval()(x)
    return None


class _NotStackableError(Exception):
    pass


def _layers(network: nn.Module, activations: Sequence[nn.Module], prefix: str = "") -> list[tuple[str, nn.Module]]:
    """The layers of a (nested) sequence, by name, in the order in which they run. An activation is one layer."""
    hooked = [n for n, m in network.named_modules() if m._forward_hooks or m._forward_pre_hooks or m._backward_hooks]
    if hooked:
        raise _NotStackableError(f"{hooked[0] or 'the network'} has hooks")
    if type(network).forward is not nn.Sequential.forward or "forward" in vars(network):
        raise _NotStackableError(f"{prefix.rstrip('.') or 'the network'} is a {type(network).__name__}, not an nn.Sequential")
    found: list[tuple[str, nn.Module]] = []
    for name, module in network._modules.items():
        if module is None:
            continue
        if isinstance(module, nn.Sequential) and not any(module is a for a in activations):
            found += _layers(module, activations, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", module))
    return found


def _draws(module: nn.Module, x: Tensor) -> bool:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        before = torch.get_rng_state()
        copy.deepcopy(module).train()(x)
        return not torch.equal(before, torch.get_rng_state())


def _grouped(items: Iterable[Any], key: Callable[[Any], str]) -> list[tuple[str, list[Any]]]:
    return [(k, list(group)) for k, group in groupby(sorted(items, key=key), key)]


# --- lanes ------------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Lane:
    """One trial and its own tensors, beside what the stack holds of it."""

    place: int
    training: Training
    dead: bool = False
    """Its loss was not finite in this epoch: it has left the stack, as it was before that step."""

    def __post_init__(self) -> None:
        training = self.training
        self.layers = _layers(training.network, training.activations)
        parts = self.training.parts
        self.fitted, self.held = torch.from_numpy(parts.train), torch.from_numpy(parts.validation)
        self.kinds = [_kind(m, any(m is a for a in training.activations)) for _, m in self.layers]

    def die(self) -> None:
        """Part from what the stack goes on to compute with."""
        training = self.training
        training.network, training.activations = copy.deepcopy((training.network, training.activations))
        self.dead = True

    @property
    def group(self) -> str:
        """Lanes of one stack agree in this."""
        training = self.training
        layers = [
            [name, kind, *([list(module.weight.shape), module.bias is not None] if isinstance(module, nn.Linear) else [])]
            for (name, module), kind in zip(self.layers, self.kinds, strict=True)
            if kind in ("linear", "flatten") or kind.startswith("dropout")
        ]
        ending = self.training.spec.train.model_dump(mode="json")
        at = [training.steps_per_epoch, training.state.epoch, str(training.x.dtype), list(training.x.shape[1:])]
        return canonical([layers, len(self.layers), ending, at, not training.goes_on])


def _kind(module: nn.Module, activation: bool) -> str:
    """Modules of one kind are one operation on a stack. An empty kind is called lane by lane."""
    if not activation:
        if type(module) is nn.Linear:
            return "linear"
        if type(module) is nn.Flatten:
            return "flatten"
        if isinstance(module, dropout.Dropout):
            return f"dropout {module.p}"
    if type(module) in _ELEMENTWISE:
        return f"{type(module).__name__}({module.extra_repr()})"
    if isinstance(module, Activation):
        single = all(p.numel() == 1 for p in module.parameters())
        constant = not any(isinstance(k, Fixed) and isinstance(k.value, tuple) for k in module.kinds.values())
        if single and constant:
            return f"{type(module).__module__}.{type(module).__name__}({module.kinds!r})"
    return ""


# --- the stacked layers -----------------------------------------------------------------------------------------------


class _Affine(torch.autograd.Function):
    """x W^T + b for every lane. Its gradient lies in memory as W does; autograd's own comes transposed, and a copy of all
    weights in every step costs as much as a third of the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        if bias is None:
            return torch.bmm(x, weight.mT)
        return torch.baddbmm(bias.unsqueeze(1), x, weight.mT)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        (g,) = grads
        return (
            torch.bmm(g, weight) if ctx.needs_input_grad[0] else None,
            torch.bmm(g.mT, x),
            g.sum(1) if ctx.needs_input_grad[2] else None,
        )


class _Linear(nn.Module):
    def __init__(self, modules: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = _stack([m.weight for m in modules])
        self.bias: nn.Parameter | None = None
        if "bias" in dict(modules[0].named_parameters()):
            self.bias = _stack([m.bias for m in modules])

    def forward(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        return _Affine.apply(x, self.weight, self.bias)  # type: ignore[no-any-return]


class _Flatten(nn.Module):
    def forward(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        return x.flatten(2) if x.dim() > 2 else x


class _Dropout(nn.Module):
    """Draws the mask of each lane from the lane's own stream, as the lane's own layer would."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.streams: list[np.random.SFC64] = []

    def forward(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        if not self.training or self.p == 0:
            return x
        width = x[0, 0].numel()
        counts = [dropout.words(size * width) for size in sizes]
        # What fills a lane up is dropped: it stays finite whatever the lane does.
        bits = np.full((len(sizes), dropout.words(x.shape[1] * width)), _DROPPED, dtype=np.uint64)
        for row, drawn, count in zip(bits, self.streams, counts, strict=True):
            row[:count] = drawn.random_raw(count)
        mask = dropout.keep_mask(torch.from_numpy(bits.view(np.int16)), self.p, x.dtype)
        return x * mask[:, : x.shape[1] * width].view(x.shape)


class _Activations(nn.Module):
    """The activations of one site: one module for each run of lanes that have the same, in the order of the lanes."""

    def __init__(self, modules: Sequence[nn.Module], kinds: Sequence[str]) -> None:
        super().__init__()
        self.runs = nn.ModuleList()
        self.lengths: list[int] = []
        self.alone: list[bool] = []
        at = 0
        for kind, group in groupby(kinds):
            n = len(list(group))
            members = modules[at : at + n]
            at += n
            if not kind:
                self.runs.extend(members)
                self.lengths += [1] * n
                self.alone += [True] * n
            else:
                self.runs.append(_merged(members))
                self.lengths.append(n)
                self.alone.append(False)

    def forward(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        if len(self.runs) == 1 and not self.alone[0]:
            return self.runs[0](x)  # type: ignore[no-any-return]
        found, at = [], 0
        for module, part, alone in zip(self.runs, torch.split(x, self.lengths), self.alone, strict=True):
            if alone:
                size = sizes[at]
                # It may look across the batch, so it must not see what only fills the lane up.
                y = module(part[0, :size]).unsqueeze(0)
                found.append(y if size == part.shape[1] else torch.cat([y, torch.zeros_like(part[:, size:])], 1))
            else:
                found.append(module(part))
            at += part.shape[0]
        return torch.cat(found)


def _merged(members: Sequence[nn.Module]) -> nn.Module:
    """One module that does to row i of its input what member i does to its own."""
    module = copy.deepcopy(members[0])
    if isinstance(module, Activation):
        module.channel_dim = 0
        for name in module._parameters:
            module._parameters[name] = _stack([m.get_parameter(name).reshape(()) for m in members])
    return module


def _stack(tensors: Sequence[Tensor]) -> nn.Parameter:
    return nn.Parameter(torch.stack([t.detach() for t in tensors]))


@dataclass(eq=False)
class _Slot:
    """Where lanes ``start`` to ``stop`` have what their own state_dict calls ``name``: a row each, or one for all."""

    name: str
    tensor: Tensor
    start: int
    stop: int
    rows: bool

    def of(self, lane: int, tensor: Tensor | None = None) -> Tensor:
        found = self.tensor if tensor is None else tensor
        return found.detach()[lane - self.start] if self.rows else found.detach()


class _Stack:
    """Lanes of one group as one network and one optimizer. Made from what the lanes hold, and given back to them."""

    def __init__(self, lanes: Sequence[_Lane]) -> None:
        self.lanes = sorted(lanes, key=lambda lane: (lane.kinds, lane.place))
        self.network = nn.ModuleList()
        self.slots: list[_Slot] = []
        sites = []
        for i, kind in enumerate(self.lanes[0].kinds):
            modules: list[Any] = [lane.layers[i][1] for lane in self.lanes]
            layer: nn.Module
            if kind == "linear":
                layer = _Linear(modules)
                self._hold(i, layer, 0, len(modules), rows=True)
            elif kind == "flatten":
                layer = _Flatten()
            elif kind.startswith("dropout"):
                layer = _Dropout(modules[0].p)
            else:
                layer = _Activations(modules, [lane.kinds[i] for lane in self.lanes])
                sites.append(layer)
                start = 0
                for run, length, alone in zip(layer.runs, layer.lengths, layer.alone, strict=True):
                    self._hold(i, run, start, start + length, rows=not alone)
                    start += length
            self.network.append(layer)
        spec = self.lanes[0].training.spec
        self.optimizer = _optimizer(self.network, spec.train.optimizer, sites)
        self._load_optimizer()
        per_epoch = self.lanes[0].training.steps_per_epoch
        self.clock = Clock(self.network, spec.train.epochs * per_epoch, per_epoch)
        self.best = [self._gathered(slot) for slot in self.slots]
        bases = {id(lane.training.x): lane.training for lane in self.lanes}
        offsets, at = {}, 0
        for key, training in bases.items():
            offsets[key] = at
            at += len(training.x)
        self.x = torch.cat([t.x for t in bases.values()])
        self.y = torch.cat([t.y for t in bases.values()])
        self.offsets = [offsets[id(lane.training.x)] for lane in self.lanes]
        self.held = self._together([lane.held for lane in self.lanes])

    def _hold(self, layer: int, module: nn.Module, start: int, stop: int, *, rows: bool) -> None:
        prefix = self.lanes[start].layers[layer][0]
        parameters = dict(module.named_parameters())
        known = self.lanes[start].layers[layer][1].state_dict()
        for name, tensor in [*parameters.items(), *module.named_buffers()]:
            if name in known:
                self.slots.append(_Slot(f"{prefix}.{name}", tensor, start, stop, rows and name in parameters))

    def _gathered(self, slot: _Slot) -> Tensor:
        return torch.stack([lane.training.best[slot.name] for lane in self.lanes[slot.start : slot.stop]])

    def _load_optimizer(self) -> None:
        for slot in self.slots:
            states = []
            for lane in self.lanes[slot.start : slot.stop]:
                parameter = dict(lane.training.network.named_parameters()).get(slot.name)
                states.append(lane.training.optimizer.state.get(parameter) if parameter is not None else None)
            if states[0]:
                held: Any = states
                self.optimizer.state[slot.tensor] = {key: _rows([s[key] for s in held], slot) for key in held[0]}

    def give_back(self, place: int) -> None:
        """Put the state of a lane into its own network, optimizer and best weights."""
        lane = self.lanes[place]
        training = lane.training
        own = dict(training.network.named_parameters())
        values = training.network.state_dict()
        with torch.no_grad():
            for slot, kept in zip(self.slots, self.best, strict=True):
                if not slot.start <= place < slot.stop:
                    continue
                target = values[slot.name]
                # A module that is called lane by lane is the lane's own.
                if target.data_ptr() != slot.tensor.data_ptr():
                    target.copy_(slot.of(place).reshape(target.shape))
                training.best[slot.name] = kept[place - slot.start].clone()
                state = self.optimizer.state.get(slot.tensor)
                if state:
                    shape = target.shape
                    training.optimizer.state[own[slot.name]] = {
                        # The count of steps is one number for all lanes.
                        key: slot.of(place, v).reshape(shape).clone() if isinstance(v, Tensor) and v.dim() else copy.copy(v)
                        for key, v in state.items()
                    }
        # An activation keeps its place in time beside the buffer that holds it.
        for module in training.network.modules():
            if isinstance(module, Activation) and module.scheduled:
                module.now()

    # --- an epoch -----------------------------------------------------------------------------------------------------

    def _together(self, rows: Sequence[Tensor]) -> _Batch:
        sizes = [len(r) for r in rows]
        longest = max(sizes)
        # What fills a lane up are examples of its own, so that nothing appears that the lane would not see.
        filled = [r if len(r) == longest else torch.cat([r, r[:1].expand(longest - len(r))]) for r in rows]
        index = torch.stack([r + offset for r, offset in zip(filled, self.offsets, strict=True)])
        weight = None
        if min(sizes) < longest:
            weight = (torch.arange(longest) < torch.tensor(sizes)[:, None]).to(self.x.dtype)
        return _Batch(index, weight, sizes, torch.tensor(sizes, dtype=self.x.dtype))

    def _logits(self, index: Tensor, sizes: Sequence[int]) -> Tensor:
        x = self.x[index.flatten()].view(*index.shape, *self.x.shape[1:])
        for layer in self.network:
            x = layer(x, sizes)
        return x.reshape(index.numel(), -1)

    def _losses(self, logits: Tensor, y: Tensor, batch: _Batch) -> tuple[Tensor, Tensor]:
        """Mean loss and number of right answers of each lane, shape (L,)."""
        losses, hits = _loss(logits, y, "none").view(batch.index.shape), _hits(logits.detach(), y).view(batch.index.shape)
        if batch.weight is not None:
            losses, hits = losses * batch.weight, hits & (batch.weight > 0)
        return losses.sum(1) / batch.counts, hits.sum(1)

    def epoch(self) -> list[tuple[float, float]]:
        """One pass of every lane over its fitted part: mean loss in nats and accuracy, as while the weights moved."""
        self.network.train()
        orders = [self._begin(lane) for lane in self.lanes]
        streams = [layer for layer in self.network if isinstance(layer, _Dropout)]
        for number, layer in enumerate(streams):
            layer.streams = [dropout.stream(lane.training.epoch_seed, number) for lane in self.lanes]
        batch_size = self.lanes[0].training.spec.train.batch_size
        total, correct = [0.0] * len(orders), [0] * len(orders)
        for rows in zip(*(_batched(order, batch_size) for order in orders), strict=True):
            batch = self._together(rows)
            y = self.y[batch.index.flatten()]
            losses, hits = self._losses(self._logits(batch.index, batch.sizes), y, batch)
            for i, (value, right) in enumerate(zip(losses.tolist(), hits.tolist(), strict=True)):
                lane = self.lanes[i]
                if not lane.dead:
                    total[i] += value * batch.sizes[i]
                    if math.isfinite(value):
                        correct[i] += right
                    else:
                        self.give_back(i)
                        lane.die()
            self.optimizer.zero_grad(set_to_none=True)
            losses.sum().backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.clock.step()
        return [(t / len(o), c / len(o)) for t, c, o in zip(total, correct, orders, strict=True)]

    @staticmethod
    def _begin(lane: _Lane) -> Tensor:
        lane.training.state.epoch += 1
        generator = torch.Generator().manual_seed(lane.training.epoch_seed)
        return lane.fitted[torch.randperm(len(lane.fitted), generator=generator)]

    @torch.no_grad()
    def evaluate(self) -> list[tuple[float, float]]:
        """Loss in nats and accuracy of every lane on its validation part."""
        self.network.eval()
        held = self.held
        parts = []
        for start in range(0, held.index.shape[1], EVALUATION_BATCH):
            index = held.index[:, start : start + EVALUATION_BATCH]
            sizes = [min(max(size - start, 1), index.shape[1]) for size in held.sizes]
            parts.append(self._logits(index, sizes).view(*index.shape, -1))
        logits = torch.cat(parts, 1).flatten(0, 1)
        losses, hits = self._losses(logits, self.y[held.index.flatten()], held)
        found = list(zip(losses.tolist(), (hits / held.counts).tolist(), strict=True))
        for i, lane in enumerate(self.lanes):
            if lane.dead:
                training = lane.training
                found[i] = _evaluate(training.network, training.x[lane.held], training.y[lane.held])
        return found

    @torch.no_grad()
    def remember(self, better: Sequence[bool]) -> None:
        """Keep the weights of the lanes for which this epoch is the best so far."""
        flags = torch.tensor(better)
        for slot, kept in zip(self.slots, self.best, strict=True):
            rows = flags[slot.start : slot.stop].nonzero().flatten()
            if len(rows):
                kept[rows] = (slot.tensor.detach()[rows] if slot.rows else slot.tensor.detach()).reshape(
                    len(rows) if slot.rows else 1, *kept.shape[1:]
                )

    def coefficients(self) -> list[dict[str, dict[str, Any]]]:
        """As :func:`pliant.lab.train.coefficients`, for every lane."""
        found: list[dict[str, dict[str, Any]]] = [{} for _ in self.lanes]
        for i, layer in enumerate(self.network):
            if not isinstance(layer, _Activations):
                continue
            start = 0
            for run, length, alone in zip(layer.runs, layer.lengths, layer.alone, strict=True):
                name = self.lanes[start].layers[i][0]
                for inner, values in coefficients(run).items():
                    site = f"{name}.{inner}" if inner else name
                    for j in range(length):
                        # One number a lane; alone, or scheduled, the value is the lane's already.
                        mine = {n: v[j] if isinstance(v, list) and not alone else v for n, v in values.items()}
                        found[start + j][site] = mine
                start += length
        for i, lane in enumerate(self.lanes):
            if lane.dead:
                found[i] = coefficients(lane.training.network)
        return found


@dataclass(frozen=True, eq=False)
class _Batch:
    index: Tensor
    """Rows of the stack's examples, int64, shape (L, longest)."""
    weight: Tensor | None
    """1 where a row counts, 0 where it fills up; None if all count."""
    sizes: Sequence[int]
    counts: Tensor


def _rows(values: Sequence[Any], slot: _Slot) -> Any:
    first = values[0]
    if not isinstance(first, Tensor):
        return first
    # A count of steps is the same for all lanes of one epoch.
    return torch.stack(list(values)).reshape(slot.tensor.shape) if first.dim() else first.clone()


# --- the loop ---------------------------------------------------------------------------------------------------------


def _run(lanes: list[_Lane], report: Report, checkpoint_every: float) -> None:
    for lane in lanes:
        lane.training.lanes = len(lanes)
    written = time.perf_counter()
    while lanes and lanes[0].training.goes_on:
        stack = _Stack(lanes)
        mark = time.perf_counter()
        while all(lane.training.goes_on for lane in stack.lanes):
            epoch = stack.epoch()
            validation = stack.evaluate()
            stack.remember(
                [
                    lane.training.judge(loss, held)
                    for lane, (loss, _), (held, _) in zip(stack.lanes, epoch, validation, strict=True)
                ]
            )
            found = stack.coefficients()
            share = (time.perf_counter() - mark) / len(stack.lanes)
            mark = time.perf_counter()
            for lane, fitted, held, values in zip(stack.lanes, epoch, validation, found, strict=True):
                lane.training.state.seconds += share
                place = lane.place
                lane.training.record(
                    (*fitted, *held),
                    values,
                    share,
                    lambda row, place=place: report(place, row),  # type: ignore[misc]
                )
            if time.perf_counter() - written >= checkpoint_every:
                for i, lane in enumerate(stack.lanes):
                    if lane.training.goes_on:
                        stack.give_back(i)
                        lane.training.save()
                written = time.perf_counter()
        for i, lane in enumerate(stack.lanes):
            if not lane.dead:
                stack.give_back(i)
        lanes = _finished(stack.lanes)
    _finished(lanes)


def _finished(lanes: Sequence[_Lane]) -> list[_Lane]:
    """Finish the lanes that have come to their end; give the others."""
    for lane in lanes:
        if not lane.training.goes_on:
            lane.training.finish()
    return [lane for lane in lanes if lane.training.goes_on]
