"""Records: what is written comes back, gives the same verdict without a store, and tells when it was changed."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from pliant.lab import Data, Protocol, Result, Study, records, run
from pliant.lab.evidence import Evidence
from pliant.lab.records import Record, RecordError
from pliant.lab.store import Store


def near(a: object, b: object) -> bool:
    """Equal, with nan equal to nan."""
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(near(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(near, a, b))
    return a == b


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Three seeds on the official split of made-up images: what needs predictions for its verdict."""
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    x = (rng.normal(0, 1.2, (90, 6)) + np.eye(3)[y] @ rng.normal(0, 1, (3, 6))).astype(np.float32)
    data = Data.of(x, y, classes=("a", "b", "c"), parts=np.repeat([0, 2], [60, 30]))
    study = Study(
        name="fixed",
        data=data,
        model={"name": "ffnn", "options": {"width": 8}},
        activations=["relu", "tanh", "arelu"],
        protocol=Protocol(design="official", repeats=3),
        epochs=3,
    )
    return run(study, store=tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> Result:
    study = Study(
        name="folds",
        dataset="wdbc",
        model={"name": "ffnn", "options": {"width": 8}},
        activations=["relu", "arelu", "dsrelu"],
        folds=2,
        repeats=2,
        epochs=3,
    )
    return run(study, store=tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def kept(folds: Result, tmp_path_factory: pytest.TempPathFactory) -> Record:
    return records.read(records.write(folds, tmp_path_factory.mktemp("records"), command="pliant run folds"))


def test_rows_come_back_digit_for_digit(folds: Result, kept: Record) -> None:
    expected = [{k: v for k, v in row.items() if k != "error"} for row in folds.rows]
    assert near(list(kept.evidence.rows), expected)
    assert kept.about["command"] == "pliant run folds"
    assert kept.study["train"]["epochs"] == 3
    assert kept.about["environment"]["Device of the trials"] == "cpu"


def test_the_verdict_follows_from_the_rows_alone(folds: Result, kept: Record) -> None:
    again = dataclasses.replace(kept.evidence, kept=None).verdict(metrics=list(kept.verdict.estimates))
    assert near(dataclasses.asdict(again), dataclasses.asdict(kept.verdict))
    own = folds.verdict()
    assert near(dataclasses.asdict(own)["comparisons"], dataclasses.asdict(kept.verdict)["comparisons"])


def test_confusions_are_those_of_the_store(folds: Result, kept: Record, official: Result, tmp_path: Path) -> None:
    fixed = records.read(records.write(official, tmp_path, command="python mine.py"))
    for result, record in ((folds, kept), (official, fixed)):
        found = record.evidence.confusions()
        assert found == Evidence.of(result).confusions()
        assert set(found) == set(result.study.activations)
        for activation, cells in found.items():
            tested = [row["n_test"] for row in result.rows if row["activation"] == activation]
            assert sum(cells.values()) == sum(tested)
            right = sum(n for (true, told), n in cells.items() if true == told)
            scores = [row["test_accuracy"] * row["n_test"] for row in result.rows if row["activation"] == activation]
            assert right == pytest.approx(sum(scores))


def test_what_was_learned_is_what_the_histories_end_with(folds: Result, kept: Record) -> None:
    found = kept.evidence.learned()
    assert found == Evidence.of(folds).learned()
    assert set(found) == {"arelu"}
    rows = [row for row in folds.rows if row["activation"] == "arelu"]
    for row, sites in zip(rows, found["arelu"], strict=True):
        assert sites == folds.store.trial(row["key"]).history()[-1]["coefficients"]
    assert (kept.evidence.classes, sum(map(len, found["arelu"][0].values()))) == (2, 4 * len(found["arelu"][0]))


def test_a_fixed_split_is_judged_from_the_recorded_classes(official: Result, tmp_path: Path) -> None:
    record = records.read(records.write(official, tmp_path, command="python mine.py"))
    assert (record.path / "predictions.npz").stat().st_size < 5000
    assert not record.about["left_out"]
    again = dataclasses.replace(record.evidence, kept=None).verdict(metrics=list(record.verdict.estimates))
    expected, found = (json.loads(json.dumps(dataclasses.asdict(v))) for v in (record.verdict, again))
    assert any(c.n == 3 and math.isfinite(c.low) for c in record.verdict.comparisons)
    assert near(found, expected)
    # And from the probabilities themselves.
    assert near(official.verdict().comparisons, record.verdict.comparisons)


def test_predictions_that_are_too_large_are_left_out_and_said(
    official: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "LARGEST", 100)
    record = records.read(records.write(official, tmp_path, command="python mine.py"))
    assert any(told.startswith("predictions:") for told in record.about["left_out"])
    assert any(told.startswith("figures/curves.svg:") for told in record.about["left_out"])
    assert not (record.path / "figures").exists()
    # The words are still there, as they were computed.
    assert [c.word for c in record.verdict.comparisons] == [c.word for c in official.verdict().comparisons]
    assert record.evidence.estimate("relu", "test_accuracy") == official.verdict().estimates["accuracy"][0]


def test_a_changed_row_is_told(folds: Result, tmp_path: Path) -> None:
    path = records.write(folds, tmp_path, command="pliant run folds")
    rows = path / "rows.csv"
    rows.write_text(rows.read_text().replace("done", "diverged", 1))
    with pytest.raises(RecordError, match=r"rows\.csv is not what was recorded"):
        records.read(path)
    rows.unlink()
    with pytest.raises(RecordError, match="cannot be read"):
        records.find(tmp_path)


def test_another_version_and_no_json_are_told(folds: Result, tmp_path: Path) -> None:
    path = records.write(folds, tmp_path, command="pliant run folds")
    about = json.loads((path / "record.json").read_text())
    (path / "record.json").write_text(json.dumps({**about, "version": 2}))
    with pytest.raises(RecordError, match="version 2"):
        records.read(path)
    (path / "record.json").write_text(json.dumps({**about, "command": "pliant run something-else"}))
    with pytest.raises(RecordError, match=r"record\.json is not what was recorded"):
        records.read(path)
    (path / "record.json").write_text("{")
    with pytest.raises(RecordError, match="not JSON"):
        records.read(path)


def test_recording_again_gives_the_same_bytes_and_no_leftovers(folds: Result, tmp_path: Path) -> None:
    path = records.write(folds, tmp_path, command="pliant run folds")
    before = {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()}
    (path / "figures" / "old.svg").write_text("<svg/>")
    records.write(folds, tmp_path, command="pliant run folds")
    assert {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()} == before


def test_nothing_of_weights_or_machines_is_in_it(folds: Result, kept: Record) -> None:
    files = [p for p in kept.path.rglob("*") if p.is_file()]
    assert {p.suffix for p in files} == {".json", ".csv", ".svg"}
    text = "".join(p.read_text() for p in files)
    assert str(folds.store.root) not in text
    assert str(Path.home()) not in text


def test_an_unfinished_study_is_recorded_as_such_and_an_empty_one_not(folds: Result, tmp_path: Path) -> None:
    larger = folds.study.override(["protocol.repeats=3"])
    record = records.read(records.write(Result(larger, folds.store), tmp_path, command="pliant run folds"))
    assert record.about["outcomes"] == {"done": 12, "diverged": 0, "failed": 0, "missing": 6}
    assert record.evidence.scored == 12
    assert "not the study as it is defined" in record.evidence.remarks[0]
    index = (tmp_path / "README.md").read_text()
    assert "12 of 18" in index
    assert "full, changed" in index
    with pytest.raises(RecordError, match="no finished trial"):
        records.write(Result(folds.study, Store(tmp_path / "empty")), tmp_path, command="pliant run folds")


def test_estimates_of_any_column(folds: Result) -> None:
    evidence = Evidence.of(folds)
    accuracy = evidence.estimate("relu", "test_accuracy")
    assert accuracy == folds.verdict().estimates["accuracy"][0]
    seconds = evidence.estimate("relu", "seconds_per_epoch")
    assert seconds is not None
    assert seconds.n == 4
    assert seconds.low < seconds.mean < seconds.high
    train = evidence.estimate("relu", "train_accuracy")
    assert train is not None
    assert train.mean == pytest.approx(np.mean([r["train_accuracy"] for r in folds.rows if r["activation"] == "relu"]))
    assert evidence.estimate("relu", "no_such_column") is None
    assert evidence.estimate("gelu", "test_accuracy") is None


def test_each_learning_rate_is_kept(tmp_path: Path) -> None:
    study = Study(
        name="tuned",
        dataset="wdbc",
        model={"name": "ffnn", "options": {"width": 4}},
        activations=["relu", "tanh"],
        folds=2,
        repeats=1,
        train={"epochs": 1, "lr_grid": [1e-3, 1e-2]},
    )
    path = records.write(run(study, store=tmp_path / "store"), tmp_path / "records", command="pliant run tuned")
    assert len((path / "trials.csv").read_text().splitlines()) == 9
    assert len(records.read(path).evidence.rows) == 4


def test_the_command(pliant, tmp_path: Path) -> None:
    small = ["srelu-wdbc", "--folds", "2", "--repeats", "1", "--set", "train.epochs=2", "-a", "srelu"]
    code, _, err = pliant("record", *small)
    assert code == 2
    assert "There is no store" in err
    pliant("run", *small, "--on", "serial", "-q")
    code, out, err = pliant("record", *small, "--into", "kept")
    assert code == 0, err
    assert "Record: kept/srelu-wdbc." in out
    (record,) = records.find(tmp_path / "kept").values()
    assert record.about["command"].startswith("pliant run srelu-wdbc --set protocol.folds=2")
    assert record.name in (tmp_path / "kept" / "README.md").read_text()
