"""Puts modules into their sites, and takes them out again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pliant.swap.errors import SwapError
from pliant.swap.intercept import Intercepted, Way, stable
from pliant.swap.rewrite import PerCall, Recipe, Rewritten, Sites, Slot, recipe_for, steps
from pliant.swap.site import Site

__all__ = ["Before", "install", "restore"]

_RECORD = "_pliant_before"
_MISSING = "pliant: was not there"


@dataclass
class Before:
    """What a module was before it was swapped. Lies beside the module's state, so that copies and pickles can be restored."""

    children: dict[str, nn.Module] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    sites: bool = False
    """Whether ``activation_sites`` was not there."""
    names: list[str] = field(default_factory=list)
    """What was added to an ``activation_sites`` that was there."""


class Unchanged(nn.Module):
    """A call as it was: a module, a function or a tensor method with its further arguments."""

    def __init__(self, old: Any, arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
        super().__init__()
        # In a tuple, because a module assigned to a module would be registered, and run with its hooks.
        self.old = (old,)
        self.arguments = arguments

    def forward(self, x: Tensor) -> Any:
        """The old result."""
        (old,), (args, kwargs) = self.old, self.arguments
        if isinstance(old, str):
            return getattr(x, old)(*args, **kwargs)
        if isinstance(old, nn.Module):
            return old.forward(x, *args, **kwargs)
        return old(x, *args, **kwargs)


def _record(module: nn.Module) -> Before:
    return module.__dict__.setdefault(_RECORD, Before())  # type: ignore[no-any-return]


def _put(place: nn.Module, name: str, new: nn.Module) -> None:
    old = place._modules[name]
    assert old is not None
    _record(place).children.setdefault(name, old)
    place._modules[name] = new


def _hooks(old: nn.Module, new: nn.Module) -> None:
    # The dictionaries themselves, so that the handles the user holds still take their hooks away.
    for name in (
        "_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs",
        "_forward_hooks_always_called", "_backward_hooks", "_backward_pre_hooks",
    ):  # fmt: skip
        if old.__dict__.get(name):
            new.__dict__[name] = old.__dict__[name]


def _set(module: nn.Module, name: str, value: Any) -> None:
    _record(module).attributes.setdefault(name, module.__dict__.get(name, _MISSING))
    module.__dict__[name] = value


def _host(model: nn.Module, owner: nn.Module) -> nn.Module:
    """Where the new modules of an owner live: with itself, unless it may walk over its children as layers."""
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    if not isinstance(owner, containers):
        return owner
    names = {id(m): n for n, m in model.named_modules()}
    name = names[id(owner)]
    while name:
        name = name.rpartition(".")[0]
        above = model.get_submodule(name)
        if not isinstance(above, containers):
            return above
    return owner


def install(model: nn.Module, sites: list[Site], left: list[Site], modules: list[nn.Module]) -> None:
    """Put ``modules[i]`` into ``sites[i]``.

    Args:
        left: the sites that stay. Where one of them shares a module with a site that changes, it is kept beside the new ones.
    """
    new = dict(zip(map(id, sites), modules, strict=True))
    shared: dict[tuple[int, str], list[Site]] = {}
    for site in [*sites, *left]:
        if site.slot is not None:
            shared.setdefault((id(site.slot[0]), site.slot[1]), []).append(site)
    # For each owner, line by line: the sites of that line in the order of its runs, and their names.
    lines: dict[int, dict[Any, list[tuple[int, Site, str | int]]]] = {}

    def at(site: Site, name: str | int) -> None:
        key = (site.call.chain, site.call.form)
        lines.setdefault(id(site.owner), {}).setdefault(key, []).append((site.call.time, site, name))

    for group in shared.values():
        chosen = [s for s in group if id(s) in new]
        if not chosen:
            continue
        assert chosen[0].slot is not None
        place, name = chosen[0].slot
        old = place._modules[name]
        assert old is not None
        if len(chosen) == len(group) and len({id(new[id(s)]) for s in chosen}) == 1 and not any(s.emulate for s in chosen):
            module = new[id(chosen[0])]
            _hooks(old, module)
            _put(place, name, module)
        else:
            several = PerCall([new.get(id(s), old) for s in group])
            several.training = place.training
            for s in chosen:
                _hooks(old, new[id(s)])
            _put(place, name, several)
            for i, site in enumerate(group):
                at(site, i)
    # A line whose call changes at one of its runs only needs a module for the others as well.
    busy = {(id(s.owner), s.call.chain) for s in sites if s.slot is None}
    for site in [*sites, *left]:
        if site.slot is None and (id(site.owner), site.call.chain) in busy:
            host = _host(model, site.owner)
            if "activation_sites" not in host._modules:
                _record(host).sites = True
                host.activation_sites = Sites()
                host.activation_sites.training = host.training
            record = _record(host)
            container: Any = host.activation_sites
            title = site.old if isinstance(site.old, str) else getattr(site.old, "__name__", type(site.old).__name__.lower())
            title = str(title).rstrip("_")
            name = next(n for i in range(len(container) + 1) if (n := f"{title}_{i}" if i else title) not in container._modules)
            module = new[id(site)] if id(site) in new else Unchanged(site.old, site.call.arguments)
            # One name for one module: a line that runs more often than planned then still has only one choice.
            known = next((n for n, m in container._modules.items() if m is module), None)
            if known is None:
                container._modules[name] = module
                if not record.sites:
                    record.names.append(name)
            name = known or name
            at(site, name)
    for site in sites:
        for module in {id(m): m for m in (site.owner, *(site.slot[:1] if site.slot else ()))}.values():
            if isinstance(module, nn.TransformerEncoderLayer):
                # The fused path of torch would compute its own ReLU or GELU; 0 is how the layer says that it has neither.
                _set(module, "activation_relu_or_gelu", 0)
    owners = {id(s.owner): s.owner for s in [*sites, *left]}
    for key, rows in lines.items():
        _redirect(owners[key], _host(model, owners[key]), rows)


def _redirect(owner: nn.Module, host: nn.Module, rows: dict[Any, list[tuple[int, Site, str | int]]]) -> None:
    calls: list[tuple[Any, Slot]] = []
    caught: dict[Way, Slot] = {}
    before = owner.__dict__.get("forward")
    for (chain, form), found in rows.items():
        found.sort(key=lambda row: row[0])
        site = found[0][1]
        expected = type(site.old) if isinstance(site.old, nn.Module) else site.old
        form = "module" if site.slot is not None else "function" if isinstance(site.old, nn.Module) else form
        slot = Slot(form, expected, tuple(name for *_, name in found), any(s.emulate for _, s, _ in found))
        way = None if any(s.kind == "intercepted" for _, s, _ in found) else steps(chain, owner)
        if way is None:
            caught[stable(chain)] = slot
        else:
            calls.append((way, slot))
    start: Recipe | None = before.recipe if isinstance(before, Rewritten) else None
    if before is not None and start is None and calls:
        raise SwapError(f"{type(owner).__name__} has a forward of its own in the instance, which cannot be redirected.")
    if calls:
        _set(owner, "forward", Rewritten(owner, recipe_for(calls, start), host))
    if caught:
        _set(owner, "forward", Intercepted(owner, host, caught, owner.__dict__.get("forward")))


@contextlib.contextmanager
def for_now(model: nn.Module) -> Iterator[None]:
    """Whatever is installed inside is undone at the end, down to what was there at the start, and not to before that."""
    records = [(m, m.__dict__.pop(_RECORD)) for m in model.modules() if _RECORD in m.__dict__]
    try:
        yield
    finally:
        restore(model)
        for module, record in records:
            module.__dict__[_RECORD] = record


def restore(model: nn.Module) -> int:
    """Undo every swap in the model; the number of modules that were touched."""
    count = 0
    for module in list(model.modules()):
        before = module.__dict__.pop(_RECORD, None)
        if before is None:
            continue
        count += 1
        for name, old in before.children.items():
            now = module._modules[name]
            device = next((p.device for p in now.parameters()), None) if now is not None else None
            if device is not None and device != torch.device("meta"):
                old.to(device)
            module._modules[name] = old.train(module.training)
        if before.sites:
            del module._modules["activation_sites"]
        for name in before.names:
            del module._modules["activation_sites"]._modules[name]  # type: ignore[union-attr]
        for name, value in before.attributes.items():
            module.__dict__.pop(name, None)
            # Not by identity: a copy or a pickle of the mark is another string.
            if not (isinstance(value, str) and value == _MISSING):
                module.__dict__[name] = value
    return count
