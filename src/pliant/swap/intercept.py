"""The way for a forward whose source cannot be redirected: calls are caught while it runs. Eager only."""

from __future__ import annotations

import contextvars
import copy
import inspect
import sys
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pliant.swap.errors import SwapError
from pliant.swap.families import spelling
from pliant.swap.frames import Chain, callers
from pliant.swap.rewrite import PerCall, Slot, _apply, _name_at

__all__ = ["Intercepted"]

Way = tuple[tuple[str, int, int], ...]
_ACTIVE: contextvars.ContextVar[tuple[_Running, ...]] = contextvars.ContextVar("pliant_intercepted", default=())


def stable(chain: Chain) -> Way:
    """A way to a call in words that another process understands."""
    return tuple(link.stable() for link in chain)


class Intercepted:
    """A forward that runs as it was written, while the calls in it that were asked for go to other modules.

    The interpreter's own stack tells which call it is. Compilers and exporters cannot follow that.
    """

    def __init__(self, owner: nn.Module, host: nn.Module, slots: dict[Way, Slot], before: Any = None) -> None:
        self.owner = owner
        self.host = host
        self.slots = slots
        self.before = before
        self.python = sys.version_info[:2]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        running = _Running(self)
        token = _ACTIVE.set((*_ACTIVE.get(), running))
        try:
            with running:
                if self.before is not None:
                    return self.before(*args, **kwargs)
                return type(self.owner).forward(self.owner, *args, **kwargs)
        finally:
            _ACTIVE.reset(token)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(type(self.owner).forward.__get__(self.owner))

    @property
    def __name__(self) -> str:
        return "forward"

    def __deepcopy__(self, memo: dict[int, Any]) -> Intercepted:
        new = Intercepted.__new__(Intercepted)
        memo[id(self)] = new
        new.owner = copy.deepcopy(self.owner, memo)
        new.host = copy.deepcopy(self.host, memo)
        new.before = copy.deepcopy(self.before, memo)
        new.slots = self.slots
        new.python = self.python
        return new

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.python != sys.version_info[:2]:
            raise SwapError(
                f"This model was swapped under Python {'.'.join(map(str, self.python))} at places that are found by the stack "
                "of that version. Load it there, call pliant.restore_, save it, and swap again here."
            )


class _Running(TorchFunctionMode):
    def __init__(self, intercepted: Intercepted) -> None:
        super().__init__()
        self.intercepted = intercepted
        self.times: dict[Way, int] = {}

    def find(self, owner: nn.Module | None, chain: Chain) -> tuple[Slot, int] | None:
        if owner is not self.intercepted.owner:
            return None
        way = stable(chain)
        slot = self.intercepted.slots.get(way)
        if slot is None:
            return None
        self.times[way] = self.times.get(way, -1) + 1
        return slot, self.times[way]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if spelling(func):
            owner, chain, _ = callers(sys._getframe(1))
            if found := self.find(owner, chain):
                slot, time = found
                sites: Any = self.intercepted.host.activation_sites
                module = sites[str(_name_at(slot, time))]
                return _apply(module, args[0] if args else kwargs["input"], slot.inplace)
        return func(*args, **kwargs)


def _dispatch(container: PerCall, x: Tensor) -> Tensor:
    for running in reversed(_ACTIVE.get()):
        owner, chain, _ = callers(sys._getframe(1), of=container)
        if found := running.find(owner, chain):
            slot, time = found
            module: Any = container[int(_name_at(slot, time))]
            return _apply(module, x, slot.inplace)  # type: ignore[no-any-return]
    return PerCall._refuse(container)


PerCall._dispatch = staticmethod(_dispatch)
