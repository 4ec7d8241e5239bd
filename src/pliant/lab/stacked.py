"""Many small trials as one tensor program, with the results that each would have had alone.

A network of a few hundred units spends its time between the matrix products. Here L trials - folds, repeats, activations of
one shape of network - lie behind each other in tensors of shape (L, batch, features): one batched product where there were L.
Each trial is a *lane*. Lanes share nothing but the clock on the wall:

* the weights of lane i are row i of a stacked parameter, so an elementwise optimizer updates them as it would alone;
* learned coefficients of an activation are per-channel coefficients whose channel is the lane (``channel_dim=0``), scheduled
  ones are shared by lanes of one schedule, and an activation that is not known to be elementwise is called lane by lane;
* batches, dropout masks and normalisation are the lane's own; lanes of unequal length are filled up with examples of their
  own that count nothing in the loss;
* a lane that stops early, diverges or ends leaves the stack, and the others move together. Until the end of its epoch a lane
  that diverged computes with what is not finite, as it would alone; that never reaches another lane.

Sums over a batch are taken in another order than for one trial alone, so results agree to rounding (1e-9 in float64, tested),
not to the bit; so do two lanes of one stack that train the same activation under two names. A lane's directory is that of any
trial: it can be resumed alone or in another stack.
"""

from __future__ import annotations

import copy
import functools
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
from pliant.lab import dropout, optimizers
from pliant.lab.batches import Examples, batches
from pliant.lab.datasets import Data
from pliant.lab.increments import Increments
from pliant.lab.store import TrialDirectory
from pliant.lab.study import Custom, TrialSpec, canonical
from pliant.lab.train import Training, begin, coefficients, device_of, hits, loss_of, train

__all__ = ["MAX_PARAMETERS", "lanes", "obstacle", "train_stacked", "unstackable_network"]

MAX_LANES = 16
STACKS = 4
"""A study is cut into at least so many stacks, for workers to share. Not as many as there are workers: a sum over a batch is
rounded differently in a stack of another size, and a study must give the same numbers wherever it runs."""
MAX_PARAMETERS = 1_000_000
"""Of one network. Beyond, the matrix products take most of the time alone too, and stacking them gains nothing."""
MAX_NUMBERS = 1 << 28
"""Of all lanes' examples together, 1 GiB in float32."""

QUIRKS = ("released_tie_rule", "test_on_64_images", "test_as_validation")
"""Those that change what a trial starts from or is given, and not how it is trained."""

_DROPPED = 0x8000_8000_8000_8000
"""Four times the smallest int16."""

_TWO = torch.arange(2)

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

    Trials are put into one stack if their networks have the same layers, their recipes are the same (with the learning rate, of
    which a grid has several), and they are at the same epoch; what cannot be stacked (see :func:`obstacle`) is trained by
    itself. The seconds of an epoch in a stack of L lanes are counted as 1 / L of it for each, so that the seconds of all trials
    add up to the time that passed.

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
        if len(specs) > 1 and _unstackable_recipe(spec, data) is None:
            training = begin(spec, data, custom, trial, device_of(spec), [lane.training for lane in lanes])
            if unstackable_network(training.network, training.activations, training.examples.batch(_TWO)) is None:
                lanes.append(_Lane(i, training))
                continue
        alone.append(i)
    for _, members in _grouped(lanes, lambda lane: lane.group):
        if len(members) > 1:
            _run(members, report, checkpoint_every)
        else:
            alone.append(members[0].place)
    # What keeps the coefficients of another trial comes after that one, whose lock is held here.
    for i in sorted(alone, key=lambda i: specs[i].frozen):

        def tell(row: Mapping[str, float], i: int = i) -> None:
            report(i, row)

        train(specs[i], data, custom, trials[i], tell, checkpoint_every=checkpoint_every)


def lanes(spec: TrialSpec, data: Data, network: nn.Module, activations: Sequence[nn.Module], trials: int) -> int:
    """How many trials of a study to train as one program; 1 where that is no faster, or not possible.

    Args:
        spec, network, activations: one of the trials, and what :func:`pliant.lab.train.build` makes of it.
        trials: how many the study has.
    """
    if obstacle(spec, data, network, activations) is not None or sum(p.numel() for p in network.parameters()) > MAX_PARAMETERS:
        return 1
    # Bytes are shared by all trials, and their batches normalised; what is normalised beforehand each fold has for itself.
    fits = MAX_LANES if data.x.dtype == np.uint8 else MAX_NUMBERS // max(1, data.x.size)
    return max(1, min(trials // STACKS, MAX_LANES, fits))


def obstacle(spec: TrialSpec, data: Data, network: nn.Module, activations: Sequence[nn.Module]) -> str | None:
    """Why a trial cannot be a lane, or None if it can.

    Args:
        network, activations: what :func:`pliant.lab.train.build` makes of it.
    """
    example = torch.tensor(data.x[:2], dtype=torch.get_default_dtype())
    return _unstackable_recipe(spec, data) or unstackable_network(network, activations, example)


def _unstackable_recipe(spec: TrialSpec, data: Data) -> str | None:
    recipe = spec.train
    if spec.frozen:
        return "its coefficients are those that another trial has learned, and are not trained"
    if data.task == "multilabel":
        return "its examples have several labels each"
    if recipe.augment.padding or recipe.augment.flip:
        return "its images are augmented"
    if recipe.speed:
        return f"train.speed asks for {', '.join(recipe.speed)}"
    if quirks := [q for q in spec.quirks if q not in QUIRKS]:
        return f"the quirk {quirks[0]} changes how it is trained or evaluated"
    if (device := device_of(spec)).type != "cpu":
        return f"it is trained on {device}, and stacks are made for the CPU"
    return None


def unstackable_network(network: nn.Module, activations: Sequence[nn.Module], example: Tensor) -> str | None:
    """Why a network cannot be in a stack, or None if it can.

    It can if it is an ``nn.Sequential``, nested or not, of linear layers, dropout, flattening and activations. Convolutions
    cannot, nor batch normalisation, which looks across the examples of a batch.

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

    def __post_init__(self) -> None:
        training = self.training
        self.layers = _layers(training.network, training.activations)
        self.kinds = [_kind(m, any(m is a for a in training.activations)) for _, m in self.layers]

    @property
    def group(self) -> str:
        """Lanes of one stack agree in this."""
        training = self.training
        layers = [
            [name, kind, *([list(module.weight.shape), module.bias is not None] if isinstance(module, nn.Linear) else [])]
            for (name, module), kind in zip(self.layers, self.kinds, strict=True)
            if kind in ("linear", "flatten") or kind.startswith("dropout")
        ]
        recipe, examples = training.spec.train.model_dump(mode="json"), training.examples
        shown = [str(examples.x.dtype), list(examples.x.shape[1:]), examples.scale is None]
        at = [training.steps_per_epoch, training.state.epoch, not training.goes_on]
        return canonical([layers, len(self.layers), recipe, shown, at])


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
        first = self.lanes[0].training
        self.spec, steps = first.spec, first.steps_per_epoch
        self.optimizer = optimizers.make(self.network, self.spec.train.optimizer, sites)
        self._load_optimizer()
        self.clock = Clock(self.network, self.spec.train.epochs * steps, steps)
        self.best = [self._gathered(slot) for slot in self.slots]
        self.moved = Increments({s.name: s.tensor.detach() for s in self.slots if s.rows and s.tensor.dim() > 2})
        self.examples, self.offsets = Examples.together([lane.training.examples for lane in self.lanes])
        self.fitted = self._together([lane.training.fitted for lane in self.lanes])
        self.held = self._together([lane.training.held for lane in self.lanes])

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
        states: dict[int, dict[str, Any]] = {}
        for slot in self.slots:
            held: list[Any] = []
            for lane in self.lanes[slot.start : slot.stop]:
                parameter = dict(lane.training.network.named_parameters()).get(slot.name)
                held.append(lane.training.optimizer.state.get(parameter) if parameter is not None else None)
            if held[0]:
                states[id(slot.tensor)] = {key: _rows([s[key] for s in held], slot) for key in held[0]}
        numbered = [p for group in self.optimizer.param_groups for p in group["params"]]
        found = {i: states[id(p)] for i, p in enumerate(numbered) if id(p) in states}
        if found:
            optimizers.restore(self.optimizer, found)

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
            weight = (torch.arange(longest) < torch.tensor(sizes)[:, None]).to(torch.get_default_dtype())
        return _Batch(index, weight, sizes, torch.tensor(sizes, dtype=torch.get_default_dtype()))

    def _logits(self, index: Tensor, sizes: Sequence[int]) -> Tensor:
        x = self.examples.batch(index)
        for layer in self.network:
            x = layer(x, sizes)
        return x.reshape(index.numel(), -1)

    def _losses(self, logits: Tensor, y: Tensor, batch: _Batch, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
        """Mean loss and number of right answers of each lane, shape (L,)."""
        losses = loss_of(logits, y, self.spec, "none", smoothing=smoothing).view(batch.index.shape)
        right = hits(logits.detach(), y).view(batch.index.shape)
        if batch.weight is not None:
            # Not multiplied: what fills a lane up may be infinite where the lane itself is not.
            losses, right = torch.where(batch.weight > 0, losses, 0.0), right & (batch.weight > 0)
        return losses.sum(1) / batch.counts, right.sum(1)

    def epoch(self) -> list[dict[str, float]]:
        """One pass of every lane over its fitted part: mean loss in nats and accuracy, as while the weights moved."""
        self.network.train()
        self.lanes[0].training.set_rate(self.optimizer)
        orders = [self._begin(lane) for lane in self.lanes]
        streams = [layer for layer in self.network if isinstance(layer, _Dropout)]
        for number, layer in enumerate(streams):
            layer.streams = [dropout.stream(lane.training.epoch_seed, number) for lane in self.lanes]
        recipe = self.spec.train
        total, right = torch.zeros(2, len(orders), dtype=torch.float64)
        parts = [batches(order, recipe.batch_size, recipe.drop_last) for order in orders]
        for slices in zip(*parts, strict=True):
            batch = self._together([order[part] for order, part in zip(orders, slices, strict=True)])
            logits, y = self._logits(batch.index, batch.sizes), self.examples.y[batch.index.flatten()]
            losses, found = self._losses(logits, y, batch, recipe.label_smoothing)
            self.optimizer.zero_grad(set_to_none=True)
            losses.sum().backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.clock.step()
            total += losses.detach() * batch.counts
            right += found
        shown = torch.tensor([part[-1].stop for part in parts], dtype=torch.float64)
        return _lines("train", total / shown, right / shown)

    @staticmethod
    def _begin(lane: _Lane) -> Tensor:
        lane.training.state.epoch += 1
        return lane.training.order(torch.Generator().manual_seed(lane.training.epoch_seed))

    @torch.no_grad()
    def evaluate(self, batch: _Batch, name: str) -> list[dict[str, float]]:
        """Loss in nats and accuracy of every lane in evaluation mode."""
        self.network.eval()
        size = max(1, self.lanes[0].training.evaluation_batch // len(self.lanes))
        parts = []
        for start in range(0, batch.index.shape[1], size):
            index = batch.index[:, start : start + size]
            sizes = [min(max(n - start, 1), index.shape[1]) for n in batch.sizes]
            parts.append(self._logits(index, sizes).view(*index.shape, -1))
        logits = torch.cat(parts, 1).flatten(0, 1)
        losses, right = self._losses(logits, self.examples.y[batch.index.flatten()], batch)
        return _lines(name, losses, right / batch.counts)

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
        return found


def _lines(name: str, losses: Tensor, accuracies: Tensor) -> list[dict[str, float]]:
    pairs = zip(losses.tolist(), accuracies.tolist(), strict=True)
    return [{f"{name}_loss": loss, f"{name}_accuracy": accuracy} for loss, accuracy in pairs]


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
            lines = [a | b for a, b in zip(stack.epoch(), stack.evaluate(stack.held, "validation"), strict=True)]
            stack.remember([lane.training.judge(line) for lane, line in zip(stack.lanes, lines, strict=True)])
            if stack.spec.train.train_scores == "evaluated":
                again = stack.evaluate(stack.fitted, "evaluated_train")
                lines = [a | b for a, b in zip(lines, again, strict=True)]
            found, moved = stack.coefficients(), stack.moved.read() or [{}] * len(stack.lanes)
            share = (time.perf_counter() - mark) / len(stack.lanes)
            mark = time.perf_counter()
            for lane, line, values, by in zip(stack.lanes, lines, found, moved, strict=True):
                lane.training.state.seconds += share
                tell = functools.partial(report, lane.place)
                lane.training.record(line, values, share, tell, by)
            if time.perf_counter() - written >= checkpoint_every:
                for i, lane in enumerate(stack.lanes):
                    if lane.training.goes_on:
                        stack.give_back(i)
                        lane.training.save()
                written = time.perf_counter()
        for i in range(len(stack.lanes)):
            stack.give_back(i)
        lanes = _finished(stack.lanes)
    _finished(lanes)


def _finished(lanes: Sequence[_Lane]) -> list[_Lane]:
    """Finish the lanes that have come to their end; give the others."""
    for lane in lanes:
        if not lane.training.goes_on:
            lane.training.finish()
    return [lane for lane in lanes if lane.training.goes_on]
