"""Where in the source a call stands: the stack between a module's ``forward`` and the call, by code and position."""

from __future__ import annotations

import functools
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType

import torch
from torch import nn

__all__ = ["Chain", "Link", "callers", "chain_from"]

_CALL = nn.Module._call_impl.__code__
_MODULE_FILE = _CALL.co_filename
_TORCH = str(Path(torch.__file__).parent)
_WRAPPERS = tuple(
    str(Path(_TORCH, *p)) for p in (("nn", "functional.py"), ("overrides.py",), ("_tensor.py",), ("_jit_internal.py",))
)
_LAYERS = str(Path(_TORCH, "nn", "modules")) + os.sep
_HERE = str(Path(__file__).parent) + os.sep


@dataclass(frozen=True)
class Link:
    """One function on the way to a call, and the call in it: the line and column at which its closing bracket stands."""

    code: CodeType
    line: int
    column: int

    @property
    def is_torchs(self) -> bool:
        """Whether torch itself only carries the call on (``checkpoint``, a decorator), rather than a layer of torch."""
        name = self.code.co_filename
        return name.startswith(_TORCH + os.sep) and not name.startswith(_LAYERS)

    def stable(self) -> tuple[str, int, int]:
        """The same in words that another process understands."""
        return self.code.co_qualname, self.line - self.code.co_firstlineno, self.column


Chain = tuple[Link, ...]


@functools.lru_cache(maxsize=4096)
def _ends(code: CodeType) -> tuple[tuple[int, int], ...]:
    return tuple((end or line or 0, column or 0) for line, end, _, column in code.co_positions())


def _link(frame: FrameType) -> Link:
    return Link(frame.f_code, *_ends(frame.f_code)[frame.f_lasti // 2])


def callers(frame: FrameType | None, of: nn.Module | None = None) -> tuple[nn.Module | None, Chain, str]:
    """The module whose ``forward`` leads to ``frame``, and the way from there.

    Args:
        frame: where to start.
        of: a module that is being called; the search then starts outside its call.

    Returns:
        The module (None outside of all), the way from its ``forward`` inwards, and the name of the function of
        ``torch.nn.functional`` through which the call went, if any.
    """
    while of is not None and frame is not None:
        found = frame.f_code is _CALL and frame.f_locals.get("self") is of
        frame = frame.f_back
        if found:
            break
    way: list[Link] = []
    functional = ""
    while frame is not None:
        code = frame.f_code
        if code is _CALL:
            return frame.f_locals["self"], tuple(reversed(way)), functional
        name = code.co_filename
        if not way and name in _WRAPPERS:
            functional = code.co_name if name == _WRAPPERS[0] else functional
        elif name != _MODULE_FILE and not name.startswith(_HERE):
            way.append(_link(frame))
        frame = frame.f_back
    return None, (), functional


def chain_from(depth: int = 1) -> FrameType:
    """The frame of the caller, ``depth`` levels up."""
    return sys._getframe(depth + 1)
