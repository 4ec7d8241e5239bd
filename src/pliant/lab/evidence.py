"""What is known of a study: its rows and all that a verdict on them needs, wherever they come from.

A store gives it (:meth:`Evidence.of`), and so does a record in the repository (:mod:`pliant.lab.records`), which needs neither
the store nor the data. Claims, tables and pages are made from this, so that they say the same from either source.
"""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pliant.lab.metrics import METRICS
from pliant.lab.verdict import Estimate, Sampled, Verdict, expected_precision, judge

if TYPE_CHECKING:
    from pliant.lab.result import Result
    from pliant.lab.study import Study

__all__ = ["JUDGED", "Evidence", "Learned", "Origin", "Tier", "placed", "together"]

Tier = Literal["smoke", "lite", "full"]
Origin = Literal["store", "record"]
Learned = Mapping[str, Mapping[str, float]]
"""Site -> coefficient -> value."""

JUDGED = ("accuracy", "precision", "recall", "f1", "precision_weighted", "f1_weighted")
"""What is judged beside a study's own metric. The others are in the rows; on a fixed split they would take minutes each."""


@dataclass(frozen=True)
class Evidence:
    """The rows of a study at one tier, finished or not.

    Args:
        name, directory, title, tier: of the study; the tier is that of its definition.
        origin: where the rows were read. path: of the record; None for a store.
        rows: one flat dict for each activation, repeat and fold, as :attr:`pliant.lab.result.Result.rows`.
        activations, labels, baseline, metric, margin, design: of the study.
        examples: how a row's score varies with its test examples, where the test part is fixed; None elsewhere, or unknown.
        kept: the verdict as it was computed when a record was made.
        changes: what was changed of the study's definition, as on the command line.
        remarks: what must be said wherever the numbers are.
    """

    name: str
    directory: str
    title: str
    tier: Tier
    origin: Origin
    rows: Sequence[Mapping[str, Any]]
    activations: tuple[str, ...]
    labels: Mapping[str, str]
    baseline: str
    metric: str
    margin: float
    design: str
    examples: Callable[[Mapping[str, object], str], Sampled | None] | None = None
    kept: Verdict | None = None
    remarks: tuple[str, ...] = ()
    path: Path | None = None
    changes: tuple[str, ...] = ()
    confusions: Callable[[], Mapping[str, Mapping[tuple[str, str], int]]] = dict
    """Activation -> (true class, predicted class) -> test examples of all trials together; nothing where they are not known."""
    classes: int = 0
    """How many classes there are; 0 where that is not known, or no matter."""
    learned: Callable[[], Mapping[str, Sequence[Learned]]] = dict
    """Activation -> what each of its trials had learned when it ended; nothing where that is not known."""
    timed: bool = True
    """Whether times in the rows may be compared; of a record, whether it says that its trials ran by themselves."""

    @staticmethod
    def of(result: Result) -> Evidence:
        """What a store holds of a study."""
        study = result.study
        return Evidence(
            name=study.name,
            directory=study.directory,
            title=study.heading,
            tier=tier_of(study),
            origin="store",
            rows=result.rows,
            activations=study.activations,
            labels=study.labels,
            baseline=study.baseline,
            metric=study.metric,
            margin=study.margin,
            design=study.protocol.design,
            examples=result.sampled if study.protocol.design == "official" else None,
            remarks=(*result.remarks, *_changes(study.overrides)),
            # Beside other trainings, as studies are run by default, one takes what time it gets; a store does not say.
            timed=False,
            changes=study.overrides,
            confusions=functools.partial(_confusions, result),
            classes=len(result.classes),
            learned=result.learned,
        )

    @property
    def size(self) -> str:
        """The tier, and what was changed of it: "lite", or "lite, changed: train.epochs=4"."""
        return f"{self.tier}, changed: {', '.join(self.changes)}" if self.changes else self.tier

    @property
    def comparable(self) -> tuple[str, ...]:
        """Studies that agree in this were run at one size; which activations were chosen of each is another matter."""
        return (self.tier, *(change for change in self.changes if not change.startswith("-a ")))

    @functools.cached_property
    def own(self) -> Verdict:
        """The study's own verdict: as it was kept, or judged now."""
        return self.kept or self.verdict()

    @property
    def counts(self) -> dict[str, int]:
        """Rows by outcome: done, diverged, failed, missing."""
        outcomes = [row["outcome"] for row in self.rows]
        return {name: outcomes.count(name) for name in ("done", "diverged", "failed", "missing")}

    @property
    def scored(self) -> int:
        """How many rows have a result."""
        return self.counts["done"] + self.counts["diverged"]

    def verdict(
        self,
        *,
        baseline: str | None = None,
        metric: str | None = None,
        margin: float | None = None,
        activations: Sequence[str] = (),
        metrics: Sequence[str] = (),
        alpha: float = 0.05,
    ) -> Verdict:
        """Judge the rows, see :func:`pliant.lab.verdict.judge`; every argument stands in for the study's own.

        Args:
            activations: compare only these with the baseline. metrics: judge these too.

        Raises:
            VerdictError, UnknownNameError: as :func:`pliant.lab.verdict.judge`.
        """
        metric, baseline = metric or self.metric, baseline or self.baseline
        chosen = tuple(dict.fromkeys([baseline, *activations])) if activations else self.activations
        return judge(
            self.rows,
            activations=chosen,
            labels=self.labels,
            baseline=baseline,
            metric=metric,
            metrics=tuple(dict.fromkeys([metric, *metrics])),
            margin=self.margin if margin is None else margin,
            alpha=alpha,
            examples=self.examples,
        )

    @functools.cached_property
    def _estimates(self) -> dict[tuple[str, str], Estimate]:
        return {}

    def estimate(self, activation: str, column: str) -> Estimate | None:
        """One activation on one column of the rows by itself; None where no row has it.

        Args:
            column: ``test_accuracy``, or any other with numbers, such as ``seconds_per_epoch``. What is not a score of the test
                part has the interval of a mean over folds or splits, and on a fixed split none: there seeds do not show what
                other examples would have done.
        """
        rows = [row for row in self.rows if row["activation"] == activation]
        found = numbers_of(rows, column)
        if not found:
            return None
        metric = column.removeprefix("test_")
        if metric in METRICS and column != metric:
            if self.kept is not None and metric in self.kept.estimates:
                return next((e for e in self.kept.estimates[metric] if e.activation == activation), None)
            if self.examples is None or metric in JUDGED:
                return self._judged(activation, metric)
        outcomes = [row["outcome"] for row in rows]
        mean, low, high = statistics.fmean(found), -math.inf, math.inf
        sd = statistics.stdev(found) if len(found) > 1 else math.nan
        sizes = next(((row["n_train"], row["n_test"]) for row in rows if row.get("n_train") and row.get("n_test")), None)
        if len(found) > 1 and sizes is not None and self.design != "official":
            half = expected_precision(1, len(found), *sizes, sd)
            low, high = mean - half, mean + half
        return Estimate(
            activation,
            self.labels.get(activation, activation),
            n=len(found),
            diverged=outcomes.count("diverged"),
            failed=outcomes.count("failed"),
            missing=outcomes.count("missing"),
            mean=mean,
            low=low,
            high=high,
            sd=sd,
        )

    def _judged(self, activation: str, metric: str) -> Estimate:
        known = self._estimates
        if (activation, metric) not in known:
            for estimate in self.verdict(metric=metric).estimates[metric]:
                known[estimate.activation, metric] = estimate
        return known[activation, metric]


def _confusions(result: Result) -> dict[str, dict[tuple[str, str], int]]:
    pairs = list(itertools.product(result.classes, result.classes))
    return {a: dict(zip(pairs, itertools.chain(*counts), strict=True)) for a, counts in result.confusions().items()}


def placed(activation: str, study: str) -> str:
    """What an activation of a study is called beside those of other studies."""
    return f"{activation} @ {study}"


def together(parts: Sequence[Evidence]) -> Evidence:
    """Several studies as one, each activation under the name that :func:`placed` gives: for comparisons across studies, which
    mean something where these share the division of the data and the seeds.

    Args:
        parts: one or more, of one design and tier; the first gives what one study has one of.
    """
    first = parts[0]
    of = {row["key"]: part for part in parts for row in part.rows if "key" in row}

    def examples(row: Mapping[str, object], metric: str) -> Sampled | None:
        own = of[row["key"]].examples
        return None if own is None else own(row, metric)

    return replace(
        first,
        rows=[{**row, "activation": placed(row["activation"], part.name)} for part in parts for row in part.rows],
        activations=tuple(placed(a, part.name) for part in parts for a in part.activations),
        labels={placed(a, part.name): placed(part.labels.get(a, a), part.name) for part in parts for a in part.activations},
        baseline=placed(first.baseline, first.name),
        examples=examples if all(part.examples is not None for part in parts) else None,
        kept=None,
        remarks=tuple(dict.fromkeys(remark for part in parts for remark in part.remarks)),
    )


def _changes(overrides: Sequence[str]) -> tuple[str, ...]:
    return (f"This is not the study as it is defined; changed: {' '.join(overrides)}.",) if overrides else ()


def numbers_of(rows: Sequence[Mapping[str, Any]], column: str) -> list[float]:
    """The finite numbers in a column."""
    return [float(v) for row in rows if isinstance(v := row.get(column), int | float) and math.isfinite(v)]


def tier_of(study: Study) -> Tier:
    """The tier of a study; one that names none is at its full size."""
    return study.tier or "full"
