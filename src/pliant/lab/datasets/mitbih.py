"""MIT-BIH Arrhythmia from its WFDB records: single beats in the five AAMI classes.

Beats are cut as Kachuee, Fazeli & Sarrafzadeh (2018, "ECG heartbeat classification: a deep transferable representation")
describe for the ``heartbeat`` CSV files: resampled to 125 Hz; cut into excerpts of ten seconds, each scaled to [0, 1]; an
example begins at a peak and lasts 1.2 T, where T is the median distance of the peaks in its excerpt; filled with zeros to 187
samples. It is the method of those files and does not give their rows: here peaks are those of the annotators, every excerpt and
every beat is taken, and how those files were resampled is not known.
"""

from __future__ import annotations

import functools
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pliant.lab.datasets import wfdb
from pliant.lab.datasets.arrays import Data, DataError
from pliant.lab.datasets.files import Download, File, Manifest, read, root

__all__ = ["MITBIH"]

Split = Literal["random", "random-unpaced", "inter-patient"]

AAMI: Final = {
    **dict.fromkeys("NLRej", "N"),
    **dict.fromkeys("AaJS", "S"),
    **dict.fromkeys("VE", "V"),
    "F": "F",
    **dict.fromkeys("/fQ", "Q"),
}
"""The class of each beat symbol of the database (ANSI/AAMI EC57). All other symbols are rhythms, noise, waves that were not
conducted ("x"), artifacts ("|") and flutter waves ("!"): no beats."""
_OTHER_BEATS: Final = frozenset("Brn?")

TRAIN: Final = (
    *("101", "106", "108", "109", "112", "114", "115", "116", "118", "119", "122"),
    *("124", "201", "203", "205", "207", "208", "209", "215", "220", "223", "230"),
)
"""DS1 of de Chazal, O'Dwyer & Reilly (2004)."""
TEST: Final = (
    *("100", "103", "105", "111", "113", "117", "121", "123", "200", "202", "210"),
    *("212", "213", "214", "219", "221", "222", "228", "231", "232", "233", "234"),
)
"""DS2 of the same paper: other patients."""
PACED: Final = ("102", "104", "107", "217")
VALIDATION: Final = ("101", "114", "124", "205", "223")
"""Of DS1, by default: about a fifth of its beats, with every class on both sides."""

_RATE: Final = 360
_WINDOW: Final = 10 * _RATE
_FOLDER: Final = "mit-bih-arrhythmia-database-1.0.0"
_URL: Final = "https://physionet.org/files/mitdb/1.0.0/"


class MITBIH:
    """MIT-BIH Arrhythmia: 48 half-hour ECG records of 47 subjects, cut into beats of the AAMI classes N, S, V, F, Q."""

    name: ClassVar = "mitbih"
    version: ClassVar = 1
    source: ClassVar = "PhysioNet; Moody & Mark (2001), Goldberger et al. (2000)"
    terms: ClassVar = "Open Data Commons Attribution License 1.0; cite both"

    @classmethod
    def files(
        cls,
        *,
        split: Split = "random",
        classes: str = "NSVFQ",
        lead: str = "MLII",
        without_lead: Literal["first", "left out"] = "first",
        rate: int = 125,
        samples: int = 187,
        before: float = 0.0,
        length: Literal["rr", "full"] = "rr",
        scale: Literal["excerpt", "beat", "none"] = "excerpt",
        shape: Literal["2d", "1d"] = "2d",
        validation: str = "",
        records: Literal["all", "available"] = "all",
        official: bool = True,
    ) -> Manifest:
        files = tuple(file for record in _records(split) for file in _files(record))
        return Manifest(
            files,
            tuple(Download(_URL + f.path.rpartition("/")[2], f.path, f.checksum, gives=(f.path,)) for f in files),
            f"The .hea, .dat and .atr file of each record belongs into the folder {_FOLDER}. With the option records = "
            "'available' the records that are there are used.",
        )

    @classmethod
    def load(
        cls,
        *,
        split: Split = "random",
        classes: str = "NSVFQ",
        lead: str = "MLII",
        without_lead: Literal["first", "left out"] = "first",
        rate: int = 125,
        samples: int = 187,
        before: float = 0.0,
        length: Literal["rr", "full"] = "rr",
        scale: Literal["excerpt", "beat", "none"] = "excerpt",
        shape: Literal["2d", "1d"] = "2d",
        validation: str = "",
        records: Literal["all", "available"] = "all",
        official: bool = True,
    ) -> Data:
        """The beats of all records, in the order of the records and of time.

        ``groups`` are the patients, by the number of their first record: 202 is of the patient of 201 and has the group 201. De
        Chazal's sets part these two records, so one patient of DS1 is in DS2; the published split is kept as it is.

        Args:
            split: "random" has all 48 records and no parts: the beats of a patient are on both sides of any random split, as in
                the ``heartbeat`` CSV files. "random-unpaced" leaves the four paced records out, as AAMI recommends.
                "inter-patient" has the parts of de Chazal et al. (2004), without the paced records: DS1 less ``validation`` to
                train, ``validation``, and DS2 to test.
            classes: letters of the AAMI classes to keep, in the order of their numbers; beats of others are left out. "NV" is
                the binary task with V positive.
            lead: name of the signal.
            without_lead: what becomes of a record without that lead (102 and 104 have no MLII): its first signal, or nothing.
            rate: Hz. The whole signal is resampled by polyphase filtering before it is cut.
            samples: length of an example; what is longer is cut off, what is shorter is filled with zeros.
            before: seconds of an example that lie before the peak.
            length: "rr" keeps 1.2 T after the peak, see the module; "full" keeps all ``samples``.
            scale: "excerpt" maps the smallest and largest sample of the beat's ten seconds of the record to 0 and 1, "beat"
                those of the example itself; "none" leaves millivolts.
            shape: of x, "2d" (n, 1, 1, samples) as ResNet-34 takes it, or "1d" (n, 1, samples); float32.
            validation: record numbers with spaces between; "" for 101 114 124 205 223. Only with "inter-patient".
            records: "all" demands every record of the split; "available" takes those that are there, and the note says which
                are not.
            official: whether the files must have PhysioNet's checksums, as far as these are known.

        Raises:
            DataError: files are missing, damaged or not the official ones; an option is out of range; a class has no beat.
        """
        chosen = tuple(dict.fromkeys(classes))
        if len(chosen) != len(classes) or len(chosen) < 2 or not set(chosen) <= set("NSVFQ"):
            raise DataError(
                f"classes was given as {classes!r}; expected two or more different letters of NSVFQ, such as 'NSVF'."
            )
        if rate < 1 or samples < 2 or not 0 <= before < samples / rate:
            raise DataError(
                f"rate = {rate}, samples = {samples} and before = {before} do not describe an example: expected a rate of at "
                "least 1 Hz, at least 2 samples, and fewer seconds before the peak than the example is long."
            )
        held_out = _validation(split, validation)
        folder, present = cls._present(split, records)
        xs, ys, of = [], [], []
        for record in present:
            signal, beats, kinds = _read(record, folder, lead, without_lead, official)
            if signal is None:
                continue
            keep = np.isin(kinds, chosen)
            xs.append(_cut(signal, beats, rate, samples, before, length, scale)[keep])
            ys.append(np.array([chosen.index(k) for k in kinds[keep]], np.int64))
            of += [record] * int(keep.sum())
        y = np.concatenate(ys) if ys else np.zeros(0, np.int64)
        absent = [c for i, c in enumerate(chosen) if not (y == i).any()]
        if absent:
            raise DataError(
                f"{cls.name}: there is no beat of class {', '.join(absent)} in the {len(present)} records that were read; "
                "choose others with the option classes, or bring more records."
            )
        parts = None
        if split == "inter-patient":
            part_of = {**dict.fromkeys(TRAIN, 0), **dict.fromkeys(held_out, 1), **dict.fromkeys(TEST, 2)}
            parts = np.array([part_of[r] for r in of], np.int8)
            if set(parts.tolist()) != {0, 1, 2}:
                raise DataError(f"{cls.name}: the records that are here leave the train, validation or test part empty.")
        x = np.concatenate(xs)[:, None]
        groups = np.array([201 if r == "202" else int(r) for r in of], np.int64)
        missing = [r for r in _records(split) if r not in present]
        notes = [f"{len(present)} of {len(_records(split))} records, without {' '.join(missing)}"] if missing else []
        notes += [] if official else ["checksums not verified"]
        return Data.of(
            x[:, None] if shape == "2d" else x, y, chosen, cls.name, parts=parts, groups=groups, note="; ".join(notes)
        )

    @classmethod
    def _present(cls, split: Split, records: Literal["all", "available"]) -> tuple[Path, tuple[str, ...]]:
        if records == "all":
            return cls.files(split=split).require(cls.name), _records(split)
        folder = root()
        # A record of which a part is here is half a download, not a record that somebody does not have.
        present = tuple(r for r in _records(split) if any(f.at(folder).is_file() for f in _files(r)))
        manifest = cls.files(split=split)
        if not present:
            return manifest.require(cls.name), present
        lacking = [f.path for r in present for f in _files(r) if not f.at(folder).is_file()]
        if lacking:
            raise DataError(
                f"{cls.name}: records are here in part; {', '.join(lacking[:8])}{', ...' if len(lacking) > 8 else ''} are not "
                f"in {folder}. Get these files, or remove the other files of the same records."
            )
        return folder, present


def _records(split: Split) -> tuple[str, ...]:
    return tuple(sorted((*TRAIN, *TEST, *(PACED if split == "random" else ()))))


@functools.cache
def _checksums() -> dict[str, str]:
    """PhysioNet's checksums of the records that could be compared with them: all but 104, 207, 213, 222 and 228."""
    lines = resources.files(__package__).joinpath("mitbih.sha256").read_text("ascii").splitlines()
    return {name: f"sha256:{digest}" for digest, name in (line.split() for line in lines)}


def _files(record: str) -> tuple[File, File, File]:
    header, signals, beats = (
        File(f"{_FOLDER}/{record}.{kind}", _checksums().get(f"{record}.{kind}", "")) for kind in ("hea", "dat", "atr")
    )
    return header, signals, beats


def _validation(split: Split, given: str) -> tuple[str, ...]:
    if split != "inter-patient":
        if given:
            raise DataError(f"validation = {given!r} has no effect with split = {split!r}; leave it out.")
        return ()
    held_out = tuple(given.split()) or VALIDATION
    if not set(held_out) < set(TRAIN):
        raise DataError(
            f"validation was given as {given!r}; expected some, and not all, of the records {' '.join(TRAIN)}, with spaces "
            "between."
        )
    return held_out


def _read(
    record: str, folder: Path, lead: str, without_lead: str, official: bool
) -> tuple[NDArray[np.float64] | None, NDArray[np.int64], NDArray[np.str_]]:
    """One signal in millivolts, shape (samples,), None if it is to be left out; sample numbers and classes of the beats."""
    paths = _files(record)
    contents = [read(file, folder, official=official) for file in paths]
    at = [str(file.at(folder)) for file in paths]
    described = wfdb.read_header(contents[0], at[0])
    if described.rate != _RATE:
        raise DataError(f"{at[0]} states {described.rate} Hz, but the records of this database have {_RATE} Hz.")
    marks = wfdb.read_annotations(contents[2], at[2])
    leads = [s.name for s in described.signals]
    if lead not in leads and without_lead == "left out":
        return None, np.zeros(0, np.int64), np.zeros(0, np.str_)
    signal = wfdb.read_samples(contents[1], described, at[1])[leads.index(lead) if lead in leads else 0].astype(np.float64)
    if np.isnan(signal).any():
        raise DataError(
            f"{at[1]} marks {int(np.isnan(signal).sum())} samples as not measured, which no record of the database does."
        )
    strange = _OTHER_BEATS & set(marks.symbols)
    if strange or (len(marks.times) and marks.times[-1] >= len(signal)):
        what = (
            f"beats marked {' '.join(sorted(strange))}" if strange else f"a mark at sample {marks.times[-1]} of {len(signal)}"
        )
        raise DataError(f"{at[2]} holds {what}, which the database does not; it belongs to another one or to another record.")
    is_beat = np.array([s in AAMI for s in marks.symbols], bool)
    return signal, marks.times[is_beat], np.array([AAMI[s] for s in marks.symbols if s in AAMI], np.str_)


def _cut(
    signal: NDArray[np.float64], beats: NDArray[np.int64], rate: int, samples: int, before: float, length: str, scale: str
) -> NDArray[np.float32]:
    """Examples of all beats, shape (beats, samples)."""
    # Only here: it takes more than a second to import, of which every command of the lab would pay its share.
    from scipy.signal import resample_poly

    ratio = Fraction(rate, _RATE)
    # Beyond its ends a record goes on along the line through them: zeros would ring in the first and last beats.
    resampled = resample_poly(signal, ratio.numerator, ratio.denominator, padtype="line")
    offset = round(before * rate)
    start = np.round(beats * rate / _RATE).astype(np.int64) - offset
    kept = np.full(len(beats), samples)
    if length == "rr":
        kept = np.minimum(samples, offset + np.round(1.2 * _periods(beats) * rate / _RATE).astype(np.int64))
    place = start[:, None] + np.arange(samples)
    inside = (place >= 0) & (place < len(resampled)) & (np.arange(samples) < kept[:, None])
    x = resampled[np.clip(place, 0, len(resampled) - 1)]
    if scale == "excerpt":
        first = np.arange(0, len(resampled), 10 * rate)
        at = np.minimum(beats // _WINDOW, len(first) - 1)
        low, high = (extreme.reduceat(resampled, first)[at, None] for extreme in (np.minimum, np.maximum))
        # The end of an excerpt's last beat lies in the next one, where the signal may go further.
        x = ((x - low) / np.where(high > low, high - low, 1)).clip(0, 1)
    elif scale == "beat":
        low = np.where(inside, x, np.inf).min(axis=1, keepdims=True)
        high = np.where(inside, x, -np.inf).max(axis=1, keepdims=True)
        x = (x - low) / np.where(high > low, high - low, 1)
    return np.where(inside, x, 0).astype(np.float32)


def _periods(beats: NDArray[np.int64]) -> NDArray[np.float64]:
    """For each beat the median distance of the peaks within its ten seconds, in samples; where there is one peak alone, the
    median of the record."""
    distances = np.diff(beats)
    window = beats // _WINDOW
    usual = float(np.median(distances)) if len(distances) else float(_RATE)
    together = window[1:] == window[:-1]
    medians = {w: float(np.median(distances[together & (window[1:] == w)])) for w in np.unique(window[1:][together]).tolist()}
    return np.array([medians.get(w, usual) for w in window.tolist()])
