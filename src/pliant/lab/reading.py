"""What the finished trials of a study measured, read from their results, or from the index of what was read before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pliant.lab import curves, index
from pliant.lab.store import Identity, Outcome, Store
from pliant.lab.study import Study, TrialSpec

__all__ = ["Tell", "read"]

Tell = Callable[[str, int, int], None]
"""What is read, how many of them are, and how many there are."""

_TOLD = ("device", "torch", "numpy", "python", "finished")
"""What the report says of where trials ran."""


def read(
    study: Study, trials: Sequence[TrialSpec], store: Store, of: str, tell: Tell | None = None
) -> tuple[dict[str, index.Entry], dict[str, Identity]]:
    """The finished trials by their keys. Those of a repeat and fold in which nothing has changed come from the index.

    Args:
        of: a digest of all that the entries depend on beside the results. tell: is told after each repeat and fold.

    Returns:
        The entries, and what the files of the results were before they were read.
    """
    groups: dict[tuple[int, int], list[TrialSpec]] = {}
    for spec in trials:
        groups.setdefault((spec.repeat, spec.fold), []).append(spec)
    # Looked at before anything is read: what changes meanwhile is not taken for what was read.
    now = store.finished(spec.key for spec in trials)
    kept = index.load(store, study.directory, of) if len(now) >= index.WORTH else {}
    found: dict[str, index.Entry] = {}
    fresh = 0
    for group in groups.values():
        if index.unchanged(now, kept, (spec.key for spec in group)):
            found |= {spec.key: kept[spec.key] for spec in group if spec.key in kept}
        else:
            again = _together(study, group, store, now)
            found |= again
            fresh += len(again)
            if tell is not None:
                tell("results", len(found), len(now))
    if tell is not None:
        tell("results", len(now), len(now))
    if fresh >= index.WORTH:
        index.save(store, study.directory, of, {key: found[key] for key in found if key in now})
    return found, now


def _together(study: Study, specs: Sequence[TrialSpec], store: Store, now: Mapping[str, Identity]) -> dict[str, index.Entry]:
    """Those of one repeat and fold, which were trained on the same examples, so that they can be compared at equal training
    success."""
    found: dict[str, index.Entry] = {}
    courses: list[tuple[dict[str, Any], Outcome, Mapping[str, Any]]] = []
    for spec in specs:
        result = store.trial(spec.key).result(verify_files=False)
        if result is None:
            continue
        measured = dict(result["row"])
        if "curves" in result:
            measured |= curves.areas(result["curves"])
            measured |= curves.late_spread(result["curves"])
            measured |= curves.increments(result["curves"])
            for threshold in study.thresholds:
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
