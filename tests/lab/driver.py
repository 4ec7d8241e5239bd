"""A study run as a program of its own, so that tests can kill it: python driver.py STORE EXECUTOR STACK."""

from __future__ import annotations

import sys

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

if __name__ == "__main__":
    print("running", flush=True)
    result = run(STUDY, store=sys.argv[1], on=sys.argv[2], checkpoint_every=0, stack=int(sys.argv[3]))
    sys.exit(0 if result.counts["done"] == len(result.trials) else 1)
