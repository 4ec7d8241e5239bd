"""The report of real stores, whole and half-written, its rule of consistency, and the files beside the page."""

from __future__ import annotations

import csv
import dataclasses
import html
import math
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from synthetic_store import filled, finish, study_of

from pliant.lab import papers
from pliant.lab.report import ReportData, build, write_figures, write_tables
from pliant.lab.report.agreement import RULE, agreement
from pliant.lab.report.page import main_table
from pliant.lab.report.wording import metric
from pliant.lab.result import Result
from pliant.lab.store import Store
from pliant.lab.study import Study
from pliant.lab.verdict import Estimate, judge

MEGABYTE = 1024 * 1024


def estimate(n: int = 10, mean: float = 0.96, half: float = 0.01, sd: float = 0.02) -> Estimate:
    return Estimate("relu", "ReLU", n, 0, 0, 0, mean, mean - half, mean + half, sd)


@pytest.mark.parametrize(
    ("entry", "consistent"),
    [
        ({"value": 96.9, "unit": "%"}, True),
        ({"value": 97.1, "unit": "%"}, False),
        ({"value": 97.1, "unit": "%", "runs": 5}, False),
        # One new run: 2.262 * 2 points * sqrt(1.1) = 4.745 points about the mean.
        ({"value": 97.1, "unit": "%", "runs": 1}, True),
        ({"value": 100.0, "unit": "%", "digits": 2, "runs": 1}, True),
        ({"value": 91.3, "unit": "%", "runs": 1}, True),
        ({"value": 91.1, "unit": "%", "runs": 1}, False),
        ({"value": 0.95}, True),
        ({"value": 0.949, "unit": "fraction"}, False),
        # 97.04 is printed as 97.0; the edge of the interval is 97.
        ({"value": 97.04, "unit": "%", "digits": 2}, False),
        ({"value": 97.0, "unit": "%", "digits": 1}, True),
        ({"value": 97.05, "unit": "%", "digits": 1}, True),
    ],
)
def test_consistent_means_inside_the_interval_that_the_rule_names(entry: dict[str, Any], consistent: bool) -> None:
    found = agreement(estimate(), entry, metric("accuracy"), 0.05)
    assert found is not None
    assert found.consistent is consistent
    assert found.single is (entry.get("runs") == 1)


def test_the_interval_for_one_new_run_is_that_of_a_prediction() -> None:
    found = agreement(estimate(n=5, sd=0.02), {"value": 0.9, "runs": 1}, metric("accuracy"), 0.05)
    assert found is not None
    assert found.high - 0.96 == pytest.approx(2.7764451 * 0.02 * math.sqrt(1.2))


@pytest.mark.parametrize(
    ("ours", "entry"),
    [
        (estimate(n=1, sd=math.nan), {"value": 0.9}),
        (estimate(), {"value": None}),
        (estimate(), {"value": "about 0.9"}),
        (estimate(), {"value": 0.9, "unit": "seconds"}),
        (estimate(half=math.inf), {"value": 0.9}),
    ],
)
def test_where_nothing_can_be_said_nothing_is(ours: Estimate, entry: dict[str, Any]) -> None:
    assert agreement(ours, entry, metric("accuracy"), 0.05) is None


@pytest.fixture(scope="module")
def study() -> Study:
    return study_of(2, 6, ("relu", "srelu", "prelu", "arelu", "dsrelu"))


@pytest.fixture(scope="module")
def whole(study: Study, tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    return Result(study, filled(tmp_path_factory.mktemp("whole"), study)).report_data(command="pliant run srelu-wdbc")


def test_the_paper_table_says_consistent_or_not_by_the_stated_rule(whole: ReportData, tmp_path: Path) -> None:
    printed: list[dict[str, object]] = [
        {"what": "near", "value": 0.99, "activation": "relu", "metric": "accuracy", "runs": 1},
        {"what": "far", "value": 12.0, "unit": "%", "activation": "relu", "metric": "accuracy"},
        {"what": "nameless", "value": 12.0, "unit": "%"},
    ]
    data = dataclasses.replace(whole, printed=printed)
    section = re.search(r'<section id="paper".*?</section>', build(data, tmp_path).read_text(), re.S)
    assert section is not None
    text = html.unescape(section.group())
    assert RULE in text
    assert re.search(r"near.*?>consistent<small>with one new run \[", text, re.S)
    assert re.search(r"far.*?>not consistent<small>with our mean \[", text, re.S)
    # Every deviation of the study is named beside the table and can be reached from it.
    assert len(re.findall(r'href="#deviation-\d+"', text)) == len(whole.deviations) > 0
    write_tables(data, tmp_path)
    latex = (tmp_path / "paper.tex").read_text()
    assert "not consistent" in latex
    assert latex.count(r"\\" + "\n") == 1 + len(printed)


def test_figures_are_files_with_fonts_and_data_and_the_paper_s_names(whole: ReportData, tmp_path: Path) -> None:
    data = dataclasses.replace(whole, names={"curves": "figure_2", "table": "table_1"})
    written = {p.name: p for p in write_figures(data, tmp_path)}
    ids = (
        "forest",
        "folds",
        "gallery",
        "shape",
        "coefficients",
        "layers",
        "increments",
        "single_weights",
        "confusions",
        "calibration",
        "gap",
        "times",
    )
    assert set(written) == {f"{name}.{kind}" for name in (*ids, "figure_2") for kind in ("svg", "pdf", "csv")}
    for name, path in written.items():
        content = path.read_bytes()
        if name.endswith("pdf"):
            assert content.startswith(b"%PDF-")
            assert b"LiberationSans" in content
        elif name.endswith("svg"):
            assert content.startswith(b"<svg")
            assert content.count(b"<path") > 5
    with open(tmp_path / "forest.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert whole.verdict is not None
    differences = [100 * c.difference for c in whole.verdict.comparisons]
    assert [float(line["Difference, points"]) for line in lines] == pytest.approx(differences)
    assert {"table_1.csv", "table_1.tex"} <= {p.name for p in write_tables(data, tmp_path)}
    with open(tmp_path / "table_1.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [float(line["difference"]) for line in table[1:]] == pytest.approx([d / 100 for d in differences])


def test_the_context_of_a_paper_names_its_tables_and_figures() -> None:
    assert papers.context(papers.study("dsrelu-table1")).names == {"table": "table_1", "curves": "figure_2"}
    assert papers.context(papers.study("srelu-wdbc")).names == {}


def test_predictions_of_all_folds_make_the_reliability_diagram(whole: ReportData) -> None:
    assert set(whole.reliability) == {"relu", "srelu", "prelu", "arelu", "dsrelu"}
    for activation, bins in whole.reliability.items():
        assert sum(n for _, _, n in bins) == 10 * 114
        assert sum(map(sum, whole.confusions[activation])) == 10 * 114


def test_learned_shapes_are_the_mean_over_trials_at_each_moment(whole: ReportData) -> None:
    shape = next(s for s in whole.shapes if s.activation == "prelu")
    slopes = [
        epochs[-1]["coefficients"]["act2"]["weight"]  # type: ignore[index]
        for row in whole.rows
        if row["activation"] == "prelu"
        for epochs in [whole.histories[str(row["key"])]]
    ]
    end = next(s for s in shape.stages if (s.name, s.site) == ("epoch 6", "act2"))
    assert end.value[0] == pytest.approx(-5 * sum(slopes) / len(slopes), abs=1e-4)


def broken(root: Path, study: Study) -> Store:
    """A store in which about everything has gone wrong that can."""
    store = Store(root)
    trials = Result(study, None).trials
    for i, spec in enumerate(trials):
        trial = store.trial(spec.key)
        if i % 10 == 3:
            finish(store, spec, "diverged")
        elif i % 10 == 5:
            trial.begin(spec.model_dump(mode="json"))
            trial.fail("RuntimeError: the worker was killed by signal 9", 3)
        elif i % 10 == 7:
            # Killed in the middle of a training: a checkpoint, a history whose last line is torn.
            trial.begin(spec.model_dump(mode="json"))
            trial.append_history({"epoch": 1, "train_loss": 0.5})
            trial.write("checkpoint.safetensors", b"half")
            with open(trial.path / "history.jsonl", "ab") as file:
                file.write(b'{"epoch": 2, "trai')
        elif i % 10 != 9:
            finish(store, spec)
    return store


def test_a_store_with_failed_diverged_missing_and_half_written_trials_says_so(study: Study, tmp_path: Path) -> None:
    result = Result(study, broken(tmp_path / "store", study))
    page = result.report(tmp_path / "out").read_text(encoding="utf-8")
    assert result.counts == {"done": 30, "diverged": 5, "failed": 5, "missing": 10}
    text = html.unescape(page)
    assert "50 trials: 30 done, 5 diverged, 5 failed and 10 missing." in text.replace("\N{NARROW NO-BREAK SPACE}", " ")
    failures = re.search(r'<section id="failures".*?</section>', text, re.S)
    assert failures is not None
    assert failures.group().count("<td>failed</td>") == 5
    assert failures.group().count("<td>diverged</td>") == 5
    assert "killed by signal 9" in failures.group()
    assert "10 trials have not been run" in failures.group().replace("\N{NARROW NO-BREAK SPACE}", " ")
    assert (tmp_path / "out" / "figures" / "forest.pdf").exists()


def test_an_empty_store_gives_a_page_and_no_figure(study: Study, tmp_path: Path) -> None:
    page = Result(study, Store(tmp_path / "store")).report(tmp_path / "out")
    assert "50 trials: 50 missing." in html.unescape(page.read_text(encoding="utf-8")).replace("\N{NARROW NO-BREAK SPACE}", " ")
    assert not (tmp_path / "out" / "figures" / "forest.svg").exists()


def test_released_quirks_stand_above_every_number(whole: ReportData, tmp_path: Path) -> None:
    text = build(dataclasses.replace(whole, remarks=("Released quirks on: q (what it does).",)), tmp_path).read_text()
    assert text.index("Released quirks on: q") < text.index('<section id="verdict"')
    assert text.count("Released quirks on: q") == 1


@pytest.mark.slow
def test_ten_thousand_stored_trials_are_a_page_within_a_minute_and_three_megabytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = study_of(125, 100)
    with monkeypatch.context() as patched:
        # Half a million times the disk's own latency would be measured otherwise, and while the store is made only.
        patched.setattr(os, "fsync", lambda _: None)
        store = filled(tmp_path / "store", big)
    clocks: tuple[Callable[[], float], ...] = (time.process_time, time.perf_counter)
    began = [clock() for clock in clocks]
    result = Result(big, store)
    page = result.report(tmp_path / "out")
    cpu, wall = (clock() - start for clock, start in zip(clocks, began, strict=True))
    size = page.stat().st_size / MEGABYTE
    print(f"{len(result.trials)} trials: {cpu:.1f} s of processor time ({wall:.1f} s in all), {size:.2f} MB")
    assert len(result.trials) == 10_000
    # Of the processor: the machine may be shared, and the report runs in one thread.
    assert cpu < 60
    assert size < 3


def test_the_main_table_always_has_the_metric_of_the_verdict() -> None:
    rows = [
        {
            "activation": a,
            "label": a,
            "repeat": 0,
            "fold": f,
            "seed": 0,
            "outcome": "done",
            "n_train": 80,
            "n_test": 20,
            "test_accuracy": 0.5 + f / 20,
            "test_average_precision": 0.4 + f / 30,
        }
        for a in ("relu", "arelu")
        for f in range(3)
    ]
    verdict = judge(
        rows,
        activations=("relu", "arelu"),
        labels={},
        baseline="relu",
        metric="average_precision",
        metrics=("average_precision", "accuracy"),
        margin=0.01,
    )
    table = main_table(ReportData(title="t", question="", rows=rows, verdict=verdict))
    assert [m.text for m in table.metrics] == ["Average precision", "Accuracy"]
