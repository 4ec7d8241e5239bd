# The extension module, built from csrc/. Addresses and sizes are what torch reports; forward and backward do not check them.

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

_Coefficients: TypeAlias = tuple[float | Tensor, ...]  # numbers and tensors of one element
_Layout: TypeAlias = tuple[tuple[int, ...], ...]

def forward(
    function: int, dtype: int, threads: int, coefficients: _Coefficients, out: int, x: int, elements: int | _Layout, /
) -> None: ...
def backward(
    function: int,
    dtype: int,
    threads: int,
    coefficients: _Coefficients,
    grad_x: int,
    sums: int,
    grad: int,
    x: int,
    elements: int | _Layout,
    /,
) -> None: ...
def connect(
    exchange: object, tensor: type, parameter: type, empty_like: Callable[[Tensor], Tensor], is_neg: Callable[[Tensor], bool], /
) -> bool: ...
def fits(function: int, x: Tensor, coefficients: _Coefficients, /) -> bool: ...
def apply(function: int, threads: int, x: Tensor, coefficients: _Coefficients, in_place: bool, /) -> Tensor | None: ...
def differentiate(
    function: int, threads: int, grad: Tensor, x: Tensor, coefficients: _Coefficients, needs: tuple[bool, ...], /
) -> tuple[Tensor | None, ...] | None: ...
def functions() -> tuple[tuple[str, int], ...]: ...
def isa() -> str: ...
def instruction_sets() -> tuple[str, ...]: ...
def select(isa: str, /) -> None: ...
def shares_pool() -> bool: ...
