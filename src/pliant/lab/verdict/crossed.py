"""One fixed division into training and test examples: what seeds and test examples say together.

The networks of all seeds are tested on the same n examples, so a score varies for two reasons that do not mix: another seed
would have trained another network, and other examples would have suited one activation better than the other. More seeds
take away the first alone. With d[k, i] the difference in example i of seed k, taken as ``mean + seed[k] + example[i] + rest``,
the variance of the mean over K seeds is

    s^2 / K + v,

s^2 the variance of the seeds' mean differences (it holds the rest, shared out over the examples) and v what the examples
contribute whatever the seed: the mean covariance, over test examples, between the differences of two seeds. The first is known
from K - 1 numbers, the second from n - 1, so the error of the mean is that of a t with K - 1 degrees of freedom plus an
independent one with n - 1: the distribution of Behrens and Fisher, which is integrated here and not approximated.

Chosen by error rate among nine candidates in simulations of nothing-different (docs/verdict.md): over 2, 3, 5 and 10 seeds
and effects of seeds and examples from none to dominant it came out different in 2 to 6 %, where Satterthwaite's degrees of
freedom for the same variance gave up to 12 % with two seeds, seeds alone up to 31 % and examples alone up to 63 %.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, stdtr

from pliant.lab.verdict.paired import Sample, check_alpha
from pliant.lab.verdict.words import VerdictError

__all__ = ["REPLICATES", "Crossed", "Sampled", "bootstrap", "expected_precision_crossed", "identity", "resamples"]

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

REPLICATES = 1000
"""Resamples of the test examples. Their number leaves an uncertainty of 4 to 5 % in a variance, 2 % in a width."""

_MANY = 200


@dataclass(frozen=True, eq=False)
class Sampled:
    """How one trial's score varies with the choice of its test examples.

    `key`: which examples these are; scores of different keys are never taken together. `units`: how many independent ones
    (groups, where examples of a group belong together). `vector`: float64, any length that is the same under one key; the
    inner product of two trials' vectors is the covariance of their scores over samples of `units` units.
    """

    key: str
    units: int
    vector: Floats


def identity(*arrays: npt.ArrayLike) -> str:
    """A name for these test examples: sha256 over shapes, dtypes and bytes."""
    digest = hashlib.sha256()
    for given in arrays:
        array = np.ascontiguousarray(given)
        digest.update(f"{array.shape} {array.dtype.str};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def resamples(units: int, replicates: int = REPLICATES) -> Iterator[Indices]:
    """Which units each resample draws, with replacement: int64, shape (units,), so many times.

    The same ones in every call: what makes the replicates of two trials comparable, and a verdict repeatable.
    """
    rng = np.random.default_rng(units)
    for _ in range(replicates):
        yield rng.integers(0, units, units, dtype=np.int64)


def bootstrap(metric: Callable[[Indices], float], units: int, *, key: str, replicates: int = REPLICATES) -> Sampled:
    """How a score varies with its test units, for any score that can be computed on a resample of them.

    Args:
        metric: indices of units, int64, shape (units,), repeats among them -> the score of one trial on these. For mAP the
            units are images: it gathers the matched detections and the numbers of true objects of these images.
        units: how many there are, at least 2. key: names them; the same for every trial tested on them, see `identity`.

    A replicate that is nan (no object of any class) says nothing; it is left out, and must be nan for every trial.

    Raises:
        VerdictError: fewer than 2 units or replicates.
    """
    if units < 2 or replicates < 2:
        raise VerdictError(
            f"A bootstrap over {units} test units with {replicates} resamples was asked for; expected at least 2 of both, "
            "since one has no spread."
        )
    return from_replicates(np.array([metric(drawn) for drawn in resamples(units, replicates)]), units, key)


def from_replicates(values: Floats, units: int, key: str) -> Sampled:
    """The scores on `resamples`, shape (replicates,), as a vector."""
    found = np.isfinite(values)
    centred = np.where(found, values, 0.0)
    centred = np.where(found, values - centred.sum() / max(1, found.sum()), 0.0)
    # Drawing units out of themselves understates their spread by (units - 1) / units.
    return Sampled(key, units, centred * math.sqrt(units / (units - 1) / max(1, found.sum() - 1)))


def from_contributions(values: Floats, key: str, groups: npt.ArrayLike | None = None) -> Sampled:
    """The same without resampling, for a score that is the mean of one number an example; shape (n,).

    `groups`: shape (n,); examples of one are drawn together, and their number is then part of chance (a ratio estimator).
    """
    centred = values - values.mean()
    if groups is not None:
        _, which = np.unique(np.asarray(groups), return_inverse=True)
        sums = np.bincount(which, weights=centred)
        centred = sums * (len(sums) / len(values))
    n = len(centred)
    if n < 2:
        raise VerdictError(f"There is {n} test unit; expected at least 2, since one has no spread.")
    return Sampled(key, n, centred / math.sqrt(n * (n - 1)))


@dataclass(frozen=True)
class Crossed(Sample):
    """Differences (or scores) of n seeds on one set of examples. `sd`: over seeds, nan if unknown. `examples`: v above."""

    examples: float
    units: int

    @staticmethod
    def of(values: Sequence[float], vectors: Floats, units: int, step: float) -> Crossed:
        """From each seed's number and vector (float64, shape (n, any)).

        `step`: what the metric can resolve, 0 if there is no such limit.
        """
        n = len(values)
        if n < 2:
            return Crossed(n, float(np.mean(values)) if n else math.nan, math.nan, math.nan, units)
        own = float((vectors**2).sum())
        shared = max(0.0, (float((vectors.sum(axis=0) ** 2).sum()) - own) / (n * (n - 1)))
        if own == 0.0:
            # No example on which the two ever differ: one might have, so one is what the examples leave open.
            shared = step**2
        sd = max(float(np.std(values, ddof=1)), step / math.sqrt(12))
        return Crossed(n, float(np.mean(values)), sd, shared, units)

    def tail(self, x: npt.ArrayLike, n: npt.ArrayLike) -> Floats:
        x, n = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(n, np.float64))
        out = np.empty(x.shape)
        for at in np.ndindex(x.shape):
            out[at] = self._tail(float(x[at]), float(n[at]))
        return out

    def _tail(self, x: float, n: float) -> float:
        if math.isinf(n):
            return float(stdtr(self.units - 1, -x / math.sqrt(self.examples))) if self.examples else float(x <= 0)
        y, weight = _chi(n - 1)
        seeds = self.sd**2 / n * (n - 1) / y**2
        if self.units > _MANY:
            return float(weight @ ndtr(-x / np.sqrt(seeds + self.examples)))
        z, weight_of_examples = _chi(self.units - 1.0)
        examples = self.examples * (self.units - 1) / z**2
        return float(weight @ ndtr(-x / np.sqrt(seeds[:, None] + examples)) @ weight_of_examples)


@functools.lru_cache(maxsize=2048)
def _chi(df: float) -> tuple[Floats, Floats]:
    """Nodes and weights of an expectation over a chi variable."""
    v, weight = np.polynomial.legendre.leggauss(96)
    low, high = max(0.0, math.sqrt(df) - 8), math.sqrt(df) + 8
    v = (v + 1) / 2
    # Squared, the nodes crowd at the low end, where few degrees of freedom have their long tail.
    y, weight = low + (high - low) * v**2, weight * v
    logarithm = (df - 1) * np.log(y) - y**2 / 2
    weight = weight * np.exp(logarithm - logarithm.max())
    return y, weight / weight.sum()


def expected_precision_crossed(seeds: int, units: int, sd: float, sd_examples: float, alpha: float = 0.05) -> float:
    """Half-width of the interval of a mean paired difference on one fixed split, before any compute is spent.

    Args:
        seeds: how many. units: test examples (or groups of them).
        sd: of the seeds' differences, guessed or from a pilot; the answer has the same unit.
        sd_examples: what the test examples leave open however many seeds there are. In accuracy, if the activations differ
            systematically on a share q of n examples, about sqrt(q / n).

    Infinite for fewer than 2 seeds. Raises VerdictError for numbers that cannot be.
    """
    if seeds < 1 or units < 2 or not all(math.isfinite(s) and s >= 0 for s in (sd, sd_examples)):
        raise VerdictError(
            f"Expected precision was asked for {seeds} seeds on {units} test examples with standard deviations of {sd:g} over "
            f"seeds and {sd_examples:g} from examples; expected at least 1 seed, at least 2 examples, and finite, non-negative "
            "standard deviations."
        )
    check_alpha(alpha)
    if sd == sd_examples == 0:
        return 0.0 if seeds > 1 else math.inf
    return Crossed(seeds, 0.0, sd, sd_examples**2, units).half_width(alpha)
