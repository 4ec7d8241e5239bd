"""The numbers that the papers print, the epochs that one of them released, and where each belongs among our studies.

Printed means: stands in a paper. Released means: stands in the authors' own logs. Neither is ever mixed with ours.
"""

from __future__ import annotations

import functools
import statistics
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from pliant import catalog
from pliant.errors import PliantError, unknown
from pliant.lab.papers.files import FILES, rows, sections

__all__ = ["Cell", "PrintedValue", "ReleasedEpoch", "entries", "place", "places", "printed", "released_epochs"]


@dataclass(frozen=True)
class PrintedValue:
    """One number of one table, as printed: scores as fractions of one, times in seconds."""

    table: str
    paper: str
    source_docs: tuple[str, ...]
    dataset: str
    model: str
    optimizer: str
    task: str
    metric: str
    split: str
    activation: str
    row_index: int | None
    """The row of a table that has five rows an activation, from 1."""
    row_label_paper: str | None
    epoch_in_log: int | None
    """The epoch of the released log that this row is, see deviation D4."""
    value: float | None
    """None where the paper says that training did not converge."""
    value_full_precision: float | None
    std: float | None
    """What is printed after the ±; its meaning is not stated."""
    std_semantics: str | None
    raw: str | None
    """The cell as text."""
    converged: bool
    flags: tuple[str, ...]
    value_from_log: float | None
    log_minus_paper: float | None
    std_from_log: float | None
    n_epochs_in_log: int | None


@dataclass(frozen=True)
class ReleasedEpoch:
    """One epoch of one released DSReLU log. Scores are fractions, times seconds."""

    dataset: str
    activation: str
    epoch: int
    train_loss: float
    val_loss: float
    train_acc: float
    val_acc: float
    train_f1_weighted: float
    val_f1_weighted: float
    train_auc_ovr_macro: float
    val_auc_ovr_macro: float
    epoch_seconds: float


@dataclass(frozen=True)
class Cell:
    """Where a printed number belongs: a study, an activation of it, a column of its rows."""

    study: str
    activation: str
    """The spec, as the study has it."""
    metric: str
    """The column of a row, for example ``test_accuracy``."""
    row: int | None = None
    """Which of the printed rows it is, from 1."""


def _typed(cls: type[Any], row: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for f in fields(cls):
        text, kind = row[f.name], str(f.type)
        if kind.startswith("tuple"):
            values[f.name] = tuple(text.split())
        elif text == "":
            values[f.name] = None
        elif kind == "bool":
            values[f.name] = text == "yes"
        else:
            values[f.name] = int(text) if kind.startswith("int") else float(text) if kind.startswith("float") else text
    return values


@functools.cache
def _all_printed() -> tuple[PrintedValue, ...]:
    return tuple(PrintedValue(**_typed(PrintedValue, row)) for row in rows("printed"))


def printed(table: str | None = None) -> list[PrintedValue]:
    """The printed numbers of a table such as ``"aaf_T1"``, or all 770 of them, in the order of print. ``"srelu_results"``,
    which is missing from its paper, has none.

    Raises:
        UnknownNameError: there is no table of that name.
    """
    if table is None:
        return list(_all_printed())
    tables = {group["printed"] for name in FILES for group in sections(name, "group") if "printed" in group}
    if table not in tables:
        raise unknown("printed table", table, tables)
    return [v for v in _all_printed() if v.table == table]


@functools.cache
def _all_released() -> tuple[ReleasedEpoch, ...]:
    return tuple(ReleasedEpoch(**_typed(ReleasedEpoch, row)) for row in rows("dsrelu_epochs"))


def released_epochs() -> list[ReleasedEpoch]:
    """The 609 epochs of the 18 logs that the DSReLU repository holds, one run a data set and activation."""
    return list(_all_released())


def places(value: PrintedValue) -> tuple[Cell, ...]:
    """Every place of a printed number: first the study of the paper as written, then as released."""
    return tuple(_cell(rule, value) for name in FILES for rule in sections(name, "place") if _meant(rule, value))


def place(value: PrintedValue) -> Cell:
    """Where a printed number belongs, in the study of the paper as written.

    Raises:
        PliantError: the papers' files have no place for it.
    """
    found = places(value)
    if not found:
        raise PliantError(f"The printed table {value.table!r} has no place in a study; add a [[place]] to its paper's file.")
    return found[0]


def _meant(rule: Mapping[str, Any], value: PrintedValue) -> bool:
    return value.table == rule["table"] and value.dataset in rule.get("of", [value.dataset])


def _cell(rule: Mapping[str, Any], value: PrintedValue) -> Cell:
    study = rule["study"].format(
        **{key: rule.get(f"{key}s", {}).get(getattr(value, key)) for key in ("model", "dataset", "optimizer")}
    )
    metric = rule["metrics"][f"{value.split} {value.metric}"]
    return Cell(study, str(catalog.parse(rule["activations"][value.activation])), metric, value.row_index)


def entries(paper: str, study: str) -> list[dict[str, Any]]:
    """The printed numbers that belong to a study, as ``ReportData.printed`` has them. Rows of one activation, which are epochs
    of one run, are one entry with their mean; each is in its note."""
    return [_entry(key, values) for key, values in _by_study(paper).get(study, {}).items()]


@functools.cache
def _by_study(paper: str) -> dict[str, dict[tuple[str, str, str, str], list[PrintedValue]]]:
    found: dict[str, dict[tuple[str, str, str, str], list[PrintedValue]]] = defaultdict(lambda: defaultdict(list))
    for rule in sections(paper, "place"):
        for value in _all_printed():
            if _meant(rule, value):
                cell = _cell(rule, value)
                found[cell.study][value.table, cell.activation, cell.metric, value.activation].append(value)
    return found


def _entry(key: tuple[str, str, str, str], values: list[PrintedValue]) -> dict[str, Any]:
    table, spec, column, name = key
    first = values[0]
    number = table.partition("_T")[2]
    what = f"Table {number}: {name}, {first.split} {first.metric.replace('_', ' ')}"
    # Only the test part is estimated; the other columns are in the rows.
    ours = {"activation": spec, "metric": column.removeprefix("test_")} if column.startswith("test_") else {}
    entry: dict[str, Any] = {"what": what, "unit": "s" if column == "seconds_per_epoch" else "", **ours}
    if first.value is None:
        return {**entry, "value": None, "note": "printed as not converging"}
    if len(values) > 1:
        numbers = [v.value for v in values if v.value is not None]
        listed = ", ".join(f"{v.value:g} (epoch {v.epoch_in_log})" for v in values)
        exact = [v.value_full_precision for v in values if v.value_full_precision is not None]
        return {
            **entry,
            "value": round(statistics.fmean(numbers), 6),
            "released": round(statistics.fmean(exact), 6) if exact else None,
            "digits": 6,
            "runs": 1,
            "note": f"mean of the printed rows {listed}; they are epochs of one run, not folds (D4)",
        }
    notes = []
    if first.std is not None:
        notes.append(f"± {first.std:g} as printed, meaning not stated (A14)")
    if first.value_from_log is not None:
        notes.append(f"mean of {first.n_epochs_in_log} epochs of one run in the log")
    if first.log_minus_paper:
        notes.append(f"the log is {first.log_minus_paper:g} s above the printed number (D9)")
    text = (first.raw or repr(first.value)).partition("±")[0].strip(" $")
    digits = len(text.partition(".")[2])
    return {**entry, "value": first.value, "released": first.value_from_log, "digits": digits, "note": "; ".join(notes)}
