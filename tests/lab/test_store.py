"""The store keeps its promises under kills, full disks, other versions, flipped bits and second trainers."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pliant.lab.store as module
from pliant.errors import PliantError
from pliant.lab.store import StorageFullError, Store, StoreError, StoreVersionError, TrialBusyError, TrialDirectory

KEY = hashlib.sha256(b"a trial").hexdigest()
OTHER = hashlib.sha256(b"another trial").hexdigest()

# Imports the store alone, past the packages above it: they may import torch, and two dozen processes start below.
PACKAGES = {"pliant": str(Path(module.__file__).parents[1]), "pliant.lab": str(Path(module.__file__).parent)}
BARE = f"""
import json, os, sys, types
before = set(sys.modules)
for name, path in {PACKAGES}.items():
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [path]
from pliant.lab.store import Store
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def trial(store: Store) -> TrialDirectory:
    trial = store.trial(KEY)
    trial.begin({"activation": "relu"})
    return trial


def finish(trial: TrialDirectory, accuracy: float = 0.5) -> None:
    trial.append_history({"epoch": 1})
    trial.write("predictions.safetensors", b"logits")
    trial.finish({"outcome": "done", "row": {"test_accuracy": accuracy}, "provenance": {"device": "cpu"}})


def bare(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BARE + code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def temporaries(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.name.endswith(".tmp")]


# The life of a trial


def test_a_trial_from_begin_to_finish(store: Store, trial: TrialDirectory) -> None:
    assert trial.path == store.root / "trials" / KEY[:2] / KEY
    assert trial.outcome() == "missing"
    assert trial.result() is None
    assert trial.history() == []
    assert trial.read("checkpoint.safetensors") is None

    trial.append_history({"epoch": 1, "train_loss": 0.7})
    trial.write("checkpoint.safetensors", b"weights")
    trial.append_history({"epoch": 2, "train_loss": 0.6})
    trial.write("predictions.safetensors", b"logits")
    trial.finish({"outcome": "diverged", "row": {"test_loss": 2.5}, "provenance": {"device": "cpu"}})

    assert trial.outcome() == "diverged"
    result = trial.result()
    assert result is not None
    assert result["row"] == {"test_loss": 2.5}
    assert result["files"]["predictions.safetensors"] == hashlib.sha256(b"logits").hexdigest()
    assert result["files"]["history.jsonl"] == hashlib.sha256((trial.path / "history.jsonl").read_bytes()).hexdigest()
    assert sorted(os.listdir(trial.path)) == ["history.jsonl", "predictions.safetensors", "result.json", "spec.json"]
    assert Store(store.root, create=False).trial(KEY).result() == result


def test_begin_keeps_the_spec_and_forgets_a_failure(store: Store, trial: TrialDirectory) -> None:
    trial.fail("worker died: SIGKILL", attempts=3)
    assert trial.outcome() == "failed"
    assert trial.failure() == {"error": "worker died: SIGKILL", "attempts": 3}
    before = (trial.path / "spec.json").stat().st_mtime_ns
    trial.begin({"activation": "relu"})
    assert trial.outcome() == "missing"
    assert trial.failure() is None
    assert (trial.path / "spec.json").stat().st_mtime_ns == before
    assert store.read_json(trial.path / "spec.json") == {"activation": "relu"}


def test_a_finished_trial_is_not_written_to(trial: TrialDirectory) -> None:
    finish(trial)
    before = trial.result()
    writes: list[Callable[[], None]] = [
        lambda: trial.append_history({"epoch": 2}),
        lambda: trial.truncate_history(0),
        lambda: trial.write("predictions.safetensors", b"others"),
        lambda: trial.finish({"outcome": "diverged", "row": {}}),
    ]
    for write in writes:
        with pytest.raises(StoreError, match="is finished"):
            write()
    trial.fail("a late death", attempts=3)
    trial.begin({"activation": "relu"})
    assert trial.result() == before
    assert trial.outcome() == "done"


def test_only_done_and_diverged_finish(trial: TrialDirectory) -> None:
    with pytest.raises(ValueError, match="'failed'"):
        trial.finish({"outcome": "failed", "row": {}})


def test_json_spelling(store: Store, trial: TrialDirectory) -> None:
    trial.append_history({"b": math.nan, "a": {"z": [1.5, -math.inf], "y": (True, None, 3)}})
    assert (trial.path / "history.jsonl").read_bytes() == b'{"b":null,"a":{"z":[1.5,null],"y":[true,null,3]}}\n'
    path = store.study("mine") / "study.json"
    store.write_json(path, {"b": math.inf, "a": "µ"})
    assert path.read_text() == '{\n "a": "\\u00b5",\n "b": null\n}\n'
    assert store.read_json(path) == {"a": "µ", "b": None}
    assert store.read_json("studies/mine/study.json") == {"a": "µ", "b": None}
    assert store.read_json("studies/mine/none.json") is None
    with pytest.raises(TypeError, match="is a str, not 3"):
        store.write_json(path, {3: 1})


def test_numbers_survive_exactly(trial: TrialDirectory) -> None:
    numbers = [0.1 + 0.2, 1e-320, -0.0, 2**53 + 1, 1.7976931348623157e308, float(2**-1074)]
    trial.append_history({"epoch": 1})
    trial.finish({"outcome": "done", "row": {"numbers": numbers}})
    result = trial.result()
    assert result is not None
    assert [repr(x) for x in result["row"]["numbers"]] == [repr(x) for x in numbers]


def test_listing(store: Store) -> None:
    assert store.keys() == []
    assert store.studies() == []
    for key in (OTHER, KEY):
        store.trial(key).begin({})
    (store.root / "trials" / "00").mkdir(exist_ok=True)
    (store.root / "trials" / "00" / "stray").touch()
    (store.root / "trials" / ".DS_Store").touch()
    store.write_json(store.study("b") / "study.json", {})
    store.write_json(store.study("a") / "study.json", {})
    store.study("empty")
    assert store.keys() == sorted([KEY, OTHER])
    assert store.studies() == ["a", "b"]


def test_listing_many_trials_is_quick(store: Store) -> None:
    keys = sorted(hashlib.sha256(str(i).encode()).hexdigest() for i in range(5000))
    for key in keys:
        os.makedirs(store.root / "trials" / key[:2] / key)
    start = time.perf_counter()
    assert store.keys() == keys
    assert {store.trial(key).outcome() for key in keys} == {"missing"}
    assert time.perf_counter() - start < 3


# Names


@pytest.mark.parametrize("key", ["", "ab", KEY.upper(), KEY + "0", KEY + "\n", "../" + KEY[3:], "g" * 64])
def test_bad_keys(store: Store, key: str) -> None:
    with pytest.raises(StoreError, match="64 lower-case hexadecimal"):
        store.trial(key)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "../x", "a..b", ".hidden", "-x", "x.", "a\n", "n" * 101])
def test_bad_study_names(store: Store, name: str) -> None:
    with pytest.raises(StoreError, match="cannot name a study"):
        store.study(name)
    assert not (store.root / "studies").exists()


@pytest.mark.parametrize("name", ["srelu-wdbc", "Study_1.2", "n" * 100])
def test_good_study_names(store: Store, name: str) -> None:
    assert store.study(name).is_dir()


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".x", "/etc/passwd"])
def test_bad_file_names(trial: TrialDirectory, name: str) -> None:
    with pytest.raises(StoreError, match="plain name"):
        trial.write(name, b"")
    with pytest.raises(StoreError, match="plain name"):
        trial.read(name)


# What is not a store


@pytest.mark.parametrize(
    "stamp",
    [
        {"format": "pliant-store", "version": 2},
        {"format": "pliant-store", "version": "1"},
        {"format": "pliant-store", "version": True},
        {"format": "other", "version": 1},
        {"format": "pliant-store"},
        ["pliant-store", 1],
    ],
)
def test_another_version(tmp_path: Path, stamp: object) -> None:
    path = tmp_path / "store.json"
    path.write_text(json.dumps(stamp))
    with pytest.raises(StoreVersionError) as caught:
        Store(tmp_path)
    message = str(caught.value)
    assert str(path) in message
    assert caught.value.expected in message
    assert caught.value.found in message
    assert "version 1" in caught.value.expected
    assert "another directory" in message
    assert json.loads(path.read_text()) == stamp


def test_a_damaged_stamp(tmp_path: Path) -> None:
    (tmp_path / "store.json").write_text('{"format": ')
    with pytest.raises(StoreError, match=r"store\.json is not JSON"):
        Store(tmp_path)


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="is a file"):
        Store(tmp_path / "file")
    with pytest.raises(StoreError, match="could not use"):
        Store(tmp_path / "file" / "below")


def test_a_strangers_directory_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(StoreError, match="not empty and is no Pliant store"):
        Store(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_no_store_without_create(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no store at"):
        Store(tmp_path / "none", create=False)
    assert not (tmp_path / "none").exists()
    with pytest.raises(StoreError, match="directory is empty"):
        Store(tmp_path, create=False)


def test_an_interrupted_creation_is_taken_up(tmp_path: Path) -> None:
    (tmp_path / ".store.json.123-abcd.tmp").write_bytes(b'{"for')
    Store(tmp_path)
    assert json.loads((tmp_path / "store.json").read_text()) == {"format": "pliant-store", "version": 1}


def test_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "store"
    Store(root)
    if os.geteuid() == 0:
        # Root may write anywhere, so the answer of the system is replaced.
        monkeypatch.setattr(os, "access", lambda *_: False)
    else:
        root.chmod(0o555)
    try:
        with pytest.raises(StoreError, match="cannot be written"):
            Store(root)
        assert Store(root, create=False).keys() == []
    finally:
        root.chmod(0o755)


def test_other_errors_of_the_system_are_explained(trial: TrialDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(StoreError, match="Input/output error"):
            trial.write("checkpoint.safetensors", b"weights")
    assert temporaries(trial.path) == []


def test_a_store_is_created_by_many_at_once(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "store"
    code = "sys.stdin.readline()\nprint(Store(sys.argv[1]).study('s'))"
    processes = [bare(code, root) for _ in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        assert process.communicate(timeout=20)[0] == f"{root / 'studies' / 's'}\n"
        assert process.returncode == 0


def test_a_store_that_another_process_creates_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look = Store._strangers

    def slow_look(store: Store) -> bool:
        with monkeypatch.context() as patch:
            patch.setattr(Store, "_strangers", look)
            Store(tmp_path).trial(KEY).begin({})
        return look(store)

    monkeypatch.setattr(Store, "_strangers", slow_look)
    assert Store(tmp_path).keys() == [KEY]


# History


@pytest.mark.parametrize("torn", [b"{", b'{"epoch":3', b'{"epoch":3}', b"\0\0\0\0", b"{]\n", b"[1]\n", b"\n"])
def test_a_torn_tail_is_ignored_then_cut_off(store: Store, trial: TrialDirectory, torn: bytes) -> None:
    trial.append_history({"epoch": 1})
    trial.append_history({"epoch": 2})
    path = trial.path / "history.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    resumed = store.trial(KEY)
    assert resumed.history() == [{"epoch": 1}, {"epoch": 2}]
    assert path.read_bytes() == whole + torn, "reading changes nothing"
    resumed.append_history({"epoch": 3})
    assert path.read_bytes() == whole + b'{"epoch":3}\n'
    assert resumed.history() == [{"epoch": 1}, {"epoch": 2}, {"epoch": 3}]


def test_a_torn_tail_does_not_enter_a_result(store: Store, trial: TrialDirectory) -> None:
    trial.append_history({"epoch": 1})
    with open(trial.path / "history.jsonl", "ab") as file:
        file.write(b'{"ep')
    resumed = store.trial(KEY)
    resumed.finish({"outcome": "done", "row": {}})
    assert (trial.path / "history.jsonl").read_bytes() == b'{"epoch":1}\n'
    assert resumed.result() is not None


@pytest.mark.parametrize("bad", [b"garbage", b"[1]", b"", b'{"epoch":'])
def test_a_torn_line_in_the_middle_is_an_error(store: Store, trial: TrialDirectory, bad: bytes) -> None:
    path = trial.path / "history.jsonl"
    content = b'{"epoch":1}\n' + bad + b'\n{"epoch":3}\n{"ep'
    path.write_bytes(content)
    for read in (trial.history, lambda: trial.append_history({"epoch": 4}), lambda: trial.truncate_history(1)):
        with pytest.raises(StoreError, match=rf"Line 2 of {path} is not a row"):
            read()
    assert path.read_bytes() == content


def test_truncate(trial: TrialDirectory) -> None:
    trial.truncate_history(0)
    for epoch in range(1, 6):
        trial.append_history({"epoch": epoch})
    with open(trial.path / "history.jsonl", "ab") as file:
        file.write(b'{"ep')
    trial.truncate_history(5)
    assert (trial.path / "history.jsonl").read_bytes().endswith(b'{"epoch":5}\n')
    trial.truncate_history(2)
    assert trial.history() == [{"epoch": 1}, {"epoch": 2}]
    trial.append_history({"epoch": 3})
    assert len(trial.history()) == 3
    with pytest.raises(StoreError, match="must hold the epochs 1 to 4"):
        trial.truncate_history(4)
    trial.truncate_history(0)
    assert trial.history() == []


# Kills


WRITER = """
trial = Store(sys.argv[1]).trial(sys.argv[2])
contents = [bytes([digit]) * size for digit, size in ((48, 300_000), (49, 70_000))]
trial.begin({})
print("writing", flush=True)
n = 0
while True:
    n += 1
    trial.write("checkpoint.safetensors", contents[n % 2])
    trial.append_history({"epoch": n, "filler": "x" * 5000})
"""


def test_a_kill_leaves_the_old_content_or_the_new(store: Store) -> None:
    trial = store.trial(KEY)
    whole = {b"0" * 300_000, b"1" * 70_000}
    rng = random.Random(0)
    written = 0
    for _ in range(24):
        process = bare(WRITER, store.root, KEY)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "writing\n"
            time.sleep(rng.uniform(0.001, 0.08))
        finally:
            end(process)
        assert process.returncode == -signal.SIGKILL
        content = trial.read("checkpoint.safetensors")
        assert content is None or content in whole
        written += content is not None
        rows = trial.history()
        assert all(row["filler"] == "x" * 5000 for row in rows)
        trial = store.trial(KEY)
        trial.append_history({"epoch": 0, "filler": "x" * 5000})
        assert len(trial.history()) == len(rows) + 1
    assert written > 10
    with trial.lock():
        assert temporaries(store.root) == [], "the next holder of the lock sweeps up"


FINISHER = """
import hashlib
store = Store(sys.argv[1])
n = 0
while True:
    n += 1
    trial = store.trial(hashlib.sha256(f"{sys.argv[2]} {n}".encode()).hexdigest())
    with trial.lock():
        trial.begin({"n": n})
        trial.append_history({"epoch": 1})
        trial.write("checkpoint.safetensors", b"c" * 1000)
        trial.write("predictions.safetensors", os.urandom(1000))
        trial.finish({"outcome": "done", "row": {"n": n}})
    print(n, flush=True)
"""


def test_a_kill_leaves_trials_finished_and_whole_or_not_finished(store: Store) -> None:
    rng = random.Random(1)
    for round_ in range(12):
        process = bare(FINISHER, store.root, round_)
        try:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(rng.uniform(0.001, 0.1))
        finally:
            end(process)
    outcomes = []
    keys = store.keys()
    for key in keys:
        trial = store.trial(key)
        outcomes.append(trial.outcome())
        assert (trial.result() is None) == (outcomes[-1] == "missing")
        with trial.lock():
            pass
    assert outcomes.count("missing") <= 12
    assert outcomes.count("done") >= 12


# Full disks


@pytest.fixture(params=[errno.ENOSPC, errno.EDQUOT], ids=["disk", "quota"])
def full(request: pytest.FixtureRequest) -> Callable[..., None]:
    def refuse(*_: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    return refuse


@pytest.mark.parametrize("call", ["write", "fsync", "open", "mkdir"])
def test_a_full_disk_loses_nothing_finished(
    store: Store, trial: TrialDirectory, full: Callable[..., None], call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(trial)
    before = trial.result()
    other = store.trial(OTHER)
    if call != "mkdir":
        other.begin({})
        other.append_history({"epoch": 1})
        other.write("checkpoint.safetensors", b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        writes: list[Callable[[], None]] = [
            lambda: other.begin({}) if call == "mkdir" else other.write("checkpoint.safetensors", b"new"),
            lambda: other.finish({"outcome": "done", "row": {}}),
            lambda: other.fail("error", 1),
            lambda: store.write_json(store.study("mine") / "study.json", {}),
        ]
        for write in writes:
            with pytest.raises(StorageFullError, match="no space left") as caught:
                write()
            assert isinstance(caught.value, PliantError)
    assert temporaries(store.root) == []
    assert other.outcome() == "missing"
    assert trial.result() == before
    if call != "mkdir":
        assert other.read("checkpoint.safetensors") == b"old"
        assert other.history() == [{"epoch": 1}]
        other.append_history({"epoch": 2})
        other.finish({"outcome": "done", "row": {}})
        assert other.outcome() == "done"


def test_a_history_row_that_does_not_fit_leaves_no_part(trial: TrialDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    trial.append_history({"epoch": 1})
    write = os.write

    def half(fd: int, data: Any) -> int:
        if len(data) < 8:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(StorageFullError):
            trial.append_history({"epoch": 2})
    assert (trial.path / "history.jsonl").read_bytes() == b'{"epoch":1}\n'


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    mounted = sys.platform == "linux" and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", path], capture_output=True, text=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip(f"a file system of 256 KiB cannot be mounted here: {mounted.stderr if mounted else sys.platform}")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    store = Store(small_disk / "store")
    trial = store.trial(KEY)
    trial.begin({})
    finish(trial)
    before = trial.result()
    other = store.trial(OTHER)
    other.begin({})
    other.append_history({"epoch": 1})
    other.write("checkpoint.safetensors", b"old")
    with pytest.raises(StorageFullError, match="no space left"):
        other.write("checkpoint.safetensors", b"n" * 400_000)
    with pytest.raises(StorageFullError, match="no space left"):  # noqa: PT012
        for epoch in range(2, 1000):
            other.append_history({"epoch": epoch, "filler": "x" * 1000})
    rows = other.history()
    assert len(rows) > 10
    assert (other.path / "history.jsonl").read_bytes().endswith(b"}\n")
    with pytest.raises(StorageFullError):
        other.finish({"outcome": "done", "row": {"filler": "x" * 10_000}})
    assert temporaries(store.root) == []
    assert other.outcome() == "missing"
    assert other.read("checkpoint.safetensors") == b"old"
    assert store.trial(KEY).result() == before
    other.truncate_history(5)
    other.finish({"outcome": "done", "row": {}})
    assert other.outcome() == "done"


# Flipped bits


@pytest.mark.parametrize("name", ["predictions.safetensors", "history.jsonl"])
def test_a_flipped_bit_is_found(trial: TrialDirectory, name: str) -> None:
    finish(trial)
    path = trial.path / name
    data = bytearray(path.read_bytes())
    data[2] ^= 1
    path.write_bytes(data)
    assert trial.outcome() == "done"
    with pytest.raises(StoreError, match=f"{path} is damaged"):
        trial.result()
    assert trial.result(verify_files=False) is not None
    path.unlink()
    with pytest.raises(StoreError, match=f"{path} is damaged"):
        trial.result()


def test_a_changed_number_in_a_result_is_found(trial: TrialDirectory) -> None:
    finish(trial, accuracy=0.5)
    path = trial.path / "result.json"
    path.write_text(path.read_text().replace("0.5", "0.9"))
    with pytest.raises(StoreError, match=r"result\.json is damaged"):
        trial.result(verify_files=False)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"outcome": "done"}', '{"outcome": "odd", "files": {}}'])
def test_a_result_that_is_none_is_not_taken_for_one(trial: TrialDirectory, content: str) -> None:
    (trial.path / "result.json").write_text(content)
    for read in (trial.outcome, trial.result):
        with pytest.raises(StoreError, match=r"result\.json is"):
            read()


def test_a_result_cannot_name_files_elsewhere(trial: TrialDirectory) -> None:
    record = {"outcome": "done", "row": {}, "files": {"../../../store.json": "0"}}
    (trial.path / "result.json").write_text(json.dumps({**record, "sha256": module._checksum(record)}))
    with pytest.raises(StoreError, match="plain name"):
        trial.result()


# Locks


HOLDER = """
trial = Store(sys.argv[1]).trial(sys.argv[2])
with trial.lock():
    print(os.getpid(), flush=True)
    sys.stdin.readline()
print("released", flush=True)
sys.stdin.readline()
"""


def test_one_trainer_at_a_time(store: Store, trial: TrialDirectory) -> None:
    process = bare(HOLDER, store.root, KEY)
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        pid = process.stdout.readline().strip()
        with pytest.raises(TrialBusyError, match=rf"by process {pid} on "), trial.lock():
            raise AssertionError
        with store.trial(OTHER).lock():
            pass
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "released\n"
        with trial.lock():
            pass
        assert not (trial.path / "lock").exists()
    finally:
        end(process)


def test_a_killed_trainer_holds_nothing(store: Store, trial: TrialDirectory) -> None:
    process = bare(HOLDER, store.root, KEY)
    assert process.stdout is not None
    process.stdout.readline()
    end(process)
    assert (trial.path / "lock").exists()
    with trial.lock(), pytest.raises(TrialBusyError, match=rf"by process {os.getpid()} "), trial.lock():
        raise AssertionError


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_of_a_killed_trainer_holds_nothing(store: Store, trial: TrialDirectory) -> None:
    code = """
import time
trial = Store(sys.argv[1]).trial(sys.argv[2])
with trial.lock():
    if not os.fork():
        print(os.getpid(), flush=True)
    time.sleep(60)
"""
    process = bare(code, store.root, KEY)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        with pytest.raises(TrialBusyError), trial.lock():
            raise AssertionError
        process.kill()
        process.wait()
        with trial.lock():
            os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)
        end(process)


@pytest.mark.skipif(sys.platform == "win32", reason="needs flock")
def test_a_lock_on_a_file_that_its_holder_has_just_removed(trial: TrialDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    flock = fcntl.flock
    removed: list[bool] = []

    def late(fd: int, operation: int) -> None:
        if not removed:
            (trial.path / "lock").unlink()
            removed.append(True)
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with trial.lock(), pytest.raises(TrialBusyError), trial.lock():
        raise AssertionError
    assert removed


def test_an_error_inside_releases(trial: TrialDirectory) -> None:
    with pytest.raises(OSError, match="the trainer's own"), trial.lock():
        raise OSError("the trainer's own")
    with trial.lock():
        pass


CONTENDER = """
from pliant.lab.store import TrialBusyError
trial = Store(sys.argv[1]).trial(sys.argv[2])
won = 0
while won < 50:
    try:
        with trial.lock():
            os.close(os.open(trial.path / "inside", os.O_CREAT | os.O_EXCL))
            os.unlink(trial.path / "inside")
            won += 1
    except TrialBusyError:
        pass
print(won)
"""


def test_a_lock_is_never_held_twice(store: Store, trial: TrialDirectory) -> None:
    processes = [bare(CONTENDER, store.root, KEY) for _ in range(3)]
    for process in processes:
        assert process.communicate(timeout=30)[0] == "50\n"


def test_the_lock_of_platforms_without_flock(trial: TrialDirectory) -> None:
    path = trial.path / "lock"
    fd = module._acquire_by_creation(path)
    with pytest.raises(TrialBusyError):
        module._acquire_by_creation(path)
    module._release_creation(path, fd)
    module._release_creation(path, module._acquire_by_creation(path))


# The arrow


def test_the_store_imports_the_standard_library_only() -> None:
    process = bare("print(json.dumps(sorted({name.partition('.')[0] for name in set(sys.modules) - before})))")
    output, _ = process.communicate(timeout=30)
    assert set(json.loads(output)) - sys.stdlib_module_names == {"pliant"}
