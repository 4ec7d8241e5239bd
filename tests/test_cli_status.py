"""pliant status: a study that another process runs, watched from here, killed, and gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ARGUMENTS = ["srelu-wdbc", "--folds", "2", "--repeats", "1", "--set", "model.options.width=8", "-a", "srelu"]
PROGRAM = "from pliant.cli import main\nif __name__ == '__main__':\n    main()\n"
PATIENCE = 100


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    (folder / "pliant_main.py").write_text(PROGRAM)
    return subprocess.Popen(
        [sys.executable, "pliant_main.py", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def until_running(pliant, epoch: int = 2) -> dict[str, object]:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if list(Path("pliant-store").glob("studies/*/trials.json")):
            (found,) = json.loads(pliant("status", "--json")[1])
            if found["state"] == "running" and any(t["epoch"] >= epoch for t in found["running"]):
                return found
        time.sleep(0.2)
    raise AssertionError("no trial was seen running")


def test_a_run_is_watched_from_another_process(pliant, tmp_path: Path) -> None:
    driver = start(tmp_path, "run", *ARGUMENTS, "--set", "train.epochs=300", "--on", "serial")
    try:
        found = until_running(pliant)
        assert found["trials"] == 4
        assert sum(found["counts"].values()) == 4
        assert found["seconds_left"] > 0
        assert found["drivers"][0]["pid"] == driver.pid
        assert found["running"][0]["epochs"] == 300
        _, out, _ = pliant("status", "srelu-wdbc")
        assert "running for" in out
        assert f"(process {driver.pid})" in out
        assert "of 300" in out
        code, out, _ = pliant("status", "--watch", "--every", "0.2")
        assert code == 0
        assert out.rstrip().endswith("4 done of 4 trials")
        printed, _ = driver.communicate(timeout=PATIENCE)
        assert driver.returncode == 0, printed
    finally:
        driver.kill()
        driver.communicate()
    assert "\x1b" not in printed, "a pipe is no terminal"
    assert "4 trials trained" in printed
    assert not list(tmp_path.glob("pliant-store/studies/*/driver-*"))
    (found,) = json.loads(pliant("status", "--json")[1])
    assert (found["state"], found["counts"]["done"], found["running"]) == ("finished", 4, [])


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs POSIX signals")
def test_a_killed_driver_is_shown_as_stopped(pliant, tmp_path: Path) -> None:
    driver = start(tmp_path, "run", *ARGUMENTS, "--set", "train.epochs=100000", "--on", "local:1")
    try:
        until_running(pliant)
        os.kill(driver.pid, signal.SIGKILL)
    finally:
        driver.kill()
        driver.communicate()
    deadline = time.monotonic() + PATIENCE
    # The workers notice that their driver is gone, in their own time.
    while json.loads(pliant("status", "--json")[1])[0]["running"] and time.monotonic() < deadline:
        time.sleep(0.2)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("pliant-store/**/*")}
    code, out, _ = pliant("status")
    assert code == 0
    assert f"stopped: process {driver.pid} died" in out
    assert "goes on from here" in out
    code, out, _ = pliant("status", "--watch", "--every", "0.2")
    assert code == 1, "nobody trains what is left"
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.glob("pliant-store/**/*")}, "status only reads"
    assert json.loads(pliant("status", "--json")[1])[0]["counts"]["missing"] == 4


def test_no_such_study_and_no_store(pliant, tmp_path: Path) -> None:
    code, _, err = pliant("status")
    assert code == 2
    assert "There is no store" in err
    assert not Path("pliant-store").exists()
    assert pliant("run", *ARGUMENTS, "--set", "train.epochs=1", "--on", "serial", "-q")[0] == 0
    code, _, err = pliant("status", "srelu-wbdc")
    assert code == 2
    assert "Did you mean 'srelu-wdbc" in err
