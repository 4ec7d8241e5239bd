"""The spellings of one activation in torch: a module class, functions, and methods of a tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

from pliant.swap.errors import SwapError

__all__ = ["FAMILIES", "Family", "Form", "Key", "Rule", "rules_of"]

Form: TypeAlias = Literal["module", "function", "method"]
Key: TypeAlias = type[nn.Module] | Callable[..., Any] | str
"""What may stand left in a mapping: a module class, a torch function, a method of ``torch.Tensor``, or a family's name."""


@dataclass(frozen=True, eq=False)
class Family:
    """One activation under all its names."""

    name: str
    modules: tuple[type[nn.Module], ...]
    functions: tuple[Callable[..., Any], ...]
    methods: tuple[str, ...] = ()
    bounded: bool = False
    """Whether the output lies between two bounds, so that it may be the gate of something else."""


FAMILIES: tuple[Family, ...] = (
    Family("relu", (nn.ReLU,), (F.relu, F.relu_, torch.relu, torch.relu_), ("relu", "relu_")),
    Family("leaky_relu", (nn.LeakyReLU,), (F.leaky_relu, F.leaky_relu_)),
    Family("prelu", (nn.PReLU,), (F.prelu, torch.prelu), ("prelu",)),
    Family("rrelu", (nn.RReLU,), (F.rrelu, F.rrelu_, torch.rrelu, torch.rrelu_)),
    Family("elu", (nn.ELU,), (F.elu, F.elu_)),
    Family("selu", (nn.SELU,), (F.selu, F.selu_, torch.selu, torch.selu_)),
    Family("celu", (nn.CELU,), (F.celu, F.celu_, torch.celu, torch.celu_)),
    Family("gelu", (nn.GELU,), (F.gelu,)),
    Family("silu", (nn.SiLU,), (F.silu,)),
    Family("mish", (nn.Mish,), (F.mish,)),
    Family("softplus", (nn.Softplus,), (F.softplus,)),
    Family("softsign", (nn.Softsign,), (F.softsign,)),
    Family("logsigmoid", (nn.LogSigmoid,), (F.logsigmoid,)),
    Family("tanhshrink", (nn.Tanhshrink,), (F.tanhshrink,)),
    Family("hardswish", (nn.Hardswish,), (F.hardswish,)),
    Family("relu6", (nn.ReLU6,), (F.relu6,), bounded=True),
    Family("hardtanh", (nn.Hardtanh,), (F.hardtanh, F.hardtanh_), bounded=True),
    Family("hardsigmoid", (nn.Hardsigmoid,), (F.hardsigmoid,), bounded=True),
    Family(
        "sigmoid",
        (nn.Sigmoid,),
        (F.sigmoid, torch.sigmoid, torch.sigmoid_, torch.special.expit),
        ("sigmoid", "sigmoid_"),
        bounded=True,
    ),
    Family("tanh", (nn.Tanh,), (F.tanh, torch.tanh, torch.tanh_), ("tanh", "tanh_"), bounded=True),
)

_BY_NAME = {family.name: family for family in FAMILIES}
_BY_MODULE = {module: family for family in FAMILIES for module in family.modules}
_BY_FUNCTION = {id(function): family for family in FAMILIES for function in family.functions}
_METHODS = {method: (family, method) for family in FAMILIES for method in family.methods}


@dataclass(frozen=True, eq=False)
class Rule:
    """One entry of a mapping: which spellings it covers, and what they become."""

    key: Key
    value: Any
    family: Family | None
    forms: frozenset[str]
    module: type[nn.Module] | None = None

    @property
    def title(self) -> str:
        """The key, as a reader writes it."""
        return self.key if isinstance(self.key, str) else str(getattr(self.key, "__name__", self.key))


def _method_of(key: Any) -> Family | None:
    for method, (family, _) in _METHODS.items():
        if key is getattr(torch.Tensor, method):
            return family
    return None


def rules_of(mapping: dict[Key, Any], forms: frozenset[str]) -> list[Rule]:
    """A mapping as rules, most particular first: a method or function given by itself overrules its module class.

    Raises:
        SwapError: a key is neither a module class nor an activation function of torch.
    """
    if not mapping:
        raise SwapError("The mapping is empty, so nothing would change; give for example {nn.ReLU: pliant.AReLU}.")
    rules = []
    for key, value in mapping.items():
        if isinstance(key, str):
            family = _BY_NAME.get(key.lower())
            if family is None:
                raise SwapError(f"The mapping has the key {key!r}, but the families known by name are: {', '.join(_BY_NAME)}.")
            rules.append(Rule(key, value, family, forms, family.modules[0]))
        elif isinstance(key, type) and issubclass(key, nn.Module):
            rules.append(Rule(key, value, _BY_MODULE.get(key), forms, key))
        elif family := _method_of(key):
            rules.append(Rule(key, value, family, frozenset({"method"})))
        elif family := _BY_FUNCTION.get(id(key)):
            rules.append(Rule(key, value, family, frozenset({"function"})))
        else:
            raise SwapError(
                f"The mapping has the key {key!r}, but a key must be a module class such as nn.ReLU, an activation function of "
                "torch such as F.relu or torch.relu, or a method such as torch.Tensor.relu. For a function of your own, give "
                "the torch functions that it calls, or turn it into a module."
            )
    return sorted(rules, key=lambda r: len(r.forms))


def family_of_module(module: nn.Module) -> Family | None:
    """The family of an activation module, also of a subclass; None for everything else."""
    for cls in type(module).__mro__:
        if cls in _BY_MODULE:
            return _BY_MODULE[cls]
    return None


def rule_for_module(module: nn.Module, rules: list[Rule]) -> Rule | None:
    """The rule that covers a module. ``nn.ReLU6`` is a subclass of ``nn.Hardtanh`` but another function: not covered by it."""
    for cls in type(module).__mro__:
        for rule in rules:
            if rule.module is cls and "module" in rule.forms:
                return rule
        if cls in _BY_MODULE:
            return None
    return None


def spelling(function: Any) -> tuple[Family, Form, str] | None:
    """What an intercepted torch function is: its family, whether it is a function or a method, and its name."""
    if family := _BY_FUNCTION.get(id(function)):
        return family, "function", str(function.__name__)
    name = getattr(function, "__name__", "")
    if name in _METHODS and function is getattr(torch.Tensor, name, None):
        return _METHODS[name][0], "method", name
    return None


def rule_for_call(family: Family, form: str, rules: list[Rule]) -> Rule | None:
    """The rule that covers a call of a function or method."""
    return next((r for r in rules if r.family is family and form in r.forms), None)
