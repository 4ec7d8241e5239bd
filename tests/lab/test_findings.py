"""How a claim gets its word from rows."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from pliant.lab import papers
from pliant.lab.claims import Answer, Known, settle
from pliant.lab.evidence import Evidence, together
from pliant.lab.findings import decide
from pliant.lab.papers.claims import CellsTest, ConfusionTest, FailureTest, InteractionTest, MeanTest, SitesTest, SpreadTest


def evidence(scores: dict[str, Sequence[float]], tier: str = "full", **columns: dict[str, Sequence[float]]) -> Evidence:
    """Rows of ten folds with these test accuracies."""
    rows: list[dict[str, Any]] = []
    for activation, values in scores.items():
        for fold, value in enumerate(values):
            rows.append(
                {
                    "activation": activation,
                    "label": activation,
                    "repeat": 0,
                    "fold": fold,
                    "seed": fold,
                    "outcome": "done",
                    "n_train": 9000,
                    "n_test": 1000,
                    "test_accuracy": value,
                    "test_loss": 1 - value + 0.001 * len(activation),
                    **{name: by[activation][fold] for name, by in columns.items()},
                }
            )
    names = tuple(scores)
    return Evidence(
        "s", "s", "S", tier, "store", rows, names, {n: n.upper() for n in names}, names[0], "accuracy", 0.01, "kfold"
    )  # type: ignore[arg-type]


BASE = [0.90, 0.91, 0.90, 0.92, 0.91, 0.90, 0.91, 0.92, 0.90, 0.91]
NOISE = [0.002, -0.001, 0.001, 0.0, -0.002, 0.001, 0.002, -0.001, 0.0, -0.002]


def raised(by: float, noise: float = 1.0) -> list[float]:
    return [b + by + noise * e for b, e in zip(BASE, NOISE, strict=True)]


def claim(against: Any = ("relu",), **changes: Any) -> MeanTest:
    values = {"study": "s", "contender": "srelu", "metric": "test_accuracy", "direction": "higher", "margin": 0.01}
    return MeanTest(against=against, **{**values, **changes})


@pytest.mark.parametrize(
    ("by", "noise", "direction", "word", "verdict"),
    [
        (0.03, 1, "higher", "SUPPORTED", "BETTER"),
        (-0.03, 1, "higher", "REFUTED", "WORSE"),
        (0.0, 0.5, "higher", "REFUTED", "EQUIVALENT"),
        (0.004, 8, "higher", "UNDECIDED", "CANNOT TELL"),
        (-0.03, 1, "lower", "SUPPORTED", "BETTER"),
        (0.03, 1, "lower", "REFUTED", "WORSE"),
    ],
)
def test_the_word_follows_from_the_verdict(by: float, noise: float, direction: str, word: str, verdict: str) -> None:
    found = decide(claim(direction=direction), evidence({"relu": BASE, "srelu": raised(by, noise)}))
    assert (found.word, found.verdict, found.n) == (word, verdict, 10)
    assert found.label == word
    assert found.difference == pytest.approx(by, abs=1e-12)
    assert found.low < found.difference < found.high


def test_equal_supports_as_good_as_and_refutes_better_than() -> None:
    same = evidence({"relu": BASE, "srelu": raised(0.0, 0.5)})
    assert decide(claim(), same).word == "REFUTED"
    assert decide(claim(equal=True), same).word == "SUPPORTED"
    # Shown to be lower, and by less than what matters.
    little = evidence({"relu": BASE, "srelu": raised(-0.003, 0.3)})
    assert decide(claim(), little).word == "REFUTED"
    assert decide(claim(equal=True), little).word == "SUPPORTED"
    assert decide(claim(equal=True), evidence({"relu": BASE, "srelu": raised(-0.05)})).word == "REFUTED"


@pytest.mark.parametrize(
    ("by", "noise", "word", "verdict"),
    [
        (0.02, 1, "SUPPORTED", "BETTER"),
        # Perhaps a little worse, and perhaps far better: no worse than the margin.
        (0.02, 18, "SUPPORTED", "NOT WORSE"),
        (-0.02, 1, "REFUTED", "WORSE"),
        # Worse, and not shown to be so by more than the margin.
        (-0.011, 2, "UNDECIDED", "CANNOT TELL"),
    ],
)
def test_no_worse_is_held_to_the_margin(by: float, noise: float, word: str, verdict: str) -> None:
    found = decide(claim(equal=True), evidence({"relu": BASE, "srelu": raised(by, noise)}))
    assert (found.word, found.verdict) == (word, verdict)


@pytest.mark.parametrize(
    ("by", "noise", "word", "verdict"),
    [
        (0.03, 1, "SUPPORTED", "BETTER"),
        # A lead that is shown, and shown to be smaller than the claim's.
        (0.01, 1, "REFUTED", "LESS"),
        (-0.01, 1, "REFUTED", "WORSE"),
        (0.02, 6, "UNDECIDED", "CANNOT TELL"),
    ],
)
def test_a_claim_of_a_size_is_held_to_it(by: float, noise: float, word: str, verdict: str) -> None:
    given = evidence({"relu": BASE, "srelu": raised(by, noise)})
    found = decide(claim(least=0.02), given)
    assert (found.word, found.verdict) == (word, verdict)
    # Each of several must be behind by as much.
    both = evidence({"relu": BASE, "gelu": raised(0.02), "srelu": raised(0.03)})
    assert decide(claim(("relu", "gelu"), least=0.02), both).word == "REFUTED"
    assert decide(claim(("relu",), least=0.02), both).word == "SUPPORTED"


def test_a_quotient_is_compared_as_one() -> None:
    times = {
        "relu": [1.0 + 0.05 * i for i in range(10)],
        "srelu": [1.2 * (1.0 + 0.05 * i) + 0.001 * (-1) ** i for i in range(10)],
    }
    given = evidence({"relu": BASE, "srelu": BASE}, seconds_per_epoch=times)
    told = {"metric": "seconds_per_epoch", "relative": True}
    found = decide(claim(direction="lower", equal=True, margin=0.02, **told), given)
    assert (found.word, found.verdict) == ("REFUTED", "WORSE")
    assert found.sentence.startswith("SRELU has 1.2 [1.2, 1.2] times the seconds_per_epoch of RELU, n = 10")
    assert decide(claim(direction="lower", equal=True, margin=0.25, **told), given).word == "SUPPORTED"
    assert decide(claim(direction="higher", least=0.15, **told), given).word == "SUPPORTED"
    assert decide(claim(direction="higher", least=0.25, **told), given).word == "REFUTED"
    assert decide(claim(direction="same", margin=0.25, **told), given).word == "SUPPORTED"
    # Nothing has a quotient with 0.
    nothing = {"relu": [0.0] * 10, "srelu": [1.0] * 10}
    assert decide(claim(**told), evidence({"relu": BASE, "srelu": BASE}, seconds_per_epoch=nothing)).n == 0


def test_a_difference_of_two_columns_is_one() -> None:
    train = {"relu": [b + 0.05 for b in BASE], "srelu": [b + 0.02 + e for b, e in zip(BASE, NOISE, strict=True)]}
    given = evidence({"relu": BASE, "srelu": BASE}, train_f1=train, validation_f1={"relu": BASE, "srelu": BASE})
    found = decide(claim(metric="train_f1 - validation_f1", direction="lower"), given)
    assert (found.word, found.n) == ("SUPPORTED", 10)
    assert found.difference == pytest.approx(-0.03)
    assert "train_f1 - validation_f1: -3.00 points" in found.sentence


def test_the_tests_of_a_claim_pay_for_their_number() -> None:
    """A difference that one test alone would show is not shown by one of six, unless the others are (Holm); the numbers beside
    it stay as they are everywhere else."""
    near = evidence({"relu": BASE, "srelu": raised(0.002, 1)})
    clear = evidence({"relu": BASE, "srelu": raised(0.03)})
    nothing = evidence({"relu": BASE, "srelu": raised(0.0, 8)})

    def told(*parts: Evidence) -> list[Any]:
        class Held(Known):
            def best(self, name: str, tier: Any = None) -> Evidence | None:
                return parts[int(name)]

        tests = tuple(claim(study=str(i), margin=0.0) for i in range(len(parts)))
        return list(settle(dataclasses.replace(papers.claims("aaf")[0], studies=(), tests=tests), Held(None)).findings)

    (alone,) = told(near)
    assert alone.word == "SUPPORTED"
    found = told(near, *[nothing] * 5)
    assert [f.word for f in found] == ["UNDECIDED"] * 6
    assert found[0].sentence == alone.sentence
    assert (found[0].low, found[0].high) == (alone.low, alone.high)
    assert [f.word for f in told(near, *[clear] * 5)] == ["SUPPORTED"] * 6


def test_a_kept_verdict_is_held_to_the_level_too() -> None:
    given = evidence({"relu": BASE, "srelu": raised(0.03), "gelu": raised(0.002)})
    kept = given.verdict(baseline="srelu")
    fixed = dataclasses.replace(given, design="official", examples=None, kept=kept, baseline="srelu")
    for test in (claim(), claim(least=0.02), claim(equal=True), claim(against=("gelu",))):
        at = [decide(test, fixed, alpha) for alpha in (0.05, 0.01, 1e-40)]
        # As the rows say where they may be judged again, and nothing at a level that nothing reaches.
        assert [f.word for f in at[:2]] == [decide(test, given, alpha).word for alpha in (0.05, 0.01)] == ["SUPPORTED"] * 2
        assert at[2].word == "UNDECIDED"
        assert (at[2].low, at[2].high) == (at[0].low, at[0].high)


def test_a_stricter_level_takes_words_away_and_gives_none() -> None:
    # A lead that is shown at 5 %, and lies within the margin: at a stricter level it is no sign that there is none.
    near = evidence({"relu": BASE, "srelu": raised(0.002)})
    assert decide(claim(), near).word == "SUPPORTED"
    strict = decide(claim(), near, 0.05 / 6)
    assert (strict.word, strict.verdict) == ("UNDECIDED", "CANNOT TELL")
    # What counts as a failed training is not another thing at another level.
    some = evidence({"pelu": BASE}, train_accuracy_last={"pelu": [0.107] * 10})
    given = dataclasses.replace(some, classes=10)
    for alpha in (0.05, 0.0125, 1e-6):
        assert decide(FailureTest("s", "pelu"), given, alpha).word in ("REFUTED", "UNDECIDED")
    assert decide(FailureTest("s", "pelu"), given).word == "REFUTED"


def test_the_numbers_are_those_of_the_comparison_that_decides() -> None:
    wide = [b - 0.013 + 0.02 * e / 0.002 * 0.5 for b, e in zip(BASE, NOISE, strict=True)]
    gelu = [w + 0.03 for w in wide]
    given = evidence({"relu": gelu, "gelu": [w + 0.002 for w in wide], "srelu": wide})
    test = claim(("relu", "gelu"), margin=0.001)
    for alpha in (0.05, 0.01, 0.001):
        found = decide(test, given, alpha)
        alone = decide(claim((found.rival,), margin=0.001), given)
        assert (found.sentence, found.low, found.high) == (alone.sentence, alone.low, alone.high)


def test_what_cannot_be_compared_is_no_look_at_a_claim() -> None:
    near = evidence({"relu": BASE, "srelu": raised(0.002)})

    class Held(Known):
        def best(self, name: str, tier: Any = None) -> Evidence | None:
            return near

    tests = (claim(margin=0.0), *[claim(metric=f"no_such_{i}", margin=0.0) for i in range(5)])
    found = settle(dataclasses.replace(papers.claims("aaf")[0], studies=(), tests=tests), Held(None)).findings
    assert [f.word for f in found] == ["SUPPORTED", *["UNDECIDED"] * 5]


def test_a_kept_verdict_is_judged_by_the_margin_of_the_claim() -> None:
    given = evidence({"relu": BASE, "srelu": raised(0.0, 4)})
    kept = given.verdict(baseline="srelu", margin=0.01)
    assert kept.comparisons[0].word == "EQUIVALENT"
    fixed = dataclasses.replace(given, design="official", examples=None, kept=kept, baseline="srelu")
    assert decide(claim(margin=0.01), fixed).word == "REFUTED"
    assert decide(claim(margin=0.001), fixed).word == decide(claim(margin=0.001), given).word == "UNDECIDED"


def test_ties_of_a_column_prove_nothing() -> None:
    """Gaps of small data can be the same in two seeds where the trainings were not."""
    given = evidence({"relu": BASE, "srelu": BASE}, gap={"relu": [0.02] * 10, "srelu": [0.02] * 10})
    for changes in ({"equal": True}, {"direction": "same"}, {"least": 0.01}, {}):
        found = decide(claim(metric="gap", **changes), given)
        assert (found.word, found.verdict) == ("UNDECIDED", "CANNOT TELL"), changes


def test_trainings_that_never_come_so_far_count() -> None:
    """The four seeds in which a slow activation gets there are its lucky ones."""
    epochs = {"relu": [9.0 + 0.1 * i for i in range(10)], "srelu": [4.0 + 0.1 * i if i < 4 else None for i in range(10)]}
    given = evidence({"relu": BASE, "srelu": BASE}, **{"epochs_to_0.2": epochs})
    found = decide(claim(metric="epochs_to_0.2", direction="lower", margin=0.0), given)
    assert (found.word, found.n) == ("UNDECIDED", 4)
    assert found.sentence.endswith("; 6 of the trainings have no epochs_to_0.2")


def test_a_size_of_something_smaller_is_a_share_of_the_rival() -> None:
    base = [1.0 + 0.05 * i for i in range(10)]
    times = {"relu": base, "srelu": [0.82 * b + 0.001 * (-1) ** i for i, b in enumerate(base)]}
    given = evidence({"relu": BASE, "srelu": BASE}, seconds_per_epoch=times)
    told = {"metric": "seconds_per_epoch", "relative": True, "direction": "lower"}
    assert decide(claim(least=0.2, **told), given).word == "REFUTED"
    assert decide(claim(least=0.15, **told), given).word == "SUPPORTED"


def test_times_of_a_record_count_where_it_ran_alone() -> None:
    times = {"relu": [1.0 + 0.01 * i for i in range(10)], "srelu": [1.3 + 0.012 * i for i in range(10)]}
    given = dataclasses.replace(evidence({"relu": BASE, "srelu": BASE}, seconds_per_epoch=times), origin="record")

    def told(timed: bool, metric: str) -> Answer:
        class Held(Known):
            def best(self, name: str, tier: Any = None) -> Evidence | None:
                return dataclasses.replace(given, timed=timed)

        test = claim(metric=metric, direction="lower")
        return settle(dataclasses.replace(papers.claims("aaf")[0], studies=("s",), tests=(test,)), Held(None))

    assert told(True, "seconds_per_epoch").findings[0].word == "REFUTED"
    answer = told(False, "seconds_per_epoch")
    assert (answer.state, answer.findings) == ("not run", ())
    assert answer.lacking.startswith("times count in a record of `pliant record --timed` alone")
    assert told(False, "test_loss").findings


def test_the_best_must_beat_each_of_the_others() -> None:
    three = {"relu": BASE, "elu": raised(0.01), "srelu": raised(0.03)}
    found = decide(claim("best"), evidence(three))
    assert (found.word, found.rival) == ("SUPPORTED", "elu")
    assert "SRELU minus ELU" in found.sentence
    behind = decide(claim("best"), evidence({**three, "elu": raised(0.06)}))
    assert (behind.word, behind.rival) == ("REFUTED", "elu")
    open_ = decide(claim("best"), evidence({**three, "elu": raised(0.025, 10)}))
    assert (open_.word, open_.rival) == ("UNDECIDED", "elu")
    # Another setting of the same function is no rival.
    variant = evidence({**three, "srelu[beta=1]": raised(0.08)})
    assert decide(claim("best"), variant).word == "SUPPORTED"
    # Unless the claim is about settings.
    found = decide(claim("all"), variant)
    assert (found.word, found.rival) == ("REFUTED", "srelu[beta=1]")


def test_a_claim_about_some_is_not_refuted_by_another() -> None:
    given = evidence({"relu": BASE, "gelu": raised(0.01), "srelu": raised(0.03), "swish": raised(0.06)})
    assert decide(claim("best"), given).rival == "swish"
    found = decide(claim(("relu", "gelu")), given)
    assert (found.word, found.rival) == ("SUPPORTED", "gelu")
    # A tier may lack some of them: that it beats the others supports no claim about all, and one that beats it refutes it.
    some = decide(claim(("relu", "elu")), given)
    assert (some.word, some.verdict) == ("UNDECIDED", "CANNOT TELL")
    assert some.sentence.endswith("; without elu")
    assert decide(claim(("swish", "elu")), given).word == "REFUTED"
    assert decide(claim(("elu", "mish")), given) is None


def test_studies_are_compared_with_each_other_trial_by_trial() -> None:
    sgd = evidence({"relu": BASE, "arelu": raised(0.03)})
    adam = evidence({"relu": raised(0.01), "arelu": raised(0.05)})
    parts = {"sgd": dataclasses.replace(sgd, name="sgd"), "adam": dataclasses.replace(adam, name="adam")}

    class Held(Known):
        def best(self, name: str, tier: Any = None) -> Evidence | None:
            return parts.get(f"{name} {tier}", parts.get(name))

    def told(**changes: Any) -> Answer:
        test = claim(**{"study": "sgd", "contender": "arelu", "across": ("adam",), "against": "all", **changes})
        return settle(dataclasses.replace(papers.claims("aaf")[0], studies=("sgd", "adam"), tests=(test,)), Held(None))

    (found,) = told().findings
    assert (found.word, found.rival, found.n) == ("REFUTED", "arelu @ adam", 10)
    assert found.sentence.startswith("ARELU @ sgd minus ARELU @ adam, test_accuracy: -2.00 points")
    # Named activations are those of the other studies.
    (found,) = told(against=("relu",)).findings
    assert (found.word, found.rival) == ("SUPPORTED", "relu @ adam")
    # A study that has no result, or one of another size, cannot be compared with.
    lite = dataclasses.replace(parts["adam"], tier="lite")
    parts["adam"] = lite
    assert told().state == "not run"
    # But where all were run at a smaller size as well, that counts.
    parts |= {"sgd lite": dataclasses.replace(parts["sgd"], tier="lite"), "adam full": None}
    assert told().findings[0].tier == "lite"
    del parts["adam"]
    assert told().state == "not run"


def test_a_score_on_one_test_part_is_not_judged_by_seeds_alone() -> None:
    given = evidence({"relu": BASE, "srelu": raised(0.03)})
    fixed = dataclasses.replace(given, design="official", examples=None)
    found = decide(claim(), fixed)
    assert (found.word, found.n) == ("UNDECIDED", 0)
    assert found.sentence == "the rows of s alone say nothing of test_accuracy."
    # What is no score is a matter of the trainings.
    times = {"relu": [1.0 + 0.01 * i for i in range(10)], "srelu": [1.3 + 0.012 * i for i in range(10)]}
    timed = dataclasses.replace(evidence({"relu": BASE, "srelu": BASE}, seconds_per_epoch=times), design="official")
    assert decide(claim(metric="seconds_per_epoch", direction="lower", margin=0.0), timed).word == "REFUTED"


def test_across_studies_the_test_examples_are_known_of_each() -> None:
    seen: list[tuple[str, object]] = []

    def of(name: str) -> Evidence:
        given = evidence({"relu": BASE[:3], "arelu": BASE[:3]})
        rows = [{**row, "key": f"{name}{i}"} for i, row in enumerate(given.rows)]
        return dataclasses.replace(given, name=name, rows=rows, examples=lambda row, _: seen.append((name, row["key"])))

    one, two = of("one"), of("two")
    joined = together([one, two])
    assert joined.examples is not None
    for row in joined.rows:
        joined.examples(row, "accuracy")
    assert seen == [("one", f"one{i}") for i in range(6)] + [("two", f"two{i}") for i in range(6)]
    assert together([one, dataclasses.replace(two, examples=None)]).examples is None
    assert joined.labels["arelu @ two"] == "ARELU @ two"


@pytest.mark.parametrize(
    ("mistakes", "word", "rival"),
    [
        ({("3", "8"): 90, ("8", "3"): 60, ("4", "9"): 30, ("9", "4"): 20}, "SUPPORTED", "'4' and '9'"),
        ({("3", "8"): 60, ("4", "9"): 55, ("9", "4"): 1}, "UNDECIDED", "'4' and '9'"),
        ({("3", "8"): 20, ("4", "9"): 100, ("9", "4"): 60, ("3", "9"): 2}, "REFUTED", "'4' and '9'"),
        # Ahead, but found by looking at three others: not by enough.
        ({("3", "8"): 40, ("4", "9"): 100, ("3", "9"): 2, ("4", "8"): 1}, "UNDECIDED", "'4' and '9'"),
    ],
)
def test_which_classes_are_mistaken_most(mistakes: dict[tuple[str, str], int], word: str, rival: str) -> None:
    classes = ("3", "4", "8", "9")
    cells = {(a, b): mistakes.get((a, b), 0 if a != b else 900) for a in classes for b in classes}
    given = dataclasses.replace(evidence({"relu": BASE[:5], "srelu": BASE[:5]}), confusions=lambda: {"srelu": cells})
    found = decide(ConfusionTest("s", "srelu", ("3", "8")), given)
    assert (found.word, found.rival, found.n) == (word, rival, 5)
    mine = mistakes[("3", "8")] + mistakes.get(("8", "3"), 0)
    assert f"SRELU mistakes '3' and '8' for each other {mine / 5:.1f} times a trial and '4' and '9'" in found.sentence
    # Without the matrices nothing is said.
    for nothing in (evidence({"relu": BASE, "srelu": BASE}), dataclasses.replace(given, confusions=lambda: {"relu": cells})):
        unknown = decide(ConfusionTest("s", "srelu", ("3", "8")), nothing)
        assert (unknown.word, unknown.rival) == ("UNDECIDED", "")
        assert "are not known of s" in unknown.sentence


@pytest.mark.parametrize(
    ("by", "noise", "word", "verdict"),
    [
        (0.0, 0.2, "SUPPORTED", "EQUIVALENT"),
        (0.05, 1.0, "REFUTED", "BETTER"),
        (-0.05, 1.0, "REFUTED", "WORSE"),
        (0.0, 12.0, "UNDECIDED", "CANNOT TELL"),
        # Surely better, and not surely by more than the margin, nor by less.
        (0.009, 1.0, "UNDECIDED", "CANNOT TELL"),
    ],
)
def test_that_settings_are_free_is_that_all_are_equal(by: float, noise: float, word: str, verdict: str) -> None:
    given = evidence({"srelu": raised(by, noise), "relu": BASE, "gelu": raised(0.0, 0.1)})
    found = decide(claim(against=("relu", "gelu"), direction="same"), given)
    assert (found.word, found.verdict) == (word, verdict)
    assert decide(claim(against=("elu",), direction="same"), given) is None


def test_of_many_settings_one_beyond_the_margin_pays_for_their_number() -> None:
    beyond = {"srelu": raised(0.014, 2.0), "relu": BASE}
    assert decide(claim(against=("relu",), direction="same"), evidence(beyond)).word == "REFUTED"
    near = {f"leakyrelu[negative_slope={0.1 * i:g}]": raised(0.014, 0.1 * i) for i in range(1, 10)}
    many = decide(claim(against=("relu", *near), direction="same"), evidence({**beyond, **near}))
    assert many.word == "UNDECIDED"


WIDE = [0.2, 0.9, 0.4, 0.8, 0.1, 0.7, 0.3, 0.95, 0.5, 0.6]
NARROW = [0.50, 0.51, 0.50, 0.49, 0.50, 0.52, 0.50, 0.49, 0.51, 0.50]


@pytest.mark.parametrize(
    ("scores", "word", "rival"),
    [
        ({"srelu": NARROW, "relu": WIDE, "gelu": WIDE[::-1]}, "SUPPORTED", ""),
        ({"srelu": WIDE, "relu": NARROW, "gelu": WIDE[::-1]}, "REFUTED", "relu"),
        # As steady as one of them: not steadier than all.
        ({"srelu": NARROW, "relu": WIDE, "gelu": NARROW[::-1]}, "UNDECIDED", "gelu"),
        ({"srelu": NARROW[:3], "relu": WIDE[:3]}, "UNDECIDED", ""),
    ],
)
def test_which_varies_less_from_fold_to_fold(scores: dict[str, list[float]], word: str, rival: str) -> None:
    found = decide(SpreadTest("s", "srelu", "best", "test_accuracy"), evidence(scores))
    assert found.word == word
    assert rival in ("", found.rival)
    if len(scores["srelu"]) > 3:
        assert found.n == 10
        sds = [statistics.stdev(scores["srelu"]), statistics.stdev(scores[found.rival])]
        assert f"SRELU {sds[0]:.3g}, {found.rival.upper()} {sds[1]:.3g}, p = " in found.sentence
    else:
        assert "fewer than 4 pairs" in found.sentence


def test_the_chance_of_unequal_spreads_is_kept() -> None:
    """Of pairs that vary alike, 5 % or fewer are told apart."""
    generator = np.random.default_rng(0)
    told = 0
    for _ in range(400):
        one, other = generator.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 8).T
        found = decide(SpreadTest("s", "srelu", ("relu",), "test_accuracy"), evidence({"srelu": one, "relu": other}))
        told += found.word != "UNDECIDED"
    assert told / 400 == pytest.approx(0.05, abs=0.03)


def test_what_diverged_is_not_steady() -> None:
    given = evidence({"srelu": [0.1] * 10, "relu": WIDE})
    assert decide(SpreadTest("s", "srelu", "best", "test_accuracy"), given).word == "UNDECIDED"
    rows = [{**row, "outcome": "diverged"} if row["activation"] == "srelu" else row for row in given.rows]
    found = decide(SpreadTest("s", "srelu", "best", "test_accuracy"), dataclasses.replace(given, rows=rows))
    assert (found.word, found.sentence[:18]) == ("UNDECIDED", "trainings diverged")


def test_an_activation_that_is_not_there_has_no_spread() -> None:
    given = evidence({"relu": BASE})
    for test in (SpreadTest("s", "srelu", "best", "test_accuracy"), FailureTest("s", "srelu")):
        assert decide(test, given) is None


@pytest.mark.parametrize(
    ("accuracies", "diverged", "word"),
    [
        ([0.10, 0.101, 0.099, 0.1, 0.1], 0, "SUPPORTED"),
        ([0.9, 0.8, 0.1, 0.1, 0.1], 3, "SUPPORTED"),
        ([0.9, 0.8, 0.7, 0.6, 0.5], 0, "REFUTED"),
        ([0.9, 0.8, 0.7, 0.1, 0.1], 0, "UNDECIDED"),
        # A little better than chance, of 9,000 examples, is better than chance.
        ([0.11, 0.11, 0.11, 0.11, 0.11], 0, "REFUTED"),
    ],
)
def test_most_trainings_fail_or_do_not(accuracies: list[float], diverged: int, word: str) -> None:
    given = evidence({"pelu": BASE[:5]}, train_accuracy_last={"pelu": accuracies})
    rows = [{**row, "outcome": "diverged" if row["fold"] < diverged else "done"} for row in given.rows]
    found = decide(FailureTest("s", "pelu"), dataclasses.replace(given, rows=rows, classes=10))
    assert (found.word, found.n) == (word, 5)
    assert f"of 5 trainings {diverged} diverged" in found.sentence
    missing = [{**row, "outcome": "missing"} for row in rows]
    assert decide(FailureTest("s", "pelu"), dataclasses.replace(given, rows=missing, classes=10)) is None


def trained(slopes: Sequence[Sequence[float]]) -> Evidence:
    """AReLU with these slopes on the negative side, a row a training, a column a site."""
    trials = [{f"act{i}": {"a": 1.0, "b": b, "c": 0.0, "d": 0.0} for i, b in enumerate(row)} for row in slopes]
    return dataclasses.replace(evidence({"relu": BASE, "arelu": BASE}), learned=lambda: {"arelu": trials})


def test_sites_learn_different_functions_or_do_not() -> None:
    test = SitesTest("s", "arelu", 0.05)
    steady = decide(test, trained([[0.0, 0.2, 0.4, 0.6], [0.01, 0.19, 0.42, 0.6], [0.02, 0.2, 0.4, 0.63]]))
    assert (steady.word, steady.n) == ("SUPPORTED", 3)
    # The curves of slopes 0 and 0.6 differ by 0.6 |x| on half of -3 ... 3, whose mean square is 0.36 * 3 / 2.
    assert steady.difference == pytest.approx(0.62 * math.sqrt(1.5), rel=0.02)
    assert "intraclass correlation 0.99" in steady.sentence or "intraclass correlation 1.00" in steady.sentence
    # As far apart, but each time otherwise: that is the seed's doing.
    seeds = decide(test, trained([[0.0, 0.2, 0.4, 0.6], [0.6, 0.4, 0.2, 0.0], [0.2, 0.0, 0.6, 0.4]]))
    assert (seeds.word, seeds.verdict) == ("UNDECIDED", "permutation test")
    # One odd training is not what sites have in common.
    odd = decide(test, trained([[0.001 * i, 0.005 + 0.001 * i, 0.01] for i in range(9)] + [[0.0, 0.005, 0.1]]))
    assert odd.word == "UNDECIDED"
    still = decide(test, trained([[0.0, 0.001, 0.002, 0.003]] * 3))
    assert still.word == "REFUTED"
    for none in (trained([[0.0, 0.2]]), trained([]), evidence({"arelu": BASE})):
        assert decide(test, none).sentence.startswith("the learned coefficients of")


def cell(i: int, lead: float, **more: Sequence[float]) -> Evidence:
    given = evidence({"relu": BASE, "arelu": raised(lead), "prelu": raised(lead / 2), "arelu[released]": raised(0.09), **more})
    return dataclasses.replace(given, name=f"c{i}", directory=f"c{i}")


CELLS = CellsTest("c0", "arelu", "accuracy", 0.005, ("c1", "c2", "c3", "c4", "c5", "c6", "c7"))


def test_one_cell_with_a_shown_lag_refutes_a_lead() -> None:
    ahead = [cell(i, 0.01 + 0.002 * i) for i in range(8)]
    found = decide(CELLS, ahead)
    assert (found.word, found.verdict, found.n) == ("SUPPORTED", "BETTER", 8)
    assert "behind no function in any of 8 cells" in found.sentence
    assert "of 2 that all have: 8 better, 0 equal, 0 worse" in found.sentence
    found = decide(CELLS, [*ahead[:7], cell(7, -0.03)])
    assert (found.word, found.verdict, found.rival) == ("REFUTED", "WORSE", "relu")
    assert "one of 8 cells, c7, shows it behind: ARELU minus RELU, test_accuracy: -3.00 points" in found.sentence
    assert decide(CELLS, ahead[:4]).word == "UNDECIDED"
    equal = [cell(i, 0.0001 * (-1) ** i) for i in range(8)]
    assert decide(CELLS, equal).word == "REFUTED"


def test_a_function_of_one_cell_alone_can_be_ahead_there() -> None:
    cells = [cell(i, 0.02) for i in range(7)] + [cell(7, 0.02, pelu=raised(0.09))]
    found = decide(CELLS, cells)
    assert (found.word, found.rival) == ("REFUTED", "pelu")


def test_cells_that_are_not_finished() -> None:
    def without(given: Evidence, *activations: str) -> Evidence:
        nothing = {"outcome": "missing", "test_accuracy": None, "test_loss": None}
        return dataclasses.replace(
            given, rows=[{**r, **(nothing if r["activation"] in activations else {})} for r in given.rows]
        )

    whole = [cell(i, 0.02) for i in range(8)]
    # Without the contender a cell says nothing; without a rival it says something of the others.
    assert decide(CELLS, [without(c, "arelu", "prelu", "arelu[released]") for c in whole]) is None
    found = decide(CELLS, [without(whole[0], "relu"), *whole[1:]])
    assert (found.word, found.unfinished) == ("SUPPORTED", 10)
    assert "of 1 that all have" in found.sentence
    apart = decide(CELLS, [without(whole[0], "relu"), without(whole[1], "prelu")])
    assert (apart.word, apart.n) == ("UNDECIDED", 2)
    assert "no other function in common" in apart.sentence
    assert decide(CELLS, whole[:1]) is None


def test_a_recorded_verdict_speaks_for_a_cell_without_predictions() -> None:
    behind = cell(7, -0.03)
    kept = behind.verdict(baseline="arelu")
    fixed = dataclasses.replace(behind, design="official", examples=None, kept=kept, baseline="arelu")
    found = decide(CELLS, [*(cell(i, 0.02) for i in range(7)), fixed])
    assert (found.word, found.rival) == ("REFUTED", "relu")


@pytest.mark.parametrize(
    ("leads", "direction", "times", "word"),
    [
        ((0.06, 0.01), "larger", 2, "SUPPORTED"),
        ((0.03, 0.02), "larger", 2, "REFUTED"),
        ((0.03, 0.02), "larger", 1, "SUPPORTED"),
        ((0.04, 0.02), "larger", 2, "UNDECIDED"),
        # Twice of a lag is less than a lag, and no lead.
        ((-0.01, -0.02), "larger", 2, "UNDECIDED"),
        ((-0.05, -0.01), "larger", 2, "UNDECIDED"),
        ((0.02, 0.02), "same", 1, "SUPPORTED"),
        ((0.05, 0.02), "same", 1, "REFUTED"),
        ((0.027, 0.02), "same", 1, "UNDECIDED"),
    ],
)
def test_a_lead_is_another_in_another_study(leads: tuple[float, float], direction: Any, times: float, word: str) -> None:
    def of(name: str, lead: float, **changes: Any) -> Evidence:
        given = evidence({"relu": BASE, "arelu": raised(lead)})
        return dataclasses.replace(given, name=name, directory=name, **changes)

    test = InteractionTest("one", "two", "arelu", ("relu",), "test_accuracy", direction, 0.008, times)
    found = decide(test, [of("one", leads[0]), of("two", leads[1])])
    assert (found.word, found.n, found.rival) == (word, 10, "relu")
    assert found.difference == pytest.approx(leads[0] - times * leads[1], abs=1e-3)
    assert found.low < found.difference < found.high
    half = of("two", leads[1], remarks=("Half of it.",))
    half = dataclasses.replace(half, rows=[*half.rows, {**half.rows[0], "fold": 10, "outcome": "missing"}])
    told = decide(test, [of("one", leads[0]), half])
    assert (told.unfinished, told.remarks) == (1, ("Half of it.",))
    assert decide(test, [of("one", 0.1), of("two", 0.1, activations=("relu",))]) is None
    single = decide(
        test, [dataclasses.replace(e, rows=[r for r in e.rows if r["fold"] == 0]) for e in (of("one", 0.1), of("two", 0.0))]
    )
    assert (single.word, single.n) == ("UNDECIDED", 1)


def test_the_interval_of_a_difference_of_leads_holds_what_it_says() -> None:
    generator = np.random.default_rng(1)
    inside = 0
    for _ in range(200):
        parts = []
        for name, lead in (("one", 0.03), ("two", 0.02)):
            base = 0.8 + 0.01 * generator.normal(size=10)
            given = evidence({"relu": base.tolist(), "arelu": (base + lead + 0.01 * generator.normal(size=10)).tolist()})
            parts.append(dataclasses.replace(given, name=name, directory=name))
        found = decide(InteractionTest("one", "two", "arelu", ("relu",), "gap", "same", 0.01), parts)
        assert found is not None
        assert found.word == "UNDECIDED"
        found = decide(InteractionTest("one", "two", "arelu", ("relu",), "test_accuracy", "same", 0.01), parts)
        inside += found.low <= 0.01 <= found.high
    # Folds are corrected for the examples that they share, which these made-up ones do not: wider than 95 %.
    assert inside >= 190


def test_cells_of_one_size_are_put_together() -> None:
    parts: dict[str, Evidence | None] = {}

    class Held(Known):
        def best(self, name: str, tier: str | None = None) -> Evidence | None:
            return parts.get(f"{name} {tier}")

    def at(name: str, tier: str) -> Evidence:
        return dataclasses.replace(evidence({"relu": BASE, "arelu": raised(0.03)}, tier), name=name, directory=name)

    test = CellsTest("a", "arelu", "accuracy", 0.005, ("b", "c"))
    asked = dataclasses.replace(papers.claims("aaf")[0], studies=("a", "b", "c"), tests=(test,))
    parts |= {"a full": at("a", "full"), "b lite": at("b", "lite"), "c lite": at("c", "lite")}
    (found,) = settle(asked, Held(None)).findings
    assert (found.n, found.tier) == (2, "lite")
    del parts["c lite"]
    assert settle(asked, Held(None)).findings == ()
    # Two leads are compared at one size as well, and both studies are needed.
    leads = InteractionTest("a", "b", "arelu", ("relu",), "test_accuracy", "same", 0.01)
    asked = dataclasses.replace(asked, tests=(leads,))
    assert settle(asked, Held(None)).state == "not run"
    parts["a lite"] = at("a", "lite")
    (found,) = settle(asked, Held(None)).findings
    assert (found.word, found.tier, found.difference) == ("SUPPORTED", "lite", 0.0)
    # Which activations were run changes nothing of those that both have; another number of epochs does.
    parts["a lite"] = dataclasses.replace(at("a", "lite"), changes=("-a relu", "-a arelu"))
    assert len(settle(asked, Held(None)).findings) == 1
    parts["a lite"] = dataclasses.replace(at("a", "lite"), changes=("train.epochs=2",))
    assert settle(asked, Held(None)).findings == ()


def test_columns_that_are_no_scores_are_compared_too() -> None:
    times = {"relu": [1.0 + 0.01 * i for i in range(10)], "srelu": [1.3 + 0.012 * i for i in range(10)]}
    given = evidence({"relu": BASE, "srelu": BASE}, seconds_per_epoch=times)
    slower = decide(claim(metric="seconds_per_epoch", direction="lower", margin=0.0), given)
    assert (slower.word, slower.verdict) == ("REFUTED", "WORSE")
    assert slower.difference == pytest.approx(0.309)
    assert decide(claim(metric="seconds_per_epoch", direction="higher", margin=0.0), given).word == "SUPPORTED"


def test_counts_that_happen_to_agree_are_no_identity() -> None:
    gaps = {"relu": [0.02] * 10, "srelu": [0.02] * 10}
    tied = evidence({"relu": BASE, "srelu": raised(0.01)}, gap=gaps)
    assert decide(claim(metric="gap", direction="lower"), tied).word == "UNDECIDED"
    rows = [{**row, "test_loss": 0.5} for row in tied.rows]
    same = Evidence(**{**vars(tied), "rows": rows})
    assert decide(claim(metric="gap", direction="lower"), same).word == "REFUTED"


def test_what_is_not_in_the_rows_has_no_finding() -> None:
    assert decide(claim(contender="gelu"), evidence({"relu": BASE, "srelu": BASE})) is None
    found = decide(claim(metric="gap"), evidence({"relu": BASE, "srelu": BASE}))
    assert (found.word, found.n) == ("UNDECIDED", 0)


def test_a_reduced_tier_is_part_of_the_word() -> None:
    found = decide(claim(), evidence({"relu": BASE, "srelu": raised(0.03)}, tier="smoke"))
    assert found.word == "SUPPORTED"
    assert found.label == "SUPPORTED at the smoke tier only"
