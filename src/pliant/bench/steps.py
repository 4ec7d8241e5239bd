"""Whole training steps: the same network with nn.ReLU and with ours, raced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pliant.bench.agreement import Disagreement, NetworkReference
from pliant.bench.networks import CLASSES, Network
from pliant.bench.subjects import Naive, Subject, has_switch, readable
from pliant.bench.timing import Runner, Watch, race
from pliant.clock import Clock
from pliant.errors import MissingExtraError
from pliant.swap import swap_

__all__ = ["COMPARED", "Entrant", "measure"]

COMPARED = ("dsrelu", "arelu", "srelu")
"""The activations that are put into networks."""
STEPS = 10**9
"""Planned steps of the clock: it is advanced, which is part of a step's cost, and the slope stays where it was checked."""


@dataclass
class Entrant:
    """A network that takes part.

    Args:
        name: as shown. activation, role: as in :mod:`pliant.bench.kernels`; torch's own is ``relu``.
        network: trained in place. baseline: the name of the entrant its time is divided by.
    """

    name: str
    activation: str
    role: str
    network: nn.Module
    baseline: str = "ReLU"
    call: Callable[[Tensor], Any] | None = None


def _loss(out: Any, target: Tensor) -> Tensor:
    # Networks with auxiliary heads return a tuple while they train.
    first = out if isinstance(out, Tensor) else out[0]
    return nn.functional.cross_entropy(first, target)


def _entrants(network: Network, subjects: Sequence[Subject], example: Tensor, device: str, compiled: bool) -> list[Entrant]:
    def build(make: Callable[[], nn.Module] | None = None) -> nn.Module:
        torch.manual_seed(0)
        built = network.build().train()
        if make is not None:
            swap_(built, {nn.ReLU: make}, example=example.cpu())
        return built.to(device)

    found = [Entrant("ReLU", "relu", "torch", build()), Entrant("ReLU again", "relu", "control", build())]
    for subject in subjects:
        ours = build(subject.make)
        found.append(Entrant(f"{subject.name} pliant", subject.name, "pliant", ours))
        if has_switch():
            found.append(Entrant(f"{subject.name} readable", subject.name, "readable", readable(ours)))
        naive = build(lambda s=subject: Naive(s.naive, s.make()))  # type: ignore[misc]
        found.append(Entrant(f"{subject.name} naive", subject.name, "naive", naive))
    if compiled:
        for entrant in list(found):
            if entrant.role in ("torch", "pliant", "naive"):
                copy = build(_maker(entrant, subjects))
                name, baseline = f"{entrant.name} compiled", "ReLU" if entrant.role == "torch" else "ReLU compiled"
                call = torch.compile(copy, dynamic=False)
                found.append(Entrant(name, entrant.activation, "compiled", copy, baseline, call))
    return found


def _maker(entrant: Entrant, subjects: Sequence[Subject]) -> Callable[[], nn.Module] | None:
    subject = next((s for s in subjects if s.name == entrant.activation), None)
    if subject is None:
        return None
    chosen = subject
    return chosen.make if entrant.role == "pliant" else lambda: Naive(chosen.naive, chosen.make())  # type: ignore[arg-type]


def _runner(entrant: Entrant, x: Tensor, target: Tensor) -> Runner:
    # A rate of 0 costs the same step and leaves every network what it was checked as.
    optimizer = torch.optim.SGD(entrant.network.parameters(), lr=0.0, momentum=0.9)
    clock = Clock(entrant.network, STEPS)
    forward = entrant.network if entrant.call is None else entrant.call

    def step(_: Any) -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(_loss(forward(x), target))
        optimizer.step()
        clock.step()

    return Runner(entrant.name, {"step": step})


def measure(
    network: Network,
    subjects: Sequence[Subject],
    *,
    device: str,
    seconds: float,
    compiled: bool,
    watch: Watch,
    entrants: Callable[[list[Entrant]], list[Entrant]] = lambda known: known,
) -> dict[str, Any]:
    """Check every network, race their steps, and give the record of the results file.

    A step is zero_grad, forward, cross-entropy, backward, SGD with momentum, and the clock of scheduled coefficients.

    Args:
        subjects: the activations to swap in, not in place.
        seconds: for the rounds.
        entrants: changes the field before it is checked, for tests.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((network.batch, *network.shape), generator=generator)
    record: dict[str, Any] = {"network": network.name, "batch": network.batch, "shape": list(network.shape), "dtype": "float32"}
    try:
        field = entrants(_entrants(network, subjects, x, device, compiled))
    except MissingExtraError as missing:
        return record | {"skipped": str(missing)}
    record["source"] = type(field[0].network).__module__.partition(".models")[0]
    x = x.to(device)
    target = torch.randint(CLASSES, (network.batch,), generator=generator).to(device)
    wrong: dict[str, Disagreement | None] = {}
    for subject in subjects:
        own = [e for e in field if e.activation == subject.name]
        reference = NetworkReference(next(e for e in own if e.role == "pliant").network, x, lambda out: _loss(out, target))
        wrong |= {e.name: reference.disagreement(e.network, e.call) for e in own}
        del reference
    result = race([_runner(e, x, target) for e in field if not wrong.get(e.name)], seconds, watch)
    if compiled:
        torch.compiler.reset()
    record["rounds"] = result.rounds
    record["contestants"] = []
    for e in field:
        bad = wrong.get(e.name)
        others = {e.baseline, f"{e.activation} naive"} & {o.name for o in field if not wrong.get(o.name)} - {e.name}
        ratio = None if bad else {o: {"step": result.ratio(e.name, o, "step").rounded()} for o in sorted(others)}
        record["contestants"].append(
            {
                "name": e.name,
                "activation": e.activation,
                "role": e.role,
                "checked": e.name in wrong,
                "disagrees": bad.json() if bad else None,
                "seconds": None if bad else {"step": result.time(e.name, "step").rounded()},
                "ratio": ratio,
            }
        )
    return record
