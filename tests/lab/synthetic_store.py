"""A store of made-up finished trials of a real study: what a report of many thousand trials is measured on."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from pliant.lab import papers
from pliant.lab.store import HISTORY, PREDICTIONS, Store
from pliant.lab.study import Study, TrialSpec, plan

SITES = ("act1", "act2")
MOVED = {"prelu": ("weight",), "arelu": "abcd", "asigmoid": "abcd", "atanh": "abcd", "swish": ("beta",), "pelu": "ab"}
METRICS = ("accuracy", "precision", "recall", "f1", "f1_weighted", "precision_weighted", "auc", "average_precision")
VARIANTS = 12
"""Different courses of training per activation; every trial of 10,000 need not have its own."""


def study_of(repeats: int, epochs: int, activations: Iterable[str] = ()) -> Study:
    """srelu-wdbc at 16 activations and 5 folds, so ``repeats`` times 80 trials."""
    own = papers.study("srelu-wdbc", "lite")
    return own.model_copy(
        update={
            "activations": tuple(activations) or own.activations,
            "protocol": own.protocol.model_copy(update={"repeats": repeats}),
            "train": own.train.model_copy(update={"epochs": epochs}),
        }
    )


@functools.cache
def _course(activation: str, epochs: int, variant: int) -> tuple[bytes, dict[str, Any]]:
    """History and curves of one training."""
    rng = np.random.default_rng([variant, *activation.encode()])
    t = np.arange(1, epochs + 1)
    train = 0.65 * np.exp(-t / 8) + 0.02 + rng.normal(0, 0.002, epochs)
    validation = train + 0.04 + 0.0006 * t + rng.normal(0, 0.006, epochs)
    curves: dict[str, Any] = {
        "steps_per_epoch": 4,
        "seconds": np.abs(rng.normal(0.03, 0.001, epochs)).tolist(),
        "train_loss": train.tolist(),
        "train_accuracy": np.clip(1 - 0.36 * train, 0, 1).tolist(),
        "validation_loss": validation.tolist(),
        "validation_accuracy": np.clip(1 - 0.3 * validation, 0, 1).tolist(),
    }
    name = activation.split("[")[0]
    moved = {
        (site, c): 0.5 + rng.normal(0.2, 0.08) * (1 - np.exp(-t / 25)) * (1 + k)
        for k, site in enumerate(SITES)
        for c in MOVED.get(name, ())
    }
    if name == "dsrelu":
        moved = {(site, "slope"): 3.7 - 3.5 * t / epochs for site in SITES}
    lines = []
    for i in range(epochs):
        row: dict[str, Any] = {k: v[i] for k, v in curves.items() if isinstance(v, list)} | {"epoch": i + 1}
        row["coefficients"] = {}
        row["increments"] = {f"{site}.weight": 0.1 / (i + 1) for site in SITES}
        row["single_weights"] = {f"{SITES[0]}.weight": [0.01 / (i + 1), -0.02 / (i + 1), 0.0, 0.001]}
        for (site, c), values in moved.items():
            row["coefficients"].setdefault(site, {})[c] = float(values[i])
        lines.append(json.dumps(row, sort_keys=True, separators=(",", ":")))
    return "\n".join(lines).encode() + b"\n", curves


def finish(store: Store, spec: TrialSpec, outcome: str = "done") -> None:
    """One finished trial, as a training leaves it."""
    name = spec.activation.split("[")[0]
    rng = np.random.default_rng([spec.repeat, spec.fold, *name.encode()])
    history, curves = _course(spec.activation, spec.train.epochs, (spec.repeat * 5 + spec.fold) % VARIANTS)
    trial = store.trial(spec.key)
    trial.begin(spec.model_dump(mode="json"))
    trial.write(HISTORY, history)
    target = (np.arange(114) % 8 < 3).astype(np.int64)
    score = 1 / (1 + np.exp(-(6 * target - 3 + rng.normal(0, 1.6, 114))))
    trial.write(PREDICTIONS, safetensors.numpy.save({"test_target": target, "test_score": score.astype(np.float32)}))
    accuracy = float(((score > 0.5) == target).mean())
    row: dict[str, Any] = {"n_train": 409, "n_validation": 46, "n_test": 114}
    for split, shift in (("train", 0.02), ("validation", 0.004), ("test", 0.0)):
        for metric in METRICS:
            row[f"{split}_{metric}"] = min(1.0, accuracy + shift)
            row[f"{split}_{metric}_last"] = min(1.0, accuracy + shift)
        row |= {f"{split}_loss": 0.1 + float(rng.normal(0, 0.01)), f"{split}_loss_last": 0.12}
    trial.finish(
        {
            "outcome": outcome,
            "row": row
            | {
                "gap": 0.016,
                "gap_last": 0.02,
                "selected_epoch": min(40, spec.train.epochs),
                "epochs": spec.train.epochs,
                "steps": 4 * spec.train.epochs,
                "lr": 1e-3,
                "parameters": 279_041,
                "activation_parameters": 2 * len(MOVED.get(name, ())),
                "seconds": 3.0,
                "seconds_per_epoch": 0.03 + 0.002 * len(MOVED.get(name, ())),
                "device": "cpu",
            },
            "curves": curves,
            "provenance": {"torch": "2", "numpy": "2", "python": "3"},
        }
    )


def filled(root: Path, study: Study) -> Store:
    """A store with every trial of ``study`` finished."""
    store = Store(root)
    for spec in plan(study):
        finish(store, spec)
    return store


def many(root: Path, study: Study, kinds: int = 60) -> Store:
    """A store with every trial of a large study finished: ``kinds`` of each activation, the others as copies of their files."""
    store = Store(root)
    models: dict[tuple[str, int], list[tuple[str, bytes]]] = {}
    for spec in plan(study):
        place = spec.repeat * study.protocol.folds + spec.fold
        path = store.trial(spec.key).path
        if place < kinds:
            finish(store, spec)
            models[spec.activation, place] = [(file.name, file.read_bytes()) for file in path.iterdir()]
            continue
        path.mkdir(parents=True)
        for name, content in models[spec.activation, place % kinds]:
            (path / name).write_bytes(content)
    return store
