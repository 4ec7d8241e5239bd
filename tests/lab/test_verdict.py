from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import pliant.errors
from pliant.errors import PliantError, UnknownNameError
from pliant.lab import verdict
from pliant.lab.verdict import MOST_REPEATS, Comparison, Verdict, VerdictError, expected_precision, holm, judge

Row = dict[str, Any]
LABELS = {"relu": "ReLU", "srelu[alpha=1,beta=0.25]": "SReLU(1, 0.25)"}


def rows_of(
    values: Mapping[str, Any], *, n_train: int = 400, n_test: int = 100, metric: str = "accuracy", **more: Any
) -> list[Row]:
    """One row for every entry of each activation's array (repeats, folds) or (repeats, folds, seeds)."""
    rows = []
    for activation, array in values.items():
        table = np.asarray(array, dtype=float)
        table = table.reshape(table.shape + (1,) * (3 - table.ndim))
        for (repeat, fold, seed), value in np.ndenumerate(table):
            row = {"study": "s", "activation": activation, "repeat": repeat, "fold": fold, "seed": repeat + 100 * seed}
            row |= {"outcome": "done", "n_train": n_train, "n_validation": 50, "n_test": n_test}
            rows.append(row | {f"test_{metric}": float(value)} | more)
    return rows


def verdict_on(rows: Sequence[Row], activations: Sequence[str] = ("relu", "new"), **settings: Any) -> Verdict:
    settings = {"labels": LABELS, "baseline": "relu", "metrics": (), "margin": 0.005} | settings
    return judge(rows, activations=activations, **settings)


def paired(differences: Any, base: float = 0.5, **settings: Any) -> Comparison:
    differences = np.asarray(differences, dtype=float)
    rows = rows_of({"relu": np.full_like(differences, base), "new": base + differences}, **settings.pop("rows", {}))
    return verdict_on(rows, **settings).comparisons[0]


def standardised(n: int, mean: float, sd: float, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=n)
    return mean + sd * (x - x.mean()) / x.std(ddof=1)


# --- the corrected resampled t ---------------------------------------------------------------------------------------


def test_by_hand() -> None:
    # Differences in points 1, 3, 2, 6: mean 3, s^2 = (4 + 0 + 1 + 9) / 3 = 14 / 3. 1 / 4 + 100 / 400 = 1 / 2.
    got = paired([[0.01, 0.03], [0.02, 0.06]])
    error = math.sqrt(14 / 3 / 2) / 100
    assert got.n == 4
    assert got.difference == pytest.approx(0.03)
    # 97.5 % point of t with 3 degrees of freedom from a printed table.
    assert got.high == pytest.approx(0.03 + 3.18245 * error, rel=1e-5)
    assert got.low == pytest.approx(0.03 - 3.18245 * error, rel=1e-5)
    # With 3 degrees of freedom the tail has a closed form.
    t = 0.03 / error
    p = 1 - 2 / math.pi * (math.atan(t / math.sqrt(3)) + (t / math.sqrt(3)) / (1 + t * t / 3))
    assert got.p == pytest.approx(p)
    assert got.p_adjusted == got.p
    assert got.differences == tuple(
        (repeat, fold, pytest.approx(value))
        for (repeat, fold), value in {(0, 0): 0.01, (0, 1): 0.03, (1, 0): 0.02, (1, 1): 0.06}.items()
    )


def test_is_students_t_with_a_wider_scale() -> None:
    """Independent route: the plain paired t of scipy, its statistic shrunk by sqrt((1/n) / (1/n + ratio))."""
    rng = np.random.default_rng(3)
    for repeats, folds, n_train, n_test in ((3, 5, 410, 114), (1, 10, 900, 100), (7, 1, 300, 200)):
        d = rng.normal(0.004, 0.02, size=(repeats, folds))
        got = paired(d, rows={"n_train": n_train, "n_test": n_test})
        n = d.size
        plain = stats.ttest_rel(0.5 + d.ravel(), np.full(n, 0.5))
        t = plain.statistic * math.sqrt((1 / n) / (1 / n + n_test / n_train))
        assert got.p == pytest.approx(2 * stats.t.sf(abs(t), n - 1))
        half = stats.t.ppf(0.975, n - 1) * d.std(ddof=1) * math.sqrt(1 / n + n_test / n_train)
        assert got.high - got.low == pytest.approx(2 * half)
        assert expected_precision(folds, repeats, n_train, n_test, float(d.std(ddof=1))) == pytest.approx(half)


def test_the_overlap_is_averaged_over_the_rows() -> None:
    rows = rows_of({"relu": [[0.5, 0.5, 0.5]], "new": [[0.52, 0.55, 0.51]]})
    for row in rows:
        row["n_test"] = [100, 50, 150][row["fold"]]
        row["n_train"] = [400, 100, 300][row["fold"]]
    got = verdict_on(rows).comparisons[0]
    error = np.std([0.02, 0.05, 0.01], ddof=1) * math.sqrt(1 / 3 + (0.25 + 0.5 + 0.5) / 3)
    assert got.high - got.difference == pytest.approx(stats.t.ppf(0.975, 2) * error)


def test_estimates() -> None:
    values = np.array([[0.9, 0.92], [0.94, 0.96], [0.91, 0.9]])
    got = verdict_on(rows_of({"relu": values, "new": values + 0.01})).estimates["accuracy"]
    assert [e.activation for e in got] == ["relu", "new"]
    assert got[0].label == "ReLU"
    assert got[1].label == "new"
    assert got[0].n == 6
    assert got[0].mean == pytest.approx(values.mean())
    assert got[0].sd == pytest.approx(values.std(ddof=1))
    half = stats.t.ppf(0.975, 5) * values.std(ddof=1) * math.sqrt(1 / 6 + 1 / 4)
    assert (got[0].low, got[0].high) == (pytest.approx(values.mean() - half), pytest.approx(values.mean() + half))


def test_expected_precision() -> None:
    half = expected_precision(5, 3, 410, 114, 0.01)
    assert half == pytest.approx(stats.t.ppf(0.975, 14) * 0.01 * math.sqrt(1 / 15 + 114 / 410))
    assert expected_precision(5, 6, 410, 114, 0.01) < half
    # The floor that no number of repeats goes below.
    assert expected_precision(5, 10**6, 410, 114, 0.01) == pytest.approx(1.96 * 0.01 * math.sqrt(114 / 410), rel=1e-3)
    assert expected_precision(1, 1, 410, 114, 0.01) == math.inf
    assert expected_precision(5, 3, 410, 114, 0.0) == 0.0
    assert expected_precision(5, 3, 410, 114, 0.01, alpha=0.1) < half


# --- Holm ------------------------------------------------------------------------------------------------------------


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.04 by 4, 3, 2, 1: 0.04, 0.06, 0.06, 0.04, the last two held up by those before.
    np.testing.assert_allclose(holm([0.04, 0.01, 0.03, 0.02]), [0.06, 0.04, 0.06, 0.06])
    np.testing.assert_allclose(holm([0.6, 0.5]), [1.0, 1.0])
    np.testing.assert_allclose(holm([0.2]), [0.2])
    np.testing.assert_allclose(holm([[0.01, 0.04], [0.3, 0.01]]), [[0.02, 0.04], [0.3, 0.02]])
    assert holm(np.empty((3, 0))).shape == (3, 0)


def test_holm_is_the_closed_test_over_all_subsets() -> None:
    """Independent definition: adjusted p_i = max over all sets of hypotheses with i of the set's Bonferroni p."""
    rng = np.random.default_rng(4)
    for m in (1, 2, 5):
        p = rng.random(m) ** 3
        sets = [[i for i in range(m) if bits >> i & 1] for bits in range(1, 2**m)]
        want = [max(min(1.0, len(s) * min(p[j] for j in s)) for s in sets if i in s) for i in range(m)]
        np.testing.assert_allclose(holm(p), want)


def test_holm_within_each_metric() -> None:
    rng = np.random.default_rng(5)
    names = ["a", "relu", "b", "c"]
    rows = rows_of({name: rng.normal(0.8, 0.02, (3, 5)) for name in names})
    for row in rows:
        row["test_f1"] = float(rng.normal(0.8, 0.02))
    got = verdict_on(rows, names, metrics=("f1", "accuracy"))
    assert [c.activation for c in got.comparisons] == ["a", "b", "c"]
    assert list(got.secondary) == ["f1"]
    assert list(got.estimates) == ["accuracy", "f1"]
    for family in (got.comparisons, got.secondary["f1"]):
        np.testing.assert_allclose([c.p_adjusted for c in family], holm([c.p for c in family]))
        assert any(c.p_adjusted != c.p for c in family)


# --- words -----------------------------------------------------------------------------------------------------------


def test_words() -> None:
    noise = standardised(15, 0, 0.01).reshape(3, 5)
    assert paired(noise + 0.1).word == "BETTER"
    assert paired(noise - 0.1).word == "WORSE"
    assert paired(noise).word == "CANNOT TELL"
    assert paired(noise, margin=0.05).word == "EQUIVALENT"


def test_direction_of_the_metric() -> None:
    noise = standardised(15, 0, 0.01).reshape(3, 5)
    up = paired(noise + 0.1, metric="loss", rows={"metric": "loss"})
    assert (up.word, up.higher_is_better) == ("WORSE", False)
    assert paired(noise - 0.1, metric="loss", rows={"metric": "loss"}).word == "BETTER"


def test_equivalent_is_the_interval_at_one_minus_two_alpha_inside_the_margin() -> None:
    rng = np.random.default_rng(6)
    seen = set()
    for _ in range(200):
        d = rng.normal(rng.normal(0, 0.005), 0.01, (3, 5))
        half = stats.t.ppf(0.95, 14) * d.std(ddof=1) * math.sqrt(1 / 15 + 1 / 4)
        inside = abs(d.mean()) + half < 0.015
        got = paired(d, margin=0.015)
        assert (got.p_equivalent < 0.05) == inside
        if got.p_adjusted >= 0.05:
            assert (got.word == "EQUIVALENT") == inside
        seen.add(inside)
    assert seen == {True, False}


def test_a_clear_difference_is_not_called_equivalent() -> None:
    got = paired(standardised(15, 0.02, 0.005).reshape(3, 5), margin=0.04)
    assert got.word == "BETTER"
    assert got.p_equivalent < 0.05


def test_loss_beside_accuracy_has_no_margin() -> None:
    rng = np.random.default_rng(7)
    rows = rows_of({"relu": rng.normal(0.8, 1e-4, (3, 5)), "new": rng.normal(0.8, 1e-4, (3, 5))}, n_test=10**6)
    for row in rows:
        row["n_train"] = 4 * 10**6
        row["test_loss"] = row["test_accuracy"]
        row["test_auc"] = row["test_accuracy"]
    got = verdict_on(rows, metrics=("auc", "loss"))
    assert got.comparisons[0].word == "EQUIVALENT"
    assert got.secondary["auc"][0].word == "EQUIVALENT"
    assert got.secondary["loss"][0].word == "CANNOT TELL"
    assert got.secondary["loss"][0].p_equivalent == 1
    assert verdict_on(rows, metric="loss", metrics=("accuracy",)).comparisons[0].word == "EQUIVALENT"


# --- spreads that cannot be true --------------------------------------------------------------------------------------


def test_identical() -> None:
    got = paired(np.zeros((3, 5)))
    assert got.word == "EQUIVALENT"
    assert got.identical
    assert (got.p, got.p_adjusted, got.p_equivalent) == (1, 1, 0)
    assert (got.difference, got.low, got.high) == (0, 0, 0)
    assert got.more_repeats is None
    assert paired(np.zeros((3, 5)), margin=0.0).word == "EQUIVALENT"
    assert paired(np.full((3, 5), 1e-13)).identical
    assert not paired(np.full((3, 5), 1e-6)).identical


def test_equal_counts_of_different_trainings_are_a_tie_and_no_identity() -> None:
    """Two folds of 20 examples on which both happen to get equally many right say nothing about half a point."""
    rows = rows_of({"relu": [[0.8, 0.9]], "new": [[0.8, 0.9]]}, n_train=80, n_test=20)
    for row in rows:
        row["test_loss"] = 0.3 + 0.01 * (row["activation"] == "new") + 0.1 * row["fold"]
    got = verdict_on(rows).comparisons[0]
    assert got.identical
    assert got.p == 1
    assert got.word == "CANNOT TELL"
    assert got.high > 0.05
    for row in rows:
        row["test_loss"] = 0.3 + 0.1 * row["fold"]
    assert verdict_on(rows).comparisons[0].word == "EQUIVALENT"
    many = rows_of({"relu": np.full((3, 5), 0.8), "new": np.full((3, 5), 0.8)}, n_train=40000, n_test=10000)
    for row in many:
        row["test_loss"] = 0.3 + 0.01 * (row["activation"] == "new") + 0.1 * row["fold"]
    assert verdict_on(many).comparisons[0].word == "EQUIVALENT"


def test_ties_at_a_perfect_area_are_equivalent() -> None:
    rows = rows_of({"relu": np.ones((3, 5)), "new": np.ones((3, 5))}, metric="auc")
    for row in rows:
        row["test_loss"] = 0.3 + 0.01 * (row["activation"] == "new")
    assert verdict_on(rows, metric="auc").comparisons[0].word == "EQUIVALENT"


def test_one_example_more_in_every_fold_is_no_certainty() -> None:
    """Counts move in steps; a spread below what a step can show is not believed."""
    for sizes in ([100, 100], [100, 101]):  # with unequal folds the spread is not even exactly 0
        rows = rows_of({"relu": [[0.5, 0.5]], "new": [[0.5, 0.5]]})
        for row in rows:
            row["n_test"] = sizes[row["fold"]]
            row["test_accuracy"] = (50 + (row["activation"] == "new")) / row["n_test"]
        got = verdict_on(rows).comparisons[0]
        assert got.word == "CANNOT TELL"
        assert got.p > 0.1
        error = 0.01 / math.sqrt(12) * math.sqrt(1 / 2 + 1 / 4)
        assert got.high - got.difference == pytest.approx(stats.t.ppf(0.975, 1) * error, rel=0.01)
    # Fifteen folds that all say so are another matter, and so is a difference of many steps.
    assert paired(np.full((3, 5), 0.01)).word == "BETTER"
    assert paired(np.full((1, 3), 0.1)).word == "BETTER"


def test_a_constant_difference_in_a_metric_without_steps_is_a_mistake() -> None:
    for metric in ("loss", "auc"):
        rows = rows_of({"relu": np.full((3, 5), 0.5), "new": np.full((3, 5), 0.6)}, metric=metric)
        got = verdict_on(rows, metric=metric)
        c = got.comparisons[0]
        assert (c.word, c.p, c.low, c.high, c.more_repeats) == ("CANNOT TELL", 1.0, -math.inf, math.inf, None)
        assert any("copied rows" in text for text in got.warnings)
        assert "see the warnings" in got.sentence(c)


# --- what designs there are -------------------------------------------------------------------------------------------


def test_one_pair_is_no_verdict() -> None:
    for difference in (0.3, 0.0):
        rows = rows_of({"relu": [[0.5]], "new": [[0.5 + difference]]})
        got = verdict_on(rows)
        c = got.comparisons[0]
        assert (c.word, c.n, c.p, c.more_repeats) == ("CANNOT TELL", 1, 1.0, None)
        assert (c.low, c.high) == (-math.inf, math.inf)
        assert c.difference == pytest.approx(difference)
        assert any("Fewer than 2 pairs for new" in text for text in got.warnings)
        assert math.isnan(got.estimates["accuracy"][0].sd)
        assert got.estimates["accuracy"][0].high == math.inf
        assert "at least 2 pairs" in got.sentence(c)


def test_seeds_are_averaged_inside_folds() -> None:
    rng = np.random.default_rng(8)
    base, new = rng.normal(0.8, 0.03, (2, 1, 5, 7))
    got = verdict_on(rows_of({"relu": base, "new": new}))
    c = got.comparisons[0]
    means = (new - base).mean(axis=2)
    once = paired(means)
    assert c.n == 5
    assert (c.difference, c.p, c.low) == (pytest.approx(once.difference), pytest.approx(once.p), pytest.approx(once.low))
    assert "up to 7 seeds averaged" in got.design
    estimate = got.estimates["accuracy"][0]
    assert estimate.n == 35
    assert estimate.sd == pytest.approx(base.std(ddof=1))
    assert estimate.high - estimate.mean == pytest.approx(
        stats.t.ppf(0.975, 4) * base.mean(axis=2).std(ddof=1) * math.sqrt(1 / 5 + 1 / 4)
    )


def test_repeats_on_one_partition_are_seeds() -> None:
    rng = np.random.default_rng(9)
    base, new = rng.normal(0.8, 0.03, (2, 4, 5))
    fixed = verdict_on(rows_of({"relu": base, "new": new}, partition="official"))
    c = fixed.comparisons[0]
    assert c.n == 5
    assert c.p == pytest.approx(paired((new - base).mean(axis=0, keepdims=True)).p)
    assert fixed.design.startswith("1 x 5 folds, up to 4 seeds")
    own = rows_of({"relu": base, "new": new})
    for row in own:
        row["partition"] = f"drawn-{row['repeat']}"
    assert verdict_on(own).comparisons[0] == paired(new - base, base=base)


def test_a_partition_may_repeat_its_seed() -> None:
    rows = rows_of({"relu": np.full((2, 2), 0.5), "new": [[0.5, 0.6], [0.7, 0.8]]}, partition=0)
    for row in rows:
        row["seed"] = 0
    assert [d for *_, d in verdict_on(rows).comparisons[0].differences] == [pytest.approx(0.1), pytest.approx(0.2)]


def test_hold_out() -> None:
    rng = np.random.default_rng(10)
    values = {"relu": rng.normal(0.8, 0.01, (10, 1)), "new": rng.normal(0.9, 0.01, (10, 1))}
    drawn = verdict_on(rows_of(values))
    assert drawn.comparisons[0].n == 10
    assert drawn.design.startswith("10 hold-out splits")
    assert any("give the rows a column 'partition'" in text for text in drawn.warnings)
    fixed = verdict_on(rows_of(values, partition="official"))
    assert fixed.comparisons[0].word == "CANNOT TELL"
    assert fixed.comparisons[0].n == 1
    assert fixed.design.startswith("1 fixed split, up to 10 seeds")
    assert not any("give the rows" in text for text in fixed.warnings)
    told = rows_of(values)
    for row in told:
        row["partition"] = row["repeat"]
    assert verdict_on(told).warnings == ()


def test_design_sentence() -> None:
    got = verdict_on(rows_of({"relu": np.full((3, 5), 0.5), "new": np.zeros((3, 5))}))
    assert got.design == (
        "3 x 5 folds; differences to ReLU paired within split and seed; corrected resampled t "
        "(n_test / n_train = 0.250) at 95 %; Holm over 1 comparison per metric; equivalent means within 0.50 points."
    )
    assert got.warnings == ()


# --- rows that are not there ------------------------------------------------------------------------------------------


def spoiled(outcome: str | None, where: Sequence[tuple[str, int, int]], **cells: Any) -> list[Row]:
    rng = np.random.default_rng(11)
    rows = rows_of({"relu": rng.normal(0.8, 0.02, (3, 5)), "new": rng.normal(0.8, 0.02, (3, 5))})
    kept = []
    for row in rows:
        if (row["activation"], row["repeat"], row["fold"]) in where:
            if outcome is None:
                continue
            row |= {"outcome": outcome} | cells
        kept.append(row)
    return kept


NOTHING = {"test_accuracy": None, "n_train": None, "n_test": None}


@pytest.mark.parametrize("outcome", [None, "missing", "failed"])
def test_missing_and_failed_trials_lose_their_pair(outcome: str | None) -> None:
    where = [("new", 0, 1), ("new", 2, 4), ("relu", 0, 1), ("relu", 1, 0)]
    whole = {(r["activation"], r["repeat"], r["fold"]): r["test_accuracy"] for r in spoiled(None, [])}
    got = verdict_on(spoiled(outcome, where, **NOTHING))
    c = got.comparisons[0]
    lost = {(repeat, fold) for _, repeat, fold in where}
    want = [(r, f, whole["new", r, f] - whole["relu", r, f]) for r in range(3) for f in range(5) if (r, f) not in lost]
    assert c.differences == tuple((r, f, pytest.approx(d)) for r, f, d in want)
    assert c.n == 12
    # A place that no activation has a row for is not known to be wanted.
    places = 14 if outcome is None else 15
    assert f"new vs ReLU: 2 of {places} pairs lack one of their two trials and are left out." in got.warnings
    relu, new = got.estimates["accuracy"]
    assert (relu.n, new.n) == (13, 13)
    if outcome == "failed":
        assert (relu.failed, relu.missing, new.failed) == (2, 0, 2)
        assert "2 of 15 trials of ReLU failed; left out." in got.warnings
    else:
        assert (relu.failed, relu.missing) == (0, 2 if outcome else 1)
        assert any(text.startswith("Incomplete: ") for text in got.warnings)


def test_diverged_trials_count() -> None:
    got = verdict_on(spoiled("diverged", [("new", 0, 1), ("new", 2, 4)], test_accuracy=0.5))
    c = got.comparisons[0]
    assert c.n == 15
    assert c.differences[1][2] < -0.2
    assert c.difference < -0.02
    assert got.estimates["accuracy"][1].diverged == 2
    assert got.estimates["accuracy"][1].n == 15
    assert "2 of 15 trials of new diverged; scored and counted as they are." in got.warnings


@pytest.mark.parametrize("who", ["new", "relu"])
@pytest.mark.parametrize("value", [None, math.nan])
def test_the_survivors_of_divergence_get_no_verdict(who: str, value: float | None) -> None:
    rows = spoiled("diverged", [(who, 0, 1)], test_accuracy=value)
    for row in rows:
        if row["activation"] == "new" and row["outcome"] == "done":
            row["test_accuracy"] += 0.15
    got = verdict_on(rows)
    c = got.comparisons[0]
    assert (c.n, c.word, c.more_repeats) == (14, "CANNOT TELL", None)
    assert any("1 trial of" in text and "diverged without" in text and "CANNOT TELL" in text for text in got.warnings)
    assert not any("copied" in text for text in got.warnings)


def test_an_undefined_metric_loses_its_pair() -> None:
    rows = spoiled("done", [("new", 0, 1)], test_accuracy=math.nan)
    got = verdict_on(rows)
    assert got.comparisons[0].n == 14
    assert "test accuracy is undefined in 1 trial of new; left out." in got.warnings


def test_an_activation_without_any_trial() -> None:
    rows = spoiled("missing", [("new", r, f) for r in range(3) for f in range(5)], **NOTHING)
    rows += rows_of({"other": np.random.default_rng(12).normal(0.95, 0.01, (3, 5))})
    got = verdict_on(rows, ("relu", "new", "other", "never"))
    for c in (got.comparisons[0], got.comparisons[2]):
        assert (c.n, c.word, c.p, c.p_adjusted, c.differences) == (0, "CANNOT TELL", 1.0, 1.0, ())
        assert math.isnan(c.difference)
        assert (c.low, c.high, c.identical) == (-math.inf, math.inf, False)
        assert "no pair of trials to compare: CANNOT TELL" in got.sentence(c)
    assert got.comparisons[1].word == "BETTER"
    # The family is declared by the study, not by what happened to finish.
    assert got.comparisons[1].p_adjusted == pytest.approx(3 * got.comparisons[1].p)
    assert math.isnan(got.estimates["accuracy"][1].mean)
    assert got.estimates["accuracy"][3].missing == 15
    assert any("Fewer than 2 pairs for new, never against ReLU" in text for text in got.warnings)


def test_a_baseline_alone() -> None:
    got = verdict_on(rows_of({"relu": np.full((3, 5), 0.5)}), ("relu",))
    assert got.comparisons == ()
    assert got.estimates["accuracy"][0].n == 15
    rows = [row | {"outcome": "failed", "test_accuracy": None} for row in rows_of({"relu": [[1.0]], "new": [[1.0]]})]
    assert verdict_on(rows).comparisons[0].n == 0


def test_pairs_share_their_seed() -> None:
    rows = rows_of({"relu": np.full((1, 3), 0.5), "new": [[0.6, 0.7, 0.8]]})
    for row in rows:
        if row["activation"] == "new" and row["fold"] == 2:
            row["seed"] = 77
    got = verdict_on(rows)
    assert got.comparisons[0].n == 2
    assert any("lack one of their two trials" in text for text in got.warnings)


def test_order_of_rows_and_other_activations_do_not_matter() -> None:
    rows = spoiled(None, []) + rows_of({"stranger": np.full((9, 9), 0.1)})
    shuffled = [rows[i] for i in np.random.default_rng(13).permutation(len(rows))]
    assert verdict_on(shuffled) == verdict_on(spoiled(None, []))


# --- how many repeats more --------------------------------------------------------------------------------------------


def settled(mean: float, sd: float, n: int, ratio: float, margin: float, m: int = 1) -> bool:
    error = sd * math.sqrt(1 / n + ratio)
    different = 2 * stats.t.sf(abs(mean) / error, n - 1)
    equivalent = stats.t.sf((margin - abs(mean)) / error, n - 1)
    return bool(m * min(different, equivalent) < 0.05)


@pytest.mark.parametrize(
    ("mean", "sd", "margin"),
    [(0.012, 0.01, 0.0), (0.011, 0.01, 0.005), (0.0, 0.01, 0.0095), (0.002, 0.01, 0.0115), (-0.0105, 0.01, 0.0)],
)
def test_more_repeats_is_the_first_number_that_settles(mean: float, sd: float, margin: float) -> None:
    d = standardised(10, mean, sd).reshape(2, 5)
    got = paired(d, margin=margin)
    assert got.word == "CANNOT TELL"
    first = next(r for r in range(1, MOST_REPEATS + 1) if settled(mean, sd, 10 + 5 * r, 0.25, margin))
    assert got.more_repeats == first > 1
    # And a study of that size with that mean and spread does come out settled, one repeat less does not.
    for more, open_still in ((first, False), (first - 1, True)):
        again = paired(standardised(10 + 5 * more, mean, sd).reshape(2 + more, 5), margin=margin)
        assert (again.word == "CANNOT TELL") == open_still


def test_no_number_of_repeats_gets_below_the_overlap() -> None:
    """sd 1 point, n_test / n_train 1/4: even for ever, a difference below 0.98 points stays open."""
    assert paired(standardised(15, 0.0095, 0.01).reshape(3, 5), margin=0.0).more_repeats is None
    near = paired(standardised(15, 0.0099, 0.01).reshape(3, 5), margin=0.0).more_repeats
    assert near is not None
    assert near > 50
    # Would come, but only after more repeats than anyone runs.
    assert paired(standardised(10, 0.00980, 0.01).reshape(2, 5), margin=0.0).more_repeats is None
    # The same difference inside a wide margin can be settled the other way.
    assert paired(standardised(15, 0.0009, 0.01).reshape(3, 5), margin=0.0101).more_repeats is not None


def test_more_repeats_counts_whole_repeats_and_the_family() -> None:
    means = {"a": 0.0135, "b": 0.014, "c": 0.0}
    noise = {name: standardised(10, mean, 0.01, seed) for seed, (name, mean) in enumerate(means.items())}
    rows = rows_of({"relu": np.full((2, 5), 0.5)} | {k: 0.5 + d.reshape(2, 5) for k, d in noise.items()})
    got = verdict_on(rows, ("relu", "a", "b", "c"), margin=0.0)
    assert [c.word for c in got.comparisons] == ["CANNOT TELL"] * 3

    def p(mean: float, n: int) -> float:
        return float(2 * stats.t.sf(abs(mean) / (0.01 * math.sqrt(1 / n + 0.25)), n - 1))

    for c, name in zip(got.comparisons[:2], ("a", "b"), strict=True):
        first = next(
            r
            for r in range(1, MOST_REPEATS)
            if holm([p(mean, 10 + 5 * r) for mean in means.values()])[list(means).index(name)] < 0.05
        )
        assert c.more_repeats == first
    assert got.comparisons[2].more_repeats is None


# --- sentences --------------------------------------------------------------------------------------------------------


def test_sentences() -> None:
    names = ("relu", "srelu[alpha=1,beta=0.25]")
    base = np.full((3, 5), 0.9)

    def sentence(d: np.ndarray, metric: str = "accuracy", margin: float = 0.005) -> str:
        rows = rows_of({names[0]: base, names[1]: base + d.reshape(3, 5)}, metric=metric)
        got = verdict_on(rows, names, metric=metric, margin=margin)
        return got.sentence(got.comparisons[0])

    head = "SReLU(1, 0.25) vs ReLU on test accuracy:"
    assert sentence(standardised(15, 0.0012, 0.01)) == (
        f"{head} +0.12 points (95 % interval -1.09 to +1.33, n = 15): CANNOT TELL; "
        "more repeats alone would not settle it at this difference and spread."
    )
    assert sentence(standardised(15, 0.0116, 0.01)) == (
        f"{head} +1.16 points (95 % interval -0.05 to +2.37, n = 15): CANNOT TELL; "
        "about 1 more repeat would settle it at this difference and spread."
    )
    assert sentence(standardised(15, 0.0105, 0.01)).endswith(
        "CANNOT TELL; about 7 more repeats would settle it at this difference and spread."
    )
    assert sentence(standardised(15, 0.05, 0.01)) == (f"{head} +5.00 points (95 % interval +3.79 to +6.21, n = 15): BETTER.")
    assert sentence(standardised(15, -0.02, 0.01), margin=0.04) == (
        f"{head} -2.00 points (95 % interval -3.21 to -0.79, n = 15): WORSE; yet the difference is smaller than 4.00 points."
    )
    assert sentence(standardised(15, 0.0, 0.01), margin=0.02).endswith(
        "EQUIVALENT; the difference is smaller than 2.00 points."
    )
    assert sentence(np.zeros(15)).endswith("n = 15): EQUIVALENT; no pair differs at all.")
    assert sentence(standardised(15, -0.05, 0.01), "loss") == (
        "SReLU(1, 0.25) vs ReLU on test loss: -0.0500 nats (95 % interval -0.0621 to -0.0379, n = 15): BETTER."
    )
    assert "on test weighted F1:" in sentence(standardised(15, -0.05, 0.01), "f1_weighted")


def test_sentence_names_holm_when_the_interval_leaves_out_zero() -> None:
    values = {name: 0.5 + standardised(15, 0.013, 0.01, seed).reshape(3, 5) for seed, name in enumerate("abcd")}
    got = verdict_on(rows_of({"relu": np.full((3, 5), 0.5)} | values), ("relu", *"abcd"), split="test")
    c = got.comparisons[0]
    assert c.low > 0
    assert "CANNOT TELL; the interval leaves out 0, but not with Holm's correction for 4 comparisons; about" in (
        got.sentence(c)
    )


def test_other_splits_and_levels() -> None:
    rows = rows_of({"relu": np.full((3, 5), 0.5), "new": 0.55 + standardised(15, 0, 0.02).reshape(3, 5)})
    for row in rows:
        row["validation_accuracy"] = row.pop("test_accuracy")
    got = verdict_on(rows, split="validation", alpha=0.1)
    assert "on validation accuracy: +5.00 points (90 % interval" in got.sentence(got.comparisons[0])
    assert got.split == "validation"
    half = stats.t.ppf(0.95, 14) * 0.02 * math.sqrt(1 / 15 + 0.25)
    assert got.comparisons[0].high == pytest.approx(0.05 + half)


# --- error rates ------------------------------------------------------------------------------------------------------
# Real resampling of real (synthetic) data, real learners: nearest centroids, each on features of its own. All features
# are equally good, so by symmetry no learner is better in expectation, and every BETTER or WORSE is a false one.

N, FEATURES, SIGNAL = 200, 10, 0.15


def partitions(rng: np.random.Generator, folds: int, repeats: int) -> np.ndarray:
    """Which examples are tested: bool, shape (repeats * folds, N)."""
    return np.concatenate([(rng.permutation(N) % folds)[None, :] == np.arange(folds)[:, None] for _ in range(repeats)])


def learners(rng: np.random.Generator, count: int, signal: float = SIGNAL) -> tuple[np.ndarray, np.ndarray]:
    """Features of each learner, shape (count, N, FEATURES), and labels -1 or 1, shape (N,)."""
    y = np.where(np.arange(N) % 2 == 0, 1, -1)
    return rng.normal(size=(count, N, FEATURES)) + signal * y[:, None], y


def accuracy(X: np.ndarray, y: np.ndarray, weights: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Of the nearest-centroid classifier, for every row of training weights and test mask (both (splits, N))."""
    positive, negative = weights * (y > 0), weights * (y < 0)
    above = positive @ X / positive.sum(axis=1, keepdims=True)
    below = negative @ X / negative.sum(axis=1, keepdims=True)
    direction = above - below
    threshold = ((above + below) / 2 * direction).sum(axis=1)
    right = np.where(direction @ X.T > threshold[:, None], 1, -1) == y
    return np.asarray((right & test).sum(axis=1) / test.sum(axis=1))


def simulate(count: int, folds: int, repeats: int, studies: int, seed: int, signal: float = SIGNAL) -> np.ndarray:
    """Test accuracies, shape (studies, count, repeats, folds)."""
    rng = np.random.default_rng(seed)
    out = np.empty((studies, count, repeats * folds))
    for study in out:
        X, y = learners(rng, count, signal)
        test = partitions(rng, folds, repeats)
        for learner in range(count):
            study[learner] = accuracy(X[learner], y, ~test, test)
    return out.reshape(studies, count, repeats, folds)


def verdicts(values: np.ndarray, **settings: Any) -> list[Verdict]:
    folds = values.shape[3]
    names = ["relu", *(f"act{i}" for i in range(1, values.shape[1]))]
    size = {"n_train": N - N // folds, "n_test": N // folds}
    return [verdict_on(rows_of(dict(zip(names, study, strict=True)), **size), names, **settings) for study in values]


def naive(new: np.ndarray, base: np.ndarray) -> np.ndarray:
    """p of the plain paired t-test along the last axis, which takes every pair for independent; nan if all are equal."""
    d = new - base
    n = d.shape[-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        t = d.mean(axis=-1) / (d.std(axis=-1, ddof=1) / math.sqrt(n))
    return np.asarray(2 * stats.t.sf(np.abs(t), n - 1))


def share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)


@pytest.mark.parametrize(
    ("folds", "repeats", "signal", "naive_at_least"),
    [(5, 3, SIGNAL, 0.2), (5, 3, 0.6, 0.2), (10, 10, SIGNAL, 0.4), (5, 1, SIGNAL, 0.05)],
)
def test_null_rate(folds: int, repeats: int, signal: float, naive_at_least: float) -> None:
    """Equally good learners come out BETTER or WORSE in at most 7 % of studies; a plain paired t-test far more often.

    At signal 0.6 they are right in 97 % of cases, so that most differences are 0 or 1 example, as on WDBC.
    """
    studies = 1000 if folds * repeats < 50 else 400
    values = simulate(2, folds, repeats, studies, folds * repeats, signal)
    judged = [v.comparisons[0] for v in verdicts(values)]
    false = share([c.word in ("BETTER", "WORSE") for c in judged])
    flat = values.reshape(studies, 2, -1)
    plain = float((naive(flat[:, 1], flat[:, 0]) < 0.05).mean())
    print(f"{repeats} x {folds} folds, accuracy {values.mean():.2f}: corrected {false:.3f}, naive {plain:.3f}")
    assert false <= 0.07
    assert plain > max(false, naive_at_least)
    # Both directions, or the rate would be that of a broken sign.
    if repeats > 1:
        assert {"BETTER", "WORSE"} <= {c.word for c in judged}


def test_null_rate_of_a_family() -> None:
    """The chance of any false word among six comparisons that share a baseline; without Holm it would be too high."""
    values = simulate(7, 5, 3, 400, seed=21)
    families = [v.comparisons for v in verdicts(values)]
    false = share([any(c.word in ("BETTER", "WORSE") for c in family) for family in families])
    unadjusted = share([any(c.p < 0.05 for c in family) for family in families])
    print(f"any of 6 different: Holm {false:.3f}, each at 5 % {unadjusted:.3f}")
    assert false <= 0.07 < unadjusted


def test_error_rate_of_equivalent() -> None:
    """Six learners exactly one margin from the baseline: any EQUIVALENT is false; without Holm there are too many."""
    margin = 0.5
    values = simulate(7, 5, 3, 400, seed=22)
    values[:, 1:4] += margin
    values[:, 4:] -= margin
    families = [v.comparisons for v in verdicts(values, margin=margin)]

    def unadjusted(c: Comparison) -> float:
        error = (c.high - c.difference) / stats.t.ppf(0.975, c.n - 1)
        return float(stats.t.sf((margin - abs(c.difference)) / error, c.n - 1))

    # Words are BETTER and WORSE here, since half the scale is no small margin; it is the test for equivalence that counts.
    false = share([any(c.p_equivalent < 0.05 for c in family) for family in families])
    plain = share([any(unadjusted(c) < 0.05 for c in family) for family in families])
    print(f"any of 6 equivalent: Holm {false:.3f}, each at 5 % {plain:.3f}")
    assert false <= 0.07 < plain


def test_null_rate_of_seeds_on_one_partition() -> None:
    """Seeds are no evidence about other data: eight of them counted as pairs would be wrong far more than 7 %."""
    rng = np.random.default_rng(23)
    studies, folds, seeds = 400, 5, 8
    false, wrong = [], []
    size = {"n_train": N - N // folds, "n_test": N // folds}
    for _ in range(studies):
        X, y = learners(rng, 2)
        test = np.repeat(partitions(rng, folds, 1), seeds, axis=0)
        values = []
        for learner in range(2):
            bootstrap = rng.poisson(1.0, size=test.shape) * ~test
            values.append(accuracy(X[learner], y, bootstrap, test).reshape(1, folds, seeds))
        c = verdict_on(rows_of({"relu": values[0], "new": values[1]}, **size)).comparisons[0]
        false.append(c.word in ("BETTER", "WORSE"))
        wrong.append(bool(naive(values[1].ravel(), values[0].ravel()) < 0.05))
    print(f"1 x {folds} folds, {seeds} seeds: averaged {share(false):.3f}, as pairs {share(wrong):.3f}")
    assert share(false) <= 0.07 < 0.2 < share(wrong)


def test_power() -> None:
    """A learner on clearer features, some 20 points better, is found nearly always, and never with the wrong word."""
    rng = np.random.default_rng(25)
    words = []
    for _ in range(100):
        X, y = learners(rng, 2)
        X[1] += 1.5 * SIGNAL * y[:, None]
        test = partitions(rng, 5, 3)
        values = {name: accuracy(X[i], y, ~test, test).reshape(3, 5) for i, name in enumerate(("relu", "new"))}
        words.append(verdict_on(rows_of(values, n_train=160, n_test=40)).comparisons[0].word)
    found = share([word == "BETTER" for word in words])
    print(f"power at 20 points: {found:.2f}")
    assert found > 0.9
    assert "WORSE" not in words


# --- input that cannot be judged ---------------------------------------------------------------------------------------


def change(**cells: Any) -> Callable[[list[Row]], list[Row]]:
    return lambda rows: [rows[0] | cells, *rows[1:]]


def without(column: str) -> Callable[[list[Row]], list[Row]]:
    return lambda rows: [{k: v for k, v in rows[0].items() if k != column}, *rows[1:]]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda rows: [], "no rows to judge"),
        (lambda rows: rows + rows[:1], "occurs twice.*two studies"),
        (lambda rows: [row | {"activation": "elu"} for row in rows], "None of the 12 rows belongs to relu, new"),
        (without("activation"), "no column 'activation'"),
        (without("outcome"), "no column 'outcome'"),
        (without("seed"), "no column 'seed'"),
        (without("n_train"), "no column 'n_train'"),
        (without("test_accuracy"), "no column 'test_accuracy'.*'done'"),
        (change(repeat="0"), "has '0' as its repeat"),
        (change(fold=0.5), "has 0.5 as its fold"),
        (change(seed=True), "has True as its seed"),
        (change(test_accuracy="0.9"), "has '0.9' as its test_accuracy"),
        (change(test_accuracy=True), "has True as its test_accuracy"),
        (change(n_train=None), "n_train = nan; expected a count"),
        (change(n_test=0), "n_test = 0; expected a count"),
        (change(n_train=399), "has n_train = 400, its partner 'relu' has 399"),
        (change(n_test=99), "its partner 'relu' has 99; expected the same"),
        (change(partition="p"), "1 of 12 rows say which partition"),
    ],
)
def test_bad_rows_are_explained(spoil: Callable[[list[Row]], list[Row]], says: str) -> None:
    rows = spoil(rows_of({"relu": np.full((2, 3), 0.5), "new": np.full((2, 3), 0.6)}))
    with pytest.raises(VerdictError, match=says) as caught:
        verdict_on(rows)
    assert isinstance(caught.value, PliantError)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"margin": -0.1}, VerdictError, "margin of equivalence is -0.1"),
        ({"margin": 1.0}, VerdictError, "from 0 to below 1"),
        ({"margin": math.nan}, VerdictError, "margin of equivalence is nan"),
        ({"margin": math.inf, "metric": "loss"}, VerdictError, "in units of loss"),
        ({"alpha": 0.0}, VerdictError, "alpha is 0;"),
        ({"alpha": 0.5}, VerdictError, "between 0 and 0.5"),
        ({"activations": ("relu", "new", "relu")}, VerdictError, "named twice: relu"),
        ({"baseline": "rely"}, UnknownNameError, "Did you mean 'relu'"),
        ({"metric": "acuracy"}, UnknownNameError, "Did you mean 'accuracy'"),
        ({"metrics": ("f2",)}, UnknownNameError, "no metric named 'f2'"),
        ({"split": "tests"}, UnknownNameError, "Did you mean 'test'"),
    ],
)
def test_bad_settings_are_explained(settings: Row, error: type[Exception], says: str) -> None:
    rows = rows_of({"relu": np.full((2, 3), 0.5), "new": np.full((2, 3), 0.6)})
    with pytest.raises(error, match=says):
        verdict_on(rows, **settings)


def test_unknown_outcome() -> None:
    rows = rows_of({"relu": [[0.5, 0.5]], "new": [[0.5, 0.6]]})
    with pytest.raises(UnknownNameError, match="Did you mean 'done'"):
        verdict_on(change(outcome="dome")(rows))


@pytest.mark.parametrize("numbers", [(0, 3, 400, 100, 0.1), (5, 0, 400, 100, 0.1), (5, 3, 0, 100, 0.1)])
def test_impossible_plans_are_explained(numbers: tuple[int, int, int, int, float]) -> None:
    with pytest.raises(VerdictError, match="counts of at least 1"):
        expected_precision(*numbers)
    for sd in (-0.1, math.nan, math.inf):
        with pytest.raises(VerdictError, match="standard deviation"):
            expected_precision(5, 3, 400, 100, sd)
    with pytest.raises(VerdictError, match="alpha"):
        expected_precision(5, 3, 400, 100, 0.1, alpha=1.0)


def test_a_margin_in_points_is_warned_about() -> None:
    rows = rows_of({"relu": [[0.5, 0.6]], "new": [[0.5, 0.7]]})
    assert any("The margin of equivalence is 50 points" in text for text in verdict_on(rows, margin=0.5).warnings)


# --- the module itself ------------------------------------------------------------------------------------------------


def test_public_names() -> None:
    assert set(verdict.__all__) >= {"Comparison", "Estimate", "Verdict", "VerdictError", "expected_precision", "holm", "judge"}
    assert all(getattr(verdict, name).__module__.startswith("pliant.lab.verdict") for name in ("judge", "holm", "Verdict"))
    got = verdict_on(rows_of({"relu": [[0.5, 0.6]], "new": [[0.5, 0.7]]}))
    for thing in (got, got.comparisons[0], got.estimates["accuracy"][0]):
        name = dataclasses.fields(thing)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(thing, name, None)
    for c in got.comparisons:
        for field in ("n", "difference", "low", "high", "p", "p_adjusted", "p_equivalent"):
            assert type(getattr(c, field)) in (int, float), field


def test_rows_may_hold_numpy_numbers() -> None:
    rows = rows_of({"relu": [[0.5, 0.6]], "new": [[0.5, 0.7]]})
    dressed = [
        {k: np.int64(v) if type(v) is int else np.float64(v) if type(v) is float else v for k, v in row.items()} for row in rows
    ]
    assert verdict_on(dressed) == verdict_on(rows)


ALONE = """
import importlib, sys, types
from pathlib import Path

root, module = Path(sys.argv[1]), sys.argv[2]
tried = []

class Ban:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "polars", "pandas", "sklearn", "pydantic", "safetensors"}:
            tried.append(name)
            raise ImportError(f"{name} is out of bounds")

sys.meta_path.insert(0, Ban())
# The packages' own __init__ may import what they like (`import pliant` is torch); only this module is on trial here,
# with everything it imports, and with what it imports when it is used.
for name, folder in (("pliant", root), ("pliant.lab", root / "lab")):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [str(folder)]
loaded = importlib.import_module(module)
if module.endswith("verdict"):
    rows = [
        {"activation": a, "repeat": 0, "fold": f, "seed": 0, "outcome": "done", "n_train": 4, "n_test": 1, "test_loss": f * i}
        for i, a in enumerate("ab") for f in range(3)
    ]
    v = loaded.judge(rows, activations="ab", labels={}, baseline="a", metric="loss", metrics=(), margin=0.1)
    print(v.sentence(v.comparisons[0]))
assert not tried, tried
assert "torch" not in sys.modules
print("alone")
"""


@pytest.mark.parametrize(("module", "alone"), [("pliant.lab.verdict", True), ("pliant.lab.score", False)])
def test_stands_on_numpy_and_scipy_alone(module: str, alone: bool) -> None:
    """In a fresh process; `score`, which does import scikit-learn, shows that the check can fail."""
    root = str(Path(pliant.errors.__file__).parent)
    done = subprocess.run([sys.executable, "-c", ALONE, root, module], capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == alone, done.stderr
    assert ("alone" in done.stdout) == alone
    if not alone:
        assert "sklearn is out of bounds" in done.stderr
