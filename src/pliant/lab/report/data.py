"""What a report is made of: plain data, gathered by whoever ran the study; no tensors, no files, no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pliant.lab.verdict import Verdict

Row = Mapping[str, object]
"""One trial as a flat dict of scalars; measured columns are None when the trial was not scored."""

Epoch = Mapping[str, object]
"""One epoch of one trial: epoch (1-based), train/validation loss and accuracy, seconds, coefficients by site."""


@dataclass(frozen=True)
class Stage:
    """A function as it stood at one moment of training.

    Stages of one ``Shape`` that share a ``name`` are drawn together, one line per ``site``; the distinct names, in the
    order in which they first occur, are the stops of the slider.
    """

    name: str
    """The moment, as shown: ``"start"``, ``"end"``, or progress such as ``"t = 0.25"``."""
    site: str | None
    """Module path of the call site, or None when the function is the same at every site."""
    x: Sequence[float]
    value: Sequence[float]
    """f(x), same length as ``x``; a value that is not finite leaves a gap in the line."""
    derivative: Sequence[float]
    """f'(x), same length as ``x``."""


@dataclass(frozen=True)
class Shape:
    """An activation's function over training: one stage if nothing moves, several if it is learned or scheduled."""

    activation: str
    label: str
    kind: Literal["plain", "learned", "scheduled"]
    stages: Sequence[Stage]


@dataclass(frozen=True)
class ReportData:
    """Everything that the page, the tables and the LaTeX show. Any part may be empty: the page then says so.

    ``histories`` may be any mapping, also one that reads a trial's history when it is asked for: each is read once.
    """

    title: str
    question: str
    """One sentence, e.g. "Does any of 15 activations beat ReLU on WDBC?"."""
    study: Mapping[str, object] = field(default_factory=dict)
    """The resolved study, as it would be written to JSON."""
    rows: Sequence[Row] = ()
    verdict: Verdict | None = None
    histories: Mapping[str, Sequence[Epoch]] = field(default_factory=dict)
    """Trial key -> epochs. Only those of done and diverged trials are drawn."""
    confusions: Mapping[str, Sequence[Sequence[int]]] = field(default_factory=dict)
    """Activation -> C x C counts, summed over test folds; rows are true classes, columns predicted ones."""
    class_names: Sequence[str] = ()
    reliability: Mapping[str, Sequence[tuple[float, float, int]]] = field(default_factory=dict)
    """Activation -> (mean confidence, accuracy, examples) of each bin of confidence that holds test examples."""
    shapes: Sequence[Shape] = ()
    printed: Sequence[Mapping[str, object]] = ()
    """The paper's own numbers. Keys: what, value, unit, note; optional: released (the same cell in the authors' logs),
    reduced (true where this study is smaller than the paper's, so that agreement would mean nothing), and activation + metric,
    which name the estimate of ours that stands beside it. A value in per cent has the unit ``"%"``; without a unit it is taken
    as a fraction when the metric is one. ``runs``: how many runs the value is of, 1 for a single one. ``digits``: decimals as
    printed, where the number alone has lost its trailing zeros. How the last two count: ``pliant.lab.report.agreement``."""
    deviations: Sequence[Mapping[str, object]] = ()
    """Keys: id, as_written, as_released, here."""
    notes: Sequence[str] = ()
    remarks: Sequence[str] = ()
    """What must be seen before any number is: released quirks that are on, changed arithmetic, a changed study."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Which table or figure of the paper one of ours stands for: ``table`` or a figure's id -> e.g. ``figure_2``, the
    name of its files."""
    environment: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    """The command line that gives the same result again."""
    paper: Mapping[str, object] | None = None
    """Keys: title, authors, year."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Activation -> what is displayed for it; also the study's order."""
