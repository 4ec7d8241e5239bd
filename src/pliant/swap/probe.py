"""Runs a model once in each mode and records every call of an activation, leaving no trace in the model."""

from __future__ import annotations

import contextlib
import copy
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from pliant.swap.families import Family, Rule, family_of_module, rule_for_call, rule_for_module, spelling
from pliant.swap.frames import Chain, callers

__all__ = ["Call", "Example", "probe", "run"]

Example = Tensor | tuple[Any, ...] | Mapping[str, Any] | Callable[[nn.Module], Any]
"""An input: a tensor, a tuple of positional arguments, a dict of keyword arguments, or a function that runs the model."""


@dataclass(eq=False)
class Call:
    """One call of an activation in one run."""

    rule: Rule
    form: str
    owner: nn.Module
    chain: Chain
    time: int
    """How often the same line had run before, in the same run of the owner's forward."""
    old: Any
    """The module (as registered) or the function."""
    slot: tuple[nn.Module, str] | None
    inplace: bool
    arguments: tuple[tuple[Any, ...], dict[str, Any]]
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    channel_dim: int | None
    training: bool
    count: int = 1
    gate: bool = False


def _map(value: Any, change: Callable[[Tensor], Any]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {k: _map(v, change) for k, v in value.items()}
    if isinstance(value, list | tuple):
        items = [_map(v, change) for v in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def tensors_of(value: Any) -> list[Tensor]:
    """All tensors in nested lists, tuples, dicts and plain objects, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple | set):
        return [t for v in value for t in tensors_of(v)]
    if hasattr(value, "__dict__") and not isinstance(value, nn.Module | type):
        return [t for v in vars(value).values() for t in tensors_of(v)]
    return []


def run(model: nn.Module, example: Example) -> Any:
    """The model's output for an example, whose tensors are copied first: some models write into their input."""
    if isinstance(example, Tensor):
        return model(example.clone())
    if isinstance(example, tuple):
        return model(*_map(example, Tensor.clone))
    if isinstance(example, Mapping):
        return model(**_map(dict(example), Tensor.clone))
    return example(model)


@contextlib.contextmanager
def untouched(model: nn.Module, training: bool) -> Iterator[None]:
    """Run the model in a mode, and leave modes, buffers, gradients, random numbers and switches of torch as they were."""
    modes = [(m, m.training) for m in model.modules()]
    buffers = [(m, n, b, b.clone()) for m in model.modules() for n, b in m._buffers.items() if b is not None]
    devices = sorted({t.device.index for t in (*model.parameters(), *model.buffers()) if t.device.type == "cuda"})
    python = random.getstate()
    fast = torch.backends.mha.get_fastpath_enabled()
    # The fused encoder of torch never calls the activation as one, so it would hide the site.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.random.fork_rng(devices), torch.no_grad():
            torch.manual_seed(0)
            random.seed(0)
            model.train(training)
            for m in model.modules():
                if isinstance(m, nn.modules.batchnorm._BatchNorm):
                    # Batch statistics need more than one value per channel, and would be written into the buffers.
                    m.training = False
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        random.setstate(python)
        for m, mode in modes:
            m.training = mode
        with torch.no_grad():
            for m, name, buffer, value in buffers:
                m._buffers[name] = buffer
                buffer.copy_(value)


_ROWS = {F.linear, F.layer_norm, F.embedding}
_CONVOLUTIONS = {
    F.conv1d: 2, F.conv2d: 3, F.conv3d: 4, F.conv_transpose1d: 2, F.conv_transpose2d: 3, F.conv_transpose3d: 4,
}  # fmt: skip
_COLUMNS = {F.batch_norm, F.group_norm, F.instance_norm}
_PRODUCTS = {torch.mul, torch.Tensor.mul, torch.Tensor.mul_, torch.multiply, torch.Tensor.__mul__, torch.Tensor.__rmul__,
             torch.Tensor.__imul__, torch.Tensor.multiply}  # fmt: skip
_MOVES = {"permute", "transpose", "reshape", "view", "flatten", "movedim", "t", "swapaxes", "matmul", "unflatten", "squeeze",
          "unsqueeze", "__matmul__", "bmm", "einsum", "select", "__getitem__"}  # fmt: skip
_VIEWS = {"view", "reshape", "expand", "expand_as", "unsqueeze", "squeeze", "permute", "transpose", "view_as", "__getitem__",
          "clone", "contiguous", "to", "type_as", "chunk", "split", "div", "__truediv__", "div_", "flatten", "add", "__add__",
          "__sub__",          "interpolate", "sub", "__rsub__", "float"}  # fmt: skip


class _Recorder(TorchFunctionMode):
    """Sees every torch function of a run, and through a global hook every module."""

    def __init__(self, rules: list[Rule], slots: dict[int, tuple[nn.Module, str, nn.Module]], training: bool) -> None:
        super().__init__()
        # Not that of each owner: batch norms stay in eval mode, and timm's hold activations.
        self.training = training
        self.rules = rules
        self.slots = slots
        self.calls: list[Call] = []
        self._runs: dict[int, int] = {}
        self._times: dict[Any, int] = {}
        self._inside: list[nn.Module] = []
        self._kept: list[Any] = []
        self._gates: dict[int, Call] = {}
        self._dims: dict[int, int] = {}

    def before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._runs[id(module)] = self._runs.get(id(module), 0) + 1
        if self._inside:
            return
        if rule := rule_for_module(module, self.rules):
            owner, chain, _ = callers(sys._getframe(1), of=module)
            if args and isinstance(args[0], Tensor):
                self._record(rule, "module", owner, chain, module, args, {})
            self._inside.append(module)
        elif family_of_module(module):
            # torch's own layer for an activation that was not asked for: the function inside it is no site of the model.
            self._inside.append(module)

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._inside and self._inside[-1] is module:
            self._inside.pop()
            if isinstance(output, Tensor):
                call = next((c for c in reversed(self.calls) if c.form == "module"), None)
                old = self.slots[id(module)][2] if id(module) in self.slots else module
                if call is not None and call.old is old:
                    self._tag(call, output)

    def _record(
        self,
        rule: Rule,
        form: str,
        owner: nn.Module | None,
        chain: Chain,
        old: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Call | None:
        if owner is None:
            return None
        if id(owner) in self.slots:
            owner = self.slots[id(owner)][2]
        x = args[0] if args else kwargs["input"]
        key = (id(owner), self._runs.get(id(owner), 0), chain)
        time = self._times[key] = self._times.get(key, -1) + 1
        slot = None
        if form == "module" and id(old) in self.slots:
            place, name, registered = self.slots[id(old)]
            slot, old = (place, name), registered
        inplace = bool(getattr(old, "inplace", False) or kwargs.get("inplace", False) or function_is_inplace(old, args))
        rest = (tuple(args[1:]), {k: v for k, v in kwargs.items() if k != "input"})
        dim = self._dims.get(id(x))
        call = Call(
            rule, form, owner, chain, time, old, slot, inplace, rest, tuple(x.shape), x.dtype, x.device, dim, self.training
        )
        self.calls.append(call)
        return call

    def _tag(self, call: Call, output: Tensor) -> None:
        if call.rule.family is not None and call.rule.family.bounded:
            self._gates[id(output)] = call
            self._kept.append(output)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        call = None
        if not self._inside and (spelled := spelling(func)):
            family, form, name = spelled
            owner, chain, functional = callers(sys._getframe(1))
            old: Any = func
            if form == "method" and functional:
                # F.sigmoid(x) is x.sigmoid() inside; the model's source says F.sigmoid.
                form, old = "function", getattr(F, functional)
            rule = rule_for_call(family, form, self.rules)
            if rule:
                call = self._record(rule, form, owner, chain, old if form == "function" else name, args, kwargs)
        output = func(*args, **kwargs)
        self._follow(func, args, output, call)
        return output

    def _follow(self, func: Any, args: Any, output: Any, call: Call | None) -> None:
        name = getattr(func, "__name__", "")
        first = next((t for t in tensors_of(list(args[:1]))), None)
        if func in _PRODUCTS and len(args) >= 2 and isinstance(args[0], Tensor) and isinstance(args[1], Tensor):
            for operand, other in ((args[0], args[1]), (args[1], args[0])):
                if (gate := self._gates.get(id(operand))) and other.dim() >= 2:
                    gate.gate = True
        results = (
            [output]
            if isinstance(output, Tensor)
            else [t for t in output if isinstance(t, Tensor)]
            if isinstance(output, tuple | list)
            else []
        )
        for result in results:
            # Held until the run ends, because everything is known by id.
            keep = False
            if call is not None and call.rule.family is not None and call.rule.family.bounded:
                self._gates[id(result)] = call
                keep = True
            elif (
                first is not None
                and id(first) in self._gates
                and (name in _VIEWS or (func in _PRODUCTS and not isinstance(args[1], Tensor)))
            ):
                self._gates[id(result)] = self._gates[id(first)]
                keep = True
            dim: int | None = None
            if func in _ROWS:
                dim = -1
            elif func in _CONVOLUTIONS:
                dim = result.dim() - _CONVOLUTIONS[func]
            elif func in _COLUMNS:
                dim = 1
            elif first is not None and id(first) in self._dims and name not in _MOVES and result.dim() == first.dim():
                dim = self._dims[id(first)]
            if dim is not None:
                self._dims[id(result)] = dim
                keep = True
            elif result is not first:
                self._dims.pop(id(result), None)
            if keep:
                self._kept.append(result)


def function_is_inplace(old: Any, args: tuple[Any, ...]) -> bool:
    """Whether a function or method overwrites its input by its name."""
    return str(old if isinstance(old, str) else getattr(old, "__name__", "")).endswith("_")


@contextlib.contextmanager
def _separate(model: nn.Module, rules: list[Rule]) -> Iterator[dict[int, tuple[nn.Module, str, nn.Module]]]:
    """Put a shallow copy into every place that holds an activation, so that a call tells the place it came through."""
    slots: dict[int, tuple[nn.Module, str, nn.Module]] = {}
    done: list[tuple[nn.Module, str, nn.Module]] = []
    for owner in list(model.modules()):
        for name, child in list(owner._modules.items()):
            if child is not None and not list(child.children()) and rule_for_module(child, rules):
                stand_in = copy.copy(child)
                # copy.copy shares the dictionaries of parameters, buffers and hooks; only the identity is new.
                owner._modules[name] = stand_in
                slots[id(stand_in)] = (owner, name, child)
                done.append((owner, name, child))
    try:
        yield slots
    finally:
        for owner, name, child in done:
            owner._modules[name] = child


def probe(model: nn.Module, example: Example, rules: list[Rule], training: bool) -> tuple[list[Call], Any]:
    """All calls of activations in one run, and the output.

    Args:
        training: the mode to run in. Batch norm keeps its running statistics in either.
    """
    with untouched(model, training), _separate(model, rules) as slots:
        recorder = _Recorder(rules, slots, training)
        hooks = [
            register_module_forward_pre_hook(recorder.before),
            register_module_forward_hook(recorder.after),
        ]
        try:
            with recorder:
                output = run(model, example)
        finally:
            for hook in hooks:
                hook.remove()
        return recorder.calls, output


def family_name(family: Family | None) -> str:
    """What to call a family in a table."""
    return family.name if family else "own"
