"""Writes WFDB records as the format's description has them, for tests of the reader."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pliant.lab.datasets.wfdb import SYMBOLS

CODES = {symbol: code for code, symbol in SYMBOLS.items()}


def pack(digital: NDArray[np.int64]) -> bytes:
    """Format 212 of samples of shape (signals, samples), 12 bits each."""
    values = [int(v) & 0xFFF for v in digital.T.ravel()]
    out = bytearray()
    for i in range(0, len(values), 2):
        a, b = values[i], values[i + 1] if i + 1 < len(values) else 0
        out += bytes((a & 0xFF, a >> 8 | b >> 8 << 4, b & 0xFF))
    return bytes(out[: (len(values) * 3 + 1) // 2])


def describe(record: str, digital: NDArray[np.int64], leads: Sequence[str], *, rate: str = "360", gain: str = "200") -> bytes:
    lines = [f"{record} {len(leads)} {rate} {digital.shape[1]}"]
    for lead, row in zip(leads, digital, strict=True):
        checksum = int(row.sum()) % 65536
        signed = checksum - 65536 if checksum > 32767 else checksum
        lines.append(f"{record}.dat 212 {gain} 11 1024 {row[0]} {signed} 0 {lead}")
    return ("\r\n".join([*lines, "# 69 M 1085 1629 x1"]) + "\r\n").encode()


def annotate(marks: Sequence[tuple[int, str, str]]) -> bytes:
    """Marks of (sample, symbol, text) in the MIT format."""
    out = bytearray()

    def word(code: int, value: int) -> None:
        out.extend((code << 10 | value).to_bytes(2, "little"))

    now = 0
    for time, symbol, text in marks:
        gap, now = time - now, time
        if gap > 1023:
            word(59, 0)
            out.extend((gap >> 16).to_bytes(2, "little") + (gap & 0xFFFF).to_bytes(2, "little"))
            gap = 0
        word(CODES[symbol], gap)
        if text:
            raw = text.encode("latin-1")
            word(63, len(raw))
            out.extend(raw + b"\0" * (len(raw) % 2))
    return bytes(out) + b"\0\0"


def write(
    folder: Path, record: str, digital: NDArray[np.int64], leads: Sequence[str], marks: Sequence[tuple[int, str, str]]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{record}.hea").write_bytes(describe(record, digital, leads))
    (folder / f"{record}.dat").write_bytes(pack(digital))
    (folder / f"{record}.atr").write_bytes(annotate(marks))
