"""The vocabulary of what a trial is measured by: names, directions and units.

It stands apart from `score`, which computes these numbers with scikit-learn, and from `verdict`, which judges them with
numpy and scipy alone: both must agree on the direction of a metric, and neither may pull in the other's dependencies.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

METRICS: tuple[str, ...] = (
    "accuracy",
    "precision",
    "recall",
    "f1",
    "precision_weighted",
    "f1_weighted",
    "auc",
    "average_precision",
    "loss",
    "brier",
    "ece",
)

DETECTION: tuple[str, ...] = ("ap", "ap50", "ap75", "ap50_voc", "ap50_voc07")
"""Average precisions of detectors; each name says by whose definition, see `pliant.lab.average_precision`."""

KNOWN: tuple[str, ...] = (*METRICS, *DETECTION)

HIGHER_IS_BETTER: Mapping[str, bool] = MappingProxyType({name: name not in ("loss", "brier", "ece") for name in KNOWN})

# Shares of one (accuracy, F1, AUC) are read in points, hundredths of one; a cross-entropy has no upper end.
UNITS: Mapping[str, str] = MappingProxyType(
    {name: {"loss": "nats", "brier": "squared error"}.get(name, "points") for name in KNOWN}
)

# These come from a table of counts, so they can only move in steps of about one example: on 114 test rows nothing
# finer than 0.9 points can be seen. A verdict has to know, or two equal counts look like perfect precision.
COUNTED: frozenset[str] = frozenset({"accuracy", "precision", "recall", "f1", "precision_weighted", "f1_weighted"})
