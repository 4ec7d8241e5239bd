"""The keys of a study, from the models that hold them: what a study file and ``--set`` can say."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from pliant.lab.recipe import QUIRKS
from pliant.lab.study import Component, Study, alternatives

__all__ = ["Key", "keys"]


@dataclass(frozen=True)
class Key:
    """One key of a study.

    Args:
        name: with its sections, as ``--set`` takes it. values: what may stand there. default: in TOML; "" where there is none.
        what: what it does.
    """

    name: str
    values: str
    default: str
    what: str


def keys() -> list[Key]:
    """Every key of a study, in the order of its sections. What the lab fills in itself is not among them."""
    return [key for key in _keys(Study, "") if key.name not in ("overrides", "tier", "paper")]


def _keys(model: type[BaseModel], prefix: str) -> Iterator[Key]:
    for name, field in model.model_fields.items():
        section = next((a for a in alternatives(field.annotation) if isinstance(a, type) and issubclass(a, BaseModel)), None)
        if section is not None:
            if section is Component and field.description:
                yield Key(f"{prefix}{name}", "name or section", "", _line(field.description))
            yield from _keys(section, f"{prefix}{name}.")
            continue
        if not field.description:
            raise TypeError(f"{model.__name__}.{name} has no docstring, which is what users are told of it.")
        missing = field.default is PydanticUndefined
        default = "" if missing and field.default_factory is None else field.get_default(call_default_factory=True)
        values = ", ".join(QUIRKS) if name == "quirks" else _values(field.annotation)
        yield Key(f"{prefix}{name}", values, _toml(default), _line(field.description))


def _values(annotation: Any) -> str:
    """A type in the words of a study file."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if len(alternatives(annotation)) > 1:
        return " or ".join(dict.fromkeys(_values(a) for a in args if a is not types.NoneType))
    if origin is Literal:
        return ", ".join(str(a) for a in args)
    if origin is typing.Annotated:
        return _values(args[0])
    if origin is tuple:
        inner = dict.fromkeys(_values(a) for a in args if a is not Ellipsis)
        return f"list of {' and '.join(inner)}" if args[-1] is Ellipsis else f"[{', '.join(_values(a) for a in args)}]"
    if origin is dict:
        return "table"
    return {bool: "true, false", int: "whole number", float: "number", str: "text"}[annotation]


def _toml(value: Any) -> str:
    if value is None or value in ("", (), {}):
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _line(text: str) -> str:
    """A docstring as plain text on one line."""
    return " ".join(text.replace("``", "").replace(":data:", "").replace("`", "").split())
