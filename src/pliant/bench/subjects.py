"""What is measured and against what: for every activation torch's own counterpart, and the form an author would write.

To add an activation: one line in :data:`SUBJECTS`.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pliant import catalog
from pliant.activation import Activation
from pliant.errors import DomainError, unknown

__all__ = ["DEFAULT", "SUBJECTS", "Naive", "Subject", "has_switch", "readable", "subject"]


def _dsrelu(x: Tensor, slope: float | Tensor) -> Tensor:
    return torch.where(x > 0, slope * x, x)


def _srelu(x: Tensor, alpha: float | Tensor, beta: float | Tensor) -> Tensor:
    return torch.where(x > 0, alpha * x, beta * (torch.exp(x) - 1))


def _arelu(x: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return torch.maximum(a * x + c, b * x + d)


def _asigmoid(x: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return b * torch.sigmoid(a * x + c) + d


def _atanh(x: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return b * torch.tanh(a * x + c) + d


def _affine_relu(x: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return b * torch.relu(a * x + c) + d


def _prelu(x: Tensor, weight: float | Tensor) -> Tensor:
    return torch.where(x > 0, x, weight * x)


def _pelu(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(x >= 0, a / b * x, a * (torch.exp(x / b) - 1))


def _swish(x: Tensor, beta: float | Tensor) -> Tensor:
    return x * torch.sigmoid(beta * x)


def _frelu(x: Tensor, b: float | Tensor) -> Tensor:
    return torch.relu(x) + b


@dataclass(frozen=True)
class Subject:
    """One activation in the bench.

    Args:
        name: as on the command line and in the results.
        make: a new module of ours.
        torch: torch's own, by label: the functions nearest in kind, not always the same function; the first is the reference.
        naive: the function as an author would write it, given ``x`` and the coefficients in our order.
        inplace: it overwrites its input.
    """

    name: str
    make: Callable[[], nn.Module]
    torch: dict[str, Callable[[], nn.Module]]
    naive: Callable[..., Tensor]
    inplace: bool = False

    def plain(self) -> nn.Module:
        """The same module, never in place."""
        return catalog.ALL["dsrelu"].factory() if self.inplace else self.make()


def _subject(name: str, naive: Callable[..., Tensor], *baselines: type[nn.Module]) -> Subject:
    return Subject(name, catalog.ALL[name].factory, {b.__name__: b for b in baselines}, naive)


SUBJECTS = {
    s.name: s
    for s in (
        _subject("dsrelu", _dsrelu, nn.LeakyReLU),
        Subject(
            "dsrelu-inplace",
            lambda: catalog.ALL["dsrelu"].factory(inplace=True),
            {"LeakyReLU in place": lambda: nn.LeakyReLU(inplace=True)},
            _dsrelu,
            inplace=True,
        ),
        _subject("srelu", _srelu, nn.ELU),
        _subject("arelu", _arelu, nn.PReLU, nn.LeakyReLU),
        _subject("asigmoid", _asigmoid, nn.Sigmoid),
        _subject("atanh", _atanh, nn.Tanh),
        _subject("prelu", _prelu, nn.PReLU),
        _subject("pelu", _pelu, nn.ELU),
        _subject("swish", _swish, nn.SiLU),
        _subject("frelu", _frelu, nn.ReLU),
        _subject("affinerelu", _affine_relu, nn.ReLU),
    )
}
"""Every activation the bench can measure, by name."""

DEFAULT = tuple(n for n in SUBJECTS if n != "affinerelu")
"""What is measured if nothing is named."""


def subject(text: str) -> Subject:
    """The subject of a name or of a spec of the catalogue, for example ``srelu[beta=learned(0.25)]``.

    Raises:
        UnknownNameError: the bench has no such activation.
        DomainError: the spec cannot be built.
    """
    if text in SUBJECTS:
        return SUBJECTS[text]
    if "[" not in text and "".join(c for c in text.lower() if c.isalnum()) not in {
        "".join(c for c in n if c.isalnum()) for e in catalog.ALL.values() for n in (e.name, *e.aliases)
    }:
        raise unknown("activation in the bench", text, SUBJECTS)
    spec = catalog.parse(text)
    if spec.name not in SUBJECTS:
        raise unknown("activation in the bench", spec.name, SUBJECTS)
    spec.create()
    base = SUBJECTS[spec.name]
    return Subject(str(spec), spec.create, base.torch, base.naive)


class Naive(nn.Module):
    """The naive form with the coefficients of one of our modules, which it shares nothing with but the values."""

    def __init__(self, function: Callable[..., Tensor], module: Activation) -> None:
        super().__init__()
        self.function = function
        self.holder = copy.deepcopy(module)

    def forward(self, x: Tensor) -> Tensor:
        # An author keeps the coefficients as parameters or buffers, which follow the module's dtype.
        return self.function(x, *(v.to(x.dtype) if isinstance(v, Tensor) else v for v in self.holder.values()))


def has_switch() -> bool:
    """Whether this version of Pliant has fused kernels beside the readable functions, and so two things to compare."""
    return "fused" in inspect.signature(catalog.ALL["dsrelu"].factory).parameters


def readable(module: nn.Module) -> nn.Module:
    """A copy of ``module`` in which every activation of ours computes by its readable function."""
    module = copy.deepcopy(module)
    for part in module.modules():
        if isinstance(part, Activation) and has_switch():
            part.fused = False
    return module


def move_off_start(parameters: Iterable[nn.Parameter]) -> None:
    """Change every learned coefficient a little: at starting values such as (1, 0, 0, 0) a forgotten one does not show.

    The steps are multiples of 1/16, so that bfloat16 holds the results exactly where the start was exact.
    """
    with torch.no_grad():
        for i, p in enumerate(parameters):
            p.add_((i + 1) / 16)


def require_dtype(name: str) -> torch.dtype:
    """``float32``, ``bfloat16`` (``bf16``) or ``float64``.

    Raises:
        DomainError: anything else.
    """
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "bf16": torch.bfloat16, "float64": torch.float64}
    if name not in known:
        raise DomainError(f"--dtype was given {name!r}; the bench measures float32, bfloat16 (or bf16) and float64.")
    return known[name]
