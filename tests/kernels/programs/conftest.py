"""These tests run on a CUDA device, or through Triton's interpreter in the process that tests/kernels/test_gpu.py starts."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator

import pytest
import torch

# Without either there is nothing to run them on; test_gpu.py reports that once.
if os.environ.get("TRITON_INTERPRET") != "1" and not torch.cuda.is_available():
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True)
def _unwritten_memory_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, functools.partial(_poisoned, getattr(torch, name)))


def _poisoned(allocate: Callable[..., torch.Tensor], *arguments: object, **settings: object) -> torch.Tensor:
    return allocate(*arguments, **settings).fill_(torch.nan)


@pytest.fixture(autouse=True)
def _floating_point_like_a_gpu() -> Iterator[None]:
    # The interpreter computes with NumPy, which warns where a GPU says nothing.
    numpy = pytest.importorskip("numpy")
    with numpy.errstate(all="ignore"):
        yield
