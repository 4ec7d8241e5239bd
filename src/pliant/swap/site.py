"""What a place that calls an activation is."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from pliant.swap.errors import SwapError
from pliant.swap.families import Rule
from pliant.swap.probe import Call


@dataclass(eq=False)
class Site:
    """One place that calls an activation."""

    name: str
    """Module path, and for a function ``()``; with ``:2`` the second of several calls."""
    kind: str
    """``module``: the module is replaced. ``call``: one of several calls of a module. ``function``, ``method``.
    ``intercepted``: correct in eager, but compilers and exporters cannot follow."""
    old: nn.Module | Callable[..., Any] | str
    """What is called now: the module, the function, or the name of the tensor's method."""
    calls: int
    """Calls in one run of the model, the more of the two modes."""
    shape: tuple[int, ...]
    """Shape of the input at the first call."""
    modes: frozenset[str]
    """In which modes it runs: ``train``, ``eval``."""
    where: str
    """File and line of the call."""
    rule: Rule = field(repr=False)
    owner: nn.Module = field(repr=False)
    owner_name: str = field(repr=False)
    root: nn.Module = field(repr=False)
    dtype: torch.dtype = field(repr=False)
    device: torch.device = field(repr=False)
    call: Call = field(repr=False)
    slot: tuple[nn.Module, str] | None = field(repr=False, default=None)
    becomes: str = ""
    why: str = ""
    """Why it is left alone; empty if it changes."""
    emulate: bool = field(default=False, repr=False)
    """Write the result back into the input, because the model reads it there."""

    @property
    def channel_dim(self) -> int:
        """The dimension that holds the channels, from the layer that made the input.

        Raises:
            SwapError: it cannot be told.
        """
        if self.call.channel_dim is not None:
            return self.call.channel_dim
        if len(self.shape) == 3 or not self.shape:
            raise SwapError(
                f"{self.name} has inputs of shape {self.shape}, and nothing before it tells which dimension holds the "
                "channels. Use per_channel=False, or a callable(site) that builds the module with the channels you want."
            )
        return 1 if len(self.shape) > 1 else 0

    @property
    def channels(self) -> int:
        """How many channels the input has."""
        return self.shape[self.channel_dim]

    def old_module(self) -> nn.Module:
        """What is there now as a module of its own, never in place: a copy, or the class that goes with the function."""
        if isinstance(self.old, nn.Module):
            module = copy.deepcopy(self.old)
            for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks"):
                getattr(module, hooks).clear()
            if hasattr(module, "inplace"):
                module.__dict__["inplace"] = False
            return module
        args, kwargs = self.call.arguments
        family = self.rule.family
        assert family is not None
        if family.name == "prelu":
            weight = args[0] if args else kwargs["weight"]
            module = nn.PReLU(weight.numel())
            module.load_state_dict({"weight": weight.detach().reshape(-1)})
            return module
        kwargs = {k: v for k, v in kwargs.items() if k not in ("inplace", "training", "out")}
        names = list(inspect.signature(family.modules[0]).parameters)
        return family.modules[0](**{n: v for n, v in zip(names, args, strict=False) if n != "inplace"}, **kwargs)
