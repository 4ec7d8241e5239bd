"""Several data sets, and the oracles: scikit-posthocs and baycomp where they are installed, their numbers where not."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pliant.errors import UnknownNameError
from pliant.lab.verdict import (
    DatasetVerdict,
    VerdictError,
    judge,
    judge_datasets,
    means_of,
    nemenyi,
    signed_rank,
)

# Computed with scikit-posthocs 0.17.1 and baycomp 1.0.3.
TABLE = np.array(
    [
        [0.8091, 0.7688, 0.8225, 0.8282],
        [0.7415, 0.7609, 0.8038, 0.7905],
        [0.7995, 0.7744, 0.8264, 0.8233],
        [0.8020, 0.8338, 0.8140, 0.7742],
        [0.8111, 0.7712, 0.8264, 0.7985],
        [0.7945, 0.7796, 0.8367, 0.7954],
        [0.7872, 0.7894, 0.8160, 0.8110],
        [0.8124, 0.8129, 0.8642, 0.7878],
        [0.7846, 0.7756, 0.8185, 0.8339],
        [0.7966, 0.7748, 0.7753, 0.8195],
        [0.8223, 0.8163, 0.7800, 0.8070],
        [0.8035, 0.8066, 0.8261, 0.8067],
    ]
)
WILCOXON = [0.2333984375, 0.05224609375, 0.32958984375]
NEMENYI = {(0, 1): 0.9647412017885855, (0, 2): 0.08257259272939921, (1, 2): 0.022956481312530475, (1, 3): 0.30327279497091786}
FOLDS = {
    "relu": "0.8136 0.8014 0.8058 0.8126 0.7709 0.7936 0.7906 0.7872 0.7945 0.8299 0.7827 0.8194 0.7663 0.7933 0.8033",
    "new": "0.8167 0.8192 0.8209 0.798 0.7958 0.8222 0.8012 0.7795 0.7823 0.7866 0.8149 0.8078 0.8188 0.7965 0.8082",
}
BAYCOMP = (0.40854534281737365, 0.4816077968660818, 0.10984686031654456)
NAMES = ("relu", "a", "b", "c")


def over(table: np.ndarray, names: tuple[str, ...] = NAMES, margin: float = 0.005, **settings: Any) -> DatasetVerdict:
    means = {f"d{i}": dict(zip(names, map(float, line), strict=True)) for i, line in enumerate(table)}
    return judge_datasets(means, activations=names, labels={}, baseline=names[0], margin=margin, **settings)


def test_signed_ranks_are_scipys() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 6, 9, 20):
        d = rng.normal(0.3, 1, n)
        statistic, small, large = signed_rank(d)
        for side, p in (("less", small), ("greater", large)):
            want = stats.wilcoxon(d, alternative=side, method="exact")
            assert (statistic, p) == (want.statistic, pytest.approx(want.pvalue))


def test_signed_ranks_with_ties_and_zeros() -> None:
    """By going through all signs."""
    d = np.array([0.0, 1.0, -1.0, 2.0, 2.0, 0.0, 3.0, -2.0])
    ranks = stats.rankdata(np.abs(d))[d != 0]
    signs = (np.arange(2**6)[:, None] >> np.arange(6) & 1).astype(bool)
    sums = (signs * ranks).sum(axis=1)
    statistic, small, large = signed_rank(d)
    assert statistic == ranks[d[d != 0] > 0].sum()
    assert small == pytest.approx((sums <= statistic).mean())
    assert large == pytest.approx((sums >= statistic).mean())
    assert signed_rank(np.zeros(7)) == (0.0, 1.0, 1.0)


def test_the_numbers_of_scikit_posthocs() -> None:
    got = over(TABLE)
    np.testing.assert_allclose([c.p for c in got.comparisons], WILCOXON)
    assert got.friedman == pytest.approx(stats.friedmanchisquare(*TABLE.T).pvalue)
    ranks = list(got.ranks.values())
    for (i, j), p in NEMENYI.items():
        # At the level that is this pair's p, their distance is the critical one.
        if p < 0.5:
            assert nemenyi(4, 12, p) == pytest.approx(abs(ranks[i] - ranks[j]), rel=1e-4)
    assert got.critical_difference == pytest.approx(2.569 * math.sqrt(4 * 5 / (6 * 12)), rel=1e-3)  # q from Demsar's table 5
    assert got.alike == (("b", "c", "relu"), ("c", "relu", "a"))


def test_scikit_posthocs_itself() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = pytest.importorskip("scikit_posthocs", reason="scikit-posthocs is not installed (extra dev)")
        table = np.random.default_rng(1).normal(size=(15, 4))
        wilcoxon, pairs = library.posthoc_wilcoxon(list(table.T)).values, library.posthoc_nemenyi_friedman(table).values
    got = over(table)
    np.testing.assert_allclose([c.p for c in got.comparisons], wilcoxon[0, 1:])
    ranks = np.array(list(got.ranks.values()))
    apart = np.abs(ranks[:, None] - ranks) > got.critical_difference
    np.testing.assert_array_equal(apart, pairs < 0.05)


def posterior(folds: dict[str, list[float]], repeats: int, margin: float) -> tuple[float, float, float]:
    rows = [
        {"activation": a, "repeat": i // 5, "fold": i % 5, "seed": 0, "outcome": "done", "n_train": 400, "n_test": 100}
        | {"test_accuracy": v}
        for a, values in folds.items()
        for i, v in enumerate(values)
    ]
    c = judge(rows, activations=("relu", "new"), labels={}, baseline="relu", metrics=(), margin=margin).comparisons[0]
    assert c.posterior is not None
    return c.posterior.better, c.posterior.equivalent, c.posterior.worse


def test_the_correlated_t_test_of_baycomp() -> None:
    folds = {a: [float(v) for v in text.split()] for a, text in FOLDS.items()}
    np.testing.assert_allclose(posterior(folds, 3, 0.01), BAYCOMP, rtol=1e-9)


def test_baycomp_itself() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = pytest.importorskip("baycomp", reason="baycomp is not installed (extra dev)")
    rng = np.random.default_rng(2)
    relu, new = rng.normal(0.8, 0.01, (2, 15))
    left, rope, right = library.CorrelatedTTest.probs(new, relu, rope=0.004, runs=3)
    np.testing.assert_allclose(posterior({"relu": list(relu), "new": list(new)}, 3, 0.004), (left, rope, right), rtol=1e-9)


# --- words -------------------------------------------------------------------------------------------------------------


def test_words_over_data_sets() -> None:
    rng = np.random.default_rng(3)
    base = rng.uniform(0.6, 0.9, 12)
    noise = rng.normal(0, 0.002, (12, 3))
    got = over(np.column_stack([base, base + 0.02 + noise[:, 0], base - 0.02 + noise[:, 1], base + noise[:, 2]]), margin=0.01)
    assert [c.word for c in got.comparisons] == ["BETTER", "WORSE", "EQUIVALENT"]
    better = got.comparisons[0]
    assert (better.wins, better.ties, better.losses) == (12, 0, 0)
    assert better.low < better.difference < better.high
    assert better.difference == pytest.approx(0.02, abs=0.003)
    assert got.ranks["a"] == 1
    assert got.sentence(better).startswith("a vs relu on 12 data sets: 12 better, 0 equal, 0 worse (median difference +")
    down = over(np.column_stack([base, base + 0.02 + noise[:, 0]]), ("relu", "a"), metric="loss")
    assert down.comparisons[0].word == "WORSE"
    assert down.ranks == {"relu": 1.0, "a": 2.0}


def test_refusals_name_the_number() -> None:
    rng = np.random.default_rng(4)
    table = rng.normal(0.8, 0.01, (10, 4))
    table[:, 1] = table[:, 0] + rng.uniform(0.01, 0.02, 10)
    five = over(table[:5])
    assert [c.word for c in five.comparisons] == ["CANNOT TELL"] * 3
    assert (five.comparisons[0].p, five.comparisons[0].high, five.friedman) == (1.0, math.inf, None)
    assert any("5 data sets, 1 fewer than a test over data sets needs" in text and "0.0625" in text for text in five.warnings)
    assert "it takes at least 6 data sets" in five.sentence(five.comparisons[0])
    assert over(table[:6, :2], ("relu", "a")).comparisons[0].word == "BETTER"
    six = over(table[:6])
    assert six.comparisons[0].word == "CANNOT TELL"
    assert any("no difference can pass Holm's correction" in text and text.endswith("it takes 7.") for text in six.warnings)
    assert six.comparisons[0].more_datasets is not None
    nine, ten = over(table[:9]), over(table)
    assert nine.critical_difference is None
    assert any("9 of at least 10 data sets" in text for text in nine.warnings)
    assert ten.critical_difference is not None
    assert ten.warnings == ()


def test_interval_is_what_the_test_does_not_reject() -> None:
    d = np.random.default_rng(5).normal(0.01, 0.02, 9)
    c = over(np.column_stack([np.zeros(9), d]), ("relu", "a")).comparisons[0]
    for shift, inside in ((c.low - 1e-9, False), (c.low + 1e-9, True), (c.high - 1e-9, True), (c.high + 1e-9, False)):
        _, small, large = signed_rank(d - shift)
        assert (2 * min(small, large) > 0.05) == inside


def test_permutation_of_signs() -> None:
    d = np.random.default_rng(6).normal(0.01, 0.01, 10)
    table = np.column_stack([np.full(10, 0.5), 0.5 + d])
    c = over(table, ("relu", "a"), test="permutation").comparisons[0]
    want = stats.permutation_test(
        (d, np.zeros(10)), lambda x, y, axis: (x - y).mean(axis=axis), permutation_type="samples", vectorized=True
    )
    assert c.p == pytest.approx(want.pvalue)
    many = np.random.default_rng(7).normal(0.001, 0.01, 30)
    c = over(np.column_stack([np.full(30, 0.5), 0.5 + many]), ("relu", "a"), test="permutation").comparisons[0]
    assert c.p == pytest.approx(stats.ttest_1samp(many, 0).pvalue, abs=0.03)


def test_more_datasets_settle_it() -> None:
    d = np.array([0.01, 0.02, 0.03, 0.04, -0.015, -0.025, 0.05, -0.001])
    c = over(np.column_stack([np.zeros(8), d]), ("relu", "a"), margin=0.0).comparisons[0]
    assert c.word == "CANNOT TELL"
    assert c.more_datasets is not None
    again = np.concatenate([d] * math.ceil((8 + c.more_datasets) / 8 + 1))
    assert over(np.column_stack([np.zeros(len(again)), again]), ("relu", "a"), margin=0.0).comparisons[0].word == "BETTER"


def test_identical_on_every_data_set() -> None:
    c = over(np.full((8, 2), 0.7), ("relu", "a")).comparisons[0]
    assert (c.word, c.ties, c.p, c.more_datasets) == ("EQUIVALENT", 8, 1.0, None)


def test_a_data_set_without_a_score_is_left_out() -> None:
    table = TABLE.copy()
    table[3, 2] = np.nan
    got = over(table)
    assert len(got.datasets) == 11
    assert got.warnings == ("Left out: d3, where b has no score.",)
    assert all(c.n == 11 for c in got.comparisons)


def test_means_come_from_verdicts() -> None:
    rows = [
        {
            "activation": a,
            "repeat": 0,
            "fold": f,
            "seed": 0,
            "outcome": "done",
            "n_train": 8,
            "n_test": 2,
            "test_accuracy": v + f / 4,
        }
        for a, v in (("relu", 0.25), ("a", 0.5))
        for f in range(2)
    ]
    verdict = judge(rows, activations=("relu", "a"), labels={}, baseline="relu", metrics=(), margin=0.005)
    assert means_of({"one": verdict}, "accuracy") == {"one": {"relu": 0.375, "a": 0.625}}


def test_bad_settings_over_data_sets() -> None:
    for settings, error, says in (
        ({"metric": "acuracy"}, UnknownNameError, "Did you mean 'accuracy'"),
        ({"test": "permutations"}, UnknownNameError, "Did you mean 'permutation'"),
        ({"margin": -1.0}, VerdictError, "margin of equivalence is -1"),
        ({"alpha": 0.7}, VerdictError, "alpha"),
    ):
        with pytest.raises(error, match=says):
            over(TABLE, **settings)  # type: ignore[arg-type]
    with pytest.raises(VerdictError, match="None of 0 data sets"):
        over(np.empty((0, 4)))
