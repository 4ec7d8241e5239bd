"""Our activations under names that timm's models take."""

from __future__ import annotations

from typing import Any

from timm.layers import create_act
from torch import nn

from pliant.activations import ALL
from pliant.catalog import create, parse

__all__ = ["register"]


def register(*specs: str) -> list[str]:
    """Make activations known to timm as ``pliant.<spec>``: ``timm.create_model("resnet18", act_layer="pliant.arelu")``.

    Layers only, because a function has nowhere to keep a learned coefficient: timm's ``get_act_fn`` does not know them.

    Args:
        specs: as :func:`pliant.create` takes them; none for all of Pliant's.

    Returns:
        The names registered.

    Raises:
        UnknownNameError, DomainError: as :func:`pliant.catalog.parse`.
    """
    names = []
    for spec in specs or [cls.__name__ for cls in ALL]:
        text = str(parse(spec))
        create_act._ACT_LAYER_DEFAULT[f"pliant.{text}"] = _factory(text)
        names.append(f"pliant.{text}")
    return names


def _factory(text: str) -> Any:
    def make(inplace: bool = False, **options: Any) -> nn.Module:
        # timm asks for in-place activations by habit; ours have no such form and give the same numbers without.
        return create(text, **options)

    return make
