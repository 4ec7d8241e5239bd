"""A campaign of faults at random moments: after each the same command finishes the study with the same numbers.

The short ones run always. ``pytest -m slow -s tests/lab/test_faults.py`` runs each many times and prints what survived.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import driver
import pytest
from test_executors import wait_for

from pliant.lab import run
from pliant.lab.fsck import check
from pliant.lab.merge import merge
from pliant.lab.result import Result
from pliant.lab.store import Store

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="faults are made with signals and /proc")

PATIENCE = 1800.0
"""Seconds; a machine that does ten other things takes minutes for a study of seconds."""

Fault = Callable[[subprocess.Popen[bytes], Path, random.Random], str]


def numbers(result: Result) -> list[dict[str, object]]:
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in result.rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return run(driver.STUDY, store=tmp_path_factory.mktemp("faults") / "whole", stack=1)


def start(store: Path, on: str, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, driver.__file__, str(store), on, "1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, **environment},
    )


def children(pid: int) -> list[int]:
    found = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                found += [int(child), *children(int(child))]
    return found


def workers(process: subprocess.Popen[bytes]) -> list[int]:
    found = []
    for pid in children(process.pid):
        with contextlib.suppress(OSError):
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def under_way(store: Path) -> bool:
    return any(store.glob("trials/*/*/checkpoint.safetensors"))


def orders(store: Path) -> Path:
    """What the driver obeys, see driver.py; not on the store's disk, which may be full."""
    folder = Path(tempfile.gettempdir()) / f"pliant-faults-{os.getpid()}-{store.name}"
    folder.mkdir(exist_ok=True)
    return folder


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", path], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a file system of 24 MiB cannot be mounted here: {mounted.stderr}")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


# The faults: each says what it did, or "" when there was nothing left to hit


def kill_the_driver(process: subprocess.Popen[bytes], store: Path, chance: random.Random) -> str:
    process.kill()
    return "driver killed"


def kill_everything(process: subprocess.Popen[bytes], store: Path, chance: random.Random) -> str:
    os.killpg(process.pid, signal.SIGKILL)
    return "driver and workers killed"


def kill_a_worker(process: subprocess.Popen[bytes], store: Path, chance: random.Random) -> str:
    found = workers(process)
    for pid in found[:1]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return "worker killed" if found else ""


def stop_a_worker(process: subprocess.Popen[bytes], store: Path, chance: random.Random) -> str:
    """A hung trial: it lives and does nothing any more."""
    found = workers(process)
    for pid in found[:1]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    return "worker hung" if found else ""


def flip_a_bit(process: subprocess.Popen[bytes], store: Path, chance: random.Random) -> str:
    """In a file that is not being written: the run is killed first, as by the power failure that broke the disk."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    files = [p for p in sorted(store.glob("trials/*/*/[!.l]*")) if p.stat().st_size]
    if not files:
        return ""
    path = chance.choice(files)
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    return f"bit flipped in {path.name}"


def start_a_second_driver(process: subprocess.Popen[bytes], store: Path, chance: random.Random) -> str:
    second = start(store, "serial")
    time.sleep(chance.uniform(0, 4))
    process.kill()
    second.communicate(timeout=PATIENCE)
    assert second.returncode == 0
    return "a second driver took over"


def turn_the_clock(process: subprocess.Popen[bytes], store: Path, chance: random.Random) -> str:
    """The clock of the file server and of what ran before jumps: by years, in both directions."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for path in store.rglob("*"):
        with contextlib.suppress(OSError):
            moment = time.time() + chance.choice([-1, 1]) * chance.uniform(3600, 10**8)
            os.utime(path, (moment, moment))
    return "clock turned"


def jump_the_clock(process: subprocess.Popen[bytes], store: Path, chance: random.Random) -> str:
    """Under the run, and more than once: by years, in both directions."""
    jumps = 0
    while process.poll() is None:
        orders(store).joinpath("clock").write_text(str(chance.choice([-1, 1]) * chance.uniform(3600, 10**8)))
        jumps += 1
        time.sleep(chance.uniform(0.2, 2))
    assert process.returncode == 0
    return f"clock jumped {jumps} times"


def swell_a_worker(process: subprocess.Popen[bytes], store: Path, chance: random.Random) -> str:
    """Out of memory: it takes two gigabytes more than it is allowed."""
    found = workers(process)
    for pid in found[:1]:
        orders(store).joinpath("swell").write_text(str(pid))
    return "worker out of memory" if found else ""


def fill_the_disk(process: subprocess.Popen[bytes], store: Path, chance: random.Random) -> str:
    """The run stops by itself and says so; then there is space again."""
    ballast = store.parent / "ballast"
    with open(ballast, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    try:
        said = process.communicate(timeout=PATIENCE)[1]
    finally:
        ballast.unlink()
    if process.returncode == 0:
        return ""
    assert b"no space left" in said, said.decode()
    return "disk full"


def copy_half(process: subprocess.Popen[bytes], store: Path, chance: random.Random) -> str:
    """The store is copied while it is written, the copy is cut short, and what is whole of it is merged into a new one."""
    copy = store.with_name(store.name + "-copy")
    shutil.copytree(store, copy, ignore_dangling_symlinks=True, ignore=shutil.ignore_patterns("*.tmp", "lock"))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    files = sorted(copy.glob("trials/*/*/*"))
    for path in chance.sample(files, len(files) // 3):
        os.truncate(path, chance.randrange(path.stat().st_size + 1))
    shutil.rmtree(store)
    found = merge(Store(copy, create=False), Store(store))
    shutil.rmtree(copy)
    return f"{len(found.copied)} trials saved from half a copy"


def survive(whole: Result, store: Path, on: str, fault: Fault, chance: random.Random) -> str:
    """One fault, then the same command to the end. The fault in words, or "" when the study was over before it."""
    process = start(store, on, PLIANT_FAULTS_FOLDER=str(orders(store)))
    try:
        if chance.random() < 0.7:
            wait_for(lambda: under_way(store) or process.poll() is not None, PATIENCE)
        time.sleep(chance.uniform(0, 1.5))
        if process.poll() is not None or not store.exists():
            return ""
        told = fault(process, store, chance)
        if fault in (kill_a_worker, stop_a_worker, swell_a_worker):
            # The driver mends it by itself.
            process.communicate(timeout=PATIENCE)
            assert process.returncode == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        shutil.rmtree(orders(store))
    if "bit flipped" in told:
        check(Store(store), repair=True)
    again = run(driver.STUDY, store=store, stack=1)
    assert numbers(again) == numbers(whole)
    rest = check(Store(store))
    assert not rest.redo
    assert not [f for f in rest.findings if f.kind != "leftover"]
    for file in store.rglob("*.json"):
        json.loads(file.read_text())
    return told


FAULTS: list[tuple[str, Fault]] = [
    ("serial", kill_the_driver),
    ("local:2", kill_the_driver),
    ("local:2", kill_everything),
    ("local:2", kill_a_worker),
    ("local:2,silent_minutes=0.5", stop_a_worker),
    ("serial", flip_a_bit),
    ("local:2", start_a_second_driver),
    ("local:2,memory_gb=2", swell_a_worker),
    ("serial", fill_the_disk),
    ("local:2", fill_the_disk),
    ("serial", turn_the_clock),
    ("local:2", jump_the_clock),
    ("serial", copy_half),
]
NAMES = [f"{on.partition(',')[0]}-{fault.__name__}" for on, fault in FAULTS]


@pytest.mark.slow
@pytest.mark.parametrize(("on", "fault"), FAULTS, ids=NAMES)
def test_campaign(whole: Result, tmp_path: Path, on: str, fault: Fault) -> None:
    times = int(os.environ.get("PLIANT_FAULTS", "8"))
    chance = random.Random(NAMES.index(f"{on.partition(',')[0]}-{fault.__name__}"))
    tried = missed = 0
    with small_disk(tmp_path / "disk") if fault is fill_the_disk else contextlib.nullcontext(tmp_path) as folder:
        while tried < times:
            store = folder / str(tried + missed)
            told = survive(whole, store, on, fault, chance)
            shutil.rmtree(store, ignore_errors=True)
            tried += bool(told)
            missed += not told
            assert missed < 3 * times
    print(f"\n{fault.__name__} on {on}: survived {tried} of {tried}, trials lost 0")


@pytest.mark.parametrize("fault", [flip_a_bit, copy_half], ids=["flip_a_bit", "copy_half"])
def test_once(whole: Result, tmp_path: Path, fault: Fault) -> None:
    """The faults that need no second process to die, in a store that is finished."""

    class Ended:
        pid = -1

        def wait(self) -> None: ...

    chance = random.Random(5)
    for round_ in range(4):
        store = tmp_path / str(round_)
        shutil.copytree(whole.store.root, store)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "killpg", lambda *_: None)
            told = fault(Ended(), store, chance)  # type: ignore[arg-type]
        assert told
        if fault is flip_a_bit:
            found = check(Store(store), repair=True)
            assert len(found.redo) == 1, told
        waiting = [s for s in whole.trials if Store(store).trial(s.key).outcome() == "missing"]
        assert waiting
        if round_ == 0:
            assert numbers(run(driver.STUDY, store=store, stack=1)) == numbers(whole)
