"""The rows of a study in which something is chosen on validation: a learning rate, or an entrant among candidates."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

from pliant.lab.study import Study

__all__ = ["choices_told", "chosen_rows", "filled"]


def filled(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows that all have the columns of all, in one order, None where one had none."""
    columns: dict[str, Any] = functools.reduce(operator.ior, rows, {})
    names = list(columns)
    return [row if list(row) == names else {name: row.get(name) for name in names} for row in rows]


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
    return filled(rows)


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
