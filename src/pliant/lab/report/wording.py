"""How numbers and verdicts are put into words: one place, so that page, table and LaTeX never say it differently."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pliant.lab.report.data import ReportData
    from pliant.lab.verdict import Comparison, Verdict

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"

WORDS = ("BETTER", "WORSE", "EQUIVALENT", "CANNOT TELL")


@dataclass(frozen=True)
class Metric:
    """How one metric is shown. ``scale`` turns the stored value into the shown one."""

    name: str
    title: str
    scale: float
    unit: str
    """Of the metric itself: "%" for fractions, "nats" for the loss."""
    points: str
    """Of a difference: percentage points are not per cent."""
    digits: int


_FRACTIONS = {
    "accuracy": "Accuracy",
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "precision_weighted": "Weighted precision",
    "f1_weighted": "Weighted F1",
    "auc": "AUC",
    "average_precision": "Average precision",
    "ece": "Calibration error",
    "ap": "AP (COCO)",
    "ap50": "AP50 (COCO)",
    "ap75": "AP75 (COCO)",
    "ap50_voc": "AP (VOC)",
    "ap50_voc07": "AP (VOC 2007)",
}


def metric(name: str) -> Metric:
    """The way to show a metric; one that is not known is shown as stored, with four digits."""
    if name in _FRACTIONS:
        return Metric(name, _FRACTIONS[name], 100.0, "%", "points", 2)
    if name == "loss":
        return Metric(name, "Loss", 1.0, "nats", "nats", 4)
    return Metric(name, name.replace("_", " ").capitalize(), 1.0, "", "", 4)


def in_sentence(title: str) -> str:
    """A title within a sentence: its first letter small, unless it begins with an abbreviation such as F1 or AP50."""
    return title[0].lower() + title[1:] if title[1:2].islower() else title


def finite(value: object) -> float | None:
    """The number as a float, or None for anything that is not a finite number (null, nan, text, a flag)."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def number(value: object, digits: int = 2, *, signed: bool = False, scale: float = 1.0) -> str:
    """Fixed digits with a real minus sign; a dash when there is no finite number; never a signed zero."""
    x = finite(value)
    if x is None:
        return DASH
    text = f"{abs(x * scale):.{digits}f}"
    if float(text) == 0.0:
        return text
    return (MINUS if x < 0 else "+" if signed else "") + text


def interval(low: object, high: object, digits: int = 2, *, signed: bool = False, scale: float = 1.0) -> str:
    """``[low, high]``, or nothing at all when an end is missing (one trial has no interval)."""
    if finite(low) is None or finite(high) is None:
        return ""
    return f"[{number(low, digits, signed=signed, scale=scale)}, {number(high, digits, signed=signed, scale=scale)}]"


def probability(p: object) -> str:
    x = finite(p)
    if x is None:
        return f"p {DASH}"
    return "p < 0.001" if x < 0.001 else f"p = {x:.3f}"


def counted(n: int, noun: str, plural: str = "") -> str:
    """``1 trial``, ``2 trials``; thousands are separated by a thin space."""
    return f"{n:,} ".replace(",", "\N{NARROW NO-BREAK SPACE}") + (noun if n == 1 else plural or noun + "s")


def listed(items: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1] if items else ""


def significant(value: object, digits: int = 5) -> float | int | None:
    """A number cut to the digits that a figure or its table can show, so that the page stays small."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    x = finite(value)
    if x is None:
        return None
    cut = float(f"{x:.{digits}g}")
    return int(cut) if cut.is_integer() and abs(cut) < 1e15 else cut


def margin(verdict: Verdict) -> str:
    """``±1.00 points`` of the primary metric."""
    shown = metric(verdict.metric)
    return f"±{number(verdict.margin, shown.digits, scale=shown.scale)} {shown.points}".rstrip()


def headline(verdict: Verdict) -> str:
    """The whole verdict in one sentence."""
    shown = metric(verdict.metric)
    total = len(verdict.comparisons)
    if total == 0:
        return f"There is nothing to compare with {verdict.baseline_label} yet."
    phrases = {"BETTER": "better", "WORSE": "worse", "EQUIVALENT": "equivalent", "CANNOT TELL": "not settled"}
    counts = {word: sum(c.word == word for c in verdict.comparisons) for word in WORDS}
    parts = [f"{n} {'is' if n == 1 else 'are'} {phrases[word]}" for word, n in counts.items() if n]
    name = in_sentence(shown.title)
    if total == 1:
        word = phrases.get(verdict.comparisons[0].word, "")
        return f"{verdict.comparisons[0].label} compared with {verdict.baseline_label} on {verdict.split} {name}: {word}."
    return f"Of {total} activations compared with {verdict.baseline_label} on {verdict.split} {name}, {listed(parts)}."


def sentence(comparison: Comparison, verdict: Verdict) -> str:
    """One comparison in one sentence, with interval and n, without the activation's name and the chip's word."""
    shown = metric(comparison.metric)
    name = in_sentence(shown.title)
    what = f"{verdict.split.capitalize()} {name}"
    base = verdict.baseline_label
    size = finite(comparison.difference)
    if comparison.n == 0 or size is None:
        return f"No pair of scored trials with {base} yet."
    ends = interval(comparison.low, comparison.high, shown.digits, signed=True, scale=shown.scale)
    facts = f"{ends[:-1]}; n = {comparison.n}]" if ends else f"[n = {comparison.n}]"
    if comparison.identical:
        return f"{what} is the same as {base}'s in every pair {facts}."
    amount = number(abs(size), shown.digits, scale=shown.scale)
    unit = f" {shown.points}" if shown.points else ""
    direction = "higher" if size > 0 else "lower"
    limits = margin(verdict).lstrip("±")
    if comparison.word in ("BETTER", "WORSE"):
        small = f", yet by less than {limits}" if comparison.p_equivalent < verdict.alpha else ""
        return f"{what} is {amount}{unit} {direction} than with {base}{small} {facts}."
    if comparison.word == "EQUIVALENT":
        return f"{what} is within {limits} of {base}'s: {amount} {direction} {facts}."
    return f"{what} was {amount}{unit} {direction} than with {base} {facts}."


def support(comparison: Comparison, verdict: Verdict) -> str:
    """What the word rests on: its p-value, or why there is no other word and what would bring one."""
    if comparison.word in ("BETTER", "WORSE"):
        return f"{probability(comparison.p_adjusted)} (Holm)."
    if comparison.word == "EQUIVALENT":
        return "" if comparison.identical else f"{probability(comparison.p_equivalent)} (Holm)."
    if comparison.n == 0:
        return ""
    if comparison.n < 2:
        return "One pair has no spread: it takes more folds or repeats."
    if finite(comparison.low) is None:
        return "The spread is not known; see the remarks above."
    holm = (
        f"The interval leaves out 0, but not after Holm's correction for {len(verdict.comparisons)} comparisons. "
        if comparison.p < verdict.alpha
        else ""
    )
    if comparison.more_repeats is None:
        return f"{holm}Repeats alone would not settle it."
    return f"{holm}About {counted(comparison.more_repeats, 'more repeat')} would settle it."


def names(data: ReportData) -> dict[str, str]:
    """Activation -> display name, in the study's order and without two that look the same.

    The order is the verdict's, then that of ``labels``, then that of the rows, so that a partial store still lists
    what was planned.
    """
    order: dict[str, str] = {}
    if data.verdict is not None:
        for estimates in data.verdict.estimates.values():
            for estimate in estimates:
                order.setdefault(estimate.activation, estimate.label)
    for activation, label in data.labels.items():
        order.setdefault(activation, label)
    for row in data.rows:
        activation = str(row.get("activation"))
        if activation not in order:
            order[activation] = str(row.get("label") or activation)
    if data.verdict is not None and data.verdict.baseline in order:
        base = data.verdict.baseline
        order = {base: order[base], **order}
    return _told_apart(order)


def _told_apart(order: Mapping[str, str]) -> dict[str, str]:
    seen: dict[str, int] = {}
    for label in order.values():
        seen[label] = seen.get(label, 0) + 1
    # Charts and tables find an activation by its display name; two that look alike would be drawn as one.
    return {a: label if seen[label] == 1 else f"{label} ({a})" for a, label in order.items()}


def places(pairs: Iterable[tuple[int, int]]) -> str:
    """Repeat and fold pairs as a short list counted from 1: ``repeat 1: folds 1-5; repeat 2: fold 3``."""
    by_repeat: dict[int, set[int]] = {}
    for repeat, fold in pairs:
        by_repeat.setdefault(repeat, set()).add(fold)
    groups: dict[tuple[int, ...], list[int]] = {}
    for repeat in sorted(by_repeat):
        groups.setdefault(tuple(sorted(by_repeat[repeat])), []).append(repeat)
    texts = []
    for folds, repeats in groups.items():
        texts.append(
            f"repeat{'s' if len(repeats) > 1 else ''} {_ranges(repeats)}: fold{'s' if len(folds) > 1 else ''} {_ranges(folds)}"
        )
    return "; ".join(texts)


def _ranges(numbers: Sequence[int]) -> str:
    runs: list[list[int]] = []
    for n in sorted(numbers):
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ", ".join(f"{a + 1}" if a == b else f"{a + 1}{DASH}{b + 1}" for a, b in runs)
