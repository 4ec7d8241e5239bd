"""Which activations of a detector are exchanged."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import nn

from pliant.errors import DomainError, unknown
from pliant.lab.models.layers import Activation
from pliant.swap import Plan, Site, plan, swap_

__all__ = ["chosen", "exchange"]


def chosen(detector: str, sites: str, known: Collection[str]) -> frozenset[str]:
    """The parts of a detector that ``sites`` names: "all", or some of ``known`` with commas between them.

    Raises:
        UnknownNameError: the detector has no such part, or none with activations.
    """
    if sites == "all":
        return frozenset(known)
    parts = [part.strip() for part in sites.split(",")]
    for part in parts:
        if part not in known:
            raise unknown(f"part of {detector} with activations", part, [*known, "all"])
    return frozenset(parts)


def exchange(
    network: nn.Module,
    activation: Activation,
    *,
    run: Callable[[nn.Module], Any],
    part_of: Callable[[Site], str],
    parts: Collection[str],
) -> tuple[str, ...]:
    """Exchange every ReLU of a detector of torchvision that lies in one of ``parts``.

    Args:
        run: runs the network once, in evaluation mode.
        part_of: the part of the detector in which a site lies; "" for one that is no activation.

    Returns:
        The plan, a line for each site.

    Raises:
        DomainError: a module that ``activation()`` made was given twice.
    """
    made: dict[Site, nn.Module] = {}

    def at(site: Site) -> nn.Module:
        # A plan builds what it describes, and the swap builds again; the lab must see each activation made once.
        if site not in made:
            made[site] = activation()
        return made[site]

    with torch.random.fork_rng(devices=[]):
        found: Plan = plan(network, {nn.ReLU: at}, example=run, modes=("eval",), include=lambda s: part_of(s) in parts)
    if len({id(m) for m in made.values()}) != len(made):
        raise DomainError("activation() returned one module twice; each call must make a new one, for one call site.")
    swap_(network, found)
    left = (f"{s.name}: left, {s.why if part_of(s) else 'a part of a box and no activation'}" for s in found.left)
    return (*(f"{s.name}: {s.becomes}" for s in found), *left)
