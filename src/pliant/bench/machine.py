"""What the numbers were measured on: processor, caches, versions; and whether memory comes fresh from the system."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from pliant import kernels
from pliant.errors import PliantError

__all__ = ["cache_bytes", "can_keep_memory", "environment", "kept_memory", "slug"]

ASSUMED_CACHE = 32 * 2**20
"""Bytes of last-level cache where the system does not tell."""


def cpu_model() -> str:
    """The processor's name, as the system gives it."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def cache_bytes(device: str) -> int | None:
    """Size of the last-level cache in bytes; None where the system does not tell."""
    if device == "cuda":
        return int(torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size)
    sizes = []
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        number, unit = re.fullmatch(r"(\d+)([KMG]?)", file.read_text().strip()).groups()  # type: ignore[union-attr]
        sizes.append(int(number) * {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}[unit])
    return max(sizes, default=None)


def slug(device: str) -> str:
    """``cpu``, or the name of the GPU as a file name: ``nvidia-h200``."""
    if device == "cpu":
        return "cpu"
    return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")


def environment(device: str) -> dict[str, Any]:
    """What the numbers depend on; no names of machines or paths."""
    known: dict[str, Any] = {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cache_bytes": cache_bytes(device),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pliant": metadata.version("pliant"),
        "kernels": kernels.status(device)[device],
    }
    if device == "cuda":
        known |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
        known["capability"] = ".".join(map(str, torch.cuda.get_device_capability()))
    return known


# --- memory of the CPU ------------------------------------------------------------------------------------------------

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_DEFAULT_TRIM, _DEFAULT_MMAP_MAX = 128 * 2**10, 65536
_LARGE = 32 * 2**20
_IS_MAPPED = 2

_held: list[int] = []


def _mallopt() -> Any:
    try:
        return ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return None


def can_keep_memory(device: str) -> bool:
    """Whether :func:`kept_memory` works here: on the CPU with the GNU C library. A GPU always keeps its memory."""
    return device == "cpu" and platform.libc_ver()[0] == "glibc" and _mallopt() is not None


@contextmanager
def kept_memory() -> Iterator[None]:
    """Within it the C library hands freed blocks out again instead of giving them back to the system.

    By default a block of 32 MiB or more comes from the system every time, page by page, each cleared and mapped when it is
    first written; that costs several times what an activation costs. Both are real: large activations are fresh in an
    ordinary loop, and only kept memory shows the kernel itself.
    """
    mallopt = _mallopt()
    if mallopt is None:
        raise PliantError("Memory can be kept only with the GNU C library; measure with fresh memory here.")
    while _held:
        _c().free(_held.pop())
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        mallopt(_MMAP_MAX, _DEFAULT_MMAP_MAX)
        mallopt(_TRIM_THRESHOLD, _DEFAULT_TRIM)
        _c().malloc_trim(0)
        _hold_free_blocks()


def _c() -> ctypes.CDLL:
    c = ctypes.CDLL(None)
    c.malloc.restype, c.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    c.free.restype, c.free.argtypes = None, [ctypes.c_void_p]
    return c


def _hold_free_blocks() -> None:
    # A free block with something in use behind it stays with the C library, which would hand it out, pages and all, before
    # it asks the system. Held, and never written to, it costs addresses but no memory.
    c = _c()
    while block := c.malloc(_LARGE):
        # The C library notes in front of each block whether it came from the system.
        if ctypes.c_size_t.from_address(block - ctypes.sizeof(ctypes.c_size_t)).value & _IS_MAPPED:
            c.free(block)
            break
        _held.append(block)
