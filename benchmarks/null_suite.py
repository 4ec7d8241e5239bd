"""How often nothing comes out as a difference, and a difference as a difference, in every design that the lab supports.

Each study goes through `pliant.lab.verdict.judge` as a user's does. Run it as a script to write
``benchmarks/results/null-suite.json``; `scripts/null_table.py` makes the table of docs/verdict.md of it, and
tests/lab/test_null.py runs the same studies, fewer of them.

Three sources, and which one a design has is in its name:

* ``learners``: real resampling of drawn data. Nearest-centroid classifiers, each on features of its own, all equally good; no
  one is better in expectation over data sets.
* ``simulated``: who gets which test example right, from a probit model with effects of the example, of the seed, of the example
  by activation and of the seed by activation; no activation is better in expectation over seeds and examples.
* ``permuted``: stored rows of a real study, the names of its activations shuffled within each fold (within each seed).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pliant.lab.verdict import Sampled, judge, judge_datasets
from pliant.lab.verdict.crossed import from_contributions

RESULTS = Path(__file__).parent / "results" / "null-suite.json"
STORED = Path(__file__).parent / "results" / "null-suite-rows.json"
DIFFERENCES = (0.005, 0.01, 0.02, 0.05)
MARGIN = 0.005
N, FEATURES, SIGNAL = 600, 10, 0.4
NAMES = ("relu", "other")

Rng = np.random.Generator
Word = str
Judged = Callable[[float], Word]


# --- studies of learners -----------------------------------------------------------------------------------------------


def folds_of(rng: Rng, folds: int, repeats: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Which examples are tested: bool, shape (repeats * folds, N)."""
    units = np.arange(N) if groups is None else groups
    count = units.max() + 1
    return np.concatenate([((rng.permutation(count) % folds)[units] == np.arange(folds)[:, None]) for _ in range(repeats)])


def holdouts(rng: Rng, repeats: int) -> np.ndarray:
    test = np.zeros((repeats, N), bool)
    for line in test:
        line[rng.permutation(N)[: N // 5]] = True
    return test


def centroid_accuracy(X: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Of the nearest-centroid classifier, for every row of training and test masks, both (splits, N)."""
    above, below = ((w @ X) / w.sum(axis=1, keepdims=True) for w in (train * (y > 0), train * (y < 0)))
    direction = above - below
    threshold = ((above + below) / 2 * direction).sum(axis=1)
    right = np.where(direction @ X.T > threshold[:, None], 1, -1) == y
    return np.asarray((right & test).sum(axis=1) / test.sum(axis=1))


def learners(folds: int, repeats: int, grouped: bool = False) -> Callable[[Rng], Judged]:
    def study(rng: Rng) -> Judged:
        y = np.where(np.arange(N) % 2 == 0, 1, -1)
        X = rng.normal(size=(2, N, FEATURES)) + SIGNAL * y[:, None]
        groups = None
        if grouped:
            # Sixty groups of ten that share half of the variance: a patient's records look alike.
            groups = rng.permutation(N) // 10
            X = SIGNAL * y[:, None] + math.sqrt(0.5) * (
                (X - SIGNAL * y[:, None]) + rng.normal(size=(2, 60, FEATURES))[:, groups]
            )
        test = holdouts(rng, repeats) if folds == 1 else folds_of(rng, folds, repeats, groups)
        scores = [centroid_accuracy(x, y, ~test, test).reshape(repeats, folds) for x in X]
        sizes = {"n_train": round(float((~test).sum(axis=1).mean())), "n_test": round(float(test.sum(axis=1).mean()))}
        return lambda by: word_of(rows_of(dict(zip(NAMES, (scores[0], scores[1] + by), strict=True)), sizes, folds == 1))

    return study


def rows_of(values: Mapping[str, np.ndarray], sizes: Mapping[str, int], holdout: bool) -> list[dict[str, Any]]:
    rows = []
    for activation, table in values.items():
        for (repeat, fold), value in np.ndenumerate(table):
            row = {"activation": activation, "repeat": repeat, "fold": fold, "seed": 0, "outcome": "done", **sizes}
            rows.append(row | {"test_accuracy": float(value)} | ({"partition": f"holdout {repeat}"} if holdout else {}))
    return rows


def word_of(rows: list[dict[str, Any]], examples: Any = None) -> Word:
    names = tuple(dict.fromkeys(row["activation"] for row in rows))
    verdict = judge(rows, activations=names, labels={}, baseline=names[0], metrics=(), margin=MARGIN, examples=examples)
    return words(c.word for c in verdict.comparisons)


def words(found: Iterator[Word]) -> Word:
    """One word for a family: a false one anywhere is an error of the family."""
    given = list(found)
    return next((w for w in ("BETTER", "WORSE", "EQUIVALENT") if w in given), "CANNOT TELL")


# --- studies on one fixed split ----------------------------------------------------------------------------------------

# Sizes of the effects (seed by activation, example by activation), from none to dominant, and how easy the examples are.
EFFECTS = tuple(
    (s, e, m) for s, e in ((0.0, 0.0), (0.0, 0.3), (0.03, 0.3), (0.1, 0.0), (0.1, 0.3), (0.3, 1.0)) for m in (1.5, 4.0)
)


def fixed(seeds: int, examples: int = 1000) -> Callable[[Rng], Judged]:
    def study(rng: Rng) -> Judged:
        by_seed, by_example, ease = EFFECTS[rng.integers(len(EFFECTS))]
        shared = ease + 1.5 * rng.normal(size=examples) + 0.1 * rng.normal(size=(seeds, 1))
        right = {
            name: shared
            + by_seed * rng.normal(size=(seeds, 1))
            + by_example * rng.normal(size=examples)
            + 0.5 * rng.normal(size=(seeds, examples))
            > 0
            for name in NAMES
        }
        spare = rng.random((seeds, examples))

        def judged(by: float) -> Word:
            # Examples that the other gets wrong turn right until it is better by so much in expectation.
            lift = spare < by / max(by, 1 - right["other"].mean())
            return word_of_fixed({"relu": right["relu"], "other": right["other"] | lift})

        return judged

    return study


def fixed_learners(seeds: int) -> Callable[[Rng], Judged]:
    """The same learner under two names: nearest centroids of bootstrap samples of one training set, tested on one test set."""

    def study(rng: Rng) -> Judged:
        y = np.where(np.arange(N) % 2 == 0, 1, -1)
        X = rng.normal(size=(N, FEATURES)) + SIGNAL * y[:, None]
        right = {}
        for name in NAMES:
            weights = rng.poisson(1.0, size=(seeds, N)) * (np.arange(N) < N // 2)
            above, below = ((w @ X) / w.sum(axis=1, keepdims=True) for w in (weights * (y > 0), weights * (y < 0)))
            direction = above - below
            threshold = ((above + below) / 2 * direction).sum(axis=1)
            right[name] = (np.where(direction @ X.T > threshold[:, None], 1, -1) == y)[:, N // 2 :]
        spare = rng.random(right["other"].shape)

        def judged(by: float) -> Word:
            lift = spare < by / max(by, 1 - right["other"].mean())
            return word_of_fixed({"relu": right["relu"], "other": right["other"] | lift})

        return judged

    return study


def word_of_fixed(right: Mapping[str, np.ndarray]) -> Word:
    rows = [
        {"activation": a, "repeat": k, "fold": 0, "seed": 0, "outcome": "done", "partition": "official"}
        | {"n_train": 5000, "n_test": line.size, "test_accuracy": float(line.mean())}
        for a, table in right.items()
        for k, line in enumerate(table)
    ]

    def examples(row: Mapping[str, Any], metric: str) -> Sampled:
        return from_contributions(right[row["activation"]][row["repeat"]].astype(float), "test")

    return word_of(rows, examples)


# --- studies of many data sets, and of stored rows ---------------------------------------------------------------------


def datasets(count: int, activations: int, test: Any = "signed-rank") -> Callable[[Rng], Judged]:
    def study(rng: Rng) -> Judged:
        # Data sets differ in level and in how far activations are apart on them; both have long tails.
        level, apart = rng.uniform(0.6, 0.95, (count, 1)), 0.01 * rng.lognormal(0, 0.7, (count, 1))
        table = level + apart * rng.normal(size=(count, activations))
        names = [f"a{i}" for i in range(activations)]

        def judged(by: float) -> Word:
            moved = table + by * (np.arange(activations) > 0)
            means = {f"d{i}": dict(zip(names, line.tolist(), strict=True)) for i, line in enumerate(moved)}
            verdict = judge_datasets(means, activations=names, labels={}, baseline="a0", margin=MARGIN, test=test)
            return words(c.word for c in verdict.comparisons)

        return judged

    return study


def permuted_folds() -> Callable[[Rng], Judged]:
    stored = json.loads(STORED.read_text())["folds"]
    scores = np.array([stored["test_accuracy"][a] for a in stored["activations"]])

    def study(rng: Rng) -> Judged:
        order = np.argsort(rng.random(scores.shape), axis=0)
        shuffled = np.take_along_axis(scores, order, axis=0)
        values = dict(zip(stored["activations"], shuffled.reshape(-1, stored["repeats"], stored["folds"]), strict=True))
        return lambda by: word_of(rows_of(values, {"n_train": stored["n_train"], "n_test": stored["n_test"]}, False))

    return study


def permuted_seeds() -> Callable[[Rng], Judged]:
    stored = json.loads(STORED.read_text())["seeds"]
    bits = [[np.frombuffer(bytes.fromhex(line), np.uint8) for line in stored["right"][a]] for a in stored["activations"]]
    right = np.unpackbits(np.array(bits), axis=-1, count=stored["n_test"]).astype(bool)

    def study(rng: Rng) -> Judged:
        order = np.argsort(rng.random(right.shape[:2]), axis=0)
        shuffled = np.take_along_axis(right, order[..., None], axis=0)
        return lambda by: word_of_fixed(dict(zip(stored["activations"], shuffled, strict=True)))

    return study


DESIGNS: dict[str, Callable[[], Callable[[Rng], Judged]]] = {
    "5 folds x 1 (learners)": lambda: learners(5, 1),
    "5 folds x 3 (learners)": lambda: learners(5, 3),
    "10 folds x 10 (learners)": lambda: learners(10, 10),
    "hold-out x 10 (learners)": lambda: learners(1, 10),
    "5 folds x 3, groups (learners)": lambda: learners(5, 3, grouped=True),
    "official, 2 seeds (simulated)": lambda: fixed(2),
    "official, 3 seeds (simulated)": lambda: fixed(3),
    "official, 5 seeds (simulated)": lambda: fixed(5),
    "official, 10 seeds (simulated)": lambda: fixed(10),
    "official, 5 seeds (learners)": lambda: fixed_learners(5),
    "6 data sets, 2 activations (simulated)": lambda: datasets(6, 2),
    "10 data sets, 5 activations (simulated)": lambda: datasets(10, 5),
    "20 data sets, 5 activations (simulated)": lambda: datasets(20, 5),
    "10 data sets, 2 activations, permutation (simulated)": lambda: datasets(10, 2, "permutation"),
    "5 folds x 3, 5 activations (permuted)": permuted_folds,
    "official, 8 seeds, 5 activations (permuted)": permuted_seeds,
}


def measure(design: str, studies: int, seed: int = 0, powered: int = 0) -> dict[str, Any]:
    """Counts of studies that came out different: of nothing, and of each known difference in `powered` of them.

    `wrong_way`: of those with a difference, how many had the wrong sign.
    """
    study, rng = DESIGNS[design](), np.random.default_rng([seed, list(DESIGNS).index(design)])
    different, equivalent, wrong_way = 0, 0, 0
    power = dict.fromkeys(DIFFERENCES, 0)
    for i in range(studies):
        judged = study(rng)
        word = judged(0.0)
        different += word in ("BETTER", "WORSE")
        equivalent += word == "EQUIVALENT"
        for by in DIFFERENCES if i < powered else ():
            word = judged(by)
            power[by] += word == "BETTER"
            wrong_way += word == "WORSE"
    found = {"studies": studies, "different": different, "equivalent": equivalent}
    return found | (
        {"powered": powered, "power": {f"{by:g}": n for by, n in power.items()}, "wrong_way": wrong_way} if powered else {}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("designs", nargs="*", default=list(DESIGNS), help="default: all")
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--powered", type=int, default=400)
    arguments = parser.parse_args()
    for design in arguments.designs:
        powered = 0 if "permuted" in design else arguments.powered
        found = measure(design, arguments.studies, powered=powered)
        print(design, found, flush=True)
        # Read again each time, so that designs measured side by side do not undo each other.
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        kept[design] = found
        RESULTS.write_text(json.dumps({d: kept[d] for d in DESIGNS if d in kept}, indent=1) + "\n")


if __name__ == "__main__":
    main()
