"""A finding, and what every kind of test needs to make one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pliant.lab.evidence import Evidence, Tier, numbers_of

__all__ = ["SHOWN", "Finding", "Floats", "Settled", "label_of", "make", "number_of", "values_of"]

Settled = Literal["SUPPORTED", "REFUTED", "UNDECIDED"]
Floats = NDArray[np.float64]

SHOWN = 0.05
"""The level of the intervals that are shown; a word may be held to a stricter one."""


@dataclass(frozen=True)
class Finding:
    """What our experiment says about one comparison.

    Args:
        word: the claim's fate. verdict: the word of the comparison that decided it. sentence: that comparison in words.
        n: pairs of trials. difference, low, high: contender minus rival, in units of the column; the interval is that of the
            one comparison. rival: what it was compared with. unfinished: rows of the study that have no result.
    """

    study: str
    word: Settled
    verdict: str
    sentence: str
    n: int
    difference: float
    low: float
    high: float
    rival: str
    tier: Tier
    origin: str
    directory: str
    unfinished: int
    remarks: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The word with its tier and what was changed of it, without which it is never shown."""
        return f"{self._at_tier} (changed: {', '.join(self.changes)})" if self.changes else self._at_tier

    @property
    def brief(self) -> str:
        """The label where a link leads to what was changed."""
        return f"{self._at_tier}, changed" if self.changes else self._at_tier

    @property
    def _at_tier(self) -> str:
        return self.word if self.tier == "full" else f"{self.word} at the {self.tier} tier only"


def make(
    study: str,
    evidence: Evidence,
    word: Settled,
    verdict: str,
    sentence: str,
    n: int = 0,
    difference: float = math.nan,
    low: float = -math.inf,
    high: float = math.inf,
    rival: str = "",
    beside: Sequence[Evidence] = (),
) -> Finding:
    """``beside``: further studies that it is from."""
    unfinished = sum(len(one.rows) - one.scored for one in (evidence, *beside))
    where = (evidence.tier, evidence.origin, evidence.directory)
    told = (tuple(dict.fromkeys(r for one in (evidence, *beside) for r in one.remarks)), evidence.changes)
    return Finding(study, word, verdict, sentence, n, difference, low, high, rival, *where, unfinished, *told)


def label_of(evidence: Evidence, activation: str) -> str:
    return evidence.labels.get(activation, activation)


def values_of(evidence: Evidence, activation: str, column: str) -> list[float]:
    return numbers_of([row for row in evidence.rows if row["activation"] == activation], column)


def number_of(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
