"""What torch.compile makes of an activation while its coefficients move: programs, graph breaks."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch._dynamo.utils import counters

from pliant.activation import Activation
from pliant.bench.subjects import Subject
from pliant.clock import Clock
from pliant.errors import PliantError

__all__ = ["measure"]

STEPS = 20


def measure(subject: Subject, device: str) -> dict[str, Any]:
    """Compile the activation, run forward and backward over :data:`STEPS` steps in which scheduled coefficients follow their
    schedule and learned ones are changed, and count. The backend only counts; it generates no code.

    Returns ``programs`` (1 is best: nothing was compiled again), ``graph_breaks`` (0 is best) and ``steps``.
    """
    record: dict[str, Any] = {"activation": subject.name, "steps": STEPS}
    try:
        module = copy.deepcopy(subject.make()).to(device)
    except PliantError as missing:
        return record | {"skipped": str(missing)}
    programs = 0

    def count(graph: torch.fx.GraphModule, _: Any) -> Any:
        nonlocal programs
        programs += 1
        return graph.forward

    torch.compiler.reset()
    counters.clear()
    compiled = torch.compile(module, backend=count)
    clock = Clock(nn.ModuleList([module]), STEPS) if isinstance(module, Activation) else None
    # Only a leaf that asks for no gradient may be overwritten.
    x = torch.linspace(-2, 2, 64 * 32, device=device).reshape(64, 32).requires_grad_(not subject.inplace)
    for _ in range(STEPS):
        y = compiled(x)
        if y.requires_grad:
            y.sum().backward()
        with torch.no_grad():
            for p in module.parameters():
                p.add_(0.01)
        if clock is not None:
            clock.step()
    breaks = sum(counters["graph_break"].values())
    torch.compiler.reset()
    return record | {"programs": programs, "graph_breaks": breaks}
