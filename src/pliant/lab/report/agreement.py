"""Whether a number printed in a paper is consistent with ours: one definite rule, stated on every page that uses it.

A printed number that is said to be of a single run is compared with the interval for one new run of ours: the mean of our
n trials, give or take ``t * s * sqrt(1 + 1 / n)``. That interval needs no further correction for overlapping training sets:
if trials correlate by rho, the variance of a new one about the mean of the others is ``sigma^2 (1 - rho) (1 + 1 / n)``, and
``s^2`` estimates ``sigma^2 (1 - rho)``. Every other printed number is compared with the (corrected) interval of our mean.

The printed number is taken as any that would be rounded to it: give or take half a unit of its last decimal. It is
consistent if any such number lies inside the interval. A paper's own noise is not known and not allowed for, so a number
that is not consistent may still be within the luck of a few runs; one that is consistent is no proof of equal methods.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

from scipy.special import stdtrit

from pliant.lab.report.wording import Metric, finite

if TYPE_CHECKING:
    from pliant.lab.verdict import Estimate

RULE = (
    "Consistent means: the printed number, give or take half a unit of its last decimal, lies inside our interval. Where the "
    "paper is known to report one run, that is the interval for one new run of ours, which is wider; otherwise it is that of "
    "our mean."
)


@dataclass(frozen=True)
class Agreement:
    """``low`` and ``high``: the interval that decided, in the metric's own units."""

    consistent: bool
    single: bool
    """Decided by the interval for one new run, and not by that of the mean."""
    low: float
    high: float


def agreement(estimate: Estimate, entry: Mapping[str, object], shown: Metric, alpha: float) -> Agreement | None:
    """How an entry of ``ReportData.printed`` goes with our estimate; None where that cannot be said: fewer than two trials,
    no number, a unit that is not the metric's, or a study at a reduced size."""
    printed = in_units(finite(entry.get("value")), str(entry.get("unit") or ""), shown)
    mean, sd = finite(estimate.mean), finite(estimate.sd)
    if printed is None or mean is None or sd is None or estimate.n < 2 or entry.get("reduced"):
        return None
    single = entry.get("runs") == 1
    if single:
        half = float(stdtrit(estimate.n - 1, 1 - alpha / 2)) * sd * math.sqrt(1 + 1 / estimate.n)
        low, high = mean - half, mean + half
    else:
        low, high = estimate.low, estimate.high
    if finite(low) is None or finite(high) is None:
        return None
    rounding = in_units(_half_a_unit(entry), str(entry.get("unit") or ""), shown) or 0.0
    slack = rounding + 1e-12
    return Agreement(low - slack <= printed <= high + slack, single, low, high)


def in_units(value: float | None, unit: str, shown: Metric) -> float | None:
    """A printed number in the units in which the metric is stored; None where its unit is another one."""
    if value is None:
        return None
    if shown.unit == "%" and unit in ("%", "per cent", "percent"):
        return value / shown.scale
    return value if unit in ("", "fraction", shown.unit) else None


def _half_a_unit(entry: Mapping[str, object]) -> float:
    decimals = finite(entry.get("digits"))
    if decimals is None:
        try:
            exponent = Decimal(str(entry.get("value"))).as_tuple().exponent
        except InvalidOperation:
            return 0.0
        decimals = -exponent if isinstance(exponent, int) else 0
    return 0.5 * 10.0 ** -max(0, int(decimals))
