"""What the course of a training says: areas under its loss, how soon it was good, its gap at equal training success.

On the curves of a trial, one number an epoch, as a result holds them: ``train_loss``, ``train_accuracy``, ``validation_loss``,
``validation_accuracy``, ``seconds`` (of the epoch) and the number ``steps_per_epoch``. A value that was not finite is None.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LATE", "areas", "crossing", "gap_at", "increments", "late_spread", "matched_level", "times_to"]

LATE = 15
"""The epochs at the end of a training over which its restlessness is measured."""

Curves = Mapping[str, Any]


def _values(curves: Curves, name: str) -> NDArray[np.float64]:
    return np.array([math.nan if v is None else v for v in curves.get(name, ())], dtype=np.float64)


def _axes(curves: Curves) -> dict[str, NDArray[np.float64]]:
    """How far training was at the end of each epoch."""
    epochs = np.arange(1, len(curves["train_loss"]) + 1, dtype=np.float64)
    return {"epochs": epochs, "steps": epochs * curves["steps_per_epoch"], "seconds": np.cumsum(_values(curves, "seconds"))}


def areas(curves: Curves) -> dict[str, float]:
    """Areas under the train loss (the mean of each epoch) by the trapezoid rule: over epochs, over optimizer steps and over
    seconds, from the end of the first epoch to the end of the last; nan where a loss was not finite. Only trainings of equal
    length can be compared by them."""
    loss = _values(curves, "train_loss")
    heights = (loss[1:] + loss[:-1]) / 2
    return {f"loss_area_{name}": float((heights * np.diff(axis)).sum()) for name, axis in _axes(curves).items()}


def late_spread(curves: Curves) -> dict[str, float | None]:
    """The standard deviation of the validation loss over the last 15 epochs, in units of the loss; None where a training had
    fewer, or a loss was not finite."""
    late = _values(curves, "validation_loss")[-LATE:]
    found = float(np.std(late, ddof=1)) if len(late) == LATE else math.nan
    return {"validation_loss_late_sd": found if math.isfinite(found) else None}


def increments(curves: Curves) -> dict[str, float | None]:
    """The mean natural logarithm of the relative increments of the weights (:mod:`pliant.lab.increments`) over the first and
    over the last quarter of the epochs: a difference of 0.1 is a factor of 1.1. None where they were not recorded, or an epoch
    has none. Only trainings of equal length can be compared by them."""
    values = _values(curves, "log_increment")
    quarter = max(1, len(values) // 4)
    parts = {"early": values[:quarter], "late": values[-quarter:]}
    return {
        f"log_increment_{name}": float(part.mean()) if part.size and np.isfinite(part).all() else None
        for name, part in parts.items()
    }


def times_to(curves: Curves, threshold: float) -> dict[str, float | None]:
    """Epochs, steps and seconds until the validation accuracy first was at least ``threshold``; None where it never was."""
    reached = np.flatnonzero(_values(curves, "validation_accuracy") >= threshold)
    at = int(reached[0]) if reached.size else None
    return {f"{name}_to_{threshold:g}": None if at is None else float(axis[at]) for name, axis in _axes(curves).items()}


def _train_accuracy(curves: Curves) -> NDArray[np.float64]:
    """In evaluation mode where it was measured, else as it ran while weights moved."""
    return _values(curves, "evaluated_train_accuracy" if "evaluated_train_accuracy" in curves else "train_accuracy")


def matched_level(trials: Sequence[Curves]) -> float | None:
    """The highest train accuracy that every one of the trainings reached; None without any."""
    highest = [float(np.nanmax(a)) for t in trials if np.isfinite(a := _train_accuracy(t)).any()]
    return min(highest) if highest and len(highest) == len(trials) else None


def crossing(curves: Curves, level: float) -> float | None:
    """The validation accuracy when the train accuracy first reached ``level``, interpolated between the two epochs around it;
    None where it never did."""
    train, validation = _train_accuracy(curves), _values(curves, "validation_accuracy")
    reached = np.flatnonzero(train >= level)
    if not reached.size:
        return None
    after = int(reached[0])
    if after == 0 or not train[after] > train[after - 1]:
        found = float(validation[after])
    else:
        share = (level - train[after - 1]) / (train[after] - train[after - 1])
        found = float(validation[after - 1] + share * (validation[after] - validation[after - 1]))
    return found if math.isfinite(found) else None


def gap_at(curves: Curves, level: float | None) -> float | None:
    """Train minus validation accuracy at the train accuracy ``level``, see :func:`crossing`."""
    found = None if level is None else crossing(curves, level)
    return None if found is None or level is None else level - found
