"""The null suite: in every design that the lab supports, at most 7 % of studies of nothing come out different.

The full run is slow; a few hundred studies of every design run always. So few cannot show a rate of 7 %: they find one that is
clearly above it, as the naive tests are. Studies are drawn from fixed seeds, so a run does not differ from the last.
"""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pliant.lab.verdict.crossed import Crossed, from_contributions

ROOT = Path(__file__).parents[2]


def load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


suite = load("benchmarks/null_suite.py")
tables = load("scripts/null_table.py")
LARGE = ("10 folds x 10 (learners)",)


@pytest.mark.parametrize("design", suite.DESIGNS)
def test_nothing_rarely_comes_out_different(design: str) -> None:
    studies = 50 if design in LARGE else 200
    found = suite.measure(design, studies, seed=1)
    assert found["different"] <= stats.binom.ppf(0.99, studies, 0.07)


@pytest.mark.slow
@pytest.mark.parametrize("design", suite.DESIGNS)
def test_null_rate(design: str) -> None:
    studies = 600
    found = suite.measure(design, studies, seed=2, powered=0 if "permuted" in design else 60)
    print(design, found)
    assert found["different"] / studies <= 0.07
    if "power" in found:
        power = list(found["power"].values())
        assert power[-1] > power[0]
        assert power[-1] > 5 * found["wrong_way"]


def test_a_difference_is_found() -> None:
    """A suite in which nothing is ever different would pass on a verdict that never speaks."""
    for design, at_least in (
        ("10 data sets, 5 activations (simulated)", 0.9),
        ("5 folds x 3 (learners)", 0.4),
        ("official, 5 seeds (learners)", 0.5),
    ):
        found = suite.measure(design, 30, seed=3, powered=30)
        assert found["power"]["0.05"] / 30 >= at_least, design
        assert found["power"]["0.05"] > found["power"]["0.005"], design


def test_the_rates_in_the_docs_are_those_that_were_measured() -> None:
    results = json.loads(tables.RESULTS.read_text())
    assert list(results) == list(suite.DESIGNS), "run benchmarks/null_suite.py for the designs that lack a rate"
    for design, found in results.items():
        assert found["different"] / found["studies"] <= 0.07, design
        assert found["studies"] >= 500, design
    assert tables.PAGE.read_text() == tables.page()
    text = tables.table(results)
    for design in results:
        assert f"| {design} | " in text
    assert len(text.splitlines()) == len(results) + 2


def test_the_interval_of_a_rate() -> None:
    # No hit in n: the closed form. Else the exact binomial of scipy.
    assert tables.interval(0, 100) == (0.0, pytest.approx(1 - 0.025**0.01))
    want = stats.binomtest(7, 100).proportion_ci(method="exact")
    assert tables.interval(7, 100) == (pytest.approx(want.low), pytest.approx(want.high))
    assert tables.interval(5, 5)[1] == 1.0


# --- why these methods -------------------------------------------------------------------------------------------------


def differences(rng: np.random.Generator, seeds: int, by_seed: float, by_example: float, examples: int = 400) -> Any:
    shared = 1.5 + 1.5 * rng.normal(size=examples)
    one, other = (
        shared
        + by_seed * rng.normal(size=(seeds, 1))
        + by_example * rng.normal(size=examples)
        + 0.5 * rng.normal(size=(seeds, examples))
        > 0
        for _ in range(2)
    )
    return one.astype(float) - other


def test_what_other_ways_of_judging_a_fixed_split_would_do() -> None:
    """Seeds alone, examples alone and Satterthwaite's degrees of freedom each fail somewhere; the crossed interval nowhere."""
    rng, rates = np.random.default_rng(5), {}
    for seeds, by_seed, by_example in ((10, 0.1, 1.0), (3, 0.3, 0.3), (2, 0.03, 0.3)):
        hits = {"seeds": 0, "examples": 0, "satterthwaite": 0, "crossed": 0}
        studies = 600
        for _ in range(studies):
            d = differences(rng, seeds, by_seed, by_example)
            means, n = d.mean(axis=1), d.shape[1]
            vectors = np.array([from_contributions(line, "").vector for line in d])
            crossed = Crossed.of(means.tolist(), vectors, n, 1 / n)
            size, v_seeds, v = abs(means.mean()), crossed.sd**2 / seeds, crossed.examples
            hits["seeds"] += size > stats.t.ppf(0.975, seeds - 1) * math.sqrt(v_seeds)
            hits["examples"] += size > 1.96 * d.mean(axis=0).std(ddof=1) / math.sqrt(n)
            freedom = (v_seeds + v) ** 2 / (v_seeds**2 / (seeds - 1) + v**2 / (n - 1))
            hits["satterthwaite"] += size > stats.t.ppf(0.975, freedom) * math.sqrt(v_seeds + v)
            hits["crossed"] += 2 * float(crossed.tail(size, seeds)) < 0.05
        rates[seeds] = {name: count / studies for name, count in hits.items()}
    print(rates)
    assert all(found["crossed"] <= 0.07 for found in rates.values())
    assert rates[10]["seeds"] > 0.2
    assert rates[3]["examples"] > 0.4
    assert rates[2]["satterthwaite"] > 0.08


def test_flipping_the_signs_of_folds_is_no_test() -> None:
    """A permutation test over folds takes them for independent, and inherits the error rate of the naive t-test."""
    rng, hits, studies = np.random.default_rng(6), 0, 100
    for _ in range(studies):
        y = np.where(np.arange(suite.N) % 2 == 0, 1, -1)
        X = rng.normal(size=(2, suite.N, suite.FEATURES)) + suite.SIGNAL * y[:, None]
        test = suite.folds_of(rng, 5, 3)
        one, other = (suite.centroid_accuracy(x, y, ~test, test) for x in X)
        d = one - other
        flipped = rng.choice([-1.0, 1.0], (400, len(d))) @ d
        hits += (np.abs(flipped) >= abs(d.sum()) - 1e-12).mean() < 0.05
    print(hits / studies)
    assert hits / studies > 0.15
