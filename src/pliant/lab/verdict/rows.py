"""The rows of one study, as trials that are paired, summed up and compared."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from pliant.errors import unknown
from pliant.lab.metrics import COUNTED, HIGHER_IS_BETTER, UNITS
from pliant.lab.verdict.crossed import Crossed, Sampled
from pliant.lab.verdict.paired import Resampled, Sample, holm
from pliant.lab.verdict.words import NAMES, Comparison, Estimate, VerdictError, Word, amount

__all__ = ["MOST_REPEATS", "Examples", "Rows"]

Floats = npt.NDArray[np.float64]
Cell = tuple[int, int]
Place = tuple[Cell, int, int]
Examples = Callable[[Mapping[str, object], str], Sampled | None]

MOST_REPEATS = 1000
"""How many further repeats `Comparison.more_repeats` looks ahead; nobody trains more than that to settle one word."""

_SIZES: Mapping[str, str] = {"train": "n_train", "validation": "n_validation", "test": "n_test"}
_SAME = 1e-12


@dataclass(frozen=True)
class Trial:
    activation: str
    cell: Cell
    seed: int
    outcome: str
    row: Mapping[str, object]

    @property
    def counts(self) -> bool:
        return self.outcome in ("done", "diverged")

    @property
    def place(self) -> Place:
        # The true repeat as well as the cell: repeats that share a partition may share a seed, and remain two trials.
        return self.cell, whole(self.row, "repeat"), self.seed

    def number(self, column: str) -> float:
        """A column of a trial that counts; nan where it is undefined."""
        if column not in self.row:
            raise VerdictError(
                f"{describe(self.row)} has no column {column!r}; expected one, since its outcome is {self.outcome!r}. "
                f"Its columns are {', '.join(sorted(self.row))}."
            )
        value = self.row[column]
        if type(value) is float:
            return value
        if value is None:
            return math.nan
        if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
            raise VerdictError(
                f"{describe(self.row)} has {value!r} as its {column}; expected a number or nothing. "
                "Rows read from CSV as text must be converted first."
            )
        return float(value)

    def size(self, column: str) -> float:
        given = self.row.get(column)
        if type(given) is int and given >= 1:
            # Asked for millions of times in a verdict on many thousand trials.
            return float(given)
        value = self.number(column)
        if not (math.isfinite(value) and value >= 1):
            raise VerdictError(
                f"{describe(self.row)} has {column} = {value:g}; expected a count of examples, at least 1, since its "
                f"outcome is {self.outcome!r}. Without it the overlap of the training sets cannot be corrected for."
            )
        return value


@dataclass(frozen=True)
class Rows:
    activations: tuple[str, ...]
    labels: Mapping[str, str]
    split: str
    trials: Mapping[str, Mapping[Place, Trial]]
    repeats: int
    folds: int
    seeds: int
    partitions_given: bool
    examples: Examples | None

    @staticmethod
    def of(
        rows: Sequence[Mapping[str, object]],
        activations: Sequence[str],
        labels: Mapping[str, str],
        split: str,
        examples: Examples | None,
    ) -> Rows:
        trials: dict[str, dict[Place, Trial]] = {activation: {} for activation in activations}
        chosen = [row for row in rows if column(row, "activation") in trials]
        if not chosen:
            raise VerdictError(
                f"None of the {len(rows)} rows belongs to {', '.join(activations)}; expected one row per trial of these. "
                "Activations go by their canonical spec here, not by their label."
            )
        given = [row.get("partition") is not None for row in chosen]
        if any(given) and not all(given):
            raise VerdictError(
                f"{sum(given)} of {len(given)} rows say which partition of the data they used and the others do not; "
                "expected all or none, because repeats on one partition are seeds and repeats on several are evidence. "
                "Fill the column in, or leave it out if every repeat has a partition of its own."
            )
        first: dict[object, int] = {}
        if any(given):
            for row in chosen:
                repeat = whole(row, "repeat")
                first[row["partition"]] = min(repeat, first.get(row["partition"], repeat))
        for row in chosen:
            outcome = str(column(row, "outcome"))
            if outcome not in ("done", "diverged", "failed", "missing"):
                raise unknown("outcome", outcome, ("done", "diverged", "failed", "missing"))
            repeat = first[row["partition"]] if first else whole(row, "repeat")
            trial = Trial(str(row["activation"]), (repeat, whole(row, "fold")), whole(row, "seed"), outcome, row)
            if trial.place in trials[trial.activation]:
                raise VerdictError(
                    f"{describe(row)} occurs twice; expected one row per activation, repeat, fold and seed. These may "
                    "be the rows of two studies, datasets or models: judge them one at a time."
                )
            trials[trial.activation][trial.place] = trial
        # In one order whatever the order of the rows, since a sum of floats depends on it in its last digit.
        trials = {activation: dict(sorted(by_place.items())) for activation, by_place in trials.items()}
        places = {place for by_place in trials.values() for place in by_place}
        cells: dict[Cell, int] = {}
        for cell, _, _ in places:
            cells[cell] = cells.get(cell, 0) + 1
        repeats = [repeat for repeat, _ in cells]
        return Rows(
            activations=tuple(activations),
            labels=labels,
            split=split,
            trials=trials,
            repeats=len(set(repeats)),
            folds=max((repeats.count(repeat) for repeat in set(repeats)), default=0),
            seeds=max(cells.values(), default=0),
            partitions_given=bool(first),
            examples=examples,
        )

    @property
    def crossed(self) -> bool:
        """Whether all trials share one division of the data, and it is known example by example what they got right."""
        return self.examples is not None and self.partitions_given and self.repeats == self.folds == 1

    def label(self, activation: str) -> str:
        return self.labels.get(activation, activation)

    def units(self, metric: str) -> int | None:
        """Independent test examples of the one fixed split on which seeds are crossed with them."""
        if not self.crossed:
            return None
        for by_place in self.trials.values():
            for place, trial in by_place.items():
                found = self.sampled(trial.activation, place, metric) if trial.counts else None
                if found is not None:
                    return found.units
        return 0

    @functools.cached_property
    def places(self) -> set[Place]:
        return {place for by_place in self.trials.values() for place in by_place}

    @functools.cached_property
    def _values(self) -> dict[tuple[str, str], dict[Place, float]]:
        return {}

    def values(self, activation: str, metric: str) -> Mapping[Place, float]:
        """The trials of an activation that count and for which the metric is defined."""
        # Asked for again and again, and what takes the time of a verdict on many thousand trials.
        if (activation, metric) not in self._values:
            column = f"{self.split}_{metric}"
            found = {place: t.number(column) for place, t in self.trials[activation].items() if t.counts}
            self._values[activation, metric] = {place: value for place, value in found.items() if math.isfinite(value)}
        return self._values[activation, metric]

    def unscored(self, activation: str, metric: str) -> list[Trial]:
        scored = self.values(activation, metric)
        return [t for place, t in self.trials[activation].items() if t.counts and place not in scored]

    def sample(self, activation: str, by_place: Mapping[Place, float], metric: str, baseline: str | None = None) -> Sample:
        """Of the scores of an activation, or of its differences to the baseline.

        On one fixed split seeds crossed with test examples. Else seeds averaged inside folds, then mean, spread (never below
        what the metric can resolve) and overlap.
        """
        if self.crossed:
            return self.crossed_sample(activation, by_place, metric, baseline)
        folds = _by_fold(by_place)
        if not folds:
            return Resampled(0, math.nan, math.nan, math.nan)
        numbers = np.array([values[0] if len(values) == 1 else np.mean(values) for values in folds.values()])
        trials = [self.trials[activation][place] for place in by_place]
        ratio = float(np.mean([t.size("n_test") / t.size("n_train") for t in trials]))
        sd = float(numbers.std(ddof=1)) if len(numbers) > 1 else math.nan
        if metric in COUNTED:
            step = float(np.mean([1 / t.size(_SIZES[self.split]) for t in trials]))
            # The rounding errors of seeds are independent, so averaging seeds takes them down like any other noise.
            sd = max(sd, step / math.sqrt(12 * len(by_place) / len(folds))) if len(numbers) > 1 else math.nan
        elif sd <= _SAME:
            sd = math.nan
        return Resampled(len(numbers), float(numbers.mean()), sd, ratio)

    def sampled(self, activation: str, place: Place, metric: str) -> Sampled | None:
        assert self.examples is not None
        return self.examples(self.trials[activation][place].row, metric)

    def crossed_sample(self, activation: str, by_place: Mapping[Place, float], metric: str, baseline: str | None) -> Crossed:
        values = list(by_place.values())
        found = [[self.sampled(who, place, metric) for who in (activation, baseline) if who] for place in by_place]
        known = [s for pair in found for s in pair if s is not None]
        if len(known) < sum(map(len, found)) or len({s.key for s in known}) != 1:
            return Crossed(len(values), float(np.mean(values)) if values else math.nan, math.nan, math.nan, 0)
        vectors = np.array([s.vector for s in known]).reshape(len(values), -1, known[0].vector.size)
        differences = vectors[:, 0] if baseline is None else vectors[:, 0] - vectors[:, 1]
        first = self.trials[activation][next(iter(by_place))]
        step = 1 / first.size(_SIZES[self.split]) if metric in COUNTED else 0.0
        return Crossed.of(values, differences, known[0].units, step)

    def estimate(self, activation: str, metric: str, alpha: float) -> Estimate:
        values = self.values(activation, metric)
        sample = self.sample(activation, values, metric)
        half = sample.half_width(alpha)
        outcomes = [t.outcome for t in self.trials[activation].values()]
        here = len(outcomes) - outcomes.count("missing")
        return Estimate(
            activation=activation,
            label=self.label(activation),
            n=len(values),
            diverged=outcomes.count("diverged"),
            failed=outcomes.count("failed"),
            missing=len(self.places) - here,
            mean=sample.mean,
            low=sample.mean - half if sample.n else -math.inf,
            high=sample.mean + half if sample.n else math.inf,
            sd=float(np.std(list(values.values()), ddof=1)) if len(values) > 1 else math.nan,
        )

    def compare(self, baseline: str, metric: str, margin: float, alpha: float) -> tuple[tuple[Comparison, ...], list[str]]:
        others = [activation for activation in self.activations if activation != baseline]
        if not others:
            return (), []
        pairs = [self.pairs(activation, baseline, metric) for activation in others]
        identical = [bool(pair) and max(map(abs, pair.values())) <= _SAME for pair in pairs]
        samples: list[Sample] = []
        for activation, pair, same in zip(others, pairs, identical, strict=True):
            sample = self.sample(activation, pair, metric, baseline)
            if self.silenced(activation, metric) or self.silenced(baseline, metric) or self.both_diverged(activation, baseline):
                sample = replace(sample, sd=math.nan)
            elif same and sample.n > 1 and not self.told_apart(activation, baseline, metric, pair):
                sample = replace(sample, mean=0.0, sd=0.0)
            samples.append(sample)
        family = _Family(samples, self.folds, margin, alpha)
        different, equivalent = family.after(0)

        comparisons = []
        for i, (activation, pair, sample) in enumerate(zip(others, pairs, samples, strict=True)):
            higher = HIGHER_IS_BETTER[metric]
            word: Word = "CANNOT TELL"
            if different[i] < alpha:
                word = "BETTER" if (sample.mean > 0) == higher else "WORSE"
            elif equivalent[i] < alpha:
                word = "EQUIVALENT"
            open_still = word == "CANNOT TELL" and sample.known
            half = sample.half_width(alpha)
            comparisons.append(
                Comparison(
                    activation=activation,
                    label=self.label(activation),
                    baseline=baseline,
                    metric=metric,
                    higher_is_better=higher,
                    n=sample.n,
                    difference=sample.mean,
                    low=sample.mean - half if sample.n else -math.inf,
                    high=sample.mean + half if sample.n else math.inf,
                    p=sample.p_values(sample.n, margin)[0],
                    p_adjusted=float(different[i]),
                    word=word,
                    more_repeats=family.settled_after(i) if open_still else None,
                    differences=self.listed(pair),
                    identical=identical[i],
                    p_equivalent=float(equivalent[i]),
                    sd=sample.sd,
                    sd_examples=math.sqrt(sample.examples) if isinstance(sample, Crossed) else math.nan,
                    limited=open_still and not family.settled(i, math.inf),
                    posterior=sample.posterior(margin, higher),
                )
            )
        return tuple(comparisons), self._told(baseline, metric, samples, others)

    def listed(self, pair: Mapping[Place, float]) -> tuple[tuple[int, int, float], ...]:
        if self.crossed:
            return tuple((repeat, fold, float(value)) for ((_, fold), repeat, _), value in sorted(pair.items()))
        return tuple((repeat, fold, float(np.mean(values))) for (repeat, fold), values in sorted(_by_fold(pair).items()))

    def pairs(self, activation: str, baseline: str, metric: str) -> dict[Place, float]:
        mine, theirs = self.values(activation, metric), self.values(baseline, metric)
        both = sorted(mine.keys() & theirs.keys())
        for place in both:
            one, other = self.trials[activation][place], self.trials[baseline][place]
            for column in ("n_train", "n_test"):
                if one.size(column) != other.size(column):
                    raise VerdictError(
                        f"{describe(one.row)} has {column} = {one.size(column):g}, its partner {baseline!r} has "
                        f"{other.size(column):g}; expected the same, because only trials on the same split can be "
                        "compared as a pair. Run both activations in one study."
                    )
        return {place: mine[place] - theirs[place] for place in both}

    def silenced(self, activation: str, metric: str) -> int:
        """How many trials diverged without a score: the rest cannot speak for the activation."""
        return sum(t.outcome == "diverged" for t in self.unscored(activation, metric))

    def both_diverged(self, activation: str, baseline: str) -> int:
        """In how many pairs neither trial gave a network: their equal scores are no evidence that the two are equal."""
        mine, theirs = self.trials[activation], self.trials[baseline]
        return sum(mine[p].outcome == theirs[p].outcome == "diverged" for p in mine.keys() & theirs.keys())

    def told_apart(self, activation: str, baseline: str, metric: str, places: Iterable[Place]) -> bool:
        """Whether trials with the same counts are different trainings after all, by the losses or the examples."""
        if self.crossed:
            both = [(self.sampled(activation, place, metric), self.sampled(baseline, place, metric)) for place in places]
            if any(a is None or b is None or a.key != b.key or np.abs(a.vector - b.vector).max() > _SAME for a, b in both):
                return True
        if metric not in COUNTED:
            return False
        column = f"{self.split}_loss"
        for place in places:
            one, other = self.trials[activation][place], self.trials[baseline][place]
            if column in one.row and column in other.row and abs(one.number(column) - other.number(column)) > _SAME:
                return True
        return False

    def warnings(self, baseline: str) -> list[str]:
        """What is wrong with the study whichever metric one looks at."""
        told = []
        places = self.places
        missing = 0
        for activation in self.activations:
            outcomes = [t.outcome for t in self.trials[activation].values()]
            total, diverged, failed = len(places), outcomes.count("diverged"), outcomes.count("failed")
            missing += total - len(outcomes) + outcomes.count("missing")
            for count, outcome, fate in (
                (diverged, "diverged", "scored and counted as they are"),
                (failed, "failed", "left out"),
            ):
                if count:
                    told.append(f"{count} of {total} trials of {self.label(activation)} {outcome}; {fate}.")
        if missing:
            told.append(f"Incomplete: {missing} of {len(places) * len(self.activations)} trials are missing.")
        reference = {place for place, t in self.trials[baseline].items() if t.counts}
        for activation in self.activations:
            mine = {place for place, t in self.trials[activation].items() if t.counts}
            if single := len(mine ^ reference):
                told.append(
                    f"{self.label(activation)} vs {self.label(baseline)}: {single} of {len(places)} pairs lack one of "
                    "their two trials and are left out."
                )
        if self.folds == 1 and self.repeats > 1 and not self.partitions_given:
            told.append(
                f"Each of the {self.repeats} repeats is taken to have drawn its own training and test examples. If the "
                "split is fixed, give the rows a column 'partition' with one value: the repeats are then seeds, and the "
                "verdict is CANNOT TELL until the test examples themselves are resampled."
            )
        return told

    def _told(self, baseline: str, metric: str, samples: Sequence[Sample], others: Sequence[str]) -> list[str]:
        """What is wrong with one family of comparisons."""
        told = []
        name = f"{self.split} {NAMES.get(metric, metric)}"
        for activation in self.activations:
            silenced = self.silenced(activation, metric)
            if undefined := len(self.unscored(activation, metric)) - silenced:
                told.append(f"{name} is undefined in {_trials(undefined)} of {self.label(activation)}; left out.")
            if silenced:
                told.append(
                    f"{_trials(silenced)} of {self.label(activation)} diverged without a {name}: CANNOT TELL, since the "
                    "trials that did not diverge cannot speak for those that did."
                )
        few = [self.label(a) for a, s in zip(others, samples, strict=True) if s.n < 2]
        if few and self.crossed:
            told.append(
                f"Fewer than 2 seeds for {', '.join(few)} against {self.label(baseline)}: how much luck there is in training "
                "is not known, so no interval and no verdict. It takes 2 seeds on this split; 5 are better."
            )
        elif few:
            told.append(
                f"Fewer than 2 pairs for {', '.join(few)} against {self.label(baseline)}: no spread, no interval, no "
                "verdict. It takes two folds or repeats on different data; more seeds on one split are not enough."
            )
        same = [
            self.label(activation)
            for activation, sample in zip(others, samples, strict=True)
            if sample.n > 1
            and math.isnan(sample.sd)
            and not (
                self.silenced(activation, metric)
                or self.silenced(baseline, metric)
                or (self.crossed and self.both_diverged(activation, baseline))
            )
        ]
        if same and self.crossed:
            told.append(
                f"No predictions that belong together for the {name} of {', '.join(same)} against {self.label(baseline)}: "
                "on one fixed split every seed must have its predictions stored, all for the same test examples. No verdict."
            )
        elif same:
            told.append(
                f"All pairs of {', '.join(same)} differ from {self.label(baseline)} by one and the same {name}: no "
                "measured metric does that, so look for copied rows. No verdict."
            )
        return told

    def design(self, margin: float, metric: str, alpha: float, baseline: str, family: int) -> str:
        if self.folds > 1:
            shape = f"{self.repeats} x {self.folds} folds"
        elif self.repeats > 1:
            shape = f"{self.repeats} hold-out splits"
        else:
            shape = "1 fixed split"
        meaning = (
            f"Holm over {family} comparison{'' if family == 1 else 's'} per metric; "
            f"equivalent means within {amount(margin, metric, sign='')} {UNITS[metric]}."
        )
        counted = [t for by_place in self.trials.values() for t in by_place.values() if t.counts]
        if self.crossed:
            units = self.units(metric) or 0
            grouped = any(t.size("n_test") > units for t in counted)
            tested = f"{units} groups of test examples" if grouped else f"{units} test examples"
            return (
                f"{shape}, {self.seeds} seed{'' if self.seeds == 1 else 's'} crossed with {tested}; differences to "
                f"{self.label(baseline)} paired within seed and {'group' if grouped else 'example'}; Behrens-Fisher interval "
                f"at {100 * (1 - alpha):g} %; {meaning}"
            )
        if self.seeds > 1:
            shape += f", up to {self.seeds} seeds averaged inside each"
        overlap = ""
        if counted:
            overlap = f" (n_test / n_train = {np.mean([t.size('n_test') / t.size('n_train') for t in counted]):.3f})"
        return (
            f"{shape}; differences to {self.label(baseline)} paired within split and seed; corrected resampled "
            f"t{overlap} at {100 * (1 - alpha):g} %; {meaning}"
        )


@dataclass(frozen=True)
class _Family:
    """The comparisons on one metric, now and after more repeats in which nothing but their number has changed.

    They move on together, since Holm's adjustment of one depends on the others. There are two families in it. Equivalence is
    adjusted as well, because the table as a whole is what people read: of fourteen activations that all sit on the edge of
    the margin, plain two one-sided tests would call one or more EQUIVALENT in up to half of all studies. The two stay apart
    since they fear different errors; no pair can suffer both, as no difference is at once zero and beyond the margin.
    """

    samples: Sequence[Sample]
    folds: int
    margin: float
    alpha: float
    _found: dict[float, tuple[Floats, Floats]] = field(default_factory=dict)

    def after(self, repeats: float) -> tuple[Floats, Floats]:
        """Adjusted p of "no difference" and of "at least the margin"."""
        if repeats not in self._found:
            p = np.array([s.p_values(s.n + repeats * self.folds, self.margin) for s in self.samples])
            self._found[repeats] = (holm(p[:, 0]), holm(p[:, 1]))
        return self._found[repeats]

    def settled(self, i: int, repeats: float) -> bool:
        different, equivalent = self.after(repeats)
        return bool(min(different[i], equivalent[i]) < self.alpha)

    def settled_after(self, i: int) -> int | None:
        # Every p falls with n, so the first number that settles it can be searched by halving.
        low, high = 0, MOST_REPEATS
        if not self.settled(i, high):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.settled(i, middle) else (middle, high)
        return high


def _by_fold(by_place: Mapping[Place, float]) -> dict[Cell, list[float]]:
    folds: dict[Cell, list[float]] = {}
    for (cell, _, _), value in by_place.items():
        folds.setdefault(cell, []).append(value)
    return folds


def _trials(count: int) -> str:
    return f"{count} trial{'' if count == 1 else 's'}"


def column(row: Mapping[str, object], name: str) -> object:
    if name not in row:
        raise VerdictError(
            f"{describe(row)} has no column {name!r}; expected activation, repeat, fold, seed and outcome in every row. "
            f"Its columns are {', '.join(sorted(row)) or 'none'}."
        )
    return row[name]


def whole(row: Mapping[str, object], name: str) -> int:
    value = column(row, name)
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise VerdictError(
            f"{describe(row)} has {value!r} as its {name}; expected a whole number. "
            "Rows read from CSV as text must be converted first."
        )
    return int(value)


def describe(row: Mapping[str, object]) -> str:
    facts = ", ".join(f"{name} {row[name]}" for name in ("repeat", "fold", "seed") if name in row)
    return f"The row of activation {row.get('activation')!r}{f' ({facts})' if facts else ''}"
