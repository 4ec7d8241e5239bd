# The extension module, built from csrc/. Addresses and sizes are what torch reports; nothing here checks them.

from typing import TypeAlias

_Layout: TypeAlias = tuple[tuple[int, ...], ...]

def forward(
    function: int, dtype: int, threads: int, coefficients: tuple[float, ...], out: int, x: int, elements: int | _Layout, /
) -> None: ...
def backward(
    function: int,
    dtype: int,
    threads: int,
    coefficients: tuple[float, ...],
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
