from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import driver
import networks
import numpy as np
import polars as pl
import pytest

from pliant.lab import Study, run
from pliant.lab.executors import Event, LocalExecutor, local
from pliant.lab.result import Result
from pliant.lab.run import TrialWork
from pliant.lab.store import StorageFullError, Store, StoreVersionError
from pliant.lab.study import _loaded as loaded
from pliant.lab.study import plan


class Log:
    def __init__(self) -> None:
        self.waiting = -1
        self.kinds: list[str] = []

    def planned(self, study, trials, waiting) -> None:
        self.waiting = len(waiting)

    def event(self, event: Event, trial) -> None:
        self.kinds.append(event.kind)

    def finished(self) -> None:
        self.kinds.append("end")


def numbers(result: Result) -> list[dict[str, object]]:
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in result.rows]


def histories(result: Result) -> list[list[dict[str, object]]]:
    return [[{**e, "seconds": 0} for e in result.store.trial(spec.key).history()] for spec in result.trials]


def test_a_finished_study_does_no_work_and_gives_the_same(small: Study, tmp_path: Path) -> None:
    first, log = run(small, store=tmp_path), Log()
    again = run(small, store=tmp_path, progress=log)
    assert log.waiting == 0
    assert log.kinds == ["end"]
    assert again.rows == first.rows
    assert first.counts == {"done": 4, "diverged": 0, "failed": 0, "missing": 0}


def test_a_larger_study_trains_only_what_is_new(small: Study, tmp_path: Path) -> None:
    run(small, store=tmp_path)
    log = Log()
    run(small.only(["relu", "arelu", "gelu"]), store=tmp_path, progress=log)
    assert log.waiting == 2


def test_serial_and_local_give_the_same_numbers(small: Study, tmp_path: Path) -> None:
    one = run(small, store=tmp_path / "serial")
    log = Log()
    two = run(small, store=tmp_path / "local", on="local:2", progress=log)
    assert numbers(one) == numbers(two)
    assert histories(one) == histories(two)
    assert log.kinds.count("finished") == 4
    assert log.kinds.count("progress") == 12


def test_studies_that_share_workers_give_the_numbers_that_each_gives_alone(
    small: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits = Study(
        name="digits",
        dataset="digits",
        model={"name": "ffnn", "options": {"width": 8}},
        activations=["relu", "arelu"],
        folds=2,
        repeats=1,
        epochs=1,
    )
    start = local._Worker.__init__
    started: list[local._Worker] = []

    def counted(self: local._Worker, *arguments: object) -> None:
        started.append(self)
        start(self, *arguments)

    monkeypatch.setattr(local._Worker, "__init__", counted)
    with LocalExecutor(1) as executor:
        shared = [run(study, store=tmp_path / "shared", on=executor) for study in (small, digits, small.only(["relu", "gelu"]))]
    assert len(started) == 1, "a worker for all of them"
    alone = [run(study, store=tmp_path / study.directory) for study in (small, digits, small.only(["relu", "gelu"]))]
    for one, other in zip(shared, alone, strict=True):
        assert numbers(one) == numbers(other)
        assert histories(one) == histories(other)
        assert one.counts["done"] == 4


def test_work_lets_go_of_its_data(small: Study, tmp_path: Path) -> None:
    run(small, store=tmp_path)
    assert small.dataset.name in str(loaded)
    TrialWork(str(tmp_path), small.custom, 20.0, True).release()
    assert not loaded


def test_a_users_own_model_data_and_activation_run_in_worker_processes(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(60, 30))
    study = Study(
        name="own",
        data=(x, (x[:, 0] > 0).astype(int)),
        model=networks.tiny,
        activations=["relu", networks.MyReLU],
        folds=2,
        repeats=1,
        epochs=2,
    )
    result = run(study, store=tmp_path, on="local:1")
    assert result.counts["done"] == 4
    assert result.report().exists()


def test_a_trial_that_raises_is_failed_and_the_others_finish(tmp_path: Path) -> None:
    class Raises(networks.MyReLU):
        def forward(self, x):
            if self.training:
                raise RuntimeError("no luck")
            return x

    study = Study(
        name="raises", dataset="wdbc", model=networks.tiny, activations=["relu", Raises], folds=2, repeats=1, epochs=2
    )
    result = run(study, store=tmp_path)
    assert result.counts == {"done": 2, "diverged": 0, "failed": 2, "missing": 0}
    errors = [r["error"] for r in result.rows if r["outcome"] == "failed"]
    assert all("RuntimeError: no luck" in e for e in errors)
    page = result.report().read_text()
    assert "no luck" in page
    log = Log()
    run(study, store=tmp_path, progress=log)
    assert log.waiting == 2, "failed trials are tried again, finished ones are not"


def test_rows_are_written_as_csv_and_parquet(small: Study, tmp_path: Path) -> None:
    result = run(small, store=tmp_path)
    folder = result.report(tmp_path / "out").parent
    csv, parquet = pl.read_csv(folder / "rows.csv"), pl.read_parquet(folder / "rows.parquet")
    assert csv.height == parquet.height == 4
    assert parquet["test_accuracy"].to_list() == [r["test_accuracy"] for r in result.rows]
    assert csv["key"].to_list() == [s.key for s in plan(small)]
    assert result.frame().columns == parquet.columns


def test_another_baseline_turns_the_differences_round(small: Study, tmp_path: Path) -> None:
    result = run(small, store=tmp_path)
    (one,), (two,) = result.verdict().comparisons, result.verdict(baseline="arelu").comparisons
    assert one.difference == pytest.approx(-two.difference)


def test_a_study_that_has_not_run_has_a_report_that_says_so(small: Study, tmp_path: Path) -> None:
    result = Result(small, Store(tmp_path))
    assert result.counts["missing"] == 4
    assert "missing" in result.report().read_text()


def test_a_store_of_another_version(small: Study, tmp_path: Path) -> None:
    run(small, store=tmp_path)
    stamp = json.loads((tmp_path / "store.json").read_text())
    (tmp_path / "store.json").write_text(json.dumps({**stamp, "version": 99}))
    with pytest.raises(StoreVersionError, match="99"):
        run(small, store=tmp_path)


def test_a_full_disk_stops_the_run_and_loses_nothing_finished(
    small: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.fsync, {"left": 40}

    def fsync(descriptor: int) -> None:
        calls["left"] -= 1
        if calls["left"] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StorageFullError, match="space"):
        run(small, store=tmp_path, checkpoint_every=0)
    monkeypatch.undo()
    kept = Result(small, Store(tmp_path)).counts
    assert 0 < kept["done"] < 4
    assert kept["failed"] == 0
    finished = numbers(run(small, store=tmp_path))
    assert finished == numbers(run(small, store=tmp_path / "other"))


def campaign(folder: Path, kills: int, executor: str, stack: int = 1) -> None:
    """Kill a study again and again, then let it finish: it must give what it gives undisturbed. One by one to the last bit; a
    stack that was killed while it wrote its checkpoints goes on as two, whose sums are rounded differently."""
    chance = random.Random(len(executor) * 1000 + kills)
    whole = run(driver.STUDY, store=folder / "whole", on=executor, stack=stack)
    store, survived = folder / "killed", 0
    while survived < kills:
        # Alternately the whole group and the driver alone, whose workers must then stop by themselves.
        process = subprocess.Popen(
            [sys.executable, driver.__file__, str(store), executor, str(stack)], stdout=subprocess.PIPE, start_new_session=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"running\n"
        # A uniform wait spends most kills in start-up; half of them wait for a trial to be under way.
        if chance.random() < 0.5:
            before = set(store.glob("trials/*/*/checkpoint.safetensors"))
            deadline = time.monotonic() + 20
            while not set(store.glob("trials/*/*/checkpoint.safetensors")) - before and time.monotonic() < deadline:
                if process.poll() is not None:
                    break
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.3))
        else:
            time.sleep(chance.uniform(0, 3))
        if process.poll() is not None:
            # It finished before it could be killed; begin another store, so that every kill hits work.
            assert process.returncode == 0
            compare(whole, store, stack)
            store = folder / f"killed-{survived}"
            continue
        if chance.random() < 0.5:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
        process.stdout.close()
        survived += 1
        if store.exists():
            for file in store.rglob("*.json"):
                json.loads(file.read_text())
    compare(whole, store, stack)


def compare(whole: Result, store: Path, stack: int) -> None:
    resumed = run(driver.STUDY, store=store, stack=stack)
    if stack == 1:
        assert numbers(resumed) == numbers(whole)
        assert histories(resumed) == histories(whole)
    for a, b in zip(histories(resumed), histories(whole), strict=True):
        assert len(a) == len(b)
        assert [e["train_loss"] for e in a] == pytest.approx([e["train_loss"] for e in b], rel=0.01)
    for spec in whole.trials:
        one, two = whole.store.trial(spec.key), resumed.store.trial(spec.key)
        assert stack > 1 or one.read("predictions.safetensors") == two.read("predictions.safetensors")
        assert {f.name for f in two.path.iterdir()} <= {
            "spec.json",
            "history.jsonl",
            "predictions.safetensors",
            "result.json",
            "lock",
        }


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs POSIX process groups")
def test_killed_a_few_times_and_resumed(tmp_path: Path) -> None:
    campaign(tmp_path, 3, "serial")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs POSIX process groups")
@pytest.mark.parametrize("stack", [1, 3])
@pytest.mark.parametrize("executor", ["serial", "local:2"])
def test_killed_many_times_and_resumed(tmp_path: Path, executor: str, stack: int) -> None:
    campaign(tmp_path, 24, executor, stack)


def test_a_driver_waits_for_trials_that_another_one_holds(small: Study, tmp_path: Path) -> None:
    store = Store(tmp_path)
    held = store.trial(plan(small)[0].key)
    log, released = Log(), []

    class Releases(Log):
        def event(self, event: Event, trial) -> None:
            super().event(event, trial)
            if self.kinds.count("finished") == 3 and not released:
                released.append(lock.__exit__(None, None, None))

    lock = held.lock()
    lock.__enter__()
    log = Releases()
    result = run(small, store=tmp_path, progress=log)
    assert result.counts["done"] == 4
    assert log.kinds.count("finished") == 4, "what another driver held is not told twice"
