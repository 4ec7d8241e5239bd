"""Large studies stay responsive: bounds on processor time, wide enough for a slow machine, and growth that is not quadratic."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import synthetic_store

from pliant.lab.result import Result
from pliant.lab.run import _listed
from pliant.lab.status import TRIALS, Watch
from pliant.lab.store import Store
from pliant.lab.study import Study, plan


def seconds(work: Callable[[], object]) -> float:
    """Of the processor; what else the machine does is not ours."""
    start = time.process_time()
    work()
    return time.process_time() - start


def kept(root: Path, study: Study, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    store = synthetic_store.many(root, study, kinds=5)
    trials = plan(study)
    store.write_json(store.study(study.directory) / "study.json", study.model_dump(mode="json"))
    store.write_json(store.study(study.directory) / TRIALS, _listed(study, trials))
    return store


def test_ten_thousand_trials_are_planned_at_once() -> None:
    study = synthetic_store.study_of(125, 5)
    plan(synthetic_store.study_of(1, 5))
    assert seconds(lambda: [spec.key for spec in plan(study)]) < 5
    specs = plan(study)
    assert len({spec.key for spec in specs}) == len(set(specs)) == 10_000


def test_a_copy_of_a_trial_has_a_key_of_its_own() -> None:
    """A key is found once and kept, and must not go along when a spec is copied to be changed."""
    spec = plan(synthetic_store.study_of(1, 5))[0]
    key = spec.key
    other = spec.model_copy(update={"repeat": 7})
    assert other.key != key
    assert other.model_copy(update={"repeat": 0}).key == key
    assert other.model_copy(deep=True).key == other.key
    assert spec == plan(synthetic_store.study_of(1, 5))[0]


def test_a_look_at_many_trials_grows_with_their_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    took = []
    for repeats in (2, 8):
        study = synthetic_store.study_of(repeats, 5)
        watch = Watch(kept(tmp_path / str(repeats), study, monkeypatch), study.directory)
        took.append(seconds(watch.look))
        # What is finished is not read again.
        assert seconds(watch.look) < took[-1] / 3 + 0.05
    # Four times the trials: quadratic work would take sixteen times as long.
    assert took[1] < 10 * took[0] + 0.05


@pytest.mark.slow
def test_twenty_thousand_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = synthetic_store.study_of(250, 5)
    store = kept(tmp_path, study, monkeypatch)
    watch = Watch(store, study.directory)
    assert seconds(watch.look) < 20
    assert watch.look().counts["done"] == 20_000
    result = Result(study, store)
    assert seconds(lambda: result.trial_rows) < 60
    assert seconds(result.expected_precision) < 20
    assert seconds(store.keys) < 2
