"""Records and annotations in the WFDB formats of PhysioNet, as far as the MIT-BIH databases use them.

A record is a header (text), one signal file in format 212 (two 12-bit samples in three bytes) and annotation files in the MIT
format (16-bit words). Formats: WFDB Applications Guide, header(5), signal(5), annot(5). The reader is strict: a header carries
a first value and a checksum for every signal, and a record that does not agree with them is refused. The package ``wfdb``
reads more formats and brings pandas, matplotlib, aiohttp and a sound library; the tests compare this reader with it where it
is installed.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pliant.lab.datasets.arrays import DataError

__all__ = ["SYMBOLS", "Annotations", "Header", "Signal", "read_annotations", "read_header", "read_samples"]

SYMBOLS: Final = {
    **dict(enumerate("NLRaVFJASEj/Q~", start=1)),
    16: "|",
    **dict(enumerate('sT*D"=pB^t+u?![]en@xf()r', start=18)),
}
"""Annotation codes and the letters that stand for them."""

_SKIP, _NUM, _SUB, _CHN, _AUX = 59, 60, 61, 62, 63
_INVALID: Final = -2048
"""The 12-bit value that marks a sample as not measured."""
_DEFAULT_GAIN: Final = 200.0
_MAXIMUM: Final = 1 << 31


@dataclass(frozen=True)
class Signal:
    """One signal of a record.

    Args:
        name: of the lead, such as "MLII".
        gain: units of the converter a millivolt (or other ``unit``).
        baseline: the value of the converter at 0 ``unit``.
        first: value of the first sample; None where the header does not say.
        checksum: sum of all samples modulo 2^16; None where the header does not say.
    """

    name: str
    gain: float
    baseline: int
    unit: str
    first: int | None
    checksum: int | None


@dataclass(frozen=True)
class Header:
    """What a .hea file says.

    Args:
        rate: sampling frequency in Hz.
        length: samples of each signal; None where the header leaves it open.
        file: name of the signal file, beside the header.
    """

    record: str
    rate: float
    length: int | None
    file: str
    signals: tuple[Signal, ...]


@dataclass(frozen=True, eq=False)
class Annotations:
    """What an annotation file says, in order of time.

    Args:
        times: int64, shape (n,): number of the sample that the annotation belongs to.
        symbols: n letters, see :data:`SYMBOLS`.
        texts: n auxiliary texts, mostly empty; the rhythm ("(N", "(AFIB", ...) of a "+".
    """

    times: NDArray[np.int64]
    symbols: tuple[str, ...]
    texts: tuple[str, ...]


_GAIN: Final = re.compile(r"(?P<gain>[-+.\deE]+)(?:\((?P<baseline>[-+]?\d{1,9})\))?(?:/(?P<unit>\S+))?")
_FREQUENCY: Final = re.compile(r"(?P<rate>[.\deE+]+)(?:/.*)?")


def read_header(content: bytes, name: str) -> Header:
    """Read a .hea file.

    Args:
        name: of the file, for errors.

    Raises:
        DataError: it is not a header, or describes a record that this reader does not read: several segments or signal files,
            another format than 212, several samples a frame.
    """
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not a WFDB header: byte {error.start} is not ASCII.") from None
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    record, *rest = lines[0].split() if lines else [""]
    if not rest or not rest[0].isdigit() or int(rest[0][:9]) < 1:
        raise DataError(f"{name} is not a WFDB header: its first line should be `record signals rate samples`.")
    if "/" in record:
        raise DataError(
            f"{name} describes a record of several segments, which are not supported; give the segments one by one."
        )
    count = int(rest[0][:9])
    if len(lines) - 1 < count:
        raise DataError(f"{name} announces {count} signals and describes {len(lines) - 1}; the file may be cut short.")
    rate = _number(_match(_FREQUENCY, rest[1], name, "rate")["rate"], name, "rate") if len(rest) > 1 else 250.0
    length = _whole(rest[2], name, "number of samples") if len(rest) > 2 else None
    if not 0 < rate < _MAXIMUM or (length is not None and not 0 < length < _MAXIMUM):
        raise DataError(f"{name} gives a rate of {rate} Hz and {length} samples; both must be positive and below 2^31.")
    described = [_signal(line, name) for line in lines[1 : count + 1]]
    files = {file for file, _ in described}
    if len(files) != 1:
        raise DataError(f"{name} spreads its signals over the files {', '.join(sorted(files))}; one file was expected.")
    file = files.pop()
    if "/" in file or "\\" in file:
        raise DataError(f"{name} names the signal file {file!r}, which is not beside it.")
    return Header(record, rate, length, file, tuple(signal for _, signal in described))


def _signal(line: str, name: str) -> tuple[str, Signal]:
    file, *fields = line.split(maxsplit=8)
    if not fields or fields[0] != "212":
        raise DataError(
            f"{name} describes a signal of format {fields[0] if fields else 'none'!r}, but only plain 212 is read here; "
            "convert the record with the WFDB program xform."
        )
    given = _match(_GAIN, fields[1], name, "gain") if len(fields) > 1 else None
    gain = _number(given["gain"], name, "gain") if given else 0.0
    # Fields left out at the end of a line have the defaults of header(5); a gain of 0 stands for "not calibrated".
    numbers = [_whole(f, name, "signal field") for f in fields[2:7]]
    zero = numbers[1] if len(numbers) > 1 else 0
    baseline = int(given["baseline"]) if given and given["baseline"] is not None else zero
    if not math.isfinite(gain) or gain < 0:
        raise DataError(f"{name} gives a gain of {gain}; expected a positive number, or 0 where it is not known.")
    return file, Signal(
        name=fields[7].strip() if len(fields) > 7 else "",
        gain=gain or _DEFAULT_GAIN,
        baseline=baseline,
        unit=(given["unit"] if given and given["unit"] else "mV"),
        first=numbers[2] if len(numbers) > 2 else None,
        checksum=numbers[3] if len(numbers) > 3 else None,
    )


def _match(pattern: re.Pattern[str], text: str, name: str, what: str) -> re.Match[str]:
    found = pattern.fullmatch(text)
    if not found:
        raise DataError(f"{name} gives the {what} {text!r}, which is not one.")
    return found


def _number(text: str, name: str, what: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise DataError(f"{name} gives the {what} {text!r}; expected a number.") from None


def _whole(text: str, name: str, what: str) -> int:
    if not re.fullmatch(r"[-+]?[0-9]{1,12}", text):
        raise DataError(f"{name} gives the {what} {text!r}; expected a whole number.")
    return int(text)


def read_samples(content: bytes, described: Header, name: str) -> NDArray[np.float32]:
    """Read a signal file of format 212.

    Returns:
        float32, shape (signals, samples), in the unit of each signal; NaN where a sample is marked as not measured.

    Raises:
        DataError: the size, a first value or a checksum is not the one that the header states.
    """
    count = len(described.signals)
    packed = np.frombuffer(content, np.uint8)
    total = count * described.length if described.length is not None else len(packed) * 2 // 3 // count * count
    expected = (total * 3 + 1) // 2
    if not expected or len(packed) != expected:
        raise DataError(
            f"{name} has {len(packed)} bytes, but {expected} were expected for {total // count} samples of {count} signals in "
            "format 212. The file may be cut short; fetch it again."
        )
    # The last of an odd number of samples takes two bytes.
    triples = np.zeros(((total + 1) // 2, 3), np.int16)
    triples.reshape(-1)[:expected] = packed
    values = np.empty((len(triples), 2), np.int16)
    values[:, 0] = triples[:, 0] | (triples[:, 1] & 0x0F) << 8
    values[:, 1] = triples[:, 2] | (triples[:, 1] & 0xF0) << 4
    # Twelve bits with a sign, moved to the top of sixteen and back.
    signals = ((values << 4) >> 4).reshape(-1)[:total].reshape(-1, count).T
    physical = np.empty(signals.shape, np.float32)
    for row, signal, out in zip(signals, described.signals, physical, strict=True):
        if signal.first is not None and row[0] != signal.first:
            raise DataError(f"{name} begins with {row[0]} in the lead {signal.name!r}, but its header states {signal.first}.")
        total_of = int(row.sum(dtype=np.int64))
        if signal.checksum is not None and (total_of - signal.checksum) % (1 << 16):
            raise DataError(
                f"{name} has another checksum in the lead {signal.name!r} ({total_of % (1 << 16)}) than its header states "
                f"({signal.checksum % (1 << 16)}), so it is damaged or belongs to another record. Fetch it again."
            )
        np.divide(row.astype(np.float64) - signal.baseline, signal.gain, out=out, casting="same_kind")
        out[row == _INVALID] = np.nan
    return physical


def read_annotations(content: bytes, name: str) -> Annotations:
    """Read an annotation file in the MIT format.

    Raises:
        DataError: it ends without its end mark, goes back in time, or holds a code that stands for nothing.
    """
    if len(content) % 2:
        raise DataError(f"{name} has {len(content)} bytes, an odd number, so it is not a whole annotation file.")
    words = np.frombuffer(content, "<u2").tolist()
    times: list[int] = []
    symbols: list[str] = []
    texts: list[str] = []
    time = at = 0
    while True:
        if at >= len(words):
            raise DataError(f"{name} ends without its end mark after {len(times)} annotations; the file may be cut short.")
        code, value = words[at] >> 10, words[at] & 0x3FF
        at += 1
        if code == value == 0:
            break
        if code == _SKIP:
            if at + 2 > len(words):
                raise DataError(f"{name} ends in the middle of a time; the file may be cut short.")
            # A 32-bit number with a sign, high word first.
            interval = words[at] << 16 | words[at + 1]
            time += interval - (1 << 32 if interval >> 31 else 0)
            at += 2
        elif code == _AUX:
            end = at + (value + 1) // 2
            if not times or end > len(words):
                raise DataError(
                    f"{name} holds a text of {value} bytes at word {at}, which is not in place; the file is damaged."
                )
            texts[-1] = content[2 * at : 2 * at + value].rstrip(b"\0").decode("latin-1")
            at = end
        elif code in (_NUM, _SUB, _CHN):
            continue
        elif code in SYMBOLS:
            time += value
            if time < (times[-1] if times else 0) or time >= _MAXIMUM:
                raise DataError(f"{name} puts annotation {len(times) + 1} at sample {time}, out of order; the file is damaged.")
            times.append(time)
            symbols.append(SYMBOLS[code])
            texts.append("")
        else:
            raise DataError(f"{name} holds the annotation code {code}, which stands for nothing; the file is damaged.")
    if at != len(words):
        # annot(5) ends a file with one zero word; anything behind it would be lost in silence.
        raise DataError(f"{name} goes on for {2 * (len(words) - at)} bytes behind its end mark; the file is damaged.")
    return Annotations(np.array(times, np.int64), tuple(symbols), tuple(texts))
