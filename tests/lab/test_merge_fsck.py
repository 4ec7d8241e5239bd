"""`pliant merge` and `pliant fsck`: nothing whole is lost, nothing damaged passes."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from test_parcel import KEYS, finish, half

from pliant import cli
from pliant.lab import Study, run
from pliant.lab.fsck import check
from pliant.lab.merge import merge
from pliant.lab.store import Store, StoreError, TrialDirectory

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def other(tmp_path: Path) -> Store:
    return Store(tmp_path / "other")


@pytest.fixture
def pliant(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["pliant", *map(str, arguments)])
        code: object = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return int(code or 0), " ".join((out + err).split())  # type: ignore[call-overload]

    return call


def flip(path: Path, place: int = 5) -> None:
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1
    path.write_bytes(data)


def kinds(store: Store) -> list[tuple[str, str]]:
    return [(f.kind, Path(f.path).name) for f in check(store).findings]


# merge


def test_halves_are_merged_and_it_is_idempotent(store: Store, other: Store) -> None:
    finish(store.trial(KEYS[0]))
    finish(other.trial(KEYS[0]))
    finish(other.trial(KEYS[1]))
    half(other.trial(KEYS[2]))
    other.write_json(other.study("mine") / "study.json", {"name": "mine"})
    first = merge(other, store)
    assert (first.copied, first.known, first.unfinished) == ((KEYS[1],), (KEYS[0],), (KEYS[2],))
    assert first.studies == ("mine",)
    assert first.clean
    assert store.trial(KEYS[1]).result() == other.trial(KEYS[1]).result()
    assert not store.trial(KEYS[2]).path.exists()
    before = {p: p.stat().st_mtime_ns for p in store.root.rglob("*") if p.is_file()}
    again = merge(other, store)
    assert (again.copied, set(again.known), again.studies) == ((), {KEYS[0], KEYS[1]}, ())
    assert {p: p.stat().st_mtime_ns for p in store.root.rglob("*") if p.is_file()} == before
    assert check(store).clean


def test_a_store_copied_half_way_gives_what_is_whole(store: Store, other: Store, tmp_path: Path) -> None:
    keys = [hashlib.sha256(f"trial {i}".encode()).hexdigest() for i in range(30)]
    for key in keys:
        finish(other.trial(key))
    chance = random.Random(0)
    torn = tmp_path / "torn"
    shutil.copytree(other.root, torn)
    files = [p for p in sorted(torn.rglob("*")) if p.is_file() and p.name != "store.json"]
    lost = set()
    for path in chance.sample(files, 25):
        lost.add(path.parent.name)
        if chance.random() < 0.5:
            path.unlink()
        else:
            os.truncate(path, chance.randrange(path.stat().st_size))
    found = merge(Store(torn, create=False), store)
    assert set(found.copied) == set(keys) - lost
    assert set(found.damaged) | set(found.unfinished) == lost
    assert all(store.trial(key).result() is not None for key in found.copied)
    assert check(store).clean
    rest = merge(other, store)
    assert set(rest.copied) == lost
    assert store.keys() == sorted(keys)


def test_another_result_is_a_conflict_and_nothing_is_overwritten(store: Store, other: Store, pliant: Command) -> None:
    ours = finish(store.trial(KEYS[0]), accuracy=0.5).result()
    finish(other.trial(KEYS[0]), accuracy=0.6)
    found = merge(other, store)
    assert "test_accuracy is 0.5 here, 0.6 there" in found.conflicts[KEYS[0]]
    assert not found.clean
    assert store.trial(KEYS[0]).result() == ours
    code, out = pliant("merge", other.root, "--into", store.root)
    assert code == 1
    assert "conflict:" in out
    assert "The one here was kept" in out


def test_times_and_machines_are_no_conflict(store: Store, other: Store) -> None:
    for place, seconds in ((store, 1.0), (other, 2.0)):
        trial = half(place.trial(KEYS[0]))
        row = {"a": 1, "seconds_per_epoch": seconds, "device": str(seconds)}
        trial.finish({"outcome": "done", "row": row, "provenance": {}})
    assert merge(other, store).known == (KEYS[0],)


def test_a_trial_that_is_trained_here_is_left(store: Store, other: Store) -> None:
    finish(other.trial(KEYS[0]))
    with store.trial(KEYS[0]).lock():
        found = merge(other, store)
    assert list(found.busy) == [KEYS[0]]
    assert not found.clean
    assert merge(other, store).copied == (KEYS[0],)


def test_merging_a_store_into_itself(store: Store, pliant: Command, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="into itself"):
        merge(store, store)
    assert pliant("merge", tmp_path / "nowhere", "--into", store.root)[0] == 2


# fsck


def test_a_sound_store_is_clean(store: Store, pliant: Command) -> None:
    finish(store.trial(KEYS[0]))
    half(store.trial(KEYS[1]))
    store.trial(KEYS[2]).fail("no luck", 1)
    found = check(store)
    assert (found.trials, found.finished, found.unfinished, found.busy, found.unlisted) == (3, 1, 2, 0, 3)
    assert found.clean
    code, out = pliant("fsck", store.root)
    assert code == 0
    assert "3 trials: 1 finished and whole, 2 not finished" in out


def test_every_flipped_bit_of_a_trial_is_found(store: Store) -> None:
    finish(store.trial(KEYS[0]))
    half(store.trial(KEYS[1]))
    missed = []
    tried = 0
    for key in KEYS[:2]:
        for path in sorted(store.trial(key).path.iterdir()):
            if key == KEYS[1] and path.name == "spec.json":
                # Of an unfinished trial nothing but its key protects the spec, see the test with a real one.
                continue
            whole = path.read_bytes()
            for place in range(0, len(whole), 3):
                tried += 1
                flip(path, place)
                if not any(key == f.key for f in check(store).findings):
                    missed.append((path.name, place))
                path.write_bytes(whole)
    assert missed == []
    assert tried > 200
    assert check(store).clean


@pytest.mark.parametrize("name", ["spec.json", "history.jsonl", "predictions.safetensors"])
def test_a_lost_file_is_found(store: Store, name: str) -> None:
    trial = finish(store.trial(KEYS[0]))
    (trial.path / name).unlink()
    assert ("damaged", name) in kinds(store)


def test_what_does_not_belong_there_is_found_and_left(store: Store) -> None:
    trial = finish(store.trial(KEYS[0]))
    strangers = [
        store.root / "notes.txt",
        trial.path / "model.pkl",
        store.root / "trials" / "zz.txt",
        store.root / "trials" / KEYS[1][:2] / KEYS[0],
    ]
    for path in strangers:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    found = check(store, repair=True)
    assert {Path(f.path) for f in found.findings} == set(strangers)
    assert {f.kind for f in found.findings} == {"foreign"}
    assert all(path.exists() for path in strangers)
    assert found.redo == {}


def test_what_a_kill_left_behind(store: Store) -> None:
    trial = half(store.trial(KEYS[0]))
    with open(trial.path / "history.jsonl", "ab") as file:
        file.write(b'{"epoch"')
    done = finish(store.trial(KEYS[1]))
    (done.path / "checkpoint.safetensors").write_bytes(b"old")
    (store.root / ".store.json.1-ab.tmp").write_bytes(b"")
    (store.study("mine") / "driver-1.lock").write_text(json.dumps({"pid": 2**22 - 1, "host": os.uname().nodename}))
    store.write_json(store.study("mine") / "study.json", {})
    expected = {
        ("torn", "history.jsonl"),
        ("leftover", "checkpoint.safetensors"),
        ("leftover", ".store.json.1-ab.tmp"),
        ("leftover", "driver-1.lock"),
    }
    assert set(kinds(store)) == expected
    found = check(store, repair=True)
    assert {f.kind for f in found.findings if f.repaired} == {"leftover"}
    assert set(kinds(store)) == {("torn", "history.jsonl")}
    assert found.redo == {}
    trial = store.trial(KEYS[0])
    trial.append_history({"epoch": 3})
    assert check(store).clean


def test_trials_under_way_are_left_out(store: Store) -> None:
    trial: TrialDirectory = half(store.trial(KEYS[0]))
    flip(trial.path / "checkpoint.safetensors")
    with trial.lock():
        found = check(store, repair=True)
    assert (found.busy, found.clean) == (1, True)
    assert trial.path.exists()


def test_damaged_lists_of_a_study(store: Store) -> None:
    folder = store.study("mine")
    store.write_json(folder / "study.json", {})
    (folder / "trials.json").write_text('[{"ke')
    assert kinds(store) == [("damaged", "trials.json")]


def test_the_next_run_redoes_what_was_set_aside(small: Study, tmp_path: Path, pliant: Command) -> None:
    whole = run(small, store=tmp_path / "a")
    keys = [spec.key for spec in whole.trials]
    store = whole.store
    flip(store.trial(keys[1]).path / "predictions.safetensors", 300)
    half_done = store.trial(keys[2])
    spec = half_done.path / "spec.json"
    values = json.loads(spec.read_text())
    shutil.rmtree(half_done.path)
    half_done.begin({**values, "seed": values["seed"] + 1})
    code, out = pliant("fsck", store.root)
    assert code == 1
    assert f"damaged: {store.trial(keys[1]).path}/predictions.safetensors: not what its checksum says" in out
    assert "describes another trial than the directory's name says" in out
    assert "2 to be trained again" in out
    code, out = pliant("fsck", store.root, "--repair")
    assert code == 1
    assert "Run the same `pliant run` command of small" in out
    assert pliant("fsck", store.root)[0] == 0
    again = run(small, store=store.root)

    def numbers(result):
        return [{k: v for k, v in row.items() if "seconds" not in k} for row in result.rows]

    assert numbers(again) == numbers(run(small, store=tmp_path / "b"))
    assert len(list((store.root / "damaged").rglob("result.json"))) == 1


def test_fsck_as_json(store: Store, pliant: Command) -> None:
    trial = finish(store.trial(KEYS[0]))
    flip(trial.path / "history.jsonl")
    code, out = pliant("fsck", store.root, "--json")
    document = json.loads(out)
    assert code == 1
    assert document["clean"] is False
    assert [f["kind"] for f in document["findings"]] == ["damaged"]
    assert list(document["redo"]) == [KEYS[0]]
