"""From trials to the few thousand numbers that the figures draw, so that the page does not grow with the study.

Everything here returns a ``Table``: the same table draws the figure and is shown under it, so the two cannot disagree.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pliant.lab.metrics import HIGHER_IS_BETTER
from pliant.lab.report import wording
from pliant.lab.report.data import Epoch, ReportData, Row, Shape
from pliant.lab.report.wording import finite, significant

Array = NDArray[np.float64]

CURVES = ("train_loss", "validation_loss", "train_accuracy", "validation_accuracy")
CURVE_ROWS = 3_000
COEFFICIENT_ROWS = 9_000
SHAPE_ROWS = 12_000
SHAPE_POINTS = 41
MATRIX_CELLS = 16_000
CONFUSED_PAIRS = 10
PROFILE_STOPS = 21
FOLDS_DRAWN = 60
WEIGHTS_DRAWN = 12
WEIGHT_ROWS = 6_000
SCORED = ("done", "diverged")


@dataclass(frozen=True)
class Column:
    name: str
    """What a chart calls it."""
    title: str
    """What the reader sees; empty when the column only serves the drawing."""
    values: list[object]


@dataclass(frozen=True)
class Table:
    columns: tuple[Column, ...]

    def __len__(self) -> int:
        return len(self.columns[0].values) if self.columns else 0

    def values(self, name: str) -> list[object]:
        return next(c.values for c in self.columns if c.name == name)

    def numbers(self, name: str) -> list[float]:
        """The finite numbers of a column."""
        return [x for v in self.values(name) if (x := finite(v)) is not None]

    def packed(self) -> dict[str, object]:
        """Column-wise, text as codes into a dictionary: a third of the size of a list of objects."""
        columns: list[dict[str, object]] = []
        for column in self.columns:
            entry: dict[str, object] = {"name": column.name, "title": column.title}
            if any(isinstance(v, str) for v in column.values):
                codes: dict[object, int] = {}
                entry["codes"] = [codes.setdefault(v, len(codes)) for v in column.values]
                entry["words"] = list(codes)
            else:
                entry["values"] = [v if isinstance(v, int) else significant(v) for v in column.values]
            columns.append(entry)
        return {"length": len(self), "columns": columns}


def table(columns: Mapping[str, str], rows: Iterable[Sequence[object]]) -> Table:
    """A table from rows; ``columns`` is name -> title."""
    turned = [list(values) for values in zip(*rows, strict=True)] or [[] for _ in columns]
    return Table(tuple(Column(n, t, v) for (n, t), v in zip(columns.items(), turned, strict=True)))


def whole(value: object, default: int = -1) -> int:
    x = finite(value)
    return default if x is None else int(x)


def scored(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row.get("outcome") in SCORED]


def _spread(values: Iterable[object]) -> tuple[int, float, float, float] | None:
    """n, mean, 10th and 90th percentile of the finite values, or None when there is none."""
    x = np.array([v for value in values if (v := finite(value)) is not None], dtype=np.float64)
    if x.size == 0:
        return None
    low, high = np.percentile(x, (10, 90))
    return int(x.size), float(x.mean()), float(low), float(high)


def forest(data: ReportData, names: Mapping[str, str]) -> tuple[Table, Table]:
    """One row per comparison, and one per paired difference; in shown units (points for fractions)."""
    verdict = data.verdict
    rows: list[tuple[object, ...]] = []
    pairs: list[tuple[object, ...]] = []
    if verdict is not None:
        shown = wording.metric(verdict.metric)
        for c in verdict.comparisons:
            label = names.get(c.activation, c.label)
            if finite(c.difference) is None:
                continue
            size = number_or_none(c.difference, shown.scale)
            low, high = number_or_none(c.low, shown.scale), number_or_none(c.high, shown.scale)
            ends = wording.interval(c.low, c.high, shown.digits, signed=True, scale=shown.scale)
            text = f"{wording.number(c.difference, shown.digits, signed=True, scale=shown.scale)} {ends}".rstrip()
            rows.append((label, size, low, high, c.n, number_or_none(c.p_adjusted), c.word, text))
            pairs.extend(
                (label, repeat + 1, fold + 1, number_or_none(value, shown.scale))
                for repeat, fold, value in _whole_repeats(c.differences)
            )
    unit = wording.metric(verdict.metric).points if verdict is not None else ""
    in_unit = f", {unit}" if unit else ""
    main = table(
        {
            "label": "Activation",
            "difference": f"Difference{in_unit}",
            "low": "Low",
            "high": "High",
            "n": "Pairs",
            "p": "p (Holm)",
            "word": "Verdict",
            "text": "",
        },
        rows,
    )
    each = {"label": "Activation", "repeat": "Repeat", "fold": "Fold", "difference": f"Difference{in_unit}"}
    return main, table(each, pairs)


def number_or_none(value: object, scale: float = 1.0) -> float | None:
    x = finite(value)
    return None if x is None else x * scale


def _whole_repeats(differences: Sequence[tuple[int, int, float]]) -> list[tuple[int, int, float]]:
    """As many whole repeats as stay legible: half a partition would be a biased sample of its folds."""
    kept: list[tuple[int, int, float]] = []
    for repeat in sorted({r for r, _, _ in differences}):
        block = [d for d in differences if d[0] == repeat]
        if kept and len(kept) + len(block) > FOLDS_DRAWN:
            break
        kept.extend(block)
    return kept[:FOLDS_DRAWN]


def fold_pairs(data: ReportData, names: Mapping[str, str]) -> tuple[Table, int]:
    """The primary metric of both activations in every pair of trials that share a fold, and how many pairs there are.

    The second value is the largest number of pairs of any activation, drawn or not.
    """
    verdict = data.verdict
    columns = {
        "label": "Activation",
        "pair": "Repeat.fold",
        "baseline": "Baseline",
        "value": "Activation's value",
        "difference": "Difference",
        "sign": "Sign",
    }
    if verdict is None:
        return table(columns, []), 0
    shown = wording.metric(verdict.metric)
    column = f"{verdict.split}_{verdict.metric}"
    cells: dict[tuple[str, int, int], list[float]] = {}
    for row in scored(data.rows):
        value = finite(row.get(column))
        if value is not None:
            place = (str(row.get("activation")), whole(row.get("repeat")), whole(row.get("fold")))
            cells.setdefault(place, []).append(value * shown.scale)
    means = {place: sum(v) / len(v) for place, v in cells.items()}
    rows: list[tuple[object, ...]] = []
    most = 0
    for activation, label in names.items():
        if activation == verdict.baseline:
            continue
        paired = [
            (repeat, fold, value - means[verdict.baseline, repeat, fold])
            for (name, repeat, fold), value in sorted(means.items())
            if name == activation and (verdict.baseline, repeat, fold) in means
        ]
        most = max(most, len(paired))
        for repeat, fold, difference in _whole_repeats(paired):
            gain = difference if HIGHER_IS_BETTER.get(verdict.metric, True) else -difference
            sign = "better" if gain > 1e-12 else "worse" if gain < -1e-12 else "equal"
            base = means[verdict.baseline, repeat, fold]
            value = means[activation, repeat, fold]
            rows.append((label, f"{repeat + 1}.{fold + 1}", base, value, difference, sign))
    in_unit = f", {shown.unit}" if shown.unit else ""
    columns["baseline"] = f"{verdict.baseline_label}{in_unit}"
    columns["value"] = f"Activation{in_unit}"
    columns["difference"] = f"Difference, {shown.points}" if shown.points else "Difference"
    return table(columns, rows), most


@dataclass(frozen=True)
class Traces:
    """What the histories of all trials come to."""

    curves: Table
    columns: Sequence[str]
    """The numbers that the curves hold of each epoch."""
    coefficients: Table
    increments: Table
    """Of whole weight tensors, from epoch to epoch."""
    single_weights: Table
    """Changes of single weights from epoch to epoch, in the first trial of each activation."""
    weights_left_out: int
    trials: int
    epochs: int
    curve_epochs: int
    """Epochs drawn; fewer than ``epochs`` when there were too many to embed."""
    channels: int
    """The most channels that one coefficient has; 1 when every coefficient is one number per site."""
    sites_left_out: int


def traces(data: ReportData, names: Mapping[str, str]) -> Traces:
    """Mean and central 80 % of the curves, of the coefficients and of the increments of weights over trials, per epoch.

    Each history is read once and released: ``histories`` may fetch them from disk.
    """
    keys: dict[str, list[str]] = {activation: [] for activation in names}
    columns = _curve_columns(data)
    for row in scored(data.rows):
        key = str(row.get("key"))
        if key in data.histories:
            keys.setdefault(str(row.get("activation")), []).append(key)
    curves: dict[str, Array] = {}
    moved: dict[str, dict[tuple[str, str], Array]] = {}
    increments: dict[str, dict[str, Array]] = {}
    singles: dict[str, dict[tuple[str, str], Array]] = {}
    trials = 0
    channels = 1
    for activation, mine in keys.items():
        read = [_Trace.of(data.histories[key], columns) for key in mine]
        read = [t for t in read if t.curves.shape[0] > 0]
        trials += len(read)
        if not read:
            continue
        length = max(t.curves.shape[0] for t in read)
        curves[names.get(activation, activation)] = _summary(_stacked([t.curves for t in read], length))
        sites = list(dict.fromkeys(site for t in read for site in t.coefficients))
        channels = max([channels, *(t.channels for t in read)])
        moved[names.get(activation, activation)] = _without_twins(
            {
                site: _coefficient_summary(_stacked([t.coefficients[site] for t in read if site in t.coefficients], length))
                for site in sites
            }
        )
        label = names.get(activation, activation)
        tensors = list(dict.fromkeys(name for t in read for name in t.increments))
        increments[label] = {
            name: _summary(_stacked([t.increments[name] for t in read if name in t.increments], length))[:, 0]
            for name in tensors
        }
        singles[label] = read[0].singles
    epochs = max((c.shape[0] for c in curves.values()), default=0)
    drawn = _thinned(epochs, max(20, CURVE_ROWS // max(1, len(curves))))
    coefficient_table, left_out = _coefficient_table(moved, epochs)
    increment_table, weights_left_out = _increment_table(increments, epochs)
    return Traces(
        _curve_table(curves, drawn, columns),
        columns,
        coefficient_table,
        increment_table,
        _single_table(singles, epochs),
        weights_left_out,
        trials,
        epochs,
        len(drawn),
        channels,
        left_out,
    )


def _curve_columns(data: ReportData) -> tuple[str, ...]:
    """A detector has no accuracy: its curves are the parts of its loss, which are its own, and average precision."""
    if data.detected is None:
        return CURVES
    first = next((history for key in data.histories if (history := data.histories[key])), ())
    parts = [name for name in (first[0] if first else ()) if name.startswith("train_loss_")]
    return ("train_loss", *parts, "validation_ap", "validation_ap50")


@dataclass(frozen=True)
class _Trace:
    curves: Array  # (epochs, columns)
    coefficients: dict[tuple[str, str], Array]  # (site, name) -> (epochs, 3): mean, 10th, 90th percentile over channels
    channels: int
    increments: dict[str, Array]  # weight tensor -> (epochs, 1)
    singles: dict[tuple[str, str], Array]  # (weight tensor, which of its weights) -> (epochs, 1)

    @classmethod
    def of(cls, history: Sequence[Epoch], columns: Sequence[str]) -> _Trace:
        # By column, because a study of 10,000 trials has millions of rows.
        known = [(whole(epoch.get("epoch"), i + 1), epoch) for i, epoch in enumerate(history)]
        known = [(at, epoch) for at, epoch in known if at >= 1]
        places = np.array([at - 1 for at, _ in known], dtype=np.int64)
        length = int(places.max()) + 1 if known else 0
        curves = np.full((length, len(columns)), np.nan)
        for column, name in enumerate(columns):
            curves[places, column] = _numbers([epoch.get(name) for _, epoch in known])
        found: dict[tuple[str, str], tuple[list[int], list[object]]] = {}
        for at, epoch in known:
            coefficients = epoch.get("coefficients")
            if isinstance(coefficients, Mapping):
                for site, named in coefficients.items():
                    for name, value in named.items():
                        ats, values = found.setdefault((site, name), ([], []))
                        ats.append(at - 1)
                        values.append(value)
        moved: dict[tuple[str, str], Array] = {}
        channels = 1
        for (site, name), (ats, values) in found.items():
            trace = moved[str(site), str(name)] = np.full((length, 3), np.nan)
            if any(isinstance(value, list | tuple) for value in values):
                for at, value in zip(ats, values, strict=True):
                    flat = _numbers(list(_flat(value if isinstance(value, list | tuple) else [value])))
                    flat = flat[np.isfinite(flat)]
                    if flat.size:
                        channels = max(channels, int(flat.size))
                        trace[at] = (flat.mean(), *np.percentile(flat, (10, 90)))
            else:
                trace[ats] = _numbers(values)[:, None]
        increments = {str(name): trace for name, trace in _by_epoch(known, "increments", length).items()}
        singles = {
            (str(name), f"weight {i + 1}"): trace[:, i : i + 1]
            for name, trace in _by_epoch(known, "single_weights", length).items()
            for i in range(trace.shape[1])
        }
        return cls(curves, moved, channels, increments, singles)


def _by_epoch(known: Sequence[tuple[int, Epoch]], name: str, length: int) -> dict[object, Array]:
    """What the histories hold by weight tensor under ``name``: arrays (epochs, numbers), nan where there is none."""
    found: dict[object, tuple[list[int], list[object]]] = {}
    for at, epoch in known:
        by_tensor = epoch.get(name)
        if isinstance(by_tensor, Mapping):
            for tensor, value in by_tensor.items():
                ats, values = found.setdefault(tensor, ([], []))
                ats.append(at - 1)
                values.append(value)
    traces = {}
    for tensor, (ats, values) in found.items():
        numbers = [list(_flat(v)) if isinstance(v, list | tuple) else [v] for v in values]
        width = max(map(len, numbers))
        if width:
            trace = traces[tensor] = np.full((length, width), np.nan)
            trace[ats] = _numbers([v for row in numbers for v in (*row, *[None] * (width - len(row)))]).reshape(-1, width)
    return traces


def _numbers(values: Sequence[object]) -> Array:
    """float64; nan for anything that is not a finite number."""
    if all(type(v) is float or v is None for v in values):
        found = np.array(values, dtype=np.float64)
        return np.where(np.isfinite(found), found, np.nan)
    return np.array([_float(v) for v in values], dtype=np.float64)


def _float(value: object) -> float:
    x = finite(value)
    return math.nan if x is None else x


def _flat(values: Sequence[object]) -> Iterable[object]:
    for value in values:
        if isinstance(value, Sequence) and not isinstance(value, str):
            yield from _flat(value)
        else:
            yield value


def _stacked(arrays: Sequence[Array], length: int) -> Array:
    out = np.full((len(arrays), length, arrays[0].shape[1]), np.nan)
    for i, array in enumerate(arrays):
        out[i, : array.shape[0]] = array
    return out


def _summary(stack: Array) -> Array:
    """(trials, epochs, k) -> (epochs, k, 4): n, mean, 10th and 90th percentile; nan where no trial has a value."""
    counted = np.isfinite(stack)
    n = counted.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        mean = np.where(counted, stack, 0.0).sum(axis=0) / n
    ordered = np.sort(np.where(counted, stack, np.inf), axis=0)
    return np.stack([n.astype(np.float64), mean, _quantile(ordered, n, 0.1), _quantile(ordered, n, 0.9)], axis=-1)


def _quantile(ordered: Array, n: NDArray[np.int64], q: float) -> Array:
    """Linear quantile of the first ``n`` entries along axis 0; numpy's own is slow, and warns, when there are gaps."""
    at = np.maximum(n - 1, 0) * q
    below = np.floor(at).astype(np.int64)
    above = np.minimum(below + 1, np.maximum(n - 1, 0))
    low = np.take_along_axis(ordered, below[None], axis=0)[0]
    high = np.take_along_axis(ordered, above[None], axis=0)[0]
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where(n > 0, low + (high - low) * (at - below), np.nan)


def _coefficient_summary(stack: Array) -> Array:
    """(trials, epochs, 3) -> (epochs, 4): n, mean, low, high.

    The band is over trials when a site has one number, and over its channels (averaged over trials) when it has more.
    """
    over = _summary(stack)
    per_channel = bool(np.nanmax(stack[..., 2] - stack[..., 1], initial=0.0) > 0)
    low, high = (over[:, 1, 1], over[:, 2, 1]) if per_channel else (over[:, 0, 2], over[:, 0, 3])
    return np.stack([over[:, 0, 0], over[:, 0, 1], low, high], axis=-1)


def _without_twins(moved: Mapping[tuple[str, str], Array]) -> dict[tuple[str, str], Array]:
    """One line instead of fifty where a coefficient moves identically at every site, as a schedule makes it do."""
    out: dict[tuple[str, str], Array] = {}
    for name in dict.fromkeys(n for _, n in moved):
        mine = {site: a for (site, n), a in moved.items() if n == name}
        first = next(iter(mine.values()))
        same = all(a.shape == first.shape and np.allclose(a, first, 1e-9, 1e-12, equal_nan=True) for a in mine.values())
        if same and len(mine) > 1:
            out[f"all {len(mine)} sites", name] = first
        else:
            out.update({(site, name): a for site, a in mine.items()})
    return out


def _thinned(length: int, most: int) -> list[int]:
    """0-based indices of at most ``most`` evenly spaced ones, with the last one and, from two on, the first."""
    if length <= most:
        return list(range(length))
    if most < 2:
        return [length - 1]
    return sorted({round(i) for i in np.linspace(0, length - 1, most)})


def _curve_table(curves: Mapping[str, Array], drawn: Sequence[int], names: Sequence[str]) -> Table:
    marks = {drawn[i] for i in _thinned(len(drawn), 7)} if drawn else set()
    titles = {"train": "Training", "validation": "Validation"}
    columns = {"label": "Activation", "epoch": "Epoch", "mark": "", "n": "Trials"}
    for name in names:
        split, _, what = name.partition("_")
        columns |= {
            name: f"{titles[split]} {what.replace('_', ' ')}",
            f"{name}_low": "10 %",
            f"{name}_high": "90 %",
        }
    rows: list[list[object]] = []
    for label, summary in curves.items():
        for at in drawn:
            if at >= summary.shape[0]:
                break
            n = int(summary[at, :, 0].max())
            if n == 0:
                continue
            row: list[object] = [label, at + 1, int(at in marks), n]
            for k in range(len(names)):
                row += [float(v) for v in summary[at, k, 1:]]
            rows.append(row)
    return table(columns, rows)


def _coefficient_table(moved: Mapping[str, Mapping[tuple[str, str], Array]], epochs: int) -> tuple[Table, int]:
    columns = {
        "label": "Activation",
        "site": "Site",
        "name": "Coefficient",
        "epoch": "Epoch",
        "n": "Trials",
        "mean": "Mean",
        "low": "Low",
        "high": "High",
        "order": "",
    }
    series = [(label, site, name, a) for label, mine in moved.items() for (site, name), a in mine.items()]
    most = COEFFICIENT_ROWS // 8
    left_out = max(0, len(series) - most)
    if left_out:
        series = [series[i] for i in _thinned(len(series), most)]
    drawn = _thinned(epochs, min(100, max(8, COEFFICIENT_ROWS // max(1, len(series)))))
    order: dict[str, int] = {}
    rows: list[tuple[object, ...]] = []
    for label, site, name, a in series:
        place = order.setdefault(site, len(order))
        rows.extend(
            (label, site, name, at + 1, int(a[at, 0]), *(float(v) for v in a[at, 1:]), place)
            for at in drawn
            if at < a.shape[0] and a[at, 0] > 0
        )
    return table(columns, rows), left_out


def _increment_table(moved: Mapping[str, Mapping[str, Array]], epochs: int) -> tuple[Table, int]:
    columns = {
        "label": "Activation",
        "site": "Weights",
        "epoch": "Epoch",
        "n": "Trials",
        "mean": "Mean",
        "low": "10 %",
        "high": "90 %",
        "order": "",
    }
    names = list(dict.fromkeys(name for mine in moved.values() for name in mine))
    kept = {names[i]: i for i in _thinned(len(names), WEIGHTS_DRAWN)}
    drawn = _thinned(epochs, max(8, WEIGHT_ROWS // max(1, len(kept) * len(moved))))
    rows = [
        (label, name, at + 1, int(a[at, 0]), *(float(v) for v in a[at, 1:]), kept[name])
        for label, mine in moved.items()
        for name, a in mine.items()
        if name in kept
        for at in drawn
        if at < a.shape[0] and a[at, 0] > 0
    ]
    return table(columns, rows), len(names) - len(kept)


def _single_table(moved: Mapping[str, Mapping[tuple[str, str], Array]], epochs: int) -> Table:
    columns = {"label": "Activation", "site": "Weights", "which": "Which", "epoch": "Epoch", "change": "Change", "order": ""}
    order: dict[str, int] = {}
    series = [(label, *place, a) for label, mine in moved.items() for place, a in mine.items()]
    drawn = _thinned(epochs, max(8, WEIGHT_ROWS // max(1, len(series))))
    return table(
        columns,
        (
            (label, name, which, at + 1, float(a[at, 0]), order.setdefault(name, len(order)))
            for label, name, which, a in series
            for at in drawn
            if at < a.shape[0] and math.isfinite(a[at, 0])
        ),
    )


def shapes(shapes_: Sequence[Shape], names: Mapping[str, str]) -> tuple[Table, int]:
    """One row per point: value and derivative at every stop of the slider; and how many sites are left out.

    A deep model has dozens of sites: then evenly spaced ones stand for all, so that each curve keeps its points.
    """
    sites = {i: list(dict.fromkeys(stage.site for stage in shape.stages)) for i, shape in enumerate(shapes_)}
    most = max((len(s) for s in sites.values()), default=0)

    def kept_sites(i: int, at_most: int) -> set[str | None]:
        return {sites[i][at] for at in _thinned(len(sites[i]), at_most)}

    def curves(at_most: int) -> int:
        return sum(sum(stage.site in kept_sites(i, at_most) for stage in shape.stages) for i, shape in enumerate(shapes_))

    at_most = most
    while at_most > 1 and curves(at_most) * SHAPE_POINTS > SHAPE_ROWS:
        at_most -= 1
    drawn = [
        (shape, [stage for stage in shape.stages if stage.site in kept_sites(i, at_most)]) for i, shape in enumerate(shapes_)
    ]
    points = sum(len(stage.x) for _, stages in drawn for stage in stages)
    step = max(1, math.ceil(points / SHAPE_ROWS))
    order: dict[str, int] = {}
    rows: list[tuple[object, ...]] = []
    for shape, stages in drawn:
        stops = list(dict.fromkeys(stage.name for stage in stages))
        for stage in stages:
            site = stage.site or "all sites"
            place = order.setdefault(site, len(order))
            length = min(len(stage.x), len(stage.value), len(stage.derivative))
            # Counted from the middle, which is where x is 0 and where most functions have their kink.
            kept = sorted({0, *range(length // 2 % step, length, step), length - 1} & set(range(length)))
            rows.extend(
                (
                    names.get(shape.activation, shape.label),
                    stage.name,
                    stops.index(stage.name),
                    len(stops) - 1,
                    site,
                    place,
                    significant(stage.x[i], 4),
                    significant(stage.value[i], 4),
                    significant(stage.derivative[i], 4),
                )
                for i in kept
            )
    columns = {
        "label": "Activation",
        "stage": "Moment",
        "stop": "",
        "last": "",
        "site": "Site",
        "order": "",
        "x": "x",
        "value": "f(x)",
        "derivative": "f'(x)",
    }
    return table(columns, rows), most - at_most


@dataclass(frozen=True)
class Confusions:
    cells: Table
    classes: list[str]
    """The classes drawn, in their own order."""
    all_classes: int
    examples: int
    """Test predictions counted for one activation (the largest, if they differ)."""
    pairs: Table
    """The most frequent confusions of each activation, of all classes; empty where the matrices show them all at once."""


def confusions(data: ReportData, names: Mapping[str, str]) -> Confusions:
    """Counts and row shares of every cell; of the most confused classes only when all would not fit."""
    matrices: dict[str, Array] = {}
    for activation in [*names, *(a for a in data.confusions if a not in names)]:
        given = data.confusions.get(activation)
        if not given:
            continue
        size = len(given)
        if any(len(row) != size for row in given):
            continue
        matrices[names.get(activation, activation)] = np.array([[_float(v) for v in row] for row in given])
    size = max((m.shape[0] for m in matrices.values()), default=0)
    matrices = {label: np.nan_to_num(m) for label, m in matrices.items() if m.shape[0] == size}
    class_names = [str(name) for name in data.class_names][:size]
    class_names += [str(i) for i in range(len(class_names), size)]
    if len(set(class_names)) < size:
        class_names = [f"{i}: {name}" for i, name in enumerate(class_names)]
    kept = list(range(size))
    # Beyond some forty classes a cell is too small to be told from its neighbour on a page.
    most = min(40, max(2, math.isqrt(MATRIX_CELLS // max(1, len(matrices)))))
    if size > most:
        errors = sum((m.sum(axis=0) + m.sum(axis=1) - 2 * np.diag(m) for m in matrices.values()), np.zeros(size))
        kept = sorted(int(i) for i in np.argsort(-errors, kind="stable")[:most])
    rows: list[tuple[object, ...]] = []
    for label, matrix in matrices.items():
        totals = matrix.sum(axis=1)
        rows.extend(
            (
                label,
                class_names[i],
                class_names[j],
                int(matrix[i, j]),
                float(matrix[i, j] / totals[i]) if totals[i] > 0 else None,
            )
            for i in kept
            for j in kept
        )
    columns = {
        "label": "Activation",
        "true": "True class",
        "predicted": "Predicted class",
        "count": "Count",
        "share": "Share of the true class",
    }
    examples = int(max((m.sum() for m in matrices.values()), default=0))
    pairs = _confused_pairs(matrices, class_names) if size > 3 else table(_PAIRS, [])
    return Confusions(table(columns, rows), [class_names[i] for i in kept], size, examples, pairs)


_PAIRS = {
    "label": "Activation",
    "true": "True class",
    "predicted": "Predicted as",
    "count": "Count",
    "share": "% of the true class",
    "back": "Count the other way",
}


def _confused_pairs(matrices: Mapping[str, Array], class_names: Sequence[str]) -> Table:
    rows: list[tuple[object, ...]] = []
    for label, matrix in matrices.items():
        wrong = matrix - np.diag(np.diag(matrix))
        totals = matrix.sum(axis=1)
        for at in np.argsort(-wrong, axis=None, kind="stable")[:CONFUSED_PAIRS]:
            i, j = (int(v) for v in np.unravel_index(at, wrong.shape))
            if wrong[i, j] > 0:
                share = float(100 * matrix[i, j] / totals[i])
                rows.append((label, class_names[i], class_names[j], int(matrix[i, j]), share, int(matrix[j, i])))
    return table(_PAIRS, rows)


def calibration(data: ReportData, names: Mapping[str, str]) -> Table:
    """The bins of the reliability diagram, in per cent, with what each adds to the expected calibration error."""
    columns = {
        "label": "Activation",
        "confidence": "Mean confidence, %",
        "accuracy": "Accuracy, %",
        "count": "Examples",
        "share": "Share of examples, %",
        "ece": "Calibration error, points",
    }
    rows: list[tuple[object, ...]] = []
    for activation in [*names, *(a for a in data.reliability if a not in names)]:
        bins = [(c, a, n) for c, a, n in data.reliability.get(activation, ()) if n > 0]
        total = sum(n for _, _, n in bins)
        error = sum(n * abs(a - c) for c, a, n in bins) / total if total else None
        rows.extend(
            (names.get(activation, activation), 100 * c, 100 * a, n, 100 * n / total, number_or_none(error, 100))
            for c, a, n in bins
        )
    return table(columns, rows)


def profile(coefficients: Table) -> Table:
    """The coefficients once more, at a few epochs: where each site stands at every stop of the slider.

    ``coefficients`` is that of ``Traces``; only coefficients that differ between sites are worth it.
    """
    columns = {
        "label": "Activation",
        "site": "Site",
        "name": "Coefficient",
        "epoch": "Epoch",
        "mean": "Mean",
        "low": "Low",
        "high": "High",
        "order": "",
        "stop": "",
    }
    names = [c.name for c in coefficients.columns]
    rows = [dict(zip(names, values, strict=True)) for values in zip(*(c.values for c in coefficients.columns), strict=True)]
    sites: dict[object, set[object]] = {}
    for row in rows:
        sites.setdefault(row["label"], set()).add(row["site"])
    rows = [row for row in rows if len(sites[row["label"]]) > 1]
    epochs = sorted({whole(row["epoch"]) for row in rows})
    stops = {epochs[i]: stop for stop, i in enumerate(_thinned(len(epochs), PROFILE_STOPS))}
    return table(
        columns,
        (
            (*(row[name] for name in columns if name != "stop"), stops[whole(row["epoch"])])
            for row in rows
            if whole(row["epoch"]) in stops
        ),
    )


GAPS = {"gap": "selected epoch", "gap_last": "last epoch", "gap_matched": "equal training accuracy"}
"""Column of the rows -> where the gap was taken."""


def gaps(data: ReportData, names: Mapping[str, str]) -> Table:
    """Training minus validation accuracy in points: at the selected epoch, at the last one, and at the same training
    accuracy for all."""
    rows: list[tuple[object, ...]] = []
    by_activation = _by_activation(data.rows, names)
    for activation, label in names.items():
        for column, moment in GAPS.items():
            spread = _spread(row.get(column) for row in by_activation[activation])
            if spread is not None:
                n, mean, low, high = spread
                rows.append((label, moment, n, 100 * mean, 100 * low, 100 * high))
    columns = {
        "label": "Activation",
        "moment": "Taken at",
        "n": "Trials",
        "mean": "Mean gap, points",
        "low": "10 %",
        "high": "90 %",
    }
    return table(columns, rows)


@dataclass(frozen=True)
class Times:
    table: Table
    unit: str
    devices: list[str]


def times(data: ReportData, names: Mapping[str, str]) -> Times:
    """Wall-clock time of one epoch, with the ratio to the baseline and the parameters that the activation adds."""
    by_activation = _by_activation(data.rows, names)
    spreads = {a: _spread(row.get("seconds_per_epoch") for row in by_activation[a]) for a in names}
    measured = [s[1] for s in spreads.values() if s is not None]
    scale, unit = (1e3, "ms") if measured and float(np.median(measured)) < 1 else (1.0, "s")
    base = spreads.get(data.verdict.baseline) if data.verdict is not None else None
    rows: list[tuple[object, ...]] = []
    for activation, label in names.items():
        spread = spreads[activation]
        if spread is None:
            continue
        n, mean, low, high = spread
        ratio = mean / base[1] if base is not None and base[1] > 0 else None
        extra = _spread(row.get("activation_parameters") for row in by_activation[activation])
        text = f"×{ratio:.2f}" if ratio is not None else ""
        added = int(extra[1]) if extra is not None else None
        peak = _spread(row.get("peak_bytes") for row in by_activation[activation])
        memory = None if peak is None else peak[1] / 2**20
        rows.append((label, n, mean * scale, low * scale, high * scale, ratio, added, memory, text))
    columns = {
        "label": "Activation",
        "n": "Trials",
        "mean": f"Mean, {unit}",
        "low": "10 %",
        "high": "90 %",
        "ratio": "Ratio to baseline",
        "parameters": "Activation parameters",
        "memory": "Peak GPU memory, MiB",
        "text": "",
    }
    if all(row[7] is None for row in rows):
        del columns["memory"]
        rows = [(*row[:7], row[8]) for row in rows]
    devices = list(dict.fromkeys(str(row["device"]) for row in scored(data.rows) if row.get("device")))
    return Times(table(columns, rows), unit, devices)


def _by_activation(rows: Iterable[Row], names: Mapping[str, str]) -> dict[str, list[Row]]:
    out: dict[str, list[Row]] = {activation: [] for activation in names}
    for row in scored(rows):
        out.setdefault(str(row.get("activation")), []).append(row)
    return out


@dataclass(frozen=True)
class Trouble:
    """Trials that are not plainly done, one line each, or one per cause where there are hundreds."""

    activation: str
    outcome: str
    where: str
    count: int
    seed: str
    epochs: str
    error: str
    key: str


TROUBLE_LINES = 300


def troubles(data: ReportData, names: Mapping[str, str]) -> list[Trouble]:
    """Every failed, diverged and missing trial: failed first. Missing ones are listed by place, never one by one."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in data.rows:
        outcome = str(row.get("outcome") or "missing")
        if outcome != "done":
            place = (outcome, str(row.get("activation")), str(row.get("error") or ""))
            groups.setdefault(place, []).append(row)
    ranks = {"failed": 0, "diverged": 1, "missing": 3}
    order = {activation: i for i, activation in enumerate(names)}
    out: list[Trouble] = []
    single = sum(len(rows) for (outcome, _, _), rows in groups.items() if outcome != "missing")
    for (outcome, activation, error), rows in sorted(
        groups.items(), key=lambda g: (ranks.get(g[0][0], 2), order.get(g[0][1], len(order)))
    ):
        split = outcome != "missing" and single <= TROUBLE_LINES
        for block in [[row] for row in rows] if split else [rows]:
            one = block[0] if len(block) == 1 else None
            out.append(
                Trouble(
                    activation=names.get(activation, activation),
                    outcome=outcome,
                    where=wording.places((whole(r.get("repeat")), whole(r.get("fold"))) for r in block),
                    count=len(block),
                    seed=str(one.get("seed", "")) if one is not None and one.get("seed") is not None else "",
                    epochs=str(whole(one.get("epochs"))) if one is not None and finite(one.get("epochs")) else "",
                    error=_one_line(error),
                    key=str(one.get("key") or "")[:12] if one is not None else "",
                )
            )
    return out


def _one_line(text: str) -> str:
    line = re.sub(r"\s+", " ", text).strip()
    return line if len(line) <= 400 else line[:399] + "…"
