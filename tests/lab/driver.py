"""A study run as a program of its own, so that tests can kill it: python driver.py STORE EXECUTOR STACK.

With PLIANT_FAULTS_FOLDER it and its workers look there for what no signal can bring about: "clock" holds seconds by which their
clock is wrong, "swell" the id of a process that is to hold two gigabytes more.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

from pliant.lab import Study, run

STUDY = Study(
    name="killed",
    dataset="wdbc",
    model={"name": "ffnn", "options": {"width": 64}},
    activations=["relu", "dsrelu", "arelu"],
    folds=2,
    repeats=2,
    epochs=60,
)


def _obey(folder: Path) -> None:
    right = time.time
    wrong, kept = 0.0, []

    def obey() -> None:
        nonlocal wrong
        while not kept:
            time.sleep(0.02)
            try:
                wrong = float((folder / "clock").read_text() or 0) if (folder / "clock").exists() else 0.0
                if (folder / "swell").exists() and int((folder / "swell").read_text() or 0) == os.getpid():
                    kept.append(b"\1" * 2 * 10**9)
                    time.sleep(600)
            except (OSError, ValueError):
                continue

    time.time = lambda: right() + wrong
    threading.Thread(target=obey, daemon=True).start()


# Spawned workers import this file, too.
if "PLIANT_FAULTS_FOLDER" in os.environ:
    _obey(Path(os.environ["PLIANT_FAULTS_FOLDER"]))

if __name__ == "__main__":
    print("running", flush=True)
    result = run(STUDY, store=sys.argv[1], on=sys.argv[2], checkpoint_every=0, stack=int(sys.argv[3]))
    sys.exit(0 if result.counts["done"] == len(result.trials) else 1)
