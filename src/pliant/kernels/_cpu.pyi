# The extension module, built from csrc/. Addresses and sizes are what torch reports; nothing here checks them.

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
def functions() -> tuple[tuple[str, int], ...]: ...
def isa() -> str: ...
def instruction_sets() -> tuple[str, ...]: ...
def select(isa: str, /) -> None: ...
def shares_pool() -> bool: ...
