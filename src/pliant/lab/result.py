"""What came out of a study: rows, the verdict and everything the report shows, read from the store."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import platform
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import safetensors.numpy
from numpy.typing import NDArray
from torch import nn

from pliant import catalog
from pliant.lab import index, papers
from pliant.lab.choosing import choices_told, chosen_rows, filled
from pliant.lab.datasets import Data, Detection
from pliant.lab.detected import Found, detected
from pliant.lab.metrics import KNOWN
from pliant.lab.protocol import partition_of, split
from pliant.lab.reading import Tell, read
from pliant.lab.recipe import QUIRKS
from pliant.lab.report import PAGE, Detected, ReportData, Shape, build, draw, write_figures, write_tables
from pliant.lab.score import confusion, reliability_of, reliability_sums
from pliant.lab.shapes import learned, shape
from pliant.lab.store import DETECTIONS, HISTORY, PREDICTIONS, Identity, Store, StoreError
from pliant.lab.study import FROZEN, Study, TrialSpec, canonical, data_of, plan
from pliant.lab.verdict import (
    Predictions,
    Sampled,
    Verdict,
    expected_precision,
    expected_precision_crossed,
    judge,
)

__all__ = ["Precision", "Result"]

History = Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Precision:
    """How far the interval of a difference will reach to either side once all trials of the plan are done, at 95 %.

    `half_width`, `sd` (of the paired differences over folds; over seeds on the official split) and `sd_examples` (standard
    error from the test examples of the official split, else 0) in units of the metric. `measured`: the spreads are medians over
    the comparisons in the store, else those of a guess: one point, and activations that differ systematically on 1 % of the
    test examples.
    """

    half_width: float
    sd: float
    sd_examples: float
    measured: bool


class Result:
    """The results of a study as they are in a store, finished or not."""

    def __init__(self, study: Study, store: Store | None, tell: Tell | None = None) -> None:
        """
        Args:
            store: None where there is none yet. tell: is told how far reading is, see :data:`pliant.lab.reading.Tell`.
        """
        self.study = study
        self.tell = tell
        self._store = store
        self.trials: tuple[TrialSpec, ...] = plan(study)
        self._samples: dict[tuple[str, str], Sampled] = {}
        self._verdicts: dict[tuple[str, str], Verdict] = {}
        self._provenance: list[tuple[str, Mapping[str, Any]]] = []
        self._sums: dict[str, Mapping[str, str]] = {}
        self._now: dict[str, Identity] = {}

    @property
    def store(self) -> Store:
        if self._store is None:
            raise StoreError(f"The study {self.study.name!r} has no store yet; run it first.")
        return self._store

    def sizes(self) -> tuple[int, int, int]:
        """Examples that the first trial fits, chooses its epoch on and is tested on."""
        parts = split(self.trials[0], self._data)
        return len(parts.train), len(parts.validation), len(parts.test)

    @property
    def directory(self) -> Path:
        """Where the study's tables and report go by default."""
        return self.store.study(self.study.directory)

    @functools.cached_property
    def trial_rows(self) -> list[dict[str, Any]]:
        """One flat dict a trial, in the order of the plan. Trials without a result have None in the measured columns."""
        labels, rows = self.study.labels, []
        found: dict[str, index.Entry] = {}
        if self._store is not None:
            found, self._now = read(self.study, self.trials, self._store, self._of, self.tell)
        for spec in self.trials:
            entry = found.get(spec.key)
            failure = None if entry is not None or self._store is None else self._store.trial(spec.key).failure()
            row: dict[str, Any] = {
                "study": self.study.directory,
                "key": spec.key,
                "activation": spec.activation,
                "label": labels[spec.activation],
                "repeat": spec.repeat,
                "fold": spec.fold,
                "seed": spec.seed,
                "outcome": entry.outcome if entry is not None else "missing" if failure is None else "failed",
                "error": None if failure is None else failure.get("error"),
            }
            # Columns that say how the numbers came about stand in every table, and only where there is something to say.
            if (partition := partition_of(spec)) is not None:
                row["partition"] = partition
            if spec.quirks:
                row["quirks"] = " ".join(spec.quirks)
            if spec.train.speed:
                row["speed"] = " ".join(spec.train.speed)
            if self.study.train.lr_grid:
                row["lr"] = spec.train.optimizer.lr
            if entry is not None:
                row |= entry.measured
                self._sums[spec.key] = entry.files
                self._provenance.append((entry.device, entry.provenance))
            rows.append(row)
        return filled(rows)

    @functools.cached_property
    def _of(self) -> str:
        """A digest of the study and of the code that works out its numbers."""
        return hashlib.sha256(f"{index.code()}{canonical(self.study.model_dump(mode='json'))}".encode()).hexdigest()

    @functools.cached_property
    def rows(self) -> list[dict[str, Any]]:
        """One flat dict for each activation, repeat and fold, in the order of the plan: what is judged and shown.

        With ``train.lr_grid`` that is the trial with the lowest validation loss (of detectors the highest validation AP) among
        those of the grid, the test part having no say; ``lr`` is its rate, ``lr_tried`` how many were, ``seconds_tried`` what
        they took together. It is missing until all of them have a result, because a search that is not finished is a smaller
        budget. One that diverged is chosen only where all did; of equals the first. An entrant that is chosen among candidates
        (:attr:`Study.select`) is the best of theirs by the same rule; ``chosen`` is the candidate.
        """
        return chosen_rows(self.trial_rows, self.study) if self._chooses else self.trial_rows

    @property
    def _chooses(self) -> bool:
        return bool(self.study.train.lr_grid or self.study.families)

    @property
    def _data(self) -> Data | Detection:
        # As the trials name them, with every option: read once in a process.
        return data_of(self.trials[0].dataset, self.study.custom)

    @property
    def counts(self) -> dict[str, int]:
        """Trials by outcome: done, diverged, failed, missing."""
        outcomes = [row["outcome"] for row in self.trial_rows]
        return {name: outcomes.count(name) for name in ("done", "diverged", "failed", "missing")}

    @property
    def remarks(self) -> tuple[str, ...]:
        """What must be said wherever the numbers are: released quirks, changed arithmetic, what the data are not."""
        quirks, speed = self.study.quirks, self.trials[0].train.speed
        note = self._data.note
        told = [f"Tier {self.study.tier}: {papers.TIERS[self.study.tier]}."] if self.study.tier and self.study.reduced else []
        told += [f"Released quirks on: {'; '.join(f'{q} ({QUIRKS[q]})' for q in quirks)}."] if quirks else []
        told += [f"Arithmetic changed for speed: {', '.join(speed)}."] if speed else []
        told += choices_told(self.rows, self.study) if self.study.families else []
        told += [
            f"{label}: its coefficients do not learn. Each call site keeps those with which the training of "
            f"{label.removesuffix(', frozen')} with the same weights, split and batches ended, whose time is not counted here."
            for activation, label in self.study.labels.items()
            if activation.startswith(FROZEN)
        ]
        if "test_as_validation" in quirks:
            told.append("The test part chose the epoch, so the test scores are no estimate for new data.")
        told += [lacking] if (lacking := self._classes_not_tested) else []
        return (*told, *([f"Data: {note.rstrip('.')}."] if note else []))

    @functools.cached_property
    def _classes_not_tested(self) -> str:
        """That a fixed test part of photographs has no object of some classes, as a sample of VOC has not; else nothing."""
        data = self._data
        if not isinstance(data, Detection) or self.study.protocol.design != "official":
            return ""
        test = split(self.trials[0], data).test
        owner = np.repeat(np.arange(len(data)), np.diff(data.offsets))
        seen = len(np.unique(data.labels[np.isin(owner, test)]))
        if seen == len(data.classes):
            return ""
        return (
            f"The {len(test)} test images have objects of {seen} of {len(data.classes)} classes; average precision is the mean "
            "over these, another quantity than over all."
        )

    @property
    def task(self) -> str:
        """What the data ask for: "binary", "multiclass", "multilabel" or "detection"."""
        return self._data.task

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self._data.classes

    @property
    def groups(self) -> NDArray[Any] | None:
        """Which examples of the data belong together, shape (n,); None where all are independent."""
        return None if isinstance(self._data, Detection) else self._data.groups

    def frame(self) -> pl.DataFrame:
        """The rows as a polars table."""
        return pl.DataFrame(self.rows, infer_schema_length=None)

    def verdict(self, *, baseline: str | None = None, metric: str | None = None) -> Verdict:
        """The comparison of every activation with the baseline.

        Args:
            baseline: another activation of the study to compare with. metric: another metric to judge by.

        Raises:
            VerdictError: the baseline or the metric is not in the study.
        """
        metric, baseline = metric or self.study.metric, baseline or self.study.baseline
        # Who prints a verdict writes a report next, and the rows are read once.
        if (baseline, metric) not in self._verdicts:
            usual = ("ap", "ap50", "ap75") if isinstance(self._data, Detection) else ("accuracy", "precision", "recall", "f1")
            # Those that the paper prints stand beside ours.
            named = [str(entry["metric"]) for entry in papers.context(self.study).printed if entry.get("metric") in KNOWN]
            self._verdicts[baseline, metric] = self._judged([metric, *usual, *named], baseline)
        return self._verdicts[baseline, metric]

    def _judged(self, metrics: Sequence[str], baseline: str | None = None) -> Verdict:
        """The verdict by the first of the metrics, with estimates of all."""
        metric = metrics[0]
        verdict = judge(
            self.rows,
            activations=self.study.activations,
            labels=self.study.labels,
            baseline=baseline or self.study.baseline,
            metric=metric,
            metrics=tuple(dict.fromkeys(metrics)),
            margin=self.study.margin,
            # Elsewhere the folds' own spread tells how much a difference depends on the test examples.
            examples=self.sampled if self.study.protocol.design == "official" else None,
        )
        return dataclasses.replace(verdict, warnings=(*self.remarks, *verdict.warnings))

    def expected_precision(self) -> Precision:
        """What the plan can tell, by its design, its sizes and what has been seen so far."""
        p, (n_train, _, n_test) = self.study.protocol, self.sizes()
        official, units = p.design == "official", n_test
        sd, sd_examples, measured = 0.01, math.sqrt(0.01 / n_test) if official else 0.0, False
        if self.counts["done"] + self.counts["diverged"]:
            verdict = self._judged([self.study.metric])
            seen = [c for c in verdict.comparisons if c.sd > 0]
            if seen:
                sd, measured = statistics.median(c.sd for c in seen), True
                sd_examples = statistics.median(c.sd_examples for c in seen) if official else 0.0
            units = verdict.units or n_test
        half = (
            expected_precision_crossed(p.repeats, units, sd, sd_examples)
            if official
            else expected_precision(p.folds, p.repeats, n_train, n_test, sd)
        )
        return Precision(half, sd, sd_examples, measured)

    def sampled(self, row: Mapping[str, Any], metric: str) -> Sampled | None:
        """How a trial's test score varies with the test examples, by its stored predictions; None without them."""
        key = (row["key"], metric)
        if key not in self._samples and isinstance(self._data, Detection):
            sampled = self._found.sampled(row["key"], metric)
            if sampled is None:
                return None
            self._samples[key] = sampled
        elif key not in self._samples:
            saved = self._predictions(row["key"])
            if saved is None:
                return None
            data = self._data
            assert isinstance(data, Data)
            parts, groups = safetensors.numpy.load(saved), data.groups
            index = parts["test_index"]
            predictions = Predictions(
                index, parts["test_target"], parts["test_score"], data.task, None if groups is None else groups[index]
            )
            self._samples[key] = predictions.sampled(metric)
        return self._samples[key]

    @functools.cached_property
    def _found(self) -> Found:
        return Found(self.store, len(self._data.classes))

    def _predictions(self, key: str) -> bytes | None:
        """The stored predictions of a trial, if there are any; StoreError where they are not what the trial left."""
        return self.store.trial(key).read(PREDICTIONS, self._sums.get(key, {}).get(PREDICTIONS))

    def report(self, directory: str | Path | None = None, *, baseline: str | None = None, command: str = "") -> Path:
        """Write report.html, the tables (CSV, Parquet, LaTeX) and the folder figures (SVG, PDF, CSV); the path of the page.

        A report of many thousand trials is not written again while nothing that it depends on has changed, nor the report.

        Args:
            directory: where to; default the study's own folder in the store.
            baseline: compare with another activation than the study's.
            command: what to run to get the result again, shown on the page.
        """
        target = (Path(directory) if directory is not None else self.directory).absolute()
        target.mkdir(parents=True, exist_ok=True)
        many = sum(row["outcome"] in ("done", "diverged") for row in self.trial_rows) >= index.WORTH
        made_of = self._made_of(baseline, command) if many else ""
        if many and index.still(self.store, target, made_of):
            return target / PAGE
        before = index.files(target) if many else {}
        data = self.report_data(baseline=baseline, command=command)
        write_tables(data, target)
        drawn = draw(data)
        write_figures(data, target / "figures", drawn)
        page = build(data, target, drawn)
        if many:
            index.stamp(self.store, target, made_of, before)
        return page

    def _made_of(self, baseline: str | None, command: str) -> str:
        """A digest of what a report is made of."""
        unfinished = [(row["key"], row["error"]) for row in self.trial_rows if row["outcome"] not in ("done", "diverged")]
        # The results as they were when they were read; the others are compared with the checksums in these.
        kept = [self._now, *(self.store.finished(self._now, name) for name in (HISTORY, PREDICTIONS, DETECTIONS))]
        libraries = [metadata.version(name) for name in ("altair", "polars", "vl-convert-python")]
        told = [baseline, command, self.environment(), libraries, unfinished, kept]
        return hashlib.sha256(f"{self._of}{json.dumps(told)}".encode()).hexdigest()

    def report_data(self, *, baseline: str | None = None, command: str = "") -> ReportData:
        """Everything the page shows, as plain data."""
        paper = papers.context(self.study)
        changed = []
        if self.study.overrides:
            changed = [f"This is not the study as it is defined; changed: {' '.join(self.study.overrides)}."]
            if paper.deviations:
                changed.append("The deviations on this page describe the study as it is defined, without these changes.")
        histories = self._histories()
        confusions, bins = self._predicted()
        return ReportData(
            title=self.study.heading + self._marks(),
            question=self.study.question,
            study=self.study.model_dump(mode="json"),
            rows=self.rows,
            verdict=self.verdict(baseline=baseline),
            histories=histories,
            confusions=confusions,
            class_names=self.classes,
            reliability=bins,
            detected=self._detected(),
            shapes=list(self._shapes(histories)),
            printed=paper.printed,
            deviations=paper.deviations,
            notes=() if self.study.overrides else paper.notes,
            remarks=(*self.remarks, *changed),
            names=paper.names,
            environment=self.environment(),
            command=command,
            paper=paper.paper,
            labels=self.study.labels,
        )

    def _histories(self) -> _Histories:
        finished = [r["key"] for r in self.rows if r["outcome"] in ("done", "diverged")]
        return _Histories(self.store, {key: self._sums[key].get(HISTORY) for key in finished}, self.tell)

    def _marks(self) -> str:
        # In the title, which every form of the result shows, LaTeX included.
        quirks = f" (released quirks on: {', '.join(self.study.quirks)})" if self.study.quirks else ""
        speed = f" (arithmetic: {', '.join(self.trials[0].train.speed)})" if self.trials[0].train.speed else ""
        return quirks + speed + (" (changed)" if self.study.overrides else "")

    def _detected(self) -> Detected | None:
        data = self._data
        if not isinstance(data, Detection):
            return None
        return detected(self.store, data, self.rows, self._found, tuple(dict.fromkeys([self.study.metric, "ap", "ap50"])))

    def _predicted(self) -> tuple[dict[str, list[list[int]]], dict[str, list[tuple[float, float, int]]]]:
        """Test confusions (none where examples have several labels) and reliability at the selected epoch, over all folds and
        repeats. Each trial's predictions are read once and released: those of all at once would not fit for large studies."""
        task = self._data.task
        if task == "detection":
            return {}, {}
        sums: dict[str, Any] = {}
        bins: dict[str, Any] = {}
        for number, row in enumerate(self.rows, start=1):
            if self.tell is not None:
                self.tell("predictions", number, len(self.rows))
            saved = self._predictions(row["key"]) if row["outcome"] in ("done", "diverged") else None
            if saved is None:
                continue
            parts = safetensors.numpy.load(saved)
            targets, scores = parts["test_target"], parts["test_score"].astype(np.float64)
            if task == "multiclass":
                scores /= scores.sum(axis=1, keepdims=True)
            name = row["activation"]
            if task != "multilabel":
                sums[name] = sums.get(name, 0) + confusion(targets, scores, task, len(self.classes))
            bins[name] = bins.get(name, 0) + reliability_sums(targets, scores, task)
        return {n: counts.tolist() for n, counts in sums.items()}, {n: reliability_of(found) for n, found in bins.items()}

    def confusions(self) -> dict[str, list[list[int]]]:
        """Activation -> counts of test examples at the selected epoch, summed over all trials: rows are true classes, columns
        predicted ones, in the order of :attr:`classes`."""
        return self._predicted()[0]

    def learned(self) -> dict[str, list[dict[str, dict[str, float]]]]:
        """Activation -> what each of its finished trials had learned when it ended, in the order of the rows: site ->
        coefficient -> value, the mean where it differs by channel. Activations that learn nothing are left out."""
        found = {a: learned(make, mine) for a, make, mine in self._functions(self._histories())}
        return {activation: trials for activation, trials in found.items() if any(trials)}

    def reliability(self) -> dict[str, list[tuple[float, float, int]]]:
        """Activation -> (mean confidence, accuracy, examples) of each bin that holds some, over all test parts at the selected
        epoch: what a reliability diagram draws."""
        return self._predicted()[1]

    def environment(self) -> dict[str, str]:
        """What the trials were run with and on, in words."""
        self.trial_rows  # noqa: B018  Reading them gathers the provenance.
        devices = {f"{device} ({made['device']})" if made.get("device") else device for device, made in self._provenance}
        versions = {
            f"torch {made.get('torch')}, numpy {made.get('numpy')}, Python {made.get('python')}" for _, made in self._provenance
        }
        days = sorted({made["finished"] for _, made in self._provenance if made.get("finished")})
        return {
            "Pliant": metadata.version("pliant"),
            "Trials were run with": "; ".join(sorted(versions)) or "nothing yet",
            "Device of the trials": ", ".join(sorted(devices)) or "none yet",
            "Trials finished": " to ".join(dict.fromkeys([days[0], days[-1]])) if days else "none yet",
            "Page written on": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        }

    def _shapes(self, histories: _Histories) -> Iterator[Shape]:
        for activation, make, mine in self._functions(histories):
            if (found := shape(activation, self.study.labels[activation], make, mine)) is not None:
                yield found

    def _functions(self, histories: _Histories) -> Iterator[tuple[str, Callable[[], nn.Module], Iterator[History]]]:
        """Each activation that is one function, what makes it, and the histories of its trials. An entrant that is chosen among
        candidates is not one; nor is a frozen one, whose functions are those that another has learned."""
        for activation in self.study.activations:
            if activation not in self.study.families and not activation.startswith(FROZEN):
                own = self.study.custom.activations.get(activation)
                make = own if own is not None else functools.partial(catalog.create, activation)
                yield (
                    activation,
                    make,
                    (histories[r["key"]] for r in self.rows if r["activation"] == activation and r["key"] in histories),
                )


class _Histories(Mapping[str, History]):
    """The histories of many trials, each read when it is asked for: all at once would not fit for large studies."""

    def __init__(self, store: Store, keys: Mapping[str, str | None], tell: Tell | None) -> None:
        self._store = store
        self._keys = keys
        self._tell = tell
        self._read = 0

    def __getitem__(self, key: str) -> History:
        if key not in self._keys:
            raise KeyError(key)
        self._read += 1
        if self._tell is not None:
            self._tell("histories", min(self._read, len(self._keys)), len(self._keys))
        return self._store.trial(key).history(self._keys[key])

    def __contains__(self, key: object) -> bool:
        # Mapping's own asks for the value, which reads the file.
        return key in self._keys

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)
