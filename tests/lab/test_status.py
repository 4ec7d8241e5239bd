"""What is seen of a study from its store alone, whatever state its files are in."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import socket
import sys
import time
from pathlib import Path

import pytest

from pliant.errors import UnknownNameError
from pliant.lab.status import TRIALS, Pace, Watch, matching, seconds_left
from pliant.lab.store import Store, StoreError, TrialDirectory

KEYS = [hashlib.sha256(bytes([i])).hexdigest() for i in range(4)]
ELSEWHERE = "a-machine-far-away"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    folder = store.study("mine")
    store.write_json(folder / "study.json", {})
    store.write_json(
        folder / TRIALS,
        [{"key": k, "label": "ReLU", "repeat": 0, "fold": i, "epochs": 10} for i, k in enumerate(KEYS)],
    )
    return store


def finish(trial: TrialDirectory, outcome: str = "done", seconds: float = 30.0) -> None:
    trial.begin({})
    trial.append_history({"epoch": 10, "seconds": seconds / 10})
    trial.finish({"outcome": outcome, "row": {"seconds": seconds}, "provenance": {}})


def sign(path: Path, host: str, pid: int, age: float = 0.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"pid": pid, "host": host}))
    os.utime(path, (time.time() - age,) * 2)


def test_every_trial_counts_once(store: Store) -> None:
    finish(store.trial(KEYS[0]))
    finish(store.trial(KEYS[1]), "diverged", 50.0)
    store.trial(KEYS[2]).fail("worker died", 3)
    watch = Watch(store, "mine")
    seen = watch.look()
    assert seen.counts == {"done": 1, "diverged": 1, "failed": 1, "running": 0, "missing": 1}
    assert seen.state == "stopped"
    assert seen.seconds_left is None
    assert seen.errors == ("ReLU, repeat 0, fold 2: worker died",)
    with store.driving("mine"), store.trial(KEYS[3]).lock():
        store.trial(KEYS[3]).append_history({"epoch": 4, "seconds": 5.0, "validation_accuracy": 0.9})
        seen = watch.look()
        assert seen.state == "running"
        assert seen.counts["running"] == 1
        assert [(t.fold, t.epoch, t.epochs, t.validation_accuracy) for t in seen.running] == [(3, 4, 10, 0.9)]
        assert seen.drivers[0].pid == os.getpid()
        # 40 s is usual and 20 s are over.
        assert seen.seconds_left == pytest.approx(20)
    finish(store.trial(KEYS[3]))
    finish(store.trial(KEYS[2]))
    assert watch.look().state == "finished"
    assert watch.look().drivers == ()


def test_the_holder_of_a_lock_is_seen_without_taking_it(store: Store) -> None:
    trial = store.trial(KEYS[0])
    assert trial.holder() is None
    with trial.lock():
        holder = store.trial(KEYS[0]).holder()
        assert holder is not None
        assert (holder.pid, holder.host, holder.alive) == (os.getpid(), socket.gethostname(), True)
    assert trial.holder() is None


def test_a_dead_process_runs_nothing(store: Store) -> None:
    process = multiprocessing.get_context("spawn").Process(target=os.getpid)
    process.start()
    process.join()
    sign(store.trial(KEYS[0]).path / "lock", socket.gethostname(), process.pid)
    sign(store.study("mine") / "driver-00000000.lock", socket.gethostname(), process.pid)
    seen = Watch(store, "mine").look()
    assert (seen.state, seen.counts["running"], seen.counts["missing"]) == ("stopped", 0, 4)
    assert [d.alive for d in seen.drivers] == [False]
    with store.driving("mine"):
        assert [d.pid for d in store.drivers("mine")] == [os.getpid()], "the next driver clears the mark away"


@pytest.mark.skipif(sys.platform != "linux", reason="reads when a process began from /proc")
def test_a_number_that_another_process_has_now(store: Store) -> None:
    sign(store.trial(KEYS[0]).path / "lock", socket.gethostname(), os.getpid(), age=10**7)
    assert store.trial(KEYS[0]).holder().alive is False


def test_a_process_of_another_machine_is_believed_for_a_while(store: Store) -> None:
    sign(store.trial(KEYS[0]).path / "lock", ELSEWHERE, 1)
    sign(store.study("mine") / "driver-00000000.lock", ELSEWHERE, 1)
    watch = Watch(store, "mine", patience=60)
    assert watch.look().state == "running"
    later = watch.look(time.time() + 100)
    assert (later.state, later.counts["running"]) == ("silent", 0)
    # Slow epochs are no silence.
    store.trial(KEYS[0]).append_history({"epoch": 1, "seconds": 50.0})
    assert watch.look(time.time() + 100).state == "running"


@pytest.mark.parametrize("torn", [b'{"epoch": 3, "sec', b"\x00\x00", b"not json\n"])
def test_a_torn_history_is_read_up_to_the_tear(store: Store, torn: bytes) -> None:
    trial = store.trial(KEYS[0])
    with trial.lock():
        for epoch in (1, 2):
            trial.append_history({"epoch": epoch, "seconds": 1.0, "coefficients": {"site": [0.5] * 20_000}})
        with open(trial.path / "history.jsonl", "ab") as file:
            file.write(torn)
        assert trial.last_row()["epoch"] == 2
        assert Watch(store, "mine").look().running[0].epoch == 2


def test_empty_and_half_copied_files_are_told_and_read_again(store: Store) -> None:
    trial = store.trial(KEYS[0])
    finish(trial)
    whole = (trial.path / "result.json").read_bytes()
    (trial.path / "result.json").write_bytes(whole[:40])
    (store.trial(KEYS[1]).path).mkdir(parents=True)
    (store.trial(KEYS[1]).path / "lock").write_bytes(b"")
    (store.trial(KEYS[2]).path).mkdir(parents=True)
    (store.trial(KEYS[2]).path / "history.jsonl").write_bytes(b"")
    watch = Watch(store, "mine")
    seen = watch.look()
    assert seen.counts["missing"] == 4
    assert len(seen.problems) == 1
    assert "result.json" in seen.problems[0]
    (trial.path / "result.json").write_bytes(whole)
    assert watch.look().counts["done"] == 1
    assert watch.look().problems == ()


def test_names_of_studies(store: Store) -> None:
    store.write_json(store.study("mine.0123abcd") / "study.json", {})
    store.write_json(store.study("other") / "study.json", {})
    assert matching(store, []) == ["mine", "mine.0123abcd", "other"]
    assert matching(store, ["mine"]) == ["mine", "mine.0123abcd"]
    assert matching(store, ["mine.0123abcd"]) == ["mine.0123abcd"]
    with pytest.raises(UnknownNameError, match="Did you mean 'other'"):
        matching(store, ["othr"])
    with pytest.raises(StoreError, match="no list of its trials"):
        Watch(store, "other").look()
    with pytest.raises(StoreError, match="holds no study yet"):
        matching(Store(store.root.parent / "empty"), [])


def test_seconds_left() -> None:
    assert seconds_left([], [], 5) is None
    assert seconds_left([], [Pace(0, 10, 9.0, None)], 5) is None
    assert seconds_left([], [Pace(2, 10, 20.0, 10.0)], 2) == pytest.approx(80 + 2 * 100)
    # Two at a time halve what waits, and no trial is faster than its own rest.
    assert seconds_left([10.0], [Pace(0, 10, 4.0, None), Pace(0, 10, 4.0, None)], 4) == pytest.approx((6 + 6 + 40) / 2)
    assert seconds_left([10.0], [Pace(1, 10, 20.0, 20.0), Pace(9, 10, 9.0, 1.0)], 0) == pytest.approx(180)
    assert seconds_left([10.0], [], 0) == 0
