"""From a finished study to its verdict, on the official split: predictions come from the store."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from pliant.cli.plan import _precision
from pliant.lab import Result, Study, run
from pliant.lab.datasets import Data
from pliant.lab.result import Precision


def official(tmp_path: Path, repeats: int = 3, groups: Any = None) -> Result:
    digits = load_digits()
    parts = np.where(np.arange(len(digits.target)) < 600, 0, 2)
    study = Study(
        name="digits",
        data=Data.of(digits.data, digits.target, parts=parts, groups=groups),
        model={"name": "ffnn", "options": {"width": 16, "hidden_layers": 1}},
        activations=["relu", "tanh"],
        protocol={"design": "official", "repeats": repeats},
        train={"epochs": 1},
    )
    return run(study, store=tmp_path, on="serial")


def test_seeds_are_crossed_with_the_stored_predictions(tmp_path: Path) -> None:
    result = official(tmp_path)
    verdict = result.verdict()
    (c,) = verdict.comparisons
    assert (c.n, verdict.units) == (3, 1197)
    assert math.isfinite(c.low)
    assert c.sd_examples > 0
    assert c.posterior is not None
    assert "3 seeds crossed with 1197 test examples" in verdict.design
    for family in verdict.secondary.values():
        assert math.isfinite(family[0].high)
    found = result.expected_precision()
    assert found == Precision(pytest.approx(c.high - c.difference), c.sd, c.sd_examples, True)  # type: ignore[arg-type]
    # Before anything is trained, from sizes alone; more seeds promise more.
    before, more = (official_plan(tmp_path / "none", n).expected_precision() for n in (3, 10))
    assert not before.measured
    assert more.half_width < before.half_width
    assert before.sd_examples == pytest.approx(math.sqrt(0.01 / 1197))


def official_plan(store: Path, repeats: int) -> Result:
    digits = load_digits()
    parts = np.where(np.arange(len(digits.target)) < 600, 0, 2)
    study = Study(
        name="digits",
        data=Data.of(digits.data, digits.target, parts=parts),
        model={"name": "ffnn"},
        activations=["relu", "tanh"],
        protocol={"design": "official", "repeats": repeats},
    )
    return Result(study, None)


def test_groups_of_the_data_are_the_units(tmp_path: Path) -> None:
    verdict = official(tmp_path, 2, groups=np.arange(1797) // 50).verdict()
    assert verdict.units == len(np.unique(np.arange(600, 1797) // 50))


def test_what_plan_says_of_each_design() -> None:
    seeds = Study(
        name="s",
        dataset={"name": "mnist"},
        model={"name": "ffnn"},
        activations=["relu", "tanh"],
        protocol={"design": "official"},
    )
    folds = Study(name="f", dataset={"name": "wdbc"}, model={"name": "ffnn"}, activations=["relu", "tanh"])
    known, guess = Precision(0.012, 0.01, 0.002, True), Precision(0.012, 0.01, 0.002, False)
    text = _precision(known, seeds)
    assert "within +-1.20 points (95 %)" in text
    assert "1.00 points between seeds and of 0.39 points from the test examples" in text
    assert "more seeds do not take away" in _precision(guess, seeds)
    assert "between folds seen so far" in _precision(known, folds)
    assert "for each point of spread (sd) between folds" in _precision(guess, folds)
    assert "at least 2 seeds" in _precision(dataclasses.replace(guess, half_width=math.inf), seeds)
