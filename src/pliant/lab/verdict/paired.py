"""Folds and repeated random splits: the corrected resampled t, and what every way of judging shares."""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import stdtr, stdtrit

from pliant.lab.verdict.words import Posterior, VerdictError

__all__ = ["Resampled", "Sample", "expected_precision", "holm"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sample(abc.ABC):
    """Independent looks at one difference (or score), summed up.

    `n`: how many. `mean` of them; `sd` over them, nan if the spread is unknown; 0 only for trials that are the same trial.
    """

    n: int
    mean: float
    sd: float

    @abc.abstractmethod
    def tail(self, x: npt.ArrayLike, n: npt.ArrayLike) -> Floats:
        """How probable it is that the mean of n looks errs by more than x upwards, n >= 2 or infinite."""

    @property
    def known(self) -> bool:
        return self.n >= 2 and not math.isnan(self.sd)

    def half_width(self, alpha: float) -> float:
        if not self.known:
            return math.inf
        if self.sd == 0:
            return 0.0

        def excess(x: float) -> float:
            return 2 * float(self.tail(x, self.n)) - alpha

        high = self.sd
        while excess(high) > 0:
            high *= 2
        return float(brentq(excess, 0.0, high, xtol=1e-12, rtol=1e-10))

    def p_values(self, n: float, margin: float) -> tuple[float, float]:
        """p of "no difference" and of "a difference of at least margin", with this mean and sd seen in n looks instead."""
        if not self.known:
            return 1.0, 1.0
        if self.sd == 0:
            return 1.0, 0.0
        different = min(1.0, 2 * float(self.tail(abs(self.mean), n)))
        # Of the two one-sided tests the nearer edge has the larger p, and both must reject.
        return different, 1.0 if math.isnan(margin) else float(self.tail(margin - abs(self.mean), n))

    def posterior(self, margin: float, higher_is_better: bool) -> Posterior | None:
        """Flat prior on the mean, Jeffreys' on the spreads: then its distribution is the one that gives the interval."""
        if not self.known or self.sd == 0 or math.isnan(margin):
            return None
        above, below = float(self.tail(margin - self.mean, self.n)), float(self.tail(margin + self.mean, self.n))
        better, worse = (above, below) if higher_is_better else (below, above)
        return Posterior(better, max(0.0, 1 - above - below), worse)


@dataclass(frozen=True)
class Resampled(Sample):
    """One number per fold. `ratio`: n_test / n_train, by which the folds' training sets overlap."""

    ratio: float

    def _error(self, n: npt.ArrayLike) -> Floats:
        return np.asarray(self.sd * np.sqrt(1 / np.asarray(n, np.float64) + self.ratio))

    def tail(self, x: npt.ArrayLike, n: npt.ArrayLike) -> Floats:
        return np.asarray(stdtr(np.asarray(n, np.float64) - 1, -np.asarray(x, np.float64) / self._error(n)))

    def half_width(self, alpha: float) -> float:
        if not self.known:
            return math.inf
        return float(stdtrit(self.n - 1, 1 - alpha / 2) * self._error(self.n))


def holm(p: npt.ArrayLike) -> Floats:
    """Holm's adjusted p-values along the last axis: the chance that any true hypothesis falls below alpha is alpha.

    Shape (..., m) in, float64 of the same shape out, at most 1. Valid whatever the dependence between the tests, which
    matters here: all comparisons share the baseline's trials.
    """
    values = np.asarray(p, dtype=np.float64)
    m = values.shape[-1]
    order = np.argsort(values, axis=-1, kind="stable")
    steps = np.take_along_axis(values, order, axis=-1) * (m - np.arange(m))
    adjusted = np.minimum(np.maximum.accumulate(steps, axis=-1), 1.0)
    out = np.empty_like(values)
    np.put_along_axis(out, order, adjusted, axis=-1)
    return out


def expected_precision(folds: int, repeats: int, n_train: int, n_test: int, sd: float, alpha: float = 0.05) -> float:
    """Half-width of the corrected interval of a mean paired difference, before any compute is spent.

    Args:
        folds: per repeat (1 for hold-out splits that are drawn anew each repeat). repeats: how many.
        n_train, n_test: examples fitted and tested in one fold.
        sd: of the paired differences over folds, guessed or from a pilot; the answer has the same unit.

    Infinite when folds * repeats < 2. Raises VerdictError for numbers that cannot be.
    """
    if folds < 1 or repeats < 1 or n_train < 1 or n_test < 1 or not (math.isfinite(sd) and sd >= 0):
        raise VerdictError(
            f"Expected precision was asked for {repeats} repeats of {folds} folds with {n_train} examples to fit, "
            f"{n_test} to test and a standard deviation of {sd:g}; expected counts of at least 1 and a finite, "
            "non-negative standard deviation."
        )
    check_alpha(alpha)
    return Resampled(folds * repeats, 0.0, sd, n_test / n_train).half_width(alpha)


def check_alpha(alpha: float) -> None:
    if not 0 < alpha < 0.5:
        raise VerdictError(f"The chance of error alpha is {alpha:g}; expected a number between 0 and 0.5. Common is 0.05.")
