"""swap_, restore_, and an optimizer that was made before."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from pliant.groups import param_groups
from pliant.swap.errors import SwapError
from pliant.swap.families import Key
from pliant.swap.install import install, restore
from pliant.swap.plan import Plan, plan
from pliant.swap.site import Site

__all__ = ["Swap", "restore_", "swap_", "update_optimizer"]


@dataclass(eq=False)
class Swap:
    """What :func:`swap_` did. ``len`` is the number of sites; ``undo()`` restores the model."""

    model: nn.Module = field(repr=False)
    plan: Plan
    new_keys: tuple[str, ...]
    """State_dict keys that the model did not have before."""

    def __len__(self) -> int:
        return len(self.plan)

    def __str__(self) -> str:
        return str(self.plan)

    def undo(self) -> nn.Module:
        """:func:`restore_` on the model."""
        return restore_(self.model)


def swap_(model: nn.Module, what: Plan | dict[Key, Any], **options: Any) -> Swap:
    """Exchange activations in place. The classes of all modules, hooks, checkpoint keys and all else stay.

    A module that is called at one place is replaced where it is registered. Where a forward calls functions, or one
    module at several places, the instance gets a ``forward`` made of its own source with those calls redirected, and the new
    modules lie in ``activation_sites``, or in the place of the module that was called several times. All survive copying and
    pickling; :func:`restore_` undoes it.

    Args:
        model: the model to change.
        what: a :class:`Plan` for this model, or a mapping to plan with ``options``, which then include ``example=``.

    Raises:
        SwapError: nothing would change; a part of what was asked cannot be reached; the plan is for another model. The model is
            then as it was.
    """
    if not isinstance(what, Plan):
        if "example" not in options:
            raise SwapError("swap_ was given a mapping without example=; the sites are found by running the model once.")
        what = plan(model, what, **options)
    elif options:
        raise SwapError(f"swap_ was given a plan and {', '.join(options)}; options belong to the call of pliant.plan.")
    if what.model is not model:
        raise SwapError("The plan was made for another model; make one for this model.")
    if what.unreachable:
        names = ", ".join(f"{s.name} ({s.why.removeprefix('unreachable: ')})" for s in what.unreachable)
        raise SwapError(f"A part of what was asked cannot be reached: {names}. Leave it out with exclude= to swap the rest.")
    if not what.sites:
        left = f" {len(what.left)} were found and left alone; print the plan to see why." if what.left else ""
        raise SwapError(f"Nothing would change: the model calls no activation of the mapping with this example.{left}")
    _require_fresh(what)
    before = set(model.state_dict())
    install(model, what.sites, what.left, _modules(what))
    return Swap(model, what, tuple(k for k in model.state_dict() if k not in before))


def _require_fresh(what: Plan) -> None:
    for site in what.sites:
        if site.slot is not None and site.slot[0]._modules.get(site.slot[1]) is not site.old:
            raise SwapError(f"The model is no longer as it was planned: {site.name} is another module now. Make a new plan.")
        if site.slot is None and site.owner.__dict__.get("forward") is not what.forwards.get(id(site.owner)):
            raise SwapError(f"The model is no longer as it was planned: {site.name} was swapped since. Make a new plan.")


def _modules(what: Plan) -> list[nn.Module]:
    if what.parameters == "site":
        return [what.build(site) for site in what.sites]
    shared: dict[Any, tuple[nn.Module, Site]] = {}
    modules = []
    for site in what.sites:
        key: Any = id(site.rule)
        if what.parameters == "module":
            key = (key, id(site.old) if isinstance(site.old, nn.Module) else id(site.owner))
        module = what.build(site)
        first, where = shared.setdefault(key, (module, site))
        if [p.shape for p in first.parameters()] != [p.shape for p in module.parameters()]:
            raise SwapError(
                f"parameters={what.parameters!r} would share one module between {where.name} and {site.name}, which have "
                "different numbers of channels. Use per_channel=False or parameters='site'."
            )
        modules.append(first)
    return modules


def restore_(model: nn.Module) -> nn.Module:
    """Undo every swap in the model, in place, also in a copy or after loading a pickle. The new modules are gone.

    Raises:
        SwapError: the model is not swapped.
    """
    if restore(model) == 0:
        raise SwapError(f"This {type(model).__name__} is not swapped, so there is nothing to restore.")
    return model


def update_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, **options: Any) -> int:
    """Add the parameters of activations that an optimizer does not have yet, in a group without weight decay. Drops none.

    The group is called "activations"; one of that name takes them in. A learning-rate scheduler that exists already
    knows nothing of a new group: make schedulers afterwards, or start with :func:`pliant.param_groups`.

    Args:
        optimizer: made for the model before it was swapped.
        options: of the new group, for example ``lr``; the rest is the optimizer's default.

    Returns:
        The number of parameters added.
    """
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    groups = [g for g in param_groups(model) if g["name"] == "activations"]
    missing = [p for group in groups for p in group["params"] if id(p) not in known]
    if not missing:
        return 0
    for group in optimizer.param_groups:
        if group.get("name") == "activations" and not options:
            group["params"].extend(missing)
            return len(missing)
    new: dict[str, Any] = {"params": missing, "weight_decay": 0.0, **options}
    if any("name" in g for g in optimizer.param_groups):
        new["name"] = "activations"
    first = optimizer.param_groups[0]
    new.setdefault("lr", first.get("initial_lr", first["lr"]) if "lr" in first else optimizer.defaults.get("lr"))
    optimizer.add_param_group(new)
    return len(missing)
