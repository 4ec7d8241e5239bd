"""What came out of a study: rows, the verdict and everything the report shows, read from the store."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import operator
import platform
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import safetensors.numpy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pliant import catalog
from pliant.activation import Activation
from pliant.coefficients import Learned
from pliant.lab import curves, index, papers
from pliant.lab.datasets import Data, Detection
from pliant.lab.detected import Found, detected
from pliant.lab.metrics import KNOWN
from pliant.lab.protocol import partition_of, split
from pliant.lab.recipe import QUIRKS
from pliant.lab.report import PAGE, Detected, ReportData, Shape, Stage, build, draw, write_figures, write_tables
from pliant.lab.score import confusion, reliability_of, reliability_sums
from pliant.lab.store import DETECTIONS, HISTORY, PREDICTIONS, Identity, Outcome, Store, StoreError
from pliant.lab.study import Study, TrialSpec, canonical, data_of, plan
from pliant.lab.verdict import (
    Predictions,
    Sampled,
    Verdict,
    expected_precision,
    expected_precision_crossed,
    judge,
)

__all__ = ["Precision", "Result"]

_TOLD = ("device", "torch", "numpy", "python", "finished")
"""What the report says of where trials ran."""


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

    def __init__(self, study: Study, store: Store | None) -> None:
        self.study = study
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
        labels, found, rows = self.study.labels, self._read(), []
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
        return _filled(rows)

    def _read(self) -> dict[str, index.Entry]:
        """The finished trials by their keys. Those of a repeat and fold in which nothing has changed come from the index."""
        if self._store is None:
            return {}
        groups: dict[tuple[int, int], list[TrialSpec]] = {}
        for spec in self.trials:
            groups.setdefault((spec.repeat, spec.fold), []).append(spec)
        # Looked at before anything is read: what changes meanwhile is not taken for what was read.
        now = self._store.finished(spec.key for spec in self.trials)
        self._now = now
        kept = index.load(self._store, self.study.directory, self._of) if len(now) >= index.WORTH else {}
        found: dict[str, index.Entry] = {}
        fresh = 0
        for group in groups.values():
            if index.unchanged(now, kept, (spec.key for spec in group)):
                found |= {spec.key: kept[spec.key] for spec in group if spec.key in kept}
            else:
                read = self._read_together(group, now)
                found |= read
                fresh += len(read)
        if fresh >= index.WORTH:
            index.save(self._store, self.study.directory, self._of, {key: found[key] for key in found if key in now})
        return found

    @functools.cached_property
    def _of(self) -> str:
        """A digest of the study and of the code that works out its numbers."""
        return hashlib.sha256(f"{index.code()}{canonical(self.study.model_dump(mode='json'))}".encode()).hexdigest()

    def _read_together(self, specs: Sequence[TrialSpec], now: Mapping[str, Identity]) -> dict[str, index.Entry]:
        """Those of one repeat and fold, which were trained on the same examples, so that they can be compared at equal training
        success."""
        found: dict[str, index.Entry] = {}
        courses: list[tuple[dict[str, Any], Outcome, Mapping[str, Any]]] = []
        for spec in specs:
            result = self.store.trial(spec.key).result(verify_files=False)
            if result is None:
                continue
            measured = dict(result["row"])
            if "curves" in result:
                measured |= curves.areas(result["curves"])
                measured |= curves.late_spread(result["curves"])
                for threshold in self.study.thresholds:
                    measured |= curves.times_to(result["curves"], threshold)
                if "train_accuracy" in result["curves"]:
                    courses.append((measured, result["outcome"], result["curves"]))
            made = result.get("provenance", {})
            found[spec.key] = index.Entry(
                now.get(spec.key, (0, 0, 0, 0)),
                result["outcome"],
                measured,
                result["files"],
                str(measured.get("device")),
                {name: str(made[name])[:10] if name == "finished" else made[name] for name in _TOLD if made.get(name)},
            )
        level = curves.matched_level([course for _, outcome, course in courses if outcome == "done"])
        for measured, _, course in courses:
            measured["matched_train_accuracy"] = level
            measured["gap_matched"] = curves.gap_at(course, level)
        return found

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
        finished = [r["key"] for r in self.rows if r["outcome"] in ("done", "diverged")]
        histories = _Histories(self.store, {key: self._sums[key].get(HISTORY) for key in finished})
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
            shapes=[shape for a in self.study.activations if (shape := self._shape(a, histories)) is not None],
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
        for row in self.rows:
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

    def _shape(self, activation: str, histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> Shape | None:
        """The curve of an activation; None where it has no curve, because its output depends on more than one input, or where
        it is not one function."""
        if activation in self.study.families:
            return None
        try:
            return self._curve(activation, histories)
        except (RuntimeError, IndexError, ValueError, TypeError):
            return None

    def _curve(self, activation: str, histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> Shape:
        label = self.study.labels[activation]
        own = self.study.custom.activations.get(activation)
        module = own() if own is not None else catalog.create(activation)
        if not isinstance(module, Activation) or all(not isinstance(v, Tensor) for v in module.values()):
            return Shape(activation, label, "plain", [_stage("", None, module)])
        if module.scheduled:
            return Shape(
                activation,
                label,
                "scheduled",
                [_stage(f"t = {t / 10:.1f}", None, _at(module, module.values(t / 10))) for t in range(11)],
            )
        keys = [r["key"] for r in self.rows if r["activation"] == activation and r["key"] in histories]
        stages = list(_learned(module, (histories[k] for k in keys))) if keys else []
        stages = stages or [_stage("start", None, _at(module, module.values()))]
        learned = any(isinstance(k, Learned) for k in module.kinds.values())
        return Shape(activation, label, "learned" if learned else "plain", stages)


def _filled(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    columns: dict[str, Any] = functools.reduce(operator.ior, rows, {})
    return [{name: row.get(name) for name in columns} for row in rows]


def chosen_rows(trials: Sequence[dict[str, Any]], study: Study) -> list[dict[str, Any]]:
    """The rows of a study whose learning rates, or entrants, are chosen on validation; see :attr:`Result.rows`.

    Args:
        trials: a row for each trial, as :attr:`Result.trial_rows`.
    """
    cells: dict[tuple[int, int], dict[str, list[dict[str, Any]]]] = {}
    for row in trials:
        cells.setdefault((row["repeat"], row["fold"]), {}).setdefault(row["activation"], []).append(row)
    families, labels, rows = study.families, study.labels, []
    for tried in cells.values():
        for activation in study.activations:
            if activation not in families:
                rows.append(_chosen(tried[activation]) if study.train.lr_grid else tried[activation][0])
                continue
            best = _chosen([row for candidate in families[activation] for row in tried[candidate]])
            chosen = best["activation"] if best["outcome"] in ("done", "diverged") else None
            rows.append({**best, "activation": activation, "label": labels[activation], "chosen": chosen})
    return _filled(rows)


def choices_told(rows: Sequence[Mapping[str, Any]], study: Study) -> list[str]:
    """Of each entrant that is chosen among candidates, how often it was which."""
    told = []
    for activation, candidates in study.families.items():
        found = [row["chosen"] for row in rows if row["activation"] == activation and row.get("chosen")]
        times = {study.labels[c]: found.count(c) for c in candidates}
        counts = ", ".join(f"{name} {n}" for name, n in times.items() if n) or "none yet"
        told.append(
            f"{study.labels[activation]}: in each repeat and fold that of {len(candidates)} candidates "
            f"({', '.join(times)}) whose validation loss is lowest; chosen were, of {len(found)}: {counts}."
        )
    return told


def _chosen(tried: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of the trials of one learning rate, or one candidate, each, the row that counts."""
    own = ("study", "activation", "label", "repeat", "fold", "seed", "partition", "quirks", "speed")
    for outcome in ("failed", "missing"):
        lacking = [row for row in tried if row["outcome"] == outcome]
        if lacking:
            return {k: v for k, v in lacking[0].items() if k in (*own, "key", "outcome", "error")}
    usable = [row for row in tried if row["outcome"] == "done"] or list(tried)
    best = min(usable, key=_on_validation)
    rates = {row["lr"] for row in tried if "lr" in row}
    return {
        **best,
        **({"lr_tried": len(rates)} if len(rates) > 1 else {}),
        "seconds_tried": sum(row["seconds"] for row in tried),
    }


def _on_validation(row: Mapping[str, Any]) -> float:
    """What a choice among trials goes by, the lower the better; a trial that diverged may have none."""
    if "validation_ap" in row:
        return -float(row["validation_ap"] or 0.0)
    loss = row.get("validation_loss")
    return math.inf if loss is None or math.isnan(loss) else float(loss)


class _Histories(Mapping[str, Sequence[Mapping[str, Any]]]):
    """The histories of many trials, each read when it is asked for: all at once would not fit for large studies."""

    def __init__(self, store: Store, keys: Mapping[str, str | None]) -> None:
        self._store = store
        self._keys = keys

    def __getitem__(self, key: str) -> Sequence[Mapping[str, Any]]:
        if key not in self._keys:
            raise KeyError(key)
        return self._store.trial(key).history(self._keys[key])

    def __contains__(self, key: object) -> bool:
        # Mapping's own asks for the value, which reads the file.
        return key in self._keys

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def _at(module: Activation, values: Sequence[float | Tensor]) -> Any:
    # One curve for a site: where a coefficient differs by channel, its mean.
    numbers = [v.detach().double().mean().item() if isinstance(v, Tensor) else v for v in values]
    return lambda x: type(module).function(x, *numbers)


def _learned(module: Activation, trials: Iterable[Sequence[Mapping[str, Any]]]) -> Iterator[Stage]:
    """The mean learned curve by site at five moments of training, and the start; each trial is read once and released."""
    seen: dict[tuple[int, str, str], tuple[float, int]] = {}
    sites: list[str] = []
    last = 0
    for epochs in trials:
        if not epochs:
            continue
        last = min(last or len(epochs), len(epochs))
        sites = sites or list(epochs[-1]["coefficients"])
        for at, epoch in enumerate(epochs, start=1):
            for site, named in epoch["coefficients"].items():
                for name, stored in named.items():
                    value = stored if type(stored) is float else _mean(stored)
                    if value is not None:
                        total, n = seen.get((at, site, name), (0.0, 0))
                        seen[at, site, name] = total + value, n + 1
    if not last:
        return
    places: list[str | None] = [*sites] or [None]
    for place in places:
        yield _stage("start", place, _at(module, module.values()))
    for at in sorted({max(1, round(last * share)) for share in (0.1, 0.25, 0.5, 0.75, 1.0)}):
        for site in sites:
            values: list[float | Tensor] = []
            for name, now in zip(module.kinds, module.values(), strict=True):
                total, n = seen.get((at, site, name), (0.0, 0))
                values.append(total / n if n else now)
            yield _stage(f"epoch {at}", site, _at(module, values))


def _mean(stored: Any) -> float | None:
    """Of a coefficient as a history holds it; None where training had diverged, which a history cannot hold."""
    values = stored if isinstance(stored, list) else [stored]
    return None if not values or any(v is None for v in values) else float(np.mean(values))


def _stage(name: str, site: str | None, function: nn.Module | Any) -> Stage:
    # An odd number of points puts one on 0, where most kinks are.
    x = torch.linspace(-5, 5, 101, dtype=torch.float64, requires_grad=True)
    module = function.double().eval() if isinstance(function, nn.Module) else function
    y = module(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    return Stage(name, site, *(np.round(v.detach().numpy(), 5).tolist() for v in (x, y, slope)))
