"""One fixed split: seeds crossed with test examples, and what is resampled from predictions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pliant.errors import UnknownNameError
from pliant.lab.metrics import METRICS
from pliant.lab.score import score
from pliant.lab.verdict import (
    Comparison,
    Predictions,
    Sampled,
    Verdict,
    VerdictError,
    bootstrap,
    expected_precision_crossed,
    identity,
    judge,
    resample,
)
from pliant.lab.verdict.crossed import Crossed, from_contributions

Row = dict[str, Any]
TASKS = ("binary", "multiclass", "multilabel")


def predictions(task: str, n: int = 60, seed: int = 0, groups: Any = None) -> Predictions:
    rng = np.random.default_rng(seed)
    # Scores in steps, so that there are ties.
    if task == "binary":
        y = rng.integers(0, 2, n)
        p = np.clip(np.round(0.25 + 0.4 * y + rng.normal(0, 0.2, n), 1), 0, 1)
    elif task == "multiclass":
        y = rng.integers(0, 3, n)
        p = rng.dirichlet(np.ones(3), n) + 0.5 * np.eye(3)[y]
        p = np.round(p / p.sum(axis=1, keepdims=True), 2)
        p[:, 0] += 1 - p.sum(axis=1)
    else:
        y = rng.choice([0, 1, 255], (n, 3), p=[0.6, 0.3, 0.1])
        p = np.clip(np.round(0.3 + 0.3 * (y == 1) + rng.normal(0, 0.2, (n, 3)), 1), 0, 1)
    return Predictions(np.arange(n), y, p, task, groups)  # type: ignore[arg-type]


# --- the metrics of resamples ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("metric", METRICS)
def test_weights_count_examples(metric: str, task: str) -> None:
    """The definitions of `score`: with weights of one, and with whole weights as examples that occur so often."""
    p = predictions(task)
    w = np.random.default_rng(1).integers(0, 4, (3, 60))
    got = p.weighted(metric, np.vstack([np.ones((1, 60)), w]))
    want = [score(p.target, p.score, p.task)[metric]]
    want += [score(np.repeat(p.target, k, axis=0), np.repeat(p.score, k, axis=0), p.task)[metric] for k in w]
    np.testing.assert_allclose(got, want, rtol=1e-10)


def test_an_area_without_a_class_is_undefined() -> None:
    p = predictions("binary")
    assert np.isnan(p.weighted("auc", (p.target == 1)[None, :])).all()
    assert np.isnan(p.weighted("average_precision", (p.target == 0)[None, :])).all()


@pytest.mark.parametrize("task", TASKS)
def test_the_variance_is_that_of_a_plain_bootstrap(task: str) -> None:
    p = predictions(task)
    rng = np.random.default_rng(5)
    draws = (rng.integers(0, 60, 60) for _ in range(300))
    plain = [score(p.target[drawn], p.score[drawn], p.task) for drawn in draws]
    for metric in ("accuracy", "f1", "auc"):
        got = float((p.sampled(metric).vector ** 2).sum())
        assert got == pytest.approx(float(np.nanvar([scores[metric] for scores in plain])), rel=0.3)


def test_a_mean_needs_no_resampling() -> None:
    p = predictions("binary")
    right = (p.score > 0.5) == p.target
    got = p.sampled("accuracy")
    assert got.units == 60
    assert float((got.vector**2).sum()) == pytest.approx(right.var(ddof=1) / 60)
    resampled = bootstrap(lambda drawn: float(right[drawn].mean()), 60, key=got.key)
    assert float((resampled.vector**2).sum()) == pytest.approx(right.var(ddof=1) / 60, rel=0.15)


def test_covariance_of_two_trials() -> None:
    a, b = (predictions("binary", 400, seed=0) for _ in range(2))
    b = Predictions(b.index, b.target, np.clip(b.score + np.random.default_rng(3).normal(0, 0.2, 400), 0, 1), "binary")
    x, y = ((p.score > 0.5) == p.target for p in (a, b))
    want = np.cov(x, y)[0, 1] / 400
    assert float(a.sampled("accuracy").vector @ b.sampled("accuracy").vector) == pytest.approx(want)
    # Through the bootstrap: weighted recall is accuracy by another name.
    again = float(a.sampled("f1").vector @ b.sampled("f1").vector)
    assert 0.3 * want < again < 5 * want


def test_examples_of_a_group_are_drawn_together() -> None:
    """Each example in four copies holds no more than one of them."""
    once = predictions("multiclass", 50)
    groups = np.repeat(np.arange(50), 4)
    four = Predictions(np.arange(200), np.repeat(once.target, 4), np.repeat(once.score, 4, axis=0), "multiclass", groups)
    for metric in ("accuracy", "f1", "loss"):
        single, copied = once.sampled(metric), four.sampled(metric)
        assert copied.units == 50
        np.testing.assert_allclose((copied.vector**2).sum(), (single.vector**2).sum(), rtol=1e-9)
    alone = Predictions(four.index, four.target, four.score, "multiclass").sampled("accuracy")
    assert float((alone.vector**2).sum()) == pytest.approx(float((once.sampled("accuracy").vector ** 2).sum()) / 4, rel=0.05)


def test_keys_name_the_examples() -> None:
    a = predictions("binary")
    assert a.key == Predictions(a.index, a.target, a.score / 2, "binary").key
    assert a.key != Predictions(a.index + 1, a.target, a.score, "binary").key
    assert a.key != Predictions(a.index, 1 - a.target, a.score, "binary").key
    assert a.key != Predictions(a.index, a.target, a.score, "binary", a.index // 2).key
    assert identity([1, 2]) != identity([1], [2])


def test_impossible_samples_are_explained() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'accuracy'"):
        predictions("binary").sampled("acuracy")
    with pytest.raises(VerdictError, match="at least 2"):
        bootstrap(lambda drawn: 0.0, 1, key="")
    one = predictions("binary", 4, groups=np.zeros(4))
    for metric in ("accuracy", "f1"):
        with pytest.raises(VerdictError, match="at least 2"):
            one.sampled(metric)


def test_undefined_replicates_say_nothing() -> None:
    got = bootstrap(lambda drawn: float(drawn[0]) if drawn[0] % 2 else math.nan, 10, key="")
    assert np.isfinite(got.vector).all()
    assert abs(got.vector.sum()) < 1e-9


# --- the error of a mean over seeds and examples ------------------------------------------------------------------------


def test_tails_of_known_cases() -> None:
    x = np.array([-1.0, 0.0, 0.3, 2.0, 40.0])
    for n in (2, 3, 10, 200):
        # Seeds alone, examples alone: a t of n - 1, a t of units - 1.
        np.testing.assert_allclose(Crossed(n, 0, 1.0, 0.0, 10**6).tail(x, n), stats.t.sf(x * math.sqrt(n), n - 1), atol=1e-6)
        np.testing.assert_allclose(Crossed(n, 0, 1e-12, 1.0, 12).tail(x, n), stats.t.sf(x, 11), atol=1e-6)
        np.testing.assert_allclose(Crossed(n, 0, 1e-12, 1.0, 10**6).tail(x, n), stats.norm.sf(x), atol=1e-6)
    np.testing.assert_allclose(Crossed(5, 0, 9.0, 1.0, 12).tail(x, math.inf), stats.t.sf(x, 11))


@pytest.mark.parametrize(("n", "units"), [(2, 10**4), (3, 10), (5, 10**4)])
def test_tail_is_that_of_a_sum_of_two_ts(n: int, units: int) -> None:
    rng = np.random.default_rng(2)
    draws = 2 / math.sqrt(n) * rng.standard_t(n - 1, 400_000) + 1.5 * rng.standard_t(units - 1, 400_000)
    sample = Crossed(n, 0.0, 2.0, 1.5**2, units)
    for x in (0.5, 3.0, 8.0):
        want = float((draws > x).mean())
        assert float(sample.tail(x, n)) == pytest.approx(want, abs=4 * math.sqrt(want / 400_000))
    half = sample.half_width(0.05)
    assert 2 * float(sample.tail(half, n)) == pytest.approx(0.05, abs=1e-6)


def test_components_by_analysis_of_variance() -> None:
    """Independent route: mean squares of the two-way table of differences."""
    rng = np.random.default_rng(7)
    k, n = 4, 300
    d = rng.normal(size=(k, 1)) * 0.2 + rng.normal(size=(1, n)) * 0.5 + rng.normal(size=(k, n))
    rest = d - d.mean(axis=0) - d.mean(axis=1, keepdims=True) + d.mean()
    ms_examples = k * d.mean(axis=0).var(ddof=1)
    ms_rest = (rest**2).sum() / ((k - 1) * (n - 1))
    vectors = np.array([from_contributions(row, "").vector for row in d])
    got = Crossed.of(d.mean(axis=1).tolist(), vectors, n, 0.0)
    assert got.examples == pytest.approx((ms_examples - ms_rest) / (k * n))
    assert got.sd == pytest.approx(d.mean(axis=1).std(ddof=1))
    assert got.mean == pytest.approx(d.mean())


# --- the verdict on a fixed split --------------------------------------------------------------------------------------


def study(tables: Mapping[str, np.ndarray], **more: Any) -> tuple[list[Row], dict[tuple[str, int], np.ndarray]]:
    """Rows of bool tables (seeds, examples): who got what right; and the tables by activation and seed."""
    rows, right = [], {}
    for activation, table in tables.items():
        for k, line in enumerate(table):
            row = {"activation": activation, "repeat": k, "fold": 0, "seed": 0, "partition": "official", "outcome": "done"}
            rows.append(row | {"n_train": 5000, "n_test": line.size, "test_accuracy": float(line.mean())} | more)
            right[activation, k] = line
    return rows, right


def verdict_of(tables: Mapping[str, np.ndarray], margin: float = 0.005, rows: list[Row] | None = None, **more: Any) -> Verdict:
    made, right = study(tables)

    def examples(row: Mapping[str, Any], metric: str) -> Sampled | None:
        return from_contributions(right[row["activation"], row["repeat"]].astype(float), "test")

    settings = {"examples": examples} | more
    return judge(
        made if rows is None else rows,
        activations=tuple(tables),
        labels={},
        baseline=next(iter(tables)),
        metrics=(),
        margin=margin,
        **settings,
    )


def table(rng: np.random.Generator, seeds: int, n: int, rate: float = 0.8) -> np.ndarray:
    return np.asarray(rng.random((seeds, n)) < rate)


def test_the_design_says_groups_where_examples_belong_together() -> None:
    tables = {"relu": table(np.random.default_rng(0), 3, 200), "other": table(np.random.default_rng(1), 3, 200)}
    _, right = study(tables)
    patients = np.repeat(np.arange(20), 10)

    def examples(row: Mapping[str, Any], metric: str) -> Sampled | None:
        return from_contributions(right[row["activation"], row["repeat"]].astype(float), "test", patients)

    design = verdict_of(tables, examples=examples).design
    assert design.startswith(
        "1 fixed split, 3 seeds crossed with 20 groups of test examples; differences to relu paired within"
    )
    assert "paired within seed and group;" in design


def test_a_fixed_split_is_judged_by_its_seeds_and_examples() -> None:
    rng = np.random.default_rng(0)
    got = verdict_of({"relu": table(rng, 5, 2000, 0.8), "good": table(rng, 5, 2000, 0.9), "same": table(rng, 5, 2000, 0.8)})
    good, same = got.comparisons
    assert (good.word, good.n) == ("BETTER", 5)
    assert same.word == "CANNOT TELL"
    assert [(r, f) for r, f, _ in good.differences] == [(k, 0) for k in range(5)]
    assert got.units == 2000
    assert got.design.startswith(
        "1 fixed split, 5 seeds crossed with 2000 test examples; differences to relu paired within seed"
    )
    assert good.low < good.difference < good.high
    assert good.posterior is not None
    assert good.posterior.better > 0.99
    assert sum(vars(good.posterior).values()) == pytest.approx(1)
    assert got.warnings == ()
    estimate = got.estimates["accuracy"][1]
    assert estimate.n == 5
    assert estimate.low < 0.9 < estimate.high


def test_more_seeds_until_the_examples_are_the_limit() -> None:
    """A difference that every seed shows in the same few examples is one draw of these examples, however many seeds."""
    rng = np.random.default_rng(1)
    base = np.repeat(table(rng, 1, 1000), 5, axis=0)
    new = base.copy()
    new[:, :9] = True
    new[:, 9:15] = False
    base[:, :9] = False
    base[:, 9:15] = True
    for k in range(5):
        new[k, 100 + k] ^= True
    got = verdict_of({"relu": base, "new": new}, margin=0.0)
    c = got.comparisons[0]
    assert c.word == "CANNOT TELL"
    assert c.sd_examples == pytest.approx(math.sqrt(15 / 1000**2), rel=0.15)
    assert c.limited
    assert c.more_repeats is None
    assert got.sentence(c).endswith(
        "CANNOT TELL; more seeds alone would not settle it at this difference and spread: the 1000 test examples are the limit."
    )

    noisy = verdict_of({"relu": table(rng, 2, 4000, 0.80), "new": table(rng, 2, 4000, 0.83)})
    n = noisy.comparisons[0]
    assert (n.word, n.limited) == ("CANNOT TELL", False)
    assert n.more_repeats is not None
    assert f"about {n.more_repeats} more seed" in noisy.sentence(n)
    # The first number that settles it.
    examples = n.sd_examples**2
    after = [
        Crossed(2 + m, n.difference, n.sd, examples, 4000).p_values(2 + m, 0.005) for m in (n.more_repeats, n.more_repeats - 1)
    ]
    assert min(after[0]) < 0.05 <= min(after[1])


def test_one_seed_is_no_verdict() -> None:
    rng = np.random.default_rng(2)
    got = verdict_of({"relu": table(rng, 1, 500, 0.5), "new": table(rng, 1, 500, 0.9)})
    c = got.comparisons[0]
    assert (c.word, c.n, c.low) == ("CANNOT TELL", 1, -math.inf)
    assert "at least 2 seeds" in got.sentence(c)
    assert any("It takes 2 seeds on this split" in text for text in got.warnings)
    assert "1 seed crossed with" in got.design


def test_predictions_that_are_not_there_or_of_other_examples() -> None:
    rng = np.random.default_rng(3)
    tables = {"relu": table(rng, 3, 500, 0.5), "new": table(rng, 3, 500, 0.9)}
    rows, right = study(tables)

    def gone(row: Mapping[str, Any], metric: str) -> Sampled | None:
        here = from_contributions(right[row["activation"], row["repeat"]].astype(float), "test")
        return None if (row["activation"], row["repeat"]) == ("new", 1) else here

    def other(row: Mapping[str, Any], metric: str) -> Sampled | None:
        return from_contributions(right[row["activation"], row["repeat"]].astype(float), f"seed {row['repeat']}")

    for examples in (gone, other, lambda row, metric: None):
        got = verdict_of(tables, rows=rows, examples=examples)
        c = got.comparisons[0]
        assert (c.word, c.n, c.high, c.more_repeats) == ("CANNOT TELL", 3, math.inf, None)
        assert any("No predictions that belong together for the test accuracy of new" in text for text in got.warnings)
    without = verdict_of(tables, rows=rows, examples=None)
    assert (without.comparisons[0].word, without.comparisons[0].n) == ("CANNOT TELL", 1)


def test_identical_networks_and_ties() -> None:
    rng = np.random.default_rng(4)
    base = table(rng, 3, 400)
    same = verdict_of({"relu": base, "new": base}).comparisons[0]
    assert (same.word, same.identical, same.p) == ("EQUIVALENT", True, 1.0)
    # Equally many right, of other examples: no identity, and with so few examples no equivalence.
    turned = np.concatenate([base[:, 1:], base[:, :1]], axis=1)
    tie = verdict_of({"relu": base, "new": turned}).comparisons[0]
    assert tie.word == "CANNOT TELL"
    assert tie.high > 0.005
    wide = verdict_of({"relu": base, "new": turned}, margin=0.2).comparisons[0]
    assert wide.word == "EQUIVALENT"


def test_divergence_on_a_fixed_split() -> None:
    rng = np.random.default_rng(5)
    tables = {"relu": table(rng, 4, 500, 0.9), "new": table(rng, 4, 500, 0.9)}
    tables["new"][1] = rng.random(500) < 0.1
    rows, _ = study(tables)
    for row in rows:
        if (row["activation"], row["repeat"]) == ("new", 1):
            row["outcome"] = "diverged"
    got = verdict_of(tables, rows=rows)
    c = got.comparisons[0]
    assert c.n == 4
    assert c.difference < -0.1
    assert c.word == "CANNOT TELL"
    assert got.estimates["accuracy"][1].diverged == 1
    assert "1 of 4 trials of new diverged; scored and counted as they are." in got.warnings
    for row in rows:
        if row["repeat"] == 1:
            row["outcome"] = "diverged"
    assert not math.isfinite(verdict_of(tables, rows=rows).comparisons[0].high)


def test_folds_do_not_ask_for_examples() -> None:
    rng = np.random.default_rng(6)
    rows, _ = study({"relu": table(rng, 6, 100), "new": table(rng, 6, 100)})
    for row in rows:
        row["fold"], row["repeat"] = row["repeat"] % 3, row["repeat"] // 3

    def never(row: Mapping[str, Any], metric: str) -> Sampled | None:
        raise AssertionError

    got = judge(rows, activations=("relu", "new"), labels={}, baseline="relu", metrics=(), margin=0.005, examples=never)
    assert got.comparisons[0].n == 3
    assert got.units is None


def test_image_bootstrap_of_a_score_that_is_no_mean() -> None:
    """A ratio of sums over images, as precision and mAP are, for seeds of two detectors."""
    rng = np.random.default_rng(8)
    images, seeds = 300, 3
    objects = rng.integers(1, 5, images)
    found = {a: rng.binomial(objects, rate, (seeds, images)) for a, rate in (("relu", 0.6), ("new", 0.75))}
    rows, calls = [], []
    for a, table_ in found.items():
        for k in range(seeds):
            row = {"activation": a, "repeat": k, "fold": 0, "seed": 0, "partition": "official", "outcome": "done"}
            rows.append(row | {"n_train": 900, "n_test": images, "test_average_precision": table_[k].sum() / objects.sum()})

    def examples(row: Mapping[str, Any], metric: str) -> Sampled:
        calls.append(metric)
        hits = found[row["activation"]][row["repeat"]]
        return bootstrap(lambda drawn: float(hits[drawn].sum() / objects[drawn].sum()), images, key="val", replicates=200)

    got = judge(
        rows,
        activations=("relu", "new"),
        labels={},
        baseline="relu",
        metric="average_precision",
        metrics=(),
        margin=0.005,
        examples=examples,
    )
    c: Comparison = got.comparisons[0]
    assert c.word == "BETTER"
    assert c.high - c.low < 0.2
    assert set(calls) == {"average_precision"}


def test_expected_precision_of_seeds() -> None:
    half = expected_precision_crossed(5, 10_000, 0.004, 0.001)
    assert half == pytest.approx(Crossed(5, 0.0, 0.004, 1e-6, 10_000).half_width(0.05))
    assert expected_precision_crossed(10, 10_000, 0.004, 0.001) < half
    # More seeds take away all but what the examples leave open.
    assert expected_precision_crossed(10**6, 10_000, 0.004, 0.001) == pytest.approx(1.96 * 0.001, rel=0.01)
    assert expected_precision_crossed(1, 10_000, 0.004, 0.001) == math.inf
    assert expected_precision_crossed(3, 10_000, 0.0, 0.0) == 0
    for bad in ((0, 100, 0.1, 0.1), (3, 1, 0.1, 0.1), (3, 100, math.nan, 0.1), (3, 100, 0.1, -1.0)):
        with pytest.raises(VerdictError, match="at least 1 seed, at least 2 examples"):
            expected_precision_crossed(*bad)


@pytest.mark.parametrize("units", [2, 37, 20_001])
def test_kept_draws_are_those_that_are_drawn_anew(units: int, monkeypatch: pytest.MonkeyPatch) -> None:
    first = next(iter(resample._weights(units)))
    monkeypatch.setattr(resample, "_KEPT", 0 if units <= resample._KEPT else 2**20)
    other = next(iter(resample._weights(units)))
    assert first.dtype == other.dtype == np.float64
    assert np.array_equal(first, other)
    assert (first.sum(axis=1) == units).all()
